"""An S3 Inventory: manifest and rows -> objects as they were listed, or why the snapshot cannot be trusted. Pure.

`read_manifest` is over manifest.json with its checksum, `ObjectRow` one listed version. CSV has no header: columns go by the
manifest's fileSchema, keys are URL-encoded (those of Parquet and ORC are not). Not here: files and formats (inventory_reader), sums
(sql/listed_repositories).
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from urllib.parse import unquote, unquote_plus

from billing_pipeline.records import Reason
from billing_pipeline.sources.storage_profile import LARGEST_BYTES, is_key
from billing_pipeline.sources.storage_reasons import FileRefusal, StorageReason
from billing_pipeline.sources.timestamps import parse_instant

MANIFEST_NAME = "manifest.json"
CHECKSUM_NAME = "manifest.checksum"
VERSION = "2016-11-30"
# Column of ours -> its names in CSV and in Parquet or ORC. What is not named here is not read.
COLUMNS = {
    "bucket": ("Bucket", "bucket"),
    "key": ("Key", "key"),
    "version_id": ("VersionId", "version_id"),
    "is_latest": ("IsLatest", "is_latest"),
    "is_delete_marker": ("IsDeleteMarker", "is_delete_marker"),
    "size": ("Size", "size"),
    "last_modified": ("LastModifiedDate", "last_modified_date"),
    "etag": ("ETag", "e_tag"),
}
_REQUIRED = ("bucket", "key", "size")
_MD5 = re.compile(r"[0-9a-f]{32}")
_DIGITS = re.compile(r"\d{1,19}", re.ASCII)
_TRUTH = {"true": True, "false": False}

FileFormat = Literal["CSV", "Parquet", "ORC"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InventoryFile:
    """A data file that the manifest lists: its key in the destination bucket, size and MD5 hex."""

    key: str
    size_bytes: int
    md5: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InventoryManifest:
    """What a manifest says. `snapshot_at`: when the scan began, aware UTC. `columns`: names of ours in order of the CSV's columns,
    null where a column is not read; `column_count` of them."""

    source_bucket: str
    snapshot_at: datetime
    file_format: FileFormat
    columns: tuple[str | None, ...]
    files: tuple[InventoryFile, ...]

    @property
    def has_versions(self) -> bool:
        """Return whether every version is listed, rather than the current one of each key."""
        return "version_id" in self.columns


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectRow:
    """One listed version of an object. `version_id` null: the version without versioning. `bytes` 0 for a delete marker."""

    bucket: str
    key: str
    version_id: str | None
    is_latest: bool
    is_delete_marker: bool
    bytes: int


def read_manifest(content: bytes, checksum: bytes, *, as_of: datetime) -> InventoryManifest | FileRefusal:
    """Return the manifest, when its checksum (MD5 hex, of the content) holds. `as_of`: when it was first seen."""
    expected = checksum.decode("ascii", errors="replace").strip().lower()
    actual = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if actual != expected:
        # Only what is a checksum is shown: the file may hold anything.
        shown = expected if re.fullmatch("[0-9a-f]{32}", expected) else "what manifest.checksum holds, which is none"
        return FileRefusal(
            reason=StorageReason.MANIFEST_CHECKSUM, detail=f"MD5 of manifest.json is {actual}, not {shown}"
        )
    try:
        document = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return FileRefusal(reason=Reason.BAD_JSON, detail="manifest.json is not JSON")
    if not isinstance(document, dict):
        return _bad("manifest.json is not an object")
    if document.get("version") != VERSION:
        return _bad(f"version is not {VERSION}")
    snapshot_at = parse_instant(_epoch_millis(document.get("creationTimestamp")), layout="epoch_ms", as_of=as_of)
    if isinstance(snapshot_at, Reason):
        return _bad(f"creationTimestamp: {snapshot_at}")
    bucket = document.get("sourceBucket")
    if not isinstance(bucket, str) or not bucket:
        return _bad("sourceBucket is missing")
    file_format = document.get("fileFormat")
    if file_format not in ("CSV", "Parquet", "ORC"):
        return _bad("fileFormat is none of CSV, Parquet and ORC")
    columns = _columns(file_format, document.get("fileSchema"))
    if isinstance(columns, FileRefusal):
        return columns
    files = _files(document.get("files"))
    if files is None:
        return _bad("files is not a list of key, size and MD5checksum")
    return InventoryManifest(
        source_bucket=bucket, snapshot_at=snapshot_at, file_format=file_format, columns=columns, files=files
    )


def decoded_key(text: str, *, plus: Literal["space", "plus"]) -> str | None:
    """Return a key as CSV spells it, decoded once; None when it is no UTF-8. A bare `+` is a space, as S3 encodes, or itself."""
    if "%" not in text and "+" not in text:
        return text
    try:
        return unquote_plus(text, errors="strict") if plus == "space" else unquote(text, errors="strict")
    except UnicodeDecodeError:
        return None


def csv_row(
    cells: Sequence[str], columns: Sequence[str | None], *, plus: Literal["space", "plus"]
) -> ObjectRow | tuple[str, str]:
    """Return a row of as many cells as columns, or (reason, field) of what it must not say."""
    values = {name: cell for name, cell in zip(columns, cells, strict=True) if name is not None}
    key = decoded_key(values["key"], plus=plus)
    if key is None:
        return Reason.ENCODING, "key"
    is_latest = _TRUTH.get(values.get("is_latest", "true").lower())
    is_marker = _TRUTH.get((values.get("is_delete_marker") or "false").lower())
    if is_latest is None or is_marker is None:
        return Reason.BAD_VALUE, "is_latest" if is_latest is None else "is_delete_marker"
    size: int | str = values["size"]
    if isinstance(size, str) and _DIGITS.fullmatch(size):
        size = int(size)
    return object_row(
        values["bucket"], key, values.get("version_id") or None, is_latest=is_latest, is_marker=is_marker, size=size
    )


def object_row(
    bucket: str | None, key: str | None, version_id: str | None, *, is_latest: bool, is_marker: bool, size: object
) -> ObjectRow | tuple[str, str]:
    """Return the row that these values make, or (reason, field) of what it must not say."""
    if not bucket:
        return Reason.MISSING_FIELD, "bucket"
    if not key or not is_key(key):
        return StorageReason.BAD_KEY, "key"
    if is_marker and size in (None, "", 0):
        size = 0
    if size in (None, ""):
        return Reason.MISSING_FIELD, "size"
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= LARGEST_BYTES:
        return Reason.OUT_OF_RANGE, "size"
    return ObjectRow(
        bucket=bucket,
        key=key,
        version_id=version_id or None,
        is_latest=is_latest,
        is_delete_marker=is_marker,
        bytes=size,
    )


def _epoch_millis(value: object) -> object:
    """Return the timestamp as a number: real manifests write it as a string."""
    return int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else value


def _columns(file_format: str, schema: object) -> tuple[str | None, ...] | FileRefusal:
    if not isinstance(schema, str):
        return FileRefusal(reason=StorageReason.SCHEMA, detail="fileSchema is missing")
    if file_format == "CSV":
        names = [name.strip() for name in schema.split(",")]
        ours = {spellings[0]: name for name, spellings in COLUMNS.items()}
    else:
        # "message s3.inventory { required binary bucket (STRING); ...}" and "struct<bucket:string,...>": their text differs by
        # age, the names do not; the files carry their own schema.
        names = re.findall(r"\w+", schema)
        ours = {spellings[1]: name for name, spellings in COLUMNS.items()}
    columns = tuple(ours.get(name) for name in names)
    found = [name for name in columns if name is not None]
    missing = [name for name in _REQUIRED if name not in found]
    if missing or (file_format == "CSV" and len(found) != len(set(found))):
        return FileRefusal(
            reason=StorageReason.SCHEMA,
            detail=f"fileSchema lacks {', '.join(missing)}" if missing else "a column twice",
        )
    if "version_id" in found and "is_latest" not in found:
        return FileRefusal(
            reason=StorageReason.SCHEMA, detail="fileSchema has versions and does not say which is the latest"
        )
    return columns


def _files(listed: Any) -> tuple[InventoryFile, ...] | None:
    if not isinstance(listed, list):
        return None
    files = []
    for entry in listed:
        if not isinstance(entry, dict):
            return None
        key, size, md5 = entry.get("key"), entry.get("size"), entry.get("MD5checksum")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            return None
        if not (isinstance(key, str) and key and isinstance(md5, str) and _MD5.fullmatch(md5.lower())):
            return None
        files.append(InventoryFile(key=key, size_bytes=size, md5=md5.lower()))
    return tuple(files)


def _bad(detail: str) -> FileRefusal:
    return FileRefusal(reason=StorageReason.BAD_MANIFEST, detail=detail)
