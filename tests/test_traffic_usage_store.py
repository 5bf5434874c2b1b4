"""Traffic of event days in PostgreSQL: the figures of the contract, what is stale, what is held, whose traffic it is."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from resources import guard_store, traffic_day_writer
from resources.catalog_store import CatalogNotLoadedError, CatalogStore
from resources.database import Database
from resources.lake import Lake
from resources.traffic_config import TrafficSource
from resources.traffic_day_writer import TrafficDayBuild
from resources.traffic_inputs import ASSET
from resources.traffic_usage_store import (
    DAYS_PER_RUN,
    TrafficInputsKeepChangingError,
    TrafficUsageStore,
)
from tests.traffic_chain import ACME, DAY, OTHER, Reading, TrafficDeliveries, at, readings, source

NEXT_DAY, THIRD_DAY = DAY + timedelta(days=1), DAY + timedelta(days=2)

CATALOG = {
    "billable.toml": """
        version = 1
        success_statuses = [[200, 299]]
        endpoints = [{ method = "GET", endpoint = "/odometer" }]
    """,
    "meters.toml": """
        [[meter]]
        id = "traffic"
        source = "traffic"
        aggregation = "sum"
        field = "total_bytes"
        unit = "byte"
        [[meter]]
        id = "uplink"
        source = "traffic"
        aggregation = "sum"
        field = "uplink_bytes"
        unit = "byte"
    """,
    "prices.toml": """
        [[price]]
        id = "price"
        meter = "traffic"
        currency = "USD"
        [[price.versions]]
        version = 1
        effective_from = 2025-01-01T00:00:00Z
        model = "standard"
        unit_price = "0.5"
    """,
    "plans.toml": """
        [[plan]]
        id = "plan"
        prices = ["price"]
    """,
    "accounts.toml": f"""
        [[account]]
        id = "acme"
        name = "Acme"
        time_zone = "UTC"
        currency = "USD"
        clients = [{{ id = "{ACME}" }}]
    """,
    "subscriptions.toml": """
        [[subscription]]
        id = "sub"
        account = "acme"
        plan = "plan"
        starts_at = 2026-01-01T14:37:12Z
        anchor_day = 1
        anchor_time = 14:37:12
    """,
}
BOTH_ACCOUNTS = (
    CATALOG["accounts.toml"]
    + f"""
        [[account]]
        id = "other"
        name = "Other"
        time_zone = "UTC"
        currency = "USD"
        clients = [{{ id = "{OTHER}" }}]
"""
)


def load_catalog(database: Database, folder: Path, **changed: str) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in (CATALOG | {f"{stem}.toml": text for stem, text in changed.items()}).items():
        (folder / name).write_text(text)
    CatalogStore(database).load(folder)


@dataclass
class World:
    """A database with a catalog, a lake, and one way to put samples in and to read what they came to."""

    store: TrafficUsageStore
    deliveries: TrafficDeliveries
    folder: Path

    def configured(self, *sources: TrafficSource) -> "World":
        return replace(self, store=replace(self.store, sources=sources))

    def deliver(self, samples: Sequence[Reading], **options: Any) -> None:
        self.deliveries.deliver(samples, **options)

    def build(self, *days: date) -> tuple[TrafficDayBuild, ...]:
        return self.store.build_days(days or self.store.stale_days(), run_id="run", code_version="1")

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self.store.database.reading() as connection:
            return connection.execute(query.encode(), values).fetchall()

    def minutes(self, **only: str) -> dict[str, int]:
        """Return `hh:mm` -> bytes of the first day's minutes."""
        condition = " and ".join(["event_day = %s", *(f"{name} = %s" for name in only)])
        rows = self.rows(
            f"select to_char(bucket_start, 'HH24:MI'), sum(uplink_bytes + downlink_bytes)::bigint from usage.traffic_minute"
            f" where {condition} group by 1 order by 1",
            DAY,
            *only.values(),
        )
        return {minute: total for minute, total in rows if total}

    def epochs(self) -> set[int]:
        return {epoch for (epoch,) in self.rows("select epoch from usage.traffic_minute")}

    def billed(self, meter: str = "traffic") -> int:
        """Return the bytes that rating sees."""
        return int(self.rows("select coalesce(sum(quantity), 0) from usage.traffic where meter_id = %s", meter)[0][0])

    def stored(self) -> list[tuple[Any, ...]]:
        """Return everything that a bill rests on, without who built it when."""
        tables = ("traffic_minute", "traffic", "traffic_not_billable", "traffic_suspect")
        return [row for table in tables for row in sorted(self.rows(f"select * from usage.{table}"), key=repr)]

    def statuses(self, day: date = DAY) -> dict[str, str]:
        with self.store.database.reading() as connection:
            return {one.guard: str(one.status) for one in guard_store.verdicts(connection, ASSET, [day.isoformat()])}


@pytest.fixture
def world(database: Database, tmp_path: Path) -> World:
    load_catalog(database, tmp_path / "catalog")
    lake = Lake(str(tmp_path / "lake"), tmp_path / "scratch")
    store = TrafficUsageStore(
        database=database,
        lake=lake,
        scratch_dir=tmp_path / "scratch",
        sources=(source(on_first="full"),),
        memory_limit="256MB",
        threads=1,
    )
    return World(store, TrafficDeliveries(database, lake, tmp_path), tmp_path)


class TestFiguresOfTheContract:
    """Rows of the checklist, price 0.5 a byte; amounts follow from the bytes."""

    def test_growth_of_both_directions_is_one_minute_of_70_bytes(self, world: World) -> None:  # SVC-05
        world = world.configured(source())
        world.deliver(
            [
                Reading(collected_at=at("10:30"), uplink_bytes=100, downlink_bytes=50),
                Reading(collected_at=at("10:31"), uplink_bytes=130, downlink_bytes=90),
            ]
        )
        world.build(DAY)
        assert world.minutes() == {"10:31": 70}
        assert (world.billed(), world.billed("uplink")) == (70, 30)

    def test_one_snapshot_five_times_is_100_bytes(self, world: World) -> None:  # SVC-06
        for _ in range(5):
            world.deliver(readings("10:30 100") * 2)
            world.build(DAY)
        assert (world.minutes(), world.billed()) == ({"10:30": 100}, 100)

    def test_two_samples_in_a_minute_add_up(self, world: World) -> None:  # SVC-07
        world.deliver(readings("10:30:15 100, 10:30:45 120"))
        world.build(DAY)
        assert (world.minutes(), world.billed()) == ({"10:30": 120}, 120)

    @pytest.mark.parametrize(
        ("first", "then", "minutes", "total"),
        [
            (
                "10:30 100, 10:31 150, 10:32 180",
                "10:31 150, 10:32 180, 10:33 200",
                {"10:30": 100, "10:31": 50, "10:32": 30, "10:33": 20},
                200,
            ),
            ("10:30 100, 10:31 150", "10:31 150, 10:32 150", {"10:30": 100, "10:31": 50}, 150),
        ],
        ids=["busy", "idle"],
    )
    def test_overlapping_windows_count_once(
        self, world: World, first: str, then: str, minutes: dict[str, int], total: int
    ) -> None:  # SVC-08
        world.deliver(readings(first))
        world.build(DAY)
        world.deliver([*readings(first), *readings(then)])
        world.build(DAY)
        assert (world.minutes(), world.billed(), world.epochs()) == (minutes, total, {0})

    @pytest.mark.parametrize(
        ("on_reset", "total", "loss"), [("baseline", 200, 40), ("from_zero", 240, 0)], ids=["baseline", "from_zero"]
    )
    def test_a_restart_without_witness_follows_the_policy(
        self, world: World, on_reset: str, total: int, loss: int
    ) -> None:  # SVC-09
        world = world.configured(source(on_first="full", on_reset=on_reset))
        history = readings("10:30 100, 10:31 150, 10:32 40, 10:33 90")
        for again in ([], history[1:], history[2:], history):
            world.deliver([*history, *again])
            world.build(DAY)
            assert (world.billed(), world.epochs()) == (total, {0, 1})
        assert world.rows(
            "select on_reset, basis, suspected_loss_bytes from usage.traffic_minute where basis = 'reset'"
        ) == [(on_reset, "reset", loss)]
        assert world.rows("select reason, resets, suspected_loss_bytes from usage.traffic_suspect") == [
            ("reset", 1, loss)
        ]
        assert world.statuses()["no_suspected_loss"] == "warned"

    def test_a_restart_with_witness_is_counted_from_zero(self, world: World) -> None:
        history = readings("10:30 100, 10:31 150, 10:32 40, 10:33 90")
        history[2] = replace(history[2], uptime_seconds=20)
        world.deliver(history)
        world.build(DAY)
        assert (world.billed(), world.statuses()["no_suspected_loss"]) == (240, "passed")

    def test_a_late_snapshot_is_put_in_its_place(self, world: World) -> None:  # SVC-10
        world.deliver(readings("10:30 100, 10:32 180"))
        world.build(DAY)
        assert world.minutes() == {"10:30": 100, "10:32": 80}
        world.deliver(readings("10:30 100, 10:32 180, 10:31 150"))
        world.build(DAY)
        world.deliver(readings("10:30 100, 10:32 180, 10:31 150, 10:33 200"))
        world.build(DAY)
        assert world.minutes() == {"10:30": 100, "10:31": 50, "10:32": 30, "10:33": 20}
        assert world.billed() == 200

    def test_a_nodes_first_snapshot_is_a_baseline_and_a_later_uuid_is_new_traffic(self, world: World) -> None:  # SVC-11
        load_catalog(world.store.database, world.folder / "catalog", accounts=BOTH_ACCOUNTS)
        world = world.configured(source())
        world.deliver([*readings("10:30 1000, 10:31 1000"), *readings("10:31 500", account_uuid=OTHER)])
        world.build(DAY)
        assert world.minutes(account_id="acme") == {}
        assert world.minutes(account_id="other") == {"10:31": 500}
        assert world.rows("select account_id, basis from usage.traffic_minute order by 1") == [
            ("acme", "first_of_node"),
            ("other", "new_stream"),
        ]

    def test_an_empty_snapshot_is_a_nodes_first_too(self, world: World) -> None:
        world = world.configured(source())
        world.deliver(readings("10:31 500"), empty=readings("10:30 0"))
        world.build(DAY)
        assert world.minutes() == {"10:31": 500}

    def test_inbounds_of_an_account_add_up_and_stay_apart(self, world: World) -> None:  # SVC-12
        world.deliver(
            [
                Reading(collected_at=at("10:30"), uplink_bytes=100, downlink_bytes=50, inbound_tag="xhttp"),
                Reading(collected_at=at("10:30"), uplink_bytes=30, downlink_bytes=20, inbound_tag="tcp"),
            ]
        )
        world.build(DAY)
        assert world.rows(
            "select sum(uplink_bytes)::int, sum(downlink_bytes)::int, count(*) from usage.traffic_minute"
        ) == [(130, 70, 2)]
        assert (world.billed("uplink"), world.billed()) == (130, 200)

    def test_an_inbound_that_disappears_does_not_touch_another(self, world: World) -> None:  # SVC-12
        world.deliver(
            [*readings("10:30 100, 10:31 120", inbound_tag="xhttp"), *readings("10:30 50", inbound_tag="tcp")]
        )
        world.build(DAY)
        assert world.minutes(inbound_tag="xhttp") == {"10:30": 100, "10:31": 20}
        assert (world.billed(), world.epochs()) == (170, {0})

    def test_nodes_and_environments_are_streams_of_their_own(self, world: World) -> None:  # SVC-13
        places = [(node, env) for node in ("jp", "de") for env in ("prod", "preview")]
        world = world.configured(*(source(node, env, on_first="full") for node, env in places))
        world.deliver(
            [
                one
                for number, (node, env) in enumerate(places)
                for one in readings(f"10:30 {10**number}", node=node, env=env)
            ]
        )
        world.build(DAY)
        assert world.rows("select count(*) from usage.traffic_minute") == [(4,)]
        # meters count prod unless they say otherwise
        assert world.billed() == 1 + 100

    def test_an_unknown_identity_waits_and_is_billed_once_when_it_is_known(self, world: World) -> None:  # SVC-27
        world.deliver([*readings("10:30 100, 10:31 150"), *readings("10:30 7, 10:31 9", account_uuid=OTHER)])
        (build,) = world.build(DAY)
        assert (build.billable, build.not_billable_by_reason, build.unknown_identities) == (
            2,
            {"unknown_identity": 2},
            1,
        )
        assert world.billed() == 150
        assert world.rows(
            "select reason, account_uuid, sample_count, uplink_bytes from usage.traffic_not_billable"
        ) == [("unknown_identity", OTHER, 2, 9)]
        assert (build.state, world.statuses()["identities_known"]) == ("built", "warned")

        load_catalog(world.store.database, world.folder / "catalog", accounts=BOTH_ACCOUNTS)
        assert world.store.stale_days() == (DAY,)
        for _ in range(2):
            world.build(DAY)
            assert world.billed() == 159
        assert world.rows("select count(*) from usage.traffic_not_billable") == [(0,)]
        assert world.statuses()["identities_known"] == "passed"


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
