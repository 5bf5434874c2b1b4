"""Commands of `billing` about what Stripe tells: arguments in, one job done. Translates only.

Imports stay light here; each command imports what it needs.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from console import completion
from resources.settings import Settings


def stripe(
    account: Annotated[str, typer.Argument(help="An account id.", autocompletion=completion.accounts)],
    ask: Annotated[
        bool, typer.Option("--ask/--no-ask", help="Ask Stripe for what is older than a minute; else only the mirror.")
    ] = True,
) -> None:
    """Print what Stripe holds of an account: customer, subscriptions, invoices, and how old that is."""
    from console.stripe_page import show_stripe

    show_stripe(Settings.from_environment(), account, now=datetime.now(UTC), ask=ask)


def stripe_events(
    limit: Annotated[int, typer.Option(min=1, help="Events to show at most.")] = 50,
) -> None:
    """Show how far Stripe's events are read, and those that are not applied, with the reason."""
    from console.stripe_page import show_events

    show_events(Settings.from_environment(), limit=limit)


def retry_events(
    events: Annotated[list[str], typer.Argument(metavar="EVENT...", help="Ids that `billing stripe-events` shows.")],
) -> None:
    """Let events that could not be applied be tried again by the next run."""
    from console.stripe_page import retry_events as retry

    retry(Settings.from_environment(), events, now=datetime.now(UTC))


def serve_webhook(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8790,
    certificate: Annotated[Path | None, typer.Option(metavar="FILE", help="PEM, with --key: TLS.")] = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="PEM, unencrypted.")] = None,
    acknowledge: Annotated[
        str,
        typer.Option(
            metavar="stored|trued-up",
            help="When the event of a new invoice is answered 2xx. Until then Stripe does not finalize the invoice.",
        ),
    ] = "stored",
) -> None:
    """Take Stripe's webhooks until Ctrl-C. The feed alone is enough; webhooks are quicker."""
    from console.serve_webhook import serve_webhook as serve
    from console.stripe_webhook import Acknowledge

    try:
        when = Acknowledge(acknowledge)
    except ValueError:
        raise typer.BadParameter("--acknowledge is stored or trued-up.") from None
    serve(Settings.from_environment(), host=host, port=port, certificate=certificate, key=key, acknowledge=when)


def register(app: typer.Typer) -> None:
    """Add the commands to `billing`."""
    for command in (stripe, stripe_events, retry_events, serve_webhook):
        app.command(command.__name__.replace("_", "-"))(command)
