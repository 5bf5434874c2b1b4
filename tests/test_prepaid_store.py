"""Prepaid balances in the books: quota, price and ledger of every minute, any number of times and in any order."""

from decimal import Decimal
from pathlib import Path
from uuid import UUID, uuid5

import pytest

from resources.database import Database, open_session
from tests.prepaid_books import HALF, UUID_1, Books, Minute, account, at, days, price, subscription, version

DAY = days("2026-04-08")


@pytest.fixture
def books(database: Database, tmp_path: Path) -> Books:
    """Return books with one account at 0.5 a byte, without quota."""
    return Books.opened(database, tmp_path / "catalog")


class TestPriceAndQuota:
    def test_150_bytes_at_one_half_take_75(self, books: Books) -> None:
        books.use(Minute(at=at("2026-04-08T10:30"), uplink=100, downlink=50))
        books.book(DAY)
        assert books.balance() == -75
        assert books.ledger() == -7500
        assert books.entries() == [("10:30", 1, "traffic_charge", 150, 0, Decimal(-75))]

    def test_quota_first_then_price_times_region_and_line(self, database: Database, tmp_path: Path) -> None:
        terms = (
            'unit_price = "0.5"\nincluded_quota_bytes = 100\nregion_multipliers = { jp = "1.2", us = "0" }\n'
            'line_multipliers = { premium = "2.0" }'
        )
        books = Books.opened(database, tmp_path / "catalog", prices=price(version(2, body=terms)))
        books.used(("2026-04-08T10:30", 150), region="jp", line="premium")
        books.book(DAY)
        ((multiplier, rule),) = books.rows(
            "select multiplier, pricing_rule_version from billing.prepaid_entry where charge_id is not null"
        )
        assert books.entries() == [("10:30", 1, "traffic_charge", 50, 100, Decimal(-60))]
        assert (multiplier, rule) == (Decimal("2.4"), "per_byte:2")
        assert books.state()[:2] == (0, -60)
        books.used(("2026-04-08T10:31", 10), region="us", line="unknown")
        books.book(DAY)
        assert books.balance() == -65
        ((lines,),) = books.rows("select lines from billing.charge_revision order by revision desc limit 1")
        assert [(line["multiplier"], line["quantity"], line["amount"]) for line in lines] == [  # type: ignore[attr-defined]
            ("1", "10", "5"),
            ("2.4", "50", "60"),
        ]

    def test_bytes_of_both_directions_may_be_more_than_64_bits(self, database: Database, tmp_path: Path) -> None:
        almost = 2**63 - 1
        books = Books.opened(database, tmp_path / "catalog", prices=price(version(body='unit_price = "0.000000001"')))
        books.use(Minute(at=at("2026-04-08T10:30"), uplink=almost, downlink=almost))
        books.book(DAY)
        assert books.entries() == [("10:30", 1, "traffic_charge", 2 * almost, 0, Decimal(-2 * almost).scaleb(-9))]
        books.use(Minute(at=at("2026-04-08T10:30"), uplink=almost))
        books.book(DAY)
        assert books.number("select rated_bytes from billing.prepaid_period") == almost

    def test_peak_hours_are_hours_of_their_zone(self, database: Database, tmp_path: Path) -> None:
        terms = (
            'unit_price = "1"\npeak = { hours = [[18, 20], [23, 1]], zone = "Asia/Kolkata" }\n'
            'peak_multiplier = "2"\noff_peak_multiplier = "0.5"'
        )
        books = Books.opened(database, tmp_path / "catalog", prices=price(version(body=terms)))
        # 18:00 in Kolkata is 12:30 UTC; 23:00 is 17:30, and 01:00 of the next day 19:30.
        minutes = ("12:29", "12:30", "14:29", "14:30", "17:29", "17:30", "19:29", "19:30")
        books.used(*((f"2026-04-08T{minute}", 10) for minute in minutes))
        books.book(DAY)
        assert [entry[5] for entry in books.entries()] == [-5, -20, -20, -5, -5, -20, -20, -5]

    def test_100_000_minutes_of_one_byte_come_to_one_cent(self, database: Database, tmp_path: Path) -> None:
        books = Books.opened(database, tmp_path / "catalog", prices=price(version(body='unit_price = "0.0000001"')))
        with database.transaction() as connection:
            connection.execute(
                """
                insert into usage.traffic_minute
                select bucket_start::date, 'acme', bucket_start, 'prod', 'n' || node, '', '', '', %s, 1, 0, 'full',
                    'baseline', 'difference', 0, 0
                from generate_series(timestamptz '2026-04-08', '2026-04-14 22:39', '1 minute') as bucket_start,
                    generate_series(1, 10) as node
                """,
                [UUID_1],
            )
        booked = books.book(days("2026-04-08", 7))
        assert books.number("select count(*) from billing.prepaid_entry") == 100_000
        assert books.balance() == Decimal("-0.01")
        assert books.ledger() == -1
        assert sum(one.delta_by_currency.get("USD", 0) for one in booked) == 1

    def test_a_price_per_unit_is_exact_through_its_conversion(self, database: Database, tmp_path: Path) -> None:
        terms = 'unit_price = "0.05"\nconversion = { unit = "GiB", divide = "1073741824" }'
        books = Books.opened(database, tmp_path / "catalog", prices=price(version(body=terms)))
        books.used(("2026-04-08T10:30", 1), ("2026-04-08T10:31", 3 * 2**30 - 1))
        books.book(DAY)
        assert books.balance() == Decimal("-0.15")
        assert books.entries()[0][5] == -Decimal("0.05") / 2**30

    def test_only_the_meters_field_and_envs_count(self, database: Database, tmp_path: Path) -> None:
        books = Books.opened(
            database, tmp_path / "catalog", prices=price(version(body='unit_price = "0.5"'), meter="downlink")
        )
        for env in ("prod", "preview", "dev"):
            books.use(Minute(at=at("2026-04-08T10:30"), uplink=1000, downlink=10, env=env))
        books.book(DAY)
        assert books.balance() == -10

    def test_several_inbounds_are_one_bucket(self, books: Books) -> None:
        books.use(
            Minute(at=at("2026-04-08T10:30"), uplink=100, downlink=50, inbound="xhttp"),
            Minute(at=at("2026-04-08T10:30"), uplink=30, downlink=20, inbound="tcp"),
        )
        books.book(DAY)
        assert books.entries() == [("10:30", 1, "traffic_charge", 200, 0, -100)]

    def test_a_new_version_of_the_price_begins_at_its_hour(self, database: Database, tmp_path: Path) -> None:
        cheap = version(1, body='unit_price = "0.5"\nincluded_quota_bytes = 100')
        dear = version(2, since="2026-04-08", body='unit_price = "2"\nincluded_quota_bytes = 120')
        books = Books.opened(database, tmp_path / "catalog", prices=price(cheap, dear))
        books.used(("2026-04-07T23:59", 110), ("2026-04-08T00:00", 30))
        books.book(days("2026-04-07", 2))
        # 10 beyond the first quota, then 10 more are included by the second one: 110 to 120.
        assert books.entries() == [
            ("23:59", 1, "traffic_charge", 10, 100, -5),
            ("00:00", 1, "traffic_charge", 20, 10, -40),
        ]


class TestIds:
    def test_the_first_entry_has_the_id_of_its_bucket(self, database: Database, tmp_path: Path) -> None:
        books = Books.opened(
            database, tmp_path / "catalog", accounts=account(UUID_1), subscriptions=subscription(UUID_1)
        )
        books.used(("2026-04-08T10:30", 100), account=UUID_1)
        books.book(DAY)
        ((entry_id, bucket_id),) = books.rows("select entry_id, bucket_id from billing.prepaid_entry")
        golden = UUID("977011f3-a25b-5968-a041-3458bf9fbbfd")
        assert entry_id == bucket_id == golden
        books.used(("2026-04-08T10:30", 110), account=UUID_1)
        books.book(DAY)
        ((adjusted,),) = books.rows("select entry_id from billing.prepaid_entry where revision = 2")
        assert adjusted == uuid5(golden, "2")


class TestReplay:
    """The defects A to H of the published original; each figure is a row of the checklist."""

    def test_five_replays_append_nothing(self, books: Books) -> None:
        books.used(("2026-04-08T10:30", 100))
        books.book(DAY)
        before = books.everything()
        for _ in range(4):
            books.book(DAY)
        assert books.everything() == before
        assert (books.balance(), books.ledger()) == (-50, -5000)

    def test_two_samples_of_a_minute(self, books: Books) -> None:
        books.used(("2026-04-08T10:30", 100))
        books.book(DAY)
        books.used(("2026-04-08T10:30", 120))
        books.book(DAY)
        assert books.entries() == [
            ("10:30", 1, "traffic_charge", 100, 0, -50),
            ("10:30", 2, "adjustment", 20, 0, -10),
        ]
        assert books.balance() == -60

    def test_an_overlap_that_was_busy_and_one_that_was_idle(self, books: Books) -> None:
        books.used(("2026-04-08T10:30", 100), ("2026-04-08T10:31", 50), ("2026-04-08T10:32", 30))
        books.book(DAY)
        books.used(("2026-04-08T10:31", 50), ("2026-04-08T10:32", 30), ("2026-04-08T10:33", 20))
        books.book(DAY)
        assert (len(books.entries()), books.balance()) == (4, -100)
        books.used(("2026-04-08T10:32", 0), ("2026-04-08T10:33", 0))
        books.book(DAY)
        assert books.balance() == -75

    def test_a_late_sample_moves_bytes_by_two_adjustments(self, books: Books) -> None:
        books.used(("2026-04-08T10:30", 100), ("2026-04-08T10:32", 80), ("2026-04-08T10:33", 20))
        books.book(DAY)
        books.used(("2026-04-08T10:31", 50), ("2026-04-08T10:32", 30))
        books.book(DAY)
        assert books.entries() == [
            ("10:30", 1, "traffic_charge", 100, 0, -50),
            ("10:31", 1, "traffic_charge", 50, 0, -25),
            ("10:32", 1, "traffic_charge", 80, 0, -40),
            ("10:32", 2, "adjustment", -50, 0, 25),
            ("10:33", 1, "traffic_charge", 20, 0, -10),
        ]
        assert (books.balance(), books.ledger()) == (-100, -10_000)
        # The charge's total is the same, so its ledger has one transaction.
        assert books.number("select count(*) from billing.ledger_posting") == 2

    def test_late_bytes_take_the_quota_of_those_that_came_after(self, database: Database, tmp_path: Path) -> None:
        books = Books.opened(
            database,
            tmp_path / "catalog",
            prices=price(version(body='unit_price = "0.5"\nincluded_quota_bytes = 100')),
        )
        books.used(("2026-04-08T10:32", 120))
        books.book(DAY)
        books.used(("2026-04-07T10:00", 40))
        books.book(days("2026-04-07"))
        assert list(books.buckets().values()) == [(0, 40, 0), (60, 60, -30)]
        assert books.balance() == -30

    def test_withdrawn_minutes_are_reversed(self, books: Books) -> None:
        books.used(("2026-04-08T10:30", 100), ("2026-04-08T10:31", 50))
        books.book(DAY)
        books.forget()
        books.book(DAY)
        assert (books.buckets(), books.balance(), books.ledger()) == ({}, 0, 0)
        books.used(("2026-04-08T10:30", 100))
        books.book(DAY)
        assert books.balance() == -50


class TestAccounts:
    def test_the_initial_balance_is_posted_once(self, database: Database, tmp_path: Path) -> None:
        terms = 'unit_price = "0.5"\ninitial_balance = "100"\nminimum_balance = "20"'
        books = Books.opened(
            database,
            tmp_path / "catalog",
            prices=price(version(body=terms)),
            accounts=account("acme") + account("beta"),
            subscriptions=subscription("acme") + subscription("beta", rest='initial_balance = "7.50"'),
        )
        books.used(("2026-04-08T10:30", 100))
        books.book(DAY)
        books.book(days("2026-05-01"))
        assert (books.balance(), books.ledger()) == (50, 5000)
        assert (books.balance("beta"), books.ledger("beta")) == (Decimal("7.5"), 750)
        assert books.rows(
            "select ledger_account, amount_minor from billing.ledger_posting where prepaid_entry_id is not null order by 1, 2"
        ) == [
            ("opening_balance:USD", 750),
            ("opening_balance:USD", 10_000),
            ("prepaid:acme", -10_000),
            ("prepaid:beta", -750),
        ]
        assert books.state("beta")[4] == "throttled"

    def test_below_the_minimum_it_is_throttled_and_below_zero_in_arrears(
        self, database: Database, tmp_path: Path
    ) -> None:
        terms = 'unit_price = "0.5"\ninitial_balance = "100"\nminimum_balance = "20"'
        books = Books.opened(database, tmp_path / "catalog", prices=price(version(body=terms)))
        books.used(("2026-04-08T10:30", 160))
        books.book(DAY)
        assert books.state() == (0, 20, False, None, "normal", at("2026-04-08T10:30"))
        books.used(("2026-04-08T10:31", 1))
        books.book(DAY)
        assert books.state()[1:5] == (Decimal("19.5"), False, None, "throttled")
        books.used(("2026-04-08T10:32", 39), ("2026-04-08T10:33", 1), ("2026-04-09T08:00", 5))
        books.book(days("2026-04-08", 2))
        assert books.state()[1:5] == (-3, True, at("2026-04-08T10:34"), "throttled")
        # Late traffic makes the balance go below 0 earlier; withdrawn traffic ends the arrears.
        books.used(("2026-03-31T08:00", 100))
        books.book(days("2026-03-31"))
        assert books.state()[2:4] == (True, at("2026-04-08T10:31"))
        books.forget()
        books.book([*days("2026-03-31"), *days("2026-04-08", 2)])
        assert books.state() == (0, 100, False, None, "normal", None)

    def test_quota_is_there_again_with_the_period_whichever_is_booked_last(
        self, database: Database, tmp_path: Path
    ) -> None:
        books = Books.opened(
            database,
            tmp_path / "catalog",
            prices=price(version(body='unit_price = "0.5"\nincluded_quota_bytes = 100')),
            subscriptions=subscription("acme", rest="anchor_day = 15\nanchor_time = 10:30:00"),
        )
        books.used(("2026-04-15T10:29", 90), ("2026-04-15T10:30", 70))
        books.book(days("2026-04-15"))
        assert books.state()[:2] == (30, 0)
        books.used(("2026-04-15T10:28", 20))
        books.book(days("2026-04-10"))
        assert books.state()[:2] == (30, -5)
        assert list(books.buckets().values()) == [(0, 20, 0), (10, 80, -5), (0, 70, 0)]

    def test_an_identity_that_moves_takes_its_buckets_along(self, database: Database, tmp_path: Path) -> None:
        books = Books.opened(
            database,
            tmp_path / "catalog",
            accounts=account("acme") + account("beta"),
            subscriptions=subscription("acme") + subscription("beta"),
        )
        books.used(("2026-04-08T10:30", 100))
        books.book(DAY)
        books.forget()
        books.used(("2026-04-08T10:30", 100), account="beta")
        books.book(DAY)
        before = books.everything()
        books.book(DAY)
        assert books.everything() == before
        assert (books.balance(), books.balance("beta")) == (0, -50)
        assert (books.ledger(), books.ledger("beta")) == (0, -5000)
        ids = books.rows("select revision, entry_id = bucket_id from billing.prepaid_entry order by revision")
        assert ids == [(1, True), (2, False), (3, False)]

    def test_a_subscription_that_ended_earlier_gives_back_what_came_after(self, books: Books) -> None:
        books.used(("2026-04-08T10:30", 100), ("2026-05-02T10:30", 10))
        books.book(days("2026-04-08", 30))
        books.load(subscriptions=subscription("acme", rest="ends_at = 2026-05-01T00:00:00Z"))
        books.book(days("2026-04-08", 30))
        assert (books.balance(), books.ledger()) == (-50, -5000)
        assert books.state()[5] == at("2026-04-08T10:30")
        assert books.number("select count(*) from billing.prepaid_period") == 1

    def test_accounts_and_currencies_stay_apart(self, database: Database, tmp_path: Path) -> None:
        books = Books.opened(
            database,
            tmp_path / "catalog",
            prices=HALF + price(version(body='unit_price = "0.5"'), price_id="per_byte_jpy", currency="JPY"),
            plans='[[plan]]\nid = "paygo"\nprices = ["per_byte"]\n[[plan]]\nid = "yen"\nprices = ["per_byte_jpy"]\n',
            accounts=account("acme") + account("hikari", currency="JPY", zone="Asia/Tokyo"),
            subscriptions=subscription("acme") + subscription("hikari", plan="yen"),
        )
        books.used(("2026-04-08T10:30", 101))
        books.used(("2026-04-08T10:30", 101), account="hikari")
        (booking,) = books.book(DAY)
        assert booking.delta_by_currency == {"JPY": 51, "USD": 5050}
        assert (books.ledger(), books.ledger("hikari")) == (-5050, -51)
        assert books.balance("hikari") == Decimal("-50.5")


class TestGuard:
    def test_passes_with_the_others(self, books: Books) -> None:
        books.used(("2026-04-08T10:30", 100))
        (booking,) = books.book(DAY)
        status = {one.guard: one.status for one in booking.verdicts}
        assert status["balance_equals_ledger"] == "passed"
        assert set(status.values()) == {"passed"}

    @pytest.mark.parametrize(
        "tampering",
        [
            "update billing.ledger_posting set amount_minor = amount_minor * 2",
            "update billing.prepaid_period set exact_amount = exact_amount + 1",
        ],
    )
    def test_holds_and_books_nothing_where_somebody_wrote_by_hand(self, books: Books, tampering: str) -> None:
        books.used(("2026-03-08T10:30", 100))
        books.book(days("2026-03-08"))
        with open_session(books.database.url, role=None) as connection:
            connection.execute(tampering.encode())
        books.used(("2026-04-08T10:30", 100))
        (booking,) = books.book(DAY)
        assert booking.held == ("balance_equals_ledger",)
        assert "acme (entries come to" in next(one.actual for one in booking.verdicts if one.status == "held")
        assert books.number("select count(*) from billing.prepaid_entry") == 1
        assert books.number("select count(*) from billing.charge_revision") == 1

    def test_an_entry_that_somebody_changed_is_put_right_by_an_adjustment(self, books: Books) -> None:
        books.used(("2026-04-08T10:30", 100))
        books.book(DAY)
        with open_session(books.database.url, role=None) as connection:
            connection.execute("update billing.prepaid_entry set amount_delta = -51")
        books.book(DAY)
        assert books.entries()[1] == ("10:30", 2, "adjustment", 0, 0, 1)
        assert books.balance() == -50
