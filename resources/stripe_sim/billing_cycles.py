"""Billing periods of subscriptions: the n-th boundary after an anchor, cut to the month's last day as Stripe does."""

from calendar import monthrange
from datetime import UTC, datetime, timedelta

_DAYS = {"day": 1, "week": 7}
_MONTHS = {"month": 1, "year": 12}


def boundary(anchor: int, interval: str, count: int, number: int) -> int:
    """Return the `number`-th boundary after the anchor (before it, if negative), in seconds since 1970."""
    at = datetime.fromtimestamp(anchor, UTC)
    if interval in _DAYS:
        return int((at + timedelta(days=_DAYS[interval] * count * number)).timestamp())
    months = at.year * 12 + at.month - 1 + _MONTHS[interval] * count * number
    year, month = divmod(months, 12)
    day = min(at.day, monthrange(year, month + 1)[1])
    return int(at.replace(year=year, month=month + 1, day=day).timestamp())


def period_around(anchor: int, interval: str, count: int, now: int) -> tuple[int, int]:
    """Return the period `[start, end)` of the cycle that holds `now`, also before the anchor."""
    number = 0
    while boundary(anchor, interval, count, number) > now:
        number -= 1
    while boundary(anchor, interval, count, number + 1) <= now:
        number += 1
    return boundary(anchor, interval, count, number), boundary(anchor, interval, count, number + 1)
