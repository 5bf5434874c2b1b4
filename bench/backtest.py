"""The case of a backtest: a year of stored usage with dearer prices for everybody, beside reading and rating it once.

Usage is a row a day and account, booked with the loaded catalog first. The draft changes the price that every account pays, so that
nothing is spared by being unchanged. Not here: the backtest itself (resources/backtest).
"""

from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg

from bench.catalog import TEMPLATES, write_catalog
from bench.measure import Median
from bench.task import Stopwatch, Task
from billing_pipeline.periods import RequestedDays
from resources.backtest.backtest_store import BacktestStore
from resources.booking_scope import read_scope
from resources.catalog_store import CatalogStore, read_catalog
from resources.charge_store import ChargeStore
from resources.charge_usage import rated_batches
from resources.collector import collector_paused
from resources.database import Database

FIRST = date(2025, 1, 1)
SCAN, RATE, BACKTEST = "scan", "scan and rate", "backtest"


def run_backtest(task: Task, stopwatch: Stopwatch) -> dict[str, Any]:
    """Fill and book `days` of usage, then time a bare scan of it, reading and rating it, and the backtest of a dearer draft."""
    days = [FIRST + timedelta(days=number) for number in range(int(task.options["days"]))]
    database = Database(task.database_url)
    with psycopg.connect(task.database_url, options="-c TimeZone=UTC") as connection:
        usage_rows = connection.execute(_USAGE, {"first": days[0], "last": days[-1], "endpoint": TEMPLATES[0]}).rowcount
        connection.execute(_BUILDS, {"first": days[0], "last": days[-1]})
        connection.commit()
        connection.autocommit = True
        connection.execute("vacuum analyze usage.api_requests")
    with stopwatch.part("book"):
        ChargeStore(database).book_days(days, run_id="bench", code_version="bench")
    catalog = CatalogStore(database).current()
    with database.transaction() as connection:
        with stopwatch.part(SCAN):
            connection.execute(_SCAN).fetchall()
        # As bookings and backtests do.
        with stopwatch.part(RATE), collector_paused():
            scope = read_scope(connection, catalog, RequestedDays(days))
            rated = sum(len(part.charges) for _, part in rated_batches(connection, catalog, scope))
    draft = read_catalog(_dearer(Path(task.options["draft"]), accounts=len(catalog.accounts)))
    with stopwatch.part(BACKTEST):
        found = BacktestStore(database).run(draft, first=days[0], last=days[-1], name="dearer", code_version="bench")
    changed, unaffected = found.scenario.charges_changed, found.scenario.charges_unaffected
    if not changed or found.scenario.charges_rated + unaffected != rated:
        raise AssertionError(f"{changed} charges changed, {found.scenario.charges_rated} and {unaffected} of {rated}")
    return {"usage_rows": usage_rows, "charges": rated, "changed": changed}


def _dearer(folder: Path, *, accounts: int) -> Path:
    """Write the benchmark's catalog with each unit price a tenth higher."""
    write_catalog(folder, accounts=accounts, subscribed=accounts)
    prices = (folder / "prices.toml").read_text()
    for price in ("0.0125", "0.0095", "0.0060"):
        prices = prices.replace(f'unit_price = "{price}"', f'unit_price = "{Decimal(price) * Decimal("1.1"):f}"')
    (folder / "prices.toml").write_text(prices)
    return folder


def ratio(median: Median) -> Decimal:
    """Return the backtest's time over that of one scan and rating."""
    seconds = {part.name: Decimal(str(part.seconds)) for part in median.parts}
    return seconds[BACKTEST] / seconds[RATE]


# A row a day and account, of 1 to 5,000 requests a day.
_USAGE = """
    insert into usage.api_requests (event_day, account_id, meter_id, period_start, period_end, endpoint, method, client_id,
        quantity, unit, request_count)
    select day::date, account_id, 'vehicle_requests', day + interval '9 hours', day + interval '10 hours', %(endpoint)s, 'GET',
        client_id, requests, 'request', requests
    from generate_series(%(first)s::timestamp at time zone 'UTC', %(last)s::timestamp at time zone 'UTC', interval '1 day')
        as day
    cross join catalog.account_client
    cross join lateral (select 1 + abs(hashtext(account_id || day::text)) %% 5000 as requests) as counted
"""
_BUILDS = """
    insert into usage.build
    select 'usage/api_requests', day::date, 'built', 'inputs', 'rules', '[]', 0, 0, 0, 0, 0, 0, 'bench', 'bench'
    from generate_series(%(first)s::timestamp, %(last)s::timestamp, interval '1 day') as day
"""
_SCAN = """
    select account_id, meter_id, date_trunc('month', period_start), sum(quantity)
    from usage.metered
    group by 1, 2, 3
"""
