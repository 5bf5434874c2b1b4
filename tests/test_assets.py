"""Materializing the assets: a day, a range, a range with a bad day, an empty day, a database that goes away."""

from collections.abc import Iterator
from datetime import date, timedelta

import dagster as dg
import psycopg
import pytest

from assets import execution
from assets.execution import retried_when_transient
from assets.partitions import FIRST_DAY, MAX_DAYS_PER_RUN, contiguous, days_in_tags, partition_tags
from resources.database import DatabaseFullError, DatabaseLostError
from tests.dagster_fakes import World

MARCH = [date(2026, 3, 1) + timedelta(days=offset) for offset in range(31)]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def world() -> World:
    return World()


def materialized(result: dg.ExecuteInProcessResult) -> dict[str, list[str | None]]:
    found: dict[str, list[str | None]] = {}
    for event in result.get_asset_materialization_events():
        found.setdefault(event.asset_key.to_user_string(), []).append(event.partition)
    return found


class TestOneDay:
    def test_runs_from_deliveries_to_the_invoices(self, world: World, instance: dg.DagsterInstance):
        result = world.run("daily_billing", instance, "2026-03-01")
        assert result.success
        assert materialized(result) == {
            "core/request_records": ["2026-03-01"],
            "core/traffic_samples": ["2026-03-01"],
            "core/storage_snapshots": ["2026-03-01"],
            "core/object_events": ["2026-03-01"],
            "core/visibility_events": ["2026-03-01"],
            "catalog/prices": [None],
            "catalog/subscriptions": [None],
            "usage/api_requests": ["2026-03-01"],
            "usage/traffic": ["2026-03-01"],
            "usage/storage": ["2026-03-01"],
            "billing/charges": ["2026-03-01"],
            "billing/ledger": ["2026-03-01"],
            "invoicing/items": [None],
        }
        assert world.requests.ingested == world.usage.built == world.charges.booked == [(date(2026, 3, 1),)]

    def test_looks_for_new_files_before_it_reads_a_delivery_day(self, world: World, instance: dg.DagsterInstance):
        world.run("ingest_deliveries", instance, "2026-03-01")
        assert world.requests.discoveries == 1

    def test_of_usage_alone_touches_no_delivery(self, world: World, instance: dg.DagsterInstance):
        result = world.run("backfill_usage", instance, "2026-03-01", assets=["usage/api_requests"])
        assert result.success
        assert materialized(result) == {"usage/api_requests": ["2026-03-01"]}
        assert world.requests.ingested == []

    def test_that_is_no_partition_is_refused_before_anything_runs(self, world: World, instance: dg.DagsterInstance):
        with pytest.raises(dg.DagsterUnknownPartitionError, match="1994-12-31"):
            world.run("daily_billing", instance, "1994-12-31")
        assert world.usage.built == []


class TestRange:
    def test_is_one_call_of_each_store_and_one_materialization_a_day(self, world: World, instance: dg.DagsterInstance):
        result = world.run("daily_billing", instance, "2026-03-01", "2026-03-31")
        assert result.success
        assert world.requests.ingested == world.usage.built == world.charges.booked == [tuple(MARCH)]
        days = [day.isoformat() for day in MARCH]
        assert materialized(result)["usage/api_requests"] == days
        assert materialized(result)["billing/ledger"] == days
        assert materialized(result)["catalog/prices"] == [None]

    def test_goes_on_past_a_held_day(self, world: World, instance: dg.DagsterInstance):
        world.verdicts.hold("usage/api_requests", "2026-03-02", "hours_delivered")
        result = world.run("backfill_usage", instance, "2026-03-01", "2026-03-03")
        assert result.success
        assert world.charges.booked == [tuple(MARCH[:3])]
        states = {
            event.partition: event.materialization.metadata["state"].value
            for event in result.get_asset_materialization_events()
            if event.asset_key.to_user_string() == "usage/api_requests"
        }
        assert states == {"2026-03-01": "built", "2026-03-02": "held", "2026-03-03": "built"}

    def test_of_400_days_costs_no_step_a_day(self, world: World, instance: dg.DagsterInstance):
        result = world.run("backfill_usage", instance, "2025-01-01", "2026-02-04", assets=["usage/api_requests"])
        assert result.success
        assert len(materialized(result)["usage/api_requests"]) == 400
        assert [event.step_key for event in result.get_step_success_events()] == [
            "usage__api_requests",
            "guards_of_usage__api_requests",
        ]


class TestFailures:
    @pytest.mark.parametrize(
        "error",
        [
            DatabaseLostError("gone", bill="nothing", fix="again"),
            psycopg.errors.DeadlockDetected("deadlock"),
            psycopg.OperationalError("server closed the connection"),
        ],
    )
    def test_of_the_database_that_pass_are_tried_again(
        self, world: World, instance: dg.DagsterInstance, error: Exception, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(execution, "SECONDS_BEFORE_RETRY", 0.0)
        world.usage.failures = [error]
        result = world.run("backfill_usage", instance, "2026-03-01")
        assert result.success
        assert world.usage.built == [(date(2026, 3, 1),)]
        assert len(result.filter_events(lambda event: event.is_step_restarted)) == 1

    @pytest.mark.parametrize(
        "error",
        [ValueError("a fault"), DatabaseFullError("full", bill="nothing", fix="space"), psycopg.errors.DiskFull()],
    )
    def test_that_need_a_person_fail_at_once(self, error: Exception):
        with pytest.raises(type(error)), retried_when_transient():
            raise error

    def test_show_cause_consequence_and_fix_where_dagster_shows_the_run(
        self, world: World, instance: dg.DagsterInstance
    ):
        world.usage.failures = [DatabaseFullError("the disk is full", bill="nothing was written", fix="free space")]
        result = world.run("backfill_usage", instance, "2026-03-01")
        (failed,) = result.filter_events(lambda event: event.is_step_failure)
        shown = failed.step_failure_data.error_display_string
        for words in ("the disk is full", "For the bill: nothing was written", "To fix: free space"):
            assert words in shown

    def test_of_usage_leave_charges_alone(self, world: World, instance: dg.DagsterInstance):
        world.usage.failures = [ValueError("a fault")]
        assert not world.run("backfill_usage", instance, "2026-03-01").success
        assert world.charges.booked == []


class TestContiguous:
    def test_names_these_days_and_no_others(self):
        days = [date(2026, 3, 1), date(2026, 3, 2), date(2026, 3, 4), date(2026, 2, 28)]
        assert contiguous(days) == ((date(2026, 2, 28), date(2026, 3, 2)), (date(2026, 3, 4), date(2026, 3, 4)))

    def test_bounds_a_run(self):
        days = [FIRST_DAY + timedelta(days=offset) for offset in range(MAX_DAYS_PER_RUN + 1)]
        assert [(last - first).days + 1 for first, last in contiguous(days)] == [MAX_DAYS_PER_RUN, 1]

    @pytest.mark.parametrize("length", [1, 2, 31])
    def test_survives_the_way_through_a_runs_tags(self, length: int):
        assert list(days_in_tags(partition_tags(MARCH[0], MARCH[length - 1]))) == MARCH[:length]

    def test_of_no_tags_is_no_day(self):
        assert days_in_tags({"dagster/job": "x"}) == ()
