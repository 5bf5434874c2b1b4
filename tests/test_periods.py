"""Windows, anchors and periods over short months and changes of clocks."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing_pipeline.periods import (
    Anchored,
    BillingAnchor,
    BillingPeriod,
    EmptyWindowError,
    NaiveInstantError,
    RequestedDays,
    Window,
    billing_periods,
    cuts,
    day_share,
    elapsed_share,
    local_days,
)

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Pacific/Apia",
)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@dataclass(frozen=True)
class Subscribed:
    """The part of a subscription that periods look at."""

    anchor: BillingAnchor
    starts_at: datetime
    ends_at: datetime | None = None

    @property
    def anchored(self) -> tuple[Anchored, ...]:
        """Return its one anchor."""
        return (Anchored(self.starts_at, self.ends_at, self.anchor),)


anchors = st.builds(
    BillingAnchor,
    day=st.integers(1, 31),
    time_of_day=st.builds(time, st.integers(0, 23), st.integers(0, 59), st.integers(0, 59)),
    zone=st.sampled_from(ZONES),
)
instants = st.integers(0, 20 * 365 * 86_400).map(lambda seconds: at("2010-01-01T00:00") + timedelta(seconds=seconds))


class TestWindow:
    def test_contains_its_start_and_not_its_end(self) -> None:
        window = Window(at("2026-03-01T00:00"), at("2026-03-02T00:00"))
        assert window.start in window
        assert window.end not in window
        assert window.end - timedelta(microseconds=1) in window

    def test_is_utc_whatever_it_was_given(self) -> None:
        berlin = ZoneInfo("Europe/Berlin")
        window = Window(datetime(2026, 3, 29, tzinfo=berlin), datetime(2026, 3, 30, tzinfo=berlin))
        assert window.start == at("2026-03-28T23:00")
        assert window.start.tzinfo is UTC
        assert window.seconds == 23 * 3600

    def test_has_25_hours_when_clocks_go_back(self) -> None:
        berlin = ZoneInfo("Europe/Berlin")
        window = Window(datetime(2026, 10, 25, tzinfo=berlin), datetime(2026, 10, 26, tzinfo=berlin))
        assert window.seconds == 25 * 3600

    def test_refuses_naive_instants_and_no_instants(self) -> None:
        with pytest.raises(NaiveInstantError, match="has no time zone"):
            Window(datetime(2026, 3, 1), at("2026-03-02T00:00"))  # noqa: DTZ001
        with pytest.raises(EmptyWindowError):
            Window(at("2026-03-01T00:00"), at("2026-03-01T00:00"))

    @given(instants, instants, instants)
    def test_two_parts_make_the_whole(self, one: datetime, two: datetime, three: datetime) -> None:
        start, middle, end = sorted({one, two, three} | {one + timedelta(1), one + timedelta(2)})[:3]
        whole = Window(start, end)
        left, right = whole.overlap(start, middle), whole.overlap(middle, None)
        assert left is not None
        assert right is not None
        assert left.end == right.start
        assert left.seconds + right.seconds == whole.seconds
        assert left.overlap(right.start, right.end) is None


class TestBillingAnchor:
    def test_day_31_is_the_last_day_of_short_months_and_returns(self) -> None:
        anchor = BillingAnchor(day=31)
        found = [anchor.boundary(2026, month).date().isoformat() for month in range(1, 6)]
        assert found == ["2026-01-31", "2026-02-28", "2026-03-31", "2026-04-30", "2026-05-31"]
        assert anchor.boundary(2028, 2).date() == date(2028, 2, 29)

    def test_keeps_its_local_time_when_clocks_change(self) -> None:
        anchor = BillingAnchor(day=2, time_of_day=time(14, 37, 12), zone="America/New_York")
        assert anchor.boundary(2026, 3) == at("2026-03-02T19:37:12")
        assert anchor.boundary(2026, 4) == at("2026-04-02T18:37:12")

    def test_a_local_time_that_is_left_out_or_repeated_is_one_instant(self) -> None:
        # 02:30 does not exist on March 29th, and is there twice on October 25th.
        anchor = BillingAnchor(day=29, time_of_day=time(2, 30), zone="Europe/Berlin")
        assert anchor.boundary(2026, 3) == at("2026-03-29T01:30")
        twice = BillingAnchor(day=25, time_of_day=time(2, 30), zone="Europe/Berlin")
        assert twice.boundary(2026, 10) == at("2026-10-25T00:30")

    def test_refuses_a_day_that_no_month_has(self) -> None:
        with pytest.raises(ValueError, match=r"1\.\.31"):
            BillingAnchor(day=32)

    @given(anchors, instants)
    def test_every_instant_is_in_exactly_one_period(self, anchor: BillingAnchor, instant: datetime) -> None:
        period = anchor.period_containing(instant)
        assert instant in period
        assert anchor.period_containing(period.start) == period
        assert anchor.period_containing(period.end).start == period.end
        assert anchor.period_containing(period.start - timedelta(microseconds=1)).end == period.start
        assert timedelta(days=26) < period.end - period.start < timedelta(days=33)


class TestBillingPeriods:
    def test_the_first_and_last_are_cut_at_start_and_end(self) -> None:
        subscription = Subscribed(BillingAnchor(), at("2026-01-10T12:00"), at("2026-03-05T00:00"))
        found = list(billing_periods(subscription, Window(at("2025-01-01T00:00"), at("2027-01-01T00:00"))))
        assert [(period.window.start, period.window.end) for period in found] == [
            (at("2026-01-10T12:00"), at("2026-02-01T00:00")),
            (at("2026-02-01T00:00"), at("2026-03-01T00:00")),
            (at("2026-03-01T00:00"), at("2026-03-05T00:00")),
        ]
        assert found[0].whole == Window(at("2026-01-01T00:00"), at("2026-02-01T00:00"))

    def test_the_window_asked_for_cuts_nothing(self) -> None:
        subscription = Subscribed(BillingAnchor(), at("2026-01-01T00:00"))
        (found,) = billing_periods(subscription, Window(at("2026-03-05T00:00"), at("2026-03-06T00:00")))
        assert found.window == found.whole == Window(at("2026-03-01T00:00"), at("2026-04-01T00:00"))

    def test_there_are_none_before_and_after(self) -> None:
        subscription = Subscribed(BillingAnchor(), at("2026-01-10T00:00"), at("2026-01-20T00:00"))
        assert list(billing_periods(subscription, Window(at("2026-01-20T00:00"), at("2026-02-01T00:00")))) == []
        assert list(billing_periods(subscription, Window(at("2025-01-20T00:00"), at("2026-01-10T00:00")))) == []

    @given(anchors, instants, st.integers(1, 400 * 86_400))
    def test_cover_the_subscription_without_gap_or_overlap(
        self, anchor: BillingAnchor, start: datetime, seconds: int
    ) -> None:
        end = start + timedelta(seconds=seconds)
        found = list(billing_periods(Subscribed(anchor, start, end), Window(start - timedelta(9), end + timedelta(9))))
        assert (found[0].window.start, found[-1].window.end) == (start, end)
        assert all(before.window.end == after.window.start for before, after in pairwise(found))
        assert sum(period.window.seconds for period in found) == seconds
        assert all(
            period.whole.start <= period.window.start < period.window.end <= period.whole.end for period in found
        )


class TestCuts:
    def test_name_the_instants_inside_hours_at_which_periods_meet(self) -> None:
        anchor = BillingAnchor(day=2, time_of_day=time(14, 37, 12), zone="America/New_York")
        subscription = Subscribed(anchor, at("2026-01-02T19:37:12"), at("2026-03-02T20:15"))
        whole_hours = Subscribed(BillingAnchor(), at("2026-01-01T00:00"))
        day = Window(at("2026-03-02T00:00"), at("2026-03-03T00:00"))
        assert cuts([subscription, whole_hours], day) == (at("2026-03-02T19:37:12"), at("2026-03-02T20:15"))
        assert cuts([subscription], Window(at("2026-03-03T00:00"), at("2026-03-04T00:00"))) == ()

    def test_a_zone_with_half_hours_cuts_at_its_midnight(self) -> None:
        subscription = Subscribed(BillingAnchor(zone="Asia/Kolkata"), at("2025-12-31T18:30"))
        assert cuts([subscription], Window(at("2026-01-31T00:00"), at("2026-02-01T00:00"))) == (at("2026-01-31T18:30"),)

    def test_the_end_of_a_subscription_is_a_cut_of_its_last_hour(self) -> None:
        subscription = Subscribed(BillingAnchor(), at("2026-01-01T00:00"), at("2026-01-05T23:59:59"))
        assert cuts([subscription], Window(at("2026-01-05T00:00"), at("2026-01-06T00:00"))) == (
            at("2026-01-05T23:59:59"),
        )
        assert cuts([subscription], Window(at("2026-01-06T00:00"), at("2026-01-07T00:00"))) == ()

    @given(anchors, instants, st.integers(1, 90 * 86_400))
    def test_hours_and_cuts_keep_every_piece_in_one_period(
        self, anchor: BillingAnchor, start: datetime, seconds: int
    ) -> None:
        subscription = Subscribed(anchor, start, start + timedelta(seconds=seconds))
        midnight = start.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=min(seconds // 86_400, 31))
        day = Window(midnight, midnight + timedelta(days=1))
        hours = [midnight + timedelta(hours=hour) for hour in range(25)]
        marks = sorted({*hours, *cuts([subscription], day)})
        for left, right in pairwise(marks):
            met = [one for one in billing_periods(subscription, day) if one.window.overlap(left, right) is not None]
            assert len(met) <= 1
            assert all(one.window.start <= left and right <= one.window.end for one in met)


class TestShares:
    def test_elapsed_seconds_are_capped_at_the_whole(self) -> None:
        whole = Window(at("2026-01-01T00:00"), at("2026-02-01T00:00"))
        assert elapsed_share(Window(whole.start, at("2026-01-16T00:00")), whole) == (1_296_000, 2_678_400)
        assert elapsed_share(Window(whole.start, at("2026-03-01T00:00")), whole) == (2_678_400, 2_678_400)

    def test_local_days_ignore_the_length_of_days(self) -> None:
        assert local_days(at("2024-03-09T00:00"), at("2024-03-11T00:00"), "America/New_York") == 2
        assert local_days(at("2024-07-15T12:30"), at("2024-07-16T08:15"), "Asia/Tokyo") == 1
        assert local_days(at("2024-05-01T08:00"), at("2024-05-01T17:00"), "Europe/Berlin") == 0

    def test_a_day_that_is_begun_counts(self) -> None:
        whole = Window(at("2023-01-01T00:00"), at("2023-02-01T00:00"))
        assert day_share(Window(at("2023-01-08T09:30"), whole.end), whole, "UTC") == (24, 31)
        assert day_share(Window(whole.start, at("2023-01-08T09:30")), whole, "UTC") == (7, 31)


class TestRequestedDays:
    days = RequestedDays([date(2026, 3, 10), date(2026, 3, 1), date(2026, 3, 1)])

    def test_are_in_order_once_and_span_whole_utc_days(self) -> None:
        assert self.days.days == (date(2026, 3, 1), date(2026, 3, 10))
        assert self.days.span == Window(at("2026-03-01T00:00"), at("2026-03-11T00:00"))

    @pytest.mark.parametrize(
        ("start", "end", "newest"),
        [
            ("2026-03-01T00:00", "2026-04-01T00:00", date(2026, 3, 10)),
            ("2026-03-01T23:59:59", "2026-03-10T00:00", date(2026, 3, 1)),
            ("2026-03-01T23:59:59", "2026-03-10T00:00:01", date(2026, 3, 10)),
            ("2026-02-01T00:00", "2026-03-01T00:00:01", date(2026, 3, 1)),
            ("2026-03-02T00:00", "2026-03-10T00:00", None),
            ("2026-02-01T00:00", "2026-03-01T00:00", None),
            ("2026-03-11T00:00", "2026-04-01T00:00", None),
        ],
    )
    def test_meet_the_periods_that_have_an_instant_of_them(self, start: str, end: str, newest: date | None) -> None:
        period = Window(at(start), at(end))
        assert self.days.meet(period) is (newest is not None)
        if newest is not None:
            assert self.days.newest_in(period) == newest

    def test_a_period_is_compared_by_what_it_covers(self) -> None:
        window = Window(at("2026-03-01T00:00"), at("2026-04-01T00:00"))
        assert BillingPeriod(window, window) == BillingPeriod(window, Window(window.start, at("2026-05-01T00:00")))
