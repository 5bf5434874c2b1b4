"""A source profile: how one kind of real log spells our fields. Read from a versioned TOML file, checked, frozen.

What belongs here: field paths, units, timestamp layouts, the mark of simulated requests, endpoint templates, expected
hours. Not here: who pays and for what (catalog). A profile never lists a field to keep beyond the canonical ones; whatever
it does not name is dropped before anything is written.
"""

import hashlib
import re
import tomllib
from collections.abc import Sequence
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from billing_pipeline.errors import BillingError
from billing_pipeline.sources.endpoints import compile_routes

# An identifier that cannot be an e-mail, an address or a sentence.
IDENTIFIER = r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}"


class ProfileError(BillingError):
    """A profile that is missing or says what cannot be."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TextField(_Frozen):
    """A text field at `path` (dots go into nested objects); `aliases` are older spellings (Avro: reader aliases)."""

    path: str = Field(min_length=1)
    aliases: tuple[str, ...] = ()
    pattern: str = IDENTIFIER

    @model_validator(mode="after")
    def _pattern_compiles(self) -> "TextField":
        re.compile(self.pattern)
        return self


class PseudonymField(_Frozen):
    """A caller known only by personal data: the keyed hash of these fields, `c_` and 16 hex digits."""

    pseudonym_of: tuple[str, ...] = Field(min_length=1)


class InstantField(_Frozen):
    """When it happened. `layout` names format and unit; numbers are never guessed."""

    path: str = Field(min_length=1)
    aliases: tuple[str, ...] = ()
    layout: Literal["rfc3339", "nginx", "epoch_s", "epoch_ms", "epoch_us"] = "rfc3339"


class NumberField(_Frozen):
    """A number. `quoted`: written as a JSON string. `nullable`: null (or a null token) is a fact, not an error.
    `optional`: the key may be absent, or null, which says the same."""

    path: str = Field(min_length=1)
    aliases: tuple[str, ...] = ()
    quoted: bool = False
    nullable: bool = False
    optional: bool = False
    null_tokens: tuple[str, ...] = ()


class DurationField(NumberField):
    """A response time in `unit`; kept as whole microseconds, half away from zero."""

    unit: Literal["s", "ms", "us"]


class FlagField(_Frozen):
    """A boolean that marks the request as simulated when it has the value `simulated_when`. Never a truthy cast."""

    path: str = Field(min_length=1)
    aliases: tuple[str, ...] = ()
    simulated_when: bool


class MarkerField(_Frozen):
    """A text in which `pattern` is found for simulated requests (a robot's name, say). The text itself is not kept."""

    path: str = Field(min_length=1)
    pattern: str


class ScopeField(_Frozen):
    """Lines whose text at `path` is not one of `values` are out of scope: counted, not metered."""

    path: str = Field(min_length=1)
    values: tuple[str, ...] = Field(min_length=1)


class Fields(_Frozen):
    """Canonical fact -> where this source says it. No `event_id`: the identity is the position in the file's content."""

    event_id: TextField | None = None
    event_at: InstantField
    client_id: TextField | PseudonymField
    method: TextField | None = None
    path: TextField | None = None
    request_line: TextField | None = None
    status_code: NumberField
    response_time: DurationField | None = None
    response_bytes: NumberField | None = None
    simulated: FlagField | MarkerField | None = None
    scope: ScopeField | None = None

    @model_validator(mode="after")
    def _one_way_to_the_target(self) -> "Fields":
        has_pair = self.method is not None and self.path is not None
        if has_pair == (self.request_line is not None):
            raise ValueError("give either `method` and `path`, or `request_line`")
        return self


class SourceProfile(_Frozen):
    """One profile. `sha256` is over the file; raise `version` with every change that reads a line differently."""

    name: str
    version: int = Field(ge=1)
    description: str
    framing: Literal["lines", "avro"]
    record_names: tuple[str, ...] = ()
    fields: Fields
    endpoints: tuple[str, ...] = Field(min_length=1)
    expected_hours: Annotated[str, Field(pattern=r"^(every|none|\d\d-\d\d)$")] = "every"
    max_line_bytes: int = Field(default=1_048_576, ge=1_024)
    # Above this share of refused lines (and at least a thousand of them) the profile does not fit the file: refuse it whole.
    max_rejected_share: Decimal = Field(default=Decimal("0.5"), gt=0, le=1)
    sha256: str = ""

    @model_validator(mode="after")
    def _hours_are_of_a_day(self) -> "SourceProfile":
        if self.expected_hours not in ("every", "none"):
            first, last = (int(part) for part in self.expected_hours.split("-"))
            if not first <= last <= 23:
                raise ValueError("expected_hours must run from an hour of the UTC day to a later one, such as 06-22")
        return self

    @model_validator(mode="after")
    def _routes_compile(self) -> "SourceProfile":
        compile_routes(self.endpoints)
        return self

    @property
    def expected_hour_set(self) -> frozenset[int]:
        """Return the UTC hours of a day in which records are expected."""
        if self.expected_hours == "every":
            return frozenset(range(24))
        if self.expected_hours == "none":
            return frozenset()
        first, last = (int(part) for part in self.expected_hours.split("-"))
        return frozenset(range(first, last + 1))


def parse_profile(content: bytes, *, origin: str) -> SourceProfile:
    """Return the profile that a TOML file holds; `origin` names the file in errors."""
    try:
        table = tomllib.loads(content.decode("utf-8"), parse_float=Decimal)
        return SourceProfile(**{**table, "sha256": hashlib.sha256(content).hexdigest()})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValidationError, re.error) as error:
        raise ProfileError(
            f"source profile {origin} is not valid: {error}",
            bill="nothing was read with it, so nothing of this source is billed yet",
            fix="correct the file; docs/sources.md describes each field",
        ) from error


def shipped_profiles() -> dict[str, bytes]:
    """Return name -> TOML content of the profiles that come with the project."""
    folder = resources.files("billing_pipeline") / "profiles"
    return {
        entry.name.removesuffix(".toml"): entry.read_bytes()
        for entry in sorted(folder.iterdir(), key=lambda item: item.name)
        if entry.name.endswith(".toml")
    }


def load_profile(name: str, search: Sequence[Path] = ()) -> SourceProfile:
    """Return the profile `name`, from the folders in `search` first, else from those shipped.

    Raises:
        ProfileError: no such profile, or one that is not valid.
    """
    known = set()
    for folder in search:
        for path in sorted(folder.glob("*.toml")):
            known.add(path.stem)
            if path.stem == name:
                return parse_profile(path.read_bytes(), origin=path.name)
    shipped = shipped_profiles()
    if name in shipped:
        return parse_profile(shipped[name], origin=f"{name}.toml")
    raise ProfileError(
        f"there is no source profile named {name!r}",
        bill="files of this source are not read, so nothing of them is billed",
        fix=f"name one of: {', '.join(sorted(known | set(shipped)))}; or put {name}.toml into the catalog's profiles/ folder",
    )
