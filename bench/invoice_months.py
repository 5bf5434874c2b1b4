"""The case of totals by month: a million invoices of five years, added up by month for a page.

Invoices are rows put in by one statement; their amounts follow from their numbers, so that the truth is counted apart. One of a
thousand is void. Not here: how they are added up (resources/invoicing/invoice_reader).
"""

from datetime import date
from typing import Any

import psycopg

from bench.task import Stopwatch, Task
from billing_pipeline.amounts import Money
from resources.database import Database
from resources.invoicing.invoice_reader import InvoiceReader

MONTHS, FIRST_YEAR, VOID_EVERY = 60, 2021, 1_000
ADDED_UP = "totals by month"


class TotalsWrongError(Exception):
    """The totals are not what the invoices come to: their time is not worth telling."""


def months_of_years(task: Task, stopwatch: Stopwatch) -> dict[str, Any]:
    """Put `invoices` in, time their totals by month, and compare them with the truth."""
    count = int(task.options["invoices"])
    with psycopg.connect(task.database_url, options="-c TimeZone=UTC") as connection:
        values = {"count": count, "months": MONTHS, "year": FIRST_YEAR, "void": VOID_EVERY}
        connection.execute(_INVOICES, values)
        connection.execute(_VOIDS, values)
        connection.commit()
        connection.autocommit = True
        connection.execute("vacuum analyze invoicing.final_invoice")
    reader = InvoiceReader(Database(task.database_url))
    with stopwatch.part(ADDED_UP):
        found = reader.months()
    totals, counts = [0] * MONTHS, [0] * MONTHS
    for number in range(1, count + 1):
        if number % VOID_EVERY:
            totals[number % MONTHS] += number
            counts[number % MONTHS] += 1
    truth = [
        (date(FIRST_YEAR + month // 12, month % 12 + 1, 1), counts[month], Money(totals[month], "USD"))
        for month in range(MONTHS)
    ]
    if [(one.month, one.invoices, one.total) for one in found] != truth:
        raise TotalsWrongError(f"{len(found)} months, the first {found[:1]}, and the truth begins with {truth[0]}")
    return {"invoices": count, "months": len(found)}


_INVOICES = """
    insert into invoicing.final_invoice (
        invoice_id, account_id, period_start, period_end, issue, month, currency, item_count, total_minor, items_digest, number,
        finalized_by, finalized_at
    )
    select
        gen_random_uuid(), 'a' || number %% 10000, start + number * interval '1 microsecond', start + interval '1 month', 1,
        start::date, 'USD', 1, number, 'd', 'INV-' || number, 'bench', start
    from generate_series(1, %(count)s) as one (number),
        lateral (select make_timestamptz(%(year)s, 1, 1, 0, 0, 0) + make_interval(months => number %% %(months)s)) as at (start)
"""
_VOIDS = """
    insert into invoicing.voided_invoice (invoice_id, actor, reason)
    select invoice_id, 'bench', 'one of a thousand' from invoicing.final_invoice where total_minor %% %(void)s = 0
"""
