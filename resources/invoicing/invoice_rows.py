"""Invoices and their lines as rows, both ways: tables draft_*, final_*, and the views over both. In the caller's transaction.

A line that groups others is a row, its parts are rows that name it. Not here: what an invoice says (compile), when it is written
(drafts, invoice_store).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

import psycopg

from billing_pipeline.amounts import Money
from billing_pipeline.errors import BillingError
from billing_pipeline.invoicing.items import CompiledInvoice, InvoiceItem, InvoiceKey, ItemKind
from billing_pipeline.invoicing.states import InvoiceState
from billing_pipeline.periods import Window

_ITEM_COLUMNS = (
    "invoice_id, item_key, position, part_of, part_count, kind, account_id, subscription_id, source_id, charge_id, corrects, "
    "period_start, period_end, amount_minor, currency, description, quantity_text, revision, source_digest, reason, by_meter"
)
_INVOICE_COLUMNS = (
    "invoice_id, account_id, subscription_id, period_start, period_end, issue, state, number, currency, item_count, total_minor, "
    "items_digest, external_id, as_of, finalized_at, voided_at"
)


class InvoiceUnknownError(BillingError):
    """No invoice has that number or id, or several have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceRow:
    """An invoice as it is kept, without its lines. `as_of`: when it was compiled, or became final. `external_id`: what it is at
    Stripe (in_...). `number` is None of a draft."""

    invoice_id: UUID
    key: InvoiceKey
    state: InvoiceState
    number: str | None
    total: Money
    item_count: int
    items_digest: str
    external_id: str | None
    as_of: datetime
    finalized_at: datetime | None
    voided_at: datetime | None

    @property
    def name(self) -> str:
        """Return what people call it: its number, or the first digits of its id."""
        return self.number or str(self.invoice_id)[:8]


def write_items(
    connection: psycopg.Connection,
    table: Literal["invoicing.draft_item", "invoicing.final_item"],
    invoices: Iterable[CompiledInvoice],
) -> None:
    """Append the lines of the invoices, by one statement."""
    with connection.cursor() as cursor, cursor.copy(f"copy {table} ({_ITEM_COLUMNS}) from stdin".encode()) as copy:
        for invoice in invoices:
            for row in _item_rows(invoice):
                copy.write_row(row)


def _item_rows(invoice: CompiledInvoice) -> Iterator[tuple[object, ...]]:
    position = 0
    for item in invoice.items:
        position += 1
        yield _item_row(invoice.invoice_id, item, position, None)
        for part in item.parts:
            position += 1
            yield _item_row(invoice.invoice_id, part, position, item.item_key)


def _item_row(invoice_id: UUID, item: InvoiceItem, position: int, part_of: str | None) -> tuple[object, ...]:
    return (
        invoice_id,
        item.item_key,
        position,
        part_of,
        len(item.parts),
        item.kind.value,
        item.account_id,
        item.subscription_id,
        item.source_id,
        item.charge_id,
        item.corrects,
        item.period.start,
        item.period.end,
        item.amount.minor_units,
        item.amount.currency,
        item.description,
        item.quantity_text,
        item.revision,
        item.source_digest,
        item.reason,
        item.by_meter,
    )


def month_of(period: Window, zone: str) -> date:
    """Return the first day of the month, in the account's zone, in which the period begins."""
    return period.start.astimezone(ZoneInfo(zone)).date().replace(day=1)


def read_invoice_rows(
    connection: psycopg.Connection, condition: str, parameters: Mapping[str, object]
) -> tuple[InvoiceRow, ...]:
    """Return the invoices that meet an SQL condition on view invoicing.invoice, by account, period and issue."""
    rows = connection.execute(
        f"""
        select {_INVOICE_COLUMNS}
        from invoicing.invoice
        where {condition}
        order by account_id, period_start, period_end, subscription_id nulls last, issue
        """.encode(),
        parameters,
    )
    return tuple(_invoice_row(row) for row in rows)


def _invoice_row(row: tuple[Any, ...]) -> InvoiceRow:
    invoice_id, account_id, subscription_id, start, end, issue, state, number, currency, item_count, total, *rest = row
    key = InvoiceKey(account_id=account_id, subscription_id=subscription_id, period=Window(start, end), issue=issue)
    return InvoiceRow(
        invoice_id=invoice_id,
        key=key,
        state=InvoiceState(state),
        number=number,
        total=Money(total, currency),
        item_count=item_count,
        items_digest=rest[0],
        external_id=rest[1],
        as_of=rest[2],
        finalized_at=rest[3],
        voided_at=rest[4],
    )


def find_invoice(connection: psycopg.Connection, name: str) -> InvoiceRow:
    """Return the invoice of that number, id, first digits of an id, or id at Stripe; raises as `InvoiceStore.find`."""
    wanted = name.strip()
    digits = wanted.lower().replace("-", "")
    rows = read_invoice_rows(connection, "number = %(name)s or external_id = %(name)s", {"name": wanted})
    if not rows and 4 <= len(digits) <= 32 and all(digit in "0123456789abcdef" for digit in digits):
        span = {"low": UUID(digits.ljust(32, "0")), "high": UUID(digits.ljust(32, "f"))}
        rows = read_invoice_rows(connection, "invoice_id between %(low)s and %(high)s", span)
    if len(rows) == 1:
        return rows[0]
    what = f"{len(rows)} invoices' ids begin with {name!r}" if rows else f"there is no invoice {name!r}"
    raise InvoiceUnknownError(
        what,
        bill="nothing was changed",
        fix="take a number such as INV-000012, or the first digits of an id, from `billing invoices`",
    )


def newest_issue(
    connection: psycopg.Connection, account_id: str, subscription_id: str | None, period: Window
) -> InvoiceRow | None:
    rows = read_invoice_rows(
        connection,
        "account_id = %(account)s and subscription_id is not distinct from %(subscription)s "
        "and period_start = %(start)s and period_end = %(end)s",
        {"account": account_id, "subscription": subscription_id, "start": period.start, "end": period.end},
    )
    return rows[-1] if rows else None


def read_compiled(connection: psycopg.Connection, invoices: Sequence[InvoiceRow]) -> Mapping[UUID, CompiledInvoice]:
    """Return these invoices with their lines, by id."""
    lines: dict[UUID, list[tuple[str | None, InvoiceItem]]] = defaultdict(list)
    ids = [invoice.invoice_id for invoice in invoices]
    for table in ("draft_item", "final_item"):
        rows = connection.execute(
            f"select {_ITEM_COLUMNS} from invoicing.{table} where invoice_id = any(%s) order by invoice_id, position".encode(),
            [ids],
        )
        for row in rows:
            lines[row[0]].append((row[3], _item(row)))
    return {
        invoice.invoice_id: CompiledInvoice(
            key=invoice.key, currency=invoice.total.currency, items=_folded(lines[invoice.invoice_id])
        )
        for invoice in invoices
    }


def _folded(lines: Sequence[tuple[str | None, InvoiceItem]]) -> tuple[InvoiceItem, ...]:
    """Return the lines with the parts of groups inside of them."""
    parts: dict[str, list[InvoiceItem]] = defaultdict(list)
    for part_of, item in lines:
        if part_of is not None:
            parts[part_of].append(item)
    return tuple(
        replace(item, parts=tuple(parts[item.item_key])) if item.item_key in parts else item
        for part_of, item in lines
        if part_of is None
    )


def _item(row: tuple[Any, ...]) -> InvoiceItem:
    return InvoiceItem(
        item_key=row[1],
        kind=ItemKind(row[5]),
        account_id=row[6],
        subscription_id=row[7],
        source_id=row[8],
        charge_id=row[9],
        corrects=row[10],
        period=Window(row[11], row[12]),
        amount=Money(row[13], row[14]),
        description=row[15],
        quantity_text=row[16],
        revision=row[17],
        source_digest=row[18],
        reason=row[19],
        by_meter=row[20],
    )
