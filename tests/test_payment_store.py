"""Payments: arrears that only payments write, fourteen days to suspension, and a quota that no payment touches."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from billing_pipeline.prepaid import PaymentArrears, PaymentKind, SuspendState
from resources.database import Database
from resources.payment_store import (
    PaymentAccountUnknownError,
    PaymentEvent,
    PaymentEventConflictError,
    PaymentOutcome,
    PaymentStore,
    SuspensionChange,
)
from tests.prepaid_books import Books, account, at, days, price, subscription, version

FAILED, PAID = PaymentKind.PAYMENT_FAILED, PaymentKind.INVOICE_PAID
ACTIVE, SUSPENDED = SuspendState.ACTIVE, SuspendState.SUSPENDED
APRIL_1 = at("2026-04-01T08:00")
QUOTA = price(version(body='unit_price = "0.5"\nincluded_quota_bytes = 100\ninitial_balance = "10"'))


@pytest.fixture
def books(database: Database, tmp_path: Path) -> Books:
    """Return books of two accounts with a quota of 100 bytes."""
    return Books.opened(
        database,
        tmp_path / "catalog",
        prices=QUOTA,
        accounts=account("acme") + account("beta"),
        subscriptions=subscription("acme") + subscription("beta"),
    )


@pytest.fixture
def store(books: Books) -> PaymentStore:
    return PaymentStore(books.database)


def event(
    name: str, kind: PaymentKind, when: datetime, *, account_id: str = "acme", reason: str = "subscription_cycle"
) -> PaymentEvent:
    return PaymentEvent(event_id=name, account_id=account_id, kind=kind, happened_at=when, billing_reason=reason)


def record(store: PaymentStore, *events: PaymentEvent) -> Sequence[PaymentOutcome]:
    """Record events at the time when they happen."""
    return [store.record_payment_event(one, now=one.happened_at) for one in events]


class TestRecordPaymentEvent:
    def test_the_first_failure_of_an_episode_counts(self, store: PaymentStore) -> None:
        first, second, paid, third = record(
            store,
            event("e1", FAILED, APRIL_1),
            event("e2", FAILED, APRIL_1 + timedelta(days=3)),
            event("e3", PAID, APRIL_1 + timedelta(days=5)),
            event("e4", FAILED, APRIL_1 + timedelta(days=9)),
        )
        assert first.payments == second.payments == PaymentArrears(arrears_since=APRIL_1)
        assert paid.payments == PaymentArrears(last_paid_at=APRIL_1 + timedelta(days=5))
        assert third.payments.arrears_since == APRIL_1 + timedelta(days=9)

    def test_a_duplicate_changes_nothing(self, store: PaymentStore, books: Books) -> None:
        failed = event("e1", FAILED, APRIL_1)
        record(store, failed, event("e2", PAID, APRIL_1 + timedelta(days=1)))
        before = books.rows("select * from billing.payment_arrears_state")
        again = store.record_payment_event(failed, now=APRIL_1 + timedelta(days=30))
        assert again.is_duplicate
        assert again.suspend_state is ACTIVE
        assert books.rows("select * from billing.payment_arrears_state") == before
        assert books.number("select count(*) from billing.payment_event") == 2

    def test_events_count_by_when_they_happened_not_by_when_they_came(self, store: PaymentStore) -> None:
        story = (
            event("e4", FAILED, APRIL_1 + timedelta(days=6)),
            event("e3", FAILED, APRIL_1 + timedelta(days=4)),
            event("e2", PAID, APRIL_1 + timedelta(days=2)),
            event("e1", FAILED, APRIL_1),
        )
        outcomes = [store.record_payment_event(one, now=APRIL_1 + timedelta(days=7)) for one in story]
        assert outcomes[-1].payments == PaymentArrears(
            arrears_since=APRIL_1 + timedelta(days=4), last_paid_at=APRIL_1 + timedelta(days=2)
        )

    def test_an_unknown_account_is_refused(self, store: PaymentStore, books: Books) -> None:
        with pytest.raises(PaymentAccountUnknownError, match="nobody"):
            record(store, event("e1", FAILED, APRIL_1, account_id="nobody"))
        assert books.number("select count(*) from billing.payment_event") == 0

    def test_an_id_with_another_content_is_refused(self, store: PaymentStore) -> None:
        record(store, event("e1", FAILED, APRIL_1))
        with pytest.raises(PaymentEventConflictError, match="payment_failed of acme"):
            record(store, event("e1", PAID, APRIL_1))


class TestSuspension:
    def test_day_13_is_active_day_14_suspended_and_a_payment_restores(self, store: PaymentStore, books: Books) -> None:
        record(store, event("e1", FAILED, APRIL_1), event("e2", FAILED, APRIL_1 + timedelta(days=10)))
        almost = APRIL_1 + timedelta(days=14) - timedelta(microseconds=1)
        assert store.sweep_arrears(now=APRIL_1 + timedelta(days=13)) == ()
        assert store.sweep_arrears(now=almost) == ()
        due = APRIL_1 + timedelta(days=14)
        assert store.sweep_arrears(now=due) == (
            SuspensionChange(account_id="acme", suspend_state=SUSPENDED, cause="payment_arrears"),
        )
        assert store.sweep_arrears(now=due) == ()
        (paid,) = record(store, event("e3", PAID, APRIL_1 + timedelta(days=15)))
        assert paid.suspend_state is ACTIVE
        assert store.sweep_arrears(now=APRIL_1 + timedelta(days=40)) == ()
        assert books.rows("select suspend_state, cause from billing.suspension_change order by change_id") == [
            ("suspended", "payment_arrears"),
            ("active", "restored"),
        ]

    def test_a_balance_below_zero_suspends_as_well_and_a_payment_gives_it_14_days(
        self, store: PaymentStore, books: Books
    ) -> None:
        books.used(("2026-04-08T10:30", 121), account="beta")
        books.book(days("2026-04-08"))
        since = at("2026-04-08T10:31")
        assert store.sweep_arrears(now=since + timedelta(days=13)) == ()
        (change,) = store.sweep_arrears(now=since + timedelta(days=14))
        assert change == SuspensionChange(account_id="beta", suspend_state=SUSPENDED, cause="balance_arrears")
        paid_at = since + timedelta(days=15)
        (outcome,) = record(store, event("e1", PAID, paid_at, account_id="beta"))
        assert outcome.suspend_state is ACTIVE
        assert store.sweep_arrears(now=paid_at + timedelta(days=13)) == ()
        (change,) = store.sweep_arrears(now=paid_at + timedelta(days=14))
        assert change.cause == "balance_arrears"
        books.forget(account="beta")
        books.book(days("2026-04-08"))
        (change,) = store.sweep_arrears(now=paid_at + timedelta(days=15))
        assert change == SuspensionChange(account_id="beta", suspend_state=ACTIVE, cause="restored")

    def test_accounts_without_arrears_are_untouched(self, store: PaymentStore, books: Books) -> None:
        books.used(("2026-04-08T10:30", 90))
        books.book(days("2026-04-08"))
        assert store.sweep_arrears(now=at("2027-01-01")) == ()
        assert books.rows("select * from billing.suspension_change") == []


class TestTwoWriters:
    def test_rating_a_minute_in_quota_leaves_payment_arrears(self, store: PaymentStore, books: Books) -> None:
        record(store, event("e1", FAILED, APRIL_1))
        before = books.rows("select * from billing.payment_arrears_state")
        books.used(("2026-04-08T10:30", 60))
        books.book(days("2026-04-08"))
        assert books.state()[2] is False
        assert books.rows("select * from billing.payment_arrears_state") == before
        (change,) = store.sweep_arrears(now=APRIL_1 + timedelta(days=14))
        assert change.suspend_state is SUSPENDED

    def test_payments_leave_balance_and_quota_alone(self, store: PaymentStore, books: Books) -> None:
        books.used(("2026-04-08T10:30", 130))
        books.book(days("2026-04-08"))
        before = books.everything()
        assert books.state()[:2] == (0, -5)
        record(
            store,
            *(event(f"paid {number}", PAID, APRIL_1 + timedelta(days=number)) for number in range(3)),
            event("proration", PAID, APRIL_1 + timedelta(days=9), reason="subscription_update"),
        )
        books.book(days("2026-04-08"))
        assert books.everything() == before
        # What comes later in the period is paid for; the next period has its quota, once.
        books.used(("2026-04-20T10:30", 10), ("2026-05-01T00:00", 90), ("2026-05-02T00:00", 20))
        books.book(days("2026-04-20", 15))
        assert [entry[3:5] for entry in books.entries()] == [(30, 100), (10, 0), (0, 90), (10, 10)]
        assert books.state()[:2] == (0, -15)
