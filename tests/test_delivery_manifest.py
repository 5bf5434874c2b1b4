"""The manifest's statements: what a file is at the door, what became of it, which generation a partition points at."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import psycopg
import pytest

from billing_pipeline.records import LineCounts
from resources import delivery_manifest as manifest
from resources.database import Database
from resources.delivery_manifest import FileOutcome, Registered
from resources.lake import Lake
from resources.landing import LandingFile

DAY = date(2026, 3, 1)
NEXT_DAY = date(2026, 3, 2)
NOW = datetime(2026, 3, 5, 12, 0, tzinfo=UTC)


def arrival(key: str, content: str = "a", day: date = DAY) -> manifest.Arrival:
    return LandingFile(key=key, size_bytes=10, modified_at=NOW), content * 64, day


def counts(**changes: int) -> LineCounts:
    return LineCounts(**{"lines_read": 0, "accepted": 0, "rejected": 0, "duplicate": 0, "out_of_scope": 0, **changes})


@pytest.fixture
def connection(database: Database) -> Iterator[psycopg.Connection]:
    with database.transaction() as connection:
        yield connection


def register(connection: psycopg.Connection, *files: manifest.Arrival, source: str = "trail") -> Registered:
    return manifest.register(connection, dataset="core/object_events", source=source, files=files, seen_at=NOW)


class TestRegister:
    def test_enters_every_file_once(self, connection: psycopg.Connection) -> None:
        files = [arrival("k1", "a"), arrival("k2", "b", NEXT_DAY)]
        assert register(connection, *files) == Registered(new=("k1", "k2"), held=(), duplicate=())
        assert register(connection, *files) == Registered(new=(), held=(), duplicate=())
        assert [file.key for file in manifest.pending(connection, ["trail"])] == ["k1", "k2"]
        assert [file.key for file in manifest.pending(connection, ["trail"], [NEXT_DAY])] == ["k2"]
        assert manifest.delivery_days(connection, ["trail"], pending_only=True) == (DAY, NEXT_DAY)

    def test_holds_other_content_under_a_known_key(self, connection: psycopg.Connection) -> None:
        register(connection, arrival("k1", "a"))
        assert register(connection, arrival("k1", "b")).held == ("k1",)
        (held,) = manifest.files_of(connection, ["trail"], DAY, ["held"])
        assert held.reason == "same_key_other_content"
        assert "with other content" in str(held.detail)

    def test_takes_other_content_when_what_was_before_was_refused(self, connection: psycopg.Connection) -> None:
        register(connection, arrival("k1", "a"))
        (file,) = manifest.pending(connection, ["trail"])
        refused = FileOutcome(file_id=file.file_id, status="rejected", reason="bad_json", read_with="1")
        manifest.write_outcomes(connection, [refused])
        assert register(connection, arrival("k1", "b")).new == ("k1",)

    def test_knows_the_same_content_under_another_key(self, connection: psycopg.Connection) -> None:
        register(connection, arrival("k1", "a"))
        assert register(connection, arrival("k2", "a")).duplicate == ("k2",)

    def test_knows_the_same_content_inside_one_batch(self, connection: psycopg.Connection) -> None:
        found = register(connection, arrival("k1", "a"), arrival("k2", "a"), arrival("k3", "b"))
        assert (found.new, found.duplicate) == (("k1", "k3"), ("k2",))

    def test_does_not_call_a_file_the_copy_of_a_held_one(self, connection: psycopg.Connection) -> None:
        register(connection, arrival("k1", "a"))
        found = register(connection, arrival("k1", "b"), arrival("k2", "b"))
        assert (found.held, found.new) == (("k1",), ("k2",))

    def test_keeps_sources_apart(self, connection: psycopg.Connection) -> None:
        register(connection, arrival("k1", "a"))
        assert register(connection, arrival("k1", "a"), source="other").new == ("k1",)

    def test_of_nothing_is_nothing(self, connection: psycopg.Connection) -> None:
        assert register(connection) == Registered(new=(), held=(), duplicate=())


class TestWriteOutcomes:
    def test_writes_counts_days_and_quarantine_and_replaces_them(self, connection: psycopg.Connection) -> None:
        register(connection, arrival("k1", "a"), arrival("k2", "b"))
        first, second = manifest.pending(connection, ["trail"])
        outcome = FileOutcome(
            file_id=first.file_id,
            status="accepted",
            read_with="1",
            counts=counts(lines_read=5, accepted=3, rejected=1, out_of_scope=1),
            rejects=[(4, "bad_time", "eventTime", "c" * 64)],
            event_days={DAY: 2, NEXT_DAY: 1},
            first_event_at=NOW,
            last_event_at=NOW,
        )
        refused = FileOutcome(file_id=second.file_id, status="rejected", reason="bad_json", read_with="1")
        for _ in range(2):
            manifest.write_outcomes(connection, [outcome, refused])
        accepted, rejected = manifest.files_of(connection, ["trail"], DAY)
        assert (accepted.status, accepted.counts.accepted, accepted.read_with) == ("accepted", 3, "1")
        assert (rejected.status, rejected.reason) == ("rejected", "bad_json")
        assert connection.execute(
            "select event_day, accepted_rows from core.source_file_day order by 1"
        ).fetchall() == [
            (DAY, 2),
            (NEXT_DAY, 1),
        ]
        assert connection.execute("select line_number, reason, field from core.quarantine").fetchall() == [
            (4, "bad_time", "eventTime")
        ]

    def test_cannot_lose_a_line(self, database: Database) -> None:
        with database.connect() as connection:
            register(connection, arrival("k1", "a"))
            (file,) = manifest.pending(connection, ["trail"])
            lost = FileOutcome(
                file_id=file.file_id, status="accepted", read_with="1", counts=counts(lines_read=2, accepted=1)
            )
            with pytest.raises(psycopg.errors.CheckViolation):
                manifest.write_outcomes(connection, [lost])
            connection.rollback()

    def test_counts_every_line_of_a_copy_as_a_duplicate(self, connection: psycopg.Connection) -> None:
        register(connection, arrival("k1", "a"), arrival("k2", "a", NEXT_DAY))
        (file,) = manifest.pending(connection, ["trail"])
        read = FileOutcome(
            file_id=file.file_id, status="accepted", read_with="1", counts=counts(lines_read=2, accepted=2)
        )
        manifest.write_outcomes(connection, [read])
        manifest.write_duplicates(connection, ["trail"], DAY)
        (copy,) = manifest.files_of(connection, ["trail"], NEXT_DAY, ["duplicate"])
        assert (copy.counts.lines_read, copy.counts.duplicate) == (2, 2)

    def test_reads_a_copy_in_place_of_a_file_that_was_gone(self, connection: psycopg.Connection) -> None:
        register(connection, arrival("k1", "a"), arrival("k2", "a", NEXT_DAY), arrival("k3", "a", NEXT_DAY))
        (file,) = manifest.pending(connection, ["trail"])
        gone = FileOutcome(file_id=file.file_id, status="rejected", reason="unreadable", read_with="1")
        manifest.write_outcomes(connection, [gone])
        manifest.write_duplicates(connection, ["trail"], DAY)
        assert [copy.key for copy in manifest.pending(connection, ["trail"])] == ["k2"]


class TestGenerations:
    def test_follow_the_pointer_and_find_event_days(self, connection: psycopg.Connection, tmp_path: Path) -> None:
        lake = Lake(str(tmp_path / "lake"), tmp_path)

        def publish(partition: date, name: str, days: dict[date, int]) -> None:
            path = tmp_path / f"{name}.parquet"
            path.write_text(name)
            file = lake.publish(path, dataset="core/x", partition=partition, generation=name)
            manifest.write_generation(
                connection, "core/x", partition, name, file,
                rows=sum(days.values()), event_days=days, inputs_digest=f"digest-{name}", code_version="1", run_id="r",
            )  # fmt: skip

        assert manifest.current_generation(connection, "core/x", DAY) is None
        publish(DAY, "g1", {DAY: 2})
        publish(DAY, "g2", {NEXT_DAY: 1})
        publish(NEXT_DAY, "g3", {DAY: 1, NEXT_DAY: 4})
        current = manifest.current_generation(connection, "core/x", DAY)
        assert current is not None
        assert (current.generation, current.inputs_digest, current.row_count) == ("g2", "digest-g2", 1)
        assert [found.generation for found in manifest.generations_touching(connection, "core/x", DAY)] == ["g3"]
        assert [found.generation for found in manifest.generations_touching(connection, "core/x", NEXT_DAY)] == [
            "g2",
            "g3",
        ]
        assert manifest.generations_touching(connection, "core/y", DAY) == ()
