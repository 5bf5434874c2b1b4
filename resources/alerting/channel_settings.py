"""Ways to people from the environment: the log always, e-mail and a call of an address where they are set. Secrets stay here.

`BILLING_ALERT_EMAIL_TO` with `BILLING_SMTP_HOST`; `BILLING_ALERT_WEBHOOK_URL`. Not here: Slack (assets/alert_channels).
"""

from collections.abc import Mapping

from billing_pipeline.errors import BillingError
from resources.alerting.channels import EmailChannel, HttpChannel, LogChannel
from resources.alerting.notice import Channel


class ChannelSettingsError(BillingError):
    """A way to people is set by halves."""


def channels_of(environ: Mapping[str, str]) -> tuple[Channel, ...]:
    """Return the log, and the channels that the environment names.

    Raises:
        ChannelSettingsError: one of them is set by halves, or a port is no number.
    """
    found: list[Channel] = [LogChannel()]
    receivers = tuple(one.strip() for one in environ.get("BILLING_ALERT_EMAIL_TO", "").split(",") if one.strip())
    if receivers:
        found.append(_email(environ, receivers))
    if url := environ.get("BILLING_ALERT_WEBHOOK_URL"):
        found.append(HttpChannel(url=url, token=environ.get("BILLING_ALERT_WEBHOOK_TOKEN") or None))
    return tuple(found)


def _email(environ: Mapping[str, str], receivers: tuple[str, ...]) -> EmailChannel:
    host = environ.get("BILLING_SMTP_HOST", "")
    if not host:
        raise ChannelSettingsError(
            "BILLING_ALERT_EMAIL_TO is set and BILLING_SMTP_HOST is not",
            bill="none; nobody is told of anything by e-mail",
            fix="set BILLING_SMTP_HOST (and _PORT, _USER, _PASSWORD), or unset BILLING_ALERT_EMAIL_TO",
        )
    port = environ.get("BILLING_SMTP_PORT") or "587"
    if not port.isdecimal() or not 0 < int(port) < 65_536:
        raise ChannelSettingsError(
            f"BILLING_SMTP_PORT is {port!r}",
            bill="none; nobody is told of anything by e-mail",
            fix="set it to a port, as 587",
        )
    return EmailChannel(
        host=host,
        port=int(port),
        sender=environ.get("BILLING_ALERT_EMAIL_FROM") or f"billing@{host}",
        receivers=receivers,
        user=environ.get("BILLING_SMTP_USER") or None,
        password=environ.get("BILLING_SMTP_PASSWORD") or None,
        is_encrypted=environ.get("BILLING_SMTP_TLS", "starttls") != "none",
    )
