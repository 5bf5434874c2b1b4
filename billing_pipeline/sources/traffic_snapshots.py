"""Read counter snapshots of a traffic exporter: JSON -> snapshots of cumulative byte totals, or rejections. Pure.

Grain of `TrafficSample`: one stream (account, inbound) at one instant; bytes are cumulative totals since the counter began,
exact integers of 0..2^63-1. A person's e-mail address is dropped here and never leaves this module. Not here: fetching
(resources), Xray's own outputs (xray_outputs), deltas (counters).
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TypeAlias

from billing_pipeline.errors import BillingError
from billing_pipeline.records import Reason
from billing_pipeline.sources.json_numbers import exact_decimal
from billing_pipeline.sources.timestamps import parse_instant

LARGEST_TOTAL = 2**63 - 1
EXCERPT_CHARACTERS = 120

# Turns an e-mail address into a keyed pseudonym.
Pseudonymise: TypeAlias = Callable[[str], str]

_PSEUDONYM = re.compile(r"c_[0-9a-f]{16}", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_DIGITS = re.compile(r"[0-9]{1,19}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+-]{0,127}", re.ASCII)
_E_MAIL = re.compile(r"[^\s\"'<>,;@\\]*@[^\s\"'<>,;\\]*")
_SAMPLE_FIELDS = ("uuid", "inbound_tag", "uplink_bytes_total", "downlink_bytes_total")
_WHITESPACE = re.compile(r"\s*")
_MISSING = object()


class BodyUnreadableError(BillingError):
    """A body that is no snapshot, array of snapshots or sequence of them. `excerpt`: its beginning, without e-mail."""

    def __init__(self, problem: str, excerpt: str) -> None:
        super().__init__(
            f"a body of snapshots cannot be read: {problem}",
            bill="nothing of it was taken; counters are cumulative, so the next snapshot that is read brings its traffic",
            fix="send one JSON object, an array of objects, or objects one after another (newline-delimited), in UTF-8",
        )
        self.problem = problem
        self.excerpt = excerpt


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficSample:
    """Totals of one stream at one instant. `account_uuid`: UUID in lower case, or a pseudonym; `inbound_tag` may be ''."""

    account_uuid: str
    inbound_tag: str
    uplink_bytes: int
    downlink_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRejection:
    """A refused sample: its 1-based position in the snapshot, why, which field. Never its values."""

    position: int
    reason: Reason
    field: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficSnapshot:
    """All counters of one node at one instant (aware UTC, whole microseconds). `samples` may be empty.

    `uptime_seconds`: of the process that counts; it tells a restart from late data. Law 1: samples read = samples + rejected.
    """

    env: str
    node: str
    collected_at: datetime
    samples: tuple[TrafficSample, ...]
    rejected: tuple[SampleRejection, ...] = ()
    uptime_seconds: int | None = None
    xray_version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRejection:
    """A snapshot of which nothing can be taken: its 1-based position in the body, why, which field."""

    position: int
    reason: Reason
    field: str | None


SnapshotReading: TypeAlias = TrafficSnapshot | SnapshotRejection


class _RefusedError(Exception):
    def __init__(self, reason: Reason, field: str | None = None) -> None:
        self.reason = reason
        self.field = field


def parse_body(
    body: bytes, *, as_of: datetime, pseudonymise: Pseudonymise | None = None
) -> tuple[SnapshotReading, ...]:
    """Return what a pushed or dropped body says, in its order: one object, an array, or objects one after another.

    `as_of` is when it was received: a snapshot more than five minutes later is refused.

    Raises:
        BodyUnreadableError: it is empty, no JSON, or holds something else than objects.
    """
    return tuple(
        parse_snapshot(value, as_of=as_of, pseudonymise=pseudonymise, position=position)
        for position, value in enumerate(decode_body(body), 1)
    )


def parse_snapshot(
    value: object, *, as_of: datetime, pseudonymise: Pseudonymise | None = None, position: int = 1
) -> SnapshotReading:
    """Return the snapshot that decoded JSON (see `decode_body`, `decode_json`) holds, or why nothing of it can be taken.

    Refused samples stand in its `rejected`. An account known only by e-mail becomes what `pseudonymise` makes of it; without
    that function the sample is refused.
    """
    try:
        if not isinstance(value, Mapping):
            raise _RefusedError(Reason.NOT_AN_OBJECT)
        collected_at = parse_instant(_field(value, "collected_at"), layout="rfc3339", as_of=as_of)
        if isinstance(collected_at, Reason):
            raise _RefusedError(collected_at, "collected_at")
        samples, rejected = _samples(value, pseudonymise)
        return TrafficSnapshot(
            env=_name(value, "env"),
            node=_name(value, "node_id"),
            collected_at=collected_at,
            samples=samples,
            rejected=rejected,
            uptime_seconds=_optional_seconds(value, "uptime_seconds"),
            xray_version=_optional_name(value, "xray_version"),
        )
    except _RefusedError as refused:
        return SnapshotRejection(position=position, reason=refused.reason, field=refused.field)


def decode_body(body: bytes) -> tuple[object, ...]:
    """Return the JSON objects of a body, numbers as int or Decimal, none of them judged.

    Raises:
        BodyUnreadableError: see `parse_body`.
    """
    text = _text(body)
    values: list[object] = []
    position = _skip_space(text, 0)
    while position < len(text):
        value, position = _decode_at(text, position, body)
        values.append(value)
        position = _skip_space(text, position)
    if len(values) == 1 and isinstance(values[0], list):
        values = values[0]
    if not values:
        raise BodyUnreadableError("it holds no snapshot", excerpt(body))
    if not all(isinstance(value, dict) for value in values):
        raise BodyUnreadableError("it holds something else than objects", excerpt(body))
    return tuple(values)


def decode_json(body: bytes) -> object:
    """Return the one JSON value of a body, numbers as int or Decimal.

    Raises:
        BodyUnreadableError: it is no JSON, is cut off, or goes on after the value.
    """
    text = _text(body)
    value, end = _decode_at(text, _skip_space(text, 0), body)
    if _skip_space(text, end) != len(text):
        raise BodyUnreadableError("it goes on after the end of its JSON value", excerpt(body))
    return value


def encode_body(snapshots: Iterable[TrafficSnapshot]) -> bytes:
    """Return snapshots as newline-delimited JSON that `parse_body` reads back, rejected samples by position and reason only.

    What no field of ours holds (an e-mail address, say) is not in it.
    """
    return b"".join(json.dumps(_encoded(snapshot), separators=(",", ":")).encode() + b"\n" for snapshot in snapshots)


def _encoded(snapshot: TrafficSnapshot) -> dict[str, object]:
    # Rejected samples keep their place, so that positions and reasons are the same when it is read back.
    samples: list[object] = [
        {
            "uuid": sample.account_uuid,
            "inbound_tag": sample.inbound_tag,
            "uplink_bytes_total": sample.uplink_bytes,
            "downlink_bytes_total": sample.downlink_bytes,
        }
        for sample in snapshot.samples
    ]
    for rejection in snapshot.rejected:
        samples.insert(rejection.position - 1, {"rejected": rejection.reason, "field": rejection.field})
    encoded: dict[str, object] = {
        "collected_at": snapshot.collected_at.astimezone(UTC).isoformat(),
        "node_id": snapshot.node,
        "env": snapshot.env,
        "samples": samples,
    }
    if snapshot.uptime_seconds is not None:
        encoded["uptime_seconds"] = snapshot.uptime_seconds
    if snapshot.xray_version is not None:
        encoded["xray_version"] = snapshot.xray_version
    return encoded


def exact_total(value: object, *, quoted: bool) -> int | Reason:
    """Return a byte total of 0..2^63-1, or why it is none. `quoted`: this format may write digits as text."""
    if quoted and isinstance(value, str):
        # 2^63-1 has 19 digits.
        if not _DIGITS.fullmatch(value):
            return Reason.BAD_VALUE
        value = int(value)
    if value is _MISSING or value is None:
        return Reason.MISSING_FIELD
    if isinstance(value, bool) or not isinstance(value, int):
        return Reason.WRONG_TYPE
    return value if 0 <= value <= LARGEST_TOTAL else Reason.OUT_OF_RANGE


def account_identity(text: str, pseudonymise: Pseudonymise | None) -> str | None:
    """Return the identity under which an account is kept: a UUID in lower case, or the pseudonym of an e-mail address.

    None: it is neither, or an e-mail address that nothing turns into a pseudonym.
    """
    identity = text.strip().lower()
    if _UUID.fullmatch(identity) or _PSEUDONYM.fullmatch(identity):
        return identity
    is_e_mail = identity.count("@") == 1 and not identity.startswith("@") and not identity.endswith("@")
    if pseudonymise is None or not is_e_mail or any(character.isspace() for character in identity):
        return None
    return pseudonymise(identity)


def is_name(text: str) -> bool:
    """Tell whether a node, environment, inbound tag or version is named by plain characters: no address, no sentence."""
    return _NAME.fullmatch(text) is not None


def excerpt(body: bytes) -> str:
    """Return the first 120 characters of a body, for its sender: printable, e-mail addresses masked."""
    text = body[: 8 * EXCERPT_CHARACTERS].decode("utf-8", errors="replace")
    masked = _E_MAIL.sub("[e-mail]", text)[:EXCERPT_CHARACTERS]
    return "".join(character if character.isprintable() else " " for character in masked)


def _text(body: bytes) -> str:
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BodyUnreadableError("it is not UTF-8", excerpt(body)) from None


def _skip_space(text: str, position: int) -> int:
    match = _WHITESPACE.match(text, position)
    return match.end() if match else position


def _decode_at(text: str, position: int, body: bytes) -> tuple[object, int]:
    try:
        return _DECODER.raw_decode(text, position)
    except (ValueError, RecursionError):
        raise BodyUnreadableError(f"it is no JSON from character {position + 1} on", excerpt(body)) from None


class _Ambiguous(dict[str, object]):
    """An object that says some keys twice: refused where one of them is read."""

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        super().__init__(pairs)
        self.repeated = frozenset(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)


def _as_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table = dict(pairs)
    return table if len(table) == len(pairs) else _Ambiguous(pairs)


# A number that is not exact is still JSON: the sample that holds it is refused, not the body.
_DECODER = json.JSONDecoder(object_pairs_hook=_as_object, parse_float=exact_decimal, parse_constant=Decimal)


def _field(table: Mapping[str, object], name: str) -> object:
    if isinstance(table, _Ambiguous) and name in table.repeated:
        raise _RefusedError(Reason.DUPLICATE_KEY, name)
    value = table.get(name, _MISSING)
    if value is _MISSING:
        raise _RefusedError(Reason.MISSING_FIELD, name)
    return value


def _name(table: Mapping[str, object], name: str) -> str:
    value = _field(table, name)
    if not isinstance(value, str):
        raise _RefusedError(Reason.WRONG_TYPE, name)
    if not is_name(value.strip()):
        raise _RefusedError(Reason.BAD_VALUE, name)
    return value.strip()


def _optional_name(table: Mapping[str, object], name: str) -> str | None:
    return None if table.get(name) in (None, "") else _name(table, name)


def _optional_seconds(table: Mapping[str, object], name: str) -> int | None:
    if table.get(name) is None:
        return None
    seconds = exact_total(_field(table, name), quoted=False)
    if isinstance(seconds, Reason):
        raise _RefusedError(seconds, name)
    return seconds


def _samples(
    table: Mapping[str, object], pseudonymise: Pseudonymise | None
) -> tuple[tuple[TrafficSample, ...], tuple[SampleRejection, ...]]:
    values = _field(table, "samples")
    # Go writes a slice without elements as null.
    if values is None:
        return (), ()
    if not isinstance(values, list):
        raise _RefusedError(Reason.WRONG_TYPE, "samples")
    samples: list[TrafficSample] = []
    rejected: list[SampleRejection] = []
    for position, value in enumerate(values, 1):
        try:
            samples.append(_sample(value, pseudonymise))
        except _RefusedError as refused:
            rejected.append(SampleRejection(position=position, reason=refused.reason, field=refused.field))
    return tuple(samples), tuple(rejected)


def _sample(value: object, pseudonymise: Pseudonymise | None) -> TrafficSample:
    if not isinstance(value, dict):
        raise _RefusedError(Reason.NOT_AN_OBJECT)
    if "rejected" in value:
        raise _known_rejection(value)
    identity = _field(value, "uuid")
    if not isinstance(identity, str):
        raise _RefusedError(Reason.WRONG_TYPE, "uuid")
    account = account_identity(identity, pseudonymise)
    if account is None:
        raise _RefusedError(Reason.BAD_VALUE, "uuid")
    return TrafficSample(
        account_uuid=account,
        inbound_tag=_optional_name(value, "inbound_tag") or "",
        uplink_bytes=_total(value, "uplink_bytes_total"),
        downlink_bytes=_total(value, "downlink_bytes_total"),
    )


def _known_rejection(value: Mapping[str, object]) -> _RefusedError:
    """Return why a sample was refused when the body was received; `encode_body` has written it."""
    reason, field = value["rejected"], value.get("field")
    known = reason in set(Reason) and field in (None, *_SAMPLE_FIELDS)
    return (
        _RefusedError(Reason(str(reason)), None if field is None else str(field))
        if known
        else _RefusedError(Reason.BAD_VALUE)
    )


def _total(table: Mapping[str, object], name: str) -> int:
    total = exact_total(_field(table, name), quoted=False)
    if isinstance(total, Reason):
        raise _RefusedError(total, name)
    return total
