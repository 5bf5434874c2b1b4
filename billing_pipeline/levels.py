"""Levels: changes of something that is held (seats, bytes, instances) -> its mean, highest and last value in a period. Pure.

A level persists until it changes: by a difference (+4), or by being set (1000). What a window does to a level depends on the
level that it begins with; `LevelState` says how, whatever that is, so that states of adjacent windows combine in order into
one of the longer window, and a late change alters the state of its own window alone. Levels may be below 0. Areas are value x
seconds, exact. Not here: byte-seconds of repositories (timelines), what a level costs (rating).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import reduce

from billing_pipeline.amounts import Exact, exact_product, exact_sum
from billing_pipeline.periods import Window

_ZERO, _ONE = Decimal(0), Decimal(1)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A level goes up or down by `value` at `at`, or becomes `value` with `is_set`. At one instant setting comes first."""

    at: datetime
    value: Exact
    is_set: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelState:
    """What `window` does to a level of `opening` that it begins with.

    It ends at `opening` (if `keeps`) + `change`; its area is `opening` x `opening_seconds` + `area`; its highest value is
    the larger of `opening` + `rise` (None: the opening is not held at any instant) and `peak` (None: it does not change).
    """

    window: Window
    keeps: bool = True
    change: Exact = _ZERO
    opening_seconds: Exact = _ZERO
    area: Exact = _ZERO
    rise: Exact | None = None
    peak: Exact | None = None

    def closing(self, opening: Exact) -> Exact:
        """Return the level at the end of the window."""
        return exact_sum([opening, self.change]) if self.keeps else self.change

    def value_seconds(self, opening: Exact) -> Exact:
        """Return the level added up over time."""
        return exact_sum([exact_product(opening, times=self.opening_seconds, over=_ONE), self.area])

    def mean(self, opening: Exact) -> Exact:
        """Return the mean over time: +4 at June 1st 14:00, from 0, is 4 x 706 / 720 = 3.9222... in June."""
        return exact_product(self.value_seconds(opening), times=_ONE, over=_seconds(self.window.start, self.window.end))

    def highest(self, opening: Exact) -> Exact:
        """Return the highest level at any instant of the window, its first included."""
        risen = None if self.rise is None else exact_sum([opening, self.rise])
        return max(value for value in (risen, self.peak) if value is not None)

    def then(self, later: "LevelState") -> "LevelState":
        """Return the state of both windows; `later` begins where this one ends.

        Raises:
            ValueError: it does not.
        """
        if later.window.start != self.window.end:
            raise ValueError(f"{later.window} does not begin where {self.window} ends")
        on_top = exact_product(self.change, times=later.opening_seconds, over=_ONE)
        later_rise = None if later.rise is None else exact_sum([self.change, later.rise])
        seconds = (self.opening_seconds, later.opening_seconds if self.keeps else _ZERO)
        return LevelState(
            window=Window(self.window.start, later.window.end),
            keeps=self.keeps and later.keeps,
            change=exact_sum([self.change, later.change]) if later.keeps else later.change,
            opening_seconds=exact_sum(seconds),
            area=exact_sum([self.area, later.area, on_top]),
            rise=_highest(self.rise, later_rise if self.keeps else None),
            peak=_highest(self.peak, later.peak, None if self.keeps else later_rise),
        )


def level_state(changes: Iterable[Change], window: Window) -> LevelState:
    """Return what the changes in `window` do; changes outside of it are left out. Their order does not matter."""
    inside = sorted(
        (change for change in changes if change.at in window), key=lambda change: (change.at, not change.is_set)
    )
    states = list(_spans(inside, window))
    return reduce(LevelState.then, states)


def unchanged(window: Window) -> LevelState:
    """Return the state of a window without changes: what lies between windows that have some."""
    return LevelState(window=window, opening_seconds=_seconds(window.start, window.end), rise=_ZERO)


def combined(states: Sequence[LevelState], window: Window) -> LevelState:
    """Return the state of `window` from those of windows inside of it that do not overlap, in any order."""
    found = None
    at = window.start
    for state in sorted(states, key=lambda state: state.window):
        if at < state.window.start:
            gap = unchanged(Window(at, state.window.start))
            found = gap if found is None else found.then(gap)
        found = state if found is None else found.then(state)
        at = state.window.end
    if at < window.end:
        gap = unchanged(Window(at, window.end))
        found = gap if found is None else found.then(gap)
    return unchanged(window) if found is None else found


def _spans(changes: Sequence[Change], window: Window) -> Iterator[LevelState]:
    """Yield a state for each span between changes; of several at one instant the level in between is at no instant."""
    start, keeps = window.start, True
    change: Exact = _ZERO
    for one in changes:
        if one.at > start:
            yield _flat(Window(start, one.at), keeps=keeps, change=change)
            start, keeps, change = one.at, True, _ZERO
        keeps, change = (False, one.value) if one.is_set else (keeps, exact_sum([change, one.value]))
    yield _flat(Window(start, window.end), keeps=keeps, change=change)


def _flat(window: Window, *, keeps: bool, change: Exact) -> LevelState:
    """Return the state of a window whose level changes at its first instant alone."""
    seconds = _seconds(window.start, window.end)
    return LevelState(
        window=window,
        keeps=keeps,
        change=change,
        opening_seconds=seconds if keeps else _ZERO,
        area=exact_product(change, times=seconds, over=_ONE),
        rise=change if keeps else None,
        peak=None if keeps else change,
    )


def _highest(*values: Exact | None) -> Exact | None:
    return max((value for value in values if value is not None), default=None)


def _seconds(start: datetime, end: datetime) -> Exact:
    return exact_product(Decimal((end - start) // _MICROSECOND), times=_ONE, over=Decimal(1_000_000))
