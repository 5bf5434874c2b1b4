"""What a quantity is made of, for prices that do not rate it alone: single transactions, windows, changes of a level. Pure.

From the same rows and states as the quantity itself, in any order. Not here: the quantity of a period of other meters (meters),
how levels combine (levels).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from billing_pipeline.amounts import Exact, exact_product, exact_sum
from billing_pipeline.levels import Change, LevelState, level_state
from billing_pipeline.meters import (
    EPOCH,
    HOUR_SECONDS,
    Aggregation,
    LevelFold,
    Meter,
    TransactionDetail,
    UsageState,
    invalid_state,
    merge,
    state_items,
    state_pairs,
)
from billing_pipeline.periods import Window


def transactions(meter: Meter, rows: Iterable[UsageState]) -> tuple[tuple[Decimal, int], ...]:
    """Return (amount, how many) of the meter's transactions: in order of time, or ascending where the meter only counts them.

    Equal transactions that follow each other are one. At one instant the smaller amount comes first.

    Raises:
        UsageStateInvalidError: a row whose state does not tell them.
    """
    if meter.transactions is TransactionDetail.ORDERED:
        at_instants: Counter[tuple[int, int]] = Counter()
        for row in rows:
            for item in state_items(meter, row, "transactions"):
                match item:
                    case [int() as at, int() as value, int() as count]:
                        at_instants[at, value] += count
                    case _:
                        raise invalid_state(meter, f"{item!r} is not an instant, a value and a number")
        return _joined((Decimal(value), count) for (_, value), count in sorted(at_instants.items()))
    counts: Counter[int] = Counter()
    for row in rows:
        for value, count in state_pairs(meter, row, "counts"):
            counts[value] += count
    return tuple((Decimal(value), count) for value, count in sorted(counts.items()))


def window_quantities(
    meter: Meter, rows: Iterable[tuple[datetime, UsageState]], *, seconds: int, period: Window
) -> Mapping[datetime, Exact]:
    """Return the meter's quantity of each window of `seconds` (aligned to midnight UTC) that has usage, by its start.

    `rows` are (start, state) of usage in `period`. Windows shorter than an hour come from the buckets of the states.

    Raises:
        UsageStateInvalidError: a row whose state does not tell its buckets.
    """
    if seconds % HOUR_SECONDS == 0:
        by_window: dict[datetime, list[UsageState]] = defaultdict(list)
        for start, row in rows:
            by_window[_window_start(start, seconds)].append(row)
        size = timedelta(seconds=seconds)
        return {
            start: merge(
                meter,
                found,
                period_start=max(start, period.start),
                period_end=min(start + size, period.end),
            )
            for start, found in sorted(by_window.items())
        }
    values: dict[int, list[int]] = defaultdict(list)
    for _, row in rows:
        for bucket_start, value in state_pairs(meter, row, "buckets"):
            values[bucket_start // seconds * seconds].append(value)
    return {EPOCH + timedelta(seconds=start): _folded(meter, found) for start, found in sorted(values.items())}


def level_changes(meter: Meter, rows: Iterable[UsageState]) -> tuple[Change, ...]:
    """Return the changes of a level, in order of time. Of several values that it is set to at one instant the greatest holds.

    Raises:
        UsageStateInvalidError: a row whose state does not tell them.
    """
    found: dict[int, int] = {}
    for row in rows:
        for at, value in state_pairs(meter, row, "changes"):
            if meter.is_set:
                found[at] = max(value, found.get(at, value))
            else:
                found[at] = found.get(at, 0) + value
    return tuple(
        Change(at=EPOCH + timedelta(microseconds=at), value=Decimal(value), is_set=meter.is_set)
        for at, value in sorted(found.items())
    )


def level_quantity(meter: Meter, changes: Sequence[Change], *, opening: Exact, period: Window, whole: Window) -> Exact:
    """Return what a level comes to in `period`, a part of the billing period `whole`, which it enters at `opening`."""
    return level_worth(meter, level_state(changes, period), opening=opening, whole=whole)


def level_worth(meter: Meter, state: LevelState, *, opening: Exact, whole: Window) -> Exact:
    """Return what a level comes to in the window of `state`, a part of the billing period `whole`.

    A mean is over the whole period: what is held in half of it counts half. A level below 0 comes to 0.
    """
    match meter.level:
        case LevelFold.MEAN:
            found = exact_product(state.value_seconds(opening), times=Decimal(1), over=Decimal(whole.seconds))
        case LevelFold.HIGHEST:
            found = state.highest(opening)
        case _:
            found = state.closing(opening)
    return max(found, Decimal(0))


def level_steps(
    changes: Sequence[Change], *, opening: Exact, period: Window, whole: Window
) -> tuple[tuple[Exact, Exact, Exact], ...]:
    """Return (before, after, share) of each step of a level in `period`: what it enters with is a step from 0, and what it
    leaves with goes on to the end of `period`. A share is of the seconds of `whole`."""

    def share(at: datetime) -> Exact:
        left = (period.end - at) // timedelta(microseconds=1)
        return exact_product(Decimal(left), times=Decimal(1), over=Decimal(whole.seconds * 1_000_000))

    steps: list[tuple[Exact, Exact, Exact]] = []
    level: Exact = Decimal(0)
    for at, after in ((period.start, opening), *_levels_after(changes, opening, period)):
        if after != level:
            steps.append((level, after, share(at)))
            level = after
    return tuple(steps)


def _levels_after(changes: Sequence[Change], opening: Exact, period: Window) -> Iterator[tuple[datetime, Exact]]:
    level = opening
    for change in changes:
        if change.at in period:
            level = change.value if change.is_set else exact_sum([level, change.value])
            yield change.at, level


def _joined(found: Iterable[tuple[Decimal, int]]) -> tuple[tuple[Decimal, int], ...]:
    joined: list[tuple[Decimal, int]] = []
    for value, count in found:
        if joined and joined[-1][0] == value:
            count += joined.pop()[1]
        joined.append((value, count))
    return tuple(joined)


def _folded(meter: Meter, values: list[int]) -> Decimal:
    match meter.aggregation:
        case Aggregation.MAX:
            return Decimal(max(values))
        case Aggregation.MIN:
            return Decimal(min(values))
        case _:
            return Decimal(sum(values))


def _window_start(instant: datetime, seconds: int) -> datetime:
    return instant - (instant - EPOCH) % timedelta(seconds=seconds)
