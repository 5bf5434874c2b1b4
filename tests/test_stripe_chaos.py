"""Whatever goes wrong in a month: in the end Stripe charges what the ledger says, nothing twice, and no line of others is touched.

`BILLING_STRIPE_CHAOS` sets how many scripts are played (200 take some minutes), `BILLING_STRIPE_CHAOS_SEED` where they begin;
`BILLING_STRIPE_CHAOS_KILL9=1` lets runs that die be processes of their own, killed by SIGKILL.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from resources.database import Database
from resources.stripe_sync import intent_store
from tests.invoicing_world import month
from tests.stripe_chaos import ACCOUNTS, BY_ITEMS, BY_METER, GROUPED, Chaos, unharmed
from tests.stripe_worker import Worker
from tests.stripe_world import StripeWorld, counted_by_meter, link_by_meter, meter_events_of, stripe_world

SCRIPTS = int(os.environ.get("BILLING_STRIPE_CHAOS") or 10)
END_OF_MARCH = int(month(3).end.timestamp())
KILL_HARD = os.environ.get("BILLING_STRIPE_CHAOS_KILL9") == "1"
FIRST = int(os.environ.get("BILLING_STRIPE_CHAOS_SEED") or 1)


def charged_by_meter(world: StripeWorld) -> int:
    """Return what Stripe charges for metered usage: on invoices, and counted of the period that lasts."""
    invoiced = sum(
        line.amount
        for invoice in world.invoices_at_stripe(BY_METER)
        if invoice.status not in ("void", "draft")
        for line in world.lines(invoice.id or "")
        if line.parent is not None and line.parent.type == "subscription_item_details"
    )
    return invoiced + counted_by_meter(world, BY_METER, month(4))


def wrong(chaos: Chaos) -> list[str]:
    """Return what is not as it must be."""
    world, found = chaos.world, []
    for account in ACCOUNTS:
        at_stripe = world.charged(account) + (charged_by_meter(world) if account == BY_METER else 0)
        receivable = world.books.receivable(account).minor_units
        if at_stripe != receivable:
            found.append(f"{account}: Stripe charges {at_stripe}, the ledger says {receivable}")
        pending = Counter(item.metadata["bp_key"] for item in world.pending(account) if "bp_key" in item.metadata)
        found += [f"{account}: {key} waits {count} times" for key, count in pending.items() if count > 1]
    found += [f"ledger and invoices of {one.account_id} differ by {one.missing}" for one in world.books.disagreements()]
    found += [f"{item} of others was changed" for item in unharmed(chaos)]
    found += [
        f"{subject} is {state}" for _, subject, state in world.intents() if state in ("planned", "sent", "answered")
    ]
    with world.database.reading() as connection:
        found += [f"refused: {one.call} {one.answer}" for one in intent_store.dead_letters(connection)]
    stamps = [timestamp for timestamp, _ in meter_events_of(world, BY_METER)]
    # Late totals of March may come between those of April.
    for of_a_month in ([one for one in stamps if one < END_OF_MARCH], [one for one in stamps if one >= END_OF_MARCH]):
        if of_a_month != sorted(set(of_a_month)):
            found.append(f"timestamps of meter events do not grow: {stamps}")
    return found


@contextmanager
def killing(world: StripeWorld) -> Iterator[Callable[[str, int], None] | None]:
    """Yield what lets a run die in a process of its own, where that is asked for."""
    if not KILL_HARD:
        yield None
        return
    worker = Worker(world.database.url, world.sim.url)
    try:
        yield lambda do, step: worker.ask(do=do, now=int(world.now.timestamp()), die_at=step) and None
    finally:
        worker.close()


class TestChaos:
    @pytest.mark.parametrize("seed", range(FIRST, FIRST + SCRIPTS))
    def test_ends_with_every_cent_charged_once(self, seed: int, database: Database, tmp_path: Path) -> None:
        with stripe_world(database, tmp_path, accounts=ACCOUNTS) as world:
            world.link(BY_ITEMS, GROUPED)
            link_by_meter(world, BY_METER)
            with killing(world) as kill_hard:
                chaos = Chaos(world, seed, kill_hard)
                chaos.month_of_trouble()
                chaos.calm()
                assert wrong(chaos) == [], "\n".join(chaos.told)
