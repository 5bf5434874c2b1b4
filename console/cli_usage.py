"""Commands of `billing` about traffic, storage and prepaid accounts: arguments in, one job done. Translates only.

Imports stay light here; each command imports what it needs.
"""

import getpass
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from console import completion
from resources.settings import Settings

Actor = Annotated[str, typer.Option(help="Who decides; the login name if not given.", default_factory=getpass.getuser)]
Reason = Annotated[str, typer.Option(help="Why, for whoever audits the bill.")]
First = Annotated[str | None, typer.Option("--from", metavar="DAY", help="First day, itself included.")]
Last = Annotated[str | None, typer.Option("--to", metavar="DAY", help="Last day, itself included.")]
Day = Annotated[str | None, typer.Option("--day", metavar="DAY", help="One UTC day, YYYY-MM-DD.")]


def timeline(
    repository: Annotated[str, typer.Argument(help="A repository, as keys of the storage name it.")],
    first: First = None,
    last: Last = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to draw it.")] = None,
) -> None:
    """Print and draw a repository's size, visibility and owner over time, and what snapshots found different."""
    from console.days import read_range
    from console.timeline import show_timeline

    show_timeline(Settings.from_environment(), repository, read_range(None, first, last), target=plot)


def pseudonym(
    name: Annotated[str, typer.Argument(help="An owner, a repository or a client with an e-mail address in its name.")],
) -> None:
    """Print the name under which it is kept: what stands in tables and on pages instead of an e-mail address."""
    from console.kept_names import show_pseudonym

    show_pseudonym(Settings.from_environment(), name)


def balance(
    account: Annotated[str, typer.Argument(help="A prepaid account.", autocompletion=completion.accounts)],
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Print a prepaid account's balance, quota, arrears and newest ledger rows."""
    from console.balance_page import show_balance, show_balance_json

    show = show_balance_json if as_json else show_balance
    show(Settings.from_environment(), account, now=datetime.now(UTC))


def close_gap(
    source: Annotated[str, typer.Argument(help="The source, as traffic.toml names it.")],
    start: Annotated[str, typer.Argument(metavar="HOUR", help="Begin of the gap, UTC, as 2026-03-01T14:00.")],
    reason: Reason,
    actor: Actor,
    end: Annotated[
        str | None, typer.Option("--until", metavar="HOUR", help="End of the gap; one hour if absent.")
    ] = None,
) -> None:
    """Close hours of an exporter that nobody can read any more. Final; the days that it held are built next."""
    from console.traffic_pages import close_gap as close

    close(Settings.from_environment(), source, start, end, actor=actor, reason=reason)


def reconcile_traffic(
    reason: Reason,
    actor: Actor,
    source: Annotated[list[str] | None, typer.Option(help="Only this source; all if absent.")] = None,
    day: Day = None,
    first: First = None,
    last: Last = None,
) -> None:
    """Replay stored traffic of days from its raw samples, and replace what differs. A second run finds nothing."""
    from console.days import read_range
    from console.traffic_pages import reconcile_traffic as reconcile

    days = read_range(day, first, last)
    if days is None:
        raise typer.BadParameter("Give --day, or --from and --to.")
    reconcile(Settings.from_environment(), days, sources=tuple(source or ()), actor=actor, reason=reason)


def payment(
    account: Annotated[str, typer.Argument(help="An account id.", autocompletion=completion.accounts)],
    kind: Annotated[str, typer.Argument(help="payment_failed or invoice_paid.")],
    event_id: Annotated[
        str, typer.Option("--event", help="The event's own id: it counts once, however often it comes.")
    ],
    at: Annotated[str | None, typer.Option(metavar="INSTANT", help="When it happened, UTC; now if absent.")] = None,
    billing_reason: Annotated[str, typer.Option(help="Why the invoice was made, as subscription_cycle.")] = "",
    invoice: Annotated[
        str, typer.Option(metavar="ID", help="Which invoice, as in_...; a payment without one is for all that is open.")
    ] = "",
) -> None:
    """Report that an invoice of an account was paid, or that its payment failed."""
    if kind not in ("payment_failed", "invoice_paid"):
        raise typer.BadParameter("KIND is payment_failed or invoice_paid.")
    from console.traffic_pages import report_payment

    report_payment(
        Settings.from_environment(),
        account,
        kind,
        event_id=event_id,
        at=at,
        billing_reason=billing_reason,
        invoice_id=invoice,
    )


def sweep_arrears() -> None:
    """Suspend accounts that are 14 days in arrears, and make active who is no more; the hourly schedule does the same."""
    from console.traffic_pages import sweep_arrears as sweep

    sweep(Settings.from_environment())


def exporter_sim(
    seed: Annotated[int, typer.Option(help="The same seed and sizes give the same counters.")] = 7,
    nodes: Annotated[int, typer.Option(min=1, max=100, help="Exporter nodes.")] = 3,
    users: Annotated[int, typer.Option(min=1, max=100_000, help="Users, each with counters on every node.")] = 100,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 9443,
    folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="For certificates and tokens; below BILLING_HOME if absent.")
    ] = None,
    bearer_only: Annotated[bool, typer.Option("--bearer-only", help="Want no client certificate.")] = False,
    fault: Annotated[
        list[str] | None, typer.Option(metavar="NODE=FAULT", help="A fault of a node, as 2=html; repeat for more.")
    ] = None,
) -> None:
    """Serve simulated traffic exporters over HTTPS until Ctrl-C; prints the sources and variables to use them."""
    from console.exporter_sim import run_exporter_sim

    run_exporter_sim(
        seed=seed,
        nodes=nodes,
        users=users,
        port=port,
        folder=folder or Settings.from_environment().home / "exporter-sim",
        bearer_only=bearer_only,
        faults=fault or (),
    )


def stripe_sim(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 12111,
    start: Annotated[
        str | None, typer.Option(metavar="INSTANT", help="What its clock says at first, UTC; now if absent.")
    ] = None,
    state: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep everything here, and go on from it at the next start.")
    ] = None,
    speed: Annotated[
        float, typer.Option(min=0, help="Seconds of its clock in a real one; 0: it stands until it is advanced.")
    ] = 0,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="A rule, as operation_rate=25; repeat for more. docs/stripe-sim.md has all."
        ),
    ] = None,
) -> None:
    """Serve a stand-in for Stripe's API until Ctrl-C: no key, no network, a clock of its own; prints the variables to use it."""
    from console.stripe_sim import run_stripe_sim

    run_stripe_sim(port=port, start=start, state=state, speed=speed, rules=rule or ())


def serve_push(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8443,
    certificate: Annotated[Path | None, typer.Option(metavar="PEM", help="The server's certificate.")] = None,
    key: Annotated[Path | None, typer.Option(metavar="PEM", help="Its key.")] = None,
) -> None:
    """Take traffic snapshots and request events that are pushed, over HTTP with a bearer for each source, until Ctrl-C."""
    from console.serve_push import serve_push as serve

    serve(Settings.from_environment(), os.environ, host=host, port=port, certificate=certificate, key=key)


def register(app: typer.Typer) -> None:
    """Add these commands to `app`."""
    for command in (
        timeline,
        pseudonym,
        balance,
        payment,
        exporter_sim,
        stripe_sim,
        serve_push,
        close_gap,
        reconcile_traffic,
        sweep_arrears,
    ):
        app.command(command.__name__.replace("_", "-"))(command)
