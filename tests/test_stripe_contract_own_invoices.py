"""Invoices that this pipeline makes at Stripe itself, against the stand-in: the FLY rows of the checklist, and what follows."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import stripe

from billing_pipeline.invoicing.states import InvoiceState
from billing_pipeline.stripe_sync.backoff import Backoff
from billing_pipeline.stripe_sync.policy import Collection
from resources.database import Database
from resources.stripe_sync.sync_store import SyncState
from resources.stripe_sync.true_up import Outcome
from tests.invoicing_world import at, month
from tests.stripe_fixtures import monthly_price, subscribe
from tests.stripe_world import StripeWorld, stripe_world

APRIL = at("2026-04-01T00:00")
CREATE, ADD = "POST /v1/invoices$", "add_lines"


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def world(database: Database, tmp_path: Path) -> Iterator[StripeWorld]:
    """Return an installation whose customer has no subscription at Stripe, and fees of 10.99, 12.99 and 15.99 here."""
    with stripe_world(database, tmp_path, accounts={"fly": ("fees_and_requests", "USD", "")}) as made:
        made.link("fly", subscribed=False)
        made.books.book_month(3)
        yield made


def only_draft(world: StripeWorld) -> stripe.Invoice:
    (draft,) = world.invoices_at_stripe("fly")
    return draft


class TestADraftOfOurOwn:
    def test_fly01_fly05_holds_the_lines_and_follows_them_by_differences(self, world: StripeWorld) -> None:
        for _ in range(2):
            world.sync(verify=True)
            draft = only_draft(world)
            assert (draft.status, draft.auto_advance, draft.total) == ("draft", False, 3997)
            assert len(world.lines(draft.id or "")) == 3
        world.use("fly", "2026-03-03", 100)
        world.forget_calls()
        world.sync()
        assert only_draft(world).total == 4097
        assert [one.split("/")[-1] for one in world.writes()] == ["add_lines"]
        world.use("fly", "2026-03-03", 0)
        world.forget_calls()
        world.sync()
        assert only_draft(world).total == 3997
        assert [one.split("/")[-1] for one in world.writes()] == ["remove_lines"]

    @pytest.mark.parametrize("hours", [0, 25])
    def test_fly04_is_made_once_and_charged_once_when_answers_are_lost(self, world: StripeWorld, hours: int) -> None:
        for operation in (CREATE, ADD):
            world.sim.remote.fault("drop_after", operation, times=1)
            gateway = world.gateway(backoff=Backoff(total_seconds=0))
            world.sync(gateway=gateway)
            world.advance_to(world.now + timedelta(hours=hours))
            world.patience.sleep(100)
        world.sync(verify=True)
        draft = only_draft(world)
        assert (draft.total, len(world.lines(draft.id or ""))) == (3997, 3)

    @pytest.mark.parametrize("step", ["planned", "sent", "called", "answered", "confirmed", "recorded"])
    @pytest.mark.parametrize("time", [1, 2])
    def test_is_made_once_by_processes_that_are_killed(self, world: StripeWorld, step: str, time: int) -> None:
        passed = 0

        def reached(name: str) -> None:
            nonlocal passed
            passed += name == step
            if name == step and passed == time:
                raise Killed

        world.reached = reached
        with suppress(Killed):
            world.sync()
        world.reached = lambda _: None
        world.advance_to(world.now + timedelta(hours=25))
        world.sync(verify=True)
        draft = only_draft(world)
        assert (draft.total, len(world.lines(draft.id or ""))) == (3997, 3)

    def test_fly07_fly08_keeps_an_adjustment_through_what_is_computed(self, world: StripeWorld) -> None:
        world.sync()
        world.books.added.adjust("fly", reach=month(3), amount=Decimal("-5.00"), decision=world.books.decision())
        world.sync()
        assert only_draft(world).total == 3497
        world.use("fly", "2026-03-20", 103)
        world.sync()
        assert only_draft(world).total == 3600

    def test_is_let_go_when_its_period_is_over_and_whole(self, world: StripeWorld) -> None:
        world.sync()
        world.renew(APRIL)
        world.sync()
        assert [one.outcome for one in world.true_up().outcomes] == [Outcome.WAITING]
        world.complete(3)
        assert [one.outcome for one in world.true_up().outcomes] == [Outcome.RIGHT]
        world.advance_to(APRIL + timedelta(minutes=10))
        paid = world.invoices_at_stripe("fly")[0]
        assert (paid.status, paid.total) == ("paid", 3997)
        world.books.book_month(4)
        world.sync(verify=True)
        final = world.books.newest("fly", month(3))
        assert (final.state, final.external_id) == (InvoiceState.FINAL, paid.id)
        assert [one.status for one in world.invoices_at_stripe("fly")] == ["paid", "draft"]

    def test_does_not_take_pending_items_of_others_along(self, world: StripeWorld) -> None:
        world.sdk.v1.invoice_items.create({"customer": world.customers["fly"], "amount": 77, "currency": "usd"})
        world.sync()
        assert only_draft(world).total == 3997

    def test_is_paid_as_the_policy_says(self, world: StripeWorld) -> None:
        world.policy = replace(world.policy, collection=Collection.SEND_INVOICE, days_until_due=14)
        world.sync()
        assert only_draft(world).collection_method == "send_invoice"

    def test_is_not_made_beside_a_subscription_that_nobody_linked(self, world: StripeWorld) -> None:
        made = subscribe(world.sdk, world.customers["fly"], monthly_price(world.sdk, amount=0))
        (failed,) = world.sync().failed
        assert failed.problem is not None
        assert made.id in failed.problem
        assert "bp_subscription" in failed.problem
        assert not [one for one in world.invoices_at_stripe("fly") if one.status == "draft"]

    def test_is_shown_as_in_step(self, world: StripeWorld) -> None:
        assert world.demand("fly").state is SyncState.IN_STEP
        world.forget_calls()
        assert world.demand("fly").state is SyncState.IN_STEP
        assert world.attempts == []
