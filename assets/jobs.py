"""What is launched together: the daily job with its schedule, the ingestion of deliveries, the backfill of usage."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from assets.billing import CHARGES_KEY, LEDGER_KEY
from assets.catalog import PRICES_KEY, SUBSCRIPTIONS_KEY
from assets.partitions import partition_tags
from assets.requests import KEY as REQUEST_RECORDS_KEY
from assets.usage import KEY as USAGE_KEY

CATALOG = (PRICES_KEY, SUBSCRIPTIONS_KEY)
BILLING = (CHARGES_KEY, LEDGER_KEY)
USAGE_AND_BILLING = (USAGE_KEY, *BILLING)
CHAIN = (REQUEST_RECORDS_KEY, *CATALOG, *USAGE_AND_BILLING)


def _selection(keys: tuple[str, ...]) -> dg.AssetSelection:
    return dg.AssetSelection.assets(*(key.split("/") for key in keys))


daily_billing = dg.define_asset_job(
    "daily_billing",
    selection=_selection(CHAIN),
    description="A day from delivered files to the ledger: read its deliveries, load the catalog, count, rate, book.",
)

ingest_deliveries = dg.define_asset_job(
    "ingest_deliveries",
    selection=_selection((REQUEST_RECORDS_KEY,)),
    description="Read the delivered files of a day, or of a range of days in one run.",
)

backfill_usage = dg.define_asset_job(
    "backfill_usage",
    selection=_selection((*CATALOG, *USAGE_AND_BILLING)),
    description="Count, rate and book event days again from what is in the lake; a range of days in one run.",
)

book_charges = dg.define_asset_job(
    "book_charges",
    selection=_selection(BILLING),
    description="Rate and book event days again whose usage stays as it is, say under a new price; a range in one run.",
)

JOBS = (daily_billing, ingest_deliveries, backfill_usage, book_charges)

# By asset: the jobs that build it. A run of a job does not say which assets it selects.
JOBS_BUILDING = {
    REQUEST_RECORDS_KEY: {"daily_billing", "ingest_deliveries"},
    USAGE_KEY: {"daily_billing", "backfill_usage"},
    CHARGES_KEY: {"daily_billing", "backfill_usage", "book_charges"},
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
