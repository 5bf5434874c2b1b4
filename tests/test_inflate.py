"""The format of a delivered file, by content, and its bytes, verified to the last."""

import bz2
import gzip
import json
import os
import random
import struct
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing_pipeline.records import Reason
from resources.inflate import Compression, FileFormat, FileRejected, Framing, inflated, sniff

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LINES = b"".join(
    json.dumps({"id": number, "path": f"/v1/cars/{number * 7919}"}).encode() + b"\n" for number in range(2000)
)
PACK = {Compression.GZIP: gzip.compress, Compression.ZSTD: zstd.compress, Compression.NONE: bytes}
PACKED = [Compression.GZIP, Compression.ZSTD]


def written(folder: Path, content: bytes) -> Path:
    path = folder / "delivered.bin"
    path.write_bytes(content)
    return path


def content_of(path: Path) -> bytes:
    """Return what a caller gets who sniffs and then reads."""
    return b"".join(inflated(path, sniff(path).compression))


def verdict(path: Path) -> Reason:
    with pytest.raises(FileRejected) as refused:
        content_of(path)
    return refused.value.reason


class TestSniff:
    @pytest.mark.parametrize("compression", list(Compression))
    def test_finds_lines_by_content_and_not_by_name(self, tmp_path: Path, compression: Compression) -> None:
        path = written(tmp_path, PACK[compression](LINES))
        assert sniff(path) == FileFormat(framing=Framing.LINES, compression=compression)

    @pytest.mark.parametrize("compression", list(Compression))
    def test_finds_avro_plain_and_packed(self, tmp_path: Path, compression: Compression) -> None:
        path = written(tmp_path, PACK[compression](b"Obj\x01" + bytes(100)))
        assert sniff(path) == FileFormat(framing=Framing.AVRO, compression=compression)

    def test_finds_zstd_behind_a_skippable_frame(self, tmp_path: Path) -> None:
        path = written(tmp_path, b"\x50\x2a\x4d\x18" + struct.pack("<I", 4) + b"size" + zstd.compress(LINES))
        assert content_of(path) == LINES

    def test_looks_behind_empty_members(self, tmp_path: Path) -> None:
        path = written(tmp_path, gzip.compress(b"") + gzip.compress(b"Obj\x01" + bytes(100)))
        assert sniff(path).framing is Framing.AVRO

    def test_refuses_a_file_of_no_bytes(self, tmp_path: Path) -> None:
        assert verdict(written(tmp_path, b"")) is Reason.EMPTY_FILE

    @pytest.mark.parametrize("compression", PACKED)
    def test_takes_a_valid_archive_of_nothing_for_no_lines(self, tmp_path: Path, compression: Compression) -> None:
        assert content_of(written(tmp_path, PACK[compression](b""))) == b""

    @pytest.mark.parametrize("outer", PACKED)
    @pytest.mark.parametrize("inner", PACKED)
    def test_refuses_an_archive_in_an_archive(self, tmp_path: Path, outer: Compression, inner: Compression) -> None:
        assert verdict(written(tmp_path, PACK[outer](PACK[inner](LINES)))) is Reason.NESTED_COMPRESSION

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
    @pytest.mark.parametrize("compression", [Compression.NONE, Compression.GZIP])
    def test_refuses_wide_encodings(self, tmp_path: Path, encoding: str, compression: Compression) -> None:
        content = PACK[compression](LINES.decode().encode(encoding))
        assert verdict(written(tmp_path, content)) in {Reason.ENCODING, Reason.BINARY}

    def test_calls_utf_16_an_encoding_even_without_a_mark(self, tmp_path: Path) -> None:
        assert verdict(written(tmp_path, LINES.decode().encode("utf-16-le"))) is Reason.ENCODING

    @pytest.mark.parametrize(
        "content",
        [
            random.Random(7).randbytes(5000),
            b"book\x00\x00\x00\x00mark\x00\x00\x00\x008\x00\x00\x00" * 50,
            bz2.compress(random.Random(7).randbytes(5000)),
            b"PAR1" + random.Random(8).randbytes(5000),
        ],
        ids=["noise", "bookmark", "bzip2", "parquet"],
    )
    def test_refuses_what_is_no_text(self, tmp_path: Path, content: bytes) -> None:
        assert verdict(written(tmp_path, content)) is Reason.BINARY

    @pytest.mark.parametrize(
        "content",
        [
            b"\xef\xbb\xbf" + LINES.replace(b"\n", b"\r\n"),
            LINES[:3000] + bytes(4096) + LINES[3000:],
            bytes(100_000) + LINES,
            LINES.replace(b"cars", "Übermaß 日本".encode()),
            LINES.replace(b"cars", b"\xe4\xf6\xfc"),
            b'{"a": "\x01"}\n',
            b"\x1b[31mred\x1b[0m\n" * 100,
        ],
        ids=["byte order mark", "hole", "hole first", "utf-8", "latin-1", "one control", "colours"],
    )
    def test_leaves_bad_lines_in_a_text_to_the_line_parser(self, tmp_path: Path, content: bytes) -> None:
        assert content_of(written(tmp_path, content)) == content

    def test_names_no_content_in_its_verdict(self, tmp_path: Path) -> None:
        path = written(tmp_path, gzip.compress(b"secret@example.com\n" * 1000)[:-3])
        with pytest.raises(FileRejected) as refused:
            content_of(path)
        assert "secret" not in str(refused.value)


class TestInflated:
    @pytest.mark.parametrize("compression", PACKED)
    def test_reads_every_member(self, tmp_path: Path, compression: Compression) -> None:
        parts = [LINES[start : start + 999] for start in range(0, len(LINES), 999)]
        assert content_of(written(tmp_path, b"".join(map(PACK[compression], parts)))) == LINES

    @pytest.mark.parametrize("padding", [1, 511, 600_000])
    @pytest.mark.parametrize("compression", PACKED)
    def test_tolerates_zeros_after_the_last_member(
        self, tmp_path: Path, compression: Compression, padding: int
    ) -> None:
        assert content_of(written(tmp_path, PACK[compression](LINES) + bytes(padding))) == LINES

    @pytest.mark.parametrize("garbage", [b"x", b"\n", b"\x1f\x8b", b"\x00\x00x", b"garbage" * 100])
    @pytest.mark.parametrize("compression", PACKED)
    def test_refuses_bytes_after_the_last_member(
        self, tmp_path: Path, compression: Compression, garbage: bytes
    ) -> None:
        assert verdict(written(tmp_path, PACK[compression](LINES) + garbage)) is Reason.BAD_COMPRESSION

    @pytest.mark.parametrize("from_end", [1, 4, 5, 8])
    def test_refuses_a_wrong_checksum_or_length(self, tmp_path: Path, from_end: int) -> None:
        content = bytearray(gzip.compress(LINES))
        content[-from_end] ^= 1
        assert verdict(written(tmp_path, bytes(content))) is Reason.BAD_COMPRESSION

    def test_refuses_a_wrong_checksum_of_zstd(self, tmp_path: Path) -> None:
        content = bytearray(zstd.compress(LINES, options={zstd.CompressionParameter.checksum_flag: 1}))
        content[-1] ^= 1
        assert verdict(written(tmp_path, bytes(content))) is Reason.BAD_COMPRESSION

    @pytest.mark.parametrize("compression", PACKED)
    def test_never_ends_well_when_cut_off(self, tmp_path: Path, compression: Compression) -> None:
        content = PACK[compression](random.Random(3).randbytes(20_000).hex().encode())
        for length in range(4, len(content), 997):
            assert verdict(written(tmp_path, content[:length])) is Reason.BAD_COMPRESSION

    @pytest.mark.parametrize("compression", PACKED)
    def test_never_ends_with_other_bytes_when_one_is_flipped(self, tmp_path: Path, compression: Compression) -> None:
        packed = bytearray(gzip.compress(LINES, mtime=0))
        if compression is Compression.ZSTD:
            packed = bytearray(zstd.compress(LINES, options={zstd.CompressionParameter.checksum_flag: 1}))
        for position in range(0, len(packed), 97):
            damaged = bytearray(packed)
            damaged[position] ^= 0x10
            path = written(tmp_path, bytes(damaged))
            try:
                assert b"".join(inflated(path, compression)) == LINES
            except FileRejected as refused:
                assert refused.reason in {Reason.BAD_COMPRESSION, Reason.TOO_LARGE}  # noqa: PT017

    def test_refuses_a_bomb(self, tmp_path: Path) -> None:
        path = written(tmp_path, gzip.compress(bytes(10 << 20)))
        assert verdict(path) is Reason.TOO_LARGE

    @pytest.mark.parametrize("compression", PACKED)
    def test_lets_a_short_file_of_equal_lines_pass(self, tmp_path: Path, compression: Compression) -> None:
        content = b'{"path": "/ping"}\n' * 200_000
        packed = PACK[compression](content)
        assert len(content) > 200 * len(packed)
        assert content_of(written(tmp_path, packed)) == content

    def test_refuses_more_than_the_cap_whatever_the_ratio(self, tmp_path: Path) -> None:
        path = written(tmp_path, LINES)
        with pytest.raises(FileRejected) as refused:
            list(inflated(path, Compression.NONE, max_bytes=1000))
        assert refused.value.reason is Reason.TOO_LARGE

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        parts=st.lists(st.binary(max_size=3000), max_size=4),
        block_bytes=st.integers(1, 5000),
        compression=st.sampled_from(PACKED),
    )
    def test_cuts_blocks_of_the_size_asked_for(
        self, tmp_path: Path, parts: list[bytes], block_bytes: int, compression: Compression
    ) -> None:
        path = written(tmp_path, b"".join(map(PACK[compression], parts)))
        blocks = list(inflated(path, compression, block_bytes=block_bytes))
        assert b"".join(blocks) == b"".join(parts)
        assert all(len(block) == block_bytes for block in blocks[:-1])
        assert all(0 < len(block) <= block_bytes for block in blocks)

    @pytest.mark.parametrize("size", [(1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5 << 20])
    def test_reads_on_when_output_ends_where_its_buffer_does(self, tmp_path: Path, size: int) -> None:
        content = os.urandom(1000) * (size // 1000 + 1)
        for compression in PACKED:
            path = written(tmp_path, PACK[compression](content[:size]))
            assert b"".join(inflated(path, compression)) == content[:size]

    def test_reads_members_with_all_header_fields(self, tmp_path: Path) -> None:
        body = zlib.compressobj(wbits=-15)
        deflated = body.compress(LINES) + body.flush()
        header = b"\x1f\x8b\x08\x1e" + bytes(6) + struct.pack("<H", 3) + b"abc" + b"name\x00" + b"comment\x00"
        checked = header + struct.pack("<H", zlib.crc32(header) & 0xFFFF)
        packed = checked + deflated + struct.pack("<II", zlib.crc32(LINES), len(LINES))
        assert content_of(written(tmp_path, packed)) == LINES


VERDICTS = {
    "good_50.jsonl.gz": 13_166,
    "member_then_zero_padding.jsonl.gz": 13_166,
    "double_gzip.jsonl.gz": Reason.NESTED_COMPRESSION,
    "utf16le.jsonl": Reason.ENCODING,
    "empty.jsonl.gz": 0,
    "gzip_bomb_10MiB_zeros.jsonl.gz": Reason.TOO_LARGE,
    "macos_alias_named_log.txt": Reason.BINARY,
}


class TestRealFiles:
    def test_gives_every_listed_file_its_verdict(self, real_data: Path) -> None:
        folder = real_data / "data" / "nasty"
        for line in (folder / "INDEX.jsonl").read_text().splitlines():
            entry = json.loads(line)
            if entry["source"] != "requests":
                continue
            path = folder / "requests" / entry["file"]
            expected = VERDICTS.get(entry["file"], path.stat().st_size)
            if isinstance(expected, Reason):
                assert verdict(path) is expected, entry["file"]
            else:
                assert len(content_of(path)) == expected, entry["file"]

    def test_reads_every_real_log(self, real_data: Path) -> None:
        for path in sorted((real_data / "data" / "requests").iterdir()):
            expected = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            assert content_of(path) == expected, path.name
