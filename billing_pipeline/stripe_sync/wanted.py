"""A compiled invoice -> the lines that Stripe should hold of it. Pure.

Amounts are in Stripe's own minor units and add up to the invoice (invoicing.stripe_amounts); lines by meter are Stripe's own
doing and left out. The metadata says which line of which invoice it is, in which revision and made of what, so that anybody who
looks at Stripe finds the way back. Not here: what is there already (lines, plan).
"""

from collections.abc import Mapping
from uuid import UUID

from billing_pipeline.invoicing.items import CompiledInvoice, InvoiceItem, unfolded
from billing_pipeline.invoicing.stripe_amounts import stripe_amounts
from billing_pipeline.stripe_sync.lines import ACCOUNT_FIELD, INVOICE_FIELD, WantedLine, wanted_line


def wanted_lines(invoice: CompiledInvoice, *, adjusts: Mapping[UUID, str] | None = None) -> tuple[WantedLine, ...]:
    """Return the lines of `invoice`, in its order. `adjusts`: charge -> invoice at Stripe that has charged for it before.

    Raises:
        StripeAmountError: the sum is no amount that Stripe can charge.
        StripeCurrencyError: Stripe does not take the currency.
    """
    amounts = stripe_amounts(invoice.items)
    return tuple(
        _line(invoice, item, amounts[item.item_key], adjusts or {}) for item in invoice.items if not item.by_meter
    )


def _line(invoice: CompiledInvoice, item: InvoiceItem, amount: int, adjusts: Mapping[UUID, str]) -> WantedLine:
    metadata = {
        ACCOUNT_FIELD: invoice.account_id,
        INVOICE_FIELD: str(invoice.invoice_id),
        "bp_kind": item.kind.value,
        "bp_period": f"{item.period.start.isoformat()}/{item.period.end.isoformat()}",
        "bp_rev": str(item.revision),
        "bp_source_digest": item.source_digest,
    }
    if item.corrects is not None:
        metadata["bp_corrects"] = str(item.corrects)
        if (before := adjusts.get(item.corrects)) is not None:
            metadata["bp_adjusts"] = before
    return wanted_line(
        key=item.item_key,
        amount=amount,
        currency=invoice.currency,
        description=f"{item.description} ({item.quantity_text})" if item.quantity_text else item.description,
        period=item.period,
        metadata=metadata,
        part_keys=tuple(part.item_key for part in unfolded(item.parts)),
    )
