"""Where the items of a compiled invoice are at Stripe: waiting, on its own draft, or charged by an invoice already.

An invoice of Stripe that is final has charged what it holds: that is recorded (invoicing), so that the next draft here has the
rest. While it is a draft of somebody else's making it is subtracted. Void invoices charge nothing. Not here: planning.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import psycopg

from billing_pipeline.invoicing.items import CompiledInvoice, InvoiceKey
from billing_pipeline.stripe_sync.lines import INVOICE_FIELD, HeldItem
from resources.invoicing.invoice_store import InvoiceStore
from resources.stripe_api.calls import Json
from resources.stripe_sync.requests import Held

_NOT_CHARGED = frozenset({"void", "draft"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Charged:
    """An invoice of Stripe that is final and has lines of a compiled invoice that is open. `is_own`: it is that invoice at
    Stripe; otherwise one in mid-period, which took pending items, or with `is_renewal` the own one of another period."""

    compiled: CompiledInvoice
    invoice: Json
    items: tuple[HeldItem, ...]
    is_own: bool
    is_renewal: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a compiled invoice's items are. `renewal_draft`: the draft that a true-up will bring up to date, with which nothing
    else is done. `settled`: on drafts of others, or charged and not recorded yet."""

    pending: tuple[HeldItem, ...]
    settled: tuple[HeldItem, ...]
    charged: tuple[Charged, ...]
    renewal_draft: str | None


def standing_of(
    compiled: CompiledInvoice, held: Held, *, renewal_reasons: frozenset[str], draft_id: str | None = None
) -> Standing:
    """Return where the items of `compiled` are. `draft_id`: the draft that is worked on, whose lines are no one else's."""
    mine = [item for item in held.items() if item.compiled_id == str(compiled.invoice_id)]
    by_invoice: dict[str, list[HeldItem]] = defaultdict(list)
    for item in mine:
        if item.invoice_id is not None and item.invoice_id != draft_id:
            by_invoice[item.invoice_id].append(item)
    settled: list[HeldItem] = []
    charged: list[Charged] = []
    renewal_draft = None
    for invoice_id, items in by_invoice.items():
        invoice = held.invoice(invoice_id)
        if invoice is None or invoice["status"] == "void":
            continue
        is_renewal = invoice["billing_reason"] in renewal_reasons
        is_made_here = (invoice.get("metadata") or {}).get(INVOICE_FIELD) == str(compiled.invoice_id)
        if invoice["status"] == "draft":
            if is_renewal:
                renewal_draft = invoice_id
            if not is_made_here:
                settled += items
            continue
        settled += items
        is_after = invoice["created"] >= int(compiled.period.end.timestamp())
        charged.append(
            Charged(
                compiled=compiled,
                invoice=invoice,
                items=tuple(items),
                is_own=is_made_here or (is_renewal and is_after),
                is_renewal=is_renewal,
            )
        )
    return Standing(
        pending=tuple(item for item in mine if item.is_pending),
        settled=tuple(settled),
        charged=tuple(charged),
        renewal_draft=renewal_draft,
    )


def charged_by_renewal(connection: psycopg.Connection, compiled: CompiledInvoice, held: Held) -> tuple[Charged, ...]:
    """Return the renewal that was brought up to date for `compiled`, once it is final."""
    rows = connection.execute(
        "select invoice_id from stripe.sync_true_up where compiled_id = %s order by invoice_id", [compiled.invoice_id]
    ).fetchall()
    invoices = (held.invoice(invoice_id) for (invoice_id,) in rows)
    return tuple(
        Charged(compiled=compiled, invoice=invoice, items=(), is_own=True)
        for invoice in invoices
        if invoice is not None and invoice["status"] not in _NOT_CHARGED
    )


def issues_of_period(connection: psycopg.Connection, key: InvoiceKey) -> frozenset[str]:
    """Return the ids of all issues of a period's invoice: a final one may hold items that were made for an earlier issue."""
    rows = connection.execute(
        """
        select invoice_id from invoicing.invoice
        where account_id = %s and subscription_id is not distinct from %s and period_start = %s and period_end = %s
        """,
        [key.account_id, key.subscription_id, key.period.start, key.period.end],
    ).fetchall()
    return frozenset(str(invoice_id) for (invoice_id,) in rows)


def record_charged(
    store: InvoiceStore, found: Sequence[Charged], *, beside: Callable[[Charged], Mapping[str, int]], now: datetime
) -> UUID | None:
    """Record one invoice that Stripe has charged, the oldest, and return which compiled invoice it was; None where there is none.

    One at a time: what is open afterwards is compiled anew, under other keys. `beside`: what the period's own invoice has
    charged beside the items of the compiled one.
    """
    for one in sorted(found, key=lambda charged: (charged.invoice["created"], charged.invoice["id"])):
        amounts = amounts_by_key(one.items)
        finalized_at = finalized_at_of(one.invoice)
        key = one.compiled.key
        if one.is_own:
            row = store.record_finalized(
                key,
                external_id=one.invoice["id"],
                finalized_at=finalized_at,
                held={**amounts, **beside(one)},
                now=now,
            )
            if row.key.period == key.period and row.key.subscription_id == key.subscription_id:
                return one.compiled.invoice_id
        # In mid-period; or on an invoice that is another period's own, under a name that tells them apart.
        plain = not one.is_own and not one.is_renewal and one.invoice["created"] < int(key.period.end.timestamp())
        external_id = one.invoice["id"] if plain else f"{one.invoice['id']}:{one.compiled.invoice_id.hex[:8]}"
        store.record_interim(key, external_id=external_id, finalized_at=finalized_at, held=amounts, now=now)
        return one.compiled.invoice_id
    return None


def amounts_by_key(items: Sequence[HeldItem]) -> Mapping[str, int]:
    """Return what the items come to by key, in Stripe's units."""
    found: dict[str, int] = defaultdict(int)
    for item in items:
        if item.key is not None:
            found[item.key] += item.amount
    return dict(found)


def finalized_at_of(invoice: Json) -> datetime:
    """Return when an invoice became final, by Stripe's word."""
    at = (invoice.get("status_transitions") or {}).get("finalized_at") or invoice["created"]
    return datetime.fromtimestamp(at, UTC)
