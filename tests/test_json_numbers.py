"""Numbers that JSON allows and no field counts: no parser may stop at them, and none of them becomes another number."""

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing_pipeline.sources.cloudtrail import LogRead, read_log
from billing_pipeline.sources.json_numbers import exact_decimal, exact_integer
from billing_pipeline.sources.line_shape import shape_of
from billing_pipeline.sources.traffic_snapshots import TrafficSnapshot, parse_body
from billing_pipeline.sources.visibility_events import json_fields, read_fields
from tests.storage_files import AS_OF, profile, record

BEYOND = ["1e99999999999999999999", "-1E+99999999999999999999", "1e-99999999999999999999", "0e99999999999999999999"]


class TestADecimal:
    @given(st.from_regex(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,4})?", fullmatch=True))
    def test_has_all_of_its_digits(self, text: str) -> None:
        assert exact_decimal(text) == Decimal(text)
        assert exact_decimal(text).as_tuple() == Decimal(text).as_tuple()

    @pytest.mark.parametrize(("text", "value"), [*zip(BEYOND, ["Infinity", "-Infinity", "0", "0"], strict=True)])
    def test_of_an_exponent_beyond_all_is_infinite_or_nothing(self, text: str, value: str) -> None:
        assert exact_decimal(text) == Decimal(value)

    @given(st.integers())
    def test_of_no_fraction_is_an_integer(self, value: int) -> None:
        assert exact_integer(str(value)) == value

    def test_of_more_digits_than_an_integer_may_have_is_exact_too(self) -> None:
        assert exact_integer("9" * 5_000) == Decimal((0, (9,) * 5_000, 0))


class TestAnyParser:
    @pytest.mark.parametrize("number", BEYOND)
    def test_of_visibility_reads_on(self, number: str) -> None:
        line = (
            f'{{"repository": "a/b", "at": "2026-03-01T00:00:00Z", "visibility": "private", "x": {number}}}\n'.encode()
        )
        fields = json_fields(line)
        assert isinstance(fields, dict)
        assert len(read_fields(fields, as_of=AS_OF)) == 1
        moved = json_fields(line.replace(b'"2026-03-01T00:00:00Z"', number.encode()))
        assert isinstance(moved, dict)
        assert read_fields(moved, as_of=AS_OF) in (("ambiguous_unit", "at"), ("sentinel_time", "at"))

    @pytest.mark.parametrize("number", BEYOND)
    def test_of_traffic_refuses_the_sample_alone(self, number: str) -> None:
        samples = [
            {"uuid": f"{digit * 8}-1111-1111-1111-111111111111", "inbound_tag": "x", "uplink_bytes_total": 5,
             "downlink_bytes_total": 6}
            for digit in "12"
        ]  # fmt: skip
        body = json.dumps(
            {"collected_at": "2026-03-01T00:00:00Z", "node_id": "jp", "env": "prod", "samples": samples}
        ).replace("6}", f"{number}}}", 1)
        (snapshot,) = parse_body(body.encode(), as_of=AS_OF)
        assert isinstance(snapshot, TrafficSnapshot)
        assert [one.uplink_bytes for one in snapshot.samples] == [5]
        assert [(one.position, one.field) for one in snapshot.rejected] == [(1, "downlink_bytes_total")]

    @pytest.mark.parametrize("number", BEYOND)
    def test_of_cloudtrail_reads_on(self, number: str) -> None:
        told = record(additionalEventData={"bytesTransferredIn": "@@"})
        content = json.dumps({"Records": [told, record(ignored="@@")]}).replace('"@@"', number).encode()
        read = read_log(content, profile=profile(), buckets=(), as_of=AS_OF)
        assert isinstance(read, LogRead)
        assert [event.bytes for _, event in read.events] == [None if exact_decimal(number) else 0, 100]

    @pytest.mark.parametrize("opening", [b"[", b'{"a":'])
    def test_of_spellings_knows_no_bottom(self, opening: bytes) -> None:
        assert shape_of(opening * 100_000 + b"\n") is None
