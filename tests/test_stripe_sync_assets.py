"""The Dagster door of the sync and the true-up, over stores that live in memory; and the commands, over a stand-in."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets.stripe_sync import sync_schedule, waiting_drafts
from billing_pipeline.invoicing.policy import InvoicingPolicy
from billing_pipeline.stripe_sync.policy import SyncPolicy
from console import stripe_sync_page
from console.stripe_sync_page import SyncIncompleteError
from resources.alerting import policy as alert_policy
from resources.database import Database
from resources.invoicing import policy_file as invoicing_policy_file
from resources.reconciliation import canaries
from resources.settings import PROJECT_ROOT, Settings
from resources.stripe_api.keys import StripeKeyError
from resources.stripe_sync.policy_file import POLICY_FILE, StripePolicyError, load_sync_policy
from resources.stripe_sync.sync_store import Finding, FindingKind
from tests.dagster_fakes import World
from tests.invoicing_world import InvoicingWorld
from tests.stripe_fixtures import API_KEY
from tests.stripe_world import StripeWorld, stripe_world


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def run(world: World, job: str, instance: dg.DagsterInstance, **config: object) -> dg.ExecuteInProcessResult:
    ops = {"invoicing__stripe_sync": {"config": config}} if config else {}
    return world.defs.resolve_job_def(job).execute_in_process(
        instance=instance, run_config={"ops": ops}, raise_on_error=False
    )


def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {one.check_name: one.passed for one in result.get_asset_check_evaluations()}


class TestTheAsset:
    def test_sends_nothing_without_a_key_and_shows_how_accounts_stand(
        self, world: World, instance: dg.DagsterInstance
    ) -> None:
        result = run(world, "sync_stripe", instance)
        assert result.success
        assert world.stripe_syncing.runs == []
        assert checks(result) == {"every_account_in_step": True, "nothing_refused": True}

    def test_syncs_the_accounts_that_it_is_asked_for(self, world: World, instance: dg.DagsterInstance) -> None:
        world.stripe_syncing.is_configured = True
        result = run(world, "sync_stripe", instance, accounts=["acme"], verify=True)
        assert result.success
        ((run_id, accounts, verify),) = world.stripe_syncing.runs
        assert (run_id, accounts, verify) == (result.run_id, ("acme",), True)

    def test_fails_its_checks_on_findings_and_refusals(self, world: World, instance: dg.DagsterInstance) -> None:
        finding = Finding(
            kind=FindingKind.ACCOUNT_FAILED,
            subject="acme",
            account_id="acme",
            message="customer cus_1 was deleted",
            opened_at=datetime(2026, 3, 1, tzinfo=UTC),
        )
        world.stripe_sync_reader.findings, world.stripe_sync_reader.dead_letters = (finding,), 2
        result = run(world, "sync_stripe", instance)
        assert result.success
        assert checks(result) == {"every_account_in_step": False, "nothing_refused": False}

    def test_is_tried_again_when_stripe_was_away_and_shows_what_was_done(
        self, world: World, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("assets.stripe_sync.SECONDS_BEFORE_RETRY", 0)
        world.stripe_syncing.is_configured = True
        world.stripe_syncing.problems = ["Stripe did not answer"]
        result = run(world, "sync_stripe", instance)
        assert result.success
        assert len(world.stripe_syncing.runs) == 2


class TestTheSchedule:
    @pytest.mark.parametrize(
        ("minutes", "cron"), [(60, "55 * * * *"), (15, "10,25,40,55 * * * *"), (5, None), (1440, "55 1 * * *")]
    )
    def test_follows_the_interval_of_the_policy(self, minutes: int, cron: str | None) -> None:
        every = ",".join(map(str, range(0, 60, 5)))
        assert sync_schedule(minutes).cron_schedule == (cron or f"{every} * * * *")


class TestOneAccount:
    """DH-12, FLY-03: a customer who looks at the bill, by a job with run configuration."""

    def test_is_synced_by_a_job_of_its_own(self, world: World, instance: dg.DagsterInstance) -> None:
        result = self.demand(world, instance)
        assert result.success
        assert world.stripe_syncing.runs == [(result.run_id, ("acme",), False)]

    def test_that_cannot_be_synced_says_why(self, world: World, instance: dg.DagsterInstance) -> None:
        world.stripe_syncing.problems = ["customer cus_1 was deleted"]
        result = self.demand(world, instance)
        assert not result.success
        assert "cus_1 was deleted" in str(result.failure_data_for_node("sync_one"))

    def demand(self, world: World, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
        return world.defs.resolve_job_def("sync_account").execute_in_process(
            instance=instance, run_config={"ops": {"sync_one": {"config": {"account": "acme"}}}}, raise_on_error=False
        )


class TestTheSensor:
    def test_asks_for_one_run_for_all_drafts_that_wait(self, world: World, instance: dg.DagsterInstance) -> None:
        assert "not set" in str(self.tick(world, instance).skip_message)
        world.stripe_syncing.is_configured = True
        assert "no draft waits" in str(self.tick(world, instance).skip_message)
        world.stripe_syncing.waiting = 10_000
        (request,) = self.tick(world, instance).run_requests or ()
        assert request.job_name == "true_up_invoices"
        result = run(world, "true_up_invoices", instance)
        assert result.success
        assert world.stripe_syncing.true_ups == [result.run_id]

    def tick(self, world: World, instance: dg.DagsterInstance) -> Any:
        resources = {"stripe_syncing": world.stripe_syncing}
        with dg.build_sensor_context(instance=instance, definitions=world.defs, resources=resources) as context:
            return waiting_drafts.evaluate_tick(context)


class TestCommands:
    @pytest.fixture
    def stand_in(self, database: Database, tmp_path: Path) -> Iterator[tuple[StripeWorld, Settings]]:
        with stripe_world(
            database, tmp_path, accounts={"acme": ("fees_and_requests", "USD", ""), "beta": ("one_fee", "USD", "")}
        ) as made:
            made.link("acme")
            made.use("acme", "2026-03-03", 700)
            settings = Settings.from_environment(
                {
                    "BILLING_HOME": str(tmp_path / "home"),
                    "BILLING_DATABASE_URL": database.url,
                    "DAGSTER_DATABASE_URL": database.url,
                    "BILLING_CATALOG_DIR": str(tmp_path / "catalog"),
                    "BILLING_STRIPE_URL": made.sim.url,
                    "STRIPE_API_KEY": API_KEY,
                }
            )
            yield made, settings

    def test_show_the_calls_then_make_them_then_find_nothing_to_do(
        self, stand_in: tuple[StripeWorld, Settings], capsys: pytest.CaptureFixture[str]
    ) -> None:
        world, settings = stand_in
        world.books.compile()
        stripe_sync_page.preview_sync(settings, "acme")
        assert capsys.readouterr().out.count("POST /v1/invoiceitems") == 4
        assert world.pending("acme") == []
        stripe_sync_page.run_sync(settings, "acme", verify=False)
        assert "in step" in capsys.readouterr().out
        assert len(world.pending("acme")) == 4
        stripe_sync_page.run_sync(settings, None, verify=False)
        told = capsys.readouterr().out
        assert "0 writes" in told
        assert "beta: it has no customer at Stripe" in told
        stripe_sync_page.run_true_up(settings)
        assert "No draft waits" in capsys.readouterr().out

    def test_list_refused_writes_and_let_one_through(
        self, stand_in: tuple[StripeWorld, Settings], capsys: pytest.CaptureFixture[str]
    ) -> None:
        world, settings = stand_in
        world.sim.application.world.table("subscription").remove(world.subscriptions["acme"])
        with pytest.raises(SyncIncompleteError):
            stripe_sync_page.run_sync(settings, "acme", verify=False)
        capsys.readouterr()
        stripe_sync_page.show_dead_letters(settings, "acme")
        told = capsys.readouterr().out
        assert told.count("billing retry") == 4
        assert "resource_missing" in told
        assert API_KEY not in told
        letter = told.split("billing retry ")[1].split(" ")[0]
        stripe_sync_page.retry_dead_letter(settings, letter, actor="kim", reason="repaired")
        assert "billing sync acme" in capsys.readouterr().out
        stripe_sync_page.show_dead_letters(settings, None)
        assert capsys.readouterr().out.count("billing retry") == 3

    def test_say_that_a_key_is_missing(self, stand_in: tuple[StripeWorld, Settings]) -> None:
        from dataclasses import replace

        with pytest.raises(StripeKeyError, match="STRIPE_API_KEY is not set"):
            stripe_sync_page.run_sync(replace(stand_in[1], stripe_api_key=None), None, verify=False)


class TestPolicyFile:
    def test_takes_its_defaults_where_it_says_nothing(self, tmp_path: Path) -> None:
        assert load_sync_policy(tmp_path) == SyncPolicy()
        assert invoicing_policy_file.load_invoicing_policy(tmp_path) == InvoicingPolicy()
        (tmp_path / "stripe.toml").write_text("[true_up]\nhold_hours = 48\n[sync]\ndaily_push = false\n")
        policy = load_sync_policy(tmp_path)
        assert (policy.hold_at_most.total_seconds(), policy.daily_push) == (48 * 3600, False)

    def test_of_the_page_says_the_defaults(self, tmp_path: Path) -> None:
        page = (PROJECT_ROOT / "docs/stripe.md").read_text()
        (text,) = re.findall(r"```toml\n(\[sync\]\n.*?)```", page, re.DOTALL)
        (tmp_path / "stripe.toml").write_text(text)
        assert load_sync_policy(tmp_path) == SyncPolicy()
        (tmp_path / "stripe.toml").write_text(re.sub(r"^# (?!One)", "", text, flags=re.MULTILINE))
        assert load_sync_policy(tmp_path).meters["storage"].multiply == 1000

    def test_lies_beside_a_catalog_that_loads(self, database: Database, tmp_path: Path) -> None:
        """What says how an installation works is no file of the catalog."""
        books = InvoicingWorld(database, tmp_path / "catalog")
        books.folder.mkdir()
        for name in (POLICY_FILE, invoicing_policy_file.POLICY_FILE, alert_policy.FILE, canaries.FILE):
            (books.folder / name).write_text("")
        books.load()

    def test_has_a_page_that_says_of_every_finding_what_to_do(self) -> None:
        page = (PROJECT_ROOT / "docs/stripe.md").read_text()
        assert [kind for kind in FindingKind if f"`{kind}`" not in page] == []

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("[sync]\nevery_minutes = 7\n", "sync.every_minutes: a schedule runs every 5, 10"),
            ("[true_up]\nhold_hours = 100\n", "true_up.hold_hours"),
            ("[true_up]\nhold = 3\n", "true_up.hold"),
            ("[own_invoices]\ncollection = 'cash'\n", "own_invoices.collection"),
            ("[sync\n", "cannot be read"),
        ],
    )
    def test_names_what_cannot_be(self, tmp_path: Path, text: str, problem: str) -> None:
        (tmp_path / "stripe.toml").write_text(text)
        with pytest.raises(StripePolicyError, match=problem):
            load_sync_policy(tmp_path)
