"""Half-open windows and billing periods: (anchor, zone, start, end) -> periods in UTC. Pure.

Every instant is aware and UTC; windows are `[start, end)`. Calendar work is done in the account's IANA zone.
Not here: which price a period is rated with (catalog, rating).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Protocol
from zoneinfo import ZoneInfo

from billing_pipeline.errors import BillingError


class NaiveInstantError(BillingError):
    """An instant without time zone where an aware one is needed."""


class EmptyWindowError(BillingError):
    """A window that ends at or before its start."""


def as_utc(instant: datetime) -> datetime:
    """Return an aware instant in UTC.

    Raises:
        NaiveInstantError: it has no offset, so it names no instant.
    """
    if instant.tzinfo is UTC:
        return instant
    if instant.utcoffset() is None:
        raise NaiveInstantError(
            f"{instant.isoformat()} has no time zone",
            bill="usage could land in the wrong period, so it is refused",
            fix="write the instant with Z or an offset, such as 2026-03-01T00:00:00Z",
        )
    return instant.astimezone(UTC)


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """The instants from `start` up to but not including `end`, in UTC."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        # Most come in UTC: there are some for every charge.
        if self.start.tzinfo is not UTC or self.end.tzinfo is not UTC:
            object.__setattr__(self, "start", as_utc(self.start))
            object.__setattr__(self, "end", as_utc(self.end))
        if self.end <= self.start:
            raise EmptyWindowError(
                f"the window [{self.start.isoformat()}, {self.end.isoformat()}) holds no instant",
                bill="nothing can be rated in it",
                fix="give an end after the start",
            )

    def __contains__(self, instant: datetime) -> bool:
        return self.start <= instant < self.end

    @property
    def seconds(self) -> int:
        """Return the elapsed whole seconds: a local day of a DST change has 82,800 or 90,000."""
        return (self.end - self.start) // timedelta(seconds=1)

    def overlap(self, start: datetime, end: datetime | None) -> "Window | None":
        """Return the part inside `[start, end)`; `end` None is open. None where they do not meet."""
        first = max(self.start, start)
        last = self.end if end is None else min(self.end, end)
        return Window(first, last) if first < last else None


@dataclass(frozen=True, slots=True, kw_only=True)
class BillingAnchor:
    """Monthly on a day (31: the last day of a shorter month) at a local time of day in an IANA zone.

    `month` (1..12) is one in which periods of several months begin; None: the one in which a subscription starts.
    """

    day: int = 1
    time_of_day: time = time(0)
    zone: str = "UTC"
    month: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.day <= 31:
            raise ValueError(f"an anchor's day is 1..31, not {self.day}")
        if self.month is not None and not 1 <= self.month <= 12:
            raise ValueError(f"an anchor's month is 1..12, not {self.month}")

    def boundary(self, year: int, month: int) -> datetime:
        """Return the instant in UTC at which the period of that month begins.

        A local time that a DST change leaves out is read with the offset before the change; of one that it repeats
        the first counts.
        """
        return _boundary(self, year, month)

    def period_containing(self, instant: datetime) -> Window:
        """Return the whole period `[boundary, next boundary)` that contains `instant`."""
        return _period_containing(self, instant)

    def month_of(self, instant: datetime) -> int:
        """Return the month in which the period that contains `instant` begins: 12 x year + month - 1."""
        local = instant.astimezone(ZoneInfo(self.zone))
        month = 12 * local.year + local.month - 1
        return month if self.boundary(local.year, local.month) <= instant else month - 1


@lru_cache(maxsize=1 << 16)
def _period_containing(anchor: BillingAnchor, instant: datetime) -> Window:
    """Of many subscriptions few have an anchor of their own, and all are asked for the same instants."""
    year, month = divmod(anchor.month_of(instant), 12)
    return Window(anchor.boundary(year, month + 1), anchor.boundary(*_month_after(year, month + 1)))


@lru_cache(maxsize=1 << 16)
def _boundary(anchor: BillingAnchor, year: int, month: int) -> datetime:
    next_year, next_month = _month_after(year, month)
    last_day = (datetime(next_year, next_month, 1, tzinfo=UTC) - timedelta(days=1)).day
    local = datetime.combine(
        datetime(year, month, min(anchor.day, last_day), tzinfo=UTC).date(), anchor.time_of_day, ZoneInfo(anchor.zone)
    )
    return local.astimezone(UTC)


def _month_after(year: int, month: int) -> tuple[int, int]:
    return (year + 1, 1) if month == 12 else (year, month + 1)


def _month_before(year: int, month: int) -> tuple[int, int]:
    return (year - 1, 12) if month == 1 else (year, month - 1)


@dataclass(frozen=True, slots=True)
class BillingPeriod:
    """What one bill of a subscription covers: `window`, a part of the anchor's `whole` period or all of it."""

    window: Window
    whole: Window = field(compare=False)


@dataclass(frozen=True, slots=True)
class Anchored:
    """An anchor that counts from `starts_at` until `ends_at` (None: open)."""

    starts_at: datetime
    ends_at: datetime | None
    anchor: BillingAnchor


class Recurring(Protocol):
    """Whatever is billed by period: a subscription. `anchored` follow each other from its start (inclusive) to its end."""

    @property
    def starts_at(self) -> datetime: ...
    @property
    def ends_at(self) -> datetime | None: ...
    @property
    def anchored(self) -> Sequence[Anchored]: ...


def billing_periods(subscription: Recurring, window: Window) -> Iterator[BillingPeriod]:
    """Yield the periods of `subscription` that meet `window`, in order, cut at its start and end, not at `window`.

    Where its anchor moves, the period is cut: moved from the 1st to the 15th on March 10th, March 1st to 10th is a part of March,
    and the 10th to the 15th one of February 15th to March 15th.
    """
    for one in subscription.anchored:
        reach = window.overlap(one.starts_at, one.ends_at)
        if reach is None:
            continue
        whole = one.anchor.period_containing(reach.start)
        while whole.start < reach.end:
            part = whole.overlap(one.starts_at, one.ends_at)
            if part is not None:
                yield BillingPeriod(part, whole)
            whole = one.anchor.period_containing(whole.end)


class RequestedDays:
    """The event days (UTC) that somebody asks for, and which periods they concern."""

    __slots__ = ("_met", "_newest", "_starts", "days", "span")

    def __init__(self, days: Iterable[date]) -> None:
        """Take one day at least, in any order."""
        self.days: tuple[date, ...] = tuple(sorted(set(days)))
        self.span = Window(_midnight(self.days[0]), _midnight(self.days[-1] + timedelta(days=1)))
        self._starts = frozenset(map(_midnight, self.days))
        # Of many charges few have a period of their own.
        self._met: dict[Window, bool] = {}
        self._newest: dict[datetime, date] = {}

    def meet(self, period: Window) -> bool:
        """Return whether one of the days has an instant in `period`."""
        met = self._met.get(period)
        if met is None:
            index = bisect_left(self.days, period.start.date())
            met = self._met[period] = index < len(self.days) and _midnight(self.days[index]) < period.end
        return met

    def end_at(self, instant: datetime) -> bool:
        """Return whether one of the days ends at `instant`: what is due in advance then is booked with that day."""
        return instant - timedelta(days=1) in self._starts

    def newest_in(self, period: Window) -> date:
        """Return the newest of the days that has an instant in `period`, or lies before it; of none, the first day."""
        newest = self._newest.get(period.end)
        if newest is None:
            last_instant = period.end - timedelta(microseconds=1)
            newest = self.days[max(bisect_right(self.days, last_instant.date()) - 1, 0)]
            self._newest[period.end] = newest
        return newest


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(0), UTC)


def cuts(subscriptions: Iterable[Recurring], window: Window) -> tuple[datetime, ...]:
    """Return the instants inside `window` and inside an hour at which a period of one of them begins or ends.

    Usage rows are hours; these are the only other places at which a row must end. For an anchor at 14:37:12:
    14:37:12 of each month. Boundaries on a whole UTC hour are left out: the hour grid cuts there already.
    """
    found: set[datetime] = set()
    for subscription in subscriptions:
        for one in subscription.anchored:
            ends_at = window.end if one.ends_at is None else one.ends_at
            found.update((one.starts_at, ends_at))
            found.update(at for at in _boundaries_inside_hours(one.anchor, window) if one.starts_at < at < ends_at)
    return tuple(sorted(at for at in found if window.start < at < window.end and not _is_whole_hour(at)))


@lru_cache(maxsize=1 << 12)
def _boundaries_inside_hours(anchor: BillingAnchor, window: Window) -> tuple[datetime, ...]:
    """Return the anchor's boundaries in `window` that no hour begins with. Few anchors serve many subscriptions."""
    year, month = _month_before(window.start.year, window.start.month)
    found = []
    while (at := anchor.boundary(year, month)) < window.end:
        if at > window.start and not _is_whole_hour(at):
            found.append(at)
        year, month = _month_after(year, month)
    return tuple(found)


def _is_whole_hour(instant: datetime) -> bool:
    return instant.minute == 0 and instant.second == 0 and instant.microsecond == 0


def elapsed_share(part: Window, whole: Window) -> tuple[int, int]:
    """Return (elapsed, whole) seconds for proration, the share at most 1: 15 of 31 days is (1296000, 2678400)."""
    return min(part.seconds, whole.seconds), whole.seconds


def local_days(start: datetime, end: datetime, zone: str) -> int:
    """Return the calendar days from the local date of `start` to that of `end`: DST days count as one."""
    there = ZoneInfo(zone)
    return (end.astimezone(there).date() - start.astimezone(there).date()).days


def day_share(part: Window, whole: Window, zone: str) -> tuple[int, int]:
    """Return (billed, whole) local calendar days for `prorate: day`; a day that is begun counts from its start.

    Used from January 8th 09:30 to February 1st 00:00: 24 of 31. The days of adjacent parts add up to the whole's.
    """
    days = local_days(whole.start, whole.end, zone)
    return min(local_days(part.start, part.end, zone), days), days


def thirty_day_share(part: Window, whole: Window, zone: str) -> tuple[int, int]:
    """Return (billed, whole) days where every month has 30, whatever the calendar says: May 23rd to June 15th are 22 of 30.

    A 31st is a 30th.
    """
    months = max(1, (local_days(whole.start, whole.end, zone) + 15) // 30)
    return min(_thirty_days(part.start, part.end, zone), 30 * months), 30 * months


def _thirty_days(start: datetime, end: datetime, zone: str) -> int:
    there = ZoneInfo(zone)
    first, last = start.astimezone(there).date(), end.astimezone(there).date()
    months = 12 * (last.year - first.year) + last.month - first.month
    return 30 * months + min(last.day, 30) - min(first.day, 30)
