"""COPY's binary format, spelled here: whatever a column holds comes back from PostgreSQL as it was."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resources.copy_binary import (
    NULL,
    bigint,
    chunks,
    columns,
    copy_binary,
    day,
    instant,
    integer,
    jsonb,
    numeric,
    raw,
    smallint,
    text,
    uuid,
)
from resources.database import Database

_TABLE = """
    create temporary table kept (
        place smallint, a text, b numeric(38, 12), c timestamptz, d date, e uuid, f uuid, g bigint, h integer, i jsonb, j text
    ) on commit drop
"""
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
rows = st.tuples(
    texts,
    st.decimals(Decimal(-(10**25)), Decimal(10**25), places=12) | st.integers(-(10**9), 10**9).map(Decimal),
    st.integers(-(10**15), 3 * 10**15).map(lambda since: EPOCH + timedelta(microseconds=since)),
    st.dates(date(1990, 1, 1), date(2100, 1, 1)),
    st.uuids(),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(2**31), 2**31 - 1),
)
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
Row = tuple[str, Decimal, datetime, date, UUID, int, int]


def spelled(place: int, row: Row) -> bytes:
    a, b, c, d, e, g, h = row
    found = (smallint(place), text(a), numeric(b), instant(c), day(d), uuid(e), raw(e.bytes), bigint(g), integer(h))
    return b"".join((columns(11), *found, jsonb('{"a":["ä\\n",null]}'), text(None)))


class TestCopyBinary:
    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(rows, max_size=6))
    def test_keeps_every_value(self, database: Database, wanted: list[Row]) -> None:
        with database.transaction() as connection:
            connection.execute(_TABLE)
            copied = [spelled(place, row) for place, row in enumerate(wanted)]
            copy_binary(connection, b"copy kept from stdin (format binary)", chunks(copied))
            found = connection.execute("select a, b, c, d, e, f, g, h, i, j from kept order by place").fetchall()
        assert [(*one[:5], *one[6:8]) for one in found] == wanted
        assert all(one[4] == one[5] and one[8] == {"a": ["ä\n", None]} and one[9] is None for one in found)

    def test_sends_many_rows_in_chunks_of_whole_rows(self, database: Database) -> None:
        copied = [columns(1) + integer(number) for number in range(2_500)]
        assert [len(chunk) for chunk in chunks(copied)] == [10_000, 10_000, 5_000]
        with database.transaction() as connection:
            connection.execute("create temporary table kept (number integer) on commit drop")
            copy_binary(connection, b"copy kept from stdin (format binary)", chunks(copied))
            assert connection.execute("select count(*), sum(number) from kept").fetchall() == [(2_500, 3_123_750)]

    @pytest.mark.parametrize("value", ["0", "-0", "0.000000000001", "-0.0001", "1E+5", "10000", "99990000.0001"])
    def test_writes_numbers_as_the_text_of_them_does(self, database: Database, value: str) -> None:
        with database.transaction() as connection:
            connection.execute("create temporary table kept (number numeric(38, 12)) on commit drop")
            copy_binary(connection, b"copy kept from stdin (format binary)", [columns(1) + numeric(Decimal(value))])
            found = connection.execute("select number::text, number = %s::text::numeric from kept", [value]).fetchall()
            expected = connection.execute("select %s::text::numeric(38, 12)::text", [value]).fetchall()
        assert found == [(expected[0][0], True)]

    def test_refuses_a_number_that_the_column_would_round(self) -> None:
        with pytest.raises(ValueError, match="places"):
            numeric(Decimal("0.0000000000001"))

    def test_null_is_no_empty_text(self) -> None:
        assert text(None) == NULL != text("")

    def test_a_number_that_does_not_fit_is_the_servers_error(self, database: Database) -> None:
        with database.transaction() as connection:
            connection.execute("create temporary table kept (number numeric(38, 12)) on commit drop")
            with pytest.raises(psycopg.errors.NumericValueOutOfRange):
                copy_binary(
                    connection, b"copy kept from stdin (format binary)", [columns(1) + numeric(Decimal(10**30))]
                )
            connection.rollback()

    def test_instants_are_whole_microseconds_since_2000(self) -> None:
        at = datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
        assert instant(at) == b"\0\0\0\x08" + (-1).to_bytes(8, "big", signed=True)
        assert instant(at + timedelta(microseconds=1)) == bigint(0)
