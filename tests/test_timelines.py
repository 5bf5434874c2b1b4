"""Timelines by the reference: every figure of the worked examples, and laws over order, repetition and gaps."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing_pipeline.timelines import (
    COMPLETION,
    Basis,
    ObjectEvent,
    RepositoryEvent,
    Snapshot,
    Timeline,
    counted_once,
    timeline,
)

GB = 10**9
GB_HOUR = GB * 3600
JULY = datetime(2026, 7, 1, tzinfo=UTC)


def at(day: int, hour: int = 0, *, second: int = 0) -> datetime:
    return datetime(2026, 6, day, hour, 0, second, tzinfo=UTC)


def put(when: datetime, size: int, key: str = "", **fields: Any) -> ObjectEvent:
    key = key or when.isoformat()
    return ObjectEvent(event_id=f"put {key} {when}", at=when, object_id=key, action="put", size_bytes=size, **fields)


def delete(when: datetime, key: str, **fields: Any) -> ObjectEvent:
    return ObjectEvent(event_id=f"delete {key} {when}", at=when, object_id=key, action="delete", **fields)


def turned(when: datetime, value: str, kind: str = "visibility", event_id: str = "") -> RepositoryEvent:
    return RepositoryEvent(event_id=event_id or f"{value} {when}", at=when, kind=kind, value=value)


def snapshot(when: datetime, size: int, visibility: str | None = "private", **fields: Any) -> Snapshot:
    return Snapshot(at=when, size_bytes=size, visibility=visibility, **fields)


Input = Snapshot | ObjectEvent | RepositoryEvent
EXAMPLE: tuple[Input, ...] = (
    put(at(1, 5), 2 * GB),
    snapshot(at(1, 7), 2 * GB, "public"),
    put(at(1, 12), 2 * GB),
    turned(at(1, 14), "private"),
    snapshot(at(2, 7), 4 * GB),
)


def assembled(inputs: Sequence[Input], end: datetime) -> Timeline:
    return timeline(
        [one for one in inputs if isinstance(one, Snapshot)],
        [one for one in inputs if isinstance(one, ObjectEvent)],
        [one for one in inputs if isinstance(one, RepositoryEvent)],
        end=end,
    )


def gb_hours(found: Timeline, visibility: str | None = "private") -> Decimal:
    return found.byte_seconds(visibility) / GB_HOUR


def states(found: Timeline) -> list[tuple[datetime, Decimal, str | None]]:
    return [(one.start, Decimal(one.size_bytes) / GB, one.visibility) for one in found.segments]


class TestTheWorkedExample:
    def test_has_four_segments_and_their_bytes(self) -> None:
        found = assembled(EXAMPLE, at(2, 7))
        assert [(one.start, one.end, one.size_bytes, one.visibility, one.basis) for one in found.segments] == [
            (at(1, 5), at(1, 7), 2 * GB, "public", Basis.CARRIED_BACK),
            (at(1, 7), at(1, 12), 2 * GB, "public", Basis.SNAPSHOT),
            (at(1, 12), at(1, 14), 4 * GB, "public", Basis.EVENTS),
            (at(1, 14), at(2, 7), 4 * GB, "private", Basis.EVENTS),
        ]
        assert [one.byte_seconds for one in found.segments] == [
            14_400 * GB, 36_000 * GB, 28_800 * GB, 244_800_000_000_000,
        ]  # fmt: skip
        assert found.byte_seconds("public") == 79_200 * GB
        assert (gb_hours(found), gb_hours(found, "public")) == (68, 22)
        assert [drift.drift_bytes for drift in found.drifts] == [0]

    @pytest.mark.parametrize(
        ("end", "hours", "gb_months"), [(at(2, 7), 68, "0.094444"), (at(3), 136, "0.188889"), (JULY, 2824, "3.922222")]
    )
    def test_reaches_to_the_end_that_is_asked_for(self, end: datetime, hours: int, gb_months: str) -> None:
        found = gb_hours(assembled(EXAMPLE, end))
        assert found == hours
        assert (found / 720).quantize(Decimal("0.000001")) == Decimal(gb_months)

    def test_is_the_same_in_all_orders_and_with_every_input_twice(self) -> None:
        expected = assembled(EXAMPLE, at(3))
        orders = list(permutations(EXAMPLE))
        assert len(orders) == 120
        for order in orders:
            assert assembled(order, at(3)) == expected
            assert assembled([one for one in order for _ in range(2)], at(3)) == expected

    def test_without_events_bills_nothing_up_to_the_second_snapshot(self) -> None:
        found = assembled([one for one in EXAMPLE if isinstance(one, Snapshot)], at(2, 7))
        assert gb_hours(found) == 0

    def test_a_lost_put_is_34_gb_hours_and_a_drift(self) -> None:
        found = assembled([one for one in EXAMPLE if one is not EXAMPLE[2]], at(3))
        assert gb_hours(assembled([one for one in EXAMPLE if one is not EXAMPLE[2]], at(2, 7))) == 34
        assert found.drifts[1].drift_bytes == 2_000_000_000
        assert not found.drifts[1].visibility_mismatch

    def test_a_lost_visibility_event_is_nothing_billed_and_a_mismatch(self) -> None:
        inputs = [one for one in EXAMPLE if not isinstance(one, RepositoryEvent)]
        assert gb_hours(assembled(inputs, at(2, 7))) == 0
        (_, second) = assembled(inputs, at(3)).drifts
        assert (second.drift_bytes, second.visibility_mismatch) == (0, True)


class TestQuantities:
    def test_deletes_and_drift_are_8814_gb_hours(self) -> None:
        inputs = [
            snapshot(at(1), 10 * GB, objects={"old": (3 * GB, None)}),
            put(at(10, 12), 5 * GB),
            delete(at(20, 6), "old"),
            snapshot(at(25), 11_500_000_000),
        ]
        found = assembled(inputs, JULY)
        assert gb_hours(found) == 8814
        assert (gb_hours(found) / 720).quantize(Decimal("0.000001")) == Decimal("12.241667")
        assert found.drifts[1].drift_bytes == -500_000_000

    def test_private_for_a_third_of_the_month(self) -> None:
        inputs = [snapshot(at(1), 20 * GB, "public"), turned(at(11), "private"), turned(at(21), "public")]
        assert (gb_hours(assembled(inputs, JULY)) / 720).quantize(Decimal("0.000001")) == Decimal("6.666667")

    @pytest.mark.parametrize(("year", "month", "days"), [(2026, 7, 31), (2026, 2, 28), (2028, 2, 29)])
    def test_4_gb_over_any_month_are_4_gb_months(self, year: int, month: int, days: int) -> None:
        start = datetime(year, month, 1, tzinfo=UTC)
        found = assembled([snapshot(start, 4 * GB)], start + timedelta(days=days))
        assert found.byte_seconds("private") / (GB * days * 86_400) == 4

    def test_a_transfer_at_half_is_half_and_half(self) -> None:
        found = assembled([snapshot(at(1), 120 * GB, owner="a"), turned(at(16), "b", "owner")], JULY)
        held = {one.owner: one.byte_seconds / GB_HOUR / 720 for one in found.segments}
        assert held == {"a": 60, "b": 60}

    def test_a_petabyte_over_years_loses_no_digit(self) -> None:
        found = assembled([snapshot(at(1), 10**15 + 1)], at(1) + timedelta(days=4000, microseconds=1))
        assert str(found.byte_seconds()) == "345600000000001345600000.000001"

    def test_instants_finer_than_a_second_are_exact(self) -> None:
        start = at(1) + timedelta(microseconds=1)
        found = assembled([snapshot(at(1), 3), put(start, 10**15)], at(1) + timedelta(seconds=2))
        assert found.byte_seconds() == Decimal(3 * 1 + (10**15 + 3) * 1_999_999) / 10**6


class TestObjects:
    HELD = snapshot(at(1), 10, objects={"k": (4, "v1")})

    def test_a_put_over_a_known_key_adds_the_difference(self) -> None:
        found = assembled([self.HELD, put(at(1, 1), 7, "k"), put(at(1, 2), 1, "k")], at(1, 3))
        assert [one.size_bytes for one in found.segments] == [10, 13, 7]

    def test_a_deleted_key_takes_nothing_away_again_and_comes_back_whole(self) -> None:
        inputs = [self.HELD, delete(at(1, 1), "k"), delete(at(1, 2), "k"), put(at(1, 3), 9, "k")]
        assert [one.size_bytes for one in assembled(inputs, at(1, 4)).segments] == [10, 6, 15]

    @pytest.mark.parametrize(
        "event",
        [
            delete(at(1, 1), "never seen"),
            ObjectEvent(event_id="c", at=at(1, 1), object_id="k", action="unsized", event_name="CopyObject"),
            ObjectEvent(event_id="p", at=at(1, 1), object_id="k", action="put", size_bytes=None),
            ObjectEvent(
                event_id="u", at=at(1, 1), object_id="n", action="unsized", event_name=COMPLETION, upload_id="u"
            ),
        ],
    )
    def test_what_has_no_size_changes_nothing_and_is_counted(self, event: ObjectEvent) -> None:
        found = assembled([self.HELD, event], at(1, 2))
        assert ({one.size_bytes for one in found.segments}, found.unsized_events) == ({10}, 1)
        later = assembled([self.HELD, event, snapshot(at(1, 2), 12)], at(1, 3))
        assert (later.unsized_events, later.drifts[1].unsized_events, later.drifts[1].drift_bytes) == (0, 1, 2)

    def test_a_sized_event_after_something_unsized_counts_what_the_size_has_of_the_key(self) -> None:
        copy = ObjectEvent(event_id="c", at=at(1, 1), object_id="k", action="unsized")
        found = assembled([self.HELD, copy, put(at(1, 2), 5, "k"), delete(at(1, 3), "k")], at(1, 4))
        # 4 bytes of the key were counted when the copy came, 5 since the put, none since it is gone
        assert [one.size_bytes for one in found.segments] == [10, 10, 11, 6]
        assert found.unsized_events == 1
        gone = assembled([self.HELD, copy, delete(at(1, 2), "k")], at(1, 4))
        assert (gone.segments[-1].size_bytes, gone.unsized_events) == (6, 1)

    @pytest.mark.parametrize("objects", [None, {"k": (4, None)}])
    def test_a_snapshot_without_a_list_of_objects_leaves_the_one_that_is_known(self, objects: Any) -> None:
        table = snapshot(at(1, 1), 12, objects=objects)
        found = assembled([self.HELD, table, put(at(1, 2), 7, "k")], at(1, 3))
        assert [one.size_bytes for one in found.segments] == [10, 12, 15]
        # where no snapshot lists objects, those of before the last one are forgotten
        nothing_listed = replace(self.HELD, objects=None)
        found = assembled([nothing_listed, put(at(1), 4, "k"), table, delete(at(1, 2), "k")], at(1, 3))
        assert found.unsized_events == int(objects is None)

    def upload(self, *sizes: int | None, numbers: Sequence[int] = (1, 2, 3)) -> list[ObjectEvent]:
        parts = [
            ObjectEvent(event_id=f"part {number}", at=at(1, 1), object_id="big", action="part", event_name="UploadPart",
                        size_bytes=size, upload_id="u", part_number=number)
            for number, size in zip(numbers, sizes, strict=False)
        ]  # fmt: skip
        done = ObjectEvent(
            event_id="done", at=at(1, 2), object_id="big", action="unsized", event_name=COMPLETION, upload_id="u"
        )
        return [*parts, done]

    def test_a_completed_upload_has_the_size_of_its_parts(self) -> None:
        again = replace(self.upload(9)[0], event_id="part again", at=at(1, 1, second=1), size_bytes=2)
        found = assembled([self.HELD, *self.upload(1, 1, 1), again], at(1, 3))
        assert [one.size_bytes for one in found.segments] == [10, 14]

    @pytest.mark.parametrize(("sizes", "numbers"), [((1, None), (1, 2)), ((1, 1), (1, 3)), ((1,), (2,)), ((), ())])
    def test_an_upload_of_which_a_part_is_unknown_is_unsized(
        self, sizes: tuple[int | None, ...], numbers: tuple[int, ...]
    ) -> None:
        found = assembled([self.HELD, *self.upload(*sizes, numbers=numbers)], at(1, 3))
        assert found.unsized_events == 1

    def test_deleting_another_version_than_the_current_one_changes_nothing(self) -> None:
        def version(name: str) -> ObjectEvent:
            return ObjectEvent(event_id=name, at=at(1, 1), object_id="k", action="delete_version", version_id=name)

        other, current = (assembled([self.HELD, version(name)], at(1, 2)) for name in ("v0", "v1"))
        assert (other.unsized_events, current.unsized_events) == (0, 1)

    def test_a_snapshot_begins_the_index_anew(self) -> None:
        inputs = [
            self.HELD,
            put(at(1, 1), 5, "n"),
            snapshot(at(1, 2), 11, objects={"k": (4, None)}),
            delete(at(1, 3), "n"),
        ]
        found = assembled(inputs, at(1, 4))
        assert (found.segments[-1].size_bytes, found.unsized_events) == (11, 1)

    def test_an_event_at_the_very_instant_of_a_snapshot_comes_before_it(self) -> None:
        found = assembled([self.HELD, put(at(1, 2), 5, "n"), snapshot(at(1, 2), 15)], at(1, 3))
        assert [one.size_bytes for one in found.segments] == [10, 15]
        assert found.drifts[1].drift_bytes == 0


class TestBuckets:
    A, B = snapshot(at(1), 10, bucket="a", owner="ann"), snapshot(at(1, 3), 5, bucket="b", owner="ann")

    def test_a_repository_holds_the_sum_of_its_buckets(self) -> None:
        inputs = [self.A, self.B, snapshot(at(1, 6), 11, bucket="a"), snapshot(at(1, 9), 6, bucket="b")]
        found = assembled(inputs, at(1, 12))
        # the second is carried back to midnight, as the first is
        assert [(one.start, one.size_bytes) for one in found.segments] == [
            (at(1), 15), (at(1, 3), 15), (at(1, 6), 16), (at(1, 9), 17),
        ]  # fmt: skip
        assert [(one.bucket, one.derived_bytes, one.drift_bytes) for one in found.drifts] == [
            ("a", None, 0), ("b", None, 0), ("a", 10, 1), ("b", 5, 1),
        ]  # fmt: skip

    def test_an_event_changes_its_own_bucket(self) -> None:
        inputs = [self.A, self.B, put(at(1, 4), 7, "k", bucket="b"), snapshot(at(1, 6), 11, bucket="a")]
        found = assembled(inputs, at(1, 12))
        assert [(one.start, one.size_bytes, one.basis) for one in found.segments] == [
            (at(1), 15, Basis.CARRIED_BACK), (at(1, 3), 15, Basis.SNAPSHOT), (at(1, 4), 22, Basis.EVENTS),
            (at(1, 6), 23, Basis.EVENTS),
        ]  # fmt: skip

    def test_a_bucket_that_is_emptied_leaves_the_others(self) -> None:
        found = assembled([self.A, self.B, snapshot(at(2), 0, bucket="b")], at(3))
        assert [one.size_bytes for one in found.segments] == [15, 15, 10]

    def test_a_bucket_goes_back_to_the_midnight_before_its_own_first_evidence(self) -> None:
        found = assembled([self.A, snapshot(at(3, 6), 5, bucket="b"), put(at(3, 5), 2, bucket="b")], at(4))
        assert [(one.start, one.size_bytes) for one in found.segments] == [
            (at(1), 10),
            (at(3), 13),
            (at(3, 5), 15),
            (at(3, 6), 15),
        ]

    def test_a_visibility_event_is_about_all_buckets(self) -> None:
        found = assembled([self.A, self.B, turned(at(1, 8), "public")], at(1, 12))
        assert [(one.size_bytes, one.visibility) for one in found.segments] == [
            (15, "private"), (15, "private"), (15, "public"),
        ]  # fmt: skip
        assert found.byte_seconds("private") == 15 * 8 * 3600


class TestIdentity:
    def test_deliveries_of_one_action_count_once(self) -> None:
        mine = put(at(1, 1), 5, shared_event_id="s")
        theirs = replace(mine, event_id="theirs")
        assert len(counted_once([mine, theirs, mine])) == 1

    def test_a_correction_takes_the_place_of_what_it_corrects(self) -> None:
        wrong = put(at(1, 1), 5, "k")
        right = replace(wrong, event_id="right", size_bytes=8, original_event_id=wrong.event_id)
        for order in permutations([wrong, right, right]):
            assert [one.size_bytes for one in counted_once(order)] == [8]


class TestBeforeTheFirstSnapshot:
    def test_events_are_undone_to_the_midnight_before_the_first_of_them(self) -> None:
        found = assembled([put(at(1, 6), 2 * GB), snapshot(at(3, 7), 5 * GB)], at(4))
        assert states(found) == [
            (at(1), Decimal(3), "private"), (at(1, 6), Decimal(5), "private"), (at(3, 7), Decimal(5), "private"),
        ]  # fmt: skip

    def test_a_snapshot_alone_is_carried_back_to_its_midnight(self) -> None:
        assert states(assembled([snapshot(at(2, 7), 5 * GB)], at(3)))[0] == (at(2), Decimal(5), "private")

    def test_a_visibility_event_undone_is_the_other_visibility(self) -> None:
        found = assembled([put(at(1, 5), GB), turned(at(1, 6), "public"), snapshot(at(1, 7), 3 * GB, None)], at(1, 8))
        assert [one.visibility for one in found.segments] == ["private", "private", "public", "public"]

    def test_a_visibility_event_that_nothing_precedes_says_nothing_about_before(self) -> None:
        found = assembled([turned(at(1, 6), "public"), snapshot(at(1, 7), 3 * GB, None)], at(1, 8))
        assert [one.visibility for one in found.segments] == [None, "public", "public"]

    def test_an_ownership_event_undone_is_an_unknown_owner_and_a_hint_is_known(self) -> None:
        moved = assembled([put(at(1, 5), GB), turned(at(1, 6), "bob", "owner")], at(1, 7))
        assert [one.owner for one in moved.segments] == [None, "bob"]
        hinted = assembled([put(at(1, 5), GB, owner="ann"), turned(at(1, 6), "bob", "owner")], at(1, 7))
        assert [one.owner for one in hinted.segments] == ["ann", "bob"]

    def test_more_undone_than_there_was_is_nothing_and_never_below(self) -> None:
        found = assembled([put(at(1, 5), 9), put(at(1, 6), 9), snapshot(at(1, 7), 3)], at(1, 8))
        assert [one.size_bytes for one in found.segments] == [0, 3, 3]

    def test_a_repository_without_any_snapshot_counts_its_events_and_says_so(self) -> None:
        found = assembled([put(at(1, 5), 9), put(at(1, 6), 1)], at(1, 8))
        assert [(one.size_bytes, one.basis) for one in found.segments] == [
            (9, Basis.NO_SNAPSHOT),
            (10, Basis.NO_SNAPSHOT),
        ]

    def test_without_inputs_there_is_nothing(self) -> None:
        assert assembled([], at(1)) == Timeline(segments=(), drifts=(), unsized_events=0)
        assert assembled(EXAMPLE, at(1)) == Timeline(segments=(), drifts=(), unsized_events=0)


MOMENTS = st.integers(0, 4 * 24 * 2).map(lambda halves: at(1) + timedelta(minutes=30 * halves))
INPUTS = st.lists(
    st.one_of(
        st.builds(
            lambda when, size, key: put(when, size, key), MOMENTS, st.integers(0, 10**15), st.sampled_from("abc")
        ),
        st.builds(lambda when, key: delete(when, key), MOMENTS, st.sampled_from("abc")),
        st.builds(lambda when, value: turned(when, value), MOMENTS, st.sampled_from(["public", "private"])),
        st.builds(lambda when, value: turned(when, value, "owner"), MOMENTS, st.sampled_from(["a", "b"])),
    ),
    max_size=8,
)
BUCKETS = st.sampled_from(["", "b"])
ANCHORS = st.lists(
    st.builds(lambda when, size: snapshot(when, size, owner="a"), MOMENTS, st.integers(0, 10**15)),
    max_size=3,
    unique_by=lambda one: one.at,
)


def spread(inputs: Sequence[Input], buckets: Sequence[str]) -> list[Input]:
    """Return the inputs, each in a bucket."""
    pairs = zip(inputs, buckets, strict=False)
    return [one if isinstance(one, RepositoryEvent) else replace(one, bucket=bucket) for one, bucket in pairs]


class TestLaws:
    @settings(max_examples=60)
    @given(
        inputs=INPUTS, anchors=ANCHORS, random=st.randoms(use_true_random=False), buckets=st.lists(BUCKETS, min_size=11)
    )
    def test_order_and_repetition_do_not_matter(
        self, inputs: list[Input], anchors: list[Snapshot], random: Any, buckets: list[str]
    ) -> None:
        everything = spread([*inputs, *anchors], buckets)
        shuffled = everything * 2
        random.shuffle(shuffled)
        assert assembled(shuffled, at(6)) == assembled(everything, at(6))

    @settings(max_examples=60)
    @given(inputs=INPUTS, anchors=ANCHORS, buckets=st.lists(BUCKETS, min_size=11))
    def test_states_follow_each_other_and_conserve_every_byte_second(
        self, inputs: list[Input], anchors: list[Snapshot], buckets: list[str]
    ) -> None:
        found = assembled(spread([*inputs, *anchors], buckets), at(6))
        for left, right in zip(found.segments, found.segments[1:], strict=False):
            assert left.end == right.start
        if found.segments:
            assert found.segments[-1].end == at(6)
        sizes = [one.size_bytes for one in found.segments]
        changes = [size - before for size, before in zip(sizes, [0, *sizes], strict=False)]
        left = [(at(6) - one.start) // timedelta(microseconds=1) for one in found.segments]
        by_changes = sum(change * rest for change, rest in zip(changes, left, strict=True))
        assert by_changes == sum(one.byte_microseconds for one in found.segments)

    @settings(max_examples=60)
    @given(inputs=INPUTS, anchors=ANCHORS, more=INPUTS)
    def test_buckets_together_hold_what_each_holds_alone(
        self, inputs: list[Input], anchors: list[Snapshot], more: list[Input]
    ) -> None:
        here = [one for one in [*inputs, *anchors] if not isinstance(one, RepositoryEvent)]
        there = [replace(one, bucket="b", **({} if isinstance(one, Snapshot) else {"event_id": f"b {one.event_id}"}))
                 for one in [*more, *anchors] if not isinstance(one, RepositoryEvent)]  # fmt: skip
        together = assembled([*here, *there], at(6))
        assert together.byte_seconds() == assembled(here, at(6)).byte_seconds() + assembled(there, at(6)).byte_seconds()

    @settings(max_examples=60)
    @given(inputs=INPUTS, anchors=ANCHORS, cut=st.integers(2, 5))
    def test_after_a_snapshot_only_what_comes_later_matters(
        self, inputs: list[Input], anchors: list[Snapshot], cut: int
    ) -> None:
        everything: list[Input] = [
            *inputs,
            *(one for one in anchors if one.at != at(cut)),
            snapshot(at(cut), 77, owner="b"),
        ]
        later = [one for one in everything if one.at >= at(cut)]
        late = [one for one in later if one.at > at(cut) or isinstance(one, Snapshot)]

        def after(found: Timeline) -> list[Any]:
            seen = [one for one in found.segments if one.end > at(cut)]
            return [(max(one.start, at(cut)), one.size_bytes, one.visibility, one.owner) for one in seen]

        assert after(assembled(everything, at(6))) == after(assembled(late, at(6)))
