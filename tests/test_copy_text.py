"""COPY's text format, spelled here: whatever a text holds comes back from PostgreSQL as it was."""

from datetime import UTC, datetime

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resources.copy_text import NULL, copy_text, escaped, flags_text, instant_text
from resources.database import Database

texts = st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8), max_size=5)


class TestCopyText:
    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(texts)
    def test_keeps_every_text(self, database: Database, found: list[str]) -> None:
        with database.transaction() as connection:
            connection.execute("create temporary table kept (place integer, value text) on commit drop")
            copy_text(connection, b"copy kept from stdin", (f"{n}\t{escaped(one)}\n" for n, one in enumerate(found)))
            rows = connection.execute("select value from kept order by place").fetchall()
        assert [value for (value,) in rows] == found

    def test_writes_nulls_instants_and_booleans(self, database: Database) -> None:
        at = datetime(2026, 3, 1, 10, tzinfo=UTC)
        with database.transaction() as connection:
            connection.execute(
                "create temporary table kept (a text, b timestamptz, c boolean, d boolean) on commit drop"
            )
            rows = (f"{NULL}\t{instant_text(at)}\t{flags_text((True, False))}\n" for _ in range(5_000))
            copy_text(connection, b"copy kept from stdin", rows)
            found = connection.execute("select distinct a, b, c, d, count(*) over () from kept").fetchall()
        assert found == [(None, at, True, False, 5_000)]
