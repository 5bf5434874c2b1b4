"""How often a price is charged: (cadence, anchor, start) -> whole periods in UTC. Pure.

A cadence is a number of months or of weeks. Months are counted on the anchor's day and time of day, from the billing period in
which a subscription starts, or from the anchor's `month`; weeks from the local day on which it starts. Not here: what part of
a period a subscription has (billing_schedule), what a price asks for it (rating).
"""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Self
from zoneinfo import ZoneInfo

from billing_pipeline.periods import BillingAnchor, Window

COUNTED = "^([1-9][0-9]?) (month|week)s?$"


class CadenceUnit(StrEnum):
    """What a cadence counts."""

    MONTH = "month"
    WEEK = "week"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cadence:
    """Every `count` months, or weeks: a quarter is 3 months, a year 12."""

    count: int = 1
    unit: CadenceUnit = CadenceUnit.MONTH

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the cadence that a catalog file spells: a name of `NAMES`, `5 months`, `2 weeks`.

        Raises:
            ValueError: it is none of these.
        """
        if text in _NAMED:
            count, unit = _NAMED[text]
            return cls(count=count, unit=unit)
        match = re.fullmatch(COUNTED, text)
        if match is None:
            raise ValueError(
                f'{text!r} is not a cadence: write {", ".join(_NAMED)}, or such as "5 months" or "2 weeks"'
            )
        return cls(count=int(match[1]), unit=CadenceUnit(match[2]))

    def __str__(self) -> str:
        names = [name for name, named in _NAMED.items() if named == (self.count, self.unit)]
        return names[0] if names else f"{self.count} {self.unit}s"

    @property
    def order(self) -> tuple[bool, int]:
        """Return what sorts cadences by their length: weeks before months."""
        return self.unit is CadenceUnit.MONTH, self.count


_NAMED = {
    "week": (1, CadenceUnit.WEEK),
    "month": (1, CadenceUnit.MONTH),
    "quarter": (3, CadenceUnit.MONTH),
    "half_year": (6, CadenceUnit.MONTH),
    "year": (12, CadenceUnit.MONTH),
}
NAMES = tuple(_NAMED)
MONTHLY = Cadence()


def period_containing(cadence: Cadence, anchor: BillingAnchor, *, since: datetime, instant: datetime) -> Window:
    """Return the whole period `[boundary, next boundary)` that contains `instant`, of what starts at `since`.

    Quarterly, anchored on the 1st, since February 10th: February 1st, May 1st, August 1st. With `anchor.month` 1: January
    1st, April 1st.
    """
    if cadence == MONTHLY:
        return anchor.period_containing(instant)
    if cadence.unit is CadenceUnit.MONTH:
        first = _first_month(anchor, since)
        number = (anchor.month_of(instant) - first) // cadence.count
        bounds = (first + number * cadence.count, first + (number + 1) * cadence.count)
        start, end = (anchor.boundary(month // 12, month % 12 + 1) for month in bounds)
        return Window(start, end)
    day, step = _first_day(anchor, since), 7 * cadence.count
    number = (instant.astimezone(ZoneInfo(anchor.zone)).date() - day).days // step
    if _day_boundary(anchor, day + timedelta(days=number * step)) > instant:
        number -= 1
    start, end = (_day_boundary(anchor, day + timedelta(days=one * step)) for one in (number, number + 1))
    return Window(start, end)


def _first_month(anchor: BillingAnchor, since: datetime) -> int:
    first = anchor.month_of(since)
    return first if anchor.month is None else first - (first - (anchor.month - 1)) % 12


def _first_day(anchor: BillingAnchor, since: datetime) -> date:
    day = since.astimezone(ZoneInfo(anchor.zone)).date()
    return day if _day_boundary(anchor, day) <= since else day - timedelta(days=1)


@lru_cache(maxsize=1 << 14)
def _day_boundary(anchor: BillingAnchor, day: date) -> datetime:
    return datetime.combine(day, anchor.time_of_day, ZoneInfo(anchor.zone)).astimezone(UTC)
