"""What a quantity is made of, for prices that do not rate it alone: single transactions, and what each window holds. Pure.

From the same rows and states as the quantity itself, in any order. Not here: the quantity of a period (meters).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal

from billing_pipeline.amounts import Exact
from billing_pipeline.meters import (
    EPOCH,
    HOUR_SECONDS,
    Aggregation,
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
