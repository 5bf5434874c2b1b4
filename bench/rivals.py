"""The same usage rows by other tools, each written the way that is fastest in it and exact in the result.

They do less than our job and are not charged for it: no check of any value, no manifest, no quarantine, no lake, no conflict of
identities (the first row of an id wins), no counts of what is not billable. All end in `usage.api_requests`, keys and all.
"""

import io
from collections.abc import Iterator
from typing import Any

import psycopg

from bench.catalog import COUNT_METER, TEMPLATES, TIME_METER
from bench.request_data import BILLABLE
from bench.task import Stopwatch, Task

_PATH = r"^/v2\.0/vehicles/[^/]+/([a-z]+)$"
_METERS = ((COUNT_METER, "request", "requests"), (TIME_METER, "us", "time_us"))
_TABLE = "event_day, account_id, meter_id, period_start, period_end, endpoint, method, client_id, quantity, unit, request_count"
_COPY = f"copy usage.api_requests ({_TABLE}) from stdin (format csv)"
_CLIENTS = "select client_id, account_id from catalog.account_client"
_COPY_BYTES = 1 << 20
_NAMES = dict(zip(BILLABLE, TEMPLATES, strict=True))


def by_pandas(task: Task, stopwatch: Stopwatch) -> dict[str, Any]:
    """Read with the Arrow engine, work on Arrow-backed columns; Avro comes through polars, as pandas has no reader."""
    import pandas

    with stopwatch.part("read"):
        if task.framing == "avro":
            import polars

            frames = [polars.read_avro(file).to_pandas(use_pyarrow_extension_array=True) for file in task.files]
        else:
            frames = [
                pandas.read_json(file, lines=True, engine="pyarrow", dtype_backend="pyarrow") for file in task.files
            ]
        requests = pandas.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]
        del frames
    with stopwatch.part("count"):
        requests = requests.drop_duplicates("request_id")
        requests = requests[requests["status_code"].between(200, 299) & requests["is_real_vehicle"]]
        # Each distinct path once: there are far fewer of them than requests.
        codes, paths = pandas.factorize(requests["endpoint"])
        names = paths.to_series().astype("str").str.extract(_PATH)[0].map(_NAMES)
        requests = requests.assign(
            endpoint=pandas.Categorical.from_codes(codes, names.index.astype(str)).map(names.to_dict()),
            client_id=requests["client_id"].astype("category"),
            method=requests["method"].astype("category"),
            hour=pandas.to_datetime(requests["timestamp"], utc=True).dt.floor("h"),
            time_us=(requests["response_time_ms"] * 1000).round().astype("int64"),
        )
        requests = requests[requests["endpoint"].notna() & (requests["method"] == "GET")]
        usage = (
            requests.groupby(["hour", "client_id", "endpoint", "method"], observed=True)["time_us"]
            .agg(requests="count", time_us="sum")
            .reset_index()
        )
    with stopwatch.part("to PostgreSQL"), psycopg.connect(task.database_url) as connection:
        accounts: dict[str, str] = dict(connection.execute(_CLIENTS).fetchall())
        usage["account_id"] = usage["client_id"].astype("str").map(accounts)
        usage = usage.dropna(subset=["account_id"])
        usage["period_end"] = usage["hour"] + pandas.Timedelta(hours=1)
        usage["event_day"] = usage["hour"].dt.date
        for meter, unit, column in _METERS:
            rows = usage.assign(meter=meter, unit=unit, quantity=usage[column])
            columns = "event_day account_id meter hour period_end endpoint method client_id quantity unit requests"
            text = io.BytesIO()
            rows[columns.split()].to_csv(text, header=False, index=False)
            _copy(connection, text)
    return {"version": pandas.__version__, "usage_rows": 2 * len(usage)}


def by_polars(task: Task, stopwatch: Stopwatch) -> dict[str, Any]:
    """Scan lazily with the streaming engine; Avro is read whole."""
    import polars as pl

    schema = {
        "request_id": pl.String, "client_id": pl.String, "timestamp": pl.String, "endpoint": pl.String,
        "method": pl.String, "status_code": pl.Int64, "response_time_ms": pl.Float64, "is_real_vehicle": pl.Boolean,
    }  # fmt: skip
    with stopwatch.part("read and count"):
        if task.framing == "avro":
            requests = pl.concat([pl.read_avro(file) for file in task.files]).lazy()
        else:
            requests = pl.scan_ndjson(list(task.files), schema=schema).with_columns(
                pl.col("timestamp").str.to_datetime("%Y-%m-%dT%H:%M:%S%.3fZ", time_unit="ms", time_zone="UTC")
            )
        usage = (
            requests.unique("request_id", keep="any")
            .filter(pl.col("status_code").is_between(200, 299), pl.col("is_real_vehicle"), pl.col("method") == "GET")
            .with_columns(pl.col("endpoint").str.extract(_PATH).replace_strict(_NAMES, default=None))
            .filter(pl.col("endpoint").is_not_null())
            .group_by(pl.col("timestamp").dt.truncate("1h").alias("hour"), "client_id", "endpoint", "method")
            .agg(
                pl.len().cast(pl.Int64).alias("requests"),
                (pl.col("response_time_ms") * 1000).round().cast(pl.Int64).sum().alias("time_us"),
            )
            .collect(engine="streaming")
        )
    with stopwatch.part("to PostgreSQL"), psycopg.connect(task.database_url) as connection:
        clients = pl.DataFrame(
            connection.execute(_CLIENTS).fetchall(), schema=["client_id", "account_id"], orient="row"
        )
        usage = usage.join(clients, on="client_id").with_columns(
            pl.col("hour").dt.date().alias("event_day"), (pl.col("hour") + pl.duration(hours=1)).alias("period_end")
        )
        for meter, unit, column in _METERS:
            rows = usage.select(
                "event_day", "account_id", pl.lit(meter).alias("meter"), "hour", "period_end", "endpoint", "method",
                "client_id", pl.col(column).alias("quantity"), pl.lit(unit).alias("unit"),
                "requests",
            )  # fmt: skip
            text = io.BytesIO()
            rows.write_csv(text, include_header=False)
            _copy(connection, text)
    return {"version": pl.__version__, "usage_rows": 2 * usage.height}


def by_postgres(task: Task, stopwatch: Stopwatch) -> dict[str, Any]:
    """COPY everything into an unlogged table, then one statement; sorts and hashes in up to 1 GB of memory."""
    with psycopg.connect(task.database_url, options="-c TimeZone=UTC -c work_mem=1GB -c jit=off") as connection:
        with stopwatch.part("copy"):
            if task.framing == "avro":
                _copy_avro(connection, task)
            else:
                _copy_lines(connection, task)
            connection.execute("analyze")
        with stopwatch.part("sql"):
            columns = _AVRO_COLUMNS if task.framing == "avro" else _LINE_COLUMNS
            names = ", ".join(f"('{name}', '{template}')" for name, template in _NAMES.items())
            meters = ", ".join(f"('{meter}', '{unit}')" for meter, unit, _ in _METERS)
            connection.execute(_SQL.format(columns=columns, names=names, meters=meters, table=_TABLE).encode())
            connection.commit()
        version = connection.info.server_version
    return {"version": f"{version // 10000}.{version % 10000}"}


_LINE_COLUMNS = """
    line ->> 'request_id' as request_id, line ->> 'client_id' as client_id, (line ->> 'timestamp')::timestamptz as event_at,
    line ->> 'endpoint' as endpoint, line ->> 'method' as method, (line ->> 'status_code')::int as status_code,
    (line ->> 'response_time_ms')::numeric as response_time_ms, (line ->> 'is_real_vehicle')::boolean as is_real_vehicle
"""
_AVRO_COLUMNS = "*"
_SQL = """
    insert into usage.api_requests ({table})
    with
    requests as (select {columns} from requests),
    first_of_id as (select distinct on (request_id) * from requests order by request_id),
    counted as (
        select
            date_trunc('hour', event_at, 'UTC') as hour, client_id, names.template as endpoint, method,
            count(*) as requests, (sum(response_time_ms) * 1000)::bigint as time_us
        from first_of_id
        join (values {names}) as names (name, template) on names.name = split_part(endpoint, '/', 5)
        where status_code between 200 and 299 and is_real_vehicle and method = 'GET'
            and endpoint like '/v2.0/vehicles/%'
        group by 1, 2, 3, 4
    )
    select
        hour::date, account_id, meter, hour, hour + interval '1 hour', endpoint, method, client_id,
        case meter when 'response_time' then time_us else requests end, unit, requests
    from counted
    join catalog.account_client using (client_id)
    cross join (values {meters}) as meters (meter, unit)
"""


def _copy_lines(connection: psycopg.Connection, task: Task) -> None:
    from isal import igzip

    connection.execute("create unlogged table requests (line jsonb)")
    # A line goes in as it is: the quote and the delimiter are characters that no line holds.
    statement = "copy requests from stdin (format csv, delimiter e'\\x01', quote e'\\x02')"
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for file in task.files:
            with igzip.open(file, "rb") as lines:  # type: ignore[no-untyped-call]
                while block := lines.read(_COPY_BYTES):
                    copy.write(block)


def _copy_avro(connection: psycopg.Connection, task: Task) -> None:
    import polars

    connection.execute(
        "create unlogged table requests (request_id text, client_id text, event_at timestamptz, endpoint text, method text,"
        " status_code int, response_time_ms numeric, is_real_vehicle boolean)"
    )
    with connection.cursor() as cursor, cursor.copy("copy requests from stdin (format csv)") as copy:
        for file in task.files:
            frame = polars.read_avro(file)
            for part in frame.iter_slices(200_000):
                text = io.BytesIO()
                part.write_csv(text, include_header=False)
                copy.write(text.getvalue())


def _copy(connection: psycopg.Connection, text: io.BytesIO) -> None:
    with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
        for piece in _pieces(text):
            copy.write(piece)


def _pieces(text: io.BytesIO) -> Iterator[memoryview]:
    data = text.getbuffer()
    for start in range(0, len(data), _COPY_BYTES):
        yield data[start : start + _COPY_BYTES]
