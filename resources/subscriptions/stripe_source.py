"""Subscriptions as Stripe has them: what the mirror shows -> dated statements, each written once when it is first seen.

Stripe's subscription is a source where its metadata says `bp_plan` (and `bp_account`, there or on the customer); without it, it
is no more than a link. Stripe tells what is, not what was: a change of plan, quantity or pause is dated by the fetch that showed
it, ends and trials by Stripe itself. An item's quantity counts where the item's metadata says what it is (`bp_quantity`:
"seat"). Not here: the mirror (stripe_mirror), what can be taken in (sourced).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import psycopg

from billing_pipeline.catalog.sourced import SourcedSubscription
from resources.subscriptions.statements import read_statements

_NOT_BEGUN = frozenset({"incomplete", "incomplete_expired"})
_SECOND = timedelta(seconds=1)
_ANCHOR_MOVED = (
    "Stripe has moved the billing cycle's anchor to {at}, and the periods of a subscription do not move: end it with a change and "
    "give the new cycle another bp_subscription"
)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A subscription as Stripe has it, or as statements have it so far."""

    plan_id: str | None = None
    quantities: Mapping[str, int] = field(default_factory=dict, hash=False)
    is_paused: bool = False
    trial_until: datetime | None = None
    ends_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class StripeSubscriptions:
    """The subscriptions of `stripe.subscription_source` that say which plan they are on."""

    name: str = "stripe"

    def read(self, connection: psycopg.Connection) -> Sequence[SourcedSubscription]:
        """Write statements for what is new in the mirror, and return all of them."""
        known, anchors = _known(connection)
        problems: dict[str, tuple[tuple[str, str], ...]] = {}
        at_stripe: dict[str, str] = {}
        for row in connection.execute(_MIRRORED).fetchall():
            subscription_id, account_id, started_at, anchor, fetched_at, status, *_, stripe_id = row
            at_stripe[subscription_id] = stripe_id
            if status in _NOT_BEGUN:
                continue
            now = _now(row)
            before = known.get(subscription_id)
            if before is None:
                _start(connection, subscription_id, account_id, _second(started_at), _second(anchor), now)
                before = replace(now, is_paused=False, ends_at=None)
            elif anchors[subscription_id] != (_second(anchor).day, _second(anchor).time()):
                problems[subscription_id] = (("anchor_day", _ANCHOR_MOVED.format(at=_second(anchor).isoformat())),)
            for at, fields in _changes(before, now, _second(fetched_at)):
                _write(connection, subscription_id, "change", at, fields)
        return tuple(
            replace(
                one,
                problems=(*one.problems, *problems.get(one.subscription_id, ())),
                at_stripe=at_stripe.get(one.subscription_id, one.subscription_id),
            )
            for one in read_statements(connection, self.name)
        )


_MIRRORED = """
    select
        coalesce(source.subscription_id, stripe_subscription_id), account_id, started_at, billing_cycle_anchor,
        source.fetched_at, status, plan_id, trial_end, ends_at,
        (
            select coalesce(jsonb_object_agg(metadata ->> 'bp_quantity', quantity), '{}')
            from stripe.subscription_item as item
            where item.subscription_id = stripe_subscription_id and metadata ? 'bp_quantity' and quantity is not null
        ),
        stripe_subscription_id
    from stripe.subscription_source as source
    where plan_id is not null and account_id is not null
    order by 1
"""


def _now(row: Sequence[object]) -> _Seen:
    _, _, started_at, _, _, status, plan_id, trial_end, ends_at, quantities, _ = row
    assert isinstance(started_at, datetime)
    assert isinstance(quantities, dict)
    trial_until = _second(trial_end) if isinstance(trial_end, datetime) and trial_end > started_at else None
    return _Seen(
        plan_id=str(plan_id),
        quantities=quantities,
        is_paused=status == "paused",
        trial_until=trial_until,
        # One that ends where it starts has nothing to charge: its first second stands for that.
        ends_at=max(_second(ends_at), _second(started_at) + _SECOND) if isinstance(ends_at, datetime) else None,
    )


def _known(connection: psycopg.Connection) -> tuple[dict[str, _Seen], dict[str, tuple[object, object]]]:
    """Return what statements say so far, and the day and time of each anchor."""
    known: dict[str, _Seen] = {}
    anchors: dict[str, tuple[object, object]] = {}
    rows = connection.execute(
        """
        select subscription_id, statement, at, plan_id, quantities, status, trial_until, cancel, anchor_day, anchor_time
        from catalog.subscription_statement
        where source = 'stripe'
        order by statement_id
        """
    )
    for subscription_id, statement, at, plan_id, quantities, status, trial_until, cancel, day, time in rows:
        seen = known.get(subscription_id, _Seen())
        if statement == "start":
            anchors[subscription_id] = (day, time)
        if cancel is not None:
            seen = replace(seen, ends_at=at if cancel else None)
        known[subscription_id] = replace(
            seen,
            plan_id=plan_id or seen.plan_id,
            quantities={**seen.quantities, **(quantities or {})},
            is_paused=seen.is_paused if status is None else status == "paused",
            trial_until=trial_until or seen.trial_until,
        )
    return known, anchors


def _start(
    connection: psycopg.Connection, subscription_id: str, account_id: str, at: datetime, anchor: datetime, now: _Seen
) -> None:
    # Stripe counts months in UTC.
    fields = {
        "account_id": account_id,
        "plan_id": now.plan_id,
        "quantities": json.dumps(now.quantities) if now.quantities else None,
        "trial_until": now.trial_until,
        "anchor_day": anchor.day,
        "anchor_time": anchor.time(),
        "anchor_zone": "UTC",
    }
    _write(connection, subscription_id, "start", at, fields)


def _changes(before: _Seen, now: _Seen, seen_at: datetime) -> Iterator[tuple[datetime, Mapping[str, object]]]:
    """Yield (at, fields) of the statements that make `before` what Stripe has now."""
    if now.plan_id != before.plan_id:
        yield seen_at, {"plan_id": now.plan_id}
    # A quantity that Stripe has no more is none.
    quantities = {**dict.fromkeys(before.quantities, 0), **now.quantities}
    changed = {name: count for name, count in quantities.items() if before.quantities.get(name) != count}
    if changed:
        yield seen_at, {"quantities": json.dumps(changed)}
    if now.is_paused != before.is_paused:
        yield seen_at, {"status": "paused" if now.is_paused else "active"}
    if now.trial_until is not None and now.trial_until != before.trial_until:
        yield seen_at, {"trial_until": now.trial_until}
    if now.ends_at != before.ends_at:
        if before.ends_at is not None and (now.ends_at is None or now.ends_at > before.ends_at):
            yield seen_at, {"cancel": False}
        if now.ends_at is not None:
            yield now.ends_at, {"cancel": True}


def _write(
    connection: psycopg.Connection,
    subscription_id: str,
    statement: str,
    at: datetime,
    fields: Mapping[str, object],
) -> None:
    columns = ("source", "subscription_id", "statement", "at", *fields)
    values = ("stripe", subscription_id, statement, at, *fields.values())
    connection.execute(
        f"insert into catalog.subscription_statement ({', '.join(columns)}) "
        f"values ({', '.join(['%s'] * len(columns))})".encode(),
        values,
    )


def _second(instant: datetime) -> datetime:
    return instant.astimezone(UTC).replace(microsecond=0)
