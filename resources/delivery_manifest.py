"""The manifest of delivered files for any dataset, in PostgreSQL: core.source_file, core.quarantine, core.lake_*. Statements only.

Set-based: a batch of files is one statement of each kind, however many there are. Every function works inside the caller's
transaction; what must not run at once is the caller's lock. Not here: request logs (request_manifest: profiles, takeover), when
to read and publish (the stores).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import date, datetime

import psycopg
import pyarrow as pa
from psycopg.rows import class_row, dict_row

from billing_pipeline.records import LineCounts, Reason
from resources.database import copy_arrow
from resources.lake import LakeFile
from resources.landing import LandingFile

# file, SHA-256 hex of its content, delivery day
Arrival = tuple[LandingFile, str, date]
# position in the file (1-based), reason, field, SHA-256 of the line
Reject = tuple[int, str, str | None, str | None]

_FILE_DAYS = pa.schema([("file_id", pa.int64()), ("event_day", pa.date32()), ("accepted_rows", pa.int64())])
_QUARANTINE = pa.schema(
    [("file_id", pa.int64()), ("line_number", pa.int64())]
    + [(name, pa.string()) for name in ("reason", "field", "line_sha256")]
)

_REGISTER = """
    with arrived as (
        select *
        from unnest(%(keys)s::text[], %(hashes)s::text[], %(sizes)s::bigint[], %(days)s::date[], %(times)s::timestamptz[])
            with ordinality as file (key, content_sha256, size_bytes, delivery_day, modified_at, position)
    ),
    touched as (
        update core.source_file set modified_at = arrived.modified_at
        from arrived
        where source_file.source = %(source)s
            and source_file.key = arrived.key
            and source_file.content_sha256 = arrived.content_sha256
        returning source_file.key, source_file.content_sha256
    ),
    unknown as (
        select
            arrived.*,
            earlier.file_id as earlier_file_id,
            twin.file_id as twin_file_id,
            twin.key as twin_key
        from arrived
        left join touched
            on touched.key = arrived.key and touched.content_sha256 = arrived.content_sha256
        left join lateral (
            select file_id from core.source_file
            where source = %(source)s and key = arrived.key and status <> 'rejected'
            order by file_id limit 1
        ) as earlier on true
        left join lateral (
            select file_id, key from core.source_file
            where source = %(source)s and content_sha256 = arrived.content_sha256 and status in ('accepted', 'pending')
            order by file_id limit 1
        ) as twin on true
        where touched.key is null
    ),
    judged as (
        select
            *,
            first_value(key) over contents as first_key,
            row_number() over contents as copy_number
        from unknown
        window contents as (partition by content_sha256, earlier_file_id is null order by position)
    )
    insert into core.source_file
        (
            dataset, source, key, content_sha256, size_bytes, delivery_day, first_seen_at, modified_at, status, reason,
            detail
        )
    select
        %(dataset)s, %(source)s, key, content_sha256, size_bytes, delivery_day, %(seen_at)s, modified_at,
        case
            when earlier_file_id is not null then 'held'
            when twin_file_id is not null or copy_number > 1 then 'duplicate'
            else 'pending'
        end,
        case when earlier_file_id is not null then %(held_reason)s end,
        case
            when earlier_file_id is not null
                then format('file %%s was delivered under this name with other content', earlier_file_id)
            when twin_file_id is not null then format('same content as file %%s (%%s)', twin_file_id, twin_key)
            when copy_number > 1 then format('same content as %%s', first_key)
        end
    from judged
    order by position
    returning key, status
"""

NOTHING_READ = LineCounts(lines_read=0, accepted=0, rejected=0, duplicate=0, out_of_scope=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """Keys by what became of them at the door. A file that was known with this content is in none."""

    new: tuple[str, ...]
    held: tuple[str, ...]
    duplicate: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveredFile:
    """A row of the manifest."""

    file_id: int
    source: str
    key: str
    content_sha256: str
    size_bytes: int
    delivery_day: date
    first_seen_at: datetime
    modified_at: datetime
    status: str
    reason: str | None
    detail: str | None
    read_with: str | None
    counts: LineCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOutcome:
    """What became of a file. `rejects` are written as they are, `event_days` are rows by UTC day of the event."""

    file_id: int
    status: str
    read_with: str
    counts: LineCounts = NOTHING_READ
    reason: str | None = None
    detail: str | None = None
    rejects: Sequence[Reject] = ()
    event_days: Mapping[date, int] = field(default_factory=dict)
    first_event_at: datetime | None = None
    last_event_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LakeGeneration:
    """A published generation that its partition points at."""

    partition: date
    generation: str
    uri: str
    file_sha256: str
    row_count: int
    inputs_digest: str


def register(
    connection: psycopg.Connection, *, dataset: str, source: str, files: Sequence[Arrival], seen_at: datetime
) -> Registered:
    """Enter files into the manifest, in the order given. The caller holds the lock `core/source_file|<source>`.

    A known key with other content is held, unless all its earlier contents were refused. The same content under another key,
    in the manifest or earlier in `files`, is a duplicate. The rest is pending.
    """
    rows = connection.execute(
        _REGISTER,
        {
            "dataset": dataset,
            "source": source,
            "keys": [file.key for file, _, _ in files],
            "hashes": [content_sha256 for _, content_sha256, _ in files],
            "sizes": [file.size_bytes for file, _, _ in files],
            "days": [day for _, _, day in files],
            "times": [file.modified_at for file, _, _ in files],
            "seen_at": seen_at,
            "held_reason": Reason.SAME_KEY_OTHER_CONTENT,
        },
    ).fetchall()
    new, held, duplicate = (
        tuple(key for key, status in rows if status == wanted) for wanted in ("pending", "held", "duplicate")
    )
    return Registered(new=new, held=held, duplicate=duplicate)


def known_files(connection: psycopg.Connection, source: str) -> frozenset[tuple[str, int, datetime]]:
    """Return (key, size, modified at) of every file of `source`: what is unchanged need not be hashed again."""
    return frozenset(
        connection.execute(
            "select key, size_bytes, modified_at from core.source_file where source = %s", [source]
        ).fetchall()
    )


def pending(
    connection: psycopg.Connection, sources: Sequence[str], days: Sequence[date] | None = None
) -> tuple[DeliveredFile, ...]:
    """Return the files that wait to be read, of these delivery days or of all."""
    return _files(connection, sources, days, ["pending"])


def files_of(
    connection: psycopg.Connection,
    sources: Sequence[str],
    day: date,
    statuses: Sequence[str] = ("pending", "accepted", "rejected"),
) -> tuple[DeliveredFile, ...]:
    """Return the files of a delivery day, by source, key and file id; held and duplicate ones when `statuses` says so."""
    return _files(connection, sources, [day], statuses)


def delivery_days(connection: psycopg.Connection, sources: Sequence[str], *, pending_only: bool) -> tuple[date, ...]:
    """Return the delivery days with files, or only those with files that wait to be read."""
    rows = connection.execute(
        "select distinct delivery_day from core.source_file where source = any(%s)"
        " and (not %s or status = 'pending') order by 1",
        [list(sources), pending_only],
    ).fetchall()
    return tuple(row[0] for row in rows)


def _files(
    connection: psycopg.Connection, sources: Sequence[str], days: Sequence[date] | None, statuses: Sequence[str]
) -> tuple[DeliveredFile, ...]:
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            """
            select file_id, source, key, content_sha256, size_bytes, delivery_day, first_seen_at, modified_at, status, reason,
                detail, read_with, lines_read, accepted_rows as accepted, rejected_rows as rejected,
                duplicate_rows as duplicate, out_of_scope_rows as out_of_scope
            from core.source_file
            where source = any(%(sources)s) and status = any(%(statuses)s)
                and (%(days)s::date[] is null or delivery_day = any(%(days)s))
            order by source, key, file_id
            """,
            {"sources": list(sources), "statuses": list(statuses), "days": None if days is None else list(days)},
        ).fetchall()
    counted = [each.name for each in fields(LineCounts)]
    return tuple(DeliveredFile(counts=LineCounts(**{name: row.pop(name) for name in counted}), **row) for row in rows)


def write_outcomes(connection: psycopg.Connection, outcomes: Sequence[FileOutcome]) -> None:
    """Write what became of files: status, counts, event days, quarantine. What was written of them before is replaced."""
    if not outcomes:
        return
    connection.execute(
        """
        update core.source_file set
            (status, reason, detail, read_with, first_event_at, last_event_at)
                = (done.status, done.reason, done.detail, done.read_with, done.first_event_at, done.last_event_at),
            (lines_read, accepted_rows, rejected_rows, duplicate_rows, out_of_scope_rows)
                = (done.lines_read, done.accepted, done.rejected, done.duplicate, done.out_of_scope),
            read_at = now()
        from jsonb_to_recordset(%s::jsonb) as done (
            file_id bigint, status text, reason text, detail text, read_with text, first_event_at timestamptz,
            last_event_at timestamptz, lines_read bigint, accepted bigint, rejected bigint, duplicate bigint,
            out_of_scope bigint
        )
        where source_file.file_id = done.file_id
        """,
        [json.dumps([_outcome_row(outcome) for outcome in outcomes], default=str)],
    )
    file_ids = [outcome.file_id for outcome in outcomes]
    connection.execute("delete from core.source_file_day where file_id = any(%s)", [file_ids])
    connection.execute("delete from core.quarantine where file_id = any(%s)", [file_ids])
    days = [(outcome.file_id, day, rows) for outcome in outcomes for day, rows in outcome.event_days.items() if rows]
    if days:
        copy_arrow(connection, "core.source_file_day", [_batch(_FILE_DAYS, days)])
    rejects = [(outcome.file_id, *reject) for outcome in outcomes for reject in outcome.rejects]
    if rejects:
        copy_arrow(connection, "core.quarantine", [_batch(_QUARANTINE, rejects)])


def write_duplicates(connection: psycopg.Connection, sources: Sequence[str], day: date) -> None:
    """Count every line of a file that repeats an accepted file's content as a duplicate; copies of `day`, or of its files.

    Where the file that it repeats could not be read, because it was gone or overwritten, the first copy is read in its place.
    """
    parameters = {"sources": list(sources), "day": day, "unreadable": Reason.UNREADABLE}
    connection.execute(
        """
        update core.source_file as copy
        set lines_read = original.lines_read, duplicate_rows = original.lines_read, read_at = now()
        from core.source_file as original
        where copy.source = any(%(sources)s)
            and copy.status = 'duplicate'
            and original.status = 'accepted'
            and original.source = copy.source
            and original.content_sha256 = copy.content_sha256
            and (copy.delivery_day = %(day)s or original.delivery_day = %(day)s)
        """,
        parameters,
    )
    connection.execute(
        """
        update core.source_file set status = 'pending', detail = null
        where file_id in (
            select min(copy.file_id)
            from core.source_file as copy
            join core.source_file as original using (source, content_sha256)
            where copy.source = any(%(sources)s)
                and copy.status = 'duplicate'
                and original.delivery_day = %(day)s
                and original.status = 'rejected'
                and original.reason = %(unreadable)s
                and not exists (
                    select 1
                    from core.source_file as other
                    where other.source = copy.source
                        and other.content_sha256 = copy.content_sha256
                        and other.status in ('accepted', 'pending')
                )
            group by copy.source, copy.content_sha256
        )
        """,
        parameters,
    )


def write_generation(
    connection: psycopg.Connection,
    dataset: str,
    partition: date,
    generation: str,
    file: LakeFile,
    *,
    rows: int,
    event_days: Mapping[date, int],
    inputs_digest: str,
    code_version: str,
    run_id: str,
) -> None:
    """Insert a generation with its event days, and point the partition at it."""
    connection.execute(
        """
        insert into core.lake_generation
            (dataset, partition_key, generation, uri, file_sha256, size_bytes, row_count, inputs_digest, code_version, run_id)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        [
            dataset, partition, generation, file.uri, file.sha256, file.size_bytes, rows, inputs_digest, code_version, run_id,
        ],
    )  # fmt: skip
    days = [(day, count) for day, count in event_days.items() if count]
    connection.execute(
        """
        insert into core.lake_generation_day (dataset, partition_key, generation, event_day, row_count)
        select %s, %s, %s, day, row_count from unnest(%s::date[], %s::bigint[]) as event (day, row_count)
        """,
        [dataset, partition, generation, [day for day, _ in days], [count for _, count in days]],
    )
    connection.execute(
        """
        insert into core.lake_partition (dataset, partition_key, generation) values (%s, %s, %s)
        on conflict (dataset, partition_key) do update set generation = excluded.generation, updated_at = now()
        """,
        [dataset, partition, generation],
    )


def current_generation(connection: psycopg.Connection, dataset: str, partition: date) -> LakeGeneration | None:
    """Return what the partition points at; None before its first generation."""
    found = _generations(connection, dataset, "and partition_key = %(day)s", partition)
    return found[0] if found else None


def generations_touching(connection: psycopg.Connection, dataset: str, event_day: date) -> tuple[LakeGeneration, ...]:
    """Return the current generations that hold rows of `event_day`, by partition."""
    return _generations(
        connection,
        dataset,
        "and exists (select 1 from core.lake_generation_day as event where event.dataset = lake_partition.dataset"
        " and event.partition_key = lake_partition.partition_key and event.generation = lake_partition.generation"
        " and event.event_day = %(day)s)",
        event_day,
    )


def _generations(
    connection: psycopg.Connection, dataset: str, condition: str, day: date | None
) -> tuple[LakeGeneration, ...]:
    query = f"""
        select partition_key as partition, generation, uri, file_sha256, row_count, inputs_digest
        from core.lake_partition
        join core.lake_generation using (dataset, partition_key, generation)
        where dataset = %(dataset)s {condition}
        order by partition_key
    """
    with connection.cursor(row_factory=class_row(LakeGeneration)) as cursor:
        return tuple(cursor.execute(query.encode(), {"dataset": dataset, "day": day}).fetchall())


def _outcome_row(outcome: FileOutcome) -> Mapping[str, object]:
    written = ("file_id", "status", "reason", "detail", "read_with", "first_event_at", "last_event_at")
    return {**{name: getattr(outcome, name) for name in written}, **asdict(outcome.counts)}


def _batch(schema: pa.Schema, rows: Sequence[tuple[object, ...]]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema=schema)
