"""`billing timeline REPO`: a repository's states, what snapshots say against events, and a picture. Not here: reading it."""

from decimal import Decimal
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from console.days import DayRange
from console.kept_names import kept
from console.screen import count, page, table
from console.timeline_plot import draw_timeline
from resources.lake import Lake
from resources.runtime import running
from resources.settings import Settings
from resources.timeline_reader import RepositoryTimeline, read_timeline

_BASES = {
    "snapshot": "snapshot",
    "events": "snapshot and events",
    "carried_back": "before the first snapshot, events undone",
    "no_snapshot": "events alone",
}


def show_timeline(settings: Settings, repository: str, days: DayRange | None, *, target: Path | None = None) -> None:
    """Print the repository's timeline of `days`, or all of it, and draw it into `target` (below the home if None).

    An e-mail address in the name is looked up under its pseudonym.

    Raises:
        RepositoryUnknownError: no day knows the repository.
    """
    with running(settings) as runtime:
        found = read_timeline(
            runtime.database,
            Lake(settings.lake_url, settings.scratch_dir),
            settings.scratch_dir,
            kept(settings, repository),
            first=days.first if days else None,
            last=days.last if days else None,
        )
        print_timeline(page(), found)
        if found.states:
            drawn = draw_timeline(found, target or settings.home / "plots" / f"{_file_name(found.repository)}.png")
            page().print(f"Plot: {drawn}")


def print_timeline(console: Console, found: RepositoryTimeline) -> None:
    """Print states, totals and drifts."""
    numbers = ("bytes", "GB h")
    states = table(f"Timeline of {found.repository} (UTC)", "from", "to", "bytes", "visibility", "owner", "account", "GB h", "by",
                   numbers=numbers)  # fmt: skip
    for one in found.states:
        states.add_row(
            f"{one.start:%Y-%m-%d %H:%M:%S}",
            f"{one.end:%Y-%m-%d %H:%M:%S}",
            count(one.bytes),
            one.visibility or "unknown",
            escape(one.owner or "unknown"),
            escape(one.account_id or "nobody"),
            _hours(one.gb_hours),
            _BASES[one.basis],
        )
    console.print(states)
    console.print(
        f"private {_hours(found.gb_hours('private'))} GB h (counts), public {_hours(found.gb_hours('public'))} GB h; "
        f"{count(sum(mark.kind == 'snapshot' for mark in found.marks))} snapshots, "
        f"{count(sum(mark.kind != 'snapshot' for mark in found.marks))} events"
    )
    if not found.drifts:
        console.print("Every snapshot agrees with the events before it.")
        return
    drifts = table("Snapshots that disagree with the events before them", "snapshot", "events gave", "snapshot says", "drift",
                   "visibility", "unsized events", numbers=("events gave", "snapshot says", "drift", "unsized events"))  # fmt: skip
    for drift in found.drifts:
        drifts.add_row(
            f"{drift.snapshot_at:%Y-%m-%d %H:%M:%S}" + (" (not named)" if drift.is_missing else ""),
            "nothing" if drift.derived_bytes is None else count(drift.derived_bytes),
            count(drift.snapshot_bytes),
            f"{drift.drift_bytes:+,}",
            f"{drift.derived_visibility} -> {drift.snapshot_visibility}" if drift.visibility_mismatch else "",
            count(drift.unsized_events),
        )
    console.print(drifts)


def _hours(gb_hours: Decimal) -> str:
    """Return GB hours for reading: six places at most, no more zeros than needed."""
    text = f"{gb_hours.quantize(Decimal('0.000001')):,f}"
    return text.rstrip("0").rstrip(".")


def _file_name(repository: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in repository)
