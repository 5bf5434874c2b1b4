"""The code location: it loads, names what it should, and does nothing before it is asked."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.execution.asset_backfill import AssetBackfillData

from assets import definitions
from assets.definitions import DatabaseNotNamedError
from assets.jobs import CATALOG, CHAIN, USAGE_AND_BILLING
from assets.partitions import DAYS
from resources.pseudonym_key import pseudonym_key
from resources.settings import PROJECT_ROOT
from tests.dagster_fakes import World

ASSET_KEYS = {
    "billing/charges",
    "billing/ledger",
    "catalog/prices",
    "catalog/subscriptions",
    "core/request_records",
    "core/traffic_samples",
    "core/storage_snapshots",
    "core/object_events",
    "core/visibility_events",
    "usage/api_requests",
    "usage/traffic",
    "usage/storage",
}
BESIDE_THE_CHAIN = {
    "backtest/scenarios",
    "entitlement/allowances",
    "invoicing/items",
    "invoicing/stripe_sync",
    "invoicing/reconciliation",
}


class TestDefinitions:
    def test_load_and_validate(self):
        dg.Definitions.validate_loadable(World().defs)

    def test_have_these_asset_keys(self):
        graph = World().defs.resolve_asset_graph()
        assert {key.to_user_string() for key in graph.get_all_asset_keys()} == ASSET_KEYS | BESIDE_THE_CHAIN
        assert set(CHAIN) == ASSET_KEYS

    def test_have_these_jobs_schedules_and_sensors(self):
        repository = World().defs.get_repository_def()
        assert {"daily_billing", "ingest_deliveries", "backfill_usage", "book_charges", "remove_unused"} <= set(
            repository.job_names
        )
        assert {schedule.name for schedule in repository.schedule_defs} == {
            "build_yesterday",
            "list_storage_daily",
            "remove_unused_weekly",
            "sweep_arrears_hourly",
            "watch_limits_hourly",
            "compile_invoices_hourly",
            "finalize_invoices_daily",
            "sync_stripe_regularly",
            "reconcile_stripe_daily",
        }
        assert {sensor.name for sensor in repository.sensor_defs} == {
            "new_deliveries",
            "new_storage_deliveries",
            "open_windows",
            "stale_usage",
            "stale_traffic",
            "stale_storage",
            "unbooked_usage",
            "stripe_events",
            "waiting_drafts",
            "alert_on_failure",
            "alert_on_skipped_day",
            "alert_on_conditions",
        }

    def test_share_one_partitioning_and_one_backfill_policy_along_the_daily_chain(self):
        graph = World().defs.resolve_asset_graph()
        daily = [graph.get(dg.AssetKey(key.split("/"))) for key in sorted(ASSET_KEYS)]
        daily = [node for node in daily if node.is_partitioned]
        assert len(daily) == 10
        assert {node.partitions_def for node in daily} == {DAYS}
        assert len({node.backfill_policy for node in daily}) == 1

    def test_say_of_every_asset_what_it_means_who_owns_it_and_what_its_columns_are(self):
        graph = World().defs.resolve_asset_graph()
        for key in graph.get_all_asset_keys():
            node = graph.get(key)
            assert len(node.description or "") > 80
            assert node.owners
            assert node.kinds
            assert node.group_name != "default"
            assert node.code_version
            columns = node.metadata["dagster/column_schema"].columns
            assert all(column.description for column in columns)

    @pytest.mark.parametrize("keys", [CHAIN, USAGE_AND_BILLING])
    def test_backfill_the_days_that_were_asked_for_of_every_asset_and_no_others(self, keys: tuple[str, ...]):
        days = ["2026-03-01", "2026-03-02", "2026-03-03"]
        # Dagster calls a function of its own that it has deprecated.
        with pytest.deprecated_call(), dg.DagsterInstance.ephemeral() as instance:
            target = AssetBackfillData.from_asset_partitions(
                asset_graph=World().defs.resolve_asset_graph(),
                partition_names=days,
                asset_selection=[dg.AssetKey(key.split("/")) for key in keys],
                dynamic_partitions_store=instance,
                backfill_start_timestamp=datetime.now(UTC).timestamp(),
                all_partitions=False,
            ).target_subset
        for key in set(keys) - set(CATALOG):
            assert list(target.get_partitions_subset(dg.AssetKey(key.split("/"))).get_partition_keys()) == days

    def test_partition_days_from_the_oldest_public_logs_to_today_within_what_dagster_bears(self):
        assert DAYS.has_partition_key("1995-07-01")
        assert DAYS.get_partition_keys()[-1] == datetime.now(UTC).date().isoformat()
        assert len(DAYS.get_partition_keys()) < 100_000


class TestLoadingTheLocation:
    def test_importing_reads_no_environment_and_opens_nothing(self):
        watch = (
            "import os, socket, sys\n"
            "read = []\n"
            "class Watched(dict):\n"
            "    def _note(self, key):\n"
            "        if str(key).startswith(('BILLING_', 'AWS_', 'STRIPE_', 'PG')): read.append(key)\n"
            "    def get(self, key, default=None): self._note(key); return dict.get(self, key, default)\n"
            "    def __getitem__(self, key): self._note(key); return dict.__getitem__(self, key)\n"
            "os.environ = Watched(os.environ)\n"
            "def refuse(*args, **kwargs): raise AssertionError('a connection at import')\n"
            "socket.socket.connect = refuse\n"
            "import psycopg; psycopg.connect = refuse\n"
            "import assets.definitions\n"
            "assert not read, read\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", watch],
            cwd=PROJECT_ROOT,
            env={"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr

    def test_needs_a_database_by_name_and_says_how_to_get_one(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.delenv("BILLING_DATABASE_URL", raising=False)
        with pytest.raises(DatabaseNotNamedError, match="billing dev"):
            definitions.defs()

    def test_opens_no_connection(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        monkeypatch.setenv("BILLING_DATABASE_URL", "postgresql://nobody:wrong@127.0.0.1:1/none")
        monkeypatch.setenv("BILLING_HOME", str(tmp_path))
        monkeypatch.delenv("BILLING_CATALOG_DIR", raising=False)
        dg.Definitions.validate_loadable(definitions.defs())


class TestPseudonymKey:
    def test_is_made_once_and_kept_for_the_owner_only(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        monkeypatch.delenv("BILLING_PSEUDONYM_KEY", raising=False)
        file = tmp_path / "home" / "pseudonym.key"
        first = pseudonym_key(file)
        assert len(first) == 64
        assert pseudonym_key(file) == first
        assert file.stat().st_mode & 0o077 == 0
        assert list(file.parent.iterdir()) == [file]

    def test_comes_from_the_environment_if_it_is_there(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        monkeypatch.setenv("BILLING_PSEUDONYM_KEY", "given")
        assert pseudonym_key(tmp_path / "key") == b"given"
        assert list(tmp_path.iterdir()) == []
