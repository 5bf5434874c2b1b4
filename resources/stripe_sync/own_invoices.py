"""Invoices that this pipeline makes at Stripe: for accounts whose subscription Stripe does not know.

One draft for each compiled invoice, found again by its metadata, never finalized by Stripe until its true-up lets it go. Pending
items of others are not taken along. Not here: its lines (plan), letting it go (true_up).
"""

from typing import Any

from billing_pipeline.invoicing.items import CompiledInvoice
from billing_pipeline.stripe_sync.lines import ACCOUNT_FIELD, INVOICE_FIELD
from billing_pipeline.stripe_sync.policy import Collection, SyncPolicy
from resources.stripe_api.calls import Json, Operation, StripeCall
from resources.stripe_sync.intent_store import Write
from resources.stripe_sync.requests import Held


def own_invoice(compiled: CompiledInvoice, held: Held) -> Json | None:
    """Return the invoice at Stripe that was made for `compiled`, whatever its state but void; the oldest where there are two."""
    found = [
        one
        for one in held.own_invoices()
        if one["metadata"].get(INVOICE_FIELD) == str(compiled.invoice_id) and one["status"] != "void"
    ]
    return min(found, key=lambda one: (one["created"], one["id"]), default=None)


def write_of_new_invoice(compiled: CompiledInvoice, customer_id: str, policy: SyncPolicy) -> Write:
    """Return the call that makes an empty draft for `compiled`."""
    params: dict[str, Any] = {
        "customer": customer_id,
        "currency": compiled.currency.lower(),
        "auto_advance": False,
        "pending_invoice_items_behavior": "exclude",
        "collection_method": policy.collection.value,
        "metadata": {ACCOUNT_FIELD: compiled.account_id, INVOICE_FIELD: str(compiled.invoice_id)},
    }
    if policy.collection is Collection.SEND_INVOICE:
        params["days_until_due"] = policy.days_until_due
    return Write(subject=str(compiled.invoice_id), call=StripeCall(operation=Operation.INVOICES_CREATE, params=params))
