"""Say clearly what a disk refused: full, read-only, not ours. Not here: who writes what (lake, request_store, usage_store)."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from billing_pipeline.errors import BillingError

_AGAIN = "then run the same command again."
_CAUSES = {
    errno.ENOSPC: ("there is no space left on the disk", f"free space or enlarge the disk, {_AGAIN}"),
    errno.EDQUOT: ("this user's quota of the disk is used up, there is no space left", f"free space, {_AGAIN}"),
    errno.EFBIG: ("the file is larger than this user or disk allows", f"raise the limit (ulimit -f), {_AGAIN}"),
    errno.EROFS: ("the disk is read-only", f"mount it for writing, {_AGAIN}"),
    errno.EACCES: ("this user has no permission", f"give this user the right to read and write there, {_AGAIN}"),
    errno.EPERM: ("this user has no permission", f"give this user the right to read and write there, {_AGAIN}"),
    errno.ENOTDIR: ("a part of the path is a file", "name a folder in BILLING_HOME or BILLING_LAKE_URL"),
    errno.EEXIST: ("a file stands where a folder should be", "name a folder in BILLING_HOME or BILLING_LAKE_URL"),
}


class DiskError(BillingError):
    """A file cannot be written where this installation keeps its files."""


@contextmanager
def disk_failures_explained(place: Path) -> Iterator[None]:
    """Turn what a disk refuses inside the block into one error; `place` is named where the refusal names no file.

    Raises:
        DiskError: no space, read-only, no permission, or a file where a folder should be.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _CAUSES:
            raise
        raise _refused(error.errno, str(error.filename or place)) from error
    except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
        # DuckDB has no code for the cause; it repeats what the system said.
        if "No space left" not in str(error) and "max_temp_directory_size" not in str(error):
            raise
        raise _refused(errno.ENOSPC, str(place)) from error


def _refused(number: int, path: str) -> DiskError:
    cause, fix = _CAUSES[number]
    return DiskError(
        f"{path} cannot be written: {cause}",
        bill="nothing of this step was published or booked; what was there before is unchanged.",
        fix=fix,
    )
