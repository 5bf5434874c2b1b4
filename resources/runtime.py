"""Stand up what one top-level command needs, and take it down again: settings become a migrated, reachable runtime.

Without database URLs the embedded server is started or joined; with them nothing is started. Child processes (web
server, daemon, code server, runs) get every address by environment and never start anything. Not here: how the server
runs (embedded_postgres), what a command does with it (console).
"""

import os
import re
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from urllib.parse import quote, urlencode

import yaml
from psycopg import conninfo

from billing_pipeline.errors import BillingError
from resources.database import Database, open_session
from resources.embedded_postgres import EmbeddedPostgres
from resources.migrate import migrate
from resources.settings import PROJECT_ROOT, Settings

BILLING_DATABASE = "billing"
DAGSTER_DATABASE = "dagster"
# Dagster writes each event in a statement of its own; in batches a 365-day run took 2 s instead of 75 s.
EVENT_BATCH_SIZE = "500"
DAGSTER_CONFIG = PROJECT_ROOT / "dagster.yaml"
S3_LOGS_CONFIG = PROJECT_ROOT / "deploy" / "dagster-s3-logs.yaml"


class HomeError(BillingError):
    """BILLING_HOME cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """What is up while a command runs.

    `dagster_database_url` has the driver that Dagster needs. `child_environment` is this process's environment with
    every address filled in: for child processes, or for `os.environ.update` before Dagster is used in this process.
    """

    settings: Settings
    database: Database
    dagster_database_url: str = field(repr=False)
    child_environment: Mapping[str, str] = field(repr=False)


@contextmanager
def running(settings: Settings) -> Iterator[Runtime]:
    """Start or join PostgreSQL, migrate, write Dagster's configuration; stop on leaving what nobody else uses.

    For top-level commands only. SIGTERM ends the block as an orderly exit, so that the server is stopped too.

    Raises:
        HomeError: BILLING_HOME cannot be created or written.
        PostgresStartError, PostgresFolderError: the embedded server.
        DatabaseUnreachableError, DatabaseUrlError: the one named by URL, Dagster's too.
        MigrationEditedError, MigrationUnknownError, MigrationFailedError, RolesMissingError: see `migrate`.
    """
    _prepare_home(settings)
    with ExitStack() as stack:
        stack.enter_context(_orderly_on_sigterm())
        billing_url, dagster_url = settings.billing_database_url, settings.dagster_database_url
        if billing_url is None or dagster_url is None:
            server = stack.enter_context(EmbeddedPostgres(settings.postgres_dir))
            billing_url = billing_url or server.ensure_database(BILLING_DATABASE)
            dagster_url = dagster_url or server.ensure_database(DAGSTER_DATABASE)
        database = Database(billing_url)
        migrate(database)
        # Dagster itself would try again for ten seconds, and name neither cause nor fix.
        open_session(_without_driver(dagster_url), role=None).close()
        dagster_url = dagster_database_url(dagster_url)
        yield Runtime(
            settings=settings,
            database=database,
            dagster_database_url=dagster_url,
            child_environment=_child_environment(settings, billing_url, dagster_url),
        )


def dagster_database_url(url: str) -> str:
    """Return a libpq connection string as the SQLAlchemy URL that dagster-postgres works with (psycopg2).

    A URL that names its driver (`postgresql+...://`) is returned as it is.
    """
    if url.startswith("postgresql+"):
        return url
    parameters = {name: str(value) for name, value in conninfo.conninfo_to_dict(url).items() if value is not None}
    user, password = quote(parameters.pop("user", ""), safe=""), quote(parameters.pop("password", ""), safe="")
    database = quote(parameters.pop("dbname", ""), safe="")
    host, port = parameters.pop("host", ""), parameters.pop("port", "")
    if host.startswith("/") or "," in host:
        parameters |= {"host": host, "port": port} if port else {"host": host}
        host = port = ""
    login = user + (f":{password}" if password else "") + ("@" if user or password else "")
    address = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    query = f"?{urlencode(parameters)}" if parameters else ""
    return f"postgresql+psycopg2://{login}{address}/{database}{query}"


def _without_driver(url: str) -> str:
    """Return the URL as libpq understands it."""
    return re.sub(r"^postgresql\+\w+://", "postgresql://", url)


def write_dagster_config(dagster_home: Path, environment: Mapping[str, str]) -> None:
    """Write `dagster.yaml` of the project into `dagster_home`, with compute logs in S3 when a bucket is named."""
    dagster_home.mkdir(parents=True, exist_ok=True)
    target = dagster_home / "dagster.yaml"
    draft = target.with_suffix(f".{os.getpid()}.tmp")
    if environment.get("DAGSTER_LOGS_BUCKET"):
        sections = [yaml.safe_load(path.read_text()) for path in (DAGSTER_CONFIG, S3_LOGS_CONFIG)]
        draft.write_text(yaml.safe_dump(sections[0] | sections[1], sort_keys=False))
    else:
        shutil.copyfile(DAGSTER_CONFIG, draft)
    draft.replace(target)


def _prepare_home(settings: Settings) -> None:
    try:
        for folder in (settings.home, settings.dagster_home, settings.scratch_dir):
            folder.mkdir(parents=True, exist_ok=True)
        write_dagster_config(settings.dagster_home, os.environ)
    except OSError as error:
        raise HomeError(
            f"the folder {settings.home} cannot be used: {error.strerror or error}",
            bill="nothing was read or booked.",
            fix="free disk space or make the folder writable, or set BILLING_HOME to another one.",
        ) from error


def _child_environment(settings: Settings, billing_url: str, dagster_url: str) -> Mapping[str, str]:
    return {
        **os.environ,
        "BILLING_HOME": str(settings.home),
        "BILLING_DATABASE_URL": billing_url,
        "BILLING_LAKE_URL": settings.lake_url,
        "BILLING_LANDING_URL": settings.landing_url,
        "BILLING_CATALOG_DIR": str(settings.catalog_dir),
        "DAGSTER_HOME": str(settings.dagster_home),
        "DAGSTER_DATABASE_URL": dagster_url,
        "DAGSTER_EVENT_BATCH_SIZE": os.environ.get("DAGSTER_EVENT_BATCH_SIZE") or EVENT_BATCH_SIZE,
        "DAGSTER_LOGS_SPOOL_DIR": str(settings.dagster_home / "compute_logs"),
    }


@contextmanager
def _orderly_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into SystemExit(143), unless somebody else handles it or this is not the main thread."""

    def leave(signum: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + signum)

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
