"""What event days of requests and traffic are made of: the SQL against a few lines of Python over random rows of PostgreSQL."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resources.database import Database
from resources.traffic_inputs import FirstSnapshot, read_days, read_first_snapshots
from resources.usage_inputs import OWN_ACTOR, DayInputs, read_inputs
from resources.usage_inputs import Generation as DayGeneration
from tests import input_rows
from tests.input_rows import DAYS, NOON, SHA, Build, File, Generation, insert, passing

REQUESTS, TRAFFIC, SAMPLES, TAILS = "usage/api_requests", "usage/traffic", "core/traffic_samples", "usage/traffic_tails"
DATASETS = ("core/request_records", SAMPLES)
SOME = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@dataclass(frozen=True, slots=True)
class Conflict:
    """A version of an identity in conflict, in a file."""

    source: str
    event_id: str
    day: date
    file: int


# Who decided what: None is nobody.
DECISIONS = st.dictionaries(
    st.tuples(st.sampled_from(["a", "B"]), st.sampled_from(["e", "É"])),
    st.tuples(st.sampled_from(["ann", OWN_ACTOR]), st.sampled_from([None, SHA])),
    max_size=4,
)
CONFLICTS = st.lists(
    st.builds(
        Conflict, st.sampled_from(["a", "B"]), st.sampled_from(["e", "É"]), st.sampled_from(DAYS), st.integers(1, 3)
    ),
    max_size=5,
    unique_by=lambda one: (one.source, one.event_id, one.file),
)
ASKED = st.one_of(st.none(), st.lists(st.sampled_from(DAYS), max_size=3))


def expected_inputs(
    asked: Sequence[date] | None,
    files: Sequence[File],
    conflicts: Sequence[Conflict],
    decisions: dict[tuple[str, str], tuple[str, str | None]],
    builds: Sequence[Build],
    generations: Sequence[Generation],
) -> list[DayInputs]:
    """Return the inputs of each day that has any, or was asked for."""
    files = [one for one in files if one.status == "accepted" and one.dataset == "core/request_records"]
    of_day = {build.day: build for build in builds if build.asset == REQUESTS}
    days = {day for one in files for day in one.days} | set(of_day) if asked is None else set(asked)
    inputs = []
    for day in sorted(days):
        own = [one for one in files if day in one.days]
        lines = ["\t".join(["file", *one.words(day)]) for one in own]
        for identity, (actor, sha256) in decisions.items():
            if actor != OWN_ACTOR and any(
                (one.source, one.event_id) == identity and one.day == day for one in conflicts
            ):
                lines.append("\t".join(["decision", *identity, sha256 or "none"]))
        current = [one for one in generations if one.dataset == DATASETS[0] and one.is_current and day in one.days]
        build = of_day.get(day)
        inputs.append(
            DayInputs(
                day=day,
                inputs_digest=hashlib.sha256("\n".join(sorted(lines, key=str.encode)).encode()).hexdigest(),
                file_rows=sum(one.days[day] for one in own),
                file_ids=tuple(one.number for one in own),
                lake_rows=sum(one.days[day] for one in current),
                generations=tuple(
                    DayGeneration(partition=str(one.partition), generation=one.name, uri=one.uri, rows=one.days[day],
                                  conflicts=one.conflicts)
                    for one in sorted(current, key=lambda one: one.partition)
                ),
                counted_file_ids=tuple(sorted(build.files)) if build else (),
                built_inputs_digest=build.digests[0] if build else None,
                built_rules_digest=build.digests[1] if build else None,
                is_held=build is not None and build.state == "held",
            )
        )  # fmt: skip
    return inputs


class TestInputsOfDaysOfRequests:
    @pytest.mark.sql_reference("usage_inputs")
    @SOME
    @given(
        asked=ASKED,
        files=input_rows.files(DATASETS).filter(lambda found: len(found) >= 3),
        conflicts=CONFLICTS,
        decisions=DECISIONS,
        builds=input_rows.builds([REQUESTS, TRAFFIC], files_up_to=3),
        generations=input_rows.generations(DATASETS),
    )
    def test_are_files_decisions_and_generations(
        self,
        database: Database,
        asked: list[date] | None,
        files: list[File],
        conflicts: list[Conflict],
        decisions: dict[tuple[str, str], tuple[str, str | None]],
        builds: list[Build],
        generations: list[Generation],
    ) -> None:
        with passing(database) as connection:
            input_rows.insert_files(connection, files)
            input_rows.insert_builds(connection, builds, files)
            input_rows.insert_generations(connection, generations)
            insert(
                connection,
                "core.request_conflict",
                [
                    {"source": one.source, "event_id": one.event_id, "event_day": one.day, "file_id": one.file}
                    for one in conflicts
                ],
            )
            insert(
                connection,
                "core.request_conflict_decision",
                [
                    {"source": source, "event_id": event_id, "actor": actor, "content_sha256": sha256}
                    for (source, event_id), (actor, sha256) in decisions.items()
                ],
            )
            found = read_inputs(connection, asked)
        assert list(found) == expected_inputs(asked, files, conflicts, decisions, builds, generations)


NODES = st.tuples(st.sampled_from(["prod", "Test"]), st.sampled_from(["jp", "De", "é"]))
INSTANTS = st.sampled_from([NOON + number * timedelta(minutes=1) for number in range(3)])
STREAMS = st.tuples(st.sampled_from(["u", "v"]), st.sampled_from(["", "x"]))


class TestFirstSnapshots:
    @pytest.mark.sql_reference("traffic_first_snapshots")
    @SOME
    @given(
        snapshots=st.lists(st.tuples(NODES, INSTANTS, st.integers(0, 1)), max_size=12, unique=True),
        conflicts=st.lists(st.tuples(NODES, STREAMS, INSTANTS, st.integers(0, 1)), max_size=8, unique=True),
    )
    def test_are_the_earliest_of_each_node_with_the_streams_in_conflict(
        self,
        database: Database,
        snapshots: list[tuple[tuple[str, str], datetime, int]],
        conflicts: list[tuple[tuple[str, str], tuple[str, str], datetime, int]],
    ) -> None:
        with passing(database) as connection:
            insert(
                connection,
                "core.traffic_snapshot",
                [
                    {"env": env, "node": node, "collected_at": when, "content_sha256": f"{content:064x}"}
                    for (env, node), when, content in snapshots
                ],
            )
            insert(
                connection,
                "core.traffic_conflict",
                [
                    {"env": env, "node": node, "account_uuid": uuid, "inbound_tag": tag, "collected_at": when,
                     "uplink_bytes": total}
                    for (env, node), (uuid, tag), when, total in conflicts
                ],
            )  # fmt: skip
            found = read_first_snapshots(connection)
        firsts = {node: min(when for other, when, _ in snapshots if other == node) for node, _, _ in snapshots}
        expected = [
            FirstSnapshot(
                env=node[0],
                node=node[1],
                collected_at=first,
                conflicting_streams=tuple(sorted({one[1] for one in conflicts if (one[0], one[2]) == (node, first)})),
            )
            for node, first in firsts.items()
        ]
        assert sorted(found, key=repr) == sorted(expected, key=repr)


@dataclass(frozen=True, slots=True)
class Derived:
    """What was made of a day's samples last."""

    day: date
    tail: str

    @property
    def row(self) -> dict[str, object]:
        return {"event_day": self.day, "chain_digest": f"chain {self.day}", "content_digest": f"content {self.day}",
                "tail_digest": f"tail {self.day}", "tail_generation": self.tail, "nodes": f'[["prod", "{self.day}", null]]',
                "early_holds": f'[["prod", "{self.day}", "u", "x"]]'}  # fmt: skip


DERIVED = st.lists(
    st.builds(Derived, st.sampled_from(DAYS), st.sampled_from(["g0", "g1", "gone"])),
    max_size=3,
    unique_by=lambda one: one.day,
)
VERDICTS = st.lists(
    st.tuples(
        st.sampled_from([SAMPLES, SAMPLES, TRAFFIC]),
        st.sampled_from(DAYS),
        st.sampled_from(["g", "h"]),
        st.sampled_from(["held", "held", "passed", "released"]),
    ),
    max_size=5,
    unique_by=lambda one: one[:3],
)


class TestInputsOfDaysOfTraffic:
    @pytest.mark.sql_reference("traffic_inputs")
    @SOME
    @given(
        asked=st.lists(st.sampled_from(DAYS), max_size=2),
        generations=input_rows.generations([SAMPLES, SAMPLES, TAILS, "core/request_records"]),
        builds=input_rows.builds([TRAFFIC, REQUESTS]),
        derived=DERIVED,
        verdicts=VERDICTS,
    )
    def test_are_samples_guards_and_what_was_derived(
        self,
        database: Database,
        asked: list[date],
        generations: list[Generation],
        builds: list[Build],
        derived: list[Derived],
        verdicts: list[tuple[str, date, str, str]],
    ) -> None:
        with passing(database) as connection:
            input_rows.insert_generations(connection, generations)
            input_rows.insert_builds(connection, builds)
            insert(connection, "usage.traffic_day", [one.row for one in derived])
            insert(
                connection,
                "guards.verdict",
                [
                    {"asset": asset, "partition_key": day.isoformat(), "guard": guard, "status": status, "inputs_digest": "d"}
                    for asset, day, guard, status in verdicts
                ],
            )  # fmt: skip
            found = read_days(connection, asked)

        samples = {one.partition: one for one in generations if one.dataset == SAMPLES and one.is_current}
        of_day = {one.day: one for one in builds if one.asset == TRAFFIC}
        made = {one.day: one for one in derived}
        assert [one.day for one in found] == sorted({*samples, *of_day, *asked})
        for one in found:
            day, rows = one.day, made[one.day].row if one.day in made else {}
            sample, build, following = samples.get(day), of_day.get(day), made.get(day + timedelta(days=1))
            held = sorted(guard for *key, guard, status in verdicts if key == [SAMPLES, day] and status == "held")
            tail = [
                other.uri
                for other in generations
                if (other.dataset, other.partition, other.name) == (TAILS, day, rows.get("tail_generation"))
            ]
            assert (one.generation, one.uri, one.file_sha256, one.rows) == (
                (sample.name, sample.uri, SHA, 1) if sample else (None, None, None, 0)
            )
            assert list(one.held_upstream) == held
            assert [one.chain_digest, one.content_digest, one.tail_digest, one.tail_generation] == [
                rows.get(name) for name in ("chain_digest", "content_digest", "tail_digest", "tail_generation")
            ]
            assert one.nodes == ((("prod", str(day)),) if rows else ())
            assert one.held_after == ((("prod", str(following.day), "u", "x"),) if following else ())
            assert one.tail_uri == (tail[0] if tail else None)
            assert (one.built_inputs_digest, one.built_rules_digest, one.is_held) == (
                (*build.digests, build.state == "held") if build else (None, None, False)
            )
