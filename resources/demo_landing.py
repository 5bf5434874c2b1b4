"""Write the demo's request logs: what an exporter delivers over four days, its mishaps included.

(folder, client ids) -> files below `folder`, in the layout that `catalog/sources.toml` names. Deterministic: the same
clients give the same bytes. Two deliveries, because one mishap is a file that is overwritten later. Not here: what the
requests cost (catalog/), how the files are read (billing_pipeline/sources/).
"""

import io
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import fastavro

from billing_pipeline.errors import BillingError
from resources.demo_files import gzipped, write_changed, write_missing

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

EVENT_DAYS = (date(2026, 3, 1), date(2026, 3, 2), date(2026, 3, 3))
LATE_DELIVERY_DAY = date(2026, 3, 4)
API_FOLDER = "requests/api"
AUTH_FOLDER = "requests/auth"
UNKNOWN_CLIENT = "client_not_in_catalog"
# What must never be found again behind the parser: in no table, lake file, log or page.
PLANTED_PERSONAL_DATA = (
    "jane.doe@example.com",
    "203.0.113.77",
    "1HGBH41JXMN109186",
    "Mozilla/5.0 (DemoPhone)",
    "eyJhbGciOiJub25lIn0.demo",
)

_API_REQUESTS_PER_DAY = 18_000
_AUTH_REQUESTS_PER_DAY = 2_000
_UNKNOWN_REQUESTS_PER_DAY = 40
_BLOCK_HOURS = 6
_MS_PER_HOUR = 3_600_000
# Requests of an hour of the day, UTC, relative to each other: a European working day.
_HOUR_WEIGHTS = (2, 2, 1, 1, 2, 3, 6, 9, 12, 13, 12, 11, 12, 13, 13, 12, 11, 10, 8, 6, 5, 4, 3, 2)
# (method, path below /v2.0, weight). `{}` is a vehicle.
_API_CALLS = (
    ("GET", "/vehicles/{}/odometer", 26),
    ("GET", "/vehicles/{}/location", 24),
    ("GET", "/vehicles/{}/battery", 20),
    ("GET", "/vehicles/{}/info", 9),
    ("GET", "/vehicles/{}/vin", 5),
    ("GET", "/vehicles/{}", 6),
    ("POST", "/vehicles/{}/security", 4),
    ("GET", "/vehicles", 4),
    # No profile lists it: counted as `unmatched`.
    ("GET", "/vehicles/{}/permissions", 2),
)
_AUTH_CALLS = (("GET", "/user", 6), ("GET", "/vehicles", 3), ("DELETE", "/vehicles/{}/application", 1))
_STATUSES = ((200, 930), (400, 12), (401, 14), (404, 12), (409, 6), (429, 12), (500, 9), (502, 5))
_AVRO_CODECS = ("deflate", "null", "zstandard")
_AVRO_SCHEMA: dict[str, Any] = {
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
    ],
}


class DemoLandingError(BillingError):
    """The demo's files cannot be made here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """One request as the API's own log knows it. `at_ms`: milliseconds since the day began, UTC."""

    request_id: str
    client_id: str
    day: date
    at_ms: int
    endpoint: str
    method: str
    status_code: int
    response_time_tenths_ms: int
    response_bytes: int
    is_real_vehicle: bool

    @property
    def hour(self) -> int:
        return self.at_ms // _MS_PER_HOUR

    def json_line(self) -> bytes:
        """Return the line of this request in the project's own JSON lines format."""
        seconds, ms = divmod(self.at_ms, 1000)
        minutes, second = divmod(seconds, 60)
        timestamp = f"{self.day}T{minutes // 60:02}:{minutes % 60:02}:{second:02}.{ms:03}Z"
        tenths = self.response_time_tenths_ms
        return (
            f'{{"request_id":"{self.request_id}","client_id":"{self.client_id}","timestamp":"{timestamp}",'
            f'"endpoint":"{self.endpoint}","method":"{self.method}","status_code":{self.status_code},'
            f'"response_time_ms":{tenths // 10}.{tenths % 10},'
            f'"is_real_vehicle":{"true" if self.is_real_vehicle else "false"},"bytes":{self.response_bytes}}}\n'
        ).encode()

    def avro_record(self) -> dict[str, Any]:
        """Return the record of this request in the project's own Avro schema. The schema's double is the log's."""
        midnight = datetime(self.day.year, self.day.month, self.day.day, tzinfo=UTC)
        return {
            "request_id": self.request_id,
            "client_id": self.client_id,
            "timestamp": midnight + timedelta(milliseconds=self.at_ms),
            "endpoint": self.endpoint,
            "method": self.method,
            "status_code": self.status_code,
            "response_time_ms": self.response_time_tenths_ms / 10,
            "is_real_vehicle": self.is_real_vehicle,
        }


def write_first_delivery(folder: Path, clients: Sequence[str]) -> tuple[Path, ...]:
    """Write the three days' files as they arrived on time, and return the paths that did not exist before.

    `clients` are ordered from the busiest to the quietest. A file that exists is left as it is.
    """
    files: dict[str, bytes] = {}
    for number, day in enumerate(EVENT_DAYS):
        requests = _api_requests(day, clients)
        for first_hour in range(0, 24, _BLOCK_HOURS):
            block = [one for one in requests if first_hour <= one.hour < first_hour + _BLOCK_HOURS]
            key, content = _block_file(day, first_hour, [one for one in block if not _is_late(one)])
            files[key] = content
        codec = _AVRO_CODECS[number % len(_AVRO_CODECS)]
        files[f"{AUTH_FOLDER}/{day + timedelta(days=1)}/auth-{day:%Y%m%d}.avro"] = _avro_file(
            _auth_requests(day, clients), codec, sync=f"demo-sync-{day:%m%d}00".encode()
        )
    return write_missing(folder, files)


def write_second_delivery(folder: Path, clients: Sequence[str]) -> tuple[Path, ...]:
    """Write what arrived on the fourth day, and return the paths whose content changed.

    A late file of the second day (with lines that were there already, and one that contradicts a billed request),
    a file delivered again under another name, and a file overwritten with other content.
    """
    second_day = _api_requests(EVENT_DAYS[1], clients)
    late = [one for one in second_day if _is_late(one)]
    on_time = [one for one in second_day if one.hour == 12 and not _is_late(one)]
    billed = next(one for one in on_time if one.status_code == 200 and one.is_real_vehicle)
    contradiction = replace(billed, status_code=502)
    first_day_block = [one for one in _api_requests(EVENT_DAYS[0], clients) if _BLOCK_HOURS <= one.hour < 12]
    overwritten_key, _ = _block_file(EVENT_DAYS[0], _BLOCK_HOURS, first_day_block)
    copied_key, copied = _block_file(
        EVENT_DAYS[2],
        _BLOCK_HOURS,
        [one for one in _api_requests(EVENT_DAYS[2], clients) if _BLOCK_HOURS <= one.hour < 12],
    )
    late_folder = f"{API_FOLDER}/{LATE_DELIVERY_DAY}"
    files = {
        f"{late_folder}/api-{EVENT_DAYS[1]:%Y%m%d}T12-late.jsonl.gz": gzipped(
            one.json_line() for one in (*late, *on_time[:50], contradiction)
        ),
        f"{late_folder}/again-{Path(copied_key).name}": copied,
        overwritten_key: gzipped(one.json_line() for one in first_day_block[: len(first_day_block) // 2]),
    }
    return write_changed(folder, files)


def _is_late(request: _Request) -> bool:
    """Return whether the first delivery lacked this request: ten minutes of one node on the second day."""
    return request.day == EVENT_DAYS[1] and 0 <= request.at_ms - (12 * 60 + 30) * 60_000 < 600_000


def _api_requests(day: date, clients: Sequence[str]) -> list[_Request]:
    """Return the day's requests of the API in order of time, those of a client that nobody knows among them."""
    requests = _requests(day, clients, _API_CALLS, _API_REQUESTS_PER_DAY, seed="api")
    requests += _requests(day, (UNKNOWN_CLIENT,), _API_CALLS, _UNKNOWN_REQUESTS_PER_DAY, seed="unknown")
    return sorted(requests, key=lambda one: (one.at_ms, one.request_id))


def _auth_requests(day: date, clients: Sequence[str]) -> list[_Request]:
    return _requests(day, clients, _AUTH_CALLS, _AUTH_REQUESTS_PER_DAY, seed="auth")


def _requests(
    day: date, clients: Sequence[str], calls: Sequence[tuple[str, str, int]], count: int, *, seed: str
) -> list[_Request]:
    if not clients:
        raise DemoLandingError(
            "The demo's requests need at least one client id, and the catalog's accounts have none.",
            bill="Nothing was written.",
            fix="Give an account in catalog/accounts.toml a client id.",
        )
    chance = random.Random(f"{seed} {day}")
    # Zipf: the busiest client makes about a quarter of all requests.
    callers = chance.choices(clients, [1000 // rank for rank in range(1, len(clients) + 1)], k=count)
    hours = chance.choices(range(24), _HOUR_WEIGHTS, k=count)
    # Every hour has a request, so that an hour without any is an outage and never chance.
    hours[:24] = range(24)
    chosen = chance.choices(calls, [weight for _, _, weight in calls], k=count)
    statuses = chance.choices([code for code, _ in _STATUSES], [weight for _, weight in _STATUSES], k=count)
    requests = []
    for client, hour, (method, path, _), status in zip(callers, hours, chosen, statuses, strict=True):
        vehicle = uuid5(NAMESPACE_URL, f"{client}/vehicle/{chance.randrange(60)}")
        requests.append(
            _Request(
                request_id=str(UUID(int=chance.getrandbits(128), version=4)),
                client_id=client,
                day=day,
                at_ms=hour * _MS_PER_HOUR + chance.randrange(_MS_PER_HOUR),
                endpoint="/v2.0" + path.format(vehicle),
                method=method,
                status_code=status,
                response_time_tenths_ms=200 + int(chance.expovariate(1 / 900)),
                response_bytes=chance.randrange(80, 900),
                is_real_vehicle=chance.randrange(100) >= 6,
            )
        )
    return sorted(requests, key=lambda one: (one.at_ms, one.request_id))


def _block_file(day: date, first_hour: int, requests: Sequence[_Request]) -> tuple[str, bytes]:
    """Return the key and the bytes of a six-hour file. The evening's file is delivered after midnight."""
    delivery_day = day if first_hour + _BLOCK_HOURS < 24 else day + timedelta(days=1)
    lines = [one.json_line() for one in requests]
    # An exporter that retries writes a line twice: one in two hundred, a few lines later.
    for position in range(0, len(requests), 200):
        lines.insert(min(position + 3, len(lines)), requests[position].json_line())
    stem = f"{API_FOLDER}/{delivery_day}/api-{day:%Y%m%d}T{first_hour:02}.jsonl"
    match (EVENT_DAYS.index(day), first_hour // _BLOCK_HOURS):
        case (0, 2):
            return f"{stem}.gz", gzipped(_with_mishaps(lines, requests[0]))
        case (1, 0):
            return f"{stem}.zst", zstd.compress(b"".join(lines), level=3)
        case (2, 1):
            return stem, b"".join(lines)
        case _:
            return f"{stem}.gz", gzipped(lines)


def _with_mishaps(lines: list[bytes], example: _Request) -> list[bytes]:
    """Return the lines with what goes wrong in real logs between them, personal data in some of it."""
    email, address, vin, agent, token = PLANTED_PERSONAL_DATA
    good: dict[str, Any] = json.loads(example.json_line())
    chance = random.Random("mishaps")

    def changed(**fields: object) -> bytes:
        fresh_id = str(UUID(int=chance.getrandbits(128), version=4))
        return json.dumps({**good, "request_id": fresh_id, **fields}, separators=(",", ":")).encode() + b"\n"

    without_flag = {name: value for name, value in good.items() if name != "is_real_vehicle"}
    mishaps = (
        # Accepted: the parser takes listed fields only, and a path as its template.
        changed(user_email=email, remote_addr=address, user_agent=agent, authorization=f"Bearer {token}"),
        changed(endpoint=f"/v2.0/vehicles/by-vin/{vin}"),
        # Refused, each for another reason.
        f"ERROR upstream timed out for {email} from {address}\n".encode(),
        example.json_line()[:90] + b"\n",
        json.dumps(without_flag, separators=(",", ":")).encode() + b"\n",
        changed(timestamp=f"{example.day}T13:00:00"),
        changed(timestamp="01/Mar/2026 13:00"),
        changed(status_code=99),
        changed(status_code="OK"),
        changed(response_time_ms=-4),
        json.dumps([good["request_id"], email]).encode() + b"\n",
        b"\x00" * 40 + b"\n",
    )
    mixed = list(lines)
    for number, mishap in enumerate(mishaps):
        mixed.insert((number + 1) * len(mixed) // (len(mishaps) + 1), mishap)
    return mixed


def _avro_file(requests: Sequence[_Request], codec: str, *, sync: bytes) -> bytes:
    """Return an object container file; `sync` (16 bytes) would be random otherwise."""
    buffer = io.BytesIO()
    records = (one.avro_record() for one in requests)
    fastavro.writer(buffer, fastavro.parse_schema(_AVRO_SCHEMA), records, codec=codec, sync_marker=sync)
    return buffer.getvalue()
