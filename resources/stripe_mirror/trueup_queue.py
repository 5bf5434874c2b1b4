"""The queue of renewals whose ended period is to be brought up to date while they are drafts. One row an invoice.

Written by settling an invoice (`put`) and by whoever does the true-up (`done`, `postponed`). What is done stays done.
Not here: doing it (stripe_sync), which invoices belong here (stripe_events.effects).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg

from billing_pipeline.stripe_events.effects import TrueUpState


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedTrueUp:
    """A renewal in the queue. `boundary_at`: where the ended period ends; None: the invoice's lines do not say."""

    invoice_id: str
    account_id: str
    customer_id: str
    stripe_subscription_id: str
    state: TrueUpState
    boundary_at: datetime | None
    first_seen_at: datetime
    attempts: int
    problem: str | None


def put(
    connection: psycopg.Connection,
    *,
    invoice_id: str,
    account_id: str,
    customer_id: str,
    stripe_subscription_id: str,
    state: TrueUpState,
    boundary_at: datetime | None,
    now: datetime,
) -> None:
    """Bring an invoice's place in the queue to `state`; what is done or missed stays as it is."""
    connection.execute(
        """
        insert into stripe.trueup_queue (
            invoice_id, account_id, customer_id, stripe_subscription_id, state, boundary_at, first_seen_at, changed_at
        )
        values (%(invoice)s, %(account)s, %(customer)s, %(subscription)s, %(state)s, %(boundary)s, %(now)s, %(now)s)
        on conflict (invoice_id) do update set
            state = excluded.state,
            boundary_at = coalesce(trueup_queue.boundary_at, excluded.boundary_at),
            changed_at = excluded.changed_at
        where trueup_queue.state in ('waiting', 'gone')
            and (trueup_queue.state, trueup_queue.boundary_at)
                is distinct from (excluded.state, coalesce(trueup_queue.boundary_at, excluded.boundary_at))
        """,
        {
            "invoice": invoice_id,
            "account": account_id,
            "customer": customer_id,
            "subscription": stripe_subscription_id,
            "state": state.value,
            "boundary": boundary_at,
            "now": now,
        },
    )


def state_of(connection: psycopg.Connection, invoice_id: str) -> TrueUpState | None:
    """Return where an invoice is in the queue; None: it is not there."""
    row = connection.execute("select state from stripe.trueup_queue where invoice_id = %s", [invoice_id]).fetchone()
    return None if row is None else TrueUpState(row[0])


def waiting(
    connection: psycopg.Connection, *, now: datetime, accounts: Sequence[str] | None = None
) -> tuple[QueuedTrueUp, ...]:
    """Return the renewals that are due to be tried, the oldest first; of some accounts where they are given."""
    return _queued(
        connection,
        """
        where state = 'waiting' and (not_before is null or not_before <= %(now)s)
            and (%(accounts)s::text[] is null or account_id = any(%(accounts)s::text[]))
        """,
        {"now": now, "accounts": None if accounts is None else list(accounts)},
    )


def missed(connection: psycopg.Connection) -> tuple[QueuedTrueUp, ...]:
    """Return the renewals that were final before their true-up: what was missing belongs onto a later invoice."""
    return _queued(connection, "where state = 'missed'", {})


def done(connection: psycopg.Connection, invoice_id: str, *, now: datetime) -> None:
    """Say that the true-up of an invoice is done. A missed one is done when its correction is."""
    connection.execute(
        """
        update stripe.trueup_queue
        set state = 'done', done_at = %(now)s, changed_at = %(now)s, problem = null, not_before = null
        where invoice_id = %(invoice)s and state in ('waiting', 'missed')
        """,
        {"invoice": invoice_id, "now": now},
    )


def postponed(
    connection: psycopg.Connection, invoice_id: str, *, problem: str, not_before: datetime, now: datetime
) -> None:
    """Say why the true-up of an invoice was not done, and when it is due again."""
    connection.execute(
        """
        update stripe.trueup_queue
        set attempts = attempts + 1, problem = %(problem)s, not_before = %(not_before)s, changed_at = %(now)s
        where invoice_id = %(invoice)s and state = 'waiting'
        """,
        {"invoice": invoice_id, "problem": problem, "not_before": not_before, "now": now},
    )


def _queued(connection: psycopg.Connection, where: str, values: dict[str, object]) -> tuple[QueuedTrueUp, ...]:
    statement = f"""
        select
            invoice_id, account_id, customer_id, stripe_subscription_id, state, boundary_at, first_seen_at, attempts, problem
        from stripe.trueup_queue
        {where}
        order by first_seen_at, invoice_id
    """
    return tuple(
        QueuedTrueUp(
            invoice_id=row[0],
            account_id=row[1],
            customer_id=row[2],
            stripe_subscription_id=row[3],
            state=TrueUpState(row[4]),
            boundary_at=row[5],
            first_seen_at=row[6],
            attempts=row[7],
            problem=row[8],
        )
        for row in connection.execute(statement.encode(), values)
    )
