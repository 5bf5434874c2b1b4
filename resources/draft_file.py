"""A file that is being written to be published: hashed on the way, and on its way to the disk before the last byte is there.

Half a gigabyte takes a disk as long as it takes us to make it; to wait for it only at the end would double the time.
Not here: publishing it, and the last wait (lake).
"""

import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

# Smaller files are left to the last wait, which is for many of them at once.
BYTES_AT_ONCE = 32 << 20


class DraftFile:
    """A file open for writing, for one thread. `close` it; what went wrong on the disk is raised by a later call."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._hash = hashlib.sha256()
        self._size_bytes = self._begun_bytes = 0
        self._disk: ThreadPoolExecutor | None = None
        self._waiting: Future[None] | None = None

    @property
    def closed(self) -> bool:
        """Return whether the file is closed."""
        return self._file.closed

    @property
    def sha256(self) -> str:
        """Return the hex digest of what was written."""
        return self._hash.hexdigest()

    def write(self, data: bytes | memoryview) -> int:
        """Append `data`."""
        written = self._file.write(data)
        self._hash.update(data)
        self._size_bytes += written
        if self._size_bytes - self._begun_bytes >= BYTES_AT_ONCE and (self._waiting is None or self._waiting.done()):
            self._raise_failures()
            self._file.flush()
            self._begun_bytes = self._size_bytes
            self._disk = self._disk or ThreadPoolExecutor(max_workers=1, thread_name_prefix="disk")
            self._waiting = self._disk.submit(os.fsync, self._file.fileno())
        return written

    def flush(self) -> None:
        """Hand everything to the system."""
        self._file.flush()

    def close(self) -> None:
        """Close the file; that all of it is on the disk is not said by this."""
        if self._disk is not None:
            self._disk.shutdown(wait=True)
        self._file.close()
        self._raise_failures()

    def _raise_failures(self) -> None:
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting.result()
