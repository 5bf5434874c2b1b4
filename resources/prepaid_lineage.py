"""Follow a prepaid charge down: charge -> entries of the balance -> the minutes of traffic behind one. Read-only.

Not here: samples behind minutes (traffic_sample_lineage), the balance itself (balance_reader), showing any of it (console).
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from psycopg.rows import kwargs_row

from resources.database import Database
from resources.traffic_lineage import TrafficMinutes, read_minutes_where


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepaidEntry:
    """A row of `billing.prepaid_entry`: what a bucket (a minute of an account uuid on a node) took, or a difference to it.

    `amount_delta` is exact, in major units, below 0 where it lowers the balance; `rated_bytes` were paid for, `included_bytes`
    taken from the quota. `pricing_rule_version` is price:version. `revision` 1 is the bucket's first entry.
    """

    bucket_id: UUID
    revision: int
    entry_type: str
    bucket_start: datetime
    env: str
    node: str
    account_uuid: str
    region: str
    line: str
    account_id: str
    rated_bytes: int
    included_bytes: int
    multiplier: Decimal
    amount_delta: Decimal
    pricing_rule_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepaidEntries:
    """The first entries of a charge, in the order in which quota is spent, and the sums of all of them."""

    first: tuple[PrepaidEntry, ...]
    entries: int
    rated_bytes: int
    included_bytes: int
    amount: Decimal


def read_prepaid_entries(database: Database, charge_id: UUID, *, limit: int) -> PrepaidEntries:
    """Return the first `limit` entries of the charge, and the sums of all; without any it is not prepaid, or used nothing."""
    with database.reading() as connection:
        first = connection.cursor(row_factory=kwargs_row(_entry)).execute(
            """
            select bucket_id, revision, entry_type, bucket_start, env, node, account_uuid, region, line, account_id,
                rated_bytes, included_bytes, multiplier, amount_delta, pricing_rule_version
            from billing.prepaid_entry
            where charge_id = %s
            order by bucket_start, env collate "C", node collate "C", account_uuid collate "C", region collate "C",
                line collate "C", revision
            limit %s
            """,
            [charge_id, limit],
        )
        found = tuple(first)
        ((entries, rated, included, amount),) = connection.execute(
            """
            select count(*), coalesce(sum(rated_bytes), 0), coalesce(sum(included_bytes), 0), coalesce(sum(amount_delta), 0)
            from billing.prepaid_entry
            where charge_id = %s
            """,
            [charge_id],
        ).fetchall()
    return PrepaidEntries(
        first=found, entries=entries, rated_bytes=int(rated), included_bytes=int(included), amount=amount
    )


def _entry(*, rated_bytes: Decimal, **others: Any) -> PrepaidEntry:
    return PrepaidEntry(rated_bytes=int(rated_bytes), **others)


def read_bucket_minutes(database: Database, entry: PrepaidEntry, *, limit: int) -> TrafficMinutes:
    """Return the first `limit` minutes of the entry's bucket, one for each inbound, as they are now."""
    return read_minutes_where(
        database,
        """
        account_id = %(account_id)s
        and bucket_start = %(bucket_start)s
        and env = %(env)s
        and node = %(node)s
        and account_uuid = %(account_uuid)s
        and region = %(region)s
        and line = %(line)s
        """,
        {
            "account_id": entry.account_id,
            "bucket_start": entry.bucket_start,
            "env": entry.env,
            "node": entry.node,
            "account_uuid": entry.account_uuid,
            "region": entry.region,
            "line": entry.line,
        },
        limit=limit,
    )
