"""Look at many places of one buffer at once: the bytes there as words, where a byte is met next, texts as Arrow arrays.

A gather of eight bytes a row costs 4 ns, arithmetic on such words a tenth of that; a loop over rows costs a thousand times more.
Words are little-endian: the first byte is the lowest. Not here: what the bytes mean (packed_values, shaped_lines).
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa

Places = np.ndarray[Any, np.dtype[np.int64]]
Words = np.ndarray[Any, np.dtype[np.uint64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]

# Windows that are looked at together, few enough to stay in the cache.
_ROWS_AT_ONCE = 2_048
_WORD_BYTES = 8
_ALL_BITS = np.uint64((1 << 64) - 1)


class ByteWindows:
    """A buffer. No window may pass its end: whoever makes it leaves room."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._bytes = np.frombuffer(data, dtype=np.uint8)

    def bytes_at(self, at: Places) -> Bytes:
        """Return the byte at each place."""
        found: Bytes = self._bytes[at]
        return found

    def words_at(self, at: Places, count: int) -> tuple[Words, ...]:
        """Return `count` words from each place on, each of them for all places."""
        rows = self._windows(at, count * _WORD_BYTES).view("<u8")
        return tuple(rows[column::count] for column in range(count))

    def spelled_at(self, at: Places, text: bytes) -> Mask:
        """Return at which places `text` stands."""
        return begin_with(self.words_at(at, -(-len(text) // _WORD_BYTES)), text)

    def bits(self, at: Places, width: int, *questions: Callable[[Bytes], Mask]) -> list[Words]:
        """Return for each question of which bytes it is true: a word for each place, the byte there in its lowest bit.

        `width` bytes from each place on are looked at: 16, 32 or 64.
        """
        kind = {16: "<u2", 32: "<u4", 64: "<u8"}[width]
        found = [np.empty(len(at), dtype=np.uint64) for _ in questions]
        for start in range(0, len(at), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            block = self._windows(at[rows], width).view(np.uint8)
            for answers, question in zip(found, questions, strict=True):
                answers[rows] = np.packbits(question(block), bitorder="little").view(kind)
        return found

    def texts(self, at: Places, lengths: Places | int) -> pa.Array:
        """Return the texts of `lengths` bytes at each place, copied; the bytes must be ASCII."""
        if isinstance(lengths, int):
            offsets = np.arange(len(at) + 1, dtype=np.int32) * np.int32(lengths)
            data = self._windows(at, lengths) if lengths else np.empty(0, dtype=np.uint8)
            return _strings(pa.string(), offsets, data)
        # Without a copy: the texts, and between them whatever lies between them.
        ends = np.empty(2 * len(at) + 1, dtype=np.int64)
        ends[:-1:2], ends[1::2], ends[-1] = at, at + lengths, len(self._data)
        interleaved = _strings(pa.large_string(), ends, self._bytes)
        return interleaved.take(array_of(np.arange(0, 2 * len(at), 2))).cast(pa.string())

    def _windows(self, at: Places, width: int) -> Any:
        windows = np.ndarray((len(self._data) - width + 1,), f"V{width}", self._data, strides=(1,))
        return windows[at]


def word_of(text: bytes) -> np.uint64:
    """Return up to eight bytes as a word, with zeros behind."""
    return np.uint64(int.from_bytes(text, "little"))


def begin_with(words: tuple[Words, ...], text: bytes) -> Mask:
    """Return which rows of words begin with `text`, which is not empty."""
    difference: Words = np.zeros(1, dtype=np.uint64)
    for column, (word, kept) in zip(words, _pattern(text), strict=False):
        unequal = column ^ word
        if kept != _ALL_BITS:
            unequal &= kept
        difference = difference | unequal
    answer: Mask = difference == 0
    return answer


@lru_cache(maxsize=1_024)
def _pattern(text: bytes) -> tuple[tuple[np.uint64, np.uint64], ...]:
    parts = [text[start : start + _WORD_BYTES] for start in range(0, len(text), _WORD_BYTES)]
    return tuple((word_of(part), word_of(b"\xff" * len(part))) for part in parts)


def lowest_bit(bits: Words) -> Places:
    """Return the place of the lowest bit of each word, 64 where there is none."""
    return np.bitwise_count((bits & (~bits + np.uint64(1))) - np.uint64(1)).astype(np.int64)


def array_of(
    numbers: np.ndarray[Any, Any], kind: pa.DataType | None = None, *, present: Mask | None = None
) -> pa.Array:
    """Return numbers as an Arrow array, null where they are not `present`.

    `pa.array` does the same, and takes the better part of a second to look for pandas first.
    """
    data = np.packbits(numbers, bitorder="little") if numbers.dtype == bool else np.ascontiguousarray(numbers)
    validity = None if present is None else pa.py_buffer(np.packbits(present, bitorder="little"))
    kind = kind or (pa.bool_() if numbers.dtype == bool else pa.from_numpy_dtype(numbers.dtype))
    return pa.Array.from_buffers(kind, len(numbers), [validity, pa.py_buffer(data)])


def array_of_texts(texts: Sequence[str]) -> pa.Array:
    """Return texts as an Arrow array, in the same way."""
    encoded = [text.encode() for text in texts]
    offsets = np.array([0, *accumulate(map(len, encoded))], dtype=np.int32)
    return _strings(pa.string(), offsets, np.frombuffer(b"".join(encoded), dtype=np.uint8))


def _strings(kind: pa.DataType, offsets: np.ndarray[Any, Any], data: np.ndarray[Any, Any]) -> pa.Array:
    return pa.Array.from_buffers(kind, len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(data)])
