"""What a draft cannot change is taken from the books: it comes to what rating all of it comes to, or it is rated."""

import errno
import os
import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from random import Random
from threading import Event
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing_pipeline.catalog import Catalog
from billing_pipeline.catalog.differences import differences
from billing_pipeline.draft_reach import DraftReach
from billing_pipeline.periods import Window
from billing_pipeline.rating.lines import BeyondLastTierError
from resources.backtest import books, draft_comparer
from resources.backtest.backtest_store import Backtest, BacktestStore
from resources.backtest.draft_comparer import DraftComparer
from resources.catalog_store import CatalogStore, read_catalog
from resources.database import Database
from resources.helper_process import HelperProcess
from tests.conftest import lent_database
from tests.invoicing_world import ACCOUNTS, PLANS, PRICES, InvoicingWorld, accounts_of, days_of, month, subscriptions_of

FIRST, LAST = date(2026, 1, 15), date(2026, 3, 10)
QUARTER = days_of(Window(month(1).start, month(3).end))
PLENTY = {
    **ACCOUNTS,
    "least": ("with_least", "USD", ""),
    "ten": ("fees_and_requests", "USD", 'coupons = [{ coupon = "ten", since = 2026-01-01T00:00:00Z }]\n'),
    "half": ("requests", "USD", 'coupons = [{ coupon = "half", since = 2026-02-01T00:00:00Z }]\n'),
    "moved": ("requests", "USD", "anchor_day = 17\nanchor_time = 03:30:00\n"),
}


def texts(random: Random | None = None) -> dict[str, str]:
    """Return the catalog's files; with `random`, of a draft that says some things differently."""

    def one(*values: str) -> str:
        return values[0] if random is None else random.choice(values)

    each = 'id = "each"\ncurrency = "USD"\nmeter = "requests"\n'
    version = "[[price.versions]]\nversion = {}\neffective_from = {}\nmodel = {}\n"
    versions = version.format(1, "2025-01-01T00:00:00Z", f'"standard"\nunit_price = "{one("0.01", "0.01", "0.02")}"')
    if one("", "", "more"):
        since = one("2026-01-20T00:00:00Z", "2026-02-01T00:00:00Z", "2026-03-05T06:00:00Z", "2026-06-01T00:00:00Z")
        discount = one("", 'discount = { percent = "10" }\n')
        versions += version.format(2, since, f'"package"\npackage_price = "1"\npackage_size = "30"\n{discount}')
    begin = PRICES.index(each)
    end = PRICES.index("[[price]]", begin)
    prices = PRICES[:begin] + each + versions + PRICES[end:]
    for price in ("10.99", "0.001"):
        prices = prices.replace(f'"{price}"', f'"{one(price, price, "3.5")}"')
    prices += (
        '[[price]]\nid = "least"\ncurrency = "USD"\n'
        + version.format(1, "2025-01-01T00:00:00Z", f'"minimum_spend"\namount = "{one("20", "20", "45")}"')
        + '[[price]]\nid = "yearly"\ncurrency = "USD"\ncadence = "year"\ntiming = "advance"\n'
        + version.format(1, "2025-01-01T00:00:00Z", f'"flat_fee"\namount = "{one("120", "120", "99")}"')
    )
    plans = PLANS.replace('prices = ["basic", "by_meter"]', f"prices = {one(*METERED_PLANS)}")
    plans += '[[plan]]\nid = "with_least"\nprices = ["basic", "each", "least"]\n'
    accounts = dict(PLENTY)
    accounts["gone"] = ("requests", "USD", f"ends_at = {one('2026-03-01', '2026-03-01', '2026-02-10')}T00:00:00Z\n")
    if one("", "", "", "left out"):
        del accounts["many"]
    coupons = (
        f'[[coupon]]\nid = "ten"\namount = "{one("10", "10", "5")}.00"\ncurrency = "USD"\nperiods = 2\n'
        f'[[coupon]]\nid = "half"\npercent = "{one("50", "50", "20")}"\n'
    )
    return {
        "prices": prices,
        "plans": plans,
        "accounts": accounts_of(PLENTY).replace("Acme", one("Acme", "Acme", "Acme and Sons")),
        "subscriptions": subscriptions_of(accounts),
        "coupons": coupons,
        "features": '[[feature]]\nid = "calls"\nname = "Calls"\ntype = "boolean"\n',
        "entitlements": one("", ENTITLED),
    }


METERED_PLANS = ('["basic", "by_meter", "yearly"]', '["basic", "by_meter", "yearly"]', '["plus", "by_meter"]')
ENTITLED = '[[entitlement]]\nid = "acme_calls"\nfeature = "calls"\naccount = "acme"\n'


@pytest.fixture(scope="module")
def quarter(
    postgres_url: str, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[InvoicingWorld]:
    """Return an installation with three booked months: minimums, coupons, moved anchors and a year's fee among them."""
    with lent_database(postgres_url, template_database) as database:
        yield booked_quarter(database, tmp_path_factory.mktemp("quarter") / "catalog")


def booked_quarter(database: Database, folder: Path) -> InvoicingWorld:
    world = InvoicingWorld(database, folder)
    world.load(**texts())
    for account in PLENTY:
        for day in ("2026-01-20", "2026-02-10", "2026-03-05"):
            world.use(account, day, 500 + 7 * len(account))
    world.build(QUARTER)
    return world


def draft_of(world: InvoicingWorld, changed: dict[str, str]) -> Catalog:
    folder = world.folder.parent / "draft"
    folder.mkdir(exist_ok=True)
    for path in world.folder.glob("*.toml"):
        (folder / path.name).write_text(changed.get(path.stem, path.read_text()))
    return read_catalog(folder)


def run(world: InvoicingWorld, catalog: Catalog) -> Backtest:
    return BacktestStore(world.database).run(catalog, first=FIRST, last=LAST, name="", code_version="test")


def both(world: InvoicingWorld, catalog: Catalog) -> tuple[Backtest, Backtest]:
    """Return a backtest as it is, and one that rates everything."""
    quick = run(world, catalog)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(draft_comparer, "are_current", lambda *_, **__: False)
        whole = run(world, catalog)
    assert whole.scenario.charges_unaffected == 0
    return quick, whole


class TestQuickWay:
    @settings(max_examples=30, deadline=None)
    @given(seed=st.integers(0, 10**6))
    def test_says_what_rating_everything_says(self, quarter: InvoicingWorld, seed: int) -> None:
        quick, whole = both(quarter, draft_of(quarter, texts(Random(seed))))
        assert quick.comparison == whole.comparison
        assert quick.scenario.scenario_id == whole.scenario.scenario_id
        assert quick.scenario.charges_rated <= whole.scenario.charges_rated

    def test_rates_what_a_new_version_reaches_and_nothing_before(self, quarter: InvoicingWorld) -> None:
        prices = texts()["prices"].replace(
            'unit_price = "0.01"\n',
            'unit_price = "0.01"\n[[price.versions]]\nversion = 2\neffective_from = 2026-03-01T00:00:00Z\nmodel = "standard"\n'
            'unit_price = "0.03"\n',
            1,
        )
        quick, whole = both(quarter, draft_of(quarter, {"prices": prices}))
        assert quick.comparison == whole.comparison
        assert {one.side.key.period.end for one in quick.comparison.changed} >= {month(3).end}
        assert all(one.side.key.period.end > month(3).start for one in quick.comparison.changed)
        assert 0 < quick.scenario.charges_rated < whole.scenario.charges_rated


class TestInTwoProcesses:
    """Many accounts are compared in a process beside ours as well; here two are many."""

    @pytest.fixture(autouse=True)
    def _many(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(draft_comparer, "ACCOUNTS_FOR_A_PROCESS", 2)
        monkeypatch.setattr(draft_comparer, "_ACCOUNTS_A_PART", 1)

    @pytest.fixture
    def alone(self, quarter: InvoicingWorld) -> Backtest:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(draft_comparer, "ACCOUNTS_FOR_A_PROCESS", 1 << 60)
            alone = run(quarter, draft_of(quarter, texts(Random(7))))
        assert alone.comparison.changed
        return alone

    @pytest.fixture
    def answered(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """Return the process of each answer. Ours begins when there is one."""
        answered: list[int] = []
        first = Event()
        ask, compare = HelperProcess.ask, DraftComparer.compare

        def asked(helper: HelperProcess[Any, Any], question: Any) -> Any:
            try:
                answer = ask(helper, question)
                answered.append(helper.pid)
                return answer
            finally:
                first.set()

        def compared(comparer: DraftComparer, accounts: Any) -> Any:
            assert first.wait(60)
            return compare(comparer, accounts)

        monkeypatch.setattr(HelperProcess, "ask", asked)
        monkeypatch.setattr(DraftComparer, "compare", compared)
        return answered

    def test_comes_to_the_same_figures(self, quarter: InvoicingWorld, alone: Backtest, answered: list[int]) -> None:
        found = run(quarter, draft_of(quarter, texts(Random(7))))
        assert answered
        assert found.comparison == alone.comparison
        assert found.scenario.scenario_id == alone.scenario.scenario_id
        assert found.scenario.charges_rated == alone.scenario.charges_rated
        assert found.scenario.charges_unaffected == alone.scenario.charges_unaffected
        assert not any(map(psutil.pid_exists, answered))

    def test_is_done_here_when_the_process_dies(
        self, quarter: InvoicingWorld, alone: Backtest, answered: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ask = HelperProcess.ask

        def shot(helper: HelperProcess[Any, Any], question: Any) -> Any:
            os.kill(helper.pid, signal.SIGKILL)
            return ask(helper, question)

        monkeypatch.setattr(HelperProcess, "ask", shot)
        found = run(quarter, draft_of(quarter, texts(Random(7))))
        assert answered == []
        assert found.comparison == alone.comparison

    def test_is_done_here_when_the_system_starts_no_more_processes(
        self, quarter: InvoicingWorld, alone: Backtest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refused(*_: object, **__: object) -> None:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

        monkeypatch.setattr(subprocess, "Popen", refused)
        found = run(quarter, draft_of(quarter, texts(Random(7))))
        assert found.comparison == alone.comparison

    def test_tells_the_error_of_a_price_that_ends_as_if_alone(
        self, quarter: InvoicingWorld, answered: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bounded = texts()["prices"].replace(
            'model = "standard"\nunit_price = "0.01"',
            'model = "graduated"\ntiers = [{ up_to = "1", unit_price = "0.01" }]',
            1,
        )
        draft = draft_of(quarter, {"prices": bounded})
        with pytest.raises(BeyondLastTierError) as beside:
            run(quarter, draft)
        monkeypatch.setattr(draft_comparer, "ACCOUNTS_FOR_A_PROCESS", 1 << 60)
        with pytest.raises(BeyondLastTierError) as alone:
            run(quarter, draft)
        # Which account is met first is no matter.
        assert beside.value.fix == alone.value.fix
        assert str(beside.value).startswith("price 'each'")


class TestBooksThatAreNotOfNow:
    """Nothing is taken from them."""

    @pytest.mark.parametrize(
        "change",
        [
            "update usage.build set inputs_digest = 'other' where partition_key = '2026-02-02'",
            "update billing.booked_day set code_version = 'old' where event_day = '2026-02-02'",
            "update billing.booked_day set code_version = null where event_day = '2026-02-02'",
            "update billing.booked_day set state = 'held' where event_day = '2026-02-02'",
            "update billing.booked_day set usage_state = 'held' where event_day = '2026-02-02'",
            "delete from billing.booked_day where event_day = '2026-03-10'",
            "delete from usage.build where partition_key = '2026-01-15'",
            "insert into usage.build values ('usage/traffic', '2026-02-02', 'built', 'i', 'r', '[]', 0, 0, 0, 0, 0, 0, 't', 'r')",
        ],
    )
    def test_of_other_usage_code_or_days(self, quarter: InvoicingWorld, change: str) -> None:
        with quarter.database.transaction() as connection:
            before = books.are_current(
                connection, quarter_catalog(quarter), days_of(Window(at(1, 15), at(3, 11))), code_version="test"
            )
            assert connection.execute(change.encode()).rowcount == 1
            after = books.are_current(
                connection, quarter_catalog(quarter), days_of(Window(at(1, 15), at(3, 11))), code_version="test"
            )
            connection.rollback()
        assert (before, after) == (True, False)

    def test_where_a_person_let_a_change_wait(self, quarter: InvoicingWorld) -> None:
        with quarter.database.transaction() as connection:
            connection.execute(
                "insert into billing.reshaped_subscription (account_id, subscription_id, since) values "
                "('acme', 's_acme', '2026-01-01')"
            )
            assert "s_acme" in books.put_off(connection)
            connection.rollback()


def at(number: int, day: int) -> datetime:
    return datetime(2026, number, day, tzinfo=UTC)


def quarter_catalog(world: InvoicingWorld) -> Catalog:
    return CatalogStore(world.database).current()


class TestReach:
    def reach(self, quarter: InvoicingWorld, looked_at: frozenset[str] = frozenset(), **changed: str) -> DraftReach:
        base, draft = quarter_catalog(quarter), draft_of(quarter, changed)
        return DraftReach(base, draft, differences(base, draft), looked_at=looked_at)

    def test_of_a_price_is_its_charges_and_those_that_share_amounts_with_them(self, quarter: InvoicingWorld) -> None:
        prices = texts()["prices"].replace('"0.01"', '"0.02"', 1)
        reach = self.reach(quarter, prices=prices)
        january = month(1)
        assert reach.changes("s_acme", "each", january)
        assert not reach.changes("s_acme", "basic", january)
        assert reach.changes("s_least", "basic", january), "a minimum sees every charge"
        assert reach.changes("s_ten", "basic", january), "an amount is shared out"
        assert not reach.changes("s_half", "basic", january)
        assert not reach.changes("s_gulf", "fils", january)

    def test_of_what_is_put_off_is_all(self, quarter: InvoicingWorld) -> None:
        assert self.reach(quarter, looked_at=frozenset({"s_gulf"})).changes("s_gulf", "fils", month(1))

    def test_of_an_entitlement_is_nothing(self, quarter: InvoicingWorld) -> None:
        assert not self.reach(quarter, entitlements=ENTITLED).changes("s_acme", "each", month(1))

    def test_of_a_subscription_that_is_left_out_is_all(self, quarter: InvoicingWorld) -> None:
        left = {name: value for name, value in PLENTY.items() if name != "many"}
        reach = self.reach(quarter, subscriptions=subscriptions_of(left))
        assert reach.changes("s_many", "grouped", month(1))
        assert not reach.changes("s_acme", "each", month(1))
