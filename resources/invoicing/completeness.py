"""Find what is not yet in an invoice's period: what keeps the invoice from becoming final without a person's word. Reads only.

Incomplete is not zero: a day that nobody built, that a guard holds, or that is built and not booked may still change the invoice.
Not here: letting it through (invoice_store), why a guard holds (billing_pipeline.checks).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import psycopg

from billing_pipeline.billing_schedule import ScheduledCharge, scheduled_charges
from billing_pipeline.catalog import Catalog
from billing_pipeline.charges import ChargeKey
from billing_pipeline.invoicing.books import slot_of
from billing_pipeline.invoicing.items import InvoiceKey, digest_of
from billing_pipeline.periods import Window
from billing_pipeline.rating import rate_flat_fee

_LISTED = 5
_INSTANT = timedelta(microseconds=1)
CHARGES = "billing/charges"


@dataclass(frozen=True, slots=True, kw_only=True)
class Incomplete:
    """What is missing, as sentences; none where the period is whole. A release is for exactly these."""

    problems: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Return what a release names; empty where nothing is missing."""
        return digest_of(*self.problems) if self.problems else ""


def read_incomplete(connection: psycopg.Connection, catalog: Catalog, key: InvoiceKey, *, now: datetime) -> Incomplete:
    """Return what is missing in the invoice's period at `now`."""
    if key.subscription_id is None:
        # Nothing is measured for it: it holds what people added, and corrections of periods that were whole.
        return Incomplete(problems=())
    problems: list[str] = []
    if now < key.period.end:
        problems.append(f"its period ends at {key.period.end:%Y-%m-%d %H:%M} UTC")
    due = tuple(_due(catalog, key))
    days = _days_by_asset(catalog, due)
    for asset, wanted in sorted(days.items()):
        problems += _of_usage(connection, asset, sorted(wanted))
    problems += _held_charges(connection, sorted(set().union(*days.values())))
    problems += _unbooked_fees(connection, due)
    problems += _unread_files(connection, key.period)
    return Incomplete(problems=tuple(problems))


def _due(catalog: Catalog, key: InvoiceKey) -> Iterator[ScheduledCharge]:
    """Yield the charges that the invoice is to have, of its own subscription and of those that are invoiced with it."""
    slot = (key.subscription_id, key.period)
    for subscription in catalog.subscriptions_by_account.get(key.account_id, ()):
        if key.subscription_id not in (subscription.subscription_id, subscription.invoice_with):
            continue
        around = Window(key.period.start, key.period.end + _INSTANT)
        for charge in scheduled_charges(catalog, subscription, around):
            window = charge.period.window
            found = slot_of(
                subscription.subscription_id,
                due_at=charge.due_at,
                period=window,
                subscriptions=catalog.subscriptions,
            )
            if found == slot and not charge.price.is_prepaid:
                yield charge


def _days_by_asset(catalog: Catalog, due: Iterable[ScheduledCharge]) -> dict[str, set[date]]:
    """Return the event days that each kind of usage must have: those of the periods of all metered charges."""
    found: dict[str, set[date]] = defaultdict(set)
    for charge in due:
        if charge.price.meter_id is not None:
            found[f"usage/{catalog.meters[charge.price.meter_id].source}"].update(_days(charge.period.window))
    return found


def _days(period: Window) -> Iterator[date]:
    day = period.start.astimezone(UTC).date()
    while day <= (period.end - _INSTANT).date():
        yield day
        day += timedelta(days=1)


def _unbooked_fees(connection: psycopg.Connection, due: Iterable[ScheduledCharge]) -> Iterator[str]:
    """Yield the fees that no day was booked for yet, such as the next month's that is due in advance."""
    fees = {
        ChargeKey(
            subscription_id=charge.subscription.subscription_id,
            price_id=charge.price.price_id,
            period=charge.period.window,
        ).charge_id: charge
        for charge in due
        if charge.price.meter_id is None and _asks_for_something(charge)
    }
    booked = connection.execute(
        "select distinct charge_id from billing.charge_revision where charge_id = any(%s)", [list(fees)]
    ).fetchall()
    for charge_id, charge in fees.items():
        if (charge_id,) not in booked:
            yield f"fee {charge.price.price_id} from {charge.period.window.start:%Y-%m-%d} on is not booked"


def _of_usage(connection: psycopg.Connection, asset: str, days: Sequence[date]) -> Iterator[str]:
    """Yield what is missing of one kind of usage: days not built, held, or not booked as they are built."""
    rows = connection.execute(
        """
        select
            wanted.day,
            build.state,
            coalesce(
                (booked.usage_state, booked.inputs_digest, booked.rules_digest)
                    is not distinct from (build.state, build.inputs_digest, build.rules_digest)
                and booked.state = 'booked',
                false
            ) as is_booked
        from unnest(%(days)s::date[]) as wanted (day)
        left join usage.build as build on build.asset = %(asset)s and build.partition_key = wanted.day
        left join billing.booked_day as booked on booked.event_day = wanted.day and booked.usage_asset = %(asset)s
        order by wanted.day
        """,
        {"days": list(days), "asset": asset},
    ).fetchall()
    yield from _sentence(f"{asset} is not built", (day for day, state, _ in rows if state is None))
    yield from _sentence(f"{asset} is held by a guard", (day for day, state, _ in rows if state == "held"))
    unbooked = (day for day, state, is_booked in rows if state == "built" and not is_booked)
    yield from _sentence(f"{asset} is built and not booked", unbooked)


def _asks_for_something(charge: ScheduledCharge) -> bool:
    """Return whether the fee is booked at all: one of 0 seats is not."""
    zone = charge.subscription.anchor.zone
    return bool(rate_flat_fee(price=charge.price, period=charge.period, zone=zone, held=charge.held).lines)


def _held_charges(connection: psycopg.Connection, days: Sequence[date]) -> Iterator[str]:
    rows = connection.execute(
        """
        select distinct partition_key
        from guards.verdict
        where asset = %s and partition_key = any(%s) and status = 'held'
        order by partition_key
        """,
        [CHARGES, [day.isoformat() for day in days]],
    ).fetchall()
    yield from _sentence(f"{CHARGES} is held by a guard", (date.fromisoformat(key) for (key,) in rows))


def _unread_files(connection: psycopg.Connection, period: Window) -> Iterator[str]:
    """Yield that files which came since the period began wait to be read: nobody knows yet which days they are of."""
    row = connection.execute(
        "select count(*) from core.source_file where status = 'pending' and delivery_day >= %s",
        [period.start.astimezone(UTC).date()],
    ).fetchone()
    if row is not None and row[0]:
        yield f"{row[0]} delivered files wait to be read"


def _sentence(what: str, days: Iterable[date]) -> Iterator[str]:
    found = [day.isoformat() for day in days]
    if found:
        more = f" and {len(found) - _LISTED} more days" if len(found) > _LISTED else ""
        yield f"{what} on {', '.join(found[:_LISTED])}{more}"
