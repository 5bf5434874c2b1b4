"""The whole way of a byte: snapshots as files -> samples -> minutes -> prepaid entries, ledger and balance, in known figures.

Every delivery goes through all three stores, so what the first ones booked is put right by the later ones.
"""

import random
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from billing_pipeline.amounts import to_money
from billing_pipeline.prepaid import Bucket, spend
from billing_pipeline.sources.traffic_snapshots import TrafficSample, TrafficSnapshot, encode_body
from resources.database import Database
from resources.lake import Lake
from resources.landing import Landing
from resources.traffic_config import TrafficSource
from resources.traffic_store import TrafficStore
from resources.traffic_usage_store import TrafficUsageStore
from tests.prepaid_books import Books, account, price, subscription, version
from tests.traffic_chain import Reading, Reference, at

DAY = date(2026, 4, 8)
DAYS = tuple(DAY + timedelta(days=number) for number in range(3))
NOW = datetime(2026, 4, 12, tzinfo=UTC)
ALICE = "11111111-1111-1111-1111-111111111111"
HISTORIES = 25
SEED = 20260408


def node_source(node: str, **fields: object) -> TrafficSource:
    """Return a source of files, of which no window is expected on these days: gaps have tests of their own."""
    return TrafficSource(name=node, env="prod", node=node, on_first="full", active_from=NOW, **fields)  # type: ignore[arg-type]


def owned(account_id: str, account_uuid: str) -> str:
    return account(account_id) + f'clients = [{{ id = "{account_uuid}" }}]\n'


@dataclass(frozen=True, slots=True)
class Chain:
    """An installation: what is delivered goes into its books at once."""

    books: Books
    folder: Path
    sources: tuple[TrafficSource, ...]

    def deliver(self, *files: Sequence[Reading]) -> None:
        """Drop files of snapshots, take them in, build every stale day and book."""
        for readings in files:
            path = self.folder / "landing" / "traffic" / readings[0].node / f"{uuid.uuid4().hex}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_body(snapshots(readings)))
        scratch, database = self.folder / "scratch", self.books.database
        lake = Lake(str(self.folder / "lake"), scratch)
        landing = Landing(str(self.folder / "landing"), scratch)
        store = TrafficStore(
            database, lake, landing, self.sources, _no_client, scratch, b"key", memory_limit="256MB", threads=1
        )
        store.discover(seen_at=NOW)
        store.collect_days(DAYS, now=NOW, run_id="run", code_version="1")
        usage = TrafficUsageStore(
            database=database, lake=lake, scratch_dir=scratch, sources=self.sources, memory_limit="256MB", threads=1
        )
        # a day that was built may end in another last sample, which makes the next one stale
        for _ in DAYS:
            builds = usage.build_days(usage.stale_days(), run_id="run", code_version="1")
            assert {build.state for build in builds} <= {"built"}
        assert usage.stale_days() == ()
        self.books.book(DAYS)

    def minutes(self) -> dict[str, int]:
        """Return `hh:mm` -> bytes of the minutes with traffic."""
        rows = self.books.rows(
            "select to_char(bucket_start, 'HH24:MI'), sum(uplink_bytes + downlink_bytes) from usage.traffic_minute group by 1"
        )
        return {str(minute): int(str(total)) for minute, total in rows if total}

    def epochs(self) -> set[object]:
        return {row[0] for row in self.books.rows("select epoch from usage.traffic_minute")}


def _no_client(source: TrafficSource) -> object:
    raise AssertionError(f"{source.name} is not asked")


def snapshots(readings: Iterable[Reading]) -> list[TrafficSnapshot]:
    """Return the readings as snapshots of their nodes."""
    found: dict[tuple[str, datetime], list[Reading]] = defaultdict(list)
    for one in readings:
        found[one.node, one.collected_at].append(one)
    return [
        TrafficSnapshot(
            env="prod",
            node=node,
            collected_at=collected_at,
            uptime_seconds=own[0].uptime_seconds,
            samples=tuple(
                TrafficSample(
                    account_uuid=one.account_uuid,
                    inbound_tag=one.inbound_tag,
                    uplink_bytes=one.uplink_bytes,
                    downlink_bytes=one.downlink_bytes,
                )
                for one in own
            ),
        )
        for (node, collected_at), own in found.items()
    ]


def totals(text: str) -> list[Reading]:
    """Return uplink totals of one stream, written as `10:30 100, 10:31 150`."""
    pairs = (pair.split() for pair in text.split(","))
    return [Reading(collected_at=at(when, DAY), uplink_bytes=int(total)) for when, total in pairs]


CASES = {
    "A: a snapshot and five replays": (["10:30 100"] * 6, {"10:30": 100}, {}),
    "B: two samples in a minute": (["10:30:15 100, 10:30:45 120"], {"10:30": 120}, {}),
    "B: one after the other": (["10:30:15 100", "10:30:45 120"], {"10:30": 120}, {}),
    "C: busy overlap": (
        ["10:30 100, 10:31 150, 10:32 180", "10:31 150, 10:32 180, 10:33 200"],
        {"10:30": 100, "10:31": 50, "10:32": 30, "10:33": 20},
        {},
    ),
    "D: idle overlap": (["10:30 100, 10:31 150", "10:31 150, 10:32 150"], {"10:30": 100, "10:31": 50}, {}),
    "E: restart": (
        ["10:30 100, 10:31 150, 10:32 40, 10:33 90"],
        {"10:30": 100, "10:31": 50, "10:33": 50},
        {"10:32": 40},
    ),
    "F: restart read again": (
        ["10:30 100, 10:31 150, 10:32 40, 10:33 90", "10:31 150, 10:32 40, 10:33 90"],
        {"10:30": 100, "10:31": 50, "10:33": 50},
        {"10:32": 40},
    ),
    "G: late snapshot": (
        ["10:30 100, 10:32 180", "10:31 150", "10:33 200"],
        {"10:30": 100, "10:31": 50, "10:32": 30, "10:33": 20},
        {},
    ),
}


class TestCasesOfUpstream:
    @pytest.mark.parametrize("on_reset", ["baseline", "from_zero"])
    @pytest.mark.parametrize("case", CASES)
    def test_come_to_the_same_bytes_entries_ledger_and_balance(
        self, database: Database, tmp_path: Path, case: str, on_reset: str
    ) -> None:
        deliveries, minutes, from_zero = CASES[case]
        expected = minutes | (from_zero if on_reset == "from_zero" else {})
        books = Books.opened(database, tmp_path / "catalog", accounts=owned("acme", ALICE))
        chain = Chain(books, tmp_path, (node_source("jp", on_reset=on_reset),))
        for text in deliveries:
            chain.deliver(totals(text))
        assert chain.minutes() == expected
        assert chain.epochs() == ({0, 1} if from_zero else {0})
        total = sum(expected.values())
        assert {key[0]: values for key, values in books.buckets().items()} == {
            at(minute, DAY): (byte_count, 0, Decimal(-byte_count) / 2) for minute, byte_count in expected.items()
        }
        assert (books.balance(), books.ledger()) == (Decimal(-total) / 2, -50 * total)
        adjustments = [entry for entry in books.entries() if entry[2] == "adjustment"]
        # late 10:31 takes from 10:32 what was booked there for both
        late = {"G: late snapshot": [("10:32", 2, "adjustment", -50, 0, Decimal(25))]}
        again = {"B: one after the other": [("10:30", 2, "adjustment", 20, 0, Decimal(-10))]}
        assert adjustments == (late | again).get(case, [])


PRICES = {
    "per_byte": price(version(body='unit_price = "0.5"')),
    "quota": price(
        version(body='unit_price = "0.5"\nincluded_quota_bytes = 700\nline_multipliers = { premium = "2.4" }'),
        price_id="quota",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What the one node of one account said in three days, each reading once."""

    account_id: str
    account_uuid: str
    source: TrafficSource
    price_id: str
    readings: tuple[Reading, ...]


def random_history(chance: random.Random, number: int) -> History:
    """Return readings of some inbounds that grow, restart, begin late and stay silent, across two midnights."""
    account_uuid = str(uuid.UUID(int=chance.getrandbits(128)))
    inbounds = chance.sample(["xhttp", "tcp", "ws"], chance.choice([1, 1, 2, 3]))
    when = at("10:30", DAY) + timedelta(hours=chance.choice([0, 13]), seconds=chance.randrange(60))
    born, tells_uptime = when - timedelta(hours=1), chance.random() < 0.5
    counters = {inbound: [chance.randrange(300), chance.randrange(300)] for inbound in inbounds}
    found: list[Reading] = []
    for _ in range(chance.randrange(4, 22)):
        if chance.random() < 0.12:
            born, counters = when - timedelta(seconds=5), {inbound: [0, 0] for inbound in inbounds}
        for inbound, both in counters.items():
            both[:] = [total + chance.choice([0, 0, 1, 40, 300]) for total in both]
            if chance.random() < 0.8:
                reading = Reading(
                    collected_at=when,
                    uplink_bytes=both[0],
                    downlink_bytes=both[1],
                    uptime_seconds=(when - born) // timedelta(seconds=1) if tells_uptime else None,
                    account_uuid=account_uuid,
                    inbound_tag=inbound,
                    node=f"n{number}",
                )
                found.append(reading)
        when += timedelta(seconds=chance.choice([15, 30, 60, 60, 60, 3_600, 36_000]))
    found = [one for one in found if one.day <= DAYS[-1]] or [replace(found[0], collected_at=at("10:30", DAY))]
    policies = {"on_reset": chance.choice(["baseline", "from_zero"]), "line": chance.choice(["", "premium"])}
    return History(
        account_id=f"a{number}",
        account_uuid=account_uuid,
        source=node_source(f"n{number}", **policies),
        price_id=chance.choice(list(PRICES)),
        readings=tuple(found),
    )


def pieces(chance: random.Random, history: History, rounds: int) -> list[list[list[Reading]]]:
    """Return the files of each round: pages that overlap, in any order, some of them more than once."""
    instants = sorted({one.collected_at for one in history.readings})
    size = chance.randrange(1, 6)
    pages = [
        set(instants[max(start - chance.randrange(3), 0) : start + size]) for start in range(0, len(instants), size)
    ]
    pages += chance.sample(pages, chance.randrange(len(pages) + 1))
    chance.shuffle(pages)
    told: list[list[list[Reading]]] = [[] for _ in range(rounds)]
    for page in pages:
        readings = [one for one in history.readings if one.collected_at in page]
        chance.shuffle(readings)
        chance.choice(told).append(readings)
    return told


def reference(history: History, books: Books) -> tuple[Mapping[Bucket, tuple[int, int, Decimal]], Decimal]:
    """Return what the history takes, by the pure rules alone: buckets with (rated, included bytes, amount), and the balance."""
    first = min(one.collected_at for one in history.readings)
    by_day = Reference({("prod", history.source.node): first}, (history.source,)).days(history.readings)
    minutes: dict[Bucket, int] = defaultdict(int)
    for streams in by_day.values():
        for (env, node, account_uuid, _), day in streams.items():
            for minute in () if day.is_held else day.minutes:
                bucket = Bucket(
                    bucket_start=minute.bucket_start,
                    env=env,
                    node=node,
                    account_uuid=account_uuid,
                    region=history.source.region,
                    line=history.source.line,
                )
                minutes[bucket] += minute.uplink_bytes + minute.downlink_bytes
    paid = [(bucket, total) for bucket, total in minutes.items() if total]
    spent = list(spend(paid, books.catalog().prices[history.price_id]))
    amounts = {one.bucket: (one.rated_bytes, one.included_bytes, one.amount) for one in spent}
    return amounts, sum((one.amount for one in spent), Decimal(0))


class TestHistories:
    def test_in_any_order_pages_and_copies_come_to_what_the_reference_says(
        self, database: Database, tmp_path: Path
    ) -> None:
        chance = random.Random(SEED)
        histories = [random_history(chance, number) for number in range(HISTORIES)]
        books = Books.opened(
            database,
            tmp_path / "catalog",
            prices="".join(PRICES.values()),
            plans="".join(f'[[plan]]\nid = "{name}"\nprices = ["{name}"]\n' for name in PRICES),
            accounts="".join(owned(one.account_id, one.account_uuid) for one in histories),
            subscriptions="".join(subscription(one.account_id, plan=one.price_id) for one in histories),
        )
        chain = Chain(books, tmp_path, tuple(one.source for one in histories))
        by_history = [pieces(chance, one, rounds=3) for one in histories]
        for told in zip(*by_history, strict=True):
            files = [file for of_history in told for file in of_history]
            chance.shuffle(files)
            chain.deliver(*files)
        assert books.number("select count(*) from billing.prepaid_entry where entry_type = 'adjustment'") > 0
        for history in histories:
            expected, balance = reference(history, books)
            found = {
                Bucket(**dict(zip(_BUCKET, key, strict=True))): values  # type: ignore[arg-type]
                for key, values in books.buckets(history.account_id).items()
            }
            assert found == expected, history
            assert books.balance(history.account_id) == balance, history
            assert books.ledger(history.account_id) == to_money(balance, "USD").minor_units, history


_BUCKET = ("bucket_start", "env", "node", "account_uuid", "region", "line")
