"""The demo's Stripe: a stand-in on a free port, whose clock and objects outlive the demo, and two customers there.

`canary` and `hikari` have a subscription each that costs nothing by itself and renews when ours does; which ones they are, their
metadata says. Not here: what the pipeline does with them (console/demo_stripe), the stand-in itself (stripe_sim).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from resources.asgi_server import serving
from resources.stripe_sim.application import StripeSim
from resources.stripe_sim.remote import SimRemote
from resources.stripe_sim.rules import Rules
from resources.stripe_sim.server import keeping_application

API_KEY = "sk_test_demo"
START = datetime(2026, 3, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoCustomer:
    """An account that Stripe bills. `renews_at`: where the period that holds the demo's usage ends, there as here."""

    account_id: str
    subscription_id: str
    currency: str
    renews_at: datetime


CANARY = DemoCustomer(
    account_id="canary",
    subscription_id="sub_canary",
    currency="USD",
    renews_at=datetime(2026, 3, 4, tzinfo=UTC),
)
HIKARI = DemoCustomer(
    account_id="hikari",
    subscription_id="sub_hikari",
    currency="JPY",
    # The first of April in Tokyo.
    renews_at=datetime(2026, 3, 31, 15, tzinfo=UTC),
)
CUSTOMERS = (CANARY, HIKARI)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoStripe:
    """A running stand-in. `application` is for looking only."""

    url: str
    remote: SimRemote
    application: StripeSim

    def clock(self) -> datetime:
        """Return what its clock says."""
        return datetime.fromtimestamp(self.application.world.now, UTC)

    def advance_to(self, instant: datetime) -> None:
        """Let time pass: what is due at Stripe until then happens."""
        self.remote.advance_to(instant)


@contextmanager
def serving_demo_stripe(folder: Path) -> Iterator[DemoStripe]:
    """Serve the stand-in while the block runs, as an earlier demo left it in `folder`, or new with its customers.

    Raises:
        StateFileError: what an earlier demo left cannot be read.
        ServerStartError: nothing can listen.
    """
    state = folder / "stripe.state"
    application = keeping_application(now=START, rules=Rules(), state=state)
    with serving(application, own_date=True) as url, SimRemote(url) as remote:
        if sum(1 for _ in application.world.table("subscription").oldest()) < len(CUSTOMERS):
            # New, or ended while they were made: nothing has been charged yet.
            remote.reset(START)
            _make_customers(url)
        yield DemoStripe(url=url, remote=remote, application=application)
    application.save()


def _make_customers(url: str) -> None:
    """Do what a person or a shop does at Stripe: customers, prices, subscriptions."""
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {API_KEY}"}, trust_env=False) as client:

        def make(path: str, **params: Any) -> str:
            answer = client.post(f"/v1/{path}", data=params)
            answer.raise_for_status()
            return str(answer.json()["id"])

        for one in CUSTOMERS:
            price = make(
                "prices",
                **{
                    "currency": one.currency.lower(),
                    "unit_amount": 0,
                    "recurring[interval]": "month",
                    "product_data[name]": "Usage, billed by the month",
                },
            )
            customer = make("customers", **{"name": one.account_id, "metadata[bp_account]": one.account_id})
            make(
                "subscriptions",
                **{
                    "customer": customer,
                    "items[0][price]": price,
                    "billing_cycle_anchor": int(one.renews_at.timestamp()),
                    "proration_behavior": "none",
                    "metadata[bp_subscription]": one.subscription_id,
                },
            )
