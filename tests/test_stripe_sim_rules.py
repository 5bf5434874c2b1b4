"""Each rule of the stand-in's table, tried over the real SDK; and that none was forgotten."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import stripe

from resources.settings import PROJECT_ROOT
from resources.stripe_sim.rules import Rules, RuleUnknownError, rule_table
from resources.stripe_sim.server import RunningSim
from tests.stripe_fixtures import START, monthly_price, subscribe
from tests.stripe_fixtures import stripe_client as stripe_client
from tests.stripe_fixtures import stripe_sim as stripe_sim
from tests.stripe_scenario import METER_EVENT, metered_price, send_usage

APRIL = START.replace(month=4)
HOUR = timedelta(hours=1)
NOW = int(START.timestamp())


@pytest.fixture
def remote(stripe_sim: RunningSim) -> Any:
    """Return the control API of the stand-in."""
    return stripe_sim.remote


@pytest.fixture
def customer(stripe_client: stripe.StripeClient) -> str:
    """Return a new customer."""
    return stripe_client.v1.customers.create({"name": "Acme"}).id


def wait_until_asked(remote: Any, number: int) -> None:
    """Wait until the stand-in has begun with so many requests."""
    for _ in range(200):
        if remote.state()["requests"] >= number:
            return
    raise AssertionError("the request did not arrive")


def refused(**expected: Any) -> Any:
    """Expect a refusal of an invalid request."""
    return pytest.raises(
        stripe.InvalidRequestError, check=lambda e: all(getattr(e, k) == v for k, v in expected.items())
    )


def test_every_rule_is_tried_here() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert [rule.name for rule in fields(Rules) if rule.name not in text] == []


def test_every_rule_says_where_it_is_said() -> None:
    assert all(row.source and row.meaning and row.mark in ("sdk", "doc", "issue", "assumed") for row in rule_table())


def test_the_page_has_the_table() -> None:
    page = (PROJECT_ROOT / "docs" / "stripe-sim.md").read_text(encoding="utf-8")
    for row in rule_table():
        default = str(row.default).lower() if isinstance(row.default, bool) else str(row.default)
        assert f"| `{row.name}` | {default} | {row.mark} | {row.source} | {row.meaning} |" in page


def test_a_rule_that_does_not_exist_or_has_another_type_is_refused() -> None:
    for changes in ({"nothing": 1}, {"operation_rate": "25"}, {"meter_decimals": 1}):
        with pytest.raises(RuleUnknownError):
            Rules().with_changes(changes)


class TestIdempotencyKeys:
    def test_live_for_idempotency_seconds(self, remote: Any, stripe_client: stripe.StripeClient) -> None:
        def create() -> str:
            return stripe_client.v1.customers.create({"name": "A"}, {"idempotency_key": "k"}).id

        first = create()
        remote.advance(timedelta(seconds=24 * 3600 - 1))
        assert create() == first
        remote.advance(timedelta(seconds=1))
        assert create() != first

    def test_have_longest_idempotency_key_characters(self, stripe_client: stripe.StripeClient) -> None:
        stripe_client.v1.customers.create({}, {"idempotency_key": "k" * 255})
        with refused():
            stripe_client.v1.customers.create({}, {"idempotency_key": "k" * 256})

    def test_keep_a_refusal_of_what_was_executed(self, stripe_client: stripe.StripeClient) -> None:
        item: Any = {"customer": "cus_later", "amount": 1}
        for _ in range(2):
            with refused(code="resource_missing", param="customer") as caught:
                stripe_client.v1.invoice_items.create(item, {"idempotency_key": "k"})
        assert caught.value.headers["Idempotent-Replayed"] == "true"

    def test_keep_nothing_of_what_failed_before(self, stripe_client: stripe.StripeClient, customer: str) -> None:
        wrong: Any = {"customer": customer, "amount": "12.5"}
        with refused(code="parameter_invalid_integer", param="amount"):
            stripe_client.v1.invoice_items.create(wrong, {"idempotency_key": "k"})
        stripe_client.v1.invoice_items.create({"customer": customer, "amount": 12}, {"idempotency_key": "k"})

    def test_are_a_conflict_while_the_first_request_runs(self, remote: Any, stripe_client: stripe.StripeClient) -> None:
        remote.fault("slow", "POST /v1/customers", seconds=0.4)
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(stripe_client.v1.customers.create, {}, {"idempotency_key": "k"})
            wait_until_asked(remote, 1)
            with pytest.raises(stripe.StripeError) as caught:
                stripe_client.v1.customers.create({}, {"idempotency_key": "k"})
            assert (caught.value.http_status, caught.value.error.code) == (409, "idempotency_key_in_use")
            assert stripe_client.v1.customers.create({}, {"idempotency_key": "other"}).id != first.result().id

    @pytest.mark.parametrize("replays_server_errors", [True, False])
    def test_answer_a_server_error_again_if_the_rules_say_so(
        self, remote: Any, stripe_client: stripe.StripeClient, replays_server_errors: bool
    ) -> None:
        remote.rules(replays_server_errors=replays_server_errors)
        remote.fault("error_before", "POST /v1/customers")
        with pytest.raises(stripe.APIError):
            stripe_client.v1.customers.create({}, {"idempotency_key": "k"})
        if replays_server_errors:
            with pytest.raises(stripe.APIError):
                stripe_client.v1.customers.create({}, {"idempotency_key": "k"})
        else:
            stripe_client.v1.customers.create({}, {"idempotency_key": "k"})

    @pytest.mark.parametrize(("v2_replays", "sessions"), [(True, 1), (False, 2)])
    def test_hold_in_v2_if_the_rules_say_so(
        self, remote: Any, stripe_client: stripe.StripeClient, v2_replays: bool, sessions: int
    ) -> None:
        remote.rules(v2_replays=v2_replays)
        made = {stripe_client.v2.billing.meter_event_session.create({}, {"idempotency_key": "k"}).id for _ in range(2)}
        assert len(made) == sessions

    def test_mean_nothing_to_reads(self, stripe_client: stripe.StripeClient) -> None:
        assert stripe_client.v1.customers.list({}, {"idempotency_key": "k"}).data == []
        stripe_client.v1.customers.create({})
        assert len(stripe_client.v1.customers.list({}, {"idempotency_key": "k"}).data) == 1


class TestRates:
    def test_operation_rate_is_of_one_operation_in_a_second_of_the_rate_clock(
        self, remote: Any, stripe_client: stripe.StripeClient
    ) -> None:
        remote.rules(operation_rate=25, rate_clock="virtual")
        for _ in range(25):
            stripe_client.v1.customers.list()
        with pytest.raises(stripe.RateLimitError) as caught:
            stripe_client.v1.customers.list()
        assert caught.value.headers["Stripe-Rate-Limited-Reason"] == "endpoint-rate"
        stripe_client.v1.invoices.list()
        remote.advance(timedelta(seconds=1))
        stripe_client.v1.customers.list()

    def test_global_rate_is_of_all_of_them(self, remote: Any, stripe_client: stripe.StripeClient) -> None:
        remote.rules(global_rate=2, rate_clock="virtual")
        stripe_client.v1.customers.list()
        stripe_client.v1.invoices.list()
        with pytest.raises(stripe.RateLimitError) as caught:
            stripe_client.v1.events.list()
        assert caught.value.headers["Stripe-Rate-Limited-Reason"] == "global-rate"

    def test_come_before_the_idempotency_layer(self, remote: Any, stripe_client: stripe.StripeClient) -> None:
        remote.fault("rate_limit", "POST /v1/customers")
        with pytest.raises(stripe.RateLimitError):
            stripe_client.v1.customers.create({}, {"idempotency_key": "k"})
        assert stripe_client.v1.customers.create({}, {"idempotency_key": "k"}).id


class TestDrafts:
    def draft(self, remote: Any, client: stripe.StripeClient, customer: str) -> stripe.Invoice:
        """Return the draft of a renewal."""
        subscribe(client, customer, monthly_price(client))
        remote.advance_to(APRIL)
        (draft,) = client.v1.invoices.list({"status": "draft"}).data
        return draft

    def test_finalize_after_draft_seconds(self, remote: Any, stripe_client: stripe.StripeClient, customer: str) -> None:
        draft = self.draft(remote, stripe_client, customer)
        remote.advance(timedelta(seconds=3599))
        assert stripe_client.v1.invoices.retrieve(draft.id).status == "draft"
        remote.advance(timedelta(seconds=1))
        assert stripe_client.v1.invoices.retrieve(draft.id).status == "paid"

    def test_are_held_by_automatically_finalizes_at_if_renewal_draft_hold(
        self, remote: Any, stripe_client: stripe.StripeClient, customer: str
    ) -> None:
        draft = self.draft(remote, stripe_client, customer)
        at = draft.created + 5 * 3600
        stripe_client.v1.invoices.update(draft.id, {"automatically_finalizes_at": at})
        remote.advance(4 * HOUR)
        assert stripe_client.v1.invoices.retrieve(draft.id).status == "draft"
        remote.rules(renewal_draft_hold=False)
        with refused(param="automatically_finalizes_at"):
            stripe_client.v1.invoices.update(draft.id, {"automatically_finalizes_at": at + 60})
        remote.advance(HOUR)
        assert stripe_client.v1.invoices.retrieve(draft.id).status == "paid"

    def test_embed_embedded_lines_and_take_most_invoice_items(
        self, remote: Any, stripe_client: stripe.StripeClient, customer: str
    ) -> None:
        remote.rules(most_invoice_items=12)
        subscribe(stripe_client, customer, monthly_price(stripe_client))
        for amount in range(1, 15):
            stripe_client.v1.invoice_items.create({"customer": customer, "amount": amount})
        remote.advance_to(APRIL)
        (draft,) = stripe_client.v1.invoices.list({"status": "draft"}).data
        assert len(draft.lines.data) == 10
        lines = [line.amount for line in stripe_client.v1.invoices.line_items.list(draft.id, {"limit": 100}).data]
        assert lines == [*range(12, 0, -1), 2900]
        assert [item.amount for item in stripe_client.v1.invoice_items.list({"pending": True}).data] == [14, 13]
        with refused(param="invoice"):
            stripe_client.v1.invoices.add_lines(draft.id, {"lines": [{"amount": 1}]})

    def test_take_most_lines_a_call(self, remote: Any, stripe_client: stripe.StripeClient, customer: str) -> None:
        remote.rules(most_lines_a_call=2)
        invoice = stripe_client.v1.invoices.create({"customer": customer}).id
        stripe_client.v1.invoices.add_lines(invoice, {"lines": [{"amount": 1}] * 2})
        with refused(param="lines"):
            stripe_client.v1.invoices.add_lines(invoice, {"lines": [{"amount": 1}] * 3})

    @pytest.mark.parametrize(("lines_call_is_atomic", "total"), [(True, 0), (False, 7)])
    def test_take_all_lines_or_those_before_the_bad_one(
        self, remote: Any, stripe_client: stripe.StripeClient, customer: str, lines_call_is_atomic: bool, total: int
    ) -> None:
        remote.rules(lines_call_is_atomic=lines_call_is_atomic)
        invoice = stripe_client.v1.invoices.create({"customer": customer}).id
        with refused(param="amount"):
            stripe_client.v1.invoices.add_lines(invoice, {"lines": [{"amount": 7}, {"description": "no amount"}]})
        assert stripe_client.v1.invoices.retrieve(invoice).total == total

    @pytest.mark.parametrize("deleted_draft_frees_items", [True, False])
    def test_free_their_items_when_they_are_deleted_if_the_rules_say_so(
        self, remote: Any, stripe_client: stripe.StripeClient, customer: str, deleted_draft_frees_items: bool
    ) -> None:
        remote.rules(deleted_draft_frees_items=deleted_draft_frees_items)
        invoice = stripe_client.v1.invoices.create({"customer": customer}).id
        stripe_client.v1.invoices.add_lines(invoice, {"lines": [{"amount": 7}]})
        stripe_client.v1.invoices.delete(invoice)
        pending = stripe_client.v1.invoice_items.list({"pending": True}).data
        assert len(pending) == deleted_draft_frees_items

    def test_wait_for_endpoints_but_not_beyond_longest_webhook_wait_seconds(
        self, remote: Any, stripe_client: stripe.StripeClient, customer: str
    ) -> None:
        # Nobody listens there: deliveries fail, for webhook_retry_seconds at most.
        stripe_client.v1.webhook_endpoints.create({"url": "http://127.0.0.1:9/", "enabled_events": ["invoice.created"]})
        draft = self.draft(remote, stripe_client, customer)
        remote.advance(71 * HOUR)
        assert stripe_client.v1.invoices.retrieve(draft.id).status == "draft"
        remote.advance(HOUR)
        assert stripe_client.v1.invoices.retrieve(draft.id).status == "paid"
        remote.advance(30 * HOUR)
        tried = [one["at"] for one in remote.deliveries() if one["at"] >= draft.created]
        assert len(tried) > 5
        assert tried[-1] - tried[0] <= 3 * 86400


class TestLists:
    def test_miss_a_new_object_for_list_lag_seconds(
        self, remote: Any, stripe_client: stripe.StripeClient, customer: str
    ) -> None:
        remote.rules(list_lag_seconds=5)
        stripe_client.v1.invoice_items.create({"customer": customer, "amount": 1})
        assert stripe_client.v1.invoice_items.list({"customer": customer}).data == []
        remote.advance(timedelta(seconds=5))
        assert len(stripe_client.v1.invoice_items.list({"customer": customer}).data) == 1

    def test_miss_a_new_event_for_event_lag_seconds(self, remote: Any, stripe_client: stripe.StripeClient) -> None:
        remote.rules(event_lag_seconds=5)
        stripe_client.v1.customers.create({})
        assert stripe_client.v1.events.list().data == []
        remote.advance(timedelta(seconds=5))
        assert len(stripe_client.v1.events.list().data) == 1

    def test_show_events_for_event_retention_seconds(
        self, remote: Any, stripe_client: stripe.StripeClient, customer: str
    ) -> None:
        remote.advance(timedelta(days=30))
        (event,) = stripe_client.v1.events.list().data
        remote.advance(timedelta(seconds=1))
        assert stripe_client.v1.events.list().data == []
        with refused(http_status=404):
            stripe_client.v1.events.retrieve(event.id)


class TestAmounts:
    def test_below_the_minimum_go_to_the_balance_if_minimum_charges(
        self, remote: Any, stripe_client: stripe.StripeClient, customer: str
    ) -> None:
        for minimum_charges, due in ((True, 0), (False, 49)):
            remote.rules(minimum_charges=minimum_charges)
            other = stripe_client.v1.customers.create({}).id
            invoice = stripe_client.v1.invoices.create({"customer": other}).id
            stripe_client.v1.invoices.add_lines(invoice, {"lines": [{"amount": 49}]})
            final = stripe_client.v1.invoices.finalize_invoice(invoice)
            assert (final.total, final.amount_due, final.status) == (49, due, "open" if due else "paid")
            assert stripe_client.v1.customers.retrieve(other).balance == 49 - due

    @pytest.mark.parametrize(
        ("currency", "right", "wrong"), [("kwd", 5120, 5124), ("isk", 500, 550), ("ugx", 200, 201)]
    )
    def test_have_the_steps_of_their_currency_if_amount_steps(
        self, remote: Any, stripe_client: stripe.StripeClient, customer: str, currency: str, right: int, wrong: int
    ) -> None:
        item: Any = {"customer": customer, "currency": currency}
        stripe_client.v1.invoice_items.create({**item, "amount": right})
        with refused(param="amount"):
            stripe_client.v1.invoice_items.create({**item, "amount": wrong})
        remote.rules(amount_steps=False)
        stripe_client.v1.invoice_items.create({**item, "amount": wrong})

    def test_are_of_one_currency_for_a_customer(self, stripe_client: stripe.StripeClient, customer: str) -> None:
        stripe_client.v1.invoice_items.create({"customer": customer, "amount": 100, "currency": "jpy"})
        with refused(param="currency"):
            stripe_client.v1.invoice_items.create({"customer": customer, "amount": 100, "currency": "eur"})


class TestPayments:
    def test_are_tried_most_payment_attempts_times_every_payment_retry_seconds(
        self, remote: Any, stripe_client: stripe.StripeClient, customer: str
    ) -> None:
        subscription = subscribe(stripe_client, customer, monthly_price(stripe_client))
        remote.decline(customer)
        remote.advance_to(APRIL + HOUR)
        (invoice,) = stripe_client.v1.invoices.list({"status": "open"}).data
        assert (invoice.attempt_count, invoice.next_payment_attempt) == (1, invoice.created + 3600 + 3 * 86400)
        assert stripe_client.v1.subscriptions.retrieve(subscription.id).status == "past_due"
        remote.advance(timedelta(days=20))
        failed = stripe_client.v1.invoices.retrieve(invoice.id)
        assert (failed.attempt_count, failed.next_payment_attempt) == (4, None)
        remote.decline(customer, declines=False)
        assert stripe_client.v1.invoices.pay(invoice.id).status == "paid"
        assert stripe_client.v1.subscriptions.retrieve(subscription.id).status == "active"


class TestMeters:
    def summary(self, client: stripe.StripeClient, meter: str, customer: str) -> float:
        """Return what the summary of the day says."""
        range_ = {"customer": customer, "start_time": NOW, "end_time": NOW + 86400}
        (found,) = client.v1.billing.meters.event_summaries.list(meter, range_).data  # type: ignore[arg-type]
        return found.aggregated_value

    def test_show_events_after_meter_lag_seconds(
        self, remote: Any, stripe_client: stripe.StripeClient, customer: str
    ) -> None:
        meter, _ = metered_price(stripe_client, formula="sum")
        send_usage(stripe_client, customer, "5")
        assert self.summary(stripe_client, meter, customer) == 0
        remote.advance(timedelta(seconds=60))
        assert self.summary(stripe_client, meter, customer) == 5

    @pytest.mark.parametrize(("order", "last"), [("timestamp", 9), ("receipt", 7)])
    def test_take_the_last_event_by_meter_last_order(
        self, remote: Any, stripe_client: stripe.StripeClient, customer: str, order: str, last: int
    ) -> None:
        remote.rules(meter_last_order=order, meter_lag_seconds=0)
        meter, _ = metered_price(stripe_client)
        for value, second in (("9", 20), ("7", 10)):
            send_usage(stripe_client, customer, value, timestamp=NOW + second)
        assert self.summary(stripe_client, meter, customer) == last

    def test_take_events_of_meter_oldest_seconds_to_meter_newest_seconds(
        self, stripe_client: stripe.StripeClient, customer: str
    ) -> None:
        metered_price(stripe_client)
        for seconds in (-35 * 86400, 300):
            send_usage(stripe_client, customer, "1", timestamp=NOW + seconds)
        for seconds, code in ((-35 * 86400 - 1, "timestamp_too_far_in_past"), (301, "timestamp_in_future")):
            with refused(code=code):
                send_usage(stripe_client, customer, "1", timestamp=NOW + seconds)

    def test_take_meter_most_digits_and_no_fractions_without_meter_decimals(
        self, remote: Any, stripe_client: stripe.StripeClient, customer: str
    ) -> None:
        metered_price(stripe_client)
        send_usage(stripe_client, customer, "9" * 15)
        send_usage(stripe_client, customer, "-000000000000000001")
        with refused(code="meter_event_value_too_many_digits"):
            send_usage(stripe_client, customer, "1" + "0" * 15)
        for value in ("1.5", "1E3", "", "x", " 1"):
            with refused(code="meter_event_invalid_value"):
                send_usage(stripe_client, customer, value)
        remote.rules(meter_decimals=True)
        send_usage(stripe_client, customer, "1.5")

    def test_take_an_identifier_once_in_meter_identifier_seconds(
        self, remote: Any, stripe_client: stripe.StripeClient, customer: str
    ) -> None:
        meter, _ = metered_price(stripe_client, formula="sum")
        send_usage(stripe_client, customer, "5", identifier="i")
        with refused(param="identifier"):
            send_usage(stripe_client, customer, "5", identifier="i")
        remote.rules(meter_repeated_identifier="ignored")
        send_usage(stripe_client, customer, "5", identifier="i")
        remote.advance(23 * HOUR)
        assert self.summary(stripe_client, meter, customer) == 5
        remote.advance(HOUR)
        send_usage(stripe_client, customer, "5", identifier="i", timestamp=NOW)
        remote.advance(timedelta(seconds=60))
        assert self.summary(stripe_client, meter, customer) == 10

    def test_cancel_events_of_meter_cancel_seconds(
        self, remote: Any, stripe_client: stripe.StripeClient, customer: str
    ) -> None:
        meter, _ = metered_price(stripe_client, formula="sum")
        send_usage(stripe_client, customer, "5", identifier="a")
        send_usage(stripe_client, customer, "6", identifier="b")
        cancel: Any = {"event_name": METER_EVENT, "type": "cancel", "cancel": {"identifier": "a"}}
        assert stripe_client.v1.billing.meter_event_adjustments.create(cancel).status == "pending"
        remote.advance(24 * HOUR)
        assert self.summary(stripe_client, meter, customer) == 6
        cancel["cancel"] = {"identifier": "b"}
        with refused(param="cancel[identifier]"):
            stripe_client.v1.billing.meter_event_adjustments.create(cancel)

    def test_report_what_is_wrong_after_meter_error_window_seconds(
        self, remote: Any, stripe_client: stripe.StripeClient
    ) -> None:
        meter, _ = metered_price(stripe_client)
        send_usage(stripe_client, "cus_unknown", "5")
        remote.advance(timedelta(seconds=3599))
        assert stripe_client.v2.core.events.list().data == []
        remote.advance(timedelta(seconds=1))
        (event,) = stripe_client.v2.core.events.list({"object_id": meter}).data
        assert isinstance(event, stripe.events.V1BillingMeterErrorReportTriggeredEvent)
        (problem,) = event.data.reason.error_types
        assert (problem.code, problem.error_count) == ("meter_event_customer_not_found", 1)


def test_the_signature_clock_is_tried_with_the_webhooks() -> None:
    assert Rules().signature_clock == "real"
