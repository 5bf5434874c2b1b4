"""Identities of rows as hashes: which were certainly never seen, all that were written, and rows set aside for a second look.

Memory is bounded: a table of bits, and what does not fit is in the scratch folder. Equal hashes are no proof of equal
identities for `SeenHashes`, which only says that somebody has to look. Not here: what becomes of a repeat (request_sink).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from resources.byte_windows import Mask, Words

BITS_PER_ROW = 8
SMALLEST_TABLE_BITS = 1 << 20
LARGEST_TABLE_BITS = 1 << 31
# Rows of which the hashes are held; those of more are written to the scratch folder.
HASHES_IN_MEMORY = 1 << 20
# Rows set aside that are held.
ASIDE_IN_MEMORY = 1 << 17


@dataclass(frozen=True, slots=True)
class Hashes:
    identity: Words
    content: Words

    def where(self, mask: Mask) -> "Hashes":
        return Hashes(self.identity[mask], self.content[mask])


class BitTable:
    """A set of 64-bit hashes that may answer yes wrongly, never no."""

    def __init__(self, bits: int) -> None:
        self._bytes = np.zeros(bits // 8, dtype=np.uint8)
        self._mask = np.uint64(bits - 1)

    def has(self, hashes: Words) -> Mask:
        first, second = self._places(hashes)
        return self._is_set(*first) & self._is_set(*second)

    def put(self, hashes: Words) -> None:
        for index, bit in self._places(hashes):
            while len(index):
                # Of rows that share a byte one wins; the others go again until every bit is there.
                self._bytes[index] |= bit
                lost = ~self._is_set(index, bit)
                index, bit = index[lost], bit[lost]

    def _places(self, hashes: Words) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
        first, second = hashes & self._mask, (hashes >> np.uint64(33)) & self._mask
        return _byte_and_bit(first), _byte_and_bit(second)

    def _is_set(self, index: Any, bit: Any) -> Mask:
        answer: Mask = (self._bytes[index] & bit) != 0
        return answer


def _byte_and_bit(places: Words) -> tuple[Any, Any]:
    return (places >> np.uint64(3)).astype(np.int64), np.left_shift(
        np.uint8(1), (places & np.uint64(7)).astype(np.uint8)
    )


class SeenHashes:
    """Tells the first occurrence of an identity from what may be a further one."""

    def __init__(self, expected_rows: int) -> None:
        bits = SMALLEST_TABLE_BITS
        while bits < min(expected_rows * BITS_PER_ROW, LARGEST_TABLE_BITS):
            bits *= 2
        self._table = BitTable(bits)

    def are_new(self, hashes: Words) -> Mask:
        """Return a mask of rows whose hash has certainly not come before, in this batch or an earlier one."""
        new = ~self._table.has(hashes)
        ordered = np.sort(hashes)
        repeated = ordered[1:][ordered[1:] == ordered[:-1]]
        if len(repeated):
            within = np.flatnonzero(np.isin(hashes, repeated))
            _, firsts = np.unique(hashes[within], return_index=True)
            later = np.ones(len(within), dtype=bool)
            later[firsts] = False
            new[within[later]] = False
        self._table.put(hashes[new])
        return new


class AsideRows:
    """Rows that may repeat an identity, in order, with their hashes; of many, the rows are on disk."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path = path
        self._schema = schema
        self._file: BinaryIO | None = None
        self._writer: pa.ipc.RecordBatchStreamWriter | None = None
        self._held: list[pa.Table] = []
        self._held_rows = 0
        self.hashes: list[Hashes] = []

    def append(self, rows: pa.Table, hashes: Hashes) -> None:
        self._held.append(rows)
        self._held_rows += rows.num_rows
        self.hashes.append(hashes)
        if self._held_rows > ASIDE_IN_MEMORY:
            self._spill()

    def _spill(self) -> None:
        if self._writer is None:
            self._file = self._path.open("w+b")
            self._writer = pa.ipc.new_stream(self._file, self._schema)
        # One dictionary for all: a stream takes another one for each batch.
        self._writer.write_table(pa.concat_tables(self._held).unify_dictionaries().combine_chunks())
        self._held, self._held_rows = [], 0

    def parts(self) -> Iterator[tuple[int, pa.Table]]:
        """Yield all rows in parts, each with the number of rows before it."""
        first = 0
        for rows in self._all():
            yield first, rows
            first += rows.num_rows

    def _all(self) -> Iterator[pa.Table]:
        if self._writer is not None and self._file is not None:
            self._writer.close()
            self._file.seek(0)
            with pa.ipc.open_stream(self._file) as batches:
                for batch in batches:
                    yield pa.Table.from_batches([batch])
        if self._held:
            yield pa.concat_tables(self._held)

    def close(self) -> None:
        if self._file is not None:
            try:
                self._file.close()
            finally:
                self._path.unlink(missing_ok=True)


class HashFile:
    """The hashes of all rows written, most of them on disk: 16 bytes a row that memory need not hold."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        # Rows of each batch in the file: its identity hashes lie before its content hashes.
        self._batches: list[int] = []
        self._held: list[Hashes] = []
        self._held_rows = 0

    def append(self, hashes: Hashes) -> None:
        self._held.append(hashes)
        self._held_rows += len(hashes.identity)
        if self._held_rows > HASHES_IN_MEMORY:
            self._spill()

    def _spill(self) -> None:
        if self._file is None:
            self._file = self._path.open("w+b")
        for hashes in self._held:
            hashes.identity.tofile(self._file)
            hashes.content.tofile(self._file)
            self._batches.append(len(hashes.identity))
        self._held, self._held_rows = [], 0

    def matching(self, identities: Words) -> Hashes:
        """Return the hashes of written rows whose identity is among `identities`."""
        wanted = np.unique(identities)
        bits = SMALLEST_TABLE_BITS
        while bits < len(wanted) * 32:
            bits *= 2
        table = BitTable(bits)
        table.put(wanted)
        nothing = np.empty(0, dtype=np.uint64)
        found = [Hashes(nothing, nothing)]
        for hashes in self._all():
            likely = np.flatnonzero(table.has(hashes.identity))
            place = np.minimum(np.searchsorted(wanted, hashes.identity[likely]), len(wanted) - 1)
            likely = likely[wanted[place] == hashes.identity[likely]]
            found.append(Hashes(hashes.identity[likely], hashes.content[likely]))
        return Hashes(
            np.concatenate([hashes.identity for hashes in found]), np.concatenate([hashes.content for hashes in found])
        )

    def _all(self) -> Iterator[Hashes]:
        if self._file is not None:
            self._file.flush()
            self._file.seek(0)
            for rows in self._batches:
                identity = np.fromfile(self._file, dtype=np.uint64, count=rows)
                yield Hashes(identity, np.fromfile(self._file, dtype=np.uint64, count=rows))
        yield from self._held

    def close(self) -> None:
        if self._file is not None:
            try:
                self._file.close()
            finally:
                self._path.unlink(missing_ok=True)
