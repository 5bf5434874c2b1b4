"""Run the Dagster assets in this process: which assets and days, in which order, and what it took.

The same assets, checks and event log as in the UI; only the launching is here. Not here: what an asset does (assets), what
is stale (resources).
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

import dagster as dg
from dagster._core.errors import DagsterAssetCheckFailedError
from rich.markup import escape

from assets.definitions import defs_of
from assets.jobs import BILLING, CATALOG, CHAIN, USAGE_AND_BILLING
from assets.partitions import DAYS, PARTITION_TAG, contiguous, days_in_tags, partition_tags
from assets.requests import KEY as REQUEST_RECORDS
from billing_pipeline.errors import BillingError
from console.days import DayRange
from console.due import due_days, unbooked_days
from console.near import did_you_mean
from console.screen import Advance, count, notes, page, progress
from resources.request_store import RequestStore
from resources.runtime import Runtime, running
from resources.settings import Settings
from resources.status_reader import Books, GuardVerdict, read_status

# Dagster's own lines would bury ours; a failure is shown by its error, and in full on the run's page.
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
_ALONE = {frozenset(CATALOG), frozenset(CHAIN[-2:])}


class AssetUnknownError(BillingError):
    """An asset key that this project does not have."""


class DayOutsideError(BillingError):
    """A day that is no partition: before the first one, or in the future."""


class DayHeldError(BillingError):
    """A guard holds the only day of a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """The assets over a running installation. `seconds`: wall time by step, added up over the runs so far."""

    runtime: Runtime
    definitions: dg.Definitions
    instance: dg.DagsterInstance
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, keys: Sequence[str], days: Sequence[date] = ()) -> None:
        """Materialize the assets: one run for each unbroken range of `days`, or one if the assets have no days.

        Raises:
            DayOutsideError: a day is no partition.
            DayHeldError: a guard holds the only day of a run; raised when the other runs are done.
            BillingError: whatever the assets raised on purpose.
        """
        for day in days:
            _refuse_outside(day)
        with _held_at_the_end() as later:
            for tags in [partition_tags(*ends) for ends in contiguous(days)] if days else [{}]:
                with later(), self._our_errors(days_in_tags(tags)):
                    self._execute(keys, tags)

    def ingest(self) -> tuple[date, ...]:
        """Look for new files, read the delivery days that have any, and return those days."""
        began = time.monotonic()
        found = request_store_of(self.definitions).discover(seen_at=datetime.now(UTC))
        self._add("find files", time.monotonic() - began)
        for key in found.unplaced_files:
            notes().print(
                f'Not read: {key}; delivery_day is "key", and its path has no folder YYYY-MM-DD', markup=False
            )
        if found.delivery_days:
            self.run((REQUEST_RECORDS,), found.delivery_days)
        return found.delivery_days

    def bring_up_to_date(self) -> tuple[date, ...]:
        """Read what is new, load the catalog, build and book every event day that is due, and return those days.

        Raises:
            DayHeldError: a guard holds a day that was run by itself; everything else is done nevertheless.
        """
        days: tuple[date, ...] = ()
        with _held_at_the_end() as later:
            with later():
                self.ingest()
            self.run(CATALOG)
            with later():
                days = self.build_and_book(USAGE_AND_BILLING)
        return days

    def build_and_book(self, keys: Sequence[str]) -> tuple[date, ...]:
        """Run those of USAGE_AND_BILLING that `keys` names for the event days that are due, and return these days.

        Charges are due also where usage stays as it is: under a new price, or where a run died before it had booked.
        """
        days: set[date] = set()
        with _held_at_the_end() as later:
            for asked, due_of in ((keys, due_days), ([key for key in keys if key in BILLING], unbooked_days)):
                due = due_of(self.runtime) if asked else ()
                days |= set(due)
                with later():
                    if due:
                        self.run(asked, due)
        return tuple(sorted(days))

    def _execute(self, keys: Sequence[str], tags: Mapping[str, str]) -> None:
        result = self.definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            run_config=_QUIET,
            instance=self.instance,
            partition_key=tags.get(PARTITION_TAG),
            asset_selection=[dg.AssetKey(key.split("/")) for key in keys],
            tags=dict(tags),
        )
        self._take_times(result)

    @contextmanager
    def _our_errors(self, days: Sequence[date]) -> Iterator[None]:
        """Raise an error of ours instead of Dagster's around it, and one that names the guards when a check blocks."""
        try:
            yield
        except (dg.DagsterError, dg.RetryRequested) as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, BillingError):
                cause = cause.__cause__ or cause.__context__
            if isinstance(cause, BillingError):
                raise cause from error
            if not isinstance(error, DagsterAssetCheckFailedError):
                raise
            raise _held(self._holding(days)) from error

    def _holding(self, days: Sequence[date]) -> Sequence[str]:
        """Return a sentence for each guard that holds one of the days."""
        keys = {day.isoformat() for day in days}
        return [
            f"{one.guard} holds {one.asset} on {one.partition_key}: expected {one.expected}; found {one.actual}"
            for one in read_status(self.runtime.database).verdicts
            if one.status == "held" and one.partition_key in keys
        ]

    def _take_times(self, result: dg.ExecuteInProcessResult) -> None:
        for event in result.all_events:
            if event.is_step_success and event.step_key is not None:
                self._add(event.step_key, event.step_success_data.duration_ms / 1000)

    def _add(self, step: str, seconds: float) -> None:
        self.seconds[step] = self.seconds.get(step, 0.0) + seconds


@contextmanager
def pipeline(settings: Settings) -> Iterator[Pipeline]:
    """Start what is needed, and yield the assets ready to run; progress is shown while they do."""
    with running(settings) as runtime:
        # Dagster finds its home, its database and its batch size by environment only.
        os.environ.update(runtime.child_environment)
        with progress() as advance, dg.DagsterInstance.get() as instance:
            definitions = defs_of(settings, runtime.database, progress=_shown_by(advance))
            yield Pipeline(runtime=runtime, definitions=definitions, instance=instance)


def materialize_days(settings: Settings, assets: Sequence[str], days: DayRange | None) -> None:
    """Build the assets (all of them if none is named) for the days, or for whatever is due, and say what was booked.

    Raises:
        AssetUnknownError: there is no such asset; DayOutsideError: no such day.
        DayHeldError: a guard holds the only day that was asked for.
    """
    keys = _known(assets)
    if days is not None:
        for day in (days.first, days.last):
            _refuse_outside(day)
    with pipeline(settings) as ready, _held_at_the_end() as later:
        before = read_status(ready.runtime.database).books
        built: tuple[date, ...] | None = None
        with later():
            if days is not None:
                built = days.days()
                ready.run(keys, built)
            else:
                built = _run_due(ready, keys) if assets else ready.bring_up_to_date()
        after = read_status(ready.runtime.database)
        if built is not None:
            page().print(_built_line(built))
            _print_held(after.verdicts, built)
        print_booked(before, after.books)


def _print_held(verdicts: Sequence[GuardVerdict], days: Sequence[date]) -> None:
    """Print which of the days a guard holds: a range goes on past them."""
    keys = {day.isoformat() for day in days}
    for one in verdicts:
        if one.status == "held" and one.partition_key in keys:
            page().print(f"[bold red]held[/] {one.asset} {one.partition_key} {one.guard}: {escape(one.message)}")


def request_store_of(definitions: dg.Definitions) -> RequestStore:
    """Return the store that the definitions ingest with."""
    store = (definitions.resources or {}).get("request_store")
    if not isinstance(store, RequestStore):
        raise TypeError("the definitions have no request store")
    return store


def print_booked(before: Sequence[Books], after: Sequence[Books]) -> None:
    """Print how many revisions were booked in between, and what they add in each currency."""
    from billing_pipeline.amounts import Money

    console = page()
    earlier = {one.currency: one for one in before}
    revisions = sum(one.revisions for one in after) - sum(one.revisions for one in before)
    deltas = [
        Money(one.charged_minor - (earlier[one.currency].charged_minor if one.currency in earlier else 0), one.currency)
        for one in after
    ]
    amounts = ", ".join(str(delta) for delta in deltas if delta.minor_units)
    console.print(f"[bold]{count(revisions)} new revisions booked[/]" + (f", together {amounts}" if amounts else ""))


def _run_due(ready: Pipeline, keys: Sequence[str]) -> tuple[date, ...]:
    """Run named assets for what is due: deliveries that wait, and event days that are stale."""
    built: set[date] = set()
    if REQUEST_RECORDS in keys:
        built |= set(ready.ingest())
    if set(CATALOG) & set(keys):
        ready.run(CATALOG)
    later = [key for key in USAGE_AND_BILLING if key in keys]
    if later:
        built |= set(ready.build_and_book(later))
    return tuple(sorted(built))


def _known(assets: Sequence[str]) -> tuple[str, ...]:
    """Return the keys in the order of the chain; an asset that is built in one step with another brings that along."""
    for asset in assets:
        if asset not in CHAIN:
            raise AssetUnknownError(
                f"There is no asset {asset!r}. {did_you_mean(asset, CHAIN)}",
                bill="Nothing was read or changed.",
                fix=f"Take of {', '.join(CHAIN)}.",
            )
    wanted = set(assets or CHAIN)
    for together in _ALONE:
        if wanted & together:
            wanted |= together
    return tuple(key for key in CHAIN if key in wanted)


def _refuse_outside(day: date) -> None:
    first, last = DAYS.get_first_partition_key(), DAYS.get_last_partition_key()
    if first is None or last is None or first <= day.isoformat() <= last:
        return
    nearest = first if day.isoformat() < first else last
    raise DayOutsideError(
        f"There is no partition {day}; the first is {first}, the last {last} (today). The nearest is {nearest}.",
        bill="Nothing was read or changed.",
        fix="Take a day in between.",
    )


def _built_line(days: Sequence[date]) -> str:
    if not days:
        return "No event day is due: each is built of all that was delivered."
    ends = f"{days[0]}" if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return f"Built {count(len(days))} {'day' if len(days) == 1 else 'days'}: {ends}."


@contextmanager
def _held_at_the_end() -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Yield a context in which a held day does not stop the work; when all of it is done, what was held is raised."""
    held: list[DayHeldError] = []

    @contextmanager
    def later() -> Iterator[None]:
        try:
            yield
        except DayHeldError as error:
            held.append(error)

    yield later
    if held:
        raise _held([error.what for error in held])


def _held(sentences: Sequence[str]) -> DayHeldError:
    return DayHeldError(
        "\n       ".join(dict.fromkeys(sentences)) or "A guard holds the day.",
        bill="What is held stays out of the bill; the day's last good rows are in place.",
        fix="Correct the input and materialize again, or let it through with `billing release`; see `billing status`.",
    )


def _shown_by(advance: Advance) -> "_Shown":
    return _Shown(advance)


@dataclass(frozen=True, slots=True)
class _Shown:
    """Passes the assets' progress to the screen, a line or bar for each stage of each asset."""

    advance: Advance

    def __call__(self, asset: str, stage: str, done: int, total: int) -> None:
        self.advance(f"{asset}: {stage}", done, total)
