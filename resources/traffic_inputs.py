"""What each event day's traffic is made of, read from PostgreSQL for all days at once, and the digests that tell it apart.

Two digests. The chain digest covers the whole tail of the day before and is checked without opening a file: it tells whether a
day has to be looked at. The content digest covers just the streams of that tail that the day's deltas rest on: it is what
the day's usage is made of, and stays as it is when another stream's tail changes. Not here: scanning (traffic_scan).
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

import psycopg
from psycopg.rows import dict_row

from resources import duck
from resources.traffic_config import TrafficSource

ASSET = "usage/traffic"
SAMPLES = "core/traffic_samples"
TAILS = "usage/traffic_tails"
NO_TAIL = ""

# env, node
Node = tuple[str, str]
# env, node, account uuid, inbound tag
Stream = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstSnapshot:
    """The first snapshot ever of a node. `conflicting_streams`: (account uuid, inbound tag) that contradict themselves in it."""

    env: str
    node: str
    collected_at: datetime
    conflicting_streams: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficDay:
    """An event day: its samples (`uri` None: none), what was derived from them last, and what usage was built from.

    `held_upstream`: guards that hold the samples. `nodes`: those with samples when the day was derived last. `held_after`: streams
    that the next day has found to have two writers from midnight on.
    """

    day: date
    generation: str | None
    uri: str | None
    file_sha256: str | None
    rows: int
    held_upstream: tuple[str, ...]
    chain_digest: str | None
    content_digest: str | None
    tail_digest: str | None
    tail_generation: str | None
    tail_uri: str | None
    nodes: tuple[Node, ...]
    held_after: tuple[Stream, ...]
    built_inputs_digest: str | None
    built_rules_digest: str | None
    is_held: bool


def read_days(connection: psycopg.Connection, days: Sequence[date] = ()) -> tuple[TrafficDay, ...]:
    """Return every day with samples or a build, and `days`, ascending."""
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            duck.sql("traffic_inputs").encode(),
            {"days": list(days), "asset": ASSET, "dataset": SAMPLES, "tails": TAILS},
        ).fetchall()
    return tuple(
        TrafficDay(
            **{
                **row,
                "held_upstream": tuple(row["held_upstream"]),
                "nodes": tuple((env, node) for env, node, _ in row["nodes"]),
                "held_after": tuple(sorted((env, node, uuid, tag) for env, node, uuid, tag in row["held_after"])),
            }
        )
        for row in rows
    )


def read_first_snapshots(connection: psycopg.Connection) -> tuple[FirstSnapshot, ...]:
    """Return the first snapshot of every node that was ever seen, by env and node."""
    rows = connection.execute(duck.sql("traffic_first_snapshots").encode()).fetchall()
    return tuple(
        FirstSnapshot(
            env=env,
            node=node,
            collected_at=collected_at,
            conflicting_streams=tuple((account_uuid, inbound_tag) for account_uuid, inbound_tag in streams),
        )
        for env, node, collected_at, streams in rows
    )


def nodes_as_read(nodes: Iterable[Node], policies: Mapping[Node, TrafficSource]) -> list[object]:
    """Return what usage.traffic_day keeps of a day's nodes: `[env, node, how it was read]`, null for one of the defaults."""
    return [[*node, None if node not in policies else _reading(policies[node])] for node in nodes]


def read_policies(connection: psycopg.Connection) -> Mapping[Node, TrafficSource]:
    """Return how each node was read on the newest of its days, so that one that traffic.toml lists no more keeps its bill."""
    rows = connection.execute(
        """
        select distinct on (read ->> 0, read ->> 1) read ->> 0, read ->> 1, read -> 2
        from usage.traffic_day
        cross join lateral jsonb_array_elements(nodes) as read
        where jsonb_typeof(read -> 2) = 'object'
        order by read ->> 0, read ->> 1, event_day desc
        """
    ).fetchall()
    return {(env, node): TrafficSource(name="", env=env, node=node, **reading) for env, node, reading in rows}


def chain_digest(
    day: TrafficDay,
    *,
    tail_digest: str,
    first_snapshots: Iterable[FirstSnapshot],
    policies: Mapping[Node, TrafficSource],
    nodes: Iterable[Node],
) -> str:
    """Return the digest of all that the day's deltas, holds and tail may depend on. `tail_digest`: of the day before."""
    thresholds = [[*node, policies[node].max_resets_per_hour] for node in sorted(nodes) if node in policies]
    return _digest([*_source_lines(day, first_snapshots), ["tail", tail_digest], ["thresholds", thresholds]])


def content_digest(day: TrafficDay, *, earlier_digest: str, first_snapshots: Iterable[FirstSnapshot]) -> str:
    """Return the digest of what the day's usage is made of. `earlier_digest`: of the last samples before the day's first."""
    return _digest([*_source_lines(day, first_snapshots), ["earlier", earlier_digest]])


def rules_digest(catalog_digest: str, policies: Mapping[Node, TrafficSource], nodes: Iterable[Node]) -> str:
    """Return the digest of a day's rules: of the catalog (usage_rules), and how the nodes of the day are read."""
    lines = [
        [*node, *_reading(source).values()] for node in sorted(nodes) if (source := policies.get(node)) is not None
    ]
    return _digest([catalog_digest, lines])


def _reading(source: TrafficSource) -> dict[str, str | int]:
    return {
        "on_first": source.on_first,
        "on_reset": source.on_reset,
        "max_resets_per_hour": source.max_resets_per_hour,
        "region": source.region,
        "line": source.line,
    }


def _source_lines(day: TrafficDay, first_snapshots: Iterable[FirstSnapshot]) -> list[object]:
    """Return the samples, who holds them, and first snapshots as far as this day can tell them from others."""
    lines: list[object] = [["samples", day.file_sha256], ["held", list(day.held_upstream)]]
    if day.held_after:
        lines.append(["held after", sorted(map(list, day.held_after))])
    for first in first_snapshots:
        at = first.collected_at.astimezone(UTC)
        if at.date() == day.day:
            lines.append(["first", first.env, first.node, at.isoformat()])
        if at.date() <= day.day and first.conflicting_streams:
            lines.append(["conflicts", first.env, first.node, sorted(map(list, first.conflicting_streams))])
    return lines


def _digest(lines: object) -> str:
    return hashlib.sha256(json.dumps(lines, ensure_ascii=False).encode()).hexdigest()
