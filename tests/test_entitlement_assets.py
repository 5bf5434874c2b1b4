"""`entitlement/allowances` on its page, and `billing access` on a terminal."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import dagster as dg
import pytest

from console import cli
from resources.entitlements.entitlement_store import Crossing
from tests.dagster_fakes import World

CROSSING = Crossing(
    account_id="acme",
    feature_id="api_requests",
    counted_from=datetime(2026, 3, 1, 8, tzinfo=UTC),
    threshold=Decimal(80),
    limit=Decimal(20_000),
    used=Decimal(16_042),
)


class TestAllowances:
    def test_show_how_many_there_are_and_what_was_newly_passed(self) -> None:
        world = World()
        world.entitlements.crossings.append(CROSSING)
        with dg.DagsterInstance.ephemeral() as instance:
            job = world.defs.resolve_job_def("watch_limits")
            done = job.execute_in_process(instance=instance)
            again = job.execute_in_process(instance=instance)
        metadata = done.asset_materializations_for_node("entitlement__allowances")[0].metadata
        assert metadata["dagster/row_count"].value == 7
        assert metadata["thresholds_passed"].value == 1
        assert "2026-03-01 08:00 | 80 | 16042 | 20000" in str(metadata["newly_passed"].value)
        later = again.asset_materializations_for_node("entitlement__allowances")[0].metadata
        assert later["thresholds_passed"].value == 0
        assert "newly_passed" not in later


class TestAccessOnATerminal:
    @pytest.fixture
    def _empty(self, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database) -> None:
        from resources.catalog_store import CatalogStore
        from resources.settings import PROJECT_ROOT

        CatalogStore(database).load(PROJECT_ROOT / "catalog")
        monkeypatch.setenv("BILLING_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("BILLING_DATABASE_URL", database.url)
        monkeypatch.setenv("DAGSTER_DATABASE_URL", database.url)

    @pytest.mark.usefixtures("_empty")
    def test_says_yes_or_no_with_the_reason_and_ends_with_3_for_no(self, capsys: pytest.CaptureFixture[str]) -> None:
        when = ["--at", "2026-03-05T12:00Z"]
        assert cli.run(["access", "acme", "door_commands", "--quantity", "750", *when]) == 0
        said = capsys.readouterr().out
        assert "allowed: it is within its limit" in said
        assert "used 0 of 750 in 2026-03-05 00:00 to 2026-03-06 00:00 UTC (no usage is built yet)" in said
        assert "from acme_more_door_commands, starter_door_commands" in said
        assert cli.run(["access", "acme", "door_commands", "--quantity", "751", *when]) == 3
        assert "denied: its hard limit would be passed" in capsys.readouterr().out
        assert cli.run(["access", "acme", "webhooks", "--json", *when]) == 3
        assert json.loads(capsys.readouterr().out)["reason"] == "not_entitled"
        assert cli.run(["entitlements", "nordwind", *when]) == 0
        said = capsys.readouterr().out
        assert "within four hours" in said
        assert "unlimited" in said
        for name, meant in ((("acme", "door_comands"), "door_commands"), (("acmee", "door_commands"), "acme")):
            assert cli.run(["access", *name, *when]) == 1
            assert f"Did you mean {meant}" in capsys.readouterr().err
        assert cli.run(["access", "acme", "webhooks", "--quantity", "many"]) == 1
        assert "'many' is no quantity" in capsys.readouterr().err
