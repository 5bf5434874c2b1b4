"""Name the usage that a price cannot rate because it is below 0: event day, hour, dimensions, and the files delivered for that day.

Asked once, for an error that is on its way to a person. Not here: what may be below 0 (rating), the file and line of one record
(lineage_reader).
"""

from datetime import date

import psycopg

from billing_pipeline.amounts import exact_text
from billing_pipeline.catalog import Catalog
from billing_pipeline.rating import NegativeQuantityError

_SHOWN = 3


def with_usage(connection: psycopg.Connection, catalog: Catalog, error: NegativeQuantityError) -> NegativeQuantityError:
    """Return the error with the rows of usage that are below 0, where there are such rows, and how their days are put right."""
    price, charge = catalog.prices.get(error.place.entry_id), error.charge
    if price is None or price.meter_id is None or charge is None:
        return error
    found = connection.execute(
        _BELOW_ZERO,
        {
            "account": charge.account_id,
            "meter": price.meter_id,
            "start": charge.period.start,
            "end": charge.period.end,
            "shown": _SHOWN,
        },
    ).fetchall()
    if not found:
        return error
    rows = [
        f"{exact_text(quantity)} {unit} on {day} from {start.isoformat()} to {end.isoformat()}"
        f" ({', '.join(part for part in (asset, *dimensions) if part)})"
        for asset, day, start, end, quantity, unit, *dimensions, _ in found
    ]
    more = found[0][-1] - len(found)
    days = sorted({(asset, day) for asset, day, *_ in found})
    what = f"usage of meter {price.meter_id!r} below 0: {'; '.join(rows)}{f'; and {more} more rows' if more else ''}"
    files = _files(connection, [day for asset, day in days if asset == "usage/api_requests"])
    if files:
        what += f"; delivered in {', '.join(files)}"
    again = " and ".join(f"`billing materialize {asset} --day {day}`" for asset, day in days)
    return error.because(what, fix=f"{error.fix}. Such a day is built again by {again}")


def _files(connection: psycopg.Connection, days: list[date]) -> list[str]:
    """Return the first files of requests that have records of these days, as `source key`."""
    rows = connection.execute(
        """
        select distinct source || ' ' || key
        from core.source_file_day
        join core.source_file using (file_id)
        where event_day = any(%s::date[]) and dataset = 'core/request_records' and status = 'accepted'
        order by 1
        limit %s
        """,
        [days, _SHOWN],
    )
    return [name for (name,) in rows]


_BELOW_ZERO = """
    with
    usage_below_zero as (
        select 'usage/api_requests' as asset, event_day, period_start, period_end, quantity, unit, method, endpoint, client_id
        from usage.api_requests
        where account_id = %(account)s and meter_id = %(meter)s and quantity < 0
            and period_start >= %(start)s and period_start < %(end)s
        union all
        select 'usage/traffic', event_day, period_start, period_end, quantity, unit, '', node, inbound_tag
        from usage.traffic
        where account_id = %(account)s and meter_id = %(meter)s and quantity < 0
            and period_start >= %(start)s and period_start < %(end)s
        union all
        select 'usage/storage', event_day, period_start, period_end, quantity, unit, '', '', ''
        from usage.storage
        where account_id = %(account)s and meter_id = %(meter)s and quantity < 0
            and period_start >= %(start)s and period_start < %(end)s
    )
    select *, count(*) over () as rows
    from usage_below_zero
    order by period_start, method, endpoint, client_id
    limit %(shown)s
"""
