"""Counter samples of a day to minute buckets in PostgreSQL: by our store, by polars, by PostgreSQL; and the yardstick, a bare scan.

The others do less than our job and are not charged for it: no proof of order, no conflict, no policy but `baseline`, no two
writers, no tail of the day before or for the next, no hours for rating, no guards. All end in usage.traffic_minute, keys and all.
"""

import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from bench.task import Stopwatch, Task
from bench.traffic_data import TrafficData, day_of_streams, days_of_node

# A minute without bytes tells what happened in it; the others do not keep such, nor epochs.
_DIGEST = """
    select count(*), coalesce(sum(hashtextextended(concat_ws('|', event_day, account_id, bucket_start, env, node, inbound_tag,
        account_uuid, uplink_bytes, downlink_bytes), 0)::numeric), 0)::text
    from usage.traffic_minute
    where uplink_bytes > 0 or downlink_bytes > 0
"""
_COLUMNS = (
    "event_day, account_id, bucket_start, env, node, inbound_tag, region, line, account_uuid, uplink_bytes, downlink_bytes,"
    " on_first, on_reset, basis, epoch"
)
_CLIENTS = "select client_id, account_id from catalog.account_client"


def make(task: Task, stopwatch: Stopwatch) -> dict[str, Any]:
    """Write the data set."""
    data = _data(task)
    return {"size_bytes": data.size_bytes, "rows": data.rows, "users": data.users}


def scan(task: Task, stopwatch: Stopwatch) -> dict[str, Any]:
    """Let DuckDB read every value of every column, with its own defaults, and keep nothing."""
    import duckdb

    with stopwatch.part("scan"), duckdb.connect(":memory:") as connection:
        query = "select count(*), max(columns(*)) from read_parquet($files)"
        rows = connection.execute(query, {"files": _data(task).files}).fetchall()[0][0]
    return {"rows": rows, "version": duckdb.__version__}


def deltas(task: Task, stopwatch: Stopwatch) -> dict[str, Any]:
    """Scan as the store does, and take the minutes of all streams as Arrow without keeping them: what comes before accounts."""
    # DuckDB looks for pandas when it is given a table: an import, and not timed
    import pandas  # noqa: F401

    from billing_pipeline.meters import MeterSource
    from resources.catalog_store import CatalogStore
    from resources.database import Database
    from resources.traffic_inputs import FirstSnapshot
    from resources.traffic_scan import TrafficScan, TrafficScanInputs
    from resources.usage_rules import usage_rules

    data = _data(task)
    rules = usage_rules(CatalogStore(Database(task.database_url)).current(), data.days, MeterSource.TRAFFIC)
    inputs = TrafficScanInputs(
        days=data.days,
        sample_files=tuple(map(Path, data.files)),
        tail_file=None,
        first_snapshots=tuple(
            FirstSnapshot(env="prod", node=node, collected_at=at, conflicting_streams=()) for node, at in _firsts(data)
        ),
        policies={},
        rules=rules,
    )
    with stopwatch.part("deltas"), TrafficScan(inputs, scratch_dir=task.path("scratch")) as found:
        minutes = sum(batch.num_rows for batch in found.deltas())
    return {"minutes": minutes}


def by_store(task: Task, stopwatch: Stopwatch) -> dict[str, Any]:
    """Build all days with the store. Publishing the files is ingest's work and not timed."""
    from resources.database import Database
    from resources.delivery_manifest import write_generation
    from resources.lake import Lake
    from resources.traffic_inputs import SAMPLES
    from resources.traffic_usage_store import TrafficUsageStore

    data, database, scratch = _data(task), Database(task.database_url), task.path("scratch")
    lake = Lake(str(task.path("lake")), scratch)
    rows = data.rows // len(data.days)
    with database.transaction() as connection:
        for day in data.days:
            published = lake.publish(data.file(day), dataset=SAMPLES, partition=day, generation="bench")
            write_generation(
                connection, SAMPLES, day, "bench", published, rows=rows, event_days={day: rows},
                inputs_digest="bench", code_version="bench", run_id="bench",
            )  # fmt: skip
        for node, at in _firsts(data):
            connection.execute(
                "insert into core.traffic_snapshot (env, node, collected_at, content_sha256, source, sample_count, received_at)"
                " values ('prod', %s, %s, repeat('0', 64), %s, 1, now())",
                [node, at, node],
            )
    store = TrafficUsageStore(database=database, lake=lake, scratch_dir=scratch)
    with stopwatch.part("stale days"):
        days = store.stale_days()
    with stopwatch.part("build"):
        builds = store.build_days(days, run_id="bench", code_version="bench")
    held = [build.day.isoformat() for build in builds if build.state == "held"]
    if held:
        raise AssertionError(f"event days were held, so the figures mean nothing: {held[:3]}")
    return {"usage": _digest(task), "hours": sum(build.usage_rows for build in builds), "days": len(builds)}


def by_polars(task: Task, stopwatch: Stopwatch) -> dict[str, Any]:
    """All streams at once, by shifted columns over sorted ones."""
    import polars as pl

    data = _data(task)
    stream = ["env", "node", "account_uuid", "inbound_tag"]
    with stopwatch.part("deltas"):
        samples = pl.scan_parquet(data.files).select(
            *stream, "collected_at", "uplink_bytes", "downlink_bytes", "uptime_seconds"
        )
        first_of_node = samples.group_by("env", "node").agg(first_at=pl.col("collected_at").min())
        earlier = {name: pl.col(name).shift(1).over(stream) for name in ("uplink_bytes", "downlink_bytes")}
        before = pl.col("collected_at").shift(1).over(stream)
        has_restarted = pl.col("uptime_seconds") < (pl.col("collected_at") - before).dt.total_seconds()
        is_baseline = before.is_null() & (pl.col("collected_at") <= pl.col("first_at"))

        def delta(name: str) -> pl.Expr:
            return (
                pl.when(is_baseline)
                .then(0)
                .when(before.is_null() | has_restarted.fill_null(False))
                .then(pl.col(name))
                .when(pl.col(name) >= earlier[name])
                .then(pl.col(name) - earlier[name])
                .otherwise(0)
                .alias(name)
            )

        minutes = (
            samples.join(first_of_node, on=["env", "node"])
            .sort(*stream, "collected_at")
            .select(
                *stream,
                pl.col("collected_at").dt.truncate("1m").alias("bucket_start"),
                delta("uplink_bytes"),
                delta("downlink_bytes"),
            )
            .group_by(*stream, "bucket_start")
            .agg(pl.col("uplink_bytes").sum(), pl.col("downlink_bytes").sum())
            .filter((pl.col("uplink_bytes") > 0) | (pl.col("downlink_bytes") > 0))
            .collect(engine="streaming")
        )
    with stopwatch.part("to PostgreSQL"), psycopg.connect(task.database_url) as connection:
        clients = pl.DataFrame(
            connection.execute(_CLIENTS).fetchall(), schema=["account_uuid", "account_id"], orient="row"
        )
        rows = minutes.join(clients, on="account_uuid").select(
            pl.col("bucket_start").dt.date().alias("event_day"), "account_id",
            pl.col("bucket_start").dt.strftime("%Y-%m-%dT%H:%M:%SZ"), "env", "node", "inbound_tag",
            pl.lit("").alias("region"), pl.lit("").alias("line"), "account_uuid", "uplink_bytes", "downlink_bytes",
            pl.lit("baseline").alias("on_first"), pl.lit("baseline").alias("on_reset"), pl.lit("difference").alias("basis"),
            pl.lit(0).alias("epoch"),
        )  # fmt: skip
        statement = f"copy usage.traffic_minute ({_COLUMNS}) from stdin (format csv)"
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            for part in rows.iter_slices(500_000):
                text = io.BytesIO()
                part.write_csv(text, include_header=False, quote_style="non_numeric")
                copy.write(text.getbuffer())
    return {"usage": _digest(task), "version": pl.__version__}


def by_postgres(task: Task, stopwatch: Stopwatch) -> dict[str, Any]:
    """COPY into an unlogged table, then one statement with window functions; sorts and hashes in up to 1 GB of memory."""
    import polars as pl

    with psycopg.connect(task.database_url, options="-c TimeZone=UTC -c work_mem=1GB -c jit=off") as connection:
        with stopwatch.part("copy"):
            connection.execute(
                "create unlogged table samples (env text, node text, account_uuid text, inbound_tag text,"
                " collected_at timestamptz, uplink_bytes bigint, downlink_bytes bigint, uptime_seconds bigint)"
            )
            with connection.cursor() as cursor, cursor.copy("copy samples from stdin (format csv)") as copy:
                for file in _data(task).files:
                    frame = pl.read_parquet(file).select(
                        "env", "node", "account_uuid", "inbound_tag",
                        pl.col("collected_at").dt.strftime("%Y-%m-%dT%H:%M:%SZ"), "uplink_bytes", "downlink_bytes",
                        "uptime_seconds",
                    )  # fmt: skip
                    for part in frame.iter_slices(500_000):
                        text = io.BytesIO()
                        part.write_csv(text, include_header=False)
                        copy.write(text.getbuffer())
            connection.execute("analyze samples")
        with stopwatch.part("sql"):
            connection.execute(_SQL.format(columns=_COLUMNS).encode())
            connection.commit()
        version = connection.info.server_version
    return {"usage": _digest(task), "version": f"{version // 10000}.{version % 10000}"}


_SQL = """
    insert into usage.traffic_minute ({columns})
    with
    neighbours as (
        select
            *,
            lag(collected_at) over stream as earlier_at,
            lag(uplink_bytes) over stream as earlier_uplink_bytes,
            lag(downlink_bytes) over stream as earlier_downlink_bytes
        from samples
        window stream as (partition by env, node, account_uuid, inbound_tag order by collected_at)
    ),
    first_of_node as (select env, node, min(collected_at) as first_at from samples group by env, node),
    judged as (
        select
            neighbours.*,
            earlier_at is null and collected_at <= first_at as is_baseline,
            earlier_at is null or coalesce(uptime_seconds < extract(epoch from collected_at - earlier_at), false) as is_whole
        from neighbours
        join first_of_node using (env, node)
    ),
    minutes as (
        select
            env, node, account_uuid, inbound_tag, date_trunc('minute', collected_at, 'UTC') as bucket_start,
            sum(case when is_baseline then 0 when is_whole then uplink_bytes
                else greatest(uplink_bytes - earlier_uplink_bytes, 0) end)::bigint as uplink_bytes,
            sum(case when is_baseline then 0 when is_whole then downlink_bytes
                else greatest(downlink_bytes - earlier_downlink_bytes, 0) end)::bigint as downlink_bytes
        from judged
        group by 1, 2, 3, 4, 5
    )
    select
        bucket_start::date, account_id, bucket_start, env, node, inbound_tag, '', '', account_uuid, uplink_bytes,
        downlink_bytes, 'baseline', 'baseline', 'difference', 0
    from minutes
    join catalog.account_client on client_id = account_uuid
    where uplink_bytes > 0 or downlink_bytes > 0
"""


def _data(task: Task) -> TrafficData:
    folder, samples = Path(task.landing), task.options["samples"]
    if "days" in task.options:
        return days_of_node(folder, samples=samples, days=task.options["days"])
    return day_of_streams(folder, samples=samples)


def _firsts(data: TrafficData) -> list[tuple[str, datetime]]:
    import duckdb

    with duckdb.connect(":memory:") as connection:
        query = "select node, min(collected_at) from read_parquet($file) group by node order by node"
        rows = connection.execute(query, {"file": data.files[0]}).fetchall()
    return [(node, at.replace(tzinfo=UTC)) for node, at in rows]


def _digest(task: Task) -> tuple[int, str]:
    with psycopg.connect(task.database_url, options="-c TimeZone=UTC") as connection:
        rows, digest = connection.execute(_DIGEST).fetchall()[0]
    return int(rows), str(digest)
