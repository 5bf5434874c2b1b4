"""Run the whole job on somebody's own request logs: read only, with a state of its own, so that nothing is mixed.

The catalog is the one that is named, or a proposal with an account for each client seen; either lies as a copy beside that
state, with a `sources.toml` that names the logs. Not here: reading logs (resources), the proposal (proposed_catalog).
"""

import hashlib
import json
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape

from billing_pipeline.errors import BillingError
from billing_pipeline.sources.profile import load_profile, shipped_profiles
from console.demo import print_outcome, up_to_date
from console.near import did_you_mean
from console.proposed_catalog import propose_catalog
from console.runs import Pipeline, pipeline, print_booked
from console.screen import count, page
from resources.caller_reader import read_callers
from resources.landing import Landing
from resources.reset import forget_embedded
from resources.settings import Settings
from resources.source_config import SOURCES_FILE, SourceConfig
from resources.status_reader import read_status
from resources.storage_config import STORAGE_FILE
from resources.traffic_config import TRAFFIC_FILE

_SOURCE = "own"


class OwnLandingError(BillingError):
    """The folder of logs, the profile or the catalog that was named cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Logs:
    """Where the logs are: a folder, and the keys' beginning in it (a file's name, or nothing for all of it)."""

    folder: Path
    prefix: str


def run_own(settings: Settings, *, landing: Path, profile: str, catalog_dir: Path | None, fresh: bool) -> None:
    """Run everything on the logs in `landing` (a folder, or one file), and print the outcome.

    Raises:
        OwnLandingError: no such folder, profile or catalog; the message names near ones.
    """
    logs = _logs(landing)
    own = _own_settings(settings, logs, profile)
    _refuse_unknown_profile(profile, catalog_dir)
    if fresh:
        forget_embedded(own)
        shutil.rmtree(own.catalog_dir, ignore_errors=True)
    began = time.monotonic()
    if catalog_dir is not None:
        _copy_catalog(catalog_dir, own.catalog_dir)
    _write_sources(own, logs, profile)
    console = page()
    console.print(f"Logs: {escape(str(landing))} (only read), profile {profile}. State: {own.home}")
    with pipeline(own) as ready:
        before = read_status(ready.runtime.database).books
        if catalog_dir is None:
            _propose(ready)
        else:
            console.print(f"Catalog: a copy of {escape(str(catalog_dir))} in {own.catalog_dir}")
        up_to_date(ready)
        print_booked(before, read_status(ready.runtime.database).books)
        console.print()
        print_outcome(ready, plot=own.home / "usage_by_hour.png", began=began)
    console.print(
        f"\nNext: [bold]BILLING_HOME={own.home} BILLING_LANDING_URL={escape(own.landing_url)} "
        f"BILLING_CATALOG_DIR={own.catalog_dir} billing dev[/] opens the Dagster UI on this data."
    )


def _propose(ready: Pipeline) -> None:
    """Read the logs, and write a catalog for the clients seen, unless one lies there already."""
    folder = ready.runtime.settings.catalog_dir
    ready.ingest()
    callers = read_callers(ready.runtime.database, ready.runtime.settings)
    console = page()
    if (folder / "prices.toml").exists():
        console.print(f"Catalog: {folder}, as it was proposed or edited before; --fresh proposes anew")
        return
    if not callers.clients:
        raise OwnLandingError(
            "No line of the logs was accepted, so there is no client to propose an account for.",
            bill="Nothing was booked.",
            fix=f"See why with: BILLING_HOME={ready.runtime.settings.home} billing quarantine. Is it the right profile?",
        )
    for name, text in propose_catalog(callers).items():
        (folder / name).write_text(text, encoding="utf-8")
    console.print(
        f"Catalog: [bold]proposed[/] in {folder}: {count(len(callers.clients))} accounts, one for each client seen; "
        f"{count(len(callers.endpoints))} endpoints billable at made-up prices. Edit it, or give yours with --catalog."
    )


def _logs(landing: Path) -> _Logs:
    path = landing.resolve()
    if path.is_dir():
        return _Logs(folder=path, prefix="")
    if path.is_file():
        return _Logs(folder=path.parent, prefix=path.name)
    near = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    raise OwnLandingError(
        f"There is no folder or file {landing}. {did_you_mean(path.name, near)}",
        bill="Nothing was read or changed.",
        fix="Name the folder that holds the logs.",
    )


def _own_settings(settings: Settings, logs: _Logs, profile: str) -> Settings:
    """Return settings with a home for exactly these logs and this profile; always the embedded database."""
    place = str(logs.folder / logs.prefix)
    name = re.sub(r"[^a-z0-9]+", "-", Path(place).name.lower()).strip("-")[:40] or "logs"
    digest = hashlib.sha256(f"{place}|{profile}".encode()).hexdigest()[:8]
    home = settings.home / "own" / f"{name}-{digest}"
    return Settings(home=home, landing_url=str(logs.folder), lake_url=str(home / "lake"), catalog_dir=home / "catalog")


def _refuse_unknown_profile(profile: str, catalog_dir: Path | None) -> None:
    known = set(shipped_profiles())
    if catalog_dir is not None:
        if not catalog_dir.is_dir():
            near = [entry.name for entry in catalog_dir.parent.iterdir()] if catalog_dir.parent.is_dir() else []
            raise OwnLandingError(
                f"There is no catalog folder {catalog_dir}. {did_you_mean(catalog_dir.name, near)}",
                bill="Nothing was read or changed.",
                fix="Name the folder that holds prices.toml, or leave --catalog out to have one proposed.",
            )
        known |= {path.stem for path in (catalog_dir / "profiles").glob("*.toml")}
    if profile not in known:
        raise OwnLandingError(
            f"There is no profile {profile!r}. {did_you_mean(profile, known)}",
            bill="Nothing was read or changed.",
            fix="Take one of these, or write profiles/NAME.toml into your catalog folder and give --catalog.",
        )


def _copy_catalog(given: Path, target: Path) -> None:
    """Copy the catalog's files, but for the sources, which are somebody else's; the given folder is never written to."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in given.glob("*.toml"):
        if path.name not in (SOURCES_FILE, TRAFFIC_FILE, STORAGE_FILE):
            shutil.copyfile(path, target / path.name)
    if (given / "profiles").is_dir():
        shutil.copytree(given / "profiles", target / "profiles")


def _write_sources(own: Settings, logs: _Logs, profile: str) -> None:
    """Write the one source: delivered by date folders if every file lies in one, else by modification time."""
    own.catalog_dir.mkdir(parents=True, exist_ok=True)
    source = SourceConfig(
        name=_SOURCE,
        landing=logs.prefix,
        profile=load_profile(profile, (own.catalog_dir / "profiles",)),
        delivery_day="key",
    )
    files = list(Landing(own.landing_url, own.scratch_dir).list(logs.prefix))
    if not files:
        raise OwnLandingError(
            f"There is no file below {logs.folder / logs.prefix}.",
            bill="Nothing was read or changed.",
            fix="Name the folder that holds the logs; names that begin with '.' or '_' are left out.",
        )
    has_days = all(source.delivery_day_of(file) is not None for file in files)
    (own.catalog_dir / SOURCES_FILE).write_text(
        "\n".join(
            (
                "[[source]]",
                f'name = "{_SOURCE}"',
                f"landing = {json.dumps(logs.prefix, ensure_ascii=False)}",
                f'profile = "{profile}"',
                f'delivery_day = "{"key" if has_days else "modified"}"',
                "",
            )
        ),
        encoding="utf-8",
    )
