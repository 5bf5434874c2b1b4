"""Find what is due, and request runs for exactly that: files that wait to be read, event days that are not up to date.

Truth is in PostgreSQL, so a tick that is lost, repeated or late changes nothing; the cursor only tells a person what the last
tick saw. Not here: what was launched before (run_history), alerts.
"""

from collections.abc import Iterable
from datetime import UTC, date, datetime

import dagster as dg

from assets.billing import CHARGES_KEY
from assets.jobs import backfill_usage, book_charges, ingest_deliveries
from assets.requests import KEY as REQUEST_RECORDS_KEY
from assets.run_history import Plan, plan_runs
from assets.usage import KEY as USAGE_KEY
from resources.catalog_store import CatalogNotLoadedError
from resources.charge_store import ChargeStore
from resources.request_store import RequestStore
from resources.usage_store import UsageStore

# A tick has 60 s; a request takes about 50 ms of it, and the daemon launches them one by one after it.
REQUESTS_PER_TICK = 20


@dg.sensor(
    name="new_deliveries",
    job=ingest_deliveries,
    minimum_interval_seconds=60,
    description="Looks for new files and requests the delivery days that have files to read, and no others.",
)
def new_deliveries(
    context: dg.SensorEvaluationContext, request_store: dg.ResourceParam[RequestStore]
) -> dg.SensorResult | dg.SkipReason:
    """Register new files, then request the days with files that nobody has read."""
    now = datetime.now(UTC)
    found = request_store.discover(seen_at=now)
    due = found.delivery_days
    plan = plan_runs(
        context.instance,
        asset=REQUEST_RECORDS_KEY,
        job=ingest_deliveries.name,
        due=due,
        now=now,
        at_most=REQUESTS_PER_TICK,
    )
    return _result(plan, due, nothing="no file waits to be read")


@dg.sensor(
    name="stale_usage",
    job=backfill_usage,
    minimum_interval_seconds=60,
    description="Requests the event days whose files or rules changed since they were last built, and no others.",
)
def stale_usage(
    context: dg.SensorEvaluationContext, usage_store: dg.ResourceParam[UsageStore]
) -> dg.SensorResult | dg.SkipReason:
    """Request the event days that are not up to date, then their charges and ledger, in the same run."""
    try:
        due = usage_store.stale_days()
    except CatalogNotLoadedError:
        return dg.SkipReason("no catalog is loaded yet: materialize catalog/prices and catalog/subscriptions once")
    plan = plan_runs(
        context.instance,
        asset=USAGE_KEY,
        job=backfill_usage.name,
        due=due,
        now=datetime.now(UTC),
        at_most=REQUESTS_PER_TICK,
    )
    return _result(plan, due, nothing="every event day is up to date")


@dg.sensor(
    name="unbooked_usage",
    job=book_charges,
    minimum_interval_seconds=60,
    description="Requests the event days that are built and not booked as they are built, or under another catalog.",
)
def unbooked_usage(
    context: dg.SensorEvaluationContext, charge_store: dg.ResourceParam[ChargeStore]
) -> dg.SensorResult | dg.SkipReason:
    """Request charges and ledger of days that a run did not live to book, and of all days once prices have changed."""
    try:
        due = charge_store.unbooked_days()
    except CatalogNotLoadedError:
        return dg.SkipReason("no catalog is loaded yet: materialize catalog/prices and catalog/subscriptions once")
    plan = plan_runs(
        context.instance,
        asset=CHARGES_KEY,
        job=book_charges.name,
        due=due,
        now=datetime.now(UTC),
        at_most=REQUESTS_PER_TICK,
    )
    return _result(plan, due, nothing="every event day is booked as it is built")


def _result(plan: Plan, due: Iterable[date], *, nothing: str) -> dg.SensorResult | dg.SkipReason:
    if not plan.requests:
        return dg.SkipReason("; ".join(plan.waiting) or nothing)
    return dg.SensorResult(run_requests=list(plan.requests), cursor=f"{len(set(due))} days were due")
