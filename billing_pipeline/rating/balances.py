"""Rate traffic that a prepaid balance pays for: usage by multiplier -> lines. Pure. Not here: which byte is included (prepaid)."""

from collections.abc import Iterator, Sequence
from decimal import Decimal

from billing_pipeline.amounts import Exact, exact_arithmetic, exact_difference, exact_product, exact_sum
from billing_pipeline.catalog import MeteredBalance, Price
from billing_pipeline.rating.lines import Rated, RatedLine
from billing_pipeline.rating.usage import BalanceUsage, VersionUsage

_ZERO, _ONE = Decimal(0), Decimal(1)


def rate_balance(*, price: Price, unit: str, usage: Sequence[BalanceUsage]) -> Rated:
    """Return what the usage of one period takes from a prepaid balance, a line for each version and multiplier.

    Quota 100, price 0.5, multiplier 2.4, 150 bytes: (150 - 100) x 0.5 x 2.4 = 60. Which byte is included is decided before,
    in order of time (prepaid). Lines with nothing to pay are left out.
    """
    lines = []
    quantities = []
    priced_unit = unit
    for part in usage:
        version = part.version
        if not isinstance(version.model, MeteredBalance):
            raise TypeError(f"price {price.price_id!r} version {version.version} is not prepaid")
        share = _ONE if version.conversion is None else version.conversion.share
        priced_unit = unit if version.conversion is None else version.conversion.unit
        quantities.append(exact_product(part.quantity, times=share, over=_ONE))
        paid = exact_difference(part.quantity, part.included)
        if paid:
            size = exact_product(paid, times=share, over=_ONE)
            with exact_arithmetic():
                unit_price = version.model.unit_price * part.multiplier
            lines.append(
                RatedLine(
                    version=version.version,
                    tier=None,
                    quantity=size,
                    unit=priced_unit,
                    unit_price=unit_price,
                    flat_fee=_ZERO,
                    amount=exact_product(size, times=unit_price, over=_ONE),
                    multiplier=part.multiplier,
                )
            )
    total = exact_sum([line.amount for line in lines])
    return Rated(lines=tuple(lines), quantity=exact_sum(quantities), unit=priced_unit, exact=total)


def by_quota(usage: Sequence[VersionUsage]) -> Iterator[BalanceUsage]:
    """Yield usage as if every multiplier were 1, the quota used up in order of versions."""
    used: Exact = _ZERO
    for part in usage:
        if not isinstance(part.version.model, MeteredBalance):
            raise TypeError(f"version {part.version.version} is not prepaid")
        quota = Decimal(part.version.model.included_quota_bytes)
        upto = exact_sum([used, part.quantity])
        included = exact_difference(min(quota, upto), min(quota, used))
        yield BalanceUsage(version=part.version, multiplier=_ONE, quantity=part.quantity, included=included)
        used = upto
