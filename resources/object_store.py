"""S3 objects below a bucket and prefix, through boto3: list by pages, download one version whole, write once.

Endpoint, region and credentials are boto3's own (`AWS_*`, `AWS_ENDPOINT_URL`); no message holds them. Used by landing
and lake, which give keys their meaning.
"""

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit

from billing_pipeline.errors import BillingError

if TYPE_CHECKING:
    from botocore.exceptions import ClientError
    from mypy_boto3_s3 import S3Client

# What S3 gives at most at once.
PAGE_KEYS = 1000
# Of a request that fails, the first one counted; boto3 waits longer before each.
ATTEMPTS = 5
_CHUNK_BYTES = 4 << 20
_DOWNLOAD_ATTEMPTS = 4
_PUT_ATTEMPTS = 3
_SHA256 = "sha256"
_GONE = frozenset({"NoSuchKey", "404", "NotFound"})
_FIXES = {
    "NoSuchBucket": "create the bucket, or correct BILLING_LANDING_URL or BILLING_LAKE_URL",
    "AccessDenied": "allow s3:ListBucket, s3:GetObject and (lake) s3:PutObject, s3:DeleteObject for these credentials",
    "InvalidAccessKeyId": "correct AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "correct AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "renew the credentials",
    "PermanentRedirect": "correct AWS_REGION",
    "EntityTooLarge": "write smaller partitions: one PUT takes at most 5 GB",
}


class ObjectStoreError(BillingError):
    """S3 refused or could not be reached."""


class ObjectNotFoundError(ObjectStoreError):
    """The object does not exist (any more)."""


class ObjectChangedError(ObjectStoreError):
    """The object was replaced between two reads of it."""


class ObjectConflictError(ObjectStoreError):
    """A key that is written once exists with other content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """A listed object. `key` is below the prefix; `modified_at` is aware UTC."""

    key: str
    size_bytes: int
    modified_at: datetime


def is_s3_url(url: str) -> bool:
    """Return whether `url` names a bucket."""
    return url.startswith("s3://")


class Bucket:
    """The objects below `s3://bucket/prefix`. Safe to use from several threads; connects at first use."""

    def __init__(self, url: str, *, page_size: int | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment or parts.username:
            raise ObjectStoreError(
                "not an S3 location: expected s3://bucket or s3://bucket/prefix",
                bill="nothing was read or written",
                fix="correct BILLING_LANDING_URL or BILLING_LAKE_URL",
            )
        self._name = parts.netloc
        prefix = parts.path.strip("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._page_size = page_size or PAGE_KEYS
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Bucket('s3://{self._name}/{self._prefix}')"

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """Yield the objects whose key below this bucket's prefix starts with `prefix`, sorted by key, page by page."""
        with self._explained():
            pages = self._s3.get_paginator("list_objects_v2").paginate(
                Bucket=self._name, Prefix=self._prefix + prefix, PaginationConfig={"PageSize": self._page_size}
            )
            for page in pages:
                for found in page.get("Contents", ()):
                    yield StoredObject(
                        key=found["Key"][len(self._prefix) :],
                        size_bytes=found["Size"],
                        modified_at=found["LastModified"],
                    )

    def download(self, key: str, folder: Path) -> Path:
        """Return a new local file in `folder` with the bytes of one version of `key`.

        A broken connection is resumed with If-Match on the first answer's ETag: two versions are never mixed.

        Raises:
            ObjectNotFoundError: there is no such object.
            ObjectChangedError: it was replaced during the download.
        """
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=folder, suffix=".tmp")
        path = Path(name)
        try:
            with self._explained(key), os.fdopen(descriptor, "wb") as target:
                self._download(key, target)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path

    def _download(self, key: str, target: IO[bytes]) -> None:
        from botocore.exceptions import BotoCoreError

        answer = self._s3.get_object(Bucket=self._name, Key=self._prefix + key)
        etag, size_bytes, done = answer["ETag"], answer["ContentLength"], 0
        for attempt in range(1, _DOWNLOAD_ATTEMPTS + 1):
            try:
                for chunk in answer["Body"].iter_chunks(_CHUNK_BYTES):
                    target.write(chunk)
                    done += len(chunk)
            except BotoCoreError:
                if attempt == _DOWNLOAD_ATTEMPTS:
                    raise
            finally:
                answer["Body"].close()
            if done == size_bytes:
                return
            answer = self._s3.get_object(
                Bucket=self._name, Key=self._prefix + key, IfMatch=etag, Range=f"bytes={done}-"
            )

    def put_once(self, key: str, local_file: Path, *, sha256: str) -> None:
        """Write `local_file` as `key` unless the key exists; the same content there already is fine.

        `sha256` is the hex digest of the file; it is kept in the object's metadata.

        Raises:
            ObjectConflictError: the key holds other content.
        """
        from botocore.exceptions import ClientError

        with self._explained(key):
            for _attempt in range(_PUT_ATTEMPTS):
                try:
                    with local_file.open("rb") as body:
                        self._s3.put_object(
                            Bucket=self._name,
                            Key=self._prefix + key,
                            Body=body,
                            IfNoneMatch="*",
                            Metadata={_SHA256: sha256},
                        )
                    return
                except ClientError as error:
                    # 409: another writer of the same key was at work at the same moment; ask again who won.
                    if _code(error) not in {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}:
                        raise
                there = self._sha256_of(key)
                if there == sha256:
                    return
                if there is not None:
                    raise ObjectConflictError(
                        f"{self._prefix}{key} exists with other content",
                        bill="the object there stands; nothing was replaced",
                        fix="write the new content under a new name",
                    )
            raise ObjectStoreError(
                f"cannot write {self._prefix}{key}: other writers hold it",
                bill="nothing was replaced",
                fix="run again",
            )

    def _sha256_of(self, key: str) -> str | None:
        """Return the digest in the metadata of `key`, '' when it has none, None when there is no object."""
        from botocore.exceptions import ClientError

        try:
            return self._s3.head_object(Bucket=self._name, Key=self._prefix + key)["Metadata"].get(_SHA256, "")
        except ClientError as error:
            if _code(error) in _GONE:
                return None
            raise

    def holds(self, key: str) -> bool:
        """Return whether `key` exists."""
        with self._explained(key):
            return self._sha256_of(key) is not None

    def delete(self, key: str) -> None:
        """Delete `key`; a missing object is fine."""
        with self._explained(key):
            self._s3.delete_object(Bucket=self._name, Key=self._prefix + key)

    @cached_property
    def _s3(self) -> "S3Client":
        # boto3 takes a quarter of a second to import: only those who use S3 pay.
        import boto3
        from botocore.config import Config

        # Servers named by AWS_ENDPOINT_URL often have no name per bucket; AWS itself wants one.
        own_server = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        with self._lock:
            return boto3.session.Session().client(
                "s3",
                config=Config(
                    retries={"mode": "standard", "max_attempts": ATTEMPTS},
                    connect_timeout=10,
                    read_timeout=60,
                    s3={"addressing_style": "path" if own_server else "auto"},
                ),
            )

    @contextmanager
    def _explained(self, key: str | None = None) -> Iterator[None]:
        """Turn boto3's errors into ours: cause and fix, and no credential."""
        from botocore.exceptions import BotoCoreError, ClientError

        place = f"s3://{self._name}/{self._prefix}{key or ''}"
        try:
            yield
        except ClientError as error:
            code = _code(error)
            if code in _GONE and key is not None:
                raise ObjectNotFoundError(
                    f"{place} does not exist", bill="nothing was read or written", fix="run again, or restore it"
                ) from error
            if code in {"PreconditionFailed", "412"}:
                raise ObjectChangedError(
                    f"{place} was replaced while it was read", bill="nothing of it was taken", fix="run again"
                ) from error
            fix = _FIXES.get(code, "look the code up in the S3 server's documentation, then run again")
            raise ObjectStoreError(
                f"S3 refused {place}: {code}", bill="nothing was read or written", fix=fix
            ) from error
        except BotoCoreError as error:
            # The class names the cause (NoCredentialsError, EndpointConnectionError); the text may hold signed URLs.
            raise ObjectStoreError(
                f"S3 cannot be reached for {place}: {type(error).__name__}",
                bill="nothing was read or written",
                fix="check AWS_ENDPOINT_URL, AWS_REGION, the credentials and the network, then run again",
            ) from error


def _code(error: "ClientError") -> str:
    return error.response.get("Error", {}).get("Code", "unknown")
