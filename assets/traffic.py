"""`core/traffic_samples` and `usage/traffic`: cumulative counters of exporter nodes -> samples in the lake -> usage.

Both are partitioned by the day on which a counter was read; the node is a column.
"""

from datetime import UTC, datetime

import dagster as dg
from pydantic import Field

from assets.catalog import PRICES_KEY, SUBSCRIPTIONS_KEY
from assets.code_version import code_version
from assets.columns import TRAFFIC, TRAFFIC_SAMPLES
from assets.execution import DUCKDB_POOL, Progress, retried_when_transient, tell_of_day, told
from assets.metadata import MAX_DAYS_WITH_DETAIL
from assets.partitions import BACKFILL_POLICY, DAYS, SAME_DAYS, accepted_dagster_apis, days_of
from assets.traffic_metadata import collection_metadata, coverage_metadata, traffic_metadata
from resources.traffic_store import TrafficStore
from resources.traffic_usage_store import TrafficUsageStore

SAMPLES_KEY = "core/traffic_samples"
TRAFFIC_KEY = "usage/traffic"


class Collection(dg.Config):
    """Which exporters a run pulls: nodes by name, all of them when the list is empty."""

    nodes: list[str] = Field(default_factory=list)


def traffic_samples_asset() -> dg.AssetsDefinition:
    """Return the asset."""
    with accepted_dagster_apis():

        @dg.asset(
            key=SAMPLES_KEY.split("/"),
            partitions_def=DAYS,
            backfill_policy=BACKFILL_POLICY,
            pool=DUCKDB_POOL,
            group_name="ingest",
            kinds={"duckdb", "parquet"},
            owners=["team:usage"],
            tags={"layer": "core", "partition": "event_day"},
            code_version=code_version(),
            description=(
                "Cumulative traffic counters as the exporters' nodes gave them: pulled by windows, pushed, or dropped as "
                "files, each reading kept once and for ever.\n\n"
                "A partition is an **event day** (UTC). A run pulls only the hourly windows that are not complete, of all "
                "nodes or of those named in its config, so after an outage it is enough to select the days. A window is "
                "complete when its pages were read to the end and every minute of it has a snapshot; what is missing is a "
                "gap with a reason, which holds the day until a backfill or a person closes it (`billing close-gap`).\n\n"
                "Kept in the lake, sorted by stream and time; e-mail addresses are dropped at the door."
            ),
            metadata={
                "dagster/column_schema": TRAFFIC_SAMPLES,
                "windows": dg.MetadataValue.text("core.traffic_window"),
                "gaps": dg.MetadataValue.text("core.traffic_gap"),
            },
        )
        def traffic_samples(
            context: dg.AssetExecutionContext,
            config: Collection,
            traffic_store: dg.ResourceParam[TrafficStore],
            progress: dg.ResourceParam[Progress],
        ) -> dg.MaterializeResult[None]:
            days = days_of(context.partition_keys)
            with retried_when_transient():
                collected = traffic_store.collect_days(
                    days,
                    now=datetime.now(UTC),
                    run_id=context.run.run_id,
                    code_version=code_version(),
                    only_nodes=frozenset(config.nodes) or None,
                    on_progress=told(context, SAMPLES_KEY, progress),
                )
            in_detail = len(days) <= MAX_DAYS_WITH_DETAIL
            coverage = coverage_metadata(traffic_store.coverage(days)) if in_detail else {}
            for one in collected:
                tell_of_day(
                    context, SAMPLES_KEY, one.day, {**collection_metadata(one, in_detail=in_detail), **coverage}
                )
            return dg.MaterializeResult()

    return traffic_samples


def traffic_asset() -> dg.AssetsDefinition:
    """Return the asset."""
    with accepted_dagster_apis():

        @dg.asset(
            key=TRAFFIC_KEY.split("/"),
            deps=[
                dg.AssetDep(SAMPLES_KEY.split("/"), partition_mapping=SAME_DAYS),
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
                "Bytes per account, meter, node and hour, from the differences between ordered readings of each counter.\n\n"
                "Every build derives the differences anew from the day's samples and the last one before it, so that late, "
                "repeated and reordered readings end in the same minutes. What a restart hid is not guessed: the source's "
                "policy says what it bills, and the suspected loss is listed.\n\n"
                "Minutes: `usage.traffic_minute`. A build that a guard holds replaces nothing."
            ),
            metadata={
                "dagster/column_schema": TRAFFIC,
                "dagster/table_name": "usage.traffic",
                "minutes": dg.MetadataValue.text("usage.traffic_minute"),
                "builds": dg.MetadataValue.text("usage.build"),
            },
        )
        def traffic(
            context: dg.AssetExecutionContext,
            traffic_usage_store: dg.ResourceParam[TrafficUsageStore],
            progress: dg.ResourceParam[Progress],
        ) -> dg.MaterializeResult[None]:
            days = days_of(context.partition_keys)
            with retried_when_transient():
                builds = traffic_usage_store.build_days(
                    days,
                    run_id=context.run.run_id,
                    code_version=code_version(),
                    on_progress=told(context, TRAFFIC_KEY, progress),
                )
            in_detail = len(days) <= MAX_DAYS_WITH_DETAIL
            for build in builds:
                tell_of_day(context, TRAFFIC_KEY, build.day, traffic_metadata(build, in_detail=in_detail))
            return dg.MaterializeResult()

    return traffic
