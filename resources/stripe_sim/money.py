"""Stripe's amounts: minor units by currency, what an amount may be, the least that is charged, products of decimals.

Written down apart from the project's own table on purpose: a slip there must not be shared by what it is tested against.
"""

from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal

from resources.stripe_sim.refusals import ApiError, invalid
from resources.stripe_sim.tables import Row
from resources.stripe_sim.world import World

DEFAULT_CURRENCY = "usd"

_ZERO_DECIMAL = frozenset(
    {"bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"}
)
_THREE_DECIMAL = frozenset({"bhd", "jod", "kwd", "omr", "tnd"})
_HUNDREDS = frozenset({"isk", "ugx"})
# Currencies that are none of the above and that these tests and the demo use, besides the ones with a minimum below.
_TWO_DECIMAL = frozenset(
    {
        "ars",
        "cny",
        "cop",
        "egp",
        "idr",
        "ils",
        "kes",
        "mad",
        "ngn",
        "pen",
        "php",
        "pkr",
        "qar",
        "sar",
        "try",
        "twd",
        "uah",
        "zar",
    }
)
# docs.stripe.com/currencies, minimum charge amounts, in minor units.
_MINIMUM: Mapping[str, int] = {
    "usd": 50, "aed": 200, "aud": 50, "bgn": 100, "brl": 50, "cad": 50, "chf": 50, "czk": 1500, "dkk": 250, "eur": 50,
    "gbp": 30, "hkd": 400, "huf": 17500, "inr": 50, "jpy": 50, "mxn": 1000, "myr": 200, "nok": 300, "nzd": 50,
    "pln": 200, "ron": 200, "sek": 300, "sgd": 50, "thb": 1000,
}  # fmt: skip
_KNOWN = _ZERO_DECIMAL | _THREE_DECIMAL | _HUNDREDS | _TWO_DECIMAL | frozenset(_MINIMUM)


def read_currency(text: str) -> str:
    """Return a currency's code as Stripe writes it.

    Raises:
        ApiError: Stripe has no such currency.
    """
    code = text.lower()
    if code not in _KNOWN:
        raise invalid(f"Invalid currency: {text}.", code="invalid_currency", param="currency")
    return code


def check_amount(world: World, amount: int, currency: str, *, param: str = "amount") -> int:
    """Return an amount that its currency can have.

    Raises:
        ApiError: it has digits that the currency has not.
    """
    if not world.rules.amount_steps:
        return amount
    if currency in _THREE_DECIMAL and amount % 10:
        raise invalid(
            f"Invalid amount: in {currency.upper()} the last digit must be 0",
            code="parameter_invalid_integer",
            param=param,
        )
    if currency in _HUNDREDS and amount % 100:
        code = "invalid_charge_amount_no_decimal_compatible"
        raise invalid(f"Invalid amount: {currency.upper()} must be a multiple of 100", code=code, param=param)
    return amount


def is_below_minimum(world: World, amount: int, currency: str) -> bool:
    """Say whether Stripe charges nothing, because it is too little."""
    return world.rules.minimum_charges and 0 < amount < _MINIMUM.get(currency, 1)


def product(quantity: Decimal, unit_amount: Decimal) -> int:
    """Return quantity x unit amount in whole minor units, half up (how Stripe rounds here is not documented)."""
    return int((quantity * unit_amount).quantize(Decimal(1), rounding=ROUND_HALF_UP))


def lock_currency(world: World, customer: Row, currency: str) -> None:
    """Hold a customer to one currency.

    Raises:
        ApiError: the customer has another one.
    """
    if customer["currency"] is None:
        customer["currency"] = currency
        world.save(customer)
    elif customer["currency"] != currency:
        raise ApiError(
            400,
            "You cannot combine currencies on a single customer. This customer has had a subscription, coupon, or invoice "
            f"item with currency {customer['currency']}",
            param="currency",
        )


def plain(value: Decimal) -> str:
    """Return a decimal as the API writes it: digits, no exponent, no trailing zeros."""
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
