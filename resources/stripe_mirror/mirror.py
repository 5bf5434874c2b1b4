"""Read what Stripe holds of a customer from the mirror, fresh enough: asked for again after a while, or once an event came.

A hundred reads in a minute are one call; of readers at the same time one asks and the others wait a moment. When Stripe is
away, everybody gets what was known, with its age and the reason. Not here: what is shown of it (console).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg.rows import class_row, dict_row

from billing_pipeline.errors import BillingError
from billing_pipeline.stripe_events.envelope import ObjectKind
from billing_pipeline.stripe_events.objects import StripeInvoice
from resources.database import Database
from resources.stripe_mirror import rows
from resources.stripe_mirror.apply import write_fetched
from resources.stripe_mirror.fetching import fetch_object, whole_subscription
from resources.stripe_mirror.inbox import StripeObject
from resources.stripe_mirror.reads import StripeReads
from resources.stripe_mirror.refresh import refresh_invoices
from resources.stripe_mirror.rows import Fetch
from resources.stripe_mirror.settle import invoice_of

MAX_AGE = timedelta(seconds=60)
# Who found Stripe away does not ask again at once, and neither do others.
RETRY_AFTER = timedelta(seconds=15)
# Readers wait so long for one that asks already; then they take what is there.
_WAIT_MILLISECONDS = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Freshness:
    """When something was fetched last, None: never; and why not since, where that was tried in vain."""

    fetched_at: datetime | None
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MirroredCustomer:
    """A customer as last fetched."""

    customer_id: str
    is_deleted: bool
    currency: str | None
    balance_stripe_minor: int
    is_delinquent: bool
    fetched_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class MirroredSubscription:
    """A subscription as last fetched, with the period that its items are in: the earliest begin, the latest end."""

    subscription_id: str
    status: str
    currency: str
    cancel_at: datetime | None
    ended_at: datetime | None
    price_ids: Sequence[str]
    period_start: datetime | None
    period_end: datetime | None
    our_id: str | None
    fetched_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class MirroredInvoice:
    """An invoice as last fetched, with what its lines come to and how many of them are ours."""

    invoice: StripeInvoice
    line_count: int
    our_line_count: int
    lines_stripe_minor: int
    fetched_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerAtStripe:
    """All that is known of a customer, newest invoice first. `freshness` by kind."""

    customer: MirroredCustomer | None
    subscriptions: tuple[MirroredSubscription, ...]
    invoices: tuple[MirroredInvoice, ...]
    freshness: dict[ObjectKind, Freshness]


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeMirror:
    """Reads of one mirror. `reads` None: no key is set, so that nothing is ever asked for. `clock` is ours."""

    database: Database
    reads: StripeReads | None
    clock: Callable[[], datetime]
    max_age: timedelta = MAX_AGE

    def customer(self, customer_id: str) -> CustomerAtStripe:
        """Return everything that is known of a customer, asking Stripe for what is too old."""
        for kind in (ObjectKind.CUSTOMER, ObjectKind.SUBSCRIPTION, ObjectKind.INVOICE):
            self.freshen(customer_id, kind)
        return self.known(customer_id)

    def invoices(self, customer_id: str) -> tuple[MirroredInvoice, ...]:
        """Return a customer's invoices, newest first, asking Stripe when they are too old."""
        with self.database.reading() as connection:
            if not self._is_due(connection, customer_id, ObjectKind.INVOICE):
                return tuple(_invoices(connection, customer_id))
        self.freshen(customer_id, ObjectKind.INVOICE)
        with self.database.reading() as connection:
            return tuple(_invoices(connection, customer_id))

    def known(self, customer_id: str) -> CustomerAtStripe:
        """Return everything that is known of a customer, without asking Stripe."""
        with self.database.reading() as connection:
            return CustomerAtStripe(
                customer=_customer(connection, customer_id),
                subscriptions=_subscriptions(connection, customer_id),
                invoices=tuple(_invoices(connection, customer_id)),
                freshness={kind: _freshness(connection, customer_id, kind) for kind in _KINDS},
            )

    def freshen(self, customer_id: str, kind: ObjectKind) -> Freshness:
        """Ask Stripe for a customer's objects of a kind, unless what is known is fresh, or Stripe was away a moment ago.

        Never raises for Stripe's sake: what was in the way is in the answer.
        """
        with self.database.reading() as connection:
            found = _freshness(connection, customer_id, kind)
            if not self._is_due(connection, customer_id, kind):
                return found
        if self.reads is None:
            return found
        with self.database.transaction() as connection:
            connection.execute(f"set local lock_timeout = {_WAIT_MILLISECONDS}".encode())
            try:
                connection.execute(
                    "select pg_advisory_xact_lock(hashtextextended(%s, 0))",
                    [f"stripe/refresh|{kind.value}|{customer_id}"],
                )
            except psycopg.errors.LockNotAvailable:
                connection.rollback()
                return found
            if self._is_due(connection, customer_id, kind):
                self._fetch(connection, customer_id, kind, self.reads)
            return _freshness(connection, customer_id, kind)

    def _is_due(self, connection: psycopg.Connection, customer_id: str, kind: ObjectKind) -> bool:
        now = self.clock()
        row = connection.execute(
            "select fetched_at, failed_at from stripe.refresh where customer_id = %s and object_kind = %s",
            [customer_id, kind.value],
        ).fetchone()
        fetched_at, failed_at = row or (None, None)
        if failed_at is not None and now - failed_at < RETRY_AFTER:
            return False
        if fetched_at is None or now - fetched_at >= self.max_age:
            return True
        return _has_event_since(connection, customer_id, kind, fetched_at)

    def _fetch(self, connection: psycopg.Connection, customer_id: str, kind: ObjectKind, reads: StripeReads) -> None:
        fetch = rows.next_fetch(connection, now=self.clock())
        try:
            match kind:
                case ObjectKind.CUSTOMER:
                    found = fetch_object(reads, StripeObject(kind, customer_id))
                    write_fetched(self.database, [found] if found else [], fetch)
                case ObjectKind.SUBSCRIPTION:
                    listed = reads.list_subscriptions(customer=customer_id)
                    write_fetched(self.database, [whole_subscription(reads, one) for one in listed], fetch)
                case _:
                    listed = reads.list_invoices(customer=customer_id)
                    refresh_invoices(self.database, reads, fetch, listed, of_customer=customer_id)
        except BillingError as error:
            _write_refresh(connection, customer_id, kind, None, failed_at=self.clock(), problem=error.what)
        else:
            _write_refresh(connection, customer_id, kind, fetch, failed_at=None, problem=None)


_KINDS = (ObjectKind.CUSTOMER, ObjectKind.SUBSCRIPTION, ObjectKind.INVOICE)


def _has_event_since(connection: psycopg.Connection, customer_id: str, kind: ObjectKind, since: datetime) -> bool:
    """Return whether an event about a customer's objects of a kind came in after `since`; thin ones name no customer."""
    tables = {
        ObjectKind.INVOICE: "select invoice_id from stripe.invoice where customer_id = %(customer)s",
        ObjectKind.SUBSCRIPTION: "select subscription_id from stripe.subscription where customer_id = %(customer)s",
        ObjectKind.CUSTOMER: "select %(customer)s::text",
    }
    statement = f"""
        select from stripe.event
        where object_kind = %(kind)s and received_at > %(since)s
            and (customer_id = %(customer)s or object_id in ({tables[kind]}))
        limit 1
    """
    values = {"kind": kind.value, "since": since, "customer": customer_id}
    return connection.execute(statement.encode(), values).fetchone() is not None


def _freshness(connection: psycopg.Connection, customer_id: str, kind: ObjectKind) -> Freshness:
    row = connection.execute(
        "select fetched_at, problem from stripe.refresh where customer_id = %s and object_kind = %s",
        [customer_id, kind.value],
    ).fetchone()
    return Freshness(fetched_at=None, problem=None) if row is None else Freshness(fetched_at=row[0], problem=row[1])


def _write_refresh(
    connection: psycopg.Connection,
    customer_id: str,
    kind: ObjectKind,
    fetch: Fetch | None,
    *,
    failed_at: datetime | None,
    problem: str | None,
) -> None:
    connection.execute(
        """
        insert into stripe.refresh (customer_id, object_kind, fetched_at, fetch_number, failed_at, problem)
        values (%s, %s, %s, %s, %s, %s)
        on conflict (customer_id, object_kind) do update set
            fetched_at = coalesce(excluded.fetched_at, refresh.fetched_at),
            fetch_number = coalesce(excluded.fetch_number, refresh.fetch_number),
            failed_at = excluded.failed_at,
            problem = excluded.problem
        """,
        [
            customer_id,
            kind.value,
            None if fetch is None else fetch.at,
            None if fetch is None else fetch.number,
            failed_at,
            problem,
        ],
    )


def _customer(connection: psycopg.Connection, customer_id: str) -> MirroredCustomer | None:
    with connection.cursor(row_factory=class_row(MirroredCustomer)) as cursor:
        return cursor.execute(
            """
            select customer_id, is_deleted, currency, balance_stripe_minor, is_delinquent, fetched_at
            from stripe.customer
            where customer_id = %s
            """,
            [customer_id],
        ).fetchone()


def _subscriptions(connection: psycopg.Connection, customer_id: str) -> tuple[MirroredSubscription, ...]:
    with connection.cursor(row_factory=class_row(MirroredSubscription)) as cursor:
        cursor.execute(
            """
            select
                subscription_id, status, currency, cancel_at, ended_at,
                coalesce(array_agg(price_id order by item_id) filter (where price_id is not null), '{}') as price_ids,
                min(current_period_start) as period_start,
                max(current_period_end) as period_end,
                subscription.metadata ->> 'bp_subscription' as our_id,
                fetched_at
            from stripe.subscription
            left join stripe.subscription_item using (subscription_id)
            where customer_id = %s
            group by subscription_id
            order by started_at, subscription_id
            """,
            [customer_id],
        )
        return tuple(cursor)


def _invoices(connection: psycopg.Connection, customer_id: str) -> Iterator[MirroredInvoice]:
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            """
            select invoice.*, line_count, our_line_count, lines_stripe_minor
            from stripe.invoice
            left join lateral (
                select
                    count(*) as line_count,
                    count(*) filter (where metadata ? 'bp_key') as our_line_count,
                    coalesce(sum(amount_stripe_minor), 0)::bigint as lines_stripe_minor
                from stripe.invoice_line
                where invoice_line.invoice_id = invoice.invoice_id
            ) as lines on true
            where customer_id = %s
            order by created_at desc, invoice_id
            """,
            [customer_id],
        )
        for row in cursor:
            yield MirroredInvoice(
                invoice=invoice_of({name: row[name] for name in _INVOICE_COLUMNS}),
                line_count=row["line_count"],
                our_line_count=row["our_line_count"],
                lines_stripe_minor=row["lines_stripe_minor"],
                fetched_at=row["fetched_at"],
            )


_INVOICE_COLUMNS: Iterable[Any] = tuple(field.name for field in fields(StripeInvoice))
