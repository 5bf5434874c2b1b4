"""Storage of event days in PostgreSQL: the worked example, what is stale, what is held, and whose rows a late event rewrites."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from billing_pipeline.storage_policy import OnFailure
from billing_pipeline.timelines import ObjectEvent, Snapshot
from resources import guard_store
from resources.catalog_store import CatalogNotLoadedError
from resources.database import Database
from resources.lake import Lake
from resources.storage_usage_store import StorageUsageStore
from tests.storage_chain import Facts, StorageDeliveries
from tests.storage_days import (
    CATALOG,
    EXAMPLE,
    FIRST_PUT,
    FIRST_SNAPSHOT,
    GB,
    JUNE_1,
    JUNE_2,
    JUNE_3,
    JUNE_4,
    SECOND_PUT,
    SECOND_SNAPSHOT,
    TURNED_PRIVATE,
    WITHOUT_PUT,
    at,
    became,
    build,
    everything,
    gb_hours,
    load_catalog,
    put,
    rows,
    settle,
    snapshot,
    store_with,
    verdict,
)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"), tmp_path / "scratch")


@pytest.fixture
def deliveries(database: Database, lake: Lake, tmp_path: Path) -> StorageDeliveries:
    return StorageDeliveries(database, lake, tmp_path)


@pytest.fixture
def store(database: Database, lake: Lake, tmp_path: Path) -> StorageUsageStore:
    load_catalog(database, tmp_path / "catalog")
    return store_with(database, lake, tmp_path)


class TestTheWorkedExample:
    def test_gives_four_segments_and_68_gb_hours(self, store: StorageUsageStore, deliveries: StorageDeliveries) -> None:
        deliveries.deliver(JUNE_2, EXAMPLE)
        first, second = build(store)
        assert [one.state for one in (first, second)] == ["built", "built"]
        states = rows(
            store,
            "select segment_start, segment_end, bytes / 1000000000, visibility, owner, account_id, byte_seconds, basis"
            " from usage.storage_state order by 1",
        )
        assert states == [
            (at(1, 5), at(1, 7), 2, "public", "ann", "acme", 14_400 * GB, "carried_back"),
            (at(1, 7), at(1, 12), 2, "public", "ann", "acme", 36_000 * GB, "snapshot"),
            (at(1, 12), at(1, 14), 4, "public", "ann", "acme", 28_800 * GB, "events"),
            (at(1, 14), at(2), 4, "private", "ann", "acme", 144_000 * GB, "events"),
            (at(2), at(2, 7), 4, "private", "ann", "acme", 100_800 * GB, "events"),
            (at(2, 7), at(3), 4, "private", "ann", "acme", 244_800 * GB, "snapshot"),
        ]
        assert gb_hours(store, until=at(2, 7)) == 68
        assert gb_hours(store, until=at(2, 7)) * 3600 * GB == 244_800_000_000_000
        assert gb_hours(store) == 136
        assert gb_hours(store, meter="all_storage") == 136 + 22
        assert first.private_byte_seconds == 144_000 * GB
        assert first.public_byte_seconds == 79_200 * GB
        assert rows(store, "select count(*) from usage.storage_drift") == [(0,)]
        assert {one.status for result in (first, second) for one in result.verdicts} == {"passed"}

    def test_reaches_to_the_instant_that_is_asked_for(
        self, store: StorageUsageStore, deliveries: StorageDeliveries
    ) -> None:
        deliveries.deliver(JUNE_2, EXAMPLE)
        build(store, JUNE_1, JUNE_2, as_of=at(2, 7))
        assert gb_hours(store) == 68
        assert store.stale_days() == (JUNE_2,)
        build(store)
        assert gb_hours(store) == 136

    def test_of_all_june_is_2824_gb_hours(
        self, database: Database, lake: Lake, tmp_path: Path, deliveries: StorageDeliveries
    ) -> None:
        load_catalog(database, tmp_path / "catalog")
        store = store_with(database, lake, tmp_path, max_snapshot_age=timedelta(days=60))
        deliveries.deliver(JUNE_2, EXAMPLE)
        days = store.stale_days(datetime(2026, 7, 1, tzinfo=UTC))
        assert days == tuple(date(2026, 6, day) for day in range(1, 31))
        results = build(store, *days)
        assert gb_hours(store) == 2824
        assert sum(one.private_byte_seconds for one in results) == 2824 * 3600 * GB
        assert store.stale_days(datetime(2026, 7, 1, tzinfo=UTC)) == ()


class TestAMonth:
    def test_of_deletes_and_drift_is_8814_gb_hours_and_of_a_transfer_at_half_60_and_60_gb_months(
        self, database: Database, lake: Lake, tmp_path: Path, deliveries: StorageDeliveries
    ) -> None:
        load_catalog(database, tmp_path / "catalog")
        store = store_with(database, lake, tmp_path, max_snapshot_age=timedelta(days=60))
        gone = ObjectEvent(event_id="gone", at=at(20, 6), object_id="old", action="delete", event_name="DeleteObject")
        listing = Snapshot(
            at=at(1), size_bytes=10 * GB, visibility="private", owner="ann", objects={"old": (3 * GB, None)}
        )
        short = replace(listing, size_bytes=30 * GB, objects={"all": (30 * GB, None)})
        emptied = replace(gone, event_id="emptied", at=at(16), object_id="all")
        deliveries.deliver(
            JUNE_1,
            Facts(
                snapshots=[
                    ("ann/cats", listing), snapshot("ann/cats", at(25), 23 * GB // 2),
                    snapshot("ann/big", at(1), 120 * GB), ("ann/short", short),
                ],
                object_events=[
                    put("ann/cats", at(10, 12), 5 * GB), ("ann/cats", gone), ("ann/short", emptied)
                ],
                repository_events=[became("ann/big", at(16), "owner", "bob")],
            ),
        )  # fmt: skip
        build(store, *store.stale_days(datetime(2026, 7, 1, tzinfo=UTC)))
        held = rows(
            store, "select repository, account_id, sum(byte_seconds) / 3600000000000 from usage.storage_state"
            " group by 1, 2 having sum(bytes) > 0 order by 1, 2"
        )  # fmt: skip
        assert held == [("ann/big", "acme", 60 * 720), ("ann/big", "bolt", 60 * 720), ("ann/cats", "acme", 8814),
                        ("ann/short", "acme", 15 * 720)]  # fmt: skip
        assert (Decimal(8814) / 720).quantize(Decimal("0.000001")) == Decimal("12.241667")
        # and by account and hour
        assert gb_hours(store, "bolt") / 720 == 60
        assert gb_hours(store) == 8814 + (60 + 15) * 720
        assert rows(store, "select snapshot_at, drift_bytes from usage.storage_drift") == [(at(25), -GB // 2)]


class TestLateEvents:
    def test_rebuild_their_repository_up_to_the_next_snapshot_and_no_other(
        self, store: StorageUsageStore, deliveries: StorageDeliveries
    ) -> None:
        others = [snapshot(f"bob/r{number}", at(day, 7), GB, owner="bob") for number in range(3) for day in (1, 2, 3)]
        deliveries.deliver(JUNE_3, WITHOUT_PUT + Facts(snapshots=[*others, snapshot("ann/cats", at(3, 7), 4 * GB)]))
        settle(store)
        assert gb_hours(store, until=at(2, 7)) == 34
        before = rows(store, "select repository, segment_start, xmin::text, ctid::text from usage.storage_state")
        usage_before = rows(
            store, "select account_id, period_start, meter_id, xmin::text, ctid::text from usage.storage"
        )
        # 26 hours late
        deliveries.deliver(JUNE_2, Facts(object_events=[SECOND_PUT]))
        assert store.stale_days() == (JUNE_1,)
        assert [one.day for one in build(store, JUNE_1)] == [JUNE_1, JUNE_2]
        assert store.stale_days() == ()
        assert gb_hours(store, until=at(2, 7)) == 68
        after = rows(store, "select repository, segment_start, xmin::text, ctid::text from usage.storage_state")
        rewritten = {row[:2] for row in set(after) - set(before)}
        assert rewritten == {("ann/cats", when) for when in (at(1, 7), at(1, 12), at(1, 14), at(2))}
        usage_after = rows(
            store, "select account_id, period_start, meter_id, xmin::text, ctid::text from usage.storage"
        )
        changed = {row[:2] for row in set(usage_after) - set(usage_before)}
        hours = {at(1, 12) + timedelta(hours=hour) for hour in range(19)}
        # a billing period begins at 18:37:12
        assert changed == {("acme", when) for when in {*hours, at(1, 18, 37, 12)}}

    def test_before_the_first_evidence_rebuild_up_to_the_first_snapshot_and_no_further(
        self, store: StorageUsageStore, deliveries: StorageDeliveries
    ) -> None:
        days = [date(2026, 6, day) for day in range(1, 9)]
        deliveries.deliver(
            days[-1],
            Facts(
                snapshots=[
                    *(snapshot("ann/cats", at(day, 7), 3 * GB) for day in range(3, 9)),
                    *(snapshot("bob/dogs", at(day, 7), GB, owner="bob") for day in range(1, 9)),
                ]
            ),
        )
        settle(store)
        before = rows(store, "select repository, event_day, ctid::text from usage.storage_state")
        deliveries.deliver(days[-1], Facts(object_events=[put("ann/cats", at(1, 12), GB)]))
        assert store.stale_days() == (JUNE_1,)
        # the second snapshot follows the first without anything in between: what it leaves is what it left
        assert [one.day for one in build(store, JUNE_1)] == days[:3]
        assert store.stale_days() == ()
        after = rows(store, "select repository, event_day, ctid::text from usage.storage_state")
        # and of the first snapshot's day no row is other than it was
        assert {row[:2] for row in set(after) ^ set(before)} == {("ann/cats", day) for day in days[:2]}
        # 2 GB before the put, 3 GB after it
        assert gb_hours(store, until=at(2)) == 2 * 12 + 3 * 12
        assert gb_hours(store, until=at(9)) == 2 * 12 + 3 * 12 + 7 * 3 * 24

    def test_in_any_order_of_delivery_end_in_the_same_rows(
        self, store: StorageUsageStore, deliveries: StorageDeliveries
    ) -> None:
        parts = [
            Facts(snapshots=[SECOND_SNAPSHOT]),
            Facts(object_events=[SECOND_PUT, SECOND_PUT]),
            Facts(repository_events=[TURNED_PRIVATE]),
            Facts(object_events=[FIRST_PUT]),
            Facts(snapshots=[FIRST_SNAPSHOT]),
        ]
        for part in parts:
            deliveries.deliver(JUNE_3, part)
            settle(store)
        assert gb_hours(store) == 136
        assert rows(store, "select count(*) from usage.storage_state") == [(6,)]
        assert rows(store, "select count(*) from usage.storage_base") == [(0,)]

    def test_before_the_first_snapshot_are_undone_on_days_that_are_built_already(
        self, store: StorageUsageStore, deliveries: StorageDeliveries
    ) -> None:
        deliveries.deliver(JUNE_1, Facts(object_events=[put("ann/old", at(1, 12), 2 * GB, owner="ann")]))
        build(store)
        assert gb_hours(store, meter="all_storage") == 24
        deliveries.deliver(JUNE_3, Facts(snapshots=[snapshot("ann/old", at(3, 7), 5 * GB)]))
        assert store.stale_days() == (JUNE_2, JUNE_3)
        assert [one.day for one in build(store, JUNE_2, JUNE_3)] == [JUNE_1, JUNE_2, JUNE_3]
        assert store.stale_days() == ()
        # 3 GB before the put, 5 GB after it, private because the first snapshot says so
        assert gb_hours(store, until=at(2)) == 3 * 12 + 5 * 12
        assert rows(store, "select distinct basis from usage.storage_state where event_day < '2026-06-03'") == [
            ("carried_back",)
        ]

    def test_of_one_run_over_all_days_need_no_second_run(
        self, store: StorageUsageStore, deliveries: StorageDeliveries
    ) -> None:
        deliveries.deliver(JUNE_1, Facts(object_events=[put("ann/old", at(1, 12), 2 * GB, owner="ann")]))
        deliveries.deliver(JUNE_3, Facts(snapshots=[snapshot("ann/old", at(3, 7), 5 * GB)]))
        assert settle(store) == [(JUNE_1, JUNE_2, JUNE_3)]
        assert gb_hours(store, until=at(2)) == 3 * 12 + 5 * 12


class TestGuards:
    def test_a_lost_put_is_a_drift_that_fails(self, store: StorageUsageStore, deliveries: StorageDeliveries) -> None:
        deliveries.deliver(JUNE_2, WITHOUT_PUT)
        _, second = build(store)
        assert gb_hours(store, until=at(2, 7)) == 34
        drifts = rows(
            store, "select repository, snapshot_at, derived_bytes, snapshot_bytes, drift_bytes from usage.storage_drift"
        )
        assert drifts == [("ann/cats", at(2, 7), 2 * GB, 4 * GB, 2 * GB)]
        failed = verdict(second, "drift_small")
        assert (failed.status, failed.actual) == ("warned", "1 snapshots")
        assert "ann/cats at 2026-06-02 07:00:00 (events 2,000,000,000, snapshot 4,000,000,000)" in failed.message

    def test_a_lost_visibility_event_bills_nothing_and_fails(
        self, store: StorageUsageStore, deliveries: StorageDeliveries
    ) -> None:
        deliveries.deliver(JUNE_2, Facts(snapshots=EXAMPLE.snapshots, object_events=EXAMPLE.object_events))
        _, second = build(store)
        assert gb_hours(store, until=at(2, 7)) == 0
        assert rows(store, "select drift_bytes, visibility_mismatch from usage.storage_drift") == [(0, True)]
        assert verdict(second, "visibility_agrees").status == "warned"
        assert verdict(second, "drift_small").status == "passed"

    def test_hold_the_day_where_the_policy_says_so_until_a_person_releases_it(
        self, database: Database, lake: Lake, tmp_path: Path, store: StorageUsageStore, deliveries: StorageDeliveries
    ) -> None:
        strict = store_with(database, lake, tmp_path, on_drift=OnFailure.HOLD)
        deliveries.deliver(JUNE_2, WITHOUT_PUT)
        build(store)
        good = rows(store, "select * from usage.storage order by 2, 3, 4")
        deliveries.deliver(
            JUNE_3, Facts(snapshots=[snapshot("ann/cats", at(2, 8), 9 * GB), snapshot("ann/cats", at(3, 7), 9 * GB)])
        )
        _, second, third = build(strict)
        assert (second.state, third.state) == ("held", "built")
        kept = rows(store, "select * from usage.storage where event_day < '2026-06-03' order by 2, 3, 4")
        assert kept == good
        # the next day begins with what is true, and the drift can be looked at
        assert verdict(third, "drift_small").status == "passed"
        assert rows(store, "select max(drift_bytes) from usage.storage_drift") == [(5 * GB,)]
        assert strict.stale_days() == ()
        guard_store.release(
            database, asset="usage/storage", partition_key="2026-06-02", guard="drift_small", actor="eve", reason="seen"
        )
        assert strict.stale_days() == (JUNE_2,)
        (released,) = build(strict)
        assert (released.state, verdict(released, "drift_small").status) == ("built", "released")
        assert gb_hours(store, until=at(3)) == 2 * 10 + 2 * 7 + 4 * 1 + 9 * 16

    def test_a_repository_carried_too_far_holds_the_day_and_says_so(
        self, store: StorageUsageStore, deliveries: StorageDeliveries
    ) -> None:
        deliveries.deliver(JUNE_1, Facts(snapshots=[snapshot("ann/cats", at(1, 7), GB)]))
        results = build(store, *store.stale_days(at(6)))
        assert [one.state for one in results] == ["built", "built", "built", "held", "held"]
        message = verdict(results[3], "snapshots_fresh").message
        assert "The day is incomplete" in message
        assert "ann/cats" in message
        assert gb_hours(store) == 72
        deliveries.deliver(date(2026, 6, 5), Facts(snapshots=[snapshot("ann/cats", at(3, 7), GB)]))
        build(store, *store.stale_days(at(6)))
        assert [row[0] for row in rows(store, "select state from usage.build order by partition_key")] == ["built"] * 5
        assert gb_hours(store) == 5 * 24

    def test_what_has_no_size_waits_for_the_next_snapshot_and_is_reported(
        self, store: StorageUsageStore, deliveries: StorageDeliveries
    ) -> None:
        copy = ObjectEvent(event_id="copy", at=at(1, 9), object_id="c", action="unsized", event_name="CopyObject")
        deliveries.deliver(
            JUNE_2, Facts(snapshots=[FIRST_SNAPSHOT, SECOND_SNAPSHOT], object_events=[("ann/cats", copy)])
        )
        first, second = build(store)
        assert (first.unsized_waiting, second.unsized_waiting) == (1, 0)
        assert verdict(first, "sizes_known").status == "warned"
        # the event explains the drift, so that it is stored and fails nothing
        assert rows(store, "select drift_bytes, unsized_events from usage.storage_drift") == [(2 * GB, 1)]
        assert verdict(second, "drift_small").status == "passed"

    def test_an_unknown_owner_is_listed_not_billed_and_billed_once_when_known(
        self, store: StorageUsageStore, deliveries: StorageDeliveries, tmp_path: Path
    ) -> None:
        deliveries.deliver(JUNE_1, Facts(snapshots=[snapshot("zoe/zoo", at(1), 3 * GB, owner="zoe")]))
        (result,) = build(store)
        assert verdict(result, "owners_known").status == "warned"
        assert "zoe" in verdict(result, "owners_known").message
        assert result.unbilled_byte_seconds == 3 * GB * 86_400
        assert rows(store, "select count(*) from usage.storage") == [(0,)]
        load_catalog(
            store.database,
            tmp_path / "catalog",
            accounts=CATALOG["accounts.toml"].replace('{ id = "bob" }', '{ id = "bob" }, { id = "zoe" }'),
        )
        assert store.stale_days() == (JUNE_1,)
        build(store)
        assert gb_hours(store, "bolt") == 72
        assert store.stale_days() == ()

    def test_a_complete_snapshot_that_does_not_name_a_repository_says_that_it_is_gone(
        self, database: Database, lake: Lake, tmp_path: Path, store: StorageUsageStore, deliveries: StorageDeliveries
    ) -> None:
        complete = store_with(database, lake, tmp_path, complete=frozenset({"inventory"}))
        both = [snapshot("ann/cats", at(1), GB), snapshot("ann/dogs", at(1), GB)]
        deliveries.deliver(JUNE_2, Facts(snapshots=[*both, snapshot("ann/cats", at(2, 12), GB)]))
        _, second = build(complete)
        assert gb_hours(store) == 48 + 36
        assert rows(store, "select repository, drift_bytes, is_missing from usage.storage_drift") == [
            ("ann/dogs", -GB, True)
        ]
        assert verdict(second, "drift_small").status == "warned"


class TestAccounts:
    def test_a_repository_that_moves_at_half_is_half_and_half(
        self, store: StorageUsageStore, deliveries: StorageDeliveries
    ) -> None:
        moved = became("ann/big", at(2), "owner", "bob")
        deliveries.deliver(JUNE_1, Facts(snapshots=[snapshot("ann/big", at(1), 120 * GB)], repository_events=[moved]))
        build(store)
        assert (gb_hours(store) / 48, gb_hours(store, "bolt") / 48) == (60, 60)

    def test_an_owner_that_becomes_another_accounts_client_moves_what_it_owns(
        self, store: StorageUsageStore, deliveries: StorageDeliveries, tmp_path: Path
    ) -> None:
        accounts = CATALOG["accounts.toml"].replace('{ id = "ann" }', '{ id = "ann", valid_to = 2026-06-01T06:30:00Z }')
        accounts = accounts.replace('{ id = "bob" }', '{ id = "ann", valid_from = 2026-06-01T18:00:00Z }')
        load_catalog(store.database, tmp_path / "catalog", accounts=accounts)
        deliveries.deliver(JUNE_1, Facts(snapshots=[snapshot("ann/cats", at(1), GB)]))
        build(store)
        assert (gb_hours(store), gb_hours(store, "bolt")) == (Decimal("6.5"), 6)
        assert rows(store, "select segment_start, account_id from usage.storage_state order by 1") == [
            (at(1), "acme"), (at(1, 6, 30), None), (at(1, 18), "bolt"),
        ]  # fmt: skip

    def test_hours_are_cut_where_a_billing_period_begins(
        self, store: StorageUsageStore, deliveries: StorageDeliveries
    ) -> None:
        # the anchor is 14:37:12 in New York, which is 18:37:12 UTC in June
        deliveries.deliver(JUNE_1, Facts(snapshots=[snapshot("ann/cats", at(1), GB)]))
        build(store)
        cut = rows(
            store,
            "select period_start, period_end, quantity, repository_count from usage.storage"
            " where meter_id = 'private_storage' and period_start between '2026-06-01T18:00Z' and '2026-06-01T18:59Z'"
            " order by 1",
        )
        moment = at(1, 18, 37, 12)
        assert cut == [(at(1, 18), moment, 2232 * GB, 1), (moment, at(1, 19), 1368 * GB, 1)]
        assert rows(store, "select count(*) from usage.storage where meter_id = 'private_storage'") == [(25,)]

    def test_many_repositories_of_an_account_are_one_row_an_hour(
        self, store: StorageUsageStore, deliveries: StorageDeliveries
    ) -> None:
        mine = [
            snapshot(f"ann/r{number}", at(1), number, "private" if number % 2 else "public") for number in range(100)
        ]
        deliveries.deliver(JUNE_1, Facts(snapshots=mine))
        (result,) = build(store)
        assert rows(
            store, "select meter_id, count(*), min(quantity), max(quantity), min(repository_count) from usage.storage"
            " where period_start < '2026-06-01T18:00Z' group by 1 order by 1"
        ) == [("all_storage", 18, 4950 * 3600, 4950 * 3600, 99), ("private_storage", 18, 2500 * 3600, 2500 * 3600, 50)]  # fmt: skip
        assert result.top_accounts == (("acme", Decimal(2500 * 86_400)),)


class TestStaleDays:
    def test_again_changes_nothing(self, store: StorageUsageStore, deliveries: StorageDeliveries) -> None:
        deliveries.deliver(JUNE_2, EXAMPLE)
        first = build(store)
        before = everything(store)
        tails = rows(store, "select * from core.lake_generation where dataset = 'usage/storage_tails'")
        marks = rows(store, "select xmin::text, ctid::text from usage.storage_state order by 2")
        assert build(store, JUNE_1, JUNE_2) == first
        assert everything(store) == before
        assert rows(store, "select * from core.lake_generation where dataset = 'usage/storage_tails'") == tails
        assert rows(store, "select xmin::text, ctid::text from usage.storage_state order by 2") == marks

    def test_one_by_one_and_in_one_run_give_the_same_rows(
        self, store: StorageUsageStore, deliveries: StorageDeliveries, tmp_path: Path
    ) -> None:
        deliveries.deliver(JUNE_2, EXAMPLE + Facts(object_events=[put("bob/x", at(1, 3), 7, owner="bob")]))
        deliveries.deliver(JUNE_4, Facts(snapshots=[snapshot("bob/x", at(4, 1), 9, "private", "bob")]))
        settle(store)
        at_once = everything(store)
        with store.database.transaction() as connection:
            for table in ("storage_state", "storage", "storage_drift", "storage_base", "storage_tail", "build"):
                connection.execute(f"delete from usage.{table}".encode())
            connection.execute("delete from core.lake_partition where dataset = 'usage/storage_tails'")
        for day in (JUNE_1, JUNE_2, JUNE_3, JUNE_4):
            build(store, day)
        settle(store)
        assert everything(store) == at_once

    def test_a_day_that_is_asked_for_brings_the_days_before_it_that_were_never_built(
        self, store: StorageUsageStore, deliveries: StorageDeliveries
    ) -> None:
        deliveries.deliver(JUNE_2, EXAMPLE)
        told: list[tuple[str, int, int]] = []
        results = build(store, JUNE_3, on_progress=lambda *progress: told.append(progress))
        assert [one.day for one in results] == [JUNE_1, JUNE_2, JUNE_3]
        assert told[-1] == ("event days", 3, 3)
        assert gb_hours(store) == 136 + 96

    def test_without_anything_there_is_nothing_to_do(self, store: StorageUsageStore) -> None:
        assert store.stale_days() == ()
        assert store.stale_days(at(5)) == ()
        assert store.build_days([], run_id="run", code_version="1") == ()

    def test_without_a_catalog_says_so(self, database: Database, lake: Lake, tmp_path: Path) -> None:
        with pytest.raises(CatalogNotLoadedError):
            build(store_with(database, lake, tmp_path), JUNE_1)

    def test_a_day_is_not_due_before_it_has_ended(
        self, store: StorageUsageStore, deliveries: StorageDeliveries
    ) -> None:
        deliveries.deliver(JUNE_2, EXAMPLE)
        assert store.stale_days(at(2, 12)) == (JUNE_1,)
        assert store.stale_days(at(3)) == (JUNE_1, JUNE_2)
