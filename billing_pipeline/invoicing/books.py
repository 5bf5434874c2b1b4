"""What invoices of an account are made of, as values: what is to be charged, what invoices have charged, where they stand. Pure.

Not here: making invoices of it (compile), reading it from PostgreSQL (resources/invoicing).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from billing_pipeline.amounts import Money
from billing_pipeline.catalog import Subscription
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
    final invoices have left to the next one.
    """

    account_id: str
    currency: str
    zone: str
    subscriptions: tuple[Subscription, ...]
    billables: tuple[Billable, ...]
    invoiced: Mapping[UUID, Invoiced] = field(default_factory=dict)
    slots: Mapping[Slot, SlotState] = field(default_factory=dict)
    carried: int = 0

    def state_of(self, slot: Slot) -> InvoiceState:
        """Return where the slot's newest invoice stands; one that was never compiled is a draft."""
        known = self.slots.get(slot)
        return InvoiceState.DRAFT if known is None else known.state


def slot_of(subscription_id: str, period: Window, subscriptions: Mapping[str, Subscription]) -> Slot:
    """Return the invoice on which a subscription's billing period belongs: its own, or that of the one it is invoiced with.

    The host's period is the one in which the period's last instant lies: a subscription that begins or ends inside a month
    stands on the host's invoice of that month. One that the catalog does not hold any more keeps its own invoices.
    """
    subscription = subscriptions.get(subscription_id)
    host = None if subscription is None else subscriptions.get(subscription.invoice_with or "")
    if host is None:
        return Slot(subscription_id, period)
    last = Window(period.end - _INSTANT, period.end)
    return next(
        (Slot(host.subscription_id, found.window) for found in billing_periods(host, last)),
        Slot(subscription_id, period),
    )
