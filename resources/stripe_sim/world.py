"""What the stand-in knows: a virtual clock, its timers, the tables, the event feed. One thread, no I/O.

Ids are counted, so that the same requests give the same ids. Objects are plain JSON; a key that begins with `_` is ours
and never answered. Not here: what happens when a timer rings (clockwork), how an object is shown (rendering).
"""

import heapq
import json
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from resources.stripe_sim.kinds import KINDS, api_version, nullable_fields, sdk_class
from resources.stripe_sim.refusals import missing
from resources.stripe_sim.rendering import rendered
from resources.stripe_sim.rules import Rules
from resources.stripe_sim.tables import Row, Table

EVENT = "event"

_ID_DIGITS = 12


@dataclass(slots=True, kw_only=True)
class EventFaults:
    """What goes wrong with the next events: how many are doubled (another id), sent twice, late, or in reverse order."""

    doubled: int = 0
    redelivered: int = 0
    late: int = 0
    late_seconds: int = 0
    reversed_batches: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Timer:
    """Something that happens at an instant of the virtual clock. Timers of one instant go in the order they were set."""

    at: int
    number: int
    action: str
    object_id: str


@dataclass(slots=True, kw_only=True)
class RequestMark:
    """Which request an event comes from."""

    id: str | None = None
    idempotency_key: str | None = None


@dataclass(slots=True, kw_only=True)
class Delivery:
    """An event that an endpoint is to get: `first` when it was to go out, `due` when it goes next, `attempts` so far."""

    event: str
    endpoint: str
    first: int
    due: int
    attempts: int = 0


@dataclass(slots=True, kw_only=True)
class MeterEvent:
    """An event of a meter. `value` is digits, as it came; `number` the order of receipt."""

    number: int
    identifier: str
    timestamp: int
    received_at: int
    value: str
    cancelled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterMistake:
    """What was wrong with an event and is told later. `request`: the idempotency key it came with."""

    meter: str | None
    code: str
    message: str
    request: str | None


class World:
    """Everything, as of `now` (seconds since 1970, virtual)."""

    def __init__(self, *, now: int, rules: Rules) -> None:
        """Begin empty."""
        self.now = now
        self.rules = rules
        self.tables = {name: Table(kind) for name, kind in KINDS.items()}
        self.counters: Counter[str] = Counter()
        self.timers: list[Timer] = []
        self.event_faults = EventFaults()
        self.request = RequestMark()
        self.declining: set[str] = set()
        """Customers whose payments fail."""
        self.changes = 0
        """Grows with every change: whether there is something to save."""
        self.lines: dict[str, list[Row]] = {}
        """Invoice id -> its lines, in the order they are shown."""
        self.meter_events: dict[tuple[str, str], list[MeterEvent]] = {}
        """(meter, customer) -> events in the order of receipt."""
        self.meter_identifiers: dict[str, MeterEvent] = {}
        self.meter_mistakes: list[MeterMistake] = []
        self.stream_tokens: dict[str, int] = {}
        """Token of the event stream -> when it ends."""
        self.unsent: list[Row] = []
        """Events that no webhook has been tried for yet."""
        self.deliveries: list[Delivery] = []
        self._emitted: list[Row] = []

    def table(self, kind: str) -> Table:
        """Return the table of a kind."""
        return self.tables[kind]

    def new_id(self, prefix: str) -> str:
        """Return the next id."""
        self.counters[prefix] += 1
        return f"{prefix}_sim{self.counters[prefix]:0{_ID_DIGITS}d}"

    def next_number(self, name: str) -> int:
        """Return the next number of a count, from 1 on."""
        self.counters[name] += 1
        return self.counters[name]

    def make(self, kind: str, **fields: Any) -> Row:
        """Add an object, with null where nothing is said and the SDK has a field."""
        row: Row = dict.fromkeys(nullable_fields(kind))
        row |= {"id": "", "object": kind, **self._always(kind), **fields}
        row["id"] = fields.get("id") or self.new_id(KINDS[kind].prefix)
        return self.save(row)

    def _always(self, kind: str) -> Row:
        """Return what every object has, of the kinds that have it."""
        declared = sdk_class(kind).__annotations__
        return {name: value for name, value in (("created", self.now), ("livemode", False)) if name in declared}

    def save(self, row: Row) -> Row:
        """Keep a new or changed object."""
        self.changes += 1
        return self.tables[row["object"]].put(row)

    def get(self, kind: str, object_id: str, *, param: str = "id") -> Row:
        """Return an object that is not deleted.

        Raises:
            ApiError: there is none.
        """
        row = self.tables[kind].get(object_id)
        if row is None or row.get("deleted"):
            raise missing(_SPOKEN.get(kind, kind), object_id, param=param)
        return row

    def schedule(self, at: int, action: str, object_id: str) -> None:
        """Set a timer. It is for the action to look whether it is still meant."""
        self.counters["timer"] += 1
        heapq.heappush(self.timers, Timer(at=at, number=self.counters["timer"], action=action, object_id=object_id))

    def due(self, until: int) -> Timer | None:
        """Take the next timer that rings by `until`."""
        if self.timers and self.timers[0].at <= until:
            return heapq.heappop(self.timers)
        return None

    def emit(self, event_type: str, row: Row, *, previous: Mapping[str, Any] | None = None) -> None:
        """Tell an event, with the object as it is now."""
        data: Row = {"object": rendered(self, row)}
        if previous is not None:
            data["previous_attributes"] = dict(previous)
        content = zlib.compress(json.dumps(data).encode(), level=1)
        self._emitted.append({"type": event_type, "_data": content, "_object_id": row["id"]})

    def flush_events(self) -> None:
        """Put the events of one request or timer into the feed."""
        if not self._emitted:
            return
        batch, self._emitted = self._emitted, []
        faults = self.event_faults
        if faults.reversed_batches > 0 and len(batch) > 1:
            faults.reversed_batches -= 1
            batch.reverse()
        for one in batch:
            self._publish(one)
            if faults.doubled > 0:
                faults.doubled -= 1
                self._publish(one)

    def _publish(self, event: Row) -> None:
        visible_at = self.now + self.rules.event_lag_seconds
        if self.event_faults.late > 0:
            self.event_faults.late -= 1
            visible_at = self.now + self.event_faults.late_seconds
        request = {"id": self.request.id, "idempotency_key": self.request.idempotency_key}
        made = self.make(
            EVENT,
            **event,
            api_version=api_version(),
            pending_webhooks=0,
            request=request,
            _at=self.now,
            _visible_at=visible_at,
        )
        self.unsent.append(made)


_SPOKEN = {"billing.meter": "billing meter", "invoice_payment": "invoice payment"}


def changed_fields(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return what fields were before, of those that differ."""
    return {key: before.get(key) for key in after if before.get(key) != after[key]}
