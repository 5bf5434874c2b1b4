"""Book charges for event days: usage to date -> rated totals -> the difference to what is booked, in one transaction.

A charge's period spans days, so a range of days is booked at once: each charge is rated one time, and its revision counts
for the newest requested day inside its period. Accounts are rated and written batch by batch, in one transaction under the lock
`billing/charges`; a second run books nothing. Not here: the arithmetic (rating), identity (charges), reading usage
(charge_usage), what guards say (charge_guards).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from uuid import UUID

import psycopg

from billing_pipeline.amounts import Money
from billing_pipeline.catalog import Catalog
from billing_pipeline.charges import BookedCharge, Charge, ChargeKey, ChargeRevision, difference, nothing_rated
from billing_pipeline.checks import Verdict, VerdictStatus, holds, with_releases
from billing_pipeline.invoicing.policy import Threshold
from billing_pipeline.periods import RequestedDays, Window
from resources import booked_days, charge_guards, guard_store, prepaid_guards
from resources.book_writer import BookWriter, book_writer
from resources.booking_scope import BookingScope, forget_reshaped, read_scope
from resources.catalog_places import errors_placed
from resources.catalog_store import current_catalog
from resources.charge_rows import BookRows, WrittenBy
from resources.charge_usage import UsageToDate, rated_batches
from resources.collector import collector_paused
from resources.database import Database
from resources.invoicing import proposal_store
from resources.merged_usage import MergedUsage
from resources.prepaid_accounts import BookingRun
from resources.prepaid_store import book_balances
from resources.prepaid_usage import RatedBalances, rate_balances
from resources.rated_totals import RatedTotals

ASSET = "billing/charges"
USAGE_ASSETS = ("usage/api_requests", "usage/traffic", "usage/storage")
LOCK = "billing/charges"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class DayBooking:
    """What booking did for one requested day.

    `charges_rated` are the charges whose newest requested day this is; summed over days, every charge once.
    `delta_by_currency` is in minor units. `held` are the guards that hold the day's usage (its last good rows were rated),
    or the day's own charges (then nothing was booked). `top_accounts` are (account id, what its charges of the day come
    to, to date), in descending order.
    """

    day: date
    charges_rated: int
    revisions_booked: int
    delta_by_currency: Mapping[str, int]
    held: tuple[str, ...]
    top_accounts: tuple[tuple[str, Money], ...]
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True)
class _Booked:
    """A charge as it stands in the books."""

    charge: Charge
    newest: BookedCharge


class _Unbookable(Exception):
    """A guard holds: leave the savepoint, so that nothing of this run is booked."""


@dataclass(frozen=True, slots=True)
class ChargeStore:
    """The charges and the ledger of one database. `thresholds`: by currency, from where on a change of a period whose invoice is
    final waits for a person. `catalog_dir`: where errors find the line that a person has to correct."""

    database: Database
    thresholds: Mapping[str, Threshold] = field(default_factory=dict)
    catalog_dir: Path | None = None

    def unbooked_days(self) -> tuple[date, ...]:
        """Return the event days whose usage or catalog changed since they were last booked, ascending.

        Among them: days that a run built and did not live to book, held days that a person has released since, and days of
        changes that a person has approved.

        Raises:
            CatalogNotLoadedError: there is no catalog.
        """
        with self.database.reading() as connection:
            catalog_sha256 = current_catalog(connection).sha256
            due = booked_days.unbooked_days(
                connection, usage_assets=USAGE_ASSETS, charges_asset=ASSET, catalog_sha256=catalog_sha256
            )
            return tuple(sorted({*due, *proposal_store.approved_days(connection)}))

    def book_days(
        self, days: Sequence[date], *, run_id: str, code_version: str, on_progress: Progress | None = None
    ) -> tuple[DayBooking, ...]:
        """Rate every charge whose period contains one of `days`, all of its usage to date, and book the differences.

        Charges that are booked and have no usage, price or period any more are reversed. A change of a final period that
        passes its threshold is kept as a proposal instead. Days, in order, come back with what was booked for them.

        Raises:
            CatalogNotLoadedError: there is no catalog.
            BeyondLastTierError, NegativeQuantityError: usage that its price does not cover; nothing is booked.
            ChargeCurrencyChangedError: a price's currency was changed; nothing is booked.
        """
        if not days:
            return ()
        # The values of this call are gone before the collector may look at them.
        with collector_paused(), errors_placed(self.catalog_dir):
            progress = on_progress or _no_progress
            return self._book_days(RequestedDays(days), run_id=run_id, code_version=code_version, progress=progress)

    def _book_days(
        self, wanted: RequestedDays, *, run_id: str, code_version: str, progress: Progress
    ) -> tuple[DayBooking, ...]:
        with self.database.transaction(LOCK) as connection:
            catalog = current_catalog(connection)
            built = booked_days.read_usage_built(connection, USAGE_ASSETS, wanted.days)
            progress("rating", 0, 1)
            scope = read_scope(connection, catalog, wanted)
            balances = rate_balances(connection, catalog, scope)
            progress("rating", 1, 1)
            booking = proposal_store.Booking(catalog=catalog, days=wanted, run_id=run_id, code_version=code_version)
            run = _Run(
                database=self.database,
                scope=scope,
                run_id=run_id,
                code_version=code_version,
                catalog=catalog,
                balances=balances,
                sorting=proposal_store.Sorting(connection, booking, self.thresholds),
                totals=RatedTotals(days=wanted, catalog_sha256=catalog.sha256),
                rows=_book_rows(catalog, wanted, run_id=run_id, code_version=code_version),
            )
            verdicts = _book(connection, run, progress)
            run.sorting.keep()
            guard_store.record(connection, verdicts, run_id=run_id)
            held = {date.fromisoformat(key) for key, found in _by_partition(verdicts).items() if holds(found)}
            booked_days.record_booked(
                connection, built, catalog_sha256=catalog.sha256, code_version=code_version, held=held
            )
            if not held:
                waiting = {revision.charge.key.subscription_id for revision in run.totals.waiting}
                forget_reshaped(connection, scope.reshaped.keys() - waiting)
            held_usage = _held_usage(connection, wanted.days)
        return _bookings(run.totals, verdicts, held_usage)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What one call works on, and what it has come to so far."""

    database: Database
    scope: BookingScope
    run_id: str
    code_version: str
    catalog: Catalog
    balances: RatedBalances
    sorting: proposal_store.Sorting
    totals: RatedTotals
    rows: BookRows

    @property
    def days(self) -> RequestedDays:
        return self.scope.days


def _book_rows(catalog: Catalog, days: RequestedDays, *, run_id: str, code_version: str) -> BookRows:
    """Return what spells the rows of a run. It holds no value that holds it: nothing of a booking is left to the collector."""
    by = WrittenBy(
        catalog_sha256=catalog.sha256,
        code_version=code_version,
        run_id=run_id,
        event_day=lambda revision: days.newest_in(revision.charge.key.period),
    )
    return BookRows(by, billing_mode=lambda price_id: catalog.price(price_id).billing_mode)


def _held_usage(connection: psycopg.Connection, days: Sequence[date]) -> Mapping[str, tuple[str, ...]]:
    """Return the guards that hold usage of each day, of any kind; days that none holds are absent."""
    keys = [day.isoformat() for day in days]
    found: dict[str, tuple[str, ...]] = {}
    for asset in USAGE_ASSETS:
        for key, guards in guard_store.held_partitions(connection, asset, keys).items():
            found[key] = (*found.get(key, ()), *guards)
    return found


def _no_progress(step: str, done: int, total: int) -> None:
    """Show nothing."""


def _booked_accounts(connection: psycopg.Connection, scope: BookingScope) -> set[str]:
    """Return the accounts that have booked charges in the scope's span."""
    rows = connection.execute(
        "select distinct account_id from billing.charge_revision where period_start < %s and period_end > %s",
        [scope.span.end, scope.span.start],
    )
    return {account_id for (account_id,) in rows}


def _booked_charges(
    connection: psycopg.Connection, scope: BookingScope, accounts: Sequence[str]
) -> dict[UUID, _Booked]:
    """Return the newest revision of every charge of the accounts in the scope."""
    found: dict[UUID, _Booked] = {}
    if not accounts:
        return found
    rows = connection.execute(
        """
        select distinct on (charge_id)
            charge_id, revision, amount_minor, currency, rating_digest, account_id, subscription_id, plan_id, price_id,
            meter_id, group_key, period_start, period_end, unit
        from billing.charge_revision
        where account_id = any(%(accounts)s) and period_start < %(end)s and period_end > %(start)s
        order by charge_id, revision desc
        """,
        {"accounts": accounts, "start": scope.span.start, "end": scope.span.end},
    )
    for row in rows:
        period = Window(row[11], row[12])
        if not scope.concerns(row[6], row[8], period):
            continue
        charge = Charge(
            key=ChargeKey(subscription_id=row[6], price_id=row[8], period=period, group_key=row[10]),
            account_id=row[5],
            plan_id=row[7],
            meter_id=row[9],
            currency=row[3],
            rated=nothing_rated(row[13]),
        )
        newest = BookedCharge(revision=row[1], amount=Money(row[2], row[3]), rating_digest=row[4])
        found[row[0]] = _Booked(charge, newest)
    return found


def _differences(charges: Mapping[UUID, Charge], booked: Mapping[UUID, _Booked]) -> list[ChargeRevision]:
    revisions = []
    for charge_id, charge in charges.items():
        standing = booked.get(charge_id)
        revision = difference(charge, standing.newest if standing else None, charge_id=charge_id)
        if revision is not None:
            revisions.append(revision)
    for charge_id, standing in booked.items():
        if charge_id not in charges:
            revision = difference(standing.charge, standing.newest, charge_id=charge_id)
            if revision is not None:
                revisions.append(revision)
    return revisions


def _book(connection: psycopg.Connection, run: _Run, progress: Progress) -> tuple[Verdict, ...]:
    """Rate and write, accounts after accounts, unless a guard holds in the end; return what the guards say."""
    verdicts: tuple[Verdict, ...] = ()
    try:
        with connection.transaction():
            _book_charges(connection, run, progress)
            _book_balances(connection, run)
            digest = run.totals.digest
            verdicts = charge_guards.judge(connection, run.totals, scope=run.scope, asset=ASSET, digest=digest)
            verdicts += prepaid_guards.judge_balances(
                connection, run.balances, days=run.days, asset=ASSET, inputs_digest=digest
            )
            released = guard_store.released_guards(
                connection, ASSET, {day.isoformat(): digest for day in run.days.days}
            )
            verdicts = tuple(
                verdict
                for partition, found in _by_partition(verdicts).items()
                for verdict in with_releases(found, released.get(partition, frozenset()))
            )
            if holds(verdicts):
                raise _Unbookable
    except _Unbookable:
        pass
    return verdicts


def _book_charges(connection: psycopg.Connection, run: _Run, progress: Progress) -> None:
    strangers = _booked_accounts(connection, run.scope)
    has_books = bool(strangers)
    nothing = UsageToDate(catalog_sha256=run.catalog.sha256, charges={})
    run.totals.add(replace(run.balances.added_to(nothing), charges={}))
    accounts_in_all, done = len(run.catalog.subscriptions_by_account), 0
    progress("booking", done, accounts_in_all)
    subscriptions = len(run.catalog.subscriptions)
    with book_writer(run.database, connection, subscriptions=subscriptions) as (reading, writer, ahead):
        merged = MergedUsage(connection, keeps=True, settle=writer.settle)
        for accounts, usage in rated_batches(reading, run.catalog, run.scope, merged, ahead=ahead):
            strangers.difference_update(accounts)
            booked = _booked_charges(reading, run.scope, accounts) if has_books else {}
            if prepaid := run.balances.of_accounts(accounts):
                usage = replace(usage, charges={**usage.charges, **prepaid})
            _book_batch(run, writer, usage, booked)
            done += len(accounts)
            progress("booking", done, accounts_in_all)
        if strangers:
            # Accounts that have no subscription any more: all of it is reversed.
            _book_batch(run, writer, nothing, _booked_charges(reading, run.scope, sorted(strangers)))


def _book_batch(run: _Run, writer: BookWriter, usage: UsageToDate, booked: Mapping[UUID, _Booked]) -> None:
    """Write the revisions and postings of some accounts, and add up what they come to."""
    run.totals.add(usage)
    if run.sorting.asks:
        writer.settle()
    found = run.sorting.sort(
        _differences(usage.charges, booked),
        booked={charge_id: one.newest.amount for charge_id, one in booked.items()},
        rated=usage.charges.keys(),
    )
    run.totals.waiting.extend(found.waiting)
    run.totals.rejected.extend(found.rejected)
    run.totals.add_booked(found.booked)
    if found.booked:
        writer.write(run.rows.of(found.booked))


def _book_balances(connection: psycopg.Connection, run: _Run) -> None:
    balance_run = BookingRun(days=run.days, catalog=run.catalog, run_id=run.run_id, code_version=run.code_version)
    book_balances(connection, run.balances, balance_run)


def _by_partition(verdicts: Iterable[Verdict]) -> Mapping[str, list[Verdict]]:
    found: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        found[verdict.partition_key].append(verdict)
    return found


def _bookings(
    totals: RatedTotals, verdicts: Sequence[Verdict], held_usage: Mapping[str, tuple[str, ...]]
) -> tuple[DayBooking, ...]:
    by_partition = _by_partition(verdicts)
    held_charges = {
        day: tuple(verdict.guard for verdict in found if verdict.status is VerdictStatus.HELD)
        for day, found in by_partition.items()
    }
    is_booked = not any(held_charges.values())
    return tuple(
        DayBooking(
            day=day,
            charges_rated=totals.charges[day],
            revisions_booked=totals.booked[day] if is_booked else 0,
            delta_by_currency=dict(sorted(totals.deltas[day].items())) if is_booked else {},
            held=(*held_usage.get(day.isoformat(), ()), *held_charges.get(day.isoformat(), ())),
            top_accounts=totals.top_accounts(day),
            verdicts=tuple(by_partition.get(day.isoformat(), ())),
        )
        for day in totals.days.days
    )
