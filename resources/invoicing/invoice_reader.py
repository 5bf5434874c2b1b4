"""Read invoices for people: how they stand, the biggest, totals by month for years, whether they agree with the ledger. Read-only.

Amounts are `Money`; counts are of invoices. Not here: one invoice with its lines (invoice_store), showing any of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID

import psycopg

from billing_pipeline.amounts import Money
from billing_pipeline.invoicing.states import InvoiceState
from resources.database import Database
from resources.invoicing.invoice_events import InvoiceEvent, read_events
from resources.invoicing.invoice_rows import InvoiceRow, read_invoice_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class StateTotal:
    """The invoices of one state and currency."""

    state: InvoiceState
    invoices: int
    lines: int
    total: Money


@dataclass(frozen=True, slots=True, kw_only=True)
class MonthTotal:
    """The invoices that count (not void) of the billing periods that begin in `month`, in one currency; credit notes apart."""

    month: date
    invoices: int
    total: Money


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """Everything in one snapshot. `biggest`: invoices that count, by amount. `uninvoiced`: what no invoice charges for now."""

    states: tuple[StateTotal, ...]
    biggest: tuple[InvoiceRow, ...]
    uninvoiced: tuple[Money, ...]
    credited: tuple[Money, ...]
    proposals_waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """An account of which ledger and invoices say different. `missing`: receivable less what its invoices account for."""

    account_id: str
    receivable: Money
    invoiced: Money

    @property
    def missing(self) -> Money:
        """Return what is in the ledger and on no invoice, below 0 the reverse."""
        return self.receivable - self.invoiced


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditNote:
    """Money given back on a final invoice. `corrects`: what the books say was charged too high; None: a person's decision.
    `item_key`: the line that it is about; None: the invoice as a whole."""

    credit_note_id: UUID
    number: str
    invoice_id: UUID
    account_id: str
    amount: Money
    corrects: UUID | None
    item_key: str | None
    actor: str
    reason: str
    issued_at: datetime


@dataclass(frozen=True, slots=True)
class InvoiceReader:
    """The invoices of one database, for reading."""

    database: Database

    def overview(self, *, biggest: int = 10) -> Overview:
        """Return how invoices stand now."""
        with self.database.reading() as connection:
            states = tuple(
                StateTotal(state=InvoiceState(state), invoices=count, lines=lines, total=Money(total, currency))
                for state, currency, count, lines, total in connection.execute(
                    """
                    select state, currency, count(*), sum(item_count)::bigint, sum(total_minor)::bigint
                    from invoicing.invoice
                    group by state, currency
                    order by state, currency
                    """
                )
            )
            return Overview(
                states=states,
                biggest=_biggest(connection, biggest),
                uninvoiced=_sums(connection, "select currency, amount_minor from invoicing.uninvoiced"),
                credited=_sums(
                    connection,
                    "select note.currency, amount_minor from invoicing.credit_note as note"
                    " left join invoicing.voided_invoice as voided using (invoice_id) where voided.invoice_id is null",
                ),
                proposals_waiting=_count(connection, "select count(*) from invoicing.proposal_waiting"),
            )

    def of_account(self, account_id: str) -> tuple[InvoiceRow, ...]:
        """Return the account's invoices, oldest period first."""
        with self.database.reading() as connection:
            return read_invoice_rows(connection, "account_id = %(account)s", {"account": account_id})

    def listed(
        self, *, account_id: str | None = None, state: InvoiceState | None = None, limit: int = 50
    ) -> tuple[InvoiceRow, ...]:
        """Return invoices of one account and state where given, the newest period first."""
        with self.database.reading() as connection:
            found = connection.execute(
                """
                select invoice_id
                from invoicing.invoice
                where (%(account)s::text is null or account_id = %(account)s)
                    and (%(state)s::text is null or state = %(state)s)
                order by period_start desc, account_id, subscription_id, issue desc
                limit %(limit)s
                """,
                {"account": account_id, "state": None if state is None else state.value, "limit": limit},
            ).fetchall()
            ids = [invoice_id for (invoice_id,) in found]
            rows = {
                row.invoice_id: row for row in read_invoice_rows(connection, "invoice_id = any(%(ids)s)", {"ids": ids})
            }
        return tuple(rows[invoice_id] for invoice_id in ids)

    def credit_notes(self, invoice_id: UUID) -> tuple[CreditNote, ...]:
        """Return the credit notes on an invoice, by number."""
        with self.database.reading() as connection:
            return read_credit_notes(connection, [invoice_id])

    def events(self, invoice_id: UUID) -> tuple[InvoiceEvent, ...]:
        """Return what was done to an invoice, oldest first."""
        with self.database.reading() as connection:
            return read_events(connection, invoice_id)

    def months(self, *, account_id: str | None = None) -> tuple[MonthTotal, ...]:
        """Return the totals of every month and currency, of one account or of all, oldest first."""
        with self.database.reading() as connection:
            return month_totals(connection, account_id=account_id)

    def disagreements(self, accounts: Sequence[str] | None = None) -> tuple[Disagreement, ...]:
        """Return the accounts of which the ledger's receivable is not what invoices account for, by account.

        Receivable = invoices that count + drafts - credit notes + what no invoice charges for; what is carried from one
        invoice to the next counts in neither. Holds as soon as the account is compiled after its last booking.
        """
        with self.database.reading() as connection:
            rows = connection.execute(
                _DISAGREEMENTS, {"accounts": None if accounts is None else list(accounts)}
            ).fetchall()
        return tuple(
            Disagreement(
                account_id=account_id, receivable=Money(receivable, currency), invoiced=Money(invoiced, currency)
            )
            for account_id, currency, receivable, invoiced in rows
        )


def read_credit_notes(connection: psycopg.Connection, invoice_ids: Sequence[UUID]) -> tuple[CreditNote, ...]:
    """Return the credit notes on these invoices, by number."""
    rows = connection.execute(
        """
        select
            credit_note_id, number, invoice_id, account_id, amount_minor, currency, corrects, item_key, actor, reason, issued_at
        from invoicing.credit_note
        where invoice_id = any(%s)
        order by length(number), number
        """,
        [list(invoice_ids)],
    )
    return tuple(
        CreditNote(
            credit_note_id=row[0],
            number=row[1],
            invoice_id=row[2],
            account_id=row[3],
            amount=Money(row[4], row[5]),
            corrects=row[6],
            item_key=row[7],
            actor=row[8],
            reason=row[9],
            issued_at=row[10],
        )
        for row in rows
    )


def month_totals(connection: psycopg.Connection, *, account_id: str | None = None) -> tuple[MonthTotal, ...]:
    """Return the totals of every month and currency; a million invoices are read from an index (docs/benchmarks.md)."""
    query = _MONTHS if account_id is None else _MONTHS_OF_ACCOUNT
    rows = connection.execute(query, {"account": account_id})
    return tuple(
        MonthTotal(month=month, invoices=count, total=Money(total, currency)) for month, currency, count, total in rows
    )


# Void invoices are few: they are taken off the sums, so that the rest is added up from the index alone.
_MONTHS = """
    with
    counted as (
        select month, currency, count(*) as invoices, sum(total_minor) as total_minor
        from invoicing.final_invoice
        group by month, currency
        union all
        select month, currency, -count(*), -sum(total_minor)
        from invoicing.voided_invoice
        join invoicing.final_invoice using (invoice_id)
        group by month, currency
        union all
        select month, currency, count(*), sum(total_minor)
        from invoicing.draft_invoice
        group by month, currency
    )
    select month, currency, sum(invoices)::bigint, sum(total_minor)::bigint
    from counted
    group by month, currency
    having sum(invoices) > 0
    order by month, currency
"""
_MONTHS_OF_ACCOUNT = """
    select month, currency, count(*), sum(total_minor)::bigint
    from invoicing.invoice
    where account_id = %(account)s and state <> 'void'
    group by month, currency
    order by month, currency
"""
_DISAGREEMENTS = """
    with
    owed as (
        select account_id, currency, amount_minor
        from billing.ledger_posting
        where starts_with(ledger_account, 'receivable:')
            and (%(accounts)s::text[] is null or account_id = any(%(accounts)s::text[]))
    ),
    lines as (
        select account_id, currency, amount_minor
        from invoicing.draft_item
        where part_count = 0 and not (kind = 'other' and source_id is null)
        union all
        select item.account_id, item.currency, amount_minor
        from invoicing.final_item as item
        left join invoicing.voided_invoice as voided using (invoice_id)
        where part_count = 0 and not (kind = 'other' and source_id is null) and voided.invoice_id is null
        union all
        select note.account_id, note.currency, -amount_minor
        from invoicing.credit_note as note
        left join invoicing.voided_invoice as voided using (invoice_id)
        where voided.invoice_id is null
        union all
        select account_id, currency, amount_minor
        from invoicing.uninvoiced
    ),
    both_sides as (
        select account_id, currency, amount_minor as owed_minor, 0::bigint as line_minor from owed
        union all
        select account_id, currency, 0, amount_minor
        from lines
        where %(accounts)s::text[] is null or account_id = any(%(accounts)s::text[])
    )
    select account_id, currency, sum(owed_minor)::bigint, sum(line_minor)::bigint
    from both_sides
    group by account_id, currency
    having sum(owed_minor) <> sum(line_minor)
    order by account_id, currency
"""


def _biggest(connection: psycopg.Connection, count: int) -> tuple[InvoiceRow, ...]:
    """Return the biggest invoices of each table first, so that neither is sorted as a whole."""
    rows = read_invoice_rows(
        connection,
        """
        invoice_id in (
            (select invoice_id from invoicing.draft_invoice order by total_minor desc, invoice_id limit %(count)s)
            union all
            (select invoice_id from invoicing.final_invoice order by total_minor desc, invoice_id limit %(count)s)
        ) and state <> 'void'
        """,
        {"count": count},
    )
    return tuple(sorted(rows, key=lambda row: (-row.total.major, row.key.account_id, row.key.period))[:count])


def _sums(connection: psycopg.Connection, query: str) -> tuple[Money, ...]:
    found: Mapping[str, int] = dict(
        connection.execute(
            f"select currency, sum(amount_minor)::bigint from ({query}) as amounts group by currency order by currency".encode()
        ).fetchall()
    )
    return tuple(Money(amount, currency) for currency, amount in found.items())


def _count(connection: psycopg.Connection, query: str) -> int:
    row = connection.execute(query.encode()).fetchone()
    return 0 if row is None else int(row[0])
