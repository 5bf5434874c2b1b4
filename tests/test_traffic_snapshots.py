"""Snapshots of counters: what is read exactly, what is refused by name, what never leaves the parser."""

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing_pipeline.records import Reason
from billing_pipeline.sources.traffic_snapshots import (
    EXCERPT_CHARACTERS,
    BodyUnreadableError,
    SampleRejection,
    SnapshotRejection,
    TrafficSample,
    TrafficSnapshot,
    account_identity,
    decode_json,
    encode_body,
    parse_body,
)

AS_OF = datetime(2026, 4, 8, 12, tzinfo=UTC)
ALICE = "11111111-1111-1111-1111-111111111111"
SAMPLE = {
    "uuid": ALICE,
    "email": "user@example.com",
    "inbound_tag": "xhttp-premium",
    "uplink_bytes_total": 1024,
    "downlink_bytes_total": 2048,
}
SNAPSHOT = {
    "collected_at": "2026-04-08T12:00:00Z",
    "node_id": "jp-xhttp-contabo.svc.plus",
    "env": "prod",
    "samples": [SAMPLE],
}


def body(*samples: Any, **fields: Any) -> bytes:
    return json.dumps({**SNAPSHOT, **({"samples": list(samples)} if samples else {}), **fields}).encode()


def read(content: bytes, **arguments: Any) -> TrafficSnapshot:
    (reading,) = parse_body(content, as_of=AS_OF, **arguments)
    assert isinstance(reading, TrafficSnapshot)
    return reading


def refused(content: bytes) -> tuple[Reason, str | None]:
    (reading,) = parse_body(content, as_of=AS_OF)
    assert isinstance(reading, SnapshotRejection)
    return reading.reason, reading.field


class TestASnapshot:
    def test_is_read_as_the_exporter_documents_it(self) -> None:
        assert read(body()) == TrafficSnapshot(
            env="prod",
            node="jp-xhttp-contabo.svc.plus",
            collected_at=AS_OF,
            samples=(
                TrafficSample(account_uuid=ALICE, inbound_tag="xhttp-premium", uplink_bytes=1024, downlink_bytes=2048),
            ),
        )

    def test_keeps_microseconds_uptime_and_version(self) -> None:
        found = read(body(collected_at="2026-04-08T14:00:00.1234569+02:00", uptime_seconds=20, xray_version="25.12.8"))
        assert found.collected_at == AS_OF + timedelta(microseconds=123456)
        assert (found.uptime_seconds, found.xray_version) == (20, "25.12.8")

    @pytest.mark.parametrize("samples", [[], None])
    def test_may_be_empty(self, samples: object) -> None:
        assert read(body(samples=samples)).samples == ()

    @pytest.mark.parametrize(
        ("changed", "reason"),
        [
            ({"collected_at": "0001-01-01T00:00:00Z", "samples": None}, (Reason.SENTINEL_TIME, "collected_at")),
            ({"collected_at": "2026-04-08T12:00:00"}, (Reason.NO_TIMEZONE, "collected_at")),
            ({"collected_at": "2026-04-08T12:05:00.000001Z"}, (Reason.FUTURE, "collected_at")),
            ({"collected_at": 1_775_649_600}, (Reason.AMBIGUOUS_UNIT, "collected_at")),
            ({"collected_at": None}, (Reason.WRONG_TYPE, "collected_at")),
            ({"node_id": ""}, (Reason.BAD_VALUE, "node_id")),
            ({"node_id": "eve@example.com"}, (Reason.BAD_VALUE, "node_id")),
            ({"env": 7}, (Reason.WRONG_TYPE, "env")),
            ({"samples": {}}, (Reason.WRONG_TYPE, "samples")),
            ({"uptime_seconds": -1}, (Reason.OUT_OF_RANGE, "uptime_seconds")),
            ({"uptime_seconds": True}, (Reason.WRONG_TYPE, "uptime_seconds")),
            ({"xray_version": "a sentence"}, (Reason.BAD_VALUE, "xray_version")),
        ],
    )
    def test_of_which_nothing_can_be_taken_is_refused_by_field(
        self, changed: dict[str, object], reason: tuple[Reason, str]
    ) -> None:
        assert refused(body(**changed)) == reason

    @pytest.mark.parametrize("missing", ["collected_at", "node_id", "env", "samples"])
    def test_without_one_of_its_fields_is_refused(self, missing: str) -> None:
        content = json.dumps({name: value for name, value in SNAPSHOT.items() if name != missing}).encode()
        assert refused(content) == (Reason.MISSING_FIELD, missing)

    def test_of_up_to_five_minutes_later_is_the_clock_of_the_writer(self) -> None:
        assert read(body(collected_at="2026-04-08T12:05:00Z")).collected_at == AS_OF + timedelta(minutes=5)


class TestASample:
    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            ("-1", Reason.OUT_OF_RANGE),
            ("9223372036854775808", Reason.OUT_OF_RANGE),
            ("1" + "0" * 40, Reason.OUT_OF_RANGE),
            ("1.0", Reason.WRONG_TYPE),
            ("1e3", Reason.WRONG_TYPE),
            ("NaN", Reason.WRONG_TYPE),
            ('"12"', Reason.WRONG_TYPE),
            ("true", Reason.WRONG_TYPE),
            ("null", Reason.MISSING_FIELD),
        ],
    )
    def test_whose_total_is_no_exact_count_is_refused_alone(self, value: str, reason: Reason) -> None:
        good = {**SAMPLE, "inbound_tag": "tcp"}
        content = body(SAMPLE, good).replace(
            b'"uplink_bytes_total": 1024', f'"uplink_bytes_total": {value}'.encode(), 1
        )
        found = read(content)
        assert found.rejected == (SampleRejection(position=1, reason=reason, field="uplink_bytes_total"),)
        assert [sample.inbound_tag for sample in found.samples] == ["tcp"]

    @given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
    def test_keeps_totals_to_the_last_byte(self, uplink: int, downlink: int) -> None:
        (sample,) = read(body({**SAMPLE, "uplink_bytes_total": uplink, "downlink_bytes_total": downlink})).samples
        assert (sample.uplink_bytes, sample.downlink_bytes) == (uplink, downlink)

    @pytest.mark.parametrize("spelling", [ALICE, f" {ALICE}\n", "ABCDEF00-1111-1111-1111-111111111111"])
    def test_is_known_by_its_uuid_in_lower_case(self, spelling: str) -> None:
        assert read(body({**SAMPLE, "uuid": spelling})).samples[0].account_uuid == spelling.strip().lower()

    @pytest.mark.parametrize(
        "identity", ["", "unknown", "user@example.com", ALICE[:-1], f"{ALICE}{ALICE}", "\uff11" * 36]
    )
    def test_of_nobody_is_refused(self, identity: str) -> None:
        found = read(body({**SAMPLE, "uuid": identity}))
        assert found.rejected == (SampleRejection(position=1, reason=Reason.BAD_VALUE, field="uuid"),)

    def test_of_an_e_mail_address_becomes_its_pseudonym(self) -> None:
        addresses: list[str] = []

        def pseudonymise(address: str) -> str:
            addresses.append(address)
            return "c_0123456789abcdef"

        found = read(body({**SAMPLE, "uuid": " User@Example.COM "}), pseudonymise=pseudonymise)
        assert (found.samples[0].account_uuid, addresses) == ("c_0123456789abcdef", ["user@example.com"])
        assert account_identity("c_0123456789abcdef", None) == "c_0123456789abcdef"
        for none in ("@", "a@", "@b", "a@b@c", "a b@c"):
            assert account_identity(none, pseudonymise) is None

    def test_may_have_no_inbound_and_no_address_for_one(self) -> None:
        assert read(body({**SAMPLE, "inbound_tag": ""})).samples[0].inbound_tag == ""
        found = read(body({**SAMPLE, "inbound_tag": "eve@example.com"}))
        assert found.rejected == (SampleRejection(position=1, reason=Reason.BAD_VALUE, field="inbound_tag"),)

    def test_that_says_a_total_twice_is_refused(self) -> None:
        content = body().replace(b'"uplink_bytes_total": 1024', b'"uplink_bytes_total": 1, "uplink_bytes_total": 1024')
        assert read(content).rejected[0].reason is Reason.DUPLICATE_KEY

    def test_that_is_no_object_is_refused(self) -> None:
        assert read(body(7, None)).rejected == (
            SampleRejection(position=1, reason=Reason.NOT_AN_OBJECT, field=None),
            SampleRejection(position=2, reason=Reason.NOT_AN_OBJECT, field=None),
        )


class TestABody:
    @pytest.mark.parametrize(
        "framing", ["%s", "[%s,%s]", "%s\n%s\n", "%s%s", "\ufeff%s\r\n%s", " [ %s , %s ] ", "%s\n\n\t%s"]
    )
    def test_may_be_an_object_an_array_or_objects_one_after_another(self, framing: str) -> None:
        count = framing.count("%s")
        readings = parse_body((framing % ((body().decode(),) * count)).encode(), as_of=AS_OF)
        assert list(readings) == [read(body())] * count

    @pytest.mark.parametrize(
        "content",
        [
            *(
                b"",
                b"  \n",
                b"[]",
                b"{",
                b'"text"',
                b"null",
                b"7",
                b"[1]",
                b"[[{}]]",
                b"[{}][{}]",
                b"\xff\xfe{",
                b"{} x",
            ),
            *(b"[" * 100_000, b"<html><body>502 Bad Gateway</body></html>", b'{"a": 1' + b"0" * 5000 + b"}"),
        ],
    )
    def test_of_anything_else_is_unreadable(self, content: bytes) -> None:
        with pytest.raises(BodyUnreadableError) as caught:
            parse_body(content, as_of=AS_OF)
        assert len(caught.value.excerpt) <= EXCERPT_CHARACTERS

    def test_shows_its_beginning_to_its_sender_without_an_address(self) -> None:
        with pytest.raises(BodyUnreadableError) as caught:
            parse_body(b'{"email":\t"eve@example.com", "uuid": ' + b"x" * 500, as_of=AS_OF)
        assert caught.value.excerpt == ('{"email": "[e-mail]", "uuid": ' + "x" * 500)[:EXCERPT_CHARACTERS]
        assert "eve" not in str(caught.value)

    def test_names_the_place_of_what_is_refused_and_takes_the_others(self) -> None:
        late = body(collected_at="2026-04-08T12:06:00Z").decode()
        readings = parse_body(f"{body().decode()}\n{late}\n{body().decode()}".encode(), as_of=AS_OF)
        assert readings[1] == SnapshotRejection(position=2, reason=Reason.FUTURE, field="collected_at")
        assert readings[0] == readings[2] == read(body())

    def test_of_one_value_does_not_go_on(self) -> None:
        with pytest.raises(BodyUnreadableError):
            decode_json(b"{} {}")


SAMPLES = st.builds(
    TrafficSample,
    account_uuid=st.uuids().map(str),
    inbound_tag=st.sampled_from(["", "tcp", "xhttp"]),
    uplink_bytes=st.integers(0, 2**63 - 1),
    downlink_bytes=st.integers(0, 2**63 - 1),
)
REJECTIONS = st.builds(
    SampleRejection,
    position=st.just(0),
    reason=st.sampled_from([Reason.OUT_OF_RANGE, Reason.BAD_VALUE]),
    field=st.sampled_from([None, "uuid", "uplink_bytes_total"]),
)


class TestAnEncodedBody:
    @given(st.lists(st.tuples(st.one_of(SAMPLES, REJECTIONS)), max_size=6), st.integers(0, 10**15), st.booleans())
    def test_reads_back_as_it_was(self, found: list[tuple[Any]], microseconds: int, has_uptime: bool) -> None:
        rejected = [
            SampleRejection(position=position, reason=one.reason, field=one.field)
            for position, (one,) in enumerate(found, 1)
            if isinstance(one, SampleRejection)
        ]
        written = TrafficSnapshot(
            env="prod",
            node="jp",
            collected_at=AS_OF - timedelta(microseconds=microseconds % 10**13),
            samples=tuple(one for (one,) in found if isinstance(one, TrafficSample)),
            rejected=tuple(rejected),
            uptime_seconds=microseconds if has_uptime else None,
            xray_version="1.8" if has_uptime else None,
        )
        assert parse_body(encode_body([written, written]), as_of=AS_OF) == (written, written)

    def test_believes_no_reason_that_it_would_not_write(self) -> None:
        found = read(body({"rejected": "eve@example.com", "field": "eve"}))
        assert found.rejected == (SampleRejection(position=1, reason=Reason.BAD_VALUE, field=None),)

    def test_is_in_utc(self) -> None:
        there = datetime(2026, 4, 8, 21, tzinfo=timezone(timedelta(hours=9)))
        content = encode_body([TrafficSnapshot(env="prod", node="jp", collected_at=there, samples=())])
        assert b"2026-04-08T12:00:00+00:00" in content


class TestNastyFiles:
    """The verdicts of `nasty/INDEX.jsonl` about files of snapshots."""

    def read(self, real_data: Path, name: str) -> list[Any]:
        content = (real_data / "data" / "nasty" / "xray" / name).read_bytes()
        return list(parse_body(content, as_of=datetime(2026, 2, 1, tzinfo=UTC)))

    def test_of_a_sound_exporter_are_read_whole(self, real_data: Path) -> None:
        found = self.read(real_data, "control.jsonl")
        totals = [(one.samples[0].uplink_bytes, one.samples[0].downlink_bytes) for one in found]
        assert totals == [(1000 * minute, 5000 * minute) for minute in range(10)]

    @pytest.mark.parametrize(
        ("name", "uplinks"),
        [
            ("duplicate_snapshot.jsonl", [0, 10, 10]),
            ("out_of_order.jsonl", [0, 2000, 1000, 3000]),
            ("reset_both.jsonl", [1000, 2000, 50, 80]),
            ("reset_exceeding_previous.jsonl", [1000, 900000]),
        ],
    )
    def test_of_odd_histories_are_read_as_they_are(self, real_data: Path, name: str, uplinks: list[int]) -> None:
        assert [one.samples[0].uplink_bytes for one in self.read(real_data, name)] == uplinks

    def test_keep_the_uptime_that_tells_a_restart(self, real_data: Path) -> None:
        assert [one.uptime_seconds for one in self.read(real_data, "reset_exceeding_previous.jsonl")] == [None, 20]

    def test_beyond_2_53_are_exact(self, real_data: Path) -> None:
        (found,) = self.read(real_data, "beyond_2_53.json")
        assert (found.samples[0].uplink_bytes, found.samples[0].downlink_bytes) == (9007199254740993, 2**63 - 1)

    def test_with_bad_values_refuse_each(self, real_data: Path) -> None:
        (found,) = self.read(real_data, "bad_values.json")
        assert found.samples == ()
        assert [one.reason for one in found.rejected] == [
            Reason.OUT_OF_RANGE,
            Reason.WRONG_TYPE,
            Reason.WRONG_TYPE,
            Reason.MISSING_FIELD,
            Reason.WRONG_TYPE,
            Reason.OUT_OF_RANGE,
            Reason.WRONG_TYPE,
        ]

    def test_of_a_wrong_clock_refuse_the_future_alone(self, real_data: Path) -> None:
        found = self.read(real_data, "clock_skew_future.jsonl")
        assert found[1] == SnapshotRejection(position=2, reason=Reason.FUTURE, field="collected_at")
        assert [found[0].samples[0].uplink_bytes, found[2].samples[0].uplink_bytes] == [0, 20]

    @pytest.mark.parametrize("name", ["html_200.json", "truncated.json"])
    def test_that_are_no_json_are_refused(self, real_data: Path, name: str) -> None:
        with pytest.raises(BodyUnreadableError):
            self.read(real_data, name)
