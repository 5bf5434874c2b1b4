"""A day that nobody built is told of, once."""

from datetime import UTC, date, datetime, timedelta

import dagster as dg

from assets.freshness import LATEST, alert_on_skipped_day, skipped_days
from resources.build_reader import BuildReader
from resources.database import Database
from tests.dagster_fakes import World

NEWEST = {"usage/storage": date(2026, 3, 1)}
# March 2nd is the day that is missing; it ends here.
END = datetime(2026, 3, 3, tzinfo=UTC)


class TestSkippedDays:
    def test_are_those_that_ended_more_than_25_hours_ago(self) -> None:
        assert skipped_days(NEWEST, now=END + LATEST) == {}
        assert skipped_days(NEWEST, now=END + LATEST + timedelta(seconds=1)) == {"usage/storage": date(2026, 3, 2)}

    def test_are_none_of_what_was_never_built(self) -> None:
        assert skipped_days({}, now=END) == {}


class TestSensor:
    def tick(self, world: World, instance: dg.DagsterInstance) -> None:
        context = dg.build_sensor_context(instance=instance, resources=world.defs.resources)
        assert isinstance(alert_on_skipped_day(context), dg.SkipReason)

    def test_tells_once_which_day_is_missing_and_what_to_do_and_when_it_is_built(self) -> None:
        world = World()
        world.builds.newest = dict(NEWEST)
        with dg.DagsterInstance.ephemeral() as instance:
            for _ in range(3):
                self.tick(world, instance)
            ((phase, subject, message),) = world.alerts.told
            assert (phase, subject) == ("opened", "usage/storage 2026-03-02")
            assert "billing materialize" in message
            world.builds.newest = {"usage/storage": date(2026, 3, 5)}
            self.tick(world, instance)
        told = [(phase, subject) for phase, subject, _ in world.alerts.told[1:]]
        assert told == [("opened", "usage/storage 2026-03-06"), ("closed", "usage/storage 2026-03-02")]

    def test_is_quiet_while_days_are_built(self) -> None:
        world = World()
        world.builds.newest = {"usage/storage": datetime.now(UTC).date() - timedelta(days=1)}
        with dg.DagsterInstance.ephemeral() as instance:
            self.tick(world, instance)
        assert world.alerts.told == []


class TestBuildReader:
    def test_knows_the_newest_day_of_each_asset(self, database: Database) -> None:
        assert BuildReader(database).newest_days() == {}
