"""Draw small plots for an asset's page: numbers -> a PNG inside Markdown. Not here: which numbers (metadata).

Drawing one takes about 30 ms, and importing matplotlib a second, so it is imported at the first plot.
"""

import base64
import io
from collections.abc import Sequence

WIDTH_INCHES, HEIGHT_INCHES, DOTS_PER_INCH = 6.0, 1.9, 80
BAR, TEXT = "#4f43dd", "#3f4550"


def hourly_bars(counts: Sequence[int], *, title: str) -> str:
    """Return Markdown with a bar for each hour of a UTC day. `counts`: 24 of them, from 00 on."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.subplots()
    axes.bar(range(len(counts)), counts, color=BAR, width=0.8)
    axes.set_title(title, fontsize=9, color=TEXT, loc="left")
    axes.set_xlim(-0.6, len(counts) - 0.4)
    axes.set_ylim(0, max([1, *counts]) * 1.08)
    axes.set_xticks(range(0, len(counts), 3), [f"{hour:02d}" for hour in range(0, len(counts), 3)])
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:,.0f}"))
    axes.tick_params(labelsize=8, colors=TEXT, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="y", color="#e3e4e8", linewidth=0.6)
    axes.set_axisbelow(True)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return f"![{title}](data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()})"
