"""Remember what the books of each event day rest on, and tell which days' usage or catalog is another by now.

A booking reads what usage is built from before it reads the usage: what changes in between is due again, never left out.
Not here: rating and booking (charge_store), which usage is stale (usage_store).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import psycopg

from resources import guard_store


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageBuilt:
    """What an event day's usage was last built from, as `usage.build` has it."""

    state: str
    inputs_digest: str
    rules_digest: str


def read_usage_built(
    connection: psycopg.Connection, usage_asset: str, days: Sequence[date]
) -> Mapping[date, UsageBuilt]:
    """Return what the usage of `days` is built from; days without a build are absent."""
    rows = connection.execute(
        "select partition_key, state, inputs_digest, rules_digest from usage.build"
        " where asset = %s and partition_key = any(%s)",
        [usage_asset, list(days)],
    ).fetchall()
    return {
        day: UsageBuilt(state=state, inputs_digest=inputs, rules_digest=rules) for day, state, inputs, rules in rows
    }


def record_booked(
    connection: psycopg.Connection, built: Mapping[date, UsageBuilt], *, catalog_sha256: str, held: Collection[date]
) -> None:
    """Write that the days were booked on this usage and catalog, in the booking's transaction.

    Where guards hold some of the days, nothing of the run is booked: these are written as held, and the others not at all,
    so that they are due again by themselves.
    """
    rows = [(day, "held" if held else "booked", one) for day, one in sorted(built.items()) if not held or day in held]
    with connection.cursor() as cursor:
        cursor.executemany(
            """
            insert into billing.booked_day
                (event_day, state, usage_state, inputs_digest, rules_digest, catalog_sha256)
            values (%s, %s, %s, %s, %s, %s)
            on conflict (event_day) do update set
                state = excluded.state,
                usage_state = excluded.usage_state,
                inputs_digest = excluded.inputs_digest,
                rules_digest = excluded.rules_digest,
                catalog_sha256 = excluded.catalog_sha256,
                booked_at = now()
            """,
            [(day, state, one.state, one.inputs_digest, one.rules_digest, catalog_sha256) for day, state, one in rows],
        )


def unbooked_days(
    connection: psycopg.Connection, *, usage_asset: str, charges_asset: str, catalog_sha256: str
) -> tuple[date, ...]:
    """Return the built event days that are not booked as they are built now, with this catalog, ascending.

    A day that a guard of the charges holds is among them once a person has released every guard that holds it.
    """
    rows = connection.execute(
        """
        select
            build.partition_key,
            (booked.usage_state, booked.inputs_digest, booked.rules_digest, booked.catalog_sha256)
            is distinct from (build.state, build.inputs_digest, build.rules_digest, %s) as is_due,
            coalesce(booked.state = 'held', false) as is_held
        from usage.build as build
        left join billing.booked_day as booked on booked.event_day = build.partition_key
        where build.asset = %s
        order by build.partition_key
        """,
        [catalog_sha256, usage_asset],
    ).fetchall()
    held = [day for day, is_due, is_held in rows if is_held and not is_due]
    let_through = _let_through(connection, charges_asset, held)
    return tuple(day for day, is_due, _ in rows if is_due or day in let_through)


def _let_through(connection: psycopg.Connection, asset: str, days: Sequence[date]) -> frozenset[date]:
    if not days:
        return frozenset()
    keys = [day.isoformat() for day in days]
    digests = {one.partition_key: one.inputs_digest for one in guard_store.verdicts(connection, asset, keys)}
    released = guard_store.released_guards(connection, asset, digests)
    holding = guard_store.held_partitions(connection, asset, keys)
    return frozenset(
        day
        for day in days
        if (key := day.isoformat()) in holding and released.get(key, frozenset()).issuperset(holding[key])
    )
