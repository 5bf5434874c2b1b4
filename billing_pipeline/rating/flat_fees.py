"""Rate flat fees: (price, billing period, quantities held) -> a line for each price version and quantity in it. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Protocol

from billing_pipeline.amounts import exact_arithmetic, exact_sum, simplest
from billing_pipeline.catalog import FlatFee, Graduated, Price, PriceVersion, Prorate, Tiering, Volume
from billing_pipeline.periods import BillingPeriod, Window
from billing_pipeline.rating.lines import NoPriceVersionError, Rated, RatedLine, UnratableError
from billing_pipeline.rating.shares import billed_share
from billing_pipeline.rating.tiers import steps

_ZERO, _ONE = Decimal(0), Decimal(1)
TIER_FEE = "tier fee"


class QuantityMissingError(UnratableError):
    """A fee is asked for each unit of a quantity that the subscription does not say."""


class HeldQuantities(Protocol):
    """The quantities that a subscription holds during `window`, such as 5 seats."""

    @property
    def window(self) -> Window: ...
    @property
    def quantities(self) -> Mapping[str, Decimal]: ...


def rate_flat_fee(*, price: Price, period: BillingPeriod, zone: str, held: Sequence[HeldQuantities] = ()) -> Rated:
    """Return the flat fee of a period: its share of the cadence's whole period, by the price's `prorate`.

    100.00 over January, used to the 16th 00:00, by seconds: 100.00 x 1296000 / 2678400, which rounds to 48.39. A version
    that begins inside the period is charged for its own share. 10.00 a seat, 5 seats and from the 16th 00:00 on 7: 5 x 15/31 +
    7 x 16/31 seats. With `prorate: none` version and quantity at the start count, whole. `held` covers the period; it is needed
    by fees with `per`. By tiers (to 3 at 10 each, then 8) 5 seats are 46.00, and for 15 of 31 days 15/31 of it, flat fees of the
    tiers too.

    Raises:
        NoPriceVersionError: a part of the period has no version.
        BeyondLastTierError: more of the quantity than a bounded last tier covers.
        QuantityMissingError: a part of it does not say how many there are.
    """
    lines: list[RatedLine] = []
    unit = "period"
    for version, model, part, quantity in _merged(_parts(price, period.window, held)):
        billed, whole = billed_share(price, part, period.whole, zone)
        unit = model.per or "period"
        if model.tiers:
            lines.extend(_tier_lines(price, version.version, model, Fraction(billed, whole), quantity))
        else:
            lines.append(_fee_line(version.version, model.amount, unit, billed, whole, quantity))
        if price.prorate is Prorate.NONE:
            break
    if len(lines) == 1:
        return Rated(lines=(lines[0],), quantity=lines[0].quantity, unit=unit, exact=lines[0].amount)
    total = exact_sum([line.amount for line in lines])
    held_units = exact_sum([line.quantity for line in lines if line.unit != TIER_FEE])
    return Rated(lines=tuple(lines), quantity=held_units, unit=unit, exact=total)


@lru_cache(maxsize=1 << 12)
def _fee_line(version: int, amount: Decimal, unit: str, billed: int, whole: int, quantity: Decimal) -> RatedLine:
    """Return the line of one part: of a price that many have, nearly all have the same."""
    share = Fraction(billed, whole) * Fraction(quantity)
    return RatedLine(
        version=version,
        tier=None,
        quantity=simplest(share),
        unit=unit,
        unit_price=amount,
        flat_fee=_ZERO,
        amount=simplest(share * Fraction(amount)),
    )


def _tier_lines(price: Price, version: int, fee: FlatFee, share: Fraction, quantity: Decimal) -> Iterator[RatedLine]:
    """Yield what `quantity` costs by tiers for a share of the period: a line for each tier's units, and one for its flat fee."""
    with exact_arithmetic():
        model = Volume(tiers=fee.tiers) if fee.tiering is Tiering.VOLUME else Graduated(tiers=fee.tiers)
        found = list(steps(price, model, _ZERO, quantity, quantity, has_fee=True))
    for step in found:
        parts = ((step.size, fee.per or "period", step.unit_price), (_ONE, TIER_FEE, step.flat_fee))
        for size, unit, unit_price in parts:
            if unit_price or unit != TIER_FEE:
                weighed = Fraction(size) * share
                yield RatedLine(
                    version=version,
                    tier=step.tier,
                    quantity=simplest(weighed),
                    unit=unit,
                    unit_price=unit_price,
                    flat_fee=_ZERO,
                    amount=simplest(weighed * Fraction(unit_price)),
                )


_Part = tuple[PriceVersion, FlatFee, Window, Decimal]


def _parts(price: Price, window: Window, held: Sequence[HeldQuantities]) -> Iterator[_Part]:
    """Yield the parts of `window` in order, each with one version and one quantity; without `per` the quantity is 1."""
    for version, span in versions_in(price, window):
        model = version.model
        if not isinstance(model, FlatFee):
            raise TypeError(f"price {price.price_id!r} version {version.version} is not a flat fee")
        if model.per is None:
            yield version, model, span, _ONE
            continue
        at = span.start
        for one in held:
            part = span.overlap(one.window.start, one.window.end)
            if part is None or model.per not in one.quantities:
                continue
            yield version, model, part, one.quantities[model.per]
            at = part.end
        if at < span.end:
            raise QuantityMissingError(
                f"price {price.price_id!r} asks for each {model.per}, and nothing says how many there are at {at.isoformat()}",
                bill="this charge is not changed; what is booked stays",
                fix=f"say it in the subscription, such as quantities = {{ {model.per} = 5 }}, and load the catalog",
                place=price.place("per", version=version.version),
            )


def _merged(parts: Iterable[_Part]) -> Iterator[_Part]:
    """Yield the parts, those that follow each other and differ in nothing as one."""
    before: _Part | None = None
    for part in parts:
        if before is not None and (before[0], before[3], before[2].end) == (part[0], part[3], part[2].start):
            before = (*before[:2], Window(before[2].start, part[2].end), before[3])
            continue
        if before is not None:
            yield before
        before = part
    if before is not None:
        yield before


def versions_in(price: Price, window: Window) -> Iterator[tuple[PriceVersion, Window]]:
    """Yield the versions of `price` in force in `window`, each with its part of it; together they cover it.

    Raises:
        NoPriceVersionError: a part of the window has no version.
    """
    at = window.start
    for version in price.versions:
        part = window.overlap(version.effective_from, version.effective_to)
        if part is None:
            continue
        if part.start > at:
            break
        yield version, part
        at = part.end
    if at < window.end:
        raise NoPriceVersionError(
            f"price {price.price_id!r} has no version at {at.isoformat()}",
            bill="this charge is not changed; what is booked stays",
            fix=f"add a version of {price.price_id!r} to prices.toml that is in force then, and load the catalog",
            place=price.place(),
        )
