"""`invoicing/reconciliation`: every invoice here beside what Stripe holds of it, read back, to the minor unit; and canaries.

A run compares as of now and keeps it under its day. Not here: the comparison (billing_pipeline.reconciliation), reading both sides
(resources/reconciliation), mending what differs (stripe sync).
"""

from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal

import dagster as dg

from assets.code_version import code_version
from assets.columns import RECONCILIATION
from assets.execution import retried_when_transient
from assets.invoicing import KEY as ITEMS_KEY
from assets.metadata import Metadata, markdown_table, numbers
from assets.partitions import DAYS
from assets.plots import signed_bars
from assets.stripe_sync import KEY as SYNC_KEY
from assets.stripe_sync import STRIPE_POOL
from billing_pipeline.invoicing.stripe_amounts import stripe_digits
from billing_pipeline.reconciliation import Agreement, Reconciled
from resources.reconciliation.reconciler import Reconciler, Reconciliation
from resources.reconciliation.standings import lag_seconds

KEY = "invoicing/reconciliation"
EQUAL = "stripe_equals_books"
IN_STEP = "customers_in_step"
CANARIES = "canaries_right"
LONGEST_LAG = timedelta(hours=26)
_LISTED = 20


def reconciliation_asset() -> dg.AssetsDefinition:
    """Return the asset."""

    @dg.asset(
        key=KEY.split("/"),
        deps=[ITEMS_KEY.split("/"), SYNC_KEY.split("/")],
        partitions_def=DAYS,
        pool=STRIPE_POOL,
        group_name="invoicing",
        kinds={"python", "postgres", "stripe"},
        owners=["team:billing"],
        tags={"layer": "invoicing"},
        code_version=code_version(),
        description=(
            "Every invoice, less its credit notes, beside what Stripe holds of it, line by line, in Stripe's minor units.\n\n"
            "Stripe is read back by lists: pending items, and invoices and credit notes since the oldest open period. "
            "`equal`; `behind`: it differs and "
            "the sync knows; `not_due`: nothing is sent before the renewal; `unlinked`: no customer; "
            "`drift`: it differs and nobody "
            "knows why. Looked at are drafts, and final invoices of the five weeks up to the day. Append-only."
        ),
        metadata={"dagster/column_schema": RECONCILIATION, "dagster/table_name": KEY.replace("/", ".")},
        check_specs=[
            dg.AssetCheckSpec(
                EQUAL, asset=KEY.split("/"), description="Stripe holds what was sent to it, to the minor unit."
            ),
            dg.AssetCheckSpec(
                IN_STEP, asset=KEY.split("/"), description="No customer is behind at Stripe for longer than 26 hours."
            ),
            dg.AssetCheckSpec(
                CANARIES, asset=KEY.split("/"), description="Bills that are known in advance are what was known."
            ),
        ],
    )
    def reconciliation(
        context: dg.AssetExecutionContext, reconciler: dg.ResourceParam[Reconciler]
    ) -> Iterator[dg.MaterializeResult[None]]:
        with retried_when_transient():
            found = reconciler.reconcile(context.partition_time_window.start.date(), run_id=context.run.run_id)
        yield dg.MaterializeResult(
            metadata=_metadata(found), check_results=[_equal(found), _in_step(found), _canaries(found)]
        )

    return reconciliation


def _metadata(found: Reconciliation) -> Metadata:
    metadata = numbers(
        {
            "dagster/row_count": len(found.rows),
            "stripe_invoices_read": found.invoices_read,
            **{f"invoices_{agreement.value}": len(found.of(agreement)) for agreement in Agreement},
            "longest_lag_seconds": max((lag for lag in _lags(found).values()), default=0),
            "canaries_wrong": sum(not one.is_right for one in found.canaries),
            **_differences(found),
        }
    )
    apart = [row for row in found.rows if row.drifts]
    if apart:
        apart.sort(key=lambda row: (row.agreement is not Agreement.DRIFT, -abs(row.difference), row.account_id))
        metadata["differences"] = markdown_table(_COLUMNS, [_cells(row) for row in apart[:_LISTED]])
        metadata["differences_plot"] = dg.MetadataValue.md(
            signed_bars(
                {f"{number} {row.account_id}": row.difference for number, row in enumerate(apart[:_LISTED], start=1)},
                title="Stripe holds too much (right), too little (left), in minor units",
            )
        )
    lags = sorted(_lags(found).items(), key=lambda one: (-one[1], one[0]))
    if lags:
        metadata["behind"] = markdown_table(
            ("customer", "not in step for", "since"),
            [
                (account_id, str(timedelta(seconds=lag)), str(found.standings[account_id].behind_since))
                for account_id, lag in lags[:_LISTED]
            ],
        )
    if found.unsendable:
        metadata["not_comparable"] = markdown_table(("account", "why"), sorted(found.unsendable.items())[:_LISTED])
    return metadata


_COLUMNS = ("account", "period", "state", "here", "at Stripe", "difference", "how", "line")


def _cells(row: Reconciled) -> tuple[str, ...]:
    invoice = row.invoice
    lines = ", ".join(f"{_short(drift.key)} {drift.difference:+}" for drift in row.drifts[:3])
    more = f" and {len(row.drifts) - 3} more" if len(row.drifts) > 3 else ""
    return (
        row.account_id,
        f"{invoice.period.start:%Y-%m-%d} to {invoice.period.end:%Y-%m-%d}" if invoice else "nothing here has it",
        invoice.state.value if invoice else "-",
        _money(row.ours, row.currency),
        _money(row.held, row.currency),
        _money(row.difference, row.currency),
        row.agreement.value,
        lines + more,
    )


def _short(key: str) -> str:
    """Return the first digits of a line's key, which is long; a credit note's number or id as it is."""
    return key[:8] if len(key) == 32 else key


def _money(amount: int, currency: str) -> str:
    digits = stripe_digits(currency)
    return f"{Decimal(amount).scaleb(-digits):,.{digits}f} {currency}"


def _differences(found: Reconciliation) -> dict[str, int]:
    """Return what drifts come to by currency, without their signs, so that two do not cancel out."""
    sums: dict[str, int] = {}
    for row in found.of(Agreement.DRIFT):
        name = f"drift_minor_{row.currency}"
        sums[name] = sums.get(name, 0) + sum(abs(drift.difference) for drift in row.drifts)
    return sums


def _lags(found: Reconciliation) -> dict[str, int]:
    lags = {
        account_id: lag_seconds(standing, now=found.compared_at) for account_id, standing in found.standings.items()
    }
    return {account_id: lag for account_id, lag in lags.items() if lag}


def _equal(found: Reconciliation) -> dg.AssetCheckResult:
    drifts = found.of(Agreement.DRIFT)
    passed = not drifts and not found.unsendable
    return dg.AssetCheckResult(
        check_name=EQUAL,
        passed=passed,
        severity=dg.AssetCheckSeverity.ERROR,
        description=f"{len(found.of(Agreement.EQUAL))} invoices are the same on both sides."
        if passed
        else f"{len(drifts)} invoices are not at Stripe what they are here, and {len(found.unsendable)} "
        "accounts cannot be compared "
        "(see the tables). For the bill: these customers are charged the difference too much or too little. "
        "To fix: look who "
        "changed the line at Stripe; `billing stripe-sync ACCOUNT` puts drafts right; of a final invoice give back the "
        "difference with `billing credit-note`, or charge it with `billing adjust`.",
        metadata={"drifts": markdown_table(_COLUMNS, [_cells(row) for row in drifts[:_LISTED]])},
    )


def _in_step(found: Reconciliation) -> dg.AssetCheckResult:
    late = {account_id: lag for account_id, lag in _lags(found).items() if lag > LONGEST_LAG.total_seconds()}
    return dg.AssetCheckResult(
        check_name=IN_STEP,
        passed=not late,
        severity=dg.AssetCheckSeverity.WARN,
        description="No customer is behind for longer than 26 hours."
        if not late
        else f"{len(late)} customers have been behind at Stripe for longer than 26 hours. For the bill: a "
        "renewal now would lack what "
        "was used since. To fix: see why the sync does not reach them (`billing stripe ACCOUNT`).",
        metadata={"late": markdown_table(("customer", "seconds"), sorted(late.items())[:_LISTED])},
    )


def _canaries(found: Reconciliation) -> dg.AssetCheckResult:
    wrong = [one for one in found.canaries if not one.is_right]
    if found.unknown_canaries:
        return dg.AssetCheckResult(
            check_name=CANARIES,
            passed=False,
            severity=dg.AssetCheckSeverity.ERROR,
            description=f"canary.toml names {', '.join(found.unknown_canaries)}, and the catalog has none such. For the bill: "
            "nobody's bill is watched over by it. To fix: correct the names in canary.toml, or take the block out.",
        )
    rows = [
        (
            one.canary.account_id,
            f"{one.period_start:%Y-%m-%d} to {one.period_end:%Y-%m-%d}",
            _money(one.expected, one.currency),
            "no invoice" if one.ours is None else _money(one.ours, one.currency),
            "not there" if one.held is None else _money(one.held, one.currency),
        )
        for one in found.canaries
    ]
    return dg.AssetCheckResult(
        check_name=CANARIES,
        passed=not wrong,
        severity=dg.AssetCheckSeverity.ERROR,
        description=f"{len(found.canaries)} bills were known in advance, and are what was known."
        if not wrong
        else f"{len(wrong)} bills that were known in advance came out otherwise. For the bill: what went "
        "wrong for the canary may have "
        "gone wrong for everybody. To fix: `billing explain` its charges before any invoice is let go.",
        metadata={"canaries": markdown_table(("account", "period", "known", "here", "at Stripe"), rows[:_LISTED])},
    )


reconcile_stripe = dg.define_asset_job(
    "reconcile_stripe",
    selection=dg.AssetSelection.assets(KEY.split("/")),
    description="Read Stripe back and compare it with the invoices here. Again: another look, kept beside the first.",
)


@dg.schedule(
    cron_schedule="0 7 * * *",
    execution_timezone="UTC",
    job=reconcile_stripe,
    description="At 07:00 UTC: yesterday, after the daily run and the sync.",
)
def reconcile_stripe_daily(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """Request yesterday's run, once."""
    yesterday = (context.scheduled_execution_time - timedelta(days=1)).date().isoformat()
    return dg.RunRequest(run_key=yesterday, partition_key=yesterday)
