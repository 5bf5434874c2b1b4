"""A month from files to a paid invoice while everything that can go wrong does: row X-06 of the checklist.

No Stripe, no AWS, no exporter: files in a folder, and the stand-in, which loses answers, refuses, is away, and tells its events
twice and in reverse. At the end both sides are equal to the cent, and nobody else's line was touched.
"""

import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from billing_pipeline.errors import BillingError
from billing_pipeline.reconciliation import Agreement
from resources.invoicing.invoice_reader import InvoiceReader
from resources.reconciliation.reconciler import Reconciler
from resources.stripe_mirror.following import StripeFollowing
from resources.stripe_mirror.gateway_reads import GatewayReads
from resources.stripe_mirror.invoice_life import StoredInvoiceLife
from resources.stripe_sim.server import serving_stripe
from tests.chain import RUN, Call, Installation, Site, api_key, lines
from tests.invoicing_world import InvoicingWorld, days_of, month
from tests.stripe_fixtures import START, sdk_client
from tests.stripe_world import StripeWorld
from tests.test_acceptance import write_few_requests_catalog

ACCOUNTS = ("acme", "beta")
FAULTS = (
    "drop_before",
    "drop_after",
    "rate_limit",
    "lock_timeout",
    "unavailable",
    "error_before",
    "error_after",
    "html",
)
APRIL, MAY = month(4).start, month(5).start
MOST_TRIES = 12


@pytest.fixture(scope="module")
def site(postgres_url: str, template_database: str, tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("faults")
    write_few_requests_catalog(folder / "catalog", *ACCOUNTS)
    return Site(postgres_url, template_database, folder)


@dataclass
class Month:
    """An installation beside a stand-in in which something goes wrong at every step."""

    here: Installation
    world: StripeWorld
    chance: random.Random
    faults: int = 0
    numbers: dict[str, int] = field(default_factory=dict)

    def deliver(self, day: date, requests: dict[str, int], *, event_day: date | None = None) -> None:
        """Deliver a file for a day with so many requests of each account, and bring usage, charges and books up to date."""
        noon = datetime(*(event_day or day).timetuple()[:3], 12, tzinfo=UTC)
        calls = []
        for account, count in requests.items():
            for _ in range(count):
                number = self.numbers[account] = self.numbers.get(account, 0) + 1
                calls.append(Call(request_id=f"{account}-{number}", at=noon, client_id=f"c_{account}"))
        self.here.deliver([(api_key(day, f"{len(self.numbers)}-{sum(self.numbers.values())}.jsonl"), lines(calls))])
        self.here.bring_up_to_date()

    def complete(self, number: int) -> None:
        """Build all days of a month: the rest of them have nothing."""
        self.here.build(days_of(month(number)))
        self.here.charges.book_days(days_of(month(number)), run_id=RUN, code_version="test")

    def go_wrong(self) -> None:
        """Let some of the next requests go wrong, each in its own way."""
        for _ in range(self.chance.randrange(1, 4)):
            times = self.chance.randrange(1, 3)
            self.world.sim.remote.fault(self.chance.choice(FAULTS), times=times, after=self.chance.randrange(6))
            self.faults += times
        self.world.sim.remote.event_faults(**{self.chance.choice(("doubled", "redelivered")): 2, "reversed_batches": 1})

    def until(self, done: object, step: object) -> None:
        """Repeat a step, while things go wrong, until it is done; an hour lies between two tries."""
        for _ in range(MOST_TRIES):
            self.go_wrong()
            with suppress(BillingError):
                step()  # type: ignore[operator]
            if done():  # type: ignore[operator]
                return
            self.world.advance_to(self.world.now + timedelta(minutes=10))
        raise AssertionError(f"not done after {MOST_TRIES} tries")

    def sync(self) -> None:
        """Sync until everybody is in step."""
        seen = []
        self.until(
            lambda: seen and not seen[-1].problem and not seen[-1].failed, lambda: seen.append(self.world.sync())
        )

    def follow(self) -> None:
        """Read Stripe's events and apply them, until nothing is open."""
        world = self.world
        following = StripeFollowing(
            database=world.database,
            open_reads=lambda: GatewayReads(world.gateway()),
            clock=world.clock,
            life=StoredInvoiceLife(world.books.invoices),
        )
        read: list[bool] = []

        def step() -> None:
            polls = following.poll(may_go_on=lambda: True)
            following.follow(run_id=RUN)
            read.append(all(poll.is_complete for poll in polls))

        self.until(lambda: read and read[-1] and not following.is_due(), step)

    def renew(self, at: datetime) -> None:
        """Let a period end, and its drafts be brought up to date, become final and be paid."""
        self.world.advance_to(at + timedelta(minutes=1))
        self.follow()
        waiting = "select count(*) from stripe.trueup_queue where state = 'waiting'"
        assert self.world.rows(waiting) == [(len(ACCOUNTS),)]
        self.until(lambda: self.world.rows(waiting) == [(0,)], self.world.true_up)
        self.world.advance_to(at + timedelta(hours=26))
        self.follow()
        self.sync()


@pytest.fixture
def month_here(site: Site) -> Iterator[Month]:
    with site.installation() as here, serving_stripe(now=START) as sim, sdk_client(sim.url) as sdk:
        here.catalog.load(here.catalog_dir)
        world = StripeWorld(books=InvoicingWorld(here.database, here.catalog_dir, now=START), sim=sim, sdk=sdk)
        world.link(*ACCOUNTS)
        yield Month(here=here, world=world, chance=random.Random(6))


class TestAMonth:
    def test_with_faults_at_every_step_ends_equal_to_the_cent(self, month_here: Month) -> None:
        """X-06."""
        world = month_here.world
        foreign = world.sdk.v1.invoice_items.create(
            {
                "customer": world.customers["acme"],
                "subscription": world.subscriptions["acme"],
                "amount": 777,
                "currency": "usd",
            }
        )
        for day in (1, 2, 3):
            month_here.deliver(date(2026, 3, day), {"acme": 10 + day, "beta": 5 * day})
            world.advance_to(START + timedelta(days=day))
            month_here.sync()
        month_here.complete(3)
        month_here.renew(APRIL)
        # What comes late is on the next invoice, beside what support gives back.
        month_here.deliver(date(2026, 4, 2), {"acme": 4}, event_day=date(2026, 3, 2))
        world.books.now = world.now
        world.books.added.adjust("beta", reach=month(4), amount=Decimal("-1.25"), decision=world.books.decision())
        month_here.deliver(date(2026, 4, 3), {"beta": 8})
        month_here.sync()
        month_here.complete(4)
        month_here.renew(MAY)
        assert {account: world.charged(account) for account in ACCOUNTS} == {
            "acme": 50 * (11 + 12 + 13 + 4),
            "beta": 50 * (5 + 10 + 15 + 8) - 125,
        }
        for account in ACCOUNTS:
            assert world.books.receivable(account).minor_units == world.charged(account)
        assert InvoiceReader(world.database).disagreements() == ()
        assert [line.amount for line in self.lines_of(world, foreign.id)] == [777]
        world.advance_to(world.now + timedelta(minutes=1))
        world.sim.remote.clear_faults()
        reads = GatewayReads(world.gateway())
        found = Reconciler(database=world.database, reads=lambda: reads, clock=world.clock).reconcile(
            date(2026, 5, 2), run_id=RUN
        )
        assert {row.agreement for row in found.rows} == {Agreement.EQUAL}
        assert month_here.faults > 20

    def lines_of(self, world: StripeWorld, item_id: str | None) -> list[object]:
        return [
            line
            for invoice in world.invoices_at_stripe("acme")
            for line in world.lines(invoice.id or "")
            if line.parent
            and line.parent.invoice_item_details
            and line.parent.invoice_item_details.invoice_item == item_id
        ]
