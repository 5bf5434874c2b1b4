"""The figures of the contract for traffic, from samples to usage, each by its number."""

from dataclasses import replace

import pytest

from tests.traffic_chain import DAY, OTHER, Reading, at, readings, source
from tests.traffic_world import BOTH_ACCOUNTS, World, load_catalog
from tests.traffic_world import world as world


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
