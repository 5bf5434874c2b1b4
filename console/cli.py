"""The command `billing`: arguments in, one job done, exit code out. Translates only; the work is below.

Exit codes: 0 done, 1 the work failed or was refused (one clear error), 2 the command line cannot be understood.
Imports stay light here, so that help and the quick commands answer at once; each command imports what it needs.
"""

import getpass
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from billing_pipeline.errors import BillingError
from console import (
    cli_alerts,
    cli_backtest,
    cli_catalog,
    cli_credits,
    cli_entitlements,
    cli_invoicing,
    cli_mirror,
    cli_stripe_sync,
    cli_subscriptions,
    cli_usage,
    completion,
)
from resources.settings import Settings

EPILOG = (
    "Exit codes: 0 done, 1 the work failed or was refused, 2 wrong command line. "
    "Where things live: BILLING_HOME, BILLING_DATABASE_URL, BILLING_LANDING_URL, BILLING_LAKE_URL, BILLING_CATALOG_DIR."
)
app = typer.Typer(
    name="billing",
    help="From requests, traffic and storage to charges and a ledger: nothing lost, nothing billed twice, every cent explained.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DEBUG_VARIABLE = "BILLING_DEBUG"
Day = Annotated[str | None, typer.Option("--day", metavar="DAY", help="One UTC day, YYYY-MM-DD.")]
First = Annotated[str | None, typer.Option("--from", metavar="DAY", help="First day of a range, itself included.")]
Last = Annotated[str | None, typer.Option("--to", metavar="DAY", help="Last day of the range, itself included.")]
Actor = Annotated[str, typer.Option(help="Who decides; the login name if not given.", default_factory=getpass.getuser)]
Reason = Annotated[str, typer.Option(help="Why, for whoever audits the bill.")]


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"


@app.command()
def demo(
    landing: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A folder of your own request logs; it is only read.")
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="How your logs spell things.", autocompletion=completion.profiles),
    ] = None,
    catalog: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Your catalog; without it one is proposed from the clients seen."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget the state of earlier demos first.")] = False,
) -> None:
    """Run the whole job once: on made-up requests, traffic and storage of three days, or with --landing on your own logs."""
    settings = Settings.from_environment()
    if landing is None:
        if profile is not None or catalog is not None:
            raise typer.BadParameter("--profile and --catalog go with --landing, your own request logs.")
        from console.demo import run_demo

        run_demo(settings, fresh=fresh)
        return
    if profile is None:
        raise typer.BadParameter("--landing needs --profile, the name of what the logs look like.")
    from console.own_files import run_own

    run_own(settings, landing=landing, profile=profile, catalog_dir=catalog, fresh=fresh)


@app.command()
def materialize(
    assets: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ASSET]...", help="Asset keys; all of them if none.", autocompletion=completion.assets),
    ] = None,
    day: Day = None,
    first: First = None,
    last: Last = None,
) -> None:
    """Look for new files and build assets, for one day, for a range (both ends included), or for whatever is due."""
    from console.days import read_range

    days = read_range(day, first, last)
    from console.runs import materialize_days

    materialize_days(Settings.from_environment(), assets or (), days)


@app.command()
def status() -> None:
    """Show what was delivered, refused, held and built, whether the books balance, and what to do next."""
    from console.status_page import show_status

    show_status(Settings.from_environment())


@app.command()
def rate(
    quantity: Annotated[
        list[str],
        typer.Argument(
            help="How much, in the meter's unit; fractions allowed. Several: single transactions, or windows from midnight on."
        ),
    ],
    price: Annotated[
        str | None,
        typer.Option(metavar="ID", help="A price of the catalog.", autocompletion=completion.prices),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A charge model, such as graduated or percentage, with its figures.", autocompletion=completion.models
        ),
    ] = None,
    unit_price: Annotated[str | None, typer.Option(metavar="AMOUNT", help="For standard and package.")] = None,
    package_size: Annotated[str | None, typer.Option(metavar="UNITS", help="For package.")] = None,
    tier: Annotated[
        list[str] | None,
        typer.Option(metavar="UP_TO:UNIT_PRICE[:FLAT]", help="For models with tiers; UP_TO inclusive, or `inf`."),
    ] = None,
    figure: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Any other field of a price version, such as percent=1.5."),
    ] = None,
    of: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="For a matrix: a dimension's value, such as endpoint=/v1/things."),
    ] = None,
    currency: Annotated[str, typer.Option(help="For --model.")] = "USD",
    at: Annotated[
        str | None, typer.Option(metavar="DAY", help="The price as of this day; the newest if absent.")
    ] = None,
) -> None:
    """Price a quantity by hand and show the arithmetic. Reads the catalog's files only."""
    from console.rate_page import rate_by_model, rate_by_price

    if (price is None) == (model is None):
        raise typer.BadParameter("Give either --price, a price of the catalog, or --model with its figures.")
    if price is not None:
        rate_by_price(Settings.from_environment().catalog_dir, price, quantity, at=at, dimensions=of or ())
    elif model is not None:
        rate_by_model(
            model,
            quantity,
            currency=currency,
            unit_price=unit_price,
            package_size=package_size,
            tiers=tier or (),
            figures=figure or (),
            dimensions=of or (),
        )


@app.command()
def bill(
    account: Annotated[str, typer.Argument(help="An account id.", autocompletion=completion.accounts)],
    period: Annotated[str, typer.Argument(help="A month as 2026-03, or any day inside a billing period.")],
) -> None:
    """Print the bill of an account: lines, their arithmetic, the total, and what is still open or held."""
    from console.bill_page import show_bill

    show_bill(Settings.from_environment(), account, period)


@app.command()
def explain(
    charge: Annotated[str, typer.Argument(help="A charge id, or the digits that it begins with.")],
    usage_rows: Annotated[int, typer.Option("--rows", min=1, max=1000, help="Usage rows to follow to files.")] = 5,
    lines: Annotated[int, typer.Option(min=1, max=10_000, help="Raw rows at each step of the way down.")] = 3,
    revision: Annotated[
        int | None, typer.Option(min=1, help="That revision as it was known then, rated again with its catalog.")
    ] = None,
) -> None:
    """Follow a charge down: its revisions and arithmetic, the usage behind it, the files and lines behind that."""
    from console.explain_page import show_charge, show_revision

    if revision is not None:
        show_revision(Settings.from_environment(), charge, revision)
        return
    show_charge(Settings.from_environment(), charge, usage_rows=usage_rows, lines=lines)


@app.command()
def quarantine(
    reason: Annotated[
        str | None, typer.Option(help="Only lines refused for this.", autocompletion=completion.reasons)
    ] = None,
    day: Day = None,
    limit: Annotated[int, typer.Option(min=1, help="Lines to show at most.")] = 50,
) -> None:
    """List refused files and lines: file, position, reason. Never the text, which may hold personal data."""
    from console.status_page import show_quarantine

    show_quarantine(Settings.from_environment(), reason=reason, day=day, limit=limit)


@app.command()
def conflicts(day: Day = None) -> None:
    """List requests that came with different contents and wait for a decision."""
    from console.status_page import show_conflicts

    show_conflicts(Settings.from_environment(), day=day)


@app.command("decide-conflict")
def decide_conflict(
    source: Annotated[str, typer.Argument(help="The source's name.", autocompletion=completion.sources)],
    event_id: Annotated[str, typer.Argument(help="The request's identity.")],
    content: Annotated[str, typer.Argument(help="First digits of the content that counts, or `none`.")],
    reason: Reason,
    actor: Actor,
) -> None:
    """Say which version of a contradictory request counts. Final; the day is rebuilt at the next materialization."""
    from console.decisions import decide_conflict as decide

    decide(Settings.from_environment(), source, event_id, content, actor=actor, reason=reason)


@app.command("accept-file")
def accept_file(
    key: Annotated[str, typer.Argument(help="The held file's key; `billing quarantine` names it.")],
    reason: Reason,
    actor: Actor,
) -> None:
    """Let a file that came again with other content be read too. What was counted before stays counted once."""
    from console.decisions import accept_file as accept

    accept(Settings.from_environment(), key, actor=actor, reason=reason)


@app.command()
def release(
    what: Annotated[
        str,
        typer.Argument(
            metavar="ASSET|INVOICE",
            help="An asset's key, with day and guard; or an invoice alone.",
            autocompletion=completion.assets,
        ),
    ],
    reason: Reason,
    actor: Actor,
    day: Annotated[str | None, typer.Argument(help="The held partition, YYYY-MM-DD.")] = None,
    guard: Annotated[str | None, typer.Argument(help="The guard that holds it; `billing status` names it.")] = None,
) -> None:
    """Let a held day through, for exactly the inputs that were judged: the next build of the day uses it. Or a draft invoice, as
    `billing release-invoice`."""
    if day is None:
        from console.cli_invoicing import release_invoice

        release_invoice(what, reason, actor)
        return
    if guard is None:
        raise typer.BadParameter("An asset is released for a day and a guard: billing release ASSET DAY GUARD.")
    from console.decisions import release as let_through

    let_through(Settings.from_environment(), what, day, guard, actor=actor, reason=reason)


@app.command()
def dev(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the Dagster UI on this machine.")] = 3000,
) -> None:
    """Open the Dagster UI and daemon on this installation until Ctrl-C."""
    from console.dev import run_dev

    raise typer.Exit(run_dev(Settings.from_environment(), port=port))


@app.command()
def psql(
    writer: Annotated[bool, typer.Option("--writer", help="As the writer role; the reader otherwise.")] = False,
) -> None:
    """Open psql on the billing database, as the role that can only read."""
    from console.dev import run_psql

    raise typer.Exit(run_psql(Settings.from_environment(), writer=writer))


cli_usage.register(app)
cli_entitlements.register(app)
cli_credits.register(app)
cli_mirror.register(app)
cli_alerts.register(app)
cli_stripe_sync.register(app)
cli_invoicing.register(app)
cli_backtest.register(app)
cli_subscriptions.register(app)
app.add_typer(cli_catalog.app, name="catalog")


def main() -> None:
    """Run the command line of this process and end it with the exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run `arguments` and return the exit code; every failure becomes one clear message on standard error."""
    os.environ.pop(DEBUG_VARIABLE, None)
    try:
        # Typer prints its own usage errors and ends with SystemExit.
        app(list(arguments), prog_name="billing")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except KeyboardInterrupt:
        return 130
    except BillingError as error:
        return _failed(error, error)
    except Exception as error:  # noqa: BLE001 - the entry point: nobody above could do more with it
        return _failed(_unexpected(error), error)
    return 0


def _failed(shown: BillingError, error: Exception) -> int:
    from console.screen import show_error

    if os.environ.get(DEBUG_VARIABLE):
        import traceback

        traceback.print_exception(error)
    show_error(shown)
    return 1


def _unexpected(error: Exception) -> BillingError:
    """Return the message for an error that nobody raised on purpose. Its type only: its text might repeat input."""
    return BillingError(
        f"This is a defect of the program: {type(error).__name__}.",
        bill="The step that failed wrote nothing; what was booked before is unchanged.",
        fix="Run the same command with `billing --debug …` and report what it prints.",
    )
