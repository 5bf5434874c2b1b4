"""The rule of deltas by itself, in figures that can be checked by hand, and its laws."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing_pipeline.counters import (
    Basis,
    CounterPolicy,
    CounterSample,
    MinuteDelta,
    OnFirst,
    OnReset,
    StreamDay,
    StreamTail,
    has_restarted,
    stream_day,
)
from tests.traffic_chain import DAY, at

FULL = CounterPolicy(on_first=OnFirst.FULL)
FROM_ZERO = CounterPolicy(on_first=OnFirst.FULL, on_reset=OnReset.FROM_ZERO)
TAIL = StreamTail(collected_at=at("23:59", DAY - timedelta(days=1)), uplink_bytes=100, downlink_bytes=1000)


def samples(text: str) -> list[CounterSample]:
    """Return samples of `hh:mm uplink[/downlink][@uptime]`, separated by commas."""
    found = []
    for part in text.split(","):
        when, totals = part.split()
        totals, _, uptime = totals.partition("@")
        uplink, _, downlink = totals.partition("/")
        found.append(
            CounterSample(
                collected_at=at(when),
                uplink_bytes=int(uplink),
                downlink_bytes=int(downlink or 0),
                uptime_seconds=int(uptime) if uptime else None,
            )
        )
    return found


def day(
    text: str, *, policy: CounterPolicy = FULL, tail: StreamTail | None = None, is_first_of_node: bool = True
) -> StreamDay:
    return stream_day(samples(text), tail=tail, is_first_of_node=is_first_of_node, policy=policy)


def uplinks(found: StreamDay) -> list[int]:
    return [minute.uplink_bytes for minute in found.minutes]


class TestFirstSample:
    def test_of_a_node_is_a_baseline_by_default(self) -> None:
        found = day("10:30 100, 10:31 150", policy=CounterPolicy())
        assert uplinks(found) == [0, 50]
        assert found.minutes[0].basis is Basis.FIRST_OF_NODE

    def test_of_a_node_is_traffic_where_the_policy_says_full(self) -> None:
        assert uplinks(day("10:30 100, 10:31 150")) == [100, 50]

    def test_of_a_stream_on_a_known_node_is_all_new_traffic(self) -> None:
        found = day("10:30 500", policy=CounterPolicy(), is_first_of_node=False)
        assert found.minutes == (
            MinuteDelta(
                bucket_start=at("10:30"),
                uplink_bytes=500,
                downlink_bytes=0,
                basis=Basis.NEW_STREAM,
                epoch=0,
                suspected_loss_bytes=0,
            ),
        )

    def test_of_a_day_is_compared_with_the_last_of_the_day_before(self) -> None:
        found = day("00:00 130/1090", tail=TAIL)
        assert (found.minutes[0].uplink_bytes, found.minutes[0].downlink_bytes) == (30, 90)


class TestReset:
    @pytest.mark.parametrize(
        ("policy", "uplink", "loss"), [(FULL, [100, 50, 0, 50], 40), (FROM_ZERO, [100, 50, 40, 50], 0)]
    )
    def test_without_witness_follows_the_policy(self, policy: CounterPolicy, uplink: list[int], loss: int) -> None:
        found = day("10:30 100, 10:31 150, 10:32 40, 10:33 90", policy=policy)
        assert uplinks(found) == uplink
        assert [minute.epoch for minute in found.minutes] == [0, 0, 1, 1]
        assert (found.minutes[2].basis, found.minutes[2].suspected_loss_bytes) == (Basis.RESET, loss)
        assert (found.resets, found.is_held) == (1, False)

    def test_of_one_direction_leaves_the_other_as_it_is(self) -> None:
        found = day("10:30 100/100, 10:31 40/130")
        assert (found.minutes[1].uplink_bytes, found.minutes[1].downlink_bytes) == (0, 30)
        assert found.minutes[1].suspected_loss_bytes == 40

    def test_with_witness_is_all_new_traffic_in_both_directions(self) -> None:
        found = day("10:30 100/10, 10:31 40/30@20")
        assert (found.minutes[1].uplink_bytes, found.minutes[1].downlink_bytes) == (40, 30)
        assert (found.minutes[1].basis, found.resets) == (Basis.RESTART, 0)

    def test_that_passes_the_total_before_is_seen_by_the_uptime_alone(self) -> None:
        assert uplinks(day("10:30 1000, 10:31 900000@20")) == [1000, 900_000]
        assert uplinks(day("10:30 1000, 10:31 900000")) == [1000, 899_000]

    def test_overnight_is_one_too(self) -> None:
        found = day("00:00 30/1000", tail=TAIL)
        assert (found.minutes[0].basis, found.minutes[0].epoch) == (Basis.RESET, 1)

    def test_in_a_minute_with_other_samples_is_told_for_the_minute(self) -> None:
        found = day("10:30:10 100, 10:30:20 40, 10:30:50 70")
        assert [(one.uplink_bytes, one.basis, one.epoch) for one in found.minutes] == [(130, Basis.RESET, 1)]


class TestHasRestarted:
    @pytest.mark.parametrize(
        ("when", "uplink", "uptime", "expected"),
        [
            ("00:00:00", 200, 59, True),
            ("00:00:00", 200, 60, False),
            ("00:00:00", 50, 60, False),
            # rounded down, 60 may be 60.4: before the last sample or after it
            ("00:00:00.500000", 200, 60, False),
            ("00:00:00.500000", 50, 60, True),
            ("00:00:00", 200, None, False),
        ],
    )
    def test_compares_the_uptime_with_the_time_since_the_sample_before(
        self, when: str, uplink: int, uptime: int | None, expected: bool
    ) -> None:
        sample = CounterSample(collected_at=at(when), uplink_bytes=uplink, downlink_bytes=1000, uptime_seconds=uptime)
        assert has_restarted(sample, TAIL) is expected


class TestTwoWriters:
    ALTERNATING = "10:00 1000, 10:01 10, 10:02 1010, 10:03 20, 10:04 1020, 10:05 30"

    def test_hold_the_stream_above_the_limit_of_an_hour(self) -> None:
        assert day(self.ALTERNATING, policy=CounterPolicy(max_resets_per_hour=2)).is_held
        assert not day(self.ALTERNATING, policy=CounterPolicy(max_resets_per_hour=3)).is_held

    def test_in_the_first_hour_of_the_next_day_hold_this_one_too(self) -> None:
        own = samples("23:58 1000, 23:59 900000")
        for resets, is_held in ((3, False), (4, True)):
            found = stream_day(
                own, tail=None, is_first_of_node=True, policy=CounterPolicy(), resets_after_midnight=resets
            )
            assert found.is_held is is_held
        assert day("00:10 1000, 00:59 10, 01:00 5").resets_of_first_hour == 1

    def test_are_counted_by_clock_hour(self) -> None:
        found = day("10:58 1000, 10:59 10, 11:00 1010, 11:01 20", policy=CounterPolicy(max_resets_per_hour=1))
        assert (found.resets, found.is_held) == (2, False)

    def test_are_not_suspected_where_every_restart_has_a_witness(self) -> None:
        text = ", ".join(f"10:{minute:02d} 5@10" for minute in range(30))
        assert not day(text).is_held

    def test_leave_a_tail_that_the_next_day_does_not_build_on(self) -> None:
        tail = StreamTail(collected_at=TAIL.collected_at, uplink_bytes=100, downlink_bytes=1000, is_held=True)
        found = day("00:00 130/1090, 00:01 140/1090", tail=tail)
        assert [(one.uplink_bytes, one.downlink_bytes, one.basis) for one in found.minutes] == [
            (0, 0, Basis.AFTER_HOLD),
            (10, 0, Basis.DIFFERENCE),
        ]
        assert found.minutes[0].suspected_loss_bytes == 120

    def test_are_forgotten_where_a_witness_tells_of_a_new_process(self) -> None:
        tail = StreamTail(collected_at=TAIL.collected_at, uplink_bytes=100, downlink_bytes=1000, is_held=True)
        assert uplinks(day("00:00 130/1090@5", tail=tail)) == [130]


GROWTH = st.lists(st.integers(0, 10**12), min_size=1, max_size=20)


class TestLaws:
    @given(growth=GROWTH)
    def test_without_restart_minutes_add_up_to_the_last_total(self, growth: list[int]) -> None:
        total, own = 0, []
        for number, more in enumerate(growth):
            total += more
            own.append(
                CounterSample(
                    collected_at=at("10:00") + timedelta(seconds=25 * number), uplink_bytes=total, downlink_bytes=0
                )
            )
        found = stream_day(own, tail=None, is_first_of_node=True, policy=FULL)
        assert sum(uplinks(found)) == total

    @given(totals=GROWTH, uptimes=st.lists(st.one_of(st.none(), st.integers(0, 200)), min_size=20, max_size=20))
    def test_no_minute_is_negative_and_the_tail_is_the_last_sample(
        self, totals: list[int], uptimes: list[int | None]
    ) -> None:
        own = [
            CounterSample(
                collected_at=at("10:00") + timedelta(minutes=number),
                uplink_bytes=total,
                downlink_bytes=total // 3,
                uptime_seconds=uptimes[number],
            )
            for number, total in enumerate(totals)
        ]
        for policy in (CounterPolicy(), FROM_ZERO):
            found = stream_day(own, tail=None, is_first_of_node=True, policy=policy)
            assert all(one.uplink_bytes >= 0 and one.downlink_bytes >= 0 for one in found.minutes)
            assert (found.tail.uplink_bytes, found.tail.collected_at) == (totals[-1], own[-1].collected_at)
            assert len(found.minutes) == len(own)

    @given(totals=GROWTH)
    def test_from_zero_bills_what_the_baseline_reports_as_suspected_loss(self, totals: list[int]) -> None:
        own = [
            CounterSample(collected_at=at("10:00") + timedelta(minutes=number), uplink_bytes=total, downlink_bytes=0)
            for number, total in enumerate(totals)
        ]
        careful, trusting = (
            stream_day(own, tail=None, is_first_of_node=True, policy=policy) for policy in (FULL, FROM_ZERO)
        )
        loss = sum(one.suspected_loss_bytes for one in careful.minutes)
        assert sum(uplinks(trusting)) == sum(uplinks(careful)) + loss
