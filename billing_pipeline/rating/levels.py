"""Rate a level by the tiers that its units lie in, each unit for the share of the period that it is held. Pure.

A level goes up and down; every step moves the units between `before` and `after`, which count (or count no longer) from
there to the end of the period. That is the mean over time of what the level costs at each instant, so the order of splitting
does not matter. Flat fees are due once, whole, for each tier that the level entered.
"""

from collections.abc import Iterator, Sequence
from decimal import Decimal

from billing_pipeline.amounts import Exact, exact_difference, exact_product, exact_sum
from billing_pipeline.catalog import Graduated, Price, PriceVersion, Tier, Volume
from billing_pipeline.rating.lines import Rated, RatedLine, UsageDetailMissingError
from billing_pipeline.rating.tiers import beyond_last_tier, tier_of
from billing_pipeline.rating.usage import Levels, LevelStep, VersionUsage

_ZERO, _ONE = Decimal(0), Decimal(1)


def rate_levels(*, price: Price, unit: str, usage: Sequence[VersionUsage]) -> Rated:
    """Return what the level of one period and group costs.

    To 5 at 10 and 100 once, then 5 and 50 once; 5 units for 0.7 of the period and 5 more for the last half:
    5 x 0.7 x 10 + 5 x 0.5 x 5 + 150 = 197.50. A volume price picks its tier by the highest level.

    Raises:
        BeyondLastTierError: the level was above a bounded last tier.
        UsageDetailMissingError: the usage does not say the steps.
    """
    lines: list[RatedLine] = []
    quantities: list[Exact] = []
    priced_unit = unit
    entered: set[int] = set()
    peak: Exact = _ZERO
    for part in usage:
        version = part.version
        if version.restart_tiers:
            entered, peak = set(), _ZERO
        priced_unit = unit if version.conversion is None else version.conversion.unit
        levels = tuple(_priced_steps(price, part))
        quantities += [_weighed(step.before, step.after, step.share) for step in levels]
        steps = tuple(_above(step, version.included_units) for step in levels)
        match version.model:
            case Graduated(tiers=tiers):
                held, reached = _held(price, tiers, steps)
            case Volume(tiers=tiers):
                peak = max([peak, *(step.after for step in steps)])
                number, _ = tier_of(price, tiers, peak)
                held = {number: exact_sum([_weighed(step.before, step.after, step.share) for step in steps])}
                reached = {number} if peak > 0 and not entered else set()
            case _:
                raise TypeError(f"price {price.price_id!r} version {version.version} has no tiers to prorate")
        if version.has_fee_at_zero and not entered:
            reached.add(min(held, default=1))
        lines.extend(_lines(version, tiers, priced_unit, held, reached - entered))
        entered |= reached
    total = exact_sum([line.amount for line in lines])
    return Rated(lines=tuple(lines), quantity=exact_sum(quantities), unit=priced_unit, exact=total)


def _priced_steps(price: Price, part: VersionUsage) -> Iterator[LevelStep]:
    """Yield the steps in priced units; a level below 0 is 0."""
    if not isinstance(part.detail, Levels):
        raise UsageDetailMissingError(
            f"price {price.price_id!r} prorates its tiers, and its usage does not say when the level changed",
            bill="this charge is not changed; what is booked stays",
            fix=f"rate it with a meter of a level, or leave prorated out of {price.price_id!r} in prices.toml",
            place=price.place("prorated", version=part.version.version),
        )
    share = _ONE if part.version.conversion is None else part.version.conversion.share
    for step in part.detail.steps:
        before, after = (
            max(exact_product(level, times=share, over=_ONE), _ZERO) for level in (step.before, step.after)
        )
        yield LevelStep(before=before, after=after, share=step.share)


def _above(step: LevelStep, included: Decimal) -> LevelStep:
    before, after = (max(exact_difference(level, included), _ZERO) for level in (step.before, step.after))
    return LevelStep(before=before, after=after, share=step.share)


def _held(price: Price, tiers: tuple[Tier, ...], steps: Sequence[LevelStep]) -> tuple[dict[int, Exact], set[int]]:
    """Return the units held in each tier, weighed by their share of the period, and the tiers that were entered."""
    held: dict[int, Exact] = {}
    reached: set[int] = set()
    for step in steps:
        low, high = sorted((step.before, step.after))
        sign = _ONE if step.after >= step.before else -_ONE
        lower: Exact = _ZERO
        for number, tier in enumerate(tiers, 1):
            upper = high if tier.up_to is None else min(tier.up_to, high)
            if upper > max(lower, low):
                size = _weighed(max(lower, low), upper, exact_product(step.share, times=sign, over=_ONE))
                held[number] = exact_sum([held.get(number, _ZERO), size])
                reached.add(number)
            if tier.up_to is None or high <= tier.up_to:
                break
            lower = tier.up_to
        else:
            raise beyond_last_tier(price, tiers, high)
    return held, reached


def _weighed(before: Exact, after: Exact, share: Exact) -> Exact:
    return exact_product(exact_difference(after, before), times=share, over=_ONE)


def _lines(
    version: PriceVersion, tiers: tuple[Tier, ...], unit: str, held: dict[int, Exact], fees: set[int]
) -> Iterator[RatedLine]:
    for number in sorted(held.keys() | fees):
        tier, size = tiers[number - 1], held.get(number, _ZERO)
        fee = tier.flat_fee if number in fees else _ZERO
        if size or fee:
            yield RatedLine(
                version=version.version,
                tier=number,
                quantity=size,
                unit=unit,
                unit_price=tier.unit_price,
                flat_fee=fee,
                amount=exact_sum([exact_product(size, times=tier.unit_price, over=_ONE), fee]),
            )
