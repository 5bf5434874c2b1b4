"""Fetch Stripe's objects whole: an id, or a list, becomes a record with all of its lines, items and payments.

Lists inside of an object hold the first ten; the rest is asked for. Not here: keeping them (rows).
"""

from collections.abc import Iterable, Mapping
from typing import Any

from billing_pipeline.stripe_events.envelope import ObjectKind
from billing_pipeline.stripe_events.objects import (
    InvoiceStatus,
    StripeInvoice,
    StripeSubscription,
    deleted_customer,
    read_credit_note,
    read_customer,
    read_invoice,
    read_line,
    read_payment,
    read_subscription,
)
from resources.stripe_mirror.inbox import StripeObject
from resources.stripe_mirror.reads import Document, StripeReads
from resources.stripe_mirror.rows import Fetched, FetchedInvoice


def fetch_object(reads: StripeReads, subject: StripeObject) -> Fetched | None:
    """Return an object as Stripe holds it; None: Stripe has it no more.

    Raises:
        StripeAwayError: Stripe does not answer. StripeObjectUnreadableError: it answers otherwise than expected.
    """
    match subject.kind:
        case ObjectKind.INVOICE:
            document = reads.retrieve_invoice(subject.object_id)
            return None if document is None else whole_invoice(reads, document)
        case ObjectKind.CUSTOMER:
            document = reads.retrieve_customer(subject.object_id)
            return deleted_customer(subject.object_id) if document is None else read_customer(document)
        case ObjectKind.SUBSCRIPTION:
            document = reads.retrieve_subscription(subject.object_id)
            return None if document is None else whole_subscription(reads, document)
        case ObjectKind.CREDIT_NOTE:
            document = reads.retrieve_credit_note(subject.object_id)
            return None if document is None else read_credit_note(document)
        case ObjectKind.METER_REPORT:
            raise ValueError("a report on meter events is no object of the mirror")


def whole_invoice(reads: StripeReads, document: Document) -> FetchedInvoice:
    """Return the invoice of `document` with all of its lines and payments."""
    invoice = read_invoice(document)
    lines = _rest(document, "lines", lambda: reads.list_invoice_lines(invoice.invoice_id))
    return FetchedInvoice(
        invoice=invoice,
        lines=tuple(sorted((read_line(line) for line in lines), key=lambda line: line.line_id)),
        payments=tuple(read_payment(one) for one in reads.list_invoice_payments(invoice.invoice_id))
        if _has_payments(invoice)
        else (),
    )


def whole_subscription(reads: StripeReads, document: Document) -> StripeSubscription:
    """Return the subscription of `document` with all of its items."""
    items = _rest(document, "items", lambda: reads.list_subscription_items(str(document.get("id"))))
    return read_subscription(document, items)


def _rest(document: Document, name: str, listing: Any) -> Iterable[Mapping[str, Any]]:
    """Return the list `name` inside of an object, or the whole of it, asked for, when there is more of it."""
    inside = document.get(name)
    if isinstance(inside, Mapping) and inside.get("has_more") is False and isinstance(inside.get("data"), list):
        return list(inside["data"])
    return list(listing())


def _has_payments(invoice: StripeInvoice) -> bool:
    return invoice.status is not InvoiceStatus.DRAFT and (
        invoice.attempt_count > 0 or invoice.amount_paid_stripe_minor > 0
    )
