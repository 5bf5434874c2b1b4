"""Guards of a day's storage: facts of the day -> verdicts. Pure.

Bytes x microseconds are integers here, so that equal means equal. Not here: counting (sql/storage_facts), keeping verdicts.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from billing_pipeline.checks import Subject, Verdict, VerdictStatus
from billing_pipeline.storage_policy import OnFailure, StoragePolicy

KEEPS = "For the bill: the day keeps its last good usage, or none."
# A snapshot that was refused, or waits for a person, gives no row: sizes are carried forward as if none had come.
NOT_TAKEN = ("core/storage_snapshots", "snapshots_sound")


@dataclass(frozen=True, slots=True, kw_only=True)
class Integrals:
    """Bytes x microseconds of a day, each made in a way of its own.

    `of_segments`: states x their length. `of_changes`: each change x what is left of the day. `of_accounts`: states in an
    account. `of_hours`: the hours of accounts. `private_*`: the private part of the last two.
    """

    of_segments: int
    of_changes: int
    of_accounts: int
    of_hours: int
    private_of_accounts: int
    private_of_hours: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """A snapshot that says something else than the events before it."""

    repository: str
    at: datetime
    expected: str
    actual: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """A repository that is carried further than its snapshots may be. `source`: who gave the last of them; None: it has none."""

    repository: str
    source: str | None
    snapshot_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldDelivery:
    """A guard that holds a delivery day of a dataset, of which the day is made or which it should be made of."""

    dataset: str
    delivery_day: str
    guard: str

    @property
    def is_carried(self) -> bool:
        """Tell whether nothing of what is held counts, so that the state before it goes on."""
        return (self.dataset, self.guard) == NOT_TAKEN


def deliveries_sound(subject: Subject, held: Collection[HeldDelivery]) -> Verdict:
    """Hold a day whose events may not be whole; warn of one whose snapshots were not all taken."""
    named = ", ".join(f"{one.dataset} of {one.delivery_day} ({one.guard})" for one in held)
    status, message = VerdictStatus.PASSED, "No delivery that the day is made of is held."
    if any(not one.is_carried for one in held):
        status = VerdictStatus.HELD
        message = (
            f"Deliveries that the day is made of are held: {named}. {KEEPS} To fix: see what holds the delivery day; deliver "
            "what is missing, or release it there, then build this day."
        )
    elif held:
        status = VerdictStatus.WARNED
        message = (
            f"Snapshots were not taken: {named}. For the bill: sizes are carried forward from the snapshot before, for as long "
            "as its source allows. To fix: deliver a sound snapshot, or accept the one that is held."
        )
    return _verdict(subject, "deliveries_sound", status, "no delivery of the day is held", named or "none is", message)


def rows_read(subject: Subject, *, in_lake: int, read: int) -> Verdict:
    """Hold a day of which other rows were read than the lake's generations hold."""
    is_equal = in_lake == read
    return _verdict(
        subject,
        "rows_read",
        VerdictStatus.PASSED if is_equal else VerdictStatus.HELD,
        f"{in_lake} rows in the lake",
        f"{read} rows read",
        "Every event and snapshot of the day's lake files was read."
        if is_equal
        else f"The lake's files of the day hold {in_lake} rows and {read} were read. {KEEPS} "
        "To fix: ingest the day's deliveries again, then build this day.",
    )


def no_conflict(subject: Subject, conflicts: int) -> Verdict:
    """Warn of events that were delivered with several contents on different days."""
    return _verdict(
        subject,
        "no_conflict",
        VerdictStatus.WARNED if conflicts else VerdictStatus.PASSED,
        "0 events with different contents",
        f"{conflicts} events with different contents",
        "No event was delivered with two contents."
        if not conflicts
        else f"{conflicts} events were delivered with different contents under one id. For the bill: none of them counts; the next "
        "snapshot corrects the sizes. To fix: find which delivery is forged or broken.",
    )


def bytes_conserved(subject: Subject, integrals: Integrals) -> Verdict:
    """Hold a day whose integral of bytes over time is not the same from states, from changes, and from hours."""
    found = integrals
    is_conserved = (
        found.of_segments == found.of_changes
        and found.of_accounts == found.of_hours
        and found.private_of_accounts == found.private_of_hours
    )
    return _verdict(
        subject,
        "bytes_conserved",
        VerdictStatus.PASSED if is_conserved else VerdictStatus.HELD,
        f"{found.of_segments} byte-us of states, {found.of_accounts} in accounts, {found.private_of_accounts} private",
        f"{found.of_changes} byte-us by changes, {found.of_hours} by hour, {found.private_of_hours} private",
        "Byte-seconds of states, of their changes, and of accounts by hour are the same."
        if is_conserved
        else f"Byte-seconds were lost or counted twice between states and hours (see expected and actual). {KEEPS} "
        "To fix: build the day again; if it stays, the storage queries have a fault.",
    )


def drift_small(subject: Subject, policy: StoragePolicy, *, failures: int, worst: Sequence[Disagreement]) -> Verdict:
    """Warn of, or hold, a day with a snapshot that differs too much from what its events gave."""
    return _verdict(
        subject,
        "drift_small",
        _status(failures, policy.on_drift),
        f"0 snapshots more than {policy.drift_percent} % beside what events gave",
        f"{failures} snapshots",
        "Every snapshot agrees with the events before it."
        if not failures
        else f"{failures} snapshots differ from the events before them: {_listed(worst)}. "
        "For the bill: from its snapshot on a repository is billed by the snapshot; before it, by the events that are known. "
        "To fix: look for object events that were never delivered, and ingest them; late ones correct the bill.",
    )


def visibility_agrees(
    subject: Subject, policy: StoragePolicy, *, failures: int, worst: Sequence[Disagreement]
) -> Verdict:
    """Warn of, or hold, a day with a snapshot whose visibility is not what the events gave."""
    return _verdict(
        subject,
        "visibility_agrees",
        _status(failures, policy.on_visibility_mismatch),
        "0 snapshots of another visibility than events gave",
        f"{failures} snapshots",
        "Every snapshot has the visibility that events gave."
        if not failures
        else f"{failures} snapshots have another visibility than the events before them: {_listed(worst)}. "
        "For the bill: a repository counts as the snapshot says from then on, and as the events say before. "
        "To fix: find the visibility event that was never delivered, and ingest it; the days since then are built again.",
    )


def snapshots_fresh(
    subject: Subject, ages: Mapping[str, timedelta], *, repositories: int, some: Sequence[Carried]
) -> Verdict:
    """Hold a day that carries repositories further than their sources allow. `ages`: how far the snapshots of each are carried."""
    allowed = ", ".join(f"{source} {age // timedelta(hours=1)} hours" for source, age in sorted(ages.items()))
    return _verdict(
        subject,
        "snapshots_fresh",
        VerdictStatus.HELD if repositories else VerdictStatus.PASSED,
        f"every repository has a snapshot that is no older than its source allows ({allowed or 'none is named'})",
        f"{repositories} repositories have none",
        "No repository is carried further than the source of its snapshots allows."
        if not repositories
        else f"The day is incomplete: {repositories} repositories have no snapshot that is as young as its source wants "
        f"({allowed or 'none is named'}): {', '.join(map(_carried, some))}{_more(repositories, len(some))}. {KEEPS} "
        "To fix: deliver the missing snapshot; or release the day, and they count as they last were.",
    )


def within_int64(subject: Subject, *, repositories: int, some: Sequence[tuple[str, str, int]]) -> Verdict:
    """Warn of repositories that would come to more than 2^63 - 1 bytes; `some`: each with the largest of its events."""
    named = ", ".join(f"{repository} (event {event_id} of {size:,} bytes)" for repository, event_id, size in some)
    return _verdict(
        subject,
        "within_int64",
        VerdictStatus.WARNED if repositories else VerdictStatus.PASSED,
        "0 repositories beyond 2^63 - 1 bytes",
        f"{repositories} repositories beyond 2^63 - 1 bytes",
        "No repository would come to more bytes than 2^63 - 1."
        if not repositories
        else f"{named}{_more(repositories, len(some))} would come to more than 2^63 - 1 bytes. Nobody stores so much: these "
        "events are forged or broken. For the bill: what was written into these repositories on this day has no size and is not "
        "billed until their next snapshot; they stay as they were, and everything else is billed. "
        "To fix: find out who delivered these events; deliver a snapshot of the repositories.",
    )


def sizes_known(subject: Subject, *, today: int, waiting: int, repositories: int) -> Verdict:
    """Warn of events without a size that wait for the next snapshot at the end of the day."""
    return _verdict(
        subject,
        "sizes_known",
        VerdictStatus.WARNED if waiting else VerdictStatus.PASSED,
        "0 events without a size wait for a snapshot",
        f"{waiting} wait, of {repositories} repositories; {today} came on this day",
        "Every event has a size, or a snapshot has come since."
        if not waiting
        else f"{waiting} events of {repositories} repositories (copies, completed uploads, deletions of unknown objects) say no "
        "size. For the bill: they count from the next snapshot on. To fix: nothing, unless snapshots do not come.",
    )


def owners_known(
    subject: Subject, *, byte_microseconds: int, owners: Sequence[tuple[str, int]], unknown_visibility: int
) -> Verdict:
    """Warn of private bytes that no account pays for, and of bytes of which nobody has said whether they are private."""
    is_known = not byte_microseconds and not unknown_visibility
    named = ", ".join(f"{owner or 'no owner'} ({held // 10**6} byte-s)" for owner, held in owners)
    return _verdict(
        subject,
        "owners_known",
        VerdictStatus.PASSED if is_known else VerdictStatus.WARNED,
        "every private byte has an account",
        f"{byte_microseconds // 10**6} private byte-seconds without account, {unknown_visibility // 10**6} of unknown visibility",
        "Every private byte belongs to an account."
        if is_known
        else f"Nobody pays for private bytes of: {named or 'nobody'}; bytes of unknown visibility are not billed. "
        "For the bill: they are listed and not billed. "
        "To fix: name the owner as a client of its account in the catalog, from when it holds; they are billed then, once.",
    )


def _status(failures: int, on_failure: OnFailure) -> VerdictStatus:
    if not failures:
        return VerdictStatus.PASSED
    return VerdictStatus.HELD if on_failure is OnFailure.HOLD else VerdictStatus.WARNED


def _listed(worst: Sequence[Disagreement]) -> str:
    return ", ".join(
        f"{one.repository} at {one.at:%Y-%m-%d %H:%M:%S} (events {one.expected}, snapshot {one.actual})"
        for one in worst
    )


def _carried(one: Carried) -> str:
    if one.source is None or one.snapshot_at is None:
        return f"{one.repository} (never had one)"
    return f"{one.repository} (last one by {one.source} at {one.snapshot_at:%Y-%m-%d %H:%M:%S})"


def _more(count: int, shown: int) -> str:
    return f" and {count - shown} more" if count > shown else ""


def _verdict(subject: Subject, guard: str, status: VerdictStatus, expected: str, actual: str, message: str) -> Verdict:
    return Verdict(
        asset=subject.asset,
        partition_key=subject.partition_key,
        guard=guard,
        status=status,
        expected=expected,
        actual=actual,
        message=message,
        inputs_digest=subject.inputs_digest,
    )
