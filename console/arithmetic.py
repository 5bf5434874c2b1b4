"""Spell the arithmetic of a rated line for a person: quantity x unit price + flat fee = amount. Pure; rounds nothing."""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation

# What `RatedLine.as_text` gives, and what a charge revision keeps.
LineText = Mapping[str, str | int | None]


def line_formula(line: LineText) -> str:
    """Return the line as a formula, such as `500 request x 0.0125 = 6.25`, its tier and price version named."""
    quantity, unit = grouped(str(line["quantity"])), line["unit"]
    fee = str(line["flat_fee"])
    plus = "" if fee == "0" else f" + {grouped(fee)} flat fee"
    return f"{quantity} {unit} x {line['unit_price']}{plus} = {grouped(str(line['amount']))}"


def line_place(line: LineText) -> str:
    """Return which tier of which price version the line is about."""
    version = f"version {line['version']}"
    return version if line["tier"] is None else f"{version}, tier {line['tier']}"


def grouped(number: str) -> str:
    """Return an exact number in text with thousands separated; 10/3 stays as it is."""
    try:
        value = Decimal(number)
    except InvalidOperation:
        return number
    whole, point, fraction = format(value, "f").partition(".")
    sign, digits = ("-", whole[1:]) if whole.startswith("-") else ("", whole)
    return f"{sign}{int(digits):,}{point}{fraction}"


def plain(value: Decimal) -> str:
    """Return a number of a table without the zeros that only fill its column: 12.500000000 is 12.5."""
    text = format(value, "f")
    return grouped(text.rstrip("0").rstrip(".") if "." in text else text)
