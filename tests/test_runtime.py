"""One command's runtime: what it starts it stops, children learn every address, Dagster accepts its configuration."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import dagster as dg
import pytest
import yaml
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster_aws.s3 import S3ComputeLogManager
from moto.server import ThreadedMotoServer
from sqlalchemy.engine import make_url

from resources.database import Database
from resources.embedded_postgres import EmbeddedPostgres
from resources.runtime import (
    DAGSTER_CONFIG,
    S3_LOGS_CONFIG,
    HomeError,
    dagster_database_url,
    running,
    write_dagster_config,
)
from resources.settings import PROJECT_ROOT, Settings
from tests.conftest import administer, database_url


@pytest.fixture
def dagster_url(postgres_url: str) -> Iterator[str]:
    """Return an empty database for Dagster, as the URL that it takes."""
    administer(postgres_url, "create database dagster_test")
    yield dagster_database_url(database_url(postgres_url, "dagster_test"))
    administer(postgres_url, "drop database dagster_test with (force)")


@pytest.fixture
def s3_endpoint() -> Iterator[str]:
    """Return the address of a local S3 server."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


class TestRunning:
    def test_starts_migrates_and_stops_the_embedded_server(self, open_folder: Path) -> None:
        settings = Settings.from_environment({"BILLING_HOME": str(open_folder / "home")})
        with running(settings) as runtime:
            with runtime.database.reading() as connection:
                assert connection.execute("select count(*) from migrations.applied").fetchall()[0][0] > 0
            names = [
                urlsplit(runtime.child_environment[f"{name}_DATABASE_URL"]).path for name in ("BILLING", "DAGSTER")
            ]
            assert names == ["/billing", "/dagster"]
            password = str(urlsplit(runtime.database.url).password)
            assert password not in repr(runtime)
        assert EmbeddedPostgres(settings.postgres_dir).postmaster() is None

    def test_named_databases_are_used_and_nothing_is_started(self, database: Database, tmp_path: Path) -> None:
        home = tmp_path / "home"
        environment = {
            "BILLING_HOME": str(home),
            "BILLING_DATABASE_URL": database.url,
            "DAGSTER_DATABASE_URL": database.url,
            "BILLING_LANDING_URL": "s3://bucket/logs",
        }
        with running(Settings.from_environment(environment)) as runtime:
            child = runtime.child_environment
            assert Settings.from_environment(child) == Settings.from_environment(
                {**environment, "DAGSTER_DATABASE_URL": runtime.dagster_database_url}
            )
            assert child["DAGSTER_HOME"] == str(home / "dagster")
            assert child["DAGSTER_EVENT_BATCH_SIZE"] == "500"
            assert child["PATH"] == os.environ["PATH"]
        assert not (home / "postgres").exists()

    def test_a_home_that_cannot_be_used_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "home").write_text("a file is in the way")
        with (
            pytest.raises(HomeError, match="cannot be used"),
            running(Settings.from_environment({"BILLING_HOME": str(tmp_path / "home")})),
        ):
            pass

    def test_sigterm_ends_the_command_in_order(self, database: Database, tmp_path: Path) -> None:
        program = """
        import time
        from resources.runtime import running
        from resources.settings import Settings
        try:
            with running(Settings.from_environment()):
                print("up", flush=True)
                time.sleep(60)
        finally:
            print("left in order", flush=True)
        """
        command = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program)],
            cwd=PROJECT_ROOT,
            env={
                **os.environ,
                "BILLING_HOME": str(tmp_path),
                "BILLING_DATABASE_URL": database.url,
                "DAGSTER_DATABASE_URL": database.url,
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        assert command.stdout is not None
        assert command.stdout.readline() == "up\n"
        command.send_signal(signal.SIGTERM)
        output, _ = command.communicate(timeout=30)
        assert (output, command.returncode) == ("left in order\n", 143)


class TestDagsterDatabaseUrl:
    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("postgresql://u:p@h:5433/d", "postgresql+psycopg2://u:p@h:5433/d"),
            ("postgres://u:p%40%2F%25@h/d?sslmode=require", "postgresql+psycopg2://u:p%40%2F%25@h/d?sslmode=require"),
            ("host=h user=u dbname=d", "postgresql+psycopg2://u@h/d"),
            ("postgresql://u@[::1]:5432/d", "postgresql+psycopg2://u@[::1]:5432/d"),
            ("postgresql:///d?host=/run/pg&user=u", "postgresql+psycopg2://u@/d?host=%2Frun%2Fpg"),
            ("postgresql+psycopg2://u:p@h/d", "postgresql+psycopg2://u:p@h/d"),
        ],
    )
    def test_keeps_every_part_and_names_the_driver(self, url: str, expected: str) -> None:
        assert dagster_database_url(url) == expected
        assert make_url(expected).drivername == "postgresql+psycopg2"

    def test_a_password_of_special_characters_arrives_whole(self) -> None:
        url = dagster_database_url("postgresql://u:p%40ss%2Fw%3Ard%25@h/d")
        assert make_url(url).password == "p@ss/w:rd%"


class TestDagsterConfig:
    def test_dagster_takes_it_and_runs_on_postgresql_with_local_logs(
        self, dagster_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        write_dagster_config(tmp_path, {})
        assert (tmp_path / "dagster.yaml").read_text() == DAGSTER_CONFIG.read_text()
        monkeypatch.setenv("DAGSTER_DATABASE_URL", dagster_url)
        monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))

        @dg.asset
        def greeting() -> None:
            print("hello from the step")  # noqa: T201

        with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
            assert dg.materialize([greeting], instance=instance).success
            assert type(instance.run_storage).__name__ == "PostgresRunStorage"
            manager = instance.compute_log_manager
            assert isinstance(manager, LocalComputeLogManager)
            logs = list(tmp_path.rglob("*.out"))
            assert any("hello from the step" in log.read_text() for log in logs)
            queue = instance.get_concurrency_config()
            assert queue.run_queue_config is not None
            assert queue.run_queue_config.max_concurrent_runs == 2
            assert instance.run_monitoring_enabled
            assert instance.run_retries_enabled
            assert instance.get_settings("run_retries")["retry_on_asset_or_op_failure"] is False
            assert not instance.telemetry_enabled

    def test_a_bucket_sends_the_logs_of_steps_to_s3(
        self, dagster_url: str, s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in {
            "DAGSTER_DATABASE_URL": dagster_url,
            "DAGSTER_HOME": str(tmp_path),
            "DAGSTER_LOGS_BUCKET": "billing-logs",
            "DAGSTER_LOGS_SPOOL_DIR": str(tmp_path / "spool"),
            "AWS_ENDPOINT_URL": s3_endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="billing-logs")
        write_dagster_config(tmp_path, os.environ)

        with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
            manager = instance.compute_log_manager
            assert isinstance(manager, S3ComputeLogManager)
            with manager.capture_logs(["run", "compute_logs", "step"]):
                print("hello from the step")  # noqa: T201
        keys = [item["Key"] for item in client.list_objects_v2(Bucket="billing-logs").get("Contents", [])]
        key = "billing-pipeline/storage/run/compute_logs/step.out"
        assert key in keys
        assert b"hello from the step" in client.get_object(Bucket="billing-logs", Key=key)["Body"].read()
        client.close()

    def test_the_s3_file_replaces_one_section_and_leaves_the_rest(self, tmp_path: Path) -> None:
        write_dagster_config(tmp_path, {"DAGSTER_LOGS_BUCKET": "b"})
        written = yaml.safe_load((tmp_path / "dagster.yaml").read_text())
        logs = yaml.safe_load(S3_LOGS_CONFIG.read_text())
        assert written.pop("compute_logs") == logs["compute_logs"]
        assert written == yaml.safe_load(DAGSTER_CONFIG.read_text())


def test_the_workspace_loads_our_definitions() -> None:
    workspace = yaml.safe_load((PROJECT_ROOT / "workspace.yaml").read_text())
    assert workspace["load_from"][0]["python_module"]["module_name"] == "assets.definitions"
