"""Publish delivery days that were read: lake files, pointers, counts, quarantine, verdicts. All days at once.

Everything happens in the caller's transaction, under the locks of the days. Not here: reading (request_day_reader), when to
publish (request_store).
"""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime

import psycopg
import pyarrow as pa

from billing_pipeline.checks import Subject, Verdict, files_taken, lines_conserved, rows_published
from billing_pipeline.records import LineCounts, Reason
from resources import guard_store, request_manifest
from resources.database import copy_arrow
from resources.lake import LakeDraft, LakeFile
from resources.request_day_reader import DayRead, FileResult
from resources.request_days import RequestDay, RequestDays
from resources.request_manifest import DATASET, ManifestFile


@dataclass(frozen=True, slots=True, kw_only=True)
class _FileRow:
    """What is written of a file that was read. `counts` after deduplication."""

    file: ManifestFile
    result: FileResult
    counts: LineCounts
    first_event_at: datetime | None
    last_event_at: datetime | None
    event_days: Mapping[date, int]

    @property
    def reason_and_detail(self) -> tuple[str | None, str | None]:
        """Return why the file was refused, or what a person should know of it although it was taken."""
        file, result = self.file, self.result
        if result.refusal is not None:
            return result.refusal.reason, result.refusal.detail
        if result.taken_over is not None:
            return file.reason, file.detail
        was_held = file.reason == Reason.SAME_KEY_OTHER_CONTENT
        remarks = [file.detail] if was_held and file.detail else []
        if result.outcome.leap_seconds:
            remarks.append(f"leap_second: {result.outcome.leap_seconds} lines, kept as the second after it")
        return file.reason if was_held else None, "; ".join(remarks) or None


@dataclass(frozen=True, slots=True)
class RequestDayWriter:
    """Writes what delivery days have become, in one go for all of them."""

    request_days: RequestDays

    def publish(
        self, connection: psycopg.Connection, reads: Sequence[DayRead], *, run_id: str, code_version: str
    ) -> frozenset[date]:
        """Publish a generation of each day and point at it. Returns delivery days of which a file has to be read now."""
        generations = [f"{read.delivery.inputs_digest[:16]}-{secrets.token_hex(6)}" for read in reads]
        published = self._publish_drafts(reads, generations)
        write_generations(connection, reads, generations, published, run_id=run_id, code_version=code_version)
        rows = {read.delivery.day: _file_rows(read) for read in reads}
        self._write_files(connection, [row for of_day in rows.values() for row in of_day])
        verdicts: list[Verdict] = []
        for read in reads:
            counts = [row.counts for row in rows[read.delivery.day]]
            accepted = sum(count.accepted for count in counts)
            subject = _subject(read.delivery)
            verdicts += [
                lines_conserved(subject, sum_of(counts)),
                rows_published(subject, accepted=accepted, in_lake=read.written.rows),
            ]
        guard_store.record(connection, verdicts, run_id=run_id)
        return write_duplicates(connection, [read.delivery.day for read in reads])

    def judge_files(self, connection: psycopg.Connection, days: Sequence[RequestDay], *, run_id: str) -> None:
        """Write the verdict on refused and held files: a file may also have been held since its day was read."""
        files = request_manifest.outcomes(connection, [delivery.day for delivery in days])
        verdicts = []
        for delivery in days:
            left = [file for file in files[delivery.day] if file.status in ("rejected", "held")]
            verdicts.append(files_taken(_subject(delivery), refused={file.key: str(file.reason) for file in left}))
        guard_store.record(connection, verdicts, run_id=run_id)

    def _publish_drafts(self, reads: Sequence[DayRead], generations: Sequence[str]) -> tuple[LakeFile, ...]:
        return self.request_days.lake.publish_all(
            [
                LakeDraft(
                    local_file=read.written.path,
                    dataset=DATASET,
                    partition=read.delivery.day,
                    generation=generation,
                    sha256=read.written.sha256,
                )
                for read, generation in zip(reads, generations, strict=True)
            ]
        )

    def _write_files(self, connection: psycopg.Connection, rows: Sequence[_FileRow]) -> None:
        write_files(
            connection,
            rows,
            profile_versions=[self.request_days.sources[row.file.source].profile.version for row in rows],
            read_with=[self.request_days.read_with(row.file.source) for row in rows],
        )
        write_quarantine(connection, [row for row in rows if row.result.taken_over is None])


def write_generations(
    connection: psycopg.Connection,
    reads: Sequence[DayRead],
    generations: Sequence[str],
    published: Sequence[LakeFile],
    *,
    run_id: str,
    code_version: str,
) -> None:
    """Insert the generations with their event days, and point the delivery days at them."""
    days = [read.delivery.day for read in reads]
    connection.execute(
        """
        insert into core.lake_generation (
            dataset, partition_key, generation, uri, file_sha256, size_bytes, row_count, conflicting_identities,
            inputs_digest, code_version, run_id
        )
        select %s, made.*, %s, %s
        from unnest(
            %s::date[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::text[]
        ) as made
        """,
        [
            DATASET,
            code_version,
            run_id,
            days,
            list(generations),
            [file.uri for file in published],
            [file.sha256 for file in published],
            [file.size_bytes for file in published],
            [read.written.rows for read in reads],
            [read.written.conflicting_identities for read in reads],
            [read.delivery.inputs_digest for read in reads],
        ],
    )
    event_days = [
        (read.delivery.day, generation, event_day, rows)
        for read, generation in zip(reads, generations, strict=True)
        for event_day, rows in read.written.event_days.items()
    ]
    connection.execute(
        "insert into core.lake_generation_day (dataset, partition_key, generation, event_day, row_count)"
        " select %s, made.* from unnest(%s::date[], %s::text[], %s::date[], %s::bigint[]) as made",
        [DATASET, *_columns(event_days, 4)],
    )
    connection.execute(
        "insert into core.lake_partition (dataset, partition_key, generation)"
        " select %s, made.* from unnest(%s::date[], %s::text[]) as made"
        " on conflict (dataset, partition_key) do update set generation = excluded.generation, updated_at = now()",
        [DATASET, days, list(generations)],
    )


def write_files(
    connection: psycopg.Connection,
    rows: Sequence[_FileRow],
    *,
    profile_versions: Sequence[int],
    read_with: Sequence[str],
) -> None:
    """Write what became of files: their counts and event days."""
    file_ids = [row.file.file_id for row in rows]
    connection.execute(
        """
        update core.source_file as file set
            status = read.status,
            reason = read.reason,
            detail = read.detail,
            profile_version = read.profile_version,
            lines_read = read.lines_read,
            accepted_rows = read.accepted_rows,
            rejected_rows = read.rejected_rows,
            duplicate_rows = read.duplicate_rows,
            out_of_scope_rows = read.out_of_scope_rows,
            first_event_at = read.first_event_at at time zone 'UTC',
            last_event_at = read.last_event_at at time zone 'UTC',
            read_with = read.read_with,
            read_at = now()
        from unnest(
            %s::bigint[], %s::text[], %s::text[], %s::text[], %s::integer[], %s::bigint[], %s::bigint[], %s::bigint[],
            %s::bigint[], %s::bigint[], %s::timestamp[], %s::timestamp[], %s::text[]
        ) as read (
            file_id, status, reason, detail, profile_version, lines_read, accepted_rows, rejected_rows,
            duplicate_rows, out_of_scope_rows, first_event_at, last_event_at, read_with
        )
        where file.file_id = read.file_id
        """,
        [
            file_ids,
            ["accepted" if row.result.refusal is None else "rejected" for row in rows],
            *_columns([row.reason_and_detail for row in rows], 2),
            list(profile_versions),
            [row.counts.lines_read for row in rows],
            [row.counts.accepted for row in rows],
            [row.counts.rejected for row in rows],
            [row.counts.duplicate for row in rows],
            [row.counts.out_of_scope for row in rows],
            [row.first_event_at for row in rows],
            [row.last_event_at for row in rows],
            list(read_with),
        ],
    )
    connection.execute("delete from core.source_file_day where file_id = any(%s)", [file_ids])
    file_days = [(row.file.file_id, day, count) for row in rows for day, count in row.event_days.items()]
    connection.execute(
        "insert into core.source_file_day (file_id, event_day, accepted_rows)"
        " select * from unnest(%s::bigint[], %s::date[], %s::bigint[])",
        _columns(file_days, 3),
    )


def write_quarantine(connection: psycopg.Connection, rows: Sequence[_FileRow]) -> None:
    """Replace the refused lines of files."""
    connection.execute("delete from core.quarantine where file_id = any(%s)", [[row.file.file_id for row in rows]])
    copy_arrow(connection, "core.quarantine", _rejections(rows))


def write_duplicates(connection: psycopg.Connection, days: Sequence[date]) -> frozenset[date]:
    """Count every line of a file that repeats the content of an accepted one as a duplicate.

    Where the file that it repeats could not be read, because it was gone or overwritten, the first copy is read in its place:
    the delivery days of such copies are returned. Rows are locked in one order, as copies are on days that others may hold.
    """
    connection.execute(
        """
        with known as (
            select copy.file_id, original.lines_read
            from core.source_file as copy join core.source_file as original using (source, content_sha256)
            where copy.status = 'duplicate' and original.status = 'accepted'
                and (copy.delivery_day = any(%s) or original.delivery_day = any(%s))
            order by copy.file_id
            for update of copy
        )
        update core.source_file as copy
        set lines_read = known.lines_read, duplicate_rows = known.lines_read, read_at = now()
        from known where copy.file_id = known.file_id
        """,
        [list(days), list(days)],
    )
    reopened = connection.execute(
        "update core.source_file set status = 'pending', detail = null where file_id in"
        " (select min(copy.file_id) from core.source_file as copy join core.source_file as original"
        " using (source, content_sha256) where original.delivery_day = any(%s) and original.status = 'rejected'"
        " and original.reason = %s and copy.status = 'duplicate' and not exists (select 1 from core.source_file as read"
        " where read.source = copy.source and read.content_sha256 = copy.content_sha256"
        " and read.status in ('accepted', 'pending')) group by copy.source, copy.content_sha256) returning delivery_day",
        [list(days), Reason.UNREADABLE],
    ).fetchall()
    return frozenset(day for (day,) in reopened)


def sum_of(counts: Sequence[LineCounts]) -> LineCounts:
    """Return the counts of several files together."""
    return LineCounts(
        lines_read=sum(count.lines_read for count in counts),
        accepted=sum(count.accepted for count in counts),
        rejected=sum(count.rejected for count in counts),
        duplicate=sum(count.duplicate for count in counts),
        out_of_scope=sum(count.out_of_scope for count in counts),
    )


def _subject(delivery: RequestDay) -> Subject:
    return Subject(asset=DATASET, partition_key=delivery.day.isoformat(), inputs_digest=delivery.inputs_digest)


def _file_rows(read: DayRead) -> list[_FileRow]:
    rows = []
    for file in read.delivery.files:
        result = read.results[file.file_id]
        days = [entry for entry in read.written.file_days if entry.file_id == file.file_id]
        kept, counts = sum(entry.rows for entry in days), result.counts
        rows.append(
            _FileRow(
                file=file,
                result=result,
                counts=replace(counts, accepted=kept, duplicate=counts.accepted - kept),
                first_event_at=min((entry.first_event_at for entry in days), default=None),
                last_event_at=max((entry.last_event_at for entry in days), default=None),
                event_days={entry.event_day: entry.rows for entry in days},
            )
        )
    return rows


def _rejections(rows: Sequence[_FileRow]) -> Iterator[pa.RecordBatch]:
    for row in rows:
        rejections = row.result.outcome.rejections
        if rejections:
            yield pa.record_batch(
                {
                    "file_id": pa.array([row.file.file_id] * len(rejections), pa.int64()),
                    "line_number": pa.array([rejection.line_number for rejection in rejections], pa.int64()),
                    "reason": pa.array([str(rejection.reason) for rejection in rejections]),
                    "field": pa.array([rejection.field for rejection in rejections], pa.string()),
                    "line_sha256": pa.array([rejection.line_sha256 for rejection in rejections], pa.string()),
                }
            )


def _columns(rows: Sequence[tuple[object, ...]], width: int) -> list[list[object]]:
    """Return rows as columns, also when there are none."""
    return [[row[column] for row in rows] for column in range(width)]
