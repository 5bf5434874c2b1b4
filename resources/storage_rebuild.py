"""The counts of a day of which some repositories were built anew: what the others have stays, and is not looked at again.

What is added up over repositories is the day's, less what these had, and what they have; lists of the worst are put together of
these and of what PostgreSQL has of the others. So a day's verdicts are those of a whole build. Statements in the caller's
transaction. Not here: which repositories (storage_touched), writing (storage_builder).
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pyarrow as pa
from psycopg import sql
from psycopg.rows import class_row

from billing_pipeline.timelines import MICROSECOND, in_byte_seconds
from resources.storage_facts import LISTED, DriftFailure, StorageFacts
from resources.storage_scan import AccountUsage, StorageScan
from resources.storage_touched import Touched

_STATES = pa.schema(
    [("account_id", pa.string()), ("segment_start", pa.timestamp("us")), ("segment_end", pa.timestamp("us")),
     ("bytes", pa.int64()), ("visibility", pa.string())]
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuiltDay:
    """What became of some repositories, and of the day with them. `accounts`: all that pay for them, or did."""

    facts: StorageFacts
    accounts: frozenset[str]
    usage: AccountUsage


def rebuilt_day(
    connection: psycopg.Connection,
    scan: StorageScan,
    touched: Touched,
    *,
    before: StorageFacts,
    after: StorageFacts,
    drift_millionths: int,
    tail: Path,
) -> RebuiltDay:
    """Return the day's facts and the usage of the accounts that are concerned.

    `before`, `after`: facts of the touched repositories alone. `tail`: what the day left before.
    """
    day, repositories = after.day, sorted(touched.repositories)
    states = [row for batch in scan.rows("states", [day]) for row in batch.to_pylist()]
    paid_before = connection.execute(
        "select distinct account_id from usage.storage_state"
        " where event_day = %s and repository = any(%s) and account_id is not null",
        [day, repositories],
    ).fetchall()
    accounts = frozenset(row["account_id"] for row in states if row["account_id"] is not None)
    accounts |= frozenset(account_id for (account_id,) in paid_before)
    usage = scan.usage_of(day, accounts, _others_states(connection, day, accounts, repositories))
    known = touched.made_of.facts
    counts = {name: int(known[name]) - getattr(before, name) + value for name, value in after.counts.items()}
    # hours are of accounts: what they miss of their states would be seen here, and nowhere else
    counts["of_hours"] += usage.of_hours - usage.of_states
    counts["private_of_hours"] += sum(usage.private.values()) - usage.private_of_states
    counts["usage_rows"] = (
        int(known["usage_rows"])
        - connection.execute(
            "select count(*) from usage.storage where event_day = %s and account_id = any(%s)", [day, sorted(accounts)]
        ).fetchall()[0][0]
        + sum(batch.num_rows for batch in usage.rows)
    )
    others = _Others(connection, day, repositories, drift_millionths)
    facts = replace(
        after,
        **counts,
        drifts=others.failures(_DRIFTS, after.drifts, counts["drift_failures"] - after.drift_failures),
        mismatches=others.failures(
            _MISMATCHES, after.mismatches, counts["mismatch_failures"] - after.mismatch_failures
        ),
        carried_too_far=tuple(
            sorted((*scan.carried_too_far(tail), *after.carried_too_far), key=lambda one: one.repository)[:LISTED]
        )
        if counts["repositories_carried_too_far"]
        else (),
        beyond_int64=_beyond(known["beyond_int64"], touched.repositories, after),
        unknown_owners=others.unknown_owners(states, counts["private_of_nobody"]),
        top_accounts=others.top_accounts(usage.private, accounts),
    )
    return RebuiltDay(facts=facts, accounts=accounts, usage=usage)


_DRIFTS = """
    unsized_events = 0 and abs(snapshot_bytes::numeric - derived_bytes) * 1000000
        > greatest(snapshot_bytes, derived_bytes)::numeric * %(drift_millionths)s
"""
_MISMATCHES = "visibility_mismatch"


@dataclass(frozen=True, slots=True)
class _Others:
    """What PostgreSQL has of the day's repositories that were not built anew."""

    connection: psycopg.Connection
    day: date
    repositories: Sequence[str]
    drift_millionths: int

    def failures(self, condition: LiteralString, new: Sequence[DriftFailure], count: int) -> tuple[DriftFailure, ...]:
        """Return the worst snapshots of which `condition` holds, `new` among them. `count`: of the others."""
        found: list[DriftFailure] = []
        if count:
            found = (
                self.connection.cursor(row_factory=class_row(DriftFailure))
                .execute(
                    sql.SQL(
                        """
                        select repository, snapshot_at, derived_bytes, snapshot_bytes, drift_bytes, derived_visibility,
                            snapshot_visibility
                        from usage.storage_drift
                        where event_day = %(day)s and not repository = any(%(repositories)s) and {condition}
                        order by abs(drift_bytes) desc, repository collate "C", snapshot_at
                        limit %(limit)s
                        """
                    ).format(condition=sql.SQL(condition)),
                    self._parameters(),
                )
                .fetchall()
            )
        worst = sorted((*found, *new), key=lambda one: (-abs(one.drift_bytes), one.repository, one.snapshot_at))
        return tuple(worst[:LISTED])

    def unknown_owners(self, states: Sequence[Mapping[str, Any]], held: int) -> tuple[tuple[str, int], ...]:
        """Return (owner, private bytes x microseconds) of those that nobody pays for, the greatest first. `held`: of all."""
        if not held:
            return ()
        rows = self.connection.execute(
            """
            select coalesce(owner, '') as owner, sum(byte_seconds * 1000000) as held
            from usage.storage_state
            where
                event_day = %(day)s and not repository = any(%(repositories)s)
                and account_id is null and visibility = 'private' and bytes > 0
            group by 1
            """,
            self._parameters(),
        ).fetchall()
        owners: Counter[str] = Counter({owner: int(size) for owner, size in rows})
        for row in states:
            if row["account_id"] is None and row["visibility"] == "private" and row["bytes"] > 0:
                owners[row["owner"] or ""] += row["bytes"] * (
                    (row["segment_end"] - row["segment_start"]) // MICROSECOND
                )
        return tuple(sorted(owners.items(), key=lambda one: (-one[1], one[0]))[:LISTED])

    def top_accounts(self, private: Mapping[str, int], accounts: Collection[str]) -> tuple[tuple[str, Decimal], ...]:
        """Return (account, private byte-seconds), the greatest first. `private`: bytes x microseconds of `accounts`."""
        rows = self.connection.execute(
            """
            select account_id, sum(byte_seconds) as held
            from usage.storage_state
            where
                event_day = %(day)s and account_id is not null and not account_id = any(%(accounts)s)
                and visibility = 'private' and bytes > 0
            group by account_id
            order by held desc, account_id collate "C"
            limit %(limit)s
            """,
            self._parameters() | {"accounts": sorted(accounts)},
        ).fetchall()
        mine = [(account_id, in_byte_seconds(held)) for account_id, held in private.items() if held]
        return tuple(sorted((*rows, *mine), key=lambda one: (-one[1], one[0]))[:LISTED])

    def _parameters(self) -> dict[str, object]:
        return {
            "day": self.day,
            "repositories": list(self.repositories),
            "drift_millionths": self.drift_millionths,
            "limit": LISTED,
        }


def _others_states(
    connection: psycopg.Connection, day: date, accounts: Collection[str], repositories: Sequence[str]
) -> pa.Table:
    rows = connection.execute(
        """
        select account_id, segment_start at time zone 'UTC', segment_end at time zone 'UTC', bytes, visibility
        from usage.storage_state
        where event_day = %s and account_id = any(%s) and not repository = any(%s) and bytes > 0
        """,
        [day, sorted(accounts), list(repositories)],
    ).fetchall()
    columns = list(zip(*rows, strict=True)) or [()] * len(_STATES.names)
    return pa.Table.from_arrays(
        [pa.array(values, kind) for values, kind in zip(columns, _STATES.types, strict=True)], schema=_STATES
    )


def _beyond(
    known: Sequence[Sequence[Any]], repositories: Collection[str], after: StorageFacts
) -> tuple[tuple[str, str, int], ...]:
    kept = [(name, event_id, int(size)) for name, event_id, size in known if name not in repositories]
    return tuple(sorted((*kept, *after.beyond_int64), key=lambda one: (-one[2], one[0]))[:LISTED])
