"""Turn a source's timestamp into an aware UTC instant of whole microseconds, or a reason why not. Pure.

A number is read only when the profile names its unit; a magnitude is never guessed. Digits beyond the microsecond are cut.
"""

import re
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

from billing_pipeline.records import Reason

# Earlier instants are the zero dates of broken clocks and empty fields; the first daily partition starts here too.
EARLIEST_EVENT = datetime(1995, 1, 1, tzinfo=UTC)
# A writer's clock may run ahead of ours by this much.
CLOCK_TOLERANCE = timedelta(minutes=5)

_RFC3339 = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(Z|z|[+-]\d\d:\d\d)?", re.ASCII)
_DATE_ONLY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_NUMBER = re.compile(r"-?\d+(\.\d+)?", re.ASCII)
_NGINX = re.compile(r"(\d\d)/([A-Z][a-z]{2})/(\d{4}):(\d\d):(\d\d):(\d\d) ([+-]\d{4})", re.ASCII)
_MONTHS = {
    name: number
    for number, name in enumerate(
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"], 1
    )
}
_EPOCH_UNITS = {"epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1}

# Announced leap seconds (IERS Bulletin C); none after 2016-12-31. A day with one ends in 23:59:60.
_LEAP_SECOND_DAYS = frozenset(
    {
        "1995-12-31",
        "1997-06-30",
        "1998-12-31",
        "2005-12-31",
        "2008-12-31",
        "2012-06-30",
        "2015-06-30",
        "2016-12-31",
    }
)
# What an instant in a leap second becomes: UTC as we keep it has no second 60.
AFTER_LEAP_SECONDS = frozenset(
    datetime.fromisoformat(f"{day}T00:00:00+00:00") + timedelta(days=1) for day in _LEAP_SECOND_DAYS
)


def parse_instant(value: object, *, layout: str, as_of: datetime) -> datetime | Reason:
    """Return the UTC instant of `value` in `layout` (rfc3339, nginx, epoch_s, epoch_ms, epoch_us).

    `as_of` is when the file was first seen: an instant more than five minutes later is refused.
    """
    if layout in _EPOCH_UNITS:
        instant = _from_epoch(value, _EPOCH_UNITS[layout])
    elif not isinstance(value, str):
        if isinstance(value, bool) or not isinstance(value, int | Decimal):
            return Reason.WRONG_TYPE
        # Zero is the zero date in any unit.
        return Reason.SENTINEL_TIME if value == 0 else Reason.AMBIGUOUS_UNIT
    elif layout == "nginx":
        instant = _from_nginx(value)
    else:
        instant = _from_rfc3339(value)
    if isinstance(instant, Reason):
        return instant
    return in_range(instant, as_of=as_of)


def in_range(instant: datetime, *, as_of: datetime) -> datetime | Reason:
    """Return `instant` unless it is a zero date or lies in the future of `as_of`."""
    if instant < EARLIEST_EVENT:
        return Reason.SENTINEL_TIME
    if instant > as_of + CLOCK_TOLERANCE:
        return Reason.FUTURE
    return instant


def _from_rfc3339(text: str) -> datetime | Reason:
    match = _RFC3339.fullmatch(text)
    if match is None:
        if _DATE_ONLY.fullmatch(text):
            return Reason.NO_TIMEZONE
        return Reason.AMBIGUOUS_UNIT if _NUMBER.fullmatch(text) else Reason.BAD_TIMESTAMP
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    if zone is None:
        return Reason.NO_TIMEZONE
    if zone in "Zz":
        offset = timedelta(0)
    else:
        offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[4:6]))
        if int(zone[4:6]) > 59 or int(zone[1:3]) > 23:
            return Reason.BAD_TIMESTAMP
        offset = -offset if zone[0] == "-" else offset
    microsecond = int((fraction or "").ljust(6, "0")[:6] or 0)
    return _assemble(
        (int(year), int(month), int(day)), (int(hour), int(minute), int(second)), microsecond=microsecond, offset=offset
    )


def _from_nginx(text: str) -> datetime | Reason:
    match = _NGINX.fullmatch(text)
    if match is None or match[2] not in _MONTHS or int(match[7][3:]) > 59 or int(match[7][1:3]) > 23:
        return Reason.BAD_TIMESTAMP
    offset = timedelta(hours=int(match[7][1:3]), minutes=int(match[7][3:]))
    return _assemble(
        (int(match[3]), _MONTHS[match[2]], int(match[1])),
        (int(match[4]), int(match[5]), int(match[6])),
        microsecond=0,
        offset=-offset if match[7][0] == "-" else offset,
    )


def _assemble(
    date_parts: tuple[int, int, int], time_parts: tuple[int, int, int], *, microsecond: int, offset: timedelta
) -> datetime | Reason:
    hour, minute, second = time_parts
    leap = second == 60
    try:
        local = datetime(*date_parts, hour, minute, 59 if leap else second, microsecond, tzinfo=timezone(offset))
        instant = local.astimezone(UTC)
        if not leap:
            return instant
        if f"{instant:%Y-%m-%d %H:%M}" not in {f"{day} 23:59" for day in _LEAP_SECOND_DAYS}:
            return Reason.LEAP_SECOND
        return instant.replace(microsecond=0) + timedelta(seconds=1)
    except (ValueError, OverflowError):
        return Reason.BAD_TIMESTAMP


def _from_epoch(value: object, microseconds_per_unit: int) -> datetime | Reason:
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value):
            return Reason.BAD_TIMESTAMP
        value = Decimal(value)
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or not Decimal(value).is_finite():
        return Reason.WRONG_TYPE
    if value <= 0:
        return Reason.SENTINEL_TIME
    if value > Decimal("253402300799000000") / microseconds_per_unit:
        return Reason.FUTURE
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(Decimal(value) * microseconds_per_unit))
