"""Avro files: the container, and two readers that agree, on generated files and on real ones."""

import io
import json
import random
import struct
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing_pipeline.records import Reason
from billing_pipeline.sources.avro import (
    SchemaRefusal,
    resolve,
    wanted_fields,
)
from resources import avro, avro_bulk
from resources.avro import read_avro, read_schema
from resources.inflate import Compression, FileRejected, sniff
from tests.avro_files import CODECS, CURRENT, NAMES, V1, encoded, number, raw_file, record, requests, rows_of, written


def verdict(path: Path) -> Reason:
    with pytest.raises(FileRejected) as refused:
        rows_of(path)
    return refused.value.reason


@pytest.fixture(params=["fast", "strict"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Read flat files both ways."""
    if request.param == "strict":
        monkeypatch.setattr(avro_bulk, "decoded", lambda *_: None)
    return str(request.param)


def both_ways(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what each reader makes of the file: its rows or its reason, as text that compares."""
    outcomes = []
    for fast in (avro_bulk.decoded, lambda *_: None):
        with monkeypatch.context() as patch:
            patch.setattr(avro_bulk, "decoded", fast)
            try:
                outcomes.append(repr(rows_of(path)))
            except FileRejected as refused:
                outcomes.append(refused.reason)
    return outcomes


class TestReadAvro:
    @pytest.mark.parametrize("codec", CODECS)
    def test_reads_every_codec(self, tmp_path: Path, codec: str, way: str) -> None:
        rows = requests(500)
        path = written(tmp_path, encoded(CURRENT, rows, codec))
        assert rows_of(path) == [{**row, "line_number": at} for at, row in enumerate(rows, 1)]

    @pytest.mark.parametrize("compression", [Compression.GZIP, Compression.ZSTD])
    def test_reads_a_packed_file(self, tmp_path: Path, compression: Compression) -> None:
        import gzip

        from backports import zstd

        pack = {Compression.GZIP: gzip.compress, Compression.ZSTD: zstd.compress}[compression]
        path = written(tmp_path, pack(encoded(CURRENT, requests(500), "deflate")))
        assert sniff(path).compression is compression
        assert len(rows_of(path)) == 500

    def test_delivers_the_documented_types(self, tmp_path: Path, way: str) -> None:
        schema = record(
            "string",
            {"type": "string", "logicalType": "uuid"},
            {"type": "enum", "name": "e", "symbols": ["A", "B"]},
            "int",
            "long",
            "float",
            "double",
            "boolean",
            {"type": "long", "logicalType": "timestamp-millis"},
            ["null", {"type": "long", "logicalType": "timestamp-micros"}],
            "bytes",
            {"type": "fixed", "name": "f", "size": 2},
            {"type": "int", "logicalType": "date"},
            {"type": "long", "logicalType": "local-timestamp-micros"},
        )
        values = ["x", str(uuid.UUID(int=5)), "B", -1, 2**63 - 1, 0.5, 0.25, True, 1_000, 1, b"b", b"fi", 3, 4]
        row = {f"f{at}": value for at, value in enumerate(values)}
        (batch,) = read_avro(written(tmp_path, encoded(schema, [row])), Compression.NONE)
        instant = pa.timestamp("us", tz="UTC")
        assert batch.schema.types == [
            *[pa.string()] * 3, *[pa.int64()] * 2, *[pa.float64()] * 2, pa.bool_(), instant, instant, pa.int64(),
        ]  # fmt: skip
        assert batch.column(8).cast(pa.int64()).to_pylist() == [1_000_000]
        assert batch.column(9).cast(pa.int64()).to_pylist() == [1]
        assert batch.schema.names == [*(f"f{at}" for at in range(10)), "line_number"]

    def test_honours_the_writers_unit_of_time(self, tmp_path: Path, way: str) -> None:
        moment = datetime(2026, 3, 1, 12, 0, 0, 123_000, tzinfo=UTC)
        for unit in ("timestamp-millis", "timestamp-micros"):
            schema = record({"type": "long", "logicalType": unit})
            assert rows_of(written(tmp_path, encoded(schema, [{"f0": moment}])))[0]["f0"] == moment

    def test_bounds_instants_beyond_the_calendar(self, tmp_path: Path, way: str) -> None:
        for unit in ("timestamp-millis", "timestamp-micros"):
            data = number(2**63 - 1) + number(-(2**63)) + number(0)
            path = written(tmp_path, raw_file(record({"type": "long", "logicalType": unit}), 3, data))
            first, second, third = (row["f0"] for row in rows_of(path))
            assert first.year == 9999
            assert second.year == 1
            assert third == datetime(1970, 1, 1, tzinfo=UTC)

    def test_delivers_chosen_fields_in_the_order_asked_for(self, tmp_path: Path, way: str) -> None:
        path = written(tmp_path, encoded(CURRENT, requests(3)))
        (batch,) = read_avro(path, Compression.NONE, fields=["method", "client_id"])
        assert batch.schema.names == ["method", "client_id", "line_number"]
        with pytest.raises(ValueError, match="not among"):
            list(read_avro(path, Compression.NONE, fields=["nobody"]))

    def test_counts_records_even_when_none_of_their_fields_is_delivered(self, tmp_path: Path, way: str) -> None:
        path = written(tmp_path, encoded(record("bytes"), [{"f0": b"x"}] * 7))
        assert [row["line_number"] for row in rows_of(path)] == list(range(1, 8))

    @pytest.mark.parametrize("batch_rows", [1, 7, 100, 1000])
    def test_cuts_batches_and_numbers_records_through(self, tmp_path: Path, way: str, batch_rows: int) -> None:
        path = written(tmp_path, encoded(CURRENT, requests(250), sync_interval=1000))
        batches = list(read_avro(path, Compression.NONE, batch_rows=batch_rows))
        assert max(batch.num_rows for batch in batches) <= batch_rows
        lines = [line for batch in batches for line in batch.column("line_number").to_pylist()]
        assert lines == list(range(1, 251))

    def test_goes_group_by_group(self, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
        rows = requests(300)
        path = written(tmp_path, encoded(CURRENT, rows, "deflate", sync_interval=1000))
        monkeypatch.setattr(avro, "GROUP_BYTES", 3000)
        assert rows_of(path) == [{**row, "line_number": at} for at, row in enumerate(rows, 1)]

    def test_takes_a_header_without_blocks_for_no_records(self, tmp_path: Path, way: str) -> None:
        assert rows_of(written(tmp_path, encoded(CURRENT, []))) == []

    def test_reads_nested_maps_and_unions_around_the_flat_fields(self, tmp_path: Path) -> None:
        schema = record(
            {"type": "map", "values": "long"},
            "string",
            {"type": "array", "items": ["null", "string", "long"]},
            {"type": "record", "name": "q", "fields": [{"name": "next", "type": ["null", "q"]}]},
            ["string"],
            "null",
            "long",
        )
        row = {
            "f0": {"a": 1},
            "f1": "x",
            "f2": [None, "s", 5],
            "f3": {"next": {"next": None}},
            "f4": "y",
            "f5": None,
            "f6": 9,
        }
        path = written(tmp_path, encoded(schema, [row] * 20))
        assert rows_of(path)[19] == {"f1": "x", "f4": "y", "f6": 9, "line_number": 20}

    def test_skips_arrays_that_state_their_size(self, tmp_path: Path) -> None:
        array = number(-2) + number(3) + number(1) + number(200) + number(0)
        schema = record({"type": "array", "items": "long"}, "long")
        assert rows_of(written(tmp_path, raw_file(schema, 1, array + number(5))))[0]["f1"] == 5
        lying = number(-2) + number(2) + number(1) + number(200) + number(0)
        assert verdict(written(tmp_path, raw_file(schema, 1, lying + number(5)))) is Reason.BAD_AVRO

    def test_is_not_kept_busy_by_items_of_no_bytes(self, tmp_path: Path) -> None:
        schema = record({"type": "array", "items": "null"}, "long")
        path = written(tmp_path, raw_file(schema, 1, number(2**60) + number(0) + number(5)))
        assert rows_of(path)[0]["f1"] == 5


DAMAGE: Mapping[str, tuple[Any, int, bytes]] = {
    "boolean of 2": (record("boolean"), 1, b"\x02"),
    "nullable boolean of 2": (record(["null", "boolean"]), 2, b"\x00\x02\x02"),
    "branch that does not exist": (record(["null", "long"]), 1, number(2) + number(9)),
    "negative branch": (record(["null", "long"]), 1, number(-1) + number(9)),
    "int of 33 bits": (record("int"), 1, number(1 << 33)),
    "number of 11 bytes": (record("long"), 1, b"\xff" * 10 + b"\x01"),
    "number of 65 bits": (record("long"), 1, b"\xff" * 9 + b"\x7f"),
    "number of 65 bits under null": (record(["null", "long"]), 1, number(1) + b"\xff" * 9 + b"\x7f"),
    "symbol that does not exist": (record({"type": "enum", "name": "e", "symbols": ["A", "B"]}), 1, number(2)),
    "negative symbol": (record({"type": "enum", "name": "e", "symbols": ["A", "B"]}), 1, number(-1)),
    "text that is not UTF-8": (record("string"), 1, number(2) + b"\xff\xfe"),
    "negative length": (record("string"), 1, number(-2) + b"ab"),
    "huge length": (record("string"), 1, number(1 << 40) + b"ab"),
    "records left over": (record("long"), 1, number(5) + number(7)),
    "records too few": (record("long"), 3, number(5) + number(7) + b"\x80"),
    "cut fixed": (record({"type": "fixed", "name": "f", "size": 4}), 1, b"abc"),
    "cut double": (record("double"), 1, b"abc"),
    "huge count": (record("long"), 1 << 40, number(5)),
    "negative count": (record("long"), -1, number(5)),
    "no count": (record("long"), 0, number(5)),
    "records of no bytes": (record("null"), 5, b""),
}  # fmt: skip


class TestDamage:
    @pytest.mark.parametrize("case", DAMAGE)
    def test_is_refused_by_both_readers(self, tmp_path: Path, way: str, case: str) -> None:
        assert verdict(written(tmp_path, raw_file(*DAMAGE[case]))) is Reason.BAD_AVRO

    def test_lets_numbers_in_more_bytes_than_they_need_pass(self, tmp_path: Path, way: str) -> None:
        assert rows_of(written(tmp_path, raw_file(record("long"), 1, b"\x8a\x00")))[0]["f0"] == 5

    @pytest.mark.parametrize("codec", CODECS)
    def test_never_ends_well_when_cut_off(self, tmp_path: Path, codec: str) -> None:
        rows = requests(100)
        content = encoded(V1, rows, codec, sync_interval=2000)
        ends = {len(content)}
        for length in [*range(4, len(content), 997), *range(len(content) - 40, len(content))]:
            path = written(tmp_path, content[:length])
            try:
                found = len(rows_of(path))
            except FileRejected as refused:
                assert refused.reason is Reason.BAD_AVRO  # noqa: PT017
            else:
                # Cut exactly between two blocks a file is whole, by the format: a shorter one.
                assert content[:length].endswith(content[-16:]) and found < len(rows)  # noqa: PT018
                ends.add(length)
        assert len(ends) < 5

    @pytest.mark.parametrize("codec", CODECS)
    def test_refuses_bytes_after_the_end(self, tmp_path: Path, codec: str) -> None:
        content = encoded(V1, requests(10), codec)
        for more in (b"\n", bytes(16), bytes(100), content):
            assert verdict(written(tmp_path, content + more)) is Reason.BAD_AVRO

    def test_says_that_a_second_file_follows(self, tmp_path: Path) -> None:
        content = encoded(V1, requests(10))
        with pytest.raises(FileRejected, match="second Avro file"):
            rows_of(written(tmp_path, content * 2))

    @pytest.mark.parametrize("codec", ["snappy", "bzip2", "xz"])
    def test_of_one_bit_is_found_by_codecs_with_a_checksum(self, tmp_path: Path, codec: str) -> None:
        content = encoded(V1, requests(50), codec)
        begin = content.index(content[-16:]) + 20
        for position in range(begin, len(content), 53):
            damaged = bytearray(content)
            damaged[position] ^= 4
            assert verdict(written(tmp_path, bytes(damaged))) in {Reason.BAD_AVRO, Reason.TOO_LARGE}

    @pytest.mark.filterwarnings("ignore")
    def test_of_any_byte_means_the_same_to_both_readers(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        content = encoded(CURRENT, requests(12))
        chance = random.Random(1)
        begin = content.index(content[-16:])
        accepted = 0
        for _ in range(400):
            damaged = bytearray(content)
            damaged[chance.randrange(begin, len(content))] = chance.randrange(256)
            fast, strict = both_ways(written(tmp_path, bytes(damaged)), monkeypatch)
            assert fast == strict
            accepted += fast not in {Reason.BAD_AVRO, Reason.TOO_LARGE}
        assert accepted > 0

    def test_in_the_header_is_refused(self, tmp_path: Path) -> None:
        content = encoded(V1, requests(5), "snappy")
        for old, new in [
            (b"Obj\x01", b"Obj\x02"),
            (b"snappy", b"sloppy"),
            (b"avro.schema", b"avro.scheme"),
            (b'"type"', b'"type\xff'),
            (b'"record"', b'"report"'),
        ]:
            with pytest.raises(FileRejected):
                list(read_avro(written(tmp_path, content.replace(old, new, 1)), Compression.NONE))

    def test_in_a_size_allocates_nothing(self, tmp_path: Path) -> None:
        content = raw_file(record("long"), 1, number(5))
        block = content.rindex(number(1) + number(1) + number(5))
        huge = content[:block] + number(1) + number(1 << 31) + number(5) + bytes(range(16))
        assert verdict(written(tmp_path, huge)) is Reason.TOO_LARGE
        bomb = raw_file(record("bytes"), 1, struct.pack("<I", 0xFFFFFFFF) + bytes(8), "snappy")
        assert verdict(written(tmp_path, bomb)) is Reason.BAD_AVRO

    def test_of_a_bomb_is_found(self, tmp_path: Path) -> None:
        content = encoded(record("bytes"), [{"f0": bytes(1 << 20)}] * 20, "deflate")
        assert verdict(written(tmp_path, content)) is Reason.TOO_LARGE

    def test_names_no_content(self, tmp_path: Path, way: str) -> None:
        content = encoded(V1, [{**row, "client_id": "secret@example.com"} for row in requests(5)])
        with pytest.raises(FileRejected) as refused:
            rows_of(written(tmp_path, content[:-30]))
        assert "secret" not in str(refused.value)


FLAT = st.sampled_from(["string", "long", "int", "double", "float", "boolean", "bytes"])


VALUES: Mapping[str, st.SearchStrategy[Any]] = {
    "string": st.text(max_size=80),
    "long": st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 63, 64, -64, -65, 8191, 8192]),
    "int": st.integers(-(2**31), 2**31 - 1),
    "double": st.floats(allow_nan=False),
    "float": st.floats(width=32, allow_nan=False),
    "boolean": st.booleans(),
    "bytes": st.binary(max_size=80),
}


@st.composite
def flat_files(draw: st.DrawFn) -> tuple[Any, list[dict[str, Any]]]:
    kinds = draw(
        st.lists(st.tuples(FLAT, st.sampled_from(["plain", "null first", "null last"])), min_size=1, max_size=5)
    )
    types: list[Any] = []
    values = []
    for kind, union in kinds:
        types.append({"plain": kind, "null first": ["null", kind], "null last": [kind, "null"]}[union])
        values.append(VALUES[kind] if union == "plain" else st.none() | VALUES[kind])
    rows = draw(st.lists(st.tuples(*values), max_size=20))
    return record(*types), [{f"f{at}": value for at, value in enumerate(row)} for row in rows]


class TestBothReaders:
    @settings(
        max_examples=60,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(file=flat_files(), codec=st.sampled_from(CODECS))
    def test_deliver_what_was_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: tuple[Any, list[dict[str, Any]]], codec: str
    ) -> None:
        schema, rows = file
        path = written(tmp_path, encoded(schema, rows, codec, sync_interval=100))
        kept = [field["name"] for field in schema["fields"] if "bytes" not in field["type"]]
        expected = [{**{name: row[name] for name in kept}, "line_number": at} for at, row in enumerate(rows, 1)]
        assert both_ways(path, monkeypatch) == [repr(expected)] * 2

    def test_use_the_fast_one_for_our_schema(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = written(tmp_path, encoded(CURRENT, requests(100)))

        def refuse(*_: Any, **__: Any) -> Iterator[Any]:
            raise AssertionError("slow")

        monkeypatch.setattr(avro, "_decoded_strictly", refuse)
        assert len(rows_of(path)) == 100


ACCEPTED = {
    "v1_null.avro": 2000,
    "v1_snappy.avro": 2000,
    "v1_bzip2.avro": 2000,
    "v1_xz.avro": 2000,
    "gzipped.avro.gz": 2000,
    "header_only.avro": 0,
    "v2_timestamp_micros.avro": 50,
    "v2_flag_nullable.avro": 50,
}


REFUSED = {
    "v2_added_nullable_renamed_with_alias.avro": Reason.SCHEMA_INCOMPATIBLE,
    "v2_timestamp_plain_long_seconds.avro": Reason.TIMESTAMP_UNIT_UNKNOWN,
    "v2_local_timestamp.avro": Reason.NO_TIMEZONE,
    "v2_flag_became_enum.avro": Reason.SCHEMA_INCOMPATIBLE,
    "truncated_mid_block.avro": Reason.BAD_AVRO,
}


# Readable elsewhere, but a record of no bytes says nothing, and its count could be any number.
EMPTY_RECORDS = {"fastavro__no-fields.avro", "duckdb-avro__broken_record.avro", "duckdb-avro__empty_record.avro"}


class TestRealFiles:
    def test_get_the_listed_verdicts(self, real_data: Path, way: str) -> None:
        folder = real_data / "data" / "nasty"
        for line in (folder / "INDEX.jsonl").read_text().splitlines():
            entry = json.loads(line)
            if entry["source"] != "avro":
                continue
            path = folder / "avro" / entry["file"]
            compression = sniff(path).compression
            outcome = resolve(read_schema(path, compression), wanted_fields(CURRENT), record_names=NAMES)
            if isinstance(outcome, SchemaRefusal):
                assert outcome.reason is REFUSED[entry["file"]], entry["file"]
            elif entry["file"] in REFUSED:
                assert verdict(path) is REFUSED[entry["file"]], entry["file"]
            else:
                rows = rows_of(path, fields=[field.source for field in outcome.fields])
                assert len(rows) == ACCEPTED[entry["file"]], entry["file"]
                assert all(2012 < row["timestamp"].year < 2027 for row in rows)

    def test_keep_null_flags_null(self, real_data: Path, way: str) -> None:
        flags = [row["is_real_vehicle"] for row in rows_of(real_data / "data/nasty/avro/v2_flag_nullable.avro")]
        assert (flags.count(None), len(flags)) == (10, 50)

    def test_of_other_projects_are_read_alike_by_three_readers(
        self, real_data: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        compared = 0
        for path in sorted((real_data / "data" / "avro").glob("*.avro")):
            try:
                expected = list(fastavro.reader(io.BytesIO(path.read_bytes())))
            except (ValueError, EOFError, IndexError, UnicodeDecodeError, OverflowError):
                continue
            fast, strict = both_ways(path, monkeypatch)
            assert fast == strict, path.name
            if not isinstance(read_schema(path, Compression.NONE), dict) or fast == Reason.SCHEMA_INCOMPATIBLE:
                continue
            if path.name in EMPTY_RECORDS:
                assert fast == Reason.BAD_AVRO
                continue
            rows = rows_of(path)
            assert len(rows) == len(expected), path.name
            for row, other in zip(rows, expected, strict=True):
                del row["line_number"]
                assert {name: comparable(value) for name, value in row.items()} == {
                    name: comparable(other[name]) for name in row
                }, path.name
                compared += 1
        assert compared > 20_000

    def test_that_are_broken_are_refused(self, real_data: Path) -> None:
        broken = ["avro__avro-1238-truncated.avro", "goavro__syncMarkerMismatch.avro", "goavro__temp1.avro"]
        for name in [*broken, "goavro__blockSizeExceedsMaxBlockSize.avro", "goavro__cannotReadBlockSize.avro"]:
            with pytest.raises(FileRejected):
                list(read_avro(real_data / "data" / "avro" / name, Compression.NONE))


def comparable(value: Any) -> Any:
    """Return `value` as both libraries can say it."""
    if isinstance(value, uuid.UUID):
        return str(value)
    return "nan" if value != value else value
