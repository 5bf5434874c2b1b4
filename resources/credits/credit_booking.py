"""Book what credits have come to: the difference of what invoices say grants pay, and what expires, to what is booked.

Runs in the transaction that writes an account's invoices, under its lock; a second run books nothing. Not here: what grants pay
(billing_pipeline.credits), rows (credit_rows).
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import psycopg

from billing_pipeline.amounts import Money
from billing_pipeline.credits import CreditChange, Grant
from billing_pipeline.invoicing.items import CompiledInvoice, ItemKind
from resources.credits.credit_rows import CreditEntry, append_entries, read_grants


@dataclass(frozen=True, slots=True)
class _Booked:
    """What stands of one grant, kind and invoice: the sum in minor units, the newest revision and its instant."""

    units: int
    revision: int
    effective_at: datetime


_Key = tuple[UUID, CreditChange, UUID | None]


def book_credits(
    connection: psycopg.Connection,
    accounts: Sequence[str],
    open_invoices: Iterable[CompiledInvoice],
    *,
    as_of: datetime,
) -> int:
    """Append the entries that make the books of the accounts' grants equal to their invoices; return how many.

    `open_invoices` are all drafts of the accounts. Final ones say what they say; void ones give back what they took.
    """
    grants = {row.grant.grant_id: row.grant for row in read_grants(connection, accounts)}
    if not grants:
        return 0
    wanted = _wanted(connection, accounts, open_invoices)
    booked = _booked(connection, accounts)
    entries = []
    spent: dict[UUID, int] = defaultdict(int)
    for grant_id, invoice_id in {*wanted, *_spent_keys(booked)}:
        units, due_at = wanted.get((grant_id, invoice_id), (0, None))
        spent[grant_id] += units
        standing = booked.get((grant_id, CreditChange.SPENT, invoice_id))
        at = due_at or (standing.effective_at if standing else as_of)
        entries.append(_entry(grants[grant_id], CreditChange.SPENT, invoice_id, standing, -units, at))
    for grant in grants.values():
        if grant.expires_at is not None and grant.expires_at <= as_of:
            rest = grant.amount.minor_units - spent[grant.grant_id]
            standing = booked.get((grant.grant_id, CreditChange.EXPIRED, None))
            entries.append(_entry(grant, CreditChange.EXPIRED, None, standing, -rest, grant.expires_at))
    due = [entry for entry in entries if entry.delta.minor_units != 0]
    append_entries(connection, sorted(due, key=lambda entry: entry.entry_id), now=as_of)
    return len(due)


def _entry(
    grant: Grant,
    change: CreditChange,
    invoice_id: UUID | None,
    standing: _Booked | None,
    units: int,
    effective_at: datetime,
) -> CreditEntry:
    before = standing.units if standing else 0
    return CreditEntry(
        grant=grant,
        change=change,
        invoice_id=invoice_id,
        revision=(standing.revision if standing else 0) + 1,
        delta=Money(units - before, grant.amount.currency),
        effective_at=effective_at,
    )


def _wanted(
    connection: psycopg.Connection, accounts: Sequence[str], open_invoices: Iterable[CompiledInvoice]
) -> dict[tuple[UUID, UUID], tuple[int, datetime | None]]:
    """Return what each grant pays of each invoice that counts, in minor units, and when the invoice is due."""
    wanted: dict[tuple[UUID, UUID], tuple[int, datetime | None]] = {}
    for invoice in open_invoices:
        for item in invoice.detail:
            if item.kind is ItemKind.CREDIT and item.source_id is not None:
                wanted[item.source_id, invoice.invoice_id] = (-item.amount.minor_units, invoice.period.end)
    rows = connection.execute(
        """
        select source_id, invoice_id, -item.amount_minor, final.period_end
        from invoicing.final_item as item
        join invoicing.final_invoice as final using (invoice_id)
        left join invoicing.voided_invoice as voided using (invoice_id)
        where item.account_id = any(%s) and kind = 'credit' and source_id is not null and voided.invoice_id is null
        """,
        [list(accounts)],
    )
    for grant_id, invoice_id, units, due_at in rows:
        wanted[grant_id, invoice_id] = (units, due_at)
    return wanted


def _booked(connection: psycopg.Connection, accounts: Sequence[str]) -> dict[_Key, _Booked]:
    rows = connection.execute(
        """
        select grant_id, kind, invoice_id, sum(delta_minor)::bigint, max(revision), max(effective_at)
        from billing.credit_entry
        where account_id = any(%s) and kind <> 'granted'
        group by grant_id, kind, invoice_id
        """,
        [list(accounts)],
    )
    return {(row[0], CreditChange(row[1]), row[2]): _Booked(row[3], row[4], row[5]) for row in rows}


def _spent_keys(booked: Iterable[_Key]) -> Iterable[tuple[UUID, UUID]]:
    for grant_id, change, invoice_id in booked:
        if change is CreditChange.SPENT and invoice_id is not None:
            yield grant_id, invoice_id
