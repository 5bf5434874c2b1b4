"""What the store was built for, from files to charges: only billable requests, once each, by rules that are files."""

import gzip
import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from resources.database import Database, Role
from resources.settings import PROJECT_ROOT
from tests.chain import DAYS, SOURCES, Call, Installation, Site, api_key, ingest_all, lines, write_catalog

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
VEHICLE = "/v2.0/vehicles/36ab27d0-fd9d-4455-823a-ce30af709ffc"
TEMPLATE = "/v2.0/vehicles/{vehicle_id}"
PROFILE = (PROJECT_ROOT / "billing_pipeline/profiles/billable_request_json.toml").read_text()
# A few requests are no day of an exporter: no hour is expected.
ANY_HOURS = PROFILE.replace('"billable_request_json"', '"few_requests"').replace('"every"', '"none"')
API_ONLY = SOURCES[: SOURCES.rindex("[[source]]")].replace("billable_request_json", "few_requests")

METERS = """
[[meter]]
id = "requests"
aggregation = "count"
unit = "request"
"""
PRICES = """
[[price]]
id = "requests"
meter = "requests"
currency = "USD"
[[price.versions]]
version = 1
effective_from = 2025-01-01T00:00:00Z
model = "standard"
unit_price = "0.50"
"""
PLANS = """
[[plan]]
id = "plan"
prices = ["requests"]
"""


def account(name: str) -> str:
    return f"""
[[account]]
id = "{name}"
name = "{name}"
time_zone = "UTC"
currency = "USD"
clients = [{{ id = "c_{name}" }}]
"""


def subscription(name: str) -> str:
    return f"""
[[subscription]]
id = "s_{name}"
account = "{name}"
plan = "plan"
starts_at = 2026-01-01T00:00:00Z
"""


def request(number: int, method: str, path: str, status: int = 200, *, is_real: bool = True) -> bytes:
    fields = {
        "request_id": f"r-{number}",
        "client_id": "c_acme",
        "timestamp": (NOON + timedelta(seconds=number)).isoformat(),
        "endpoint": path,
        "method": method,
        "status_code": status,
        "response_time_ms": 12,
        "is_real_vehicle": is_real,
    }
    return json.dumps(fields).encode() + b"\n"


@pytest.fixture(scope="module")
def site(postgres_url: str, template_database: str, tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("acceptance")
    write_few_requests_catalog(folder / "catalog", "acme")
    return Site(postgres_url, template_database, folder)


def write_few_requests_catalog(folder: Path, *accounts: str, profile: str = ANY_HOURS, **texts: str) -> Path:
    """Write a catalog with the shipped billable rule, one price, and an account and a subscription for each name."""
    (folder / "profiles").mkdir(parents=True, exist_ok=True)
    (folder / "profiles" / "few_requests.toml").write_text(profile)
    ours = {
        "billable": (PROJECT_ROOT / "catalog/billable.toml").read_text(),
        "meters": METERS,
        "prices": PRICES,
        "plans": PLANS,
        "accounts": "".join(map(account, accounts)),
        "subscriptions": "".join(map(subscription, accounts)),
        "sources": API_ONLY,
    }
    return write_catalog(folder, **{**ours, **texts})


@pytest.fixture
def installation(site: Site) -> Iterator[Installation]:
    with site.installation() as installation:
        yield installation


def billed(installation: Installation) -> Mapping[str, Decimal]:
    """Return the quantity that each account is charged for."""
    return dict(
        installation.rows(
            "select account_id, sum(quantity) from (select distinct on (charge_id) * from billing.charge_revision"
            " order by charge_id, revision desc) as newest group by account_id"
        )
    )


class TestTenRequests:
    def test_are_five_that_are_billed_and_five_that_are_not_each_with_its_reason(
        self, installation: Installation
    ) -> None:
        ten = [
            request(0, "GET", f"{VEHICLE}/odometer"),
            request(1, "GET", f"{VEHICLE}/location"),
            request(2, "POST", f"{VEHICLE}/security"),
            request(3, "GET", f"{VEHICLE}/vin"),
            request(4, "GET", f"{VEHICLE}/info"),
            request(5, "GET", "/v2.0/vehicles"),
            request(6, "GET", "/v2.0/user"),
            request(7, "DELETE", f"{VEHICLE}/application"),
            request(8, "GET", f"{VEHICLE}/odometer", 500),
            request(9, "GET", f"{VEHICLE}/odometer", is_real=False),
        ]
        installation.deliver([(api_key(DAYS[0], "ten.jsonl"), b"".join(ten))])
        installation.bring_up_to_date()
        endpoints = installation.rows(
            "select method, endpoint, request_count from usage.api_requests order by endpoint"
        )
        assert endpoints == [
            ("GET", f"{TEMPLATE}/info", 1),
            ("GET", f"{TEMPLATE}/location", 1),
            ("GET", f"{TEMPLATE}/odometer", 1),
            ("POST", f"{TEMPLATE}/security", 1),
            ("GET", f"{TEMPLATE}/vin", 1),
        ]
        assert installation.rows(
            "select reason, account_id, client_id, request_count from usage.api_requests_not_billable order by reason"
        ) == [
            ("endpoint_not_billable", "acme", "c_acme", 3),
            ("not_successful", "acme", "c_acme", 1),
            ("simulated", "acme", "c_acme", 1),
        ]
        assert billed(installation) == {"acme": 5}
        assert installation.rows("select amount_minor, currency from billing.charge_revision") == [(250, "USD")]


class TestOneBatch:
    @pytest.mark.parametrize("delivery_days", [(0, 0, 0), (0, 1, 2)])
    def test_sent_three_times_counts_once(self, installation: Installation, delivery_days: tuple[int, ...]) -> None:
        batch = [Call(request_id=f"r-{number}", at=NOON + timedelta(seconds=number)) for number in range(1000)]
        shuffled = random.Random(1).sample(batch, len(batch))
        times = [("a.jsonl", lines(batch)), ("b.jsonl", lines(batch)), ("c.jsonl.gz", gzip.compress(lines(shuffled)))]
        installation.deliver(
            (api_key(DAYS[day], name), content) for day, (name, content) in zip(delivery_days, times, strict=True)
        )
        installation.bring_up_to_date()
        ((read, refused, copies),) = installation.rows(
            "select sum(lines_read), sum(rejected_rows), sum(duplicate_rows) from core.source_file"
        )
        ((copies_of_other_days, billable),) = installation.rows(
            "select sum(duplicate_records), sum(billable_records) from usage.build"
        )
        assert (read, refused, copies + copies_of_other_days, billable) == (3000, 0, 2000, 1000)
        assert billed(installation) == {"acme": 1000}


class TestNewEndpoint:
    """An endpoint becomes billable by its line in a profile and its line in the rule; raw files are replayed."""

    def test_of_the_rule_is_billed_for_days_that_are_in_already(
        self, installation: Installation, tmp_path: Path
    ) -> None:
        requests = [request(0, "GET", f"{VEHICLE}/odometer"), request(1, "GET", "/v2.0/user")]
        installation.deliver([(api_key(DAYS[0], "a.jsonl"), b"".join(requests))])
        installation.bring_up_to_date()
        assert billed(installation) == {"acme": 1}
        rule = (PROJECT_ROOT / "catalog/billable.toml").read_text()
        new_rule = rule.replace("version = 1", "version = 2").replace(
            "endpoints = [", 'endpoints = [\n    { method = "GET", endpoint = "/v2.0/user" },'
        )
        changed = Installation(
            installation.home,
            installation.database,
            write_few_requests_catalog(tmp_path / "catalog", "acme", billable=new_rule),
        )
        changed.catalog.load(changed.catalog_dir)
        assert changed.usage.stale_days() == (DAYS[0],)
        changed.bring_up_to_date()
        assert billed(changed) == {"acme": 2}
        assert changed.rows("select sum(amount_minor) from billing.ledger_posting where amount_minor > 0") == [(100,)]

    def test_that_no_profile_knew_is_billed_when_its_raw_files_are_read_again(
        self, installation: Installation, tmp_path: Path
    ) -> None:
        charge = f"{VEHICLE}/ev/charge"
        requests = [request(0, "GET", f"{VEHICLE}/odometer"), request(1, "POST", charge), request(2, "POST", charge)]
        installation.deliver([(api_key(DAYS[0], "a.jsonl"), b"".join(requests))])
        installation.bring_up_to_date()
        assert {row[7] for row in installation.lake_rows()} == {f"{TEMPLATE}/odometer", "unmatched"}
        new_endpoint = f"{TEMPLATE}/ev/charge"
        rule = (PROJECT_ROOT / "catalog/billable.toml").read_text()
        new_rule = rule.replace("version = 1", "version = 2").replace(
            "endpoints = [", f'endpoints = [\n    {{ method = "POST", endpoint = "{new_endpoint}" }},'
        )
        new_profile = ANY_HOURS.replace("endpoints = [", f'endpoints = [\n    "{new_endpoint}",')
        catalog_dir = write_few_requests_catalog(tmp_path / "catalog", "acme", profile=new_profile, billable=new_rule)
        changed = Installation(installation.home, installation.database, catalog_dir)
        ingest_all(changed)
        changed.bring_up_to_date()
        assert billed(changed) == {"acme": 3}
        assert changed.rows(
            "select request_count from usage.api_requests where endpoint = %s and method = 'POST'", new_endpoint
        ) == [(2,)]


class TestFiftyClients:
    def test_see_in_their_usage_what_their_bill_charges(self, site: Site, tmp_path: Path) -> None:
        chance = random.Random(11)
        names = [f"client{number:02d}" for number in range(50)]
        calls = [
            Call(
                request_id=f"r-{number}",
                at=NOON + timedelta(minutes=chance.randrange(3000)),
                client_id=f"c_{names[int(50 * chance.random() ** 2)]}",
                status_code=chance.choice((200, 200, 200, 404)),
            )
            for number in range(3000)
        ]
        counted = Counter(call.client_id.removeprefix("c_") for call in calls if call.status_code == 200)
        catalog_dir = write_few_requests_catalog(tmp_path / "catalog", *names)
        with site.installation() as empty:
            installation = Installation(empty.home, empty.database, catalog_dir)
            installation.deliver([(api_key(DAYS[2], "a.jsonl"), lines([*calls, *calls[:300]]))])
            installation.bring_up_to_date()
            usage = dict(
                installation.rows("select account_id, sum(request_count) from usage.api_requests group by account_id")
            )
            assert len(counted) == 50
            assert usage == billed(installation) == counted


class TestUsageTable:
    def test_counts_a_clients_requests_by_endpoint_and_day_through_an_index(self, database: Database) -> None:
        with database.connect(Role.WRITER) as connection:
            connection.execute(
                """
                insert into usage.api_requests (event_day, account_id, meter_id, period_start, period_end, endpoint, method,
                    client_id, quantity, unit, request_count)
                select start::date, 'a' || account, 'requests', start, start + interval '1 hour', '/e' || endpoint, 'GET',
                    'c' || account, account, 'request', account
                from generate_series(1, 200) as account, generate_series(1, 5) as endpoint,
                    generate_series('2026-03-01', '2026-03-09 07:00', interval '1 hour') as start
                """
            )
            connection.commit()
            connection.autocommit = True
            with database.connect(Role.OWNER) as owner:
                owner.execute("analyze usage.api_requests")
            one_client = (
                "select endpoint, event_day, sum(request_count) from usage.api_requests"
                " where account_id = 'a7' and client_id = 'c7' group by endpoint, event_day order by 1, 2"
            )
            found = connection.execute(one_client).fetchall()
            plan = "\n".join(row[0] for row in connection.execute(f"explain {one_client}").fetchall())
            of_a_day = connection.execute(
                "explain select client_id, endpoint, sum(request_count) from usage.api_requests"
                " where event_day = '2026-03-09' group by 1, 2"
            ).fetchall()
            total = connection.execute("select count(*), sum(request_count) from usage.api_requests").fetchone()
        hours_of = {date(2026, 3, day): 24 if day < 9 else 8 for day in range(1, 10)}
        assert found == [(f"/e{number}", day, 7 * hours) for number in range(1, 6) for day, hours in hours_of.items()]
        assert "api_requests_pkey" in plan
        assert any("api_requests_by_day" in row[0] for row in of_a_day)
        assert total == (200_000, sum(range(1, 201)) * 5 * 200)
