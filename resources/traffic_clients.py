"""Choose how a traffic source is asked: by its format, with the credentials that the environment holds.

Not here: what a client does (exporter_client, xray_client).
"""

from collections.abc import Mapping

from billing_pipeline.sources.traffic_snapshots import Pseudonymise
from resources.exporter_client import ExporterClient
from resources.traffic_config import SNAPSHOTS, TrafficSource
from resources.traffic_pull import Clients, SnapshotClient
from resources.xray_client import XrayOutputClient

# Set to "dev", exporters may be asked over plain http; anywhere else that is refused.
ENVIRONMENT_VARIABLE = "BILLING_ENV"


def exporter_clients(environ: Mapping[str, str], pseudonymise: Pseudonymise | None) -> Clients:
    """Return the function that makes a source's client. `environ` holds what the source's `..._env` fields name."""
    allow_http = environ.get(ENVIRONMENT_VARIABLE) == "dev"

    def client_of(source: TrafficSource) -> SnapshotClient:
        kind = ExporterClient if source.format == SNAPSHOTS else XrayOutputClient
        return kind(source, environ, allow_http=allow_http, pseudonymise=pseudonymise)

    return client_of
