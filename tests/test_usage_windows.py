"""What PostgreSQL refuses of usage rows: windows over an hour's or a day's bound, and rows of another day."""

import psycopg
import pytest

from resources.database import Database

COLUMNS = "event_day, account_id, meter_id, period_start, period_end, quantity, unit"
TABLES = {
    "usage.api_requests": ("endpoint, method, client_id, request_count", "'/v1', 'GET', 'acme', 1"),
    "usage.traffic": ("env, node, inbound_tag, bucket_count", "'live', 'node', 'vless', 1"),
    "usage.storage": ("repository_count", "1"),
}


def insert(connection: psycopg.Connection, table: str, day: str, start: str, end: str) -> None:
    columns, values = TABLES[table]
    connection.execute(
        f"""
        insert into {table} ({COLUMNS}, {columns})
        values ('{day}', 'acme', 'meter', '{start}', '{end}', 1, 'one', {values})
        """
    )


@pytest.mark.parametrize("table", TABLES)
class TestWindows:
    @pytest.mark.parametrize(
        ("day", "start", "end"),
        [
            ("2026-03-01", "2026-03-01 00:00+00", "2026-03-01 01:00+00"),
            ("2026-03-01", "2026-03-01 23:00+00", "2026-03-02 00:00+00"),
            ("2026-03-01", "2026-03-01 05:15:30.000001+00", "2026-03-01 05:15:30.000002+00"),
            ("2026-03-29", "2026-03-29 02:30+01", "2026-03-29 03:00+01"),
            ("1999-12-31", "1999-12-31 23:30+00", "2000-01-01 00:00+00"),
        ],
    )
    def test_part_of_an_hour_is_kept_in_any_session_time_zone(
        self, database: Database, table: str, day: str, start: str, end: str
    ) -> None:
        with database.transaction() as connection:
            connection.execute("set local timezone to 'Australia/Lord_Howe'")
            insert(connection, table, day, start, end)

    @pytest.mark.parametrize(
        ("day", "start", "end", "constraint"),
        [
            ("2026-03-01", "2026-03-01 00:30+00", "2026-03-01 01:00:00.000001+00", "in_hour"),
            ("2026-03-01", "2026-03-01 23:30+00", "2026-03-02 00:15+00", "in_hour"),
            ("2026-03-01", "2026-03-02 00:00+00", "2026-03-02 01:00+00", "on_day"),
            ("2026-03-01", "2026-02-28 23:00+00", "2026-03-01 00:00+00", "on_day"),
            # Kathmandu's 05:30 is the day before in UTC.
            ("2026-03-02", "2026-03-02 05:30+05:45", "2026-03-02 05:45+05:45", "on_day"),
        ],
    )
    def test_what_passes_a_bound_is_refused(
        self, database: Database, table: str, day: str, start: str, end: str, constraint: str
    ) -> None:
        with pytest.raises(psycopg.errors.CheckViolation, match=constraint), database.transaction() as connection:
            insert(connection, table, day, start, end)
