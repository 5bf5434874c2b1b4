"""Verdicts as asset checks: one per guard and partition, in a run over one day and in a run over a range."""

import json
import uuid
from collections.abc import Iterator
from datetime import date
from functools import partial
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationPlanned
from dagster._core.events import AssetMaterializationPlannedData, DagsterEvent, DagsterEventType
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionResolvedStatus as Status
from dagster._core.storage.asset_check_state import AssetCheckState, bulk_update_asset_check_state
from dagster._core.storage.event_log import EventLogStorage
from dagster_postgres.event_log.event_log import PostgresEventLogStorage

from assets.asset_checks import ALL_GUARDS, GUARDS, JUDGED_AS, StoredVerdicts
from assets.definitions import defs_of
from assets.partitions import DAYS, partition_tags
from billing_pipeline.checks import Verdict, VerdictStatus
from resources import guard_store
from resources.database import Database
from resources.runtime import dagster_database_url
from resources.settings import Settings
from tests.conftest import administer, database_url
from tests.dagster_fakes import World

USAGE = dg.AssetKey(["usage", "api_requests"])
HOURS = dg.AssetCheckKey(USAGE, "hours_delivered")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def world() -> World:
    return World()


def shown(instance: dg.DagsterInstance, check: dg.AssetCheckKey) -> dict[str, list[str]]:
    """Return what the UI shows for a check: status -> partitions, for statuses that have any."""
    state = bulk_update_asset_check_state(instance, [(check, DAYS)], {check: AssetCheckState.empty()})[check]
    found = {status: sorted(subset.subset_value.get_partition_keys()) for status, subset in state.subsets.items()}
    return {status.value: keys for status, keys in found.items() if keys}


class TestOneDay:
    def test_shows_every_guard_of_every_asset_as_passed(self, world: World, instance: dg.DagsterInstance):
        assert world.run("daily_billing", instance, "2026-03-01").success
        for asset, guards in GUARDS.items():
            for guard in guards:
                check = dg.AssetCheckKey(dg.AssetKey(asset.split("/")), guard)
                assert shown(instance, check) == {Status.SUCCEEDED.value: ["2026-03-01"]}

    def test_that_is_held_fails_the_run_and_stops_what_comes_after(self, world: World, instance: dg.DagsterInstance):
        world.verdicts.hold("usage/api_requests", "2026-03-01", "hours_delivered")
        result = world.run("daily_billing", instance, "2026-03-01")
        assert not result.success
        assert world.charges.booked == []
        assert shown(instance, HOURS) == {Status.FAILED.value: ["2026-03-01"]}

    def test_held_at_the_delivery_stops_usage(self, world: World, instance: dg.DagsterInstance):
        world.verdicts.hold("core/request_records", "2026-03-01", "lines_conserved")
        assert not world.run("daily_billing", instance, "2026-03-01").success
        assert world.usage.built == []

    @pytest.mark.parametrize("status", [VerdictStatus.WARNED, VerdictStatus.RELEASED])
    def test_that_is_warned_of_or_released_goes_on(
        self, world: World, instance: dg.DagsterInstance, status: VerdictStatus
    ):
        world.verdicts.others["usage/api_requests", "2026-03-01", "no_conflict"] = status
        result = world.run("daily_billing", instance, "2026-03-01")
        assert result.success
        evaluation = next(
            one
            for one in result.get_asset_check_evaluations()
            if (one.asset_key.to_user_string(), one.check_name) == ("usage/api_requests", "no_conflict")
        )
        assert evaluation.passed is (status is VerdictStatus.RELEASED)
        assert evaluation.metadata["verdict"].value == status
        if status is VerdictStatus.WARNED:
            assert evaluation.severity is dg.AssetCheckSeverity.WARN

    def test_that_nobody_judged_is_not_taken_for_a_good_one(self, world: World, instance: dg.DagsterInstance):
        world.verdicts.others["usage/api_requests", "2026-03-01", "hours_delivered"] = None
        assert not world.run("daily_billing", instance, "2026-03-01").success
        assert world.charges.booked == []

    def test_says_what_was_expected_what_was_found_and_for_which_inputs(
        self, world: World, instance: dg.DagsterInstance
    ):
        world.verdicts.hold("usage/api_requests", "2026-03-01", "hours_delivered")
        result = world.run("backfill_usage", instance, "2026-03-01")
        evaluation = next(one for one in result.get_asset_check_evaluations() if one.check_name == "hours_delivered")
        assert evaluation.description == "hours_delivered held"
        assert {name: value.value for name, value in evaluation.metadata.items()} == {
            "verdict": "held",
            "expected": "1",
            "actual": "2",
            "inputs_digest": "d" * 64,
        }


class TestRange:
    def test_shows_each_days_own_verdict_and_goes_on(self, world: World, instance: dg.DagsterInstance):
        world.verdicts.hold("usage/api_requests", "2026-03-02", "hours_delivered")
        assert world.run("backfill_usage", instance, "2026-03-01", "2026-03-03").success
        assert len(world.charges.booked) == 1
        assert shown(instance, HOURS) == {
            Status.SUCCEEDED.value: ["2026-03-01", "2026-03-03"],
            Status.FAILED.value: ["2026-03-02"],
        }

    def test_leaves_no_check_planned_and_unanswered(self, world: World, instance: dg.DagsterInstance):
        result = world.run("daily_billing", instance, "2026-03-01", "2026-03-04")
        # Invoices have no partitions, and checks of their own.
        evaluations = [one for one in result.get_asset_check_evaluations() if one.asset_key.to_user_string() in GUARDS]
        assert {one.partition for one in evaluations} == {f"2026-03-0{day}" for day in range(1, 5)}
        assert len(evaluations) == 4 * sum(len(guards) + 1 for guards in GUARDS.values())

    def test_that_is_run_again_after_the_cause_is_gone_shows_the_new_verdict(
        self, world: World, instance: dg.DagsterInstance
    ):
        world.verdicts.hold("usage/api_requests", "2026-03-02", "hours_delivered")
        world.run("backfill_usage", instance, "2026-03-01", "2026-03-03")
        world.verdicts.others.clear()
        assert world.run("backfill_usage", instance, "2026-03-02").success
        assert shown(instance, HOURS) == {Status.SUCCEEDED.value: ["2026-03-01", "2026-03-02", "2026-03-03"]}


class TestLongRange:
    def test_reports_each_day_and_each_guard_that_did_not_pass(self, world: World, instance: dg.DagsterInstance):
        world.verdicts.hold("usage/api_requests", "2026-03-02", "hours_delivered")
        result = world.run("backfill_usage", instance, "2026-02-01", "2026-03-31", assets=["usage/api_requests"])
        assert result.success
        by_day = shown(instance, dg.AssetCheckKey(USAGE, ALL_GUARDS))
        assert by_day[Status.FAILED.value] == ["2026-03-02"]
        assert len(by_day[Status.SUCCEEDED.value]) == 28 + 31 - 1
        assert [
            one.partition for one in result.get_asset_check_evaluations() if one.check_name == "hours_delivered"
        ] == ["2026-03-02"]
        guard_by_day = shown(instance, HOURS)
        assert guard_by_day[Status.FAILED.value] == ["2026-03-02"]
        assert len(guard_by_day[Status.SKIPPED.value]) == 28 + 31 - 1


class TestAllGuards:
    def test_says_what_each_guard_that_did_not_pass_says(self, world: World, instance: dg.DagsterInstance):
        world.verdicts.hold("usage/api_requests", "2026-03-01", "hours_delivered")
        world.verdicts.others["usage/api_requests", "2026-03-01", "no_conflict"] = VerdictStatus.WARNED
        result = world.run("backfill_usage", instance, "2026-03-01")
        summary = next(one for one in result.get_asset_check_evaluations() if one.check_name == ALL_GUARDS)
        assert (summary.passed, summary.severity) == (False, dg.AssetCheckSeverity.ERROR)
        assert summary.description == "no_conflict: no_conflict warned\n\nhours_delivered: hours_delivered held"
        assert {guard: value.value for guard, value in summary.metadata.items()} == {
            "records_conserved": "passed",
            "no_conflict": "warned",
            "hours_delivered": "held",
            "usage_equals_records": "passed",
        }


class TestStoredVerdicts:
    def test_come_from_postgresql_by_partition_and_guard(self, database: Database):
        verdict = Verdict(
            asset="usage/api_requests",
            partition_key="2026-03-02",
            guard="hours_delivered",
            status=VerdictStatus.HELD,
            expected="api: 00",
            actual="no records in api: 00",
            message="A gap.",
            inputs_digest="d" * 64,
        )
        with database.transaction() as connection:
            guard_store.record(connection, [verdict], run_id="run")
        stored = StoredVerdicts(database)
        assert stored.of("usage/api_requests", ["2026-03-01", "2026-03-02"]) == (verdict,)
        assert stored.of("usage/api_requests", ["2026-03-01"]) == ()


class TestGuards:
    def test_are_exactly_those_that_the_stores_write_verdicts_of(
        self, database: Database, instance: dg.DagsterInstance, tmp_path: Path
    ):
        delivery = tmp_path / "landing" / "requests" / "api" / "2026-03-01"
        delivery.mkdir(parents=True)
        (tmp_path / "landing" / "requests" / "auth").mkdir()
        request = {
            "request_id": "r1",
            "client_id": "client_acme_live",
            "timestamp": "2026-03-01T00:00:04.403Z",
            "endpoint": "/v2.0/vehicles/8b1ceec9-230c-55b8-ab78-692435bb2709/info",
            "method": "GET",
            "status_code": 200,
            "response_time_ms": 46.5,
            "is_real_vehicle": True,
            "bytes": 301,
        }
        (delivery / "a.jsonl").write_text(json.dumps(request) + "\n")
        settings = Settings.from_environment({"BILLING_HOME": str(tmp_path)})
        result = (
            defs_of(settings, database)
            .resolve_job_def("daily_billing")
            .execute_in_process(instance=instance, tags=partition_tags(date(2026, 3, 1), date(2026, 3, 2)))
        )
        assert result.success
        with database.reading() as connection:
            written = connection.execute("select distinct asset, guard from guards.verdict").fetchall()
        assert set(written) == {(JUDGED_AS.get(asset, asset), guard) for asset in GUARDS for guard in GUARDS[asset]}
        assert shown(instance, HOURS)[Status.FAILED.value] == ["2026-03-01", "2026-03-02"]


class TestPooledPostgresStorage:
    @pytest.fixture
    def postgres_instance(self, postgres_url: str, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
        name = f"dagster_test_{uuid.uuid4().hex[:12]}"
        administer(postgres_url, f'create database "{name}"')
        storage = {
            "module": "assets.dagster_storage",
            "class": "PooledPostgresStorage",
            "config": {"postgres_url": dagster_database_url(database_url(postgres_url, name))},
        }
        with dg.instance_for_test(temp_dir=str(tmp_path), overrides={"storage": {"custom": storage}}) as instance:
            yield instance
        administer(postgres_url, f'drop database "{name}" with (force)')

    def test_keeps_what_each_day_of_a_range_did_and_what_its_guards_say(
        self, world: World, postgres_instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", "500")
        world.verdicts.hold("usage/api_requests", "2026-03-02", "hours_delivered")
        assert world.run("daily_billing", postgres_instance, "2026-03-01", "2026-03-03").success
        assert postgres_instance.get_materialized_partitions(USAGE) == {"2026-03-01", "2026-03-02", "2026-03-03"}
        assert shown(postgres_instance, HOURS) == {
            Status.SUCCEEDED.value: ["2026-03-01", "2026-03-03"],
            Status.FAILED.value: ["2026-03-02"],
        }

    def test_holds_connections_open_and_does_not_wait_for_the_disk(self, postgres_instance: dg.DagsterInstance):
        pids, waits = set(), set()
        for _ in range(3):
            with postgres_instance.event_log_storage.index_connection() as connection:
                pids.add(connection.exec_driver_sql("select pg_backend_pid()").scalar())
                waits.add(connection.exec_driver_sql("show synchronous_commit").scalar())
        assert len(pids) == 1
        assert waits == {"off"}

    def test_stores_what_a_run_plans_as_dagster_does(self, postgres_instance: dg.DagsterInstance) -> None:
        chosen = DAYS.subset_with_partition_keys([f"2026-03-{day:02}" for day in range(1, 31)]).to_serializable_subset()
        plans: list[tuple[DagsterEventType, object]] = [
            (DagsterEventType.ASSET_MATERIALIZATION_PLANNED, AssetMaterializationPlannedData(key, partition=day))
            for key in (USAGE, dg.AssetKey("other"))
            for day in chosen.get_partition_keys()
        ]
        plans.append(
            (
                DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED,
                AssetCheckEvaluationPlanned(
                    asset_key=USAGE, check_name=HOURS.name, partitions_subset=chosen.to_serializable_subset()
                ),
            )
        )
        events = [
            dg.EventLogEntry(
                error_info=None,
                level=10,
                user_message="",
                run_id="",
                timestamp=1_772_323_200.0 + number,
                dagster_event=DagsterEvent(event_type_value=kind.value, job_name="job", event_specific_data=data),  # type: ignore[arg-type]
            )
            for number, (kind, data) in enumerate(plans)
        ]
        storage = postgres_instance.event_log_storage
        assert isinstance(storage, PostgresEventLogStorage)
        columns = "dagster_event_type, asset_key, partition, timestamp, step_key, replace(event, '{0}', '')"
        asset = "asset_key, replace(last_run_id, '{0}', ''), last_materialization_timestamp"
        check = "asset_key, check_name, partition, execution_status, evaluation_event_timestamp"
        queries = [
            f"select {columns} from event_logs where run_id = '{{0}}' order by id",
            f"select {asset} from asset_keys order by 1",
            f"select {check} from asset_check_executions where run_id = '{{0}}' order by partition",
        ]
        stored = []
        as_dagster_does = partial(EventLogStorage.store_event_batch, storage)
        for run_id, store in (("bulk", storage.store_event_batch), ("plain", as_dagster_does)):
            store([event._replace(run_id=run_id) for event in events])
            with storage.index_connection() as connection:
                stored.append([[*map(tuple, connection.exec_driver_sql(one.format(run_id)))] for one in queries])
        assert stored[0] == stored[1]
        assert [len(rows) for rows in stored[0]] == [61, 2, 30]
