"""Keep what was done to an invoice, by whom and why: an append-only trail. In the caller's transaction.

Whether an invoice is held, and what a person let through, is read from it. Not here: doing any of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceEvent:
    """One step. `kind`: held, released, finalized, voided, reissued, adjusted, one_off, credited, refused."""

    invoice_id: UUID
    account_id: str
    kind: str
    actor: str
    reason: str
    detail: Mapping[str, str]
    happened_at: datetime


def append_event(
    connection: psycopg.Connection,
    *,
    invoice_id: UUID,
    account_id: str,
    kind: str,
    actor: str,
    reason: str,
    now: datetime,
    detail: Mapping[str, str] | None = None,
) -> None:
    """Append a step to the trail of an invoice."""
    connection.execute(
        """
        insert into invoicing.invoice_event (invoice_id, account_id, kind, actor, reason, detail, happened_at)
        values (%s, %s, %s, %s, %s, %s, %s)
        """,
        [invoice_id, account_id, kind, actor, reason, Jsonb(dict(detail or {})), now],
    )


def read_events(connection: psycopg.Connection, invoice_id: UUID) -> tuple[InvoiceEvent, ...]:
    """Return the trail of an invoice, oldest first."""
    rows = connection.execute(
        """
        select invoice_id, account_id, kind, actor, reason, detail, happened_at
        from invoicing.invoice_event
        where invoice_id = %s
        order by event_id
        """,
        [invoice_id],
    )
    return tuple(
        InvoiceEvent(
            invoice_id=row[0],
            account_id=row[1],
            kind=row[2],
            actor=row[3],
            reason=row[4],
            detail=row[5],
            happened_at=row[6],
        )
        for row in rows
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Whether a person holds an invoice, and which problems a person has let through (a digest; empty: none)."""

    is_held: bool
    by: str = ""
    reason: str = ""
    let_through: str = ""


def read_holds(connection: psycopg.Connection, invoice_ids: Sequence[UUID]) -> Mapping[UUID, Hold]:
    """Return the holds of these invoices; absent: never held or released."""
    rows = connection.execute(
        """
        select distinct on (invoice_id) invoice_id, kind, actor, reason, detail ->> 'problems'
        from invoicing.invoice_event
        where invoice_id = any(%s) and kind in ('held', 'released')
        order by invoice_id, event_id desc
        """,
        [list(invoice_ids)],
    )
    return {
        invoice_id: Hold(
            is_held=kind == "held", by=actor, reason=reason, let_through="" if kind == "held" else problems or ""
        )
        for invoice_id, kind, actor, reason, problems in rows
    }
