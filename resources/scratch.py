"""The scratch folder: what a process needs while it works. What a process that was killed has left there goes a day later.

Not here: the lake's cache below it (lake), who makes what.
"""

import contextlib
import shutil
from datetime import datetime
from pathlib import Path

# Parquet files and hashes being written, downloaded log files, DuckDB's spill folders.
_LEFTOVERS = ("ingest-*", "landing/*", "duckdb-*")


def sweep_scratch(scratch_dir: Path, *, unused_since: datetime) -> int:
    """Delete leftovers that nobody has written to since then, and return how many."""
    count = 0
    for pattern in _LEFTOVERS:
        for path in scratch_dir.glob(pattern):
            # Another process may sweep as well: what is gone is gone.
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < unused_since.timestamp():
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                    count += 1
    return count
