"""What PostgreSQL knows of snapshots and their samples: core.traffic_snapshot, _refusal, _conflict, _day. Statements only.

Every function works inside the caller's transaction, which holds the lock of the day. Not here: windows and progress
(traffic_windows), files (delivery_manifest), the samples themselves (traffic_samples).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import psycopg
import pyarrow as pa
from psycopg.rows import class_row

from billing_pipeline.sources.traffic_snapshots import SnapshotRejection
from billing_pipeline.traffic_sample_checks import SampleCounts
from resources.database import copy_arrow
from resources.traffic_samples import ConflictVersion, DraftSnapshot, SnapshotKey

_UTC_INSTANT = pa.timestamp("us", tz="UTC")
_SNAPSHOT = pa.schema(
    [
        ("env", pa.string()),
        ("node", pa.string()),
        ("collected_at", _UTC_INSTANT),
        ("content_sha256", pa.string()),
        ("source", pa.string()),
        ("sample_count", pa.int32()),
        ("rejected_count", pa.int32()),
        ("uptime_seconds", pa.int64()),
        ("xray_version", pa.string()),
        ("file_id", pa.int64()),
        ("received_at", _UTC_INSTANT),
    ]
)
_CONFLICT = pa.schema(
    [
        ("env", pa.string()),
        ("node", pa.string()),
        ("account_uuid", pa.string()),
        ("inbound_tag", pa.string()),
        ("collected_at", _UTC_INSTANT),
        ("uplink_bytes", pa.int64()),
        ("downlink_bytes", pa.int64()),
        ("event_day", pa.date32()),
        ("source", pa.string()),
        ("file_id", pa.int64()),
        ("line_number", pa.int64()),
        ("found_at", _UTC_INSTANT),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A refused reading of a source's answer. `collected_at` None: the whole snapshot was refused (`position` 0)."""

    source: str
    event_day: date
    collected_at: datetime | None
    position: int
    reason: str
    field: str | None


def known_snapshots(connection: psycopg.Connection, snapshots: Collection[DraftSnapshot]) -> frozenset[SnapshotKey]:
    """Return the keys of those that were taken before."""
    rows = connection.execute(
        """
        select known.env, known.node, known.collected_at, known.content_sha256
        from core.traffic_snapshot as known
        join unnest(%s::text[], %s::text[], %s::timestamptz[], %s::text[])
            as wanted (env, node, collected_at, content_sha256)
            using (env, node, collected_at, content_sha256)
        """,
        [
            [one.env for one in snapshots],
            [one.node for one in snapshots],
            [one.collected_at for one in snapshots],
            [one.content_sha256 for one in snapshots],
        ],
    ).fetchall()
    return frozenset((env, node, collected_at.astimezone(UTC), sha) for env, node, collected_at, sha in rows)


def write_snapshots(
    connection: psycopg.Connection, snapshots: Sequence[DraftSnapshot], *, received_at: datetime
) -> None:
    """Insert snapshots that are not known, and the refused samples of those that were pulled."""
    rows = [
        {
            "env": one.env,
            "node": one.node,
            "collected_at": one.collected_at,
            "content_sha256": one.content_sha256,
            "source": one.source,
            "sample_count": one.sample_count,
            "rejected_count": len(one.rejected),
            "uptime_seconds": one.uptime_seconds,
            "xray_version": one.xray_version,
            "file_id": one.file_id,
            "received_at": received_at,
        }
        for one in snapshots
    ]
    if rows:
        copy_arrow(connection, "core.traffic_snapshot", [pa.RecordBatch.from_pylist(rows, schema=_SNAPSHOT)])
    write_refusals(
        connection,
        [
            Refusal(
                source=one.source,
                event_day=one.day,
                collected_at=one.collected_at,
                position=rejection.position,
                reason=rejection.reason,
                field=rejection.field,
            )
            for one in snapshots
            if one.file_id is None
            for rejection in one.rejected
        ],
        found_at=received_at,
    )


def refused_snapshot(source: str, rejection: SnapshotRejection, *, found_at: datetime) -> Refusal:
    """Return the refusal of a whole snapshot: its own instant is not to be trusted, so it is of the day it was read on."""
    return Refusal(
        source=source,
        event_day=found_at.date(),
        collected_at=None,
        position=0,
        reason=rejection.reason,
        field=rejection.field,
    )


def write_refusals(connection: psycopg.Connection, refusals: Sequence[Refusal], *, found_at: datetime) -> None:
    """Insert refusals; one that stands there already is the same reading, read again."""
    if not refusals:
        return
    with connection.cursor() as cursor:
        cursor.executemany(
            """
            insert into core.traffic_refusal (source, event_day, collected_at, position, reason, field, found_at)
            values (%s, %s, %s, %s, %s, %s, %s)
            on conflict do nothing
            """,
            [
                (one.source, one.event_day, one.collected_at, one.position, one.reason, one.field, found_at)
                for one in refusals
            ],
        )


def conflicts_of(connection: psycopg.Connection, day: date) -> tuple[ConflictVersion, ...]:
    """Return every version of every conflicting sample of the day."""
    with connection.cursor(row_factory=class_row(ConflictVersion)) as cursor:
        return tuple(
            cursor.execute(
                """
                select env, node, account_uuid, inbound_tag, collected_at, uplink_bytes, downlink_bytes, source, file_id,
                    line_number
                from core.traffic_conflict
                where event_day = %s
                order by env, node, account_uuid, inbound_tag, collected_at, uplink_bytes, downlink_bytes
                """,
                [day],
            ).fetchall()
        )


def write_conflicts(
    connection: psycopg.Connection, day: date, conflicts: Sequence[ConflictVersion], *, found_at: datetime
) -> None:
    """Insert versions that are new."""
    if conflicts:
        rows = [
            {name: getattr(one, name, None) for name in _CONFLICT.names} | {"event_day": day, "found_at": found_at}
            for one in conflicts
        ]
        copy_arrow(connection, "core.traffic_conflict", [pa.RecordBatch.from_pylist(rows, schema=_CONFLICT)])


def day_counts(connection: psycopg.Connection, day: date) -> SampleCounts:
    """Return what became of the samples of a day; zeros before the first."""
    row = connection.execute(
        """
        select samples_read, kept_samples, duplicate_samples, conflict_samples, rejected_samples
        from core.traffic_day
        where event_day = %s
        """,
        [day],
    ).fetchone()
    if row is None:
        return SampleCounts()
    return SampleCounts(read=row[0], kept=row[1], duplicate=row[2], conflict=row[3], rejected=row[4])


def write_day(connection: psycopg.Connection, day: date, counts: SampleCounts, *, updated_at: datetime) -> None:
    """Replace what became of the samples of a day."""
    connection.execute(
        """
        insert into core.traffic_day
            (event_day, samples_read, kept_samples, duplicate_samples, conflict_samples, rejected_samples, updated_at)
        values (%s, %s, %s, %s, %s, %s, %s)
        on conflict (event_day) do update set
            samples_read = excluded.samples_read,
            kept_samples = excluded.kept_samples,
            duplicate_samples = excluded.duplicate_samples,
            conflict_samples = excluded.conflict_samples,
            rejected_samples = excluded.rejected_samples,
            updated_at = excluded.updated_at
        """,
        [day, counts.read, counts.kept, counts.duplicate, counts.conflict, counts.rejected, updated_at],
    )


def samples_in_snapshots(connection: psycopg.Connection, day: date) -> int:
    """Return the samples, refused ones too, of all snapshots of a day."""
    start = datetime.combine(day, time(), UTC)
    row = connection.execute(
        """
        select coalesce(sum(sample_count + rejected_count), 0)
        from core.traffic_snapshot
        where collected_at >= %s and collected_at < %s
        """,
        [start, start + timedelta(days=1)],
    ).fetchone()
    return int(row[0]) if row else 0


def instants_of(
    connection: psycopg.Connection, *, env: str, node: str, start: datetime, end: datetime
) -> tuple[tuple[datetime, int], ...]:
    """Return the instants of a node's snapshots in `[start, end)`, ascending, each with its samples."""
    rows = connection.execute(
        """
        select collected_at, max(sample_count)
        from core.traffic_snapshot
        where env = %s and node = %s and collected_at >= %s and collected_at < %s
        group by collected_at
        order by collected_at
        """,
        [env, node, start, end],
    ).fetchall()
    return tuple((collected_at.astimezone(UTC), samples) for collected_at, samples in rows)
