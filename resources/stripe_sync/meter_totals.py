"""What an account's open invoices come to on Stripe's meters: lines by meter -> running totals of billing periods. Reads only.

The quantity is the booked one, of the newest revision of the line's charge; lines of one meter and one invoice are added up and
made whole units once. Not here: what is told to Stripe (meter_writer), the rules of events (meter_events).
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from uuid import UUID

import psycopg

from billing_pipeline.errors import BillingError
from billing_pipeline.invoicing.items import CompiledInvoice
from billing_pipeline.periods import Window
from billing_pipeline.stripe_sync.meter_events import MeterTotal, meter_value
from billing_pipeline.stripe_sync.policy import MeterRoute
from resources.stripe_sync.accounts import StripeAccount


class MeterRouteError(BillingError):
    """Lines by meter that no meter of Stripe can bill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceTotal:
    """What a compiled invoice comes to on one meter."""

    total: MeterTotal
    invoice_id: UUID


def meter_totals(
    connection: psycopg.Connection,
    account: StripeAccount,
    invoices: Sequence[CompiledInvoice],
    routes: Mapping[str, MeterRoute],
) -> tuple[InvoiceTotal, ...]:
    """Return the totals of the invoices' lines by meter, the oldest period first.

    Raises:
        MeterRouteError: a price has no meter in catalog/stripe.toml, an invoice no subscription at Stripe that would bill it, a
            period is another one at Stripe, or two periods of one meter overlap.
        MeterValueError: a total is no value of a meter.
    """
    by_charge = {
        item.charge_id: compiled
        for compiled in invoices
        for item in compiled.detail
        if item.by_meter and item.charge_id
    }
    for compiled in by_charge.values():
        _check_billed_at_stripe(account, compiled)
    rows = connection.execute(
        """
        select distinct on (charge_id) charge_id, price_id, quantity
        from billing.charge_revision
        where charge_id = any(%s)
        order by charge_id, revision desc
        """,
        [list(by_charge)],
    ).fetchall()
    sums: dict[tuple[UUID, str], Fraction] = defaultdict(Fraction)
    multiply: dict[str, MeterRoute] = {}
    for charge_id, price_id, quantity in rows:
        route = routes.get(price_id)
        if route is None:
            raise MeterRouteError(
                f"price {price_id!r} is billed by Stripe's meter, and catalog/stripe.toml names none for it",
                bill="its usage is not told to Stripe, so nobody is charged for it; other prices go on",
                fix="add a [[meter]] block with this price and the event_name of a meter with formula `last`",
            )
        multiply[route.event_name] = route
        sums[by_charge[charge_id].invoice_id, route.event_name] += Fraction(quantity)
    by_id = {compiled.invoice_id: compiled for compiled in invoices}
    found = [
        InvoiceTotal(
            total=MeterTotal(
                event_name=event_name,
                customer_id=account.customer_id,
                period=by_id[invoice_id].period,
                value=meter_value(quantity, multiply[event_name].multiply),
            ),
            invoice_id=invoice_id,
        )
        for (invoice_id, event_name), quantity in sums.items()
    ]
    found += _withdrawn(connection, account, invoices, found, events={route.event_name for route in routes.values()})
    found.sort(key=lambda one: (one.total.event_name, one.total.period))
    for before, after in pairwise(found):
        if before.total.event_name == after.total.event_name and before.total.period.end > after.total.period.start:
            raise MeterRouteError(
                f"two subscriptions of customer {account.customer_id} are billed by meter {before.total.event_name!r} at once",
                bill="their usage would be one total at Stripe; nothing of this meter was sent for the customer",
                fix="give the second one another meter, or bill it by invoice items",
            )
    return tuple(found)


def _withdrawn(
    connection: psycopg.Connection,
    account: StripeAccount,
    invoices: Sequence[CompiledInvoice],
    found: Sequence[InvoiceTotal],
    *,
    events: Collection[str],
) -> list[InvoiceTotal]:
    """Return totals of 0 where something was told of a period that has no line by the meter any more: its usage is withdrawn."""
    rows = connection.execute(
        "select event_name, period_start, period_end from stripe.sync_meter where customer_id = %s and value <> 0",
        [account.customer_id],
    ).fetchall()
    told = {(event_name, Window(start, end)) for event_name, start, end in rows if event_name in events}
    told -= {(one.total.event_name, one.total.period) for one in found}
    open_periods = {one.period: one.invoice_id for one in invoices if one.subscription_id in account.subscriptions}
    return [
        InvoiceTotal(
            total=MeterTotal(event_name=event_name, customer_id=account.customer_id, period=period, value=0),
            invoice_id=open_periods[period],
        )
        for event_name, period in sorted(told)
        if period in open_periods
    ]


def _check_billed_at_stripe(account: StripeAccount, compiled: CompiledInvoice) -> None:
    """Let pass what a subscription at Stripe bills, over the same period."""
    subscription = account.subscriptions.get(compiled.subscription_id or "")
    if subscription is None:
        raise MeterRouteError(
            f"subscription {compiled.subscription_id!r} of account {account.account_id!r} has a price that Stripe's meter bills, "
            "and stands for no subscription at Stripe",
            bill="its usage is told to nobody, so nobody is charged for it",
            fix="link it to a subscription that has the meter's price, or bill the price by invoice items",
        )
    period = subscription.period
    if period is not None and period != compiled.period and period.overlap(compiled.period.start, compiled.period.end):
        raise MeterRouteError(
            f"subscription {compiled.subscription_id!r} is billed from {compiled.period.start:%Y-%m-%d %H:%M} to "
            f"{compiled.period.end:%Y-%m-%d %H:%M} UTC here, and from {period.start:%Y-%m-%d %H:%M} to "
            f"{period.end:%Y-%m-%d %H:%M} at Stripe: a total of the one is none of the other",
            bill="nothing was told of it; what was told before stands",
            fix="set the same anchor on both sides; a subscription that changes in mid-period begins a new one at Stripe too",
        )
