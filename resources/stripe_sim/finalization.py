"""draft -> open, then paid, void or uncollectible; the balance that a final invoice takes or gives; deletion of drafts."""

from resources.stripe_sim import payments
from resources.stripe_sim.balances import move_balance
from resources.stripe_sim.invoice_items import remove
from resources.stripe_sim.kinds import subscription_of
from resources.stripe_sim.lines import invoice_item_of, lines_of
from resources.stripe_sim.money import is_below_minimum
from resources.stripe_sim.refusals import invalid
from resources.stripe_sim.tables import Row
from resources.stripe_sim.totals import count_totals
from resources.stripe_sim.world import World

KIND = "invoice"


def finalize(world: World, invoice: Row, *, collect: bool) -> None:
    """Make a draft final; with `collect` try to collect it if it is to be charged by itself.

    What the customer's balance covers, what is less than nothing and what is below the minimum charge moves to the balance;
    an invoice with nothing due is paid.

    Raises:
        ApiError: it is no draft.
    """
    if invoice["status"] != "draft":
        raise invalid("This invoice is already finalized", code="invoice_not_editable", param="invoice")
    count_totals(world, invoice)
    customer = world.table("customer").get(invoice["customer"])
    assert customer is not None
    due = invoice["amount_due"]
    if is_below_minimum(world, due, invoice["currency"]):
        due = 0
    ending = invoice["starting_balance"] + invoice["total"] - due
    transaction = move_balance(
        world, customer, ending - customer["balance"], kind="applied_to_invoice", invoice=invoice["id"]
    )
    number = customer["next_invoice_sequence"]
    customer["next_invoice_sequence"] = number + 1
    world.save(customer)
    invoice |= {
        "amount_due": due,
        "amount_remaining": due,
        "automatically_finalizes_at": None,
        "effective_at": invoice["effective_at"] or world.now,
        "ending_balance": ending,
        "hosted_invoice_url": f"https://invoice.invalid/{invoice['id']}",
        "invoice_pdf": f"https://invoice.invalid/{invoice['id']}/pdf",
        "number": invoice["number"] or f"{customer['invoice_prefix']}-{number:04d}",
        "status": "open",
        "_balance_moved": 0 if transaction is None else transaction["amount"],
    }
    invoice["status_transitions"] = {**invoice["status_transitions"], "finalized_at": world.now}
    if invoice["collection_method"] == "send_invoice" and invoice["due_date"] is None:
        invoice["due_date"] = world.now + 86400 * (invoice.get("_days_until_due") or 30)
    world.save(invoice)
    world.emit("invoice.finalized", invoice)
    if due == 0:
        payments.settle(world, invoice, 0)
    elif collect and invoice["collection_method"] == "charge_automatically":
        pay(world, invoice)


def pay(world: World, invoice: Row) -> bool:
    """Try to collect an open invoice; its subscription follows. Say whether it was paid."""
    paid = payments.attempt(world, invoice)
    subscription_id = subscription_of(invoice)
    subscription = None if subscription_id is None else world.table("subscription").get(subscription_id)
    # A subscription that is being made gets its first status from who makes it.
    if subscription is not None and invoice["billing_reason"] != "subscription_create":
        wanted = {
            (True, "past_due"): "active",
            (True, "incomplete"): "active",
            (False, "active"): "past_due",
        }.get((paid, subscription["status"]))
        if wanted is not None:
            previous = {"status": subscription["status"]}
            subscription["status"] = wanted
            world.save(subscription)
            world.emit("customer.subscription.updated", subscription, previous=previous)
    return paid


def void(world: World, invoice: Row) -> None:
    """Void a final invoice that is not paid; what it took of the balance goes back.

    Raises:
        ApiError: it is a draft, paid, or void.
    """
    if invoice["status"] not in ("open", "uncollectible"):
        raise invalid(
            f"You cannot void an invoice that is {invoice['status']}", code="invoice_not_editable", param="invoice"
        )
    customer = world.table("customer").get(invoice["customer"])
    if customer is not None and invoice["_balance_moved"]:
        move_balance(world, customer, -invoice["_balance_moved"], kind="unapplied_from_invoice", invoice=invoice["id"])
    invoice |= {"status": "void", "auto_advance": False, "next_payment_attempt": None}
    invoice["status_transitions"] = {**invoice["status_transitions"], "voided_at": world.now}
    world.save(invoice)
    world.emit("invoice.voided", invoice)


def mark_uncollectible(world: World, invoice: Row) -> None:
    """Give up an open invoice.

    Raises:
        ApiError: it is not open.
    """
    if invoice["status"] != "open":
        raise invalid("Only an open invoice can be marked uncollectible", code="invoice_not_editable", param="invoice")
    invoice |= {"status": "uncollectible", "auto_advance": False, "next_payment_attempt": None}
    invoice["status_transitions"] = {**invoice["status_transitions"], "marked_uncollectible_at": world.now}
    world.save(invoice)
    world.emit("invoice.marked_uncollectible", invoice)


def delete(world: World, invoice: Row) -> Row:
    """Delete a draft that belongs to no subscription.

    Raises:
        ApiError: it is final, or belongs to a subscription.
    """
    if invoice["status"] != "draft":
        raise invalid("You can only delete draft invoices", code="invoice_not_editable", param="invoice")
    if subscription_of(invoice) is not None:
        raise invalid("You cannot delete an invoice of a subscription: finalize and void it", param="invoice")
    for line in lines_of(world, invoice["id"]):
        item = invoice_item_of(world, line)
        if item is None:
            continue
        if world.rules.deleted_draft_frees_items:
            item["invoice"] = None
            world.save(item)
        else:
            remove(world, item)
    world.emit("invoice.deleted", invoice)
    world.table(KIND).remove(invoice["id"])
    del world.lines[invoice["id"]]
    return {"id": invoice["id"], "object": KIND, "deleted": True}


def on_finalize_timer(world: World, invoice_id: str) -> None:
    """Finalize a draft whose time has come, unless it was moved or stopped."""
    invoice = world.table(KIND).get(invoice_id)
    if invoice is None or invoice["status"] != "draft" or not invoice["auto_advance"]:
        return
    at = invoice["automatically_finalizes_at"]
    if at is not None and at <= world.now:
        finalize(world, invoice, collect=True)


def on_retry_timer(world: World, invoice_id: str) -> None:
    """Try to collect an invoice again, if it is still to be."""
    invoice = world.table(KIND).get(invoice_id)
    if invoice is not None and invoice["status"] == "open" and invoice["next_payment_attempt"] == world.now:
        pay(world, invoice)
