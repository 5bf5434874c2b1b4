"""Sessions are used again: by one at a time, as new, and never when the server has ended them."""

import os
import threading

import psycopg
import pytest

from resources import idle_sessions
from resources.database import Database, Role, open_session
from resources.idle_sessions import IDLE_AT_MOST, KEPT

PID = "select pg_backend_pid()"


def pid_of(database: Database) -> int:
    with database.transaction() as connection:
        return connection.info.backend_pid


class TestASession:
    def test_is_used_again_in_the_same_role_only(self, database: Database) -> None:
        first = pid_of(database)
        assert pid_of(database) == first
        with database.reading() as connection:
            assert connection.execute("select current_user").fetchall() == [(Role.READER,)]
            assert connection.info.backend_pid != first
        assert pid_of(database) == first

    def test_is_as_new_for_the_next(self, database: Database) -> None:
        state = (
            "select current_user, current_setting('TimeZone'), current_setting('transaction_isolation'),"
            " current_setting('transaction_read_only'), current_setting('work_mem'), to_regclass('pg_temp.mine')::text,"
            " (select count(*) from pg_locks where locktype = 'advisory'), (select count(*) from pg_prepared_statements)"
        )
        with database.transaction() as connection:
            before = connection.execute(state).fetchall()
            first = connection.info.backend_pid
        with database.transaction() as connection:
            connection.execute("set timezone to 'Asia/Tokyo'; set work_mem = '1MB'; create temp table mine (id int)")
            connection.execute("select pg_advisory_lock(7)")
            for _ in range(9):
                connection.execute("select 1 from mine where id = %s", [1])
            connection.row_factory = psycopg.rows.dict_row
            connection.prepare_threshold = None
        with database.transaction() as connection:
            connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
            connection.read_only = True
            connection.execute("select 1")
        with database.transaction() as connection:
            assert connection.info.backend_pid == first
            assert connection.execute(state).fetchall() == before
            for _ in range(9):
                assert connection.execute("select %s", [1]).fetchall() == [(1,)]

    def test_is_closed_to_who_had_it_before(self, database: Database) -> None:
        with database.transaction() as connection:
            cursor = connection.execute("select 1")
        assert connection.closed
        for use in (connection.execute, cursor.execute):
            with pytest.raises(psycopg.OperationalError):
                use("select 1")
        connection.close()
        assert pid_of(database)

    def test_is_of_one_at_a_time(self, database: Database) -> None:
        pid_of(database)
        with database.transaction() as one, database.transaction() as other:
            assert one.info.backend_pid != other.info.backend_pid

    @pytest.mark.parametrize("statement", ["select 1 / 0", "select * from nowhere"])
    def test_is_not_kept_after_an_error(self, database: Database, statement: str) -> None:
        first = pid_of(database)
        with pytest.raises(psycopg.Error), database.transaction() as connection:
            connection.execute(statement.encode())
        assert connection.closed
        assert first not in KEPT.pids(database.url)

    def test_that_the_server_ended_meanwhile_is_replaced(self, database: Database) -> None:
        first = pid_of(database)
        with psycopg.connect(database.url, autocommit=True) as other:
            other.execute("select pg_terminate_backend(%s, 5000)", [first])
        assert pid_of(database) != first

    def test_that_fails_after_its_commit_fails_nobody(self, database: Database) -> None:
        with database.transaction() as connection:
            connection.execute("insert into catalog.account values ('kept', 'n', 'UTC', 'USD')")
            connection.commit()
            first = connection.info.backend_pid
            with psycopg.connect(database.url, autocommit=True) as other:
                other.execute("select pg_terminate_backend(%s, 5000)", [first])
        assert first not in KEPT.pids(database.url)

    def test_that_was_idle_for_long_is_not_used(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        first = pid_of(database)
        monkeypatch.setattr(idle_sessions, "IDLE_SECONDS", 0.0)
        assert pid_of(database) != first

    def test_is_ended_by_the_server_when_it_is_forgotten(self, database: Database) -> None:
        with database.transaction() as connection:
            assert connection.execute("show idle_session_timeout").fetchall() == [("1min",)]
        with database.connect() as connection:
            assert connection.execute("show idle_session_timeout").fetchall() == [("0",)]


class TestSessions:
    def test_are_kept_in_a_number(self, database: Database) -> None:
        def deep(number: int) -> None:
            if number:
                with database.transaction():
                    deep(number - 1)

        deep(IDLE_AT_MOST + 3)
        assert len(KEPT.pids(database.url)) == IDLE_AT_MOST

    def test_of_many_threads_are_never_shared(self, database: Database) -> None:
        database_locks = [0]

        def work() -> None:
            for _ in range(30):
                with database.transaction("one") as connection:
                    seen = database_locks[0]
                    connection.execute("select 1")
                    database_locks[0] = seen + 1

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert database_locks == [180]

    def test_are_not_taken_along_by_a_fork(self, database: Database) -> None:
        first = pid_of(database)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(writing, str(pid_of(database)).encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        told = int(os.read(reading, 100))
        os.close(reading)
        os.close(writing)
        assert told != first
        assert pid_of(database) == first


def test_a_session_that_is_not_to_be_kept_is_opened_by_itself(database: Database) -> None:
    kept = pid_of(database)
    with open_session(database.url, role=None) as connection:
        assert connection.info.backend_pid != kept
