"""The end of a subscription's period: the next one begins with a draft of what is due, or the subscription ends."""

from resources.stripe_sim import subscriptions
from resources.stripe_sim.rendering import rendered
from resources.stripe_sim.tables import Row
from resources.stripe_sim.world import World, changed_fields


def on_renew_timer(world: World, subscription_id: str) -> None:
    """Renew or end a subscription whose period is over."""
    row = world.table(subscriptions.KIND).get(subscription_id)
    if row is None or row["status"] in subscriptions.ENDED:
        return
    items = subscriptions.items_of(world, row)
    ended = [item for item in items if item["current_period_end"] <= world.now]
    if _is_to_end(world, row, ended):
        subscriptions.last_invoice(world, row, until=world.now)
        row["cancellation_details"] = {**row["cancellation_details"], "reason": "cancellation_requested"}
        subscriptions.end(world, row)
    elif ended:
        _renew(world, row, ended)


def _is_to_end(world: World, row: Row, ended: list[Row]) -> bool:
    if row["cancel_at"] is not None and row["cancel_at"] <= world.now:
        return True
    return bool(row["cancel_at_period_end"] and ended)


def _renew(world: World, row: Row, items: list[Row]) -> None:
    before = rendered(world, row)
    periods = {item["id"]: subscriptions.next_period(world, item, row["billing_cycle_anchor"]) for item in items}
    if row["status"] == "trialing":
        row["status"] = "active"
    subscriptions.cycle_draft(world, row, items, next_periods=periods, until=world.now)
    for item in items:
        item["current_period_start"], item["current_period_end"] = periods[item["id"]]
        world.save(item)
        world.schedule(item["current_period_end"], subscriptions.RENEW, row["id"])
    world.save(row)
    world.emit("customer.subscription.updated", row, previous=changed_fields(before, rendered(world, row)))
