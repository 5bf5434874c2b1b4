"""Timelines: snapshots, object events and repository events -> the ordered states of a repository. Pure, short, exact.

One repository; the reference that sql/storage_*.sql is held to. Byte-seconds are exact: `bytes x microseconds / 10^6`. The rules:

R1 by time; at one instant events come before the snapshot, and among events the action id decides. R2 an event counts once, by
shared event id or event id; a correction takes the place of all events of the action that it corrects; an id with two contents
does not count. R3 a put adds
its size less what the key held, a delete takes away what the key held, as the snapshot's object index or an event since has it.
What has no size, or takes away what nobody has sized, changes nothing and is counted as unsized until the next snapshot. A
completed upload has the size of its parts when all of 1..n are known. R4 a snapshot is the truth from its instant on, never before;
what it says less what events gave is the drift. R5 before the first snapshot the state is carried back with the events undone, to
the midnight before the first evidence; a visibility event undone is the other visibility, unless it is the first evidence; an
ownership event undone is an unknown owner. R6 the last state reaches to the end that is asked for.

Not here: who pays (accounts by owner), GB-months (rating), finding the inputs (resources).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum
from itertools import groupby, pairwise

MICROSECOND = timedelta(microseconds=1)
# Parts of an upload that nobody completed are forgotten: what completes it later is unsized.
UPLOAD_DAYS = 7
PARTS = frozenset({"UploadPart", "UploadPartCopy"})
COMPLETION, MARKER = "CompleteMultipartUpload", "delete_marker"
OTHER_VISIBILITY = {"public": "private", "private": "public"}


class Basis(StrEnum):
    """Where a state comes from."""

    SNAPSHOT = "snapshot"
    EVENTS = "events"
    CARRIED_BACK = "carried_back"
    NO_SNAPSHOT = "no_snapshot"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a repository holds at an instant. `objects`: object -> (bytes, current version), as far as the snapshot lists them.
    `assumed_visibility` counts until anybody says one."""

    at: datetime
    size_bytes: int
    visibility: str | None = None
    assumed_visibility: str | None = None
    owner: str | None = None
    objects: Mapping[str, tuple[int, str | None]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectEvent:
    """A change of one object. `action`: put, delete, delete_version, part, delete_marker (nothing sold changes); else unsized.

    `object_id` names the version too where every version is sold, so that `delete_version` comes only where the current one is.
    """

    event_id: str
    at: datetime
    object_id: str
    action: str
    size_bytes: int | None = None
    event_name: str = ""
    shared_event_id: str | None = None
    original_event_id: str | None = None
    upload_id: str | None = None
    part_number: int | None = None
    version_id: str | None = None
    owner: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryEvent:
    """A change of the whole repository. `kind`: visibility (value public or private) or owner."""

    event_id: str
    at: datetime
    kind: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A state that holds in `[start, end)`. `visibility` or `owner` None: nobody has said."""

    start: datetime
    end: datetime
    size_bytes: int
    visibility: str | None
    owner: str | None
    basis: Basis

    @property
    def byte_seconds(self) -> Decimal:
        """Return bytes x seconds, exact to six places."""
        return in_byte_seconds(self.byte_microseconds)

    @property
    def byte_microseconds(self) -> int:
        """Return bytes x microseconds."""
        return self.size_bytes * ((self.end - self.start) // MICROSECOND)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """A snapshot against what events gave before it; `derived_bytes` None: it is the first."""

    at: datetime
    derived_bytes: int | None
    snapshot_bytes: int
    derived_visibility: str | None
    snapshot_visibility: str | None
    unsized_events: int

    @property
    def drift_bytes(self) -> int:
        """Return snapshot less derived; 0 for the first snapshot, which there is nothing to compare with."""
        return 0 if self.derived_bytes is None else self.snapshot_bytes - self.derived_bytes

    @property
    def visibility_mismatch(self) -> bool:
        """Tell whether both know a visibility, and not the same one."""
        return None not in (self.derived_visibility, self.snapshot_visibility) and (
            self.derived_visibility != self.snapshot_visibility
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """A repository's states and what its snapshots say about them. `unsized_events`: those since the last snapshot."""

    segments: tuple[Segment, ...]
    drifts: tuple[Drift, ...]
    unsized_events: int

    def byte_seconds(self, visibility: str | None = None) -> Decimal:
        """Return bytes x seconds of all states, or of those with this visibility."""
        return in_byte_seconds(
            sum(one.byte_microseconds for one in self.segments if visibility in (None, one.visibility))
        )


def in_byte_seconds(byte_microseconds: int) -> Decimal:
    """Return bytes x microseconds in byte-seconds, however many digits they have: 10^15 bytes over years are more than 28."""
    return Decimal(f"{byte_microseconds}E-6")


def timeline(
    snapshots: Iterable[Snapshot],
    object_events: Iterable[ObjectEvent],
    repository_events: Iterable[RepositoryEvent],
    *,
    end: datetime,
) -> Timeline:
    """Return the states of one repository up to `end`, in order. Order and repetition of the inputs do not matter."""
    by_instant: dict[datetime, Snapshot] = {}
    for snapshot in snapshots:
        by_instant.setdefault(snapshot.at, snapshot)
    facts = _changes([one for one in object_events if one.at < end], by_instant)
    facts += _repository_facts(repository_events)
    facts += [_Fact(at=at, snapshot=snapshot) for at, snapshot in by_instant.items()]
    merged = [
        _merged(list(same)) for _, same in groupby(sorted(facts, key=lambda fact: fact.order), lambda fact: fact.order)
    ]
    steps = [fact for fact in merged if fact.at < end]
    return _assembled(steps, end) if steps else Timeline(segments=(), drifts=(), unsized_events=0)


def counted_once(events: Iterable[ObjectEvent]) -> tuple[ObjectEvent, ...]:
    """Return one event per action, corrections in the place of what they correct; by time and action (R1, R2)."""
    told = set(events)
    contents = Counter(event.event_id for event in told)
    corrected = {event.original_event_id for event in told}
    action_of = _actions([event for event in told if contents[event.event_id] == 1])
    kept: dict[str, ObjectEvent] = {}
    for event in sorted(told, key=lambda one: (one.original_event_id is None, one.event_id)):
        if event.event_id not in corrected and contents[event.event_id] == 1:
            kept.setdefault(action_of[event.event_id], event)
    return tuple(sorted(kept.values(), key=lambda event: (event.at, action_of[event.event_id])))


def _actions(events: Sequence[ObjectEvent]) -> Mapping[str, str]:
    """Return event -> action: events that share an id are one, and a correction is that of what it corrects."""
    alone = {event.event_id: event.shared_event_id or event.event_id for event in events}
    action = {name: name for name in alone.values()}
    for event in events:
        if event.original_event_id is not None:
            corrected = alone.get(event.original_event_id, event.original_event_id)
            both = {action[alone[event.event_id]], action.setdefault(corrected, corrected)}
            action = {name: min(both) if one in both else one for name, one in action.items()}
    return {event_id: action[name] for event_id, name in alone.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fact:
    """What is said about one instant: by events together, or by a snapshot."""

    at: datetime
    delta: int = 0
    unsized: int = 0
    visibility: str | None = None
    owner: str | None = None
    owner_hint: str | None = None
    snapshot: Snapshot | None = None

    @property
    def order(self) -> tuple[datetime, bool]:
        return self.at, self.snapshot is not None


def _merged(facts: Sequence[_Fact]) -> _Fact:
    return _Fact(
        at=facts[0].at,
        delta=sum(fact.delta for fact in facts),
        unsized=sum(fact.unsized for fact in facts),
        visibility=next((fact.visibility for fact in reversed(facts) if fact.visibility), None),
        owner=next((fact.owner for fact in reversed(facts) if fact.owner), None),
        owner_hint=next((fact.owner_hint for fact in facts if fact.owner_hint), None),
        snapshot=facts[0].snapshot,
    )


def _repository_facts(events: Iterable[RepositoryEvent]) -> list[_Fact]:
    ordered = sorted(events, key=lambda event: (event.at, event.event_id))
    return [
        _Fact(at=event.at, visibility=event.value)
        if event.kind == "visibility"
        else _Fact(at=event.at, owner=event.value)
        for event in ordered
    ]


@dataclass(slots=True)
class _Key:
    """What is known of one key. `size_bytes` None: it holds something, nobody knows how much; 0: it may be gone."""

    size_bytes: int | None
    version_id: str | None = None


@dataclass(slots=True)
class _Objects:
    """The object index of a repository while its events pass by. A key that is absent holds 0 bytes; one not in it is unseen."""

    keys: dict[str, _Key] = field(default_factory=dict)
    parts: dict[str, dict[int, tuple[datetime, int | None]]] = field(default_factory=dict)

    def keep_part(self, event: ObjectEvent) -> None:
        """Remember a part until its upload is completed; the last of a part number counts."""
        if event.upload_id is not None and event.part_number is not None:
            self.parts.setdefault(event.upload_id, {})[event.part_number] = (event.at, event.size_bytes)


def _changes(events: Sequence[ObjectEvent], snapshots: Mapping[datetime, Snapshot]) -> list[_Fact]:
    """Return what each action adds to the repository (R3)."""
    epochs = sorted(snapshots)
    objects, facts = _Objects(), []
    for event in counted_once(events):
        if event.event_name in PARTS or event.action == MARKER:
            objects.keep_part(event)
            continue
        while epochs and epochs[0] < event.at:
            listed = snapshots[epochs.pop(0)].objects
            objects.keys = {key: _Key(size, version) for key, (size, version) in listed.items()}
        delta = _delta(objects, event)
        facts.append(_Fact(at=event.at, delta=delta or 0, unsized=int(delta is None), owner_hint=event.owner))
    return facts


def _delta(objects: _Objects, event: ObjectEvent) -> int | None:
    """Return the bytes that an event adds, None where nobody can tell, and leave its mark in the index."""
    before = objects.keys.get(event.object_id)
    match event.action:
        case "delete_version":
            version_id = before.version_id if before else None
            if not _may_be(version_id, event):
                return 0
            objects.keys[event.object_id] = _Key(None, version_id)
            return None
        case "delete":
            objects.keys[event.object_id] = _Key(0)
            return None if before is None or before.size_bytes is None else -before.size_bytes
    after = _size(objects, event)
    objects.keys[event.object_id] = _Key(after, event.version_id)
    if after is None or before is None:
        return after
    return None if before.size_bytes is None else after - before.size_bytes


def _may_be(current_version: str | None, event: ObjectEvent) -> bool:
    """Tell whether the version that is deleted may be the current one: then an older one of unknown size is back."""
    return current_version in (None, event.version_id) or event.version_id is None


def _size(objects: _Objects, event: ObjectEvent) -> int | None:
    """Return what the key holds after an event that writes it; None: it does not say."""
    if event.event_name != COMPLETION:
        return event.size_bytes if event.action == "put" else None
    oldest = event.at - timedelta(days=UPLOAD_DAYS)
    parts = objects.parts.get(event.upload_id or "", {})
    sizes = {number: size for number, (at, size) in parts.items() if at >= oldest}
    if not sizes or sorted(sizes) != list(range(1, len(sizes) + 1)) or None in sizes.values():
        return None
    return sum(size for size in sizes.values() if size is not None)


@dataclass(slots=True)
class _State:
    """The state that the next fact changes; `raw_bytes` count from 0 until the first snapshot."""

    raw_bytes: int = 0
    is_anchored: bool = False
    has_changed: bool = False
    visibility: str | None = None
    owner: str | None = None
    unsized: int = 0


def _assembled(facts: Sequence[_Fact], end: datetime) -> Timeline:
    state, drifts = _State(), []
    begins = datetime.combine(facts[0].at.date(), time(), facts[0].at.tzinfo)
    shown = _Base.of(facts)
    points = [(begins, shown.of_state(state))]
    for fact in facts:
        if fact.snapshot is not None:
            drifts.append(_drift(state, fact.snapshot))
            state = _State(raw_bytes=fact.snapshot.size_bytes, is_anchored=True,
                           visibility=fact.snapshot.visibility or state.visibility or fact.snapshot.assumed_visibility,
                           owner=fact.snapshot.owner or state.owner)  # fmt: skip
        else:
            state.raw_bytes += fact.delta
            state.unsized += fact.unsized
            state.has_changed = True
            state.visibility = fact.visibility or state.visibility
            state.owner = fact.owner or state.owner or fact.owner_hint
        points.append((fact.at, shown.of_state(state)))
    segments = [
        Segment(start=start, end=until, size_bytes=size, visibility=visibility, owner=owner, basis=basis)
        for (start, (size, visibility, owner, basis)), (until, _) in pairwise([*points, (end, points[-1][1])])
        if start < until and (size or start >= facts[0].at)
    ]
    return Timeline(segments=_joined(segments), drifts=tuple(drifts), unsized_events=state.unsized)


def _drift(state: _State, snapshot: Snapshot) -> Drift:
    return Drift(
        at=snapshot.at,
        derived_bytes=max(0, state.raw_bytes) if state.is_anchored else None,
        snapshot_bytes=snapshot.size_bytes,
        derived_visibility=state.visibility,
        snapshot_visibility=snapshot.visibility,
        unsized_events=state.unsized,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Base:
    """How a repository was before anything had said so (R5). `size_bytes` None: it has no snapshot."""

    size_bytes: int | None
    visibility: str | None
    owner: str | None

    @classmethod
    def of(cls, facts: Sequence[_Fact]) -> "_Base":
        size = visibility = owner = None
        anchor = next((number for number, fact in enumerate(facts) if fact.snapshot), None)
        if anchor is not None and (snapshot := facts[anchor].snapshot):
            size = snapshot.size_bytes - sum(fact.delta for fact in facts[:anchor])
        for fact in facts:
            if fact.visibility:
                visibility = OTHER_VISIBILITY[fact.visibility] if fact.at > facts[0].at else None
                break
            if fact.snapshot and (said := fact.snapshot.visibility or fact.snapshot.assumed_visibility):
                visibility = said
                break
        for fact in facts:
            said = fact.snapshot.owner if fact.snapshot else fact.owner_hint
            if fact.owner or said:
                owner = None if fact.owner else said
                break
        return cls(size_bytes=size, visibility=visibility, owner=owner)

    def of_state(self, state: _State) -> tuple[int, str | None, str | None, Basis]:
        """Return what is shown of a state: bytes (never below 0), visibility, owner, basis."""
        if state.is_anchored:
            size, basis = state.raw_bytes, Basis.EVENTS if state.has_changed else Basis.SNAPSHOT
        elif self.size_bytes is None:
            size, basis = state.raw_bytes, Basis.NO_SNAPSHOT
        else:
            size, basis = state.raw_bytes + self.size_bytes, Basis.CARRIED_BACK
        return max(0, size), state.visibility or self.visibility, state.owner or self.owner, basis


def _joined(segments: Iterable[Segment]) -> tuple[Segment, ...]:
    """Draw together neighbours that say the same."""
    joined: list[Segment] = []
    for segment in segments:
        longer = replace(joined[-1], end=segment.end) if joined and joined[-1].end == segment.start else None
        if longer is not None and longer == replace(segment, start=longer.start):
            joined[-1] = longer
        else:
            joined.append(segment)
    return tuple(joined)
