"""Spell the arithmetic of a rated line for a person: quantity x unit price + flat fee = amount. Pure; rounds nothing.

A number that never ends is shown as a short fraction (15/31), or cut off and marked as such (0.048387096…).
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from billing_pipeline.amounts import Exact, exact_text, simplest

# What `RatedLine.as_text` gives, and what a charge revision keeps.
LineText = Mapping[str, str | int | None]

# Longer fractions tell a person nothing.
_FRACTION_DIGITS = 7
_PLACES, _SIGNIFICANT = 9, 6


def line_formula(line: LineText) -> str:
    """Return the line as a formula, such as `500 request x 0.0125 = 6.25`; of a price with a multiplier
    `50 byte x 1.2 (0.5 x 2.4) = 60`; of a maximum `1 maximum x 100 - 182 charged = -82`."""
    quantity, unit = grouped(str(line["quantity"])), line["unit"]
    fee = str(line["flat_fee"])
    plus = "" if fee == "0" else f" + {grouped(fee)} flat fee"
    formula = f"{quantity} {unit} x {line['unit_price']}{_multiplied(line)}{plus}{_less(line)}"
    return f"{formula} = {endless(str(line['amount']))}"


def line_place(line: LineText) -> str:
    """Return what the line is where it is not usage, which tier of which price version it is about, and of how many windows."""
    kind, label, windows = line.get("kind"), line.get("label"), line.get("windows")
    parts = [
        None if kind is None else f"{kind} {label}" if label else str(kind),
        f"version {line['version']}",
        None if line["tier"] is None else f"tier {line['tier']}",
        str(label) if label and kind is None else None,
        None if windows is None else f"{windows} windows" if windows != 1 else "1 window",
    ]
    return ", ".join(part for part in parts if part is not None)


def lines_total(lines: Sequence[LineText]) -> str:
    """Return what the lines come to before it is rounded."""
    return endless(exact_text(simplest(sum((Fraction(str(line["amount"])) for line in lines), Fraction(0)))))


def grouped(number: str) -> str:
    """Return an exact number in text with thousands separated; 10/3 stays as it is, a longer fraction is cut off."""
    if "/" in number:
        return number if len(number) <= _FRACTION_DIGITS else endless(number)
    try:
        value = Decimal(number)
    except InvalidOperation:
        return number
    whole, point, fraction = format(value, "f").partition(".")
    sign, digits = ("-", whole[1:]) if whole.startswith("-") else ("", whole)
    return f"{sign}{int(digits):,}{point}{fraction}"


def endless(number: str) -> str:
    """Return an exact number in text as `grouped` does, but every fraction in decimals, cut off: 10/3 is 3.333333333…"""
    if "/" not in number:
        return grouped(number)
    value = abs(Fraction(number))
    places = _PLACES
    while value * 10**places < 10 ** (_SIGNIFICANT - 1):
        places += 1
    digits = str(value.numerator * 10**places // value.denominator).rjust(places + 1, "0")
    sign = "-" if number.startswith("-") else ""
    return f"{sign}{int(digits[:-places]):,}.{digits[-places:]}…"


def exact(value: Exact) -> str:
    """Return an exact number for reading, as `endless` does."""
    return endless(exact_text(value))


def plain(value: Decimal) -> str:
    """Return a number of a table without the zeros that only fill its column: 12.500000000 is 12.5."""
    text = format(value, "f")
    return grouped(text.rstrip("0").rstrip(".") if "." in text else text)


def _less(line: LineText) -> str:
    """Return what lines before come to, of which the line is the rest; or what of a discount is not used."""
    less = line.get("less")
    if less is None:
        return ""
    return f" + {endless(str(less)[1:])} not used" if str(less).startswith("-") else f" - {endless(str(less))} charged"


def _multiplied(line: LineText) -> str:
    """Return how the unit price came about, if a multiplier is in it."""
    multiplier = str(line.get("multiplier") or "1")
    if Decimal(multiplier) == 1:
        return ""
    price = simplest(Fraction(str(line["unit_price"])) / Fraction(multiplier))
    return f" ({exact_text(price)} x {multiplier})"
