"""A month of storage to hourly rows in PostgreSQL: by our store, by polars, by PostgreSQL; and the yardstick, a bare scan.

The others do less than our job and are not charged for it: no states of repositories, no drifts, no multipart, no corrections, no
states before the first snapshot, no guards, no late events, no digests. All end in usage.storage, keys and all.
"""

import io
from typing import Any

import psycopg

from bench.storage_catalog import METER
from bench.storage_data import DATASETS, StorageData, storage_data
from bench.task import Stopwatch, Task

_DIGEST = """
    select count(*), coalesce(sum(hashtextextended(concat_ws('|', event_day, account_id, meter_id, period_start, period_end,
        quantity, unit), 0)::numeric), 0)::text
    from usage.storage
"""
_COLUMNS = "event_day, account_id, meter_id, period_start, period_end, quantity, unit, repository_count"
_CLIENTS = "select client_id, account_id from catalog.account_client"


def make(task: Task, stopwatch: Stopwatch) -> dict[str, Any]:
    """Write the data set."""
    return {"size_bytes": _data(task).size_bytes}


def scan(task: Task, stopwatch: Stopwatch) -> dict[str, Any]:
    """Let DuckDB read every value of every column, with its own defaults, and keep nothing."""
    import duckdb

    data = _data(task)
    rows = 0
    with stopwatch.part("scan"), duckdb.connect(":memory:") as connection:
        for dataset in DATASETS:
            query = "select count(*), max(columns(*)) from read_parquet($files)"
            rows += connection.execute(query, {"files": data.files(dataset)}).fetchall()[0][0]
    return {"rows": rows, "version": duckdb.__version__}


def by_store(task: Task, stopwatch: Stopwatch) -> dict[str, Any]:
    """Build all days with the store, as a first run does. Publishing the files is ingest's work and not timed."""
    from billing_pipeline.storage_policy import StoragePolicy
    from resources.database import Database
    from resources.delivery_manifest import write_generation
    from resources.lake import Lake
    from resources.storage_usage_store import StorageUsageStore

    data, database = _data(task), Database(task.database_url)
    scratch = task.path("scratch")
    lake = Lake(str(task.path("lake")), scratch)
    with database.transaction() as connection:
        for day in data.all_days:
            (file_id,) = connection.execute(
                """
                insert into core.source_file (source, key, content_sha256, size_bytes, delivery_day,
                    first_seen_at, modified_at, status)
                values ('inventory', %s, repeat('0', 64), 1, %s, now(), now(), 'accepted')
                returning file_id
                """,
                [str(day), day],
            ).fetchall()[0]
            connection.execute("insert into core.source_file_day values (%s, %s, 1)", [file_id, day])
            for dataset in DATASETS:
                published = lake.publish(data.file(dataset, day), dataset=dataset, partition=day, generation="bench")
                rows = _rows(data, dataset, day)
                write_generation(
                    connection, dataset, day, "bench", published, rows=rows, event_days={day: rows},
                    inputs_digest="bench", code_version="bench", run_id="bench",
                )  # fmt: skip
    store = StorageUsageStore(
        database=database, lake=lake, scratch_dir=scratch, sources=frozenset({"inventory"}), policy=StoragePolicy()
    )
    with stopwatch.part("stale days"):
        days = store.stale_days()
    with stopwatch.part("usage"):
        builds = store.build_days(days, run_id="bench", code_version="bench")
    held = [build.day.isoformat() for build in builds if build.state == "held"]
    if held:
        raise AssertionError(f"event days were held, so the figures mean nothing: {held[:3]}")
    with psycopg.connect(task.database_url) as connection:
        states = connection.execute("select count(*) from usage.storage_state").fetchall()[0][0]
    events = sum(build.events_read for build in builds)
    return {"usage": _digest(task), "events": events, "states": states, "days": len(builds)}


def by_polars(task: Task, stopwatch: Stopwatch) -> dict[str, Any]:
    """All days at once in memory; integers throughout, as every instant is a whole second."""
    import polars as pl

    data = _data(task)
    with stopwatch.part("read and integrate"):
        events = pl.scan_parquet(data.files("core/object_events")).unique("event_id", keep="any")
        events = events.select("repository", "event_at", "object_id", "action", "bytes")
        puts = events.filter(pl.col("action") == "put").select("object_id", held="bytes")
        deltas = (
            events.join(puts, on="object_id", how="left")
            .with_columns(pl.when(pl.col("action") == "put").then("bytes").otherwise(-pl.col("held")).alias("delta"))
            .group_by("repository", at="event_at")
            .agg(pl.col("delta").sum())
        )
        flips = pl.scan_parquet(data.files("core/visibility_events")).select(
            "repository", at="event_at", visibility="value"
        )
        snapshots = pl.scan_parquet(data.files("core/storage_snapshots")).select(
            "repository", "visibility", at="snapshot_at", anchor="bytes"
        )
        steps = (
            pl.concat([deltas, flips, snapshots], how="diagonal")
            .with_columns(is_snapshot=pl.col("anchor").is_not_null())
            .sort("repository", "at", "is_snapshot")
            .with_columns(
                pl.col("visibility").forward_fill().over("repository"),
                epoch=pl.col("is_snapshot").cum_sum().over("repository"),
                end=pl.col("at").shift(-1).over("repository"),
            )
            .with_columns(
                bytes=pl.col("anchor").forward_fill().over("repository")
                + pl.col("delta").fill_null(0).cum_sum().over("repository", "epoch")
            )
            .filter(pl.col("visibility") == "private", pl.col("bytes") > 0)
            .select(
                "at", "end", "bytes", owner=pl.col("repository").str.split("/").list.first()
            )
        )  # fmt: skip
        end = pl.lit(data.all_days[-1]).cast(pl.Datetime("us")) + pl.duration(days=1)
        changes = pl.concat(
            [
                steps.select("owner", "at", change="bytes"),
                steps.select("owner", at=pl.col("end").fill_null(end), change=-pl.col("bytes")),
            ]
        )
        hours = pl.LazyFrame({"day": data.all_days}).select(pl.col("day").cast(pl.Datetime("us")))
        hours = hours.join(pl.LazyFrame({"hour": range(24)}), how="cross").select(
            at=pl.col("day") + pl.duration(hours=pl.col("hour"))
        )
        grid = changes.select("owner").unique().join(hours, how="cross").with_columns(change=pl.lit(0, pl.Int64))
        usage = (
            pl.concat([changes, grid.select("owner", "at", "change")])
            .group_by("owner", "at")
            .agg(pl.col("change").sum())
            .sort("owner", "at")
            .with_columns(
                level=pl.col("change").cum_sum().over("owner"), end=pl.col("at").shift(-1).over("owner").fill_null(end)
            )
            .with_columns(
                held=pl.col("level") * (pl.col("end") - pl.col("at")).dt.total_seconds(),
                hour=pl.col("at").dt.truncate("1h"),
            )
            .group_by("owner", "hour")
            .agg(pl.col("held").sum())
            .filter(pl.col("held") > 0)
            .collect(engine="streaming")
        )
    with stopwatch.part("to PostgreSQL"), psycopg.connect(task.database_url) as connection:
        clients = pl.DataFrame(connection.execute(_CLIENTS).fetchall(), schema=["owner", "account_id"], orient="row")
        rows = usage.join(clients, on="owner").select(
            pl.col("hour").dt.date(), "account_id", pl.lit(METER).alias("meter"),
            pl.col("hour").dt.strftime("%Y-%m-%dT%H:%M:%SZ").alias("start"),
            (pl.col("hour") + pl.duration(hours=1)).dt.strftime("%Y-%m-%dT%H:%M:%SZ").alias("end"),
            "held", pl.lit("byte-second").alias("unit"), pl.lit(1).alias("count"),
        )  # fmt: skip
        text = io.BytesIO()
        rows.write_csv(text, include_header=False)
        with (
            connection.cursor() as cursor,
            cursor.copy(f"copy usage.storage ({_COLUMNS}) from stdin (format csv)") as copy,
        ):
            copy.write(text.getbuffer())
    return {"usage": _digest(task), "version": pl.__version__}


def by_postgres(task: Task, stopwatch: Stopwatch) -> dict[str, Any]:
    """COPY everything into unlogged tables, then one statement; sorts and hashes in up to 1 GB of memory."""
    data = _data(task)
    with psycopg.connect(task.database_url, options="-c TimeZone=UTC -c work_mem=1GB -c jit=off") as connection:
        with stopwatch.part("copy"):
            for dataset, (table, columns) in _TABLES.items():
                connection.execute(f"create unlogged table {table} ({columns})".encode())
                _copy_parquet(connection, table, columns, data.files(dataset))
            connection.execute("analyze")
        with stopwatch.part("sql"):
            last = data.all_days[-1]
            connection.execute(_SQL.format(columns=_COLUMNS, meter=METER, last=last, first=data.all_days[0]).encode())
            connection.commit()
        version = connection.info.server_version
    return {"usage": _digest(task), "version": f"{version // 10000}.{version % 10000}"}


_TABLES = {
    "core/storage_snapshots": ("snapshots", "repository text, snapshot_at timestamp, visibility text, bytes bigint"),
    "core/object_events": (
        "events",
        "event_id text, repository text, event_at timestamp, object_id text, action text, bytes bigint",
    ),
    "core/visibility_events": ("flips", "repository text, event_at timestamp, value text"),
}
_SQL = """
    insert into usage.storage ({columns})
    with
    once as (select distinct event_id, repository, event_at, object_id, action, bytes from events),
    deltas as (
        select once.repository, once.event_at as at,
            sum(case when once.action = 'put' then once.bytes else -puts.bytes end)::bigint as delta
        from once
        left join once as puts on once.action = 'delete' and puts.action = 'put' and puts.object_id = once.object_id
        group by 1, 2
    ),
    steps as (
        select repository, at, 0 as rank, delta, null::text as visibility, null::bigint as anchor from deltas
        union all
        select repository, event_at, 0, null, value, null from flips
        union all
        select repository, snapshot_at, 1, null, visibility, bytes from snapshots
    ),
    numbered as (
        select *,
            count(anchor) over history as epoch,
            count(visibility) over history as said,
            lead(at, 1, timestamp '{last}' + interval '1 day') over (partition by repository order by at, rank) as until
        from steps
        window history as (partition by repository order by at, rank rows unbounded preceding)
    ),
    levels as (
        select repository, at, until,
            max(visibility) over (partition by repository, said) as visibility,
            max(anchor) over (partition by repository, epoch)
                + coalesce(sum(delta) over (partition by repository, epoch order by at, rank rows unbounded preceding), 0) as bytes
        from numbered
    ),
    held as (
        select account_id, at, until, bytes
        from levels
        join catalog.account_client on client_id = split_part(repository, '/', 1)
        where visibility = 'private' and bytes > 0
    ),
    hours as (
        select hour from generate_series(timestamp '{first}', timestamp '{last}' + interval '23 hours', interval '1 hour') as hour
    ),
    changes as (
        select account_id, at, sum(change) as change
        from (
            select account_id, at, bytes as change from held
            union all
            select account_id, until, -bytes from held
            union all
            select account_id, hour, 0 from (select distinct account_id from held) as accounts cross join hours
        ) as all_changes
        group by 1, 2
    ),
    running as (
        select account_id, at,
            sum(change) over (partition by account_id order by at rows unbounded preceding) as bytes,
            lead(at, 1, timestamp '{last}' + interval '1 day') over (partition by account_id order by at) - at as lasting
        from changes
    ),
    hourly as (
        select account_id, date_trunc('hour', at) as hour, sum(bytes * extract(epoch from lasting)) as quantity
        from running
        group by 1, 2
    )
    select hour::date, account_id, '{meter}', hour at time zone 'UTC', (hour + interval '1 hour') at time zone 'UTC',
        quantity, 'byte-second', 1
    from hourly
    where quantity > 0
"""


def _copy_parquet(connection: psycopg.Connection, table: str, columns: str, files: list[str]) -> None:
    import polars as pl

    names = [column.split()[0] for column in columns.split(", ")]
    with connection.cursor() as cursor, cursor.copy(f"copy {table} from stdin (format csv)".encode()) as copy:
        for file in files:
            text = io.BytesIO()
            pl.read_parquet(file, columns=names).select(names).write_csv(text, include_header=False)
            copy.write(text.getbuffer())


def _digest(task: Task) -> list[Any]:
    """Return rows and a number over every row's text, whatever their order."""
    with psycopg.connect(task.database_url, options="-c TimeZone=UTC") as connection:
        rows, digest = connection.execute(_DIGEST).fetchall()[0]
    return [int(rows), str(digest)]


def _rows(data: StorageData, dataset: str, day: Any) -> int:
    import pyarrow.parquet

    return int(pyarrow.parquet.read_metadata(data.file(dataset, day)).num_rows)


def _data(task: Task) -> StorageData:
    from pathlib import Path

    return storage_data(Path(task.landing), **task.options)
