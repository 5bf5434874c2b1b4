"""Traffic of event days from the lake, in a few passes of DuckDB: sample files and the tail before them in, minutes and usage out.

The files are read in their order and rows compared with their neighbours, so memory follows the number of streams, not of
samples. The connection keeps the order of rows, and the scan proves that the files are sorted; one that is not is sorted first.
The rule is billing_pipeline/counters.py, its SQL billing_pipeline/sql/traffic_*.sql. Not here: PostgreSQL (traffic_usage_store).
"""

import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from itertools import count
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from billing_pipeline.counters import CounterPolicy
from resources import duck
from resources.duck_tables import bind_rows, set_variable
from resources.traffic_config import TrafficSource
from resources.traffic_facts import TrafficFacts, traffic_facts
from resources.traffic_inputs import FirstSnapshot, Node, Stream
from resources.usage_rules import UsageRules

BATCH_ROWS = 65_536
_TEXT, _INSTANT = pa.string(), pa.timestamp("us")
_STREAM = {"env": _TEXT, "node": _TEXT, "account_uuid": _TEXT, "inbound_tag": _TEXT}
SAMPLE_COLUMNS = {
    **_STREAM,
    "collected_at": _INSTANT,
    "uplink_bytes": pa.int64(),
    "downlink_bytes": pa.int64(),
    "uptime_seconds": pa.int64(),
}
TAIL_COLUMNS = {
    **_STREAM,
    "collected_at": _INSTANT,
    "uplink_bytes": pa.int64(),
    "downlink_bytes": pa.int64(),
    "is_held": pa.bool_(),
}
_BASES = ("difference", "new_stream", "first_of_node", "after_hold", "restart", "reset")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficScanInputs:
    """What a scan reads. `sample_files`: one per day with samples, by day. `tail_file`: of the day before the first; None: none.

    `policies` of the configured nodes; another node is read with the defaults of `CounterPolicy`. `held_after`: by day, streams
    that the next day, which is not among `days`, has found to have two writers from midnight on.
    """

    days: tuple[date, ...]
    sample_files: tuple[Path, ...]
    tail_file: Path | None
    first_snapshots: tuple[FirstSnapshot, ...]
    policies: Mapping[Node, TrafficSource]
    rules: UsageRules
    held_after: Mapping[date, tuple[Stream, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """The last sample of every stream at the end of a day. `digest` of its rows, in any order."""

    file: Path
    digest: str
    streams: int


class TrafficScan:
    """The result of a scan. Close it (or use it in a `with`) to free its memory and scratch files."""

    def __init__(
        self, inputs: TrafficScanInputs, *, scratch_dir: Path, memory_limit: str = "1GB", threads: int = 2
    ) -> None:
        self._inputs = inputs
        self._is_measured = False
        self._scratch = scratch_dir / f"ingest-{uuid.uuid4().hex}"
        self._connection = duck.connect(scratch_dir, memory_limit, threads)
        try:
            self._connection.execute("set preserve_insertion_order = true")
            self._bind()
            self._read_streams()
            self._judge()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "TrafficScan":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Free memory and scratch files."""
        self._connection.close()
        for file in self._scratch.glob("*"):
            file.unlink()
        if self._scratch.exists():
            self._scratch.rmdir()

    def facts(self) -> Mapping[date, TrafficFacts]:
        """Return the counts of every day that was asked for, also of one without samples."""
        self._measure()
        return traffic_facts(self._connection, self._inputs.days)

    def deltas(self) -> Iterator[pa.RecordBatch]:
        """Yield the minutes of all streams by their key, before anybody is asked who pays for them."""
        yield from self._stream("select * from traffic_minutes")

    def minute_rows(self, days: Sequence[date]) -> Iterator[pa.RecordBatch]:
        """Yield rows of `usage.traffic_minute` for `days`."""
        set_variable(self._connection, "wanted_days", list(days))
        set_variable(self._connection, "bases", list(_BASES))
        yield from self._stream(duck.sql("traffic_minute_rows"))

    def usage_rows(self, days: Sequence[date]) -> Iterator[pa.RecordBatch]:
        """Yield rows of `usage.traffic` for `days`, ordered by its key."""
        self._measure()
        yield from self._of_days("traffic", days, order="account_id, meter_id, period_start, env, node, inbound_tag")

    def not_billable_rows(self, days: Sequence[date]) -> Iterator[pa.RecordBatch]:
        """Yield rows of `usage.traffic_not_billable` for `days`."""
        self._measure()
        yield from self._of_days("traffic_not_billable", days, order="all")

    def suspect_rows(self, days: Sequence[date]) -> Iterator[pa.RecordBatch]:
        """Yield rows of `usage.traffic_suspect` for `days`."""
        yield from self._of_days("traffic_suspects", days, order="all")

    def write_tail(self, day: date) -> Tail:
        """Write the tail at the end of `day` into a scratch file that goes with the scan."""
        file = self._scratch_file(f"tail-{day.isoformat()}.parquet")
        set_variable(self._connection, "tail_day", day)
        self._connection.execute(f"create or replace temp table day_tail as {duck.sql('traffic_day_tail')}")
        self._write("select * exclude (row_digest) from day_tail order by all", file)
        digest, streams = self._connection.execute(
            "select coalesce(bit_xor(row_digest), 0)::varchar, count(*) from day_tail"
        ).fetchall()[0]
        return Tail(file=file, digest=f"{digest}-{streams}", streams=streams)

    def earlier_digests(self) -> Mapping[date, str]:
        """Return day -> digest of the last samples, before that day, of the day's streams."""
        rows = duck.run(self._connection, "traffic_earlier_digests").fetchall()
        return {day: f"{digest}-{streams}" for day, digest, streams in rows}

    def early_holds(self) -> Mapping[date, tuple[Stream, ...]]:
        """Return day -> streams that two writers share in its first hour, which holds them on the day before as well."""
        found: dict[date, list[Stream]] = defaultdict(list)
        for day, *stream in duck.run(self._connection, "traffic_early_holds").fetchall():
            found[day].append((stream[0], stream[1], stream[2], stream[3]))
        return {day: tuple(streams) for day, streams in found.items()}

    def _bind(self) -> None:
        inputs, con = self._inputs, self._connection
        self._bind_policies()
        firsts = [(one.env, one.node, _naive(one.collected_at)) for one in inputs.first_snapshots]
        bind_rows(con, "first_snapshots", {"env": _TEXT, "node": _TEXT, "first_at": _INSTANT}, firsts)
        conflicts = [
            (one.env, one.node, *stream) for one in inputs.first_snapshots for stream in one.conflicting_streams
        ]
        bind_rows(con, "first_conflicts", _STREAM, conflicts)
        held_after = [(day, *stream) for day, streams in inputs.held_after.items() for stream in streams]
        bind_rows(con, "held_after", {"event_day": pa.date32(), **_STREAM}, held_after)
        bind_rows(
            con,
            "client_accounts",
            {"client_id": _TEXT, "account_id": _TEXT, "valid_from": _INSTANT, "valid_to": _INSTANT},
            [
                (one.client_id, one.account_id, _naive(one.valid_from), _naive(one.valid_to))
                for one in inputs.rules.client_accounts
            ],
        )
        bind_rows(
            con,
            "client_windows",
            {"client_id": _TEXT, "hour_start": _INSTANT, "window_start": _INSTANT, "window_end": _INSTANT},
            [
                (one.client_id, _naive(one.hour_start), _naive(one.start), _naive(one.end))
                for one in inputs.rules.client_windows
            ],
        )
        bind_rows(
            con,
            "meters",
            {"meter_id": _TEXT, "field": _TEXT, "unit": _TEXT, "envs": pa.list_(_TEXT)},
            [(one.meter_id, one.field, one.unit, sorted(one.envs)) for one in inputs.rules.meters],
        )

    def _read_streams(self) -> None:
        """Bind the samples and list their streams; sort them first if they are not, or not without repeats."""
        columns = {"event_day": pa.date32(), "sample_count": pa.int64(), "is_conflict": pa.bool_()}
        bind_rows(self._connection, "traffic_repeats", columns, [])
        self._bind_tail()
        files = [str(file) for file in self._inputs.sample_files]
        self._bind_samples(files or [str(self._empty_file())])
        if self._is_sorted():
            return
        duck.run(self._connection, "traffic_repeats")
        file = self._scratch_file("sorted.parquet")
        self._write(duck.sql("traffic_sorted_samples"), file)
        self._bind_samples([str(file)])
        if not self._is_sorted():
            raise AssertionError("samples that were just sorted are not in order")

    def _bind_tail(self) -> None:
        if self._inputs.tail_file is None:
            bind_rows(self._connection, "tail_rows", TAIL_COLUMNS, [])
        else:
            path = _quoted(self._inputs.tail_file)
            self._connection.execute(f"create or replace temp table tail_rows as from read_parquet('{path}')")

    def _bind_samples(self, files: Sequence[str]) -> None:
        """List the days and streams of the samples, with keys that no two streams share."""
        con = self._connection
        set_variable(con, "sample_files", list(files))
        for salt in count():
            set_variable(con, "key_salt", salt)
            for name in ("samples", "tails", "stream_days", "streams"):
                duck.run(con, f"traffic_{name}")
            streams, keys = con.execute("select count(*), count(distinct stream_key) from traffic_streams").fetchall()[
                0
            ]
            if streams == keys:
                break
        duck.run(con, "traffic_turns")

    def _bind_policies(self) -> None:
        default = CounterPolicy()
        set_variable(self._connection, "default_on_first", str(default.on_first))
        set_variable(self._connection, "default_on_reset", str(default.on_reset))
        set_variable(self._connection, "default_max_resets_per_hour", default.max_resets_per_hour)
        columns = {"env": _TEXT, "node": _TEXT, "on_first": _TEXT, "on_reset": _TEXT, "max_resets_per_hour": pa.int64()}
        bind_rows(
            self._connection,
            "node_policies",
            {**columns, "region": _TEXT, "line": _TEXT},
            [
                (*node, one.on_first, one.on_reset, one.max_resets_per_hour, one.region, one.line)
                for node, one in self._inputs.policies.items()
            ],
        )

    def _is_sorted(self) -> bool:
        """Tell whether every stream of a day is one run of rows, ascending in time: then the row before is the sample before."""
        heads, disordered = self._connection.execute(
            "select count(*) filter (is_head), count(*) filter (is_disordered) from traffic_turns"
        ).fetchall()[0]
        stream_days = self._connection.execute("select count(*) from traffic_stream_days").fetchall()[0][0]
        return bool(heads == stream_days and disordered == 0)

    def _judge(self) -> None:
        for name in ("judged_turns", "hourly_resets", "counted_turns", "held_streams", "steps"):
            duck.run(self._connection, f"traffic_{name}")
        for name in ("corrections", "epochs", "minutes", "owners", "owned_minutes", "suspects", "last_samples"):
            duck.run(self._connection, f"traffic_{name}")

    def _measure(self) -> None:
        """Add the minutes up into hours and usage, once: a pass over the samples that minutes alone do not need."""
        if self._is_measured:
            return
        for name in ("traffic_hours", "traffic", "traffic_sample_outcomes", "traffic_not_billable"):
            duck.run(self._connection, name)
        self._is_measured = True

    def _of_days(self, table: str, days: Sequence[date], *, order: str) -> Iterator[pa.RecordBatch]:
        set_variable(self._connection, "wanted_days", list(days))
        yield from self._stream(
            f"select * from {table} where list_contains(getvariable('wanted_days'), event_day) order by {order}"
        )

    def _empty_file(self) -> Path:
        file = self._scratch_file("empty.parquet")
        pyarrow.parquet.write_table(pa.schema(list(SAMPLE_COLUMNS.items())).empty_table(), file)
        return file

    def _scratch_file(self, name: str) -> Path:
        self._scratch.mkdir(parents=True, exist_ok=True)
        return self._scratch / name

    def _write(self, query: str, file: Path) -> None:
        self._connection.execute(f"copy ({query}) to '{_quoted(file)}' (format parquet, compression zstd)")

    def _stream(self, query: str) -> Iterator[pa.RecordBatch]:
        yield from self._connection.sql(query).to_arrow_reader(BATCH_ROWS)


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


def _naive(instant: datetime) -> datetime:
    """Return UTC without its zone, as the lake has it."""
    return instant.astimezone(UTC).replace(tzinfo=None)
