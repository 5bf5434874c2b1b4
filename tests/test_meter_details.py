"""Transactions, windows and levels from the states of usage rows, against the records that these come from."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing_pipeline.meter_details import (
    level_changes,
    level_quantity,
    level_steps,
    transactions,
    window_quantities,
)
from billing_pipeline.meters import (
    EPOCH,
    Aggregation,
    LevelFold,
    Meter,
    TransactionDetail,
    UsageState,
    UsageStateInvalidError,
)
from billing_pipeline.periods import Window

DAY = Window(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC))
ORDERED = Meter(
    meter_id="sales",
    version=1,
    aggregation=Aggregation.SUM,
    unit="cent",
    field="response_bytes",
    transactions=TransactionDetail.ORDERED,
)
COUNTED = Meter(
    meter_id="sales",
    version=1,
    aggregation=Aggregation.SUM,
    unit="cent",
    field="response_bytes",
    transactions=TransactionDetail.COUNTED,
)

# (second of the day, value)
records = st.lists(st.tuples(st.integers(0, 86_399), st.integers(0, 9)), min_size=1, max_size=25)


def microsecond(second: int) -> int:
    return (DAY.start - EPOCH) // timedelta(microseconds=1) + second * 1_000_000


def by_hour(found: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    hours: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for second, value in found:
        hours[second // 3600].append((second, value))
    return list(hours.values())


def ordered_state(found: Sequence[tuple[int, int]]) -> UsageState:
    listed = [[microsecond(second), value, found.count((second, value))] for second, value in sorted(set(found))]
    return UsageState(quantity=Decimal(0), state={"transactions": listed})


class TestTransactions:
    @given(records, st.randoms(use_true_random=False))
    def test_come_in_order_of_time_from_rows_in_any(self, found: list[tuple[int, int]], random: object) -> None:
        rows = [ordered_state(hour) for hour in by_hour(found)]
        random.shuffle(rows)  # type: ignore[attr-defined]
        spelt = [value for value, count in transactions(ORDERED, rows) for _ in range(count)]
        assert spelt == [value for _, value in sorted(found)]

    @given(records)
    def test_are_counted_where_their_order_does_not_matter(self, found: list[tuple[int, int]]) -> None:
        rows = []
        for hour in by_hour(found):
            values = [value for _, value in hour]
            counts = [[value, values.count(value)] for value in sorted(set(values))]
            rows.append(UsageState(quantity=Decimal(0), state={"counts": counts}))
        everything = sorted(value for _, value in found)
        assert transactions(COUNTED, rows) == tuple(
            (Decimal(value), everything.count(value)) for value in sorted(set(everything))
        )

    def test_equal_ones_that_follow_each_other_are_one(self) -> None:
        rows = [ordered_state([(1, 5), (2, 5), (3, 7), (3, 7), (4, 5)])]
        assert transactions(ORDERED, rows) == ((5, 2), (7, 2), (5, 1))

    @pytest.mark.parametrize("meter", [ORDERED, COUNTED])
    def test_refuse_a_state_without_them(self, meter: Meter) -> None:
        with pytest.raises(UsageStateInvalidError):
            transactions(meter, [UsageState(quantity=Decimal(1), state={"transactions": [[1]], "counts": [[1]]})])


class TestWindowQuantities:
    @pytest.mark.parametrize("aggregation", [Aggregation.COUNT, Aggregation.SUM, Aggregation.MAX, Aggregation.MIN])
    @pytest.mark.parametrize("seconds", [900, 1800, 3600, 21_600, 86_400])
    @given(found=records)
    def test_are_those_of_the_records_in_each(
        self, aggregation: Aggregation, seconds: int, found: list[tuple[int, int]]
    ) -> None:
        meter = Meter(
            meter_id="m",
            version=1,
            aggregation=aggregation,
            unit="u",
            field=None if aggregation is Aggregation.COUNT else "response_bytes",
            bucket_seconds=900,
        )

        def folded(values: list[int]) -> int:
            kinds = {"count": len, "sum": sum, "max": max, "min": min}
            return kinds[str(aggregation)](values)  # type: ignore[operator,no-any-return]

        def grouped(of: Sequence[tuple[int, int]], size: int) -> dict[int, int]:
            groups: dict[int, list[int]] = defaultdict(list)
            for second, value in of:
                groups[second // size * size].append(value)
            return {start: folded(values) for start, values in sorted(groups.items())}

        rows = []
        for hour in by_hour(found):
            start = DAY.start + timedelta(seconds=hour[0][0] // 3600 * 3600)
            buckets = [[microsecond(at) // 1_000_000, value] for at, value in grouped(hour, 900).items()]
            quantity = Decimal(folded([value for _, value in hour]))
            rows.append((start, UsageState(quantity=quantity, state={"buckets": buckets})))
        result = window_quantities(meter, rows, seconds=seconds, period=DAY)
        assert result == {DAY.start + timedelta(seconds=at): value for at, value in grouped(found, seconds).items()}


def level_meter(fold: LevelFold, *, is_set: bool = False) -> Meter:
    return Meter(
        meter_id="seats",
        version=1,
        aggregation=Aggregation.LEVEL,
        unit="seat",
        field="response_bytes",
        level=fold,
        is_set=is_set,
    )


class TestLevels:
    @given(
        st.lists(st.tuples(st.integers(0, 23), st.integers(-5, 5)), max_size=12, unique_by=lambda one: one[0]),
        st.integers(-5, 9),
        st.booleans(),
    )
    def test_go_on_from_what_they_began_with(self, found: list[tuple[int, int]], opening: int, is_set: bool) -> None:
        rows = [
            UsageState(quantity=Decimal(0), state={"changes": [[microsecond(hour * 3600), value]]})
            for hour, value in found
        ]
        level, hours = opening, []
        for hour in range(24):
            for at, value in found:
                if at == hour:
                    level = value if is_set else level + value
            hours.append(level)
        meter = level_meter(LevelFold.MEAN, is_set=is_set)
        changes = level_changes(meter, rows)
        wanted = {
            LevelFold.MEAN: Fraction(sum(hours), 24),
            LevelFold.HIGHEST: Fraction(max(hours)),
            LevelFold.LAST: Fraction(hours[-1]),
        }
        for fold in LevelFold:
            quantity = level_quantity(
                level_meter(fold, is_set=is_set), changes, opening=Decimal(opening), period=DAY, whole=DAY
            )
            assert quantity == max(wanted[fold], 0)
        steps = level_steps(changes, opening=Decimal(opening), period=DAY, whole=DAY)
        assert (
            sum(Fraction(after - before) * Fraction(share) for before, after, share in steps) == wanted[LevelFold.MEAN]
        )

    def test_a_part_of_a_period_counts_for_its_part(self) -> None:
        noon = Window(DAY.start, DAY.start + timedelta(hours=12))
        mean = level_quantity(level_meter(LevelFold.MEAN), (), opening=Decimal(10), period=noon, whole=DAY)
        assert mean == 5

    @given(
        st.lists(st.tuples(st.integers(0, 86_399), st.integers(-5, 5)), max_size=8, unique_by=lambda one: one[0]),
        st.sets(st.integers(1, 86_399), max_size=3),
    )
    def test_parts_of_a_period_add_up_to_its_mean(self, found: list[tuple[int, int]], cuts: set[int]) -> None:
        rows = [UsageState(quantity=Decimal(0), state={"changes": [[microsecond(at), value]]}) for at, value in found]
        meter = level_meter(LevelFold.MEAN)
        changes = level_changes(meter, rows)
        marks = [DAY.start, *(DAY.start + timedelta(seconds=cut) for cut in sorted(cuts)), DAY.end]
        level, total = Decimal(9_000), Fraction(0)
        whole = level_quantity(meter, changes, opening=level, period=DAY, whole=DAY)
        for start, end in pairwise(marks):
            part = Window(start, end)
            total += Fraction(level_quantity(meter, changes, opening=level, period=part, whole=DAY))
            level += sum((Decimal(change.value) for change in changes if change.at in part), Decimal(0))
        assert total == whole
