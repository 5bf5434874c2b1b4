"""What the next invoice of a subscription, or of what is pending, would be. Nothing is made."""

from collections.abc import Mapping
from typing import Any

from resources.stripe_sim import drafts, invoice_items, lines, subscription_invoices
from resources.stripe_sim.calls import Call, Modelled, modelled, only
from resources.stripe_sim.money import DEFAULT_CURRENCY
from resources.stripe_sim.refusals import invalid
from resources.stripe_sim.rendering import rendered
from resources.stripe_sim.tables import Row
from resources.stripe_sim.totals import totals_of
from resources.stripe_sim.world import World

_ITEM = "amount currency description discountable metadata period quantity quantity_decimal unit_amount_decimal"


def create_preview(world: World, call: Call) -> Row:
    """Show the next invoice: pending items, further items that are asked for, and the subscription's next lines."""
    params = call.params
    subscription = None
    if "subscription" in params:
        subscription = world.get("subscription", params["subscription"], param="subscription")
        if subscription["status"] in subscription_invoices.ENDED:
            raise invalid("This subscription has ended", code="invoice_upcoming_none", param="subscription")
    customer_id = params.get("customer", subscription and subscription["customer"])
    if customer_id is None:
        raise invalid("Missing required param: customer.", code="parameter_missing", param="customer")
    customer = world.get("customer", customer_id, param="customer")
    if subscription is not None and subscription["customer"] != customer["id"]:
        raise invalid("The subscription belongs to another customer", param="subscription")
    currency = subscription["currency"] if subscription is not None else customer["currency"] or DEFAULT_CURRENCY
    number = world.next_number("preview")
    invoice_id = f"upcoming_in_sim{number:012d}"
    found = _lines(world, customer, subscription, params, invoice_id)
    if not found:
        raise invalid("No upcoming invoices for customer", code="invoice_upcoming_none", param="customer")
    at = world.now if subscription is None else _period_end(world, subscription)
    invoice = drafts.blank(world, customer, currency=currency, reason="upcoming", subscription=subscription)
    invoice |= {"id": invoice_id, "period_end": at, "created": at}
    invoice |= totals_of(world, invoice, found)
    world.lines[invoice_id] = found
    shown = rendered(world, invoice)
    del world.lines[invoice_id]
    return shown


def _lines(
    world: World, customer: Row, subscription: Row | None, params: Mapping[str, Any], invoice_id: str
) -> list[Row]:
    found = [
        lines.item_line(world, invoice_id, item)
        for item in invoice_items.pending_items(world, customer["id"], subscription)
    ]
    for place, values in enumerate(params.get("invoice_items", ())):
        only(values, _ITEM, where=f"invoice_items[{place}]")
        item = {"id": f"ii_preview_{place}", **invoice_items.check_new(world, customer, values)}
        found.append(lines.item_line(world, invoice_id, item))
    if subscription is None:
        return found
    for item in reversed(subscription_invoices.items_of(world, subscription)):
        if lines.is_metered(world.get("price", item["price"])):
            start, end = item["current_period_start"], item["current_period_end"]
        elif subscription["cancel_at_period_end"]:
            continue
        else:
            start, end = subscription_invoices.next_period(world, item, subscription["billing_cycle_anchor"])
        found.append(lines.subscription_line(world, invoice_id, item, start=start, end=end))
    return found


def _period_end(world: World, subscription: Row) -> int:
    end: int = min(item["current_period_end"] for item in subscription_invoices.items_of(world, subscription))
    return end


OPERATIONS: Mapping[str, Modelled] = {
    "POST /v1/invoices/create_preview": modelled(create_preview, "customer subscription invoice_items currency"),
}
