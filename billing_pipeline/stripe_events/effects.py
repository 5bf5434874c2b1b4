"""Decide what an invoice of Stripe's means here: (invoice as fetched, failures reported) -> true-up, payments. Pure.

Everything is a function of the state as it stands and of all that is known, never of the one event that made us look: so
the order in which events come, and how often, changes nothing. Not here: doing it (resources/stripe_mirror).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from billing_pipeline.prepaid import PaymentKind
from billing_pipeline.stripe_events.objects import InvoiceStatus, StripeInvoice, StripeInvoiceLine

# The invoices whose ended period is still to be brought up to date. Others are final at once, or somebody's own.
RENEWAL_REASONS = frozenset({"subscription_cycle"})
# Metadata of the lines that are ours.
OUR_LINE = "bp_key"
# A renewal is made when its period begins; Stripe may be late by this much.
RENEWAL_DELAY = timedelta(hours=6)


class TrueUpState(StrEnum):
    """Where a renewal is in the queue of invoices to bring up to date."""

    WAITING = "waiting"
    DONE = "done"
    # Final before its true-up was done: what was missing goes onto the next invoice.
    MISSED = "missed"
    # Deleted: there is nothing to bring up to date.
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A report that a payment of an invoice failed, as it came in."""

    event_id: str
    happened_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentFact:
    """What happened to the payment of an invoice, under an id that a second look finds again."""

    event_id: str
    kind: PaymentKind
    happened_at: datetime
    billing_reason: str
    invoice_id: str


def is_renewal(invoice: StripeInvoice, reasons: frozenset[str] = RENEWAL_REASONS) -> bool:
    """Return whether usage of an ended period belongs on `invoice`: made by a subscription for one of `reasons`."""
    return invoice.subscription_id is not None and invoice.billing_reason in reasons


def true_up_state(
    invoice: StripeInvoice, standing: TrueUpState | None, reasons: frozenset[str] = RENEWAL_REASONS
) -> TrueUpState | None:
    """Return where `invoice` belongs in the queue, having `standing` there; None: it does not belong there.

    What is done stays done. An invoice that was seen as a draft never waits again once it is none.
    """
    if standing in (TrueUpState.DONE, TrueUpState.MISSED):
        return standing
    if invoice.status is InvoiceStatus.DRAFT:
        return TrueUpState.WAITING if is_renewal(invoice, reasons) else None
    if invoice.status is InvoiceStatus.DELETED:
        return None if standing is None else TrueUpState.GONE
    # A renewal that was final before anybody saw its draft was missed as well.
    return TrueUpState.MISSED if is_renewal(invoice, reasons) else None


def renewal_boundary(invoice: StripeInvoice, lines: Sequence[StripeInvoiceLine]) -> datetime | None:
    """Return the instant at which the ended period ends and the next begins, by the lines of the subscription itself.

    A fee in advance begins there, usage in arrears ends there; both lie just before the invoice was made. With a renewal of
    May 1st 00:00: a fee of [May 1st, June 1st) and usage of [April 1st, May 1st) both say May 1st 00:00. None: no line says.
    """
    earliest = invoice.created_at - RENEWAL_DELAY
    found = [
        at
        for line in lines
        if line.subscription_item_id is not None and not line.is_proration
        for at in (line.period_start, line.period_end)
        if earliest <= at <= invoice.created_at
    ]
    return max(found, default=None)


def concerns_sync(
    invoice: StripeInvoice, lines: Sequence[StripeInvoiceLine], reasons: frozenset[str] = RENEWAL_REASONS
) -> bool:
    """Return whether what is charged for an account, or waits to be, may be another than the sync has seen last.

    A renewal's draft is the true-up's; any other invoice that has one of our lines, and every renewal that is final, is not.
    """
    if is_renewal(invoice, reasons):
        return invoice.status is not InvoiceStatus.DRAFT
    return any(OUR_LINE in line.metadata for line in lines)


def payment_facts(invoice: StripeInvoice, failures: Iterable[Failure]) -> tuple[PaymentFact, ...]:
    """Return what is to be told about payments of `invoice`, in order of time.

    An invoice that came to nothing, or that a balance covered, is paid at Stripe's and no payment here, unless a payment of
    it had failed. A void one owes nothing any more, which ends its arrears as well.
    """
    failed = [
        PaymentFact(
            event_id=failure.event_id,
            kind=PaymentKind.PAYMENT_FAILED,
            happened_at=failure.happened_at,
            billing_reason=invoice.billing_reason,
            invoice_id=invoice.invoice_id,
        )
        for failure in sorted(failures, key=lambda one: (one.happened_at, one.event_id))
    ]
    settled_at = None
    match invoice.status:
        case InvoiceStatus.PAID if failed or invoice.amount_paid_stripe_minor > 0:
            settled_at = invoice.paid_at
        case InvoiceStatus.VOID if failed:
            settled_at = invoice.voided_at
        case _:
            pass
    if settled_at is None:
        return tuple(failed)
    paid = PaymentFact(
        event_id=f"{invoice.invoice_id}:{invoice.status.value}",
        kind=PaymentKind.INVOICE_PAID,
        happened_at=settled_at,
        billing_reason=invoice.billing_reason,
        invoice_id=invoice.invoice_id,
    )
    return (*failed, paid)


def unseen_failure(invoice: StripeInvoice, failures: Sequence[Failure], *, feed_from: datetime) -> Failure | None:
    """Return the failure of an open invoice that was tried and failed before `feed_from`, of which no event can tell any more.

    It counts from when the invoice was final, which is when the first payment is tried: the one instant that is still known.
    """
    if invoice.status not in (InvoiceStatus.OPEN, InvoiceStatus.UNCOLLECTIBLE) or invoice.attempt_count == 0:
        return None
    if failures or invoice.finalized_at is None or invoice.finalized_at >= feed_from:
        return None
    return Failure(event_id=f"{invoice.invoice_id}:unpaid", happened_at=invoice.finalized_at)


def may_follow(standing: InvoiceStatus, fetched: InvoiceStatus) -> bool:
    """Return whether an invoice that was `standing` can be `fetched` by a later fetch: nothing final becomes a draft again.

    One that was answered as gone may be there after all: the key was of another account.
    """
    return fetched is not InvoiceStatus.DRAFT or standing in (InvoiceStatus.DRAFT, InvoiceStatus.DELETED)
