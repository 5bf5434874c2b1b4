"""What the tests of Stripe share: a running stand-in on a random port, and the real stripe-python that talks to it.

In a test module: `from tests.stripe_fixtures import stripe_client as stripe_client`, the same with `stripe_sim`; then ask for them.
`served_stripe` is in conftest: one server for all tests of a run, emptied for each.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import stripe

from resources.stripe_sim.server import RunningSim

START = datetime(2026, 3, 1, tzinfo=UTC)
API_KEY = "sk_test_standin"


@pytest.fixture
def stripe_sim(served_stripe: RunningSim) -> RunningSim:
    """Return an empty stand-in whose clock stands at the beginning of March 2026."""
    served_stripe.remote.reset(START)
    return served_stripe


@pytest.fixture
def stripe_client(stripe_sim: RunningSim) -> Iterator[stripe.StripeClient]:
    """Return the SDK's client of the stand-in, without retries of its own."""
    with sdk_client(stripe_sim.url) as client:
        yield client


class sdk_client:
    """A client of the SDK that closes its connections."""

    def __init__(self, url: str, *, api_key: str = API_KEY, retries: int = 0, timeout_seconds: float = 20) -> None:
        self._http = stripe.RequestsClient(timeout=timeout_seconds)
        self.client = stripe.StripeClient(
            api_key,
            base_addresses={"api": url, "meter_events": url},
            max_network_retries=retries,
            http_client=self._http,
        )

    def __enter__(self) -> stripe.StripeClient:
        return self.client

    def __exit__(self, *_: object) -> None:
        self._http.close()


def monthly_price(client: stripe.StripeClient, *, amount: int = 2900, currency: str = "usd") -> str:
    """Make a product and its monthly price, and return the price's id."""
    price = client.v1.prices.create(
        {
            "currency": currency,
            "unit_amount": amount,
            "recurring": {"interval": "month"},
            "product_data": {"name": "Basic plan"},
        }
    )
    return price.id


def subscribe(client: stripe.StripeClient, customer: str, price: str, **params: Any) -> stripe.Subscription:
    """Subscribe a customer to one price."""
    return client.v1.subscriptions.create({"customer": customer, "items": [{"price": price}], **params})
