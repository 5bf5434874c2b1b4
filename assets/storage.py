"""What repositories hold over time: `core/storage_snapshots`, `core/object_events`, `core/visibility_events`, `usage/storage`."""

from dataclasses import dataclass
from datetime import UTC, date, datetime

import dagster as dg
from pydantic import Field

from assets.catalog import PRICES_KEY, SUBSCRIPTIONS_KEY
from assets.code_version import code_version
from assets.columns import OBJECT_EVENTS, STORAGE, STORAGE_SNAPSHOTS, VISIBILITY_EVENTS
from assets.execution import DUCKDB_POOL, Progress, retried_when_transient, tell_of_day, told
from assets.metadata import LISTED_ROWS, MAX_DAYS_WITH_DETAIL
from assets.partitions import BACKFILL_POLICY, DAYS, SAME_DAYS, accepted_dagster_apis, days_of
from assets.storage_metadata import delivery_metadata, storage_metadata, timeline_metadata
from resources.storage_store import StorageStore
from resources.storage_usage_store import StorageUsageStore
from resources.timeline_reader import RepositoryTimeline, RepositoryUnknownError, TimelineReader

SNAPSHOTS_KEY = "core/storage_snapshots"
OBJECT_EVENTS_KEY = "core/object_events"
VISIBILITY_EVENTS_KEY = "core/visibility_events"
STORAGE_KEY = "usage/storage"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Delivered:
    """A dataset of delivered files, as its page describes it."""

    key: str
    columns: dg.TableSchema
    description: str


_DELIVERED = (
    _Delivered(
        key=SNAPSHOTS_KEY,
        columns=STORAGE_SNAPSHOTS,
        description=(
            "Size of every repository at the instants of its snapshots: S3 Inventory, a listing, or a ready table.\n\n"
            "A snapshot that lacks a file, fails its checksum, shrinks or grows beyond its bound is refused or held with its "
            "reason; it never becomes a small bill."
        ),
    ),
    _Delivered(
        key=OBJECT_EVENTS_KEY,
        columns=OBJECT_EVENTS,
        description=(
            "Changes of objects between snapshots, from CloudTrail S3 data events.\n\n"
            "A stream of hints: copies, completed uploads and deletes carry no size. What cannot be sized waits for the "
            "next snapshot and is reported. Where a digest chain is delivered it is verified, and a listed log file that is "
            "missing holds the day."
        ),
    ),
    _Delivered(
        key=VISIBILITY_EVENTS_KEY,
        columns=VISIBILITY_EVENTS,
        description="When repositories became public, private, or somebody else's.",
    ),
)


class Shown(dg.Config):
    """What the page of a day shows."""

    repository: str = Field(
        default="", description="Whose timeline is drawn; the day's biggest repository when it is empty."
    )


def delivered_storage_assets() -> tuple[dg.AssetsDefinition, ...]:
    """Return the assets of delivered files, partitioned by delivery day."""
    return tuple(_delivered_asset(one) for one in _DELIVERED)


def _delivered_asset(delivered: _Delivered) -> dg.AssetsDefinition:
    key = delivered.key
    with accepted_dagster_apis():

        @dg.asset(
            key=key.split("/"),
            partitions_def=DAYS,
            backfill_policy=BACKFILL_POLICY,
            pool=DUCKDB_POOL,
            group_name="ingest",
            kinds={"duckdb", "parquet"},
            owners=["team:usage"],
            tags={"layer": "core", "partition": "delivery_day"},
            code_version=code_version(),
            description=delivered.description
            + "\n\nA partition is a **delivery day**. Kept in the lake, one immutable file per generation.",
            metadata={
                "dagster/column_schema": delivered.columns,
                "manifest": dg.MetadataValue.text("core.source_file"),
                "quarantine": dg.MetadataValue.text("core.quarantine"),
            },
        )
        def delivered_files(
            context: dg.AssetExecutionContext,
            storage_store: dg.ResourceParam[StorageStore],
            progress: dg.ResourceParam[Progress],
        ) -> dg.MaterializeResult[None]:
            days = days_of(context.partition_keys)
            with retried_when_transient():
                now = datetime.now(UTC)
                if key == SNAPSHOTS_KEY:
                    storage_store.take_listings(now=now)
                storage_store.discover(seen_at=now)
                ingests = storage_store.ingest_days(
                    key,
                    days,
                    run_id=context.run.run_id,
                    code_version=code_version(),
                    on_progress=told(context, key, progress),
                )
            in_detail = len(days) <= MAX_DAYS_WITH_DETAIL
            for ingest in ingests:
                tell_of_day(context, key, ingest.day, delivery_metadata(ingest, in_detail=in_detail))
            return dg.MaterializeResult()

    return delivered_files


def storage_asset() -> dg.AssetsDefinition:
    """Return the asset."""
    with accepted_dagster_apis():

        @dg.asset(
            key=STORAGE_KEY.split("/"),
            deps=[
                *(dg.AssetDep(one.key.split("/"), partition_mapping=SAME_DAYS) for one in _DELIVERED),
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
                "Byte-seconds per account, meter and hour, from each repository's timeline of size, visibility and owner.\n\n"
                "Snapshots anchor a timeline, events tell what happened in between; before the first snapshot the state is "
                "carried back, with the events undone. What a snapshot finds different is drift, stored and checked. Without a "
                "snapshot the last state is carried forward, up to the age that the source allows; then the day is held.\n\n"
                "The page of a day draws a week of its biggest repository, or of the `repository` in the run's config. "
                "Timelines: `usage.storage_state`, `billing timeline REPOSITORY`. GB-months come out of rating, over each "
                "subscriber's own period."
            ),
            metadata={
                "dagster/column_schema": STORAGE,
                "dagster/table_name": "usage.storage",
                "timelines": dg.MetadataValue.text("usage.storage_state"),
                "drift": dg.MetadataValue.text("usage.storage_drift"),
                "builds": dg.MetadataValue.text("usage.build"),
            },
        )
        def storage(
            context: dg.AssetExecutionContext,
            config: Shown,
            storage_usage_store: dg.ResourceParam[StorageUsageStore],
            timelines: dg.ResourceParam[TimelineReader],
            progress: dg.ResourceParam[Progress],
        ) -> dg.MaterializeResult[None]:
            days = days_of(context.partition_keys)
            with retried_when_transient():
                builds = storage_usage_store.build_days(
                    days,
                    run_id=context.run.run_id,
                    code_version=code_version(),
                    on_progress=told(context, STORAGE_KEY, progress),
                )
            in_detail = len(builds) <= MAX_DAYS_WITH_DETAIL
            for build in builds:
                metadata = storage_metadata(build, in_detail=in_detail)
                if in_detail:
                    drifts = timelines.drifts_of(build.day, limit=LISTED_ROWS)
                    metadata |= timeline_metadata(_timeline(timelines, build.day, config.repository), drifts)
                tell_of_day(context, STORAGE_KEY, build.day, metadata)
            return dg.MaterializeResult()

    return storage


def _timeline(timelines: TimelineReader, day: date, repository: str) -> RepositoryTimeline | str | None:
    """Return the timeline to show, or why there is none: the day is built all the same."""
    try:
        return timelines.week_to(day, repository or None)
    except RepositoryUnknownError as error:
        return error.what
