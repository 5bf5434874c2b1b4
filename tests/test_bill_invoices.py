"""Under a bill: which invoices have its charges, and what else stands on them."""

from decimal import Decimal
from pathlib import Path

import pytest

from console.bill_invoices import invoice_sentences
from resources.charge_reader import Bill, ChargeReader
from resources.database import Database
from tests.invoicing_world import InvoicingWorld, month

JANUARY = month(1)


@pytest.fixture
def world(database: Database, tmp_path: Path) -> InvoicingWorld:
    """Return an installation whose January is booked."""
    made = InvoicingWorld(database, tmp_path / "catalog")
    made.load()
    made.book_month(1)
    return made


def bill(world: InvoicingWorld) -> Bill:
    return ChargeReader(world.database).bill("acme", "2026-01")


def test_a_draft_with_nothing_added_is_the_bills_total(world: InvoicingWorld) -> None:
    world.compile()
    (sentence,) = invoice_sentences(world.database, bill(world))
    assert sentence.startswith("Draft ")
    assert sentence.endswith(f"of s_acme, 2026-01-01 to 2026-02-01: {bill(world).total}")


def test_what_people_added_and_what_came_late_is_told_apart(world: InvoicingWorld) -> None:
    world.added.adjust("acme", reach=JANUARY, amount=Decimal("-5.00"), decision=world.decision())
    (sentence,) = invoice_sentences(world.database, bill(world))
    assert sentence.endswith("34.97 USD = charges 39.97 USD, adjustments -5.00 USD")
    world.finalize("acme", JANUARY)
    world.use("acme", "2026-01-04", 50)
    world.book_month(1)
    world.book_month(2)
    world.compile()
    january, february = invoice_sentences(world.database, bill(world))
    assert january.startswith("Invoice INV-000001 of s_acme")
    assert february.endswith("40.47 USD = charges 39.97 USD, corrections of earlier invoices 0.50 USD")


def test_nothing_compiled_says_nothing(world: InvoicingWorld) -> None:
    assert list(invoice_sentences(world.database, bill(world))) == []
