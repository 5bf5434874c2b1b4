"""Timelines: snapshots, object events and repository events -> the ordered states of a repository. Pure, short, exact.

One repository; the reference that sql/storage_*.sql is held to. Byte-seconds are exact: `bytes x microseconds / 10^6`. The rules:

R1 by time; at one instant events come before the snapshot, and among events the action id decides. R2 an event counts once, by
shared event id or event id; a correction takes the place of all events of the action that it corrects; an id with two contents
does not count. R3 a put adds its size less what is counted of the key, a delete takes away what is counted of it: what the last
snapshot that lists objects says of it, or a sized event since. What has no size, or takes away what nobody has sized, changes
nothing and is unsized until the next snapshot. A completed upload has the size of its parts when all of 1..n are known. R4 a
snapshot is the truth of its bucket from its instant on, never before; what it says less what events gave is the drift. A
repository holds the sum of what its buckets hold; snapshots of one bucket take each other's place. R5 before its first snapshot a
bucket is carried back with the events undone, to the midnight before its first evidence; a visibility event undone is the other
visibility, unless it is the first evidence; an ownership event undone is an unknown owner. R6 the last state reaches to the end
that is asked for.

Not here: who pays (accounts by owner), GB-months (rating), finding the inputs (resources).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum
from itertools import groupby

MICROSECOND = timedelta(microseconds=1)
# Parts of an upload that nobody completed are forgotten: what completes it later is unsized.
UPLOAD_DAYS = 7
PARTS = frozenset({"UploadPart", "UploadPartCopy"})
COMPLETION, MARKER = "CompleteMultipartUpload", "delete_marker"
OTHER_VISIBILITY = {"public": "private", "private": "public"}


class Basis(StrEnum):
    """Where a state comes from. Where buckets differ, the last of these that is true of one."""

    SNAPSHOT = "snapshot"
    EVENTS = "events"
    CARRIED_BACK = "carried_back"
    NO_SNAPSHOT = "no_snapshot"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a repository holds in a bucket at an instant. `objects`: object -> (bytes, current version); None: it lists none.
    `assumed_visibility` counts until anybody says one. `bucket` is empty where all that is measured is one."""

    at: datetime
    size_bytes: int
    bucket: str = ""
    visibility: str | None = None
    assumed_visibility: str | None = None
    owner: str | None = None
    objects: Mapping[str, tuple[int, str | None]] | None = None


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
    bucket: str = ""


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
    """A snapshot of a bucket against what events gave there before it; `derived_bytes` None: it is the first."""

    at: datetime
    bucket: str
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
    taken: dict[str, dict[datetime, Snapshot]] = {}
    for snapshot in snapshots:
        taken.setdefault(snapshot.bucket, {}).setdefault(snapshot.at, snapshot)
    facts = _changes([one for one in object_events if one.at < end], taken)
    facts += [
        _Fact(at=one.at, visibility=one.value) if one.kind == "visibility" else _Fact(at=one.at, owner=one.value)
        for one in sorted(repository_events, key=lambda event: (event.at, event.event_id))
    ]
    facts += [_Fact(at=at, bucket=name, snapshot=one) for name in sorted(taken) for at, one in taken[name].items()]
    known = sorted((fact for fact in facts if fact.at < end), key=lambda fact: fact.order)
    return _assembled(known, end) if known else Timeline(segments=(), drifts=(), unsized_events=0)


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
    """What an event or a snapshot says about an instant. Repository events are facts of the bucket without a name."""

    at: datetime
    bucket: str = ""
    is_change: bool = False
    delta: int = 0
    unsized: int = 0
    visibility: str | None = None
    owner: str | None = None
    owner_hint: str | None = None
    snapshot: Snapshot | None = None

    @property
    def order(self) -> tuple[datetime, bool]:
        return self.at, self.snapshot is not None


@dataclass(slots=True)
class _Key:
    """What is known of one key. `counted_bytes`: what the size of the repository has of it; None: nobody can tell."""

    counted_bytes: int | None = None
    version_id: str | None = None


@dataclass(slots=True)
class _Objects:
    """The object index of a bucket while its events pass by, and the snapshots still to come that begin it anew."""

    epochs: list[datetime]
    is_listed: bool = False
    keys: dict[str, _Key] = field(default_factory=dict)
    parts: dict[str, dict[int, tuple[datetime, int | None]]] = field(default_factory=dict)

    def keep_part(self, event: ObjectEvent) -> None:
        """Remember a part until its upload is completed; the last of a part number counts."""
        if event.upload_id is not None and event.part_number is not None:
            self.parts.setdefault(event.upload_id, {})[event.part_number] = (event.at, event.size_bytes)

    def begin_epochs(self, before: datetime, snapshots: Mapping[datetime, Snapshot]) -> None:
        """Take the index of the snapshots before an instant. One that lists no objects leaves an index that was listed."""
        while self.epochs and self.epochs[0] < before:
            listed = snapshots[self.epochs.pop(0)].objects
            if listed is not None or not self.is_listed:
                self.keys = {key: _Key(size, version) for key, (size, version) in (listed or {}).items()}
                self.is_listed = listed is not None


def _changes(events: Sequence[ObjectEvent], snapshots: Mapping[str, Mapping[datetime, Snapshot]]) -> list[_Fact]:
    """Return what each action adds to its bucket (R3)."""
    indexes: dict[str, _Objects] = {}
    facts = []
    for event in counted_once(events):
        taken = snapshots.get(event.bucket, {})
        objects = indexes.setdefault(event.bucket, _Objects(epochs=sorted(taken)))
        if event.event_name in PARTS or event.action == MARKER:
            objects.keep_part(event)
            continue
        objects.begin_epochs(event.at, taken)
        delta = _delta(objects, event)
        facts.append(_Fact(at=event.at, bucket=event.bucket, is_change=True, delta=delta or 0, unsized=int(delta is None),
                           owner_hint=event.owner))  # fmt: skip
    return facts


def _delta(objects: _Objects, event: ObjectEvent) -> int | None:
    """Return the bytes that an event adds, None where nobody can tell, and leave its mark in the index."""
    key = objects.keys.setdefault(event.object_id, _Key())
    before = key.counted_bytes
    match event.action:
        case "delete_version":
            # the current version: an older one of unknown size is back
            return None if key.version_id in (None, event.version_id) or event.version_id is None else 0
        case "delete":
            objects.keys[event.object_id] = _Key(0)
            return None if before is None else -before
    after = _size(objects, event)
    key.version_id = event.version_id
    if after is None:
        return None
    key.counted_bytes = after
    return after - (before or 0)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Level:
    """What a bucket holds from an instant on; rank -1: from midnight, before its first evidence. `basis` None: of its bytes nobody
    has said anything."""

    at: datetime
    rank: int
    bucket: str
    size_bytes: int
    basis: Basis | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Words:
    """Visibility and owner, as far as anybody has said."""

    visibility: str | None = None
    owner: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """What had been said before the events, or the snapshots, of an instant, and what is said after them."""

    before: _Words
    after: _Words


def _assembled(facts: Sequence[_Fact], end: datetime) -> Timeline:
    said = _said(facts)
    levels: list[_Level] = []
    drifts: list[Drift] = []
    unsized = 0
    for bucket in sorted({fact.bucket for fact in facts}):
        levels_there, drifts_there, unsized_there = _levels([fact for fact in facts if fact.bucket == bucket], said)
        levels += levels_there
        drifts += drifts_there
        unsized += unsized_there
    base = _base(facts)
    now: dict[str, _Level] = {}
    after = _Words()
    shown: dict[datetime, tuple[int, str | None, str | None, Basis]] = {}
    for (at, rank), same in groupby(sorted(levels, key=lambda one: (one.at, one.rank)), lambda one: (one.at, one.rank)):
        now |= {one.bucket: one for one in same}
        after = said[at, rank == 1].after if rank >= 0 else after
        shown[at] = (
            sum(one.size_bytes for one in now.values()),
            after.visibility or base.visibility,
            after.owner or base.owner,
            max((one.basis for one in now.values() if one.basis), key=list(Basis).index, default=Basis.NO_SNAPSHOT),
        )
    segments = [
        Segment(start=start, end=until, size_bytes=size, visibility=visibility, owner=owner, basis=basis)
        for (start, (size, visibility, owner, basis)), until in zip(shown.items(), [*list(shown)[1:], end], strict=True)
    ]
    in_order = sorted(drifts, key=lambda one: (one.at, one.bucket))
    return Timeline(segments=_joined(segments), drifts=tuple(in_order), unsized_events=unsized)


def _levels(
    facts: Sequence[_Fact], said: Mapping[tuple[datetime, bool], _Said]
) -> tuple[list[_Level], list[Drift], int]:
    """Return what the facts of one bucket come to (R4, R5)."""
    first = next((number for number, fact in enumerate(facts) if fact.snapshot), None)
    anchor = facts[first].snapshot if first is not None else None
    base = anchor.size_bytes - sum(fact.delta for fact in facts[:first]) if anchor else None
    bucket, midnight = facts[0].bucket, datetime.combine(facts[0].at.date(), time(), facts[0].at.tzinfo)
    levels = []
    if base is not None and base > 0:
        levels.append(_Level(at=midnight, rank=-1, bucket=bucket, size_bytes=base, basis=Basis.CARRIED_BACK))
    drifts: list[Drift] = []
    raw = unsized = 0
    basis = None if base is None else Basis.CARRIED_BACK
    for (at, is_snapshot), same in groupby(facts, lambda fact: fact.order):
        together = list(same)
        snapshot = together[0].snapshot
        if snapshot is not None:
            drifts.append(Drift(at=at, bucket=bucket, derived_bytes=max(0, raw) if _is_anchored(basis) else None,
                                snapshot_bytes=snapshot.size_bytes, derived_visibility=said[at, True].before.visibility,
                                snapshot_visibility=snapshot.visibility, unsized_events=unsized))  # fmt: skip
            raw, unsized, basis = snapshot.size_bytes, 0, Basis.SNAPSHOT
        else:
            raw += sum(fact.delta for fact in together)
            unsized += sum(fact.unsized for fact in together)
            if _is_anchored(basis):
                basis = Basis.EVENTS
            elif basis is None and any(fact.is_change for fact in together):
                basis = Basis.NO_SNAPSHOT
        size = raw if _is_anchored(basis) else raw + (base or 0)
        levels.append(_Level(at=at, rank=int(is_snapshot), bucket=bucket, size_bytes=max(0, size), basis=basis))
    return levels, drifts, unsized


def _is_anchored(basis: Basis | None) -> bool:
    return basis in (Basis.SNAPSHOT, Basis.EVENTS)


def _said(facts: Sequence[_Fact]) -> Mapping[tuple[datetime, bool], _Said]:
    """Return what is said around each step of a repository; among snapshots of an instant the first bucket that says it counts."""
    said, now = {}, _Words()
    for order, same in groupby(facts, lambda fact: fact.order):
        together = list(same)
        snapshots = [fact.snapshot for fact in together if fact.snapshot]
        visibility = _last(fact.visibility for fact in together) or _first(one.visibility for one in snapshots)
        owner = _last(fact.owner for fact in together) or _first(one.owner for one in snapshots)
        after = _Words(
            visibility=visibility or now.visibility or _first(one.assumed_visibility for one in snapshots),
            owner=owner or now.owner or _first(fact.owner_hint for fact in together),
        )
        said[order] = _Said(before=now, after=after)
        now = after
    return said


def _base(facts: Sequence[_Fact]) -> _Words:
    """Return how visibility and owner were before anything had said so (R5)."""
    visibility = owner = None
    for _, same in groupby(facts, lambda fact: fact.order):
        together = list(same)
        turned = _last(fact.visibility for fact in together)
        if turned:
            visibility = OTHER_VISIBILITY[turned] if together[0].at > facts[0].at else None
            break
        snapshots = [fact.snapshot for fact in together if fact.snapshot]
        visibility = _first(one.visibility for one in snapshots) or _first(one.assumed_visibility for one in snapshots)
        if visibility:
            break
    for _, same in groupby(facts, lambda fact: fact.order):
        together = list(same)
        if _last(fact.owner for fact in together):
            break
        owner = _first(fact.snapshot.owner if fact.snapshot else fact.owner_hint for fact in together)
        if owner:
            break
    return _Words(visibility=visibility, owner=owner)


def _first(said: Iterable[str | None]) -> str | None:
    return next((one for one in said if one), None)


def _last(said: Iterable[str | None]) -> str | None:
    return _first(reversed(list(said)))


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
