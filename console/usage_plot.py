"""Draw billable requests by hour, stacked by account, into a picture file. Not here: reading them.

The days drawn stand side by side, also those that are years apart.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from resources.usage_reader import HourUsage

# More colours than this cannot be told apart; the quieter accounts share the last one.
_ACCOUNTS_SHOWN = 7
# More days than this leave less than a pixel to an hour.
_DAYS_SHOWN = 31
_LABELS_SHOWN = 10
_OTHERS = "all others"


def draw_usage_by_hour(usage: Sequence[HourUsage], target: Path) -> Path:
    """Write the picture of the newest days of `usage`, its format by the file's name, and return its path."""
    days = sorted({one.hour.date() for one in usage})[-_DAYS_SHOWN:]
    position = {day: 24 * number for number, day in enumerate(days)}
    drawn = [one for one in usage if one.hour.date() in position]
    busiest = [account for account, _ in _by_account(drawn).most_common(_ACCOUNTS_SHOWN)]
    requests: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for one in drawn:
        name = one.account_id if one.account_id in busiest else _OTHERS
        requests[name][position[one.hour.date()] + one.hour.hour] += one.requests
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    axes = figure.add_subplot()
    hours = range(24 * len(days))
    base = [0] * len(hours)
    for name in [*busiest, _OTHERS] if _OTHERS in requests else busiest:
        heights = [requests[name][hour] for hour in hours]
        axes.bar(hours, heights, width=1, bottom=base, align="edge", label=name)
        base = [below + height for below, height in zip(base, heights, strict=True)]
    labelled = days[:: -(-len(days) // _LABELS_SHOWN) or 1]
    axes.set_xticks([position[day] for day in labelled], [day.isoformat() for day in labelled], ha="left")
    axes.set_xlim(0, max(len(hours), 1))
    # Stacked bars stick to each other's edges, so that the room above the tallest has to be asked for.
    axes.set_ylim(0, max(1, *base) * 1.05 if base else 1)
    axes.set_title("Billable requests by hour (UTC)")
    axes.set_ylabel("requests")
    if busiest:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110)
    return target


def _by_account(usage: Sequence[HourUsage]) -> Counter[str]:
    totals: Counter[str] = Counter()
    for one in usage:
        totals[one.account_id] += one.requests
    return totals
