"""Stores that live in memory, for tests of the Dagster door: they remember what they were asked and answer like real ones."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import dagster as dg

from assets.asset_checks import GUARDS, JUDGED_AS
from assets.definitions import build_defs
from billing_pipeline.amounts import Money
from billing_pipeline.catalog import Catalog
from billing_pipeline.checks import Verdict, VerdictStatus
from billing_pipeline.invoicing.items import InvoiceKey
from billing_pipeline.invoicing.states import InvoiceState
from billing_pipeline.periods import Window
from billing_pipeline.prepaid import SuspendState
from billing_pipeline.reconciliation import HeldLine, OurInvoice, Standing, reconcile
from billing_pipeline.records import LineCounts
from billing_pipeline.stripe_sync.policy import SyncPolicy
from billing_pipeline.traffic_sample_checks import SampleCounts
from resources.alerting.conditions import CLOSING
from resources.alerting.desk import Delivered
from resources.alerting.incidents import OpenIncident
from resources.alerting.notice import Condition, IncidentKind
from resources.backtest.backtest_store import Backtest, BacktestStore
from resources.catalog_store import CatalogLoad, read_catalog
from resources.charge_store import DayBooking
from resources.entitlements.entitlement_store import Crossing
from resources.invoicing.drafts import Drafted
from resources.invoicing.invoice_reader import Disagreement, Overview, StateTotal
from resources.invoicing.invoice_rows import InvoiceRow
from resources.payment_store import SuspensionChange
from resources.reconciliation.canaries import Canary
from resources.reconciliation.canary_results import CanaryResult
from resources.reconciliation.reconciler import Reconciliation
from resources.request_ingest import DayIngest
from resources.request_store import Discovery
from resources.retention import Retained
from resources.storage_day import StorageDayIngest
from resources.storage_usage_store import StorageDayBuild
from resources.stores import Stores
from resources.stripe_api.calls import CallsMade
from resources.stripe_mirror.apply import Applied
from resources.stripe_mirror.feed import Poll
from resources.stripe_mirror.following import Followed
from resources.stripe_mirror.settle import Settled
from resources.stripe_sync.account_sync import AccountOutcome
from resources.stripe_sync.sync_reader import SyncOverview
from resources.stripe_sync.sync_run import SyncReport
from resources.stripe_sync.sync_store import Finding, SyncState
from resources.stripe_sync.true_up import Outcome, TrueUpOutcome
from resources.stripe_sync.true_up_run import TrueUpReport
from resources.stripe_sync.work import Worked
from resources.timeline_reader import RepositoryTimeline, RepositoryUnknownError, TimelineDrift, TimelineState
from resources.traffic_day_writer import TrafficDayBuild
from resources.traffic_reader import NodeDay
from resources.traffic_store import DayCollected
from resources.usage_store import DayBuild


@dataclass
class FakeVerdicts:
    """Verdicts by (asset, partition, guard); every guard passes unless told otherwise."""

    others: dict[tuple[str, str, str], VerdictStatus | None] = field(default_factory=dict)

    def hold(self, asset: str, partition_key: str, guard: str) -> None:
        self.others[asset, partition_key, guard] = VerdictStatus.HELD

    def of(self, asset: str, partition_keys: Sequence[str]) -> tuple[Verdict, ...]:
        guards = [name for shown, names in GUARDS.items() if JUDGED_AS.get(shown, shown) == asset for name in names]
        return tuple(
            Verdict(
                asset=asset,
                partition_key=key,
                guard=guard,
                status=status,
                expected="1",
                actual="1" if status is VerdictStatus.PASSED else "2",
                message=f"{guard} {status}",
                inputs_digest="d" * 64,
            )
            for key in partition_keys
            for guard in guards
            if (status := self.others.get((asset, key, guard), VerdictStatus.PASSED)) is not None
        )


@dataclass
class FakeRequestStore:
    """Deliveries: days with files that wait to be read."""

    verdicts: FakeVerdicts
    pending: set[date] = field(default_factory=set)
    ingested: list[tuple[date, ...]] = field(default_factory=list)
    discoveries: int = 0

    def discover(self, *, seen_at: datetime) -> Discovery:
        assert seen_at.tzinfo is not None
        self.discoveries += 1
        return Discovery(
            new_files=(),
            held_files=(),
            duplicate_files=(),
            unplaced_files=(),
            delivery_days=tuple(sorted(self.pending)),
        )

    def ingest_days(self, days, *, run_id, code_version, on_progress=None) -> tuple[DayIngest, ...]:
        self.ingested.append(tuple(days))
        self.pending -= set(days)
        if on_progress:
            on_progress("reading", len(days), len(days))
        return tuple(ingest_of(day, self.verdicts) for day in days)


@dataclass
class FakeUsageStore:
    """Usage: days that are not up to date."""

    verdicts: FakeVerdicts
    stale: set[date] = field(default_factory=set)
    built: list[tuple[date, ...]] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)

    def stale_days(self) -> tuple[date, ...]:
        return tuple(sorted(self.stale))

    def build_days(self, days, *, run_id, code_version, on_progress=None) -> tuple[DayBuild, ...]:
        if self.failures:
            raise self.failures.pop(0)
        self.built.append(tuple(days))
        self.stale -= set(days)
        return tuple(build_of(day, self.verdicts) for day in days)


@dataclass
class FakeChargeStore:
    """Charges: days that are not booked as they are built."""

    verdicts: FakeVerdicts
    unbooked: set[date] = field(default_factory=set)
    booked: list[tuple[date, ...]] = field(default_factory=list)

    def unbooked_days(self) -> tuple[date, ...]:
        return tuple(sorted(self.unbooked))

    def book_days(self, days, *, run_id, code_version, on_progress=None) -> tuple[DayBooking, ...]:
        self.booked.append(tuple(days))
        self.unbooked -= set(days)
        return tuple(booking_of(day, self.verdicts) for day in days)


@dataclass
class FakeCatalogStore:
    """A catalog of one price and one subscription."""

    loaded: list[Path] = field(default_factory=list)

    def load(self, folder: Path) -> CatalogLoad:
        self.loaded.append(folder)
        return CatalogLoad(
            catalog_sha256="c" * 64,
            changed=True,
            entries=2,
            added=("price p 1", "subscription s"),
            edited=(),
            removed=(),
        )

    def draft(self, folder: Path) -> Catalog:
        return read_catalog(folder)

    def current(self) -> SimpleNamespace:
        return SimpleNamespace(prices={"p": SimpleNamespace(versions=(1,))}, subscriptions={"s": None})


@dataclass
class FakeTrafficStore:
    """Exporters: days with windows to read. One node, whose hour 3 is missing on the days in `gaps`."""

    verdicts: FakeVerdicts
    due: set[date] = field(default_factory=set)
    gaps: set[date] = field(default_factory=set)
    collected: list[tuple[tuple[date, ...], frozenset[str] | None]] = field(default_factory=list)

    def discover(self, *, seen_at: datetime) -> None:
        assert seen_at.tzinfo is not None

    def due_days(self, now: datetime) -> tuple[date, ...]:
        assert now.tzinfo is not None
        return tuple(sorted(self.due))

    def coverage(self, days: Sequence[date]) -> tuple[NodeDay, ...]:
        return tuple(node_day(day, has_gap=day in self.gaps) for day in days)

    def collect_days(
        self, days, *, now, run_id, code_version, only_nodes=None, on_progress=None
    ) -> tuple[DayCollected, ...]:
        self.collected.append((tuple(days), only_nodes))
        self.due -= set(days)
        return tuple(
            DayCollected(
                day=day,
                generation="g1",
                uri=f"/lake/core/traffic_samples/day={day}/g1.parquet",
                rows=20,
                new_snapshots=10,
                repeated_snapshots=1,
                samples=SampleCounts(read=22, kept=20, duplicate=2),
                windows=self.coverage([day]),
                verdicts=self.verdicts.of("core/traffic_samples", [day.isoformat()]),
                failures={},
            )
            for day in days
        )


@dataclass
class FakeTrafficUsageStore:
    """Usage of traffic: days that are not up to date."""

    verdicts: FakeVerdicts
    stale: set[date] = field(default_factory=set)
    built: list[tuple[date, ...]] = field(default_factory=list)

    def stale_days(self) -> tuple[date, ...]:
        return tuple(sorted(self.stale))

    def build_days(self, days, *, run_id, code_version, on_progress=None) -> tuple[TrafficDayBuild, ...]:
        self.built.append(tuple(days))
        self.stale -= set(days)
        return tuple(traffic_build_of(day, self.verdicts) for day in days)


@dataclass
class FakeStorageStore:
    """Deliveries of storage facts, by dataset."""

    verdicts: FakeVerdicts
    pending: dict[str, set[date]] = field(default_factory=dict)
    ingested: list[tuple[str, tuple[date, ...]]] = field(default_factory=list)
    listings: int = 0

    def take_listings(self, *, now: datetime) -> tuple[()]:
        assert now.tzinfo is not None
        self.listings += 1
        return ()

    def discover(self, *, seen_at: datetime) -> None:
        assert seen_at.tzinfo is not None

    def delivery_days(self, dataset: str, *, pending_only: bool) -> tuple[date, ...]:
        assert pending_only
        return tuple(sorted(self.pending.get(dataset, ())))

    def ingest_days(self, dataset, days, *, run_id, code_version, on_progress=None) -> tuple[StorageDayIngest, ...]:
        self.ingested.append((dataset, tuple(days)))
        self.pending.pop(dataset, None)
        return tuple(
            StorageDayIngest(
                dataset=dataset,
                day=day,
                generation="g1",
                uri=f"/lake/{dataset}/day={day}/g1.parquet",
                rows=3,
                files=(),
                counts=LineCounts(lines_read=4, accepted=3, rejected=1, duplicate=0, out_of_scope=0),
                rejected_by_reason={"size_unknown": 1},
                event_days={day: 3},
                verdicts=self.verdicts.of(dataset, [day.isoformat()]),
                was_read=True,
            )
            for day in days
        )


@dataclass
class FakeStorageUsageStore:
    """Usage of storage: days that are not up to date."""

    verdicts: FakeVerdicts
    stale: set[date] = field(default_factory=set)
    built: list[tuple[date, ...]] = field(default_factory=list)

    def stale_days(self, now: datetime | None = None) -> tuple[date, ...]:
        return tuple(sorted(self.stale))

    def build_days(self, days, *, run_id, code_version, on_progress=None) -> tuple[StorageDayBuild, ...]:
        self.built.append(tuple(days))
        self.stale -= set(days)
        return tuple(storage_build_of(day, self.verdicts) for day in days)


@dataclass
class FakeTimelines:
    """Timelines: a week of one repository, and the drifts of days that have some."""

    drifts: dict[date, tuple[TimelineDrift, ...]] = field(default_factory=dict)
    asked: list[tuple[date, str | None]] = field(default_factory=list)

    def week_to(self, day: date, repository: str | None = None) -> RepositoryTimeline | None:
        self.asked.append((day, repository))
        if repository == "nobody/knows":
            raise RepositoryUnknownError("No day knows it.", bill="Nothing.", fix="Name another.")
        start = datetime(day.year, day.month, day.day, tzinfo=UTC)
        state = TimelineState(
            start=start,
            end=start + timedelta(days=1),
            bytes=4 * 10**9,
            visibility="private",
            owner="ann",
            account_id="acme",
            basis="snapshot",
            byte_seconds=Decimal(345_600 * 10**9),
        )
        return RepositoryTimeline(repository=repository or "ann/big", states=(state,), marks=(), drifts=())

    def drifts_of(self, day: date, *, limit: int) -> tuple[TimelineDrift, ...]:
        return self.drifts.get(day, ())[:limit]


@dataclass
class FakePaymentStore:
    """Payments: sweeps that were asked for."""

    sweeps: int = 0

    def sweep_arrears(self, *, now: datetime) -> tuple[SuspensionChange, ...]:
        assert now.tzinfo is not None
        self.sweeps += 1
        return (SuspensionChange(account_id="acme", suspend_state=SuspendState.SUSPENDED, cause="payment_arrears"),)


@dataclass
class FakeEntitlementStore:
    """Entitlements: allowances written, and thresholds passed that were not told yet."""

    rows: int = 7
    crossings: list[Crossing] = field(default_factory=list)

    def refresh(self, *, now: datetime) -> int:
        assert now.tzinfo is not None
        return self.rows

    def record_crossings(self, *, now: datetime) -> tuple[Crossing, ...]:
        found, self.crossings = tuple(self.crossings), []
        return found


@dataclass
class FakeInvoiceStore:
    """Invoices: compilations and finalizations that were asked for."""

    compiled: list[tuple[str, ...] | None] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    error: Exception | None = None

    def compile_invoices(self, *, as_of, accounts=None, on_progress=None) -> Drafted:
        assert as_of.tzinfo is not None
        self.compiled.append(accounts)
        if on_progress:
            on_progress("compiling", 1, 1)
        if self.error is not None:
            raise self.error
        return Drafted(accounts=2, written=1, unchanged=1, failed=dict(self.failed))

    def finalize_due(self, *, now: datetime) -> tuple[InvoiceRow, ...]:
        return (INVOICE,)


@dataclass
class FakeInvoiceReader:
    """Invoices as they stand, and accounts of which the ledger says other than their invoices."""

    apart: list[tuple[Disagreement, ...]] = field(default_factory=list)

    def overview(self) -> Overview:
        return Overview(
            states=(StateTotal(state=InvoiceState.FINAL, invoices=1, lines=3, total=Money(3997, "USD")),),
            biggest=(INVOICE,),
            uninvoiced=(),
            credited=(Money(500, "USD"),),
            proposals_waiting=0,
        )

    def disagreements(self, accounts=None) -> tuple[Disagreement, ...]:
        return self.apart.pop(0) if self.apart else ()


_FEBRUARY = Window(datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC))
_INVOICE_KEY = InvoiceKey(account_id="acme", subscription_id="sub_acme", period=_FEBRUARY)
INVOICE = InvoiceRow(
    invoice_id=_INVOICE_KEY.invoice_id,
    key=_INVOICE_KEY,
    state=InvoiceState.FINAL,
    number="INV-000001",
    total=Money(3997, "USD"),
    item_count=3,
    items_digest="d" * 64,
    external_id=None,
    as_of=_FEBRUARY.end,
    finalized_at=_FEBRUARY.end,
    voided_at=None,
)


@dataclass
class FakeBacktestStore:
    """Backtests: those of the real store that a test puts here."""

    real: BacktestStore | None = None

    def run(self, draft: Catalog, **words: Any) -> Backtest:
        assert self.real is not None
        return self.real.run(draft, **words)


@dataclass
class FakeBuilds:
    """Builds: the newest event day of each kind of usage."""

    newest: dict[str, date] = field(default_factory=dict)

    def newest_days(self) -> dict[str, date]:
        return self.newest


@dataclass
class FakeAlerts:
    """Incidents that are open, in memory, and what was told: one entry for each that began or ended."""

    incidents: dict[tuple[IncidentKind, str], OpenIncident] = field(default_factory=dict)
    told: list[tuple[str, str, str]] = field(default_factory=list)
    evidence: list[dict[str, object]] = field(default_factory=list)
    rounds: int = 0

    def report(self, kind: IncidentKind, condition: Condition, *, now: datetime) -> bool:
        self.evidence.append(dict(condition.evidence))
        is_new = (kind, condition.subject) not in self.incidents
        if is_new:
            self.told.append(("opened", condition.subject, condition.message))
        self.incidents[kind, condition.subject] = OpenIncident(
            incident_id=len(self.told),
            kind=kind,
            subject=condition.subject,
            message=condition.message,
            opened_at=now,
            seen_at=now,
        )
        return is_new

    def over(self, kind: IncidentKind, subject: str, message: str, *, now: datetime) -> bool:
        was_open = self.incidents.pop((kind, subject), None) is not None
        if was_open:
            self.told.append(("closed", subject, message))
        return was_open

    def observe(self, kind, conditions, *, closing_message: str, now: datetime) -> tuple[int, int]:
        found = {one.subject: one for one in conditions}
        opened = sum(self.report(kind, one, now=now) for one in found.values())
        gone = [subject for known, subject in self.incidents if known is kind and subject not in found]
        return opened, sum(self.over(kind, subject, closing_message, now=now) for subject in gone)

    def open(self, kind: IncidentKind | None = None) -> tuple[OpenIncident, ...]:
        return tuple(one for one in self.incidents.values() if kind in (None, one.kind))

    def deliver(self, *, now: datetime) -> Delivered:
        self.rounds += 1
        return Delivered(sent=0, problems=())


@dataclass
class FakeConditions:
    """What is wrong, as PostgreSQL would say."""

    found: dict[IncidentKind, list[Condition]] = field(default_factory=dict)

    def conditions(self, *, now: datetime) -> dict[IncidentKind, tuple[Condition, ...]]:
        assert now.tzinfo is not None
        return {kind: tuple(self.found.get(kind, ())) for kind in CLOSING}


@dataclass
class FakeRetention:
    """Retention: how long it was asked to keep what was replaced."""

    asked: list[timedelta] = field(default_factory=list)

    def remove_unused(self, *, as_of: datetime, keep: timedelta) -> Retained:
        assert as_of.tzinfo is not None
        self.asked.append(keep)
        return Retained(
            removed_generations=3, removed_unknown=2, removed_bytes=500, leftovers=1, kept_files=7, kept_bytes=900
        )


@dataclass
class FakeReconciler:
    """Stripe read back: one invoice, whose `held` is what Stripe has of 800; one canary."""

    held: int = 800
    is_behind: bool = False
    behind_since: datetime | None = None
    canary_ours: int = 4200
    unknown_canaries: tuple[str, ...] = ()
    days: list[date] = field(default_factory=list)

    def reconcile(self, day: date, *, run_id: str) -> Reconciliation:
        self.days.append(day)
        start = datetime(2026, 3, 1, tzinfo=UTC)
        period = Window(start, datetime(2026, 4, 1, tzinfo=UTC))
        invoice = OurInvoice(
            invoice_id=UUID(int=1),
            account_id="acme",
            subscription_id="s",
            period=period,
            state=InvoiceState.DRAFT,
            currency="USD",
            lines={"k" * 32: 800},
        )
        standing = Standing(customer_id="cus_1", is_behind=self.is_behind, behind_since=self.behind_since)
        line = HeldLine(key="k" * 32, amount=self.held, currency="USD", where="in_1")
        canary = Canary(account_id="canary", subscription_id="s", total=Decimal("42.00"), since=start)
        return Reconciliation(
            day=day,
            compared_at=period.end,
            invoices_read=1,
            rows=reconcile("acme", [invoice], [line], standing),
            standings={"acme": standing},
            canaries=(
                CanaryResult(
                    canary=canary,
                    currency="USD",
                    period_start=start,
                    period_end=period.end,
                    expected=4200,
                    ours=self.canary_ours,
                    held=4200,
                ),
            ),
            unsendable={},
            unknown_canaries=self.unknown_canaries,
        )


@dataclass
class FakeStripeFollowing:
    """Stripe: so many events are new, so many open; a run applies all, or fails."""

    is_configured: bool = False
    new: int = 0
    open: int = 0
    failures: list[Exception] = field(default_factory=list)
    away: Exception | None = None
    polls: int = 0
    runs: list[str] = field(default_factory=list)

    def poll(self, *, may_go_on) -> tuple[Poll, ...]:
        assert may_go_on()
        self.polls += 1
        if self.away is not None:
            raise self.away
        found, self.new = self.new, 0
        self.open += found
        events = tuple(f"evt_{number}" for number in range(found))
        return (Poll(feed="v1", events_read=found, new_event_ids=events, is_complete=True, relist_reason=None),)

    def is_due(self) -> bool:
        return self.open > 0

    def follow(self, *, run_id: str) -> Followed:
        if self.failures:
            raise self.failures.pop(0)
        self.runs.append(run_id)
        applied, self.open = self.open, 0
        settled = Settled(invoices=0, failed={})
        return Followed(
            relisted=None,
            applied=Applied(objects=applied, events=applied, failed={}, is_complete=True, settled=settled),
        )


@dataclass
class FakeStripeSyncing:
    """The sync: what its runs come to, in order; drafts that wait."""

    is_configured: bool = False
    policy: SyncPolicy = field(default_factory=SyncPolicy)
    problems: list[str | None] = field(default_factory=list)
    waiting: int = 0
    runs: list[tuple[str, tuple[str, ...] | None, bool]] = field(default_factory=list)
    true_ups: list[str] = field(default_factory=list)

    @property
    def sync(self) -> SimpleNamespace:
        return SimpleNamespace(run=self._sync, demand=self._demand)

    @property
    def true_up(self) -> SimpleNamespace:
        return SimpleNamespace(run=self._true_up, is_due=lambda: self.waiting > 0)

    @property
    def credit_notes(self) -> SimpleNamespace:
        return SimpleNamespace(run=lambda run_id: Worked(results=(), left_over=(), problem=None))

    def _sync(self, *, run_id: str, accounts: tuple[str, ...] | None, verify: bool) -> SyncReport:
        self.runs.append((run_id, accounts, verify))
        problem = self.problems.pop(0) if self.problems else None
        return SyncReport(
            run_id=run_id,
            outcomes=(AccountOutcome(account_id="acme", state=SyncState.IN_STEP, calls_that_write=2),),
            skipped=3,
            unlinked=(),
            left_over=("beta",) if problem else (),
            reads=4,
            writes=2,
            problem=problem,
        )

    def _demand(self, account_id: str, *, run_id: str) -> AccountOutcome:
        self.runs.append((run_id, (account_id,), False))
        problem = self.problems.pop(0) if self.problems else None
        state = SyncState.FAILED if problem else SyncState.IN_STEP
        return AccountOutcome(account_id=account_id, state=state, problem=problem)

    def _true_up(self, *, run_id: str) -> TrueUpReport:
        self.true_ups.append(run_id)
        self.waiting = 0
        outcome = TrueUpOutcome(invoice_id="in_1", account_id="acme", outcome=Outcome.WAITING, problem="not whole")
        return TrueUpReport(run_id=run_id, outcomes=(outcome,), left_over=(), calls=CallsMade(reads=1, writes=1))


@dataclass
class FakeSyncReader:
    """How accounts stand: all in step, unless a finding or a dead letter is put here."""

    findings: tuple[Finding, ...] = ()
    dead_letters: int = 0

    def overview(self) -> SyncOverview:
        return SyncOverview(
            by_state={SyncState.IN_STEP: 4},
            oldest_behind=datetime(2026, 3, 1, tzinfo=UTC) if self.findings else None,
            waiting_drafts=1,
            findings=self.findings,
            dead_letters=self.dead_letters,
            last_ended=datetime(2026, 3, 2, tzinfo=UTC),
            last_problem=None,
        )


class World:
    """All fakes and the definitions over them."""

    def __init__(self) -> None:
        self.verdicts = FakeVerdicts()
        self.requests = FakeRequestStore(self.verdicts)
        self.usage = FakeUsageStore(self.verdicts)
        self.traffic = FakeTrafficStore(self.verdicts)
        self.traffic_usage = FakeTrafficUsageStore(self.verdicts)
        self.storage = FakeStorageStore(self.verdicts)
        self.storage_usage = FakeStorageUsageStore(self.verdicts)
        self.timelines = FakeTimelines()
        self.charges = FakeChargeStore(self.verdicts)
        self.payments = FakePaymentStore()
        self.invoices = FakeInvoiceStore()
        self.invoice_reader = FakeInvoiceReader()
        self.entitlements = FakeEntitlementStore()
        self.backtests = FakeBacktestStore()
        self.builds = FakeBuilds()
        self.catalog = FakeCatalogStore()
        self.retention = FakeRetention()
        self.alerts = FakeAlerts()
        self.conditions = FakeConditions()
        self.stripe_following = FakeStripeFollowing()
        self.reconciler = FakeReconciler()
        self.stripe_syncing = FakeStripeSyncing()
        self.stripe_sync_reader = FakeSyncReader()
        self.defs = build_defs(
            stores=Stores(
                requests=self.requests,
                traffic=self.traffic,
                storage=self.storage,
                request_usage=self.usage,
                traffic_usage=self.traffic_usage,
                storage_usage=self.storage_usage,
                timelines=self.timelines,
                catalog=self.catalog,
                charges=self.charges,
                payments=self.payments,
                entitlements=self.entitlements,
                backtests=self.backtests,
                invoices=self.invoices,
                invoice_reader=self.invoice_reader,
                added=None,
                proposals=None,
                builds=self.builds,
                retention=self.retention,
                stripe_following=self.stripe_following,
                reconciler=self.reconciler,
                stripe_syncing=self.stripe_syncing,
                stripe_sync_reader=self.stripe_sync_reader,
            ),
            catalog_dir=Path("/catalog"),
            verdicts=self.verdicts,
            alerts=self.alerts,
            alert_conditions=self.conditions,
        )

    def run(
        self,
        job: str,
        instance: dg.DagsterInstance,
        first: str,
        last: str | None = None,
        *,
        tags: dict[str, str] | None = None,
        assets: Sequence[str] | None = None,
    ) -> dg.ExecuteInProcessResult:
        """Run a job over a day, or over a range (both ends inside), as Dagster does; failures are returned."""
        days = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last} if last else {}
        return self.defs.resolve_job_def(job).execute_in_process(
            instance=instance,
            partition_key=None if last else first,
            tags={**days, **(tags or {})},
            asset_selection=[dg.AssetKey(key.split("/")) for key in assets] if assets else None,
            raise_on_error=False,
        )


def ingest_of(day: date, verdicts: FakeVerdicts) -> DayIngest:
    return DayIngest(
        day=day,
        generation="g1",
        uri=f"/lake/core/request_records/day={day}/g1.parquet",
        files=(),
        counts=LineCounts(lines_read=10, accepted=6, rejected=2, duplicate=1, out_of_scope=1),
        rejected_by_reason={"bad_json": 1, "future": 1},
        event_days={day: 6},
        verdicts=verdicts.of("core/request_records", [day.isoformat()]),
        seconds={"read files": Decimal("0.25")},
    )


def build_of(day: date, verdicts: FakeVerdicts) -> DayBuild:
    found = verdicts.of("usage/api_requests", [day.isoformat()])
    return DayBuild(
        day=day,
        state="held" if any(verdict.status is VerdictStatus.HELD for verdict in found) else "built",
        records_read=10,
        billable=7,
        not_billable_by_reason={"not_successful": 2},
        duplicates=1,
        conflicts=0,
        usage_rows=5,
        quantity_by_meter={"api_requests": Decimal("7.000000000")},
        top_accounts=(("acme", 4), ("zeta|corp", 3)),
        requests_by_hour=(0,) * 9 + (10,) + (0,) * 14,
        inputs_digest="d" * 64,
        verdicts=found,
    )


def booking_of(day: date, verdicts: FakeVerdicts) -> DayBooking:
    held = tuple(
        verdict.guard
        for verdict in verdicts.of("usage/api_requests", [day.isoformat()])
        if verdict.status is VerdictStatus.HELD
    )
    return DayBooking(
        day=day,
        charges_rated=2,
        revisions_booked=1,
        delta_by_currency={"EUR": 4839},
        held=held,
        top_accounts=(("acme", Money(4839, "EUR")),),
        verdicts=verdicts.of("billing/charges", [day.isoformat()]),
    )


def node_day(day: date, *, has_gap: bool) -> NodeDay:
    hours = tuple((hour, "gap" if has_gap and hour == 3 else "complete") for hour in range(24))
    return NodeDay(
        source="jp",
        env="prod",
        node="jp-node",
        day=day,
        complete=23 if has_gap else 24,
        partial=0,
        gap=1 if has_gap else 0,
        closed=0,
        missing_minutes=60 if has_gap else 0,
        snapshots=1440,
        samples=2880,
        hours=hours,
    )


def traffic_build_of(day: date, verdicts: FakeVerdicts) -> TrafficDayBuild:
    return TrafficDayBuild(
        day=day,
        state="built",
        samples_read=10,
        billable=7,
        not_billable_by_reason={"unknown_identity": 2},
        duplicates=1,
        conflicts=0,
        usage_rows=5,
        quantity_by_meter={"traffic": Decimal("7000.000000000")},
        bytes_by_hour=(0,) * 9 + (7000,) + (0,) * 14,
        bytes_by_node={"prod:jp-node": 7000},
        top_accounts=(("acme", 7000),),
        held_streams=0,
        unknown_identities=1,
        suspected_loss_bytes=30,
        inputs_digest="d" * 64,
        verdicts=verdicts.of("usage/traffic", [day.isoformat()]),
    )


def storage_build_of(day: date, verdicts: FakeVerdicts) -> StorageDayBuild:
    return StorageDayBuild(
        day=day,
        state="built",
        repositories=2,
        rebuilt=2,
        events_read=4,
        snapshots_read=2,
        duplicates=1,
        unsized_waiting=0,
        drift_failures=0,
        visibility_mismatches=0,
        usage_rows=24,
        private_byte_seconds=Decimal("244800000000000.000000"),
        public_byte_seconds=Decimal("79200000000000.000000"),
        unbilled_byte_seconds=Decimal(0),
        top_accounts=(("acme", Decimal("244800000000000.000000")),),
        inputs_digest="d" * 64,
        verdicts=verdicts.of("usage/storage", [day.isoformat()]),
    )
