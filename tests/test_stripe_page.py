"""What a person sees of Stripe on a terminal: what is held, how old it is, which events are not applied."""

from collections.abc import Iterator
from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from console.stripe_page import NotLinkedError, print_events, print_stripe
from resources.alerting.conditions import ConditionReader
from resources.alerting.notice import IncidentKind
from resources.alerting.policy import AlertPolicy
from resources.database import Database
from resources.stripe_mirror.feed import V1
from resources.stripe_mirror.following import StripeFollowing
from resources.stripe_mirror.gateway_reads import GatewayReads
from resources.stripe_mirror.links import stripe_links
from tests.stripe_books import Mirror
from tests.stripe_world import StripeWorld, stripe_world


@pytest.fixture
def mirror(database: Database, tmp_path: Path) -> Mirror:
    return Mirror.opened(database, tmp_path / "catalog")


def following(mirror: Mirror) -> StripeFollowing:
    return StripeFollowing(database=mirror.database, open_reads=lambda: mirror.reads, clock=mirror.clock, feeds=(V1,))


def printed(mirror: Mirror, account: str = "acme", *, ask: bool = True) -> str:
    text = StringIO()
    print_stripe(Console(file=text, width=200), following(mirror), account, now=mirror.now, ask=ask)
    return text.getvalue()


class TestStripePage:
    def test_shows_what_stripe_holds_and_its_age(self, mirror: Mirror) -> None:
        customer = mirror.stripe.customer("acme")
        mirror.stripe.subscription(customer)
        mirror.stripe.pay(mirror.stripe.invoice(customer))
        mirror.follow()
        mirror.tick(minutes=10)
        text = printed(mirror)
        assert "acme at Stripe: cus_acme, USD" in text
        assert "sub_acme" in text
        assert "50.00 USD" in text
        assert "invoices listed 0 s ago" in text

    def test_shows_what_is_known_while_stripe_is_away(self, mirror: Mirror) -> None:
        mirror.stripe.invoice(mirror.stripe.customer("acme"))
        mirror.follow()
        printed(mirror)
        mirror.tick(hours=3)
        mirror.stripe.is_away = True
        text = printed(mirror)
        assert "in_0001" in text
        assert "invoices listed 3 h ago" in text
        assert "not since: Stripe is away" in text

    def test_asks_nobody_when_told_so(self, mirror: Mirror) -> None:
        mirror.stripe.invoice(mirror.stripe.customer("acme"))
        mirror.follow()
        before = mirror.stripe.calls.copy()
        assert "invoices listed never" in printed(mirror, ask=False)
        assert mirror.stripe.calls == before

    def test_says_what_to_do_without_a_link(self, mirror: Mirror) -> None:
        with pytest.raises(NotLinkedError, match="bp_account"):
            printed(mirror, "beta")

    def test_says_when_the_customer_is_deleted(self, mirror: Mirror) -> None:
        mirror.stripe.customer("acme")
        mirror.follow()
        with mirror.database.reading() as connection:
            assert stripe_links(connection).customers["acme"].customer_id == "cus_acme"
        mirror.stripe.delete("cus_acme", "customer.deleted")
        mirror.follow()
        with pytest.raises(NotLinkedError):
            printed(mirror)


class TestStanding:
    """FLY-16."""

    @pytest.fixture
    def world(self, database: Database, tmp_path: Path) -> Iterator[StripeWorld]:
        with stripe_world(database, tmp_path, accounts={"acme": ("fees_and_requests", "USD", "")}) as world:
            yield world

    def page(self, world: StripeWorld) -> str:
        text = StringIO()
        looking = StripeFollowing(
            database=world.database, open_reads=lambda: GatewayReads(world.gateway()), clock=world.clock
        )
        print_stripe(Console(file=text, width=200), looking, "acme", now=world.now, ask=True)
        return text.getvalue()

    def test_is_shown_while_stripe_is_down_with_the_total_here_and_told_of(self, world: StripeWorld) -> None:
        world.link("acme")
        assert "never synced" in self.page(world)
        world.use("acme", "2026-03-05", 100)
        world.sync()
        synced_at = world.now
        world.advance_to(world.now + timedelta(minutes=1))
        assert f"in step with Stripe since {synced_at:%Y-%m-%d %H:%M} UTC" in self.page(world)
        world.sim.remote.fault("unavailable", times=10_000)
        world.use("acme", "2026-03-06", 300)
        world.sync()
        world.advance_to(world.now + timedelta(hours=2))
        world.sync()
        text = self.page(world)
        assert "open invoices here: 43.97 USD" in text
        assert "not synced since 2026-03-01 00:01 UTC (2 h)" in text
        reader = ConditionReader(database=world.database, policy=AlertPolicy(sync_lag=timedelta(hours=1)))
        late = reader.conditions(now=world.now)[IncidentKind.SYNC_LAG]
        assert [one.subject for one in late] == ["stripe sync", "account acme"]


class TestEventsPage:
    def test_shows_how_far_reading_is_and_what_is_not_applied(self, mirror: Mirror) -> None:
        for name in ("acme", "beta"):
            mirror.stripe.customer(name)
        mirror.stripe.broken.add("cus_beta")
        mirror.follow()
        mirror.now += timedelta(seconds=1)
        text = StringIO()
        print_events(Console(file=text, width=200), mirror.database, limit=10)
        assert "Feed v1: complete until 2026-04-01 00:00:00 UTC" in text.getvalue()
        assert "everything is to be listed: events were never read" in text.getvalue()
        assert "1 events applied, 1 open, 0 dead" in text.getvalue()
        assert "cus_beta" in text.getvalue()
        assert "no readable" in text.getvalue()
