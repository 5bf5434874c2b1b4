"""Booking charges: period to date against the books, in one transaction, any number of times."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from psycopg.types.json import Jsonb

from billing_pipeline.amounts import Money
from billing_pipeline.checks import Verdict, VerdictStatus
from billing_pipeline.rating import BeyondLastTierError
from resources.catalog_store import CatalogNotLoadedError, CatalogStore
from resources.charge_reader import BillPeriodError, ChargeNotFoundError, ChargeReader, UnknownAccountError
from resources.charge_store import ChargeStore, DayBooking
from resources.database import Database

BILLABLE = 'version = 1\nsuccess_statuses = [[200, 299]]\nendpoints = [{ endpoint = "/a" }]\n'
METERS = """
[[meter]]
id = "requests"
aggregation = "count"
unit = "request"
[[meter]]
id = "clients"
aggregation = "unique"
field = "client_id"
unit = "client"
[[meter]]
id = "slowest"
aggregation = "max"
field = "response_time_us"
unit = "us"
"""
PRICES = """
[[price]]
id = "per_request"
meter = "requests"
currency = "USD"
[[price.versions]]
version = 1
effective_from = 2025-01-01T00:00:00Z
model = "standard"
unit_price = "0.10"
[[price.versions]]
version = 2
effective_from = 2026-04-16T00:00:00Z
model = "standard"
unit_price = "0.20"

[[price]]
id = "small"
meter = "requests"
currency = "USD"
group_by = ["endpoint", "client_id"]
[[price.versions]]
version = 1
effective_from = 2025-01-01T00:00:00Z
model = "graduated"
tiers = [{ up_to = "10", unit_price = "0.001" }, { up_to = "1000", unit_price = "0.002" }]

[[price]]
id = "per_client"
meter = "clients"
currency = "USD"
[[price.versions]]
version = 1
effective_from = 2025-01-01T00:00:00Z
model = "standard"
unit_price = "3"

[[price]]
id = "fee"
currency = "USD"
[[price.versions]]
version = 1
effective_from = 2025-01-01T00:00:00Z
model = "flat_fee"
amount = "100.00"
"""
PLANS = """
[[plan]]
id = "plain"
prices = ["per_request"]
[[plan]]
id = "grouped"
prices = ["small", "per_client"]
[[plan]]
id = "fee_only"
prices = ["fee"]
"""
ACCOUNTS = "".join(
    f'[[account]]\nid = "{name}"\nname = "{name.title()}"\ncurrency = "USD"\ntime_zone = "{zone}"\n'
    for name, zone in (("acme", "UTC"), ("beta", "Europe/Berlin"), ("gamma", "UTC"), ("stray", "UTC"))
)
SUBSCRIPTIONS = """
[[subscription]]
id = "s_acme"
account = "acme"
plan = "plain"
starts_at = 2026-01-01T00:00:00Z
[[subscription]]
id = "s_beta"
account = "beta"
plan = "grouped"
starts_at = 2026-01-31T13:37:12Z
anchor_day = 31
anchor_time = 14:37:12
[[subscription]]
id = "s_gamma"
account = "gamma"
plan = "fee_only"
starts_at = 2026-01-01T00:00:00Z
ends_at = 2026-01-16T00:00:00Z
"""


def write_catalog(folder: Path, **texts: str) -> Path:
    """Write the catalog of this module, with other texts for some files, and return its folder."""
    files = {
        "billable": BILLABLE,
        "meters": METERS,
        "prices": PRICES,
        "plans": PLANS,
        "accounts": ACCOUNTS,
        "subscriptions": SUBSCRIPTIONS,
    }
    folder.mkdir(exist_ok=True)
    for name, text in {**files, **texts}.items():
        (folder / f"{name}.toml").write_text(text)
    return folder


@pytest.fixture
def store(database: Database, tmp_path: Path) -> ChargeStore:
    """Return a store on a database with this module's catalog."""
    CatalogStore(database).load(write_catalog(tmp_path / "catalog"))
    return ChargeStore(database)


def use(
    database: Database,
    account: str,
    at: str,
    quantity: int | str,
    *,
    meter: str = "requests",
    endpoint: str = "/a",
    client: str = "c1",
    end: str | None = None,
    state: dict[str, object] | None = None,
) -> None:
    """Put one usage row of the hour that begins `at` (UTC), in place of the same row before."""
    start = datetime.fromisoformat(at).replace(tzinfo=UTC)
    until = datetime.fromisoformat(end).replace(tzinfo=UTC) if end else start + timedelta(hours=1)
    with database.transaction() as connection:
        connection.execute(
            """
            insert into usage.api_requests
                (event_day, account_id, meter_id, period_start, period_end, endpoint, method, client_id, quantity, unit,
                 request_count, state)
            values (%s, %s, %s, %s, %s, %s, 'GET', %s, %s, 'request', 1, %s)
            on conflict (account_id, meter_id, period_start, endpoint, method, client_id)
                do update set quantity = excluded.quantity
            """,
            [start.date(), account, meter, start, until, endpoint, client, Decimal(quantity), state and Jsonb(state)],
        )


def build_usage(database: Database, *days: date) -> None:
    """Write that the usage of the days is built."""
    with database.transaction() as connection, connection.cursor() as cursor:
        cursor.executemany(
            """
            insert into usage.build
            values ('usage/api_requests', %s, 'built', 'inputs', 'rules', '[]', 0, 0, 0, 0, 0, 0, 'test', 'run')
            """,
            [(one,) for one in days],
        )


def day(text: str) -> date:
    return date.fromisoformat(text)


def days(first: str, count: int) -> list[date]:
    return [day(first) + timedelta(days=number) for number in range(count)]


def book(store: ChargeStore, wanted: Sequence[date]) -> tuple[DayBooking, ...]:
    return store.book_days(wanted, run_id="run", code_version="test")


def added(bookings: Sequence[DayBooking]) -> int:
    return sum(booking.delta_by_currency.get("USD", 0) for booking in bookings)


def verdict(booking: DayBooking, guard: str) -> Verdict:
    return next(verdict for verdict in booking.verdicts if verdict.guard == guard)


def money_of(database: Database) -> list[tuple[object, ...]]:
    """Return the books as a comparable whole: every charge's total, and balances of the ledger."""
    with database.reading() as connection:
        charges = connection.execute(
            "select charge_id::text, sum(delta_minor), count(*) filter (where delta_minor <> 0) "
            "from billing.charge_revision group by charge_id order by 1"
        ).fetchall()
        balances = connection.execute(
            "select ledger_account, sum(amount_minor) from billing.ledger_posting group by ledger_account order by 1"
        ).fetchall()
    return [*charges, *balances]


class TestBookDays:
    def test_books_the_period_to_date_once(self, store: ChargeStore) -> None:
        use(store.database, "acme", "2026-03-01T10:00", 7)
        first = book(store, [day("2026-03-01")])
        assert added(first) == 70
        assert first[0].charges_rated == first[0].revisions_booked == 1
        assert first[0].top_accounts == (("acme", Money(70, "USD")),)
        use(store.database, "acme", "2026-03-02T10:00", 3)
        assert added(book(store, [day("2026-03-02")])) == 30
        again = book(store, days("2026-03-01", 5))
        assert [booking.revisions_booked for booking in again] == [0] * 5
        assert added(again) == 0

    def test_needs_a_catalog(self, database: Database) -> None:
        with pytest.raises(CatalogNotLoadedError):
            book(ChargeStore(database), [day("2026-03-01")])

    def test_books_nothing_for_no_days(self, store: ChargeStore) -> None:
        assert book(store, []) == ()

    def test_late_usage_corrects_its_own_period(self, store: ChargeStore) -> None:
        use(store.database, "acme", "2026-02-10T10:00", 5)
        use(store.database, "acme", "2026-03-10T10:00", 1)
        book(store, days("2026-02-01", 59))
        use(store.database, "acme", "2026-02-11T10:00", 2)
        late = book(store, [day("2026-02-11")])
        assert added(late) == 20
        assert ChargeReader(store.database).bill("acme", "2026-02").total == Money(70, "USD")
        assert ChargeReader(store.database).bill("acme", "2026-03").total == Money(10, "USD")

    def test_withdrawn_usage_is_reversed_in_the_ledger(self, store: ChargeStore) -> None:
        use(store.database, "acme", "2026-03-01T10:00", 7)
        book(store, [day("2026-03-01")])
        with store.database.transaction() as connection:
            connection.execute("delete from usage.api_requests")
        assert added(book(store, [day("2026-03-05")])) == -70
        assert added(book(store, [day("2026-03-01")])) == 0
        bill = ChargeReader(store.database).bill("acme", "2026-03")
        assert bill.charges == ()
        assert bill.total == Money(0, "USD")
        with store.database.reading() as connection:
            rows = connection.execute(
                "select ledger_account, amount_minor from billing.ledger_posting order by revision, posting_number"
            ).fetchall()
        assert rows == [
            ("receivable:acme", 70),
            ("revenue:per_request", -70),
            ("receivable:acme", -70),
            ("revenue:per_request", 70),
        ]

    def test_the_order_of_days_does_not_matter(self, store: ChargeStore, database: Database) -> None:
        for number, one in enumerate(days("2026-02-20", 20)):
            use(database, "acme", f"{one}T05:00", number + 1)
        everything = days("2026-02-20", 20)
        for one in reversed(everything):
            book(store, [one])
        totals = {month: ChargeReader(database).bill("acme", month).total for month in ("2026-02", "2026-03")}
        assert totals == {"2026-02": Money(450, "USD"), "2026-03": Money(1650, "USD")}
        assert added(book(store, everything)) == 0

    def test_a_range_books_what_its_days_book_one_by_one(self, store: ChargeStore) -> None:
        for number, one in enumerate(days("2026-01-15", 60)):
            use(store.database, "acme", f"{one}T05:00", number + 1)
            use(store.database, "beta", f"{one}T05:00", number + 1, client=f"c{number % 3}")
        bookings = book(store, days("2026-01-15", 60))
        whole = money_of(store.database)
        assert sum(booking.revisions_booked for booking in bookings) == sum(1 for row in whole if len(row) == 3)
        for one in days("2026-01-15", 60)[::9]:
            assert book(store, [one])[0].revisions_booked == 0
        assert money_of(store.database) == whole

    def test_usage_before_a_price_change_keeps_the_old_price(self, store: ChargeStore) -> None:
        # 0.10 until the 15th and 0.20 from the 16th of 30 days at 1 a day: 1.50 + 3.00
        for one in days("2026-04-01", 30):
            use(store.database, "acme", f"{one}T12:00", 1)
        assert added(book(store, days("2026-04-01", 30))) == 450
        (charge,) = ChargeReader(store.database).bill("acme", "2026-04").charges
        assert [(line["version"], line["quantity"], line["amount"]) for line in charge.lines] == [
            (1, "15", "1.5"),
            (2, "15", "3"),
        ]

    def test_rates_groups_by_themselves_and_periods_from_the_anchor(self, store: ChargeStore) -> None:
        # The period from Feb 28 14:37:12 in Berlin cuts the hour; each side belongs to its own period.
        use(store.database, "beta", "2026-02-28T13:00", 20, end="2026-02-28T13:37:12")
        use(store.database, "beta", "2026-02-28T13:37:12", 4, end="2026-02-28T14:00:00")
        use(store.database, "beta", "2026-03-01T00:00", 20)
        use(store.database, "beta", "2026-03-01T00:00", 20, client="c2")
        bookings = book(store, days("2026-02-28", 2))
        assert verdict(bookings[0], "usage_ends_with_its_period").status is VerdictStatus.PASSED
        bill = ChargeReader(store.database).bill("beta", datetime(2026, 3, 1, tzinfo=UTC))
        assert [(charge.group, charge.amount.minor_units, charge.quantity) for charge in bill.charges] == [
            ({"endpoint": "/a", "client_id": "c1"}, 4, 24),
            ({"endpoint": "/a", "client_id": "c2"}, 3, 20),
        ]
        assert {charge.period.start for charge in bill.charges} == {datetime(2026, 2, 28, 13, 37, 12, tzinfo=UTC)}
        assert {charge.period.end for charge in bill.charges} == {datetime(2026, 3, 31, 12, 37, 12, tzinfo=UTC)}
        before = ChargeReader(store.database).bill("beta", datetime(2026, 2, 28, 13, 37, 11, tzinfo=UTC))
        assert [charge.quantity for charge in before.charges] == [20]

    def test_unique_counts_are_merged_over_the_period_not_added(self, store: ChargeStore) -> None:
        for hour, clients in (("10", ["a", "b"]), ("11", ["b", "c"]), ("12", ["a"])):
            state: dict[str, object] = {"values": clients}
            use(store.database, "beta", f"2026-03-05T{hour}:00", len(clients), meter="clients", state=state)
        assert added(book(store, [day("2026-03-05")])) == 900

    def test_a_flat_fee_of_a_shortened_period_is_prorated(self, store: ChargeStore) -> None:
        # 100.00 over January used to the 16th 00:00
        assert added(book(store, [day("2026-01-02")])) == 4839
        assert added(book(store, days("2026-01-01", 31))) == 0

    def test_a_subscription_that_ends_earlier_moves_its_charges(self, store: ChargeStore, tmp_path: Path) -> None:
        use(store.database, "acme", "2026-03-01T10:00", 7)
        use(store.database, "acme", "2026-03-20T10:00", 2)
        assert added(book(store, days("2026-03-01", 31))) == 90
        ended = SUBSCRIPTIONS.replace(
            'starts_at = 2026-01-01T00:00:00Z\n[[subscription]]\nid = "s_beta"',
            'starts_at = 2026-01-01T00:00:00Z\nends_at = 2026-03-10T00:00:00Z\n[[subscription]]\nid = "s_beta"',
        )
        CatalogStore(store.database).load(write_catalog(tmp_path / "ended", subscriptions=ended))
        bookings = book(store, days("2026-03-01", 31))
        assert added(bookings) == -20
        assert ChargeReader(store.database).bill("acme", "2026-03").total == Money(70, "USD")
        orphan = verdict(bookings[19], "usage_has_a_subscription")
        assert orphan.status is VerdictStatus.WARNED
        assert "acme 1" in orphan.message

    def test_a_new_price_version_rebooks_the_difference(self, store: ChargeStore, tmp_path: Path) -> None:
        use(store.database, "acme", "2026-03-20T10:00", 10)
        book(store, [day("2026-03-20")])
        version = (
            '[[price.versions]]\nversion = 2\neffective_from = 2026-03-10T00:00:00Z\nmodel = "standard"\n'
            'unit_price = "0.07"\n[[price.versions]]\nversion = 3\neffective_from = 2026-04-16T00:00:00Z\n'
            'model = "standard"\nunit_price = "0.20"\n'
        )
        head, tail = PRICES.split("[[price.versions]]\nversion = 2", 1)
        changed = head + version + tail[tail.index("\n\n[[price]]") :]
        CatalogStore(store.database).load(write_catalog(tmp_path / "changed", prices=changed))
        assert added(book(store, [day("2026-03-31")])) == -30

    def test_usage_beyond_the_last_tier_books_nothing(self, store: ChargeStore) -> None:
        use(store.database, "acme", "2026-03-01T10:00", 7)
        use(store.database, "beta", "2026-03-01T10:00", 1001)
        with pytest.raises(BeyondLastTierError, match="'small'"):
            book(store, [day("2026-03-01")])
        assert money_of(store.database) == []

    def test_a_free_quantity_is_explained_without_a_posting(self, store: ChargeStore) -> None:
        use(store.database, "beta", "2026-03-01T10:00", 4)
        (booking,) = book(store, [day("2026-03-01")])
        assert booking.revisions_booked == 1
        assert booking.delta_by_currency == {"USD": 0}
        with store.database.reading() as connection:
            assert connection.execute("select count(*) from billing.ledger_posting").fetchall() == [(0,)]


class TestConcurrency:
    @pytest.mark.parametrize("same_days", [True, False])
    def test_runs_at_once_end_in_the_money_of_one_run(self, store: ChargeStore, same_days: bool) -> None:
        for one in days("2026-02-20", 20):
            use(store.database, "acme", f"{one}T05:00", 3)
            use(store.database, "beta", f"{one}T05:00", 15)
        start = threading.Barrier(4)

        def run(number: int) -> int:
            wanted = days("2026-02-20", 20) if same_days else days("2026-02-20", 20)[number * 5 : number * 5 + 5]
            start.wait()
            return added(book(store, wanted))

        with ThreadPoolExecutor(4) as threads:
            total = sum(threads.map(run, range(4)))
        # acme 20 x 3 x 0.10; beta 9 and 11 days of 15 in two periods: 0.01 + 125 x 0.002 and 0.01 + 155 x 0.002
        bills = [ChargeReader(store.database).bill(*key).total.minor_units for key in BILLS]
        assert total == sum(bills) == 600 + 26 + 32
        assert added(book(store, days("2026-02-20", 20))) == 0

    def test_a_run_that_dies_leaves_nothing(self, store: ChargeStore, monkeypatch: pytest.MonkeyPatch) -> None:
        use(store.database, "acme", "2026-03-01T10:00", 7)

        class Killed(BaseException):
            pass

        def die(*_: object, **__: object) -> None:
            raise Killed

        with monkeypatch.context() as patched:
            patched.setattr("resources.charge_store.guard_store.record", die)
            with pytest.raises(Killed):
                book(store, [day("2026-03-01")])
        assert money_of(store.database) == []
        assert added(book(store, [day("2026-03-01")])) == 70


BILLS = [("acme", "2026-02"), ("acme", "2026-03"), ("beta", "2026-01"), ("beta", "2026-02")]


class TestReader:
    def test_a_bill_adds_up_its_rounded_charges(self, store: ChargeStore) -> None:
        for client in ("c1", "c2", "c3"):
            use(store.database, "beta", "2026-03-01T10:00", 15, client=client)
        book(store, [day("2026-03-01")])
        bill = ChargeReader(store.database).bill("beta", "2026-02")
        # 10 x 0.001 + 5 x 0.002 = 0.02 for each
        assert bill.total == Money(6, "USD")
        assert [charge.amount.minor_units for charge in bill.charges] == [2, 2, 2]
        assert (bill.account_name, bill.time_zone, bill.asked_for) == ("Beta", "Europe/Berlin", "2026-02")

    def test_explains_a_charge_with_every_revision(self, store: ChargeStore) -> None:
        use(store.database, "acme", "2026-03-01T10:00", 7)
        book(store, [day("2026-03-01")])
        use(store.database, "acme", "2026-03-01T10:00", 5)
        book(store, [day("2026-03-02")])
        (charge,) = ChargeReader(store.database).bill("acme", "2026-03").charges
        explanation = ChargeReader(store.database).explain(str(charge.charge_id)[:8].upper())
        assert explanation.charge == charge
        assert [(one.revision, one.delta.minor_units, one.event_day) for one in explanation.revisions] == [
            (1, 70, day("2026-03-01")),
            (2, -20, day("2026-03-02")),
        ]
        assert explanation.revisions[1].lines == (
            {
                "version": 1,
                "tier": None,
                "quantity": "5",
                "unit": "request",
                "unit_price": "0.1",
                "flat_fee": "0",
                "amount": "0.5",
            },
        )
        assert [posting.amount.minor_units for posting in explanation.postings] == [70, -70, -20, 20]

    def test_names_what_it_does_not_find(self, store: ChargeStore) -> None:
        reader = ChargeReader(store.database)
        with pytest.raises(UnknownAccountError, match="close: acme"):
            reader.bill("acne", "2026-03")
        for period in ("2026-13", "March", "2026-3"):
            with pytest.raises(BillPeriodError, match="is not a billing period"):
                reader.bill("acme", period)
        with pytest.raises(ChargeNotFoundError, match="begins with 'abcd'"):
            reader.explain("abcd")
        with pytest.raises(ChargeNotFoundError, match="first 4 to 32 hex digits"):
            reader.explain("xyz")

    def test_asks_for_more_digits_when_several_charges_match(self, store: ChargeStore) -> None:
        use(store.database, "beta", "2026-03-01T10:00", 1)
        book(store, [day("2026-03-01")])
        with store.database.transaction() as connection:
            connection.execute(
                """
                insert into billing.charge_revision
                select
                    overlay(charge_id::text placing (case right(charge_id::text, 1) when '0' then '1' else '0' end) from 36)::uuid,
                    revision, account_id, subscription_id, plan_id,
                    price_id, meter_id, group_key, period_start, period_end, quantity, unit, exact_amount, 0, 0, currency,
                    lines, rating_digest, catalog_sha256, code_version, event_day, run_id, booked_at
                from billing.charge_revision
                where price_id = 'small'
                """
            )
            twin = connection.execute(
                "select left(charge_id::text, 35) from billing.charge_revision group by 1 having count(*) > 1"
            ).fetchone()
        assert twin is not None
        with pytest.raises(ChargeNotFoundError, match="2 charges' ids begin with"):
            ChargeReader(store.database).explain(twin[0])
