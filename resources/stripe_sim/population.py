"""Many customers with a subscription each, made in one call of the control API: for benchmarks and large tests.

They are made as the API makes them, one by one, so that nothing about them is different.
"""

from collections.abc import Mapping
from typing import Any

from resources.stripe_sim import customers, subscriptions
from resources.stripe_sim.calls import Call
from resources.stripe_sim.world import World


def populate(world: World, *, count: int, price: str, account_prefix: str) -> list[Mapping[str, str]]:
    """Make `count` customers subscribed to a price, with `bp_account` and `bp_subscription` in their metadata.

    The n-th (from 0) has the account `account_prefix` + n in five digits; so has its subscription.
    """
    made: list[Mapping[str, str]] = []
    for number in range(count):
        account = f"{account_prefix}{number:05d}"
        metadata = {"bp_account": account}
        customer = customers.create(world, _call("POST /v1/customers", {"name": account, "metadata": metadata}))
        wanted = {
            "customer": customer["id"],
            "items": [{"price": price}],
            "metadata": {"bp_account": account, "bp_subscription": account},
        }
        subscription = subscriptions.create(world, _call("POST /v1/subscriptions", wanted))
        world.flush_events()
        made.append({"account": account, "customer": customer["id"], "subscription": subscription["id"]})
    return made


def _call(name: str, params: Mapping[str, Any]) -> Call:
    return Call(name=name, ids=(), params=params)
