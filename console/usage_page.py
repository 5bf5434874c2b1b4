"""Print how completely exporters were read, what repositories held, and which guards did not simply pass, in short.

Not here: the whole of it (status_page, timeline, balance_page), reading (resources).
"""

from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal

from rich.console import Console
from rich.markup import escape

from console.screen import count, table
from console.status_page import STATUS_STYLE
from resources.repository_reader import RepositoryTotal
from resources.status_reader import GuardVerdict
from resources.traffic_reader import NodeDay


def print_coverage(console: Console, rows: Sequence[NodeDay]) -> None:
    """Print the hours of each exporter and day that are proven complete; nothing without exporters."""
    if not rows:
        return
    numbers = ("complete hours", "open hours", "missing minutes", "snapshots", "samples")
    shown = table("Exporters by event day", "exporter", "event day", *numbers, numbers=numbers)
    for one in rows:
        cells = (one.complete, one.partial + one.gap, one.missing_minutes, one.snapshots, one.samples)
        shown.add_row(one.source, str(one.day), *map(count, cells))
    console.print(shown)


def print_repositories(console: Console, rows: Sequence[RepositoryTotal]) -> None:
    """Print what repositories hold now and held so far; nothing without any."""
    if not rows:
        return
    numbers = ("bytes", "private GB h", "public GB h", "drift")
    shown = table("Repositories", "repository", "now", "owner", "account", *numbers, numbers=numbers)
    for one in rows:
        shown.add_row(
            escape(one.repository),
            one.visibility or "unknown",
            escape(one.owner or "unknown"),
            escape(", ".join(one.accounts) or "nobody"),
            count(one.bytes),
            _hours(one.private_gb_hours),
            _hours(one.public_gb_hours),
            f"{one.drift_bytes:+,}" if one.drift_bytes else "",
        )
    console.print(shown)


def print_verdicts_in_short(console: Console, verdicts: Sequence[GuardVerdict]) -> None:
    """Print which guards hold or warn, and on how many days; what they say is on the status page."""
    if not verdicts:
        return
    days: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for one in verdicts:
        days[one.status, one.asset, one.guard].append(one.partition_key)
    shown = table("Guards that did not simply pass", "status", "asset", "guard", "days")
    for (status, asset, guard), keys in sorted(days.items()):
        style = STATUS_STYLE.get(status, "default")
        shown.add_row(f"[{style}]{status}[/]", asset, guard, ", ".join(sorted(keys)))
    console.print(shown)
    console.print("What they say, and what to do: billing status")


def _hours(gb_hours: Decimal) -> str:
    text = f"{gb_hours.quantize(Decimal('0.01')):,f}"
    return text.rstrip("0").rstrip(".")
