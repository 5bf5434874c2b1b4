"""What a person reads about subscriptions: phases, what comes next, notes on a bill, statements that wait."""

import io
from datetime import datetime
from pathlib import Path

import pytest
from rich.console import Console

from console.bill_page import print_bill
from console.days import read_period
from console.subscription_notes import subscription_notes
from console.subscription_page import NoSubscriptionError, print_subscriptions
from resources.catalog_store import CatalogStore
from resources.charge_reader import ChargeReader
from resources.charge_store import ChargeStore
from resources.database import Database
from tests.test_billing_schedule import catalog, fee
from tests.test_charge_store import book, days, use
from tests.test_subscription_charges import BASIC, Books
from tests.test_subscription_sources import Sources, at

CHANGED = (
    'plan = "basic"\nstarts_at = 2026-01-01T00:00:00Z\nquantities = { seat = 5 }\ntrial_until = 2026-01-15T00:00:00Z\n'
    "changes = [\n"
    '{ at = 2026-03-10T12:00:07Z, plan = "pro", quantities = { seat = 6 } },\n'
    '{ at = 2026-03-12T00:00:00Z, status = "paused" }, { at = 2026-03-20T00:00:00Z, status = "active" },\n'
    '{ at = 2026-04-10T12:00:00Z, at_end_of = "month", cancel = true } ]'
)


def printed(show: object, *arguments: object, **named: object) -> str:
    """Return what a page prints, on one wide screen."""
    stream = io.StringIO()
    show(Console(file=stream, width=200, highlight=False), *arguments, **named)  # type: ignore[operator]
    return stream.getvalue()


class TestNotes:
    def notes(self, start: str, end: str) -> list[str]:
        from billing_pipeline.periods import Window

        subscription = catalog(CHANGED).subscriptions["s"]
        return list(subscription_notes(subscription, Window(at(start), at(end)), "America/New_York"))

    def test_say_trial_start_change_pause_and_end(self) -> None:
        assert self.notes("2026-01-01T00:00", "2026-02-01T00:00") == [
            "s: starts at 2025-12-31 19:00.",
            "s: trial until 2026-01-14 19:00; the plan says what of it is charged.",
        ]
        assert self.notes("2026-03-01T00:00", "2026-04-01T00:00") == [
            "s: plan basic -> pro, seat 5 -> 6 at 2026-03-10 08:00:07.",
            "s: paused until 2026-03-19 20:00; nothing is charged for that time.",
        ]
        assert self.notes("2026-04-01T00:00", "2026-05-01T00:00") == [
            "s: ends at 2026-04-30 20:00; usage is billed to the second before."
        ]

    def test_say_nothing_where_nothing_happens(self) -> None:
        assert self.notes("2026-02-01T00:00", "2026-03-01T00:00") == []


class TestSubscriptions:
    def page(self, books: Books, now: str) -> str:
        return printed(print_subscriptions, books.database, "acme", now=at(now))

    @pytest.fixture
    def books(self, database: Database, tmp_path: Path) -> Books:
        """Return books with the changed subscription."""
        found = Books(database, tmp_path / "catalog")
        found.subscribe(CHANGED)
        return found

    def test_list_phases_the_period_and_what_falls_due(self, books: Books) -> None:
        page = self.page(books, "2026-03-05T00:00")
        assert page.count("\n") > 6
        assert "2026-03-10 12:00:07" in page
        assert (
            "s: active in the period 2026-03-01 00:00 to 2026-04-01 00:00; next: pro, active at 2026-03-10 12:00:07."
            in page
        )
        assert "due 2026-04-01 00:00: pro_fee (in advance)" in page
        assert "due 2026-04-01 00:00: requests (for the time before)" in page
        assert "paused; next" not in page

    def test_tell_what_has_not_begun_and_what_has_ended(self, books: Books) -> None:
        assert "s: begins at 2026-01-01 00:00." in self.page(books, "2025-12-01T00:00")
        assert "s: ended at 2026-05-01 00:00." in self.page(books, "2026-06-01T00:00")
        assert "next: the end at 2026-05-01 00:00." in self.page(books, "2026-04-20T00:00")

    def test_an_account_without_any_is_told(self, books: Books) -> None:
        with pytest.raises(NoSubscriptionError, match=r"There is no account acne\. Did you mean acme"):
            printed(print_subscriptions, books.database, "acne", now=at("2026-03-05T00:00"))

    def test_statements_that_wait_are_shown_with_their_reason(self, database: Database, tmp_path: Path) -> None:
        sources = Sources(database, tmp_path / "catalog")
        sources.start("t")
        sources.say("t", "change", "2026-03-10T12:00:00", plan_id="gold")
        sources.load()
        page = printed(print_subscriptions, database, None, now=at("2026-03-05T00:00"))
        assert "Statements that wait" in page
        assert "'gold' is not a plan" in page
        assert "table" in page


class TestBill:
    def test_junes_bill_has_junes_usage_and_julys_fee(self, database: Database, tmp_path: Path) -> None:
        books = Books(database, tmp_path / "catalog")
        books.subscribe(BASIC)
        use(database, "acme", "2026-06-15T12:00", 10)
        book(ChargeStore(database), days("2026-06-01", 30))
        bill = ChargeReader(database).bill("acme", "2026-06")
        assert [(one.price_id, f"{one.period.start:%m-%d}") for one in bill.charges] == [
            ("requests", "06-01"),
            ("seats", "06-01"),
            ("basic_fee", "07-01"),
        ]
        # June's own fee was due with May's bill.
        assert [one.price_id for one in ChargeReader(database).bill("acme", "2026-05").charges] == ["basic_fee"]
        instant = datetime.fromisoformat("2026-06-30T23:59:59+00:00")
        assert ChargeReader(database).bill("acme", instant).charges == bill.charges

    def test_a_quarter_in_arrears_stands_on_the_bill_of_its_last_month(
        self, database: Database, tmp_path: Path
    ) -> None:
        books = Books(database, tmp_path / "catalog")
        prices = fee("monthly", "10.00") + fee("quarterly", "100.00", head='cadence = "quarter"\n')
        plans = '[[plan]]\nid = "p"\nprices = ["monthly", "quarterly"]\n'
        books.subscribe('plan = "p"\nstarts_at = 2026-01-01T00:00:00Z', prices=prices, plans=plans)
        book(ChargeStore(database), days("2026-01-01", 90))
        totals = [ChargeReader(database).bill("acme", f"2026-{month:02}").total.minor_units for month in (1, 2, 3)]
        assert totals == [10_00, 10_00, 110_00]

    def test_the_first_fee_in_advance_stands_on_the_first_bill(self, database: Database, tmp_path: Path) -> None:
        books = Books(database, tmp_path / "catalog")
        books.subscribe(BASIC.replace("2026-01-01", "2026-06-10"))
        book(ChargeStore(database), days("2026-06-10", 21))
        bill = ChargeReader(database).bill("acme", "2026-06")
        fees = [f"{one.period.start:%m-%d}" for one in bill.charges if one.price_id == "basic_fee"]
        assert fees == ["06-10", "07-01"]

    def test_notes_stand_below_the_total(self, database: Database, tmp_path: Path) -> None:
        books = Books(database, tmp_path / "catalog")
        books.subscribe(CHANGED)
        use(database, "acme", "2026-03-15T12:00", 10)
        book(ChargeStore(database), days("2026-03-01", 31))
        page = printed(print_bill, database, "acme", read_period("2026-03"))
        assert "s: plan basic -> pro, seat 5 -> 6 at 2026-03-10 12:00:07." in page
        assert "s: paused until 2026-03-20 00:00; nothing is charged for that time." in page
        assert CatalogStore(database).current().subscriptions["s"].ends_at == at("2026-05-01T00:00")
