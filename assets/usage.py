"""`usage/api_requests`: records of an event day, whenever they were delivered -> usage per account, meter and hour."""

import dagster as dg

from assets.catalog import PRICES_KEY, SUBSCRIPTIONS_KEY
from assets.code_version import code_version
from assets.columns import API_REQUESTS
from assets.execution import DUCKDB_POOL, Progress, retried_when_transient, told
from assets.metadata import MAX_DAYS_WITH_DETAIL, usage_metadata
from assets.partitions import BACKFILL_POLICY, DAYS, SAME_DAYS, accepted_dagster_apis, days_of
from assets.requests import KEY as REQUEST_RECORDS_KEY
from resources.usage_store import UsageStore

KEY = "usage/api_requests"


def api_requests_asset() -> dg.AssetsDefinition:
    """Return the asset."""
    with accepted_dagster_apis():

        @dg.asset(
            key=KEY.split("/"),
            deps=[
                dg.AssetDep(REQUEST_RECORDS_KEY.split("/"), partition_mapping=SAME_DAYS),
                dg.AssetDep(PRICES_KEY.split("/")),
                dg.AssetDep(SUBSCRIPTIONS_KEY.split("/")),
            ],
            partitions_def=DAYS,
            backfill_policy=BACKFILL_POLICY,
            pool=DUCKDB_POOL,
            group_name="usage",
            kinds={"duckdb", "postgres"},
            owners=["team:usage"],
            tags={"layer": "usage", "partition": "event_day"},
            code_version=code_version(),
            description=(
                "What was used: quantities per account, meter and hour, with endpoint, method and client.\n\n"
                "A partition is an **event day** (UTC): every accepted record that happened on it, however late it was "
                "delivered, counted once by its identity. *Records read = billable + not billable + duplicate + in "
                "conflict*; what is not billable is counted by reason in `usage.api_requests_not_billable`. "
                "An hour is cut where a subscription period begins, so that a row never belongs to two bills.\n\n"
                "A partition is replaced in one transaction. A build that a guard holds replaces nothing: the last good "
                "rows stay until the input is corrected or a person releases it."
            ),
            metadata={
                "dagster/column_schema": API_REQUESTS,
                "dagster/table_name": "usage.api_requests",
                "builds": dg.MetadataValue.text("usage.build"),
                "not_billable": dg.MetadataValue.text("usage.api_requests_not_billable"),
            },
        )
        def api_requests(
            context: dg.AssetExecutionContext,
            usage_store: dg.ResourceParam[UsageStore],
            progress: dg.ResourceParam[Progress],
        ) -> dg.MaterializeResult[None]:
            days = days_of(context.partition_keys)
            with retried_when_transient():
                builds = usage_store.build_days(
                    days,
                    run_id=context.run.run_id,
                    code_version=code_version(),
                    on_progress=told(context, KEY, progress),
                )
            in_detail = len(days) <= MAX_DAYS_WITH_DETAIL
            for build in builds:
                context.add_asset_metadata(
                    usage_metadata(build, in_detail=in_detail), partition_key=build.day.isoformat()
                )
            return dg.MaterializeResult()

    return api_requests
