"""DuckDB as the engine for record-sized SQL: one in-memory connection per job, spilling below the scratch folder.

`sql(name)` returns the text of `billing_pipeline/sql/<name>.sql`; `run` executes it, parsed once for all days of a process.
Not here: what the SQL says.
"""

import atexit
import secrets
from functools import cache
from importlib import resources
from pathlib import Path

import duckdb


def connect(scratch_dir: Path, memory_limit: str = "1GB", threads: int = 2) -> duckdb.DuckDBPyConnection:
    """Return a new in-memory database in UTC. The caller closes it; its spill folder goes with it.

    The spill folder is the connection's own: DuckDB's file names in it are the same in every process.
    `memory_limit` is DuckDB's spelling, such as `1GB`.
    """
    scratch_dir.mkdir(parents=True, exist_ok=True)
    connection = duckdb.connect(
        ":memory:",
        config={
            "threads": threads,
            "memory_limit": memory_limit,
            "temp_directory": str(scratch_dir / f"duckdb-{secrets.token_hex(8)}"),
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,
        },
    )
    connection.execute("set TimeZone = 'UTC'")
    return connection


def run(connection: duckdb.DuckDBPyConnection, name: str) -> duckdb.DuckDBPyConnection:
    """Execute the statements of `sql(name)` and return the last one's result."""
    if name not in _PARSED:
        _PARSED[name] = connection.extract_statements(sql(name))
    for statement in _PARSED[name]:
        connection.execute(statement)
    return connection


# A statement is copied when it is executed, and belongs to no connection. DuckDB complains of what is left at the end of a process.
_PARSED: dict[str, list[duckdb.Statement]] = {}
atexit.register(_PARSED.clear)


@cache
def sql(name: str) -> str:
    """Return the SQL text kept as `billing_pipeline/sql/<name>.sql`."""
    return resources.files("billing_pipeline").joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")
