"""Billing meters: made, renamed, switched off and on; summaries of their events.

A meter's formula, names and keys are never changed. Not here: events (meter_events), aggregation (meter_usage).
"""

from collections.abc import Mapping
from typing import Any

from resources.stripe_sim.calls import Call, Modelled, modelled
from resources.stripe_sim.lists import PAGED, listed, listed_rows
from resources.stripe_sim.meter_usage import aggregate, aggregates
from resources.stripe_sim.refusals import ApiError, invalid
from resources.stripe_sim.rendering import rendered
from resources.stripe_sim.tables import Row
from resources.stripe_sim.world import World, changed_fields

KIND = "billing.meter"

_LONGEST = {"display_name": 250, "event_name": 100}
_STEPS = {None: 60, "hour": 3600, "day": 86400}


def create(world: World, call: Call) -> Row:
    """Make a meter.

    Raises:
        ApiError: a name is too long, or another active meter has the event's name.
    """
    params = call.params
    _check_lengths(params)
    if active_meter(world, params["event_name"]) is not None:
        raise invalid("An active meter already has this event_name", code="resource_already_exists", param="event_name")
    row = world.make(
        KIND,
        customer_mapping=params.get("customer_mapping", {"event_payload_key": "stripe_customer_id", "type": "by_id"}),
        default_aggregation=dict(params["default_aggregation"]),
        display_name=params["display_name"],
        event_name=params["event_name"],
        event_time_window=params.get("event_time_window"),
        status="active",
        status_transitions={"deactivated_at": None},
        updated=world.now,
        value_settings=params.get("value_settings", {"event_payload_key": "value"}),
    )
    world.emit("billing.meter.created", row)
    return rendered(world, row)


def update(world: World, call: Call) -> Row:
    """Rename a meter: nothing else of it can be changed."""
    _check_lengths(call.params)
    return _change(world, call.id, "billing.meter.updated", dict(call.params))


def deactivate(world: World, call: Call) -> Row:
    """Switch a meter off: it takes no events any more."""
    return _switch(world, call.id, "inactive", "billing.meter.deactivated", world.now)


def reactivate(world: World, call: Call) -> Row:
    """Switch a meter on again."""
    return _switch(world, call.id, "active", "billing.meter.reactivated", None)


def retrieve(world: World, call: Call) -> Row:
    """Return a meter."""
    return rendered(world, world.get(KIND, call.id))


def list_meters(world: World, call: Call) -> Row:
    """List meters."""
    by = {"status": call.params["status"]} if "status" in call.params else {}
    return listed(world, call, KIND, by=by)


def list_summaries(world: World, call: Call) -> Row:
    """List what a customer's events come to: for the whole range, or for its hours or days that have events, newest first.

    Raises:
        ApiError: the range is not aligned with minutes, hours or UTC days.
    """
    params, meter = call.params, world.get(KIND, call.id)
    start, end, grouping = params["start_time"], params["end_time"], params.get("value_grouping_window")
    step = _STEPS[grouping]
    for name in ("start_time", "end_time"):
        if params[name] % step:
            raise invalid(f"{name} must be aligned with {grouping or 'minute'} boundaries", param=name)
    if start >= end:
        raise invalid("end_time must be after start_time", param="end_time")
    customer = world.get("customer", params["customer"], param="customer")["id"]
    if grouping is None:
        found = [(start, end, aggregate(world, meter, customer, start, end))]
    else:
        steps = aggregates(world, meter, customer, start, end, step_seconds=step)
        found = [(at, at + step, value) for at, value in reversed(steps)]
    rows = [
        {
            "id": f"mtrusg_sim_{meter['id'].rpartition('_')[2]}_{customer.rpartition('_')[2]}_{first}_{last}",
            "object": "billing.meter_event_summary",
            # A float, as the API has it.
            "aggregated_value": float(value),
            "end_time": last,
            "livemode": False,
            "meter": meter["id"],
            "start_time": first,
        }
        for first, last, value in found
    ]
    return listed_rows(call, rows, kind="event summary", url=f"/v1/billing/meters/{meter['id']}/event_summaries")


def active_meter(world: World, event_name: str) -> Row | None:
    """Return the active meter of that event name."""
    return next(iter(world.table(KIND).find(event_name=event_name, status="active")), None)


def _switch(world: World, meter_id: str, status: str, event_type: str, at: int | None) -> Row:
    meter = world.get(KIND, meter_id)
    if meter["status"] == status:
        raise ApiError(400, f"The meter is already {status}", param="id")
    return _change(world, meter_id, event_type, {"status": status, "status_transitions": {"deactivated_at": at}})


def _change(world: World, meter_id: str, event_type: str, change: Mapping[str, Any]) -> Row:
    meter = world.get(KIND, meter_id)
    before = dict(meter)
    meter |= {name: value for name, value in change.items() if name != "expand"}
    meter["updated"] = world.now
    world.save(meter)
    world.emit(event_type, meter, previous=changed_fields(before, meter))
    return rendered(world, meter)


def _check_lengths(params: Mapping[str, Any]) -> None:
    for name, most in _LONGEST.items():
        if len(params.get(name, "")) > most:
            raise invalid(f"{name} can have up to {most} characters", param=name)


OPERATIONS: Mapping[str, Modelled] = {
    "POST /v1/billing/meters": modelled(
        create, "customer_mapping default_aggregation display_name event_name event_time_window value_settings"
    ),
    "GET /v1/billing/meters": modelled(list_meters, f"{PAGED} status"),
    "GET /v1/billing/meters/{}": modelled(retrieve),
    "POST /v1/billing/meters/{}": modelled(update, "display_name"),
    "POST /v1/billing/meters/{}/deactivate": modelled(deactivate),
    "POST /v1/billing/meters/{}/reactivate": modelled(reactivate),
    "GET /v1/billing/meters/{}/event_summaries": modelled(
        list_summaries, f"{PAGED} customer start_time end_time value_grouping_window"
    ),
}
