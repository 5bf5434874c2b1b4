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
from functools import partial

import dagster as dg
from dagster._core.errors import DagsterAssetCheckFailedError
from rich.markup import escape

from assets.definitions import defs_of
from assets.invoicing import KEY as INVOICE_ITEMS
from assets.jobs import BILLING, CATALOG, CHAIN, STORAGE_DELIVERIES, USAGE, USAGE_AND_BILLING
from assets.partitions import DAYS, PARTITION_TAG, contiguous, days_in_tags, partition_tags
from assets.requests import KEY as REQUEST_RECORDS
from assets.traffic import SAMPLES_KEY
from billing_pipeline.errors import BillingError
from console.days import DayRange
from console.due import due_days, unbooked_days
from console.near import did_you_mean
from console.screen import Advance, count, notes, page, progress
from resources.runtime import Runtime, running
from resources.settings import Settings
from resources.status_reader import Books, GuardVerdict, read_status
from resources.stores import Stores, open_stores

# Dagster's own lines would bury ours; a failure is shown by its error, and in full on the run's page.
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
_ALONE = {frozenset(CATALOG), frozenset(BILLING)}
ASSETS = (*CHAIN, INVOICE_ITEMS)
DELIVERIES = (REQUEST_RECORDS, SAMPLES_KEY, *STORAGE_DELIVERIES)


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
    stores: Stores
    definitions: dg.Definitions
    instance: dg.DagsterInstance
    seconds: dict[str, float] = field(default_factory=dict)

    def run(
        self,
        keys: Sequence[str],
        days: Sequence[date] = (),
        *,
        config: Mapping[str, Mapping[str, object]] | None = None,
    ) -> None:
        """Materialize the assets: one run for each unbroken range of `days`, or one if the assets have no days. `config` is what
        an asset's run configuration says, by its key.

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
                    self._execute(keys, tags, config or {})

    def ingest(self, keys: Sequence[str] = DELIVERIES) -> tuple[date, ...]:
        """Read what is new of those of DELIVERIES that `keys` names: files, and windows of exporters. Return the days."""
        days: set[date] = set()
        with _held_at_the_end() as later:
            for key in (key for key in DELIVERIES if key in keys):
                began = time.monotonic()
                due = self._delivered_days(key)
                self._add("find deliveries", time.monotonic() - began)
                days |= set(due)
                with later():
                    if due:
                        self.run((key,), due)
        return tuple(sorted(days))

    def _delivered_days(self, key: str) -> tuple[date, ...]:
        """Register what was delivered, and return the days of the asset that have something to read."""
        now = datetime.now(UTC)
        if key == REQUEST_RECORDS:
            found = self.stores.requests.discover(seen_at=now)
            for file in found.unplaced_files:
                notes().print(
                    f'Not read: {file}; delivery_day is "key", and its path has no folder YYYY-MM-DD', markup=False
                )
            return found.delivery_days
        if key == SAMPLES_KEY:
            self.stores.traffic.discover(seen_at=now)
            return self.stores.traffic.due_days(now)
        self.stores.storage.take_listings(now=now)
        self.stores.storage.discover(seen_at=now)
        return self.stores.storage.delivery_days(key, pending_only=True)

    def bring_up_to_date(self) -> tuple[date, ...]:
        """Read what is new, load the catalog, build and book every event day that is due, compile invoices; return those days.

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
            self.run((INVOICE_ITEMS,))
        return days

    def build_and_book(self, keys: Sequence[str]) -> tuple[date, ...]:
        """Run those of USAGE_AND_BILLING that `keys` names for the event days that are due, and return these days.

        Charges are due also where usage stays as it is: under a new price, or where a run died before it had booked.
        """
        days: set[date] = set()
        billing = tuple(key for key in keys if key in BILLING)
        with _held_at_the_end() as later:
            # Requests come last, and their days are booked in the same run: a guard that holds a single day stops it there.
            for usage in (key for key in reversed(USAGE) if key in keys):
                asked = (usage, *billing) if usage == USAGE[0] else (usage,)
                with later():
                    days |= self._build(asked, partial(due_days, self.stores, usage))
            with later():
                days |= self._build(billing, partial(unbooked_days, self.stores)) if billing else set()
        return tuple(sorted(days))

    def _build(self, keys: Sequence[str], due_of: Callable[[], tuple[date, ...]]) -> set[date]:
        """Run the assets for the days that are due, again where that makes other days due: what a day leaves to the next."""
        days: set[date] = set()
        with _held_at_the_end() as later:
            while due := tuple(day for day in due_of() if day not in days):
                with later():
                    self.run(keys, due)
                days |= set(due)
        return days

    def _execute(
        self, keys: Sequence[str], tags: Mapping[str, str], config: Mapping[str, Mapping[str, object]]
    ) -> None:
        ops = {key.replace("/", "__"): {"config": dict(one)} for key, one in config.items()}
        result = self.definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            run_config={**_QUIET, "ops": ops},
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
            stores = open_stores(settings, runtime.database)
            definitions = defs_of(settings, runtime.database, stores=stores, progress=_shown_by(advance))
            yield Pipeline(runtime=runtime, stores=stores, definitions=definitions, instance=instance)


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
    if set(DELIVERIES) & set(keys):
        built |= set(ready.ingest(keys))
    if set(CATALOG) & set(keys):
        ready.run(CATALOG)
    later = [key for key in USAGE_AND_BILLING if key in keys]
    if later:
        built |= set(ready.build_and_book(later))
    if INVOICE_ITEMS in keys:
        ready.run((INVOICE_ITEMS,))
    return tuple(sorted(built))


def _known(assets: Sequence[str]) -> tuple[str, ...]:
    """Return the keys in the order of the chain; an asset that is built in one step with another brings that along."""
    for asset in assets:
        if asset not in ASSETS:
            raise AssetUnknownError(
                f"There is no asset {asset!r}. {did_you_mean(asset, ASSETS)}",
                bill="Nothing was read or changed.",
                fix=f"Take of {', '.join(ASSETS)}.",
            )
    wanted = set(assets or ASSETS)
    for together in _ALONE:
        if wanted & together:
            wanted |= together
    return tuple(key for key in ASSETS if key in wanted)


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
