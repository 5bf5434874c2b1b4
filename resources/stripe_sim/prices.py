"""Products and prices; the amount of a quantity at a price (per unit, graduated, volume)."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from resources.stripe_sim.calls import Call, Modelled, merged_metadata, modelled, one_of, only, unset_to_null
from resources.stripe_sim.lists import PAGED_BY_TIME, listed
from resources.stripe_sim.money import check_amount, plain, product, read_currency
from resources.stripe_sim.refusals import invalid, not_modelled
from resources.stripe_sim.rendering import rendered
from resources.stripe_sim.tables import Row
from resources.stripe_sim.world import World, changed_fields

_PRODUCT_TAKES = "active description id images metadata name shippable statement_descriptor tax_code unit_label url"
_PRICE_TAKES = (
    "active billing_scheme currency lookup_key metadata nickname product product_data recurring tax_behavior tiers tiers_mode "
    "unit_amount unit_amount_decimal"
)


def create_product(world: World, call: Call) -> Row:
    """Make a product."""
    row = new_product(world, call.params)
    return rendered(world, row)


def new_product(world: World, values: Mapping[str, Any]) -> Row:
    """Add a product."""
    fields = {name: value for name, value in values.items() if name not in ("metadata", "expand", "tax_details")}
    row = world.make(
        "product",
        **{
            "active": True,
            "images": [],
            "marketing_features": [],
            "type": "service",
            "updated": world.now,
            **fields,
            "metadata": merged_metadata(None, values.get("metadata")),
        },
    )
    world.emit("product.created", row)
    return row


def update_product(world: World, call: Call) -> Row:
    """Change a product."""
    row = world.get("product", call.id)
    before = dict(row)
    row |= {name: unset_to_null(value) for name, value in call.params.items() if name not in ("metadata", "expand")}
    row["metadata"] = merged_metadata(row["metadata"], call.params.get("metadata"))
    row["updated"] = world.now
    world.save(row)
    world.emit("product.updated", row, previous=changed_fields(before, row))
    return rendered(world, row)


def create_price(world: World, call: Call) -> Row:
    """Make a price."""
    return rendered(world, new_price(world, call.params))


def new_price(world: World, values: Mapping[str, Any]) -> Row:
    """Add a price, with a product of its own if `product_data` says so.

    Raises:
        ApiError: what it costs is not said or said twice, or product or meter do not exist.
    """
    currency = read_currency(values["currency"])
    given = one_of(values, ("product", "product_data"), what="the product")
    if given is None:
        raise invalid("You must specify either `product` or `product_data`.", code="parameter_missing", param="product")
    tiered = values.get("billing_scheme") == "tiered"
    cost = one_of(values, ("unit_amount", "unit_amount_decimal"), what="the price's amount")
    if (cost is None) != tiered or tiered != ("tiers" in values) or tiered != ("tiers_mode" in values):
        raise invalid(
            "A price has either unit_amount, or billing_scheme=tiered with tiers and tiers_mode", param="unit_amount"
        )
    if cost == "unit_amount":
        check_amount(world, values["unit_amount"], currency, param="unit_amount")
    recurring = _recurring(world, values.get("recurring"))
    if given == "product":
        product_id = world.get("product", values["product"], param="product")["id"]
    else:
        product_id = new_product(world, values["product_data"])["id"]
    unit = None if cost is None else Decimal(values[cost])
    row = world.make(
        "price",
        active=values.get("active", True),
        billing_scheme="tiered" if tiered else "per_unit",
        currency=currency,
        lookup_key=values.get("lookup_key"),
        metadata=merged_metadata(None, values.get("metadata")),
        nickname=values.get("nickname"),
        product=product_id,
        recurring=recurring,
        tax_behavior=values.get("tax_behavior", "unspecified"),
        tiers_mode=values.get("tiers_mode"),
        type="one_time" if recurring is None else "recurring",
        unit_amount=int(unit) if unit is not None and unit == int(unit) else None,
        unit_amount_decimal=None if unit is None else plain(unit),
        _tiers=[_tier(tier) for tier in values.get("tiers", ())],
    )
    world.emit("price.created", row)
    return row


def update_price(world: World, call: Call) -> Row:
    """Change a price: never what it costs."""
    row = world.get("price", call.id)
    before = dict(row)
    row |= {name: unset_to_null(value) for name, value in call.params.items() if name not in ("metadata", "expand")}
    row["metadata"] = merged_metadata(row["metadata"], call.params.get("metadata"))
    world.save(row)
    world.emit("price.updated", row, previous=changed_fields(before, row))
    return rendered(world, row)


def amount_of(price: Row, quantity: Decimal) -> int:
    """Return what a quantity costs, in minor units."""
    if price["billing_scheme"] == "per_unit":
        return product(quantity, Decimal(price["unit_amount_decimal"]))
    tiers: Sequence[Row] = price["_tiers"]
    if price["tiers_mode"] == "volume":
        tier = next(tier for tier in tiers if tier["up_to"] is None or quantity <= tier["up_to"])
        return product(quantity, _unit(tier)) + (tier["flat_amount"] or 0)
    total, below = Decimal(0), Decimal(0)
    for tier in tiers:
        top = quantity if tier["up_to"] is None else min(quantity, Decimal(tier["up_to"]))
        if top > below or (quantity == 0 and below == 0):
            total += (top - below) * _unit(tier) + (tier["flat_amount"] or 0)
        below = max(below, top)
    return product(Decimal(1), total)


def _unit(tier: Row) -> Decimal:
    return Decimal(tier["unit_amount_decimal"] or 0)


def _tier(values: Mapping[str, Any]) -> Row:
    only(values, "flat_amount unit_amount unit_amount_decimal up_to", where="tiers[0]")
    unit = values.get("unit_amount_decimal", values.get("unit_amount"))
    flat = values.get("flat_amount")
    return {
        "flat_amount": flat,
        "flat_amount_decimal": None if flat is None else str(flat),
        "unit_amount": int(unit) if unit is not None and unit == int(unit) else None,
        "unit_amount_decimal": None if unit is None else plain(Decimal(unit)),
        "up_to": None if values["up_to"] == "inf" else values["up_to"],
    }


def _recurring(world: World, values: Mapping[str, Any] | None) -> Row | None:
    if values is None:
        return None
    only(values, "interval interval_count usage_type meter", where="recurring")
    usage_type = values.get("usage_type", "licensed")
    if (usage_type == "metered") != ("meter" in values):
        raise invalid("A metered price needs a meter, and only a metered one has it", param="recurring[meter]")
    if "meter" in values:
        meter = world.get("billing.meter", values["meter"], param="recurring[meter]")
        if meter["status"] != "active":
            raise invalid("The meter is not active", code="archived_meter", param="recurring[meter]")
    return {
        "interval": values["interval"],
        "interval_count": values.get("interval_count", 1),
        "meter": values.get("meter"),
        "trial_period_days": None,
        "usage_type": usage_type,
    }


def list_prices(world: World, call: Call) -> Row:
    """List prices."""
    by = {name: call.params[name] for name in ("active", "product", "currency", "type") if name in call.params}
    keys = call.params.get("lookup_keys")
    return listed(world, call, "price", by=by, where=None if keys is None else lambda row: row["lookup_key"] in keys)


def list_products(world: World, call: Call) -> Row:
    """List products."""
    by = {"active": call.params["active"]} if "active" in call.params else {}
    ids = call.params.get("ids")
    return listed(world, call, "product", by=by, where=None if ids is None else lambda row: row["id"] in ids)


def delete_product(world: World, call: Call) -> Row:
    """Delete a product without prices."""
    row = world.get("product", call.id)
    if world.table("price").count("product", row["id"]):
        raise invalid("This product cannot be deleted because it has one or more user-created prices.")
    world.emit("product.deleted", row)
    row["deleted"] = True
    world.save(row)
    return {"id": row["id"], "object": "product", "deleted": True}


def price_from(world: World, values: Mapping[str, Any], *, where: str) -> Row:
    """Return the price that `price` names or `price_data` describes.

    Raises:
        ApiError: neither or both are given, or there is no such price.
    """
    given = one_of(values, ("price", "price_data"), what="the price")
    if given is None:
        raise invalid("You must specify a price", code="parameter_missing", param=f"{where}[price]")
    if given == "price":
        return world.get("price", values["price"], param=f"{where}[price]")
    data = values["price_data"]
    if "product" not in data:
        raise not_modelled(f"{where}[price_data] without a product")
    return new_price(world, data)


def _retrieve_product(world: World, call: Call) -> Row:
    return rendered(world, world.get("product", call.id))


def _retrieve_price(world: World, call: Call) -> Row:
    return rendered(world, world.get("price", call.id))


OPERATIONS: Mapping[str, Modelled] = {
    "POST /v1/products": modelled(create_product, _PRODUCT_TAKES),
    "GET /v1/products": modelled(list_products, f"{PAGED_BY_TIME} active ids"),
    "GET /v1/products/{}": modelled(_retrieve_product),
    "POST /v1/products/{}": modelled(update_product, _PRODUCT_TAKES.replace(" id ", " ")),
    "DELETE /v1/products/{}": modelled(delete_product),
    "POST /v1/prices": modelled(create_price, _PRICE_TAKES),
    "GET /v1/prices": modelled(list_prices, f"{PAGED_BY_TIME} active product currency type lookup_keys"),
    "GET /v1/prices/{}": modelled(_retrieve_price),
    "POST /v1/prices/{}": modelled(update_price, "active lookup_key metadata nickname tax_behavior"),
}
