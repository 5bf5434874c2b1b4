"""Following Stripe over real sockets: the real SDK, the stand-in, the gateway, PostgreSQL. Rows of the contract by number."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import stripe

from billing_pipeline.stripe_events.envelope import ObjectKind
from console.stripe_webhook import PATH, Acknowledge, WebhookServices, webhook_app
from resources.asgi_server import serving
from resources.catalog_store import CatalogStore
from resources.database import Database
from resources.stripe_api.gateway import StripeGateway
from resources.stripe_api.limiter import Pace, RateLimiter
from resources.stripe_mirror import trueup_queue
from resources.stripe_mirror.following import Followed, StripeFollowing
from resources.stripe_mirror.gateway_reads import GatewayReads
from resources.stripe_mirror.links import stripe_links
from resources.stripe_mirror.reads import CursorUnknownError, StripeAwayError
from resources.stripe_mirror.webhook_inbox import WebhookInbox
from resources.stripe_sim.server import RunningSim
from tests.prepaid_books import account, subscription, write_catalog
from tests.stripe_books import Mirror, always
from tests.stripe_fixtures import API_KEY, START, monthly_price, subscribe
from tests.stripe_fixtures import stripe_client as stripe_client
from tests.stripe_fixtures import stripe_sim as stripe_sim

APRIL = START.replace(month=4)
HOUR = timedelta(hours=1)
BRISK = Pace(per_operation=10_000, overall=10_000)


class Shop:
    """A shop at the stand-in, and our following of it. Our clock is Stripe's."""

    def __init__(self, sim: RunningSim, client: stripe.StripeClient, database: Database) -> None:
        self.sim = sim
        self.v1 = client.v1
        self.client = client
        self.database = database
        self.gateway = StripeGateway(
            api_key=API_KEY, base_url=sim.url, limiter=RateLimiter(BRISK), read_only=True, sleep=lambda seconds: None
        )
        self.price = monthly_price(client)
        self.following = StripeFollowing(
            database=database,
            open_reads=lambda: GatewayReads(self.gateway),
            clock=lambda: self.sim.remote.now,
        )
        self.look = Mirror(database, stripe=None)  # type: ignore[arg-type]

    def customer(self, name: str) -> tuple[str, str]:
        """Make a customer with a subscription, linked to our account, and return both ids."""
        customer = self.v1.customers.create({"name": name, "metadata": {"bp_account": name}})
        held = subscribe(self.client, customer.id, self.price, metadata={"bp_subscription": name})
        return customer.id, held.id

    def renew(self) -> None:
        """Go on to the next month: every subscription has a draft then."""
        self.sim.remote.advance_to(APRIL)

    def follow(self) -> Followed:
        self.following.poll(may_go_on=always)
        return self.following.follow(run_id="run")

    def requests(self, path: str) -> int:
        return sum(line["path"].startswith(path) for line in self.sim.remote.log())


@pytest.fixture
def shop(
    stripe_sim: RunningSim, stripe_client: stripe.StripeClient, database: Database, tmp_path: Path
) -> Iterator[Shop]:
    texts = {
        "accounts": account("acme") + account("beta"),
        "subscriptions": "".join(subscription(name).replace(f"s_{name}_paygo", name) for name in ("acme", "beta")),
    }
    CatalogStore(database).load(write_catalog(tmp_path / "catalog", **texts))
    return Shop(stripe_sim, stripe_client, database)


class TestAMonth:
    def test_is_followed_from_subscription_to_payment(self, shop: Shop) -> None:
        customer, held = shop.customer("acme")
        shop.follow()
        with shop.database.reading() as connection:
            links = stripe_links(connection)
        assert links.customers["acme"].customer_id == customer
        assert links.subscriptions["acme"].stripe_subscription_id == held
        assert links.subscriptions["acme"].period is not None
        assert links.subscriptions["acme"].period.end == APRIL
        # Row 23: the first invoice is final at once and needs no true-up.
        assert shop.look.rows("select * from stripe.trueup_queue") == []
        shop.renew()
        shop.follow()
        queued = shop.look.one("select * from stripe.trueup_queue")
        assert (queued["state"], queued["account_id"], queued["boundary_at"]) == ("waiting", "acme", APRIL)
        # Row 20: it is final before the true-up.
        shop.sim.remote.advance(2 * HOUR)
        shop.follow()
        assert shop.look.one("select state from stripe.trueup_queue") == "missed"
        statuses = shop.look.rows(
            "select status, amount_paid_stripe_minor as paid from stripe.invoice order by created_at"
        )
        assert statuses == [{"status": "paid", "paid": 2900}] * 2
        assert shop.look.one("select count(*) from stripe.payment where status = 'paid'") == 2
        kinds = shop.look.rows("select kind, billing_reason from billing.payment_event order by happened_at")
        assert [row["billing_reason"] for row in kinds] == ["subscription_create", "subscription_cycle"]

    def test_of_a_customer_who_does_not_pay_ends_in_arrears_and_payment_ends_them(self, shop: Shop) -> None:
        customer, _ = shop.customer("acme")
        shop.sim.remote.decline(customer)
        shop.renew()
        shop.sim.remote.advance(2 * HOUR)
        shop.follow()
        failed_at = shop.look.one("select arrears_since from billing.payment_arrears_state")
        assert APRIL + HOUR <= failed_at <= APRIL + 2 * HOUR
        shop.sim.remote.decline(customer, declines=False)
        shop.sim.remote.advance(timedelta(days=4))
        shop.follow()
        assert not shop.look.one("select payment_arrears from billing.payment_arrears_state")

    def test_says_where_the_period_ends_whatever_the_invoice_and_the_clock_say(self, shop: Shop) -> None:
        """Row 24."""
        shop.customer("acme")
        shop.renew()
        shop.following = StripeFollowing(
            database=shop.database,
            open_reads=lambda: GatewayReads(shop.gateway),
            clock=lambda: datetime.fromisoformat("2031-07-07T00:00:00+00:00"),
        )
        shop.follow()
        assert shop.look.one("select boundary_at from stripe.trueup_queue") == APRIL

    def test_leaves_other_invoices_alone(self, shop: Shop) -> None:
        """Row 23: manual ones, and those of an upgrade in mid-cycle, which take our pending items along (row 25)."""
        customer, held = shop.customer("acme")
        shop.v1.invoice_items.create(
            {"customer": customer, "subscription": held, "amount": 700, "metadata": {"bp_key": "k" * 32}}
        )
        manual = shop.v1.invoices.create(
            {"customer": customer, "subscription": held, "pending_invoice_items_behavior": "include"}
        )
        shop.follow()
        assert shop.look.rows("select * from stripe.trueup_queue") == []
        taken = shop.look.one("select invoice_id from stripe.invoice_line where metadata ->> 'bp_key' = %s", "k" * 32)
        assert taken == manual.id
        shop.renew()
        shop.follow()
        assert shop.look.one("select count(*) from stripe.trueup_queue") == 1

    def test_reads_240_lines_and_deleted_drafts(self, shop: Shop) -> None:
        customer, _ = shop.customer("acme")
        draft = shop.v1.invoices.create({"customer": customer})
        for first in range(0, 240, 80):
            shop.v1.invoices.add_lines(
                draft.id, {"lines": [{"amount": 1, "metadata": {"bp_key": f"{first + n}"}} for n in range(80)]}
            )
        shop.follow()
        assert shop.look.one("select count(*) from stripe.invoice_line where invoice_id = %s", draft.id) == 240
        shop.v1.invoices.delete(draft.id)
        shop.follow()
        assert shop.look.one("select status from stripe.invoice where invoice_id = %s", draft.id) == "deleted"


class TestFeed:
    """Rows 34, 35 and FLY-11."""

    @pytest.mark.parametrize("faults", [{"doubled": 40}, {"late": 40, "late_seconds": 120}, {"reversed_batches": 40}])
    def test_that_is_doubled_late_or_in_reverse_ends_the_same(self, shop: Shop, faults: dict[str, int]) -> None:
        shop.sim.remote.event_faults(**faults)
        for name in ("acme", "beta"):
            shop.customer(name)
        shop.follow()
        shop.renew()
        shop.follow()
        shop.sim.remote.advance(timedelta(minutes=5))
        shop.follow()
        assert shop.look.one("select count(*) from stripe.trueup_queue where state = 'waiting'") == 2
        shop.sim.remote.advance(HOUR)
        shop.follow()
        shop.sim.remote.advance(timedelta(minutes=5))
        shop.follow()
        statuses = shop.look.rows("select distinct status, amount_paid_stripe_minor as paid from stripe.invoice")
        assert statuses == [{"status": "paid", "paid": 2900}]
        assert shop.look.one("select count(*) from billing.payment_event") == 4
        assert shop.look.one("select count(*) from stripe.event_work where state <> 'applied'") == 0

    def test_after_a_gap_beyond_its_reach_is_made_good_by_listing(self, shop: Shop) -> None:
        shop.customer("acme")
        shop.follow()
        shop.renew()
        shop.sim.remote.advance(timedelta(days=32))
        polls = shop.following.poll(may_go_on=always)
        assert polls[0].relist_reason is not None
        followed = shop.following.follow(run_id="run")
        assert followed.relisted is not None
        assert shop.look.one("select count(*) from stripe.invoice") == len(shop.v1.invoices.list({"limit": 100}).data)
        assert shop.following.follow(run_id="run").relisted is None

    def test_says_when_it_does_not_know_an_event(self, shop: Shop) -> None:
        with pytest.raises(CursorUnknownError):
            list(
                shop.following.reads.list_events(
                    types=["invoice.created"], created_from=START, starting_after="evt_nothing"
                )
            )

    def test_waits_while_stripe_is_away_and_loses_nothing(self, shop: Shop) -> None:
        shop.customer("acme")
        shop.following.poll(may_go_on=always)
        shop.sim.remote.fault("unavailable", times=1_000)
        with pytest.raises(StripeAwayError):
            shop.following.follow(run_id="run")
        shop.sim.remote.clear_faults()
        shop.gateway = StripeGateway(api_key=API_KEY, base_url=shop.sim.url, limiter=RateLimiter(BRISK))
        shop.following = StripeFollowing(
            database=shop.database,
            open_reads=lambda: GatewayReads(shop.gateway),
            clock=lambda: shop.sim.remote.now,
        )
        shop.follow()
        assert shop.look.one("select count(*) from stripe.event_work where state <> 'applied'") == 0
        assert shop.look.one("select max(attempts) from stripe.event_work") == 0


class TestReads:
    """FLY-10 and row 38."""

    def test_of_a_minute_are_one_call(self, shop: Shop) -> None:
        customer, _ = shop.customer("acme")
        before = shop.requests("/v1/invoices")
        for _ in range(100):
            assert len(shop.following.mirror.invoices(customer)) == 1
        # One list; the payments of the one invoice that was new.
        assert shop.requests("/v1/invoices") - before == 1
        shop.sim.remote.advance(timedelta(seconds=61))
        shop.following.mirror.invoices(customer)
        assert shop.requests("/v1/invoices") - before == 2

    def test_are_fresh_after_an_event(self, shop: Shop) -> None:
        customer, _ = shop.customer("acme")
        shop.following.mirror.invoices(customer)
        draft = shop.v1.invoices.create({"customer": customer})
        shop.sim.remote.advance(timedelta(seconds=1))
        assert len(shop.following.mirror.invoices(customer)) == 1
        shop.following.poll(may_go_on=always)
        found = {one.invoice.invoice_id for one in shop.following.mirror.invoices(customer)}
        assert draft.id in found

    def test_work_with_stripe_away_and_say_how_old_they_are(self, shop: Shop) -> None:
        customer, _ = shop.customer("acme")
        known = shop.following.mirror.customer(customer)
        shop.sim.remote.advance(timedelta(minutes=10))
        shop.sim.remote.fault("unavailable", times=1_000)
        found = shop.following.mirror.customer(customer)
        assert [one.invoice for one in found.invoices] == [one.invoice for one in known.invoices]
        assert found.invoices[0].fetched_at == START
        freshness = found.freshness[ObjectKind.INVOICE]
        assert freshness.fetched_at == START
        assert freshness.problem is not None
        calls = shop.requests("/v1/")
        shop.following.mirror.customer(customer)
        assert shop.requests("/v1/") == calls

    def test_of_a_deleted_draft_find_out(self, shop: Shop) -> None:
        customer, _ = shop.customer("acme")
        draft = shop.v1.invoices.create({"customer": customer})
        shop.following.mirror.invoices(customer)
        shop.v1.invoices.delete(draft.id)
        shop.sim.remote.advance(timedelta(minutes=2))
        found = {one.invoice.invoice_id: one.invoice.status for one in shop.following.mirror.invoices(customer)}
        assert found[draft.id] == "deleted"


class TestWebhooks:
    """Rows 34 to 36 with the stand-in's own deliveries; the feed is not read."""

    @contextmanager
    def endpoint(self, shop: Shop, acknowledge: Acknowledge = Acknowledge.WHEN_STORED) -> Iterator[None]:
        secrets = list[str]()
        services = WebhookServices(
            inbox=WebhookInbox(shop.database),
            secrets=secrets,
            is_live=False,
            clock=lambda: datetime.now(UTC),
            acknowledge=acknowledge,
        )
        with serving(webhook_app(services)) as url:
            made = shop.v1.webhook_endpoints.create({"url": url + PATH, "enabled_events": ["*"]})
            assert made.secret is not None
            secrets.append(made.secret)
            yield

    def test_alone_are_enough(self, shop: Shop) -> None:
        with self.endpoint(shop):
            shop.sim.remote.event_faults(redelivered=20, reversed_batches=20)
            shop.customer("acme")
            shop.renew()
            shop.sim.remote.advance(2 * HOUR)
        shop.following.follow(run_id="run")
        statuses = shop.look.rows("select distinct status, amount_paid_stripe_minor as paid from stripe.invoice")
        assert statuses == [{"status": "paid", "paid": 2900}]
        assert shop.look.one("select count(*) from billing.payment_event") == 2
        assert {row["received_from"] for row in shop.look.rows("select received_from from stripe.event")} == {"webhook"}
        shop.follow()
        assert shop.look.one("select count(*) from billing.payment_event") == 2

    def test_are_not_acknowledged_before_the_true_up(self, shop: Shop) -> None:
        """DH-14: the invoice stays a draft for as long as it is not up to date."""
        shop.customer("acme")
        shop.follow()
        with self.endpoint(shop, Acknowledge.WHEN_TRUED_UP):
            shop.renew()
            shop.sim.remote.advance(3 * HOUR)
            (draft,) = shop.v1.invoices.list({"status": "draft"}).data
            shop.following.follow(run_id="run")
            shop.sim.remote.advance(6 * HOUR)
            assert shop.v1.invoices.retrieve(draft.id).status == "draft"
            with shop.database.transaction() as connection:
                trueup_queue.done(connection, draft.id, now=shop.sim.remote.now)
            shop.sim.remote.advance(24 * HOUR)
        assert shop.v1.invoices.retrieve(draft.id).status == "paid"
        assert shop.v1.invoices.retrieve(draft.id).status_transitions.finalized_at > draft.created + 9 * 3600


class TestMeterReports:
    def test_of_the_v2_feed_are_kept_with_code_and_identifier(self, shop: Shop) -> None:
        """The inbox of row 33."""
        shop.v1.billing.meters.create(
            {"display_name": "GB", "event_name": "gb", "default_aggregation": {"formula": "last"}}
        )
        shop.v1.billing.meter_events.create(
            {"event_name": "gb", "payload": {"stripe_customer_id": "cus_nobody", "value": "5"}, "identifier": "bp:gb:1"}
        )
        shop.sim.remote.advance(2 * HOUR)
        shop.follow()
        shop.follow()
        found = shop.look.one("select code, error_count, meter_id is not null as has_meter from stripe.meter_error")
        assert found == {"code": "meter_event_customer_not_found", "error_count": 1, "has_meter": True}
