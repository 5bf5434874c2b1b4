"""Deliveries for storage tests: facts become lake generations with their rows in PostgreSQL, as ingest leaves them."""

import hashlib
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from billing_pipeline.timelines import ObjectEvent, RepositoryEvent, Snapshot
from resources.database import Database
from resources.delivery_manifest import write_generation
from resources.lake import Lake

_TEXT, _BIG, _INSTANT = pa.string(), pa.int64(), pa.timestamp("us")
SCHEMAS = {
    "core/storage_snapshots": pa.schema(
        [("source", _TEXT), ("snapshot_id", _TEXT), ("snapshot_at", _INSTANT), ("repository", _TEXT), ("owner", _TEXT),
         ("visibility", _TEXT), ("bytes", _BIG), ("object_count", _BIG), ("file_id", _BIG)]
    ),
    "core/storage_objects": pa.schema(
        [("source", _TEXT), ("snapshot_id", _TEXT), ("snapshot_at", _INSTANT), ("repository", _TEXT), ("object_id", _TEXT),
         ("version_id", _TEXT), ("bytes", _BIG), ("is_current", pa.bool_()), ("file_id", _BIG)]
    ),
    "core/object_events": pa.schema(
        [("source", _TEXT), ("event_id", _TEXT), ("shared_event_id", _TEXT), ("event_at", _INSTANT), ("bucket", _TEXT),
         ("repository", _TEXT), ("owner", _TEXT), ("object_id", _TEXT), ("event_name", _TEXT), ("action", _TEXT), ("bytes", _BIG),
         ("upload_id", _TEXT), ("part_number", _BIG), ("version_id", _TEXT), ("original_event_id", _TEXT), ("file_id", _BIG),
         ("line_number", _BIG)]
    ),
    "core/visibility_events": pa.schema(
        [("source", _TEXT), ("event_id", _TEXT), ("event_at", _INSTANT), ("repository", _TEXT), ("kind", _TEXT),
         ("value", _TEXT), ("file_id", _BIG), ("line_number", _BIG)]
    ),
}  # fmt: skip
SOURCES = {
    "core/storage_snapshots": "inventory",
    "core/storage_objects": "inventory",
    "core/object_events": "trail",
    "core/visibility_events": "application",
}
_TIMES = {"core/storage_snapshots": "snapshot_at", "core/storage_objects": "snapshot_at"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is said about repositories, each by name."""

    snapshots: Sequence[tuple[str, Snapshot]] = ()
    object_events: Sequence[tuple[str, ObjectEvent]] = ()
    repository_events: Sequence[tuple[str, RepositoryEvent]] = ()

    def __add__(self, other: "Facts") -> "Facts":
        return Facts(
            snapshots=[*self.snapshots, *other.snapshots],
            object_events=[*self.object_events, *other.object_events],
            repository_events=[*self.repository_events, *other.repository_events],
        )

    def rows(self, source: Callable[[Snapshot], str] = lambda snapshot: "inventory") -> dict[str, list[dict[str, Any]]]:
        """Return lake rows by dataset, without files. `source` names who gives a snapshot."""
        made: dict[str, list[dict[str, Any]]] = {name: [] for name in SCHEMAS}
        for repository, snapshot in self.snapshots:
            objects = snapshot.objects or {}
            head = {
                "source": source(snapshot),
                "snapshot_id": snapshot.at.isoformat(),
                "snapshot_at": naive(snapshot.at),
                "repository": repository,
            }
            made["core/storage_snapshots"].append(
                head
                | {"owner": snapshot.owner, "visibility": snapshot.visibility, "bytes": snapshot.size_bytes}
                | {"object_count": len(objects)}
            )
            made["core/storage_objects"] += [
                head | {"object_id": object_id, "version_id": version_id, "bytes": size, "is_current": True}
                for object_id, (size, version_id) in objects.items()
            ]
        for repository, event in self.object_events:
            row = asdict(event)
            row |= {"source": "trail", "repository": repository, "event_at": naive(row.pop("at"))}
            row["bytes"] = row.pop("size_bytes")
            made["core/object_events"].append(row)
        for repository, change in self.repository_events:
            row = asdict(change)
            made["core/visibility_events"].append(
                row | {"source": "application", "repository": repository, "event_at": naive(row.pop("at"))}
            )
        return made


def naive(instant: datetime) -> datetime:
    """Return UTC without its zone, as the lake has it."""
    return instant.astimezone(UTC).replace(tzinfo=None)


@dataclass(frozen=True, slots=True)
class StorageDeliveries:
    """Publishes generations; each call is a file more in the delivery day's partitions."""

    database: Database
    lake: Lake
    scratch_dir: Path
    delivered: dict[tuple[str, date], list[dict[str, Any]]] = field(default_factory=dict)

    def deliver(self, day: date, facts: Facts, *, sources: Mapping[datetime, str] | None = None) -> None:
        """Add `facts` to what was delivered on `day`. `sources`: instants of snapshots that another source gives."""
        for dataset, rows in facts.rows().items():
            for row in rows:
                said_at = row.get("snapshot_at")
                if sources and said_at is not None and said_at.replace(tzinfo=UTC) in sources:
                    row["source"] = sources[said_at.replace(tzinfo=UTC)]
            if rows:
                self._deliver(dataset, day, rows)

    def _deliver(self, dataset: str, day: date, rows: list[dict[str, Any]]) -> None:
        source, time = SOURCES[dataset], _TIMES.get(dataset, "event_at")
        with self.database.transaction(f"{dataset}|{day.isoformat()}") as connection:
            file_id = self._register(connection, source, day, rows, time)
            kept = self.delivered.setdefault((dataset, day), [])
            kept += [row | {"file_id": file_id, "line_number": number} for number, row in enumerate(rows, 1)]
            path = write_rows(self.scratch_dir / f"{uuid.uuid4().hex}.parquet", dataset, kept)
            generation = uuid.uuid4().hex
            write_generation(
                connection,
                dataset,
                day,
                generation,
                self.lake.publish(path, dataset=dataset, partition=day, generation=generation),
                rows=len(kept),
                event_days=Counter(row[time].date() for row in kept),
                inputs_digest=hashlib.sha256(repr(kept).encode()).hexdigest(),
                code_version="test",
                run_id="run",
            )

    def _register(self, connection: Any, source: str, day: date, rows: Iterable[dict[str, Any]], time: str) -> int:
        content = list(rows)
        sha256 = hashlib.sha256(repr((source, content)).encode()).hexdigest()
        file_id: int = connection.execute(
            """
            insert into core.source_file (source, key, content_sha256, size_bytes, delivery_day, first_seen_at,
                modified_at, status, profile_version, lines_read, accepted_rows)
            values (%s, %s, %s, 1, %s, now(), now(), 'accepted', 1, %s, %s)
            returning file_id
            """,
            [source, f"{day}/{uuid.uuid4().hex}", sha256, day, len(content), len(content)],
        ).fetchall()[0][0]
        for event_day, count in Counter(row[time].date() for row in content).items():
            connection.execute(
                "insert into core.source_file_day (file_id, event_day, accepted_rows) values (%s, %s, %s)",
                [file_id, event_day, count],
            )
        return file_id


def write_rows(path: Path, dataset: str, rows: Sequence[dict[str, Any]]) -> Path:
    """Write rows as a lake file of the dataset."""
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = SCHEMAS[dataset]
    pyarrow.parquet.write_table(
        pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema=schema), path
    )
    return path
