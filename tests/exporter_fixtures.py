"""What the tests of exporters share: certificates of one run, a source and a client of a served exporter."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from resources.exporter_certificates import ExporterCertificates, make_certificates
from resources.exporter_client import ExporterClient
from resources.traffic_config import TrafficSource

NODE = "node-1.example"
TOKEN = "token-of-node-1"
VARIABLES = {
    "token_env": "NODE_1_TOKEN",
    "client_cert_env": "EXPORTER_CERT",
    "client_key_env": "EXPORTER_KEY",
    "ca_env": "EXPORTER_CA",
}


@pytest.fixture(scope="session")
def certificates() -> Iterator[ExporterCertificates]:
    """Return an authority and what it signed, good and bad, for the whole run."""
    folder = Path(tempfile.mkdtemp(prefix="billing-certificates-"))
    yield make_certificates(folder, now=datetime.now(UTC))
    shutil.rmtree(folder)


def environment(certificates: ExporterCertificates) -> Mapping[str, str]:
    """Return the variables that sources of these tests name."""
    return {
        VARIABLES["token_env"]: f"{TOKEN}\n",
        VARIABLES["client_cert_env"]: str(certificates.client.certificate),
        VARIABLES["client_key_env"]: str(certificates.client.key),
        VARIABLES["ca_env"]: str(certificates.authority),
    }


def source_at(server: str, /, *, names: str = "token_env ca_env", **changes: Any) -> TrafficSource:
    """Return the source of the first node at a server's URL; `names`: which variables it names."""
    given = {"name": "node-1", "env": "prod", "node": NODE, "base_url": f"{server}/{NODE}", "timeout_seconds": 10}
    return TrafficSource(**{**given, **{name: VARIABLES[name] for name in names.split()}, **changes})


def no_pause(seconds: float) -> None:
    """Wait for nothing."""


def client_at(
    certificates: ExporterCertificates,
    server: str,
    /,
    *,
    pause: Callable[[float], None] = no_pause,
    environ: Mapping[str, str] | None = None,
    **source: Any,
) -> ExporterClient:
    """Return a client of the first node that never waits between attempts."""
    return ExporterClient(source_at(server, **source), environ or environment(certificates), pause=pause)
