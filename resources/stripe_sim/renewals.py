"""The end of a subscription's period: the next one begins with a draft of what is due, or the subscription ends."""

from resources.stripe_sim import subscription_invoices
from resources.stripe_sim.rendering import rendered
from resources.stripe_sim.tables import Row
from resources.stripe_sim.world import World, changed_fields


def on_renew_timer(world: World, subscription_id: str) -> None:
    """Renew or end a subscription whose period is over."""
    row = world.table(subscription_invoices.KIND).get(subscription_id)
    if row is None or row["status"] in subscription_invoices.ENDED:
        return
    items = subscription_invoices.items_of(world, row)
    ended = [item for item in items if item["current_period_end"] <= world.now]
    if _is_to_end(world, row, ended):
        subscription_invoices.last_invoice(world, row, until=world.now)
        row["cancellation_details"] = {**row["cancellation_details"], "reason": "cancellation_requested"}
        subscription_invoices.end(world, row)
    elif ended:
        _renew(world, row, ended)


def _is_to_end(world: World, row: Row, ended: list[Row]) -> bool:
    if row["cancel_at_period_end"]:
        return bool(ended)
    return row["cancel_at"] is not None and row["cancel_at"] <= world.now


def _renew(world: World, row: Row, items: list[Row]) -> None:
    before = rendered(world, row)
    periods = {
        item["id"]: subscription_invoices.next_period(world, item, row["billing_cycle_anchor"]) for item in items
    }
    if row["status"] == "trialing":
        row["status"] = "active"
    subscription_invoices.cycle_draft(world, row, items, next_periods=periods, until=world.now)
    for item in items:
        item["current_period_start"], item["current_period_end"] = periods[item["id"]]
        world.save(item)
        world.schedule(item["current_period_end"], subscription_invoices.RENEW, row["id"])
    world.save(row)
    world.emit("customer.subscription.updated", row, previous=changed_fields(before, rendered(world, row)))
