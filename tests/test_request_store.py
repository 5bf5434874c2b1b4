"""Delivery days end in one state however they got there: replays, late files, races, kill -9. Laws 1, 2, 3 and 7."""

import errno
import gzip
import os
import signal
import subprocess
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest
from moto.server import ThreadedMotoServer

from resources import guard_store, request_day_reader, request_day_writer, request_ingest
from resources.database import Database
from resources.helper_process import HelperProcess
from resources.lake import Lake
from resources.request_day_reader import AcceptedFileGoneError, RequestDayReader
from resources.request_day_writer import RequestDayWriter
from resources.request_days import RequestDays
from resources.request_ingest import DayIngest, DeliveryChangingError, RequestIngest
from resources.request_store import LinesWithoutIdsError, RequestStore
from tests.request_files import (
    API_REQUEST,
    AS_OF,
    NGINX_REQUEST,
    Deliveries,
    api_line,
    api_source,
    avro_bytes,
    avro_request,
    day_key,
    json_line,
)

DAY = date(2026, 3, 1)
NEXT_DAY = date(2026, 3, 2)


def lines(*names: str, **changes: object) -> bytes:
    """Return a good line for each request id."""
    return b"".join(api_line(request_id=name, **changes) for name in names)


@pytest.fixture
def deliveries(database: Database, tmp_path: Path) -> Deliveries:
    return Deliveries(database, tmp_path)


def ingest_day(deliveries: Deliveries, day: date = DAY, run_id: str = "run") -> DayIngest:
    (done,) = deliveries.store.ingest_days([day], run_id=run_id, code_version="test")
    return done


class TestDiscovery:
    def test_registers_every_file_once(self, deliveries: Deliveries) -> None:
        deliveries.deliver(day_key(DAY, "a.jsonl"), lines("r-1"))
        deliveries.deliver(day_key(NEXT_DAY, "b.jsonl"), lines("r-2"))
        first = deliveries.store.discover(seen_at=AS_OF)
        assert first.new_files == (day_key(DAY, "a.jsonl"), day_key(NEXT_DAY, "b.jsonl"))
        assert first.delivery_days == (DAY, NEXT_DAY)
        again = deliveries.store.discover(seen_at=AS_OF)
        assert (again.new_files, again.held_files, again.duplicate_files) == ((), (), ())
        assert again.delivery_days == (DAY, NEXT_DAY)

    def test_does_not_know_a_file_again_that_was_only_touched(self, deliveries: Deliveries) -> None:
        path = deliveries.deliver(day_key(DAY, "a.jsonl"), lines("r-1"))
        deliveries.ingest()
        os.utime(path, (1, 1))
        assert deliveries.store.discover(seen_at=AS_OF).new_files == ()
        assert deliveries.rows("select count(*) from core.source_file") == [(1,)]

    def test_leaves_unfinished_names_alone(self, deliveries: Deliveries) -> None:
        for name in ("a.jsonl.tmp", "b.part", ".hidden", "_SUCCESS"):
            deliveries.deliver(day_key(DAY, name), lines("r-1"))
        assert deliveries.store.discover(seen_at=AS_OF).new_files == ()

    @pytest.mark.parametrize("folder", ["2026-03-01", "2026/03/01", "in/2026-03-01/x"])
    def test_takes_the_delivery_day_from_the_path(self, deliveries: Deliveries, folder: str) -> None:
        deliveries.deliver(f"requests/api/{folder}/a.jsonl", lines("r-1"))
        assert deliveries.store.discover(seen_at=AS_OF).delivery_days == (DAY,)

    @pytest.mark.parametrize("key", ["a.jsonl", "2026-02-30/a.jsonl", "march/a.jsonl"])
    def test_reports_a_file_whose_path_names_no_day(self, deliveries: Deliveries, key: str) -> None:
        deliveries.deliver(f"requests/api/{key}", lines("r-1"))
        found = deliveries.store.discover(seen_at=AS_OF)
        assert (found.unplaced_files, found.new_files, found.delivery_days) == ((f"requests/api/{key}",), (), ())

    def test_takes_the_delivery_day_from_the_modification_time(self, database: Database, tmp_path: Path) -> None:
        deliveries = Deliveries(database, tmp_path, [api_source(delivery_day="modified")])
        path = deliveries.deliver("requests/api/a.jsonl", lines("r-1"))
        moment = datetime(2026, 3, 1, 23, 59, 59, tzinfo=UTC).timestamp()
        os.utime(path, (moment, moment))
        assert deliveries.store.discover(seen_at=AS_OF).delivery_days == (DAY,)


class TestIngest:
    def test_publishes_the_rows_of_a_day_with_their_counts(self, deliveries: Deliveries) -> None:
        deliveries.deliver(day_key(DAY, "a.jsonl"), lines("r-1", "r-2", "r-1") + b"no json\n\n")
        deliveries.deliver(day_key(DAY, "b.jsonl.gz"), gzip.compress(lines("r-2", "r-3")))
        deliveries.store.discover(seen_at=AS_OF)
        done = ingest_day(deliveries)
        assert deliveries.manifest() == {
            "a.jsonl": ("accepted", None, 5, 2, 1, 1, 1),
            "b.jsonl.gz": ("accepted", None, 2, 1, 0, 1, 0),
        }
        assert deliveries.lake_rows() == [("r-1",), ("r-2",), ("r-3",)]
        assert (done.counts.lines_read, done.counts.accepted, done.counts.unaccounted) == (7, 3, 0)
        assert dict(done.rejected_by_reason) == {"bad_json": 1}
        assert dict(done.event_days) == {DAY: 3}
        assert {verdict.guard: str(verdict.status) for verdict in done.verdicts} == {
            "files_taken": "passed",
            "lines_conserved": "passed",
            "rows_published": "passed",
        }
        assert deliveries.rows("select line_number, reason, field from core.quarantine") == [(4, "bad_json", None)]

    def test_changes_nothing_when_it_runs_again(self, deliveries: Deliveries) -> None:
        deliveries.deliver(day_key(DAY, "a.jsonl"), lines("r-1"))
        deliveries.ingest()
        before = everything(deliveries.database)
        done = ingest_day(deliveries, run_id="another run")
        assert dict(done.seconds) == {}
        assert everything(deliveries.database) == before

    def test_makes_a_new_generation_of_a_late_file_and_switches_the_pointer(self, deliveries: Deliveries) -> None:
        deliveries.deliver(day_key(DAY, "a.jsonl"), lines("r-1", "r-2"))
        deliveries.ingest()
        first = deliveries.rows("select generation from core.lake_partition")
        deliveries.deliver(day_key(DAY, "b.jsonl"), lines("r-2", "r-3"))
        deliveries.ingest()
        assert deliveries.rows("select generation from core.lake_partition") != first
        assert deliveries.rows("select count(*) from core.lake_generation") == [(2,)]
        assert deliveries.lake_rows() == [("r-1",), ("r-2",), ("r-3",)]
        assert len(list(deliveries.lake_dir.rglob("*.parquet"))) == 2

    def test_tells_which_event_days_each_file_touches(self, deliveries: Deliveries) -> None:
        late = lines("r-2", timestamp="2026-02-27T00:00:00Z") + lines("r-3", timestamp="2026-02-26T23:59:59.999999Z")
        deliveries.deliver(day_key(DAY, "a.jsonl"), lines("r-1") + late)
        deliveries.ingest()
        assert deliveries.rows("select event_day, accepted_rows from core.source_file_day order by 1") == [
            (date(2026, 2, 26), 1),
            (date(2026, 2, 27), 1),
            (DAY, 1),
        ]
        assert deliveries.rows("select first_event_at, last_event_at from core.source_file") == [
            (
                datetime(2026, 2, 26, 23, 59, 59, 999_999, tzinfo=UTC),
                datetime(2026, 3, 1, 10, 20, 30, 123_456, tzinfo=UTC),
            )
        ]

    def test_publishes_a_day_without_rows(self, deliveries: Deliveries) -> None:
        deliveries.deliver(day_key(DAY, "a.jsonl.gz"), gzip.compress(b""))
        deliveries.deliver(day_key(DAY, "b.jsonl"), b"no json\n")
        deliveries.ingest()
        assert deliveries.manifest() == {
            "a.jsonl.gz": ("accepted", None, 0, 0, 0, 0, 0),
            "b.jsonl": ("accepted", None, 1, 0, 1, 0, 0),
        }
        assert deliveries.rows("select row_count from core.lake_generation") == [(0,)]
        assert deliveries.lake_rows() == []

    def test_publishes_an_empty_generation_for_a_day_without_files(self, deliveries: Deliveries) -> None:
        done = ingest_day(deliveries)
        assert (done.counts.lines_read, dict(done.event_days), done.files) == (0, {}, ())

    def test_counts_conflicting_identities_and_keeps_both_contents(self, deliveries: Deliveries) -> None:
        deliveries.deliver(day_key(DAY, "a.jsonl"), lines("r-1", "r-2") + lines("r-1", status_code=500))
        deliveries.ingest()
        assert deliveries.lake_rows("event_id, status_code") == [("r-1", 200), ("r-1", 500), ("r-2", 200)]
        assert deliveries.rows("select conflicting_identities from core.lake_generation") == [(1,)]

    def test_ends_in_one_state_in_whatever_order_files_arrive(self, database: Database, tmp_path: Path) -> None:
        contents = {"a.jsonl": lines("r-1", "r-2", "r-3"), "b.jsonl": lines("r-3", "r-4") + b"x\n"}
        at_once = Deliveries(database, tmp_path / "one", [api_source(name="one", landing="one")])
        for name, content in contents.items():
            at_once.deliver(f"one/2026-03-01/{name}", content)
        at_once.ingest()
        rows = at_once.lake_rows(day=DAY)
        late = Deliveries(database, tmp_path / "two", [api_source(name="two", landing="two")])
        for name, content in reversed(contents.items()):
            late.deliver(f"two/2026-03-02/{name}", content)
            late.ingest(NEXT_DAY)
        assert late.lake_rows(day=NEXT_DAY) == rows
        sums = "select source, sum(lines_read), sum(accepted_rows), sum(rejected_rows), sum(duplicate_rows)"
        one, two = late.rows(f"{sums} from core.source_file group by 1 order by 1")
        assert one[1:] == two[1:]

    def test_reads_a_file_anew_only_when_its_profile_has_changed(self, database: Database, tmp_path: Path) -> None:
        first = Deliveries(database, tmp_path)
        path = first.deliver(day_key(DAY, "a.jsonl"), lines("r-1") + lines("r-2", client_id="a.b"))
        first.ingest()
        assert first.manifest()["a.jsonl"] == ("accepted", None, 2, 1, 1, 0, 0)
        source = api_source()
        client = source.profile.fields.client_id.model_copy(update={"pattern": "[a-z.]+"})
        fields = source.profile.fields.model_copy(update={"client_id": client})
        profile = source.profile.model_copy(update={"fields": fields, "version": 2, "sha256": "f" * 64})
        second = Deliveries(database, tmp_path, [api_source(profile)])
        ingest_day(second)
        assert second.manifest()["a.jsonl"] == ("accepted", None, 2, 2, 0, 0, 0)
        assert second.rows("select profile_version from core.source_file") == [(2,)]
        assert second.rows("select count(*) from core.quarantine") == [(0,)]
        assert path.exists()

    def test_takes_rows_over_when_the_landing_zone_was_emptied(self, deliveries: Deliveries) -> None:
        path = deliveries.deliver(day_key(DAY, "a.jsonl"), lines("r-1", "r-1") + b"x\n")
        deliveries.ingest()
        path.unlink()
        deliveries.deliver(day_key(DAY, "b.jsonl"), lines("r-1", "r-2"))
        deliveries.ingest()
        assert deliveries.lake_rows() == [("r-1",), ("r-2",)]
        assert deliveries.manifest() == {
            "a.jsonl": ("accepted", None, 3, 1, 1, 1, 0),
            "b.jsonl": ("accepted", None, 2, 1, 0, 1, 0),
        }
        assert deliveries.rows("select count(*) from core.quarantine") == [(1,)]

    def test_reads_avro_and_lines_of_two_sources_side_by_side(self, database: Database, tmp_path: Path) -> None:
        auth = api_source("billable_request_avro", name="auth", landing="requests/auth")
        deliveries = Deliveries(database, tmp_path, [api_source(), auth])
        deliveries.deliver(day_key(DAY, "a.jsonl"), lines("a-1"))
        deliveries.deliver(day_key(DAY, "a.avro", "auth"), avro_bytes([avro_request(1), avro_request(1)]))
        deliveries.ingest()
        assert deliveries.lake_rows("source, event_id") == [("api", "a-1"), ("auth", "a-1")]

    def test_says_in_the_manifest_that_lines_were_in_a_leap_second(self, deliveries: Deliveries) -> None:
        deliveries.deliver(day_key(DAY, "a.jsonl"), lines("r-1", timestamp="2016-12-31T23:59:60Z") + lines("r-2"))
        deliveries.ingest()
        detail = [("leap_second: 1 lines, kept as the second after it",)]
        assert deliveries.rows("select detail from core.source_file") == detail
        deliveries.deliver(day_key(DAY, "b.jsonl"), lines("r-3"))
        deliveries.ingest()
        assert deliveries.rows("select detail from core.source_file where key like '%a.jsonl'") == detail


class TestRanges:
    def test_of_days_share_transactions(self, deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch) -> None:
        days = [DAY + timedelta(days=number) for number in range(7)]
        for day in days:
            deliveries.deliver(day_key(day, "a.jsonl"), lines(f"r-{day}"))
        deliveries.store.discover(seen_at=AS_OF)
        monkeypatch.setattr(request_ingest, "DAYS_PER_TRANSACTION", 3)
        locks: list[int] = []
        real = Database.transaction

        def noted(database: Database, *names: str) -> Any:
            locks.append(len(names))
            return real(database, *names)

        monkeypatch.setattr(Database, "transaction", noted)
        told: list[tuple[str, int, int]] = []
        done = deliveries.store.ingest_days(
            days, run_id="run", code_version="test", on_progress=lambda *said: told.append(said)
        )
        assert locks == [3, 3, 1]
        assert [one.day for one in done] == days
        assert [one.counts.accepted for one in done] == [1] * 7
        assert all(set(one.seconds) == {"read files", "publish"} for one in done)
        assert told == [("delivery days", number, 7) for number in range(8)]
        assert deliveries.lake_rows() == [(f"r-{day}",) for day in days]

    def test_leave_a_large_day_a_transaction_of_its_own(
        self, deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        days = [DAY + timedelta(days=number) for number in range(4)]
        for day, count in zip(days, (1, 1, 9, 1), strict=True):
            deliveries.deliver(day_key(day, "a.jsonl"), lines(*(f"r-{day}-{number}" for number in range(count))))
        deliveries.store.discover(seen_at=AS_OF)
        monkeypatch.setattr(request_ingest, "SMALL_DAY_BYTES", 5 * len(lines("r-2026-03-01-0")))
        with deliveries.database.reading() as connection:
            found = RequestDays(deliveries.lake, {one.name: one for one in deliveries.sources}).read(connection, days)
        batches = request_ingest._batches(found)
        assert [[one.day for one in batch] for batch in batches] == [days[:2], days[2:3], days[3:]]

    def test_with_a_day_that_cannot_be_read_publish_the_others(self, deliveries: Deliveries) -> None:
        first = deliveries.deliver(day_key(DAY, "a.jsonl"), lines("r-1"))
        deliveries.ingest()
        (uri,) = deliveries.rows("select uri from core.lake_generation")[0]
        deliveries.lake.remove(uri)
        first.unlink()
        deliveries.deliver(day_key(NEXT_DAY, "b.jsonl"), lines("r-2"))
        with pytest.raises(AcceptedFileGoneError, match="restore the file"):
            deliveries.ingest(DAY, NEXT_DAY)
        assert deliveries.lake_rows(day=NEXT_DAY) == [("r-2",)]
        assert deliveries.manifest()["a.jsonl"] == ("accepted", None, 1, 1, 0, 0, 0)
        assert not list(deliveries.scratch_dir.glob("ingest-*"))

    def test_read_a_copy_in_place_of_a_file_that_is_gone_whichever_day_comes_first(
        self, deliveries: Deliveries
    ) -> None:
        original = deliveries.deliver(day_key(NEXT_DAY, "a.jsonl"), lines("r-1"))
        deliveries.store.discover(seen_at=AS_OF)
        deliveries.deliver(day_key(DAY, "copy.jsonl"), lines("r-1"))
        deliveries.store.discover(seen_at=AS_OF)
        original.unlink()
        first, second = deliveries.store.ingest_days([DAY, NEXT_DAY], run_id="run", code_version="test")
        assert (first.counts.accepted, second.counts.accepted) == (1, 0)
        assert deliveries.manifest()["copy.jsonl"] == ("accepted", None, 1, 1, 0, 0, 0)
        assert deliveries.lake_rows() == [("r-1",)]

    def test_asked_for_twice_are_read_once(self, deliveries: Deliveries) -> None:
        deliveries.deliver(day_key(DAY, "a.jsonl"), lines("r-1"))
        deliveries.store.discover(seen_at=AS_OF)
        first, second = deliveries.store.ingest_days([DAY, DAY], run_id="run", code_version="test")
        assert first == second
        assert deliveries.rows("select count(*) from core.lake_generation") == [(1,)]


class TestRefusedFiles:
    def test_leave_no_rows_among_good_ones(self, deliveries: Deliveries) -> None:
        deliveries.deliver(day_key(DAY, "a.jsonl"), lines("r-1"))
        damaged = gzip.compress(b"".join(lines(f"x-{number}") for number in range(30_000)), 1)
        deliveries.deliver(day_key(DAY, "b.jsonl.gz"), damaged[:-4] + bytes(4))
        deliveries.deliver(day_key(DAY, "c.jsonl"), lines("r-2"))
        deliveries.store.discover(seen_at=AS_OF)
        done = ingest_day(deliveries)
        assert deliveries.lake_rows() == [("r-1",), ("r-2",)]
        assert deliveries.manifest()["b.jsonl.gz"] == ("rejected", "bad_compression", 0, 0, 0, 0, 0)
        assert deliveries.rows("select count(*) from core.quarantine") == [(0,)]
        verdict = next(verdict for verdict in done.verdicts if verdict.guard == "files_taken")
        assert str(verdict.status) == "warned"
        assert f"{day_key(DAY, 'b.jsonl.gz')} (bad_compression)" in verdict.message

    def test_are_read_when_they_are_delivered_again_whole(self, deliveries: Deliveries) -> None:
        whole = gzip.compress(lines("r-1"))
        deliveries.deliver(day_key(DAY, "a.jsonl.gz"), whole[:-5])
        deliveries.ingest()
        assert deliveries.manifest()["a.jsonl.gz"][:2] == ("rejected", "bad_compression")
        deliveries.deliver(day_key(DAY, "a.jsonl.gz"), whole)
        deliveries.ingest()
        assert deliveries.manifest() == {
            "a.jsonl.gz#1": ("rejected", "bad_compression", 0, 0, 0, 0, 0),
            "a.jsonl.gz#2": ("accepted", None, 1, 1, 0, 0, 0),
        }
        assert deliveries.lake_rows() == [("r-1",)]

    def test_are_not_read_again_in_vain(self, deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch) -> None:
        deliveries.deliver(day_key(DAY, "a.jsonl"), b"\0\1\2" * 4_000)
        deliveries.ingest()
        deliveries.deliver(day_key(DAY, "b.jsonl"), lines("r-1"))
        read: list[str] = []
        real = RequestDayReader._read_file

        def noted(reader: RequestDayReader, file: Any, *rest: Any, **options: Any) -> None:
            read.append(file.key)
            real(reader, file, *rest, **options)

        monkeypatch.setattr(RequestDayReader, "_read_file", noted)
        deliveries.ingest()
        assert read == [day_key(DAY, "b.jsonl")]
        assert deliveries.manifest()["a.jsonl"][:2] == ("rejected", "binary")

    @pytest.mark.parametrize("hashed_before_bytes", [0, 1 << 20])
    @pytest.mark.parametrize("content", [lines("r-2"), b"\0\1\2" * 4_000, gzip.compress(lines("r-2"))[:-5]])
    def test_overwritten_after_they_were_registered_are_refused_and_the_new_content_is_read(
        self, deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch, content: bytes, hashed_before_bytes: int
    ) -> None:
        monkeypatch.setattr(request_day_reader, "HASHED_BEFORE_BYTES", hashed_before_bytes)
        deliveries.deliver(day_key(DAY, "a.jsonl"), lines("r-1"))
        deliveries.deliver(day_key(DAY, "b.jsonl"), lines("r-3"))
        deliveries.store.discover(seen_at=AS_OF)
        deliveries.deliver(day_key(DAY, "a.jsonl"), content)
        ingest_day(deliveries)
        assert deliveries.manifest()["a.jsonl"][:2] == ("rejected", "unreadable")
        assert deliveries.lake_rows() == [("r-3",)]
        deliveries.deliver(day_key(DAY, "a.jsonl"), lines("r-2", "r-4"))
        deliveries.ingest()
        assert deliveries.lake_rows() == [("r-2",), ("r-3",), ("r-4",)]


class TestRedelivery:
    def test_of_the_same_name_with_other_content_is_held_and_reported(self, deliveries: Deliveries) -> None:
        key = day_key(DAY, "a.jsonl")
        deliveries.deliver(key, lines("r-1"))
        deliveries.ingest()
        deliveries.deliver(key, lines("r-1", "r-2"))
        found = deliveries.store.discover(seen_at=AS_OF)
        assert (found.held_files, found.new_files, found.delivery_days) == ((key,), (), ())
        done = ingest_day(deliveries)
        assert deliveries.lake_rows() == [("r-1",)]
        assert deliveries.manifest()["a.jsonl#2"] == ("held", "same_key_other_content", 0, 0, 0, 0, 0)
        assert "same_key_other_content" in next(one.message for one in done.verdicts if one.guard == "files_taken")

    def test_that_was_held_is_read_when_a_person_accepts_it(self, deliveries: Deliveries) -> None:
        key = day_key(DAY, "a.jsonl")
        deliveries.deliver(key, lines("r-1"))
        deliveries.ingest()
        deliveries.deliver(key, lines("r-1", "r-2"))
        deliveries.store.discover(seen_at=AS_OF)
        ((file_id,),) = deliveries.rows("select file_id from core.source_file where status = 'held'")
        assert deliveries.store.accept_held(file_id, actor="jo", reason="the first was cut") is True
        assert deliveries.store.accept_held(file_id, actor="jo", reason="again") is False
        ingest_day(deliveries)
        assert deliveries.lake_rows() == [("r-1",), ("r-2",)]
        assert deliveries.manifest()["a.jsonl#2"] == ("accepted", "same_key_other_content", 2, 1, 0, 1, 0)
        detail = deliveries.rows("select detail from core.source_file where file_id = %s", file_id)
        assert detail == [("accepted by jo: the first was cut",)]

    def test_that_was_held_is_not_accepted_where_lines_have_no_ids(self, database: Database, tmp_path: Path) -> None:
        deliveries = Deliveries(database, tmp_path, [api_source("nginx_json")])
        key, line = day_key(DAY, "a.jsonl"), json_line(NGINX_REQUEST)
        deliveries.deliver(key, line)
        deliveries.ingest()
        deliveries.deliver(key, line + json_line(NGINX_REQUEST, request_time="0.009"))
        deliveries.store.discover(seen_at=AS_OF)
        ((file_id,),) = deliveries.rows("select file_id from core.source_file where status = 'held'")
        with pytest.raises(LinesWithoutIdsError, match="lines have no ids"):
            deliveries.store.accept_held(file_id, actor="jo", reason="it has grown")
        ingest_day(deliveries)
        assert len(deliveries.lake_rows()) == 1

    def test_of_the_same_content_under_another_name_is_a_duplicate_of_every_line(self, deliveries: Deliveries) -> None:
        content = lines("r-1", "r-2") + b"x\n"
        deliveries.deliver(day_key(DAY, "a.jsonl"), content)
        deliveries.deliver(day_key(NEXT_DAY, "copy.jsonl"), content)
        found = deliveries.store.discover(seen_at=AS_OF)
        assert found.duplicate_files == (day_key(NEXT_DAY, "copy.jsonl"),)
        deliveries.ingest(DAY)
        assert deliveries.manifest()["copy.jsonl"] == ("duplicate", None, 3, 0, 0, 3, 0)
        assert deliveries.lake_rows() == [("r-1",), ("r-2",)]

    def test_that_repeats_a_file_which_could_not_be_read_is_read_in_its_place(self, deliveries: Deliveries) -> None:
        original = deliveries.deliver(day_key(DAY, "a.jsonl"), lines("r-1"))
        deliveries.deliver(day_key(NEXT_DAY, "copy.jsonl"), lines("r-1"))
        deliveries.deliver(day_key(NEXT_DAY, "other.jsonl"), lines("r-1"))
        deliveries.store.discover(seen_at=AS_OF)
        original.unlink()
        ingest_day(deliveries)
        assert deliveries.manifest()["a.jsonl"][:2] == ("rejected", "unreadable")
        assert deliveries.store.delivery_days(pending_only=True) == (NEXT_DAY,)
        deliveries.ingest()
        assert deliveries.lake_rows() == [("r-1",)]
        assert deliveries.manifest()["copy.jsonl"] == ("accepted", None, 1, 1, 0, 0, 0)
        assert deliveries.manifest()["other.jsonl"] == ("duplicate", None, 1, 0, 0, 1, 0)

    def test_that_was_accepted_is_not_taken_out_of_the_bill_by_a_profile_that_refuses_it(
        self, database: Database, tmp_path: Path
    ) -> None:
        right = api_source()
        deliveries = Deliveries(database, tmp_path, [right])
        deliveries.deliver(day_key(DAY, "a.jsonl"), lines(*(f"r-{number}" for number in range(1_200))))
        deliveries.ingest()
        status = right.profile.fields.status_code.model_copy(update={"path": "elsewhere"})
        fields = right.profile.fields.model_copy(update={"status_code": status})
        wrong = right.profile.model_copy(update={"fields": fields, "sha256": "f" * 64})
        edited = Deliveries(database, tmp_path, [api_source(wrong)])
        with pytest.raises(AcceptedFileGoneError, match="bad_ratio"):
            edited.ingest(DAY)
        assert edited.manifest()["a.jsonl"] == ("accepted", None, 1_200, 1_200, 0, 0, 0)
        assert len(edited.lake_rows()) == 1_200

    @pytest.mark.parametrize("profile", ["billable_request_json", "nginx_json"])
    def test_of_a_refused_file_counts_once_when_the_corrected_profile_reads_both(
        self, database: Database, tmp_path: Path, profile: str
    ) -> None:
        right = api_source(profile)
        status = right.profile.fields.status_code.model_copy(update={"path": "elsewhere"})
        fields = right.profile.fields.model_copy(update={"status_code": status})
        wrong = right.profile.model_copy(update={"fields": fields, "sha256": "f" * 64})
        first = Deliveries(database, tmp_path, [api_source(wrong)])
        base = API_REQUEST if profile == "billable_request_json" else NGINX_REQUEST
        content = b"".join(json_line(base, request_id=f"r-{number}") for number in range(1_000))
        for name in ("a.jsonl", "b.jsonl"):
            first.deliver(day_key(DAY, name), content)
            first.ingest()
        assert [one[:2] for one in first.manifest().values()] == [("rejected", "bad_ratio")] * 2
        second = Deliveries(database, tmp_path, [right])
        second.ingest(DAY)
        assert second.manifest() == {
            "a.jsonl": ("accepted", None, 1_000, 1_000, 0, 0, 0),
            "b.jsonl": ("accepted", None, 1_000, 0, 0, 1_000, 0),
        }
        second.deliver(day_key(DAY, "c.jsonl"), json_line(base, request_id="late"))
        second.ingest()
        identities = second.lake_rows("event_id")
        assert len(identities) == len(set(identities)) == 1_001


class TestScratch:
    def test_left_by_a_process_that_was_killed_goes_a_day_later(self, deliveries: Deliveries) -> None:
        old, new = deliveries.scratch_dir / "landing" / "old", deliveries.scratch_dir / "landing" / "new"
        spill = deliveries.scratch_dir / "duckdb-1"
        for folder in (old.parent, spill):
            folder.mkdir(parents=True)
        for path in (old, new):
            path.write_bytes(lines("r-1"))
        for path in (old, spill):
            os.utime(path, (1, 1))
        ingest_day(deliveries)
        assert (old.exists(), new.exists(), spill.exists()) == (False, True, False)


class TestEquation:
    def test_holds_for_every_file_and_every_day_in_postgresql(self, deliveries: Deliveries) -> None:
        deliveries.deliver(day_key(DAY, "a.jsonl"), lines("r-1", "r-1") + b"x\n\n")
        deliveries.deliver(day_key(DAY, "b.jsonl"), lines("r-1", "r-2", timestamp="2026-02-28T00:00:00Z"))
        deliveries.deliver(day_key(NEXT_DAY, "c.jsonl"), lines("r-1", "r-5"))
        deliveries.deliver(day_key(NEXT_DAY, "d.jsonl"), b"\0\1\2" * 4_000)
        deliveries.ingest()
        assert deliveries.rows(
            "select count(*) from core.source_file"
            " where lines_read <> accepted_rows + rejected_rows + duplicate_rows + out_of_scope_rows"
        ) == [(0,)]
        assert deliveries.rows(
            "select count(*) from core.source_file as file where rejected_rows <>"
            " (select count(*) from core.quarantine where quarantine.file_id = file.file_id) or accepted_rows <>"
            " (select coalesce(sum(day.accepted_rows), 0) from core.source_file_day as day where day.file_id = file.file_id)"
        ) == [(0,)]
        assert deliveries.rows(
            "select delivery_day, sum(accepted_rows) from core.source_file group by 1 order by 1"
        ) == deliveries.rows(
            "select partition_key, row_count from core.lake_partition"
            " join core.lake_generation using (dataset, partition_key, generation) order by 1"
        )
        assert deliveries.rows("select status, count(*) from guards.verdict group by 1 order by 1") == [
            ("passed", 5),
            ("warned", 1),
        ]


class TestConcurrency:
    def test_two_runs_of_one_day_at_once_end_in_one_generation(
        self, deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in range(4):
            deliveries.deliver(day_key(DAY, f"{number}.jsonl"), lines(f"r-{number}", "r-0"))
        deliveries.store.discover(seen_at=AS_OF)
        both_have_read = threading.Barrier(2, timeout=60)
        real = RequestDayReader._read_files

        def together(*arguments: Any) -> Any:
            result = real(*arguments)
            both_have_read.wait()
            return result

        monkeypatch.setattr(RequestDayReader, "_read_files", together)
        with ThreadPoolExecutor(2) as executor:
            first, second = executor.map(lambda run_id: ingest_day(deliveries, run_id=run_id), ["one", "two"])
        assert first.generation == second.generation
        assert deliveries.rows("select count(*) from core.lake_generation") == [(1,)]
        assert deliveries.lake_rows() == [("r-0",), ("r-1",), ("r-2",), ("r-3",)]

    def test_a_file_that_is_registered_while_the_day_is_read_is_not_lost(
        self, deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        deliveries.deliver(day_key(DAY, "a.jsonl"), lines("r-1"))
        deliveries.store.discover(seen_at=AS_OF)
        real = RequestDayReader._read_files
        rounds: list[int] = []

        def with_a_late_file(*arguments: Any) -> Any:
            result = real(*arguments)
            rounds.append(len(rounds))
            if len(rounds) == 1:
                deliveries.deliver(day_key(DAY, "b.jsonl"), lines("r-2"))
                deliveries.store.discover(seen_at=AS_OF)
            return result

        monkeypatch.setattr(RequestDayReader, "_read_files", with_a_late_file)
        ingest_day(deliveries)
        assert len(rounds) == 2
        assert deliveries.lake_rows() == [("r-1",), ("r-2",)]
        assert deliveries.store.delivery_days(pending_only=True) == ()

    def test_a_day_whose_files_never_stop_coming_gives_way_with_a_clear_error(
        self, deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = RequestDayReader._read_files
        count = iter(range(99))

        def with_one_more(*arguments: Any) -> Any:
            result = real(*arguments)
            number = next(count)
            deliveries.deliver(day_key(DAY, f"{number}.jsonl"), lines(f"r-{number}"))
            deliveries.store.discover(seen_at=AS_OF)
            return result

        monkeypatch.setattr(RequestDayReader, "_read_files", with_one_more)
        with pytest.raises(DeliveryChangingError, match="2026-03-01"):
            ingest_day(deliveries)
        assert deliveries.rows("select count(*) from core.lake_partition") == [(0,)]


class TestDaysInProcesses:
    """Many small days are read in processes beside ours; here a byte is many."""

    DAYS = [DAY + timedelta(days=number) for number in range(9)]

    @pytest.fixture(autouse=True)
    def _many(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(request_day_reader, "BYTES_FOR_A_PROCESS", 1)
        monkeypatch.setattr(request_ingest, "DAYS_PER_TRANSACTION", 2)

    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """Return the process of each question."""
        asked: list[int] = []
        real = HelperProcess.ask

        def noted(helper: HelperProcess[Any, Any], question: Any) -> Any:
            asked.append(helper.pid)
            return real(helper, question)

        monkeypatch.setattr(HelperProcess, "ask", noted)
        return asked

    def put(self, deliveries: Deliveries) -> None:
        put_everything(deliveries)
        for day in self.DAYS[2:]:
            deliveries.deliver(day_key(day, "z.jsonl"), lines("r-1", f"r-{day}", f"r-{day}") + b"no line\n")
        deliveries.deliver(day_key(self.DAYS[4], "binary.jsonl"), b"\0\1\2" * 4_000)

    @pytest.fixture
    def calm(self, second_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deliveries:
        """Return what comes of the same files without another process."""
        calm = Deliveries(second_database, tmp_path / "calm")
        self.put(calm)
        with monkeypatch.context() as patched:
            patched.setattr(request_day_reader, "BYTES_FOR_A_PROCESS", 1 << 60)
            calm.ingest()
        return calm

    def test_end_in_the_same_rows_counts_and_verdicts(
        self, deliveries: Deliveries, calm: Deliveries, asked: list[int]
    ) -> None:
        self.put(deliveries)
        deliveries.ingest()
        assert asked
        self.assert_same(deliveries, calm)
        assert not any(map(psutil.pid_exists, asked))

    def test_are_read_here_when_the_system_starts_no_more_processes(
        self, deliveries: Deliveries, calm: Deliveries, asked: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refused(*_: object, **__: object) -> None:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

        self.put(deliveries)
        with monkeypatch.context() as patched:
            patched.setattr(subprocess, "Popen", refused)
            deliveries.ingest()
        assert asked == []
        self.assert_same(deliveries, calm)

    def test_are_read_here_when_the_process_dies_or_fails(
        self, deliveries: Deliveries, calm: Deliveries, asked: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        noted = HelperProcess.ask

        def shot(helper: HelperProcess[Any, Any], question: Any) -> Any:
            if len(asked) == 1:
                os.kill(helper.pid, signal.SIGKILL)
            return noted(helper, question)

        monkeypatch.setattr(HelperProcess, "ask", shot)
        self.put(deliveries)
        deliveries.ingest()
        assert len(asked) >= 2
        self.assert_same(deliveries, calm)

    def test_that_cannot_be_read_say_why_and_do_not_stop_the_others(
        self, deliveries: Deliveries, asked: list[int]
    ) -> None:
        gone = [deliveries.deliver(day_key(day, "a.jsonl"), lines(f"r-{day}")) for day in self.DAYS[:8]]
        deliveries.ingest()
        for (uri,) in deliveries.rows("select uri from core.lake_generation"):
            deliveries.lake.remove(uri)
        for path in gone:
            path.unlink()
        deliveries.deliver(day_key(self.DAYS[8], "a.jsonl"), lines("r-9"))
        asked.clear()
        with pytest.raises(AcceptedFileGoneError, match="restore the file"):
            deliveries.ingest(*self.DAYS)
        assert asked
        assert deliveries.lake_rows(day=self.DAYS[8]) == [("r-9",)]
        assert not list(deliveries.scratch_dir.glob("ingest-*"))

    def test_of_a_run_that_is_killed_and_run_again_are_the_same(self, deliveries: Deliveries, calm: Deliveries) -> None:
        self.put(deliveries)
        for step in ("HelperProcess.ask", "RequestDayWriter.publish"):
            killed_at(step, deliveries.ingest)
        deliveries.ingest(*self.DAYS)
        self.assert_same(deliveries, calm)

    def assert_same(self, one: Deliveries, other: Deliveries) -> None:
        assert everything(one.database) == everything(other.database)
        columns = "event_id, event_at, status_code, line_number"
        assert one.lake_rows(columns) == other.lake_rows(columns)


def killed_at(step: str, work: Callable[[], None]) -> None:
    """Run `work` in a child process that is killed with -9 when it enters `step`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child neither holds nor waits for a lock of a thread
        child = os.fork()
    if child == 0:
        kind, name = step.split(".")
        owner: Any = OWNERS[kind]

        def die(*_: object, **__: object) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(owner, name, die)
        try:
            work()
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"{step} was not reached"


def everything(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """Return what the tables say, but for names and times that differ from run to run."""
    queries = {
        "files": "select source, key, status, reason, detail, lines_read, accepted_rows, rejected_rows, duplicate_rows,"
        " out_of_scope_rows, first_event_at, last_event_at from core.source_file",
        "file days": "select key, event_day, day.accepted_rows from core.source_file_day as day"
        " join core.source_file using (file_id)",
        "quarantine": "select key, line_number, quarantine.reason, field, line_sha256 from core.quarantine"
        " join core.source_file using (file_id)",
        "current": "select partition_key, inputs_digest, row_count, conflicting_identities from core.lake_partition"
        " join core.lake_generation using (dataset, partition_key, generation)",
        "days": "select partition_key, event_day, lake_generation_day.row_count from core.lake_partition"
        " join core.lake_generation_day using (dataset, partition_key, generation)",
        "verdicts": "select asset, partition_key, guard, status, expected, actual, inputs_digest from guards.verdict",
    }
    with database.connect() as connection:
        return {
            name: sorted(connection.execute(query.encode()).fetchall(), key=repr) for name, query in queries.items()
        }


OWNERS = {
    owner.__name__.rpartition(".")[2]: owner
    for owner in (
        RequestStore,
        RequestDayReader,
        RequestIngest,
        RequestDayWriter,
        Lake,
        request_day_writer,
        guard_store,
        HelperProcess,
    )
}
STEPS = [
    "RequestStore._register",
    "RequestIngest._read",
    "RequestDayReader._read_file",
    "RequestIngest._publish",
    "RequestDayWriter.publish",
    "Lake.publish_all",
    "request_day_writer.write_generations",
    "request_day_writer.write_files",
    "request_day_writer.write_quarantine",
    "request_day_writer.write_duplicates",
    "RequestDayWriter.judge_files",
    "guard_store.verdicts",
]


class TestKill9:
    def test_at_any_step_and_run_again_gives_the_same_rows_and_counts(
        self, database: Database, second_database: Database, tmp_path: Path
    ) -> None:
        calm = Deliveries(database, tmp_path / "calm")
        put_everything(calm)
        calm.ingest()
        shaken = Deliveries(second_database, tmp_path / "shaken")
        put_everything(shaken)
        for step in STEPS:
            killed_at(step, lambda: shaken.ingest(DAY, NEXT_DAY))
        shaken.ingest(DAY, NEXT_DAY)
        assert everything(shaken.database) == everything(calm.database)
        columns = "event_id, event_at, status_code, line_number"
        assert shaken.lake_rows(columns) == calm.lake_rows(columns)
        assert len(shaken.lake_rows()) == 6


def put_everything(deliveries: Deliveries) -> None:
    deliveries.deliver(day_key(DAY, "a.jsonl"), lines("r-1", "r-2", "r-1") + lines("r-2", status_code=500) + b"x\n")
    deliveries.deliver(day_key(DAY, "b.jsonl"), b"\0\1\2" * 4_000)
    deliveries.deliver(day_key(DAY, "c.jsonl"), lines("r-1", "r-9") + lines("r-8", timestamp="2026-02-01T00:00:00Z"))
    deliveries.deliver(day_key(DAY, "d.jsonl"), lines("r-1", "r-9") + lines("r-8", timestamp="2026-02-01T00:00:00Z"))
    deliveries.deliver(day_key(NEXT_DAY, "e.jsonl"), lines("r-1") + b"y\n")


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


class TestS3:
    def test_landing_and_lake_give_what_folders_give(
        self, database: Database, tmp_path: Path, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        client = boto3.client("s3")
        client.create_bucket(Bucket="billing")
        urls = {"landing_url": "s3://billing/landing", "lake_url": "s3://billing/lake"}
        deliveries = Deliveries(database, tmp_path, **urls)
        contents = {"a.jsonl": lines("r-1", "r-2") + b"x\n", "b.jsonl.gz": gzip.compress(lines("r-2", "r-3"))}
        for name, content in contents.items():
            client.put_object(Bucket="billing", Key=f"landing/{day_key(DAY, name)}", Body=content)
        deliveries.ingest()
        client.put_object(Bucket="billing", Key=f"landing/{day_key(DAY, 'c.jsonl')}", Body=lines("r-4"))
        deliveries.ingest()
        assert deliveries.manifest() == {
            "a.jsonl": ("accepted", None, 3, 2, 1, 0, 0),
            "b.jsonl.gz": ("accepted", None, 2, 1, 0, 1, 0),
            "c.jsonl": ("accepted", None, 1, 1, 0, 0, 0),
        }
        assert deliveries.lake_rows() == [("r-1",), ("r-2",), ("r-3",), ("r-4",)]
        assert not list(deliveries.lake_dir.rglob("*"))
        assert not [path for path in (deliveries.scratch_dir / "landing").rglob("*") if path.is_file()]
        client.close()
