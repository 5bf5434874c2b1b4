"""Share a charge's rounded amounts out over its lines, to the minor unit: what each line of usage comes to after all. Pure.

A discount falls on lines in proportion to them, what is above a maximum on the last lines first. Shares add up to the rounded
charge: largest remainder. Not here: sharing one coupon over several charges (billing_pipeline.period_charges).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from billing_pipeline.amounts import Exact, Money, allocate, exact_sum, minor_digits, to_money
from billing_pipeline.rating.lines import LineKind, Rated, RatedLine

_OF_USAGE = (LineKind.USAGE, LineKind.OVERAGE, LineKind.COMMITMENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class LineShare:
    """A line of usage, or the charge's own minimum: what it comes to, what a discount and a maximum take off."""

    line: RatedLine
    gross: Money
    discount: Money
    capped: Money

    @property
    def net(self) -> Money:
        """Return what is charged for it."""
        return self.gross - self.discount - self.capped


def line_shares(rated: Rated, currency: str) -> tuple[LineShare, ...]:
    """Return the shares of all lines that charge something; their nets add up to the charge, to the minor unit.

    15 and 7, of which 12 is above the maximum: 10 and 0.
    """
    charging = _charging(rated.lines)
    exact = exact_sum([amount for _, amount in charging])
    gross_total = to_money(exact, currency)
    gross = _shares([amount for _, amount in charging], gross_total)
    by_kind = {
        kind: exact_sum([line.amount for line in rated.lines if line.kind is kind and line.tier is None])
        for kind in (LineKind.DISCOUNT, LineKind.MAXIMUM, LineKind.MINIMUM)
    }
    discounted = to_money(exact_sum([exact, by_kind[LineKind.DISCOUNT]]), currency)
    discount = gross_total - discounted
    zero = Money(0, currency)
    discounts = [zero] * len(gross)
    if discount != zero:
        discounts = list(allocate(discount, [Fraction(max(share.minor_units, 0)) for share in gross]))
    bounded = to_money(exact_sum([exact, by_kind[LineKind.DISCOUNT], by_kind[LineKind.MAXIMUM]]), currency)
    capped = _from_the_last(discounted - bounded, [one - off for one, off in zip(gross, discounts, strict=True)])
    shares = [
        LineShare(line=line, gross=one, discount=off, capped=above)
        for (line, _), one, off, above in zip(charging, gross, discounts, capped, strict=True)
    ]
    rest = to_money(rated.exact, currency) - bounded
    minimums = [line for line in rated.lines if line.kind is LineKind.MINIMUM]
    if minimums:
        parts = _shares([line.amount for line in minimums], rest)
        shares += [
            LineShare(line=line, gross=part, discount=zero, capped=zero)
            for line, part in zip(minimums, parts, strict=True)
        ]
    return tuple(shares)


def _charging(lines: Iterable[RatedLine]) -> list[tuple[RatedLine, Exact]]:
    """Return the lines of usage, each with what its tier's maximum leaves of it."""
    found: list[tuple[RatedLine, Exact]] = []
    for line in lines:
        if line.kind in _OF_USAGE:
            found.append((line, line.amount))
        elif line.kind is LineKind.MAXIMUM and line.tier is not None:
            usage, amount = found[-1]
            found[-1] = (usage, exact_sum([amount, line.amount]))
    return found


def _shares(amounts: Sequence[Exact], total: Money) -> list[Money]:
    """Return `amounts` in minor units that add up to `total`, their rounded sum: the largest remainders are rounded up."""
    scale = 10 ** minor_digits(total.currency)
    exact = [Fraction(amount) * scale for amount in amounts]
    units = [one.numerator // one.denominator for one in exact]
    left_over = total.minor_units - sum(units)
    by_remainder = sorted(range(len(exact)), key=lambda index: (units[index] - exact[index], index))
    for index in by_remainder[:left_over]:
        units[index] += 1
    return [Money(unit, total.currency) for unit in units]


def _from_the_last(above: Money, left: Sequence[Money]) -> list[Money]:
    """Return how much of `above` each line gives, the last ones first, none more than it has."""
    units = above.minor_units
    found = []
    for one in reversed(left):
        taken = min(units, max(one.minor_units, 0))
        units -= taken
        found.append(Money(taken, above.currency))
    return found[::-1]
