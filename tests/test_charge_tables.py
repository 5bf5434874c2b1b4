"""What PostgreSQL itself refuses of charges and postings."""

from pathlib import Path

import psycopg
import pytest

from resources.catalog_store import CatalogStore
from resources.charge_store import ChargeStore
from resources.database import Database
from tests.test_charge_store import book, day, use, write_catalog


@pytest.fixture
def store(database: Database, tmp_path: Path) -> ChargeStore:
    """Return a store on a database with the catalog of bookings' tests."""
    CatalogStore(database).load(write_catalog(tmp_path / "catalog"))
    return ChargeStore(database)


class TestPostgresql:
    def test_refuses_a_transaction_that_does_not_sum_to_zero(self, store: ChargeStore) -> None:
        use(store.database, "acme", "2026-03-01T10:00", 7)
        book(store, [day("2026-03-01")])
        with (
            pytest.raises(psycopg.errors.RaiseException, match="does not sum to zero"),
            store.database.transaction() as connection,
        ):
            connection.execute(
                """
                insert into billing.ledger_posting
                    (transaction_id, posting_number, ledger_account, account_id, amount_minor, currency, charge_id,
                     revision, event_day)
                select gen_random_uuid(), 1, 'receivable:acme', 'acme', 5, 'USD', charge_id, revision, event_day
                from billing.charge_revision
                """
            )

    def test_refuses_a_revision_that_does_not_follow_the_one_before(self, store: ChargeStore) -> None:
        use(store.database, "acme", "2026-03-01T10:00", 7)
        book(store, [day("2026-03-01")])
        with (
            pytest.raises(psycopg.errors.RaiseException, match="does not follow"),
            store.database.transaction() as connection,
        ):
            connection.execute(
                """
                insert into billing.charge_revision
                select charge_id, 2, account_id, subscription_id, plan_id, price_id, meter_id, group_key, period_start,
                    period_end, quantity, unit, exact_amount, 75, 6, currency, lines, rating_digest, catalog_sha256,
                    code_version, event_day, 'by hand', booked_at
                from billing.charge_revision
                """
            )

    def test_refuses_a_revision_of_a_release_that_is_not_there(self, store: ChargeStore) -> None:
        use(store.database, "acme", "2026-03-01T10:00", 7)
        book(store, [day("2026-03-01")])
        with (
            pytest.raises(psycopg.errors.ForeignKeyViolation, match="unknown catalog release"),
            store.database.transaction() as connection,
        ):
            connection.execute(
                """
                insert into billing.charge_revision
                select charge_id, 2, account_id, subscription_id, plan_id, price_id, meter_id, group_key, period_start,
                    period_end, quantity, unit, exact_amount, amount_minor, 0, currency, lines, rating_digest,
                    repeat('0', 64), code_version, event_day, 'by hand', booked_at
                from billing.charge_revision
                """
            )

    def test_refuses_postings_of_a_revision_that_is_not_booked(self, store: ChargeStore) -> None:
        use(store.database, "acme", "2026-03-01T10:00", 7)
        book(store, [day("2026-03-01")])
        with (
            pytest.raises(psycopg.errors.ForeignKeyViolation, match="revision 2, which is not booked"),
            store.database.transaction() as connection,
        ):
            connection.execute(
                """
                insert into billing.ledger_posting
                    (transaction_id, posting_number, ledger_account, account_id, amount_minor, currency, charge_id,
                     revision, event_day)
                select charge_id, side, 'receivable:acme', 'acme', amount, 'USD', charge_id, 2, event_day
                from billing.charge_revision
                cross join (values (1, 5), (2, -5)) as sides (side, amount)
                """
            )

    @pytest.mark.parametrize(
        "statement", ["update billing.charge_revision set delta_minor = 0", "delete from billing.ledger_posting"]
    )
    def test_keeps_history_from_being_edited(self, store: ChargeStore, statement: str) -> None:
        with (
            pytest.raises(psycopg.errors.InsufficientPrivilege),
            store.database.transaction() as connection,
        ):
            connection.execute(statement.encode())
