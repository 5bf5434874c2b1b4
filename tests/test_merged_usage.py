"""Usage merged by days against merging every hour of the period: after any day is built anew, and at what cost."""

import random
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest
from psycopg.types.json import Jsonb

from billing_pipeline.cadences import period_containing
from billing_pipeline.catalog import Catalog, Dimension
from billing_pipeline.charges import Charge, group_key
from billing_pipeline.levels import level_state
from billing_pipeline.meter_details import level_changes, level_quantity
from billing_pipeline.meters import UsageState, merge
from billing_pipeline.periods import RequestedDays, Window
from resources.booking_scope import BookingScope, read_scope
from resources.catalog_store import CatalogStore
from resources.charge_usage import rate_to_date
from resources.database import Database
from resources.merged_usage import MergedUsage, WantedUsage
from tests.test_billing_schedule import BILLABLE, price

_KINDS = {
    "highest": 'aggregation = "max"\nfield = "response_bytes"',
    "lowest": 'aggregation = "min"\nfield = "response_bytes"',
    "mean": 'aggregation = "mean"\nfield = "response_bytes"',
    "unique": 'aggregation = "unique"\nfield = "client_id"',
    "latest": 'aggregation = "latest"\nfield = "response_bytes"',
    "p90": 'aggregation = "percentile"\npercentile = "90"\nfield = "response_bytes"',
    "held": 'aggregation = "level"\nlevel = "mean"\nfield = "response_bytes"',
    "set": 'aggregation = "level"\nlevel = "highest"\nis_set = true\nfield = "response_bytes"',
    "left": 'aggregation = "level"\nlevel = "last"\nfield = "response_bytes"',
    "buckets": 'aggregation = "percentile"\npercentile = "95"\nbucket_seconds = 900\nfield = "response_bytes"',
}
METERS = "".join(f'[[meter]]\nid = "{name}"\nunit = "u"\n{body}\n' for name, body in _KINDS.items())
_GROUPS = ("", 'group_by = ["endpoint"]\n', 'group_by = ["endpoint", "client_id"]\n')
PRICES = "".join(
    price(
        f"{name}_{number}",
        'model = "standard"\nunit_price = "1"',
        head=f'meter = "{name}"\ncadence = "{cadence}"\n{groups}',
    )
    for name in _KINDS
    for number, (groups, cadence) in enumerate(zip(_GROUPS, ("month", "quarter", "2 weeks"), strict=True))
)
# A plan may have one price of a meter.
PLANS = "".join(
    f'[[plan]]\nid = "p{number}"\nprices = [{", ".join(f"{chr(34)}{name}_{number}{chr(34)}" for name in _KINDS)}]\n'
    for number in range(3)
)
ZONES = ("UTC", "America/New_York", "Asia/Kathmandu")
ACCOUNTS = "".join(
    f'[[account]]\nid = "a{number}"\nname = "A"\ncurrency = "USD"\ntime_zone = "{zone}"\n'
    for number, zone in enumerate(ZONES)
)
SUBSCRIPTIONS = "".join(
    f'[[subscription]]\nid = "s{number}"\naccount = "a{number}"\nplan = "p{number}"\nstarts_at = 2026-01-07T03:15:20Z\n'
    f"anchor_day = {day}\nanchor_time = {time}\n"
    for number, (day, time) in enumerate(((1, "00:00:00"), (31, "14:37:12"), (15, "00:00:00")))
)
FIRST = date(2026, 1, 7)
BEFORE_ALL = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = 75


def row_of(meter: str, values: list[int], at: datetime) -> tuple[Decimal, dict[str, object] | None]:
    """Return quantity and state of the usage row of records with these values."""
    counts = [[value, values.count(value)] for value in sorted(set(values))]
    match meter:
        case "highest":
            return Decimal(max(values)), None
        case "lowest":
            return Decimal(min(values)), None
        case "mean":
            return Decimal(sum(values) // len(values)), {"sum": sum(values), "count": len(values)}
        case "unique":
            return Decimal(1), None
        case "latest":
            return Decimal(values[-1]), {"at": at.isoformat(), "event_id": f"e{values[-1]}"}
        case "held" | "set" | "left":
            microseconds = int(at.timestamp()) * 1_000_000
            # Instants of their own, so that no two clients set a level at one instant.
            changes = [[microseconds + 1_000 * number + values[0], value - 9] for number, value in enumerate(values)]
            return Decimal(sum(value for _, value in changes)), {"changes": changes}
        case "p90":
            return Decimal(values[0]), {"counts": counts}
        case _:
            begin = int(at.timestamp()) // 900 * 900
            return Decimal(values[0]), {"buckets": [[begin, sum(values)]]}


class Usage:
    """Usage rows of random days, as usage builds would leave them."""

    def __init__(self, database: Database, seed: int) -> None:
        self.database, self.random = database, random.Random(seed)

    def rows(self, day: date) -> Iterator[tuple[object, ...]]:
        for account in range(3):
            # A row never crosses a boundary of a period: these are the anchors inside hours.
            for hour in self.random.sample(range(24), 2):
                at = datetime(day.year, day.month, day.day, hour, tzinfo=UTC)
                for client in self.random.sample(["c1", "c2", "c3"], 2):
                    values = [self.random.randrange(20) for _ in range(self.random.randrange(1, 4))]
                    for meter in _KINDS:
                        quantity, state = row_of(meter, values, at)
                        if meter == "unique":
                            state = {"values": [client]}
                        yield (
                            day, f"a{account}", meter, at, at + timedelta(hours=1), self.random.choice(["/a", "/b"]), "GET",
                            client, quantity, "u", len(values), None if state is None else Jsonb(state),
                        )  # fmt: skip

    def build(self, day: date, *, state: str = "built", rows: bool = True) -> None:
        """Replace the day's usage, in one transaction with its build, as usage stores do."""
        with self.database.transaction() as connection:
            if rows:
                connection.execute("delete from usage.api_requests where event_day = %s", [day])
                with connection.cursor() as cursor:
                    cursor.executemany(
                        "insert into usage.api_requests values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
                        " on conflict do nothing",
                        list(self.rows(day)),
                    )
            connection.execute(
                """
                insert into usage.build
                values ('usage/api_requests', %s, %s, 'inputs', 'rules', '[]', 0, 0, 0, 0, 0, 0, 'test', 'run')
                on conflict (asset, partition_key) do update set state = excluded.state, built_at = clock_timestamp()
                """,
                [day, state],
            )


@pytest.fixture
def catalog(database: Database, tmp_path: Path) -> Catalog:
    """Return this module's catalog, loaded."""
    texts = {
        "billable": BILLABLE, "meters": METERS, "prices": PRICES, "plans": PLANS, "accounts": ACCOUNTS,
        "subscriptions": SUBSCRIPTIONS,
    }  # fmt: skip
    for name, text in texts.items():
        (tmp_path / f"{name}.toml").write_text(text)
    CatalogStore(database).load(tmp_path)
    return CatalogStore(database).current()


def hour_by_hour(
    connection: psycopg.Connection, catalog: Catalog, price_id: str, account: str, period: Window
) -> dict[str, object]:
    """Return the quantity of each group of a period, merged from its rows by the meter's own rule."""
    of = catalog.price(price_id)
    meter = catalog.meters[of.meter_id or ""]
    is_level = meter.level is not None
    groups: dict[str, list[UsageState]] = defaultdict(list)
    for endpoint, client, quantity, state in connection.execute(
        "select endpoint, client_id, quantity, state from usage.api_requests"
        " where account_id = %s and meter_id = %s and period_start >= %s and period_start < %s",
        [account, meter.meter_id, BEFORE_ALL if is_level else period.start, period.end],
    ):
        values = {Dimension.ENDPOINT: endpoint, Dimension.CLIENT_ID: client}
        key = group_key({name: values[name] for name in of.group_by})
        groups[key].append(UsageState(quantity=quantity, state=state))
    if not is_level:
        return {
            key: merge(meter, found, period_start=period.start, period_end=period.end) for key, found in groups.items()
        }
    (subscription,) = catalog.subscriptions_by_account[account]
    whole = period_containing(of.cadence, subscription.anchor, since=subscription.starts_at, instant=period.start)
    levels: dict[str, object] = {}
    for key, found in groups.items():
        changes = level_changes(meter, found)
        opening = level_state(changes, Window(BEFORE_ALL, period.start)).closing(Decimal(0))
        if opening or any(change.at in period for change in changes):
            levels[key] = level_quantity(meter, changes, opening=opening, period=period, whole=whole)
    return levels


def rate(connection: psycopg.Connection, catalog: Catalog, days: list[date]) -> tuple[list[Charge], int]:
    """Return the charges of the days, keeping what was merged, and how many windows were read by the hour."""
    scope = read_scope(connection, catalog, RequestedDays(days))
    merged = CountingUsage(connection, keeps=True)
    return list(rate_to_date(connection, catalog, scope, merged).charges.values()), merged.windows


def read_windows(database: Database, catalog: Catalog, days: list[date]) -> int:
    with database.transaction("billing/charges") as connection:
        return rate(connection, catalog, days)[1]


def assert_as_hour_by_hour(database: Database, catalog: Catalog, days: list[date]) -> None:
    with database.transaction("billing/charges") as connection:
        by_period: dict[tuple[str, str, Window], dict[str, object]] = defaultdict(dict)
        for charge in rate(connection, catalog, days)[0]:
            key = charge.key
            by_period[key.price_id, charge.account_id, key.period][key.group_key] = charge.rated.quantity
        assert by_period == {place: hour_by_hour(connection, catalog, *place) for place in by_period}
        assert len(by_period) >= len(_KINDS)


class CountingUsage(MergedUsage):
    """Counts the windows that were read by the hour."""

    windows = 0

    def _hours(self, wanted):  # type: ignore[no-untyped-def]
        self.windows += len(wanted)
        return super()._hours(wanted)


class TestMergedUsage:
    def test_is_what_every_hour_comes_to_whatever_was_built_anew(self, database: Database, catalog: Catalog) -> None:
        usage = Usage(database, 1)
        days = [FIRST + timedelta(days=number) for number in range(DAYS)]
        # Some days are never built: they are read by the hour.
        built = [day for day in days if usage.random.random() < 0.9]
        for day in built:
            usage.build(day)
        assert_as_hour_by_hour(database, catalog, days)
        for _ in range(3):
            action = usage.random.random()
            for day in usage.random.sample(days, usage.random.randrange(1, 4)):
                # A held day keeps its rows, and is built later.
                usage.build(day, state="held" if action < 0.3 else "built", rows=action >= 0.3)
            assert_as_hour_by_hour(database, catalog, usage.random.sample(days, 3))
        assert_as_hour_by_hour(database, catalog, days)

    def test_after_one_changed_day_reads_that_days_hours_and_merged_days(
        self, database: Database, catalog: Catalog
    ) -> None:
        usage = Usage(database, 3)
        days = [FIRST + timedelta(days=number) for number in range(DAYS)]
        for day in days:
            usage.build(day)
        assert read_windows(database, catalog, days) > 3 * len(_KINDS) * 60
        again = read_windows(database, catalog, days)
        usage.build(date(2026, 2, 10))
        after = read_windows(database, catalog, days)
        # Each meter of three accounts: the day itself, beside the parts of days at the ends of periods.
        assert after - again == 3 * len(_KINDS)
        with database.reading() as connection:
            rows = connection.execute(
                "select block_days, count(*) from usage.merged_block group by 1 order by 1"
            ).fetchall()
        assert [days for days, _ in rows] == [1, 2, 4, 8, 16, 32]

    def test_reads_the_same_without_keeping_anything(self, database: Database, catalog: Catalog) -> None:
        usage = Usage(database, 4)
        for number in range(40):
            usage.build(FIRST + timedelta(days=number))
        with database.transaction() as connection:
            scope = BookingScope(days=RequestedDays([FIRST + timedelta(days=20)]))
            charges = rate_to_date(connection, catalog, scope).charges
            kept = connection.execute("select count(*) from usage.merged_block").fetchone()
        assert charges
        assert kept == (0,)

    def test_a_build_between_reading_builds_and_usage_is_seen_by_the_next(
        self, database: Database, catalog: Catalog
    ) -> None:
        usage = Usage(database, 5)
        day = date(2026, 1, 20)
        usage.build(day)
        wanted = [
            WantedUsage(
                number=0, account_id="a0", meter=catalog.meters["highest"], dimensions=(),
                window=Window(datetime(2026, 1, 20, tzinfo=UTC), datetime(2026, 1, 21, tzinfo=UTC)),
            )
        ]  # fmt: skip

        class Interrupted(MergedUsage):
            def _kept(self, places):  # type: ignore[no-untyped-def]
                if not getattr(self, "was_interrupted", False):
                    self.was_interrupted = True
                    usage.build(day)
                return super()._kept(places)

        with database.transaction() as connection:
            list(Interrupted(connection, keeps=True).read(wanted))
        with database.transaction() as connection:
            counting = CountingUsage(connection, keeps=True)
            ((_, rows),) = counting.read(wanted)
            expected = connection.execute(
                "select max(quantity) from usage.api_requests where account_id = 'a0' and meter_id = 'highest'"
            ).fetchone()
        assert counting.windows == 1
        assert expected == (max(row.state.quantity for row in rows),)
