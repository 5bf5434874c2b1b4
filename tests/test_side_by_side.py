"""Several fetches at once: their order is kept, few are ahead, and a failure comes when its turn comes."""

import threading
from collections.abc import Iterator

import pytest

from resources.stripe_mirror.side_by_side import side_by_side


class TestSideBySide:
    def test_keeps_the_order_whichever_is_done_first(self) -> None:
        second_done = threading.Event()

        def work(number: int) -> int:
            if number == 0:
                assert second_done.wait(5)
            second_done.set()
            return number * 10

        assert list(side_by_side(work, range(20), at_once=4)) == [(number, number * 10) for number in range(20)]

    def test_takes_no_more_ahead_than_it_may(self) -> None:
        taken = 0

        def ones() -> Iterator[int]:
            nonlocal taken
            for number in range(100):
                taken += 1
                yield number

        found = side_by_side(str, ones(), at_once=3)
        assert [next(found) for _ in range(5)] == [(number, str(number)) for number in range(5)]
        assert taken <= 8

    def test_raises_where_its_turn_is_after_what_was_before(self) -> None:
        def work(number: int) -> int:
            if number == 3:
                raise ValueError("away")
            return number

        found = side_by_side(work, range(10), at_once=8)
        assert [next(found) for _ in range(3)] == [(0, 0), (1, 1), (2, 2)]
        with pytest.raises(ValueError, match="away"):
            next(found)

    def test_of_nothing_is_nothing(self) -> None:
        assert list(side_by_side(str, [])) == []
