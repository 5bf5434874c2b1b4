"""Collect traffic: exporters, pushed and dropped files -> `core/traffic_samples` by UTC day, with proof of what is complete.

Only windows that are not complete are read. What was read is kept day by day, so that a run that is killed goes on where it
was; a source that fails stops nobody else. Everything that a day changes in PostgreSQL is one transaction under its lock. Not
here: reading (traffic_pull, traffic_files), merging (traffic_samples), writing (traffic_publisher), deltas and usage.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb

from billing_pipeline.checks import Verdict
from billing_pipeline.errors import BillingError
from billing_pipeline.sources.traffic_snapshots import Pseudonymise
from billing_pipeline.traffic_sample_checks import SampleCounts
from resources import delivery_manifest, duck, guard_store, traffic_due, traffic_gaps, traffic_reader
from resources.database import Database
from resources.disk import disk_failures_explained
from resources.lake import Lake
from resources.landing import Landing
from resources.scratch import sweep_scratch
from resources.traffic_config import TrafficSource
from resources.traffic_files import discover, read_file
from resources.traffic_gaps import GapClosed
from resources.traffic_publisher import DayPublished, Publisher
from resources.traffic_pull import LARGEST_DRAFT, MOST_WINDOWS, Clients, Pull
from resources.traffic_reader import NodeDay, SourceStatus
from resources.traffic_receipts import e_mail_pseudonyms
from resources.traffic_samples import DATASET, Draft
from resources.traffic_windows import Attempt

# What a killed process has left in the scratch folder goes after this time.
LEFTOVERS_LAST = timedelta(days=1)

Progress = Callable[[str, int, int], None]


class UnknownNodeError(BillingError):
    """A run names a node that no source has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DayCollected:
    """A day after a run. `samples`: what came in, by what became of it; `rows`, `windows` and `verdicts`: as the day is now.

    `generation` and `uri` are empty while the day has no sample. `failures`: source -> why it was not read in this run.
    """

    day: date
    generation: str
    uri: str
    rows: int
    new_snapshots: int
    repeated_snapshots: int
    samples: SampleCounts
    windows: tuple[NodeDay, ...]
    verdicts: tuple[Verdict, ...]
    failures: Mapping[str, str]


@dataclass(slots=True, kw_only=True)
class _Tally:
    new_snapshots: int = 0
    repeated_snapshots: int = 0
    samples: SampleCounts = field(default_factory=SampleCounts)

    def add(self, published: DayPublished) -> None:
        self.new_snapshots += published.new_snapshots
        self.repeated_snapshots += published.repeated_snapshots
        self.samples += published.samples


class TrafficStore:
    """Everything about collected traffic, over exporters, the landing zone, the lake and PostgreSQL."""

    def __init__(
        self,
        database: Database,
        lake: Lake,
        landing: Landing,
        sources: Sequence[TrafficSource],
        clients: Clients,
        scratch_dir: Path,
        pseudonym_key: bytes | None = None,
        *,
        memory_limit: str = "1GB",
        threads: int = 2,
        most_windows: int = MOST_WINDOWS,
        largest_draft: int = LARGEST_DRAFT,
    ) -> None:
        """`pseudonym_key` None: accounts that are known by e-mail only are refused. `most_windows`: of a source, in a run."""
        self._database = database
        self._lake = lake
        self._landing = landing
        self._sources = tuple(sources)
        self._clients = clients
        self._scratch_dir = scratch_dir
        self._pseudonymise: Pseudonymise | None = None if pseudonym_key is None else e_mail_pseudonyms(pseudonym_key)
        self._memory_limit = memory_limit
        self._threads = threads
        self._most_windows = most_windows
        self._largest_draft = largest_draft

    def discover(self, *, seen_at: datetime) -> None:
        """Register the files that were dropped or pushed. The same file again: nothing."""
        discover(self._database, self._landing, self._sources, seen_at=seen_at)

    def due_days(self, now: datetime) -> tuple[date, ...]:
        """Return the days that have something to collect at `now` (aware), ascending; see traffic_due."""
        with self._database.reading() as connection:
            return traffic_due.due_days(connection, self._sources, now=now.astimezone(UTC))

    def coverage(self, days: Sequence[date]) -> tuple[NodeDay, ...]:
        """Return a row for each source and day of which a window was judged."""
        with self._database.reading() as connection:
            return traffic_reader.coverage(connection, self._sources, days)

    def statuses(self, now: datetime) -> tuple[SourceStatus, ...]:
        """Return how far each source is read, and how old that is at `now` (aware)."""
        with self._database.reading() as connection:
            return traffic_reader.source_statuses(connection, self._sources, now=now.astimezone(UTC))

    def close_gap(
        self,
        *,
        source: str,
        window_start: datetime,
        window_end: datetime,
        actor: str,
        reason: str,
        now: datetime,
        run_id: str,
    ) -> GapClosed:
        """Close open gaps of a source, as a person decided; see traffic_gaps."""
        return traffic_gaps.close_gap(
            self._database,
            self._sources,
            source=source,
            window_start=window_start,
            window_end=window_end,
            actor=actor,
            reason=reason,
            now=now.astimezone(UTC),
            run_id=run_id,
        )

    def collect_days(
        self,
        days: Sequence[date],
        *,
        now: datetime,
        run_id: str,
        code_version: str,
        only_nodes: frozenset[str] | None = None,
        on_progress: Progress | None = None,
    ) -> tuple[DayCollected, ...]:
        """Read what is missing of `days` and every file that waits; return these days and others that files have touched.

        `now` (aware) is the instant of the run; `only_nodes`: names of nodes, None for all. A source that fails is named in the
        result; nothing of it is taken for complete.

        Raises:
            UnknownNodeError: `only_nodes` names a node that no source has.
        """
        now = now.astimezone(UTC)
        sources = self._chosen(only_nodes)
        tallies: dict[date, _Tally] = defaultdict(_Tally, {day: _Tally() for day in days})

        def told(published: Mapping[date, DayPublished]) -> None:
            for day, one in published.items():
                tallies[day].add(one)

        sweep_scratch(self._scratch_dir, unused_since=now - LEFTOVERS_LAST)
        with disk_failures_explained(self._scratch_dir), self._engine() as engine:
            publisher = Publisher(
                database=self._database,
                lake=self._lake,
                sources=self._sources,
                scratch_dir=self._scratch_dir,
                engine=engine,
                now=now,
                run_id=run_id,
                code_version=code_version,
            )
            self._take_files(sources, publisher, told)
            pull = Pull(
                publisher=publisher,
                clients=self._clients,
                told=told,
                most_windows=self._most_windows,
                largest_draft=self._largest_draft,
            )
            with pull.closing():
                for number, day in enumerate(sorted(set(days))):
                    if on_progress is not None:
                        on_progress(f"collecting traffic of {day}", number, len(days))
                    pull.read_day(day, sources)
        failures = {name: one.error for name, one in pull.attempts.items() if one.error is not None}
        return tuple(self._collected(day, tallies[day], failures) for day in sorted(tallies))

    def _chosen(self, only_nodes: frozenset[str] | None) -> tuple[TrafficSource, ...]:
        if only_nodes is None:
            return self._sources
        unknown = only_nodes - {source.node for source in self._sources}
        if unknown:
            raise UnknownNodeError(
                f"no source has the node {', '.join(sorted(unknown))}",
                bill="nothing was collected; what was billed before stands",
                fix=f"name nodes of traffic.toml: {', '.join(sorted(source.node for source in self._sources))}",
            )
        return tuple(source for source in self._sources if source.node in only_nodes)

    def _engine(self) -> duckdb.DuckDBPyConnection:
        return duck.connect(self._scratch_dir, self._memory_limit, self._threads)

    def _take_files(
        self,
        sources: Sequence[TrafficSource],
        publisher: Publisher,
        told: Callable[[Mapping[date, DayPublished]], None],
    ) -> None:
        """Read the files that wait, in groups that are published one by one."""
        discover(self._database, self._landing, sources, seen_at=publisher.now)
        by_name = {source.name: source for source in sources}
        with self._database.reading() as connection:
            waiting = list(delivery_manifest.pending(connection, list(by_name)))
        while waiting:
            with Draft.below(self._scratch_dir) as draft:
                readings = []
                while waiting and draft.sample_count < self._largest_draft:
                    file = waiting.pop(0)
                    source = by_name[file.source]
                    readings.append(read_file(self._landing, file, source, draft, pseudonymise=self._pseudonymise))
                attempts = {one.source: Attempt(source=one.source, attempted_at=publisher.now) for one in readings}
                told(publisher.publish(draft, days=[], attempts=attempts, files=readings))

    def _collected(self, day: date, tally: _Tally, failures: Mapping[str, str]) -> DayCollected:
        with self._database.reading() as connection:
            generation = delivery_manifest.current_generation(connection, DATASET, day)
            return DayCollected(
                day=day,
                generation=generation.generation if generation else "",
                uri=generation.uri if generation else "",
                rows=generation.row_count if generation else 0,
                new_snapshots=tally.new_snapshots,
                repeated_snapshots=tally.repeated_snapshots,
                samples=tally.samples,
                windows=traffic_reader.coverage(connection, self._sources, [day]),
                verdicts=guard_store.verdicts(connection, DATASET, [day.isoformat()]),
                failures=failures,
            )
