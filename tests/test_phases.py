"""Phases of a subscription: what dated changes come to, in any order, and what may not be."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from billing_pipeline.cadences import Cadence
from billing_pipeline.catalog.phases import (
    Beginning,
    Change,
    Existing,
    Life,
    Phase,
    PhaseStatus,
    PlanTerms,
    life_of,
)
from billing_pipeline.periods import BillingAnchor

PLANS: Mapping[str, Sequence[PlanTerms]] = {name: (PlanTerms(version=1),) for name in ("basic", "pro", "free")}
MONTH = Cadence.parse("month")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


START = at("2026-01-01T00:00")


def live(
    *changes: Change,
    ends_at: datetime | None = None,
    trial_until: datetime | None = None,
    plan_version: int | None = None,
    plans: Mapping[str, Sequence[PlanTerms]] = PLANS,
    anchor: BillingAnchor | None = None,
) -> Life:
    """Return the life of 5 seats on plan basic from January 1st 2026."""
    begin = Beginning(
        starts_at=START,
        ends_at=ends_at,
        anchor=anchor or BillingAnchor(),
        plan="basic",
        plan_version=plan_version,
        quantities={"seat": Decimal(5)},
        trial_until=trial_until,
    )
    return life_of(begin, changes, plans)


def shown(life: Life) -> list[str]:
    assert life.problems == ()
    return [text(phase) for phase in life.phases]


def text(phase: Phase) -> str:
    until = "open" if phase.ends_at is None else f"{phase.ends_at:%m-%dT%H}"
    seats = ",".join(f"{quantity}" for quantity in phase.quantities.values())
    return f"{phase.starts_at:%m-%dT%H} {until} {phase.plan_id} {phase.plan_version} {phase.status.value} {seats}"


class TestLifeOf:
    def test_without_changes_is_one_open_phase(self) -> None:
        assert shown(live()) == ["01-01T00 open basic 1 active 5"]

    def test_a_change_takes_effect_at_its_instant_or_where_the_period_ends(self) -> None:
        upgrade = Change(at=at("2026-01-10T12:00"), quantities={"seat": Decimal(6)})
        downgrade = Change(at=at("2026-01-20T00:00"), at_end_of=MONTH, plan="free")
        assert shown(live(upgrade, downgrade)) == [
            "01-01T00 01-10T12 basic 1 active 5",
            "01-10T12 02-01T00 basic 1 active 6",
            "02-01T00 open free 1 active 6",
        ]

    def test_the_order_in_the_list_does_not_matter_but_at_one_instant_the_last_wins(self) -> None:
        one = Change(at=at("2026-02-01T00:00"), plan="pro")
        two = Change(at=at("2026-01-10T00:00"), plan="free")
        again = Change(at=at("2026-02-01T00:00"), plan="basic")
        assert shown(live(one, two)) == shown(live(two, one))
        assert shown(live(one, two, again))[-1] == "02-01T00 open basic 1 active 5"
        assert shown(live(again, two, one))[-1] == "02-01T00 open pro 1 active 5"

    def test_a_correction_at_the_same_instant_leaves_no_trace(self) -> None:
        mistake = Change(at=at("2026-01-10T00:00"), plan="pro")
        undone = Change(at=at("2026-01-10T00:00"), plan="basic")
        assert shown(live(mistake, undone)) == shown(live())

    def test_a_trial_ends_by_itself_is_made_longer_or_ended_at_once(self) -> None:
        trial = at("2026-01-15T00:00")
        assert shown(live(trial_until=trial)) == ["01-01T00 01-15T00 basic 1 trial 5", "01-15T00 open basic 1 active 5"]
        longer = Change(at=at("2026-01-14T00:00"), trial_until=at("2026-02-01T00:00"))
        assert shown(live(longer, trial_until=trial))[0] == "01-01T00 02-01T00 basic 1 trial 5"
        ended = Change(at=at("2026-01-05T00:00"), trial_until=at("2026-01-05T00:00"))
        assert shown(live(ended, trial_until=trial))[0] == "01-01T00 01-05T00 basic 1 trial 5"

    def test_a_pause_ends_with_the_resumption_and_outlasts_a_trial(self) -> None:
        pause = Change(at=at("2026-01-10T00:00"), status=PhaseStatus.PAUSED)
        resumed = Change(at=at("2026-01-20T00:00"), status=PhaseStatus.ACTIVE)
        assert shown(live(pause, resumed, trial_until=at("2026-01-15T00:00"))) == [
            "01-01T00 01-10T00 basic 1 trial 5",
            "01-10T00 01-20T00 basic 1 paused 5",
            "01-20T00 open basic 1 active 5",
        ]

    def test_is_cancelled_now_or_at_the_end_of_the_period_that_was_paid(self) -> None:
        now = Change(at=at("2026-01-10T12:00"), cancel=True)
        assert shown(live(now)) == ["01-01T00 01-10T12 basic 1 active 5"]
        later = Change(at=at("2026-01-10T12:00"), at_end_of=MONTH, cancel=True)
        assert shown(live(later)) == ["01-01T00 02-01T00 basic 1 active 5"]
        yearly = Change(at=at("2026-03-10T12:00"), at_end_of=Cadence.parse("year"), cancel=True)
        assert live(yearly).phases[-1].ends_at == at("2027-01-01T00:00")

    def test_a_cancellation_is_taken_back_before_it_takes_effect(self) -> None:
        later = Change(at=at("2026-01-10T12:00"), at_end_of=MONTH, cancel=True)
        back = Change(at=at("2026-01-20T00:00"), cancel=False)
        assert shown(live(later, back)) == shown(live())
        again = Change(at=at("2026-02-10T00:00"), at_end_of=MONTH, cancel=True)
        assert shown(live(later, back, again))[-1] == "01-01T00 03-01T00 basic 1 active 5"

    def test_what_was_planned_beyond_the_end_never_takes_effect(self) -> None:
        planned = Change(at=at("2026-06-01T00:00"), plan="pro")
        put_off = Change(at=at("2026-01-09T00:00"), at_end_of=MONTH, plan="free")
        end = Change(at=at("2026-01-10T12:00"), at_end_of=MONTH, cancel=True)
        assert shown(live(planned, put_off, end)) == ["01-01T00 02-01T00 basic 1 active 5"]

    def test_five_changes_of_one_day_are_six_phases(self) -> None:
        hours = [
            Change(at=at(f"2026-01-10T{hour:02}:00"), quantities={"seat": Decimal(hour)}) for hour in (1, 5, 9, 13, 21)
        ]
        assert [phase.split()[-1] for phase in shown(live(*hours))] == ["5", "1", "5", "9", "13", "21"]


class TestPlanVersions:
    PLANS: Mapping[str, Sequence[PlanTerms]] = {
        "basic": (
            PlanTerms(version=1),
            PlanTerms(version=2, effective_from=at("2026-02-01T00:00")),
            PlanTerms(version=3, effective_from=at("2026-03-10T00:00"), existing=Existing.NEXT_PERIOD),
        ),
        "pro": (PlanTerms(version=1),),
    }

    def test_a_subscription_stays_on_its_version_until_a_policy_moves_it(self) -> None:
        assert shown(live(plans=self.PLANS)) == [
            "01-01T00 04-01T00 basic 1 active 5",
            "04-01T00 open basic 3 active 5",
        ]

    def test_moves_at_once_where_the_version_says_so(self) -> None:
        moving = {
            "basic": (
                PlanTerms(version=1),
                PlanTerms(version=2, effective_from=at("2026-02-10T00:00"), existing=Existing.MOVE),
            )
        }
        assert shown(live(plans=moving))[0] == "01-01T00 02-10T00 basic 1 active 5"

    def test_a_change_to_the_same_plan_takes_the_version_in_force_then(self) -> None:
        same = Change(at=at("2026-02-15T00:00"), plan="basic")
        assert shown(live(same, plans=self.PLANS))[1].startswith("02-15T00 04-01T00 basic 2")

    def test_a_change_of_seats_or_a_pause_keeps_the_version(self) -> None:
        seats = Change(at=at("2026-02-15T00:00"), quantities={"seat": Decimal(9)})
        assert "basic 1 active 9" in shown(live(seats, plans=self.PLANS))[1]

    def test_a_pinned_version_is_not_moved(self) -> None:
        assert shown(live(plan_version=1, plans=self.PLANS)) == ["01-01T00 open basic 1 active 5"]

    def test_who_has_left_the_plan_is_not_moved(self) -> None:
        left = Change(at=at("2026-02-15T00:00"), plan="pro")
        assert shown(live(left, plans=self.PLANS))[-1] == "02-15T00 open pro 1 active 5"


class TestProblems:
    def test_name_the_change_and_what_is_wrong(self) -> None:
        early = Change(at=at("2025-12-31T00:00"), plan="pro")
        unknown = Change(at=at("2026-01-10T00:00"), plan="gold")
        version = Change(at=at("2026-01-11T00:00"), plan="pro", plan_version=7)
        back = Change(at=at("2026-01-12T00:00"), cancel=False)
        end = Change(at=at("2026-02-01T00:00"), cancel=True)
        late = Change(at=at("2026-02-02T00:00"), plan="pro")
        found = dict(live(early, unknown, version, back, end, late, trial_until=START).problems)
        assert found == {
            "changes.1.at": "2025-12-31T00:00:00Z is before the start, 2026-01-01T00:00:00Z",
            "changes.2.plan": "'gold' is not a plan",
            "changes.3.plan_version": "plan 'pro' has no version 7; it has 1",
            "changes.4.cancel": "nothing is cancelled at 2026-01-12T00:00:00Z that has not ended; "
            "start a new subscription after an end",
            "changes.6.at": "2026-02-02T00:00:00Z is not before the end, 2026-02-01T00:00:00Z",
            "trial_until": "2026-01-01T00:00:00Z is not after the start, 2026-01-01T00:00:00Z",
        }

    def test_a_cancellation_at_the_start_would_leave_nothing(self) -> None:
        life = live(Change(at=at("2026-01-10T00:00"), plan="pro"), Change(at=START, cancel=True))
        message = (
            "2026-01-01T00:00:00Z is the start, so that no instant is left of the subscription: end it a second later"
        )
        assert life.problems == (("changes.2.at", message),)
        taken_back = Change(at=START - timedelta(seconds=1), cancel=False)
        assert live(Change(at=START, cancel=True), taken_back).problems == (
            ("changes.2.at", "2025-12-31T23:59:59Z is before the start, 2026-01-01T00:00:00Z"),
        )

    def test_a_plan_that_is_not_yet_in_force(self) -> None:
        plans = {"basic": (PlanTerms(version=1, effective_from=at("2026-02-01T00:00")),)}
        assert live(plans=plans).problems == (("plan", "plan 'basic' has no version in force at 2026-01-01T00:00:00Z"),)


offsets = st.integers(0, 400 * 86_400).map(lambda seconds: START + timedelta(seconds=seconds))
changes = st.lists(
    st.one_of(
        st.builds(Change, at=offsets, plan=st.sampled_from(sorted(PLANS)), at_end_of=st.sampled_from([None, MONTH])),
        st.builds(Change, at=offsets, quantities=st.builds(lambda n: {"seat": Decimal(n)}, st.integers(0, 9))),
        st.builds(Change, at=offsets, status=st.sampled_from([PhaseStatus.ACTIVE, PhaseStatus.PAUSED])),
        st.builds(Change, at=offsets, trial_until=offsets),
    ),
    max_size=6,
)


class TestLaws:
    @given(changes, st.none() | offsets.map(lambda one: one + timedelta(seconds=1)))
    def test_phases_follow_each_other_from_start_to_end(self, found: list[Change], ends_at: datetime | None) -> None:
        end = [] if ends_at is None else [Change(at=ends_at, cancel=True)]
        phases = live(*found, *end).phases
        assert phases[0].starts_at == START
        assert phases[-1].ends_at == ends_at
        assert all(one.ends_at == other.starts_at for one, other in pairwise(phases))
        assert all(one.ends_at is None or one.starts_at < one.ends_at for one in phases)
        assert all(
            (one.plan_id, one.plan_version, one.status, one.quantities)
            != (other.plan_id, other.plan_version, other.status, other.quantities)
            for one, other in pairwise(phases)
        )
