"""Avro files: schema resolution, the container, and two readers that agree, on generated files and on real ones."""

import io
import json
import random
import struct
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import billing_pipeline
from billing_pipeline.records import Reason
from billing_pipeline.sources.avro import (
    TIMESTAMPS,
    AvroSchemaError,
    Kind,
    Resolution,
    SchemaRefusal,
    WantedField,
    compatible,
    parse_schema,
    resolve,
    wanted_fields,
)
from resources import avro, avro_bulk
from resources.avro import read_avro, read_schema
from resources.inflate import Compression, FileRejected, sniff

PROFILES = Path(billing_pipeline.__file__).parent / "profiles"
V1 = json.loads((PROFILES / "billable_request.v1.avsc").read_text())
CURRENT = json.loads((PROFILES / "billable_request.avsc").read_text())
NAMES = ("billing.ApiRequest",)
ENUM = {"type": "enum", "name": "kind", "symbols": ["REAL", "SIMULATED"]}
CODECS = ["null", "deflate", "snappy", "zstandard", "bzip2", "xz"]


def changed(schema: Mapping[str, Any], name: str, /, **change: Any) -> dict[str, Any]:
    """Return `schema` with another definition of one field."""
    copy = json.loads(json.dumps(schema))
    for field in copy["fields"]:
        if field["name"] == name:
            field.update(change)
    return copy


def requests(count: int) -> list[dict[str, Any]]:
    chance = random.Random(count)
    return [
        {
            "request_id": str(uuid.UUID(int=chance.getrandbits(128))),
            "client_id": f"c_{chance.randrange(10**6)}",
            "timestamp": datetime(2026, 3, 1, tzinfo=UTC) + timedelta(milliseconds=chance.randrange(10**8)),
            "endpoint": chance.choice(["/v1/cars/7/position", "/größe", ""]),
            "method": "GET",
            "status_code": chance.choice([200, 404, 500]),
            "response_time_ms": chance.randrange(10**5) / 8,
            "is_real_vehicle": chance.random() < 0.9,
            "response_bytes": chance.choice([None, 0, 63, 64, 8191, 8192, 2**53 + 1, 2**62 - 1]),
        }
        for _ in range(count)
    ]


def encoded(schema: Any, rows: Sequence[Any], codec: str = "null", sync_interval: int = 16_000) -> bytes:
    target = io.BytesIO()
    fastavro.writer(target, schema, rows, codec=codec, sync_interval=sync_interval)
    return target.getvalue()


def raw_file(schema: Any, row_count: int, data: bytes, codec: str = "null") -> bytes:
    """Return a file of one block as given, true or not."""
    metadata = {"avro.schema": json.dumps(schema).encode(), "avro.codec": codec.encode()}
    pairs = b"".join(number(len(part)) + part for pair in metadata.items() for part in (pair[0].encode(), pair[1]))
    header = b"Obj\x01" + number(2) + pairs + b"\x00" + bytes(range(16))
    return header + number(row_count) + number(len(data)) + data + bytes(range(16))


def number(value: int) -> bytes:
    rest, out = (value << 1) ^ (value >> 63), bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*out, rest])


def record(*types: Any) -> dict[str, Any]:
    return {"type": "record", "name": "r", "fields": [{"name": f"f{at}", "type": one} for at, one in enumerate(types)]}


def written(folder: Path, content: bytes) -> Path:
    path = folder / "file.avro"
    path.write_bytes(content)
    return path


def rows_of(path: Path, **options: Any) -> list[dict[str, Any]]:
    return [row for batch in read_avro(path, sniff(path).compression, **options) for row in batch.to_pylist()]


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


class TestOurSchema:
    def test_follows_every_version_before(self) -> None:
        assert compatible(V1, CURRENT) == ()
        assert V1["schema_version"] + 1 == CURRENT["schema_version"]

    def test_describes_every_field(self) -> None:
        assert all(field["doc"] for field in CURRENT["fields"])

    @pytest.mark.parametrize("schema", [V1, CURRENT], ids=["v1", "current"])
    def test_is_read_in_all_its_versions(self, tmp_path: Path, schema: Any) -> None:
        rows = requests(50)
        path = written(tmp_path, encoded(schema, rows))
        resolution = resolve(read_schema(path, Compression.NONE), wanted_fields(CURRENT), record_names=NAMES)
        assert isinstance(resolution, Resolution)
        names = [field.source for field in resolution.fields]
        expected = [{name: row[name] for name in names} for row in rows]
        assert [{name: row[name] for name in names} for row in rows_of(path, fields=names)] == expected
        assert resolution.absent == (() if schema is CURRENT else ("response_bytes",))


class TestCompatible:
    @pytest.mark.parametrize(
        ("new", "problem"),
        [
            (
                {**V1, "fields": [*V1["fields"], {"name": "region", "type": "string"}]},
                "region is new and has no default",
            ),
            ({**V1, "fields": V1["fields"][1:]}, "request_id was removed"),
            (changed(V1, "status_code", type="string"), "status_code was int and cannot become string"),
            (changed(V1, "timestamp", type="long"), "timestamp was timestamp-millis and cannot become long"),
            (changed(V1, "client_id", name="caller"), "caller is new and has no default"),
            ({**V1, "name": "Request"}, "renamed without an alias"),
            ({**V1, "aliases": ["ApiRequest"], "name": "Request"}, None),
            (changed(V1, "client_id", name="caller", aliases=["client_id"]), None),
            (changed(V1, "status_code", type="long"), None),
            (changed(V1, "client_id", type=["null", "string"]), None),
            ({**V1, "fields": [*V1["fields"], {"name": "region", "type": "string", "default": ""}]}, None),
        ],
    )
    def test_says_what_breaks_readers(self, new: Any, problem: str | None) -> None:
        problems = compatible(V1, new)
        if problem is None:
            assert problems == ()
        else:
            assert problem in "; ".join(problems)

    def test_refuses_to_take_null_back(self) -> None:
        assert compatible(changed(V1, "client_id", type=["null", "string"]), V1) == (
            "client_id could be null and cannot become required",
        )

    def test_refuses_to_lose_a_symbol(self) -> None:
        old = record({"type": "enum", "name": "e", "symbols": ["A", "B"]})
        new = record({"type": "enum", "name": "e", "symbols": ["A"]})
        assert compatible(old, new) == ("f0 lost symbols of its enum",)
        assert compatible(new, old) == ()

    def test_wants_records(self) -> None:
        assert compatible({"type": "long"}, V1) == ("both versions must be records",)


class TestResolve:
    @pytest.mark.parametrize(
        ("writer", "reason", "field"),
        [
            (changed(V1, "client_id", name="caller", aliases=["client_id"]), "schema_incompatible", "client_id"),
            (changed(V1, "is_real_vehicle", type=ENUM), "schema_incompatible", "is_real_vehicle"),
            (changed(V1, "is_real_vehicle", type="string"), "schema_incompatible", "is_real_vehicle"),
            (changed(V1, "status_code", type="long"), None, None),
            (changed(V1, "status_code", type="string"), "schema_incompatible", "status_code"),
            (changed(V1, "timestamp", type="long"), "timestamp_unit_unknown", "timestamp"),
            (changed(V1, "timestamp", type={"type": "long", "logicalType": "unheard-of"}), "timestamp_unit_unknown", "timestamp"),
            (changed(V1, "timestamp", type={"type": "long", "logicalType": "local-timestamp-millis"}), "no_timezone", "timestamp"),
            (changed(V1, "timestamp", type={"type": "long", "logicalType": "timestamp-micros"}), None, None),
            (changed(V1, "timestamp", type="string"), "schema_incompatible", "timestamp"),
            (changed(V1, "is_real_vehicle", type=["null", "boolean"]), None, None),
            (changed(V1, "is_real_vehicle", type=["null", "boolean", "string"]), "schema_incompatible", "is_real_vehicle"),
            ({**V1, "name": "Other"}, "schema_incompatible", None),
            ({**V1, "namespace": "elsewhere"}, "schema_incompatible", None),
            ({**V1, "fields": [*V1["fields"], {"name": "new", "type": {"type": "map", "values": "string"}}]}, None, None),
            ("long", "schema_incompatible", None),
            ({"type": "record", "name": "r"}, "bad_avro", None),
        ],
    )  # fmt: skip
    def test_gives_each_change_of_the_writer_its_verdict(
        self, writer: Any, reason: str | None, field: str | None
    ) -> None:
        outcome = resolve(
            writer,
            wanted_fields(V1 | {"fields": changed(V1, "status_code", type="long")["fields"]}),
            record_names=NAMES,
        )
        if reason is None:
            assert isinstance(outcome, Resolution)
        else:
            assert isinstance(outcome, SchemaRefusal)
            assert (outcome.reason, outcome.field) == (reason, field)

    def test_takes_a_renamed_field_by_the_readers_alias(self) -> None:
        reader = changed(V1, "response_time_ms", aliases=["duration_ms"])
        outcome = resolve(
            changed(V1, "response_time_ms", name="duration_ms"), wanted_fields(reader), record_names=NAMES
        )
        assert isinstance(outcome, Resolution)
        assert {field.name: field.source for field in outcome.fields}["response_time_ms"] == "duration_ms"

    def test_prefers_names_in_their_order(self) -> None:
        want = WantedField(name="at", names=("occurred_at", "timestamp"), kinds=TIMESTAMPS)
        instant = {"type": "long", "logicalType": "timestamp-millis"}
        writer = {
            "type": "record",
            "name": "r",
            "fields": [{"name": "timestamp", "type": instant}, {"name": "occurred_at", "type": instant}],
        }
        outcome = resolve(writer, [want], record_names=["r"])
        assert isinstance(outcome, Resolution)
        assert outcome.fields[0].source == "occurred_at"

    def test_may_insist_on_a_type_without_null(self) -> None:
        want = WantedField(name="f0", names=("f0",), kinds=frozenset({Kind.LONG}), nullable=False)
        outcome = resolve(record(["null", "long"]), [want], record_names=["r"])
        assert isinstance(outcome, SchemaRefusal)
        assert outcome.reason is Reason.SCHEMA_INCOMPATIBLE

    def test_accepts_any_namespace_for_a_bare_name(self) -> None:
        assert isinstance(resolve(V1, wanted_fields(V1), record_names=["ApiRequest"]), Resolution)


class TestParseSchema:
    @pytest.mark.parametrize(
        "document",
        [
            None,
            7,
            [],
            {},
            {"type": "unheard-of"},
            {"type": "record", "name": "r", "fields": [{"name": "a", "type": "missing"}]},
            {"type": "record", "name": "r", "fields": [{"name": "a"}]},
            {"type": "record", "name": "", "fields": []},
            record("long") | {"fields": record("long")["fields"] * 2},
            record({"type": "enum", "name": "r", "symbols": []}),
            {"type": "fixed", "name": "f", "size": -1},
            {"type": "array"},
        ],
    )
    def test_refuses_what_is_no_schema(self, document: Any) -> None:
        with pytest.raises(AvroSchemaError):
            parse_schema(document)

    def test_refuses_bottomless_nesting(self) -> None:
        document: Any = "long"
        for _ in range(500):
            document = {"type": "array", "items": document}
        with pytest.raises(AvroSchemaError, match="deeper"):
            parse_schema(document)


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
