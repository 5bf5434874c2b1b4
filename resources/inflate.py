"""A delivered file's bytes: what they are, by content, and inflated, verified to the last byte.

`sniff` looks at the head (after inflating it) and says lines or Avro; `inflated` yields the whole content in blocks. A
file that cannot be trusted as a whole raises `FileRejected`, at any block: a caller commits nothing before the last.
Lines inside a readable file are not judged here (`billing_pipeline/sources/`). No message carries content of the file.
"""

import contextlib
import re
import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, Protocol, cast

from isal import igzip_lib, isal_zlib

from billing_pipeline.records import Reason

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

AVRO_MAGIC = b"Obj\x01"
HEAD_BYTES = 64 << 10
# Inflated sizes below this pass at any ratio: a short file of equal lines compresses a thousandfold, and harms nobody.
RATIO_FLOOR_BYTES = 8 << 20

_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# Frames that a zstd reader skips (pzstd writes one first): 0x184D2A50..5F, little endian.
_ZSTD_SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")
_UTF16_32_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")
# A run of NULs counts once: one hole in a text file (a crash of the writer's machine) is a bad line, not a binary file.
_CONTROLS = re.compile(rb"\x00+|[\x01-\x07\x0e-\x1a\x1c-\x1f]")
_CONTROL_BYTES = bytes(byte for byte in range(256) if _CONTROLS.match(bytes((byte,))))
_INPUT_BYTES = 256 << 10
_OUTPUT_BYTES = 1 << 20


class Compression(StrEnum):
    """How the delivered bytes are packed."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


class Framing(StrEnum):
    """How the inflated bytes are cut into records."""

    LINES = "lines"
    AVRO = "avro"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFormat:
    """What a delivered file is."""

    framing: Framing
    compression: Compression


class FileRejected(Exception):
    """The file is refused as a whole: the manifest's reason, and a detail that holds no content of the file."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[object, ...]:
        return FileRejected, (self.reason, self.detail)


def sniff(path: Path) -> FileFormat:
    """Return the format of the file at `path`, by its content; its name does not matter.

    Raises:
        FileRejected: empty file, archive in archive, UTF-16 or UTF-32, binary, or a head that cannot be inflated.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise FileRejected(Reason.EMPTY_FILE, "the file has 0 bytes")
    compression = _compression(head)
    if compression is not Compression.NONE:
        with contextlib.closing(inflated(path, compression, block_bytes=HEAD_BYTES)) as blocks:
            head = next(blocks, b"")
        inner = _compression(head)
        if inner is not Compression.NONE:
            raise FileRejected(Reason.NESTED_COMPRESSION, f"{inner} inside {compression}: compress once")
    if head.startswith(AVRO_MAGIC):
        return FileFormat(framing=Framing.AVRO, compression=compression)
    _refuse_what_is_not_text(head)
    return FileFormat(framing=Framing.LINES, compression=compression)


def is_packed(head: bytes) -> bool:
    """Return whether bytes begin as gzip, zstd or Avro do, and so are no text."""
    return _compression(head) is not Compression.NONE or head.startswith(AVRO_MAGIC)


def inflated(
    path: Path,
    compression: Compression,
    *,
    block_bytes: int = 16 << 20,
    max_ratio: int = 200,
    max_bytes: int = 1 << 38,
) -> Generator[bytes, None, None]:
    """Yield the content in blocks of at most `block_bytes`, none empty; all gzip members and zstd frames are read.

    Checksums are verified, zero padding after the last member is tolerated. Trust nothing before the iterator ends.
    `max_ratio` bounds inflated to compressed size (above `RATIO_FLOOR_BYTES`), `max_bytes` the inflated size.

    Raises:
        FileRejected: truncated, bad checksum, bytes after the last member, or larger than a bound allows.
    """
    # Who wants only the head need not wait for more of it.
    part_bytes = min(block_bytes, _OUTPUT_BYTES)
    with path.open("rb", buffering=0) as file:
        limit = max_bytes
        if compression is not Compression.NONE:
            limit = min(max_bytes, max(RATIO_FLOOR_BYTES, path.stat().st_size * max_ratio))
        match compression:
            case Compression.NONE:
                parts = iter(lambda: file.read(part_bytes), b"")
            case Compression.GZIP:
                parts = _member_parts(file, _Gzip(part_bytes))
            case Compression.ZSTD:
                parts = _member_parts(file, _Zstd(part_bytes))
        yield from _blocks(parts, block_bytes=block_bytes, limit=limit)


def _blocks(parts: Iterator[bytes], *, block_bytes: int, limit: int) -> Iterator[bytes]:
    """Gather `parts` into blocks of `block_bytes` (the last is shorter); refuse a total above `limit` bytes."""
    held: list[bytes] = []
    held_bytes = total = 0
    for part in parts:
        if not part:
            continue
        total += len(part)
        if total > limit:
            raise FileRejected(Reason.TOO_LARGE, f"inflates to more than {limit} bytes, the most its size allows")
        held.append(part)
        held_bytes += len(part)
        if held_bytes >= block_bytes:
            joined = b"".join(held)
            whole = held_bytes - held_bytes % block_bytes
            for start in range(0, whole, block_bytes):
                yield joined[start : start + block_bytes]
            held, held_bytes = [joined[whole:]], held_bytes - whole
    if held_bytes:
        yield b"".join(held)


class _Member(Protocol):
    """One gzip member or zstd frame while it is read."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = ...) -> bytes: ...


class _Codec(Protocol):
    """What tells gzip and zstd apart."""

    name: str
    errors: tuple[type[Exception], ...]

    @staticmethod
    def begins(data: bytes) -> bool:
        """Return whether `data` opens with a member of this codec."""

    def open_member(self) -> _Member: ...
    def parts(self, member: _Member, data: bytes) -> Iterator[bytes]:
        """Yield what `data` inflates to, in parts of bounded size, until it is used up or the member ends."""


class _Gzip:
    name = "gzip"

    # The stub declares the class as an instance.
    errors: tuple[type[Exception], ...] = (cast("type[Exception]", igzip_lib.IsalError),)

    def __init__(self, part_bytes: int) -> None:
        self._part_bytes = part_bytes

    @staticmethod
    def begins(data: bytes) -> bool:
        return data.startswith(_GZIP_MAGIC)

    def open_member(self) -> _Member:
        # wbits 31: gzip with header and trailer; isal verifies the trailer's checksum and length.
        return isal_zlib.decompressobj(wbits=31)

    def parts(self, member: Any, data: bytes) -> Iterator[bytes]:
        part = b""
        # A full part means that more output may wait inside, even when no input is left.
        while not member.eof and (data or len(part) == self._part_bytes):
            part = member.decompress(data, self._part_bytes)
            data = member.unconsumed_tail
            yield part


class _Zstd:
    name = "zstd"

    errors: tuple[type[Exception], ...] = (zstd.ZstdError,)

    def __init__(self, part_bytes: int) -> None:
        self._part_bytes = part_bytes

    @staticmethod
    def begins(data: bytes) -> bool:
        return data.startswith(_ZSTD_MAGIC) or _ZSTD_SKIPPABLE.match(data) is not None

    def open_member(self) -> _Member:
        return zstd.ZstdDecompressor()

    def parts(self, member: Any, data: bytes) -> Iterator[bytes]:
        yield member.decompress(data, self._part_bytes)
        while not member.eof and not member.needs_input:
            yield member.decompress(b"", self._part_bytes)


def _member_parts(file: IO[bytes], codec: _Codec) -> Iterator[bytes]:
    """Yield the content of all members in `file`, and see to it that nothing but zero padding follows the last one."""
    data = file.read(_INPUT_BYTES)
    number = 0
    while data:
        number += 1
        if not codec.begins(data):
            raise FileRejected(
                Reason.BAD_COMPRESSION, f"bytes that are not {codec.name} before or after member {number}"
            )
        member = codec.open_member()
        while not member.eof:
            if not data:
                data = file.read(_INPUT_BYTES)
            if not data:
                raise FileRejected(
                    Reason.BAD_COMPRESSION, f"{codec.name} member {number} is cut off at the end of the file"
                )
            try:
                yield from codec.parts(member, data)
            except codec.errors as error:
                raise FileRejected(
                    Reason.BAD_COMPRESSION, f"{codec.name} member {number} is damaged: {error}"
                ) from error
            data = b""
        data = _after_padding(file, member.unused_data)


def _after_padding(file: IO[bytes], data: bytes) -> bytes:
    """Return the bytes that follow a member, without leading zeros, long enough to show a magic; empty at the end."""
    data = data.lstrip(b"\x00")
    while len(data) < 4:
        more = file.read(_INPUT_BYTES)
        if not more:
            return data
        data = (data + more).lstrip(b"\x00")
    return data


def _compression(head: bytes) -> Compression:
    if _Gzip.begins(head):
        return Compression.GZIP
    if _Zstd.begins(head):
        return Compression.ZSTD
    return Compression.NONE


def _refuse_what_is_not_text(head: bytes) -> None:
    # Latin text in UTF-16 has a NUL in nearly every pair, always on the same side; a hole in UTF-8 text has both sides.
    even_nuls, odd_nuls = head[0::2].count(0), head[1::2].count(0)
    one_sided = (even_nuls == 0) != (odd_nuls == 0)
    if head.startswith(_UTF16_32_MARKS) or (one_sided and (even_nuls + odd_nuls) * 100 >= 15 * len(head)):
        raise FileRejected(Reason.ENCODING, "UTF-16 or UTF-32: deliver UTF-8")
    # Deleting takes a fraction of the time of finding, and there is hardly ever anything to find.
    controls = 0 if len(head.translate(None, _CONTROL_BYTES)) == len(head) else len(_CONTROLS.findall(head))
    if controls >= 16 and controls * 100 > 2 * (len(head) - even_nuls - odd_nuls):
        raise FileRejected(Reason.BINARY, "neither text nor Avro, gzip or zstd")
