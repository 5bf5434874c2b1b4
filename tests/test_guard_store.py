"""Verdicts and releases in PostgreSQL."""

from dataclasses import replace

import pytest

from billing_pipeline.checks import Subject, Verdict, VerdictStatus, equal
from resources import guard_store
from resources.database import Database

ASSET, DAY, OTHER_DAY = "usage/api_requests", "2026-03-01", "2026-03-02"


def verdict(*, guard: str = "hours_delivered", day: str = DAY, actual: int = 2, digest: str = "d1") -> Verdict:
    subject = Subject(asset=ASSET, partition_key=day, inputs_digest=digest)
    return equal(subject, guard=guard, expected=1, actual=actual, passed="fine", held="not fine")


def record(database: Database, *verdicts: Verdict) -> None:
    with database.transaction() as connection:
        guard_store.record(connection, verdicts, run_id="run-1")


class TestRecord:
    def test_keeps_the_newest_verdict_of_a_guard(self, database: Database) -> None:
        record(database, verdict(), verdict(day=OTHER_DAY))
        newest = replace(verdict(actual=1), inputs_digest="d2")
        record(database, newest)
        with database.reading() as connection:
            assert guard_store.verdicts(connection, ASSET, [DAY]) == (newest,)
            assert guard_store.verdicts(connection, ASSET, [DAY, OTHER_DAY]) == (newest, verdict(day=OTHER_DAY))
            assert guard_store.verdicts(connection, "billing/charges", [DAY]) == ()


class TestHeldPartitions:
    def test_names_the_guards_that_hold_and_leaves_out_what_nothing_holds(self, database: Database) -> None:
        record(database, verdict(guard="b"), verdict(guard="a"), verdict(guard="c", actual=1))
        record(database, verdict(day=OTHER_DAY, actual=1))
        with database.reading() as connection:
            assert guard_store.held_partitions(connection, ASSET, [DAY, OTHER_DAY]) == {DAY: ("a", "b")}


class TestRelease:
    def release(self, database: Database, *, guard: str = "hours_delivered", actor: str = "ann") -> None:
        guard_store.release(
            database, asset=ASSET, partition_key=DAY, guard=guard, actor=actor, reason="the exporter was down"
        )

    def released(self, database: Database, digest: str) -> frozenset[str]:
        with database.reading() as connection:
            return guard_store.released_guards(connection, ASSET, {DAY: digest}).get(DAY, frozenset())

    def test_is_for_exactly_the_inputs_that_were_judged(self, database: Database) -> None:
        record(database, verdict())
        self.release(database)
        assert self.released(database, "d1") == {"hours_delivered"}
        assert self.released(database, "d2") == frozenset()

    def test_again_changes_nothing(self, database: Database) -> None:
        record(database, verdict())
        self.release(database)
        self.release(database, actor="bob")
        with database.reading() as connection:
            rows = connection.execute("select actor, reason, inputs_digest from guards.release").fetchall()
        assert rows == [("ann", "the exporter was down", "d1")]

    def test_leaves_the_verdict_held_until_the_next_build(self, database: Database) -> None:
        record(database, verdict())
        self.release(database)
        with database.reading() as connection:
            assert guard_store.verdicts(connection, ASSET, [DAY])[0].status is VerdictStatus.HELD

    def test_of_what_is_not_held_is_refused(self, database: Database) -> None:
        record(database, verdict(actual=1))
        with pytest.raises(guard_store.NothingToReleaseError, match="its verdict is 'passed'"):
            self.release(database)
        with pytest.raises(guard_store.NothingToReleaseError, match="there is no such verdict"):
            self.release(database, guard="no_conflict")

    def test_without_a_name_is_refused(self, database: Database) -> None:
        record(database, verdict())
        with pytest.raises(guard_store.NothingToReleaseError, match="who decided it and why"):
            self.release(database, actor=" ")
