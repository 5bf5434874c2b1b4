"""A billing anchor that moves, told late: final invoices stay, and the difference comes on the next one.

100.00 a month, in arrears, from January 1st on; the periods that the anchor makes anew end inside final ones, or reach out of them.
"""

from collections.abc import Sequence
from pathlib import Path

import pytest

from billing_pipeline.invoicing.items import ItemKind
from resources.database import Database
from resources.invoicing.invoice_reader import InvoiceReader
from resources.invoicing.invoice_store import InvoiceStore
from tests.test_billing_schedule import at, fee
from tests.test_subscription_charges import Books

PLANS = '[[plan]]\nid = "hundred"\nprices = ["hundred"]\n'
START = 'plan = "hundred"\nstarts_at = 2026-01-01T00:00:00Z\n'


class Invoiced:
    """An account whose months are booked and whose first invoices are final."""

    def __init__(self, database: Database, folder: Path, *, final: int) -> None:
        self.books = Books(database, folder)
        self.invoices = InvoiceStore(database)
        self.database = database
        self.subscribe("")
        self.books.book("2026-01-10", "2026-02-10")
        self.compile()
        for number in range(1, final + 1):
            self.finalize(f"0{number}-01")

    def subscribe(self, changes: str) -> None:
        self.books.subscribe(START + changes, prices=fee("hundred", "100.00"), plans=PLANS)

    def move(self, when: str, day: int) -> None:
        """Move the anchor, and book everything since."""
        self.subscribe(f"changes = [{{ at = {when}T00:00:00Z, anchor_day = {day} }}]")
        self.books.book("2026-01-10", "2026-01-29", "2026-02-10", "2026-02-20")
        self.compile()

    def compile(self) -> None:
        assert self.invoices.compile_invoices(as_of=at("2026-02-25T00:00")).failed == {}

    def finalize(self, start: str) -> None:
        """Make the invoice whose period begins then final."""
        self.compile()
        (row,) = (one for one in self.rows() if f"{one[1]:%m-%d}" == start and one[3] == "draft")
        self.invoices.release(str(row[0]), actor="test", reason="as it is", now=at("2026-04-25T00:00"))
        self.invoices.finalize(str(row[0]), actor="test", reason="the month is over", now=at("2026-04-25T00:00"))

    def rows(self) -> Sequence[tuple]:
        with self.database.reading() as connection:
            return connection.execute(
                "select invoice_id, period_start, period_end, state, total_minor from invoicing.invoice"
                " where state <> 'draft' or exists (select from invoicing.draft_item as item"
                "     where item.invoice_id = invoice.invoice_id)"
                " order by period_start, period_end"
            ).fetchall()

    def shown(self) -> list[tuple[str, str, int]]:
        """Return (period, state, cents) of the invoices that have lines."""
        return [(f"{start:%m-%d} to {end:%m-%d}", state, cents) for _, start, end, state, cents in self.rows()]

    def lines(self, period: str) -> list[tuple[ItemKind, str, int]]:
        """Return the lines of the draft of that period: kind, period of what is charged, cents."""
        (found,) = (
            lines
            for row, lines in self.invoices.open_invoices()
            if f"{row.key.period.start:%m-%d} to {row.key.period.end:%m-%d}" == period
        )
        return [
            (one.kind, f"{one.period.start:%m-%d} to {one.period.end:%m-%d}", one.amount.minor_units)
            for one in found.items
        ]


class TestMovedAnchor:
    def test_reaches_into_a_final_month(self, database: Database, tmp_path: Path) -> None:
        account = Invoiced(database, tmp_path / "catalog", final=1)
        account.move("2026-01-28", 15)
        # 27/31, 18/31 (of January 15th to February 15th) and a whole month are booked where two whole months were.
        assert account.lines("01-28 to 02-15") == [
            (ItemKind.FEE, "01-28 to 02-15", 58_06),
            (ItemKind.CORRECTION, "01-01 to 01-28", 87_10),
            (ItemKind.CORRECTION, "01-01 to 02-01", -100_00),
        ]
        assert account.shown() == [
            ("01-01 to 02-01", "final", 100_00),
            ("01-28 to 02-15", "draft", 45_16),
            ("02-15 to 03-15", "draft", 100_00),
        ]

    def test_reaches_over_two_final_months(self, database: Database, tmp_path: Path) -> None:
        account = Invoiced(database, tmp_path / "catalog", final=2)
        account.move("2026-01-20", 20)
        assert account.lines("02-20 to 03-20") == [
            (ItemKind.FEE, "02-20 to 03-20", 100_00),
            (ItemKind.CORRECTION, "01-01 to 01-20", 61_29),
            (ItemKind.CORRECTION, "01-01 to 02-01", -100_00),
            (ItemKind.CORRECTION, "01-20 to 02-20", 100_00),
            (ItemKind.CORRECTION, "02-01 to 03-01", -100_00),
        ]
        assert account.shown() == [
            ("01-01 to 02-01", "final", 100_00),
            ("02-01 to 03-01", "final", 100_00),
            ("02-20 to 03-20", "draft", 61_29),
        ]

    def test_names_the_charge_and_the_invoice_that_it_corrects(self, database: Database, tmp_path: Path) -> None:
        account = Invoiced(database, tmp_path / "catalog", final=1)
        account.move("2026-01-28", 15)
        ((_, lines), *_) = account.invoices.open_invoices()
        _, new, old = lines.items
        assert "0.00 USD instead of 100.00 USD" in old.description
        assert "booked after invoice INV-000001 was final" in old.reason
        assert new.reason == "booked after invoice INV-000001 was final"
        charged = dict(account_charges(database))
        assert (charged[old.corrects], charged[new.corrects]) == (
            "2026-01-01 to 2026-02-01",
            "2026-01-01 to 2026-01-28",
        )

    @pytest.mark.parametrize(
        ("final", "when", "day"),
        [
            (0, "2026-01-28", 15),
            (1, "2026-01-28", 15),
            (1, "2026-02-10", 20),
            (2, "2026-01-20", 20),
            (2, "2026-02-10", 5),
            (2, "2026-02-27", 31),
        ],
    )
    def test_comes_to_what_the_books_say_whatever_is_final(
        self, database: Database, tmp_path: Path, final: int, when: str, day: int
    ) -> None:
        account = Invoiced(database, tmp_path / "catalog", final=final)
        account.move(when, day)
        standing = sum(cents for cents, _ in account.books.charges().values())
        assert sum(cents for _, _, cents in account.shown()) == standing
        assert InvoiceReader(database).disagreements() == ()
        drafts = [period for period, state, _ in account.shown() if state == "draft"]
        for _ in drafts:
            account.finalize(next(one for one, state, _ in account.shown() if state == "draft")[:5])
        assert sum(cents for _, _, cents in account.shown()) == standing
        assert InvoiceReader(database).disagreements() == ()

    def test_told_before_anything_is_final_makes_an_invoice_of_each_part(
        self, database: Database, tmp_path: Path
    ) -> None:
        account = Invoiced(database, tmp_path / "catalog", final=0)
        account.move("2026-01-28", 15)
        assert account.shown() == [
            ("01-01 to 01-28", "draft", 87_10),
            ("01-28 to 02-15", "draft", 58_06),
            ("02-15 to 03-15", "draft", 100_00),
        ]

    def test_a_void_month_is_no_cover(self, database: Database, tmp_path: Path) -> None:
        account = Invoiced(database, tmp_path / "catalog", final=1)
        account.invoices.void("INV-000001", actor="test", reason="wrong", now=at("2026-04-25T00:00"))
        account.move("2026-01-28", 15)
        assert ("01-01 to 01-28", "draft", 87_10) in account.shown()


def account_charges(database: Database) -> list[tuple]:
    with database.reading() as connection:
        return connection.execute(
            "select distinct charge_id, to_char(period_start at time zone 'UTC', 'YYYY-MM-DD') || ' to '"
            " || to_char(period_end at time zone 'UTC', 'YYYY-MM-DD') from billing.charge_revision"
        ).fetchall()
