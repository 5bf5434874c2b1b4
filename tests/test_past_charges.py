"""Past charges as they were known: each revision comes out the same with its catalog, unless usage came since."""

from pathlib import Path

import pytest

from billing_pipeline.charges import Charge
from console import cli
from resources.charge_reader import ChargeReader, Revision
from resources.database import Database
from resources.past_charges import rated_again
from tests.test_charge_store import build_usage, day, use
from tests.test_subscription_charges import BASIC, PRICES, Books

FIRST = 'model = "standard"\nunit_price = "0.10"'
SECOND = (
    f'{FIRST}\n[[price.versions]]\nversion = 2\neffective_from = 2026-03-16T00:00:00Z\nmodel = "standard"\n'
    'unit_price = "0.20"'
)
UPGRADE = 'changes = [{ at = 2026-03-20T00:00:00Z, plan = "pro" }]\n'


@pytest.fixture
def books(database: Database, tmp_path: Path) -> Books:
    return Books(database, tmp_path / "catalog")


@pytest.fixture
def told(books: Books) -> Books:
    """Return books in which March's requests were 2.00 USD, 3.00 by a price told later, and 3.40 by usage that was late."""
    books.subscribe(BASIC)
    for at in ("2026-03-10T10:00", "2026-03-20T10:00"):
        use(books.database, "acme", at, 10)
    build_usage(books.database, day("2026-03-10"), day("2026-03-20"))
    books.book("2026-03-20")
    books.subscribe(BASIC + UPGRADE, prices=PRICES.replace(FIRST, SECOND))
    books.book("2026-03-20")
    use(books.database, "acme", "2026-03-21T10:00", 2)
    books.book("2026-03-21")
    return books


def revisions(books: Books, price_id: str = "requests") -> list[tuple[Revision, Charge | None]]:
    """Return the revisions of a price's charge of March, each with what it is when it is rated again."""
    reader = ChargeReader(books.database)
    (found,) = [
        one
        for one in reader.bill("acme", "2026-03").charges
        if one.price_id == price_id and one.period.start.month == 3
    ]
    explained = reader.explain(str(found.charge_id))
    return [(one, rated_again(books.database, explained.charge, one)) for one in explained.revisions]


class TestRatedAgain:
    def test_is_the_revision_as_long_as_its_usage_is_that_of_now(self, books: Books) -> None:
        books.subscribe(BASIC)
        use(books.database, "acme", "2026-03-10T10:00", 10)
        use(books.database, "acme", "2026-03-20T10:00", 10)
        build_usage(books.database, day("2026-03-10"), day("2026-03-20"))
        books.book("2026-03-20")
        books.subscribe(BASIC + UPGRADE, prices=PRICES.replace(FIRST, SECOND))
        books.book("2026-03-20")
        found = revisions(books)
        assert [str(revision.amount) for revision, _ in found] == ["2.00 USD", "3.00 USD"]
        for revision, again in found:
            assert again is not None
            assert tuple(line.as_text() for line in again.rated.lines) == revision.lines
        # Seats of a plan that changed since are those of then.
        seats = [(str(revision.amount), again and str(again.amount)) for revision, again in revisions(books, "seats")]
        assert seats == [("50.00 USD", "50.00 USD")]

    def test_is_more_by_what_came_since(self, told: Books) -> None:
        assert [(str(one.amount), again and str(again.amount)) for one, again in revisions(told)] == [
            ("2.00 USD", "2.20 USD"),
            ("3.00 USD", "3.40 USD"),
            ("3.40 USD", "3.40 USD"),
        ]

    def test_books_nothing(self, told: Books) -> None:
        before = told.charges()
        revisions(told)
        assert told.charges() == before
        assert told.book("2026-03-21") == 0


class TestWhatAPersonSees:
    def test_of_a_revision(
        self, told: Books, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("BILLING_HOME", str(tmp_path / "home"))
        for name in ("BILLING_DATABASE_URL", "DAGSTER_DATABASE_URL"):
            monkeypatch.setenv(name, told.database.url)
        charge = str(
            next(
                one for one in ChargeReader(told.database).bill("acme", "2026-03").charges if one.price_id == "requests"
            ).charge_id
        )
        assert cli.run(["explain", charge[:8], "--revision", "1"]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert "20 request x 0.1 = 2" in shown
        assert "Revision 1 of 3" in shown
        assert "2.20 USD for 22 request; usage has come since" in shown
        assert cli.run(["explain", charge[:8], "--revision", "3"]) == 0
        assert "the same, line by line" in capsys.readouterr().out
        assert cli.run(["explain", charge[:8], "--revision", "4"]) == 1
        assert "has no revision 4; it has 3" in capsys.readouterr().err
