"""Traffic of two accounts from samples to usage for tests: a catalog, a store, and what it has built."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from resources import guard_store
from resources.catalog_store import CatalogStore
from resources.database import Database
from resources.lake import Lake
from resources.traffic_config import TrafficSource
from resources.traffic_day_writer import TrafficDayBuild
from resources.traffic_inputs import ASSET
from resources.traffic_usage_store import (
    TrafficUsageStore,
)
from tests.traffic_chain import ACME, DAY, OTHER, Reading, TrafficDeliveries, source

NEXT_DAY, THIRD_DAY = DAY + timedelta(days=1), DAY + timedelta(days=2)
CATALOG = {
    "billable.toml": """
        version = 1
        success_statuses = [[200, 299]]
        endpoints = [{ method = "GET", endpoint = "/odometer" }]
    """,
    "meters.toml": """
        [[meter]]
        id = "traffic"
        source = "traffic"
        aggregation = "sum"
        field = "total_bytes"
        unit = "byte"
        [[meter]]
        id = "uplink"
        source = "traffic"
        aggregation = "sum"
        field = "uplink_bytes"
        unit = "byte"
    """,
    "prices.toml": """
        [[price]]
        id = "price"
        meter = "traffic"
        currency = "USD"
        [[price.versions]]
        version = 1
        effective_from = 2025-01-01T00:00:00Z
        model = "standard"
        unit_price = "0.5"
    """,
    "plans.toml": """
        [[plan]]
        id = "plan"
        prices = ["price"]
    """,
    "accounts.toml": f"""
        [[account]]
        id = "acme"
        name = "Acme"
        time_zone = "UTC"
        currency = "USD"
        clients = [{{ id = "{ACME}" }}]
    """,
    "subscriptions.toml": """
        [[subscription]]
        id = "sub"
        account = "acme"
        plan = "plan"
        starts_at = 2026-01-01T14:37:12Z
        anchor_day = 1
        anchor_time = 14:37:12
    """,
}
BOTH_ACCOUNTS = (
    CATALOG["accounts.toml"]
    + f"""
        [[account]]
        id = "other"
        name = "Other"
        time_zone = "UTC"
        currency = "USD"
        clients = [{{ id = "{OTHER}" }}]
"""
)


def load_catalog(database: Database, folder: Path, **changed: str) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in (CATALOG | {f"{stem}.toml": text for stem, text in changed.items()}).items():
        (folder / name).write_text(text)
    CatalogStore(database).load(folder)


@dataclass
class World:
    """A database with a catalog, a lake, and one way to put samples in and to read what they came to."""

    store: TrafficUsageStore
    deliveries: TrafficDeliveries
    folder: Path

    def configured(self, *sources: TrafficSource) -> "World":
        return replace(self, store=replace(self.store, sources=sources))

    def deliver(self, samples: Sequence[Reading], **options: Any) -> None:
        self.deliveries.deliver(samples, **options)

    def build(self, *days: date) -> tuple[TrafficDayBuild, ...]:
        return self.store.build_days(days or self.store.stale_days(), run_id="run", code_version="1")

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self.store.database.reading() as connection:
            return connection.execute(query.encode(), values).fetchall()

    def minutes(self, **only: str) -> dict[str, int]:
        """Return `hh:mm` -> bytes of the first day's minutes."""
        condition = " and ".join(["event_day = %s", *(f"{name} = %s" for name in only)])
        rows = self.rows(
            f"select to_char(bucket_start, 'HH24:MI'), sum(uplink_bytes + downlink_bytes)::bigint from usage.traffic_minute"
            f" where {condition} group by 1 order by 1",
            DAY,
            *only.values(),
        )
        return {minute: total for minute, total in rows if total}

    def epochs(self) -> set[int]:
        return {epoch for (epoch,) in self.rows("select epoch from usage.traffic_minute")}

    def billed(self, meter: str = "traffic") -> int:
        """Return the bytes that rating sees."""
        return int(self.rows("select coalesce(sum(quantity), 0) from usage.traffic where meter_id = %s", meter)[0][0])

    def stored(self) -> list[tuple[Any, ...]]:
        """Return everything that a bill rests on, without who built it when."""
        tables = ("traffic_minute", "traffic", "traffic_not_billable", "traffic_suspect")
        return [row for table in tables for row in sorted(self.rows(f"select * from usage.{table}"), key=repr)]

    def statuses(self, day: date = DAY) -> dict[str, str]:
        with self.store.database.reading() as connection:
            return {one.guard: str(one.status) for one in guard_store.verdicts(connection, ASSET, [day.isoformat()])}


@pytest.fixture
def world(database: Database, tmp_path: Path) -> World:
    load_catalog(database, tmp_path / "catalog")
    lake = Lake(str(tmp_path / "lake"), tmp_path / "scratch")
    store = TrafficUsageStore(
        database=database,
        lake=lake,
        scratch_dir=tmp_path / "scratch",
        sources=(source(on_first="full"),),
        memory_limit="256MB",
        threads=1,
    )
    return World(store, TrafficDeliveries(database, lake, tmp_path), tmp_path)
