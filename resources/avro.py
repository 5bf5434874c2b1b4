"""Read an Avro file as Arrow batches: its flat top-level fields under the writer's names, and `line_number`.

Text, uuid and enum come as string, int and long as int64, float and double as float64, boolean as bool, timestamps as
timestamp[us, UTC] whatever their unit. Other fields (nested, bytes, decimals, local timestamps) are checked and left out.
All or nothing: trust no batch before the iterator ends.

Two readers, one result: `avro_bulk` for flat records, fast, with a proof; `avro_records` for all else and for what could not
be proven, whose verdict counts. Memory is bounded by `GROUP_BYTES`, not by the file.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from billing_pipeline.records import Reason
from billing_pipeline.sources.avro import (
    AvroSchemaError,
    Kind,
    Record,
    Schema,
    WriterField,
    parse_schema,
    writer_fields,
)
from resources import avro_bulk
from resources.avro_container import Block, open_container
from resources.avro_records import MalformedRecordError, read_records
from resources.inflate import Compression, FileRejected

GROUP_BYTES = 8 << 20
LINE_NUMBER = "line_number"
# What an instant beyond the calendar becomes: its first and last microsecond, which every plausibility rule refuses.
FIRST_US, LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999

_TIMESTAMP = pa.timestamp("us", tz="UTC")
_ARROW_TYPES: Mapping[Kind, Any] = {
    Kind.STRING: pa.string(),
    Kind.UUID: pa.string(),
    Kind.ENUM: pa.string(),
    Kind.INT: pa.int64(),
    Kind.LONG: pa.int64(),
    Kind.FLOAT: pa.float64(),
    Kind.DOUBLE: pa.float64(),
    Kind.BOOLEAN: pa.bool_(),
    Kind.TIMESTAMP_MILLIS: _TIMESTAMP,
    Kind.TIMESTAMP_MICROS: _TIMESTAMP,
}
_MICROS: Mapping[Kind, int] = {Kind.TIMESTAMP_MILLIS: 1000, Kind.TIMESTAMP_MICROS: 1}


def read_schema(path: Path, compression: Compression) -> object:
    """Return the writer's schema, JSON as parsed, for `sources.avro.resolve`.

    Raises:
        FileRejected: the header cannot be read.
    """
    return open_container(path, compression).schema


def read_avro(
    path: Path,
    compression: Compression,
    *,
    fields: Sequence[str] | None = None,
    batch_rows: int = 100_000,
    max_ratio: int = 200,
) -> Iterator[pa.RecordBatch]:
    """Yield the records in batches of at most `batch_rows`, none empty.

    Columns: `fields` in their order (None: every deliverable field in the writer's order), then `line_number`, the 1-based
    position of the record in the file, int64.

    Raises:
        FileRejected: any damage, anywhere in the file; nothing of it may be kept.
        ValueError: `fields` names something that the file does not deliver; ask `resolve` first.
    """
    container = open_container(path, compression, max_ratio=max_ratio)
    plan = _plan(container.schema, fields)
    rows_read = 0
    for group in _groups(container.blocks):
        for arrays, row_count in _decoded(plan, group, batch_rows=batch_rows):
            line_numbers = pa.array(np.arange(rows_read + 1, rows_read + 1 + row_count, dtype=np.int64))
            rows_read += row_count
            batch = pa.RecordBatch.from_arrays([*arrays, line_numbers], [*plan.delivered, LINE_NUMBER])
            for start in range(0, row_count, batch_rows):
                yield batch.slice(start, batch_rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """A writer's schema, and which of its top-level fields are delivered, in which order."""

    schema: Schema
    columns: tuple[WriterField, ...]
    delivered: tuple[str, ...]
    # Whether all fields, delivered or not, are.
    is_flat: bool


def _plan(document: object, fields: Sequence[str] | None) -> _Plan:
    try:
        schema = parse_schema(document)
    except AvroSchemaError as error:
        raise FileRejected(Reason.BAD_AVRO, str(error)) from error
    if not isinstance(schema.resolved(schema.root), Record):
        raise FileRejected(Reason.SCHEMA_INCOMPATIBLE, "the file does not hold records")
    columns = writer_fields(schema)
    deliverable = [column.name for column in columns if column.kind in _ARROW_TYPES]
    if fields is not None and not set(fields) <= set(deliverable):
        raise ValueError(f"not among the deliverable fields of the file: {sorted(set(fields) - set(deliverable))}")
    return _Plan(
        schema=schema,
        columns=columns,
        delivered=tuple(deliverable if fields is None else fields),
        is_flat=all(avro_bulk.is_flat(schema, column.type) for column in columns),
    )


def _groups(blocks: Iterator[Block]) -> Iterator[Block]:
    """Join consecutive blocks up to `GROUP_BYTES`, so that one decoder call has thousands of rows."""
    held: list[Block] = []
    held_bytes = 0
    for block in blocks:
        if held and held_bytes + len(block.data) > GROUP_BYTES:
            yield _joined(held)
            held, held_bytes = [], 0
        held.append(block)
        held_bytes += len(block.data)
    if held:
        yield _joined(held)


def _joined(blocks: Sequence[Block]) -> Block:
    return Block(row_count=sum(block.row_count for block in blocks), data=b"".join(block.data for block in blocks))


def _decoded(plan: _Plan, group: Block, *, batch_rows: int) -> Iterator[tuple[list[Any], int]]:
    """Yield the delivered columns with their number of rows."""
    raw = avro_bulk.decoded(plan.schema, plan.columns, group) if plan.is_flat else None
    if raw is not None:
        yield _delivered(plan, raw), group.row_count
        return
    try:
        yield from _decoded_strictly(plan, group, batch_rows=batch_rows)
    except MalformedRecordError as error:
        raise FileRejected(Reason.BAD_AVRO, str(error)) from error


def _decoded_strictly(plan: _Plan, group: Block, *, batch_rows: int) -> Iterator[tuple[list[Any], int]]:
    kept = [column if column.name in plan.delivered else None for column in plan.columns]
    names = [column.name for column in kept if column is not None]
    kinds = {column.name: column.kind for column in plan.columns}
    rows: list[tuple[object, ...]] = []

    def columns() -> tuple[list[Any], int]:
        values = dict(zip(names, zip(*rows, strict=True), strict=True)) if names else {}
        raw = {name: pa.array(values[name], _raw_type(kinds[name])) for name in names}
        return _delivered(plan, raw), len(rows)

    for row in read_records(plan.schema, kept, group.data, group.row_count):
        rows.append(row)
        if len(rows) == batch_rows:
            yield columns()
            rows.clear()
    if rows:
        yield columns()


def _raw_type(kind: Kind) -> Any:
    return pa.int64() if kind in _MICROS else _ARROW_TYPES[kind]


def _delivered(plan: _Plan, raw: Mapping[str, Any]) -> list[Any]:
    kinds = {column.name: column.kind for column in plan.columns}
    return [_column(kinds[name], raw[name]) for name in plan.delivered]


def _column(kind: Kind, values: Any) -> Any:
    """Return `values` in the type that `kind` is delivered in."""
    if kind in _MICROS:
        factor = _MICROS[kind]
        raised = pc.max_element_wise(values, FIRST_US // factor, skip_nulls=False)
        bounded = pc.min_element_wise(raised, LAST_US // factor, skip_nulls=False)
        return pc.multiply(bounded, factor).cast(_TIMESTAMP)
    return values.cast(_ARROW_TYPES[kind])
