"""Events and snapshots that no store can have written: their repository waits for a snapshot, everyone else is billed."""

from dataclasses import replace
from pathlib import Path

import pytest

from billing_pipeline.timelines import COMPLETION, ObjectEvent
from resources.database import Database
from resources.lake import Lake
from resources.storage_usage_store import StorageUsageStore
from tests.storage_chain import Facts, StorageDeliveries
from tests.storage_days import (
    GB,
    JUNE_2,
    JUNE_3,
    at,
    build,
    gb_hours,
    load_catalog,
    put,
    rows,
    snapshot,
    store_with,
    verdict,
)

LARGEST = 2**63 - 1
OTHERS = Facts(
    snapshots=[snapshot("bob/dogs", at(day), GB, owner="bob") for day in (1, 2, 3)],
    object_events=[put("bob/dogs", at(1, 12), GB)],
)


@pytest.fixture
def store(database: Database, tmp_path: Path) -> StorageUsageStore:
    load_catalog(database, tmp_path / "catalog")
    return store_with(database, Lake(str(tmp_path / "lake"), tmp_path / "scratch"), tmp_path)


@pytest.fixture
def deliveries(store: StorageUsageStore, tmp_path: Path) -> StorageDeliveries:
    return StorageDeliveries(store.database, store.lake, tmp_path)


def forged(when: int, size: int = LARGEST, **fields: object) -> tuple[str, ObjectEvent]:
    return put("ann/cats", at(1, when), size, event_id=f"forged-{when}", **fields)


def part(number: int) -> tuple[str, ObjectEvent]:
    return forged(number, action="part", event_name="UploadPart", object_id="big", upload_id="u", part_number=number)


DONE = replace(forged(9)[1], object_id="big", action="unsized", event_name=COMPLETION, size_bytes=None, upload_id="u")


class TestSizesBeyond64Bits:
    @pytest.mark.parametrize(
        "events",
        [
            [forged(1), forged(2)],
            [forged(1), forged(2), forged(3), forged(4)],
            [forged(hour, LARGEST // 3) for hour in range(1, 5)],
            [forged(2, LARGEST - 5 * GB + 1)],
            [part(1), part(2), ("ann/cats", DONE)],
        ],
    )
    def test_leave_their_repository_as_it_was_and_bill_everyone_else(
        self, store: StorageUsageStore, deliveries: StorageDeliveries, events: list[tuple[str, ObjectEvent]]
    ) -> None:
        deliveries.deliver(JUNE_3, OTHERS)
        deliveries.deliver(
            JUNE_3,
            Facts(
                snapshots=[snapshot("ann/cats", at(1), 5 * GB), snapshot("ann/cats", at(3), 6 * GB)],
                object_events=events,
            ),
        )
        first, second, third = build(store)
        assert [one.state for one in (first, second, third)] == ["built"] * 3
        assert gb_hours(store, "bolt") == 24 + 12 + 24 + 24
        # what nobody can have written changes nothing until the next snapshot
        assert gb_hours(store) == 5 * 48 + 6 * 24
        found = verdict(first, "within_int64")
        assert (found.status, found.actual) == ("warned", "1 repositories beyond 2^63 - 1 bytes")
        assert "ann/cats (event forged-" in found.message
        assert "not billed" in found.message
        assert first.unsized_waiting > 0
        assert verdict(second, "within_int64").status == "passed"
        assert (second.unsized_waiting, third.unsized_waiting) == (first.unsized_waiting, 0)

    def test_that_add_up_over_days_are_found_on_the_day_that_passes_it(
        self, store: StorageUsageStore, deliveries: StorageDeliveries
    ) -> None:
        half = 2**62
        deliveries.deliver(
            JUNE_3,
            OTHERS + Facts(object_events=[put("ann/cats", at(day, 1), half, owner="ann") for day in (1, 2)]),
        )
        first, second, third = build(store)
        assert [verdict(one, "within_int64").status for one in (first, second, third)] == ["passed", "warned", "passed"]
        assert rows(store, "select max(bytes) from usage.storage_state where repository = 'ann/cats'") == [(half,)]
        assert {one.state for one in (first, second, third)} == {"built"}

    def test_taken_away_again_and_a_snapshot_after_it_are_no_error(
        self, store: StorageUsageStore, deliveries: StorageDeliveries
    ) -> None:
        gone = replace(forged(2)[1], event_id="gone", action="delete", event_name="DeleteObject", size_bytes=None)
        deliveries.deliver(
            JUNE_2,
            OTHERS
            + Facts(
                snapshots=[snapshot("ann/cats", at(1), 0), snapshot("ann/cats", at(2), LARGEST)],
                object_events=[forged(1, object_id="k"), ("ann/cats", replace(gone, object_id="k"))],
            ),
        )
        first, *_ = build(store)
        assert first.state == "built"
        assert gb_hours(store, "bolt") == 24 + 12 + 24 + 24
