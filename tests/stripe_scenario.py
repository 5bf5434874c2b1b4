"""A scenario that makes at least one object of every kind that the stand-in for Stripe has, over the real SDK."""

from datetime import timedelta
from typing import Any

import stripe

from resources.stripe_sim.server import RunningSim
from tests.stripe_fixtures import START, monthly_price, sdk_client, subscribe

METER_EVENT = "egress_bytes"


def metered_price(client: stripe.StripeClient, *, formula: str = "last", unit_amount: int = 2) -> tuple[str, str]:
    """Make a meter and its price, and return their ids."""
    meter = client.v1.billing.meters.create(
        {"display_name": "Egress", "event_name": METER_EVENT, "default_aggregation": {"formula": formula}}  # type: ignore[typeddict-item]
    )
    price = client.v1.prices.create(
        {
            "currency": "usd",
            "unit_amount": unit_amount,
            "recurring": {"interval": "month", "usage_type": "metered", "meter": meter.id},
            "product_data": {"name": "Egress"},
        }
    )
    return meter.id, price.id


def send_usage(client: stripe.StripeClient, customer: str, value: str, **fields: Any) -> stripe.billing.MeterEvent:
    """Send one meter event."""
    payload = {"stripe_customer_id": customer, "value": value}
    return client.v1.billing.meter_events.create({"event_name": METER_EVENT, "payload": payload, **fields})


def play_everything(sim: RunningSim, client: stripe.StripeClient) -> list[Any]:
    """Let two months pass with every kind of object; return answers that are in no table."""
    v1 = client.v1
    seen: list[Any] = []
    tiers = [{"up_to": 10, "unit_amount": 5}, {"up_to": "inf", "unit_amount_decimal": "2.5"}]
    product = v1.products.create({"name": "Storage", "metadata": {"a": "b"}})
    v1.prices.create(
        {
            "currency": "usd",
            "product": product.id,
            "billing_scheme": "tiered",
            "tiers_mode": "graduated",
            "tiers": tiers,  # type: ignore[typeddict-item]
            "recurring": {"interval": "month"},
        }
    )
    v1.webhook_endpoints.create({"url": "http://127.0.0.1:9/none", "enabled_events": ["customer.created"]})
    customer = v1.customers.create({"name": "Acme", "email": "billing@acme.example"}).id
    clock = v1.test_helpers.test_clocks.create({"frozen_time": int(START.timestamp()), "name": "March"})
    other = v1.customers.create({"name": "Nordwind", "test_clock": clock.id}).id
    meter, metered = metered_price(client)
    plan = monthly_price(client)
    subscription = v1.subscriptions.create({"customer": customer, "items": [{"price": plan}, {"price": metered}]})
    subscribe(client, other, plan, trial_period_days=7, cancel_at_period_end=True)
    seen.append(send_usage(client, customer, "21"))
    seen.append(
        client.v2.billing.meter_events.create(
            {"event_name": METER_EVENT, "payload": {"stripe_customer_id": customer, "value": "22"}}
        )
    )
    v1.invoice_items.create({"customer": customer, "subscription": subscription.id, "amount": 1234})
    v1.subscriptions.update(subscription.id, {"items": [{"id": subscription["items"]["data"][0].id, "quantity": 2}]})
    v1.customers.balance_transactions.create(other, {"amount": -700, "currency": "usd"})
    seen.append(v1.invoices.create_preview({"customer": customer, "subscription": subscription.id}))
    sim.remote.advance_to(START.replace(day=30))
    session = client.v2.billing.meter_event_session.create()
    seen.append(session)
    with sdk_client(sim.url, api_key=session.authentication_token) as streaming:
        payload = {"stripe_customer_id": "cus_unknown", "value": "1"}
        streaming.v2.billing.meter_event_stream.create({"events": [{"event_name": METER_EVENT, "payload": payload}]})
    sim.remote.advance_to(START.replace(month=4) + timedelta(hours=2))
    (invoice,) = v1.invoices.list({"customer": customer, "limit": 1}).data
    line = invoice.lines.data[-1]
    credit: dict[str, Any] = {"invoice": invoice.id, "refund_amount": 60, "credit_amount": 40}
    credit["lines"] = [{"type": "invoice_line_item", "invoice_line_item": line.id, "amount": 100}]
    seen.append(v1.credit_notes.preview(credit))  # type: ignore[arg-type]
    v1.credit_notes.create(credit)  # type: ignore[arg-type]
    start = int(START.timestamp())
    summaries = v1.billing.meters.event_summaries.list(
        meter, {"customer": customer, "start_time": start, "end_time": start + 86400}
    )
    seen += summaries.data
    manual = v1.invoices.create({"customer": customer})
    v1.invoices.add_lines(manual.id, {"lines": [{"amount": 900, "description": "support"}]})
    v1.invoices.finalize_invoice(manual.id)
    v1.invoices.void_invoice(manual.id)
    return seen
