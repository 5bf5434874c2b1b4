"""The storage sources of this installation: `storage.toml` in the catalog folder, each with its profile. Read once, checked.

No file: no sources. Not here: what a profile says (billing_pipeline/sources/storage_profile), files (landing).
"""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import StrEnum
from itertools import permutations
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from billing_pipeline.errors import BillingError
from billing_pipeline.sources.storage_profile import StorageProfile, load_storage_profile
from billing_pipeline.storage_policy import OnFailure, StoragePolicy
from resources.landing import LandingFile
from resources.object_store import is_s3_url
from resources.source_config import SOURCES_FILE

STORAGE_FILE = "storage.toml"
SNAPSHOTS = "core/storage_snapshots"
OBJECTS = "core/storage_objects"
OBJECT_EVENTS = "core/object_events"
VISIBILITY_EVENTS = "core/visibility_events"
DATASETS = (SNAPSHOTS, OBJECT_EVENTS, VISIBILITY_EVENTS)

_DAY = re.compile(r"(?:^|/)(\d{4})[-/](\d\d)[-/](\d\d)(?:T\d\d-\d\dZ)?(?=/)")


class StorageConfigError(BillingError):
    """storage.toml says what cannot be."""


class Kind(StrEnum):
    """What a source delivers. `listing`: we list the bucket or folder ourselves."""

    INVENTORY = "inventory"
    LISTING = "listing"
    TABLE = "table"
    CLOUDTRAIL = "cloudtrail"
    VISIBILITY = "visibility"


DATASET_OF = {
    Kind.INVENTORY: SNAPSHOTS,
    Kind.LISTING: SNAPSHOTS,
    Kind.TABLE: SNAPSHOTS,
    Kind.CLOUDTRAIL: OBJECT_EVENTS,
    Kind.VISIBILITY: VISIBILITY_EVENTS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSource:
    """One source. `landing`: folder below the landing URL. `place`: what a listing lists, a folder or `s3://bucket/prefix`.

    `bucket`: which bucket snapshots measure, where they do not say it themselves: a table's, or the name of a listed place in
    CloudTrail; an inventory of another one is held. `buckets`: those whose events count, all when empty. `objects`: keep an index
    of each snapshot's objects. `public_keys`: file with the answer of `aws cloudtrail list-public-keys`.
    """

    name: str
    kind: Kind
    landing: str
    profile: StorageProfile
    place: str = ""
    bucket: str = ""
    buckets: frozenset[str] = frozenset()
    objects: bool = False
    digests: Literal["required", "when_there", "ignored"] = "when_there"
    public_keys: Path | None = None

    @property
    def dataset(self) -> str:
        """Return the lake dataset that this source fills."""
        return DATASET_OF[self.kind]

    def owns(self, file: LandingFile) -> bool:
        """Return whether `file` lies in this source's folder, or is the one file that it names."""
        return file.key == self.landing or file.key.startswith(f"{self.landing}/")


def measured_buckets(sources: Sequence[StorageSource]) -> frozenset[str]:
    """Return the buckets that snapshots measure; an inventory that is not said to be of one is of one of its own.

    With one, or none, every snapshot and event is of the same: tables need not say it.
    """
    return frozenset(
        source.bucket or (listed_bucket(source) if source.kind is Kind.LISTING else f"source {source.name}")
        for source in sources
        if source.kind in (Kind.INVENTORY, Kind.LISTING) or (source.kind is Kind.TABLE and source.bucket)
    )


def listed_bucket(source: StorageSource) -> str:
    """Return the name under which objects of a listed place are kept."""
    if source.bucket:
        return source.bucket
    return source.place.removeprefix("s3://").partition("/")[0] if is_s3_url(source.place) else source.name


def delivery_day_of(file: LandingFile) -> date:
    """Return the UTC day that the file's path names (YYYY-MM-DD, YYYY/MM/DD, YYYY-MM-DDTHH-MMZ), else of its modification time."""
    match = _DAY.search(file.key)
    try:
        return file.modified_at.date() if match is None else date(int(match[1]), int(match[2]), int(match[3]))
    except ValueError:
        return file.modified_at.date()


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
    kind: Kind
    landing: str = Field(min_length=1)
    profile: str = "storage_owner_repository"
    place: str = ""
    bucket: str = ""
    buckets: tuple[str, ...] = ()
    objects: bool = False
    digests: Literal["required", "when_there", "ignored"] = "when_there"
    public_keys: str = ""

    @model_validator(mode="after")
    def _fields_fit_the_kind(self) -> "_Entry":
        if (self.kind is Kind.LISTING) != bool(self.place):
            raise ValueError(f"source {self.name}: a listing has a `place`, and nothing else has")
        if self.bucket and self.kind in (Kind.CLOUDTRAIL, Kind.VISIBILITY):
            raise ValueError(
                f"source {self.name}: `bucket` says what snapshots measure; {self.kind} names `buckets`, or none"
            )
        if self.kind is Kind.CLOUDTRAIL and self.digests == "required" and not self.public_keys:
            raise ValueError(f"source {self.name}: required digests cannot be verified without `public_keys`")
        if not self.landing.strip("/"):
            raise ValueError(f"source {self.name}: landing must be a folder of its own")
        return self


class _Policy(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    drift_percent: Decimal = Field(default=StoragePolicy().drift_percent, ge=0, le=100, decimal_places=4)
    on_drift: OnFailure = StoragePolicy().on_drift
    on_visibility_mismatch: OnFailure = StoragePolicy().on_visibility_mismatch


class _StorageFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    policy: _Policy = _Policy()
    source: tuple[_Entry, ...] = ()


def load_storage_sources(folder: Path) -> tuple[StorageSource, ...]:
    """Return the sources that `folder`/storage.toml lists, none without the file; own profiles are in `folder`/profiles.

    Raises:
        StorageConfigError: the file is not valid.
        StorageProfileError: a profile is missing or not valid.
    """
    path = folder / STORAGE_FILE
    entries = _storage_file(path).source
    names = [entry.name for entry in entries]
    taken = _names_in(folder / SOURCES_FILE) | _names_in(folder / "traffic.toml")
    for name in names:
        if names.count(name) > 1 or name in taken:
            raise _refused(f"{path}: two sources are named {name}")
    for inner, outer in permutations(entries, 2):
        if f"{inner.landing.strip('/')}/".startswith(f"{outer.landing.strip('/')}/"):
            raise _refused(f"{path}: the files of source {inner.name} would be read as those of {outer.name} too")
    return tuple(
        StorageSource(
            name=entry.name,
            kind=entry.kind,
            landing=entry.landing.strip("/"),
            profile=load_storage_profile(entry.profile, (folder, folder / "profiles")),
            place=entry.place,
            bucket=entry.bucket,
            buckets=frozenset(entry.buckets),
            objects=entry.objects,
            digests=entry.digests,
            public_keys=folder / entry.public_keys if entry.public_keys else None,
        )
        for entry in entries
    )


def load_storage_policy(folder: Path) -> StoragePolicy:
    """Return what `folder`/storage.toml says in [policy] about failed checks; what it leaves out is as it ships.

    Raises:
        StorageConfigError: the file is not valid.
    """
    return StoragePolicy(**_storage_file(folder / STORAGE_FILE).policy.model_dump())


def _storage_file(path: Path) -> _StorageFile:
    try:
        return _StorageFile(**tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal))
    except FileNotFoundError:
        return _StorageFile()
    except (tomllib.TOMLDecodeError, ValidationError, UnicodeDecodeError) as error:
        raise _refused(f"{path} is not valid: {error}") from error


def _names_in(path: Path) -> frozenset[str]:
    """Return the names of the sources in another file; one that cannot be read is refused by its own reader."""
    try:
        listed = tomllib.loads(path.read_text(encoding="utf-8")).get("source", [])
    except (FileNotFoundError, tomllib.TOMLDecodeError, UnicodeDecodeError):
        return frozenset()
    return frozenset(str(entry.get("name")) for entry in listed if isinstance(entry, dict))


def _refused(what: str) -> StorageConfigError:
    return StorageConfigError(
        what,
        bill="no storage is read, so none is billed",
        fix="write [[source]] blocks with name, kind, landing (a folder of its own) and profile, and [policy], as "
        "catalog/storage.toml shows",
    )
