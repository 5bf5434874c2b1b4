"""Invoices of one account, kept in plain Python: what the stores do in PostgreSQL, in as few lines as it takes.

The model of property tests, and the reference that the stores are held to.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID, uuid5

from billing_pipeline.amounts import Money
from billing_pipeline.catalog import Subscription
from billing_pipeline.invoicing.as_charged import as_charged
from billing_pipeline.invoicing.books import AccountBook, Billable, Invoiced, Slot, SlotState, slot_at, slot_of
from billing_pipeline.invoicing.compile import Compilation, compile_account
from billing_pipeline.invoicing.items import CompiledInvoice, InvoiceItem, ItemKind
from billing_pipeline.invoicing.policy import InvoicingPolicy
from billing_pipeline.invoicing.states import InvoiceState
from billing_pipeline.periods import Window

_IDS = UUID(int=77)


def id_of(name: str) -> UUID:
    """Return an id that is a function of the name."""
    return uuid5(_IDS, name)


@dataclass
class Final:
    """A final invoice, and whether it is void."""

    invoice: CompiledInvoice
    number: str
    is_void: bool = False
    is_interim: bool = False


@dataclass
class Model:
    """One account."""

    currency: str
    subscriptions: Mapping[str, Subscription]
    now: datetime
    policy: InvoicingPolicy = field(default_factory=InvoicingPolicy)
    account_id: str = "acme"
    sources: dict[UUID, Billable] = field(default_factory=dict)
    finals: list[Final] = field(default_factory=list)
    # source, invoice, amount; a person's decision has no source
    credits: list[tuple[UUID | None, UUID, int]] = field(default_factory=list)
    reissued: set[Slot] = field(default_factory=set)

    def charge(
        self,
        name: str,
        subscription_id: str,
        period: Window,
        amount: int,
        *,
        by_meter: bool = False,
        charge_id: UUID | None = None,
    ) -> None:
        """Book a charge's total to date."""
        source_id = charge_id or id_of(name)
        before = self.sources.get(source_id)
        slot = slot_of(subscription_id, due_at=period.end, period=period, subscriptions=self.subscriptions)
        self.sources[source_id] = Billable(
            source_id=source_id,
            kind=ItemKind.USAGE,
            subscription_id=subscription_id,
            charge_key=str(source_id),
            slot=slot,
            period=period,
            amount=Money(amount, self.currency),
            description=name,
            quantity_text="",
            revision=1 if before is None else before.revision + 1,
            digest=f"{name}{amount}",
            by_meter=by_meter,
        )

    def is_open(self, subscription_id: str, period: Window) -> bool:
        """Return whether the period's invoice takes adjustments."""
        return self.state_of(slot_at(subscription_id, period, self.subscriptions)) is InvoiceState.DRAFT

    def adjust(self, name: str | UUID, subscription_id: str, period: Window, amount: int) -> bool:
        """Add an adjustment; refused where the invoice is not open."""
        slot = slot_at(subscription_id, period, self.subscriptions)
        if not self.is_open(subscription_id, period):
            return False
        self._add(name, ItemKind.ADJUSTMENT, subscription_id, slot, period, amount)
        return True

    def sell(self, name: str | UUID, at: datetime, amount: int) -> None:
        """Add a one-off item."""
        self._add(name, ItemKind.ONE_OFF, None, None, Window(at, at + timedelta(microseconds=1)), amount)

    def _add(
        self,
        name: str | UUID,
        kind: ItemKind,
        subscription_id: str | None,
        slot: Slot | None,
        period: Window,
        amount: int,
    ) -> None:
        source_id = id_of(name) if isinstance(name, str) else name
        self.sources[source_id] = Billable(
            source_id=source_id,
            kind=kind,
            subscription_id=subscription_id,
            charge_key=f"{kind}|{source_id}",
            slot=slot,
            period=period,
            amount=Money(amount, self.currency),
            description=str(name),
            quantity_text="",
            revision=1,
            digest=str(name),
            reason="why",
        )

    def state_of(self, slot: Slot) -> InvoiceState:
        """Return where a slot's newest invoice stands."""
        return self.slots().get(slot, SlotState(state=InvoiceState.DRAFT)).state

    def slots(self) -> dict[Slot, SlotState]:
        """Return the newest issue of every slot that had a final invoice."""
        found: dict[Slot, SlotState] = {}
        for final in self.finals:
            key = final.invoice.key
            slot = Slot(key.subscription_id, key.period)
            if slot not in found or key.issue > found[slot].issue:
                state = InvoiceState.VOID if final.is_void else InvoiceState.FINAL
                found[slot] = SlotState(state=state, issue=key.issue, number=final.number)
        for slot in self.reissued:
            found[slot] = SlotState(state=InvoiceState.DRAFT, issue=found[slot].issue + 1)
        return found

    @staticmethod
    def slot(final: Final) -> Slot:
        """Return the place of a final invoice."""
        return Slot(final.invoice.subscription_id, final.invoice.period)

    def counting(self) -> list[Final]:
        """Return the final invoices that are not void."""
        return [final for final in self.finals if not final.is_void]

    def book(self) -> AccountBook:
        """Return the account's books."""
        charged: dict[UUID, int] = {}
        newest: dict[UUID, Final] = {}
        carried = 0
        for final in self.counting():
            for item in final.invoice.detail:
                if item.source_id is not None:
                    charged[item.source_id] = charged.get(item.source_id, 0) + item.amount.minor_units
                    newest[item.source_id] = final
                elif item.kind is ItemKind.OTHER:
                    carried -= item.amount.minor_units
        alive = {final.invoice.invoice_id for final in self.counting()}
        for source_id, invoice_id, amount in self.credits:
            if source_id is not None and invoice_id in alive:
                charged[source_id] -= amount
        return AccountBook(
            account_id=self.account_id,
            currency=self.currency,
            zone="UTC",
            subscriptions=tuple(self.subscriptions.values()),
            billables=tuple(one for one in self.sources.values() if one.amount.minor_units or one.source_id in charged),
            invoiced={
                source_id: Invoiced(
                    amount=Money(amount, self.currency),
                    invoice_id=newest[source_id].invoice.invoice_id,
                    number=newest[source_id].number,
                    creditable_minor=self.creditable(newest[source_id]),
                )
                for source_id, amount in charged.items()
            },
            slots=self.slots(),
            carried=carried,
        )

    def creditable(self, final: Final) -> int:
        """Return what of a final invoice is not credited yet."""
        invoice_id = final.invoice.invoice_id
        return final.invoice.total.minor_units - sum(amount for _, other, amount in self.credits if other == invoice_id)

    def compile(self) -> Compilation:
        """Return the open invoices, with credits that are due issued."""
        found = compile_account(self.book(), policy=self.policy, as_of=self.now)
        if found.credits:
            self.credits += [(one.source_id, one.invoice_id, one.amount.minor_units) for one in found.credits]
            again = self.compile()
            assert totals(again) == totals(found), "what is credited is on no invoice too"
            return again
        return found

    def finalize(self, invoice: CompiledInvoice, held: Mapping[str, int] | None = None) -> Final:
        """Make an open invoice final, as Stripe holds it where `held` says so."""
        self.reissued.discard(Slot(invoice.subscription_id, invoice.period))
        charged = invoice if held is None else as_charged(invoice, held).invoice
        final = Final(charged, f"INV-{len(self.finals) + 1:06d}")
        self.finals.append(final)
        self.compile()
        return final

    def void(self, final: Final) -> bool:
        """Make a final invoice void; refused where it was credited."""
        if final.is_void or any(other == final.invoice.invoice_id for _, other, _ in self.credits):
            return False
        final.is_void = True
        self.compile()
        return True

    def reissue(self, final: Final) -> bool:
        """Open the period of a void invoice again; refused where its newest invoice is not void."""
        slot = Slot(final.invoice.subscription_id, final.invoice.period)
        if self.state_of(slot) is not InvoiceState.VOID:
            return False
        self.reissued.add(slot)
        self.compile()
        return True

    def owed(self) -> int:
        """Return what the ledger says: all that is to be charged, less what people gave back."""
        alive = {final.invoice.invoice_id for final in self.counting()}
        given = sum(amount for source, invoice_id, amount in self.credits if source is None and invoice_id in alive)
        return sum(one.amount.minor_units for one in self.sources.values()) - given

    def accounted(self, found: Compilation) -> int:
        """Return what invoices account for, by adding up every one of them."""
        alive = {final.invoice.invoice_id for final in self.counting()}
        invoices = [*found.invoices, *(final.invoice for final in self.counting())]
        lines = [item for invoice in invoices for item in invoice.detail if not is_carried(item)]
        return (
            sum(item.amount.minor_units for item in lines)
            + sum(one.amount.minor_units for one in found.uninvoiced)
            - sum(amount for _, invoice_id, amount in self.credits if invoice_id in alive)
        )


def is_carried(item: InvoiceItem) -> bool:
    """Tell whether a line is what goes from one invoice to the next."""
    return item.kind is ItemKind.OTHER and item.source_id is None and not item.parts


def totals(found: Compilation) -> dict[tuple[str | None, Window, int], int]:
    """Return what each open invoice comes to, by subscription, period and issue."""
    return {(one.subscription_id, one.period, one.key.issue): one.total.minor_units for one in found.invoices}
