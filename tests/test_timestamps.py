"""Instants: layouts, bounds, leap seconds, and that a number without a unit is never guessed."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing_pipeline.records import Reason
from billing_pipeline.sources.timestamps import CLOCK_TOLERANCE, EARLIEST_EVENT, parse_instant

AS_OF = datetime(2026, 3, 5, 12, tzinfo=UTC)


def parsed(value: object, layout: str = "rfc3339") -> datetime | Reason:
    return parse_instant(value, layout=layout, as_of=AS_OF)


class TestRfc3339:
    @pytest.mark.parametrize(
        ("text", "instant"),
        [
            ("2026-03-01T10:20:30Z", datetime(2026, 3, 1, 10, 20, 30, tzinfo=UTC)),
            ("2026-03-01t10:20:30z", datetime(2026, 3, 1, 10, 20, 30, tzinfo=UTC)),
            ("2026-03-01 10:20:30+05:30", datetime(2026, 3, 1, 4, 50, 30, tzinfo=UTC)),
            ("2026-03-01T00:20:30-23:59", datetime(2026, 3, 2, 0, 19, 30, tzinfo=UTC)),
            ("2026-03-01T10:20:30.5Z", datetime(2026, 3, 1, 10, 20, 30, 500_000, tzinfo=UTC)),
            ("2026-03-01T10:20:30.123456789Z", datetime(2026, 3, 1, 10, 20, 30, 123_456, tzinfo=UTC)),
            ("2026-03-01T10:20:30.999999999Z", datetime(2026, 3, 1, 10, 20, 30, 999_999, tzinfo=UTC)),
            ("2024-02-29T00:00:00Z", datetime(2024, 2, 29, tzinfo=UTC)),
        ],
    )
    def test_reads_an_instant_with_its_zone_and_cuts_beyond_the_microsecond(self, text: str, instant: datetime) -> None:
        assert parsed(text) == instant

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            ("2026-03-01T10:20:30", Reason.NO_TIMEZONE),
            ("2026-03-01 10:20:30.5", Reason.NO_TIMEZONE),
            ("2026-03-01", Reason.NO_TIMEZONE),
            ("2026-03-01T10:20:30+0100", Reason.BAD_TIMESTAMP),
            ("2026-03-01T10:20:30+24:00", Reason.BAD_TIMESTAMP),
            ("2026-03-01T10:20:30+01:60", Reason.BAD_TIMESTAMP),
            ("2026-03-01T10:20:30.1234567890Z", Reason.BAD_TIMESTAMP),
            ("2026-03-01T10:20:30,5Z", Reason.BAD_TIMESTAMP),
            ("2026-03-01T10:20:30.Z", Reason.BAD_TIMESTAMP),
            ("2026-13-01T00:00:00Z", Reason.BAD_TIMESTAMP),
            ("2026-02-29T00:00:00Z", Reason.BAD_TIMESTAMP),
            ("2026-03-01T24:00:00Z", Reason.BAD_TIMESTAMP),
            ("2026-03-01T10:20:61Z", Reason.BAD_TIMESTAMP),
            ("0001-01-01T00:00:00+01:00", Reason.BAD_TIMESTAMP),
            ("\u0662\u0660\u0662\u0666-03-01T10:20:30Z", Reason.BAD_TIMESTAMP),
            ("2026-03-01T10:20:30Z\n", Reason.BAD_TIMESTAMP),
            ("17/Nov/2013:06:31:30 -0500", Reason.BAD_TIMESTAMP),
            ("now", Reason.BAD_TIMESTAMP),
            ("", Reason.BAD_TIMESTAMP),
            ("1767225600", Reason.AMBIGUOUS_UNIT),
            ("1767225600.5", Reason.AMBIGUOUS_UNIT),
            (1767225600, Reason.AMBIGUOUS_UNIT),
            (-1, Reason.AMBIGUOUS_UNIT),
            (0, Reason.SENTINEL_TIME),
            (Decimal("0.0"), Reason.SENTINEL_TIME),
            (True, Reason.WRONG_TYPE),
            (False, Reason.WRONG_TYPE),
            (Decimal("1767225600.5"), Reason.AMBIGUOUS_UNIT),
            (["2026"], Reason.WRONG_TYPE),
            ({}, Reason.WRONG_TYPE),
        ],
    )
    def test_refuses_with_the_reason(self, value: object, reason: Reason) -> None:
        assert parsed(value) is reason

    @given(
        st.datetimes(min_value=datetime(1995, 1, 2), max_value=datetime(2026, 3, 1)),  # noqa: DTZ001
        st.integers(-1439, 1439),
    )
    def test_gives_the_instant_whatever_the_offset_that_it_is_written_with(self, naive: datetime, minutes: int) -> None:
        instant = naive.replace(tzinfo=UTC)
        written = instant.astimezone(timezone(timedelta(minutes=minutes))).isoformat()
        assert parsed(written) == instant


class TestNginx:
    def test_reads_the_log_of_a_server_with_its_offset(self) -> None:
        assert parsed("17/Nov/2013:06:31:30 -0500", "nginx") == datetime(2013, 11, 17, 11, 31, 30, tzinfo=UTC)

    @pytest.mark.parametrize(
        "text",
        [
            "17/nov/2013:06:31:30 -0500",
            "17/Foo/2013:06:31:30 -0500",
            "31/Nov/2013:06:31:30 -0500",
            "17/Nov/2013:06:31:30",
            "17/Nov/2013:06:31:30 +2400",
            "17/Nov/2013:06:31:30 +0060",
            "2013-11-17T06:31:30Z",
        ],
    )
    def test_refuses_what_is_no_such_time(self, text: str) -> None:
        assert parsed(text, "nginx") is Reason.BAD_TIMESTAMP

    def test_does_not_take_a_number(self) -> None:
        assert parsed(1384687890, "nginx") is Reason.AMBIGUOUS_UNIT


class TestEpoch:
    @pytest.mark.parametrize(
        ("value", "layout", "microsecond"),
        [
            (1767225600, "epoch_s", 0),
            ("1767225600.25", "epoch_s", 250_000),
            (Decimal("1767225600.123456789"), "epoch_s", 123_456),
            (1767225600123, "epoch_ms", 123_000),
            (1767225600123456, "epoch_us", 123_456),
        ],
    )
    def test_reads_the_unit_that_the_profile_names(self, value: object, layout: str, microsecond: int) -> None:
        assert parsed(value, layout) == datetime(2026, 1, 1, 0, 0, 0, microsecond, tzinfo=UTC)

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            (0, Reason.SENTINEL_TIME),
            (-1, Reason.SENTINEL_TIME),
            (1, Reason.SENTINEL_TIME),
            (1767225600000, Reason.FUTURE),
            (10**40, Reason.FUTURE),
            (Decimal("1e400"), Reason.FUTURE),
            (Decimal("NaN"), Reason.WRONG_TYPE),
            (Decimal("Infinity"), Reason.WRONG_TYPE),
            (True, Reason.WRONG_TYPE),
            (None, Reason.WRONG_TYPE),
            ("1e9", Reason.BAD_TIMESTAMP),
            ("", Reason.BAD_TIMESTAMP),
        ],
    )
    def test_refuses_with_the_reason(self, value: object, reason: Reason) -> None:
        assert parsed(value, "epoch_s") is reason


class TestBounds:
    def test_takes_the_first_instant_and_refuses_the_one_before(self) -> None:
        assert parsed("1995-01-01T00:00:00Z") == EARLIEST_EVENT
        assert parsed("1994-12-31T23:59:59.999999Z") is Reason.SENTINEL_TIME
        assert parsed("1970-01-01T00:00:00Z") is Reason.SENTINEL_TIME

    def test_takes_a_clock_that_runs_ahead_by_the_tolerance_and_no_more(self) -> None:
        latest = AS_OF + CLOCK_TOLERANCE
        assert parsed(latest.isoformat()) == latest
        assert parsed((latest + timedelta(microseconds=1)).isoformat()) is Reason.FUTURE


class TestLeapSeconds:
    @pytest.mark.parametrize(
        ("text", "layout", "instant"),
        [
            ("2016-12-31T23:59:60Z", "rfc3339", datetime(2017, 1, 1, tzinfo=UTC)),
            ("2016-12-31T23:59:60.75Z", "rfc3339", datetime(2017, 1, 1, tzinfo=UTC)),
            ("2017-01-01T05:29:60+05:30", "rfc3339", datetime(2017, 1, 1, tzinfo=UTC)),
            ("30/Jun/2012:19:59:60 -0400", "nginx", datetime(2012, 7, 1, tzinfo=UTC)),
        ],
    )
    def test_counts_an_announced_one_into_the_next_second(self, text: str, layout: str, instant: datetime) -> None:
        assert parsed(text, layout) == instant

    @pytest.mark.parametrize(
        "text", ["2026-06-30T23:59:60Z", "2016-12-31T23:58:60Z", "2016-12-30T23:59:60Z", "2016-12-31T23:59:60+01:00"]
    )
    def test_refuses_one_that_was_not_announced(self, text: str) -> None:
        assert parsed(text) is Reason.LEAP_SECOND
