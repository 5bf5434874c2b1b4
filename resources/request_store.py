"""Deliveries of request logs into the lake: discover files, read a delivery day, publish its generation. Owner of core.*.

A generation is a function of the files of its delivery day and of their profiles. Everything that a delivery day changes in
PostgreSQL is one transaction under its lock; killed anywhere, the same call again ends in the same state.
Not here: reading one file (request_reader), deduplication (request_sink), the manifest's statements (request_manifest),
event days (usage_store).
"""

import hashlib
import json
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import duckdb
import psycopg
import pyarrow as pa

from billing_pipeline.checks import Subject, Verdict, files_taken, lines_conserved, rows_published
from billing_pipeline.errors import BillingError
from billing_pipeline.records import LineCounts, Reason
from billing_pipeline.sources.request_lines import FileContext
from resources import duck, guard_store, request_manifest
from resources.database import Database
from resources.disk import disk_failures_explained
from resources.inflate import FileRejected
from resources.lake import Lake
from resources.landing import Landing, LandingFile, LandingFileChangedError, LandingKeyError
from resources.request_manifest import DATASET, FileIngest, FileResult, Generation, ManifestFile
from resources.request_reader import RECORD_SCHEMA, FileOutcome, read_requests
from resources.request_sink import RequestSink, Written
from resources.scratch import sweep_scratch
from resources.source_config import SourceConfig

# Raise it when the reader takes, refuses or spells a line differently: every delivery day is then read anew when asked for.
READER_VERSION = 1
# A line of a log, packed, takes about this much; it only sizes a table.
PACKED_BYTES_PER_LINE = 40
ROUNDS_BEFORE_GIVING_WAY = 5
# Files registered in one transaction: a killed discovery hashes at most these again.
FILES_PER_REGISTRATION = 100
# What a process that was killed has left in the scratch folder, downloaded log files among it, goes after this time.
LEFTOVERS_LAST = timedelta(days=1)
TAKEN_OVER_BATCH_ROWS = 200_000

Progress = Callable[[str, int, int], None]


class DeliveryChangingError(BillingError):
    """Files of a delivery day kept arriving while it was read."""


class LinesWithoutIdsError(BillingError):
    """A held file cannot be accepted: nothing tells which of its lines were read before."""


class AcceptedFileGoneError(BillingError):
    """A file whose requests are counted has to be read once more, and is gone, or is refused by a profile edited since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """What a look into the landing zone found. Keys; `delivery_days` have files that wait to be read."""

    new_files: tuple[str, ...]
    held_files: tuple[str, ...]
    duplicate_files: tuple[str, ...]
    unplaced_files: tuple[str, ...]
    delivery_days: tuple[date, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DayIngest:
    """One delivery day. `seconds`: wall time by step, empty when the day was up to date."""

    day: date
    generation: str
    uri: str
    files: tuple[FileIngest, ...]
    counts: LineCounts
    rejected_by_reason: Mapping[str, int]
    event_days: Mapping[date, int]
    verdicts: tuple[Verdict, ...]
    seconds: Mapping[str, Decimal]


class RequestStore:
    """Everything about delivered request logs, over the landing zone, the lake and PostgreSQL."""

    def __init__(
        self,
        database: Database,
        lake: Lake,
        landing: Landing,
        sources: Sequence[SourceConfig],
        scratch_dir: Path,
        pseudonym_key: bytes,
        *,
        memory_limit: str = "1GB",
        threads: int = 2,
    ) -> None:
        self._database = database
        self._lake = lake
        self._landing = landing
        self._sources = {source.name: source for source in sources}
        self._scratch_dir = scratch_dir
        self._pseudonym_key = pseudonym_key
        self._memory_limit = memory_limit
        self._threads = threads

    @property
    def expected_hours(self) -> Mapping[str, frozenset[int]]:
        """Return source -> UTC hours of a day in which its profile expects records."""
        return {name: source.profile.expected_hour_set for name, source in self._sources.items()}

    def discover(self, *, seen_at: datetime) -> Discovery:
        """Register every file of the landing zone that the manifest does not know. The same file again: nothing.

        A known key with other content is held, unless all its earlier contents were refused; the same content under another
        key is a duplicate. Neither is read.
        """
        new: list[str] = []
        held: list[str] = []
        duplicates: list[str] = []
        unplaced: list[str] = []
        for source in self._sources.values():
            known = self._known_files(source)
            unknown: list[tuple[LandingFile, date]] = []
            for file in self._landing.list(source.landing):
                if not source.owns(file) or (file.key, file.size_bytes, file.modified_at) in known:
                    continue
                day = source.delivery_day_of(file)
                if day is None:
                    unplaced.append(file.key)
                else:
                    unknown.append((file, day))
            for start in range(0, len(unknown), FILES_PER_REGISTRATION):
                batch = unknown[start : start + FILES_PER_REGISTRATION]
                for key, status in self._register(source, batch, seen_at).items():
                    match status:
                        case "pending":
                            new.append(key)
                        case "held":
                            held.append(key)
                        case "duplicate":
                            duplicates.append(key)
        return Discovery(
            new_files=tuple(new),
            held_files=tuple(held),
            duplicate_files=tuple(duplicates),
            unplaced_files=tuple(unplaced),
            delivery_days=self.delivery_days(pending_only=True),
        )

    def delivery_days(self, *, pending_only: bool) -> tuple[date, ...]:
        """Return the delivery days with files, or only those with files that wait to be read."""
        with self._database.reading() as connection:
            rows = connection.execute(
                "select distinct delivery_day from core.source_file where source = any(%s)"
                " and (not %s or status = 'pending') order by 1",
                [list(self._sources), pending_only],
            ).fetchall()
        return tuple(row[0] for row in rows)

    def accept_held(self, file_id: int, *, actor: str, reason: str) -> bool:
        """Let a held file be read with its delivery day, as a person decided. Its lines that were billed stay duplicates.

        Raises:
            LinesWithoutIdsError: the source gives its lines no ids, so that a line of both contents would be billed twice.
        """
        with self._database.transaction() as connection:
            held = connection.execute(
                "select source, key from core.source_file where file_id = %s and status = 'held'", [file_id]
            ).fetchone()
            if held is not None and self._sources[held[0]].profile.fields.event_id is None:
                raise _lines_without_ids(*held)
            done = connection.execute(
                "update core.source_file set status = 'pending', detail = %s where file_id = %s and status = 'held'",
                [f"accepted by {actor}: {reason}", file_id],
            )
            return done.rowcount == 1

    def ingest_days(
        self, days: Sequence[date], *, run_id: str, code_version: str, on_progress: Progress | None = None
    ) -> tuple[DayIngest, ...]:
        """Publish the generation of each delivery day and return what each holds. A day that is up to date is not read."""
        sweep_scratch(self._scratch_dir, unused_since=datetime.now(UTC) - LEFTOVERS_LAST)
        results = []
        with disk_failures_explained(self._scratch_dir), self._engine() as engine:
            for number, day in enumerate(days):
                if on_progress is not None:
                    on_progress(f"reading deliveries of {day}", number, len(days))
                results.append(self._ingest_day(day, engine, run_id=run_id, code_version=code_version))
        return tuple(results)

    def _engine(self) -> duckdb.DuckDBPyConnection:
        return duck.connect(self._scratch_dir, self._memory_limit, self._threads)

    def _known_files(self, source: SourceConfig) -> set[tuple[str, int, datetime]]:
        with self._database.reading() as connection:
            rows = connection.execute(
                "select key, size_bytes, modified_at from core.source_file where source = %s", [source.name]
            ).fetchall()
        return {(row[0], row[1], row[2]) for row in rows}

    def _register(
        self, source: SourceConfig, files: Sequence[tuple[LandingFile, date]], seen_at: datetime
    ) -> Mapping[str, str]:
        """Enter files with their delivery days into the manifest; return the status of each key that is new to it."""
        hashes = []
        for file, _ in files:
            with self._landing.fetched(file.key) as path, path.open("rb") as opened:
                hashes.append(hashlib.file_digest(opened, "sha256").hexdigest())
        statuses: dict[str, str] = {}
        with self._database.transaction(f"core/source_file|{source.name}") as connection:
            for (file, day), content_sha256 in zip(files, hashes, strict=True):
                status = request_manifest.register(
                    connection,
                    file,
                    source=source.name,
                    content_sha256=content_sha256,
                    delivery_day=day,
                    seen_at=seen_at,
                    profile_version=source.profile.version,
                )
                if status is not None:
                    statuses[file.key] = status
        return statuses

    def _ingest_day(self, day: date, engine: duckdb.DuckDBPyConnection, *, run_id: str, code_version: str) -> DayIngest:
        for _ in range(ROUNDS_BEFORE_GIVING_WAY):
            with self._database.reading() as connection:
                files = request_manifest.files_of(connection, day, list(self._sources))
                digest = self._inputs_digest(files)
                current = self._current_generation(connection, day)
            if _is_up_to_date(current, files, digest):
                return self._judge_files(day, digest, run_id=run_id)
            done = self._build(engine, day, files, digest, current, run_id=run_id, code_version=code_version)
            if done is not None:
                return done
        raise _giving_way(day)

    def _build(
        self,
        engine: duckdb.DuckDBPyConnection,
        day: date,
        files: Sequence[ManifestFile],
        digest: str,
        current: Generation | None,
        *,
        run_id: str,
        code_version: str,
    ) -> DayIngest | None:
        """Read `files` and publish; None when the day's files changed meanwhile."""
        seconds: dict[str, Decimal] = {}
        scratch = self._scratch_dir / f"ingest-{day}-{secrets.token_hex(6)}.parquet"
        scratch.parent.mkdir(parents=True, exist_ok=True)
        try:
            started = time.perf_counter()
            written, results = self._read_files(engine, files, current, scratch)
            seconds["read files"] = _elapsed(started)
            started = time.perf_counter()
            with self._database.transaction(f"{DATASET}|{day}") as connection:
                # The manifest is the input: with another file in it, this generation would lose that file.
                again = request_manifest.files_of(connection, day, list(self._sources))
                if self._inputs_digest(again) != digest:
                    return None
                if not _is_up_to_date(self._current_generation(connection, day), again, digest):
                    self._publish(
                        connection,
                        day,
                        files,
                        written,
                        results,
                        digest=digest,
                        run_id=run_id,
                        code_version=code_version,
                    )
                done = self._summary(connection, day)
            seconds["publish"] = _elapsed(started)
        finally:
            scratch.unlink(missing_ok=True)
        return replace(done, seconds=seconds)

    def _current_generation(self, connection: psycopg.Connection, day: date) -> Generation | None:
        """Return what the day points at; None also when the lake has lost it, so that the landing files are read again."""
        current = request_manifest.current_generation(connection, day)
        return current if current is not None and self._lake.holds(current.uri) else None

    def _read_files(
        self,
        engine: duckdb.DuckDBPyConnection,
        files: Sequence[ManifestFile],
        current: Generation | None,
        scratch: Path,
    ) -> tuple[Written, Mapping[int, FileResult]]:
        """Gather all files in one Parquet file. A refused file leaves nothing behind: the others are then gathered again.

        A file that the current generation has read in the same way is taken over from there: the landing zone may have been
        emptied or overwritten since.
        """
        refused = {
            file.file_id: FileResult(
                outcome=FileOutcome(), refusal=FileRejected(Reason(file.reason or ""), file.detail or "")
            )
            for file in files
            if file.status == "rejected" and file.read_with == self._read_with(file.source)
        }
        copies = Counter((file.source, file.content_sha256) for file in files)

        def may_repeat(file: ManifestFile) -> bool:
            # A position in a content names one line, unless that content was delivered twice: both files were refused once
            # and their profile has been corrected since.
            has_event_ids = self._sources[file.source].profile.fields.event_id is not None
            return has_event_ids or copies[file.source, file.content_sha256] > 1

        while True:
            results = dict(refused)
            spoiled = False
            expected = sum(file.size_bytes for file in files) // PACKED_BYTES_PER_LINE
            with RequestSink(scratch, engine, expected_rows=expected) as sink:
                for file in files:
                    if file.file_id in refused:
                        continue
                    result = FileResult(outcome=FileOutcome())
                    results[file.file_id] = result
                    if (
                        current is not None
                        and file.status == "accepted"
                        and file.read_with == self._read_with(file.source)
                    ):
                        result.taken_over = replace(
                            file.counts, accepted=file.counts.accepted + file.counts.duplicate, duplicate=0
                        )
                        self._take_over(file, current, engine, sink, identities_repeat=may_repeat(file))
                        continue
                    try:
                        self._read_file(file, result.outcome, engine, sink, identities_repeat=may_repeat(file))
                    except FileRejected as rejection:
                        if file.status == "accepted":
                            # Refused now, by a profile that was edited since or a file that is gone: its requests are in
                            # the bill, and silence must not take them out again.
                            raise _accepted_file_gone(file, f"{rejection.reason}: {rejection.detail}") from rejection
                        refused[file.file_id] = FileResult(outcome=FileOutcome(), refusal=rejection)
                        results[file.file_id] = refused[file.file_id]
                        spoiled = spoiled or result.outcome.accepted > 0
                if not spoiled:
                    return sink.finish(), results

    def _read_file(
        self,
        file: ManifestFile,
        outcome: FileOutcome,
        connection: duckdb.DuckDBPyConnection,
        sink: RequestSink,
        *,
        identities_repeat: bool,
    ) -> None:
        profile = self._sources[file.source].profile
        context = FileContext(
            content_sha256=file.content_sha256, as_of=file.first_seen_at, pseudonym_key=self._pseudonym_key
        )
        try:
            with self._landing.fetched(file.key) as path:
                with path.open("rb") as opened:
                    if hashlib.file_digest(opened, "sha256").hexdigest() != file.content_sha256:
                        raise FileRejected(Reason.UNREADABLE, "the file was overwritten after it had been registered")
                for table in read_requests(
                    path, profile=profile, context=context, connection=connection, outcome=outcome
                ):
                    sink.add(
                        table,
                        source=file.source,
                        file_id=file.file_id,
                        identities_repeat=identities_repeat,
                    )
        except (LandingKeyError, LandingFileChangedError) as missing:
            # What is delivered under this key from now on is other content: it is registered as such and then read.
            raise FileRejected(
                Reason.UNREADABLE, "the file was changed or removed after it had been registered"
            ) from missing

    def _take_over(
        self,
        file: ManifestFile,
        current: Generation,
        connection: duckdb.DuckDBPyConnection,
        sink: RequestSink,
        *,
        identities_repeat: bool,
    ) -> None:
        columns = ", ".join(RECORD_SCHEMA.names)
        reader = connection.sql(
            f"select {columns} from read_parquet($path) where file_id = $file_id",
            params={"path": str(self._lake.fetch(current.uri)), "file_id": file.file_id},
        ).to_arrow_reader(TAKEN_OVER_BATCH_ROWS)
        # The reader holds the connection, which the sink needs too.
        for batch in reader.read_all().to_batches(TAKEN_OVER_BATCH_ROWS):
            sink.add(
                pa.Table.from_batches([batch]).cast(RECORD_SCHEMA),
                source=file.source,
                file_id=file.file_id,
                identities_repeat=identities_repeat,
            )

    def _read_with(self, source: str) -> str:
        return f"{READER_VERSION}:{self._sources[source].profile.sha256}"

    def _judge_files(self, day: date, digest: str, *, run_id: str) -> DayIngest:
        """Write the verdict on refused and held files anew: a file may have been held since the day was read."""
        with self._database.transaction(f"{DATASET}|{day}") as connection:
            guard_store.record(connection, [self._files_verdict(connection, day, digest)], run_id=run_id)
            return self._summary(connection, day)

    def _files_verdict(self, connection: psycopg.Connection, day: date, digest: str) -> Verdict:
        subject = Subject(asset=DATASET, partition_key=day.isoformat(), inputs_digest=digest)
        left = [file for file in request_manifest.outcomes(connection, day) if file.status in ("rejected", "held")]
        return files_taken(subject, refused={file.key: str(file.reason) for file in left})

    def _inputs_digest(self, files: Sequence[ManifestFile]) -> str:
        parts = sorted([file.source, file.content_sha256, self._sources[file.source].profile.sha256] for file in files)
        return hashlib.sha256(json.dumps([READER_VERSION, parts]).encode()).hexdigest()

    def _publish(
        self,
        connection: psycopg.Connection,
        day: date,
        files: Sequence[ManifestFile],
        written: Written,
        results: Mapping[int, FileResult],
        *,
        digest: str,
        run_id: str,
        code_version: str,
    ) -> None:
        generation = f"{digest[:16]}-{secrets.token_hex(6)}"
        published = self._lake.publish(written.path, dataset=DATASET, partition=day, generation=generation)
        request_manifest.write_generation(
            connection, day, generation, published.uri, published.sha256, published.size_bytes, written,
            digest=digest, run_id=run_id, code_version=code_version,
        )  # fmt: skip
        kept = Counter[int]()
        for entry in written.file_days:
            kept[entry.file_id] += entry.rows
        file_counts = [
            request_manifest.write_file(
                connection,
                file,
                results[file.file_id],
                written,
                kept[file.file_id],
                profile_version=self._sources[file.source].profile.version,
                read_with=self._read_with(file.source),
            )
            for file in files
        ]
        request_manifest.write_duplicates(connection, day)
        subject = Subject(asset=DATASET, partition_key=day.isoformat(), inputs_digest=digest)
        verdicts = [
            lines_conserved(subject, _sum(file_counts)),
            rows_published(subject, accepted=sum(counts.accepted for counts in file_counts), in_lake=written.rows),
            self._files_verdict(connection, day, digest),
        ]
        guard_store.record(connection, verdicts, run_id=run_id)

    def _summary(self, connection: psycopg.Connection, day: date) -> DayIngest:
        files = request_manifest.outcomes(connection, day)
        generation = connection.execute(
            "select generation, uri from core.lake_partition join core.lake_generation"
            " using (dataset, partition_key, generation) where dataset = %s and partition_key = %s",
            [DATASET, day],
        ).fetchone()
        event_days = connection.execute(
            "select event_day, row_count from core.lake_partition join core.lake_generation_day"
            " using (dataset, partition_key, generation) where dataset = %s and partition_key = %s order by 1",
            [DATASET, day],
        ).fetchall()
        verdicts = guard_store.verdicts(connection, DATASET, [day.isoformat()])
        reasons: Counter[str] = Counter()
        for file in files:
            reasons.update(file.rejected_by_reason)
        return DayIngest(
            day=day,
            generation=generation[0] if generation else "",
            uri=generation[1] if generation else "",
            files=files,
            counts=_sum([file.counts for file in files]),
            rejected_by_reason=dict(reasons),
            event_days=dict(event_days),
            verdicts=verdicts,
            seconds={},
        )


def _elapsed(started: float) -> Decimal:
    return Decimal(str(round(time.perf_counter() - started, 3)))


def _is_up_to_date(current: Generation | None, files: Sequence[ManifestFile], digest: str) -> bool:
    return current is not None and current.inputs_digest == digest and all(file.status != "pending" for file in files)


def _sum(counts: Sequence[LineCounts]) -> LineCounts:
    return LineCounts(
        lines_read=sum(count.lines_read for count in counts),
        accepted=sum(count.accepted for count in counts),
        rejected=sum(count.rejected for count in counts),
        duplicate=sum(count.duplicate for count in counts),
        out_of_scope=sum(count.out_of_scope for count in counts),
    )


def _lines_without_ids(source: str, key: str) -> LinesWithoutIdsError:
    return LinesWithoutIdsError(
        f"{key} of source {source} cannot be accepted: its lines have no ids, so nothing tells which of them were read before",
        bill="nothing changed; what was counted of the earlier content stays counted once",
        fix="deliver the lines that are new, and no others, under a new name",
    )


def _accepted_file_gone(file: ManifestFile, why: str) -> AcceptedFileGoneError:
    return AcceptedFileGoneError(
        f"{file.key} of source {file.source} was read before and must be read again, but {why}",
        bill="its requests stay counted as they are; nothing of this delivery day was published",
        fix=f"restore the file with SHA-256 {file.content_sha256} under this name, or the lake file that it was read into, or "
        "go back to the profile it was read with",
    )


def _giving_way(day: date) -> DeliveryChangingError:
    return DeliveryChangingError(
        f"new files for the delivery day {day} were registered each of the {ROUNDS_BEFORE_GIVING_WAY} times it was read",
        bill="nothing of it was published; what was published before is still in place",
        fix="let the delivery finish, then materialize core/request_records for this day again",
    )
