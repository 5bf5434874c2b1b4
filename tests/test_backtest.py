"""Backtests: a draft over stored usage beside the books, by the production code; nothing is charged."""

import json
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from random import Random
from uuid import UUID, uuid5

import dagster as dg
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing_pipeline.amounts import Money
from billing_pipeline.backtest import BookedSide, compare
from billing_pipeline.catalog import Catalog
from billing_pipeline.charges import Charge, ChargeKey
from billing_pipeline.credits import CREDIT_NAMESPACE
from billing_pipeline.rating import Rated, RatedLine
from console import cli
from resources.backtest.backtest_store import Backtest, BacktestRefusedError, BacktestStore, ScenarioUnknownError
from resources.catalog_store import CatalogStore, read_catalog
from resources.database import Database
from resources.pseudonym_key import pseudonym_key
from resources.settings import Settings
from resources.traffic_receipts import e_mail_pseudonyms
from tests.dagster_fakes import World
from tests.invoicing_world import METERS, PRICES, InvoicingWorld, days_of, month

JANUARY = month(1)
FIRST, LAST = date(2026, 1, 1), date(2026, 1, 31)


@pytest.fixture
def world(database: Database, tmp_path: Path) -> InvoicingWorld:
    """Return an installation whose January is built and booked."""
    made = InvoicingWorld(database, tmp_path / "catalog")
    made.load()
    for account, quantity in (("acme", 1000), ("many", 400), ("gone", 7)):
        made.use(account, "2026-01-10", quantity)
    made.build(days_of(JANUARY))
    return made


def draft(world: InvoicingWorld, **texts: str) -> Catalog:
    """Return the loaded catalog with other texts for some files, without loading it."""
    folder = world.folder.parent / "draft"
    folder.mkdir(exist_ok=True)
    for path in world.folder.glob("*.toml"):
        (folder / path.name).write_text(texts.get(path.stem, path.read_text()))
    return read_catalog(folder)


def dearer(world: InvoicingWorld) -> Catalog:
    """Return a draft in which a request of price `each` costs twice as much."""
    before = (
        'id = "each"\ncurrency = "USD"\nmeter = "requests"\n[[price.versions]]\nversion = 1\n'
        'effective_from = 2025-01-01T00:00:00Z\nmodel = "standard"\nunit_price = "0.01"'
    )
    assert before in PRICES
    return draft(world, prices=PRICES.replace(before, before.replace('"0.01"', '"0.02"')))


def run(world: InvoicingWorld, catalog: Catalog) -> Backtest:
    return BacktestStore(world.database).run(catalog, first=FIRST, last=LAST, name="dearer", code_version="test")


def everything_else(world: InvoicingWorld) -> list[tuple[object, ...]]:
    """Return the number of rows of every table outside of backtest."""
    tables = world.rows(
        "select schemaname, tablename from pg_tables where schemaname in ('billing', 'invoicing', 'usage', 'catalog', 'guards')"
    )
    return [(schema, name, world.rows(f"select count(*) from {schema}.{name}")) for schema, name in sorted(tables)]


def drafted(name: str, amount: str, currency: str) -> Charge:
    """Return a charge of one line, of none without an amount."""
    exact = Decimal(amount)
    line = RatedLine(
        version=1, tier=None, quantity=Decimal(1), unit="u", unit_price=exact, flat_fee=Decimal(0), amount=exact
    )
    return Charge(
        key=ChargeKey(subscription_id="s", price_id=name, period=JANUARY),
        account_id="acme",
        plan_id="p",
        meter_id=None,
        currency=currency,
        rated=Rated(lines=(line,) if exact else (), quantity=Decimal(1), unit="u", exact=exact),
    )


def booked(name: str, cents: int) -> BookedSide:
    """Return `drafted` as it is booked."""
    digest = drafted(name, f"{Decimal(cents).scaleb(-2)}", "USD").rating_digest
    return BookedSide("acme", "s", name, "", JANUARY, cents, "USD", digest, True, 1)


def unread(charge_ids: Sequence[UUID]) -> Mapping[UUID, str]:
    """Fail: amounts and digests tell everything."""
    raise AssertionError(charge_ids)


class TestCompare:
    def test_counts_what_appears_vanishes_and_changes_its_currency(self) -> None:
        ids = {name: uuid5(CREDIT_NAMESPACE, name) for name in ("same", "gone", "new", "moved", "nothing")}
        before = {ids[name]: booked(name, cents) for name, cents in (("same", 5), ("gone", 7), ("moved", 9))}
        after = {
            ids["same"]: drafted("same", "0.05", "USD"),
            ids["new"]: drafted("new", "0.02", "USD"),
            ids["moved"]: drafted("moved", "0.08", "EUR"),
            ids["nothing"]: drafted("nothing", "0", "USD"),
        }
        found = compare(before, after, read_lines=unread)
        assert {one.charge_id for one in found.changed} == {ids["gone"], ids["new"], ids["moved"]}
        totals = {one.before.currency: (one.before.minor_units, one.after.minor_units) for one in found.totals}
        assert totals == {"USD": (21, 7), "EUR": (0, 8)}
        assert next(one.delta for one in found.changed if one.charge_id == ids["moved"]) is None

    def test_reads_the_arithmetic_where_amounts_do_not_tell(self) -> None:
        ids = {name: uuid5(CREDIT_NAMESPACE, name) for name in ("spelled", "other", "same", "told")}
        before = {charge_id: booked(name, 5) for name, charge_id in ids.items() if name != "told"}
        before[ids["told"]] = booked("told", 6)
        after = {charge_id: drafted(name, "0.05", "USD") for name, charge_id in ids.items()}
        for name in ("spelled", "other"):
            before[ids[name]] = before[ids[name]]._replace(rating_digest="of another time")
        spelled = json.dumps(json.loads(after[ids["spelled"]].lines_json), sort_keys=True)
        lines = {ids["spelled"]: spelled, ids["other"]: spelled.replace('"quantity": "1"', '"quantity": "2"')}
        asked = []

        def read(charge_ids: Sequence[UUID]) -> Mapping[UUID, str]:
            asked.append(set(charge_ids))
            return lines

        found = compare(before, after, read_lines=read)
        assert {one.charge_id for one in found.changed} == {ids["other"], ids["told"]}
        assert asked == [lines.keys()]

    def test_counts_what_is_unaffected_on_both_sides(self) -> None:
        found = compare({}, {}, unaffected={("acme", "USD"): 12}, read_lines=unread)
        assert [(str(one.before), str(one.after), one.changed_charges) for one in found.accounts] == [
            ("0.12 USD", "0.12 USD", 0)
        ]


class TestRun:
    def test_of_the_loaded_catalog_changes_nothing(self, world: InvoicingWorld) -> None:
        found = run(world, draft(world))
        assert found.comparison.changed == ()
        assert found.scenario.accounts_concerned == 0

    def test_tells_who_pays_how_much_more(self, world: InvoicingWorld) -> None:
        found = run(world, dearer(world))
        changed = {one.account_id: str(one.delta) for one in found.comparison.accounts if one.changed_charges}
        assert changed == {"acme": "10.00 USD", "gone": "0.07 USD"}
        assert [str(one.delta) for one in found.comparison.totals] == ["10.07 USD"]
        (acme,) = (one for one in found.comparison.changed if one.side.account_id == "acme")
        assert (acme.before and str(acme.before.amount), acme.after and str(acme.after.amount)) == (
            "10.00 USD",
            "20.00 USD",
        )
        assert '"unit_price":"0.02"' in acme.side.lines_json
        assert found.scenario.unbooked_days == 0

    def test_is_what_loading_the_draft_would_book(self, world: InvoicingWorld) -> None:
        found = run(world, dearer(world))
        predicted = {one.charge_id: one.after.amount.minor_units for one in found.comparison.changed if one.after}
        with psycopg.connect(world.database.url, autocommit=True) as connection:
            connection.execute("truncate billing.ledger_posting, billing.charge_revision cascade")
        CatalogStore(world.database).load(world.folder.parent / "draft")
        world.book(days_of(JANUARY))
        booked = dict(world.rows("select charge_id, amount_minor from billing.charge_revision"))
        assert {charge_id: booked[charge_id] for charge_id in predicted} == predicted

    def test_writes_nothing_outside_of_its_own_tables(self, world: InvoicingWorld) -> None:
        before = everything_else(world)
        run(world, dearer(world))
        assert everything_else(world) == before

    def test_with_the_same_inputs_is_the_same_scenario(self, world: InvoicingWorld) -> None:
        first, again = run(world, dearer(world)), run(world, dearer(world))
        assert (first.is_new, again.is_new) == (True, False)
        assert first.scenario.scenario_id == again.scenario.scenario_id
        assert first.comparison == again.comparison
        world.use("acme", "2026-01-11", 1)
        with world.database.transaction() as connection:
            connection.execute("update usage.build set inputs_digest = 'other' where partition_key = '2026-01-11'")
        later = run(world, dearer(world))
        assert later.scenario.scenario_id != first.scenario.scenario_id
        assert later.scenario.unbooked_days == 1

    def test_keeps_the_draft_so_that_it_can_be_made_again(self, world: InvoicingWorld) -> None:
        found = run(world, dearer(world))
        restored = BacktestStore(world.database).draft_of(found.scenario)
        assert restored.sha256 == found.scenario.draft_sha256 == dearer(world).sha256
        assert run(world, restored).comparison == found.comparison

    def test_counts_a_plan_that_lost_a_price_and_a_subscription_that_moved(self, world: InvoicingWorld) -> None:
        plans = (
            (world.folder / "plans.toml").read_text().replace('"basic", "plus", "support", "each"', '"basic", "each"')
        )
        subscriptions = (
            (world.folder / "subscriptions.toml").read_text().replace('plan = "grouped"', 'plan = "one_fee"')
        )
        found = run(world, draft(world, plans=plans, subscriptions=subscriptions))
        changed = {one.account_id: str(one.delta) for one in found.comparison.accounts if one.changed_charges}
        assert changed == {"acme": "-28.98 USD", "many": "6.99 USD"}

    def test_of_another_meter_is_refused(self, world: InvoicingWorld) -> None:
        meters = METERS.replace('aggregation = "count"', 'aggregation = "sum"\nfield = "response_bytes"')
        before = everything_else(world)
        with pytest.raises(BacktestRefusedError, match="measures usage differently"):
            run(world, draft(world, meters=meters))
        assert everything_else(world) == before

    def test_is_kept_for_ever(self, world: InvoicingWorld) -> None:
        run(world, dearer(world))
        with world.database.transaction() as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("update backtest.account_total set after_minor = 0")

    def test_is_found_by_its_first_digits(self, world: InvoicingWorld) -> None:
        store = BacktestStore(world.database)
        found = run(world, dearer(world))
        scenario, accounts = store.find(str(found.scenario.scenario_id)[:8])
        assert accounts == found.comparison.accounts
        assert [one.scenario_id for one in store.scenarios()] == [scenario.scenario_id]
        with pytest.raises(ScenarioUnknownError, match="no backtests begin with"):
            store.find("ffffffff")


class TestAnyPrices:
    @settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(seed=st.integers(0, 10**6))
    def test_add_up_as_quantities_times_the_difference(self, world: InvoicingWorld, seed: int) -> None:
        random = Random(seed)
        price = Decimal(random.randrange(1, 500)).scaleb(-3)
        catalog = draft(world, prices=PRICES.replace('unit_price = "0.01"', f'unit_price = "{price}"'))
        found = run(world, catalog)
        after = {
            one.account_id: one.after.minor_units
            for one in found.comparison.accounts
            if one.account_id in ("many", "gone")
        }
        expected = {
            name: Money(round_cents(price * quantity), "USD").minor_units
            for name, quantity in (("many", 400), ("gone", 7))
        }
        assert {name: after.get(name, expected[name]) for name in expected} == expected


def round_cents(amount: Decimal) -> int:
    """Return an amount in cents, halves away from zero."""
    return int((amount * 100 + Decimal("0.5")).to_integral_value(rounding="ROUND_FLOOR"))


class TestWhatAPersonSees:
    def test_on_a_terminal(
        self, world: InvoicingWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        dearer(world)
        monkeypatch.setenv("BILLING_HOME", str(tmp_path / "home"))
        for name in ("BILLING_DATABASE_URL", "DAGSTER_DATABASE_URL"):
            monkeypatch.setenv(name, world.database.url)
        folder = str(world.folder.parent / "draft")
        assert (
            cli.run(["backtest", "--catalog", folder, "--from", "2026-01-01", "--to", "2026-01-31", "--name", "twice"])
            == 0
        )
        said = capsys.readouterr()
        assert "2 of 6 accounts are concerned" in said.out
        assert "+10.07 USD" in said.out
        assert len(list((tmp_path / "home" / "backtests").glob("*.png"))) == 1
        assert cli.run(["backtests"]) == 0
        assert "twice" in capsys.readouterr().out
        assert (
            cli.run(["backtest", "--catalog", str(tmp_path / "nothing"), "--from", "2026-01-01", "--to", "2026-01-31"])
            == 1
        )
        assert "there is no catalog folder" in capsys.readouterr().err

    def test_leaves_subscriptions_of_other_sources_and_personal_names_as_a_load_does(
        self, world: InvoicingWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("BILLING_HOME", str(tmp_path / "home"))
        for name in ("BILLING_DATABASE_URL", "DAGSTER_DATABASE_URL"):
            monkeypatch.setenv(name, world.database.url)
        accounts = world.folder / "accounts.toml"
        accounts.write_text(
            accounts.read_text() + '[[account]]\nid = "walter"\nname = "Walter"\ncurrency = "USD"\ntime_zone = "UTC"\n'
            'clients = [{ id = "walter@example.com" }]\n'
        )
        with world.database.transaction() as connection:
            connection.execute(
                "insert into catalog.subscription_statement (subscription_id, statement, at, account_id, plan_id, external_id)"
                " values ('sub_walter', 'start', '2026-01-01Z', 'walter', 'one_fee', 'e1')"
            )
        key = pseudonym_key(Settings.from_environment().pseudonym_key_file)
        store = CatalogStore(world.database, e_mail_pseudonyms(key))
        store.load(world.folder)
        assert "sub_walter" in store.current().subscriptions
        dearer(world)
        draft = str(world.folder.parent / "draft")
        assert store.draft(Path(draft)).subscriptions.keys() == store.current().subscriptions.keys()
        assert cli.run(["catalog", "diff", "loaded", draft]) == 0
        assert "1 entries differ" in capsys.readouterr().out
        assert cli.run(["backtest", "--catalog", draft, "--from", "2026-01-01", "--to", "2026-01-31"]) == 0
        assert "+10.07 USD" in capsys.readouterr().out

    def test_of_a_catalog_that_was_current_once(
        self, world: InvoicingWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("BILLING_HOME", str(tmp_path / "home"))
        for name in ("BILLING_DATABASE_URL", "DAGSTER_DATABASE_URL"):
            monkeypatch.setenv(name, world.database.url)
        before = CatalogStore(world.database).current().sha256
        for name in ("loaded", before[:8], "2126-01-01T00:00Z"):
            assert cli.run(["backtest", "--catalog", name, "--from", "2026-01-01", "--to", "2026-01-31"]) == 0
            assert "No charge changes." in capsys.readouterr().out
        assert cli.run(["backtest", "--catalog", "2026-01", "--from", "2026-01-01", "--to", "2026-01-31"]) == 1
        assert "names no catalog" in capsys.readouterr().err

    def test_on_the_asset_page(self, world: InvoicingWorld) -> None:
        dearer(world)
        dagster_world = World()
        dagster_world.backtests.real = BacktestStore(world.database)
        config = {"catalog": str(world.folder.parent / "draft"), "first_day": "2026-01-01", "last_day": "2026-01-31"}
        with dg.DagsterInstance.ephemeral() as instance:
            done = dagster_world.defs.resolve_job_def("backtest").execute_in_process(
                instance=instance, run_config={"ops": {"backtest__scenarios": {"config": config}}}
            )
        metadata = done.asset_materializations_for_node("backtest__scenarios")[0].metadata
        assert metadata["charges_changed"].value == 2
        assert "+10.07 USD" in str(metadata["together"].value)
        assert "data:image/svg+xml" in str(metadata["differences"].value)
