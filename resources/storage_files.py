"""Delivered files about storage: fetched as they were registered, inflated whole; the lake's schemas of storage datasets.

A file that cannot be used raises `Refused` with its reason. Not here: what is in the files (billing_pipeline/sources), when to
read them (snapshot_ingest, event_ingest).
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from billing_pipeline.records import Reason
from billing_pipeline.sources.s3_inventory import CHECKSUM_NAME, MANIFEST_NAME
from billing_pipeline.sources.storage_reasons import FileRefusal, StorageReason
from resources.delivery_manifest import DeliveredFile
from resources.inflate import FileRejected, inflated, sniff
from resources.landing import Landing, LandingFile, LandingFileChangedError, LandingKeyError

# A log file, a table or a list of events is read into memory as a whole; none that a source writes comes near.
MAX_CONTENT_BYTES = 1 << 30

_INSTANT = pa.timestamp("us")
SNAPSHOT_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("snapshot_id", pa.string()),
        ("snapshot_at", _INSTANT),
        ("repository", pa.string()),
        ("owner", pa.string()),
        ("visibility", pa.string()),
        ("bytes", pa.int64()),
        ("object_count", pa.int64()),
        ("file_id", pa.int64()),
    ]
)
OBJECT_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("snapshot_id", pa.string()),
        ("snapshot_at", _INSTANT),
        ("repository", pa.string()),
        ("object_id", pa.string()),
        ("version_id", pa.string()),
        ("bytes", pa.int64()),
        ("is_current", pa.bool_()),
        ("file_id", pa.int64()),
    ]
)
OBJECT_EVENT_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("event_id", pa.string()),
        ("shared_event_id", pa.string()),
        ("event_at", _INSTANT),
        ("bucket", pa.string()),
        ("repository", pa.string()),
        ("owner", pa.string()),
        ("object_id", pa.string()),
        ("event_name", pa.string()),
        ("action", pa.string()),
        ("bytes", pa.int64()),
        ("upload_id", pa.string()),
        ("part_number", pa.int64()),
        ("version_id", pa.string()),
        ("original_event_id", pa.string()),
        ("file_id", pa.int64()),
        ("line_number", pa.int64()),
    ]
)
VISIBILITY_EVENT_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("event_id", pa.string()),
        ("event_at", _INSTANT),
        ("repository", pa.string()),
        ("kind", pa.string()),
        ("value", pa.string()),
        ("file_id", pa.int64()),
        ("line_number", pa.int64()),
    ]
)


class Refused(Exception):
    """The file is refused as a whole; `refusal` goes into the manifest."""

    def __init__(self, refusal: FileRefusal) -> None:
        super().__init__(f"{refusal.reason}: {refusal.detail}")
        self.refusal = refusal


def refused(reason: str, detail: str) -> Refused:
    """Return the exception that refuses a file."""
    return Refused(FileRefusal(reason=str(reason), detail=detail))


@contextmanager
def fetched(landing: Landing, file: DeliveredFile) -> Iterator[Path]:
    """Provide a local path with the bytes that were registered.

    Raises:
        Refused: the file was removed or overwritten since. What is delivered under its key now is registered as such.
    """
    try:
        with landing.fetched(file.key) as path:
            if sha256_of(path) != file.content_sha256:
                raise refused(Reason.UNREADABLE, "the file was overwritten after it had been registered")
            yield path
    except (LandingKeyError, LandingFileChangedError) as error:
        raise refused(Reason.UNREADABLE, "the file was changed or removed after it had been registered") from error


def content_of(path: Path) -> bytes:
    """Return the whole inflated content of a file, gzip or zstd or plain by its own bytes.

    Raises:
        Refused: empty, broken compression, not text, or too large.
    """
    try:
        packed = sniff(path)
        return b"".join(inflated(path, packed.compression, max_bytes=MAX_CONTENT_BYTES))
    except FileRejected as rejection:
        raise refused(rejection.reason, rejection.detail) from rejection


def sha256_of(path: Path) -> str:
    """Return the SHA-256 hex of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class DataFiles:
    """The files below a source's folder, found by the keys that an inventory's manifest names in another bucket."""

    def __init__(self, landing: Landing, files: Iterable[LandingFile]) -> None:
        self._landing = landing
        self._sizes = {file.key: file.size_bytes for file in files}
        self._by_name: dict[str, list[str]] = {}
        for key in self._sizes:
            self._by_name.setdefault(key.rpartition("/")[2], []).append(key)

    def read_manifest(self, manifest_key: str) -> tuple[bytes, bytes, str]:
        """Return manifest.json, manifest.checksum, and the SHA-256 hex by which the delivery as a whole is known.

        It is over both and over which of the data files are there with which size: when one that lacked arrives, the delivery is
        another one.

        Raises:
            LandingFileChangedError, LandingKeyError: one of the two is gone.
        """
        with self._landing.fetched(manifest_key) as path:
            manifest = path.read_bytes()
        with self._landing.fetched(manifest_key.removesuffix(MANIFEST_NAME) + CHECKSUM_NAME) as path:
            checksum = path.read_bytes()
        there = [[key, self._sizes.get(self.find(manifest_key, key) or "")] for key in _data_keys(manifest)]
        parts = [hashlib.sha256(manifest).hexdigest(), checksum.decode("ascii", errors="replace").strip(), there]
        return manifest, checksum, hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def find(self, manifest_key: str, data_key: str) -> str | None:
        """Return the key in the landing place of `data_key`: of those with its name, the one with most of its folders.

        Where that leaves a choice, the one nearest to the manifest. Size and MD5 are checked by who reads it.
        """
        candidates = self._by_name.get(data_key.rpartition("/")[2], [])
        return max(
            candidates,
            key=lambda key: (_common(key.split("/")[::-1], data_key.split("/")[::-1]), _common(key, manifest_key), key),
            default=None,
        )

    @contextmanager
    def fetched(self, manifest_key: str, data_key: str, *, size_bytes: int, md5: str) -> Iterator[Path]:
        """Provide a local path with a data file that is what the manifest says.

        Raises:
            Refused: it is missing, or its size or MD5 differs.
        """
        key = self.find(manifest_key, data_key)
        if key is None:
            raise refused(StorageReason.FILE_MISSING, f"{data_key} is listed in the manifest and was not delivered")
        try:
            with self._landing.fetched(key) as path:
                if path.stat().st_size != size_bytes:
                    raise refused(
                        StorageReason.FILE_CHECKSUM,
                        f"{data_key} has {path.stat().st_size} bytes, the manifest says {size_bytes}",
                    )
                with path.open("rb") as file:
                    actual = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
                if actual != md5:
                    raise refused(
                        StorageReason.FILE_CHECKSUM, f"the MD5 of {data_key} is {actual}, the manifest says {md5}"
                    )
                yield path
        except (LandingKeyError, LandingFileChangedError) as error:
            raise refused(StorageReason.FILE_MISSING, f"{data_key} changed or vanished while it was read") from error


def _data_keys(manifest: bytes) -> list[str]:
    """Return the keys that a manifest lists, none when it cannot be understood: who reads it says why."""
    try:
        return [entry["key"] for entry in json.loads(manifest)["files"] if isinstance(entry["key"], str)]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []


def _common(one: str | list[str], other: str | list[str]) -> int:
    """Return how many leading elements two sequences share."""
    count = 0
    for first, second in zip(one, other, strict=False):
        if first != second:
            break
        count += 1
    return count
