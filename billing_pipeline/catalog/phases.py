"""A subscription's life in phases: its beginning and its dated changes -> phases that follow each other. Pure.

A phase is one plan version, one status and one set of quantities over `[starts_at, ends_at)`. Changes are only ever added: a
later one in the list wins over an earlier one at the same instant, so a mistake is corrected by one more. Not here: how files
spell changes (tables), what is charged in a phase (billing_schedule).
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, time
from decimal import Decimal
from enum import StrEnum
from itertools import pairwise
from typing import Generic, TypeVar

from billing_pipeline.cadences import Cadence, period_containing
from billing_pipeline.periods import BillingAnchor

_Value = TypeVar("_Value")
_END = datetime.max.replace(tzinfo=UTC)


class PhaseStatus(StrEnum):
    """How a phase is charged: as the plan's trial, as it stands, or not at all."""

    TRIAL = "trial"
    ACTIVE = "active"
    PAUSED = "paused"


class Existing(StrEnum):
    """What a new version of a plan does to subscriptions on an older one: nothing, or it moves them, now or with a new month."""

    STAY = "stay"
    MOVE = "move"
    NEXT_PERIOD = "next_period"


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """`[starts_at, ends_at)` (None: open) of a subscription, in which nothing about it changes. `anchor` None: the one that
    it began with."""

    starts_at: datetime
    ends_at: datetime | None
    plan_id: str
    plan_version: int = 1
    status: PhaseStatus = PhaseStatus.ACTIVE
    quantities: Mapping[str, Decimal] = field(default_factory=dict, hash=False)
    anchor: BillingAnchor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorMove:
    """What becomes of an anchor; what is None stays."""

    day: int | None = None
    time_of_day: time | None = None
    month: int | None = None

    def of(self, anchor: BillingAnchor) -> BillingAnchor:
        """Return the anchor after the move."""
        return replace(
            anchor,
            day=self.day or anchor.day,
            time_of_day=anchor.time_of_day if self.time_of_day is None else self.time_of_day,
            month=self.month or anchor.month,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is other from `at` on, or from the end of the `at_end_of` period that contains it. What is None, or empty, stays.

    `anchor` moves the billing anchor: the period is cut there. `plan` without `plan_version` is the version in force then.
    `trial_until` makes the trial longer or shorter. `cancel` True ends the subscription; False takes back what was cancelled
    before it in the list and has not ended at `at`.
    """

    at: datetime
    at_end_of: Cadence | None = None
    plan: str | None = None
    plan_version: int | None = None
    quantities: Mapping[str, Decimal] = field(default_factory=dict, hash=False)
    status: PhaseStatus | None = None
    trial_until: datetime | None = None
    cancel: bool | None = None
    anchor: AnchorMove | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanTerms:
    """What phases need to know of a version of a plan. `effective_from` None: always."""

    version: int
    effective_from: datetime | None = None
    existing: Existing = Existing.STAY


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """How a subscription begins, and what its periods are anchored to."""

    starts_at: datetime
    ends_at: datetime | None
    anchor: BillingAnchor
    plan: str
    plan_version: int | None = None
    quantities: Mapping[str, Decimal] = field(default_factory=dict, hash=False)
    trial_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Life:
    """The phases, and what is wrong with them as (field, message); where something is, there may be none."""

    phases: tuple[Phase, ...]
    problems: tuple[tuple[str, str], ...] = ()


def life_of(begin: Beginning, changes: Sequence[Change], plans: Mapping[str, Sequence[PlanTerms]]) -> Life:
    """Return the phases of what begins so, by its changes. `plans` are the versions of each plan.

    Plan basic with 5 seats from January 1st, 6 seats from the 10th, plan pro from the end of that month: [January 1st, 10th)
    basic 5, [10th, February 1st) basic 6, [February 1st, ...) pro 6.
    """
    effects = list(_effects(begin, changes))
    end, problems = _end_of(begin, effects)
    live = sorted((one for one in effects if begin.starts_at <= one.at < end), key=lambda one: (one.at, one.place))
    anchors = _Steps(_anchors(begin, live))
    entered, more = _plan_versions(begin, live, plans, end, anchors)
    problems += more
    if begin.trial_until is not None and begin.trial_until <= begin.starts_at:
        problems.append(
            ("trial_until", f"{_shown(begin.trial_until)} is not after the start, {_shown(begin.starts_at)}")
        )
    if problems:
        return Life((), tuple(problems))
    plan = _Steps(entered)
    quantities = _Steps(_quantities(begin, live))
    status = _Steps(_statuses(begin, live, end))
    instants = sorted({at for steps in (plan, quantities, status, anchors) for at in steps.instants if at < end})
    phases: list[Phase] = []
    for starts_at, ends_at in pairwise([*instants, end]):
        plan_id, version = plan.at(starts_at)
        phase = Phase(
            starts_at=starts_at,
            ends_at=None if ends_at == _END else ends_at,
            plan_id=plan_id,
            plan_version=version,
            status=status.at(starts_at),
            quantities=quantities.at(starts_at),
            anchor=anchor if (anchor := anchors.at(starts_at)) != begin.anchor else None,
        )
        if phases and _is_same(phases[-1], phase):
            phase = replace(phase, starts_at=phases.pop().starts_at)
        phases.append(phase)
    return Life(tuple(phases))


@dataclass(frozen=True, slots=True)
class _Effect:
    """A change at the instant at which it takes effect; `place` in the list of changes."""

    at: datetime
    place: int
    change: Change


class _Steps(Generic[_Value]):
    """A value that holds from an instant to the next one; of several at one instant the last."""

    def __init__(self, steps: Iterable[tuple[datetime, _Value]]) -> None:
        by_instant = dict(sorted(steps, key=lambda step: step[0]))
        self.instants = tuple(by_instant)
        self._values = tuple(by_instant.values())

    def at(self, instant: datetime) -> _Value:
        return self._values[bisect_right(self.instants, instant) - 1]


def _effects(begin: Beginning, changes: Sequence[Change]) -> Iterator[_Effect]:
    """Yield when each change takes effect. The end of a period is that of the anchor as earlier changes of the list have it."""
    found: list[_Effect] = []
    for place, change in enumerate(changes):
        at = change.at
        if change.at_end_of is not None:
            moved = [one for one in found if one.change.anchor is not None and one.at <= at]
            anchor = _Steps(_anchors(begin, sorted(moved, key=lambda one: (one.at, one.place)))).at(at)
            since = max([min(begin.starts_at, at), *(one.at for one in moved)])
            at = period_containing(change.at_end_of, anchor, since=since, instant=at).end
        found.append(_Effect(at, place, change))
        yield found[-1]


def _anchors(begin: Beginning, live: Sequence[_Effect]) -> Iterator[tuple[datetime, BillingAnchor]]:
    anchor = begin.anchor
    yield begin.starts_at, anchor
    for one in live:
        if one.change.anchor is not None:
            anchor = one.change.anchor.of(anchor)
            yield one.at, anchor


def _end_of(begin: Beginning, effects: Sequence[_Effect]) -> tuple[datetime, list[tuple[str, str]]]:
    """Return where the subscription ends, and changes outside of it.

    What was written before a cancellation may lie beyond the end: it never takes effect. What is written after it may not.
    """
    problems = []
    cancelled: dict[int, datetime] = {}
    for one in effects:
        change = one.change
        if change.cancel is None:
            continue
        open_ones = [place for place, at in cancelled.items() if change.at < at]
        if change.cancel:
            cancelled[one.place] = one.at
        elif open_ones:
            for place in open_ones:
                del cancelled[place]
        else:
            message = (
                f"nothing is cancelled at {_shown(change.at)} that has not ended; start a new subscription after an end"
            )
            problems.append((_field(one.place, "cancel"), message))
    given = begin.ends_at or _END
    end = min([given, *cancelled.values()])
    ended_by = min((place for place, at in cancelled.items() if at == end), default=-1)
    if ended_by >= 0 and end == begin.starts_at:
        message = f"{_shown(end)} is the start, so that no instant is left of the subscription: end it a second later"
        problems.append((_field(ended_by, "at"), message))
    for one in effects:
        if one.change.at < begin.starts_at:
            message = f"{_shown(one.change.at)} is before the start, {_shown(begin.starts_at)}"
            problems.append((_field(one.place, "at"), message))
        elif one.change.at >= end and one.place > ended_by and one.change.cancel is None:
            problems.append((_field(one.place, "at"), f"{_shown(one.change.at)} is not before the end, {_shown(end)}"))
    return end, problems


def _plan_versions(
    begin: Beginning,
    live: Sequence[_Effect],
    plans: Mapping[str, Sequence[PlanTerms]],
    end: datetime,
    anchors: _Steps[BillingAnchor],
) -> tuple[list[tuple[datetime, tuple[str, int]]], list[tuple[str, str]]]:
    """Return (instant, (plan, version)) in order: what is chosen, and where a newer version takes over what is not pinned."""
    chosen = [(begin.starts_at, begin.plan, begin.plan_version, "")]
    chosen += [
        (one.at, one.change.plan, one.change.plan_version, f"changes.{one.place + 1}.")
        for one in live
        if one.change.plan is not None
    ]
    steps: list[tuple[datetime, tuple[str, int]]] = []
    problems = []
    for (at, plan, pinned, place), until in zip(chosen, [*(step[0] for step in chosen[1:]), end], strict=True):
        versions = plans.get(plan, ())
        if not versions:
            problems.append((f"{place}plan", f"{plan!r} is not a plan"))
        elif pinned is not None:
            if all(version.version != pinned for version in versions):
                known = ", ".join(str(version.version) for version in versions)
                problems.append((f"{place}plan_version", f"plan {plan!r} has no version {pinned}; it has {known}"))
            steps.append((at, (plan, pinned)))
        else:
            in_force = [one for one in versions if one.effective_from is None or one.effective_from <= at]
            if not in_force:
                problems.append((f"{place}plan", f"plan {plan!r} has no version in force at {_shown(at)}"))
                continue
            steps.append((at, (plan, in_force[-1].version)))
            moves = (step for step in _moves(anchors, versions, at) if step[0] < until)
            steps += ((moves_at, (plan, version)) for moves_at, version in moves)
    return steps, problems


def _moves(
    anchors: _Steps[BillingAnchor], versions: Sequence[PlanTerms], entered_at: datetime
) -> Iterator[tuple[datetime, int]]:
    for version in versions:
        at = version.effective_from
        if at is None or at <= entered_at or version.existing is Existing.STAY:
            continue
        if version.existing is Existing.NEXT_PERIOD and (period := anchors.at(at).period_containing(at)).start < at:
            moved = (one for one in anchors.instants if at < one < period.end)
            at = min([period.end, *moved])
        yield at, version.version


def _quantities(begin: Beginning, live: Sequence[_Effect]) -> Iterator[tuple[datetime, Mapping[str, Decimal]]]:
    quantities = begin.quantities
    yield begin.starts_at, quantities
    for one in live:
        if one.change.quantities:
            quantities = {**quantities, **one.change.quantities}
            yield one.at, quantities


def _statuses(begin: Beginning, live: Sequence[_Effect], end: datetime) -> Iterator[tuple[datetime, PhaseStatus]]:
    """Yield what the status is from each instant on. A trial goes on while the subscription is paused."""
    trial_until, is_paused = begin.trial_until, False
    starts = [begin.starts_at]
    facts = [(trial_until, is_paused)]
    for one in live:
        change = one.change
        trial_until = change.trial_until or trial_until
        is_paused = is_paused if change.status is None else change.status is PhaseStatus.PAUSED
        starts.append(one.at)
        facts.append((trial_until, is_paused))
    for (starts_at, ends_at), (until, paused) in zip(pairwise([*starts, end]), facts, strict=True):
        if paused:
            yield starts_at, PhaseStatus.PAUSED
        elif until is None or until <= starts_at:
            yield starts_at, PhaseStatus.ACTIVE
        else:
            yield starts_at, PhaseStatus.TRIAL
            if until < ends_at:
                yield until, PhaseStatus.ACTIVE


def _is_same(one: Phase, other: Phase) -> bool:
    return replace(one, ends_at=other.ends_at, starts_at=other.starts_at) == other


def _field(place: int, name: str) -> str:
    return f"changes.{place + 1}.{name}"


def _shown(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")
