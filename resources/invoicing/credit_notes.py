"""Append credit notes and take numbers without gaps, in the caller's transaction.

A number is taken under one lock that is held to the end: a transaction that fails gives it back, two that run at once wait.
Not here: why money is given back (compile, adjustment_store).
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

import psycopg

from billing_pipeline.amounts import Money
from billing_pipeline.invoicing.policy import InvoicingPolicy
from billing_pipeline.ledger import Added
from resources.invoicing.added_postings import append_postings
from resources.invoicing.invoice_events import append_event

_LOCK = "invoicing|numbers"


class Series(StrEnum):
    """What is numbered without gaps."""

    INVOICE = "invoice"
    CREDIT_NOTE = "credit_note"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCreditNote:
    """A credit note before it has a number. `corrects`: what the books say was charged too high; None: a person's decision."""

    credit_note_id: UUID
    invoice_id: UUID
    account_id: str
    amount: Money
    corrects: UUID | None
    item_key: str | None
    actor: str
    reason: str


def take_number(connection: psycopg.Connection, series: Series) -> int:
    """Return the next number of the series; it is taken when this transaction commits."""
    # One lock for all series: who takes several takes them in any order.
    connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", [_LOCK])
    row = connection.execute(
        """
        insert into invoicing.number_series as series (series, last_number)
        values (%s, 1)
        on conflict (series) do update set last_number = series.last_number + 1
        returning last_number
        """,
        [series.value],
    ).fetchone()
    if row is None:
        raise AssertionError("an upsert returns its row")  # pragma: no cover
    return int(row[0])


def append_credit_note(
    connection: psycopg.Connection, note: NewCreditNote, *, policy: InvoicingPolicy, now: datetime
) -> str:
    """Issue the note, with the next number, and return that."""
    number = policy.credit_note_number(take_number(connection, Series.CREDIT_NOTE))
    connection.execute(
        """
        insert into invoicing.credit_note
            (credit_note_id, number, invoice_id, account_id, amount_minor, currency, corrects, item_key, actor, reason, issued_at)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        [
            note.credit_note_id,
            number,
            note.invoice_id,
            note.account_id,
            note.amount.minor_units,
            note.amount.currency,
            note.corrects,
            note.item_key,
            note.actor,
            note.reason,
            now,
        ],
    )
    append_event(
        connection,
        invoice_id=note.invoice_id,
        account_id=note.account_id,
        kind="credited",
        actor=note.actor,
        reason=note.reason,
        now=now,
        detail={"number": number, "amount": str(note.amount)},
    )
    return number


def take_back_notes(connection: psycopg.Connection, invoice_id: UUID, *, now: datetime) -> None:
    """Reverse in the ledger what people gave back on an invoice that is void: the notes count no more, and stay."""
    rows = connection.execute(
        """
        select credit_note_id, account_id, amount_minor, currency
        from invoicing.credit_note
        where invoice_id = %s and corrects is null
        """,
        [invoice_id],
    ).fetchall()
    for credit_note_id, account_id, amount_minor, currency in rows:
        append_postings(
            connection,
            added=Added.CREDIT_NOTE,
            entry_id=credit_note_id,
            account_id=account_id,
            amount=Money(amount_minor, currency),
            now=now,
        )
