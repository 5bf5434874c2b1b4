"""States that combine: any grouping and order of them is worth what all of them are."""

import json
import random
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing_pipeline.meters import Aggregation, LevelFold, Meter, Missing, UsageState, UsageStateInvalidError, merge
from billing_pipeline.periods import Window
from billing_pipeline.usage_states import LARGEST_BLOCK_DAYS, blocks_of, combine, is_combinable, level_state_of

START = datetime(2026, 3, 1, tzinfo=UTC)
END = START + timedelta(hours=2)
WINDOW = Window(START, END)


def meter(aggregation: Aggregation, **fields: object) -> Meter:
    numbers = {"percentile": Decimal(90)} if aggregation is Aggregation.PERCENTILE else {}
    given_fields = {"field": "response_bytes", **numbers, **fields}
    return Meter(meter_id="m", version=1, aggregation=aggregation, unit="u", **given_fields)  # type: ignore[arg-type]


METERS = (
    meter(Aggregation.MAX),
    meter(Aggregation.MIN),
    meter(Aggregation.MEAN),
    meter(Aggregation.UNIQUE),
    meter(Aggregation.UNIQUE, field="client_id"),
    meter(Aggregation.LATEST),
    meter(Aggregation.PERCENTILE),
    meter(Aggregation.PERCENTILE, bucket_seconds=300),
    meter(Aggregation.PERCENTILE, bucket_seconds=300, missing=Missing.SKIP),
)
values = st.lists(st.integers(0, 9), min_size=1, max_size=4)


def row_of(of: Meter, found: Sequence[int], number: int) -> UsageState:
    """Return the usage row of records with these values."""
    match of.aggregation:
        case Aggregation.MAX:
            return UsageState(quantity=Decimal(max(found)))
        case Aggregation.MIN:
            return UsageState(quantity=Decimal(min(found)))
        case Aggregation.MEAN:
            return UsageState(quantity=Decimal(0), state={"sum": sum(found), "count": len(found)})
        case Aggregation.UNIQUE:
            seen: list[object] = [f"c{one}" for one in set(found)] if of.field == "client_id" else list(set(found))
            return UsageState(quantity=Decimal(len(seen)), state={"values": seen})
        case Aggregation.LATEST:
            at = (START + timedelta(minutes=found[0])).isoformat()
            return UsageState(quantity=Decimal(found[-1]), state={"at": at, "event_id": f"e{number % 3}"})
        case _:
            name = "counts" if of.bucket_seconds is None else "buckets"
            begin = int(START.timestamp())
            pairs = [[one if of.bucket_seconds is None else begin + 300 * one, found.count(one)] for one in set(found)]
            return UsageState(quantity=Decimal(0), state={name: pairs})


class TestCombine:
    @pytest.mark.parametrize("of", METERS, ids=lambda one: f"{one.aggregation}-{one.field}-{one.bucket_seconds}")
    @given(found=st.lists(values, min_size=1, max_size=8), data=st.data())
    def test_any_grouping_and_order_is_worth_the_same(
        self, of: Meter, found: list[list[int]], data: st.DataObject
    ) -> None:
        rows = [row_of(of, one, number) for number, one in enumerate(found)]
        whole = merge(of, rows, period_start=START, period_end=END)
        shuffled = data.draw(st.permutations(rows))
        while len(shuffled) > 1:
            size = data.draw(st.integers(2, len(shuffled)))
            shuffled = [combine(of, shuffled[:size], WINDOW), *shuffled[size:]]
            assert merge(of, shuffled, period_start=START, period_end=END) == whole
        one = combine(of, rows, WINDOW)
        # A state is the same however it came about, also by way of JSON; of the latest row it is the row's own.
        assert of.aggregation is Aggregation.LATEST or one == combine(of, list(reversed(rows)), WINDOW)
        kept = UsageState(quantity=one.quantity, state=json.loads(json.dumps(one.state)))
        assert merge(of, [kept], period_start=START, period_end=END) == whole

    def test_what_adds_up_is_no_state(self) -> None:
        assert not is_combinable(meter(Aggregation.SUM))
        assert all(is_combinable(one) for one in METERS)
        with pytest.raises(UsageStateInvalidError, match="sum is not merged from states"):
            combine(meter(Aggregation.SUM), [UsageState(quantity=Decimal(1))], WINDOW)

    def test_a_state_of_another_kind_is_refused(self) -> None:
        with pytest.raises(UsageStateInvalidError, match="no 'sum' and 'count'"):
            combine(meter(Aggregation.MEAN), [UsageState(quantity=Decimal(1), state={"values": []})], WINDOW)


LEVELS = (
    Meter(meter_id="m", version=1, aggregation=Aggregation.LEVEL, unit="u", level=LevelFold.MEAN),
    Meter(
        meter_id="m", version=1, aggregation=Aggregation.LEVEL, unit="u", level=LevelFold.HIGHEST, is_set=True,
        field="response_bytes",
    ),
)  # fmt: skip


class TestLevels:
    @pytest.mark.parametrize("of", LEVELS, ids=["added", "set"])
    @given(
        found=st.lists(st.tuples(st.integers(0, 7199), st.integers(-9, 9)), max_size=10),
        cuts=st.sets(st.integers(1, 7199), max_size=4),
        opening=st.integers(-9, 9),
        seed=st.randoms(use_true_random=False),
    )
    def test_of_parts_and_of_all_the_time_they_are_in_are_worth_the_same(
        self, of: Meter, found: list[tuple[int, int]], cuts: set[int], opening: int, seed: random.Random
    ) -> None:
        changes = [[(int(START.timestamp()) + second) * 1_000_000, value] for second, value in found]
        raw = [UsageState(quantity=Decimal(0), state={"changes": [one]}) for one in changes]
        whole = level_state_of(of, raw, WINDOW)
        marks = [START, *(START + timedelta(seconds=cut) for cut in sorted(cuts)), END]
        parts = []
        for start, end in pairwise(marks):
            inside = [
                one
                for one, (second, _) in zip(raw, found, strict=True)
                if start <= START + timedelta(seconds=second) < end
            ]
            # A part in which nothing changes has no state.
            if inside:
                parts.append(combine(of, inside, Window(start, end)))
        seed.shuffle(parts)
        if parts:
            assert (
                level_state_of(of, [combine(of, parts, WINDOW)], WINDOW) == level_state_of(of, parts, WINDOW) == whole
            )
            assert whole.closing(Decimal(opening)) == level_state_of(of, parts, WINDOW).closing(Decimal(opening))

    def test_a_state_that_is_none_is_refused(self) -> None:
        with pytest.raises(UsageStateInvalidError, match="is not the state of a level"):
            level_state_of(LEVELS[0], [UsageState(quantity=Decimal(0), state={"level": ["x"]})], WINDOW)
        mixed = [UsageState(quantity=Decimal(0), state={"changes": []}), combine(LEVELS[0], [], WINDOW)]
        with pytest.raises(UsageStateInvalidError, match="mixed"):
            level_state_of(LEVELS[0], mixed, WINDOW)


class TestBlocksOf:
    @given(st.dates(date(2000, 1, 1), date(2100, 1, 1)), st.integers(0, 800))
    def test_cover_the_days_without_gap_or_overlap_and_are_few(self, first: date, count: int) -> None:
        end = first + timedelta(days=count)
        blocks = list(blocks_of(first, end))
        days = [block.start + timedelta(days=number) for block in blocks for number in range(block.days)]
        assert days == [first + timedelta(days=number) for number in range(count)]
        assert all(block.start.toordinal() % block.days == 0 for block in blocks)
        assert len(blocks) <= 2 * 7 + count // LARGEST_BLOCK_DAYS

    def test_a_month_takes_eight_at_most_and_a_day_is_in_one_of_each_size(self) -> None:
        months = [
            (date(year, month, 1), date(year, month + 1, 1)) for year in range(2020, 2030) for month in range(1, 12)
        ]
        assert max(len(list(blocks_of(*month))) for month in months) <= 8
        block = next(one for one in blocks_of(date(2026, 1, 1), date(2027, 1, 1)) if one.days > 1)
        one, other = block.halves
        assert (one.start, other.start, one.days) == (
            block.start,
            one.start + timedelta(days=one.days),
            block.days // 2,
        )
