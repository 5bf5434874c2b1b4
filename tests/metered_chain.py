"""A small installation with traffic and storage: a catalog, simulated nodes, deliveries of some mornings, and its facts.

Nodes jp and us are pulled (jp restarts twice, is late and repeats itself; us is away for eight hours over a midnight), hk drops
files. Storage comes as inventories, CloudTrail and visibility events. Accounts: acme pays by invoice, beta from a prepaid
balance, nobody has the third identity. Facts: see tests/chain.py.
"""

import gzip
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import duckdb

from billing_pipeline.periods import Window
from billing_pipeline.sources.traffic_snapshots import TrafficSnapshot, parse_snapshot
from billing_pipeline.storage_policy import StoragePolicy
from resources.catalog_store import CatalogStore
from resources.charge_store import ChargeStore
from resources.database import Database
from resources.exporter_client import WindowPage
from resources.exporter_sim_counters import SimulatedNode
from resources.exporter_simulation import Simulation
from resources.exporter_transport import ExporterError, ExporterErrorKind
from resources.lake import Lake
from resources.landing import Landing
from resources.storage_config import DATASETS, Kind
from resources.storage_store import StorageStore
from resources.storage_usage_store import StorageUsageStore
from resources.traffic_config import TrafficSource
from resources.traffic_pull import Clients
from resources.traffic_receipts import e_mail_pseudonyms
from resources.traffic_store import TrafficStore
from resources.traffic_usage_store import TrafficUsageStore
from tests.chain import FACTS as BOOKED_FACTS
from tests.chain import Facts, Installation, write_catalog
from tests.storage_files import csv_gz, listed, log_bytes, log_key, manifest, md5_line, record, source

KEY = b"a key for tests"
RUN, CODE = "run", "test"
JUNE_1, JUNE_2, JUNE_3 = (date(2026, 6, day) for day in (1, 2, 3))
START = datetime(2026, 6, 1, tzinfo=UTC)
INTERVAL = timedelta(minutes=10)
GB = 10**9
Delivery = tuple[tuple[str, bytes], ...]


def at(hours: float) -> datetime:
    """Return an instant by hours since the first midnight."""
    return START + timedelta(hours=hours)


@cache
def simulation() -> Simulation:
    """Return two days of three nodes."""
    return Simulation(
        seed=11,
        users=3,
        start=START,
        interval_seconds=int(INTERVAL.total_seconds()),
        vanishing=(),
        nodes=[
            SimulatedNode(
                name="jp",
                booted_at=at(-5),
                restarts=(at(7.3), at(25.1)),
                late_every=5,
                late_by=timedelta(hours=3),
                repeated_every=7,
            ),
            SimulatedNode(name="us", booted_at=at(-5), away=(Window(start=at(18), end=at(26)),)),
            SimulatedNode(name="hk", booted_at=at(-5), restarts=(at(13.4),)),
        ],
    )


def catalog_texts() -> Mapping[str, str]:
    """Return the catalog: traffic and storage of acme by invoice, storage of bolt, traffic of beta from a balance."""
    acme, beta, _ = simulation().accounts
    price = '[[price]]\nid = "{id}"\nmeter = "{meter}"\ncurrency = "{currency}"\n{mode}'
    version = (
        "[[price.versions]]\nversion = {number}\neffective_from = {since}T00:00:00Z\nmodel = "
        '"{model}"\nunit_price = "{unit_price}"\nconversion = {{ unit = "{unit}", divide = "1000000000" }}\n{rest}\n'
    )
    prices = [
        price.format(id="acme_traffic", meter="traffic", currency="USD", mode='group_by = ["node"]\n'),
        version.format(number=1, since="2025-01-01", model="standard", unit_price="1.7", unit="GB", rest=""),
        version.format(number=2, since="2026-06-02", model="standard", unit_price="1.3", unit="GB", rest=""),
        price.format(id="storage", meter="private_storage", currency="USD", mode=""),
        version.format(number=1, since="2025-01-01", model="standard", unit_price="10", unit="GB-month", rest=""),
        price.format(id="bolt_storage", meter="all_storage", currency="EUR", mode=""),
        version.format(number=1, since="2025-01-01", model="standard", unit_price="7", unit="GB-month", rest=""),
        price.format(id="balance", meter="traffic", currency="USD", mode='billing_mode = "prepaid_balance"\n'),
        version.format(
            number=1,
            since="2025-01-01",
            model="metered_balance",
            unit_price="0.9",
            unit="GB",
            rest='included_quota_bytes = 1000000000\nregion_multipliers = { jp = "1.2" }\n'
            'peak = { hours = [[18, 24]], zone = "UTC" }\npeak_multiplier = "1.5"',
        ),
    ]
    account = '[[account]]\nid = "{0}"\nname = "{0}"\ntime_zone = "{1}"\ncurrency = "{2}"\nclients = [{3}]\n'
    subscription = (
        '[[subscription]]\nid = "s_{0}"\naccount = "{0}"\nplan = "{1}"\nstarts_at = {2}\nanchor_day = {3}\n'
        "anchor_time = {4}\n"
    )
    return {
        "billable": 'version = 1\nsuccess_statuses = [[200, 299]]\nendpoints = [{ endpoint = "/a" }]\n',
        "meters": '[[meter]]\nid = "traffic"\nsource = "traffic"\naggregation = "sum"\nfield = "total_bytes"\n'
        'unit = "byte"\n[[meter]]\nid = "private_storage"\nsource = "storage"\naggregation = "time_weighted"\n'
        'field = "private_bytes"\nunit = "byte"\n[[meter]]\nid = "all_storage"\nsource = "storage"\n'
        'aggregation = "time_weighted"\nfield = "bytes"\nunit = "byte"\n',
        "prices": "".join(prices),
        "plans": '[[plan]]\nid = "plan_acme"\nprices = ["acme_traffic", "storage"]\n'
        '[[plan]]\nid = "plan_beta"\nprices = ["balance"]\n[[plan]]\nid = "plan_bolt"\nprices = ["bolt_storage"]\n',
        "accounts": account.format("acme", "America/New_York", "USD", f'{{ id = "{acme}" }}, {{ id = "ann" }}')
        + account.format("beta", "UTC", "USD", f'{{ id = "{beta}" }}')
        + account.format("bolt", "UTC", "EUR", '{ id = "bob" }'),
        # A period of acme begins inside an hour of the second day.
        "subscriptions": subscription.format("acme", "plan_acme", "2026-05-02T18:37:12Z", 2, "14:37:12")
        + subscription.format("beta", "plan_beta", "2026-05-01T00:00:00Z", 1, "00:00:00")
        + subscription.format("bolt", "plan_bolt", "2026-05-01T00:00:00Z", 1, "00:00:00"),
    }


def traffic_sources() -> tuple[TrafficSource, ...]:
    """Return the sources of the simulated nodes."""
    common: dict[str, Any] = {
        "env": "prod",
        "expected_interval_seconds": 600,
        "active_from": START,
        "active_to": at(48),
    }
    return (
        TrafficSource(name="jp", node="jp", base_url="https://jp", region="jp", **common),
        TrafficSource(name="us", node="us", base_url="https://us", on_reset="from_zero", **common),
        TrafficSource(name="hk", node="hk", on_first="full", **common),
    )


STORAGE_SOURCES = (source(Kind.INVENTORY, objects=True), source(Kind.CLOUDTRAIL), source(Kind.VISIBILITY))


@dataclass(frozen=True, slots=True)
class SimulatedClient:
    """What a node answers at `now`, as the exporter does, without a socket."""

    node: str
    now: datetime
    page_size: int = 40

    def latest(self) -> TrafficSnapshot | None:
        return None

    def window(self, since: datetime, until: datetime) -> Iterator[WindowPage]:
        if any(self.now in window for window in simulation().node(self.node).away):
            raise ExporterError(self.node, ExporterErrorKind.UNREACHABLE, "it does not answer", fix="look at the node")
        found = [
            parsed
            for one in simulation().snapshots(self.node, since, until, as_of=self.now)
            if isinstance(parsed := parse_snapshot(one.document(), as_of=self.now), TrafficSnapshot)
        ]
        for start in range(0, max(len(found), 1), self.page_size):
            page = tuple(found[start : start + self.page_size])
            yield WindowPage(snapshots=page, rejected=(), has_more=start + self.page_size < len(found))

    def close(self) -> None:
        """Nothing is open."""


def documents(node: str, since: datetime, until: datetime) -> list[dict[str, Any]]:
    """Return the snapshots that a node took in `[since, until)`, as it writes them."""
    return [one.document() for one in simulation().snapshots(node, since, until) if one.collected_at < until]


def dropped(name: str, found: Sequence[Mapping[str, Any]], *, node: str = "hk") -> tuple[str, bytes]:
    """Return a file of snapshots, one on a line."""
    return f"traffic/{node}/{name}", b"".join(json.dumps(one).encode() + b"\n" for one in found)


def contradiction(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a snapshot that says another total for one stream of acme."""
    acme, *_ = simulation().accounts
    place = next(place for place, one in enumerate(document["samples"]) if one["uuid"] == acme)
    samples = [
        {**one, "uplink_bytes_total": one["uplink_bytes_total"] + (number == place)}
        for number, one in enumerate(document["samples"])
    ]
    return {**document, "samples": samples}


def traffic_mornings() -> tuple[tuple[datetime, Delivery], ...]:
    """Return when the collector runs, and which files have come by then.

    The last one brings an hour that was missing, snapshots again, and one that contradicts what is billed.
    """
    missing = documents("hk", at(8), at(9))
    again = documents("hk", at(29), at(31))
    first = documents("hk", START, at(8)) + documents("hk", at(9), at(20))
    return (
        (at(20), (dropped("first.jsonl", first),)),
        (at(36), (dropped("second.jsonl", documents("hk", at(19), at(36))),)),
        (
            at(54),
            (
                dropped("third.jsonl", documents("hk", at(36), at(48))),
                dropped("late.jsonl", [*again, *missing, contradiction(again[3])]),
            ),
        ),
    )


def inventory(rows: Sequence[Sequence[object]], instant: datetime) -> Delivery:
    """Return an inventory's files in the order in which S3 writes them."""
    data = csv_gz(rows)
    folder = f"storage/inventory/inv/{instant:%Y-%m-%dT%H-%MZ}"
    name = f"inv/data/{hashlib.md5(data + str(instant).encode(), usedforsecurity=False).hexdigest()}.csv.gz"
    content = manifest({name: data}, instant)
    return (
        (f"storage/inventory/{name}", data),
        (f"{folder}/manifest.json", content),
        (f"{folder}/manifest.checksum", md5_line(content)),
    )


def trail_log(name: str, day: date, *records: Mapping[str, Any]) -> tuple[str, bytes]:
    """Return a log file of CloudTrail."""
    return f"storage/cloudtrail/{log_key(day, name=name)}", gzip.compress(log_bytes(*records), mtime=0)


def put(number: int, hours: float, key: str, size: int, **changes: Any) -> dict[str, Any]:
    """Return the record of an object that is stored."""
    return record(number, key=key, size=size, **{"eventTime": f"{at(hours):%Y-%m-%dT%H:%M:%SZ}", **changes})


def delete(number: int, hours: float, key: str) -> dict[str, Any]:
    """Return the record of an object that is deleted."""
    return put(number, hours, key, 0, eventName="DeleteObject", additionalEventData={})


def said(day: date, name: str, *changes: Mapping[str, str]) -> tuple[str, bytes]:
    """Return a file of visibility and ownership events."""
    return f"storage/visibility/{day}/{name}.jsonl", b"".join(json.dumps(one).encode() + b"\n" for one in changes)


def change(event_id: str, hours: float, repository: str, **values: str) -> dict[str, str]:
    """Return that a repository became `visibility` or `owner`."""
    return {"event_id": event_id, "at": f"{at(hours):%Y-%m-%dT%H:%M:%SZ}", "repository": repository, **values}


def inventories() -> tuple[Delivery, ...]:
    """Return the inventories of three mornings; bob/fish is in the third only."""
    cats, dogs, birds = (listed("ann/cats/a", 2 * GB), listed("ann/dogs/a", GB), listed("bob/birds/a", 3 * GB))
    more_cats = listed("ann/cats/b", 2 * GB)
    return (
        inventory([cats, dogs, birds], at(7)),
        inventory([cats, more_cats, birds, dogs], at(31)),
        inventory([more_cats, birds, listed("ann/dogs/b", 5), listed("bob/fish/a", 9)], at(55)),
    )


def object_records() -> tuple[dict[str, Any], ...]:
    """Return what CloudTrail logs: three puts and a delete that inventories confirm, and a put that they contradict."""
    return (
        put(1, 5, "ann/cats/a", 2 * GB),
        put(2, 12, "ann/cats/b", 2 * GB),
        delete(3, 33, "ann/cats/a"),
        put(4, 16, "ann/dogs/b", 5),
        put(5, 34, "bob/fish/a", 9),
    )


def repository_changes() -> tuple[dict[str, str], ...]:
    """Return what the application says: who is private from when on, and that ann/dogs goes over to bolt."""
    return (
        change("v1", 1, "ann/cats", visibility="public"),
        change("v2", 1, "ann/dogs", visibility="private"),
        change("v3", 2, "bob/birds", visibility="private"),
        change("v4", 14, "ann/cats", visibility="private"),
        change("o1", 38.61, "ann/dogs", owner="bob"),
        change("v5", 35, "bob/fish", visibility="private"),
    )


def storage_mornings() -> tuple[Delivery, ...]:
    """Return the files of two mornings. A put is logged twice; a log of the first day comes on the last morning."""
    first, second, third = inventories()
    put_a, put_b, deletion, late_dogs, late_fish = object_records()
    *early, transfer, fish = repository_changes()
    return (
        (
            *first,
            *second,
            trail_log("AAAAAAAAAAAAAAAA", JUNE_1, put_a),
            trail_log("BBBBBBBBBBBBBBBB", JUNE_2, put_a, put_b, deletion),
            said(JUNE_1, "a", *early),
            said(JUNE_2, "b", transfer, fish),
        ),
        (*third, trail_log("CCCCCCCCCCCCCCCC", JUNE_1, late_dogs, late_fish)),
    )


@dataclass(frozen=True)
class MeteredChain:
    """The stores of one installation. Opens nothing until asked."""

    home: Path
    database: Database
    catalog_dir: Path
    sources: tuple[TrafficSource, ...] = ()
    clients: Clients | None = None

    @classmethod
    def of(cls, installation: Installation) -> "MeteredChain":
        """Return the stores over an installation's folders and database."""
        return cls(installation.home, installation.database, installation.catalog_dir)

    @cached_property
    def lake(self) -> Lake:
        return Lake(str(self.home / "lake"), self.home / "scratch")

    @cached_property
    def landing(self) -> Landing:
        (self.home / "landing").mkdir(parents=True, exist_ok=True)
        return Landing(str(self.home / "landing"), self.home / "scratch")

    @cached_property
    def catalog(self) -> CatalogStore:
        return CatalogStore(self.database, e_mail_pseudonyms(KEY))

    @cached_property
    def storage(self) -> StorageStore:
        return StorageStore(
            self.database,
            self.lake,
            self.landing,
            STORAGE_SOURCES,
            self.home / "scratch",
            landing_url=str(self.home / "landing"),
            threads=1,
            pseudonymise=e_mail_pseudonyms(KEY),
        )

    @cached_property
    def traffic_usage(self) -> TrafficUsageStore:
        return TrafficUsageStore(
            database=self.database,
            lake=self.lake,
            scratch_dir=self.home / "scratch",
            sources=self.sources or traffic_sources(),
            threads=1,
        )

    @cached_property
    def storage_usage(self) -> StorageUsageStore:
        return StorageUsageStore(
            database=self.database,
            lake=self.lake,
            scratch_dir=self.home / "scratch",
            sources=self.storage.source_names,
            policy=StoragePolicy(complete=frozenset({"inventory"})),
            threads=1,
        )

    @cached_property
    def charges(self) -> ChargeStore:
        return ChargeStore(self.database)

    def traffic_at(self, now: datetime) -> TrafficStore:
        """Return the collector of an instant."""
        return TrafficStore(
            self.database,
            self.lake,
            self.landing,
            self.sources or traffic_sources(),
            self.clients or (lambda source: SimulatedClient(source.node, now)),
            self.home / "scratch",
            KEY,
            threads=1,
        )

    def deliver(self, delivery: Delivery) -> None:
        """Put files into the landing folder as an exporter does: whole, and once."""
        Installation(self.home, self.database, self.catalog_dir).deliver(delivery)

    def mornings_to_live(self, deliveries: Sequence[Delivery]) -> range:
        """Return the numbers of the mornings from the newest on that has brought a file: a clock never goes back."""
        landing = self.home / "landing"
        come = [any((landing / key).exists() for key, _ in files) for files in deliveries]
        return range(max((number for number, has_come in enumerate(come) if has_come), default=0), len(come))

    def load_catalog(self) -> None:
        """Load the catalog as it stands."""
        self.catalog.load(self.catalog_dir)

    def collect(self, now: datetime, days: Sequence[date] | None = None) -> None:
        """Collect traffic as it is at `now`, of `days` or of the two days of the story."""
        wanted = [day for day in (JUNE_1, JUNE_2) if day <= now.date()] if days is None else days
        self.traffic_at(now).collect_days(wanted, now=now, run_id=RUN, code_version=CODE)

    def ingest(self, seen_at: datetime) -> None:
        """Read the storage files that wait."""
        self.storage.discover(seen_at=seen_at)
        for dataset in DATASETS:
            days = self.storage.delivery_days(dataset, pending_only=True)
            self.storage.ingest_days(dataset, days, run_id=RUN, code_version=CODE)

    def build_traffic(self, days: Sequence[date] | None = None) -> None:
        """Build days of traffic; without `days` those that are stale."""
        wanted = self.traffic_usage.stale_days() if days is None else days
        self.traffic_usage.build_days(wanted, run_id=RUN, code_version=CODE)

    def build_storage(self, days: Sequence[date] | None = None) -> None:
        """Build days of storage; without `days` those that are stale."""
        wanted = self.storage_usage.stale_days() if days is None else days
        self.storage_usage.build_days(wanted, run_id=RUN, code_version=CODE)

    def book(self, days: Sequence[date] | None = None) -> int:
        """Book days, without `days` those that have changed, and return the number of revisions that it took."""
        wanted = self.charges.unbooked_days() if days is None else days
        return sum(one.revisions_booked for one in self.charges.book_days(wanted, run_id=RUN, code_version=CODE))

    def is_up_to_date(self) -> bool:
        """Tell whether nothing is stale or unbooked."""
        return not (self.traffic_usage.stale_days() or self.storage_usage.stale_days() or self.charges.unbooked_days())

    def rows(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query on PostgreSQL."""
        with self.database.reading() as connection:
            return list(connection.execute(query.encode(), parameters or None).fetchall())

    def facts(self) -> Facts:
        """Return everything that two runs of one story must agree on."""
        found: dict[str, Sequence[tuple[Any, ...]]] = {name: self.rows(query) for name, query in FACTS.items()}
        return found | {f"lake {dataset}": self.lake_rows(dataset) for dataset in LAKE_COLUMNS}

    def usage_and_money(self) -> Facts:
        """Return the part of the facts that does not tell how deliveries were split."""
        found = self.facts()
        return {name: found[name] for name in USAGE_AND_MONEY}

    def lake_rows(self, dataset: str) -> list[tuple[Any, ...]]:
        """Return the rows of a dataset's current generations."""
        uris = self.rows(
            "select uri from core.lake_partition join core.lake_generation using (dataset, partition_key, generation)"
            " where dataset = %s",
            dataset,
        )
        if not uris:
            return []
        with duckdb.connect(config={"threads": 1}) as connection:
            return connection.execute(
                f"select {LAKE_COLUMNS[dataset]} from read_parquet($1, hive_partitioning = false) order by all",
                [[str(self.lake.fetch(uri)) for (uri,) in uris]],
            ).fetchall()


def write_metered_catalog(folder: Path) -> Path:
    """Write the catalog of this module and return its folder."""
    return write_catalog(folder, **catalog_texts())


def live_traffic(installation: Installation) -> None:
    """Let nodes count and files come; collect, build and book on each morning."""
    chain, mornings = MeteredChain.of(installation), traffic_mornings()
    for number in chain.mornings_to_live([files for _, files in mornings]):
        now, files = mornings[number]
        chain.deliver(files)
        chain.collect(now)
        chain.load_catalog()
        chain.build_traffic()
        chain.book()


def live_storage(installation: Installation) -> None:
    """Let deliveries come; ingest, build and book on each morning."""
    chain, mornings = MeteredChain.of(installation), storage_mornings()
    for number in chain.mornings_to_live(mornings):
        chain.deliver(mornings[number])
        chain.ingest(at(40 + 24 * number))
        chain.load_catalog()
        chain.build_storage()
        chain.book()


def collect_all(installation: Installation) -> None:
    """Collect both days and every file."""
    MeteredChain.of(installation).collect(at(54))


def ingest_all(installation: Installation) -> None:
    """Register what there is and read every delivery day of every dataset."""
    chain = MeteredChain.of(installation)
    chain.storage.discover(seen_at=at(80))
    for dataset in DATASETS:
        days = chain.storage.delivery_days(dataset, pending_only=False)
        chain.storage.ingest_days(dataset, days, run_id=RUN, code_version=CODE)


METERED_WORK: Mapping[str, Callable[[Installation], object]] = {
    "live traffic": live_traffic,
    "live storage": live_storage,
    "collect": collect_all,
    "ingest": ingest_all,
    "build traffic": lambda installation: MeteredChain.of(installation).build_traffic([JUNE_1, JUNE_2]),
    "build storage": lambda installation: MeteredChain.of(installation).build_storage([JUNE_1, JUNE_2, JUNE_3]),
    "book": lambda installation: MeteredChain.of(installation).book([JUNE_1, JUNE_2, JUNE_3]),
}

LAKE_COLUMNS = {
    "core/traffic_samples": "env, node, account_uuid, inbound_tag, collected_at, uplink_bytes, downlink_bytes,"
    " uptime_seconds, xray_version, source",
    "core/storage_snapshots": "source, snapshot_id, snapshot_at, repository, owner, visibility, bytes, object_count",
    "core/storage_objects": "source, snapshot_id, snapshot_at, repository, object_id, version_id, bytes, is_current",
    "core/object_events": "source, event_id, event_at, repository, owner, object_id, event_name, action, bytes",
    "core/visibility_events": "source, event_id, event_at, repository, kind, value",
}
_USAGE = {
    "traffic minutes": "select * from usage.traffic_minute order by 2, 3, 4, 5, 6, 9",
    "traffic usage": "select * from usage.traffic order by 2, 3, 4, 6, 7, 8",
    "traffic not billable": "select * from usage.traffic_not_billable order by 1, 2, 3, 4, 5, 6",
    "traffic suspects": "select * from usage.traffic_suspect order by 1, 2, 3, 4, 5",
    "storage usage": "select * from usage.storage order by 2, 3, 4",
    "storage states": "select * from usage.storage_state order by 1, 2, 3",
    "storage drifts": "select * from usage.storage_drift order by 1, 2, 3",
    "storage bases": "select * from usage.storage_base order by 1, 2",
}
_MONEY = {
    **{name: BOOKED_FACTS[name] for name in ("charges", "booked", "ledger", "unbalanced")},
    "prepaid minutes": """
        select bucket_id, account_id, charge_id, sum(rated_bytes), sum(included_bytes), sum(amount_delta)
        from billing.prepaid_entry
        group by 1, 2, 3
        having sum(rated_bytes) <> 0 or sum(included_bytes) <> 0 or sum(amount_delta) <> 0
        order by 1
    """,
    "prepaid periods": "select * from billing.prepaid_period order by 1",
    "balances": """
        select account_id, currency, charge_id, period_start, remaining_included_quota, initial_balance, exact_balance,
            balance_arrears, balance_arrears_since, throttle_state, last_rated_bucket_at
        from billing.account_balance_state order by 1
    """,
    "balances that are not their entries": """
        select account_id, exact_balance, sum(amount_delta)
        from billing.account_balance_state join billing.prepaid_entry using (account_id)
        group by 1, 2 having exact_balance <> sum(amount_delta)
    """,
}
FACTS = {
    **_USAGE,
    **_MONEY,
    **{name: BOOKED_FACTS[name] for name in ("manifest", "file days", "quarantine", "generations", "held")},
    "windows": """
        select source, window_start, window_end, status, missing_minutes, snapshots, samples
        from core.traffic_window order by 1, 2
    """,
    "gaps": """
        select distinct on (source, window_start) source, window_start, event
        from core.traffic_gap order by source, window_start, gap_event_id desc
    """,
    "progress": "select source, completed_until, last_error from core.traffic_sync_state order by 1",
    "traffic conflicts": """
        select env, node, account_uuid, inbound_tag, collected_at, uplink_bytes, downlink_bytes
        from core.traffic_conflict order by 1, 2, 3, 4, 5, 6, 7
    """,
    "traffic days": "select event_day, kept_samples, conflict_samples, rejected_samples from core.traffic_day order by 1",
    "builds": """
        select asset, partition_key, state, rules_digest, records_read, billable_records, not_billable_records,
            duplicate_records, conflict_records, usage_rows
        from usage.build order by 1, 2
    """,
}
USAGE_AND_MONEY = (*_USAGE, *_MONEY)
