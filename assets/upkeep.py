"""What is done by the clock beside the assets: list storage once a day, suspend who is in arrears too long, every hour."""

from datetime import UTC, datetime

import dagster as dg

from assets.execution import retried_when_transient
from resources.payment_store import PaymentStore
from resources.storage_store import StorageStore


@dg.op
def take_storage_listings(context: dg.OpExecutionContext, storage_store: dg.ResourceParam[StorageStore]) -> None:
    """List every bucket or folder that is to be listed and has no listing of today; the listing is a delivery like others."""
    with retried_when_transient():
        listings = storage_store.take_listings(now=datetime.now(UTC))
    for one in listings:
        context.log.info(f"{one.source}: {one.objects:,} objects, {one.total_bytes:,} bytes, as {one.manifest_key}")
    context.add_output_metadata(
        {
            "listings": len(listings),
            "objects": sum(one.objects for one in listings),
            "bytes": sum(one.total_bytes for one in listings),
        }
    )


@dg.job(description="List the storage places of storage.toml that are to be listed. Again on the same day: nothing.")
def list_storage() -> None:
    """Run the one step."""
    take_storage_listings()


@dg.op
def suspend_or_restore(context: dg.OpExecutionContext, payment_store: dg.ResourceParam[PaymentStore]) -> None:
    """Suspend accounts that are 14 days in arrears, make active who is no more."""
    with retried_when_transient():
        changes = payment_store.sweep_arrears(now=datetime.now(UTC))
    for one in changes:
        context.log.info(f"{one.account_id}: {one.suspend_state} ({one.cause})")
    context.add_output_metadata({"accounts_changed": len(changes)})


@dg.job(description="Suspend accounts that are 14 days in arrears, and make active who is no more. Again: nothing.")
def sweep_arrears() -> None:
    """Run the one step."""
    suspend_or_restore()


list_storage_daily = dg.ScheduleDefinition(
    name="list_storage_daily",
    job=list_storage,
    cron_schedule="5 0 * * *",
    execution_timezone="UTC",
    description="At 00:05 UTC, before the daily run.",
)
sweep_arrears_hourly = dg.ScheduleDefinition(
    name="sweep_arrears_hourly",
    job=sweep_arrears,
    cron_schedule="20 * * * *",
    execution_timezone="UTC",
    description="At 20 past every hour.",
)
