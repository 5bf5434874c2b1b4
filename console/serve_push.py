"""Run the endpoint that takes pushed snapshots on an installation, until Ctrl-C or SIGTERM.

Not here: what it answers (push_endpoint).
"""

import ipaddress
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from billing_pipeline.errors import BillingError
from console.push_endpoint import PushServices, push_app, push_tokens
from console.screen import notes
from resources.asgi_server import serve
from resources.database import Database
from resources.runtime import running
from resources.settings import Settings
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
    """Take pushed snapshots on `host`:`port`. Without certificate and key only on this machine, behind a proxy with TLS.

    Raises:
        PushNotSafeError: no certificate, and the address can be reached from elsewhere.
        NobodyPushesError: no source has a token in the environment. PushTokensError: two have the same one.
        ServerStartError: the address is taken, or a certificate file cannot be used.
        TrafficConfigError: traffic.toml is wrong. Also what `running` raises.
    """
    if (certificate is None or key is None) and not is_local(host):
        raise PushNotSafeError(
            f"without a certificate nobody but this machine may reach the endpoint, and {host} is not this machine.",
            bill="Nothing was started: tokens could be read on the way, and whoever has one can make up traffic.",
            fix="Give --certificate and --key, or keep --host 127.0.0.1 and put a proxy with TLS before it.",
        )
    sources = load_traffic_sources(settings.catalog_dir)
    tokens = push_tokens(sources, environ)
    if not tokens:
        raise NobodyPushesError(
            "no source of traffic.toml has a push token in the environment.",
            bill="Nothing was started; exporters that are pulled are not touched by it.",
            fix="Name token_env in the [[source]] block of each node that pushes, and set that variable to its token.",
        )
    with running(settings) as runtime:
        services = push_services(settings, runtime.database, sources)
        notes().print(f"Taking snapshots of {', '.join(sorted(tokens))} on {host}:{port}. Ctrl-C ends it.")
        serve(push_app(services, tokens), host=host, port=port, certificate=certificate, key=key)


def push_services(settings: Settings, database: Database, sources: Sequence[TrafficSource]) -> PushServices:
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
    return PushServices(receiver=receiver, ping=ping, statuses=statuses)


def is_local(host: str) -> bool:
    """Return whether `host` can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
