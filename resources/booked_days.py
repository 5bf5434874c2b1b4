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


# The usage of one kind on one event day: (usage asset, day).
UsageDay = tuple[str, date]


def read_usage_built(
    connection: psycopg.Connection, usage_assets: Sequence[str], days: Sequence[date]
) -> Mapping[UsageDay, UsageBuilt]:
    """Return what each kind of usage of `days` is built from; what has no build is absent."""
    rows = connection.execute(
        "select asset, partition_key, state, inputs_digest, rules_digest from usage.build"
        " where asset = any(%s) and partition_key = any(%s)",
        [list(usage_assets), list(days)],
    ).fetchall()
    return {
        (asset, day): UsageBuilt(state=state, inputs_digest=inputs, rules_digest=rules)
        for asset, day, state, inputs, rules in rows
    }


def record_booked(
    connection: psycopg.Connection,
    built: Mapping[UsageDay, UsageBuilt],
    *,
    catalog_sha256: str,
    code_version: str,
    held: Collection[date],
) -> None:
    """Write that the days were booked on this usage and catalog by this code, in the booking's transaction.

    Where guards hold some of the days, nothing of the run is booked: these are written as held, and the others not at all,
    so that they are due again by themselves.
    """
    rows = [
        (day, asset, "held" if held else "booked", one)
        for (asset, day), one in sorted(built.items(), key=lambda item: item[0])
        if not held or day in held
    ]
    with connection.cursor() as cursor:
        cursor.executemany(
            """
            insert into billing.booked_day
                (event_day, usage_asset, state, usage_state, inputs_digest, rules_digest, catalog_sha256, code_version)
            values (%s, %s, %s, %s, %s, %s, %s, %s)
            on conflict (event_day, usage_asset) do update set
                state = excluded.state,
                usage_state = excluded.usage_state,
                inputs_digest = excluded.inputs_digest,
                rules_digest = excluded.rules_digest,
                catalog_sha256 = excluded.catalog_sha256,
                code_version = excluded.code_version,
                booked_at = now()
            """,
            [
                (day, asset, state, one.state, one.inputs_digest, one.rules_digest, catalog_sha256, code_version)
                for day, asset, state, one in rows
            ],
        )


def unbooked_days(
    connection: psycopg.Connection, *, usage_assets: Sequence[str], charges_asset: str, catalog_sha256: str
) -> tuple[date, ...]:
    """Return the built event days that are not booked as they are built now, with this catalog, ascending.

    A day that a guard of the charges holds is among them once a person has released every guard that holds it.
    """
    rows = connection.execute(
        """
        select
            build.partition_key,
            bool_or(
                (booked.usage_state, booked.inputs_digest, booked.rules_digest, booked.catalog_sha256)
                is distinct from (build.state, build.inputs_digest, build.rules_digest, %s)
            ) as is_due,
            bool_or(coalesce(booked.state = 'held', false)) as is_held
        from usage.build as build
        left join billing.booked_day as booked
            on booked.event_day = build.partition_key and booked.usage_asset = build.asset
        where build.asset = any(%s)
        group by build.partition_key
        order by build.partition_key
        """,
        [catalog_sha256, list(usage_assets)],
    ).fetchall()
    held = [day for day, is_due, is_held in rows if is_held and not is_due]
    let_through = _let_through(connection, charges_asset, held)
    return tuple(day for day, is_due, _ in rows if is_due or day in let_through)


def _let_through(connection: psycopg.Connection, asset: str, days: Sequence[date]) -> frozenset[date]:
    if not days:
        return frozenset()
    keys = [day.isoformat() for day in days]
    digests = {one.partition_key: one.inputs_digest for one in guard_store.verdicts(connection, asset, keys)}
    released = guard_store.let_through(connection, asset, digests)
    return frozenset(day for day in days if day.isoformat() in released)
