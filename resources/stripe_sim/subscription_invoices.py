"""What a subscription is invoiced: its renewal's draft, an invoice at once, the last one; and how it ends.

The current period lives on the items. Not here: operations (subscriptions, subscription_items), timers (renewals).
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal

from resources.stripe_sim import drafts, finalization, lines
from resources.stripe_sim.billing_cycles import period_around
from resources.stripe_sim.invoice_items import pending_items
from resources.stripe_sim.tables import Row
from resources.stripe_sim.world import World

KIND = "subscription"
ITEM = "subscription_item"
RENEW = "renew"
ENDED = frozenset({"canceled", "incomplete_expired"})


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


def last_invoice(world: World, row: Row, *, until: int) -> Row | None:
    """Make the draft of what a subscription that ends has used and what is pending for it; null if there is nothing."""
    items = items_of(world, row)
    metered = [item for item in items if lines.is_metered(world.get("price", item["price"]))]
    if not metered and not pending_items(world, row["customer"], row):
        return None
    return cycle_draft(world, row, metered, next_periods={}, until=until)


def invoice_now(world: World, row: Row, reason: str, *, with_items: bool = True, prorate: bool = True) -> Row:
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
            share = share_left(world, row, item, prorate=prorate)
            lines.add_subscription_item(
                world, invoice, item, start=world.now, end=item["current_period_end"], share=share
            )
    row["latest_invoice"] = invoice["id"]
    invoice["automatically_finalizes_at"] = world.now
    drafts.announce(world, invoice)
    finalization.finalize(world, invoice, collect=True)
    return invoice


def end(world: World, row: Row) -> None:
    """End a subscription; open invoices of the customer are not collected by themselves any more."""
    row |= {"status": "canceled", "ended_at": world.now, "canceled_at": row["canceled_at"] or world.now}
    world.save(row)
    for invoice in world.table("invoice").find(customer=row["customer"], status="open"):
        invoice |= {"auto_advance": False, "next_payment_attempt": None}
        world.save(invoice)
    world.emit("customer.subscription.deleted", row)


def items_of(world: World, row: Row) -> list[Row]:
    """Return a subscription's items, oldest first."""
    return list(world.table(ITEM).find(subscription=row["id"]))


def next_period(world: World, item: Row, anchor: int) -> tuple[int, int]:
    """Return the period that follows an item's current one."""
    recurring = world.get("price", item["price"])["recurring"]
    return period_around(anchor, recurring["interval"], recurring["interval_count"], item["current_period_end"])


def share_left(world: World, row: Row, item: Row, *, prorate: bool) -> Decimal:
    """Return the part of a period that is left: 0 in a trial, and if a part is not to be billed."""
    if row["status"] == "trialing":
        return Decimal(0)
    recurring = world.get("price", item["price"])["recurring"]
    start, end = period_around(
        row["billing_cycle_anchor"], recurring["interval"], recurring["interval_count"], world.now
    )
    if start == world.now:
        return Decimal(1)
    return Decimal(end - world.now) / Decimal(end - start) if prorate else Decimal(0)
