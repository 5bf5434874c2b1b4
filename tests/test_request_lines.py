"""The rule for one line: every reason on its bounds, what is read all the same, and pseudonyms."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing_pipeline.records import OutOfScope, Reason, Rejection, RequestRecord, line_digest
from billing_pipeline.sources.profile import SourceProfile, load_profile, parse_profile
from billing_pipeline.sources.request_lines import MAX_DEPTH, FileContext, pseudonym, read_fields, read_line
from tests.request_files import (
    AS_OF,
    CONTENT_SHA256,
    CONTEXT,
    KEY,
    NGINX_REQUEST,
    WEB_REQUEST,
    api_line,
    json_line,
)

API = load_profile("billable_request_json")
NGINX = load_profile("nginx_json")
WEB = load_profile("web_requests_json")
NESTED = parse_profile(
    b"""
name = "nested"
version = 1
description = "nested paths, aliases, scope, marker"
framing = "lines"
endpoints = ["/a"]
[fields]
event_id = { path = "meta.id", aliases = ["id"] }
event_at = { path = "meta.at", layout = "epoch_ms" }
client_id = { path = "who" }
method = { path = "http.method" }
path = { path = "http.path" }
status_code = { path = "http.status" }
response_time = { path = "took", unit = "s", optional = true, null_tokens = ["-"] }
response_bytes = { path = "size", nullable = true, null_tokens = ["-"] }
simulated = { path = "agent", pattern = "bot" }
scope = { path = "kind", values = ["request"] }
""",
    origin="nested.toml",
)
NESTED_REQUEST: Mapping[str, Any] = {
    "kind": "request",
    "meta": {"id": "e1", "at": 1767225600123},
    "who": "acme",
    "http": {"method": "GET", "path": "/a", "status": 200},
    "took": 0.25,
    "size": 5,
    "agent": "curl",
}


def read(line: bytes | str, profile: SourceProfile = API) -> RequestRecord | Rejection | OutOfScope:
    text = line.encode("utf-8", "surrogatepass") if isinstance(line, str) else line
    return read_line(text, line_number=7, profile=profile, context=CONTEXT)


def accepted(line: bytes | str, profile: SourceProfile = API) -> RequestRecord:
    result = read(line, profile)
    assert isinstance(result, RequestRecord), result
    return result


def refused(line: bytes | str, profile: SourceProfile = API) -> tuple[str, str | None]:
    result = read(line, profile)
    assert isinstance(result, Rejection), result
    assert result.line_number == 7
    text = line.encode("utf-8", "surrogatepass") if isinstance(line, str) else line
    assert result.line_sha256 == line_digest(text)
    return str(result.reason), result.field


def with_raw(field: str, token: str) -> str:
    """Return a good line with the text of one value replaced by `token`."""
    fields = json.loads(api_line())
    fields[field] = "@@"
    return json.dumps(fields).replace('"@@"', token) + "\n"


class TestAGoodLine:
    def test_becomes_a_record_of_canonical_facts(self) -> None:
        assert accepted(api_line()) == RequestRecord(
            event_id="r-1",
            event_at=datetime(2026, 3, 1, 10, 20, 30, 123456, tzinfo=UTC),
            client_id="acme",
            method="GET",
            endpoint="/v2.0/vehicles/{vehicle_id}/odometer",
            status_code=200,
            response_time_us=12_500,
            response_bytes=512,
            is_simulated=False,
        )

    @pytest.mark.parametrize(
        ("method", "path", "status", "is_real", "endpoint"),
        [
            ("GET", "/v2.0/vehicles/{id}/odometer", 200, True, "/v2.0/vehicles/{vehicle_id}/odometer"),
            ("GET", "/v2.0/vehicles/{id}/location", 200, True, "/v2.0/vehicles/{vehicle_id}/location"),
            ("POST", "/v2.0/vehicles/{id}/security", 200, True, "/v2.0/vehicles/{vehicle_id}/security"),
            ("GET", "/v2.0/vehicles/{id}/vin", 200, True, "/v2.0/vehicles/{vehicle_id}/vin"),
            ("GET", "/v2.0/vehicles/{id}", 200, True, "/v2.0/vehicles/{vehicle_id}"),
            ("GET", "/v2.0/vehicles", 200, True, "/v2.0/vehicles"),
            ("GET", "/v2.0/user", 200, True, "/v2.0/user"),
            ("DELETE", "/v2.0/vehicles/{id}/application", 200, True, "/v2.0/vehicles/{vehicle_id}/application"),
            ("GET", "/v2.0/vehicles/{id}/odometer", 500, True, "/v2.0/vehicles/{vehicle_id}/odometer"),
            ("GET", "/v2.0/vehicles/{id}/odometer", 200, False, "/v2.0/vehicles/{vehicle_id}/odometer"),
        ],
    )
    def test_is_read_the_same_for_every_kind_of_request_of_a_vehicle_api(
        self, method: str, path: str, status: int, is_real: bool, endpoint: str
    ) -> None:
        vehicle = "36ab27d0-fd9d-4455-823a-ce30af709ffc"
        line = api_line(
            method=method, endpoint=path.replace("{id}", vehicle), status_code=status, is_real_vehicle=is_real
        )
        record = accepted(line)
        assert (record.method, record.endpoint, record.status_code) == (method, endpoint, status)
        assert record.is_simulated is not is_real
        assert vehicle not in repr(record)

    def test_may_spell_json_in_any_way(self) -> None:
        plain = accepted(api_line())
        fields = json.loads(api_line())
        spaced = json.dumps(dict(reversed(fields.items())), indent=None, separators=(" ,\t", " : "))
        escaped = api_line().replace(b"acme", b"\\u0061cme").replace(b"client_id", b"client\\u005fid")
        assert accepted("  " + spaced + "  \r\n") == plain
        assert accepted(escaped) == plain

    def test_drops_what_the_profile_does_not_name(self) -> None:
        line = api_line(email="jane@example.com", nested={"vin": "WVWZZZ1JZXW000001"})
        assert accepted(line) == accepted(api_line())

    def test_has_its_position_as_identity_where_the_source_gives_none(self) -> None:
        record = accepted(json_line(WEB_REQUEST), WEB)
        assert record.event_id == f"{CONTENT_SHA256[:16]}:7"

    def test_reads_nested_fields_with_a_unit_for_time(self) -> None:
        record = accepted(json_line(NESTED_REQUEST), NESTED)
        assert record.event_at == datetime(2026, 1, 1, 0, 0, 0, 123_000, tzinfo=UTC)
        assert (record.event_id, record.response_time_us, record.response_bytes) == ("e1", 250_000, 5)

    def test_reads_an_older_name_where_the_newer_is_absent(self) -> None:
        line = json_line({**NESTED_REQUEST, "meta": {"at": 1767225600123}, "id": "old"})
        assert accepted(line, NESTED).event_id == "old"


class TestWhatIsNoLine:
    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            ("{\n", "bad_json"),
            ("\n", "bad_json"),
            ("chmod: cannot access 'a.out': No such file\n", "bad_json"),
            ('{"request_id": "r-1",,}\n', "bad_json"),
            ("{'request_id': 'r-1'}\n", "bad_json"),
            ('{"a": 01}\n', "bad_json"),
            ('{"a": tru}\n', "bad_json"),
            ('{"a": "\t"}\n', "bad_json"),
            ('{"a": "\\x"}\n', "bad_json"),
            ('{"a": 1} {"a": 1}\n', "bad_json"),
            ('{"request_id": "r-1", "client', "truncated_line"),
            ("[1]\n", "not_an_object"),
            ('"text"\n', "not_an_object"),
            ("null\n", "not_an_object"),
            ("17\n", "not_an_object"),
            ("{}\n", "missing_field"),
            ("\x00\x00{}\n", "nul_bytes"),
        ],
    )
    def test_is_refused_with_the_reason(self, line: str, reason: str) -> None:
        assert refused(line)[0] == reason

    def test_a_last_line_without_an_end_is_good_when_it_is_whole(self) -> None:
        assert accepted(api_line().rstrip(b"\n")) == accepted(api_line())

    def test_bytes_that_are_no_utf8_are_refused(self) -> None:
        assert refused(api_line().replace(b"acme", b"ac\xe9me")) == ("encoding", None)
        assert refused(b'{"a": "\xed\xa0\x80"}\n') == ("encoding", None)

    def test_half_a_surrogate_is_refused_where_it_is_read_and_dropped_where_it_is_not(self) -> None:
        assert refused(with_raw("endpoint", '"/\\ud800"')) == ("encoding", "path")
        assert accepted(with_raw("ignored", '"\\ud800"')) == accepted(api_line())

    def test_a_line_is_refused_one_byte_beyond_the_longest(self) -> None:
        profile = API.model_copy(update={"max_line_bytes": 2_000})
        line = api_line(ignored="")
        longest = api_line(ignored="x" * (2_000 - len(line)))
        assert len(longest) == 2_000
        accepted(longest, profile)
        assert refused(api_line(ignored="x" * (2_001 - len(line))), profile) == ("too_long", None)

    def test_a_line_is_refused_one_level_beyond_the_deepest(self) -> None:
        deepest = "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
        accepted(with_raw("ignored", deepest))
        assert refused(with_raw("ignored", f"[{deepest}]")) == ("too_deep", None)
        assert refused("[" * 200_000 + "\n") == ("too_deep", None)

    def test_many_brackets_side_by_side_are_not_deep(self) -> None:
        accepted(with_raw("ignored", json.dumps([[]] * 500)))

    def test_a_byte_order_mark_and_a_carriage_return_say_nothing(self) -> None:
        assert accepted("\ufeff" + api_line().decode().replace("\n", "\r\n")) == accepted(api_line())

    @pytest.mark.parametrize("token", ["[1, 2,]", '{"a": 1,}', "NaN", "-Infinity", "[nan, -inf]", '"a, ]"'])
    def test_what_common_writers_let_pass_is_read_where_it_is_dropped(self, token: str) -> None:
        assert accepted(with_raw("ignored", token)) == accepted(api_line())


class TestKeysSaidTwice:
    @pytest.mark.parametrize("member", ['"client_id": "b"', '"client_id": "acme"', '"client\\u005fid": "b"'])
    def test_are_refused_where_they_are_read(self, member: str) -> None:
        assert refused(api_line().decode().replace("{", "{" + member + ", ", 1)) == ("duplicate_key", "client_id")
        assert refused(api_line().decode().replace("}", ", " + member + "}", 1)) == ("duplicate_key", "client_id")

    def test_are_harmless_where_they_are_dropped(self) -> None:
        assert accepted(with_raw("ignored", '{"k": 1, "k": 2}')) == accepted(api_line())
        assert accepted(api_line().decode().replace("}", ', "x": 1, "x": 2}')) == accepted(api_line())

    def test_are_refused_on_the_way_to_a_nested_field(self) -> None:
        line = json_line(NESTED_REQUEST).decode().replace("{", '{"http": {}, ', 1)
        assert refused(line, NESTED) == ("duplicate_key", "http.method")


class TestFields:
    @pytest.mark.parametrize(
        ("changes", "reason", "field"),
        [
            ({"request_id": ...}, "missing_field", "event_id"),
            ({"request_id": None}, "missing_field", "event_id"),
            ({"request_id": 12}, "wrong_type", "event_id"),
            ({"request_id": ""}, "bad_value", "event_id"),
            ({"request_id": "jane@example.com"}, "bad_value", "event_id"),
            ({"request_id": "a" * 129}, "bad_value", "event_id"),
            ({"request_id": "r-1\n"}, "bad_value", "event_id"),
            ({"client_id": 123}, "wrong_type", "client_id"),
            ({"client_id": "   "}, "bad_value", "client_id"),
            ({"client_id": "203.0.113.9"}, "bad_value", "client_id"),
            ({"client_id": "\u0661\u0662"}, "bad_value", "client_id"),
            ({"timestamp": ...}, "missing_field", "event_at"),
            ({"timestamp": None}, "missing_field", "event_at"),
            ({"timestamp": True}, "wrong_type", "event_at"),
            ({"timestamp": 1767225600}, "ambiguous_unit", "event_at"),
            ({"timestamp": "2026-03-01T10:20:30"}, "no_timezone", "event_at"),
            ({"timestamp": "yesterday"}, "bad_timestamp", "event_at"),
            ({"timestamp": "2026-06-30T23:59:60Z"}, "leap_second", "event_at"),
            ({"timestamp": "1970-01-01T00:00:00Z"}, "sentinel_time", "event_at"),
            ({"timestamp": "2026-03-05T12:05:00.000001Z"}, "future", "event_at"),
            ({"method": "get"}, "bad_value", "method"),
            ({"method": "BREW"}, "bad_value", "method"),
            ({"method": ""}, "bad_value", "method"),
            ({"method": ["GET"]}, "wrong_type", "method"),
            ({"endpoint": ...}, "missing_field", "path"),
            ({"endpoint": ["/a"]}, "wrong_type", "path"),
            ({"endpoint": ""}, "bad_path", "path"),
            ({"status_code": ...}, "missing_field", "status_code"),
            ({"status_code": None}, "missing_field", "status_code"),
            ({"status_code": "200"}, "wrong_type", "status_code"),
            ({"status_code": True}, "wrong_type", "status_code"),
            ({"status_code": 200.0}, "wrong_type", "status_code"),
            ({"status_code": 99}, "out_of_range", "status_code"),
            ({"status_code": 600}, "out_of_range", "status_code"),
            ({"response_time_ms": ...}, "missing_field", "response_time"),
            ({"response_time_ms": None}, "missing_field", "response_time"),
            ({"response_time_ms": "12.5"}, "wrong_type", "response_time"),
            ({"response_time_ms": -0.001}, "out_of_range", "response_time"),
            ({"response_time_ms": 1e308}, "out_of_range", "response_time"),
            ({"bytes": -1}, "out_of_range", "response_bytes"),
            ({"bytes": 1.5}, "out_of_range", "response_bytes"),
            ({"bytes": 2**63}, "out_of_range", "response_bytes"),
            ({"bytes": "512"}, "wrong_type", "response_bytes"),
            ({"is_real_vehicle": ...}, "flag_missing", "simulated"),
            ({"is_real_vehicle": None}, "flag_missing", "simulated"),
            ({"is_real_vehicle": "false"}, "wrong_type", "simulated"),
            ({"is_real_vehicle": 0}, "wrong_type", "simulated"),
        ],
    )
    def test_are_refused_with_reason_and_field(self, changes: dict[str, object], reason: str, field: str) -> None:
        assert refused(api_line(**changes)) == (reason, field)

    @pytest.mark.parametrize("status", [100, 101, 204, 499, 599])
    def test_every_status_of_http_is_read(self, status: int) -> None:
        assert accepted(api_line(status_code=status)).status_code == status

    @pytest.mark.parametrize("length", [1, 128])
    def test_an_identity_is_as_long_as_it_may_be(self, length: int) -> None:
        assert accepted(api_line(request_id="a" * length)).event_id == "a" * length


class TestNumbers:
    @pytest.mark.parametrize(
        ("token", "microseconds"),
        [
            ("0", 0),
            ("-0", 0),
            ("-0.0", 0),
            ("12.5", 12_500),
            ("1e3", 1_000_000),
            ("1.25E+1", 12_500),
            ("0.0005", 1),
            ("0.00049999", 0),
            ("0.0015", 2),
            ("1e-7", 0),
            ("0.30000000000000004", 300),
            ("29409590", 29_409_590_000),
            ("9007199254740993", 9_007_199_254_740_993_000),
            ("9223372036854775.807", 2**63 - 1),
            ("9223372036854775.8074", 2**63 - 1),
        ],
    )
    def test_a_response_time_is_kept_in_microseconds_half_away_from_zero(self, token: str, microseconds: int) -> None:
        assert accepted(with_raw("response_time_ms", token)).response_time_us == microseconds

    @pytest.mark.parametrize(
        "token", ["9223372036854775.8075", "1e308", "1e999", "NaN", "Infinity", "-Infinity", "inf"]
    )
    def test_a_response_time_beyond_what_can_be_kept_is_refused(self, token: str) -> None:
        assert refused(with_raw("response_time_ms", token)) == ("out_of_range", "response_time")

    @pytest.mark.parametrize("size", [0, 2**53 + 1, 2**63 - 1])
    def test_bytes_are_kept_exactly(self, size: int) -> None:
        assert accepted(api_line(bytes=size)).response_bytes == size

    @pytest.mark.parametrize(
        "token", ["9223372036854775808", "18446744073709551616", "1e30", "-1", "5.0", "5e0", "NaN"]
    )
    def test_bytes_that_are_no_whole_number_of_63_bits_are_refused(self, token: str) -> None:
        assert refused(with_raw("bytes", token)) == ("out_of_range", "response_bytes")

    def test_an_optional_number_may_be_absent_or_null(self) -> None:
        assert accepted(api_line(bytes=...)).response_bytes is None
        assert accepted(api_line(bytes=None)).response_bytes is None

    def test_a_null_token_is_null_only_where_null_is_allowed(self) -> None:
        assert accepted(json_line(NESTED_REQUEST, size="-"), NESTED).response_bytes is None
        assert refused(json_line(NESTED_REQUEST, took="-"), NESTED) == ("missing_field", "response_time")
        assert refused(json_line(NESTED_REQUEST, size=...), NESTED) == ("missing_field", "response_bytes")

    @given(st.decimals(min_value=0, max_value=10**12, places=9))
    def test_a_response_time_is_never_off_by_more_than_half_a_microsecond(self, milliseconds: Decimal) -> None:
        record = accepted(with_raw("response_time_ms", f"{milliseconds:f}"))
        assert record.response_time_us is not None
        assert abs(Decimal(record.response_time_us) - milliseconds * 1000) <= Decimal("0.5")


class TestQuotedNumbers:
    def test_are_read_digit_by_digit(self) -> None:
        record = accepted(json_line(NGINX_REQUEST, request_time="29409.590", body_bytes_sent="9007199254740993"), NGINX)
        assert (record.status_code, record.response_time_us, record.response_bytes) == (
            200,
            29_409_590_000,
            2**53 + 1,
        )

    def test_a_dash_for_the_time_is_null(self) -> None:
        assert accepted(json_line(NGINX_REQUEST, request_time="-"), NGINX).response_time_us is None

    @pytest.mark.parametrize(
        ("changes", "reason", "field"),
        [
            ({"status": 200}, "wrong_type", "status_code"),
            ({"status": "200.0"}, "wrong_type", "status_code"),
            ({"status": "-"}, "bad_value", "status_code"),
            ({"status": "000"}, "out_of_range", "status_code"),
            ({"body_bytes_sent": "1e3"}, "bad_value", "response_bytes"),
            ({"body_bytes_sent": " 12"}, "bad_value", "response_bytes"),
            ({"body_bytes_sent": "\u0661"}, "bad_value", "response_bytes"),
            ({"body_bytes_sent": "12.5"}, "out_of_range", "response_bytes"),
            ({"body_bytes_sent": "9223372036854775808"}, "out_of_range", "response_bytes"),
            ({"body_bytes_sent": "-"}, "bad_value", "response_bytes"),
            ({"body_bytes_sent": "9" * 41}, "bad_value", "response_bytes"),
            ({"request_time": "NaN"}, "bad_value", "response_time"),
            ({"request_time": "-0.5"}, "out_of_range", "response_time"),
        ],
    )
    def test_are_refused_when_they_are_none(self, changes: dict[str, object], reason: str, field: str) -> None:
        assert refused(json_line(NGINX_REQUEST, **changes), NGINX) == (reason, field)


class TestRequestLine:
    @pytest.mark.parametrize(
        "text", ["GET /", "-", "", "GET  / HTTP/1.1", "GET /a b HTTP/1.1", "GET / FTP/1.1", "get / HTTP/1.1"]
    )
    def test_is_refused_when_it_is_none(self, text: str) -> None:
        assert refused(json_line(NGINX_REQUEST, request=text), NGINX)[0] == "bad_value"

    def test_gives_method_and_endpoint(self) -> None:
        record = accepted(json_line(NGINX_REQUEST, request="POST /images/a/b.png?w=1 HTTP/2.0"), NGINX)
        assert (record.method, record.endpoint) == ("POST", "/images/{rest:path}")


class TestScopeAndMarks:
    @pytest.mark.parametrize("kind", ["health", "Request", "", None, 1, ...])
    def test_a_line_of_another_kind_is_out_of_scope_whatever_else_it_says(self, kind: object) -> None:
        assert read(json_line(NESTED_REQUEST, kind=kind, http=None), NESTED) == OutOfScope(line_number=7)

    def test_a_marker_is_found_anywhere_in_the_text_and_the_text_is_dropped(self) -> None:
        assert accepted(json_line(NESTED_REQUEST, agent="a bot 1.0"), NESTED).is_simulated is True
        assert accepted(json_line(NESTED_REQUEST, agent="Bot"), NESTED).is_simulated is False
        assert "curl" not in repr(accepted(json_line(NESTED_REQUEST), NESTED))

    @pytest.mark.parametrize(("agent", "reason"), [(..., "missing_field"), (None, "missing_field"), (7, "wrong_type")])
    def test_a_marker_that_is_not_there_is_not_taken_for_real(self, agent: object, reason: str) -> None:
        assert refused(json_line(NESTED_REQUEST, agent=agent), NESTED) == (reason, "simulated")

    def test_a_robot_of_the_nginx_log_is_simulated(self) -> None:
        line = json_line(NGINX_REQUEST, http_user_agent="Pingdom.com_bot_version_1.4_(http://www.pingdom.com/)")
        assert accepted(line, NGINX).is_simulated is True
        assert accepted(json_line(NGINX_REQUEST), NGINX).is_simulated is False


class TestPseudonyms:
    PARTS = ["-", "192.0.2.7", "Mozilla/5.0 (compatible; MSIE 9.0)"]

    def test_are_a_keyed_hash_of_the_fields_that_tell_callers_apart(self) -> None:
        assert accepted(json_line(NGINX_REQUEST), NGINX).client_id == pseudonym(self.PARTS, key=KEY)

    def test_have_one_stable_form(self) -> None:
        assert pseudonym(["a", "b"], key=b"k") == "c_21660335e88ed1db"

    def test_differ_with_another_key_or_another_part(self) -> None:
        names = {
            pseudonym(self.PARTS, key=KEY),
            pseudonym(self.PARTS, key=b"another key"),
            pseudonym(["x", *self.PARTS[1:]], key=KEY),
            pseudonym(self.PARTS[::-1], key=KEY),
            pseudonym(["", *self.PARTS], key=KEY),
        }
        assert len(names) == 5

    def test_need_every_field(self) -> None:
        assert refused(json_line(NGINX_REQUEST, remote_addr=...), NGINX) == ("missing_field", "client_id")
        assert refused(json_line(NGINX_REQUEST, remote_addr=7), NGINX) == ("wrong_type", "client_id")

    def test_the_key_is_not_shown(self) -> None:
        assert "key" not in repr(CONTEXT)
        assert str(KEY) not in repr(CONTEXT)


class TestDecodedFields:
    """What Avro delivers: instants as datetimes, numbers exact."""

    FIELDS: Mapping[str, object] = {
        "request_id": "r-1",
        "client_id": "acme",
        "timestamp": datetime(2026, 3, 1, tzinfo=UTC),
        "endpoint": "/v2.0/user",
        "method": "GET",
        "status_code": 200,
        "response_time_ms": Decimal("0.1"),
        "is_real_vehicle": True,
        "response_bytes": None,
    }

    def read(self, **changes: object) -> RequestRecord | Rejection | OutOfScope:
        profile = load_profile("billable_request_avro")
        return read_fields({**self.FIELDS, **changes}, line_number=3, profile=profile, context=CONTEXT)

    def test_are_read_by_the_same_rule(self) -> None:
        record = self.read()
        assert isinstance(record, RequestRecord)
        assert (record.response_time_us, record.response_bytes) == (100, None)

    def test_have_no_text_to_find_again(self) -> None:
        assert self.read(is_real_vehicle=None) == Rejection(
            line_number=3, reason=Reason.FLAG_MISSING, field="simulated"
        )

    def test_an_instant_out_of_bounds_is_refused(self) -> None:
        assert self.read(timestamp=datetime(1970, 1, 1, tzinfo=UTC)) == Rejection(
            line_number=3, reason=Reason.SENTINEL_TIME, field="event_at"
        )
        assert self.read(timestamp=datetime(2027, 1, 1, tzinfo=UTC)) == Rejection(
            line_number=3, reason=Reason.FUTURE, field="event_at"
        )


class TestAnyBytes:
    @given(st.binary(max_size=200))
    def test_have_an_outcome_and_never_an_exception(self, line: bytes) -> None:
        for profile in (API, NGINX, WEB, NESTED):
            assert isinstance(read(line, profile), Rejection | OutOfScope)

    @given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=4))
    def test_any_value_in_any_field_has_an_outcome(self, value: object) -> None:
        for field in json.loads(api_line()):
            assert isinstance(read(api_line(**{field: value})), RequestRecord | Rejection)

    def test_what_a_line_means_does_not_depend_on_the_file_but_for_its_identity(self) -> None:
        other = FileContext(content_sha256="f" * 64, as_of=AS_OF, pseudonym_key=KEY)
        line = api_line()
        assert read_line(line, line_number=1, profile=API, context=other) == accepted(line)
