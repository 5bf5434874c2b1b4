"""Pages of lists as /v1 answers them: newest first, 1 to 100 objects, cursors are ids."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from resources.stripe_sim.calls import Call
from resources.stripe_sim.refusals import invalid, missing
from resources.stripe_sim.rendering import list_object, rendered
from resources.stripe_sim.tables import DEFAULT_LIMIT, MOST_LIMIT, Row
from resources.stripe_sim.world import World

PAGED = "limit starting_after ending_before"
PAGED_BY_TIME = f"{PAGED} created"

_BOUNDS: Mapping[str, Callable[[int, int], bool]] = {
    "gt": lambda value, bound: value > bound,
    "gte": lambda value, bound: value >= bound,
    "lt": lambda value, bound: value < bound,
    "lte": lambda value, bound: value <= bound,
}


def listed(
    world: World,
    call: Call,
    kind: str,
    *,
    by: Mapping[str, Hashable] | None = None,
    where: Callable[[Row], bool] | None = None,
    not_before: int | None = None,
    url: str | None = None,
) -> Row:
    """Return the page that the call asks for. `by`: indexes and their values; `not_before`: older ones are not listed.

    Raises:
        ApiError: the limit or a cursor cannot be.
    """
    params, table = call.params, world.table(kind)
    for name in ("starting_after", "ending_before"):
        if name in params and table.get(params[name]) is None:
            raise missing(kind, params[name], param=name)
    newest = world.now - world.rules.list_lag_seconds
    lower, upper = _range(params.get("created"))
    page = table.page(
        filters=by or {},
        limit=limit_of(params),
        starting_after=params.get("starting_after"),
        ending_before=params.get("ending_before"),
        first=lambda row: created_of(row) <= newest and all(holds(created_of(row)) for holds in upper),
        beyond=lambda row: (
            not all(holds(created_of(row)) for holds in lower)
            or (not_before is not None and created_of(row) < not_before)
        ),
        where=where,
    )
    rows = [rendered(world, row) for row in page.rows]
    return list_object(url or table.kind.url, rows, has_more=page.has_more)


def listed_rows(call: Call, rows: Sequence[Row], *, kind: str, url: str) -> Row:
    """Return a page of a short list that is in the order to be shown.

    Raises:
        ApiError: the limit or a cursor cannot be.
    """
    params = call.params
    places = {row["id"]: place for place, row in enumerate(rows)}
    for name in ("starting_after", "ending_before"):
        if name in params and params[name] not in places:
            raise missing(kind, params[name], param=name)
    limit, low, high = limit_of(params), 0, len(rows)
    if "starting_after" in params:
        low = places[params["starting_after"]] + 1
    if "ending_before" in params:
        high = places[params["ending_before"]]
        return list_object(url, rows[max(low, high - limit) : high], has_more=high - limit > low)
    return list_object(url, rows[low : min(low + limit, high)], has_more=low + limit < high)


def limit_of(params: Mapping[str, Any]) -> int:
    """Return how many objects a page may have.

    Raises:
        ApiError: not 1 to 100, or both cursors are given.
    """
    limit: int = params.get("limit", DEFAULT_LIMIT)
    if not 1 <= limit <= MOST_LIMIT:
        raise invalid(f"Invalid limit: must be between 1 and {MOST_LIMIT}", param="limit")
    if "starting_after" in params and "ending_before" in params:
        raise invalid("You cannot use both starting_after and ending_before", param="ending_before")
    return limit


def created_of(row: Row) -> int:
    """Return when an object was made."""
    created: int = row["created"] if "created" in row else row["date"]
    return created


def in_range(value: int, bounds: Mapping[str, int] | int | None) -> bool:
    """Say whether a value lies in what a list's filter asks for."""
    lower, upper = _range(bounds)
    return all(holds(value) for holds in (*lower, *upper))


def _range(
    bounds: Mapping[str, int] | int | None,
) -> tuple[list[Callable[[int], bool]], list[Callable[[int], bool]]]:
    """Return the conditions that bound from below, and those that bound from above."""
    if bounds is None:
        return [], []
    if isinstance(bounds, int):
        bounds = {"gte": bounds, "lte": bounds}
    conditions = {name: _condition(name, bound) for name, bound in bounds.items()}
    lower = [holds for name, holds in conditions.items() if name.startswith("g")]
    return lower, [holds for name, holds in conditions.items() if name.startswith("l")]


def _condition(name: str, bound: int) -> Callable[[int], bool]:
    compare = _BOUNDS[name]
    return lambda value: compare(value, bound)
