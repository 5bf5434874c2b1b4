"""A storage profile: which repository an object belongs to, which bytes are sold, how far a snapshot may jump. Pure.

Read from a versioned TOML file, checked, frozen. A key belongs to the first pattern that matches all of it; its groups are
`repository` and, where the key says so, `owner`. Not here: where files lie (storage_config), who pays (catalog).
"""

import hashlib
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from billing_pipeline.errors import BillingError
from billing_pipeline.sources.personal_names import Pseudonymise, kept_name

LARGEST_BYTES = 2**63 - 1
MAX_KEY_BYTES = 1_024
MAX_NAME_LENGTH = 255

_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")


class StorageProfileError(BillingError):
    """A storage profile that is missing or says what cannot be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Belonging:
    """The repository of a key, and its owner where the key names one."""

    repository: str
    owner: str | None

    def kept(self, pseudonymise: Pseudonymise | None) -> "Belonging | None":
        """Return it with names as they are kept, without e-mail addresses; None when nothing turns one into a pseudonym."""
        repository = kept_name(self.repository, pseudonymise)
        owner = None if self.owner is None else kept_name(self.owner, pseudonymise)
        if repository is None or (self.owner is not None and owner is None):
            return None
        if (repository, owner) == (self.repository, self.owner):
            return self
        return Belonging(repository=repository, owner=owner)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Bounds(_Frozen):
    """How a snapshot's total may differ from the one before it; beyond, it is held. `from_bytes`: smaller ones always may."""

    shrink_percent: int = Field(default=50, ge=0, le=100)
    grow_percent: int = Field(default=400, ge=0)
    from_bytes: int = Field(default=1_000_000_000, ge=0)

    def allows(self, *, before: int, now: int) -> bool:
        """Return whether a total may go from `before` to `now` bytes."""
        if max(before, now) <= self.from_bytes:
            return True
        return before * (100 - self.shrink_percent) <= now * 100 <= before * (100 + self.grow_percent)


class StorageProfile(_Frozen):
    """One profile. `sha256` is over the file; raise `version` with every change that reads a key differently.

    `bytes_sold`: the current version of each object, or every version that is kept. `visibility`: of a repository of which
    nothing else says it; null means unknown. `plus_in_csv_keys`: what a bare `+` in the keys of a CSV inventory stands for.
    """

    name: str
    version: int = Field(ge=1)
    description: str
    keys: tuple[str, ...] = Field(min_length=1)
    bytes_sold: Literal["current", "all_versions"] = "current"
    visibility: Literal["public", "private"] | None = None
    plus_in_csv_keys: Literal["space", "plus"] = "space"
    max_snapshot_age_hours: int = Field(default=36, ge=1)
    bounds: Bounds = Bounds()
    sha256: str = ""

    @field_validator("keys")
    @classmethod
    def _patterns_name_a_repository(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        for key in keys:
            groups = re.compile(key).groupindex.keys()
            if "repository" not in groups or groups - {"repository", "owner"}:
                raise ValueError(f"pattern {key!r} must have a group `repository`, may have `owner`, and no other")
        return keys

    @cached_property
    def _patterns(self) -> tuple[tuple[re.Pattern[str], bool], ...]:
        return tuple((re.compile(key), "owner" in re.compile(key).groupindex) for key in self.keys)

    def belonging(self, key: str) -> Belonging | None:
        """Return whose `key` is; None when no pattern matches or the name is not one that can be kept."""
        for pattern, has_owner in self._patterns:
            match = pattern.fullmatch(key)
            if match is not None:
                repository, owner = match["repository"], match["owner"] if has_owner else None
                if not is_name(repository) or (owner is not None and not is_name(owner)):
                    return None
                return Belonging(repository=repository, owner=owner)
        return None


def is_name(text: str) -> bool:
    """Return whether `text` can be the name of a repository or an owner: 1 to 255 characters, none a control."""
    return 0 < len(text) <= MAX_NAME_LENGTH and not _CONTROLS.search(text)


def is_key(text: str) -> bool:
    """Return whether `text` can be an S3 key that we keep apart from others: 1 to 1024 bytes of UTF-8 without NUL."""
    try:
        return 0 < len(text.encode()) <= MAX_KEY_BYTES and "\0" not in text
    except UnicodeEncodeError:
        return False


def object_id(bucket: str, key: str) -> str:
    """Return the identity under which an object is kept: 32 hex digits that tell nothing of its name."""
    return hashlib.sha256(f"{bucket}|{key}".encode()).hexdigest()[:32]


def version_object_id(identity: str, version_id: str | None) -> str:
    """Return the identity of one version of an object, where each is sold. sql/listed_objects says the same."""
    return hashlib.sha256(f"{identity}|{version_id or ''}".encode()).hexdigest()[:32]


def parse_storage_profile(content: bytes, *, origin: str) -> StorageProfile:
    """Return the profile that a TOML file holds; `origin` names the file in errors.

    Raises:
        StorageProfileError: it is not valid.
    """
    try:
        table = tomllib.loads(content.decode("utf-8"))
        return StorageProfile(**{**table, "sha256": hashlib.sha256(content).hexdigest()})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValidationError, re.error) as error:
        raise StorageProfileError(
            f"storage profile {origin} is not valid: {error}",
            bill="nothing was read with it, so no storage of this source is billed yet",
            fix="correct the file; those in billing_pipeline/storage_profiles show each field",
        ) from error


def load_storage_profile(name: str, search: Sequence[Path] = ()) -> StorageProfile:
    """Return the profile `name`, from the folders in `search` first, else from those shipped.

    Raises:
        StorageProfileError: no such profile, or one that is not valid.
    """
    for folder in search:
        path = folder / f"{name}.toml"
        if path.is_file():
            return parse_storage_profile(path.read_bytes(), origin=path.name)
    folder_of_shipped = resources.files("billing_pipeline") / "storage_profiles"
    shipped = {entry.name: entry for entry in folder_of_shipped.iterdir() if entry.name.endswith(".toml")}
    if f"{name}.toml" in shipped:
        return parse_storage_profile(shipped[f"{name}.toml"].read_bytes(), origin=f"{name}.toml")
    known = ", ".join(sorted(file.removesuffix(".toml") for file in shipped))
    raise StorageProfileError(
        f"there is no storage profile named {name!r}",
        bill="nothing of this source is read, so no storage of it is billed",
        fix=f"name one of: {known}; or put {name}.toml into the catalog's profiles/ folder",
    )
