"""Read one delivered file of requests into canonical rows, in bulk: file -> Arrow tables, rejections, counts.

Millions of good lines go through DuckDB (`request_sql`); a line that it leaves out is read by `request_lines`, whose word is
final. Memory is bounded by the chunk. A file is all or nothing: the caller keeps nothing of a file whose reading raised.
Not here: which files there are (request_store), deduplication across files (request_sink).
"""

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from billing_pipeline.errors import BillingError
from billing_pipeline.records import LineCounts, OutOfScope, Reason, Rejection, RequestRecord
from billing_pipeline.sources.avro import SchemaRefusal, resolve
from billing_pipeline.sources.profile import SourceProfile
from billing_pipeline.sources.request_avro import wanted_of
from billing_pipeline.sources.request_lines import MAX_DEPTH, FileContext, pseudonym, read_fields, read_line
from billing_pipeline.sources.request_sql import PART_SEPARATOR, BulkQuery, lines_query, rows_query
from billing_pipeline.sources.timestamps import AFTER_LEAP_SECONDS, CLOCK_TOLERANCE
from resources import text_columns
from resources.avro import read_avro, read_schema
from resources.inflate import Compression, FileRejected, Framing, inflated, sniff
from resources.prepared_queries import PreparedQueries

# Below 32 MiB the C library keeps what it has allocated: fresh memory for each chunk costs as much as inflating it.
CHUNK_BYTES = 24 << 20
BLOCK_BYTES = 1 << 20
SLICES_PER_CHUNK = 8
SAMPLED_LINES = 200
# A share of refused lines means something only over this many lines.
LINES_TO_JUDGE = 1_000
# Text without a line end in this many bytes is no file of lines, and would have to be held whole.
LONGEST_LINE_BYTES = 8 * CHUNK_BYTES

RECORD_SCHEMA = pa.schema(
    [
        ("line_number", pa.int64()),
        ("event_id", pa.string()),
        ("event_at", pa.timestamp("us")),
        ("client_id", pa.string()),
        ("method", pa.string()),
        ("endpoint", pa.string()),
        ("status_code", pa.int16()),
        ("response_time_us", pa.int64()),
        ("response_bytes", pa.int64()),
        ("is_simulated", pa.bool_()),
    ]
)
_TAKEN_COLUMNS = frozenset((*RECORD_SCHEMA.names, "in_scope"))


class BulkReadError(BillingError):
    """DuckDB could not do its work: no memory, no disk."""


_Numbered = tuple[int, RequestRecord | Rejection | OutOfScope]
_Item = TypeVar("_Item")
_Bytes = np.ndarray[Any, np.dtype[np.uint8]]
_Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(slots=True)
class FileOutcome:
    """What became of a file's lines while it is read; complete when the reading has ended."""

    lines_read: int = 0
    accepted: int = 0
    out_of_scope: int = 0
    # Accepted lines whose instant is a leap second, kept as the second after it.
    leap_seconds: int = 0
    rejections: list[Rejection] = field(default_factory=list)

    @property
    def counts(self) -> LineCounts:
        """Return the counts before deduplication."""
        return LineCounts(
            lines_read=self.lines_read,
            accepted=self.accepted,
            rejected=len(self.rejections),
            duplicate=0,
            out_of_scope=self.out_of_scope,
        )

    @property
    def rejected_by_reason(self) -> Mapping[str, int]:
        """Return reason -> refused lines."""
        return Counter(str(rejection.reason) for rejection in self.rejections)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Whole lines, without a copy: `data` with the offsets at which lines begin, and one more at its end."""

    data: bytes
    offsets: "np.ndarray[Any, np.dtype[np.int64]]"
    first_line_number: int
    # Indices of lines that the bulk parser must not see.
    doubtful: "np.ndarray[Any, np.dtype[np.int64]]"

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def line(self, index: int) -> bytes:
        return self.data[int(self.offsets[index]) : int(self.offsets[index + 1])]


def read_requests(
    path: Path,
    *,
    profile: SourceProfile,
    context: FileContext,
    queries: PreparedQueries,
    outcome: FileOutcome,
) -> Generator[pa.Table, None, None]:
    """Yield the accepted rows of a file (RECORD_SCHEMA) and fill `outcome`.

    Raises:
        FileRejected: the file is refused as a whole, whatever has been yielded of it.
    """
    form = sniff(path)
    if form.framing is not (Framing.AVRO if profile.framing == "avro" else Framing.LINES):
        raise FileRejected(
            Reason.SCHEMA_INCOMPATIBLE,
            f"the profile {profile.name} reads {profile.framing}, the file is {form.framing}",
        )
    reading = _Reading(profile=profile, context=context, queries=queries, outcome=outcome)
    if form.framing is Framing.AVRO:
        yield from reading.avro(path, form.compression)
    else:
        yield from reading.lines(path, form.compression)
    reading.judge()


@dataclass(slots=True, kw_only=True)
class _Reading:
    profile: SourceProfile
    context: FileContext
    queries: PreparedQueries
    outcome: FileOutcome

    def lines(self, path: Path, compression: Compression) -> Iterator[pa.Table]:
        """Inflate and cut into lines ahead in a thread while DuckDB parses the chunk before."""
        query: BulkQuery | None = None
        blocks = inflated(path, compression, block_bytes=min(BLOCK_BYTES, CHUNK_BYTES))
        with contextlib.closing(_prefetched(_chunks(blocks, self.profile.max_line_bytes))) as chunks:
            for number, chunk in enumerate(chunks):
                if number == 0:
                    query = lines_query(self.profile, present=self._present(chunk))
                yield from self._take_chunk(chunk, query)
                self.judge()

    def avro(self, path: Path, compression: Compression) -> Iterator[pa.Table]:
        """Resolve the writer's schema, then take typed rows; doubtful ones are read one by one."""
        resolution = resolve(
            read_schema(path, compression), wanted_of(self.profile), record_names=self.profile.record_names
        )
        if isinstance(resolution, SchemaRefusal):
            raise FileRejected(resolution.reason, resolution.detail)
        columns = {source.name: source.source for source in resolution.fields}
        query = rows_query(self.profile, columns)
        for batch in read_avro(path, compression, fields=list(dict.fromkeys(columns.values()))):
            taken = self._taken(query.careful, "rows", pa.Table.from_batches([batch]), query)
            if taken is None:
                taken = RECORD_SCHEMA.empty_table()
            self.outcome.lines_read += batch.num_rows
            left = ~np.isin(batch.column("line_number").to_numpy(), taken.column("line_number").to_numpy())
            records: list[_Numbered] = []
            for row in batch.filter(pa.array(left)).to_pylist() if left.any() else ():
                line_number = row["line_number"]
                fields = {path: _exact(row[name]) for path, name in columns.items()}
                record = read_fields(fields, line_number=line_number, profile=self.profile, context=self.context)
                records.append((line_number, record))
            yield from self._accepted(taken, records)
            self.judge()

    def judge(self) -> None:
        """Refuse a file of which too many lines are refused: its profile is not for it."""
        refused, lines = len(self.outcome.rejections), self.outcome.lines_read
        if lines >= LINES_TO_JUDGE and refused > lines * self.profile.max_rejected_share:
            reasons = ", ".join(
                f"{reason} {count}" for reason, count in Counter(self.outcome.rejected_by_reason).most_common(3)
            )
            raise FileRejected(
                Reason.BAD_RATIO,
                f"{refused} of the first {lines} lines are refused ({reasons}): is it the right profile?",
            )

    def _take_chunk(self, chunk: _Chunk, query: BulkQuery | None) -> Iterator[pa.Table]:
        self.outcome.lines_read += len(chunk)
        plain = np.ones(len(chunk), dtype=bool)
        plain[chunk.doubtful] = False
        if query is None:
            taken = RECORD_SCHEMA.empty_table()
            plain[:] = False
        else:
            taken = self._run_chunk(chunk, plain, query)
        left = np.ones(len(chunk), dtype=bool)
        left[taken.column("line_number").to_numpy() - chunk.first_line_number] = False
        records: list[_Numbered] = []
        for index in np.flatnonzero(left):
            line = chunk.line(int(index))
            number = chunk.first_line_number + int(index)
            if line.strip():
                record = read_line(line, line_number=number, profile=self.profile, context=self.context)
                records.append((number, record))
                if isinstance(record, RequestRecord) and record.event_at in AFTER_LEAP_SECONDS and b":60" in line:
                    self.outcome.leap_seconds += 1
            else:
                records.append((number, OutOfScope(line_number=number)))
        yield from self._accepted(taken, records)

    def _run_chunk(self, chunk: _Chunk, plain: "np.ndarray[Any, np.dtype[np.bool_]]", query: BulkQuery) -> pa.Table:
        lines = _lines_table(chunk)
        if not plain.all():
            lines = lines.filter(pa.array(plain))
        is_simple = not any(_holds(chunk.data, key) for key in query.absent_keys)
        if query.absent_keys and b"\\" in chunk.data:
            is_simple = False
        taken = self._taken(query.optimistic, "lines", lines, query) if is_simple else None
        if taken is None:
            # One line of the chunk is not what the others are.
            taken = self._taken(query.careful, "lines", lines, query)
        return RECORD_SCHEMA.empty_table() if taken is None else taken

    def _taken(self, sql: str, name: str, table: pa.Table, query: BulkQuery) -> pa.Table | None:
        """Return what the query takes of `table`, None when a value in it makes the query fail.

        DuckDB's messages quote the line, so no exception of it leaves here, nor as the context of another.
        """
        try:
            return self._run(sql, name, table, query)
        except (duckdb.DataError, duckdb.InvalidInputException):
            return None
        except duckdb.Error as error:
            kind = type(error).__name__
        raise BulkReadError(
            f"reading lines in bulk stopped with {kind}",
            bill="nothing of this delivery day was published; what was published before is still in place",
            fix="see that memory and the disk of the scratch folder suffice, then ingest the delivery day again",
        )

    def _run(self, sql: str, name: str, table: pa.Table, query: BulkQuery) -> pa.Table:
        parameters: dict[str, str | datetime] = {"latest": (self.context.as_of + CLOCK_TOLERANCE).replace(tzinfo=None)}
        if self.profile.fields.event_id is None:
            parameters["identity_prefix"] = f"{self.context.content_sha256[:16]}:"
        result = _sure(self.queries.table(sql, {name: table}, parameters), query)
        return self._pseudonymised(result) if query.has_client_parts else result

    def _pseudonymised(self, table: pa.Table) -> pa.Table:
        """Replace the parts of each caller by their keyed hash, once per distinct caller."""
        parts = table.column("client_id").combine_chunks().dictionary_encode()
        names = pa.array(
            [
                None if value is None else pseudonym(value.split(PART_SEPARATOR), key=self.context.pseudonym_key)
                for value in parts.dictionary.to_pylist()
            ],
            pa.string(),
        )
        position = table.schema.get_field_index("client_id")
        return table.set_column(position, "client_id", names.take(parts.indices))

    def _accepted(self, taken: pa.Table, records: list[_Numbered]) -> Iterator[pa.Table]:
        """Sort outcomes of the lines into rows, rejections and out of scope; `taken` is the bulk query's result."""
        if "in_scope" in taken.column_names:
            if self.profile.fields.scope is not None:
                in_scope = taken.column("in_scope")
                self.outcome.out_of_scope += int(pc.sum(pc.invert(in_scope)).as_py() or 0)
                taken = taken.filter(in_scope)
            taken = taken.drop_columns("in_scope")
        numbered: list[tuple[int, RequestRecord]] = []
        for number, record in records:
            match record:
                case RequestRecord():
                    numbered.append((number, record))
                case Rejection():
                    self.outcome.rejections.append(record)
                case OutOfScope():
                    self.outcome.out_of_scope += 1
        if taken.num_rows:
            self.outcome.accepted += taken.num_rows
            yield taken.cast(RECORD_SCHEMA)
        if numbered:
            self.outcome.accepted += len(numbered)
            yield _records_table(numbered)

    def _present(self, chunk: _Chunk) -> frozenset[str]:
        """Return the optional paths that most of the first lines have."""
        optional = [
            spec.path
            for spec in (
                self.profile.fields.status_code,
                self.profile.fields.response_time,
                self.profile.fields.response_bytes,
            )
            if spec is not None and spec.optional
        ]
        lines = min(len(chunk), SAMPLED_LINES)
        sample = chunk.data[: int(chunk.offsets[lines])]
        # How often, instead of in how many lines: what lies between costs time only.
        return frozenset(
            path for path in optional if 2 * sample.count(json.dumps(path.split(".")[-1]).encode()) > lines
        )


def _sure(result: pa.Table, query: BulkQuery) -> pa.Table:
    """Return the rows that are beyond doubt, of what a bulk query gave, without the columns that were only to be checked."""
    passed = np.ones(result.num_rows, dtype=bool)
    for name, check in query.to_check.items():
        texts = result.column(name)
        if name in query.quoted:
            texts, in_quotes = text_columns.unquoted(texts)
            passed &= in_quotes
            result = result.set_column(result.schema.get_field_index(name), name, texts)
        passed &= text_columns.passes(texts, check)
    is_sure = result.column("is_sure")
    result = result.drop_columns([name for name in result.column_names if name not in _TAKEN_COLUMNS])
    if not passed.all():
        is_sure = pc.and_(is_sure, pc.or_(pa.array(passed), pc.invert(result.column("in_scope"))))
    if not pc.all(is_sure, min_count=0).as_py() or is_sure.null_count:
        result = result.filter(is_sure)
    return result


def _exact(value: object) -> object:
    """Return a double as the shortest decimal that is read back as it: what the bulk query sees too."""
    return Decimal(repr(value)) if isinstance(value, float) else value


def _prefetched(items: Generator[_Item, None, None]) -> Generator[_Item, None, None]:
    """Yield `items`, the next one being made in a thread meanwhile."""
    # Left in reverse: the thread must have ended before the generator that it runs can be closed.
    with contextlib.closing(items), ThreadPoolExecutor(max_workers=1, thread_name_prefix="inflate") as executor:
        pending = executor.submit(next, items, None)
        while (item := pending.result()) is not None:
            pending = executor.submit(next, items, None)
            yield item


def _chunks(blocks: Generator[bytes, None, None], max_line_bytes: int) -> Generator[_Chunk, None, None]:
    """Gather blocks and cut them at line ends, with one copy; the last chunk may end without one."""
    held: list[bytes] = []
    held_bytes = unended_bytes = 0
    line_number = 1
    with contextlib.closing(blocks):
        for block in blocks:
            end = block.rfind(b"\n") + 1
            held_bytes += len(block)
            unended_bytes = len(block) - end if end else unended_bytes + len(block)
            if unended_bytes > LONGEST_LINE_BYTES:
                raise FileRejected(Reason.TOO_LONG, f"a line of more than {LONGEST_LINE_BYTES} bytes")
            if end == 0 or held_bytes < CHUNK_BYTES:
                held.append(block)
                continue
            chunk = _chunk(b"".join([*held, block[:end]]), line_number, max_line_bytes)
            held, held_bytes = [block[end:]], len(block) - end
            line_number += len(chunk)
            yield chunk
    if held_bytes:
        yield _chunk(b"".join(held), line_number, max_line_bytes)


def _chunk(data: bytes, first_line_number: int, max_line_bytes: int) -> _Chunk:
    bytes_view = np.frombuffer(data, dtype=np.uint8)
    ends = _found(bytes_view, lambda piece: piece == 0x0A) + 1
    unended = [] if data.endswith(b"\n") else [len(data)]
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), ends, np.array(unended, dtype=np.int64)])
    return _Chunk(data, offsets, first_line_number, _not_plain(data, offsets, max_line_bytes))


def _not_plain(
    data: bytes, offsets: "np.ndarray[Any, np.dtype[np.int64]]", max_line_bytes: int
) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Return the indices of lines that the bulk parser must not see: not ASCII, with a NUL, too long, perhaps too deep."""
    bytes_view = np.frombuffer(data, dtype=np.uint8)
    indices = [np.flatnonzero(np.diff(offsets) > max_line_bytes)]
    # One bit tells "[" from "{". The bulk parser knows no bound of depth.
    opening = _found(bytes_view, lambda piece: (piece | 0x20) == 0x7B)
    # Flat lines, one bracket in each, are told from others without a search.
    is_flat = len(opening) == len(offsets) - 1 and bool(((opening >= offsets[:-1]) & (opening < offsets[1:])).all())
    if not is_flat:
        indices.append(np.flatnonzero(np.diff(np.searchsorted(opening, offsets)) > MAX_DEPTH))
    if not data.isascii() or b"\x00" in data:
        strange = np.flatnonzero((bytes_view >= 0x80) | (bytes_view == 0))
        indices.append(np.searchsorted(offsets, strange, side="right") - 1)
    return np.unique(np.concatenate(indices))


def _holds(data: bytes, key: bytes) -> bool:
    """Return whether `key` is in `data`. Its first four bytes alone are hardly ever, and are looked for far faster."""
    bytes_view, piece = np.frombuffer(data, dtype=np.uint8), 1 << 18
    if len(key) < 4:
        return key in data
    word = np.frombuffer(key, dtype=np.uint32, count=1)[0]
    for start in range(0, len(bytes_view), piece):
        # Three bytes more than the piece, so that no word is cut.
        part = bytes_view[start : start + piece + 3]
        for shift in range(4):
            words = part[shift : shift + (len(part) - shift) // 4 * 4].view(np.uint32)
            if (words == word).any():
                return key in data
    return False


def _found(bytes_view: _Bytes, condition: Callable[[_Bytes], _Mask]) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Return where `condition` holds. In pieces that stay in the cache: four times as fast as one pass over the chunk."""
    piece = 1 << 20
    found = [
        np.flatnonzero(condition(bytes_view[start : start + piece])) + start
        for start in range(0, len(bytes_view), piece)
    ]
    return np.concatenate([np.empty(0, dtype=np.int64), *found])


def _lines_table(chunk: _Chunk) -> pa.Table:
    """Return (line, line_number) over the chunk's own bytes, in batches that DuckDB's threads can share."""
    rows = len(chunk)
    lines = pa.Array.from_buffers(
        pa.large_string(), rows, [None, pa.py_buffer(chunk.offsets), pa.py_buffer(chunk.data)]
    )
    numbers = pa.array(np.arange(chunk.first_line_number, chunk.first_line_number + rows, dtype=np.int64))
    batch = pa.record_batch([lines, numbers], names=["line", "line_number"])
    size = max(2_048, -(-rows // SLICES_PER_CHUNK))
    return pa.Table.from_batches([batch.slice(start, size) for start in range(0, rows, size)] or [batch])


def _records_table(numbered: list[tuple[int, RequestRecord]]) -> pa.Table:
    columns: dict[str, list[object]] = {name: [] for name in RECORD_SCHEMA.names}
    for line_number, record in numbered:
        columns["line_number"].append(line_number)
        for name in RECORD_SCHEMA.names[1:]:
            value = getattr(record, name)
            columns[name].append(value.astimezone(UTC).replace(tzinfo=None) if isinstance(value, datetime) else value)
    return pa.table(columns, schema=RECORD_SCHEMA)
