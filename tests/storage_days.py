"""Days of storage for tests: a catalog with meters, what is said about repositories, stores over lake rows, and readers."""

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from billing_pipeline.storage_policy import StoragePolicy
from billing_pipeline.timelines import ObjectEvent, RepositoryEvent, Snapshot
from resources.catalog_store import CatalogStore
from resources.database import Database
from resources.lake import Lake
from resources.storage_usage_store import StorageDayBuild, StorageUsageStore
from tests.storage_chain import SOURCES, Facts

GB = 10**9
JUNE_1, JUNE_2, JUNE_3, JUNE_4 = (date(2026, 6, day) for day in (1, 2, 3, 4))

CATALOG = {
    "billable.toml": "version = 1\nsuccess_statuses = [[200, 299]]\nendpoints = []\n",
    "meters.toml": """
        [[meter]]
        id = "private_storage"
        source = "storage"
        aggregation = "time_weighted"
        field = "private_bytes"
        unit = "byte"
        [[meter]]
        id = "all_storage"
        source = "storage"
        aggregation = "time_weighted"
        field = "bytes"
        unit = "byte"
    """,
    "prices.toml": """
        [[price]]
        id = "fee"
        currency = "USD"
        [[price.versions]]
        version = 1
        effective_from = 2025-01-01T00:00:00Z
        model = "flat_fee"
        amount = "50.00"
    """,
    "plans.toml": '[[plan]]\nid = "plan"\nprices = ["fee"]\n',
    "accounts.toml": """
        [[account]]
        id = "acme"
        name = "Acme"
        time_zone = "America/New_York"
        currency = "USD"
        clients = [{ id = "ann" }]
        [[account]]
        id = "bolt"
        name = "Bolt"
        currency = "USD"
        clients = [{ id = "bob" }]
    """,
    "subscriptions.toml": """
        [[subscription]]
        id = "sub"
        account = "acme"
        plan = "plan"
        starts_at = 2026-01-01T19:37:12Z
        anchor_day = 1
        anchor_time = 14:37:12
    """,
}


def at(day: int, hour: int = 0, minute: int = 0, second: int = 0) -> datetime:
    return datetime(2026, 6, day, hour, minute, second, tzinfo=UTC)


def put(name: str, when: datetime, size: int, *, event_id: str = "", **fields: Any) -> tuple[str, ObjectEvent]:
    """Return a put of an object of its own."""
    fields = {"object_id": event_id or when.isoformat(), "action": "put", "event_name": "PutObject"} | fields
    return name, ObjectEvent(event_id=event_id or f"{name}-{when.isoformat()}", at=when, size_bytes=size, **fields)


def snapshot(
    name: str, when: datetime, size: int, visibility: str = "private", owner: str = "ann"
) -> tuple[str, Snapshot]:
    return name, Snapshot(at=when, size_bytes=size, visibility=visibility, owner=owner)


def became(name: str, when: datetime, kind: str, value: str) -> tuple[str, RepositoryEvent]:
    change = RepositoryEvent(event_id=f"{name}-{when.isoformat()}-{kind}", at=when, kind=kind, value=value)
    return name, change


FIRST_PUT, SECOND_PUT = put("ann/cats", at(1, 5), 2 * GB), put("ann/cats", at(1, 12), 2 * GB)
TURNED_PRIVATE = became("ann/cats", at(1, 14), "visibility", "private")
FIRST_SNAPSHOT = snapshot("ann/cats", at(1, 7), 2 * GB, "public")
SECOND_SNAPSHOT = snapshot("ann/cats", at(2, 7), 4 * GB)
EXAMPLE = Facts(
    snapshots=[FIRST_SNAPSHOT, SECOND_SNAPSHOT],
    object_events=[FIRST_PUT, SECOND_PUT],
    repository_events=[TURNED_PRIVATE],
)
WITHOUT_PUT = Facts(
    snapshots=[FIRST_SNAPSHOT, SECOND_SNAPSHOT], object_events=[FIRST_PUT], repository_events=[TURNED_PRIVATE]
)


def load_catalog(database: Database, folder: Path, **changed: str) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in (CATALOG | {f"{stem}.toml": text for stem, text in changed.items()}).items():
        (folder / name).write_text(text)
    CatalogStore(database).load(folder)


def store_with(database: Database, lake: Lake, tmp_path: Path, **policy: Any) -> StorageUsageStore:
    return StorageUsageStore(
        database=database,
        lake=lake,
        scratch_dir=tmp_path / "scratch",
        sources=frozenset(SOURCES.values()),
        policy=StoragePolicy(**policy),
        memory_limit="256MB",
        threads=1,
    )


def build(store: StorageUsageStore, *days: date, **options: Any) -> tuple[StorageDayBuild, ...]:
    return store.build_days(days or store.stale_days(), run_id="run", code_version="1", **options)


def settle(store: StorageUsageStore) -> list[tuple[date, ...]]:
    """Build what is stale until nothing is, and return what was stale each time."""
    rounds = []
    while stale := store.stale_days():
        rounds.append(stale)
        build(store, *stale)
        assert len(rounds) < 10
    return rounds


def rows(store: StorageUsageStore, query: str) -> list[tuple[Any, ...]]:
    with store.database.reading() as connection:
        return connection.execute(query.encode()).fetchall()


def everything(store: StorageUsageStore) -> list[tuple[Any, ...]]:
    """Return what a bill is made of, and what it is explained with."""
    found = rows(store, "select * from usage.storage_state order by 1, 2, 3")
    found += rows(store, "select * from usage.storage order by 2, 3, 4")
    return found + rows(store, "select * from usage.storage_drift order by 1, 2, 3")


def gb_hours(
    store: StorageUsageStore, account: str = "acme", meter: str = "private_storage", until: datetime | None = None
) -> Decimal:
    with store.database.reading() as connection:
        (total,) = connection.execute(
            "select coalesce(sum(quantity), 0) from usage.storage"
            " where account_id = %s and meter_id = %s and period_end <= coalesce(%s, 'infinity'::timestamptz)",
            [account, meter, until],
        ).fetchall()[0]
    return Decimal(total) / (GB * 3600)


def verdict(result: StorageDayBuild, guard: str) -> Any:
    return next(one for one in result.verdicts if one.guard == guard)
