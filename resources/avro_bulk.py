"""Read flat Avro records fast: Polars decodes, and the rows are then proven against the bytes.

Polars lets damage pass (a boolean of 2, a branch that does not exist, bytes left over). Its rows count only when each row,
encoded again, would take the bytes that it was read from: total length, tag bytes and ranges are compared, by column. Rows
that are not proven are not judged here: `avro_records` decides.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from billing_pipeline.sources.avro import Enum, Fixed, Primitive, Schema, Type, Union, WriterField
from resources.avro_container import Block
from resources.inflate import AVRO_MAGIC

_Lengths = npt.NDArray[np.int64]


def is_flat(schema: Schema, type_: Type) -> bool:
    """Return whether the encoded length of a value of this type follows from the value."""
    match schema.resolved(type_):
        case Union(branches):
            inner = _beside_null(schema, branches)
            return inner is not None and not isinstance(inner, Union) and is_flat(schema, inner)
        case Primitive(name, _):
            return name != "null"
        case Fixed(size_bytes):
            return size_bytes > 0
        case Enum():
            return True
        case _:
            return False


def decoded(schema: Schema, columns: Sequence[WriterField], group: Block) -> Mapping[str, Any] | None:
    """Return the Arrow columns by the writer's names, or None when the rows cannot be proven.

    `columns` are all fields of the record, each flat. Integers and timestamps come as int64 in the writer's unit, enums as
    text, the rest in Polars' types.
    """
    import polars
    from polars.exceptions import PanicException, PolarsError

    types = [_fast_type(schema, column.type, f"f{number}") for number, column in enumerate(columns)]
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
    return _proven(schema, columns, arrays, group)


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


def _proven(
    schema: Schema, columns: Sequence[WriterField], arrays: Sequence[Any], group: Block
) -> Mapping[str, Any] | None:
    """Return the columns when the rows, encoded again, would take `group.data` to the byte and tags are legal; else None.

    Lengths alone say where each field begins, so tags are looked up there and no row is encoded.
    """
    flat = [_FlatColumn.of(schema, column, array) for column, array in zip(columns, arrays, strict=True)]
    row_bytes: _Lengths = np.zeros(group.row_count, dtype=np.int64)
    for column in flat:
        row_bytes += column.widths
    if int(row_bytes.sum()) != len(group.data) or not all(column.is_in_range for column in flat):
        return None
    data = np.frombuffer(group.data, dtype=np.uint8)
    begins = np.cumsum(row_bytes) - row_bytes
    for column in flat:
        if not column.has_legal_tags(data, begins):
            return None
        begins += column.widths
    return {column.name: column.values for column in flat}


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
        case Primitive("long", _):
            # Beyond lies the tenth byte, whose excess bits Polars drops unseen; the strict reader looks at them.
            return -(1 << 62), (1 << 62) - 1
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
