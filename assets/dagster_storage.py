"""Dagster's PostgreSQL storage with its connections held open. Named in dagster.yaml; nothing of ours imports it.

Dagster opens a connection for each statement outside its web server: an event of a run takes 17 ms, of which 3 are the event. A
range writes thousands of events, so that costs more than its data. Not here: what is stored (dagster-postgres).
"""

from typing import Any

from dagster._serdes import ConfigurableClassData
from dagster_postgres.storage import DagsterPostgresStorage
from dagster_postgres.utils import get_token_provider_from_config, pg_url_from_config

# A connection is left after a while, in case the server or a proxy has given it up.
RECYCLE_SECONDS = 1800
# Threads of the daemon beyond the first one.
MORE_CONNECTIONS = 20
NO_TIMEOUT = 0


class PooledPostgresStorage(DagsterPostgresStorage):
    """`DagsterPostgresStorage` that keeps one connection per storage open, as Dagster's web server does."""

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> "PooledPostgresStorage":
        """Return the storage that dagster.yaml describes. Opens no connection yet beyond creating missing tables."""
        storage = cls(
            postgres_url=pg_url_from_config(config_value),
            should_autocreate_tables=config_value.get("should_autocreate_tables", True),
            inst_data=inst_data,
            token_provider=get_token_provider_from_config(config_value),
        )
        for part in (storage.event_log_storage, storage.run_storage, storage.schedule_storage):
            part.optimize_for_webserver(
                statement_timeout=NO_TIMEOUT, pool_recycle=RECYCLE_SECONDS, max_overflow=MORE_CONNECTIONS
            )
        return storage
