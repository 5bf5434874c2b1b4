"""Avro files for tests: schemas, rows, files of one block as given, and what the readers make of them."""

import io
import json
import random
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fastavro

import billing_pipeline
from resources.avro import read_avro
from resources.inflate import sniff

PROFILES = Path(billing_pipeline.__file__).parent / "profiles"
V1 = json.loads((PROFILES / "billable_request.v1.avsc").read_text())
CURRENT = json.loads((PROFILES / "billable_request.avsc").read_text())
NAMES = ("billing.ApiRequest",)
ENUM = {"type": "enum", "name": "kind", "symbols": ["REAL", "SIMULATED"]}
CODECS = ["null", "deflate", "snappy", "zstandard", "bzip2", "xz"]


def changed(schema: Mapping[str, Any], name: str, /, **change: Any) -> dict[str, Any]:
    """Return `schema` with another definition of one field."""
    copy = json.loads(json.dumps(schema))
    for field in copy["fields"]:
        if field["name"] == name:
            field.update(change)
    return copy


def requests(count: int) -> list[dict[str, Any]]:
    chance = random.Random(count)
    return [
        {
            "request_id": str(uuid.UUID(int=chance.getrandbits(128))),
            "client_id": f"c_{chance.randrange(10**6)}",
            "timestamp": datetime(2026, 3, 1, tzinfo=UTC) + timedelta(milliseconds=chance.randrange(10**8)),
            "endpoint": chance.choice(["/v1/cars/7/position", "/größe", ""]),
            "method": "GET",
            "status_code": chance.choice([200, 404, 500]),
            "response_time_ms": chance.randrange(10**5) / 8,
            "is_real_vehicle": chance.random() < 0.9,
            "response_bytes": chance.choice([None, 0, 63, 64, 8191, 8192, 2**53 + 1, 2**62 - 1]),
        }
        for _ in range(count)
    ]


def encoded(schema: Any, rows: Sequence[Any], codec: str = "null", sync_interval: int = 16_000) -> bytes:
    target = io.BytesIO()
    fastavro.writer(target, schema, rows, codec=codec, sync_interval=sync_interval)
    return target.getvalue()


def raw_file(schema: Any, row_count: int, data: bytes, codec: str = "null") -> bytes:
    """Return a file of one block as given, true or not."""
    metadata = {"avro.schema": json.dumps(schema).encode(), "avro.codec": codec.encode()}
    pairs = b"".join(number(len(part)) + part for pair in metadata.items() for part in (pair[0].encode(), pair[1]))
    header = b"Obj\x01" + number(2) + pairs + b"\x00" + bytes(range(16))
    return header + number(row_count) + number(len(data)) + data + bytes(range(16))


def number(value: int) -> bytes:
    rest, out = (value << 1) ^ (value >> 63), bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*out, rest])


def record(*types: Any) -> dict[str, Any]:
    return {"type": "record", "name": "r", "fields": [{"name": f"f{at}", "type": one} for at, one in enumerate(types)]}


def written(folder: Path, content: bytes) -> Path:
    path = folder / "file.avro"
    path.write_bytes(content)
    return path


def rows_of(path: Path, **options: Any) -> list[dict[str, Any]]:
    return [row for batch in read_avro(path, sniff(path).compression, **options) for row in batch.to_pylist()]
