"""Folders for a run's files: in memory where there is some, so that a disk is not asked to make and delete a million files.

A test empties its database by making each filled table's files anew. ext4 without a journal looks for a free inode among all that
were deleted in the last minutes: half the processors' time of a whole run went there. `TMPDIR`, when set, is kept.
"""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MEMORY = Path("/dev/shm")
# What four processes of a run need at most, several times over.
FREE_BYTES = 4 << 30
PREFIX = "billing-tests-"
# As long may a folder be without its lock.
YOUNG_SECONDS = 60


def place() -> Path:
    """Return where folders of a run are made."""
    if not os.environ.get("TMPDIR") and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= FREE_BYTES:
        return MEMORY
    return Path(tempfile.gettempdir())


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Provide a folder that every user may enter: the server does not run as root. Folders of killed runs are removed."""
    _sweep(parent)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _sweep(parent: Path) -> None:
    """Remove folders that no process holds. A server that was left in one ends when it misses its files."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):
            lock = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - folder.stat().st_mtime > YOUNG_SECONDS:
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
