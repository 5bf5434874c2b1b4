"""`backtest/scenarios`: a draft catalog over stored usage -> what it would have charged, as a scenario. Charges nothing.

Materialized with a run config that names the draft's folder and the days; any number of scenarios. Not here: rating (resources).
"""

from datetime import date
from pathlib import Path

import dagster as dg

from assets.billing import CHARGES_KEY
from assets.code_version import code_version
from assets.columns import SCENARIOS
from assets.execution import retried_when_transient
from assets.metadata import markdown_table
from assets.plots import signed_bars
from billing_pipeline.amounts import Money
from billing_pipeline.backtest import AccountChange
from resources.backtest.backtest_store import BacktestStore
from resources.catalog_places import errors_placed
from resources.catalog_store import CatalogStore

KEY = "backtest/scenarios"
_LISTED = 20


class BacktestConfig(dg.Config):
    """The draft's folder, and the days whose billing periods are rated, both included, as YYYY-MM-DD."""

    catalog: str
    first_day: str
    last_day: str
    name: str = ""


def backtest_asset() -> dg.AssetsDefinition:
    """Return the asset."""

    @dg.asset(
        key=KEY.split("/"),
        deps=[CHARGES_KEY.split("/")],
        group_name="rating",
        kinds={"python", "postgres"},
        owners=["team:pricing"],
        tags={"layer": "backtest"},
        code_version=code_version(),
        description=(
            "What a draft catalog would have charged for history that is stored, beside what is booked: per account and charge, "
            "rated by the production code over the usage that is in PostgreSQL.\n\n"
            "Run `backtest` with the draft's folder and the days. Nothing is charged or booked; the same inputs are the same "
            "scenario, and what it was made of is kept with it."
        ),
        metadata={"dagster/column_schema": SCENARIOS, "dagster/table_name": "backtest.scenario"},
    )
    def scenarios(
        config: BacktestConfig,
        backtest_store: dg.ResourceParam[BacktestStore],
        catalog_store: dg.ResourceParam[CatalogStore],
    ) -> dg.MaterializeResult[None]:
        with retried_when_transient(), errors_placed(Path(config.catalog)):
            found = backtest_store.run(
                catalog_store.draft(Path(config.catalog)),
                first=date.fromisoformat(config.first_day),
                last=date.fromisoformat(config.last_day),
                name=config.name,
                code_version=code_version(),
            )
        scenario, comparison = found.scenario, found.comparison
        largest = sorted(comparison.accounts, key=lambda one: (-abs(one.delta.minor_units), one.account_id))[:_LISTED]
        return dg.MaterializeResult(
            metadata={
                "scenario": str(scenario.scenario_id),
                "draft_sha256": scenario.draft_sha256,
                "charges_rated": scenario.charges_rated,
                "charges_unaffected": scenario.charges_unaffected,
                "charges_changed": scenario.charges_changed,
                "accounts_concerned": scenario.accounts_concerned,
                "unbooked_days": scenario.unbooked_days,
                "together": _table(comparison.totals),
                "accounts": _table(largest),
                "differences": dg.MetadataValue.md(
                    signed_bars({one.account_id: one.delta.minor_units for one in largest[:10]}, title="difference")
                ),
            }
        )

    return scenarios


def _table(accounts: list[AccountChange] | tuple[AccountChange, ...]) -> dg.MetadataValue:
    rows = [
        (one.account_id or "all", str(one.before), str(one.after), _signed(one.delta), one.changed_charges)
        for one in accounts
    ]
    return markdown_table(("account", "booked", "draft", "difference", "charges that change"), rows)


def _signed(money: Money) -> str:
    return f"+{money}" if money.minor_units > 0 else str(money)


backtest = dg.define_asset_job(
    "backtest",
    selection=dg.AssetSelection.assets(KEY.split("/")),
    description="Rate stored history with a draft catalog. Config: catalog (folder), first_day, last_day, name.",
)
