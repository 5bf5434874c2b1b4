"""`entitlement/allowances`: the catalog's entitlements -> what each account may use, and who nears a limit.

Materialized every hour by `watch_limits_hourly`, or by hand; access decisions read the table. Not here: the rules
(billing_pipeline.entitlements).
"""

from datetime import UTC, datetime

import dagster as dg

from assets.catalog import PRICES_KEY, SUBSCRIPTIONS_KEY
from assets.code_version import code_version
from assets.columns import ALLOWANCES
from assets.execution import retried_when_transient
from assets.metadata import markdown_table
from assets.storage import STORAGE_KEY
from assets.traffic import TRAFFIC_KEY
from assets.usage import KEY as USAGE_KEY
from billing_pipeline.amounts import exact_text
from resources.entitlements.entitlement_store import Crossing, EntitlementStore

KEY = "entitlement/allowances"
_LISTED = 50


def allowances_asset() -> dg.AssetsDefinition:
    """Return the asset."""

    @dg.asset(
        key=KEY.split("/"),
        deps=[key.split("/") for key in (PRICES_KEY, SUBSCRIPTIONS_KEY, USAGE_KEY, TRAFFIC_KEY, STORAGE_KEY)],
        group_name="entitlements",
        kinds={"python", "postgres"},
        owners=["team:billing"],
        tags={"layer": "entitlement"},
        code_version=code_version(),
        description=(
            "What each account may use of each feature, all of its sources together, by spans of time; an access decision is "
            "one query over it and the usage that is built.\n\n"
            "Each run also finds the thresholds (50, 80, 100 % of a limit, or a feature's own) that usage has passed since, "
            "and writes each once for its counting window: `entitlement.threshold_crossing`."
        ),
        metadata={"dagster/column_schema": ALLOWANCES, "dagster/table_name": "entitlement.allowance"},
    )
    def allowances(
        context: dg.AssetExecutionContext, entitlement_store: dg.ResourceParam[EntitlementStore]
    ) -> dg.MaterializeResult[None]:
        now = datetime.now(UTC)
        with retried_when_transient():
            rows = entitlement_store.refresh(now=now)
            crossings = entitlement_store.record_crossings(now=now)
        for crossing in crossings:
            context.log.warning(_sentence(crossing))
        metadata: dict[str, dg.MetadataValue] = {
            "dagster/row_count": dg.MetadataValue.int(rows),
            "thresholds_passed": dg.MetadataValue.int(len(crossings)),
        }
        if crossings:
            metadata["newly_passed"] = _table(crossings[:_LISTED])
        return dg.MaterializeResult(metadata=metadata)

    return allowances


def _sentence(crossing: Crossing) -> str:
    return (
        f"{crossing.account_id} has used {exact_text(crossing.used)} of {exact_text(crossing.limit)} of "
        f"{crossing.feature_id} since {crossing.counted_from:%Y-%m-%d %H:%M}: past {exact_text(crossing.threshold)} %"
    )


def _table(crossings: tuple[Crossing, ...]) -> dg.MetadataValue:
    rows = [
        (
            crossing.account_id,
            crossing.feature_id,
            f"{crossing.counted_from:%Y-%m-%d %H:%M}",
            exact_text(crossing.threshold),
            exact_text(crossing.used),
            exact_text(crossing.limit),
        )
        for crossing in crossings
    ]
    return markdown_table(("account", "feature", "counted from", "past %", "used", "limit"), rows)


watch_limits = dg.define_asset_job(
    "watch_limits",
    selection=dg.AssetSelection.assets(KEY.split("/")),
    description="Write what accounts may use and find limits that are near. Again without new usage: nothing new.",
)
watch_limits_hourly = dg.ScheduleDefinition(
    name="watch_limits_hourly",
    job=watch_limits,
    cron_schedule="40 * * * *",
    execution_timezone="UTC",
    description="At 40 past every hour.",
)
