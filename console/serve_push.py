"""Run the endpoint that takes pushed snapshots and request events on an installation, until Ctrl-C or SIGTERM.

Not here: what it answers (push_endpoint).
"""

import ipaddress
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from billing_pipeline.errors import BillingError
from console.push_endpoint import PushServices, push_app, push_tokens, request_push_tokens
from console.screen import notes
from resources.asgi_server import serve
from resources.database import Database
from resources.request_receipts import RequestReceiver
from resources.runtime import running
from resources.settings import Settings
from resources.source_config import SOURCES_FILE, SourceConfig, load_sources
from resources.traffic_config import TrafficSource, load_traffic_sources
from resources.traffic_reader import SourceStatus, source_statuses
from resources.traffic_receipts import TrafficReceiver, e_mail_pseudonyms


class PushNotSafeError(BillingError):
    """The endpoint would take tokens over a connection that anybody can read."""


class NobodyPushesError(BillingError):
    """No source may push."""


def serve_push(
    settings: Settings, environ: Mapping[str, str], *, host: str, port: int, certificate: Path | None, key: Path | None
) -> None:
    """Take what is pushed on `host`:`port`. Without certificate and key only on this machine, behind a proxy with TLS.

    Raises:
        PushNotSafeError: no certificate, and the address can be reached from elsewhere.
        NobodyPushesError: no source has a token in the environment. PushTokensError: two have the same one.
        ServerStartError: the address is taken, or a certificate file cannot be used.
        TrafficConfigError, SourcesError: traffic.toml or sources.toml is wrong. Also what `running` raises.
    """
    if (certificate is None or key is None) and not is_local(host):
        raise PushNotSafeError(
            f"without a certificate nobody but this machine may reach the endpoint, and {host} is not this machine.",
            bill="Nothing was started: tokens could be read on the way, and whoever has one can make up traffic.",
            fix="Give --certificate and --key, or keep --host 127.0.0.1 and put a proxy with TLS before it.",
        )
    sources = load_traffic_sources(settings.catalog_dir)
    # An installation of traffic alone has no such file.
    has_requests = (settings.catalog_dir / SOURCES_FILE).exists()
    request_sources = load_sources(settings.catalog_dir) if has_requests else ()
    tokens, request_tokens = push_tokens(sources, environ), request_push_tokens(request_sources, environ)
    if not tokens and not request_tokens:
        raise NobodyPushesError(
            "no source of traffic.toml or sources.toml has a push token in the environment.",
            bill="Nothing was started; exporters that are pulled and files that are dropped are not touched by it.",
            fix="Name token_env in the [[source]] block of each source that pushes, and set that variable to its token.",
        )
    with running(settings) as runtime:
        services = push_services(settings, runtime.database, sources, request_sources)
        for what, names in (("snapshots", tokens), ("request events", request_tokens)):
            if names:
                notes().print(f"Taking {what} of {', '.join(sorted(names))} on {host}:{port}. Ctrl-C ends it.")
        app = push_app(services, tokens, request_tokens=request_tokens)
        serve(app, host=host, port=port, certificate=certificate, key=key)


def push_services(
    settings: Settings,
    database: Database,
    sources: Sequence[TrafficSource],
    request_sources: Sequence[SourceConfig] = (),
) -> PushServices:
    """Return what the endpoint of an installation works with."""
    from resources.pseudonym_key import pseudonym_key

    def ping() -> None:
        with database.reading() as connection:
            connection.execute("select 1")

    def statuses(now: datetime) -> Sequence[SourceStatus]:
        with database.reading() as connection:
            return source_statuses(connection, sources, now=now)

    pseudonymise = e_mail_pseudonyms(pseudonym_key(settings.pseudonym_key_file))
    receiver = TrafficReceiver(settings.landing_url, sources, settings.scratch_dir, pseudonymise=pseudonymise)
    requests = RequestReceiver(settings.landing_url, request_sources, settings.scratch_dir)
    return PushServices(receiver=receiver, requests=requests, ping=ping, statuses=statuses)


def is_local(host: str) -> bool:
    """Return whether `host` can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
