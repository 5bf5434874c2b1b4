"""Usage of event days from the lake, in one DuckDB pass: files and rules in, rows and counts out.

Grain of the rows: see `usage.api_requests`. Memory follows the number of groups, not of records; what does not fit is spilled.
The SQL is `billing_pipeline/sql`; here its small tables and variables are bound. Not here: PostgreSQL (usage_store).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from billing_pipeline.meters import TEXT_FIELDS, Aggregation, Meter, TransactionDetail
from resources import duck
from resources.usage_facts import DayFacts, Decision, OpenVersion, day_facts
from resources.usage_rules import UsageRules

# A share of the clients whose states are made at once: bounds the memory of unique, latest and percentile meters.
RECORDS_PER_CHUNK = 4_000_000
BATCH_ROWS = 65_536
FOLDED_FIELDS = ("response_time_us", "response_bytes", "status_code")
LAKE_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("event_id", pa.string()),
        ("event_at", pa.timestamp("us")),
        ("event_day", pa.date32()),
        ("client_id", pa.string()),
        ("method", pa.string()),
        ("endpoint", pa.string()),
        ("status_code", pa.int16()),
        ("response_time_us", pa.int64()),
        ("response_bytes", pa.int64()),
        ("is_simulated", pa.bool_()),
        ("file_id", pa.int64()),
        ("line_number", pa.int64()),
        ("lake_file", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LakePart:
    """The rows of one event day in one lake file. `has_conflicts` is about the whole file, as ingest counted."""

    path: Path
    event_day: date
    rows: int
    has_conflicts: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanInputs:
    """What a scan reads. `counted_files`: (file id, event day) of what the days' last builds counted, less `open_versions`."""

    days: tuple[date, ...]
    parts: tuple[LakePart, ...]
    rules: UsageRules
    decisions: tuple[Decision, ...] = ()
    counted_files: tuple[tuple[int, date], ...] = ()
    open_versions: tuple[OpenVersion, ...] = ()


class UsageScan:
    """The result of one pass. Close it (or use it in a `with`) to free its memory and spill folder."""

    def __init__(self, inputs: ScanInputs, *, scratch_dir: Path, memory_limit: str = "1GB", threads: int = 2) -> None:
        self._inputs = inputs
        self._connection = duck.connect(scratch_dir, memory_limit, threads)
        try:
            self._bind_records()
            self._resolve_identities()
            self._measure()
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> "UsageScan":
        return self

    def __exit__(self, *exception: object) -> None:
        self._connection.close()

    def usage_rows(self, days: Sequence[date]) -> Iterator[pa.RecordBatch]:
        """Yield rows of `usage.api_requests` for `days`, ordered by its key."""
        yield from self._stream(
            """
            select * from api_requests
            where event_day between $first and $last and list_contains($days, event_day)
            order by account_id, meter_id, period_start, endpoint, method, client_id
            """,
            days,
        )

    def not_billable_rows(self, days: Sequence[date]) -> Iterator[pa.RecordBatch]:
        """Yield rows of `usage.api_requests_not_billable` for `days`."""
        yield from self._stream(
            """
            select
                event_day,
                reason,
                coalesce(account_id, '') as account_id,
                client_id,
                sum(request_count)::bigint as request_count
            from request_outcomes
            where reason is not null and event_day between $first and $last and list_contains($days, event_day)
            group by all
            order by all
            """,
            days,
        )

    def facts(self) -> Mapping[date, DayFacts]:
        """Return the counts of every day that was asked for, also of one without any record."""
        return day_facts(self._connection, self._inputs.days, self._inputs.rules.meters)

    def _stream(self, query: str, days: Sequence[date]) -> Iterator[pa.RecordBatch]:
        # the range skips whole row groups, which a list cannot
        parameters = {"days": list(days), "first": min(days), "last": max(days)}
        yield from self._connection.sql(query, params=parameters).to_arrow_reader(BATCH_ROWS)

    def _bind_records(self) -> None:
        days = sorted(set(self._inputs.days))
        self._table("requested_days", pa.table({"event_day": pa.array(days, pa.date32())}))
        left_out = set(_days_between(days)) - set(days)
        self._table("days_left_out", pa.table({"event_day": pa.array(sorted(left_out), pa.date32())}))
        self._set("first_day", days[0] if days else date.max)
        self._set("end_day", days[-1] + timedelta(days=1) if days else date.max)
        files = sorted({str(part.path) for part in self._inputs.parts})
        if files:
            self._set("lake_files", files)
            duck.run(self._connection, "lake_records")
        else:
            self._table("lake_records", LAKE_SCHEMA.empty_table())
        duck.run(self._connection, "request_records")

    def _resolve_identities(self) -> None:
        """Fill request_identities; without a pass over the ids where ingest has already seen all there is to see."""
        parts = _ranked(self._inputs.parts)
        columns = ("lake_file", "event_day", "is_largest", "has_conflicts")
        types = (pa.string(), pa.date32(), pa.bool_(), pa.bool_())
        self._rows("lake_parts", columns, types, parts)
        if all(is_largest for _, _, is_largest, _ in parts):
            self._rows("repeated_identities", ("identity_hash",), (pa.uint64(),), [])
        else:
            duck.run(self._connection, "repeated_identities")
        decisions = [(one.source, one.event_id, one.content_sha256) for one in self._inputs.decisions]
        text = pa.string()
        self._rows("identity_decisions", ("source", "event_id", "content_sha256"), (text, text, text), decisions)
        self._rows("counted_files", ("file_id", "event_day"), (pa.int64(), pa.date32()), self._inputs.counted_files)
        self._rows(
            "open_versions",
            ("file_id", "line_number", "content_sha256"),
            (pa.int64(), pa.int64(), text),
            [(one.file_id, one.line_number, one.content_sha256) for one in self._inputs.open_versions],
        )
        duck.run(self._connection, "request_identities")
        any_left_out = self._connection.execute(
            "select count(*) from request_identities where outcome <> 'kept'"
        ).fetchall()
        if any_left_out[0][0]:
            duck.run(self._connection, "counted_records")
        else:
            self._connection.execute("create or replace temp view counted_records as select * from request_records")

    def _measure(self) -> None:
        self._bind_rules()
        duck.run(self._connection, "request_outcomes")
        self._connection.execute(
            """
            create or replace temp table meter_states (
                event_day date, account_id varchar, meter_id varchar, period_start timestamp, period_end timestamp,
                endpoint varchar, method varchar, client_id varchar, quantity decimal(38, 9), unit varchar,
                request_count bigint, state varchar
            )
            """
        )
        stateful = [meter for meter in self._inputs.rules.meters if not _is_folded(meter)]
        if stateful:
            duck.run(self._connection, "meter_records")
        for meter in stateful:
            self._measure_states(meter)
        duck.run(self._connection, "api_requests")

    def _bind_rules(self) -> None:
        rules, text, instant = self._inputs.rules, pa.string(), pa.timestamp("us")
        statuses = {status for first, last in rules.billable_rule.success_statuses for status in range(first, last + 1)}
        self._rows("success_statuses", ("status_code",), (pa.int16(),), [(status,) for status in sorted(statuses)])
        self._rows("billable_endpoints", ("method", "endpoint"), (text, text), sorted(rules.billable_rule.endpoints))
        self._rows(
            "client_accounts",
            ("client_id", "account_id", "valid_from", "valid_to"),
            (text, text, instant, instant),
            [
                (one.client_id, one.account_id, _naive(one.valid_from), _naive(one.valid_to))
                for one in rules.client_accounts
            ],
        )
        self._rows(
            "client_windows",
            ("client_id", "hour_start", "window_start", "window_end"),
            (text, instant, instant, instant),
            [
                (one.client_id, _naive(one.hour_start), _naive(one.start), _naive(one.end))
                for one in rules.client_windows
            ],
        )
        self._rows(
            "meters",
            ("meter_id", "aggregation", "field", "unit", "endpoints", "methods", "is_folded"),
            (text, text, text, text, pa.list_(text), pa.list_(text), pa.bool_()),
            [
                (one.meter_id, str(one.aggregation), one.field, one.unit, *_filters(one), _is_folded(one))
                for one in rules.meters
            ],
        )
        self._set("has_client_windows", bool(rules.client_windows))
        folded = {
            (meter.field, of) for meter in rules.meters if _is_folded(meter) for of in _made_of(meter.aggregation)
        }
        for field in FOLDED_FIELDS:
            for of in ("count", "sum", "max", "min"):
                self._set(f"reads_{field}_{of}", (field, of) in folded)

    def _measure_states(self, meter: Meter) -> None:
        self._set("meter_id", meter.meter_id)
        self._set("meter_field", meter.field)
        self._set("meter_unit", meter.unit)
        self._set("meter_endpoints", _names(meter.endpoints))
        self._set("meter_methods", _names(meter.methods))
        self._set("bucket_seconds", meter.bucket_seconds)
        self._set("reads_event_id", meter.aggregation is Aggregation.LATEST)
        if meter.percentile is not None:
            numerator, denominator = (meter.percentile / 100).as_integer_ratio()
            self._set("percentile_numerator", numerator)
            self._set("percentile_denominator", denominator)
        self._set("meter_aggregation", str(meter.aggregation))
        self._set("lowered_by", sorted(meter.lowered_by))
        self._set("is_level_set", meter.is_set)
        self._set("is_ordered", meter.transactions is TransactionDetail.ORDERED)
        name = str(meter.aggregation)
        if meter.bucket_seconds is not None:
            name = "buckets"
        elif meter.transactions is not None:
            name = "transactions"
        records = sum(part.rows for part in self._inputs.parts)
        chunk_count = -(-records // RECORDS_PER_CHUNK) or 1
        self._set("chunk_count", chunk_count)
        for chunk in range(chunk_count):
            self._set("chunk", chunk)
            duck.run(self._connection, f"api_requests_{name}")

    def _set(self, name: str, value: object) -> None:
        self._connection.execute(f"set variable {name} = $value", {"value": value})

    def _rows(
        self, name: str, columns: Sequence[str], types: Sequence[pa.DataType], rows: Iterable[tuple[object, ...]]
    ) -> None:
        by_column = list(zip(*rows, strict=True)) or [()] * len(columns)
        arrays = [pa.array(values, kind) for values, kind in zip(by_column, types, strict=True)]
        self._table(name, pa.table(dict(zip(columns, arrays, strict=True))))

    def _table(self, name: str, table: pa.Table) -> None:
        self._connection.register("bound_table", table)
        self._connection.execute(f"create or replace temp table {name} as select * from bound_table")
        self._connection.unregister("bound_table")


def _days_between(days: Sequence[date]) -> Iterator[date]:
    """Yield the days from the first to the last of `days`, which are in order."""
    for number in range((days[-1] - days[0]).days + 1 if days else 0):
        yield days[0] + timedelta(days=number)


def _ranked(parts: Iterable[LakePart]) -> list[tuple[str, date, bool, bool]]:
    """Return (file, day, whether no identity of it needs a look, whether the file has conflicts).

    The largest file of a day is compared with the smaller ones, never with itself, unless it has conflicts inside.
    """
    by_size = sorted(parts, key=lambda part: (part.event_day, -part.rows, str(part.path)))
    ranked, days_seen = [], set()
    for part in by_size:
        is_largest = part.event_day not in days_seen and not part.has_conflicts
        days_seen.add(part.event_day)
        ranked.append((str(part.path), part.event_day, is_largest, part.has_conflicts))
    return ranked


def _is_folded(meter: Meter) -> bool:
    """Tell whether the meter is made from grouped records: it adds up, or its values are the groups' own keys."""
    if meter.bucket_seconds is not None or meter.transactions is not None:
        return False
    if meter.aggregation is Aggregation.UNIQUE:
        return meter.field in TEXT_FIELDS
    return meter.aggregation in _FOLDED


def _made_of(aggregation: Aggregation) -> tuple[str, ...]:
    """Return what is kept of a field in each group of records, for an aggregation of it."""
    return ("count", "sum") if aggregation is Aggregation.MEAN else ("count", str(aggregation))


_FOLDED = (Aggregation.COUNT, Aggregation.SUM, Aggregation.MAX, Aggregation.MIN, Aggregation.MEAN)


def _filters(meter: Meter) -> tuple[list[str] | None, list[str] | None]:
    return _names(meter.endpoints), _names(meter.methods)


def _names(names: frozenset[str] | None) -> list[str] | None:
    return None if names is None else sorted(names)


def _naive(instant: datetime) -> datetime:
    """Return UTC without its zone, as the lake has it."""
    return instant.astimezone(UTC).replace(tzinfo=None)
