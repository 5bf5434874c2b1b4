"""All drafts that wait, in one run: renewals that the mirror has queued, and invoices of our own whose period is over.

Never a run for each invoice. Drafts and items are listed for all together when there are several; drafts that would be final
before their turn are held first; then each is brought up to date, several at once, at the pace of Stripe's limits: 10,000 drafts
take two calls on lines each, 25 a second, about 15 minutes. What is not right yet is tried again by a later run. Not here: one
draft (true_up).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import psycopg

from billing_pipeline.catalog import Catalog
from billing_pipeline.stripe_sync.policy import SyncPolicy
from resources.catalog_store import current_catalog
from resources.database import Database
from resources.invoicing.invoice_store import InvoiceStore
from resources.stripe_api.calls import CallsMade
from resources.stripe_api.errors import StripeDeniedError, StripeUnavailableError
from resources.stripe_mirror import trueup_queue
from resources.stripe_mirror.links import stripe_links
from resources.stripe_mirror.trueup_queue import QueuedTrueUp
from resources.stripe_sync import intent_store, sync_store
from resources.stripe_sync.accounts import StripeAccount, stripe_accounts
from resources.stripe_sync.draft_target import Draft
from resources.stripe_sync.held import BulkListing, list_all
from resources.stripe_sync.intent_store import Purpose
from resources.stripe_sync.meter_writer import MeterWriter, usable_meters
from resources.stripe_sync.sync_store import RunCounts
from resources.stripe_sync.true_up import DraftListing, Outcome, TrueUp, TrueUpOutcome
from resources.stripe_sync.work import Worked, work_on
from resources.stripe_sync.writer import Reached, nothing_reached

if TYPE_CHECKING:
    from resources.stripe_api.gateway import StripeGateway

# From so many on, one list of all is cheaper than a question for each.
_LIST_ALL_FROM = 3
# Reads and writes of one draft on its busiest operation.
_CALLS_OF_ONE_OPERATION = 2
_DONE = frozenset({Outcome.RIGHT, Outcome.FINAL, Outcome.NONE_NEEDED, Outcome.GONE})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrueUpReport:
    """What a run came to. `left_over` were not reached."""

    run_id: str
    outcomes: tuple[TrueUpOutcome, ...]
    left_over: tuple[str, ...]
    calls: CallsMade
    problem: str | None = None

    def of(self, outcome: Outcome) -> tuple[TrueUpOutcome, ...]:
        """Return the drafts of which this became."""
        return tuple(one for one in self.outcomes if one.outcome is outcome)


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeTrueUp:
    """True-ups of one installation; see StripeSync for the fields."""

    database: Database
    store: InvoiceStore
    gateway: Callable[[], "StripeGateway"]
    policy: SyncPolicy = field(default_factory=SyncPolicy)
    clock: Callable[[], datetime]
    sleep: Callable[[float], None] = time.sleep
    reached: Reached = nothing_reached

    def is_due(self) -> bool:
        """Tell whether a draft waits to be tried now."""
        with self.database.reading() as connection:
            queued = trueup_queue.waiting(connection, now=self.clock()) or trueup_queue.missed(connection)
        return bool(queued) or bool(self._own_drafts_over())

    def run(self, *, run_id: str) -> TrueUpReport:
        """Bring all drafts that wait up to date.

        Raises:
            StripeKeyError: there is no usable key.
            CatalogNotLoadedError: there is no catalog.
        """
        now = self.clock()
        with self.database.reading() as connection:
            catalog = current_catalog(connection)
            linked = stripe_accounts(stripe_links(connection), catalog)
            queued = (*trueup_queue.waiting(connection, now=now), *trueup_queue.missed(connection))
        own = self._own_drafts_over()
        by_invoice = {one.invoice_id: one for one in queued}
        drafts = [*(found for one in queued if (found := _draft(one, linked))), *own]
        self._tell_unlinked([one for one in queued if _draft(one, linked) is None], now)
        if not drafts:
            return TrueUpReport(run_id=run_id, outcomes=(), left_over=(), calls=CallsMade())
        gateway = self.gateway()
        before = gateway.calls_made
        sync_store.begin_run(self.database, run_id, Purpose.TRUE_UP, now=now)
        self.store.compile_invoices(as_of=now, accounts=sorted({one.account.account_id for one in drafts}))
        worked = self._work(gateway, catalog, drafts, run_id)
        self._note_queue(worked.results, by_invoice)
        made = gateway.calls_made
        report = TrueUpReport(
            run_id=run_id,
            outcomes=worked.results,
            left_over=tuple(one.invoice_id for one in worked.left_over),
            calls=CallsMade(reads=made.reads - before.reads, writes=made.writes - before.writes),
            problem=worked.problem,
        )
        sync_store.end_run(self.database, run_id, _counts(report), now=self.clock())
        return report

    def _work(
        self, gateway: "StripeGateway", catalog: Catalog, drafts: Sequence[Draft], run_id: str
    ) -> Worked[Draft, TrueUpOutcome]:
        enough_time = timedelta(seconds=2 * len(drafts) * _CALLS_OF_ONE_OPERATION / gateway.limiter.pace.per_operation)
        try:
            listing, items = self._lists(gateway, drafts)
            meters = usable_meters(gateway, self.policy)
        except (StripeUnavailableError, StripeDeniedError) as error:
            return Worked(results=(), left_over=tuple(drafts), problem=error.what)

        def true_up(connection: psycopg.Connection) -> TrueUp:
            return TrueUp(
                store=self.store,
                gateway=gateway,
                connection=connection,
                catalog=catalog,
                policy=self.policy,
                run_id=run_id,
                clock=self.clock,
                enough_time=enough_time,
                drafts=listing,
                meters=MeterWriter(gateway=gateway, connection=connection, policy=self.policy, meters=meters),
                items=items,
                sleep=self.sleep,
                reached=self.reached,
            )

        ordered = sorted(drafts, key=lambda draft: (_finalizes_at(draft, listing), draft.invoice_id))
        if enough_time > self.policy.safe_time:
            # So many that some would be final before their turn: all of those are held first.
            held = work_on(
                self.database,
                [one for one in ordered if not one.is_ours],
                lambda connection, draft: true_up(connection).hold(draft),
                concurrency=self.policy.concurrency,
            )
            if held.problem is not None and held.left_over:
                return Worked(results=(), left_over=tuple(drafts), problem=held.problem)
        return work_on(
            self.database,
            ordered,
            lambda connection, draft: true_up(connection).bring_up(draft),
            concurrency=self.policy.concurrency,
        )

    def _lists(self, gateway: "StripeGateway", drafts: Sequence[Draft]) -> tuple[DraftListing, BulkListing | None]:
        with self.database.reading() as connection:
            newest = intent_store.newest_number(connection)
            row = connection.execute(
                "select min(period_start) from invoicing.draft_invoice where account_id = any(%s)",
                [[one.account.account_id for one in drafts]],
            ).fetchone()
        if len(drafts) < _LIST_ALL_FROM:
            return DraftListing(after_intent=newest), None
        wanted = {one.invoice_id for one in drafts}
        found = {one["id"]: one for one in gateway.list_invoices(status="draft") if one["id"] in wanted}
        since = row[0] if row is not None and row[0] is not None else self.clock()
        items = list_all(gateway, since=since, after_intent=newest)
        return DraftListing(after_intent=newest, invoices=found), items

    def _own_drafts_over(self) -> list[Draft]:
        """Return the drafts that this pipeline made and whose period is over."""
        with self.database.reading() as connection:
            rows = connection.execute(
                """
                select draft_invoice.account_id, draft_invoice.subscription_id, made.stripe_id
                from invoicing.draft_invoice
                join stripe.intent on intent.subject = draft_invoice.invoice_id::text
                    and intent.operation = 'invoices.create'
                join stripe.intent_state as made on made.intent_id = intent.intent_id and made.state = 'answered'
                where draft_invoice.period_end <= %s
                order by draft_invoice.period_end, made.stripe_id
                """,
                [self.clock()],
            ).fetchall()
            if not rows:
                return []
            linked = stripe_accounts(stripe_links(connection), current_catalog(connection))
        return [
            Draft(
                invoice_id=stripe_id,
                account=linked[account_id],
                subscription_id=subscription_id,
                boundary_at=None,
                is_ours=True,
            )
            for account_id, subscription_id, stripe_id in rows
            if account_id in linked
        ]

    def _note_queue(self, outcomes: Sequence[TrueUpOutcome], queued: Mapping[str, QueuedTrueUp]) -> None:
        now = self.clock()
        with self.database.transaction() as connection:
            for one in outcomes:
                if one.invoice_id not in queued:
                    continue
                if one.outcome in _DONE:
                    trueup_queue.done(connection, one.invoice_id, now=now)
                else:
                    trueup_queue.postponed(
                        connection,
                        one.invoice_id,
                        problem=one.problem or one.outcome,
                        not_before=now + self.policy.retry_after,
                        now=now,
                    )

    def _tell_unlinked(self, queued: Sequence[QueuedTrueUp], now: datetime) -> None:
        with self.database.transaction() as connection:
            for one in queued:
                trueup_queue.postponed(
                    connection,
                    one.invoice_id,
                    problem=f"no subscription here stands for {one.stripe_subscription_id}",
                    not_before=now + self.policy.retry_after,
                    now=now,
                )


def _draft(queued: QueuedTrueUp, linked: Mapping[str, StripeAccount]) -> Draft | None:
    """Return the draft of a queued renewal, None where its subscription stands for none of ours."""
    account = linked.get(queued.account_id)
    if account is None:
        return None
    ours = [
        subscription_id
        for subscription_id, subscription in account.subscriptions.items()
        if subscription.subscription_id == queued.stripe_subscription_id
    ]
    if not ours:
        return None
    return Draft(
        invoice_id=queued.invoice_id,
        account=replace(account, customer_id=queued.customer_id),
        subscription_id=ours[0],
        boundary_at=queued.boundary_at,
    )


def _finalizes_at(draft: Draft, listing: DraftListing) -> int:
    invoice = listing.invoices.get(draft.invoice_id) or {}
    return int(invoice.get("automatically_finalizes_at") or 0)


def _counts(report: TrueUpReport) -> RunCounts:
    return RunCounts(
        accounts=len({one.account_id for one in report.outcomes}),
        in_step=len(report.of(Outcome.RIGHT)),
        failed=len(report.of(Outcome.FAILED)),
        left_over=len(report.left_over),
        reads=report.calls.reads,
        writes=report.calls.writes,
        problem=report.problem,
    )
