"""How many rows a second `copy_arrow` brings into PostgreSQL, into the usage table and into a table without keys."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pyarrow as pa

from bench.catalog import COUNT_METER, TEMPLATES
from bench.request_data import account_id, client_id
from bench.task import Stopwatch, Task
from resources.database import Database, copy_arrow

_BATCH_ROWS = 65_536
_DAY = date(2026, 3, 1)


def load_rows(task: Task, stopwatch: Stopwatch) -> dict[str, Any]:
    """Load the same rows into both tables, in the order of the key, each in one committed transaction."""
    table = _usage_rows(int(task.options["rows"]))
    with psycopg.connect(task.database_url) as connection:
        connection.execute("create table usage.plain (like usage.api_requests)")
        connection.execute("grant all on usage.plain to billing_writer")
    database = Database(task.database_url)
    for target in ("usage.plain", "usage.api_requests"):
        with stopwatch.part(target), database.transaction() as connection:
            rows = copy_arrow(connection, target, table.to_batches(_BATCH_ROWS))
            if rows != table.num_rows:
                raise AssertionError(f"{rows} of {table.num_rows} rows in {target}")
    return {"rows": table.num_rows}


def _usage_rows(rows: int) -> pa.Table:
    """Return usage rows of one day, ordered by the primary key: accounts, then hours, then endpoints."""
    midnight = datetime(_DAY.year, _DAY.month, _DAY.day, tzinfo=UTC)
    each = 24 * len(TEMPLATES)
    endpoints = sorted(TEMPLATES)
    numbers = range(rows)
    hours = [midnight + timedelta(hours=number % each // len(TEMPLATES)) for number in numbers]
    return pa.table(
        {
            "event_day": pa.array([_DAY] * rows, pa.date32()),
            "account_id": [account_id(number // each) for number in numbers],
            "meter_id": [COUNT_METER] * rows,
            "period_start": pa.array(hours, pa.timestamp("us", "UTC")),
            "period_end": pa.array([hour + timedelta(hours=1) for hour in hours], pa.timestamp("us", "UTC")),
            "endpoint": [endpoints[number % len(TEMPLATES)] for number in numbers],
            "method": ["GET"] * rows,
            "client_id": [client_id(number // each) for number in numbers],
            "quantity": pa.array([Decimal(number % 977 + 1) for number in numbers], pa.decimal128(38, 9)),
            "unit": ["request"] * rows,
            "request_count": pa.array([number % 977 + 1 for number in numbers], pa.int64()),
        }
    )
