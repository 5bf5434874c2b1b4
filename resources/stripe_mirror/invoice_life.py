"""Let our invoices follow Stripe's where that takes no read-back: an invoice that is void there counts no more here.

What a final invoice has charged is recorded by the sync, which reads its lines back (stripe_sync); settling has the account
looked at for it. Not here: our invoices (resources/invoicing).
"""

from dataclasses import dataclass
from datetime import datetime

from billing_pipeline.stripe_events.objects import InvoiceStatus, StripeInvoice
from resources.invoicing.invoice_store import InvoiceStore


@dataclass(frozen=True, slots=True)
class StoredInvoiceLife:
    """Our invoices in PostgreSQL."""

    store: InvoiceStore

    def follow(self, *, account_id: str, invoice: StripeInvoice, now: datetime) -> None:
        """Make void what was recorded of a void invoice; again: nothing.

        An invoice at Stripe may have charged for several of ours: all that are recorded under its id, or under it and a colon.
        """
        if invoice.status is not InvoiceStatus.VOID:
            return
        with self.store.database.reading() as connection:
            rows = connection.execute(
                """
                select distinct external_id from invoicing.final_invoice
                where external_id = %(id)s or starts_with(external_id, %(id)s || ':')
                order by external_id
                """,
                {"id": invoice.invoice_id},
            ).fetchall()
        for (external_id,) in rows:
            self.store.record_voided(external_id, reason=f"{invoice.invoice_id} was voided at Stripe", now=now)
