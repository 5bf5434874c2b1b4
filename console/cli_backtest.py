"""Commands `billing backtest` and `backtests`: arguments in, one job done. Translates only.

Imports stay light here; each command imports what it needs.
"""

from pathlib import Path
from typing import Annotated

import typer

from resources.settings import Settings


def backtest(
    catalog: Annotated[
        str,
        typer.Option(
            metavar="DIR",
            help="The draft: a catalog folder with other prices or plans. Or a catalog that was current once, as `billing catalog "
            "diff` names them.",
        ),
    ],
    first: Annotated[
        str, typer.Option("--from", metavar="DAY", help="First day; every billing period that it touches.")
    ],
    last: Annotated[str, typer.Option("--to", metavar="DAY", help="Last day, itself included.")],
    name: Annotated[str, typer.Option(help="What the scenario is about.")] = "",
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to draw it; below BILLING_HOME if absent.")
    ] = None,
) -> None:
    """Rate stored history with a draft catalog: per account booked, draft, difference. Nothing is charged or booked."""
    from console.backtest_page import run_backtest
    from console.days import read_range

    days = read_range(None, first, last)
    assert days is not None
    run_backtest(Settings.from_environment(), catalog, days.first, days.last, name=name, plot=plot)


def backtests(
    scenario: Annotated[
        str | None, typer.Argument(help="A backtest's id, or its first digits; all are listed if absent.")
    ] = None,
) -> None:
    """List the backtests that ran, or show one again."""
    from console.backtest_page import show_scenarios

    show_scenarios(Settings.from_environment(), scenario)


def register(app: typer.Typer) -> None:
    """Add these commands to `app`."""
    for command in (backtest, backtests):
        app.command(command.__name__)(command)
