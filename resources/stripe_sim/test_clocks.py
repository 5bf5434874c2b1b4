"""Test clocks: made, moved on, deleted with their customers. All of them are the stand-in's one clock.

At Stripe each clock moves its own customers; here time is one, so a clock moves everybody, and none begins in the past. It is ready
at once. Not here: what happens while time goes on (clockwork).
"""

from collections.abc import Mapping
from typing import Any

from resources.stripe_sim import clockwork, customers
from resources.stripe_sim.calls import Call, Modelled, modelled
from resources.stripe_sim.lists import PAGED, listed
from resources.stripe_sim.refusals import invalid
from resources.stripe_sim.rendering import rendered
from resources.stripe_sim.tables import Row
from resources.stripe_sim.world import World

KIND = "test_helpers.test_clock"
_KEPT_SECONDS = 30 * 86400


def create(world: World, call: Call) -> Row:
    """Make a clock; the stand-in's goes on to where it stands."""
    _move(world, call.params["frozen_time"])
    row = world.make(
        KIND,
        deletes_after=world.now + _KEPT_SECONDS,
        frozen_time=world.now,
        name=call.params.get("name"),
        status="ready",
        status_details={},
    )
    return rendered(world, row)


def advance(world: World, call: Call) -> Row:
    """Move a clock on, and everybody with it."""
    row = world.get(KIND, call.id)
    _move(world, call.params["frozen_time"])
    row["frozen_time"] = world.now
    world.save(row)
    return rendered(world, row)


def delete(world: World, call: Call) -> Row:
    """Delete a clock and the customers that were made with it."""
    row = world.get(KIND, call.id)
    for customer in list(world.table("customer").oldest()):
        if customer.get("test_clock") == row["id"] and not customer.get("deleted"):
            customers.delete(world, Call(name=call.name, ids=(customer["id"],), params={}))
    world.table(KIND).remove(row["id"])
    world.changes += 1
    return {"id": row["id"], "object": KIND, "deleted": True}


def retrieve(world: World, call: Call) -> Row:
    """Return a clock."""
    return rendered(world, world.get(KIND, call.id))


def list_clocks(world: World, call: Call) -> Row:
    """List clocks."""
    return listed(world, call, KIND)


def _move(world: World, instant: Any) -> None:
    if instant < world.now:
        raise invalid(f"The stand-in has one clock, which says {world.now} and only goes forward.", param="frozen_time")
    clockwork.advance(world, instant)


OPERATIONS: Mapping[str, Modelled] = {
    "POST /v1/test_helpers/test_clocks": modelled(create, "frozen_time name"),
    "GET /v1/test_helpers/test_clocks": modelled(list_clocks, PAGED),
    "GET /v1/test_helpers/test_clocks/{}": modelled(retrieve),
    "POST /v1/test_helpers/test_clocks/{}/advance": modelled(advance, "frozen_time"),
    "DELETE /v1/test_helpers/test_clocks/{}": modelled(delete),
}
