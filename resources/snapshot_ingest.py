"""Snapshots of a delivery day: read every new file whole, judge it against the snapshot before, publish what is sound.

A snapshot that is older than the last is kept as history; one of the same instant with other content, one of another bucket, one
that jumps beyond its bounds and one with bad rows are held until a person accepts the file. Not here: reading (inventory_reader,
size_tables).
"""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
import psycopg
import pyarrow as pa
import pyarrow.parquet

from billing_pipeline.checks import Subject, Verdict
from billing_pipeline.records import LineCounts, Reason
from billing_pipeline.sources.s3_inventory import read_manifest
from billing_pipeline.sources.storage_reasons import FileRefusal, StorageReason
from billing_pipeline.storage_delivery_checks import files_taken, lines_conserved, snapshots_sound
from resources import delivery_manifest, guard_store, storage_day
from resources.delivery_manifest import DeliveredFile, FileOutcome, LakeGeneration
from resources.inventory_reader import ReadSnapshot, SnapshotFile, read_inventory
from resources.landing import LandingFileChangedError, LandingKeyError
from resources.size_tables import read_size_table
from resources.storage_config import OBJECTS, SNAPSHOTS, Kind, StorageSource
from resources.storage_day import Run, StorageDayIngest, StorageHands
from resources.storage_files import OBJECT_SCHEMA, SNAPSHOT_SCHEMA, DataFiles, Refused, fetched, refused


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """A file that was read, with what was decided about it."""

    file: DeliveredFile
    result: SnapshotFile | FileRefusal
    hold: FileRefusal | None = None

    @property
    def snapshots(self) -> Sequence[ReadSnapshot]:
        return self.result.snapshots if isinstance(self.result, SnapshotFile) else ()

    @property
    def is_accepted(self) -> bool:
        return isinstance(self.result, SnapshotFile) and self.hold is None


class SnapshotIngest:
    """Ingests delivery days of `core/storage_snapshots`, and of `core/storage_objects` with them."""

    def __init__(
        self, hands: StorageHands, sources: Mapping[str, StorageSource], engine: duckdb.DuckDBPyConnection, run: Run
    ) -> None:
        self._hands = hands
        self._sources = sources
        self._engine = engine
        self._run = run
        self._data_files: dict[str, DataFiles] = {}

    def ingest(self, day: date) -> StorageDayIngest:
        """Publish what the delivery day's files say; a day that is up to date is not read."""
        names = list(self._sources)
        for _ in range(storage_day.ROUNDS_BEFORE_GIVING_WAY):
            with self._hands.database.reading() as connection:
                files = delivery_manifest.files_of(connection, names, day)
                current = delivery_manifest.current_generation(connection, SNAPSHOTS, day)
                objects = delivery_manifest.current_generation(connection, OBJECTS, day)
            if storage_day.is_up_to_date(files, current, self._sources, self._hands.lake):
                with self._hands.database.transaction(f"{SNAPSHOTS}|{day}") as connection:
                    self._write_verdicts(connection, day)
                    return storage_day.summary(connection, SNAPSHOTS, day, names, was_read=False)
            if current is not None and not self._hands.lake.holds(current.uri):
                current = None
            taken = [file for file in files if current is not None and self._is_settled(file)]
            taken_ids = {file.file_id for file in taken}
            read = [(file, self._read(file)) for file in files if file.file_id not in taken_ids]
            # Snapshots of a source are compared with each other over days: one judge at a time.
            locks = [f"{SNAPSHOTS}|{day}", *(f"{SNAPSHOTS}|{name}" for name in names)]
            with self._hands.database.transaction(*locks) as connection:
                if delivery_manifest.files_of(connection, names, day) != files:
                    continue
                judged = self._judge_all(connection, read)
                self._write(connection, day, judged)
                self._publish(connection, day, judged, taken, current, objects)
                self._write_verdicts(connection, day)
                return storage_day.summary(connection, SNAPSHOTS, day, names, was_read=True)
        raise storage_day.giving_way(SNAPSHOTS, day)

    def _is_settled(self, file: DeliveredFile) -> bool:
        """Return whether a file need not be read again: what it gave, or that it gives nothing, is known."""
        return file.status != "pending" and file.read_with == storage_day.read_with(self._sources[file.source])

    def _read(self, file: DeliveredFile) -> SnapshotFile | FileRefusal:
        source = self._sources[file.source]
        try:
            if source.kind is Kind.TABLE:
                with fetched(self._hands.landing, file) as path:
                    return read_size_table(path, as_of=file.first_seen_at, pseudonymise=self._hands.pseudonymise)
            return self._read_inventory(file, source)
        except Refused as error:
            if file.status == "accepted":
                raise storage_day.file_gone(file, str(error)) from error
            return error.refusal

    def _read_inventory(self, file: DeliveredFile, source: StorageSource) -> SnapshotFile:
        data_files = self._files_of(source)
        try:
            content, checksum, sha256 = data_files.read_manifest(file.key)
        except (LandingKeyError, LandingFileChangedError) as error:
            raise refused(StorageReason.FILE_MISSING, "the manifest or its checksum was changed or removed") from error
        if sha256 != file.content_sha256 and file.status == "pending":
            raise refused(Reason.UNREADABLE, "the inventory was changed after it had been registered")
        manifest = read_manifest(content, checksum, as_of=file.first_seen_at)
        if isinstance(manifest, FileRefusal):
            raise Refused(manifest)
        return read_inventory(
            manifest,
            file.key,
            profile=source.profile,
            data_files=data_files,
            connection=self._engine,
            keep_objects=source.objects,
            pseudonymise=self._hands.pseudonymise,
        )

    def _files_of(self, source: StorageSource) -> DataFiles:
        if source.name not in self._data_files:
            files = [file for file in self._hands.landing.list(source.landing) if source.owns(file)]
            self._data_files[source.name] = DataFiles(self._hands.landing, files)
        return self._data_files[source.name]

    def _judge_all(
        self, connection: psycopg.Connection, read: Sequence[tuple[DeliveredFile, SnapshotFile | FileRefusal]]
    ) -> list[_Judged]:
        """Judge in order of time: each accepted snapshot is what the next one is compared with."""

        def first_instant(one: tuple[DeliveredFile, SnapshotFile | FileRefusal]) -> tuple[datetime, int]:
            file, result = one
            instants = [each.snapshot_at for each in result.snapshots] if isinstance(result, SnapshotFile) else []
            return min(instants, default=datetime.max.replace(tzinfo=UTC)), file.file_id

        judged = []
        for file, result in sorted(read, key=first_instant):
            hold = self._hold(connection, file, result) if isinstance(result, SnapshotFile) else None
            one = _Judged(file=file, result=result, hold=hold)
            self._keep(connection, one)
            judged.append(one)
        return judged

    def _hold(self, connection: psycopg.Connection, file: DeliveredFile, read: SnapshotFile) -> FileRefusal | None:
        """Return why a person must look at the file before it counts."""
        for snapshot in read.snapshots:
            twin = connection.execute(
                "select file_id from core.storage_snapshot"
                " where source = %s and snapshot_at = %s and status = 'accepted' and file_id <> %s",
                [file.source, snapshot.snapshot_at, file.file_id],
            ).fetchone()
            if twin is not None:
                return FileRefusal(
                    reason=StorageReason.SAME_INSTANT_OTHER_CONTENT,
                    detail=f"file {twin[0]} is a snapshot of the same instant {snapshot.snapshot_at:%Y-%m-%dT%H:%M:%SZ}",
                )
        if file.status == "accepted" or storage_day.is_decided(file):
            return None
        if read.rejects:
            return FileRefusal(
                reason=StorageReason.BAD_ROWS,
                detail=f"{len(read.rejects)} rows cannot be what was stored, see the quarantine",
            )
        totals: list[tuple[datetime, int]] = []
        for snapshot in sorted(read.snapshots, key=lambda one: one.snapshot_at):
            last, bucket = self._before(connection, file, snapshot.snapshot_at)
            if bucket not in (None, snapshot.bucket):
                return FileRefusal(
                    reason=StorageReason.OTHER_BUCKET,
                    detail=f"a snapshot of {snapshot.bucket} after those of {bucket}: it would say that all of them is gone; "
                    "each bucket is a source of its own",
                )
            named = self._sources[file.source].bucket
            if snapshot.bucket is not None and named not in ("", snapshot.bucket):
                return FileRefusal(
                    reason=StorageReason.OTHER_BUCKET,
                    detail=f"a snapshot of {snapshot.bucket}, and storage.toml says that the source measures {named}",
                )
            before = totals[-1][1] if totals else last
            bounds = self._sources[file.source].profile.bounds
            if before is not None and not bounds.allows(before=before, now=snapshot.total_bytes):
                return FileRefusal(
                    reason=StorageReason.OUT_OF_BOUNDS,
                    detail=f"{snapshot.total_bytes} bytes after {before} in the snapshot before: more than "
                    f"{bounds.shrink_percent} % less or {bounds.grow_percent} % more",
                )
            totals.append((snapshot.snapshot_at, snapshot.total_bytes))
        return None

    def _before(
        self, connection: psycopg.Connection, file: DeliveredFile, instant: datetime
    ) -> tuple[int | None, str | None]:
        """Return total and bucket of the snapshot that counts before `instant`."""
        row = connection.execute(
            "select total_bytes, bucket from core.storage_snapshot where source = %s and snapshot_at < %s and status = 'accepted'"
            " and file_id <> %s order by snapshot_at desc limit 1",
            [file.source, instant, file.file_id],
        ).fetchone()
        return (None, None) if row is None else (int(row[0]), row[1])

    def _keep(self, connection: psycopg.Connection, judged: _Judged) -> None:
        connection.execute("delete from core.storage_snapshot where file_id = %s", [judged.file.file_id])
        with connection.cursor() as cursor:
            cursor.executemany(
                "insert into core.storage_snapshot (source, file_id, snapshot_at, snapshot_id, status, total_bytes,"
                " repository_count, unassigned_objects, unassigned_bytes, bucket)"
                " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
                [
                    (
                        judged.file.source,
                        judged.file.file_id,
                        snapshot.snapshot_at,
                        _snapshot_id(judged.file, snapshot),
                        "accepted" if judged.is_accepted else "held",
                        snapshot.total_bytes,
                        snapshot.rows.num_rows,
                        snapshot.unassigned_objects,
                        snapshot.unassigned_bytes,
                        snapshot.bucket,
                    )
                    for snapshot in judged.snapshots
                ],
            )

    def _write(self, connection: psycopg.Connection, day: date, judged: Sequence[_Judged]) -> None:
        outcomes = [_outcome(one, read_with=storage_day.read_with(self._sources[one.file.source])) for one in judged]
        delivery_manifest.write_outcomes(connection, outcomes)
        delivery_manifest.write_duplicates(connection, list(self._sources), day)

    def _publish(
        self,
        connection: psycopg.Connection,
        day: date,
        judged: Sequence[_Judged],
        taken: Sequence[DeliveredFile],
        current: LakeGeneration | None,
        objects: LakeGeneration | None,
    ) -> None:
        final = delivery_manifest.files_of(connection, list(self._sources), day)
        digest = storage_day.inputs_digest(final, self._sources)
        accepted = [one for one in judged if one.is_accepted]
        rows = [_with_head(one.file, each, each.rows, SNAPSHOT_SCHEMA) for one in accepted for each in one.snapshots]
        index = [
            _with_head(one.file, each, each.objects, OBJECT_SCHEMA)
            for one in accepted
            for each in one.snapshots
            if each.objects is not None
        ]
        ids = [file.file_id for file in taken]
        self._publish_one(connection, SNAPSHOTS, day, digest, [*rows, *self._taken_over(current, ids, SNAPSHOT_SCHEMA)])
        index += self._taken_over(objects, ids, OBJECT_SCHEMA)
        if objects is not None or any(source.objects for source in self._sources.values()):
            self._publish_one(connection, OBJECTS, day, digest, index)

    def _taken_over(
        self, generation: LakeGeneration | None, file_ids: Sequence[int], schema: pa.Schema
    ) -> list[pa.Table]:
        if generation is None or not file_ids or not self._hands.lake.holds(generation.uri):
            return []
        table = pyarrow.parquet.read_table(
            self._hands.lake.fetch(generation.uri), filters=[("file_id", "in", list(file_ids))], schema=schema
        )
        return [table.cast(schema)]

    def _publish_one(
        self, connection: psycopg.Connection, dataset: str, day: date, digest: str, tables: Sequence[pa.Table]
    ) -> None:
        schema = OBJECT_SCHEMA if dataset == OBJECTS else SNAPSHOT_SCHEMA
        keys = ["repository", "snapshot_at", "source", "object_id" if dataset == OBJECTS else "file_id"]
        table = pa.concat_tables([schema.empty_table(), *tables]).sort_by([(key, "ascending") for key in keys])
        days = table["snapshot_at"].cast(pa.date32()).value_counts().to_pylist()
        with self._scratch_file(day) as path:
            pyarrow.parquet.write_table(table, path, compression="zstd")
            generation = storage_day.new_generation(digest)
            file = self._hands.lake.publish(path, dataset=dataset, partition=day, generation=generation)
        delivery_manifest.write_generation(
            connection,
            dataset,
            day,
            generation,
            file,
            rows=table.num_rows,
            event_days={entry["values"]: entry["counts"] for entry in days},
            inputs_digest=digest,
            code_version=self._run.code_version,
            run_id=self._run.run_id,
        )

    @contextmanager
    def _scratch_file(self, day: date) -> Iterator[Path]:
        path = self._hands.scratch_dir / f"ingest-{day}-{secrets.token_hex(6)}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _write_verdicts(self, connection: psycopg.Connection, day: date) -> None:
        names = list(self._sources)
        every = delivery_manifest.files_of(connection, names, day, ("accepted", "rejected", "held"))
        left = storage_day.not_taken(every)
        digest = storage_day.inputs_digest(every, self._sources)
        subject = Subject(asset=SNAPSHOTS, partition_key=day.isoformat(), inputs_digest=digest)
        released = guard_store.released_guards(connection, SNAPSHOTS, {day.isoformat(): digest})
        verdicts: list[Verdict] = [
            lines_conserved(subject, storage_day.sum_counts([file.counts for file in every])),
            files_taken(subject, refused=left),
            snapshots_sound(subject, unsound=left),
        ]
        guard_store.record(
            connection,
            storage_day.with_releases(verdicts, released, day),
            run_id=self._run.run_id,
        )


def _outcome(judged: _Judged, *, read_with: str) -> FileOutcome:
    file, result = judged.file, judged.result
    if isinstance(result, FileRefusal):
        return FileOutcome(
            file_id=file.file_id, status="rejected", read_with=read_with, reason=result.reason, detail=result.detail
        )
    if judged.hold is not None:
        rejected = len(result.rejects)
        return FileOutcome(
            file_id=file.file_id,
            status="held",
            read_with=read_with,
            reason=judged.hold.reason,
            detail=judged.hold.detail,
            counts=LineCounts(lines_read=rejected, accepted=0, rejected=rejected, duplicate=0, out_of_scope=0),
            rejects=result.rejects,
        )
    instants = [one.snapshot_at for one in result.snapshots]
    days: dict[date, int] = {}
    for one in result.snapshots:
        day = one.snapshot_at.date()
        days[day] = days.get(day, 0) + one.rows.num_rows
    return FileOutcome(
        file_id=file.file_id,
        status="accepted",
        read_with=read_with,
        reason=file.reason,
        detail=_remarks(file, result),
        counts=result.counts,
        rejects=result.rejects,
        event_days=days,
        first_event_at=min(instants, default=None),
        last_event_at=max(instants, default=None),
    )


def _remarks(file: DeliveredFile, read: SnapshotFile) -> str | None:
    remarks = [file.detail] if file.reason is not None and file.detail else []
    objects = sum(one.unassigned_objects for one in read.snapshots)
    if objects:
        size = sum(one.unassigned_bytes for one in read.snapshots)
        remarks.append(f"{objects} objects of {size} bytes belong to no repository")
    return "; ".join(remarks) or None


def _snapshot_id(file: DeliveredFile, snapshot: ReadSnapshot) -> str:
    return f"{file.content_sha256[:16]}-{snapshot.snapshot_at:%Y%m%dT%H%M%S%f}"


def _with_head(file: DeliveredFile, snapshot: ReadSnapshot, rows: pa.Table | None, schema: pa.Schema) -> pa.Table:
    """Return rows with the columns that say which snapshot they are of."""
    assert rows is not None
    count = rows.num_rows
    head = {
        "source": pa.repeat(pa.scalar(file.source, pa.string()), count),
        "snapshot_id": pa.repeat(pa.scalar(_snapshot_id(file, snapshot), pa.string()), count),
        "snapshot_at": pa.repeat(pa.scalar(snapshot.snapshot_at.replace(tzinfo=None), pa.timestamp("us")), count),
        "file_id": pa.repeat(pa.scalar(file.file_id, pa.int64()), count),
    }
    columns = [head[name] if name in head else rows[name] for name in schema.names]
    return pa.table(columns, names=schema.names).cast(schema)
