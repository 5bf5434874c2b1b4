"""Law 2 for traffic and storage, crashed anywhere or run twice at once: the rows and the money of one undisturbed run.

`BILLING_CRASH_SEED` and `BILLING_CRASH_KILLS` make it another or a longer trial.
"""

import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.chain import Facts, Installation, assert_same
from tests.chain_process import SIGKILLED, Trials
from tests.metered_chain import (
    JUNE_1,
    JUNE_2,
    JUNE_3,
    MeteredChain,
    at,
    storage_mornings,
    traffic_mornings,
    write_metered_catalog,
)
from tests.metered_process import MODULE

SEED = int(os.environ.get("BILLING_CRASH_SEED") or 20260601)
KILLS = int(os.environ.get("BILLING_CRASH_KILLS") or 24) // 4
SIDE_BY_SIDE = 2


@pytest.fixture(scope="module")
def trials(postgres_url: str, template_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    folder: Path = tmp_path_factory.mktemp("metered-crash")
    write_metered_catalog(folder / "catalog")
    with Trials.opened(postgres_url, template_database, folder, module=MODULE) as trials:
        yield trials


def undisturbed(trials: Trials, work: str) -> tuple[float, Facts]:
    """Return how many seconds `work` takes, and what it leaves."""
    with trials.installation() as installation:
        started = time.monotonic()
        assert trials.run(installation, work) == 0
        return time.monotonic() - started, MeteredChain.of(installation).facts()


def killed_and_run_again(trials: Trials, work: str, moments: tuple[float, float]) -> tuple[int, Facts]:
    """Kill a run, kill the run after it, and return how many of both were alive then, and what a third run leaves."""
    with trials.installation() as installation:
        met = 0
        for moment in moments:
            process = trials.start(installation, work)
            time.sleep(moment)
            process.kill()
            met += trials.ended(process, installation) == SIGKILLED
        assert trials.run(installation, work) == 0
        chain = MeteredChain.of(installation)
        assert chain.is_up_to_date()
        return met, chain.facts()


class TestKilledAtRandomMoments:
    @pytest.mark.parametrize("work", ["live traffic", "live storage"])
    def test_and_run_again_leaves_the_same_money_rows_and_counts(self, trials: Trials, work: str) -> None:
        chance = random.Random(f"{SEED} {work}")
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            # As many side by side as in the trials, so that they take as long.
            alone = list(pool.map(undisturbed, [trials] * SIDE_BY_SIDE, [work] * SIDE_BY_SIDE))
            seconds, expected = alone[0]
            print(f"seed {SEED}, {KILLS} kills of {work} within {seconds:.2f} s")  # noqa: T201 - shown by a failure
            assert [facts for _, facts in alone] == [expected] * SIDE_BY_SIDE
            pairs = [two_moments(seconds, chance) for _ in range(-(-KILLS // 2))]
            outcomes = list(pool.map(killed_and_run_again, [trials] * len(pairs), [work] * len(pairs), pairs))
        for pair, (_, facts) in zip(pairs, outcomes, strict=True):
            assert_same(facts, expected, f"after kills at {pair} of {seconds:.3f} s, seed {SEED}")
        assert expected["balances that are not their entries"] == expected["unbalanced"] == []
        met = sum(alive for alive, _ in outcomes)
        # A busy machine ends some runs before their kill; too few real kills would prove nothing.
        assert met >= KILLS // 3, f"only {met} of {KILLS} kills met a living process"


def two_moments(seconds: float, chance: random.Random) -> tuple[float, float]:
    """Return when to kill a run of so many seconds, and when to kill the next, which does what is left."""
    first = chance.uniform(0, seconds)
    return first, chance.uniform(0, max(seconds - first, seconds / 2))


def deliver_all(installation: Installation) -> MeteredChain:
    """Let everything of both stories come at once, and load the catalog."""
    chain = MeteredChain.of(installation)
    for files in (*(files for _, files in traffic_mornings()), *storage_mornings()):
        chain.deliver(files)
    chain.load_catalog()
    return chain


@pytest.fixture(scope="module")
def expected(trials: Trials) -> Facts:
    """Return what one process makes of everything."""
    with trials.installation() as installation:
        chain = deliver_all(installation)
        for work in ("collect", "ingest", "build traffic", "build storage", "book"):
            assert trials.run(installation, work) == 0
        return chain.facts()


class TestTwoProcessesAtOnce:
    def at_once(self, trials: Trials, installation: Installation, *works: str) -> None:
        processes = [trials.start(installation, work) for work in works]
        assert [trials.ended(process, installation) for process in processes] == [0] * len(works)

    def test_do_the_same_step_of_the_same_days_into_one_result(self, trials: Trials, expected: Facts) -> None:
        with trials.installation() as installation:
            chain = deliver_all(installation)
            for work in ("collect", "ingest", "build traffic", "build storage", "book"):
                self.at_once(trials, installation, work, work)
            assert_same(chain.facts(), expected, "after each step twice at once")
            assert chain.rows("select max(revision) from billing.charge_revision") == [(1,)]
            assert chain.rows("select max(revision) from billing.prepaid_entry") == [(1,)]
            assert chain.book([JUNE_1, JUNE_2, JUNE_3]) == 0

    def test_build_and_book_while_others_read_deliveries(self, trials: Trials, expected: Facts) -> None:
        with trials.installation() as installation:
            chain = deliver_all(installation)
            self.at_once(trials, installation, "collect", "ingest", "build traffic", "build storage", "book")
            chain.collect(at(54))
            chain.ingest(at(80))
            chain.build_traffic()
            chain.build_storage()
            chain.book()
            assert chain.is_up_to_date()
            assert_same(chain.facts(), expected, "after everything at once")
