"""Databases that are lent to tests again and again: each is as the template is."""

import psycopg
import pytest

from tests.databases import lent_database


@pytest.fixture
def server(postgres_url: str, template_database: str) -> tuple[str, str]:
    return postgres_url, template_database


class TestLentDatabase:
    def test_is_lent_again_without_what_was_written_and_counts_from_the_start(self, server: tuple[str, str]) -> None:
        ids = []
        for _ in range(2):
            with lent_database(*server) as database, database.transaction() as connection:
                assert connection.execute("select count(*) from core.source_file").fetchall() == [(0,)]
                connection.execute("insert into catalog.account values ('acme', 'n', 'UTC', 'USD')")
                connection.execute("select nextval(pg_get_serial_sequence('core.source_file', 'file_id'))")
                ids.append(connection.execute("select current_database(), lastval()").fetchall()[0])
        assert ids[0] == ids[1]
        with lent_database(*server) as database, database.reading() as connection:
            assert connection.execute("select count(*) from catalog.account").fetchall() == [(0,)]

    @pytest.mark.parametrize(
        "change",
        [
            "create table core.other (id int)",
            "alter table core.source_file add column other int",
            "grant update on billing.ledger_posting to billing_writer",
            "create function core.one() returns int language sql return 1",
            "update migrations.applied set sha256 = repeat('0', 64)",
            "do $$ begin execute 'alter database ' || current_database() || ' set work_mem = 65536'; end $$",
        ],
    )
    def test_that_was_changed_is_dropped(self, server: tuple[str, str], change: str) -> None:
        with lent_database(*server) as database, psycopg.connect(database.url) as connection:
            connection.execute(change.encode())
        with pytest.raises(psycopg.OperationalError, match="does not exist"):
            psycopg.connect(database.url)

    def test_is_taken_back_from_sessions_that_hold_on_to_it(self, server: tuple[str, str]) -> None:
        with lent_database(*server) as database:
            left = psycopg.connect(database.url)
            left.execute("insert into catalog.account values ('acme', 'n', 'UTC', 'USD')")
        with pytest.raises(psycopg.OperationalError):
            left.execute("select 1")
        left.close()
        with psycopg.connect(database.url) as connection:
            assert connection.execute("select count(*) from catalog.account").fetchall() == [(0,)]
