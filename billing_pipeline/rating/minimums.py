"""Rate a minimum spend: what a subscription's other charges come to at least -> a line for what is missing. Pure.

Not here: which charges count (period_charges), the minimum of one price (adjustments).
"""

from collections.abc import Sequence
from decimal import Decimal

from billing_pipeline.amounts import Exact, exact_difference, exact_product, exact_sum
from billing_pipeline.catalog import MinimumSpend, Price
from billing_pipeline.rating.lines import LineKind, Rated, RatedLine
from billing_pipeline.rating.usage import VersionUsage

_ZERO, _ONE = Decimal(0), Decimal(1)


def rate_minimum(*, price: Price, usage: Sequence[VersionUsage], spent: Exact) -> Rated:
    """Return what is missing to a minimum: of 10.00 for 25 of 28 days, with 8.00 charged, 0.93.

    `usage` has each version's share of the whole period, `spent` is what the other charges come to, as they are rounded.
    """
    parts = [
        (part, part.version.model) for part in usage if part.share and isinstance(part.version.model, MinimumSpend)
    ]
    least = exact_sum([exact_product(_amount(model), times=part.share, over=_ONE) for part, model in parts])
    rest = exact_difference(least, spent)
    if rest <= 0:
        return Rated(lines=(), quantity=_ZERO, unit="period", exact=_ZERO)
    part, model = parts[-1]
    is_one = len(parts) == 1
    line = RatedLine(
        version=part.version.version,
        tier=None,
        quantity=part.share if is_one else least,
        unit="period" if is_one else price.currency,
        unit_price=_amount(model) if is_one else _ONE,
        flat_fee=_ZERO,
        amount=rest,
        kind=LineKind.MINIMUM,
        less=spent,
    )
    return Rated(lines=(line,), quantity=line.quantity, unit=line.unit, exact=rest)


def _amount(model: object) -> Decimal:
    return model.amount if isinstance(model, MinimumSpend) else _ZERO
