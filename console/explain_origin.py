"""Spell where a raw row came from, for a person: `inventory: storage/2026-06-01.json line 3`, or `jp: pulled`. Pure."""

from console.screen import count
from resources.lineage_files import Origin


def origin_text(origin: Origin) -> str:
    """Return the source with its file and line, as far as there are any."""
    if origin.key is None:
        return f"{origin.source}: pulled"
    line = "" if origin.line_number is None else f" line {count(origin.line_number)}"
    return f"{origin.source}: {origin.key}{line}"
