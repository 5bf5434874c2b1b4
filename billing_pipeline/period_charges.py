"""What several charges of one subscription and period share: coupons and a minimum spend. Pure.

Not here: what one price asks (rating), which charges there are (billing_schedule).
"""

from collections.abc import Sequence
from fractions import Fraction

from billing_pipeline.amounts import Money, allocate


def share_out(off: Money, charged: Sequence[Money]) -> tuple[Money, ...]:
    """Return each charge's share of a coupon, in proportion to it and to the minor unit: 10.00 off 100, 50, 30 and 20 is 5.00,
    2.50, 1.50 and 1.00. Together they take what is charged at most; a charge below 0 has no share."""
    weights = [max(one.minor_units, 0) for one in charged]
    taken = min(off.minor_units, sum(weights))
    if taken <= 0:
        return tuple(Money(0, off.currency) for _ in charged)
    return allocate(Money(taken, off.currency), [Fraction(weight) for weight in weights])
