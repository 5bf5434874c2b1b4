"""An object as the API shows it: embedded lists, no private keys, what was asked to be expanded.

Pure: rows in, a new dict out. Not here: which objects there are (world), paging (lists).
"""

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from resources.stripe_sim.kinds import KINDS
from resources.stripe_sim.refusals import invalid
from resources.stripe_sim.tables import Row

if TYPE_CHECKING:
    from resources.stripe_sim.world import World

DEEPEST_EXPANSION = 4


def rendered(world: "World", row: Row) -> Row:
    """Return an object as the API shows it, nothing expanded."""
    shown = {key: value for key, value in row.items() if not key.startswith("_")}
    special = _SHOWN.get(row["object"])
    return shown if special is None else special(world, row, shown)


def list_object(url: str, data: Sequence[Row], *, has_more: bool = False) -> Row:
    """Return a list as /v1 answers it."""
    return {"object": "list", "url": url, "has_more": has_more, "data": list(data)}


def expanded(world: "World", answer: Row, paths: Sequence[str]) -> Row:
    """Return the answer with ids replaced by their objects, as `expand` asks.

    Raises:
        ApiError: a path is too deep or names nothing that can be expanded.
    """
    for path in paths:
        parts = path.split(".")
        if len(parts) > DEEPEST_EXPANSION:
            raise invalid(f"You cannot expand more than {DEEPEST_EXPANSION} levels of a property", param="expand")
        _expand(world, answer, parts, path)
    return answer


def _expand(world: "World", place: Any, parts: Sequence[str], path: str) -> None:
    if isinstance(place, list):
        for one in place:
            _expand(world, one, parts, path)
        return
    name, rest = parts[0], parts[1:]
    included = _INCLUDED.get((place.get("object", ""), name))
    if included is not None and name not in place:
        place[name] = included(world, place)
    if not isinstance(place, dict) or name not in place:
        raise invalid(f"This property cannot be expanded ({path}).", param="expand")
    value = place[name]
    if isinstance(value, str):
        place[name] = value = _by_id(world, value, path)
    elif isinstance(value, list) and all(isinstance(one, str) for one in value):
        place[name] = value = [_by_id(world, one, path) for one in value]
    if rest and value is not None:
        _expand(world, value, rest, path)


def _by_id(world: "World", object_id: str, path: str) -> Row:
    prefix = object_id.partition("_")[0]
    for kind in KINDS.values():
        if kind.prefix == prefix and (row := world.table(kind.name).get(object_id)) is not None:
            return rendered(world, row)
    raise invalid(f"This property cannot be expanded ({path}).", param="expand")


def _invoice(world: "World", row: Row, shown: Row) -> Row:
    lines = world.lines.get(row["id"], [])
    most = world.rules.embedded_lines
    url = f"/v1/invoices/{row['id']}/lines"
    shown["lines"] = list_object(url, [rendered(world, one) for one in lines[:most]], has_more=len(lines) > most)
    return shown


def _subscription(world: "World", row: Row, shown: Row) -> Row:
    items = [rendered(world, one) for one in world.table("subscription_item").find(subscription=row["id"])]
    shown["items"] = list_object(f"/v1/subscription_items?subscription={row['id']}", items)
    return shown


def _subscription_item(world: "World", row: Row, shown: Row) -> Row:
    price = world.table("price").get(row["price"])
    assert price is not None
    shown["price"] = rendered(world, price)
    shown["plan"] = _plan(price)
    return shown


def _plan(price: Row) -> Row:
    recurring = price["recurring"] or {}
    return {
        "id": price["id"],
        "object": "plan",
        "active": price["active"],
        "amount": price["unit_amount"],
        "amount_decimal": price["unit_amount_decimal"],
        "billing_scheme": price["billing_scheme"],
        "created": price["created"],
        "currency": price["currency"],
        "interval": recurring.get("interval"),
        "interval_count": recurring.get("interval_count"),
        "livemode": False,
        "metadata": price["metadata"],
        "meter": recurring.get("meter"),
        "nickname": price["nickname"],
        "product": price["product"],
        "tiers_mode": price["tiers_mode"],
        "transform_usage": None,
        "trial_period_days": None,
        "usage_type": recurring.get("usage_type"),
    }


def _credit_note(_world: "World", row: Row, shown: Row) -> Row:
    shown["lines"] = list_object(
        f"/v1/credit_notes/{row['id']}/lines", row["_lines"][:10], has_more=len(row["_lines"]) > 10
    )
    return shown


def _event(_world: "World", row: Row, shown: Row) -> Row:
    shown["data"] = json.loads(zlib.decompress(row["_data"]))
    return shown


def _payments(world: "World", invoice: Row) -> Row:
    found = [rendered(world, one) for one in world.table("invoice_payment").find(invoice=invoice["id"])]
    return list_object("/v1/invoice_payments", list(reversed(found)))


def _subscriptions(world: "World", customer: Row) -> Row:
    found = [one for one in world.table("subscription").find(customer=customer["id"]) if one["status"] != "canceled"]
    return list_object(
        f"/v1/customers/{customer['id']}/subscriptions", [rendered(world, one) for one in reversed(found)]
    )


def _tiers(world: "World", price: Row) -> list[Row]:
    row = world.table("price").get(price["id"])
    return [] if row is None else list(row["_tiers"])


_SHOWN: Mapping[str, Callable[["World", Row, Row], Row]] = {
    "invoice": _invoice,
    "subscription": _subscription,
    "subscription_item": _subscription_item,
    "credit_note": _credit_note,
    "event": _event,
}

_INCLUDED: Mapping[tuple[str, str], Callable[["World", Row], Any]] = {
    ("invoice", "payments"): _payments,
    ("customer", "subscriptions"): _subscriptions,
    ("price", "tiers"): _tiers,
}
