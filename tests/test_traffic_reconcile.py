"""A replay of raw samples: corrupted buckets are found, put right and told, once."""

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import psycopg
import pytest

from resources.charge_store import LOCK
from resources.database import Database
from resources.lake import Lake
from resources.traffic_reconcile import DayReconciled, ReconciliationRefusedError, reconcile
from resources.traffic_usage_store import TrafficUsageStore
from tests.test_traffic_usage_store import across_midnight
from tests.traffic_chain import DAY, TrafficDeliveries, at, readings, source
from tests.traffic_world import NEXT_DAY, THIRD_DAY, World, load_catalog

DAYS = (DAY, NEXT_DAY, THIRD_DAY)


@pytest.fixture
def world(database: Database, tmp_path: Path) -> World:
    """Return three built days of two nodes."""
    load_catalog(database, tmp_path / "catalog")
    lake = Lake(str(tmp_path / "lake"), tmp_path / "scratch")
    store = TrafficUsageStore(
        database=database,
        lake=lake,
        scratch_dir=tmp_path / "scratch",
        sources=(source(on_first="full"), source("de")),
        memory_limit="256MB",
        threads=1,
    )
    world = World(store, TrafficDeliveries(database, lake, tmp_path), tmp_path)
    world.deliver([*across_midnight(), *readings("10:30 100, 10:31 150", node="de")])
    world.build()
    return world


def replay(world: World, *days: date, sources: tuple[str, ...] | None = None) -> tuple[DayReconciled, ...]:
    return reconcile(
        world.store, days=days or DAYS, actor="ada", reason="checking", run_id="replay", only_sources=sources
    )


def corrupt(world: World, *statements: str) -> None:
    with world.store.database.transaction() as connection:
        for statement in statements:
            assert connection.execute(statement.encode()).rowcount == 1


WRONG_BYTES = "update usage.traffic_minute set uplink_bytes = 999 where bucket_start = '2026-03-01T05:00Z'"
LOST = "delete from usage.traffic_minute where bucket_start = '2026-03-02T07:00Z'"
INVENTED = """
    insert into usage.traffic_minute
    select event_day, account_id, timestamptz '2026-03-03T09:30Z', env, node, inbound_tag, region, line, account_uuid, 5, 5,
        on_first, on_reset, basis, epoch, 0
    from usage.traffic_minute where bucket_start = '2026-03-03T09:00Z'
"""


class TestReconcile:
    def test_three_corrupted_buckets_are_three_adjustments_and_a_second_run_finds_none(self, world: World) -> None:
        before = world.stored()
        corrupt(world, WRONG_BYTES, LOST, INVENTED)
        assert [one.adjusted_minutes for one in replay(world)] == [1, 1, 1]
        assert world.stored() == before
        assert world.rows(
            "select period_start, stored_uplink_bytes, true_uplink_bytes, actor, reason from usage.traffic_adjustment"
            " order by period_start"
        ) == [
            (at("05:00"), 999, 1, "ada", "checking"),
            (at("07:00", NEXT_DAY), None, 1, "ada", "checking"),
            (at("09:30", THIRD_DAY), 5, None, "ada", "checking"),
        ]
        again = replay(world)
        assert [(one.adjusted_minutes, one.adjusted_hours, one.left_out) for one in again] == [(0, 0, None)] * 3
        assert world.rows("select count(*) from usage.traffic_adjustment") == [(3,)]

    def test_counts_what_the_samples_come_to(self, world: World) -> None:
        # of the other node's two samples the first is a baseline, which has a row without bytes
        assert [one.minutes for one in replay(world)] == [24 + 2, 24, 24]

    def test_puts_hours_right_that_rating_reads(self, world: World) -> None:
        before = world.stored()
        corrupt(
            world,
            "update usage.traffic set quantity = 7 where meter_id = 'traffic' and period_start = '2026-03-02T05:00Z'",
        )
        assert [one.adjusted_hours for one in replay(world)] == [0, 1, 0]
        assert world.stored() == before
        assert world.rows("select meter_id, stored_quantity, true_quantity from usage.traffic_adjustment") == [
            ("traffic", 7, 1)
        ]

    def test_of_one_source_leaves_other_nodes_alone(self, world: World) -> None:
        corrupt(world, WRONG_BYTES)
        assert [one.adjusted_minutes for one in replay(world, sources=("prod-de",))] == [0, 0, 0]
        assert [one.adjusted_minutes for one in replay(world, sources=("prod-jp",))] == [1, 0, 0]

    def test_makes_the_books_of_a_corrected_day_due_again(self, world: World) -> None:
        with world.store.database.transaction() as connection:
            connection.execute(
                """
                insert into billing.booked_day
                    (event_day, usage_asset, state, usage_state, inputs_digest, rules_digest, catalog_sha256)
                select partition_key, asset, 'booked', state, inputs_digest, rules_digest,
                    (select catalog_sha256 from catalog.release)
                from usage.build
                """
            )
        corrupt(world, WRONG_BYTES)
        replay(world)
        assert world.rows("select event_day from billing.booked_day order by 1") == [(NEXT_DAY,), (THIRD_DAY,)]

    def test_waits_for_a_booking_that_may_have_read_the_wrong_rows(self, world: World) -> None:
        corrupt(world, WRONG_BYTES)
        impatient = Database(f"{world.store.database.url}?options=-c%20lock_timeout%3D100")
        store = replace(world.store, database=impatient)
        with world.store.database.transaction(LOCK), pytest.raises(psycopg.errors.LockNotAvailable):
            replay(replace(world, store=store), DAY)
        assert [one.adjusted_minutes for one in replay(replace(world, store=store), DAY)] == [1]

    def test_leaves_out_days_that_are_stale_held_or_never_built(self, world: World) -> None:
        world.deliver([one for one in across_midnight() if one.day == DAY][:-2])
        world.deliveries.hold(THIRD_DAY)
        world.build(THIRD_DAY)
        told = {one.day: one.left_out for one in replay(world, DAY, THIRD_DAY, THIRD_DAY + timedelta(days=1))}
        assert "stale" in str(told[DAY])
        assert "held" in str(told[THIRD_DAY])
        assert "never built" in str(told[THIRD_DAY + timedelta(days=1)])

    @pytest.mark.parametrize(
        ("actor", "reason", "sources", "problem"),
        [
            (" ", "why", None, "who asked"),
            ("ada", "", None, "who asked"),
            ("ada", "why", ["prod-fr"], "there is no source prod-fr"),
        ],
    )
    def test_is_refused_without_a_name_a_reason_or_a_known_source(
        self, world: World, actor: str, reason: str, sources: list[str] | None, problem: str
    ) -> None:
        with pytest.raises(ReconciliationRefusedError, match=problem):
            reconcile(world.store, days=[DAY], actor=actor, reason=reason, run_id="run", only_sources=sources)

    def test_writes_no_history_anew(self, world: World) -> None:
        corrupt(world, WRONG_BYTES)
        replay(world)
        with world.store.database.connect() as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("update usage.traffic_adjustment set reason = 'other'")
