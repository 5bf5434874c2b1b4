"""Draw small plots for an asset's page: numbers -> a picture inside Markdown. Not here: which numbers (metadata).

Dagster shows Markdown of less than 1,000 characters where it stands, and a longer one only after a click; a PNG with readable
figures does not fit. So the picture is an SVG, and takes no plotting library.
"""

import base64
from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import groupby
from xml.sax.saxutils import escape

# What Dagster shows without a click.
INLINE_CHARACTERS = 1_000

WIDTH, HEIGHT = 20, 60


class Cell(StrEnum):
    """How a cell of a heat map stands; the value is its colour."""

    GOOD = "#4a8"
    CLOSED = "#89b"
    PARTIAL = "#ec5"
    BAD = "#d54"
    NONE = "#ddd"


_MEANINGS = {Cell.GOOD: "complete", Cell.PARTIAL: "partial", Cell.BAD: "gap", Cell.CLOSED: "closed", Cell.NONE: "none"}


def hourly_bars(counts: Sequence[int], *, title: str) -> str:
    """Return Markdown with a bar for each hour of a UTC day and the largest count. `counts`: 24 of them, from 00 on."""
    largest = max(counts, default=0)
    bars = "".join(
        f"M{hour * WIDTH + 8} {HEIGHT}v-{max(1, HEIGHT * count // largest)}"
        for hour, count in enumerate(counts)
        if count
    )
    hours = "".join(f"<text x='{hour * WIDTH}' y='75'>{hour:02d}</text>" for hour in range(0, len(counts), 6))
    picture = (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 -17 {len(counts) * WIDTH} 95' width='480' font-size='12' "
        f"font-family='sans-serif' fill='#777'><text y='-5'>{largest:,}</text>"
        f"<path stroke='#54d' stroke-width='16' d='{bars}'/>{hours}</svg>"
    )
    return f"![{title}](data:image/svg+xml;base64,{base64.b64encode(picture.encode()).decode()})"


def signed_bars(values: Mapping[str, int], *, title: str) -> str:
    """Return Markdown with a horizontal bar for each name: to the right above 0, to the left below."""
    largest = max((abs(value) for value in values.values()), default=0) or 1
    rows = "".join(
        f"<text y='{row * 18 + 13}'>{escape(name[:14])}</text>"
        f"<path stroke='{'#54d' if value >= 0 else '#d54'}' stroke-width='12' d='M250 {row * 18 + 9}h{150 * value // largest}'/>"
        for row, (name, value) in enumerate(values.items())
    )
    picture = (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 400 {18 * len(values)}' width='400' font-size='12' "
        f"font-family='sans-serif' fill='#777'>{rows}</svg>"
    )
    return f"![{title}](data:image/svg+xml;base64,{base64.b64encode(picture.encode()).decode()})"


def heat_map(rows: Sequence[str], cells: Sequence[Sequence[Cell]], *, columns: Mapping[int, str], title: str) -> str:
    """Return Markdown with a row of cells for each name in `rows`. `columns`: labels below, by the cell's place in its row.

    Neighbours of one colour are drawn as one bar, so that a few nodes stay short enough to be shown without a click.
    """
    left = 8 * max((len(name) for name in rows), default=0)
    height = len(rows) * WIDTH
    bars: dict[Cell, str] = {}
    for row, line in enumerate(cells):
        column = 0
        for kind, run in groupby(line):
            length = len(list(run))
            bars[kind] = (
                bars.get(kind, "")
                + f"M{left + column * WIDTH} {row * WIDTH}h{length * WIDTH - 2}v18h-{length * WIDTH - 2}z"
            )
            column += length
    paths = "".join(f"<path fill='{kind}' d='{drawn}'/>" for kind, drawn in bars.items())
    names = "".join(f"<text y='{row * WIDTH + 14}'>{escape(name)}</text>" for row, name in enumerate(rows))
    labels = "".join(
        f"<text x='{left + column * WIDTH}' y='{height + 13}'>{escape(label)}</text>"
        for column, label in columns.items()
    )
    seen = [kind for kind in Cell if kind in bars]
    key = "".join(
        f"<text x='{place * 80}' y='{height + 30}' fill='{kind}'>■ {_MEANINGS[kind]}</text>"
        for place, kind in enumerate(seen)
    )
    width = left + max(max((len(line) for line in cells), default=0) * WIDTH, 80 * len(seen))
    picture = (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 -3 {width} {height + 38}' width='{min(width, 900)}' "
        f"font-size='13' fill='#777'>{names}{paths}{labels}{key}</svg>"
    )
    return f"![{title}](data:image/svg+xml;base64,{base64.b64encode(picture.encode()).decode()})"
