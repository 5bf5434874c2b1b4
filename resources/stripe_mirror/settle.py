"""Do what mirrored invoices ask for: queue renewals, report payments, let our own invoices follow. Repeatable.

Works from the mirror's rows and everything that the inbox knows, not from the event at hand: settled again, nothing changes.
An invoice of a customer who is no account of ours is mirrored and left alone until the customer is linked. Not here: the
rules (stripe_events.effects), fetching.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import psycopg
from psycopg.rows import dict_row

from billing_pipeline.errors import BillingError
from billing_pipeline.stripe_events.effects import (
    RENEWAL_REASONS,
    Failure,
    PaymentFact,
    TrueUpState,
    concerns_sync,
    payment_facts,
    renewal_boundary,
    true_up_state,
    unseen_failure,
)
from billing_pipeline.stripe_events.envelope import PAYMENT_FAILED, ObjectKind
from billing_pipeline.stripe_events.objects import InvoiceStatus, StripeInvoice, StripeInvoiceLine
from resources import payment_store
from resources.database import Database
from resources.payment_store import PaymentEvent
from resources.stripe_mirror import changed_accounts, inbox, trueup_queue
from resources.stripe_mirror.links import stripe_links

# Held by every settling transaction: payments are reported in it.
LOCK = payment_store.LOCK
_AT_ONCE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """How many invoices were settled; by invoice, what was wrong with those that were not."""

    invoices: int
    failed: Mapping[str, str]


class InvoiceLife(Protocol):
    """Our own invoice, which follows Stripe's."""

    def follow(self, *, account_id: str, invoice: StripeInvoice, now: datetime) -> None:
        """Bring our invoice to the state of Stripe's, in transactions of its own; again: nothing."""


@dataclass(frozen=True, slots=True)
class NoInvoiceLife:
    """Nothing of ours follows."""

    def follow(self, *, account_id: str, invoice: StripeInvoice, now: datetime) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settler:
    """Acts on mirrored invoices. `renewal_reasons`: of which billing reasons drafts are brought up to date."""

    database: Database
    clock: Callable[[], datetime]
    life: InvoiceLife = field(default_factory=NoInvoiceLife)
    renewal_reasons: frozenset[str] = RENEWAL_REASONS

    def is_due(self) -> bool:
        """Return whether an invoice is to be settled now."""
        with self.database.reading() as connection:
            return bool(_unsettled(connection, _accounts(connection), self.clock(), limit=1))

    def settle_all(self) -> Settled:
        """Settle every invoice whose newest state, or account, has not been acted upon; one that fails waits by itself."""
        settled, failed = 0, dict[str, str]()
        with self.database.reading() as connection:
            accounts = _accounts(connection)
        while True:
            with self.database.reading() as connection:
                found = _unsettled(connection, accounts, self.clock(), limit=_AT_ONCE)
            if not found:
                return Settled(invoices=settled, failed=failed)
            try:
                self._settle(found, accounts)
            except BillingError:
                # One of them: each by itself, so that the others are settled.
                for invoice_id in found:
                    try:
                        self._settle([invoice_id], accounts)
                    except BillingError as error:
                        failed[invoice_id] = error.what
                        self._failed(invoice_id, error)
                    else:
                        settled += 1
            else:
                settled += len(found)

    def report_unseen_failures(self, *, feed_from: datetime) -> int:
        """Report payments that failed before `feed_from`, of open invoices of which no event was ever seen; return how many."""
        with self.database.transaction(LOCK) as connection:
            accounts = _accounts(connection)
            rows = connection.execute(
                """
                select invoice_id from stripe.invoice
                where status in ('open', 'uncollectible') and attempt_count > 0 and finalized_at < %s
                """,
                [feed_from],
            )
            invoice_ids = [invoice_id for (invoice_id,) in rows]
            failures = _failures(connection, invoice_ids)
            facts: list[tuple[str, PaymentFact]] = []
            for invoice in _invoices(connection, invoice_ids):
                account_id = accounts.get(invoice.customer_id)
                unseen = unseen_failure(invoice, failures.get(invoice.invoice_id, ()), feed_from=feed_from)
                if account_id is not None and unseen is not None:
                    facts.extend((account_id, fact) for fact in payment_facts(invoice, [unseen]))
            return _report(connection, facts, self.clock())

    def _settle(self, invoice_ids: Sequence[str], accounts: Mapping[str, str]) -> None:
        now = self.clock()
        with self.database.reading() as connection:
            found = _rows(connection, invoice_ids)
        for row in found:
            account_id = accounts.get(row["customer_id"])
            if account_id is not None:
                self.life.follow(account_id=account_id, invoice=invoice_of(row), now=now)
        with self.database.transaction(LOCK) as connection:
            lines = _lines(connection, invoice_ids)
            failures = _failures(connection, invoice_ids)
            facts: list[tuple[str, PaymentFact]] = []
            for row in found:
                invoice = invoice_of(row)
                account_id = accounts.get(invoice.customer_id)
                if account_id is not None:
                    its_lines = lines.get(invoice.invoice_id, ())
                    self._queue(connection, invoice, its_lines, account_id, now)
                    if concerns_sync(invoice, its_lines, self.renewal_reasons):
                        changed_accounts.put(connection, account_id, invoice.invoice_id, now=now)
                    known = failures.get(invoice.invoice_id, ())
                    facts.extend((account_id, fact) for fact in payment_facts(invoice, known))
                _write_settled(connection, invoice.invoice_id, row["fetch_number"], account_id, now)
            _report(connection, facts, now)

    def _failed(self, invoice_id: str, error: BillingError) -> None:
        now = self.clock()
        with self.database.transaction() as connection:
            connection.execute(
                """
                insert into stripe.settlement (invoice_id, attempts, not_before, problem, changed_at)
                values (%(invoice)s, 1, %(now)s + %(first)s, %(problem)s, %(now)s)
                on conflict (invoice_id) do update set
                    attempts = settlement.attempts + 1,
                    not_before = %(now)s + least(%(first)s * power(2, settlement.attempts), %(longest)s),
                    problem = excluded.problem,
                    changed_at = excluded.changed_at
                """,
                {
                    "invoice": invoice_id,
                    "now": now,
                    "first": inbox.FIRST_WAIT,
                    "longest": inbox.LONGEST_WAIT,
                    "problem": error.what,
                },
            )

    def _queue(
        self,
        connection: psycopg.Connection,
        invoice: StripeInvoice,
        lines: Sequence[StripeInvoiceLine],
        account_id: str,
        now: datetime,
    ) -> None:
        standing = trueup_queue.state_of(connection, invoice.invoice_id)
        state = true_up_state(invoice, standing, self.renewal_reasons)
        if state is None or invoice.subscription_id is None or standing is TrueUpState.DONE:
            # What is done stays done; a row that begins as done is none that the queue can take.
            return
        trueup_queue.put(
            connection,
            invoice_id=invoice.invoice_id,
            account_id=account_id,
            customer_id=invoice.customer_id,
            stripe_subscription_id=invoice.subscription_id,
            state=state,
            boundary_at=renewal_boundary(invoice, lines),
            now=now,
        )


def _accounts(connection: psycopg.Connection) -> Mapping[str, str]:
    """Return customer id -> account id, of the customers that are linked."""
    return {link.customer_id: link.account_id for link in stripe_links(connection).customers.values()}


def _unsettled(
    connection: psycopg.Connection, accounts: Mapping[str, str], now: datetime, *, limit: int
) -> tuple[str, ...]:
    rows = connection.execute(
        """
        select invoice_id
        from stripe.invoice
        left join stripe.settlement using (invoice_id)
        left join unnest(%(customers)s::text[], %(accounts)s::text[]) as link (customer_id, linked_id) using (customer_id)
        where (settlement.fetch_number is distinct from invoice.fetch_number or account_id is distinct from linked_id)
            and (not_before is null or not_before <= %(now)s)
        order by invoice_id
        limit %(limit)s
        """,
        {"customers": list(accounts), "accounts": list(accounts.values()), "now": now, "limit": limit},
    )
    return tuple(invoice_id for (invoice_id,) in rows)


def _write_settled(
    connection: psycopg.Connection, invoice_id: str, fetch_number: int, account_id: str | None, now: datetime
) -> None:
    connection.execute(
        """
        insert into stripe.settlement (invoice_id, fetch_number, account_id, changed_at) values (%s, %s, %s, %s)
        on conflict (invoice_id) do update set
            fetch_number = excluded.fetch_number,
            account_id = excluded.account_id,
            attempts = 0,
            not_before = null,
            problem = null,
            changed_at = excluded.changed_at
        """,
        [invoice_id, fetch_number, account_id, now],
    )


def _report(connection: psycopg.Connection, facts: Iterable[tuple[str, PaymentFact]], now: datetime) -> int:
    """Report what payments has not heard of, and return how much that is.

    What it knows stands, also where the customer pays for another account by now.
    """
    found = list(facts)
    reported = 0
    known = payment_store.known_payment_events(connection, [fact.event_id for _, fact in found])
    for account_id, fact in found:
        if fact.event_id not in known:
            event = PaymentEvent(
                event_id=fact.event_id,
                account_id=account_id,
                kind=fact.kind,
                happened_at=fact.happened_at,
                billing_reason=fact.billing_reason,
                invoice_id=fact.invoice_id,
            )
            payment_store.record_payment_event(connection, event, now=now)
            reported += 1
    return reported


def _rows(connection: psycopg.Connection, invoice_ids: Sequence[str]) -> list[dict[str, Any]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            "select * from stripe.invoice where invoice_id = any(%s) order by invoice_id", [list(invoice_ids)]
        )
        return cursor.fetchall()


def _invoices(connection: psycopg.Connection, invoice_ids: Sequence[str]) -> tuple[StripeInvoice, ...]:
    return tuple(invoice_of(row) for row in _rows(connection, invoice_ids))


def invoice_of(row: Mapping[str, Any]) -> StripeInvoice:
    """Return an invoice from a row of stripe.invoice."""
    values = {name: value for name, value in row.items() if name not in ("fetched_at", "fetch_number")}
    return StripeInvoice(**{**values, "status": InvoiceStatus(row["status"])})


def _lines(connection: psycopg.Connection, invoice_ids: Sequence[str]) -> Mapping[str, tuple[StripeInvoiceLine, ...]]:
    found: dict[str, list[StripeInvoiceLine]] = {}
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            "select * from stripe.invoice_line where invoice_id = any(%s) order by invoice_id, line_id",
            [list(invoice_ids)],
        )
        for row in cursor:
            invoice_id = row.pop("invoice_id")
            found.setdefault(invoice_id, []).append(StripeInvoiceLine(**row))
    return {invoice_id: tuple(lines) for invoice_id, lines in found.items()}


def _failures(connection: psycopg.Connection, invoice_ids: Sequence[str]) -> Mapping[str, tuple[Failure, ...]]:
    found: dict[str, list[Failure]] = {}
    rows = connection.execute(
        """
        select object_id, event_id, created_at
        from stripe.event
        where object_kind = %s and object_id = any(%s) and event_type = %s
        order by object_id, created_at, event_id
        """,
        [ObjectKind.INVOICE.value, list(invoice_ids), PAYMENT_FAILED],
    )
    for invoice_id, event_id, created_at in rows:
        found.setdefault(invoice_id, []).append(Failure(event_id=event_id, happened_at=created_at))
    return {invoice_id: tuple(failures) for invoice_id, failures in found.items()}
