"""Quantities, unit prices and money: exact until the one rounding. Pure.

A `Quantity` is exact in its unit, a unit price exact in major units of a currency, `Money` whole minor units of an
ISO 4217 currency. `round_half_away` is the only rounding of the project. Not here: what a price makes of a quantity
(rating). See docs/adr/0003-money-and-rounding.md.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Context, Decimal, DivisionByZero, Inexact, InvalidOperation, Overflow, localcontext
from enum import StrEnum
from fractions import Fraction

from billing_pipeline.errors import BillingError

# A terminating number is a Decimal. What does not terminate (100.00 x 15/31, 1/3 of a unit) stays a Fraction.
Exact = Decimal | Fraction

# 38 digits of quantity times 38 digits of price, added up a million times, fit; anything longer raises.
_EXACT_CONTEXT = Context(prec=120, traps=[Inexact, InvalidOperation, DivisionByZero, Overflow])

_DIGITS_BY_CURRENCY: dict[str, int] = {
    code: digits
    for digits, codes in {
        0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
        2: "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE "
        "CHF CHW CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD "
        "HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP "
        "MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD "
        "SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS "
        "VED VES WST XCD XCG YER ZAR ZMW ZWG",
        3: "BHD IQD JOD KWD LYD OMR TND",
        4: "CLF UYW",
    }.items()
    for code in codes.split()
}


class UnknownCurrencyError(BillingError):
    """A currency that ISO 4217 does not list: its minor digits, and so every amount in it, are unknown."""


class CurrencyMismatchError(BillingError):
    """Two amounts of different currencies met in one sum."""


class UnitMismatchError(BillingError):
    """Two quantities of different units met in one sum."""


class AllocationError(BillingError):
    """An amount cannot be shared out over these weights."""


def exact_arithmetic() -> AbstractContextManager[Context]:
    """Return the context of a block in which a Decimal operation that would lose a digit raises `decimal.Inexact`."""
    return localcontext(_EXACT_CONTEXT)


def minor_digits(currency: str) -> int:
    """Return the decimal places of `currency` (JPY 0, USD 2, KWD 3, CLF 4).

    Raises:
        UnknownCurrencyError: not an ISO 4217 code in use.
    """
    try:
        return _DIGITS_BY_CURRENCY[currency]
    except KeyError:
        raise UnknownCurrencyError(
            f"currency {currency!r} is not in ISO 4217",
            bill="no amount in it can be rounded, so nothing is charged",
            fix="write the three capital letters of a currency in use, such as USD",
        ) from None


def round_half_away(value: Exact, *, digits: int) -> int:
    """Return `value` in units of 10**-digits, halves away from zero: 1.225 at 2 digits is 123, -1.225 is -123."""
    if isinstance(value, Decimal):
        # The same rule in C: decimal's "half up" goes away from zero on both sides.
        return int(value.scaleb(digits, _EXACT_CONTEXT).to_integral_value(ROUND_HALF_UP, _EXACT_CONTEXT))
    numerator, denominator = value.as_integer_ratio()
    if digits >= 0:
        numerator *= 10**digits
    else:
        denominator *= 10**-digits
    whole, remainder = divmod(abs(numerator), denominator)
    rounded = whole + (2 * remainder >= denominator)
    return rounded if numerator >= 0 else -rounded


def ceil_div(quantity: Exact, size: Exact) -> int:
    """Return how many whole sizes cover `quantity`: 101 by 100 is 2."""
    return -floor_div(negated(quantity), size)


def floor_div(quantity: Exact, size: Exact) -> int:
    """Return how many whole sizes fit into `quantity`: 199 by 100 is 1."""
    numerator, denominator = quantity.as_integer_ratio()
    size_numerator, size_denominator = size.as_integer_ratio()
    return (numerator * size_denominator) // (denominator * size_numerator)


def simplest(value: Fraction) -> Exact:
    """Return `value` as a Decimal where its decimal expansion ends, else as it is."""
    rest, twos, fives = value.denominator, 0, 0
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    if rest != 1:
        return value
    places = max(twos, fives)
    return Decimal(value.numerator * 10**places // value.denominator).scaleb(-places, _EXACT_CONTEXT)


def exact_product(value: Exact, *, times: Exact, over: Exact) -> Exact:
    """Return value x times / over without rounding."""
    return simplest(Fraction(value) * Fraction(times) / Fraction(over))


def exact_sum(values: Sequence[Exact]) -> Exact:
    """Return the sum without rounding; 0 for no values."""
    if len(values) == 1 and isinstance(values[0], Decimal):
        return values[0]
    if all(isinstance(value, Decimal) for value in values):
        with exact_arithmetic():
            return sum((value for value in values if isinstance(value, Decimal)), Decimal(0))
    return simplest(sum((Fraction(value) for value in values), Fraction(0)))


def negated(value: Exact) -> Exact:
    """Return -value; a decimal's own minus sign would round it to the context's 28 digits."""
    return value.copy_negate() if isinstance(value, Decimal) else -value


def exact_difference(value: Exact, less: Exact) -> Exact:
    """Return value - less without rounding."""
    return exact_sum((value, negated(less)))


def exact_text(value: Exact) -> str:
    """Return `value` as plain text: 0.05 without exponent or trailing zeros, or 10/3 where decimals do not end."""
    if not isinstance(value, Decimal):
        return f"{value.numerator}/{value.denominator}"
    text = str(value)
    if "E" in text:
        text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def to_scale(value: Exact, *, digits: int) -> Decimal:
    """Return `value` at `digits` decimal places, for a column or a screen; money is never computed from it."""
    return Decimal(round_half_away(value, digits=digits)).scaleb(-digits, _EXACT_CONTEXT)


class RoundingMode(StrEnum):
    """How a converted quantity is made whole. Quantities are not negative, so up is away from zero."""

    UP = "up"
    DOWN = "down"
    HALF_UP = "half_up"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRounding:
    """Rounding of a quantity to `precision` decimal places; -2 means whole hundreds."""

    mode: RoundingMode
    precision: int = 0

    def apply(self, value: Exact) -> Decimal:
        """Return the rounded quantity: 123.456 up at -2 is 200, down at 2 is 123.45."""
        size = Decimal(1).scaleb(-self.precision, _EXACT_CONTEXT)
        match self.mode:
            case RoundingMode.UP:
                steps = ceil_div(value, size)
            case RoundingMode.DOWN:
                steps = floor_div(value, size)
            case RoundingMode.HALF_UP:
                steps = round_half_away(value, digits=self.precision)
        return Decimal(steps).scaleb(-self.precision, _EXACT_CONTEXT)


@dataclass(frozen=True, slots=True)
class Quantity:
    """An exact amount of something measured, in `unit`."""

    value: Exact
    unit: str

    def __add__(self, other: "Quantity") -> "Quantity":
        self._same_unit(other)
        return Quantity(exact_sum((self.value, other.value)), self.unit)

    def __sub__(self, other: "Quantity") -> "Quantity":
        self._same_unit(other)
        return Quantity(exact_difference(self.value, other.value), self.unit)

    def _same_unit(self, other: "Quantity") -> None:
        if self.unit != other.unit:
            raise UnitMismatchError(
                f"{exact_text(self.value)} {self.unit} and {exact_text(other.value)} {other.unit} cannot be added",
                bill="the sum is not made, so nothing is charged from it",
                fix="convert one of them by the price's unit conversion",
            )


@dataclass(frozen=True, slots=True)
class UnitPrice:
    """The exact price of one unit, in major units of `currency`; a price has more places than its money."""

    value: Decimal
    currency: str

    def times(self, quantity: Quantity) -> Exact:
        """Return the exact amount of `quantity`, not rounded: 8.165 x 2 is 16.33."""
        return exact_product(quantity.value, times=self.value, over=Decimal(1))


@dataclass(frozen=True, slots=True)
class Money:
    """Whole minor units of a currency: `Money(4839, "USD")` is 48.39 US dollars."""

    minor_units: int
    currency: str

    def __post_init__(self) -> None:
        minor_digits(self.currency)
        if isinstance(self.minor_units, bool) or not isinstance(self.minor_units, int):
            raise TypeError(f"minor units are a whole number, not {self.minor_units!r}")

    def __add__(self, other: "Money") -> "Money":
        self._same_currency(other)
        return Money(self.minor_units + other.minor_units, self.currency)

    def __sub__(self, other: "Money") -> "Money":
        self._same_currency(other)
        return Money(self.minor_units - other.minor_units, self.currency)

    def __neg__(self) -> "Money":
        return Money(-self.minor_units, self.currency)

    def __str__(self) -> str:
        digits = minor_digits(self.currency)
        return f"{Decimal(self.minor_units).scaleb(-digits, _EXACT_CONTEXT):.{digits}f} {self.currency}"

    @property
    def major(self) -> Decimal:
        """Return the amount in major units, exact: 48.39."""
        return Decimal(self.minor_units).scaleb(-minor_digits(self.currency), _EXACT_CONTEXT)

    def _same_currency(self, other: "Money") -> None:
        if self.currency != other.currency:
            raise CurrencyMismatchError(
                f"{self} and {other} cannot be added",
                bill="the sum is not made, so nothing is charged from it",
                fix="keep one total for each currency",
            )


def to_money(amount: Exact, currency: str) -> Money:
    """Return `amount` (major units) as money, rounded half away from zero; called once per charge."""
    return Money(round_half_away(amount, digits=minor_digits(currency)), currency)


def allocate(total: Money, weights: Sequence[Exact]) -> tuple[Money, ...]:
    """Return shares of `total` in proportion to `weights`, whose sum is `total` to the minor unit.

    The largest remainders get the units that are left over; of equal remainders the earlier:
    0.05 over 1:1:1 is 0.02, 0.02, 0.01.

    Raises:
        AllocationError: no weight above 0, or one below 0.
    """
    whole = sum((Fraction(weight) for weight in weights), Fraction(0))
    if whole <= 0 or any(weight < 0 for weight in weights):
        raise AllocationError(
            f"{total} cannot be shared out over the weights {[exact_text(weight) for weight in weights]}",
            bill="no share is made",
            fix="give weights that are not negative, one of them above 0",
        )
    sign = -1 if total.minor_units < 0 else 1
    shares = [abs(total.minor_units) * Fraction(weight) / whole for weight in weights]
    units = [share.numerator // share.denominator for share in shares]
    left_over = abs(total.minor_units) - sum(units)
    by_remainder = sorted(range(len(shares)), key=lambda index: (units[index] - shares[index], index))
    for index in by_remainder[:left_over]:
        units[index] += 1
    return tuple(Money(sign * unit, total.currency) for unit in units)
