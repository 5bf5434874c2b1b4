"""Deliveries for usage tests: rows become a lake generation with its rows in PostgreSQL, as ingest leaves them."""

import hashlib
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from resources.database import Database
from resources.lake import Lake
from resources.usage_scan import LAKE_SCHEMA

FILE_SCHEMA = pa.schema([field for field in LAKE_SCHEMA if field.name not in ("event_day", "lake_file")])


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One lake row. `file_id` numbers the file inside a test; PostgreSQL gives it another number."""

    event_id: str
    event_at: datetime
    client_id: str = "client_acme"
    method: str = "GET"
    endpoint: str = "/odometer"
    status_code: int = 200
    response_time_us: int | None = 1000
    response_bytes: int | None = 10
    is_simulated: bool = False
    source: str = "api"
    file_id: int = 1
    line_number: int = 1

    @property
    def identity(self) -> tuple[str, str]:
        return self.source, self.event_id

    @property
    def content(self) -> tuple[object, ...]:
        return (
            self.event_at,
            self.client_id,
            self.method,
            self.endpoint,
            self.status_code,
            self.response_time_us,
            self.response_bytes,
            self.is_simulated,
        )

    @property
    def event_day(self) -> date:
        return self.event_at.date()


def numbered(requests: Iterable[Request]) -> list[Request]:
    """Return the requests with line numbers that are theirs alone in their file."""
    lines: Counter[int] = Counter()
    result = []
    for request in requests:
        lines[request.file_id] += 1
        result.append(replace(request, line_number=lines[request.file_id]))
    return result


def without_copies(requests: Iterable[Request]) -> list[Request]:
    """Return the first of each identity and content, by file and line: what ingest keeps of a delivery."""
    kept: dict[tuple[object, ...], Request] = {}
    for request in sorted(requests, key=lambda one: (one.file_id, one.line_number)):
        kept.setdefault((request.identity, request.content), request)
    return list(kept.values())


def conflicting_identities(requests: Iterable[Request]) -> int:
    """Return how many identities have several contents."""
    contents: dict[tuple[str, str], set[tuple[object, ...]]] = defaultdict(set)
    for request in requests:
        contents[request.identity].add(request.content)
    return sum(len(found) > 1 for found in contents.values())


def write_lake_file(path: Path, requests: Sequence[Request]) -> Path:
    """Write the requests as a lake file."""
    rows = [
        {name: getattr(request, name) for name in FILE_SCHEMA.names if name != "event_at"}
        | {"event_at": request.event_at.astimezone(UTC).replace(tzinfo=None)}
        for request in requests
    ]
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows, schema=FILE_SCHEMA), path)
    return path


@dataclass(frozen=True, slots=True)
class Deliveries:
    """Publishes generations of delivery days."""

    database: Database
    lake: Lake
    scratch_dir: Path

    def deliver(self, day: date, requests: Sequence[Request]) -> None:
        """Make `requests` the delivery day's current generation; files are told apart by (source, file_id)."""
        kept = without_copies(requests)
        generation = uuid.uuid4().hex
        with self.database.transaction(f"core/request_records|{day.isoformat()}") as connection:
            connection.execute("update core.source_file set status = 'pending' where delivery_day = %s", [day])
            connection.execute(
                "delete from core.source_file_day using core.source_file as file"
                " where file.file_id = source_file_day.file_id and file.delivery_day = %s",
                [day],
            )
            file_ids = {}
            for source, number in sorted({(request.source, request.file_id) for request in requests}):
                lines = [one for one in requests if (one.source, one.file_id) == (source, number)]
                own = [one for one in kept if (one.source, one.file_id) == (source, number)]
                file_ids[source, number] = self._register(connection, day, source, number, lines, own)
            path = write_lake_file(
                self.scratch_dir / "delivery.parquet",
                [replace(one, file_id=file_ids[one.source, one.file_id]) for one in kept],
            )
            published = self.lake.publish(path, dataset="core/request_records", partition=day, generation=generation)
            key = ("core/request_records", day, generation)
            connection.execute(
                """
                insert into core.lake_generation (dataset, partition_key, generation, uri, file_sha256, size_bytes,
                    row_count, conflicting_identities, inputs_digest, code_version, run_id)
                values (%s, %s, %s, %s, %s, %s, %s, %s, 'digest', 'test', 'run')
                """,
                [*key, published.uri, published.sha256, published.size_bytes, len(kept), conflicting_identities(kept)],
            )
            connection.execute(
                """
                insert into core.lake_partition (dataset, partition_key, generation) values (%s, %s, %s)
                on conflict (dataset, partition_key) do update set generation = excluded.generation
                """,
                key,
            )
            for event_day, rows in Counter(one.event_day for one in kept).items():
                connection.execute(
                    "insert into core.lake_generation_day values (%s, %s, %s, %s, %s)", [*key, event_day, rows]
                )

    def _register(
        self, connection: object, day: date, source: str, number: int, lines: list[Request], own: list[Request]
    ) -> int:
        sha256 = hashlib.sha256(repr((day, source, number, [(one.event_id, one.content) for one in lines])).encode())
        file_id: int = connection.execute(  # type: ignore[attr-defined]
            """
            insert into core.source_file (source, key, content_sha256, size_bytes, delivery_day, first_seen_at,
                modified_at, status, profile_version, lines_read, accepted_rows, duplicate_rows)
            values (%s, %s, %s, 1, %s, now(), now(), 'accepted', 1, %s, %s, %s)
            on conflict (source, key, content_sha256) do update set status = 'accepted',
                lines_read = excluded.lines_read, accepted_rows = excluded.accepted_rows,
                duplicate_rows = excluded.duplicate_rows
            returning file_id
            """,
            [source, f"{day}/{number}.jsonl", sha256.hexdigest(), day, len(lines), len(own), len(lines) - len(own)],
        ).fetchall()[0][0]
        for event_day, rows in Counter(one.event_day for one in own).items():
            connection.execute(  # type: ignore[attr-defined]
                "insert into core.source_file_day (file_id, event_day, accepted_rows) values (%s, %s, %s)",
                [file_id, event_day, rows],
            )
        return file_id
