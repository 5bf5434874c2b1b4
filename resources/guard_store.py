"""Verdicts and releases in PostgreSQL (schema `guards`): what is held, why, and who let it through.

Verdicts are written in the transaction that writes the data they are about. A release is for exactly the inputs that a
person looked at; other inputs are judged anew. Not here: judging (checks).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import psycopg

from billing_pipeline.checks import Verdict, VerdictStatus
from billing_pipeline.errors import BillingError
from resources.database import Database


class NothingToReleaseError(BillingError):
    """A release of a guard that does not hold the partition."""


def record(connection: psycopg.Connection, verdicts: Iterable[Verdict], *, run_id: str) -> None:
    """Write verdicts over earlier ones of the same guard and partition, in the caller's transaction."""
    # One statement for many days: it may not touch a row twice, so the last verdict of a guard is the one that is written.
    last = {(verdict.asset, verdict.partition_key, verdict.guard): verdict for verdict in verdicts}.values()
    connection.execute(
        """
        insert into guards.verdict
            (asset, partition_key, guard, status, expected, actual, message, inputs_digest, run_id)
        select judged.*, %s
        from unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[]) as judged
        on conflict (asset, partition_key, guard) do update set
            status = excluded.status,
            expected = excluded.expected,
            actual = excluded.actual,
            message = excluded.message,
            inputs_digest = excluded.inputs_digest,
            run_id = excluded.run_id,
            checked_at = now()
        """,
        [
            run_id,
            [one.asset for one in last],
            [one.partition_key for one in last],
            [one.guard for one in last],
            [str(one.status) for one in last],
            [one.expected for one in last],
            [one.actual for one in last],
            [one.message for one in last],
            [one.inputs_digest for one in last],
        ],
    )


def released_guards(
    connection: psycopg.Connection, asset: str, digests: Mapping[str, str]
) -> Mapping[str, frozenset[str]]:
    """Return the guards that a person has released, per partition. `digests`: partition -> digest of its inputs."""
    rows = connection.execute(
        """
        select release.partition_key, release.guard
        from guards.release
        join unnest(%(keys)s::text[], %(digests)s::text[]) as wanted (partition_key, inputs_digest)
            on release.partition_key = wanted.partition_key and release.inputs_digest = wanted.inputs_digest
        where release.asset = %(asset)s
        """,
        {"asset": asset, "keys": list(digests.keys()), "digests": list(digests.values())},
    ).fetchall()
    guards: dict[str, set[str]] = defaultdict(set)
    for partition_key, guard in rows:
        guards[partition_key].add(guard)
    return {partition_key: frozenset(names) for partition_key, names in guards.items()}


def held_partitions(connection: psycopg.Connection, asset: str, keys: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """Return partition -> names of the guards that hold it, sorted; partitions that nothing holds are absent."""
    rows = connection.execute(
        """
        select partition_key, array_agg(guard order by guard)
        from guards.verdict
        where asset = %s and partition_key = any(%s) and status = 'held'
        group by partition_key
        """,
        (asset, list(keys)),
    ).fetchall()
    return {partition_key: tuple(guards) for partition_key, guards in rows}


def let_through(connection: psycopg.Connection, asset: str, inputs_digests: Mapping[str, str]) -> frozenset[str]:
    """Return those of the held partitions whose every holding guard a person has released for these inputs.

    `inputs_digests`: partition -> digest of what the build that is held was made of. They are due again.
    """
    if not inputs_digests:
        return frozenset()
    released = released_guards(connection, asset, inputs_digests)
    holding = held_partitions(connection, asset, list(inputs_digests))
    return frozenset(key for key, guards in holding.items() if released.get(key, frozenset()).issuperset(guards))


def verdicts(connection: psycopg.Connection, asset: str, keys: Sequence[str]) -> tuple[Verdict, ...]:
    """Return every verdict of the partitions, by partition and guard."""
    rows = connection.execute(
        """
        select partition_key, guard, status, expected, actual, message, inputs_digest
        from guards.verdict
        where asset = %s and partition_key = any(%s)
        order by partition_key, guard
        """,
        (asset, list(keys)),
    ).fetchall()
    return tuple(
        Verdict(
            asset=asset,
            partition_key=partition_key,
            guard=guard,
            status=VerdictStatus(status),
            expected=expected,
            actual=actual,
            message=message,
            inputs_digest=inputs_digest,
        )
        for partition_key, guard, status, expected, actual, message, inputs_digest in rows
    )


def release(database: Database, *, asset: str, partition_key: str, guard: str, actor: str, reason: str) -> None:
    """Let a held partition through for the inputs that were judged; its next build passes as `released`.

    Raises:
        NothingToReleaseError: the guard does not hold the partition, or actor or reason is empty.
    """
    if not actor.strip() or not reason.strip():
        raise _nothing_to_release(asset, partition_key, guard, "a release names who decided it and why")
    with database.transaction(f"{asset}|{partition_key}") as connection:
        row = connection.execute(
            "select status, inputs_digest from guards.verdict where asset = %s and partition_key = %s and guard = %s",
            (asset, partition_key, guard),
        ).fetchone()
        if row is None:
            raise _nothing_to_release(asset, partition_key, guard, "there is no such verdict")
        status, inputs_digest = row
        if status != VerdictStatus.HELD:
            raise _nothing_to_release(asset, partition_key, guard, f"its verdict is {status!r}")
        connection.execute(
            """
            insert into guards.release (asset, partition_key, guard, inputs_digest, actor, reason)
            values (%s, %s, %s, %s, %s, %s)
            on conflict (asset, partition_key, guard, inputs_digest) do nothing
            """,
            (asset, partition_key, guard, inputs_digest, actor, reason),
        )


def _nothing_to_release(asset: str, partition_key: str, guard: str, problem: str) -> NothingToReleaseError:
    return NothingToReleaseError(
        f"{guard} of {asset} {partition_key} was not released: {problem}.",
        bill="Nothing changed; what is held stays held.",
        fix="List the verdicts with `billing status` and release one that is held, with your name and a reason.",
    )
