"""Sensors request exactly what is due, nothing twice, and what failed again; the schedule requests yesterday."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pytest

from assets.alerts import ALERTED_TAG, alert_on_conditions, alert_on_failure
from assets.jobs import build_yesterday
from assets.partitions import days_in_tags
from assets.run_history import FIRST_WAIT, plan_runs
from assets.sensors import REQUESTS_PER_TICK, new_deliveries, stale_usage, unbooked_usage
from resources.alerting.notice import Condition, IncidentKind
from resources.catalog_store import CatalogNotLoadedError
from tests.dagster_fakes import World


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def world() -> World:
    return World()


def march(*days: int) -> set[date]:
    return {date(2026, 3, day) for day in days}


def tick(world: World, instance: dg.DagsterInstance, sensor: dg.SensorDefinition) -> list[dg.RunRequest]:
    with dg.build_sensor_context(
        instance=instance,
        definitions=world.defs,
        resources={"request_store": world.requests, "usage_store": world.usage, "charge_store": world.charges},
    ) as context:
        return list(sensor.evaluate_tick(context).run_requests or [])


def requested_days(requests: list[dg.RunRequest]) -> list[list[int]]:
    return [[day.day for day in days_in_tags(request.tags)] for request in requests]


def launch(world: World, instance: dg.DagsterInstance, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
    """Run a request as the daemon does."""
    days = days_in_tags(request.tags)
    return world.run(
        request.job_name, instance, str(days[0]), str(days[-1]) if len(days) > 1 else None, tags=dict(request.tags)
    )


def leave_on_its_way(instance: dg.DagsterInstance, job: str, tags: dict[str, str]) -> None:
    instance.add_run(dg.DagsterRun(job_name=job, run_id="r1", tags=tags, status=dg.DagsterRunStatus.STARTED))


class TestNewDeliveries:
    def test_requests_the_delivery_days_with_files_to_read_and_no_others(
        self, world: World, instance: dg.DagsterInstance
    ):
        world.requests.pending = march(1, 2, 5)
        requests = tick(world, instance, new_deliveries)
        assert requested_days(requests) == [[1, 2], [5]]
        assert {request.job_name for request in requests} == {"ingest_deliveries"}
        assert world.requests.discoveries == 1

    def test_is_quiet_when_nothing_waits(self, world: World, instance: dg.DagsterInstance):
        assert tick(world, instance, new_deliveries) == []

    def test_has_runs_that_read_what_was_requested(self, world: World, instance: dg.DagsterInstance):
        world.requests.pending = march(1, 2, 5)
        for request in tick(world, instance, new_deliveries):
            assert launch(world, instance, request).success
        assert world.requests.ingested == [(date(2026, 3, 1), date(2026, 3, 2)), (date(2026, 3, 5),)]
        assert tick(world, instance, new_deliveries) == []


class TestStaleUsage:
    def test_requests_exactly_the_days_that_are_not_up_to_date_down_to_the_ledger(
        self, world: World, instance: dg.DagsterInstance
    ):
        world.usage.stale = march(3, 4, 9)
        for request in tick(world, instance, stale_usage):
            assert launch(world, instance, request).success
        assert world.usage.built == world.charges.booked == [(date(2026, 3, 3), date(2026, 3, 4)), (date(2026, 3, 9),)]

    def test_asks_for_400_days_in_one_run(self, world: World, instance: dg.DagsterInstance):
        world.usage.stale = {date(2025, 1, 1) + timedelta(days=offset) for offset in range(400)}
        assert [len(days_in_tags(request.tags)) for request in tick(world, instance, stale_usage)] == [400]

    def test_asks_for_no_more_a_tick_than_a_tick_can_bear(self, world: World, instance: dg.DagsterInstance):
        world.usage.stale = {date(2026, 1, 1) + timedelta(days=2 * offset) for offset in range(REQUESTS_PER_TICK + 5)}
        assert len(tick(world, instance, stale_usage)) == REQUESTS_PER_TICK

    def test_does_not_ask_again_while_a_run_is_on_its_way_whoever_launched_it(
        self, world: World, instance: dg.DagsterInstance
    ):
        world.usage.stale = march(1, 2, 3)
        leave_on_its_way(instance, "daily_billing", {"dagster/partition": "2026-03-02"})
        assert requested_days(tick(world, instance, stale_usage)) == [[1], [3]]

    def test_does_not_take_a_run_that_only_ingests_for_one_that_builds_usage(
        self, world: World, instance: dg.DagsterInstance
    ):
        world.usage.stale = march(2)
        leave_on_its_way(instance, "ingest_deliveries", {"dagster/partition": "2026-03-02"})
        assert requested_days(tick(world, instance, stale_usage)) == [[2]]

    def test_asks_under_the_same_key_until_a_run_exists(self, world: World, instance: dg.DagsterInstance):
        world.usage.stale = march(1)
        first, second = tick(world, instance, stale_usage), tick(world, instance, stale_usage)
        assert [request.run_key for request in first] == [request.run_key for request in second]

    def test_asks_under_a_new_key_when_a_day_changes_after_it_was_built(
        self, world: World, instance: dg.DagsterInstance
    ):
        world.usage.stale = march(1)
        (first,) = tick(world, instance, stale_usage)
        launch(world, instance, first)
        world.usage.stale = march(1)
        (second,) = tick(world, instance, stale_usage)
        assert first.run_key != second.run_key

    def test_waits_for_a_catalog(self, world: World, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch):
        def no_catalog():
            raise CatalogNotLoadedError("none", bill="nothing", fix="load it")

        monkeypatch.setattr(world.usage, "stale_days", no_catalog)
        assert tick(world, instance, stale_usage) == []


class TestUnbookedUsage:
    def test_books_exactly_the_days_that_are_not_booked_as_they_are_built(
        self, world: World, instance: dg.DagsterInstance
    ):
        world.charges.unbooked = march(3, 4, 9)
        for request in tick(world, instance, unbooked_usage):
            assert launch(world, instance, request).success
        assert world.charges.booked == [(date(2026, 3, 3), date(2026, 3, 4)), (date(2026, 3, 9),)]
        assert world.usage.built == []
        assert tick(world, instance, unbooked_usage) == []

    def test_leaves_days_to_a_run_that_builds_their_usage_and_books_it(
        self, world: World, instance: dg.DagsterInstance
    ):
        world.charges.unbooked = march(1, 2, 3)
        leave_on_its_way(instance, "build_request_usage", {"dagster/partition": "2026-03-02"})
        assert requested_days(tick(world, instance, unbooked_usage)) == [[1], [3]]

    def test_waits_for_a_catalog(self, world: World, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch):
        def no_catalog():
            raise CatalogNotLoadedError("none", bill="nothing", fix="load it")

        monkeypatch.setattr(world.charges, "unbooked_days", no_catalog)
        assert tick(world, instance, unbooked_usage) == []


class TestFailedRun:
    def plan(self, instance: dg.DagsterInstance, now: datetime):
        return plan_runs(
            instance, asset="usage/api_requests", job="build_request_usage", due=march(1), now=now, at_most=5
        )

    def test_is_requested_again_after_a_wait_under_a_new_key(self, world: World, instance: dg.DagsterInstance):
        world.usage.stale = march(1)
        (first,) = tick(world, instance, stale_usage)
        world.usage.failures = [ValueError("a fault")]
        assert not launch(world, instance, first).success
        assert tick(world, instance, stale_usage) == []
        (second,) = self.plan(instance, datetime.now(UTC) + FIRST_WAIT).requests
        assert second.run_key != first.run_key
        assert launch(world, instance, second).success
        assert world.usage.built == [(date(2026, 3, 1),)]

    def test_waits_longer_each_time_but_never_for_ever(self, world: World, instance: dg.DagsterInstance):
        world.usage.stale = march(1)
        (request,) = tick(world, instance, stale_usage)
        waits = []
        for _ in range(9):
            world.usage.failures = [ValueError("a fault")]
            launch(world, instance, request)
            now = datetime.now(UTC)
            waits.append(
                next(
                    minutes
                    for minutes in range(1, 120)
                    if self.plan(instance, now + timedelta(minutes=minutes, seconds=1)).requests
                )
            )
        assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]

    def test_does_not_hold_up_other_days(self, world: World, instance: dg.DagsterInstance):
        world.usage.stale = march(1)
        world.usage.failures = [ValueError("a fault")]
        (first,) = tick(world, instance, stale_usage)
        launch(world, instance, first)
        world.usage.stale = march(1, 7)
        assert requested_days(tick(world, instance, stale_usage)) == [[7]]


class TestBuildYesterday:
    def request(self, world: World, at: datetime) -> dg.RunRequest:
        with dg.build_schedule_context(scheduled_execution_time=at) as context:
            (request,) = build_yesterday.evaluate_tick(context).run_requests
        return request

    def test_requests_the_whole_chain_of_yesterday(self, world: World, instance: dg.DagsterInstance):
        request = self.request(world, datetime(2026, 3, 1, 0, 30, tzinfo=UTC))
        assert request.partition_key == "2026-02-28"
        assert world.run("daily_billing", instance, request.partition_key).success
        assert world.charges.booked == [(date(2026, 2, 28),)]

    def test_requests_one_run_a_tick_however_often_it_is_evaluated(self, world: World):
        at = datetime(2026, 3, 1, 0, 30, tzinfo=UTC)
        assert self.request(world, at).run_key == self.request(world, at).run_key == "2026-02-28"

    def test_runs_half_an_hour_after_midnight_utc(self):
        assert build_yesterday.cron_schedule == "30 0 * * *"
        assert build_yesterday.execution_timezone == "UTC"


class TestAlertOnFailure:
    def alert(self, world: World, instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult) -> None:
        run = instance.get_run_by_id(result.run_id)
        assert run is not None
        context = dg.build_run_status_sensor_context(
            sensor_name="alert_on_failure",
            dagster_event=result.get_run_failure_event(),
            dagster_instance=instance,
            dagster_run=run,
            resources={"alerts": world.alerts},
        ).for_run_failure()
        alert_on_failure(context)

    def test_tells_what_failed_over_which_days_and_why_once(self, world: World, instance: dg.DagsterInstance):
        world.usage.failures = [ValueError("the lake is gone")]
        result = world.run("backfill_usage", instance, "2026-03-01", "2026-03-02")
        self.alert(world, instance, result)
        self.alert(world, instance, result)
        ((phase, subject, message),) = world.alerts.told
        assert (phase, subject) == ("opened", "backfill_usage 2026-03-01..2026-03-02")
        assert "the lake is gone" in message
        assert world.alerts.evidence == [{"run_id": result.run_id, "failed_steps": ["usage__api_requests"]}]
        run = instance.get_run_by_id(result.run_id)
        assert run is not None
        assert ALERTED_TAG in run.tags

    def test_of_one_of_six_jobs_is_one_alert_and_its_run_is_kept_and_marked(
        self, world: World, instance: dg.DagsterInstance
    ):
        """DH-17."""
        jobs = (
            "ingest_storage",
            "ingest_deliveries",
            "collect_traffic",
            "backfill_usage",
            "book_charges",
            "daily_billing",
        )
        results = {}
        for job in jobs:
            if job == "backfill_usage":
                world.usage.failures = [ValueError("the lake is gone")]
            results[job] = world.run(job, instance, "2026-03-01")
        (failed,) = [job for job in jobs if not results[job].success]
        # the sensor ticks again
        for _ in range(3):
            self.alert(world, instance, results[failed])
            self.watch(world, instance)
        assert [(phase, subject) for phase, subject, _ in world.alerts.told] == [
            ("opened", "backfill_usage 2026-03-01")
        ]
        marked = {job for job in jobs if ALERTED_TAG in instance.get_run_by_id(results[job].run_id).tags}
        assert marked == {failed} == {"backfill_usage"}

    def test_is_one_incident_for_all_failures_of_the_same_days(self, world: World, instance: dg.DagsterInstance):
        """DH-17: evidence of each is kept, people are told once."""
        world.usage.failures = [ValueError("the lake is gone"), ValueError("the lake is still gone")]
        for _ in range(2):
            self.alert(world, instance, world.run("backfill_usage", instance, "2026-03-01", "2026-03-02"))
        assert len(world.alerts.told) == 1
        assert len(world.alerts.evidence) == 2

    def test_is_over_when_the_job_has_run_over_the_same_days(self, world: World, instance: dg.DagsterInstance):
        world.usage.failures = [ValueError("the lake is gone")]
        self.alert(world, instance, world.run("backfill_usage", instance, "2026-03-01", "2026-03-02"))
        assert world.run("backfill_usage", instance, "2026-03-01").success
        self.watch(world, instance)
        assert [phase for phase, _, _ in world.alerts.told] == ["opened"]
        good = world.run("backfill_usage", instance, "2026-03-01", "2026-03-03")
        for _ in range(2):
            self.watch(world, instance)
        phases = [(phase, message) for phase, _, message in world.alerts.told]
        assert phases[1:] == [("closed", f"Run {good.run_id} did it.")]

    def test_of_some_assets_is_over_when_those_have_run(self, world: World, instance: dg.DagsterInstance):
        """Materialized by hand, every run has the same job's name."""
        world.usage.failures = [ValueError("the lake is gone")]
        usage, others = ["usage/api_requests"], ["usage/traffic"]
        self.alert(world, instance, world.run("backfill_usage", instance, "2026-03-01", assets=usage))
        assert world.alerts.told[0][1] == "backfill_usage:usage/api_requests 2026-03-01"
        assert world.run("backfill_usage", instance, "2026-03-01", assets=others).success
        self.watch(world, instance)
        assert len(world.alerts.told) == 1
        assert world.run("backfill_usage", instance, "2026-03-01", assets=[*usage, *others]).success
        self.watch(world, instance)
        assert [phase for phase, _, _ in world.alerts.told] == ["opened", "closed"]

    def test_of_a_check_that_only_dagster_knows_is_told_until_it_passes(
        self, world: World, instance: dg.DagsterInstance
    ):
        """The run itself succeeds: nobody would look."""
        for _ in range(2):
            world.invoices.failed = {"acme": "two currencies"}
            assert world.run("compile_invoices", instance, None).success
            self.watch(world, instance)
        ((phase, subject, message),) = world.alerts.told
        assert (phase, subject) == ("opened", "invoicing/items every_account_compiled")
        assert "To fix" in message
        world.invoices.failed = {}
        some = {"ops": {"invoicing__items": {"config": {"accounts": ["beta"]}}}}
        world.defs.resolve_job_def("compile_invoices").execute_in_process(run_config=some, instance=instance)
        self.watch(world, instance)
        assert len(world.alerts.told) == 1
        assert world.run("compile_invoices", instance, None).success
        self.watch(world, instance)
        assert world.alerts.told[1][:2] == ("closed", "invoicing/items every_account_compiled")

    def test_of_a_check_stays_as_it_was_while_its_newest_run_died_before_it(
        self, world: World, instance: dg.DagsterInstance
    ):
        world.invoices.failed = {"acme": "two currencies"}
        assert world.run("compile_invoices", instance, None).success
        self.watch(world, instance)
        world.invoices.error = RuntimeError("killed")
        assert not world.run("compile_invoices", instance, None).success
        for _ in range(2):
            self.watch(world, instance)
        assert [(phase, subject) for phase, subject, _ in world.alerts.told] == [
            ("opened", "invoicing/items every_account_compiled")
        ]
        assert world.alerts.rounds == 3

    def watch(self, world: World, instance: dg.DagsterInstance) -> None:
        context = dg.build_sensor_context(instance=instance, resources=world.defs.resources)
        assert isinstance(alert_on_conditions(context), dg.SkipReason)

    def test_conditions_are_told_once_and_when_they_end(self, world: World, instance: dg.DagsterInstance):
        dead = Condition(subject="stripe invoice in_1", message="dead")
        world.conditions.found[IncidentKind.DEAD_LETTER] = [dead]
        for _ in range(3):
            self.watch(world, instance)
        assert world.alerts.told == [("opened", "stripe invoice in_1", "dead")]
        world.conditions.found.clear()
        self.watch(world, instance)
        assert [phase for phase, _, _ in world.alerts.told] == ["opened", "closed"]
        assert world.alerts.rounds == 4

    def test_is_on_without_being_switched_on(self):
        assert alert_on_failure.default_status is dg.DefaultSensorStatus.RUNNING
        assert alert_on_conditions.default_status is dg.DefaultSensorStatus.RUNNING
