"""Follow storage down: charge -> hours of byte-seconds -> the states of repositories in an hour; and how they become a level.

Read-only. Byte-seconds are exact, instants aware UTC. Not here: what says that a state is so (storage_evidence), a
repository's whole history (timeline_reader), showing any of it (console).
"""

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

from psycopg.rows import class_row

from billing_pipeline.amounts import Exact, exact_product
from billing_pipeline.cadences import period_containing
from billing_pipeline.periods import Window
from resources.catalog_store import CatalogStore
from resources.charge_reader import BookedCharge
from resources.database import Database

# The fields of storage meters that count states of one visibility; `bytes` counts all.
_VISIBILITY = {"private_bytes": "private", "public_bytes": "public"}


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageUsageRow:
    """A row of `usage.storage`. `quantity` are byte-seconds; `repository_count`: the most that were held at one time."""

    event_day: date
    account_id: str
    meter_id: str
    period_start: datetime
    period_end: datetime
    quantity: Decimal
    unit: str
    repository_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageUsageRows:
    """The first usage rows behind a charge, in order of time; how many there are, and what they come to.

    `byte_seconds` of all rows are divided by the seconds of `whole`, the whole billing period, also where the charge is for a
    part of it. `visibility`: that of the states that the meter counts, None: of all.
    """

    first: tuple[StorageUsageRow, ...]
    rows: int
    byte_seconds: Decimal
    whole: Window
    visibility: str | None

    @property
    def mean_bytes(self) -> Exact:
        """Return what is priced, before its unit is converted: 86400 GB-seconds in 30 days are 1/30 GB."""
        return exact_product(self.byte_seconds, times=Decimal(1), over=Decimal(self.whole.seconds))


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSegment:
    """The part `[start, end)` of a repository's state that is in a usage row. The state itself began at `state_start`.

    `basis`: snapshot, events, carried_back (before the first snapshot, events undone), no_snapshot.
    """

    event_day: date
    repository: str
    start: datetime
    end: datetime
    bytes: int
    visibility: str | None
    owner: str | None
    basis: str
    byte_seconds: Decimal
    state_start: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSegments:
    """The largest segments in a usage row, by byte-seconds; how many there are, and their sum: the row's quantity."""

    first: tuple[StorageSegment, ...]
    segments: int
    byte_seconds: Decimal


def read_storage_rows(database: Database, charge: BookedCharge, *, limit: int) -> StorageUsageRows:
    """Return the first `limit` usage rows of the charge's meter and period, and the figures of all.

    Raises:
        CatalogNotLoadedError: there is no catalog to tell the whole period and what the meter counts.
    """
    catalog = CatalogStore(database).current()
    subscription = catalog.subscriptions[charge.subscription_id]
    cadence, of = catalog.price(charge.price_id).cadence, subscription.anchored_at(charge.period.start)
    counted = catalog.meters[charge.meter_id or ""].field
    where = {
        "account_id": charge.account_id,
        "meter_id": charge.meter_id,
        "period_start": charge.period.start,
        "period_end": charge.period.end,
        "limit": limit,
    }
    with database.reading() as connection:
        first = connection.cursor(row_factory=class_row(StorageUsageRow)).execute(
            f"""
            select event_day, account_id, meter_id, period_start, period_end, quantity, unit, repository_count
            {_ROWS}
            order by period_start
            limit %(limit)s
            """.encode(),
            where,
        )
        found = tuple(first)
        ((rows, byte_seconds),) = connection.execute(
            f"select count(*), coalesce(sum(quantity), 0) {_ROWS}".encode(), where
        ).fetchall()
    return StorageUsageRows(
        first=found,
        rows=rows,
        byte_seconds=byte_seconds,
        whole=period_containing(cadence, of.anchor, since=of.starts_at, instant=charge.period.start),
        visibility=_VISIBILITY.get(counted or ""),
    )


def read_segments(database: Database, row: StorageUsageRow, *, visibility: str | None, limit: int) -> StorageSegments:
    """Return the `limit` largest segments that `row` adds up, and the figures of all. States of 0 bytes are left out.

    `visibility`: of the states that the row's meter counts, None: all.
    """
    where = {
        "event_day": row.event_day,
        "account_id": row.account_id,
        "period_start": row.period_start,
        "period_end": row.period_end,
        "visibility": visibility,
        "limit": limit,
    }
    with database.reading() as connection:
        first = connection.cursor(row_factory=class_row(StorageSegment)).execute(
            f"""
            {_SEGMENTS}
            select event_day, repository, segment_start as start, segment_end as "end", bytes, visibility, owner, basis,
                byte_seconds, state_start
            from measured
            order by byte_seconds desc, repository, segment_start
            limit %(limit)s
            """.encode(),
            where,
        )
        found = tuple(first)
        ((segments, byte_seconds),) = connection.execute(
            f"{_SEGMENTS} select count(*), coalesce(sum(byte_seconds), 0) from measured".encode(), where
        ).fetchall()
    return StorageSegments(first=found, segments=segments, byte_seconds=byte_seconds)


_ROWS = """
    from usage.storage
    where account_id = %(account_id)s
        and meter_id = %(meter_id)s
        and period_start >= %(period_start)s
        and period_start < %(period_end)s
"""

_SEGMENTS = """
    with
    clipped as (
        select
            event_day, repository, bytes, visibility, owner, basis,
            segment_start as state_start,
            greatest(segment_start, %(period_start)s) as segment_start,
            least(segment_end, %(period_end)s) as segment_end
        from usage.storage_state
        where event_day = %(event_day)s
            and account_id = %(account_id)s
            and segment_start < %(period_end)s
            and segment_end > %(period_start)s
            and bytes > 0
            and (%(visibility)s::text is null or visibility = %(visibility)s)
    ),
    measured as (
        select *, bytes::numeric * extract(epoch from segment_end - segment_start) as byte_seconds
        from clipped
    )
"""
