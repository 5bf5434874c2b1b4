"""Run the endpoint that takes Stripe's webhooks on an installation, until Ctrl-C or SIGTERM.

Not here: what it answers (stripe_webhook).
"""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from billing_pipeline.errors import BillingError
from console.screen import notes
from console.serve_push import is_local
from console.stripe_webhook import PATH, Acknowledge, WebhookServices, webhook_app
from resources.asgi_server import serve
from resources.database import Database
from resources.runtime import running
from resources.settings import Settings
from resources.stripe_mirror.following import stripe_following, utc_now
from resources.stripe_mirror.signature import webhook_secrets
from resources.stripe_mirror.webhook_inbox import WebhookInbox


class WebhookNotSafeError(BillingError):
    """The endpoint would be reached by anybody without TLS."""


def serve_webhook(
    settings: Settings,
    *,
    host: str,
    port: int,
    certificate: Path | None,
    key: Path | None,
    acknowledge: Acknowledge,
) -> None:
    """Take webhooks on `host`:`port`. Without certificate and key only on this machine, behind a proxy with TLS.

    Raises:
        WebhookNotSafeError: no certificate, and the address can be reached from elsewhere.
        WebhookSecretError: STRIPE_WEBHOOK_SECRET is not set.
        ServerStartError: the address is taken, or a certificate file cannot be used. Also what `running` raises.
    """
    if (certificate is None or key is None) and not is_local(host):
        raise WebhookNotSafeError(
            f"without a certificate nobody but this machine may reach the endpoint, and {host} is not this machine.",
            bill="Nothing was started; events still come by the feed.",
            fix="Give --certificate and --key, or keep --host 127.0.0.1 and put a proxy with TLS before it.",
        )
    secrets = webhook_secrets(settings.stripe_webhook_secret)
    with running(settings) as runtime:
        services = WebhookServices(
            inbox=WebhookInbox(runtime.database),
            secrets=secrets,
            is_live=settings.stripe_mode.strip() == "live",
            clock=_clock(settings, runtime.database),
            acknowledge=acknowledge,
        )
        notes().print(f"Taking Stripe's events at {PATH} on {host}:{port}. Ctrl-C ends it.")
        serve(webhook_app(services), host=host, port=port, certificate=certificate, key=key)


def _clock(settings: Settings, database: Database) -> Callable[[], datetime]:
    """Return the clock that signatures are compared with: a stand-in signs by a clock of its own."""
    if settings.stripe_url is None:
        return utc_now
    return lambda: stripe_following(settings, database).reads.server_time()
