"""The catalog in PostgreSQL: every version stays, one in use is not edited."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from billing_pipeline.catalog import CatalogError
from resources.catalog_store import (
    CatalogEntryInUseError,
    CatalogFolderError,
    CatalogNotKnownError,
    CatalogNotLoadedError,
    CatalogStore,
    read_catalog,
    read_history,
)
from resources.database import Database
from resources.migrate import MIGRATIONS_DIR
from resources.settings import PROJECT_ROOT

SHIPPED = PROJECT_ROOT / "catalog"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a copy of the shipped catalog that a test may edit."""
    copy = tmp_path / "catalog"
    shutil.copytree(SHIPPED, copy)
    return copy


def edit(folder: Path, file: str, old: str, new: str) -> None:
    """Replace `old`, which is there, in a catalog file."""
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new, 1))


def book(database: Database, *, subscription: str = "sub_acme", price: str = "starter_requests") -> None:
    """Book one charge of March 2026 by hand, as if rated with version 1 of its price."""
    with database.transaction() as connection:
        connection.execute(
            """
            insert into billing.charge_revision
                (charge_id, revision, account_id, subscription_id, plan_id, price_id, meter_id, period_start, period_end,
                 quantity, unit, exact_amount, amount_minor, delta_minor, currency, lines, rating_digest, catalog_sha256,
                 code_version, event_day, run_id)
            select gen_random_uuid(), 1, 'acme', %s, 'starter', %s, 'vehicle_requests', '2026-03-01 08:00Z',
                   '2026-04-01 07:00Z', 1, 'request', 1, 100, 100, 'USD', '[{"version": 1}]', repeat('0', 64),
                   catalog_sha256, 'test', '2026-03-02', 'test'
            from catalog.release
            """,
            [subscription, price],
        )


def count(database: Database, table: str) -> int:
    with database.reading() as connection:
        row = connection.execute(f"select count(*) from {table}".encode()).fetchone()
    assert row is not None
    return int(row[0])


class TestLoad:
    def test_gives_back_the_catalog_that_was_loaded(self, database: Database) -> None:
        load = CatalogStore(database).load(SHIPPED)
        current = CatalogStore(database).current()
        assert current == read_catalog(SHIPPED)
        assert current.sha256 == load.catalog_sha256
        assert load.changed
        assert load.entries == len(current.contents) == len(load.added)

    def test_a_second_load_of_the_same_folder_does_nothing(self, database: Database, folder: Path) -> None:
        CatalogStore(database).load(SHIPPED)
        # Comments and order are no content.
        prices = (folder / "plans.toml").read_text().split("\n\n")
        (folder / "plans.toml").write_text("# other order\n" + "\n\n".join(reversed(prices)))
        load = CatalogStore(database).load(folder)
        assert not load.changed
        assert (load.added, load.edited, load.removed) == ((), (), ())
        assert count(database, "catalog.release") == 1

    def test_keeps_every_version_that_was_ever_loaded(self, database: Database, folder: Path) -> None:
        CatalogStore(database).load(SHIPPED)
        before = count(database, "catalog.entry")
        edit(folder, "prices.toml", '"0.0125"', '"0.0130"')
        load = CatalogStore(database).load(folder)
        assert load.edited == ("price starter_requests version 1",)
        assert count(database, "catalog.entry") == before + 1
        assert count(database, "catalog.release") == 2
        assert CatalogStore(database).load(SHIPPED).edited == ("price starter_requests version 1",)
        assert CatalogStore(database).current() == read_catalog(SHIPPED)
        assert count(database, "catalog.entry") == before + 1

    def test_refuses_wrong_files_and_keeps_the_catalog_before(self, database: Database, folder: Path) -> None:
        CatalogStore(database).load(SHIPPED)
        edit(folder, "accounts.toml", '"Europe/Berlin"', '"Europe/Bärlin"')
        with pytest.raises(CatalogError, match=r"accounts\.toml: nordwind: time_zone"):
            CatalogStore(database).load(folder)
        assert CatalogStore(database).current() == read_catalog(SHIPPED)

    def test_names_a_folder_that_is_missing(self, database: Database, tmp_path: Path) -> None:
        with pytest.raises(CatalogFolderError, match="no-such-folder"):
            CatalogStore(database).load(tmp_path / "no-such-folder")

    def test_names_a_file_that_cannot_be_read(self, database: Database, folder: Path) -> None:
        (folder / "prices.toml").unlink()
        (folder / "prices.toml").mkdir()
        with pytest.raises(CatalogFolderError, match=r"prices\.toml"):
            CatalogStore(database).load(folder)

    def test_says_so_when_nothing_was_loaded(self, database: Database) -> None:
        with pytest.raises(CatalogNotLoadedError):
            CatalogStore(database).current()

    def test_two_loads_at_once_end_in_one_catalog(self, database: Database) -> None:
        with ThreadPoolExecutor(4) as threads:
            loads = list(threads.map(lambda _: CatalogStore(database).load(SHIPPED), range(4)))
        assert sorted(load.changed for load in loads) == [False, False, False, True]
        assert CatalogStore(database).current() == read_catalog(SHIPPED)
        assert count(database, "catalog.release") == 1

    def test_mirrors_tables_for_joins(self, database: Database) -> None:
        CatalogStore(database).load(SHIPPED)
        with database.reading() as connection:
            models = connection.execute("select distinct model from catalog.price order by 1").fetchall()
            rows = connection.execute(
                "select version, effective_from::text, effective_to::text from catalog.price "
                "where price_id = 'starter_requests' order by version"
            ).fetchall()
        names = ("flat_fee", "graduated", "metered_balance", "package", "standard", "volume")
        assert models == [(name,) for name in names]
        assert rows == [
            (1, "2025-01-01 00:00:00+00", "2026-03-03 00:00:00+00"),
            (2, "2026-03-03 00:00:00+00", None),
        ]
        assert count(database, "catalog.account_client") == 18


class TestEntriesInUse:
    @pytest.mark.parametrize(
        ("file", "old", "new", "named"),
        [
            ("prices.toml", '"0.0125"', '"0.0130"', r"price starter_requests version 1 .*versions\.tiers changed"),
            ("prices.toml", 'included_units = "500"', 'included_units = "5"', "version 1 .*included_units changed"),
            (
                "meters.toml",
                'aggregation = "count"',
                'aggregation = "count"\nmethods = ["GET"]',
                "meter vehicle_requests",
            ),
            ("billable.toml", "[[200, 299]]", "[[200, 204]]", "billable_rule billable version 1"),
            ("subscriptions.toml", "starts_at = 2026-01-01T08:00:00Z", "starts_at = 2026-01-02T08:00:00Z", "sub_acme"),
            ("accounts.toml", '"America/Los_Angeles"', '"America/New_York"', "account acme version 1 .*time_zone"),
            ("plans.toml", '["starter_fee", "starter_requests"]', '["starter_requests"]', "plan starter version 1"),
        ],
    )
    def test_an_edit_is_refused_by_name(
        self, database: Database, folder: Path, file: str, old: str, new: str, named: str
    ) -> None:
        CatalogStore(database).load(SHIPPED)
        book(database)
        edit(folder, file, old, new)
        with pytest.raises(CatalogEntryInUseError, match=named) as caught:
            CatalogStore(database).load(folder)
        assert "add version N+1 with effective_from" in str(caught.value)
        assert CatalogStore(database).current() == read_catalog(SHIPPED)

    def test_a_removed_subscription_is_refused(self, database: Database, folder: Path) -> None:
        CatalogStore(database).load(SHIPPED)
        book(database)
        text = (folder / "subscriptions.toml").read_text()
        kept = [block for block in text.split("\n\n") if "sub_acme" not in block]
        (folder / "subscriptions.toml").write_text("\n\n".join(kept))
        with pytest.raises(CatalogEntryInUseError, match=r"subscription sub_acme version 1 .*removed"):
            CatalogStore(database).load(folder)

    @pytest.mark.parametrize(
        ("file", "old", "new"),
        [
            # nothing is booked on it
            ("prices.toml", 'unit_price = "0.0019"', 'unit_price = "0.0020"'),
            ("accounts.toml", '"Acme Charging"', '"Acme Charging Ltd"'),
            ("accounts.toml", '{ id = "client_acme_batch" }', '{ id = "client_acme_nightly" }'),
            (
                "subscriptions.toml",
                "starts_at = 2026-01-01T08:00:00Z",
                "starts_at = 2026-01-01T08:00:00Z\nends_at = 2026-06-01T07:00:00Z",
            ),
            (
                "plans.toml",
                'id = "starter"\nprices = ["starter_fee", "starter_requests"]',
                'id = "starter"\nversion = 2\nprices = ["starter_requests"]',
            ),
        ],
    )
    def test_what_changes_no_booked_arithmetic_may_change(
        self, database: Database, folder: Path, file: str, old: str, new: str
    ) -> None:
        CatalogStore(database).load(SHIPPED)
        book(database)
        edit(folder, file, old, new)
        assert CatalogStore(database).load(folder).changed

    def test_a_further_version_of_a_price_is_taken(self, database: Database, folder: Path) -> None:
        CatalogStore(database).load(SHIPPED)
        book(database)
        with (folder / "prices.toml").open("a") as prices:
            prices.write(
                '\n[[price.versions]]\nversion = 2\neffective_from = 2026-05-01T00:00:00Z\nmodel = "standard"\n'
                'unit_price = "0.0021"\n'
            )
        assert CatalogStore(database).load(folder).added == ("price partner_requests version 2",)

    def test_a_price_in_use_may_end_after_what_is_booked_and_not_before(self, database: Database, folder: Path) -> None:
        edit(
            folder,
            "subscriptions.toml",
            "starts_at = 2026-01-01T08:00:00Z",
            "starts_at = 2026-01-01T08:00:00Z\nends_at = 2026-03-03T00:00:00Z",
        )
        for subscription in ("2026-02-02T19:37:12Z", "2026-03-02T04:45:00Z"):
            edit(
                folder,
                "subscriptions.toml",
                f"starts_at = {subscription}",
                f"starts_at = {subscription}\nends_at = 2026-03-02T20:00:00Z",
            )
        CatalogStore(database).load(folder)
        book(database)
        text = (folder / "prices.toml").read_text()
        fee = text.index('id = "starter_requests"')
        version = text.index("effective_from = 2026-03-03T00:00:00Z", fee)
        for end, is_taken in (("2026-03-04T00:00:00Z", True), ("2026-03-03T01:00:00Z", True)):
            ended = text[:version] + f"effective_to = {end}\n" + text[version:]
            (folder / "prices.toml").write_text(ended)
            assert CatalogStore(database).load(folder).changed is is_taken
        first = text.index("effective_from = 2025-01-01T00:00:00Z", fee)
        (folder / "prices.toml").write_text(text[:first] + "effective_to = 2026-03-02T20:00:00Z\n" + text[first:])
        edit(folder, "subscriptions.toml", "ends_at = 2026-03-03T00:00:00Z", "ends_at = 2026-03-02T20:00:00Z")
        with pytest.raises(CatalogEntryInUseError, match=r"versions\.effective_to changed"):
            CatalogStore(database).load(folder)


class TestManyAccounts:
    def test_loads_twenty_thousand_accounts_in_one_go(self, database: Database, folder: Path) -> None:
        accounts = "".join(
            f'[[account]]\nid = "a{n}"\nname = "Customer {n}"\ncurrency = "USD"\nclients = [{{ id = "c{n}" }}]\n'
            for n in range(20_000)
        )
        subscriptions = "".join(
            f'[[subscription]]\nid = "s{n}"\naccount = "a{n}"\nplan = "partner"\nstarts_at = 2026-01-01T00:00:00Z\n'
            for n in range(20_000)
        )
        (folder / "accounts.toml").write_text(accounts)
        (folder / "subscriptions.toml").write_text(subscriptions)
        for optional in ("entitlements.toml", "credits.toml"):
            (folder / optional).unlink()
        load = CatalogStore(database).load(folder)
        assert load.entries > 40_000
        assert count(database, "catalog.account_client") == 20_000


class TestWhatWasKnown:
    def test_is_each_catalog_as_it_was_current_also_when_it_came_back(self, database: Database, folder: Path) -> None:
        store = CatalogStore(database)
        first = store.load(folder).catalog_sha256
        edit(folder, "accounts.toml", 'name = "Acme Charging"', 'name = "Acme"')
        second = store.load(folder).catalog_sha256
        edit(folder, "accounts.toml", 'name = "Acme"', 'name = "Acme Charging"')
        assert store.load(folder).catalog_sha256 == first
        assert store.release(first).account("acme").name == "Acme Charging"
        assert store.release(second[:12]).account("acme").name == "Acme"
        history = read_history(database)
        assert [row.catalog_sha256 for row in history] == [first, second, first]
        assert [(row.begun, row.ended) for row in history[:2]] == [(1, 1), (1, 1)]
        assert history[-1].begun == count(database, "catalog.current_entry")
        for row in history:
            assert store.known_at(row.activated_at).sha256 == row.catalog_sha256

    def test_is_nothing_before_the_first_load(self, database: Database, folder: Path) -> None:
        store = CatalogStore(database)
        store.load(folder)
        with pytest.raises(CatalogNotKnownError, match="no catalog was loaded by 2000"):
            store.known_at(datetime(2000, 1, 1, tzinfo=UTC))
        with pytest.raises(CatalogNotKnownError, match="no catalogs begin with 'ffffffffff'"):
            store.release("ffffffffff")

    def test_of_a_second_load_of_the_same_catalog_is_one_activation(self, database: Database, folder: Path) -> None:
        CatalogStore(database).load(folder)
        CatalogStore(database).load(folder)
        assert count(database, "catalog.activation") == 1

    def test_can_not_be_two_contents_at_one_time(self, database: Database, folder: Path) -> None:
        CatalogStore(database).load(folder)
        with database.transaction() as connection:
            connection.execute(
                "insert into catalog.activation (catalog_sha256) select catalog_sha256 from catalog.release"
            )
            second = """
                insert into catalog.entry_span (kind, entry_id, version, content_sha256, known_from)
                select kind, entry_id, version, content_sha256, 2 from catalog.entry_span limit 1
            """
            with pytest.raises(psycopg.errors.ExclusionViolation):
                connection.execute(second)
            connection.rollback()

    def test_begins_with_the_catalog_that_a_database_held_before_it_was_kept(
        self, database: Database, folder: Path
    ) -> None:
        loaded = CatalogStore(database).load(folder).catalog_sha256
        script = (MIGRATIONS_DIR / "0045_catalog_knowledge.sql").read_text()
        connection = psycopg.connect(database.url, autocommit=True)
        with connection:
            connection.execute("drop table catalog.entry_span, catalog.activation")
            connection.execute(script.encode())
            assert connection.execute("select catalog_sha256 from catalog.activation").fetchall() == [(loaded,)]
            known = connection.execute("select count(*) from catalog.entry_span where known_from = 1").fetchone()
            current = connection.execute("select count(*) from catalog.current_entry").fetchone()
        assert known == current


class TestSubscriptionsInUse:
    CHANGE = 'changes = [{ at = 2026-03-10T12:00:00Z, plan = "cloud", note = "upgrade" }]\n'

    def with_changes(self, folder: Path, text: str) -> Path:
        """Give sub_acme, which is the first subscription and has no field after starts_at, these changes."""
        edit(
            folder,
            "subscriptions.toml",
            "starts_at = 2026-01-01T08:00:00Z\n",
            "starts_at = 2026-01-01T08:00:00Z\n" + text,
        )
        return folder

    def test_a_change_may_be_added_and_none_may_be_edited(self, database: Database, folder: Path) -> None:
        store = CatalogStore(database)
        store.load(folder)
        book(database)
        pause = '{ at = 2026-03-10T12:00:00Z, status = "paused" }'
        resume = '{ at = 2026-03-12T12:00:00Z, status = "active" }'
        self.with_changes(folder, f"changes = [{pause}]\n")
        assert store.load(folder).edited == ("subscription sub_acme version 1",)
        edit(folder, "subscriptions.toml", f"changes = [{pause}]", f"changes = [{pause}, {resume}]")
        assert store.load(folder).changed
        edit(folder, "subscriptions.toml", "03-12T12:00:00Z, status", "03-12T12:00:00Z, note = 'ticket 4711', status")
        assert store.load(folder).changed
        edit(folder, "subscriptions.toml", "2026-03-10T12:00:00Z", "2026-03-11T12:00:00Z")
        with pytest.raises(CatalogEntryInUseError, match=r"sub_acme version 1 .*: changes changed"):
            store.load(folder)

    def test_phases_are_kept_for_sql(self, database: Database, folder: Path) -> None:
        store = CatalogStore(database)
        store.load(folder)
        before = count(database, "catalog.subscription_phase")
        assert before == count(database, "catalog.subscription")
        self.with_changes(folder, 'changes = [{ at = 2026-03-10T12:00:00Z, status = "paused" }]\n')
        store.load(folder)
        assert count(database, "catalog.subscription_phase") == before + 1
        with database.reading() as connection:
            rows = connection.execute(
                "select status, starts_at::text from catalog.subscription_phase where subscription_id = 'sub_acme'"
                " order by phase_number"
            ).fetchall()
        assert rows == [("active", "2026-01-01 08:00:00+00"), ("paused", "2026-03-10 12:00:00+00")]

    def test_a_further_version_of_a_plan_is_not_yet_in_use(self, database: Database, folder: Path) -> None:
        store = CatalogStore(database)
        store.load(folder)
        book(database)
        plans = folder / "plans.toml"
        two = '[[plan]]\nid = "starter"\nversion = 2\neffective_from = 2026-06-01T00:00:00Z\nprices = ["starter_requests"]\n'
        plans.write_text(plans.read_text() + two)
        store.load(folder)
        edit(folder, "plans.toml", 'prices = ["starter_requests"]', 'prices = ["partner_requests"]')
        assert store.load(folder).edited == ("plan starter version 2",)
        edit(folder, "plans.toml", 'prices = ["starter_fee", "starter_requests"]', 'prices = ["starter_requests"]')
        with pytest.raises(CatalogEntryInUseError, match="plan starter version 1"):
            store.load(folder)
