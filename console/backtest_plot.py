"""Draw a backtest into a picture file: the accounts that change most, booked beside draft. Not here: the figures."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from billing_pipeline.backtest import AccountChange

_SHOWN = 15


def draw_backtest(accounts: Sequence[AccountChange], target: Path) -> Path:
    """Write the picture, a panel for each currency, its format by the file's name, and return its path."""
    by_currency: dict[str, list[AccountChange]] = defaultdict(list)
    for one in accounts:
        if one.changed_charges:
            by_currency[one.before.currency].append(one)
    panels = sorted(by_currency)
    figure = Figure(figsize=(10, 1 + 3.2 * max(len(panels), 1)), layout="constrained")
    for number, currency in enumerate(panels, 1):
        axes = figure.add_subplot(len(panels), 1, number)
        largest = sorted(by_currency[currency], key=lambda one: (-abs(one.delta.minor_units), one.account_id))[:_SHOWN]
        places = range(len(largest))
        for offset, label, heights in (
            (-0.2, "booked", [one.before.major for one in largest]),
            (0.2, "draft", [one.after.major for one in largest]),
        ):
            axes.bar(
                [place + offset for place in places], [float(height) for height in heights], width=0.4, label=label
            )
        axes.set_xticks(list(places), [one.account_id for one in largest], rotation=30, ha="right")
        axes.set_ylabel(currency)
        axes.legend(frameon=False)
        if number == 1:
            axes.set_title("Accounts that change most")
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110)
    return target
