"""The mirror of Stripe: every event counts once, the object's state counts and not the event's copy, in any order."""

import os
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing_pipeline.errors import BillingError
from billing_pipeline.stripe_events.effects import may_follow
from billing_pipeline.stripe_events.envelope import (
    SNAPSHOT_TYPES,
    EventUnreadableError,
    IgnoredEvent,
    ObjectKind,
    StripeEvent,
    read_event,
)
from billing_pipeline.stripe_events.objects import InvoiceStatus, read_invoice
from resources.database import Database
from resources.stripe_mirror import inbox, rows
from resources.stripe_mirror.feed import FIRST_USE, V2, due_relisting, feed_states
from resources.stripe_mirror.inbox import EventUnknownError, StripeObject
from resources.stripe_mirror.links import stripe_links
from resources.stripe_mirror.reads import StripeAwayError
from resources.stripe_mirror.rows import FetchedInvoice
from tests.made_up_stripe import START
from tests.stripe_books import Mirror, never

# Each example is a month of a database.
EXAMPLES = int(os.environ.get("BILLING_MIRROR_EXAMPLES", "4"))


@pytest.fixture
def mirror(database: Database, tmp_path: Path) -> Mirror:
    return Mirror.opened(database, tmp_path / "catalog")


def applied_once(mirror: Mirror) -> bool:
    return {row["state"] for row in mirror.rows("select state from stripe.event_work")} <= {"applied"}


class TestReadEvent:
    def test_asks_for_as_many_types_as_stripe_lists_at_once(self) -> None:
        assert len(set(SNAPSHOT_TYPES)) == 20

    def test_reads_which_object_changed_and_nothing_personal(self) -> None:
        document = {
            "id": "evt_1",
            "object": "event",
            "type": "customer.subscription.updated",
            "created": 1_775_000_000,
            "livemode": True,
            "data": {"object": {"id": "sub_1", "customer": {"id": "cus_1", "email": "jane@example.com"}}},
        }
        assert read_event(document) == StripeEvent(
            event_id="evt_1",
            event_type="customer.subscription.updated",
            kind=ObjectKind.SUBSCRIPTION,
            object_id="sub_1",
            customer_id="cus_1",
            created_at=datetime(2026, 3, 31, 23, 33, 20, tzinfo=UTC),
            is_live=True,
        )

    def test_reads_thin_events_by_their_related_object(self) -> None:
        document = {
            "id": "evt_2",
            "object": "v2.core.event",
            "type": "v1.invoice.created",
            "created": "2026-04-01T00:00:03.123Z",
            "related_object": {"id": "in_1", "type": "invoice", "url": "/v1/invoices/in_1"},
        }
        event = read_event(document)
        assert isinstance(event, StripeEvent)
        assert (event.kind, event.object_id, event.event_type) == (ObjectKind.INVOICE, "in_1", "invoice.created")
        assert event.created_at == datetime(2026, 4, 1, 0, 0, 3, 123_000, tzinfo=UTC)

    def test_leaves_other_types_alone(self) -> None:
        document = {"id": "evt_3", "object": "event", "type": "charge.succeeded", "created": 1, "data": {}}
        assert read_event(document) == IgnoredEvent(event_id="evt_3", event_type="charge.succeeded")

    @pytest.mark.parametrize(
        "broken",
        [{"id": ""}, {"type": 5}, {"created": "yesterday"}, {"created": None}, {"data": {"object": {}}}, {"data": []}],
    )
    def test_refuses_what_names_no_object_or_time(self, broken: dict[str, Any]) -> None:
        document = {"id": "evt_4", "type": "invoice.paid", "created": 1, "data": {"object": {"id": "in_1"}}}
        with pytest.raises(EventUnreadableError):
            read_event({**document, **broken})


class TestFeed:
    """Rows 34 and 35."""

    def test_brings_each_event_once(self, mirror: Mirror) -> None:
        for name in ("acme", "beta"):
            mirror.stripe.customer(name)
        assert len(mirror.poll().new_event_ids) == 2
        again = mirror.poll()
        assert (again.events_read, again.new_event_ids) == (2, ())

    def test_keeps_events_of_one_second_apart(self, mirror: Mirror) -> None:
        """At the second at which the last poll ended one more is made: the overlap finds it."""
        mirror.stripe.customer("acme")
        mirror.poll()
        mirror.stripe.customer("beta")
        assert len(mirror.poll().new_event_ids) == 1

    def test_finds_an_event_that_shows_late(self, mirror: Mirror) -> None:
        mirror.stripe.customer("acme")
        mirror.stripe.customer("beta")
        late = mirror.stripe.events.pop(0)
        mirror.poll()
        mirror.tick(minutes=9)
        mirror.stripe.events.insert(0, late)
        assert mirror.poll().new_event_ids == (late["id"],)

    def test_goes_on_where_its_time_was_up(self, mirror: Mirror) -> None:
        """Row 34: page breaks and restarts. Newer events come in between; nothing is read in vain or left out."""
        mirror.stripe.customer("acme")
        for _ in range(230):
            mirror.stripe.tell("cus_acme", "customer.updated")
        first = mirror.poll(may_go_on=never)
        assert (first.events_read, first.is_complete) == (100, False)
        mirror.tick(seconds=1)
        mirror.stripe.tell("cus_acme", "customer.updated")
        assert [mirror.poll(may_go_on=never).events_read for _ in range(2)] == [100, 31]
        last = mirror.poll(may_go_on=never)
        assert len(last.new_event_ids) == 1
        assert mirror.one("select count(*) from stripe.event") == 232
        mirror.tick(hours=1)
        for _ in range(3):
            mirror.poll()
        assert mirror.poll().events_read == 0

    def test_does_not_move_its_end_before_a_walk_has_arrived(self, mirror: Mirror) -> None:
        mirror.stripe.customer("acme")
        mirror.poll()
        mirror.tick(hours=2)
        for _ in range(150):
            mirror.stripe.tell("cus_acme", "customer.updated")
        mirror.poll(may_go_on=never)
        (state,) = self.states(mirror)
        assert state.complete_until == START
        mirror.poll()
        (state,) = self.states(mirror)
        assert state.complete_until == START + timedelta(hours=2)

    def test_keeps_what_was_read_before_stripe_went_away(self, mirror: Mirror) -> None:
        mirror.stripe.customer("acme")
        mirror.stripe.is_away = True
        with pytest.raises(StripeAwayError):
            mirror.poll()
        mirror.stripe.is_away = False
        assert len(mirror.poll().new_event_ids) == 1

    def test_has_everything_listed_at_first_use(self, mirror: Mirror) -> None:
        assert mirror.poll().relist_reason == FIRST_USE
        mirror.relist(FIRST_USE)
        assert mirror.poll().relist_reason is None

    def test_has_everything_listed_after_a_gap_that_the_feed_does_not_reach(self, mirror: Mirror) -> None:
        self.read_from_the_start(mirror)
        mirror.tick(days=29)
        assert mirror.poll().relist_reason is None
        mirror.tick(days=31)
        reason = mirror.poll().relist_reason
        assert reason is not None
        assert "2026-04-30 00:00 UTC" in reason
        mirror.relist(reason)
        assert mirror.poll().relist_reason is None

    def test_has_everything_listed_when_it_does_not_know_where_it_was(self, mirror: Mirror) -> None:
        self.read_from_the_start(mirror)
        for _ in range(150):
            mirror.stripe.tell("cus_acme", "customer.updated")
        mirror.poll(may_go_on=never)
        mirror.stripe.events = [event for event in mirror.stripe.events if event["id"] != "evt_00051"]
        polled = mirror.poll()
        assert not polled.is_complete
        assert polled.relist_reason is not None
        assert mirror.poll().is_complete
        assert mirror.one("select count(*) from stripe.event") == 151

    def test_a_newer_reason_is_not_taken_back_by_an_older_listing(self, mirror: Mirror) -> None:
        self.read_from_the_start(mirror)
        mirror.tick(days=40)
        reason = mirror.poll().relist_reason
        mirror.relist("another reason")
        with mirror.database.reading() as connection:
            found = due_relisting(connection)
        assert found is not None
        assert found.reason == reason

    def test_of_meter_reports_is_read_too(self, mirror: Mirror) -> None:
        """Row 33's inbox: thin events of the v2 feed, fetched whole, once."""
        mirror.stripe.objects["evt_v2"] = meter_report("evt_v2")
        assert mirror.poll(V2).new_event_ids == ("evt_v2",)
        assert mirror.poll(V2).new_event_ids == ()
        mirror.apply()
        assert mirror.rows("select code, meter_id, error_count, identifiers from stripe.meter_error") == [
            {"code": "no_meter", "meter_id": "mtr_1", "error_count": 3, "identifiers": ["bp:mtr_1:si_1:1"]}
        ]

    def test_shows_an_event_that_nobody_can_read(self, mirror: Mirror) -> None:
        mirror.stripe.customer("acme")
        mirror.stripe.events.append(
            {"id": "evt_x", "object": "event", "type": "invoice.paid", "created": 1_775_001_600}
        )
        mirror.poll()
        (state,) = self.states(mirror)
        assert state.problem is not None
        assert "evt_x" in state.problem
        assert mirror.one("select count(*) from stripe.event") == 1

    def read_from_the_start(self, mirror: Mirror) -> None:
        mirror.stripe.customer("acme")
        mirror.poll()
        mirror.relist(FIRST_USE)

    def states(self, mirror: Mirror) -> Any:
        with mirror.database.reading() as connection:
            return feed_states(connection)


class TestApply:
    def test_trusts_the_object_and_not_the_event(self, mirror: Mirror) -> None:
        """Row 37: the event says draft, Stripe says open."""
        mirror.stripe.customer("acme")
        invoice = mirror.stripe.invoice("cus_acme")
        mirror.stripe.finalize(invoice)
        del mirror.stripe.events[-1]
        assert mirror.stripe.events[-1]["data"]["object"]["status"] == "draft"
        mirror.follow()
        assert mirror.one("select status from stripe.invoice") == "open"

    def test_fetches_an_object_once_for_all_of_its_events(self, mirror: Mirror) -> None:
        mirror.stripe.customer("acme")
        invoice = mirror.stripe.invoice("cus_acme")
        for _ in range(5):
            mirror.stripe.tell(invoice, "invoice.updated")
        done = mirror.follow()
        assert (done.objects, done.events, done.is_complete) == (2, 7, True)
        assert mirror.stripe.calls["retrieve_invoice"] == 1
        assert applied_once(mirror)
        assert mirror.apply().objects == 0

    def test_keeps_nothing_personal(self, mirror: Mirror) -> None:
        customer = mirror.stripe.customer("acme")
        mirror.stripe.subscription(customer)
        mirror.stripe.invoice(customer)
        mirror.follow()
        for table in ("event", "customer", "subscription", "subscription_item", "invoice", "invoice_line"):
            found = mirror.rows(f"select to_jsonb(kept)::text as kept from stripe.{table} as kept")
            assert found
            assert not any("jane" in row["kept"].lower() for row in found)

    def test_reads_all_lines_and_items(self, mirror: Mirror) -> None:
        customer = mirror.stripe.customer("acme")
        lines = [mirror.stripe.line(f"il_{number:03}") for number in range(240)]
        embedded = {"object": "list", "data": lines[:10], "has_more": True}
        mirror.stripe.invoice(customer, lines=embedded, all_lines=lines)
        mirror.follow()
        assert mirror.one("select count(*) from stripe.invoice_line") == 240

    def test_looks_through_a_list_when_there_are_many(self, mirror: Mirror) -> None:
        for number in range(250):
            mirror.stripe.invoice(mirror.stripe.customer(f"c{number}"))
        mirror.follow()
        assert mirror.one("select count(*) from stripe.invoice") == 250
        assert mirror.stripe.calls["list_invoices"] == 3
        assert mirror.stripe.calls["list_customers"] == 3
        assert mirror.stripe.calls["retrieve_invoice"] + mirror.stripe.calls["retrieve_customer"] == 0

    def test_marks_deleted_drafts_and_customers(self, mirror: Mirror) -> None:
        customer = mirror.stripe.customer("acme")
        draft = mirror.stripe.invoice(customer, billing_reason="manual")
        mirror.follow()
        mirror.stripe.delete(draft, "invoice.deleted")
        mirror.stripe.delete(customer, "customer.deleted")
        mirror.follow()
        assert mirror.one("select status from stripe.invoice") == "deleted"
        assert mirror.one("select is_deleted from stripe.customer")
        assert applied_once(mirror)

    def test_leaves_what_was_deleted_before_it_was_seen(self, mirror: Mirror) -> None:
        mirror.stripe.customer("acme")
        draft = mirror.stripe.invoice("cus_acme")
        mirror.stripe.delete(draft, "invoice.deleted")
        mirror.follow()
        assert mirror.rows("select * from stripe.invoice") == []
        assert applied_once(mirror)

    def test_of_one_customer_leaves_the_others(self, mirror: Mirror) -> None:
        for name in ("acme", "beta"):
            mirror.stripe.invoice(mirror.stripe.customer(name))
        mirror.poll()
        assert mirror.apply(customer_id="cus_beta").objects == 2
        assert [row["customer_id"] for row in mirror.rows("select customer_id from stripe.customer")] == ["cus_beta"]


class TestStale:
    """Row 38: an older answer never overwrites a newer row."""

    def fetched(self, mirror: Mirror, invoice: str) -> FetchedInvoice:
        document = mirror.stripe.objects[invoice]
        return FetchedInvoice(invoice=read_invoice(document), lines=(), payments=())

    def write(self, mirror: Mirror, fetched: rows.Fetched, fetch: rows.Fetch) -> bool:
        with mirror.database.transaction() as connection:
            return rows.write(connection, fetched, fetch)

    def test_is_decided_by_which_fetch_began_later(self, mirror: Mirror) -> None:
        invoice = mirror.stripe.invoice("cus_acme", total=1)
        slow = rows.begin_fetch(mirror.database, now=mirror.now + timedelta(days=1))
        old = self.fetched(mirror, invoice)
        mirror.stripe.change(invoice, "invoice.updated", total=2)
        quick = rows.begin_fetch(mirror.database, now=mirror.now - timedelta(days=1))
        assert self.write(mirror, self.fetched(mirror, invoice), quick)
        assert not self.write(mirror, old, slow)
        assert mirror.one("select total_stripe_minor from stripe.invoice") == 2

    def test_draft_never_follows_a_final_invoice(self, mirror: Mirror) -> None:
        invoice = mirror.stripe.invoice("cus_acme")
        draft = self.fetched(mirror, invoice)
        mirror.stripe.finalize(invoice)
        self.write(mirror, self.fetched(mirror, invoice), rows.begin_fetch(mirror.database, now=mirror.now))
        assert not self.write(mirror, draft, rows.begin_fetch(mirror.database, now=mirror.now))

    def test_answer_never_brings_back_what_is_deleted(self, mirror: Mirror) -> None:
        invoice = mirror.stripe.invoice("cus_acme")
        slow = rows.begin_fetch(mirror.database, now=mirror.now)
        draft = self.fetched(mirror, invoice)
        mirror.stripe.delete(invoice, "invoice.deleted")
        mirror.follow()
        assert not self.write(mirror, draft, slow)
        assert mirror.rows("select * from stripe.invoice") == []

    def test_of_another_account_does_no_lasting_harm(self, mirror: Mirror) -> None:
        """A key of another Stripe account knows none of our objects."""
        mirror.stripe.invoice(mirror.stripe.customer("acme"))
        mirror.follow()
        ours, mirror.stripe.objects = mirror.stripe.objects, {}
        mirror.relist()
        assert mirror.one("select status from stripe.invoice") == "deleted"
        mirror.stripe.objects = ours
        mirror.relist()
        assert mirror.one("select status from stripe.invoice") == "draft"
        assert mirror.one("select state from stripe.trueup_queue") == "waiting"

    def test_rule_of_states_is_the_same_in_sql(self, mirror: Mirror) -> None:
        for standing, fetched in product(InvoiceStatus, repeat=2):
            if fetched is InvoiceStatus.DELETED:
                continue
            invoice = mirror.stripe.invoice("cus_acme")
            for number, status in enumerate((standing, fetched)):
                text = "open" if status is InvoiceStatus.DELETED else status.value
                mirror.stripe.objects[invoice].update(status=text, total=number)
                fetch = rows.begin_fetch(mirror.database, now=mirror.now)
                written = self.write(mirror, self.fetched(mirror, invoice), fetch)
                if status is InvoiceStatus.DELETED:
                    later = rows.begin_fetch(mirror.database, now=mirror.now)
                    with mirror.database.transaction() as connection:
                        rows.write_deleted(connection, StripeObject(ObjectKind.INVOICE, invoice), later)
            assert written == may_follow(standing, fetched), (standing, fetched)


class TestTrouble:
    def test_of_one_object_leaves_the_others_alone(self, mirror: Mirror) -> None:
        for name in ("acme", "beta"):
            mirror.stripe.customer(name)
        mirror.stripe.broken.add("cus_acme")
        done = mirror.follow()
        assert list(done.failed) == ["customer cus_acme"]
        assert [row["customer_id"] for row in mirror.rows("select customer_id from stripe.customer")] == ["cus_beta"]
        assert mirror.apply().objects == 0
        mirror.tick(minutes=1)
        mirror.stripe.broken.clear()
        assert mirror.apply().objects == 1
        assert applied_once(mirror)

    def test_that_does_not_end_makes_an_event_dead_until_a_person_lets_it_be_tried(self, mirror: Mirror) -> None:
        mirror.stripe.customer("acme")
        mirror.stripe.broken.add("cus_acme")
        mirror.poll()
        for _ in range(20):
            mirror.apply()
            mirror.tick(hours=1)
        assert mirror.stripe.calls["retrieve_customer"] == inbox.MOST_ATTEMPTS
        with mirror.database.transaction() as connection:
            assert inbox.counts(connection).dead == 1
            assert inbox.reopen(connection, ["evt_00000"], now=mirror.now) == 1
            with pytest.raises(EventUnknownError):
                inbox.reopen(connection, ["evt_x"], now=mirror.now)
        mirror.stripe.broken.clear()
        mirror.apply()
        assert applied_once(mirror)

    def test_of_stripe_itself_counts_no_attempt(self, mirror: Mirror) -> None:
        mirror.stripe.customer("acme")
        mirror.poll()
        mirror.stripe.is_away = True
        for _ in range(20):
            with pytest.raises(StripeAwayError):
                mirror.apply()
        assert mirror.one("select state, attempts from stripe.event_work") == {"state": "open", "attempts": 0}
        mirror.stripe.is_away = False
        assert mirror.apply().events == 1


class TestSettle:
    def test_queues_renewals_and_nothing_else(self, mirror: Mirror) -> None:
        """Rows 4 and 23."""
        customer = mirror.stripe.customer("acme")
        renewal = mirror.stripe.invoice(customer)
        for reason in ("subscription_create", "subscription_update", "subscription_threshold", "manual"):
            mirror.stripe.invoice(customer, billing_reason=reason)
        mirror.stripe.tell(renewal, "invoice.created")
        mirror.follow()
        assert [row["invoice_id"] for row in mirror.rows("select * from stripe.trueup_queue")] == [renewal]

    def test_says_where_the_ended_period_ends_by_the_lines(self, mirror: Mirror) -> None:
        """Row 24: neither the invoice's own period nor any clock."""
        customer = mirror.stripe.customer("acme")
        mirror.stripe.tick(minutes=4)
        mirror.now += timedelta(days=400)
        invoice = mirror.stripe.invoice(customer)
        boundary = START + timedelta(minutes=3)
        line = mirror.stripe.objects[invoice]["lines"]["data"][0]
        line["period"] = {"start": int(boundary.timestamp()), "end": int(boundary.timestamp()) + 2_592_000}
        mirror.follow()
        assert mirror.one("select boundary_at from stripe.trueup_queue") == boundary

    def test_says_when_a_renewal_was_final_too_early(self, mirror: Mirror) -> None:
        """Row 20."""
        customer = mirror.stripe.customer("acme")
        seen = mirror.stripe.invoice(customer)
        mirror.follow()
        unseen = mirror.stripe.invoice(customer)
        for invoice in (seen, unseen):
            mirror.stripe.finalize(invoice)
        mirror.follow()
        rows = mirror.rows("select invoice_id, state from stripe.trueup_queue order by 1")
        assert rows == [{"invoice_id": seen, "state": "missed"}, {"invoice_id": unseen, "state": "missed"}]

    def test_waits_for_a_customer_to_be_linked(self, mirror: Mirror) -> None:
        customer = mirror.stripe.customer("acme", metadata={})
        invoice = mirror.stripe.invoice(customer)
        mirror.stripe.finalize(invoice)
        mirror.tick(minutes=1)
        mirror.stripe.fail_payment(invoice)
        mirror.follow()
        assert mirror.rows("select * from billing.payment_event") == []
        mirror.stripe.change(customer, "customer.updated", metadata={"bp_account": "acme"})
        mirror.follow()
        assert [row["kind"] for row in mirror.rows("select kind from billing.payment_event")] == ["payment_failed"]
        assert mirror.one("select arrears_since from billing.payment_arrears_state") == START + timedelta(minutes=1)

    def test_tells_payments_once_whatever_comes_again(self, mirror: Mirror) -> None:
        """SVC-23 to SVC-25: failures by when they happened, one payment an invoice."""
        invoice = mirror.stripe.invoice(mirror.stripe.customer("acme"))
        mirror.stripe.finalize(invoice)
        for _ in range(2):
            mirror.tick(days=1)
            mirror.stripe.fail_payment(invoice)
        mirror.follow()
        assert mirror.one("select arrears_since from billing.payment_arrears_state") == START + timedelta(days=1)
        mirror.tick(days=1)
        mirror.stripe.pay(invoice)
        for _ in range(3):
            mirror.stripe.tell(invoice, "invoice.paid")
        mirror.follow()
        kinds = [row["kind"] for row in mirror.rows("select kind from billing.payment_event order by happened_at")]
        assert kinds == ["payment_failed", "payment_failed", "invoice_paid"]
        assert not mirror.one("select payment_arrears from billing.payment_arrears_state")

    def test_keeps_arrears_of_an_invoice_when_another_is_paid(self, mirror: Mirror) -> None:
        customer = mirror.stripe.customer("acme")
        unpaid, paid = mirror.stripe.invoice(customer), mirror.stripe.invoice(customer)
        for invoice in (unpaid, paid):
            mirror.stripe.finalize(invoice)
        mirror.stripe.fail_payment(unpaid)
        mirror.tick(days=1)
        mirror.stripe.pay(paid)
        mirror.follow()
        arrears = "select arrears_since from billing.payment_arrears_state"
        assert mirror.one(arrears) == START
        mirror.tick(days=1)
        mirror.stripe.pay(unpaid)
        mirror.follow()
        assert mirror.one(arrears) is None

    def test_takes_an_invoice_that_came_to_nothing_for_no_payment(self, mirror: Mirror) -> None:
        """stripe.md, pitfall 20: under the minimum charge Stripe says paid."""
        customer = mirror.stripe.customer("acme")
        unpaid, nothing = mirror.stripe.invoice(customer), mirror.stripe.invoice(customer, total=0)
        for invoice in (unpaid, nothing):
            mirror.stripe.finalize(invoice)
        mirror.stripe.fail_payment(unpaid)
        mirror.stripe.pay(nothing, amount_paid=0, attempt_count=0)
        mirror.follow()
        assert mirror.one("select payment_arrears from billing.payment_arrears_state")
        mirror.stripe.void(unpaid)
        mirror.follow()
        assert not mirror.one("select payment_arrears from billing.payment_arrears_state")

    def test_of_one_invoice_that_fails_leaves_the_others(self, mirror: Mirror) -> None:
        class Life:
            def follow(self, *, account_id: str, invoice: Any, now: datetime) -> None:
                if account_id == "acme":
                    raise BillingError("acme is odd", bill="", fix="")

        mirror.settled_with(life=Life())
        for name in ("acme", "beta"):
            mirror.stripe.invoice(mirror.stripe.customer(name))
        done = mirror.follow()
        assert (done.settled.invoices, list(done.settled.failed.values())) == (1, ["acme is odd"])
        assert mirror.one("select account_id from stripe.trueup_queue") == "beta"
        assert not mirror.settler.is_due()
        mirror.settled_with(life=mirror.settler.__class__(database=mirror.database, clock=mirror.clock).life)
        mirror.tick(minutes=1)
        assert mirror.settler.is_due()
        assert mirror.settler.settle_all().invoices == 1


class TestRelist:
    """Row 35: what the feed does not tell is found by listing."""

    def test_finds_drafts_customers_and_subscriptions(self, mirror: Mirror) -> None:
        customer = mirror.stripe.customer("acme")
        mirror.stripe.subscription(customer)
        renewal = mirror.stripe.invoice(customer)
        mirror.stripe.events.clear()
        done = mirror.relist()
        assert (done.listed, done.changed, done.missing) == (3, 3, 0)
        assert mirror.one("select invoice_id from stripe.trueup_queue") == renewal
        assert mirror.relist().changed == 3

    def test_finds_out_what_became_of_what_no_list_shows(self, mirror: Mirror) -> None:
        customer = mirror.stripe.customer("acme")
        deleted = mirror.stripe.invoice(customer, billing_reason="manual")
        paid = mirror.stripe.invoice(customer)
        gone = mirror.stripe.customer("beta")
        mirror.follow()
        mirror.relist("events were never read")
        mirror.tick(days=40)
        mirror.stripe.delete(deleted, "invoice.deleted")
        mirror.stripe.delete(gone, "customer.deleted")
        mirror.stripe.finalize(paid)
        mirror.stripe.pay(paid)
        mirror.stripe.events.clear()
        reason = mirror.poll().relist_reason
        assert reason is not None
        done = mirror.relist(reason)
        statuses = mirror.rows("select invoice_id, status from stripe.invoice order by 1")
        assert [row["status"] for row in statuses] == ["deleted", "paid"]
        assert mirror.one("select is_deleted from stripe.customer where customer_id = %s", gone)
        assert done.missing == 3
        assert mirror.one("select state from stripe.trueup_queue") == "missed"
        assert mirror.one("select kind from billing.payment_event") == "invoice_paid"

    def test_reports_failed_payments_whose_events_are_gone(self, mirror: Mirror) -> None:
        invoice = mirror.stripe.invoice(mirror.stripe.customer("acme"))
        mirror.stripe.finalize(invoice)
        mirror.stripe.fail_payment(invoice)
        mirror.tick(days=31)
        assert mirror.relist(mirror.poll().relist_reason or "").unseen_failures == 1
        assert mirror.one("select arrears_since from billing.payment_arrears_state") == START
        assert mirror.relist().unseen_failures == 0

    def test_stays_due_when_stripe_goes_away(self, mirror: Mirror) -> None:
        mirror.stripe.customer("acme")
        reason = mirror.poll().relist_reason
        mirror.stripe.is_away = True
        with pytest.raises(StripeAwayError):
            mirror.relist(reason or "")
        with mirror.database.reading() as connection:
            found = due_relisting(connection)
        assert found is not None
        assert found.reason == reason


class TestLinks:
    def links(self, mirror: Mirror) -> Any:
        with mirror.database.reading() as connection:
            return stripe_links(connection)

    def test_follow_the_metadata_of_stripes_objects(self, mirror: Mirror) -> None:
        mirror.stripe.subscription(mirror.stripe.customer("acme"))
        mirror.follow()
        found = self.links(mirror)
        assert found.customers["acme"].customer_id == "cus_acme"
        subscription = found.subscriptions["acme"]
        assert (subscription.stripe_subscription_id, subscription.status) == ("sub_acme", "active")
        assert subscription.period is not None
        assert subscription.period.start == START
        assert "beta" not in found.customers
        assert found.account_of("cus_acme") == "acme"

    def test_are_none_where_two_customers_claim_one_account(self, mirror: Mirror) -> None:
        mirror.stripe.customer("acme")
        mirror.stripe.customer("twin", metadata={"bp_account": "acme"})
        mirror.follow()
        found = self.links(mirror)
        assert found.customers == {}
        assert "cus_acme, cus_twin" in found.findings[0]
        mirror.stripe.delete("cus_twin", "customer.deleted")
        mirror.follow()
        assert self.links(mirror).customers["acme"].customer_id == "cus_acme"

    def test_leave_a_subscription_of_somebody_else(self, mirror: Mirror) -> None:
        mirror.stripe.customer("acme")
        mirror.stripe.subscription(mirror.stripe.customer("beta"), metadata={"bp_subscription": "acme"})
        mirror.follow()
        assert self.links(mirror).subscriptions == {}

    def test_are_none_without_a_catalog(self, database: Database) -> None:
        with database.reading() as connection:
            assert stripe_links(connection).customers == {}


class TestAnyOrder:
    """Rows 34 and FLY-11: whatever the order and however often, the mirror ends as Stripe is."""

    @settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_of_events_ends_in_the_same_mirror(self, mirror: Mirror, data: st.DataObject) -> None:
        mirror.empty()
        world = Mirror(mirror.database, type(mirror.stripe)())
        self.month(world)
        feed = world.stripe.events
        world.follow()
        expected = world.contents()
        mirror.empty()
        shuffled = data.draw(st.permutations([*feed, *data.draw(st.lists(st.sampled_from(feed), max_size=8))]))
        at = 0
        while at < len(shuffled):
            size = data.draw(st.integers(1, len(shuffled)))
            events = [read_event(one) for one in shuffled[at : at + size]]
            with world.database.transaction() as connection:
                inbox.receive(
                    connection,
                    [one for one in events if isinstance(one, StripeEvent)],
                    received_from=inbox.FROM_WEBHOOK,
                    received_at=world.now,
                )
            world.apply()
            at += size
        assert world.contents() == expected

    @settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(steps=st.lists(st.sampled_from(["happen", "happen", "poll", "apply", "relist"]), max_size=30))
    def test_of_reading_while_things_happen_ends_as_stripe_is(self, mirror: Mirror, steps: list[str]) -> None:
        """Objects change between polls, fetches and listings; at the end everything is read once more."""
        mirror.empty()
        world = Mirror(mirror.database, type(mirror.stripe)())
        things = iter(self.things(world))
        for step in [*steps, *["happen"] * 20, "poll", "apply"]:
            match step:
                case "happen":
                    if (thing := next(things, None)) is not None:
                        thing()
                        world.tick(minutes=7)
                case "poll":
                    world.poll()
                case "apply":
                    world.apply()
                case "relist":
                    world.relist()
        reached = world.contents()
        world.empty()
        world.follow()
        assert self.as_stripe_is(reached) == self.as_stripe_is(world.contents())

    def as_stripe_is(self, contents: dict[str, Any]) -> Any:
        """Whether a draft that was deleted was ever seen is history, not state."""
        deleted = {row["invoice_id"] for row in contents["invoice"] if row["status"] == "deleted"}
        return {name: [row for row in rows if row.get("invoice_id") not in deleted] for name, rows in contents.items()}

    def month(self, world: Mirror) -> None:
        for thing in self.things(world):
            thing()
            world.tick(minutes=7)

    def things(self, world: Mirror) -> list[Any]:
        stripe = world.stripe
        return [
            lambda: stripe.customer("acme"),
            lambda: stripe.subscription("cus_acme"),
            lambda: stripe.invoice("cus_acme", "in_a"),
            lambda: stripe.invoice("cus_acme", "in_b", billing_reason="manual"),
            lambda: stripe.change("in_a", "invoice.updated", total=7000, amount_due=7000),
            lambda: stripe.finalize("in_a"),
            lambda: stripe.fail_payment("in_a"),
            lambda: stripe.delete("in_b", "invoice.deleted"),
            lambda: stripe.fail_payment("in_a"),
            lambda: stripe.pay("in_a"),
            lambda: stripe.change("sub_acme", "customer.subscription.updated", status="past_due"),
            lambda: stripe.customer("beta"),
            lambda: stripe.invoice("cus_beta", "in_c"),
            lambda: stripe.finalize("in_c"),
            lambda: stripe.void("in_c"),
            lambda: stripe.delete("cus_beta", "customer.deleted"),
        ]


def meter_report(event_id: str) -> dict[str, Any]:
    """Return a report on meter events as the v2 feed has it."""
    return {
        "id": event_id,
        "object": "v2.core.event",
        "type": "v1.billing.meter.error_report_triggered",
        "created": "2026-04-01T00:00:00Z",
        "livemode": False,
        "related_object": {"id": "mtr_1", "type": "billing.meter", "url": "/v1/billing/meters/mtr_1"},
        "data": {
            "validation_start": "2026-03-31T23:00:00Z",
            "validation_end": "2026-04-01T00:00:00Z",
            "developer_message_summary": "There are 3 invalid events",
            "reason": {
                "error_count": 3,
                "error_types": [
                    {
                        "code": "no_meter",
                        "error_count": 3,
                        "sample_errors": [{"error_message": "No meter", "request": {"identifier": "bp:mtr_1:si_1:1"}}],
                    }
                ],
            },
        },
    }
