"""Run the sync or the true-up from a terminal and print what came of it; print dead letters and let one through.

Not here: the work (resources/stripe_sync).
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from rich.console import Console
from rich.markup import escape

from billing_pipeline.errors import BillingError
from console.screen import count, notes, page, table
from resources.invoicing.invoice_store import InvoiceStore
from resources.invoicing.policy_file import load_invoicing_policy
from resources.runtime import running
from resources.settings import Settings
from resources.stripe_sync import intent_store
from resources.stripe_sync.account_sync import AccountOutcome
from resources.stripe_sync.credit_notes import CreditNoteOutcome, DueCreditNote
from resources.stripe_sync.intent_store import DeadLetter
from resources.stripe_sync.policy_file import load_sync_policy
from resources.stripe_sync.sync_run import SyncReport
from resources.stripe_sync.sync_store import SyncState
from resources.stripe_sync.syncing import StripeSyncing, stripe_syncing
from resources.stripe_sync.true_up_run import TrueUpReport
from resources.stripe_sync.work import Worked


class SyncIncompleteError(BillingError):
    """Some accounts are not in step after the run."""


def run_sync(settings: Settings, account_id: str | None, *, verify: bool) -> None:
    """Sync all accounts that are due, or one now, and print how they stand.

    Raises:
        SyncIncompleteError: somebody is not in step.
        AccountNotLinkedError, StripeKeyError, StripeUnavailableError, StripeDeniedError: nothing could be done.
    """
    with _syncing(settings) as syncing:
        if account_id is not None:
            outcome = syncing.sync.demand(account_id, run_id=_run_id())
            print_outcomes(page(), [outcome])
            _refuse_incomplete([outcome], left_over=0)
            return
        report = syncing.sync.run(run_id=_run_id(), verify=verify)
        print_report(page(), report)
        print_credit_notes(page(), syncing.credit_notes.run(run_id=_run_id()))
        _refuse_incomplete(report.outcomes, left_over=len(report.left_over))


def preview_sync(settings: Settings, account_id: str | None) -> None:
    """Print the exact calls that a sync would make. Nothing is written, at Stripe or here. Raises as `run_sync`."""
    with _syncing(settings, read_only=True) as syncing:
        found = syncing.sync.preview(None if account_id is None else [account_id])
        console, total = page(), 0
        for one, writes in found:
            if isinstance(writes, str):
                console.print(f"[yellow]{escape(one)}[/]: {escape(writes)}")
                continue
            for write in writes:
                console.print(f"{escape(one)}: {escape(str(write.call))}", highlight=False, soft_wrap=True)
            total += len(writes)
        notes().print(f"{count(total)} calls would be made; none was")


def run_true_up(settings: Settings) -> None:
    """Bring all drafts that wait up to date and print what became of them. Raises as `run_sync`."""
    with _syncing(settings) as syncing:
        print_true_up(page(), syncing.true_up.run(run_id=_run_id()))


def show_dead_letters(settings: Settings, account_id: str | None) -> None:
    """Print the writes that Stripe has refused."""
    with running(settings) as runtime, runtime.database.reading() as connection:
        print_dead_letters(page(), intent_store.dead_letters(connection, account_id=account_id))


def retry_dead_letter(settings: Settings, digits: str, *, actor: str, reason: str) -> None:
    """Let a refused write be tried again.

    Raises:
        NotADeadLetterError: none begins with `digits`, or several do, or the reason is empty.
    """
    with running(settings) as runtime:
        with runtime.database.reading() as connection:
            intent_id = intent_store.find_dead_letter(connection, digits)
        letter = intent_store.retry(runtime.database, intent_id, actor=actor, reason=reason, now=datetime.now(UTC))
        page().print(f"{intent_id} may be tried again; now: billing sync {escape(letter.account_id)}")


def print_report(console: Console, report: SyncReport) -> None:
    """Print what a run came to."""
    print_outcomes(console, report.outcomes)
    console.print(
        f"{count(len(report.outcomes))} accounts worked on, {count(report.skipped)} unchanged, {count(report.reads)} reads, "
        f"{count(report.writes)} writes",
        highlight=False,
    )
    for account_id in report.unlinked:
        console.print(f"[yellow]{escape(account_id)}[/]: it has no customer at Stripe; nothing of it is sent")
    if report.problem is not None:
        console.print(f"[red]{count(len(report.left_over))} accounts were not reached:[/] {escape(report.problem)}")


def print_outcomes(console: Console, outcomes: list[AccountOutcome] | tuple[AccountOutcome, ...]) -> None:
    """Print how each account stands."""
    if not outcomes:
        return
    shown = table("Accounts", "account", "state", "writes", "problem", numbers=("writes",))
    for one in outcomes:
        shown.add_row(
            escape(one.account_id), one.state.replace("_", " "), count(one.calls_that_write), escape(one.problem or "")
        )
    console.print(shown)


def print_credit_notes(console: Console, worked: Worked[DueCreditNote, CreditNoteOutcome]) -> None:
    """Print what became of each credit note."""
    for one in worked.results:
        what = (
            f"is {one.stripe_id} at Stripe"
            if one.problem is None
            else f"[red]is not at Stripe:[/] {escape(one.problem)}"
        )
        console.print(f"{escape(one.number)} of {escape(one.account_id)} {what}", highlight=False)
    if worked.problem is not None:
        console.print(f"[red]{count(len(worked.left_over))} credit notes were not reached:[/] {escape(worked.problem)}")


def print_true_up(console: Console, report: TrueUpReport) -> None:
    """Print what became of each draft."""
    if not report.outcomes and not report.left_over:
        console.print("No draft waits.")
    for one in report.outcomes:
        why = f": {escape(one.problem)}" if one.problem else ""
        console.print(
            f"{one.invoice_id} of {escape(one.account_id)}: {one.outcome.replace('_', ' ')}{why}", highlight=False
        )
    if report.problem is not None:
        console.print(f"[red]{count(len(report.left_over))} drafts were not reached:[/] {escape(report.problem)}")


def print_dead_letters(console: Console, letters: tuple[DeadLetter, ...]) -> None:
    """Print each refused write with its reason, its key, and the way out."""
    if not letters:
        console.print("Stripe has refused nothing.")
        return
    for one in letters:
        console.print(
            f"[bold]{str(one.intent_id)[:8]}[/] {escape(one.account_id)} {one.refused_at:%Y-%m-%d %H:%M} "
            f"[red]{one.status} {escape(one.code)}[/] {escape(one.answer)}",
            highlight=False,
        )
        console.print(f"  {escape(str(one.call))}", highlight=False, soft_wrap=True)
        where = f" (Stripe's log: {escape(one.request_id)})" if one.request_id else ""
        console.print(f"  key {escape(one.key)}{where}", highlight=False, soft_wrap=True)
        console.print(f"  once it is corrected: billing retry {str(one.intent_id)[:8]} --reason …", highlight=False)


@contextmanager
def _syncing(settings: Settings, *, read_only: bool = False) -> Iterator[StripeSyncing]:
    with running(settings) as runtime:
        yield stripe_syncing(
            settings,
            runtime.database,
            InvoiceStore(runtime.database, load_invoicing_policy(settings.catalog_dir)),
            load_sync_policy(settings.catalog_dir),
            read_only=read_only,
        )


def _refuse_incomplete(outcomes: list[AccountOutcome] | tuple[AccountOutcome, ...], *, left_over: int) -> None:
    apart = [one.account_id for one in outcomes if one.state is not SyncState.IN_STEP]
    if apart or left_over:
        raise SyncIncompleteError(
            f"{len(apart) + left_over} accounts are not in step with Stripe",
            bill="what is open here of them is not at Stripe as it should be; the next sync goes on.",
            fix="see the problems above and `billing dead-letters`; docs/stripe.md says what each means.",
        )


def _run_id() -> str:
    return f"terminal {uuid.uuid4()}"
