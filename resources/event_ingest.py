"""Events of a delivery day: read every new file, find duplicates and conflicts over all files of the day, publish.

For CloudTrail also its digests: what they say of a day is judged anew with every digest. Not here: reading files (event_files),
the rule of duplicates (sql/events_judged), duplicates over delivery days (usage).
"""

import secrets
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
import psycopg
import pyarrow as pa

from billing_pipeline.checks import Subject, Verdict
from billing_pipeline.records import LineCounts
from billing_pipeline.sources.cloudtrail_digest import Digest, canonical_key, is_digest_key, read_digest
from billing_pipeline.sources.storage_reasons import FileRefusal, StorageReason
from billing_pipeline.storage_delivery_checks import files_taken, lines_conserved, sizes_known
from resources import cloudtrail_digests, delivery_manifest, guard_store, storage_day
from resources.cloudtrail_digests import DigestSignatures
from resources.delivery_manifest import DeliveredFile, FileOutcome, LakeGeneration, Reject
from resources.duck import sql
from resources.event_files import EventFile, read_logs, read_visibility
from resources.storage_config import OBJECT_EVENTS, StorageSource
from resources.storage_day import Run, StorageDayIngest, StorageHands
from resources.storage_files import (
    OBJECT_EVENT_SCHEMA,
    VISIBILITY_EVENT_SCHEMA,
    Refused,
    content_of,
    fetched,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _DigestFile:
    """A digest as it was delivered."""

    file: DeliveredFile
    digest: Digest | FileRefusal
    signature: str | None


@dataclass(slots=True, kw_only=True)
class _Outcomes:
    """Lines of the day's files after duplicates were found."""

    kept: Counter[int] = field(default_factory=Counter)
    duplicate: Counter[int] = field(default_factory=Counter)
    conflict: Counter[int] = field(default_factory=Counter)
    days: dict[int, dict[date, int]] = field(default_factory=lambda: defaultdict(dict))
    first: dict[int, datetime] = field(default_factory=dict)
    last: dict[int, datetime] = field(default_factory=dict)
    rejects: dict[int, list[Reject]] = field(default_factory=lambda: defaultdict(list))


class EventIngest:
    """Ingests delivery days of `core/object_events` or `core/visibility_events`."""

    def __init__(
        self,
        hands: StorageHands,
        dataset: str,
        sources: Mapping[str, StorageSource],
        engine: duckdb.DuckDBPyConnection,
        run: Run,
    ) -> None:
        self._hands = hands
        self._dataset = dataset
        self._schema = OBJECT_EVENT_SCHEMA if dataset == OBJECT_EVENTS else VISIBILITY_EVENT_SCHEMA
        self._sources = sources
        self._engine = engine
        self._run = run

    def ingest(self, day: date) -> StorageDayIngest:
        """Publish what the delivery day's files say; a day that is up to date is not read."""
        names = list(self._sources)
        for _ in range(storage_day.ROUNDS_BEFORE_GIVING_WAY):
            with self._hands.database.reading() as connection:
                files = delivery_manifest.files_of(connection, names, day)
                current = delivery_manifest.current_generation(connection, self._dataset, day)
            if storage_day.is_up_to_date(files, current, self._sources, self._hands.lake):
                with self._hands.database.transaction(f"{self._dataset}|{day}") as connection:
                    self._write_verdicts(connection, day, was_read=False)
                    return storage_day.summary(connection, self._dataset, day, names, was_read=False)
            if current is not None and not self._hands.lake.holds(current.uri):
                current = None
            done = self._build(day, files, current)
            if done is not None:
                return done
        raise storage_day.giving_way(self._dataset, day)

    def _build(
        self, day: date, files: Sequence[DeliveredFile], current: LakeGeneration | None
    ) -> StorageDayIngest | None:
        """Read what is new and publish; None when the day's files changed meanwhile."""
        names = list(self._sources)
        taken = [file for file in files if current is not None and self._is_settled(file)]
        taken_ids = {file.file_id for file in taken}
        new = [file for file in files if file.file_id not in taken_ids]
        digests = [self._read_digest(file) for file in new if self._is_digest(file)]
        read = self._read([file for file in new if not self._is_digest(file)])
        touched = {day, *(each for one in digests for each in _touched(one.digest))}
        with self._hands.database.transaction(*(f"{self._dataset}|{each}" for each in touched)) as connection:
            if delivery_manifest.files_of(connection, names, day) != tuple(files):
                return None
            conflicts = self._known_conflicts(connection, day)
            scratch = self._hands.scratch_dir / f"ingest-{day}-{secrets.token_hex(6)}.parquet"
            scratch.parent.mkdir(parents=True, exist_ok=True)
            try:
                outcomes = self._judge(read, taken, current, conflicts, scratch)
                self._write(connection, day, read, taken, digests, outcomes)
                self._publish(connection, day, scratch)
            finally:
                scratch.unlink(missing_ok=True)
            self._write_verdicts(connection, day, was_read=True)
            for other in sorted(touched - {day}):
                self._write_digest_verdict(connection, other)
            return storage_day.summary(connection, self._dataset, day, names, was_read=True)

    def _is_digest(self, file: DeliveredFile) -> bool:
        return self._dataset == OBJECT_EVENTS and is_digest_key(file.key)

    def _is_settled(self, file: DeliveredFile) -> bool:
        """Return whether a file need not be read again: what it gave, or that it gives nothing, is known."""
        return file.status in ("accepted", "rejected") and file.read_with == storage_day.read_with(
            self._sources[file.source]
        )

    def _read(self, files: Sequence[DeliveredFile]) -> list[EventFile]:
        if self._dataset == OBJECT_EVENTS:
            read = list(read_logs(self._hands.landing, files, self._sources, self._hands.pseudonymise))
        else:
            read = [read_visibility(self._hands.landing, file, self._hands.pseudonymise) for file in files]
        for one in read:
            if one.refusal is not None and one.file.status == "accepted":
                raise storage_day.file_gone(one.file, f"{one.refusal.reason}: {one.refusal.detail}")
        return read

    def _read_digest(self, file: DeliveredFile) -> _DigestFile:
        digest: Digest | FileRefusal
        try:
            with fetched(self._hands.landing, file) as path:
                digest = read_digest(content_of(path))
        except Refused as error:
            digest = error.refusal
        if isinstance(digest, Digest) and canonical_key(digest.key) != canonical_key(file.key):
            digest = FileRefusal(
                reason=StorageReason.BAD_MANIFEST, detail="the digest was moved from where it was written"
            )
        signature = DigestSignatures(self._hands.landing, self._hands.landing_url).of(file.key)
        return _DigestFile(file=file, digest=digest, signature=signature)

    def _known_conflicts(self, connection: psycopg.Connection, day: date) -> list[str]:
        rows = connection.execute(
            "select distinct quarantine.line_sha256 from core.quarantine join core.source_file using (file_id)"
            " where source = any(%s) and delivery_day = %s and quarantine.reason = %s",
            [list(self._sources), day, StorageReason.ID_CONFLICT],
        ).fetchall()
        return [row[0] for row in rows]

    def _judge(
        self,
        read: Sequence[EventFile],
        taken: Sequence[DeliveredFile],
        current: LakeGeneration | None,
        conflicts: Sequence[str],
        scratch: Path,
    ) -> _Outcomes:
        """Find duplicates and conflicts, write what is kept to `scratch`, and return what became of the lines."""
        engine = self._engine
        new_rows = pa.concat_tables([self._schema.empty_table(), *(one.rows for one in read)])
        engine.register("new_rows", new_rows)
        engine.register("known", pa.table({"event_sha256": pa.array(conflicts, pa.string())}))
        engine.execute("create or replace temp table read_events as select * from new_rows")
        engine.execute("create or replace temp table known_conflicts as select * from known")
        if current is not None and taken:
            engine.execute(
                "insert into read_events by name select * from read_parquet($path, hive_partitioning = false)"
                " where file_id in (select unnest($ids))",
                {"path": str(self._hands.lake.fetch(current.uri)), "ids": [file.file_id for file in taken]},
            )
        name = "object_events_delivered" if self._dataset == OBJECT_EVENTS else "visibility_events_delivered"
        engine.execute(sql(name))
        engine.execute(sql("events_judged"))
        engine.sql(sql("events_kept")).write_parquet(str(scratch), compression="zstd")
        outcomes = _Outcomes()
        for file_id, outcome, event_day, lines, rows, first, last in engine.execute(sql("events_counted")).fetchall():
            if outcome == "kept":
                outcomes.kept[file_id] += lines
                outcomes.days[file_id][event_day] = rows
                # in order of event day
                outcomes.first.setdefault(file_id, first.replace(tzinfo=UTC))
                outcomes.last[file_id] = last.replace(tzinfo=UTC)
            elif outcome == "conflict":
                outcomes.conflict[file_id] += lines
            else:
                outcomes.duplicate[file_id] += lines
        for file_id, line_number, event_sha256 in engine.execute(sql("events_in_conflict")).fetchall():
            outcomes.rejects[file_id].append((line_number, StorageReason.ID_CONFLICT, "event_id", event_sha256))
        return outcomes

    def _write(
        self,
        connection: psycopg.Connection,
        day: date,
        read: Sequence[EventFile],
        taken: Sequence[DeliveredFile],
        digests: Sequence[_DigestFile],
        outcomes: _Outcomes,
    ) -> None:
        written = [self._outcome(one.file, one.counts, one.rejects, outcomes, _refusal_or_remarks(one)) for one in read]
        changed = [file for file in taken if outcomes.duplicate[file.file_id] or outcomes.conflict[file.file_id]]
        before = _rejects_of(connection, changed)
        written += [
            self._outcome(file, file.counts, before[file.file_id], outcomes, (file.status, file.reason, file.detail))
            for file in changed
        ]
        for one in digests:
            refusal = one.digest if isinstance(one.digest, FileRefusal) else None
            written.append(
                FileOutcome(
                    file_id=one.file.file_id,
                    status="rejected" if refusal else "accepted",
                    read_with=storage_day.read_with(self._sources[one.file.source]),
                    reason=refusal.reason if refusal else None,
                    detail=refusal.detail if refusal else None,
                )
            )
            if isinstance(one.digest, Digest):
                cloudtrail_digests.write_digest(
                    connection, one.file.source, one.file.file_id, one.digest, one.signature
                )
        delivery_manifest.write_outcomes(connection, written)
        delivery_manifest.write_duplicates(connection, list(self._sources), day)
        if self._dataset == OBJECT_EVENTS:
            cloudtrail_digests.write_logs(connection, read)

    def _outcome(
        self,
        file: DeliveredFile,
        counts: LineCounts,
        rejects: Sequence[Reject],
        outcomes: _Outcomes,
        said: tuple[str, str | None, str | None],
    ) -> FileOutcome:
        duplicate, conflict = outcomes.duplicate[file.file_id], outcomes.conflict[file.file_id]
        status, reason, detail = said
        return FileOutcome(
            file_id=file.file_id,
            status=status,
            reason=reason,
            detail=detail,
            read_with=storage_day.read_with(self._sources[file.source]),
            counts=replace(
                counts,
                accepted=outcomes.kept[file.file_id],
                duplicate=counts.duplicate + duplicate,
                rejected=counts.rejected + conflict,
            ),
            rejects=[*rejects, *outcomes.rejects[file.file_id]],
            event_days=outcomes.days[file.file_id],
            first_event_at=outcomes.first.get(file.file_id),
            last_event_at=outcomes.last.get(file.file_id),
        )

    def _publish(self, connection: psycopg.Connection, day: date, scratch: Path) -> None:
        final = delivery_manifest.files_of(connection, list(self._sources), day)
        digest = storage_day.inputs_digest(final, self._sources)
        generation = storage_day.new_generation(digest)
        file = self._hands.lake.publish(scratch, dataset=self._dataset, partition=day, generation=generation)
        days = dict(
            self._engine.execute(
                "select event_at::date, count(*) from read_parquet($path) group by 1", {"path": str(scratch)}
            ).fetchall()
        )
        delivery_manifest.write_generation(
            connection,
            self._dataset,
            day,
            generation,
            file,
            rows=sum(days.values()),
            event_days=days,
            inputs_digest=digest,
            code_version=self._run.code_version,
            run_id=self._run.run_id,
        )

    def _write_verdicts(self, connection: psycopg.Connection, day: date, *, was_read: bool) -> None:
        every = delivery_manifest.files_of(connection, list(self._sources), day, ("accepted", "rejected", "held"))
        digest = storage_day.inputs_digest(every, self._sources)
        subject = Subject(asset=self._dataset, partition_key=day.isoformat(), inputs_digest=digest)
        verdicts = [
            lines_conserved(subject, storage_day.sum_counts([file.counts for file in every])),
            files_taken(subject, refused=storage_day.not_taken(every)),
        ]
        if self._dataset == OBJECT_EVENTS and was_read:
            verdicts.append(self._sizes_verdict(connection, subject))
        self._record(connection, day, verdicts)
        if self._dataset == OBJECT_EVENTS:
            self._write_digest_verdict(connection, day)

    def _sizes_verdict(self, connection: psycopg.Connection, subject: Subject) -> Verdict:
        """Return what of the rows that were just judged has no size."""
        unsized = self._engine.execute(
            "select event_name, count(*) from read_events join events_judged using (source, event_id, file_id, line_number)"
            " where outcome = 'kept' and action = 'unsized' group by event_name"
        ).fetchall()
        batches = cloudtrail_digests.batch_deletes(
            connection, list(self._sources), date.fromisoformat(subject.partition_key)
        )
        return sizes_known(subject, unsized=dict(unsized), batch_deletes=batches)

    def _write_digest_verdict(self, connection: psycopg.Connection, day: date) -> None:
        self._record(connection, day, [cloudtrail_digests.verdict(connection, list(self._sources.values()), day)])

    def _record(self, connection: psycopg.Connection, day: date, verdicts: Sequence[Verdict]) -> None:
        judged: list[Verdict] = []
        for verdict in verdicts:
            released = guard_store.released_guards(connection, self._dataset, {day.isoformat(): verdict.inputs_digest})
            judged += storage_day.with_releases([verdict], released, day)
        guard_store.record(connection, judged, run_id=self._run.run_id)


def _touched(digest: Digest | FileRefusal) -> frozenset[date]:
    return cloudtrail_digests.touched_days(digest) if isinstance(digest, Digest) else frozenset()


def _refusal_or_remarks(read: EventFile) -> tuple[str, str | None, str | None]:
    """Return status, reason and detail of a file that was read."""
    if read.refusal is not None:
        return "rejected", read.refusal.reason, read.refusal.detail
    remarks = [read.file.detail] if read.file.reason is not None and read.file.detail else []
    remarks += [f"{why}: {count}" for why, count in sorted(read.ignored.items())]
    return "accepted", read.file.reason, "; ".join(remarks) or None


def _rejects_of(connection: psycopg.Connection, files: Sequence[DeliveredFile]) -> Mapping[int, Sequence[Reject]]:
    """Return what the quarantine holds of files."""
    rejects: dict[int, list[Reject]] = {file.file_id: [] for file in files}
    rows = connection.execute(
        "select file_id, line_number, reason, field, line_sha256 from core.quarantine where file_id = any(%s)",
        [list(rejects)],
    ).fetchall()
    for file_id, *reject in rows:
        rejects[file_id].append((reject[0], reject[1], reject[2], reject[3]))
    return rejects
