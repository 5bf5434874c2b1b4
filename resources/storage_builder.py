"""Build a run of storage days that follow each other: scan each, then write a group of them in one transaction.

A day is replaced in one transaction with its tail, its build row and its verdicts. A day that a guard holds keeps its last good
usage; its tail and its drifts are written all the same. Not here: which days (storage_usage_store), what counts (sql/storage_*).
"""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path

import psycopg

from billing_pipeline import checks
from billing_pipeline.checks import Outcomes, Verdict
from billing_pipeline.storage_policy import StoragePolicy
from billing_pipeline.timelines import in_byte_seconds
from resources import guard_store
from resources.database import Database
from resources.delivery_manifest import write_generation
from resources.disk import disk_failures_explained
from resources.lake import Lake, LakeFile
from resources.storage_facts import StorageFacts
from resources.storage_inputs import (
    ASSET,
    DAY,
    OBJECT_EVENTS,
    REPOSITORY_EVENTS,
    SNAPSHOTS,
    TAILS,
    StorageInputs,
    Tail,
    day_end,
    read_inputs,
    read_later_bases,
)
from resources.storage_rows import BASES, DRIFTS, STATES, USAGE, replace_days
from resources.storage_scan import DaySources, StorageScan, TailContent
from resources.storage_verdicts import judge
from resources.usage_builds import UsageBuild, write_builds
from resources.usage_rules import UsageRules

# Days of one transaction: few enough that a crash loses little and the rows that wait for it fit into memory.
DAYS_PER_TRANSACTION = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """Where storage is built, and how. `sources`: names of the storage sources, as core.source_file has them.

    `memory_limit` (DuckDB's spelling) and `threads` bound the scan; what does not fit is spilled below `scratch_dir`.
    """

    database: Database
    lake: Lake
    scratch_dir: Path
    sources: frozenset[str]
    policy: StoragePolicy = field(default_factory=StoragePolicy)
    memory_limit: str = "1GB"
    threads: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageDayBuild:
    """What a build of an event day did. `state`: `built`, or `held`: the last good rows stay.

    Byte-seconds are over all repositories, whoever pays; `unbilled_byte_seconds`: private ones that nobody pays for.
    `top_accounts`: (account, private byte-seconds).
    """

    day: date
    state: str
    repositories: int
    events_read: int
    snapshots_read: int
    duplicates: int
    unsized_waiting: int
    drift_failures: int
    visibility_mismatches: int
    usage_rows: int
    private_byte_seconds: Decimal
    public_byte_seconds: Decimal
    unbilled_byte_seconds: Decimal
    top_accounts: tuple[tuple[str, Decimal], ...]
    inputs_digest: str
    verdicts: tuple[Verdict, ...]


class _InputsChanged(Exception):
    """A day's inputs are other than what was scanned."""


class StorageBuilder:
    """Builds a run of days that follow each other."""

    def __init__(
        self,
        store: Workplace,
        inputs: StorageInputs,
        rules: UsageRules,
        *,
        run_id: str,
        code_version: str,
        as_of: datetime | None,
    ) -> None:
        self._store = store
        self._inputs = inputs
        self._rules = rules
        self._run_id = run_id
        self._code_version = code_version
        self._as_of = as_of

    def build(self, days: Sequence[date]) -> Iterator[StorageDayBuild]:
        """Yield the builds of `days`; ends early when inputs have changed, which the caller sees in their digests."""
        store = self._store
        opening = self._inputs.opening(days[0])
        with (
            disk_failures_explained(store.scratch_dir),
            StorageScan(
                self._rules,
                store.policy,
                opening=None if opening is None else store.lake.fetch(opening.uri),
                scratch_dir=store.scratch_dir,
                memory_limit=store.memory_limit,
                threads=store.threads,
            ) as scan,
        ):
            groups = list(_groups(days))
            while groups:
                scanned = []
                for day in groups.pop(0):
                    scanned.append(self._scan_day(scan, day, opening))
                    opening = scanned[-1].tail
                try:
                    yield from self._write(scan, scanned)
                except _InputsChanged:
                    return
                scan.forget_results()
                following = scanned[-1].day + DAY
                if not groups and self._is_reached(following, opening):
                    groups = [(following,)]

    def _is_reached(self, day: date, opening: Tail | None) -> bool:
        """Tell whether a day that is built already has begun otherwise than it begins now."""
        known = self._inputs.days.get(day)
        return (
            known is not None
            and known.tail is not None
            and known.built_inputs_digest != self._inputs.digest(day, opening, self._as_of)
        )

    def _scan_day(self, scan: StorageScan, day: date, opening: Tail | None) -> "_ScannedDay":
        own, fetch = self._inputs.days[day], self._store.lake.fetch
        with self._store.database.reading() as connection:
            bases = read_later_bases(connection, day)
        facts = scan.scan(
            DaySources(
                day=day,
                end=min(day_end(day), self._as_of or day_end(day)),
                snapshots=[fetch(uri) for uri in own.uris(SNAPSHOTS)],
                listings=[fetch(uri) for uri in self._inputs.listing_uris(day, opening)],
                object_events=[fetch(uri) for uri in own.uris(OBJECT_EVENTS)],
                repository_events=[fetch(uri) for uri in own.uris(REPOSITORY_EVENTS)],
                later_bases=bases,
                taken_snapshots=own.taken_snapshots,
            )
        )
        draft = self._store.scratch_dir / f"ingest-tail-{secrets.token_hex(8)}.parquet"
        try:
            content = scan.write_tail(draft)
            file = None
            if content.digest == own.tail_digest and own.tail_uri is not None:
                uri, generation = own.tail_uri, ""
            else:
                generation = secrets.token_hex(16)
                file = self._store.lake.publish(draft, dataset=TAILS, partition=day, generation=generation)
                uri = file.uri
        finally:
            draft.unlink(missing_ok=True)
        return _ScannedDay(
            day=day,
            facts=facts,
            inputs_digest=self._inputs.digest(day, opening, self._as_of),
            content=content,
            tail=Tail(digest=content.digest, uri=uri, index_days=content.index_days),
            generation=generation,
            file=file,
        )

    def _write(self, scan: StorageScan, scanned: Sequence["_ScannedDay"]) -> list[StorageDayBuild]:
        database, days = self._store.database, [one.day for one in scanned]
        with database.transaction(*(f"{ASSET}|{day.isoformat()}" for day in days)) as connection:
            now = read_inputs(connection, sorted(self._store.sources), first_day=days[0], last_day=days[-1])
            opening = now.opening(days[0])
            for one in scanned:
                if now.digest(one.day, opening, self._as_of) != one.inputs_digest:
                    raise _InputsChanged
                opening = one.tail
            verdicts = self._verdicts(connection, scanned)
            held = {day for day in days if checks.holds(verdicts[day])}
            built = [day for day in days if day not in held]
            for table, name in ((STATES, "states"), (USAGE, "usage")):
                replace_days(connection, table, built, scan.rows(name, built))
            # a person who looks at a held day wants to see why, and the next day begins from what is true
            for table, name in ((DRIFTS, "drifts"), (BASES, "bases")):
                replace_days(connection, table, days, scan.rows(name, days))
            builds = [self._usage_build(one, "held" if one.day in held else "built") for one in scanned]
            write_builds(connection, builds, code_version=self._code_version, run_id=self._run_id)
            self._write_tails(connection, scanned)
            guard_store.record(connection, (one for day in days for one in verdicts[day]), run_id=self._run_id)
        return [_build(one, "held" if one.day in held else "built", verdicts[one.day]) for one in scanned]

    def _verdicts(
        self, connection: psycopg.Connection, scanned: Sequence["_ScannedDay"]
    ) -> Mapping[date, tuple[Verdict, ...]]:
        digests = {one.day.isoformat(): one.inputs_digest for one in scanned}
        released = guard_store.released_guards(connection, ASSET, digests)
        found = {}
        for one in scanned:
            in_lake = self._inputs.days[one.day].lake_rows(SNAPSHOTS, OBJECT_EVENTS, REPOSITORY_EVENTS)
            ends_early = self._as_of is not None and self._as_of < day_end(one.day)
            verdicts = judge(
                one.facts,
                inputs_digest=one.inputs_digest,
                in_lake=one.facts.records_read if ends_early else in_lake,
                held=self._inputs.days[one.day].held,
                policy=self._store.policy,
            )
            found[one.day] = checks.with_releases(verdicts, released.get(one.day.isoformat(), frozenset()))
        return found

    def _usage_build(self, one: "_ScannedDay", state: str) -> UsageBuild:
        facts = one.facts
        return UsageBuild(
            asset=ASSET,
            day=one.day,
            state=state,
            inputs_digest=one.inputs_digest,
            rules_digest=self._rules.digests[one.day],
            generations=self._inputs.days[one.day].generations,
            # what no size is known of waits for a snapshot
            outcomes=Outcomes(
                read=facts.records_read,
                billable=facts.applied - facts.unsized_today,
                not_billable=facts.unsized_today,
                duplicate=facts.duplicates,
                conflict=facts.events_in_conflict,
            ),
            usage_rows=facts.usage_rows,
        )

    def _write_tails(self, connection: psycopg.Connection, scanned: Sequence["_ScannedDay"]) -> None:
        for one in scanned:
            if one.file is None:
                continue
            write_generation(
                connection,
                TAILS,
                one.day,
                one.generation,
                one.file,
                rows=one.content.rows,
                event_days={one.day: one.content.rows},
                inputs_digest=one.inputs_digest,
                code_version=self._code_version,
                run_id=self._run_id,
            )
            connection.execute(
                """
                insert into usage.storage_tail (event_day, tail_digest, index_days, repositories) values (%s, %s, %s, %s)
                on conflict (event_day) do update set
                    tail_digest = excluded.tail_digest,
                    index_days = excluded.index_days,
                    repositories = excluded.repositories
                """,
                [one.day, one.content.digest, list(one.content.index_days), one.content.repositories],
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _ScannedDay:
    """A day that is worked out and not yet written. `file` None: its tail is the one that the lake has already."""

    day: date
    facts: StorageFacts
    inputs_digest: str
    content: TailContent
    tail: Tail
    generation: str
    file: LakeFile | None


def _build(one: _ScannedDay, state: str, verdicts: tuple[Verdict, ...]) -> StorageDayBuild:
    facts = one.facts
    return StorageDayBuild(
        day=one.day,
        state=state,
        repositories=facts.repositories,
        events_read=facts.object_events + facts.repository_events,
        snapshots_read=facts.snapshots,
        duplicates=facts.duplicates,
        unsized_waiting=facts.unsized_waiting,
        drift_failures=facts.drift_failures,
        visibility_mismatches=facts.mismatch_failures,
        usage_rows=facts.usage_rows,
        private_byte_seconds=in_byte_seconds(facts.private),
        public_byte_seconds=in_byte_seconds(facts.public),
        unbilled_byte_seconds=in_byte_seconds(facts.private_of_nobody),
        top_accounts=facts.top_accounts,
        inputs_digest=one.inputs_digest,
        verdicts=verdicts,
    )


def _groups(days: Sequence[date]) -> Iterator[tuple[date, ...]]:
    rest = iter(days)
    while group := tuple(islice(rest, DAYS_PER_TRANSACTION)):
        yield group
