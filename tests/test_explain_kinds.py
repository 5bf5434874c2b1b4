"""Every charge of traffic, prepaid or not, leads to raw rows, and these, rated again, come to its amount; printed for people."""

from datetime import date
from decimal import Decimal

import pytest

from billing_pipeline.amounts import to_money
from billing_pipeline.periods import Window
from billing_pipeline.prepaid import Bucket, spend
from console.arithmetic import endless, grouped, line_formula, lines_total
from resources.catalog_store import CatalogStore
from resources.charge_reader import BookedCharge
from resources.lineage_files import Origin, UsageNotBuiltError, build_uris
from resources.prepaid_lineage import read_bucket_minutes, read_prepaid_entries
from resources.traffic_lineage import TrafficMinute, read_minutes, read_traffic_rows
from resources.traffic_sample_lineage import TrafficStep, read_samples
from tests import traffic_chain
from tests.explained_world import ALL, JUNE_1, World, at
from tests.explained_world import world as world
from tests.traffic_chain import OTHER, Reading, Reference, readings, source


def on(day: date, text: str, **fields: object) -> list[Reading]:
    """Return uplink totals of a day, written as `10:30 100, 10:31 150`."""
    shift = day - traffic_chain.DAY
    return [Reading(**{**vars(one), "collected_at": one.collected_at + shift}) for one in readings(text, **fields)]


# One node with a reset and a restart, over a billing period's begin and over midnight; another is pulled.
JP = [
    *on(JUNE_1, "10:29 1000, 10:30 1100, 10:31 1150, 14:37 1160, 14:38 1190, 14:39 40, 14:40 90"),
    Reading(collected_at=at(1, 23, 59), uplink_bytes=190, downlink_bytes=70),
    Reading(collected_at=at(2, 0, 0, 30), uplink_bytes=200, downlink_bytes=71),
    Reading(collected_at=at(2, 0, 1, 30), uplink_bytes=33, downlink_bytes=0, uptime_seconds=20),
    Reading(collected_at=at(1, 23, 59), uplink_bytes=7, inbound_tag="plain"),
]
US = on(JUNE_1, "09:00 0, 09:00:40 64, 09:01 128", node="us")
FIRST = {("prod", "jp"): at(1, 10, 29), ("prod", "us"): at(1, 9)}


def all_steps(world: World, charge: BookedCharge) -> tuple[list[TrafficMinute], list[TrafficStep]]:
    """Return every minute and every sample behind a charge of traffic."""
    minutes, steps = [], []
    for row in read_traffic_rows(world.database, charge, limit=ALL).first:
        found = read_minutes(world.database, row, limit=ALL)
        assert sum(one.uplink_bytes + one.downlink_bytes for one in found.first) == row.quantity
        assert found.uplink_bytes + found.downlink_bytes == row.quantity
        minutes += found.first
        samples = read_samples(world.database, world.lake, world.scratch, found.first)
        steps += [step for minute in found.first for step in samples[minute]]
    return minutes, steps


def traffic_of(samples: set[Reading], period: Window) -> int:
    """Return the bytes that raw samples come to in a period, by the reference of counters."""
    days = Reference(FIRST).days(samples)
    minutes = [minute for streams in days.values() for one in streams.values() for minute in one.minutes]
    return sum(one.uplink_bytes + one.downlink_bytes for one in minutes if one.bucket_start in period)


class TestTrafficCharge:
    def test_leads_to_samples_that_rated_again_come_to_its_amount(self, world: World) -> None:
        world.use_traffic([*JP, *US])
        charges = world.charges("by_node")
        assert sorted((one.group["node"], one.period.start) for one in charges) == [
            ("jp", at(1, 3, 37, 12)), ("jp", at(1, 14, 37, 12)), ("us", at(1, 3, 37, 12)),
        ]  # fmt: skip
        amounts = {}
        for charge in charges:
            _, steps = all_steps(world, charge)
            quantity = traffic_of(world.raw(steps), charge.period)
            assert world.rated(charge, Decimal(quantity)) == charge.amount
            amounts[charge.group["node"], charge.period.start.hour] = quantity
        # 14:37 began before the period's begin at 14:37:12, so its minute is of the period before
        assert amounts == {("jp", 3): 160, ("jp", 14): 30 + 50 + 170 + 7 + 11 + 33, ("us", 3): 128}

    def test_shows_each_sample_with_the_one_before_it_over_midnight_too(self, world: World) -> None:
        world.use_traffic([*JP, *US])
        charge = next(one for one in world.charges("by_node") if one.period.start == at(1, 14, 37, 12))
        minutes, steps = all_steps(world, charge)
        pairs = {step.sample.collected_at: step for step in steps if step.sample.downlink_bytes or step.earlier}
        after_midnight = pairs[at(2, 0, 0, 30)]
        assert after_midnight.earlier is not None
        assert (after_midnight.earlier.collected_at, after_midnight.earlier.downlink_bytes) == (at(1, 23, 59), 70)
        assert after_midnight.earlier.origin.key == "traffic/2026-06-01.jsonl"
        assert after_midnight.sample.origin == Origin(source="prod-jp", key="traffic/2026-06-02.jsonl", line_number=1)
        bases = {
            minute.bucket_start: (minute.basis, minute.epoch) for minute in minutes if minute.inbound_tag == "premium"
        }
        assert bases[at(1, 14, 39)] == ("reset", 1)
        assert bases[at(2, 0, 1)] == ("restart", 1)
        assert [step.earlier for step in steps if step.sample.uplink_bytes == 7] == [None]

    def test_counts_a_reset_as_the_nodes_policy_says(self, world: World) -> None:
        world.use_traffic(JP, source("jp", on_reset="from_zero", region="asia", line="premium"))
        charge = next(one for one in world.charges("by_node") if one.period.start == at(1, 14, 37, 12))
        minutes, steps = all_steps(world, charge)
        reset = next(one for one in minutes if one.bucket_start == at(1, 14, 39))
        assert (reset.on_reset, reset.uplink_bytes, reset.suspected_loss_bytes) == ("from_zero", 40, 0)
        policies = [source("jp", on_reset="from_zero")]
        days = Reference(FIRST, policies).days(world.raw(steps))
        total = sum(
            minute.uplink_bytes + minute.downlink_bytes
            for streams in days.values()
            for one in streams.values()
            for minute in one.minutes
            if minute.bucket_start in charge.period
        )
        assert world.rated(charge, Decimal(total)) == charge.amount

    def test_is_printed_down_to_files_lines_and_pulls(
        self, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        world.use_traffic([*JP, *US])
        by_node = {(one.group["node"], one.period.start.hour): one for one in world.charges("by_node")}
        world.explain(by_node["jp", 14], monkeypatch)
        shown = capsys.readouterr().out
        for part in (
            "100 byte x 0.5 = 50  (version 1, tier 1)",
            "Usage of meter traffic: 301 byte in 4 rows; the first 4:",
            "2026-06-01 14:37:12 to 15:00:00 UTC  jp (prod) premium: 80 byte in 2 minutes",
            "14:39 premium of 11111111  up 0, down 0, 40 byte not billed may be traffic  (a total went down, ",
            "nothing tells why: baseline, epoch 1)",
            "before  2026-06-01 23:59:00  totals up 190, down 70  prod-jp: traffic/2026-06-01.jsonl line",
            "then    2026-06-02 00:00:30  totals up 200, down 71  prod-jp: traffic/2026-06-02.jsonl line 1",
            "00:01 premium of 11111111  up 33, down 0  (restarted: totals began at 0, epoch 1)",
            "first   2026-06-01 23:59:00  totals up 7, down 0",
            "a new stream, its totals are all new",
        ):
            assert part in shown
        world.explain(by_node["us", 3], monkeypatch, rows=1, lines=1)
        shown = capsys.readouterr().out
        for part in (
            "09:00 premium of 11111111  up 64, down 0  (first snapshot of the node: baseline)",
            "totals up 0, down 0  prod-us: pulled",
            "… and 1 more samples",
            "… 2 minutes in all: up 128, down 0",
        ):
            assert part in shown
        world.explain(by_node["jp", 14], monkeypatch, rows=1)
        assert "… and 3 more rows: --rows 4" in capsys.readouterr().out

    def test_of_a_day_without_a_build_says_what_to_do(self, world: World) -> None:
        with (
            world.database.reading() as connection,
            pytest.raises(UsageNotBuiltError, match="usage/traffic of 2026-06-01 has no build") as raised,
        ):
            build_uris(connection, "usage/traffic", JUNE_1)
        assert raised.value.fix == "Build the day again: billing materialize usage/traffic --day 2026-06-01"
        assert read_samples(world.database, world.lake, world.scratch, []) == {}


class TestPrepaidCharge:
    SOURCE = source("jp", on_first="full", region="asia", line="premium")
    SAMPLES = (
        *on(JUNE_1, "10:30 60, 10:31 110, 10:32 150", account_uuid=OTHER),
        *on(JUNE_1, "10:31 8, 10:32 9", account_uuid=OTHER, inbound_tag="plain"),
    )

    def test_leads_to_samples_whose_buckets_rated_again_come_to_its_amount(self, world: World) -> None:
        world.use_traffic(self.SAMPLES, self.SOURCE)
        (charge,) = world.charges("per_byte", "bolt")
        entries = read_prepaid_entries(world.database, charge.charge_id, limit=ALL)
        assert [(one.bucket_start.minute, one.included_bytes, one.rated_bytes) for one in entries.first] == [
            (30, 60, 0), (31, 40, 18), (32, 0, 41),
        ]  # fmt: skip
        assert (entries.entries, entries.included_bytes, entries.rated_bytes) == (3, 100, 59)
        steps: list[TrafficStep] = []
        for entry in entries.first:
            minutes = read_bucket_minutes(world.database, entry, limit=ALL)
            samples = read_samples(world.database, world.lake, world.scratch, minutes.first)
            steps += [step for minute in minutes.first for step in samples[minute]]
        raw = world.raw(steps)
        assert len(raw) == 5
        buckets: dict[Bucket, int] = {}
        for (env, node, account_uuid, _), stream in (
            Reference({("prod", "jp"): at(1, 10, 30)}, [self.SOURCE]).days(raw)[JUNE_1].items()
        ):
            for minute in stream.minutes:
                bucket = Bucket(
                    bucket_start=minute.bucket_start,
                    env=env,
                    node=node,
                    account_uuid=account_uuid,
                    region="asia",
                    line="premium",
                )
                buckets[bucket] = buckets.get(bucket, 0) + minute.uplink_bytes + minute.downlink_bytes
        price = CatalogStore(world.database).current().price("per_byte")
        spent = sum((one.amount for one in spend(buckets.items(), price)), Decimal(0))
        assert spent == entries.amount == Decimal("-70.8")
        assert to_money(-spent, "USD") == charge.amount

    def test_is_printed_as_entries_with_their_minutes(
        self, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        world.use_traffic(self.SAMPLES, self.SOURCE)
        (charge,) = world.charges("per_byte", "bolt")
        world.explain(charge, monkeypatch, rows=2)
        shown = capsys.readouterr().out
        for part in (
            "59 byte x 1.2 (0.5 x 2.4) = 70.8  (version 1)",
            "Taken from the balance: -70.8 USD by 3 entries, for 100 byte included and 59 byte paid; the first 2:",
            "2026-06-01 10:31 UTC  jp (prod) asia, premium: 40 byte included, 18 byte x per_byte:1 x 2.4: -21.6 USD",
            "10:31 plain of 22222222  up 8, down 0",
            "… and 1 more entries: --rows 3",
        ):
            assert part in shown

    def test_tells_entries_that_were_taken_back(
        self, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        world.use_traffic(self.SAMPLES, self.SOURCE)
        # the last minute is read again, and was another one
        world.use_traffic([*self.SAMPLES[:2], *on(JUNE_1, "10:33 150", account_uuid=OTHER)], self.SOURCE)
        (charge,) = world.charges("per_byte", "bolt")
        world.explain(charge, monkeypatch, rows=10)
        shown = capsys.readouterr().out
        assert "(adjustment, revision 2)" in shown
        # an entry and what takes it back lead to the same minutes, told once
        assert shown.count("no traffic stands behind this minute any more") == 1
        assert shown.count("10:31 premium of 22222222  up 50") == 1


class TestArithmetic:
    LINE = {"version": 1, "tier": None, "quantity": "17/180", "unit": "GB-month", "unit_price": "0.1", "flat_fee": "0",
            "amount": "17/1800"}  # fmt: skip

    def test_shows_what_never_ends_as_a_short_fraction_or_cut_off(self) -> None:
        assert line_formula(self.LINE) == "17/180 GB-month x 0.1 = 0.009444444…"
        assert grouped("123456789/7000") == "17,636.684142857…"
        assert endless("-10/3") == "-3.333333333…"
        # at least six digits that say something
        assert endless("1/3000000000000") == "0.000000000000333333…"
        assert endless("1234.5") == "1,234.5"

    def test_adds_lines_up_without_rounding(self) -> None:
        assert lines_total([self.LINE, {**self.LINE, "amount": "1783/1800"}]) == "1"
        assert lines_total([self.LINE]) == "0.009444444…"
        assert lines_total([]) == "0"

    def test_shows_a_multiplier_apart_from_the_price(self) -> None:
        line = {**self.LINE, "unit": "byte", "quantity": "50", "unit_price": "1.2", "amount": "60", "multiplier": "2.4"}
        assert line_formula(line) == "50 byte x 1.2 (0.5 x 2.4) = 60"
        assert line_formula({**line, "multiplier": "1"}) == "50 byte x 1.2 = 60"
