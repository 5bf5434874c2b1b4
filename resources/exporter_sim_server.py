"""An exporter to talk to: serve a simulation by the contract of real exporters, with faults that can be switched on.

`/{node}/v1/snapshots/latest` and `/{node}/v1/snapshots/window` for every node of the simulation, a bearer for each. The
window's since and until are inclusive, its cursor is exclusive and has microseconds. Not here: what the counters say
(exporter_simulation), sockets and TLS (asgi_server).
"""

import asyncio
import json
import secrets
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from resources.exporter_simulation import SimulatedSnapshot, Simulation, SimulationError, rfc3339

PAGE_LIMIT = 1000

_RECENT = timedelta(minutes=10)
_POLL_SECONDS = 0.02
_LONGEST_HANG_SECONDS = 60
_HTML = "<!doctype html><html><body><h1>Sign in</h1></body></html>"
_ELSEWHERE = "https://elsewhere.invalid/"


class Fault(StrEnum):
    """What an exporter can do wrong."""

    SERVER_ERROR = "server-error"
    TOO_MANY_REQUESTS = "too-many-requests"
    HANG = "hang"
    DRIP = "drip"
    HTML = "html"
    TRUNCATED_JSON = "truncated-json"
    REDIRECT = "redirect"
    WRONG_NODE = "wrong-node"
    WRONG_ENV = "wrong-env"
    NO_SAMPLES = "no-samples"
    OTHER_WINDOW = "other-window"
    STUCK_CURSOR = "stuck-cursor"
    """The next cursor is the one that was given."""
    SECOND_CURSOR = "second-cursor"
    """The cursor is cut to the second: the last snapshot of a page comes again on the next one."""
    ENDLESS = "endless"
    """A new cursor on every page, and the same snapshots."""


class Faults:
    """Which fault a node has now. Safe to switch from another thread than the server's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._on: dict[str, tuple[Fault, int | None]] = {}

    def switch_on(self, node: str, fault: Fault, *, times: int | None = None) -> None:
        """Let `node` answer wrongly, the next `times` requests or until it is switched off."""
        with self._lock:
            self._on[node] = (fault, times)

    def switch_off(self, node: str) -> None:
        """Let `node` answer as it should."""
        with self._lock:
            self._on.pop(node, None)

    def take(self, node: str) -> Fault | None:
        """Return the fault of the request that came now, and count it."""
        with self._lock:
            fault, times = self._on.get(node, (None, None))
            if fault is not None and times is not None:
                self._on[node] = (fault, times - 1)
                if times <= 1:
                    del self._on[node]
            return fault


def exporter_app(
    simulation: Simulation,
    *,
    tokens: Mapping[str, str] | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    faults: Faults | None = None,
    page_limit: int = PAGE_LIMIT,
) -> Starlette:
    """Return the web application. `tokens`: node -> bearer that it wants; None: whoever connects may ask.

    `clock` gives the true time: what is stored by then, what is older than the retention, who is away.
    """
    exporter = _Exporter(simulation, tokens, clock, faults or Faults(), page_limit)
    return Starlette(
        routes=[
            Route("/{node}/v1/snapshots/latest", exporter.latest, methods=["GET"]),
            Route("/{node}/v1/snapshots/window", exporter.window, methods=["GET"]),
        ]
    )


class _Exporter:
    def __init__(
        self,
        simulation: Simulation,
        tokens: Mapping[str, str] | None,
        clock: Callable[[], datetime],
        faults: Faults,
        page_limit: int,
    ) -> None:
        self._simulation = simulation
        self._tokens = tokens
        self._clock = clock
        self._faults = faults
        self._page_limit = page_limit

    async def latest(self, request: Request) -> Response:
        """Answer the newest snapshot, 404 before there is one."""
        node, now, fault = request.path_params["node"], self._clock(), self._faults.take(request.path_params["node"])
        if (refused := self._refused(request, node, now)) is not None:
            return refused
        for span in (_RECENT, self._simulation.retention):
            newest = deque(self._simulation.snapshots(node, now - span, now + _RECENT, as_of=now), maxlen=1)
            if newest:
                return await _answer(request, _document(newest[0], fault), fault)
        return JSONResponse({"error": "no snapshot is stored yet"}, status_code=404)

    async def window(self, request: Request) -> Response:
        """Answer a page of the snapshots in `[since, until]` after `cursor`."""
        node, now, fault = request.path_params["node"], self._clock(), self._faults.take(request.path_params["node"])
        if (refused := self._refused(request, node, now)) is not None:
            return refused
        query = request.query_params
        # As published exporters do: an instant that cannot be read is silently another one.
        since = _instant(query.get("since")) or now - timedelta(hours=1)
        until = _instant(query.get("until")) or now
        if fault is Fault.OTHER_WINDOW:
            since, until = since - timedelta(hours=1), since - timedelta(minutes=1)
        cursor = _instant(query.get("cursor"))
        asked = query.get("limit", "")
        limit = min(int(asked) if asked.isdecimal() and int(asked) else self._page_limit, self._page_limit)
        held = self._simulation.snapshots(node, max(since, cursor or since), until, as_of=now)
        page = list(islice((one for one in held if cursor is None or one.collected_at > cursor), limit + 1))
        return await _answer(request, self._page(node, page, limit, fault, query.get("cursor")), fault)

    def _page(
        self, node: str, found: list[SimulatedSnapshot], limit: int, fault: Fault | None, cursor: str | None
    ) -> dict[str, Any]:
        if not found:
            return {"node_id": "", "env": "", "snapshots": [], "has_more": False}
        page = found[:limit]
        next_cursor = rfc3339(page[-1].collected_at)
        if fault is Fault.STUCK_CURSOR:
            next_cursor = cursor or rfc3339(page[0].collected_at - timedelta(seconds=1))
        elif fault is Fault.ENDLESS:
            next_cursor = rfc3339(page[0].collected_at - timedelta(microseconds=1 + secrets.randbelow(900_000)))
        elif fault is Fault.SECOND_CURSOR:
            next_cursor = rfc3339(page[-1].collected_at.replace(microsecond=0))
        identity = _document(page[0], fault)
        return {
            "node_id": identity["node_id"],
            "env": identity["env"],
            "snapshots": [_document(one, fault) for one in page],
            "has_more": len(found) > limit or fault in (Fault.STUCK_CURSOR, Fault.ENDLESS),
            "next_cursor": next_cursor,
        }

    def _refused(self, request: Request, node: str, now: datetime) -> Response | None:
        try:
            known = self._simulation.node(node)
        except SimulationError:
            return JSONResponse({"error": "not found"}, status_code=404)
        if self._tokens is not None:
            given = request.headers.get("authorization", "")
            wanted = f"Bearer {self._tokens[node]}"
            if not secrets.compare_digest(given.encode(), wanted.encode()):
                return JSONResponse({"error": "unauthorized"}, status_code=401)
        if any(now in window for window in known.away):
            return JSONResponse({"error": "node is away"}, status_code=503)
        return None


async def _answer(request: Request, document: dict[str, Any], fault: Fault | None) -> Response:
    body = json.dumps(document, separators=(",", ":")).encode()
    match fault:
        case Fault.SERVER_ERROR:
            return JSONResponse({"error": "internal"}, status_code=500)
        case Fault.TOO_MANY_REQUESTS:
            return JSONResponse({"error": "slow down"}, status_code=429, headers={"retry-after": "1"})
        case Fault.HANG:
            await _until_gone(request)
            return Response(status_code=504)
        case Fault.DRIP:
            return StreamingResponse(_drops(), media_type="application/json")
        case Fault.HTML:
            return HTMLResponse(_HTML)
        case Fault.TRUNCATED_JSON:
            return Response(body[: len(body) // 2], media_type="application/json")
        case Fault.REDIRECT:
            return RedirectResponse(_ELSEWHERE)
        case _:
            return Response(body, media_type="application/json")


def _document(snapshot: SimulatedSnapshot, fault: Fault | None) -> dict[str, Any]:
    document = snapshot.document()
    match fault:
        case Fault.WRONG_NODE:
            document["node_id"] = f"not-{snapshot.node}"
        case Fault.WRONG_ENV:
            document["env"] = "preview"
        case Fault.NO_SAMPLES:
            document["samples"] = []
        case _:
            pass
    return document


async def _until_gone(request: Request) -> None:
    for _ in range(int(_LONGEST_HANG_SECONDS / _POLL_SECONDS)):
        if await request.is_disconnected():
            return
        await asyncio.sleep(_POLL_SECONDS)


async def _drops() -> AsyncIterator[bytes]:
    for _ in range(int(_LONGEST_HANG_SECONDS / _POLL_SECONDS)):
        yield b" "
        await asyncio.sleep(_POLL_SECONDS)


def _instant(text: str | None) -> datetime | None:
    try:
        instant = None if text is None else datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if instant is None or instant.tzinfo is None else instant.astimezone(UTC)
