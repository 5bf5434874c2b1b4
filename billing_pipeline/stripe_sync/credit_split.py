"""Where the money of a credit note goes: off what is still due, back to the customer, or onto the customer's balance. Pure.

What is still due of the invoice is reduced first; what exceeds it was paid already, and must be given back to the minor unit: by
refund, as far as the payment reaches, or as balance for the next invoices. 100.00 credited on an invoice of which 30.00 are due
and 80.00 were paid: 30.00 off what is due, then 70.00 refunded or onto the balance. Not here: why money is given back.
"""

from dataclasses import dataclass
from enum import StrEnum

from billing_pipeline.errors import BillingError


class Excess(StrEnum):
    """What becomes of credited money that was paid already."""

    BALANCE = "balance"
    REFUND = "refund"


class CreditAmountError(BillingError):
    """A credit of nothing, or of less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditSplit:
    """Parts of a credit note's amount in Stripe's minor units; they add up to it. `off_due` is Stripe's own doing."""

    off_due: int
    refund: int
    balance: int


def split_credit(amount: int, *, due: int, refundable: int, excess: Excess) -> CreditSplit:
    """Return the parts of `amount`. `due`: what remains to be paid of the invoice; `refundable`: what was paid by a payment and
    is not refunded yet. What cannot be refunded goes onto the balance.

    Raises:
        CreditAmountError: `amount` is not above 0.
    """
    if amount <= 0:
        raise CreditAmountError(
            f"a credit note of {amount} minor units cannot be issued",
            bill="nothing was given back",
            fix="give an amount above 0",
        )
    off_due = min(amount, max(due, 0))
    rest = amount - off_due
    refund = min(rest, max(refundable, 0)) if excess is Excess.REFUND else 0
    return CreditSplit(off_due=off_due, refund=refund, balance=rest - refund)
