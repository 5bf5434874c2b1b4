"""Read one S3 Inventory, whole: manifest, checksum, data files in CSV, Parquet or ORC -> sums of repositories, index of objects.

Every row is listed once, is of a repository, out of scope, or refused. Any file that is missing or not what the manifest says
refuses the snapshot. Not here: whether it may jump so far (snapshot_ingest).
"""

import codecs
import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

import duckdb
import pyarrow as pa
import pyarrow.orc
import pyarrow.parquet

from billing_pipeline.records import LineCounts, Reason
from billing_pipeline.sources.personal_names import Pseudonymise
from billing_pipeline.sources.s3_inventory import (
    COLUMNS,
    InventoryFile,
    InventoryManifest,
    ObjectRow,
    csv_row,
    object_row,
)
from billing_pipeline.sources.storage_profile import LARGEST_BYTES, StorageProfile, object_id
from billing_pipeline.sources.storage_reasons import StorageReason
from resources.delivery_manifest import Reject
from resources.duck import sql
from resources.inflate import FileRejected, inflated, sniff
from resources.storage_files import DataFiles, refused

BATCH_ROWS = 65_536
# A row of which nothing can be made: (reason, field).
BadRow = tuple[str, str]

_LISTED = pa.schema(
    [
        ("repository", pa.string()),
        ("owner", pa.string()),
        ("object_id", pa.string()),
        ("version_id", pa.string()),
        ("is_latest", pa.bool_()),
        ("is_delete_marker", pa.bool_()),
        ("bytes", pa.int64()),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadSnapshot:
    """One snapshot of a file. `rows`: repository, owner, visibility, bytes, object_count; `objects`: the index, when it is kept.

    `bucket`: which was listed; null for a ready table.
    """

    snapshot_at: datetime
    rows: pa.Table
    objects: pa.Table | None
    total_bytes: int
    unassigned_objects: int
    unassigned_bytes: int
    bucket: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotFile:
    """What a delivered file holds: one snapshot of an inventory, any number of a table."""

    snapshots: tuple[ReadSnapshot, ...]
    counts: LineCounts
    rejects: tuple[Reject, ...]


@dataclass(slots=True, kw_only=True)
class _Tally:
    """Rows as they are read. `position` counts over all data files in the manifest's order."""

    position: int = 0
    listed: int = 0
    unassigned_objects: int = 0
    unassigned_bytes: int = 0
    rejects: list[Reject] = field(default_factory=list)


def read_inventory(
    manifest: InventoryManifest,
    manifest_key: str,
    *,
    profile: StorageProfile,
    data_files: DataFiles,
    connection: duckdb.DuckDBPyConnection,
    keep_objects: bool,
    pseudonymise: Pseudonymise | None = None,
) -> SnapshotFile:
    """Return the snapshot of an inventory. `pseudonymise` None: rows of names with an e-mail address are refused.

    Raises:
        Refused: a data file is missing, is not what the manifest says, cannot be read, or contradicts itself.
    """
    connection.execute("drop table if exists listed")
    connection.register("empty_listed", _LISTED.empty_table())
    connection.execute("create temp table listed as select * from empty_listed")
    connection.unregister("empty_listed")
    tally = _Tally()
    for data_file in manifest.files:
        with data_files.fetched(
            manifest_key, data_file.key, size_bytes=data_file.size_bytes, md5=data_file.md5
        ) as path:
            for rows in _batches(_rows(path, data_file, manifest, profile)):
                _list(connection, rows, profile, tally, pseudonymise)
    snapshot, repeated = _snapshot(connection, manifest, profile, tally, keep_objects=keep_objects)
    accepted = sum(snapshot.rows["object_count"].to_pylist())
    rejected = len(tally.rejects)
    counts = LineCounts(
        lines_read=tally.position,
        accepted=accepted,
        rejected=rejected,
        duplicate=repeated,
        out_of_scope=tally.listed - repeated - accepted + tally.unassigned_objects,
    )
    return SnapshotFile(snapshots=(snapshot,), counts=counts, rejects=tuple(tally.rejects))


def _list(
    connection: duckdb.DuckDBPyConnection,
    rows: list[ObjectRow | BadRow],
    profile: StorageProfile,
    tally: _Tally,
    pseudonymise: Pseudonymise | None,
) -> None:
    """Put a batch of rows into `listed`, and count what does not go there."""
    columns: list[list[object]] = [[] for _ in _LISTED]
    for row in rows:
        tally.position += 1
        if not isinstance(row, ObjectRow):
            tally.rejects.append((tally.position, str(row[0]), row[1], None))
            continue
        belonging = profile.belonging(row.key)
        if belonging is None:
            tally.unassigned_objects += 1
            if row.is_latest or profile.bytes_sold == "all_versions":
                tally.unassigned_bytes += row.bytes
            continue
        kept = belonging.kept(pseudonymise)
        if kept is None:
            tally.rejects.append((tally.position, StorageReason.PERSONAL_NAME, "key", None))
            continue
        values = (
            kept.repository, kept.owner, object_id(row.bucket, row.key), row.version_id, row.is_latest,
            row.is_delete_marker, row.bytes,
        )  # fmt: skip
        for column, value in zip(columns, values, strict=True):
            column.append(value)
    tally.listed += len(columns[0])
    batch = pa.table(
        [pa.array(column, kind.type) for column, kind in zip(columns, _LISTED, strict=True)], schema=_LISTED
    )
    connection.register("listed_batch", batch)
    connection.execute("insert into listed select * from listed_batch")
    connection.unregister("listed_batch")


def _snapshot(
    connection: duckdb.DuckDBPyConnection,
    manifest: InventoryManifest,
    profile: StorageProfile,
    tally: _Tally,
    *,
    keep_objects: bool,
) -> tuple[ReadSnapshot, int]:
    connection.execute(sql("listed_versions"))
    ((versions, latest, repeated),) = connection.execute(sql("listed_conflicts")).fetchall()
    if versions or latest:
        raise refused(
            StorageReason.CONFLICTING_ROWS,
            f"{versions} versions are listed with different contents, {latest} objects with more than one latest version",
        )
    parameters = {"all_versions": profile.bytes_sold == "all_versions"}
    sums = connection.execute(sql("listed_repositories"), parameters).fetchall()
    total = sum(row[2] for row in sums)
    if max((row[2] for row in sums), default=0) > LARGEST_BYTES:
        raise refused(Reason.OUT_OF_RANGE, "a repository has more than 2^63-1 bytes")
    rows = pa.table(
        {
            "repository": pa.array([row[0] for row in sums], pa.string()),
            "owner": pa.array([row[1] for row in sums], pa.string()),
            "visibility": pa.nulls(len(sums), pa.string()),
            "bytes": pa.array([int(row[2]) for row in sums], pa.int64()),
            "object_count": pa.array([row[3] for row in sums], pa.int64()),
        }
    )
    objects = connection.sql(sql("listed_objects"), params=parameters).to_arrow_table() if keep_objects else None
    connection.execute("drop table listed; drop table listed_versions")
    snapshot = ReadSnapshot(
        snapshot_at=manifest.snapshot_at,
        rows=rows,
        objects=objects,
        total_bytes=int(total),
        unassigned_objects=tally.unassigned_objects,
        unassigned_bytes=tally.unassigned_bytes,
        bucket=manifest.source_bucket,
    )
    return snapshot, repeated


def _batches(rows: Iterator[ObjectRow | BadRow]) -> Iterator[list[ObjectRow | BadRow]]:
    batch = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def _rows(
    path: Path, file: InventoryFile, manifest: InventoryManifest, profile: StorageProfile
) -> Iterator[ObjectRow | BadRow]:
    match manifest.file_format:
        case "CSV":
            return _csv_rows(path, file, manifest.columns, profile.plus_in_csv_keys)
        case "Parquet":
            return _table_rows(_parquet_batches(path, file), file)
        case "ORC":
            return _table_rows(_orc_batches(path, file), file)


def _csv_rows(
    path: Path, file: InventoryFile, columns: tuple[str | None, ...], plus: Literal["space", "plus"]
) -> Iterator[ObjectRow | BadRow]:
    try:
        for cells in csv.reader(_text_lines(path), strict=True):
            if len(cells) != len(columns):
                raise refused(
                    StorageReason.COLUMN_COUNT,
                    f"a row of {file.key} has {len(cells)} columns, the manifest's schema {len(columns)}",
                )
            yield csv_row(cells, columns, plus=plus)
    except FileRejected as rejection:
        raise refused(rejection.reason, f"{file.key}: {rejection.detail}") from rejection
    except UnicodeDecodeError as error:
        raise refused(Reason.ENCODING, f"{file.key} is not UTF-8") from error
    except csv.Error as error:
        raise refused(StorageReason.SCHEMA, f"{file.key} is not CSV") from error


def _text_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a packed text file with their ends; a byte order mark at its start is left out."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    rest = ""
    if path.stat().st_size == 0:
        return
    for block in inflated(path, sniff(path).compression):
        lines = (rest + decoder.decode(block)).split("\n")
        rest = lines.pop()
        yield from (line + "\n" for line in lines)
    rest += decoder.decode(b"", final=True)
    if rest:
        yield rest


def _parquet_batches(path: Path, file: InventoryFile) -> Iterator[pa.RecordBatch]:
    try:
        with pyarrow.parquet.ParquetFile(path) as opened:
            wanted = _wanted(opened.schema_arrow.names, file)
            yield from opened.iter_batches(BATCH_ROWS, columns=wanted)
    except (pa.ArrowException, OSError) as error:
        raise refused(StorageReason.SCHEMA, f"{file.key} cannot be read as Parquet") from error


def _orc_batches(path: Path, file: InventoryFile) -> Iterator[pa.RecordBatch]:
    try:
        opened = pyarrow.orc.ORCFile(path)
        wanted = _wanted(opened.schema.names, file)
        for stripe in range(opened.nstripes):
            yield opened.read_stripe(stripe, columns=wanted)
    except (pa.ArrowException, OSError) as error:
        raise refused(StorageReason.SCHEMA, f"{file.key} cannot be read as ORC") from error


def _wanted(names: list[str], file: InventoryFile) -> list[str]:
    wanted = [COLUMNS[name][1] for name in ("bucket", "key", "version_id", "is_latest", "is_delete_marker", "size")]
    if not {"bucket", "key", "size"} <= set(names):
        raise refused(StorageReason.SCHEMA, f"{file.key} lacks bucket, key or size")
    return [name for name in wanted if name in names]


def _table_rows(batches: Iterator[pa.RecordBatch], file: InventoryFile) -> Iterator[ObjectRow | BadRow]:
    for batch in batches:
        absent = [None] * batch.num_rows
        columns = {name: batch[name].to_pylist() for name in batch.schema.names}
        if not pa.types.is_integer(batch["size"].type):
            raise refused(StorageReason.SCHEMA, f"the sizes in {file.key} are not whole numbers")
        for bucket, key, version_id, is_latest, is_marker, size in zip(
            columns["bucket"],
            columns["key"],
            columns.get("version_id", absent),
            columns.get("is_latest", [True] * batch.num_rows),
            columns.get("is_delete_marker", absent),
            columns["size"],
            strict=True,
        ):
            if is_latest is None:
                yield Reason.BAD_VALUE, "is_latest"
            else:
                yield object_row(bucket, key, version_id, is_latest=is_latest, is_marker=bool(is_marker), size=size)
