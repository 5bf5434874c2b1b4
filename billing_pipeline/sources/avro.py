"""Avro schemas, no I/O: a file's own (writer's) schema against what a reader wants -> a mapping, or why the file is refused.

Only the writer's logical types count: a reader that rescales by its own schema misreads micros as millis by three digits.
Aliases belong to the reader. Not here: bytes (resources/avro), values of rows (a null in a field that must not be null is
refused row by row).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from billing_pipeline.records import Reason

PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})
MAX_DEPTH = 64


class Kind(StrEnum):
    """What a field holds, as far as requests are concerned."""

    STRING = "string"
    UUID = "uuid"
    ENUM = "enum"
    INT = "int"
    LONG = "long"
    FLOAT = "float"
    DOUBLE = "double"
    BOOLEAN = "boolean"
    TIMESTAMP_MILLIS = "timestamp-millis"
    TIMESTAMP_MICROS = "timestamp-micros"
    LOCAL_TIMESTAMP = "local-timestamp"
    OTHER = "other"


TEXTS = frozenset({Kind.STRING, Kind.UUID})
INTEGERS = frozenset({Kind.INT, Kind.LONG})
NUMBERS = INTEGERS | {Kind.FLOAT, Kind.DOUBLE}
TIMESTAMPS = frozenset({Kind.TIMESTAMP_MILLIS, Kind.TIMESTAMP_MICROS})


class AvroSchemaError(Exception):
    """The document is not a schema by the Avro specification."""


@dataclass(frozen=True, slots=True)
class Primitive:
    """A primitive type; `logical` is its logicalType, known or not."""

    name: str
    logical: str | None = None


@dataclass(frozen=True, slots=True)
class Enum:
    symbols: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fixed:
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Array:
    items: "Type"


@dataclass(frozen=True, slots=True)
class Map:
    values: "Type"


@dataclass(frozen=True, slots=True)
class Union:
    branches: tuple["Type", ...]


@dataclass(frozen=True, slots=True)
class Reference:
    """A named type by its full name: a second use, or a recursion."""

    name: str


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    type: "Type"


@dataclass(frozen=True, slots=True)
class Record:
    name: str
    fields: tuple[Field, ...]


Type = Primitive | Enum | Fixed | Array | Map | Union | Reference | Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """A parsed schema: its root and every named type in it by full name."""

    root: Type
    named: Mapping[str, Type]

    def resolved(self, type_: Type) -> Type:
        """Return the type that a reference stands for."""
        return self.named[type_.name] if isinstance(type_, Reference) else type_


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterField:
    """A top-level field of the file. `kind` is the kind beside null, when the type is a union of it and null."""

    name: str
    type: Type
    kind: Kind
    nullable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedField:
    """What a reader wants of one canonical field.

    `names`: the writer's names that are accepted, in order of preference. `nullable`: whether the writer's type may allow
    null (rows with null may still be refused later). `optional`: whether the writer may lack the field.
    """

    name: str
    names: tuple[str, ...]
    kinds: frozenset[Kind]
    nullable: bool = True
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldSource:
    """The canonical field `name` is read from the writer's field `source`."""

    name: str
    source: str
    kind: Kind
    nullable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """How to read the file. `absent`: optional fields that the writer does not have."""

    fields: tuple[FieldSource, ...]
    absent: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaRefusal:
    """The file is refused as a whole. `field` is the canonical name, None when the record itself does not fit."""

    reason: Reason
    detail: str
    field: str | None = None


def resolve(
    writer: object, wanted: Sequence[WantedField], *, record_names: Collection[str]
) -> Resolution | SchemaRefusal:
    """Return where each wanted field is found in the schema `writer` (JSON as parsed), or the refusal.

    `record_names`: accepted names of the record; one without a dot accepts any namespace. More fields in the writer are
    ignored.
    """
    try:
        schema = parse_schema(writer)
    except AvroSchemaError as error:
        return SchemaRefusal(reason=Reason.BAD_AVRO, detail=str(error))
    root = schema.resolved(schema.root)
    if not isinstance(root, Record):
        return SchemaRefusal(reason=Reason.SCHEMA_INCOMPATIBLE, detail="the file does not hold records")
    if root.name not in record_names and root.name.rpartition(".")[2] not in record_names:
        expected = " or ".join(sorted(record_names))
        return SchemaRefusal(reason=Reason.SCHEMA_INCOMPATIBLE, detail=f"another record than {expected}")
    there = {field.name: field for field in writer_fields(schema)}
    sources: list[FieldSource] = []
    absent: list[str] = []
    for want in wanted:
        field = next((there[name] for name in want.names if name in there), None)
        if field is None and want.optional:
            absent.append(want.name)
            continue
        refusal = _refusal(want, field)
        if refusal is not None:
            return refusal
        assert field is not None
        sources.append(FieldSource(name=want.name, source=field.name, kind=field.kind, nullable=field.nullable))
    return Resolution(fields=tuple(sources), absent=tuple(absent))


def _refusal(want: WantedField, field: WriterField | None) -> SchemaRefusal | None:
    if field is None:
        names = " or ".join(want.names)
        detail = f"no field {names}; if it was renamed, register the new name as an alias"
        return SchemaRefusal(reason=Reason.SCHEMA_INCOMPATIBLE, detail=detail, field=want.name)
    if field.kind in want.kinds:
        if field.nullable and not want.nullable:
            detail = "may be null in this file, and must not be"
            return SchemaRefusal(reason=Reason.SCHEMA_INCOMPATIBLE, detail=detail, field=want.name)
        return None
    if want.kinds & TIMESTAMPS:
        if field.kind in NUMBERS:
            detail = f"{field.kind} without a logicalType names no unit of time"
            return SchemaRefusal(reason=Reason.TIMESTAMP_UNIT_UNKNOWN, detail=detail, field=want.name)
        if field.kind is Kind.LOCAL_TIMESTAMP:
            detail = "a local timestamp has no time zone"
            return SchemaRefusal(reason=Reason.NO_TIMEZONE, detail=detail, field=want.name)
    detail = f"is {field.kind}, expected {' or '.join(sorted(want.kinds))}"
    return SchemaRefusal(reason=Reason.SCHEMA_INCOMPATIBLE, detail=detail, field=want.name)


def writer_fields(schema: Schema) -> tuple[WriterField, ...]:
    """Return the top-level fields of a record schema, in the writer's order; () when the root is no record."""
    root = schema.resolved(schema.root)
    return tuple(_writer_field(schema, field) for field in root.fields) if isinstance(root, Record) else ()


def _writer_field(schema: Schema, field: Field) -> WriterField:
    type_ = schema.resolved(field.type)
    nullable = False
    if isinstance(type_, Union):
        others = [branch for branch in type_.branches if branch != Primitive("null")]
        nullable = len(others) < len(type_.branches)
        type_ = schema.resolved(others[0]) if len(others) == 1 else Primitive("null")
    return WriterField(name=field.name, type=field.type, kind=_kind(type_), nullable=nullable)


def _kind(type_: Type) -> Kind:
    match type_:
        case Enum():
            return Kind.ENUM
        case Primitive("string", logical):
            return Kind.UUID if logical == "uuid" else Kind.STRING
        case Primitive("long", "timestamp-millis" | "timestamp-micros" as logical):
            return Kind(logical)
        case Primitive("long", str(logical)) if logical.startswith("local-timestamp-"):
            return Kind.LOCAL_TIMESTAMP
        case Primitive("long" | "int", str(logical)) if logical in _OTHER_LOGICALS:
            return Kind.OTHER
        case Primitive("boolean" | "int" | "long" | "float" | "double" as name, _):
            return Kind(name)
        case _:
            return Kind.OTHER


# A number with one of these is known not to be a plain number.
_OTHER_LOGICALS = frozenset({"date", "time-millis", "time-micros", "timestamp-nanos"})


def parse_schema(document: object) -> Schema:
    """Return the parsed schema of `document`, JSON as Python objects.

    Raises:
        AvroSchemaError: unknown type, reference to nothing, double definition, missing attribute, nested too deep.
    """
    named: dict[str, Type] = {}
    root = _Parser(named).type(document, namespace="", depth=0)
    for reference in _references(root):
        if reference.name not in named:
            raise AvroSchemaError("a type is named that the schema does not define")
    return Schema(root=root, named=named)


class _Parser:
    """Collects named types while it walks a document."""

    def __init__(self, named: dict[str, Type]) -> None:
        self._named = named
        self._defined: set[str] = set()

    def type(self, document: object, *, namespace: str, depth: int) -> Type:
        if depth > MAX_DEPTH:
            raise AvroSchemaError(f"nested deeper than {MAX_DEPTH}")
        match document:
            case str(name):
                return Primitive(name) if name in PRIMITIVES else Reference(_full_name(name, namespace))
            case list(branches) if branches:
                return Union(tuple(self.type(branch, namespace=namespace, depth=depth + 1) for branch in branches))
            case {"type": "record" | "error", **rest}:
                return self._record(rest, namespace=namespace, depth=depth)
            case {"type": "enum", "symbols": list(symbols), **rest} if all(isinstance(one, str) for one in symbols):
                return self._define(rest, namespace, Enum(tuple(symbols)))
            case {"type": "fixed", "size": int(size), **rest} if size >= 0:
                return self._define(rest, namespace, Fixed(size))
            case {"type": "array", "items": items}:
                return Array(self.type(items, namespace=namespace, depth=depth + 1))
            case {"type": "map", "values": values}:
                return Map(self.type(values, namespace=namespace, depth=depth + 1))
            case {"type": str(name), **rest} if name in PRIMITIVES:
                logical = rest.get("logicalType")
                return Primitive(name, logical if isinstance(logical, str) else None)
            case {"type": inner}:
                return self.type(inner, namespace=namespace, depth=depth + 1)
            case _:
                raise AvroSchemaError("a type is missing or has no known form")

    def _record(self, document: Mapping[object, object], *, namespace: str, depth: int) -> Record:
        name = self._name(document, namespace)
        inner_namespace = name.rpartition(".")[0]
        fields = document.get("fields")
        if not isinstance(fields, list):
            raise AvroSchemaError("a record has no fields")
        parsed: list[Field] = []
        for field in fields:
            match field:
                case {"name": str(field_name), "type": type_}:
                    parsed.append(Field(field_name, self.type(type_, namespace=inner_namespace, depth=depth + 1)))
                case _:
                    raise AvroSchemaError("a field has no name or no type")
        if len({field.name for field in parsed}) != len(parsed):
            raise AvroSchemaError("a record has two fields of one name")
        record = Record(name, tuple(parsed))
        self._named[name] = record
        return record

    def _define(self, document: Mapping[object, object], namespace: str, type_: Enum | Fixed) -> Type:
        self._named[self._name(document, namespace)] = type_
        return type_

    def _name(self, document: Mapping[object, object], namespace: str) -> str:
        name, own_namespace = document.get("name"), document.get("namespace")
        if not isinstance(name, str) or not name:
            raise AvroSchemaError("a record, enum or fixed has no name")
        full_name = _full_name(name, own_namespace if isinstance(own_namespace, str) else namespace)
        if full_name in self._defined:
            raise AvroSchemaError("a type is defined twice")
        self._defined.add(full_name)
        return full_name


def _full_name(name: str, namespace: str) -> str:
    return name if "." in name or not namespace else f"{namespace}.{name}"


def _references(type_: Type) -> Iterator[Reference]:
    match type_:
        case Reference():
            yield type_
        case Array(inner) | Map(inner):
            yield from _references(inner)
        case Union(branches):
            for branch in branches:
                yield from _references(branch)
        case Record(_, fields):
            for field in fields:
                yield from _references(field.type)
        case _:
            return


def wanted_fields(reader: Mapping[str, object]) -> tuple[WantedField, ...]:
    """Return what a reader's schema wants: its field names and aliases, promotions by the Avro rules, defaults as optional.

    A field may be null in the writer whatever the reader says: rows with null are refused one by one.
    """
    aliases = _aliases(reader)
    return tuple(
        WantedField(
            name=field.name,
            names=(field.name, *aliases[field.name]),
            kinds=_PROMOTIONS.get(field.kind, frozenset({field.kind})),
            optional=field.name in _defaults(reader),
        )
        for field in writer_fields(parse_schema(reader))
    )


# Reader's kind -> writer's kinds it takes. Both timestamps are delivered as microseconds, so one takes the other.
_PROMOTIONS: Mapping[Kind, frozenset[Kind]] = {
    Kind.STRING: TEXTS,
    Kind.LONG: INTEGERS,
    Kind.FLOAT: INTEGERS | {Kind.FLOAT},
    Kind.DOUBLE: NUMBERS,
    Kind.TIMESTAMP_MILLIS: TIMESTAMPS,
    Kind.TIMESTAMP_MICROS: TIMESTAMPS,
}


def compatible(old: Mapping[str, object], new: Mapping[str, object]) -> tuple[str, ...]:
    """Return why `new` may not follow `old` as the version of a published schema; () when it may.

    Backward compatible: a reader with `new` reads every file written with `old`. Stricter than Avro in one point: no field
    is ever removed, because a file of an older writer would lose a fact without a word.
    """
    old_schema, new_schema = parse_schema(old), parse_schema(new)
    problems: list[str] = []
    old_root, new_root = old_schema.resolved(old_schema.root), new_schema.resolved(new_schema.root)
    if not isinstance(old_root, Record) or not isinstance(new_root, Record):
        return ("both versions must be records",)
    namespace = new_root.name.rpartition(".")[0]
    if old_root.name not in {new_root.name, *(_full_name(alias, namespace) for alias in _strings(new.get("aliases")))}:
        problems.append("the record was renamed without an alias")
    old_fields = {field.name: field for field in writer_fields(old_schema)}
    aliases, defaults = _aliases(new), _defaults(new)
    followed: set[str] = set()
    for field in writer_fields(new_schema):
        before = next((old_fields[name] for name in (field.name, *aliases[field.name]) if name in old_fields), None)
        if before is None:
            if field.name not in defaults:
                problems.append(f"{field.name} is new and has no default")
            continue
        followed.add(before.name)
        if before.kind is not field.kind and before.kind not in _PROMOTIONS.get(field.kind, frozenset()):
            problems.append(f"{field.name} was {before.kind} and cannot become {field.kind}")
        if before.nullable and not field.nullable:
            problems.append(f"{field.name} could be null and cannot become required")
        problems.extend(_lost_symbols(field.name, old_schema.resolved(before.type), new_schema.resolved(field.type)))
    problems.extend(f"{name} was removed" for name in old_fields if name not in followed)
    return tuple(problems)


def _lost_symbols(name: str, before: Type, after: Type) -> Iterator[str]:
    if isinstance(before, Enum) and isinstance(after, Enum) and not set(before.symbols) <= set(after.symbols):
        yield f"{name} lost symbols of its enum"


def _field_documents(schema: Mapping[str, object]) -> Iterator[tuple[str, Mapping[str, object]]]:
    fields = schema.get("fields")
    for field in fields if isinstance(fields, list) else ():
        yield field["name"], field


def _aliases(schema: Mapping[str, object]) -> Mapping[str, tuple[str, ...]]:
    return {name: _strings(field.get("aliases")) for name, field in _field_documents(schema)}


def _defaults(schema: Mapping[str, object]) -> frozenset[str]:
    return frozenset(name for name, field in _field_documents(schema) if "default" in field)


def _strings(value: object) -> tuple[str, ...]:
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list) else ()
