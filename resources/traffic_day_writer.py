"""Write scanned days of traffic: tails, rows, builds and verdicts, all days of a scan in one transaction.

A day that a guard holds keeps its last good rows; its tail is replaced all the same, as the next day rests on it. Not here:
which days are scanned together (traffic_usage_store).
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal

import psycopg

from billing_pipeline import checks, traffic_checks
from billing_pipeline.checks import Outcomes, Subject, Verdict
from resources import guard_store
from resources.database import Database, copy_arrow
from resources.delivery_manifest import write_generation
from resources.lake import Lake, LakeFile
from resources.traffic_config import TrafficSource
from resources.traffic_facts import TrafficFacts
from resources.traffic_inputs import (
    ASSET,
    NO_TAIL,
    TAILS,
    FirstSnapshot,
    Node,
    TrafficDay,
    chain_digest,
    content_digest,
    nodes_as_read,
    read_days,
    read_first_snapshots,
    rules_digest,
)
from resources.traffic_scan import Tail, TrafficScan
from resources.usage_builds import UsageBuild, write_builds
from resources.usage_rules import DAY


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficDayBuild:
    """What a build of an event day did. `state`: `built`, or `held`: the last good rows stay.

    Bytes are of both directions. `bytes_by_hour`: 24 of them (UTC), `bytes_by_node`: `env:node` -> bytes, whoever pays for them.
    `quantity_by_meter`: over all accounts. `top_accounts`: (account, bytes).
    """

    day: date
    state: str
    samples_read: int
    billable: int
    not_billable_by_reason: Mapping[str, int]
    duplicates: int
    conflicts: int
    usage_rows: int
    quantity_by_meter: Mapping[str, Decimal]
    bytes_by_hour: tuple[int, ...]
    bytes_by_node: Mapping[str, int]
    top_accounts: tuple[tuple[str, int], ...]
    held_streams: int
    unknown_identities: int
    suspected_loss_bytes: int
    inputs_digest: str
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TailPointer:
    """The tail that a run starts from. `uri` None: nothing was ever seen before."""

    digest: str = NO_TAIL
    uri: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficRun:
    """Days that were scanned together, one after the other, and what they were scanned with.

    `wanted`: those whose usage is built; of the others just the tail is brought up to date. `catalog_digests`: of the rules.
    """

    days: tuple[TrafficDay, ...]
    wanted: frozenset[date]
    tail: TailPointer
    policies: Mapping[Node, TrafficSource]
    first_snapshots: tuple[FirstSnapshot, ...]
    catalog_digests: Mapping[date, str]
    run_id: str
    code_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a run left. `tail`: at its end."""

    builds: Mapping[date, TrafficDayBuild]
    tail: TailPointer


@dataclass(frozen=True, slots=True, kw_only=True)
class _Derived:
    chain_digest: str
    content_digest: str
    rules_digest: str
    tail: Tail | None
    # None: the tail is the one that is published already
    published: tuple[str, LakeFile] | None


class _NotConservedError(Exception):
    """Rolls back the rows of days whose sum is not what was counted."""

    def __init__(self, days: frozenset[date]) -> None:
        self.days = days


class TrafficDayWriter:
    """Writes the days of one run."""

    def __init__(self, database: Database, lake: Lake, run: TrafficRun, scan: TrafficScan) -> None:
        self._database = database
        self._lake = lake
        self._run = run
        self._scan = scan
        self._facts = scan.facts()
        self._early_holds = scan.early_holds()
        self._by_day = {day.day: self._as_scanned(day) for day in run.days}

    def write(self) -> Written | None:
        """Write the run; None, and nothing, if a day's inputs are not what was scanned any more."""
        derived = self._derive()
        with self._database.transaction(*(f"{ASSET}|{day.day.isoformat()}" for day in self._run.days)) as connection:
            if not self._is_current(connection, derived):
                return None
            tail = self._write_tails(connection, derived)
            verdicts = self._write_rows(connection, derived)
            write_builds(
                connection,
                [self._usage_build(day, derived[day], _state(found)) for day, found in verdicts.items()],
                code_version=self._run.code_version,
                run_id=self._run.run_id,
            )
            guard_store.record(
                connection, (one for found in verdicts.values() for one in found), run_id=self._run.run_id
            )
        builds = {day: self._build(day, derived[day].content_digest, found) for day, found in verdicts.items()}
        return Written(builds=builds, tail=tail)

    def _derive(self) -> Mapping[date, _Derived]:
        """Return the digests of each day, its tail published where it is a new one."""
        run, derived, tail_digest = self._run, {}, self._run.tail.digest
        earlier = self._scan.earlier_digests()
        for day in self._by_day.values():
            nodes = self._facts[day.day].nodes
            tail = self._scan.write_tail(day.day) if day.uri is not None else None
            derived[day.day] = _Derived(
                chain_digest=chain_digest(
                    day,
                    tail_digest=tail_digest,
                    first_snapshots=run.first_snapshots,
                    policies=run.policies,
                    nodes=nodes,
                ),
                content_digest=content_digest(
                    day, earlier_digest=earlier.get(day.day, ""), first_snapshots=run.first_snapshots
                ),
                rules_digest=rules_digest(run.catalog_digests[day.day], run.policies, nodes),
                tail=tail,
                published=None if tail is None or tail.digest == day.tail_digest else self._publish(day.day, tail),
            )
            tail_digest = tail_digest if tail is None else tail.digest
        return derived

    def _as_scanned(self, day: TrafficDay) -> TrafficDay:
        """Return the day with what this scan has found out about the day after it, if that was scanned too."""
        following = day.day + DAY
        if all(one.day != following for one in self._run.days):
            return day
        return replace(day, held_after=self._early_holds.get(following, ()))

    def _publish(self, day: date, tail: Tail) -> tuple[str, LakeFile]:
        generation = uuid.uuid4().hex
        return generation, self._lake.publish(tail.file, dataset=TAILS, partition=day, generation=generation)

    def _is_current(self, connection: psycopg.Connection, derived: Mapping[date, _Derived]) -> bool:
        now = read_days(connection, list(self._by_day))
        first_snapshots = read_first_snapshots(connection)
        earlier = [day.tail_digest for day in now if day.day < self._run.days[0].day and day.uri is not None]
        tail_digest = (earlier[-1] or NO_TAIL) if earlier else NO_TAIL
        if tail_digest != self._run.tail.digest:
            return False
        in_run = [day for day in now if self._run.days[0].day <= day.day <= self._run.days[-1].day]
        if {day.day for day in in_run if day.uri is not None} - self._by_day.keys():
            return False
        for day in in_run:
            if day.day not in self._by_day:
                continue
            chain = chain_digest(
                self._as_scanned(day),
                tail_digest=tail_digest,
                first_snapshots=first_snapshots,
                policies=self._run.policies,
                nodes=self._facts[day.day].nodes,
            )
            if chain != derived[day.day].chain_digest or day.uri != self._by_day[day.day].uri:
                return False
            tail = derived[day.day].tail
            tail_digest = tail_digest if tail is None else tail.digest
        return True

    def _write_tails(self, connection: psycopg.Connection, derived: Mapping[date, _Derived]) -> TailPointer:
        pointer = self._run.tail
        for day in self._by_day.values():
            one = derived[day.day]
            if one.tail is None:
                continue
            if one.published is not None:
                generation, file = one.published
                write_generation(
                    connection,
                    TAILS,
                    day.day,
                    generation,
                    file,
                    rows=one.tail.streams,
                    event_days={},
                    inputs_digest=one.chain_digest,
                    code_version=self._run.code_version,
                    run_id=self._run.run_id,
                )
                pointer = TailPointer(digest=one.tail.digest, uri=file.uri)
            else:
                pointer = TailPointer(digest=one.tail.digest, uri=day.tail_uri)
            connection.execute(
                """
                insert into usage.traffic_day
                    (event_day, chain_digest, content_digest, tail_digest, tail_generation, nodes, early_holds)
                values (%s, %s, %s, %s, %s, %s, %s)
                on conflict (event_day) do update set
                    chain_digest = excluded.chain_digest,
                    content_digest = excluded.content_digest,
                    tail_digest = excluded.tail_digest,
                    tail_generation = excluded.tail_generation,
                    nodes = excluded.nodes,
                    early_holds = excluded.early_holds,
                    updated_at = now()
                """,
                [
                    day.day,
                    one.chain_digest,
                    one.content_digest,
                    one.tail.digest,
                    day.tail_generation if one.published is None else one.published[0],
                    json.dumps(nodes_as_read(self._facts[day.day].nodes, self._run.policies)),
                    json.dumps(self._early_holds.get(day.day, ())),
                ],
            )
        return pointer

    def _write_rows(
        self, connection: psycopg.Connection, derived: Mapping[date, _Derived]
    ) -> Mapping[date, tuple[Verdict, ...]]:
        """Replace the rows of the wanted days that nothing holds, and return every wanted day's verdicts.

        The rows are summed where they are written; days of which the sum is wrong are rolled back with the others, once.
        """
        wanted = [day for day in self._by_day if day in self._run.wanted]
        digests = {day.isoformat(): derived[day].content_digest for day in wanted}
        released = guard_store.released_guards(connection, ASSET, digests)

        def judged(day: date, stored: int) -> tuple[Verdict, ...]:
            verdicts = self._judge(day, derived[day].content_digest, stored)
            return checks.with_releases(verdicts, released.get(day.isoformat(), frozenset()))

        verdicts = {day: judged(day, self._facts[day].minute_bytes) for day in wanted}
        while True:
            to_write = [day for day in wanted if not checks.holds(verdicts[day])]
            try:
                with connection.transaction():
                    stored = self._replace(connection, to_write)
                    found = {day: judged(day, stored.get(day, 0)) for day in to_write}
                    wrong = frozenset(day for day in to_write if checks.holds(found[day]))
                    if wrong:
                        raise _NotConservedError(wrong)
            except _NotConservedError as error:
                verdicts |= {day: found[day] for day in error.days}
                continue
            return verdicts | found

    def _replace(self, connection: psycopg.Connection, days: Sequence[date]) -> Mapping[date, int]:
        """Replace all rows of `days`, and return the bytes that PostgreSQL holds of each."""
        if not days:
            return {}
        for table in ("traffic_minute", "traffic", "traffic_not_billable", "traffic_suspect"):
            connection.execute(f"delete from usage.{table} where event_day = any(%s)".encode(), [list(days)])
        copy_arrow(connection, "usage.traffic_minute", self._scan.minute_rows(days))
        copy_arrow(connection, "usage.traffic", self._scan.usage_rows(days))
        copy_arrow(connection, "usage.traffic_not_billable", self._scan.not_billable_rows(days))
        copy_arrow(connection, "usage.traffic_suspect", self._scan.suspect_rows(days))
        rows = connection.execute(
            """
            select event_day, sum(bytes)
            from (
                select event_day, sum(uplink_bytes) + sum(downlink_bytes) as bytes
                from usage.traffic_minute
                where event_day = any(%(days)s)
                group by event_day
                union all
                select event_day, sum(uplink_bytes) + sum(downlink_bytes)
                from usage.traffic_not_billable
                where event_day = any(%(days)s)
                group by event_day
            ) as stored
            group by event_day
            """,
            {"days": list(days)},
        ).fetchall()
        return {day: int(stored) for day, stored in rows}

    def _judge(self, day: date, inputs_digest: str, stored: int) -> tuple[Verdict, ...]:
        facts, inputs = self._facts[day], self._by_day[day]
        subject = Subject(asset=ASSET, partition_key=day.isoformat(), inputs_digest=inputs_digest)
        return (
            traffic_checks.samples_complete(subject, held_by=inputs.held_upstream),
            traffic_checks.samples_conserved(subject, _outcomes(facts), in_lake=inputs.rows),
            traffic_checks.bytes_conserved(
                subject, conserved=facts.conserved_bytes, in_minutes=facts.minute_bytes, stored=stored
            ),
            traffic_checks.no_split_brain(subject, held_streams=facts.split_brain_streams),
            traffic_checks.within_int64(subject, held_streams=facts.beyond_int64_streams),
            traffic_checks.no_suspected_loss(
                subject, reset_streams=facts.reset_streams, suspected_loss_bytes=facts.suspected_loss_bytes
            ),
            traffic_checks.identities_known(
                subject, unknown=facts.unknown_identities, unknown_bytes=facts.unknown_bytes
            ),
        )

    def _usage_build(self, day: date, derived: _Derived, state: str) -> UsageBuild:
        facts, inputs = self._facts[day], self._by_day[day]
        generation = {
            "partition": day.isoformat(),
            "generation": inputs.generation,
            "uri": inputs.uri,
            "rows": inputs.rows,
        }
        return UsageBuild(
            asset=ASSET,
            day=day,
            state=state,
            inputs_digest=derived.content_digest,
            rules_digest=derived.rules_digest,
            generations=[generation] if inputs.uri is not None else [],
            outcomes=_outcomes(facts),
            usage_rows=facts.usage_rows,
        )

    def _build(self, day: date, inputs_digest: str, verdicts: tuple[Verdict, ...]) -> TrafficDayBuild:
        facts = self._facts[day]
        return TrafficDayBuild(
            day=day,
            state=_state(verdicts),
            samples_read=facts.samples_read,
            billable=facts.billable,
            not_billable_by_reason=facts.not_billable_by_reason,
            duplicates=facts.duplicates,
            conflicts=facts.conflicts,
            usage_rows=facts.usage_rows,
            quantity_by_meter=facts.quantity_by_meter,
            bytes_by_hour=facts.bytes_by_hour,
            bytes_by_node=facts.bytes_by_node,
            top_accounts=facts.top_accounts,
            held_streams=len(facts.held_streams),
            unknown_identities=len(facts.unknown_identities),
            suspected_loss_bytes=facts.suspected_loss_bytes,
            inputs_digest=inputs_digest,
            verdicts=verdicts,
        )


def _outcomes(facts: TrafficFacts) -> Outcomes:
    return Outcomes(
        read=facts.samples_read,
        billable=facts.billable,
        not_billable=sum(facts.not_billable_by_reason.values()),
        duplicate=facts.duplicates,
        conflict=facts.conflicts,
    )


def _state(verdicts: tuple[Verdict, ...]) -> str:
    return "held" if checks.holds(verdicts) else "built"
