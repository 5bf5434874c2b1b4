"""The web application: a request through key check, faults, limits, validation and idempotency to its operation.

One event loop, one request at a time while state changes. In this order, as Stripe's documentation tells it: who asks
(401), what is asked (404, 501), too many (429), what the parameters are (400, not kept under the key), the idempotency key,
the operation. Not here: what operations do (api), the control API (control).
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any, TypeAlias

from resources.stripe_sim import api, clockwork, event_feed, meter_events
from resources.stripe_sim.calls import Call
from resources.stripe_sim.control import CONTROL_PREFIX, Control
from resources.stripe_sim.deliveries import Deliveries
from resources.stripe_sim.faults import Fault, FaultScript, FaultScripts
from resources.stripe_sim.idempotency import Answer, IdempotencyKeys
from resources.stripe_sim.kinds import api_version
from resources.stripe_sim.limits import RateLimits, refuse
from resources.stripe_sim.operations import Operation, Routes, sdk_operations
from resources.stripe_sim.parameters import read_form, read_parameters
from resources.stripe_sim.refusals import ApiError
from resources.stripe_sim.rules import Rules
from resources.stripe_sim.world import RequestMark, World

Scope: TypeAlias = Mapping[str, Any]

TEST_KEY_PREFIXES = ("sk_test_", "rk_test_")
MOST_LOGGED = 200_000

_STREAM_PATH = meter_events.STREAM.partition(" ")[2]

_QUICK_SAVE_SECONDS = 0.02
_PAUSES_PER_SAVE = 10
_TICK_SECONDS = 0.5
_STEPS_BEFORE_OTHERS = 50
_HTML = b"<html><body><h1>502 Bad Gateway</h1></body></html>"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """A request and what became of it. Keys of the API are never kept."""

    number: int
    at: int
    method: str
    path: str
    operation: str
    params: Mapping[str, Any]
    idempotency_key: str | None
    status: int
    """0: the connection was dropped."""
    executed: bool
    replayed: bool
    fault: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def key(self) -> str | None:
        return self.headers.get("idempotency-key") if self.method == "POST" else None


class StripeSim:
    """The stand-in as an ASGI application."""

    def __init__(
        self,
        world: World,
        *,
        api_key: str | None = None,
        keys: IdempotencyKeys | None = None,
        requests: int = 0,
        keeper: Callable[["StripeSim"], None] | None = None,
        speed: float = 0,
    ) -> None:
        """Serve a world. `api_key`: the one key that is taken; without it every key of a sandbox.

        `keys`, `requests`: of an earlier run. `keeper` saves the state, whenever it has changed and before a client has its
        answer, as long as that is quick. `speed`: seconds of the virtual clock in a real one; 0: it stands until advanced.
        """
        self.world = world
        self.keys = keys or IdempotencyKeys()
        self.limits = RateLimits()
        self.faults = FaultScripts()
        self.log: deque[LogLine] = deque(maxlen=MOST_LOGGED)
        self._api_key = api_key
        self._routes = Routes(sdk_operations())
        self.requests = requests
        self._keeper = keeper
        self._kept = world.changes
        self._next_save = 0.0
        self._speed = speed
        self._clock_runs = False
        self._advancing = asyncio.Lock()
        self._anchor = (time.monotonic(), world.now)
        self._control = Control(self)
        self.deliveries = Deliveries(world)
        self._background: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        request = await _read(scope, receive)
        await self._tick()
        if request.path.startswith(CONTROL_PREFIX):
            status, document = await self._control.answer(request.method, request.path, request.query, request.body)
            self._keep()
            await _send(send, Answer(status=status, body=json.dumps(document).encode()), {})
            return
        await self._answer(request, send)

    async def _answer(self, request: _Request, send: Any) -> None:
        self.requests += 1
        number = self.requests
        operation: Operation | None = None
        script: FaultScript | None = None
        params: Mapping[str, Any] = {}
        executed = replayed = False
        headers = {"Request-Id": f"req_sim{number:012d}", "Stripe-Version": api_version()}
        try:
            self._check_key(request)
            operation, ids = self._route(request)
            script = self.faults.take(operation.name, now=self.world.now)
            if script is not None and script.fault in (Fault.DROP_BEFORE, Fault.HTML):
                answer = Answer(status=0 if script.fault is Fault.DROP_BEFORE else 502, body=_HTML)
            else:
                self._refuse_by(script)
                self._limit(operation)
                params = _parameters(operation, request)
                answer, executed, replayed = await self._execute(operation, ids, params, request, script, headers)
        except ApiError as error:
            answer = Answer(status=error.status, body=json.dumps(error.document()).encode())
            headers |= error.headers
        if script is not None and script.fault is Fault.DROP_AFTER:
            answer = Answer(status=0, body=b"")
        self.log.append(
            LogLine(
                number=number,
                at=self.world.now,
                method=request.method,
                path=request.path,
                operation=operation.name if operation else "",
                params=params,
                idempotency_key=request.headers.get("idempotency-key"),
                status=answer.status,
                executed=executed,
                replayed=replayed,
                fault=script.fault if script else None,
            )
        )
        self._deliver_soon()
        self._keep()
        if answer.status == 0:
            await _drop(send)
            return
        if request.key is not None:
            headers["Idempotency-Key"] = request.key
        if replayed:
            headers["Idempotent-Replayed"] = "true"
        await _send(send, answer, {**headers, "Date": formatdate(self.world.now, usegmt=True)})

    def _check_key(self, request: _Request) -> None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if request.path == _STREAM_PATH:
            if scheme != "Bearer" or not meter_events.is_open_token(self.world, key):
                raise ApiError(401, "The session has expired", error_type="temporary_session_expired")
            return
        taken = key == self._api_key if self._api_key is not None else key.startswith(TEST_KEY_PREFIXES)
        if scheme != "Bearer" or not taken:
            shown = f"{key[:8]}{'*' * 8}" if key else ""
            raise ApiError(401, f"Invalid API Key provided: {shown}")

    def _route(self, request: _Request) -> tuple[Operation, tuple[str, ...]]:
        found = self._routes.find(request.method, request.path)
        if found is None:
            raise ApiError(404, f"Unrecognized request URL ({request.method}: {request.path}).")
        return found

    def _limit(self, operation: Operation) -> None:
        rules = self.world.rules
        now = time.monotonic() if rules.rate_clock == "real" else float(self.world.now)
        self.limits.admit(operation.name, now=now, operation_rate=rules.operation_rate, global_rate=rules.global_rate)

    def _refuse_by(self, script: FaultScript | None) -> None:
        match script and script.fault:
            case Fault.RATE_LIMIT:
                raise refuse("endpoint-rate")
            case Fault.LOCK_TIMEOUT:
                raise ApiError(429, "This object cannot be accessed right now", code="lock_timeout")
            case Fault.UNAVAILABLE:
                raise ApiError(503, "Stripe is unavailable", error_type="api_error")
            case _:
                return

    async def _execute(
        self,
        operation: Operation,
        ids: tuple[str, ...],
        params: Mapping[str, Any],
        request: _Request,
        script: FaultScript | None,
        headers: dict[str, str],
    ) -> tuple[Answer, bool, bool]:
        """Return the answer, whether the operation ran, and whether the answer is an earlier one."""
        found = api.checked(operation, params)
        key = request.key if not operation.is_v2 or self.world.rules.v2_replays else None
        if key is not None:
            content = json.dumps([operation.name, ids, params], sort_keys=True, default=str).encode()
            held = self.keys.begin(key, content, now=self.world.now, rules=self.world.rules)
            if held is not None:
                return held, False, True
        if script is not None and script.fault is Fault.SLOW:
            await asyncio.sleep(script.seconds)
        self.world.request = RequestMark(id=headers["Request-Id"], idempotency_key=key)
        call = Call(name=operation.name, ids=ids, params=params)
        fault = script and script.fault
        executed = fault is not Fault.ERROR_BEFORE
        try:
            if fault is Fault.ERROR_BEFORE:
                raise ApiError(500, "An unknown error occurred", error_type="api_error")
            document = api.run(self.world, found, call)
            if fault is Fault.ERROR_AFTER:
                raise ApiError(500, "An unknown error occurred", error_type="api_error")
            answer = Answer(status=200, body=json.dumps(document).encode())
        except ApiError as error:
            answer = Answer(status=error.status, body=json.dumps(error.document()).encode())
            headers |= error.headers
        except Exception:
            # The stand-in is at fault: the client hears 500, and the key must not stay in use.
            if key is not None:
                self.keys.drop(key)
            raise
        self.world.flush_events()
        if key is not None:
            if answer.status >= 500 and not self.world.rules.replays_server_errors:
                self.keys.drop(key)
            else:
                self.keys.keep(key, answer)
        return answer, executed, False

    def reset(self, *, now: int) -> None:
        """Forget everything, and begin anew at `now` with the rules as they are written."""
        self.world = World(now=now, rules=Rules())
        self.keys, self.limits, self.faults = IdempotencyKeys(), RateLimits(), FaultScripts()
        self.deliveries = Deliveries(self.world)
        self.log.clear()
        self.requests = 0
        self._anchor = (time.monotonic(), now)

    async def advance(self, instant: int) -> int:
        """Let the virtual clock go on to `instant`, step by step; return how many things happened."""
        happened = 0
        async with self._advancing:
            for _ in clockwork.steps_until(self.world, instant):
                happened += 1
                await self.deliveries.run()
                if happened % _STEPS_BEFORE_OTHERS == 0:
                    await asyncio.sleep(0)
            event_feed.forget_old_events(self.world)
            await self.deliveries.run()
            self._anchor = (time.monotonic(), self.world.now)
        return happened

    def save(self) -> None:
        """Save the state now, if there is where to."""
        if self._keeper is not None:
            self._keeper(self)
            self._kept = self.world.changes

    def _keep(self) -> None:
        """Save what has changed; a state that takes long is saved less often."""
        if self._keeper is None or self._kept == self.world.changes or time.monotonic() < self._next_save:
            return
        started = time.monotonic()
        self.save()
        took = time.monotonic() - started
        self._next_save = 0.0 if took < _QUICK_SAVE_SECONDS else time.monotonic() + _PAUSES_PER_SAVE * took

    async def _tick(self) -> None:
        """Let a clock that runs go on."""
        if self._speed <= 0:
            return
        since, then = self._anchor
        await self._advance_running(then + int((time.monotonic() - since) * self._speed))
        if not self._clock_runs:
            self._clock_runs = True
            self._spawn(self._run_clock())

    async def _advance_running(self, instant: int) -> None:
        # A webhook's receiver asks while its delivery is awaited: whoever advances must not be waited for then.
        if instant > self.world.now and not self._advancing.locked():
            anchor = self._anchor
            await self.advance(instant)
            self._anchor = anchor

    async def _run_clock(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            since, then = self._anchor
            await self._advance_running(then + int((time.monotonic() - since) * self._speed))
            self._keep()

    def _deliver_soon(self) -> None:
        """Deliver what the request made happen, while the client has its answer already."""
        self.deliveries.plan()
        if self.deliveries.is_due():
            self._spawn(self.deliveries.run())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _parameters(operation: Operation, request: _Request) -> dict[str, Any]:
    if request.method != "POST" or not operation.is_v2:
        text = request.query if request.method != "POST" else request.body.decode()
        return read_parameters(operation, read_form(text), is_form=True)
    try:
        document = json.loads(request.body or b"{}")
    except ValueError as error:
        raise ApiError(400, "The request body is no JSON") from error
    return read_parameters(operation, document, is_form=False)


async def _read(scope: Scope, receive: Any) -> _Request:
    chunks = []
    while True:
        message = await receive()
        chunks.append(message.get("body", b""))
        if not message.get("more_body"):
            break
    return _Request(
        method=scope["method"],
        path=scope["path"],
        query=scope["query_string"].decode(),
        headers={name.decode().lower(): value.decode() for name, value in scope["headers"]},
        body=b"".join(chunks),
    )


async def _send(send: Any, answer: Answer, headers: Mapping[str, str]) -> None:
    content_type = "text/html" if answer.body is _HTML else "application/json"
    pairs = {"Content-Type": content_type, "Content-Length": str(len(answer.body)), **headers}
    await send(
        {
            "type": "http.response.start",
            "status": answer.status,
            "headers": [(name.encode(), value.encode()) for name, value in pairs.items()],
        }
    )
    await send({"type": "http.response.body", "body": answer.body})


async def _drop(send: Any) -> None:
    """End the connection without an answer. ASGI has no word for it: the server's transport is behind `send`."""
    send.__self__.transport.abort()
    # The server notes on its next turn that the client is gone, and then wants no answer.
    await asyncio.sleep(0)
    await asyncio.sleep(0)
