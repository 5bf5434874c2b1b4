"""A small delivered table as rows of named values: JSON lines, CSV with a header, or Parquet, told apart by content.

Positions, from 1: line of JSON lines, row of CSV after the header, row of Parquet. A line that is no object is (reason, field).
Not here: what the values mean (billing_pipeline/sources).
"""

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from billing_pipeline.records import Reason
from billing_pipeline.sources.storage_reasons import StorageReason
from billing_pipeline.sources.visibility_events import json_fields
from resources.storage_files import content_of, refused

PARQUET_MAGIC = b"PAR1"
BATCH_ROWS = 65_536

Row = Mapping[str, Any] | tuple[str, str | None]


def read_table(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield (position, values by column, or why the line has none).

    Raises:
        Refused: the file is empty, broken, or none of the three.
    """
    with path.open("rb") as file:
        magic = file.read(len(PARQUET_MAGIC))
    if magic == PARQUET_MAGIC:
        return _parquet_rows(path)
    content = content_of(path).removeprefix(b"\xef\xbb\xbf")
    if content.lstrip()[:1] == b"{":
        return _json_rows(content)
    return _csv_rows(content)


def _json_rows(content: bytes) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            yield number, json_fields(line)


def _csv_rows(content: bytes) -> Iterator[tuple[int, Row]]:
    try:
        reader = csv.DictReader(io.StringIO(content.decode("utf-8"), newline=""), strict=True)
        names = reader.fieldnames or []
        if len(set(names)) != len(names):
            raise refused(StorageReason.SCHEMA, "a column is named twice")
        for number, row in enumerate(reader, 1):
            if None in row or None in row.values():
                yield number, (StorageReason.COLUMN_COUNT, None)
            else:
                yield number, row
    except UnicodeDecodeError as error:
        raise refused(Reason.ENCODING, "the file is not UTF-8") from error
    except csv.Error as error:
        raise refused(StorageReason.SCHEMA, "neither JSON lines nor CSV nor Parquet") from error


def _parquet_rows(path: Path) -> Iterator[tuple[int, Row]]:
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as opened:
            for batch in opened.iter_batches(BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pa.ArrowException, OSError) as error:
        raise refused(StorageReason.SCHEMA, "the file cannot be read as Parquet") from error
