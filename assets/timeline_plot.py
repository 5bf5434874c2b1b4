"""Draw a repository's size over a day or more as a small picture inside Markdown: SVG, as assets/plots does, and as short.

Private is dark, public light, unknown grey; a tick below is a snapshot. Not here: reading the timeline (timeline_reader).
"""

import base64
from collections.abc import Sequence
from datetime import timedelta

from resources.timeline_reader import RepositoryTimeline, TimelineState

WIDTH, HEIGHT = 480, 60
# Wide enough to tell steps apart, few enough that the picture stands in Dagster's page without a click.
COLUMNS = 30
_COLOURS = (("private", "#54d"), ("public", "#9c9"), (None, "#bbb"))
_SNAPSHOTS_SHOWN = 7


def timeline_picture(timeline: RepositoryTimeline) -> str:
    """Return Markdown with bytes over time and the largest size; of a column the state at its middle."""
    states = timeline.states
    if not states:
        return f"{timeline.repository}: nothing is stored."
    start, end = states[0].start, states[-1].end
    largest = max(state.bytes for state in states)
    width = WIDTH // COLUMNS
    middles = [start + (end - start) * (2 * column + 1) / (2 * COLUMNS) for column in range(COLUMNS)]
    columns = [next((one for one in states if one.start <= at < one.end), None) for at in middles]
    areas = "".join(
        f"<path fill='{colour}' d='{path}'/>"
        for visibility, colour in _COLOURS
        if (path := _area(columns, visibility, largest, width))
    )
    shown = [mark.at for mark in timeline.marks if mark.kind == "snapshot"][-_SNAPSHOTS_SHOWN:]
    ticks = "".join(f"M{WIDTH * ((at - start) // timedelta(seconds=1)) // max(1, (end - start) // timedelta(seconds=1))} 61v5"
                    for at in shown)  # fmt: skip
    picture = (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 -15 {WIDTH} 92' width='{WIDTH}' font-size='12' fill='#777'>"
        f"<text y='-4'>{largest:,}</text>{areas}<path stroke='#222' d='{ticks}'/>"
        f"<text y='76'>{start:%m-%d %H:%M}</text><text x='{WIDTH}' y='76' text-anchor='end'>{end:%m-%d %H:%M}</text></svg>"
    )
    title = f"{timeline.repository}".replace("[", "(").replace("]", ")")
    return f"![{title}](data:image/svg+xml;base64,{base64.b64encode(picture.encode()).decode()})"


def _area(columns: Sequence[TimelineState | None], visibility: str | None, largest: int, width: int) -> str:
    """Return the outline of the columns with this visibility: neighbours hang together, those of one height are one bar."""
    heights = [_height(column, visibility, largest) for column in columns]
    path, before = "", 0
    for number, height in enumerate([*heights, 0]):
        if height == before:
            continue
        # the bar before ends here, and the next one goes up from its edge
        path += f"H{number * width}" if before else f"M{number * width} {HEIGHT}"
        path += f"V{HEIGHT - height}"
        before = height
    return path


def _height(state: TimelineState | None, visibility: str | None, largest: int) -> int:
    if state is None or state.visibility != visibility or not state.bytes:
        return 0
    return max(1, HEIGHT * state.bytes // largest)
