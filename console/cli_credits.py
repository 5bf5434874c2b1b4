"""Commands of `billing` about credit: arguments in, one job done. Translates only.

Imports stay light here; each command imports what it needs.
"""

import getpass
from datetime import UTC, datetime
from typing import Annotated

import typer

from console import completion
from console.instants import instant_or_now, read_instant
from resources.settings import Settings

Account = Annotated[str, typer.Argument(help="An account id.", autocompletion=completion.accounts)]
Actor = Annotated[str, typer.Option(help="Who decides; the login name if not given.", default_factory=getpass.getuser)]
Reason = Annotated[str, typer.Option(help="Why, for whoever audits the bill.")]
Instant = Annotated[
    str | None, typer.Option(metavar="INSTANT", help="As of then, such as 2026-03-02T12:00Z; now if absent.")
]


def credits(account: Account, at: Instant = None) -> None:
    """Show an account's credit: what was granted, spent and expired, and what is left, at any instant."""
    from console.credit_pages import show_credits

    show_credits(Settings.from_environment(), account, at=instant_or_now(at))


def grant(
    account: Account,
    amount: Annotated[str, typer.Argument(help="Major units, such as 25.00.")],
    reason: Reason,
    actor: Actor,
    source: Annotated[str, typer.Option(help="top_up (paid), promotion or refund.")] = "promotion",
    priority: Annotated[int, typer.Option(min=1, max=1000, help="1 is spent first.")] = 1,
    effective: Annotated[str | None, typer.Option("--from", metavar="INSTANT", help="Now if absent.")] = None,
    expires: Annotated[str | None, typer.Option("--until", metavar="INSTANT", help="For ever if absent.")] = None,
    key: Annotated[
        str, typer.Option(help="What it is granted for, such as a payment's number: a key is granted once, on any day.")
    ] = "",
) -> None:
    """Grant credit to an account; its invoices spend it by priority, then earliest expiry."""
    from console.credit_pages import grant_credit

    now = datetime.now(UTC)
    grant_credit(
        Settings.from_environment(),
        account,
        amount,
        priority=priority,
        effective_at=now.replace(hour=0, minute=0, second=0, microsecond=0)
        if effective is None
        else read_instant(effective),
        expires_at=None if expires is None else read_instant(expires),
        source=source,
        actor=actor,
        reason=reason,
        key=key,
        now=now,
    )


def revoke_credit(
    grant: Annotated[str, typer.Argument(help="A grant's id, or its first digits; `billing credits` lists them.")],
    reason: Reason,
    actor: Actor,
) -> None:
    """Take back what is left of a grant; what it has paid of final invoices stays."""
    from console.credit_pages import revoke_credit as revoke

    revoke(Settings.from_environment(), grant, actor=actor, reason=reason, now=datetime.now(UTC))


def register(app: typer.Typer) -> None:
    """Add these commands to `app`."""
    for command in (credits, grant, revoke_credit):
        app.command(command.__name__.replace("_", "-"))(command)
