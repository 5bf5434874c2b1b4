"""Serve made-up exporters over HTTPS, and say how an installation is told about them: `[[source]]` blocks, variables.

For trying out and for development. Not here: what the exporters say (resources/exporter_simulation), how (exporter_sim_server).
"""

import os
import secrets
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from billing_pipeline.errors import BillingError
from console.screen import notes
from resources.asgi_server import LOCAL_HOST, serve
from resources.exporter_certificates import LOCAL_NAMES, ExporterCertificates, make_certificates
from resources.exporter_sim_server import Fault, Faults, exporter_app
from resources.exporter_simulation import Simulation

# Mishaps are drawn for so many days from the start on.
_DAYS = 60
# With two whole days behind it, everything since the start is within the retention of 72 hours.
_DAYS_BEFORE = 2
_TOKEN_BYTES = 24


class FaultUnknownError(BillingError):
    """A fault that the simulator does not have, or of a node that it does not have."""


def run_exporter_sim(
    *, seed: int, nodes: int, users: int, port: int, folder: Path, bearer_only: bool, faults: Sequence[str] = ()
) -> None:
    """Serve `nodes` exporters with `users` users on https://127.0.0.1:`port` until Ctrl-C.

    Certificates and tokens are written to `folder`. The same seed, sizes and day give the same counters. A client certificate
    is wanted unless `bearer_only`, a bearer always. `faults`: NODE=FAULT, with nodes counted from 1, as `2=html`.

    Raises:
        FaultUnknownError: a fault is none.
        ServerStartError: the port is taken. CertificateFolderError: the folder cannot be written.
    """
    now = datetime.now(UTC)
    start = now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=_DAYS_BEFORE)
    simulation = Simulation(seed=seed, nodes=nodes, users=users, start=start, days=_DAYS)
    switched = read_faults(simulation, faults)
    certificates = make_certificates(folder, now=now, names=LOCAL_NAMES, valid_days=_DAYS)
    tokens = {node.name: _token(folder, place) for place, node in enumerate(simulation.nodes, 1)}
    sys.stdout.write(source_blocks(simulation, f"https://{LOCAL_HOST}:{port}", bearer_only=bearer_only))
    sys.stdout.write(variables(simulation, folder, certificates, bearer_only=bearer_only))
    sys.stdout.flush()
    notes().print(f"{nodes} exporters with {users} users on https://{LOCAL_HOST}:{port}. Ctrl-C ends them.")
    serve(
        exporter_app(simulation, tokens=tokens, faults=switched),
        host=LOCAL_HOST,
        port=port,
        certificate=certificates.server.certificate,
        key=certificates.server.key,
        client_authority=None if bearer_only else certificates.authority,
    )


def source_blocks(simulation: Simulation, base_url: str, *, bearer_only: bool) -> str:
    """Return what belongs into catalog/traffic.toml, so that the simulation's nodes are read."""
    blocks = ["# For catalog/traffic.toml"]
    for place, node in enumerate(simulation.nodes, 1):
        lines = [
            "[[source]]",
            f'name = "sim-{place}"',
            f'env = "{node.env}"',
            f'node = "{node.name}"',
            f'base_url = "{base_url}/{node.name}"',
            f"active_from = {simulation.start:%Y-%m-%dT%H:%M:%SZ}",
            f'token_env = "{_token_variable(place)}"',
            'ca_env = "EXPORTER_SIM_CA"',
        ]
        if not bearer_only:
            lines += ['client_cert_env = "EXPORTER_SIM_CERT"', 'client_key_env = "EXPORTER_SIM_KEY"']
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n\n"


def variables(simulation: Simulation, folder: Path, certificates: ExporterCertificates, *, bearer_only: bool) -> str:
    """Return the shell lines that set what the sources name. Tokens stay in their files."""
    lines = ["# For the shell that runs billing", f"export EXPORTER_SIM_CA='{certificates.authority.resolve()}'"]
    if not bearer_only:
        lines.append(f"export EXPORTER_SIM_CERT='{certificates.client.certificate.resolve()}'")
        lines.append(f"export EXPORTER_SIM_KEY='{certificates.client.key.resolve()}'")
    for place, _ in enumerate(simulation.nodes, 1):
        lines.append(f"export {_token_variable(place)}=\"$(cat '{_token_file(folder, place).resolve()}')\"")
    return "\n".join(lines) + "\n"


def read_faults(simulation: Simulation, faults: Sequence[str]) -> Faults:
    """Return the faults that are switched on by `NODE=FAULT`, nodes counted from 1.

    Raises:
        FaultUnknownError: one of them is none.
    """
    switched = Faults()
    for text in faults:
        place, _, name = text.partition("=")
        if not (place.isdecimal() and 1 <= int(place) <= len(simulation.nodes)) or name not in set(Fault):
            raise FaultUnknownError(
                f"{text!r} names no fault of these {len(simulation.nodes)} nodes.",
                bill="Nothing was started.",
                fix=f"Write NODE=FAULT, as 2=html. Faults: {', '.join(Fault)}.",
            )
        switched.switch_on(simulation.nodes[int(place) - 1].name, Fault(name))
    return switched


def _token(folder: Path, place: int) -> str:
    """Return the token of a node, the one of an earlier start if there is one: variables that are set stay right."""
    path = _token_file(folder, place)
    if not path.exists():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as target:
            target.write(secrets.token_urlsafe(_TOKEN_BYTES))
    return path.read_text().strip()


def _token_file(folder: Path, place: int) -> Path:
    return folder / f"sim-{place}.token"


def _token_variable(place: int) -> str:
    return f"EXPORTER_SIM_TOKEN_{place}"
