"""Traffic of event days in PostgreSQL: which days are stale, and building them from the samples in the lake.

A day's build reads the day and its tail, the last sample of every stream before it; never history. Days that follow each other
are scanned together. Of a day before those that was never looked at, or whose samples changed, just the tail is made. Not
here: the rule (billing_pipeline/counters.py and its SQL), one scan's writing (traffic_day_writer), when to build (assets).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from billing_pipeline.catalog import Catalog
from billing_pipeline.errors import BillingError
from billing_pipeline.meters import MeterSource
from resources import guard_store
from resources.catalog_store import CatalogStore
from resources.database import Database
from resources.disk import disk_failures_explained
from resources.lake import Lake
from resources.traffic_config import TrafficSource
from resources.traffic_day_writer import TailPointer, TrafficDayBuild, TrafficDayWriter, TrafficRun, Written
from resources.traffic_inputs import (
    ASSET,
    FirstSnapshot,
    Node,
    TrafficDay,
    chain_digest,
    read_days,
    read_first_snapshots,
    read_policies,
    rules_digest,
)
from resources.traffic_scan import TrafficScan, TrafficScanInputs
from resources.usage_rules import DAY, UsageRules, usage_rules

# Of one scan and transaction: few enough that a crash loses little and disks hold it, many enough that a year is a few scans.
DAYS_PER_RUN = 32
SAMPLES_PER_RUN = 40_000_000
ATTEMPTS = 5

Progress = Callable[[str, int, int], None]


class TrafficInputsKeepChangingError(BillingError):
    """Samples of a day were replaced each time that it was read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficState:
    """What one look at PostgreSQL has found: every day with samples or a build, and the rules."""

    catalog: Catalog
    days: tuple[TrafficDay, ...]
    first_snapshots: tuple[FirstSnapshot, ...]
    policies: Mapping[Node, TrafficSource]

    def is_derived(self, day: TrafficDay, tail: TailPointer) -> bool:
        """Tell whether the day's tail is what its samples and `tail`, that of the day before, make of it."""
        chain = chain_digest(
            day,
            tail_digest=tail.digest,
            first_snapshots=self.first_snapshots,
            policies=self.policies,
            nodes=day.nodes,
        )
        return day.uri is None or day.chain_digest == chain

    def with_tails(self) -> Iterator[tuple[TrafficDay, TailPointer]]:
        """Yield each day with the tail of the day with samples before it."""
        tail = TailPointer()
        for day in self.days:
            yield day, tail
            tail = _tail_after(day, tail)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficUsageStore:
    """Builds `usage.traffic_minute` and `usage.traffic`. `sources` say how the nodes' counters are read; a node that is none of
    them any more is read as it was on the newest of its days, or by the defaults.

    `memory_limit` (DuckDB's spelling) and `threads` bound a scan; what does not fit is spilled below `scratch_dir`.
    """

    database: Database
    lake: Lake
    scratch_dir: Path
    sources: Sequence[TrafficSource] = ()
    memory_limit: str = "1GB"
    threads: int = 2

    def stale_days(self) -> tuple[date, ...]:
        """Return the event days whose samples, tail or rules differ from what they were last built from, ascending.

        Among them: held days that a person has released since, or whose samples are not held any more.

        Raises:
            CatalogNotLoadedError: there are no rules to compare with.
        """
        state = self.read_state()
        with self.database.reading() as connection:
            held = {day.day.isoformat(): day.built_inputs_digest or "" for day in state.days if day.is_held}
            let_through = guard_store.let_through(connection, ASSET, held)
        digests = self._rules(state, state.days).digests
        return tuple(
            day.day
            for day, tail in state.with_tails()
            if day.uri is not None
            and (
                day.built_inputs_digest != day.content_digest
                or day.built_rules_digest != rules_digest(digests[day.day], state.policies, day.nodes)
                or not state.is_derived(day, tail)
                or day.day.isoformat() in let_through
            )
        )

    def build_days(
        self, days: Sequence[date], *, run_id: str, code_version: str, on_progress: Progress | None = None
    ) -> tuple[TrafficDayBuild, ...]:
        """Build `days` and return what became of each, by day.

        Days whose samples change while they are built are read again, so that the newest inputs win.

        Raises:
            CatalogNotLoadedError: there are no rules yet.
            LakeFileMissingError: PostgreSQL points at a lake file that is not there.
            TrafficInputsKeepChangingError: samples changed during each of several attempts.
            DiskError: the scratch folder cannot be written.
        """
        wanted = frozenset(days)
        builds: dict[date, TrafficDayBuild] = {}
        for _ in range(ATTEMPTS):
            remaining = wanted - builds.keys()
            if not remaining:
                break
            for written in self._runs(remaining, run_id=run_id, code_version=code_version):
                builds.update(written.builds)
                if on_progress:
                    on_progress("event days", len(builds), len(wanted))
        left = sorted(wanted - builds.keys())
        if left:
            raise TrafficInputsKeepChangingError(
                f"Traffic of {', '.join(map(str, left))} was not built: samples changed during each of {ATTEMPTS} attempts.",
                bill="These days keep their last good usage, or none; other days of this run are built.",
                fix="Wait until the samples are collected, then build the days again.",
            )
        return tuple(builds[day] for day in sorted(wanted))

    def read_state(self, days: Sequence[date] = ()) -> TrafficState:
        catalog = CatalogStore(self.database).current()
        with self.database.reading() as connection:
            return TrafficState(
                catalog=catalog,
                days=read_days(connection, days),
                first_snapshots=read_first_snapshots(connection),
                policies={
                    **read_policies(connection),
                    **{(source.env, source.node): source for source in self.sources},
                },
            )

    def _runs(self, remaining: frozenset[date], *, run_id: str, code_version: str) -> Iterator[Written]:
        """Yield what each run over days up to the last of `remaining` left; end early when inputs have changed."""
        state = self.read_state(sorted(remaining))
        queue = [day for day in state.days if day.day <= max(remaining)]
        tail, index = TailPointer(), 0
        while index < len(queue):
            day = queue[index]
            if day.day not in remaining and state.is_derived(day, tail):
                tail, index = _tail_after(day, tail), index + 1
                continue
            run = _together(queue[index:], remaining)
            written = self._write(state, run, remaining, tail, run_id=run_id, code_version=code_version)
            if written is None:
                return
            yield written
            tail, index = written.tail, index + len(run)

    def _write(
        self,
        state: TrafficState,
        days: tuple[TrafficDay, ...],
        wanted: frozenset[date],
        tail: TailPointer,
        *,
        run_id: str,
        code_version: str,
    ) -> Written | None:
        run = TrafficRun(
            days=days,
            wanted=wanted,
            tail=tail,
            policies=state.policies,
            first_snapshots=state.first_snapshots,
            catalog_digests=self._rules(state, days).digests,
            run_id=run_id,
            code_version=code_version,
        )
        with disk_failures_explained(self.scratch_dir), self.scan(state, days, tail) as scan:
            return TrafficDayWriter(self.database, self.lake, run, scan).write()

    def scan(self, state: TrafficState, days: Sequence[TrafficDay], tail: TailPointer) -> TrafficScan:
        """Return what the samples of `days`, which follow each other, and the tail before them come to. The caller closes it.

        Raises:
            LakeFileMissingError: PostgreSQL points at a lake file that is not there.
        """
        inputs = TrafficScanInputs(
            days=tuple(day.day for day in days),
            sample_files=tuple(self.lake.fetch(day.uri) for day in days if day.uri is not None),
            tail_file=None if tail.uri is None else self.lake.fetch(tail.uri),
            first_snapshots=state.first_snapshots,
            policies=state.policies,
            rules=self._rules(state, days),
            held_after={day.day: day.held_after for day in days if day.day + DAY not in {one.day for one in days}},
        )
        return TrafficScan(inputs, scratch_dir=self.scratch_dir, memory_limit=self.memory_limit, threads=self.threads)

    def _rules(self, state: TrafficState, days: Sequence[TrafficDay]) -> UsageRules:
        return usage_rules(state.catalog, [day.day for day in days], MeterSource.TRAFFIC)


def _together(queue: Sequence[TrafficDay], remaining: frozenset[date]) -> tuple[TrafficDay, ...]:
    """Return the first days of `queue` that are scanned at once: wanted ones, and such that were never looked at."""
    run, samples = [queue[0]], queue[0].rows
    for day in queue[1:]:
        samples += day.rows
        is_due = day.day in remaining or (day.uri is not None and day.chain_digest is None)
        if not is_due or len(run) == DAYS_PER_RUN or samples > SAMPLES_PER_RUN:
            break
        run.append(day)
    return tuple(run)


def _tail_after(day: TrafficDay, tail: TailPointer) -> TailPointer:
    if day.uri is None:
        return tail
    return TailPointer() if day.tail_digest is None else TailPointer(digest=day.tail_digest, uri=day.tail_uri)
