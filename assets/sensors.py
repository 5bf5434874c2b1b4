"""Find what is due, and request runs for exactly that: files and windows that wait to be read, event days that are not up to
date.

Truth is in PostgreSQL, so a tick that is lost, repeated or late changes nothing; the cursor only tells a person what the last
tick saw. Not here: what was launched before (run_history), alerts.
"""

from collections.abc import Callable, Collection
from datetime import UTC, date, datetime
from functools import partial

import dagster as dg

from assets.billing import CHARGES_KEY
from assets.jobs import (
    STORAGE_DELIVERIES,
    book_charges,
    build_request_usage,
    build_storage_usage,
    build_traffic_usage,
    collect_traffic,
    ingest_deliveries,
    ingest_storage,
)
from assets.requests import KEY as REQUEST_RECORDS_KEY
from assets.run_history import plan_runs
from assets.storage import SNAPSHOTS_KEY, STORAGE_KEY
from assets.traffic import SAMPLES_KEY, TRAFFIC_KEY
from assets.usage import KEY as REQUESTS_KEY
from resources.catalog_store import CatalogNotLoadedError
from resources.charge_store import ChargeStore
from resources.request_store import RequestStore
from resources.storage_store import StorageStore
from resources.storage_usage_store import StorageUsageStore
from resources.traffic_store import TrafficStore
from resources.traffic_usage_store import TrafficUsageStore
from resources.usage_store import UsageStore

# A tick has 60 s; a request takes about 50 ms of it, and the daemon launches them one by one after it.
REQUESTS_PER_TICK = 20
# Requests are pushed as well as delivered: two ticks and two runs come to less than a minute from there to usage.
_REQUESTS_SECONDS = 15


@dg.sensor(
    name="new_deliveries",
    job=ingest_deliveries,
    minimum_interval_seconds=_REQUESTS_SECONDS,
    description="Looks for new files and requests the delivery days that have files to read, and no others.",
)
def new_deliveries(
    context: dg.SensorEvaluationContext, request_store: dg.ResourceParam[RequestStore]
) -> dg.SensorResult | dg.SkipReason:
    """Register new files, then request the days with files that nobody has read."""
    now = datetime.now(UTC)
    found = request_store.discover(seen_at=now)
    due = found.delivery_days
    return _requested(
        context, due, asset=REQUEST_RECORDS_KEY, job=ingest_deliveries.name, now=now, nothing="no file waits to be read"
    )


@dg.sensor(
    name="new_storage_deliveries",
    job=ingest_storage,
    minimum_interval_seconds=60,
    description="Looks for new snapshots, CloudTrail logs and visibility events, and requests their delivery days.",
)
def new_storage_deliveries(
    context: dg.SensorEvaluationContext, storage_store: dg.ResourceParam[StorageStore]
) -> dg.SensorResult | dg.SkipReason:
    """Register new files, then request the days with files that nobody has read."""
    now = datetime.now(UTC)
    storage_store.discover(seen_at=now)
    due = sorted({day for key in STORAGE_DELIVERIES for day in storage_store.delivery_days(key, pending_only=True)})
    return _requested(
        context, due, asset=SNAPSHOTS_KEY, job=ingest_storage.name, now=now, nothing="no file waits to be read"
    )


@dg.sensor(
    name="open_windows",
    job=collect_traffic,
    # A minute is settled two minutes after its end, so that this keeps today's delay within five minutes.
    minimum_interval_seconds=180,
    description="Keeps today within five minutes: requests the days with windows that an exporter can still complete.",
)
def open_windows(
    context: dg.SensorEvaluationContext, traffic_store: dg.ResourceParam[TrafficStore]
) -> dg.SensorResult | dg.SkipReason:
    """Request the days whose traffic is not complete and may be by now; a gap beyond an exporter's retention is left."""
    now = datetime.now(UTC)
    traffic_store.discover(seen_at=now)
    due = traffic_store.due_days(now)
    return _requested(
        context,
        due,
        asset=SAMPLES_KEY,
        job=collect_traffic.name,
        now=now,
        nothing="every window is complete, or cannot be completed",
    )


@dg.sensor(
    name="stale_usage",
    job=build_request_usage,
    minimum_interval_seconds=_REQUESTS_SECONDS,
    description="Requests the event days whose files or rules changed since they were last built, and no others.",
)
def stale_usage(
    context: dg.SensorEvaluationContext, usage_store: dg.ResourceParam[UsageStore]
) -> dg.SensorResult | dg.SkipReason:
    """Request the event days of API requests that are not up to date, then their charges and ledger, in the same run."""
    return _stale(context, usage_store.stale_days, asset=REQUESTS_KEY, job=build_request_usage.name)


@dg.sensor(
    name="stale_traffic",
    job=build_traffic_usage,
    minimum_interval_seconds=60,
    description="Requests the event days whose samples, last samples before, or rules changed since they were last built.",
)
def stale_traffic(
    context: dg.SensorEvaluationContext, traffic_usage_store: dg.ResourceParam[TrafficUsageStore]
) -> dg.SensorResult | dg.SkipReason:
    """Request the event days of traffic that are not up to date, then their charges and ledger, in the same run."""
    return _stale(context, traffic_usage_store.stale_days, asset=TRAFFIC_KEY, job=build_traffic_usage.name)


@dg.sensor(
    name="stale_storage",
    job=build_storage_usage,
    minimum_interval_seconds=60,
    description="Requests the event days whose snapshots, events or rules changed since they were last built.",
)
def stale_storage(
    context: dg.SensorEvaluationContext, storage_usage_store: dg.ResourceParam[StorageUsageStore]
) -> dg.SensorResult | dg.SkipReason:
    """Request the event days of storage that are not up to date, then their charges and ledger, in the same run."""
    now = datetime.now(UTC)
    stale = partial(storage_usage_store.stale_days, now)
    return _stale(context, stale, asset=STORAGE_KEY, job=build_storage_usage.name)


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
    return _stale(
        context,
        charge_store.unbooked_days,
        asset=CHARGES_KEY,
        job=book_charges.name,
        nothing="every event day is booked as it is built",
    )


def _stale(
    context: dg.SensorEvaluationContext,
    stale_days: Callable[[], tuple[date, ...]],
    *,
    asset: str,
    job: str,
    nothing: str = "every event day is up to date",
) -> dg.SensorResult | dg.SkipReason:
    try:
        due = stale_days()
    except CatalogNotLoadedError:
        return dg.SkipReason("no catalog is loaded yet: materialize catalog/prices and catalog/subscriptions once")
    return _requested(context, due, asset=asset, job=job, now=datetime.now(UTC), nothing=nothing)


def _requested(
    context: dg.SensorEvaluationContext, due: Collection[date], *, asset: str, job: str, now: datetime, nothing: str
) -> dg.SensorResult | dg.SkipReason:
    """Return runs for what is due and not on its way, or why there are none."""
    plan = plan_runs(context.instance, asset=asset, job=job, due=due, now=now, at_most=REQUESTS_PER_TICK)
    if not plan.requests:
        return dg.SkipReason("; ".join(plan.waiting) or nothing)
    return dg.SensorResult(run_requests=list(plan.requests), cursor=f"{len(set(due))} days were due")
