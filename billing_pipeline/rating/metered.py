"""Rate metered usage: (price, quantities by price version) -> lines and an exact total. Pure.

Order: unit conversion -> included units -> price. Not here: flat fees (flat_fees), balances (balances).
"""

from collections.abc import Iterator, Sequence
from decimal import Decimal, Inexact
from fractions import Fraction
from typing import TypeVar

from billing_pipeline.amounts import Exact, exact_arithmetic, exact_text, simplest
from billing_pipeline.catalog import (
    FlatFee,
    Graduated,
    MeteredBalance,
    Package,
    PackageRounding,
    Price,
    PriceVersion,
    Standard,
    Tier,
    UnitConversion,
    Volume,
)
from billing_pipeline.rating.balances import by_quota, rate_balance
from billing_pipeline.rating.lines import BeyondLastTierError, NegativeQuantityError, Rated, RatedLine
from billing_pipeline.rating.usage import VersionUsage

# One formula for both: Decimal for what terminates, Fraction for what does not (a third of a unit).
_Number = TypeVar("_Number", Decimal, Fraction)
_ZERO = Decimal(0)


def rate(*, price: Price, unit: str, usage: Sequence[VersionUsage]) -> Rated:
    """Return what `usage` of one period and one group costs at `price`.

    `usage` is in order of versions, each version's part for itself; `unit` is the meter's. Tiers, packages and included
    units go on counting from one version to the next, unless a version restarts them: 0.10 until the 15th and 0.20 from the
    16th of 30 days at 1 a day is 15 x 0.10 + 15 x 0.20 = 4.50. A prepaid price is rated as if every multiplier were 1.

    Raises:
        NegativeQuantityError: a quantity below 0.
        BeyondLastTierError: more than a bounded last tier covers.
    """
    for part in usage:
        if part.quantity < 0:
            raise NegativeQuantityError(
                f"price {price.price_id!r}: the quantity is {exact_text(part.quantity)} {unit}, below 0",
                bill="this charge is not changed; what is booked stays",
                fix="find the usage rows below 0 in usage.metered and build their days again",
            )
    if price.is_prepaid:
        return rate_balance(price=price, unit=unit, usage=list(by_quota(usage)))
    versions = [part.version for part in usage]
    decimals = [part.quantity for part in usage if isinstance(part.quantity, Decimal)]
    if len(decimals) == len(usage):
        try:
            with exact_arithmetic():
                return _rated(price, unit, list(zip(versions, decimals, strict=True)), Decimal)
        except Inexact:
            # A conversion that does not terminate, such as seconds over 3600: the same formulas on fractions.
            pass
    fractions = [Fraction(part.quantity) for part in usage]
    return _rated(price, unit, list(zip(versions, fractions, strict=True)), Fraction)


def _rated(price: Price, unit: str, usage: Sequence[tuple[PriceVersion, _Number]], number: type[_Number]) -> Rated:
    lines: list[RatedLine] = []
    quantity = total = number(0)
    priced_unit = unit
    for run in _runs(usage):
        raw = number(0)
        run_total = sum((used for _, used in run), number(0))
        has_fee = True
        for version, used in run:
            converted_before, included = _converted(raw, version.conversion), number(version.included_units)
            raw += used
            converted = _converted(raw, version.conversion)
            priced_unit = version.conversion.unit if version.conversion else unit
            quantity += converted - converted_before
            before, upto = max(converted_before - included, number(0)), max(converted - included, number(0))
            whole = max(_converted(run_total, version.conversion) - included, number(0))
            for tier, size, unit_price, flat_fee in _steps(price, version, before, upto, whole, has_fee=has_fee):
                amount = size * number(unit_price) + number(flat_fee)
                total += amount
                # A fraction that was needed on the way may have ended: 1/3 hour + 2/3 hour.
                lines.append(
                    RatedLine(
                        version=version.version,
                        tier=tier,
                        quantity=_plain(size),
                        unit="package" if isinstance(version.model, Package) else priced_unit,
                        unit_price=unit_price,
                        flat_fee=flat_fee,
                        amount=_plain(amount),
                    )
                )
            has_fee = has_fee and upto == before
    return Rated(lines=tuple(lines), quantity=_plain(quantity), unit=priced_unit, exact=_plain(total))


def _plain(value: Exact) -> Exact:
    return simplest(value) if isinstance(value, Fraction) else value


def _runs(usage: Sequence[tuple[PriceVersion, _Number]]) -> Iterator[Sequence[tuple[PriceVersion, _Number]]]:
    """Split `usage` where a version restarts its tiers."""
    start = 0
    for index, (version, _) in enumerate(usage):
        if index > start and version.restart_tiers:
            yield usage[start:index]
            start = index
    yield usage[start:]


def _converted(raw: _Number, conversion: UnitConversion | None) -> _Number:
    if conversion is None:
        return raw
    number = type(raw)
    converted = raw * number(conversion.multiply) / number(conversion.divide)
    return converted if conversion.rounding is None else number(conversion.rounding.apply(converted))


def _steps(
    price: Price, version: PriceVersion, before: _Number, upto: _Number, whole: _Number, *, has_fee: bool
) -> Iterator[tuple[int | None, _Number, Decimal, Decimal]]:
    """Yield (tier, size, unit price, flat fee) for the units above `before` up to `upto`.

    `whole` is the total that a volume price picks its tier by; its flat fee is due once, while `has_fee`.
    """
    if upto == before:
        return
    match version.model:
        case Standard(unit_price=unit_price):
            yield None, upto - before, unit_price, _ZERO
        case Graduated(tiers=tiers):
            yield from _graduated(price, tiers, before, upto)
        case Volume(tiers=tiers):
            number, tier = _tier_of(price, tiers, whole)
            yield number, upto - before, tier.unit_price, tier.flat_fee if has_fee else _ZERO
        case Package() as package:
            packages = _packages(package, upto) - _packages(package, before)
            if packages:
                yield None, packages, package.price, _ZERO
        case FlatFee():
            raise TypeError(f"price {price.price_id!r} version {version.version} has no meter: rate_flat_fee rates it")
        case MeteredBalance():
            raise TypeError(f"price {price.price_id!r} version {version.version} is not of a prepaid price")


def _graduated(
    price: Price, tiers: tuple[Tier, ...], before: _Number, upto: _Number
) -> Iterator[tuple[int | None, _Number, Decimal, Decimal]]:
    number = type(upto)
    lower = number(0)
    for position, tier in enumerate(tiers, 1):
        upper = upto if tier.up_to is None else min(number(tier.up_to), upto)
        start = max(lower, before)
        if upper > start:
            # The fee is due on entering: when nothing was in the tier before these units.
            yield position, upper - start, tier.unit_price, tier.flat_fee if before <= lower else _ZERO
        if tier.up_to is None or upto <= number(tier.up_to):
            return
        lower = number(tier.up_to)
    raise _beyond_last_tier(price, tiers, upto)


def _tier_of(price: Price, tiers: tuple[Tier, ...], quantity: Exact) -> tuple[int, Tier]:
    for position, tier in enumerate(tiers, 1):
        if tier.up_to is None or quantity <= tier.up_to:
            return position, tier
    raise _beyond_last_tier(price, tiers, quantity)


def _packages(package: Package, quantity: _Number) -> _Number:
    """Return how many packages `quantity` takes; `//` is exact on both kinds of numbers, and nothing here is below 0."""
    number = type(quantity)
    paid, size = max(quantity - number(package.free_units), number(0)), number(package.size)
    full = number(paid // size)
    return full + 1 if package.rounding is PackageRounding.UP and full * size < paid else full


def _beyond_last_tier(price: Price, tiers: tuple[Tier, ...], quantity: Exact) -> BeyondLastTierError:
    last = tiers[-1].up_to
    return BeyondLastTierError(
        f"price {price.price_id!r}: the quantity {exact_text(_plain(quantity))} is beyond the last tier, "
        f"which ends at {'-' if last is None else exact_text(last)}",
        bill="this charge is not changed; what is booked stays",
        fix=f"add a version of {price.price_id!r} whose last tier is open, or reaches further, and load the catalog",
    )
