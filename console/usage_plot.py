"""Draw billable requests by hour, stacked by account, into a picture file. Not here: reading them."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import matplotlib
from matplotlib.dates import ConciseDateFormatter, date2num
from matplotlib.figure import Figure

from resources.usage_reader import HourUsage

# More colours than this cannot be told apart; the quieter accounts share the last one.
_ACCOUNTS_SHOWN = 7
_OTHERS = "all others"


def draw_usage_by_hour(usage: Sequence[HourUsage], target: Path) -> Path:
    """Write the picture (its format by the file's name) and return its path. `usage` must not be empty."""
    busiest = [account for account, _ in _by_account(usage).most_common(_ACCOUNTS_SHOWN)]
    names = [*busiest, _OTHERS] if len(_by_account(usage)) > len(busiest) else busiest
    first, last = usage[0].hour, usage[-1].hour
    hours = [first + timedelta(hours=offset) for offset in range((last - first) // timedelta(hours=1) + 1)]
    requests: defaultdict[str, Counter[datetime]] = defaultdict(Counter)
    for one in usage:
        requests[one.account_id if one.account_id in busiest else _OTHERS][one.hour] += one.requests
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    axes = figure.add_subplot()
    left = [float(date2num(hour)) for hour in hours]  # type: ignore[no-untyped-call]
    base = [0] * len(hours)
    for name in names:
        heights = [requests[name][hour] for hour in hours]
        axes.bar(left, heights, width=1 / 24, bottom=base, align="edge", label=name)
        base = [below + height for below, height in zip(base, heights, strict=True)]
    axes.xaxis_date(tz="UTC")
    formatter = ConciseDateFormatter(axes.xaxis.get_major_locator(), tz="UTC")  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_formatter(formatter)
    axes.set_title("Billable requests by hour (UTC)")
    axes.set_ylabel("requests")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    # No creation date inside: the same usage gives the same file.
    with matplotlib.rc_context({"svg.hashsalt": "billing"}):
        figure.savefig(target, dpi=110, metadata={"Date": None} if target.suffix == ".svg" else None)
    return target


def _by_account(usage: Sequence[HourUsage]) -> Counter[str]:
    totals: Counter[str] = Counter()
    for one in usage:
        totals[one.account_id] += one.requests
    return totals
