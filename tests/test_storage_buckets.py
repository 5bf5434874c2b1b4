"""Several sources of snapshots: buckets add up, sources of one bucket take each other's place, each has an age of its own."""

from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest

from billing_pipeline.storage_policy import StoragePolicy
from resources.database import Database
from resources.storage_config import Kind, StorageConfigError
from resources.storage_evidence import read_evidence
from resources.storage_lineage import StorageSegment
from resources.storage_policy import storage_policy
from tests.storage_days import GB, JUNE_1, JUNE_2, JUNE_3, at, build, everything, gb_hours, rows, settle
from tests.storage_files import csv_gz, manifest, md5_line, parameters, profile, record, source
from tests.test_storage_from_files import Storage

PRIVATE = profile(visibility="private")
HERE, THERE = "bucket-here", "bucket-there"


def inventory_of(name: str, **changes: Any) -> Any:
    return source(
        Kind.INVENTORY, name=name, landing=f"storage/{name}", objects=True, **({"profile": PRIVATE} | changes)
    )


def deliver(storage: Storage, name: str, bucket: str, when: datetime, sizes: Mapping[str, int]) -> None:
    """Deliver an inventory of a bucket."""
    data = csv_gz(
        [(bucket, key, "", "true", "false", size, "2026-06-01T00:00:00.000Z", "e") for key, size in sizes.items()]
    )
    file = f"inv/data/{when:%Y%m%d%H%M}.csv.gz"
    content = manifest({file: data}, when, sourceBucket=bucket)
    folder = f"storage/{name}/inv/{when:%Y-%m-%dT%H-%MZ}"
    storage.files.deliver(f"storage/{name}/{file}", data)
    storage.files.deliver(f"{folder}/manifest.json", content)
    storage.files.deliver(f"{folder}/manifest.checksum", md5_line(content))


def put_into(bucket: str, number: int, key: str, size: int, when: datetime, **changes: Any) -> dict[str, Any]:
    where = {**parameters(key), "bucketName": bucket}
    return record(number, size=size, eventTime=f"{when:%Y-%m-%dT%H:%M:%SZ}", requestParameters=where, **changes)


@pytest.fixture
def two(database: Database, tmp_path: Path) -> Storage:
    """Return an installation with an inventory of each of two buckets, and one trail for both."""
    return Storage(
        database, tmp_path, inventory_of("here"), inventory_of("there"), source(Kind.CLOUDTRAIL, profile=PRIVATE)
    )


class TestTwoBuckets:
    def test_of_two_inventories_add_up(self, two: Storage) -> None:
        for day in (1, 2, 3):
            deliver(two, "here", HERE, at(day, 1), {"ann/cats/a": 5 * GB})
            deliver(two, "there", THERE, at(day, 2), {"ann/cats/b": 3 * GB, "ann/dogs/x": GB})
        two.up_to_date()
        assert two.sizes() == [(at(1), 8 * GB)]
        assert two.sizes("ann/dogs") == [(at(1), GB)]
        assert gb_hours(two.usage) == 9 * 72
        assert rows(two.usage, "select count(*) from usage.storage_drift") == [(0,)]
        assert {row[0] for row in rows(two.usage, "select status from guards.verdict")} == {"passed"}

    def test_each_have_their_own_events_snapshots_and_drift(self, two: Storage) -> None:
        deliver(two, "here", HERE, at(1, 1), {"ann/cats/a": 5 * GB})
        deliver(two, "there", THERE, at(1, 2), {"ann/cats/a": 3 * GB})
        two.log(
            # the same key in either bucket is another object
            put_into(HERE, 1, "ann/cats/a", 6 * GB, at(1, 4)),
            put_into(THERE, 2, "ann/cats/a", 5 * GB, at(1, 6)),
            put_into(THERE, 3, "ann/cats/b", GB, at(1, 8)),
        )
        deliver(two, "here", HERE, at(1, 10), {"ann/cats/a": 6 * GB})
        deliver(two, "there", THERE, at(1, 12), {"ann/cats/a": 5 * GB, "ann/cats/b": 2 * GB})
        two.up_to_date()
        assert two.sizes() == [(at(1), 8 * GB), (at(1, 4), 9 * GB), (at(1, 6), 11 * GB), (at(1, 8), 12 * GB),
                               (at(1, 12), 13 * GB)]  # fmt: skip
        drifts = "select bucket, snapshot_at, derived_bytes, snapshot_bytes from usage.storage_drift"
        assert rows(two.usage, drifts) == [(THERE, at(1, 12), 6 * GB, 7 * GB)]

    def test_a_repository_that_moves_from_one_to_the_other_is_counted_once(self, two: Storage) -> None:
        deliver(two, "here", HERE, at(1, 1), {"ann/cats/a": 5 * GB, "ann/dogs/x": 9 * GB})
        deliver(two, "there", THERE, at(1, 2), {"ann/mice/x": 9 * GB})
        deliver(two, "there", THERE, at(2, 2), {"ann/mice/x": 9 * GB, "ann/cats/a": 5 * GB})
        deliver(two, "here", HERE, at(2, 3), {"ann/dogs/x": 9 * GB})
        two.up_to_date()
        # a listing that does not name it says that it is gone there; for an hour it was in both
        shown = two.sizes()
        assert shown == [(at(1), 5 * GB), (at(2), 10 * GB), (at(2, 3), 5 * GB)]

    def test_events_alone_are_gone_where_their_own_bucket_does_not_list_them(self, two: Storage) -> None:
        two.log(put_into(HERE, 1, "ann/cats/a", 5 * GB, at(1, 1)), put_into(THERE, 2, "ann/cats/a", 3 * GB, at(1, 1)))
        deliver(two, "here", HERE, at(1, 3), {"ann/dogs/x": GB})
        two.up_to_date()
        # carried back from the first snapshot, which has nothing of it, there was never anything here
        assert two.sizes() == [(at(1, 1), 3 * GB)]

    def test_that_one_source_stops_to_deliver_hold_the_day(self, two: Storage) -> None:
        for day in (1, 2, 3, 4):
            deliver(two, "here", HERE, at(day, 1), {"ann/cats/a": 5 * GB})
        deliver(two, "there", THERE, at(1, 2), {"ann/cats/b": 3 * GB})
        two.up_to_date()
        states = dict(rows(two.usage, "select partition_key, state from usage.build"))
        assert list(states.values()) == ["built", "held", "held", "held"]
        (message,) = rows(two.usage, "select message from guards.verdict where guard = 'snapshots_fresh'"
                                     " and partition_key = '2026-06-02'")  # fmt: skip
        assert "ann/cats (last one by there at 2026-06-01 02:00:00)" in message[0]

    def test_in_any_order_of_delivery_and_cut_of_days_are_the_same(self, two: Storage) -> None:
        def deliveries() -> list[Any]:
            return [
                lambda: two.log(put_into(THERE, 2, "ann/cats/c", 2 * GB, at(2, 6)), day=JUNE_2),
                lambda: deliver(two, "there", THERE, at(2, 2), {"ann/cats/b": 4 * GB}),
                lambda: deliver(two, "here", HERE, at(1, 1), {"ann/cats/a": 5 * GB}),
                lambda: two.log(put_into(HERE, 1, "ann/cats/d", GB, at(1, 6)), day=JUNE_3, slot="0605"),
                lambda: deliver(two, "here", HERE, at(2, 1), {"ann/cats/a": 5 * GB, "ann/cats/d": GB}),
            ]

        for one in deliveries():
            one()
            two.up_to_date()
        one_by_one = everything(two.usage)
        # the bucket that came last was empty before its first evidence as far as anybody knows
        assert two.sizes() == [(at(1), 5 * GB), (at(1, 6), 6 * GB), (at(2), 10 * GB), (at(2, 6), 12 * GB)]
        with two.usage.database.transaction() as connection:
            for table in ("storage_state", "storage", "storage_drift", "storage_base", "storage_tail", "build"):
                connection.execute(f"delete from usage.{table}".encode())
            connection.execute("delete from core.lake_partition where dataset = 'usage/storage_tails'")
        for day in (JUNE_1, JUNE_2):
            build(two.usage, day)
        settle(two.usage)
        assert everything(two.usage) == one_by_one

    def test_are_explained_by_the_snapshots_and_events_of_each(self, two: Storage) -> None:
        deliver(two, "here", HERE, at(1, 1), {"ann/cats/a": 5 * GB})
        deliver(two, "there", THERE, at(1, 2), {"ann/cats/b": 3 * GB})
        two.log(put_into(HERE, 1, "ann/cats/a", 6 * GB, at(1, 4)), put_into(THERE, 2, "ann/cats/b", GB, at(1, 1, 30)))
        two.up_to_date()
        segment = StorageSegment(
            event_day=JUNE_1, repository="ann/cats", start=at(1, 4), end=at(2), bytes=9 * GB, visibility="private",
            owner="ann", basis="events", byte_seconds=rows(two.usage, "select max(byte_seconds) from usage.storage_state")[0][0],
            state_start=at(1, 4),
        )  # fmt: skip
        found = read_evidence(
            two.usage.database, two.files.lake, two.usage.scratch_dir, segment, limit=9, policy=two.usage.policy
        )
        assert [(fact.kind, fact.at, fact.bytes) for fact in found.first if fact.name != "visibility"] == [
            ("snapshot", at(1, 1), 5 * GB), ("listed", at(1, 1), 5 * GB), ("snapshot", at(1, 2), 3 * GB),
            ("object", at(1, 4), 6 * GB),
        ]  # fmt: skip

    def test_whose_inventory_is_of_another_bucket_than_is_said_hold_it(
        self, database: Database, tmp_path: Path
    ) -> None:
        storage = Storage(database, tmp_path, inventory_of("here", bucket=HERE), inventory_of("there", bucket=THERE))
        deliver(storage, "here", THERE, at(1, 1), {"ann/cats/a": 5 * GB})
        storage.up_to_date()
        assert storage.files.manifest()["here/inv/2026-06-01T01-00Z/manifest.json"][:2] == ("held", "other_bucket")

    def test_and_a_table_that_says_nothing_of_buckets_are_refused(self) -> None:
        with pytest.raises(StorageConfigError, match="the table source table does not say which of them"):
            storage_policy((inventory_of("here"), inventory_of("there"), source(Kind.TABLE)))


class TestATableBesideAnInventory:
    def table(self, storage: Storage, when: datetime, size: int, repository: str = "ann/cats") -> None:
        line = f"repository,bytes,snapshot_at\n{repository},{size},{when:%Y-%m-%dT%H:%M:%SZ}\n"
        storage.files.deliver(f"storage/table/{when:%Y-%m-%d}/{when:%H%M}.csv", line.encode())

    @pytest.fixture
    def storage(self, database: Database, tmp_path: Path) -> Storage:
        return Storage(
            database,
            tmp_path,
            source(Kind.INVENTORY, objects=True, profile=PRIVATE),
            source(Kind.TABLE, profile=PRIVATE),
            source(Kind.CLOUDTRAIL, profile=PRIVATE),
        )

    def test_leaves_the_sizes_of_objects_known(self, storage: Storage) -> None:
        storage.inventory(at(1, 1), {"ann/cats/t1": 5 * GB, "ann/cats/t2": GB})
        self.table(storage, at(1, 6), 6 * GB)
        gone = record(2, key="ann/cats/t2", size=..., eventName="DeleteObject", eventTime="2026-06-02T12:00:00Z")
        storage.log(record(1, key="ann/cats/t1", size=7 * GB, eventTime="2026-06-01T12:00:00Z"), slot="1205")
        storage.log(gone, day=JUNE_2, slot="1205")
        self.table(storage, at(2, 6), 8 * GB)
        storage.inventory(at(3, 1), {"ann/cats/t1": 7 * GB})
        storage.up_to_date()
        # the put is two gigabytes more than the inventory has of its key, whatever the table said in between
        assert storage.sizes() == [(at(1), 6 * GB), (at(1, 12), 8 * GB), (at(2, 12), 7 * GB)]
        assert rows(storage.usage, "select count(*) from usage.storage_drift") == [(0,)]

    def test_takes_its_place_and_the_other_way_round(self, storage: Storage) -> None:
        storage.inventory(at(1, 1), {"ann/cats/t1": 5 * GB})
        self.table(storage, at(1, 6), 4 * GB)
        storage.inventory(at(1, 12), {"ann/cats/t1": 6 * GB})
        storage.up_to_date()
        assert storage.sizes() == [(at(1), 5 * GB), (at(1, 6), 4 * GB), (at(1, 12), 6 * GB)]

    def test_does_not_keep_alive_what_the_inventory_says_is_gone(self, storage: Storage) -> None:
        storage.inventory(at(1, 1), {"ann/cats/t1": 5 * GB, "ann/dogs/t1": 9 * GB})
        self.table(storage, at(1, 6), 5 * GB)
        # known by the table alone: not the inventory's to say that it is gone
        for day in (1, 2):
            self.table(storage, at(day, 7), 4 * GB, "ann/elsewhere")
        storage.inventory(at(2, 1), {"ann/dogs/t1": 9 * GB})
        storage.up_to_date()
        assert storage.sizes() == [(at(1), 5 * GB), (at(2, 1), 0)]
        assert storage.sizes("ann/elsewhere") == [(at(1), 4 * GB)]

    def test_in_another_bucket_adds_to_it(self, database: Database, tmp_path: Path) -> None:
        sources = (
            source(Kind.INVENTORY, objects=True, profile=PRIVATE),
            source(Kind.TABLE, profile=PRIVATE, bucket="elsewhere"),
        )
        storage = Storage(database, tmp_path, *sources)
        for day in (1, 2):
            storage.inventory(at(day, 1), {"ann/cats/t1": 5 * GB})
            self.table(storage, at(day, 6), 2 * GB)
        storage.up_to_date()
        assert storage.sizes() == [(at(1), 7 * GB)]


class TestAges:
    DAILY, WEEKLY = (
        profile(visibility="private", max_snapshot_age_hours=24),
        profile(visibility="private", max_snapshot_age_hours=24 * 8),
    )

    def storage(self, database: Database, folder: Path) -> Storage:
        return Storage(
            database, folder, source(Kind.INVENTORY, profile=self.DAILY), source(Kind.TABLE, profile=self.WEEKLY)
        )

    def test_are_of_each_source(self, database: Database, tmp_path: Path) -> None:
        storage = self.storage(database, tmp_path)
        storage.inventory(at(1), {"ann/cats/t1": GB})
        storage.files.deliver(
            "storage/table/2026-06-01/t.csv", b"repository,bytes,snapshot_at\nbob/dogs,5,2026-06-01T00:00:00Z\n"
        )
        storage.files.ingest(at(9))
        build(storage.usage, *storage.usage.stale_days(at(9)))
        held = rows(storage.usage, "select partition_key from usage.build where state = 'held' order by 1")
        assert [day for (day,) in held] == [date(2026, 6, day) for day in range(2, 9)]
        (message,) = rows(storage.usage, "select message from guards.verdict where guard = 'snapshots_fresh'"
                                         " and partition_key = '2026-06-03'")  # fmt: skip
        # the weekly table's repository is not late yet
        assert "1 repositories have no snapshot" in message[0]
        assert "ann/cats (last one by inventory at 2026-06-01 00:00:00)" in message[0]
        assert "inventory 24 hours, table 192 hours" in message[0]

    def test_of_a_repository_that_two_sources_name_are_those_of_the_youngest_that_may_be_carried(
        self, database: Database, tmp_path: Path
    ) -> None:
        storage = self.storage(database, tmp_path)
        storage.files.deliver(
            "storage/table/2026-06-01/t.csv", b"repository,bytes,snapshot_at\nann/cats,5,2026-06-01T00:00:00Z\n"
        )
        storage.inventory(at(1, 1), {"ann/cats/t1": GB})
        storage.files.ingest(at(9))
        build(storage.usage, *storage.usage.stale_days(at(9)))
        assert rows(storage.usage, "select count(*) from usage.build where state = 'held'") == [(0,)]

    def test_that_are_changed_make_days_stale(self) -> None:
        one, other = (
            storage_policy((source(Kind.INVENTORY, profile=made), source(Kind.TABLE, profile=self.WEEKLY)))
            for made in (self.DAILY, self.WEEKLY)
        )
        assert one.max_snapshot_age == other.max_snapshot_age
        assert one.digest != other.digest
        assert StoragePolicy().digest != StoragePolicy(is_divided=True).digest
