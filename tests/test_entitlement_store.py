"""Entitlements in PostgreSQL: allowances of a catalog, decisions on built usage, thresholds told once; against the pure rules."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from random import Random

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing_pipeline.catalog import Reset
from billing_pipeline.entitlements import Reason, counting_window, crossed
from billing_pipeline.periods import Window
from resources.alerting.conditions import ConditionReader
from resources.alerting.notice import IncidentKind
from resources.catalog_store import CatalogStore, read_catalog
from resources.database import Database
from resources.entitlements.entitlement_store import EntitlementStore, allowance_spans

NOW = datetime(2026, 4, 20, 12, tzinfo=UTC)
FILES = {
    "billable.toml": 'version = 1\nsuccess_statuses = [[200, 299]]\nendpoints = [{ endpoint = "/a" }]\n',
    "meters.toml": """
[[meter]]
id = "requests"
aggregation = "count"
unit = "request"
[[meter]]
id = "slowest"
aggregation = "max"
field = "response_time_us"
unit = "us"
""",
    "prices.toml": """
[[price]]
id = "per_request"
meter = "requests"
currency = "USD"
[[price.versions]]
version = 1
effective_from = 2025-01-01T00:00:00Z
model = "standard"
unit_price = "0.10"
[[price]]
id = "fee"
currency = "USD"
[[price.versions]]
version = 1
effective_from = 2025-01-01T00:00:00Z
model = "flat_fee"
amount = "1"
""",
    "plans.toml": '[[plan]]\nid = "basic"\nprices = ["per_request"]\n[[plan]]\nid = "extra"\nprices = ["fee"]\n',
    "accounts.toml": """
[[account]]
id = "acme"
name = "Acme"
currency = "USD"
[[account]]
id = "other"
name = "Other"
currency = "USD"
""",
    "subscriptions.toml": """
[[subscription]]
id = "sub_acme"
account = "acme"
plan = "basic"
starts_at = 2026-02-01T00:00:00Z
[[subscription]]
id = "sub_extra"
account = "acme"
plan = "extra"
starts_at = 2026-04-10T06:00:00Z
ends_at = 2026-04-25T00:00:00Z
[[subscription]]
id = "sub_other"
account = "other"
plan = "extra"
starts_at = 2026-02-01T00:00:00Z
""",
    "features.toml": """
[[feature]]
id = "monthly"
name = "A month"
type = "metered"
meter = "requests"
[[feature]]
id = "daily"
name = "A day"
type = "metered"
meter = "requests"
reset = "day"
[[feature]]
id = "ever"
name = "For ever"
type = "metered"
meter = "requests"
reset = "never"
[[feature]]
id = "peak"
name = "Slowest"
type = "metered"
meter = "slowest"
[[feature]]
id = "support"
name = "Support"
type = "static"
""",
    "entitlements.toml": """
[[entitlement]]
id = "basic_monthly"
feature = "monthly"
plan = "basic"
limit = 1000
[[entitlement]]
id = "extra_monthly"
feature = "monthly"
plan = "extra"
limit = 500
[[entitlement]]
id = "basic_daily"
feature = "daily"
plan = "basic"
limit = 100
beyond = "allow"
[[entitlement]]
id = "basic_ever"
feature = "ever"
plan = "basic"
limit = 100
[[entitlement]]
id = "basic_peak"
feature = "peak"
plan = "basic"
limit = 900
[[entitlement]]
id = "acme_support"
feature = "support"
account = "acme"
value = "gold"
valid_from = 2026-04-15T00:00:00Z
""",
}


@pytest.fixture
def store(database: Database, tmp_path: Path) -> EntitlementStore:
    """Return a store on a database with this module's catalog, refreshed."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    CatalogStore(database).load(tmp_path)
    made = EntitlementStore(database)
    made.refresh(now=NOW)
    return made


def use(database: Database, at: datetime, quantity: int, *, meter: str = "requests", account: str = "acme") -> None:
    """Put one usage row of the hour that begins `at`, in place of the same row before."""
    with database.transaction() as connection:
        connection.execute(
            """
            insert into usage.api_requests
                (event_day, account_id, meter_id, period_start, period_end, endpoint, method, client_id, quantity, unit,
                 request_count)
            values (%s, %s, %s, %s, %s, '/a', 'GET', 'c', %s, 'request', 1)
            on conflict (account_id, meter_id, period_start, endpoint, method, client_id)
                do update set quantity = excluded.quantity
            """,
            [at.date(), account, meter, at, at + timedelta(hours=1), quantity],
        )


def april(day: int, hour: int = 0) -> datetime:
    return datetime(2026, 4, day, hour, tzinfo=UTC)


class TestAccess:
    def test_counts_the_period_with_the_limits_of_all_subscriptions_in_force(
        self, database: Database, store: EntitlementStore
    ) -> None:
        use(database, april(1), 700)
        use(database, datetime(2026, 3, 31, 23, tzinfo=UTC), 5000)
        use(database, april(3), 5000, account="other")
        before = store.access("acme", "monthly", at=april(5)).decision
        assert (before.reason, before.limit, before.used, before.remaining) == (Reason.WITHIN_LIMIT, 1000, 700, 300)
        both = store.access("acme", "monthly", at=april(12))
        assert (both.decision.limit, both.sources) == (1500, ("basic_monthly", "extra_monthly"))
        assert store.access("acme", "monthly", at=april(25)).decision.limit == 1000

    def test_denies_at_a_hard_limit_and_allows_beyond_a_soft_one(
        self, database: Database, store: EntitlementStore
    ) -> None:
        use(database, april(20, 3), 1500)
        hard = store.access("acme", "monthly", at=NOW)
        assert (hard.decision.is_allowed, hard.decision.reason) == (False, Reason.LIMIT_REACHED)
        assert hard.counted_until == april(20, 4)
        soft = store.access("acme", "daily", at=NOW)
        assert (soft.decision.is_allowed, soft.decision.overage) == (True, 1400)
        assert soft.counted == Window(april(20), april(21))

    def test_of_a_day_counts_that_day_alone(self, database: Database, store: EntitlementStore) -> None:
        use(database, april(18, 23), 99)
        use(database, april(20, 0), 3)
        assert store.access("acme", "daily", at=april(18, 23)).decision.used == 99
        assert store.access("acme", "daily", at=april(19)).decision.used == 0
        assert store.access("acme", "daily", at=NOW).decision.used == 3

    def test_of_one_that_never_resets_counts_from_the_first_subscription_on(
        self, database: Database, store: EntitlementStore
    ) -> None:
        for month in (2, 3):
            use(database, datetime(2026, month, 10, tzinfo=UTC), 50)
        decision = store.access("acme", "ever", at=NOW).decision
        assert (decision.used, decision.is_allowed) == (100, False)

    def test_of_a_maximum_does_not_add(self, database: Database, store: EntitlementStore) -> None:
        use(database, april(2), 800, meter="slowest")
        use(database, april(3), 850, meter="slowest")
        assert store.access("acme", "peak", at=NOW).decision.used == 850

    def test_answers_static_features_in_their_time_and_unknown_ones(self, store: EntitlementStore) -> None:
        assert store.access("acme", "support", at=NOW).decision.value == "gold"
        for account, feature, at in [
            ("acme", "support", april(14)),
            ("acme", "nothing", NOW),
            ("nobody", "monthly", NOW),
            ("other", "daily", NOW),
        ]:
            assert store.access(account, feature, at=at).decision.reason is Reason.NOT_ENTITLED

    def test_is_one_query_of_the_reader(self, store: EntitlementStore, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []
        execute = psycopg.Connection.execute

        def asking(self: psycopg.Connection, query: str, *rest: object, **options: object) -> psycopg.Cursor:
            # What leaves a session clean for the next one is no part of the question.
            if query != "discard all":
                asked.append(query)
            return execute(self, query, *rest, **options)

        monkeypatch.setattr(psycopg.Connection, "execute", asking)
        store.access("acme", "monthly", at=NOW)
        assert len(asked) == 1


class TestAllowances:
    def test_tile_the_life_of_each_account_without_overlap(self, tmp_path: Path) -> None:
        for name, text in FILES.items():
            (tmp_path / name).write_text(text)
        window = Window(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC))
        spans = [one for one in allowance_spans(read_catalog(tmp_path), window) if one.account_id == "acme"]
        daily = sorted((one.valid for one in spans if one.feature.feature_id == "daily"), key=lambda one: one.start)
        assert daily[0].start == datetime(2026, 2, 1, tzinfo=UTC)
        assert all(one.end == other.start for one, other in pairwise(daily))
        assert daily[-1].end == datetime(2026, 7, 1, tzinfo=UTC)

    def test_follow_the_plan_of_each_phase_and_give_nothing_while_paused(self, tmp_path: Path) -> None:
        changes = """changes = [
    { at = 2026-04-05T00:00:00Z, plan = "extra" },
    { at = 2026-04-08T00:00:00Z, status = "paused" },
    { at = 2026-04-20T00:00:00Z, status = "active" },
]
"""
        for name, text in FILES.items():
            (tmp_path / name).write_text(
                text.replace('plan = "basic"\nstarts_at', f'plan = "basic"\n{changes}starts_at')
            )
        window = Window(april(1), april(30))
        spans = [one for one in allowance_spans(read_catalog(tmp_path), window) if one.account_id == "acme"]
        monthly = [(one.valid.start, one.allowance.limit) for one in spans if one.feature.feature_id == "monthly"]
        # From the 10th to the 25th the other subscription gives 500 too; the paused one gives nothing until the 20th.
        assert monthly[0] == (april(1), 1000)
        by_day = {day: [limit for start, limit in monthly if start <= april(day)][-1] for day in (4, 6, 12, 22)}
        assert by_day == {4: 1000, 6: 500, 12: 500, 22: 1000}
        assert not [one for one in spans if april(9) in one.valid and one.feature.feature_id == "monthly"]

    def test_refreshed_again_are_the_same(self, database: Database, store: EntitlementStore) -> None:
        def rows() -> list[tuple[object, ...]]:
            with database.reading() as connection:
                return connection.execute("select * from entitlement.allowance order by 1, 2, 3").fetchall()

        before = rows()
        store.refresh(now=NOW)
        assert rows() == before
        assert before


class TestRecordCrossings:
    def test_tells_each_threshold_once(self, database: Database, store: EntitlementStore) -> None:
        use(database, april(2), 801)
        # 50 and 80 per cent of the limits of 1000 and of 1500 are 1200: the newest allowance that has begun counts.
        first = {
            (one.feature_id, one.threshold) for one in store.record_crossings(now=NOW) if one.feature_id == "monthly"
        }
        assert first == {("monthly", 50)}
        assert [one for one in store.record_crossings(now=NOW) if one.feature_id == "monthly"] == []
        use(database, april(3), 700)
        more = {one.threshold for one in store.record_crossings(now=NOW) if one.feature_id == "monthly"}
        assert more == {80, 100}

    def test_is_an_alert_while_the_window_lasts_and_a_day_where_it_was_found_late(
        self, database: Database, store: EntitlementStore
    ) -> None:
        def told(now: datetime) -> list[str]:
            found = ConditionReader(database=database).conditions(now=now)[IncidentKind.LIMIT_PASSED]
            return [one.subject for one in found if " monthly " in one.subject or " daily " in one.subject]

        use(database, april(2), 801)
        use(database, april(19, 23), 100)
        assert told(NOW) == []
        store.record_crossings(now=NOW)
        days = [f"acme daily {threshold} % since 2026-04-19" for threshold in (50, 80, 100)]
        assert told(NOW) == [*days, "acme monthly 50 % since 2026-04-01"]
        assert told(NOW + timedelta(days=2)) == ["acme monthly 50 % since 2026-04-01"]
        assert told(datetime(2026, 5, 1, tzinfo=UTC)) == []

    def test_tells_of_each_day_by_itself(self, database: Database, store: EntitlementStore) -> None:
        use(database, april(2), 100)
        use(database, april(4), 79)
        found = [one for one in store.record_crossings(now=NOW) if one.feature_id == "daily"]
        assert [(one.counted_from.date(), one.threshold) for one in found] == [
            (date(2026, 4, 2), 50),
            (date(2026, 4, 2), 80),
            (date(2026, 4, 2), 100),
            (date(2026, 4, 4), 50),
        ]

    def test_keeps_what_was_told(self, database: Database, store: EntitlementStore) -> None:
        use(database, april(2), 100)
        store.record_crossings(now=NOW)
        with database.transaction() as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("delete from entitlement.threshold_crossing")


class TestAnyUsage:
    @settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(seed=st.integers(0, 10**6))
    def test_is_decided_and_told_as_the_rules_say(self, database: Database, store: EntitlementStore, seed: int) -> None:
        random = Random(seed)
        with database.transaction() as connection:
            connection.execute("delete from usage.api_requests")
        start = datetime(2026, 2, 1, tzinfo=UTC)
        usage = {start + timedelta(hours=random.randrange(24 * 85)): random.randrange(400) for _ in range(12)}
        for at, quantity in usage.items():
            use(database, at, quantity)
        at = start + timedelta(minutes=random.randrange(60 * 24 * 85))
        period = Window(datetime(2026, at.month, 1, tzinfo=UTC), datetime(2026, at.month + 1, 1, tzinfo=UTC))
        for feature, reset in (("monthly", Reset.PERIOD), ("daily", Reset.DAY), ("ever", Reset.NEVER)):
            window = counting_window(reset, period=period, life_start=start, at=at)
            expected = sum((Decimal(q) for hour, q in usage.items() if hour in window and hour <= at), Decimal(0))
            decision = store.access("acme", feature, at=at).decision
            assert decision.used == expected
            assert decision.limit is not None
            reached = list(crossed(used=expected, limit=decision.limit, thresholds=[Decimal(100)]))
            assert bool(reached) == (decision.remaining == 0)
