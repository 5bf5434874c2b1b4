"""The sources of this installation: `sources.toml` in the catalog folder, each with its profile. Read once, checked.

Not here: what a profile says (billing_pipeline/sources/profile), files (landing).
"""

import re
import tomllib
from dataclasses import dataclass
from datetime import date
from itertools import permutations
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from billing_pipeline.errors import BillingError
from billing_pipeline.sources.profile import SourceProfile, load_profile
from resources.landing import LandingFile

SOURCES_FILE = "sources.toml"

_DATE_FOLDER = re.compile(r"(?:^|/)(\d{4})[-/](\d\d)[-/](\d\d)(?:/|$)")


class SourcesError(BillingError):
    """sources.toml is missing or says what cannot be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """One source: where it is delivered and how it is read. `token_env` names the variable with the bearer of who pushes."""

    name: str
    landing: str
    profile: SourceProfile
    delivery_day: Literal["key", "modified"]
    token_env: str = ""

    def owns(self, file: LandingFile) -> bool:
        """Return whether `file` lies in this source's folder, or is the one file that it names."""
        return not self.landing or file.key == self.landing or file.key.startswith(f"{self.landing}/")

    def delivery_day_of(self, file: LandingFile) -> date | None:
        """Return the UTC day on which `file` was delivered; None when its path should name it and does not."""
        if self.delivery_day == "modified":
            return file.modified_at.date()
        match = _DATE_FOLDER.search(file.key)
        try:
            return None if match is None else date(int(match[1]), int(match[2]), int(match[3]))
        except ValueError:
            return None


class _SourceEntry(BaseModel):
    # No value in errors: one of them may be a secret that somebody wrote in the place of its name.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
    landing: str
    profile: str
    delivery_day: Literal["key", "modified"] = "key"
    token_env: Annotated[str, Field(pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$")] = ""


class _SourcesFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
    source: tuple[_SourceEntry, ...] = Field(min_length=1)


def load_sources(folder: Path) -> tuple[SourceConfig, ...]:
    """Return the sources that `folder`/sources.toml lists; own profiles are looked for in `folder`/profiles.

    Raises:
        SourcesError: the file is missing or not valid.
        ProfileError: a profile is missing or not valid.
    """
    path = folder / SOURCES_FILE
    try:
        entries = _SourcesFile(**tomllib.loads(path.read_text(encoding="utf-8"))).source
    except FileNotFoundError as error:
        if not folder.is_dir():
            raise SourcesError(
                f"there is no catalog folder {folder}",
                bill="no request log is read, so no usage is billed",
                fix="set BILLING_CATALOG_DIR to the folder that holds sources.toml and prices.toml, or create it",
            ) from error
        raise _refused(f"there is no {SOURCES_FILE} in the catalog folder {folder}") from error
    except (tomllib.TOMLDecodeError, ValidationError, UnicodeDecodeError) as error:
        raise _refused(f"{path} is not valid: {error}") from error
    names = [entry.name for entry in entries]
    if len(set(names)) != len(names):
        raise _refused(f"{path} lists a source twice: {', '.join(sorted(names))}")
    for inner, outer in permutations(entries, 2):
        if f"{inner.landing.strip('/')}/".startswith(f"{outer.landing.strip('/')}/".removeprefix("/")):
            raise _refused(
                f"{path}: the files of source {inner.name} in {inner.landing!r} would be read, and billed, as those of "
                f"{outer.name} too"
            )
    return tuple(
        SourceConfig(
            name=entry.name,
            landing=entry.landing.strip("/"),
            profile=load_profile(entry.profile, (folder, folder / "profiles")),
            delivery_day=entry.delivery_day,
            token_env=entry.token_env,
        )
        for entry in entries
    )


def _refused(what: str) -> SourcesError:
    return SourcesError(
        what,
        bill="no request log is read, so no usage is billed",
        fix="write [[source]] blocks with name, landing (a folder of its own), profile and delivery_day, as "
        "catalog/sources.toml shows",
    )
