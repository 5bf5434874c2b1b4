"""Sessions, locks, bulk loads and clear failures, on a real server."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resources.database import (
    COPY_SLICE_ROWS,
    CopyColumnError,
    Database,
    DatabaseFullError,
    DatabaseLostError,
    DatabaseUnreachableError,
    DatabaseUrlError,
    Role,
    copy_arrow,
    redacted,
)
from tests.conftest import database_url, login_url

EXTREME = Decimal("9" * 29 + "." + "9" * 9)
# numeric(38, 9) in every shape; text that COPY, CSV or JSON could misread.
QUANTITIES = st.integers(-(10**38) + 1, 10**38 - 1).map(lambda units: Decimal(f"{units}e-9"))
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


@pytest.fixture(scope="module")
def session(postgres_url: str) -> Iterator[psycopg.Connection]:
    """Return a session with an empty temporary table `target`; each test begins with a rollback."""
    with psycopg.connect(postgres_url, options="-c TimeZone=UTC") as connection:
        connection.execute(
            "create temp table target (id bigint, text text, quantity numeric(38, 9), at timestamptz, day date,"
            " flag boolean, state jsonb)"
        )
        connection.commit()
        yield connection
        connection.rollback()


class TestConnect:
    def test_drops_into_the_role_and_into_utc(self, database: Database) -> None:
        for role in Role:
            with database.connect(role) as connection:
                facts = connection.execute("select current_user, current_setting('TimeZone')").fetchall()
            assert facts == [(role, "UTC")]

    def test_keeps_the_options_of_the_url(self, database: Database) -> None:
        url = f"{database.url}?options=-c%20lock_timeout%3D7s"
        with Database(url).connect() as connection:
            rows = connection.execute("select current_user, current_setting('lock_timeout')").fetchall()
        assert rows == [(Role.WRITER, "7s")]

    def test_the_password_stays_out_of_repr(self, database: Database) -> None:
        assert repr(database) == "Database()"

    def test_names_the_cause_and_never_the_password(self, database: Database) -> None:
        url = database.url
        user, own_password = str(urlsplit(url).username), str(urlsplit(url).password)
        elsewhere = urlunsplit(urlsplit(url)._replace(netloc=f"{user}:{own_password}@127.0.0.1:1"))
        for wrong, cause in [
            (login_url(url, user, "hunter2:@/"), f"the password of user {user} is wrong"),
            (elsewhere, "no server answers there"),
            (database_url(url, "nowhere"), "database nowhere does not exist"),
        ]:
            with pytest.raises(DatabaseUnreachableError) as caught:
                Database(wrong).connect()
            assert cause in str(caught.value)
            assert redacted(wrong) in str(caught.value)
            assert own_password not in f"{caught.value}{caught.value.__cause__}"
            assert "hunter2" not in f"{caught.value}{caught.value.__cause__}"

    def test_a_malformed_url_is_not_repeated(self) -> None:
        with pytest.raises(DatabaseUrlError) as caught:
            Database("postgres//billing:hunter2@host").connect()
        assert "hunter2" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert redacted("postgres//billing:hunter2@host") == "(a connection string that cannot be parsed)"

    def test_a_login_that_may_not_take_the_role_gets_the_grant_to_run(
        self, database: Database, postgres_url: str
    ) -> None:
        with psycopg.connect(postgres_url, autocommit=True) as server:
            server.execute("create role stranger login password 'x'")
        try:
            with pytest.raises(DatabaseUnreachableError, match='grant billing_writer to "stranger"'):
                Database(login_url(database.url, "stranger", "x")).connect()
        finally:
            with psycopg.connect(postgres_url, autocommit=True) as server:
                server.execute("drop role stranger")


class TestTransaction:
    def test_commits_at_the_end_and_rolls_back_on_an_error(self, database: Database) -> None:
        insert = "insert into catalog.account values (%s, 'n', 'UTC', 'USD')"
        with database.transaction() as connection:
            connection.execute(insert, ["kept"])
        with pytest.raises(psycopg.errors.DivisionByZero), database.transaction() as connection:
            connection.execute("insert into catalog.account values ('lost', 'n', 'UTC', 'USD'); select 1 / 0")
        with database.reading() as connection:
            assert connection.execute("select account_id from catalog.account").fetchall() == [("kept",)]

    def test_one_name_is_held_by_one_transaction_at_a_time(self, database: Database) -> None:
        entered = threading.Event()

        def second() -> None:
            with database.transaction("usage/api_requests|2026-03-02", "usage/api_requests|2026-03-01"):
                entered.set()

        with database.transaction("usage/api_requests|2026-03-01", "other"):
            rival = threading.Thread(target=second)
            rival.start()
            assert not entered.wait(0.3)
        rival.join(10)
        assert entered.is_set()

    def test_overlapping_names_in_any_order_do_not_deadlock(self, database: Database) -> None:
        names = [f"day|{number}" for number in range(20)]
        done = []

        def work(order: list[str]) -> None:
            for _ in range(10):
                with database.transaction(*order):
                    done.append(1)

        workers = [threading.Thread(target=work, args=[order]) for order in (names, names[::-1], names[5:] + names[:5])]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        assert len(done) == 30

    def test_a_full_disk_is_named(self, database: Database) -> None:
        with pytest.raises(DatabaseFullError, match="is full"), database.transaction() as connection:
            connection.execute("do $$ begin raise sqlstate '53100' using message = 'could not extend file'; end $$")

    def test_a_server_that_goes_away_is_named(self, database: Database) -> None:
        with pytest.raises(DatabaseLostError, match="ended the session"), database.transaction() as connection:
            self.end_session_then_use_it(database, connection)

    def end_session_then_use_it(self, database: Database, connection: psycopg.Connection) -> None:
        with psycopg.connect(database.url, autocommit=True) as other:
            other.execute("select pg_terminate_backend(%s, 5000)", [connection.info.backend_pid])
        connection.execute("select 1")


class TestReading:
    def test_refuses_to_write(self, database: Database) -> None:
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), database.reading() as connection:
            connection.execute("delete from catalog.account")

    def test_sees_one_state_throughout(self, database: Database) -> None:
        count = "select count(*) from catalog.account"
        with database.reading() as reader:
            assert reader.execute(count).fetchall() == [(0,)]
            with database.transaction() as writer:
                writer.execute("insert into catalog.account values ('a', 'n', 'UTC', 'USD')")
            assert reader.execute(count).fetchall() == [(0,)]


class TestCopyArrow:
    def load(self, session: psycopg.Connection, **columns: pa.Array) -> list[tuple[object, ...]]:
        session.rollback()
        batch = pa.RecordBatch.from_pydict(columns)
        assert copy_arrow(session, "pg_temp.target", [batch]) == batch.num_rows
        return session.execute(f"select {', '.join(columns)} from target order by id".encode()).fetchall()

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(rows=st.lists(st.tuples(st.none() | TEXTS, st.none() | QUANTITIES), min_size=1, max_size=8))
    def test_text_and_numbers_come_back_as_they_went(
        self, session: psycopg.Connection, rows: list[tuple[str | None, Decimal | None]]
    ) -> None:
        texts, quantities = zip(*rows, strict=True)
        loaded = self.load(
            session,
            id=pa.array(range(len(rows))),
            text=pa.array(texts, pa.string()),
            quantity=pa.array(quantities, pa.decimal128(38, 9)),
        )
        assert [row[1:] for row in loaded] == rows

    def test_null_and_the_empty_string_stay_apart(self, session: psycopg.Connection) -> None:
        awkward = ["", None, '"', '""', "a,b", "line\nline\r\n", "\\.", "a\n\\.\nb", "\\N", "NULL", " ", "é😀", "'"]
        loaded = self.load(session, id=pa.array(range(len(awkward))), text=pa.array(awkward, pa.string()))
        assert [text for _, text in loaded] == awkward

    def test_the_ends_of_numeric_38_9_are_exact(self, session: psycopg.Connection) -> None:
        values = [
            EXTREME,
            EXTREME.copy_negate(),
            Decimal("0.000000001"),
            Decimal("-0.000000001"),
            Decimal("0.000000000"),
            None,
        ]
        loaded = self.load(session, id=pa.array(range(6)), quantity=pa.array(values, pa.decimal128(38, 9)))
        assert [value for _, value in loaded] == values

    def test_instants_keep_microseconds_and_their_zone(self, session: psycopg.Connection) -> None:
        at = datetime(2026, 3, 29, 1, 30, 0, 123456, UTC)
        for kind in (pa.timestamp("us", "UTC"), pa.timestamp("us"), pa.timestamp("us", "Europe/Berlin")):
            value = at.replace(tzinfo=None) if kind.tz is None else at.astimezone(timezone(timedelta(hours=2)))
            assert self.load(session, id=pa.array([1]), at=pa.array([value], kind)) == [(1, at)]

    def test_dates_flags_and_json_text_arrive(self, session: psycopg.Connection) -> None:
        state = {"values": ['a"b', ""], "at": None}
        loaded = self.load(
            session,
            id=pa.array([1, 2]),
            day=pa.array([date(2026, 3, 1), None]),
            flag=pa.array([True, False]),
            state=pa.array([json.dumps(state), None], pa.string()),
        )
        assert loaded == [(1, date(2026, 3, 1), True, state), (2, None, False, None)]

    def test_dictionary_columns_are_written_as_their_values(self, session: psycopg.Connection) -> None:
        column = pa.array(["a", None, "", "a"]).dictionary_encode()
        loaded = self.load(session, id=pa.array(range(4)), text=column)
        assert [text for _, text in loaded] == ["a", None, "", "a"]

    def test_columns_go_by_name_in_every_batch_and_slices_add_up(self, session: psycopg.Connection) -> None:
        session.rollback()
        rows = COPY_SLICE_ROWS + 3
        ids, texts = pa.array(range(rows)), pa.array(["x"] * rows)
        batches = [
            pa.RecordBatch.from_pydict({"id": ids, "text": texts}),
            pa.RecordBatch.from_pydict({"text": texts, "id": ids}),
            pa.RecordBatch.from_pydict({"id": ids[:0], "text": texts[:0]}),
        ]
        assert copy_arrow(session, "pg_temp.target", iter(batches)) == 2 * rows
        facts = session.execute("select count(*), sum(id), min(text), max(text) from target").fetchall()
        assert facts == [(2 * rows, rows * (rows - 1), "x", "x")]

    def test_nothing_to_load_is_zero_rows(self, session: psycopg.Connection) -> None:
        assert copy_arrow(session, "pg_temp.target", []) == 0

    @pytest.mark.parametrize(
        "column", [pa.array([0.1]), pa.array([b"x"]), pa.array([[1]]), pa.array([1], pa.timestamp("ns"))]
    )
    def test_refuses_what_would_not_be_exact(self, session: psycopg.Connection, column: pa.Array) -> None:
        with pytest.raises(CopyColumnError, match=r"column quantity for pg_temp\.target is"):
            copy_arrow(session, "pg_temp.target", [pa.RecordBatch.from_pydict({"quantity": column})])
