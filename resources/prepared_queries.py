"""Queries over Arrow tables that DuckDB plans once and then runs over many tables of the same columns.

Planning a query over a chunk of lines takes longer than running it over ten thousand of them. Not here: what queries say.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime

import duckdb
import pyarrow as pa

# Plans that are kept; more come only from Avro files that are each written with a schema of their own.
MOST_PLANS = 32

Parameters = Mapping[str, str | datetime]
_Plan = tuple[str, tuple[tuple[str, pa.Schema], ...]]


class PreparedQueries:
    """Sessions with an engine, one for each query. For one thread at a time. Close it before the engine."""

    def __init__(self, engine: duckdb.DuckDBPyConnection) -> None:
        self._engine = engine
        self._prepared: dict[_Plan, _Prepared] = {}

    def __enter__(self) -> "PreparedQueries":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the sessions: DuckDB keeps its spill folder as long as one is open."""
        while self._prepared:
            self._prepared.popitem()[1].close()

    def table(self, query: str, tables: Mapping[str, pa.Table], parameters: Parameters | None = None) -> pa.Table:
        """Return what `query` gives for `tables`, which it reads by their names, in any order of rows."""
        prepared = self._prepared_for(query, tables)
        with prepared.reading(tables):
            # Not `execute`, which does the same and warns of Arrow.
            return prepared.session.sql(_call(parameters or {})).to_arrow_table()

    def _prepared_for(self, query: str, tables: Mapping[str, pa.Table]) -> "_Prepared":
        plan = query, tuple((name, table.schema) for name, table in tables.items())
        if plan not in self._prepared:
            if len(self._prepared) >= MOST_PLANS:
                self._prepared.pop(next(iter(self._prepared))).close()
            self._prepared[plan] = _Prepared(self._engine, query, tables)
        return self._prepared[plan]


class _Prepared:
    """A query in a session of its own: there the names of its tables mean these tables and no others."""

    def __init__(self, engine: duckdb.DuckDBPyConnection, query: str, tables: Mapping[str, pa.Table]) -> None:
        self._sources = {name: _Source(table.schema) for name, table in tables.items()}
        self.session = engine.cursor()
        try:
            # A new session has the time zone of the machine.
            self.session.execute("set TimeZone = 'UTC'")
            for name, source in self._sources.items():
                self.session.register(name, source)
            self.session.execute(f"prepare query as {query}")
        except BaseException:
            self.session.close()
            raise

    def close(self) -> None:
        self.session.close()

    @contextmanager
    def reading(self, tables: Mapping[str, pa.Table]) -> Iterator[None]:
        for name, source in self._sources.items():
            source.give(tables[name])
        try:
            yield
            unread = [name for name, source in self._sources.items() if not source.was_read]
            if unread:
                raise AssertionError(f"DuckDB gave rows without reading {', '.join(unread)}: whose are they?")
        finally:
            for source in self._sources.values():
                source.clear()


class _Source:
    """What a plan reads a table through, as DuckDB asks it at each run for its rows.

    A table itself must not be registered under the same name again: of some plans DuckDB then reads the first one for ever.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._nothing = schema.empty_table()
        self._table = self._nothing
        self.was_read = False

    def give(self, table: pa.Table) -> None:
        self._table = table
        self.was_read = False

    def clear(self) -> None:
        self._table = self._nothing

    def __arrow_c_schema__(self) -> object:
        return self._nothing.schema.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        self.was_read = True
        return self._table.__arrow_c_stream__(requested_schema)


def _call(parameters: Parameters) -> str:
    # A prepared query takes no parameters but what is written into its call.
    if not parameters:
        return "execute query"
    return f"execute query({', '.join(f'{name} := {_literal(value)}' for name, value in parameters.items())})"


def _literal(value: str | datetime) -> str:
    if isinstance(value, datetime):
        return f"timestamp '{value.isoformat(sep=' ')}'"
    return "'" + value.replace("'", "''") + "'"
