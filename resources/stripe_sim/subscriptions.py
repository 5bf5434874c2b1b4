"""Subscriptions: made, changed, cancelled, listed. Items: subscription_items; invoices: subscription_invoices; time: renewals."""

from collections.abc import Mapping, Sequence
from typing import Any

from resources.stripe_sim.calls import Call, Modelled, merged_metadata, modelled, needed, one_of, only, unset_to_null
from resources.stripe_sim.invoice_items import pending_items, remove
from resources.stripe_sim.lists import PAGED_BY_TIME, in_range, listed
from resources.stripe_sim.money import lock_currency
from resources.stripe_sim.prices import price_from
from resources.stripe_sim.refusals import invalid, not_modelled
from resources.stripe_sim.rendering import rendered
from resources.stripe_sim.subscription_invoices import (
    ENDED,
    KIND,
    RENEW,
    end,
    invoice_now,
    items_of,
    last_invoice,
)
from resources.stripe_sim.subscription_items import (
    change_items,
    check_item_changes,
    check_quantity,
    first_period,
    new_item,
    prorate,
)
from resources.stripe_sim.tables import Row
from resources.stripe_sim.world import World, changed_fields

_TEXTS = "collection_method days_until_due default_payment_method description"
_CREATE = (
    f"{_TEXTS} billing_cycle_anchor cancel_at cancel_at_period_end currency customer items metadata off_session payment_behavior "
    "proration_behavior trial_end trial_period_days"
)
_UPDATE = (
    f"{_TEXTS} billing_cycle_anchor cancel_at cancel_at_period_end cancellation_details items metadata off_session "
    "pause_collection payment_behavior proration_behavior trial_end"
)
_EDITABLE_WHEN_ENDED = frozenset({"metadata", "cancellation_details", "expand"})
_DAY_SECONDS = 86400


def create(world: World, call: Call) -> Row:
    """Begin a subscription; what is due at once is invoiced, final and collected at once."""
    params = call.params
    customer = world.get("customer", needed(params, "customer"), param="customer")
    wanted = needed(params, "items")
    for place, values in enumerate(wanted):
        only(values, "price price_data quantity metadata", where=f"items[{place}]")
    prices = [price_from(world, values, where=f"items[{place}]") for place, values in enumerate(wanted)]
    recurring = _one_cycle(prices)
    for values, price in zip(wanted, prices, strict=True):
        check_quantity(price, values)
    _check_end(world, params)
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
        cancel_at_period_end=False,
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
    start, end = first_period(world, row, recurring)
    for values, price in zip(wanted, prices, strict=True):
        new_item(world, row, price, values, start, end)
    _plan_end(world, row, params)
    _plan(world, row)
    first = invoice_now(world, row, "subscription_create", prorate=params.get("proration_behavior") != "none")
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
    if row["status"] in ENDED and set(params) - _EDITABLE_WHEN_ENDED:
        raise invalid("A subscription that has ended takes new metadata and cancellation_details only", param="id")
    if "billing_cycle_anchor" in params and params["billing_cycle_anchor"] != "unchanged":
        raise not_modelled("a billing_cycle_anchor that is set later")
    if "trial_end" in params and row["status"] != "trialing":
        raise not_modelled("trial_end for a subscription that is not in its trial")
    _check_end(world, params)
    if "items" in params:
        check_item_changes(world, row, params)
    before = rendered(world, row)
    for name in _TEXTS.split():
        if name in params:
            row[name] = unset_to_null(params[name])
    if "cancellation_details" in params:
        row["cancellation_details"] = {**row["cancellation_details"], **params["cancellation_details"]}
    _plan_end(world, row, params)
    if "pause_collection" in params:
        pause = unset_to_null(params["pause_collection"])
        row["pause_collection"] = pause and {"behavior": pause["behavior"], "resumes_at": pause.get("resumes_at")}
    row["metadata"] = merged_metadata(row["metadata"], params.get("metadata"))
    if "trial_end" in params:
        _end_trial(world, row, params["trial_end"])
    world.save(row)
    if "items" in params:
        change_items(world, row, params)
    _plan(world, row)
    world.emit("customer.subscription.updated", row, previous=changed_fields(before, rendered(world, row)))
    return rendered(world, row)


def cancel(world: World, call: Call) -> Row:
    """End a subscription now.

    With `prorate` the unused time is credited, with `invoice_now` what was used and what is pending is invoiced. With neither
    pending prorations are removed; other pending items stay for another invoice of the customer.
    """
    row, params = world.get(KIND, call.id), call.params
    if row["status"] in ENDED:
        raise invalid("This subscription has ended", code="resource_missing", param="id")
    details = params.get("cancellation_details", {})
    row["cancellation_details"] = {**row["cancellation_details"], **details, "reason": "cancellation_requested"}
    if params.get("prorate"):
        prorate(world, row, [(item, None) for item in items_of(world, row)], {})
    if params.get("invoice_now"):
        last_invoice(world, row, until=world.now)
    elif not params.get("prorate"):
        for item in pending_items(world, row["customer"], row):
            if item["proration"]:
                remove(world, item)
    end(world, row)
    return rendered(world, row)


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


def _check_end(world: World, params: Mapping[str, Any]) -> None:
    given = one_of(params, ("cancel_at", "cancel_at_period_end"), what="the end")
    at = params[given] if given == "cancel_at" else None
    if at == "max_billed_until":
        raise not_modelled("cancel_at=max_billed_until")
    if isinstance(at, int) and at <= world.now:
        raise invalid("cancel_at must be in the future", param="cancel_at")


def _plan_end(world: World, row: Row, params: Mapping[str, Any]) -> None:
    """Set or unset when a subscription ends: with its period, or at an instant."""
    if not {"cancel_at", "cancel_at_period_end"} & set(params):
        return
    ends = [item["current_period_end"] for item in items_of(world, row)]
    with_period = bool(params.get("cancel_at_period_end"))
    at = unset_to_null(params.get("cancel_at"))
    if with_period or at == "min_period_end":
        at = min(ends)
    elif at == "max_period_end":
        at = max(ends)
    row["cancel_at_period_end"] = with_period
    row["cancel_at"] = at
    row["canceled_at"] = None if at is None else world.now


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


OPERATIONS: Mapping[str, Modelled] = {
    "POST /v1/subscriptions": modelled(create, _CREATE),
    "GET /v1/subscriptions": modelled(
        list_subscriptions,
        f"{PAGED_BY_TIME} customer status price collection_method current_period_start current_period_end",
    ),
    "GET /v1/subscriptions/{}": modelled(retrieve),
    "POST /v1/subscriptions/{}": modelled(update, _UPDATE),
    "DELETE /v1/subscriptions/{}": modelled(cancel, "invoice_now prorate cancellation_details"),
}
