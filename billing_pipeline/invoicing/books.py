"""What invoices of an account are made of, as values: what is to be charged, what invoices have charged, where they stand. Pure.

Not here: making invoices of it (compile), reading it from PostgreSQL (resources/invoicing).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from billing_pipeline.amounts import Money
from billing_pipeline.catalog import Subscription
from billing_pipeline.credits import Grant, Spend
from billing_pipeline.invoicing.items import ItemKind
from billing_pipeline.invoicing.states import InvoiceState
from billing_pipeline.periods import Window, billing_periods

_INSTANT = timedelta(microseconds=1)


class Slot(NamedTuple):
    """The place of an invoice: a subscription (None: the account itself) and a period."""

    subscription_id: str | None
    period: Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Billable:
    """Something to be charged, with its total to date: a charge's newest revision, a one-off item, an adjustment.

    `slot` is the invoice on which it belongs, None where any that is open will do. `charge_key` tells it from the others of its
    subscription and period. `reason` is a person's.
    """

    source_id: UUID
    kind: ItemKind
    subscription_id: str | None
    charge_key: str
    slot: Slot | None
    period: Window
    amount: Money
    description: str
    quantity_text: str
    revision: int
    digest: str
    reason: str = ""
    by_meter: bool = False

    @property
    def is_charge(self) -> bool:
        """Tell whether it is a charge of the books, not something that a person added."""
        return self.kind not in (ItemKind.ONE_OFF, ItemKind.ADJUSTMENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoiced:
    """What final invoices have charged for one billable so far, less what was credited of it; the newest of them, its number,
    and how much of that invoice is not credited yet, in minor units. Void invoices are not counted."""

    amount: Money
    invoice_id: UUID
    number: str
    creditable_minor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotState:
    """The newest issue of a slot's invoice."""

    state: InvoiceState
    issue: int = 1
    number: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountBook:
    """An account's books, as far as they matter for its open invoices.

    `billables`: all that is not exactly what final invoices have charged. `invoiced`: by source, for those of them of which an
    invoice has charged something. `slots`: all that are drafts, and from the oldest period of a billable on. `carried`: what
    final invoices have left to the next one. `grants`: credit that the account was granted, `spent` what of it final invoices took.
    """

    account_id: str
    currency: str
    zone: str
    subscriptions: tuple[Subscription, ...]
    billables: tuple[Billable, ...]
    invoiced: Mapping[UUID, Invoiced] = field(default_factory=dict)
    slots: Mapping[Slot, SlotState] = field(default_factory=dict)
    carried: int = 0
    grants: tuple[Grant, ...] = ()
    spent: tuple[Spend, ...] = ()

    def state_of(self, slot: Slot) -> InvoiceState:
        """Return where the slot's newest invoice stands; one that was never compiled is a draft.

        A period that an anchor which moved has made anew is as final as the one that it ends in: what it was charged with is there.
        """
        known = self.slots.get(slot)
        if known is not None:
            return known.state
        return InvoiceState.DRAFT if self._final_around(slot) is None else InvoiceState.FINAL

    def number_of(self, slot: Slot | None) -> str | None:
        """Return the number of the slot's invoice, or of the final one that its period ends in; None without."""
        if slot is None:
            return None
        known = self.slots.get(slot) or self._final_around(slot)
        return None if known is None else known.number

    def reaches_into_final(self, slot: Slot) -> bool:
        """Tell whether an anchor that moved has made the period, and a final invoice has charged for some of its time."""
        return any(other.period.overlap(slot.period.start, slot.period.end) for other, _ in self._other_final(slot))

    def _final_around(self, slot: Slot) -> SlotState | None:
        ends_in = (
            found for one, found in self._other_final(slot) if one.period.start < slot.period.end <= one.period.end
        )
        return next(ends_in, None)

    def _other_final(self, slot: Slot) -> Iterator[tuple[Slot, SlotState]]:
        for other, found in self.slots.items():
            if found.state is InvoiceState.FINAL and other.subscription_id == slot.subscription_id and other != slot:
                yield other, found


def slot_of(
    subscription_id: str, *, due_at: datetime, period: Window, subscriptions: Mapping[str, Subscription]
) -> Slot:
    """Return the invoice on which what falls due at `due_at` belongs: of its subscription, or of the one it is invoiced with.

    The invoice at July 1st has what falls due after June 1st and until July 1st; the first one also what falls due when the
    subscription begins. Where the catalog knows no such month any more, the invoice of `period` itself.
    """
    subscription = subscriptions.get(subscription_id)
    if subscription is None:
        return Slot(subscription_id, period)
    host = subscriptions.get(subscription.invoice_with or "", subscription)
    around = Window(due_at - _INSTANT, due_at + _INSTANT)
    found = next(billing_periods(host, around), None)
    return Slot(subscription_id, period) if found is None else Slot(host.subscription_id, found.window)


def slot_at(subscription_id: str, period: Window, subscriptions: Mapping[str, Subscription]) -> Slot:
    """Return the invoice of the month that contains the begin of `period`, which may have been cut since."""
    begin = Window(period.start, period.start + _INSTANT)
    subscription = subscriptions.get(subscription_id)
    if subscription is None:
        return Slot(subscription_id, period)
    host = subscriptions.get(subscription.invoice_with or "", subscription)
    found = next(billing_periods(host, begin), None)
    return Slot(subscription_id, period) if found is None else Slot(host.subscription_id, found.window)
