"""What comes after the price: discounts, then a maximum, then a minimum, each a line of its own. Pure.

Amounts for a whole billing period count by each version's share of it. Not here: sharing one coupon over several charges
(billing_pipeline.period_charges), which line of usage a discount falls on (sharing).
"""

from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal

from billing_pipeline.amounts import Exact, exact_difference, exact_product, exact_sum, negated
from billing_pipeline.catalog import AmountOff, Discount, PercentOff, Price
from billing_pipeline.rating.commitments import with_lines
from billing_pipeline.rating.lines import LineKind, Rated, RatedLine
from billing_pipeline.rating.usage import VersionUsage

_ZERO, _ONE = Decimal(0), Decimal(1)


def adjusted(
    rated: Rated, *, price: Price, usage: Sequence[VersionUsage], coupons: Sequence[tuple[str, Discount]] = ()
) -> Rated:
    """Return `rated` after its price's discount, the coupons in their order, the maximum and the minimum.

    20 units at 10 with half off and at most 100: 200 - 100 = 100. A discount takes at most what is left; a maximum counts
    where every version has one.
    """
    off = with_coupons(discounted(rated, price=price, usage=usage), coupons, price=price)
    return bounded(off, price=price, usage=usage)


def discounted(rated: Rated, *, price: Price, usage: Sequence[VersionUsage]) -> Rated:
    """Return `rated` after the price's own discount; a percentage is of the lines of the version that has it."""
    for part in usage:
        discount = part.version.adjustments.discount if part.version.adjustments else None
        number = part.version.version
        match discount:
            case PercentOff(rate=rate):
                base = exact_sum([line.amount for line in rated.lines if line.version == number])
                rated = with_lines(rated, _percent_off(number, rate, base, price.currency, None))
            case AmountOff(amount=amount):
                rated = with_lines(rated, _amount_off(number, amount, part.share, rated.exact, None))
    return rated


def with_coupons(rated: Rated, coupons: Iterable[tuple[str, Discount]], *, price: Price) -> Rated:
    """Return `rated` after coupons (id, discount), each from what the one before left. An amount is taken as it is."""
    version = rated.lines[-1].version if rated.lines else price.versions[-1].version
    for coupon_id, discount in coupons:
        match discount:
            case PercentOff(rate=rate):
                added = _percent_off(version, rate, rated.exact, price.currency, coupon_id)
            case AmountOff(amount=amount):
                added = _amount_off(version, amount, _ONE, rated.exact, coupon_id)
        rated = with_lines(rated, added)
    return rated


def bounded(rated: Rated, *, price: Price, usage: Sequence[VersionUsage]) -> Rated:
    """Return `rated` after its maximum and then its minimum."""
    bounds = [(part, part.version.adjustments) for part in usage]
    most = [(part, found.maximum) for part, found in bounds if found is not None and found.maximum is not None]
    if most and len(most) == len(bounds):
        rated = with_lines(rated, _bound(most, LineKind.MAXIMUM, rated.exact, price.currency))
    least = [(part, found.minimum) for part, found in bounds if found is not None and found.minimum is not None]
    if least:
        rated = with_lines(rated, _bound(least, LineKind.MINIMUM, rated.exact, price.currency))
    return rated


def _percent_off(version: int, rate: Decimal, base: Exact, currency: str, label: str | None) -> Iterator[RatedLine]:
    if base > 0:
        yield RatedLine(
            version=version,
            tier=None,
            quantity=base,
            unit=currency,
            unit_price=rate.copy_negate(),
            flat_fee=_ZERO,
            amount=negated(exact_product(base, times=rate, over=_ONE)),
            kind=LineKind.DISCOUNT,
            label=label,
        )


def _amount_off(version: int, amount: Decimal, share: Exact, left: Exact, label: str | None) -> Iterator[RatedLine]:
    off = exact_product(amount, times=share, over=_ONE)
    taken = min(off, max(left, _ZERO))
    if taken:
        yield RatedLine(
            version=version,
            tier=None,
            quantity=share,
            unit="discount",
            unit_price=amount.copy_negate(),
            flat_fee=_ZERO,
            amount=negated(taken),
            kind=LineKind.DISCOUNT,
            label=label,
            less=exact_difference(taken, off) if taken != off else None,
        )


def _bound(
    parts: Sequence[tuple[VersionUsage, Decimal]], kind: LineKind, total: Exact, currency: str
) -> Iterator[RatedLine]:
    """Yield the rest of a maximum or minimum to what the lines before come to, where there is one."""
    figures = {figure for _, figure in parts}
    if len(figures) == 1:
        share, figure, unit = exact_sum([part.share for part, _ in parts]), parts[0][1], str(kind)
    else:
        share = exact_sum([exact_product(part.share, times=one, over=_ONE) for part, one in parts])
        figure, unit = _ONE, currency
    rest = exact_difference(exact_product(share, times=figure, over=_ONE), total)
    if rest > 0 if kind is LineKind.MINIMUM else rest < 0:
        yield RatedLine(
            version=parts[-1][0].version.version,
            tier=None,
            quantity=share,
            unit=unit,
            unit_price=figure,
            flat_fee=_ZERO,
            amount=rest,
            kind=kind,
            less=total,
        )
