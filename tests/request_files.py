"""Delivered files of requests for tests: lines as a log writes them, files on disk, and what the reader makes of them."""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import fastavro
import pyarrow as pa

from billing_pipeline.records import OutOfScope, Rejection, RequestRecord
from billing_pipeline.sources.profile import SourceProfile, load_profile
from billing_pipeline.sources.request_lines import FileContext, read_line
from resources import request_reader
from resources.database import Database
from resources.lake import Lake
from resources.landing import Landing
from resources.prepared_queries import PreparedQueries
from resources.request_reader import FileOutcome
from resources.request_store import RequestStore
from resources.source_config import SourceConfig

AS_OF = datetime(2026, 3, 5, 12, 0, tzinfo=UTC)
KEY = b"a key for tests, 32 bytes long.."
CONTENT_SHA256 = "c0ffee" * 10 + "0000"
CONTEXT = FileContext(content_sha256=CONTENT_SHA256, as_of=AS_OF, pseudonym_key=KEY)

Read = RequestRecord | Rejection | OutOfScope

API_REQUEST: Mapping[str, object] = {
    "request_id": "r-1",
    "client_id": "acme",
    "timestamp": "2026-03-01T10:20:30.123456Z",
    "endpoint": "/v2.0/vehicles/7f3a/odometer?unit=km",
    "method": "GET",
    "status_code": 200,
    "response_time_ms": 12.5,
    "is_real_vehicle": True,
    "bytes": 512,
}
NGINX_REQUEST: Mapping[str, object] = {
    "remote_addr": "192.0.2.7",
    "remote_user": "-",
    "time_local": "17/Nov/2013:06:31:32 -0500",
    "request": "GET /api/dashboard/eTINhm5amq/ping?_=1384443873878 HTTP/1.1",
    "status": "200",
    "body_bytes_sent": "12",
    "request_time": "0.004",
    "http_user_agent": "Mozilla/5.0 (compatible; MSIE 9.0)",
    "http_x_forwarded_for": "-",
}
WEB_REQUEST: Mapping[str, object] = {
    "source": "erddap",
    "ts": "2024-05-12T00:00:17Z",
    "client": "c_8708e945b8cd93b4",
    "method": "GET",
    "path": "/erddap/tabledap/allDatasets.csv",
    "status": 200,
    "bytes": 594982,
    "response_time_ms": None,
}
AVRO_SCHEMA: Mapping[str, Any] = {
    "type": "record",
    "name": "ApiRequest",
    "namespace": "billing",
    "fields": [
        {"name": "request_id", "type": "string"},
        {"name": "client_id", "type": "string"},
        {"name": "timestamp", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "endpoint", "type": "string"},
        {"name": "method", "type": "string"},
        {"name": "status_code", "type": "int"},
        {"name": "response_time_ms", "type": "double"},
        {"name": "is_real_vehicle", "type": "boolean"},
        {"name": "response_bytes", "type": ["null", "long"], "default": None},
    ],
}


def api_line(**changes: object) -> bytes:
    """Return a good line of our own format with fields replaced; `...` removes a field."""
    return json_line(API_REQUEST, **changes)


def json_line(base: Mapping[str, object], **changes: object) -> bytes:
    """Return `base` as a line, fields replaced, or removed by `...`."""
    fields = {name: value for name, value in {**base, **changes}.items() if value is not ...}
    return json.dumps(fields).encode() + b"\n"


def avro_request(number: int = 1, **changes: object) -> dict[str, object]:
    """Return a good Avro record."""
    return {
        "request_id": f"a-{number}",
        "client_id": "acme",
        "timestamp": datetime(2026, 3, 1, 10, 0, tzinfo=UTC) + timedelta(milliseconds=number),
        "endpoint": "/v2.0/vehicles/7f3a/odometer",
        "method": "GET",
        "status_code": 200,
        "response_time_ms": 12.5,
        "is_real_vehicle": True,
        "response_bytes": 512,
        **changes,
    }


def avro_fields(**types: object) -> dict[str, Any]:
    """Return our schema with the types of fields replaced or fields added; `...` removes one."""
    fields = {field["name"]: field for field in AVRO_SCHEMA["fields"]}
    fields |= {name: {"name": name, "type": kind} for name, kind in types.items()}
    return {**AVRO_SCHEMA, "fields": [field for name, field in fields.items() if types.get(name) is not ...]}


def avro_bytes(
    records: Iterable[Mapping[str, object]], schema: Mapping[str, Any] = AVRO_SCHEMA, codec: str = "null"
) -> bytes:
    """Return an object container file."""
    buffer = io.BytesIO()
    fastavro.writer(buffer, fastavro.parse_schema(dict(schema)), records, codec=codec)
    return buffer.getvalue()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadFile:
    """What a file gave: records by line number, rejections in order of lines, counts."""

    records: Mapping[int, RequestRecord]
    rejections: tuple[Rejection, ...]
    outcome: FileOutcome


def read_file(
    path: Path,
    profile: SourceProfile | str,
    queries: PreparedQueries,
    *,
    context: FileContext = CONTEXT,
) -> ReadFile:
    """Read a file through the bulk reader."""
    outcome = FileOutcome()
    spec = load_profile(profile) if isinstance(profile, str) else profile
    tables = list(request_reader.read_requests(path, profile=spec, context=context, queries=queries, outcome=outcome))
    rows = [record for table in tables for record in records_of(table)]
    assert len(rows) == outcome.accepted
    assert outcome.counts.unaccounted == 0
    return ReadFile(
        records=dict(rows),
        rejections=tuple(sorted(outcome.rejections, key=lambda rejection: rejection.line_number)),
        outcome=outcome,
    )


def records_of(table: pa.Table) -> list[tuple[int, RequestRecord]]:
    """Return (line number, record) of each row of the reader's table."""
    rows = []
    for row in table.to_pylist():
        line_number = row.pop("line_number")
        rows.append((line_number, RequestRecord(**{**row, "event_at": row["event_at"].replace(tzinfo=UTC)})))
    return rows


def read_line_by_line(content: bytes, profile: SourceProfile, context: FileContext = CONTEXT) -> dict[int, Read]:
    """Return what the rule says of each line; a line of nothing but blanks is out of scope."""
    lines = content.split(b"\n")
    ended = [line + b"\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
    return {
        number: read_line(line, line_number=number, profile=profile, context=context)
        if line.strip()
        else OutOfScope(line_number=number)
        for number, line in enumerate(ended, 1)
    }


def day_key(day: date, name: str, source: str = "api") -> str:
    """Return a key in the landing zone as deliveries are named."""
    return f"requests/{source}/{day.isoformat()}/{name}"


def api_source(profile: str | SourceProfile = "billable_request_json", **changes: Any) -> SourceConfig:
    """Return the source `api`, or what `changes` make of it."""
    return SourceConfig(
        **{
            "name": "api",
            "landing": "requests/api",
            "profile": load_profile(profile) if isinstance(profile, str) else profile,
            "delivery_day": "key",
            **changes,
        }
    )


class Deliveries:
    """A landing folder, a lake and the store over them."""

    def __init__(
        self,
        database: Database,
        folder: Path,
        sources: Sequence[SourceConfig] = (),
        *,
        landing_url: str | None = None,
        lake_url: str | None = None,
        key: bytes = KEY,
    ) -> None:
        self.database = database
        self.landing_dir = folder / "landing"
        self.lake_dir = folder / "lake"
        self.scratch_dir = folder / "scratch"
        self.sources = tuple(sources) or (api_source(),)
        for source in self.sources:
            (self.landing_dir / source.landing).mkdir(parents=True, exist_ok=True)
        self.landing = Landing(landing_url or str(self.landing_dir), self.scratch_dir)
        self.lake = Lake(lake_url or str(self.lake_dir), self.scratch_dir)
        self.store = RequestStore(database, self.lake, self.landing, self.sources, self.scratch_dir, key)

    def deliver(self, key: str, content: bytes) -> Path:
        """Put a file into the landing folder."""
        path = self.landing_dir / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def ingest(self, *days: date) -> None:
        """Discover and publish `days`, or every day that has pending files."""
        found = self.store.discover(seen_at=AS_OF)
        self.store.ingest_days(days or found.delivery_days, run_id="run", code_version="test")

    def rows(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Return what a query on PostgreSQL gives."""
        with self.database.connect() as connection:
            return list(connection.execute(sql.encode(), parameters or None).fetchall())

    def lake_rows(self, columns: str = "event_id", day: date | None = None) -> list[tuple[Any, ...]]:
        """Return rows of the current generations, or of one delivery day's, sorted."""
        uris = self.rows(
            "select uri from core.lake_partition join core.lake_generation using (dataset, partition_key, generation)"
            " where partition_key = coalesce(%s, partition_key)",
            day,
        )
        if not uris:
            return []
        paths = [str(self.lake.fetch(uri)) for (uri,) in uris]
        with duckdb.connect(config={"threads": 1}) as connection:
            return list(connection.execute(f"select {columns} from read_parquet($1) order by all", [paths]).fetchall())

    def manifest(self) -> dict[str, tuple[str, str | None, int, int, int, int, int]]:
        """Return key (and number of its content) -> status, reason, read, accepted, rejected, duplicate, out of scope."""
        rows = self.rows(
            "select key || case when count(*) over (partition by source, key) > 1"
            " then '#' || row_number() over (partition by source, key order by file_id) else '' end,"
            " status, reason, lines_read, accepted_rows, rejected_rows, duplicate_rows, out_of_scope_rows"
            " from core.source_file order by 1"
        )
        return {row[0].rpartition("/")[2]: row[1:] for row in rows}
