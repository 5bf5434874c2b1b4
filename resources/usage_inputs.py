"""What each event day's usage is made of, read from PostgreSQL by one statement for any number of days.

Not here: reading the lake (usage_scan), deciding what to build (usage_store).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import psycopg

from resources import duck
from resources.usage_facts import Decision, OpenVersion

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


def read_decisions(connection: psycopg.Connection, inputs: Sequence[DayInputs]) -> tuple[Decision, ...]:
    """Return every decision, by anyone, about an identity in conflict on these days or in a delivery that touches them."""
    rows = connection.execute(
        """
        select distinct decision.source, decision.event_id, decision.content_sha256
        from core.request_conflict_decision as decision
        join core.request_conflict as conflict using (source, event_id)
        join core.source_file as file using (file_id)
        where conflict.event_day = any(%s) or file.delivery_day = any(%s)
        """,
        ([day.day for day in inputs], _deliveries_with_conflicts(inputs)),
    ).fetchall()
    return tuple(
        Decision(source=source, event_id=event_id, content_sha256=content_sha256)
        for source, event_id, content_sha256 in rows
    )


def read_open_versions(connection: psycopg.Connection, inputs: Sequence[DayInputs]) -> tuple[OpenVersion, ...]:
    """Return what earlier builds of these days, or of days in the same deliveries, left out as an undecided conflict."""
    rows = connection.execute(
        """
        select conflict.file_id, conflict.line_number, conflict.content_sha256
        from core.request_conflict as conflict
        join core.source_file as file using (file_id)
        left join core.request_conflict_decision as decision
            on decision.source = conflict.source and decision.event_id = conflict.event_id
        where
            decision.source is null
            and (conflict.event_day = any(%s) or file.delivery_day = any(%s))
        """,
        ([day.day for day in inputs], _deliveries_with_conflicts(inputs)),
    ).fetchall()
    return tuple(
        OpenVersion(file_id=file_id, line_number=line_number, content_sha256=content_sha256)
        for file_id, line_number, content_sha256 in rows
    )


def read_counted_files(connection: psycopg.Connection, inputs: Sequence[DayInputs]) -> tuple[tuple[int, date], ...]:
    """Return (file id, event day) where the day's last build counted the file.

    Of the files of these days, and of all files in a delivery with conflicts: one side may lie on another day.
    """
    rows = connection.execute(
        """
        select counted.file_id, counted.partition_key
        from usage.build_file as counted
        join core.source_file as file using (file_id)
        where counted.asset = %s and (counted.file_id = any(%s) or file.delivery_day = any(%s))
        """,
        (ASSET, sorted({file_id for day in inputs for file_id in day.file_ids}), _deliveries_with_conflicts(inputs)),
    ).fetchall()
    return tuple((file_id, day) for file_id, day in rows)


def _deliveries_with_conflicts(inputs: Sequence[DayInputs]) -> list[date]:
    partitions = {one.partition for day in inputs for one in day.generations if one.conflicts}
    return sorted(date.fromisoformat(partition) for partition in partitions)
