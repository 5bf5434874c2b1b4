"""What becomes of delivered events: the SQL against a few lines of Python, for copies, contradictions and actions told twice."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resources import duck

MIDNIGHT = datetime.fromisoformat("2026-06-01")


@dataclass(frozen=True, slots=True)
class Told:
    """An event as one line of one file tells it; `size` stands for all of its content. `shared`: several accounts are told."""

    event: str
    file: int
    line: int
    size: int
    shared: str | None


LINES = st.lists(
    st.builds(
        Told,
        st.sampled_from(["e1", "e2", "e3", "e4"]),
        st.integers(1, 2),
        st.integers(1, 3),
        st.sampled_from([1, 1, 1, 2]),
        st.sampled_from([None, None, "s1"]),
    ),
    max_size=7,
    unique_by=lambda told: (told.event, told.file, told.line),
)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def reference(rows: Sequence[Told], known: set[str]) -> Mapping[Told, str]:
    """Return what becomes of each event as it is told."""
    copies: dict[str, list[Told]] = defaultdict(list)
    actions: dict[str, list[Told]] = defaultdict(list)
    outcomes: dict[Told, str] = {}
    for told in sorted(rows, key=lambda told: (told.file, told.line)):
        copies[told.event].append(told)
    for event, tellings in copies.items():
        differ = len({(told.size, told.shared) for told in tellings}) > 1 or sha256(event) in known
        for number, told in enumerate(tellings):
            outcomes[told] = "conflict" if differ else "duplicate" if number else "kept"
        if not differ and tellings[0].shared is not None:
            actions[tellings[0].shared].append(tellings[0])
    for firsts in actions.values():
        in_order = sorted(firsts, key=lambda told: (told.file, told.line))
        differ = len({told.size for told in firsts}) > 1
        for number, told in enumerate(in_order):
            outcomes[told] = "conflict" if differ else "duplicate" if number else "kept"
    spoiled = {(told.file, told.line) for told, outcome in outcomes.items() if outcome == "conflict"}
    return {told: "conflict" if (told.file, told.line) in spoiled else outcomes[told] for told in rows}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with duck.connect(tmp_path / "scratch") as connection:
        yield connection


def deliver(engine: duckdb.DuckDBPyConnection, rows: Sequence[Told], known: set[str]) -> None:
    engine.execute(
        """
        create or replace temp table read_events (
            source varchar, event_id varchar, shared_event_id varchar, file_id bigint, line_number bigint, event_at timestamp,
            repository varchar, owner varchar, object_id varchar, event_name varchar, action varchar, bytes bigint,
            upload_id varchar, part_number integer, version_id varchar, original_event_id varchar, kind varchar, value varchar
        );
        create or replace temp table known_conflicts (event_sha256 varchar);
        """
    )
    for told in rows:
        # Days of files differ, so that lines are counted by event day.
        at = MIDNIGHT + timedelta(days=told.size)
        engine.execute(
            "insert into read_events by name select 'trail' as source, $1 as event_id, $2 as shared_event_id, $3 as file_id,"
            " $4 as line_number, $5 as event_at, 'ann/cats' as repository, $6 as bytes, 'owner' as kind, $7 as value",
            [told.event, told.shared, told.file, told.line, at, told.size, f"{told.size} {told.shared}"],
        )
    for event in known:
        engine.execute("insert into known_conflicts values ($1)", [event])


class TestAnyEvents:
    @pytest.mark.sql_reference("events_counted", "events_in_conflict", "events_judged", "events_kept")
    @pytest.mark.parametrize(
        "delivered",
        [
            pytest.param("object_events_delivered", marks=pytest.mark.sql_reference("object_events_delivered")),
            pytest.param("visibility_events_delivered", marks=pytest.mark.sql_reference("visibility_events_delivered")),
        ],
    )
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(rows=LINES, known=st.sets(st.sampled_from(["e1", "e4"]).map(sha256)))
    def test_are_judged_kept_and_counted_as_the_reference_says(
        self, engine: duckdb.DuckDBPyConnection, delivered: str, rows: list[Told], known: set[str]
    ) -> None:
        deliver(engine, rows, known)
        engine.execute(duck.sql(delivered))
        engine.execute(duck.sql("events_judged"))
        if delivered == "visibility_events_delivered":
            # Nobody tells of one change of visibility twice: what looks like it is part of the content only.
            expected = reference_without_actions(rows, known)
        else:
            expected = dict(reference(rows, known))
        judged = engine.execute("select event_id, file_id, line_number, outcome from events_judged").fetchall()
        assert sorted(judged) == sorted((one.event, one.file, one.line, end) for one, end in expected.items())

        kept = engine.execute(f"select event_id, file_id, line_number from ({duck.sql('events_kept')})").fetchall()
        assert sorted(kept) == sorted((one.event, one.file, one.line) for one, end in expected.items() if end == "kept")

        lines: dict[tuple[int, int], list[Told]] = defaultdict(list)
        for one in rows:
            lines[one.file, one.line].append(one)
        counted: dict[tuple[int, str], list[int]] = defaultdict(lambda: [0, 0])
        for (file, _), said in lines.items():
            whole = whole_of(said, expected)
            counted[file, whole][0] += 1
            counted[file, whole][1] += [expected[one] for one in said].count("kept")
        found: dict[tuple[int, str], list[int]] = defaultdict(lambda: [0, 0])
        for file, outcome, event_day, line_count, row_count, first, last in engine.execute(
            duck.sql("events_counted")
        ).fetchall():
            told = [
                min(MIDNIGHT + timedelta(days=one.size) for one in said)
                for (in_file, _), said in lines.items()
                if in_file == file and whole_of(said, expected) == outcome
            ]
            of_day = [at for at in told if event_day in (None, at.date())]
            assert (event_day is None) == (outcome != "kept")
            assert (first, last) == (min(of_day), max(of_day))
            found[file, outcome][0] += line_count
            found[file, outcome][1] += row_count
        assert found == counted

        refused = engine.execute(duck.sql("events_in_conflict")).fetchall()
        in_conflict = {
            place: min(sha256(one.event) for one in said)
            for place, said in lines.items()
            if any(expected[one] == "conflict" for one in said)
        }
        assert {(file, line): event for file, line, event in refused} == in_conflict
        assert [row[:2] for row in refused] == sorted(in_conflict)


def whole_of(said: Sequence[Told], expected: Mapping[Told, str]) -> str:
    """Return what becomes of a line of all that it says."""
    ends = [expected[one] for one in said]
    return next(end for end in ("conflict", "kept", "duplicate") if end in ends)


def reference_without_actions(rows: Sequence[Told], known: set[str]) -> Mapping[Told, str]:
    """Return what becomes of events of which each is an action of its own."""
    alone = {Told(one.event, one.file, one.line, hash((one.size, one.shared)), None): one for one in rows}
    return {alone[told]: end for told, end in reference(list(alone), known).items()}
