"""Rows of single delivered files out of a published generation: lake file and file id -> tables, in the order of the file.

Row groups are told apart by their statistics of `file_id`, read once: a day of many small files costs no search for each.
Not here: which files are taken over (request_day_reader), writing them anew (request_sink).
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from resources.request_reader import RECORD_SCHEMA

_FILE = "file_id"


class GenerationRows:
    """A generation of one delivery day, open until `close`."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path)
        self._groups_of: defaultdict[int, list[int]] = defaultdict(list)
        # Of several files, or nobody knows of which.
        self._mixed: list[int] = []
        metadata = self._file.metadata
        column = metadata.schema.names.index(_FILE)
        for group in range(metadata.num_row_groups):
            statistics = metadata.row_group(group).column(column).statistics
            if statistics is not None and statistics.has_min_max and statistics.min == statistics.max:
                self._groups_of[statistics.min].append(group)
            else:
                self._mixed.append(group)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def rows_of(self, file_id: int) -> Iterator[pa.Table]:
        """Yield the rows of a delivered file as tables of RECORD_SCHEMA, a row group at a time; none is empty."""
        for group in sorted((*self._groups_of.get(file_id, ()), *self._mixed)):
            rows = self._file.read_row_group(group, columns=[*RECORD_SCHEMA.names, _FILE], use_threads=False)
            rows = rows.filter(pc.equal(rows.column(_FILE), file_id))
            if rows.num_rows:
                yield rows.select(RECORD_SCHEMA.names).cast(RECORD_SCHEMA)
