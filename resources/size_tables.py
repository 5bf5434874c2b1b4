"""Read a ready table of repositories' sizes, whole: each instant in it is a snapshot.

Not here: formats (table_reader), what a row may say (billing_pipeline/sources/storage_table).
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import pyarrow as pa

from billing_pipeline.records import LineCounts
from billing_pipeline.sources.personal_names import Pseudonymise
from billing_pipeline.sources.storage_reasons import StorageReason
from billing_pipeline.sources.storage_table import SizeRow, read_size_row
from resources.delivery_manifest import Reject
from resources.inventory_reader import ReadSnapshot, SnapshotFile
from resources.storage_files import refused
from resources.table_reader import read_table


def read_size_table(path: Path, *, as_of: datetime, pseudonymise: Pseudonymise | None) -> SnapshotFile:
    """Return the snapshots of a table. A repository twice in one is counted once, and refuses the file when it says two things.

    `pseudonymise` None: rows with an e-mail address in a name are refused.

    Raises:
        Refused: the file cannot be read, or contradicts itself.
    """
    by_instant: dict[datetime, dict[str, SizeRow]] = {}
    rejects: list[Reject] = []
    read = repeated = 0
    for position, fields in read_table(path):
        read += 1
        row = read_size_row(fields, as_of=as_of, pseudonymise=pseudonymise) if isinstance(fields, Mapping) else fields
        if not isinstance(row, SizeRow):
            rejects.append((position, str(row[0]), row[1], None))
            continue
        known = by_instant.setdefault(row.snapshot_at, {}).setdefault(row.repository, row)
        if known != row:
            raise refused(
                StorageReason.CONFLICTING_ROWS, f"row {position} says another thing of its repository than a row before"
            )
        repeated += known is not row
    counts = LineCounts(
        lines_read=read,
        accepted=read - repeated - len(rejects),
        rejected=len(rejects),
        duplicate=repeated,
        out_of_scope=0,
    )
    snapshots = tuple(_snapshot(instant, list(rows.values())) for instant, rows in sorted(by_instant.items()))
    return SnapshotFile(snapshots=snapshots, counts=counts, rejects=tuple(rejects))


def _snapshot(instant: datetime, rows: list[SizeRow]) -> ReadSnapshot:
    return ReadSnapshot(
        snapshot_at=instant,
        rows=pa.table(
            {
                "repository": pa.array([row.repository for row in rows], pa.string()),
                "owner": pa.array([row.owner for row in rows], pa.string()),
                "visibility": pa.array([row.visibility for row in rows], pa.string()),
                "bytes": pa.array([row.bytes for row in rows], pa.int64()),
                "object_count": pa.array([row.object_count for row in rows], pa.int64()),
            }
        ),
        objects=None,
        total_bytes=sum(row.bytes for row in rows),
        unassigned_objects=0,
        unassigned_bytes=0,
    )
