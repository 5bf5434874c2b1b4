"""Migrations run once in order whoever starts, and the roles hold what they promise, on a real server."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from resources.database import Database, Role, open_session
from resources.migrate import (
    APPEND_ONLY_TABLES,
    MIGRATIONS_DIR,
    MigrationEditedError,
    MigrationFailedError,
    MigrationFilesError,
    MigrationUnknownError,
    RolesMissingError,
    migrate,
    read_migrations,
)
from resources.settings import PROJECT_ROOT
from tests.conftest import administer, database_url, login_url

SYSTEM_SCHEMAS = ("information_schema", "pg_catalog", "public")


@pytest.fixture
def empty(postgres_url: str) -> Iterator[Database]:
    """Return a database without anything in it."""
    name = f"billing_empty_{uuid.uuid4().hex[:12]}"
    administer(postgres_url, f'create database "{name}"')
    yield Database(database_url(postgres_url, name))
    administer(postgres_url, f'drop database "{name}" with (force)')


@pytest.fixture
def login(postgres_url: str) -> Iterator[str]:
    """Return the name of a login (password `x`) without any right."""
    name = f"login_{uuid.uuid4().hex[:12]}"
    administer(postgres_url, f"create role {name} login password 'x'")
    yield name
    administer(postgres_url, f"drop role {name}")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Return a folder with two small migrations."""
    (tmp_path / "0001_first.sql").write_text("create schema shop; create table shop.item (id int primary key);")
    (tmp_path / "0002_second.sql").write_text("insert into shop.item values (1); alter table shop.item add name text;")
    return tmp_path


def tables(database: Database) -> list[str]:
    """Return every table of ours as `schema.table`."""
    with database.connect(Role.OWNER) as connection:
        rows = connection.execute(
            "select table_schema || '.' || table_name from information_schema.tables"
            " where table_type = 'BASE TABLE' and table_schema <> all(%s)",
            [list(SYSTEM_SCHEMAS)],
        ).fetchall()
    return sorted(row[0] for row in rows)


def denied(connection: psycopg.Connection, statement: str, table: str) -> bool:
    """Tell whether the server refuses `statement` (with `{}` for the table) for want of the right."""
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(sql.SQL(statement).format(sql.Identifier(*table.split("."))))  # type: ignore[arg-type]
    except psycopg.errors.InsufficientPrivilege:
        return True
    except psycopg.errors.IntegrityError:
        pass
    return False


class TestMigrate:
    def test_applies_each_file_once_and_in_order(self, empty: Database, files: Path) -> None:
        assert migrate(empty, folder=files) == ("0001_first", "0002_second")
        assert migrate(empty, folder=files) == ()
        (files / "0003_third.sql").write_text("insert into shop.item values (2, 'two');")
        assert migrate(empty, folder=files) == ("0003_third",)
        with empty.reading() as connection:
            assert connection.execute("select id, name from shop.item order by id").fetchall() == [
                (1, None),
                (2, "two"),
            ]
            names = connection.execute("select name from migrations.applied order by applied_at").fetchall()
        assert names == [("0001_first",), ("0002_second",), ("0003_third",)]

    def test_the_shipped_files_make_every_append_only_table(self, database: Database) -> None:
        assert set(APPEND_ONLY_TABLES) <= set(tables(database))
        assert migrate(database) == ()

    def test_four_processes_that_start_at_once_apply_each_file_once(self, empty: Database) -> None:
        code = (
            "import os; from resources.database import Database; from resources.migrate import migrate;"
            "print(*migrate(Database(os.environ['TARGET'])))"
        )
        starts = [
            subprocess.Popen(
                [sys.executable, "-c", code],
                cwd=PROJECT_ROOT,
                env={**os.environ, "TARGET": empty.url},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(4)
        ]
        answers = [start.communicate(timeout=120) for start in starts]
        assert [start.returncode for start in starts] == [0] * 4, answers
        applied = " ".join(answer[0] for answer in answers).split()
        assert sorted(applied) == [migration.name for migration in read_migrations(MIGRATIONS_DIR)]

    def test_a_failing_file_leaves_nothing_and_is_taken_up_again(self, empty: Database, files: Path) -> None:
        broken = files / "0003_broken.sql"
        broken.write_text("create table shop.half (id int); insert into shop.half values (1 / 0);")
        with pytest.raises(MigrationFailedError, match="0003_broken failed: division by zero"):
            migrate(empty, folder=files)
        assert tables(empty) == ["migrations.applied", "shop.item"]
        broken.write_text("create table shop.half (id int);")
        assert migrate(empty, folder=files) == ("0003_broken",)

    def test_an_edited_file_is_refused(self, empty: Database, files: Path) -> None:
        migrate(empty, folder=files)
        (files / "0002_second.sql").write_text("insert into shop.item values (5);")
        with pytest.raises(MigrationEditedError, match="0002_second was edited after it was applied"):
            migrate(empty, folder=files)

    def test_a_database_that_is_ahead_is_refused(self, empty: Database, files: Path) -> None:
        migrate(empty, folder=files)
        (files / "0002_second.sql").unlink()
        with pytest.raises(MigrationUnknownError, match="does not know: 0002_second"):
            migrate(empty, folder=files)

    @pytest.mark.parametrize("name", ["0002_again.sql", "3_short.sql", "0003-dash.sql"])
    def test_a_wrong_file_name_is_refused(self, files: Path, name: str) -> None:
        (files / name).write_text("select 1")
        with pytest.raises(MigrationFilesError, match="rename the file"):
            read_migrations(files)

    def test_a_file_may_contain_percent_signs(self, empty: Database, files: Path) -> None:
        (files / "0003_percent.sql").write_text(
            "create view shop.matching as select * from shop.item where name like '%a%';"
        )
        assert "0003_percent" in migrate(empty, folder=files)


class TestRoles:
    def test_a_login_without_rights_gets_the_sql_for_its_administrator(
        self, empty: Database, files: Path, postgres_url: str, login: str
    ) -> None:
        stranger = Database(login_url(empty.url, login, "x"))
        with pytest.raises(RolesMissingError) as caught:
            migrate(stranger, folder=files)
        script = caught.value.fix.split("\n", 1)[1]
        assert f'grant "billing_owner" to "{login}"' in script
        with open_session(empty.url, role=None, autocommit=True) as administrator:
            administrator.execute(script.encode())
        assert migrate(stranger, folder=files) == ("0001_first", "0002_second")
        with stranger.transaction() as connection:
            connection.execute("insert into shop.item values (7)")

    def test_the_login_s_own_rights_are_not_used(self, database: Database) -> None:
        with database.connect(Role.WRITER) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("create table public.mine (id int)")

    def test_new_tables_and_schemas_get_their_grants(self, empty: Database, files: Path) -> None:
        migrate(empty, folder=files)
        (files / "0003_more.sql").write_text(
            "create schema till; create table till.slip (id int); create table shop.tag (id int);"
        )
        migrate(empty, folder=files)
        with empty.transaction() as connection:
            connection.execute("insert into till.slip values (1); update shop.tag set id = 2; delete from shop.item")
        with empty.reading() as connection:
            assert connection.execute("select id from till.slip").fetchall() == [(1,)]

    def test_a_right_given_by_hand_is_taken_back(self, database: Database, postgres_url: str) -> None:
        with database.connect(Role.OWNER) as connection:
            connection.execute("grant update on billing.ledger_posting to billing_writer")
        migrate(database)
        with database.connect(Role.WRITER) as connection:
            assert denied(connection, "update {} set currency = currency", "billing.ledger_posting")

    def test_the_writer_cannot_change_history(self, database: Database) -> None:
        with database.connect(Role.WRITER) as connection:
            for table in APPEND_ONLY_TABLES:
                for statement in ("update {} set run_id = null", "delete from {}", "truncate {} cascade"):
                    column = connection.execute(
                        "select column_name from information_schema.columns"
                        " where table_schema || '.' || table_name = %s and is_identity = 'NO' limit 1",
                        [table],
                    ).fetchall()[0][0]
                    assert denied(connection, statement.replace("run_id", f'"{column}"'), table), (table, statement)
                assert not denied(connection, "insert into {} default values", table)
                assert not denied(connection, "select * from {}", table)

    def test_the_writer_replaces_rows_of_every_other_table(self, database: Database) -> None:
        replaceable = [table for table in tables(database) if table not in APPEND_ONLY_TABLES]
        with database.connect(Role.WRITER) as connection:
            refused = [table for table in replaceable if denied(connection, "delete from {}", table)]
            truncated = [table for table in replaceable if not denied(connection, "truncate {} cascade", table)]
        assert refused == ["migrations.applied"]
        assert truncated == []

    def test_the_reader_only_reads(self, database: Database) -> None:
        with database.connect(Role.READER) as connection:
            for table in tables(database):
                assert not denied(connection, "select * from {}", table)
                for statement in ("insert into {} default values", "delete from {}", "truncate {} cascade"):
                    assert denied(connection, statement, table), (table, statement)
