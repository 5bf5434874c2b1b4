"""Prorations: invoice items that credit or charge a share of a subscription item's price for the rest of its period."""

from decimal import ROUND_HALF_UP, Decimal

from resources.stripe_sim import invoice_items
from resources.stripe_sim.money import plain
from resources.stripe_sim.prices import amount_of
from resources.stripe_sim.tables import Row
from resources.stripe_sim.world import World


def proration_item(world: World, customer: Row, subscription: Row, item: Row, *, share: Decimal) -> Row:
    """Add a pending item for `share` of the item's price (less than 0: a credit), rounded half up."""
    price = world.get("price", item["price"])
    quantity = Decimal(item["quantity"] or 0)
    whole = amount_of(price, quantity)
    name = world.get("product", price["product"])["name"]
    made = world.make(
        invoice_items.KIND,
        amount=int((whole * share).quantize(Decimal(1), rounding=ROUND_HALF_UP)),
        currency=price["currency"],
        customer=customer["id"],
        date=world.now,
        description=f"{'Unused' if share < 0 else 'Remaining'} time on {name}",
        discountable=False,
        discounts=[],
        metadata={},
        parent={
            "type": "subscription_details",
            "subscription_details": {"subscription": subscription["id"], "subscription_item": item["id"]},
        },
        period={"start": world.now, "end": item["current_period_end"]},
        pricing={
            "type": "price_details",
            "price_details": {"price": price["id"], "product": price["product"]},
            "unit_amount_decimal": price["unit_amount_decimal"],
        },
        proration=True,
        proration_details={"credited_items": None, "discount_amounts": []},
        quantity=int(quantity),
        quantity_decimal=plain(quantity),
        tax_rates=[],
    )
    world.emit("invoiceitem.created", made)
    return made
