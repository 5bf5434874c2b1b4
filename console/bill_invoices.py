"""Say under a bill which invoices have its charges, and what else stands on them: adjustments, corrections, credit. Reads only.

A bill shows what is booked for a time, an invoice what the customer is asked for: both are the same money, told apart by what
people added and by what belongs to other periods. Not here: the invoice itself (invoice_page).
"""

from collections import defaultdict
from collections.abc import Iterator

from billing_pipeline.amounts import Money
from billing_pipeline.invoicing.items import CompiledInvoice, ItemKind
from billing_pipeline.invoicing.states import InvoiceState
from resources.charge_reader import Bill
from resources.database import Database
from resources.invoicing.invoice_reader import InvoiceReader
from resources.invoicing.invoice_rows import InvoiceRow
from resources.invoicing.invoice_store import InvoiceStore

_CHARGES = frozenset({ItemKind.USAGE, ItemKind.FEE, ItemKind.MINIMUM})
_NAMES = {
    ItemKind.ONE_OFF: "one-off items",
    ItemKind.ADJUSTMENT: "adjustments",
    ItemKind.CORRECTION: "corrections of earlier invoices",
    ItemKind.CREDIT: "credit",
    ItemKind.OTHER: "carried",
}


def invoice_sentences(database: Database, bill: Bill) -> Iterator[str]:
    """Yield a sentence for each invoice of the account that has one of the bill's charges."""
    charge_ids = {charge.charge_id for charge in bill.charges}
    store = InvoiceStore(database)
    for row in InvoiceReader(database).of_account(bill.account_id):
        if row.state is InvoiceState.VOID:
            continue
        invoice = store.compiled(row)
        if any(item.charge_id in charge_ids or item.corrects in charge_ids for item in invoice.detail):
            yield _sentence(row, invoice)


def _sentence(row: InvoiceRow, invoice: CompiledInvoice) -> str:
    sums: dict[ItemKind, Money] = defaultdict(lambda: Money(0, invoice.currency))
    for item in invoice.detail:
        sums[item.kind] += item.amount
    others = [f"{name} {sums[kind]}" for kind, name in _NAMES.items() if kind in sums]
    charged = sum((sums[kind].minor_units for kind in _CHARGES if kind in sums), 0)
    of_it = f" = charges {Money(charged, invoice.currency)}, {', '.join(others)}" if others else ""
    state = f"Invoice {row.number}" if row.number else f"Draft {row.name}"
    period = f"{row.key.period.start:%Y-%m-%d} to {row.key.period.end:%Y-%m-%d}"
    whose = f" of {row.key.subscription_id}" if row.key.subscription_id else ""
    return f"{state}{whose}, {period}: {row.total}{of_it}"
