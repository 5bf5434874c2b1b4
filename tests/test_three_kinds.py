"""Requests, traffic and storage on one bill: X-01 from files to the total, prices of a storage plan, GB-months of any period."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import pytest

from billing_pipeline.amounts import Money
from billing_pipeline.meters import MeterSource
from resources.catalog_store import CatalogStore
from resources.charge_reader import Bill, ChargeReader
from resources.charge_store import ChargeStore
from resources.database import Database
from resources.settings import PROJECT_ROOT, Settings
from resources.storage_config import DATASETS
from resources.stores import Stores, open_stores

GB = 10**9
ACME_UUID = "11111111-1111-1111-1111-111111111111"
NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
RUN = {"run_id": "run", "code_version": "test"}
VEHICLE = "/v2.0/vehicles/36ab27d0-fd9d-4455-823a-ce30af709ffc"
PROFILE = (PROJECT_ROOT / "billing_pipeline/profiles/billable_request_json.toml").read_text()
STORAGE_METER = """
[[meter]]
id = "private_storage"
source = "storage"
aggregation = "time_weighted"
field = "private_bytes"
unit = "byte"
"""
# 50.00 a month for whoever stores anything, 100 GB-month in it, then 0.10 each.
STORAGE_IN_TIERS = """
[[price]]
id = "storage"
meter = "private_storage"
currency = "USD"
[[price.versions]]
version = 1
effective_from = 2025-01-01T00:00:00Z
model = "graduated"
tiers = [{ up_to = "100", unit_price = "0", flat_fee = "50.00" }, { unit_price = "0.10" }]
conversion = { unit = "GB-month", divide = "1000000000" }
"""
# The same with a fee that is due also where nothing is stored.
STORAGE_WITH_FEE = """
[[price]]
id = "fee"
currency = "USD"
[[price.versions]]
version = 1
effective_from = 2025-01-01T00:00:00Z
model = "flat_fee"
amount = "50.00"
[[price]]
id = "storage"
meter = "private_storage"
currency = "USD"
[[price.versions]]
version = 1
effective_from = 2025-01-01T00:00:00Z
model = "standard"
unit_price = "0.10"
included_units = "100"
conversion = { unit = "GB-month", divide = "1000000000" }
"""
ACCOUNT = """
[[account]]
id = "acme"
name = "Acme"
time_zone = "UTC"
currency = "USD"
"""


def standard(price: str, meter: str, unit_price: str) -> str:
    """Return a price by the unit."""
    return f"""
[[price]]
id = "{price}"
meter = "{meter}"
currency = "USD"
[[price.versions]]
version = 1
effective_from = 2025-01-01T00:00:00Z
model = "standard"
unit_price = "{unit_price}"
"""


def subscription(anchor: str = "") -> str:
    """Return the subscription of acme, from the beginning of 2026."""
    return f"""
[[subscription]]
id = "sub"
account = "acme"
plan = "plan"
starts_at = 2026-01-01T00:00:00Z
{anchor}
"""


THREE_KINDS: Mapping[str, str] = {
    "billable": (PROJECT_ROOT / "catalog/billable.toml").read_text(),
    "meters": STORAGE_METER
    + """
[[meter]]
id = "requests"
aggregation = "count"
unit = "request"
[[meter]]
id = "traffic"
source = "traffic"
aggregation = "sum"
field = "total_bytes"
unit = "byte"
""",
    "prices": STORAGE_IN_TIERS + standard("requests", "requests", "1.00") + standard("traffic", "traffic", "0.5"),
    "plans": '[[plan]]\nid = "plan"\nprices = ["requests", "traffic", "storage"]\n',
    "accounts": ACCOUNT + f'clients = [{{ id = "c_acme" }}, {{ id = "{ACME_UUID}" }}, {{ id = "acme-data" }}]\n',
    "subscriptions": subscription(),
    "sources": """
[[source]]
name = "api"
landing = "requests/api"
profile = "few_requests"
delivery_day = "key"
""",
    "traffic": """
[[source]]
name = "jp"
env = "prod"
node = "jp-node"
active_from = 2026-02-10T10:30:00Z
active_to = 2026-02-10T10:31:00Z
on_first = "full"
""",
    "storage": """
[[source]]
name = "sizes"
kind = "table"
landing = "storage/sizes"
""",
    # A few requests are no day of an exporter: no hour is expected.
    "profiles/few_requests": PROFILE.replace('"billable_request_json"', '"few_requests"').replace('"every"', '"none"'),
}


def write_catalog(folder: Path, texts: Mapping[str, str]) -> Path:
    """Write catalog files and return their folder."""
    for name, text in texts.items():
        path = folder / f"{name}.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def ten_requests() -> list[dict[str, object]]:
    """Return ten requests of which five are billable, as the list of what is billed has them."""
    paths = ["odometer", "location", "security", "vin", "info"]
    requests: list[tuple[str, str, int, bool]] = [
        ("POST" if path == "security" else "GET", f"{VEHICLE}/{path}", 200, True) for path in paths
    ]
    requests += [
        ("GET", "/v2.0/vehicles", 200, True),
        ("GET", "/v2.0/user", 200, True),
        ("DELETE", f"{VEHICLE}/application", 200, True),
        ("GET", f"{VEHICLE}/odometer", 500, True),
        ("GET", f"{VEHICLE}/odometer", 200, False),
    ]
    return [
        {
            "request_id": f"r-{number}",
            "client_id": "c_acme",
            "timestamp": f"2026-02-10T12:00:{number:02}Z",
            "endpoint": path,
            "method": method,
            "status_code": status,
            "response_time_ms": 12,
            "is_real_vehicle": is_real,
        }
        for number, (method, path, status, is_real) in enumerate(requests)
    ]


def two_snapshots() -> list[dict[str, object]]:
    """Return two readings in one minute: 100 bytes, then 120."""
    return [
        {
            "collected_at": f"2026-02-10T10:30:{second}Z",
            "node_id": "jp-node",
            "env": "prod",
            "samples": [
                {
                    "uuid": ACME_UUID,
                    "email": "user@example.com",
                    "inbound_tag": "xhttp",
                    "uplink_bytes_total": 40,
                    "downlink_bytes_total": total - 40,
                }
            ],
        }
        for second, total in ((15, 100), (45, 120))
    ]


def sizes() -> list[dict[str, object]]:
    """Return sizes of two of February's 28 days: 150 GB-month of one repository, 60 of another, and a public one."""
    return [
        {
            "repository": repository,
            "snapshot_at": f"2026-02-{day:02}T00:00:00Z",
            "bytes": gigabytes * GB,
            "visibility": visibility,
            "owner": "acme-data",
        }
        for repository, day, gigabytes, visibility in (
            ("whole", 9, 2100, "private"),
            ("open", 9, 500, "public"),
            ("whole", 10, 2100, "private"),
            ("open", 10, 500, "public"),
            ("half", 10, 1680, "private"),
        )
    ]


@dataclass(frozen=True)
class Installation:
    """An installation with the catalog of three kinds, and its stores."""

    settings: Settings
    database: Database
    stores: Stores

    def deliver(self, key: str, rows: list[dict[str, object]]) -> None:
        """Put a file of JSON lines into the landing folder."""
        path = Path(self.settings.landing_url) / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    def bring_up_to_date(self) -> int:
        """Read what waits, build and book what is due, and return the number of revisions that it took."""
        stores = self.stores
        stores.requests.ingest_days(stores.requests.discover(seen_at=NOW).delivery_days, **RUN)
        stores.traffic.discover(seen_at=NOW)
        stores.traffic.collect_days(stores.traffic.due_days(NOW), now=NOW, **RUN)
        stores.storage.discover(seen_at=NOW)
        for dataset in DATASETS:
            stores.storage.ingest_days(dataset, stores.storage.delivery_days(dataset, pending_only=True), **RUN)
        stores.catalog.load(self.settings.catalog_dir)
        stores.request_usage.build_days(stores.request_usage.stale_days(), **RUN)
        stores.traffic_usage.build_days(stores.traffic_usage.stale_days(), **RUN)
        stores.storage_usage.build_days(stores.storage_usage.stale_days(), **RUN)
        booked = stores.charges.book_days(stores.charges.unbooked_days(), **RUN)
        return sum(one.revisions_booked for one in booked)


@pytest.fixture
def installation(database: Database, tmp_path: Path) -> Installation:
    (tmp_path / "landing/requests/api").mkdir(parents=True)
    settings = Settings(
        home=tmp_path,
        landing_url=str(tmp_path / "landing"),
        lake_url=str(tmp_path / "lake"),
        catalog_dir=write_catalog(tmp_path / "catalog", THREE_KINDS),
        billing_database_url=database.url,
    )
    return Installation(settings, database, open_stores(settings, database))


class TestThreeKindsOfUsage:
    """Row X-01 of the checklist."""

    def test_are_three_line_groups_and_one_total(self, installation: Installation) -> None:
        installation.deliver("requests/api/2026-02-10/requests.jsonl", ten_requests())
        installation.deliver("traffic/jp/2026-02-10/snapshots.jsonl", two_snapshots())
        installation.deliver("storage/sizes/2026-02-10/sizes.jsonl", sizes())
        assert installation.bring_up_to_date() > 0
        bill = ChargeReader(installation.database).bill("acme", "2026-02")
        assert [
            (source, [(charge.quantity, charge.unit) for charge in charges], amount)
            for source, charges, amount in bill.line_groups
        ] == [
            (MeterSource.API_REQUESTS, [(5, "request")], Money(500, "USD")),
            (MeterSource.TRAFFIC, [(120, "byte")], Money(6000, "USD")),
            (MeterSource.STORAGE, [(210, "GB-month")], Money(6100, "USD")),
        ]
        assert bill.total == Money(12600, "USD")
        assert installation.bring_up_to_date() == 0

    def test_come_one_after_the_other_to_the_same_bill(self, installation: Installation) -> None:
        totals = []
        for key, rows in (
            ("storage/sizes/2026-02-10/sizes.jsonl", sizes()),
            ("traffic/jp/2026-02-10/snapshots.jsonl", two_snapshots()),
            ("requests/api/2026-02-10/requests.jsonl", ten_requests()),
        ):
            installation.deliver(key, rows)
            installation.bring_up_to_date()
            totals.append(ChargeReader(installation.database).bill("acme", "2026-02").total.minor_units)
        assert totals == [6100, 12100, 12600]


@dataclass(frozen=True)
class StorageBooks:
    """The books of one account that stores bytes; what it holds is put into usage.storage by the hour."""

    database: Database
    folder: Path

    def load(self, *, prices: str, plan: str, anchor: str = "") -> None:
        """Load a catalog with these prices."""
        texts = {
            "billable": THREE_KINDS["billable"],
            "meters": STORAGE_METER,
            "prices": prices,
            "plans": f'[[plan]]\nid = "plan"\nprices = [{plan}]\n',
            "accounts": ACCOUNT,
            "subscriptions": subscription(anchor),
        }
        CatalogStore(self.database).load(write_catalog(self.folder, texts))

    def hold(self, size_bytes: int, start: datetime, end: datetime) -> None:
        """Hold `size_bytes` from `start` to `end`, in hours; the first and the last may be parts of one."""
        hours = (start.replace(minute=0, second=0) + timedelta(hours=number) for number in range(24 * 40))
        points = [start, *(hour for hour in hours if start < hour < end), end]
        rows = [
            (begin.date(), begin, until, size_bytes * int((until - begin).total_seconds()))
            for begin, until in pairwise(points)
        ]
        with self.database.transaction() as connection, connection.cursor() as cursor:
            cursor.executemany(
                """
                insert into usage.storage
                    (event_day, account_id, meter_id, period_start, period_end, quantity, unit, repository_count)
                values (%s, 'acme', 'private_storage', %s, %s, %s, 'byte-second', 1)
                """,
                rows,
            )

    def bill(self, month: str, *, days: tuple[date, ...]) -> Bill:
        """Book the days and return the bill of a month."""
        ChargeStore(self.database).book_days(days, **RUN)
        return ChargeReader(self.database).bill("acme", month)


@pytest.fixture
def books(database: Database, tmp_path: Path) -> StorageBooks:
    return StorageBooks(database, tmp_path / "catalog")


def month(year: int, number: int) -> tuple[datetime, datetime]:
    """Return the first instant of a month and of the next one."""
    start = datetime(year, number, 1, tzinfo=UTC)
    return start, (start + timedelta(days=31)).replace(day=1)


def days_between(start: datetime, end: datetime) -> tuple[date, ...]:
    return tuple((start + timedelta(days=number)).date() for number in range((end - start).days))


class TestStoragePlan:
    """Row DH-08: 50.00 a month with 100 GB-month, then 0.10 each."""

    @pytest.mark.parametrize(
        ("tenths_of_gb", "total_minor"), [(0, 5000), (1000, 5000), (1005, 5005), (2100, 6100), (2500, 6500)]
    )
    def test_asks_its_fee_and_what_is_above_what_it_includes(
        self, books: StorageBooks, tenths_of_gb: int, total_minor: int
    ) -> None:
        books.load(prices=STORAGE_WITH_FEE, plan='"fee", "storage"')
        start, end = month(2026, 6)
        if tenths_of_gb:
            books.hold(tenths_of_gb * GB // 10, start, end)
        bill = books.bill("2026-06", days=days_between(start, end))
        assert bill.total == Money(total_minor, "USD")
        assert [charge.quantity for charge in bill.charges if charge.meter_id] == (
            [Decimal(tenths_of_gb) / 10] if tenths_of_gb else []
        )

    @pytest.mark.parametrize(
        ("tenths_of_gb", "total_minor"), [(1, 5000), (1000, 5000), (1005, 5005), (2100, 6100), (2500, 6500)]
    )
    def test_asks_the_same_as_one_price_in_tiers(
        self, books: StorageBooks, tenths_of_gb: int, total_minor: int
    ) -> None:
        books.load(prices=STORAGE_IN_TIERS, plan='"storage"')
        start, end = month(2026, 6)
        books.hold(tenths_of_gb * GB // 10, start, end)
        assert books.bill("2026-06", days=days_between(start, end)).total == Money(total_minor, "USD")

    def test_counts_what_was_there_for_a_part_of_the_month_by_its_time(self, books: StorageBooks) -> None:
        books.load(prices=STORAGE_WITH_FEE, plan='"fee", "storage"')
        start, end = month(2026, 6)
        books.hold(150 * GB, start, start + timedelta(days=15))
        books.hold(270 * GB, start + timedelta(days=15), end)
        bill = books.bill("2026-06", days=days_between(start, end))
        assert [charge.quantity for charge in bill.charges if charge.meter_id] == [210]
        assert bill.total == Money(6100, "USD")


class TestGbMonths:
    """Row DH-09: GB-months are over each subscriber's own period, however long it is."""

    @pytest.mark.parametrize("number", [2, 6, 7])
    def test_of_four_gb_all_of_a_month_are_four(self, books: StorageBooks, number: int) -> None:
        books.load(prices=STORAGE_WITH_FEE, plan='"storage"')
        start, end = month(2026, number)
        books.hold(4 * GB, start, end)
        (charge,) = books.bill(f"2026-{number:02}", days=days_between(start, end)).charges
        assert (charge.quantity, charge.unit) == (4, "GB-month")

    def test_of_periods_that_begin_inside_an_hour_are_cut_there(self, books: StorageBooks) -> None:
        books.load(prices=STORAGE_WITH_FEE, plan='"storage"', anchor="anchor_day = 10\nanchor_time = 14:37:12")
        first, second, third = (datetime(2026, number, 10, 14, 37, 12, tzinfo=UTC) for number in (6, 7, 8))
        start, end = month(2026, 6)[0], month(2026, 8)[1]
        # A second too much on either side would show.
        books.hold(4 * GB, first, second)
        books.hold(6 * GB, second, third)
        days = days_between(start, end)
        books.bill("2026-06", days=days)
        reader = ChargeReader(books.database)
        found = {
            when: [(charge.period.start, charge.quantity) for charge in reader.bill("acme", when).charges]
            for when in (first, second)
        }
        assert found == {first: [(first, 4)], second: [(second, 6)]}
