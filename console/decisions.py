"""Write down what a person decided: a held day or file let through, a conflict settled. Not here: applying it."""

from billing_pipeline.errors import BillingError
from console.days import read_day
from console.near import did_you_mean
from console.screen import page
from resources.conflict_store import decide
from resources.guard_store import release as let_through
from resources.runtime import running
from resources.settings import Settings
from resources.status_reader import read_refused_files, read_status


class NothingHeldError(BillingError):
    """The guard that was named holds nothing."""


def release(settings: Settings, asset: str, day: str, guard: str, *, actor: str, reason: str) -> None:
    """Release the guard's hold over the day of the asset, and say what to run next.

    Raises:
        NothingHeldError: no such guard holds that day; the message names what is held.
    """
    key = read_day(day).isoformat()
    with running(settings) as runtime:
        held = [one for one in read_status(runtime.database).verdicts if one.status == "held"]
        if not any((one.asset, one.partition_key, one.guard) == (asset, key, guard) for one in held):
            wanted = f"{asset} {key} {guard}"
            names = [f"{one.asset} {one.partition_key} {one.guard}" for one in held]
            instead = did_you_mean(wanted, names) if names else "Nothing is held."
            raise NothingHeldError(
                f"No guard {guard} holds {asset} on {key}. {instead}",
                bill="Nothing changed; what is held stays held.",
                fix="Take asset, day and guard from `billing status`.",
            )
        let_through(runtime.database, asset=asset, partition_key=key, guard=guard, actor=actor, reason=reason)
    page().print(f"Released: {guard} of {asset} on {key}, by {actor}. It holds for the inputs that were judged.")
    page().print(f"Next: billing materialize --day {key}")


def accept_file(settings: Settings, key: str, *, actor: str, reason: str) -> None:
    """Let the newest held file of that key be read beside the one that was read before, and say what to run next.

    Raises:
        NothingHeldError: no file of that key is held; the message names those that are.
    """
    # The asset's own store: it alone changes the manifest.
    from resources.stores import open_stores

    with running(settings) as runtime:
        held = [one for one in read_refused_files(runtime.database) if one.status == "held"]
        matching = [one for one in held if one.key == key]
        if not matching:
            instead = did_you_mean(key, {one.key for one in held}) if held else "Nothing is held."
            raise NothingHeldError(
                f"No file {key} is held. {instead}",
                bill="Nothing changed; what is held stays held.",
                fix="Take the file's key from `billing quarantine`.",
            )
        newest = max(matching, key=lambda one: one.file_id)
        stores = open_stores(settings, runtime.database)
        of_storage = newest.source in stores.storage.source_names
        store = stores.storage if of_storage else stores.requests
        store.accept_held(newest.file_id, actor=actor, reason=reason)
    console = page()
    console.print(f"Accepted: {newest.key} of {newest.source}, by {actor}.", markup=False)
    console.print("Requests that were counted before stay counted once; those that it contradicts become conflicts.")
    console.print("Next: billing materialize")


def decide_conflict(settings: Settings, source: str, event_id: str, content: str, *, actor: str, reason: str) -> None:
    """Write which version of the request counts, and say what to run next."""
    with running(settings) as runtime:
        days = decide(
            runtime.database,
            source=source,
            event_id=event_id,
            content_sha256=content,
            actor=actor,
            reason=reason,
        )
    page().print(f"Decided: {source} {event_id}, version {content}, by {actor}.")
    for day in days:
        page().print(f"Next: billing materialize --day {day}")
