"""What a usage scan has counted, per event day: the facts that guards compare and people look at.

Reads the tables that the scan left in its DuckDB connection, each kind of count by one query over all days.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

import duckdb

from billing_pipeline.meters import Aggregation, Meter
from resources import duck

TOP_ACCOUNTS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The content that counts of a conflicting identity; None: no version counts."""

    source: str
    event_id: str
    content_sha256: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenVersion:
    """A record that a build has left out because nobody has decided about its identity."""

    file_id: int
    line_number: int
    content_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConflictVersion:
    """One record of a conflicting identity."""

    source: str
    event_id: str
    event_day: date
    file_id: int
    line_number: int
    content_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DayFacts:
    """Counts of one event day.

    `records_by_hour`: source -> hour (UTC) -> records in the lake. `open_identities`: undecided conflicts, `source/event id`.
    `billed_already`: decisions that follow from what the last build counted. `quantity_by_meter`: of count, sum, max and min
    over all accounts. `usage_by_count_meter` and `records_by_count_meter`: of meters that count records, the same figure
    from usage rows and from the records, counted apart.
    """

    records_by_hour: Mapping[str, Mapping[int, int]]
    billable: int
    not_billable_by_reason: Mapping[str, int]
    duplicates: int
    conflicts: int
    open_identities: tuple[str, ...]
    conflict_versions: tuple[ConflictVersion, ...]
    billed_already: tuple[Decision, ...]
    usage_rows: int
    quantity_by_meter: Mapping[str, Decimal]
    usage_by_count_meter: Mapping[str, Decimal]
    records_by_count_meter: Mapping[str, Decimal]
    top_accounts: tuple[tuple[str, int], ...]

    @property
    def records_read(self) -> int:
        """Return the records of the day in the lake."""
        return sum(self.requests_by_hour)

    @property
    def requests_by_hour(self) -> tuple[int, ...]:
        """Return the records of each of the day's 24 hours."""
        return tuple(sum(hours.get(hour, 0) for hours in self.records_by_hour.values()) for hour in range(24))


def day_facts(
    connection: duckdb.DuckDBPyConnection, days: Iterable[date], meters: Sequence[Meter]
) -> Mapping[date, DayFacts]:
    """Return the counts of each of `days`, also of one without any record."""
    hours = _records_by_hour(connection)
    outcomes = _records_by_outcome(connection)
    left_out = _left_out(connection)
    versions, open_identities, billed_already = _conflicts(connection)
    usage_rows, quantities = _quantities(connection)
    counting = [meter for meter in meters if meter.aggregation is Aggregation.COUNT and meter.field is None]
    counted = _records_by_meter(connection, counting)
    top_accounts = _top_accounts(connection)
    return {
        day: DayFacts(
            records_by_hour=hours.get(day, {}),
            billable=outcomes.get(day, {}).get("", 0),
            not_billable_by_reason={reason: n for reason, n in outcomes.get(day, {}).items() if reason},
            duplicates=left_out.get((day, "duplicate"), 0),
            conflicts=left_out.get((day, "conflict"), 0),
            open_identities=tuple(sorted(open_identities.get(day, ()))),
            conflict_versions=tuple(versions.get(day, ())),
            billed_already=tuple(billed_already.get(day, ())),
            usage_rows=usage_rows.get(day, 0),
            quantity_by_meter=quantities.get(day, {}),
            usage_by_count_meter={
                meter.meter_id: quantities[day][meter.meter_id]
                for meter in counting
                if meter.meter_id in quantities.get(day, {})
            },
            records_by_count_meter=counted.get(day, {}),
            top_accounts=tuple(top_accounts.get(day, ())),
        )
        for day in days
    }


def _records_by_hour(connection: duckdb.DuckDBPyConnection) -> Mapping[date, Mapping[str, Mapping[int, int]]]:
    found: dict[date, dict[str, dict[int, int]]] = defaultdict(lambda: defaultdict(dict))
    for day, source, hour, records in connection.execute(duck.sql("delivered_hours")).fetchall():
        found[day][source][hour] = records
    return found


def _records_by_outcome(connection: duckdb.DuckDBPyConnection) -> Mapping[date, Mapping[str, int]]:
    """Return day -> reason -> records; the reason of billable ones is the empty text."""
    found: dict[date, dict[str, int]] = defaultdict(dict)
    query = "select event_day, coalesce(reason, ''), sum(request_count)::bigint from request_outcomes group by all"
    for day, reason, records in connection.execute(query).fetchall():
        found[day][reason] = records
    return found


def _left_out(connection: duckdb.DuckDBPyConnection) -> Mapping[tuple[date, str], int]:
    query = "select event_day, outcome, count(*) from request_identities group by all"
    return {(day, outcome): records for day, outcome, records in connection.execute(query).fetchall()}


def _conflicts(
    connection: duckdb.DuckDBPyConnection,
) -> tuple[Mapping[date, list[ConflictVersion]], Mapping[date, set[str]], Mapping[date, list[Decision]]]:
    versions: dict[date, list[ConflictVersion]] = defaultdict(list)
    open_identities: dict[date, set[str]] = defaultdict(set)
    billed_already: dict[date, list[Decision]] = defaultdict(list)
    rows = connection.execute(
        """
        select event_day, source, event_id, file_id, line_number, content_sha256, decided_sha256, is_open, is_billed_already
        from request_identities
        where is_conflict
        order by all
        """
    ).fetchall()
    for day, source, event_id, file_id, line_number, content_sha256, decided_sha256, is_open, is_billed_already in rows:
        versions[day].append(
            ConflictVersion(
                source=source,
                event_id=event_id,
                event_day=day,
                file_id=file_id,
                line_number=line_number,
                content_sha256=content_sha256,
            )
        )
        if is_open:
            open_identities[day].add(f"{source}/{event_id}")
        if is_billed_already:
            decision = Decision(source=source, event_id=event_id, content_sha256=decided_sha256)
            if decision not in billed_already[day][-1:]:
                billed_already[day].append(decision)
    return versions, open_identities, billed_already


def _quantities(
    connection: duckdb.DuckDBPyConnection,
) -> tuple[Mapping[date, int], Mapping[date, Mapping[str, Decimal]]]:
    usage_rows: dict[date, int] = defaultdict(int)
    quantities: dict[date, dict[str, Decimal]] = defaultdict(dict)
    rows = connection.execute(
        """
        select
            event_day,
            meter_id,
            count(*),
            case any_value(meters.aggregation)
                when 'max' then max(quantity)
                when 'min' then min(quantity)
                else sum(quantity)
            end,
            any_value(meters.aggregation) in ('count', 'sum', 'max', 'min')
        from api_requests
        join meters using (meter_id)
        group by event_day, meter_id
        """
    ).fetchall()
    for day, meter_id, row_count, quantity, is_folded in rows:
        usage_rows[day] += row_count
        if is_folded:
            quantities[day][meter_id] = quantity
    return usage_rows, quantities


def _records_by_meter(
    connection: duckdb.DuckDBPyConnection, counting: Sequence[Meter]
) -> Mapping[date, Mapping[str, Decimal]]:
    found: dict[date, dict[str, Decimal]] = defaultdict(dict)
    if not counting:
        return found
    for day, endpoint, method, records in connection.execute(duck.sql("billable_records")).fetchall():
        for meter in counting:
            if (meter.endpoints is None or endpoint in meter.endpoints) and (
                meter.methods is None or method in meter.methods
            ):
                found[day][meter.meter_id] = found[day].get(meter.meter_id, Decimal(0)) + records
    return found


def _top_accounts(connection: duckdb.DuckDBPyConnection) -> Mapping[date, list[tuple[str, int]]]:
    found: dict[date, list[tuple[str, int]]] = defaultdict(list)
    rows = connection.execute(
        f"""
        select event_day, account_id, sum(request_count)::bigint as requests
        from request_outcomes
        where reason is null
        group by event_day, account_id
        qualify row_number() over (partition by event_day order by requests desc, account_id) <= {TOP_ACCOUNTS}
        order by event_day, requests desc, account_id
        """
    ).fetchall()
    for day, account_id, requests in rows:
        found[day].append((account_id, requests))
    return found
