"""Storage days and what their deliveries leave out: what is held, what is carried on, who is gone."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from billing_pipeline.checks import Verdict, VerdictStatus
from billing_pipeline.storage_policy import OnFailure
from resources import guard_store
from resources.database import Database
from resources.lake import Lake
from resources.storage_usage_store import StorageUsageStore
from tests.storage_chain import Facts, StorageDeliveries
from tests.storage_days import (
    GB,
    JUNE_1,
    JUNE_2,
    JUNE_3,
    WITHOUT_PUT,
    at,
    build,
    gb_hours,
    load_catalog,
    put,
    rows,
    settle,
    snapshot,
    store_with,
    verdict,
)

ONE_GB = Facts(snapshots=[snapshot("ann/cats", at(1), GB)])
ALL_BUILT = {JUNE_1: "built", JUNE_2: "built", JUNE_3: "built"}


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


@pytest.fixture
def complete(store: StorageUsageStore, lake: Lake, tmp_path: Path) -> StorageUsageStore:
    """Return a store whose inventory names all repositories that there are."""
    return store_with(store.database, lake, tmp_path, complete=frozenset({"inventory"}))


def judge(database: Database, dataset: str, day: date, guard: str, status: VerdictStatus, digest: str = "d") -> None:
    """Write a verdict about a delivery day, as its ingest does."""
    judged = Verdict(
        asset=dataset,
        partition_key=day.isoformat(),
        guard=guard,
        status=status,
        expected="",
        actual="",
        message="",
        inputs_digest=digest,
    )
    with database.transaction() as connection:
        guard_store.record(connection, [judged], run_id="run")


def states(store: StorageUsageStore) -> Mapping[date, str]:
    return dict(rows(store, "select partition_key, state from usage.build order by 1"))


class TestHeldDeliveries:
    def test_of_events_hold_their_day_and_every_day_of_their_rows(
        self, store: StorageUsageStore, deliveries: StorageDeliveries
    ) -> None:
        # delivered on the third: an event of the first, and nothing of the second
        deliveries.deliver(JUNE_1, ONE_GB)
        deliveries.deliver(JUNE_3, Facts(object_events=[put("ann/cats", at(1, 12), GB), put("ann/cats", at(3, 1), GB)]))
        settle(store)
        assert states(store) == ALL_BUILT
        good = gb_hours(store)
        deliveries.deliver(JUNE_3, Facts(object_events=[put("ann/cats", at(1, 18), 5 * GB)]))
        judge(store.database, "core/object_events", JUNE_3, "digests_verified", VerdictStatus.HELD)
        assert set(store.stale_days()) == {JUNE_1, JUNE_3}
        found = {one.day: one for one in build(store)}
        assert states(store) == {JUNE_1: "held", JUNE_2: "built", JUNE_3: "held"}
        assert (
            "core/object_events of 2026-06-03 (digests_verified)" in verdict(found[JUNE_1], "deliveries_sound").message
        )
        assert store.stale_days() == ()
        # the first keeps its last good rows; the second begins with what is known
        assert gb_hours(store, until=at(2)) == 24 + 12
        assert gb_hours(store) == good + 5 * 24

    def test_of_events_hold_a_day_of_which_no_row_has_come(
        self, store: StorageUsageStore, deliveries: StorageDeliveries
    ) -> None:
        deliveries.deliver(JUNE_2, Facts(snapshots=[*ONE_GB.snapshots, snapshot("ann/cats", at(2), GB)]))
        judge(store.database, "core/object_events", JUNE_2, "digests_verified", VerdictStatus.HELD)
        build(store)
        assert states(store) == {JUNE_1: "built", JUNE_2: "held"}
        assert gb_hours(store) == 24

    def test_let_the_day_through_once_they_are_whole(
        self, store: StorageUsageStore, deliveries: StorageDeliveries
    ) -> None:
        deliveries.deliver(JUNE_1, ONE_GB)
        judge(store.database, "core/object_events", JUNE_1, "digests_verified", VerdictStatus.HELD)
        build(store)
        assert gb_hours(store) == 0
        judge(store.database, "core/object_events", JUNE_1, "digests_verified", VerdictStatus.PASSED, "e")
        assert store.stale_days() == (JUNE_1,)
        (built,) = build(store)
        assert (built.state, verdict(built, "deliveries_sound").status) == ("built", "passed")
        assert gb_hours(store) == 24

    @pytest.mark.parametrize(
        ("asset", "guard", "status"),
        [("core/object_events", "digests_verified", "passed"), ("usage/storage", "deliveries_sound", "released")],
    )
    def test_let_the_day_through_once_a_person_releases_them_or_it(
        self, store: StorageUsageStore, deliveries: StorageDeliveries, asset: str, guard: str, status: str
    ) -> None:
        deliveries.deliver(JUNE_1, ONE_GB)
        judge(store.database, "core/object_events", JUNE_1, "digests_verified", VerdictStatus.HELD)
        build(store)
        guard_store.release(
            store.database, asset=asset, partition_key="2026-06-01", guard=guard, actor="eve", reason="lost for good"
        )
        assert store.stale_days() == (JUNE_1,)
        (built,) = build(store)
        assert (built.state, verdict(built, "deliveries_sound").status) == ("built", status)
        assert store.stale_days() == ()
        # a release is for what was looked at
        judge(store.database, "core/object_events", JUNE_1, "digests_verified", VerdictStatus.HELD, "other findings")
        assert [one.state for one in build(store)] == ["held"]

    @pytest.mark.parametrize("dataset", ["core/storage_snapshots", "core/object_events", "core/visibility_events"])
    def test_of_which_a_line_has_no_outcome_hold_the_day(
        self, store: StorageUsageStore, deliveries: StorageDeliveries, dataset: str
    ) -> None:
        deliveries.deliver(JUNE_1, ONE_GB)
        judge(store.database, dataset, JUNE_1, "lines_conserved", VerdictStatus.HELD)
        assert [one.state for one in build(store)] == ["held"]

    def test_of_snapshots_that_were_not_taken_carry_the_day_on_and_are_named(
        self, store: StorageUsageStore, deliveries: StorageDeliveries
    ) -> None:
        deliveries.deliver(JUNE_1, ONE_GB)
        judge(store.database, "core/storage_snapshots", JUNE_2, "snapshots_sound", VerdictStatus.HELD)
        build(store, JUNE_1, JUNE_2)
        (second,) = build(store, JUNE_2)
        assert states(store) == {JUNE_1: "built", JUNE_2: "built"}
        said = verdict(second, "deliveries_sound")
        assert said.status == "warned"
        assert "core/storage_snapshots of 2026-06-02 (snapshots_sound)" in said.message
        assert gb_hours(store) == 48


class TestDaysWithoutEvidence:
    @pytest.mark.parametrize(("hours", "last"), [(72, date(2026, 6, 5)), (36, JUNE_3), (24, JUNE_3)])
    def test_end_with_the_first_that_are_incomplete(
        self,
        store: StorageUsageStore,
        deliveries: StorageDeliveries,
        lake: Lake,
        tmp_path: Path,
        hours: int,
        last: date,
    ) -> None:
        bounded = store_with(store.database, lake, tmp_path, max_snapshot_age=timedelta(hours=hours))
        deliveries.deliver(JUNE_1, Facts(snapshots=[snapshot("ann/cats", at(1, 7), GB)]))
        years_later = datetime(2029, 1, 1, tzinfo=UTC)
        days = bounded.stale_days(years_later)
        assert (days[0], days[-1]) == (JUNE_1, last)
        assert build(bounded, *days)[-1].state == "held"
        assert bounded.stale_days(years_later) == ()

    def test_are_built_when_something_comes_after_them(
        self, store: StorageUsageStore, deliveries: StorageDeliveries
    ) -> None:
        deliveries.deliver(JUNE_1, ONE_GB)
        build(store, *store.stale_days(at(20)))
        deliveries.deliver(JUNE_2, Facts(snapshots=[snapshot("ann/cats", at(9), GB)]))
        assert store.stale_days(at(20))[-1] == date(2026, 6, 13)


class TestPolicy:
    def test_that_is_edited_makes_days_stale(
        self, store: StorageUsageStore, deliveries: StorageDeliveries, lake: Lake, tmp_path: Path
    ) -> None:
        deliveries.deliver(JUNE_2, WITHOUT_PUT)
        settle(store)
        strict = store_with(store.database, lake, tmp_path, on_drift=OnFailure.HOLD)
        assert strict.stale_days() == (JUNE_1, JUNE_2)
        build(strict)
        assert states(strict) == {JUNE_1: "built", JUNE_2: "held"}
        assert strict.stale_days() == ()


class TestMissingRepositories:
    def test_are_gone_with_the_source_that_named_them_last_however_days_are_cut(
        self, store: StorageUsageStore, deliveries: StorageDeliveries, lake: Lake, tmp_path: Path
    ) -> None:
        both = store_with(store.database, lake, tmp_path, complete=frozenset({"inventory", "second"}))
        moves = Facts(
            snapshots=[
                snapshot("ann/dogs", at(1, 1), GB),
                snapshot("ann/cats", at(1, 1), GB),
                snapshot("ann/cats", at(1, 2), GB),
                snapshot("ann/dogs", at(1, 3), GB),
            ]
        )
        deliveries.deliver(JUNE_1, moves, sources={at(1, 2): "second"})
        build(both)
        # the listing of 03:00 does not name ann/cats, which another source names since 02:00
        assert rows(both, "select repository, bytes from usage.storage_state where segment_end = '2026-06-02T00:00Z'"
                          " order by 1") == [("ann/cats", GB), ("ann/dogs", GB)]  # fmt: skip

    def test_that_return_are_billed_from_then_on(
        self, complete: StorageUsageStore, deliveries: StorageDeliveries
    ) -> None:
        stays = [snapshot("ann/dogs", at(day, 6), 0) for day in (1, 2, 3)]
        deliveries.deliver(
            JUNE_3,
            Facts(snapshots=[*stays, snapshot("ann/cats", at(1, 6), GB), snapshot("ann/cats", at(3, 6), 2 * GB)]),
        )
        settle(complete)
        assert gb_hours(complete, until=at(2)) == 24
        assert gb_hours(complete, until=at(3)) == 24 + 6
        assert gb_hours(complete) == 24 + 6 + 2 * 18

    def test_known_by_events_alone_are_gone_where_the_only_complete_snapshot_does_not_name_them(
        self, complete: StorageUsageStore, deliveries: StorageDeliveries
    ) -> None:
        # put, and removed by a rule of the bucket, which no log tells
        deliveries.deliver(
            JUNE_3,
            Facts(
                snapshots=[snapshot("ann/dogs", at(day, 6), GB) for day in (1, 2, 3)],
                object_events=[put("ann/cats", at(1, 12), 7 * GB, owner="ann")],
            ),
        )
        results = build(complete, *complete.stale_days(at(12)))
        assert [one.state for one in results[:3]] == ["built"] * 3
        assert rows(complete, "select max(bytes) from usage.storage_state where repository = 'ann/cats'"
                              " and segment_start >= '2026-06-02T06:00Z'") == [(0,)]  # fmt: skip
