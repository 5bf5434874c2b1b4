"""Read an Avro file as Arrow batches: its flat top-level fields under the writer's names, and `line_number`.

Text, uuid and enum come as string, int and long as int64, float and double as float64, boolean as bool, timestamps as
timestamp[us, UTC] whatever their unit. Other fields (nested, bytes, decimals, local timestamps) are checked and left out.
All or nothing: trust no batch before the iterator ends.

Two readers, one result. Polars decodes flat records fast but lets damage pass (a boolean of 2, a branch that does not exist,
bytes left over); so its rows are proven against the bytes: the encoded length of every row and each tag byte. What it
cannot decode or prove goes through `avro_records`, the strict reader, which gives the verdict. Memory is bounded by
`GROUP_BYTES`, not by the file.
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from billing_pipeline.records import Reason
from billing_pipeline.sources.avro import (
    AvroSchemaError,
    Enum,
    Fixed,
    Kind,
    Primitive,
    Record,
    Schema,
    Type,
    Union,
    WriterField,
    parse_schema,
    writer_fields,
)
from resources.avro_container import Block, open_container
from resources.avro_records import MalformedRecordError, read_records
from resources.inflate import AVRO_MAGIC, Compression, FileRejected

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
_Lengths = npt.NDArray[np.int64]


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
    # Whether all fields, delivered or not, are of types whose encoded length follows from the value.
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
        is_flat=all(_is_flat(schema, column.type) for column in columns),
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
    raw = _decoded_fast(plan, group) if plan.is_flat else None
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


def _is_flat(schema: Schema, type_: Type) -> bool:
    match schema.resolved(type_):
        case Union(branches):
            inner = _beside_null(schema, branches)
            return inner is not None and not isinstance(inner, Union) and _is_flat(schema, inner)
        case Primitive(name, _):
            return name != "null"
        case Fixed(size_bytes):
            return size_bytes > 0
        case Enum():
            return True
        case _:
            return False


def _decoded_fast(plan: _Plan, group: Block) -> Mapping[str, Any] | None:
    """Return the raw columns by the writer's names, or None when the rows cannot be proven."""
    import polars
    from polars.exceptions import PanicException, PolarsError

    types = [_fast_type(plan.schema, column.type, f"f{number}") for number, column in enumerate(plan.columns)]
    container = _container([{"name": f"f{number}", "type": type_} for number, type_ in enumerate(types)], group)
    try:
        frame = polars.read_avro(io.BytesIO(container))
    # A panic is a BaseException; OSError is its word for data that end early.
    except (PolarsError, PanicException, OSError):
        return None
    if frame.height != group.row_count:
        return None
    table = frame.to_arrow(compat_level=polars.CompatLevel.oldest())
    arrays = [column.combine_chunks() for column in table.columns]
    return _proven(plan, arrays, group)


def _beside_null(schema: Schema, branches: tuple[Type, ...]) -> Type | None:
    """Return the other type of a union of null and one more; None for any other union."""
    others = [schema.resolved(branch) for branch in branches if branch != Primitive("null")]
    return others[0] if len(branches) == 2 and len(others) == 1 else None


def _fast_type(schema: Schema, type_: Type, name: str) -> object:
    """Return the type under which Polars reads the same bytes with the least loss: ints untruncated, enums as numbers."""
    match schema.resolved(type_):
        case Union(branches):
            return [_fast_type(schema, branch, name) for branch in branches]
        case Primitive("int", _) | Enum():
            return "long"
        case Primitive(primitive, _):
            return primitive
        case Fixed(size_bytes):
            return {"type": "fixed", "name": f"fixed_{name}", "size": size_bytes}
        case other:
            raise AssertionError(f"not flat: {other}")


def _container(fields: Sequence[object], group: Block) -> bytes:
    """Return `group` as a file of one plain block."""
    schema = json.dumps({"type": "record", "name": "row", "fields": fields}).encode()
    sync = bytes(16)
    pairs = ((b"avro.schema", schema), (b"avro.codec", b"null"))
    metadata = b"".join(_varint(len(part)) + part for pair in pairs for part in pair)
    header = AVRO_MAGIC + _varint(len(pairs)) + metadata + _varint(0) + sync
    return b"".join((header, _varint(group.row_count), _varint(len(group.data)), group.data, sync))


def _varint(value: int) -> bytes:
    """Return a count, which is never negative, as a zigzag number."""
    rest, encoded = value << 1, bytearray()
    while rest > 0x7F:
        encoded.append(rest & 0x7F | 0x80)
        rest >>= 7
    encoded.append(rest)
    return bytes(encoded)


def _proven(plan: _Plan, arrays: Sequence[Any], group: Block) -> Mapping[str, Any] | None:
    """Return the columns when the rows, encoded again, would take `group.data` to the byte and tags are legal; else None.

    Lengths alone say where each field begins, so tags are looked up there and no row is encoded.
    """
    columns = [_FlatColumn.of(plan.schema, column, array) for column, array in zip(plan.columns, arrays, strict=True)]
    row_bytes: _Lengths = np.zeros(group.row_count, dtype=np.int64)
    for column in columns:
        row_bytes += column.widths
    if int(row_bytes.sum()) != len(group.data) or not all(column.is_in_range for column in columns):
        return None
    data = np.frombuffer(group.data, dtype=np.uint8)
    begins = np.cumsum(row_bytes) - row_bytes
    for column in columns:
        if not column.has_legal_tags(data, begins):
            return None
        begins += column.widths
    return {column.name: column.values for column in columns}


@dataclass(frozen=True, slots=True, kw_only=True)
class _FlatColumn:
    """A decoded column beside the shape of its encoded form."""

    name: str
    values: Any
    # Encoded bytes per row, the union's tag included; one number when all rows take the same.
    widths: _Lengths | np.int64
    is_in_range: bool
    is_boolean: bool
    # (tag byte of null, tag byte of a value) of a union, None when there is no union
    tags: tuple[int, int] | None

    @classmethod
    def of(cls, schema: Schema, column: WriterField, array: Any) -> "_FlatColumn":
        type_ = schema.resolved(column.type)
        tags = None
        if isinstance(type_, Union):
            null_first = type_.branches[0] == Primitive("null")
            tags = (0, 2) if null_first else (2, 0)  # zigzag of 0 and 1
            inner = _beside_null(schema, type_.branches)
            assert inner is not None
            type_ = inner
        widths: _Lengths | np.int64 = _widths(type_, array)
        if tags is not None:
            widths = np.where(_is_null(array), 1, widths + 1)
        low, high = _range(type_)
        is_in_range = True
        if high is not None:
            bounds = pc.min_max(array).as_py()
            is_in_range = bounds["min"] is None or (low <= bounds["min"] and bounds["max"] <= high)
        if isinstance(type_, Enum) and is_in_range:
            array = pa.array(type_.symbols, pa.string()).take(array)
        return cls(
            name=column.name,
            values=array,
            widths=widths,
            is_in_range=is_in_range,
            is_boolean=isinstance(type_, Primitive) and type_.name == "boolean",
            tags=tags,
        )

    def has_legal_tags(self, data: npt.NDArray[np.uint8], begins: _Lengths) -> bool:
        """Return whether the bytes at `begins` are the tags that the values imply, and booleans are 0 or 1."""
        at = begins
        if self.tags is not None:
            nulls = _is_null(self.values)
            if not np.array_equal(data[at], np.where(nulls, *self.tags)):
                return False
            at = at[~nulls] + 1
        return not self.is_boolean or bool((data[at] <= 1).all())


def _is_null(array: Any) -> npt.NDArray[np.bool_]:
    nulls: npt.NDArray[np.bool_] = array.is_null().to_numpy(zero_copy_only=False)
    return nulls


def _range(type_: Type) -> tuple[int, int | None]:
    match type_:
        case Primitive("int", _):
            return -(1 << 31), (1 << 31) - 1
        case Enum(symbols):
            return 0, len(symbols) - 1
        case _:
            return 0, None


def _widths(type_: Type, array: Any) -> _Lengths | np.int64:
    """Return the encoded bytes of each value, without a union's tag; nulls count as any value."""
    match type_:
        case Primitive("boolean", _):
            return np.int64(1)
        case Primitive("float", _):
            return np.int64(4)
        case Primitive("double", _):
            return np.int64(8)
        case Fixed(size_bytes):
            return np.int64(size_bytes)
        case Primitive("string" | "bytes", _):
            lengths = pc.binary_length(array).fill_null(0).to_numpy(zero_copy_only=False)
            sizes: _Lengths = lengths.astype(np.int64)
            return sizes + _varint_widths(sizes)
        case _:
            return _varint_widths(array.fill_null(0).to_numpy(zero_copy_only=False))


def _varint_widths(values: _Lengths) -> _Lengths:
    """Return how many bytes each value takes as a zigzag number: 7 bits in each."""
    zigzag = ((values << 1) ^ (values >> 63)).view(np.uint64)
    widths = np.ones(len(values), dtype=np.int64)
    highest = int(zigzag.max(initial=0))
    for bits in range(7, highest.bit_length(), 7):
        widths += zigzag >= np.uint64(1 << bits)
    return widths
