"""The operations on invoices. What they do is in drafts, lines, finalization and payments."""

from collections.abc import Mapping
from typing import Any

from resources.stripe_sim import drafts, finalization, payments
from resources.stripe_sim.calls import Call, Modelled, merged_metadata, modelled, unset_to_null
from resources.stripe_sim.invoice_items import pending_items
from resources.stripe_sim.lines import lines_of
from resources.stripe_sim.lists import PAGED, PAGED_BY_TIME, in_range, listed, listed_rows
from resources.stripe_sim.money import DEFAULT_CURRENCY, lock_currency, read_currency
from resources.stripe_sim.refusals import invalid
from resources.stripe_sim.rendering import rendered
from resources.stripe_sim.tables import Row
from resources.stripe_sim.totals import count_totals
from resources.stripe_sim.world import World, changed_fields

KIND = "invoice"

_TEXTS = "custom_fields description effective_at footer number statement_descriptor"
_EDITABLE = f"auto_advance automatically_finalizes_at collection_method days_until_due due_date metadata {_TEXTS}"
# What may still be set when an invoice is final.
_EDITABLE_WHEN_FINAL = frozenset({"auto_advance", "metadata", "expand", "description", "footer"})
_LONGEST_HOLD_SECONDS = 5 * 366 * 86400


def create(world: World, call: Call) -> Row:
    """Make a draft by hand, without the customer's pending items unless they are asked for."""
    params = call.params
    subscription = None
    if "subscription" in params:
        subscription = world.get("subscription", params["subscription"], param="subscription")
    customer_id = params.get("customer", subscription and subscription["customer"])
    if customer_id is None:
        raise invalid("Missing required param: customer.", code="parameter_missing", param="customer")
    customer = world.get("customer", customer_id, param="customer")
    if subscription is not None and subscription["customer"] != customer["id"]:
        raise invalid("The subscription belongs to another customer", param="subscription")
    currency = customer["currency"] or DEFAULT_CURRENCY
    if subscription is not None:
        currency = subscription["currency"]
    if "currency" in params:
        currency = read_currency(params["currency"])
    changes = _changes(world, params, invoice=None)
    includes = params.get("pending_invoice_items_behavior") == "include"
    if includes and not pending_items(world, customer["id"], subscription):
        raise invalid("Nothing to invoice for customer", code="invoice_no_customer_line_items", param="customer")
    lock_currency(world, customer, currency)
    invoice = drafts.new_invoice(
        world, customer, currency=currency, reason="manual", subscription=subscription, **changes
    )
    _schedule(world, invoice, params)
    if includes:
        drafts.take_pending(world, invoice, subscription)
    drafts.announce(world, invoice)
    return rendered(world, invoice)


def retrieve(world: World, call: Call) -> Row:
    """Return an invoice; a draft as it stands now."""
    invoice = world.get(KIND, call.id)
    _refresh(world, invoice)
    return rendered(world, invoice)


def update(world: World, call: Call) -> Row:
    """Change an invoice; a final one hardly.

    Raises:
        ApiError: it is final, or the time of finalization cannot be.
    """
    invoice = world.get(KIND, call.id)
    if invoice["status"] != "draft":
        fixed = sorted(set(call.params) - _EDITABLE_WHEN_FINAL)
        if fixed:
            raise invalid(
                f"You cannot change {fixed[0]} of an invoice that is finalized",
                code="invoice_not_editable",
                param=fixed[0],
            )
    before = dict(invoice)
    changes = _changes(world, call.params, invoice=invoice)
    changes["metadata"] = merged_metadata(invoice["metadata"], call.params.get("metadata"))
    invoice |= changes
    _schedule(world, invoice, call.params)
    world.save(invoice)
    previous = changed_fields(before, invoice)
    if previous:
        world.emit("invoice.updated", invoice, previous=previous)
    return rendered(world, invoice)


def delete(world: World, call: Call) -> Row:
    """Delete a one-off draft."""
    return finalization.delete(world, world.get(KIND, call.id))


def list_invoices(world: World, call: Call) -> Row:
    """List invoices."""
    params = call.params
    by = {name: params[name] for name in ("customer", "status", "collection_method", "subscription") if name in params}
    due = params.get("due_date")
    where = None if due is None else lambda row: row["due_date"] is not None and in_range(row["due_date"], due)
    return listed(world, call, KIND, by=by, where=where)


def list_lines(world: World, call: Call) -> Row:
    """List the lines of an invoice, in their order."""
    invoice = world.get(KIND, call.id)
    _refresh(world, invoice)
    newest = world.now - world.rules.list_lag_seconds
    rows = [rendered(world, line) for line in lines_of(world, invoice["id"]) if line["_at"] <= newest]
    return listed_rows(call, rows, kind="line_item", url=f"/v1/invoices/{invoice['id']}/lines")


def finalize(world: World, call: Call) -> Row:
    """Make a draft final now."""
    invoice = world.get(KIND, call.id)
    if invoice["status"] == "draft":
        invoice["auto_advance"] = call.params.get("auto_advance", invoice["auto_advance"])
    finalization.finalize(world, invoice, collect=bool(invoice["auto_advance"]))
    return rendered(world, invoice)


def pay(world: World, call: Call) -> Row:
    """Collect an invoice now; a draft is made final for it.

    Raises:
        ApiError: it is paid or void, or the payment was declined (the attempt stays).
    """
    invoice = world.get(KIND, call.id)
    if invoice["status"] not in ("draft", "open", "uncollectible"):
        raise invalid(f"Invoice is already {invoice['status']}", code="invoice_already_paid", param="invoice")
    if invoice["status"] == "draft":
        finalization.finalize(world, invoice, collect=False)
    if invoice["status"] != "paid":
        if call.params.get("paid_out_of_band"):
            payments.settle(world, invoice, invoice["amount_due"], off_stripe=True)
        elif not finalization.pay(world, invoice):
            raise payments.refuse_payment()
    return rendered(world, invoice)


def send(world: World, call: Call) -> Row:
    """Send an invoice to the customer; a draft is made final for it."""
    invoice = world.get(KIND, call.id)
    if invoice["status"] == "draft":
        finalization.finalize(world, invoice, collect=False)
    world.emit("invoice.sent", invoice)
    return rendered(world, invoice)


def void(world: World, call: Call) -> Row:
    """Void a final invoice."""
    invoice = world.get(KIND, call.id)
    finalization.void(world, invoice)
    return rendered(world, invoice)


def mark_uncollectible(world: World, call: Call) -> Row:
    """Give up an open invoice."""
    invoice = world.get(KIND, call.id)
    finalization.mark_uncollectible(world, invoice)
    return rendered(world, invoice)


def _changes(world: World, params: Mapping[str, Any], *, invoice: Row | None) -> dict[str, Any]:
    """Return the fields that parameters set directly."""
    at = unset_to_null(params.get("automatically_finalizes_at"))
    if at is not None:
        if not world.now < at <= world.now + _LONGEST_HOLD_SECONDS:
            raise invalid("automatically_finalizes_at must be in the future", param="automatically_finalizes_at")
        if params.get("auto_advance") is False:
            raise invalid("automatically_finalizes_at needs auto_advance", param="automatically_finalizes_at")
        if (
            invoice is not None
            and not world.rules.renewal_draft_hold
            and invoice["billing_reason"] == "subscription_cycle"
        ):
            raise invalid("A renewal's draft cannot be held", param="automatically_finalizes_at")
    names = {*_TEXTS.split(), "collection_method", "due_date"}
    changes = {name: unset_to_null(params[name]) for name in names if name in params}
    if "auto_advance" in params:
        changes["auto_advance"] = params["auto_advance"]
    if "days_until_due" in params:
        changes["_days_until_due"] = params["days_until_due"]
    if invoice is None:
        changes["metadata"] = merged_metadata(None, params.get("metadata"))
    return changes


def _schedule(world: World, invoice: Row, params: Mapping[str, Any]) -> None:
    """Set, move or stop the time at which a draft finalizes by itself."""
    if invoice["status"] != "draft":
        return
    at = unset_to_null(params.get("automatically_finalizes_at"))
    if at is not None:
        invoice["auto_advance"] = True
        invoice["_held"] = True
        drafts.finalize_at(world, invoice, at)
    elif params.get("auto_advance") is False:
        invoice["automatically_finalizes_at"] = None
    elif params.get("auto_advance") and invoice["automatically_finalizes_at"] is None:
        drafts.finalize_at(world, invoice, world.now + world.rules.draft_seconds)


def _refresh(world: World, invoice: Row) -> None:
    if invoice["status"] == "draft":
        count_totals(world, invoice)


_CREATE = f"{_EDITABLE} currency customer pending_invoice_items_behavior subscription"

OPERATIONS: Mapping[str, Modelled] = {
    "POST /v1/invoices": modelled(create, _CREATE),
    "GET /v1/invoices": modelled(
        list_invoices, f"{PAGED_BY_TIME} customer status subscription collection_method due_date"
    ),
    "GET /v1/invoices/{}": modelled(retrieve),
    "POST /v1/invoices/{}": modelled(update, _EDITABLE),
    "DELETE /v1/invoices/{}": modelled(delete),
    "GET /v1/invoices/{}/lines": modelled(list_lines, PAGED),
    "POST /v1/invoices/{}/finalize": modelled(finalize, "auto_advance"),
    "POST /v1/invoices/{}/pay": modelled(pay, "paid_out_of_band off_session"),
    "POST /v1/invoices/{}/send": modelled(send),
    "POST /v1/invoices/{}/void": modelled(void),
    "POST /v1/invoices/{}/mark_uncollectible": modelled(mark_uncollectible),
}
