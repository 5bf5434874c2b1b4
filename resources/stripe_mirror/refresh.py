"""Bring listed invoices into the mirror with as few calls as can be: what is final and the same is only seen again.

Lines of what is final do not change, so that they are asked for where an invoice is new, changed or a draft. Not here: who
lists, and when (mirror, reconciliation).
"""

from collections.abc import Iterable, Sequence
from itertools import islice

from psycopg.rows import dict_row

from billing_pipeline.stripe_events.envelope import ObjectKind
from billing_pipeline.stripe_events.objects import InvoiceStatus, StripeInvoice, read_invoice
from resources.database import Database
from resources.stripe_mirror import rows
from resources.stripe_mirror.apply import WRITTEN_AT_ONCE, write_fetched
from resources.stripe_mirror.fetching import fetch_object, whole_invoice
from resources.stripe_mirror.inbox import StripeObject
from resources.stripe_mirror.reads import Document, StripeReads
from resources.stripe_mirror.rows import Fetch
from resources.stripe_mirror.settle import invoice_of


def refresh_invoices(
    database: Database,
    reads: StripeReads,
    fetch: Fetch,
    listed: Iterable[Document],
    *,
    of_customer: str | None = None,
) -> int:
    """Write `listed` invoices, asked for after `fetch` began, and return how many there are.

    Drafts that the mirror has `of_customer`, or of anybody, and the list does not show are asked for by themselves: they were
    deleted, or are older than the list reaches.
    """
    shown = set[str]()
    documents = iter(listed)
    while batch := list(islice(documents, WRITTEN_AT_ONCE)):
        found = {invoice.invoice_id: (invoice, document) for document in batch for invoice in [read_invoice(document)]}
        known = _known(database, list(found))
        same = [
            invoice_id
            for invoice_id, (invoice, _) in found.items()
            if invoice.status is not InvoiceStatus.DRAFT and known.get(invoice_id) == invoice
        ]
        changed = [document for invoice_id, (_, document) in found.items() if invoice_id not in same]
        write_fetched(database, [whole_invoice(reads, document) for document in changed], fetch)
        _touch(database, same, fetch)
        shown.update(found)
    for invoice_id in _drafts(database, of_customer):
        if invoice_id not in shown:
            subject = StripeObject(ObjectKind.INVOICE, invoice_id)
            own_fetch = rows.begin_fetch(database, now=fetch.at)
            content = fetch_object(reads, subject)
            write_fetched(database, [content] if content else [], own_fetch, deleted=[] if content else [subject])
    return len(shown)


def _known(database: Database, invoice_ids: Sequence[str]) -> dict[str, StripeInvoice]:
    with database.reading() as connection, connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute("select * from stripe.invoice where invoice_id = any(%s)", [list(invoice_ids)])
        return {row["invoice_id"]: invoice_of(row) for row in cursor}


def _drafts(database: Database, customer_id: str | None) -> list[str]:
    with database.reading() as connection:
        found = connection.execute(
            """
            select invoice_id from stripe.invoice
            where status = 'draft' and (%(customer)s::text is null or customer_id = %(customer)s)
            order by invoice_id
            """,
            {"customer": customer_id},
        )
        return [invoice_id for (invoice_id,) in found]


def _touch(database: Database, invoice_ids: Sequence[str], fetch: Fetch) -> None:
    """Say that invoices were seen again as they are; what was settled of them stays settled."""
    with database.transaction() as connection:
        connection.execute(
            """
            with
            touched as (
                select invoice_id, fetch_number
                from stripe.invoice
                where invoice_id = any(%(ids)s) and fetch_number < %(number)s
                order by invoice_id
                for update
            ),
            settled as (
                update stripe.settlement set fetch_number = %(number)s
                from touched
                where settlement.invoice_id = touched.invoice_id and settlement.fetch_number = touched.fetch_number
            )
            update stripe.invoice set fetch_number = %(number)s, fetched_at = %(at)s
            from touched
            where invoice.invoice_id = touched.invoice_id
            """,
            {"ids": list(invoice_ids), "number": fetch.number, "at": fetch.at},
        )
