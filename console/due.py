"""Ask which event days' usage is older than what it is made of, and which are not in the books as they are built.

Not here: why (usage_store, charge_store), building and booking them (runs).
"""

from datetime import date

from resources.catalog_store import CatalogNotLoadedError
from resources.charge_store import ChargeStore
from resources.lake import Lake
from resources.runtime import Runtime
from resources.usage_store import UsageStore


def due_days(runtime: Runtime) -> tuple[date, ...]:
    """Return the event days whose files or rules changed since they were last built, in order; none before a catalog is
    loaded, which the first materialization does."""
    settings = runtime.settings
    lake = Lake(settings.lake_url, settings.scratch_dir)
    try:
        return UsageStore(database=runtime.database, lake=lake, scratch_dir=settings.scratch_dir).stale_days()
    except CatalogNotLoadedError:
        return ()


def unbooked_days(runtime: Runtime) -> tuple[date, ...]:
    """Return the event days that are built and not booked as they are built, or with another catalog, in order."""
    try:
        return ChargeStore(runtime.database).unbooked_days()
    except CatalogNotLoadedError:
        return ()
