"""The command `billing subscriptions`: arguments in, one job done. Translates only; imports stay light."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from console import completion
from resources.settings import Settings


def subscriptions(
    account: Annotated[
        str | None, typer.Argument(help="An account id; all accounts if absent.", autocompletion=completion.accounts)
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", metavar="DAY", help="As of this day's first instant (UTC); now if absent.")
    ] = None,
) -> None:
    """List phases of subscriptions, the period each is in, what comes next and falls due, and statements that wait."""
    from console.days import read_day
    from console.subscription_page import show_subscriptions

    now = datetime.now(UTC) if at is None else datetime.combine(read_day(at), datetime.min.time(), UTC)
    show_subscriptions(Settings.from_environment(), account, now=now)


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("subscriptions")(subscriptions)
