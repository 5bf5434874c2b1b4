"""What an installation decides about its invoices (catalog/invoicing.toml), as values. Pure.

Not here: reading the file (resources/invoicing/policy_file), the rules that follow from it (compile, proposals).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from enum import StrEnum

MAX_ITEMS = 250


class PaymentUnits(StrEnum):
    """In which steps an invoice can be paid: those that Stripe takes, or every minor unit of the currency."""

    STRIPE = "stripe"
    ISO = "iso"


class WithoutNext(StrEnum):
    """What becomes of a correction when the customer has no next invoice: given back on the old one, an invoice of its own,
    or nothing until a person does something."""

    CREDIT_NOTE = "credit_note"
    ONE_OFF = "one_off"
    WAIT = "wait"


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """From where on a change of a final period waits for a person, in major units and as a share of what is booked.

    It waits above `absolute`, and above `relative` of what is booked where it is `at_least` as much: of 40.00 booked, 25 %
    and 10.00: a change of 9.00 books itself, one of 11.00 waits.
    """

    absolute: Decimal
    relative: Decimal
    at_least: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoicingPolicy:
    """The decisions. `max_items` lines on an invoice at most, the smallest in one line together beyond it.

    Numbers of invoices and credit notes are a prefix and a count without gaps. Corrections whose customer has no next invoice:
    `over_billed` and `under_billed` (no credit note for the latter). `finalize_after` the end of its period a whole invoice that
    is not at Stripe becomes final by itself; None: only by a person.
    """

    max_items: int = MAX_ITEMS
    invoice_prefix: str = "INV-"
    credit_note_prefix: str = "CN-"
    number_digits: int = 6
    payment_units: PaymentUnits = PaymentUnits.STRIPE
    over_billed: WithoutNext = WithoutNext.CREDIT_NOTE
    under_billed: WithoutNext = WithoutNext.ONE_OFF
    thresholds: Mapping[str, Threshold] = field(default_factory=dict, hash=False)
    finalize_after: timedelta | None = None

    def invoice_number(self, count: int) -> str:
        """Return the number of the `count`th invoice: INV-000012."""
        return f"{self.invoice_prefix}{count:0{self.number_digits}d}"

    def credit_note_number(self, count: int) -> str:
        """Return the number of the `count`th credit note: CN-000003."""
        return f"{self.credit_note_prefix}{count:0{self.number_digits}d}"
