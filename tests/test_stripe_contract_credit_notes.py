"""Credit notes at the stand-in, over real sockets with the real SDK: row 40 of the contract in docs/stripe.md."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import stripe
from hypothesis import given
from hypothesis import strategies as st

from billing_pipeline.stripe_sync.credit_split import CreditAmountError, Excess, split_credit
from resources.database import Database
from resources.stripe_sync import sync_store
from resources.stripe_sync.sync_store import FindingKind
from resources.stripe_sync.true_up import Outcome
from tests.invoicing_world import at, month
from tests.stripe_world import StripeWorld, stripe_world

APRIL = at("2026-04-01T00:00")
FEES = 1099 + 1299 + 1599
TOTAL = 700 + FEES


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def world(database: Database, tmp_path: Path) -> Iterator[StripeWorld]:
    with stripe_world(database, tmp_path, accounts={"acme": ("fees_and_requests", "USD", "")}) as made:
        made.link("acme")
        made.use("acme", "2026-03-03", 700)
        made.sync()
        yield made


def finalized(world: StripeWorld, *, paid: bool) -> str:
    """Let March become final at Stripe and here, paid or open, and return its id there."""
    world.sim.remote.decline(world.customers["acme"], declines=not paid)
    world.renew(APRIL)
    world.complete(3)
    assert [one.outcome for one in world.true_up().outcomes] == [Outcome.RIGHT]
    world.advance_to(APRIL + timedelta(hours=1))
    world.sync(verify=True)
    invoice = next(one for one in world.invoices_at_stripe("acme") if one.billing_reason == "subscription_cycle")
    assert invoice.status == ("paid" if paid else "open")
    return invoice.id or ""


def give_back(world: StripeWorld, amount: str, *, key: str = "") -> None:
    number = world.books.newest("acme", month(3)).number
    assert number is not None
    world.books.added.credit(number, amount=Decimal(amount), decision=world.books.decision(key=key))


def notes(world: StripeWorld, invoice_id: str) -> list[stripe.CreditNote]:
    return list(world.sdk.v1.credit_notes.list({"invoice": invoice_id}).data)


def balance(world: StripeWorld) -> int:
    return world.sdk.v1.customers.retrieve(world.customers["acme"]).balance


class TestSplit:
    def test_takes_off_what_is_due_first_and_gives_the_rest_back(self) -> None:
        split = split_credit(10000, due=3000, refundable=8000, excess=Excess.REFUND)
        assert (split.off_due, split.refund, split.balance) == (3000, 7000, 0)
        split = split_credit(10000, due=3000, refundable=2000, excess=Excess.REFUND)
        assert (split.off_due, split.refund, split.balance) == (3000, 2000, 5000)

    @given(st.integers(1, 10**9), st.integers(0, 10**9), st.integers(0, 10**9), st.sampled_from(Excess))
    def test_adds_up_and_never_refunds_more_than_was_paid(
        self, amount: int, due: int, refundable: int, excess: Excess
    ) -> None:
        split = split_credit(amount, due=due, refundable=refundable, excess=excess)
        assert split.off_due + split.refund + split.balance == amount
        assert min(split.off_due, split.refund, split.balance) >= 0
        assert split.refund <= refundable
        assert split.off_due == min(amount, due)
        assert excess is Excess.REFUND or split.refund == 0

    def test_of_nothing_is_refused(self) -> None:
        with pytest.raises(CreditAmountError):
            split_credit(0, due=1, refundable=1, excess=Excess.BALANCE)


class TestCreditNotes:
    def test_r40_of_an_open_invoice_are_taken_off_what_is_due(self, world: StripeWorld) -> None:
        invoice = finalized(world, paid=False)
        give_back(world, "5.00")
        (outcome,) = world.credit_notes()
        (note,) = notes(world, invoice)
        assert (outcome.stripe_id, note.amount, note.pre_payment_amount, note.post_payment_amount) == (
            note.id,
            500,
            500,
            0,
        )
        assert world.sdk.v1.invoices.retrieve(invoice).amount_remaining == TOTAL - 500

    def test_r40_of_a_paid_invoice_become_balance_or_a_refund(self, world: StripeWorld) -> None:
        invoice = finalized(world, paid=True)
        give_back(world, "5.00")
        world.credit_notes()
        assert balance(world) == -500
        give_back(world, "3.00", key="second")
        world.credit_notes(credit_excess=Excess.REFUND)
        assert balance(world) == -500
        refunded = [one.refunds[0].amount_refunded for one in notes(world, invoice) if one.refunds]
        assert refunded == [300]
        assert sorted(one.amount for one in notes(world, invoice)) == [300, 500]

    def test_r40_of_a_part_paid_invoice_are_split_exactly(self, world: StripeWorld) -> None:
        invoice = finalized(world, paid=False)
        row = world.sim.application.world.table("invoice").get(invoice)
        assert row is not None
        row["amount_paid"], row["amount_remaining"] = TOTAL - 300, 300
        give_back(world, "5.00")
        world.credit_notes()
        (note,) = notes(world, invoice)
        assert (note.pre_payment_amount, note.post_payment_amount) == (300, 200)
        assert balance(world) == -200

    def test_are_sent_once_however_often_they_are_run_and_mail_nobody(self, world: StripeWorld) -> None:
        invoice = finalized(world, paid=True)
        give_back(world, "5.00")
        for _ in range(3):
            world.credit_notes()
        assert len(notes(world, invoice)) == 1
        (sent,) = (one for one in world.attempts if one.call.operation == "credit_notes.create")
        assert sent.call.params["email_type"] == "none"

    @pytest.mark.parametrize("step", ["planned", "sent", "called", "answered", "confirmed", "recorded"])
    def test_are_sent_once_by_a_process_that_is_killed_and_run_again(self, world: StripeWorld, step: str) -> None:
        invoice = finalized(world, paid=True)
        give_back(world, "5.00")

        def reached(name: str) -> None:
            if name == step:
                raise Killed

        world.reached = reached
        with suppress(Killed):
            world.credit_notes()
        world.reached = lambda _: None
        world.advance_to(world.now + timedelta(hours=25 if step == "called" else 1))
        world.credit_notes()
        assert [one.amount for one in notes(world, invoice)] == [500]
        assert balance(world) == -500

    @pytest.mark.parametrize("fault", ["drop_after", "drop_before", "error_before", "error_after"])
    def test_are_sent_once_when_the_answer_is_lost(self, world: StripeWorld, fault: str) -> None:
        invoice = finalized(world, paid=True)
        give_back(world, "5.00")
        world.sim.remote.fault(fault, "POST /v1/credit_notes", times=1)
        for _ in range(3):
            world.credit_notes()
        assert [one.amount for one in notes(world, invoice)] == [500]

    def test_of_a_void_invoice_are_a_finding(self, world: StripeWorld) -> None:
        invoice = finalized(world, paid=False)
        give_back(world, "5.00")
        world.sdk.v1.invoices.void_invoice(invoice)
        (outcome,) = world.credit_notes()
        assert outcome.problem is not None
        assert "void" in outcome.problem
        with world.database.reading() as connection:
            assert [one.kind for one in sync_store.open_findings(connection)] == [FindingKind.CREDIT_NOTE_FAILED]
