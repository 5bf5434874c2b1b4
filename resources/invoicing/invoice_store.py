"""Invoices of one database: compile drafts, make them final, void them, issue a period again; holds and releases.

Whatever changes an account's invoices runs in one transaction under the account's lock, compiles first and compiles again at the
end: a final invoice is what its draft would say at that moment, and the next draft takes up what is left. Stripe's word that
an invoice is final or void is taken as it is. Not here: the rules (billing_pipeline.invoicing), what people add (added_store).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from billing_pipeline.catalog import Catalog
from billing_pipeline.invoicing.compile import Compilation, compile_account
from billing_pipeline.invoicing.items import CompiledInvoice, InvoiceKey
from billing_pipeline.invoicing.policy import InvoicingPolicy
from billing_pipeline.invoicing.states import InvoiceState, InvoiceStateError, refuse_unless, refuse_unless_void
from billing_pipeline.periods import Window
from resources.database import Database
from resources.invoicing.account_books import read_books
from resources.invoicing.account_work import AccountWork, InvoiceHeldError, InvoiceIncompleteError, account_work
from resources.invoicing.completeness import Incomplete, read_incomplete
from resources.invoicing.credit_notes import take_back_notes
from resources.invoicing.drafts import PIPELINE, Drafted, by_lock, draft_accounts
from resources.invoicing.invoice_events import Hold, read_holds
from resources.invoicing.invoice_rows import (
    InvoiceRow,
    InvoiceUnknownError,
    find_invoice,
    newest_issue,
    read_compiled,
    read_invoice_rows,
)
from resources.invoicing.known_catalog import known_catalog

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class InvoiceStore:
    """The invoices of one database."""

    database: Database
    policy: InvoicingPolicy = field(default_factory=InvoicingPolicy)

    def compile_invoices(
        self, *, as_of: datetime, accounts: Sequence[str] | None = None, on_progress: Progress | None = None
    ) -> Drafted:
        """Bring the drafts of `accounts`, or of all, up to date with the books. Again: nothing is written.

        Final invoices are never touched: what the books say differently by now is a line of the next draft, or is credited.

        Raises:
            CatalogNotLoadedError: there is no catalog.
        """
        with self.database.reading() as connection:
            catalog = known_catalog(connection)
        wanted = by_lock(catalog.accounts if accounts is None else accounts)
        done = Drafted()
        compiled, in_all = 0, sum(len(some) for some in wanted.values())
        for lock, some in wanted.items():
            if on_progress is not None:
                on_progress("compiling", compiled, in_all)
            with self.database.transaction(lock) as connection:
                done.add(draft_accounts(connection, catalog, some, policy=self.policy, as_of=as_of))
            compiled += len(some)
        if on_progress is not None:
            on_progress("compiling", in_all, in_all)
        return done

    def preview(self, account_id: str, *, as_of: datetime) -> Compilation:
        """Return the account's open invoices as they would be compiled now, writing nothing.

        Raises:
            UnknownEntryError: the catalog has no such account.
        """
        with self.database.reading() as connection:
            catalog = known_catalog(connection)
            catalog.account(account_id)
            book = read_books(connection, catalog, [account_id], as_of=as_of)[account_id]
        return compile_account(book, policy=self.policy, as_of=as_of)

    def zone_of(self, account_id: str) -> str:
        """Return the account's time zone.

        Raises:
            UnknownEntryError: the catalog has no such account.
        """
        with self.database.reading() as connection:
            return known_catalog(connection).account(account_id).time_zone

    def find(self, name: str) -> InvoiceRow:
        """Return the invoice of that number, of that id or its first digits (four at least), or of that id at Stripe.

        Raises:
            InvoiceUnknownError: there is none, or several begin so.
        """
        with self.database.reading() as connection:
            return find_invoice(connection, name)

    def newest(self, account_id: str, subscription_id: str | None, period: Window) -> InvoiceRow | None:
        """Return the newest issue of a period's invoice, None where it was never compiled."""
        with self.database.reading() as connection:
            return newest_issue(connection, account_id, subscription_id, period)

    def compiled(self, invoice: InvoiceRow) -> CompiledInvoice:
        """Return the invoice with its lines, as it is kept."""
        with self.database.reading() as connection:
            return read_compiled(connection, [invoice])[invoice.invoice_id]

    def open_invoices(self, accounts: Sequence[str] | None = None) -> tuple[tuple[InvoiceRow, CompiledInvoice], ...]:
        """Return the drafts of `accounts`, or of all, with their lines: what is to be at Stripe."""
        condition = "state = 'draft'" + ("" if accounts is None else " and account_id = any(%(accounts)s)")
        with self.database.reading() as connection:
            rows = read_invoice_rows(connection, condition, {"accounts": list(accounts or ())})
            lines = read_compiled(connection, rows)
        return tuple((row, lines[row.invoice_id]) for row in rows)

    def holds(self, invoice_ids: Sequence[UUID]) -> Mapping[UUID, Hold]:
        """Return who holds or has let through which of these invoices; absent: nobody."""
        with self.database.reading() as connection:
            return read_holds(connection, invoice_ids)

    def incomplete(self, invoice: InvoiceRow, *, now: datetime) -> Incomplete:
        """Return what is missing in the invoice's period."""
        with self.database.reading() as connection:
            return read_incomplete(connection, known_catalog(connection), invoice.key, now=now)

    def finalize(self, name: str, *, actor: str, reason: str, now: datetime) -> InvoiceRow:
        """Make a draft final, as its books stand now, and give it a number; one that is final stays as it is.

        Raises:
            InvoiceUnknownError: no such invoice, or one without any line.
            InvoiceStateError: it is void.
            InvoiceHeldError: a person holds it. InvoiceIncompleteError: its period is not whole, and nobody let it through.
        """
        found = self.find(name)
        with self._account(found.key.account_id, as_of=now) as work:
            row = work.invoice(found.invoice_id)
            if refuse_unless(row.state, InvoiceState.FINAL, invoice=row.name):
                work.refuse_unready(row, now=now)
                work.make_final(row, work.lines(row), actor=actor, reason=reason, finalized_at=now, now=now)
            return work.invoice(found.invoice_id)

    def finalize_due(self, *, now: datetime) -> tuple[InvoiceRow, ...]:
        """Make final what the policy says: whole, not held, its period ended long enough ago, and not billed by Stripe.

        Returns what became final by this call; nothing where the policy leaves it to people.
        """
        if self.policy.finalize_after is None:
            return ()
        with self.database.reading() as connection:
            catalog = known_catalog(connection)
            rows = read_invoice_rows(
                connection,
                "state = 'draft' and period_end <= %(before)s and item_count > 0",
                {"before": now - self.policy.finalize_after},
            )
        by_account: dict[str, list[InvoiceRow]] = {}
        for row in rows:
            if not _is_at_stripe(catalog, row.key):
                by_account.setdefault(row.key.account_id, []).append(row)
        return tuple(
            row for account_id, found in by_account.items() for row in self._finalize_due(account_id, found, now)
        )

    def _finalize_due(self, account_id: str, rows: Sequence[InvoiceRow], now: datetime) -> Iterator[InvoiceRow]:
        """Make an account's invoices final that are ready, in order of their periods: each takes up what the one before left."""
        with self._account(account_id, as_of=now) as work:
            done = []
            for row in rows:
                try:
                    draft = work.draft(row.invoice_id)
                    work.refuse_unready(draft, now=now)
                except (InvoiceHeldError, InvoiceIncompleteError, InvoiceStateError, InvoiceUnknownError):
                    continue
                lines = work.lines(draft)
                reason = "its period is over and whole"
                work.make_final(draft, lines, actor=PIPELINE, reason=reason, finalized_at=now, now=now)
                work.compile()
                done.append(work.invoice(row.invoice_id))
        yield from done

    def record_finalized(
        self,
        key: InvoiceKey,
        *,
        external_id: str,
        finalized_at: datetime,
        held: Mapping[str, int] | None,
        now: datetime,
    ) -> InvoiceRow:
        """Write that Stripe made the period's invoice final; again: nothing. Guards and holds are not asked: it is a fact.

        `key`: account, subscription and period; its issue is not looked at. `held`: item key -> amount in Stripe's units of our
        lines on it, from a read-back; None: as compiled. What Stripe did not charge for is on the next draft.

        Raises:
            InvoiceElsewhereError: the period's invoice is final already and is another one at Stripe.
            InvoiceStateError: it is void, and was not issued again.
        """
        with self._account(key.account_id, as_of=now) as work:
            row = work.recorded(key, external_id=external_id, finalized_at=finalized_at, held=held, now=now)
            return work.invoice(row.invoice_id)

    def record_interim(
        self, key: InvoiceKey, *, external_id: str, finalized_at: datetime, held: Mapping[str, int], now: datetime
    ) -> InvoiceRow:
        """Write that an invoice of Stripe in mid-period has charged some of our lines; the period's invoice stays open.

        What is still to be charged is the next issue of the period's invoice, with lines of its own. Raises as `record_finalized`.
        """
        with self._account(key.account_id, as_of=now) as work:
            known = work.by_external_id(external_id)
            if known is not None:
                return known
            row = work.recorded(key, external_id=external_id, finalized_at=finalized_at, held=held, now=now)
            work.issue_again(row, actor=PIPELINE, reason=f"the period of {external_id} goes on", now=now)
            return work.invoice(row.invoice_id)

    def void(self, name: str, *, actor: str, reason: str, now: datetime) -> InvoiceRow:
        """Make a final invoice void: it counts no more, and its number stays taken. One that is void stays as it is.

        Nothing of it is charged until `reissue`.

        Raises:
            InvoiceUnknownError, InvoiceStateError: no such invoice, or a draft.
            InvoiceCreditedError: money was given back on it.
        """
        found = self.find(name)
        with self._account(found.key.account_id, as_of=now) as work:
            row = work.invoice(found.invoice_id)
            if refuse_unless(row.state, InvoiceState.VOID, invoice=row.name):
                work.refuse_credited(row)
                work.make_void(row, actor=actor, reason=reason, now=now)
            return work.invoice(found.invoice_id)

    def record_voided(self, external_id: str, *, reason: str, now: datetime) -> InvoiceRow | None:
        """Write that Stripe made an invoice void; again: nothing. None where the invoice was never recorded here.

        Credit notes on it count no more; what a person had given back by them is taken back in the ledger.
        """
        with self.database.reading() as connection:
            rows = read_invoice_rows(connection, "external_id = %(id)s", {"id": external_id})
        if not rows:
            return None
        with self._account(rows[0].key.account_id, as_of=now) as work:
            row = work.invoice(rows[0].invoice_id)
            if refuse_unless(row.state, InvoiceState.VOID, invoice=row.name):
                take_back_notes(work.connection, row.invoice_id, now=now)
                work.make_void(row, actor="stripe", reason=reason, now=now)
            return work.invoice(row.invoice_id)

    def reissue(self, name: str, *, actor: str, reason: str, now: datetime) -> InvoiceRow:
        """Open the period of a void invoice again, and return its new draft; where it is open already, that.

        Raises:
            InvoiceUnknownError: no such invoice. InvoiceStateError: it is not void.
        """
        found = self.find(name)
        with self._account(found.key.account_id, as_of=now) as work:
            key = found.key
            newest = newest_issue(work.connection, key.account_id, key.subscription_id, key.period)
            if newest is None:
                raise AssertionError("an invoice that was found is there")  # pragma: no cover
            if newest.state is InvoiceState.DRAFT and newest.key.issue > found.key.issue:
                return newest
            refuse_unless_void(newest.state, invoice=newest.name)
            return work.issue_again(newest, actor=actor, reason=reason, now=now)

    def hold(self, name: str, *, actor: str, reason: str, now: datetime) -> InvoiceRow:
        """Keep a draft from becoming final until it is released.

        Raises:
            InvoiceUnknownError: no such invoice. InvoiceStateError: it is no draft.
        """
        found = self.find(name)
        with self._account(found.key.account_id, as_of=now) as work:
            row = work.draft(found.invoice_id)
            work.event(row, "held", actor=actor, reason=reason, now=now)
            return row

    def release(self, name: str, *, actor: str, reason: str, now: datetime) -> tuple[InvoiceRow, Incomplete]:
        """Lift the hold of a draft, and let it become final with what is missing in its period now; return what that is.

        More that is missing later is not let through.

        Raises:
            InvoiceUnknownError: no such invoice. InvoiceStateError: it is no draft.
        """
        found = self.find(name)
        with self._account(found.key.account_id, as_of=now) as work:
            row = work.draft(found.invoice_id)
            incomplete = read_incomplete(work.connection, work.catalog, row.key, now=now)
            detail = {"problems": incomplete.digest, "missing": "; ".join(incomplete.problems)}
            work.event(row, "released", actor=actor, reason=reason, now=now, detail=detail)
            return row, incomplete

    @contextmanager
    def _account(self, account_id: str, *, as_of: datetime) -> Iterator[AccountWork]:
        with account_work(self.database, self.policy, account_id, as_of=as_of) as work:
            yield work


def _is_at_stripe(catalog: Catalog, key: InvoiceKey) -> bool:
    """Return whether the catalog leads the invoice to Stripe, which then makes it final."""
    account = catalog.accounts.get(key.account_id)
    subscription = catalog.subscriptions.get(key.subscription_id or "")
    return bool(account and account.stripe_customer) or bool(subscription and subscription.stripe_subscription)
