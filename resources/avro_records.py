"""Read Avro records one by one, by the letter of the specification: the reference, and the reader of unusual schemas.

Refuses what lax readers let pass: a boolean that is neither 0 nor 1, a union branch that does not exist, an int of more than
32 bits, text that is not UTF-8. Only deliverable top-level fields become values; the rest is checked and skipped. About
100,000 records a second; `resources/avro.py` has the fast way.
"""

import struct
from collections.abc import Callable, Iterator, Sequence

from billing_pipeline.sources.avro import (
    Array,
    Enum,
    Fixed,
    Map,
    Primitive,
    Record,
    Reference,
    Schema,
    Type,
    Union,
    WriterField,
)

Value = str | int | float | bool | None
# (data, position) -> (value, next position)
_Read = Callable[[bytes, int], tuple[Value, int]]

_DOUBLE = struct.Struct("<d")
_FLOAT = struct.Struct("<f")
_INT_RANGE = 1 << 31


class MalformedRecordError(Exception):
    """The bytes are no record of the schema. The text holds no content."""


def read_records(
    schema: Schema, wanted: Sequence[WriterField | None], data: bytes, row_count: int
) -> Iterator[tuple[Value, ...]]:
    """Yield the values of `wanted` for each of `row_count` records, and see to it that they fill `data` exactly.

    `wanted` has one entry per top-level field of the schema, None for a field that is only skipped.

    Raises:
        MalformedRecordError: the bytes do not follow the schema.
    """
    root = schema.resolved(schema.root)
    assert isinstance(root, Record)
    readers = _Readers(schema)
    steps = [(readers.of(field.type), want is not None) for field, want in zip(root.fields, wanted, strict=True)]
    at = 0
    try:
        for _ in range(row_count):
            row = []
            for read, kept in steps:
                value, at = read(data, at)
                if kept:
                    row.append(value)
            yield tuple(row)
    except (IndexError, struct.error) as error:
        raise MalformedRecordError("a record is cut off") from error
    except UnicodeDecodeError as error:
        raise MalformedRecordError("text is not UTF-8") from error
    except RecursionError as error:
        raise MalformedRecordError("a record is nested too deep") from error
    if at != len(data):
        raise MalformedRecordError(f"{len(data) - at} bytes are left after the declared records")


def _long(data: bytes, at: int) -> tuple[int, int]:
    byte = data[at]
    at += 1
    if byte < 0x80:
        return (byte >> 1) ^ -(byte & 1), at
    value, shift = byte & 0x7F, 7
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 63:
            raise MalformedRecordError("a number of more than 64 bits")
    if value >> 64:
        raise MalformedRecordError("a number of more than 64 bits")
    return (value >> 1) ^ -(value & 1), at


def _int(data: bytes, at: int) -> tuple[int, int]:
    value, at = _long(data, at)
    if not -_INT_RANGE <= value < _INT_RANGE:
        raise MalformedRecordError("an int of more than 32 bits")
    return value, at


def _boolean(data: bytes, at: int) -> tuple[bool, int]:
    byte = data[at]
    if byte > 1:
        raise MalformedRecordError("a boolean that is neither true nor false")
    return byte == 1, at + 1


def _float(data: bytes, at: int) -> tuple[float, int]:
    return _FLOAT.unpack_from(data, at)[0], at + 4


def _double(data: bytes, at: int) -> tuple[float, int]:
    return _DOUBLE.unpack_from(data, at)[0], at + 8


def _null(data: bytes, at: int) -> tuple[None, int]:
    return None, at


def _string(data: bytes, at: int) -> tuple[str, int]:
    start, end = _span(data, at)
    return data[start:end].decode(), end


def _bytes(data: bytes, at: int) -> tuple[None, int]:
    return None, _span(data, at)[1]


def _span(data: bytes, at: int) -> tuple[int, int]:
    size, at = _long(data, at)
    if not 0 <= size <= len(data) - at:
        raise MalformedRecordError("a length that the data does not have")
    return at, at + size


_PRIMITIVES: dict[str, _Read] = {
    "null": _null,
    "boolean": _boolean,
    "int": _int,
    "long": _long,
    "float": _float,
    "double": _double,
    "bytes": _bytes,
    "string": _string,
}


class _Readers:
    """One reader per type; those of named types are made once, so that a recursive type ends."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._named: dict[str, _Read] = {}

    def of(self, type_: Type) -> _Read:
        match type_:
            case Primitive(name, _):
                return _PRIMITIVES[name]
            case Enum(symbols):
                return _enum(symbols)
            case Fixed(size_bytes):
                return _fixed(size_bytes)
            case Array(items):
                return _repeated(self.of(items))
            case Map(values):
                return _repeated(_in_order((_string, self.of(values))))
            case Union(branches):
                return _union(tuple(self.of(branch) for branch in branches))
            case Record(_, fields):
                return _in_order(tuple(self.of(field.type) for field in fields))
            case Reference(name):
                return self._reference(name)

    def _reference(self, name: str) -> _Read:
        def read(data: bytes, at: int) -> tuple[Value, int]:
            if name not in self._named:
                self._named[name] = self.of(self._schema.named[name])
            return self._named[name](data, at)

        return read


def _enum(symbols: tuple[str, ...]) -> _Read:
    def read(data: bytes, at: int) -> tuple[Value, int]:
        index, at = _int(data, at)
        if not 0 <= index < len(symbols):
            raise MalformedRecordError("a symbol that the enum does not have")
        return symbols[index], at

    return read


def _fixed(size_bytes: int) -> _Read:
    def read(data: bytes, at: int) -> tuple[Value, int]:
        if size_bytes > len(data) - at:
            raise MalformedRecordError("a record is cut off")
        return None, at + size_bytes

    return read


def _union(branches: tuple[_Read, ...]) -> _Read:
    def read(data: bytes, at: int) -> tuple[Value, int]:
        index, at = _int(data, at)
        if not 0 <= index < len(branches):
            raise MalformedRecordError("a branch that the union does not have")
        return branches[index](data, at)

    return read


def _in_order(parts: tuple[_Read, ...]) -> _Read:
    def read(data: bytes, at: int) -> tuple[Value, int]:
        for part in parts:
            _, at = part(data, at)
        return None, at

    return read


def _repeated(item: _Read) -> _Read:
    """Return the reader of an array or map: parts of (count, items), a negative count followed by the part's bytes."""

    def read(data: bytes, at: int) -> tuple[Value, int]:
        while True:
            count, at = _long(data, at)
            if count == 0:
                return None, at
            end = None
            if count < 0:
                at, end = _span(data, at)
                count = -count
            for _ in range(count):
                before = at
                _, at = item(data, at)
                if at == before:
                    break  # items of no bytes: any number of them is read at once
            if end is not None and at != end:
                raise MalformedRecordError("an array part of another size than it declares")

    return read
