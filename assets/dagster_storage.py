"""Dagster's PostgreSQL storage, fast enough for ranges. Named in dagster.yaml; nothing of ours imports it.

Outside its web server Dagster opens a connection for each statement, and waits for the disk after each. A run over 400 days
writes 4,800 events: with connections held open and commits that do not wait it took a seventh of the time (22 s instead of
169 s on a busy machine, ADR 0008). What a run plans, does and judges is written by a few statements instead of three for each day.
Not here: what is stored (dagster-postgres).
"""

import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from dagster import AssetCheckEvaluation, DagsterEventType, EventLogEntry
from dagster._core.errors import DagsterInvariantViolationError
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, SqlEventLogStorageTable
from dagster._serdes import ConfigurableClassData, serialize_value
from dagster_postgres.event_log.event_log import PostgresEventLogStorage
from dagster_postgres.storage import DagsterPostgresStorage
from dagster_postgres.utils import get_token_provider_from_config, pg_url_from_config
from sqlalchemy import Connection, DateTime, Text, cast, func, make_url, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import SQLAlchemyError

# A connection is left after a while, in case the server or a proxy has given it up.
RECYCLE_SECONDS = 1800
# Threads of the daemon beyond the first one.
MORE_CONNECTIONS = 20
NO_TIMEOUT = 0
# A server that crashes may lose the last half second of run history. No bill is computed from it.
OPTIONS = "-c synchronous_commit=off"
# Evaluations of checks that wait to be stored together, and for how long another one may join them.
EVALUATIONS_AT_ONCE = 500
SECONDS_TO_JOIN = 1.0

_ANSWER_PLANNED = """
    update asset_check_executions as planned set
        execution_status = found.status,
        evaluation_event = found.event,
        evaluation_event_timestamp = found.at,
        evaluation_event_storage_id = found.event_id,
        materialization_event_storage_id = found.materialization_id
    from unnest(
        %(asset_key)s::text[], %(check_name)s::text[], %(partition)s::text[], %(run_id)s::text[], %(status)s::text[],
        %(event)s::text[], %(at)s::timestamp[], %(event_id)s::bigint[], %(materialization_id)s::bigint[]
    ) with ordinality as found (
        asset_key, check_name, partition, run_id, status, event, at, event_id, materialization_id, position
    )
    where planned.asset_key = found.asset_key
        and planned.check_name = found.check_name
        and planned.run_id = found.run_id
        and planned.partition is not distinct from found.partition
    returning found.position
"""


class EventsInBulk(PostgresEventLogStorage):
    """Dagster's event log that stores what a range plans, and what its checks find, as its materializations: all days at once.

    An evaluation waits for those that follow it. Whatever else is stored or read by this process, they are stored first, so
    that events keep their order and nothing that was told is missed. Dagster ends each step with an event of its own: a
    process that is killed before has lost the evaluations of a step that did not end, and its run has failed.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        # Before Dagster's, which connects.
        self._lock = threading.RLock()
        self._waiting: dict[tuple[object, ...], EventLogEntry] = {}
        self._waiting_since = 0.0
        self._is_storing = False
        super().__init__(*arguments, **named)

    def store_event(self, event: EventLogEntry) -> None:
        """Store an event, an evaluation of a check in a run together with those that follow it."""
        if event.dagster_event_type is not DagsterEventType.ASSET_CHECK_EVALUATION or not event.run_id:
            super().store_event(event)
            return
        evaluation = _evaluation(event)
        key = event.run_id, evaluation.asset_key, evaluation.check_name, evaluation.partition
        with self._lock:
            if key in self._waiting:
                # One statement answers a planned entry once.
                self.store_waiting()
            if not self._waiting:
                self._waiting_since = time.monotonic()
            self._waiting[key] = event
            is_late = time.monotonic() - self._waiting_since >= SECONDS_TO_JOIN
            if is_late or len(self._waiting) >= EVALUATIONS_AT_ONCE:
                self.store_waiting()

    def store_waiting(self) -> None:
        """Store the evaluations that wait: all at once, or where that fails one by one, as Dagster does.

        Raises what storing one of them raises; those behind it wait on.
        """
        with self._lock:
            if not self._waiting or self._is_storing:
                return
            self._is_storing = True
            try:
                self._store_evaluations(list(self._waiting.values()))
                self._waiting.clear()
            except (SQLAlchemyError, DagsterInvariantViolationError):
                # Nothing of it was stored.
                while self._waiting:
                    super().store_event(self._waiting.pop(next(iter(self._waiting))))
            finally:
                self._is_storing = False

    def dispose(self) -> None:
        """Store what waits, and let go."""
        self.store_waiting()
        super().dispose()

    def _connect(self) -> AbstractContextManager[Connection]:
        # Everything that is written or read goes through here.
        self.store_waiting()
        return super()._connect()

    def prepare_insert_event_batch(self, events: Sequence[EventLogEntry]) -> Any:
        """Return one insert of all events in their order, with a parameter for each column instead of one for each value."""
        rows = [self._event_to_row(event) for event in events]
        columns = [SqlEventLogStorageTable.c[name] for name in rows[0]]
        given = (
            func.unnest(
                *(
                    cast([row[column.name] for row in rows], ARRAY(DateTime if column.name == "timestamp" else Text))
                    for column in columns
                )
            )
            .table_valued(*(column.name for column in columns), with_ordinality="position")
            .render_derived()
        )
        values = select(*(given.c[column.name] for column in columns)).order_by(given.c.position)
        return SqlEventLogStorageTable.insert().from_select([column.name for column in columns], values)

    def _store_evaluations(self, events: Sequence[EventLogEntry]) -> None:
        """Store evaluations, and answer what was planned of them, in one transaction."""
        with self.index_transaction() as connection:
            statement = self.prepare_insert_event_batch(events).returning(SqlEventLogStorageTable.c.id)
            ids = [row[0] for row in connection.execute(statement)]
            rows = [self._execution_of(event, event_id) for event, event_id in zip(events, ids, strict=True)]
            columns = {name: [row[name] for row in rows] for name in rows[0]}
            answered = [row[0] for row in connection.exec_driver_sql(_ANSWER_PLANNED, columns)]
            if len(answered) > len(set(answered)):
                raise DagsterInvariantViolationError("a check was planned twice")
            if unplanned := [rows[number - 1] for number in sorted(set(range(1, len(rows) + 1)) - set(answered))]:
                connection.execute(AssetCheckExecutionsTable.insert(), [_unplanned(row) for row in unplanned])

    def _execution_of(self, event: EventLogEntry, event_id: int) -> dict[str, Any]:
        evaluation = _evaluation(event)
        judged = evaluation.target_materialization_data
        status = (
            AssetCheckExecutionRecordStatus.SUCCEEDED if evaluation.passed else AssetCheckExecutionRecordStatus.FAILED
        )
        return {
            "asset_key": evaluation.asset_key.to_string(),
            "check_name": evaluation.check_name,
            "partition": evaluation.partition,
            "run_id": event.run_id,
            "status": status.value,
            "event": serialize_value(event),
            "at": self._event_insert_timestamp(event),  # type: ignore[no-untyped-call]
            "event_id": event_id,
            "materialization_id": judged.storage_id if judged else None,
        }

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Store events, the planned materializations among them first."""
        planned: list[EventLogEntry] = []
        others: list[EventLogEntry] = []
        for event in events:
            is_plan = event.dagster_event_type is DagsterEventType.ASSET_MATERIALIZATION_PLANNED
            (planned if is_plan else others).append(event)
        if planned:
            self._store_plan(planned)
        if others:
            super().store_event_batch(others)

    def _store_plan(self, events: Sequence[EventLogEntry]) -> None:
        with self._connect() as connection:
            statement = self.prepare_insert_event_batch(events).returning(SqlEventLogStorageTable.c.id)
            ids = [row[0] for row in connection.execute(statement)]
        # An asset's own row tells of its last event only.
        last = {
            event.get_dagster_event().asset_key: (event, event_id) for event, event_id in zip(events, ids, strict=True)
        }
        with self.index_transaction() as connection:
            self._store_asset_event_tags(connection, events, ids)
            for event, event_id in last.values():
                self._store_asset_event(connection, event, event_id)

    def _store_asset_check_evaluation_planned(self, event: EventLogEntry, event_id: int | None) -> None:
        planned: Any = event.get_dagster_event().event_specific_data
        subset = planned.partitions_subset
        row = {
            "asset_key": planned.asset_key.to_string(),
            "check_name": planned.check_name,
            "run_id": event.run_id,
            "execution_status": AssetCheckExecutionRecordStatus.PLANNED.value,
            "evaluation_event": serialize_value(event),
            "evaluation_event_timestamp": self._event_insert_timestamp(event),  # type: ignore[no-untyped-call]
            "evaluation_event_storage_id": event_id,
        }
        with self.index_connection() as connection:
            connection.execute(
                AssetCheckExecutionsTable.insert(),
                [{**row, "partition": key} for key in (subset.get_partition_keys() if subset else [None])],
            )


def _evaluation(event: EventLogEntry) -> AssetCheckEvaluation:
    found = event.get_dagster_event().event_specific_data
    assert isinstance(found, AssetCheckEvaluation)
    return found


def _unplanned(row: dict[str, Any]) -> dict[str, Any]:
    """Return an evaluation that nobody planned, as a row."""
    names = {
        "status": "execution_status",
        "event": "evaluation_event",
        "at": "evaluation_event_timestamp",
        "event_id": "evaluation_event_storage_id",
        "materialization_id": "materialization_event_storage_id",
    }
    return {names.get(name, name): value for name, value in row.items()}


class PooledPostgresStorage(DagsterPostgresStorage):
    """`DagsterPostgresStorage` that keeps connections open, as Dagster's web server does, and does not wait for the disk."""

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> "PooledPostgresStorage":
        """Return the storage that dagster.yaml describes. Opens no connection yet beyond creating missing tables."""
        url = make_url(pg_url_from_config(config_value))
        options = f"{url.query.get('options', '')} {OPTIONS}".strip()
        postgres_url = url.update_query_dict({"options": options}).render_as_string(hide_password=False)
        creates_tables = config_value.get("should_autocreate_tables", True)
        token_provider = get_token_provider_from_config(config_value)
        storage = cls(postgres_url, creates_tables, inst_data, token_provider)
        storage._event_log_storage = EventsInBulk(postgres_url, creates_tables, token_provider=token_provider)
        for part in (storage.event_log_storage, storage.run_storage, storage.schedule_storage):
            part.optimize_for_webserver(
                statement_timeout=NO_TIMEOUT, pool_recycle=RECYCLE_SECONDS, max_overflow=MORE_CONNECTIONS
            )
        return storage
