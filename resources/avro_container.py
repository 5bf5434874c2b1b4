"""Avro object container files: header and blocks, checked before anything is allocated. Blocks come out inflated.

Every count, size, sync marker, checksum (snappy) and the end of the file is verified here; what the bytes inside a block
mean is `resources/avro.py`. A file that breaks a rule is refused as a whole (`FileRejected`).
"""

import bz2
import json
import lzma
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import cramjam
from isal import igzip_lib, isal_zlib

from billing_pipeline.records import Reason
from resources.inflate import AVRO_MAGIC, RATIO_FLOOR_BYTES, Compression, FileRejected, inflated

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX_BLOCK_BYTES = 1 << 28
MAX_HEADER_BYTES = 1 << 24
_SYNC_BYTES = 16
_MAX_VARINT_BYTES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """`row_count` records in `data`, inflated."""

    row_count: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """An opened file. `blocks` verifies while it yields; trust nothing before it ends."""

    schema: object
    blocks: Iterator[Block]


def open_container(path: Path, compression: Compression, *, max_ratio: int = 200) -> Container:
    """Return the writer's schema (JSON as parsed) and the blocks of the file at `path`.

    `max_ratio` bounds inflated to delivered size, above `RATIO_FLOOR_BYTES`.

    Raises:
        FileRejected: here for the header, from `blocks` for the rest.
    """
    delivered_bytes = path.stat().st_size
    stream = _Stream(inflated(path, compression, block_bytes=4 << 20, max_ratio=max_ratio))
    if stream.read(len(AVRO_MAGIC), "the header") != AVRO_MAGIC:
        raise _bad("the file does not begin as Avro does")
    metadata = _metadata(stream)
    sync = stream.read(_SYNC_BYTES, "the header")
    inflate = _codec(metadata.get(b"avro.codec", b"null"))
    limit = max(RATIO_FLOOR_BYTES, delivered_bytes * max_ratio)
    return Container(schema=_schema(metadata), blocks=_blocks(stream, sync, inflate, limit=limit))


def _blocks(stream: "_Stream", sync: bytes, inflate: "_Inflate", *, limit: int) -> Iterator[Block]:
    total = number = 0
    while not stream.at_end():
        number += 1
        where = f"block {number}"
        opening = stream.peek(len(AVRO_MAGIC))
        row_count, size_bytes = stream.varint(where), stream.varint(where)
        if opening == AVRO_MAGIC and (row_count < 0 or size_bytes < 0):
            raise _bad("a second Avro file follows in the same file: deliver them as two")
        if row_count < 0 or size_bytes < 0:
            raise _bad(f"{where} declares a negative count or size")
        if size_bytes > MAX_BLOCK_BYTES:
            raise FileRejected(
                Reason.TOO_LARGE, f"{where} declares {size_bytes} bytes, at most {MAX_BLOCK_BYTES} are read"
            )
        stored = stream.read(size_bytes, where)
        if stream.read(_SYNC_BYTES, where) != sync:
            raise _bad(f"{where} does not end with the file's sync marker")
        data = _inflated_block(stored, inflate, where) if stored else b""
        total += len(data)
        if total > limit:
            raise FileRejected(Reason.TOO_LARGE, f"inflates to more than {limit} bytes, the most its size allows")
        # A record takes at least one byte; so a count can never make a reader allocate more than it was given.
        if row_count > len(data) or (data and not row_count):
            raise _bad(f"{where} declares {row_count} records in {len(data)} bytes")
        if row_count:
            yield Block(row_count=row_count, data=data)


def _inflated_block(stored: bytes, inflate: "_Inflate", where: str) -> bytes:
    try:
        data = inflate(stored)
    except _CODEC_ERRORS as error:
        raise _bad(f"{where} cannot be inflated: {error}") from error
    if len(data) > MAX_BLOCK_BYTES:
        raise FileRejected(Reason.TOO_LARGE, f"{where} inflates to more than {MAX_BLOCK_BYTES} bytes")
    return data


def _metadata(stream: "_Stream") -> Mapping[bytes, bytes]:
    """Return the header's map, as bytes: only the schema must be text."""
    where = "the header"
    found: dict[bytes, bytes] = {}
    read_bytes = 0
    while count := stream.varint(where):
        if count < 0:
            count = -count
            stream.varint(where)  # the size of this part in bytes, for those who skip it
        for _ in range(count):
            pair: list[bytes] = []
            for _part in range(2):
                size = stream.varint(where)
                read_bytes += size + 1
                if size < 0 or read_bytes > MAX_HEADER_BYTES:
                    raise _bad("the header declares a negative size or more than 16 MiB")
                pair.append(stream.read(size, where))
            found[pair[0]] = pair[1]
    return found


def _schema(metadata: Mapping[bytes, bytes]) -> object:
    try:
        return json.loads(metadata[b"avro.schema"].decode())
    except KeyError as error:
        raise _bad("the header has no schema") from error
    except (ValueError, RecursionError) as error:
        raise _bad("the header's schema is not JSON in UTF-8") from error


class _Stream:
    """Exact reads from blocks of bytes. Allocates what arrives, never what a file declares."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._buffer = b""
        self._at = 0

    def _fill(self, size: int) -> bool:
        """Have `size` bytes ready; return whether there are that many."""
        ready = len(self._buffer) - self._at
        if ready >= size:
            return True
        parts = [self._buffer[self._at :]]
        for block in self._blocks:
            parts.append(block)
            ready += len(block)
            if ready >= size:
                break
        self._buffer, self._at = b"".join(parts), 0
        return ready >= size

    def at_end(self) -> bool:
        return not self._fill(1)

    def peek(self, size: int) -> bytes:
        self._fill(size)
        return self._buffer[self._at : self._at + size]

    def read(self, size: int, where: str) -> bytes:
        if not self._fill(size):
            raise _bad(f"the file is cut off in {where}")
        self._at += size
        return self._buffer[self._at - size : self._at]

    def varint(self, where: str) -> int:
        """Return the next zigzag number, of 64 bits at most."""
        value = 0
        for position in range(_MAX_VARINT_BYTES):
            byte = self.read(1, where)[0]
            value |= (byte & 0x7F) << (7 * position)
            if byte < 0x80:
                if value >> 64:
                    break
                return (value >> 1) ^ -(value & 1)
        raise _bad(f"{where} holds a number of more than 64 bits")


class _BlockError(Exception):
    """The stored form of a block does not follow its codec."""


_CODEC_ERRORS = (
    _BlockError,
    cast("type[Exception]", igzip_lib.IsalError),
    cramjam.DecompressionError,
    zstd.ZstdError,
    lzma.LZMAError,
    OSError,
    EOFError,
    ValueError,
)
_Inflate = Callable[[bytes], bytes]


def _codec(name: bytes) -> _Inflate:
    inflate = _CODECS.get(name)
    if inflate is None:
        shown = name.decode() if re.fullmatch(rb"[a-z0-9_-]{1,20}", name) else "(unprintable)"
        raise _bad(f"codec {shown} is not read; {', '.join(sorted(one.decode() for one in _CODECS))} are")
    return inflate


def _deflate(stored: bytes) -> bytes:
    decompressor = isal_zlib.decompressobj(wbits=-15)
    data = decompressor.decompress(stored, MAX_BLOCK_BYTES + 1)
    # Some Java writers leave a few bytes behind the end of the stream; every reader skips them.
    return _whole(data, ended=decompressor.eof, rest=b"")


def _snappy(stored: bytes) -> bytes:
    plain_bytes = 0
    for position, byte in enumerate(stored[:5]):
        plain_bytes |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:
            break
    if plain_bytes > MAX_BLOCK_BYTES or len(stored) < 5:
        raise _BlockError("its declared size cannot be")
    data = bytes(cramjam.snappy.decompress_raw(stored[:-4]))
    if zlib.crc32(data) != int.from_bytes(stored[-4:], "big"):
        raise _BlockError("checksum")
    return data


def _bzip2(stored: bytes) -> bytes:
    decompressor = bz2.BZ2Decompressor()
    data = decompressor.decompress(stored, MAX_BLOCK_BYTES + 1)
    return _whole(data, ended=decompressor.eof, rest=decompressor.unused_data)


def _xz(stored: bytes) -> bytes:
    decompressor = lzma.LZMADecompressor(format=lzma.FORMAT_XZ)
    data = decompressor.decompress(stored, MAX_BLOCK_BYTES + 1)
    return _whole(data, ended=decompressor.eof, rest=decompressor.unused_data)


def _zstandard(stored: bytes) -> bytes:
    decompressor = zstd.ZstdDecompressor()
    data = decompressor.decompress(stored, MAX_BLOCK_BYTES + 1)
    return _whole(data, ended=decompressor.eof, rest=decompressor.unused_data)


def _whole(data: bytes, *, ended: bool, rest: bytes) -> bytes:
    """Return `data` when its stream ended and nothing follows it; a block over the limit is the caller's to refuse."""
    if len(data) <= MAX_BLOCK_BYTES and (not ended or rest):
        raise _BlockError("it is cut off, or bytes follow its end")
    return data


_CODECS: Mapping[bytes, _Inflate] = {
    b"null": lambda stored: stored,
    b"deflate": _deflate,
    b"snappy": _snappy,
    b"bzip2": _bzip2,
    b"xz": _xz,
    b"zstandard": _zstandard,
}


def _bad(detail: str) -> FileRejected:
    return FileRejected(Reason.BAD_AVRO, detail)
