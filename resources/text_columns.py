"""Check Arrow columns of text byte by byte, whole columns at a time: a pattern row by row costs ten times as much.

Each function returns a mask of rows; where it is false, nothing is said of the row but that somebody has to look at it.
Not here: what a text means, and which columns are checked (`billing_pipeline/sources/request_sql`).
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from billing_pipeline.sources.endpoints import PLAIN_PATH
from billing_pipeline.sources.profile import IDENTIFIER
from billing_pipeline.sources.request_sql import TextCheck

Mask = np.ndarray[Any, np.dtype[np.bool_]]
_Bytes = np.ndarray[Any, np.dtype[np.uint8]]
_Places = np.ndarray[Any, np.dtype[np.int64]]

# Bytes that are looked at together, few enough to stay in the cache.
_PIECE = 1 << 18
_QUOTE, _SLASH, _DOT = b'"/.'
_LONGEST_IDENTIFIER = 128
_WHOLE_SECONDS = "0000-00-00T00:00:00Z"
# Lengths of an instant with one to six digits of the second's fraction.
_FRACTIONS = range(len(_WHOLE_SECONDS) + 2, len(_WHOLE_SECONDS) + 8)


def unquoted(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, Mask]:
    """Return JSON tokens without their first and last byte, and which of them were in quotes."""
    return pc.utf8_slice_codeunits(column, 1, -1), _by_part(column, _in_quotes)


def passes(column: pa.ChunkedArray, check: TextCheck) -> Mask:
    """Return which texts are beyond doubt what `check` names."""
    return _by_part(column, _CHECKS[check])


def _by_part(column: pa.ChunkedArray, check: Callable[[_Places, _Bytes], Mask]) -> Mask:
    return np.concatenate([np.empty(0, dtype=bool), *(check(*_ends_and_bytes(part)) for part in column.chunks)])


def _ends_and_bytes(texts: pa.Array) -> tuple[_Places, _Bytes]:
    """Return where each text begins in the bytes of all, with one more place at their end, and these bytes."""
    wide = pa.types.is_large_string(texts.type)
    _, offsets, data = texts.buffers()
    if not len(texts) or data is None:
        return np.zeros(len(texts) + 1, dtype=np.int64), np.empty(0, dtype=np.uint8)
    ends = np.frombuffer(offsets, dtype=np.int64 if wide else np.int32)[texts.offset : texts.offset + len(texts) + 1]
    return ends.astype(np.int64) - int(ends[0]), np.frombuffer(data, dtype=np.uint8)[int(ends[0]) : int(ends[-1])]


def _in_quotes(ends: _Places, data: _Bytes) -> Mask:
    fits: Mask = np.diff(ends) >= 2
    if len(data):
        fits &= (_firsts(ends, data) == _QUOTE) & (data[np.maximum(ends[1:] - 1, 0)] == _QUOTE)
    return fits


def _identifiers(ends: _Places, data: _Bytes) -> Mask:
    lengths = np.diff(ends)
    fits: Mask = (lengths >= 1) & (lengths <= _LONGEST_IDENTIFIER)
    if len(data):
        firsts = _firsts(ends, data)
        for byte in _NO_IDENTIFIER_STARTS:
            fits &= firsts != byte
    fits[_rows_at(ends, _others(data, ord("-"), ord("-"), _IDENTIFIER_BYTES))] = False
    return fits


def _paths(ends: _Places, data: _Bytes) -> Mask:
    fits: Mask = np.diff(ends) >= 1
    if len(data):
        fits &= _firsts(ends, data) == _SLASH
    fits[_rows_at(ends, _others(data, ord("-"), ord("/"), _PATH_BYTES))] = False
    # A segment that starts with a dot may be a dot segment. A dot that is a text's first byte follows another's.
    dots = _dots_after_slashes(data)
    rows = _rows_at(ends, dots)
    fits[rows[ends[rows] < dots]] = False
    return fits


def _instants(ends: _Places, data: _Bytes) -> Mask:
    lengths = np.diff(ends)
    fits: Mask = np.zeros(len(lengths), dtype=bool)
    for length in (len(_WHOLE_SECONDS), *_FRACTIONS):
        rows = np.flatnonzero(lengths == length)
        if len(rows) == len(lengths):
            return _like_instants(data.reshape(-1, length))
        if len(rows):
            fits[rows] = _like_instants(data[ends[rows][:, None] + np.arange(length)])
    return fits


def _like_instants(texts: _Bytes) -> Mask:
    """Return which rows, all of one length, spell an instant in UTC with an hour below 24; whether there is such a day is open."""
    digits = texts.shape[1] - len(_WHOLE_SECONDS) - 1
    shape = _WHOLE_SECONDS if digits < 0 else f"{_WHOLE_SECONDS[:-1]}.{'0' * digits}Z"
    lowest = np.frombuffer(shape.encode(), dtype=np.uint8)
    spans = np.where(lowest == ord("0"), 9, 0).astype(np.uint8)
    spans[11] = 2
    likely = (texts - lowest) <= spans
    fits: Mask = (texts[:, 11] < ord("2")) | (texts[:, 12] <= ord("3"))
    if not likely.all():
        fits &= likely.all(axis=1)
    return fits


def _firsts(ends: _Places, data: _Bytes) -> _Bytes:
    """Return the first byte of each text; of an empty one any, since it is its length that it fails by."""
    return data[np.minimum(ends[:-1], len(data) - 1)]


def _others(data: _Bytes, lowest: int, highest: int, allowed: Mask) -> _Places:
    """Return the places of bytes that are not `allowed`. Letters, digits and lowest..highest are, and are passed over fast."""
    found = []
    for start in range(0, len(data), _PIECE):
        piece = data[start : start + _PIECE]
        common = (piece | 0x20) - np.uint8(ord("a")) <= 25
        common |= piece - np.uint8(ord("0")) <= 9
        common |= piece - np.uint8(lowest) <= highest - lowest
        if not common.all():
            rare = np.flatnonzero(~common)
            found.append(rare[~allowed[piece[rare]]] + start)
    return np.concatenate([np.empty(0, dtype=np.int64), *found])


def _dots_after_slashes(data: _Bytes) -> _Places:
    found = []
    for start in range(0, len(data), _PIECE):
        # One byte more than the piece, so that no pair is cut.
        piece = data[start : start + _PIECE + 1]
        found.append(np.flatnonzero((piece[:-1] == _SLASH) & (piece[1:] == _DOT)) + start + 1)
    return np.concatenate([np.empty(0, dtype=np.int64), *found])


def _rows_at(ends: _Places, places: _Places) -> _Places:
    return np.searchsorted(ends, places, side="right") - 1


def _matching(pattern: str) -> Mask:
    """Return for each byte whether it, as a character, matches `pattern`."""
    return np.array([byte < 0x80 and re.fullmatch(pattern, chr(byte), re.ASCII) is not None for byte in range(256)])


# The patterns of the rule begin with one set of characters and go on with another.
_IDENTIFIER_BYTES = _matching(IDENTIFIER[IDENTIFIER.rindex("[") : IDENTIFIER.rindex("]") + 1])
_NO_IDENTIFIER_STARTS = np.flatnonzero(_IDENTIFIER_BYTES & ~_matching(IDENTIFIER[: IDENTIFIER.index("]") + 1]))
_PATH_BYTES = _matching(PLAIN_PATH[1:-1])
_CHECKS = {TextCheck.IDENTIFIER: _identifiers, TextCheck.PATH: _paths, TextCheck.INSTANT: _instants}
