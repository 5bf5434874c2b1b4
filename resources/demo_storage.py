"""The demo's deliveries about storage: daily S3 inventories, CloudTrail logs with signed digests, visibility and owner events.

Six repositories of one bucket, three days. `atlas` is the example of docs/storage.md: 2 GB, 2 GB more at 12:00, private from
14:00. Of a put to `charging-map` no event was ever logged; `depots` changes its owner, and holds a copy whose size no log
says; `telemetry` grows by an upload in parts and loses an object; `open-stations` is public; nobody owns `leftovers`.
Deterministic: the same bytes every time. Not here: signing (demo_trail), what is billed (catalog/).
"""

import csv
import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from resources.demo_files import gzipped, write_missing
from resources.demo_trail import ACCOUNT, REGION, DigestChain, log_key

GB = 10**9
BUCKET = "demo-chunks"
EVENT_DAYS = (date(2026, 3, 1), date(2026, 3, 2), date(2026, 3, 3))
START = datetime(2026, 3, 1, tzinfo=UTC)
SNAPSHOTS_AT = tuple(START + timedelta(days=number, hours=7) for number in range(3))
INVENTORY_FOLDER, TRAIL_FOLDER, VISIBILITY_FOLDER = "storage/inventory", "storage/cloudtrail", "storage/visibility"
# Who called, from where, and who switched: must never be found again behind the parsers.
PLANTED_PERSONAL_DATA = ("sso.user@example.com", "198.51.100.23", "AROADEMODEMODEMODEMO1", "aws-sdk-demo/1.2 (jdoe)")

_PART_BYTES = 5 * GB
_COLUMNS = ("Bucket", "Key", "Size", "LastModifiedDate", "ETag")
# The log file of this hour comes with the second delivery; its digest is there before.
_LATE_LOG_HOUR = START + timedelta(days=1, hours=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """An object of a repository from `added_at` (None: from before the first day) to `removed_at`.

    `logged_as`: the event that tells of it: PutObject, CompleteMultipartUpload (with its parts), CopyObject, or none.
    """

    repository: str
    number: int
    size_bytes: int
    added_at: datetime | None = None
    removed_at: datetime | None = None
    logged_as: str = "PutObject"

    @property
    def key(self) -> str:
        """Return the key of the chunk store: the repository, and 32 characters that stand for the content."""
        return f"{self.repository}/{_digits(f'{self.repository}/{self.number}')}"

    def is_there(self, at: datetime) -> bool:
        """Tell whether a listing at `at` names it."""
        return (self.added_at is None or self.added_at <= at) and (self.removed_at is None or at < self.removed_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryChange:
    """What the application says of a repository from `at` on."""

    repository: str
    at: datetime
    visibility: str | None = None
    owner: str | None = None


OBJECTS = (
    StoredObject(repository="atlas", number=1, size_bytes=2 * GB, added_at=START + timedelta(hours=5)),
    StoredObject(repository="atlas", number=2, size_bytes=2 * GB, added_at=START + timedelta(hours=12)),
    *(StoredObject(repository="telemetry", number=number, size_bytes=125 * GB) for number in range(1, 12)),
    StoredObject(
        repository="telemetry", number=12, size_bytes=125 * GB, removed_at=START + timedelta(days=2, hours=12)
    ),
    StoredObject(
        repository="telemetry",
        number=13,
        size_bytes=40 * GB,
        added_at=START + timedelta(days=1, hours=10, minutes=20),
        logged_as="CompleteMultipartUpload",
    ),
    *(StoredObject(repository="charging-map", number=number, size_bytes=100 * GB) for number in range(1, 5)),
    StoredObject(
        repository="charging-map",
        number=5,
        size_bytes=100 * GB,
        added_at=START + timedelta(days=1, hours=15),
        logged_as="",
    ),
    *(StoredObject(repository="depots", number=number, size_bytes=100 * GB) for number in range(1, 7)),
    StoredObject(
        repository="depots",
        number=7,
        size_bytes=5 * GB,
        added_at=START + timedelta(hours=20),
        logged_as="CopyObject",
    ),
    *(StoredObject(repository="open-stations", number=number, size_bytes=100 * GB) for number in range(1, 9)),
    StoredObject(repository="leftovers", number=1, size_bytes=50 * GB),
)
CHANGES = (
    RepositoryChange(repository="atlas", at=START, visibility="public", owner="acme-data"),
    RepositoryChange(repository="telemetry", at=START, visibility="private", owner="acme-data"),
    RepositoryChange(repository="charging-map", at=START, visibility="private", owner="nordwind-lab"),
    RepositoryChange(repository="depots", at=START, visibility="private", owner="acme-data"),
    RepositoryChange(repository="open-stations", at=START, visibility="public", owner="nordwind-lab"),
    RepositoryChange(repository="leftovers", at=START, visibility="private"),
    RepositoryChange(repository="atlas", at=START + timedelta(hours=14), visibility="private"),
    RepositoryChange(repository="depots", at=START + timedelta(days=1, hours=18), owner="nordwind-lab"),
)


def write_first_delivery(folder: Path) -> tuple[Path, ...]:
    """Write everything but one log file, and return the paths that did not exist before."""
    files = _files()
    del files[_late_log()]
    return write_missing(folder, files)


def write_second_delivery(folder: Path) -> tuple[Path, ...]:
    """Write the log file that was late, and return the paths that did not exist before."""
    return write_missing(folder, {_late_log(): _files()[_late_log()]})


def _files() -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for at in SNAPSHOTS_AT:
        files |= _inventory(at)
    files |= _trail()
    for day in EVENT_DAYS:
        lines = [_change_line(change) for change in CHANGES if change.at.date() == day]
        if lines:
            files[f"{VISIBILITY_FOLDER}/{day}/repositories.jsonl"] = b"".join(lines)
    return files


def _inventory(at: datetime) -> dict[str, bytes]:
    """Return an inventory of two data files with its manifest and checksum."""
    rows = [
        (
            BUCKET,
            one.key,
            one.size_bytes,
            f"{(one.added_at or START - timedelta(days=30)):%Y-%m-%dT%H:%M:%S.000Z}",
            "etag",
        )
        for one in OBJECTS
        if one.is_there(at)
    ]
    data = {}
    for half in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
        text = io.StringIO()
        csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(half)
        content = gzipped([text.getvalue().encode()])
        data[f"{BUCKET}/daily/data/{_md5(content)}.csv.gz"] = content
    manifest = json.dumps(
        {
            "sourceBucket": BUCKET,
            "destinationBucket": "arn:aws:s3:::demo-inventories",
            "version": "2016-11-30",
            "creationTimestamp": str(int(at.timestamp()) * 1000),
            "fileFormat": "CSV",
            "fileSchema": ", ".join(_COLUMNS),
            "files": [
                {"key": key, "size": len(content), "MD5checksum": _md5(content)} for key, content in data.items()
            ],
        },
        indent=2,
    ).encode()
    place = f"{BUCKET}/daily/{at:%Y-%m-%dT%H-%MZ}"
    named = {**data, f"{place}/manifest.json": manifest, f"{place}/manifest.checksum": f"{_md5(manifest)}\n".encode()}
    return {f"{INVENTORY_FOLDER}/{key}": content for key, content in named.items()}


def _trail() -> dict[str, bytes]:
    """Return a log file for each hour with events, and a signed digest for every hour."""
    by_hour: dict[datetime, list[Mapping[str, Any]]] = defaultdict(list)
    for at, record in _records():
        by_hour[at.replace(minute=0, second=0)].append(record)
    chain = DigestChain()
    files: dict[str, bytes] = {}
    for number in range(24 * len(EVENT_DAYS)):
        hour = START + timedelta(hours=number)
        logs = {}
        if hour in by_hour:
            logs[log_key(hour + timedelta(minutes=55))] = json.dumps({"Records": by_hour[hour]}).encode()
        files |= {key: gzipped([content]) for key, content in logs.items()}
        files |= chain.add(hour + timedelta(hours=1), logs)
    return {f"{TRAIL_FOLDER}/{key}": content for key, content in files.items()}


def _late_log() -> str:
    return f"{TRAIL_FOLDER}/{log_key(_LATE_LOG_HOUR + timedelta(minutes=55))}"


def _records() -> list[tuple[datetime, Mapping[str, Any]]]:
    """Return the records of all events in order of time, one of them twice, and a read and a refused put between them."""
    records = []
    for one in OBJECTS:
        if one.added_at is not None and one.logged_as == "CompleteMultipartUpload":
            upload = {"uploadId": _digits(f"upload/{one.key}")}
            parts = -(-one.size_bytes // _PART_BYTES)
            for number in range(1, parts + 1):
                size = min(_PART_BYTES, one.size_bytes - (number - 1) * _PART_BYTES)
                at = one.added_at - timedelta(minutes=parts + 1 - number)
                part = {**upload, "partNumber": number}
                records.append((at, _record("UploadPart", at, one.key, size_bytes=size, parameters=part)))
            records.append((one.added_at, _record(one.logged_as, one.added_at, one.key, parameters=upload)))
        elif one.added_at is not None and one.logged_as:
            # The body of a copy's request is not the object.
            said = one.size_bytes if one.logged_as == "PutObject" else None
            records.append((one.added_at, _record(one.logged_as, one.added_at, one.key, size_bytes=said)))
        if one.removed_at is not None:
            records.append((one.removed_at, _record("DeleteObject", one.removed_at, one.key)))
    first_at, first = min(records, key=lambda pair: pair[0])
    refused = {
        **_record("PutObject", first_at, f"atlas/{_digits('refused')}", size_bytes=GB),
        "errorCode": "AccessDenied",
    }
    records += [(first_at, first), (first_at, refused), (first_at, _record("GetObject", first_at, OBJECTS[0].key))]
    return sorted(records, key=lambda pair: (pair[0], str(pair[1]["eventID"])))


def _record(
    name: str,
    at: datetime,
    key: str,
    *,
    size_bytes: int | None = None,
    parameters: Mapping[str, object] | None = None,
) -> Mapping[str, Any]:
    email, address, role, agent = PLANTED_PERSONAL_DATA
    extra: dict[str, object] = {} if size_bytes is None else {"bytesTransferredIn": size_bytes}
    return {
        "eventVersion": "1.09",
        "userIdentity": {"type": "AssumedRole", "principalId": f"{role}:{email}"},
        "eventTime": f"{at:%Y-%m-%dT%H:%M:%SZ}",
        "eventSource": "s3.amazonaws.com",
        "eventName": name,
        "awsRegion": REGION,
        "sourceIPAddress": address,
        "userAgent": f"[{agent}]",
        "requestParameters": {"bucketName": BUCKET, "key": key, **(parameters or {})},
        "responseElements": None,
        "additionalEventData": {**extra, "bytesTransferredOut": 0},
        "requestID": _digits(f"request/{name}/{at}/{key}/{parameters}")[:16].upper(),
        "eventID": f"{_digits(f'event/{name}/{at}/{key}/{parameters}')}",
        "readOnly": name == "GetObject",
        "eventType": "AwsApiCall",
        "managementEvent": False,
        "recipientAccountId": ACCOUNT,
        "eventCategory": "Data",
    }


def _change_line(change: RepositoryChange) -> bytes:
    said = {name: value for name, value in (("visibility", change.visibility), ("owner", change.owner)) if value}
    line = {"repository": change.repository, "at": f"{change.at:%Y-%m-%dT%H:%M:%SZ}", **said}
    return json.dumps({**line, "changed_by": PLANTED_PERSONAL_DATA[0]}).encode() + b"\n"


def _digits(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
