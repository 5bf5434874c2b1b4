"""States of usage that cannot be added: many of them -> one that says the same, of a day or of many days. Pure.

What `meters.merge` makes of rows it also makes of their combined state, so that a period is merged from days, and days from
hours, in any grouping and order. Days are combined in blocks of 1, 2, 4, .. days that begin at multiples of their size: a day
that changes concerns one block of each size, whatever periods there are. Not here: keeping blocks (merged_usage). ADR 0036.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal

from billing_pipeline.amounts import exact_product, exact_text, to_scale
from billing_pipeline.levels import LevelState, combined, level_state
from billing_pipeline.meter_details import level_changes
from billing_pipeline.meters import (
    Aggregation,
    Meter,
    MeterSource,
    UsageState,
    invalid_state,
    latest_of,
    state_items,
    state_pairs,
)
from billing_pipeline.periods import Window

# Four months: a yearly period, and all the days before a level's period, take few.
LARGEST_BLOCK_DAYS = 128
_ROW_PLACES = 9


@dataclass(frozen=True, slots=True, order=True)
class DayBlock:
    """`days` event days from `start` on; a power of 2, and `start` a multiple of it in days since year 1."""

    start: date
    days: int

    @property
    def halves(self) -> tuple["DayBlock", "DayBlock"]:
        """Return the two blocks that it is made of; it has more than one day."""
        half = self.days // 2
        return DayBlock(self.start, half), DayBlock(self.start + timedelta(days=half), half)


def blocks_of(first: date, end: date) -> Iterator[DayBlock]:
    """Yield the fewest blocks that cover the days `[first, end)`, in order: a month takes 8 at most."""
    at, stop = first.toordinal(), end.toordinal()
    while at < stop:
        size = LARGEST_BLOCK_DAYS
        while at % size or at + size > stop:
            size //= 2
        yield DayBlock(date.fromordinal(at), size)
        at += size


def is_combinable(meter: Meter) -> bool:
    """Tell whether rows of the meter are states that combine."""
    return meter.source is MeterSource.API_REQUESTS and meter.aggregation in (
        Aggregation.MAX,
        Aggregation.MIN,
        Aggregation.MEAN,
        Aggregation.UNIQUE,
        Aggregation.LATEST,
        Aggregation.PERCENTILE,
        Aggregation.LEVEL,
    )


def combine(meter: Meter, rows: Iterable[UsageState], window: Window) -> UsageState:
    """Return one state that is worth as much as all of `rows`, of which there is one at least; in canonical order.

    `window` is what they are all that there is of: a level goes on where nothing changes it.

    Raises:
        UsageStateInvalidError: a state that the meter cannot read.
    """
    match meter.aggregation:
        case Aggregation.MAX:
            return UsageState(quantity=max(row.quantity for row in rows))
        case Aggregation.MIN:
            return UsageState(quantity=min(row.quantity for row in rows))
        case Aggregation.MEAN:
            return _mean(meter, rows)
        case Aggregation.UNIQUE:
            return _values(meter, rows)
        case Aggregation.LATEST:
            return latest_of(meter, rows)
        case Aggregation.PERCENTILE:
            return _pairs(meter, rows, "counts" if meter.bucket_seconds is None else "buckets")
        case Aggregation.LEVEL:
            return _of_level(level_state_of(meter, rows, window))
        case _:
            raise invalid_state(meter, f"{meter.aggregation} is not merged from states")


def level_state_of(meter: Meter, rows: Iterable[UsageState], window: Window) -> LevelState:
    """Return what rows of a level, or combined states of parts of `window`, do to the level in it.

    Raises:
        UsageStateInvalidError: a state that the meter cannot read.
    """
    found = tuple(rows)
    parts = [_level_of(meter, row.state["level"]) for row in found if row.state and "level" in row.state]
    if not parts:
        return level_state(level_changes(meter, found), window)
    if len(parts) != len(found):
        raise invalid_state(meter, "changes and combined states of a level are mixed")
    return combined(parts, window)


def _of_level(found: LevelState) -> UsageState:
    """Return the state as it is kept: [start, end, keeps, change, opening seconds, area, rise, peak], numbers as text."""
    bounds = [instant.isoformat() for instant in (found.window.start, found.window.end)]
    numbers = [found.change, found.opening_seconds, found.area, found.rise, found.peak]
    kept = [*bounds, found.keeps, *(None if number is None else exact_text(number) for number in numbers)]
    return UsageState(quantity=Decimal(0), state={"level": kept})


def _level_of(meter: Meter, kept: object) -> LevelState:
    match kept:
        case [
            str() as start,
            str() as end,
            bool() as keeps,
            str() as change,
            str() as seconds,
            str() as area,
            (str() | None) as rise,
            (str() | None) as peak,
        ]:
            return LevelState(
                window=Window(datetime.fromisoformat(start), datetime.fromisoformat(end)),
                keeps=keeps,
                change=Decimal(change),
                opening_seconds=Decimal(seconds),
                area=Decimal(area),
                rise=None if rise is None else Decimal(rise),
                peak=None if peak is None else Decimal(peak),
            )
        case _:
            raise invalid_state(meter, f"{kept!r} is not the state of a level")


def _mean(meter: Meter, rows: Iterable[UsageState]) -> UsageState:
    total = count = 0
    for row in rows:
        match row.state:
            case {"sum": int() as one, "count": int() as number}:
                total, count = total + one, count + number
            case _:
                raise invalid_state(meter, f"state {row.state!r} has no 'sum' and 'count'")
    mean = exact_product(Decimal(total), times=Decimal(1), over=Decimal(count))
    return UsageState(quantity=to_scale(mean, digits=_ROW_PLACES), state={"sum": total, "count": count})


def _values(meter: Meter, rows: Iterable[UsageState]) -> UsageState:
    values: set[object] = set()
    for row in rows:
        values.update(state_items(meter, row, "values"))
    ordered = sorted(values, key=lambda value: (isinstance(value, str), value))
    return UsageState(quantity=Decimal(len(ordered)), state={"values": ordered})


def _pairs(meter: Meter, rows: Iterable[UsageState], key: str) -> UsageState:
    """Add up what is counted for each value, or for each bucket. Its own quantity is not asked for, and left at 0."""
    counts: Counter[int] = Counter()
    for row in rows:
        for left, right in state_pairs(meter, row, key):
            counts[left] += right
    return UsageState(quantity=Decimal(0), state={key: [[left, right] for left, right in sorted(counts.items())]})
