"""`catalog/prices` and `catalog/subscriptions`: the catalog's files in git -> versioned rows in PostgreSQL, in one load."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from assets.code_version import code_version
from assets.columns import PRICES, SUBSCRIPTIONS
from assets.execution import retried_when_transient
from assets.metadata import catalog_metadata
from resources.catalog_store import CatalogStore

PRICES_KEY = "catalog/prices"
SUBSCRIPTIONS_KEY = "catalog/subscriptions"


def catalog_assets() -> dg.AssetsDefinition:
    """Return both assets as one step: either the whole folder is loaded or nothing of it."""

    @dg.multi_asset(
        name="catalog",
        can_subset=False,
        specs=[
            dg.AssetSpec(
                PRICES_KEY.split("/"),
                group_name="catalog",
                kinds={"toml", "postgres"},
                owners=["team:pricing"],
                tags={"layer": "catalog"},
                code_version=code_version(),
                description=(
                    "What things cost: meters, prices with effective dates, plans, the rule of what is billable.\n\n"
                    "The files in git are the truth. A load checks all of them first and refuses gaps, overlaps and an "
                    "edit of a version that charges rest on; every version that was ever loaded is kept."
                ),
                metadata={"dagster/column_schema": PRICES, "dagster/table_name": "catalog.price"},
            ),
            dg.AssetSpec(
                SUBSCRIPTIONS_KEY.split("/"),
                group_name="catalog",
                kinds={"toml", "postgres"},
                owners=["team:pricing"],
                tags={"layer": "catalog"},
                code_version=code_version(),
                description=(
                    "Who pays for what: accounts with their clients, time zone and currency, and subscriptions with the "
                    "instant that anchors their billing periods. Loaded together with the prices."
                ),
                metadata={"dagster/column_schema": SUBSCRIPTIONS, "dagster/table_name": "catalog.subscription"},
            ),
        ],
    )
    def catalog(
        catalog_store: dg.ResourceParam[CatalogStore], catalog_dir: dg.ResourceParam[Path]
    ) -> Iterator[dg.MaterializeResult[None]]:
        with retried_when_transient():
            load = catalog_store.load(catalog_dir)
            loaded = catalog_store.current()
        rows = {
            PRICES_KEY: sum(len(price.versions) for price in loaded.prices.values()),
            SUBSCRIPTIONS_KEY: len(loaded.subscriptions),
        }
        for key, row_count in rows.items():
            yield dg.MaterializeResult(
                asset_key=key.split("/"),
                metadata=catalog_metadata(load, folder=str(catalog_dir), row_count=row_count),
            )

    return catalog
