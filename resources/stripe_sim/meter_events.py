"""Meter events: one at a time (/v1, /v2), in streams of up to 100 (/v2), and cancelled again.

One at a time an event is checked before it is answered, but for its customer, which is looked up later; in a stream all
checks come later. What is found later is told in thin events, once in a window. Counting: meter_usage.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from resources.stripe_sim.calls import Call, Modelled, modelled
from resources.stripe_sim.meters import active_meter
from resources.stripe_sim.refusals import ApiError, invalid, missing
from resources.stripe_sim.tables import Row
from resources.stripe_sim.thin_events import instant_text, tell
from resources.stripe_sim.world import MeterEvent, MeterMistake, World

REPORT_ERRORS = "report_meter_errors"
STREAM = "POST /v2/billing/meter_event_stream"

_LONGEST_IDENTIFIER = 100
_MOST_IN_STREAM = 100
_MOST_SAMPLES = 5
_SESSION_SECONDS = 15 * 60
_NUMBER = re.compile(r"-?(\d+)(?:\.(\d+))?")


def create(world: World, call: Call) -> Row:
    """Take an event in /v1."""
    params = call.params
    event = _take(world, params, timestamp=params.get("timestamp", world.now))
    return {
        "object": "billing.meter_event",
        "created": world.now,
        "event_name": params["event_name"],
        "identifier": event.identifier,
        "livemode": False,
        "payload": dict(params["payload"]),
        "timestamp": event.timestamp,
    }


def create_v2(world: World, call: Call) -> Row:
    """Take an event in /v2."""
    params = call.params
    event = _take(world, params, timestamp=_read_instant(params.get("timestamp"), world.now))
    return {
        "object": "v2.billing.meter_event",
        "created": instant_text(world.now),
        "event_name": params["event_name"],
        "identifier": event.identifier,
        "livemode": False,
        "payload": dict(params["payload"]),
        "timestamp": instant_text(event.timestamp),
    }


def create_session(world: World, call: Call) -> Row:
    """Give out a token for the stream, good for 15 minutes."""
    number = world.new_id("mes")
    token = f"token_{number}"
    world.stream_tokens[token] = world.now + _SESSION_SECONDS
    return {
        "id": number,
        "object": "v2.billing.meter_event_session",
        "authentication_token": token,
        "created": instant_text(world.now),
        "expires_at": instant_text(world.stream_tokens[token]),
        "livemode": False,
    }


def stream(world: World, call: Call) -> Row:
    """Take up to 100 events; whatever is wrong with one of them is found later."""
    events = call.params["events"]
    if len(events) > _MOST_IN_STREAM:
        raise invalid(f"Up to {_MOST_IN_STREAM} events can be sent in one request", param="events")
    for event in events:
        try:
            _take(world, event, timestamp=_read_instant(event.get("timestamp"), world.now))
        except ApiError as error:
            meter = active_meter(world, event["event_name"])
            _remember(
                world, None if meter is None else meter["id"], error.code or "meter_event_invalid_value", error.message
            )
    return {}


def cancel(world: World, call: Call) -> Row:
    """Cancel an event of the last 24 hours in /v1."""
    return {**_cancelled(world, call), "object": "billing.meter_event_adjustment"}


def cancel_v2(world: World, call: Call) -> Row:
    """Cancel an event of the last 24 hours in /v2."""
    found = _cancelled(world, call)
    made = instant_text(world.now)
    return {**found, "id": world.new_id("mea"), "created": made, "object": "v2.billing.meter_event_adjustment"}


def is_open_token(world: World, token: str) -> bool:
    """Say whether a token of the stream is good now."""
    return world.stream_tokens.get(token, 0) > world.now


def on_report_timer(world: World, _: str) -> None:
    """Tell what was wrong with events since the last time, in a thin event for every meter."""
    mistakes, world.meter_mistakes = world.meter_mistakes, []
    by_meter: dict[str | None, dict[str, list[MeterMistake]]] = {}
    for mistake in mistakes:
        by_meter.setdefault(mistake.meter, {}).setdefault(mistake.code, []).append(mistake)
    for meter, codes in by_meter.items():
        _report(world, meter, codes)


def _report(world: World, meter: str | None, codes: Mapping[str, list[MeterMistake]]) -> None:
    count = sum(len(found) for found in codes.values())
    data = {
        "developer_message_summary": f"There were {count} errors of meter events",
        "reason": {
            "error_count": count,
            "error_types": [
                {
                    "code": code,
                    "error_count": len(found),
                    "sample_errors": [
                        {"error_message": one.message, "request": {"identifier": one.request or ""}}
                        for one in found[:_MOST_SAMPLES]
                    ],
                }
                for code, found in codes.items()
            ],
        },
        "validation_end": instant_text(world.now),
        "validation_start": instant_text(world.now - world.rules.meter_error_window_seconds),
    }
    if meter is None:
        tell(world, "v1.billing.meter.no_meter_found", data)
        return
    related = {"id": meter, "type": "billing.meter", "url": f"/v1/billing/meters/{meter}"}
    tell(world, "v1.billing.meter.error_report_triggered", data, related=related)


def _take(world: World, values: Mapping[str, Any], *, timestamp: int) -> MeterEvent:
    """Take an event that is right, as far as that is checked at once.

    Raises:
        ApiError: there is no active meter of that name, or payload, timestamp or identifier cannot be.
    """
    meter = _meter(world, values["event_name"])
    customer, value = _payload(world, meter, values["payload"])
    rules = world.rules
    if timestamp < world.now - rules.meter_oldest_seconds:
        raise invalid("The timestamp is too far in the past", code="timestamp_too_far_in_past", param="timestamp")
    if timestamp > world.now + rules.meter_newest_seconds:
        raise invalid("The timestamp is in the future", code="timestamp_in_future", param="timestamp")
    identifier = values.get("identifier") or world.new_id("mevt")
    if len(identifier) > _LONGEST_IDENTIFIER:
        raise invalid(f"An identifier can have up to {_LONGEST_IDENTIFIER} characters", param="identifier")
    held = world.meter_identifiers.get(identifier)
    if held is not None and held.received_at > world.now - rules.meter_identifier_seconds:
        if rules.meter_repeated_identifier == "ignored":
            return held
        raise invalid(f"An event already exists with identifier {identifier}.", param="identifier")
    event = MeterEvent(
        number=world.next_number("meter_event"),
        identifier=identifier,
        timestamp=timestamp,
        received_at=world.now,
        value=value,
    )
    world.meter_identifiers[identifier] = event
    row = world.table("customer").get(customer)
    if row is None or row.get("deleted"):
        _remember(world, meter["id"], "meter_event_customer_not_found", f"No such customer: '{customer}'")
    else:
        world.meter_events.setdefault((meter["id"], customer), []).append(event)
    world.changes += 1
    return event


def _meter(world: World, event_name: str) -> Row:
    meter = active_meter(world, event_name)
    if meter is not None:
        return meter
    if any(True for _ in world.table("billing.meter").find(event_name=event_name)):
        raise invalid(f"The meter of {event_name} is not active", code="archived_meter", param="event_name")
    raise invalid(f"No active meter found for event name {event_name}", code="no_meter", param="event_name")


def _payload(world: World, meter: Row, payload: Mapping[str, str]) -> tuple[str, str]:
    customer = payload.get(meter["customer_mapping"]["event_payload_key"])
    if not customer:
        raise invalid("The payload names no customer", code="meter_event_no_customer_defined", param="payload")
    if meter["default_aggregation"]["formula"] == "count":
        return customer, "1"
    value = payload.get(meter["value_settings"]["event_payload_key"], "")
    number = _NUMBER.fullmatch(value)
    if number is None or (number.group(2) is not None and not world.rules.meter_decimals):
        raise invalid(f"Invalid value: {value!r}", code="meter_event_invalid_value", param="payload")
    digits = (number.group(1) + (number.group(2) or "")).lstrip("0")
    if len(digits) > world.rules.meter_most_digits:
        raise invalid(
            f"A value can have up to {world.rules.meter_most_digits} digits",
            code="meter_event_value_too_many_digits",
            param="payload",
        )
    return customer, value


def _cancelled(world: World, call: Call) -> Row:
    identifier = call.params.get("cancel", {}).get("identifier")
    if identifier is None:
        raise invalid("Missing required param: cancel.", code="parameter_missing", param="cancel")
    event = world.meter_identifiers.get(identifier)
    if event is None:
        raise missing("meter event", identifier, param="cancel[identifier]")
    if event.received_at <= world.now - world.rules.meter_cancel_seconds:
        raise invalid("Only events of the last 24 hours can be cancelled", param="cancel[identifier]")
    event.cancelled = True
    world.changes += 1
    return {
        "cancel": {"identifier": identifier},
        "event_name": call.params["event_name"],
        "livemode": False,
        "status": "pending",
        "type": "cancel",
    }


def _remember(world: World, meter: str | None, code: str, message: str) -> None:
    if not world.meter_mistakes:
        world.schedule(world.now + world.rules.meter_error_window_seconds, REPORT_ERRORS, "")
    world.meter_mistakes.append(
        MeterMistake(meter=meter, code=code, message=message, request=world.request.idempotency_key)
    )


def _read_instant(text: str | None, now: int) -> int:
    if text is None:
        return now
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise invalid(f"Invalid timestamp: {text}", param="timestamp") from None
    if instant.tzinfo is None:
        raise invalid(f"Invalid timestamp: {text}", param="timestamp")
    return int(instant.astimezone(UTC).timestamp())


OPERATIONS: Mapping[str, Modelled] = {
    "POST /v1/billing/meter_events": modelled(create, "event_name payload identifier timestamp"),
    "POST /v2/billing/meter_events": modelled(create_v2, "event_name payload identifier timestamp"),
    "POST /v2/billing/meter_event_session": modelled(create_session),
    STREAM: modelled(stream, "events"),
    "POST /v1/billing/meter_event_adjustments": modelled(cancel, "event_name type cancel"),
    "POST /v2/billing/meter_event_adjustments": modelled(cancel_v2, "event_name type cancel"),
}
