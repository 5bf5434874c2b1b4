"""Assets, jobs and sensors of traffic and storage, over stores that live in memory."""

import base64
from collections.abc import Iterator
from datetime import UTC, date, datetime

import dagster as dg
import pytest

from assets.plots import INLINE_CHARACTERS, Cell, heat_map
from assets.sensors import new_storage_deliveries, open_windows, stale_storage, stale_traffic
from resources.timeline_reader import TimelineDrift
from tests.dagster_fakes import World

DAY = "2026-03-01"
FIRST, SECOND = date(2026, 3, 1), date(2026, 3, 2)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def metadata_of(result: dg.ExecuteInProcessResult, asset: str, day: str) -> dict[str, object]:
    key = dg.AssetKey(asset.split("/"))
    (event,) = [
        one for one in result.get_asset_materialization_events() if one.asset_key == key and one.partition == day
    ]
    return {name: value.value for name, value in event.materialization.metadata.items()}


class TestTrafficSamples:
    def test_pulls_the_days_of_the_run_and_shows_where_the_samples_went(self, world: World, instance) -> None:
        result = world.run("collect_traffic", instance, DAY)
        assert result.success
        assert world.traffic.collected == [((FIRST,), None)]
        shown = metadata_of(result, "core/traffic_samples", DAY)
        assert (shown["samples_read"], shown["samples_kept"], shown["samples_duplicate"]) == (22, 20, 2)
        assert str(shown["hours_covered"]).startswith("![2026-03-01, UTC](data:image/svg+xml;base64,")

    def test_a_run_names_the_nodes_that_it_pulls(self, world: World, instance) -> None:
        result = world.defs.resolve_job_def("collect_traffic").execute_in_process(
            instance=instance,
            partition_key=DAY,
            run_config={"ops": {"core__traffic_samples": {"config": {"nodes": ["jp-node"]}}}},
        )
        assert result.success
        assert world.traffic.collected == [((FIRST,), frozenset({"jp-node"}))]

    def test_a_range_shows_nodes_by_day_with_the_gap(self, world: World, instance) -> None:
        world.traffic.gaps = {SECOND}
        result = world.run("collect_traffic", instance, DAY, "2026-03-03")
        shown = metadata_of(result, "core/traffic_samples", "2026-03-02")
        assert shown["minutes_missing"] == 60
        assert "| jp-node | prod | 2026-03-02 | 23 | 0 | 1 | 0 | 60 |" in str(shown["coverage"])
        assert "nodes_by_day" in shown

    def test_an_open_gap_fails_the_check_of_its_day_alone(self, world: World, instance) -> None:
        world.verdicts.hold("core/traffic_samples", "2026-03-02", "windows_complete")
        result = world.run("collect_traffic", instance, DAY, "2026-03-03")
        found = {
            (one.partition, one.passed)
            for one in result.get_asset_check_evaluations()
            if one.check_name == "windows_complete"
        }
        assert found == {("2026-03-01", True), ("2026-03-02", False), ("2026-03-03", True)}


class TestUsage:
    def test_traffic_shows_bytes_and_what_nobody_pays_for(self, world: World, instance) -> None:
        result = world.run("build_traffic_usage", instance, DAY)
        assert result.success
        assert world.traffic_usage.built == [(FIRST,)]
        assert world.charges.booked == [(FIRST,)]
        shown = metadata_of(result, "usage/traffic", DAY)
        assert (shown["bytes"], shown["bytes_suspected_lost"], shown["unknown_identities"]) == (7000, 30, 1)

    def test_storage_shows_byte_seconds(self, world: World, instance) -> None:
        result = world.run("build_storage_usage", instance, DAY)
        assert result.success
        assert world.storage_usage.built == [(FIRST,)]
        assert "244,800,000,000,000" in str(metadata_of(result, "usage/storage", DAY)["byte_seconds"])

    def test_a_day_that_a_build_changes_beside_the_run_is_told_on_its_own_page(
        self, world: World, instance, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = world.storage_usage
        build_days = store.build_days
        monkeypatch.setattr(store, "build_days", lambda days, **rest: build_days((*days, SECOND), **rest))
        result = world.run("build_storage_usage", instance, DAY)
        assert result.success
        assert store.built == [(FIRST, SECOND)]
        for day in (DAY, str(SECOND)):
            assert "byte_seconds" in metadata_of(result, "usage/storage", day)

    def test_storage_draws_the_biggest_repository_and_lists_what_disagrees(self, world: World, instance) -> None:
        world.timelines.drifts[FIRST] = (
            TimelineDrift(
                repository="ann/cats",
                snapshot_at=datetime(2026, 3, 1, 7, tzinfo=UTC),
                derived_bytes=2_000_000_000,
                snapshot_bytes=4_000_000_000,
                drift_bytes=2_000_000_000,
                derived_visibility="public",
                snapshot_visibility="private",
                visibility_mismatch=True,
                unsized_events=1,
                is_missing=False,
            ),
        )
        result = world.run("build_storage_usage", instance, DAY)
        shown = metadata_of(result, "usage/storage", DAY)
        assert world.timelines.asked == [(FIRST, None)]
        assert str(shown["timeline"]).startswith("![ann/big](data:image/svg+xml;base64,")
        row = "| ann/cats | 07:00:00 | 2,000,000,000 | 4,000,000,000 | 2,000,000,000 | public, now private | 1 |"
        assert row in str(shown["drifts"])
        assert "| acme | 244,800,000,000,000 |" in str(shown["biggest_accounts"])

    @pytest.mark.parametrize(
        ("repository", "begins"), [("bob/small", "![bob/small](data:image"), ("nobody/knows", "No day knows it.")]
    )
    def test_storage_draws_the_repository_that_the_run_names(
        self, world: World, instance, repository: str, begins: str
    ) -> None:
        result = world.defs.resolve_job_def("build_storage_usage").execute_in_process(
            instance=instance,
            partition_key=DAY,
            run_config={"ops": {"usage__storage": {"config": {"repository": repository}}}},
        )
        assert result.success
        assert str(metadata_of(result, "usage/storage", DAY)["timeline"]).startswith(begins)

    def test_a_long_range_draws_nothing(self, world: World, instance) -> None:
        assert world.run("build_storage_usage", instance, DAY, "2026-04-10").success
        assert world.timelines.asked == []

    def test_a_held_day_stops_the_rest_of_its_run(self, world: World, instance) -> None:
        world.verdicts.hold("usage/storage", DAY, "snapshots_fresh")
        result = world.run("build_storage_usage", instance, DAY)
        assert not result.success
        assert world.charges.booked == []

    def test_the_daily_run_does_everything_once(self, world: World, instance) -> None:
        assert world.run("daily_billing", instance, DAY).success
        assert world.requests.ingested == world.usage.built == [(FIRST,)]
        assert world.traffic_usage.built == world.storage_usage.built == world.charges.booked == [(FIRST,)]
        assert sorted(dataset for dataset, _ in world.storage.ingested) == [
            "core/object_events",
            "core/storage_snapshots",
            "core/visibility_events",
        ]
        assert world.storage.listings == 1


class TestSensors:
    @pytest.mark.parametrize(
        ("sensor", "job"),
        [
            (open_windows, "collect_traffic"),
            (new_storage_deliveries, "ingest_storage"),
            (stale_traffic, "build_traffic_usage"),
            (stale_storage, "build_storage_usage"),
        ],
    )
    def test_requests_the_days_that_are_due_and_nothing_else(self, world: World, instance, sensor, job) -> None:
        resources = world.defs.resources
        context = dg.build_sensor_context(instance=instance, resources=resources)
        quiet = sensor(context)
        assert isinstance(quiet, dg.SkipReason)
        world.traffic.due = {SECOND}
        world.storage.pending = {"core/object_events": {SECOND}}
        world.traffic_usage.stale = world.storage_usage.stale = {SECOND}
        result = sensor(dg.build_sensor_context(instance=instance, resources=resources))
        (request,) = result.run_requests
        assert (request.job_name, request.partition_key) == (job, "2026-03-02")


class TestUpkeep:
    def test_sweeps_arrears_and_lists_storage_once_a_run(self, world: World, instance) -> None:
        assert world.defs.resolve_job_def("sweep_arrears").execute_in_process(instance=instance).success
        assert world.defs.resolve_job_def("list_storage").execute_in_process(instance=instance).success
        assert (world.payments.sweeps, world.storage.listings) == (1, 1)


class TestHeatMap:
    def test_of_a_day_of_three_nodes_is_shown_without_a_click(self) -> None:
        nodes = ["tokyo-1.demo.example", "frankfurt-1.demo.example", "oregon-1.demo.example"]
        cells = [[Cell.GOOD] * 24, [Cell.GOOD] * 9 + [Cell.BAD] * 3 + [Cell.GOOD] * 12, [Cell.GOOD] * 24]
        hours = {hour: f"{hour:02d}" for hour in (0, 6, 12, 18)}
        assert len(heat_map(nodes, cells, columns=hours, title="2026-03-03, UTC")) <= INLINE_CHARACTERS

    def test_draws_a_bar_for_each_run_of_cells_in_its_colour(self) -> None:
        picture = heat_map(["a", "b<c"], [[Cell.GOOD, Cell.BAD], [Cell.GOOD, Cell.NONE]], columns={0: "00"}, title="t")
        svg = base64.b64decode(picture.split("base64,")[1].rstrip(")")).decode()
        assert svg.count("h18v18h-18z") == 4
        assert Cell.GOOD.value in svg
        assert Cell.BAD.value in svg
        assert "b&lt;c" in svg
        assert "gap" in svg
        assert "partial" not in svg
