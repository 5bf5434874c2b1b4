"""Read days and billing periods as a person types them. Pure; raises for what is neither.

A range typed as `--from D --to D` names its first and its last day: both are inside. Not here: which days have data.
"""

from dataclasses import dataclass
from datetime import date, timedelta

from billing_pipeline.errors import BillingError

# A range is one run, and Dagster records an event a day and asset: a typing error of a century should not start.
MAX_RANGE_DAYS = 3660


class DayUnreadableError(BillingError):
    """What was typed is no day, no range of days or no period."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DayRange:
    """A first and a last day, both inside."""

    first: date
    last: date

    def __post_init__(self) -> None:
        if self.last < self.first:
            raise _unreadable(
                f"The range ends on {self.last}, before it begins on {self.first}", "Swap --from and --to."
            )
        if (self.last - self.first).days >= MAX_RANGE_DAYS:
            raise _unreadable(
                f"The range {self.first} to {self.last} is longer than {MAX_RANGE_DAYS} days",
                "Check the years, or run it in parts.",
            )

    def days(self) -> tuple[date, ...]:
        """Return every day of the range in order."""
        return tuple(self.first + timedelta(days=offset) for offset in range((self.last - self.first).days + 1))


def read_day(text: str) -> date:
    """Return the day that `text` names, as YYYY-MM-DD.

    Raises:
        DayUnreadableError: it is no day of the calendar, or written otherwise.
    """
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = None
    if day is None or day.isoformat() != text:
        raise _unreadable(f"{text!r} is no day", "Write a day of the calendar as YYYY-MM-DD, such as 2026-03-01.")
    return day


def read_range(day: str | None, first: str | None, last: str | None) -> DayRange | None:
    """Return the range that `--day` or `--from` with `--to` names, or None when none of them was given.

    Raises:
        DayUnreadableError: one of them is no day, or they contradict or lack each other.
    """
    if day is not None:
        if first is not None or last is not None:
            raise _unreadable("--day was given together with --from or --to", "Give --day alone, or --from and --to.")
        only = read_day(day)
        return DayRange(first=only, last=only)
    if first is None and last is None:
        return None
    if first is None or last is None:
        raise _unreadable("Only one end of the range was given", "Give --from and --to; both days are included.")
    return DayRange(first=read_day(first), last=read_day(last))


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """What a person means by a period: a month (every billing period that begins in it), or one that contains a day."""

    text: str
    first: date
    last: date
    is_month: bool


def read_period(text: str) -> Period:
    """Return the period that `2026-03` (a month) or `2026-03-14` (a day inside a billing period) names.

    Raises:
        DayUnreadableError: it is neither.
    """
    try:
        first = date.fromisoformat(f"{text}-01") if len(text) == 7 else read_day(text)
    except (ValueError, DayUnreadableError):
        raise _unreadable(
            f"{text!r} is no period", "Write a month as 2026-03, or any day inside a billing period as 2026-03-14."
        ) from None
    if len(text) != 7:
        return Period(text=text, first=first, last=first, is_month=False)
    next_month = (first + timedelta(days=31)).replace(day=1)
    return Period(text=text, first=first, last=next_month - timedelta(days=1), is_month=True)


def _unreadable(what: str, fix: str) -> DayUnreadableError:
    return DayUnreadableError(what, bill="Nothing was read or changed.", fix=fix)
