"""The yardstick: a tool merely reads the same files, every value of every column, and keeps nothing."""

from typing import Any

from bench.task import Stopwatch, Task

_COLUMNS = {
    "request_id": "VARCHAR",
    "client_id": "VARCHAR",
    "timestamp": "TIMESTAMP",
    "endpoint": "VARCHAR",
    "method": "VARCHAR",
    "status_code": "SMALLINT",
    "response_time_ms": "DOUBLE",
    "is_real_vehicle": "BOOLEAN",
}
_TEXTS = ("request_id", "client_id", "endpoint", "method")


def parse_json(task: Task, stopwatch: Stopwatch) -> dict[str, Any]:
    """Let DuckDB parse gzip JSON lines with declared columns, on all cores, with its own defaults."""
    import duckdb

    texts = ", ".join(f"max({name})" for name in _TEXTS)
    query = f"""
        select count(*), {texts}, max(timestamp), sum(status_code), sum(response_time_ms), sum(is_real_vehicle::integer)
        from read_json($files, format = 'newline_delimited', columns = {_COLUMNS})
    """
    with stopwatch.part("parse"), duckdb.connect(":memory:") as connection:
        rows = connection.execute(query, {"files": list(task.files)}).fetchall()[0][0]
    return {"rows": rows, "version": duckdb.__version__}


def scan_avro(task: Task, stopwatch: Stopwatch) -> dict[str, Any]:
    """Let polars read Avro whole, which is its only way; DuckDB has no Avro reader without a download."""
    import polars

    with stopwatch.part("parse"):
        rows = 0
        for file in task.files:
            frame = polars.read_avro(file)
            rows += frame.height
            frame.select(
                *(polars.col(name).max() for name in (*_TEXTS, "timestamp")),
                *(polars.col(name).sum() for name in ("status_code", "response_time_ms", "is_real_vehicle")),
            )
    return {"rows": rows, "version": polars.__version__}
