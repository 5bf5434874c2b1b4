"""Databases for tests: clones of a migrated template, which are emptied after each use and lent again.

A clone costs PostgreSQL a fifteenth of a second and its end another bit; emptying the few tables that a test has filled costs a
tenth of that. A clone that is not as it was made (tables, columns, rights, rows that the template has) is dropped instead.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg

from resources.database import Database
from resources.idle_sessions import KEPT

# Everything of a database but rows of tables, and of those the rows that the template has too.
SHAPE = """
    select 'table', md5(string_agg(concat_ws(' ', oid, relname, relkind, relowner, relnatts, relchecks, relacl, reloptions),
        ',' order by oid)) from pg_class where oid >= 16384 and relkind <> 't'
    union all
    select 'column', md5(string_agg(concat_ws(' ', attrelid, attname, atttypid, attnotnull, attisdropped, attacl),
        ',' order by attrelid, attnum)) from pg_attribute where attrelid >= 16384 and attnum > 0
    union all
    select 'schema', md5(string_agg(concat_ws(' ', nspname, nspowner, nspacl), ',' order by oid)) from pg_namespace
        where nspname !~ '^pg_(toast_)?temp_'
    union all
    select 'constraint', count(*)::text from pg_constraint
    union all
    select 'function', count(*)::text from pg_proc
    union all
    select 'trigger', count(*)::text from pg_trigger
    union all
    select 'type', count(*)::text from pg_type
    union all
    select 'extension', count(*)::text from pg_extension
    union all
    select 'setting', count(*)::text from pg_db_role_setting where setdatabase in
        (select oid from pg_database where datname = current_database())
    union all
    select 'migrations', md5(string_agg(applied::text, ',' order by applied::text)) from migrations.applied as applied
"""
# A table without rows may have pages left, and is empty again after it is truncated.
FILLED = """
    select format('%I.%I', nspname, relname)
    from pg_class join pg_namespace on pg_namespace.oid = relnamespace
    where pg_class.oid >= 16384 and relkind = 'r' and nspname <> 'migrations' and pg_relation_size(pg_class.oid) > 0
"""
TURNED = "select format('%I.%I', schemaname, sequencename) from pg_sequences where last_value is not null"
# But those of ours that nobody uses: opening one anew costs more than all the rest.
END_SESSIONS = """
    select pg_terminate_backend(pid, 5000) from pg_stat_activity
    where datname = current_database() and pid <> pg_backend_pid() and backend_type in ('client backend', 'autovacuum worker')
        and pid <> all (%s)
"""


def database_url(server_url: str, database: str) -> str:
    """Return `server_url` with another database."""
    return urlunsplit(urlsplit(server_url)._replace(path="/" + quote(database, safe="")))


def administer(server_url: str, statement: str) -> None:
    """Run one statement as the superuser, outside a transaction."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(statement.encode())


@dataclass(slots=True)
class Clones:
    """The clones of one template that nobody uses just now. Several threads may ask."""

    server_url: str
    template: str
    shape: list[tuple[object, ...]]
    idle: list[str] = field(default_factory=list)

    @contextmanager
    def lent(self) -> Iterator[Database]:
        """Provide a database that is as the template is."""
        name = self._taken()
        url = database_url(self.server_url, name)
        try:
            yield Database(url)
        finally:
            if self._is_emptied(url):
                self.idle.append(name)
            else:
                self._drop(name)

    def close(self) -> None:
        """Drop the clones."""
        while self.idle:
            self._drop(self.idle.pop())

    def _taken(self) -> str:
        try:
            return self.idle.pop()
        except IndexError:
            name = f"billing_test_{uuid.uuid4().hex[:12]}"
            # Thrice as fast as the default, which writes every page to the log.
            administer(self.server_url, f'create database "{name}" template "{self.template}" strategy file_copy')
            return name

    def _drop(self, name: str) -> None:
        administer(self.server_url, f'drop database if exists "{name}" with (force)')

    def _is_emptied(self, url: str) -> bool:
        try:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(END_SESSIONS, [KEPT.pids(url)])
                if connection.execute(SHAPE).fetchall() != self.shape:
                    return False
                filled = [name for (name,) in connection.execute(FILLED).fetchall()]
                if filled:
                    connection.execute(f"truncate {', '.join(filled)} restart identity cascade".encode())
                for (name,) in connection.execute(TURNED).fetchall():
                    connection.execute(f"alter sequence {name} restart".encode())
                return True
        except psycopg.Error:
            return False


_OF_TEMPLATE: dict[tuple[str, str], Clones] = {}


@contextmanager
def cloning(server_url: str, template: str) -> Iterator[None]:
    """Let databases be lent from a migrated, empty `template`; at the end its clones are dropped."""
    with psycopg.connect(database_url(server_url, template)) as connection:
        shape = connection.execute(SHAPE).fetchall()
    clones = _OF_TEMPLATE[server_url, template] = Clones(server_url, template, shape)
    try:
        yield
    finally:
        clones.close()
        del _OF_TEMPLATE[server_url, template]


@contextmanager
def lent_database(server_url: str, template: str) -> Iterator[Database]:
    """Provide a migrated, empty database; it is emptied afterwards, and may be lent again."""
    with _OF_TEMPLATE[server_url, template].lent() as database:
        yield database
