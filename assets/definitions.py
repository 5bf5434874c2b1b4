"""The code location: every asset, check, job, schedule and sensor, wired to its resources.

`build_defs` wires what it is given. `defs` is what Dagster loads (workspace.yaml); it reads the environment when the location
is loaded, and never opens a connection. Importing this module does neither.
"""

import os
from pathlib import Path

import dagster as dg

from assets.alert_channels import all_channels
from assets.alerts import Alerts, Conditions, alert_on_conditions, alert_on_failure
from assets.asset_checks import StoredVerdicts, Verdicts, guard_checks
from assets.backtest import backtest, backtest_asset
from assets.billing import billing_assets
from assets.catalog import catalog_assets
from assets.entitlements import allowances_asset, watch_limits, watch_limits_hourly
from assets.execution import Progress, no_progress
from assets.freshness import alert_on_skipped_day
from assets.invoicing import (
    compile_invoices,
    compile_invoices_hourly,
    finalize_invoices,
    finalize_invoices_daily,
    invoice_items_asset,
)
from assets.jobs import JOBS, build_yesterday
from assets.proposals import decide_proposal
from assets.reconciliation import reconcile_stripe, reconcile_stripe_daily, reconciliation_asset
from assets.requests import request_records_asset
from assets.retention import remove_unused, remove_unused_weekly
from assets.sensors import (
    new_deliveries,
    new_storage_deliveries,
    open_windows,
    stale_storage,
    stale_traffic,
    stale_usage,
    unbooked_usage,
)
from assets.storage import delivered_storage_assets, storage_asset
from assets.stripe_events import apply_stripe_events, stripe_events
from assets.stripe_sync import (
    stripe_sync_asset,
    sync_account,
    sync_schedule,
    sync_stripe,
    true_up_invoices,
    waiting_drafts,
)
from assets.traffic import traffic_asset, traffic_samples_asset
from assets.upkeep import list_storage, list_storage_daily, sweep_arrears, sweep_arrears_hourly
from assets.usage import api_requests_asset
from billing_pipeline.errors import BillingError
from resources.alerting.conditions import ConditionReader
from resources.alerting.desk import AlertDesk
from resources.alerting.policy import load_alert_policy
from resources.database import Database
from resources.invoicing.proposal_desk import ProposalDesk
from resources.settings import Settings
from resources.stores import Stores, open_stores


class DatabaseNotNamedError(BillingError):
    """The code location was loaded without a database."""


def build_defs(
    *,
    stores: Stores,
    catalog_dir: Path,
    verdicts: Verdicts,
    alerts: Alerts,
    alert_conditions: Conditions,
    progress: Progress = no_progress,
) -> dg.Definitions:
    """Return the definitions over these resources. Opens nothing."""
    return dg.Definitions(
        assets=[
            request_records_asset(),
            traffic_samples_asset(),
            *delivered_storage_assets(),
            catalog_assets(),
            api_requests_asset(),
            traffic_asset(),
            storage_asset(),
            billing_assets(),
            allowances_asset(),
            backtest_asset(),
            invoice_items_asset(),
            stripe_sync_asset(),
            reconciliation_asset(),
        ],
        asset_checks=list(guard_checks()),
        jobs=[
            *JOBS,
            remove_unused,
            list_storage,
            sweep_arrears,
            backtest,
            watch_limits,
            compile_invoices,
            finalize_invoices,
            decide_proposal,
            apply_stripe_events,
            sync_stripe,
            sync_account,
            true_up_invoices,
            reconcile_stripe,
        ],
        schedules=[
            build_yesterday,
            remove_unused_weekly,
            list_storage_daily,
            sweep_arrears_hourly,
            watch_limits_hourly,
            compile_invoices_hourly,
            finalize_invoices_daily,
            sync_schedule(stores.stripe_syncing.policy.every_minutes),
            reconcile_stripe_daily,
        ],
        sensors=[
            new_deliveries,
            open_windows,
            new_storage_deliveries,
            stale_usage,
            stale_traffic,
            stale_storage,
            unbooked_usage,
            stripe_events,
            waiting_drafts,
            alert_on_failure,
            alert_on_skipped_day,
            alert_on_conditions,
        ],
        # A step takes seconds, a process per step as long again.
        executor=dg.in_process_executor,
        resources={
            "request_store": stores.requests,
            "traffic_store": stores.traffic,
            "storage_store": stores.storage,
            "usage_store": stores.request_usage,
            "traffic_usage_store": stores.traffic_usage,
            "storage_usage_store": stores.storage_usage,
            "timelines": stores.timelines,
            "catalog_store": stores.catalog,
            "charge_store": stores.charges,
            "payment_store": stores.payments,
            "entitlement_store": stores.entitlements,
            "backtest_store": stores.backtests,
            "invoice_store": stores.invoices,
            "invoice_reader": stores.invoice_reader,
            "proposal_desk": ProposalDesk(proposals=stores.proposals, charges=stores.charges, invoices=stores.invoices),
            "stripe_following": stores.stripe_following,
            "reconciler": stores.reconciler,
            "stripe_syncing": stores.stripe_syncing,
            "stripe_sync_reader": stores.stripe_sync_reader,
            "builds": stores.builds,
            "retention": stores.retention,
            "catalog_dir": catalog_dir,
            "verdicts": verdicts,
            "progress": progress,
            "alerts": alerts,
            "alert_conditions": alert_conditions,
        },
    )


def defs_of(
    settings: Settings, database: Database, *, stores: Stores | None = None, progress: Progress = no_progress
) -> dg.Definitions:
    """Return the definitions of an installation.

    Raises:
        SourcesError, TrafficConfigError, StorageConfigError: sources.toml is missing, or one of these files is wrong.
        AlertPolicyError: alerts.toml is wrong. ChannelSettingsError: a way to people is set by halves.
    """
    policy = load_alert_policy(settings.catalog_dir)
    return build_defs(
        stores=stores or open_stores(settings, database),
        catalog_dir=settings.catalog_dir,
        verdicts=StoredVerdicts(database),
        alerts=AlertDesk(database=database, channels=all_channels(os.environ), muted=policy.muted),
        alert_conditions=ConditionReader(database=database, policy=policy),
        progress=progress,
    )


@dg.definitions
def defs() -> dg.Definitions:
    """Load the code location from the environment (see docs/architecture.md).

    Raises:
        DatabaseNotNamedError: BILLING_DATABASE_URL is not set.
    """
    settings = Settings.from_environment()
    if settings.billing_database_url is None:
        raise DatabaseNotNamedError(
            "BILLING_DATABASE_URL is not set, and the code location does not start a database by itself.",
            bill="Nothing was read or booked.",
            fix="Start Dagster with `billing dev` (make dev), which sets it, or set it to your PostgreSQL.",
        )
    return defs_of(settings, Database(settings.billing_database_url))
