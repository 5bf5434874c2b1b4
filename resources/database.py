"""Reach PostgreSQL: a URL becomes sessions that hold one role, transactions under named locks, and bulk loads.

Every session runs in UTC and drops into its role at connection time, so that code never works with the login's own
rights. Messages name host, port, database and user; never the password. Not here: the server itself
(embedded_postgres), tables and grants (migrate). See docs/adr/0002-migrations-and-roles.md.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain

import psycopg
import pyarrow as pa
import pyarrow.csv
from psycopg import conninfo, sql

from billing_pipeline.errors import BillingError
from resources.idle_sessions import KEPT, SERVER_OPTION

CONNECT_TIMEOUT_SECONDS = 10
# A slice of this many rows is turned into text at once: large enough to be fast, small enough to keep memory flat.
COPY_SLICE_ROWS = 65_536
NOTHING_BOOKED = "nothing of this step was written; what was booked before is unchanged."


class Role(StrEnum):
    """Who a session is. The owner migrates, the writer cannot change history, the reader only reads."""

    OWNER = "billing_owner"
    WRITER = "billing_writer"
    READER = "billing_reader"


class DatabaseUrlError(BillingError):
    """The connection string cannot be understood. Its text is not repeated, as it may hold a password."""


class DatabaseUnreachableError(BillingError):
    """No server answers at this address, or it does not let this login in."""


class DatabaseFullError(BillingError):
    """The server has no disk space left."""


class DatabaseLostError(BillingError):
    """The server ended the session while work was going on."""


class CopyColumnError(BillingError):
    """A column cannot be written to PostgreSQL exactly."""


@dataclass(frozen=True, slots=True)
class Database:
    """One PostgreSQL database. `url` is any libpq connection string; it stays out of `repr`."""

    url: str = field(repr=False)

    def connect(self, role: Role = Role.WRITER) -> psycopg.Connection:
        """Return an open session in `role`. The caller closes it.

        Raises:
            DatabaseUrlError: the connection string is malformed.
            DatabaseUnreachableError: no server, no such database, wrong password, or the login may not take the role.
        """
        return open_session(self.url, role=role)

    @contextmanager
    def transaction(self, *locks: str) -> Iterator[psycopg.Connection]:
        """Open one transaction as the writer, holding the advisory lock of every name until it ends.

        Commits when the block ends, rolls back when it raises. Names are locked in sorted order, so that two
        transactions with overlapping names wait for each other instead of deadlocking.

        Raises:
            DatabaseFullError, DatabaseLostError: the server failed inside the block.
        """
        with _failures_explained(self.url), self._session(Role.WRITER) as connection:
            if locks:
                connection.execute(
                    "select pg_advisory_xact_lock(hashtextextended(name, 0)) from unnest(%s::text[]) as name",
                    [sorted(set(locks))],
                )
            yield connection

    @contextmanager
    def reading(self) -> Iterator[psycopg.Connection]:
        """Open one read-only snapshot as the reader: every query of the block sees the same state."""
        with _failures_explained(self.url), self._session(Role.READER) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            yield connection

    @contextmanager
    def _session(self, role: Role) -> Iterator[psycopg.Connection]:
        """Provide a session in `role`, a kept one if there is, and commit; after an error roll back and close it."""
        key = (self.url, str(role))
        connection = KEPT.take(key) or open_session(self.url, role=role, kept=True)
        with connection:
            yield connection
            if not connection.closed:
                connection.commit()
                KEPT.keep(key, connection)


def open_session(url: str, *, role: Role | None, autocommit: bool = False, kept: bool = False) -> psycopg.Connection:
    """Return a UTC session at `url`, in `role`, or with the login's own rights when `role` is None.

    `kept`: it is for IdleSessions, and the server ends it when that forgets it.

    Raises:
        DatabaseUrlError, DatabaseUnreachableError: as `Database.connect`.
    """
    parameters = _parameters(url)
    options = [parameters.get("options") or "", "-c TimeZone=UTC"]
    if role is not None:
        options.append(f"-c role={role}")
    if kept:
        options.append(SERVER_OPTION)
    parameters["options"] = " ".join(option for option in options if option)
    parameters.setdefault("connect_timeout", str(CONNECT_TIMEOUT_SECONDS))
    parameters.setdefault("application_name", "billing_pipeline")
    try:
        return psycopg.connect(conninfo.make_conninfo("", **parameters), autocommit=autocommit)
    except psycopg.OperationalError as error:
        raise _unreachable(url, str(error), role) from error


def redacted(url: str) -> str:
    """Return where `url` leads, without its password: `user@host:port/database`."""
    try:
        parameters = _parameters(url)
    except DatabaseUrlError:
        return "(a connection string that cannot be parsed)"
    host = parameters.get("host") or parameters.get("hostaddr") or "(local socket)"
    return f"{parameters.get('user', '')}@{host}:{parameters.get('port', '5432')}/{parameters.get('dbname', '')}"


def copy_arrow(connection: psycopg.Connection, table: str, batches: Iterable[pa.RecordBatch]) -> int:
    """Append `batches` to `table` (`schema.table`) inside the caller's transaction and return the number of rows.

    Columns go by the batches' field names; all batches have one schema. Null and the empty string stay apart, decimals
    are exact, timestamps without a zone are UTC. Text is accepted for jsonb, uuid and enum columns.

    Raises:
        CopyColumnError: a column is floating point, nested, binary, or finer than microseconds.
    """
    stream = iter(batches)
    first = next(stream, None)
    if first is None:
        return 0
    for column in first.schema:
        _refuse_inexact(table, column)
    statement = sql.SQL("copy {} ({}) from stdin (format csv)").format(
        sql.Identifier(*table.split(".")), sql.SQL(", ").join(map(sql.Identifier, first.schema.names))
    )
    with connection.cursor() as cursor:
        with cursor.copy(statement) as copy:
            for text in _csv_slices(chain([first], stream), first.schema.names):
                copy.write(text)
        return cursor.rowcount


def _csv_slices(batches: Iterable[pa.RecordBatch], columns: list[str]) -> Iterator[memoryview]:
    """Yield the rows as CSV text. The next slice is rendered while the server takes this one: 1.4 times as fast."""
    with ThreadPoolExecutor(max_workers=1) as renderer:
        rendered: Future[memoryview] | None = None
        for batch in batches:
            for offset in range(0, batch.num_rows, COPY_SLICE_ROWS):
                following = renderer.submit(_as_csv, batch.slice(offset, COPY_SLICE_ROWS).select(columns))
                if rendered is not None:
                    yield rendered.result()
                rendered = following
        if rendered is not None:
            yield rendered.result()


def _as_csv(batch: pa.RecordBatch) -> memoryview:
    # "needed" quotes every text value, also the empty one, and leaves null empty: what COPY's csv format tells apart.
    options = pyarrow.csv.WriteOptions(include_header=False, quoting_style="needed")
    sink = pa.BufferOutputStream()
    with pyarrow.csv.CSVWriter(sink, batch.schema, write_options=options) as writer:
        writer.write_batch(batch)
    return memoryview(sink.getvalue())


def _refuse_inexact(table: str, column: pa.Field) -> None:
    kind = column.type
    if pa.types.is_floating(kind):
        cause = "floating point cannot hold amounts exactly"
    elif pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        cause = "only plain values can be loaded in bulk"
    elif pa.types.is_timestamp(kind) and kind.unit == "ns":
        cause = "PostgreSQL keeps microseconds and would round"
    else:
        return
    raise CopyColumnError(
        f"column {column.name} for {table} is {kind}: {cause}",
        bill=NOTHING_BOOKED,
        fix="cast the column to a decimal, an integer, text or timestamp in microseconds in the query that makes it.",
    )


def _parameters(url: str) -> dict[str, str]:
    try:
        return {name: str(value) for name, value in conninfo.conninfo_to_dict(url).items() if value is not None}
    except psycopg.ProgrammingError:
        # libpq's message repeats the string, password and all: it is neither shown nor chained.
        raise DatabaseUrlError(
            "a PostgreSQL connection string cannot be understood",
            bill=NOTHING_BOOKED,
            fix="write it as postgresql://user:password@host:5432/database, with special characters percent-encoded.",
        ) from None


def _unreachable(url: str, answer: str, role: Role | None) -> DatabaseUnreachableError:
    parameters = _parameters(url)
    user, database = parameters.get("user", ""), parameters.get("dbname", "")
    if "password authentication failed" in answer or "no password supplied" in answer:
        cause, fix = f"the password of user {user} is wrong or missing", "correct it in the database URL."
    elif f'database "{database}" does not exist' in answer:
        cause, fix = f"database {database} does not exist", f'create it: create database "{database}".'
    elif "role" in answer and role is not None and str(role) in answer:
        cause, fix = f"user {user} may not become {role}", f'let an administrator run: grant {role} to "{user}".'
    elif "too many clients" in answer or "remaining connection slots" in answer:
        cause, fix = "the server has no free connection", "end other sessions or raise max_connections."
    elif "could not translate host name" in answer or "resolve host" in answer:
        cause, fix = "the host name is unknown", "correct the host in the database URL."
    elif "refused" in answer or "timeout" in answer or "No such file" in answer:
        cause, fix = "no server answers there", "start the server, or correct host and port in the database URL."
    else:
        cause = " ".join(answer.replace(parameters.get("password") or "\0", "***").split())
        fix = "see the server's answer above."
    return DatabaseUnreachableError(f"cannot open {redacted(url)}: {cause}", bill=NOTHING_BOOKED, fix=fix)


@contextmanager
def _failures_explained(url: str) -> Iterator[None]:
    try:
        yield
    except psycopg.errors.DiskFull as error:
        raise DatabaseFullError(
            f"the disk of {redacted(url)} is full",
            bill=NOTHING_BOOKED,
            fix="free space or enlarge the disk, then run the same command again.",
        ) from error
    except psycopg.OperationalError as error:
        if error.sqlstate is not None and not isinstance(
            error, (psycopg.errors.AdminShutdown, psycopg.errors.CrashShutdown, psycopg.errors.CannotConnectNow)
        ):
            raise
        raise DatabaseLostError(
            f"{redacted(url)} ended the session",
            bill=NOTHING_BOOKED,
            fix="see why in the server's log, then run the same command again.",
        ) from error
