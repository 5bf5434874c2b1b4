"""Storage from delivered files to byte-seconds and to the bill: inventories in three formats, CloudTrail, digests, visibility."""

import gzip
import io
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.orc
import pyarrow.parquet
import pytest

from resources.charge_reader import ChargeReader
from resources.charge_store import ChargeStore
from resources.database import Database
from resources.retention import Retention
from resources.storage_config import Kind
from resources.storage_policy import storage_policy
from resources.storage_usage_store import StorageUsageStore
from tests.conftest import administer
from tests.storage_days import GB, JUNE_1, JUNE_2, at, build, everything, gb_hours, load_catalog, rows, settle
from tests.storage_files import (
    BUCKET,
    DigestChain,
    StorageDeliveries,
    listed,
    log_key,
    manifest,
    md5_line,
    parameters,
    profile,
    public_keys,
    record,
    source,
)

NOW = at(9)
RUN = {"run_id": "run", "code_version": "test"}
PER_GB_MONTH = """
    [[price]]
    id = "fee"
    meter = "private_storage"
    currency = "USD"
    [[price.versions]]
    version = 1
    effective_from = 2025-01-01T00:00:00Z
    model = "standard"
    unit_price = "1000"
    conversion = { unit = "GB-month", divide = "1000000000" }
"""
BY_MONTH = """
    [[subscription]]
    id = "sub"
    account = "acme"
    plan = "plan"
    starts_at = 2026-01-01T00:00:00Z
"""


class Storage:
    """An installation of storage alone: deliver, ingest, build, look."""

    def __init__(self, database: Database, folder: Path, *sources: Any, **catalog: str) -> None:
        load_catalog(database, folder / "catalog", **catalog)
        keys = folder / "keys.json"
        keys.write_bytes(public_keys())
        made = sources or (
            source(Kind.INVENTORY, objects=True),
            source(Kind.TABLE),
            source(Kind.CLOUDTRAIL, public_keys=keys),
            source(Kind.VISIBILITY),
        )
        self.files = StorageDeliveries(database, folder, made)
        self.usage = StorageUsageStore(
            database=database,
            lake=self.files.lake,
            scratch_dir=folder / "scratch",
            sources=self.files.store.source_names,
            policy=storage_policy(made),
            memory_limit="256MB",
            threads=1,
        )

    def log(self, *records: object, day: date = JUNE_1, slot: str = "0505") -> tuple[str, bytes]:
        """Deliver a log file; return its key and inflated content."""
        key = log_key(day, slot)
        return key, self.files.deliver_log(*records, key=key)

    def inventory(self, when: datetime, sizes: dict[str, int], file_format: str = "CSV") -> None:
        """Deliver an inventory of objects by key."""
        if file_format == "CSV":
            self.files.deliver_inventory([listed(key, size) for key, size in sizes.items()], when)
            return
        table = pa.table({"bucket": [BUCKET] * len(sizes), "key": list(sizes), "size": list(sizes.values())})
        sink = io.BytesIO()
        (pyarrow.orc.write_table if file_format == "ORC" else pyarrow.parquet.write_table)(table, sink)
        data, name = sink.getvalue(), f"inv/data/{when:%Y%m%d%H}.{file_format}"
        content = manifest({name: data}, when, fileFormat=file_format, fileSchema="bucket key size")
        folder = f"storage/inventory/inv/{when:%Y-%m-%dT%H-%MZ}"
        self.files.deliver(f"storage/inventory/{name}", data)
        self.files.deliver(f"{folder}/manifest.json", content)
        self.files.deliver(f"{folder}/manifest.checksum", md5_line(content))

    def turned(self, *lines: dict[str, str], name: str = "2026-06-01/a.jsonl") -> None:
        """Deliver visibility events."""
        self.files.deliver(f"storage/visibility/{name}", "".join(f"{json.dumps(line)}\n" for line in lines).encode())

    def up_to_date(self) -> None:
        """Read what waits and build what is stale."""
        self.files.ingest(NOW)
        settle(self.usage)

    def sizes(self, repository: str = "ann/cats") -> list[tuple[datetime, int]]:
        """Return (since, bytes) of a repository's states, where they differ."""
        with self.usage.database.reading() as connection:
            found = connection.execute(
                "select segment_start, bytes from usage.storage_state where repository = %s order by 1", [repository]
            ).fetchall()
        return [row for number, row in enumerate(found) if not number or found[number - 1][1] != row[1]]


@pytest.fixture
def storage(database: Database, tmp_path: Path) -> Storage:
    return Storage(database, tmp_path)


def private(repository: str = "ann/cats", when: str = "2026-06-01T14:00:00Z") -> dict[str, str]:
    return {"repository": repository, "at": when, "visibility": "private"}


def deliver_the_example(storage: Storage, file_format: str = "CSV") -> None:
    storage.log(record(1, key="ann/cats/t1", size=2 * GB, eventTime="2026-06-01T05:00:00Z"))
    storage.inventory(at(1, 7), {"ann/cats/t1": 2 * GB}, file_format)
    storage.log(record(2, key="ann/cats/t2", size=2 * GB, eventTime="2026-06-01T12:00:00Z"), slot="1205")
    storage.turned(private())
    storage.inventory(at(2, 7), {"ann/cats/t1": 2 * GB, "ann/cats/t2": 2 * GB}, file_format)


class TestTheWorkedExample:
    @pytest.mark.parametrize("file_format", ["CSV", "Parquet", "ORC"])
    def test_is_68_gb_hours_from_files_of_every_format(self, storage: Storage, file_format: str) -> None:
        deliver_the_example(storage, file_format)
        storage.up_to_date()
        states = rows(
            storage.usage,
            "select segment_start, segment_end, bytes, visibility, owner, account_id, basis from usage.storage_state"
            " where event_day = '2026-06-01' order by 1",
        )
        assert states == [
            (at(1, 5), at(1, 7), 2 * GB, "public", "ann", "acme", "carried_back"),
            (at(1, 7), at(1, 12), 2 * GB, "public", "ann", "acme", "snapshot"),
            (at(1, 12), at(1, 14), 4 * GB, "public", "ann", "acme", "events"),
            (at(1, 14), at(2), 4 * GB, "private", "ann", "acme", "events"),
        ]
        assert gb_hours(storage.usage, until=at(2, 7)) == 68
        assert gb_hours(storage.usage) == 136
        assert rows(storage.usage, "select count(*) from usage.storage_drift") == [(0,)]
        assert {row[0] for row in rows(storage.usage, "select status from guards.verdict")} == {"passed"}

    def test_is_booked_in_gb_months_of_the_subscribers_period(self, database: Database, tmp_path: Path) -> None:
        storage = Storage(database, tmp_path, prices=PER_GB_MONTH, subscriptions=BY_MONTH)
        deliver_the_example(storage)
        storage.up_to_date()
        charges = ChargeStore(database)
        charges.book_days(charges.unbooked_days(), **RUN)
        bill = ChargeReader(database).bill("acme", "2026-06")
        # 136 of 720 hours
        assert [
            (one.quantity.quantize(Decimal("0.000001")), one.unit) for group in bill.line_groups for one in group[1]
        ] == [(Decimal("0.188889"), "GB-month")]
        assert bill.total.minor_units == 18_889
        # what is late books the difference
        storage.turned(private(when="2026-06-01T13:00:00Z"), name="2026-06-03/late.jsonl")
        storage.up_to_date()
        charges.book_days(charges.unbooked_days(), **RUN)
        # 140 of 720
        assert ChargeReader(database).bill("acme", "2026-06").total.minor_units == 19_444

    def test_is_the_same_when_the_last_comes_first_and_everything_twice(self, storage: Storage) -> None:
        storage.inventory(at(2, 7), {"ann/cats/t1": 2 * GB, "ann/cats/t2": 2 * GB})
        storage.up_to_date()
        second = record(2, key="ann/cats/t2", size=2 * GB, eventTime="2026-06-01T12:00:00Z")
        storage.turned(private())
        storage.log(second, day=JUNE_2)
        storage.up_to_date()
        storage.turned(private(), name="2026-06-02/again.jsonl")
        storage.log(second, second, day=JUNE_1, slot="1205")
        storage.inventory(at(1, 7), {"ann/cats/t1": 2 * GB})
        storage.up_to_date()
        first = record(1, key="ann/cats/t1", size=2 * GB, eventTime="2026-06-01T05:00:00Z")
        storage.log(second, first, first, day=date(2026, 6, 3))
        storage.up_to_date()
        assert storage.sizes() == [(at(1, 5), 2 * GB), (at(1, 12), 4 * GB)]
        assert gb_hours(storage.usage, until=at(2, 7)) == 68
        assert gb_hours(storage.usage, meter="all_storage") == 136 + 22


class TestVersionedBuckets:
    def deletion(self, number: int, when: str, *, marker: bool = False, version: str = "") -> dict[str, Any]:
        return record(
            number,
            eventName="DeleteObject",
            eventTime=when,
            size=...,
            requestParameters=parameters("ann/cats/t1", **({"versionId": version} if version else {})),
            responseElements={"x-amz-delete-marker": "true"} if marker else None,
        )

    def test_a_hidden_object_is_not_current_any_more(self, storage: Storage) -> None:
        storage.inventory(at(1), {"ann/cats/t1": 5 * GB, "ann/cats/t2": GB})
        storage.log(self.deletion(1, "2026-06-01T12:00:00Z", marker=True), slot="1205")
        storage.up_to_date()
        assert storage.sizes() == [(at(1), 6 * GB), (at(1, 12), GB)]

    def test_all_versions_are_sold_until_each_is_gone(self, database: Database, tmp_path: Path) -> None:
        every = profile(bytes_sold="all_versions", visibility="private")
        storage = Storage(
            database,
            tmp_path,
            source(Kind.INVENTORY, objects=True, profile=every),
            source(Kind.CLOUDTRAIL, profile=every),
        )
        storage.files.deliver_inventory(
            [
                listed("ann/cats/t1", 4 * GB, version="v1", latest=False),
                listed("ann/cats/t1", 2 * GB, version="v2"),
                listed("ann/cats/t2", GB),
            ],
            at(1),
        )
        storage.log(
            record(
                1,
                key="ann/cats/t1",
                size=GB,
                eventTime="2026-06-01T06:00:00Z",
                responseElements={"x-amz-version-id": "v3"},
            ),
            self.deletion(2, "2026-06-01T08:00:00Z", marker=True),
            self.deletion(3, "2026-06-01T10:00:00Z", version="v1"),
            # of a bucket without versions, or before it had them
            record(4, key="ann/cats/t2", size=3 * GB, eventTime="2026-06-01T12:00:00Z"),
            self.deletion(5, "2026-06-01T14:00:00Z", version="v3"),
            slot="1505",
        )
        storage.up_to_date()
        assert storage.sizes() == [
            (at(1), 7 * GB),
            (at(1, 6), 8 * GB),
            (at(1, 10), 4 * GB),
            (at(1, 12), 6 * GB),
            (at(1, 14), 5 * GB),
        ]
        assert rows(storage.usage, "select status from guards.verdict where asset = 'usage/storage'"
                                   " and guard = 'sizes_known'") == [("passed",)]  # fmt: skip


class TestEvents:
    def test_of_one_id_and_two_contents_on_two_delivery_days_count_neither_and_say_so(self, storage: Storage) -> None:
        storage.inventory(at(1), {"ann/cats/t1": GB})
        storage.log(record(1, key="ann/cats/t2", size=5 * GB, eventTime="2026-06-01T12:00:00Z"), slot="1205")
        storage.log(record(1, key="ann/cats/t2", size=7 * GB, eventTime="2026-06-01T12:00:00Z"), day=JUNE_2)
        storage.up_to_date()
        assert storage.sizes() == [(at(1), GB)]
        assert rows(storage.usage, "select status from guards.verdict where guard = 'no_conflict'") == [("warned",)]
        assert rows(storage.usage, "select records_read, billable_records, not_billable_records, duplicate_records,"
                                   " conflict_records from usage.build") == [(3, 1, 0, 0, 2)]  # fmt: skip

    @pytest.mark.parametrize("correction_first", [True, False])
    def test_that_are_corrected_count_once_whichever_comes_first(
        self, storage: Storage, correction_first: bool
    ) -> None:
        when = {"key": "ann/cats/t2", "eventTime": "2026-06-01T12:00:00Z"}
        wrong = record(1, size=5 * GB, **when)
        addendum = {"reason": "UPDATED_DATA", "originalEventID": wrong["eventID"]}
        right = record(2, size=2 * GB, addendum=addendum, **when)
        storage.inventory(at(1), {"ann/cats/t1": GB})
        for day, event in (
            (JUNE_1, right if correction_first else wrong),
            (JUNE_2, wrong if correction_first else right),
        ):
            storage.log(event, day=day)
            storage.up_to_date()
        assert storage.sizes() == [(at(1), GB), (at(1, 12), 3 * GB)]

    def test_whose_keys_differ_by_case_or_form_are_of_different_objects(self, storage: Storage) -> None:
        composed, decomposed = "ann/cats/caf\u00e9", "ann/cats/cafe\u0301"
        storage.inventory(at(1), {composed: GB, "ann/cats/T": 3 * GB})
        storage.log(
            record(1, key=decomposed, size=2 * GB, eventTime="2026-06-01T06:00:00Z"),
            record(2, key="ann/cats/t", size=GB, eventTime="2026-06-01T07:00:00Z"),
            record(3, key=composed, size=GB, eventTime="2026-06-01T08:00:00Z"),
            record(4, key="ann/Cats/t", size=9 * GB, eventTime="2026-06-01T08:00:00Z"),
        )
        storage.up_to_date()
        assert storage.sizes() == [(at(1), 4 * GB), (at(1, 6), 6 * GB), (at(1, 7), 7 * GB)]
        assert storage.sizes("ann/Cats") == [(at(1, 8), 9 * GB)]


class TestSnapshots:
    def test_that_list_nothing_say_that_everything_is_gone(self, storage: Storage) -> None:
        storage.inventory(at(1), {"ann/cats/t1": GB})
        storage.turned(private(when="2026-06-01T00:00:00Z"))
        storage.inventory(at(2, 6), {})
        storage.up_to_date()
        assert storage.sizes() == [(at(1), GB), (at(2, 6), 0)]
        assert gb_hours(storage.usage) == 30
        assert storage.usage.stale_days() == ()

    def test_of_another_bucket_are_held_rather_than_taken_for_an_empty_one(self, storage: Storage) -> None:
        storage.inventory(at(1), {"ann/cats/t1": GB})
        storage.files.deliver_inventory(
            [listed("ann/dogs/t1", GB)], at(1, 1), folder="other/2026-06-01T01-00Z", sourceBucket="another"
        )
        storage.up_to_date()
        assert storage.sizes() == [(at(1), GB)]
        assert storage.files.manifest()["inventory/other/2026-06-01T01-00Z/manifest.json"][:2] == (
            "held",
            "other_bucket",
        )

    def test_older_than_the_last_correct_the_days_behind_them(self, storage: Storage) -> None:
        storage.inventory(at(1), {"ann/cats/t1": GB})
        storage.inventory(at(3), {"ann/cats/t1": GB})
        storage.up_to_date()
        storage.inventory(at(2), {"ann/cats/t1": 2 * GB})
        storage.up_to_date()
        assert storage.sizes() == [(at(1), GB), (at(2), 2 * GB), (at(3), GB)]


class TestAssumedVisibility:
    def test_is_that_of_a_repository_of_which_nobody_has_said_it(self, database: Database, tmp_path: Path) -> None:
        assumed = profile(visibility="private")
        storage = Storage(
            database, tmp_path, source(Kind.INVENTORY, profile=assumed), source(Kind.VISIBILITY, profile=assumed)
        )
        sizes = {"ann/cats/t1": GB, "ann/dogs/t1": GB}
        storage.inventory(at(1, 7), sizes)
        storage.turned({"repository": "ann/dogs", "at": "2026-06-01T12:00:00Z", "visibility": "public"})
        storage.inventory(at(2, 7), sizes)
        storage.up_to_date()
        # the second snapshot does not make private again what its people have made public
        shown = rows(
            storage.usage,
            "select repository, segment_start, visibility from usage.storage_state order by repository, segment_start",
        )
        assert shown == [
            ("ann/cats", at(1), "private"), ("ann/cats", at(1, 7), "private"), ("ann/cats", at(2), "private"),
            ("ann/dogs", at(1), "private"), ("ann/dogs", at(1, 7), "private"), ("ann/dogs", at(1, 12), "public"),
            ("ann/dogs", at(2), "public"), ("ann/dogs", at(2, 7), "public"),
        ]  # fmt: skip
        assert gb_hours(storage.usage) == 48 + 12
        assert {row[0] for row in rows(storage.usage, "select status from guards.verdict")} == {"passed"}


class TestDigests:
    def test_that_name_a_missing_log_file_hold_the_day_until_it_comes(self, storage: Storage) -> None:
        chain = DigestChain()
        storage.inventory(at(1), {"ann/cats/t1": GB})
        storage.turned(private(when="2026-06-01T00:00:00Z"))
        key, content = storage.log(record(1, key="ann/cats/t2", size=GB, eventTime="2026-06-01T05:00:00Z"))
        lost_key = log_key(JUNE_1, "0510")
        lost = json.dumps(
            {"Records": [record(2, key="ann/cats/t3", size=GB, eventTime="2026-06-01T05:06:00Z")]}
        ).encode()
        storage.files.deliver_digest(chain.add(at(1, 6), {key: content, lost_key: lost}))
        storage.up_to_date()
        assert rows(storage.usage, "select state from usage.build") == [("held",)]
        (message,) = rows(storage.usage, "select message from guards.verdict where guard = 'deliveries_sound'")
        assert "core/object_events of 2026-06-01 (digests_verified)" in message[0]
        assert gb_hours(storage.usage) == 0
        storage.files.deliver(f"storage/cloudtrail/{lost_key}", gzip.compress(lost, mtime=0))
        storage.up_to_date()
        assert rows(storage.usage, "select state from usage.build") == [("built",)]
        assert storage.sizes() == [(at(1), GB), (at(1, 5), 2 * GB), (at(1, 5, 6), 3 * GB)]


class TestUpkeep:
    def test_removes_no_lake_file_that_a_day_still_needs(self, storage: Storage, database: Database) -> None:
        storage.inventory(at(1), {"ann/cats/t1": GB})
        storage.log(record(1, key="ann/cats/t2", size=GB, eventTime="2026-06-01T05:00:00Z"))
        storage.turned(private(when="2026-06-01T00:00:00Z"))
        storage.up_to_date()
        storage.log(record(2, key="ann/cats/t3", size=GB, eventTime="2026-06-01T06:00:00Z"), slot="0605")
        storage.inventory(at(2), {"ann/cats/t1": GB})
        storage.up_to_date()
        before = everything(storage.usage)
        administer(database.url, "update core.lake_partition set updated_at = now() - interval '31 days'")
        done = Retention(
            database=database, lake=storage.files.lake, scratch_dir=storage.usage.scratch_dir
        ).remove_unused(as_of=datetime.now(UTC))
        assert done.removed_generations > 0
        # a late event needs the day's files, the listing behind the day before, and its tail
        storage.log(record(3, key="ann/cats/t1", size=3 * GB, eventTime="2026-06-02T06:00:00Z"), day=JUNE_2)
        storage.up_to_date()
        assert storage.sizes()[-1] == (at(2, 6), 3 * GB)
        assert [row for row in everything(storage.usage) if row[0] == JUNE_1] == [
            row for row in before if row[0] == JUNE_1
        ]

    def test_two_builds_and_an_ingest_at_once_end_as_one_after_the_other(
        self, storage: Storage, database: Database
    ) -> None:
        for day in range(1, 5):
            storage.inventory(at(day, 1), {f"ann/cats/t{number}": GB for number in range(day)})
        storage.turned(private(when="2026-06-01T01:00:00Z"))
        storage.files.ingest(NOW)
        for day in range(1, 5):
            event = record(day, key=f"ann/cats/x{day}", size=GB, eventTime=f"2026-06-0{day}T05:00:00Z")
            storage.log(event, day=date(2026, 6, day))
        with ThreadPoolExecutor(3) as threads:
            runs = [
                threads.submit(build, storage.usage, *(date(2026, 6, day) for day in range(1, 5))) for _ in range(2)
            ]
            runs.append(threads.submit(storage.files.ingest, NOW))
            for run in runs:
                run.result()
        settle(storage.usage)
        at_once = everything(storage.usage)
        with database.transaction() as connection:
            for table in ("storage_state", "storage", "storage_drift", "storage_base", "storage_tail", "build"):
                connection.execute(f"delete from usage.{table}".encode())
            connection.execute("delete from core.lake_partition where dataset = 'usage/storage_tails'")
        settle(storage.usage)
        assert everything(storage.usage) == at_once
        # a gigabyte for each day so far, and one more from 05:00
        assert gb_hours(storage.usage, meter="all_storage") == sum(day * 24 + 19 for day in range(1, 5))
