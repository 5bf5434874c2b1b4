"""Bring a database to the shape that this code expects: SQL files in order, each once, then roles and grants.

`resources/migrations/NNNN_name.sql` runs in a transaction of its own with the row that records it, under an advisory
lock, so any number of processes may start together. The SHA-256 of each applied file is kept: history is not edited.
Not here: sessions and roles' names (database). See docs/adr/0002-migrations-and-roles.md.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from billing_pipeline.errors import BillingError
from resources.database import Database, Role, open_session, redacted

MIGRATIONS_DIR = Path(__file__).resolve().parent / "migrations"
FILE_NAME = re.compile(r"(?P<number>\d{4})_[a-z0-9_]+\.sql")
LOCK = "migrations"
HISTORY_SCHEMA = "migrations"
# History that is written once and corrected by further rows. The one list: grants, tests and docs follow it.
APPEND_ONLY_TABLES = (
    "core.lake_generation",
    "core.request_conflict_decision",
    "core.traffic_snapshot",
    "core.traffic_refusal",
    "core.traffic_gap",
    "core.traffic_conflict",
    "usage.traffic_adjustment",
    "guards.release",
    "catalog.release",
    "catalog.entry",
    "catalog.activation",
    "catalog.subscription_statement",
    "catalog.accepted_statement",
    "entitlement.threshold_crossing",
    "billing.charge_revision",
    "billing.ledger_posting",
    "billing.prepaid_entry",
    "billing.payment_event",
    "billing.suspension_change",
    "backtest.scenario",
    "backtest.draft_change",
    "backtest.account_total",
    "backtest.changed_charge",
    "billing.credit_grant",
    "billing.credit_revocation",
    "billing.credit_entry",
    "stripe.event",
    "stripe.meter_error",
    "stripe.intent",
    "stripe.intent_state",
    "stripe.sync_credit_note",
    "alerts.evidence",
    "invoicing.reconciliation",
    "invoicing.canary_result",
    "invoicing.final_invoice",
    "invoicing.final_item",
    "invoicing.voided_invoice",
    "invoicing.adjustment",
    "invoicing.one_off",
    "invoicing.credit_note",
    "invoicing.invoice_event",
    "invoicing.proposal",
    "invoicing.proposal_charge",
    "invoicing.proposal_decision",
)
NOTHING_CHANGED = "nothing was read or booked; the database is as it was."


class MigrationFilesError(BillingError):
    """The migration files themselves are wrong: a bad name, or one number twice."""


class MigrationEditedError(BillingError):
    """A file was changed after it had been applied."""


class MigrationUnknownError(BillingError):
    """The database has a migration that this code does not know."""


class MigrationFailedError(BillingError):
    """A migration's SQL was refused; it left nothing behind."""


class RolesMissingError(BillingError):
    """The login may not set up what the pipeline needs, and nobody has done it beforehand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One file of `resources/migrations`."""

    name: str
    text: str

    @property
    def sha256(self) -> str:
        """Return the SHA-256 hex of the file's text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def migrate(database: Database, *, folder: Path = MIGRATIONS_DIR) -> tuple[str, ...]:
    """Apply what is missing, renew all grants, and return the names applied by this call, in order.

    Raises:
        RolesMissingError: the login may neither create the roles nor become them; the message is the SQL to run.
        MigrationFilesError, MigrationEditedError, MigrationUnknownError, MigrationFailedError: see there.
        DatabaseUnreachableError: see `Database.connect`.
    """
    migrations = read_migrations(folder)
    connection = open_session(database.url, role=None, autocommit=True)
    try:
        with _locked(connection):
            _prepare_roles(connection, database.url)
            _prepare_history(connection)
        applied = tuple(migration.name for migration in migrations if _apply_once(connection, migration, migrations))
        with _locked(connection):
            _grant(connection)
    finally:
        connection.close()
    return applied


def read_migrations(folder: Path) -> tuple[Migration, ...]:
    """Return the files of `folder` in the order of their numbers.

    Raises:
        MigrationFilesError: a name is not `NNNN_name.sql`, or a number occurs twice.
    """
    numbers: dict[str, str] = {}
    migrations = []
    for path in sorted(folder.glob("*.sql")):
        match = FILE_NAME.fullmatch(path.name)
        taken_by = numbers.setdefault(match["number"], path.name) if match else None
        if taken_by != path.name:
            raise MigrationFilesError(
                f"migration {path.name} " + (f"has the number of {taken_by}" if taken_by else "is not NNNN_name.sql"),
                bill=NOTHING_CHANGED,
                fix="rename the file to the next free number.",
            )
        migrations.append(Migration(name=path.stem, text=path.read_text(encoding="utf-8")))
    return tuple(migrations)


@contextmanager
def _locked(connection: psycopg.Connection) -> Iterator[None]:
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", [LOCK])
        yield


def _apply_once(connection: psycopg.Connection, migration: Migration, known: tuple[Migration, ...]) -> bool:
    with _locked(connection):
        connection.execute(sql.SQL("set local role {}").format(sql.Identifier(Role.OWNER)))
        rows = connection.execute("select name, sha256 from migrations.applied order by name").fetchall()
        applied: Mapping[str, str] = dict(rows)
        _refuse_unknown(applied, known)
        if migration.name in applied:
            _refuse_edited(migration, applied[migration.name])
            return False
        try:
            # no parameters: the simple protocol runs a file of many statements at once
            connection.execute(migration.text.encode())
        except psycopg.Error as error:
            raise MigrationFailedError(
                f"migration {migration.name} failed: {error.diag.message_primary or error}",
                bill=NOTHING_CHANGED,
                fix="read the server's message; the same command continues at this migration.",
            ) from error
        connection.execute(
            "insert into migrations.applied (name, sha256) values (%s, %s)", [migration.name, migration.sha256]
        )
        return True


def _refuse_unknown(applied: Mapping[str, str], known: tuple[Migration, ...]) -> None:
    unknown = sorted(set(applied) - {migration.name for migration in known})
    if unknown:
        raise MigrationUnknownError(
            f"the database has migrations that this version does not know: {', '.join(unknown)}",
            bill=NOTHING_CHANGED,
            fix="run the version of billing_pipeline that made them, or a newer one.",
        )


def _refuse_edited(migration: Migration, applied_sha256: str) -> None:
    if migration.sha256 != applied_sha256:
        raise MigrationEditedError(
            f"migration {migration.name} was edited after it was applied "
            f"(applied {applied_sha256[:12]}, file {migration.sha256[:12]})",
            bill=NOTHING_CHANGED,
            fix="restore the file and put the change into a new migration.",
        )


def _prepare_roles(connection: psycopg.Connection, url: str) -> None:
    """Create the roles and this login's right to take them, unless both are there."""
    ready = connection.execute(
        "select count(*) = 3 and coalesce(bool_and(pg_has_role(current_user, oid, 'SET')), false)"
        " and coalesce(bool_or(rolname = %s and has_database_privilege(oid, current_database(), 'CREATE')), false)"
        " from pg_roles where rolname = any(%s)",
        [Role.OWNER, list(Role)],
    ).fetchall()[0][0]
    if ready:
        return
    try:
        # Roles belong to the whole server, the advisory lock to this database: another database may create them first.
        with suppress(psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation), connection.transaction():
            for statement in _role_statements(connection):
                connection.execute(statement)
            return
        with connection.transaction():
            for statement in _role_statements(connection):
                connection.execute(statement)
    except psycopg.errors.InsufficientPrivilege:
        script = ";\n    ".join(statement.as_string(connection) for statement in _role_statements(connection))
        raise RolesMissingError(
            f"{redacted(url)} may not create the pipeline's roles",
            bill=NOTHING_CHANGED,
            fix=f"let an administrator run this in the database, then repeat the command:\n    {script};",
        ) from None


def _role_statements(connection: psycopg.Connection) -> list[sql.Composed]:
    facts = connection.execute("select current_user, current_database()").fetchall()[0]
    login, name = sql.Identifier(facts[0]), sql.Identifier(facts[1])
    existing = {
        row[0] for row in connection.execute("select rolname from pg_roles where rolname = any(%s)", [list(Role)])
    }
    statements = []
    for role in Role:
        if role not in existing:
            statements.append(sql.SQL("create role {} nologin").format(sql.Identifier(role)))
        statements.append(sql.SQL("grant {} to {}").format(sql.Identifier(role), login))
    statements.append(sql.SQL("grant create on database {} to {}").format(name, sql.Identifier(Role.OWNER)))
    return statements


def _prepare_history(connection: psycopg.Connection) -> None:
    connection.execute(sql.SQL("set local role {}").format(sql.Identifier(Role.OWNER)))
    connection.execute(
        """
        create schema if not exists migrations;
        create table if not exists migrations.applied (
            name text primary key,
            sha256 text not null,
            applied_at timestamptz not null default now()
        );
        """
    )


def _grant(connection: psycopg.Connection) -> None:
    """Give every schema of the owner its grants anew: the writer all but history, the reader SELECT."""
    connection.execute(sql.SQL("set local role {}").format(sql.Identifier(Role.OWNER)))
    writer, reader = sql.Identifier(Role.WRITER), sql.Identifier(Role.READER)
    schemas = connection.execute(
        "select nspname from pg_namespace where nspowner = (select oid from pg_roles where rolname = %s)", [Role.OWNER]
    ).fetchall()
    for (schema,) in schemas:
        names = {"schema": sql.Identifier(schema), "writer": writer, "reader": reader}
        statement = (
            "revoke all on all tables in schema {schema} from {writer}, {reader};"
            "grant usage on schema {schema} to {writer}, {reader};"
            "grant select on all tables in schema {schema} to {writer}, {reader};"
        )
        if schema != HISTORY_SCHEMA:
            statement += (
                "grant insert, update, delete on all tables in schema {schema} to {writer};"
                "grant usage on all sequences in schema {schema} to {writer};"
            )
        connection.execute(sql.SQL(statement).format(**names))
    for table in APPEND_ONLY_TABLES:
        if connection.execute("select to_regclass(%s)", [table]).fetchall()[0][0] is not None:
            connection.execute(
                sql.SQL("revoke update, delete, truncate on {} from {}").format(
                    sql.Identifier(*table.split(".")), writer
                )
            )
