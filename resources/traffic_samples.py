"""Samples on their way into the lake: snapshots -> a draft on disk -> the next generation of a day, merged in DuckDB.

A draft keeps its samples in a Parquet file, so that memory does not grow with what is read. Merging: current generation plus
new samples, one row per stream and instant; what says two totals for one instant is in no generation. Not here: which
snapshots are new (traffic_manifest), when to publish (traffic_publisher). Columns: docs/traffic.md.
"""

import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from billing_pipeline.sources.traffic_snapshots import SampleRejection, TrafficSnapshot
from resources.duck import sql

DATASET = "core/traffic_samples"
# env, node, instant, content
SnapshotKey: TypeAlias = tuple[str, str, datetime, str]
# Rows that wait in Python before they go to the draft's file.
FLUSH_ROWS = 50_000

_DRAFT = pa.schema(
    [
        ("snapshot_number", pa.int32()),
        ("account_uuid", pa.string()),
        ("inbound_tag", pa.string()),
        ("uplink_bytes", pa.int64()),
        ("downlink_bytes", pa.int64()),
        ("line_number", pa.int64()),
    ]
)
_SNAPSHOTS = pa.schema(
    [
        ("snapshot_number", pa.int32()),
        ("env", pa.string()),
        ("node", pa.string()),
        ("collected_at", pa.timestamp("us")),
        ("uptime_seconds", pa.int64()),
        ("xray_version", pa.string()),
        ("source", pa.string()),
        ("file_id", pa.int64()),
    ]
)
_SAMPLES = pa.schema(
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


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftSnapshot:
    """A snapshot in a draft. `number` joins it with its samples; `file_id` None: pulled."""

    number: int
    source: str
    env: str
    node: str
    collected_at: datetime
    content_sha256: str
    sample_count: int
    rejected: tuple[SampleRejection, ...]
    uptime_seconds: int | None
    xray_version: str | None
    file_id: int | None

    @property
    def day(self) -> date:
        """Return the UTC day to whose generation it belongs."""
        return self.collected_at.date()

    @property
    def key(self) -> SnapshotKey:
        """Return what makes two snapshots one: node, instant and all they say."""
        return self.env, self.node, self.collected_at, self.content_sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class ConflictVersion:
    """One of several totals for one stream and instant."""

    env: str
    node: str
    account_uuid: str
    inbound_tag: str
    collected_at: datetime
    uplink_bytes: int
    downlink_bytes: int
    source: str
    file_id: int | None
    line_number: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """A day's next generation on disk: its rows, the samples that came in for nothing, the conflicts they made."""

    path: Path
    rows: int
    duplicates: int
    new_conflicts: tuple[ConflictVersion, ...]


class Draft:
    """Snapshots that were read and are not published yet. A context manager; its file goes with it."""

    def __init__(self, path: Path) -> None:
        self.snapshots: list[DraftSnapshot] = []
        self.sample_count = 0
        self._path = path
        self._number = 0
        self._rows: list[tuple[int, str, str, int, int, int | None]] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = pq.ParquetWriter(path, _DRAFT, compression="lz4")

    @classmethod
    def below(cls, scratch_dir: Path) -> Self:
        """Return an empty draft with a file of its own in the scratch folder."""
        return cls(scratch_dir / f"ingest-traffic-{secrets.token_hex(6)}.parquet")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        self._path.unlink(missing_ok=True)

    def add(
        self,
        snapshot: TrafficSnapshot,
        *,
        source: str,
        file_id: int | None = None,
        positions: Sequence[int] | None = None,
    ) -> None:
        """Take a snapshot. `positions`: where in the file each of its samples stands."""
        self._number += 1
        self.snapshots.append(
            DraftSnapshot(
                number=self._number,
                source=source,
                env=snapshot.env,
                node=snapshot.node,
                collected_at=snapshot.collected_at,
                content_sha256=content_sha256(snapshot),
                sample_count=len(snapshot.samples),
                rejected=snapshot.rejected,
                uptime_seconds=snapshot.uptime_seconds,
                xray_version=snapshot.xray_version,
                file_id=file_id,
            )
        )
        for index, sample in enumerate(snapshot.samples):
            self._rows.append(
                (
                    self._number,
                    sample.account_uuid,
                    sample.inbound_tag,
                    sample.uplink_bytes,
                    sample.downlink_bytes,
                    None if positions is None else positions[index],
                )
            )
        self.sample_count += len(snapshot.samples)
        if len(self._rows) >= FLUSH_ROWS:
            self._flush()

    def discard_since(self, number: int) -> None:
        """Forget the snapshots that were added after `last_number` was `number`."""
        self.snapshots = [snapshot for snapshot in self.snapshots if snapshot.number <= number]

    @property
    def last_number(self) -> int:
        """Return the number of the snapshot that was added last."""
        return self._number

    def finish(self) -> Path:
        """Return the file with all samples; nothing can be added any more."""
        self._flush()
        self._writer.close()
        return self._path

    def _flush(self) -> None:
        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [pa.array(column, each.type) for column, each in zip(columns, _DRAFT, strict=True)]
            self._writer.write_table(pa.table(arrays, schema=_DRAFT))
            self._rows.clear()


def merge(
    engine: duckdb.DuckDBPyConnection,
    *,
    current: Path | None,
    draft: Path,
    snapshots: Sequence[DraftSnapshot],
    conflicts: Sequence[ConflictVersion],
    target: Path,
) -> Merged:
    """Write the next generation of a day to `target`: what `current` holds and the samples of `snapshots` out of `draft`.

    `conflicts`: every version that is known of the day's conflicting samples. The result does not depend on the order in which
    snapshots arrived.
    """
    engine.register("draft_snapshots", _snapshot_table(snapshots))
    engine.register("known_conflicts", _conflict_table(conflicts))
    if current is None:
        engine.register("no_samples", _SAMPLES.empty_table())
        engine.table("no_samples").create_view("current_samples", replace=True)
    else:
        engine.read_parquet(str(current)).create_view("current_samples", replace=True)
    engine.read_parquet(str(draft)).create_view("draft_samples", replace=True)
    engine.execute(sql("traffic_samples_incoming"))
    engine.execute(sql("traffic_samples_versions"))
    engine.sql(sql("traffic_samples_generation")).write_parquet(str(target), compression="lz4")
    (duplicates,) = engine.execute(
        "select coalesce(sum(incoming_rows + is_known::integer - 1), 0)::bigint from versions"
    ).fetchall()[0]
    found = engine.execute(
        "select env, node, account_uuid, inbound_tag, collected_at, uplink_bytes, downlink_bytes, source, file_id, line_number"
        " from versions where is_conflict and not is_known_conflict order by all"
    ).fetchall()
    names = [column[0] for column in engine.description or ()]
    for name in ("draft_snapshots", "known_conflicts"):
        engine.unregister(name)
    new_conflicts = [dict(zip(names, row, strict=True)) for row in found]
    return Merged(
        path=target,
        rows=pq.read_metadata(target).num_rows,
        duplicates=duplicates,
        new_conflicts=tuple(
            ConflictVersion(**{**row, "collected_at": row["collected_at"].replace(tzinfo=UTC)}) for row in new_conflicts
        ),
    )


def content_sha256(snapshot: TrafficSnapshot) -> str:
    """Return the SHA-256 hex of all that a snapshot says beside its node and instant, in any order of its samples."""
    samples = sorted(
        (sample.account_uuid, sample.inbound_tag, sample.uplink_bytes, sample.downlink_bytes)
        for sample in snapshot.samples
    )
    refused = sorted((str(one.reason), one.field or "") for one in snapshot.rejected)
    content = json.dumps([samples, refused, snapshot.uptime_seconds, snapshot.xray_version], separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


def _snapshot_table(snapshots: Sequence[DraftSnapshot]) -> pa.Table:
    rows = [
        {
            "snapshot_number": one.number,
            "env": one.env,
            "node": one.node,
            "collected_at": _naive(one.collected_at),
            "uptime_seconds": one.uptime_seconds,
            "xray_version": one.xray_version,
            "source": one.source,
            "file_id": one.file_id,
        }
        for one in snapshots
    ]
    return pa.Table.from_pylist(rows, schema=_SNAPSHOTS)


def _conflict_table(conflicts: Sequence[ConflictVersion]) -> pa.Table:
    rows = [{**asdict(one), "collected_at": _naive(one.collected_at)} for one in conflicts]
    return pa.Table.from_pylist(rows, schema=_SAMPLES)


def _naive(instant: datetime) -> datetime:
    # The lake's timestamps are UTC without saying so.
    return instant.astimezone(UTC).replace(tzinfo=None)
