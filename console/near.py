"""Find what a person probably meant: names close to one that does not exist. Pure."""

import difflib
from collections.abc import Iterable


def near_matches(name: str, known: Iterable[str], *, limit: int = 5) -> tuple[str, ...]:
    """Return up to `limit` of the `known` names that resemble `name`, the closest first; letter case is ignored."""
    by_folded = {one.casefold(): one for one in sorted(known, reverse=True)}
    close = difflib.get_close_matches(name.casefold(), list(by_folded), n=limit, cutoff=0.5)
    inside = [folded for folded in sorted(by_folded) if name.casefold() in folded and folded not in close]
    return tuple(by_folded[folded] for folded in [*close, *inside][:limit])


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a sentence that names the near matches, or else the first few names that exist."""
    names = sorted(known)
    matches = near_matches(name, names)
    if matches:
        return f"Did you mean {' or '.join(matches)}?"
    if not names:
        return "There is none yet."
    shown = ", ".join(names[:8])
    return f"There are: {shown}." if len(names) <= 8 else f"There are {len(names)}, {shown} among them."
