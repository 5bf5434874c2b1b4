"""Subscriptions and their items: made, changed, cancelled. The current period lives on the items.

A change of items makes prorations (prorations) unless it asks for `none`: pending items of the subscription, which
`always_invoice` puts on an invoice at once, with whatever else is pending. Renewal: renewals.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from resources.stripe_sim import drafts, finalization, lines
from resources.stripe_sim.billing_cycles import boundary, period_around
from resources.stripe_sim.calls import Call, Modelled, merged_metadata, modelled, only, unset_to_null
from resources.stripe_sim.invoice_items import pending_items
from resources.stripe_sim.lists import PAGED, PAGED_BY_TIME, in_range, listed
from resources.stripe_sim.money import lock_currency
from resources.stripe_sim.prices import price_from
from resources.stripe_sim.prorations import proration_item
from resources.stripe_sim.refusals import invalid, not_modelled
from resources.stripe_sim.rendering import rendered
from resources.stripe_sim.tables import Row
from resources.stripe_sim.world import World, changed_fields

KIND = "subscription"
ITEM = "subscription_item"
RENEW = "renew"
ENDED = frozenset({"canceled", "incomplete_expired"})

_TEXTS = "collection_method days_until_due default_payment_method description"
_CREATE = (
    f"{_TEXTS} billing_cycle_anchor cancel_at cancel_at_period_end currency customer items metadata off_session payment_behavior "
    "proration_behavior trial_end trial_period_days"
)
_UPDATE = (
    f"{_TEXTS} billing_cycle_anchor cancel_at cancel_at_period_end cancellation_details items metadata off_session "
    "pause_collection payment_behavior proration_behavior trial_end"
)
_DAY_SECONDS = 86400


def create(world: World, call: Call) -> Row:
    """Begin a subscription; what is due at once is invoiced, final and collected at once."""
    params = call.params
    customer = world.get("customer", _needed(params, "customer"), param="customer")
    wanted = _needed(params, "items")
    for place, values in enumerate(wanted):
        only(values, "price price_data quantity metadata", where=f"items[{place}]")
    prices = [price_from(world, values, where=f"items[{place}]") for place, values in enumerate(wanted)]
    recurring = _one_cycle(prices)
    currency = prices[0]["currency"]
    trial_end = _trial_end(world, params)
    anchor = params.get("billing_cycle_anchor", trial_end or world.now)
    if anchor < world.now:
        raise invalid("billing_cycle_anchor must be in the future", param="billing_cycle_anchor")
    lock_currency(world, customer, currency)
    in_trial = trial_end is not None and trial_end > world.now
    row = world.make(
        KIND,
        **{
            name: unset_to_null(params[name])
            for name in _TEXTS.split()
            if name in params and name != "collection_method"
        },
        automatic_tax={"disabled_reason": None, "enabled": False, "liability": None},
        billing_cycle_anchor=anchor,
        billing_mode={"type": "flexible", "flexible": {"proration_discounts": "included"}, "updated_at": None},
        billing_schedules=[],
        cancel_at=params.get("cancel_at"),
        cancel_at_period_end=params.get("cancel_at_period_end", False),
        cancellation_details={"comment": None, "feedback": None, "reason": None},
        collection_method=params.get("collection_method", "charge_automatically"),
        currency=currency,
        customer=customer["id"],
        default_tax_rates=[],
        discounts=[],
        invoice_settings={"account_tax_ids": None, "issuer": {"type": "self"}},
        metadata=merged_metadata(None, params.get("metadata")),
        payment_settings={
            "payment_method_options": None,
            "payment_method_types": None,
            "save_default_payment_method": "off",
        },
        start_date=world.now,
        status="trialing" if in_trial else "incomplete",
        trial_start=world.now if in_trial else None,
        trial_end=trial_end if in_trial else None,
        trial_settings={"end_behavior": {"missing_payment_method": "create_invoice"}},
    )
    start, end = _first_period(world, row, recurring)
    for values, price in zip(wanted, prices, strict=True):
        _new_item(world, row, price, values, start, end)
    _plan(world, row)
    first = _invoice_now(
        world, row, "subscription_create", free=in_trial, prorate=params.get("proration_behavior") != "none"
    )
    if not in_trial and (first["status"] == "paid" or row["collection_method"] == "send_invoice"):
        row["status"] = "active"
    world.save(row)
    world.emit("customer.subscription.created", row)
    return rendered(world, row)


def retrieve(world: World, call: Call) -> Row:
    """Return a subscription, an ended one too."""
    return rendered(world, world.get(KIND, call.id))


def update(world: World, call: Call) -> Row:
    """Change a subscription.

    Raises:
        ApiError: it has ended, or the change is not modelled.
    """
    row, params = world.get(KIND, call.id), call.params
    if row["status"] in ENDED:
        raise invalid("This subscription has ended", param="id")
    if "billing_cycle_anchor" in params and params["billing_cycle_anchor"] != "unchanged":
        raise not_modelled("a billing_cycle_anchor that is set later")
    if "items" in params:
        _check_item_changes(world, row, params)
    before = rendered(world, row)
    for name in ("cancel_at", "cancel_at_period_end", *_TEXTS.split()):
        if name in params:
            row[name] = unset_to_null(params[name])
    if "pause_collection" in params:
        pause = unset_to_null(params["pause_collection"])
        row["pause_collection"] = pause and {"behavior": pause["behavior"], "resumes_at": pause.get("resumes_at")}
    if params.get("cancel_at_period_end"):
        row["canceled_at"] = world.now
    elif params.get("cancel_at_period_end") is False and row["cancel_at"] is None:
        row["canceled_at"] = None
    row["metadata"] = merged_metadata(row["metadata"], params.get("metadata"))
    if "trial_end" in params:
        _end_trial(world, row, params["trial_end"])
    world.save(row)
    if "items" in params:
        _change_items(world, row, params)
    _plan(world, row)
    world.emit("customer.subscription.updated", row, previous=changed_fields(before, rendered(world, row)))
    return rendered(world, row)


def cancel(world: World, call: Call) -> Row:
    """End a subscription now; with `invoice_now` what was used and what is pending is invoiced."""
    row = world.get(KIND, call.id)
    if row["status"] in ENDED:
        raise invalid("This subscription has ended", code="resource_missing", param="id")
    if call.params.get("prorate"):
        raise not_modelled("prorate at a cancellation")
    details = call.params.get("cancellation_details", {})
    row["cancellation_details"] = {**row["cancellation_details"], **details, "reason": "cancellation_requested"}
    if call.params.get("invoice_now"):
        last_invoice(world, row, until=world.now)
    end(world, row)
    return rendered(world, row)


def end(world: World, row: Row) -> None:
    """End a subscription."""
    row |= {"status": "canceled", "ended_at": world.now, "canceled_at": row["canceled_at"] or world.now}
    world.save(row)
    world.emit("customer.subscription.deleted", row)


def last_invoice(world: World, row: Row, *, until: int) -> Row | None:
    """Make the draft of what a subscription that ends has used and what is pending for it; null if there is nothing."""
    items = items_of(world, row)
    metered = [item for item in items if lines.is_metered(world.get("price", item["price"]))]
    if not metered and not pending_items(world, row["customer"], row):
        return None
    return cycle_draft(world, row, metered, next_periods={}, until=until)


def cycle_draft(
    world: World, row: Row, items: Sequence[Row], *, next_periods: Mapping[str, tuple[int, int]], until: int
) -> Row:
    """Make a renewal's draft: pending items, then the items' lines, metered ones for the period that ends, others for the next.

    `next_periods`: subscription item -> its next period.
    """
    customer = world.table("customer").get(row["customer"])
    assert customer is not None
    started = min((item["current_period_start"] for item in items), default=row["start_date"])
    paused = row["pause_collection"] or {}
    if paused.get("resumes_at") is not None and paused["resumes_at"] <= world.now:
        row["pause_collection"], paused = None, {}
    invoice = drafts.new_invoice(
        world,
        customer,
        currency=row["currency"],
        reason="subscription_cycle",
        subscription=row,
        period_start=started,
        auto_advance=paused.get("behavior") != "keep_as_draft",
        collection_method=row["collection_method"],
        default_payment_method=row["default_payment_method"],
        _days_until_due=row["days_until_due"],
    )
    drafts.take_pending(world, invoice, row)
    for item in reversed(items):
        if lines.is_metered(world.get("price", item["price"])):
            lines.add_subscription_item(world, invoice, item, start=item["current_period_start"], end=until)
        elif item["id"] in next_periods:
            start, stop = next_periods[item["id"]]
            lines.add_subscription_item(world, invoice, item, start=start, end=stop)
    row["latest_invoice"] = invoice["id"]
    world.save(row)
    drafts.announce(world, invoice)
    if paused.get("behavior") in ("void", "mark_uncollectible"):
        finalization.finalize(world, invoice, collect=False)
        if invoice["status"] == "open":
            giving_up = finalization.void if paused["behavior"] == "void" else finalization.mark_uncollectible
            giving_up(world, invoice)
    return invoice


def items_of(world: World, row: Row) -> list[Row]:
    """Return a subscription's items, oldest first."""
    return list(world.table(ITEM).find(subscription=row["id"]))


def list_subscriptions(world: World, call: Call) -> Row:
    """List subscriptions; those that have ended only if `status` asks for them."""
    params = call.params
    by = {name: params[name] for name in ("customer", "collection_method") if name in params}
    status = params.get("status")
    if status not in (None, "all", "ended"):
        by["status"] = status

    def fits(row: Row) -> bool:
        if status is None and row["status"] in ENDED:
            return False
        if status == "ended" and row["status"] not in ENDED:
            return False
        items = items_of(world, row)
        if "price" in params and params["price"] not in {item["price"] for item in items}:
            return False
        return all(
            any(in_range(item[name], params[name]) for item in items)
            for name in ("current_period_start", "current_period_end")
            if name in params
        )

    return listed(world, call, KIND, by=by, where=fits)


def create_item(world: World, call: Call) -> Row:
    """Add an item to a subscription."""
    row = world.get(KIND, call.params["subscription"], param="subscription")
    price = price_from(world, call.params, where="price")
    item = _add_item(world, row, price, call.params)
    prorate(world, row, [(None, item)], call.params)
    world.emit("customer.subscription.updated", row, previous={})
    return rendered(world, item)


def update_item(world: World, call: Call) -> Row:
    """Change an item's quantity, price or metadata."""
    item = world.get(ITEM, call.id)
    row = world.get(KIND, item["subscription"])
    before = dict(item)
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
    subscription_id = _needed(call.params, "subscription")
    world.get(KIND, subscription_id, param="subscription")
    return listed(world, call, ITEM, by={"subscription": subscription_id})


def retrieve_item(world: World, call: Call) -> Row:
    """Return an item."""
    return rendered(world, world.get(ITEM, call.id))


def next_period(world: World, item: Row, anchor: int) -> tuple[int, int]:
    """Return the period that follows an item's current one."""
    recurring = world.get("price", item["price"])["recurring"]
    return period_around(anchor, recurring["interval"], recurring["interval_count"], item["current_period_end"])


def _first_period(world: World, row: Row, recurring: Row) -> tuple[int, int]:
    if row["billing_cycle_anchor"] > world.now:
        return world.now, row["billing_cycle_anchor"]
    return world.now, boundary(world.now, recurring["interval"], recurring["interval_count"], 1)


def _new_item(world: World, row: Row, price: Row, values: Mapping[str, Any], start: int, end: int) -> Row:
    metered = lines.is_metered(price)
    if metered and "quantity" in values:
        raise invalid("A metered price takes no quantity", param="quantity")
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


def _invoice_now(
    world: World, row: Row, reason: str, *, with_items: bool = True, free: bool = False, prorate: bool = True
) -> Row:
    """Invoice what is pending, and what the items cost for the rest of their period, and make that final at once."""
    customer = world.table("customer").get(row["customer"])
    assert customer is not None
    invoice = drafts.new_invoice(
        world,
        customer,
        currency=row["currency"],
        reason=reason,
        subscription=row,
        auto_advance=True,
        collection_method=row["collection_method"],
        _days_until_due=row["days_until_due"],
        _held=True,
    )
    drafts.take_pending(world, invoice, row)
    for item in reversed(items_of(world, row) if with_items else []):
        if not lines.is_metered(world.get("price", item["price"])):
            share = Decimal(0) if free else _share(world, row, item, prorate=prorate)
            lines.add_subscription_item(
                world, invoice, item, start=world.now, end=item["current_period_end"], share=share
            )
    row["latest_invoice"] = invoice["id"]
    invoice["automatically_finalizes_at"] = world.now
    drafts.announce(world, invoice)
    finalization.finalize(world, invoice, collect=True)
    return invoice


def _share(world: World, row: Row, item: Row, *, prorate: bool) -> Decimal:
    """Return the part of a period that is left, 0 if a part is not to be billed."""
    recurring = world.get("price", item["price"])["recurring"]
    start, end = period_around(
        row["billing_cycle_anchor"], recurring["interval"], recurring["interval_count"], world.now
    )
    if start == world.now:
        return Decimal(1)
    return Decimal(end - world.now) / Decimal(end - start) if prorate else Decimal(0)


def _check_item_changes(world: World, row: Row, params: Mapping[str, Any]) -> None:
    for place, values in enumerate(params["items"]):
        only(values, "id price price_data quantity metadata deleted", where=f"items[{place}]")
        if "id" in values:
            item = world.get(ITEM, values["id"], param=f"items[{place}][id]")
            if item["subscription"] != row["id"]:
                raise invalid("The item belongs to another subscription", param=f"items[{place}][id]")


def _change_items(world: World, row: Row, params: Mapping[str, Any]) -> None:
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
                proration_item(world, customer, row, item, share=sign * _share(world, row, item, prorate=True))
    if behavior == "always_invoice":
        _invoice_now(world, row, "subscription_update", with_items=False)


def _costs(item: Row) -> tuple[str, int | None]:
    return item["price"], item["quantity"]


def _set_item(world: World, item: Row, values: Mapping[str, Any]) -> None:
    if "price" in values or "price_data" in values:
        item["price"] = item["plan"] = price_from(world, values, where="price")["id"]
    if "quantity" in values:
        item["quantity"] = values["quantity"]
    item["metadata"] = merged_metadata(item["metadata"], values.get("metadata"))
    world.save(item)


def _add_item(world: World, row: Row, price: Row, values: Mapping[str, Any]) -> Row:
    if price["currency"] != row["currency"]:
        raise invalid(f"The subscription's currency is {row['currency']}", param="price")
    held = items_of(world, row)
    recurring = price["recurring"]
    if recurring is None:
        raise invalid("A subscription's price must be recurring", param="price")
    end = held[0]["current_period_end"] if held else _first_period(world, row, recurring)[1]
    return _new_item(world, row, price, values, world.now, end)


def _plan(world: World, row: Row) -> None:
    """Set the timers of what comes next: the end of the nearest period, and a set end."""
    ends = {item["current_period_end"] for item in items_of(world, row)}
    if row["cancel_at"] is not None:
        ends.add(row["cancel_at"])
    for at in ends:
        world.schedule(at, RENEW, row["id"])


def _trial_end(world: World, params: Mapping[str, Any]) -> int | None:
    if "trial_period_days" in params:
        return int(world.now + params["trial_period_days"] * _DAY_SECONDS)
    found = params.get("trial_end")
    return None if found == "now" else found


def _end_trial(world: World, row: Row, at: int | str) -> None:
    if row["status"] != "trialing":
        raise not_modelled("trial_end for a subscription that is not in its trial")
    row["trial_end"] = world.now if at == "now" else at
    row["billing_cycle_anchor"] = row["trial_end"]
    for item in items_of(world, row):
        item["current_period_end"] = row["trial_end"]
        world.save(item)


def _one_cycle(prices: Sequence[Row]) -> Row:
    """Return the cycle that all prices share."""
    for price in prices:
        if price["recurring"] is None:
            raise invalid("A subscription's price must be recurring", param="items")
        if price["currency"] != prices[0]["currency"]:
            raise invalid("All prices of a subscription must have one currency", param="items")
    cycles = {(price["recurring"]["interval"], price["recurring"]["interval_count"]) for price in prices}
    if len(cycles) > 1:
        raise not_modelled("a subscription with items of several intervals")
    recurring: Row = prices[0]["recurring"]
    return recurring


def _needed(params: Mapping[str, Any], name: str) -> Any:
    if not params.get(name):
        raise invalid(f"Missing required param: {name}.", code="parameter_missing", param=name)
    return params[name]


OPERATIONS: Mapping[str, Modelled] = {
    "POST /v1/subscriptions": modelled(create, _CREATE),
    "GET /v1/subscriptions": modelled(
        list_subscriptions,
        f"{PAGED_BY_TIME} customer status price collection_method current_period_start current_period_end",
    ),
    "GET /v1/subscriptions/{}": modelled(retrieve),
    "POST /v1/subscriptions/{}": modelled(update, _UPDATE),
    "DELETE /v1/subscriptions/{}": modelled(cancel, "invoice_now prorate cancellation_details"),
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
