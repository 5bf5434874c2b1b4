"""Take Stripe's webhooks: HTTP requests -> events in the inbox, or a refusal that names the fault.

2xx only when the event is stored; who sees anything else sends it again, for three days. With `Acknowledge.WHEN_TRUED_UP` the
event of a new invoice is stored at once and answered 503 until the invoice is brought up to date (or needs it not), so that
Stripe does not finalize it before. Nothing is applied here: Dagster does that. Not here: signatures
(resources/stripe_mirror/signature), the inbox (resources/stripe_mirror/inbox), sockets (resources/asgi_server).
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from billing_pipeline.errors import BillingError
from billing_pipeline.stripe_events.envelope import EventUnreadableError, IgnoredEvent, StripeEvent, read_event
from resources.stripe_mirror.signature import SignatureError, check_signature
from resources.stripe_mirror.webhook_inbox import WebhookInbox

LOGGER = logging.getLogger("billing.stripe")
LARGEST_BODY_BYTES = 4 << 20
PATH = "/v1/stripe/events"
INVOICE_CREATED = "invoice.created"


class Acknowledge(StrEnum):
    """When an event is answered 2xx."""

    WHEN_STORED = "stored"
    WHEN_TRUED_UP = "trued-up"


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookServices:
    """What the endpoint works with. `clock` is Stripe's time or ours: signatures are compared with it."""

    inbox: WebhookInbox
    secrets: Sequence[str]
    is_live: bool
    clock: Callable[[], datetime]
    acknowledge: Acknowledge = Acknowledge.WHEN_STORED


def webhook_app(services: WebhookServices) -> Starlette:
    """Return the web application."""
    endpoint = _Endpoint(services)
    return Starlette(
        routes=[
            Route("/healthz", endpoint.healthz, methods=["GET"]),
            Route("/readyz", endpoint.readyz, methods=["GET"]),
            Route(PATH, endpoint.take, methods=["POST"]),
        ]
    )


@dataclass(frozen=True, slots=True)
class _Endpoint:
    services: WebhookServices

    async def take(self, request: Request) -> Response:
        """Store an event, once, and say so."""
        try:
            body = await _body(request)
        except ClientDisconnect:
            return _error(400, "the body did not come to its end")
        if body is None:
            return _error(413, f"a body has at most {LARGEST_BODY_BYTES} bytes", headers={"connection": "close"})
        return await run_in_threadpool(self._taken, request.headers.get("stripe-signature", ""), body)

    async def healthz(self, request: Request) -> Response:
        """Answer that this process lives."""
        return JSONResponse({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        """Answer whether the database does."""
        try:
            await run_in_threadpool(self.services.inbox.ping)
        except BillingError as error:
            return _unavailable(error)
        return JSONResponse({"status": "ok"})

    def _taken(self, signature: str, body: bytes) -> Response:
        services = self.services
        try:
            check_signature(signature, body, services.secrets, now=services.clock())
        except SignatureError as error:
            LOGGER.warning("%s", error.what)
            return _error(400, error.what)
        try:
            event = read_event(_document(body))
        except EventUnreadableError as error:
            LOGGER.error("%s", error)
            return _error(400, error.what)
        if isinstance(event, IgnoredEvent):
            return JSONResponse({"event": event.event_id, "kept": False, "why": "this type changes nothing here"})
        if event.is_live != services.is_live:
            mode, ours = ("live", "test") if event.is_live else ("test", "live")
            LOGGER.error("event %s is of %s mode, and this installation of %s mode", event.event_id, mode, ours)
            return _error(400, f"an event of {mode} mode; this endpoint is of {ours} mode")
        return self._kept(event)

    def _kept(self, event: StripeEvent) -> Response:
        services = self.services
        try:
            is_new = services.inbox.keep(event, received_at=services.clock())
            waits = (
                services.acknowledge is Acknowledge.WHEN_TRUED_UP
                and event.event_type == INVOICE_CREATED
                and services.inbox.waits_for_true_up(event)
            )
        except BillingError as error:
            return _unavailable(error)
        if waits:
            # Stored all the same: it is only Stripe that is to wait.
            return _error(503, "the invoice is not up to date yet", headers={"retry-after": "60"})
        return JSONResponse({"event": event.event_id, "kept": True, "duplicate": not is_new})


async def _body(request: Request) -> bytes | None:
    """Return the body; None when it is too long, without reading more of it."""
    promised = request.headers.get("content-length", "")
    if promised.isdecimal() and int(promised) > LARGEST_BODY_BYTES:
        return None
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_BODY_BYTES:
            return None
    return bytes(body)


def _document(body: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    return document if isinstance(document, dict) else {}


def _unavailable(error: BillingError) -> Response:
    """Return "try again"; the cause is for our own log, not for whoever asks."""
    LOGGER.error("%s", error)
    return _error(503, "nothing was stored; send it again", headers={"retry-after": "10"})


def _error(status: int, what: str, *, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": what}, status_code=status, headers=headers)
