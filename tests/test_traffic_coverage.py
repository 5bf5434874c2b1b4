"""What snapshots prove about time: slots, stretches to read, silences; and what a day's guards say of them."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing_pipeline.checks import Subject
from billing_pipeline.traffic_coverage import (
    HOUR,
    MINUTE,
    Window,
    floored,
    missing_slots,
    ranges_of,
    silences,
    windows_of,
)
from billing_pipeline.traffic_sample_checks import (
    GapFact,
    SampleCounts,
    no_conflict,
    node_alive,
    samples_conserved,
    windows_complete,
)

START = datetime(2026, 4, 8, 10, tzinfo=UTC)
SUBJECT = Subject(asset="core/traffic_samples", partition_key="2026-04-08", inputs_digest="digest")


def at(minute: float) -> datetime:
    return START + timedelta(minutes=minute)


def hour(start: float = 0, end: float = 60) -> Window:
    return Window(start=at(start), end=at(end))


class TestWindows:
    def test_are_the_parts_of_hours(self) -> None:
        assert windows_of(at(30), at(130)) == (hour(30, 60), hour(60, 120), hour(120, 130))
        assert windows_of(at(0), at(0)) == ()

    @given(st.integers(0, 10_000_000), st.integers(0, 300))
    def test_follow_each_other_without_a_hole(self, seconds: int, minutes: int) -> None:
        start = START + timedelta(seconds=seconds)
        windows = windows_of(start, start + minutes * MINUTE)
        ends = [start, *(window.end for window in windows)]
        assert [window.start for window in windows] == ends[:-1]
        assert ends[-1] == start + minutes * MINUTE
        assert all(floored(window.start, HOUR) + HOUR >= window.end for window in windows)


class TestMissingSlots:
    def test_are_the_minutes_without_a_snapshot(self) -> None:
        instants = [at(minute + 0.4) for minute in range(60) if minute not in (0, 7, 8, 59)]
        assert missing_slots(instants, hour(), MINUTE) == (at(0), at(7), at(8), at(59))

    def test_are_all_of_them_where_there_is_no_snapshot(self) -> None:
        assert len(missing_slots([], hour(), MINUTE)) == 60
        assert missing_slots([], hour(), 5 * MINUTE)[:2] == (at(0), at(5))

    def test_are_none_where_an_exporter_drifts(self) -> None:
        # every 61 seconds: one minute an hour has no snapshot, and nothing is missing
        instants = [START + timedelta(seconds=61 * number - 100) for number in range(70)]
        assert any(not any(at(minute) <= one < at(minute + 1) for one in instants) for minute in range(60))
        assert missing_slots(instants, hour(), MINUTE) == ()

    def test_count_a_minute_that_was_left_out_of_a_steady_series(self) -> None:
        for offset in (0, 0.001, 0.5, 0.999):
            instants = [at(minute + offset) for minute in range(-2, 62) if minute != 30]
            assert missing_slots(instants, hour(), MINUTE) == (at(30),)

    def test_are_whole_slots_inside_the_window(self) -> None:
        assert missing_slots([], hour(10.5, 13.5), MINUTE) == (at(11), at(12))
        assert missing_slots([], hour(10, 10.5), MINUTE) == ()

    @given(st.lists(st.integers(-120, 3720), max_size=80), st.sampled_from([1, 2, 5, 15]))
    def test_are_neither_covered_nor_between_neighbours(self, seconds: list[int], minutes: int) -> None:
        slot = minutes * MINUTE
        instants = sorted(START + timedelta(seconds=one) for one in seconds)
        expected = []
        for number in range(60 // minutes):
            start = START + number * slot
            before = [one for one in instants if one < start]
            after = [one for one in instants if one >= start]
            is_covered = bool(after) and after[0] < start + slot
            is_close = bool(before and after) and after[0] - before[-1] <= 1.5 * slot
            if not is_covered and not is_close:
                expected.append(start)
        assert list(missing_slots(instants, hour(), slot)) == expected


class TestStretchesToRead:
    def test_join_slots_that_overlap(self) -> None:
        slots = [at(5), at(6), at(8), at(30)]
        assert ranges_of(slots, slot=MINUTE, overlap=2 * MINUTE) == (hour(3, 9), hour(28, 31))
        assert ranges_of([], slot=MINUTE, overlap=MINUTE) == ()

    @given(st.sets(st.integers(0, 200)), st.integers(0, 10))
    def test_hold_every_slot_with_its_overlap_and_never_touch(self, minutes: set[int], overlap: int) -> None:
        slots = [at(minute) for minute in sorted(minutes)]
        found = ranges_of(slots, slot=MINUTE, overlap=overlap * MINUTE)
        for start in slots:
            assert any(one.start <= start - overlap * MINUTE and start + MINUTE <= one.end for one in found)
        assert all(one.end < following.start for one, following in pairwise(found))


class TestSilences:
    def test_are_ten_minutes_of_empty_snapshots(self) -> None:
        nine = [(at(minute), 0) for minute in range(9)]
        assert silences(nine, MINUTE) == ()
        assert silences([*nine, (at(9), 0), (at(10), 3), (at(11), 0)], MINUTE) == (hour(0, 10),)
        assert silences([(at(-1), 1), *nine, (at(9), 0)], MINUTE) == (hour(0, 10),)

    def test_are_two_where_a_sample_lies_between(self) -> None:
        snapshots = [(at(minute), 1 if minute in (0, 15) else 0) for minute in range(31)]
        assert silences(snapshots, MINUTE) == (hour(1, 15), hour(16, 31))

    def test_are_none_without_snapshots(self) -> None:
        assert silences([], MINUTE) == ()


def gap(source: str = "jp", *, actor: str | None = None) -> GapFact:
    return GapFact(source=source, window=hour(), missing_minutes=7, reason="older_than_retention", actor=actor)


class TestGuards:
    def test_hold_a_day_with_an_open_gap_and_name_it(self) -> None:
        verdict = windows_complete(
            SUBJECT, expected=24, open_gaps=[gap(), gap("us")], closed_gaps=[gap("sg", actor="ann")]
        )
        assert (verdict.status, verdict.guard) == ("held", "windows_complete")
        for part in (
            "14 minutes in 2 windows",
            "jp 2026-04-08 10:00-11:00 7 min (older_than_retention)",
            "For the bill:",
        ):
            assert part in verdict.message
        assert "To fix: " in verdict.message
        assert (verdict.expected, verdict.actual) == (
            "24 windows without a missing minute",
            "2 windows with missing minutes, 1 closed by a person",
        )

    def test_let_a_day_through_whose_gaps_are_closed(self) -> None:
        verdict = windows_complete(SUBJECT, expected=24, open_gaps=[], closed_gaps=[gap(actor="ann")])
        assert verdict.status == "released"
        assert "closed by ann" in verdict.message
        assert windows_complete(SUBJECT, expected=0, open_gaps=[], closed_gaps=[]).status == "passed"

    @pytest.mark.parametrize(
        ("counts", "in_snapshots", "in_lake", "status"),
        [
            (SampleCounts(read=10, kept=6, duplicate=1, conflict=2, rejected=1), 10, 6, "passed"),
            (SampleCounts(read=10, kept=6, duplicate=1, conflict=2, rejected=1), 11, 6, "held"),
            (SampleCounts(read=10, kept=6, duplicate=1, conflict=2, rejected=1), 10, 5, "held"),
            (SampleCounts(read=10, kept=6, duplicate=1, conflict=1, rejected=1), 10, 6, "held"),
            (SampleCounts(), 0, 0, "passed"),
        ],
    )
    def test_hold_a_day_that_has_lost_a_sample(
        self, counts: SampleCounts, in_snapshots: int, in_lake: int, status: str
    ) -> None:
        assert samples_conserved(SUBJECT, counts, in_snapshots=in_snapshots, in_lake=in_lake).status == status

    def test_hold_a_day_of_a_silent_node(self) -> None:
        assert node_alive(SUBJECT, silent=[]).status == "passed"
        verdict = node_alive(SUBJECT, silent=[("jp", hour(20, 31))])
        assert verdict.status == "held"
        assert "jp 2026-04-08 10:20-10:31" in verdict.message

    @pytest.mark.parametrize(
        ("conflicts", "samples", "status"), [(0, 9, "passed"), (1, 9, "warned"), (2, 2000, "warned")]
    )
    def test_warn_of_conflicts(self, conflicts: int, samples: int, status: str) -> None:
        streams = [f"prod:jp/{number}/tcp at 10:00:00" for number in range(conflicts)]
        assert no_conflict(SUBJECT, samples=samples, streams=streams).status == status

    def test_hold_a_flood_of_conflicts_and_list_some(self) -> None:
        verdict = no_conflict(SUBJECT, samples=100, streams=[f"stream {number:02d}" for number in range(12)])
        assert verdict.status == "held"
        assert "stream 09 and 2 more" in verdict.message
