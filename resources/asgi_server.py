"""Put an ASGI application on a socket: with TLS, with client certificates, in this thread or beside it.

The one place of our web server's options. Not here: what the applications answer (exporter_sim_server, push_endpoint).
"""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import uvicorn

from billing_pipeline.errors import BillingError

LOCAL_HOST = "127.0.0.1"

_STOP_SECONDS = 2
_BACKLOG = 128
# Connections, those that idle among them; one more hears 503.
_MOST_CONNECTIONS = 256


class ServerStartError(BillingError):
    """A server cannot listen, or its certificate files cannot be used."""


def serve(
    application: Any,
    *,
    host: str,
    port: int,
    certificate: Path | None = None,
    key: Path | None = None,
    client_authority: Path | None = None,
    own_date: bool = False,
) -> None:
    """Serve until Ctrl-C or SIGTERM. With `certificate` and `key` over TLS; `client_authority`: whose clients may come.

    `own_date`: the application says in its answers what time it is.

    Raises:
        ServerStartError: the address is taken or no address of this machine, or a file cannot be used.
    """
    with _listening(host, port) as listener:
        server = _server(application, certificate, key, client_authority, own_date)
        # The server ends in order at Ctrl-C, and raises it again.
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listener])


@contextmanager
def serving(
    application: Any,
    *,
    certificate: Path | None = None,
    key: Path | None = None,
    client_authority: Path | None = None,
    own_date: bool = False,
) -> Iterator[str]:
    """Serve in a thread while the block runs, on a free port of this machine, and yield the base URL. See `serve`.

    Raises:
        ServerStartError: see `serve`.
    """
    with _listening(LOCAL_HOST, 0) as listener:
        server = _server(application, certificate, key, client_authority, own_date)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="asgi-server", daemon=True)
        thread.start()
        try:
            # The listener takes connections before the server does: nobody has to wait for it.
            yield f"{'http' if certificate is None else 'https'}://{LOCAL_HOST}:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    try:
        listener = socket.create_server((host, port), backlog=_BACKLOG)
    except OSError as error:
        raise ServerStartError(
            f"nothing can listen on {host}:{port}: {error.strerror or error}",
            bill="nothing was received or booked",
            fix="take another --port or --host, or end the program that listens there",
        ) from error
    with listener:
        # Connections take it over. asyncio sets it only where a socket names its protocol, which these do not; without it the
        # body of each answer waits 40 ms for the other side to confirm its head.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield listener


def _server(
    application: Any, certificate: Path | None, key: Path | None, client_authority: Path | None, own_date: bool
) -> uvicorn.Server:
    config = uvicorn.Config(
        application,
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=not own_date,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=_STOP_SECONDS,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        ssl_ca_certs=None if client_authority is None else str(client_authority),
        ssl_cert_reqs=ssl.CERT_NONE if client_authority is None else ssl.CERT_REQUIRED,
    )
    try:
        config.load()
    except OSError as error:
        raise ServerStartError(
            f"the server's certificate files cannot be used: {error.strerror or type(error).__name__}",
            bill="nothing was received or booked",
            fix="give a PEM certificate, its own unencrypted key, and the PEM of the clients' authority",
        ) from error
    return uvicorn.Server(config)
