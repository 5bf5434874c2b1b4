"""Read and write rows of credits: grants, and the entries that change their balances, with their postings.

Not here: which entries are due (credit_booking), who may grant what (credit_store).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID, uuid5

import psycopg

from billing_pipeline.amounts import Money
from billing_pipeline.catalog import Catalog
from billing_pipeline.credits import CREDIT_NAMESPACE, CreditChange, Grant, GrantSource, Spend, recurring_grants
from billing_pipeline.ledger import postings_of_credit
from billing_pipeline.periods import Window

PIPELINE = "billing_pipeline"
_RECURRING_REASON = "recurring credit of the catalog"


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantRow:
    """A grant as it is kept, with who granted it and why; `grant.expires_at` is earlier where it was revoked."""

    grant: Grant
    actor: str
    reason: str
    granted_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditEntry:
    """A change of a grant's balance by `delta`; `invoice_id` of what was spent."""

    grant: Grant
    change: CreditChange
    invoice_id: UUID | None
    revision: int
    delta: Money
    effective_at: datetime

    @property
    def entry_id(self) -> UUID:
        """Return the id: a function of what the entry is the how-manieth of."""
        return uuid5(CREDIT_NAMESPACE, f"{self.grant.grant_id}|{self.change}|{self.invoice_id or ''}|{self.revision}")


def read_grants(connection: psycopg.Connection, accounts: Sequence[str]) -> tuple[GrantRow, ...]:
    """Return the grants of the accounts, in order of their begin."""
    rows = connection.execute(
        """
        select
            grant_id, account_id, amount_minor, currency, priority, effective_at, expires_at, source, actor, reason,
            granted_at, revoked_at
        from billing.credit_grant
        left join (select grant_id, revoked_at from billing.credit_revocation) as revocation using (grant_id)
        where account_id = any(%s)
        order by effective_at, grant_id
        """,
        [list(accounts)],
    ).fetchall()
    return tuple(
        GrantRow(
            grant=Grant(
                grant_id=row[0],
                account_id=row[1],
                amount=Money(row[2], row[3]),
                priority=row[4],
                effective_at=row[5],
                expires_at=row[6],
                source=GrantSource(row[7]),
            ).revoked(row[11]),
            actor=row[8],
            reason=row[9],
            granted_at=row[10],
            revoked_at=row[11],
        )
        for row in rows
    )


def due_grants(catalog: Catalog, accounts: Iterable[str], *, as_of: datetime) -> tuple[Grant, ...]:
    """Return the grants that recurring credits of the catalog have given the accounts by `as_of`."""
    wanted = set(accounts)
    return tuple(
        grant
        for credit in catalog.recurring_credits.values()
        if credit.account_id in wanted and credit.starts_at < as_of
        for grant in recurring_grants(credit, Window(credit.starts_at, as_of))
        if grant.effective_at <= as_of
    )


def known_grants(
    connection: psycopg.Connection, catalog: Catalog, accounts: Sequence[str], *, as_of: datetime
) -> Mapping[str, tuple[Grant, ...]]:
    """Return what the accounts were granted by `as_of`, by account: grants that are kept, and recurring ones that are due."""
    found = {row.grant.grant_id: row.grant for row in read_grants(connection, accounts)}
    for grant in due_grants(catalog, accounts, as_of=as_of):
        found.setdefault(grant.grant_id, grant)
    by_account: dict[str, list[Grant]] = {}
    for grant in found.values():
        by_account.setdefault(grant.account_id, []).append(grant)
    return {account_id: tuple(grants) for account_id, grants in by_account.items()}


def frozen_spends(connection: psycopg.Connection, accounts: Sequence[str]) -> Mapping[str, tuple[Spend, ...]]:
    """Return what grants have paid of final invoices that count, by account."""
    rows = connection.execute(
        """
        select item.account_id, source_id, invoice_id, -amount_minor, currency
        from invoicing.final_item as item
        left join invoicing.voided_invoice as voided using (invoice_id)
        where item.account_id = any(%s) and kind = 'credit' and source_id is not null and voided.invoice_id is null
        """,
        [list(accounts)],
    ).fetchall()
    found: dict[str, list[Spend]] = {}
    for account_id, grant_id, invoice_id, units, currency in rows:
        spent = Spend(grant_id=grant_id, invoice_id=invoice_id, amount=Money(units, currency))
        found.setdefault(account_id, []).append(spent)
    return {account_id: tuple(spends) for account_id, spends in found.items()}


def append_grant(connection: psycopg.Connection, grant: Grant, *, actor: str, reason: str, now: datetime) -> bool:
    """Keep a grant and book it; False where it is kept already."""
    row = connection.execute(
        """
        insert into billing.credit_grant (
            grant_id, account_id, amount_minor, currency, priority, effective_at, expires_at, source, actor, reason, granted_at
        )
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        on conflict do nothing
        returning grant_id
        """,
        [
            grant.grant_id,
            grant.account_id,
            grant.amount.minor_units,
            grant.amount.currency,
            grant.priority,
            grant.effective_at,
            grant.expires_at,
            grant.source,
            actor,
            reason,
            now,
        ],
    ).fetchone()
    if row is None:
        return False
    entry = CreditEntry(
        grant=grant,
        change=CreditChange.GRANTED,
        invoice_id=None,
        revision=1,
        delta=grant.amount,
        effective_at=grant.effective_at,
    )
    append_entries(connection, [entry], now=now)
    return True


def append_due_grants(
    connection: psycopg.Connection, catalog: Catalog, accounts: Iterable[str], *, as_of: datetime
) -> int:
    """Keep and book the recurring grants that are due and not kept yet; return how many."""
    due = due_grants(catalog, accounts, as_of=as_of)
    return sum(append_grant(connection, grant, actor=PIPELINE, reason=_RECURRING_REASON, now=as_of) for grant in due)


def append_entries(connection: psycopg.Connection, entries: Sequence[CreditEntry], *, now: datetime) -> None:
    """Append entries and their postings."""
    if not entries:
        return
    columns = (
        "entry_id, grant_id, account_id, kind, invoice_id, revision, delta_minor, currency, effective_at, booked_at"
    )
    with connection.cursor() as cursor:
        with cursor.copy(f"copy billing.credit_entry ({columns}) from stdin".encode()) as copy:
            for entry in entries:
                copy.write_row(
                    (
                        entry.entry_id,
                        entry.grant.grant_id,
                        entry.grant.account_id,
                        entry.change,
                        entry.invoice_id,
                        entry.revision,
                        entry.delta.minor_units,
                        entry.delta.currency,
                        entry.effective_at,
                        now,
                    )
                )
        statement = """
            copy billing.ledger_posting (
                transaction_id, posting_number, ledger_account, account_id, amount_minor, currency, credit_entry_id, event_day
            ) from stdin
        """
        with cursor.copy(statement) as copy:
            for entry in entries:
                for posting in postings_of_credit(
                    entry_id=entry.entry_id,
                    account_id=entry.grant.account_id,
                    change=entry.change,
                    source=entry.grant.source,
                    delta=entry.delta,
                ):
                    copy.write_row(
                        (
                            posting.transaction_id,
                            posting.posting_number,
                            posting.ledger_account,
                            posting.account_id,
                            posting.amount.minor_units,
                            posting.amount.currency,
                            entry.entry_id,
                            now.astimezone(UTC).date(),
                        )
                    )
