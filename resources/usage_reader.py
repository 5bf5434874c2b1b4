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


@dataclass(frozen=True, slots=True, kw_only=True)
class BilledMonth:
    """A month (YYYY-MM, of the account's zone) in which billing periods with charges begin."""

    account_id: str
    month: str
    requests: int


def read_billed_months(database: Database, account_id: str | None = None) -> tuple[BilledMonth, ...]:
    """Return the months in which periods with charges begin, of one account or of all.

    The account with the most requests counted in usage comes first; of one account the newest month.
    """
    with database.reading() as connection:
        rows = connection.cursor(row_factory=class_row(BilledMonth)).execute(
            """
            with
            months as (
                select distinct
                    revision.account_id,
                    to_char(revision.period_start at time zone account.time_zone, 'YYYY-MM') as month
                from billing.charge_revision as revision
                join catalog.account using (account_id)
                where %(account_id)s::text is null or revision.account_id = %(account_id)s
            ),
            used as (
                select account_id, sum(request_count)::bigint as requests
                from usage.api_requests
                where %(account_id)s::text is null or account_id = %(account_id)s
                group by account_id
            )
            select account_id, month, coalesce(requests, 0) as requests
            from months
            left join used using (account_id)
            order by requests desc, account_id, month desc
            """,
            {"account_id": account_id},
        )
        return tuple(rows)
