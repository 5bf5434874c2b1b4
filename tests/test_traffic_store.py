"""Collecting traffic: what is read, what is proven, what is held, and what two runs or a killed one end in."""

import threading
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest

from billing_pipeline.sources.traffic_snapshots import encode_body
from resources import delivery_manifest, guard_store, traffic_manifest, traffic_publisher
from resources.exporter_transport import ExporterErrorKind
from resources.traffic_gaps import NoOpenGapError
from resources.traffic_samples import DATASET
from resources.traffic_store import UnknownNodeError
from tests.traffic_collector import DAY, HOUR, NEXT_DAY, Collector, at, naive
from tests.traffic_collector import collector as collector
from tests.traffic_nodes import ALICE, START, Node, sample, snapshot


class TestCollectDays:
    def test_keeps_each_inbound_and_proves_the_windows(self, collector: Collector) -> None:
        collector.add(Node().lives(0, 125))
        (day,) = collector.collect(at(126))
        assert (day.rows, day.new_snapshots, day.samples.kept) == (250, 125, 250)
        assert collector.rows()[:2] == [
            ("prod", "jp", ALICE, "tcp", naive(0), 0, 0, None, None),
            ("prod", "jp", ALICE, "tcp", naive(1), 1, 0, None, None),
        ]
        assert collector.windows() == [
            (START, "complete", 0, None),
            (START + HOUR, "complete", 0, None),
            (START + 2 * HOUR, "partial", 0, "in_progress"),
        ]
        assert collector.completed_until() == at(125)
        assert [verdict.status for verdict in day.verdicts] == ["passed"] * 4
        assert collector.nodes["jp-prod"].closed == 1

    def test_reads_only_what_is_missing_and_a_little_before_it(self, collector: Collector) -> None:
        node = collector.add(Node().lives(0, 126))
        collector.collect(at(125))
        node.lives(126, 131)
        node.read = 0
        (day,) = collector.collect(at(130))
        # minutes 125 to 128, the overlap of two before them, and half of the one that follows
        assert node.asked[-1] == (at(123), at(129.5))
        assert (node.read, day.repeated_snapshots, day.new_snapshots) == (7, 2, 5)

    def test_again_reads_nothing_and_changes_nothing(self, collector: Collector) -> None:
        node = collector.add(Node().lives(0, 1441))
        first = collector.collect(at(1500))
        before = collector.rows()
        asked = len(node.asked)
        assert collector.collect(at(1500)) == tuple(
            replace(day, new_snapshots=0, samples=type(day.samples)()) for day in first
        )
        assert (len(node.asked), collector.rows()) == (asked, before)

    def test_reads_pages_to_their_end_with_instants_finer_than_a_second(self, collector: Collector) -> None:
        node = collector.add(Node(page_size=2))
        node.history = [snapshot(0.5 / 60 * number, sample(number)) for number in range(5)]
        collector.collect(at(2))
        assert collector.rows(columns="uplink_bytes") == [(0,), (1,), (2,), (3,), (4,)]

    def test_keeps_streams_of_nodes_and_environments_apart(self, collector: Collector) -> None:
        for node, env in (("jp", "prod"), ("jp", "preview"), ("us", "prod"), ("us", "preview")):
            collector.add(Node(node=node, env=env, history=[snapshot(0, sample(7), node=node, env=env)]))
        collector.collect(at(2))
        assert [row[:2] for row in collector.rows()] == [
            ("preview", "jp"),
            ("preview", "us"),
            ("prod", "jp"),
            ("prod", "us"),
        ]

    def test_reads_only_the_nodes_that_are_named(self, collector: Collector) -> None:
        nodes = [collector.add(Node(node=name).lives(0, 61)) for name in ("jp", "us")]
        nodes[1].history = []
        collector.collect(at(61), only_nodes=frozenset({"jp"}))
        assert [len(node.asked) for node in nodes] == [1, 0]
        assert collector.windows("us-prod") == [(START, "gap", 60, "not_read")]
        with pytest.raises(UnknownNodeError, match="mars"):
            collector.collect(at(61), only_nodes=frozenset({"mars"}))

    def test_reads_a_range_of_days_without_reading_their_borders_twice(self, collector: Collector) -> None:
        node = collector.add(Node().lives(0, 2881))
        days = collector.collect(at(2890), DAY, NEXT_DAY)
        assert [day.rows for day in days] == [2880, 2880]
        assert node.read == 2880
        assert collector.completed_until() == at(2880)

    def test_misses_nothing_of_an_exporter_that_drifts(self, collector: Collector) -> None:
        node = collector.add(Node())
        node.history = [snapshot(number * 61 / 60 + 0.4, sample(number)) for number in range(2840)]
        # the minute before midnight has no snapshot, the one after it has
        assert not any(at(1439) <= one.collected_at < at(1440) for one in node.history)
        collector.collect(at(2881), DAY, NEXT_DAY)
        assert {row[1:] for row in collector.windows()} == {("complete", 0, None)}
        assert [collector.verdict("windows_complete", day)[0] for day in (DAY, NEXT_DAY)] == ["passed"] * 2

    def test_publishes_in_between_what_is_too_much_for_one_draft(self, collector: Collector) -> None:
        collector.options = {"largest_draft": 100}
        collector.add(Node(page_size=30).lives(0, 185))
        (day,) = collector.collect(at(186))
        assert day.rows == 370
        assert len(collector.query("select 1 from core.lake_generation")) == 4
        assert collector.completed_until() == at(185)

    def test_reads_at_most_so_many_windows_of_a_source_and_goes_on_with_the_next_run(
        self, collector: Collector
    ) -> None:
        collector.options = {"most_windows": 24}
        collector.add(Node().lives(0, 2881))
        collector.collect(at(2890), DAY, NEXT_DAY)
        assert collector.completed_until() == at(1440)
        collector.collect(at(2890), DAY, NEXT_DAY)
        assert collector.completed_until() == at(2880)


class TestOneSourceThatFails:
    @pytest.mark.parametrize("kind", [ExporterErrorKind.IDENTITY, ExporterErrorKind.TLS, ExporterErrorKind.AUTH])
    def test_stays_where_it_was_while_the_others_go_on(self, collector: Collector, kind: ExporterErrorKind) -> None:
        collector.add(Node().lives(0, 62))
        failing = collector.add(Node(node="us").lives(0, 31))
        collector.collect(at(32))
        failing.failure = kind
        failing.lives(31, 62)
        (day,) = collector.collect(at(62))
        assert (collector.completed_until("us-prod"), collector.completed_until("jp-prod")) == (at(31), at(61))
        assert list(day.failures) == ["us-prod"]
        status = {one.source: one for one in collector.store.statuses(at(62))}["us-prod"]
        assert (status.last_attempted_at, status.last_succeeded_at, status.last_error_kind) == (at(62), at(32), kind)
        assert status.last_error is not None
        assert collector.windows("us-prod") == [
            (START, "partial", 29, "source_failed"),
            (at(60), "gap", 1, "source_failed"),
        ]
        assert collector.verdict("windows_complete")[0] == "held"
        failing.failure = None
        collector.collect(at(62))
        assert collector.completed_until("us-prod") == at(61)
        assert collector.store.statuses(at(62))[1].last_error is None
        assert collector.verdict("windows_complete")[0] == "passed"

    def test_with_another_nodes_identity_leaves_no_row(self, collector: Collector) -> None:
        collector.add(Node(page_size=10, failure=ExporterErrorKind.IDENTITY, fails_after_pages=2).lives(0, 61))
        (day,) = collector.collect(at(62))
        assert (day.rows, collector.rows()) == (0, [])
        assert collector.query("select 1 from core.traffic_snapshot") == []

    def test_in_the_middle_of_its_pages_keeps_what_was_read_and_proves_no_more(self, collector: Collector) -> None:
        node = collector.add(Node(page_size=30, failure=ExporterErrorKind.TIMEOUT, fails_after_pages=4).lives(0, 185))
        collector.collect(at(186))
        # the last snapshot that came is of 01:59, and whether more of that minute would have come nobody knows
        assert [row[1:] for row in collector.windows()] == [
            ("complete", 0, None),
            ("partial", 0, "not_read_to_end"),
            ("gap", 60, "source_failed"),
            ("gap", 5, "source_failed"),
        ]
        assert collector.completed_until() == at(119)
        node.failure, node.read = None, 0
        collector.collect(at(186))
        assert node.read == 185 - 119 + 2
        assert [row[1] for row in collector.windows()] == ["complete", "complete", "complete", "partial"]

    def test_is_left_alone_for_the_rest_of_the_run(self, collector: Collector) -> None:
        node = collector.add(Node(failure=ExporterErrorKind.TIMEOUT))
        collector.collect(at(2890), DAY, NEXT_DAY)
        assert len(node.asked) == 1
        assert {row[3] for row in collector.windows()} == {"source_failed"}


class TestAnOutage:
    def test_of_three_hours_is_caught_up_with_by_reading_it_alone(self, collector: Collector) -> None:
        away, other = collector.add(Node().lives(0, 61)), collector.add(Node(node="us").lives(0, 61))
        collector.collect(at(61))
        away.failure = ExporterErrorKind.UNREACHABLE
        other.lives(61, 242)
        collector.collect(at(241))
        assert collector.completed_until("us-prod") == at(240)
        away.failure = None
        away.lives(61, 242)
        away.read = other.read = 0
        collector.collect(at(241))
        assert 180 <= away.read <= 183
        assert other.read == 0
        without = [row for row in collector.rows() if row[1] == "us"]
        assert [row[2:] for row in collector.rows() if row[1] == "jp"] == [row[2:] for row in without]
        assert collector.verdict("windows_complete")[0] == "passed"

    def test_that_is_longer_than_the_retention_leaves_a_gap_that_is_named(self, collector: Collector) -> None:
        days = [DAY + timedelta(days=number) for number in range(5)]
        node = collector.add(Node().lives(0, 61))
        collector.collect(at(60))
        node.lives(61, 60 + 96 * 60 + 2)
        node.asked.clear()
        back = at(60 + 96 * 60)
        collector.collect(back, *days)
        gaps = [row for row in collector.windows() if row[1] != "complete" and row[3] != "in_progress"]
        assert {row[1:] for row in gaps} == {("gap", 60, "older_than_retention")}
        assert (gaps[0][0], sum(row[2] for row in gaps)) == (at(60), 24 * 60)
        assert collector.completed_until() == at(60)
        assert collector.windows()[-2][1] == "complete"
        status, message = collector.verdict("windows_complete")
        assert status == "held"
        assert "jp-prod 2026-04-08 01:00-02:00 60 min (older_than_retention)" in message
        assert min(since for since, _ in node.asked) == back - timedelta(hours=72)
        assert collector.query("select count(*) from core.traffic_gap where event = 'opened'") == [(24,)]

    def test_is_not_asked_for_backwards_when_the_exporter_has_just_forgotten_it(self, collector: Collector) -> None:
        node = collector.add(Node().lives(0, 20).lives(50, 175), retention_hours=2)
        collector.collect(at(61))
        node.asked.clear()
        # the window from 0 to 60 is known to the exporter from 55 on: minutes 20 to 50 are not
        collector.collect(at(175))
        assert [(since < until, since) for since, until in node.asked] == [(True, at(59))]
        assert collector.windows()[0][1:3] == ("partial", 30)

    def test_is_no_success_because_the_page_is_empty(self, collector: Collector) -> None:
        collector.add(Node())
        collector.collect(at(61))
        assert collector.windows() == [(START, "gap", 60, "empty_page")]
        assert collector.completed_until() is None
        assert collector.verdict("windows_complete")[0] == "held"

    def test_of_a_minute_is_asked_for_alone(self, collector: Collector) -> None:
        node = collector.add(Node().lives(0, 1441))
        lost = node.history.pop(700)
        collector.collect(at(1442))
        assert collector.windows()[11][1:] == ("partial", 1, "missing_snapshots")
        assert collector.completed_until() == lost.collected_at
        node.read = 0
        node.history.insert(700, lost)
        (day,) = collector.collect(at(1442))
        assert (node.read, day.new_snapshots) == (4, 1)
        assert collector.completed_until() == at(1440)
        assert collector.query("select event from core.traffic_gap order by gap_event_id") == [("opened",), ("filled",)]

    def test_of_a_node_with_empty_snapshots_fails_after_ten_minutes(self, collector: Collector) -> None:
        node = collector.add(Node().lives(0, 20))
        node.history += [snapshot(minute) for minute in range(20, 29)]
        collector.collect(at(30))
        assert collector.verdict("node_alive")[0] == "passed"
        node.history.append(snapshot(29))
        collector.collect(at(31))
        status, message = collector.verdict("node_alive")
        assert status == "held"
        assert "jp-prod 2026-04-08 00:20-00:30" in message
        assert [row[1] for row in collector.windows()] == ["partial"]

    def test_is_not_expected_before_a_source_begins_or_after_it_ends(self, collector: Collector) -> None:
        collector.add(Node().lives(90, 151), active_from=at(90), active_to=at(150))
        collector.collect(at(1450))
        assert [row[:2] for row in collector.windows()] == [(at(90), "complete"), (at(120), "complete")]
        assert collector.completed_until() == at(150)
        assert collector.verdict("windows_complete")[0] == "passed"


class TestClosingAGap:
    def close(self, collector: Collector, **changed: Any) -> Any:
        arguments: dict[str, Any] = {
            "source": "jp-prod",
            "window_start": START,
            "window_end": at(120),
            "actor": "ann",
            "reason": "the disk of the node is lost",
            "now": at(300),
            "run_id": "decision",
        }
        return collector.store.close_gap(**(arguments | changed))

    def test_lets_the_day_through_and_moves_the_checkpoint(self, collector: Collector) -> None:
        collector.add(Node(retention=2 * HOUR).lives(0, 301), retention_hours=2)
        collector.collect(at(300))
        closed = self.close(collector)
        assert (closed.windows, closed.missing_minutes) == ((START, at(60)), 120)
        assert (collector.completed_until(), collector.verdict("windows_complete")[0]) == (at(120), "held")
        self.close(collector, window_start=at(120), window_end=at(180))
        status, message = collector.verdict("windows_complete")
        assert (collector.completed_until(), status) == (at(299), "released")
        assert "closed by ann" in message
        collector.collect(at(300))
        assert [row[1] for row in collector.windows()] == ["closed", "closed", "closed", "complete", "partial"]
        assert collector.verdict("windows_complete")[0] == "released"
        assert (
            collector.query("select event, actor from core.traffic_gap where event <> 'opened'")
            == [("closed", "ann")] * 3
        )

    def test_is_asked_of_a_source_that_is_configured_no_more(self, collector: Collector) -> None:
        collector.add(Node(retention=2 * HOUR).lives(0, 301), retention_hours=2)
        collector.add(Node(node="us").lives(0, 301))
        collector.collect(at(300))
        del collector.sources[0]
        collector.collect(at(300))
        status, message = collector.verdict("windows_complete")
        assert status == "held"
        assert "jp-prod" in message
        closed = self.close(collector, window_end=at(180))
        assert (closed.windows, closed.missing_minutes) == ((START, at(60), at(120)), 180)
        status, message = collector.verdict("windows_complete")
        assert status == "released"
        assert "closed by ann" in message
        collector.collect(at(300))
        assert collector.verdict("windows_complete")[0] == "released"

    def test_is_undone_by_the_snapshots_themselves(self, collector: Collector) -> None:
        node = collector.add(Node(retention=2 * HOUR).lives(0, 301), retention_hours=2)
        collector.collect(at(300))
        self.close(collector)
        collector.drop("found.jsonl", encode_body(node.history[:60]))
        collector.collect(at(300))
        assert [row[1] for row in collector.windows()] == ["complete", "closed", "gap", "complete", "partial"]

    @pytest.mark.parametrize(
        "changed",
        [{"actor": " "}, {"reason": ""}, {"source": "mars"}, {"window_start": at(180), "window_end": at(300)}],
    )
    def test_needs_an_open_gap_a_name_and_a_reason(self, collector: Collector, changed: dict[str, Any]) -> None:
        collector.add(Node(retention=2 * HOUR).lives(0, 301), retention_hours=2)
        collector.collect(at(300))
        with pytest.raises(NoOpenGapError):
            self.close(collector, **changed)
        assert collector.query("select 1 from core.traffic_gap where event = 'closed'") == []

    def test_differs_from_a_release_which_is_for_the_gaps_that_were_seen(self, collector: Collector) -> None:
        node = collector.add(Node(retention=2 * HOUR).lives(0, 301), retention_hours=2)
        collector.collect(at(300))
        guard_store.release(
            collector.database,
            asset=DATASET,
            partition_key="2026-04-08",
            guard="windows_complete",
            actor="ann",
            reason="known",
        )
        collector.collect(at(300.9))
        assert collector.verdict("windows_complete")[0] == "released"
        node.retention = timedelta(0)
        collector.collect(at(480))
        assert collector.verdict("windows_complete")[0] == "held"


class TestDueDays:
    def test_are_today_and_days_with_minutes_that_an_exporter_may_have(self, collector: Collector) -> None:
        node = collector.add(Node().lives(0, 3000))
        assert collector.store.due_days(at(2000)) == (DAY, NEXT_DAY)
        collector.collect(at(2000), DAY, NEXT_DAY)
        assert collector.store.due_days(at(2000)) == ()
        assert collector.store.due_days(at(2002)) == (NEXT_DAY,)
        del node.history[2100]
        collector.collect(at(2300), NEXT_DAY)
        assert collector.store.due_days(at(2300)) == ()
        # before that hour was over for an hour, it would have been asked for again
        collector.sources[0] = replace(collector.sources[0], retention_hours=1)
        assert collector.store.due_days(at(3000)) == (date(2026, 4, 10),)

    def test_are_today_when_a_file_waits(self, collector: Collector) -> None:
        collector.add(Node(), base_url="")
        assert collector.store.due_days(at(10)) == ()
        collector.drop("one.json", encode_body([snapshot(0, sample(1))]))
        collector.store.discover(seen_at=at(10))
        assert collector.store.due_days(at(10)) == (DAY,)

    def test_are_today_for_a_source_without_history_once_a_slot(self, collector: Collector) -> None:
        node = collector.add(Node(), format="statsquery", expected_interval_seconds=300)
        node.history = [snapshot(10, sample(1))]
        assert collector.store.due_days(at(10)) == (DAY,)
        collector.collect(at(10))
        assert collector.store.due_days(at(14)) == ()
        assert collector.store.due_days(at(16)) == (DAY,)
        assert (node.asked, len(collector.rows())) == ([], 1)


class TestCoverageAndStatus:
    def test_show_every_source_and_day(self, collector: Collector) -> None:
        collector.add(Node().lives(0, 1500))
        collector.add(Node(node="us").lives(0, 120))
        collector.add(Node(node="sg"), base_url="")
        collector.collect(at(1502), DAY, NEXT_DAY)
        rows = {(one.source, one.day): one for one in collector.store.coverage([DAY, NEXT_DAY])}
        jp, us = rows["jp-prod", DAY], rows["us-prod", DAY]
        assert (jp.complete, jp.gap, jp.missing_minutes, jp.snapshots, jp.samples) == (24, 0, 0, 1440, 2880)
        assert (us.complete, us.gap, us.missing_minutes) == (2, 22, 22 * 60)
        assert us.hours[1:3] == ((1, "complete"), (2, "gap"))
        assert rows["sg-prod", NEXT_DAY].gap == 2
        statuses = {one.source: one for one in collector.store.statuses(at(1502))}
        assert [one.source for one in collector.store.statuses(at(1502))] == ["jp-prod", "us-prod", "sg-prod"]
        assert (statuses["jp-prod"].completed_until, statuses["jp-prod"].delay_seconds) == (at(1500), 120)
        assert (statuses["us-prod"].completed_until, statuses["us-prod"].open_gaps) == (at(120), 24)
        assert (statuses["sg-prod"].last_attempted_at, statuses["sg-prod"].delay_seconds) == (None, None)

    def test_keep_a_steady_source_within_two_minutes_of_a_run(self, collector: Collector) -> None:
        node = collector.add(Node().lives(0, 20))
        for now in range(20, 40, 5):
            node.lives(now, now + 5)
            collector.collect(at(now + 4.9))
            (status,) = collector.store.statuses(at(now + 4.9))
            assert status.delay_seconds is not None
            assert status.delay_seconds <= 120
            assert collector.verdict("windows_complete")[0] == "passed"


class TestRunsThatMeetOrDie:
    def history(self, collector: Collector) -> None:
        collector.add(Node().lives(0, 125))
        collector.add(Node(node="us").lives(0, 125))

    def test_two_at_once_end_in_one_result(self, collector: Collector) -> None:
        self.history(collector)
        both = threading.Barrier(2)

        def run() -> None:
            both.wait()
            collector.collect(at(126))

        runs = [threading.Thread(target=run) for _ in range(2)]
        for one in runs:
            one.start()
        for one in runs:
            one.join()
        assert len(collector.rows()) == 500
        assert collector.query("select count(*) from core.traffic_snapshot") == [(250,)]
        assert collector.query("select samples_read, kept_samples, duplicate_samples from core.traffic_day") == [
            (500, 500, 0)
        ]

    @pytest.mark.parametrize("step", ["merge", "write_snapshots", "write_generation", "judge_windows", "judge_day"])
    def test_killed_at_any_step_the_next_ends_in_the_same_rows(
        self, collector: Collector, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        self.history(collector)
        collector.drop("more.jsonl", encode_body(Node().lives(0, 60).history))
        module = traffic_manifest if step == "write_snapshots" else traffic_publisher
        module = delivery_manifest if step == "write_generation" else module
        done = getattr(module, step)

        def die(*arguments: Any, **named: Any) -> None:
            done(*arguments, **named)
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(module, step, die)
            with pytest.raises(KeyboardInterrupt):
                collector.collect(at(126))
        assert collector.query("select 1 from core.lake_partition") == []
        collector.collect(at(126))
        assert len(collector.rows()) == 500
        assert collector.query("select sum(kept_samples), sum(duplicate_samples) from core.traffic_day") == [(500, 0)]
        assert list((collector.folder / "scratch").glob("ingest-*")) == []
