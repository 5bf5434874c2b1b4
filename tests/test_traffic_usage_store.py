"""Traffic of event days in PostgreSQL: what is stale, what is held, whose traffic it is. Contract: test_traffic_usage_contract."""

import threading
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from resources import guard_store, traffic_day_writer
from resources.catalog_store import CatalogNotLoadedError
from resources.database import Database
from resources.lake import Lake
from resources.traffic_inputs import ASSET
from resources.traffic_usage_store import (
    DAYS_PER_RUN,
    TrafficInputsKeepChangingError,
    TrafficUsageStore,
)
from tests.traffic_chain import ACME, DAY, OTHER, Reading, at, readings, source
from tests.traffic_world import BOTH_ACCOUNTS, CATALOG, NEXT_DAY, THIRD_DAY, World, load_catalog
from tests.traffic_world import world as world


class TestBuildDays:
    def test_writes_counts_verdicts_and_the_equation(self, world: World) -> None:
        world.deliver([*readings("10:30 100, 11:30 150"), *readings("10:30 7", account_uuid=OTHER)])
        (build,) = world.build(DAY)
        assert (build.state, build.samples_read, build.billable, build.usage_rows) == ("built", 3, 2, 4)
        assert (build.bytes_by_hour[10], build.bytes_by_hour[11]) == (107, 50)
        assert (build.bytes_by_node, build.top_accounts) == ({"prod:jp": 157}, (("acme", 150),))
        assert build.quantity_by_meter == {"traffic": 150, "uplink": 150}
        assert world.rows(
            "select state, records_read, billable_records, not_billable_records, duplicate_records, conflict_records,"
            " inputs_digest from usage.build where asset = %s",
            ASSET,
        ) == [("built", 3, 2, 1, 0, 0, build.inputs_digest)]
        assert world.statuses() == {
            "bytes_conserved": "passed",
            "identities_known": "warned",
            "no_split_brain": "passed",
            "within_int64": "passed",
            "no_suspected_loss": "passed",
            "samples_complete": "passed",
            "samples_conserved": "passed",
        }

    def test_cuts_an_hour_where_a_billing_period_begins(self, world: World) -> None:
        # the anchor is 14:37:12; the minute that it is in belongs to the period in which the minute starts
        world.deliver(readings("14:36:50 10, 14:37:30 30, 14:38:00 60, 15:00 100"))
        world.build(DAY)
        rows = world.rows(
            "select to_char(period_start, 'HH24:MI:SS'), to_char(period_end, 'HH24:MI:SS'), quantity::int, bucket_count"
            " from usage.traffic where meter_id = 'traffic' order by 1"
        )
        assert rows == [
            ("14:00:00", "14:37:12", 30, 2),
            ("14:37:12", "15:00:00", 30, 1),
            ("15:00:00", "16:00:00", 40, 1),
        ]

    def test_gives_an_account_a_stream_from_the_minute_that_it_is_valid_in(self, world: World) -> None:
        moved = BOTH_ACCOUNTS.replace(
            f'{{ id = "{OTHER}" }}', f'{{ id = "{OTHER}", valid_from = 2026-03-01T10:31:00Z }}'
        )
        load_catalog(world.store.database, world.folder / "catalog", accounts=moved)
        world.deliver(readings("10:30 100, 10:31 150, 10:32 180", account_uuid=OTHER))
        (build,) = world.build(DAY)
        assert world.minutes(account_id="other") == {"10:31": 50, "10:32": 30}
        assert (build.billable, build.not_billable_by_reason) == (2, {"unknown_identity": 1})
        assert world.rows("select sample_count, uplink_bytes from usage.traffic_not_billable") == [(1, 100)]

    def test_adds_up_uuids_of_an_account_one_of_which_leaves_it_inside_the_hour(self, world: World) -> None:
        leaving = f'clients = [{{ id = "{ACME}" }}, {{ id = "{OTHER}", valid_to = 2026-03-01T10:30:00Z }}]'
        accounts = CATALOG["accounts.toml"].replace(f'clients = [{{ id = "{ACME}" }}]', leaving)
        load_catalog(world.store.database, world.folder / "catalog", accounts=accounts)
        world.deliver([*readings("10:05 100, 10:45 150"), *readings("10:10 7, 10:40 9", account_uuid=OTHER)])
        world.build(DAY)
        assert world.rows(
            "select to_char(period_start, 'HH24:MI'), to_char(period_end, 'HH24:MI'), quantity::int from usage.traffic"
            " where meter_id = 'traffic'"
        ) == [("10:00", "11:00", 157)]
        assert world.rows("select account_uuid, uplink_bytes::int from usage.traffic_not_billable") == [(OTHER, 2)]

    def test_keeps_policy_region_and_line_with_each_minute(self, world: World) -> None:
        world = world.configured(source(on_first="full", on_reset="from_zero", region="asia", line="cn2"))
        world.deliver(readings("10:30 100"))
        world.build(DAY)
        assert world.rows("select region, line, on_first, on_reset from usage.traffic_minute") == [
            ("asia", "cn2", "full", "from_zero")
        ]

    def test_reads_a_node_that_is_configured_no_more_as_before(self, world: World) -> None:
        policies = source(on_first="full", on_reset="from_zero", region="asia", line="cn2", max_resets_per_hour=1)
        world = world.configured(policies)
        world.deliver(readings("10:05 100, 10:45 150, 10:50 40"))
        world.build(DAY)
        before = world.stored()
        removed = world.configured()
        assert removed.store.stale_days() == ()
        removed.build(DAY)
        assert removed.stored() == before
        assert removed.billed() == 190
        # one that is configured otherwise is read otherwise, and so is every day of it
        changed = world.configured(replace(policies, on_reset="baseline"))
        assert changed.store.stale_days() == (DAY,)

    def test_of_a_day_without_samples_is_empty(self, world: World) -> None:
        (build,) = world.build(DAY)
        assert (build.state, build.samples_read, build.usage_rows) == ("built", 0, 0)
        assert world.store.stale_days() == ()

    def test_needs_a_catalog(self, database: Database, tmp_path: Path) -> None:
        store = TrafficUsageStore(
            database=database, lake=Lake(str(tmp_path / "lake"), tmp_path), scratch_dir=tmp_path / "scratch"
        )
        with pytest.raises(CatalogNotLoadedError):
            store.stale_days()

    def test_again_changes_nothing(self, world: World) -> None:
        world.deliver(across_midnight())
        world.build()
        before = world.stored()
        assert world.store.stale_days() == ()
        world.build(NEXT_DAY)
        world.build(DAY)
        assert (world.stored(), world.store.stale_days()) == (before, ())


def across_midnight() -> list[Reading]:
    """Return a stream that grows by one byte an hour over three days, from 100 on."""
    return [Reading(collected_at=at("00:00") + timedelta(hours=hour), uplink_bytes=100 + hour) for hour in range(72)]


class TestDaysOneAfterAnother:
    def test_take_the_last_sample_of_the_day_before(self, world: World) -> None:
        world.deliver(across_midnight())
        world.build(DAY)
        assert world.billed() == 123
        world.build(NEXT_DAY)
        assert world.billed() == 147
        world.build(THIRD_DAY)
        assert (world.billed(), world.store.stale_days()) == (171, ())

    def test_come_to_the_same_whatever_is_built_first(self, world: World) -> None:
        world.deliver(across_midnight())
        world.build(THIRD_DAY)
        assert world.billed() == 24
        assert world.store.stale_days() == (DAY, NEXT_DAY)
        world.build(NEXT_DAY)
        world.build(DAY)
        one_by_one = world.stored()
        assert (world.billed(), world.store.stale_days()) == (171, ())
        world.build(DAY, NEXT_DAY, THIRD_DAY)
        assert world.stored() == one_by_one

    def test_skip_days_without_samples(self, world: World) -> None:
        samples = [one for one in across_midnight() if one.day != NEXT_DAY]
        world.deliver(samples)
        world.build(DAY, NEXT_DAY, THIRD_DAY)
        assert world.billed() == 171
        assert world.minutes() == {"00:00": 100, **{f"{hour:02d}:00": 1 for hour in range(1, 24)}}

    def test_of_a_day_that_is_not_asked_for_is_made_for_the_next(self, world: World) -> None:
        samples = across_midnight()
        world.deliver(samples)
        world.build()
        world.deliver([*samples, Reading(collected_at=at("23:30"), uplink_bytes=124)])
        world.build(NEXT_DAY)
        assert (world.store.stale_days(), world.billed()) == ((DAY,), 170)
        world.build(DAY)
        assert (world.store.stale_days(), world.billed()) == ((), 171)

    def test_leave_the_next_day_alone_when_a_late_sample_does_not_change_their_tail(self, world: World) -> None:
        samples = across_midnight()
        world.deliver(samples)
        world.build()
        of_day = [one for one in samples if one.day == DAY]
        world.deliver([*of_day, Reading(collected_at=at("10:30"), uplink_bytes=110)])
        assert world.store.stale_days() == (DAY,)
        world.build(DAY)
        assert world.store.stale_days() == ()

    def test_are_stale_one_after_the_other_until_the_tail_is_what_it_was(self, world: World) -> None:
        samples = across_midnight()
        world.deliver(samples)
        world.build()
        of_day = [one for one in samples if one.day == DAY]
        world.deliver([*of_day, Reading(collected_at=at("23:30"), uplink_bytes=124)])
        assert world.store.stale_days() == (DAY,)
        world.build(DAY)
        assert (world.store.stale_days(), world.billed()) == ((NEXT_DAY,), 172)
        world.build(NEXT_DAY)
        assert (world.store.stale_days(), world.billed()) == ((), 171)

    def test_keep_their_inputs_when_the_tail_of_another_stream_changes(self, world: World) -> None:
        samples = across_midnight()
        gone = readings("23:00 50", inbound_tag="gone")
        world.deliver([*samples, *gone])
        before = {build.day: build.inputs_digest for build in world.build()}
        world.deliver([*(one for one in samples if one.day == DAY), *gone, *readings("23:10 60", inbound_tag="gone")])
        after: dict[date, str] = {}
        while stale := world.store.stale_days():
            after |= {build.day: build.inputs_digest for build in world.build(*stale)}
        assert after.keys() == {DAY, NEXT_DAY, THIRD_DAY}
        assert (after[DAY] != before[DAY], after[NEXT_DAY], after[THIRD_DAY]) == (
            True,
            before[NEXT_DAY],
            before[THIRD_DAY],
        )

    def test_more_than_one_scan_holds_come_to_the_same(self, world: World) -> None:
        days = [DAY + timedelta(days=number) for number in range(DAYS_PER_RUN + 3)]
        world.deliver([Reading(collected_at=at("12:00", day), uplink_bytes=10 * n) for n, day in enumerate(days, 1)])
        told: list[int] = []
        builds = world.store.build_days(
            days, run_id="run", code_version="1", on_progress=lambda _, done, total: told.append(done)
        )
        assert [build.day for build in builds] == days
        assert (told, world.billed()) == ([DAYS_PER_RUN, len(days)], 10 * len(days))

    def test_an_earlier_first_snapshot_of_a_node_makes_its_first_day_stale(self, world: World) -> None:
        world = world.configured(source())
        world.deliver([one for one in across_midnight() if one.day == NEXT_DAY])
        world.build()
        assert world.billed() == 23
        world.deliver([], empty=[Reading(collected_at=at("12:00"), uplink_bytes=0)])
        assert world.store.stale_days() == (NEXT_DAY,)
        world.build()
        assert world.billed() == 124 + 23


class TestHeldSamples:
    def test_keep_the_last_good_rows_of_the_day_and_let_the_next_go_on(self, world: World) -> None:
        samples = across_midnight()
        world.deliver(samples)
        world.build()
        before = world.minutes()
        of_day = [one for one in samples if one.day == DAY]
        world.deliver([*of_day[:12], *of_day[15:]])
        world.deliveries.hold(DAY)
        (build,) = world.build(DAY)
        assert (build.state, world.statuses()["samples_complete"]) == ("held", "held")
        assert (world.minutes(), world.store.stale_days()) == (before, ())
        assert world.billed() == 171

    def test_are_built_when_nothing_holds_them_any_more(self, world: World) -> None:
        world.deliver(across_midnight())
        world.deliveries.hold(DAY)
        world.build()
        assert world.billed() == 48
        assert world.store.stale_days() == ()
        world.deliveries.hold(DAY, "passed")
        assert world.store.stale_days() == (DAY,)
        world.build()
        assert (world.billed(), world.store.stale_days()) == (171, ())

    def test_pass_when_a_person_releases_them(self, world: World) -> None:
        world.deliver(across_midnight())
        world.deliveries.hold(DAY)
        world.build(DAY)
        guard_store.release(
            world.store.database,
            asset=ASSET,
            partition_key=DAY.isoformat(),
            guard="samples_complete",
            actor="ada",
            reason="the node was off",
        )
        assert world.store.stale_days()[0] == DAY
        (build,) = world.build(DAY)
        assert (build.state, world.statuses()["samples_complete"], world.billed()) == ("built", "released", 123)


class TestAbsurdTotals:
    def test_hold_their_stream_and_let_the_others_go_on(self, world: World) -> None:
        absurd = [
            Reading(collected_at=at(f"10:30:{second}"), uplink_bytes=2**63 - 1, uptime_seconds=1, inbound_tag="x")
            for second in (10, 30, 50)
        ]
        after = [
            Reading(collected_at=at("00:01", NEXT_DAY), uplink_bytes=2**63 - 1, inbound_tag="x"),
            Reading(collected_at=at("00:01", NEXT_DAY), uplink_bytes=40, account_uuid=OTHER),
        ]
        world.deliver([*readings("10:30 100"), *absurd, *after])
        builds = world.build()
        assert [(build.state, build.held_streams) for build in builds] == [("built", 1), ("built", 0)]
        assert (world.billed(), world.statuses()["within_int64"]) == (100, "warned")
        assert world.statuses() | {"no_split_brain": "passed", "bytes_conserved": "passed"} == world.statuses()
        assert world.rows("select reason, uplink_bytes from usage.traffic_not_billable where event_day = %s", DAY) == [
            ("beyond_int64", 3 * (2**63 - 1))
        ]
        assert world.rows("select reason from usage.traffic_suspect where event_day = %s", DAY) == [("beyond_int64",)]


def two_writers(minutes: int = 20) -> list[Reading]:
    """Return what two processes behind one key say in turns."""
    return [
        Reading(
            collected_at=at("10:00") + timedelta(minutes=n), uplink_bytes=n + (9_000 if n % 2 else 500), inbound_tag="x"
        )
        for n in range(minutes)
    ]


class TestTwoWritersOfOneKey:
    def test_hold_their_stream_and_let_the_others_go_on(self, world: World) -> None:
        world.deliver([*readings("10:30 100"), *two_writers()])
        (build,) = world.build(DAY)
        assert (build.state, build.held_streams, build.billable) == ("built", 1, 1)
        assert (world.billed(), world.statuses()["no_split_brain"]) == (100, "warned")
        assert world.rows("select reason, sample_count from usage.traffic_not_billable") == [("split_brain", 20)]
        assert world.rows("select reason, resets from usage.traffic_suspect") == [("split_brain", 9)]
        assert world.statuses()["bytes_conserved"] == "passed"

    def test_are_billed_once_the_limit_of_their_node_allows_it(self, world: World) -> None:
        world.deliver(two_writers())
        world.build(DAY)
        world = world.configured(source(on_first="full", max_resets_per_hour=9))
        assert world.store.stale_days() == (DAY,)
        (build,) = world.build(DAY)
        assert (build.held_streams, build.billable) == (0, 20)

    def test_found_after_midnight_hold_the_day_before_as_well(self, world: World) -> None:
        before = [
            Reading(collected_at=at("23:58"), uplink_bytes=500, inbound_tag="x"),
            Reading(collected_at=at("23:59"), uplink_bytes=8_000, inbound_tag="x"),
        ]
        after = [replace(one, collected_at=one.collected_at + timedelta(hours=14)) for one in two_writers()]
        world.deliver(before)
        world.build(DAY)
        assert world.billed() == 8_000
        world.deliver(after)
        world.build(NEXT_DAY)
        assert world.store.stale_days() == (DAY,)
        world.build(DAY)
        # what the tail of a held day says is not to be trusted, so the next day is looked at once more
        assert world.store.stale_days() == (NEXT_DAY,)
        world.build(NEXT_DAY)
        assert (world.billed(), world.store.stale_days()) == (0, ())
        in_two_steps = world.stored()
        world.build(DAY, NEXT_DAY)
        assert (world.stored(), world.store.stale_days()) == (in_two_steps, ())
        assert world.statuses() | {"no_split_brain": "warned"} == world.statuses()

    def test_leave_nothing_to_compare_with_on_the_next_day(self, world: World) -> None:
        after = [
            Reading(collected_at=at("00:00", NEXT_DAY), uplink_bytes=50_000, inbound_tag="x"),
            Reading(collected_at=at("00:01", NEXT_DAY), uplink_bytes=50_010, inbound_tag="x"),
        ]
        world.deliver([*two_writers(), *after])
        world.build()
        assert world.billed() == 10
        assert world.rows(
            "select basis, uplink_bytes, suspected_loss_bytes > 0 from usage.traffic_minute order by bucket_start"
        ) == [("after_hold", 0, True), ("difference", 10, False)]


class TestGuards:
    def test_hold_a_day_whose_rows_in_postgresql_are_not_what_was_counted(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.deliver(across_midnight())
        world.build()
        before = world.stored()
        written = traffic_day_writer.copy_arrow

        lost: list[str] = []

        def losing(connection: Any, table: str, batches: Any) -> int:
            rows = written(connection, table, batches)
            if not lost:
                lost.append(table)
                connection.execute("delete from usage.traffic_minute where bucket_start = %s", [at("05:00")])
            return rows

        monkeypatch.setattr(traffic_day_writer, "copy_arrow", losing)
        builds = world.build(DAY, NEXT_DAY)
        assert [build.state for build in builds] == ["held", "built"]
        assert world.statuses()["bytes_conserved"] == "held"
        assert world.stored() == before


class TestTwoRunsAtOnce:
    def test_end_in_what_the_newest_samples_say(self, world: World) -> None:
        samples = across_midnight()
        world.deliver([one for one in samples if one.collected_at.hour < 12])

        def build() -> None:
            world.build(DAY, NEXT_DAY, THIRD_DAY)

        threads = [threading.Thread(target=build) for _ in range(2)]
        for thread in threads:
            thread.start()
        world.deliver(samples)
        for thread in threads:
            thread.join()
        world.build()
        assert (world.billed(), world.store.stale_days()) == (171, ())

    def test_give_up_when_samples_change_each_time(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        world.deliver(readings("10:30 100"))
        totals = iter(range(1000))
        derive = traffic_day_writer.TrafficDayWriter._derive

        def disturbed(writer: Any) -> Any:
            derived = derive(writer)
            world.deliver(readings(f"10:30 {next(totals)}"))
            return derived

        monkeypatch.setattr(traffic_day_writer.TrafficDayWriter, "_derive", disturbed)
        with pytest.raises(TrafficInputsKeepChangingError, match="2026-03-01"):
            world.build(DAY)
        assert world.rows("select count(*) from usage.traffic_minute") == [(0,)]
