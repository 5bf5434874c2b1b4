"""Actions that came several times: shared events, corrections of one half, corrections of corrections; SQL and reference alike."""

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing_pipeline.timelines import ObjectEvent, counted_once
from tests.storage_chain import Facts
from tests.storage_days import GB, at, put, snapshot
from tests.test_storage_sql import Chain

HALF = put("ann/cats", at(1, 12), 5 * GB, event_id="mine", object_id="k", shared_event_id="shared")[1]
OTHER_HALF = replace(HALF, event_id="theirs")


def correction(event_id: str, original: str, size: int, **fields: Any) -> ObjectEvent:
    return replace(
        HALF, event_id=event_id, original_event_id=original, size_bytes=size, **({"shared_event_id": None} | fields)
    )


CASES = {
    "of one half": ([HALF, OTHER_HALF, correction("c", "mine", 2 * GB)], [2 * GB]),
    "of the other half": ([HALF, OTHER_HALF, correction("c", "theirs", 2 * GB)], [2 * GB]),
    "of each half": (
        [HALF, OTHER_HALF, correction("c1", "mine", 2 * GB), correction("c2", "theirs", 2 * GB)],
        [2 * GB],
    ),
    "of each half, which share an id of their own": (
        [
            HALF,
            OTHER_HALF,
            correction("c1", "mine", 2 * GB, shared_event_id="again"),
            correction("c2", "theirs", 2 * GB, shared_event_id="again"),
        ],
        [2 * GB],
    ),
    "of which a half never came, sharing an id": (
        [
            HALF,
            correction("c1", "mine", 2 * GB, shared_event_id="again"),
            correction("c2", "theirs", 2 * GB, shared_event_id="again"),
        ],
        [2 * GB],
    ),
    "of a correction": ([HALF, OTHER_HALF, correction("c1", "mine", 3 * GB), correction("c2", "c1", 2 * GB)], [2 * GB]),
    "of what never came": ([correction("c1", "never", 2 * GB)], [2 * GB]),
    "of another action": (
        [HALF, OTHER_HALF, put("ann/cats", at(1, 12), GB, event_id="another", object_id="n")[1]],
        [GB, 5 * GB],
    ),
}


class TestCorrections:
    @pytest.mark.parametrize("case", CASES)
    def test_leave_one_event_of_the_action(self, case: str) -> None:
        events, sizes = CASES[case]
        for order in (events, events[::-1], [*events, *events]):
            assert sorted(one.size_bytes or 0 for one in counted_once(order)) == sizes

    @pytest.mark.parametrize("case", CASES)
    def test_leave_one_event_of_the_action_in_sql(self, case: str, tmp_path: Path) -> None:
        events, sizes = CASES[case]
        facts = Facts(
            snapshots=[snapshot("ann/cats", at(1), GB)], object_events=[("ann/cats", event) for event in events]
        )
        assert Chain(tmp_path, facts).segments("ann/cats")[-1][2] == GB + sum(sizes)


class TestCorrectionsOfAnotherDay:
    """What moves an event to another day does not find it there; an object is counted once all the same."""

    def states(self, tmp_path: Path, moved: ObjectEvent) -> list[tuple[datetime, int]]:
        told = [snapshot("ann/cats", at(1), GB), snapshot("ann/cats", at(3), 3 * GB)]
        facts = Facts(snapshots=told, object_events=[("ann/cats", HALF), ("ann/cats", moved)])
        found: list[tuple[datetime, int]] = []
        for start, _, size, *_ in Chain(tmp_path, facts).segments("ann/cats"):
            if not found or found[-1][1] != size:
                found.append((start, size))
        return found

    def test_leave_one_size_of_the_object_from_the_later_instant_on(self, tmp_path: Path) -> None:
        moved = correction("c", "mine", 2 * GB, at=at(2, 6))
        assert self.states(tmp_path, moved) == [(at(1), GB), (at(1, 12), 6 * GB), (at(2, 6), 3 * GB)]

    def test_that_name_another_object_count_beside_it_until_the_next_snapshot(self, tmp_path: Path) -> None:
        moved = correction("c", "mine", 2 * GB, at=at(2, 6), object_id="other")
        assert self.states(tmp_path, moved) == [
            (at(1), GB), (at(1, 12), 6 * GB), (at(2, 6), 8 * GB), (at(3), 3 * GB),
        ]  # fmt: skip


EVENTS = st.lists(
    st.builds(
        lambda number, original, shared: replace(
            HALF,
            event_id=f"e{number}",
            object_id=f"o{number}",
            size_bytes=1 << number,
            original_event_id=original if original != f"e{number}" else None,
            shared_event_id=shared,
        ),
        st.integers(0, 9),
        st.sampled_from([None, None, *(f"e{number}" for number in range(10))]),
        st.sampled_from([None, None, "s1", "s2"]),
    ),
    max_size=8,
    unique_by=lambda event: event.event_id,
)


class TestAnyActions:
    # Each example is twelve histories in one pass of the SQL.
    @settings(max_examples=settings.default.max_examples // 5)
    @given(st.lists(EVENTS, min_size=12, max_size=12))
    def test_count_the_same_events_in_sql(
        self, tmp_path_factory: pytest.TempPathFactory, histories: list[list[ObjectEvent]]
    ) -> None:
        def named(number: int, text: str | None) -> str | None:
            return None if text is None else f"r{number}{text}"

        told = {
            f"r{number:02}": [
                replace(
                    one,
                    event_id=f"r{number}{one.event_id}",
                    original_event_id=named(number, one.original_event_id),
                    shared_event_id=named(number, one.shared_event_id),
                )
                for one in events
            ]
            for number, events in enumerate(histories)
        }
        facts = Facts(object_events=[(name, event) for name, events in told.items() for event in events])
        chain = Chain(tmp_path_factory.mktemp("scan"), facts)
        for name, events in told.items():
            counted = sum(event.size_bytes or 0 for event in counted_once(events))
            states = chain.segments(name)
            assert (states[-1][2] if states else 0) == counted
