"""Delivery days of storage end in one state however they got there: DH-01, DH-02, DH-03, replays, late files, holds, digests."""

import gzip
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet
import pytest
from moto.server import ThreadedMotoServer

from billing_pipeline.sources.storage_profile import object_id
from resources import guard_store, object_store
from resources.database import Database
from resources.storage_config import OBJECT_EVENTS, OBJECTS, SNAPSHOTS, VISIBILITY_EVENTS, Kind
from resources.storage_day import StorageFileGoneError
from resources.storage_store import SameInstantError, UnknownDatasetError
from tests.storage_files import (
    ACCOUNT,
    AS_OF,
    BUCKET,
    DAY,
    PERSONAL,
    DigestChain,
    StorageDeliveries,
    listed,
    log_key,
    profile,
    public_keys,
    record,
    source,
)

NEXT_DAY = date(2026, 6, 2)
AT = datetime(2026, 6, 1, 7, 0, tzinfo=UTC)
TWELVE_OBJECTS = [
    *(listed(f"acme/atlas/t{number}", 100 + number) for number in range(5)),
    *(listed(f"acme/maps/t{number}", 2**40) for number in range(4)),
    *(listed(f"globex/store/t{number}", 7) for number in range(3)),
]
TWELVE_SUMS = [
    ("acme/atlas", "acme", 510, 5),
    ("acme/maps", "acme", 4 * 2**40, 4),
    ("globex/store", "globex", 21, 3),
]
SUMS = "repository, owner, bytes, object_count"


@pytest.fixture
def deliveries(database: Database, tmp_path: Path) -> StorageDeliveries:
    keys = tmp_path / "keys.json"
    keys.write_bytes(public_keys())
    return StorageDeliveries(
        database,
        tmp_path,
        [
            source(Kind.INVENTORY, objects=True),
            source(Kind.TABLE),
            source(Kind.CLOUDTRAIL, public_keys=keys),
            source(Kind.VISIBILITY),
        ],
    )


class TestSnapshots:
    def test_of_three_repositories_and_twelve_objects_sum_to_the_listing(self, deliveries: StorageDeliveries) -> None:
        deliveries.deliver_inventory(TWELVE_OBJECTS, AT)
        deliveries.ingest()
        assert deliveries.lake_rows(SNAPSHOTS, SUMS) == TWELVE_SUMS
        assert deliveries.lake_rows(SNAPSHOTS, "distinct source, snapshot_at, visibility") == [
            ("inventory", AT.replace(tzinfo=None), None)
        ]
        index = deliveries.lake_rows(OBJECTS, "object_id, bytes, is_current")
        assert len(index) == 12
        assert (object_id(BUCKET, "acme/atlas/t3"), 103, True) in index
        assert set(deliveries.verdicts(SNAPSHOTS).values()) == {"passed"}

    def test_read_again_on_the_same_day_add_nothing(self, deliveries: StorageDeliveries) -> None:
        deliveries.deliver_inventory(TWELVE_OBJECTS, AT)
        deliveries.ingest()
        before = deliveries.rows("select generation from core.lake_generation order by 1")
        assert deliveries.store.discover(seen_at=AS_OF).new_files == ()
        (done,) = deliveries.store.ingest_days(SNAPSHOTS, [DAY], run_id="again", code_version="test")
        assert (done.was_read, done.rows) == (False, 3)
        assert deliveries.rows("select generation from core.lake_generation order by 1") == before
        assert deliveries.lake_rows(SNAPSHOTS, SUMS) == TWELVE_SUMS

    def test_of_one_delivery_day_are_kept_beside_each_other(self, deliveries: StorageDeliveries) -> None:
        deliveries.deliver_inventory([listed("acme/atlas/a", 1)], AT)
        deliveries.ingest()
        deliveries.deliver_inventory([listed("acme/atlas/a", 2)], AT + timedelta(hours=6))
        deliveries.ingest()
        assert deliveries.lake_rows(SNAPSHOTS, "snapshot_at::time::varchar, bytes") == [
            ("07:00:00", 1),
            ("13:00:00", 2),
        ]
        assert len(deliveries.lake_rows(OBJECTS, "snapshot_id, object_id")) == 2

    def test_wait_for_the_checksum_that_comes_last(self, deliveries: StorageDeliveries) -> None:
        key = deliveries.deliver_inventory(TWELVE_OBJECTS, AT)
        checksum = deliveries.landing_dir / "storage/inventory" / key.replace("manifest.json", "manifest.checksum")
        content = checksum.read_bytes()
        checksum.unlink()
        found = deliveries.store.discover(seen_at=AS_OF)
        assert (found.new_files, found.waiting) == ((), (f"storage/inventory/{key}",))
        checksum.write_bytes(content)
        assert deliveries.store.discover(seen_at=AS_OF).new_files == (f"storage/inventory/{key}",)

    def test_with_a_wrong_checksum_are_rejected_until_it_is_right(self, deliveries: StorageDeliveries) -> None:
        key = deliveries.deliver_inventory(TWELVE_OBJECTS, AT, checksum=b"0" * 32)
        deliveries.ingest()
        assert deliveries.manifest()[f"inventory/{key}"][:2] == ("rejected", "manifest_checksum")
        assert deliveries.verdicts(SNAPSHOTS) == {
            "lines_conserved": "passed", "files_taken": "warned", "snapshots_sound": "held",
        }  # fmt: skip
        assert deliveries.lake_rows(SNAPSHOTS, SUMS) == []
        deliveries.deliver_inventory(TWELVE_OBJECTS, AT)
        deliveries.ingest()
        assert deliveries.lake_rows(SNAPSHOTS, SUMS) == TWELVE_SUMS
        assert set(deliveries.verdicts(SNAPSHOTS).values()) == {"passed"}

    def test_that_lack_a_file_are_rejected_until_it_arrives(self, deliveries: StorageDeliveries) -> None:
        key = deliveries.deliver_inventory(TWELVE_OBJECTS, AT)
        (data,) = (deliveries.landing_dir / "storage/inventory/inv/data").iterdir()
        content = data.read_bytes()
        data.unlink()
        deliveries.ingest()
        assert deliveries.manifest()[f"inventory/{key}"][:2] == ("rejected", "file_missing")
        data.write_bytes(content[:-9])
        deliveries.ingest()
        assert deliveries.manifest()[f"inventory/{key}"][:2] == ("rejected", "file_checksum")
        data.write_bytes(content)
        deliveries.ingest()
        assert deliveries.lake_rows(SNAPSHOTS, SUMS) == TWELVE_SUMS

    def test_that_shrink_beyond_the_bound_are_held_until_a_person_accepts_them(
        self, deliveries: StorageDeliveries
    ) -> None:
        deliveries.deliver_inventory([listed("acme/atlas/a", 10**12)], AT)
        deliveries.deliver_inventory([listed("acme/atlas/a", 10**11)], AT + timedelta(days=1))
        deliveries.ingest()
        assert deliveries.lake_rows(SNAPSHOTS, "bytes") == [(10**12,)]
        ((file_id, detail),) = deliveries.rows(
            "select file_id, detail from core.source_file where reason = 'out_of_bounds'"
        )
        assert f"{10**11} bytes after {10**12}" in detail
        assert deliveries.verdicts(SNAPSHOTS, NEXT_DAY)["snapshots_sound"] == "held"
        assert deliveries.store.accept_held(file_id, actor="mara", reason="they deleted a branch")
        assert not deliveries.store.accept_held(file_id, actor="mara", reason="again")
        deliveries.ingest()
        assert deliveries.lake_rows(SNAPSHOTS, "bytes") == [(10**11,), (10**12,)]
        assert deliveries.verdicts(SNAPSHOTS, NEXT_DAY)["snapshots_sound"] == "passed"
        assert (
            "accepted by mara"
            in deliveries.rows("select detail from core.source_file where file_id = %s", file_id)[0][0]
        )

    def test_that_list_nothing_are_held_when_much_was_there(self, deliveries: StorageDeliveries) -> None:
        deliveries.deliver_inventory([listed("acme/atlas/a", 10**12)], AT)
        deliveries.deliver_inventory([], AT + timedelta(days=1), files=[])
        deliveries.ingest()
        assert deliveries.rows("select status from core.source_file order by file_id") == [("accepted",), ("held",)]

    def test_that_list_nothing_are_taken_when_little_was_there(self, deliveries: StorageDeliveries) -> None:
        deliveries.deliver_inventory([listed("acme/atlas/a", 10)], AT)
        deliveries.deliver_inventory([], AT + timedelta(days=1), files=[])
        deliveries.ingest()
        assert deliveries.rows("select status from core.source_file") == [("accepted",), ("accepted",)]

    def test_older_than_the_last_are_history(self, deliveries: StorageDeliveries) -> None:
        deliveries.deliver_inventory([listed("acme/atlas/a", 10**12)], AT + timedelta(days=1))
        deliveries.ingest()
        deliveries.deliver_inventory([listed("acme/atlas/a", 10)], AT)
        deliveries.ingest()
        assert deliveries.lake_rows(SNAPSHOTS, "snapshot_at::date, bytes") == [(DAY, 10), (NEXT_DAY, 10**12)]

    def test_of_the_same_instant_with_other_content_are_held(self, deliveries: StorageDeliveries) -> None:
        deliveries.deliver_inventory([listed("acme/atlas/a", 5)], AT)
        deliveries.ingest()
        deliveries.deliver_inventory([listed("acme/atlas/a", 6)], AT, folder="copy/2026-06-01T07-00Z")
        deliveries.ingest()
        ((file_id,),) = deliveries.rows(
            "select file_id from core.source_file where reason = 'same_instant_other_content'"
        )
        assert deliveries.lake_rows(SNAPSHOTS, "bytes") == [(5,)]
        with pytest.raises(SameInstantError, match="same instant"):
            deliveries.store.accept_held(file_id, actor="mara", reason="newer")

    def test_overwritten_in_place_are_held(self, deliveries: StorageDeliveries) -> None:
        deliveries.deliver_inventory([listed("acme/atlas/a", 5)], AT)
        deliveries.ingest()
        deliveries.deliver_inventory([listed("acme/atlas/a", 66)], AT)
        assert len(deliveries.store.discover(seen_at=AS_OF).held_files) == 1
        deliveries.ingest()
        assert deliveries.lake_rows(SNAPSHOTS, "bytes") == [(5,)]

    def test_with_bad_sizes_are_held_and_their_rows_put_aside(self, deliveries: StorageDeliveries) -> None:
        rows = [listed("acme/atlas/a", -5), listed("acme/atlas/b", 2**63), listed("acme/atlas/c", 7)]
        deliveries.deliver_inventory(rows, AT)
        deliveries.ingest()
        assert deliveries.rows("select status, reason from core.source_file") == [("held", "bad_rows")]
        assert deliveries.rows("select line_number, reason, field from core.quarantine order by 1") == [
            (1, "out_of_range", "size"),
            (2, "out_of_range", "size"),
        ]
        ((file_id,),) = deliveries.rows("select file_id from core.source_file")
        deliveries.store.accept_held(file_id, actor="mara", reason="two broken rows")
        deliveries.ingest()
        assert deliveries.lake_rows(SNAPSHOTS, SUMS) == [("acme/atlas", "acme", 7, 1)]
        assert next(iter(deliveries.manifest().values()))[2:] == (3, 1, 2, 0, 0)

    def test_of_an_edited_profile_are_read_again(self, deliveries: StorageDeliveries, tmp_path: Path) -> None:
        deliveries.deliver_inventory(TWELVE_OBJECTS, AT)
        deliveries.ingest()
        edited = profile(keys=("(?P<repository>acme/[^/]+)/.+",), sha256="f" * 64)
        again = StorageDeliveries(deliveries.database, tmp_path, [source(Kind.INVENTORY, profile=edited)])
        again.store.ingest_days(SNAPSHOTS, [DAY], run_id="run", code_version="test")
        assert again.lake_rows(SNAPSHOTS, SUMS) == [("acme/atlas", None, 510, 5), ("acme/maps", None, 4 * 2**40, 4)]
        assert (
            "3 objects of 21 bytes belong to no repository" in again.rows("select detail from core.source_file")[0][0]
        )

    def test_that_count_do_not_vanish_with_their_files(self, deliveries: StorageDeliveries, tmp_path: Path) -> None:
        deliveries.deliver_inventory(TWELVE_OBJECTS, AT)
        deliveries.ingest()
        for path in (deliveries.landing_dir / "storage/inventory/inv/data").iterdir():
            path.unlink()
        edited = profile(sha256="f" * 64)
        again = StorageDeliveries(deliveries.database, tmp_path, [source(Kind.INVENTORY, profile=edited)])
        with pytest.raises(StorageFileGoneError, match="file_missing"):
            again.store.ingest_days(SNAPSHOTS, [DAY], run_id="run", code_version="test")
        assert again.lake_rows(SNAPSHOTS, SUMS) == TWELVE_SUMS


class TestReadyTables:
    ROWS = [
        {"repository": "acme/atlas", "bytes": 2**40, "snapshot_at": "2026-06-01T07:00:00Z", "visibility": "private"},
        {"repository": "globex/store", "bytes": 5, "snapshot_at": "2026-06-01T07:00:00+00:00", "owner": "globex"},
    ]
    EXPECTED = [("acme/atlas", None, "private", 2**40), ("globex/store", "globex", None, 5)]

    def check(self, deliveries: StorageDeliveries) -> None:
        deliveries.ingest()
        assert deliveries.lake_rows(SNAPSHOTS, "repository, owner, visibility, bytes") == self.EXPECTED

    def test_are_read_as_json_lines(self, deliveries: StorageDeliveries) -> None:
        lines = b"".join(json.dumps(row).encode() + b"\n" for row in self.ROWS)
        deliveries.deliver(f"storage/table/{DAY}/sizes.jsonl.gz", gzip.compress(lines))
        self.check(deliveries)

    def test_are_read_as_csv(self, deliveries: StorageDeliveries) -> None:
        text = "repository,bytes,snapshot_at,visibility,owner\r\n"
        text += "acme/atlas,1099511627776,2026-06-01T07:00:00Z,private,\r\n"
        text += "globex/store,5,2026-06-01T07:00:00Z,,globex\r\n"
        deliveries.deliver(f"storage/table/{DAY}/sizes.csv", b"\xef\xbb\xbf" + text.encode())
        self.check(deliveries)

    def test_are_read_as_parquet(self, deliveries: StorageDeliveries) -> None:
        rows = [{**row, "snapshot_at": AT} for row in self.ROWS]
        path = deliveries.deliver(f"storage/table/{DAY}/sizes.parquet", b"")
        columns = {
            name: [row.get(name) for row in rows]
            for name in ("repository", "bytes", "snapshot_at", "visibility", "owner")
        }
        pyarrow.parquet.write_table(pa.table(columns), path)
        self.check(deliveries)

    def test_hold_bad_rows_and_count_equal_ones_once(self, deliveries: StorageDeliveries) -> None:
        rows = [*self.ROWS, self.ROWS[0], {**self.ROWS[0], "bytes": -1}, {**self.ROWS[1], "visibility": "secret"}]
        lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        deliveries.deliver(f"storage/table/{DAY}/sizes.jsonl", lines)
        deliveries.ingest()
        ((file_id, status),) = deliveries.rows("select file_id, status from core.source_file")
        assert status == "held"
        deliveries.store.accept_held(file_id, actor="mara", reason="known")
        self.check(deliveries)
        assert next(iter(deliveries.manifest().values()))[2:] == (5, 2, 2, 1, 0)

    def test_that_contradict_themselves_are_refused(self, deliveries: StorageDeliveries) -> None:
        rows = [self.ROWS[0], {**self.ROWS[0], "bytes": 6}]
        deliveries.deliver(
            f"storage/table/{DAY}/sizes.jsonl", b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        )
        deliveries.ingest()
        assert next(iter(deliveries.manifest().values()))[:2] == ("rejected", "conflicting_rows")

    @pytest.mark.parametrize("content", [b"", b"\x00\x01\x02" * 9_000, b"PAR1 broken", b"a,a\n1,2\n"])
    def test_that_are_no_table_are_refused(self, deliveries: StorageDeliveries, content: bytes) -> None:
        deliveries.deliver(f"storage/table/{DAY}/sizes", content)
        deliveries.ingest()
        assert next(iter(deliveries.manifest().values()))[0] == "rejected"


class TestObjectEvents:
    def test_of_one_repository_are_extracted(self, database: Database, tmp_path: Path) -> None:
        mine = profile(keys=("(?P<repository>acme/atlas)/.+",))
        deliveries = StorageDeliveries(database, tmp_path, [source(Kind.CLOUDTRAIL, profile=mine)])
        events = [record(number, key=f"acme/atlas/t{number}") for number in range(14)]
        others = [record(100 + number, key=f"globex/store/t{number}") for number in range(4)]
        deliveries.deliver_log(*events[:9], *others, events[3])
        deliveries.deliver_log(*events[9:], events[0], key=log_key(slot="0510"))
        deliveries.ingest()
        assert len(deliveries.lake_rows(OBJECT_EVENTS, "event_id")) == 14
        totals = deliveries.rows(
            "select sum(lines_read), sum(accepted_rows), sum(rejected_rows), sum(duplicate_rows), sum(out_of_scope_rows)"
            " from core.source_file"
        )
        assert totals == [(20, 14, 0, 2, 4)]

    def test_end_the_same_whether_files_come_at_once_or_one_by_one(self, database: Database, tmp_path: Path) -> None:
        files = [
            [record(1), record(2, size=7), record(3)],
            [record(2, size=7), record(4, sharedEventID="s-1")],
            [record(5, sharedEventID="s-1"), record(6), record(3, size=101)],
            [record(3), record(7)],
        ]

        def ingested(name: str, *, at_once: bool) -> tuple[object, ...]:
            place = StorageDeliveries(database, tmp_path / name, [source(Kind.CLOUDTRAIL, name=name)])
            for number, records in enumerate(files):
                place.deliver_log(*records, key=log_key(slot=f"05{number:02d}"))
                if not at_once:
                    place.ingest()
            place.ingest()
            of_source = "from core.source_file where source = %s order by key"
            rows = [row for row in place.lake_rows(OBJECT_EVENTS, "source, event_id, bytes") if row[0] == name]
            quarantine = place.rows(
                "select key, line_number, quarantine.reason from core.quarantine join core.source_file using (file_id)"
                " where source = %s order by key, line_number",
                name,
            )
            counts = place.rows(f"select accepted_rows, rejected_rows, duplicate_rows {of_source}", name)
            return [row[1:] for row in rows], quarantine, counts

        at_once = ingested("one", at_once=True)
        with database.transaction() as connection:
            connection.execute("delete from core.lake_partition where dataset = %s", [OBJECT_EVENTS])
        assert at_once == ingested("two", at_once=False)
        assert at_once[2] == [(2, 1, 0), (1, 0, 1), (1, 1, 1), (1, 1, 0)]

    def test_of_a_file_delivered_again_count_once(self, deliveries: StorageDeliveries) -> None:
        deliveries.deliver_log(record(1), record(2))
        deliveries.ingest()
        deliveries.deliver_log(record(1), record(2), key=log_key(slot="0510", name="B" * 16))
        deliveries.ingest()
        assert deliveries.rows("select status, lines_read, duplicate_rows from core.source_file order by file_id") == [
            ("accepted", 2, 0),
            ("duplicate", 2, 2),
        ]
        assert len(deliveries.lake_rows(OBJECT_EVENTS, "event_id")) == 2

    def test_keep_nothing_personal(self, deliveries: StorageDeliveries) -> None:
        secret_key = "acme/atlas/letter-of-jane-doe.pdf"
        deliveries.deliver_log(
            record(1, key=secret_key), record(2, key=secret_key, eventTime="yesterday"), record(3, key="x")
        )
        deliveries.ingest()
        text = str(deliveries.lake_rows(OBJECT_EVENTS, "*"))
        for table in ("core.source_file", "core.quarantine", "core.cloudtrail_log", "guards.verdict"):
            text += str(deliveries.rows(f"select t::text from {table} as t"))
        assert [word for word in (*PERSONAL, "jane-doe", "REQUEST1") if word in text] == []

    def test_without_a_size_are_kept_as_such_and_reported(self, deliveries: StorageDeliveries) -> None:
        deliveries.deliver_log(
            record(1, size=None),
            record(2, eventName="CopyObject"),
            record(3, eventName="DeleteObjects", key=...),
            record(4),
        )
        deliveries.ingest()
        assert deliveries.lake_rows(OBJECT_EVENTS, "event_name, action, bytes") == [
            ("CopyObject", "unsized", None),
            ("PutObject", "put", 100),
            ("PutObject", "unsized", None),
        ]
        ((status, actual),) = deliveries.rows("select status, actual from guards.verdict where guard = 'sizes_known'")
        assert status == "warned"
        assert actual.startswith("CopyObject 1, PutObject 1, DeleteObjects 1")

    def test_of_refused_files_are_not_taken(self, deliveries: StorageDeliveries) -> None:
        deliveries.deliver(f"storage/cloudtrail/{log_key()}", gzip.compress(b'{"Records": null}'))
        deliveries.deliver(f"storage/cloudtrail/{log_key(slot='0510')}", gzip.compress(b"x" * 999)[:-12])
        deliveries.ingest()
        assert sorted(row[1] for row in deliveries.manifest().values()) == ["bad_compression", "wrapper"]
        assert deliveries.verdicts(OBJECT_EVENTS)["files_taken"] == "warned"

    def test_know_their_event_days(self, deliveries: StorageDeliveries) -> None:
        deliveries.deliver_log(record(1, eventTime="2026-04-18T05:00:00Z"), record(2))
        deliveries.ingest()
        (done,) = deliveries.store.ingest_days(OBJECT_EVENTS, [DAY], run_id="run", code_version="test")
        assert dict(done.event_days) == {date(2026, 4, 18): 1, DAY: 1}
        assert deliveries.rows("select event_day, accepted_rows from core.source_file_day order by 1") == [
            (date(2026, 4, 18), 1),
            (DAY, 1),
        ]


class TestDigests:
    HOUR = datetime(2026, 6, 1, 6, 0, tzinfo=UTC)

    def chain(self, deliveries: StorageDeliveries) -> DigestChain:
        """Deliver two logs and the digests around them."""
        chain = DigestChain()
        first = deliveries.deliver_log(record(1), key=log_key(slot="0505"))
        second = deliveries.deliver_log(record(2), key=log_key(slot="0610", name="B" * 16))
        chain.add(self.HOUR, {log_key(slot="0505"): first})
        chain.add(self.HOUR + timedelta(hours=1), {log_key(slot="0610", name="B" * 16): second})
        chain.add(self.HOUR + timedelta(hours=2), {})
        for digest in chain.made:
            deliveries.deliver_digest(digest)
        return chain

    def held(self, deliveries: StorageDeliveries, day: date = DAY) -> str:
        """Return what the guard says of a day that it holds."""
        ((status, message),) = deliveries.rows(
            "select status, message from guards.verdict where guard = 'digests_verified' and partition_key = %s",
            str(day),
        )
        assert status == "held"
        return str(message)

    def test_prove_that_every_log_file_was_read(self, deliveries: StorageDeliveries) -> None:
        self.chain(deliveries)
        deliveries.ingest()
        assert deliveries.verdicts(OBJECT_EVENTS)["digests_verified"] == "passed"
        assert deliveries.rows("select count(*) from core.cloudtrail_digest") == [(3,)]

    def test_hold_the_day_of_a_listed_file_that_is_missing(self, deliveries: StorageDeliveries) -> None:
        self.chain(deliveries)
        path = deliveries.landing_dir / "storage/cloudtrail" / log_key(slot="0505")
        content = path.read_bytes()
        path.unlink()
        deliveries.ingest()
        assert "it was not delivered" in self.held(deliveries)
        path.write_bytes(content)
        deliveries.ingest()
        assert deliveries.verdicts(OBJECT_EVENTS)["digests_verified"] == "passed"

    def test_hold_the_day_of_a_file_that_no_digest_lists(self, deliveries: StorageDeliveries) -> None:
        self.chain(deliveries)
        deliveries.deliver_log(record(3), key=log_key(slot="0530", name="C" * 16))
        deliveries.ingest()
        assert "no digest lists it" in self.held(deliveries)

    def test_wait_with_a_file_newer_than_the_last_digest(self, deliveries: StorageDeliveries) -> None:
        self.chain(deliveries)
        deliveries.deliver_log(record(3), key=log_key(slot="0930", name="C" * 16))
        deliveries.ingest()
        assert deliveries.verdicts(OBJECT_EVENTS)["digests_verified"] == "passed"

    def test_hold_the_day_of_a_file_that_was_changed(self, deliveries: StorageDeliveries) -> None:
        self.chain(deliveries)
        deliveries.deliver_log(record(1, size=1), key=log_key(slot="0505"))
        deliveries.ingest()
        assert "not the file that the digest lists" in self.held(deliveries)

    def test_hold_the_day_of_a_gap_in_the_chain(self, deliveries: StorageDeliveries) -> None:
        chain = self.chain(deliveries)
        (deliveries.landing_dir / "storage/cloudtrail" / chain.made[1][0]).unlink()
        deliveries.ingest()
        assert "is missing" in self.held(deliveries)

    def test_hold_the_day_of_a_signature_that_does_not_hold(self, deliveries: StorageDeliveries) -> None:
        chain = self.chain(deliveries)
        forger = DigestChain(made=chain.made[:2], key_number=1)
        deliveries.deliver_digest(forger.add(self.HOUR + timedelta(hours=2), {}))
        deliveries.ingest()
        assert "its signature does not hold" in self.held(deliveries)

    def test_take_a_signature_from_the_digest_after_it(self, deliveries: StorageDeliveries) -> None:
        chain = self.chain(deliveries)
        for key, _, _ in chain.made[:2]:
            (deliveries.landing_dir / "storage/cloudtrail" / f"{key}.metadata.json").unlink()
        deliveries.ingest()
        assert deliveries.verdicts(OBJECT_EVENTS)["digests_verified"] == "passed"

    def test_hold_a_day_of_which_no_log_file_arrived(self, deliveries: StorageDeliveries) -> None:
        chain = DigestChain()
        lost = log_key(slot="2355", name="D" * 16)
        deliveries.deliver_digest(chain.add(datetime(2026, 6, 2, 1, 0, tzinfo=UTC), {lost: b"content"}))
        deliveries.ingest()
        assert "it was not delivered" in self.held(deliveries, DAY)

    def test_that_are_released_pass_as_released(self, deliveries: StorageDeliveries) -> None:
        self.chain(deliveries)
        (deliveries.landing_dir / "storage/cloudtrail" / log_key(slot="0505")).unlink()
        deliveries.ingest()
        guard_store.release(
            deliveries.database,
            asset=OBJECT_EVENTS,
            partition_key=str(DAY),
            guard="digests_verified",
            actor="mara",
            reason="the file is lost",
        )
        deliveries.store.ingest_days(OBJECT_EVENTS, [DAY], run_id="again", code_version="test")
        assert deliveries.verdicts(OBJECT_EVENTS)["digests_verified"] == "released"

    def test_that_are_required_hold_hours_without(self, database: Database, tmp_path: Path) -> None:
        keys = tmp_path / "keys.json"
        keys.write_bytes(public_keys())
        deliveries = StorageDeliveries(
            database, tmp_path, [source(Kind.CLOUDTRAIL, digests="required", public_keys=keys)]
        )
        deliveries.deliver_log(record(1))
        deliveries.ingest()
        assert f"{ACCOUNT} us-east-1: no digest covers 00:00 to 00:00" in self.held(deliveries)
        chain = DigestChain()
        start = datetime(2026, 6, 1, 0, 0, tzinfo=UTC)
        content = gzip.decompress((deliveries.landing_dir / "storage/cloudtrail" / log_key()).read_bytes())
        for hour in range(1, 25):
            deliveries.deliver_digest(
                chain.add(start + timedelta(hours=hour), {log_key(): content} if hour == 6 else {})
            )
        deliveries.ingest()
        assert deliveries.verdicts(OBJECT_EVENTS)["digests_verified"] == "passed"

    def test_without_keys_prove_nothing(self, database: Database, tmp_path: Path) -> None:
        deliveries = StorageDeliveries(database, tmp_path, [source(Kind.CLOUDTRAIL)])
        self.chain(deliveries)
        deliveries.ingest()
        assert "no public key" in self.held(deliveries)

    def test_that_are_ignored_are_not_even_registered(self, database: Database, tmp_path: Path) -> None:
        deliveries = StorageDeliveries(database, tmp_path, [source(Kind.CLOUDTRAIL, digests="ignored")])
        self.chain(deliveries)
        deliveries.ingest()
        assert deliveries.rows("select count(*) from core.source_file") == [(2,)]

    def test_moved_from_their_place_are_refused(self, deliveries: StorageDeliveries) -> None:
        chain = self.chain(deliveries)
        key, content, signature = chain.made[2]
        deliveries.deliver_digest((key.replace("080000", "090000"), content, signature), mtime=1)
        deliveries.ingest()
        assert [row[1] for row in deliveries.manifest().values() if row[0] == "rejected"] == ["bad_manifest"]


class TestVisibilityEvents:
    def test_are_stored_once(self, deliveries: StorageDeliveries) -> None:
        lines = [
            {"event_id": "v-1", "repository": "acme/atlas", "at": "2026-06-01T14:00:00Z", "visibility": "private"},
            {"event_id": "v-1", "repository": "acme/atlas", "at": "2026-06-01T14:00:00Z", "visibility": "private"},
            {"repository": "acme/maps", "at": "2026-06-01T15:00:00Z", "owner": "globex", "visibility": "public"},
            {"repository": "acme/maps", "at": "soon", "owner": "globex"},
        ]
        deliveries.deliver(
            f"storage/visibility/{DAY}/v.jsonl", b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        )
        deliveries.ingest()
        assert deliveries.lake_rows(VISIBILITY_EVENTS, "repository, event_at::time::varchar, kind, value") == [
            ("acme/atlas", "14:00:00", "visibility", "private"),
            ("acme/maps", "15:00:00", "owner", "globex"),
            ("acme/maps", "15:00:00", "visibility", "public"),
        ]
        assert list(deliveries.manifest().values()) == [("accepted", None, 4, 2, 1, 1, 0)]

    def test_with_one_id_and_two_contents_are_put_aside(self, deliveries: StorageDeliveries) -> None:
        line = {"event_id": "v-1", "repository": "acme/atlas", "at": "2026-06-01T14:00:00Z", "visibility": "private"}
        for number, visibility in enumerate(("private", "public", "private")):
            content = json.dumps({**line, "visibility": visibility}).encode() + b"\n" * (number + 1)
            deliveries.deliver(f"storage/visibility/{DAY}/{number}.jsonl", content)
            deliveries.ingest()
        assert deliveries.lake_rows(VISIBILITY_EVENTS, "event_id") == []
        assert deliveries.rows("select count(*) from core.quarantine where reason = 'id_conflict'") == [(3,)]


class TestStore:
    def test_lets_two_runs_of_one_day_end_as_one(self, deliveries: StorageDeliveries) -> None:
        deliveries.deliver_inventory(TWELVE_OBJECTS, AT)
        deliveries.deliver_log(record(1), record(2))
        deliveries.store.discover(seen_at=AS_OF)

        def ingest(dataset: str) -> int:
            (done,) = deliveries.store.ingest_days(dataset, [DAY], run_id="run", code_version="test")
            return done.rows

        with ThreadPoolExecutor(4) as runs:
            assert list(runs.map(ingest, [SNAPSHOTS, OBJECT_EVENTS] * 2)) == [3, 2, 3, 2]
        assert deliveries.lake_rows(SNAPSHOTS, SUMS) == TWELVE_SUMS
        counts = "select dataset, count(*) from core.lake_generation group by 1 order by 1"
        assert deliveries.rows(counts) == [(OBJECT_EVENTS, 1), (OBJECTS, 1), (SNAPSHOTS, 1)]

    def test_reads_anew_what_a_changed_scope_takes(self, deliveries: StorageDeliveries, tmp_path: Path) -> None:
        deliveries.deliver_inventory(TWELVE_OBJECTS, AT)
        deliveries.deliver_log(record(1))
        deliveries.ingest()
        narrower = [source(Kind.INVENTORY), source(Kind.CLOUDTRAIL, buckets=frozenset({"another"}), digests="ignored")]
        again = StorageDeliveries(deliveries.database, tmp_path, narrower)
        for dataset in (SNAPSHOTS, OBJECT_EVENTS):
            again.store.ingest_days(dataset, [DAY], run_id="run", code_version="test")
        assert again.lake_rows(OBJECT_EVENTS, "event_id") == []
        assert again.lake_rows(OBJECTS, "object_id") == []
        assert again.lake_rows(SNAPSHOTS, SUMS) == TWELVE_SUMS

    def test_reads_a_lost_lake_file_again(self, deliveries: StorageDeliveries) -> None:
        deliveries.deliver_inventory(TWELVE_OBJECTS, AT)
        deliveries.deliver_log(record(1), record(2))
        deliveries.ingest()
        for (uri,) in deliveries.rows("select uri from core.lake_generation"):
            deliveries.lake.remove(uri)
        for dataset in (SNAPSHOTS, OBJECT_EVENTS):
            deliveries.store.ingest_days(dataset, [DAY], run_id="run", code_version="test")
        assert deliveries.lake_rows(SNAPSHOTS, SUMS) == TWELVE_SUMS
        assert len(deliveries.lake_rows(OBJECT_EVENTS, "event_id")) == 2

    def test_refuses_a_dataset_that_it_has_not(self, deliveries: StorageDeliveries) -> None:
        with pytest.raises(UnknownDatasetError, match="core/objects"):
            deliveries.store.ingest_days("core/objects", [DAY], run_id="run", code_version="test")

    def test_reports_folders_that_are_not_there(self, deliveries: StorageDeliveries) -> None:
        found = deliveries.store.discover(seen_at=AS_OF)
        assert found.missing_folders == (
            "storage/inventory",
            "storage/table",
            "storage/cloudtrail",
            "storage/visibility",
        )

    def test_lists_what_waits_by_dataset(self, deliveries: StorageDeliveries) -> None:
        deliveries.deliver_inventory(TWELVE_OBJECTS, AT)
        deliveries.deliver_log(record(1), key=log_key(NEXT_DAY))
        found = deliveries.store.discover(seen_at=AS_OF)
        assert found.delivery_days == ((OBJECT_EVENTS, NEXT_DAY), (SNAPSHOTS, DAY))


class TestListings:
    def test_of_a_folder_are_taken_once_a_day(self, database: Database, tmp_path: Path) -> None:
        place = tmp_path / "chunks"
        for name, size in (("acme/atlas/a b+c", 3), ("acme/atlas/é", 4), ("globex/store/.hidden", 5), ("odd", 9)):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(b"x" * size)
        deliveries = StorageDeliveries(
            database, tmp_path, [source(Kind.LISTING, place=str(place), bucket=BUCKET, objects=True)]
        )
        (taken,) = deliveries.store.take_listings(now=AT)
        assert (taken.objects, taken.total_bytes) == (4, 21)
        assert deliveries.store.take_listings(now=AT + timedelta(hours=9)) == ()
        deliveries.ingest()
        assert deliveries.lake_rows(SNAPSHOTS, SUMS) == [("acme/atlas", "acme", 7, 2), ("globex/store", "globex", 5, 1)]
        assert object_id(BUCKET, "acme/atlas/a b+c") in {row[0] for row in deliveries.lake_rows(OBJECTS, "object_id")}
        assert len(deliveries.store.take_listings(now=AT + timedelta(days=1))) == 1

    def test_of_a_bucket_read_every_page(
        self, database: Database, tmp_path: Path, s3: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(object_store, "PAGE_KEYS", 20)
        for number in range(103):
            s3.put_object(Bucket="chunks", Key=f"dbs/acme/atlas/{number}", Body=b"xy")
        deliveries = StorageDeliveries(
            database, tmp_path, [source(Kind.LISTING, place="s3://chunks/dbs")], landing_url="s3://landing/in"
        )
        (taken,) = deliveries.store.take_listings(now=AT)
        assert (taken.objects, taken.total_bytes) == (103, 206)
        deliveries.ingest()
        assert deliveries.lake_rows(SNAPSHOTS, SUMS) == [("acme/atlas", "acme", 206, 103)]

    def test_digests_in_a_bucket_have_their_signature_in_the_metadata(
        self, database: Database, tmp_path: Path, s3: Any
    ) -> None:
        keys = tmp_path / "keys.json"
        keys.write_bytes(public_keys())
        deliveries = StorageDeliveries(
            database, tmp_path, [source(Kind.CLOUDTRAIL, public_keys=keys)], landing_url="s3://landing/in"
        )
        chain = DigestChain()
        key, content, signature = chain.add(datetime(2026, 6, 1, 6, 0, tzinfo=UTC), {})
        s3.put_object(
            Bucket="landing",
            Key=f"in/storage/cloudtrail/{key}",
            Body=gzip.compress(content),
            Metadata={"signature": signature, "signature-algorithm": "SHA256withRSA"},
        )
        deliveries.ingest()
        assert deliveries.verdicts(OBJECT_EVENTS)["digests_verified"] == "passed"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="chunks")
    client.create_bucket(Bucket="landing")
    yield client
    client.close()
    server.stop()
