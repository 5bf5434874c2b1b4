"""Follow usage of requests down: charge -> usage rows -> the accepted records behind one row -> source file and line.

Read-only. The records are those of the lake generations that the day's last build was made of. Instants are aware UTC.
Not here: charges themselves (charge_reader), other usage (traffic_lineage, prepaid_lineage, storage_lineage), showing any
of it (console).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal

import psycopg
from psycopg.rows import class_row

from resources import duck
from resources.catalog_store import CatalogStore
from resources.database import Database
from resources.lake import Lake
from resources.lineage_files import build_uris, file_keys
from resources.settings import Settings

_USAGE = "usage/api_requests"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """A row of `usage.api_requests`, its mergeable state left out. `quantity` is in the meter's `unit`."""

    event_day: date
    account_id: str
    meter_id: str
    period_start: datetime
    period_end: datetime
    endpoint: str
    method: str
    client_id: str
    quantity: Decimal
    unit: str
    request_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRows:
    """The first usage rows behind a charge, and how many rows and requests there are in all."""

    first: tuple[UsageRow, ...]
    rows: int
    requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where an accepted record stands: source, file, 1-based line (or record of an Avro file)."""

    source: str
    key: str
    line_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Positions:
    """The first records behind a usage row, and how many there are; for every meter that takes all fields it is the
    row's `request_count`."""

    first: tuple[Position, ...]
    records: int


def read_usage_rows(
    database: Database,
    *,
    account_id: str,
    meter_id: str,
    period_start: datetime,
    period_end: datetime,
    group: Mapping[str, str],
    limit: int,
) -> UsageRows:
    """Return the usage rows of the account and meter inside the period, of one group of dimensions, in order of time."""
    where = {
        "account_id": account_id,
        "meter_id": meter_id,
        "period_start": period_start,
        "period_end": period_end,
        "endpoint": group.get("endpoint"),
        "method": group.get("method"),
        "client_id": group.get("client_id"),
    }
    with database.reading() as connection:
        first = connection.cursor(row_factory=class_row(UsageRow)).execute(
            _behind_a_charge(
                "event_day, account_id, meter_id, period_start, period_end, endpoint, method, client_id, quantity, unit,"
                " request_count"
            )
            + b" order by period_start, endpoint, method, client_id limit %(limit)s",
            {**where, "limit": limit},
        )
        found = tuple(first)
        ((rows, requests),) = connection.execute(
            _behind_a_charge("count(*), coalesce(sum(request_count), 0)::bigint"), where
        ).fetchall()
    return UsageRows(first=found, rows=rows, requests=requests)


def read_positions(database: Database, settings: Settings, row: UsageRow, *, limit: int) -> Positions:
    """Return the first `limit` records that `row` counts, by file and line, and how many records it counts.

    Raises:
        UsageNotBuiltError: the day has no build.
        LakeFileMissingError: a generation of the build is not in the lake any more.
    """
    rule = CatalogStore(database).current().billable_rule
    with database.reading() as connection:
        uris = build_uris(connection, _USAGE, row.event_day)
        uncounted = _uncounted(connection, row.event_day)
    lake = Lake(settings.lake_url, settings.scratch_dir)
    with duck.connect(settings.scratch_dir) as engine:
        records = engine.execute(
            duck.sql("usage_row_records"),
            {
                "files": [str(lake.fetch(uri)) for uri in uris],
                "period_start": row.period_start.astimezone(UTC).replace(tzinfo=None),
                "period_end": row.period_end.astimezone(UTC).replace(tzinfo=None),
                "client_id": row.client_id,
                "method": row.method,
                "endpoint": row.endpoint,
                "statuses": [code for low, high in rule.success_statuses for code in range(low, high + 1)],
                "uncounted_files": [file_id for file_id, _ in uncounted],
                "uncounted_lines": [line_number for _, line_number in uncounted],
                "limit": limit,
            },
        ).fetchall()
    with database.reading() as connection:
        files = file_keys(connection, (file_id for file_id, _, _ in records))
    return Positions(
        first=tuple(
            Position(source=files[file_id][0], key=files[file_id][1], line_number=line_number)
            for file_id, line_number, _ in records
        ),
        records=records[0][2] if records else 0,
    )


def _behind_a_charge(columns: str) -> bytes:
    """Return the query for the usage rows behind a charge; `columns` is this module's own text."""
    return f"""
        select {columns}
        from usage.api_requests
        where account_id = %(account_id)s
          and meter_id = %(meter_id)s
          and period_start >= %(period_start)s
          and period_end <= %(period_end)s
          and (%(endpoint)s::text is null or endpoint = %(endpoint)s)
          and (%(method)s::text is null or method = %(method)s)
          and (%(client_id)s::text is null or client_id = %(client_id)s)
        """.encode()


def _uncounted(connection: psycopg.Connection, day: date) -> Sequence[tuple[int, int]]:
    """Return (file id, line) of the day's contradictory versions that do not count."""
    return connection.execute(
        """
        select conflict.file_id, conflict.line_number
        from core.request_conflict as conflict
        left join core.request_conflict_decision as decision
          on decision.source = conflict.source and decision.event_id = conflict.event_id
        where conflict.event_day = %s and decision.content_sha256 is distinct from conflict.content_sha256
        """,
        (day,),
    ).fetchall()
