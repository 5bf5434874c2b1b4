"""The bulk queries say of every line what the rule says: laws 1 and 3 over spellings, damage, chunk borders and profiles."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from billing_pipeline.records import OutOfScope, Rejection, RequestRecord
from billing_pipeline.sources import request_sql
from billing_pipeline.sources.profile import SourceProfile, load_profile
from billing_pipeline.sources.request_lines import read_fields
from resources import byte_windows, duck, line_chunks, request_reader, shaped_lines
from resources.avro import FIRST_US, LAST_US
from resources.prepared_queries import PreparedQueries
from tests.request_files import (
    API_REQUEST,
    CONTEXT,
    Read,
    ReadFile,
    avro_bytes,
    avro_fields,
    avro_request,
    read_file,
    read_line_by_line,
)
from tests.request_spellings import (
    ESCAPED_BESIDE_REPEATED_KEY,
    PROFILES,
    alike_files,
    files_of,
    is_whole,
    odd_lines,
    spelled,
    tokens_of,
    with_token,
)


def same_reading(path: Path, profile: SourceProfile, queries: PreparedQueries, content: bytes) -> None:
    """Assert that the bulk reader and the rule agree on every line of `content`, by position and by query, and by query alone."""
    path.write_bytes(content)
    expected = read_line_by_line(content, profile)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(request_reader, "FEW_LINES", 0)
        compare(read_file(path, profile, queries), expected, content)
        patch.setattr(request_reader.KnownSpellings, "learned", lambda *_: [])
        compare(read_file(path, profile, queries), expected, content)


def compare(read: ReadFile, expected: Mapping[int, Read], content: bytes) -> None:
    lines = content.split(b"\n")
    for number, outcome in expected.items():
        found = read.records.get(number)
        if isinstance(outcome, RequestRecord):
            assert found == outcome, lines[number - 1]
        else:
            assert found is None, lines[number - 1]
    rejections = [outcome for outcome in expected.values() if isinstance(outcome, Rejection)]
    assert list(read.rejections) == rejections
    assert read.outcome.lines_read == len(expected)
    assert read.outcome.out_of_scope == sum(isinstance(outcome, OutOfScope) for outcome in expected.values())


@pytest.fixture(scope="module")
def queries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PreparedQueries]:
    with duck.connect(tmp_path_factory.mktemp("duck"), threads=1) as engine, PreparedQueries(engine) as opened:
        yield opened


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bulk") / "requests.jsonl"


_GOOD = spelled(tokens_of(API_REQUEST))


class TestReadingLinesByPosition:
    @settings(
        max_examples=60,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(made=alike_files())
    # Objects where a number may be missing: it is not.
    @example(made=("billable_request_json", _GOOD.replace("512}", "{}}").encode() + b"\n", 1))
    @example(made=("billable_request_json", _GOOD.replace("512}", '{"a":1}}').encode() + b"\n", 1))
    @example(
        made=(
            "billable_request_json",
            _GOOD.replace("{", '{"a":' + '{"a":' * 32 + "1" + "}" * 32 + ",").encode() + b"\n",
            1,
        )
    )
    def test_agrees_with_the_rule_whatever_the_values(
        self, made: tuple[str, bytes, int], file: Path, queries: PreparedQueries
    ) -> None:
        name, content, rows_at_once = made
        profile, _ = lenient(name)
        file.write_bytes(content)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(request_reader, "FEW_LINES", 0)
            patch.setattr(shaped_lines, "_ROWS_AT_ONCE", rows_at_once)
            patch.setattr(byte_windows, "_ROWS_AT_ONCE", rows_at_once)
            compare(read_file(file, profile, queries), read_line_by_line(content, profile), content)

    @pytest.mark.parametrize("name", ["billable_request_json", "web_requests_json"])
    def test_takes_every_good_line_of_one_spelling(
        self, name: str, file: Path, queries: PreparedQueries, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr(request_reader._Reading, "_take_lines")
        profile, base = PROFILES[name]
        tokens = {
            "status_code": ["200", "404", "599"],
            "response_time_ms": ["0.5", "12.125", "99999.999", "12345678"],
            "method": ['"GET"', '"OPTIONS"', '"PUT"'],
            "endpoint": ['"/v2.0/user"', '"/v2.0/vehicles/a-b_c/vin"', '"/v2.0/vehicles/7?x=%20&y[=]"', '"/elsewhere"'],
            "path": ['"/"', '"/erddap/tabledap/x.csv?a,b&c>1"'],
            "client_id": ['"a"', '"B-1_c"'],
            "request_id": ['"r-1"', f'"{"r" * 63}"'],
            "is_real_vehicle": ["true", "false"],
            "bytes": ["0", "12345678", "null"],
        }
        good = [spelled(tokens_of(base))] * 40
        varied = [
            spelled(with_token(tokens_of(base), path, token))
            for path in base
            for token in tokens.get(path, ())
            if "[" not in token
        ]
        content = "\n".join([*good, *varied]).encode() + b"\n"
        file.write_bytes(content)
        compare(read_file(file, profile, queries), read_line_by_line(content, profile), content)

    def test_takes_lines_of_several_spellings(
        self, file: Path, queries: PreparedQueries, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr(request_reader._Reading, "_take_lines")
        profile, base = PROFILES["billable_request_json"]
        tree = tokens_of(base)
        with_bytes, without = spelled(tree), spelled(with_token(tree, "bytes", None), colon=": ")
        content = f"{with_bytes}\n{without}\n".encode() * 20
        file.write_bytes(content)
        read = read_file(file, profile, queries)
        assert [read.records[number].response_bytes for number in (1, 2, 39, 40)] == [512, None, 512, None]
        compare(read, read_line_by_line(content, profile), content)


class TestReadingLinesInBulk:
    @pytest.mark.parametrize("name", PROFILES)
    def test_agrees_with_the_rule_on_every_odd_line(self, name: str, file: Path, queries: PreparedQueries) -> None:
        profile, base = lenient(name)
        good = spelled(tokens_of(base)).encode()
        same_reading(file, profile, queries, b"\n".join([good, *odd_lines(profile, base)]))

    @pytest.mark.parametrize("name", PROFILES)
    def test_agrees_when_every_line_is_whole_and_the_optimistic_query_is_enough(
        self, name: str, file: Path, queries: PreparedQueries, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        profile, base = lenient(name)
        lines = [line for line in odd_lines(profile, base) if is_whole(line, base)]
        assert len(lines) > 100
        monkeypatch.setattr(request_reader, "lines_query", only_the_optimistic_query)
        same_reading(file, profile, queries, b"\n".join(lines) + b"\n")

    @pytest.mark.parametrize("name", PROFILES)
    def test_agrees_on_a_chunk_without_the_optional_fields_that_the_file_has(
        self, name: str, file: Path, queries: PreparedQueries, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Chunks of about one line, so that each is tried by the optimistic query first."""
        monkeypatch.setattr(line_chunks, "CHUNK_BYTES", 700)
        profile, base = lenient(name)
        good = spelled(tokens_of(base)).encode()
        lines = odd_lines(profile, base)[::31]
        same_reading(file, profile, queries, b"\n".join(part for line in lines for part in (good, line)) + b"\n")

    @settings(
        max_examples=40,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(made=files_of())
    # DuckDB's message quotes the line and cuts it inside of a character: it cannot be decoded.
    @example(made=("web_requests_json", ESCAPED_BESIDE_REPEATED_KEY, 64))
    def test_agrees_on_any_file_with_chunk_borders_anywhere(
        self,
        made: tuple[str, bytes, int],
        file: Path,
        queries: PreparedQueries,
    ) -> None:
        name, content, chunk_bytes = made
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(line_chunks, "CHUNK_BYTES", chunk_bytes)
            same_reading(file, lenient(name)[0], queries, content)

    def test_a_profile_with_older_spellings_is_read_by_the_rule_alone(
        self, file: Path, queries: PreparedQueries
    ) -> None:
        profile = load_profile("billable_request_json")
        client = profile.fields.client_id.model_copy(update={"aliases": ("caller",)})
        profile = profile.model_copy(update={"fields": profile.fields.model_copy(update={"client_id": client})})
        lines = [
            spelled(tokens_of(API_REQUEST)),
            spelled(tokens_of(API_REQUEST)).replace("client_id", "caller"),
            spelled(tokens_of(API_REQUEST)).replace("client_id", "user"),
        ]
        content = "\n".join(lines).encode() + b"\n"
        same_reading(file, profile, queries, content)
        assert sorted(read_file(file, profile, queries).records) == [1, 2]


def lenient(name: str) -> tuple[SourceProfile, Mapping[str, Any]]:
    """Return a profile that refuses no file for its share of bad lines, with short lines."""
    profile, base = PROFILES[name]
    return profile.model_copy(update={"max_line_bytes": 20_000, "max_rejected_share": Decimal(1)}), base


def only_the_optimistic_query(profile: SourceProfile, *, present: frozenset[str]) -> request_sql.BulkQuery | None:
    query = request_sql.lines_query(profile, present=present)
    return None if query is None else replace(query, careful="")


MOMENT = datetime(2026, 3, 1, 10, tzinfo=UTC)
AVRO_VALUES: Mapping[str, Sequence[object]] = {
    "request_id": ["r-1", "", "a b", "é", "a" * 129, "a\n", None],
    "client_id": ["acme", "a@b.org", "\x00", None],
    "timestamp": [MOMENT, 0, -1, 10**17, -(10**17), 1_772_712_300_000, 1_772_712_300_001, None],
    "endpoint": ["/v2.0/vehicles/1/odometer", "/v2.0/user?q=é", "", "/a/../b", "/%zz", None],
    "method": ["GET", "get", None],
    "status_code": [200, 99, 100, 599, 600, -1, 2**31 - 1, None],
    "response_time_ms": [
        0.0,
        -0.0,
        12.5,
        0.1,
        1e-7,
        0.0005,
        1e15,
        1e16,
        123456789.123,
        1e300,
        -1.0,
        float("nan"),
        float("inf"),
        None,
    ],
    "is_real_vehicle": [True, False, None],
    "response_bytes": [0, 2**53 + 1, 2**63 - 1, -1, None],
}


class TestReadingAvroInBulk:
    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        records=st.lists(
            st.fixed_dictionaries({name: st.sampled_from(values) for name, values in AVRO_VALUES.items()}), max_size=20
        ),
        time_type=st.sampled_from(["timestamp-millis", "timestamp-micros"]),
        number_type=st.sampled_from(["double", "float", "long"]),
        codec=st.sampled_from(["null", "deflate"]),
    )
    def test_agrees_with_the_rule_on_every_record(
        self,
        records: list[dict[str, object]],
        time_type: str,
        number_type: str,
        codec: str,
        file: Path,
        queries: PreparedQueries,
    ) -> None:
        profile = load_profile("billable_request_avro").model_copy(update={"max_rejected_share": Decimal(1)})
        nullable = {"request_id": "string", "client_id": "string", "endpoint": "string", "method": "string"}
        nullable |= {"status_code": "int", "is_real_vehicle": "boolean", "response_time_ms": number_type}
        schema = avro_fields(
            **{name: ["null", kind] for name, kind in nullable.items()},
            timestamp=["null", {"type": "long", "logicalType": time_type}],
        )
        written = [
            {**record, "response_time_ms": as_written(record["response_time_ms"], number_type)}
            for record in (avro_request(), *records)
        ]
        file.write_bytes(avro_bytes(written, schema, codec))
        read = read_file(file, profile, queries)
        for number, record in enumerate(written, 1):
            expected = read_fields(
                {name: as_read(name, value, time_type) for name, value in record.items()},
                line_number=number,
                profile=profile,
                context=CONTEXT,
            )
            rejection = next((one for one in read.rejections if one.line_number == number), None)
            assert (read.records.get(number) or rejection) == expected, record


def as_written(value: object, number_type: str) -> object:
    """Return what a field of this type can hold."""
    if isinstance(value, float) and number_type == "long":
        return int(value) if math.isfinite(value) and abs(value) < 2**63 else 7
    if isinstance(value, float) and number_type == "float":
        return float(np.float32(min(value, 1e30)))
    return value


def as_read(name: str, value: object, time_type: str) -> object:
    """Return what the rule is given for a value: exact numbers, instants bounded by the calendar."""
    if isinstance(value, float):
        return Decimal(repr(value))
    if name == "timestamp" and isinstance(value, int):
        microseconds = value * (1000 if time_type == "timestamp-millis" else 1)
        bounded = max(min(microseconds, LAST_US), FIRST_US)
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=bounded)
    return value
