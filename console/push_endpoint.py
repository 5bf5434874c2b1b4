"""Take what is pushed, traffic snapshots and request events: HTTP -> durable bodies of one source each, or a refusal.

`POST /v1/ingest/snapshots` answers 200, `POST /v1/ingest/requests/<source>` 202, only when the body is stored; who sees anything
else sends it again. One bearer for each source, wanted by everything below /v1. Jobs are not started here: Dagster runs them.
Not here: what a body says (billing_pipeline/sources: traffic_snapshots, pushed_events), where it is kept (resources:
traffic_receipts, request_receipts), sockets (resources/asgi_server).
"""

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from billing_pipeline.errors import BillingError
from billing_pipeline.sources.traffic_snapshots import BodyUnreadableError
from resources.request_receipts import EventsRefusedError, RequestReceiver, TooManyEventsPushedError
from resources.source_config import SourceConfig
from resources.traffic_config import SNAPSHOTS, TrafficSource
from resources.traffic_reader import SourceStatus
from resources.traffic_receipts import PushRefusedError, TrafficReceiver

LOGGER = logging.getLogger("billing.push")
LARGEST_BODY_BYTES = 32 << 20

# Decoded, 32 MiB of JSON take ten times as much memory.
_BODIES_AT_ONCE = 2
_INGEST = "/v1/ingest/snapshots"
_REQUESTS = "/v1/ingest/requests/"
_STATUS = "/v1/status"
_ALLOWED = {_INGEST: "POST", _STATUS: "GET"}
_EVERY_METHOD = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


# What a source pushes: whose token is used where.
_SNAPSHOTS, _EVENTS = "snapshots", "events"


class PushTokensError(BillingError):
    """The sources' tokens cannot tell who pushes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PushServices:
    """What the endpoint works with. `ping` raises BillingError when the database does not answer; `clock` is aware.

    `statuses`: how far every source is read at an instant. `requests`: None where no source of request events may push.
    """

    receiver: TrafficReceiver
    ping: Callable[[], None]
    statuses: Callable[[datetime], Sequence[SourceStatus]]
    requests: RequestReceiver | None = None
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)


def push_app(
    services: PushServices,
    tokens: Mapping[str, str],
    *,
    request_tokens: Mapping[str, str] = MappingProxyType({}),
    largest_body: int = LARGEST_BODY_BYTES,
) -> Starlette:
    """Return the web application. `tokens`: traffic source -> its bearer; `request_tokens`: request source -> its bearer.

    Raises:
        PushTokensError: a token is empty, or two sources have the same one.
    """
    bearers = {(_SNAPSHOTS, source): token for source, token in tokens.items()}
    bearers |= {(_EVENTS, source): token for source, token in request_tokens.items()}
    endpoint = _Endpoint(services, bearers, largest_body)
    return Starlette(
        routes=[
            Route("/healthz", endpoint.healthz, methods=["GET"]),
            Route("/readyz", endpoint.readyz, methods=["GET"]),
            Route(_INGEST, endpoint.for_sources(endpoint.snapshots, of=_SNAPSHOTS), methods=["POST"]),
            Route(_REQUESTS + "{source}", endpoint.for_sources(endpoint.events, of=_EVENTS), methods=["POST"]),
            Route(_STATUS, endpoint.for_sources(endpoint.status, of=_SNAPSHOTS), methods=["GET"]),
            # Whoever has no token does not even learn what there is.
            Route("/v1/{rest:path}", endpoint.for_sources(endpoint.nothing), methods=_EVERY_METHOD),
        ]
    )


def push_tokens(sources: Iterable[TrafficSource], environ: Mapping[str, str]) -> Mapping[str, str]:
    """Return traffic source -> bearer, of those that may push: their `token_env` is set."""
    return _tokens({source.name: source.token_env for source in sources if source.format == SNAPSHOTS}, environ)


def request_push_tokens(sources: Iterable[SourceConfig], environ: Mapping[str, str]) -> Mapping[str, str]:
    """Return request source -> bearer, of those that may push: their `token_env` is set."""
    return _tokens({source.name: source.token_env for source in sources}, environ)


def _tokens(names: Mapping[str, str], environ: Mapping[str, str]) -> Mapping[str, str]:
    tokens = {source: environ.get(variable, "").strip() for source, variable in names.items() if variable}
    return {source: token for source, token in tokens.items() if token}


class _Endpoint:
    def __init__(self, services: PushServices, bearers: Mapping[tuple[str, str], str], largest_body: int) -> None:
        self._services = services
        self._largest_body = largest_body
        self._storing = asyncio.Semaphore(_BODIES_AT_ONCE)
        self._digests = {pusher: _digest(token) for pusher, token in bearers.items()}
        if "" in bearers.values() or len(set(self._digests.values())) < len(bearers):
            raise PushTokensError(
                "two sources have the same push token, or one has an empty one",
                bill="nothing was received; what one source pushes could be booked on another",
                fix="give every source a token of its own in the variable that its token_env names",
            )

    def for_sources(
        self, handle: Callable[[Request, str], Awaitable[Response]], *, of: str | None = None
    ) -> Callable[[Request], Awaitable[Response]]:
        """Return a handler that answers 401 unless the request has the bearer of a source, and hands on which.

        `of`: what this source must push; the bearer of another one is answered 403.
        """

        async def handler(request: Request) -> Response:
            pusher = self._pusher_of(request)
            # The body is not read: what it says is nobody's.
            if pusher is None:
                headers = {"www-authenticate": "Bearer", "connection": "close"}
                return _error(401, "a bearer token of a source is needed", headers=headers)
            pushes, source = pusher
            if of not in (None, pushes):
                return _error(403, f"this is the token of a source of {pushes}", headers={"connection": "close"})
            return await handle(request, source)

        return handler

    async def snapshots(self, request: Request, source: str) -> Response:
        """Store a body of snapshots and say how many it holds."""
        return await self._taken(request, lambda body: self._kept_snapshots(source, body))

    async def events(self, request: Request, source: str) -> Response:
        """Store a body of request events and give a receipt: how many, in which file."""
        named, receiver = request.path_params["source"], self._services.requests
        if receiver is None or not receiver.knows(named):
            what = f"sources.toml has no source of this name; add it there, or push to {_REQUESTS}{source}"
            return _error(404, what, headers={"connection": "close"})
        if named != source:
            what = f"this is the token of another source; push to {_REQUESTS}{source}"
            return _error(403, what, headers={"connection": "close"})
        return await self._taken(request, lambda body: self._kept_events(receiver, source, body))

    async def _taken(self, request: Request, keep: Callable[[bytes], Response]) -> Response:
        if request.headers.get("content-encoding", "identity") != "identity":
            return _error(415, "send the body uncompressed", headers={"connection": "close"})
        try:
            body = await self._body(request)
        except ClientDisconnect:
            return _error(400, "the body did not come to its end")
        if body is None:
            what = f"a body has at most {self._largest_body} bytes; nothing of it was kept; send it in parts"
            return _error(413, what, headers={"connection": "close"})
        async with self._storing:
            return await run_in_threadpool(keep, body)

    async def status(self, request: Request, source: str) -> Response:
        """Answer how far every source is read, and how old that is."""
        now = self._services.clock()
        try:
            statuses = await run_in_threadpool(self._services.statuses, now)
        except BillingError as error:
            return _unavailable(error)
        return JSONResponse(
            {"source_statuses": [_status(one) for one in statuses], "checked_at": now.isoformat()},
            headers={"cache-control": "no-store"},
        )

    async def nothing(self, request: Request, source: str) -> Response:
        """Answer what is wrong with a path or method."""
        folder, name = request.url.path.rsplit("/", 1)
        allowed = "POST" if f"{folder}/" == _REQUESTS and name else _ALLOWED.get(request.url.path)
        if allowed is not None:
            return _error(405, f"only {allowed} is understood here", headers={"allow": allowed})
        return _error(404, "there is no such address; jobs are run by Dagster, not from here")

    async def healthz(self, request: Request) -> Response:
        """Answer that this process lives."""
        return JSONResponse({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        """Answer whether the database does."""
        try:
            await run_in_threadpool(self._services.ping)
        except BillingError as error:
            return _unavailable(error)
        return JSONResponse({"status": "ok"})

    def _pusher_of(self, request: Request) -> tuple[str, str] | None:
        """Return what is pushed by whom."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        given = _digest(token.strip())
        # All of them, whichever fits: the time tells nothing.
        fitting = [pusher for pusher, digest in self._digests.items() if secrets.compare_digest(digest, given)]
        return fitting[0] if fitting and scheme.lower() == "bearer" else None

    async def _body(self, request: Request) -> bytes | None:
        """Return the body; None when it is too long, without reading more of it."""
        promised = request.headers.get("content-length", "")
        if promised.isdecimal() and int(promised) > self._largest_body:
            return None
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self._largest_body:
                return None
        return bytes(body)

    def _kept_snapshots(self, source: str, body: bytes) -> Response:
        try:
            received = self._services.receiver.receive(source, body, received_at=self._services.clock())
        except BodyUnreadableError as error:
            return _error(400, error.problem, excerpt=error.excerpt)
        except PushRefusedError as error:
            return _error(422, error.what)
        except BillingError as error:
            return _unavailable(error)
        return JSONResponse(
            {
                "snapshots": received.snapshots,
                "samples": received.samples,
                "rejected_samples": received.rejected_samples,
                "duplicate": received.duplicate,
            }
        )

    def _kept_events(self, receiver: RequestReceiver, source: str, body: bytes) -> Response:
        try:
            received = receiver.receive(source, body, received_at=self._services.clock())
        except EventsRefusedError as error:
            status = 413 if isinstance(error, TooManyEventsPushedError) else 422
            return _error(status, f"{error.what}; {error.bill}; {error.fix}")
        except BillingError as error:
            return _unavailable(error)
        receipt = {"events": received.events, "file": received.key, "duplicate": received.duplicate}
        return JSONResponse(receipt, status_code=202)


def _status(one: SourceStatus) -> dict[str, Any]:
    return {
        "source_id": one.source,
        "last_completed_until": _instant(one.completed_until),
        "last_attempted_at": _instant(one.last_attempted_at),
        "last_succeeded_at": _instant(one.last_succeeded_at),
        "last_error": one.last_error,
        "last_error_kind": one.last_error_kind,
        "missing_minutes": one.missing_minutes,
        "syncDelaySeconds": one.delay_seconds,
    }


def _unavailable(error: BillingError) -> Response:
    """Return "try again"; the cause is for our own log, not for whoever asks."""
    LOGGER.error("%s", error)
    return _error(503, "nothing was stored; send it again", headers={"retry-after": "10"})


def _error(status: int, what: str, *, headers: Mapping[str, str] | None = None, **more: object) -> Response:
    return JSONResponse({"error": what} | more, status_code=status, headers=headers)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _instant(instant: datetime | None) -> str | None:
    return None if instant is None else instant.astimezone(UTC).isoformat()
