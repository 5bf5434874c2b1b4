"""Two processes that do the same work, or overlapping work, at once end in the result of one."""

from collections.abc import Iterator

import pytest

from tests.chain import Facts, Installation, assert_same, three_days
from tests.chain_process import Trials


@pytest.fixture(scope="module")
def trials(postgres_url: str, template_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    with Trials.opened(postgres_url, template_database, tmp_path_factory.mktemp("concurrent")) as trials:
        yield trials


@pytest.fixture
def delivered(trials: Trials) -> Iterator[Installation]:
    """Return an installation with everything of three days in its landing folder."""
    with trials.installation() as installation:
        deliver_all(installation)
        yield installation


@pytest.fixture(scope="module")
def expected(trials: Trials) -> Facts:
    """Return what one process makes of the three days."""
    with trials.installation() as installation:
        deliver_all(installation)
        assert trials.run(installation, "bring up to date") == 0
        return installation.facts()


def deliver_all(installation: Installation) -> None:
    """Deliver everything but what depends on when it comes: the overwritten file, and the line that contradicts a billed one."""
    files = {key: content for morning in reversed(three_days()) for key, content in morning}
    (late,) = (key for key in files if key.endswith("late.jsonl"))
    files[late] = b"".join(files[late].splitlines(keepends=True)[:-1])
    installation.deliver(files.items())


def at_once(trials: Trials, installation: Installation, *works: str) -> None:
    processes = [trials.start(installation, work) for work in works]
    assert [trials.ended(process, installation) for process in processes] == [0] * len(works)


def is_whole(installation: Installation) -> bool:
    """Return whether every charge's revisions follow each other, and every lake file is of a generation that is known."""
    (broken,) = installation.rows(
        "select count(*) from (select charge_id from billing.charge_revision group by charge_id"
        " having count(*) <> max(revision)) as broken"
    )
    known = {uri for (uri,) in installation.rows("select uri from core.lake_generation")}
    lake = installation.home / "lake"
    return broken == (0,) and {path.relative_to(lake).as_posix() for path in lake.rglob("*.*")} == known


class TestTwoProcessesAtOnce:
    def test_read_the_same_deliveries_into_one_generation_a_day(
        self, trials: Trials, delivered: Installation, expected: Facts
    ) -> None:
        at_once(trials, delivered, "ingest", "ingest")
        for name in ("manifest", "file days", "quarantine", "generations", "lake"):
            assert delivered.facts()[name] == expected[name], name
        assert delivered.rows("select count(*) from core.lake_generation") == [(4,)]
        assert is_whole(delivered)

    @pytest.mark.parametrize("works", [("all", "all"), ("the first two", "the last two"), ("all", "the last two")])
    def test_build_and_book_the_same_days_or_overlapping_ones(
        self, trials: Trials, delivered: Installation, expected: Facts, works: tuple[str, str]
    ) -> None:
        delivered.ingest()
        delivered.catalog.load(delivered.catalog_dir)
        at_once(trials, delivered, *(f"build {days}" for days in works))
        assert delivered.facts()["usage"] == expected["usage"]
        at_once(trials, delivered, *(f"book {days}" for days in works))
        assert_same(delivered.facts(), expected, f"after building and booking {works} at once")
        assert is_whole(delivered)
        assert delivered.book() == 0

    def test_book_one_revision_of_a_charge_when_they_book_the_same_days(
        self, trials: Trials, delivered: Installation
    ) -> None:
        delivered.ingest()
        delivered.catalog.load(delivered.catalog_dir)
        delivered.build()
        at_once(trials, delivered, "book all", "book all", "book all")
        assert delivered.rows("select max(revision) from billing.charge_revision") == [(1,)]

    @pytest.mark.parametrize("other", ["bring up to date", "bring up to date by dagster"])
    def test_do_everything_from_files_to_ledger(
        self, trials: Trials, delivered: Installation, expected: Facts, other: str
    ) -> None:
        at_once(trials, delivered, "bring up to date", other)
        assert_same(delivered.facts(), expected, f"after 'bring up to date' and {other!r} at once")
        assert is_whole(delivered)

    def test_build_and_book_while_others_read_deliveries(
        self, trials: Trials, delivered: Installation, expected: Facts
    ) -> None:
        delivered.catalog.load(delivered.catalog_dir)
        at_once(trials, delivered, "ingest", "build all", "book all", "build the last two", "book the first two")
        delivered.bring_up_to_date()
        assert_same(delivered.facts(), expected, "after everything at once")
        assert is_whole(delivered)
