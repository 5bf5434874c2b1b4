"""Invoice items: pending until an invoice of their customer takes them, or put on a draft at once.

An update sets values, it adds nothing: the same update twice is the same item. An item on an invoice that is final can be
neither changed nor deleted. Not here: how an invoice takes pending items (drafts).
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from resources.stripe_sim import lines
from resources.stripe_sim.calls import Call, Modelled, merged_metadata, modelled, one_of, unset_to_null
from resources.stripe_sim.kinds import subscription_of
from resources.stripe_sim.lists import PAGED_BY_TIME, listed
from resources.stripe_sim.money import DEFAULT_CURRENCY, check_amount, lock_currency, plain, product, read_currency
from resources.stripe_sim.prices import amount_of, new_price
from resources.stripe_sim.refusals import invalid, missing
from resources.stripe_sim.rendering import rendered
from resources.stripe_sim.tables import Row
from resources.stripe_sim.totals import count_totals
from resources.stripe_sim.world import World

KIND = "invoiceitem"

_SHARED = (
    "amount description discountable metadata period price_data pricing quantity quantity_decimal unit_amount_decimal"
)
_PRICINGS = ("amount", "unit_amount_decimal", "pricing", "price_data")


def create(world: World, call: Call) -> Row:
    """Make an item, pending or on a draft.

    Raises:
        ApiError: customer, draft or subscription do not exist or do not fit, the draft is full, or the amount cannot be.
    """
    params = call.params
    if "customer" not in params:
        raise invalid("Missing required param: customer.", code="parameter_missing", param="customer")
    customer = world.get("customer", params["customer"], param="customer")
    invoice = None
    if "invoice" in params:
        invoice = world.get("invoice", params["invoice"], param="invoice")
        if invoice["customer"] != customer["id"]:
            raise invalid("The invoice belongs to another customer", param="invoice")
        check_room(world, invoice, 1)
    if "subscription" in params:
        subscription = world.get("subscription", params["subscription"], param="subscription")
        if subscription["customer"] != customer["id"]:
            raise invalid("The subscription belongs to another customer", param="subscription")
    item = new_item(world, customer, params, invoice=invoice)
    if invoice is not None:
        lines.add_item(world, invoice, item)
        count_totals(world, invoice)
        world.emit("invoice.updated", invoice, previous={})
    world.emit("invoiceitem.created", item)
    return rendered(world, item)


def new_item(world: World, customer: Row, values: Mapping[str, Any], *, invoice: Row | None = None) -> Row:
    """Add an item that is on no invoice yet; it takes the currency of `invoice` where none is said.

    Raises:
        ApiError: the amount or the currency cannot be.
    """
    fields = check_new(world, customer, values, invoice=invoice)
    lock_currency(world, customer, fields["currency"])
    return world.make(KIND, **fields)


def check_new(world: World, customer: Row, values: Mapping[str, Any], *, invoice: Row | None = None) -> Row:
    """Return the fields of a new item, having changed nothing.

    Raises:
        ApiError: the amount or the currency cannot be.
    """
    subscription = world.table("subscription").get(values.get("subscription", "")) if "subscription" in values else None
    fallback = customer["currency"] or DEFAULT_CURRENCY
    if invoice is not None:
        fallback = invoice["currency"]
    elif subscription is not None:
        fallback = subscription["currency"]
    currency = read_currency(values["currency"]) if "currency" in values else fallback
    if invoice is not None and currency != invoice["currency"]:
        raise invalid(f"The invoice's currency is {invoice['currency']}", param="currency")
    if customer["currency"] not in (None, currency):
        lock_currency(world, customer, currency)
    if not set(_PRICINGS) & set(values):
        raise invalid("Missing required param: amount.", code="parameter_missing", param="amount")
    belongs_to: str | None = None
    if subscription is not None:
        belongs_to = subscription["id"]
    elif invoice is not None:
        belongs_to = subscription_of(invoice)
    amount = _amount(world, values, currency)
    return {
        **amount,
        "currency": currency,
        "customer": customer["id"],
        "date": world.now,
        "description": unset_to_null(values.get("description")),
        "discountable": values.get("discountable", amount["amount"] >= 0),
        "discounts": [],
        "metadata": merged_metadata(None, values.get("metadata")),
        "parent": None if belongs_to is None else _parent(belongs_to),
        "period": _period(values.get("period"), world.now),
        "proration": False,
        "tax_rates": [],
    }


def retrieve(world: World, call: Call) -> Row:
    """Return an item."""
    return rendered(world, world.get(KIND, call.id))


def update(world: World, call: Call) -> Row:
    """Set values of an item, and of its line if it is on a draft.

    Raises:
        ApiError: its invoice is no draft any more, or the amount cannot be.
    """
    item = world.get(KIND, call.id)
    invoice = check_item_editable(world, item)
    set_values(world, item, call.params)
    if invoice is not None:
        line = next(one for one in lines.lines_of(world, invoice["id"]) if one.get("_item") == item["id"])
        lines.copy_item(line, item)
        count_totals(world, invoice)
        world.emit("invoice.updated", invoice, previous={})
    return rendered(world, item)


def set_values(world: World, item: Row, values: Mapping[str, Any]) -> None:
    """Set values of an item.

    Raises:
        ApiError: the amount or the period cannot be; nothing is changed then.
    """
    item |= checked_change(world, item, values)
    world.save(item)


def checked_change(world: World, item: Row, values: Mapping[str, Any]) -> Row:
    """Return the fields that a change gives an item, having changed nothing.

    Raises:
        ApiError: the amount or the period cannot be.
    """
    change: Row = {}
    if set(values) & {*_PRICINGS, "quantity", "quantity_decimal"}:
        change |= _amount(world, _with_held_price(item, values), item["currency"])
    if "period" in values:
        change["period"] = _period(values["period"], world.now)
    if "description" in values:
        change["description"] = unset_to_null(values["description"])
    if "discountable" in values:
        change["discountable"] = values["discountable"]
    if "metadata" in values:
        change["metadata"] = merged_metadata(item["metadata"], values["metadata"])
    return change


def delete(world: World, call: Call) -> Row:
    """Delete an item, and its line if it is on a draft."""
    item = world.get(KIND, call.id)
    invoice = check_item_editable(world, item)
    if invoice is not None:
        line = next(one for one in lines.lines_of(world, invoice["id"]) if one.get("_item") == item["id"])
        lines.drop(world, invoice["id"], line)
        count_totals(world, invoice)
        world.emit("invoice.updated", invoice, previous={})
    remove(world, item)
    return {"id": item["id"], "object": KIND, "deleted": True}


def remove(world: World, item: Row) -> None:
    """Take an item away for good."""
    world.emit("invoiceitem.deleted", item)
    world.table(KIND).remove(item["id"])
    world.changes += 1


def list_items(world: World, call: Call) -> Row:
    """List items, by customer, invoice, or whether they are pending."""
    by = {name: call.params[name] for name in ("customer", "invoice", "pending") if name in call.params}
    return listed(world, call, KIND, by=by)


def pending_items(world: World, customer_id: str, subscription: Row | None) -> list[Row]:
    """Return what the next invoice of a subscription takes, newest first; without a subscription what belongs to none.

    What belongs to a subscription that has ended belongs to none.
    """
    wanted = None if subscription is None else subscription["id"]
    found = [
        item
        for item in world.table(KIND).find(customer=customer_id, pending=True)
        if _belongs_to(world, item) in (None, wanted)
    ]
    return found[::-1]


def _belongs_to(world: World, item: Row) -> str | None:
    if item["parent"] is None:
        return None
    subscription_id: str = item["parent"]["subscription_details"]["subscription"]
    subscription = world.table("subscription").get(subscription_id)
    return subscription_id if subscription is not None and subscription["ended_at"] is None else None


def check_room(world: World, invoice: Row, more: int) -> None:
    """Let a draft take `more` items.

    Raises:
        ApiError: it is no draft, or would have more items than an invoice may.
    """
    if invoice["status"] != "draft":
        raise invalid("Invoice is no longer editable", code="invoice_not_editable", param="invoice")
    most = world.rules.most_invoice_items
    held = sum("_item" in line for line in lines.lines_of(world, invoice["id"]))
    if held + more > most:
        raise invalid(
            f"An invoice can have at most {most} items: it has {held}, {more} more were sent", param="invoice"
        )


def check_item_editable(world: World, item: Row) -> Row | None:
    """Return the draft that an item is on, null if it is pending.

    Raises:
        ApiError: its invoice is no draft any more.
    """
    if item["invoice"] is None:
        return None
    invoice = world.get("invoice", item["invoice"])
    if invoice["status"] != "draft":
        raise invalid(
            "This invoice item is on an invoice that is no longer editable",
            code="invoice_not_editable",
            param="invoice",
        )
    return invoice


def unassigned_item(world: World, item_id: str, customer_id: str, *, param: str) -> Row:
    """Return a pending item of that customer.

    Raises:
        ApiError: there is none.
    """
    item = world.get(KIND, item_id, param=param)
    if item["customer"] != customer_id or item["invoice"] is not None:
        raise missing("unassigned invoiceitem", item_id, param=param)
    return item


def _amount(world: World, values: Mapping[str, Any], currency: str) -> Row:
    given = one_of(values, _PRICINGS, what="the amount")
    one_of(values, ("quantity", "quantity_decimal"), what="the quantity")
    quantity = Decimal(values.get("quantity_decimal", values.get("quantity", 1)))
    if quantity < 0:
        raise invalid("A quantity cannot be negative", param="quantity")
    details: Row | None = None
    if given == "amount":
        if "quantity" in values or "quantity_decimal" in values:
            raise invalid("You may not specify a quantity with amount", param="quantity")
        amount, unit = values["amount"], Decimal(values["amount"])
    elif given == "unit_amount_decimal":
        unit = Decimal(values["unit_amount_decimal"])
        amount = product(quantity, unit)
    else:
        price = _price(world, values)
        if price["currency"] != currency:
            raise invalid(f"The price's currency is {price['currency']}, not {currency}", param="pricing[price]")
        amount, unit = amount_of(price, quantity), Decimal(price["unit_amount_decimal"] or 0)
        details = {"price": price["id"], "product": price["product"]}
    return {
        "amount": check_amount(world, amount, currency),
        "quantity": int(quantity),
        "quantity_decimal": plain(quantity),
        "pricing": {"type": "price_details", "price_details": details, "unit_amount_decimal": plain(unit)},
    }


def _price(world: World, values: Mapping[str, Any]) -> Row:
    if "pricing" in values:
        return world.get("price", values["pricing"].get("price", ""), param="pricing[price]")
    return new_price(world, values["price_data"])


def _with_held_price(item: Row, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with the item's own price, where only the quantity is set."""
    if set(values) & set(_PRICINGS):
        return dict(values)
    details = item["pricing"]["price_details"]
    if details is not None:
        return {**values, "pricing": {"price": details["price"]}}
    return {**values, "unit_amount_decimal": Decimal(item["pricing"]["unit_amount_decimal"])}


def _period(values: Mapping[str, int] | None, now: int) -> Row:
    if values is None:
        return {"start": now, "end": now}
    if values["end"] < values["start"]:
        raise invalid("The end of the period must not be before its start", param="period[end]")
    return {"start": values["start"], "end": values["end"]}


def _parent(subscription_id: str) -> Row:
    return {
        "type": "subscription_details",
        "subscription_details": {"subscription": subscription_id, "subscription_item": None},
    }


OPERATIONS: Mapping[str, Modelled] = {
    "POST /v1/invoiceitems": modelled(create, f"{_SHARED} currency customer invoice subscription"),
    "GET /v1/invoiceitems": modelled(list_items, f"{PAGED_BY_TIME} customer invoice pending"),
    "GET /v1/invoiceitems/{}": modelled(retrieve),
    "POST /v1/invoiceitems/{}": modelled(update, _SHARED),
    "DELETE /v1/invoiceitems/{}": modelled(delete),
}
