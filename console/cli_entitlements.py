"""Commands of `billing` about what accounts may use: arguments in, one job done. Translates only.

Imports stay light here; each command imports what it needs.
"""

from typing import Annotated

import typer

from console import completion
from console.instants import instant_or_now
from resources.settings import Settings

At = Annotated[
    str | None, typer.Option(metavar="INSTANT", help="As of then, such as 2026-03-02T12:00Z; now if absent.")
]


def access(
    account: Annotated[str, typer.Argument(help="An account id.", autocompletion=completion.accounts)],
    feature: Annotated[str, typer.Argument(help="A feature of features.toml.")],
    quantity: Annotated[str, typer.Option(help="How much more it wants to use, in the meter's unit.")] = "1",
    at: At = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Decide whether an account may use a feature, with the reason; ends with 3 when it may not."""
    from console.entitlement_pages import show_access

    settings = Settings.from_environment()
    if not show_access(settings, account, feature, quantity=quantity, at=instant_or_now(at), as_json=as_json):
        raise typer.Exit(3)


def entitlements(
    account: Annotated[str, typer.Argument(help="An account id.", autocompletion=completion.accounts)], at: At = None
) -> None:
    """List what an account may use, how much of it is used, and which entitlements give it."""
    from console.entitlement_pages import show_entitlements

    show_entitlements(Settings.from_environment(), account, at=instant_or_now(at))


def register(app: typer.Typer) -> None:
    """Add these commands to `app`."""
    for command in (access, entitlements):
        app.command(command.__name__)(command)
