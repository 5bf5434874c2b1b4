"""Write the accepted rows of a delivery day into one Parquet file without exact duplicates, in one pass and bounded memory.

A bit table over identity hashes tells a row that is certainly new, which is written at once, from one that may repeat an
earlier identity, which is set aside; at the end those few are compared exactly. Columns: docs/architecture.md, "The lake".
Not here: reading files (request_reader), publishing (lake).
"""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from resources.byte_windows import array_of, array_of_texts
from resources.draft_file import DraftFile
from resources.row_hashes import hashes_of
from resources.seen_identities import AsideRows, Hashes, HashFile, SeenHashes

LAKE_SCHEMA = pa.schema(
    [
        ("source", pa.dictionary(pa.int32(), pa.string())),
        ("event_id", pa.string()),
        ("event_at", pa.timestamp("us")),
        ("client_id", pa.dictionary(pa.int32(), pa.string())),
        ("method", pa.dictionary(pa.int32(), pa.string())),
        ("endpoint", pa.dictionary(pa.int32(), pa.string())),
        ("status_code", pa.int16()),
        ("response_time_us", pa.int64()),
        ("response_bytes", pa.int64()),
        ("is_simulated", pa.bool_()),
        ("file_id", pa.int64()),
        ("line_number", pa.int64()),
    ]
)
# Tables that wait for the worker: enough to keep it busy, few enough to keep memory flat.
TABLES_AHEAD = 2
# Fewer rows are written before a thread for it would have begun.
ROWS_FOR_A_WORKER = 20_000
IDENTITY = ("source", "event_id")
CONTENT = tuple(name for name in LAKE_SCHEMA.names if name not in (*IDENTITY, "file_id", "line_number"))
# UTC, without its zone, as the lake has it.
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC).replace(tzinfo=None)
_MICROSECONDS_PER_DAY = 86_400_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDay:
    """Rows of one file on one event day that the generation holds."""

    file_id: int
    event_day: date
    rows: int
    first_event_at: datetime
    last_event_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What the finished file holds. `sha256`: of its bytes. `conflicting_identities`: identities with several contents in it."""

    path: Path
    sha256: str
    rows: int
    conflicting_identities: int
    file_days: tuple[FileDay, ...]

    @property
    def event_days(self) -> Mapping[date, int]:
        """Return event day -> rows."""
        days: dict[date, int] = {}
        for entry in self.file_days:
            days[entry.event_day] = days.get(entry.event_day, 0) + entry.rows
        return days


class RequestSink:
    """A context manager; `add` tables of request_reader.RECORD_SCHEMA, then `finish` once.

    `in_thread`: many rows are judged and written in a thread, while the caller makes the next ones.
    """

    def __init__(self, path: Path, *, expected_rows: int, in_thread: bool = True) -> None:
        self._path = path
        self._seen = SeenHashes(expected_rows)
        # One worker, so that rows are judged and written in the order in which they are added.
        has_worker = in_thread and expected_rows > ROWS_FOR_A_WORKER
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="sink") if has_worker else None
        self._pending: deque[Future[None]] = deque()
        # Identities hardly ever repeat, so a dictionary of them is only work, and they hardly shrink; the other
        # texts are few and repeat always.
        self._file = DraftFile(path)
        self._footer: list[pq.FileMetaData] = []
        self._writer = pq.ParquetWriter(
            self._file,
            LAKE_SCHEMA,
            compression={name: "none" if name == "event_id" else "lz4" for name in LAKE_SCHEMA.names},
            use_dictionary=["source", "client_id", "method", "endpoint"],
            write_statistics=["event_at", "file_id", "line_number"],
            metadata_collector=self._footer,
        )
        self._hashes = HashFile(path.with_suffix(".hashes"))
        self._aside = AsideRows(path.with_suffix(".aside"), LAKE_SCHEMA)
        # Of what is written, for each part of it.
        self._counted: list[FileDay] = []

    def __enter__(self) -> "RequestSink":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._worker is not None:
                self._worker.shutdown(wait=True, cancel_futures=True)
            self._writer.close()
        finally:
            self._hashes.close()
            self._aside.close()
            self._file.close()

    def add(self, table: pa.Table, *, source: str, file_id: int, identities_repeat: bool) -> None:
        """Take rows of one file. `identities_repeat` is false where the identity is the position: nothing can repeat.

        Raises what went wrong with rows added before: work goes on behind the caller's back.
        """
        rows = _in_lake_form(table, source=source, file_id=file_id)
        if self._worker is None:
            self._take(rows, identities_repeat)
            return
        while len(self._pending) >= TABLES_AHEAD:
            self._pending.popleft().result()
        self._pending.append(self._worker.submit(self._take, rows, identities_repeat))

    def _take(self, rows: pa.Table, identities_repeat: bool) -> None:
        if identities_repeat:
            hashes = Hashes(
                identity=hashes_of(rows.select(IDENTITY).columns), content=hashes_of(rows.select(CONTENT).columns)
            )
            fresh = self._seen.are_new(hashes.identity)
            if not fresh.all():
                aside = ~fresh
                self._aside.append(rows.filter(array_of(aside)), hashes.where(aside))
                rows, hashes = rows.filter(array_of(fresh)), hashes.where(fresh)
            self._hashes.append(hashes)
        self._write(rows)

    def finish(self) -> Written:
        """Compare what was set aside with what is written, write what is not a duplicate, and close the file."""
        while self._pending:
            self._pending.popleft().result()
        conflicting = self._settle() if self._aside.hashes else 0
        self._writer.close()
        self._file.close()
        return Written(
            path=self._path,
            sha256=self._file.sha256,
            # What the file itself says, for the guard that holds it against what was counted on the way in.
            rows=self._footer[0].num_rows,
            conflicting_identities=conflicting,
            file_days=self._file_days(),
        )

    def _file_days(self) -> tuple[FileDay, ...]:
        parts: dict[tuple[int, date], list[FileDay]] = {}
        for part in self._counted:
            parts.setdefault((part.file_id, part.event_day), []).append(part)
        return tuple(
            FileDay(
                file_id=file_id,
                event_day=day,
                rows=sum(part.rows for part in of_day),
                first_event_at=min(part.first_event_at for part in of_day),
                last_event_at=max(part.last_event_at for part in of_day),
            )
            for (file_id, day), of_day in sorted(parts.items())
        )

    def _settle(self) -> int:
        """Write the rows set aside that are no duplicates; return the identities that have several contents.

        Same identity and content: a duplicate, left out. Same identity, other content: kept, judged when its event day is built
        (request_identities.sql). Two 64-bit hashes must agree for a row to be left out.
        """
        aside = self._aside.hashes
        written = self._hashes.matching(np.concatenate([hashes.identity for hashes in aside]))
        identity = np.concatenate([written.identity, *(hashes.identity for hashes in aside)])
        content = np.concatenate([written.content, *(hashes.content for hashes in aside)])
        # Stable: of the same content, what is written comes first, then what was set aside first.
        order = np.lexsort((content, identity))
        identity, content = identity[order], content[order]
        is_first = np.ones(len(order), dtype=bool)
        is_first[1:] = (identity[1:] != identity[:-1]) | (content[1:] != content[:-1])
        new = order[is_first] - len(written.identity)
        kept = np.zeros(sum(len(hashes.identity) for hashes in aside), dtype=bool)
        kept[new[new >= 0]] = True
        for first, rows in self._aside.parts():
            self._write(rows.filter(array_of(kept[first : first + rows.num_rows])))
        contents_of = identity[is_first]
        return len(np.unique(contents_of[1:][contents_of[1:] == contents_of[:-1]]))

    def _write(self, rows: pa.Table) -> None:
        if rows.num_rows:
            self._writer.write_table(rows, row_group_size=rows.num_rows)
            self._counted += _counted(rows)


def _in_lake_form(table: pa.Table, *, source: str, file_id: int) -> pa.Table:
    rows = table.num_rows
    columns = {name: table.column(name) for name in table.column_names}
    columns["source"] = pa.DictionaryArray.from_arrays(
        array_of(np.zeros(rows, dtype=np.int32)), array_of_texts([source])
    )
    columns["file_id"] = array_of(np.full(rows, file_id))
    return pa.table({name: columns[name] for name in LAKE_SCHEMA.names}, schema=LAKE_SCHEMA)


def _counted(rows: pa.Table) -> Iterator[FileDay]:
    instants = rows.column("event_at").cast(pa.int64()).to_numpy()
    files, days = rows.column("file_id").to_numpy(), instants // _MICROSECONDS_PER_DAY
    for file_id in np.unique(files).tolist():
        # Most tables are of one file and one day.
        of_file = files == file_id
        for day in np.unique(days[of_file]).tolist():
            found = instants[of_file & (days == day)]
            yield FileDay(
                file_id=file_id,
                event_day=_EPOCH.date() + timedelta(days=day),
                rows=len(found),
                first_event_at=_EPOCH + timedelta(microseconds=int(found.min())),
                last_event_at=_EPOCH + timedelta(microseconds=int(found.max())),
            )
