"""Draw small plots for an asset's page: numbers -> a picture inside Markdown. Not here: which numbers (metadata).

Dagster shows Markdown of less than 1,000 characters where it stands, and a longer one only after a click; a PNG with readable
figures does not fit. So the picture is an SVG, and takes no plotting library.
"""

import base64
from collections.abc import Mapping, Sequence
from enum import StrEnum
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


def heat_map(rows: Sequence[str], cells: Sequence[Sequence[Cell]], *, columns: Mapping[int, str], title: str) -> str:
    """Return Markdown with a row of cells for each name in `rows`. `columns`: labels below, by the cell's place in its row.

    Cells of one colour are one path, so that many nodes and hours stay small.
    """
    left = 9 * max((len(name) for name in rows), default=0)
    height = len(rows) * WIDTH
    paths = ""
    for kind in Cell:
        squares = "".join(
            f"M{left + column * WIDTH} {row * WIDTH}h18v18h-18z"
            for row, line in enumerate(cells)
            for column, cell in enumerate(line)
            if cell is kind
        )
        if squares:
            paths += f"<path fill='{kind.value}' d='{squares}'/>"
    names = "".join(f"<text y='{row * WIDTH + 14}'>{escape(name)}</text>" for row, name in enumerate(rows))
    labels = "".join(
        f"<text x='{left + column * WIDTH}' y='{height + 14}'>{escape(label)}</text>"
        for column, label in columns.items()
    )
    seen = [kind for kind in Cell if any(kind in line for line in cells)]
    key = "".join(
        f"<rect x='{place * 90}' y='{height + 22}' width='12' height='12' fill='{kind.value}'/>"
        f"<text x='{place * 90 + 16}' y='{height + 33}'>{_MEANINGS[kind]}</text>"
        for place, kind in enumerate(seen)
    )
    width = left + max(max((len(line) for line in cells), default=0) * WIDTH, 90 * len(seen))
    picture = (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 -4 {width} {height + 42}' width='{min(width, 900)}' "
        f"font-size='13' font-family='sans-serif' fill='#777'>{names}{paths}{labels}{key}</svg>"
    )
    return f"![{title}](data:image/svg+xml;base64,{base64.b64encode(picture.encode()).decode()})"
