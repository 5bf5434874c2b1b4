"""A compiled invoice and the lines that Stripe holds of it -> the invoice as the customer was really charged. Pure.

Where Stripe finalized an invoice before the last figures had reached it, the final invoice here says what Stripe charged; what
is missing is then a correction on the next one. Not here: what is sent (stripe_sync), keeping it (invoice_store).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from billing_pipeline.amounts import Money
from billing_pipeline.invoicing.items import CompiledInvoice, InvoiceItem, ItemKind, digest_of, sum_of
from billing_pipeline.invoicing.stripe_amounts import from_stripe, stripe_amounts


@dataclass(frozen=True, slots=True, kw_only=True)
class AsCharged:
    """The invoice as it was charged. `unknown`: the keys of its lines that are of nothing in the books here."""

    invoice: CompiledInvoice
    unknown: tuple[str, ...]


def as_charged(invoice: CompiledInvoice, held: Mapping[str, int]) -> AsCharged:
    """Return `invoice` with the amounts that Stripe holds. `held`: item key -> amount in Stripe's units, our lines alone.

    A line that Stripe holds as it was sent stays as it is. One of another amount gets that, one that is missing goes. Of a line
    that groups others, the difference is put on its largest part; a part that Stripe holds by itself stands by itself. Lines by
    meter are Stripe's own doing: they stay, unless `held` says what they came to. A key that is of nothing here was charged
    all the same: it is a line without a source, and like what is left over it is carried back by the next invoice.
    """
    wanted = stripe_amounts(invoice.items)
    lines: list[InvoiceItem] = []
    known: set[str] = set()
    for line in invoice.items:
        known.add(line.item_key)
        alone = [part for part in line.parts if part.item_key in held]
        known.update(part.item_key for part in alone)
        lines += [replace(part, amount=from_stripe(held[part.item_key], invoice.currency)) for part in alone]
        if line.by_meter:
            amount = held.get(line.item_key)
            lines.append(line if amount is None else replace(line, amount=from_stripe(amount, invoice.currency)))
            continue
        there = held.get(line.item_key, 0)
        if alone:
            rest = tuple(part for part in line.parts if part not in alone)
            lines += _as_one(line, rest, from_stripe(there, invoice.currency))
        elif there == wanted[line.item_key]:
            lines.append(line)
        else:
            moved = from_stripe(there - wanted[line.item_key], invoice.currency)
            lines += _as_one(line, line.parts, line.amount + moved)
    unknown = tuple(sorted(key for key in set(held) - known if held[key]))
    lines += [_strange(invoice, key, from_stripe(held[key], invoice.currency)) for key in unknown]
    found = CompiledInvoice(key=invoice.key, currency=invoice.currency, items=tuple(lines))
    return AsCharged(invoice=found, unknown=unknown)


def _strange(invoice: CompiledInvoice, key: str, amount: Money) -> InvoiceItem:
    return InvoiceItem(
        item_key=key,
        kind=ItemKind.OTHER,
        account_id=invoice.account_id,
        subscription_id=invoice.subscription_id,
        source_id=None,
        charge_id=None,
        period=invoice.period,
        amount=amount,
        description="Charged by Stripe and in no books here",
        quantity_text="",
        revision=1,
        source_digest=digest_of("strange", key, str(amount)),
    )


def _as_one(line: InvoiceItem, parts: Sequence[InvoiceItem], amount: Money) -> list[InvoiceItem]:
    """Return the line at `amount`, the largest of `parts` taking the difference; nothing for an amount of 0."""
    if amount.minor_units == 0:
        return []
    if not line.parts:
        return [replace(line, amount=amount)]
    if not parts:
        # All its parts stand by themselves, and Stripe holds the group as well: it is charged, and carried back by the next one.
        return [replace(line, parts=(), amount=amount)]
    largest = max(parts, key=lambda part: (abs(part.amount.minor_units), part.item_key))
    moved = largest.amount + (amount - sum_of(parts, amount.currency))
    kept = tuple(replace(part, amount=moved) if part is largest else part for part in parts)
    return [replace(line, parts=kept, amount=amount)]
