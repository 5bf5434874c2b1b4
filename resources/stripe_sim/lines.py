"""Lines of invoices: made from invoice items and subscription items, each with an id of its own.

An amount of an invoice item lives on the item and on its line: both are changed together. Order: pending items newest
first, subscription items newest first, what was added later in the order it came (Invoice.lines in the SDK).
"""

from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from resources.stripe_sim.meter_usage import billed_quantity
from resources.stripe_sim.money import plain
from resources.stripe_sim.prices import amount_of
from resources.stripe_sim.tables import Row
from resources.stripe_sim.world import World

LINE = "line_item"


def lines_of(world: World, invoice_id: str) -> list[Row]:
    """Return an invoice's lines in the order they are shown."""
    return world.lines.setdefault(invoice_id, [])


def line_of(world: World, invoice_id: str, line_id: str) -> Row | None:
    """Return a line of that invoice."""
    return next((line for line in lines_of(world, invoice_id) if line["id"] == line_id), None)


def add_item(world: World, invoice: Row, item: Row) -> Row:
    """Put an invoice item on an invoice, as its last line."""
    item["invoice"] = invoice["id"]
    world.save(item)
    line = item_line(world, invoice["id"], item)
    lines_of(world, invoice["id"]).append(line)
    return line


def item_line(world: World, invoice_id: str, item: Row) -> Row:
    """Return a line that shows an invoice item."""
    line = _line(world, invoice_id, item["currency"])
    line["_item"] = item["id"]
    copy_item(line, item)
    return line


def copy_item(line: Row, item: Row) -> None:
    """Let a line say what its invoice item says."""
    subscription = item["parent"] and item["parent"]["subscription_details"]["subscription"]
    line |= {
        "amount": item["amount"],
        "subtotal": item["amount"],
        "currency": item["currency"],
        "description": item["description"],
        "discountable": item["discountable"],
        "metadata": dict(item["metadata"]),
        "period": dict(item["period"]),
        "pricing": item["pricing"],
        "quantity": item["quantity"],
        "quantity_decimal": item["quantity_decimal"],
        "subscription": subscription,
        "parent": {
            "type": "invoice_item_details",
            "subscription_item_details": None,
            "invoice_item_details": {
                "invoice_item": item["id"],
                "proration": item["proration"],
                "proration_details": {"credited_items": None},
                "subscription": subscription,
            },
        },
    }


def add_subscription_item(
    world: World, invoice: Row, item: Row, *, start: int, end: int, share: Decimal = Decimal(1)
) -> Row:
    """Put a subscription item on an invoice for the service period `[start, end)`. `share`: of a whole period's price."""
    line = subscription_line(world, invoice["id"], item, start=start, end=end, share=share)
    lines_of(world, invoice["id"]).append(line)
    return line


def subscription_line(
    world: World, invoice_id: str, item: Row, *, start: int, end: int, share: Decimal = Decimal(1)
) -> Row:
    """Return a line that shows a subscription item for the service period `[start, end)`."""
    price = world.get("price", item["price"])
    line = _line(world, invoice_id, price["currency"])
    line |= {
        "_subscription_item": item["id"],
        "_share": str(share),
        "_price": price["id"],
        "description": f"{world.get('product', price['product'])['name']}",
        "discountable": True,
        "metadata": dict(item["metadata"]),
        "period": {"start": start, "end": end},
        "pricing": {
            "type": "price_details",
            "price_details": {"price": price["id"], "product": price["product"]},
            "unit_amount_decimal": price["unit_amount_decimal"],
        },
        "subscription": item["subscription"],
        "parent": {
            "type": "subscription_item_details",
            "invoice_item_details": None,
            "subscription_item_details": {
                "invoice_item": None,
                "proration": False,
                "proration_details": {"credited_items": None},
                "subscription": item["subscription"],
                "subscription_item": item["id"],
            },
        },
    }
    if is_metered(price):
        subscription = world.get("subscription", item["subscription"])
        meter = price["recurring"]["meter"]
        line["_usage"] = {"meter": meter, "customer": subscription["customer"], "start": start, "end": end}
        measure(world, line)
    else:
        _set_quantity(world, line, Decimal(item["quantity"] or 0))
    return line


def measure(world: World, line: Row) -> None:
    """Bring a metered line up to date: it counts its events until the invoice is final."""
    if "_usage" in line:
        usage = line["_usage"]
        quantity = billed_quantity(world, usage["meter"], usage["customer"], usage["start"], usage["end"])
        _set_quantity(world, line, quantity)


def _set_quantity(world: World, line: Row, quantity: Decimal) -> None:
    line["quantity"], line["quantity_decimal"] = int(quantity), plain(quantity)
    amount = Decimal(amount_of(world.get("price", line["_price"]), quantity)) * Decimal(line["_share"])
    line["amount"] = line["subtotal"] = int(amount.quantize(Decimal(1), rounding=ROUND_HALF_UP))


def is_metered(price: Row) -> bool:
    """Say whether a price is billed by what was used, after the period."""
    return bool(price["recurring"]) and price["recurring"]["usage_type"] == "metered"


def drop(world: World, invoice_id: str, line: Row) -> None:
    """Take a line off its invoice."""
    lines_of(world, invoice_id).remove(line)
    world.changes += 1


def _line(world: World, invoice_id: str, currency: str) -> Row:
    line: dict[str, Any] = {
        "id": world.new_id("il"),
        "object": LINE,
        "amount": 0,
        "currency": currency,
        "description": None,
        "discount_amounts": [],
        "discountable": True,
        "discounts": [],
        "invoice": invoice_id,
        "livemode": False,
        "pretax_credit_amounts": [],
        "taxes": [],
        "_at": world.now,
    }
    world.changes += 1
    return line


def invoice_item_of(world: World, line: Row) -> Row | None:
    """Return the invoice item that a line shows, null for a subscription item's line."""
    return world.table("invoiceitem").get(line["_item"]) if "_item" in line else None
