"""Levels against walking through the changes instant by instant."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from billing_pipeline.levels import Change, combined, level_state, unchanged
from billing_pipeline.periods import Window

JUNE = Window(datetime(2026, 6, 1, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC))
DAY = Window(JUNE.start, JUNE.start + timedelta(seconds=24))

changes = st.lists(
    st.builds(
        Change,
        at=st.integers(0, 23).map(lambda second: DAY.start + timedelta(seconds=second)),
        value=st.decimals(-9, 9, places=1),
        is_set=st.booleans(),
    ),
    max_size=8,
)
levels = st.decimals(-9, 9, places=1)


def walked(found: list[Change], opening: Decimal) -> tuple[Fraction, Decimal, Decimal]:
    """Return mean, highest and last level, second by second."""
    level, seen = opening, []
    for second in range(24):
        at = DAY.start + timedelta(seconds=second)
        for change in sorted((one for one in found if one.at == at), key=lambda one: not one.is_set):
            level = Decimal(change.value) if change.is_set else level + Decimal(change.value)
        seen.append(level)
    return sum(map(Fraction, seen), Fraction(0)) / 24, max(seen), level


def unambiguous(found: list[Change]) -> list[Change]:
    """Leave one setting at each instant: two would contradict each other."""
    kept: dict[tuple[datetime, object], Change] = {}
    for number, change in enumerate(found):
        kept[change.at, None if change.is_set else number] = change
    return list(kept.values())


class TestLevelState:
    def test_gives_the_mean_of_a_level_that_rises_in_june(self) -> None:
        state = level_state([Change(at=datetime(2026, 6, 1, 14, tzinfo=UTC), value=Decimal(4))], JUNE)
        assert state.mean(Decimal(0)) == Fraction(2824, 720)
        half = level_state([Change(at=datetime(2026, 6, 16, tzinfo=UTC), value=Decimal(10))], JUNE)
        assert half.mean(Decimal(0)) == 5

    def test_carries_what_it_begins_with(self) -> None:
        state = unchanged(JUNE)
        assert (state.mean(Decimal(7)), state.highest(Decimal(7)), state.closing(Decimal(-3))) == (7, 7, -3)

    def test_does_not_count_an_opening_that_is_replaced_at_once(self) -> None:
        state = level_state([Change(at=JUNE.start, value=Decimal(5), is_set=True)], JUNE)
        assert (state.highest(Decimal(1000)), state.mean(Decimal(1000))) == (5, 5)

    @given(changes, levels)
    def test_agrees_with_a_walk_by_the_second(self, found: list[Change], opening: Decimal) -> None:
        found = unambiguous(found)
        state = level_state(found, DAY)
        mean, highest, last = walked(found, opening)
        assert (Fraction(state.mean(opening)), state.highest(opening), state.closing(opening)) == (mean, highest, last)

    @given(changes, st.sets(st.integers(1, 23), max_size=4), levels, st.randoms(use_true_random=False))
    def test_states_of_parts_combine_to_the_whole(
        self, found: list[Change], cuts: set[int], opening: Decimal, random: object
    ) -> None:
        found = unambiguous(found)
        marks = [DAY.start, *(DAY.start + timedelta(seconds=cut) for cut in sorted(cuts)), DAY.end]
        parts = [level_state(found, Window(start, end)) for start, end in pairwise(marks)]
        quiet = [part for part in parts if not any(one.at in part.window for one in found)]
        kept = [part for part in parts if part not in quiet[1:]]
        random.shuffle(kept)  # type: ignore[attr-defined]
        assert combined(kept, DAY) == level_state(found, DAY)
