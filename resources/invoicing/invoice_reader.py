"""Read invoices for people: how they stand, the biggest, totals by month for years, whether they agree with the ledger. Read-only.

Amounts are `Money`; counts are of invoices. Not here: one invoice with its lines (invoice_store), showing any of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import psycopg

from billing_pipeline.amounts import Money
from billing_pipeline.invoicing.states import InvoiceState
from resources.database import Database
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

    def in_state(self, state: InvoiceState, *, month: date | None = None, limit: int = 50) -> tuple[InvoiceRow, ...]:
        """Return invoices of a state, of the billing periods that begin in `month` where given."""
        condition = "state = %(state)s and (%(month)s::date is null or month = %(month)s)"
        with self.database.reading() as connection:
            rows = read_invoice_rows(connection, condition, {"state": state.value, "month": month})
        return rows[:limit]

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
