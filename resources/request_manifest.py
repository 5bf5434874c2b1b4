"""The manifest of delivered request logs in PostgreSQL: registering files, and what is known of delivery days.

Statements only, inside the caller's transaction, for all days that are asked for at once. Not here: what is written of
files that were read (request_day_writer), when to read and publish (request_store), usage of days (usage_inputs).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import psycopg

from billing_pipeline.records import LineCounts, Reason
from resources.landing import LandingFile

DATASET = "core/request_records"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileIngest:
    """One delivered file and what became of its lines."""

    file_id: int
    source: str
    key: str
    status: str
    reason: str | None
    detail: str | None
    counts: LineCounts
    rejected_by_reason: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestFile:
    """A row of the manifest that belongs to a delivery day."""

    file_id: int
    source: str
    key: str
    content_sha256: str
    size_bytes: int
    first_seen_at: datetime
    status: str
    reason: str | None
    detail: str | None
    read_with: str | None
    counts: LineCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """The generation that a delivery day points at."""

    generation: str
    inputs_digest: str
    uri: str


def register(
    connection: psycopg.Connection,
    file: LandingFile,
    *,
    source: str,
    content_sha256: str,
    delivery_day: date,
    seen_at: datetime,
    profile_version: int,
) -> str | None:
    """Enter a file into the manifest and return its status; None when this content was known under this key."""
    same = connection.execute(
        "update core.source_file set modified_at = %s where source = %s and key = %s and content_sha256 = %s",
        [file.modified_at, source, file.key, content_sha256],
    )
    if same.rowcount:
        return None
    status, reason, detail = _status_at_the_door(connection, source, file.key, content_sha256)
    connection.execute(
        "insert into core.source_file (source, key, content_sha256, size_bytes, delivery_day, first_seen_at,"
        " modified_at, status, reason, detail, profile_version) values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        [
            source,
            file.key,
            content_sha256,
            file.size_bytes,
            delivery_day,
            seen_at,
            file.modified_at,
            status,
            reason,
            detail,
            profile_version,
        ],
    )
    return status


def _status_at_the_door(
    connection: psycopg.Connection, source: str, key: str, content_sha256: str
) -> tuple[str, str | None, str | None]:
    """Return status, reason and detail with which a file enters the manifest."""
    earlier = connection.execute(
        "select file_id from core.source_file where source = %s and key = %s and status <> 'rejected' order by file_id limit 1",
        [source, key],
    ).fetchone()
    if earlier is not None:
        return (
            "held",
            Reason.SAME_KEY_OTHER_CONTENT,
            f"file {earlier[0]} was delivered under this name with other content",
        )
    twin = connection.execute(
        "select file_id, key from core.source_file where source = %s and content_sha256 = %s"
        " and status in ('accepted', 'pending') order by file_id limit 1",
        [source, content_sha256],
    ).fetchone()
    if twin is not None:
        return "duplicate", None, f"same content as file {twin[0]} ({twin[1]})"
    return "pending", None, None


def files_of(
    connection: psycopg.Connection, days: Sequence[date], sources: list[str]
) -> Mapping[date, tuple[ManifestFile, ...]]:
    """Return the files of each delivery day that a generation is made of, in the order in which they are read."""
    rows = connection.execute(
        "select delivery_day, file_id, source, key, content_sha256, size_bytes, first_seen_at, status, reason, detail,"
        " read_with, lines_read, accepted_rows, rejected_rows, duplicate_rows, out_of_scope_rows from core.source_file"
        " where delivery_day = any(%s) and source = any(%s) and status in ('pending', 'accepted', 'rejected')"
        " order by source, key, file_id",
        [list(days), sources],
    ).fetchall()
    files: dict[date, list[ManifestFile]] = {day: [] for day in days}
    for day, *row in rows:
        files[day].append(
            ManifestFile(
                file_id=row[0],
                source=row[1],
                key=row[2],
                content_sha256=row[3],
                size_bytes=row[4],
                first_seen_at=row[5],
                status=row[6],
                reason=row[7],
                detail=row[8],
                read_with=row[9],
                counts=LineCounts(
                    lines_read=row[10], accepted=row[11], rejected=row[12], duplicate=row[13], out_of_scope=row[14]
                ),
            )
        )
    return {day: tuple(of_day) for day, of_day in files.items()}


def current_generations(connection: psycopg.Connection, days: Sequence[date]) -> Mapping[date, Generation]:
    """Return what the delivery days point at; days before their first generation are absent."""
    rows = connection.execute(
        "select partition_key, generation, inputs_digest, uri from core.lake_partition"
        " join core.lake_generation using (dataset, partition_key, generation)"
        " where dataset = %s and partition_key = any(%s)",
        [DATASET, list(days)],
    ).fetchall()
    return {
        day: Generation(generation=generation, inputs_digest=digest, uri=uri) for day, generation, digest, uri in rows
    }


def event_days(connection: psycopg.Connection, days: Sequence[date]) -> Mapping[date, Mapping[date, int]]:
    """Return delivery day -> event day -> rows, of the current generations."""
    rows = connection.execute(
        "select partition_key, event_day, row_count from core.lake_partition join core.lake_generation_day"
        " using (dataset, partition_key, generation) where dataset = %s and partition_key = any(%s) order by 1, 2",
        [DATASET, list(days)],
    ).fetchall()
    found: dict[date, dict[date, int]] = {day: {} for day in days}
    for day, event_day, row_count in rows:
        found[day][event_day] = row_count
    return found


def outcomes(connection: psycopg.Connection, days: Sequence[date]) -> Mapping[date, tuple[FileIngest, ...]]:
    """Return every file of each delivery day, refused, held and duplicate ones too."""
    rows = connection.execute(
        "select delivery_day, file_id, source, key, status, reason, detail, lines_read, accepted_rows, rejected_rows,"
        " duplicate_rows, out_of_scope_rows, coalesce((select jsonb_object_agg(reason, lines) from (select reason,"
        " count(*) as lines from core.quarantine where quarantine.file_id = source_file.file_id group by reason) as reasons), '{}')"
        " from core.source_file where delivery_day = any(%s) and dataset = %s order by source, key, file_id",
        [list(days), DATASET],
    ).fetchall()
    files: dict[date, list[FileIngest]] = {day: [] for day in days}
    for day, *row in rows:
        files[day].append(
            FileIngest(
                file_id=row[0],
                source=row[1],
                key=row[2],
                status=row[3],
                reason=row[4],
                detail=row[5],
                counts=LineCounts(
                    lines_read=row[6], accepted=row[7], rejected=row[8], duplicate=row[9], out_of_scope=row[10]
                ),
                rejected_by_reason=row[11],
            )
        )
    return {day: tuple(of_day) for day, of_day in files.items()}
