"""What each event day's usage is made of, read from PostgreSQL by one statement for any number of days.

Not here: reading the lake (usage_scan), deciding what to build (usage_store).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import psycopg

from resources import duck
from resources.usage_facts import Decision

ASSET = "usage/api_requests"
DATASET = "core/request_records"
OWN_ACTOR = "billing_pipeline"


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A current lake generation that holds rows of the day. `conflicts`: conflicting identities in all of its file."""

    partition: str
    generation: str
    uri: str
    rows: int
    conflicts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DayInputs:
    """The inputs of an event day and what it was last built from; `built_*` None: never built."""

    day: date
    inputs_digest: str
    file_rows: int
    file_ids: tuple[int, ...]
    lake_rows: int
    generations: tuple[Generation, ...]
    counted_file_ids: tuple[int, ...]
    built_inputs_digest: str | None
    built_rules_digest: str | None
    is_held: bool


def read_inputs(connection: psycopg.Connection, days: Sequence[date] | None) -> tuple[DayInputs, ...]:
    """Return the inputs of `days`, by day; None: of every day that has accepted files or was built."""
    rows = connection.execute(
        duck.sql("usage_inputs").encode(),
        {"days": None if days is None else list(days), "asset": ASSET, "dataset": DATASET, "own_actor": OWN_ACTOR},
    ).fetchall()
    return tuple(
        DayInputs(
            day=day,
            inputs_digest=inputs_digest,
            file_rows=file_rows,
            file_ids=tuple(file_ids),
            lake_rows=lake_rows,
            generations=tuple(Generation(**generation) for generation in generations),
            counted_file_ids=tuple(counted_file_ids),
            built_inputs_digest=built_inputs_digest,
            built_rules_digest=built_rules_digest,
            is_held=is_held,
        )
        for (
            day,
            inputs_digest,
            file_rows,
            file_ids,
            lake_rows,
            generations,
            counted_file_ids,
            built_inputs_digest,
            built_rules_digest,
            is_held,
        ) in rows
    )


def read_decisions(connection: psycopg.Connection, days: Sequence[date]) -> tuple[Decision, ...]:
    """Return every decision about an identity that is in conflict, by anyone, of `days` or of a file that touches them."""
    rows = connection.execute(
        """
        select distinct decision.source, decision.event_id, decision.content_sha256
        from core.request_conflict_decision as decision
        join core.request_conflict as conflict using (source, event_id)
        where conflict.event_day = any(%s)
        """,
        (list(days),),
    ).fetchall()
    return tuple(
        Decision(source=source, event_id=event_id, content_sha256=content_sha256)
        for source, event_id, content_sha256 in rows
    )


def read_counted_files(connection: psycopg.Connection, file_ids: Sequence[int]) -> tuple[tuple[int, date], ...]:
    """Return (file id, event day) where the day's last build counted the file, for `file_ids`."""
    rows = connection.execute(
        "select file_id, partition_key from usage.build_file where asset = %s and file_id = any(%s)",
        (ASSET, list(file_ids)),
    ).fetchall()
    return tuple((file_id, day) for file_id, day in rows)
