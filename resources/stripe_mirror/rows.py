"""Write what was fetched of Stripe into the mirror, each object whole, and never an older answer over a newer one.

`Fetch.number` is taken before the request is sent. Objects are locked by name in the transaction (`locks`), so that a row and
the note that it is deleted cannot pass each other. Columns are named as the records' fields. Not here: what it means (settle).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from billing_pipeline.stripe_events.envelope import ObjectKind
from billing_pipeline.stripe_events.objects import (
    InvoiceStatus,
    MeterReport,
    StripeCreditNote,
    StripeCustomer,
    StripeInvoice,
    StripeInvoiceLine,
    StripePayment,
    StripeSubscription,
)
from resources.database import Database
from resources.stripe_mirror.inbox import StripeObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """One asking of Stripe: its place in the order of all of them, and when it was, by our clock."""

    number: int
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedInvoice:
    """An invoice with all of its lines and payments."""

    invoice: StripeInvoice
    lines: tuple[StripeInvoiceLine, ...]
    payments: tuple[StripePayment, ...]


Fetched = StripeCustomer | StripeSubscription | FetchedInvoice | StripeCreditNote

_DELETABLE = (ObjectKind.INVOICE, ObjectKind.SUBSCRIPTION, ObjectKind.CREDIT_NOTE)
# A draft cannot be what an invoice becomes: effects.may_follow, in SQL.
_MAY_FOLLOW = "excluded.status <> 'draft' or invoice.status in ('draft', 'deleted')"


def begin_fetch(database: Database, *, now: datetime) -> Fetch:
    """Return the number for a fetch that is about to begin."""
    with database.transaction() as connection:
        return next_fetch(connection, now=now)


def next_fetch(connection: psycopg.Connection, *, now: datetime) -> Fetch:
    """Return the number for a fetch that is about to begin."""
    row = connection.execute("select nextval('stripe.fetch_number')").fetchone()
    assert row is not None
    return Fetch(number=row[0], at=now)


def locks(subjects: Iterable[StripeObject]) -> tuple[str, ...]:
    """Return the names of the locks under which these objects are written."""
    return tuple(f"stripe/{subject.kind.value}|{subject.object_id}" for subject in subjects)


def subject_of(fetched: Fetched) -> StripeObject:
    """Return which object this is."""
    match fetched:
        case StripeCustomer(customer_id=object_id):
            return StripeObject(ObjectKind.CUSTOMER, object_id)
        case StripeSubscription(subscription_id=object_id):
            return StripeObject(ObjectKind.SUBSCRIPTION, object_id)
        case FetchedInvoice(invoice=invoice):
            return StripeObject(ObjectKind.INVOICE, invoice.invoice_id)
        case StripeCreditNote(credit_note_id=object_id):
            return StripeObject(ObjectKind.CREDIT_NOTE, object_id)


def write(connection: psycopg.Connection, fetched: Fetched, fetch: Fetch) -> bool:
    """Write an object, unless what is known of it was asked for later. Returns whether it was written."""
    if _is_deleted(connection, subject_of(fetched), fetch):
        return False
    match fetched:
        case StripeCustomer():
            return _upsert(connection, "customer", "customer_id", _columns(fetched), fetch)
        case StripeSubscription():
            return _write_subscription(connection, fetched, fetch)
        case FetchedInvoice():
            return _write_invoice(connection, fetched, fetch)
        case StripeCreditNote():
            return _upsert(connection, "credit_note", "credit_note_id", _columns(fetched), fetch)


def write_deleted(connection: psycopg.Connection, subject: StripeObject, fetch: Fetch) -> None:
    """Note that Stripe has an object no more; what it was stays in the mirror."""
    if subject.kind not in _DELETABLE:
        return
    connection.execute(
        """
        insert into stripe.deleted_object (object_kind, object_id, seen_at, fetch_number) values (%s, %s, %s, %s)
        on conflict (object_kind, object_id) do update set
            seen_at = excluded.seen_at, fetch_number = excluded.fetch_number
        where deleted_object.fetch_number < excluded.fetch_number
        """,
        [subject.kind.value, subject.object_id, fetch.at, fetch.number],
    )
    statements = {
        ObjectKind.INVOICE: "update stripe.invoice set status = 'deleted', fetched_at = %s, fetch_number = %s"
        " where invoice_id = %s and status <> 'deleted' and fetch_number < %s",
        ObjectKind.SUBSCRIPTION: "update stripe.subscription set status = 'deleted', fetched_at = %s, fetch_number = %s"
        " where subscription_id = %s and status <> 'deleted' and fetch_number < %s",
        ObjectKind.CREDIT_NOTE: "update stripe.credit_note set status = 'deleted', fetched_at = %s, fetch_number = %s"
        " where credit_note_id = %s and status <> 'deleted' and fetch_number < %s",
    }
    connection.execute(statements[subject.kind], [fetch.at, fetch.number, subject.object_id, fetch.number])


def write_meter_report(connection: psycopg.Connection, report: MeterReport, *, reported_at: datetime) -> None:
    """Keep what a report says, once."""
    with connection.cursor() as cursor:
        cursor.executemany(
            """
            insert into stripe.meter_error (
                event_id, code, event_type, meter_id, window_start, window_end, error_count, identifiers, reported_at
            )
            values (%s, %s, %s, %s, %s, %s, %s, %s, %s)
            on conflict do nothing
            """,
            [
                (
                    report.event_id,
                    error.code,
                    report.event_type,
                    report.meter_id,
                    report.window_start,
                    report.window_end,
                    error.error_count,
                    list(error.identifiers),
                    reported_at,
                )
                for error in report.errors
            ],
        )


def _is_deleted(connection: psycopg.Connection, subject: StripeObject, fetch: Fetch) -> bool:
    """Return whether a fetch that began after this one has found the object gone."""
    found = connection.execute(
        "select from stripe.deleted_object where object_kind = %s and object_id = %s and fetch_number > %s",
        [subject.kind.value, subject.object_id, fetch.number],
    )
    return found.fetchone() is not None


def _write_subscription(connection: psycopg.Connection, subscription: StripeSubscription, fetch: Fetch) -> bool:
    columns = _columns(subscription, without="items")
    if not _upsert(connection, "subscription", "subscription_id", columns, fetch):
        return False
    key = subscription.subscription_id
    _replace(connection, "subscription_item", {"subscription_id": key}, subscription.items)
    return True


def _write_invoice(connection: psycopg.Connection, fetched: FetchedInvoice, fetch: Fetch) -> bool:
    columns = _columns(fetched.invoice)
    if not _upsert(connection, "invoice", "invoice_id", columns, fetch, guard=_MAY_FOLLOW):
        return False
    key = fetched.invoice.invoice_id
    _replace(connection, "invoice_line", {"invoice_id": key}, fetched.lines)
    _replace(connection, "payment", {"invoice_id": key}, fetched.payments)
    return True


def _columns(record: Any, *, without: str = "") -> dict[str, Any]:
    return {field.name: _value(getattr(record, field.name)) for field in fields(record) if field.name != without}


def _value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Jsonb(dict(value))
    return value.value if isinstance(value, InvoiceStatus) else value


def _upsert(
    connection: psycopg.Connection, table: str, key: str, columns: Mapping[str, Any], fetch: Fetch, guard: str = "true"
) -> bool:
    named = {**columns, "fetched_at": fetch.at, "fetch_number": fetch.number}
    others = [name for name in named if name != key]
    statement = sql.SQL(
        "insert into stripe.{table} ({columns}) values ({values}) on conflict ({key}) do update set {assignments}"
        " where {table}.fetch_number < excluded.fetch_number and ({guard})"
    ).format(
        table=sql.Identifier(table),
        columns=sql.SQL(", ").join(map(sql.Identifier, named)),
        values=sql.SQL(", ").join(map(sql.Placeholder, named)),
        key=sql.Identifier(key),
        assignments=sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in others),
        guard=sql.SQL(guard),
    )
    return connection.execute(statement, named).rowcount == 1


def _replace(connection: psycopg.Connection, table: str, owner: Mapping[str, str], records: Sequence[Any]) -> None:
    ((name, key),) = owner.items()
    statement = sql.SQL("delete from stripe.{} where {} = %s").format(sql.Identifier(table), sql.Identifier(name))
    connection.execute(statement, [key])
    if not records:
        return
    rows = [{**owner, **_columns(record)} for record in records]
    insert = sql.SQL("insert into stripe.{} ({}) values ({})").format(
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, rows[0])),
        sql.SQL(", ").join(map(sql.Placeholder, rows[0])),
    )
    with connection.cursor() as cursor:
        cursor.executemany(insert, rows)
