"""The current catalog, restored once per process and catalog: one account's step costs what the account does, not what all do.

A catalog of 10,000 subscriptions takes about a second to restore; which one is current is one row. Loading: catalog_store.
"""

from collections import OrderedDict
from threading import Lock

import psycopg

from billing_pipeline.catalog import Catalog
from resources.catalog_store import current_catalog

# The one that is current, and the one before while a load goes on.
_KEPT = 2


class _Known:
    """Catalogs by their digest, the newest used last."""

    def __init__(self) -> None:
        self._catalogs: OrderedDict[str, Catalog] = OrderedDict()
        self._lock = Lock()

    def get(self, sha256: str) -> Catalog | None:
        with self._lock:
            found = self._catalogs.get(sha256)
            if found is not None:
                self._catalogs.move_to_end(sha256)
            return found

    def put(self, catalog: Catalog) -> None:
        with self._lock:
            self._catalogs[catalog.sha256] = catalog
            while len(self._catalogs) > _KEPT:
                self._catalogs.popitem(last=False)


_known = _Known()


def known_catalog(connection: psycopg.Connection) -> Catalog:
    """Return the catalog that is current in this transaction.

    Raises:
        CatalogNotLoadedError: none was loaded.
    """
    row = connection.execute(
        "select catalog_sha256 from catalog.activation order by activation desc limit 1"
    ).fetchone()
    sha256 = None if row is None else str(row[0])
    found = None if sha256 is None else _known.get(sha256)
    if found is None:
        found = current_catalog(connection)
        # Kept by its own digest only: what a row says of it is not taken for granted.
        if found.sha256 == sha256:
            _known.put(found)
    return found
