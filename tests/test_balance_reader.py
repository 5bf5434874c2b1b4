"""The read model of prepaid accounts: every field, from PostgreSQL alone, by a role that cannot write."""

import json
from datetime import datetime, timedelta
from decimal import Decimal
from io import StringIO
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest
from rich.console import Console

from billing_pipeline.amounts import Money
from billing_pipeline.catalog import UnknownEntryError
from billing_pipeline.prepaid import PaymentKind, SuspendState, ThrottleState
from console.balance_page import print_balance, print_balance_json
from resources.balance_reader import (
    AccountBalance,
    BalanceReader,
    NotPrepaidError,
    balance_as_json,
)
from resources.database import Database, Role
from resources.payment_store import PaymentEvent, PaymentStore
from tests.prepaid_books import UUID_1, Books, Minute, account, at, days, price, subscription, version

NOW = at("2026-04-08T10:40")
TERMS = (
    'unit_price = "0.5"\nincluded_quota_bytes = 100\nregion_multipliers = { jp = "1.2" }\n'
    'line_multipliers = { premium = "2.0" }\ninitial_balance = "100"\nminimum_balance = "50"'
)
# What the account's page upstream has, name by name.
FIELDS = {
    "accountUuid",
    "totalBytes",
    "uplinkBytes",
    "downlinkBytes",
    "sourceOfTruth",
    "currentBalance",
    "remainingIncludedQuota",
    "suspendState",
    "throttleState",
    "arrears",
    "arrearsSince",
    "lastBucketAt",
    "syncDelaySeconds",
    "billingProfile",
}


@pytest.fixture
def books(database: Database, tmp_path: Path) -> Books:
    """Return books in which acme has used 150 bytes of April 8th, at 2.4 times the price."""
    invoiced = '[[price]]\nid = "fee"\ncurrency = "USD"\n' + version(body='amount = "1"').replace(
        "metered_balance", "flat_fee"
    )
    books = Books.opened(
        database,
        tmp_path / "catalog",
        prices=price(version(3, body=TERMS)) + invoiced,
        plans='[[plan]]\nid = "paygo"\nprices = ["per_byte"]\n[[plan]]\nid = "flat"\nprices = ["fee"]\n',
        accounts=account("acme") + account("beta") + account("flat"),
        subscriptions=subscription("acme")
        + subscription("beta", rest="ends_at = 2026-03-01T00:00:00Z")
        + subscription("flat", plan="flat"),
    )
    books.use(
        Minute(at=at("2026-04-08T10:30"), uplink=60, downlink=30, region="jp", line="premium", inbound="tcp"),
        Minute(at=at("2026-04-08T10:30"), uplink=20, downlink=10, region="jp", line="premium", inbound="xhttp"),
        Minute(at=at("2026-04-08T10:31"), uplink=20, downlink=10, region="jp", line="premium"),
        Minute(at=at("2026-04-08T10:31"), uplink=999, env="preview"),
    )
    books.book(days("2026-04-08"))
    return books


@pytest.fixture
def reader(books: Books) -> BalanceReader:
    return BalanceReader(books.database)


def shown(database: Database, account_id: str, *, now: datetime = NOW) -> str:
    stream = StringIO()
    print_balance(Console(file=stream, width=160), database, account_id, now=now)
    return stream.getvalue()


class TestBalance:
    def test_tells_usage_balance_quota_and_terms(self, reader: BalanceReader) -> None:
        found = reader.balance("acme", now=NOW)
        assert (found.total_bytes, found.uplink_bytes, found.downlink_bytes) == (150, 100, 50)
        assert (found.current_balance, found.booked_balance) == (40, Money(4000, "USD"))
        assert found.remaining_included_quota == 0
        assert found.throttle_state is ThrottleState.THROTTLED
        assert found.suspend_state is SuspendState.ACTIVE
        assert (found.arrears_since, found.last_bucket_at) == (None, at("2026-04-08T10:31"))
        assert (found.profile.price_id, found.profile.version, found.profile.unit) == ("per_byte", 3, "byte")
        assert (found.period.start, found.period.end) == (at("2026-04-01"), at("2026-05-01"))

    def test_has_every_field_by_its_name(self, reader: BalanceReader) -> None:
        found = balance_as_json(reader.balance("acme", now=NOW))
        assert set(found) >= FIELDS
        assert (found["accountUuid"], found["sourceOfTruth"], found["currentBalance"]) == ("acme", "postgresql", "40")
        assert (found["totalBytes"], found["syncDelaySeconds"], found["arrears"]) == (150, 480, False)
        assert found["billingProfile"] == {
            "subscription": "s_acme_paygo",
            "pricingRuleVersion": "per_byte:3",
            "currency": "USD",
            "includedQuotaBytes": 100,
            "unitPrice": "0.5",
            "unit": "byte",
            "regionMultipliers": {"jp": "1.2"},
            "lineMultipliers": {"premium": "2"},
            "peakMultiplier": "1",
            "offPeakMultiplier": "1",
            "minimumBalance": "50",
        }

    def test_a_period_of_which_nothing_is_booked_has_its_whole_quota(self, reader: BalanceReader) -> None:
        found = reader.balance("acme", now=at("2026-05-01"))
        assert (found.remaining_included_quota, found.total_bytes, found.current_balance) == (100, 0, 40)
        before = reader.balance("acme", now=at("2026-05-01") - timedelta(microseconds=1))
        assert before.remaining_included_quota == 0

    def test_a_subscription_that_ended_shows_its_last_period(self, reader: BalanceReader) -> None:
        found = reader.balance("beta", now=NOW)
        assert (found.period.start, found.period.end) == (at("2026-02-01"), at("2026-03-01"))
        assert (found.current_balance, found.booked_balance.minor_units, found.last_bucket_at) == (100, 0, None)
        assert found.sync_delay_seconds is None

    def test_arrears_of_both_writers(self, books: Books, reader: BalanceReader) -> None:
        books.used(("2026-04-08T10:35", 100))
        books.book(days("2026-04-08"))
        PaymentStore(books.database).record_payment_event(
            PaymentEvent(
                event_id="e1", account_id="acme", kind=PaymentKind.PAYMENT_FAILED, happened_at=at("2026-04-02")
            ),
            now=NOW,
        )
        found = reader.balance("acme", now=NOW)
        assert found.current_balance == -10
        assert (found.payment_arrears_since, found.balance_arrears_since) == (
            at("2026-04-02"),
            at("2026-04-08T10:36"),
        )
        assert found.arrears_since == at("2026-04-02")
        assert reader.balance("acme", now=at("2026-04-15")).suspend_state is SuspendState.ACTIVE
        assert reader.balance("acme", now=at("2026-04-16")).suspend_state is SuspendState.SUSPENDED

    @pytest.mark.parametrize(("until", "expected"), [(None, 480), ("2026-04-08T10:38", 120)])
    def test_a_quiet_account_is_not_late_while_its_exporters_are_read(
        self, books: Books, reader: BalanceReader, until: str | None, expected: int
    ) -> None:
        with books.database.transaction() as connection:
            for source, completed in (("one", until), ("two", "2026-04-08T10:39")):
                connection.execute(
                    "insert into core.traffic_sync_state (source, completed_until) values (%s, %s)",
                    [source, None if completed is None else at(completed)],
                )
        assert reader.balance("acme", now=NOW).sync_delay_seconds == expected

    def test_says_who_is_not_prepaid_and_who_is_unknown(self, reader: BalanceReader) -> None:
        with pytest.raises(
            NotPrepaidError, match=r"'flat' has no prepaid subscription .*prepaid are acme, beta"
        ) as caught:
            reader.balance("flat", now=NOW)
        assert "billing bill flat 2026-04" in caught.value.fix
        with pytest.raises(NotPrepaidError):
            reader.balance("acme", now=at("2025-12-31"))
        with pytest.raises(UnknownEntryError, match="nobody"):
            reader.balance("nobody", now=NOW)


class TestBuckets:
    def test_are_the_minutes_of_a_window(self, reader: BalanceReader) -> None:
        found = reader.buckets("acme", start=at("2026-04-08T10:30"), end=at("2026-04-08T10:31"))
        assert [(one.bucket_start, one.uplink_bytes, one.downlink_bytes) for one in found] == [
            (at("2026-04-08T10:30"), 80, 40)
        ]
        assert found[0].account_uuid == UUID_1
        assert len(reader.buckets("acme", start=at("2026-04-01"), end=at("2026-05-01"))) == 3


class TestBilling:
    def test_has_the_newest_twenty_entries_with_what_was_left_after_each(
        self, books: Books, reader: BalanceReader
    ) -> None:
        _, ledger = reader.billing("acme", now=NOW)
        assert [(row.entry_type, row.rated_bytes, row.amount_delta, row.balance_after) for row in ledger] == [
            ("traffic_charge", 30, -36, 40),
            ("traffic_charge", 20, -24, 76),
            ("initial_balance", 0, 100, 100),
        ]
        books.used(*((f"2026-04-08T11:{minute:02}", 1) for minute in range(30)))
        books.used(("2026-04-08T10:31", 31))
        books.book(days("2026-04-08"))
        found, ledger = reader.billing("acme", now=NOW)
        assert len(ledger) == 20
        assert ledger[0].balance_after == found.current_balance
        for newer, older in pairwise(ledger):
            assert newer.balance_after == older.balance_after + newer.amount_delta

    def test_needs_no_writer_and_nothing_beside_postgresql(self, books: Books, reader: BalanceReader) -> None:
        with (
            books.database.reading() as connection,
            pytest.raises(psycopg.errors.ReadOnlySqlTransaction),
        ):
            connection.execute(
                "insert into billing.payment_event values ('e', 'acme', 'invoice_paid', '', now(), now())"
            )
        # Not only the session: the role itself may not write.
        with books.database.connect(Role.READER) as connection:
            connection.execute("set transaction read write")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(
                    "insert into billing.payment_event values ('e', 'acme', 'invoice_paid', '', now(), now())"
                )
        expected = reader.billing("acme", now=NOW)
        # A writer that stands still, with every lock of a booking and rows of its own that it does not commit.
        with books.database.transaction("billing/charges", "billing/payments") as writer:
            writer.execute("update billing.account_balance_state set exact_balance = 1, throttle_state = 'normal'")
            assert reader.billing("acme", now=NOW) == expected
            writer.rollback()


class TestPage:
    def test_prints_what_a_person_asks_for(self, books: Books) -> None:
        text = shown(books.database, "acme")
        for part in (
            "Balance of acme, billing period 2026-04-01 00:00 to 2026-05-01 00:00 UTC",
            "40 USD (40.00 USD in the ledger)",
            "0 of 100 byte",
            "150 byte: 100 up, 50 down",
            "0.5 USD a byte by per_byte:3",
            "throttled",
            "2026-04-08 10:31 UTC, traffic known until 480 s ago",
            "Newest 3 entries",
            "initial balance",
        ):
            assert part in text

    def test_says_why_somebody_is_in_arrears(self, books: Books) -> None:
        books.used(("2026-04-08T10:35", 1000))
        books.book(days("2026-04-08"))
        text = shown(books.database, "acme", now=at("2026-05-08"))
        assert "suspended" in text
        assert "balance since 2026-04-08 10:36 UTC" in text

    def test_before_the_first_minute_there_is_no_ledger(self, books: Books) -> None:
        assert "entries" not in shown(books.database, "beta")

    def test_prints_json_for_a_program(self, books: Books) -> None:
        stream = StringIO()
        print_balance_json(Console(file=stream, width=40), books.database, "acme", now=NOW)
        found = json.loads(stream.getvalue())
        assert set(found) >= FIELDS | {"ledger"}
        assert found["ledger"][0]["balanceAfter"] == "40"
        assert Decimal(found["ledger"][0]["multiplier"]) == Decimal("2.4")


def test_an_account_without_arrears_has_no_since(reader: BalanceReader) -> None:
    found: AccountBalance = reader.balance("acme", now=NOW)
    assert found.arrears_since is None
