"""Read the books of accounts for compiling their invoices: charges, what people added, what final invoices charged. Reads only.

Only what differs from what final invoices have charged is read: an account with years of settled periods costs what its open
ones do. Not here: what invoices are made of it (billing_pipeline.invoicing.compile).
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg

from billing_pipeline.amounts import Money, exact_text
from billing_pipeline.billing_schedule import due_at
from billing_pipeline.catalog import BillingMode, Catalog
from billing_pipeline.invoicing.books import AccountBook, Billable, Invoiced, Slot, SlotState, slot_at, slot_of
from billing_pipeline.invoicing.items import ItemKind, digest_of
from billing_pipeline.invoicing.states import InvoiceState
from billing_pipeline.periods import Window
from resources.credits.credit_rows import frozen_spends, known_grants

_INSTANT = timedelta(microseconds=1)

# What final invoices that count have charged for a source, less what credit notes on them gave back of it.
_CHARGED = """
    lines as (
        select source_id, amount_minor
        from invoicing.final_item as item
        left join invoicing.voided_invoice as voided using (invoice_id)
        where item.account_id = any(%(accounts)s) and source_id is not null and voided.invoice_id is null
        union all
        select corrects, -amount_minor
        from invoicing.credit_note as note
        left join invoicing.voided_invoice as voided using (invoice_id)
        where note.account_id = any(%(accounts)s) and corrects is not null and voided.invoice_id is null
    ),
    charged as (
        select source_id, sum(amount_minor)::bigint as charged_minor
        from lines
        group by source_id
    )
"""
_CHARGES = f"""
    with
    {_CHARGED},
    newest as (
        select distinct on (charge_id) *
        from billing.charge_revision
        where account_id = any(%(accounts)s) and price_id <> all(%(prepaid)s)
        order by charge_id, revision desc
    )
    select
        account_id, charge_id, subscription_id, price_id, group_key, meter_id, period_start, period_end, quantity, unit,
        amount_minor, currency, revision, rating_digest, charged_minor
    from newest
    left join charged on charged.source_id = newest.charge_id
    where charged_minor is distinct from amount_minor
        and not (charged_minor is null and amount_minor = 0 and quantity = 0)
"""
_ADJUSTMENTS = f"""
    with
    {_CHARGED}
    select
        account_id, adjustment_id, subscription_id, period_start, period_end, amount_minor, currency, reason, actor,
        charged_minor
    from invoicing.adjustment
    left join charged on charged.source_id = adjustment_id
    where account_id = any(%(accounts)s) and charged_minor is distinct from amount_minor
"""
_ONE_OFFS = f"""
    with
    {_CHARGED}
    select
        account_id, one_off_id, subscription_id, sold_at, quantity, unit, unit_price, amount_minor, currency, description,
        reason, actor, charged_minor
    from invoicing.one_off
    left join charged on charged.source_id = one_off_id
    where account_id = any(%(accounts)s) and charged_minor is distinct from amount_minor
"""
_NEWEST_INVOICE_OF = """
    with
    newest as (
        select distinct on (source_id) source_id, invoice_id, number, total_minor
        from invoicing.final_item
        join invoicing.final_invoice using (invoice_id)
        left join invoicing.voided_invoice as voided using (invoice_id)
        where source_id = any(%(sources)s) and voided.invoice_id is null
        order by source_id, finalized_at desc, recorded_at desc, number desc
    )
    select
        source_id, invoice_id, number,
        total_minor - coalesce((select sum(amount_minor) from invoicing.credit_note as note
                                where note.invoice_id = newest.invoice_id), 0)::bigint
    from newest
"""
_SLOTS = """
    select distinct on (account_id, subscription_id, period_start, period_end)
        account_id, subscription_id, period_start, period_end, issue, state, number
    from invoicing.invoice
    join unnest(%(accounts)s::text[], %(since)s::timestamptz[]) as wanted (account_id, since) using (account_id)
    where state = 'draft' or period_end > since
    order by account_id, subscription_id, period_start, period_end, issue desc
"""
# Lines of no source are settled by the next invoice: what could not be charged, and what was charged and is in no books.
_CARRIED = """
    select account_id, -sum(amount_minor)::bigint
    from invoicing.final_item as item
    left join invoicing.voided_invoice as voided using (invoice_id)
    where item.account_id = any(%(accounts)s) and item.kind = 'other' and source_id is null and part_count = 0
        and voided.invoice_id is null
    group by account_id
    having sum(amount_minor) <> 0
"""


@dataclass(slots=True)
class _Found:
    """What was read of one account."""

    billables: list[Billable] = field(default_factory=list)
    charged: dict[UUID, int] = field(default_factory=dict)


def read_books(
    connection: psycopg.Connection, catalog: Catalog, accounts: Sequence[str], *, as_of: datetime
) -> Mapping[str, AccountBook]:
    """Return the books of those of `accounts` that the catalog holds, by account."""
    known = [account_id for account_id in accounts if account_id in catalog.accounts]
    parameters: dict[str, object] = {"accounts": known, "prepaid": _price_ids(catalog, BillingMode.PREPAID_BALANCE)}
    found: dict[str, _Found] = {account_id: _Found() for account_id in known}
    readers = (_charges(connection, catalog, parameters), _added(connection, catalog, parameters))
    for account_id, billable, charged_minor in (row for rows in readers for row in rows):
        found[account_id].billables.append(billable)
        if charged_minor is not None:
            found[account_id].charged[billable.source_id] = charged_minor
    invoiced = _invoiced(connection, found)
    slots = _slots(connection, found, as_of)
    carried: dict[str, int] = dict(connection.execute(_CARRIED, parameters).fetchall())
    grants = known_grants(connection, catalog, known, as_of=as_of)
    spent = frozen_spends(connection, list(grants))
    books = {}
    for account_id, one in found.items():
        account = catalog.accounts[account_id]
        books[account_id] = AccountBook(
            account_id=account_id,
            currency=account.currency,
            zone=account.time_zone,
            subscriptions=catalog.subscriptions_by_account.get(account_id, ()),
            billables=tuple(one.billables),
            invoiced=_of_account(one, account.currency, invoiced),
            slots=slots.get(account_id, {}),
            carried=carried.get(account_id, 0),
            grants=grants.get(account_id, ()),
            spent=spent.get(account_id, ()),
        )
    return books


def _price_ids(catalog: Catalog, mode: BillingMode) -> list[str]:
    return [price.price_id for price in catalog.prices.values() if price.billing_mode is mode]


def _charges(
    connection: psycopg.Connection, catalog: Catalog, parameters: Mapping[str, object]
) -> Iterator[tuple[str, Billable, int | None]]:
    by_meter = frozenset(_price_ids(catalog, BillingMode.STRIPE_METER))
    minimums = frozenset(price.price_id for price in catalog.prices.values() if price.is_minimum)
    for row in connection.execute(_CHARGES.encode(), parameters):
        account_id, charge_id, subscription_id, price_id, group_key, meter_id, start, end, quantity, unit, *rest = row
        amount_minor, currency, revision, rating_digest, charged_minor = rest
        period = Window(start, end)
        yield (
            account_id,
            Billable(
                source_id=charge_id,
                kind=_kind(price_id, meter_id, minimums),
                subscription_id=subscription_id,
                charge_key=str(charge_id),
                slot=slot_of(
                    subscription_id,
                    due_at=_due_at(catalog, price_id, period),
                    period=period,
                    subscriptions=catalog.subscriptions,
                ),
                period=period,
                amount=Money(amount_minor, currency),
                description=_what(price_id, group_key),
                quantity_text="" if meter_id is None else f"{exact_text(quantity)} {unit}",
                revision=revision,
                digest=rating_digest,
                by_meter=price_id in by_meter,
            ),
            charged_minor,
        )


def _kind(price_id: str, meter_id: str | None, minimums: Collection[str]) -> ItemKind:
    """Return what a charge's line is for: what is missing to a minimum is no fee."""
    if meter_id is not None:
        return ItemKind.USAGE
    return ItemKind.MINIMUM if price_id in minimums else ItemKind.FEE


def _due_at(catalog: Catalog, price_id: str, period: Window) -> datetime:
    """Return when a charge falls due; one whose price the catalog does not hold any more at the end of its period."""
    price = catalog.prices.get(price_id)
    return period.end if price is None else due_at(price, period)


def _what(price_id: str, group_key: str) -> str:
    group: Mapping[str, str] = json.loads(group_key) if group_key else {}
    return ", ".join([price_id, *(f"{name} {value}" for name, value in group.items())])


def _added(
    connection: psycopg.Connection, catalog: Catalog, parameters: Mapping[str, object]
) -> Iterator[tuple[str, Billable, int | None]]:
    for row in connection.execute(_ADJUSTMENTS.encode(), parameters):
        account_id, source_id, subscription_id, start, end, amount_minor, currency, reason, actor, charged_minor = row
        period = Window(start, end)
        slot = (
            Slot(None, period) if subscription_id is None else slot_at(subscription_id, period, catalog.subscriptions)
        )
        yield (
            account_id,
            Billable(
                source_id=source_id,
                kind=ItemKind.ADJUSTMENT,
                subscription_id=subscription_id,
                charge_key=f"adjustment|{source_id}",
                slot=slot,
                period=period,
                amount=Money(amount_minor, currency),
                description="Adjustment",
                quantity_text="",
                revision=1,
                digest=digest_of(reason, actor),
                reason=reason,
            ),
            charged_minor,
        )
    for row in connection.execute(_ONE_OFFS.encode(), parameters):
        yield row[0], _one_off(row), row[-1]


def _one_off(row: tuple[Any, ...]) -> Billable:
    _, source_id, subscription_id, sold_at, quantity, unit, unit_price, amount_minor, currency, description, *rest = row
    reason, actor, _ = rest
    return Billable(
        source_id=source_id,
        kind=ItemKind.ONE_OFF,
        subscription_id=subscription_id,
        charge_key=f"one_off|{source_id}",
        slot=None,
        period=Window(sold_at, sold_at + _INSTANT),
        amount=Money(amount_minor, currency),
        description=description,
        quantity_text=f"{exact_text(quantity)} {unit} x {exact_text(unit_price)} {currency}",
        revision=1,
        digest=digest_of(description, reason, actor),
        reason=reason,
    )


_Newest = tuple[UUID, str, int]


def _invoiced(connection: psycopg.Connection, found: Mapping[str, _Found]) -> Mapping[UUID, _Newest]:
    """Return the newest final invoice that charged for each source, its number, and what of it is not credited yet."""
    sources = [source_id for one in found.values() for source_id in one.charged]
    if not sources:
        return {}
    rows = connection.execute(_NEWEST_INVOICE_OF, {"sources": sources})
    return {source_id: (invoice_id, number, creditable) for source_id, invoice_id, number, creditable in rows}


def _of_account(one: _Found, currency: str, newest: Mapping[UUID, _Newest]) -> Mapping[UUID, Invoiced]:
    invoiced = {}
    for source_id, charged_minor in one.charged.items():
        invoice_id, number, creditable = newest[source_id]
        invoiced[source_id] = Invoiced(
            amount=Money(charged_minor, currency), invoice_id=invoice_id, number=number, creditable_minor=creditable
        )
    return invoiced


def _slots(
    connection: psycopg.Connection, found: Mapping[str, _Found], as_of: datetime
) -> Mapping[str, Mapping[Slot, SlotState]]:
    """Return the newest issue of each invoice that is open, or not older than what is to be charged."""
    since = [min([as_of, *_begins(one.billables)]) for one in found.values()]
    slots: dict[str, dict[Slot, SlotState]] = defaultdict(dict)
    rows = connection.execute(_SLOTS, {"accounts": list(found), "since": since})
    for account_id, subscription_id, start, end, issue, state, number in rows:
        slot = Slot(subscription_id, Window(start, end))
        slots[account_id][slot] = SlotState(state=InvoiceState(state), issue=issue, number=number)
    return slots


def _begins(billables: Iterable[Billable]) -> Iterator[datetime]:
    for billable in billables:
        yield billable.period.start if billable.slot is None else billable.slot.period.start
