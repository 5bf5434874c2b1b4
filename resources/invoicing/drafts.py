"""Write the open invoices of accounts as they are compiled now: in place of what was compiled before, in one transaction.

Drafts whose digest is the same stay untouched. Credits that are due are issued once: they are append-only, and the next
compilation counts them. Not here: reading books (account_books), the rules (billing_pipeline.invoicing), states (invoice_store).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID, uuid5
from zlib import crc32

import psycopg

from billing_pipeline.amounts import Money
from billing_pipeline.catalog import Catalog
from billing_pipeline.errors import BillingError
from billing_pipeline.invoicing.compile import Compilation, compile_account
from billing_pipeline.invoicing.items import CompiledInvoice
from billing_pipeline.invoicing.policy import InvoicingPolicy
from resources.credits.credit_booking import book_credits
from resources.credits.credit_rows import append_due_grants
from resources.invoicing.account_books import read_books
from resources.invoicing.credit_notes import NewCreditNote, append_credit_note
from resources.invoicing.invoice_rows import month_of, write_items

# Locks are held to the end of a transaction, and a server has a few thousand: accounts share these.
STRIPES = 64
# Made once with uuid4. Never change it: ids of issued credit notes are made from it.
_CREDIT_NAMESPACE = UUID("0b1c7f43-5a5b-4c21-8f7d-3a5e6d1b9c02")
PIPELINE = "billing_pipeline"


@dataclass(slots=True, kw_only=True)
class Drafted:
    """What compiling did. `failed`: account -> what is wrong; its drafts are as they were. `totals`: currency -> sum of drafts."""

    accounts: int = 0
    written: int = 0
    unchanged: int = 0
    removed: int = 0
    credits_issued: int = 0
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, other: "Drafted") -> None:
        """Add the figures of another part of the accounts."""
        self.accounts += other.accounts
        self.written += other.written
        self.unchanged += other.unchanged
        self.removed += other.removed
        self.credits_issued += other.credits_issued
        self.failed |= other.failed


def lock_of(account_id: str) -> str:
    """Return the name of the lock under which an account's invoices are written."""
    return f"invoicing|{crc32(account_id.encode()) % STRIPES}"


def by_lock(accounts: Iterable[str]) -> Mapping[str, list[str]]:
    """Return the accounts by their lock, locks in order."""
    found: dict[str, list[str]] = {}
    for account_id in sorted(accounts):
        found.setdefault(lock_of(account_id), []).append(account_id)
    return dict(sorted(found.items()))


def draft_accounts(
    connection: psycopg.Connection,
    catalog: Catalog,
    accounts: Sequence[str],
    *,
    policy: InvoicingPolicy,
    as_of: datetime,
) -> Drafted:
    """Compile the accounts and write what has changed. The caller holds the accounts' locks.

    An account whose books cannot be compiled is left as it is and reported; the others go on.
    """
    done = Drafted(accounts=len(accounts))
    append_due_grants(connection, catalog, accounts, as_of=as_of)
    compiled: dict[str, Compilation] = {}
    for account_id, book in read_books(connection, catalog, accounts, as_of=as_of).items():
        try:
            compiled[account_id] = compile_account(book, policy=policy, as_of=as_of)
        except BillingError as error:
            done.failed[account_id] = error.what
    digests = _digests(connection, list(compiled))
    invoices = [invoice for one in compiled.values() for invoice in one.invoices]
    changed = [invoice for invoice in invoices if digests.get(invoice.invoice_id) != invoice.digest]
    gone = digests.keys() - {invoice.invoice_id for invoice in invoices}
    _replace(connection, catalog, changed, gone=gone, as_of=as_of)
    _write_uninvoiced(connection, compiled)
    book_credits(connection, list(compiled), invoices, as_of=as_of)
    for account_id, one in compiled.items():
        for credit in one.credits:
            note = NewCreditNote(
                credit_note_id=uuid5(
                    _CREDIT_NAMESPACE,
                    f"{credit.source_id}|{credit.invoice_id}|{_credited(connection, credit.source_id)}",
                ),
                invoice_id=credit.invoice_id,
                account_id=account_id,
                amount=credit.amount,
                corrects=credit.source_id,
                item_key=None,
                actor=PIPELINE,
                reason=credit.reason,
            )
            append_credit_note(connection, note, policy=policy, now=as_of)
            done.credits_issued += 1
    done.written, done.removed = len(changed), len(gone)
    done.unchanged = len(invoices) - len(changed)
    return done


def _credited(connection: psycopg.Connection, source_id: UUID) -> int:
    """Return how many credit notes of the source there are: each further one is another."""
    row = connection.execute("select count(*) from invoicing.credit_note where corrects = %s", [source_id]).fetchone()
    return 0 if row is None else int(row[0])


def _digests(connection: psycopg.Connection, accounts: Sequence[str]) -> Mapping[UUID, str]:
    rows = connection.execute(
        "select invoice_id, items_digest from invoicing.draft_invoice where account_id = any(%s)", [list(accounts)]
    )
    return dict(rows.fetchall())


def _replace(
    connection: psycopg.Connection,
    catalog: Catalog,
    changed: Sequence[CompiledInvoice],
    *,
    gone: Iterable[UUID],
    as_of: datetime,
) -> None:
    ids = [*gone, *(invoice.invoice_id for invoice in changed)]
    if ids:
        connection.execute("delete from invoicing.draft_invoice where invoice_id = any(%s)", [ids])
    if not changed:
        return
    statement = """
        copy invoicing.draft_invoice (
            invoice_id, account_id, subscription_id, period_start, period_end, issue, month, currency, item_count, total_minor,
            items_digest, compiled_at
        ) from stdin
    """
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for invoice in changed:
            copy.write_row(draft_row(invoice, zone=catalog.accounts[invoice.account_id].time_zone, as_of=as_of))
    write_items(connection, "invoicing.draft_item", changed)


def draft_row(invoice: CompiledInvoice, *, zone: str, as_of: datetime) -> tuple[object, ...]:
    """Return the row of a draft, as the columns of invoicing.draft_invoice stand."""
    return (
        invoice.invoice_id,
        invoice.account_id,
        invoice.subscription_id,
        invoice.period.start,
        invoice.period.end,
        invoice.key.issue,
        month_of(invoice.period, zone),
        invoice.currency,
        len(invoice.items),
        invoice.total.minor_units,
        invoice.digest,
        as_of,
    )


def _write_uninvoiced(connection: psycopg.Connection, compiled: Mapping[str, Compilation]) -> None:
    connection.execute("delete from invoicing.uninvoiced where account_id = any(%s)", [list(compiled)])
    rows = [(account_id, one) for account_id, found in compiled.items() for one in found.uninvoiced]
    if not rows:
        return
    with connection.cursor() as cursor, cursor.copy("copy invoicing.uninvoiced from stdin") as copy:
        for account_id, one in rows:
            period = (None, None) if one.slot is None else (one.slot.period.start, one.slot.period.end)
            subscription_id = None if one.slot is None else one.slot.subscription_id
            money: Money = one.amount
            copy.write_row(
                (one.source_id, account_id, subscription_id, *period, money.minor_units, money.currency, one.why)
            )
