"""The sensor on Stripe's events: one run for all that is open, and no failed run uses up an event."""

from collections.abc import Iterator
from datetime import timedelta

import dagster as dg
import pytest

from assets.stripe_events import apply_stripe_events, stripe_events
from resources.stripe_mirror.reads import StripeAwayError
from tests.dagster_fakes import World

AWAY = StripeAwayError("Stripe did not answer", bill="", fix="")


@pytest.fixture
def world() -> World:
    world = World()
    world.stripe_following.is_configured = True
    return world


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def tick(world: World, instance: dg.DagsterInstance) -> dg.SensorResult | dg.SkipReason:
    context = dg.build_sensor_context(instance=instance, resources=world.defs.resources)
    found = stripe_events(context)
    assert isinstance(found, dg.SensorResult | dg.SkipReason)
    return found


def run(world: World, instance: dg.DagsterInstance) -> bool:
    job = world.defs.resolve_job_def(apply_stripe_events.name)
    return job.execute_in_process(instance=instance, raise_on_error=False).success


class TestSensor:
    def test_is_off_in_a_new_installation_and_says_what_is_missing(self, instance: dg.DagsterInstance) -> None:
        assert stripe_events.default_status is dg.DefaultSensorStatus.STOPPED
        found = tick(World(), instance)
        assert isinstance(found, dg.SkipReason)
        assert "STRIPE_API_KEY" in (found.skip_message or "")

    def test_requests_one_run_for_all_that_is_new(self, world: World, instance: dg.DagsterInstance) -> None:
        world.stripe_following.new = 10_000
        found = tick(world, instance)
        assert isinstance(found, dg.SensorResult)
        assert len(found.run_requests or ()) == 1
        assert run(world, instance)
        assert isinstance(tick(world, instance), dg.SkipReason)

    def test_requests_a_run_for_what_a_webhook_brought(self, world: World, instance: dg.DagsterInstance) -> None:
        world.stripe_following.open = 1
        assert isinstance(tick(world, instance), dg.SensorResult)

    def test_asks_again_after_a_run_that_failed(
        self, world: World, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.stripe_following.new = 3
        world.stripe_following.failures.append(AWAY)
        first = tick(world, instance)
        assert not run(world, instance)
        waiting = tick(world, instance)
        assert isinstance(waiting, dg.SkipReason)
        assert "failed, again at" in (waiting.skip_message or "")
        monkeypatch.setattr("assets.run_history.FIRST_WAIT", timedelta(minutes=-5))
        again = tick(world, instance)
        assert isinstance(first, dg.SensorResult)
        assert isinstance(again, dg.SensorResult)
        keys = [result.run_requests[0].run_key for result in (first, again) if result.run_requests]
        assert len(set(keys)) == 2
        assert run(world, instance)
        assert world.stripe_following.open == 0

    def test_goes_on_with_what_is_open_when_stripe_is_away(self, world: World, instance: dg.DagsterInstance) -> None:
        world.stripe_following.away = AWAY
        found = tick(world, instance)
        assert isinstance(found, dg.SkipReason)
        assert "Stripe did not answer" in (found.skip_message or "")
        world.stripe_following.open = 1
        assert isinstance(tick(world, instance), dg.SensorResult)
