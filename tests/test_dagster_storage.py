"""Evaluations of checks are stored together, as Dagster stores them one by one: rows, order, failures, and a process that dies."""

import os
import signal
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
from dagster import AssetCheckEvaluation
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationPlanned,
    AssetCheckEvaluationTargetMaterializationData,
)
from dagster._core.errors import DagsterInvariantViolationError
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus as Status
from dagster_postgres.event_log.event_log import PostgresEventLogStorage
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event as sqlalchemy_event

from assets import dagster_storage
from assets.dagster_storage import EventsInBulk, PooledPostgresStorage
from assets.partitions import DAYS
from resources.runtime import dagster_database_url
from tests.conftest import administer, database_url

USAGE = dg.AssetKey(["usage", "api_requests"])
DAY = "2026-03-01"
RANGE = [f"2026-03-{day:02}" for day in range(1, 31)]
# A check that a run has planned for the range, one planned without days, one that nobody planned.
PLANNED, WHOLE, UNPLANNED = "no_conflict", "catalog_loaded", "made_up"


@pytest.fixture(scope="module")
def url(postgres_url: str) -> Iterator[str]:
    name = f"dagster_test_{uuid.uuid4().hex[:12]}"
    administer(postgres_url, f'create database "{name}"')
    yield database_url(postgres_url, name)
    administer(postgres_url, f'drop database "{name}" with (force)')


def opened(url: str) -> EventsInBulk:
    storage = PooledPostgresStorage.from_config_value(None, {"postgres_url": dagster_database_url(url)})
    events = storage.event_log_storage
    assert isinstance(events, EventsInBulk)
    return events


@pytest.fixture(scope="module")
def storage(url: str) -> Iterator[EventsInBulk]:
    storage = opened(url)
    yield storage
    storage.dispose()
    storage._engine.dispose()


def entry(run_id: str, kind: DagsterEventType, data: object, number: int = 0) -> dg.EventLogEntry:
    return dg.EventLogEntry(
        error_info=None,
        level=10,
        user_message="",
        run_id=run_id,
        timestamp=1_772_323_200.0 + number,
        step_key="guards",
        dagster_event=DagsterEvent(
            event_type_value=kind.value, job_name="job", step_key="guards", event_specific_data=data
        ),  # type: ignore[arg-type]
    )


def evaluation(
    run_id: str, check: str, partition: str | None, *, passed: bool = True, number: int = 0, judged: int | None = None
) -> dg.EventLogEntry:
    target = (
        AssetCheckEvaluationTargetMaterializationData(storage_id=judged, run_id=run_id, timestamp=0.0)
        if judged
        else None
    )
    found = AssetCheckEvaluation(
        asset_key=USAGE,
        check_name=check,
        partition=partition,
        passed=passed,
        metadata={"of": dg.TextMetadataValue(f"{check} {partition} {number}")},
        target_materialization_data=target,
    )
    return entry(run_id, DagsterEventType.ASSET_CHECK_EVALUATION, found, number)


def other(run_id: str, number: int) -> dg.EventLogEntry:
    return entry(run_id, DagsterEventType.STEP_START, None, number)


def plan(storage: EventsInBulk, run_id: str, check: str, days: Sequence[str]) -> None:
    subset = DAYS.subset_with_partition_keys(days).to_serializable_subset() if days else None
    data = AssetCheckEvaluationPlanned(asset_key=USAGE, check_name=check, partitions_subset=subset)
    storage.store_event(entry(run_id, DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED, data))


def new_run(storage: EventsInBulk) -> str:
    run_id = str(uuid.uuid4())
    plan(storage, run_id, PLANNED, RANGE)
    plan(storage, run_id, WHOLE, ())
    return run_id


def stored(url: str, run_id: str) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Return the run's events in their order, and what is known of its checks, as another process sees them."""
    with psycopg.connect(url) as connection:
        events = connection.execute(
            "select dagster_event_type, step_key, asset_key, partition, timestamp, replace(event, %s, '') from event_logs"
            " where run_id = %s order by id",
            [run_id, run_id],
        ).fetchall()
        checks = connection.execute(
            "select check_name, execution.asset_key, execution.partition, execution_status, evaluation_event_timestamp,"
            " materialization_event_storage_id, replace(evaluation_event, %s, ''),"
            " evaluation_event = event as is_of_its_event"
            " from asset_check_executions as execution join event_logs on event_logs.id = evaluation_event_storage_id"
            " where execution.run_id = %s order by 1, 3 nulls first",
            [run_id, run_id],
        ).fetchall()
    return events, checks


def statuses(url: str, run_id: str, check: str = PLANNED) -> list[str]:
    return [row[3] for row in stored(url, run_id)[1] if row[0] == check]


def statements(storage: EventsInBulk, work: Callable[[], None]) -> int:
    found: list[str] = []

    def note(*arguments: Any) -> None:
        found.append(arguments[2])

    sqlalchemy_event.listen(storage._engine, "before_cursor_execute", note)
    try:
        work()
    finally:
        sqlalchemy_event.remove(storage._engine, "before_cursor_execute", note)
    return len(found)


class TestEvaluations:
    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        told=st.lists(
            st.one_of(
                st.just("other"),
                st.tuples(st.just(PLANNED), st.sampled_from(RANGE[:4]), st.booleans(), st.none() | st.integers(1, 9)),
                st.tuples(st.just(WHOLE), st.none(), st.booleans(), st.none()),
                st.tuples(st.just(UNPLANNED), st.sampled_from([None, *RANGE[:2]]), st.booleans(), st.none()),
            ),
            max_size=12,
        ),
        at_once=st.sampled_from([2, 3, 500]),
    )
    def test_together_leave_what_dagster_leaves_of_each(
        self, storage: EventsInBulk, url: str, told: Sequence[Any], at_once: int
    ) -> None:
        found = []
        for is_bulk in (True, False):
            run_id = new_run(storage)
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(dagster_storage, "EVALUATIONS_AT_ONCE", at_once)
                for number, one in enumerate([*told, "other"]):
                    if one == "other":
                        event = other(run_id, number)
                    else:
                        check, partition, passed, judged = one
                        event = evaluation(run_id, check, partition, passed=passed, number=number, judged=judged)
                    if is_bulk:
                        storage.store_event(event)
                    else:
                        PostgresEventLogStorage.store_event(storage, event)
            found.append(stored(url, run_id))
        assert found[0] == found[1]
        assert all(row[-1] for row in found[0][1])

    def test_of_a_range_take_a_few_statements(self, storage: EventsInBulk, url: str) -> None:
        run_id = new_run(storage)

        def judge() -> None:
            for number, day in enumerate(RANGE):
                storage.store_event(evaluation(run_id, PLANNED, day, number=number))
            storage.store_event(other(run_id, 99))

        assert statements(storage, judge) < 10
        assert statuses(url, run_id) == [Status.SUCCEEDED.value] * len(RANGE)

    def test_are_there_for_whoever_reads_in_this_process(self, storage: EventsInBulk) -> None:
        run_id = new_run(storage)
        storage.store_event(evaluation(run_id, PLANNED, DAY))
        history = storage.get_asset_check_execution_history(dg.AssetCheckKey(USAGE, PLANNED), limit=1000)
        assert [one.status for one in history if (one.run_id, one.partition) == (run_id, DAY)] == [Status.SUCCEEDED]
        storage.store_event(evaluation(run_id, WHOLE, None))
        kinds = [one.dagster_event_type for one in storage.get_logs_for_run(run_id)]
        assert kinds.count(DagsterEventType.ASSET_CHECK_EVALUATION) == 2

    def test_do_not_wait_long_for_others(
        self, storage: EventsInBulk, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run_id = new_run(storage)
        storage.store_event(evaluation(run_id, PLANNED, RANGE[0]))
        assert statuses(url, run_id).count(Status.PLANNED.value) == 30
        monkeypatch.setattr(dagster_storage, "SECONDS_TO_JOIN", 0.0)
        storage.store_event(evaluation(run_id, PLANNED, RANGE[1]))
        assert statuses(url, run_id).count(Status.PLANNED.value) == 28

    def test_are_stored_when_the_storage_is_closed(self, url: str) -> None:
        storage = opened(url)
        run_id = new_run(storage)
        storage.store_event(evaluation(run_id, PLANNED, DAY))
        storage.dispose()
        storage._engine.dispose()
        assert statuses(url, run_id)[0] == Status.SUCCEEDED.value


class TestFailures:
    def test_of_one_evaluation_are_raised_once_and_cost_no_other(self, storage: EventsInBulk, url: str) -> None:
        run_id = new_run(storage)
        # Only a check without days can be planned twice.
        plan(storage, run_id, WHOLE, ())
        storage.store_event(evaluation(run_id, UNPLANNED, DAY, number=1))
        storage.store_event(evaluation(run_id, WHOLE, None, number=2))
        storage.store_event(evaluation(run_id, UNPLANNED, RANGE[1], number=3))
        with pytest.raises(DagsterInvariantViolationError, match="duplicate"):
            storage.store_event(other(run_id, 4))
        storage.store_event(other(run_id, 5))
        assert statuses(url, run_id, UNPLANNED) == [Status.SUCCEEDED.value] * 2
        seconds = [row[4].second for row in stored(url, run_id)[0] if "PLANNED" not in row[0]]
        assert seconds == [1, 2, 3, 5]

    def test_of_the_database_lose_nothing_that_waits_behind(
        self, storage: EventsInBulk, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run_id = new_run(storage)
        for number, day in enumerate(RANGE[:3]):
            storage.store_event(evaluation(run_id, PLANNED, day, number=number))
        with monkeypatch.context() as patched:
            # The answer fails, after the events were inserted.
            patched.setattr(dagster_storage, "_ANSWER_PLANNED", "select 1 / 0")
            storage.store_event(other(run_id, 9))
        assert statuses(url, run_id)[:3] == [Status.SUCCEEDED.value] * 3
        events = [row for row in stored(url, run_id)[0] if "PLANNED" not in row[0]]
        assert [row[4].second for row in events] == [0, 1, 2, 9]

    def test_kill_of_the_process_leaves_planned_what_the_next_run_answers(
        self, storage: EventsInBulk, url: str, tmp_path: Path
    ) -> None:
        run_id = new_run(storage)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # the child neither holds nor waits for a lock of a thread
            child = os.fork()
        if child == 0:
            try:
                own = opened(url)
                own.store_event(evaluation(run_id, PLANNED, RANGE[0]))
                own.store_event(other(run_id, 1))
                own.store_event(evaluation(run_id, PLANNED, RANGE[1]))
                os.kill(os.getpid(), signal.SIGKILL)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status)
        assert statuses(url, run_id)[:3] == [Status.SUCCEEDED.value, Status.PLANNED.value, Status.PLANNED.value]
        for day in RANGE:
            storage.store_event(evaluation(run_id, PLANNED, day))
        storage.store_event(other(run_id, 2))
        assert statuses(url, run_id) == [Status.SUCCEEDED.value] * len(RANGE)
