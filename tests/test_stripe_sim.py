"""The stand-in over real sockets with the real stripe-python: objects, drafts, lines, renewal, keys, faults."""

from datetime import timedelta

import pytest
import stripe

from resources.stripe_sim.server import RunningSim
from tests.stripe_fixtures import START, monthly_price, sdk_client, subscribe
from tests.stripe_fixtures import stripe_client as stripe_client
from tests.stripe_fixtures import stripe_sim as stripe_sim

HOUR = timedelta(hours=1)


class TestAMonth:
    def test_renews_with_a_draft_that_holds_the_pending_items_and_finalizes_an_hour_later(
        self,
        stripe_sim: RunningSim,
        stripe_client: stripe.StripeClient,
    ) -> None:
        v1 = stripe_client.v1
        customer = v1.customers.create({"name": "Acme", "metadata": {"bp_account": "acme"}})
        subscription = subscribe(stripe_client, customer.id, monthly_price(stripe_client))
        item = v1.invoice_items.create(
            {"customer": customer.id, "subscription": subscription.id, "amount": 1234, "metadata": {"bp_key": "k1"}}
        )
        v1.invoice_items.update(item.id, {"amount": 4321})
        stripe_sim.remote.advance_to(START.replace(month=4))
        (draft,) = v1.invoices.list({"status": "draft"}).data
        assert draft.billing_reason == "subscription_cycle"
        assert [line.amount for line in draft.lines] == [4321, 2900]
        assert draft.automatically_finalizes_at == draft.created + 3600
        stripe_sim.remote.advance(HOUR)
        paid = v1.invoices.retrieve(draft.id)
        assert (paid.status, paid.total, paid.amount_paid) == ("paid", 7221, 7221)
        types = [event.type for event in v1.events.list({"limit": 100}).auto_paging_iter()]
        assert types.index("invoice.paid") < types.index("invoice.finalized") < types.index("invoice.created")

    def test_shows_ten_lines_and_pages_the_rest(
        self,
        stripe_client: stripe.StripeClient,
        stripe_sim: RunningSim,
    ) -> None:
        v1 = stripe_client.v1
        customer = v1.customers.create({})
        invoice = v1.invoices.create({"customer": customer.id})
        lines = [{"amount": place, "metadata": {"bp_key": str(place)}} for place in range(240)]
        for first in range(0, 240, 100):
            v1.invoices.add_lines(invoice.id, {"lines": lines[first : first + 100]})
        held = v1.invoices.retrieve(invoice.id)
        assert (len(held.lines.data), held.lines.has_more) == (10, True)
        read = list(v1.invoices.line_items.list(invoice.id, {"limit": 100}).auto_paging_iter())
        assert [line.metadata["bp_key"] for line in read] == [str(place) for place in range(240)]
        assert held.total == sum(range(240))
        with pytest.raises(stripe.InvalidRequestError, match="at most 250 items"):
            v1.invoices.add_lines(invoice.id, {"lines": lines[:11]})


class TestKeys:
    def test_answer_the_same_again_and_refuse_other_parameters(self, stripe_client: stripe.StripeClient) -> None:
        v1 = stripe_client.v1
        first = v1.customers.create({"name": "Acme"}, {"idempotency_key": "k"})
        again = v1.customers.create({"name": "Acme"}, {"idempotency_key": "k"})
        assert first.id == again.id
        assert again.last_response is not None
        assert again.last_response.headers["Idempotent-Replayed"] == "true"
        with pytest.raises(stripe.IdempotencyError):
            v1.customers.create({"name": "Other"}, {"idempotency_key": "k"})

    def test_are_forgotten_after_a_day(self, stripe_sim: RunningSim, stripe_client: stripe.StripeClient) -> None:
        v1 = stripe_client.v1
        first = v1.customers.create({"name": "Acme"}, {"idempotency_key": "k"})
        stripe_sim.remote.advance(24 * HOUR)
        assert v1.customers.create({"name": "Acme"}, {"idempotency_key": "k"}).id != first.id

    def test_protect_a_request_whose_answer_is_lost(self, stripe_sim: RunningSim) -> None:
        with sdk_client(stripe_sim.url, retries=2) as client:
            stripe_sim.remote.fault("drop_after", "POST /v1/customers")
            client.v1.customers.create({"name": "Acme"})
            assert len(client.v1.customers.list().data) == 1


class TestParameters:
    def test_that_are_unknown_are_refused(self, stripe_client: stripe.StripeClient) -> None:
        with pytest.raises(stripe.InvalidRequestError) as caught:
            stripe_client.v1.invoice_items.create({"customer": "cus_1", "price": "price_1"})  # type: ignore[typeddict-unknown-key]
        assert (caught.value.code, caught.value.param) == ("parameter_unknown", "price")

    def test_that_are_not_modelled_answer_501(self, stripe_client: stripe.StripeClient) -> None:
        with pytest.raises(stripe.APIError) as caught:
            stripe_client.v1.coupons.create({"percent_off": 10})
        assert caught.value.http_status == 501
