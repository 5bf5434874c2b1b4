"""A late event rebuilds its repository's days up to the next snapshot and no others; what comes out is what a whole build gives."""

import os
import random
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from billing_pipeline.storage_policy import OnFailure
from resources import storage_touched
from resources.database import Database
from resources.lake import Lake
from resources.storage_facts import StorageFacts
from resources.storage_scan import DaySources, StorageScan
from resources.storage_usage_store import StorageDayBuild, StorageUsageStore
from tests.storage_chain import Facts, StorageDeliveries
from tests.storage_days import (
    CATALOG,
    GB,
    JUNE_1,
    JUNE_2,
    JUNE_3,
    JUNE_4,
    SECOND_PUT,
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
from tests.test_storage_sql import MANY, facts_of

EXAMPLES = int(os.environ.get("BILLING_TOUCHED_EXAMPLES", "2"))
EMPTIED = (
    *("usage.storage_state", "usage.storage", "usage.storage_drift", "usage.storage_base", "usage.storage_tail"),
    *("usage.build", "guards.verdict", "core.lake_partition", "core.source_file_day", "core.source_file"),
)
OTHERS = [snapshot(f"bob/r{number}", at(day, 7), GB, owner="bob") for number in range(4) for day in (1, 2, 3)]


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
def worked_out(monkeypatch: pytest.MonkeyPatch) -> list[tuple[date, int]]:
    """Return (day, repositories with states) of every scan, as it happens."""
    seen: list[tuple[date, int]] = []
    scan = StorageScan.scan

    def watched(self: StorageScan, sources: DaySources) -> StorageFacts:
        facts = scan(self, sources)
        seen.append((facts.day, facts.repositories))
        return facts

    monkeypatch.setattr(StorageScan, "scan", watched)
    return seen


def judged(store: StorageUsageStore) -> list[tuple[Any, ...]]:
    """Return all that a build leaves beside its rows: verdicts, counts, and what the next day begins with."""
    found = rows(
        store,
        "select partition_key, guard, status, expected, actual, message from guards.verdict"
        " where asset = 'usage/storage' order by 1, 2",
    )
    found += rows(
        store,
        "select partition_key::text, state, inputs_digest, rules_digest, records_read, billable_records,"
        " not_billable_records, duplicate_records, conflict_records, usage_rows from usage.build order by 1",
    )
    found += rows(store, "select * from usage.storage_base order by 1, 2, bucket")
    return found + rows(
        store,
        "select event_day, tail_digest, index_days, repositories, made_of -> 'facts' from usage.storage_tail order by 1",
    )


def built_anew(store: StorageUsageStore) -> None:
    """Forget all builds and build every day whole."""
    with store.database.transaction() as connection:
        for table in ("storage_state", "storage", "storage_drift", "storage_base", "storage_tail", "build"):
            connection.execute(f"delete from usage.{table}".encode())
        connection.execute("delete from core.lake_partition where dataset = 'usage/storage_tails'")
    settle(store)


def assert_as_built_whole(store: StorageUsageStore) -> None:
    bill, rest = everything(store), judged(store)
    built_anew(store)
    assert everything(store) == bill
    assert judged(store) == rest


def worked(results: tuple[StorageDayBuild, ...]) -> list[tuple[date, int]]:
    return [(one.day, one.rebuilt) for one in results]


class TestALateEvent:
    def test_rebuilds_one_repository_of_its_day_and_of_the_next_up_to_the_snapshot(
        self, store: StorageUsageStore, deliveries: StorageDeliveries, worked_out: list[tuple[date, int]]
    ) -> None:
        deliveries.deliver(JUNE_3, WITHOUT_PUT + Facts(snapshots=[*OTHERS, snapshot("ann/cats", at(3, 7), 4 * GB)]))
        settle(store)
        assert worked_out == [(JUNE_1, 5), (JUNE_2, 5), (JUNE_3, 5)]
        assert gb_hours(store, until=at(2, 7)) == 34
        worked_out.clear()
        # 26 hours late
        deliveries.deliver(JUNE_2, Facts(object_events=[SECOND_PUT]))
        results = build(store)
        assert worked(results) == [(JUNE_1, 1), (JUNE_2, 1)]
        # each as it was and as it is; the third day begins as it began
        assert worked_out == [(JUNE_1, 1), (JUNE_1, 1), (JUNE_2, 1), (JUNE_2, 1)]
        assert [one.repositories for one in results] == [5, 5]
        assert gb_hours(store, until=at(2, 7)) == 68
        assert store.stale_days() == ()
        assert_as_built_whole(store)

    def test_of_which_nobody_knows_the_owner_rebuilds_that_repository_alone(
        self, store: StorageUsageStore, deliveries: StorageDeliveries
    ) -> None:
        deliveries.deliver(JUNE_1, Facts(snapshots=OTHERS, object_events=[put("x/new", at(1, 5), GB)]))
        deliveries.deliver(JUNE_3, Facts(object_events=[put("x/new", at(3, 5), GB)]))
        settle(store)
        deliveries.deliver(JUNE_4, Facts(object_events=[put("x/new", at(2, 5), GB)]))
        assert worked(build(store)) == [(JUNE_2, 1), (JUNE_3, 1)]
        assert_as_built_whole(store)

    def test_before_the_first_snapshot_rebuilds_the_days_that_are_carried_back(
        self, store: StorageUsageStore, deliveries: StorageDeliveries
    ) -> None:
        old = Facts(
            object_events=[put("ann/old", at(1, 12), 2 * GB, owner="ann")],
            snapshots=[*OTHERS, snapshot("ann/old", at(3, 7), 5 * GB)],
        )
        deliveries.deliver(JUNE_3, old)
        settle(store)
        deliveries.deliver(JUNE_4, Facts(object_events=[put("ann/old", at(2, 12), GB, owner="ann")]))
        assert worked(build(store)) == [(JUNE_1, 1), (JUNE_2, 1), (JUNE_3, 1)]
        # 2 GB are before all events
        assert gb_hours(store, until=at(3)) == 2 * 12 + 4 * 24 + 5 * 12
        assert_as_built_whole(store)

    def test_of_an_owner_that_nobody_pays_for_moves_to_the_one_who_pays(
        self, store: StorageUsageStore, deliveries: StorageDeliveries
    ) -> None:
        free = [snapshot(f"zoe/r{number}", at(1, 7), number * GB, owner=f"zoe{number}") for number in range(12)]
        deliveries.deliver(JUNE_1, Facts(snapshots=[*OTHERS, *free]))
        settle(store)
        deliveries.deliver(JUNE_2, Facts(repository_events=[became("zoe/r11", at(1, 19), "owner", "bob")]))
        first, second, third = build(store)
        assert worked((first, second, third)) == [(JUNE_1, 1), (JUNE_2, 1), (JUNE_3, 1)]
        assert gb_hours(store, "bolt", until=at(2)) == 4 * 24 + 11 * 5
        assert first.unbilled_byte_seconds == (sum(range(11)) * 24 + 11 * 19) * GB * 3600
        assert_as_built_whole(store)

    def test_whose_id_another_repository_has_rebuilds_both(
        self, store: StorageUsageStore, deliveries: StorageDeliveries
    ) -> None:
        one = put("ann/cats", at(1, 12), GB, event_id="one", shared_event_id="both")[1]
        deliveries.deliver(JUNE_1, Facts(snapshots=OTHERS, object_events=[("bob/r0", replace(one, event_id="two"))]))
        settle(store)
        assert gb_hours(store, "bolt", until=at(2)) == 4 * 24 + 12
        deliveries.deliver(JUNE_2, Facts(object_events=[("ann/cats", one)]))
        assert worked(build(store))[0] == (JUNE_1, 2)
        # an action happens once, and the first id says where
        assert gb_hours(store, "bolt", until=at(2)) == 4 * 24
        assert_as_built_whole(store)

    def test_that_says_nothing_new_rebuilds_nothing(
        self, store: StorageUsageStore, deliveries: StorageDeliveries
    ) -> None:
        deliveries.deliver(JUNE_1, Facts(snapshots=OTHERS, object_events=[SECOND_PUT]))
        settle(store)
        # the delivery day is read again, with an event of another day
        deliveries.deliver(JUNE_1, Facts(object_events=[put("ann/cats", at(2, 12), GB)]))
        (second, third) = build(store)
        assert worked((second, third)) == [(JUNE_2, 1), (JUNE_3, 1)]
        # who asks for a day that is up to date wants it worked out again
        assert [one.rebuilt for one in build(store, JUNE_1)] == [5]
        assert_as_built_whole(store)


class TestAWholeDay:
    def test_is_built_after_a_late_snapshot_and_when_many_are_touched(
        self, store: StorageUsageStore, deliveries: StorageDeliveries, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        deliveries.deliver(JUNE_3, WITHOUT_PUT + Facts(snapshots=OTHERS))
        settle(store)
        deliveries.deliver(JUNE_4, Facts(snapshots=[snapshot("ann/cats", at(1, 20), 5 * GB)]))
        # the second day begins otherwise for one alone
        assert worked(build(store)) == [(JUNE_1, 5), (JUNE_2, 1)]
        monkeypatch.setattr(storage_touched, "FEW_REPOSITORIES", 1)
        late = [put("ann/cats", at(1, 12), GB), put("bob/r1", at(1, 13), GB)]
        deliveries.deliver(JUNE_4, Facts(object_events=late))
        assert worked(build(store))[0] == (JUNE_1, 5)
        assert_as_built_whole(store)

    def test_between_two_days_of_some_repositories_forgets_none(
        self, database: Database, lake: Lake, tmp_path: Path, store: StorageUsageStore, deliveries: StorageDeliveries
    ) -> None:
        patient = store_with(database, lake, tmp_path, max_snapshot_age=timedelta(days=9))
        quiet = [snapshot(name, at(1, 7), GB) for name in ("ann/cats", "ann/dogs", "ann/mice")]
        deliveries.deliver(JUNE_1, Facts(snapshots=quiet))
        deliveries.deliver(JUNE_4, Facts(object_events=[put("ann/mice", at(4, 12), GB)]))
        settle(patient)
        # nothing happened on the second and the third: they left the same
        deliveries.deliver(
            JUNE_4,
            Facts(snapshots=[snapshot("ann/dogs", at(3, 7), 5 * GB)], object_events=[put("ann/cats", at(2, 12), GB)]),
        )
        assert worked(build(patient)) == [(JUNE_2, 1), (JUNE_3, 3), (JUNE_4, 2)]
        assert_as_built_whole(patient)

    def test_is_built_when_it_begins_with_another_source_that_lists_the_bucket(
        self, database: Database, lake: Lake, tmp_path: Path, store: StorageUsageStore, deliveries: StorageDeliveries
    ) -> None:
        both = frozenset({"inventory", "second"})
        divided = store_with(
            database, lake, tmp_path, max_snapshot_age=timedelta(days=9), complete=both, is_divided=True,
            buckets=dict.fromkeys(both, "a"),
        )  # fmt: skip
        deliveries.deliver(
            JUNE_3,
            Facts(
                snapshots=[snapshot("ann/cats", at(day, 7), GB) for day in (1, 3)],
                object_events=[put("ann/ghost", at(2, 12), GB, owner="ann", bucket="a")],
            ),
        )
        settle(divided)
        ghost = (
            "select bytes from usage.storage_state where repository = 'ann/ghost' order by segment_start desc limit 1"
        )
        # the one source that lists the bucket does not name it
        assert rows(divided, ghost) == [(0,)]
        deliveries.deliver(JUNE_4, Facts(snapshots=[snapshot("ann/dogs", at(2, 7), GB)]), sources={at(2, 7): "second"})
        results = build(divided)
        # of two nobody can tell whose it is
        assert rows(divided, ghost) == [(GB,)]
        assert [one.rebuilt == one.repositories for one in results if one.day == JUNE_3] == [True]
        assert_as_built_whole(divided)

    def test_is_built_when_what_it_was_made_of_is_gone_or_of_other_rules(
        self, store: StorageUsageStore, deliveries: StorageDeliveries, lake: Lake, tmp_path: Path
    ) -> None:
        deliveries.deliver(JUNE_2, WITHOUT_PUT + Facts(snapshots=OTHERS))
        settle(store)
        ((uri,),) = rows(
            store,
            "select made_of -> 'files' -> 'core/object_events' ->> 0 from usage.storage_tail where event_day = '2026-06-01'",
        )
        # the delivery day is read again, and retention has removed what it was before
        deliveries.deliver(JUNE_2, Facts(object_events=[SECOND_PUT]))
        lake.remove(uri)
        assert worked(build(store)) == [(JUNE_1, 5), (JUNE_2, 1)]
        deliveries.deliver(JUNE_3, Facts(object_events=[put("ann/cats", at(1, 13), GB)]))
        with store.database.transaction() as connection:
            connection.execute("update usage.storage_tail set made_of = null where event_day = '2026-06-01'")
        assert worked(build(store)) == [(JUNE_1, 5), (JUNE_2, 1)]
        load_catalog(store.database, tmp_path / "catalog", accounts=CATALOG["accounts.toml"].replace('"bob"', '"eve"'))
        deliveries.deliver(JUNE_3, Facts(object_events=[put("ann/cats", at(1, 15), GB)]))
        assert worked(build(store))[0] == (JUNE_1, 5)
        assert_as_built_whole(store)

    def test_is_built_when_the_repository_would_hold_it(
        self, database: Database, lake: Lake, tmp_path: Path, store: StorageUsageStore, deliveries: StorageDeliveries
    ) -> None:
        strict = store_with(database, lake, tmp_path, on_drift=OnFailure.HOLD)
        good = WITHOUT_PUT + Facts(snapshots=OTHERS, object_events=[SECOND_PUT])
        deliveries.deliver(JUNE_2, good)
        settle(strict)
        deliveries.deliver(JUNE_3, Facts(object_events=[put("ann/cats", at(1, 16), 9 * GB)]))
        results = build(strict)
        assert [(one.day, one.rebuilt, one.state) for one in results] == [(JUNE_1, 1, "built"), (JUNE_2, 5, "held")]
        # and while it is held, it is built whole
        deliveries.deliver(JUNE_3, Facts(object_events=[put("ann/cats", at(1, 17), GB)]))
        results = build(strict)
        assert [(one.day, one.rebuilt, one.state) for one in results] == [(JUNE_1, 1, "built"), (JUNE_2, 5, "held")]
        assert verdict(results[1], "drift_small").status == "held"


def parts_of(facts: Facts, *, seed: int, parts: int) -> list[Facts]:
    """Return the facts spread over deliveries: most of it comes first, some of the events late, snapshots now and then."""
    choose = random.Random(seed)
    spread = (
        ("snapshots", "object_events", "repository_events") if seed % 4 == 0 else ("object_events", "repository_events")
    )
    made: list[dict[str, list[Any]]] = [
        {"snapshots": [], "object_events": [], "repository_events": []} for _ in range(parts)
    ]
    for name, fact in ((kind, one) for kind in made[0] for one in getattr(facts, kind)):
        made[max(0, choose.randrange(parts * 3) - 2 * parts) if name in spread else 0][name].append(fact)
    return [Facts(**one) for one in made]


class TestAnyHistory:
    @settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(histories=MANY, seed=st.integers(0, 2**64), complete=st.booleans())
    def test_delivered_in_parts_is_as_built_whole(
        self,
        database: Database,
        tmp_path: Path,
        histories: dict[str, tuple[Any, Any, Any]],
        seed: int,
        complete: bool,
    ) -> None:
        folder = tmp_path / f"{seed}"
        lake = Lake(str(folder / "lake"), folder / "scratch")
        with database.transaction() as connection:
            for table in EMPTIED:
                connection.execute(f"delete from {table}".encode())
        folder.mkdir()
        load_catalog(database, folder / "catalog")
        store = store_with(
            database, lake, folder, max_snapshot_age=timedelta(days=9), indexed=frozenset({"inventory"}),
            complete=frozenset({"inventory"}) if complete else frozenset(),
        )  # fmt: skip
        deliveries = StorageDeliveries(database, lake, folder)
        results: list[StorageDayBuild] = []
        for number, part in enumerate(parts_of(facts_of(histories), seed=seed, parts=3)):
            deliveries.deliver(JUNE_1 + timedelta(days=number), part)
            while stale := store.stale_days():
                results += build(store, *stale)
        event(f"{'some' if any(one.rebuilt < one.repositories for one in results) else 'none'} rebuilt in part")
        assert_as_built_whole(store)


def test_events_with_an_id_of_another_day_are_told_apart(
    store: StorageUsageStore, deliveries: StorageDeliveries
) -> None:
    one = put("ann/cats", at(1, 12), GB, event_id="one")[1]
    deliveries.deliver(JUNE_1, Facts(snapshots=OTHERS, object_events=[("ann/cats", one)]))
    settle(store)
    deliveries.deliver(JUNE_2, Facts(object_events=[("bob/r0", replace(one, at=at(2, 12)))]))
    assert worked(build(store))[0] == (JUNE_2, 1)
