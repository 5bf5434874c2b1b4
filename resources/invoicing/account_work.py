"""One transaction on the invoices of one account: under its lock, compiled when it begins, and again before it commits.

The steps of which every change of an account's invoices is made. Not here: which step may be asked for by whom (invoice_store,
added_store).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import psycopg

from billing_pipeline.catalog import Catalog
from billing_pipeline.errors import BillingError
from billing_pipeline.invoicing.as_charged import as_charged
from billing_pipeline.invoicing.items import CompiledInvoice, InvoiceKey
from billing_pipeline.invoicing.policy import InvoicingPolicy
from billing_pipeline.invoicing.states import InvoiceState, refuse_unless
from resources.database import Database
from resources.invoicing.completeness import read_incomplete
from resources.invoicing.credit_notes import Series, take_number
from resources.invoicing.drafts import draft_accounts, draft_row, lock_of
from resources.invoicing.invoice_events import Hold, append_event, read_holds
from resources.invoicing.invoice_rows import (
    InvoiceRow,
    InvoiceUnknownError,
    month_of,
    newest_issue,
    read_compiled,
    read_invoice_rows,
    write_items,
)
from resources.invoicing.known_catalog import known_catalog

_NOTHING = "nothing was changed"


class InvoiceIncompleteError(BillingError):
    """The invoice's period is not whole, and nobody has let it through."""


class InvoiceHeldError(BillingError):
    """A person holds the invoice."""


class InvoiceElsewhereError(BillingError):
    """The period's invoice is final already, as another invoice at Stripe."""


class InvoiceCreditedError(BillingError):
    """An invoice on which money was given back cannot be made void."""


class InvoiceUncompilableError(BillingError):
    """The books of an account do not make invoices."""


@contextmanager
def account_work(
    database: Database, policy: InvoicingPolicy, account_id: str, *, as_of: datetime
) -> Iterator["AccountWork"]:
    """Open a transaction on one account's invoices under its lock: compiled when it begins, and again before it commits."""
    with database.transaction(lock_of(account_id)) as connection:
        work = AccountWork(connection, known_catalog(connection), policy, account_id, as_of)
        work.compile()
        yield work
        work.compile()


@dataclass(frozen=True, slots=True)
class AccountWork:
    """What is done with the invoices of one account in one transaction."""

    connection: psycopg.Connection
    catalog: Catalog
    policy: InvoicingPolicy
    account_id: str
    as_of: datetime

    def compile(self) -> None:
        """Bring the drafts up to date.

        Raises:
            InvoiceUncompilableError: the account's books do not make invoices.
        """
        done = draft_accounts(self.connection, self.catalog, [self.account_id], policy=self.policy, as_of=self.as_of)
        if done.failed:
            raise InvoiceUncompilableError(
                f"the invoices of account {self.account_id!r} cannot be compiled: {done.failed[self.account_id]}",
                bill=_NOTHING,
                fix="correct what the message names, then repeat the command",
            )

    def invoice(self, invoice_id: UUID) -> InvoiceRow:
        """Return the invoice as it is now.

        Raises:
            InvoiceUnknownError: it has no line any more.
        """
        rows = read_invoice_rows(self.connection, "invoice_id = %(id)s", {"id": invoice_id})
        if not rows:
            raise InvoiceUnknownError(
                f"invoice {str(invoice_id)[:8]} has no line any more: there is nothing to invoice",
                bill=_NOTHING,
                fix="see the account's open invoices with `billing invoices`",
            )
        return rows[0]

    def draft(self, invoice_id: UUID) -> InvoiceRow:
        """Return the invoice, which must be a draft.

        Raises:
            InvoiceUnknownError, InvoiceStateError: see there.
        """
        row = self.invoice(invoice_id)
        refuse_unless(row.state, InvoiceState.DRAFT, invoice=row.name)
        return row

    def lines(self, row: InvoiceRow) -> CompiledInvoice:
        """Return the invoice with its lines."""
        return read_compiled(self.connection, [row])[row.invoice_id]

    def by_external_id(self, external_id: str) -> InvoiceRow | None:
        """Return the invoice that is `external_id` at Stripe."""
        rows = read_invoice_rows(self.connection, "external_id = %(id)s", {"id": external_id})
        return rows[0] if rows else None

    def refuse_unready(self, row: InvoiceRow, *, now: datetime) -> None:
        """Let pass what may become final.

        Raises:
            InvoiceHeldError, InvoiceIncompleteError: see there.
        """
        hold = read_holds(self.connection, [row.invoice_id]).get(row.invoice_id, Hold(is_held=False))
        if hold.is_held:
            raise InvoiceHeldError(
                f"invoice {row.name} of account {row.key.account_id!r} is held by {hold.by}: {hold.reason}",
                bill="it stays a draft and goes on following the books",
                fix=f"release it with `billing release-invoice {row.name} --reason …`",
            )
        incomplete = read_incomplete(self.connection, self.catalog, row.key, now=now)
        if incomplete.problems and hold.let_through != incomplete.digest:
            missing = "".join(f"\n    - {problem}" for problem in incomplete.problems)
            raise InvoiceIncompleteError(
                f"the period of invoice {row.name} of account {row.key.account_id!r} is not whole:{missing}",
                bill="it stays a draft and goes on following the books",
                fix="bring the days up to date with `billing materialize`, or let it become final as it is with "
                f"`billing release-invoice {row.name} --reason …`",
            )

    def recorded(
        self,
        key: InvoiceKey,
        *,
        external_id: str,
        finalized_at: datetime,
        held: Mapping[str, int] | None,
        now: datetime,
    ) -> InvoiceRow:
        """Return the period's invoice, made final as Stripe has it."""
        known = self.by_external_id(external_id)
        if known is not None:
            return known
        newest = newest_issue(self.connection, key.account_id, key.subscription_id, key.period)
        if newest is not None and newest.state is InvoiceState.FINAL:
            raise InvoiceElsewhereError(
                f"the invoice of account {key.account_id!r} for {key.period.start:%Y-%m-%d} is final as {newest.name} "
                f"({newest.external_id or 'not at Stripe'}) and cannot be {external_id} too",
                bill="nothing was changed; what Stripe charges by the other one is in no books here",
                fix="void one of the two, or record the earlier one as an invoice in mid-period",
            )
        if newest is not None:
            refuse_unless(newest.state, InvoiceState.FINAL, invoice=newest.name)
        row = newest or self._empty(key, now)
        charged = self.lines(row)
        detail: dict[str, str] = {"external_id": external_id}
        if held is not None:
            found = as_charged(charged, held)
            charged = found.invoice
            if found.unknown:
                detail["unknown"] = ", ".join(found.unknown)
        incomplete = read_incomplete(self.connection, self.catalog, row.key, now=now)
        if incomplete.problems:
            detail["missing"] = "; ".join(incomplete.problems)
        self.make_final(
            row,
            charged,
            actor="stripe",
            reason="final at Stripe",
            finalized_at=finalized_at,
            now=now,
            external_id=external_id,
            detail=detail,
        )
        return row

    def _empty(self, key: InvoiceKey, now: datetime) -> InvoiceRow:
        """Open a period of which nothing is to be charged."""
        first = InvoiceKey(account_id=key.account_id, subscription_id=key.subscription_id, period=key.period)
        self._insert_draft(first, now)
        return self.invoice(first.invoice_id)

    def _insert_draft(self, key: InvoiceKey, now: datetime) -> None:
        account = self.catalog.account(key.account_id)
        empty = CompiledInvoice(key=key, currency=account.currency, items=())
        with self.connection.cursor() as cursor, cursor.copy("copy invoicing.draft_invoice from stdin") as copy:
            copy.write_row(draft_row(empty, zone=account.time_zone, as_of=now))

    def make_final(
        self,
        row: InvoiceRow,
        invoice: CompiledInvoice,
        *,
        actor: str,
        reason: str,
        finalized_at: datetime,
        now: datetime,
        external_id: str | None = None,
        detail: Mapping[str, str] | None = None,
    ) -> None:
        """Write the draft as a final invoice with the next number."""
        number = self.policy.invoice_number(take_number(self.connection, Series.INVOICE))
        key = invoice.key
        self.connection.execute("delete from invoicing.draft_invoice where invoice_id = %s", [row.invoice_id])
        self.connection.execute(
            """
            insert into invoicing.final_invoice (
                invoice_id, account_id, subscription_id, period_start, period_end, issue, month, currency, item_count,
                total_minor, items_digest, number, external_id, finalized_by, finalized_at
            )
            values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            """,
            [
                row.invoice_id,
                key.account_id,
                key.subscription_id,
                key.period.start,
                key.period.end,
                key.issue,
                month_of(key.period, self.catalog.account(key.account_id).time_zone),
                invoice.currency,
                len(invoice.items),
                invoice.total.minor_units,
                invoice.digest,
                number,
                external_id,
                actor,
                finalized_at,
            ],
        )
        write_items(self.connection, "invoicing.final_item", [invoice])
        said = {"number": number, "total": str(invoice.total), **(detail or {})}
        self.event(row, "finalized", actor=actor, reason=reason, now=now, detail=said)

    def refuse_credited(self, row: InvoiceRow) -> None:
        """Let pass an invoice on which nothing was given back.

        Raises:
            InvoiceCreditedError: see there.
        """
        notes = self.connection.execute(
            "select number from invoicing.credit_note where invoice_id = %s order by number", [row.invoice_id]
        ).fetchall()
        if notes:
            raise InvoiceCreditedError(
                f"invoice {row.name} has the credit notes {', '.join(number for (number,) in notes)}",
                bill="it stays final, and the credit notes stay",
                fix=f"give back the rest with `billing credit-note {row.name}`",
            )

    def make_void(self, row: InvoiceRow, *, actor: str, reason: str, now: datetime) -> None:
        """Write that a final invoice is void."""
        self.connection.execute(
            "insert into invoicing.voided_invoice (invoice_id, actor, reason, voided_at) values (%s, %s, %s, %s)",
            [row.invoice_id, actor, reason, now],
        )
        self.event(row, "voided", actor=actor, reason=reason, now=now)

    def issue_again(self, row: InvoiceRow, *, actor: str, reason: str, now: datetime) -> InvoiceRow:
        """Open the next issue of the invoice, compile it, and return it."""
        key = InvoiceKey(
            account_id=row.key.account_id,
            subscription_id=row.key.subscription_id,
            period=row.key.period,
            issue=row.key.issue + 1,
        )
        self._insert_draft(key, now)
        self.compile()
        again = self.invoice(key.invoice_id)
        self.event(again, "reissued", actor=actor, reason=reason, now=now, detail={"after": row.name})
        return again

    def event(
        self,
        row: InvoiceRow,
        kind: str,
        *,
        actor: str,
        reason: str,
        now: datetime,
        detail: Mapping[str, str] | None = None,
    ) -> None:
        """Append a step to the invoice's trail."""
        append_event(
            self.connection,
            invoice_id=row.invoice_id,
            account_id=row.key.account_id,
            kind=kind,
            actor=actor,
            reason=reason,
            now=now,
            detail=detail,
        )
