"""A small installation for tests of the whole chain: a catalog, log lines, deliveries of three days, runs, and its facts.

Facts are everything that a bill or an audit reads, without what may differ between two runs that end in the same state:
surrogate ids, times, run ids, and in how many revisions a total was booked.
"""

import gzip
import io
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg
import duckdb
import fastavro

from assets.code_version import code_version
from assets.definitions import defs_of
from console.runs import Pipeline
from resources.catalog_store import CatalogStore
from resources.charge_store import ChargeStore
from resources.database import Database
from resources.lake import Lake
from resources.request_store import RequestStore
from resources.runtime import Runtime
from resources.settings import Settings
from resources.stores import open_stores
from resources.usage_store import DayBuild, UsageStore
from tests.databases import lent_database

DAYS = (date(2026, 3, 1), date(2026, 3, 2), date(2026, 3, 3))
RUN = "run"

BILLABLE = """
version = 1
success_statuses = [[200, 299]]
endpoints = [
    { method = "GET", endpoint = "/v2.0/vehicles/{vehicle_id}/odometer" },
    { method = "GET", endpoint = "/v2.0/vehicles/{vehicle_id}/location" },
]
"""
METERS = """
[[meter]]
id = "requests"
aggregation = "count"
unit = "request"
[[meter]]
id = "bytes"
aggregation = "sum"
field = "response_bytes"
unit = "byte"
[[meter]]
id = "clients"
aggregation = "unique"
field = "client_id"
unit = "client"
[[meter]]
id = "p95"
aggregation = "percentile"
field = "response_time_us"
percentile = "95"
unit = "us"
"""
PRICES = """
[[price]]
id = "acme_requests"
meter = "requests"
currency = "USD"
[[price.versions]]
version = 1
effective_from = 2025-01-01T00:00:00Z
model = "graduated"
tiers = [
    { up_to = "100", unit_price = "0.0125" },
    { up_to = "250", unit_price = "0.0095", flat_fee = "1.00" },
    { unit_price = "0.0061" },
]
[[price.versions]]
version = 2
effective_from = 2026-03-03T00:00:00Z
model = "graduated"
tiers = [
    { up_to = "100", unit_price = "0.0125" },
    { up_to = "250", unit_price = "0.0085", flat_fee = "1.00" },
    { unit_price = "0.0041" },
]

[[price]]
id = "acme_p95"
meter = "p95"
currency = "USD"
[[price.versions]]
version = 1
effective_from = 2025-01-01T00:00:00Z
model = "standard"
unit_price = "0.00001"

[[price]]
id = "beta_requests"
meter = "requests"
currency = "JPY"
group_by = ["endpoint"]
[[price.versions]]
version = 1
effective_from = 2025-01-01T00:00:00Z
model = "graduated"
tiers = [{ up_to = "50", unit_price = "1.5" }, { unit_price = "0.7" }]

[[price]]
id = "beta_clients"
meter = "clients"
currency = "JPY"
[[price.versions]]
version = 1
effective_from = 2025-01-01T00:00:00Z
model = "standard"
unit_price = "300"

[[price]]
id = "beta_bytes"
meter = "bytes"
currency = "JPY"
[[price.versions]]
version = 1
effective_from = 2025-01-01T00:00:00Z
model = "standard"
unit_price = "0.013"
"""
PLANS = """
[[plan]]
id = "plan_acme"
prices = ["acme_requests", "acme_p95"]
[[plan]]
id = "plan_beta"
prices = ["beta_requests", "beta_clients", "beta_bytes"]
"""
ACCOUNTS = """
[[account]]
id = "acme"
name = "Acme"
time_zone = "America/New_York"
currency = "USD"
clients = [{ id = "c_acme" }]
[[account]]
id = "beta"
name = "Beta"
time_zone = "Asia/Tokyo"
currency = "JPY"
clients = [{ id = "c_beta_app" }, { id = "c_beta_depot" }]
"""
# The periods of beta begin inside an hour of the second day.
SUBSCRIPTIONS = """
[[subscription]]
id = "s_acme"
account = "acme"
plan = "plan_acme"
starts_at = 2026-01-01T05:00:00Z
[[subscription]]
id = "s_beta"
account = "beta"
plan = "plan_beta"
starts_at = 2026-02-02T05:37:12Z
anchor_day = 2
anchor_time = 14:37:12
"""
SOURCES = """
[[source]]
name = "api"
landing = "requests/api"
profile = "billable_request_json"
delivery_day = "key"
[[source]]
name = "auth"
landing = "requests/auth"
profile = "billable_request_avro"
delivery_day = "key"
"""
CATALOG = {
    "billable": BILLABLE,
    "meters": METERS,
    "prices": PRICES,
    "plans": PLANS,
    "accounts": ACCOUNTS,
    "subscriptions": SUBSCRIPTIONS,
    "sources": SOURCES,
}
AVRO_SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "ApiRequest",
    "namespace": "billing",
    "fields": [
        {"name": "request_id", "type": "string"},
        {"name": "client_id", "type": "string"},
        {"name": "timestamp", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "endpoint", "type": "string"},
        {"name": "method", "type": "string"},
        {"name": "status_code", "type": "int"},
        {"name": "response_time_ms", "type": "double"},
        {"name": "is_real_vehicle", "type": "boolean"},
    ],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One API request as a log knows it."""

    request_id: str
    at: datetime
    client_id: str = "c_acme"
    endpoint: str = "/v2.0/vehicles/7f3a/odometer"
    status_code: int = 200
    response_time_ms: int = 12
    response_bytes: int = 100
    is_real: bool = True

    def line(self) -> bytes:
        fields = {
            "request_id": self.request_id,
            "client_id": self.client_id,
            "timestamp": self.at.isoformat().replace("+00:00", "Z"),
            "endpoint": self.endpoint,
            "method": "GET",
            "status_code": self.status_code,
            "response_time_ms": self.response_time_ms,
            "is_real_vehicle": self.is_real,
            "bytes": self.response_bytes,
        }
        return json.dumps(fields).encode() + b"\n"


def calls_of(day: date, *, source: str = "api", an_hour: int = 6) -> list[Call]:
    """Return `an_hour` requests in each hour of the day; always the same ones."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    clients = ("c_acme", "c_beta_app", "c_acme", "c_beta_depot", "c_acme", "c_nobody", "c_beta_app")
    return [
        Call(
            request_id=f"{source}-{day:%m%d}-{number}",
            at=midnight + timedelta(seconds=number * 3600 // an_hour, milliseconds=number),
            client_id=clients[number % 7],
            endpoint=f"/v2.0/vehicles/{number % 5}/{('odometer', 'location', 'user')[number % 11 % 3]}",
            status_code=500 if number % 13 == 0 else 200,
            response_time_ms=5 + number * 37 % 91,
            response_bytes=number * 53 % 700,
            is_real=number % 17 != 0,
        )
        for number in range(24 * an_hour)
    ]


def lines(calls: Iterable[Call]) -> bytes:
    """Return the calls as JSON lines."""
    return b"".join(call.line() for call in calls)


def avro(calls: Iterable[Call], codec: str = "deflate") -> bytes:
    """Return the calls as an Avro object container file; the same calls give the same bytes."""
    buffer = io.BytesIO()
    records = [
        {
            "request_id": call.request_id,
            "client_id": call.client_id,
            "timestamp": call.at,
            "endpoint": call.endpoint,
            "method": "GET",
            "status_code": call.status_code,
            "response_time_ms": call.response_time_ms,
            "is_real_vehicle": call.is_real,
        }
        for call in calls
    ]
    fastavro.writer(buffer, fastavro.parse_schema(AVRO_SCHEMA), records, codec=codec, sync_marker=b"sync" * 4)
    return buffer.getvalue()


def api_key(delivery_day: date, name: str) -> str:
    """Return the key of a delivered file of JSON lines."""
    return f"requests/api/{delivery_day}/{name}"


def auth_key(delivery_day: date, name: str) -> str:
    """Return the key of a delivered Avro file."""
    return f"requests/auth/{delivery_day}/{name}"


Delivery = tuple[tuple[str, bytes], ...]
Facts = Mapping[str, Sequence[tuple[Any, ...]]]


def three_days() -> tuple[Delivery, ...]:
    """Return the deliveries of four mornings: (key, content) of each file.

    Half of a day comes on the day itself and the rest on the next, so every day is held for missing hours once. The last
    morning also brings a late file of the second day with repeated lines and one that contradicts a billed request, a
    copy of a file under another name, and a file overwritten with other content.
    """
    mornings: list[list[tuple[str, bytes]]] = [[] for _ in range(4)]
    for number, day in enumerate(DAYS):
        first, second = calls_of(day)[:72], [call for call in calls_of(day)[72:] if not _is_late(call)]
        next_day = day + timedelta(days=1)
        # An exporter that retries writes lines twice.
        mornings[number].append((api_key(day, f"{day}-a.jsonl"), lines(first) + lines(first[5:9])))
        refused = b'{"request_id": "cut\n' + first[0].line().replace(b'"status_code": ', b'"status_code": -')
        mornings[number + 1] += [
            (
                api_key(next_day, f"{day}-b.jsonl.gz"),
                gzip.compress(lines(second) + refused + lines(first[:3]), mtime=0),
            ),
            (
                auth_key(next_day, f"{day}.avro"),
                avro(calls_of(day, source="auth", an_hour=2), ("deflate", "null", "zstandard")[number]),
            ),
        ]
    second_day = calls_of(DAYS[1])
    contradiction = replace(next(call for call in second_day if _is_billable(call)), status_code=502)
    late_day = DAYS[2] + timedelta(days=1)
    late = [call for call in second_day if _is_late(call)]
    mornings[3] += [
        (api_key(late_day, "late.jsonl"), lines([*late, *second_day[:10], contradiction])),
        (api_key(late_day, "again.jsonl"), dict(mornings[2])[api_key(DAYS[2], f"{DAYS[2]}-a.jsonl")]),
        (api_key(DAYS[0], f"{DAYS[0]}-a.jsonl"), lines(calls_of(DAYS[0])[:30])),
    ]
    return tuple(tuple(morning) for morning in mornings)


def _is_late(call: Call) -> bool:
    """Return whether the call is in the ten minutes of the second day that one node delivered late."""
    return call.at.date() == DAYS[1] and call.at.hour == 14 and 20 <= call.at.minute < 40


def _is_billable(call: Call) -> bool:
    return call.status_code == 200 and call.is_real and call.client_id != "c_nobody" and "user" not in call.endpoint


def write_catalog(folder: Path, **texts: str) -> Path:
    """Write the catalog of this module, with other texts for some files, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {**CATALOG, **texts}.items():
        (folder / f"{name}.toml").write_text(text)
    return folder


@dataclass(frozen=True)
class Installation:
    """Landing folder, lake and database of one installation, and its stores. Opens nothing until asked."""

    home: Path
    database: Database
    catalog_dir: Path

    @cached_property
    def settings(self) -> Settings:
        return Settings(
            home=self.home,
            landing_url=str(self.home / "landing"),
            lake_url=str(self.home / "lake"),
            catalog_dir=self.catalog_dir,
            billing_database_url=self.database.url,
        )

    @cached_property
    def definitions(self) -> dg.Definitions:
        return defs_of(self.settings, self.database)

    @cached_property
    def lake(self) -> Lake:
        return Lake(self.settings.lake_url, self.settings.scratch_dir)

    @cached_property
    def requests(self) -> RequestStore:
        return _of(self.definitions, "request_store", RequestStore)

    @cached_property
    def usage(self) -> UsageStore:
        return _of(self.definitions, "usage_store", UsageStore)

    @cached_property
    def catalog(self) -> CatalogStore:
        return _of(self.definitions, "catalog_store", CatalogStore)

    @cached_property
    def charges(self) -> ChargeStore:
        return _of(self.definitions, "charge_store", ChargeStore)

    def deliver(self, delivery: Iterable[tuple[str, bytes]]) -> None:
        """Put files into the landing folder as an exporter does: whole, and once."""
        for source in ("api", "auth"):
            (self.home / "landing" / "requests" / source).mkdir(parents=True, exist_ok=True)
        for key, content in delivery:
            path = self.home / "landing" / key
            if path.exists() and path.read_bytes() == content:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(f".{path.name}.tmp")
            draft.write_bytes(content)
            os.replace(draft, path)

    def ingest(self) -> tuple[date, ...]:
        """Look for new files, read the delivery days that have any, and return those."""
        days = self.requests.discover(seen_at=datetime.now(UTC)).delivery_days
        self.requests.ingest_days(days, run_id=RUN, code_version=code_version())
        return days

    def build(self, days: Sequence[date] | None = None) -> tuple[DayBuild, ...]:
        """Build event days; without `days` those that are stale."""
        wanted = self.usage.stale_days() if days is None else days
        return self.usage.build_days(wanted, run_id=RUN, code_version=code_version())

    def book(self, days: Sequence[date] = DAYS) -> int:
        """Book days and return the number of revisions that it took."""
        return sum(
            one.revisions_booked for one in self.charges.book_days(days, run_id=RUN, code_version=code_version())
        )

    def bring_up_to_date(self) -> None:
        """Do what `Pipeline.bring_up_to_date` does, by the stores and without Dagster."""
        self.ingest()
        self.catalog.load(self.catalog_dir)
        self.build()
        self.book(self.charges.unbooked_days())

    def bring_up_to_date_by_dagster(self) -> None:
        """Materialize whatever is due, as `billing materialize` does, with Dagster's own records in memory."""
        runtime = Runtime(settings=self.settings, database=self.database, dagster_database_url="", child_environment={})
        with dg.DagsterInstance.ephemeral() as instance:
            stores = open_stores(self.settings, self.database)
            Pipeline(runtime=runtime, stores=stores, definitions=self.definitions, instance=instance).bring_up_to_date()

    def rows(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query on PostgreSQL."""
        with self.database.reading() as connection:
            return list(connection.execute(query.encode(), parameters or None).fetchall())

    def facts(self) -> Facts:
        """Return everything that two runs of one story must agree on."""
        found = {name: self.rows(query) for name, query in FACTS.items()}
        found["lake"] = self.lake_rows()
        return found

    def lake_rows(self) -> list[tuple[Any, ...]]:
        """Return the rows of the current generations, each with its file's key."""
        files = dict(self.rows("select file_id, key from core.source_file"))
        uris = self.rows(
            "select uri from core.lake_partition join core.lake_generation using (dataset, partition_key, generation)"
        )
        if not uris:
            return []
        with duckdb.connect(config={"threads": 1}) as connection:
            rows = connection.execute(
                "select file_id, line_number, source, event_id, event_at, client_id, method, endpoint, status_code,"
                " response_time_us, response_bytes, is_simulated from read_parquet($1)",
                [[str(self.lake.fetch(uri)) for (uri,) in uris]],
            ).fetchall()
        return sorted(((files[row[0]], *row[1:]) for row in rows), key=repr)


@dataclass(frozen=True, slots=True)
class Site:
    """Where installations are made: each in a database cloned from `template`, all with the catalog of this module."""

    postgres_url: str
    template: str
    folder: Path

    @contextmanager
    def installation(self) -> Iterator[Installation]:
        """Provide a new, empty installation."""
        catalog_dir = self.folder / "catalog"
        if not catalog_dir.exists():
            write_catalog(catalog_dir)
        home = self.folder / f"chain_{uuid.uuid4().hex[:12]}"
        home.mkdir()
        try:
            with lent_database(self.postgres_url, self.template) as database:
                yield Installation(home, database, catalog_dir)
        finally:
            shutil.rmtree(home)


def assert_same(facts: Facts, expected: Facts, when: str) -> None:
    """Fail with the kind of fact that differs."""
    for name, rows in expected.items():
        assert facts[name] == rows, f"{name} {when}"


def live_three_days(installation: Installation) -> None:
    """Let files come, and bring everything up to date: after the second, the third and the last morning."""
    first, second, third, last = three_days()
    for files in ((*first, *second), third, last):
        installation.deliver(files)
        installation.bring_up_to_date()


def live_three_days_by_dagster(installation: Installation) -> None:
    """Do the same over the Dagster assets, after the third and the last morning: Dagster's bookkeeping takes most of it."""
    first, second, third, last = three_days()
    for files in ((*first, *second, *third), last):
        installation.deliver(files)
        installation.bring_up_to_date_by_dagster()


def ingest_all(installation: Installation) -> None:
    """Register what there is and read every delivery day."""
    installation.requests.discover(seen_at=datetime.now(UTC))
    days = installation.requests.delivery_days(pending_only=False)
    installation.requests.ingest_days(days, run_id=RUN, code_version=code_version())


WORK: Mapping[str, Callable[[Installation], object]] = {
    "live three days": live_three_days,
    "live three days by dagster": live_three_days_by_dagster,
    "bring up to date": Installation.bring_up_to_date,
    "bring up to date by dagster": Installation.bring_up_to_date_by_dagster,
    "ingest": ingest_all,
    **{
        f"{verb} {name}": partial(work, days=days)
        for verb, work in (("build", Installation.build), ("book", Installation.book))
        for name, days in (("all", DAYS), ("the first two", DAYS[:2]), ("the last two", DAYS[1:]))
    },
}


Store = TypeVar("Store")


def _of(definitions: dg.Definitions, name: str, kind: type[Store]) -> Store:
    found = (definitions.resources or {})[name]
    assert isinstance(found, kind)
    return found


_NEWEST = """
    select distinct on (charge_id) * from billing.charge_revision order by charge_id, revision desc
"""
FACTS = {
    "manifest": """
        select source, key, content_sha256, delivery_day, status, reason, profile_version, lines_read, accepted_rows,
            rejected_rows, duplicate_rows, out_of_scope_rows, first_event_at, last_event_at
        from core.source_file order by source, key, content_sha256
    """,
    "file days": """
        select key, content_sha256, event_day, source_file_day.accepted_rows
        from core.source_file_day join core.source_file using (file_id) order by 1, 2, 3
    """,
    "quarantine": """
        select key, content_sha256, line_number, quarantine.reason, field, line_sha256
        from core.quarantine join core.source_file using (file_id) order by 1, 2, 3
    """,
    "conflicts": """
        select request_conflict.source, event_id, event_day, key, line_number, request_conflict.content_sha256
        from core.request_conflict join core.source_file using (file_id) order by 1, 2, 3, 4, 5, 6
    """,
    "decisions": "select source, event_id, content_sha256, actor, reason from core.request_conflict_decision order by 1, 2",
    "generations": """
        select dataset, partition_key, row_count, conflicting_identities
        from core.lake_partition join core.lake_generation using (dataset, partition_key, generation) order by 1, 2
    """,
    "usage": "select * from usage.api_requests order by account_id, meter_id, period_start, endpoint, method, client_id",
    "not billable": "select * from usage.api_requests_not_billable order by 1, 2, 3, 4",
    "builds": """
        select asset, partition_key, state, inputs_digest, rules_digest, records_read, billable_records,
            not_billable_records, duplicate_records, conflict_records, usage_rows, code_version
        from usage.build order by 1, 2
    """,
    "charges": f"""
        select charge_id, account_id, subscription_id, plan_id, price_id, meter_id, group_key, period_start, period_end,
            quantity, unit, exact_amount, amount_minor, currency, lines, rating_digest, catalog_sha256
        from ({_NEWEST}) as newest order by charge_id
    """,
    "booked": "select charge_id, sum(delta_minor) from billing.charge_revision group by charge_id order by charge_id",
    "ledger": """
        select ledger_account, account_id, currency, sum(amount_minor)
        from billing.ledger_posting group by 1, 2, 3 order by 1, 2, 3
    """,
    "unbalanced": """
        select transaction_id, currency, sum(amount_minor) from billing.ledger_posting
        group by 1, 2 having sum(amount_minor) <> 0
    """,
    "held": "select asset, partition_key, guard, status from guards.verdict where status <> 'passed' order by 1, 2, 3",
}
