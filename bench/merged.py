"""The case of usage that cannot be added: a month of it rated by the hour and by merged days, after one day is built anew.

Each account has, every hour, rows of five endpoints, of a unique meter (4 of 500 clients each) and of a percentile (8 values
each). Not here: the merging itself (resources/merged_usage).
"""

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import psycopg

from bench.catalog import TEMPLATES
from bench.request_data import account_id
from bench.task import Stopwatch, Task
from billing_pipeline.periods import RequestedDays
from resources.booking_scope import read_scope
from resources.catalog_store import CatalogStore
from resources.charge_usage import UsageToDate, rate_to_date
from resources.database import Database
from resources.merged_usage import MergedUsage

FIRST = date(2026, 3, 1)
BY_HOUR, AT_FIRST, UNCHANGED, CHANGED = "by the hour", "merged at first", "nothing changed", "one day built anew"


def write_merged_catalog(folder: Path, *, accounts: int) -> Path:
    """Write a catalog of two prices, of a unique count and of a percentile, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    price = (
        '[[price]]\nid = "{0}"\nmeter = "{0}"\ncurrency = "USD"\n[[price.versions]]\nversion = 1\n'
        'effective_from = 2020-01-01T00:00:00Z\nmodel = "standard"\nunit_price = "0.01"\n'
    )
    texts = {
        "billable": f'version = 1\nsuccess_statuses = [[200, 299]]\nendpoints = [{{ endpoint = "{TEMPLATES[0]}" }}]\n',
        "meters": '[[meter]]\nid = "clients"\naggregation = "unique"\nfield = "client_id"\nunit = "client"\n'
        '[[meter]]\nid = "p95"\naggregation = "percentile"\npercentile = "95"\nfield = "response_time_us"\nunit = "us"\n',
        "prices": price.format("clients") + price.format("p95"),
        "plans": '[[plan]]\nid = "pro"\nprices = ["clients", "p95"]\n',
        "accounts": "".join(
            f'[[account]]\nid = "{account_id(number)}"\nname = "A"\ncurrency = "USD"\n' for number in range(accounts)
        ),
        "subscriptions": "".join(
            f'[[subscription]]\nid = "sub_{number}"\naccount = "{account_id(number)}"\nplan = "pro"\n'
            "starts_at = 2020-01-01T00:00:00Z\n"
            for number in range(accounts)
        ),
    }
    for name, text in texts.items():
        (folder / f"{name}.toml").write_text(text)
    return folder


def rate_merged(task: Task, stopwatch: Stopwatch) -> dict[str, Any]:
    """Fill a month, then rate its last day four times: by the hour, merged, again, and after a day of its middle was built."""
    days = int(task.options["days"])
    last = FIRST + timedelta(days=days - 1)
    with psycopg.connect(task.database_url, options="-c TimeZone=UTC") as connection:
        usage_rows = sum(
            connection.execute(_USAGE.encode(), {"first": FIRST, "last": last, "meter": meter, "state": state}).rowcount
            for meter, state in (("clients", "values"), ("p95", "counts"))
        )
        connection.commit()
        connection.autocommit = True
        connection.execute("vacuum analyze usage.api_requests")
    database = Database(task.database_url)
    found = []
    with stopwatch.part(BY_HOUR):
        found.append(_rated(database, last))
    _build(database, FIRST, last)
    for part in (AT_FIRST, UNCHANGED):
        with stopwatch.part(part):
            found.append(_rated(database, last))
    middle = FIRST + timedelta(days=days // 2)
    _build(database, middle, middle)
    with stopwatch.part(CHANGED):
        found.append(_rated(database, last))
    if len({frozenset((key, charge.rating_digest) for key, charge in one.charges.items()) for one in found}) != 1:
        raise AssertionError("merged days and hours come to different charges")
    with database.reading() as connection:
        row = connection.execute(
            "select pg_total_relation_size('usage.merged_block'), pg_total_relation_size('usage.api_requests')"
        ).fetchone()
    assert row is not None
    return {"usage_rows": usage_rows, "charges": len(found[0].charges), "merged_bytes": row[0], "usage_bytes": row[1]}


def _rated(database: Database, day: date) -> UsageToDate:
    catalog = CatalogStore(database).current()
    with database.transaction("billing/charges") as connection:
        scope = read_scope(connection, catalog, RequestedDays([day]))
        return rate_to_date(connection, catalog, scope, MergedUsage(connection, keeps=True))


def _build(database: Database, first: date, last: date) -> None:
    """Write that the usage of days was built: now."""
    with database.transaction() as connection:
        connection.execute(
            """
            insert into usage.build
            select 'usage/api_requests', day, 'built', 'inputs', 'rules', '[]', 0, 0, 0, 0, 0, 0, 'bench', 'bench'
            from generate_series(%s::date, %s::date, interval '1 day') as day
            on conflict (asset, partition_key) do update set built_at = clock_timestamp()
            """,
            [first, last],
        )


# Rows of five endpoints an hour and account, the same on every run.
_USAGE = """
    insert into usage.api_requests (event_day, account_id, meter_id, period_start, period_end, endpoint, method, client_id,
        quantity, unit, request_count, state)
    select hour::date, account_id, %(meter)s, hour, hour + interval '1 hour', endpoint, 'GET', 'c', 1, 'u', 8,
        case %(state)s
            when 'values' then jsonb_build_object('values', (
                select jsonb_agg('client_' || abs(hashtext(account_id || hour || endpoint || n)) %% 500)
                from generate_series(1, 4) as n))
            else jsonb_build_object('counts', (
                select jsonb_agg(jsonb_build_array(1000 * (1 + abs(hashtext(account_id || hour || endpoint || n)) %% 400), 1))
                from generate_series(1, 8) as n))
        end
    from catalog.account
    cross join generate_series(%(first)s::timestamp at time zone 'UTC',
        %(last)s::timestamp at time zone 'UTC' + interval '23 hours', interval '1 hour') as hour
    cross join (values ('/a'), ('/b'), ('/c'), ('/d'), ('/e')) as endpoints (endpoint)
"""
