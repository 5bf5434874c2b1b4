"""Subscriptions in the books: fees in advance and their credit, changes and cancellations, usage to the last second."""

import os
import random
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest

from billing_pipeline.billing_schedule import usage_cuts
from billing_pipeline.periods import Window
from resources.catalog_store import CatalogEntryInUseError, CatalogStore
from resources.charge_store import ChargeStore
from resources.database import Database
from tests.test_billing_schedule import BILLABLE, METERS, PLANS, PRICES, fee, price
from tests.test_charge_store import book, build_usage, day, use

ACCOUNTS = '[[account]]\nid = "acme"\nname = "Acme"\ncurrency = "USD"\ntime_zone = "UTC"\n'
PLANS = PLANS.replace('"seats"]', '"seats", "clients"]')
METERS += '[[meter]]\nid = "clients"\naggregation = "unique"\nfield = "client_id"\nunit = "client"\n'
PRICES += (
    '[[price]]\nid = "clients"\nmeter = "clients"\ncurrency = "USD"\n[[price.versions]]\nversion = 1\n'
    'effective_from = 2020-01-01T00:00:00Z\nmodel = "standard"\nunit_price = "1"\n'
)


class Books:
    """A database whose catalog has one subscription, which a test may change."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database, self.folder, self.accounts = database, folder, ACCOUNTS
        self.store = ChargeStore(database)

    def subscribe(self, body: str, *, prices: str = PRICES, plans: str = PLANS) -> None:
        """Load the catalog in which subscription `s` says `body`."""
        self.folder.mkdir(exist_ok=True)
        texts = {
            "billable": BILLABLE,
            "meters": METERS,
            "prices": prices,
            "plans": plans,
            "accounts": self.accounts,
            "subscriptions": f'[[subscription]]\nid = "s"\naccount = "acme"\n{body}\n',
        }
        for name, text in texts.items():
            (self.folder / f"{name}.toml").write_text(text)
        CatalogStore(self.database).load(self.folder)

    def book(self, *days: str) -> int:
        """Book the days and return what that added, in cents; a second time adds nothing."""
        wanted = [day(one) for one in days]
        added = _added(book(self.store, wanted))
        assert _added(book(self.store, wanted)) == 0
        return added

    def charges(self) -> dict[tuple[str, str], tuple[int, Decimal]]:
        """Return (price, period start to end) -> cents and quantity of what stands; what was reversed is left out."""
        with self.database.reading() as connection:
            rows = connection.execute(
                """
                select distinct on (charge_id)
                    price_id, to_char(period_start at time zone 'UTC', 'MM-DD HH24:MI') || ' to '
                        || to_char(period_end at time zone 'UTC', 'MM-DD HH24:MI'), amount_minor, quantity
                from billing.charge_revision
                order by charge_id, revision desc
                """
            ).fetchall()
        return {(price, period): (cents, quantity) for price, period, cents, quantity in rows if cents or quantity}


def _added(bookings: Sequence[object]) -> int:
    return sum(one.delta_by_currency.get("USD", 0) for one in bookings)


@pytest.fixture
def books(database: Database, tmp_path: Path) -> Books:
    """Return the books of a database without a catalog."""
    return Books(database, tmp_path / "catalog")


BASIC = 'plan = "basic"\nstarts_at = 2026-01-01T00:00:00Z\nquantities = { seat = 5 }\n'
FEES_ALONE = """
[[plan]]
id = "hundred"
prices = ["hundred"]
[[plan]]
id = "two_hundred"
prices = ["two_hundred"]
"""
HUNDREDS = fee("hundred", "100.00", head='timing = "advance"\n') + fee(
    "two_hundred", "200.00", head='timing = "advance"\n'
)


class TestFeesInAdvance:
    def test_are_booked_with_the_day_that_ends_where_they_fall_due(self, books: Books) -> None:
        books.subscribe(BASIC)
        assert books.book("2026-06-30") == 10_00 + 10_00 + 50_00
        assert {key: cents for key, (cents, _) in books.charges().items() if key[0] == "basic_fee"} == {
            ("basic_fee", "06-01 00:00 to 07-01 00:00"): 10_00,
            ("basic_fee", "07-01 00:00 to 08-01 00:00"): 10_00,
        }
        assert books.book("2026-07-01") == 50_00

    def test_the_unused_part_is_given_back_on_a_change(self, books: Books) -> None:
        start = 'plan = "hundred"\nstarts_at = 2026-01-01T00:00:00Z\n'
        books.subscribe(start, prices=HUNDREDS, plans=FEES_ALONE)
        assert books.book("2026-01-01") == 100_00
        upgrade = start + 'changes = [{ at = 2026-01-16T00:00:00Z, plan = "two_hundred" }]'
        books.subscribe(upgrade, prices=HUNDREDS, plans=FEES_ALONE)
        # 48.39 of 100 were used, 103.23 of 200 are left.
        assert books.book("2026-01-16") == -100_00 + 48_39 + 103_23

    def test_and_on_a_cancellation_but_not_at_the_end_of_the_period(self, books: Books) -> None:
        start = 'plan = "hundred"\nstarts_at = 2026-01-01T00:00:00Z\n'
        books.subscribe(start, prices=HUNDREDS, plans=FEES_ALONE)
        assert books.book("2026-01-31") == 200_00
        end = start + 'changes = [{ at = 2026-01-16T00:00:00Z, at_end_of = "month", cancel = true }]'
        books.subscribe(end, prices=HUNDREDS, plans=FEES_ALONE)
        assert books.book("2026-01-31") == -100_00
        now = end.replace("}]", "}, { at = 2026-01-16T00:00:00Z, cancel = true }]")
        books.subscribe(now, prices=HUNDREDS, plans=FEES_ALONE)
        assert books.book("2026-01-16") == -100_00 + 48_39

    def test_nothing_is_given_back_of_a_fee_that_is_not_prorated(self, books: Books) -> None:
        prices = HUNDREDS.replace('timing = "advance"', 'timing = "advance"\nprorate = "none"')
        start = 'plan = "hundred"\nstarts_at = 2026-01-01T00:00:00Z\n'
        books.subscribe(start, prices=prices, plans=FEES_ALONE)
        books.book("2026-01-01")
        books.subscribe(start + "ends_at = 2026-01-16T00:00:00Z", prices=prices, plans=FEES_ALONE)
        assert books.book("2026-01-16", "2026-01-01") == 0


class TestChanges:
    FIVE = "".join(
        f'{{ at = 2026-03-10T{hour:02}:{hour:02}:07Z, plan = "{plan}", quantities = {{ seat = {seats} }} }},\n'
        for hour, plan, seats in [(1, "pro", 6), (5, "basic", 7), (9, "pro", 3), (13, "basic", 0), (21, "pro", 9)]
    )

    def test_five_changes_in_a_day_sum_exactly(self, books: Books) -> None:
        books.subscribe(BASIC + f"changes = [\n{self.FIVE}]")
        for hour in range(24):
            use(books.database, "acme", f"2026-03-10T{hour:02}:00", 10)
            use(books.database, "acme", f"2026-03-10T{hour:02}:00", 1, meter="clients", state={"values": ["c1"]})
        books.book("2026-03-10")
        charges = books.charges()
        month = "03-01 00:00 to 04-01 00:00"
        # What all plans have goes on: 240 requests, one client, seats by the second.
        assert charges["requests", month] == (24_00, 240)
        assert charges["clients", month] == (1_00, 1)
        spans = [0, *(9 * 86_400 + hour * 3600 + hour * 60 + 7 for hour in (1, 5, 9, 13, 21)), 31 * 86_400]
        lengths = [end - start for start, end in pairwise(spans)]
        held = sum(seats * length for seats, length in zip((5, 6, 7, 3, 0, 9), lengths, strict=True))
        assert charges["seats", month][0] == round(Fraction(1000 * held, 31 * 86_400))
        fees = {period: cents for (price, period), (cents, _) in charges.items() if price in ("basic_fee", "pro_fee")}
        assert len(fees) == 6
        exact = [Fraction(rate * length, 31 * 86_400) for rate, length in zip([1000, 10_000] * 3, lengths, strict=True)]
        assert sorted(fees.values()) == sorted(map(round, exact))

    def test_the_same_changes_booked_one_by_one_are_the_same_books(self, books: Books) -> None:
        lines = self.FIVE.splitlines()
        books.subscribe(BASIC)
        books.book("2026-03-10")
        for count in range(1, len(lines) + 1):
            books.subscribe(BASIC + "changes = [\n" + "\n".join(lines[:count]) + "]")
            books.book("2026-03-10")
        step_by_step = books.charges()
        books.subscribe(BASIC + f"changes = [\n{self.FIVE}]")
        assert books.book("2026-03-10") == 0
        assert books.charges() == step_by_step

    def test_an_end_that_is_taken_back_makes_the_period_whole_again(self, books: Books) -> None:
        start = 'plan = "hundred"\nstarts_at = 2026-01-01T00:00:00Z\n'
        books.subscribe(start + "ends_at = 2026-01-16T00:00:00Z", prices=HUNDREDS, plans=FEES_ALONE)
        assert books.book("2026-01-05", "2026-01-20") == 48_39
        books.subscribe(start, prices=HUNDREDS, plans=FEES_ALONE)
        # The day lies behind the old end; the part before it is reversed all the same.
        assert books.book("2026-01-20") == 100_00 - 48_39
        assert len(books.charges()) == 1

    def test_a_change_of_the_past_is_booked_for_every_period_since_with_the_next_day(self, books: Books) -> None:
        books.subscribe(BASIC)
        for month in (1, 2, 3, 4):
            books.book(f"2026-{month:02}-05")
        books.subscribe(BASIC + "changes = [{ at = 2026-02-01T00:00:00Z, quantities = { seat = 6 } }]")
        assert books.book("2026-04-20") == 3 * 10_00
        books.subscribe(
            BASIC + "changes = [{ at = 2026-02-01T00:00:00Z, quantities = { seat = 6 } }, "
            "{ at = 2026-02-01T00:00:00Z, quantities = { seat = 5 } }]"
        )
        assert books.book("2026-04-20") == -3 * 10_00

    def test_usage_at_the_boundary_is_billed_once_and_to_the_last_second(self, books: Books) -> None:
        books.subscribe(BASIC + "changes = [{ at = 2026-03-10T12:34:56Z, cancel = true }]")
        use(books.database, "acme", "2026-03-10T12:00", 7, end="2026-03-10T12:34:56")
        use(books.database, "acme", "2026-03-10T12:34:56", 5, end="2026-03-10T13:00")
        build_usage(books.database, date(2026, 3, 10))
        verdicts = book(books.store, [day("2026-03-10")])[0].verdicts
        assert books.charges()["requests", "03-01 00:00 to 03-10 12:34"] == (70, 7)
        (orphans,) = [one for one in verdicts if one.guard == "usage_has_a_subscription"]
        assert orphans.actual == "1 accounts"

    def test_usage_of_a_pause_is_not_billed_and_reported(self, books: Books) -> None:
        books.subscribe(
            BASIC + 'changes = [{ at = 2026-03-10T00:00:00Z, status = "paused" }, '
            '{ at = 2026-03-11T00:00:00Z, status = "active" }]'
        )
        for one in ("2026-03-09T23:00", "2026-03-10T12:00", "2026-03-11T00:00"):
            use(books.database, "acme", one, 10)
        found = book(books.store, [day("2026-03-09"), day("2026-03-10"), day("2026-03-11")])
        assert [cents for (price, _), (cents, _) in sorted(books.charges().items()) if price == "requests"] == [
            100,
            100,
        ]
        guards = [
            one.status for booking in found for one in booking.verdicts if one.guard == "usage_has_a_subscription"
        ]
        assert guards == ["passed", "warned", "passed"]

    def test_a_trial_bills_nothing_and_its_usage_has_a_subscription(self, books: Books) -> None:
        books.subscribe(BASIC + "trial_until = 2026-01-15T00:00:00Z")
        use(books.database, "acme", "2026-01-10T12:00", 10)
        found = book(books.store, [day("2026-01-10")])
        assert books.charges() == {}
        assert all(one.status == "passed" for one in found[0].verdicts)
        use(books.database, "acme", "2026-01-15T00:00", 10)
        book(books.store, [day("2026-01-15")])
        assert books.charges()["basic_fee", "01-15 00:00 to 02-01 00:00"][0] == round(Fraction(1000 * 17, 31))
        assert books.charges()["requests", "01-15 00:00 to 02-01 00:00"] == (100, 10)


class TestPlanVersions:
    def test_new_subscribers_have_the_new_price_and_old_ones_theirs(self, books: Books) -> None:
        plans = (
            '[[plan]]\nid = "p"\nprices = ["hundred"]\n'
            '[[plan]]\nid = "p"\nversion = 2\neffective_from = 2026-03-01T00:00:00Z\nprices = ["two_hundred"]\n'
        )
        body = 'plan = "p"\nstarts_at = 2026-01-01T00:00:00Z\n'
        later = '[[subscription]]\nid = "t"\naccount = "acme"\nplan = "p"\nstarts_at = 2026-03-01T00:00:00Z\n'
        books.subscribe(body + later, prices=HUNDREDS, plans=plans)
        assert books.book("2026-03-05") == 100_00 + 200_00
        moved = plans.replace('prices = ["two', 'existing = "next_period"\nprices = ["two')
        with pytest.raises(CatalogEntryInUseError, match="plan p version 2"):
            books.subscribe(body + later, prices=HUNDREDS, plans=moved)


class TestCadences:
    def test_a_quarter_and_a_year_are_charges_of_their_own(self, books: Books) -> None:
        prices = fee("quarterly", "100.00", head='cadence = "quarter"\n') + fee(
            "yearly", "365.00", head='cadence = "year"\n'
        )
        plans = '[[plan]]\nid = "p"\nprices = ["quarterly", "yearly"]\n'
        books.subscribe('plan = "p"\nstarts_at = 2026-01-01T00:00:00Z', prices=prices, plans=plans)
        first = books.book(*(f"{date(2026, 1, 1) + timedelta(days=number)}" for number in range(0, 90, 7)))
        assert first == 465_00
        assert books.book("2026-04-01") == 100_00


class TestSplits:
    """Changes at random instants around a change of clocks leave the total of what adds up as it is. More of them:
    BILLING_SPLIT_SEEDS=20."""

    PRICES = "".join(
        price(f"of_{name}", 'model = "standard"\nunit_price = "0.10"', head='meter = "requests"\n') for name in "ab"
    )
    PLANS = "".join(f'[[plan]]\nid = "{name}"\nprices = ["of_{name}"]\n' for name in "ab")
    ZONES = ("America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu")

    @pytest.mark.parametrize("seed", range(int(os.environ.get("BILLING_SPLIT_SEEDS") or 2)))
    def test_every_request_is_billed_once(self, books: Books, seed: int) -> None:
        chance = random.Random(seed)
        books.accounts = ACCOUNTS.replace("UTC", self.ZONES[seed % len(self.ZONES)])
        begin, end = datetime(2026, 2, 20, tzinfo=UTC), datetime(2026, 4, 20, tzinfo=UTC)
        instants = sorted(begin + timedelta(seconds=chance.randrange(59 * 86_400)) for _ in range(6))
        changes = [
            f'{{ at = {at:%Y-%m-%dT%H:%M:%SZ}, plan = "{"ba"[number % 2]}" }},\n' for number, at in enumerate(instants)
        ]
        # One of them moves the anchor too: periods are cut there.
        changes[3] = changes[3].replace(" }", f", anchor_day = {chance.randrange(1, 32)} }}")
        books.subscribe(
            f'plan = "a"\nstarts_at = {begin:%Y-%m-%dT%H:%M:%SZ}\nanchor_day = {chance.randrange(1, 32)}\n'
            f"anchor_time = 0{chance.randrange(10)}:17:00\nchanges = [\n{''.join(changes)}"
            f"{{ at = {end:%Y-%m-%dT%H:%M:%SZ}, cancel = true }} ]",
            prices=self.PRICES,
            plans=self.PLANS,
        )
        catalog = CatalogStore(books.database).current()
        cuts = usage_cuts(catalog, catalog.subscriptions.values(), Window(begin, end))
        hours = {begin + timedelta(hours=chance.randrange(59 * 24)) for _ in range(60)}
        hours |= {at.replace(minute=0, second=0) for at in cuts}
        rows = [
            (start.date(), start, stop)
            for hour in sorted(hours)
            for start, stop in pairwise(
                [hour, *(at for at in cuts if hour < at < hour + timedelta(hours=1)), hour + timedelta(hours=1)]
            )
        ]
        with books.database.transaction() as connection, connection.cursor() as cursor:
            cursor.executemany(
                """
                insert into usage.api_requests (event_day, account_id, meter_id, period_start, period_end, endpoint, method,
                    client_id, quantity, unit, request_count)
                values (%s, 'acme', 'requests', %s, %s, '/a', 'GET', 'c1', 7, 'request', 7)
                """,
                rows,
            )
        bookings = book(books.store, [begin.date() + timedelta(days=number) for number in range(60)])
        assert not any(one.held for one in bookings)
        with books.database.reading() as connection:
            row = connection.execute(
                "select sum(quantity), sum(exact_amount), count(distinct (period_start, price_id)) from billing.charge_revision"
            ).fetchone()
        assert row is not None
        assert row[:2] == (7 * len(rows), Decimal(7 * len(rows)) / 10)
        assert row[2] > len(changes)
