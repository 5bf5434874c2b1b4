"""Invoices in PostgreSQL: drafts follow the books, final ones stay, what comes later goes onto the next one."""

from decimal import Decimal
from pathlib import Path

import pytest

from billing_pipeline.amounts import Money
from billing_pipeline.invoicing.items import ItemKind
from billing_pipeline.invoicing.states import InvoiceState
from resources.database import Database
from resources.invoicing.added_store import AdjustmentRefusedError
from tests.invoicing_world import InvoicingWorld, at, month

JANUARY, FEBRUARY, MARCH = month(1), month(2), month(3)


@pytest.fixture
def world(database: Database, tmp_path: Path) -> InvoicingWorld:
    """Return an installation with a catalog, in the middle of February."""
    made = InvoicingWorld(database, tmp_path / "catalog")
    made.load()
    return made


class TestCompile:
    def test_three_fees_are_39_97(self, world: InvoicingWorld) -> None:
        world.book_month(1)
        world.compile()
        invoice = world.lines("acme", JANUARY)
        assert [str(item.amount) for item in invoice.items] == ["10.99 USD", "12.99 USD", "15.99 USD"]
        assert {item.kind for item in invoice.items} == {ItemKind.FEE}
        assert str(world.newest("acme", JANUARY).total) == "39.97 USD" == str(invoice.total)
        assert world.receivable("acme") == invoice.total

    def test_again_writes_nothing(self, world: InvoicingWorld) -> None:
        world.use("acme", "2026-01-03", 7)
        world.book_month(1)
        first = world.invoices.compile_invoices(as_of=world.now)
        assert (first.written, first.removed) == (2, 0)
        before = world.rows("select * from invoicing.draft_item order by item_key")
        again = world.invoices.compile_invoices(as_of=world.now)
        assert (again.written, again.unchanged, again.removed) == (0, first.written, 0)
        assert world.rows("select * from invoicing.draft_item order by item_key") == before

    def test_an_adjustment_survives_what_is_computed(self, world: InvoicingWorld) -> None:
        world.book_month(1)
        added = world.added.adjust("acme", reach=JANUARY, amount=Decimal("-5.00"), decision=world.decision())
        assert added.invoice is not None
        assert str(added.invoice.total) == "34.97 USD"
        world.use("acme", "2026-01-20", 103)
        world.book_month(1)
        world.compile()
        assert str(world.newest("acme", JANUARY).total) == "36.00 USD"
        assert world.receivable("acme") == Money(3600, "USD")
        (line,) = (item for item in world.lines("acme", JANUARY).items if item.kind is ItemKind.ADJUSTMENT)
        assert (line.reason, str(line.amount)) == ("goodwill", "-5.00 USD")

    def test_an_adjustment_of_a_final_invoice_is_refused_and_a_credit_note_offered(self, world: InvoicingWorld) -> None:
        world.book_month(1)
        final = world.finalize("acme", JANUARY)
        with pytest.raises(AdjustmentRefusedError, match=f"billing credit-note {final.number}"):
            world.added.adjust("acme", reach=JANUARY, amount=Decimal("-5.00"), decision=world.decision())
        assert world.balance("adjustments:USD") == 0

    def test_late_usage_is_a_correction_on_the_next_open_invoice(self, world: InvoicingWorld) -> None:
        world.use("acme", "2026-01-03", 100)
        for number in (1, 2):
            world.book_month(number)
        final = world.finalize("acme", JANUARY)
        original = world.lines("acme", JANUARY)
        world.use("acme", "2026-01-04", 50)
        world.book_month(1)
        for _ in range(2):
            world.compile()
            (line,) = (item for item in world.lines("acme", FEBRUARY).items if item.kind is ItemKind.CORRECTION)
            assert str(line.amount) == "0.50 USD"
            assert line.period == JANUARY
            assert line.corrects == next(item.charge_id for item in original.items if item.kind is ItemKind.USAGE)
            assert line.reason == f"booked after invoice {final.number} was final"
        assert world.lines("acme", JANUARY) == original
        assert world.newest("acme", JANUARY).state is InvoiceState.FINAL
        assert world.newest("acme", FEBRUARY).total == Money(3997 + 50, "USD")

    def test_computed_three_times_and_finalized_twice_is_one_invoice_with_one_number(
        self, world: InvoicingWorld
    ) -> None:
        world.book_month(1)
        for _ in range(3):
            world.compile()
        first = world.finalize("acme", JANUARY)
        again = world.invoices.finalize(str(first.number), actor="test", reason="again", now=at("2026-02-20T00:00"))
        assert again == first
        assert first.number == "INV-000001"
        assert world.rows("select count(*) from invoicing.final_invoice where account_id = 'acme'") == [(1,)]
