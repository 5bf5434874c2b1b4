"""Meters: merging the states of windows gives the quantity of the whole period."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing_pipeline.meters import (
    Aggregation,
    Meter,
    MeterInvalidError,
    MeterSource,
    Missing,
    TransactionDetail,
    UsageState,
    UsageStateInvalidError,
    merge,
    nearest_rank,
)

START = datetime(2026, 3, 1, tzinfo=UTC)
VALUES = (1, 2, 2, 5)
# A level goes on from the period before: tests/test_meter_details.py.
MERGED = [kind for kind in Aggregation if kind is not Aggregation.LEVEL]


def meter(aggregation: Aggregation, **fields: object) -> Meter:
    defaults: dict[str, object] = {"meter_id": "bytes", "version": 1, "unit": "byte"}
    if aggregation is not Aggregation.COUNT:
        defaults["field"] = "response_bytes"
    if aggregation is Aggregation.PERCENTILE:
        defaults["percentile"] = Decimal(95)
    if aggregation is Aggregation.TIME_WEIGHTED:
        defaults |= {"source": MeterSource.STORAGE, "field": "private_bytes"}
    return Meter(aggregation=aggregation, **(defaults | fields))  # type: ignore[arg-type]


def state_of(aggregation: Aggregation, values: Sequence[tuple[int, int]]) -> UsageState:
    """Return the usage row of `(second, value)` records, as the SQL makes it, for one window."""
    only = [value for _, value in values]
    match aggregation:
        case Aggregation.COUNT:
            return UsageState(quantity=Decimal(len(only)))
        case Aggregation.SUM | Aggregation.TIME_WEIGHTED:
            return UsageState(quantity=Decimal(sum(only)))
        case Aggregation.MAX:
            return UsageState(quantity=Decimal(max(only)))
        case Aggregation.MIN:
            return UsageState(quantity=Decimal(min(only)))
        case Aggregation.MEAN:
            return UsageState(quantity=Decimal(0), state={"sum": sum(only), "count": len(only)})
        case Aggregation.UNIQUE:
            return UsageState(quantity=Decimal(len(set(only))), state={"values": sorted(set(only))})
        case Aggregation.LATEST:
            second, value = max(values)
            at = (START + timedelta(seconds=second)).isoformat()
            return UsageState(quantity=Decimal(value), state={"at": at, "event_id": f"{value:05d}"})
        case Aggregation.PERCENTILE:
            counts = [[value, only.count(value)] for value in sorted(set(only))]
            return UsageState(quantity=Decimal(0), state={"counts": counts})


class TestMerge:
    @pytest.mark.parametrize(
        ("aggregation", "quantity"),
        [
            ("count", 4),
            ("sum", 10),
            ("unique", 3),
            ("latest", 5),
            ("max", 5),
            ("min", 1),
            ("percentile", 5),
            ("mean", Decimal("2.5")),
        ],
    )
    def test_gives_the_worked_example_for_any_cut_into_two_windows(self, aggregation: str, quantity: int) -> None:
        kind = Aggregation(aggregation)
        records = list(enumerate(VALUES))
        for cut in range(1, 4):
            rows = [state_of(kind, records[:cut]), state_of(kind, records[cut:])]
            assert merge(meter(kind), rows) == quantity
            assert merge(meter(kind), reversed(rows)) == quantity

    @pytest.mark.parametrize("aggregation", MERGED)
    def test_is_zero_without_rows(self, aggregation: Aggregation) -> None:
        assert merge(meter(aggregation), []) == 0

    @given(
        records=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 99)), min_size=1, max_size=30),
        cuts=st.lists(st.integers(1, 29), max_size=4, unique=True),
        aggregation=st.sampled_from(MERGED),
        randoms=st.randoms(use_true_random=False),
    )
    def test_does_not_depend_on_the_split_nor_on_the_order(
        self, records: list[tuple[int, int]], cuts: list[int], aggregation: Aggregation, randoms: object
    ) -> None:
        bounds = [0, *sorted(cut for cut in cuts if cut < len(records)), len(records)]
        rows = [state_of(aggregation, records[a:b]) for a, b in pairwise(bounds)]
        randoms.shuffle(rows)  # type: ignore[attr-defined]
        assert merge(meter(aggregation), rows) == merge(meter(aggregation), [state_of(aggregation, records)])

    def test_keeps_sums_beyond_a_double_exact(self) -> None:
        rows = [UsageState(quantity=Decimal(2**60)), UsageState(quantity=Decimal("0.000000001"))]
        assert merge(meter(Aggregation.SUM), rows) == Decimal("1152921504606846976.000000001")

    def test_takes_the_greater_event_id_of_two_latest_at_one_instant(self) -> None:
        at = START.isoformat()
        rows = [
            UsageState(quantity=Decimal(7), state={"at": at, "event_id": "a"}),
            UsageState(quantity=Decimal(3), state={"at": at, "event_id": "b"}),
        ]
        assert merge(meter(Aggregation.LATEST), rows) == merge(meter(Aggregation.LATEST), rows[::-1]) == 3

    @pytest.mark.parametrize(
        ("aggregation", "state"),
        [
            ("unique", None),
            ("unique", {"values": 3}),
            ("percentile", {"counts": [[1]]}),
            ("percentile", {"counts": [[1, "2"]]}),
            ("latest", {"at": START.isoformat()}),
            ("mean", {"sum": 3}),
        ],
    )
    def test_refuses_a_state_of_another_aggregation(self, aggregation: str, state: dict[str, object] | None) -> None:
        with pytest.raises(UsageStateInvalidError, match="Build the usage of the period's days again"):
            merge(meter(Aggregation(aggregation)), [UsageState(quantity=Decimal(1), state=state)])


class TestMergeOverFixedBuckets:
    END = START + timedelta(hours=1)

    def bucketed(self, missing: Missing, percentile: int = 50) -> Meter:
        return meter(Aggregation.PERCENTILE, percentile=Decimal(percentile), bucket_seconds=900, missing=missing)

    def rows(self) -> list[UsageState]:
        first = int(START.timestamp())
        return [
            UsageState(quantity=Decimal(0), state={"buckets": [[first, 10], [first + 900, 30]]}),
            UsageState(quantity=Decimal(0), state={"buckets": [[first, 5]]}),
        ]

    def test_adds_rows_per_bucket_and_counts_an_empty_bucket_as_zero(self) -> None:
        # buckets 15, 30, 0, 0: the 50th percentile is the 2nd of 0, 0, 15, 30; the 75th the 3rd
        zero = self.bucketed(Missing.ZERO)
        assert merge(zero, self.rows(), period_start=START, period_end=self.END) == 0
        upper = self.bucketed(Missing.ZERO, percentile=75)
        assert merge(upper, self.rows(), period_start=START, period_end=self.END) == 15

    def test_skips_empty_buckets_where_the_meter_says_so(self) -> None:
        skip = self.bucketed(Missing.SKIP)
        assert merge(skip, self.rows(), period_start=START, period_end=self.END) == 15

    def test_counts_a_bucket_that_the_period_cuts(self) -> None:
        # from 00:10 to 00:50 touches the same four buckets
        zero = self.bucketed(Missing.ZERO, percentile=75)
        period = {"period_start": START + timedelta(minutes=10), "period_end": START + timedelta(minutes=50)}
        assert merge(zero, self.rows(), **period) == 15

    def test_needs_the_period(self) -> None:
        with pytest.raises(UsageStateInvalidError, match="needs the period"):
            merge(self.bucketed(Missing.ZERO), self.rows())


class TestNearestRank:
    def test_is_the_nineteenth_of_twenty_for_the_95th_percentile(self) -> None:
        assert nearest_rank({Decimal(value): 1 for value in range(1, 21)}, Decimal(95)) == 19

    @given(
        values=st.lists(st.integers(-50, 50), min_size=1, max_size=60),
        hundredths=st.integers(1, 10_000),
    )
    def test_equals_the_definition(self, values: list[int], hundredths: int) -> None:
        percentile = Decimal(hundredths) / 100
        counts = {Decimal(value): values.count(value) for value in values}
        rank = max(1, ceil(Decimal(len(values)) * percentile / 100))
        assert nearest_rank(counts, percentile) == sorted(values)[rank - 1]


class TestMeter:
    @pytest.mark.parametrize(
        ("fields", "problem"),
        [
            ({"aggregation": Aggregation.SUM, "field": None}, "needs a field"),
            ({"aggregation": Aggregation.SUM, "field": "endpoint"}, "cannot use the field"),
            ({"aggregation": Aggregation.COUNT, "percentile": Decimal(5)}, "goes with the aggregation 'percentile'"),
            ({"aggregation": Aggregation.PERCENTILE, "percentile": None}, "goes with the aggregation 'percentile'"),
            ({"aggregation": Aggregation.PERCENTILE, "percentile": Decimal(0)}, "not in"),
            ({"aggregation": Aggregation.PERCENTILE, "percentile": Decimal("100.1")}, "not in"),
            ({"aggregation": Aggregation.PERCENTILE, "bucket_seconds": 7}, "does not divide an hour"),
            ({"aggregation": Aggregation.UNIQUE, "bucket_seconds": 60}, "bucket_seconds goes with percentile, count"),
            ({"aggregation": Aggregation.SUM, "field": None, "bucket_seconds": 60}, "needs a field"),
            (
                {"aggregation": Aggregation.MAX, "transactions": TransactionDetail.COUNTED},
                "goes with the aggregation 'sum'",
            ),
            ({"aggregation": Aggregation.TIME_WEIGHTED, "source": MeterSource.API_REQUESTS}, "no duration"),
            ({"aggregation": Aggregation.TIME_WEIGHTED, "field": "uplink_bytes"}, "needs one of the fields"),
            ({"aggregation": Aggregation.SUM, "source": MeterSource.STORAGE}, "'time_weighted', not 'sum'"),
            ({"aggregation": Aggregation.SUM, "source": MeterSource.TRAFFIC}, "needs one of the fields"),
            (
                {
                    "aggregation": Aggregation.SUM,
                    "source": MeterSource.TRAFFIC,
                    "field": "total_bytes",
                    "envs": frozenset[str](),
                },
                "envs is empty",
            ),
        ],
    )
    def test_refuses_what_cannot_be_computed(self, fields: dict[str, object], problem: str) -> None:
        with pytest.raises(MeterInvalidError, match=problem):
            meter(**fields)  # type: ignore[arg-type]

    def test_counts_unique_texts(self) -> None:
        clients = meter(Aggregation.UNIQUE, field="client_id")
        rows = [
            UsageState(quantity=Decimal(1), state={"values": ["a"]}),
            UsageState(quantity=Decimal(2), state={"values": ["a", "b"]}),
        ]
        assert merge(clients, rows) == 2

    def test_says_which_aggregations_add_up(self) -> None:
        assert [kind for kind in Aggregation if kind.is_additive] == [
            Aggregation.COUNT,
            Aggregation.SUM,
            Aggregation.TIME_WEIGHTED,
        ]
