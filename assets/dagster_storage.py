"""Dagster's PostgreSQL storage, fast enough for ranges. Named in dagster.yaml; nothing of ours imports it.

Outside its web server Dagster opens a connection for each statement, and waits for the disk after each. A run over 400 days
writes 4,800 events: with connections held open and commits that do not wait it took a seventh of the time (22 s instead of
169 s on a busy machine, ADR 0008). What a run plans is written by a few statements instead of three for each day.
Not here: what is stored (dagster-postgres).
"""

from collections.abc import Sequence
from typing import Any

from dagster import DagsterEventType, EventLogEntry
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, SqlEventLogStorageTable
from dagster._serdes import ConfigurableClassData, serialize_value
from dagster_postgres.event_log.event_log import PostgresEventLogStorage
from dagster_postgres.storage import DagsterPostgresStorage
from dagster_postgres.utils import get_token_provider_from_config, pg_url_from_config
from sqlalchemy import make_url

# A connection is left after a while, in case the server or a proxy has given it up.
RECYCLE_SECONDS = 1800
# Threads of the daemon beyond the first one.
MORE_CONNECTIONS = 20
NO_TIMEOUT = 0
# A server that crashes may lose the last half second of run history. No bill is computed from it.
OPTIONS = "-c synchronous_commit=off"


class PlansInBulk(PostgresEventLogStorage):
    """Dagster's event log that stores the plan of a range as it stores its materializations: all days at once."""

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
        storage._event_log_storage = PlansInBulk(postgres_url, creates_tables, token_provider=token_provider)
        for part in (storage.event_log_storage, storage.run_storage, storage.schedule_storage):
            part.optimize_for_webserver(
                statement_timeout=NO_TIMEOUT, pool_recycle=RECYCLE_SECONDS, max_overflow=MORE_CONNECTIONS
            )
        return storage
