"""The manifest of delivered request logs in PostgreSQL: core.source_file and what hangs on it. Statements only.

Each function works inside the caller's transaction. Not here: when to read and publish (request_store), usage of days
(usage_inputs).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime

import psycopg
import pyarrow as pa

from billing_pipeline.records import LineCounts, Reason
from resources.database import copy_arrow
from resources.inflate import FileRejected
from resources.landing import LandingFile
from resources.request_reader import FileOutcome
from resources.request_sink import Written

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

    inputs_digest: str
    uri: str


@dataclass(slots=True, kw_only=True)
class FileResult:
    """What reading found out about a file: its outcome, or why it was refused."""

    outcome: FileOutcome
    refusal: FileRejected | None = None
    # Counts of a file whose rows were taken over from the generation before; its quarantine rows stand.
    taken_over: LineCounts | None = None

    @property
    def counts(self) -> LineCounts:
        """Return the counts before deduplication."""
        return self.outcome.counts if self.taken_over is None else self.taken_over


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


def files_of(connection: psycopg.Connection, day: date, sources: list[str]) -> list[ManifestFile]:
    """Return the files of a delivery day that a generation is made of, in the order in which they are read."""
    rows = connection.execute(
        "select file_id, source, key, content_sha256, size_bytes, first_seen_at, status, reason, detail,"
        " read_with, lines_read, accepted_rows, rejected_rows, duplicate_rows, out_of_scope_rows from core.source_file"
        " where delivery_day = %s and source = any(%s) and status in ('pending', 'accepted', 'rejected')"
        " order by source, key, file_id",
        [day, sources],
    ).fetchall()
    return [
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
        for row in rows
    ]


def current_generation(connection: psycopg.Connection, day: date) -> Generation | None:
    """Return what the delivery day points at; None before the first."""
    row = connection.execute(
        "select inputs_digest, uri from core.lake_partition"
        " join core.lake_generation using (dataset, partition_key, generation)"
        " where dataset = %s and partition_key = %s",
        [DATASET, day],
    ).fetchone()
    return None if row is None else Generation(inputs_digest=row[0], uri=row[1])


def write_generation(
    connection: psycopg.Connection,
    day: date,
    generation: str,
    uri: str,
    file_sha256: str,
    size_bytes: int,
    written: Written,
    *,
    digest: str,
    run_id: str,
    code_version: str,
) -> None:
    """Insert the generation and its event days, and point the delivery day at it."""
    connection.execute(
        "insert into core.lake_generation (dataset, partition_key, generation, uri, file_sha256, size_bytes, row_count,"
        " conflicting_identities, inputs_digest, code_version, run_id)"
        " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        [
            DATASET,
            day,
            generation,
            uri,
            file_sha256,
            size_bytes,
            written.rows,
            written.conflicting_identities,
            digest,
            code_version,
            run_id,
        ],
    )
    with connection.cursor() as cursor:
        cursor.executemany(
            "insert into core.lake_generation_day (dataset, partition_key, generation, event_day, row_count)"
            " values (%s, %s, %s, %s, %s)",
            [(DATASET, day, generation, event_day, rows) for event_day, rows in written.event_days.items()],
        )
    connection.execute(
        "insert into core.lake_partition (dataset, partition_key, generation) values (%s, %s, %s)"
        " on conflict (dataset, partition_key) do update set generation = excluded.generation, updated_at = now()",
        [DATASET, day, generation],
    )


def write_file(
    connection: psycopg.Connection,
    file: ManifestFile,
    result: FileResult,
    written: Written,
    kept_rows: int,
    *,
    profile_version: int,
    read_with: str,
) -> LineCounts:
    """Write what became of a file: counts, event days, quarantine. Returns its counts after deduplication."""
    days = [entry for entry in written.file_days if entry.file_id == file.file_id]
    counts = result.counts
    counts = replace(counts, accepted=kept_rows, duplicate=counts.accepted - kept_rows)
    refusal = result.refusal
    connection.execute(
        "update core.source_file set status = %s, reason = %s, detail = %s, profile_version = %s, lines_read = %s,"
        " accepted_rows = %s, rejected_rows = %s, duplicate_rows = %s, out_of_scope_rows = %s, first_event_at = %s,"
        " last_event_at = %s, read_with = %s, read_at = now() where file_id = %s",
        [
            "accepted" if refusal is None else "rejected",
            *_reason_and_detail(file, result),
            profile_version,
            counts.lines_read,
            counts.accepted,
            counts.rejected,
            counts.duplicate,
            counts.out_of_scope,
            _utc(min((entry.first_event_at for entry in days), default=None)),
            _utc(max((entry.last_event_at for entry in days), default=None)),
            read_with,
            file.file_id,
        ],
    )
    connection.execute("delete from core.source_file_day where file_id = %s", [file.file_id])
    with connection.cursor() as cursor:
        cursor.executemany(
            "insert into core.source_file_day (file_id, event_day, accepted_rows) values (%s, %s, %s)",
            [(file.file_id, entry.event_day, entry.rows) for entry in days],
        )
    if result.taken_over is not None:
        return counts
    connection.execute("delete from core.quarantine where file_id = %s", [file.file_id])
    rejections = result.outcome.rejections
    if rejections:
        batch = pa.record_batch(
            {
                "file_id": pa.array([file.file_id] * len(rejections), pa.int64()),
                "line_number": pa.array([rejection.line_number for rejection in rejections], pa.int64()),
                "reason": pa.array([str(rejection.reason) for rejection in rejections]),
                "field": pa.array([rejection.field for rejection in rejections], pa.string()),
                "line_sha256": pa.array([rejection.line_sha256 for rejection in rejections], pa.string()),
            }
        )
        copy_arrow(connection, "core.quarantine", [batch])
    return counts


def _reason_and_detail(file: ManifestFile, result: FileResult) -> tuple[str | None, str | None]:
    """Return why the file was refused, or what a person should know of it although it was taken."""
    if result.refusal is not None:
        return result.refusal.reason, result.refusal.detail
    if result.taken_over is not None:
        return file.reason, file.detail
    was_held = file.reason == Reason.SAME_KEY_OTHER_CONTENT
    remarks = [file.detail] if was_held and file.detail else []
    if result.outcome.leap_seconds:
        remarks.append(f"leap_second: {result.outcome.leap_seconds} lines, kept as the second after it")
    return file.reason if was_held else None, "; ".join(remarks) or None


def write_duplicates(connection: psycopg.Connection, day: date) -> None:
    """Count every line of a file that repeats the content of an accepted one as a duplicate.

    Where the file that it repeats could not be read, because it was gone or overwritten, the first copy is read in its place.
    """
    connection.execute(
        "update core.source_file as copy set lines_read = original.lines_read, duplicate_rows = original.lines_read,"
        " read_at = now() from core.source_file as original"
        " where copy.status = 'duplicate' and original.status = 'accepted' and original.source = copy.source"
        " and original.content_sha256 = copy.content_sha256 and (copy.delivery_day = %s or original.delivery_day = %s)",
        [day, day],
    )
    connection.execute(
        "update core.source_file set status = 'pending', detail = null where file_id in"
        " (select min(copy.file_id) from core.source_file as copy join core.source_file as original"
        " using (source, content_sha256) where original.delivery_day = %s and original.status = 'rejected'"
        " and original.reason = %s and copy.status = 'duplicate' and not exists (select 1 from core.source_file as read"
        " where read.source = copy.source and read.content_sha256 = copy.content_sha256"
        " and read.status in ('accepted', 'pending')) group by copy.source, copy.content_sha256)",
        [day, Reason.UNREADABLE],
    )


def _utc(instant: datetime | None) -> str | None:
    # DuckDB gives instants without a zone, and they are UTC.
    return None if instant is None else f"{instant.isoformat()}+00"


def outcomes(connection: psycopg.Connection, day: date) -> tuple[FileIngest, ...]:
    """Return every file of a delivery day, refused, held and duplicate ones too."""
    rows = connection.execute(
        "select file_id, source, key, status, reason, detail, lines_read, accepted_rows, rejected_rows, duplicate_rows,"
        " out_of_scope_rows, coalesce((select jsonb_object_agg(reason, lines) from (select reason, count(*) as lines"
        " from core.quarantine where quarantine.file_id = source_file.file_id group by reason) as reasons), '{}')"
        " from core.source_file where delivery_day = %s order by source, key, file_id",
        [day],
    ).fetchall()
    return tuple(
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
        for row in rows
    )
