"""Say in sentences what happens to a subscription in a window: trials, pauses, changes, its end. Pure text."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from itertools import pairwise
from zoneinfo import ZoneInfo

from billing_pipeline.catalog import Phase, PhaseStatus, Subscription
from billing_pipeline.periods import Window
from console.arithmetic import plain


def subscription_notes(subscription: Subscription, window: Window, zone: str) -> Iterator[str]:
    """Yield a sentence for each trial and pause that meets `window`, and for each change and end in it, in order of time."""
    name = subscription.subscription_id
    if subscription.starts_at in window:
        yield f"{name}: starts {_at(subscription.starts_at, zone)}."
    for before, phase in pairwise((None, *subscription.phases)):
        if phase is None or window.overlap(phase.starts_at, phase.ends_at) is None:
            continue
        if before is not None and phase.starts_at in window and (changes := change_text(before, phase)):
            yield f"{name}: {changes} {_at(phase.starts_at, zone)}."
        if phase.status is PhaseStatus.TRIAL:
            yield f"{name}: trial {_until(phase.ends_at, zone)}; the plan says what of it is charged."
        elif phase.status is PhaseStatus.PAUSED:
            yield f"{name}: paused {_until(phase.ends_at, zone)}; nothing is charged for that time."
    if subscription.ends_at is not None and window.start < subscription.ends_at <= window.end:
        yield f"{name}: ends {_at(subscription.ends_at, zone)}; usage is billed to the second before."


def change_text(before: Phase, phase: Phase) -> str:
    """Return what is other in `phase`, as `plan starter -> growth, seat 5 -> 6`; '' where only a trial or pause begins or ends."""
    changes = []
    if (before.plan_id, before.plan_version) != (phase.plan_id, phase.plan_version):
        changes.append(f"plan {plan_name(before)} -> {plan_name(phase)}")
    for unit in sorted(before.quantities.keys() | phase.quantities.keys()):
        old, new = before.quantities.get(unit), phase.quantities.get(unit)
        if old != new:
            changes.append(f"{unit} {_number(old)} -> {_number(new)}")
    return ", ".join(changes)


def plan_name(phase: Phase) -> str:
    """Return the plan, with its version where that is not the first."""
    return phase.plan_id if phase.plan_version == 1 else f"{phase.plan_id} v{phase.plan_version}"


def quantities_text(quantities: Mapping[str, Decimal]) -> str:
    """Return quantities as `5 seat, 2 site`."""
    return ", ".join(f"{plain(quantity)} {unit}" for unit, quantity in sorted(quantities.items()))


def local_minute(instant: datetime, zone: str) -> str:
    """Return an instant in a zone, with seconds where there are any."""
    there = instant.astimezone(ZoneInfo(zone))
    return f"{there:%Y-%m-%d %H:%M:%S}" if there.second else f"{there:%Y-%m-%d %H:%M}"


def _number(quantity: Decimal | None) -> str:
    return "-" if quantity is None else plain(quantity)


def _at(instant: datetime, zone: str) -> str:
    return f"at {local_minute(instant, zone)}"


def _until(instant: datetime | None, zone: str) -> str:
    return "without an end yet" if instant is None else f"until {local_minute(instant, zone)}"
