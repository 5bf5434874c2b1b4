"""Follow Stripe: a sensor reads the feeds of events into the inbox, one run a tick applies all that is open.

The inbox in PostgreSQL is the truth: a run that fails uses up no event, a tick that is lost or repeated changes nothing, and
webhooks feed the same inbox. Not here: the work (resources/stripe_mirror), what is sent to Stripe.
"""

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import dagster as dg

from assets.execution import retried_when_transient
from assets.run_history import plan_run
from resources.stripe_mirror.feed import Poll
from resources.stripe_mirror.following import Followed, StripeFollowing
from resources.stripe_mirror.reads import StripeAwayError

# A tick has 60 s; a call that was begun may take 20 of them.
SECONDS_FOR_POLLING = 25.0


@dg.op
def apply_events(context: dg.OpExecutionContext, stripe_following: dg.ResourceParam[StripeFollowing]) -> None:
    """List Stripe's objects where that is due, apply the open events, settle what has changed."""
    with retried_when_transient():
        followed = stripe_following.follow(run_id=context.run_id)
    for subject, problem in {**followed.applied.failed, **followed.applied.settled.failed}.items():
        context.log.error(f"{subject}: {problem}")
    context.add_output_metadata(_metadata(followed))


@dg.job(
    description="Fetch the objects again that Stripe's events are about, mirror them, act on invoices. Again: nothing."
)
def apply_stripe_events() -> None:
    """Run the one step."""
    apply_events()


@dg.sensor(
    name="stripe_events",
    # By name: of a job itself Dagster would make a copy of the sensor, with a warning.
    job_name="apply_stripe_events",
    minimum_interval_seconds=30,
    description="Reads Stripe's feeds of events into the inbox and requests one run for all that is open there.",
)
def stripe_events(
    context: dg.SensorEvaluationContext, stripe_following: dg.ResourceParam[StripeFollowing]
) -> dg.SensorResult | dg.SkipReason:
    """Read the feeds, then request a run unless nothing is open or one is on its way."""
    if not stripe_following.is_configured:
        return dg.SkipReason("STRIPE_API_KEY is not set: there is nobody to follow")
    told = _polled(stripe_following)
    if not stripe_following.is_due():
        return dg.SkipReason(f"{told}; nothing is open")
    plan = plan_run(context.instance, job=apply_stripe_events.name, now=datetime.now(UTC))
    if not plan.requests:
        return dg.SkipReason("; ".join((told, *plan.waiting)))
    return dg.SensorResult(run_requests=list(plan.requests), cursor=told)


def _polled(following: StripeFollowing) -> str:
    """Read the feeds for as long as a tick allows, and return what came of it; without Stripe, why nothing did."""
    try:
        polls = following.poll(may_go_on=_until(SECONDS_FOR_POLLING))
    except StripeAwayError as error:
        return error.what
    return ", ".join(_told(poll) for poll in polls)


def _told(poll: Poll) -> str:
    rest = "" if poll.is_complete else ", more to come"
    return f"feed {poll.feed}: {len(poll.new_event_ids)} new of {poll.events_read} events{rest}"


def _until(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() < end


def _metadata(followed: Followed) -> Mapping[str, int | str]:
    applied, relisted = followed.applied, followed.relisted
    found: dict[str, int | str] = {
        "objects": applied.objects,
        "events": applied.events,
        "failed": len(applied.failed) + len(applied.settled.failed),
        "invoices_settled": applied.settled.invoices,
    }
    if relisted is not None:
        found |= {"listed_because": relisted.reason, "listed": relisted.listed, "changed": relisted.changed}
    return found
