"""Read lines that are spelled like one of them by position, many at once: places and shape -> columns of lines beyond doubt.

What a shape leaves out is not refused: it is read by the bulk query and by `request_lines`, whose word is final. So each
condition may be stricter than the rule, never laxer. A profile or a shape with anything unusual has no reading.
Not here: what a shape is (`billing_pipeline/sources/line_shape`), endpoints (shaped_paths), which lines are left (request_reader).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from billing_pipeline.sources.line_shape import LineShape, usual_shapes
from billing_pipeline.sources.profile import (
    IDENTIFIER,
    DurationField,
    FlagField,
    InstantField,
    NumberField,
    SourceProfile,
    TextField,
)
from billing_pipeline.sources.request_lines import MAX_DEPTH, METHODS
from billing_pipeline.sources.request_sql import TextCheck
from resources import packed_values, text_columns
from resources.byte_windows import Bytes, ByteWindows, Mask, Places, array_of, array_of_texts, begin_with, lowest_bit
from resources.shaped_paths import LONGEST_PART, Routes, harmless_lengths, read_targets, routes_of

# Nothing that is looked at lies further behind a line's start: a buffer needs so much room behind its last line.
LONGEST_SHAPE = 4_096
_LONGEST_TOKEN = 16
_MOST_SPELLINGS = 8
# Lines that are read together: enough that calling costs little, few enough that what is known of them stays in the cache.
_ROWS_AT_ONCE = 16_384
_PLACES_PER_UNIT = {"s": 6, "ms": 3, "us": 0}
_QUOTE, _POINT = b'".'
_TEXTS = frozenset({"event_id", "event_at", "client_id", "method", "endpoint"})
_METHOD_NAMES = array_of_texts(METHODS)

_Field = TextField | InstantField | NumberField | FlagField


@dataclass(frozen=True, slots=True)
class ShapedRows:
    """Canonical columns of the lines at `indices` of those that were asked for; none of a field that the profile has not."""

    indices: Places
    columns: Mapping[str, pa.Array]


@dataclass(frozen=True, slots=True)
class Reading:
    """How lines of `shape` are read: the canonical column of each slot, None where the profile does not name it."""

    shape: LineShape
    columns: tuple[str | None, ...]
    fields: Mapping[str, _Field]
    routes: Routes


def reading_of(profile: SourceProfile, shape: LineShape) -> Reading | None:
    """Return how lines of `shape` are read, None where that is for others to do."""
    fields, routes = _usual_fields(profile), routes_of(profile.endpoints)
    span = sum(map(len, shape.literals)) + len(shape.slots) * 4 * LONGEST_PART
    depth = sum(literal.count(b"{") + literal.count(b"[") for literal in shape.literals)
    if fields is None or routes is None or depth > MAX_DEPTH or span > min(LONGEST_SHAPE, profile.max_line_bytes):
        return None
    keys_of = {column: tuple(spec.path.split(".")) for column, spec in fields.items()}
    by_keys = {keys: column for column, keys in keys_of.items()}
    columns = tuple(by_keys.get(slot.keys) for slot in shape.slots)
    for name in fields.keys() - set(columns):
        spec, keys = fields[name], keys_of[name]
        is_object = any(slot.keys[: len(keys)] == keys for slot in shape.slots)
        if is_object or not (isinstance(spec, NumberField) and spec.optional):
            return None
    for slot, column, length in zip(shape.slots, columns, shape.lengths, strict=True):
        if column is not None and slot.is_text != (column in _TEXTS):
            return None
        if column == "event_at" and length not in packed_values.INSTANT_LENGTHS:
            return None
    return Reading(shape, columns, fields, routes)


def _usual_fields(profile: SourceProfile) -> Mapping[str, _Field] | None:
    """Return column -> field of a profile whose fields are all of the usual kinds."""
    fields = profile.fields
    named = {
        "event_id": fields.event_id,
        "event_at": fields.event_at,
        "client_id": fields.client_id,
        "method": fields.method,
        "endpoint": fields.path,
        "status_code": fields.status_code,
        "response_time_us": fields.response_time,
        "response_bytes": fields.response_bytes,
        "is_simulated": fields.simulated,
    }
    usual: dict[str, _Field] = {}
    for column, spec in named.items():
        match spec:
            case None:
                continue
            case TextField() if column in ("event_id", "client_id") and spec.pattern != IDENTIFIER:
                return None
            case InstantField() if spec.layout != "rfc3339":
                return None
            case NumberField() if spec.quoted or spec.null_tokens:
                return None
            case TextField() | InstantField() | NumberField() | FlagField() if not spec.aliases:
                usual[column] = spec
            case _:
                return None
    has_more = fields.scope is not None or fields.request_line is not None
    return None if has_more or len({spec.path for spec in usual.values()}) < len(usual) else usual


class KnownSpellings:
    """How lines were spelled so far, of all files that a thread has read: only what is spelled otherwise is looked at anew."""

    def __init__(self) -> None:
        self._readings: dict[tuple[str, LineShape], Reading] = {}

    def readings(self, profile: SourceProfile) -> list[Reading]:
        """Return the readings for `profile`."""
        return [reading for (digest, _), reading in self._readings.items() if digest == profile.sha256]

    def learned(self, profile: SourceProfile, lines: Iterable[bytes]) -> list[Reading]:
        """Return readings for the spellings of `lines` that were not known, the most frequent first, and keep them."""
        found = []
        for shape in usual_shapes(lines):
            reading = None if (profile.sha256, shape) in self._readings else reading_of(profile, shape)
            if reading is not None:
                found.append(reading)
                self._readings[profile.sha256, shape] = reading
        while len(self._readings) > _MOST_SPELLINGS:
            self._readings.pop(next(iter(self._readings)))
        return found


def read_shaped(data: bytes, starts: Places, reading: Reading, *, latest_us: int) -> ShapedRows | None:
    """Return what the lines that begin at `starts` say, of those that have the reading's shape; None if there is none.

    `latest_us`: the last instant that is not in the future. `data` goes on for LONGEST_SHAPE bytes behind the last start.
    """
    windows = ByteWindows(data)
    blocks = [
        block
        for first in range(0, len(starts), _ROWS_AT_ONCE)
        if (block := _read_block(windows, starts, first, reading, latest_us)) is not None
    ]
    if not blocks:
        return None
    indices = np.concatenate([block.indices for block in blocks])
    texts = {column: _joined_texts(windows, [block.texts[column] for block in blocks]) for column in blocks[0].texts}
    clients = texts["client_id"].dictionary_encode()
    columns = {column: _column(column, blocks, reading) for column in blocks[0].values}
    passed = _are_identifiers(clients.dictionary)[clients.indices.to_numpy()]
    if "event_id" in texts:
        passed &= _are_identifiers(texts["event_id"])
    if not passed.all():
        indices, mask = indices[passed], array_of(passed)
        columns, texts = ({name: one.filter(mask) for name, one in some.items()} for some in (columns, texts))
        # Made anew: the dictionary is written as a whole, and what did not pass may be anything, an address too.
        clients = texts["client_id"].dictionary_encode()
    return ShapedRows(indices, {**columns, **texts, "client_id": clients})


@dataclass(slots=True)
class _Block:
    """Lines while they are read: how far each has come, which are still beyond doubt, what was found."""

    reading: Reading
    windows: ByteWindows
    indices: Places
    at: Places
    sure: Mask
    values: dict[str, Places] = field(default_factory=dict)
    nulls: dict[str, Mask] = field(default_factory=dict)
    texts: dict[str, tuple[Places, Places | int]] = field(default_factory=dict)

    def pass_literal(self, literal: bytes) -> None:
        """Go over what all lines of the shape have in common."""
        self.sure &= self.windows.spelled_at(self.at, literal)
        self.at = self.at + len(literal)

    def read_value(self, column: str | None, *, is_text: bool, length: int, stop: int) -> None:
        """Go over a value. One line's has `length`; behind each is the byte `stop`, or else the next literal is not there."""
        lengths: Places | int
        match column:
            case "event_id" | "client_id":
                lengths = self._identifier_lengths(length)
                self.texts[column] = self.at, lengths
            case "event_at":
                lengths = length
                self._take(column, *packed_values.instants(self.windows, self.at, length))
            case "method":
                lengths = self._method_lengths()
            case "endpoint":
                lengths, templates, sure = read_targets(self.windows, self.at, self.reading.routes)
                self._take(column, templates, sure)
            case "is_simulated":
                lengths = self._flag_lengths()
            case None if is_text:
                lengths = harmless_lengths(self.windows, self.at)
            case _:
                lengths = self._number_lengths(column, stop)
        self.at = self.at + lengths

    def keep_sure(self) -> None:
        """Forget the lines that are not beyond doubt."""
        if self.sure.all():
            return
        rows = np.flatnonzero(self.sure)
        self.indices = self.indices[rows]
        self.values = {column: values[rows] for column, values in self.values.items()}
        self.nulls = {column: nulls[rows] for column, nulls in self.nulls.items()}
        self.texts = {
            column: (at[rows], lengths if isinstance(lengths, int) else lengths[rows])
            for column, (at, lengths) in self.texts.items()
        }

    def _take(self, column: str, values: Places, sure: Mask) -> None:
        self.values[column] = values
        self.sure &= sure

    def _identifier_lengths(self, length: int) -> Places | int:
        """Return how long the texts are up to a quote; that they are identifiers is seen when they are there."""
        ends_there = self.windows.bytes_at(self.at + length) == _QUOTE if length <= LONGEST_PART else ~self.sure
        if (ends_there | ~self.sure).all():
            return length
        return lowest_bit(self.windows.bits(self.at, LONGEST_PART, _is_quote)[0])

    def _method_lengths(self) -> Places:
        words = self.windows.words_at(self.at, 1)
        found, lengths = np.full(len(self.at), -1), np.zeros(len(self.at), dtype=np.int64)
        for number, method in enumerate(METHODS):
            fits = begin_with(words, f'{method}"'.encode())
            if fits.any():
                found, lengths = np.where(fits, number, found), np.where(fits, len(method), lengths)
                if (found >= 0).all():
                    break
        self._take("method", found, found >= 0)
        return lengths

    def _flag_lengths(self) -> Places:
        words = self.windows.words_at(self.at, 1)
        is_true, is_false = begin_with(words, b"true"), begin_with(words, b"false")
        spec = self.reading.fields["is_simulated"]
        assert isinstance(spec, FlagField)
        is_simulated = is_true if spec.simulated_when else is_false
        self._take("is_simulated", is_simulated.astype(np.int64), is_true | is_false)
        return np.where(is_true, 4, 5)

    def _number_lengths(self, column: str | None, stop: int) -> Places:
        spec = None if column is None else self.reading.fields[column]
        ends, points = self.windows.bits(self.at, _LONGEST_TOKEN, lambda texts: texts == stop, _is_point)
        lengths = np.minimum(lowest_bit(ends), _LONGEST_TOKEN)
        before_point = np.minimum(lowest_bit(points), lengths)
        places = _PLACES_PER_UNIT[spec.unit] if isinstance(spec, DurationField) else 0 if spec else 6
        numbers, sure = packed_values.decimals(self.windows, self.at, lengths, before_point, places=places)
        if column is None:
            self.sure &= sure | self._are_words(lengths, b"true", b"false", b"null")
            return lengths
        assert isinstance(spec, NumberField)
        if column == "status_code":
            sure &= (numbers >= 100) & (numbers <= 599)
        elif spec.nullable or spec.optional:
            self.nulls[column] = self._are_words(lengths, b"null")
            sure |= self.nulls[column]
        self._take(column, numbers, sure)
        return lengths

    def _are_words(self, lengths: Places, *words: bytes) -> Mask:
        tokens = self.windows.words_at(self.at, 1)
        fits: Mask = np.zeros(len(lengths), dtype=bool)
        for word in words:
            fits |= (lengths == len(word)) & begin_with(tokens, word)
        return fits


def _read_block(windows: ByteWindows, starts: Places, first: int, reading: Reading, latest_us: int) -> _Block | None:
    at, shape = starts[first : first + _ROWS_AT_ONCE], reading.shape
    block = _Block(reading, windows, np.arange(first, first + len(at)), at, np.ones(len(at), dtype=bool))
    for number, (slot, column) in enumerate(zip(shape.slots, reading.columns, strict=True)):
        block.pass_literal(shape.literals[number])
        if not block.sure.any():
            return None
        stop = shape.literals[number + 1][0]
        block.read_value(column, is_text=slot.is_text, length=shape.lengths[number], stop=stop)
    block.pass_literal(shape.literals[-1])
    block.sure &= block.values["event_at"] <= latest_us
    block.keep_sure()
    return block if len(block.indices) else None


def _joined_texts(windows: ByteWindows, parts: Sequence[tuple[Places, Places | int]]) -> pa.Array:
    at = np.concatenate([places for places, _ in parts])
    usual = {lengths if isinstance(lengths, int) else None for _, lengths in parts}
    if len(usual) == 1 and (length := usual.pop()) is not None:
        return windows.texts(at, length)
    return windows.texts(at, np.concatenate([np.broadcast_to(lengths, places.shape) for places, lengths in parts]))


def _column(column: str, blocks: Sequence[_Block], reading: Reading) -> pa.Array:
    values = np.concatenate([block.values[column] for block in blocks])
    match column:
        case "event_at":
            return array_of(values, pa.timestamp("us"))
        case "method":
            return pa.DictionaryArray.from_arrays(array_of(values.astype(np.int32)), _METHOD_NAMES)
        case "endpoint":
            return pa.DictionaryArray.from_arrays(array_of(values.astype(np.int32)), reading.routes.names)
        case "status_code":
            return array_of(values.astype(np.int16))
        case "is_simulated":
            return array_of(values != 0)
        case "response_time_us" | "response_bytes" if column in blocks[0].nulls:
            nulls = np.concatenate([block.nulls[column] for block in blocks])
            return array_of(values, present=~nulls if nulls.any() else None)
    return array_of(values)


def _are_identifiers(texts: pa.Array) -> Mask:
    return text_columns.passes(pa.chunked_array([texts]), TextCheck.IDENTIFIER)


def _is_quote(texts: Bytes) -> Mask:
    answer: Mask = texts == _QUOTE
    return answer


def _is_point(texts: Bytes) -> Mask:
    answer: Mask = texts == _POINT
    return answer
