"""The traffic exporters of this installation: `traffic.toml` in the catalog folder. Read once, checked, frozen.

No file: no exporters. Credentials are not in it; it names the environment variables that hold them. Not here: talking to an
exporter (exporter_client), prices (catalog).
"""

import re
import tomllib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import permutations
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from billing_pipeline.errors import BillingError
from billing_pipeline.sources.traffic_snapshots import is_name

TRAFFIC_FILE = "traffic.toml"
SNAPSHOTS = "snapshots"
MINUTE = timedelta(minutes=1)

Format = Literal[
    "snapshots", "statsquery", "debug_vars", "prometheus_compassvpn", "prometheus_wi1dcard", "prometheus_x_evor"
]
_VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"


class TrafficConfigError(BillingError):
    """traffic.toml says what cannot be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficSource:
    """One exporter: the node that it counts for, where it answers, what its counters mean when they begin anew.

    Neither `base_url` nor `base_url_env`: nothing is pulled, snapshots are pushed or dropped below `landing`. `format` other
    than `snapshots`: an output of Xray without history, of which only the present can be pulled. `..._env` name environment
    variables: the address, a token, or paths of certificates and keys. Snapshots are expected every
    `expected_interval_seconds` from `active_from` (None: the whole of every day that is collected) to before `active_to`. Above
    `max_resets_per_hour` two writers share one key.
    """

    name: str
    env: str
    node: str
    base_url: str = ""
    base_url_env: str = ""
    landing: str = ""
    format: Format = "snapshots"
    timeout_seconds: int = 15
    limit: int = 120
    retention_hours: int = 72
    overlap_seconds: int = 120
    expected_interval_seconds: int = 60
    on_first: Literal["baseline", "full"] = "baseline"
    on_reset: Literal["baseline", "from_zero"] = "baseline"
    region: str = ""
    line: str = ""
    max_resets_per_hour: int = 3
    token_env: str = ""
    client_cert_env: str = ""
    client_key_env: str = ""
    ca_env: str = ""
    active_from: datetime | None = None
    active_to: datetime | None = None

    @property
    def landing_folder(self) -> str:
        """Return the folder of dropped and pushed files below the landing place, without slashes at its ends."""
        return self.landing.strip("/") or f"traffic/{self.name}"

    @property
    def is_pulled(self) -> bool:
        """Tell whether snapshots are fetched from the exporter."""
        return bool(self.base_url or self.base_url_env)

    @property
    def has_history(self) -> bool:
        """Tell whether the exporter can be asked for past windows."""
        return self.is_pulled and self.format == SNAPSHOTS

    @property
    def slot(self) -> timedelta:
        """Return the stretch of time of which each is expected to hold a snapshot: a minute, or a longer interval."""
        return max(MINUTE, timedelta(seconds=self.expected_interval_seconds))


def _utc(value: object) -> object:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"{value.isoformat()} has no zone; write it as 2026-03-01T00:00:00Z")
        return value.astimezone(UTC)
    return value


def _plain(value: str) -> str:
    if not is_name(value):
        raise ValueError(f"{value!r} is not a plain name")
    return value


Instant = Annotated[datetime, BeforeValidator(_utc)]
Variable = Annotated[str, Field(pattern=_VARIABLE)]


class _SourceEntry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
    env: str
    node: str
    active_from: Instant
    active_to: Instant | None = None
    base_url: Annotated[str, Field(pattern=r"^(https?://[^\s@?#]+)?$")] = ""
    base_url_env: Variable | Literal[""] = ""
    landing: str = ""
    format: Format = "snapshots"
    timeout_seconds: int = Field(default=15, ge=1, le=600)
    limit: int = Field(default=120, ge=1, le=1000)
    retention_hours: int = Field(default=72, ge=1, le=100_000)
    overlap_seconds: int = Field(default=120, ge=0, le=3600)
    expected_interval_seconds: int = Field(default=60, ge=1, le=3600)
    on_first: Literal["baseline", "full"] = "baseline"
    on_reset: Literal["baseline", "from_zero"] = "baseline"
    region: str = ""
    line: str = ""
    max_resets_per_hour: int = Field(default=3, ge=1, le=60)
    token_env: Variable | Literal[""] = ""
    client_cert_env: Variable | Literal[""] = ""
    client_key_env: Variable | Literal[""] = ""
    ca_env: Variable | Literal[""] = ""

    @field_validator("env", "node")
    @classmethod
    def _plain_names(cls, value: str) -> str:
        return _plain(value)

    @field_validator("env")
    @classmethod
    def _env_and_node_stay_apart(cls, value: str) -> str:
        # Ids of booked minutes are made of `env:node`, in which a node may have colons of its own.
        if ":" in value:
            raise ValueError(f"{value!r} has a colon, with which env:node could be two things")
        return value

    @field_validator("region", "line")
    @classmethod
    def _plain_names_or_none(cls, value: str) -> str:
        return _plain(value) if value else value

    @field_validator("landing")
    @classmethod
    def _inside_the_landing_place(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9/._=-]*", value) or ".." in value.split("/"):
            raise ValueError(f"{value!r} is not a folder below the landing place")
        return value

    @model_validator(mode="after")
    def _holds_together(self) -> "_SourceEntry":
        seconds = self.expected_interval_seconds
        if 3600 % seconds or (60 % seconds and seconds % 60):
            raise ValueError("expected_interval_seconds must divide a minute, or be whole minutes that divide an hour")
        if self.base_url and self.base_url_env:
            raise ValueError("base_url and base_url_env are two addresses of one exporter: keep one")
        if bool(self.client_cert_env) != bool(self.client_key_env):
            raise ValueError("client_cert_env and client_key_env go together")
        if self.active_to is not None and self.active_to <= self.active_from:
            raise ValueError("active_to must be after active_from")
        return self


class _TrafficFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    source: tuple[_SourceEntry, ...] = ()


def load_traffic_sources(folder: Path) -> tuple[TrafficSource, ...]:
    """Return the exporters that `folder`/traffic.toml lists; none when there is no such file.

    Raises:
        TrafficConfigError: the file is not valid, names a source twice, or two sources share a node or a folder.
    """
    path = folder / TRAFFIC_FILE
    try:
        entries = _TrafficFile(**tomllib.loads(path.read_text(encoding="utf-8"))).source
    except FileNotFoundError:
        return ()
    except ValidationError as error:
        # Without the values: one of them may be a secret that somebody wrote into an address.
        found = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_input=False)]
        raise _refused(f"{path} is not valid: {'; '.join(found)}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _refused(f"{path} is not valid: {error}") from error
    sources = tuple(TrafficSource(**entry.model_dump()) for entry in entries)
    names = [source.name for source in sources]
    if len(set(names)) != len(names):
        raise _refused(f"{path} lists a source twice: {_repeated(names)}")
    nodes = [f"{source.env}:{source.node}" for source in sources]
    if len(set(nodes)) != len(nodes):
        raise _refused(f"{path} gives a node to two sources, so that its traffic has two writers: {_repeated(nodes)}")
    for inner, outer in permutations(sources, 2):
        if f"{inner.landing_folder}/".startswith(f"{outer.landing_folder}/"):
            raise _refused(f"{path}: files of source {inner.name} would be read as those of {outer.name} too")
    return sources


def _repeated(names: Iterable[str]) -> str:
    return ", ".join(sorted(name for name, count in Counter(names).items() if count > 1))


def _refused(what: str) -> TrafficConfigError:
    return TrafficConfigError(
        what,
        bill="no traffic is collected, so none is billed; what was billed before stands",
        fix="write [[source]] blocks with name, env, node, active_from and base_url or landing, as docs/traffic.md shows",
    )
