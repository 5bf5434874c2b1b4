"""Writing to Stripe lives through kill -9: a process of its own, real sockets, PostgreSQL; at every named step and at random
moments, run again at once and a day later, when Stripe has forgotten its keys. Money and lines are those of a run that lived.

`BILLING_STRIPE_KILLS=all` kills at every passing of every step; a number asks for so many random moments.
"""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from resources.database import Database
from tests.invoicing_world import at, month
from tests.stripe_worker import Worker
from tests.stripe_world import (
    StripeWorld,
    counted_by_meter,
    link_by_meter,
    meter_events_of,
    only_draft_of,
    stripe_world,
)

KILLS = os.environ.get("BILLING_STRIPE_KILLS") or "1"
PLAYERS = 200 if KILLS == "all" else 12 + int(KILLS)
AT_RANDOM = 40 if KILLS == "all" else int(KILLS)
SEED = int(os.environ.get("BILLING_CRASH_SEED") or 20260301)
APRIL = at("2026-04-01T00:00")
FEES = 1099 + 1299 + 1599
SIGKILLED = -9


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """How a run ends, and how many hours later it is run again."""

    ending: dict[str, int]
    hours: int
    account: str
    about: str


def deaths(steps: list[str], microseconds: int, accounts: Iterator[str], *, hours: tuple[int, ...]) -> list[Death]:
    """Return a death at every named step, and some at random moments."""
    chance = random.Random(SEED)
    first = {step: number for number, step in reversed(list(enumerate(steps, start=1)))}
    named = [(number, hours[place % len(hours)]) for place, number in enumerate(sorted(first.values()))]
    if KILLS == "all":
        named = [(number, one) for one in hours for number in range(1, len(steps) + 1)]
    found = [
        Death(ending={"die_at": number}, hours=one, account=next(accounts), about=f"{steps[number - 1]} ({number})")
        for number, one in named
    ]
    for number in range(AT_RANDOM):
        moment = chance.randrange(microseconds)
        ending = {"after_microseconds": moment}
        hour = hours[number % len(hours)]
        found.append(Death(ending=ending, hours=hour, account=next(accounts), about=f"{moment} microseconds"))
    return sorted(found, key=lambda one: one.hours)


@contextmanager
def opened(database: Database, folder: Path, plan: str) -> Iterator[tuple[StripeWorld, Worker, list[str]]]:
    """Open an installation of many accounts, one for each death, and the process."""
    accounts = [f"a{number:03}" for number in range(PLAYERS)]
    with stripe_world(database, folder, accounts=dict.fromkeys(accounts, (plan, "USD", ""))) as world:
        (world.link if plan != "metered" else partial(link_by_meter, world))(*accounts)
        worker = Worker(world.database.url, world.sim.url)
        try:
            yield world, worker, accounts
        finally:
            worker.close()


def ran(world: StripeWorld, worker: Worker, do: str, account: str, **ending: int) -> dict[str, Any]:
    """Let the process work on one account alone."""
    if do == "true_up":
        only_draft_of(world, account)
    return worker.ask(do=do, accounts=[account], now=int(world.now.timestamp()), **ending)


def killed_and_run_again(
    world: StripeWorld, worker: Worker, do: str, accounts: list[str], *, hours: tuple[int, ...] = (0, 25)
) -> dict[str, str]:
    """Let the first account live, kill the runs of the others, run them again; return how each account died."""
    lived = ran(world, worker, do, accounts[0])
    assert (lived["code"], len(lived["steps"]) > 3) == (0, True), lived
    found = deaths(lived["steps"], lived["microseconds"], iter(accounts[1:]), hours=hours)
    for one in found:
        code = ran(world, worker, do, one.account, **one.ending)["code"]
        assert code == SIGKILLED or "die_at" not in one.ending
        if one.hours == 0:
            assert ran(world, worker, do, one.account)["code"] == 0
    later = [one for one in found if one.hours]
    if later:
        world.advance_to(world.now + timedelta(hours=later[0].hours))
    for one in later:
        assert ran(world, worker, do, one.account)["code"] == 0
    assert [state for _, _, state in world.intents() if state in ("planned", "sent", "answered")] == []
    return {accounts[0]: "it lived", **{one.account: one.about for one in found}}


class TestKilled:
    def test_syncs_true_ups_and_credit_notes_charge_as_if_they_had_lived(
        self, database: Database, tmp_path: Path
    ) -> None:
        with opened(database, tmp_path, "fees_and_requests") as (world, worker, accounts):
            for account in accounts:
                world.books.use(account, "2026-03-03", 700)
            world.books.book_month(3)
            for account, about in killed_and_run_again(world, worker, "sync", accounts).items():
                assert [one.amount for one in world.pending(account)] == [700, 1099, 1299, 1599], about
            for account in accounts:
                world.books.use(account, "2026-03-04", 11)
            world.books.book_month(3)
            for account, about in killed_and_run_again(world, worker, "sync", accounts, hours=(25, 0)).items():
                assert [one.amount for one in world.pending(account)] == [711, 1099, 1299, 1599], about

            world.renew(APRIL)
            world.advance_to(APRIL + timedelta(minutes=45))
            for account in accounts:
                world.books.use(account, "2026-03-31", 44)
            world.complete(3)
            told = killed_and_run_again(world, worker, "true_up", accounts, hours=(0,))
            for account, about in told.items():
                (draft,) = world.invoices_at_stripe(account, status="draft")
                assert sum(world.ours(draft.id or "").values()) == 755 + FEES, about
            world.advance_to(APRIL + timedelta(hours=4))
            world.mirror()
            world.sync()
            for account in told:
                assert world.charged(account) == 755 + FEES, account
                number = world.books.newest(account, month(3)).number or ""
                world.books.added.credit(number, amount=Decimal("5.00"), decision=world.books.decision())
            for account, about in killed_and_run_again(world, worker, "credit_notes", list(told), hours=(25,)).items():
                found = world.sdk.v1.credit_notes.list({"customer": world.customers[account]}).data
                assert [one.amount for one in found] == [500], about

    def test_totals_on_meters_are_counted_as_if_they_had_lived(self, database: Database, tmp_path: Path) -> None:
        with opened(database, tmp_path, "metered") as (world, worker, accounts):
            world.advance_to(at("2026-03-05T06:00"))
            for account in accounts:
                world.books.use(account, "2026-03-05", 50)
            world.books.book_month(3)
            told = killed_and_run_again(world, worker, "sync", accounts)
            world.advance_to(world.now + timedelta(minutes=5))
            for account, about in told.items():
                assert counted_by_meter(world, account, month(3)) == 50, about
            world.renew(APRIL)
            for account in accounts:
                world.books.use(account, "2026-03-31", 44)
            world.complete(3)
            told = killed_and_run_again(world, worker, "true_up", accounts, hours=(0,))
            world.advance_to(world.now + timedelta(minutes=5))
            for account, about in told.items():
                assert counted_by_meter(world, account, month(3)) == 94, about
                stamps = [timestamp for timestamp, _ in meter_events_of(world, account)]
                assert stamps == sorted(set(stamps)), about
