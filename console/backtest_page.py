"""Run a backtest and show it: what a draft catalog would have charged, for whom more, for whom less. Not here: rating."""

from datetime import date
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from assets.code_version import code_version
from billing_pipeline.amounts import Money
from billing_pipeline.backtest import AccountChange, ChangedCharge
from console.catalog_pages import catalog_named
from console.kept_names import kept
from console.screen import count, notes, page, progress, table
from resources.backtest.backtest_store import Backtest, BacktestStore
from resources.backtest.scenario_rows import Scenario
from resources.catalog_places import errors_placed
from resources.catalog_store import CatalogStore
from resources.runtime import running
from resources.settings import Settings

_DIGITS = 8
_SHOWN = 15


def run_backtest(settings: Settings, catalog: str, first: date, last: date, *, name: str, plot: Path | None) -> None:
    """Rate the range's stored usage with that catalog, print and draw what changes; nothing is charged. `catalog` is a folder, or
    names one that was current once.

    Raises:
        CatalogNotNamedError, CatalogNotKnownError, CatalogError: no such catalog; the files are wrong, with every finding.
        BacktestRefusedError: the draft measures differently.
    """
    folder = Path(catalog) if Path(catalog).is_dir() else None
    with running(settings) as runtime, errors_placed(folder), progress() as advance:
        store = BacktestStore(runtime.database)
        catalogs = CatalogStore(runtime.database, partial(kept, settings))
        draft = catalog_named(catalog, store=lambda: catalogs, read_folder=catalogs.draft)
        found = store.run(draft, first=first, last=last, name=name, code_version=code_version(), on_progress=advance)
    print_backtest(page(), found)
    target = plot or settings.home / "backtests" / f"{str(found.scenario.scenario_id)[:_DIGITS]}.png"
    if found.comparison.changed:
        from console.backtest_plot import draw_backtest

        notes().print(f"Plot of the accounts that change most: {draw_backtest(found.comparison.accounts, target)}")


def print_backtest(console: Console, found: Backtest) -> None:
    """Print the scenario, its sums, and who and what changes most."""
    scenario = found.scenario
    _print_head(console, scenario)
    if not found.is_new:
        console.print("The same draft, catalog, usage and books ran before: it is that scenario.")
    if not found.comparison.changed:
        console.print("No charge changes.")
        return
    _print_accounts(console, "Together", found.comparison.totals)
    _print_accounts(console, "Accounts that change most", _largest(found.comparison.accounts))
    _print_charges(console, found.comparison.changed)


def show_scenarios(settings: Settings, digits: str | None) -> None:
    """List the backtests that ran, or print one again.

    Raises:
        ScenarioUnknownError: no scenario, or several, begin so.
    """
    with running(settings) as runtime:
        store = BacktestStore(runtime.database)
        if digits is not None:
            scenario, accounts = store.find(digits)
            _print_head(page(), scenario)
            _print_accounts(page(), "Accounts that change most", _largest(accounts))
            return
        scenarios = store.scenarios()
    numbers = ("accounts", "charges changed")
    shown = table("Backtests", "id", "name", "days", "draft", *numbers, "ran at (UTC)", numbers=numbers)
    for one in scenarios:
        shown.add_row(
            str(one.scenario_id)[:_DIGITS],
            escape(one.name),
            f"{one.first_day} to {one.last_day}",
            one.draft_sha256[:_DIGITS],
            count(one.accounts_concerned),
            count(one.charges_changed),
            f"{one.ran_at:%Y-%m-%d %H:%M}",
        )
    page().print(shown if scenarios else "No backtest ran yet: billing backtest --catalog DIR --from DAY --to DAY")


def _print_head(console: Console, scenario: Scenario) -> None:
    name = f" ({escape(scenario.name)})" if scenario.name else ""
    console.print(
        f"[bold]Backtest {str(scenario.scenario_id)[:_DIGITS]}[/]{name}: {scenario.first_day} to {scenario.last_day}, draft "
        f"{scenario.draft_sha256[:_DIGITS]} beside catalog {scenario.base_sha256[:_DIGITS]}"
    )
    unaffected = f"; {count(scenario.charges_unaffected)} it cannot change" if scenario.charges_unaffected else ""
    console.print(
        f"{count(scenario.accounts_concerned)} of {count(scenario.accounts_in_all)} accounts are concerned; "
        f"{count(scenario.charges_rated)} charges rated in {scenario.seconds:.1f} s, {count(scenario.charges_changed)} change"
        f"{unaffected}. Nothing was charged or booked."
    )
    if scenario.unbooked_days:
        console.print(
            f"[yellow]Usage of {count(scenario.unbooked_days)} days is built and not booked yet:[/] it is in the draft's "
            "side alone. Run `billing materialize` first for an even comparison."
        )


def _print_accounts(console: Console, title: str, accounts: tuple[AccountChange, ...]) -> None:
    numbers = ("booked", "draft", "difference", "charges that change")
    shown = table(title, "account", *numbers, numbers=numbers)
    for one in accounts:
        shown.add_row(
            escape(one.account_id or "all"),
            str(one.before),
            str(one.after),
            _signed(one.delta),
            count(one.changed_charges),
        )
    console.print(shown)


def _print_charges(console: Console, changed: tuple[ChangedCharge, ...]) -> None:
    numbers = ("booked", "draft", "difference")
    shown = table("Charges that change most", "charge", "account", "price", "period", *numbers, numbers=numbers)
    largest = sorted(changed, key=lambda one: -abs(one.delta.minor_units) if one.delta else 0)[:_SHOWN]
    for one in largest:
        key = one.side.key
        shown.add_row(
            str(one.charge_id)[:_DIGITS],
            escape(one.side.account_id),
            escape(" ".join(part for part in (key.price_id, key.group_key) if part)),
            f"{key.period.start:%Y-%m-%d} to {key.period.end:%Y-%m-%d}",
            "-" if one.before is None else str(one.before.amount),
            "-" if one.after is None else str(one.after.amount),
            "-" if one.delta is None else _signed(one.delta),
        )
    console.print(shown)
    if len(changed) > len(largest):
        console.print(
            f"… and {count(len(changed) - len(largest))} more, all in backtest.charge_change with both arithmetics."
        )


def _largest(accounts: tuple[AccountChange, ...]) -> tuple[AccountChange, ...]:
    changed = [one for one in accounts if one.changed_charges]
    return tuple(sorted(changed, key=lambda one: (-abs(one.delta.minor_units), one.account_id))[:_SHOWN])


def _signed(money: Money) -> str:
    return f"+{money}" if money.minor_units > 0 else str(money)
