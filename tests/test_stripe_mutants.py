"""The contract finds out broken writers: each is let loose on a scenario, and money or lines at the stand-in are wrong then.

The whole writer plays the same scenario first, and everything is right. All players of a scenario share a stand-in, each with
an account of its own.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from billing_pipeline.stripe_sync.backoff import Backoff
from resources.database import Database, Role
from resources.stripe_sim.application import LogLine
from tests import stripe_mutants as mutants
from tests.invoicing_world import at, month
from tests.stripe_mutants import Mutant, mutant
from tests.stripe_world import (
    StripeWorld,
    counted_by_meter,
    link_by_meter,
    meter_events_of,
    only_draft_of,
    stripe_world,
)

CREATE = "POST /v1/invoiceitems"
APRIL = at("2026-04-01T00:00")


class Killed(BaseException):
    """The process ends here."""


@dataclass
class Play:
    """One account in the hands of one writer. What its runs raise is what a failed run is: the next one goes on."""

    world: StripeWorld
    account: str
    began_after: int = field(init=False)

    def __post_init__(self) -> None:
        self.began_after = self.world.sim.application.requests

    @property
    def customer(self) -> str:
        return self.world.customers[self.account]

    def use(self, day: str, quantity: int, **more: Any) -> None:
        self.world.use(self.account, day, quantity, **more)

    def sync(self, **options: Any) -> None:
        with suppress(Exception):
            self.world.sync(self.account, gateway=self.world.gateway(backoff=Backoff(total_seconds=5)), **options)

    def true_up(self) -> None:
        with suppress(Exception):
            self.world.true_up(self.world.gateway(backoff=Backoff(total_seconds=5)))

    @contextmanager
    def when(self, step: str, then: Callable[[], None]) -> Iterator[None]:
        """Do something when a step is passed for the first time, such as dying."""
        passed: list[str] = []

        def reached(name: str) -> None:
            if name == step and not passed:
                passed.append(name)
                then()

        self.world.reached = reached
        try:
            with suppress(Killed):
                yield
        finally:
            self.world.reached = lambda _: None

    def wait(self, **span: float) -> None:
        self.world.advance_to(self.world.now + timedelta(**span))

    @property
    def draft(self) -> str:
        return next(one.id or "" for one in self.world.invoices_at_stripe(self.account, status="draft"))

    def requests(self, operation: str) -> list[LogLine]:
        """Return what was asked of the stand-in for this customer, where the parameters or the objects say so."""
        log = [one for one in self.world.sim.application.log if one.number > self.began_after]
        return [one for one in log if one.operation == operation]

    def amounts(self) -> list[int]:
        return [item.amount for item in self.world.pending(self.account)]

    def assert_made_once(self) -> None:
        """Hold that no line was ever there twice, not even for a moment: an invoice could have taken both."""
        made = [one.params["metadata"]["bp_key"] for one in self.requests(CREATE) if one.executed and one.status != 400]
        assert len(made) == len(set(made)), f"items were made more than once: {made}"


def die() -> None:
    raise Killed


def loses_an_answer(play: Play) -> None:
    play.use("2026-03-03", 700)
    play.world.sim.remote.fault("drop_after", f"{CREATE}$", times=1)
    play.sync()
    play.sync()
    assert play.amounts() == [700]
    play.assert_made_once()


def dies_after_a_call_and_lists_are_late(play: Play) -> None:
    play.world.sim.remote.rules(list_lag_seconds=3600)
    play.use("2026-03-03", 700)
    with play.when("called", die):
        play.sync()
    play.use("2026-03-03", 711)
    for _ in range(2):
        play.sync(verify=True)
    play.wait(hours=2)
    assert play.amounts() == [711]
    play.assert_made_once()


def dies_after_a_call_for_a_day(play: Play) -> None:
    play.use("2026-03-03", 700)
    with play.when("called", die):
        play.sync()
    play.wait(hours=25)
    play.sync()
    assert play.amounts() == [700]
    play.assert_made_once()


def loses_an_item_behind_its_back(play: Play) -> None:
    play.use("2026-03-03", 700)
    with play.when("answered", lambda: _delete_items(play)):
        play.sync()
    play.sync()
    assert play.amounts() == [700]


def _delete_items(play: Play) -> None:
    for item in play.world.pending(play.account):
        play.world.sdk.v1.invoice_items.delete(item.id)


def grows(play: Play) -> None:
    for quantity in (700, 711, 720):
        play.use("2026-03-03", quantity)
        play.sync()
        assert play.amounts() == [quantity]
    play.assert_made_once()
    amounts = [str(one.params["amount"]) for one in play.requests(CREATE)]
    assert all(text.isdigit() for text in amounts), f"amounts are no whole numbers: {amounts}"


def is_refused(play: Play) -> None:
    play.world.sim.application.world.table("subscription").remove(play.world.subscriptions[play.account])
    play.use("2026-03-03", 700)
    for _ in range(2):
        play.sync()
    assert [one.status for one in play.requests(CREATE)] == [400]


def is_invoiced_in_mid_period(play: Play) -> None:
    world = play.world
    play.use("2026-03-03", 700)
    play.sync()
    draft = world.sdk.v1.invoices.create(
        {
            "customer": play.customer,
            "subscription": world.subscriptions[play.account],
            "pending_invoice_items_behavior": "include",
            "auto_advance": False,
        }
    )
    play.use("2026-03-04", 50)
    play.sync(verify=True)
    world.sdk.v1.invoices.finalize_invoice(draft.id or "")
    play.use("2026-03-05", 25)
    play.sync(verify=True)
    assert world.charged(play.account) == 775


def is_corrupted_before_it_is_let_go(play: Play) -> None:
    draft = play.draft

    def corrupt() -> None:
        line = next(one for one in play.world.lines(draft) if "bp_key" in one.metadata)
        play.world.sdk.v1.invoices.update_lines(draft, {"lines": [{"id": line.id, "amount": 1}]})

    with play.when("answered", corrupt):
        play.true_up()
    play.wait(minutes=15)
    play.true_up()
    play.wait(hours=2)
    assert _paid(play, draft) == 755


def has_many_lines(play: Play) -> None:
    draft = play.draft
    by_hand = [{"amount": 7, "description": "by hand"}] * 105
    play.world.sdk.v1.invoices.add_lines(draft, {"lines": by_hand})  # type: ignore[typeddict-item]
    for client in range(12):
        play.world.books.use(play.account, "2026-03-07", 100, client=f"c{client}")
    play.world.books.book_month(3)
    for day in (8, 9):
        play.world.books.use(play.account, f"2026-03-{day:02}", 1, client="c3")
        play.world.books.book_month(3)
        only_draft_of(play.world, play.account)
        play.true_up()
    assert sum(play.world.ours(draft).values()) == 1202
    assert len(play.world.lines(draft)) == 1 + 105 + 12


def has_lines_of_others(play: Play) -> None:
    draft = play.draft
    play.world.sdk.v1.invoices.add_lines(draft, {"lines": [{"amount": -1234, "description": "by hand"}]})
    foreign = play.world.sdk.v1.invoice_items.create(
        {"customer": play.customer, "amount": 4200, "currency": "usd", "description": "by hand"}
    )
    before = _foreign(play, draft)
    play.true_up()
    play.sync(verify=True)
    assert _foreign(play, draft) == before
    assert play.world.sdk.v1.invoice_items.retrieve(foreign.id).to_dict() == foreign.to_dict()


def is_not_whole_yet(play: Play) -> None:
    draft = play.draft
    with play.world.database.connect(Role.OWNER) as connection:
        connection.execute("delete from usage.build where partition_key = '2026-03-31'")
    play.true_up()
    play.wait(hours=2)
    play.use("2026-03-31", 66)
    play.world.complete(3)
    play.true_up()
    play.wait(minutes=15)
    assert _paid(play, draft) == 821


def is_told_of_by_a_meter(play: Play) -> None:
    """Play a month of its own: accounts renew together, and each is played once."""
    world = play.world
    number = world.now.month
    period = month(number)
    day = f"2026-{number:02}-{(period.end - timedelta(days=1)).day}"
    world.advance_to(period.end - timedelta(hours=6))
    play.use(day, 60)
    play.sync()
    world.renew(period.end)
    play.use(day, 94)
    world.complete(number)
    only_draft_of(world, play.account)
    play.true_up()
    play.wait(minutes=5)
    stamps = [timestamp for timestamp, _ in meter_events_of(world, play.account)]
    start, end = int(period.start.timestamp()), int(period.end.timestamp())
    assert counted_by_meter(world, play.account, period) == 94
    assert all(start <= one < end for one in stamps), f"events outside of the period: {stamps}"
    assert stamps == sorted(set(stamps)), f"timestamps do not grow: {stamps}"


def _foreign(play: Play, draft: str) -> list[dict[str, Any]]:
    return [line.to_dict() for line in play.world.lines(draft) if "bp_key" not in line.metadata]


def _paid(play: Play, invoice_id: str) -> int:
    found = play.world.sdk.v1.invoices.retrieve(invoice_id)
    assert found.status == "paid", f"{invoice_id} is {found.status}"
    return found.total


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What is played, by whom. `renewed`: March is over, and each account has a draft with 700 of 755."""

    play: Callable[[Play], None]
    broken: tuple[Mutant, ...]
    plan: str = "requests"
    renewed: bool = False


def scenario(play: Callable[[Play], None], *broken: Callable[[pytest.MonkeyPatch], None], **options: Any) -> Scenario:
    return Scenario(play=play, broken=tuple(mutant(one) for one in broken), **options)


SCENARIOS = (
    scenario(loses_an_answer, mutants.sends_no_key, mutants.draws_a_key_for_each_attempt),
    scenario(
        dies_after_a_call_and_lists_are_late,
        mutants.draws_a_key_for_each_run,
        mutants.writes_the_intent_after_the_call,
    ),
    scenario(dies_after_a_call_for_a_day, mutants.trusts_its_keys_instead_of_reading_back),
    scenario(loses_an_item_behind_its_back, mutants.believes_what_it_was_answered),
    scenario(
        grows,
        mutants.gives_one_key_to_all_requests_for_an_item,
        mutants.adds_an_item_for_what_is_new,
        mutants.sends_amounts_as_floats,
        mutants.sends_amounts_with_exponents,
    ),
    scenario(is_refused, mutants.tries_refused_requests_again, mutants.sends_dead_letters_in_every_run),
    scenario(is_invoiced_in_mid_period, mutants.charges_what_an_invoice_has_taken_again),
    scenario(is_corrupted_before_it_is_let_go, mutants.believes_what_it_was_answered, renewed=True),
    scenario(
        has_many_lines,
        mutants.reads_embedded_lines_alone,
        mutants.reads_the_first_page_alone,
        plan="grouped",
        renewed=True,
    ),
    scenario(has_lines_of_others, mutants.takes_lines_of_others_for_its_own, renewed=True),
    scenario(is_not_whole_yet, mutants.lets_periods_go_that_are_not_whole, mutants.does_not_hold_drafts, renewed=True),
    scenario(
        is_told_of_by_a_meter,
        mutants.dates_events_by_the_clock,
        mutants.dates_final_totals_at_the_end_of_the_period,
        mutants.dates_all_events_alike,
        mutants.sends_increments,
        plan="metered",
    ),
)


def renew(world: StripeWorld, accounts: list[str], *, used: bool) -> None:
    """Let March end with 700 of 755 on the drafts of all, which wait for their turn for weeks."""
    if used:
        for account in accounts:
            world.books.use(account, "2026-03-03", 700)
        world.books.book_month(3)
        world.sync()
    world.renew(APRIL)
    if used:
        for account in accounts:
            world.books.use(account, "2026-03-30", 55)
    world.complete(3)
    for account in accounts:
        (draft,) = world.invoices_at_stripe(account, status="draft")
        far = int((APRIL + timedelta(days=30)).timestamp())
        world.sdk.v1.invoices.update(draft.id or "", {"automatically_finalizes_at": far})


def played(world: StripeWorld, one: Scenario, account: str) -> str | None:
    """Play, and return what was wrong at the stand-in, None where all was right."""
    play = Play(world, account)
    if one.renewed:
        # As if it had just been renewed: an hour is left to its draft.
        only_draft_of(world, play.account)
        draft = world.sim.application.world.table("invoice").get(play.draft)
        assert draft is not None
        soon = int((world.now + timedelta(hours=1)).timestamp())
        draft["created"] = int(world.now.timestamp())
        world.sdk.v1.invoices.update(draft["id"], {"automatically_finalizes_at": soon})
    try:
        one.play(play)
    except AssertionError as error:
        return str(error) or "an assertion"
    finally:
        world.sim.remote.clear_faults()
        world.sim.remote.rules(list_lag_seconds=0)
        world.patience.sleep(100)
    return None


class TestBrokenWriters:
    @pytest.mark.parametrize("one", SCENARIOS, ids=lambda one: one.play.__name__)
    def test_are_found_out(self, one: Scenario, database: Database, tmp_path: Path) -> None:
        accounts = ["whole", *(f"m{number}" for number in range(len(one.broken)))]
        catalog = dict.fromkeys(accounts, (one.plan, "USD", ""))
        with stripe_world(database, tmp_path, accounts=catalog) as world:
            if one.plan == "metered":
                link_by_meter(world, *accounts)
            else:
                world.link(*accounts)
            if one.renewed:
                renew(world, accounts, used=one.plan == "requests")
            assert played(world, one, "whole") is None
            for account, broken in zip(accounts[1:], one.broken, strict=True):
                with pytest.MonkeyPatch.context() as patch:
                    broken.breaks(patch)
                    wrong = played(world, one, account)
                assert wrong is not None, f"nobody noticed that a writer {broken.name}"
