"""Items of subscriptions: added, changed, taken away, with the prorations that this makes.

A change makes prorations unless it asks for `none`: pending items of the subscription, which `always_invoice` puts on an
invoice at once, with whatever else is pending.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from resources.stripe_sim import lines
from resources.stripe_sim.billing_cycles import boundary
from resources.stripe_sim.calls import Call, Modelled, merged_metadata, modelled, needed, only
from resources.stripe_sim.lists import PAGED, listed
from resources.stripe_sim.prices import price_from
from resources.stripe_sim.prorations import proration_item
from resources.stripe_sim.refusals import invalid
from resources.stripe_sim.rendering import rendered
from resources.stripe_sim.subscription_invoices import ITEM, KIND, invoice_now, items_of, share_left
from resources.stripe_sim.tables import Row
from resources.stripe_sim.world import World


def create_item(world: World, call: Call) -> Row:
    """Add an item to a subscription."""
    row = world.get(KIND, call.params["subscription"], param="subscription")
    price = price_from(world, call.params, where="price")
    _check_price(row, price)
    check_quantity(price, call.params)
    item = _add_item(world, row, price, call.params)
    prorate(world, row, [(None, item)], call.params)
    world.emit("customer.subscription.updated", row, previous={})
    return rendered(world, item)


def update_item(world: World, call: Call) -> Row:
    """Change an item's quantity, price or metadata."""
    item = world.get(ITEM, call.id)
    row = world.get(KIND, item["subscription"])
    before = dict(item)
    if "price" in call.params:
        _check_price(row, world.get("price", call.params["price"], param="price"))
    _set_item(world, item, call.params)
    prorate(world, row, [(before, item)], call.params)
    world.emit("customer.subscription.updated", row, previous={})
    return rendered(world, item)


def delete_item(world: World, call: Call) -> Row:
    """Take an item off its subscription."""
    item = world.get(ITEM, call.id)
    row = world.get(KIND, item["subscription"])
    world.table(ITEM).remove(item["id"])
    prorate(world, row, [(item, None)], call.params)
    world.emit("customer.subscription.updated", row, previous={})
    return {"id": item["id"], "object": ITEM, "deleted": True}


def list_items(world: World, call: Call) -> Row:
    """List the items of a subscription."""
    subscription_id = needed(call.params, "subscription")
    world.get(KIND, subscription_id, param="subscription")
    return listed(world, call, ITEM, by={"subscription": subscription_id})


def retrieve_item(world: World, call: Call) -> Row:
    """Return an item."""
    return rendered(world, world.get(ITEM, call.id))


def change_items(world: World, row: Row, params: Mapping[str, Any]) -> None:
    """Carry out the changes of items that an update of a subscription asks for."""
    changes: list[tuple[Row | None, Row | None]] = []
    for place, values in enumerate(params["items"]):
        held = world.get(ITEM, values["id"]) if "id" in values else None
        before = None if held is None else dict(held)
        if held is None:
            price = price_from(world, values, where=f"items[{place}]")
            changes.append((None, _add_item(world, row, price, values)))
        elif values.get("deleted"):
            world.table(ITEM).remove(held["id"])
            changes.append((before, None))
        else:
            _set_item(world, held, values)
            changes.append((before, held))
    prorate(world, row, changes, params)


def check_item_changes(world: World, row: Row, params: Mapping[str, Any]) -> None:
    """Let an update's changes of items pass.

    Raises:
        ApiError: an item is another subscription's, or a price or a quantity does not fit.
    """
    for place, values in enumerate(params["items"]):
        only(values, "id price price_data quantity metadata deleted", where=f"items[{place}]")
        if "id" in values:
            item = world.get(ITEM, values["id"], param=f"items[{place}][id]")
            if item["subscription"] != row["id"]:
                raise invalid("The item belongs to another subscription", param=f"items[{place}][id]")
        if "price" in values:
            price = world.get("price", values["price"], param=f"items[{place}][price]")
            _check_price(row, price)
            check_quantity(price, values)


def check_quantity(price: Row, values: Mapping[str, Any]) -> None:
    """Let a quantity pass that the price can have.

    Raises:
        ApiError: a metered price takes none.
    """
    if lines.is_metered(price) and "quantity" in values:
        raise invalid("A metered price takes no quantity", param="quantity")


def new_item(world: World, row: Row, price: Row, values: Mapping[str, Any], start: int, end: int) -> Row:
    """Add an item whose current period is `[start, end)`."""
    metered = lines.is_metered(price)
    return world.make(
        ITEM,
        current_period_end=end,
        current_period_start=start,
        discounts=[],
        metadata=merged_metadata(None, values.get("metadata")),
        price=price["id"],
        plan=price["id"],
        quantity=None if metered else values.get("quantity", 1),
        subscription=row["id"],
        tax_rates=[],
    )


def prorate(
    world: World, row: Row, changes: Sequence[tuple[Row | None, Row | None]], params: Mapping[str, Any]
) -> None:
    """Credit what items cost before and charge what they cost now, for the rest of their period; invoice it if asked to.

    `changes`: an item before and after; null before it was added and after it was removed.
    """
    behavior = params.get("proration_behavior", "create_prorations")
    if behavior == "none":
        return
    customer = world.get("customer", row["customer"])
    for before, after in changes:
        if before is not None and after is not None and _costs(before) == _costs(after):
            continue
        for item, sign in ((before, -1), (after, 1)):
            if item is not None and not lines.is_metered(world.get("price", item["price"])):
                proration_item(world, customer, row, item, share=sign * share_left(world, row, item, prorate=True))
    if behavior == "always_invoice":
        invoice_now(world, row, "subscription_update", with_items=False)


def _add_item(world: World, row: Row, price: Row, values: Mapping[str, Any]) -> Row:
    held = items_of(world, row)
    recurring = price["recurring"]
    end = held[0]["current_period_end"] if held else first_period(world, row, recurring)[1]
    return new_item(world, row, price, values, world.now, end)


def _check_price(row: Row, price: Row) -> None:
    if price["currency"] != row["currency"]:
        raise invalid(f"The subscription's currency is {row['currency']}", param="price")
    if price["recurring"] is None:
        raise invalid("A subscription's price must be recurring", param="price")


def _set_item(world: World, item: Row, values: Mapping[str, Any]) -> None:
    if "price" in values or "price_data" in values:
        item["price"] = item["plan"] = price_from(world, values, where="price")["id"]
    if "quantity" in values:
        item["quantity"] = values["quantity"]
    item["metadata"] = merged_metadata(item["metadata"], values.get("metadata"))
    world.save(item)


def _costs(item: Row) -> tuple[str, int | None]:
    return item["price"], item["quantity"]


def first_period(world: World, row: Row, recurring: Row) -> tuple[int, int]:
    """Return the period that an item begins with now: to the anchor if that is ahead, or a whole cycle."""
    if row["billing_cycle_anchor"] > world.now:
        return world.now, row["billing_cycle_anchor"]
    return world.now, boundary(world.now, recurring["interval"], recurring["interval_count"], 1)


OPERATIONS: Mapping[str, Modelled] = {
    "POST /v1/subscription_items": modelled(
        create_item, "subscription price price_data quantity metadata proration_behavior payment_behavior"
    ),
    "GET /v1/subscription_items": modelled(list_items, f"{PAGED} subscription"),
    "GET /v1/subscription_items/{}": modelled(retrieve_item),
    "POST /v1/subscription_items/{}": modelled(
        update_item, "price price_data quantity metadata proration_behavior payment_behavior"
    ),
    "DELETE /v1/subscription_items/{}": modelled(delete_item, "proration_behavior"),
}
