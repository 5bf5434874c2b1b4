"""Small tables and variables for DuckDB sessions: what the SQL in billing_pipeline/sql is bound to.

Not here: the connection (duck), what the tables mean (the scans).
"""

from collections.abc import Iterable, Mapping

import duckdb
import pyarrow as pa


def set_variable(connection: duckdb.DuckDBPyConnection, name: str, value: object) -> None:
    """Let `getvariable('<name>')` return `value`."""
    connection.execute(f"set variable {name} = $value", {"value": value})


def bind_rows(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    columns: Mapping[str, pa.DataType],
    rows: Iterable[tuple[object, ...]],
) -> None:
    """Make `rows` the temporary table `name`, in place of one that is there; each row has a value per column."""
    by_column = list(zip(*rows, strict=True)) or [()] * len(columns)
    arrays = [pa.array(values, kind) for values, kind in zip(by_column, columns.values(), strict=True)]
    connection.register("bound_table", pa.table(dict(zip(columns, arrays, strict=True))))
    connection.execute(f"create or replace temp table {name} as select * from bound_table")
    connection.unregister("bound_table")
