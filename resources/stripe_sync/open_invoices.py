"""The open invoices of one account, over a session that is there already. Reads only. Not here: compiling them (invoicing)."""

import psycopg

from billing_pipeline.invoicing.items import CompiledInvoice
from resources.invoicing.invoice_rows import read_compiled, read_invoice_rows


def open_invoices(connection: psycopg.Connection, account_id: str) -> tuple[CompiledInvoice, ...]:
    """Return the account's open invoices as they are compiled now, in order of their periods."""
    rows = read_invoice_rows(connection, "state = 'draft' and account_id = %(account)s", {"account": account_id})
    lines = read_compiled(connection, rows)
    return tuple(sorted((lines[row.invoice_id] for row in rows), key=lambda one: (one.period, str(one.invoice_id))))
