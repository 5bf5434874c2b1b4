"""Read one delivered file of requests into canonical rows, in bulk: file -> Arrow tables, rejections, counts.

Millions of good lines go through DuckDB (`request_sql`); a line that it leaves out is read by `request_lines`, whose word is
final. Memory is bounded by the chunk. A file is all or nothing: the caller keeps nothing of a file whose reading raised.
Not here: which files there are (request_store), cutting them into lines (line_chunks), deduplication across files (request_sink).
"""

import contextlib
import json
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TypeVar

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from billing_pipeline.errors import BillingError
from billing_pipeline.records import LineCounts, OutOfScope, Reason, Rejection, RequestRecord
from billing_pipeline.sources.avro import SchemaRefusal, resolve
from billing_pipeline.sources.profile import SourceProfile
from billing_pipeline.sources.request_avro import wanted_of
from billing_pipeline.sources.request_lines import FileContext, pseudonym, read_fields, read_line
from billing_pipeline.sources.request_sql import PART_SEPARATOR, BulkQuery, lines_query, rows_query
from billing_pipeline.sources.timestamps import AFTER_LEAP_SECONDS, CLOCK_TOLERANCE
from resources import line_chunks, text_columns
from resources.avro import read_avro, read_schema
from resources.byte_windows import Mask, Places, array_of
from resources.inflate import Compression, FileRejected, Framing, inflated, sniff
from resources.prepared_queries import PreparedQueries
from resources.shaped_lines import KnownSpellings, Reading, read_shaped

BLOCK_BYTES = 1 << 20
# A file below this size is read in about the time that a thread for it takes.
SHORT_FILE_BYTES = 256 << 10
SAMPLED_LINES = 200
LINES_TO_SEE_SPELLINGS = 9
# So few lines are read one by one in the time that anything else takes to start.
FEW_LINES = 32
# A share of refused lines means something only over this many lines.
LINES_TO_JUDGE = 1_000
RECORD_SCHEMA = pa.schema(
    [
        ("line_number", pa.int64()),
        ("event_id", pa.string()),
        ("event_at", pa.timestamp("us")),
        ("client_id", pa.dictionary(pa.int32(), pa.string())),
        ("method", pa.dictionary(pa.int32(), pa.string())),
        ("endpoint", pa.dictionary(pa.int32(), pa.string())),
        ("status_code", pa.int16()),
        ("response_time_us", pa.int64()),
        ("response_bytes", pa.int64()),
        ("is_simulated", pa.bool_()),
    ]
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TAKEN_COLUMNS = frozenset((*RECORD_SCHEMA.names, "in_scope"))


class BulkReadError(BillingError):
    """DuckDB could not do its work: no memory, no disk."""


_Numbered = tuple[int, RequestRecord | Rejection | OutOfScope]
_Item = TypeVar("_Item")


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


def read_requests(
    path: Path,
    *,
    profile: SourceProfile,
    context: FileContext,
    queries: PreparedQueries,
    outcome: FileOutcome,
    spellings: KnownSpellings | None = None,
    in_threads: bool = True,
) -> Generator[pa.Table, None, None]:
    """Yield the accepted rows of a file (RECORD_SCHEMA) and fill `outcome`. `spellings`: of files that were read before.

    `in_threads`: a long file is inflated in a thread, while the caller works on what came of it so far.

    Raises:
        FileRejected: the file is refused as a whole, whatever has been yielded of it.
    """
    form = sniff(path)
    if form.framing is not (Framing.AVRO if profile.framing == "avro" else Framing.LINES):
        raise FileRejected(
            Reason.SCHEMA_INCOMPATIBLE,
            f"the profile {profile.name} reads {profile.framing}, the file is {form.framing}",
        )
    reading = _Reading(
        profile=profile,
        context=context,
        queries=queries,
        outcome=outcome,
        spellings=KnownSpellings() if spellings is None else spellings,
        in_threads=in_threads,
    )
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
    spellings: KnownSpellings
    in_threads: bool

    def lines(self, path: Path, compression: Compression) -> Iterator[pa.Table]:
        """Inflate and cut into lines, of a long file ahead in a thread while the chunk before is read."""
        query: BulkQuery | None = None
        blocks = inflated(path, compression, block_bytes=min(BLOCK_BYTES, line_chunks.CHUNK_BYTES))
        cut = line_chunks.chunks_of(blocks, self.profile.max_line_bytes)
        is_ahead = self.in_threads and path.stat().st_size >= SHORT_FILE_BYTES
        with contextlib.closing(_prefetched(cut) if is_ahead else cut) as chunks:
            for number, chunk in enumerate(chunks):
                if number == 0:
                    query = lines_query(self.profile, present=self._present(chunk))
                self.outcome.lines_read += len(chunk)
                left = yield from self._take_shaped(chunk)
                if len(left):
                    yield from self._take_lines(chunk, left, query)
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
            for row in batch.filter(array_of(left)).to_pylist() if left.any() else ():
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

    def _take_shaped(self, chunk: line_chunks.LineChunk) -> Generator[pa.Table, None, Places]:
        """Yield the lines that are spelled like many others; return the indices of those that are left."""
        left = np.arange(len(chunk))
        if len(left) > FEW_LINES:
            left = yield from self._take_spelled(chunk, left, self.spellings.readings(self.profile))
        if len(left) > FEW_LINES:
            sample = left[np.linspace(0, len(left) - 1, min(len(left), LINES_TO_SEE_SPELLINGS), dtype=int)]
            readings = self.spellings.learned(self.profile, (chunk.line(int(index)) for index in sample))
            left = yield from self._take_spelled(chunk, left, readings)
        return left

    def _take_spelled(
        self, chunk: line_chunks.LineChunk, left: Places, readings: Sequence[Reading]
    ) -> Generator[pa.Table, None, Places]:
        latest_us = (self.context.as_of + CLOCK_TOLERANCE - _EPOCH) // timedelta(microseconds=1)
        for reading in readings:
            rows = read_shaped(chunk.data, chunk.starts[left], reading, latest_us=latest_us) if len(left) else None
            if rows is not None:
                numbers = array_of(left[rows.indices] + chunk.first_line_number)
                self.outcome.accepted += len(rows.indices)
                yield self._shaped_table(numbers, rows.columns)
                left = np.delete(left, rows.indices)
        return left

    def _shaped_table(self, numbers: pa.Array, columns: Mapping[str, pa.Array]) -> pa.Table:
        """Return rows in the form of RECORD_SCHEMA, with what the profile says of all lines alike."""
        whole = {"line_number": numbers, **columns}
        if "event_id" not in whole:
            prefix = f"{self.context.content_sha256[:16]}:"
            whole["event_id"] = pc.binary_join_element_wise(prefix, numbers.cast(pa.string()), "")
        if "is_simulated" not in whole:
            whole["is_simulated"] = pa.repeat(False, len(numbers))
        arrays = [
            whole[name] if name in whole else pa.nulls(len(numbers), RECORD_SCHEMA.field(name).type)
            for name in RECORD_SCHEMA.names
        ]
        return pa.table(arrays, schema=RECORD_SCHEMA)

    def _take_lines(self, chunk: line_chunks.LineChunk, left: Places, query: BulkQuery | None) -> Iterator[pa.Table]:
        """Take the lines at the indices `left`, most of them by the query, what it leaves out one by one."""
        taken = RECORD_SCHEMA.empty_table()
        if query is not None and len(left) > FEW_LINES:
            plain = np.zeros(len(chunk), dtype=bool)
            plain[left] = True
            plain[chunk.doubtful()] = False
            taken = self._run_chunk(chunk, plain, query)
            is_left = np.zeros(len(chunk), dtype=bool)
            is_left[left] = True
            is_left[taken.column("line_number").to_numpy() - chunk.first_line_number] = False
            left = np.flatnonzero(is_left)
        records: list[_Numbered] = []
        for index in left:
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

    def _run_chunk(self, chunk: line_chunks.LineChunk, plain: Mask, query: BulkQuery) -> pa.Table:
        lines = chunk.table()
        if not plain.all():
            lines = lines.filter(array_of(plain))
        is_simple = not any(chunk.holds(key) for key in query.absent_keys)
        if query.absent_keys and b"\\" in chunk.data:
            is_simple = False
        taken = self._taken(query.optimistic, "lines", lines, query) if is_simple else None
        if taken is None:
            # One line of the chunk is not what the others are.
            taken = self._taken(query.careful, "lines", lines, query)
        return RECORD_SCHEMA.empty_table() if taken is None else taken

    def _taken(self, sql: str, name: str, table: pa.Table, query: BulkQuery) -> pa.Table | None:
        """Return what the query takes of `table`, None when a value in it makes the query fail.

        DuckDB's messages quote the line, so no exception of it leaves here, nor as the context of another. One that is cut
        inside of a character cannot be decoded, and comes as UnicodeDecodeError.
        """
        try:
            return self._run(sql, name, table, query)
        except (duckdb.DataError, duckdb.InvalidInputException, UnicodeDecodeError):
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
            yield taken.select(RECORD_SCHEMA.names).cast(RECORD_SCHEMA)
        if numbered:
            self.outcome.accepted += len(numbered)
            yield _records_table(numbered)

    def _present(self, chunk: line_chunks.LineChunk) -> frozenset[str]:
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
        is_sure = pc.and_(is_sure, pc.or_(array_of(passed), pc.invert(result.column("in_scope"))))
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


def _records_table(numbered: list[tuple[int, RequestRecord]]) -> pa.Table:
    columns: dict[str, list[object]] = {name: [] for name in RECORD_SCHEMA.names}
    for line_number, record in numbered:
        columns["line_number"].append(line_number)
        for name in RECORD_SCHEMA.names[1:]:
            value = getattr(record, name)
            columns[name].append(value.astimezone(UTC).replace(tzinfo=None) if isinstance(value, datetime) else value)
    return pa.table(columns, schema=RECORD_SCHEMA)
