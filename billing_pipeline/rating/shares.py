"""Which part of a whole billing period each price version is in force: what amounts for a whole period count by. Pure."""

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction

from billing_pipeline.amounts import Exact, simplest
from billing_pipeline.catalog import Price, PriceVersion, Prorate
from billing_pipeline.periods import BillingPeriod, Window, day_share, elapsed_share, thirty_day_share


def billed_share(price: Price, part: Window, whole: Window, zone: str) -> tuple[int, int]:
    """Return (billed, whole) of a part of a period by the price's `prorate`; not prorated, all of it."""
    match price.prorate:
        case Prorate.SECOND:
            return elapsed_share(part, whole)
        case Prorate.DAY:
            return day_share(part, whole, zone)
        case Prorate.THIRTY_DAY_MONTH:
            return thirty_day_share(part, whole, zone)
        case Prorate.NONE:
            return 1, 1


def version_shares(
    price: Price, versions: Sequence[tuple[PriceVersion, Window]], period: BillingPeriod, zone: str
) -> tuple[Exact, ...]:
    """Return the share of each version; without proration the first counts whole, and the others not at all."""
    if price.prorate is Prorate.NONE:
        return (Decimal(1), *(Decimal(0) for _ in versions[1:]))
    return tuple(simplest(Fraction(*billed_share(price, part, period.whole, zone))) for _, part in versions)
