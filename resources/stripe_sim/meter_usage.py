"""What a meter's events add up to for a customer in a window `[start, end)`, as far as they are counted by now.

Events are counted some time after they came (rule `meter_lag_seconds`). Formula `last` takes the newest event, by its
timestamp or by its receipt (rule `meter_last_order`). A meter with an event_time_window counts one event of each UTC hour
or day, the one that came last, and only windows that ended in `(start, end]`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from resources.stripe_sim.tables import Row
from resources.stripe_sim.world import MeterEvent, World

_WINDOW_SECONDS = {"hour": 3600, "day": 86400}


def billed_quantity(world: World, meter_id: str, customer_id: str, start: int, end: int) -> Decimal:
    """Return the aggregate over `[start, end)`; less than 0 is billed as 0."""
    return max(Decimal(0), aggregate(world, world.get("billing.meter", meter_id), customer_id, start, end))


def aggregate(world: World, meter: Row, customer_id: str, start: int, end: int) -> Decimal:
    """Return what the counted events of `[start, end)` come to, by the meter's formula."""
    return _formula(world, meter, _counted(world, meter, customer_id, start, end))


def aggregates(
    world: World, meter: Row, customer_id: str, start: int, end: int, *, step_seconds: int
) -> list[tuple[int, Decimal]]:
    """Return (start of a step, aggregate) for the steps of `[start, end)` that have events, oldest first."""
    steps: dict[int, list[MeterEvent]] = {}
    for event in _counted(world, meter, customer_id, start, end):
        steps.setdefault(event.timestamp // step_seconds * step_seconds, []).append(event)
    return [(at, _formula(world, meter, events)) for at, events in sorted(steps.items())]


def _counted(world: World, meter: Row, customer_id: str, start: int, end: int) -> Sequence[MeterEvent]:
    visible = world.now - world.rules.meter_lag_seconds
    events = [
        event
        for event in world.meter_events.get((meter["id"], customer_id), ())
        if event.received_at <= visible and not event.cancelled
    ]
    seconds = _WINDOW_SECONDS.get(meter["event_time_window"])
    if seconds is None:
        return [event for event in events if start <= event.timestamp < end]
    latest = {_Window(start=event.timestamp // seconds * seconds, seconds=seconds): event for event in events}
    return [event for window, event in latest.items() if start < window.end <= end]


def _formula(world: World, meter: Row, events: Iterable[MeterEvent]) -> Decimal:
    events = list(events)
    match meter["default_aggregation"]["formula"]:
        case "count":
            return Decimal(len(events))
        case "sum":
            return sum((Decimal(event.value) for event in events), Decimal(0))
        case _:
            if not events:
                return Decimal(0)
            by_receipt = world.rules.meter_last_order == "receipt"
            last = max(events, key=lambda one: (0 if by_receipt else one.timestamp, one.number))
            return Decimal(last.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    start: int
    seconds: int

    @property
    def end(self) -> int:
        return self.start + self.seconds
