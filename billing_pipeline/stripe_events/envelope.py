"""Read an event's envelope: JSON of the feed or of a webhook -> which object changed, and when. Pure.

Both spellings are read: snapshot events (`object: event`) and thin ones (`object: v2.core.event`). An event is a hint that
an object is to be fetched again; its copy of the object is used for two things only, the object's id and its customer's. So
nothing personal is read at all. Not here: signatures (resources/stripe_mirror/signature), what a change means (effects).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from billing_pipeline.errors import BillingError

# At most 20 types can be asked for in one list of events.
SNAPSHOT_TYPES = (
    "invoice.created",
    "invoice.updated",
    "invoice.finalized",
    "invoice.finalization_failed",
    "invoice.paid",
    "invoice.payment_failed",
    "invoice.voided",
    "invoice.marked_uncollectible",
    "invoice.deleted",
    "customer.created",
    "customer.updated",
    "customer.deleted",
    "customer.subscription.created",
    "customer.subscription.updated",
    "customer.subscription.deleted",
    "customer.subscription.paused",
    "customer.subscription.resumed",
    "credit_note.created",
    "credit_note.updated",
    "credit_note.voided",
)
METER_TYPES = ("v1.billing.meter.error_report_triggered", "v1.billing.meter.no_meter_found")
PAYMENT_FAILED = "invoice.payment_failed"


class EventUnreadableError(BillingError):
    """Something that calls itself an event and has no id, type, time or object."""


class ObjectKind(StrEnum):
    """What an event is about."""

    INVOICE = "invoice"
    CUSTOMER = "customer"
    SUBSCRIPTION = "subscription"
    CREDIT_NOTE = "credit_note"
    # The event itself is the report: there is nothing else to fetch.
    METER_REPORT = "meter_report"


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeEvent:
    """That an object changed. `created_at` has whole seconds in the v1 feed; `customer_id` is the event's word, not checked."""

    event_id: str
    event_type: str
    kind: ObjectKind
    object_id: str
    customer_id: str | None
    created_at: datetime
    is_live: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class IgnoredEvent:
    """An event of a type that changes nothing here."""

    event_id: str
    event_type: str


def read_event(document: Mapping[str, Any]) -> StripeEvent | IgnoredEvent:
    """Return what `document` says changed.

    Raises:
        EventUnreadableError: it lacks an id, a type, a time, or the object that its type is about.
    """
    event_id, event_type = _text(document, "id", "?"), _text(document, "type", _text_or_none(document.get("id")) or "?")
    is_thin = document.get("object") == "v2.core.event"
    if event_type in METER_TYPES:
        return StripeEvent(
            event_id=event_id,
            event_type=event_type,
            kind=ObjectKind.METER_REPORT,
            object_id=event_id,
            customer_id=None,
            created_at=_instant(document, event_id),
            is_live=document.get("livemode") is True,
        )
    name = event_type.removeprefix("v1.") if is_thin else event_type
    if name not in SNAPSHOT_TYPES:
        return IgnoredEvent(event_id=event_id, event_type=event_type)
    kind = _kind(name)
    subject = _member(document, "related_object") if is_thin else _member(_member(document, "data"), "object")
    object_id = _text(subject, "id", event_id)
    return StripeEvent(
        event_id=event_id,
        event_type=name,
        kind=kind,
        object_id=object_id,
        customer_id=object_id if kind is ObjectKind.CUSTOMER else reference(subject.get("customer")),
        created_at=_instant(document, event_id),
        is_live=document.get("livemode") is True,
    )


def reference(value: Any) -> str | None:
    """Return the id of an object that is named by its id or written out; None where there is neither."""
    if isinstance(value, Mapping):
        value = value.get("id")
    return _text_or_none(value)


def _kind(event_type: str) -> ObjectKind:
    if event_type.startswith("customer.subscription."):
        return ObjectKind.SUBSCRIPTION
    return ObjectKind(event_type.partition(".")[0])


def _member(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = document.get(name)
    return value if isinstance(value, Mapping) else {}


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _text(document: Mapping[str, Any], name: str, event_id: str) -> str:
    value = _text_or_none(document.get(name))
    if value is None:
        raise _unreadable(event_id, name)
    return value


def _instant(document: Mapping[str, Any], event_id: str) -> datetime:
    """Return when the event was made: seconds since 1970 in snapshot events, RFC 3339 in thin ones."""
    created = document.get("created")
    try:
        if isinstance(created, int) and not isinstance(created, bool):
            return datetime.fromtimestamp(created, UTC)
        instant = datetime.fromisoformat(created) if isinstance(created, str) else None
    except (ValueError, OverflowError, OSError):
        instant = None
    if instant is None or instant.tzinfo is None:
        raise _unreadable(event_id, "created")
    return instant.astimezone(UTC)


def _unreadable(event_id: str, field: str) -> EventUnreadableError:
    return EventUnreadableError(
        f"the event {event_id} has no readable {field}",
        bill="the event is not kept; the object that it is about is not fetched for it",
        fix="look at the event in Stripe's dashboard; after a change of Stripe's API version update billing_pipeline",
    )
