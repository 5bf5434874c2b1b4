"""Replay traffic from its raw samples: stored rows that are not what the samples say are replaced, each with an adjustment.

A second run finds nothing. Only days that are built from the samples as they are now are compared: a stale day is built, a held
one keeps its last good rows. What is put right is booked again by the next run of the charges (`booked_day` of the day goes).
Not here: reading samples and the rule (traffic_scan), collecting what is missing (traffic_store).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import psycopg

from billing_pipeline.errors import BillingError
from resources.charge_store import LOCK as BOOKING
from resources.database import copy_arrow
from resources.disk import disk_failures_explained
from resources.traffic_day_writer import TailPointer
from resources.traffic_inputs import ASSET, Node, TrafficDay
from resources.traffic_scan import TrafficScan
from resources.traffic_usage_store import TrafficState, TrafficUsageStore

_MINUTE_KEY = "account_id, bucket_start, env, node, inbound_tag, account_uuid"
_MINUTE_VALUES = (
    "event_day", "region", "line", "uplink_bytes", "downlink_bytes", "on_first", "on_reset", "basis", "epoch",
    "suspected_loss_bytes",
)  # fmt: skip
_HOUR_KEY = "account_id, meter_id, period_start, env, node, inbound_tag"
_HOUR_VALUES = ("event_day", "period_end", "quantity", "unit", "bucket_count")

Progress = Callable[[str, int, int], None]


class ReconciliationRefusedError(BillingError):
    """A replay without a name, a reason or a known source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DayReconciled:
    """What a replay of a day did. `left_out` tells why it was not compared; then nothing was touched.

    `minutes`: buckets that the samples come to. The adjustments count minute buckets and hourly rows that were replaced.
    """

    day: date
    minutes: int = 0
    adjusted_minutes: int = 0
    adjusted_hours: int = 0
    left_out: str | None = None


def reconcile(
    store: TrafficUsageStore,
    *,
    days: Sequence[date],
    actor: str,
    reason: str,
    run_id: str,
    only_sources: Sequence[str] | None = None,
    on_progress: Progress | None = None,
) -> tuple[DayReconciled, ...]:
    """Compare the rows of `days`, of all nodes or of those of `only_sources`, with the raw samples, and replace what differs.

    Raises:
        ReconciliationRefusedError: actor or reason is empty, or a source is unknown; nothing was touched.
        LakeFileMissingError: samples are not in the lake.
        DiskError: the scratch folder cannot be written.
    """
    nodes = _nodes(store, actor, reason, only_sources)
    stale = frozenset(store.stale_days())
    state = store.read_state(sorted(set(days)))
    wanted, results = frozenset(days), []
    for day, tail in state.with_tails():
        if day.day not in wanted:
            continue
        left_out = _left_out(day, stale)
        if left_out is None:
            replay = _Replay(store=store, state=state, nodes=nodes, actor=actor, reason=reason, run_id=run_id)
            results.append(replay.day(day, tail))
        else:
            results.append(DayReconciled(day=day.day, left_out=left_out))
        if on_progress:
            on_progress("event days", len(results), len(wanted))
    return tuple(results)


def _left_out(day: TrafficDay, stale: frozenset[date]) -> str | None:
    if day.built_inputs_digest is None:
        return "never built: build it first"
    if day.is_held:
        return "held: its rows are the last good ones, not of these samples"
    return "stale: samples or rules are others by now, build it first" if day.day in stale else None


def _nodes(
    store: TrafficUsageStore, actor: str, reason: str, only_sources: Sequence[str] | None
) -> tuple[Node, ...] | None:
    known = {source.name: (source.env, source.node) for source in store.sources}
    unknown = sorted(set(only_sources or ()) - known.keys())
    problem = ""
    if not actor.strip() or not reason.strip():
        problem = "a replay names who asked for it and why"
    elif unknown:
        problem = f"there is no source {', '.join(unknown)} (there are {', '.join(sorted(known)) or 'none'})"
    if problem:
        raise ReconciliationRefusedError(
            f"traffic was not replayed: {problem}",
            bill="nothing changed",
            fix="name yourself, a reason and sources of traffic.toml",
        )
    return None if only_sources is None else tuple(known[name] for name in only_sources)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Replay:
    """How days are replayed. `nodes` None: all of them."""

    store: TrafficUsageStore
    state: TrafficState
    nodes: tuple[Node, ...] | None
    actor: str
    reason: str
    run_id: str

    def day(self, day: TrafficDay, tail: TailPointer) -> DayReconciled:
        with (
            disk_failures_explained(self.store.scratch_dir),
            self.store.scan(self.state, [day], tail) as scan,
            # A booking that has read the wrong rows must not write, once they are right, that the day is booked.
            self.store.database.transaction(f"{ASSET}|{day.day.isoformat()}", BOOKING) as connection,
        ):
            built = connection.execute(
                "select inputs_digest, rules_digest from usage.build where asset = %s and partition_key = %s",
                [ASSET, day.day],
            ).fetchone()
            if built != (day.built_inputs_digest, day.built_rules_digest):
                return DayReconciled(day=day.day, left_out="built again meanwhile: replay it again")
            return self._compare(connection, day.day, scan)

    def _compare(self, connection: psycopg.Connection, day: date, scan: TrafficScan) -> DayReconciled:
        parameters = {
            "day": day,
            "envs": None if self.nodes is None else [env for env, _ in self.nodes],
            "nodes": None if self.nodes is None else [node for _, node in self.nodes],
            "actor": self.actor,
            "reason": self.reason,
            "run_id": self.run_id,
        }
        connection.execute(
            "create temporary table true_minute (like usage.traffic_minute including defaults) on commit drop"
        )
        connection.execute("create temporary table true_hour (like usage.traffic including defaults) on commit drop")
        minutes = copy_arrow(connection, "pg_temp.true_minute", scan.minute_rows([day]))
        copy_arrow(connection, "pg_temp.true_hour", scan.usage_rows([day]))
        found = {}
        for name, table, key, values in (
            ("minute", "usage.traffic_minute", _MINUTE_KEY, _MINUTE_VALUES),
            ("hour", "usage.traffic", _HOUR_KEY, _HOUR_VALUES),
        ):
            connection.execute(_difference(name, table, key, values).encode(), parameters)
            connection.execute(_RECORD[name].encode(), parameters)
            found[name] = _replace(connection, name, table, key)
        if any(found.values()):
            connection.execute("delete from billing.booked_day where event_day = %s and usage_asset = %s", [day, ASSET])
        return DayReconciled(day=day, minutes=minutes, adjusted_minutes=found["minute"], adjusted_hours=found["hour"])


def _difference(name: str, table: str, key: str, values: Sequence[str]) -> str:
    """Return the statement that fills `different_<name>` with the keys of rows that are not what they should be."""
    compared = ", ".join(f"stored.{value}" for value in values), ", ".join(f"truth.{value}" for value in values)
    return f"""
        create temporary table different_{name} on commit drop as
        select {key}
        from (select * from {table} where event_day = %(day)s) as stored
        full join true_{name} as truth using ({key})
        where
            ({compared[0]}) is distinct from ({compared[1]})
            and (%(envs)s::text[] is null or (env, node) in (select * from unnest(%(envs)s::text[], %(nodes)s::text[])))
    """


_RECORD: Mapping[str, str] = {
    "minute": f"""
        insert into usage.traffic_adjustment (
            run_id, event_day, env, node, account_id, account_uuid, inbound_tag, period_start, stored_uplink_bytes,
            stored_downlink_bytes, true_uplink_bytes, true_downlink_bytes, actor, reason
        )
        select
            %(run_id)s, %(day)s, env, node, account_id, account_uuid, inbound_tag, bucket_start, stored.uplink_bytes,
            stored.downlink_bytes, truth.uplink_bytes, truth.downlink_bytes, %(actor)s, %(reason)s
        from different_minute
        left join usage.traffic_minute as stored using ({_MINUTE_KEY})
        left join true_minute as truth using ({_MINUTE_KEY})
        order by {_MINUTE_KEY}
    """,
    "hour": f"""
        insert into usage.traffic_adjustment (
            run_id, event_day, env, node, account_id, inbound_tag, meter_id, period_start, stored_quantity, true_quantity,
            actor, reason
        )
        select
            %(run_id)s, %(day)s, env, node, account_id, inbound_tag, meter_id, period_start, stored.quantity,
            truth.quantity, %(actor)s, %(reason)s
        from different_hour
        left join usage.traffic as stored using ({_HOUR_KEY})
        left join true_hour as truth using ({_HOUR_KEY})
        order by {_HOUR_KEY}
    """,
}


def _replace(connection: psycopg.Connection, name: str, table: str, key: str) -> int:
    """Put the true rows in place of those that differ, and return how many keys differed."""
    matches = " and ".join(f"stored.{column} = wrong.{column}" for column in key.split(", "))
    connection.execute(f"delete from {table} as stored using different_{name} as wrong where {matches}".encode())
    connection.execute(
        f"insert into {table} select truth.* from true_{name} as truth join different_{name} using ({key})".encode()
    )
    return int(connection.execute(f"select count(*) from different_{name}".encode()).fetchall()[0][0])
