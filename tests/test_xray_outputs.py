"""Xray's own outputs: only users' counters, exact or refused, and an exporter that could not ask is no zero."""

import hashlib
import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from billing_pipeline.records import Reason
from billing_pipeline.sources.prometheus_text import PrometheusTextError, parse_page
from billing_pipeline.sources.traffic_snapshots import (
    BodyUnreadableError,
    SampleRejection,
    SnapshotRejection,
    TrafficSnapshot,
)
from billing_pipeline.sources.xray_outputs import (
    XrayFormat,
    XrayNodeError,
    XrayOutputError,
    XraySilentError,
    read_delivered,
    read_output,
)

NOW = datetime(2026, 4, 8, 12, tzinfo=UTC)
ALICE, BOB = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"


def name_of(address: str) -> str:
    return "c_" + hashlib.sha256(address.encode()).hexdigest()[:16]


def read(content: bytes | str, output_format: XrayFormat, **arguments: Any) -> TrafficSnapshot:
    defaults: dict[str, Any] = {"env": "prod", "node": "jp", "collected_at": NOW, "pseudonymise": name_of}
    raw = content.encode() if isinstance(content, str) else content
    return read_output(raw, output_format=output_format, **(defaults | arguments))


def totals(snapshot: TrafficSnapshot) -> dict[tuple[str, str], tuple[int, int]]:
    return {(one.account_uuid, one.inbound_tag): (one.uplink_bytes, one.downlink_bytes) for one in snapshot.samples}


def stat(**values: object) -> str:
    """Return an answer of `statsquery`: names with `__` for `>>>`."""
    return json.dumps({"stat": [{"name": name.replace("__", ">>>"), "value": value} for name, value in values.items()]})


class TestStatsquery:
    def test_is_numbers_or_text_and_leaves_zero_out(self) -> None:
        answer = {
            "stat": [
                {"name": f"user>>>{ALICE}>>>traffic>>>uplink", "value": 9007199254740993},
                {"name": f"user>>>{ALICE}>>>traffic>>>downlink"},
                {"name": f"user>>>{BOB.upper()}>>>traffic>>>downlink", "value": "9223372036854775807"},
                {"name": "inbound>>>api>>>traffic>>>uplink", "value": "14247"},
            ]
        }
        found = read(json.dumps(answer), "statsquery")
        assert totals(found) == {(ALICE, ""): (9007199254740993, 0), (BOB, ""): (0, 2**63 - 1)}
        assert (found.env, found.node, found.collected_at, found.rejected) == ("prod", "jp", NOW, ())

    def test_without_any_counter_is_an_empty_object(self) -> None:
        assert read("{}", "statsquery").samples == ()

    @pytest.mark.parametrize("value", [-1, 1.5, "1.5", "-1", True, None, "9223372036854775808", [], "1_0", "\uff11"])
    def test_refuses_what_is_no_count_with_both_directions_of_its_user(self, value: object) -> None:
        answer = json.dumps(
            {
                "stat": [
                    {"name": f"user>>>{ALICE}>>>traffic>>>uplink", "value": 5},
                    {"name": f"user>>>{ALICE}>>>traffic>>>downlink", "value": value},
                    {"name": f"user>>>{BOB}>>>traffic>>>uplink", "value": 7},
                ]
            }
        )
        found = read(answer, "statsquery")
        assert totals(found) == {(BOB, ""): (7, 0)}
        assert [(one.position, one.field) for one in found.rejected] == [(2, "downlink")]

    def test_that_says_a_counter_twice_refuses_it(self) -> None:
        entry = {"name": f"user>>>{ALICE}>>>traffic>>>uplink", "value": 5}
        found = read(json.dumps({"stat": [entry, entry]}), "statsquery")
        assert found.samples == ()
        assert found.rejected == (SampleRejection(position=2, reason=Reason.DUPLICATE_KEY, field="uplink"),)

    def test_of_an_e_mail_keeps_a_pseudonym_or_nothing(self) -> None:
        answer = json.dumps({"stat": [{"name": "user>>>Love@Example.com >>>traffic>>>uplink", "value": 3}]})
        assert totals(read(answer, "statsquery")) == {(name_of("love@example.com"), ""): (3, 0)}
        assert read(answer, "statsquery", pseudonymise=None).rejected[0].field == "user"

    @pytest.mark.parametrize("answer", ["[]", "7", '{"stats": {}}', '{"stat": {}}', '{"stat": null}'])
    def test_of_another_shape_is_refused_and_not_read_as_nothing(self, answer: str) -> None:
        with pytest.raises(XrayOutputError):
            read(answer, "statsquery")


class TestDebugVars:
    def test_nests_users_and_directions(self) -> None:
        answer = {"stats": {"user": {ALICE: {"uplink": 1, "downlink": 2}, BOB: {"uplink": 3}}, "inbound": {"a": {}}}}
        assert totals(read(json.dumps(answer), "debug_vars")) == {(ALICE, ""): (1, 2), (BOB, ""): (3, 0)}

    @pytest.mark.parametrize("value", ["1", 1.0, None, -1, True])
    def test_has_numbers_only(self, value: object) -> None:
        found = read(json.dumps({"stats": {"user": {ALICE: {"uplink": value, "downlink": 2}}}}), "debug_vars")
        assert (found.samples, len(found.rejected)) == ((), 1)

    @pytest.mark.parametrize(
        "answer", [{}, {f"user>>>{ALICE}>>>traffic>>>uplink": 1}, {"stats": {"user": []}}, {"stats": 7}]
    )
    def test_of_another_shape_is_refused_and_not_read_as_nothing(self, answer: object) -> None:
        with pytest.raises(XrayOutputError):
            read(json.dumps(answer), "debug_vars")


X_EVOR = f"""# TYPE xray_user_uplink_bytes gauge
xray_user_uplink_bytes{{uuid="{ALICE}",email="eve@example.com",node_id="jp",env="prod",inbound_tag="tcp"}} 1024
xray_user_downlink_bytes{{uuid="{ALICE}",email="eve@example.com",node_id="jp",env="prod",inbound_tag="tcp"}} 2048
xray_user_uplink_bytes{{uuid="{ALICE}",email="eve@example.com",node_id="jp",env="prod",inbound_tag="xhttp"}} 5
xray_exporter_collect_success{{node_id="jp",env="prod"}} 1
xray_exporter_collect_timestamp_seconds{{node_id="jp",env="prod"}} 1.7756495995e+09
"""


class TestPrometheusPages:
    def test_of_compassvpn_are_read_by_user(self) -> None:
        page = (
            f'xray_traffic_uplink_bytes_total{{dimension="user",target="{ALICE}"}} 1.8576788764e+10\n'
            'xray_traffic_uplink_bytes_total{dimension="inbound",target="in"} 9.007199254740993e+15\n'
            f'xray_traffic_downlink_bytes_total{{dimension="user",target="{ALICE}"}} 7 1775649600000\n'
            "xray_up 1\nxray_uptime_seconds 150624.7\n"
        )
        found = read(page, "prometheus_compassvpn")
        assert totals(found) == {(ALICE, ""): (18576788764, 7)}
        assert (found.uptime_seconds, found.collected_at) == (150624, NOW)

    def test_of_wi1dcard_have_names_of_their_own(self) -> None:
        page = f'v2ray_up 1\nv2ray_traffic_downlink_bytes_total{{dimension="user",target="{BOB}"}} 3\n'
        assert totals(read(page, "prometheus_wi1dcard")) == {(BOB, ""): (0, 3)}
        with pytest.raises(XrayOutputError):
            read(page, "prometheus_compassvpn")

    def test_of_x_evor_have_inbounds_and_an_instant(self) -> None:
        found = read(X_EVOR, "prometheus_x_evor")
        assert totals(found) == {(ALICE, "tcp"): (1024, 2048), (ALICE, "xhttp"): (5, 0)}
        assert found.collected_at == datetime(2026, 4, 8, 11, 59, 59, 500_000, tzinfo=UTC)
        assert "example" not in repr(found)

    @pytest.mark.parametrize(("label", "value"), [("node_id", "us"), ("env", "preview")])
    def test_of_another_node_are_refused(self, label: str, value: str) -> None:
        wrong = X_EVOR.replace(f'{label}="{"jp" if label == "node_id" else "prod"}"', f'{label}="{value}"', 1)
        with pytest.raises(XrayNodeError):
            read(wrong, "prometheus_x_evor")

    def test_of_a_clock_ahead_are_refused(self) -> None:
        with pytest.raises(XrayOutputError, match="future"):
            read(X_EVOR.replace("1.7756495995e+09", "1.7956495995e+09"), "prometheus_x_evor")

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            ("9007199254740992", None),
            ("9.007199254740993e+15", Reason.OUT_OF_RANGE),
            ("1.8446744073709552e+19", Reason.OUT_OF_RANGE),
            ("NaN", Reason.OUT_OF_RANGE),
            ("+Inf", Reason.OUT_OF_RANGE),
            ("-1", Reason.OUT_OF_RANGE),
            ("0.5", Reason.WRONG_TYPE),
        ],
    )
    def test_are_trusted_as_far_as_a_float_counts(self, value: str, reason: Reason | None) -> None:
        page = f'xray_up 1\nxray_traffic_uplink_bytes_total{{dimension="user",target="{ALICE}"}} {value}\n'
        found = read(page, "prometheus_compassvpn")
        assert [one.reason for one in found.rejected] == ([] if reason is None else [reason])
        assert totals(found) == ({(ALICE, ""): (2**53, 0)} if reason is None else {})

    def test_with_a_series_twice_refuse_it(self) -> None:
        line = f'xray_traffic_uplink_bytes_total{{dimension="user",target="{ALICE}"}} 1\n'
        found = read(line * 2, "prometheus_compassvpn")
        assert found.rejected == (SampleRejection(position=2, reason=Reason.DUPLICATE_KEY, field="uplink"),)

    @pytest.mark.parametrize("gauge", ["xray_up 0", "xray_up NaN"])
    def test_of_an_exporter_that_could_not_ask_are_no_zero(self, gauge: str) -> None:
        with pytest.raises(XraySilentError):
            read(f"{gauge}\n", "prometheus_compassvpn")

    def test_without_users_are_empty_only_where_the_exporter_is_well(self) -> None:
        assert read("xray_up 1\n", "prometheus_compassvpn").samples == ()
        with pytest.raises(XrayOutputError):
            read("other_metric 1\n", "prometheus_compassvpn")

    @pytest.mark.parametrize(
        "page",
        [b"<html>\n", b"a 1\nb", b"a{x=1} 2\n", b'a{x="1} 2\n', b"a one\n", b'a{x="1",x="2"} 3\n', b"\xff 1\n", b"a\n"],
    )
    def test_that_are_no_text_of_metrics_are_refused_whole(self, page: bytes) -> None:
        with pytest.raises(PrometheusTextError):
            parse_page(page)

    @given(
        st.lists(
            st.tuples(
                st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True),
                st.dictionaries(
                    st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True),
                    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]), max_size=8),
                    max_size=3,
                ),
                st.integers(0, 2**53),
            ),
            max_size=8,
        )
    )
    def test_are_read_as_the_client_library_reads_them(self, series: list[tuple[str, dict[str, str], int]]) -> None:
        def escaped(text: str) -> str:
            return text.replace("\\", r"\\").replace('"', r"\"")

        page = "".join(
            name
            + ("{" + ",".join(f'{label}="{escaped(text)}"' for label, text in labels.items()) + "}" if labels else "")
            + f" {value}\n"
            for name, labels, value in series
        )
        expected = [
            (one.name, one.labels, Decimal(one.value))
            for family in text_string_to_metric_families(page)
            for one in family.samples
        ]
        assert sorted(expected, key=repr) == sorted(
            ((one.name, dict(one.labels), one.value) for one in parse_page(page.encode())), key=repr
        )


class TestDeliveredOutputs:
    def deliver(self, content: bytes, name: str = "20260408T115900Z.json", **arguments: Any) -> tuple[Any, ...]:
        defaults: dict[str, Any] = {"output_format": "statsquery", "env": "prod", "node": "jp", "as_of": NOW}
        return read_delivered(content, file_name=name, **(defaults | arguments))

    @pytest.mark.parametrize(
        "name", ["20260408T115900Z.json", "2026-04-08T11-59-00Z.json", "jp_20260408_115900.000Z.json.gz"]
    )
    def test_have_their_instant_from_the_name(self, name: str) -> None:
        (found,) = self.deliver(b"{}", name)
        assert found.collected_at == datetime(2026, 4, 8, 11, 59, tzinfo=UTC)

    def test_without_an_instant_are_refused(self) -> None:
        with pytest.raises(XrayOutputError, match="no instant"):
            self.deliver(b"{}", "latest.json")
        assert self.deliver(b"{}", "20260409T000000Z.json") == (
            SnapshotRejection(position=1, reason=Reason.FUTURE, field="collected_at"),
        )

    def test_in_envelopes_say_more(self) -> None:
        output = {"stat": [{"name": f"user>>>{ALICE}>>>traffic>>>uplink", "value": 5}]}
        envelope = {
            "collected_at": "2026-04-08T11:00:00Z",
            "output": output,
            "uptime_seconds": 20,
            "xray_version": "1.8",
        }
        later = {**envelope, "collected_at": "2026-04-08T11:01:00Z", "output": json.dumps(output)}
        first, second = self.deliver(f"{json.dumps(envelope)}\n{json.dumps(later)}\n".encode(), "any")
        assert totals(first) == totals(second) == {(ALICE, ""): (5, 0)}
        assert (first.uptime_seconds, first.xray_version, second.collected_at.minute) == (20, "1.8", 1)

    @pytest.mark.parametrize(
        ("changed", "field"),
        [
            ({"collected_at": "2026-04-08T11:00:00"}, "collected_at"),
            ({"uptime_seconds": 1.5}, "uptime_seconds"),
            ({"xray_version": "eve@example.com"}, "xray_version"),
        ],
    )
    def test_in_a_wrong_envelope_are_refused(self, changed: dict[str, object], field: str) -> None:
        envelope = {"collected_at": "2026-04-08T11:00:00Z", "output": {}, **changed}
        (found,) = self.deliver(json.dumps(envelope).encode())
        assert found.field == field
        with pytest.raises(XrayNodeError):
            self.deliver(json.dumps({**envelope, "node_id": "us"}).encode())

    def test_of_prometheus_may_stand_in_an_envelope_too(self) -> None:
        envelope = {"collected_at": "2026-04-08T11:00:00Z", "output": "xray_up 1\nxray_uptime_seconds 7\n"}
        (found,) = self.deliver(json.dumps(envelope).encode(), output_format="prometheus_compassvpn")
        assert (found.uptime_seconds, found.samples) == (7, ())
        (found,) = self.deliver(b"xray_up 1\n", output_format="prometheus_compassvpn")
        assert found.collected_at.hour == 11


class TestNastyFiles:
    """The verdicts of `nasty/INDEX.jsonl` about outputs of Xray."""

    def content(self, real_data: Path, name: str) -> bytes:
        return (real_data / "data" / "nasty" / "xray" / name).read_bytes()

    def test_that_leave_zero_out_mean_zero(self, real_data: Path) -> None:
        found = read(self.content(real_data, "statsquery_omits_zero.json"), "statsquery")
        assert totals(found) == {(name_of("a@example.com"), ""): (12, 0)}

    def test_of_names_that_look_alike_give_one_user(self, real_data: Path) -> None:
        found = read(self.content(real_data, "name_traps.json"), "statsquery")
        assert totals(found) == {(name_of("a@example.com"), ""): (1, 0)}
        assert [one.position for one in found.rejected] == [1, 2, 6]

    def test_of_an_exporter_keep_what_is_exact(self, real_data: Path) -> None:
        found = read(self.content(real_data, "exporter.prom"), "prometheus_compassvpn")
        assert totals(found) == {(name_of("a@example.com"), ""): (18576788764, 0)}
        assert (found.uptime_seconds, [one.field for one in found.rejected]) == (150624, ["user"])

    def test_of_a_failed_scrape_are_a_gap(self, real_data: Path) -> None:
        with pytest.raises(XraySilentError):
            read(self.content(real_data, "xray_up_0.prom"), "prometheus_compassvpn")

    @pytest.mark.parametrize("name", ["html_200.json", "truncated.json"])
    def test_that_are_no_json_are_refused(self, real_data: Path, name: str) -> None:
        for output_format in ("statsquery", "debug_vars"):
            with pytest.raises(BodyUnreadableError):
                read(self.content(real_data, name), output_format)  # type: ignore[arg-type]
        with pytest.raises(PrometheusTextError):
            read(self.content(real_data, name), "prometheus_compassvpn")


class TestRealOutputs:
    def test_of_debug_vars_have_no_user(self, real_data: Path) -> None:
        content = (real_data / "data" / "xray" / "expvar_debug_vars_docs_real.json").read_bytes()
        found = read(content, "debug_vars")
        assert (found.samples, found.rejected) == ((), ())

    def test_of_statsquery_write_digits_as_text(self, real_data: Path) -> None:
        content = (real_data / "data" / "xray" / "statsquery_docs_string_values.json").read_bytes()
        assert totals(read(content, "statsquery")) == {(name_of("love@example.com"), ""): (2520, 2040)}
