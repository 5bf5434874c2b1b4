"""Snapshots as they come: late, twice, in conflict, dropped as files, pushed, in any order."""

import gzip
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing_pipeline.records import Reason
from billing_pipeline.sources.traffic_snapshots import SampleRejection, SnapshotRejection, encode_body
from resources.traffic_receipts import PushRefusedError, TrafficReceiver, e_mail_pseudonyms
from tests.databases import lent_database
from tests.traffic_collector import DAY, HOUR, NEXT_DAY, Collector, at, naive
from tests.traffic_collector import collector as collector
from tests.traffic_nodes import ALICE, START, Node, sample, snapshot


class TestASnapshot:
    def test_of_the_future_is_refused_and_the_others_are_taken(self, collector: Collector) -> None:
        node = collector.add(Node().lives(0, 61))
        node.rejected = (SnapshotRejection(position=3, reason=Reason.FUTURE, field="collected_at"),)
        collector.collect(at(61))
        assert len(collector.rows()) == 122
        refusals = collector.query("select source, event_day, collected_at, reason, field from core.traffic_refusal")
        assert refusals == [("jp-prod", DAY, None, "future", "collected_at")]

    def test_with_other_totals_puts_both_aside_in_any_order(self, collector: Collector) -> None:
        node = collector.add(Node().lives(0, 5))
        collector.collect(at(6))
        other = snapshot(3, sample(999, 300), sample(3, 0, inbound="tcp"))
        collector.drop("other.json", encode_body([other]))
        (day,) = collector.collect(at(6))
        assert (day.rows, day.samples.kept, day.samples.conflict, day.samples.duplicate) == (9, -1, 2, 1)
        conflicts = collector.query(
            "select inbound_tag, collected_at, uplink_bytes, file_id is null from core.traffic_conflict order by 3"
        )
        assert conflicts == [("xhttp", at(3), 30, True), ("xhttp", at(3), 999, False)]
        # either of them once more stays out
        collector.drop(
            "again.json", encode_body([replace(other, uptime_seconds=5), replace(node.history[3], uptime_seconds=7)])
        )
        (day,) = collector.collect(at(6))
        assert (day.rows, day.samples.duplicate, day.samples.conflict) == (9, 4, 0)
        status, message = collector.verdict("no_conflict")
        assert status == "warned"
        assert f"prod:jp/{ALICE}/xhttp at 00:03:00" in message
        assert collector.verdict("samples_conserved")[0] == "passed"

    def test_with_refused_samples_counts_them(self, collector: Collector) -> None:
        node = collector.add(Node())
        refused = SampleRejection(position=2, reason=Reason.OUT_OF_RANGE, field="uplink_bytes_total")
        node.history = [replace(snapshot(0, sample(1)), rejected=(refused,))]
        (day,) = collector.collect(at(2))
        assert (day.samples.read, day.samples.kept, day.samples.rejected) == (2, 1, 1)
        assert collector.query("select collected_at, position, reason, field from core.traffic_refusal") == [
            (START, 2, "out_of_range", "uplink_bytes_total")
        ]
        assert collector.verdict("samples_conserved")[0] == "passed"


class TestAFile:
    def test_that_was_dropped_is_read_once_and_fills_the_windows(self, collector: Collector) -> None:
        collector.add(Node(), base_url="")
        history = Node().lives(0, 1440).history
        collector.drop("day.jsonl.gz", gzip.compress(encode_body(history)))
        (day,) = collector.collect(at(1450))
        assert (day.rows, day.new_snapshots) == (2880, 1440)
        assert {row[1] for row in collector.windows()} == {"complete"}
        assert collector.rows(columns="line_number")[:2] == [(2,), (4,)]
        files = "select status, lines_read, accepted_rows, duplicate_rows from core.source_file order by file_id"
        assert collector.query(files) == [("accepted", 2880, 2880, 0)]
        assert collector.query("select event_day, accepted_rows from core.source_file_day") == [(DAY, 2880)]
        collector.drop("half.jsonl", encode_body(history[:700]))
        (again,) = collector.collect(at(1450))
        assert (again.new_snapshots, again.repeated_snapshots, again.rows) == (0, 700, 2880)
        assert collector.query(files)[1] == ("accepted", 1400, 0, 1400)

    def test_touches_the_days_that_its_snapshots_are_of(self, collector: Collector) -> None:
        collector.add(Node(), base_url="")
        collector.drop("two.jsonl", encode_body(Node().lives(1430, 1450).history))
        days = collector.collect(at(2000), NEXT_DAY)
        assert [(day.day, day.rows) for day in days] == [(DAY, 20), (NEXT_DAY, 20)]

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"<html><body>502 Bad Gateway</body></html>", "bad_json"),
            (
                b'{"collected_at": "2026-04-08T00:00:00Z", "node_id": "jp", "env": "prod", "samples": [{"uuid"',
                "bad_json",
            ),
            (encode_body([snapshot(0, sample(1), node="us")]), "bad_value"),
            (gzip.compress(b"{}" * 100, mtime=0)[:-5], "bad_compression"),
        ],
    )
    def test_that_cannot_be_trusted_is_refused_whole(self, collector: Collector, content: bytes, reason: str) -> None:
        collector.add(Node(), base_url="")
        collector.drop("bad.json", content)
        (day,) = collector.collect(at(2))
        assert (day.rows, collector.query("select status, reason from core.source_file")) == (0, [("rejected", reason)])

    def test_with_bad_samples_quarantines_them_by_position(self, collector: Collector) -> None:
        collector.add(Node(), base_url="")
        body = encode_body([snapshot(0, sample(1), sample(2, inbound="tcp")), snapshot(1, sample(3))]).decode()
        collector.drop("some.jsonl", body.replace('"uplink_bytes_total":2', '"uplink_bytes_total":-2').encode())
        (day,) = collector.collect(at(2))
        assert (day.rows, day.samples.rejected) == (2, 1)
        assert collector.query("select line_number, reason, field from core.quarantine") == [
            (2, "out_of_range", "uplink_bytes_total")
        ]
        assert collector.rows(columns="line_number") == [(1,), (3,)]

    def test_in_which_an_exporter_could_not_ask_xray_is_a_gap_and_not_zero(self, collector: Collector) -> None:
        collector.add(Node(), base_url="", format="prometheus_compassvpn")
        collector.drop("20260408T000000Z.prom", b"xray_up 0\n")
        collector.collect(at(2))
        assert collector.query("select status from core.source_file") == [("accepted",)]
        assert collector.windows() == [(START, "gap", 1, "nothing_delivered")]

    def test_fills_what_an_exporter_has_forgotten(self, collector: Collector) -> None:
        node = collector.add(Node(retention=2 * HOUR).lives(0, 301), retention_hours=2)
        collector.collect(at(300))
        assert [row[1] for row in collector.windows()] == ["gap", "gap", "gap", "complete", "partial"]
        collector.drop("lost.jsonl", encode_body(node.history[:180]))
        collector.collect(at(300))
        assert [row[1] for row in collector.windows()] == ["complete"] * 4 + ["partial"]
        assert collector.completed_until() == at(299)


class TestPushedSnapshots:
    def test_are_kept_once_without_an_e_mail_and_read_like_files(self, collector: Collector) -> None:
        collector.add(Node(), base_url="")
        landing = collector.folder / "landing"
        receiver = TrafficReceiver(
            str(landing), collector.sources, collector.folder / "scratch", pseudonymise=e_mail_pseudonyms(b"key")
        )
        body = json.dumps(
            {
                "collected_at": "2026-04-08T00:00:00Z",
                "node_id": "jp",
                "env": "prod",
                "note": "eve@example.com",
                "samples": [
                    {
                        "uuid": uuid,
                        "email": "eve@example.com",
                        "inbound_tag": "x",
                        "uplink_bytes_total": total,
                        "downlink_bytes_total": 2**63 - 1,
                    }
                    for uuid, total in ((ALICE.upper(), 1), ("Eve@Example.com", 2), ("eve@example.com", -1))
                ],
            }
        ).encode()
        received = receiver.receive("jp-prod", body, received_at=at(1))
        assert (received.snapshots, received.samples, received.rejected_samples, received.duplicate) == (1, 2, 1, False)
        assert receiver.receive("jp-prod", body, received_at=at(2)).duplicate
        files = [path for path in landing.rglob("*") if path.is_file()]
        assert [str(path.relative_to(landing)) for path in files] == [received.key]
        assert b"example" not in files[0].read_bytes().lower()
        collector.collect(at(2))
        assert [(row[2], row[5], row[6]) for row in collector.rows()] == [
            (ALICE, 1, 2**63 - 1),
            (e_mail_pseudonyms(b"key")("eve@example.com"), 2, 2**63 - 1),
        ]
        assert collector.query("select line_number, reason from core.quarantine") == [(3, "out_of_range")]

    @pytest.mark.parametrize(
        ("changed", "problem"),
        [({"node_id": "us"}, "another node"), ({"collected_at": "0001-01-01T00:00:00Z"}, "sentinel_time")],
    )
    def test_are_refused_whole(self, collector: Collector, changed: dict[str, str], problem: str) -> None:
        collector.add(Node(), base_url="")
        receiver = TrafficReceiver(str(collector.folder / "landing"), collector.sources, collector.folder / "scratch")
        fields = {"collected_at": "2026-04-08T00:00:00Z", "node_id": "jp", "env": "prod", "samples": []}
        with pytest.raises(PushRefusedError, match=problem):
            receiver.receive("jp-prod", json.dumps(fields | changed).encode(), received_at=at(1))
        with pytest.raises(PushRefusedError, match="no such source"):
            receiver.receive("mars", json.dumps(fields).encode(), received_at=at(1))
        assert [path for path in (collector.folder / "landing").rglob("*") if path.is_file()] == []


class TestAnyOrderOfDelivery:
    @given(data=st.data())
    @settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_ends_in_the_same_samples(self, postgres_url: str, template_database: str, data: st.DataObject) -> None:
        everything = [
            *Node().lives(0, 12).history,
            snapshot(4, sample(40, 400)),
            snapshot(5, sample(1, 1)),
            replace(snapshot(6, sample(60, 600)), uptime_seconds=9),
        ]
        shuffled = data.draw(st.permutations(everything))
        cuts = sorted(data.draw(st.lists(st.integers(0, len(shuffled)), min_size=1, max_size=2)))
        parts = [shuffled[start:end] for start, end in zip([0, *cuts], [*cuts, len(shuffled)], strict=True)]
        with lent_database(postgres_url, template_database) as database, tempfile.TemporaryDirectory() as folder:
            collector = Collector(database, Path(folder))
            collector.add(Node(), base_url="")
            for number, part in enumerate(part for part in parts if part):
                collector.drop(f"{number}.jsonl", encode_body(part))
                collector.collect(at(20))
            rows = collector.rows()
            assert len(rows) == 23
            assert [row[7] for row in rows if row[4] == naive(6)] == [None, 9]
            assert collector.verdict("samples_conserved")[0] == "passed"
            assert collector.query("select conflict_samples from core.traffic_day") == [(2,)]
