"""Webhook endpoints: made, changed, deleted; and what is to be delivered to them, as data.

Not here: the requests themselves (deliveries).
"""

from collections.abc import Mapping
from typing import Any

from resources.stripe_sim.calls import Call, Modelled, merged_metadata, modelled, unset_to_null
from resources.stripe_sim.kinds import api_version
from resources.stripe_sim.lists import PAGED, listed
from resources.stripe_sim.refusals import invalid
from resources.stripe_sim.rendering import rendered
from resources.stripe_sim.tables import Row
from resources.stripe_sim.world import World

KIND = "webhook_endpoint"


def create(world: World, call: Call) -> Row:
    """Make an endpoint. Its secret is shown just now."""
    params = call.params
    _check_url(params["url"])
    row = world.make(
        KIND,
        api_version=params.get("api_version") or api_version(),
        description=unset_to_null(params.get("description")),
        enabled_events=list(params["enabled_events"]),
        metadata=merged_metadata(None, params.get("metadata")),
        status="enabled",
        url=params["url"],
    )
    row["_secret"] = f"whsec_{row['id']}"
    world.save(row)
    return {**rendered(world, row), "secret": row["_secret"]}


def update(world: World, call: Call) -> Row:
    """Change an endpoint."""
    row, params = world.get(KIND, call.id), call.params
    if "url" in params:
        _check_url(params["url"])
        row["url"] = params["url"]
    if "enabled_events" in params:
        row["enabled_events"] = list(params["enabled_events"])
    if "disabled" in params:
        row["status"] = "disabled" if params["disabled"] else "enabled"
    if "description" in params:
        row["description"] = unset_to_null(params["description"])
    row["metadata"] = merged_metadata(row["metadata"], params.get("metadata"))
    world.save(row)
    return rendered(world, row)


def delete(world: World, call: Call) -> Row:
    """Delete an endpoint."""
    row = world.get(KIND, call.id)
    world.table(KIND).remove(row["id"])
    world.changes += 1
    return {"id": row["id"], "object": KIND, "deleted": True}


def retrieve(world: World, call: Call) -> Row:
    """Return an endpoint."""
    return rendered(world, world.get(KIND, call.id))


def list_endpoints(world: World, call: Call) -> Row:
    """List endpoints."""
    return listed(world, call, KIND)


def wanting(world: World, event_type: str) -> list[Row]:
    """Return the endpoints that want an event."""
    enabled = world.table(KIND).find(status="enabled")
    return [one for one in enabled if {"*", event_type} & set(one["enabled_events"])]


def _check_url(url: Any) -> None:
    if not str(url).startswith(("http://", "https://")):
        raise invalid("Invalid URL: An explicit scheme (such as https) must be provided.", param="url")


OPERATIONS: Mapping[str, Modelled] = {
    "POST /v1/webhook_endpoints": modelled(create, "api_version description enabled_events metadata url"),
    "GET /v1/webhook_endpoints": modelled(list_endpoints, PAGED),
    "GET /v1/webhook_endpoints/{}": modelled(retrieve),
    "POST /v1/webhook_endpoints/{}": modelled(update, "description disabled enabled_events metadata url"),
    "DELETE /v1/webhook_endpoints/{}": modelled(delete),
}
