"""The landing place: a folder or `s3://bucket/prefix` to which log files are delivered. Read only.

A key is the path below the landing URL, '/' separated. A file that appears while `list` runs is listed or found next
time; a file that changes while it is read raises, so a half-written file is never taken for a whole one.
Not here: what is in the files (inflate, avro), which were seen before (request_store).
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Protocol

from billing_pipeline.errors import BillingError
from resources.object_store import Bucket, ObjectChangedError, ObjectNotFoundError, is_s3_url


class LandingNotFoundError(BillingError):
    """The landing place, or the folder of a source in it, does not exist or may not be read."""


class LandingKeyError(BillingError):
    """A key or symbolic link leads out of the landing place or in a circle, is no UTF-8, or is no file at all."""


class LandingFileChangedError(BillingError):
    """The file changed or vanished while it was read. Nothing of it was taken; the next run reads it again."""

    def __init__(self, key: str) -> None:
        super().__init__(
            f"{key} changed while it was read",
            bill="nothing of this file was taken; it is read again by the next run",
            fix="deliver under a temporary name ('.name' or 'name.part') and rename when the file is complete",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LandingFile:
    """One delivered file. `modified_at` is aware UTC, by the clock of the store."""

    key: str
    size_bytes: int
    modified_at: datetime


class Landing:
    """The files below `url`, a folder or `s3://bucket/prefix`. S3 objects are downloaded below `scratch_dir`."""

    def __init__(self, url: str, scratch_dir: Path) -> None:
        self._arguments = url, scratch_dir
        self._place: _Place = S3Landing(url, scratch_dir) if is_s3_url(url) else LocalLanding(Path(url))

    def __reduce__(self) -> tuple[object, ...]:
        # In another process it is connected anew.
        return Landing, self._arguments

    def list(self, prefix: str = "") -> Iterator[LandingFile]:
        """Yield the files whose key starts with `prefix`, sorted by key.

        Names (of files and folders) that start with '.' or '_' and files that end in '.tmp' or '.part' are ignored.

        Raises:
            LandingNotFoundError: no such folder or bucket, or no permission. An S3 prefix without objects is empty, not
                missing: S3 has no folders.
            LandingKeyError: a symbolic link leaves the folder or leads in a circle, a name is not UTF-8, or something is neither
                file nor folder.
        """
        return self._place.list(prefix)

    @contextmanager
    def fetched(self, key: str) -> Iterator[Path]:
        """Provide a local path with the bytes of `key`; what is downloaded is removed afterwards.

        Raises:
            LandingFileChangedError: the file changed or vanished meanwhile; also in place of what the body raised,
                because half a file explains any error in its content.
        """
        with self._place.fetched(key) as path:
            yield path


class _Place(Protocol):
    def list(self, prefix: str) -> Iterator[LandingFile]: ...
    @contextmanager
    def fetched(self, key: str) -> Iterator[Path]: ...


class LocalLanding:
    """A folder. Read in place."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def list(self, prefix: str) -> Iterator[LandingFile]:
        root = self._resolved_root()
        folder = self._inside(root, prefix.rpartition("/")[0])
        first = prefix.rpartition("/")[2]
        if not folder.is_dir() or (first and not any(name.startswith(first) for name in os.listdir(folder))):
            raise _not_found(str(root / prefix), "there is no such folder")
        return (file for file in self._walk(root, folder) if file.key.startswith(prefix))

    @contextmanager
    def fetched(self, key: str) -> Iterator[Path]:
        path = self._inside(self._resolved_root(), key)
        before = _identity(path)
        if before is None:
            raise LandingFileChangedError(key)
        try:
            yield path
        except Exception as error:
            if _identity(path) != before:
                raise LandingFileChangedError(key) from error
            raise
        if _identity(path) != before:
            raise LandingFileChangedError(key)

    def _resolved_root(self) -> Path:
        if not self._root.is_dir():
            raise _not_found(str(self._root), "there is no such folder")
        return self._root.resolve()

    def _inside(self, root: Path, key: str) -> Path:
        """Return the path of `key`; symbolic links in it must stay inside `root`."""
        path = root / key
        resolved = self._followed(root, key)
        if ".." in PurePosixPath(key).parts or key.startswith("/") or not resolved.is_relative_to(root):
            raise LandingKeyError(
                f"{key!r} leads out of the landing folder {root}",
                bill="nothing was read from it",
                fix="put the file itself into the landing folder instead of a symbolic link",
            )
        return path

    def _followed(self, root: Path, key: str) -> Path:
        """Return where `key` leads, whether there is anything or not."""
        path = root / key
        try:
            return path.resolve(strict=True)
        except (OSError, RuntimeError) as error:
            # Of links in a circle Python says one or the other, by its version.
            if isinstance(error, OSError) and error.errno != errno.ELOOP:
                return path.resolve()
            raise LandingKeyError(
                f"{key!r} in the landing folder {root} is a symbolic link that leads in a circle",
                bill="no log file of this folder was read; what was billed before stands",
                fix="remove the link, or put the file itself in its place",
            ) from error

    def _walk(self, root: Path, folder: Path) -> Iterator[LandingFile]:
        """Yield files in order of key. A linked folder is not entered: its files have keys of their own."""
        try:
            with os.scandir(folder) as entries:
                found = [entry for entry in entries if not _ignored(entry.name)]
        except PermissionError as error:
            raise _not_found(str(folder), "this user may not read it") from error
        for entry in sorted(found, key=_sort_key):
            path = Path(entry.path)
            key = _key(path, root)
            if entry.is_symlink():
                self._inside(root, key)
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(root, path)
                continue
            try:
                stat = entry.stat()
            except FileNotFoundError:
                continue  # removed since, or a dangling link: there is nothing to read
            if entry.is_file():
                modified_at = datetime.fromtimestamp(stat.st_mtime, UTC)
                yield LandingFile(key=key, size_bytes=stat.st_size, modified_at=modified_at)
            elif not entry.is_dir():
                # To open a pipe without a writer would wait forever; to pass over it would lose what it was to bring.
                raise LandingKeyError(
                    f"{key!r} in the landing folder {root} is a pipe, a socket or a device, and no file",
                    bill="no log file of this folder was read; what was billed before stands",
                    fix="remove it, and deliver what it was to bring as a file",
                )


class S3Landing:
    """A bucket and prefix. A downloaded object is one version of it, whole."""

    def __init__(self, url: str, scratch_dir: Path) -> None:
        self._bucket = Bucket(url)
        self._scratch_dir = scratch_dir

    def list(self, prefix: str) -> Iterator[LandingFile]:
        for found in self._bucket.list(prefix):
            if not found.key.endswith("/") and not any(_ignored(name) for name in found.key.split("/")):
                yield LandingFile(key=found.key, size_bytes=found.size_bytes, modified_at=found.modified_at)

    @contextmanager
    def fetched(self, key: str) -> Iterator[Path]:
        try:
            path = self._bucket.download(key, self._scratch_dir / "landing")
        except (ObjectChangedError, ObjectNotFoundError) as error:
            raise LandingFileChangedError(key) from error
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


def _not_found(place: str, why: str) -> LandingNotFoundError:
    return LandingNotFoundError(
        f"cannot list the landing place {place}: {why}",
        bill="no log file was read; what was billed before stands",
        fix="create it, or correct BILLING_LANDING_URL or the source's folder in sources.toml",
    )


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _ignored(name: str) -> bool:
    return name.startswith((".", "_")) or name.endswith((".tmp", ".part"))


def _sort_key(entry: "os.DirEntry[str]") -> str:
    """Return the name as it stands in keys, so that folder by folder gives the order of whole keys."""
    return entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name


def _key(path: Path, root: Path) -> str:
    key = path.relative_to(root).as_posix()
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise LandingKeyError(
            f"the name of {key!r} is not UTF-8",
            bill="no log file was read",
            fix="rename the file",
        ) from error
    return key
