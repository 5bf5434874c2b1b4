"""Drafts of invoices: what a new invoice looks like, which pending items it takes, when it finalizes by itself."""

from collections.abc import Mapping
from typing import Any

from resources.stripe_sim import lines
from resources.stripe_sim.invoice_items import pending_items
from resources.stripe_sim.kinds import nullable_fields
from resources.stripe_sim.tables import Row
from resources.stripe_sim.totals import count_totals
from resources.stripe_sim.webhook_endpoints import wanting
from resources.stripe_sim.world import World

KIND = "invoice"
FINALIZE = "finalize"


def new_invoice(
    world: World,
    customer: Row,
    *,
    currency: str,
    reason: str,
    subscription: Row | None = None,
    period_start: int | None = None,
    **fields: Any,
) -> Row:
    """Add an empty draft."""
    blank_fields = blank(world, customer, currency=currency, reason=reason, subscription=subscription)
    if period_start is not None:
        blank_fields["period_start"] = period_start
    return world.make(KIND, **{**blank_fields, **fields, "id": ""})


def blank(world: World, customer: Row, *, currency: str, reason: str, subscription: Row | None) -> Row:
    """Return an invoice without lines that is kept nowhere."""
    parent = None
    if subscription is not None:
        parent = {
            "type": "subscription_details",
            "quote_details": None,
            "subscription_details": {
                "metadata": dict(subscription["metadata"]),
                "subscription": subscription["id"],
                "subscription_proration_date": None,
            },
        }
    return {
        **dict.fromkeys(nullable_fields(KIND)),
        **_BLANK,
        "object": KIND,
        "livemode": False,
        "account_country": "US",
        "account_name": "Stand-in",
        "automatic_tax": {
            "disabled_reason": None,
            "enabled": False,
            "liability": None,
            "provider": None,
            "status": None,
        },
        "billing_reason": reason,
        "currency": currency,
        "customer": customer["id"],
        "customer_address": customer["address"],
        "customer_email": customer["email"],
        "customer_name": customer["name"],
        "customer_phone": customer["phone"],
        "customer_shipping": customer["shipping"],
        "customer_tax_exempt": customer["tax_exempt"],
        "customer_tax_ids": [],
        "default_tax_rates": [],
        "discounts": [],
        "issuer": {"type": "self"},
        "metadata": {},
        "parent": parent,
        "payment_settings": {
            "default_mandate": None,
            "payment_method_options": None,
            "payment_method_types": None,
        },
        "period_end": world.now,
        "period_start": world.now,
        "starting_balance": customer["balance"],
        "status": "draft",
        "status_transitions": dict.fromkeys(("finalized_at", "marked_uncollectible_at", "paid_at", "voided_at")),
        "total_discount_amounts": [],
        "total_pretax_credit_amounts": [],
        "total_taxes": [],
    }


def take_pending(world: World, invoice: Row, subscription: Row | None) -> int:
    """Put pending items on a draft, as many as an invoice may have, oldest first; the rest waits. Return how many."""
    newest_first = pending_items(world, invoice["customer"], subscription)
    fitting = [item for item in newest_first if item["currency"] == invoice["currency"]]
    taken = fitting[-world.rules.most_invoice_items :]
    for item in taken:
        lines.add_item(world, invoice, item)
    return len(taken)


def announce(world: World, invoice: Row) -> None:
    """Tell that a draft is there, and set when it finalizes."""
    count_totals(world, invoice)
    if invoice["auto_advance"] and invoice["automatically_finalizes_at"] is None:
        if wanting(world, "invoice.created"):
            finalize_at(world, invoice, world.now + world.rules.longest_webhook_wait_seconds)
        else:
            invoice["webhooks_delivered_at"] = world.now
            finalize_at(world, invoice, world.now + world.rules.draft_seconds)
    world.save(invoice)
    world.emit("invoice.created", invoice)


def finalize_at(world: World, invoice: Row, at: int) -> None:
    """Set when a draft finalizes by itself."""
    invoice["automatically_finalizes_at"] = at
    world.save(invoice)
    world.schedule(at, FINALIZE, invoice["id"])


def webhooks_delivered(world: World, invoice_id: str) -> None:
    """Note that every endpoint has acknowledged `invoice.created`: the draft has its hour from now on."""
    invoice = world.table(KIND).get(invoice_id)
    if invoice is None or invoice["status"] != "draft" or invoice["webhooks_delivered_at"] is not None:
        return
    invoice["webhooks_delivered_at"] = world.now
    world.save(invoice)
    if invoice["auto_advance"] and not invoice.get("_held"):
        finalize_at(world, invoice, world.now + world.rules.draft_seconds)


_BLANK: Mapping[str, Any] = {
    "amount_due": 0,
    "amount_overpaid": 0,
    "amount_paid": 0,
    "amount_remaining": 0,
    "amount_shipping": 0,
    "attempt_count": 0,
    "attempted": False,
    "auto_advance": False,
    "collection_method": "charge_automatically",
    "post_payment_credit_notes_amount": 0,
    "pre_payment_credit_notes_amount": 0,
    "subtotal": 0,
    "total": 0,
}
