"""Bring one draft up to date before it is final: hold it, diff, at most three calls for 100 lines, read back, let it go.

It is let go when every line that is ours was read back and is right, the period is whole, and no person holds it. Until then it
is held, but not for ever: when the time is over, or nobody works any more, Stripe finalizes it with what was sent last, and what
is missing is a correction on the next invoice. Not here: what it is to hold (draft_target), which drafts (true_up_run), until
when (holding).
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING

import psycopg

from billing_pipeline.catalog import Catalog
from billing_pipeline.errors import BillingError
from billing_pipeline.invoicing.stripe_amounts import to_stripe
from billing_pipeline.stripe_sync.lines import HeldItem, wanted_digest
from billing_pipeline.stripe_sync.plan import DeleteItem, Plan, plan_draft
from billing_pipeline.stripe_sync.policy import SyncPolicy
from resources.invoicing.invoice_store import InvoiceStore
from resources.stripe_api.calls import Json
from resources.stripe_api.errors import StripeDeniedError, StripeUnavailableError
from resources.stripe_sync import holding, intent_store, sync_store
from resources.stripe_sync.charged import (
    Charged,
    Standing,
    amounts_by_key,
    finalized_at_of,
    issues_of_period,
    record_charged,
    standing_of,
)
from resources.stripe_sync.charged_beside import amounts_by_meter, charged_beside
from resources.stripe_sync.draft_target import Draft, NoSuchPeriodError, Target, target_of_draft, target_of_period
from resources.stripe_sync.held import BulkListing, HeldAtStripe
from resources.stripe_sync.intent_store import Doer, Purpose
from resources.stripe_sync.meter_writer import MeterWriter
from resources.stripe_sync.open_invoices import open_invoices
from resources.stripe_sync.requests import Held, write_of
from resources.stripe_sync.sync_store import FindingKind, TrueUpRow, TrueUpState
from resources.stripe_sync.writer import Reached, Writer, locked_customer, nothing_reached

if TYPE_CHECKING:
    from resources.stripe_api.gateway import StripeGateway

# A line that is wrong after the second round is changed by somebody else.
_MOST_ROUNDS = 3
_CLOSED_BY_RIGHT = (
    FindingKind.ACCOUNT_FAILED,
    FindingKind.PERIOD_INCOMPLETE,
    FindingKind.HOLD_EXHAUSTED,
    FindingKind.READ_BACK_DIFFERS,
    FindingKind.NO_PERIOD,
)


class Outcome(StrEnum):
    """What became of a draft in this run."""

    RIGHT = "right"
    WAITING = "waiting"
    FINAL = "final"
    FAILED = "failed"
    NONE_NEEDED = "none_needed"
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftListing:
    """Drafts as a list has just shown them, and the newest intent before that."""

    after_intent: int
    invoices: Mapping[str, Json] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrueUpOutcome:
    """What became of a draft, and why it is not right."""

    invoice_id: str
    account_id: str
    outcome: Outcome
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrueUp:
    """Works over one session of PostgreSQL that commits by itself. `enough_time`: how long a draft must have left for all that
    wait in this run to have their turn."""

    store: InvoiceStore
    gateway: "StripeGateway"
    connection: psycopg.Connection
    catalog: Catalog
    policy: SyncPolicy
    run_id: str
    clock: Callable[[], datetime]
    enough_time: timedelta
    drafts: DraftListing
    meters: MeterWriter
    items: BulkListing | None = None
    sleep: Callable[[float], None] = time.sleep
    reached: Reached = nothing_reached

    def bring_up(self, draft: Draft) -> TrueUpOutcome:
        """Bring a draft up to date, and let it go when it may go.

        Raises:
            StripeUnavailableError, StripeDeniedError: Stripe is away, or lets this key do nothing.
            CustomerBusyError: another run works on the customer.
        """
        with locked_customer(self.connection, draft.account.customer_id):
            try:
                return self._bring_up(draft)
            except (StripeUnavailableError, StripeDeniedError):
                raise
            except NoSuchPeriodError as error:
                return self._failed(draft, error.what, kind=FindingKind.NO_PERIOD)
            except BillingError as error:
                return self._failed(draft, error.what, kind=FindingKind.ACCOUNT_FAILED)

    def hold(self, draft: Draft) -> None:
        """Hold a draft that has not enough time left to wait for its turn. Raises as `bring_up`."""
        with locked_customer(self.connection, draft.account.customer_id):
            writer = self._writer(draft)
            held = self._listed(draft)
            if writer.settle_open(held):
                held = writer.fresh()
            invoice = held.invoice(draft.invoice_id)
            if invoice is not None and invoice["status"] == "draft":
                holding.hold(writer, invoice, holding.for_time(invoice, self.clock(), self.enough_time, self.policy))

    def _bring_up(self, draft: Draft) -> TrueUpOutcome:
        writer = self._writer(draft)
        held = self._listed(draft)
        if writer.settle_open(held):
            held = writer.fresh()
        invoice = held.invoice(draft.invoice_id)
        if invoice is None:
            return self._outcome(draft, Outcome.GONE)
        if not draft.is_ours and invoice["billing_reason"] not in self.policy.renewal_reasons:
            return self._outcome(draft, Outcome.NONE_NEEDED)
        target = target_of_draft(self.connection, self.catalog, draft, invoice, now=self.clock())
        if invoice["status"] != "draft":
            return self._final(draft, target, invoice, held, writer)
        finalizes_at = holding.hold(
            writer,
            invoice,
            holding.needed(target, invoice, self.clock(), self.enough_time, self.policy),
        )
        problems: tuple[str, ...] = ()
        for _ in range(_MOST_ROUNDS):
            target, plan = self._planned(draft, target, held)
            problems = plan.problems
            if not plan.commands and not writer.answered:
                break
            writes = [
                write_of(one, customer_id=draft.account.customer_id, subscription_id=None) for one in plan.commands
            ]
            refused = writer.send(writes)
            held, unseen = writer.confirm(self._read_back(draft, held, plan))
            problems = (*plan.problems, *refused, *unseen)
            if writer.settle_open(held):
                held = writer.fresh()
            if problems:
                break
        _, plan = self._planned(draft, target, held)
        if problems or plan.commands:
            invoice = writer.fresh().invoice(draft.invoice_id)
            if invoice is not None and invoice["status"] != "draft":
                # It became final while it was worked on.
                return self._final(draft, target, invoice, writer.fresh(), writer)
            apart = "; ".join(problems) or "its lines, read back, are not what was sent"
            return self._failed(draft, apart, kind=FindingKind.READ_BACK_DIFFERS)
        return self._right(draft, target, held, invoice, writer, finalizes_at)

    def _planned(self, draft: Draft, target: Target, held: Held) -> tuple[Target, Plan]:
        """Return what is to be done, after what other invoices have charged meanwhile is recorded."""
        target, standing = self._standing(draft, target, held)
        settled = () if standing is None else standing.settled
        pending = () if standing is None else standing.pending
        # All lines of ours: those of other invoices of ours do not belong here, and go.
        lines = held.lines(draft.invoice_id)
        return target, plan_draft(draft.invoice_id, target.wanted, lines, pending=pending, settled=settled)

    def _standing(self, draft: Draft, target: Target, held: Held) -> tuple[Target, Standing | None]:
        """Record what other invoices have charged of the period, and return what is left of it and where that is."""
        while target.compiled is not None:
            standing = standing_of(
                target.compiled, held, renewal_reasons=self.policy.renewal_reasons, draft_id=draft.invoice_id
            )
            beside = partial(self._beside, draft, held)
            if record_charged(self.store, standing.charged, beside=beside, now=self.clock()) is None:
                return target, standing
            target = target_of_period(self.connection, self.catalog, target.key, now=self.clock())
        return target, None

    def _beside(self, draft: Draft, held: Held, charged: Charged) -> Mapping[str, int]:
        return charged_beside(self.meters, draft.account, charged, held, now=self.clock())

    def _right(
        self,
        draft: Draft,
        target: Target,
        held: Held,
        invoice: Json,
        writer: Writer,
        finalizes_at: datetime | None,
    ) -> TrueUpOutcome:
        """Write that the draft was read back and is right; let it go unless its period is not whole or a person holds it."""
        self.reached("right")
        kept = target.why_kept or self._meters_kept(draft, target, writer)
        if kept is not None:
            if target.why_kept is None:
                finalizes_at = holding.hold(writer, invoice, holding.longest(invoice, self.policy)) or finalizes_at
            return self._waiting(draft, target, invoice, finalizes_at, kept)
        holding.let_go(writer, invoice, finalizes_at, self.clock(), self.policy, is_ours=draft.is_ours)
        now = self.clock()
        with self.connection.transaction():
            items = [item for item in held.items() if item.account_id == draft.account.account_id]
            account = draft.account
            sync_store.replace_items(self.connection, account.account_id, account.customer_id, items, now=now)
            self._put(draft, TrueUpState.RIGHT, target=target, held=held, verified_at=now)
            sync_store.close_findings_of_subject(self.connection, _CLOSED_BY_RIGHT, draft.invoice_id, now=now)
        self.reached("recorded")
        return self._outcome(draft, Outcome.RIGHT)

    def _meters_kept(self, draft: Draft, target: Target, writer: Writer) -> str | None:
        """Tell the meters the final totals of the period, and return why the draft waits for them."""
        if target.compiled is None:
            return self.meters.why_nothing(draft.account, target.key.period) if self.policy.meters else None
        if not self.policy.meters and not any(item.by_meter for item in target.compiled.detail):
            return None
        problems = self.meters.bring(draft.account, [target.compiled], writer)
        return "; ".join(problems) or self.meters.why_kept(draft.account, target.compiled)

    def _waiting(
        self, draft: Draft, target: Target, invoice: Json, finalizes_at: datetime | None, kept: str
    ) -> TrueUpOutcome:
        is_exhausted = not draft.is_ours and holding.is_exhausted(target, invoice, self.clock(), self.policy)
        if is_exhausted:
            until = "it cannot be held any longer, and Stripe finalizes it as it is"
        elif finalizes_at is None:
            until = "it is not finalized before that"
        else:
            until = f"it is held until {finalizes_at:%Y-%m-%d %H:%M} UTC at most, then Stripe finalizes it as it is"
        kind = FindingKind.HOLD_EXHAUSTED if is_exhausted else FindingKind.PERIOD_INCOMPLETE
        with self.connection.transaction():
            self._put(draft, TrueUpState.WAITING, target=target, hold_until=finalizes_at, problem=kept)
            self._open_finding(
                kind, draft, f"{draft.invoice_id} holds what is known and stays a draft: {kept}; {until}"
            )
        return self._outcome(draft, Outcome.WAITING, kept)

    def _final(self, draft: Draft, target: Target, invoice: Json, held: Held, writer: Writer) -> TrueUpOutcome:
        """Record what Stripe has charged; what is missing is a correction on the next invoice from now on."""
        now, apart = self.clock(), 0
        if invoice["status"] != "void":
            # What an invoice in mid-period has taken is charged already: without that it would be charged again.
            target, standing = self._standing(draft, target, held)
            if late := self._late_items(target, held):
                # What waits comes too late for it, and any invoice would charge it beside the correction.
                customer_id = draft.account.customer_id
                refused = writer.send([write_of(one, customer_id=customer_id, subscription_id=None) for one in late])
                held, unseen = writer.confirm(writer.fresh())
                target, standing = self._standing(draft, target, held)
                if refused or unseen or self._late_items(target, held):
                    left = "; ".join((*refused, *unseen)) or "items that came too late for it are still pending"
                    return self._failed(draft, left, kind=FindingKind.READ_BACK_DIFFERS)
            if standing is not None and standing.settled:
                return self._on_another_draft(draft, standing)
        if target.compiled is not None and invoice["status"] != "void":
            issues = issues_of_period(self.connection, target.compiled.key)
            mine = [line for line in held.lines(draft.invoice_id) if line.compiled_id in issues]
            amounts = amounts_by_key(mine)
            by_meter = amounts_by_meter(
                self.meters,
                draft.account,
                target.compiled,
                held.lines(draft.invoice_id),
                invoice_id=draft.invoice_id,
                now=now,
            )
            self.store.record_finalized(
                target.key,
                external_id=draft.invoice_id,
                finalized_at=finalized_at_of(invoice),
                held={**amounts, **by_meter},
                now=now,
            )
            apart = sum(line.amount for line in target.wanted) - sum(amounts.values())
            metered = [item for item in target.compiled.detail if item.item_key in by_meter]
            apart += sum(to_stripe(item.amount) for item in metered) - sum(by_meter.values())
        with self.connection.transaction():
            self._put(draft, TrueUpState.FINAL, target=target, held=held)
            sync_store.close_findings_of_subject(self.connection, _CLOSED_BY_RIGHT, draft.invoice_id, now=now)
            if apart:
                self._open_finding(
                    FindingKind.FINAL_BEFORE_TRUE_UP,
                    draft,
                    f"{draft.invoice_id} was final before its last figures were there: {apart} minor units come as a correction on "
                    "the account's next invoice",
                )
        return self._outcome(draft, Outcome.FINAL, f"{apart} minor units apart" if apart else None)

    def _late_items(self, target: Target, held: Held) -> list[DeleteItem]:
        """Return what takes away the pending items of a period whose invoice is final."""
        if target.compiled is None:
            return []
        issues = issues_of_period(self.connection, target.compiled.key)
        return [
            DeleteItem(item_id=one.item_id, key=one.key)
            for one in held.items()
            if one.is_pending and one.item_id and one.key and one.compiled_id in issues
        ]

    def _on_another_draft(self, draft: Draft, standing: Standing) -> TrueUpOutcome:
        """Do not record a final invoice while a draft of others has lines of its period: whether they are charged is open."""
        others = ", ".join(sorted({item.invoice_id for item in standing.settled if item.invoice_id is not None}))
        problem = f"lines of its period are on {others}, a draft that somebody else made"
        with self.connection.transaction():
            self._put(draft, TrueUpState.FAILED, problem=problem)
            self._open_finding(
                FindingKind.FINAL_BEFORE_TRUE_UP,
                draft,
                f"{draft.invoice_id} is final, and {problem}: what is missing is charged once that is final or deleted",
            )
        return self._outcome(draft, Outcome.FAILED, problem)

    def _failed(self, draft: Draft, problem: str, *, kind: FindingKind) -> TrueUpOutcome:
        with self.connection.transaction():
            self._put(draft, TrueUpState.FAILED, problem=problem)
            self._open_finding(
                kind,
                draft,
                f"{draft.invoice_id} is not let go: {problem}. It is tried again, until Stripe finalizes it as it is",
            )
        return self._outcome(draft, Outcome.FAILED, problem)

    def _outcome(self, draft: Draft, outcome: Outcome, problem: str | None = None) -> TrueUpOutcome:
        return TrueUpOutcome(
            invoice_id=draft.invoice_id, account_id=draft.account.account_id, outcome=outcome, problem=problem
        )

    def _writer(self, draft: Draft) -> Writer:
        account = draft.account
        return Writer(
            gateway=self.gateway,
            connection=self.connection,
            doer=Doer(
                account_id=account.account_id,
                customer_id=account.customer_id,
                run_id=self.run_id,
                purpose=Purpose.TRUE_UP,
            ),
            clock=self.clock,
            fresh=lambda: self._held(draft),
            sleep=self.sleep,
            reached=self.reached,
        )

    def _listed(self, draft: Draft) -> Held:
        """Return what lists have shown of the draft and its customer, unless somebody has written for it since."""
        invoice = self.drafts.invoices.get(draft.invoice_id)
        customer_id = draft.account.customer_id
        if invoice is None or intent_store.written_since(self.connection, customer_id, self.drafts.after_intent):
            return self._held(draft)
        items = None if self.items is None else self.items.of(customer_id)
        return self._held(draft, invoice=invoice, items=items)

    def _read_back(self, draft: Draft, before: Held, plan: Plan) -> Held:
        """Return the draft's lines as they are now; what else the customer has is as before, unless it was written to."""
        if any(isinstance(one, DeleteItem) for one in plan.commands):
            return self._held(draft)
        return self._held(draft, items=before.items())

    def _held(
        self, draft: Draft, *, invoice: Json | None = None, items: tuple[HeldItem, ...] | None = None
    ) -> HeldAtStripe:
        customer_id = draft.account.customer_id
        periods = [one.period.start for one in open_invoices(self.connection, draft.account.account_id)]
        return HeldAtStripe(
            self.gateway,
            customer_id,
            since=min(periods, default=self.clock()).astimezone(UTC),
            known_ids=()
            if items is not None
            else sync_store.known_item_ids(self.connection, customer_id, now=self.clock()),
            listed=items,
            invoices=() if invoice is None else (invoice,),
        )

    def _open_finding(self, kind: FindingKind, draft: Draft, message: str) -> None:
        account_id = draft.account.account_id
        sync_store.open_finding(
            self.connection, kind, draft.invoice_id, message, account_id=account_id, now=self.clock()
        )

    def _put(
        self,
        draft: Draft,
        state: TrueUpState,
        *,
        target: Target | None = None,
        held: Held | None = None,
        hold_until: datetime | None = None,
        problem: str | None = None,
        verified_at: datetime | None = None,
    ) -> None:
        row = TrueUpRow(
            invoice_id=draft.invoice_id,
            account_id=draft.account.account_id,
            customer_id=draft.account.customer_id,
            state=state,
            hold_until=hold_until,
            problem=problem,
            verified_at=verified_at,
        )
        if target is not None:
            row = replace(
                row,
                compiled_id=target.key.invoice_id,
                period_start=target.key.period.start,
                period_end=target.key.period.end,
                wanted_digest=wanted_digest(target.wanted),
            )
        if held is not None:
            ours = [line.amount for line in held.lines(draft.invoice_id) if line.key is not None]
            row = replace(row, total_stripe_minor=sum(ours))
        sync_store.put_true_up(self.connection, row, run_id=self.run_id, now=self.clock())
