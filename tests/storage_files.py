"""Delivered files about storage for tests: CloudTrail logs, signed digests, inventories, and the store over them."""

import base64
import csv
import gzip
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from billing_pipeline.sources.storage_profile import StorageProfile, load_storage_profile
from resources.database import Database
from resources.lake import Lake
from resources.landing import Landing
from resources.storage_config import DATASETS, Kind, StorageSource
from resources.storage_store import StorageStore

AS_OF = datetime(2026, 6, 5, 12, 0, tzinfo=UTC)
DAY = date(2026, 6, 1)
ACCOUNT, REGION, TRAIL, BUCKET = "111122223333", "us-east-1", "billing", "chunks"
FINGERPRINT = "0123456789abcdef0123456789abcdef"
PERSONAL = ("dev.user@example.com", "203.0.113.193", "AROATAQZJVYYCU6KY2J5Z", "aws-cli/2.2.14")
CSV_COLUMNS = ("Bucket", "Key", "VersionId", "IsLatest", "IsDeleteMarker", "Size", "LastModifiedDate", "ETag")


def profile(name: str = "storage_owner_repository", **changes: Any) -> StorageProfile:
    """Return a shipped profile with fields changed."""
    shipped = load_storage_profile(name)
    return StorageProfile(**{**shipped.model_dump(), **changes})


def record(number: int = 1, **changes: Any) -> dict[str, Any]:
    """Return a PutObject of 100 bytes as CloudTrail writes it; `...` removes a field, `key`, `size`, `version` are short forms."""
    key = changes.pop("key", "acme/atlas/table")
    size = changes.pop("size", 100)
    whole = {
        "eventVersion": "1.08",
        "userIdentity": {
            "type": "AssumedRole",
            "principalId": f"{PERSONAL[2]}:{PERSONAL[0]}",
            "arn": f"arn/{PERSONAL[0]}",
        },
        "eventTime": "2026-06-01T05:00:00Z",
        "eventSource": "s3.amazonaws.com",
        "eventName": "PutObject",
        "awsRegion": REGION,
        "sourceIPAddress": PERSONAL[1],
        "userAgent": f"[{PERSONAL[3]}]",
        "requestParameters": {"bucketName": BUCKET, "Host": f"{BUCKET}.s3.amazonaws.com", "key": key},
        "responseElements": None,
        "additionalEventData": {"bytesTransferredIn": size, "bytesTransferredOut": 0},
        "requestID": f"REQUEST{number}",
        "eventID": f"00000000-0000-0000-0000-{number:012d}",
        "readOnly": False,
        "resources": [{"type": "AWS::S3::Object", "ARN": f"arn:aws:s3:::{BUCKET}/{key}"}],
        "eventType": "AwsApiCall",
        "managementEvent": False,
        "recipientAccountId": ACCOUNT,
        "eventCategory": "Data",
        **changes,
    }
    if key is ...:
        whole["requestParameters"].pop("key")
    if size is ...:
        whole["additionalEventData"].pop("bytesTransferredIn")
    return {name: value for name, value in whole.items() if value is not ...}


def parameters(key: str = "acme/atlas/table", **others: str) -> dict[str, str]:
    """Return requestParameters of an object."""
    return {"bucketName": BUCKET, "key": key, **others}


def log_bytes(*records: object) -> bytes:
    """Return the inflated content of a log file."""
    return json.dumps({"Records": list(records)}).encode()


def log_key(day: date = DAY, slot: str = "0505", name: str = "AAAAAAAAAAAAAAAA") -> str:
    """Return the key of a log file as CloudTrail names it."""
    folder = f"AWSLogs/{ACCOUNT}/CloudTrail/{REGION}/{day:%Y/%m/%d}"
    return f"{folder}/{ACCOUNT}_CloudTrail_{REGION}_{day:%Y%m%d}T{slot}Z_{name}.json.gz"


@cache
def private_key(number: int) -> RSAPrivateKey:
    """Return a key to sign with, another one for each number."""
    del number
    return generate_private_key(public_exponent=65537, key_size=2048)


def public_keys() -> bytes:
    """Return the answer of list-public-keys."""
    der = private_key(0).public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
    entry = {"Fingerprint": FINGERPRINT, "Value": base64.b64encode(der).decode()}
    return json.dumps({"publicKeyList": [entry]}).encode()


@dataclass(slots=True)
class DigestChain:
    """Makes hourly digests that name each other. Each is (key, inflated content, signature)."""

    made: list[tuple[str, bytes, str]] = field(default_factory=list)
    key_number: int = 0

    def add(self, end: datetime, logs: Mapping[str, bytes], **changes: Any) -> tuple[str, bytes, str]:
        """Add the digest of the hour before `end`, which lists `logs` (key -> inflated content)."""
        folder = f"AWSLogs/{ACCOUNT}/CloudTrail-Digest/{REGION}/{end:%Y/%m/%d}"
        key = f"{folder}/{ACCOUNT}_CloudTrail-Digest_{REGION}_{TRAIL}_{REGION}_{end:%Y%m%dT%H%M%S}Z.json.gz"
        previous = self.made[-1] if self.made else None
        document = {
            "awsAccountId": ACCOUNT,
            "digestStartTime": f"{end - timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}",
            "digestEndTime": f"{end:%Y-%m-%dT%H:%M:%SZ}",
            "digestS3Bucket": "trail-bucket",
            "digestS3Object": key,
            "digestPublicKeyFingerprint": FINGERPRINT,
            "digestSignatureAlgorithm": "SHA256withRSA",
            "newestEventTime": None,
            "oldestEventTime": None,
            "previousDigestS3Bucket": "trail-bucket" if previous else None,
            "previousDigestS3Object": previous[0] if previous else None,
            "previousDigestHashValue": hashlib.sha256(previous[1]).hexdigest() if previous else None,
            "previousDigestHashAlgorithm": "SHA-256" if previous else None,
            "previousDigestSignature": previous[2] if previous else None,
            "logFiles": [
                {
                    "s3Bucket": "trail-bucket",
                    "s3Object": log,
                    "hashValue": hashlib.sha256(content).hexdigest(),
                    "hashAlgorithm": "SHA-256",
                }
                for log, content in logs.items()
            ],
            **changes,
        }
        content = json.dumps(document).encode()
        text = "\n".join(
            [
                document["digestEndTime"],
                f"{document['digestS3Bucket']}/{document['digestS3Object']}",
                hashlib.sha256(content).hexdigest(),
                document["previousDigestSignature"] or "null",
            ]
        )
        signature = private_key(self.key_number).sign(text.encode(), PKCS1v15(), SHA256()).hex()
        self.made.append((key, content, signature))
        return self.made[-1]


def csv_gz(rows: Sequence[Sequence[object]], *, prefix: bytes = b"", newline: str = "\n") -> bytes:
    """Return a data file of an inventory: every cell quoted, no header."""
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator=newline).writerows(rows)
    return gzip.compress(prefix + text.getvalue().encode(), mtime=0)


def listed(
    key: str, size: object, *, version: str = "", latest: bool = True, marker: bool = False
) -> tuple[object, ...]:
    """Return a row of a CSV inventory."""
    return BUCKET, key, version, str(latest).lower(), str(marker).lower(), size, "2026-06-01T00:00:00.000Z", "e"


def manifest(data: Mapping[str, bytes], at: datetime, **changes: Any) -> bytes:
    """Return manifest.json over data files."""
    document = {
        "sourceBucket": BUCKET,
        "destinationBucket": "arn:aws:s3:::inventories",
        "version": "2016-11-30",
        "creationTimestamp": str(int(at.timestamp()) * 1000),
        "fileFormat": "CSV",
        "fileSchema": ", ".join(CSV_COLUMNS),
        "files": [
            {"key": key, "size": len(content), "MD5checksum": hashlib.md5(content, usedforsecurity=False).hexdigest()}
            for key, content in data.items()
        ],
        **changes,
    }
    return json.dumps(document, indent=2).encode()


def md5_line(content: bytes) -> bytes:
    """Return manifest.checksum of a manifest."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest().encode() + b"\n"


def source(kind: Kind, **changes: Any) -> StorageSource:
    """Return a source named after its kind."""
    made = {"name": str(kind), "kind": kind, "landing": f"storage/{kind}", "profile": profile(), **changes}
    return StorageSource(**made)


class StorageDeliveries:
    """A landing folder, a lake and the store over them."""

    def __init__(
        self, database: Database, folder: Path, sources: Sequence[StorageSource], landing_url: str = ""
    ) -> None:
        self.database = database
        self.landing_dir = folder / "landing"
        self.landing_dir.mkdir(parents=True, exist_ok=True)
        self.landing_url = landing_url or str(self.landing_dir)
        scratch = folder / "scratch"
        self.lake = Lake(str(folder / "lake"), scratch)
        self.store = StorageStore(
            database, self.lake, Landing(self.landing_url, scratch), sources, scratch, landing_url=self.landing_url
        )

    def deliver(self, key: str, content: bytes) -> Path:
        """Put a file into the landing folder."""
        path = self.landing_dir / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def deliver_log(self, *records: object, key: str = "") -> bytes:
        """Deliver a log file; return its inflated content."""
        content = log_bytes(*records)
        self.deliver(f"storage/cloudtrail/{key or log_key()}", gzip.compress(content, mtime=0))
        return content

    def deliver_digest(self, digest: tuple[str, bytes, str], *, mtime: int = 0) -> None:
        """Deliver a digest with its metadata beside it."""
        key, content, signature = digest
        path = f"storage/cloudtrail/{key}"
        self.deliver(path, gzip.compress(content, mtime=mtime))
        metadata = {"signature": signature, "signature-algorithm": "SHA256withRSA"}
        self.deliver(f"{path}.metadata.json", json.dumps(metadata).encode())

    def deliver_inventory(
        self,
        rows: Sequence[Sequence[object]],
        at: datetime,
        *,
        folder: str = "",
        checksum: bytes | None = None,
        **changes: Any,
    ) -> str:
        """Deliver an inventory of one data file; return the manifest's key below the source's folder."""
        data = csv_gz(rows)
        place = folder or f"inv/{at:%Y-%m-%dT%H-%MZ}"
        name = f"inv/data/{hashlib.md5(data + str(at).encode(), usedforsecurity=False).hexdigest()}.csv.gz"
        content = manifest({name: data} if "files" not in changes else {}, at, **changes)
        if "files" not in changes:
            self.deliver(f"storage/inventory/{name}", data)
        self.deliver(f"storage/inventory/{place}/manifest.json", content)
        self.deliver(
            f"storage/inventory/{place}/manifest.checksum", md5_line(content) if checksum is None else checksum
        )
        return f"{place}/manifest.json"

    def ingest(self, seen_at: datetime = AS_OF) -> None:
        """Discover, and read what waits."""
        self.store.discover(seen_at=seen_at)
        for dataset in DATASETS:
            days = self.store.delivery_days(dataset, pending_only=True)
            self.store.ingest_days(dataset, days, run_id="run", code_version="test")

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Return what a query on PostgreSQL gives."""
        with self.database.connect() as connection:
            return list(connection.execute(sql.encode(), values or None).fetchall())

    def lake_rows(self, dataset: str, columns: str) -> list[tuple[Any, ...]]:
        """Return rows of the current generations of a dataset, sorted."""
        uris = self.rows(
            "select uri from core.lake_partition join core.lake_generation using (dataset, partition_key, generation)"
            " where dataset = %s",
            dataset,
        )
        if not uris:
            return []
        paths = [str(self.lake.fetch(uri)) for (uri,) in uris]
        with duckdb.connect(config={"threads": 1}) as connection:
            return list(connection.execute(f"select {columns} from read_parquet($1) order by all", [paths]).fetchall())

    def manifest(self) -> dict[str, tuple[str, str | None, int, int, int, int, int]]:
        """Return key -> status, reason, read, accepted, rejected, duplicate, out of scope; of the newest content."""
        rows = self.rows(
            "select key, status, reason, lines_read, accepted_rows, rejected_rows, duplicate_rows, out_of_scope_rows"
            " from core.source_file order by file_id"
        )
        return {row[0].removeprefix("storage/"): row[1:] for row in rows}

    def verdicts(self, dataset: str, day: date = DAY) -> dict[str, str]:
        """Return guard -> status of a delivery day."""
        rows = self.rows(
            "select guard, status from guards.verdict where asset = %s and partition_key = %s", dataset, str(day)
        )
        return dict(rows)
