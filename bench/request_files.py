"""Write generated request rows as the files that a gateway would deliver: gzip JSON lines, Avro, hourly, one a day.

Compression is zlib's, level 6, on all cores, so the files are what `gzip` makes of them, made faster. A data set is a landing
folder that is written once: a note beside it tells from what. Not here: the values of the rows (request_data).
"""

import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bench.request_data import RequestRows, lines_query, rows_query
from bench.task import Stopwatch, Task

EVENT_DAY = date(2026, 3, 1)
# So that 400 days of it are over.
FIRST_BACKFILL_DAY = date(2025, 1, 1)
LEVEL = 6
BATCH_ROWS = 65_536
# What Java's and Python's Avro writers put into a block by default, about.
AVRO_BLOCK_ROWS = 500
# Bytes of a millisecond timestamp of our years as a zigzag number, and of a status.
_TIMESTAMP_BYTES, _STATUS_BYTES = 6, 2
_SYNC = bytes(range(16))


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A landing folder with files of one kind. `source_folder` below `landing` is where the source delivers."""

    name: str
    landing: Path
    files: tuple[Path, ...]
    rows: int
    days: int

    @property
    def size_bytes(self) -> int:
        """Return the bytes of all files, packed."""
        return sum(path.stat().st_size for path in self.files)


def dataset(folder: Path, kind: str, *, rows: int, days: int = 400) -> Dataset:
    """Return the data set `kind` below `folder`, written now if it is not there.

    Kinds: `json` (one file), `json-hourly` (24 files), `json-five` (five files of `rows` each), `avro` (one file), `json-days`
    (the rows of `json` with each account on one of `days` event days; one file a day).
    """
    landing = folder / f"{kind}-{rows}" if kind != "json-days" else folder / f"{kind}-{days}-{rows}"
    note = landing / "made.json"
    if not note.exists():
        landing.mkdir(parents=True, exist_ok=True)
        written = _WRITERS[kind](landing / "requests", rows, days)
        draft = note.with_suffix(".tmp")
        draft.write_text(json.dumps({"rows": written, "kind": kind}))
        draft.replace(note)
    written = json.loads(note.read_text())["rows"]
    files = tuple(sorted(path for path in (landing / "requests").rglob("*") if path.is_file()))
    return Dataset(name=kind, landing=landing, files=files, rows=written, days=days if kind == "json-days" else 1)


def _folder_of(root: Path, day: date) -> Path:
    folder = root / (day + timedelta(days=1)).isoformat()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write_json(root: Path, rows: int, days: int) -> int:
    _write_lines(_folder_of(root, EVENT_DAY) / "requests.jsonl.gz", RequestRows(rows=rows, first_day=EVENT_DAY))
    return rows


def _write_hourly(root: Path, rows: int, days: int) -> int:
    folder = _folder_of(root, EVENT_DAY)
    bounds = [rows * hour // 24 for hour in range(25)]
    with _connection() as connection:
        for hour in range(24):
            within = f"position >= {bounds[hour]} and position < {bounds[hour + 1]}"
            query = f"select line from ({lines_query(RequestRows(rows=rows, first_day=EVENT_DAY))}) where {within}"
            with _Gzip(folder / f"requests-{hour:02}.jsonl.gz") as file:
                for batch in connection.sql(query).to_arrow_reader(BATCH_ROWS):
                    file.write(_bytes_of(batch.column(0)))
    return rows


def _write_five(root: Path, rows: int, days: int) -> int:
    for part in range(5):
        data = RequestRows(rows=rows, first_day=EVENT_DAY, part=part)
        _write_lines(_folder_of(root, EVENT_DAY) / f"requests-{part}.jsonl.gz", data)
    return 5 * rows


def _write_days(root: Path, rows: int, days: int) -> int:
    data = RequestRows(rows=rows, first_day=FIRST_BACKFILL_DAY, days=days)
    file: _Gzip | None = None
    at = -1
    try:
        with _connection() as connection:
            reader = connection.sql(f"select day_number, line from ({lines_query(data)})").to_arrow_reader(BATCH_ROWS)
            for batch in reader:
                numbers = batch.column(0).to_numpy()
                starts = [0, *(np.flatnonzero(np.diff(numbers)) + 1), len(numbers)]
                for first, end in pairwise(starts):
                    if numbers[first] != at:
                        at = int(numbers[first])
                        if file is not None:
                            file.close()
                        folder = _folder_of(root, FIRST_BACKFILL_DAY + timedelta(days=at))
                        file = _Gzip(folder / "requests.jsonl.gz")
                    assert file is not None
                    file.write(_bytes_of(batch.column(1).slice(first, end - first)))
    finally:
        if file is not None:
            file.close()
    return rows


def _write_lines(path: Path, data: RequestRows) -> None:
    with _connection() as connection, _Gzip(path) as file:
        for batch in connection.sql(f"select line from ({lines_query(data)})").to_arrow_reader(BATCH_ROWS):
            file.write(_bytes_of(batch.column(0)))


def _write_avro(root: Path, rows: int, days: int) -> int:
    """Write version 1 of our own schema, whose fields are those of the JSON lines, with codec deflate."""
    schema = (resources.files("billing_pipeline") / "profiles" / "billable_request.v1.avsc").read_bytes()
    pairs = ((b"avro.schema", schema), (b"avro.codec", b"deflate"))
    metadata = b"".join(_varint(len(part)) + part for pair in pairs for part in pair)
    path = _folder_of(root, EVENT_DAY) / "requests.avro"
    query = rows_query(RequestRows(rows=rows, first_day=EVENT_DAY))
    with _connection() as connection, path.open("wb") as file:
        file.write(b"Obj\x01" + _varint(len(pairs)) + metadata + _varint(0) + _SYNC)
        batches = connection.sql(query).to_arrow_reader(AVRO_BLOCK_ROWS * 128)
        for packed in _in_threads(_avro_blocks, batches):
            file.write(packed)
    return rows


def _avro_blocks(batch: pa.RecordBatch) -> bytes:
    """Return the rows of `batch` as Avro blocks: each field's bytes by column, joined row by row in Arrow."""
    seconds = pc.cast(batch.column("event_at"), pa.timestamp("ms")).cast(pa.int64()).to_numpy()
    records = pc.binary_join_element_wise(
        *_text("request_id", batch),
        *_text("client_id", batch),
        _fixed(_varints(seconds, _TIMESTAMP_BYTES)),
        *_text("endpoint", batch),
        *_text("method", batch),
        _fixed(_varints(batch.column("status_code").to_numpy().astype(np.int64), _STATUS_BYTES)),
        _fixed((batch.column("tenths").to_numpy() / 10).astype("<f8").view(np.uint8).reshape(-1, 8)),
        _fixed(batch.column("is_real_vehicle").to_numpy(zero_copy_only=False).astype(np.uint8).reshape(-1, 1)),
        b"",
    )
    blocks = []
    for start in range(0, len(records), AVRO_BLOCK_ROWS):
        block = records.slice(start, AVRO_BLOCK_ROWS)
        packer = zlib.compressobj(LEVEL, zlib.DEFLATED, -15)
        data = packer.compress(_bytes_of(block)) + packer.flush()
        blocks += [_varint(len(block)), _varint(len(data)), data, _SYNC]
    return b"".join(blocks)


def _text(name: str, batch: pa.RecordBatch) -> tuple[Any, Any]:
    """Return length and bytes of a text column; every text here is shorter than 8192 bytes."""
    values = batch.column(name).cast(pa.binary())
    lengths = pc.binary_length(values).to_numpy().astype(np.int64)
    is_short = pa.array(lengths < 64)
    return pc.if_else(is_short, _fixed(_varints(lengths, 1)), _fixed(_varints(lengths, 2))), values


def _varints(values: "np.ndarray[Any, np.dtype[np.int64]]", width: int) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """Return positive numbers as zigzag varints of exactly `width` bytes each, a row for each number."""
    rest = values << 1
    encoded = np.empty((len(values), width), dtype=np.uint8)
    for place in range(width):
        encoded[:, place] = (rest & 0x7F) | (0x80 if place < width - 1 else 0)
        rest = rest >> 7
    return encoded


def _fixed(values: "np.ndarray[Any, np.dtype[np.uint8]]") -> Any:
    width = values.shape[1]
    buffer = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(pa.binary(width), len(values), [None, buffer]).cast(pa.binary())


def _varint(value: int) -> bytes:
    rest, encoded = value << 1, bytearray()
    while rest > 0x7F:
        encoded.append(rest & 0x7F | 0x80)
        rest >>= 7
    encoded.append(rest)
    return bytes(encoded)


def _bytes_of(column: Any) -> memoryview:
    """Return the texts of an Arrow column one after the other, without a copy."""
    wide = pa.types.is_large_string(column.type) or pa.types.is_large_binary(column.type)
    _, offsets, data = column.buffers()
    ends = np.frombuffer(offsets, dtype=np.int64 if wide else np.int32)
    return memoryview(data)[int(ends[column.offset]) : int(ends[column.offset + len(column)])]


class _Gzip:
    """A gzip file of one member, packed on all cores: pieces that know nothing of each other, joined at byte bounds."""

    _PIECE = 4 << 20

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb")
        self._file.write(b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff")
        self._pool = ThreadPoolExecutor(max_workers=os.cpu_count() or 1)
        self._packing: list[Future[bytes]] = []
        self._piece = bytearray()
        self._crc = self._size = 0

    def __enter__(self) -> "_Gzip":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def write(self, data: memoryview) -> None:
        self._crc = zlib.crc32(data, self._crc)
        self._size += len(data)
        self._piece += data
        if len(self._piece) >= self._PIECE:
            self._pack(zlib.Z_SYNC_FLUSH)

    def close(self) -> None:
        self._pack(zlib.Z_FINISH)
        while self._packing:
            self._file.write(self._packing.pop(0).result())
        self._file.write(struct.pack("<II", self._crc, self._size & 0xFFFFFFFF))
        self._file.close()
        self._pool.shutdown()

    def _pack(self, ending: int) -> None:
        self._packing.append(self._pool.submit(_deflated, bytes(self._piece), ending))
        self._piece.clear()
        while len(self._packing) > 2 * (os.cpu_count() or 1):
            self._file.write(self._packing.pop(0).result())


def _deflated(data: bytes, ending: int) -> bytes:
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush(ending)


def _in_threads(work: Any, items: Iterable[Any]) -> Iterator[bytes]:
    """Yield `work` of each item in order, on all cores, a few items ahead."""
    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(max_workers=cores) as pool:
        waiting: list[Future[bytes]] = []
        for item in items:
            waiting.append(pool.submit(work, item))
            while len(waiting) > 2 * cores:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


@contextmanager
def _connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(":memory:", config={"memory_limit": "4GB"}) as connection:
        connection.execute("set TimeZone = 'UTC'")
        yield connection


_WRITERS = {
    "json": _write_json,
    "json-hourly": _write_hourly,
    "json-five": _write_five,
    "json-days": _write_days,
    "avro": _write_avro,
}


def make(task: Task, stopwatch: Stopwatch) -> dict[str, Any]:
    """Write a data set in a process of its own, so that the one that measures stays small."""
    with stopwatch.part("write"):
        made = dataset(Path(task.landing), task.options["kind"], rows=task.options["rows"], days=task.options["days"])
    return {"rows": made.rows, "files": len(made.files), "size_bytes": made.size_bytes}
