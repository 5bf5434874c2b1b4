"""The code location: every asset, check, job, schedule and sensor, wired to its resources.

`build_defs` wires what it is given. `defs` is what Dagster loads (workspace.yaml); it reads the environment when the location
is loaded, and never opens a connection. Importing this module does neither.
"""

import os
import secrets
from pathlib import Path

import dagster as dg

from assets.alerts import Alerts, LogAlerts, alert_on_failure
from assets.asset_checks import StoredVerdicts, Verdicts, guard_checks
from assets.billing import billing_assets
from assets.catalog import catalog_assets
from assets.execution import Progress, no_progress
from assets.jobs import JOBS, build_yesterday
from assets.requests import request_records_asset
from assets.retention import remove_unused, remove_unused_weekly
from assets.sensors import new_deliveries, stale_usage, unbooked_usage
from assets.usage import api_requests_asset
from billing_pipeline.errors import BillingError
from resources.catalog_store import CatalogStore
from resources.charge_store import ChargeStore
from resources.database import Database
from resources.lake import Lake
from resources.landing import Landing
from resources.request_store import RequestStore
from resources.retention import Retention
from resources.settings import Settings
from resources.source_config import load_sources
from resources.usage_store import UsageStore


class DatabaseNotNamedError(BillingError):
    """The code location was loaded without a database."""


def build_defs(
    *,
    request_store: RequestStore,
    usage_store: UsageStore,
    catalog_store: CatalogStore,
    charge_store: ChargeStore,
    catalog_dir: Path,
    verdicts: Verdicts,
    retention: Retention,
    progress: Progress = no_progress,
    alerts: Alerts | None = None,
) -> dg.Definitions:
    """Return the definitions over these resources. Opens nothing."""
    return dg.Definitions(
        assets=[request_records_asset(), catalog_assets(), api_requests_asset(), billing_assets()],
        asset_checks=list(guard_checks()),
        jobs=[*JOBS, remove_unused],
        schedules=[build_yesterday, remove_unused_weekly],
        sensors=[new_deliveries, stale_usage, unbooked_usage, alert_on_failure],
        # A step takes seconds, a process per step as long again.
        executor=dg.in_process_executor,
        resources={
            "request_store": request_store,
            "usage_store": usage_store,
            "catalog_store": catalog_store,
            "charge_store": charge_store,
            "catalog_dir": catalog_dir,
            "verdicts": verdicts,
            "retention": retention,
            "progress": progress,
            "alerts": alerts or LogAlerts(),
        },
    )


def defs_of(settings: Settings, database: Database, *, progress: Progress = no_progress) -> dg.Definitions:
    """Return the definitions of an installation.

    Raises:
        SourcesError: sources.toml is missing or wrong.
    """
    lake = Lake(settings.lake_url, settings.scratch_dir)
    request_store = RequestStore(
        database,
        lake,
        Landing(settings.landing_url, settings.scratch_dir),
        load_sources(settings.catalog_dir),
        settings.scratch_dir,
        pseudonym_key(settings.pseudonym_key_file),
    )
    return build_defs(
        request_store=request_store,
        usage_store=UsageStore(
            database=database,
            lake=lake,
            scratch_dir=settings.scratch_dir,
            expectations=request_store.expected_hours,
        ),
        catalog_store=CatalogStore(database),
        charge_store=ChargeStore(database),
        catalog_dir=settings.catalog_dir,
        verdicts=StoredVerdicts(database),
        retention=Retention(database=database, lake=lake, scratch_dir=settings.scratch_dir),
        progress=progress,
    )


def pseudonym_key(file: Path) -> bytes:
    """Return the key that pseudonyms are made with: BILLING_PSEUDONYM_KEY, or the file's, made at the first call.

    With another key the same client gets another name, so the file belongs into the backup of an installation.
    """
    given = os.environ.get("BILLING_PSEUDONYM_KEY")
    if given:
        return given.encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(f".{os.getpid()}.tmp")
    if not file.exists():
        draft.touch(mode=0o600)
        draft.write_text(secrets.token_hex(32))
        try:
            # Of several processes that start at once the first one's key stays.
            os.link(draft, file)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return file.read_text().strip().encode()


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
