"""How a line of JSON is spelled around its values: what a machine writes alike in every line but for the values. Pure.

Two lines that agree in every byte outside of their values, where each value is one JSON token of the same form, hold the same
fields: the second needs no parser to be read. Not here: finding and reading the values (`resources/shaped_lines`).
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import mode

# Holds a value that is no slot, so that its field would seem to be missing.
_EMPTY_OBJECT = re.compile(rb"\{\s*\}")
# Outside of an array: a mark, a text without escapes, or a number, true, false or null.
_TOKEN = re.compile(rb'[ \t\r\n]*(?:([{}:,])|"([^"\\]*)"|([^\s{}\[\]:,"]+))')


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of a value below `keys`. The quotes of a text belong to the literals around it."""

    keys: tuple[str, ...]
    is_text: bool


@dataclass(frozen=True, slots=True)
class LineShape:
    """Literals and slots in turns, a literal first and last, that with the line's end. `lengths`: usual ones of values."""

    literals: tuple[bytes, ...]
    slots: tuple[Slot, ...]
    lengths: tuple[int, ...]


def usual_shapes(lines: Iterable[bytes]) -> tuple[LineShape, ...]:
    """Return the shapes of these lines, the most frequent first."""
    alike: dict[tuple[bytes, ...], list[LineShape]] = {}
    for line in lines:
        shape = shape_of(line)
        if shape is not None:
            alike.setdefault(shape.literals, []).append(shape)
    return tuple(
        replace(
            shapes[0], lengths=tuple(mode(lengths) for lengths in zip(*(one.lengths for one in shapes), strict=True))
        )
        for shapes in sorted(alike.values(), key=len, reverse=True)
    )


def shape_of(line: bytes) -> LineShape | None:
    """Return how `line` is spelled; None if it is not one object with a line end, has arrays, nothing in an object, escapes,
    or a key twice."""
    if not line.endswith(b"\n") or _EMPTY_OBJECT.search(line):
        return None
    try:
        value = json.loads(line.decode("ascii"), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError):
        return None
    return _scanned(line) if isinstance(value, dict) else None


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key twice")
    return table


def _scanned(line: bytes) -> LineShape | None:
    """Return the shape of what is known to be a JSON object."""
    literals, slots, lengths = [], [], []
    outer: list[str] = []
    key: str | None = None
    literal_start = at = 0
    while token := _TOKEN.match(line, at):
        mark, text, _ = token.groups()
        at = token.end()
        if mark == b"{" and key is not None:
            outer.append(key)
            key = None
        elif mark == b"}" and outer:
            outer.pop()
        elif mark == b",":
            key = None
        elif mark is None and key is None:
            key = text.decode("ascii")
        elif mark is None and key is not None:
            start, end = token.span(3 if text is None else 2)
            literals.append(line[literal_start:start])
            slots.append(Slot((*outer, key), text is not None))
            lengths.append(end - start)
            literal_start = end
    if line[at:].strip() or not slots:
        return None
    return LineShape((*literals, line[literal_start:]), tuple(slots), tuple(lengths))
