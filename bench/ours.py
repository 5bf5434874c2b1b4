"""Our job as the product runs it: delivered files -> lake generation, manifest, quarantine -> usage rows in PostgreSQL."""

from collections import Counter
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa

from bench.task import Stopwatch, Task
from resources.database import Database
from resources.lake import Lake
from resources.landing import Landing
from resources.request_ingest import DayIngest
from resources.request_store import RequestStore
from resources.settings import Settings
from resources.source_config import load_sources
from resources.usage_store import DayBuild, UsageStore

_NAME = "bench"


def build_usage(task: Task, stopwatch: Stopwatch) -> dict[str, Any]:
    """Run the two stores one after the other, with their own defaults of memory and threads."""
    database, scratch = Database(task.database_url), task.path("scratch")
    # Loads pandas: an import, as those of others are outside of the clock.
    pa.array([0])
    lake = Lake(str(task.path("lake")), scratch)
    requests = RequestStore(
        database,
        lake,
        Landing(task.landing, scratch),
        load_sources(Path(task.catalog)),
        scratch,
        b"bench",
    )
    usage = UsageStore(database=database, lake=lake, scratch_dir=scratch, expectations=requests.expected_hours)
    with stopwatch.part("discover"):
        found = requests.discover(seen_at=datetime.now(UTC))
    with stopwatch.part("ingest"):
        ingests = requests.ingest_days(found.delivery_days, run_id=_NAME, code_version=_NAME)
    with stopwatch.part("usage"):
        builds = usage.build_days(usage.stale_days(), run_id=_NAME, code_version=_NAME)
    return _facts(ingests, builds)


def build_usage_with_dagster(task: Task, stopwatch: Stopwatch) -> dict[str, Any]:
    """Run the two assets over all days in one Dagster run each, as `billing materialize` does."""
    settings = Settings(
        home=task.path("home"),
        landing_url=task.landing,
        lake_url=str(task.path("lake")),
        catalog_dir=Path(task.catalog),
        billing_database_url=task.database_url,
        dagster_database_url=task.dagster_database_url,
    )
    from console.runs import pipeline

    with pipeline(settings) as ready:
        with stopwatch.part("ingest"):
            ready.ingest()
        store = UsageStore(database=ready.runtime.database, lake=Lake(settings.lake_url, settings.scratch_dir),
                           scratch_dir=settings.scratch_dir)  # fmt: skip
        days: tuple[date, ...] = store.stale_days()
        with stopwatch.part("usage"):
            ready.run(("usage/api_requests",), days)
        return {"event_days": len(days), "steps": {name: round(took, 1) for name, took in ready.seconds.items()}}


def _facts(ingests: tuple[DayIngest, ...], builds: tuple[DayBuild, ...]) -> dict[str, Any]:
    seconds: Counter[str] = Counter()
    for ingest in ingests:
        for name, took in ingest.seconds.items():
            seconds[name] += took  # type: ignore[assignment]
    held = [build.day.isoformat() for build in builds if build.state == "held"]
    if held:
        raise AssertionError(f"event days were held, so the figures mean nothing: {held[:3]}")
    billable = sum(build.billable for build in builds)
    read = sum(build.records_read for build in builds)
    return {
        "lines": sum(ingest.counts.lines_read for ingest in ingests),
        "duplicates": sum(ingest.counts.duplicate for ingest in ingests),
        "billable_share": str(round(Decimal(billable) / max(1, read), 4)),
        "delivery_days": len(ingests),
        "event_days": len(builds),
        "ingest_seconds": {name: str(took) for name, took in seconds.items()},
    }
