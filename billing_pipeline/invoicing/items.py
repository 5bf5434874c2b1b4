"""The lines of an invoice and their identity: what is charged, for which period, made of what. Pure.

Amounts are whole minor units of an ISO 4217 currency, each rounded once, where it was made; the sum of the lines is the
invoice. A line that groups others (`parts`) is their sum to the minor unit. Not here: which lines an invoice has (compile),
what Stripe takes (stripe_amounts).
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import reduce
from uuid import UUID, uuid5

from billing_pipeline.amounts import Money
from billing_pipeline.errors import BillingError
from billing_pipeline.periods import Window

# Made once with uuid4. Never change it: ids of kept invoices are made from it.
_INVOICE_NAMESPACE = UUID("8d0a4e0e-3f7b-4f0b-9b6e-6a2f4b1c9d57")
KEY_DIGITS = 32


class GroupedSumError(BillingError):
    """A line that groups others is not their sum."""


class ItemKind(StrEnum):
    """What a line is for. `correction`: the difference of something that an earlier invoice has charged already.
    `other`: lines grouped into one, and what is carried from one invoice to the next."""

    USAGE = "usage"
    FEE = "fee"
    ONE_OFF = "one_off"
    ADJUSTMENT = "adjustment"
    CORRECTION = "correction"
    MINIMUM = "minimum"
    CREDIT = "credit"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceKey:
    """What makes an invoice itself: whose, of which subscription and period, and the how-manieth of it.

    `subscription_id` None: an invoice of the account itself, for what belongs to no subscription in force. `issue` counts
    from 1; a further one follows where the one before is void.
    """

    account_id: str
    subscription_id: str | None
    period: Window
    issue: int = 1

    @property
    def invoice_id(self) -> UUID:
        """Return the id: a function of the key alone, so that a compilation that runs again finds the same invoice."""
        parts = (self.account_id, self.subscription_id or "", *_ends(self.period), str(self.issue))
        return uuid5(_INVOICE_NAMESPACE, json.dumps(parts, ensure_ascii=False))


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceItem:
    """One line.

    `source_id` is the charge, adjustment or one-off item that it is made of, None of lines that are made of others.
    `charge_id` is it where it is a charge's own line; `corrects` where the line is the difference to what an earlier invoice
    charged for it, `period` being the old one. `subscription_id` is the source's own: the invoice's may be another one, with
    which it is invoiced. `quantity_text` and `description` are for people. `revision` and `source_digest` (SHA-256 hex) say
    what the amount was made of: the same digest, the same line. `by_meter`: it goes through Stripe's meter, is on the invoice
    by Stripe's own doing, and is never sent as an item. `reason` says why there is a correction or an adjustment.
    """

    item_key: str
    kind: ItemKind
    account_id: str
    subscription_id: str | None
    source_id: UUID | None
    charge_id: UUID | None
    period: Window
    amount: Money
    description: str
    quantity_text: str
    revision: int
    source_digest: str
    corrects: UUID | None = None
    reason: str = ""
    by_meter: bool = False
    parts: tuple["InvoiceItem", ...] = ()

    def __post_init__(self) -> None:
        if self.parts and sum_of(self.parts, self.amount.currency) != self.amount:
            raise GroupedSumError(
                f"line {self.item_key} of account {self.account_id!r} is {self.amount} and groups lines of "
                f"{sum_of(self.parts, self.amount.currency)}",
                bill="the invoice is not made; what was compiled before stays",
                fix="this is a defect of the compilation: report the account and the period",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledInvoice:
    """An invoice as it is now. `items` are its lines (at most as many as the policy allows, and those by meter).

    The preview, the draft and the final invoice are this one value, made by one function.
    """

    key: InvoiceKey
    currency: str
    items: tuple[InvoiceItem, ...]

    @property
    def invoice_id(self) -> UUID:
        """Return the id."""
        return self.key.invoice_id

    @property
    def account_id(self) -> str:
        """Return whose it is."""
        return self.key.account_id

    @property
    def subscription_id(self) -> str | None:
        """Return the subscription whose period it bills; None: the account's own."""
        return self.key.subscription_id

    @property
    def period(self) -> Window:
        """Return the billing period."""
        return self.key.period

    @property
    def detail(self) -> tuple[InvoiceItem, ...]:
        """Return the lines with every group taken apart."""
        return tuple(unfolded(self.items))

    @property
    def total(self) -> Money:
        """Return the sum of the lines."""
        return sum_of(self.items, self.currency)

    @property
    def digest(self) -> str:
        """Return the SHA-256 of all that the invoice says: equal digests, equal invoices."""
        lines = [f"{item.item_key}|{item.amount.minor_units}|{item.source_digest}" for item in self.detail]
        lines += [f"{item.item_key}|{len(item.parts)}" for item in self.items if item.parts]
        return digest_of(str(self.invoice_id), self.currency, *sorted(lines))


def item_key(
    *, account_id: str, subscription_id: str | None, charge_key: str, period_start: datetime, issue: int = 1
) -> str:
    """Return a line's identity, 32 hex digits: what Stripe keeps as `metadata.bp_key`.

    The same for every amount that the line ever has. The lines of an invoice that is issued again after a void are others.
    """
    parts = [account_id, subscription_id or "", charge_key, period_start.isoformat()]
    text = "|".join(parts if issue == 1 else [*parts, str(issue)])
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]


def digest_of(*parts: str) -> str:
    """Return the SHA-256 hex of texts, kept apart from each other."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()


def sum_of(items: Iterable[InvoiceItem], currency: str) -> Money:
    """Return the sum of the lines' amounts; 0 for none."""
    return reduce(Money.__add__, (item.amount for item in items), Money(0, currency))


def unfolded(items: Iterable[InvoiceItem]) -> Iterator[InvoiceItem]:
    """Yield the lines, and of one that groups others those others in its place."""
    for item in items:
        if item.parts:
            yield from unfolded(item.parts)
        else:
            yield item


def _ends(period: Window) -> tuple[str, str]:
    return period.start.isoformat(), period.end.isoformat()
