"""Hash Arrow columns row by row: equal values have equal hashes, however they are encoded and cut into chunks.

64 bits, mixed as MurmurHash3 mixes its last word; not a secret, and not kept: another version may hash otherwise.
A null is no value of its column, and no empty text. Not here: what equal hashes mean (request_sink).
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from resources.byte_windows import ByteWindows, Words

_FIRST, _SECOND = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_SHIFT = np.uint64(33)
_STEP = np.uint64(0x9E3779B97F4A7C15)
_NULL = np.uint64(0x6A09E667F3BCC909)
_WORD_BYTES = 8
_ROOM = b"\0" * _WORD_BYTES
# Index: how many bytes at the lower end of a word are kept.
_LOWER = np.array([(1 << 8 * kept) - 1 for kept in range(_WORD_BYTES + 1)], dtype=np.uint64)


def hashes_of(columns: Iterable[pa.ChunkedArray]) -> Words:
    """Return a hash of each row over `columns` of texts, dictionaries of texts, integers, booleans or instants, in this order."""
    found: Words | None = None
    for column in columns:
        hashed = np.concatenate([np.empty(0, dtype=np.uint64), *map(_hashes, column.chunks)])
        found = hashed if found is None else mixed(found, hashed)
    assert found is not None
    return found


def mixed(hashes: Words, words: Words) -> Words:
    """Return hashes that also depend on `words`; for each hash, other words give other hashes."""
    state = hashes * _STEP
    state ^= words
    state ^= state >> _SHIFT
    state *= _FIRST
    state ^= state >> _SHIFT
    state *= _SECOND
    state ^= state >> _SHIFT
    return state


def _hashes(values: pa.Array) -> Words:
    if pa.types.is_dictionary(values.type):
        indices = _numbers(values.indices).astype(np.int64)
        of_dictionary = _hashes(values.dictionary)
        found = of_dictionary[indices] if len(of_dictionary) else np.empty(len(values), dtype=np.uint64)
        return _with_nulls(values.indices, found)
    if pa.types.is_string(values.type):
        return _with_nulls(values, _of_texts(values))
    return _with_nulls(values, mixed(np.zeros(len(values), dtype=np.uint64), _numbers(values).astype(np.uint64)))


def _with_nulls(values: pa.Array, hashes: Words) -> Words:
    if values.null_count:
        hashes[_bits(values.buffers()[0], values.offset, len(values)) == 0] = _NULL
    return hashes


def _of_texts(values: pa.Array) -> Words:
    """Hash texts word by word, the last word filled up with zeros, after their length."""
    _, offsets, data = values.buffers()
    if not len(values):
        return np.empty(0, dtype=np.uint64)
    ends = np.frombuffer(offsets, dtype=np.int32)[values.offset : values.offset + len(values) + 1].astype(np.int64)
    lengths = np.diff(ends)
    found = mixed(np.zeros(len(lengths), dtype=np.uint64), lengths.astype(np.uint64))
    windows = ByteWindows((b"" if data is None else memoryview(data)[: int(ends[-1])].tobytes()) + _ROOM)
    for place in range(0, int(lengths.max()), _WORD_BYTES):
        left = lengths - place
        rows = slice(None) if (left > 0).all() else np.flatnonzero(left > 0)
        words = windows.words_at(ends[:-1][rows] + place, 1)[0]
        if (left[rows] < _WORD_BYTES).any():
            words = words & _LOWER[np.minimum(left[rows], _WORD_BYTES)]
        found[rows] = mixed(found[rows], words)
    return found


def _numbers(values: pa.Array) -> np.ndarray[Any, Any]:
    _, data = values.buffers()
    if pa.types.is_boolean(values.type):
        return _bits(data, values.offset, len(values))
    width = values.type.bit_width // 8
    return np.frombuffer(data, dtype=f"i{width}", count=values.offset + len(values))[values.offset :]


def _bits(buffer: pa.Buffer, first: int, count: int) -> np.ndarray[Any, Any]:
    bits = np.frombuffer(buffer, dtype=np.uint8)
    return np.unpackbits(bits, count=first + count, bitorder="little")[first:]
