"""Who may see a repository and who owns it: lines of JSON or rows of a table -> visibility events. Pure.

A line is an object with `repository`, `at` (RFC 3339), and `visibility` ("public" or "private") or `owner`, or both; `event_id`
where the source has one, else its content is its identity. Not here: files (table_reader), timelines.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from billing_pipeline.records import Reason
from billing_pipeline.sources.json_numbers import exact_decimal
from billing_pipeline.sources.personal_names import Pseudonymise, kept_name
from billing_pipeline.sources.storage_profile import is_name
from billing_pipeline.sources.storage_reasons import StorageReason
from billing_pipeline.sources.timestamps import in_range, parse_instant

MAX_LINE_BYTES = 65_536
VISIBILITIES = ("public", "private")


class Kind(StrEnum):
    """What an event sets."""

    VISIBILITY = "visibility"
    OWNER = "owner"


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryEvent:
    """One fact about a repository from `event_at` (aware UTC) on."""

    event_id: str
    event_at: datetime
    repository: str
    kind: Kind
    value: str


# A refused line: why, and which field.
Refusal = tuple[str, str | None]


def json_fields(line: bytes) -> Mapping[str, Any] | Refusal:
    """Return the object that one line of JSON lines holds, or why it holds none."""
    if len(line) > MAX_LINE_BYTES:
        return Reason.TOO_LONG, None
    try:
        fields = json.loads(line.decode("utf-8"), parse_float=exact_decimal, object_pairs_hook=_no_key_twice)
    except UnicodeDecodeError:
        return Reason.ENCODING, None
    except _TwiceError:
        return Reason.DUPLICATE_KEY, None
    except (ValueError, RecursionError):
        return Reason.BAD_JSON, None
    return fields if isinstance(fields, dict) else (Reason.NOT_AN_OBJECT, None)


def read_fields(
    fields: Mapping[str, Any], *, as_of: datetime, pseudonymise: Pseudonymise | None = None
) -> tuple[RepositoryEvent, ...] | Refusal:
    """Return the events of one line or row of a table, or why it is refused.

    `pseudonymise` turns e-mail addresses in names into pseudonyms; without it such a line is refused.
    """
    repository = fields.get("repository")
    if not isinstance(repository, str) or not is_name(repository):
        return Reason.MISSING_FIELD if repository is None else Reason.BAD_VALUE, "repository"
    event_at = instant_of(fields.get("at"), as_of=as_of)
    if isinstance(event_at, Reason):
        return event_at, "at"
    # CSV knows no null: empty text says nothing.
    visibility, owner = fields.get("visibility") or None, fields.get("owner") or None
    if visibility is None and owner is None:
        return Reason.MISSING_FIELD, "visibility"
    if visibility is not None and visibility not in VISIBILITIES:
        return Reason.BAD_VALUE, "visibility"
    if owner is not None and not (isinstance(owner, str) and is_name(owner)):
        return Reason.BAD_VALUE, "owner"
    event_id = fields.get("event_id") or None
    if event_id is not None and not (isinstance(event_id, str) and is_name(event_id)):
        return Reason.BAD_VALUE, "event_id"
    names = {"repository": repository, "owner": owner, "event_id": event_id}
    kept = {name: value if value is None else kept_name(value, pseudonymise) for name, value in names.items()}
    for name, value in names.items():
        if value is not None and kept[name] is None:
            return StorageReason.PERSONAL_NAME, name
    return _events(event_at, visibility, **kept)


def _events(
    event_at: datetime, visibility: str | None, *, repository: str | None, owner: str | None, event_id: str | None
) -> tuple[RepositoryEvent, ...]:
    repository = repository or ""
    said = {kind: value for kind, value in ((Kind.VISIBILITY, visibility), (Kind.OWNER, owner)) if value is not None}
    return tuple(
        RepositoryEvent(
            event_id=_identity(event_id, kind, len(said), f"{repository}|{event_at.isoformat()}|{kind}|{value}"),
            event_at=event_at,
            repository=repository,
            kind=kind,
            value=value,
        )
        for kind, value in said.items()
    )


def _identity(event_id: str | None, kind: Kind, count: int, content: str) -> str:
    if event_id is None:
        return hashlib.sha256(content.encode()).hexdigest()[:32]
    return event_id if count == 1 else f"{event_id}/{kind}"


def instant_of(value: object, *, as_of: datetime) -> datetime | Reason:
    """Return the UTC instant of RFC 3339 text or of a table's own type, or why it is none."""
    if value is None:
        return Reason.MISSING_FIELD
    if isinstance(value, datetime):
        # A table's own type. Without a zone it is UTC: that is how Parquet keeps instants.
        return in_range(value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC), as_of=as_of)
    return parse_instant(value, layout="rfc3339", as_of=as_of)


class _TwiceError(Exception):
    """A key occurs twice in one object."""


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise _TwiceError
    return fields
