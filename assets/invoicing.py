"""`invoicing/items`: what is booked and what people added -> the open invoices of every account, or of those asked for.

Also the job that makes invoices final where the policy says so. Not here: the rules (billing_pipeline.invoicing), deciding a
proposal (proposals), sending invoices to Stripe (stripe sync).
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import dagster as dg
from pydantic import Field

from assets.billing import CHARGES_KEY, LEDGER_KEY
from assets.catalog import SUBSCRIPTIONS_KEY
from assets.code_version import code_version
from assets.columns import INVOICE_ITEMS
from assets.execution import Progress, retried_when_transient
from assets.metadata import Metadata, markdown_table, numbers
from assets.proposals import proposal_table
from resources.invoicing.drafts import Drafted
from resources.invoicing.invoice_reader import Disagreement, InvoiceReader, Overview
from resources.invoicing.invoice_store import InvoiceStore
from resources.invoicing.proposal_desk import ProposalDesk
from resources.invoicing.proposal_store import Proposal

KEY = "invoicing/items"
AGREES = "invoices_equal_ledger"
COMPILED = "every_account_compiled"
# Of what a check's evaluation is: a run for some accounts says nothing of the others.
CHECKED = "checked"
ALL_ACCOUNTS = "all accounts"
_LISTED = 20


class InvoicingConfig(dg.Config):
    """`accounts`: only these; empty: all."""

    accounts: list[str] = Field(default_factory=list)


def invoice_items_asset() -> dg.AssetsDefinition:
    """Return the asset."""

    @dg.asset(
        key=KEY.split("/"),
        deps=[key.split("/") for key in (CHARGES_KEY, LEDGER_KEY, SUBSCRIPTIONS_KEY)],
        group_name="invoicing",
        kinds={"python", "postgres"},
        owners=["team:billing"],
        tags={"layer": "invoicing"},
        code_version=code_version(),
        description=(
            "The lines of every invoice: usage, fees, one-off items, adjustments, corrections.\n\n"
            "Drafts follow the books; a final invoice never changes: what is found later is a line of the next one, with the "
            "old period, or a credit note. Compiling again writes nothing that is the same. `part_of` is null for the lines "
            "that a customer sees: an invoice is their sum, and the sum of the lines with `part_count` 0.\n\n"
            "Run configuration: `accounts` compiles only these, say for a customer who looks at the bill."
        ),
        metadata={"dagster/column_schema": INVOICE_ITEMS, "dagster/table_name": "invoicing.item"},
        check_specs=[
            dg.AssetCheckSpec(
                AGREES,
                asset=KEY.split("/"),
                description="Of every account, the ledger's receivable is what its invoices come to, less credit notes.",
            ),
            dg.AssetCheckSpec(COMPILED, asset=KEY.split("/"), description="The books of every account make invoices."),
        ],
    )
    def items(
        context: dg.AssetExecutionContext,
        config: InvoicingConfig,
        invoice_store: dg.ResourceParam[InvoiceStore],
        invoice_reader: dg.ResourceParam[InvoiceReader],
        proposal_desk: dg.ResourceParam[ProposalDesk],
        progress: dg.ResourceParam[Progress],
    ) -> Iterator[dg.MaterializeResult[None]]:
        accounts = tuple(config.accounts) or None
        with retried_when_transient():
            done = invoice_store.compile_invoices(
                as_of=datetime.now(UTC),
                accounts=accounts,
                on_progress=lambda stage, number, total: progress(KEY, stage, number, total),
            )
            apart = invoice_reader.disagreements(accounts)
            if apart:
                # Booked since it was compiled: what is still apart afterwards is.
                some = [one.account_id for one in apart]
                invoice_store.compile_invoices(as_of=datetime.now(UTC), accounts=some)
                apart = invoice_reader.disagreements(accounts)
            overview = invoice_reader.overview()
            proposals = proposal_desk.waiting() if overview.proposals_waiting else ()
        for account_id, problem in done.failed.items():
            context.log.error(f"{account_id}: {problem}")
        checked = ", ".join(accounts) if accounts else ALL_ACCOUNTS
        yield dg.MaterializeResult(
            metadata=_metadata(done, overview, proposals),
            check_results=[_agrees(apart, checked), _compiled(done, checked)],
        )

    return items


def _metadata(done: Drafted, overview: Overview, proposals: Sequence[Proposal]) -> Metadata:
    metadata = numbers(
        {
            "dagster/row_count": sum(one.lines for one in overview.states),
            "accounts": done.accounts,
            "drafts_written": done.written,
            "drafts_unchanged": done.unchanged,
            "drafts_removed": done.removed,
            "credit_notes_issued": done.credits_issued,
            "accounts_failed": len(done.failed),
            "proposals_waiting": overview.proposals_waiting,
            **{f"total_minor_{one.total.currency}_{one.state}": one.total.minor_units for one in overview.states},
        }
    )
    metadata["states"] = markdown_table(
        ("state", "invoices", "lines", "total"),
        [(one.state.value, one.invoices, one.lines, str(one.total)) for one in overview.states],
    )
    metadata["biggest_invoices"] = markdown_table(
        ("invoice", "account", "subscription", "period", "state", "lines", "total"),
        [
            (
                row.name,
                row.key.account_id,
                row.key.subscription_id or "-",
                f"{row.key.period.start:%Y-%m-%d} to {row.key.period.end:%Y-%m-%d}",
                row.state.value,
                row.item_count,
                str(row.total),
            )
            for row in overview.biggest
        ],
    )
    if proposals:
        metadata["proposals"] = proposal_table(proposals)
    for name, amounts in (("not_on_any_invoice", overview.uninvoiced), ("credited", overview.credited)):
        if amounts:
            metadata[name] = dg.MetadataValue.text(", ".join(str(amount) for amount in amounts))
    return metadata


def _agrees(apart: tuple[Disagreement, ...], checked: str) -> dg.AssetCheckResult:
    rows = [(one.account_id, str(one.receivable), str(one.invoiced), str(one.missing)) for one in apart[:_LISTED]]
    return dg.AssetCheckResult(
        check_name=AGREES,
        passed=not apart,
        severity=dg.AssetCheckSeverity.ERROR,
        description="Every account's receivable is on its invoices."
        if not apart
        else f"{len(apart)} accounts have a receivable in the ledger that is not what their invoices come to (see the table). "
        "For the bill: these customers are charged the difference too little, or too much. To fix: materialize this asset "
        "again; if it stays, somebody wrote to the ledger or to invoicing by hand: find out who, and post the reverse.",
        metadata={CHECKED: checked, "apart": markdown_table(("account", "receivable", "invoiced", "missing"), rows)},
    )


def _compiled(done: Drafted, checked: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=COMPILED,
        passed=not done.failed,
        severity=dg.AssetCheckSeverity.ERROR,
        description="The books of every account make invoices."
        if not done.failed
        else f"{len(done.failed)} accounts could not be compiled. For the bill: their drafts are as they were, and follow the "
        "books no more. To fix: correct what the table names, and materialize this asset again.",
        metadata={
            CHECKED: checked,
            "failed": markdown_table(("account", "problem"), sorted(done.failed.items())[:_LISTED]),
        },
    )


compile_invoices = dg.define_asset_job(
    "compile_invoices",
    selection=dg.AssetSelection.assets(KEY.split("/")),
    description="Bring the open invoices up to date with the books. Again: nothing is written.",
)
compile_invoices_hourly = dg.ScheduleDefinition(
    name="compile_invoices_hourly",
    job=compile_invoices,
    cron_schedule="50 * * * *",
    execution_timezone="UTC",
    description="At 50 past every hour.",
)


@dg.op
def finalize_due_invoices(context: dg.OpExecutionContext, invoice_store: dg.ResourceParam[InvoiceStore]) -> None:
    """Make final what is due by the policy, whole and not held; what is not whole stays a draft."""
    with retried_when_transient():
        rows = invoice_store.finalize_due(now=datetime.now(UTC))
    for row in rows:
        context.log.info(f"{row.number}: {row.key.account_id}, {row.total}")
    context.add_output_metadata({"invoices_finalized": len(rows)})


@dg.job(
    description="Make invoices final that are due by `finalize.after_hours` of invoicing.toml, whole and not held. Invoices that "
    "Stripe makes final are left to it."
)
def finalize_invoices() -> None:
    """Run the one step."""
    finalize_due_invoices()


finalize_invoices_daily = dg.ScheduleDefinition(
    name="finalize_invoices_daily",
    job=finalize_invoices,
    cron_schedule="0 6 * * *",
    execution_timezone="UTC",
    description="At 06:00 UTC.",
)
