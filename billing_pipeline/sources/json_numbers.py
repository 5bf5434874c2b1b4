"""Numbers that stand in JSON: text -> int or Decimal, exact. Not here: what a number counts, and which ones a field takes."""

from decimal import Decimal, InvalidOperation

# Python turns at most 4,300 digits into an int.
LONGEST_INTEGER = 4_000


def exact_decimal(text: str) -> Decimal:
    """Return the number that `text` spells, with all of its digits.

    An exponent of about nineteen digits and more is beyond every Decimal: what would be so large becomes infinite, which is
    refused where it is read and does no harm elsewhere; what would be so small becomes 0.
    """
    try:
        return Decimal(text)
    except InvalidOperation:
        mantissa, _, exponent = text.lower().partition("e")
        is_nothing = exponent.startswith("-") or not Decimal(mantissa)
        return Decimal(0) if is_nothing else Decimal("Infinity").copy_sign(Decimal(mantissa))


def exact_integer(text: str) -> int | Decimal:
    """Return the whole number that `text` spells, as a Decimal where it is longer than any that is counted."""
    return int(text) if len(text) <= LONGEST_INTEGER else Decimal(text)
