"""Thin events: the feed of /v2, with pages that name the next one by its address."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from resources.stripe_sim.calls import Call, Modelled, modelled
from resources.stripe_sim.refusals import invalid, missing
from resources.stripe_sim.rendering import rendered
from resources.stripe_sim.tables import Row
from resources.stripe_sim.world import World

KIND = "v2.core.event"

_DEFAULT_LIMIT = 20
_MOST_LIMIT = 100
_MOST_TYPES = 20


def tell(world: World, event_type: str, data: Row, *, related: Row | None = None) -> Row:
    """Put a thin event into the feed."""
    number = world.next_number(KIND)
    return world.make(
        KIND,
        id=f"evt_test_sim{number:012d}",
        created=instant_text(world.now),
        changes=None,
        data=data,
        reason=None,
        related_object=related,
        type=event_type,
        _at=world.now,
    )


def list_events(world: World, call: Call) -> Row:
    """List thin events, newest first, 30 days back."""
    params = call.params
    limit = params.get("limit", _DEFAULT_LIMIT)
    if not 1 <= limit <= _MOST_LIMIT:
        raise invalid(f"Invalid limit: must be between 1 and {_MOST_LIMIT}", param="limit")
    types = params.get("types", [])
    if len(types) > _MOST_TYPES:
        raise invalid(f"At most {_MOST_TYPES} types can be asked for", param="types")
    bounds = {name: _seconds(text) for name, text in params.get("created", {}).items()}
    oldest = world.now - world.rules.event_retention_seconds
    page = world.table(KIND).page(
        filters={},
        limit=limit,
        starting_after=_cursor(world, params.get("page")),
        beyond=lambda row: row["_at"] < oldest,
        where=lambda row: (
            (not types or row["type"] in types)
            and _is_between(row["_at"], bounds)
            and ("object_id" not in params or (row["related_object"] or {}).get("id") == params["object_id"])
        ),
    )
    further = None
    if page.has_more:
        token = urlsafe_b64encode(page.rows[-1]["id"].encode()).decode()
        further = f"/v2/core/events?{_query({**params, 'page': token})}"
    rows = [rendered(world, row) for row in page.rows]
    return {"data": rows, "next_page_url": further, "previous_page_url": None}


def retrieve(world: World, call: Call) -> Row:
    """Return a thin event of the last 30 days."""
    row = world.get(KIND, call.id)
    if row["_at"] < world.now - world.rules.event_retention_seconds:
        raise missing("event", call.id)
    return rendered(world, row)


def instant_text(seconds: int) -> str:
    """Return an instant as /v2 writes it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _cursor(world: World, token: str | None) -> str | None:
    if token is None:
        return None
    event_id = urlsafe_b64decode(token.encode()).decode()
    if world.table(KIND).get(event_id) is None:
        raise invalid("Invalid page", param="page")
    return event_id


def _seconds(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise invalid(f"Invalid timestamp: {text}", param="created") from None


def _is_between(at: int, bounds: Mapping[str, float]) -> bool:
    checks = {
        "gt": lambda bound: at > bound,
        "gte": lambda bound: at >= bound,
        "lt": lambda bound: at < bound,
        "lte": lambda bound: at <= bound,
    }
    return all(checks[name](bound) for name, bound in bounds.items())


def _query(params: Mapping[str, Any]) -> str:
    pairs: list[tuple[str, str]] = []
    for name, value in params.items():
        if isinstance(value, Mapping):
            pairs += [(f"{name}[{key}]", str(one)) for key, one in value.items()]
        elif isinstance(value, list):
            pairs += [(f"{name}[{place}]", str(one)) for place, one in enumerate(value)]
        else:
            pairs.append((name, str(value)))
    return urlencode(pairs)


OPERATIONS: Mapping[str, Modelled] = {
    "GET /v2/core/events": modelled(list_events, "created limit object_id types page"),
    "GET /v2/core/events/{}": modelled(retrieve),
}
