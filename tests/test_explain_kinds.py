"""Every charge of traffic and storage leads down to raw rows, and these, rated again, come to its amount; printed for people."""

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from billing_pipeline.amounts import Money, exact_product, to_money
from billing_pipeline.periods import Window
from billing_pipeline.prepaid import Bucket, spend
from billing_pipeline.rating import VersionUsage, rate
from billing_pipeline.storage_policy import StoragePolicy
from billing_pipeline.timelines import ObjectEvent, RepositoryEvent, Snapshot, timeline
from console import explain_page
from console.arithmetic import endless, grouped, line_formula, lines_total
from resources.catalog_store import CatalogStore
from resources.charge_reader import BookedCharge, ChargeReader
from resources.charge_store import ChargeStore
from resources.database import Database
from resources.lake import Lake
from resources.lineage_files import Origin, UsageNotBuiltError, build_uris
from resources.prepaid_lineage import read_bucket_minutes, read_prepaid_entries
from resources.runtime import Runtime
from resources.settings import Settings
from resources.storage_evidence import StorageEvidence, read_evidence
from resources.storage_lineage import read_segments, read_storage_rows
from resources.storage_usage_store import StorageUsageStore
from resources.traffic_config import TrafficSource
from resources.traffic_lineage import TrafficMinute, read_minutes, read_traffic_rows
from resources.traffic_sample_lineage import TrafficStep, read_samples
from resources.traffic_usage_store import TrafficUsageStore
from tests import traffic_chain
from tests.storage_chain import SOURCES, Facts, StorageDeliveries
from tests.traffic_chain import ACME, OTHER, Reading, Reference, TrafficDeliveries, readings, source

GB = 10**9
ALL = 10_000
STANDARD = 'version = 1\neffective_from = 2025-01-01T00:00:00Z\nmodel = "standard"\nunit_price = "10"'
CATALOG = {
    "billable": "version = 1\nsuccess_statuses = [[200, 299]]\nendpoints = []\n",
    "meters": """
        [[meter]]
        id = "traffic"
        source = "traffic"
        aggregation = "sum"
        field = "total_bytes"
        unit = "byte"
        [[meter]]
        id = "private_storage"
        source = "storage"
        aggregation = "time_weighted"
        field = "private_bytes"
        unit = "byte"
        [[meter]]
        id = "all_storage"
        source = "storage"
        aggregation = "time_weighted"
        field = "bytes"
        unit = "byte"
    """,
    "prices": f"""
        [[price]]
        id = "by_node"
        meter = "traffic"
        currency = "USD"
        group_by = ["node"]
        [[price.versions]]
        version = 1
        effective_from = 2025-01-01T00:00:00Z
        model = "graduated"
        tiers = [{{ up_to = "100", unit_price = "0.5" }}, {{ unit_price = "0.125" }}]
        [[price]]
        id = "per_byte"
        meter = "traffic"
        currency = "USD"
        billing_mode = "prepaid_balance"
        [[price.versions]]
        version = 1
        effective_from = 2025-01-01T00:00:00Z
        model = "metered_balance"
        unit_price = "0.5"
        included_quota_bytes = 100
        region_multipliers = {{ asia = "1.2" }}
        line_multipliers = {{ premium = "2.0" }}
        [[price]]
        id = "kept"
        meter = "private_storage"
        currency = "USD"
        [[price.versions]]
        {STANDARD}
        conversion = {{ unit = "GB-month", divide = "1000000000" }}
        [[price]]
        id = "kept_in_all"
        meter = "all_storage"
        currency = "USD"
        [[price.versions]]
        {STANDARD}
        conversion = {{ unit = "GB-month", divide = "1000000000" }}
    """,
    "plans": """
        [[plan]]
        id = "later"
        prices = ["by_node", "kept", "kept_in_all"]
        [[plan]]
        id = "before"
        prices = ["per_byte"]
    """,
    "accounts": f"""
        [[account]]
        id = "acme"
        name = "Acme"
        currency = "USD"
        clients = [{{ id = "{ACME}" }}, {{ id = "ann" }}]
        [[account]]
        id = "bolt"
        name = "Bolt"
        currency = "USD"
        clients = [{{ id = "{OTHER}" }}, {{ id = "bob" }}]
    """,
    "subscriptions": """
        [[subscription]]
        id = "s_acme"
        account = "acme"
        plan = "later"
        starts_at = 2026-06-01T03:37:12Z
        anchor_day = 1
        anchor_time = 14:37:12
        [[subscription]]
        id = "s_bolt"
        account = "bolt"
        plan = "before"
        starts_at = 2026-06-01T00:00:00Z
    """,
}
JUNE_1, JUNE_2, JUNE_3 = (date(2026, 6, day) for day in (1, 2, 3))


def at(day: int, hour: int = 0, minute: int = 0, second: int = 0) -> datetime:
    return datetime(2026, 6, day, hour, minute, second, tzinfo=UTC)


@dataclass
class World:
    """An installation, and what was delivered to it by file key and line, or without a file by source and instant."""

    database: Database
    folder: Path
    lake: Lake
    storage_deliveries: StorageDeliveries
    samples: dict[tuple[object, ...], Reading] = field(default_factory=dict)

    @classmethod
    def opened(cls, database: Database, folder: Path) -> "World":
        catalog = folder / "catalog"
        catalog.mkdir()
        for name, text in CATALOG.items():
            (catalog / f"{name}.toml").write_text(text)
        CatalogStore(database).load(catalog)
        lake = Lake(str(folder / "lake"), folder / "scratch")
        return cls(database, folder, lake, StorageDeliveries(database, lake, folder))

    @property
    def scratch(self) -> Path:
        return self.folder / "scratch"

    def use_traffic(self, samples: Sequence[Reading], *sources: TrafficSource) -> None:
        """Deliver samples, build and book."""
        TrafficDeliveries(self.database, self.lake, self.folder).deliver(samples)
        store = TrafficUsageStore(
            database=self.database, lake=self.lake, scratch_dir=self.scratch, sources=sources, threads=1
        )
        store.build_days(store.stale_days(), run_id="run", code_version="1")
        self.book(JUNE_1, JUNE_2)

    def keep(self, facts: Facts) -> None:
        """Deliver facts on June 2nd, build and book."""
        self.storage_deliveries.deliver(JUNE_2, facts)
        store = StorageUsageStore(
            database=self.database,
            lake=self.lake,
            scratch_dir=self.scratch,
            sources=frozenset(SOURCES.values()),
            policy=StoragePolicy(max_snapshot_age=timedelta(days=30)),
            threads=1,
        )
        for _ in range(3):
            store.build_days(store.stale_days() or [JUNE_3], run_id="run", code_version="1")
        self.book(JUNE_1, JUNE_2, JUNE_3)

    def book(self, *days: date) -> None:
        ChargeStore(self.database).book_days(days, run_id="run", code_version="1")

    def charges(self, price_id: str, account: str = "acme") -> list[BookedCharge]:
        """Return the charges of a price in any period."""
        reader = ChargeReader(self.database)
        found = {
            charge.charge_id: charge
            for instant in (at(1, 4), at(1, 20))
            for charge in reader.bill(account, instant).charges
            if charge.price_id == price_id
        }
        assert found
        return list(found.values())

    def rated(self, charge: BookedCharge, quantity: Any) -> Money:
        """Return what a quantity of raw rows costs at the charge's price."""
        price = CatalogStore(self.database).current().price(charge.price_id)
        usage = [VersionUsage(version=price.versions[0], quantity=quantity)]
        return to_money(rate(price=price, unit="byte", usage=usage).exact, price.currency)

    def raw(self, steps: Sequence[TrafficStep]) -> set[Reading]:
        """Return what was delivered where the steps say that they come from."""
        both = [one for step in steps for one in (step.sample, step.earlier) if one is not None]
        return {self.samples[self.place(one.origin, one.collected_at)] for one in both}

    @staticmethod
    def place(origin: Origin, collected_at: datetime) -> tuple[object, ...]:
        if origin.key is None:
            return origin.source, collected_at
        return origin.key, origin.line_number

    def explain(self, charge: BookedCharge, monkeypatch: pytest.MonkeyPatch, *, rows: int = 5, lines: int = 3) -> None:
        """Print the charge as the command does."""
        settings = Settings(
            home=self.folder, landing_url="", lake_url=str(self.folder / "lake"), catalog_dir=self.folder / "catalog"
        )

        @contextmanager
        def already_running(_: Settings) -> Iterator[Runtime]:
            yield Runtime(settings=settings, database=self.database, dagster_database_url="", child_environment={})

        monkeypatch.setattr(explain_page, "running", already_running)
        explain_page.show_charge(settings, str(charge.charge_id), usage_rows=rows, lines=lines)


@pytest.fixture
def world(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Return a world in which samples of the node jp come in files and those of others are pulled."""
    world = World.opened(database, tmp_path)
    write = traffic_chain.write_samples

    def with_files(path: Path, samples: Sequence[Reading]) -> Path:
        write(path, samples)
        key = f"traffic/{samples[0].day}.jsonl"
        file_id = register(database, key)
        lines = [number if one.node == "jp" else None for number, one in enumerate(samples, 1)]
        table = pyarrow.parquet.read_table(path)
        for name, values in (
            ("file_id", [None if line is None else file_id for line in lines]),
            ("line_number", lines),
        ):
            table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, pa.int64()))
        pyarrow.parquet.write_table(table, path)
        for line, one in zip(lines, samples, strict=True):
            place = (f"{one.env}-{one.node}", one.collected_at) if line is None else (key, line)
            world.samples[place] = one
        return path

    monkeypatch.setattr(traffic_chain, "write_samples", with_files)
    return world


def register(database: Database, key: str) -> int:
    """Return the id of a delivered file."""
    with database.transaction() as connection:
        ((file_id,),) = connection.execute(
            """
            insert into core.source_file (source, key, content_sha256, size_bytes, delivery_day, first_seen_at, modified_at,
                status, dataset, profile_version, lines_read, accepted_rows)
            values ('push', %s, %s, 1, %s, now(), now(), 'accepted', 'core/traffic_samples', 1, 1, 1)
            returning file_id
            """,
            [key, uuid.uuid4().hex * 2, JUNE_1],
        ).fetchall()
    return int(file_id)


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


def event(name: str, when: datetime, size: int | None, event_id: str, **fields: Any) -> tuple[str, ObjectEvent]:
    fields = {"object_id": event_id, "action": "put", "event_name": "PutObject"} | fields
    return name, ObjectEvent(event_id=event_id, at=when, size_bytes=size, **fields)


def listed(name: str, when: datetime, sizes: Mapping[str, int], **fields: Any) -> tuple[str, Snapshot]:
    objects = {key: (size, None) for key, size in sizes.items()}
    return name, Snapshot(at=when, size_bytes=sum(sizes.values()), objects=objects, **fields)


PRIVATE = {"visibility": "private", "owner": "ann"}
# cats: turns private, its first day is carried back from a snapshot. dogs: an object of the snapshot is overwritten and one
# deleted, an upload comes in parts, an action twice. mice: events alone, its owner comes late. birds: of somebody else.
FACTS = Facts(
    snapshots=[
        listed("ann/cats", at(1, 7), {"c": 2 * GB}, visibility="public", owner="ann"),
        listed("ann/cats", at(2, 7), {"c": 4 * GB}, **PRIVATE),
        listed("ann/dogs", at(1, 7), {"a": GB, "b": 2 * GB, "untouched": GB}, **PRIVATE),
        listed("bob/birds", at(1, 7), {"z": 9 * GB}, visibility="private", owner="bob"),
        # nothing says an owner but the first of them
        listed("ann/fish", at(1, 6), {"f": GB}, **PRIVATE),
        listed("ann/fish", at(1, 22), {"f": 3 * GB}),
    ],
    object_events=[
        event("ann/cats", at(1, 5), GB, "c"),
        event("ann/cats", at(1, 12), 2 * GB, "d"),
        event("ann/dogs", at(1, 20), 3 * GB, "put-a", object_id="a", shared_event_id="s"),
        event("ann/dogs", at(1, 20), 3 * GB, "put-a-again", object_id="a", shared_event_id="s"),
        event("ann/dogs", at(1) - timedelta(hours=1), GB, "part-1", object_id="u", action="part",
              event_name="UploadPart", upload_id="u", part_number=1),
        event("ann/dogs", at(2, 1), GB, "part-2", object_id="u", action="part", event_name="UploadPart", upload_id="u",
              part_number=2),
        event("ann/dogs", at(2, 3), None, "delete-b", object_id="b", action="delete", event_name="DeleteObject"),
        event("ann/dogs", at(2, 4), None, "done", object_id="u", event_name="CompleteMultipartUpload", upload_id="u"),
        event("ann/mice", at(1, 9), GB, "m"),
    ],
    repository_events=[
        ("ann/cats", RepositoryEvent(event_id="v", at=at(1, 14), kind="visibility", value="private")),
        ("ann/mice", RepositoryEvent(event_id="w", at=at(1, 8), kind="visibility", value="private")),
        ("ann/mice", RepositoryEvent(event_id="o", at=at(1, 10, 30), kind="owner", value="ann")),
    ],
)  # fmt: skip


def all_evidence(world: World, charge: BookedCharge) -> dict[str, list[StorageEvidence]]:
    """Return the facts of every state behind a charge of storage, by repository."""
    found: dict[str, list[StorageEvidence]] = {}
    seen = set()
    rows = read_storage_rows(world.database, charge, limit=ALL)
    for row in rows.first:
        segments = read_segments(world.database, row, visibility=rows.visibility, limit=ALL)
        assert segments.byte_seconds == row.quantity == sum(one.byte_seconds for one in segments.first)
        for segment in segments.first:
            state = (segment.repository, segment.state_start)
            if state not in seen:
                seen.add(state)
                evidence = read_evidence(world.database, world.lake, world.scratch, segment, limit=ALL)
                assert evidence.facts == len(evidence.first)
                found.setdefault(segment.repository, []).append(evidence)
    return found


def delivered_rows(
    world: World, repository: str, evidence: Sequence[StorageEvidence]
) -> dict[str, list[dict[str, Any]]]:
    """Return what was delivered where the facts say that they come from, by dataset, each row once."""
    with world.database.reading() as connection:
        keys = dict(connection.execute("select file_id, key from core.source_file").fetchall())
    places = {
        (fact.origin.key, fact.origin.line_number or fact.object_id or fact.at)
        for one in evidence
        for fact in one.first
        if fact.origin is not None
    }
    found: dict[str, list[dict[str, Any]]] = {}
    for (dataset, _), rows in world.storage_deliveries.delivered.items():
        for row in rows:
            place: Callable[[], object] = {
                "core/storage_snapshots": lambda row=row: row["snapshot_at"].replace(tzinfo=UTC),
                "core/storage_objects": lambda row=row: row["object_id"],
            }.get(dataset, lambda row=row: row["line_number"])
            if row["repository"] == repository and (keys[row["file_id"]], place()) in places:
                found.setdefault(dataset, []).append(row)
    return found


def byte_seconds_of(rows: Mapping[str, list[dict[str, Any]]], period: Window, visibility: str | None) -> Decimal:
    """Return what delivered rows of one repository come to in a period, by the reference of timelines."""
    snapshots = [
        Snapshot(
            at=row["snapshot_at"].replace(tzinfo=UTC),
            size_bytes=row["bytes"],
            visibility=row["visibility"],
            owner=row["owner"],
            objects={
                one["object_id"]: (one["bytes"], one["version_id"])
                for one in rows.get("core/storage_objects", [])
                if one["snapshot_id"] == row["snapshot_id"]
            },
        )
        for row in rows.get("core/storage_snapshots", [])
    ]
    left_out = {"source", "repository", "event_at", "file_id", "line_number", "bytes"}
    events = [
        ObjectEvent(
            at=row["event_at"].replace(tzinfo=UTC),
            size_bytes=row["bytes"],
            **{name: value for name, value in row.items() if name not in left_out},
        )
        for row in rows.get("core/object_events", [])
    ]
    changes = [
        RepositoryEvent(
            at=row["event_at"].replace(tzinfo=UTC), event_id=row["event_id"], kind=row["kind"], value=row["value"]
        )
        for row in rows.get("core/visibility_events", [])
    ]
    total = Decimal(0)
    for one in timeline(snapshots, events, changes, end=at(4)).segments:
        held = period.overlap(one.start, one.end)
        if held is not None and one.owner == "ann" and visibility in (None, one.visibility):
            total += one.size_bytes * held.seconds
    return total


class TestStorageCharge:
    def test_leads_to_delivered_rows_that_rated_again_come_to_its_amount(self, world: World) -> None:
        world.keep(FACTS)
        visibilities = {"kept": "private", "kept_in_all": None}
        charges = [charge for price_id in visibilities for charge in world.charges(price_id)]
        assert [one.period.start for one in charges] == [at(1, 3, 37, 12), at(1, 14, 37, 12)] * 2
        for charge in charges:
            visibility = visibilities[charge.price_id]
            evidence = all_evidence(world, charge)
            assert "bob/birds" not in evidence
            total = sum(
                (
                    byte_seconds_of(delivered_rows(world, name, found), charge.period, visibility)
                    for name, found in evidence.items()
                ),
                Decimal(0),
            )
            rows = read_storage_rows(world.database, charge, limit=1)
            assert rows.byte_seconds == total > 0
            level = exact_product(total, times=Decimal(1), over=Decimal(rows.whole.seconds))
            assert rows.mean_bytes == level
            assert world.rated(charge, level) == charge.amount
            assert charge.amount.minor_units > 0

    def test_names_no_more_than_a_state_rests_on(self, world: World) -> None:
        world.keep(FACTS)
        (_, charge) = world.charges("kept")
        kinds = {
            name: [[(fact.kind, fact.at) for fact in one.first] for one in found]
            for name, found in all_evidence(world, charge).items()
        }
        # the day after a snapshot rests on it and on nothing before
        assert kinds["ann/cats"][-1] == [("snapshot", at(2, 7))]
        assert kinds["ann/dogs"][0] == [("snapshot", at(1, 7))]
        assert [kind for kind, _ in kinds["ann/dogs"][-1]] == [
            "object", "snapshot", "listed", "listed", "object", "object", "object", "object", "object",
        ]  # fmt: skip
        assert kinds["ann/fish"][-1] == [("snapshot", at(1, 6)), ("snapshot", at(1, 22))]
        assert kinds["ann/mice"][0] == [("visibility", at(1, 8)), ("object", at(1, 9)), ("owner", at(1, 10, 30))]

    def test_is_printed_with_its_level_and_the_facts_behind_each_state(
        self, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        world.keep(FACTS)
        first, second = world.charges("kept_in_all")
        world.explain(first, monkeypatch, rows=24, lines=20)
        shown = capsys.readouterr().out
        seconds = f"{31 * 86400:,}"
        for part in (
            f"byte-seconds / {seconds} seconds of the whole period 2026-05-01 14:37:12 to 2026-06-01 14:37:12 = ",
            " byte on average, priced as GB-month",
            "2026-06-01 03:37:12 to 04:00:00 UTC: ",
            "ann/cats from 03:37:12: 1,000,000,000 byte x 1,368 s = 1,368,000,000,000",
            "by a later snapshot, events undone",
            "2026-06-01 05:00:00  PutObject of object c, 1,000,000,000 byte, undone  trail: 2026-06-02/",
            "2026-06-01 07:00:00  snapshot, 2,000,000,000 byte, public, ann  inventory: 2026-06-02/",
            "by events alone",
            "owner ann  application: 2026-06-02/",
            "(as above)",
        ):
            assert part in shown
        world.explain(second, monkeypatch, rows=48, lines=20)
        shown = capsys.readouterr().out
        for part in (
            "listed there, object a, 1,000,000,000 byte",
            "PutObject of object a, 3,000,000,000 byte, the same action",
            "DeleteObject of object b, no size",
            "visibility private  application: 2026-06-02/",
            "GB-month x 10 = ",
        ):
            assert part in shown
        world.explain(second, monkeypatch, rows=1, lines=1)
        shown = capsys.readouterr().out
        assert "states in all, " in shown
        assert "more rows: --rows" in shown

    def test_says_of_a_repository_that_a_complete_snapshot_leaves_out_that_nothing_names_it(self, world: World) -> None:
        world.keep(FACTS)
        with world.database.transaction() as connection:
            connection.execute(
                """
                insert into usage.storage_drift (event_day, repository, snapshot_at, derived_bytes, snapshot_bytes, drift_bytes,
                    visibility_mismatch, unsized_events, is_missing)
                values ('2026-06-02', 'ann/dogs', '2026-06-02T02:00Z', 6, 0, -6, false, 0, true)
                """
            )
        (_, charge) = world.charges("kept")
        last = all_evidence(world, charge)["ann/dogs"][-1]
        missing = next(fact for fact in last.first if fact.kind == "missing")
        assert (missing.at, missing.bytes, missing.origin) == (at(2, 2), 0, None)
        # who may see it was said before
        assert [fact.at for fact in last.first if fact.kind == "snapshot"] == [at(1, 7)]


class TestSearchFarBack:
    def test_goes_back_over_days_on_which_nothing_was_said(self, world: World) -> None:
        old = datetime(2026, 5, 20, 7, tzinfo=UTC)
        world.keep(Facts(snapshots=[listed("ann/old", old, {"x": GB}, **PRIVATE)], object_events=[
            event("ann/old", old + timedelta(days=10), GB, "y")]))  # fmt: skip
        (_, charge) = world.charges("kept")
        (*_, last) = all_evidence(world, charge)["ann/old"]
        assert [(fact.kind, fact.at) for fact in last.first] == [
            ("snapshot", old),
            ("object", old + timedelta(days=10)),
        ]


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
