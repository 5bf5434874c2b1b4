"""Ways to people that need no vendor: the log, e-mail, a call of any address.

Each delivers or raises ChannelError, without its secrets. Not here: Slack (assets/alert_channels), what is told (notice).
"""

import json
import logging
import smtplib
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any

import httpx

from resources.alerting.notice import ChannelError, Notice, Phase

LOGGER = logging.getLogger("billing.alerts")
_TIMEOUT_SECONDS = 10


@dataclass(frozen=True, slots=True)
class LogChannel:
    """Notices as one line each in the daemon's log: an error when an incident begins, an information when it ends."""

    name: str = "log"

    def send(self, notice: Notice) -> None:
        """Log the notice."""
        level = logging.ERROR if notice.phase is Phase.OPENED else logging.INFO
        # Dagster's storage sets up logging by Alembic's file, which silences loggers that are there already.
        LOGGER.disabled = False
        LOGGER.log(level, "%s: %s", notice.title, " ".join(notice.message.split()))


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpChannel:
    """Notices as JSON, posted to an address. 2xx means taken; `Idempotency-Key` is the same for the same notice."""

    url: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    name: str = "webhook"

    def send(self, notice: Notice) -> None:
        """Post the notice."""
        headers = {"Idempotency-Key": notice.delivery_id}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        try:
            answer = httpx.post(self.url, json=as_json(notice), headers=headers, timeout=_TIMEOUT_SECONDS)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise not_taken(self.name, type(error).__name__, fix="see that the address answers") from None
        if not answer.is_success:
            raise not_taken(self.name, f"status {answer.status_code}", fix="see the receiver's log")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmailChannel:
    """Notices as e-mail by SMTP, with STARTTLS unless `is_encrypted` says otherwise (a relay on this machine)."""

    host: str
    port: int = 587
    sender: str
    receivers: tuple[str, ...]
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    is_encrypted: bool = True
    name: str = "email"

    def send(self, notice: Notice) -> None:
        """Send the notice to all receivers."""
        message = EmailMessage()
        message["Subject"] = f"[billing] {notice.title}"
        message["From"] = self.sender
        message["To"] = ", ".join(self.receivers)
        # A mailbox that gets it twice shows it once.
        message["Message-ID"] = f"<{notice.delivery_id}@billing-pipeline.invalid>"
        evidence = "\n".join(json.dumps(dict(one), ensure_ascii=False, default=str) for one in notice.evidence)
        message.set_content(f"{notice.text}\n\n{evidence}\n")
        try:
            with smtplib.SMTP(self.host, self.port, timeout=_TIMEOUT_SECONDS) as server:
                if self.is_encrypted:
                    server.starttls()
                if self.user is not None:
                    server.login(self.user, self.password or "")
                server.send_message(message)
        except (OSError, smtplib.SMTPException) as error:
            # Its text may repeat the login.
            raise not_taken(
                self.name, type(error).__name__, fix="see that the mail server answers and takes the login"
            ) from None


def as_json(notice: Notice) -> Mapping[str, Any]:
    """Return the notice as a receiver's program reads it."""
    return {
        "id": notice.delivery_id,
        "incident": notice.incident_id,
        "phase": notice.phase.value,
        "kind": notice.kind.value,
        "subject": notice.subject,
        "message": notice.message,
        "opened_at": notice.opened_at.isoformat(),
        "closed_at": notice.closed_at.isoformat() if notice.closed_at else None,
        "evidence": json.loads(json.dumps([dict(one) for one in notice.evidence], default=str)),
    }


def not_taken(channel: str, problem: str, *, fix: str) -> ChannelError:
    """Return the error of a channel that did not take a notice."""
    return ChannelError(
        f"{channel} did not take a notice: {problem}", bill="none; the incident is kept, and told again", fix=fix
    )
