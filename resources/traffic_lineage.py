"""Follow traffic down: charge -> usage rows -> minutes -> the samples behind them, each with the one before it.

Read-only. Bytes are exact, instants aware UTC; a minute's bytes are what its samples have grown since the sample before
(billing_pipeline/counters.py). Not here: where samples stand (traffic_sample_lineage), entries of a prepaid balance
(prepaid_lineage), showing any of it (console).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

from psycopg.rows import class_row, dict_row

from resources.charge_reader import BookedCharge
from resources.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficUsageRow:
    """A row of `usage.traffic`. `bucket_count`: minutes with traffic; `quantity` in the meter's `unit`."""

    event_day: date
    account_id: str
    meter_id: str
    period_start: datetime
    period_end: datetime
    env: str
    node: str
    inbound_tag: str
    quantity: Decimal
    unit: str
    bucket_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficUsageRows:
    """The first usage rows behind a charge, in order of time, and of all of them: how many there are, and their sum."""

    first: tuple[TrafficUsageRow, ...]
    rows: int
    quantity: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficMinute:
    """A row of `usage.traffic_minute`: one account uuid on one inbound of one node in the minute from `bucket_start`.

    `on_first` and `on_reset` are the node's policies, `basis` tells what the bytes rest on, `epoch` counts restarts and resets
    since midnight, `suspected_loss_bytes` were left out and may have been traffic.
    """

    event_day: date
    account_id: str
    bucket_start: datetime
    env: str
    node: str
    inbound_tag: str
    region: str
    line: str
    account_uuid: str
    uplink_bytes: int
    downlink_bytes: int
    on_first: str
    on_reset: str
    basis: str
    epoch: int
    suspected_loss_bytes: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficMinutes:
    """The first minutes behind a usage row, or a prepaid bucket, and the figures of all of them."""

    first: tuple[TrafficMinute, ...]
    minutes: int
    uplink_bytes: int
    downlink_bytes: int
    suspected_loss_bytes: int


def read_traffic_rows(database: Database, charge: BookedCharge, *, limit: int) -> TrafficUsageRows:
    """Return the first `limit` usage rows of the charge's meter, period and group, and the sum of all."""
    where = {
        "account_id": charge.account_id,
        "meter_id": charge.meter_id,
        "period_start": charge.period.start,
        "period_end": charge.period.end,
        "node": charge.group.get("node"),
        "inbound_tag": charge.group.get("inbound_tag"),
        "limit": limit,
    }
    with database.reading() as connection:
        first = connection.cursor(row_factory=class_row(TrafficUsageRow)).execute(
            f"""
            select event_day, account_id, meter_id, period_start, period_end, env, node, inbound_tag, quantity, unit,
                bucket_count
            {_ROWS}
            order by period_start, env, node, inbound_tag
            limit %(limit)s
            """.encode(),
            where,
        )
        found = tuple(first)
        ((rows, quantity),) = connection.execute(
            f"select count(*), coalesce(sum(quantity), 0) {_ROWS}".encode(), where
        ).fetchall()
    return TrafficUsageRows(first=found, rows=rows, quantity=quantity)


def read_minutes(database: Database, row: TrafficUsageRow, *, limit: int) -> TrafficMinutes:
    """Return the first `limit` minutes that `row` adds up, and the figures of all.

    A minute belongs to the window that its start is in. Among them are those that say no bytes, only that some were left out.
    """
    return read_minutes_where(
        database,
        """
        account_id = %(account_id)s
        and bucket_start >= %(period_start)s
        and bucket_start < %(period_end)s
        and env = %(env)s
        and node = %(node)s
        and inbound_tag = %(inbound_tag)s
        """,
        {
            "account_id": row.account_id,
            "period_start": row.period_start,
            "period_end": row.period_end,
            "env": row.env,
            "node": row.node,
            "inbound_tag": row.inbound_tag,
        },
        limit=limit,
    )


def read_minutes_where(
    database: Database, condition: str, parameters: Mapping[str, object], *, limit: int
) -> TrafficMinutes:
    """Return minutes in order of time; `condition` is SQL of a module of lineage, never a person's text."""
    with database.reading() as connection:
        first = connection.cursor(row_factory=class_row(TrafficMinute)).execute(
            f"""
            select event_day, account_id, bucket_start, env, node, inbound_tag, region, line, account_uuid, uplink_bytes,
                downlink_bytes, on_first, on_reset, basis, epoch, suspected_loss_bytes
            from usage.traffic_minute
            where {condition}
            order by bucket_start, env, node, inbound_tag, account_uuid
            limit %(limit)s
            """.encode(),
            {**parameters, "limit": limit},
        )
        found = tuple(first)
        (totals,) = (
            connection.cursor(row_factory=dict_row)
            .execute(
                f"""
                select
                    count(*) as minutes,
                    coalesce(sum(uplink_bytes), 0) as uplink_bytes,
                    coalesce(sum(downlink_bytes), 0) as downlink_bytes,
                    coalesce(sum(suspected_loss_bytes), 0) as suspected_loss_bytes
                from usage.traffic_minute
                where {condition}
                """.encode(),
                parameters,
            )
            .fetchall()
        )
    return TrafficMinutes(first=found, **{name: int(value) for name, value in totals.items()})


_ROWS = """
    from usage.traffic
    where account_id = %(account_id)s
        and meter_id = %(meter_id)s
        and period_start >= %(period_start)s
        and period_start < %(period_end)s
        and (%(node)s::text is null or node = %(node)s)
        and (%(inbound_tag)s::text is null or inbound_tag = %(inbound_tag)s)
"""
