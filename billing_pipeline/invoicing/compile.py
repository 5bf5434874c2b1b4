"""An account's books -> its open invoices: the one function behind preview, draft and final invoice. Pure.

What is to be charged for a thing is its total to date less what final invoices have charged for it. Where nothing has been
charged yet, that is the line of its own period; where something has, it is a correction on the next open invoice. So late
usage, a rating that runs again and a chain of corrections end in the same money. Not here: which books matter
(resources/invoicing), grouping (grouping), states (states). See docs/adr/0015-final-invoices.md.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from billing_pipeline.amounts import Money
from billing_pipeline.catalog import Subscription
from billing_pipeline.credits import Due, Grant, spend
from billing_pipeline.invoicing.books import AccountBook, Billable, Invoiced, Slot
from billing_pipeline.invoicing.grouping import grouped
from billing_pipeline.invoicing.items import (
    CompiledInvoice,
    InvoiceItem,
    InvoiceKey,
    ItemKind,
    digest_of,
    item_key,
    sum_of,
)
from billing_pipeline.invoicing.policy import InvoicingPolicy, WithoutNext
from billing_pipeline.invoicing.states import InvoiceState
from billing_pipeline.invoicing.stripe_amounts import left_over
from billing_pipeline.periods import BillingAnchor, Window, billing_periods

CARRIED_IN, CARRIED_OUT = "carried_in", "carried_out"
# Far enough to find a period that has begun or will begin next; an anchor's periods are months.
_LOOK_AHEAD = timedelta(days=62)


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditDue:
    """A final invoice has charged `amount` (above 0) too much for `source_id`, and there is no next invoice to take it off."""

    source_id: UUID
    invoice_id: UUID
    amount: Money
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Uninvoiced:
    """What no invoice charges for now, and why: its invoice is void and not issued again, or it waits for a person."""

    source_id: UUID
    slot: Slot | None
    amount: Money
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Compilation:
    """The open invoices of an account, in order of their periods; credits that are due; what no invoice charges for."""

    invoices: tuple[CompiledInvoice, ...]
    credits: tuple[CreditDue, ...]
    uninvoiced: tuple[Uninvoiced, ...]


def compile_account(book: AccountBook, *, policy: InvoicingPolicy, as_of: datetime) -> Compilation:
    """Return the account's open invoices as its books stand.

    10.99 + 12.99 + 15.99 are 39.97; with an adjustment of -5.00 it is 34.97, and 36.00 when usage comes to 1.03 more. `as_of`
    decides only where a correction goes that no open invoice is there for: onto the period that is current then, or next.
    """
    work = _Work(book, policy, as_of)
    for billable in sorted(book.billables, key=_by_place):
        work.place(billable)
    work.carry_in()
    work.spend_credit()
    work.carry_out()
    return Compilation(
        invoices=tuple(sorted(work.invoices(), key=_by_period)),
        credits=tuple(work.credits),
        uninvoiced=tuple(work.uninvoiced),
    )


def _by_place(billable: Billable) -> tuple[datetime, str, str, UUID]:
    return billable.period.start, billable.subscription_id or "", billable.charge_key, billable.source_id


def _by_period(invoice: CompiledInvoice) -> tuple[Window, str]:
    return invoice.period, invoice.subscription_id or ""


class _Work:
    """The lines of each open invoice while they are put together."""

    def __init__(self, book: AccountBook, policy: InvoicingPolicy, as_of: datetime) -> None:
        self.book, self.policy, self.as_of = book, policy, as_of
        self.lines: dict[Slot, list[InvoiceItem]] = defaultdict(list)
        self.credits: list[CreditDue] = []
        self.uninvoiced: list[Uninvoiced] = []
        self._hosts = tuple(
            sorted(
                (one for one in book.subscriptions if one.invoice_with is None),
                key=lambda one: (one.starts_at, one.subscription_id),
            )
        )

    def place(self, billable: Billable) -> None:
        """Put what is still to be charged for it onto the invoice where it belongs."""
        before = self.book.invoiced.get(billable.source_id)
        due = billable.amount if before is None else billable.amount - before.amount
        slot = billable.slot
        state = InvoiceState.DRAFT if slot is None else self.book.state_of(slot)
        if due.minor_units == 0 and (before is not None or state is not InvoiceState.DRAFT):
            return
        if slot is not None and state is InvoiceState.DRAFT:
            # An interim invoice leaves the rest to the period; what a final one of other periods charged is corrected.
            is_elsewhere = before is not None and self.book.reaches_into_final(slot)
            self._add(slot, billable, due, before if is_elsewhere else None)
        elif state is InvoiceState.VOID:
            self._leave(billable, due, "its invoice is void and was not issued again")
        elif (open_slot := self._next_open(billable)) is not None:
            self._add(open_slot, billable, due, before)
        else:
            self._without_next(billable, due, before)

    def carry_in(self) -> None:
        """Take what earlier invoices have left over onto the first open one."""
        if self.book.carried:
            slot = min((slot for slot in self._open_slots() if self.lines.get(slot)), key=_slot_order, default=None)
            if slot is not None:
                money = Money(self.book.carried, self.book.currency)
                self.lines[slot].append(self._carried(slot, CARRIED_IN, money, "Carried from earlier invoices"))

    def spend_credit(self) -> None:
        """Pay the open invoices from what the account was granted, in the order in which they are due: at their period's end."""
        if not self.book.grants:
            return
        slots = {self._key(slot).invoice_id: slot for slot in self.lines}
        dues = [
            Due(
                invoice_id=invoice_id,
                account_id=self.book.account_id,
                amount=sum_of((line for line in self.lines[slot] if not line.by_meter), self.book.currency),
                due_at=slot.period.end,
            )
            for invoice_id, slot in slots.items()
        ]
        grants = {grant.grant_id: grant for grant in self.book.grants}
        for paid in spend(self.book.grants, dues, frozen=self.book.spent):
            slot = slots[paid.invoice_id]
            self.lines[slot].append(self._credit(slot, grants[paid.grant_id], paid.amount))

    def carry_out(self) -> None:
        """Leave over to the next invoice what each cannot charge."""
        for slot, lines in self.lines.items():
            sent = sum_of((line for line in lines if not line.by_meter), self.book.currency)
            rest = left_over(sent, self.policy.payment_units)
            if rest.minor_units:
                lines.append(self._carried(slot, CARRIED_OUT, -rest, "Cannot be charged: carried to the next invoice"))

    def invoices(self) -> Iterator[CompiledInvoice]:
        """Yield the invoices that have lines, and those that were issued again."""
        reissued = {slot for slot in self._open_slots() if self._issue(slot) > 1}
        for slot in {*self.lines, *reissued}:
            key = self._key(slot)
            items = grouped(self.lines.get(slot, ()), key=key, at_most=self.policy.max_items)
            yield CompiledInvoice(key=key, currency=self.book.currency, items=items)

    def _add(self, slot: Slot, billable: Billable, due: Money, before: Invoiced | None) -> None:
        """Append the line: the thing's own, or, after an invoice that charged for it, what corrects that."""
        kind, charge_key, period_start, description, reason = (
            billable.kind,
            billable.charge_key,
            billable.period.start,
            billable.description,
            billable.reason,
        )
        is_late = billable.is_charge and slot != billable.slot
        is_correction = before is not None or is_late
        if is_correction:
            kind = ItemKind.CORRECTION
            charge_key = f"correction|{charge_key}|{period_start.isoformat()}"
            description, reason = self._correction_texts(billable, before)
        if slot != billable.slot:
            period_start = slot.period.start
        self.lines[slot].append(
            InvoiceItem(
                item_key=item_key(
                    account_id=self.book.account_id,
                    subscription_id=billable.subscription_id,
                    charge_key=charge_key,
                    period_start=period_start,
                    issue=self._issue(slot),
                ),
                kind=kind,
                account_id=self.book.account_id,
                subscription_id=billable.subscription_id,
                source_id=billable.source_id,
                charge_id=billable.source_id if billable.is_charge and not is_correction else None,
                period=billable.period,
                amount=due,
                description=description,
                quantity_text=billable.quantity_text,
                revision=billable.revision,
                source_digest=digest_of(billable.digest, str(due), str(before.amount) if before else ""),
                corrects=billable.source_id if is_correction else None,
                reason=reason,
                by_meter=billable.by_meter and not is_correction,
            )
        )

    def _correction_texts(self, billable: Billable, before: Invoiced | None) -> tuple[str, str]:
        ends = f"{billable.period.start:%Y-%m-%d} to {billable.period.end:%Y-%m-%d}"
        what = f"Correction of {billable.description}, {ends}"
        if before is None:
            number = self.book.number_of(billable.slot)
            return what, f"booked after invoice {number} was final" if number else "booked after its invoice was final"
        return f"{what}: {billable.amount} instead of {before.amount}", (
            billable.reason or f"booked after invoice {before.number} was final"
        )

    def _without_next(self, billable: Billable, due: Money, before: Invoiced | None) -> None:
        """Do what the policy says of a correction whose customer has no next invoice."""
        wanted = self.policy.over_billed if due.minor_units < 0 else self.policy.under_billed
        if before is None and not billable.is_charge:
            # Sold or agreed after the last subscription: an invoice of its own, whatever becomes of corrections.
            wanted = WithoutNext.ONE_OFF
        if wanted is WithoutNext.WAIT:
            self._leave(billable, due, "there is no next invoice, and the policy waits for a person")
            return
        if wanted is WithoutNext.CREDIT_NOTE and before is not None and due.minor_units < 0:
            credited = min(-due.minor_units, self._creditable(before))
            if credited > 0:
                _, reason = self._correction_texts(billable, before)
                money = Money(credited, due.currency)
                self.credits.append(
                    CreditDue(source_id=billable.source_id, invoice_id=before.invoice_id, amount=money, reason=reason)
                )
                due += money
        if due.minor_units:
            self._add(self._own_slot(), billable, due, before)

    def _creditable(self, before: Invoiced) -> int:
        taken = sum(one.amount.minor_units for one in self.credits if one.invoice_id == before.invoice_id)
        return before.creditable_minor - taken

    def _leave(self, billable: Billable, due: Money, why: str) -> None:
        if due.minor_units:
            self.uninvoiced.append(Uninvoiced(source_id=billable.source_id, slot=billable.slot, amount=due, why=why))

    def _next_open(self, billable: Billable) -> Slot | None:
        """Return the open invoice for what the billable's own cannot take: of its subscription, else of another, else of the
        account itself; the first that ends later than its own."""
        after = billable.period.start if billable.slot is None else billable.slot.period.end
        own = billable.subscription_id if billable.slot is None else billable.slot.subscription_id
        found = [slot for host in self._hosts if (slot := self._first_open(host, after)) is not None]
        mine = [slot for slot in found if slot.subscription_id == own]
        others = [slot for slot in self._open_slots() if slot.subscription_id is None] if not found else []
        return min(mine or found or others, key=_slot_order, default=None)

    def _first_open(self, host: Subscription, after: datetime) -> Slot | None:
        """Return the subscription's first invoice that is open and ends after `after`."""
        drafts = [
            slot
            for slot in self._open_slots()
            if slot.subscription_id == host.subscription_id and slot.period.end > after
        ]
        reach = Window(after, max(self.as_of, after) + _LOOK_AHEAD)
        for period in billing_periods(host, reach):
            slot = Slot(host.subscription_id, period.window)
            if self.book.state_of(slot) is InvoiceState.DRAFT:
                drafts.append(slot)
                break
        return min(drafts, key=_slot_order, default=None)

    def _own_slot(self) -> Slot:
        """Return the account's own invoice, of the month that is current or the first after it that is not final."""
        anchor = BillingAnchor(zone=self.book.zone)
        slot = Slot(None, anchor.period_containing(self.as_of))
        while self.book.state_of(slot) is not InvoiceState.DRAFT:
            slot = Slot(None, anchor.period_containing(slot.period.end))
        return slot

    def _open_slots(self) -> Iterable[Slot]:
        known = (slot for slot, found in self.book.slots.items() if found.state is InvoiceState.DRAFT)
        return {*known, *self.lines}

    def _issue(self, slot: Slot) -> int:
        known = self.book.slots.get(slot)
        return 1 if known is None else known.issue

    def _key(self, slot: Slot) -> InvoiceKey:
        return InvoiceKey(
            account_id=self.book.account_id,
            subscription_id=slot.subscription_id,
            period=slot.period,
            issue=self._issue(slot),
        )

    def _credit(self, slot: Slot, grant: Grant, amount: Money) -> InvoiceItem:
        charge_key = f"credit|{grant.grant_id}"
        until = "" if grant.expires_at is None else f", valid until {grant.expires_at:%Y-%m-%d}"
        return InvoiceItem(
            item_key=item_key(
                account_id=self.book.account_id,
                subscription_id=slot.subscription_id,
                charge_key=charge_key,
                period_start=slot.period.start,
                issue=self._issue(slot),
            ),
            kind=ItemKind.CREDIT,
            account_id=self.book.account_id,
            subscription_id=slot.subscription_id,
            source_id=grant.grant_id,
            charge_id=None,
            period=slot.period,
            amount=-amount,
            description=f"Credit ({grant.source.replace('_', ' ')}{until})",
            quantity_text="",
            revision=1,
            source_digest=digest_of(charge_key, str(amount)),
        )

    def _carried(self, slot: Slot, charge_key: str, amount: Money, description: str) -> InvoiceItem:
        return InvoiceItem(
            item_key=item_key(
                account_id=self.book.account_id,
                subscription_id=slot.subscription_id,
                charge_key=charge_key,
                period_start=slot.period.start,
                issue=self._issue(slot),
            ),
            kind=ItemKind.OTHER,
            account_id=self.book.account_id,
            subscription_id=slot.subscription_id,
            source_id=None,
            charge_id=None,
            period=slot.period,
            amount=amount,
            description=description,
            quantity_text="",
            revision=1,
            source_digest=digest_of(charge_key, str(amount)),
        )


def _slot_order(slot: Slot) -> tuple[Window, str]:
    return slot.period, slot.subscription_id or ""
