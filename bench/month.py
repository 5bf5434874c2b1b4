"""The case of a month: subscriptions with five prices each, rated and booked at once, and once more when nothing has changed.

A fee and four meters: a unit price, graduated tiers, volume tiers, packages. Usage is a row a meter and account, so that
booking is measured and not adding up. Not here: rating alone (money), usage itself (ours).
"""

import json
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from bench.catalog import TEMPLATES, write_catalog
from bench.measure import Median
from bench.request_data import account_id
from bench.task import Part, Stopwatch, Task
from resources.charge_store import ChargeStore
from resources.database import Database

if TYPE_CHECKING:
    from bench.cases import Result, Suite

BOOK, AGAIN = "rate and book", "nothing changed"
PRICES = 5
_DAY = date(2026, 3, 31)
_METERS = ("calls", "reads", "writes", "exports")
_TIERS = (
    '[{ up_to = "1000", unit_price = "0.0125", flat_fee = "2.50" }, { up_to = "10000", unit_price = "0.0095" }, '
    '{ unit_price = "0.006" }]'
)
_FIGURES = {
    "calls": 'model = "standard"\nunit_price = "0.0019"',
    "reads": f'model = "graduated"\ntiers = {_TIERS}',
    "writes": f'model = "volume"\ntiers = {_TIERS}',
    "exports": 'model = "package"\npackage_size = "100"\npackage_price = "1.20"\nfree_units = "200"',
}


def write_month_catalog(folder: Path, *, subscriptions: int) -> Path:
    """Write a catalog in which each of `subscriptions` accounts is on the plan with five prices."""
    write_catalog(folder, accounts=subscriptions)
    head = '[[price]]\nid = "{}"\n{}currency = "USD"\n[[price.versions]]\nversion = 1\neffective_from = 2020-01-01T00:00:00Z\n{}\n'
    prices = [head.format("fee", "", 'model = "flat_fee"\namount = "29.00"')]
    prices += [head.format(name, f'meter = "{name}"\n', figures) for name, figures in _FIGURES.items()]
    files = {
        "meters.toml": "".join(
            f'[[meter]]\nid = "{name}"\naggregation = "count"\nunit = "request"\nendpoints = ["{TEMPLATES[place]}"]\n'
            for place, name in enumerate(_METERS)
        ),
        "prices.toml": "".join(prices),
        "plans.toml": f'[[plan]]\nid = "pro"\nprices = {json.dumps(["fee", *_METERS])}\n',
        "subscriptions.toml": "".join(
            f'[[subscription]]\nid = "sub_{number:04}"\naccount = "{account_id(number)}"\nplan = "pro"\n'
            "starts_at = 2020-01-01T00:00:00Z\n"
            for number in range(subscriptions)
        ),
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def book_month(task: Task, stopwatch: Stopwatch) -> dict[str, Any]:
    """Book the month of all subscriptions, then once more: the second time nothing is booked."""
    with psycopg.connect(task.database_url, options="-c TimeZone=UTC", autocommit=True) as connection:
        usage_rows = connection.execute(
            _USAGE, {"day": _DAY, "meters": list(_METERS), "endpoint": TEMPLATES[0]}
        ).rowcount
        connection.execute("vacuum analyze usage.api_requests")
        connection.execute("checkpoint")
    store = ChargeStore(Database(task.database_url))
    with stopwatch.part(BOOK):
        first = store.book_days([_DAY], run_id="bench", code_version="bench")[0]
    with stopwatch.part(AGAIN):
        again = store.book_days([_DAY], run_id="bench", code_version="bench")[0]
    if first.held or again.revisions_booked or not first.revisions_booked:
        raise AssertionError(f"booked {first.revisions_booked}, again {again.revisions_booked}, held {first.held}")
    with psycopg.connect(task.database_url) as connection:
        (lines,) = connection.execute(
            "select sum(jsonb_array_length(lines))::bigint from billing.charge_revision"
        ).fetchall()[0]
    return {"usage_rows": usage_rows, "charges": first.revisions_booked, "lines": lines}


def month_case(suite: "Suite") -> "Result":
    """Lines a second of booking a month, memory, and how much of the time the client waits for the database."""
    from bench.cases import GIB, Goal, Result

    subscriptions = 10 * suite.subscriptions
    catalog = write_month_catalog(suite.folder / f"catalog-month-{subscriptions}", subscriptions=subscriptions)
    median = suite.bench.interleaved([Task(contender="month")], runs=1, catalog=catalog, told=suite.told)[0]
    lines, charges = int(median.facts["lines"]), int(median.facts["charges"])
    seen = lines / _part(median, BOOK).seconds
    return Result(
        case="booking",
        title=f"A month of {subscriptions:,} subscriptions with {PRICES} prices: {charges:,} charges, {lines:,} lines",
        columns=("", "wall s", "lines/s", "charges/s", "client's CPU s", "waiting for the database"),
        rows=tuple(
            (
                part.name,
                f"{part.seconds:.1f}",
                f"{lines / part.seconds:,.0f}",
                f"{charges / part.seconds:,.0f}",
                f"{part.cpu_seconds:.1f}",
                f"{1 - part.cpu_seconds / part.seconds:.0%}",
            )
            for part in median.parts
        ),
        goals=(
            Goal(
                name="booking",
                goal="at least 50,000 booked lines a second",
                seen=f"{seen:,.0f} lines a second",
                is_met=seen >= 50_000,
            ),
            Goal(
                name="memory of booking",
                goal="at most 2 GB",
                seen=f"{median.peak_bytes / GIB:.2f} GiB",
                is_met=median.peak_bytes <= 2 * 10**9,
            ),
        ),
        notes=(f"CPU of the server for filling, booking and booking again: {median.server_cpu_seconds:.1f} s.",),
        medians=(median,),
    )


def _part(median: Median, name: str) -> Part:
    return next(part for part in median.parts if part.name == name)


# Skewed as accounts are: most use little, some a thousand times as much.
_USAGE = """
    insert into usage.api_requests (event_day, account_id, meter_id, period_start, period_end, endpoint, method, client_id,
        quantity, unit, request_count)
    select %(day)s, account_id, meter_id, hour, hour + interval '1 hour', %(endpoint)s, 'GET', client_id,
        requests, 'request', requests
    from catalog.account_client
    cross join unnest(%(meters)s::text[]) as meter_id
    cross join lateral (select %(day)s::timestamp at time zone 'UTC' + interval '9 hours' as hour) as at
    cross join lateral (
        select 1 + abs(hashtext(account_id || meter_id)) %% 600 * (abs(hashtext(meter_id || account_id)) %% 97) as requests
    ) as counted
    order by account_id, meter_id, hour
"""
