"""Events of meters: values, timestamps and identifiers, by example and by law. Rows 26 and 30 to 32 of the contract."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from billing_pipeline.periods import BillingAnchor, Window
from billing_pipeline.stripe_sync.meter_events import (
    LONGEST_IDENTIFIER,
    MeterTooLateError,
    MeterTotal,
    MeterValueError,
    SentTotal,
    meter_value,
    next_event,
    summary_window,
)
from tests.invoicing_world import at, month

APRIL = month(4)
END = int(APRIL.end.timestamp())


def total(value: int, period: Window = APRIL) -> MeterTotal:
    return MeterTotal(event_name="api_requests", customer_id="cus_1", period=period, value=value)


class TestValues:
    def test_are_whole_units(self) -> None:
        assert meter_value(Decimal("0.094444"), Decimal(1000)) == 94
        assert meter_value(Decimal("100.5"), Decimal(1000)) == 100_500
        assert meter_value(Decimal("0.0005"), Decimal(1000)) == 1

    def test_r30_of_more_than_15_digits_are_refused(self) -> None:
        assert meter_value(Decimal(10**15 - 1), Decimal(1)) == 10**15 - 1
        for quantity in (Decimal(10**15), Decimal(-1)):
            with pytest.raises(MeterValueError):
                meter_value(quantity, Decimal(1))


class TestTimestamps:
    def test_are_now_while_the_period_lasts(self) -> None:
        event = next_event(total(94), None, now=at("2026-04-03T12:00"))
        assert event is not None
        assert event.timestamp == int(at("2026-04-03T12:00").timestamp())
        assert (event.value, event.event_name, event.customer_id) == (94, "api_requests", "cus_1")

    def test_are_in_the_reserved_minute_once_it_is_over(self) -> None:
        first = next_event(total(94), SentTotal(value=90, timestamp=END - 61), now=APRIL.end + timedelta(hours=1))
        assert first is not None
        assert first.timestamp == END - 60
        second = next_event(total(95), SentTotal(value=94, timestamp=END - 60), now=APRIL.end + timedelta(hours=2))
        assert second is not None
        assert second.timestamp == END - 59

    def test_say_nothing_twice_and_nothing_of_nothing(self) -> None:
        assert next_event(total(94), SentTotal(value=94, timestamp=END - 99), now=at("2026-04-03T12:00")) is None
        assert next_event(total(0), None, now=at("2026-04-03T12:00")) is None
        assert (
            next_event(total(0), SentTotal(value=94, timestamp=END - 999_999), now=at("2026-04-29T12:00")) is not None
        )
        assert next_event(total(5), None, now=at("2026-03-31T23:59")) is None

    def test_r31_older_than_35_days_are_not_shifted_into_another_period(self) -> None:
        with pytest.raises(MeterTooLateError):
            next_event(total(94), None, now=APRIL.end + timedelta(days=35))
        assert next_event(total(94), None, now=APRIL.end + timedelta(days=34)) is not None

    def test_of_corrections_end_with_the_reserved_minute(self) -> None:
        with pytest.raises(MeterTooLateError):
            next_event(total(94), SentTotal(value=93, timestamp=END - 1), now=APRIL.end + timedelta(hours=1))

    @pytest.mark.parametrize(
        "anchor",
        [
            BillingAnchor(day=31, zone="Europe/Berlin"),
            BillingAnchor(day=29, zone="America/New_York"),
            BillingAnchor(day=15, time_of_day=datetime(2026, 1, 1, 14, 37, 12, tzinfo=UTC).time(), zone="Asia/Kolkata"),
        ],
    )
    def test_r26_stay_inside_the_period_whatever_its_anchor(self, anchor: BillingAnchor) -> None:
        period = anchor.period_containing(at("2026-03-29T01:30"))
        for now in (period.start, period.start + timedelta(hours=1), period.end - timedelta(seconds=1), period.end):
            event = next_event(total(7, period), None, now=now)
            assert event is not None
            assert datetime.fromtimestamp(event.timestamp, UTC) in period
            assert datetime.fromtimestamp(event.timestamp, ZoneInfo(anchor.zone)) < period.end

    @given(
        st.lists(st.tuples(st.integers(0, 10**6), st.integers(-3600, 40 * 86400)), min_size=1, max_size=30),
        st.integers(70, 40 * 86400),
    )
    def test_r31_grow_strictly_inside_the_period_and_what_stripe_takes(
        self, reports: list[tuple[int, int]], seconds: int
    ) -> None:
        period = Window(APRIL.start, APRIL.start + timedelta(seconds=seconds))
        last: SentTotal | None = None
        for value, after in sorted(reports, key=lambda one: one[1]):
            now = APRIL.start + timedelta(seconds=after)
            try:
                event = next_event(total(value, period), last, now=now)
            except MeterTooLateError:
                assert now >= period.end or (last is not None and last.timestamp >= int(period.end.timestamp()) - 61)
                continue
            if event is None:
                continue
            sent_at = datetime.fromtimestamp(event.timestamp, UTC)
            assert sent_at in period
            assert now - timedelta(days=35) < sent_at <= now + timedelta(minutes=5)
            assert last is None or event.timestamp > last.timestamp
            assert len(event.identifier) <= LONGEST_IDENTIFIER
            assert now < period.end or event.timestamp >= int(period.end.timestamp()) - 60
            last = SentTotal(value=value, timestamp=event.timestamp)

    @given(st.integers(0, 10**9), st.integers(0, 10**9))
    def test_r32_of_true_ups_are_newer_than_those_of_every_day(self, daily: int, final: int) -> None:
        assume(daily != final)
        before = next_event(total(daily + 1), None, now=APRIL.end - timedelta(seconds=1))
        assert before is not None
        after = next_event(total(final), SentTotal(value=-1, timestamp=before.timestamp), now=APRIL.end)
        assert after is not None
        assert after.timestamp > before.timestamp


class TestSummaries:
    def test_are_of_whole_minutes_that_hold_the_event(self) -> None:
        assert summary_window(APRIL, END - 60) == (int(APRIL.start.timestamp()), END)
        first, end = summary_window(APRIL, END - 61)
        assert (first % 60, end % 60) == (0, 0)
        assert first <= END - 61 < end
