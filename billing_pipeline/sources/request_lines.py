"""Read one request: (line or decoded fields, profile) -> RequestRecord, Rejection or OutOfScope. Pure.

This is the rule for every line; `request_sql` is its fast form for lines beyond doubt, and a differential test holds the two
together. A field that is not named by the profile is dropped here. Not here: files, compression, deduplication.
"""

import hashlib
import hmac
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal, localcontext
from functools import lru_cache

from billing_pipeline.records import OutOfScope, Reason, Rejection, RequestRecord, line_digest
from billing_pipeline.sources.endpoints import endpoint_of
from billing_pipeline.sources.json_numbers import exact_decimal, exact_integer
from billing_pipeline.sources.profile import (
    DurationField,
    FlagField,
    MarkerField,
    NumberField,
    PseudonymField,
    SourceProfile,
    TextField,
)
from billing_pipeline.sources.timestamps import in_range, parse_instant

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT")
LARGEST_INTEGER = 2**63 - 1
MAX_DEPTH = 32
MICROSECONDS_PER_UNIT = {"s": 1_000_000, "ms": 1_000, "us": 1}

_QUOTED_NUMBER = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?", re.ASCII)
# What common writers and the bulk parser let pass: a comma before a closing bracket, words for numbers that are none, and whole
# numbers of thousands of digits. Read, so that one reading holds for every line; such a number in a field that counts is refused.
_LENIENCE = re.compile(r'"(?:[^"\\]|\\.)*"|,(?=\s*[}\]])|-?\b(?:nan|inf(?:inity)?)\b', re.IGNORECASE)
_MISSING = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class FileContext:
    """What a line's meaning depends on beside its text. `content_sha256` and position are the identity where none is given;
    `as_of` is when the file was first seen."""

    content_sha256: str
    as_of: datetime
    pseudonym_key: bytes

    def __repr__(self) -> str:
        return f"FileContext({self.content_sha256[:16]})"


class _RefusedError(Exception):
    """Leaves the field-by-field reading with a reason."""

    def __init__(self, reason: Reason, field: str | None = None) -> None:
        self.reason = reason
        self.field = field


def read_line(
    line: bytes, *, line_number: int, profile: SourceProfile, context: FileContext
) -> RequestRecord | Rejection | OutOfScope:
    """Return what one line of JSON says. `line` may end in a line end; a line without one was cut off."""
    try:
        fields = _decode(line, max_bytes=profile.max_line_bytes)
    except _RefusedError as refused:
        return Rejection(
            line_number=line_number, reason=refused.reason, field=refused.field, line_sha256=line_digest(line)
        )
    result = read_fields(fields, line_number=line_number, profile=profile, context=context)
    if isinstance(result, Rejection):
        return Rejection(
            line_number=line_number, reason=result.reason, field=result.field, line_sha256=line_digest(line)
        )
    return result


def read_fields(
    fields: Mapping[str, object], *, line_number: int, profile: SourceProfile, context: FileContext
) -> RequestRecord | Rejection | OutOfScope:
    """Return what decoded fields say: numbers as int or Decimal, instants as text, number or aware datetime."""
    spec = profile.fields
    try:
        if spec.scope is not None and _value(fields, spec.scope.path) not in spec.scope.values:
            return OutOfScope(line_number=line_number)
        event_id = (
            f"{context.content_sha256[:16]}:{line_number}"
            if spec.event_id is None
            else _text(fields, spec.event_id, "event_id")
        )
        method, target = _method_and_target(fields, profile)
        return RequestRecord(
            event_id=event_id,
            event_at=_instant(fields, profile, context),
            client_id=_client(fields, profile, context),
            method=method,
            endpoint=endpoint_of(target, profile.endpoints),
            status_code=_status(fields, spec.status_code),
            response_time_us=_duration_us(fields, spec.response_time),
            response_bytes=_integer(fields, spec.response_bytes, "response_bytes"),
            is_simulated=_simulated(fields, profile),
        )
    except _RefusedError as refused:
        return Rejection(line_number=line_number, reason=refused.reason, field=refused.field)


def _decode(line: bytes, *, max_bytes: int) -> Mapping[str, object]:
    if len(line) > max_bytes:
        raise _RefusedError(Reason.TOO_LONG)
    if b"\x00" in line:
        raise _RefusedError(Reason.NUL_BYTES)
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        raise _RefusedError(Reason.ENCODING) from None
    # A byte order mark may stand in the middle where files were joined; it says nothing.
    text = text.lstrip("\ufeff").rstrip("\r\n")
    if _deeper_than(text, MAX_DEPTH):
        raise _RefusedError(Reason.TOO_DEEP)
    value = _parse_json(text)
    if value is _MISSING:
        value = _parse_json(_LENIENCE.sub(_strict_spelling, text), parse_integer=exact_integer)
    if value is _MISSING:
        cut = not line.endswith(b"\n") and text.lstrip().startswith("{") and not text.rstrip().endswith("}")
        raise _RefusedError(Reason.TRUNCATED_LINE if cut else Reason.BAD_JSON)
    if not isinstance(value, dict):
        raise _RefusedError(Reason.NOT_AN_OBJECT)
    return value


def _parse_json(text: str, parse_integer: Callable[[str], int | Decimal] = int) -> object:
    try:
        return json.loads(
            text,
            parse_float=exact_decimal,
            parse_int=parse_integer,
            parse_constant=Decimal,
            object_pairs_hook=_keep_ambiguity,
        )
    except ValueError:
        return _MISSING


def _strict_spelling(match: re.Match[str]) -> str:
    token = match.group()
    if token.startswith('"'):
        return token
    return "" if token.startswith(",") else "NaN"


def _deeper_than(text: str, limit: int) -> bool:
    # Brackets inside strings count too: a bound on the parser's recursion, not a grammar.
    if text.count("[") + text.count("{") <= limit:
        return False
    depth = 0
    for character in text:
        if character in "[{":
            depth += 1
            if depth > limit:
                return True
        elif character in "]}":
            depth -= 1
    return False


class _AmbiguousObject(dict[str, object]):
    """An object that says some keys twice. Harmless where they are dropped, refused where one of them is read."""

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        super().__init__(pairs)
        counts = Counter(key for key, _ in pairs)
        self.repeated = frozenset(key for key, count in counts.items() if count > 1)


def _keep_ambiguity(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table = dict(pairs)
    return table if len(table) == len(pairs) else _AmbiguousObject(pairs)


def _value(fields: Mapping[str, object], path: str) -> object:
    value: object = fields
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return _MISSING
        if isinstance(value, _AmbiguousObject) and part in value.repeated:
            raise _RefusedError(Reason.DUPLICATE_KEY, path)
        value = value[part]
    return value


def _first(fields: Mapping[str, object], path: str, aliases: tuple[str, ...]) -> object:
    for candidate in (path, *aliases):
        value = _value(fields, candidate)
        if value is not _MISSING:
            return value
    return _MISSING


@lru_cache(maxsize=256)
def _pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.ASCII)


def _raw_text(value: object, name: str) -> str:
    if value is _MISSING or value is None:
        raise _RefusedError(Reason.MISSING_FIELD, name)
    if not isinstance(value, str):
        raise _RefusedError(Reason.WRONG_TYPE, name)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise _RefusedError(Reason.ENCODING, name) from None
    return value


def _text(fields: Mapping[str, object], spec: TextField, name: str) -> str:
    text = _raw_text(_first(fields, spec.path, spec.aliases), name)
    if not _pattern(spec.pattern).fullmatch(text):
        raise _RefusedError(Reason.BAD_VALUE, name)
    return text


def _method_and_target(fields: Mapping[str, object], profile: SourceProfile) -> tuple[str, str]:
    spec = profile.fields
    if spec.request_line is not None:
        text = _raw_text(_first(fields, spec.request_line.path, spec.request_line.aliases), "request_line")
        parts = text.split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/"):
            raise _RefusedError(Reason.BAD_VALUE, "request_line")
        method, target = parts[0], parts[1]
    else:
        assert spec.method is not None
        assert spec.path is not None
        method = _raw_text(_first(fields, spec.method.path, spec.method.aliases), "method")
        target = _raw_text(_first(fields, spec.path.path, spec.path.aliases), "path")
    if method not in METHODS:
        raise _RefusedError(Reason.BAD_VALUE, "method")
    if not target:
        raise _RefusedError(Reason.BAD_PATH, "path")
    return method, target


def _instant(fields: Mapping[str, object], profile: SourceProfile, context: FileContext) -> datetime:
    spec = profile.fields.event_at
    value = _first(fields, spec.path, spec.aliases)
    if value is _MISSING or value is None:
        raise _RefusedError(Reason.MISSING_FIELD, "event_at")
    if isinstance(value, datetime):
        instant = in_range(value, as_of=context.as_of)
    else:
        instant = parse_instant(value, layout=spec.layout, as_of=context.as_of)
    if isinstance(instant, Reason):
        raise _RefusedError(instant, "event_at")
    return instant


def _client(fields: Mapping[str, object], profile: SourceProfile, context: FileContext) -> str:
    spec = profile.fields.client_id
    if isinstance(spec, PseudonymField):
        parts = [_raw_text(_value(fields, path), "client_id") for path in spec.pseudonym_of]
        return pseudonym(parts, key=context.pseudonym_key)
    return _text(fields, spec, "client_id")


def pseudonym(parts: list[str], *, key: bytes) -> str:
    """Return `c_` and 16 hex digits of HMAC-SHA-256 over the parts: stable for one key, not to be turned back without it."""
    message = "\x1f".join(parts).encode("utf-8")
    return "c_" + hmac.new(key, message, hashlib.sha256).hexdigest()[:16]


def _number(fields: Mapping[str, object], spec: NumberField, name: str) -> int | Decimal | None:
    value = _first(fields, spec.path, spec.aliases)
    if value is _MISSING or value is None:
        # Avro cannot tell an absent field from null, so optional covers both.
        if spec.optional or (spec.nullable and value is None):
            return None
        raise _RefusedError(Reason.MISSING_FIELD, name)
    if isinstance(value, str) and value in spec.null_tokens:
        if spec.nullable:
            return None
        raise _RefusedError(Reason.MISSING_FIELD, name)
    if spec.quoted:
        if not isinstance(value, str):
            raise _RefusedError(Reason.WRONG_TYPE, name)
        if not _QUOTED_NUMBER.fullmatch(value):
            raise _RefusedError(Reason.BAD_VALUE, name)
        return Decimal(value)
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise _RefusedError(Reason.WRONG_TYPE, name)
    if isinstance(value, Decimal) and not value.is_finite():
        raise _RefusedError(Reason.OUT_OF_RANGE, name)
    return value


def _integer(fields: Mapping[str, object], spec: NumberField | None, name: str) -> int | None:
    if spec is None:
        return None
    value = _number(fields, spec, name)
    if value is None:
        return None
    if isinstance(value, Decimal):
        if not spec.quoted or "." in str(value):
            raise _RefusedError(Reason.OUT_OF_RANGE, name)
        value = int(value)
    if not 0 <= value <= LARGEST_INTEGER:
        raise _RefusedError(Reason.OUT_OF_RANGE, name)
    return value


def _status(fields: Mapping[str, object], spec: NumberField) -> int:
    value = _number(fields, spec, "status_code")
    if value is None:
        raise _RefusedError(Reason.MISSING_FIELD, "status_code")
    if isinstance(value, Decimal):
        if not spec.quoted or "." in str(value):
            raise _RefusedError(Reason.WRONG_TYPE, "status_code")
        value = int(value)
    if not 100 <= value <= 599:
        raise _RefusedError(Reason.OUT_OF_RANGE, "status_code")
    return value


def _duration_us(fields: Mapping[str, object], spec: DurationField | None) -> int | None:
    if spec is None:
        return None
    value = _number(fields, spec, "response_time")
    if value is None:
        return None
    if value < 0 or value > LARGEST_INTEGER:
        raise _RefusedError(Reason.OUT_OF_RANGE, "response_time")
    with localcontext() as context:
        context.prec = 60
        microseconds = int(
            (Decimal(value) * MICROSECONDS_PER_UNIT[spec.unit]).to_integral_value(rounding=ROUND_HALF_UP)
        )
    if microseconds > LARGEST_INTEGER:
        raise _RefusedError(Reason.OUT_OF_RANGE, "response_time")
    return microseconds


def _simulated(fields: Mapping[str, object], profile: SourceProfile) -> bool:
    spec = profile.fields.simulated
    if spec is None:
        return False
    if isinstance(spec, MarkerField):
        text = _raw_text(_value(fields, spec.path), "simulated")
        return _pattern(spec.pattern).search(text) is not None
    return _flag(fields, spec)


def _flag(fields: Mapping[str, object], spec: FlagField) -> bool:
    value = _first(fields, spec.path, spec.aliases)
    if value is _MISSING or value is None:
        raise _RefusedError(Reason.FLAG_MISSING, "simulated")
    if not isinstance(value, bool):
        raise _RefusedError(Reason.WRONG_TYPE, "simulated")
    return value == spec.simulated_when
