"""The second way to bill: running totals of a period as events of a meter with formula `last`. (total, last sent) -> event. Pure.

An event says what the whole period comes to so far, never an increment: sent again it changes nothing. Stripe counts the event
with the newest timestamp inside the period, so timestamps grow strictly, and the last minute of a period is kept for its final
totals: however late they are sent, they are newer than every event before. What Stripe would not take, or would put into another
period, is not sent: usage that is found too late is charged by an item of the next invoice instead.

A period of April, reported on the 3rd at noon: timestamp April 3rd 12:00:00. Its true-up, in May: April 30th 23:59:00, a second
one 23:59:01. Not here: calls (resources/stripe_sync).
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from billing_pipeline.amounts import Exact, exact_product, round_half_away
from billing_pipeline.errors import BillingError
from billing_pipeline.periods import Window

# Stripe refuses more, since 2026-04-22.
MOST_DIGITS = 15
LONGEST_IDENTIFIER = 100
# Of 35 days an hour is left to our clock and to the way.
OLDEST = timedelta(days=35) - timedelta(hours=1)
NEWEST = timedelta(minutes=5)
# The last seconds of a period, for its final totals: one each.
RESERVED_SECONDS = 60


class MeterValueError(BillingError):
    """A total that no meter event can say."""


class MeterTooLateError(BillingError):
    """A total that no timestamp inside its period can carry any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterTotal:
    """What a customer's period comes to so far on one meter, in the meter's whole units."""

    event_name: str
    customer_id: str
    period: Window
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SentTotal:
    """The newest event of the period that was sent, or may have been."""

    value: int
    timestamp: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterEvent:
    """An event to send. `timestamp` is in whole seconds since 1970."""

    event_name: str
    customer_id: str
    value: int
    timestamp: int
    identifier: str


def meter_value(quantity: Exact, multiply: Decimal) -> int:
    """Return `quantity` in the meter's whole units: 0.0944 GB-months x 1000 are 94 MB-months. Halves are rounded up.

    Raises:
        MeterValueError: it is below 0, or has more than 15 digits.
    """
    value = round_half_away(exact_product(quantity, times=multiply, over=Decimal(1)), digits=0)
    if not 0 <= value < 10**MOST_DIGITS:
        raise MeterValueError(
            f"a meter cannot say {value}: Stripe takes whole numbers of up to {MOST_DIGITS} digits, not below 0",
            bill="nothing was sent of this total; what was sent before stands",
            fix="choose a larger unit for the meter: a smaller `multiply` in catalog/stripe.toml, and a price at Stripe to match",
        )
    return value


def next_event(total: MeterTotal, last: SentTotal | None, *, now: datetime) -> MeterEvent | None:
    """Return the event that says `total`; None where the last one says it, or the period has not begun.

    Raises:
        MeterTooLateError: no timestamp of the period is left that Stripe would take.
    """
    if last is not None and last.value == total.value:
        return None
    if last is None and total.value == 0:
        return None
    first, end = _seconds(total.period)
    at = int(now.timestamp())
    if at < first:
        return None
    timestamp = _timestamp(first, end, at, None if last is None else last.timestamp)
    if timestamp is None or timestamp < at - int(OLDEST.total_seconds()):
        raise MeterTooLateError(
            f"{total.event_name} of {total.customer_id} comes to {total.value} in the period that ended "
            f"{total.period.end:%Y-%m-%d %H:%M} UTC, and no event of that period can say so any more",
            bill="it is not sent with another timestamp, which would bill it in a wrong period; the difference is charged by an "
            "item of the next invoice",
            fix="nothing; see the account's next invoice",
        )
    if timestamp > at + int(NEWEST.total_seconds()):
        # More events than seconds so far: the next ones wait.
        return None
    return MeterEvent(
        event_name=total.event_name,
        customer_id=total.customer_id,
        value=total.value,
        timestamp=timestamp,
        identifier=_identifier(total, timestamp),
    )


def summary_window(period: Window, timestamp: int) -> tuple[int, int]:
    """Return the whole minutes of which a summary shows the period up to the event: Stripe summarises whole minutes."""
    first, _ = _seconds(period)
    return first - first % 60, timestamp - timestamp % 60 + 60


def _timestamp(first: int, end: int, at: int, last: int | None) -> int | None:
    """Return the timestamp of the next event: now inside the period, the reserved seconds once it is over, always growing."""
    reserved = max(end - RESERVED_SECONDS, first)
    wanted = reserved if at >= end else max(min(at, reserved - 1), first)
    timestamp = wanted if last is None or last < wanted else last + 1
    return timestamp if timestamp < end else None


def _seconds(period: Window) -> tuple[int, int]:
    """Return the first whole second inside the period, and the first after it."""
    first, end = period.start.timestamp(), period.end.timestamp()
    return int(-(-first // 1)), int(end)


def _identifier(total: MeterTotal, timestamp: int) -> str:
    """Return what Stripe knows the event by: one for each timestamp of a customer's meter."""
    whose = hashlib.sha256(f"{total.customer_id}|{total.period.start.isoformat()}".encode()).hexdigest()[:24]
    return f"bp:{total.event_name[:40]}:{whose}:{timestamp}"
