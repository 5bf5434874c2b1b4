"""The virtual clock goes on: what is due on the way happens, in the order of its instants."""

from collections.abc import Callable, Iterator, Mapping

from resources.stripe_sim import (
    deliveries,
    drafts,
    finalization,
    meter_events,
    payments,
    renewals,
    subscription_invoices,
)
from resources.stripe_sim.world import RequestMark, World

_ACTIONS: Mapping[str, Callable[[World, str], None]] = {
    subscription_invoices.RENEW: renewals.on_renew_timer,
    drafts.FINALIZE: finalization.on_finalize_timer,
    payments.RETRY_PAYMENT: finalization.on_retry_timer,
    meter_events.REPORT_ERRORS: meter_events.on_report_timer,
    # Whoever steps delivers; the timer only stops the clock.
    deliveries.DELIVER: lambda world, _: None,
}


def steps_until(world: World, instant: int) -> Iterator[None]:
    """Let everything happen that is due by `instant`, one thing after the other; yields after each.

    Whoever steps may deliver webhooks in between, while the clock stands at the instant of what happened.
    """
    while (timer := world.due(instant)) is not None:
        world.now = max(world.now, timer.at)
        world.request = RequestMark()
        _ACTIONS[timer.action](world, timer.object_id)
        world.flush_events()
        yield
    world.now = max(world.now, instant)
    world.changes += 1


def advance(world: World, instant: int) -> None:
    """Let everything happen that is due by `instant`."""
    for _ in steps_until(world, instant):
        pass
