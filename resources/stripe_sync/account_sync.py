"""Bring one account in step with Stripe: its open invoices -> pending items, or drafts of our own, read back and equal.

Under the customer's lock: what is wanted is read from PostgreSQL, what is held from Stripe, what earlier runs left open is
settled, the difference is sent, Stripe is read again. A renewal's draft is not touched here (true_up). What an invoice of Stripe
has charged is recorded before anything more is planned, so that it is not charged again. Not here: many accounts (sync_run).
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import psycopg

from billing_pipeline.errors import BillingError
from billing_pipeline.invoicing.items import CompiledInvoice
from billing_pipeline.stripe_sync.lines import HeldItem, WantedLine, wanted_digest
from billing_pipeline.stripe_sync.plan import Command, CreateItem, DeleteItem, plan_draft, plan_pending
from billing_pipeline.stripe_sync.policy import SyncPolicy
from billing_pipeline.stripe_sync.wanted import wanted_lines
from resources.invoicing.invoice_store import InvoiceStore
from resources.stripe_api.errors import StripeDeniedError, StripeUnavailableError
from resources.stripe_sync import intent_store, sync_store
from resources.stripe_sync.accounts import StripeAccount
from resources.stripe_sync.adjusted import invoices_adjusted
from resources.stripe_sync.charged import Charged, charged_by_renewal, record_charged, standing_of
from resources.stripe_sync.charged_beside import charged_beside
from resources.stripe_sync.held import BulkListing, HeldAtStripe
from resources.stripe_sync.intent_store import Doer, Purpose, Write
from resources.stripe_sync.meter_writer import MeterWriter
from resources.stripe_sync.open_invoices import open_invoices
from resources.stripe_sync.own_invoices import own_invoice, write_of_new_invoice
from resources.stripe_sync.requests import Held, write_of
from resources.stripe_sync.sync_store import FindingKind, SyncState
from resources.stripe_sync.writer import Reached, Writer, locked_customer, nothing_reached

if TYPE_CHECKING:
    from resources.stripe_api.gateway import StripeGateway

# Each round reads back what the one before has sent. A draft of our own takes one to make and one to fill.
MOST_ROUNDS = 4


class AccountUnsyncableError(BillingError):
    """An account that cannot be brought in step without a person: nothing was written for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountOutcome:
    """How an account stands after a sync. `writes`: what would be sent, of a dry run; `problem`: why it is not in step."""

    account_id: str
    state: SyncState
    problem: str | None = None
    writes: tuple[Write, ...] = ()
    calls_that_write: int = 0


@dataclass(slots=True, kw_only=True)
class _Planned:
    """What one look at Stripe leads to."""

    writes: list[Write] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    charged: list[Charged] = field(default_factory=list)
    creates_money: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountSync:
    """Syncs accounts over one session of PostgreSQL that commits by itself."""

    store: InvoiceStore
    gateway: "StripeGateway"
    connection: psycopg.Connection
    policy: SyncPolicy
    run_id: str
    purpose: Purpose
    clock: Callable[[], datetime]
    meters: MeterWriter
    again: bool = False
    """Tell meters again what they have reported not to count."""
    sleep: Callable[[float], None] = time.sleep
    reached: Reached = nothing_reached

    def sync(
        self, account: StripeAccount, *, fresh_for_seconds: float, listing: BulkListing | None = None
    ) -> AccountOutcome:
        """Bring the account in step and say how it stands.

        Where it was in step `fresh_for_seconds` ago and the same is wanted, Stripe is not asked: of many demands at once the first
        does the work. `listing` is what a list of all customers has just shown.

        Raises:
            StripeUnavailableError, StripeDeniedError: Stripe is away, or lets this key do nothing.
            CustomerBusyError: another run works on the customer.
        """
        with locked_customer(self.connection, account.customer_id):
            began_at = self.clock()
            try:
                return self._sync_locked(account, began_at, fresh_for_seconds, listing)
            except (StripeUnavailableError, StripeDeniedError) as error:
                self._not_in_step(account, SyncState.BEHIND, error.what)
                raise
            except BillingError as error:
                # Of this account alone: the others go on.
                return self._not_in_step(account, SyncState.FAILED, error.what)

    def preview(self, account: StripeAccount) -> tuple[Write, ...]:
        """Return what a sync would send now, having written nothing anywhere.

        Raises:
            AccountUnsyncableError, StripeUnavailableError, StripeDeniedError: see there.
        """
        invoices = self._open_invoices(account)
        _refuse_impossible(account, invoices)
        held = self._fresh(account, invoices)
        planned = self._plan(account, invoices, held)
        if planned.problems:
            raise _unsyncable(account, "; ".join(planned.problems))
        return (*planned.writes, *self.meters.preview(account, invoices, now=self.clock()))

    def _sync_locked(
        self, account: StripeAccount, began_at: datetime, fresh_for_seconds: float, listing: BulkListing | None
    ) -> AccountOutcome:
        invoices = self._open_invoices(account)
        digest = _digest(account, invoices)
        if fresh_for_seconds > 0 and self._is_fresh(digest, began_at, fresh_for_seconds, account):
            return AccountOutcome(account_id=account.account_id, state=SyncState.IN_STEP)
        _refuse_impossible(account, invoices)
        writer = self._writer(account, invoices)
        held: Held = self._listed(account, invoices, listing) or writer.fresh()
        problems: list[str] = []
        for _ in range(MOST_ROUNDS):
            if writer.settle_open(held):
                held = writer.fresh()
            planned = self._plan(account, invoices, held)
            beside = partial(self._beside, account, held)
            while record_charged(self.store, planned.charged, beside=beside, now=began_at) is not None:
                invoices = self._open_invoices(account)
                digest = _digest(account, invoices)
                planned = self._plan(account, invoices, held)
            problems = list(planned.problems)
            if not planned.writes and not writer.answered:
                break
            if planned.creates_money and account.currency is None:
                self._check_currency(account, invoices)
            refused = writer.send(planned.writes)
            held, unseen = writer.confirm(writer.fresh())
            problems = [*planned.problems, *refused, *unseen]
            if refused or unseen:
                break
        else:
            problems.append("Stripe and the books are still apart after several rounds")
        problems += self.meters.bring(account, invoices, writer, again=self.again)
        return self._ended(account, held, digest, began_at, problems, writer.writes)

    def _ended(
        self,
        account: StripeAccount,
        held: Held,
        digest: str,
        began_at: datetime,
        problems: list[str],
        writes: int,
    ) -> AccountOutcome:
        now = self.clock()
        items = [item for item in held.items() if item.account_id == account.account_id]
        with self.connection.transaction():
            sync_store.replace_items(self.connection, account.account_id, account.customer_id, items, now=now)
            if not problems:
                sync_store.put_in_step(
                    self.connection,
                    account.account_id,
                    account.customer_id,
                    wanted_digest=digest,
                    began_at=began_at,
                    verified_at=now,
                    run_id=self.run_id,
                )
                sync_store.close_findings_in_step(self.connection, account.account_id, now=now)
        self.reached("recorded")
        if problems:
            return self._not_in_step(account, SyncState.FAILED, "; ".join(problems), writes=writes)
        return AccountOutcome(account_id=account.account_id, state=SyncState.IN_STEP, calls_that_write=writes)

    def _not_in_step(
        self, account: StripeAccount, state: SyncState, problem: str, *, writes: int = 0
    ) -> AccountOutcome:
        now = self.clock()
        with self.connection.transaction():
            sync_store.put_not_in_step(
                self.connection,
                account.account_id,
                account.customer_id,
                state,
                problem=problem,
                run_id=self.run_id,
                now=now,
            )
            if state is SyncState.FAILED:
                sync_store.open_finding(
                    self.connection,
                    FindingKind.ACCOUNT_FAILED,
                    account.account_id,
                    problem,
                    account_id=account.account_id,
                    now=now,
                )
        return AccountOutcome(account_id=account.account_id, state=state, problem=problem, calls_that_write=writes)

    def _is_fresh(self, digest: str, began_at: datetime, fresh_for_seconds: float, account: StripeAccount) -> bool:
        state = sync_store.account_states(self.connection, [account.account_id]).get(account.account_id)
        if state is None or state.state is not SyncState.IN_STEP or state.verified_at is None:
            return False
        age = (began_at - state.verified_at).total_seconds()
        if state.wanted_digest != digest or age >= fresh_for_seconds:
            return False
        return not intent_store.open_intents(self.connection, account.customer_id)

    def _plan(self, account: StripeAccount, invoices: tuple[CompiledInvoice, ...], held: Held) -> _Planned:
        planned = _Planned()
        adjusts = invoices_adjusted(self.connection, invoices)
        for compiled in invoices:
            wanted = wanted_lines(compiled, adjusts=adjusts)
            subscription = account.subscriptions.get(compiled.subscription_id or "")
            if subscription is None or subscription.is_ended:
                self._plan_own(account, compiled, wanted, held, planned)
                continue
            standing = standing_of(compiled, held, renewal_reasons=self.policy.renewal_reasons)
            planned.charged += standing.charged
            is_over = subscription.period is not None and subscription.period.start >= compiled.period.end
            if is_over and not standing.charged:
                # No item of ours tells that the renewal is final, where it charged nothing, or by meter alone.
                planned.charged += charged_by_renewal(self.connection, compiled, held)
            if standing.renewal_draft is not None or is_over or not self.policy.daily_push:
                continue
            plan = plan_pending(wanted, standing.pending, settled=standing.settled)
            self._take(account, plan.commands, plan.problems, planned, subscription_id=subscription.subscription_id)
        self._plan_strays(account, invoices, held, planned)
        return planned

    def _beside(self, account: StripeAccount, held: Held, charged: Charged) -> Mapping[str, int]:
        return charged_beside(self.meters, account, charged, held, now=self.clock())

    def _plan_own(
        self,
        account: StripeAccount,
        compiled: CompiledInvoice,
        wanted: tuple[WantedLine, ...],
        held: Held,
        planned: _Planned,
    ) -> None:
        invoice = own_invoice(compiled, held)
        draft_id = invoice["id"] if invoice is not None and invoice["status"] == "draft" else None
        standing = standing_of(compiled, held, renewal_reasons=self.policy.renewal_reasons, draft_id=draft_id)
        planned.charged += standing.charged
        if invoice is not None and draft_id is None:
            if not standing.charged:
                planned.charged.append(Charged(compiled=compiled, invoice=invoice, items=(), is_own=True))
            return
        if standing.renewal_draft is not None:
            return
        if draft_id is None:
            if any(line.amount for line in wanted):
                self._refuse_unlinked_subscription(account, compiled)
                planned.writes.append(write_of_new_invoice(compiled, account.customer_id, self.policy))
                planned.creates_money = True
            return
        plan = plan_draft(draft_id, wanted, held.lines(draft_id), pending=standing.pending, settled=standing.settled)
        self._take(account, plan.commands, plan.problems, planned, subscription_id=None)

    def _refuse_unlinked_subscription(self, account: StripeAccount, compiled: CompiledInvoice) -> None:
        """Make no invoice of our own beside a subscription that Stripe bills: it is asked once, before one is made."""
        if compiled.subscription_id in account.unseen_subscriptions:
            raise _unsyncable(
                account,
                f"subscription {compiled.subscription_id!r} stands for one at Stripe that was not seen there yet. Refresh what is "
                "mirrored, and look whether its id in the catalog is right",
            )
        linked = {one.subscription_id for one in account.subscriptions.values()}
        for one in self.gateway.list_subscriptions(customer=account.customer_id):
            if one["id"] not in linked:
                raise _unsyncable(
                    account,
                    f"customer {account.customer_id} has the subscription {one['id']} at Stripe, and nobody says for which of ours "
                    f"it stands. Set bp_subscription in its metadata (to {compiled.subscription_id!r}?), or stripe_subscription "
                    "in the catalog",
                )

    def _plan_strays(
        self, account: StripeAccount, invoices: tuple[CompiledInvoice, ...], held: Held, planned: _Planned
    ) -> None:
        """Delete pending items of invoices that are not open any more: the next invoice would charge them."""
        known = {str(compiled.invoice_id) for compiled in invoices}
        strays = [
            item
            for item in held.items()
            if item.is_pending and item.key and item.account_id == account.account_id and item.compiled_id not in known
        ]
        if strays and not invoices:
            planned.problems.append(_nothing_compiled(strays))
            return
        commands = [DeleteItem(item_id=item.item_id, key=item.key) for item in strays if item.item_id and item.key]
        self._take(account, commands, (), planned, subscription_id=None)

    def _take(
        self,
        account: StripeAccount,
        commands: list[DeleteItem] | tuple[Command, ...],
        problems: tuple[str, ...],
        planned: _Planned,
        *,
        subscription_id: str | None,
    ) -> None:
        planned.problems += problems
        for command in commands:
            planned.writes.append(write_of(command, customer_id=account.customer_id, subscription_id=subscription_id))
            planned.creates_money |= isinstance(command, CreateItem)

    def _check_currency(self, account: StripeAccount, invoices: tuple[CompiledInvoice, ...]) -> None:
        """Ask Stripe which currency the customer is locked to, before the first item is made."""
        customer = self.gateway.retrieve_customer(account.customer_id)
        if customer.get("deleted"):
            raise _deleted(account)
        locked = customer.get("currency")
        _refuse_currency(account, invoices, locked.upper() if locked else None)

    def _open_invoices(self, account: StripeAccount) -> tuple[CompiledInvoice, ...]:
        return open_invoices(self.connection, account.account_id)

    def _writer(self, account: StripeAccount, invoices: tuple[CompiledInvoice, ...]) -> Writer:
        return Writer(
            gateway=self.gateway,
            connection=self.connection,
            doer=Doer(
                account_id=account.account_id,
                customer_id=account.customer_id,
                run_id=self.run_id,
                purpose=self.purpose,
            ),
            clock=self.clock,
            fresh=lambda: self._fresh(account, invoices),
            sleep=self.sleep,
            reached=self.reached,
        )

    def _fresh(self, account: StripeAccount, invoices: tuple[CompiledInvoice, ...]) -> Held:
        return HeldAtStripe(
            self.gateway,
            account.customer_id,
            since=_since(invoices, self.clock()),
            known_ids=sync_store.known_item_ids(self.connection, account.customer_id, now=self.clock()),
        )

    def _listed(
        self, account: StripeAccount, invoices: tuple[CompiledInvoice, ...], listing: BulkListing | None
    ) -> Held | None:
        """Return what the list of all customers has shown, unless somebody has written for this one since."""
        if listing is None or intent_store.written_since(self.connection, account.customer_id, listing.after_intent):
            return None
        return HeldAtStripe(
            self.gateway,
            account.customer_id,
            since=_since(invoices, self.clock()),
            known_ids=sync_store.known_item_ids(self.connection, account.customer_id, now=self.clock()),
            listed=listing.of(account.customer_id),
        )


def wanted_digest_of(account: StripeAccount, invoices: tuple[CompiledInvoice, ...]) -> str:
    """Return the SHA-256 of what is wanted of an account: while it stands, nothing needs to be sent."""
    return _digest(account, invoices)


def _digest(account: StripeAccount, invoices: tuple[CompiledInvoice, ...]) -> str:
    parts = [account.customer_id]
    for compiled in sorted(invoices, key=lambda one: one.invoice_id):
        subscription = account.subscriptions.get(compiled.subscription_id or "")
        place = "" if subscription is None else f"{subscription.subscription_id}|{subscription.is_ended}"
        parts.append(f"{compiled.invoice_id}|{place}|{compiled.digest}|{wanted_digest(wanted_lines(compiled))}")
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _since(invoices: tuple[CompiledInvoice, ...], now: datetime) -> datetime:
    """Return when the oldest open period began: our items of it were made after that."""
    return min((compiled.period.start for compiled in invoices), default=now).astimezone(UTC)


def _refuse_impossible(account: StripeAccount, invoices: tuple[CompiledInvoice, ...]) -> None:
    if account.is_deleted:
        raise _deleted(account)
    _refuse_currency(account, invoices, account.currency)


def _refuse_currency(account: StripeAccount, invoices: tuple[CompiledInvoice, ...], locked: str | None) -> None:
    other = next((one.currency for one in invoices if one.currency != locked and one.items), None)
    if locked is not None and other is not None:
        raise _unsyncable(
            account,
            f"it is billed in {other}, and customer {account.customer_id} is locked to {locked} at Stripe, which takes one "
            "currency for a customer. Give the account another customer, or bill it in the customer's currency",
        )


def _deleted(account: StripeAccount) -> AccountUnsyncableError:
    return _unsyncable(
        account,
        f"customer {account.customer_id} was deleted at Stripe. What the account owes is on its open invoices here; link "
        "another customer, or void them",
    )


def _unsyncable(account: StripeAccount, problem: str) -> AccountUnsyncableError:
    return AccountUnsyncableError(
        f"account {account.account_id!r} is not brought to Stripe: {problem}",
        bill="nothing of it was sent; other accounts go on",
        fix="do what the message says; the next sync goes on by itself",
    )


def _nothing_compiled(strays: list[HeldItem]) -> str:
    total = sum(item.amount for item in strays)
    return (
        f"Stripe holds {len(strays)} pending items of it ({total} minor units), and it has no open invoice here: they are left as "
        "they are. Look whether its subscription was taken out of the catalog by mistake"
    )
