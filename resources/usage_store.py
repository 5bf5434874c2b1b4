"""Usage of event days in PostgreSQL: which days are stale, and building them from the lake in one pass.

A day is replaced as a whole, in one transaction with its build row, its verdicts and what was found in conflict. A day that a
guard holds keeps its last good rows. Not here: what counts (billing_pipeline/sql), when to build (assets). ADRs 0006, 0007.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field
from datetime import date
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Protocol

import psycopg
import pyarrow as pa
import pyarrow.compute as pc

from billing_pipeline import checks
from billing_pipeline.checks import Outcomes, Subject, Verdict
from billing_pipeline.errors import BillingError
from resources import guard_store
from resources.catalog_store import CatalogStore
from resources.database import Database, copy_arrow
from resources.disk import disk_failures_explained
from resources.lake import Lake
from resources.usage_builds import UsageBuild, write_builds
from resources.usage_facts import DayFacts
from resources.usage_inputs import (
    ASSET,
    OWN_ACTOR,
    DayInputs,
    read_counted_files,
    read_decisions,
    read_inputs,
    read_open_versions,
)
from resources.usage_rules import UsageRules, usage_rules
from resources.usage_scan import LakePart, ScanInputs, UsageScan

# Days of one transaction: few enough that a crash loses little, many enough that commits cost nothing.
DAYS_PER_TRANSACTION = 32
ATTEMPTS = 5
# Rows of a group that is written while others are.
ROWS_HELD = 1 << 18

Progress = Callable[[str, int, int], None]


class InputsKeepChangingError(BillingError):
    """Files of a day were replaced each time that it was read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DayBuild:
    """What a build of an event day did. `state`: `built`, or `held`: the last good rows stay.

    `quantity_by_meter`: over all accounts, of meters that count, sum, or take a maximum or minimum.
    `requests_by_hour`: records in the lake per hour (UTC), 24 of them. `top_accounts`: (account, billable requests).
    """

    day: date
    state: str
    records_read: int
    billable: int
    not_billable_by_reason: Mapping[str, int]
    duplicates: int
    conflicts: int
    usage_rows: int
    quantity_by_meter: Mapping[str, Decimal]
    top_accounts: tuple[tuple[str, int], ...]
    requests_by_hour: tuple[int, ...]
    inputs_digest: str
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageStore:
    """Builds `usage.api_requests`. `expectations`: source -> hours of the day (UTC) in which it always delivers.

    `memory_limit` (DuckDB's spelling) and `threads` bound the scan; what does not fit is spilled below `scratch_dir`.
    """

    database: Database
    lake: Lake
    scratch_dir: Path
    memory_limit: str = "1GB"
    threads: int = 2
    expectations: Mapping[str, frozenset[int]] = field(default_factory=dict)

    def stale_days(self) -> tuple[date, ...]:
        """Return the event days whose inputs or rules differ from what they were last built from, ascending.

        Among them: days that have lost all of their files, and held days that a person has released since.

        Raises:
            CatalogNotLoadedError: there are no rules to compare with.
        """
        catalog = CatalogStore(self.database).current()
        with self.database.reading() as connection:
            inputs = read_inputs(connection, None)
            held = {day.day.isoformat(): day.inputs_digest for day in inputs if day.is_held}
            let_through = guard_store.let_through(connection, ASSET, held)
        digests = usage_rules(catalog, [day.day for day in inputs]).digests
        return tuple(
            day.day
            for day in inputs
            if day.built_inputs_digest != day.inputs_digest
            or day.built_rules_digest != digests[day.day]
            or day.day.isoformat() in let_through
        )

    def build_days(
        self, days: Sequence[date], *, run_id: str, code_version: str, on_progress: Progress | None = None
    ) -> tuple[DayBuild, ...]:
        """Build `days` from one pass over the lake and return what became of each, by day.

        A day whose files change while it is built is read again, so that the newest inputs win.

        Raises:
            CatalogNotLoadedError: there are no rules yet.
            LakeFileMissingError: PostgreSQL points at a lake file that is not there.
            InputsKeepChangingError: a day changed during each of several attempts.
            DiskError: the scratch folder cannot be written.
        """
        builds: dict[date, DayBuild] = {}
        wanted = sorted(set(days))
        for _ in range(ATTEMPTS):
            remaining = [day for day in wanted if day not in builds]
            if not remaining:
                break
            plan = self._plan(remaining)
            with disk_failures_explained(self.scratch_dir), self._scan(plan) as scan:
                facts = scan.facts()
                writer = _DayWriter(self, plan, scan, facts, run_id=run_id, code_version=code_version)
                with closing(writer.write_all(remaining)) as groups:
                    for written in groups:
                        builds.update(written)
                        if on_progress:
                            on_progress("event days", len(builds), len(wanted))
        else:
            left = [day.isoformat() for day in wanted if day not in builds]
            if left:
                raise InputsKeepChangingError(
                    f"Usage of {', '.join(left)} was not built: its files changed during each of {ATTEMPTS} attempts.",
                    bill="These days keep their last good usage, or none; other days of this run are built.",
                    fix="Wait until the delivery is ingested, then build the days again.",
                )
        return tuple(builds[day] for day in wanted)

    def _plan(self, days: Sequence[date]) -> "_Plan":
        catalog = CatalogStore(self.database).current()
        with self.database.reading() as connection:
            inputs = read_inputs(connection, days)
            decisions = read_decisions(connection, inputs)
            counted = read_counted_files(connection, inputs)
            open_versions = read_open_versions(connection, inputs)
        rules = usage_rules(catalog, days)
        parts = tuple(
            LakePart(
                path=self.lake.fetch(generation.uri),
                event_day=day.day,
                rows=generation.rows,
                has_conflicts=generation.conflicts > 0,
            )
            for day in inputs
            for generation in day.generations
        )
        scan = ScanInputs(
            days=tuple(days),
            parts=parts,
            rules=rules,
            decisions=decisions,
            counted_files=counted,
            open_versions=open_versions,
        )
        return _Plan(inputs={day.day: day for day in inputs}, rules=rules, scan=scan)

    def _scan(self, plan: "_Plan") -> UsageScan:
        return UsageScan(plan.scan, scratch_dir=self.scratch_dir, memory_limit=self.memory_limit, threads=self.threads)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    inputs: Mapping[date, DayInputs]
    rules: UsageRules
    scan: ScanInputs


class _DayRows(Protocol):
    """Rows of days, as a scan gives them."""

    def usage_rows(self, days: Sequence[date]) -> Iterable[pa.RecordBatch]: ...
    def not_billable_rows(self, days: Sequence[date]) -> Iterable[pa.RecordBatch]: ...


@dataclass(frozen=True, slots=True)
class _HeldRows:
    """Rows of a few days, taken from a scan, which answers one question at a time."""

    usage: tuple[pa.RecordBatch, ...]
    not_billable: tuple[pa.RecordBatch, ...]

    @classmethod
    def of(cls, scan: UsageScan, days: Sequence[date]) -> "_HeldRows":
        return cls(tuple(scan.usage_rows(days)), tuple(scan.not_billable_rows(days)))

    def usage_rows(self, days: Sequence[date]) -> Iterator[pa.RecordBatch]:
        return _of_days(self.usage, days)

    def not_billable_rows(self, days: Sequence[date]) -> Iterator[pa.RecordBatch]:
        return _of_days(self.not_billable, days)


class _DayWriter:
    """Writes scanned days, a group of them per transaction."""

    def __init__(
        self,
        store: UsageStore,
        plan: _Plan,
        scan: UsageScan,
        facts: Mapping[date, DayFacts],
        *,
        run_id: str,
        code_version: str,
    ) -> None:
        self._store = store
        self._plan = plan
        self._scan = scan
        self._facts = facts
        self._run_id = run_id
        self._code_version = code_version

    def write_all(self, days: Sequence[date]) -> Generator[Mapping[date, DayBuild], None, None]:
        """Write `days`, and yield those of each group that were.

        Groups are written side by side: most of a write is waiting for the server. Their rows are held meanwhile, so a group
        of many rows is written alone, as they come. Conflicts are written in turn: days of two groups may share one.
        """
        groups = list(_groups(days))
        has_conflicts = any(facts.conflict_versions or facts.billed_already for facts in self._facts.values())
        at_once = 0 if has_conflicts or len(groups) == 1 else self._store.threads
        with ThreadPoolExecutor(max(1, at_once), thread_name_prefix="usage") as pool:
            writing: deque[Future[Mapping[date, DayBuild]]] = deque()
            for group in groups:
                if at_once and sum(map(self._most_rows, group)) <= ROWS_HELD:
                    rows = _HeldRows.of(self._scan, group)
                    while len(writing) >= at_once:
                        yield writing.popleft().result()
                    writing.append(pool.submit(self.write, group, rows))
                    continue
                while writing:
                    yield writing.popleft().result()
                yield self.write(group, self._scan)
            while writing:
                yield writing.popleft().result()

    def _most_rows(self, day: date) -> int:
        facts = self._facts[day]
        return facts.usage_rows + sum(facts.not_billable_by_reason.values())

    def write(self, days: Sequence[date], rows: _DayRows) -> Mapping[date, DayBuild]:
        """Write those of `days` whose inputs are still what was scanned, and return them."""
        with self._store.database.transaction(*(f"{ASSET}|{day.isoformat()}" for day in days)) as connection:
            now = {day.day: day for day in read_inputs(connection, days)}
            current = [day for day in days if self._is_current(now[day])]
            verdicts = self._verdicts(connection, current)
            held = {day for day in current if checks.holds(verdicts[day])}
            built = [day for day in current if day not in held]
            self._write_conflicts(connection, current)
            self._write_builds(connection, current, held)
            self._replace_rows(connection, built, rows)
            guard_store.record(connection, (one for day in current for one in verdicts[day]), run_id=self._run_id)
        return {day: self._build(day, "held" if day in held else "built", verdicts[day]) for day in current}

    def _is_current(self, now: DayInputs) -> bool:
        scanned = self._plan.inputs[now.day]
        if (scanned.inputs_digest, scanned.generations) != (now.inputs_digest, now.generations):
            return False
        # Which side of a conflict is billed already depends on the last build, so a build in between matters to it.
        has_conflicts = bool(self._facts[now.day].conflict_versions)
        return not has_conflicts or scanned.counted_file_ids == now.counted_file_ids

    def _verdicts(self, connection: psycopg.Connection, days: Sequence[date]) -> Mapping[date, tuple[Verdict, ...]]:
        digests = {day.isoformat(): self._plan.inputs[day].inputs_digest for day in days}
        released = guard_store.released_guards(connection, ASSET, digests)
        return {day: checks.with_releases(self._judge(day), released.get(day.isoformat(), frozenset())) for day in days}

    def _judge(self, day: date) -> tuple[Verdict, ...]:
        facts, inputs = self._facts[day], self._plan.inputs[day]
        subject = Subject(asset=ASSET, partition_key=day.isoformat(), inputs_digest=inputs.inputs_digest)
        outcomes = _outcomes(facts)
        return (
            checks.records_conserved(subject, outcomes, in_lake=inputs.lake_rows, in_files=inputs.file_rows),
            checks.no_conflict(subject, records=facts.records_read, open_identities=facts.open_identities),
            checks.hours_delivered(subject, expected=self._store.expectations, records_by_hour=facts.records_by_hour),
            checks.usage_equals_records(
                subject, usage=facts.usage_by_count_meter, records=facts.records_by_count_meter
            ),
        )

    def _write_conflicts(self, connection: psycopg.Connection, days: Sequence[date]) -> None:
        versions = [version for day in days for version in self._facts[day].conflict_versions]
        decisions = [decision for day in days for decision in self._facts[day].billed_already]
        with connection.cursor() as cursor:
            cursor.executemany(
                """
                insert into core.request_conflict
                    (source, event_id, event_day, file_id, line_number, content_sha256, found_at)
                values (%s, %s, %s, %s, %s, %s, now())
                on conflict do nothing
                """,
                [
                    (one.source, one.event_id, one.event_day, one.file_id, one.line_number, one.content_sha256)
                    for one in versions
                ],
            )
            cursor.executemany(
                """
                insert into core.request_conflict_decision (source, event_id, content_sha256, actor, reason)
                values (%s, %s, %s, %s, 'already billed')
                on conflict do nothing
                """,
                [(one.source, one.event_id, one.content_sha256, OWN_ACTOR) for one in decisions],
            )

    def _write_builds(self, connection: psycopg.Connection, days: Sequence[date], held: set[date]) -> None:
        builds = [self._build_of(day, "held" if day in held else "built") for day in days]
        write_builds(connection, builds, code_version=self._code_version, run_id=self._run_id)

    def _build_of(self, day: date, state: str) -> UsageBuild:
        facts, inputs = self._facts[day], self._plan.inputs[day]
        return UsageBuild(
            asset=ASSET,
            day=day,
            state=state,
            inputs_digest=inputs.inputs_digest,
            rules_digest=self._plan.rules.digests[day],
            generations=[asdict(generation) for generation in inputs.generations],
            outcomes=_outcomes(facts),
            usage_rows=facts.usage_rows,
        )

    def _replace_rows(self, connection: psycopg.Connection, days: Sequence[date], rows: _DayRows) -> None:
        if not days:
            return
        keys = list(days)
        connection.execute("delete from usage.api_requests where event_day = any(%s)", (keys,))
        connection.execute("delete from usage.api_requests_not_billable where event_day = any(%s)", (keys,))
        connection.execute("delete from usage.build_file where asset = %s and partition_key = any(%s)", (ASSET, keys))
        copy_arrow(connection, "usage.api_requests", rows.usage_rows(days))
        copy_arrow(connection, "usage.api_requests_not_billable", rows.not_billable_rows(days))
        counted = [(day, file_id) for day in days for file_id in self._plan.inputs[day].file_ids]
        connection.execute(
            """
            insert into usage.build_file (asset, partition_key, file_id)
            select %s, counted.partition_key, counted.file_id
            from unnest(%s::date[], %s::bigint[]) as counted (partition_key, file_id)
            """,
            (ASSET, [day for day, _ in counted], [file_id for _, file_id in counted]),
        )

    def _build(self, day: date, state: str, verdicts: tuple[Verdict, ...]) -> DayBuild:
        facts = self._facts[day]
        return DayBuild(
            day=day,
            state=state,
            records_read=facts.records_read,
            billable=facts.billable,
            not_billable_by_reason=facts.not_billable_by_reason,
            duplicates=facts.duplicates,
            conflicts=facts.conflicts,
            usage_rows=facts.usage_rows,
            quantity_by_meter=facts.quantity_by_meter,
            top_accounts=facts.top_accounts,
            requests_by_hour=facts.requests_by_hour,
            inputs_digest=self._plan.inputs[day].inputs_digest,
            verdicts=verdicts,
        )


def _of_days(batches: Iterable[pa.RecordBatch], days: Sequence[date]) -> Iterator[pa.RecordBatch]:
    wanted = pa.array(days, pa.date32())
    return (batch.filter(pc.is_in(batch.column("event_day"), wanted)) for batch in batches)


def _outcomes(facts: DayFacts) -> Outcomes:
    return Outcomes(
        read=facts.records_read,
        billable=facts.billable,
        not_billable=sum(facts.not_billable_by_reason.values()),
        duplicate=facts.duplicates,
        conflict=facts.conflicts,
    )


def _groups(days: Sequence[date]) -> Iterator[tuple[date, ...]]:
    rest = iter(days)
    while group := tuple(islice(rest, DAYS_PER_TRANSACTION)):
        yield group
