"""List a bucket or folder ourselves and deliver the listing as an inventory of its own: data file, manifest, checksum last.

A listing is no snapshot of one moment: it is dated by its beginning, as S3 Inventory is. One a day; a second call writes nothing.
Not here: reading it (inventory_reader).
"""

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from billing_pipeline.sources.s3_inventory import CHECKSUM_NAME, MANIFEST_NAME, VERSION
from resources.disk import disk_failures_explained
from resources.landing import Landing, LandingNotFoundError
from resources.object_store import Bucket, is_s3_url
from resources.storage_config import StorageSource, listed_bucket

BATCH_ROWS = 65_536
_SCHEMA = pa.schema(
    [
        pa.field("bucket", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("size", pa.int64()),
        pa.field("last_modified_date", pa.timestamp("ms", "UTC")),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenListing:
    """A listing as it was delivered: the key of its manifest, and what was listed."""

    source: str
    manifest_key: str
    objects: int
    total_bytes: int


def take_listing(
    source: StorageSource, *, landing: Landing, landing_url: str, scratch_dir: Path, now: datetime
) -> TakenListing | None:
    """List `source.place` and deliver what it holds below the source's landing folder; None when the UTC day of `now` has one.

    Raises:
        ObjectStoreError: the bucket cannot be listed or written.
        LandingNotFoundError: there is no such folder to list.
    """
    day = now.astimezone(UTC).date().isoformat()
    if _has_listing(landing, source, day):
        return None
    folder = f"{source.landing}/{now.astimezone(UTC):%Y-%m-%dT%H-%MZ}"
    data_key = f"data/{secrets.token_hex(16)}.parquet"
    scratch_dir.mkdir(parents=True, exist_ok=True)
    scratch = scratch_dir / f"ingest-listing-{secrets.token_hex(6)}.parquet"
    with disk_failures_explained(scratch_dir):
        try:
            objects, total_bytes = _write_rows(source, scratch)
            manifest = json.dumps(_manifest(source, scratch, data_key, now), indent=2).encode()
            checksum = hashlib.md5(manifest, usedforsecurity=False).hexdigest().encode() + b"\n"
            _deliver(landing_url, f"{folder}/{data_key}", scratch)
            for name, content in ((MANIFEST_NAME, manifest), (CHECKSUM_NAME, checksum)):
                scratch.write_bytes(content)
                _deliver(landing_url, f"{folder}/{name}", scratch)
        finally:
            scratch.unlink(missing_ok=True)
    return TakenListing(
        source=source.name, manifest_key=f"{folder}/{MANIFEST_NAME}", objects=objects, total_bytes=total_bytes
    )


def _has_listing(landing: Landing, source: StorageSource, day: str) -> bool:
    try:
        return any(file.key.endswith(f"/{CHECKSUM_NAME}") for file in landing.list(f"{source.landing}/{day}T"))
    except LandingNotFoundError:
        return False


def _write_rows(source: StorageSource, path: Path) -> tuple[int, int]:
    objects = total_bytes = 0
    bucket = listed_bucket(source)
    with pyarrow.parquet.ParquetWriter(path, _SCHEMA, compression="zstd") as writer:
        batch: list[dict[str, object]] = []
        for key, size_bytes, modified_at in _objects(source.place):
            batch.append({"bucket": bucket, "key": key, "size": size_bytes, "last_modified_date": modified_at})
            objects += 1
            total_bytes += size_bytes
            if len(batch) == BATCH_ROWS:
                writer.write_table(pa.Table.from_pylist(batch, schema=_SCHEMA))
                batch = []
        writer.write_table(pa.Table.from_pylist(batch, schema=_SCHEMA))
    return objects, total_bytes


def _objects(place: str) -> Iterator[tuple[str, int, datetime]]:
    if is_s3_url(place):
        return ((found.key, found.size_bytes, found.modified_at) for found in Bucket(place).list())
    return _files(Path(place))


def _files(root: Path) -> Iterator[tuple[str, int, datetime]]:
    """Yield every file below a folder, those with odd names too: unlike a delivery, what is stored is stored."""
    if not root.is_dir():
        raise LandingNotFoundError(
            f"cannot list the storage in {root}: there is no such folder",
            bill="no snapshot was taken; sizes are carried forward from the one before",
            fix="create it, or correct `place` in storage.toml",
        )
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = Path(folder) / name
            if path.is_file() and not path.is_symlink():
                stat = path.stat()
                modified_at = datetime.fromtimestamp(stat.st_mtime, UTC)
                yield path.relative_to(root).as_posix(), stat.st_size, modified_at


def _manifest(source: StorageSource, data: Path, data_key: str, now: datetime) -> dict[str, object]:
    with data.open("rb") as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return {
        "sourceBucket": listed_bucket(source),
        "destinationBucket": "",
        "version": VERSION,
        "creationTimestamp": str(int(now.timestamp() * 1_000_000) // 1_000),
        "fileFormat": "Parquet",
        "fileSchema": "message s3.inventory { required binary bucket (STRING); required binary key (STRING);"
        " optional int64 size; optional int64 last_modified_date (TIMESTAMP(MILLIS,true));}",
        "files": [{"key": data_key, "size": data.stat().st_size, "MD5checksum": md5}],
    }


def _deliver(landing_url: str, key: str, content: Path) -> None:
    """Put a file into the landing place, whole or not at all."""
    if is_s3_url(landing_url):
        with content.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        Bucket(landing_url).put_once(key, content, sha256=sha256)
        return
    target = Path(landing_url) / key
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        with temporary.open("wb") as copy:
            copy.write(content.read_bytes())
            copy.flush()
            os.fsync(copy.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
