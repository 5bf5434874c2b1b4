"""Meter events that Stripe has taken and then did not count: reports of the mirror -> findings that name customer and code.

A report names some of the events by our keys or identifiers; the others are named by their number only. Not here: reading the
reports (resources/stripe_mirror).
"""

from datetime import datetime

import psycopg

from billing_pipeline.periods import Window
from resources.database import Database
from resources.stripe_sync import sync_store
from resources.stripe_sync.meter_writer import meter_subject
from resources.stripe_sync.sync_store import FindingKind


def tell_meter_errors(database: Database, *, now: datetime) -> int:
    """Open a finding for each reported error that has none yet, mark what does not count, and return how many are new."""
    with database.transaction("stripe/meter_errors") as connection:
        rows = connection.execute(
            """
            select event_id, code, meter_id, error_count, identifiers, reported_at
            from stripe.meter_error
            where not exists (
                select from stripe.sync_finding
                where kind = %s and starts_with(subject, meter_error.event_id || ':' || meter_error.code)
            )
            order by reported_at, event_id, code
            """,
            [FindingKind.METER_ERROR],
        ).fetchall()
        for event_id, code, meter_id, error_count, identifiers, reported_at in rows:
            accounts = _mark_failed(connection, identifiers, code)
            named = "; ".join(accounts) or f"{error_count} events, none of them named"
            sync_store.open_finding(
                connection,
                FindingKind.METER_ERROR,
                f"{event_id}:{code}",
                f"Stripe did not count events of {meter_id or 'a meter that it does not have'} ({code}), reported "
                f"{reported_at:%Y-%m-%d %H:%M} UTC: {named}",
                account_id=accounts[0].split(" ")[0] if len(accounts) == 1 else None,
                now=now,
            )
    return len(rows)


def _mark_failed(connection: psycopg.Connection, identifiers: list[str], code: str) -> list[str]:
    """Mark the totals whose events are named as not counted, and return account, customer and total of each."""
    rows = connection.execute(
        """
        update stripe.sync_meter set state = 'failed', problem = %(code)s, confirmed_at = null
        where identifier in (
            select params ->> 'identifier' from stripe.intent
            where operation = 'billing.meter_events.create'
                and (idempotency_key = any(%(ids)s) or params ->> 'identifier' = any(%(ids)s))
            union
            select unnest(%(ids)s)
        )
        returning account_id, customer_id, event_name, period_start, period_end, value
        """,
        {"code": code, "ids": identifiers},
    ).fetchall()
    return sorted(
        f"{account_id} ({customer_id}): {event_name} {value}, {meter_subject(customer_id, event_name, Window(start, end))}"
        for account_id, customer_id, event_name, start, end, value in rows
    )
