"""Snapshots of exporters into the lake for tests: a store over simulated exporters, folders and pushes."""

from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from resources.database import Database
from resources.lake import Lake
from resources.landing import Landing
from resources.traffic_config import TrafficSource
from resources.traffic_samples import DATASET
from resources.traffic_store import DayCollected, TrafficStore
from tests.traffic_nodes import START, Node, minutes

DAY, NEXT_DAY = date(2026, 4, 8), date(2026, 4, 9)
HOUR = timedelta(hours=1)


def source(node: str = "jp", *, env: str = "prod", **fields: Any) -> TrafficSource:
    defaults: dict[str, Any] = {"name": f"{node}-{env}", "base_url": "https://exporter", "active_from": START}
    return TrafficSource(**{**defaults, "env": env, "node": node, **fields})


class Collector:
    """A store over fake nodes, and the questions that tests ask of it."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.folder = folder
        self.lake = Lake(str(folder / "lake"), folder / "scratch")
        (folder / "landing").mkdir(exist_ok=True)
        self.nodes: dict[str, Node] = {}
        self.sources: list[TrafficSource] = []
        self.options: dict[str, Any] = {}

    def add(self, node: Node, **fields: Any) -> Node:
        one = source(node.node, env=node.env, **fields)
        self.nodes[one.name] = node
        self.sources.append(one)
        return node

    @property
    def store(self) -> TrafficStore:
        return TrafficStore(
            self.database,
            self.lake,
            Landing(str(self.folder / "landing"), self.folder / "scratch"),
            self.sources,
            lambda one: self.nodes[one.name],
            self.folder / "scratch",
            b"key",
            memory_limit="256MB",
            threads=1,
            **self.options,
        )

    def collect(self, now: datetime, *days: date, **arguments: Any) -> tuple[DayCollected, ...]:
        for node in self.nodes.values():
            node.clock = now
        return self.store.collect_days(days or (DAY,), now=now, run_id="run", code_version="1", **arguments)

    def rows(self, day: date = DAY, columns: str = "* exclude (source, file_id, line_number)") -> list[tuple[Any, ...]]:
        """Return the samples of a day, in their order in the lake's key."""
        with self.database.reading() as connection:
            found = connection.execute(
                "select uri from core.lake_partition join core.lake_generation using (dataset, partition_key, generation)"
                " where dataset = %s and partition_key = %s",
                [DATASET, day],
            ).fetchone()
        if found is None:
            return []
        with duckdb.connect() as connection:
            return connection.execute(
                f"select {columns} from read_parquet(?, hive_partitioning = false)"
                " order by env, node, account_uuid, inbound_tag, collected_at",
                [str(self.lake.fetch(found[0]))],
            ).fetchall()

    def windows(self, name: str = "jp-prod") -> list[tuple[Any, ...]]:
        return self.query(
            "select window_start, status, missing_minutes, reason from core.traffic_window where source = %s order by 1",
            [name],
        )

    def completed_until(self, name: str = "jp-prod") -> datetime | None:
        rows = self.query("select completed_until from core.traffic_sync_state where source = %s", [name])
        return rows[0][0] if rows else None

    def verdict(self, guard: str, day: date = DAY) -> tuple[str, str]:
        rows = self.query(
            "select status, message from guards.verdict where asset = %s and partition_key = %s and guard = %s",
            [DATASET, day.isoformat(), guard],
        )
        return rows[0][0], rows[0][1]

    def query(self, text: str, parameters: list[Any] | None = None) -> list[tuple[Any, ...]]:
        with self.database.reading() as connection:
            return connection.execute(text.encode(), parameters or []).fetchall()

    def drop(self, name: str, content: bytes, *, of: str = "jp-prod") -> None:
        path = self.folder / "landing" / "traffic" / of / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@pytest.fixture
def collector(database: Database, tmp_path: Path) -> Collector:
    return Collector(database, tmp_path)


def at(minute: float) -> datetime:
    return START + minutes(minute)


def naive(minute: float) -> datetime:
    """Return an instant as the lake spells it: UTC without saying so."""
    return at(minute).replace(tzinfo=None)
