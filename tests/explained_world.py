"""A database with traffic and storage of two accounts, booked, from which charges are explained."""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from billing_pipeline.amounts import Money, to_money
from billing_pipeline.rating import VersionUsage, rate
from billing_pipeline.storage_policy import StoragePolicy
from console import explain_page
from resources.catalog_store import CatalogStore
from resources.charge_reader import BookedCharge, ChargeReader
from resources.charge_store import ChargeStore
from resources.database import Database
from resources.lake import Lake
from resources.lineage_files import Origin
from resources.runtime import Runtime
from resources.settings import Settings
from resources.storage_usage_store import StorageUsageStore
from resources.traffic_config import TrafficSource
from resources.traffic_sample_lineage import TrafficStep
from resources.traffic_usage_store import TrafficUsageStore
from tests import traffic_chain
from tests.storage_chain import SOURCES, Facts, StorageDeliveries
from tests.traffic_chain import ACME, OTHER, Reading, TrafficDeliveries

GB = 10**9
ALL = 10_000
STANDARD = 'version = 1\neffective_from = 2025-01-01T00:00:00Z\nmodel = "standard"\nunit_price = "10"'
CATALOG = {
    "billable": "version = 1\nsuccess_statuses = [[200, 299]]\nendpoints = []\n",
    "meters": """
        [[meter]]
        id = "traffic"
        source = "traffic"
        aggregation = "sum"
        field = "total_bytes"
        unit = "byte"
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
    "prices": f"""
        [[price]]
        id = "by_node"
        meter = "traffic"
        currency = "USD"
        group_by = ["node"]
        [[price.versions]]
        version = 1
        effective_from = 2025-01-01T00:00:00Z
        model = "graduated"
        tiers = [{{ up_to = "100", unit_price = "0.5" }}, {{ unit_price = "0.125" }}]
        [[price]]
        id = "per_byte"
        meter = "traffic"
        currency = "USD"
        billing_mode = "prepaid_balance"
        [[price.versions]]
        version = 1
        effective_from = 2025-01-01T00:00:00Z
        model = "metered_balance"
        unit_price = "0.5"
        included_quota_bytes = 100
        region_multipliers = {{ asia = "1.2" }}
        line_multipliers = {{ premium = "2.0" }}
        [[price]]
        id = "kept"
        meter = "private_storage"
        currency = "USD"
        [[price.versions]]
        {STANDARD}
        conversion = {{ unit = "GB-month", divide = "1000000000" }}
        [[price]]
        id = "kept_in_all"
        meter = "all_storage"
        currency = "USD"
        [[price.versions]]
        {STANDARD}
        conversion = {{ unit = "GB-month", divide = "1000000000" }}
    """,
    "plans": """
        [[plan]]
        id = "later"
        prices = ["by_node", "kept", "kept_in_all"]
        [[plan]]
        id = "before"
        prices = ["per_byte"]
    """,
    "accounts": f"""
        [[account]]
        id = "acme"
        name = "Acme"
        currency = "USD"
        clients = [{{ id = "{ACME}" }}, {{ id = "ann" }}]
        [[account]]
        id = "bolt"
        name = "Bolt"
        currency = "USD"
        clients = [{{ id = "{OTHER}" }}, {{ id = "bob" }}]
    """,
    "subscriptions": """
        [[subscription]]
        id = "s_acme"
        account = "acme"
        plan = "later"
        starts_at = 2026-06-01T03:37:12Z
        anchor_day = 1
        anchor_time = 14:37:12
        [[subscription]]
        id = "s_bolt"
        account = "bolt"
        plan = "before"
        starts_at = 2026-06-01T00:00:00Z
    """,
}
JUNE_1, JUNE_2, JUNE_3 = (date(2026, 6, day) for day in (1, 2, 3))


def at(day: int, hour: int = 0, minute: int = 0, second: int = 0) -> datetime:
    return datetime(2026, 6, day, hour, minute, second, tzinfo=UTC)


@dataclass
class World:
    """An installation, and what was delivered to it by file key and line, or without a file by source and instant."""

    database: Database
    folder: Path
    lake: Lake
    storage_deliveries: StorageDeliveries
    samples: dict[tuple[object, ...], Reading] = field(default_factory=dict)

    @classmethod
    def opened(cls, database: Database, folder: Path) -> "World":
        catalog = folder / "catalog"
        catalog.mkdir()
        for name, text in CATALOG.items():
            (catalog / f"{name}.toml").write_text(text)
        CatalogStore(database).load(catalog)
        lake = Lake(str(folder / "lake"), folder / "scratch")
        return cls(database, folder, lake, StorageDeliveries(database, lake, folder))

    @property
    def scratch(self) -> Path:
        return self.folder / "scratch"

    def use_traffic(self, samples: Sequence[Reading], *sources: TrafficSource) -> None:
        """Deliver samples, build and book."""
        TrafficDeliveries(self.database, self.lake, self.folder).deliver(samples)
        store = TrafficUsageStore(
            database=self.database, lake=self.lake, scratch_dir=self.scratch, sources=sources, threads=1
        )
        store.build_days(store.stale_days(), run_id="run", code_version="1")
        self.book(JUNE_1, JUNE_2)

    def keep(self, facts: Facts) -> None:
        """Deliver facts on June 2nd, build and book."""
        self.storage_deliveries.deliver(JUNE_2, facts)
        store = StorageUsageStore(
            database=self.database,
            lake=self.lake,
            scratch_dir=self.scratch,
            sources=frozenset(SOURCES.values()),
            policy=StoragePolicy(max_snapshot_age=timedelta(days=30)),
            threads=1,
        )
        for _ in range(3):
            store.build_days(store.stale_days() or [JUNE_3], run_id="run", code_version="1")
        self.book(JUNE_1, JUNE_2, JUNE_3)

    def book(self, *days: date) -> None:
        ChargeStore(self.database).book_days(days, run_id="run", code_version="1")

    def charges(self, price_id: str, account: str = "acme") -> list[BookedCharge]:
        """Return the charges of a price in any period."""
        reader = ChargeReader(self.database)
        found = {
            charge.charge_id: charge
            for instant in (at(1, 4), at(1, 20))
            for charge in reader.bill(account, instant).charges
            if charge.price_id == price_id
        }
        assert found
        return list(found.values())

    def rated(self, charge: BookedCharge, quantity: Any) -> Money:
        """Return what a quantity of raw rows costs at the charge's price."""
        price = CatalogStore(self.database).current().price(charge.price_id)
        usage = [VersionUsage(version=price.versions[0], quantity=quantity)]
        return to_money(rate(price=price, unit="byte", usage=usage).exact, price.currency)

    def raw(self, steps: Sequence[TrafficStep]) -> set[Reading]:
        """Return what was delivered where the steps say that they come from."""
        both = [one for step in steps for one in (step.sample, step.earlier) if one is not None]
        return {self.samples[self.place(one.origin, one.collected_at)] for one in both}

    @staticmethod
    def place(origin: Origin, collected_at: datetime) -> tuple[object, ...]:
        if origin.key is None:
            return origin.source, collected_at
        return origin.key, origin.line_number

    def explain(self, charge: BookedCharge, monkeypatch: pytest.MonkeyPatch, *, rows: int = 5, lines: int = 3) -> None:
        """Print the charge as the command does."""
        settings = Settings(
            home=self.folder, landing_url="", lake_url=str(self.folder / "lake"), catalog_dir=self.folder / "catalog"
        )

        @contextmanager
        def already_running(_: Settings) -> Iterator[Runtime]:
            yield Runtime(settings=settings, database=self.database, dagster_database_url="", child_environment={})

        monkeypatch.setattr(explain_page, "running", already_running)
        explain_page.show_charge(settings, str(charge.charge_id), usage_rows=rows, lines=lines)


@pytest.fixture
def world(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Return a world in which samples of the node jp come in files and those of others are pulled."""
    world = World.opened(database, tmp_path)
    write = traffic_chain.write_samples

    def with_files(path: Path, samples: Sequence[Reading]) -> Path:
        write(path, samples)
        key = f"traffic/{samples[0].day}.jsonl"
        file_id = register(database, key)
        lines = [number if one.node == "jp" else None for number, one in enumerate(samples, 1)]
        table = pyarrow.parquet.read_table(path)
        for name, values in (
            ("file_id", [None if line is None else file_id for line in lines]),
            ("line_number", lines),
        ):
            table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, pa.int64()))
        pyarrow.parquet.write_table(table, path)
        for line, one in zip(lines, samples, strict=True):
            place = (f"{one.env}-{one.node}", one.collected_at) if line is None else (key, line)
            world.samples[place] = one
        return path

    monkeypatch.setattr(traffic_chain, "write_samples", with_files)
    return world


def register(database: Database, key: str) -> int:
    """Return the id of a delivered file."""
    with database.transaction() as connection:
        ((file_id,),) = connection.execute(
            """
            insert into core.source_file (source, key, content_sha256, size_bytes, delivery_day, first_seen_at, modified_at,
                status, dataset, profile_version, lines_read, accepted_rows)
            values ('push', %s, %s, 1, %s, now(), now(), 'accepted', 'core/traffic_samples', 1, 1, 1)
            returning file_id
            """,
            [key, uuid.uuid4().hex * 2, JUNE_1],
        ).fetchall()
    return int(file_id)
