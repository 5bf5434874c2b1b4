"""A row of a ready table of sizes -> one repository in one snapshot, or why not. Pure.

Fields: repository, bytes, snapshot_at (RFC 3339 with zone, or an instant of the table's own type), and where they are known
visibility ("public" or "private"), owner, object_count. Not here: reading tables (table_reader).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from billing_pipeline.records import Reason
from billing_pipeline.sources.personal_names import Pseudonymise, kept_name
from billing_pipeline.sources.storage_profile import LARGEST_BYTES, is_name
from billing_pipeline.sources.storage_reasons import StorageReason
from billing_pipeline.sources.visibility_events import VISIBILITIES, instant_of

MAX_DIGITS = 19


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeRow:
    """What a repository held at an instant (aware UTC)."""

    repository: str
    snapshot_at: datetime
    bytes: int
    visibility: str | None
    owner: str | None
    object_count: int | None


# Why a row is refused, and which field.
Refusal = tuple[str, str]


def read_size_row(
    fields: Mapping[str, Any], *, as_of: datetime, pseudonymise: Pseudonymise | None = None
) -> SizeRow | Refusal:
    """Return the row of these fields, or why it is refused. Empty text is absent: CSV knows no null."""
    said = {name: value for name, value in fields.items() if value not in (None, "")}
    for name in ("repository", "bytes", "snapshot_at"):
        if name not in said:
            return Reason.MISSING_FIELD, name
    for name in ("repository", "owner"):
        if name in said and not (isinstance(said[name], str) and is_name(said[name])):
            return Reason.BAD_VALUE, name
        if name in said:
            said[name] = kept_name(said[name], pseudonymise)
            if said[name] is None:
                return StorageReason.PERSONAL_NAME, name
    snapshot_at = instant_of(said["snapshot_at"], as_of=as_of)
    if isinstance(snapshot_at, Reason):
        return snapshot_at, "snapshot_at"
    if said.get("visibility", VISIBILITIES[0]) not in VISIBILITIES:
        return Reason.BAD_VALUE, "visibility"
    sizes = {name: _whole(said[name]) for name in ("bytes", "object_count") if name in said}
    for name, value in sizes.items():
        if value is None:
            return Reason.OUT_OF_RANGE, name
    return SizeRow(
        repository=said["repository"],
        snapshot_at=snapshot_at,
        bytes=sizes["bytes"] or 0,
        visibility=said.get("visibility"),
        owner=said.get("owner"),
        object_count=sizes.get("object_count"),
    )


def _whole(value: object) -> int | None:
    """Return a whole number from 0 to 2^63-1, written as one; None for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= MAX_DIGITS:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= LARGEST_BYTES else None
