"""Read usage for people: requests by hour for a plot, accounts that the catalog holds. Read-only.

Counts are of requests. Not here: quantities for a bill (charge_store), the records behind usage (lineage_reader).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from psycopg.rows import class_row

from resources.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class HourUsage:
    """Billable requests of an account in the UTC hour that begins at `hour`."""

    account_id: str
    hour: datetime
    requests: int


def read_hourly_requests(database: Database, days: Sequence[date]) -> tuple[HourUsage, ...]:
    """Return the billable requests of every account by hour, in order of hour and account.

    A request is in the rows of every meter that it reaches, so the meter that reaches most is the one that is counted.
    """
    with database.reading() as connection:
        rows = connection.cursor(row_factory=class_row(HourUsage)).execute(
            """
            with
            usage_of_days as (
                select account_id, meter_id, period_start, request_count
                from usage.api_requests
                where event_day = any(%(days)s)
            ),
            widest_meter as (
                select meter_id
                from usage_of_days
                group by meter_id
                order by sum(request_count) desc, meter_id
                limit 1
            )
            select account_id, date_trunc('hour', period_start, 'UTC') as hour, sum(request_count)::bigint as requests
            from usage_of_days
            join widest_meter using (meter_id)
            group by account_id, hour
            order by hour, account_id
            """,
            {"days": list(days)},
        )
        return tuple(rows)
