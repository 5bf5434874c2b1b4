"""An installation with a mirror of a made-up Stripe: what tests of the mirror do, in words."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from psycopg.rows import dict_row

from resources.catalog_store import CatalogStore
from resources.database import Database, Role
from resources.stripe_mirror.apply import Applied, EventApplier
from resources.stripe_mirror.feed import V1, EventFeed, Poll, Relisting
from resources.stripe_mirror.reads import StripeReads
from resources.stripe_mirror.relist import Relisted, Relister
from resources.stripe_mirror.settle import Settler
from tests.made_up_stripe import MadeUpStripe
from tests.prepaid_books import account, subscription, write_catalog

TABLES = (
    "stripe.event, stripe.event_work, stripe.event_feed, stripe.trueup_queue, stripe.meter_error, stripe.customer, "
    "stripe.subscription, stripe.subscription_item, stripe.invoice, stripe.invoice_line, stripe.payment, "
    "stripe.credit_note, stripe.settlement, stripe.changed_account, stripe.deleted_object, stripe.refresh, billing.payment_event, "
    "billing.payment_arrears_state, billing.suspension_change"
)


def always() -> bool:
    return True


def never() -> bool:
    return False


@dataclass
class Mirror:
    """A database and the mirror's parts over it. `now` is our clock."""

    database: Database
    stripe: MadeUpStripe
    now: datetime = datetime(2026, 4, 1, 0, 0, 5, tzinfo=UTC)
    settler: Settler = field(init=False)

    def __post_init__(self) -> None:
        self.settler = Settler(database=self.database, clock=self.clock)

    @classmethod
    def opened(cls, database: Database, folder: Path, accounts: tuple[str, ...] = ("acme", "beta")) -> "Mirror":
        texts = {
            "accounts": "".join(account(name) for name in accounts),
            "subscriptions": "".join(subscription(name).replace(f"s_{name}_paygo", name) for name in accounts),
        }
        CatalogStore(database).load(write_catalog(folder, **texts))
        return cls(database, MadeUpStripe())

    def clock(self) -> datetime:
        return self.now

    def tick(self, **delta: float) -> None:
        """Let time pass here and at Stripe."""
        self.now += timedelta(**delta)
        self.stripe.tick(**delta)

    @property
    def reads(self) -> StripeReads:
        return self.stripe

    @property
    def feed(self) -> EventFeed:
        return EventFeed(database=self.database, reads=self.reads, clock=self.clock)

    @property
    def applier(self) -> EventApplier:
        return EventApplier(database=self.database, reads=self.reads, clock=self.clock, settler=self.settler)

    def poll(self, feed: str = V1, may_go_on: Callable[[], bool] = always) -> Poll:
        return self.feed.poll(feed, may_go_on=may_go_on)

    def apply(self, **options: Any) -> Applied:
        return self.applier.apply_open(run_id="run", **options)

    def follow(self) -> Applied:
        """Read the feed and apply what is new."""
        self.poll()
        return self.apply()

    def relist(self, reason: str = "events were never read", since: datetime | None = None) -> Relisted:
        relister = Relister(database=self.database, reads=self.reads, clock=self.clock, settler=self.settler)
        return relister.relist(Relisting(reason=reason, since=since))

    def settled_with(self, **changes: Any) -> None:
        self.settler = replace(self.settler, **changes)

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        with self.database.reading() as connection, connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query.encode(), values or None).fetchall()

    def one(self, query: str, *values: object) -> Any:
        (row,) = self.rows(query, *values)
        return next(iter(row.values())) if len(row) == 1 else row

    def empty(self) -> None:
        """Forget everything of Stripe's."""
        with self.database.connect(Role.OWNER) as connection:
            connection.execute(f"truncate {TABLES} cascade".encode())

    def contents(self) -> dict[str, list[dict[str, Any]]]:
        """Return the mirror and what it led to, without when and in which order it came."""
        left_out = {"fetched_at", "fetch_number", "first_seen_at", "changed_at", "updated_at", "received_at", "seen_at"}
        queries = {
            "customer": "select * from stripe.customer order by 1",
            "subscription": "select * from stripe.subscription order by 1",
            "item": "select * from stripe.subscription_item order by 1, 2",
            "invoice": "select * from stripe.invoice order by 1",
            "line": "select * from stripe.invoice_line order by 1, 2",
            "payment": "select * from stripe.payment order by 1",
            "queue": "select * from stripe.trueup_queue order by 1",
            "payments": "select * from billing.payment_event order by 1",
            "arrears": "select * from billing.payment_arrears_state order by 1",
        }
        return {
            name: [{key: value for key, value in row.items() if key not in left_out} for row in self.rows(query)]
            for name, query in queries.items()
        }
