"""A socket that answers the real SDK with what a test scripts, and remembers what it was asked. No rules of Stripe.

For tests of the gateway alone; what Stripe does with a request is the stand-in's (resources/stripe_sim).
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

DATE = "Sun, 01 Mar 2026 12:00:00 GMT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request as it came in."""

    method: str
    path: str
    params: Mapping[str, str]
    headers: Mapping[str, str]
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A scripted answer; `drop` closes the connection instead."""

    status: int = 200
    body: object = field(default_factory=lambda: {"id": "ii_1", "object": "invoiceitem"})
    headers: Mapping[str, str] = field(default_factory=dict)
    drop: bool = False


def refusal(status: int, *, code: str = "", message: str = "no", kind: str = "invalid_request_error") -> Reply:
    """Return an error as Stripe spells it."""
    return Reply(status=status, body={"error": {"type": kind, "code": code, "message": message}})


class ScriptedStripe:
    """Answers in the script's order, the last one for ever."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.script: list[Reply] = [Reply()]
        self.answer: Callable[[Asked], Reply] | None = None
        self.url = ""
        self._lock = threading.Lock()

    def replies(self, *script: Reply) -> None:
        """Answer so from now on."""
        self.script = list(script)

    def next_reply(self, asked: Asked) -> Reply:
        """Return what the script says now."""
        with self._lock:
            self.asked.append(asked)
            answer = self.answer
        if answer is not None:
            return answer(asked)
        with self._lock:
            return self.script.pop(0) if len(self.script) > 1 else self.script[0]

    def keys(self) -> Sequence[str | None]:
        """Return the idempotency keys seen, in order."""
        return [one.headers.get("idempotency-key") for one in self.asked]


@contextmanager
def scripted_stripe() -> Iterator[ScriptedStripe]:
    """Serve on a free port of this machine."""
    stripe = ScriptedStripe()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Headers and body go out in one write: with two, Nagle's algorithm adds 40 ms to each answer.
        wbufsize = -1

        def log_message(self, *arguments: object) -> None:
            pass

        def respond(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
            asked = Asked(
                method=self.command,
                path=parts.path,
                params=dict(parse_qsl(parts.query or body, keep_blank_values=True)),
                headers={name.lower(): value for name, value in self.headers.items()},
                body=body,
            )
            reply = stripe.next_reply(asked)
            if reply.drop:
                self.close_connection = True
                self.connection.close()
                return
            text = reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
            self.send_response_only(reply.status)
            for name, value in {"Date": DATE, "Content-Length": str(len(text.encode())), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = do_DELETE = respond

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    stripe.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield stripe
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
