"""Ask which event days' usage is older than what it is made of, and which are not in the books as they are built.

Not here: why (the stores of usage, charge_store), building and booking them (runs).
"""

from collections.abc import Callable, Mapping
from datetime import date

from assets.storage import STORAGE_KEY
from assets.traffic import TRAFFIC_KEY
from assets.usage import KEY as REQUESTS_KEY
from resources.catalog_store import CatalogNotLoadedError
from resources.stores import Stores


def due_days(stores: Stores, usage_asset: str) -> tuple[date, ...]:
    """Return the event days whose files or rules changed since that usage was last built, in order; none before a catalog
    is loaded, which the first materialization does."""
    stale: Mapping[str, Callable[[], tuple[date, ...]]] = {
        REQUESTS_KEY: stores.request_usage.stale_days,
        TRAFFIC_KEY: stores.traffic_usage.stale_days,
        STORAGE_KEY: stores.storage_usage.stale_days,
    }
    try:
        return stale[usage_asset]()
    except CatalogNotLoadedError:
        return ()


def unbooked_days(stores: Stores) -> tuple[date, ...]:
    """Return the event days that are built and not booked as they are built, or with another catalog, in order."""
    try:
        return stores.charges.unbooked_days()
    except CatalogNotLoadedError:
        return ()
