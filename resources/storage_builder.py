"""Build a run of storage days that follow each other: scan each, then write a group of them in one transaction.

A day is replaced in one transaction with its tail, its build row and its verdicts. A day that a guard holds keeps its last good
usage; its tail and its drifts are written all the same. Of a day that is built already the repositories that later events touch are
built anew, and no others. Not here: which days (storage_usage_store), what counts (sql/storage_*).
"""

import secrets
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from decimal import Decimal
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
from resources.storage_rebuild import rebuilt_day
from resources.storage_rows import BASES, DRIFTS, STATES, USAGE, replace_days, replace_some
from resources.storage_scan import DaySources, StorageScan, TailContent
from resources.storage_touched import MadeOf, Touched, kept_facts, made_of, read_made_of, touched
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

    `rebuilt`: repositories that were worked out for it; the others' rows were not touched. Byte-seconds are over all repositories,
    whoever pays; `unbilled_byte_seconds`: private ones that nobody pays for. `top_accounts`: (account, private byte-seconds).
    """

    day: date
    state: str
    repositories: int
    rebuilt: int
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
        self._opening: Tail | None = None
        # digest of what the day before left before -> the repositories outside of which it leaves the same now
        self._changed: dict[str, frozenset[str]] = {}
        self._plan: tuple[date, Touched | None] | None = None

    def build(self, days: Sequence[date]) -> Iterator[StorageDayBuild]:
        """Yield the builds of `days`; ends early when inputs have changed, which the caller sees in their digests."""
        waiting = deque(days)
        self._opening = self._inputs.opening(days[0])
        with disk_failures_explained(self._store.scratch_dir):
            try:
                while waiting:
                    rebuilt = self._rebuilt(waiting[0])
                    if rebuilt is None:
                        yield from self._whole(waiting)
                    else:
                        waiting.popleft()
                        yield rebuilt
                        self._add_following(waiting, rebuilt.day)
            except _InputsChanged:
                return

    def _whole(self, waiting: deque[date]) -> Iterator[StorageDayBuild]:
        """Yield the first of the waiting days, and those after it of which more than some repositories are to be built."""
        opening = self._opening
        with self._scan(None if opening is None else self._store.lake.fetch(opening.uri)) as scan:
            is_first = True
            while waiting and (is_first or self._touched(waiting[0]) is None):
                scanned: list[_ScannedDay] = []
                while waiting and len(scanned) < DAYS_PER_TRANSACTION:
                    if not is_first and self._touched(waiting[0]) is not None:
                        break
                    is_first = False
                    scanned.append(self._scan_day(scan, waiting.popleft()))
                    self._opening = scanned[-1].tail
                    self._changed = {}
                yield from self._write(scan, scanned)
                scan.forget_results()
                self._add_following(waiting, scanned[-1].day)

    def _scan(self, opening: Path | None, only: Collection[str] | None = None) -> StorageScan:
        store = self._store
        return StorageScan(
            self._rules,
            store.policy,
            opening=opening,
            only=only,
            scratch_dir=store.scratch_dir,
            memory_limit=store.memory_limit,
            threads=store.threads,
        )

    def _add_following(self, waiting: deque[date], day: date) -> None:
        """After the last day: go on with a day that is built already and has begun otherwise than it begins now."""
        known = self._inputs.days.get(day + DAY)
        if (
            not waiting
            and known is not None
            and known.tail is not None
            and known.built_inputs_digest != self._inputs.digest(day + DAY, self._opening, self._as_of)
        ):
            waiting.append(day + DAY)

    def _touched(self, day: date) -> Touched | None:
        """Return which repositories of a day are to be built again, None when it is to be built whole.

        A day of which nothing is other than it was is asked for by somebody who wants it worked out again: it is built whole.
        """
        if self._plan is not None and self._plan[0] == day:
            return self._plan[1]
        own, store = self._inputs.days[day], self._store
        found = None
        if (
            own.tail is not None
            and not own.is_held
            and own.built_rules_digest == self._rules.digests[day]
            and own.built_inputs_digest != self._inputs.digest(day, self._opening, self._as_of)
            and (self._as_of is None or self._as_of >= day_end(day))
        ):
            with store.database.reading() as connection:
                known = read_made_of(connection, day)
                bases = read_later_bases(connection, day)
            if known is not None:
                found = touched(
                    own,
                    known,
                    opening=self._opening,
                    listings=self._inputs.listing_uris(day, self._opening),
                    bases=bases,
                    changed_before=self._changed.get(known.opening_digest or ""),
                    lake=store.lake,
                    scratch_dir=store.scratch_dir,
                    memory_limit=store.memory_limit,
                    is_divided=store.policy.is_divided,
                )
        self._plan = day, found
        return found

    def _rebuilt(self, day: date) -> StorageDayBuild | None:
        """Build the touched repositories of a day anew; None when it is to be built whole, as it would be held."""
        some = self._touched(day)
        if some is None:
            return None
        own, fetch = self._inputs.days[day], self._store.lake.fetch
        tail = fetch(str(own.tail_uri))
        with self._scan(some.opening_before, some.repositories) as scan:
            before = scan.scan(some.before)
        opening = None if self._opening is None else fetch(self._opening.uri)
        with self._scan(opening, some.repositories) as scan:
            scanned = self._scan_day(scan, day, others=tail)
            build = self._write_some(scan, scanned, some, before, tail)
        if build is None:
            self._plan = day, None
            return None
        self._opening = scanned.tail
        self._changed = {str(own.tail_digest): some.repositories}
        return build

    def _scan_day(self, scan: StorageScan, day: date, others: Path | None = None) -> "_ScannedDay":
        """Work out a day. `others`: of some repositories only, and this is what the day left before of the others."""
        own, fetch, opening = self._inputs.days[day], self._store.lake.fetch, self._opening
        with self._store.database.reading() as connection:
            bases = read_later_bases(connection, day)
        listings, end = self._inputs.listing_uris(day, opening), min(day_end(day), self._as_of or day_end(day))
        facts = scan.scan(
            DaySources(
                day=day,
                end=end,
                snapshots=[fetch(uri) for uri in own.uris(SNAPSHOTS)],
                listings=[fetch(uri) for uri in listings],
                object_events=[fetch(uri) for uri in own.uris(OBJECT_EVENTS)],
                repository_events=[fetch(uri) for uri in own.uris(REPOSITORY_EVENTS)],
                later_bases=bases,
                taken_snapshots=own.taken_snapshots,
            )
        )
        draft = self._store.scratch_dir / f"ingest-tail-{secrets.token_hex(8)}.parquet"
        try:
            content = scan.write_tail(draft, others=others)
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
            made_of=made_of(own, opening=opening, listings=listings, bases=bases, ends_at=end.isoformat(), facts=facts),
        )

    def _write(self, scan: StorageScan, scanned: Sequence["_ScannedDay"]) -> list[StorageDayBuild]:
        database, days = self._store.database, [one.day for one in scanned]
        with database.transaction(*(f"{ASSET}|{day.isoformat()}" for day in days)) as connection:
            self._refuse_changed(connection, scanned)
            verdicts = self._verdicts(connection, scanned)
            held = {day for day in days if checks.holds(verdicts[day])}
            built = [day for day in days if day not in held]
            for table, name in ((STATES, "states"), (USAGE, "usage")):
                replace_days(connection, table, built, scan.rows(name, built))
            # a person who looks at a held day wants to see why, and the next day begins from what is true
            for table, name in ((DRIFTS, "drifts"), (BASES, "bases")):
                replace_days(connection, table, days, scan.rows(name, days))
            self._write_builds(connection, scanned, verdicts)
        return [_build(one, "held" if one.day in held else "built", verdicts[one.day]) for one in scanned]

    def _write_some(
        self, scan: StorageScan, scanned: "_ScannedDay", some: Touched, before: StorageFacts, tail: Path
    ) -> StorageDayBuild | None:
        """Write the touched repositories of a day; None, and nothing written, when a guard holds it."""
        day = scanned.day
        with self._store.database.transaction(f"{ASSET}|{day.isoformat()}") as connection:
            self._refuse_changed(connection, [scanned], is_part=True)
            rebuilt = rebuilt_day(
                connection,
                scan,
                some,
                before=before,
                after=scanned.facts,
                drift_millionths=int(self._store.policy.drift_percent * 10_000),
                tail=tail,
            )
            scanned = replace(
                scanned, facts=rebuilt.facts, made_of=replace(scanned.made_of, facts=kept_facts(rebuilt.facts))
            )
            verdicts = self._verdicts(connection, [scanned])
            if checks.holds(verdicts[day]):
                return None
            for table, name in ((STATES, "states"), (DRIFTS, "drifts"), (BASES, "bases")):
                replace_some(connection, table, day, "repository", some.repositories, scan.rows(name, [day]))
            replace_some(connection, USAGE, day, "account_id", rebuilt.accounts, rebuilt.usage.rows)
            self._write_builds(connection, [scanned], verdicts)
        return replace(_build(scanned, "built", verdicts[day]), rebuilt=len(some.repositories))

    def _refuse_changed(
        self, connection: psycopg.Connection, scanned: Sequence["_ScannedDay"], *, is_part: bool = False
    ) -> None:
        """Raise _InputsChanged unless days are made of what was scanned, and parts of them are of the builds that are there."""
        days = [one.day for one in scanned]
        now = read_inputs(connection, sorted(self._store.sources), first_day=days[0], last_day=days[-1])
        opening = now.opening(days[0])
        for one in scanned:
            if now.digest(one.day, opening, self._as_of) != one.inputs_digest:
                raise _InputsChanged
            opening = one.tail
            seen, there = self._inputs.days[one.day], now.days[one.day]
            if is_part and (seen.tail, seen.built_inputs_digest, seen.built_rules_digest) != (
                there.tail, there.built_inputs_digest, there.built_rules_digest
            ):  # fmt: skip
                raise _InputsChanged

    def _write_builds(
        self,
        connection: psycopg.Connection,
        scanned: Sequence["_ScannedDay"],
        verdicts: Mapping[date, tuple[Verdict, ...]],
    ) -> None:
        builds = [self._usage_build(one, "held" if checks.holds(verdicts[one.day]) else "built") for one in scanned]
        write_builds(connection, builds, code_version=self._code_version, run_id=self._run_id)
        self._write_tails(connection, scanned)
        guard_store.record(connection, (one for day in scanned for one in verdicts[day.day]), run_id=self._run_id)

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
            if one.file is not None:
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
                insert into usage.storage_tail (event_day, tail_digest, index_days, repositories, made_of)
                values (%s, %s, %s, %s, %s)
                on conflict (event_day) do update set
                    tail_digest = excluded.tail_digest,
                    index_days = excluded.index_days,
                    repositories = excluded.repositories,
                    made_of = excluded.made_of
                """,
                [
                    one.day,
                    one.content.digest,
                    list(one.content.index_days),
                    one.content.repositories,
                    one.made_of.as_json(),
                ],
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
    made_of: MadeOf


def _build(one: _ScannedDay, state: str, verdicts: tuple[Verdict, ...]) -> StorageDayBuild:
    facts = one.facts
    return StorageDayBuild(
        day=one.day,
        state=state,
        repositories=facts.repositories,
        rebuilt=facts.repositories,
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
