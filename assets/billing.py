"""`billing/charges` and `billing/ledger`: usage of the periods that contain a day -> differences booked, in one step."""

from collections.abc import Iterator

import dagster as dg

from assets.catalog import PRICES_KEY, SUBSCRIPTIONS_KEY
from assets.code_version import code_version
from assets.columns import CHARGES, LEDGER
from assets.execution import Progress, retried_when_transient, told
from assets.metadata import MAX_DAYS_WITH_DETAIL, charges_metadata, ledger_metadata
from assets.partitions import BACKFILL_POLICY, DAYS, accepted_dagster_apis, days_of
from assets.storage import STORAGE_KEY
from assets.traffic import TRAFFIC_KEY
from assets.usage import KEY as USAGE_KEY
from resources.charge_store import ChargeStore

CHARGES_KEY = "billing/charges"
LEDGER_KEY = "billing/ledger"


def billing_assets() -> dg.AssetsDefinition:
    """Return both assets as one step: a charge and its postings are booked in one transaction or not at all."""
    with accepted_dagster_apis():

        @dg.multi_asset(
            name="billing",
            can_subset=False,
            backfill_policy=BACKFILL_POLICY,
            specs=[_charges_spec(), _ledger_spec()],
        )
        def billing(
            context: dg.AssetExecutionContext,
            charge_store: dg.ResourceParam[ChargeStore],
            progress: dg.ResourceParam[Progress],
        ) -> Iterator[dg.MaterializeResult[None]]:
            days = days_of(context.partition_keys)
            with retried_when_transient():
                bookings = charge_store.book_days(
                    days,
                    run_id=context.run.run_id,
                    code_version=code_version(),
                    on_progress=told(context, CHARGES_KEY, progress),
                )
            in_detail = len(days) <= MAX_DAYS_WITH_DETAIL
            for booking in bookings:
                day = booking.day.isoformat()
                charges = charges_metadata(booking, in_detail=in_detail)
                ledger = ledger_metadata(booking, in_detail=in_detail)
                context.add_asset_metadata(charges, asset_key=CHARGES_KEY.split("/"), partition_key=day)
                context.add_asset_metadata(ledger, asset_key=LEDGER_KEY.split("/"), partition_key=day)
            yield dg.MaterializeResult(asset_key=CHARGES_KEY.split("/"))
            yield dg.MaterializeResult(asset_key=LEDGER_KEY.split("/"))

    return billing


def _charges_spec() -> dg.AssetSpec:
    return dg.AssetSpec(
        CHARGES_KEY.split("/"),
        deps=[key.split("/") for key in (USAGE_KEY, TRAFFIC_KEY, STORAGE_KEY, PRICES_KEY, SUBSCRIPTIONS_KEY)],
        partitions_def=DAYS,
        group_name="rating",
        kinds={"python", "postgres"},
        owners=["team:billing"],
        tags={"layer": "billing", "partition": "event_day"},
        code_version=code_version(),
        description=(
            "What is owed, with the arithmetic.\n\n"
            "For a day, every subscription period that contains it is rated on all of its usage to date, and the difference "
            "to what is booked is booked as a further revision: a replay books nothing, a late file corrects the period, "
            "the order of days does not matter. Of a day that a guard holds, the last good usage is rated.\n\n"
            "Append-only. A charge is (subscription, price, billing period, group); `amount_minor` is the period to date in "
            "minor units, `delta_minor` what the revision adds."
        ),
        metadata={"dagster/column_schema": CHARGES, "dagster/table_name": "billing.charge_revision"},
    )


def _ledger_spec() -> dg.AssetSpec:
    return dg.AssetSpec(
        LEDGER_KEY.split("/"),
        deps=[CHARGES_KEY.split("/")],
        partitions_def=DAYS,
        group_name="rating",
        kinds={"python", "postgres"},
        owners=["team:billing"],
        tags={"layer": "billing", "partition": "event_day"},
        code_version=code_version(),
        description=(
            "Double entry of every charge revision that has a difference: receivable against revenue, zero-sum per "
            "transaction and currency, append-only. Written in the transaction that books the charges."
        ),
        metadata={"dagster/column_schema": LEDGER, "dagster/table_name": "billing.ledger_posting"},
    )
