"""Which invoice at Stripe has charged before for what a line corrects: charge -> in_..., for the line's metadata. Reads only."""

from collections.abc import Mapping, Sequence
from uuid import UUID

import psycopg

from billing_pipeline.invoicing.items import CompiledInvoice, unfolded


def invoices_adjusted(connection: psycopg.Connection, invoices: Sequence[CompiledInvoice]) -> Mapping[UUID, str]:
    """Return, for what the lines of `invoices` correct, the newest invoice at Stripe that has charged for it."""
    corrected = {item.corrects for compiled in invoices for item in unfolded(compiled.items) if item.corrects}
    if not corrected:
        return {}
    rows = connection.execute(
        """
        select distinct on (final_item.source_id) final_item.source_id, final_invoice.external_id
        from invoicing.final_item
        join invoicing.final_invoice using (invoice_id)
        where final_item.source_id = any(%s) and final_invoice.external_id is not null
        order by final_item.source_id, final_invoice.finalized_at desc, final_invoice.invoice_id
        """,
        [list(corrected)],
    ).fetchall()
    return dict(rows)
