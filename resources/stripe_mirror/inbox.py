"""Keep Stripe's events once each, with what became of them. Whoever brings them: the feed, a webhook.

An event and the row that says it is open are written in one statement; what is applied is said in the transaction that did it.
Not here: what an event says (stripe_events.envelope), reading the feed (feed), what is done about them (apply).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg

from billing_pipeline.errors import BillingError
from billing_pipeline.stripe_events.envelope import ObjectKind, StripeEvent

FROM_FEED = "feed"
FROM_WEBHOOK = "webhook"
FIRST_WAIT = timedelta(minutes=1)
LONGEST_WAIT = timedelta(hours=1)
# The waits between eight attempts add up to about two hours.
MOST_ATTEMPTS = 8


class EventUnknownError(BillingError):
    """No event of this id is in the inbox."""


@dataclass(frozen=True, slots=True, order=True)
class StripeObject:
    """An object of Stripe's, by its id."""

    kind: ObjectKind
    object_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenObject:
    """An object that open events are about: `event_ids` in order of time."""

    subject: StripeObject
    event_ids: tuple[str, ...]
    oldest_event_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxCounts:
    """How many events are where. `oldest_open_at`: when the oldest open one was received."""

    open: int
    applied: int
    dead: int
    oldest_open_at: datetime | None


def receive(
    connection: psycopg.Connection, events: Iterable[StripeEvent], *, received_from: str, received_at: datetime
) -> tuple[str, ...]:
    """Keep the events that are new, open, and return their ids. One that is known already changes nothing."""
    found = {event.event_id: event for event in events}
    if not found:
        return ()
    rows = connection.execute(
        """
        with
        added as (
            insert into stripe.event (
                event_id, event_type, object_kind, object_id, customer_id, created_at, received_at, received_from
            )
            select event_id, event_type, object_kind, object_id, customer_id, created_at, %(received_at)s, %(received_from)s
            from unnest(
                %(ids)s::text[], %(types)s::text[], %(kinds)s::text[], %(objects)s::text[], %(customers)s::text[],
                %(created)s::timestamptz[]
            ) as given (event_id, event_type, object_kind, object_id, customer_id, created_at)
            order by event_id
            on conflict do nothing
            returning event_id
        )
        insert into stripe.event_work (event_id, changed_at)
        select event_id, %(received_at)s from added
        returning event_id
        """,
        {
            "ids": list(found),
            "types": [event.event_type for event in found.values()],
            "kinds": [event.kind.value for event in found.values()],
            "objects": [event.object_id for event in found.values()],
            "customers": [event.customer_id for event in found.values()],
            "created": [event.created_at for event in found.values()],
            "received_at": received_at,
            "received_from": received_from,
        },
    ).fetchall()
    return tuple(sorted(event_id for (event_id,) in rows))


def open_objects(
    connection: psycopg.Connection, *, now: datetime, limit: int, customer_id: str | None = None
) -> tuple[OpenObject, ...]:
    """Return what open events are about that need not wait any longer, the oldest first; of one customer where one is given."""
    rows = connection.execute(
        """
        select object_kind, object_id, array_agg(event_id order by created_at, event_id), min(created_at)
        from stripe.event_work
        join stripe.event using (event_id)
        where state = 'open' and (not_before is null or not_before <= %(now)s)
            and (%(customer)s::text is null or customer_id = %(customer)s)
        group by object_kind, object_id
        order by min(created_at), object_kind, object_id
        limit %(limit)s
        """,
        {"now": now, "limit": limit, "customer": customer_id},
    )
    return tuple(
        OpenObject(
            subject=StripeObject(ObjectKind(kind), object_id), event_ids=tuple(event_ids), oldest_event_at=oldest
        )
        for kind, object_id, event_ids, oldest in rows
    )


def mark_applied(connection: psycopg.Connection, event_ids: Sequence[str], *, run_id: str, now: datetime) -> int:
    """Say that these events are applied; those that somebody else has applied stay as they are. Returns how many were open."""
    return connection.execute(
        """
        update stripe.event_work
        set state = 'applied', run_id = %(run)s, changed_at = %(now)s, problem = null, not_before = null
        where event_id = any(%(ids)s) and state <> 'applied'
        """,
        {"ids": list(event_ids), "run": run_id, "now": now},
    ).rowcount


def mark_failed(
    connection: psycopg.Connection, event_ids: Sequence[str], *, problem: str, run_id: str, now: datetime
) -> None:
    """Say that these events could not be applied: they wait, longer each time, and are dead after the eighth attempt."""
    connection.execute(
        """
        update stripe.event_work
        set
            attempts = attempts + 1,
            state = case when attempts + 1 >= %(most)s then 'dead' else 'open' end,
            not_before = %(now)s + least(%(first)s * power(2, attempts), %(longest)s),
            problem = %(problem)s,
            run_id = %(run)s,
            changed_at = %(now)s
        where event_id = any(%(ids)s) and state = 'open'
        """,
        {
            "ids": list(event_ids),
            "most": MOST_ATTEMPTS,
            "first": FIRST_WAIT,
            "longest": LONGEST_WAIT,
            "problem": problem,
            "run": run_id,
            "now": now,
        },
    )


def reopen(connection: psycopg.Connection, event_ids: Sequence[str], *, now: datetime) -> int:
    """Let events that are dead or wait be tried again at once, and return how many.

    Raises:
        EventUnknownError: one of them is not in the inbox.
    """
    known = {
        event_id
        for (event_id,) in connection.execute(
            "select event_id from stripe.event_work where event_id = any(%s)", [list(event_ids)]
        )
    }
    missing = sorted(set(event_ids) - known)
    if missing:
        raise EventUnknownError(
            f"there is no event {', '.join(missing)} in the inbox",
            bill="nothing was changed",
            fix="take an id that `billing stripe-events` shows",
        )
    return connection.execute(
        """
        update stripe.event_work
        set state = 'open', attempts = 0, not_before = null, changed_at = %s
        where event_id = any(%s) and state <> 'applied'
        """,
        [now, list(event_ids)],
    ).rowcount


def counts(connection: psycopg.Connection) -> InboxCounts:
    """Return how many events are open, applied and dead."""
    row = connection.execute(
        """
        select
            count(*) filter (where state = 'open'),
            count(*) filter (where state = 'applied'),
            count(*) filter (where state = 'dead'),
            min(received_at) filter (where state = 'open')
        from stripe.event_work
        join stripe.event using (event_id)
        """
    ).fetchone()
    assert row is not None
    return InboxCounts(open=row[0], applied=row[1], dead=row[2], oldest_open_at=row[3])
