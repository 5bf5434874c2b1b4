"""Ask one exporter over HTTPS: path and parameters -> the bytes of its answer, or an error that names the cause.

Certificates are always verified. A client certificate is shown where the source names one, its own bearer is sent where it
names that; both come from the environment and are in no message. No redirect is followed, no proxy used: credentials reach
the source's address and nobody else. A whole answer has `timeout_seconds`. 5xx, 429, timeouts and dropped connections are
tried again, a few times. Not here: what the bytes say (exporter_client).
"""

import random
import re
import ssl
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import httpx

from billing_pipeline.errors import BillingError
from resources.traffic_config import TrafficSource

# A page of 120 snapshots of 2,000 streams is about 45 MB of JSON.
LARGEST_ANSWER_BYTES = 128 << 20

_ATTEMPTS = 3
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30
_TOKEN = re.compile(r"[\x21-\x7e]+", re.ASCII)
_SECONDS = re.compile(r"\d{1,6}", re.ASCII)
_CERTIFICATE_PROBLEMS = {
    9: "is not valid yet",
    10: "has expired",
    18: "is self-signed",
    19: "is signed by an authority that is not trusted",
    20: "is signed by an authority that is not trusted",
    62: "is for another host name",
    64: "is for another address",
}


class ExporterErrorKind(StrEnum):
    """What kind of failure an exporter's error is."""

    CONFIG = "config"
    TLS = "tls"
    AUTH = "auth"
    IDENTITY = "identity"
    HTTP = "http"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    MALFORMED = "malformed"


class ExporterError(BillingError):
    """One source could not be read; others can. `kind` for machines, the text for operators, no secret in either."""

    def __init__(self, source: str, kind: ExporterErrorKind, problem: str, *, fix: str) -> None:
        super().__init__(
            f"the exporter of source {source} was not read: {problem}",
            bill="no rows of it were taken; its windows stay open and its days incomplete, other sources go on",
            fix=fix,
        )
        self.source = source
        self.kind = kind
        self.problem = problem


class ExporterConfigError(ExporterError):
    """The source's address or credentials cannot be used."""


class ExporterTlsError(ExporterError):
    """Somebody's certificate was refused: the exporter's by us, or ours by the exporter."""


class ExporterAuthError(ExporterError):
    """The exporter refused the credentials (401, 403)."""


class ExporterHttpError(ExporterError):
    """The exporter answered with another status than 200."""

    def __init__(self, source: str, status: int, problem: str, *, fix: str) -> None:
        super().__init__(source, ExporterErrorKind.HTTP, problem, fix=fix)
        self.status = status


class ExporterTimeoutError(ExporterError):
    """The exporter did not answer in time."""


class ExporterUnreachableError(ExporterError):
    """There is no connection, or it breaks."""


class ExporterAnswerError(ExporterError):
    """The answer is not what an exporter says."""


class _PassingError(Exception):
    """A failure that may pass by itself."""

    def __init__(self, error: ExporterError, pause_seconds: int = 0) -> None:
        super().__init__()
        self.error = error
        self.pause_seconds = pause_seconds


class ExporterConnection:
    """HTTPS to one source. Connects at the first question; close it, or use it in a `with`."""

    def __init__(
        self,
        source: TrafficSource,
        environ: Mapping[str, str],
        *,
        allow_http: bool = False,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """`allow_http`: development only. `pause` waits so many seconds between attempts."""
        self._source = source
        self._environ = environ
        self._allow_http = allow_http
        self._pause = pause
        self._opened: httpx.Client | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._source.name!r})"

    def close(self) -> None:
        """Close the connection; the next question opens another."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def get(self, path: str, parameters: Mapping[str, str]) -> bytes:
        """Return the body of a 200.

        Raises:
            ExporterError: one of its children; see each.
        """
        client = self._client()
        for attempt in range(_ATTEMPTS):
            try:
                return self._attempt(client, path, parameters)
            except _PassingError as passing:
                if attempt == _ATTEMPTS - 1:
                    raise passing.error from passing.__cause__
                # Half of it at random: sources that fail together do not come back together.
                backoff = _FIRST_PAUSE_SECONDS * 2**attempt * (0.5 + random.random())
                self._pause(min(max(backoff, passing.pause_seconds), _LONGEST_PAUSE_SECONDS))
        raise AssertionError("the last attempt returns or raises")

    def _attempt(self, client: httpx.Client, path: str, parameters: Mapping[str, str]) -> bytes:
        deadline = time.monotonic() + self._source.timeout_seconds
        answers = False
        try:
            with client.stream("GET", self._address.rstrip("/") + path, params=parameters) as response:
                answers = True
                if response.status_code != httpx.codes.OK:
                    raise self._refusal(response)
                return self._body(response, deadline)
        except httpx.TimeoutException as error:
            raise _PassingError(self._timeout()) from error
        except (httpx.TransportError, ssl.SSLError) as error:
            raise self._broken(error, answers=answers) from error
        except httpx.DecodingError as error:
            raise self._answer("its compressed answer cannot be unpacked") from error

    def _body(self, response: httpx.Response, deadline: float) -> bytes:
        body = bytearray()
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > LARGEST_ANSWER_BYTES:
                raise self._answer(f"its answer is longer than {LARGEST_ANSWER_BYTES} bytes; ask with a lower `limit`")
            # httpx limits the wait for each piece, not for the whole.
            if time.monotonic() > deadline:
                raise _PassingError(self._timeout())
        return bytes(body)

    def _refusal(self, response: httpx.Response) -> Exception:
        """Return what an answer other than 200 means."""
        status, name = response.status_code, self._source.name
        if status in (401, 403):
            return ExporterAuthError(
                name,
                ExporterErrorKind.AUTH,
                f"it refuses the credentials ({status})",
                fix="put this source's own token into the variable that token_env names, or renew its client certificate",
            )
        if 300 <= status < 400:
            fix = "write the address that answers itself as base_url; a redirect is never followed with credentials"
            return ExporterHttpError(name, status, f"it redirects to another address ({status})", fix=fix)
        fix = "look at the exporter's own log" if status >= 500 else "correct base_url; it ends before /v1/snapshots"
        refused = ExporterHttpError(name, status, f"it answers with status {status}", fix=fix)
        if status == httpx.codes.TOO_MANY_REQUESTS or status >= 500:
            asked = response.headers.get("retry-after", "")
            return _PassingError(refused, int(asked) if _SECONDS.fullmatch(asked) else 0)
        return refused

    def _broken(self, error: Exception, *, answers: bool) -> Exception:
        """Return what a connection that was not made, or broke, means. `answers`: the answer had begun."""
        name = self._source.name
        chain = tuple(_chain(error))
        refused = next((one for one in chain if isinstance(one, ssl.SSLError) and not _is_end(one)), None)
        if refused is not None:
            return self._tls(refused)
        if isinstance(error, httpx.ConnectError):
            reason = next((one.strerror for one in chain if isinstance(one, OSError) and one.strerror), "no connection")
            return ExporterUnreachableError(
                name,
                ExporterErrorKind.UNREACHABLE,
                f"there is no connection to it ({reason})",
                fix="check that the node is up and base_url is its address; what it missed is pulled when it is back",
            )
        # With TLS 1.3 a server refuses a missing client certificate after the handshake, and its alert may be lost.
        if not answers and self._address.startswith("https:") and not self._source.client_cert_env:
            problem = "it drops the connection without an answer, as one that wants a client certificate does"
            fix = "name client_cert_env and client_key_env for this source, or look at the exporter's own log"
            return _PassingError(ExporterTlsError(name, ExporterErrorKind.TLS, problem, fix=fix))
        fix = "look at the exporter's own log and at the network between"
        problem = "the connection broke before the whole answer was there"
        return _PassingError(ExporterUnreachableError(name, ExporterErrorKind.UNREACHABLE, problem, fix=fix))

    def _tls(self, error: ssl.SSLError) -> ExporterTlsError:
        if isinstance(error, ssl.SSLCertVerificationError):
            what = _CERTIFICATE_PROBLEMS.get(error.verify_code, f"cannot be verified (code {error.verify_code})")
            problem = f"its certificate {what}"
            fix = "renew the exporter's certificate, or correct base_url or the authority that ca_env names"
        else:
            problem = f"it refuses the secure connection ({error.reason or 'no reason given'})"
            fix = "check that client_cert_env and client_key_env name a certificate that this exporter accepts"
        return ExporterTlsError(self._source.name, ExporterErrorKind.TLS, problem, fix=fix)

    def _timeout(self) -> ExporterTimeoutError:
        return ExporterTimeoutError(
            self._source.name,
            ExporterErrorKind.TIMEOUT,
            f"it did not answer within {self._source.timeout_seconds} seconds",
            fix="look at the node; raise timeout_seconds or lower limit if it is merely slow",
        )

    def _answer(self, problem: str) -> ExporterAnswerError:
        fix = "check that base_url is the exporter and not a proxy or sign-in page before it"
        return ExporterAnswerError(self._source.name, ExporterErrorKind.MALFORMED, problem, fix=fix)

    @property
    def _address(self) -> str:
        return self._source.base_url or self._environ.get(self._source.base_url_env, "")

    def _client(self) -> httpx.Client:
        if self._opened is None:
            self._check_address()
            headers = {"accept": "application/json, text/plain;q=0.5", "user-agent": "billing-pipeline"}
            if self._source.token_env:
                headers["authorization"] = f"Bearer {self._token()}"
            self._opened = httpx.Client(
                verify=self._tls_context(),
                headers=headers,
                timeout=self._source.timeout_seconds,
                follow_redirects=False,
                trust_env=False,
            )
        return self._opened

    def _check_address(self) -> None:
        source, parts = self._source, urlsplit(self._address)
        if source.base_url_env and not self._address:
            problem = f"the variable {source.base_url_env} is not set"
            raise self._unusable(problem, fix="set it to the exporter's address, https://host:port")
        if not parts.hostname or parts.username or parts.password or parts.query or parts.fragment:
            raise self._unusable("base_url is not the address of an exporter", fix="write https://host:port")
        if self._allow_http and parts.scheme == "http":
            return
        if parts.scheme != "https":
            raise self._unusable(
                "base_url is not https, so anybody on the way could read and change the counters",
                fix="give the exporter a certificate and write https://",
            )
        if not source.client_cert_env and not source.token_env:
            raise self._unusable(
                "it has neither a client certificate nor a token",
                fix="name client_cert_env and client_key_env (preferred), or token_env",
            )

    def _token(self) -> str:
        # A variable filled from a file often ends in a line break.
        token = self._environ.get(self._source.token_env, "").strip()
        if not _TOKEN.fullmatch(token):
            problem = f"the variable {self._source.token_env} holds no token of plain characters"
            raise self._unusable(problem, fix="set it to this source's own bearer token")
        return token

    def _tls_context(self) -> ssl.SSLContext:
        source = self._source
        authority = self._path(source.ca_env)
        variable = source.ca_env
        try:
            context = (
                ssl.create_default_context(cafile=authority) if authority else httpx.create_ssl_context(trust_env=False)
            )
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            variable = source.client_cert_env
            certificate, key = self._path(source.client_cert_env), self._path(source.client_key_env)
            if certificate:
                # An encrypted key fails here, instead of asking a terminal for its password.
                context.load_cert_chain(certificate, key, password="")
        except (OSError, ValueError) as error:
            problem = f"the file that the variable {variable} names cannot be used ({type(error).__name__})"
            raise self._unusable(
                problem, fix="name readable PEM files, the key unencrypted and the certificate's own"
            ) from error
        return context

    def _path(self, variable: str) -> str | None:
        if not variable:
            return None
        path = self._environ.get(variable)
        if not path:
            raise self._unusable(f"the variable {variable} is not set", fix="set it to the path of a PEM file")
        return path

    def _unusable(self, problem: str, *, fix: str) -> ExporterConfigError:
        return ExporterConfigError(self._source.name, ExporterErrorKind.CONFIG, problem, fix=fix)


def _chain(error: BaseException | None) -> list[BaseException]:
    found = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _is_end(error: ssl.SSLError) -> bool:
    """Tell whether TLS says no more than that the connection ended."""
    return isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError) or error.reason == "UNEXPECTED_EOF_WHILE_READING"
