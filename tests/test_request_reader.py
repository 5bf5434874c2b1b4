"""Whole files: what is taken, what is refused and why, of the collected nasty files and of counterparts made here."""

import contextlib
import gzip
import json
import threading
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest

from billing_pipeline.records import Reason
from billing_pipeline.sources.profile import load_profile
from resources import duck, line_chunks, request_reader
from resources.inflate import FileRejected
from resources.prepared_queries import PreparedQueries
from resources.request_reader import BulkReadError
from tests.request_files import (
    AVRO_SCHEMA,
    CONTEXT,
    ReadFile,
    api_line,
    avro_bytes,
    avro_fields,
    avro_request,
    read_file,
)

JSON = "billable_request_json"
AVRO = "billable_request_avro"
# The collected files were made in this year: later than their records, earlier than 2038.
SEEN = replace(CONTEXT, as_of=datetime(2026, 11, 20, tzinfo=UTC))


@pytest.fixture(scope="module")
def queries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PreparedQueries]:
    with duck.connect(tmp_path_factory.mktemp("duck"), threads=1) as engine, PreparedQueries(engine) as opened:
        yield opened


class Files:
    """Reads content as a file."""

    def __init__(self, folder: Path, queries: PreparedQueries) -> None:
        self.path = folder / "file"
        self.queries = queries

    def read(self, content: bytes, profile: str = JSON) -> ReadFile:
        self.path.write_bytes(content)
        return read_file(self.path, profile, self.queries)

    def refused(self, content: bytes, profile: str = JSON) -> tuple[Reason, str]:
        self.path.write_bytes(content)
        with pytest.raises(FileRejected) as caught:
            read_file(self.path, profile, self.queries)
        return caught.value.reason, caught.value.detail


@pytest.fixture
def files(tmp_path: Path, queries: PreparedQueries) -> Files:
    return Files(tmp_path, queries)


def lines(count: int) -> list[bytes]:
    return [api_line(request_id=f"r-{number}") for number in range(1, count + 1)]


Outcome = tuple[int, Mapping[str, int]]
# Accepted lines, refused lines by reason.
NASTY_LINES: Mapping[str, Outcome] = {
    "good_50.jsonl.gz": (50, {}),
    "redelivered/good_50.jsonl": (50, {}),
    "half_last_line.jsonl": (49, {"truncated_line": 1}),
    "member_then_zero_padding.jsonl.gz": (50, {}),
    "bom_crlf.jsonl": (50, {}),
    "bom_in_middle.jsonl": (50, {}),
    "nul_bytes.jsonl": (19, {"nul_bytes": 1}),
    "empty.jsonl.gz": (0, {}),
    "pretty_printed.jsonl": (0, {"bad_json": 10}),
    "duplicate_keys.jsonl": (0, {"duplicate_key": 1}),
    "wrong_types.jsonl": (
        0,
        {"wrong_type": 7, "out_of_range": 4, "missing_field": 2, "bad_value": 4, "flag_missing": 1},
    ),
    "response_time.jsonl": (2, {"out_of_range": 4, "wrong_type": 2, "missing_field": 1}),
    "big_numbers.jsonl": (2, {"out_of_range": 5, "wrong_type": 1}),
    "timestamps.jsonl": (
        5,
        {
            "ambiguous_unit": 7,
            "bad_timestamp": 8,
            "future": 2,
            "leap_second": 1,
            "missing_field": 1,
            "no_timezone": 3,
            "sentinel_time": 3,
        },
    ),
    "paths.jsonl": (23, {"bad_path": 1}),
    "pii_extra_fields.jsonl": (1, {}),
    "deep_nesting.jsonl": (1, {"too_deep": 1}),
    "interleaved_stderr_real.csv": (0, {"bad_json": 117}),
}
NASTY_FILES_REFUSED: Mapping[str, Reason] = {
    "double_gzip.jsonl.gz": Reason.NESTED_COMPRESSION,
    "utf16le.jsonl": Reason.ENCODING,
    "gzip_bomb_10MiB_zeros.jsonl.gz": Reason.TOO_LARGE,
    "macos_alias_named_log.txt": Reason.BINARY,
}
NASTY_AVRO: Mapping[str, Outcome] = {
    "v1_null.avro": (2_000, {}),
    "v1_snappy.avro": (2_000, {}),
    "v1_bzip2.avro": (2_000, {}),
    "v1_xz.avro": (2_000, {}),
    "v2_timestamp_micros.avro": (50, {}),
    "v2_flag_nullable.avro": (40, {"flag_missing": 10}),
    "header_only.avro": (0, {}),
    "gzipped.avro.gz": (2_000, {}),
}
NASTY_AVRO_REFUSED: Mapping[str, Reason] = {
    "v2_added_nullable_renamed_with_alias.avro": Reason.SCHEMA_INCOMPATIBLE,
    "v2_timestamp_plain_long_seconds.avro": Reason.TIMESTAMP_UNIT_UNKNOWN,
    "v2_local_timestamp.avro": Reason.NO_TIMEZONE,
    "v2_flag_became_enum.avro": Reason.SCHEMA_INCOMPATIBLE,
    "truncated_mid_block.avro": Reason.BAD_AVRO,
}


class TestNastyFiles:
    @pytest.mark.parametrize(("name", "outcome"), NASTY_LINES.items())
    def test_of_lines_are_taken_line_by_line(
        self, real_data: Path, queries: PreparedQueries, name: str, outcome: Outcome
    ) -> None:
        read = read_file(real_data / "data/nasty/requests" / name, JSON, queries, context=SEEN)
        assert (len(read.records), dict(read.outcome.rejected_by_reason)) == outcome

    @pytest.mark.parametrize(("name", "outcome"), NASTY_AVRO.items())
    def test_of_avro_are_taken_record_by_record(
        self, real_data: Path, queries: PreparedQueries, name: str, outcome: Outcome
    ) -> None:
        read = read_file(real_data / "data/nasty/avro" / name, AVRO, queries, context=SEEN)
        assert (len(read.records), dict(read.outcome.rejected_by_reason)) == outcome

    @pytest.mark.parametrize(("name", "reason"), [*NASTY_FILES_REFUSED.items(), *NASTY_AVRO_REFUSED.items()])
    def test_that_cannot_be_trusted_are_refused_whole(
        self, real_data: Path, queries: PreparedQueries, name: str, reason: Reason
    ) -> None:
        folder, profile = ("avro", AVRO) if name.endswith(".avro") else ("requests", JSON)
        with pytest.raises(FileRejected) as caught:
            read_file(real_data / "data/nasty" / folder / name, profile, queries, context=SEEN)
        assert caught.value.reason is reason

    def test_are_all_in_these_tables(self, real_data: Path) -> None:
        entries = [json.loads(line) for line in (real_data / "data/nasty/INDEX.jsonl").read_text().splitlines()]
        names = {entry["file"] for entry in entries if entry["source"] in ("requests", "avro")}
        assert names == {*NASTY_LINES, *NASTY_FILES_REFUSED, *NASTY_AVRO, *NASTY_AVRO_REFUSED}

    def test_of_times_are_read_only_with_a_unit_and_a_zone(self, real_data: Path, queries: PreparedQueries) -> None:
        path = real_data / "data/nasty/requests/timestamps.jsonl"
        read = read_file(path, JSON, queries, context=SEEN)
        reasons = {rejection.line_number: str(rejection.reason) for rejection in read.rejections}
        for number, line in enumerate(path.read_text().splitlines(), 1):
            value = json.loads(line)["timestamp"]
            match value:
                case "2026-06-30T23:59:60Z":
                    assert reasons[number] == "leap_second"
                case "1970-01-01T00:00:00Z" | "0001-01-01T00:00:00Z":
                    assert reasons[number] == "sentinel_time"
                case "9999-12-31T23:59:59Z" | "2038-01-19T03:14:08Z":
                    assert reasons[number] == "future"
                case None:
                    assert reasons[number] == "missing_field"
                case 0:
                    assert reasons[number] == "sentinel_time"
                case "1767225600" | int() | float():
                    assert reasons[number] == "ambiguous_unit"
                case "2016-12-31T23:59:60Z":
                    assert read.records[number].event_at == datetime(2017, 1, 1, tzinfo=UTC)
                    assert read.outcome.leap_seconds == 1
                case str() if number in read.records:
                    assert value.endswith("Z") or value[-6] in "+-"
                case _:
                    assert reasons[number] in ("bad_timestamp", "no_timezone")

    def test_of_micros_land_in_their_year(self, real_data: Path, queries: PreparedQueries) -> None:
        path = real_data / "data/nasty/avro/v2_timestamp_micros.avro"
        assert {record.event_at.year for record in read_file(path, AVRO, queries, context=SEEN).records.values()} == {
            2013
        }


class TestFilesOfLines:
    def test_are_read_plain_and_in_several_gzip_members(self, files: Files) -> None:
        content = b"".join(lines(5))
        members = gzip.compress(content[:333]) + gzip.compress(content[333:]) + b"\0" * 512
        assert files.read(content).records == files.read(members).records
        assert len(files.read(content).records) == 5

    def test_may_end_without_a_line_end(self, files: Files) -> None:
        assert len(files.read(b"".join(lines(3)).rstrip()).records) == 3

    def test_lose_only_the_line_that_was_cut_off(self, files: Files) -> None:
        read = files.read(b"".join(lines(3))[:-20])
        assert sorted(read.records) == [1, 2]
        assert [(one.line_number, one.reason) for one in read.rejections] == [(3, Reason.TRUNCATED_LINE)]

    def test_count_blank_lines_as_out_of_scope(self, files: Files) -> None:
        first, second = lines(2)
        read = files.read(first + b"\n  \t\r\n" + second)
        assert sorted(read.records) == [1, 4]
        assert (read.outcome.lines_read, read.outcome.out_of_scope) == (4, 2)

    def test_have_a_hole_of_zeros_as_one_bad_line(self, files: Files) -> None:
        first, second, third = lines(3)
        read = files.read(first + b"\0" * 4096 + second + third)
        assert sorted(read.records) == [1, 3]
        assert read.outcome.rejected_by_reason == {"nul_bytes": 1}

    def test_are_empty_when_their_archive_is(self, files: Files) -> None:
        assert files.read(gzip.compress(b"")).outcome.lines_read == 0

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", Reason.EMPTY_FILE),
            (gzip.compress(gzip.compress(api_line())), Reason.NESTED_COMPRESSION),
            (gzip.compress(api_line())[:-6], Reason.BAD_COMPRESSION),
            (gzip.compress(api_line())[:-8] + b"\0" * 8, Reason.BAD_COMPRESSION),
            (gzip.compress(api_line()) + b"garbage", Reason.BAD_COMPRESSION),
            (gzip.compress(b"\0" * (64 << 20)), Reason.TOO_LARGE),
            (api_line().decode().encode("utf-16"), Reason.ENCODING),
            (bytes(range(256)) * 40, Reason.BINARY),
            (avro_bytes([avro_request()]), Reason.SCHEMA_INCOMPATIBLE),
        ],
    )
    def test_are_refused_whole_when_they_are_something_else(self, files: Files, content: bytes, reason: Reason) -> None:
        assert files.refused(content)[0] is reason

    def test_are_refused_when_they_turn_bad_at_the_very_end(self, files: Files) -> None:
        """Rows of good blocks have been yielded by then: the caller keeps none of them."""
        content = gzip.compress(b"".join(lines(20_000)), compresslevel=1)
        reason, _ = files.refused(content[:-4] + bytes(4))
        assert reason is Reason.BAD_COMPRESSION

    def test_are_refused_when_more_than_the_allowed_share_of_a_thousand_lines_is(self, files: Files) -> None:
        bad = api_line(status_code=0)
        half = b"".join(lines(500)) + bad * 500
        assert files.read(half).outcome.rejected_by_reason == {"out_of_range": 500}
        reason, detail = files.refused(half + bad)
        assert reason is Reason.BAD_RATIO
        assert detail == "501 of the first 1001 lines are refused (out_of_range 501): is it the right profile?"

    def test_are_not_refused_for_their_share_below_a_thousand_lines(self, files: Files) -> None:
        assert files.read(b"no json\n" * 999).outcome.rejected_by_reason == {"bad_json": 999}

    def test_are_refused_when_a_line_does_not_end(self, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(line_chunks, "CHUNK_BYTES", 1 << 16)
        monkeypatch.setattr(line_chunks, "LONGEST_LINE_BYTES", 1 << 18)
        reason, _ = files.refused(api_line() + b'[{"a": 1}, ' * 60_000)
        assert reason is Reason.TOO_LONG

    def test_tell_how_many_lines_were_in_a_leap_second(self, files: Files) -> None:
        content = (
            api_line(timestamp="2016-12-31T23:59:60Z")
            + api_line(timestamp="2017-01-01T05:29:60.5+05:30")
            + api_line(timestamp="2017-01-01T00:00:00Z")
            + api_line(timestamp="2016-12-30T23:59:60Z")
        )
        read = files.read(content)
        assert {record.event_at for record in read.records.values()} == {datetime(2017, 1, 1, tzinfo=UTC)}
        assert read.outcome.leap_seconds == 2
        assert read.outcome.rejected_by_reason == {"leap_second": 1}

    def test_give_one_result_whatever_their_chunks(self, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
        content = b"".join(lines(15)) + b"bad\n\n" + api_line(bytes=...) + api_line(status_code=7)
        whole = files.read(content)
        for chunk_bytes in (197, 1_000):
            monkeypatch.setattr(line_chunks, "CHUNK_BYTES", chunk_bytes)
            read = files.read(content)
            assert (read.records, read.rejections) == (whole.records, whole.rejections)
            assert read.outcome.counts == whole.outcome.counts


class TestFilesOfAvro:
    @pytest.mark.parametrize("codec", ["null", "deflate", "snappy", "zstandard", "bzip2", "xz"])
    def test_are_read_in_every_codec(self, files: Files, codec: str) -> None:
        read = files.read(avro_bytes([avro_request(number) for number in range(1, 301)], codec=codec), AVRO)
        assert sorted(read.records) == list(range(1, 301))
        assert read.records[7].response_bytes == 512

    def test_of_the_first_version_have_no_bytes(self, files: Files) -> None:
        content = avro_bytes([avro_request()], avro_fields(response_bytes=...))
        assert files.read(content, AVRO).records[1].response_bytes is None

    def test_keep_the_unit_of_the_writer(self, files: Files) -> None:
        for unit in ("timestamp-millis", "timestamp-micros"):
            schema = avro_fields(timestamp={"type": "long", "logicalType": unit})
            moment = datetime(2026, 3, 1, 10, 0, 0, 1_000, tzinfo=UTC)
            assert files.read(avro_bytes([avro_request()], schema), AVRO).records[1].event_at == moment

    def test_have_extra_fields_dropped(self, files: Files) -> None:
        schema = avro_fields(email="string", tags={"type": "map", "values": "string"})
        content = avro_bytes([avro_request(email="jane@example.com", tags={"vin": "W"})], schema)
        assert files.read(content, AVRO).records == files.read(avro_bytes([avro_request()]), AVRO).records

    def test_have_a_record_without_the_flag_refused_and_the_others_taken(self, files: Files) -> None:
        schema = avro_fields(is_real_vehicle=["null", "boolean"])
        flags = [True, None, False]
        content = avro_bytes(
            [avro_request(number, is_real_vehicle=flag) for number, flag in enumerate(flags, 1)], schema
        )
        read = files.read(content, AVRO)
        assert {number: record.is_simulated for number, record in read.records.items()} == {1: False, 3: True}
        assert [(one.line_number, one.reason, one.field) for one in read.rejections] == [
            (2, Reason.FLAG_MISSING, "simulated")
        ]

    @pytest.mark.parametrize(
        ("types", "changes", "reason"),
        [
            ({"timestamp": "long"}, {"timestamp": 1767225600}, Reason.TIMESTAMP_UNIT_UNKNOWN),
            (
                {"timestamp": {"type": "long", "logicalType": "local-timestamp-millis"}},
                {"timestamp": 1767225600000},
                Reason.NO_TIMEZONE,
            ),
            (
                {"is_real_vehicle": {"type": "enum", "name": "Kind", "symbols": ["REAL", "SIMULATED"]}},
                {"is_real_vehicle": "REAL"},
                Reason.SCHEMA_INCOMPATIBLE,
            ),
            ({"response_time_ms": ..., "duration_ms": "double"}, {"duration_ms": 1.0}, Reason.SCHEMA_INCOMPATIBLE),
            ({"status_code": "string"}, {"status_code": "200"}, Reason.SCHEMA_INCOMPATIBLE),
            ({"response_bytes": "double"}, {"response_bytes": 1.0}, Reason.SCHEMA_INCOMPATIBLE),
        ],
    )
    def test_are_refused_whole_when_their_schema_does_not_fit(
        self, files: Files, types: dict[str, object], changes: dict[str, object], reason: Reason
    ) -> None:
        assert files.refused(avro_bytes([avro_request(**changes)], avro_fields(**types)), AVRO)[0] is reason

    def test_of_another_record_are_refused(self, files: Files) -> None:
        content = avro_bytes([avro_request()], {**AVRO_SCHEMA, "name": "Person"})
        assert files.refused(content, AVRO)[0] is Reason.SCHEMA_INCOMPATIBLE

    def test_cut_off_anywhere_are_refused_whole(self, files: Files) -> None:
        content = avro_bytes([avro_request(number) for number in range(300)])
        for length in (20, 400, len(content) // 2, len(content) - 1):
            assert files.refused(content[:length], AVRO)[0] is Reason.BAD_AVRO

    def test_of_lines_are_not_read_as_avro(self, files: Files) -> None:
        assert files.refused(api_line(), AVRO)[0] is Reason.SCHEMA_INCOMPATIBLE


class TestOutcome:
    def test_counts_every_line_once(self, files: Files) -> None:
        read = files.read(b"".join(lines(5)) + b"\nbad\n" + api_line(method="BREW"))
        counts = read.outcome.counts
        assert (counts.lines_read, counts.accepted, counts.rejected, counts.out_of_scope) == (8, 5, 2, 1)
        assert Counter(read.outcome.rejected_by_reason) == {"bad_json": 1, "bad_value": 1}


class TestDuckdbErrors:
    def test_a_failing_query_leaves_the_lines_to_the_rule(self, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
        query = request_reader.lines_query(load_profile(JSON), present=frozenset())
        assert query is not None
        failing = "select cast(line as integer) from lines where $latest::timestamp is not null"
        broken = replace(query, optimistic=failing, careful=failing)
        monkeypatch.setattr(request_reader, "lines_query", lambda *_, **__: broken)
        monkeypatch.setattr(request_reader.KnownSpellings, "learned", lambda *_: [])
        monkeypatch.setattr(request_reader, "FEW_LINES", 0)
        assert len(files.read(b"".join(lines(3))).records) == 3

    def test_no_exception_quotes_a_line(self, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
        def out_of_memory(*_: object, **__: object) -> None:
            raise duckdb.OutOfMemoryException("could not allocate for jane@example.com")

        monkeypatch.setattr(request_reader.KnownSpellings, "learned", lambda *_: [])
        monkeypatch.setattr(request_reader, "FEW_LINES", 0)
        monkeypatch.setattr(request_reader._Reading, "_run", out_of_memory)
        with pytest.raises(BulkReadError, match="OutOfMemoryException") as caught:
            files.read(b"".join(lines(3)))
        assert "jane" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None


def chunk_of(data: bytes) -> line_chunks.LineChunk:
    (chunk,) = line_chunks.chunks_of((block for block in (data,)), len(data))
    return chunk


class TestHolds:
    @pytest.mark.parametrize("key", [b'"bytes"', b'"a"', b'"ab"'])
    @pytest.mark.parametrize("size", [0, 5, (1 << 18) - 2, (1 << 18) + 9])
    def test_finds_a_key_wherever_it_is(self, key: bytes, size: int) -> None:
        for place in {*range(min(size, 9)), *range(max(0, size - 20), size + 1)}:
            data = b"." * place + key + b"." * (size - place)
            assert chunk_of(data).holds(key)
            assert not chunk_of(data.replace(key, key[:-1] + b".")).holds(key)


class TestPrefetch:
    def test_lets_the_error_of_the_consumer_through_while_the_next_block_is_being_made(self) -> None:
        # Found while measuring: closing a generator that a thread is running hid the real error.
        is_making = threading.Event()
        may_go_on = threading.Event()

        def blocks() -> Generator[bytes, None, None]:
            yield b"first"
            is_making.set()
            may_go_on.wait(10)
            yield b"second"

        def consume() -> None:
            with contextlib.closing(request_reader._prefetched(blocks())) as ahead:
                assert next(ahead) == b"first"
                assert is_making.wait(10)
                threading.Timer(0.05, may_go_on.set).start()
                raise KeyError("the consumer's own")

        with pytest.raises(KeyError, match="the consumer's own"):
            consume()
