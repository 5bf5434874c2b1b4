"""Draw a repository's size over a day or more as a small picture inside Markdown: SVG, as assets/plots does, and as short.

Private is dark, public light, unknown grey; a dark tick below is a snapshot, a red one an event. Not here: reading the timeline
(timeline_reader).
"""

import base64
from collections.abc import Sequence
from datetime import datetime, timedelta

from assets.plots import INLINE_CHARACTERS
from resources.timeline_reader import RepositoryTimeline, TimelineState

WIDTH, HEIGHT = 480, 60
# Wide enough to tell steps apart, few enough that the picture stands in Dagster's page without a click.
COLUMNS = 30
_COLOURS = (("private", "#54d"), ("public", "#9c9"), (None, "#bbb"))
_SNAPSHOTS_SHOWN = 7
# Places of the last events: as many as leave the picture short enough.
_EVENTS_SHOWN = (24, 12, 6, 3)


def timeline_picture(timeline: RepositoryTimeline) -> str:
    """Return Markdown with bytes over time and the largest size; of a column the state at its middle."""
    if not timeline.states:
        return f"{timeline.repository}: nothing is stored."
    pictures = (_picture(timeline, events) for events in _EVENTS_SHOWN)
    return next((one for one in pictures if len(one) < INLINE_CHARACTERS), _picture(timeline, 0))


def _picture(timeline: RepositoryTimeline, events_shown: int) -> str:
    states = timeline.states
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
    snapshots = [mark.at for mark in timeline.marks if mark.kind == "snapshot"][-_SNAPSHOTS_SHOWN:]
    events = [mark.at for mark in timeline.marks if mark.kind != "snapshot"]
    seconds = max(1, (end - start) // timedelta(seconds=1))

    def ticks(instants: Sequence[datetime], most: int) -> str:
        places = dict.fromkeys(WIDTH * ((at - start) // timedelta(seconds=1)) // seconds for at in instants)
        return "".join(f"M{place} 61v5" for place in list(places)[-most:] if most)

    picture = (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 -15 {WIDTH} 92' width='{WIDTH}' font-size='12' fill='#777'>"
        f"<text y='-4'>{largest:,}</text>{areas}<path stroke='#222' d='{ticks(snapshots, _SNAPSHOTS_SHOWN)}'/>"
        f"<path stroke='#c51' d='{ticks(events, events_shown)}'/>"
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
