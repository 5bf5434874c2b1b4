"""Publish what a draft holds: new samples into the day's generation, and all that follows from them, in one transaction.

Merging happens under the locks of the days: two runs that read the same snapshots end in one result, and a run that is killed
leaves nothing behind but a lake file that nothing points at. Not here: reading (traffic_pull, traffic_files).
"""

import hashlib
import json
import secrets
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from pathlib import Path

import duckdb
import psycopg

from billing_pipeline.checks import Verdict
from billing_pipeline.records import LineCounts
from billing_pipeline.traffic_sample_checks import SampleCounts
from resources import delivery_manifest, traffic_manifest
from resources.database import Database
from resources.delivery_manifest import FileOutcome
from resources.lake import Lake
from resources.traffic_config import TrafficSource
from resources.traffic_files import FileReading
from resources.traffic_guards import judge_day
from resources.traffic_manifest import Refusal
from resources.traffic_progress import write_progress
from resources.traffic_samples import DATASET, Draft, DraftSnapshot, merge
from resources.traffic_windows import Attempt, judge_windows, source_lock


@dataclass(slots=True, kw_only=True)
class DayPublished:
    """What was published of a day. Counts are of what came in; verdicts are the last ones."""

    new_snapshots: int = 0
    repeated_snapshots: int = 0
    samples: SampleCounts = field(default_factory=SampleCounts)
    verdicts: tuple[Verdict, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Publisher:
    """Writes for one run. `sources` are all that are configured: a day is judged over all of them."""

    database: Database
    lake: Lake
    sources: Sequence[TrafficSource]
    scratch_dir: Path
    engine: duckdb.DuckDBPyConnection
    now: datetime
    run_id: str
    code_version: str

    def publish(
        self,
        draft: Draft,
        *,
        days: Collection[date],
        attempts: Mapping[str, Attempt],
        refusals: Sequence[Refusal] = (),
        files: Sequence[FileReading] = (),
    ) -> Mapping[date, DayPublished]:
        """Publish the draft and judge its days and `days`; return what became of each."""
        draft_file = draft.finish()
        touched = sorted({*days, *(snapshot.day for snapshot in draft.snapshots)})
        locks = [f"{DATASET}|{day}" for day in touched] + [source_lock(source.name) for source in self.sources]
        done = {day: DayPublished() for day in touched}
        with self.database.transaction(*locks) as connection:
            waiting = _still_waiting(connection, files)
            snapshots = [one for one in draft.snapshots if one.file_id is None or one.file_id in waiting]
            new, repeated = _split(connection, snapshots)
            for day in touched:
                new_of_day = [one for one in new if one.day == day]
                done[day].new_snapshots = len(new_of_day)
                done[day].repeated_snapshots = sum(one.day == day for one in repeated)
                if new_of_day:
                    done[day].samples = self._publish_day(connection, day, new_of_day, draft_file)
            traffic_manifest.write_snapshots(connection, new, received_at=self.now)
            traffic_manifest.write_refusals(connection, refusals, found_at=self.now)
            delivery_manifest.write_outcomes(
                connection, _outcomes([one for one in files if one.file_id in waiting], new, repeated)
            )
            self._judge(connection, touched, attempts, done)
        return done

    def _judge(
        self,
        connection: psycopg.Connection,
        days: Sequence[date],
        attempts: Mapping[str, Attempt],
        done: Mapping[date, DayPublished],
    ) -> None:
        for source in self.sources:
            for day in days:
                judge_windows(connection, source, day, now=self.now, attempt=attempts.get(source.name))
        write_progress(connection, self.sources, attempts)
        for day in days:
            done[day].verdicts = judge_day(connection, self.sources, day, now=self.now, run_id=self.run_id)

    def _publish_day(
        self, connection: psycopg.Connection, day: date, snapshots: Sequence[DraftSnapshot], draft_file: Path
    ) -> SampleCounts:
        """Write the day's next generation, and return what became of the samples that came in."""
        before = traffic_manifest.day_counts(connection, day)
        accepted = sum(snapshot.sample_count for snapshot in snapshots)
        rejected = sum(len(snapshot.rejected) for snapshot in snapshots)
        if not accepted:
            came_in = SampleCounts(read=rejected, rejected=rejected)
            traffic_manifest.write_day(connection, day, before + came_in, updated_at=self.now)
            return came_in
        current = delivery_manifest.current_generation(connection, DATASET, day)
        target = self.scratch_dir / f"ingest-traffic-{day}-{secrets.token_hex(6)}.parquet"
        try:
            merged = merge(
                self.engine,
                current=None if current is None else self.lake.fetch(current.uri),
                draft=draft_file,
                snapshots=snapshots,
                conflicts=traffic_manifest.conflicts_of(connection, day),
                target=target,
            )
            digest = _digest(
                [current.inputs_digest if current else "", sorted(one.content_sha256 for one in snapshots)]
            )
            generation = f"{digest[:16]}-{secrets.token_hex(6)}"
            published = self.lake.publish(target, dataset=DATASET, partition=day, generation=generation)
        finally:
            target.unlink(missing_ok=True)
        delivery_manifest.write_generation(
            connection,
            DATASET,
            day,
            generation,
            published,
            rows=merged.rows,
            event_days={day: merged.rows},
            inputs_digest=digest,
            code_version=self.code_version,
            run_id=self.run_id,
        )
        traffic_manifest.write_conflicts(connection, day, merged.new_conflicts, found_at=self.now)
        came_in = SampleCounts(
            read=accepted + rejected,
            kept=merged.rows - before.kept,
            duplicate=merged.duplicates,
            conflict=len(merged.new_conflicts),
            rejected=rejected,
        )
        traffic_manifest.write_day(connection, day, before + came_in, updated_at=self.now)
        return came_in


def _still_waiting(connection: psycopg.Connection, files: Sequence[FileReading]) -> frozenset[int]:
    """Return the ids of the files that nobody else has read meanwhile; nobody will before this transaction ends."""
    rows = connection.execute(
        "select file_id from core.source_file where file_id = any(%s) and status = 'pending' order by file_id for update",
        [[file.file_id for file in files]],
    ).fetchall()
    return frozenset(row[0] for row in rows)


def _split(
    connection: psycopg.Connection, snapshots: Sequence[DraftSnapshot]
) -> tuple[list[DraftSnapshot], list[DraftSnapshot]]:
    """Return those that are new, each once, and those that were taken before, or twice."""
    seen = set(traffic_manifest.known_snapshots(connection, snapshots))
    new: list[DraftSnapshot] = []
    repeated: list[DraftSnapshot] = []
    for snapshot in snapshots:
        (repeated if snapshot.key in seen else new).append(snapshot)
        seen.add(snapshot.key)
    return new, repeated


def _outcomes(
    files: Sequence[FileReading], new: Sequence[DraftSnapshot], repeated: Sequence[DraftSnapshot]
) -> list[FileOutcome]:
    """Return what became of each file. Its lines are samples; those of a snapshot that is known are duplicates."""
    taken: dict[int | None, list[DraftSnapshot]] = defaultdict(list)
    duplicates: Counter[int | None] = Counter()
    for snapshot in new:
        taken[snapshot.file_id].append(snapshot)
    for snapshot in repeated:
        duplicates[snapshot.file_id] += snapshot.sample_count
    return [_outcome(file, taken[file.file_id], duplicates[file.file_id]) for file in files]


def _outcome(file: FileReading, taken: Sequence[DraftSnapshot], duplicate: int) -> FileOutcome:
    days: Counter[date] = Counter()
    for snapshot in taken:
        days[snapshot.day] += snapshot.sample_count
    accepted = days.total()
    instants = sorted(one.collected_at for one in taken)
    return replace(
        file.outcome,
        counts=LineCounts(
            lines_read=accepted + duplicate + len(file.outcome.rejects),
            accepted=accepted,
            rejected=len(file.outcome.rejects),
            duplicate=duplicate,
            out_of_scope=0,
        ),
        event_days=days,
        first_event_at=instants[0] if instants else None,
        last_event_at=instants[-1] if instants else None,
    )


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
