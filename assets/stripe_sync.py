"""`invoicing/stripe_sync`: open invoices -> pending items and drafts at Stripe; and the true-up of drafts before they are final.

The sync runs at an interval (an hour, by default) and costs accounts that have not changed nothing; a sensor has all drafts that
wait brought up to date in one run. Not here: the work (resources/stripe_sync), what Stripe tells (stripe_events).
"""

from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg
from pydantic import Field

from assets.code_version import code_version
from assets.columns import STRIPE_SYNC
from assets.execution import retried_when_transient
from assets.invoicing import KEY as INVOICE_ITEMS_KEY
from assets.metadata import Metadata, markdown_table, numbers
from assets.run_history import plan_run
from resources.stripe_sync.credit_notes import CreditNoteOutcome, DueCreditNote
from resources.stripe_sync.sync_reader import SyncOverview, SyncReader
from resources.stripe_sync.sync_run import SyncReport
from resources.stripe_sync.sync_store import SyncState
from resources.stripe_sync.syncing import StripeSyncing
from resources.stripe_sync.true_up_run import TrueUpReport
from resources.stripe_sync.work import Worked

KEY = "invoicing/stripe_sync"
IN_STEP = "every_account_in_step"
NOTHING_REFUSED = "nothing_refused"
# The rates of Stripe are for the account, and each run keeps to them by itself: one at a time.
STRIPE_POOL = "stripe"
SECONDS_BEFORE_RETRY = 120.0
MAX_RETRIES = 3
_LISTED = 20


class StripeSyncConfig(dg.Config):
    """`accounts`: only these; empty: all that are due. `verify`: look at Stripe also for those that have not changed."""

    accounts: list[str] = Field(default_factory=list)
    verify: bool = False


def stripe_sync_asset() -> dg.AssetsDefinition:
    """Return the asset."""

    @dg.asset(
        key=KEY.split("/"),
        deps=[INVOICE_ITEMS_KEY.split("/")],
        pool=STRIPE_POOL,
        group_name="invoicing",
        kinds={"python", "postgres", "stripe"},
        owners=["team:billing"],
        tags={"layer": "invoicing"},
        code_version=code_version(),
        description=(
            "What Stripe holds of the open invoices: one pending item for each line, set to the books' total and never added; for "
            "accounts without a subscription there a draft of our own; and credit notes on invoices that are final there.\n\n"
            "Every write is an intent in PostgreSQL before it is a call, has a key of its own, and is read back. An account whose "
            "invoices have not changed costs no call. One that fails is a finding; the others go on. Without STRIPE_API_KEY "
            "nothing is sent.\n\n"
            "Run configuration: `accounts` syncs only these; `verify` looks at Stripe also for those that have not changed."
        ),
        metadata={"dagster/column_schema": STRIPE_SYNC, "dagster/table_name": "stripe.sync_account"},
        check_specs=[
            dg.AssetCheckSpec(
                IN_STEP,
                asset=KEY.split("/"),
                description="Stripe was seen to hold what is wanted, of every account that has a customer there.",
            ),
            dg.AssetCheckSpec(
                NOTHING_REFUSED,
                asset=KEY.split("/"),
                description="Stripe has refused no write that waits for a person.",
            ),
        ],
    )
    def stripe_sync(
        context: dg.AssetExecutionContext,
        config: StripeSyncConfig,
        stripe_syncing: dg.ResourceParam[StripeSyncing],
        stripe_sync_reader: dg.ResourceParam[SyncReader],
    ) -> Iterator[dg.MaterializeResult[None]]:
        report, problem = None, None
        if stripe_syncing.is_configured:
            with retried_when_transient():
                report = stripe_syncing.sync.run(
                    run_id=context.run.run_id, accounts=tuple(config.accounts) or None, verify=config.verify
                )
                notes = stripe_syncing.credit_notes.run(run_id=context.run.run_id)
            _tell(context, report, notes)
            problem = report.problem or notes.problem
        overview = stripe_sync_reader.overview()
        yield dg.MaterializeResult(
            metadata=_metadata(report, overview), check_results=[_in_step(overview), _nothing_refused(overview)]
        )
        if problem is not None:
            # What was done is done and shown; the rest waits for the retry, or for the next run.
            raise dg.RetryRequested(max_retries=MAX_RETRIES, seconds_to_wait=SECONDS_BEFORE_RETRY)

    return stripe_sync


sync_stripe = dg.define_asset_job(
    "sync_stripe",
    selection=dg.AssetSelection.assets(KEY.split("/")),
    description="Bring Stripe in step with the open invoices. Again: no call that writes.",
)


def sync_schedule(every_minutes: int) -> dg.ScheduleDefinition:
    """Return the schedule of the sync: five minutes before the interval is over, after invoices were compiled."""
    minutes = ",".join(str(minute) for minute in range(60) if minute % every_minutes == every_minutes - 5)
    return dg.ScheduleDefinition(
        name="sync_stripe_regularly",
        job=sync_stripe,
        cron_schedule="55 1 * * *" if every_minutes > 60 else f"{minutes} * * * *",
        execution_timezone="UTC",
        description="By `every_minutes` of stripe.toml. Accounts that have not changed cost nothing.",
    )


class OneAccountConfig(dg.Config):
    """`account`: whose invoices are brought to Stripe now."""

    account: str


@dg.op
def sync_one(
    context: dg.OpExecutionContext, config: OneAccountConfig, stripe_syncing: dg.ResourceParam[StripeSyncing]
) -> None:
    """Bring one account in step, as when its customer opens the bill. Waits for nobody else's sync: it makes a few calls."""
    outcome = stripe_syncing.sync.demand(config.account, run_id=context.run_id)
    context.add_output_metadata({"state": outcome.state.value, "calls_that_write": outcome.calls_that_write})
    if outcome.state is not SyncState.IN_STEP:
        raise dg.Failure(description=f"{config.account} is {outcome.state}: {outcome.problem}", allow_retries=False)


@dg.job(
    description="Bring one customer's invoices to Stripe now: run configuration names the account. Many at once, or within a "
    "minute, are one sync; an account that is in step costs no call that writes."
)
def sync_account() -> None:
    """Run the one step."""
    sync_one()


@dg.op(pool=STRIPE_POOL)
def bring_up_drafts(context: dg.OpExecutionContext, stripe_syncing: dg.ResourceParam[StripeSyncing]) -> None:
    """Bring every draft that waits up to date, and let go what may go."""
    with retried_when_transient():
        report = stripe_syncing.true_up.run(run_id=context.run_id)
    for one in report.outcomes:
        if one.problem is not None:
            context.log.warning(f"{one.invoice_id} of {one.account_id}: {one.outcome}: {one.problem}")
    context.add_output_metadata(_true_up_metadata(report))
    if report.problem is not None:
        raise dg.RetryRequested(max_retries=MAX_RETRIES, seconds_to_wait=SECONDS_BEFORE_RETRY)


@dg.job(
    description="Bring all renewals' drafts that wait up to date, and let go those that are right and whole. One run for all."
)
def true_up_invoices() -> None:
    """Run the one step."""
    bring_up_drafts()


@dg.sensor(
    name="waiting_drafts",
    job_name="true_up_invoices",
    minimum_interval_seconds=30,
    description="Requests one run for all drafts whose final figures are not there yet.",
)
def waiting_drafts(
    context: dg.SensorEvaluationContext, stripe_syncing: dg.ResourceParam[StripeSyncing]
) -> dg.SensorResult | dg.SkipReason:
    """Request a run unless nothing waits or one is on its way."""
    if not stripe_syncing.is_configured:
        return dg.SkipReason("STRIPE_API_KEY is not set: nothing is sent")
    if not stripe_syncing.true_up.is_due():
        return dg.SkipReason("no draft waits")
    plan = plan_run(context.instance, job=true_up_invoices.name, now=datetime.now(UTC))
    if not plan.requests:
        return dg.SkipReason("; ".join(plan.waiting))
    return dg.SensorResult(run_requests=list(plan.requests))


def _tell(
    context: dg.AssetExecutionContext, report: SyncReport, notes: Worked[DueCreditNote, CreditNoteOutcome]
) -> None:
    for note in notes.results:
        if note.problem is not None:
            context.log.error(f"{note.number} of {note.account_id}: {note.problem}")
        elif note.stripe_id is not None:
            context.log.info(f"{note.number} of {note.account_id} is {note.stripe_id} at Stripe")
    if report.problem is not None:
        context.log.error(f"{len(report.left_over)} accounts were not reached: {report.problem}")
    for one in report.failed:
        context.log.error(f"{one.account_id}: {one.problem}")


def _metadata(report: SyncReport | None, overview: SyncOverview) -> Metadata:
    metadata = numbers(
        {
            "dagster/row_count": sum(overview.by_state.values()),
            **{f"accounts_{state}": number for state, number in overview.by_state.items()},
            "waiting_drafts": overview.waiting_drafts,
            "findings": len(overview.findings),
            "dead_letters": overview.dead_letters,
        }
    )
    if overview.oldest_behind is not None:
        metadata["not_in_step_since"] = dg.MetadataValue.text(overview.oldest_behind.isoformat())
    if report is not None:
        metadata |= numbers(
            {
                "accounts_worked_on": len(report.outcomes),
                "accounts_unchanged": report.skipped,
                "accounts_left_over": len(report.left_over),
                "calls_that_read": report.reads,
                "calls_that_write": report.writes,
            }
        )
    return metadata


def _true_up_metadata(report: TrueUpReport) -> Metadata:
    counts: dict[str, int] = {}
    for one in report.outcomes:
        counts[one.outcome] = counts.get(one.outcome, 0) + 1
    metadata = numbers(
        {
            **{f"drafts_{outcome}": number for outcome, number in counts.items()},
            "drafts_left_over": len(report.left_over),
            "calls_that_read": report.calls.reads,
            "calls_that_write": report.calls.writes,
        }
    )
    metadata["not_right"] = markdown_table(
        ("invoice", "account", "what", "why"),
        [(one.invoice_id, one.account_id, one.outcome, one.problem) for one in report.outcomes if one.problem][
            :_LISTED
        ],
    )
    return metadata


def _in_step(overview: SyncOverview) -> dg.AssetCheckResult:
    rows = [(one.kind, one.subject, one.message) for one in overview.findings[:_LISTED]]
    return dg.AssetCheckResult(
        check_name=IN_STEP,
        passed=not overview.findings,
        severity=dg.AssetCheckSeverity.ERROR,
        description="Stripe holds what is wanted."
        if not overview.findings
        else f"{len(overview.findings)} findings (see the table). For the bill: what they name is not at Stripe yet, or cannot be; "
        "everybody else's is. To fix: docs/stripe.md says of each kind what to do.",
        metadata={"findings": markdown_table(("kind", "subject", "what"), rows)},
    )


def _nothing_refused(overview: SyncOverview) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=NOTHING_REFUSED,
        passed=overview.dead_letters == 0,
        severity=dg.AssetCheckSeverity.ERROR,
        description="Stripe has refused nothing."
        if overview.dead_letters == 0
        else f"Stripe has refused {overview.dead_letters} writes. For the bill: these changes are not at Stripe. To fix: see "
        "`billing dead-letters`, correct what is wrong, and let them be tried again with `billing retry`.",
        metadata={"dead_letters": dg.MetadataValue.int(overview.dead_letters)},
    )
