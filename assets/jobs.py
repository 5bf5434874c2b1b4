"""What is launched together: the daily job with its schedule, the ingestion of deliveries, the backfill of usage."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from assets.billing import CHARGES_KEY, LEDGER_KEY
from assets.catalog import PRICES_KEY, SUBSCRIPTIONS_KEY
from assets.invoicing import KEY as INVOICE_ITEMS_KEY
from assets.partitions import partition_tags
from assets.requests import KEY as REQUEST_RECORDS_KEY
from assets.storage import OBJECT_EVENTS_KEY, SNAPSHOTS_KEY, STORAGE_KEY, VISIBILITY_EVENTS_KEY
from assets.traffic import SAMPLES_KEY, TRAFFIC_KEY
from assets.usage import KEY as REQUESTS_KEY

CATALOG = (PRICES_KEY, SUBSCRIPTIONS_KEY)
BILLING = (CHARGES_KEY, LEDGER_KEY)
STORAGE_DELIVERIES = (SNAPSHOTS_KEY, OBJECT_EVENTS_KEY, VISIBILITY_EVENTS_KEY)
USAGE = (REQUESTS_KEY, TRAFFIC_KEY, STORAGE_KEY)
USAGE_AND_BILLING = (*USAGE, *BILLING)
CHAIN = (REQUEST_RECORDS_KEY, SAMPLES_KEY, *STORAGE_DELIVERIES, *CATALOG, *USAGE_AND_BILLING)


def _selection(keys: tuple[str, ...]) -> dg.AssetSelection:
    return dg.AssetSelection.assets(*(key.split("/") for key in keys))


daily_billing = dg.define_asset_job(
    "daily_billing",
    selection=_selection((*CHAIN, INVOICE_ITEMS_KEY)),
    description="A day from deliveries and exporters to the invoices: read, load the catalog, count, rate, book, compile.",
)

ingest_deliveries = dg.define_asset_job(
    "ingest_deliveries",
    selection=_selection((REQUEST_RECORDS_KEY,)),
    description="Read the delivered request logs of a day, or of a range of days in one run.",
)

collect_traffic = dg.define_asset_job(
    "collect_traffic",
    selection=_selection((SAMPLES_KEY,)),
    description="Pull the windows of the days that are not complete, of all exporters or of the nodes in the run config.",
)

ingest_storage = dg.define_asset_job(
    "ingest_storage",
    selection=_selection(STORAGE_DELIVERIES),
    description="Read delivered storage snapshots, CloudTrail logs and visibility events of a day, or of a range of days.",
)

backfill_usage = dg.define_asset_job(
    "backfill_usage",
    selection=_selection((*CATALOG, *USAGE_AND_BILLING)),
    description="Count, rate and book event days again from what is in the lake; a range of days in one run.",
)


def _building(usage_key: str) -> str:
    return f"Build {usage_key} of event days that are not up to date, then rate and book them."


build_request_usage, build_traffic_usage, build_storage_usage = (
    dg.define_asset_job(name, selection=_selection((*CATALOG, key, *BILLING)), description=_building(key))
    for name, key in (
        ("build_request_usage", REQUESTS_KEY),
        ("build_traffic_usage", TRAFFIC_KEY),
        ("build_storage_usage", STORAGE_KEY),
    )
)

book_charges = dg.define_asset_job(
    "book_charges",
    selection=_selection(BILLING),
    description="Rate and book event days again whose usage stays as it is, say under a new price; a range in one run.",
)

JOBS = (
    daily_billing,
    ingest_deliveries,
    collect_traffic,
    ingest_storage,
    backfill_usage,
    build_request_usage,
    build_traffic_usage,
    build_storage_usage,
    book_charges,
)

# By asset: the jobs that build it. A run of a job does not say which assets it selects.
JOBS_BUILDING = {
    REQUEST_RECORDS_KEY: {"daily_billing", "ingest_deliveries"},
    SAMPLES_KEY: {"daily_billing", "collect_traffic"},
    SNAPSHOTS_KEY: {"daily_billing", "ingest_storage"},
    REQUESTS_KEY: {"daily_billing", "backfill_usage", "build_request_usage"},
    TRAFFIC_KEY: {"daily_billing", "backfill_usage", "build_traffic_usage"},
    STORAGE_KEY: {"daily_billing", "backfill_usage", "build_storage_usage"},
    CHARGES_KEY: {
        "daily_billing",
        "backfill_usage",
        "build_request_usage",
        "build_traffic_usage",
        "build_storage_usage",
        "book_charges",
    },
}


@dg.schedule(
    cron_schedule="30 0 * * *",
    execution_timezone="UTC",
    job=daily_billing,
    description="At 00:30 UTC: yesterday, from files to ledger. What comes later is found by the sensors.",
)
def build_yesterday(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """Request yesterday's run. The run key is the day: one run a tick, however often the tick is evaluated."""
    at = context.scheduled_execution_time.astimezone(UTC)
    yesterday = (datetime(at.year, at.month, at.day, tzinfo=UTC) - timedelta(days=1)).date()
    return dg.RunRequest(
        run_key=yesterday.isoformat(), partition_key=yesterday.isoformat(), tags=partition_tags(yesterday, yesterday)
    )
