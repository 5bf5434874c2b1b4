"""The reconciliation's page: a table, a plot, and checks that say what to do."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pytest

from assets.reconciliation import reconcile_stripe_daily
from tests.dagster_fakes import World


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def world() -> World:
    return World()


def materialized(
    world: World, instance: dg.DagsterInstance
) -> tuple[dict[str, dg.AssetCheckEvaluation], dict[str, object]]:
    result = world.run("reconcile_stripe", instance, "2026-03-15")
    assert result.success
    checks = {one.check_name: one for one in result.get_asset_check_evaluations()}
    (event,) = result.get_asset_materialization_events()
    return checks, {name: value.value for name, value in event.materialization.metadata.items()}


class TestAsset:
    def test_says_that_both_sides_are_equal(self, world: World, instance: dg.DagsterInstance) -> None:
        checks, metadata = materialized(world, instance)
        assert world.reconciler.days == [date(2026, 3, 15)]
        assert {name: check.passed for name, check in checks.items()} == {
            "stripe_equals_books": True,
            "customers_in_step": True,
            "canaries_right": True,
        }
        assert (metadata["invoices_equal"], metadata["invoices_drift"]) == (1, 0)
        assert "differences" not in metadata

    def test_names_a_drift_with_its_line_and_what_to_do(self, world: World, instance: dg.DagsterInstance) -> None:
        """Row 39."""
        world.reconciler.held = 801
        checks, metadata = materialized(world, instance)
        check = checks["stripe_equals_books"]
        assert not check.passed
        assert check.severity is dg.AssetCheckSeverity.ERROR
        assert "To fix" in (check.description or "")
        assert (
            "| acme | 2026-03-01 to 2026-04-01 | draft | 8.00 USD | 8.01 USD | 0.01 USD | drift | kkkkkkkk +1 |"
            in str(metadata["differences"])
        )
        assert metadata["drift_minor_USD"] == 1
        assert str(metadata["differences_plot"]).startswith("![")

    def test_shows_who_is_behind_and_for_how_long(self, world: World, instance: dg.DagsterInstance) -> None:
        """FLY-16."""
        world.reconciler.held = 0
        world.reconciler.is_behind = True
        world.reconciler.behind_since = datetime(2026, 4, 1, tzinfo=UTC) - timedelta(hours=2)
        checks, metadata = materialized(world, instance)
        assert checks["stripe_equals_books"].passed
        assert checks["customers_in_step"].passed
        assert metadata["longest_lag_seconds"] == 7200
        assert "acme | 2:00:00" in str(metadata["behind"])
        world.reconciler.behind_since -= timedelta(hours=25)
        checks, _ = materialized(world, instance)
        assert not checks["customers_in_step"].passed
        assert checks["customers_in_step"].severity is dg.AssetCheckSeverity.WARN

    def test_says_when_the_canary_is_wrong(self, world: World, instance: dg.DagsterInstance) -> None:
        world.reconciler.canary_ours = 4199
        checks, metadata = materialized(world, instance)
        assert not checks["canaries_right"].passed
        assert metadata["canaries_wrong"] == 1

    def test_says_when_a_canary_is_not_in_the_catalog(self, world: World, instance: dg.DagsterInstance) -> None:
        world.reconciler.unknown_canaries = ("account 'c' with subscription 's'",)
        checks, _ = materialized(world, instance)
        assert not checks["canaries_right"].passed
        assert "the catalog has none such" in (checks["canaries_right"].description or "")


class TestSchedule:
    def test_is_about_yesterday_and_off_in_a_new_installation(self) -> None:
        at = datetime(2026, 3, 16, 7, tzinfo=UTC)
        request = reconcile_stripe_daily(dg.build_schedule_context(scheduled_execution_time=at))
        assert isinstance(request, dg.RunRequest)
        assert (request.partition_key, request.run_key) == ("2026-03-15", "2026-03-15")
        assert reconcile_stripe_daily.default_status is dg.DefaultScheduleStatus.STOPPED
