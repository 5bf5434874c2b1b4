"""Draw small plots for an asset's page: numbers -> a picture inside Markdown. Not here: which numbers (metadata).

Dagster shows Markdown of less than 1,000 characters where it stands, and a longer one only after a click; a PNG with readable
figures does not fit. So the picture is an SVG, and takes no plotting library.
"""

import base64
from collections.abc import Sequence

# What Dagster shows without a click.
INLINE_CHARACTERS = 1_000

WIDTH, HEIGHT = 20, 60


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
