"""What each event day's storage is made of, read from PostgreSQL by one statement for all days.

A day is made of its own files, of what the day before has left (its tail), of the object listings that the tail refers to, of
what later days have found out about how repositories began, and of which of its deliveries are held. The digest of these is the
day's inputs digest. Not here: reading the lake (storage_scan), building (storage_usage_store).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import psycopg
from psycopg.rows import class_row

from billing_pipeline.storage_checks import HeldDelivery
from resources import duck

ASSET = "usage/storage"
TAILS = "usage/storage_tails"
SNAPSHOTS, LISTINGS = "core/storage_snapshots", "core/storage_objects"
OBJECT_EVENTS, REPOSITORY_EVENTS = "core/object_events", "core/visibility_events"
DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """What a day leaves to the next: the digest of its content, its lake file, and the days of the snapshots it refers to."""

    digest: str
    uri: str
    index_days: tuple[date, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenSnapshot:
    """A snapshot that counts, whatever it lists. `snapshot_at` is UTC without its zone, as in the lake. `bucket` None: a table."""

    source: str
    snapshot_id: str
    snapshot_at: datetime
    bucket: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageDay:
    """The inputs of an event day as PostgreSQL has them, and what it was last built from; `built_*` None: never built."""

    day: date
    own_digest: str
    bases_digest: str
    listing_digest: str
    generations: Sequence[Mapping[str, object]]
    snapshots: Sequence[Sequence[str]]
    held_deliveries: Sequence[Sequence[str]]
    tail_digest: str | None
    tail_uri: str | None
    index_days: Sequence[date]
    built_inputs_digest: str | None
    built_rules_digest: str | None
    is_held: bool

    @property
    def has_evidence(self) -> bool:
        """Tell whether anything was delivered about the day itself."""
        return bool(self.own_digest or self.snapshots)

    @property
    def held(self) -> tuple[HeldDelivery, ...]:
        """Return what holds deliveries of the day, or with rows of it."""
        return tuple(
            HeldDelivery(dataset=dataset, delivery_day=delivery_day, guard=guard)
            for dataset, delivery_day, guard, _ in self.held_deliveries
        )

    @property
    def tail(self) -> Tail | None:
        """Return what the day leaves to the next, None before its first build."""
        if self.tail_digest is None or self.tail_uri is None:
            return None
        return Tail(digest=self.tail_digest, uri=self.tail_uri, index_days=tuple(self.index_days))

    @property
    def taken_snapshots(self) -> tuple[TakenSnapshot, ...]:
        """Return the snapshots that count on the day."""
        return tuple(
            TakenSnapshot(
                source=source, snapshot_id=snapshot_id, snapshot_at=datetime.fromisoformat(instant), bucket=bucket
            )
            for source, snapshot_id, instant, bucket in self.snapshots
        )

    def uris(self, dataset: str) -> tuple[str, ...]:
        """Return the current lake files of `dataset` with rows of the day."""
        return tuple(str(one["uri"]) for one in self.generations if one["dataset"] == dataset)

    def lake_rows(self, *datasets: str) -> int:
        """Return the day's rows in the current lake files of these datasets."""
        return sum(int(str(one["rows"])) for one in self.generations if one["dataset"] in datasets)


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageInputs:
    """All days from the first evidence on, without gaps."""

    days: Mapping[date, StorageDay]

    @property
    def last_evidence(self) -> date | None:
        """Return the last day that anything was delivered about; None without any."""
        return max((day for day, one in self.days.items() if one.has_evidence), default=None)

    def opening(self, day: date) -> Tail | None:
        """Return what the day before has left; None on the first day, or when the day before was never built."""
        before = self.days.get(day - DAY)
        return None if before is None else before.tail

    def digest(self, day: date, opening: Tail | None, as_of: datetime | None = None) -> str:
        """Return the day's inputs digest when it begins with `opening`. `as_of`: inside the day, where it ends early."""
        own = self.days.get(day)
        parts = [
            own.own_digest if own else "",
            own.bases_digest if own else "",
            opening.digest if opening else "",
            *(self.days[one].listing_digest for one in (opening.index_days if opening else ()) if one in self.days),
            as_of.isoformat() if as_of and as_of < day_end(day) else "",
            *(json.dumps(one) for one in ((own.snapshots, own.held_deliveries) if own else ())),
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def listing_uris(self, day: date, opening: Tail | None) -> tuple[str, ...]:
        """Return the lake files with the object listings that the day needs: of its own snapshots and of those before."""
        wanted = {day, *(opening.index_days if opening else ())}
        return tuple(sorted({uri for one in wanted if one in self.days for uri in self.days[one].uris(LISTINGS)}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """How a repository was before anything had said so, as builds of later days have found it; `base_bytes` in one bucket."""

    repository: str
    bucket: str = ""
    base_bytes: int | None
    base_visibility: str | None
    base_owner: str | None


def day_end(day: date) -> datetime:
    """Return the midnight after `day`, in UTC."""
    return datetime.fromisoformat(f"{day + DAY}T00:00:00+00:00")


def read_inputs(
    connection: psycopg.Connection,
    sources: Sequence[str],
    *,
    first_day: date | None = None,
    last_day: date | None = None,
) -> StorageInputs:
    """Return the inputs of every day from the first evidence to the last, and from `first_day`, to `last_day`."""
    with connection.cursor(row_factory=class_row(StorageDay)) as cursor:
        rows = cursor.execute(
            duck.sql("storage_inputs").encode(),
            {"sources": sorted(sources), "asset": ASSET, "first_day": first_day, "last_day": last_day},
        ).fetchall()
    return StorageInputs(days={row.day: row for row in rows})


def read_later_bases(connection: psycopg.Connection, day: date) -> tuple[Base, ...]:
    """Return what days after `day` have found out about repositories that had begun by then, the earliest finding of each."""
    with connection.cursor(row_factory=class_row(Base)) as cursor:
        return tuple(
            cursor.execute(
                """
                select
                    repository,
                    bucket,
                    (array_agg(base_bytes order by event_day) filter (where base_bytes is not null))[1] as base_bytes,
                    (array_agg(base_visibility order by event_day) filter (where base_visibility is not null))[1]
                        as base_visibility,
                    (array_agg(base_owner order by event_day) filter (where base_owner is not null))[1] as base_owner
                from usage.storage_base
                where began_on <= %(day)s and event_day > %(day)s
                group by repository, bucket
                """,
                {"day": day},
            ).fetchall()
        )
