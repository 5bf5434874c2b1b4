"""Follow minutes of traffic down to samples: the snapshots of counters in the lake, and where they were delivered. Read-only.

The samples are those of the lake file that the day's last build was made of; of the day before, those that count now. Not here:
minutes (traffic_lineage).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pyarrow as pa

from resources import duck
from resources.database import Database
from resources.duck_tables import bind_rows
from resources.lake import Lake
from resources.lineage_files import Origin, build_uris, file_keys, origin
from resources.traffic_inputs import ASSET, SAMPLES, TAILS, Stream
from resources.traffic_lineage import TrafficMinute

_TEXT, _INSTANT = pa.string(), pa.timestamp("us")
_STREAM = {"env": _TEXT, "node": _TEXT, "account_uuid": _TEXT, "inbound_tag": _TEXT}

# What a query of the lake gives for a sample: its fields by name, with source, file_id and line_number.
_Raw = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficSample:
    """Totals of a stream at one instant. `uptime_seconds` of the process that counts; None: not told."""

    collected_at: datetime
    uplink_bytes: int
    downlink_bytes: int
    uptime_seconds: int | None
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficStep:
    """A sample and the stream's one before it, from which it has grown. `earlier` None: it is the stream's first."""

    sample: TrafficSample
    earlier: TrafficSample | None


def read_samples(
    database: Database, lake: Lake, scratch_dir: Path, minutes: Sequence[TrafficMinute]
) -> Mapping[TrafficMinute, tuple[TrafficStep, ...]]:
    """Return the samples of each of `minutes`, which are of one event day, in order of time.

    Raises:
        UsageNotBuiltError: the day has no build.
        LakeFileMissingError: samples are not in the lake any more.
    """
    if not minutes:
        return {}
    day = minutes[0].event_day
    with database.reading() as connection, duck.connect(scratch_dir) as engine:
        files = [str(lake.fetch(uri)) for uri in build_uris(connection, ASSET, day)]
        found = _steps(engine, files, minutes) if files else []
        heads = {stream for stream, _, _, earlier in found if earlier is None}
        before = _before(connection, lake, engine, heads, day)
        raw: dict[tuple[Stream, datetime], list[tuple[_Raw, _Raw | None]]] = defaultdict(list)
        for stream, bucket_start, sample, earlier in found:
            raw[stream, bucket_start.replace(tzinfo=UTC)].append((sample, earlier or before.get(stream)))
        pairs = [pair for steps in raw.values() for pair in steps]
        keys = file_keys(connection, (one["file_id"] for pair in pairs for one in pair if one is not None))
    return {
        minute: tuple(
            TrafficStep(sample=_sample(sample, keys), earlier=None if earlier is None else _sample(earlier, keys))
            for sample, earlier in raw[_stream(minute), minute.bucket_start.astimezone(UTC)]
        )
        for minute in minutes
    }


def _steps(
    engine: duckdb.DuckDBPyConnection, files: Sequence[str], minutes: Sequence[TrafficMinute]
) -> list[tuple[Stream, datetime, _Raw, _Raw | None]]:
    """Return (stream, minute, sample, the one before it on that day)."""
    rows = [(*_stream(minute), minute.bucket_start.astimezone(UTC).replace(tzinfo=None)) for minute in minutes]
    bind_rows(engine, "lineage_minutes", {**_STREAM, "bucket_start": _INSTANT}, rows)
    return engine.execute(duck.sql("traffic_minute_samples"), {"files": list(files)}).fetchall()


def _before(
    connection: psycopg.Connection, lake: Lake, engine: duckdb.DuckDBPyConnection, streams: set[Stream], day: date
) -> Mapping[Stream, _Raw]:
    """Return each stream's last sample before `day`, as far as it has one: the tail tells when it was."""
    tail = connection.execute(
        """
        select generation.uri
        from usage.traffic_day
        join core.lake_generation as generation
            on generation.dataset = %s and partition_key = event_day and generation.generation = tail_generation
        where event_day < %s
        order by event_day desc
        limit 1
        """,
        [TAILS, day],
    ).fetchone()
    if tail is None or not streams:
        return {}
    bind_rows(engine, "lineage_streams", _STREAM, sorted(streams))
    instants: dict[date, list[tuple[object, ...]]] = defaultdict(list)
    for *stream, collected_at in engine.execute(
        """
        select env, node, account_uuid, inbound_tag, collected_at
        from read_parquet($file, hive_partitioning = false)
        semi join lineage_streams using (env, node, account_uuid, inbound_tag)
        """,
        {"file": str(lake.fetch(tail[0]))},
    ).fetchall():
        instants[collected_at.date()].append((*stream, collected_at))
    samples: dict[Stream, _Raw] = {}
    for sampled_on, rows in instants.items():
        bind_rows(engine, "lineage_instants", {**_STREAM, "collected_at": _INSTANT}, rows)
        files = [str(lake.fetch(uri)) for uri in _current_uris(connection, sampled_on)]
        if files:
            samples |= dict(engine.execute(duck.sql("traffic_samples_at"), {"files": files}).fetchall())
    return samples


def _current_uris(connection: psycopg.Connection, day: date) -> list[str]:
    rows = connection.execute(
        """
        select uri
        from core.lake_partition
        join core.lake_generation using (dataset, partition_key, generation)
        where dataset = %s and partition_key = %s
        """,
        [SAMPLES, day],
    )
    return [uri for (uri,) in rows]


def _stream(minute: TrafficMinute) -> Stream:
    return minute.env, minute.node, minute.account_uuid, minute.inbound_tag


def _sample(raw: _Raw, keys: Mapping[int, tuple[str, str]]) -> TrafficSample:
    return TrafficSample(
        collected_at=raw["collected_at"].replace(tzinfo=UTC),
        uplink_bytes=raw["uplink_bytes"],
        downlink_bytes=raw["downlink_bytes"],
        uptime_seconds=raw["uptime_seconds"],
        origin=origin(keys, source=raw["source"], file_id=raw["file_id"], line_number=raw["line_number"]),
    )
