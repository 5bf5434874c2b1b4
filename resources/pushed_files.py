"""Keep what is pushed: bytes -> one durable file below the landing place, once, in a folder or a bucket.

Whole or not at all: written under a hidden name, synced, renamed, and the folders synced, before the caller answers. Killed
anywhere, the same bytes again end in the same one file. Not here: what is in them, how a file is named (traffic_receipts,
request_receipts).
"""

import contextlib
import os
import tempfile
import threading
from pathlib import Path

from resources.disk import disk_failures_explained
from resources.object_store import Bucket, is_s3_url


class PushedFiles:
    """The landing place, as far as this process writes to it. Safe to use from several threads.

    `landing_url` is a folder or `s3://bucket/prefix`; what goes to a bucket is written below `scratch_dir` first.
    """

    def __init__(self, landing_url: str, scratch_dir: Path) -> None:
        self._root = None if is_s3_url(landing_url) else Path(landing_url)
        self._bucket = Bucket(landing_url) if self._root is None else None
        self._scratch_dir = scratch_dir
        # Of two who bring the same bytes at once, the second finds the first's file and does not replace it.
        self._writing = threading.Lock()

    def keep(self, key: str, content: bytes, *, sha256: str) -> bool:
        """Return when `content` is on durable storage as `key`; False when it was there already.

        `key` must be a function of `content`, whose hex digest `sha256` is.

        Raises:
            DiskError, ObjectStoreError: it cannot be kept.
        """
        if self._root is None:
            return self._put(key, content, sha256)
        with disk_failures_explained(self._root), self._writing:
            return _write(self._root, self._root / key, content)

    def holds(self, key: str) -> bool:
        """Return whether there is such a file.

        Raises:
            DiskError, ObjectStoreError: nobody can tell.
        """
        if self._root is None:
            return self._opened().holds(key)
        with disk_failures_explained(self._root):
            return (self._root / key).exists()

    def _opened(self) -> Bucket:
        assert self._bucket is not None
        return self._bucket

    def _put(self, key: str, content: bytes, sha256: str) -> bool:
        bucket = self._opened()
        if bucket.holds(key):
            return False
        self._scratch_dir.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=self._scratch_dir, prefix="ingest-pushed-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            bucket.put_once(key, Path(name), sha256=sha256)
        finally:
            Path(name).unlink(missing_ok=True)
        return True


def _write(root: Path, target: Path, content: bytes) -> bool:
    """Write whole or not at all, and durably: the bytes, the name, and the folders that are new."""
    is_new = not target.exists()
    folders = [target.parent, *(folder for folder in target.parent.parents if folder.is_relative_to(root))]
    if is_new:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                os.fsync(file.fileno())
            os.replace(name, target)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise
    # Of a file that is there, too: whoever wrote it may have been killed between its name and this.
    for folder in folders:
        _sync(folder)
    return is_new


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
