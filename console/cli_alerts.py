"""Commands of `billing` about incidents. Translates only; each command imports what it needs."""

import getpass
from datetime import UTC, datetime
from typing import Annotated

import typer

from resources.settings import Settings


def alerts() -> None:
    """Show what is wrong that people were told of, and messages that could not be delivered."""
    from console.alerts_page import show_alerts

    show_alerts(Settings.from_environment())


def close_alert(
    incident: Annotated[int, typer.Argument(help="The number that `billing alerts` shows.")],
    reason: Annotated[str, typer.Option(help="Why, for whoever looks it up.")],
    actor: Annotated[
        str, typer.Option(help="Who decides; the login name if not given.", default_factory=getpass.getuser)
    ],
) -> None:
    """Close an incident that no program can see the end of. If it is still wrong, it is told of again."""
    from console.alerts_page import close_alert as close

    close(Settings.from_environment(), incident, actor=actor, reason=reason, now=datetime.now(UTC))


def register(app: typer.Typer) -> None:
    """Add the commands to `billing`."""
    for command in (alerts, close_alert):
        app.command(command.__name__.replace("_", "-"))(command)
