"""What the snapshots of a node prove about a window of time: which slots have one, which are missing. Pure.

A slot is a stretch (a minute, or the exporter's longer interval) on the grid that begins at the UTC hour; windows are
half-open. Not here: where snapshots are kept and read from (resources), what a gap does to the bill (traffic_sample_checks).
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
# Snapshots this many halves of a slot apart still follow each other: an exporter that drifts across a slot's edge has missed none.
HALF_SLOTS_BETWEEN_NEIGHBOURS = 3
# A node that sends empty snapshots for so long is not idle: its per-user statistics are off.
SILENCE = timedelta(minutes=10)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICK = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A stretch of one UTC hour in which snapshots are expected. Half-open, aware UTC."""

    start: datetime
    end: datetime


def windows_of(start: datetime, end: datetime) -> tuple[Window, ...]:
    """Return the parts of UTC hours that lie between `start` and `end`, in order."""
    hours = _steps(floored(start, HOUR), end, HOUR)
    return tuple(Window(start=max(hour, start), end=min(hour + HOUR, end)) for hour in hours)


def floored(instant: datetime, step: timedelta) -> datetime:
    """Return the last instant of the grid of `step` that is not after `instant`."""
    return instant - (instant - _EPOCH) % step


def missing_slots(instants: Sequence[datetime], window: Window, slot: timedelta) -> tuple[datetime, ...]:
    """Return the starts of the whole slots inside `window` that have no snapshot.

    `instants` are those of a node's snapshots, ascending, at least from two slots before the window to two after it: a slot
    without one is not missing while its neighbours are at most one and a half slots apart.
    """
    first = floored(window.start + slot - _TICK, slot)
    return tuple(
        start for start in _steps(first, window.end - slot + _TICK, slot) if not _is_covered(instants, start, slot)
    )


def _is_covered(instants: Sequence[datetime], start: datetime, slot: timedelta) -> bool:
    following = bisect_left(instants, start)
    if following == len(instants):
        return False
    if instants[following] < start + slot:
        return True
    return following > 0 and instants[following] - instants[following - 1] <= slot * HALF_SLOTS_BETWEEN_NEIGHBOURS / 2


def ranges_of(slots: Sequence[datetime], *, slot: timedelta, overlap: timedelta) -> tuple[Window, ...]:
    """Return the fewest stretches to read so that every slot, and `overlap` before it, is read. `slots` ascend."""
    ranges: list[Window] = []
    for start in slots:
        wanted = Window(start=start - overlap, end=start + slot)
        if ranges and wanted.start <= ranges[-1].end:
            ranges[-1] = Window(start=ranges[-1].start, end=wanted.end)
        else:
            ranges.append(wanted)
    return tuple(ranges)


def silences(snapshots: Sequence[tuple[datetime, int]], slot: timedelta) -> tuple[Window, ...]:
    """Return the stretches of ten minutes or more in which every snapshot was empty.

    `snapshots`: (instant, number of samples), ascending. A stretch ends a slot after its last empty snapshot.
    """
    found: list[Window] = []
    first: datetime | None = None
    for position, (instant, samples) in enumerate(snapshots):
        if samples:
            first = None
            continue
        first = instant if first is None else first
        is_last = position + 1 == len(snapshots) or snapshots[position + 1][1] > 0
        if is_last and instant + slot - first >= SILENCE:
            found.append(Window(start=first, end=instant + slot))
    return tuple(found)


def _steps(start: datetime, end: datetime, step: timedelta) -> Iterator[datetime]:
    """Yield `start` and every `step` after it, up to before `end`."""
    while start < end:
        yield start
        start += step
