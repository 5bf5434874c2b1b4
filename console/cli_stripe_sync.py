"""Commands of `billing` that send to Stripe: arguments in, one job done. Translates only.

Imports stay light here; each command imports what it needs.
"""

import getpass
from typing import Annotated

import typer

from console import completion
from resources.settings import Settings

Account = Annotated[
    str | None,
    typer.Argument(help="Only this account, now; all that are due if none.", autocompletion=completion.accounts),
]
Actor = Annotated[str, typer.Option(help="Who decides; the login name if not given.", default_factory=getpass.getuser)]
Reason = Annotated[str, typer.Option(help="Why, for whoever audits the bill.")]


def sync(
    account: Account = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the exact calls that would be made; write nothing, anywhere.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Look at Stripe also for accounts that have not changed.")
    ] = False,
) -> None:
    """Bring Stripe in step with the open invoices: pending items, drafts of our own. Again: no call that writes."""
    from console.stripe_sync_page import preview_sync, run_sync

    if dry_run:
        preview_sync(Settings.from_environment(), account)
        return
    run_sync(Settings.from_environment(), account, verify=verify)


def true_up() -> None:
    """Bring every renewal's draft that waits up to date, and let go those that are right and whole."""
    from console.stripe_sync_page import run_true_up

    run_true_up(Settings.from_environment())


def dead_letters(account: Account = None) -> None:
    """List writes that Stripe has refused, with the reason, the key, and how to let them be tried again."""
    from console.stripe_sync_page import show_dead_letters

    show_dead_letters(Settings.from_environment(), account)


def retry(
    letter: Annotated[str, typer.Argument(metavar="ID", help="First digits of what `billing dead-letters` shows.")],
    reason: Reason,
    actor: Actor,
) -> None:
    """Let a refused write be tried again, under another idempotency key, by the next sync."""
    from console.stripe_sync_page import retry_dead_letter

    retry_dead_letter(Settings.from_environment(), letter, actor=actor, reason=reason)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(sync)
    app.command("true-up")(true_up)
    app.command("dead-letters")(dead_letters)
    app.command()(retry)
