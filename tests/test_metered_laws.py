"""Laws 2, 3 and 4 of traffic and storage: how facts are split, in which order they come and days are made, decides nothing."""

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest

from tests.chain import Facts, Installation, Site, assert_same
from tests.metered_chain import (
    JUNE_1,
    JUNE_2,
    JUNE_3,
    START,
    Delivery,
    MeteredChain,
    at,
    contradiction,
    documents,
    dropped,
    inventories,
    live_storage,
    live_traffic,
    object_records,
    repository_changes,
    said,
    trail_log,
    write_metered_catalog,
)

DAYS = (JUNE_1, JUNE_2, JUNE_3)
SEEDS = range(2)
NODES = ("jp", "us", "hk")
COLLECTED_AT, INGESTED_AT = at(54), at(80)
ROUNDS = 3
DERIVED = (
    "usage.traffic_minute",
    "usage.traffic",
    "usage.traffic_not_billable",
    "usage.traffic_suspect",
    "usage.traffic_day",
    "usage.storage_state",
    "usage.storage",
    "usage.storage_drift",
    "usage.storage_base",
    "usage.storage_tail",
)
Fact = TypeVar("Fact")


@pytest.fixture(scope="module")
def site(postgres_url: str, template_database: str, tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder: Path = tmp_path_factory.mktemp("metered-laws")
    write_metered_catalog(folder / "catalog")
    return Site(postgres_url, template_database, folder)


@pytest.fixture
def installation(site: Site) -> Iterator[Installation]:
    with site.installation() as installation:
        yield installation


def snapshots_of(node: str) -> list[dict[str, Any]]:
    """Return what a node has said in both days; hk contradicts itself once."""
    found = documents(node, START, at(48))
    return [*found, contradiction(found[-100])] if node == "hk" else found


def whole() -> list[Delivery]:
    """Return everything in as few files as can be."""
    return [
        *((dropped("all.jsonl", snapshots_of(node), node=node),) for node in NODES),
        (trail_log("AAAAAAAAAAAAAAAA", JUNE_1, *object_records()),),
        (said(JUNE_1, "all", *repository_changes()),),
        *inventories(),
    ]


def split(chance: random.Random) -> list[Delivery]:
    """Return the same in many files, some of it twice, in any order."""
    found: list[Delivery] = [*inventories()]
    for node in NODES:
        for number, part in enumerate(scattered(snapshots_of(node), chance)):
            found.append((dropped(f"{number}.jsonl", part, node=node),))
    for number, records in enumerate(scattered(object_records(), chance)):
        found.append((trail_log(f"{number:016d}", chance.choice(DAYS), *records),))
    for number, changes in enumerate(scattered(repository_changes(), chance)):
        found.append((said(chance.choice(DAYS), str(number), *changes),))
    chance.shuffle(found)
    return found


def scattered(facts: Sequence[Fact], chance: random.Random) -> list[list[Fact]]:
    """Return the facts in two to five parts, one in four of them in two parts."""
    parts: list[list[Fact]] = [[] for _ in range(chance.randint(2, 5))]
    for fact in facts:
        for part in chance.sample(parts, 2 if chance.random() < 0.25 else 1):
            part.append(fact)
    for part in parts:
        chance.shuffle(part)
    return [part for part in parts if part]


def take(chain: MeteredChain) -> None:
    """Collect and ingest what there is; nodes are asked for what no file has brought."""
    chain.collect(COLLECTED_AT)
    chain.ingest(INGESTED_AT)


def in_any_order(chain: MeteredChain, chance: random.Random) -> None:
    """Build and book each day by itself."""
    steps: list[Callable[[], object]] = []
    for day in DAYS:
        steps.append(lambda day=day: chain.build_traffic([day]))  # type: ignore[misc]
        steps.append(lambda day=day: chain.build_storage([day]))  # type: ignore[misc]
    chance.shuffle(steps)
    for step in steps:
        step()
    for day in chance.sample(DAYS, len(DAYS)):
        chain.book([day])


@pytest.fixture(scope="module")
def expected(site: Site) -> Facts:
    """Return what comes of everything at once, in order."""
    with site.installation() as installation:
        chain = MeteredChain.of(installation)
        for delivery in whole():
            chain.deliver(delivery)
        take(chain)
        chain.load_catalog()
        chain.build_traffic()
        chain.build_storage()
        chain.book()
        assert chain.is_up_to_date()
        assert chain.rows("select 1 from guards.verdict where status = 'held'") == []
        found = chain.usage_and_money()
        assert all(found[name] for name in ("traffic usage", "storage usage", "charges", "prepaid minutes"))
        return found


class TestTheSameFacts:
    @pytest.mark.parametrize("seed", SEEDS)
    def test_in_other_files_and_with_days_in_any_order_come_to_the_same(
        self, installation: Installation, expected: Facts, seed: int
    ) -> None:
        chance, chain = random.Random(seed), MeteredChain.of(installation)
        for delivery in split(chance):
            chain.deliver(delivery)
        take(chain)
        chain.load_catalog()
        in_any_order(chain, chance)
        assert_same(chain.usage_and_money(), expected, f"of days in any order, seed {seed}")
        assert chain.is_up_to_date()

    @pytest.mark.parametrize("seed", SEEDS[:1])
    def test_that_come_while_days_are_made_come_to_the_same(
        self, installation: Installation, expected: Facts, seed: int
    ) -> None:
        chance, chain = random.Random(100 + seed), MeteredChain.of(installation)
        chain.load_catalog()
        rest = split(chance)
        for _ in range(ROUNDS):
            for delivery in [rest.pop() for _ in range(len(rest) // 2)]:
                chain.deliver(delivery)
            if chance.random() < 0.5:
                nodes = frozenset(chance.sample(NODES, 2))
                chain.traffic_at(COLLECTED_AT).collect_days(
                    DAYS[:2], now=COLLECTED_AT, run_id="run", code_version="test", only_nodes=nodes
                )
            chain.ingest(INGESTED_AT)
            in_any_order(chain, chance)
        for delivery in rest:
            chain.deliver(delivery)
        take(chain)
        chain.build_storage()
        chain.build_traffic()
        chain.book()
        assert chain.is_up_to_date()
        assert_same(chain.usage_and_money(), expected, f"of facts that came one by one, seed {seed}")


class TestRebuiltFromRaw:
    @pytest.mark.parametrize("forgotten", [DERIVED, (*DERIVED, "usage.build", "usage.build_file")])
    def test_usage_has_the_same_rows_and_books_nothing(
        self, installation: Installation, forgotten: Sequence[str]
    ) -> None:
        live_traffic(installation)
        live_storage(installation)
        chain = MeteredChain.of(installation)
        before = chain.facts()
        revisions = chain.rows("select charge_id, revision from billing.charge_revision order by 1, 2")
        with psycopg.connect(chain.database.url, autocommit=True) as connection:
            connection.execute(f"truncate {', '.join(forgotten)}".encode())
        assert chain.rows("select 1 from usage.metered") == []
        chain.build_storage(DAYS)
        chain.build_traffic(DAYS[:2])
        assert_same(chain.facts(), before, "after usage was derived anew")
        assert chain.book(DAYS) == 0
        assert_same(chain.facts(), before, "after booking again")
        assert chain.rows("select charge_id, revision from billing.charge_revision order by 1, 2") == revisions
        assert chain.is_up_to_date()


class TestFilesThatComeBeforeAnExporterIsAsked:
    def test_open_no_gap_of_it(self, installation: Installation) -> None:
        chain = MeteredChain.of(installation)
        chain.deliver((dropped("first.jsonl", documents("hk", START, at(20))),))
        chain.collect(at(20))
        gaps = chain.rows("select distinct source, reason from core.traffic_gap where window_start < %s", at(16))
        assert gaps == [("us", "source_failed")]
