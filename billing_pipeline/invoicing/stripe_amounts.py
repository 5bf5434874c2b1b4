"""Money in Stripe's own minor units, and what is left over where Stripe cannot charge it. Pure.

Stripe's integers are not ISO 4217's: 5 ISK are 500 there, 10 MGA are 10, and the last digit of 5.124 KWD must be 0. An
invoice is charged in whole steps; the rest is carried to the next one, never dropped. Not here: who is charged (compile).
Source: docs.stripe.com/currencies, as of API version 2026-10-28.
"""

from collections.abc import Sequence

from billing_pipeline.amounts import Money, minor_digits, round_half_away
from billing_pipeline.errors import BillingError
from billing_pipeline.invoicing.items import InvoiceItem
from billing_pipeline.invoicing.policy import PaymentUnits

_ZERO_DECIMAL = frozenset(
    ["BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "MGA", "PYG", "RWF", "VND", "VUV", "XAF", "XOF", "XPF"]
)
# The last digit is 0: KWD is charged in steps of 10 fils.
_THREE_DECIMAL = frozenset(["BHD", "JOD", "KWD", "OMR", "TND"])
# Without decimals by now, and still written with two at Stripe: always multiples of 100 there.
_TWO_DECIMAL_IN_HUNDREDS = frozenset({"ISK", "UGX"})
# HUF and TWD have no decimals in payouts alone; charges have two, as ISO 4217 says.


class StripeCurrencyError(BillingError):
    """A currency whose amounts Stripe does not take, or whose way of writing them is not known."""


class StripeAmountError(BillingError):
    """An amount that Stripe cannot charge."""


def stripe_digits(currency: str) -> int:
    """Return the decimal places of Stripe's integers: USD 2, JPY 0, KWD 3, ISK 2.

    Raises:
        StripeCurrencyError: Stripe does not take the currency.
        UnknownCurrencyError: nobody does.
    """
    iso = minor_digits(currency)
    if currency in _ZERO_DECIMAL:
        return 0
    if currency in _THREE_DECIMAL:
        return 3
    if currency in _TWO_DECIMAL_IN_HUNDREDS or iso == 2:
        return 2
    raise StripeCurrencyError(
        f"Stripe does not say how it writes amounts of {currency}",
        bill="the account's invoices are compiled and shown, and never sent",
        fix="bill the account in another currency, or without Stripe",
    )


def charge_step(currency: str, units: PaymentUnits = PaymentUnits.STRIPE) -> int:
    """Return the smallest amount that can be charged, in ISO minor units: KWD 10, MGA 100, USD 1; 1 where Stripe takes none."""
    if units is PaymentUnits.ISO:
        return 1
    if currency in _THREE_DECIMAL:
        return 10
    return 10 ** minor_digits(currency) if currency in _ZERO_DECIMAL else 1


def to_stripe(amount: Money) -> int:
    """Return the amount in Stripe's units: 5 ISK are 500, 10.00 MGA are 10, 5.12 KWD are 5120.

    Raises:
        StripeAmountError: it is no whole number of steps; a compiled invoice has carried the rest.
        StripeCurrencyError: Stripe does not take the currency.
    """
    digits = stripe_digits(amount.currency)
    if amount.minor_units % charge_step(amount.currency):
        raise StripeAmountError(
            f"Stripe cannot charge {amount}: the step is {Money(charge_step(amount.currency), amount.currency)}",
            bill="nothing is sent for this line",
            fix="send the amounts of stripe_amounts, which carry what is left over",
        )
    return round_half_away(amount.major, digits=digits)


def from_stripe(amount: int, currency: str) -> Money:
    """Return an amount of Stripe as money: 500 of ISK are 5.

    Raises:
        StripeAmountError: it is no whole number of ISO minor units, which Stripe itself refuses.
        StripeCurrencyError: Stripe does not take the currency.
    """
    shift = stripe_digits(currency) - minor_digits(currency)
    whole, rest = divmod(amount, 10**shift) if shift > 0 else (amount * 10**-shift, 0)
    if rest:
        raise StripeAmountError(
            f"{amount} of Stripe is no whole amount of {currency}",
            bill="it is not compared with what is billed here",
            fix="look the object up at Stripe: it was not made by this pipeline",
        )
    return Money(whole, currency)


def left_over(total: Money, units: PaymentUnits = PaymentUnits.STRIPE) -> Money:
    """Return what of `total` cannot be charged: 0.004 of 5.124 KWD, -0.004 of 5.126; halves are charged away from zero."""
    step = charge_step(total.currency, units)
    return Money(total.minor_units - step * _nearest(total.minor_units, step), total.currency)


def stripe_amounts(items: Sequence[InvoiceItem]) -> dict[str, int]:
    """Return item key -> amount in Stripe's units, adding up to the lines' sum exactly. Lines by meter are left out.

    Where a currency has steps, each line gets whole ones: rounded down, and what is left over to the largest remainders.

    Raises:
        StripeAmountError: the sum is no whole number of steps; a compiled invoice's is.
        StripeCurrencyError: Stripe does not take the currency.
    """
    sent = [item for item in items if not item.by_meter]
    if not sent:
        return {}
    currency = sent[0].amount.currency
    step = charge_step(currency)
    total = to_stripe(Money(sum(item.amount.minor_units for item in sent), currency))
    steps = {item.item_key: item.amount.minor_units // step for item in sent}
    missing = sum(item.amount.minor_units for item in sent) // step - sum(steps.values())
    by_remainder = sorted(sent, key=lambda item: (-(item.amount.minor_units % step), item.item_key))
    for item in by_remainder[:missing]:
        steps[item.item_key] += 1
    found = {key: to_stripe(Money(step * count, currency)) for key, count in steps.items()}
    if sum(found.values()) != total:
        raise AssertionError("shares add up to the whole")  # pragma: no cover
    return found


def _nearest(amount: int, step: int) -> int:
    whole, rest = divmod(abs(amount), step)
    whole += 2 * rest >= step
    return whole if amount >= 0 else -whole
