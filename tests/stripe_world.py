"""An installation with a stand-in for Stripe: real stores, the real SDK over sockets, a clock that both sides share.

Usage is put in by hand (invoicing_world). Accounts have customers and monthly subscriptions of nothing at Stripe, which renew on
the first of each month; what is charged are our lines.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import stripe

from billing_pipeline.periods import Window
from billing_pipeline.stripe_sync.backoff import Backoff
from billing_pipeline.stripe_sync.policy import MeterRoute, SyncPolicy
from resources.database import Database
from resources.stripe_api.gateway import Attempt, StripeGateway
from resources.stripe_api.limiter import Pace, RateLimiter
from resources.stripe_mirror.feed import Relisting
from resources.stripe_mirror.gateway_reads import GatewayReads
from resources.stripe_mirror.invoice_life import StoredInvoiceLife
from resources.stripe_mirror.relist import Relister
from resources.stripe_mirror.settle import Settler
from resources.stripe_sim.meter_usage import billed_quantity
from resources.stripe_sim.rules import Rules
from resources.stripe_sim.server import RunningSim, serving_stripe
from resources.stripe_sync.account_sync import AccountOutcome
from resources.stripe_sync.credit_notes import CreditNoteOutcome, StripeCreditNotes
from resources.stripe_sync.sync_run import StripeSync, SyncReport
from resources.stripe_sync.true_up_run import StripeTrueUp, TrueUpReport
from resources.stripe_sync.writer import Reached, nothing_reached
from tests.invoicing_world import InvoicingWorld, accounts_of, days_of, month, subscriptions_of
from tests.stripe_fixtures import API_KEY, START, monthly_price, sdk_client, subscribe

# Far above what a test sends: pace has its own tests.
FAST = Pace(per_operation=10_000, overall=10_000, in_flight=8)


class Patience:
    """Sleeps that cost no time, on a clock of their own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)


@dataclass
class StripeWorld:
    """What a test of the sync works with."""

    books: InvoicingWorld
    sim: RunningSim
    sdk: stripe.StripeClient
    policy: SyncPolicy = field(default_factory=lambda: SyncPolicy(concurrency=2))
    customers: dict[str, str] = field(default_factory=dict)
    subscriptions: dict[str, str] = field(default_factory=dict)
    attempts: list[Attempt] = field(default_factory=list)
    patience: Patience = field(default_factory=Patience)
    reached: Reached = nothing_reached
    runs: int = 0

    @property
    def database(self) -> Database:
        return self.books.database

    @property
    def now(self) -> datetime:
        """The time on the stand-in's clock, which is ours too."""
        return datetime.fromtimestamp(self.sim.application.world.now, UTC)

    def clock(self) -> datetime:
        return self.now

    def advance_to(self, instant: datetime) -> None:
        """Let time pass on both sides."""
        self.sim.remote.advance_to(instant)
        self.books.now = self.now

    def gateway(self, **options: Any) -> StripeGateway:
        """Return a gateway whose waits cost no time, and that counts its calls."""
        defaults: dict[str, Any] = {
            "limiter": RateLimiter(FAST),
            "backoff": Backoff(total_seconds=20),
            "timeout_seconds": 5.0,
            "journal": self.attempts.append,
            "clock": self.patience.clock,
            "sleep": self.patience.sleep,
            "chance": lambda: 0.5,
        }
        return StripeGateway(api_key=API_KEY, base_url=self.sim.url, **{**defaults, **options})

    def link(self, *accounts: str, currency: str = "usd", subscribed: bool = True) -> None:
        """Make customers, and subscriptions that cost nothing, and let the mirror see them."""
        price = monthly_price(self.sdk, amount=0, currency=currency) if subscribed else ""
        for account in accounts:
            customer = self.sdk.v1.customers.create({"metadata": {"bp_account": account}}).id
            self.customers[account] = customer
            if subscribed:
                made = subscribe(self.sdk, customer, price, metadata={"bp_subscription": f"s_{account}"})
                self.subscriptions[account] = made.id
        self.mirror()

    def mirror(self) -> None:
        """List everything at Stripe into the mirror."""
        reads = GatewayReads(self.gateway(journal=_unseen))
        settler = Settler(database=self.database, clock=self.clock, life=StoredInvoiceLife(self.books.invoices))
        relister = Relister(database=self.database, reads=reads, clock=self.clock, settler=settler)
        relister.relist(Relisting(reason="a test asks", since=None))

    def sync(self, *accounts: str, verify: bool = False, gateway: StripeGateway | None = None) -> SyncReport:
        """Run the daily sync over all accounts, or some."""
        return self.syncing(gateway).run(run_id=self._run(), accounts=accounts or None, verify=verify)

    def demand(self, account: str) -> AccountOutcome:
        """Sync one account as when somebody opens its page."""
        return self.syncing().demand(account, run_id=self._run())

    def demand_impatiently(self, account: str) -> AccountOutcome:
        """Sync one account with no second try."""
        gateway = self.gateway(backoff=Backoff(total_seconds=0))
        return self.syncing(gateway).demand(account, run_id=self._run())

    def syncing(self, gateway: StripeGateway | None = None) -> StripeSync:
        """Return the sync."""
        made = gateway or self.gateway()
        return StripeSync(
            database=self.database,
            store=self.books.invoices,
            gateway=lambda: made,
            policy=self.policy,
            clock=self.clock,
            sleep=self.patience.sleep,
            reached=self.reached,
        )

    def true_up(self, gateway: StripeGateway | None = None, **policy: Any) -> TrueUpReport:
        """Bring all drafts that the mirror knows up to date."""
        return self.truing_up(gateway, **policy).run(run_id=self._run())

    def truing_up(self, gateway: StripeGateway | None = None, **policy: Any) -> StripeTrueUp:
        """Return the true-up."""
        made = gateway or self.gateway()
        return StripeTrueUp(
            database=self.database,
            store=self.books.invoices,
            gateway=lambda: made,
            policy=replace(self.policy, **policy),
            clock=self.clock,
            sleep=self.patience.sleep,
            reached=self.reached,
        )

    def credit_notes(self, gateway: StripeGateway | None = None, **policy: Any) -> list[CreditNoteOutcome]:
        """Bring credit notes to Stripe."""
        made = gateway or self.gateway()
        notes = StripeCreditNotes(
            database=self.database,
            gateway=lambda: made,
            policy=replace(self.policy, **policy),
            clock=self.clock,
            sleep=self.patience.sleep,
            reached=self.reached,
        )
        return list(notes.run(run_id=self._run()).results)

    def renew(self, instant: datetime) -> None:
        """Let time pass to a renewal, and let the mirror see its drafts."""
        self.advance_to(instant)
        self.mirror()

    def complete(self, number: int) -> None:
        """Write that all usage of a month is there, and book it."""
        self.books.build(days_of(month(number)))

    def use(self, account: str, day: str, quantity: int) -> None:
        """Put usage of a day, book its month and compile."""
        self.books.use(account, day, quantity)
        self.books.book_month(int(day[5:7]))

    def pending(self, account: str) -> list[stripe.InvoiceItem]:
        """Return the account's pending items at Stripe, in order of their amounts."""
        found = self.sdk.v1.invoice_items.list({"customer": self.customers[account], "pending": True, "limit": 100})
        return sorted(found.auto_paging_iter(), key=lambda item: item.amount)

    def invoices_at_stripe(self, account: str, **params: Any) -> list[stripe.Invoice]:
        """Return the account's invoices at Stripe, oldest first."""
        found = self.sdk.v1.invoices.list({"customer": self.customers[account], "limit": 100, **params})
        return list(found.auto_paging_iter())[::-1]

    def lines(self, invoice_id: str) -> list[stripe.InvoiceLineItem]:
        """Return all lines of an invoice at Stripe."""
        return list(self.sdk.v1.invoices.line_items.list(invoice_id, {"limit": 100}).auto_paging_iter())

    def ours(self, invoice_id: str) -> dict[str, int]:
        """Return our lines of an invoice: key -> amount. A key twice fails."""
        found = [(line.metadata["bp_key"], line.amount) for line in self.lines(invoice_id) if "bp_key" in line.metadata]
        assert len(found) == len(dict(found)), f"a key is charged twice on {invoice_id}: {found}"
        return dict(found)

    def charged(self, account: str) -> int:
        """Return what Stripe charges the account: our lines on invoices that are not void, and pending items, in its units."""
        total = sum(item.amount for item in self.pending(account) if "bp_key" in item.metadata)
        for invoice in self.invoices_at_stripe(account):
            if invoice.status != "void":
                total += sum(self.ours(invoice.id or "").values())
        return total

    def writes(self, *, ok_only: bool = False) -> list[str]:
        """Return the writes that left so far, as `POST /v1/…`."""
        return [
            f"{one.call.verb} {one.call.path}"
            for one in self.attempts
            if one.call.is_write and (one.outcome == "ok" or not ok_only)
        ]

    def forget_calls(self) -> None:
        """Begin to count calls anew."""
        self.attempts.clear()

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with self.database.reading() as connection:
            return list(connection.execute(query.encode(), values or None).fetchall())

    def intents(self) -> Sequence[tuple[str, str, str]]:
        """Return (operation, subject, state) of every intent, in order."""
        return self.rows(  # type: ignore[return-value]
            """
            select operation, subject, coalesce((
                select state from stripe.intent_state where intent_state.intent_id = intent.intent_id
                order by state_number desc limit 1
            ), 'planned')
            from stripe.intent
            order by intent_number
            """
        )

    def _run(self) -> str:
        self.runs += 1
        return f"run {self.runs}"


def link_by_meter(world: StripeWorld, *accounts: str) -> None:
    """Make customers whose requests cost a cent each by a meter at Stripe, and let the mirror see them."""
    v1 = world.sdk.v1
    meter = v1.billing.meters.create(
        {"display_name": "Requests", "event_name": "requests", "default_aggregation": {"formula": "last"}}
    )
    price = v1.prices.create(
        {
            "currency": "usd",
            "unit_amount": 1,
            "recurring": {"interval": "month", "usage_type": "metered", "meter": meter.id},
            "product_data": {"name": "Requests"},
        }
    )
    for account in accounts:
        customer = world.customers[account] = v1.customers.create({"metadata": {"bp_account": account}}).id
        made = subscribe(world.sdk, customer, price.id, metadata={"bp_subscription": f"s_{account}"})
        world.subscriptions[account] = made.id
    world.policy = replace(world.policy, meters={"by_meter": MeterRoute(price_id="by_meter", event_name="requests")})
    world.mirror()


def counted_by_meter(world: StripeWorld, account: str, period: Window) -> int:
    """Return what Stripe counts of a period, as it would bill it."""
    sim = world.sim.application.world
    (meter,) = sim.table("billing.meter").find(event_name="requests")
    start, end = int(period.start.timestamp()), int(period.end.timestamp())
    return int(billed_quantity(sim, meter["id"], world.customers[account], start, end))


def meter_events_of(world: StripeWorld, account: str) -> list[tuple[int, int]]:
    """Return (timestamp, value) of the account's meter events, in the order that Stripe took them."""
    sim = world.sim.application.world
    (meter,) = sim.table("billing.meter").find(event_name="requests")
    found = sim.meter_events.get((meter["id"], world.customers[account]), ())
    return [(one.timestamp, int(one.value)) for one in found]


def only_draft_of(world: StripeWorld, account: str) -> None:
    """Let the drafts of one account alone wait for their true-up."""
    with world.database.transaction() as connection:
        connection.execute(
            """
            update stripe.trueup_queue
            set state = 'waiting', done_at = null,
                not_before = case when account_id = %s then null else timestamptz '2027-01-01' end
            """,
            [account],
        )


def _unseen(attempt: Attempt) -> None:
    """Keep the mirror's calls out of what a test counts."""


@contextmanager
def stripe_world(
    database: Database,
    folder: Path,
    *,
    accounts: Mapping[str, tuple[str, str, str]] | None = None,
    rules: Rules | None = None,
    now: datetime = START,
) -> Iterator[StripeWorld]:
    """Open an installation whose clock stands at the beginning of March 2026, with no customer yet."""
    books = InvoicingWorld(database, folder / "catalog", now=now)
    books.load(
        **(
            {}
            if accounts is None
            else {"accounts": accounts_of(dict(accounts)), "subscriptions": subscriptions_of(dict(accounts))}
        )
    )
    with serving_stripe(now=now, rules=rules) as sim, sdk_client(sim.url) as sdk:
        yield StripeWorld(books=books, sim=sim, sdk=sdk)
