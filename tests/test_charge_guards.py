"""What guards say of a booking, and what they hold."""

from pathlib import Path

import pytest

from billing_pipeline.checks import Verdict, VerdictStatus
from resources import guard_store
from resources.catalog_store import CatalogStore
from resources.charge_store import ChargeStore
from resources.database import Database
from tests.test_charge_store import added, book, build_usage, day, days, money_of, use, verdict, write_catalog


@pytest.fixture
def store(database: Database, tmp_path: Path) -> ChargeStore:
    """Return a store on a database with the catalog of bookings' tests."""
    CatalogStore(database).load(write_catalog(tmp_path / "catalog"))
    return ChargeStore(database)


class TestGuards:
    def test_every_day_gets_its_verdicts(self, store: ChargeStore) -> None:
        use(store.database, "acme", "2026-03-01T10:00", 7)
        bookings = book(store, days("2026-03-01", 3))
        for booking in bookings:
            assert {found.status for found in booking.verdicts} == {VerdictStatus.PASSED}
        with store.database.reading() as connection:
            kept = guard_store.verdicts(connection, "billing/charges", ["2026-03-01", "2026-03-02", "2026-03-03"])
        assert len(kept) == sum(len(booking.verdicts) for booking in bookings) == 24
        assert verdict(bookings[2], "charges_equal_usage").expected == "USD 70"

    def test_names_accounts_with_usage_and_no_subscription(self, store: ChargeStore) -> None:
        use(store.database, "stray", "2026-03-01T10:00", 7)
        (booking,) = book(store, [day("2026-03-01")])
        assert verdict(booking, "usage_has_a_subscription").status is VerdictStatus.WARNED
        assert "stray 1" in verdict(booking, "usage_has_a_subscription").message

    def test_warns_of_usage_rows_that_cross_a_period(self, store: ChargeStore) -> None:
        use(store.database, "beta", "2026-02-28T13:00", 20)
        bookings = book(store, [day("2026-02-28")])
        assert verdict(bookings[0], "usage_ends_with_its_period").status is VerdictStatus.WARNED

    def test_tells_which_days_usage_is_held(self, store: ChargeStore) -> None:
        use(store.database, "acme", "2026-03-01T10:00", 7)
        held = Verdict(
            asset="usage/api_requests",
            partition_key="2026-03-02",
            guard="hours_delivered",
            status=VerdictStatus.HELD,
            expected="every hour",
            actual="a gap",
            message="an outage",
            inputs_digest="0",
        )
        with store.database.transaction() as connection:
            guard_store.record(connection, [held], run_id="usage")
        bookings = book(store, days("2026-03-01", 3))
        assert [booking.held for booking in bookings] == [(), ("hours_delivered",), ()]
        assert added(bookings) == 70

    def test_a_charge_booked_by_hand_holds_the_run_and_nothing_is_booked(self, store: ChargeStore) -> None:
        use(store.database, "acme", "2026-03-01T10:00", 7)
        book(store, [day("2026-03-01")])
        with store.database.transaction() as connection:
            # A revision without postings: the ledger no longer tells what was charged.
            connection.execute(
                """
                insert into billing.charge_revision
                select charge_id, 2, account_id, subscription_id, plan_id, price_id, meter_id, group_key, period_start,
                    period_end, quantity, unit, exact_amount, 75, 5, currency, lines, rating_digest, catalog_sha256,
                    code_version, event_day, 'by hand', booked_at
                from billing.charge_revision
                """
            )
        before = money_of(store.database)
        use(store.database, "acme", "2026-03-01T11:00", 1)
        (booking,) = book(store, [day("2026-03-01")])
        assert booking.held == ("ledger_equals_charges",)
        assert (booking.revisions_booked, booking.delta_by_currency) == (0, {})
        assert money_of(store.database) == before

    def test_that_hold_one_day_of_a_run_leave_the_others_due(self, store: ChargeStore) -> None:
        february, march = day("2026-02-10"), day("2026-03-01")
        use(store.database, "acme", "2026-03-01T10:00", 7)
        build_usage(store.database, february, march)
        book(store, [march])
        with store.database.transaction() as connection:
            # A revision without postings: the ledger no longer tells what was charged in March.
            connection.execute(
                """
                insert into billing.charge_revision
                select charge_id, 2, account_id, subscription_id, plan_id, price_id, meter_id, group_key, period_start,
                    period_end, quantity, unit, exact_amount, 75, 5, currency, lines, rating_digest, catalog_sha256,
                    code_version, event_day, 'by hand', booked_at
                from billing.charge_revision
                """
            )
        use(store.database, "acme", "2026-02-10T10:00", 4)
        bookings = book(store, [february, march])
        assert [booking.held for booking in bookings] == [(), ("ledger_equals_charges",)]
        assert added(bookings) == 0
        assert store.unbooked_days() == (february,)
        assert added(book(store, store.unbooked_days())) == 40
        assert store.unbooked_days() == ()
