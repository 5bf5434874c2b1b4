"""Law 2, crashed anywhere: a process that is killed in the middle and run again ends where an undisturbed one ends.

`BILLING_CRASH_SEED` and `BILLING_CRASH_KILLS` make it another or a longer trial.
"""

import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.chain import Facts, assert_same
from tests.chain_process import DEATHS, SIGKILLED, Trials

SEED = int(os.environ.get("BILLING_CRASH_SEED") or 20260301)
KILLS = int(os.environ.get("BILLING_CRASH_KILLS") or 50)
# Over the assets a trial takes longer, and what can break lies in the stores.
KILLS_OVER_DAGSTER = KILLS // 6
SIDE_BY_SIDE = 2


@pytest.fixture(scope="module")
def trials(postgres_url: str, template_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    with Trials.opened(postgres_url, template_database, tmp_path_factory.mktemp("crash")) as trials:
        yield trials


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
        return met, installation.facts()


def undisturbed(trials: Trials, work: str) -> tuple[float, Facts]:
    """Return how many seconds `work` takes, and what it leaves."""
    with trials.installation() as installation:
        started = time.monotonic()
        assert trials.run(installation, work) == 0
        return time.monotonic() - started, installation.facts()


class TestKilledAtRandomMoments:
    @pytest.mark.parametrize(
        ("work", "kills"),
        [("live three days", KILLS - KILLS_OVER_DAGSTER), ("live three days by dagster", KILLS_OVER_DAGSTER)],
    )
    def test_and_run_again_leaves_the_same_money_rows_and_counts(self, trials: Trials, work: str, kills: int) -> None:
        chance = random.Random(f"{SEED} {work}")
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            # As many side by side as in the trials, so that they take as long.
            alone = list(pool.map(undisturbed, [trials] * SIDE_BY_SIDE, [work] * SIDE_BY_SIDE))
            seconds, expected = alone[0]
            print(f"seed {SEED}, {kills} kills of {work} within {seconds:.2f} s")  # noqa: T201 - shown by a failure
            assert [facts for _, facts in alone] == [expected] * SIDE_BY_SIDE
            pairs = [two_moments(seconds, chance) for _ in range(kills // 2)]
            outcomes = list(pool.map(killed_and_run_again, [trials] * len(pairs), [work] * len(pairs), pairs))
        for pair, (_, facts) in zip(pairs, outcomes, strict=True):
            assert_same(facts, expected, f"after kills at {pair} of {seconds:.3f} s, seed {SEED}")
        met = sum(alive for alive, _ in outcomes)
        # A busy machine ends some runs before their kill; too few real kills would prove nothing.
        assert met >= kills // 3, f"only {met} of {kills} kills met a living process"


def two_moments(seconds: float, chance: random.Random) -> tuple[float, float]:
    """Return when to kill a run of so many seconds, and when to kill the next, which does what is left."""
    first = chance.uniform(0, seconds)
    return first, chance.uniform(0, max(seconds - first, seconds / 5))


class TestKilledAtEveryStep:
    def test_in_turn_and_run_again_leaves_the_same_money_rows_and_counts(self, trials: Trials) -> None:
        _, expected = undisturbed(trials, "live three days")
        with trials.installation() as installation:
            deaths = 0
            while trials.run(installation, "live three days", dies_at_steps=True) == SIGKILLED:
                deaths += 1
            steps = (installation.home / DEATHS).read_text().splitlines()
            assert len(steps) == len(set(steps)) == deaths
            assert deaths >= 60
            assert_same(installation.facts(), expected, f"after deaths at {steps}")
