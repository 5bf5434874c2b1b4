"""What a final invoice has charged beside our items: Stripe's own lines by meter, and items of an earlier issue: key -> amount.

A meter that counted late, or was told late, leaves an invoice with an older total, which is final then: no event changes it any
more. The line here is recorded at what Stripe charged, so that the rest is a correction on the next invoice. Where Stripe counted
our total, the line stays as it is here, whatever price Stripe has for it. Not here: telling totals (meter_writer).
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import psycopg

from billing_pipeline.invoicing.items import KEY_DIGITS, CompiledInvoice, InvoiceItem
from billing_pipeline.invoicing.stripe_amounts import to_stripe
from billing_pipeline.stripe_sync.lines import HeldItem
from billing_pipeline.stripe_sync.meter_events import MeterTotal, MeterValueError
from resources.stripe_api.calls import Json, Operation, StripeCall
from resources.stripe_sync import sync_store
from resources.stripe_sync.accounts import StripeAccount
from resources.stripe_sync.charged import Charged, amounts_by_key, issues_of_period
from resources.stripe_sync.meter_totals import MeterRouteError, meter_totals
from resources.stripe_sync.meter_writer import MeterWriter
from resources.stripe_sync.requests import Held
from resources.stripe_sync.sync_store import FindingKind

if TYPE_CHECKING:
    from resources.stripe_api.gateway import StripeGateway


def charged_beside(
    meters: MeterWriter, account: StripeAccount, charged: Charged, held: Held, *, now: datetime
) -> Mapping[str, int]:
    """Return what a period's own invoice has charged beside the items of the compiled one: by items that were made for an earlier
    issue of the period, and by meter where that is another total than ours. Raises as the calls to Stripe that it makes."""
    invoice_id = charged.invoice["id"]
    earlier = issues_of_period(meters.connection, charged.compiled.key) - {str(charged.compiled.invoice_id)}
    if not earlier and not meters.policy.meters:
        return {}
    lines = held.lines(invoice_id)
    amounts = amounts_by_key([line for line in lines if line.compiled_id in earlier])
    return {
        **amounts,
        **amounts_by_meter(meters, account, charged.compiled, lines, invoice_id=invoice_id, now=now),
    }


def amounts_by_meter(
    meters: MeterWriter,
    account: StripeAccount,
    compiled: CompiledInvoice,
    lines: Sequence[HeldItem],
    *,
    invoice_id: str,
    now: datetime,
) -> Mapping[str, int]:
    """Return the amounts, in Stripe's units, of our lines by meter of which Stripe charged another total. `lines`: the invoice's.

    An invoice without any line of the meter is told to people, and nothing is charged in its place: another one may have it.
    """
    if not meters.policy.meters:
        return {}
    ours = _ours(meters.connection, compiled)
    try:
        totals = meter_totals(meters.connection, account, [compiled], meters.policy.meters)
    except (MeterRouteError, MeterValueError):
        # Told of wherever totals are told; that the invoice is final is a fact all the same.
        return {}
    by_meter = _charged(meters.gateway, lines) if totals else {}
    found: dict[str, int] = {}
    for total in (one.total for one in totals):
        meter = meters.meters.get(total.event_name)
        if not isinstance(meter, dict):
            continue
        if meter["id"] not in by_meter:
            if total.value:
                _tell(meters.connection, account, total, invoice_id, now)
            continue
        counted, charged = by_meter[meter["id"]]
        if counted != total.value:
            prices = {price for price, route in meters.policy.meters.items() if route.event_name == total.event_name}
            found |= _shared([item for price, item in ours if price in prices], charged, total)
    return found


def _tell(
    connection: psycopg.Connection, account: StripeAccount, total: MeterTotal, invoice_id: str, now: datetime
) -> None:
    with connection.transaction():
        sync_store.open_finding(
            connection,
            FindingKind.METER_UNCONFIRMED,
            f"{invoice_id}|{total.event_name}",
            f"{invoice_id} is final and has no line of meter {total.event_name}: {total.value} of {account.account_id!r} are not "
            "charged by it. Look whether the subscription at Stripe has a price on the meter",
            account_id=account.account_id,
            now=now,
        )


def _ours(connection: psycopg.Connection, compiled: CompiledInvoice) -> list[tuple[str, InvoiceItem]]:
    """Return our lines by meter, each with its price."""
    items = {item.charge_id: item for item in compiled.detail if item.by_meter and item.charge_id}
    rows = connection.execute(
        "select distinct charge_id, price_id from billing.charge_revision where charge_id = any(%s) order by 1, 2",
        [list(items)],
    ).fetchall()
    return [(price_id, items[charge_id]) for charge_id, price_id in rows]


def _charged(gateway: "StripeGateway", lines: Sequence[HeldItem]) -> Mapping[str, tuple[int, int]]:
    """Return by meter what the invoice counted and charged; a price with tiers has a line for each."""
    meter_of: dict[str, str | None] = {}
    found: dict[str, tuple[int, int]] = {}
    for line in lines:
        if line.price_id is None or line.item_id is not None:
            continue
        if line.price_id not in meter_of:
            price: Json = gateway.read(StripeCall(operation=Operation.PRICES_RETRIEVE, ids=(line.price_id,)))
            meter_of[line.price_id] = (price.get("recurring") or {}).get("meter")
        meter = meter_of[line.price_id]
        if meter is not None:
            counted, charged = found.get(meter, (0, 0))
            found[meter] = counted + (line.quantity or 0), charged + line.amount
    return found


def _shared(items: Sequence[InvoiceItem], charged: int, total: MeterTotal) -> Mapping[str, int]:
    """Return the lines' amounts with the difference on the largest, so that they come to what was charged. Where nothing is to be
    charged any more, a line of its own says what was, and the next invoice carries it back."""
    if not items:
        whose = f"{total.customer_id}|{total.event_name}|{total.period.start.isoformat()}"
        return {hashlib.sha256(whose.encode()).hexdigest()[:KEY_DIGITS]: charged}
    amounts = {item.item_key: to_stripe(item.amount) for item in items}
    largest = max(amounts, key=lambda key: (abs(amounts[key]), key))
    return amounts | {largest: amounts[largest] + charged - sum(amounts.values())}
