"""Usage below 0 that a price cannot rate: the error names the price's line and the usage, with day, hour and delivered files."""

import shutil
from datetime import date
from pathlib import Path

import dagster as dg
import pytest

from billing_pipeline.rating import NegativeQuantityError
from resources.backtest.backtest_store import BacktestStore
from resources.catalog_store import read_catalog
from resources.charge_store import ChargeStore
from resources.database import Database
from tests.dagster_fakes import World
from tests.invoicing_world import PRICES, InvoicingWorld, days_of, month


@pytest.fixture
def world(database: Database, tmp_path: Path) -> InvoicingWorld:
    """Return an installation in which acme's usage of January is below 0 on two days."""
    made = InvoicingWorld(database, tmp_path / "catalog")
    made.load()
    for day, quantity in (("2026-01-10", -7), ("2026-01-11", 2), ("2026-01-12", -1)):
        made.use("acme", day, quantity)
    made.use("many", "2026-01-12", 5)
    return made


def deliver(world: InvoicingWorld, key: str, day: str, dataset: str = "core/request_records") -> None:
    """Write that a file of that day was delivered."""
    with world.database.transaction() as connection:
        connection.execute(
            """
            with delivered as (
                insert into core.source_file
                    (source, key, content_sha256, size_bytes, delivery_day, first_seen_at, modified_at, status, dataset,
                     lines_read, accepted_rows)
                values ('api', %s, repeat('a', 64), 1, %s, now(), now(), 'accepted', %s, 1, 1)
                returning file_id
            )
            insert into core.source_file_day select file_id, %s, 1 from delivered
            """,
            [key, day, dataset, day],
        )


def book(world: InvoicingWorld) -> str:
    """Return what booking January says."""
    store = ChargeStore(world.database, catalog_dir=world.folder)
    with pytest.raises(NegativeQuantityError) as caught:
        store.book_days(days_of(month(1)), run_id="run", code_version="test")
    return str(caught.value)


class TestUsageBelowZero:
    def test_is_named_with_its_hours_and_files_and_the_line_of_the_price(self, world: InvoicingWorld) -> None:
        deliver(world, "2026/01/10/late.jsonl", "2026-01-10")
        deliver(world, "2026/01/11/other.jsonl", "2026-01-11")
        deliver(world, "tokyo.json", "2026-01-12", dataset="core/traffic_samples")
        said = book(world)
        assert "the quantity is -6 request, below 0; account 'acme', subscription 's_acme'" in said
        assert (
            "usage of meter 'requests' below 0: -7 request on 2026-01-10 from 2026-01-10T12:00:00+00:00 to "
            "2026-01-10T13:00:00+00:00 (usage/api_requests, GET, /a, c1); -1 request on 2026-01-12 from"
        ) in said
        assert "delivered in api 2026/01/10/late.jsonl [prices.toml: each: version 1: model (line " in said
        assert "`billing materialize usage/api_requests --day 2026-01-10` and `billing materialize" in said
        assert world.rows("select count(*) from billing.charge_revision") == [(0,)]

    def test_of_many_rows_is_named_by_the_first(self, world: InvoicingWorld) -> None:
        for day in range(13, 20):
            world.use("acme", f"2026-01-{day}", -day)
        said = book(world)
        assert "and 6 more rows" in said
        assert "2026-01-14 from" not in said

    def test_of_a_draft_is_named_so_too(self, world: InvoicingWorld) -> None:
        (world.folder / "prices.toml").write_text(PRICES.replace('"0.01"', '"0.02"'))
        with pytest.raises(NegativeQuantityError, match="usage of meter 'requests' below 0: -7 request on 2026-01-10"):
            BacktestStore(world.database).run(
                read_catalog(world.folder), first=date(2026, 1, 1), last=date(2026, 1, 31), name="", code_version="test"
            )

    def test_is_shown_so_where_dagster_shows_the_run(self, world: InvoicingWorld) -> None:
        draft = world.folder.parent / "draft"
        shutil.copytree(world.folder, draft)
        (draft / "prices.toml").write_text(PRICES.replace('"0.01"', '"0.02"'))
        dagster_world = World()
        dagster_world.backtests.real = BacktestStore(world.database)
        config = {"catalog": str(draft), "first_day": "2026-01-01", "last_day": "2026-01-31"}
        with dg.DagsterInstance.ephemeral() as instance:
            done = dagster_world.defs.resolve_job_def("backtest").execute_in_process(
                instance=instance, run_config={"ops": {"backtest__scenarios": {"config": config}}}, raise_on_error=False
            )
        (failed,) = done.filter_events(lambda event: event.is_step_failure)
        shown = failed.step_failure_data.error_display_string
        for words in (
            "-7 request on 2026-01-10",
            "[prices.toml: each: version 1: model (line ",
            "To fix: find the usage",
        ):
            assert words in shown
