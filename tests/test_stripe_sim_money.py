"""Money in the stand-in: items and lines, credit notes, balances, prorations, voids; over the real SDK."""

from datetime import timedelta
from typing import Any

import pytest
import stripe
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resources.stripe_sim.billing_cycles import boundary, period_around
from resources.stripe_sim.server import RunningSim
from tests.stripe_fixtures import START, monthly_price, subscribe
from tests.stripe_fixtures import stripe_client as stripe_client
from tests.stripe_fixtures import stripe_sim as stripe_sim
from tests.stripe_scenario import metered_price, send_usage

APRIL = START.replace(month=4)
HOUR = timedelta(hours=1)


@pytest.fixture
def customer(stripe_client: stripe.StripeClient) -> str:
    """Return a new customer."""
    return stripe_client.v1.customers.create({"name": "Acme"}).id


def invoice_of(client: stripe.StripeClient, customer: str, *amounts: int, **params: Any) -> stripe.Invoice:
    """Make a draft with one line for every amount."""
    invoice = client.v1.invoices.create({"customer": customer, **params})
    return client.v1.invoices.add_lines(invoice.id, {"lines": [{"amount": amount} for amount in amounts]})


class TestItemsAndLines:
    def test_an_update_sets_and_does_not_add(self, stripe_client: stripe.StripeClient, customer: str) -> None:
        item = stripe_client.v1.invoice_items.create({"customer": customer, "amount": 100, "metadata": {"a": "1"}})
        for _ in range(2):
            changed = stripe_client.v1.invoice_items.update(item.id, {"amount": 250, "metadata": {"b": "2"}})
        assert (changed.amount, changed.metadata and changed.metadata.to_dict()) == (250, {"a": "1", "b": "2"})

    def test_a_line_has_an_id_of_its_own_and_shares_its_amount_with_the_item(
        self, stripe_client: stripe.StripeClient, customer: str
    ) -> None:
        v1 = stripe_client.v1
        draft = invoice_of(stripe_client, customer, 100)
        (line,) = draft.lines.data
        assert line.parent
        assert line.parent.invoice_item_details
        item = line.parent.invoice_item_details.invoice_item
        assert (line.id[:3], item[:3]) == ("il_", "ii_")
        v1.invoices.update_lines(draft.id, {"lines": [{"id": line.id, "amount": 300, "metadata": {"k": "v"}}]})
        assert v1.invoice_items.retrieve(item).amount == 300
        v1.invoice_items.update(item, {"amount": 400})
        (line,) = v1.invoices.retrieve(draft.id).lines.data
        assert (line.amount, line.metadata["k"]) == (400, "v")
        v1.invoices.line_items.update(draft.id, line.id, {"amount": 500})
        assert v1.invoices.retrieve(draft.id).total == 500

    def test_removed_lines_are_deleted_or_pending_again(
        self, stripe_client: stripe.StripeClient, customer: str
    ) -> None:
        draft = invoice_of(stripe_client, customer, 1, 2, 3)
        first, second, _ = draft.lines.data
        gone: Any = [{"id": first.id, "behavior": "delete"}, {"id": second.id, "behavior": "unassign"}]
        left = stripe_client.v1.invoices.remove_lines(draft.id, {"lines": gone})
        assert [line.amount for line in left.lines.data] == [3]
        assert [item.amount for item in stripe_client.v1.invoice_items.list({"pending": True}).data] == [2]

    def test_a_pending_item_can_be_put_on_a_draft_by_name(
        self, stripe_client: stripe.StripeClient, customer: str
    ) -> None:
        item = stripe_client.v1.invoice_items.create({"customer": customer, "amount": 700})
        draft = stripe_client.v1.invoices.create({"customer": customer})
        named: Any = {"lines": [{"invoice_item": item.id}]}
        assert stripe_client.v1.invoices.add_lines(draft.id, named).total == 700
        with pytest.raises(stripe.InvalidRequestError):
            stripe_client.v1.invoices.add_lines(draft.id, named)

    def test_nothing_of_a_final_invoice_can_be_changed(self, stripe_client: stripe.StripeClient, customer: str) -> None:
        v1 = stripe_client.v1
        draft = invoice_of(stripe_client, customer, 100)
        line = draft.lines.data[0]
        assert line.parent
        assert line.parent.invoice_item_details
        item = line.parent.invoice_item_details.invoice_item
        v1.invoices.finalize_invoice(draft.id)
        attempts = [
            lambda: v1.invoices.add_lines(draft.id, {"lines": [{"amount": 1}]}),
            lambda: v1.invoices.update_lines(draft.id, {"lines": [{"id": line.id, "amount": 1}]}),
            lambda: v1.invoices.remove_lines(draft.id, {"lines": [{"id": line.id, "behavior": "delete"}]}),
            lambda: v1.invoice_items.update(item, {"amount": 1}),
            lambda: v1.invoice_items.delete(item),
            lambda: v1.invoice_items.create({"customer": customer, "invoice": draft.id, "amount": 1}),
            lambda: v1.invoices.update(draft.id, {"days_until_due": 3}),
            lambda: v1.invoices.delete(draft.id),
            lambda: v1.invoices.finalize_invoice(draft.id),
        ]
        for attempt in attempts:
            with pytest.raises(stripe.InvalidRequestError) as caught:
                attempt()
            assert caught.value.code == "invoice_not_editable"
        assert v1.invoices.retrieve(draft.id).total == 100

    def test_amounts_of_quantities_are_rounded_half_up(self, stripe_client: stripe.StripeClient, customer: str) -> None:
        item: Any = {"customer": customer, "quantity": 3, "unit_amount_decimal": "0.5"}
        made = stripe_client.v1.invoice_items.create(item)
        assert (made.amount, made.quantity, str(made.pricing and made.pricing.unit_amount_decimal)) == (2, 3, "0.5")

    def test_a_decimal_with_an_exponent_is_refused(self, stripe_client: stripe.StripeClient, customer: str) -> None:
        for text in ("1E-7", "1e3", "0.1234567890123", "NaN", ""):
            with pytest.raises(stripe.InvalidRequestError):
                stripe_client.v1.invoice_items.create({"customer": customer, "unit_amount_decimal": text})  # type: ignore[typeddict-item]


class TestPendingItems:
    def test_are_taken_newest_first_before_the_subscriptions_lines_and_later_ones_after(
        self, stripe_sim: RunningSim, stripe_client: stripe.StripeClient, customer: str
    ) -> None:
        v1 = stripe_client.v1
        subscription = subscribe(stripe_client, customer, monthly_price(stripe_client))
        other = subscribe(stripe_client, customer, monthly_price(stripe_client, amount=100))
        v1.invoice_items.create({"customer": customer, "amount": 1, "subscription": subscription.id})
        v1.invoice_items.create({"customer": customer, "amount": 2})
        v1.invoice_items.create({"customer": customer, "amount": 3, "subscription": other.id})
        stripe_sim.remote.advance_to(APRIL)
        (mine,) = v1.invoices.list({"status": "draft", "subscription": subscription.id}).data
        (others,) = v1.invoices.list({"status": "draft", "subscription": other.id}).data
        v1.invoices.add_lines(mine.id, {"lines": [{"amount": 4}, {"amount": 5}]})
        assert [line.amount for line in v1.invoices.retrieve(mine.id).lines.data] == [2, 1, 2900, 4, 5]
        assert [line.amount for line in others.lines.data] == [3, 100]

    def test_are_swallowed_by_an_invoice_in_mid_cycle(
        self, stripe_sim: RunningSim, stripe_client: stripe.StripeClient, customer: str
    ) -> None:
        v1 = stripe_client.v1
        subscription = subscribe(stripe_client, customer, monthly_price(stripe_client, amount=3100))
        v1.invoice_items.create({"customer": customer, "amount": 77, "subscription": subscription.id})
        stripe_sim.remote.advance_to(START.replace(day=16))
        item = subscription["items"]["data"][0].id
        v1.subscriptions.update(
            subscription.id, {"items": [{"id": item, "quantity": 2}], "proration_behavior": "always_invoice"}
        )
        upgrade = v1.invoices.list({"subscription": subscription.id, "limit": 1}).data[0]
        # 16 of 31 days are left: credit for one, charge for two.
        assert sorted(line.amount for line in upgrade.lines.data) == [-1600, 77, 3200]
        assert (upgrade.billing_reason, upgrade.status, upgrade.total) == ("subscription_update", "paid", 1677)
        stripe_sim.remote.advance_to(APRIL)
        (renewal,) = v1.invoices.list({"status": "draft"}).data
        assert [line.amount for line in renewal.lines.data] == [6200]

    def test_stay_out_of_a_manual_invoice_unless_they_are_asked_for(
        self, stripe_client: stripe.StripeClient, customer: str
    ) -> None:
        stripe_client.v1.invoice_items.create({"customer": customer, "amount": 900})
        assert stripe_client.v1.invoices.create({"customer": customer}).total == 0
        including: Any = {"customer": customer, "pending_invoice_items_behavior": "include"}
        assert stripe_client.v1.invoices.create(including).total == 900

    def test_are_on_a_last_invoice_when_the_subscription_ends_with_its_period(
        self, stripe_sim: RunningSim, stripe_client: stripe.StripeClient, customer: str
    ) -> None:
        v1 = stripe_client.v1
        subscription = subscribe(stripe_client, customer, monthly_price(stripe_client), cancel_at_period_end=True)
        v1.invoice_items.create({"customer": customer, "amount": 900, "subscription": subscription.id})
        stripe_sim.remote.advance_to(APRIL)
        (last,) = v1.invoices.list({"status": "draft"}).data
        assert (last.billing_reason, last.total) == ("subscription_cycle", 900)
        assert v1.subscriptions.retrieve(subscription.id).status == "canceled"

    def test_preview_equals_the_invoice(
        self, stripe_sim: RunningSim, stripe_client: stripe.StripeClient, customer: str
    ) -> None:
        v1 = stripe_client.v1
        subscription = subscribe(stripe_client, customer, monthly_price(stripe_client))
        v1.invoice_items.create({"customer": customer, "amount": 900, "subscription": subscription.id})
        before = v1.events.list().data[0].id
        preview = v1.invoices.create_preview({"subscription": subscription.id})
        assert v1.events.list().data[0].id == before
        stripe_sim.remote.advance_to(APRIL)
        (draft,) = v1.invoices.list({"status": "draft"}).data
        assert [(line.amount, line.period.start) for line in preview.lines.data] == [
            (line.amount, line.period.start) for line in draft.lines.data
        ]
        assert (preview.total, preview.amount_due) == (draft.total, draft.amount_due)


class TestEnds:
    def test_at_once_leave_pending_items_to_another_invoice_and_drop_prorations(
        self, stripe_sim: RunningSim, stripe_client: stripe.StripeClient, customer: str
    ) -> None:
        v1 = stripe_client.v1
        subscription = subscribe(stripe_client, customer, monthly_price(stripe_client, amount=3100))
        v1.invoice_items.create({"customer": customer, "amount": 900, "subscription": subscription.id})
        stripe_sim.remote.advance_to(START.replace(day=16))
        v1.subscriptions.update(
            subscription.id, {"items": [{"id": subscription["items"]["data"][0].id, "quantity": 2}]}
        )
        assert [item.amount for item in v1.invoice_items.list({"pending": True}).data] == [3200, -1600, 900]
        v1.subscriptions.cancel(subscription.id)
        assert [item.amount for item in v1.invoice_items.list({"pending": True}).data] == [900]
        including: Any = {"customer": customer, "pending_invoice_items_behavior": "include"}
        assert v1.invoices.create(including).total == 900
        stripe_sim.remote.advance_to(APRIL)
        assert v1.invoices.list({"subscription": subscription.id, "status": "draft"}).data == []

    def test_at_once_invoice_and_credit_what_is_asked_for(
        self, stripe_sim: RunningSim, stripe_client: stripe.StripeClient, customer: str
    ) -> None:
        v1 = stripe_client.v1
        subscription = subscribe(stripe_client, customer, monthly_price(stripe_client, amount=3100))
        stripe_sim.remote.advance_to(START.replace(day=16))
        v1.subscriptions.cancel(subscription.id, {"invoice_now": True, "prorate": True})
        assert v1.invoices.list({"limit": 1}).data[0].total == -1600

    def test_at_an_instant_or_with_the_period(
        self, stripe_sim: RunningSim, stripe_client: stripe.StripeClient, customer: str
    ) -> None:
        v1 = stripe_client.v1
        price = monthly_price(stripe_client)
        middle = int(START.replace(day=16).timestamp())
        soon = subscribe(stripe_client, customer, price, cancel_at=middle)
        later = subscribe(stripe_client, customer, price)
        held = v1.subscriptions.update(later.id, {"cancel_at_period_end": True})
        assert held.cancel_at == int(APRIL.timestamp())
        never = subscribe(stripe_client, customer, price, cancel_at_period_end=True)
        v1.subscriptions.update(never.id, {"cancel_at_period_end": False})
        stripe_sim.remote.advance_to(START.replace(day=17))
        assert v1.subscriptions.retrieve(soon.id).ended_at == middle
        stripe_sim.remote.advance_to(APRIL)
        assert [one.id for one in v1.subscriptions.list({"status": "active"}).data] == [never.id]
        with pytest.raises(stripe.InvalidRequestError):
            v1.subscriptions.update(later.id, {"cancel_at_period_end": False})
        v1.subscriptions.update(later.id, {"metadata": {"a": "b"}})

    def test_stop_the_collection_of_open_invoices(
        self, stripe_sim: RunningSim, stripe_client: stripe.StripeClient, customer: str
    ) -> None:
        subscription = subscribe(stripe_client, customer, monthly_price(stripe_client))
        stripe_sim.remote.decline(customer)
        stripe_sim.remote.advance_to(APRIL + HOUR)
        stripe_client.v1.subscriptions.cancel(subscription.id)
        (invoice,) = stripe_client.v1.invoices.list({"status": "open"}).data
        assert (invoice.auto_advance, invoice.next_payment_attempt) == (False, None)

    @pytest.mark.parametrize(
        ("behavior", "status"), [("keep_as_draft", "draft"), ("void", "void"), ("mark_uncollectible", "uncollectible")]
    )
    def test_pauses_keep_invoices_from_being_collected(
        self,
        stripe_sim: RunningSim,
        stripe_client: stripe.StripeClient,
        customer: str,
        behavior: Any,
        status: str,
    ) -> None:
        v1 = stripe_client.v1
        subscription = subscribe(stripe_client, customer, monthly_price(stripe_client))
        resumes = int(APRIL.timestamp()) + 86400
        v1.subscriptions.update(subscription.id, {"pause_collection": {"behavior": behavior, "resumes_at": resumes}})
        stripe_sim.remote.advance_to(APRIL + 2 * HOUR)
        assert v1.invoices.list({"limit": 1}).data[0].status == status
        stripe_sim.remote.advance_to(START.replace(month=5) + 2 * HOUR)
        assert v1.invoices.list({"limit": 1}).data[0].status == "paid"

    def test_a_trial_is_free_and_its_end_renews(
        self, stripe_sim: RunningSim, stripe_client: stripe.StripeClient, customer: str
    ) -> None:
        v1 = stripe_client.v1
        subscription = subscribe(stripe_client, customer, monthly_price(stripe_client), trial_period_days=7)
        assert (subscription.status, v1.invoices.list().data[0].total) == ("trialing", 0)
        stripe_sim.remote.advance_to(START.replace(day=8))
        renewed = v1.subscriptions.retrieve(subscription.id)
        assert (renewed.status, v1.invoices.list({"limit": 1}).data[0].total) == ("active", 2900)
        start, end = START.replace(day=8), APRIL.replace(day=8)
        (item,) = renewed["items"]["data"]
        assert (item.current_period_start, item.current_period_end) == (int(start.timestamp()), int(end.timestamp()))


class TestMeteredSubscriptions:
    def test_bill_the_ended_period_with_what_came_until_the_invoice_is_final(
        self, stripe_sim: RunningSim, stripe_client: stripe.StripeClient, customer: str
    ) -> None:
        _, price = metered_price(stripe_client, unit_amount=3)
        subscribe(stripe_client, customer, price)
        send_usage(stripe_client, customer, "100", timestamp=int(START.timestamp()) + 5)
        stripe_sim.remote.advance_to(APRIL)
        (draft,) = stripe_client.v1.invoices.list({"status": "draft"}).data
        assert (draft.total, draft.lines.data[0].quantity) == (300, 100)
        send_usage(stripe_client, customer, "120", timestamp=int(APRIL.timestamp()) - 1)
        send_usage(stripe_client, customer, "9", timestamp=int(APRIL.timestamp()))
        stripe_sim.remote.advance(HOUR)
        assert stripe_client.v1.invoices.retrieve(draft.id).total == 360

    def test_never_bill_what_came_before_them(
        self, stripe_sim: RunningSim, stripe_client: stripe.StripeClient, customer: str
    ) -> None:
        _, price = metered_price(stripe_client)
        send_usage(stripe_client, customer, "100", timestamp=int(START.timestamp()) - 5)
        subscribe(stripe_client, customer, price)
        stripe_sim.remote.advance_to(APRIL)
        (draft,) = stripe_client.v1.invoices.list({"status": "draft"}).data
        assert draft.total == 0


class TestCreditNotes:
    def test_reduce_what_remains_first_and_pay_the_invoice_when_nothing_does(
        self, stripe_client: stripe.StripeClient, customer: str
    ) -> None:
        v1 = stripe_client.v1
        draft = invoice_of(stripe_client, customer, 1000)
        v1.invoices.finalize_invoice(draft.id)
        note = v1.credit_notes.create({"invoice": draft.id, "amount": 400})
        assert (note.type, note.pre_payment_amount, note.post_payment_amount) == ("pre_payment", 400, 0)
        held = v1.invoices.retrieve(draft.id)
        assert (held.amount_due, held.amount_remaining, held.total, held.status) == (600, 600, 1000, "open")
        v1.credit_notes.void_credit_note(note.id)
        assert v1.invoices.retrieve(draft.id).amount_remaining == 1000
        v1.credit_notes.create({"invoice": draft.id, "amount": 1000})
        assert v1.invoices.retrieve(draft.id).status == "paid"

    def test_of_a_paid_invoice_are_split_exactly(self, stripe_client: stripe.StripeClient, customer: str) -> None:
        v1 = stripe_client.v1
        draft = invoice_of(stripe_client, customer, 1000)
        v1.invoices.pay(draft.id)
        for split in ({}, {"refund_amount": 300}, {"refund_amount": 300, "credit_amount": 201}):
            with pytest.raises(stripe.InvalidRequestError):
                v1.credit_notes.create({"invoice": draft.id, "amount": 500, **split})  # type: ignore[typeddict-item]
        split = {"refund_amount": 300, "credit_amount": 150, "out_of_band_amount": 50}
        note = v1.credit_notes.create({"invoice": draft.id, "amount": 500, **split})  # type: ignore[typeddict-item]
        assert (note.type, note.post_payment_amount, note.refunds[0].amount_refunded) == ("post_payment", 500, 300)
        assert v1.customers.retrieve(customer).balance == -150
        assert v1.invoices.retrieve(draft.id).post_payment_credit_notes_amount == 500

    def test_credit_no_line_and_no_invoice_twice(self, stripe_client: stripe.StripeClient, customer: str) -> None:
        v1 = stripe_client.v1
        draft = invoice_of(stripe_client, customer, 600, 400)
        with pytest.raises(stripe.InvalidRequestError):
            v1.credit_notes.create({"invoice": draft.id, "amount": 1})
        v1.invoices.finalize_invoice(draft.id)
        line: Any = {"type": "invoice_line_item", "invoice_line_item": draft.lines.data[0].id, "amount": 500}
        v1.credit_notes.create({"invoice": draft.id, "lines": [line]})
        for again in ({"lines": [line]}, {"amount": 501}):
            with pytest.raises(stripe.InvalidRequestError):
                v1.credit_notes.create({"invoice": draft.id, **again})  # type: ignore[typeddict-item]
        assert len(v1.credit_notes.list({"invoice": draft.id}).data) == 1


class TestBalances:
    def test_cover_invoices_and_take_what_is_less_than_nothing(
        self, stripe_client: stripe.StripeClient, customer: str
    ) -> None:
        v1 = stripe_client.v1
        v1.invoices.finalize_invoice(invoice_of(stripe_client, customer, -300).id)
        assert v1.customers.retrieve(customer).balance == -300
        final = v1.invoices.finalize_invoice(invoice_of(stripe_client, customer, 1000).id)
        assert (final.starting_balance, final.ending_balance, final.amount_due) == (-300, 0, 700)
        v1.invoices.void_invoice(final.id)
        assert v1.customers.retrieve(customer).balance == -300
        moved = v1.customers.balance_transactions.list(customer).data
        assert [one.amount for one in moved] == [-300, 300, -300]

    @settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(amounts=st.lists(st.integers(-3000, 3000), min_size=1, max_size=4))
    def test_lose_no_cent_whatever_is_invoiced(self, stripe_client: stripe.StripeClient, amounts: list[int]) -> None:
        v1 = stripe_client.v1
        customer = v1.customers.create({}).id
        collected = 0
        for amount in amounts:
            paid = v1.invoices.pay(invoice_of(stripe_client, customer, amount).id)
            collected += paid.amount_paid
        owed = v1.customers.retrieve(customer).balance
        assert owed is not None
        assert collected + owed == sum(amounts)


class TestDeletedCustomers:
    def test_end_their_subscriptions_and_take_nothing_more(
        self, stripe_client: stripe.StripeClient, customer: str
    ) -> None:
        v1 = stripe_client.v1
        subscription = subscribe(stripe_client, customer, monthly_price(stripe_client))
        v1.customers.delete(customer)
        assert v1.customers.retrieve(customer).deleted is True
        assert v1.subscriptions.retrieve(subscription.id).status == "canceled"
        with pytest.raises(stripe.InvalidRequestError) as caught:
            v1.invoice_items.create({"customer": customer, "amount": 1})
        assert (caught.value.code, caught.value.param) == ("resource_missing", "customer")


class TestBillingCycles:
    @pytest.mark.parametrize(("number", "month", "day"), [(0, 1, 31), (1, 2, 28), (2, 3, 31), (3, 4, 30), (-1, 12, 31)])
    def test_are_cut_to_the_last_day_of_a_month_and_come_back(self, number: int, month: int, day: int) -> None:
        anchor = START.replace(month=1, day=31, hour=10)
        year = 2025 if number < 0 else 2026
        wanted = anchor.replace(year=year, month=month, day=day)
        assert boundary(int(anchor.timestamp()), "month", 1, number) == int(wanted.timestamp())

    @given(st.integers(0, 2**31), st.integers(0, 2**31), st.sampled_from(["day", "week", "month", "year"]))
    @settings(max_examples=50)
    def test_hold_every_instant_once(self, anchor: int, offset: int, interval: str) -> None:
        now = anchor + offset % (400 * 86400)
        start, end = period_around(anchor, interval, 1, now)
        assert start <= now < end
