"""Charge models from usage rows to the books: transactions, windows, cells, levels; coupons and minimums over several charges."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from billing_pipeline.amounts import Money
from billing_pipeline.catalog import CatalogError
from billing_pipeline.meters import EPOCH
from resources.catalog_store import CatalogStore
from resources.charge_store import ChargeStore, DayBooking
from resources.database import Database

FILES = {
    "billable": 'version = 1\nsuccess_statuses = [[200, 299]]\nendpoints = [{ endpoint = "/a" }]\n',
    "meters": """
[[meter]]
id = "requests"
aggregation = "count"
unit = "request"
[[meter]]
id = "sales"
aggregation = "sum"
field = "response_bytes"
unit = "cent"
transactions = "ordered"
[[meter]]
id = "slowest"
aggregation = "max"
field = "response_time_us"
unit = "us"
[[meter]]
id = "mean_size"
aggregation = "mean"
field = "response_bytes"
unit = "byte"
[[meter]]
id = "seats"
aggregation = "level"
level = "mean"
lowered_by = ["DELETE"]
unit = "seat"
""",
    "prices": """
[[price]]
id = "commission"
meter = "sales"
currency = "USD"
[[price.versions]]
version = 1
effective_from = 2025-01-01T00:00:00Z
model = "percentage"
percent = "2.99"
free_amount = "30"
minimum_per_transaction = "1.75"
maximum_per_transaction = "12"
conversion = { unit = "USD", divide = "100" }

[[price]]
id = "peak"
meter = "slowest"
currency = "USD"
[[price.versions]]
version = 1
effective_from = 2025-01-01T00:00:00Z
model = "graduated"
tiers = [{ up_to = "10", unit_price = "50" }, { up_to = "20", unit_price = "40" }, { unit_price = "30" }]
window = { seconds = 3600 }

[[price]]
id = "committed"
meter = "requests"
currency = "USD"
[[price.versions]]
version = 1
effective_from = 2025-01-01T00:00:00Z
model = "standard"
unit_price = "2"
window = { seconds = 86400 }
commitment = { amount = "10", overage_factor = "2" }

[[price]]
id = "by_endpoint"
meter = "requests"
currency = "USD"
[[price.versions]]
version = 1
effective_from = 2025-01-01T00:00:00Z
model = "matrix"
dimensions = ["endpoint", "method"]
cells = [
    { endpoint = "/a", method = "GET", unit_price = "0.5" },
    { endpoint = "/a", unit_price = "3" },
]
unit_price = "0.01"

[[price]]
id = "size"
meter = "mean_size"
currency = "USD"
[[price.versions]]
version = 1
effective_from = 2025-01-01T00:00:00Z
model = "standard"
unit_price = "0.30"

[[price]]
id = "seat_tiers"
meter = "seats"
currency = "USD"
[[price.versions]]
version = 1
effective_from = 2025-01-01T00:00:00Z
model = "graduated"
prorated = true
tiers = [{ up_to = "5", unit_price = "10", flat_fee = "100" }, { unit_price = "5", flat_fee = "50" }]

[[price]]
id = "fee"
currency = "USD"
timing = "advance"
[[price.versions]]
version = 1
effective_from = 2025-01-01T00:00:00Z
model = "flat_fee"
amount = "30.00"

[[price]]
id = "calls"
meter = "requests"
currency = "USD"
[[price.versions]]
version = 1
effective_from = 2025-01-01T00:00:00Z
model = "standard"
unit_price = "1"
maximum = "100"

[[price]]
id = "at_least"
currency = "USD"
[[price.versions]]
version = 1
effective_from = 2025-01-01T00:00:00Z
model = "minimum_spend"
amount = "90.00"

[[price]]
id = "own_minimum"
meter = "requests"
currency = "USD"
[[price.versions]]
version = 1
effective_from = 2025-01-01T00:00:00Z
model = "standard"
unit_price = "1"
discount = { percent = "50" }
minimum = "20"
""",
    "coupons": """
[[coupon]]
id = "ten"
amount = "10.00"
currency = "USD"
periods = 2
[[coupon]]
id = "half"
percent = "50"
prices = ["calls"]
until = 2026-05-01T00:00:00Z
""",
}
PLANS = {
    "commission": ["commission"],
    "peak": ["peak"],
    "committed": ["committed"],
    "matrix": ["by_endpoint"],
    "size": ["size"],
    "seats": ["seat_tiers"],
    "full": ["fee", "calls", "at_least"],
    "own": ["own_minimum"],
}
MARCH = [date(2026, 3, 1) + timedelta(days=day) for day in range(31)]


@dataclass(frozen=True)
class Booked:
    quantity: Decimal
    unit: str
    exact_amount: Decimal
    amount: Money
    lines: list[dict[str, Any]]


class Books:
    """A catalog of one account on one plan, and what is booked for it."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self._folder = folder
        self.store = ChargeStore(database)

    def load(self, plan: str, *, coupons: str = "", more: str = "") -> None:
        files = dict(FILES)
        files["plans"] = "".join(f'[[plan]]\nid = "{name}"\nprices = {prices}\n' for name, prices in PLANS.items())
        files["accounts"] = '[[account]]\nid = "acme"\nname = "Acme"\ncurrency = "USD"\n'
        files["subscriptions"] = (
            f'[[subscription]]\nid = "s"\naccount = "acme"\nplan = "{plan}"\nstarts_at = 2026-03-01T00:00:00Z\n'
            f"{f'coupons = {coupons}' if coupons else ''}\n{more}"
        )
        self._folder.mkdir(exist_ok=True)
        for name, text in files.items():
            (self._folder / f"{name}.toml").write_text(text)
        CatalogStore(self.database).load(self._folder)

    def use(
        self,
        meter: str,
        at: str,
        quantity: int,
        *,
        endpoint: str = "/a",
        method: str = "GET",
        records: int = 1,
        state: dict[str, object] | None = None,
    ) -> None:
        start = datetime.fromisoformat(at).replace(tzinfo=UTC)
        with self.database.transaction() as connection:
            connection.execute(
                """
                insert into usage.api_requests
                    (event_day, account_id, meter_id, period_start, period_end, endpoint, method, client_id, quantity, unit,
                     request_count, state)
                values (%s, 'acme', %s, %s, %s, %s, %s, 'c', %s, 'u', %s, %s)
                """,
                [
                    start.date(),
                    meter,
                    start,
                    start + timedelta(hours=1),
                    endpoint,
                    method,
                    Decimal(quantity),
                    records,
                    None if state is None else Jsonb(state),
                ],
            )

    def book(self, *days: date) -> tuple[DayBooking, ...]:
        """Book, find no guard that holds, and find nothing left to book."""
        bookings = self.store.book_days(days, run_id="run", code_version="test")
        assert [booking.held for booking in bookings] == [()] * len(bookings)
        again = self.store.book_days(days, run_id="again", code_version="test")
        assert [booking.revisions_booked for booking in again] == [0] * len(again)
        return bookings

    def charges(self, month: str = "2026-03") -> dict[str, "Booked"]:
        """Return the newest revisions of the charges whose period begins in a month, by price."""
        with self.database.reading() as connection:
            rows = connection.execute(
                """
                select distinct on (charge_id) price_id, quantity, unit, exact_amount, amount_minor, currency, lines
                from billing.charge_revision
                where to_char(period_start at time zone 'UTC', 'YYYY-MM') = %s
                order by charge_id, revision desc
                """,
                [month],
            ).fetchall()
        found = {row[0]: Booked(*row[1:4], Money(row[4], row[5]), row[6]) for row in rows}
        return {price_id: one for price_id, one in found.items() if one.amount.minor_units or one.quantity}

    def amounts(self, month: str = "2026-03") -> dict[str, Decimal]:
        return {price_id: charge.amount.major for price_id, charge in self.charges(month).items()}


@pytest.fixture
def books(database: Database, tmp_path: Path) -> Books:
    return Books(database, tmp_path / "catalog")


def microseconds(at: str) -> int:
    return (datetime.fromisoformat(at).replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)


def sales(*found: tuple[str, int]) -> dict[str, object]:
    return {"transactions": [[microseconds(at), value, 1] for at, value in found]}


class TestModels:
    def test_transactions_are_taken_in_order_of_time_over_rows_and_days(self, books: Books) -> None:
        books.load("commission")
        # The last one comes first into the table; 10, 80 and 10000 in order of time cost 0 + 1.794 + 12.
        books.use("sales", "2026-03-02T00:00", 1_000_000, state=sales(("2026-03-02T00:10", 1_000_000)))
        books.use("sales", "2026-03-01T10:00", 1_000, state=sales(("2026-03-01T10:30", 1_000)))
        books.use("sales", "2026-03-01T11:00", 8_000, state=sales(("2026-03-01T11:00", 8_000)))
        books.book(*MARCH[:2])
        charge = books.charges()["commission"]
        assert (charge.exact_amount, charge.unit) == (Decimal("13.794"), "USD")
        assert [(line["unit"], line.get("label")) for line in charge.lines] == [("USD", None), ("transaction", "most")]

    def test_each_window_is_rated_by_itself(self, books: Books) -> None:
        books.load("peak")
        books.use("slowest", "2026-03-01T10:00", 15)
        books.use("slowest", "2026-03-01T10:00", 4, endpoint="/b")
        books.use("slowest", "2026-03-02T10:00", 5)
        books.book(*MARCH[:2])
        assert books.amounts() == {"peak": 950}

    def test_a_commitment_of_a_window_is_due_in_windows_without_usage_too(self, books: Books) -> None:
        books.load("committed")
        books.use("requests", "2026-03-01T10:00", 2)
        books.use("requests", "2026-03-02T10:00", 4, records=4)
        books.use("requests", "2026-03-02T11:00", 4, records=4)
        books.book(*MARCH[:2])
        # 10, 22 and 29 days of 10
        assert books.amounts() == {"committed": 10 + 22 + 29 * 10}
        kinds = {str(line.get("kind", "usage")): line["windows"] for line in books.charges()["committed"].lines}
        assert kinds == {"usage": 2, "overage": 1, "commitment": 30}

    def test_a_cell_has_its_own_price(self, books: Books) -> None:
        books.load("matrix")
        books.use("requests", "2026-03-01T10:00", 4)
        books.use("requests", "2026-03-01T10:00", 2, method="POST")
        books.use("requests", "2026-03-01T10:00", 100, endpoint="/b")
        books.book(MARCH[0])
        charge = books.charges()["by_endpoint"]
        assert charge.amount.major == 4 * Decimal("0.5") + 2 * 3 + 1
        assert [line["label"] for line in charge.lines] == ["endpoint /a, method GET", "endpoint /a", "all others"]

    def test_a_mean_is_over_records_not_over_hours(self, books: Books) -> None:
        books.load("size")
        books.use("mean_size", "2026-03-01T10:00", 1, state={"sum": 3, "count": 3})
        books.use("mean_size", "2026-03-01T11:00", 7, state={"sum": 7, "count": 1})
        books.book(MARCH[0])
        assert books.charges()["size"].quantity == Decimal("2.5")
        assert books.amounts() == {"size": Decimal("0.75")}


class TestLevels:
    def change(self, books: Books, at: str, value: int) -> None:
        books.use(
            "seats",
            at,
            value,
            method="POST" if value > 0 else "DELETE",
            state={"changes": [[microseconds(at), value]]},
        )

    def test_a_level_goes_on_into_the_next_month_and_its_tiers_are_prorated(self, books: Books) -> None:
        books.load("seats")
        self.change(books, "2026-03-01T00:00", 5)
        # 5 more for 10 of 31 days, in the second tier
        self.change(books, "2026-03-22T00:00", 5)
        books.book(*MARCH)
        assert books.amounts() == {"seat_tiers": Decimal("208.06")}
        books.book(date(2026, 4, 1))
        assert books.amounts("2026-04") == {"seat_tiers": 5 * 10 + 100 + 5 * 5 + 50}

    def test_a_late_change_of_a_month_corrects_the_months_after(self, books: Books) -> None:
        books.load("seats")
        self.change(books, "2026-03-01T00:00", 5)
        books.book(*MARCH)
        books.book(date(2026, 4, 1), date(2026, 4, 2))
        assert books.amounts("2026-04") == {"seat_tiers": 150}
        self.change(books, "2026-03-31T00:00", -1)
        books.book(date(2026, 3, 31))
        assert books.amounts("2026-04") == {"seat_tiers": 140}


class TestSharedAmounts:
    def test_a_coupon_is_taken_by_what_falls_due_first(self, books: Books) -> None:
        books.load("full", coupons='[{ coupon = "ten", since = 2026-03-05T00:00:00Z }]')
        books.use("requests", "2026-03-01T10:00", 150, records=150)
        books.book(MARCH[0])
        assert books.amounts() == {"fee": 20, "calls": 100}
        discount = books.charges()["fee"].lines[-1]
        assert (discount["kind"], discount["label"], discount["amount"]) == ("discount", "ten", "-10")

    def test_a_minimum_spend_sees_every_charge_of_the_month(self, books: Books) -> None:
        books.load("full", coupons='[{ coupon = "half", since = 2026-03-05T00:00:00Z }]')
        books.use("requests", "2026-03-20T10:00", 40, records=40)
        books.book(MARCH[19])
        # 30 + 40 / 2 = 50, and 40 are missing to 90
        assert books.amounts() == {"fee": 30, "calls": 20, "at_least": 40}
        line = books.charges()["at_least"].lines[0]
        assert (line["kind"], line["unit_price"], line["less"]) == ("minimum", "90", "50")

    def test_a_change_of_plan_leaves_each_part_its_share_of_the_minimum(self, books: Books) -> None:
        change = '[[subscription.changes]]\nat = 2026-03-16T12:00:00Z\nplan = "own"\n'
        books.load("full", more=change)
        books.use("requests", "2026-03-02T10:00", 10, records=10)
        books.use("requests", "2026-03-20T10:00", 10, records=10)
        books.book(MARCH[19])
        # half of March each: fee 15 + calls 10 of a minimum of 45; then 10 / 2 of a minimum of 10
        assert books.amounts() == {"fee": 15, "calls": 10, "at_least": 20, "own_minimum": 10}

    def test_a_price_s_own_minimum_is_due_without_usage(self, books: Books) -> None:
        books.load("own")
        books.book(MARCH[0])
        assert books.amounts() == {"own_minimum": 20}
        books.use("requests", "2026-03-20T10:00", 100, records=100)
        books.book(MARCH[19])
        assert books.amounts() == {"own_minimum": 50}

    def test_a_coupon_ends_after_its_periods(self, books: Books) -> None:
        books.load("full", coupons='[{ coupon = "ten", since = 2026-03-05T00:00:00Z }]')
        for month in (3, 4, 5):
            books.book(date(2026, month, 10))
        assert [books.amounts(f"2026-0{month}")["fee"] for month in (3, 4, 5)] == [20, 20, 30]

    def test_the_day_that_is_asked_for_does_not_matter(self, books: Books) -> None:
        books.load("full", coupons='[{ coupon = "ten", since = 2026-03-05T00:00:00Z }]')
        books.use("requests", "2026-03-02T10:00", 10, records=10)
        for day in (MARCH[30], MARCH[0], MARCH[1]):
            books.book(day)
        assert books.amounts() == {"fee": 20, "calls": 10, "at_least": 60}


class TestFindings:
    @pytest.mark.parametrize(
        ("coupons", "message"),
        [
            ('[{ coupon = "gone", since = 2026-03-05T00:00:00Z }]', "'gone' is not a coupon"),
            (
                '[{ coupon = "ten", since = 2026-03-05T00:00:00Z }, { coupon = "ten", since = 2026-03-05T00:00:00Z }]',
                "2 times",
            ),
        ],
    )
    def test_names_a_coupon_that_cannot_be(self, books: Books, coupons: str, message: str) -> None:
        with pytest.raises(CatalogError, match=message):
            books.load("full", coupons=coupons)
