"""What a traffic scan has found, per event day: the facts that guards compare and people look at.

Reads the tables that the scan left in its DuckDB connection, each kind of count by one query over all days.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

import duckdb

from billing_pipeline.counters import HoldReason
from resources import duck

TOP_ACCOUNTS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficFacts:
    """Counts of one event day. Bytes are of both directions.

    `minute_bytes`: of all minutes, whoever pays. `conserved_bytes`: the same, found without looking at minutes.
    `quantity_by_meter`: over all accounts. `top_accounts`: (account, bytes). Streams are named `env/node/account uuid/inbound tag`.
    `nodes`: (env, node) with samples.
    """

    samples_read: int
    billable: int
    not_billable_by_reason: Mapping[str, int]
    duplicates: int
    conflicts: int
    minute_bytes: int
    conserved_bytes: int
    bytes_by_hour: tuple[int, ...]
    bytes_by_node: Mapping[str, int]
    usage_rows: int
    quantity_by_meter: Mapping[str, Decimal]
    top_accounts: tuple[tuple[str, int], ...]
    split_brain_streams: tuple[str, ...]
    beyond_int64_streams: tuple[str, ...]
    reset_streams: tuple[str, ...]
    suspected_loss_bytes: int
    unknown_identities: tuple[str, ...]
    unknown_bytes: int
    nodes: tuple[tuple[str, str], ...]

    @property
    def held_streams(self) -> tuple[str, ...]:
        """Return every stream that is held on the day, for whatever reason."""
        return self.split_brain_streams + self.beyond_int64_streams


def traffic_facts(connection: duckdb.DuckDBPyConnection, days: Iterable[date]) -> Mapping[date, TrafficFacts]:
    """Return the counts of each of `days`, also of one without any sample."""
    found = _Found(connection)
    return {day: found.facts(day) for day in days}


class _Found:
    """Counts by day, of all days."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._outcomes = self._numbers(
            "select event_day, coalesce(reason, ''), sum(sample_count) from traffic_sample_outcomes group by all"
        )
        self._repeats = self._numbers(
            "select event_day, if(is_conflict, 'conflict', 'duplicate'),"
            " sum(if(is_conflict, sample_count, sample_count - 1)) from traffic_repeats group by all"
        )
        self._conserved = self._numbers(f"select event_day, '', bytes from ({duck.sql('traffic_conserved_bytes')})")
        self._hours = self._numbers(
            "select event_day, hour(period_start)::varchar, sum(uplink_bytes + downlink_bytes) from traffic_hours group by all"
        )
        self._nodes = self._numbers(
            "select event_day, env || ':' || node, sum(uplink_bytes + downlink_bytes) from traffic_hours"
            " join traffic_streams using (stream_key) group by all"
        )
        self._rows = self._numbers("select event_day, '', count(*) from traffic group by all")
        self._quantities: dict[date, dict[str, Decimal]] = defaultdict(dict)
        for day, meter_id, quantity in self._all("select event_day, meter_id, sum(quantity) from traffic group by all"):
            self._quantities[day][meter_id] = quantity
        self._unknown = self._numbers(
            "select event_day, account_uuid, sum(uplink_bytes + downlink_bytes) from traffic_not_billable"
            " where reason = 'unknown_identity' group by all"
        )
        self._suspects = self._suspected()
        self._accounts = self._top_accounts()
        self._seen: dict[date, list[tuple[str, str]]] = defaultdict(list)
        for day, env, node in self._all("select distinct event_day, env, node from traffic_stream_days order by all"):
            self._seen[day].append((env, node))

    def facts(self, day: date) -> TrafficFacts:
        outcomes, repeats = self._outcomes.get(day, {}), self._repeats.get(day, {})
        duplicates, conflicts = repeats.get("duplicate", 0), repeats.get("conflict", 0)
        hours = self._hours.get(day, {})
        suspects = self._suspects.get(day, [])
        unknown = self._unknown.get(day, {})
        return TrafficFacts(
            samples_read=sum(outcomes.values()) + duplicates + conflicts,
            billable=outcomes.get("", 0),
            not_billable_by_reason={reason: samples for reason, samples in outcomes.items() if reason},
            duplicates=duplicates,
            conflicts=conflicts,
            minute_bytes=sum(hours.values()),
            conserved_bytes=self._conserved.get(day, {}).get("", 0),
            bytes_by_hour=tuple(hours.get(str(hour), 0) for hour in range(24)),
            bytes_by_node=self._nodes.get(day, {}),
            usage_rows=self._rows.get(day, {}).get("", 0),
            quantity_by_meter=self._quantities.get(day, {}),
            top_accounts=tuple(self._accounts.get(day, ())),
            split_brain_streams=tuple(name for name, reason, _ in suspects if reason == HoldReason.SPLIT_BRAIN),
            beyond_int64_streams=tuple(name for name, reason, _ in suspects if reason == HoldReason.BEYOND_INT64),
            reset_streams=tuple(name for name, reason, _ in suspects if reason == "reset"),
            suspected_loss_bytes=sum(loss for _, reason, loss in suspects if reason == "reset"),
            unknown_identities=tuple(sorted(unknown)),
            unknown_bytes=sum(unknown.values()),
            nodes=tuple(self._seen.get(day, ())),
        )

    def _suspected(self) -> Mapping[date, list[tuple[str, str, int]]]:
        found: dict[date, list[tuple[str, str, int]]] = defaultdict(list)
        rows = self._all(
            "select event_day, concat_ws('/', env, node, account_uuid, inbound_tag), reason, suspected_loss_bytes"
            " from traffic_suspects order by all"
        )
        for day, name, reason, loss in rows:
            found[day].append((name, reason, int(loss)))
        return found

    def _top_accounts(self) -> Mapping[date, list[tuple[str, int]]]:
        found: dict[date, list[tuple[str, int]]] = defaultdict(list)
        rows = self._all(
            f"""
            select event_day, account_id, sum(uplink_bytes + downlink_bytes) as bytes
            from traffic_hours
            where account_id is not null and held_for is null
            group by event_day, account_id
            qualify row_number() over (partition by event_day order by bytes desc, account_id) <= {TOP_ACCOUNTS}
            order by event_day, bytes desc, account_id
            """
        )
        for day, account_id, total in rows:
            found[day].append((account_id, int(total)))
        return found

    def _numbers(self, query: str) -> Mapping[date, Mapping[str, int]]:
        found: dict[date, dict[str, int]] = defaultdict(dict)
        for day, key, number in self._all(query):
            found[day][key] = int(number)
        return found

    def _all(self, query: str) -> list[Any]:
        return self._connection.execute(query).fetchall()
