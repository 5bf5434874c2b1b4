"""`core/request_records`: delivered log files of a day -> accepted records in the lake, refused lines in quarantine."""

from datetime import UTC, datetime

import dagster as dg

from assets.code_version import code_version
from assets.columns import REQUEST_RECORDS
from assets.execution import DUCKDB_POOL, Progress, retried_when_transient, told
from assets.metadata import MAX_DAYS_WITH_DETAIL, ingest_metadata
from assets.partitions import BACKFILL_POLICY, DAYS, accepted_dagster_apis, days_of
from resources.request_store import RequestStore

KEY = "core/request_records"


def request_records_asset() -> dg.AssetsDefinition:
    """Return the asset."""
    with accepted_dagster_apis():

        @dg.asset(
            key=KEY.split("/"),
            partitions_def=DAYS,
            backfill_policy=BACKFILL_POLICY,
            pool=DUCKDB_POOL,
            group_name="ingest",
            kinds={"duckdb", "parquet"},
            owners=["team:usage"],
            tags={"layer": "core", "partition": "delivery_day"},
            code_version=code_version(),
            description=(
                "API requests as they were delivered, one row per accepted log line, in canonical form and without "
                "personal data.\n\n"
                "A partition is a **delivery day**: every file that arrived on it, whatever day its requests happened. "
                "Each file obeys *lines read = accepted + rejected + duplicate + out of scope*; refused lines are in "
                "`core.quarantine` with reason and position. A file that was read before is not read again; one with a "
                "known name and other content is held and reported.\n\n"
                "Kept in the lake (Parquet, one immutable file per generation); `core.lake_partition` points at the "
                "generation that counts."
            ),
            metadata={
                "dagster/column_schema": REQUEST_RECORDS,
                "manifest": dg.MetadataValue.text("core.source_file"),
                "quarantine": dg.MetadataValue.text("core.quarantine"),
            },
        )
        def request_records(
            context: dg.AssetExecutionContext,
            request_store: dg.ResourceParam[RequestStore],
            progress: dg.ResourceParam[Progress],
        ) -> dg.MaterializeResult[None]:
            days = days_of(context.partition_keys)
            with retried_when_transient():
                request_store.discover(seen_at=datetime.now(UTC))
                ingests = request_store.ingest_days(
                    days,
                    run_id=context.run.run_id,
                    code_version=code_version(),
                    on_progress=told(context, KEY, progress),
                )
            in_detail = len(days) <= MAX_DAYS_WITH_DETAIL
            for ingest in ingests:
                context.add_asset_metadata(
                    ingest_metadata(ingest, in_detail=in_detail), partition_key=ingest.day.isoformat()
                )
            return dg.MaterializeResult()

    return request_records
