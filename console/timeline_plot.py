"""Draw a repository's size over time into a picture file: private and public shaded, snapshots and events marked.

Not here: reading it (timeline_reader), the small picture of an asset's page (assets/timeline_plot).
"""

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure

from resources.timeline_reader import RepositoryTimeline, TimelineState

_COLOURS = {"private": "#5b4bd6", "public": "#8fbf8f", None: "#bbbbbb"}
_NAMES = {"private": "private (counts)", "public": "public", None: "visibility unknown"}
_UNITS = ((10**15, "PB"), (10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"), (1, "bytes"))
# More marks than this are a band of colour.
_EVENTS_SHOWN = 400


def draw_timeline(timeline: RepositoryTimeline, target: Path) -> Path:
    """Write the picture, its format by the file's name, and return its path."""
    scale, unit = _unit(max((state.bytes for state in timeline.states), default=0))
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    axes = figure.add_subplot()
    _draw_states(axes, timeline.states, scale)
    tallest = max((state.bytes / scale for state in timeline.states), default=1) or 1
    axes.set_ylim(-0.09 * tallest, 1.12 * tallest)
    snapshots = [mark for mark in timeline.marks if mark.kind == "snapshot"]
    events = [mark for mark in timeline.marks if mark.kind != "snapshot"][-_EVENTS_SHOWN:]
    axes.plot(
        _numbers([mark.at for mark in snapshots]),
        [(mark.bytes or 0) / scale for mark in snapshots],
        "o", color="#222222", markersize=5, label="snapshot", linestyle="none", zorder=4,
    )  # fmt: skip
    axes.plot(
        _numbers([mark.at for mark in events]), [-0.045 * tallest] * len(events),
        "|", color="#c2571a", markersize=9, markeredgewidth=1.4, label="event", linestyle="none", zorder=4,
    )  # fmt: skip
    locator = AutoDateLocator()  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    if timeline.states:
        axes.set_xlim(*_numbers([timeline.states[0].start, timeline.states[-1].end]))
    axes.set_title(f"{timeline.repository}: bytes stored (UTC)")
    axes.set_ylabel(unit)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110)
    return target


def _draw_states(axes: Axes, states: Sequence[TimelineState], scale: int) -> None:
    named: set[str | None] = set()
    for state in states:
        key = state.visibility if state.visibility in _COLOURS else None
        start, end = _numbers([state.start, state.end])
        height = state.bytes / scale
        axes.fill_between(
            [start, end], 0, height, color=_COLOURS[key], alpha=0.55, linewidth=0,
            label=None if key in named else _NAMES[key],
        )  # fmt: skip
        axes.plot([start, end], [height, height], color=_COLOURS[key], linewidth=1.5)
        named.add(key)
    for before, after in pairwise(states):
        if before.end == after.start and before.bytes != after.bytes:
            (at,) = _numbers([after.start])
            axes.plot([at, at], [before.bytes / scale, after.bytes / scale], color="#777777", linewidth=1)


def _numbers(instants: Sequence[datetime]) -> list[float]:
    return [float(date2num(instant)) for instant in instants]  # type: ignore[no-untyped-call]


def _unit(largest: int) -> tuple[int, str]:
    return next(((scale, unit) for scale, unit in _UNITS if largest >= scale), (1, "bytes"))
