"""Write a day's storage rows over those that are there: only rows that differ are touched. In the caller's transaction.

Of all repositories of the days, or of some; so a late event rewrites the rows of its repository and its account, and no others. Not
here: making the rows (storage_scan).
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date

import psycopg
import pyarrow as pa
from psycopg import sql

from resources.database import copy_arrow


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageTable:
    """A table that is replaced by day: its key within the days, and its other columns."""

    name: str
    key: tuple[str, ...]
    values: tuple[str, ...]


STATES = StorageTable(
    name="usage.storage_state",
    key=("event_day", "repository", "segment_start"),
    values=("segment_end", "bytes", "visibility", "owner", "account_id", "byte_seconds", "basis"),
)
USAGE = StorageTable(
    name="usage.storage",
    key=("account_id", "meter_id", "period_start"),
    values=("event_day", "period_end", "quantity", "unit", "repository_count"),
)
DRIFTS = StorageTable(
    name="usage.storage_drift",
    key=("event_day", "repository", "bucket", "snapshot_at"),
    values=("derived_bytes", "snapshot_bytes", "drift_bytes", "derived_visibility", "snapshot_visibility",
            "visibility_mismatch", "unsized_events", "is_missing"),
)  # fmt: skip
BASES = StorageTable(
    name="usage.storage_base",
    key=("event_day", "repository", "bucket"),
    values=("began_on", "base_bytes", "base_visibility", "base_owner"),
)


def replace_days(
    connection: psycopg.Connection, table: StorageTable, days: Sequence[date], batches: Iterable[pa.RecordBatch]
) -> None:
    """Make `batches` the table's rows of `days`."""
    if not days:
        return
    name = sql.Identifier(*table.name.split("."))
    is_new = connection.execute(
        sql.SQL("select not exists (select from {} where event_day = any(%s))").format(name), (list(days),)
    ).fetchall()[0][0]
    if is_new:
        copy_arrow(connection, table.name, batches)
        return
    _replace(connection, table, sql.SQL("kept.event_day = any(%s)"), (list(days),), batches)


def replace_some(
    connection: psycopg.Connection,
    table: StorageTable,
    day: date,
    column: str,
    values: Collection[str],
    batches: Iterable[pa.RecordBatch],
) -> None:
    """Make `batches` the table's rows of `day` in which `column` has one of `values`."""
    which = sql.SQL("kept.event_day = %s and kept.{} = any(%s)").format(sql.Identifier(column))
    _replace(connection, table, which, (day, sorted(values)), batches)


def _replace(
    connection: psycopg.Connection,
    table: StorageTable,
    which: sql.Composable,
    parameters: tuple[object, ...],
    batches: Iterable[pa.RecordBatch],
) -> None:
    name = sql.Identifier(*table.name.split("."))
    staged = sql.Identifier(f"staged_{table.name.split('.')[1]}")
    columns = [*table.key, *table.values]
    names = {
        "table": name,
        "which": which,
        "staged": staged,
        "columns": sql.SQL(", ").join(map(sql.Identifier, columns)),
        "keys": sql.SQL(" and ").join(sql.SQL("kept.{0} = made.{0}").format(sql.Identifier(one)) for one in table.key),
        "kept": sql.SQL(", ").join(sql.SQL("kept.{}").format(sql.Identifier(one)) for one in columns),
        "made": sql.SQL(", ").join(sql.SQL("made.{}").format(sql.Identifier(one)) for one in columns),
    }
    connection.execute(sql.SQL("create temp table {staged} (like {table}) on commit drop").format(**names))
    try:
        copy_arrow(connection, f"pg_temp.{staged.as_string(connection).strip(chr(34))}", batches)
        connection.execute(sql.SQL("analyze {staged}").format(**names))
        connection.execute(
            sql.SQL(
                """
                delete from {table} as kept
                where {which}
                    and not exists (select from {staged} as made where {keys} and row({kept}) is not distinct from row({made}))
                """
            ).format(**names),
            parameters,
        )
        connection.execute(
            sql.SQL(
                """
                insert into {table} ({columns})
                select {made} from {staged} as made
                where not exists (select from {table} as kept where {keys})
                """
            ).format(**names)
        )
    finally:
        if connection.info.transaction_status is psycopg.pq.TransactionStatus.INTRANS:
            connection.execute(sql.SQL("drop table {staged}").format(**names))
