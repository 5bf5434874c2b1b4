"""Dagster's PostgreSQL storage, fast enough for ranges. Named in dagster.yaml; nothing of ours imports it.

Outside its web server Dagster opens a connection for each statement, and waits for the disk after each. A run over 400 days
writes 4,800 events: with connections held open and commits that do not wait it took a seventh of the time (22 s instead of
169 s on a busy machine, ADR 0008). Not here: what is stored (dagster-postgres).
"""

from typing import Any

from dagster._serdes import ConfigurableClassData
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


class PooledPostgresStorage(DagsterPostgresStorage):
    """`DagsterPostgresStorage` that keeps connections open, as Dagster's web server does, and does not wait for the disk."""

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> "PooledPostgresStorage":
        """Return the storage that dagster.yaml describes. Opens no connection yet beyond creating missing tables."""
        url = make_url(pg_url_from_config(config_value))
        options = f"{url.query.get('options', '')} {OPTIONS}".strip()
        storage = cls(
            postgres_url=url.update_query_dict({"options": options}).render_as_string(hide_password=False),
            should_autocreate_tables=config_value.get("should_autocreate_tables", True),
            inst_data=inst_data,
            token_provider=get_token_provider_from_config(config_value),
        )
        for part in (storage.event_log_storage, storage.run_storage, storage.schedule_storage):
            part.optimize_for_webserver(
                statement_timeout=NO_TIMEOUT, pool_recycle=RECYCLE_SECONDS, max_overflow=MORE_CONNECTIONS
            )
        return storage
