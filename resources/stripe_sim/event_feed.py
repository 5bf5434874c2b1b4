"""The event feed of /v1: newest first, 30 days back; an event shows its object as it was when it happened."""

from collections.abc import Mapping

from resources.stripe_sim.calls import Call, Modelled, modelled
from resources.stripe_sim.lists import PAGED_BY_TIME, listed
from resources.stripe_sim.refusals import invalid, missing
from resources.stripe_sim.rendering import rendered
from resources.stripe_sim.tables import Row
from resources.stripe_sim.world import EVENT, World

_MOST_TYPES = 20


def list_events(world: World, call: Call) -> Row:
    """List events."""
    params = call.params
    if "type" in params and "types" in params:
        raise invalid("You may only specify one of these parameters: type, types.", param="types")
    types = params.get("types", [params["type"]] if "type" in params else [])
    if len(types) > _MOST_TYPES:
        raise invalid(f"At most {_MOST_TYPES} types can be asked for", param="types")
    delivered = params.get("delivery_success")

    def fits(row: Row) -> bool:
        if row["_visible_at"] > world.now or (types and not any(_is_of(row["type"], one) for one in types)):
            return False
        return delivered is None or delivered == (row["pending_webhooks"] == 0)

    by = {"type": types[0]} if len(types) == 1 and not types[0].endswith("*") else {}
    oldest = world.now - world.rules.event_retention_seconds
    return listed(world, call, EVENT, by=by, where=fits, not_before=oldest)


def retrieve(world: World, call: Call) -> Row:
    """Return an event of the last 30 days."""
    row = world.get(EVENT, call.id)
    if row["created"] < world.now - world.rules.event_retention_seconds:
        raise missing(EVENT, call.id)
    return rendered(world, row)


def forget_old_events(world: World) -> None:
    """Drop the events that nobody can list any more."""
    oldest = world.now - world.rules.event_retention_seconds
    for kind in (EVENT, "v2.core.event"):
        table = world.table(kind)
        for row in table.oldest():
            if row["_at"] >= oldest:
                break
            table.remove(row["id"])


def _is_of(event_type: str, wanted: str) -> bool:
    return event_type == wanted or (wanted.endswith("*") and event_type.startswith(wanted[:-1]))


OPERATIONS: Mapping[str, Modelled] = {
    "GET /v1/events": modelled(list_events, f"{PAGED_BY_TIME} type types delivery_success"),
    "GET /v1/events/{}": modelled(retrieve),
}
