"""Rate fixed windows each by itself: tiers, packages and commitments begin anew with every window. Pure.

The hours of the day may have terms of their own. Windows at the same terms add up to lines; `rate_each_window` tells them
apart. Not here: which usage is in which window (meters).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from billing_pipeline.amounts import Exact, exact_arithmetic, exact_product, exact_sum
from billing_pipeline.catalog import (
    Commitment,
    Graduated,
    Package,
    Price,
    PriceVersion,
    Standard,
    TieredModel,
    UnitConversion,
    Volume,
)
from billing_pipeline.meters import EPOCH
from billing_pipeline.periods import Window
from billing_pipeline.rating.commitments import commitment_cost, commitment_lines
from billing_pipeline.rating.lines import LineKind, NegativeQuantityError, Rated, RatedLine, UsageDetailMissingError
from billing_pipeline.rating.tiers import quantity_lines
from billing_pipeline.rating.usage import VersionUsage, Windows

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RatedWindow:
    """What one window costs; `quantity` in priced units."""

    start: datetime
    quantity: Exact
    lines: tuple[RatedLine, ...]

    @property
    def exact(self) -> Exact:
        """Return the sum of the lines."""
        return exact_sum([line.amount for line in self.lines])


def rate_windows(*, price: Price, unit: str, usage: Sequence[VersionUsage]) -> Rated:
    """Return what the windows of one period and group cost, windows of the same terms added up.

    Packages of 100 at 5 for windows of 50, 150, 200 and 99: (1 + 2 + 2 + 1) x 5 = 30.

    Raises:
        BeyondLastTierError: a window above a bounded last tier.
        NegativeQuantityError: a window below 0.
        UsageDetailMissingError: the usage does not say its windows.
    """
    windows = [window for part in usage for window in rate_each_window(price=price, unit=unit, part=part)]
    conversion = usage[0].version.conversion
    lines = tuple(_added_up([line for window in windows for line in window.lines]))
    return Rated(
        lines=lines,
        quantity=exact_sum([window.quantity for window in windows]),
        unit=unit if conversion is None else conversion.unit,
        exact=exact_sum([line.amount for line in lines]),
    )


def rate_each_window(*, price: Price, unit: str, part: VersionUsage) -> Iterator[RatedWindow]:
    """Yield what each window of one version costs; raises as `rate_windows`."""
    version = part.version
    if version.window is None:
        raise TypeError(f"price {price.price_id!r} version {version.version} does not rate windows")
    if not isinstance(part.detail, Windows):
        if part.quantity:
            raise UsageDetailMissingError(
                f"price {price.price_id!r} rates windows of {version.window.seconds} seconds, and its usage does not say them",
                bill="this charge is not changed; what is booked stays",
                fix="rate usage that is told by windows",
                place=price.place("window", version=version.version),
            )
        return
    priced_unit = unit if version.conversion is None else version.conversion.unit
    for start, quantity in part.detail.quantities:
        if quantity < 0:
            raise NegativeQuantityError(
                f"price {price.price_id!r}: the window at {start.isoformat()} has a quantity below 0",
                bill="this charge is not changed; what is booked stays",
                fix="find the usage rows below 0, correct what was delivered and build their days again",
                place=price.place("window", version=version.version),
            )
        label, model, commitment = _terms(price, version, start)
        size = _converted(quantity, version.conversion)
        lines = quantity_lines(price, version.version, model, unit=priced_unit, quantity=size, label=label)
        if commitment is not None:
            cost = commitment_cost(price, version, model, commitment, unit=priced_unit)
            lines += tuple(commitment_lines(version, commitment, cost, lines, currency=price.currency, label=label))
        yield RatedWindow(start=start, quantity=size, lines=tuple(replace(line, windows=1) for line in lines))


def windows_in(window: Window, seconds: int) -> Iterator[datetime]:
    """Yield where the windows begin that meet `window`, ascending; the first may begin before it."""
    size = timedelta(seconds=seconds)
    start = window_start(window.start, seconds)
    while start < window.end:
        yield start
        start += size


def window_start(instant: datetime, seconds: int) -> datetime:
    """Return where the window of `seconds` begins that contains `instant`: windows are aligned to midnight UTC."""
    return instant - (instant - EPOCH) % timedelta(seconds=seconds)


def _converted(quantity: Exact, conversion: UnitConversion | None) -> Exact:
    if conversion is None:
        return quantity
    units = exact_product(quantity, times=conversion.multiply, over=conversion.divide)
    return units if conversion.rounding is None else conversion.rounding.apply(units)


def _terms(price: Price, version: PriceVersion, start: datetime) -> tuple[str | None, TieredModel, Commitment | None]:
    """Return the hours in which a window begins, and its model and commitment."""
    for hours in version.window.hours if version.window else ():
        local = start.astimezone(ZoneInfo(version.window.zone if version.window else "UTC")).time()
        inside = (
            hours.start <= local < hours.end if hours.start < hours.end else hours.start <= local or local < hours.end
        )
        if inside:
            return f"{hours.start:%H:%M} to {hours.end:%H:%M}", hours.model, hours.commitment
    match version.model:
        case Standard() | Graduated() | Volume() | Package() as model:
            return None, model, version.commitment
    raise TypeError(f"price {price.price_id!r} version {version.version} cannot rate a window")


def _decimal_sum(values: Iterable[Decimal]) -> Decimal:
    with exact_arithmetic():
        return sum(values, _ZERO)


_Terms = tuple[int, int | None, str, Decimal, LineKind, str | None]


def _added_up(lines: Iterable[RatedLine]) -> Iterator[RatedLine]:
    """Yield a line for all lines of windows that have the same terms."""
    found: dict[_Terms, list[RatedLine]] = {}
    for line in lines:
        terms = (line.version, line.tier, line.unit, line.unit_price, line.kind, line.label)
        found.setdefault(terms, []).append(line)
    for same in found.values():
        lesses = [line.less for line in same if line.less is not None]
        yield replace(
            same[0],
            quantity=exact_sum([line.quantity for line in same]),
            flat_fee=_decimal_sum(line.flat_fee for line in same),
            amount=exact_sum([line.amount for line in same]),
            windows=len(same),
            less=exact_sum(lesses) if lesses else None,
        )
