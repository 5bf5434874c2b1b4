"""Traffic for tests: samples become lake generations with their rows in PostgreSQL, and a reference says what they are worth.

The reference is billing_pipeline.counters, applied stream by stream and day by day.
"""

import hashlib
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from billing_pipeline.counters import CounterPolicy, CounterSample, OnFirst, OnReset, StreamDay, StreamTail, stream_day
from resources.database import Database
from resources.lake import Lake
from resources.traffic_config import TrafficSource

ACME = "11111111-1111-1111-1111-111111111111"
OTHER = "22222222-2222-2222-2222-222222222222"
DAY = date(2026, 3, 1)

# env, node, account uuid, inbound tag
Stream = tuple[str, str, str, str]

LAKE_SCHEMA = pa.schema(
    [
        ("env", pa.string()),
        ("node", pa.string()),
        ("account_uuid", pa.string()),
        ("inbound_tag", pa.string()),
        ("collected_at", pa.timestamp("us")),
        ("uplink_bytes", pa.int64()),
        ("downlink_bytes", pa.int64()),
        ("uptime_seconds", pa.int64()),
        ("xray_version", pa.string()),
        ("source", pa.string()),
        ("file_id", pa.int64()),
        ("line_number", pa.int64()),
    ]
)


def at(text: str, day: date = DAY) -> datetime:
    """Return `hh:mm[:ss[.ffffff]]` of a day, UTC."""
    return datetime.fromisoformat(f"{day}T{text}+00:00")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One sample of a stream."""

    collected_at: datetime
    uplink_bytes: int
    downlink_bytes: int = 0
    uptime_seconds: int | None = None
    account_uuid: str = ACME
    inbound_tag: str = "premium"
    node: str = "jp"
    env: str = "prod"

    @property
    def stream(self) -> Stream:
        return self.env, self.node, self.account_uuid, self.inbound_tag

    @property
    def day(self) -> date:
        return self.collected_at.date()

    @property
    def key(self) -> tuple[object, ...]:
        return *self.stream, self.collected_at


def readings(text: str, **fields: object) -> list[Reading]:
    """Return uplink totals written as `10:30 100, 10:31 150`."""
    pairs = (pair.split() for pair in text.split(","))
    return [Reading(collected_at=at(when), uplink_bytes=int(total), **fields) for when, total in pairs]  # type: ignore[arg-type]


def source(node: str = "jp", env: str = "prod", **fields: object) -> TrafficSource:
    """Return the configuration of a node."""
    return TrafficSource(name=f"{env}-{node}", env=env, node=node, **fields)  # type: ignore[arg-type]


def kept(samples: Iterable[Reading]) -> list[Reading]:
    """Return what ingest keeps, sorted: each stream and instant once, none that says two things."""
    versions: dict[tuple[object, ...], dict[tuple[int, int], Reading]] = defaultdict(dict)
    for one in samples:
        versions[one.key].setdefault((one.uplink_bytes, one.downlink_bytes), one)
    alone = [next(iter(found.values())) for found in versions.values() if len(found) == 1]
    return sorted(alone, key=lambda one: (one.stream, one.collected_at))


def write_samples(path: Path, samples: Sequence[Reading], *, row_group_size: int = 100_000) -> Path:
    """Write a lake file of the samples in their order."""
    rows = [
        {
            "env": one.env,
            "node": one.node,
            "account_uuid": one.account_uuid,
            "inbound_tag": one.inbound_tag,
            "collected_at": one.collected_at.astimezone(UTC).replace(tzinfo=None),
            "uplink_bytes": one.uplink_bytes,
            "downlink_bytes": one.downlink_bytes,
            "uptime_seconds": one.uptime_seconds,
            "xray_version": None,
            "source": f"{one.env}-{one.node}",
            "file_id": None,
            "line_number": None,
        }
        for one in samples
    ]
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows, schema=LAKE_SCHEMA), path, row_group_size=row_group_size)
    return path


@dataclass
class Reference:
    """What the samples of all days are worth, by billing_pipeline.counters."""

    first_snapshots: Mapping[tuple[str, str], datetime]
    sources: Sequence[TrafficSource] = ()
    tails: dict[Stream, StreamTail] = field(default_factory=dict)

    def days(self, samples: Iterable[Reading]) -> dict[date, dict[Stream, StreamDay]]:
        """Return each day's streams."""
        by_day: dict[date, dict[Stream, list[Reading]]] = defaultdict(lambda: defaultdict(list))
        for one in sorted(samples, key=lambda one: one.collected_at):
            by_day[one.day][one.stream].append(one)
        # resets do not depend on what is held, so a first pass tells each day those of the hour after it
        tails = dict(self.tails)
        first_pass = {day: self._day(streams, {}) for day, streams in sorted(by_day.items())}
        self.tails = tails
        return {
            day: self._day(streams, first_pass.get(day + timedelta(days=1), {}))
            for day, streams in sorted(by_day.items())
        }

    def _day(
        self, streams: Mapping[Stream, Sequence[Reading]], following: Mapping[Stream, StreamDay]
    ) -> dict[Stream, StreamDay]:
        policies = {(one.env, one.node): one for one in self.sources}
        found = {}
        for stream, own in streams.items():
            node = stream[:2]
            policy = policies.get(node)
            first = self.first_snapshots.get(node)
            found[stream] = stream_day(
                [
                    CounterSample(
                        collected_at=one.collected_at,
                        uplink_bytes=one.uplink_bytes,
                        downlink_bytes=one.downlink_bytes,
                        uptime_seconds=one.uptime_seconds,
                    )
                    for one in own
                ],
                tail=self.tails.get(stream),
                is_first_of_node=first is not None and own[0].collected_at <= first,
                resets_after_midnight=following[stream].resets_of_first_hour if stream in following else 0,
                policy=CounterPolicy()
                if policy is None
                else CounterPolicy(
                    on_first=OnFirst(policy.on_first),
                    on_reset=OnReset(policy.on_reset),
                    max_resets_per_hour=policy.max_resets_per_hour,
                ),
            )
        self.tails |= {stream: one.tail for stream, one in found.items()}
        return found


@dataclass(frozen=True, slots=True)
class TrafficDeliveries:
    """Publishes samples as ingest does: snapshots into core.traffic_snapshot, a generation per day."""

    database: Database
    lake: Lake
    scratch_dir: Path

    def deliver(
        self, samples: Iterable[Reading], *, days: Collection[date] = (), empty: Iterable[Reading] = ()
    ) -> None:
        """Make `samples` all there is of their days, and of `days`. `empty`: instants of snapshots without any sample."""
        samples = list(samples)
        of_day: dict[date, list[Reading]] = {day: [] for day in days}
        for one in samples:
            of_day.setdefault(one.day, []).append(one)
        for day, own in of_day.items():
            self._publish(day, kept(own))
        self._snapshots(samples, sample_count=1)
        self._snapshots(empty, sample_count=0)
        self._conflicts(samples)

    def hold(self, day: date, status: str = "held") -> None:
        """Let a guard of the samples say `status`."""
        with self.database.transaction() as connection:
            connection.execute(
                """
                insert into guards.verdict
                    (asset, partition_key, guard, status, expected, actual, message, inputs_digest, run_id)
                values ('core/traffic_samples', %s, 'windows_complete', %s, '', '', '', 'digest', 'run')
                on conflict (asset, partition_key, guard) do update set status = excluded.status
                """,
                [day.isoformat(), status],
            )

    def _publish(self, day: date, samples: Sequence[Reading]) -> None:
        generation = uuid.uuid4().hex
        path = write_samples(self.scratch_dir / f"{generation}.parquet", samples)
        published = self.lake.publish(path, dataset="core/traffic_samples", partition=day, generation=generation)
        path.unlink()
        key = ("core/traffic_samples", day, generation)
        with self.database.transaction(f"core/traffic_samples|{day.isoformat()}") as connection:
            connection.execute(
                """
                insert into core.lake_generation (dataset, partition_key, generation, uri, file_sha256, size_bytes,
                    row_count, inputs_digest, code_version, run_id)
                values (%s, %s, %s, %s, %s, %s, %s, 'digest', 'test', 'run')
                """,
                [*key, published.uri, published.sha256, published.size_bytes, len(samples)],
            )
            connection.execute(
                """
                insert into core.lake_partition (dataset, partition_key, generation) values (%s, %s, %s)
                on conflict (dataset, partition_key) do update set generation = excluded.generation
                """,
                key,
            )

    def _snapshots(self, samples: Iterable[Reading], *, sample_count: int) -> None:
        instants = sorted({(one.env, one.node, one.collected_at) for one in samples})
        with self.database.transaction() as connection, connection.cursor() as cursor:
            cursor.executemany(
                """
                insert into core.traffic_snapshot
                    (env, node, collected_at, content_sha256, source, sample_count, received_at)
                values (%s, %s, %s, %s, %s, %s, now())
                on conflict do nothing
                """,
                [
                    (*one, hashlib.sha256(repr(one).encode()).hexdigest(), f"{one[0]}-{one[1]}", sample_count)
                    for one in instants
                ],
            )

    def _conflicts(self, samples: Sequence[Reading]) -> None:
        alone = {one.key for one in kept(samples)}
        with self.database.transaction() as connection, connection.cursor() as cursor:
            cursor.executemany(
                """
                insert into core.traffic_conflict (env, node, account_uuid, inbound_tag, collected_at, uplink_bytes,
                    downlink_bytes, event_day, source, found_at)
                values (%s, %s, %s, %s, %s, %s, %s, %s, 'source', now())
                on conflict do nothing
                """,
                [(*one.key, one.uplink_bytes, one.downlink_bytes, one.day) for one in samples if one.key not in alone],
            )
