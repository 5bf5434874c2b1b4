"""The lake: immutable Parquet files, one per generation of a partition, in a folder or below `s3://bucket/prefix`.

A file appears whole or not at all (folder: temporary name, fsync, rename; S3: one conditional PUT) and never changes. A
`uri` is the path below the lake's URL, so that a lake can be moved or mirrored. Which generation counts is PostgreSQL's
business (`core.lake_partition`), not decided here. ADR 0005.
"""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Protocol

from billing_pipeline.errors import BillingError
from resources.disk import disk_failures_explained
from resources.object_store import Bucket, ObjectConflictError, ObjectNotFoundError, is_s3_url

_DATASET = re.compile(r"[a-z0-9_]+(/[a-z0-9_]+)*")
_GENERATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_URI = re.compile(r"[a-z0-9_]+(/[a-z0-9_]+)*/day=\d{4}-\d\d-\d\d/gen=[A-Za-z0-9][A-Za-z0-9._-]*\.parquet")
_LEFTOVER = ".tmp"
# A disk writes several files in about the time of one; the work of each is waiting.
_FILES_AT_ONCE = 8


class LakeConflictError(BillingError):
    """A generation was published before with other content: a generation never changes."""


class LakeFileMissingError(BillingError):
    """A file that PostgreSQL points at is not in the lake."""


class LakeNameError(BillingError):
    """A dataset, generation or URI is not of the form that lake names have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LakeDraft:
    """A local file that is to become a generation of a partition.

    `sha256`: hex digest of its bytes, of a file that was made to be published: it is moved, where it can be. Without it the
    file is copied and stays as it is.
    """

    local_file: Path
    dataset: str
    partition: date
    generation: str
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LakeFile:
    """A published file. `sha256` is the hex digest of its bytes."""

    uri: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file as the lake has it. `modified_at` is aware UTC, by the clock of the store."""

    uri: str
    size_bytes: int
    modified_at: datetime


class Lake:
    """The files below `url`, a folder or `s3://bucket/prefix`. S3 files are cached below `scratch_dir`."""

    def __init__(self, url: str, scratch_dir: Path) -> None:
        self._place = url, scratch_dir
        self._store: _Store = S3Store(url, scratch_dir / "lake") if is_s3_url(url) else LocalStore(Path(url))

    def __reduce__(self) -> tuple[object, ...]:
        # In another process it is connected anew.
        return Lake, self._place

    def publish(self, local_file: Path, *, dataset: str, partition: date, generation: str) -> LakeFile:
        """Publish one file, as `publish_all` does."""
        draft = LakeDraft(local_file=local_file, dataset=dataset, partition=partition, generation=generation)
        return self.publish_all([draft])[0]

    def publish_all(self, drafts: Sequence[LakeDraft]) -> tuple[LakeFile, ...]:
        """Bring local files into the lake for good. Publishing the same bytes again changes nothing.

        Where it fails, some of the files may have been published.

        Raises:
            LakeConflictError: a generation exists with other bytes.
            LakeNameError: a dataset or generation holds characters that are not safe in paths; nothing was published.
            DiskError: the folder cannot be written.
        """
        for draft in drafts:
            if not _DATASET.fullmatch(draft.dataset) or not _GENERATION.fullmatch(draft.generation):
                raise _bad_name(f"{draft.dataset!r}, {draft.generation!r}")
        files = tuple(_lake_file(draft) for draft in drafts)
        self._store.put_all(list(zip(files, drafts, strict=True)))
        return files

    def fetch(self, uri: str) -> Path:
        """Return a local path with the bytes of `uri`, to read and not to change.

        Raises:
            LakeFileMissingError: there is no such file.
        """
        return self._store.fetch(_checked(uri))

    def holds(self, uri: str) -> bool:
        """Return whether the lake has this file; a cached copy does not count."""
        return self._store.holds(_checked(uri))

    def files(self) -> Iterator[StoredFile]:
        """Yield every published file, whoever knows of it. What has no name of a generation is not the lake's and left out."""
        return (file for file in self._store.files() if _URI.fullmatch(file.uri))

    def remove(self, uri: str) -> None:
        """Delete a file that no generation in PostgreSQL names any more. Retention only; a missing file is fine."""
        self._store.remove(_checked(uri))

    def sweep(self, *, unused_since: datetime) -> int:
        """Delete what dead processes left and cached copies not used since then; return how many files."""
        return self._store.sweep(unused_since)


class _Store(Protocol):
    def put_all(self, files: Sequence[tuple[LakeFile, LakeDraft]]) -> None: ...
    def fetch(self, uri: str) -> Path: ...
    def holds(self, uri: str) -> bool: ...
    def files(self) -> Iterator[StoredFile]: ...
    def remove(self, uri: str) -> None: ...
    def sweep(self, unused_since: datetime) -> int: ...


class LocalStore:
    """A folder. Readers open the files in place."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put_all(self, files: Sequence[tuple[LakeFile, LakeDraft]]) -> None:
        with disk_failures_explained(self._root):
            self._put_all([one for one in files if not self._is_published(one[0])])

    def _put_all(self, files: Sequence[tuple[LakeFile, LakeDraft]]) -> None:
        """Bring all, wait for the disk, name all, wait again: the disk is asked for many files at once, not for one by one."""
        targets = [self._root / file.uri for file, _ in files]
        # The name is durable only when its folder is, and the folder only when its parent is: also one that a process has
        # made which did not live to wait for it.
        folders = {folder for target in targets for folder in (target.parent, target.parent.parent)}
        for target in targets:
            folders.update(made.parent for made in _make_folders(target.parent))
        drafts = [target.with_name(f".{secrets.token_hex(8)}{_LEFTOVER}") for target in targets]
        try:
            with ThreadPoolExecutor(_FILES_AT_ONCE, thread_name_prefix="lake") as pool:
                _all_of(pool.map(_bring_durably, [draft for _, draft in files], drafts))
                for draft, target in zip(drafts, targets, strict=True):
                    os.replace(draft, target)
                _all_of(pool.map(_sync_folder, folders))
        except BaseException:
            for draft in drafts:
                draft.unlink(missing_ok=True)
            raise

    def _is_published(self, file: LakeFile) -> bool:
        try:
            there = _sha256(self._root / file.uri)
        except FileNotFoundError:
            return False
        if there != file.sha256:
            raise _conflict(file.uri)
        return True

    def fetch(self, uri: str) -> Path:
        path = self._root / uri
        if not path.is_file():
            raise _missing(uri)
        return path

    def holds(self, uri: str) -> bool:
        return (self._root / uri).is_file()

    def files(self) -> Iterator[StoredFile]:
        for path in self._root.rglob("*.parquet"):
            # Retention may run elsewhere as well: what is gone is gone.
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                yield StoredFile(
                    uri=path.relative_to(self._root).as_posix(),
                    size_bytes=stat.st_size,
                    modified_at=datetime.fromtimestamp(stat.st_mtime, UTC),
                )

    def remove(self, uri: str) -> None:
        (self._root / uri).unlink(missing_ok=True)

    def sweep(self, unused_since: datetime) -> int:
        return _delete_older(self._root, f".*{_LEFTOVER}", unused_since)


class S3Store:
    """A bucket and prefix, with a cache: files never change, so a cached copy is right for ever."""

    def __init__(self, url: str, cache_dir: Path) -> None:
        self._bucket = Bucket(url)
        self._cache_dir = cache_dir / hashlib.sha256(url.encode()).hexdigest()[:16]

    def put_all(self, files: Sequence[tuple[LakeFile, LakeDraft]]) -> None:
        with ThreadPoolExecutor(_FILES_AT_ONCE, thread_name_prefix="lake") as pool:
            _all_of(pool.map(self._put, files))

    def _put(self, file_and_draft: tuple[LakeFile, LakeDraft]) -> None:
        file, draft = file_and_draft
        try:
            self._bucket.put_once(file.uri, draft.local_file, sha256=file.sha256)
        except ObjectConflictError as error:
            raise _conflict(file.uri) from error

    def fetch(self, uri: str) -> Path:
        cached = self._cache_dir / uri
        if cached.is_file():
            os.utime(cached)  # sweep keeps what is in use
            return cached
        try:
            downloaded = self._bucket.download(uri, self._cache_dir)
        except ObjectNotFoundError as error:
            raise _missing(uri) from error
        cached.parent.mkdir(parents=True, exist_ok=True)
        os.replace(downloaded, cached)
        return cached

    def holds(self, uri: str) -> bool:
        return self._bucket.holds(uri)

    def files(self) -> Iterator[StoredFile]:
        return (
            StoredFile(uri=found.key, size_bytes=found.size_bytes, modified_at=found.modified_at)
            for found in self._bucket.list()
        )

    def remove(self, uri: str) -> None:
        self._bucket.delete(uri)
        (self._cache_dir / uri).unlink(missing_ok=True)

    def sweep(self, unused_since: datetime) -> int:
        return _delete_older(self._cache_dir, "*", unused_since)


def _lake_file(draft: LakeDraft) -> LakeFile:
    return LakeFile(
        uri=f"{draft.dataset}/day={draft.partition.isoformat()}/gen={draft.generation}.parquet",
        sha256=draft.sha256 or _sha256(draft.local_file),
        size_bytes=draft.local_file.stat().st_size,
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _all_of(results: Iterable[None]) -> None:
    """Wait for work in other threads and raise what went wrong first."""
    for _ in results:
        pass


def _checked(uri: str) -> str:
    if not _URI.fullmatch(uri):
        raise _bad_name(repr(uri))
    return uri


def _bad_name(name: str) -> LakeNameError:
    return LakeNameError(
        f"not a name in the lake: {name}",
        bill="nothing was read or written",
        fix="names look like core/request_records/day=2026-03-01/gen=<letters, digits, . _ ->.parquet",
    )


def _conflict(uri: str) -> LakeConflictError:
    return LakeConflictError(
        f"{uri} exists in the lake with other content",
        bill="the file there stands; what was billed from it stays explained",
        fix="publish the new content as a new generation",
    )


def _missing(uri: str) -> LakeFileMissingError:
    return LakeFileMissingError(
        f"{uri} is not in the lake",
        bill="usage cannot be rebuilt from it; rows in PostgreSQL stand",
        fix="check BILLING_LAKE_URL, restore the file from a backup, or ingest its delivery day again",
    )


def _make_folders(folder: Path) -> list[Path]:
    """Create `folder` with its parents; return those that did not exist."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _bring_durably(draft: LakeDraft, target: Path) -> None:
    """Move a file that was made for the lake, copy another one, and wait until the disk has it."""
    if draft.sha256 is None or not _is_moved(draft.local_file, target):
        with draft.local_file.open("rb") as opened, target.open("xb") as written:
            shutil.copyfileobj(opened, written, 4 << 20)
    with target.open("rb+") as written:
        os.fchmod(written.fileno(), 0o644)
        os.fsync(written.fileno())


def _is_moved(source: Path, target: Path) -> bool:
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False
    return True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _delete_older(root: Path, pattern: str, before: datetime) -> int:
    count = 0
    for path in root.rglob(pattern):
        # Another process may sweep as well: what is gone is gone.
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and path.stat().st_mtime < before.timestamp():
                path.unlink()
                count += 1
    return count
