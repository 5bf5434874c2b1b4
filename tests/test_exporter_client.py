"""The exporter client over real TLS sockets: each snapshot once, and every way to fail is an error of that source alone."""

import socket
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from billing_pipeline.records import Reason
from billing_pipeline.sources.traffic_snapshots import TrafficSample
from resources.asgi_server import serving
from resources.exporter_certificates import ExporterCertificates, KeyPair
from resources.exporter_client import ExporterClient, ExporterIdentityError
from resources.exporter_sim_counters import SimulatedNode
from resources.exporter_sim_server import Fault, Faults, exporter_app
from resources.exporter_simulation import DEFAULT_START, Simulation
from resources.exporter_transport import (
    ExporterAnswerError,
    ExporterAuthError,
    ExporterConfigError,
    ExporterError,
    ExporterErrorKind,
    ExporterHttpError,
    ExporterTimeoutError,
    ExporterTlsError,
    ExporterUnreachableError,
)
from tests.exporter_fixtures import NODE, TOKEN, certificates, client_at, environment, no_pause, source_at

__all__ = ["certificates"]

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
START = DEFAULT_START
NOW = START + 5 * HOUR
OTHER = "node-2.example"
# The contract's own example.
LATEST: dict[str, Any] = {
    "collected_at": "2026-04-08T12:00:00Z",
    "node_id": NODE,
    "env": "prod",
    "samples": [
        {
            "uuid": "11111111-1111-1111-1111-111111111111",
            "email": "user@example.com",
            "inbound_tag": "xhttp-premium",
            "uplink_bytes_total": 1024,
            "downlink_bytes_total": 2048,
        }
    ],
}
MUTUAL = "client_cert_env client_key_env ca_env"


def snapshot_at(collected_at: str, uplink: int = 1024) -> dict[str, Any]:
    """Return the example at another instant."""
    return LATEST | {"collected_at": collected_at, "samples": [LATEST["samples"][0] | {"uplink_bytes_total": uplink}]}


class ScriptedExporter:
    """Says what a test hands it, and remembers what it was asked."""

    def __init__(self) -> None:
        self.say()
        self.app = Starlette(
            routes=[
                Route("/{node}/v1/snapshots/latest", self.answer_latest),
                Route("/{node}/v1/snapshots/window", self.answer_window),
                Route("/{node}/", self.answer_latest),
                Route("/{node}", self.answer_latest),
            ]
        )

    def say(self, *pages: object, latest: object = None) -> None:
        """Answer these pages one after another, the last one for ever."""
        self.asked: list[dict[str, str]] = []
        self._pages = list(pages)
        self._latest = latest

    async def answer_latest(self, request: Request) -> JSONResponse:
        return JSONResponse(self._latest)

    async def answer_window(self, request: Request) -> JSONResponse:
        self.asked.append(dict(request.query_params))
        return JSONResponse(self._pages[min(len(self.asked), len(self._pages)) - 1])


def page_of(*snapshots: dict[str, Any], cursor: str | None = None, **changes: object) -> dict[str, object]:
    """Return a window's page, with another one behind it if there is a cursor."""
    more = {"has_more": cursor is not None} | ({} if cursor is None else {"next_cursor": cursor})
    return {"node_id": NODE, "env": "prod", "snapshots": list(snapshots)} | more | changes


class Scripted(Protocol):
    """Let the scripted exporter say something else, and yield it with a client of it."""

    def __call__(
        self, *pages: object, latest: object = None, **source: Any
    ) -> AbstractContextManager[tuple[ScriptedExporter, ExporterClient]]: ...


@pytest.fixture(scope="module")
def scripted(certificates: ExporterCertificates) -> Iterator[Scripted]:
    """Serve one scripted exporter with TLS."""
    exporter = ScriptedExporter()
    pair = certificates.server
    with serving(exporter.app, certificate=pair.certificate, key=pair.key) as url:

        @contextmanager
        def speaking(
            *pages: object, latest: object = None, **source: Any
        ) -> Iterator[tuple[ScriptedExporter, ExporterClient]]:
            exporter.say(*pages, latest=latest)
            with client_at(certificates, url, **source) as client:
                yield exporter, client

        yield speaking


@pytest.fixture(scope="module")
def faults() -> Faults:
    return Faults()


@pytest.fixture(scope="module")
def served(certificates: ExporterCertificates, faults: Faults) -> Iterator[str]:
    """Serve two nodes, each with its own bearer, pages of at most 50 snapshots, and return the base URL."""
    nodes = (SimulatedNode(name=NODE, booted_at=START), SimulatedNode(name=OTHER, booted_at=START))
    simulation = Simulation(seed=3, nodes=nodes, users=3)
    app = exporter_app(
        simulation, tokens={NODE: TOKEN, OTHER: "token-of-node-2"}, clock=lambda: NOW, faults=faults, page_limit=50
    )
    with serving(app, certificate=certificates.server.certificate, key=certificates.server.key) as url:
        yield url


@pytest.fixture
def client(certificates: ExporterCertificates, served: str) -> Iterator[ExporterClient]:
    with client_at(certificates, served) as made:
        yield made


def read_window(client: ExporterClient, since: datetime = START, until: datetime = START + HOUR) -> list[str]:
    """Return when the snapshots of a window were collected, in the order of the pages."""
    return [one.collected_at.isoformat() for page in client.window(since, until) for one in page.snapshots]


class TestReading:
    """SVC-01."""

    def test_gives_the_bytes_of_the_contracts_example_without_the_e_mail(self, scripted: Scripted) -> None:
        with scripted(latest=LATEST) as (_, client):
            snapshot = client.latest()
        assert snapshot is not None
        assert (snapshot.env, snapshot.node) == ("prod", NODE)
        assert snapshot.collected_at == datetime(2026, 4, 8, 12, tzinfo=UTC)
        assert snapshot.samples == (
            TrafficSample(
                account_uuid="11111111-1111-1111-1111-111111111111",
                inbound_tag="xhttp-premium",
                uplink_bytes=1024,
                downlink_bytes=2048,
            ),
        )
        assert "user@example.com" not in repr(snapshot)

    def test_reads_five_snapshots_at_half_seconds_once_each_on_three_pages(self, scripted: Scripted) -> None:
        instants = [f"2026-04-08T12:0{minute}:00.500000Z" for minute in range(5)]
        pages = [
            page_of(*map(snapshot_at, instants[0:2]), cursor=instants[1]),
            page_of(*map(snapshot_at, instants[2:4]), cursor=instants[3]),
            page_of(*map(snapshot_at, instants[4:])),
        ]
        since = datetime(2026, 4, 8, 12, tzinfo=UTC)
        with scripted(*pages, limit=2) as (exporter, client):
            read = list(client.window(since, since + 4 * MINUTE + timedelta(microseconds=500_000)))
        assert [[one.collected_at.minute for one in page.snapshots] for page in read] == [[0, 1], [2, 3], [4]]
        assert [page.has_more for page in read] == [True, True, False]
        asked = {"since": "2026-04-08T12:00:00Z", "until": "2026-04-08T12:04:00.500000Z", "limit": "2"}
        # The cursor goes back as it came, with its fraction.
        assert exporter.asked == [asked, asked | {"cursor": instants[1]}, asked | {"cursor": instants[3]}]

    def test_takes_a_cursor_that_is_no_instant_at_all(self, scripted: Scripted) -> None:
        cursor = "opaque/+&=ü 1"
        pages = [
            page_of(snapshot_at("2026-04-08T00:01:00Z"), cursor=cursor),
            page_of(snapshot_at("2026-04-08T00:02:00Z")),
        ]
        with scripted(*pages) as (exporter, client):
            assert len(read_window(client)) == 2
        assert exporter.asked[1]["cursor"] == cursor

    def test_leaves_out_what_a_page_repeats_from_the_page_before(self, scripted: Scripted) -> None:
        first, border, last = (snapshot_at(f"2026-04-08T00:0{minute}:00.9Z") for minute in (1, 2, 3))
        # As exporters do whose cursor is cut to the second. Another reading of the same instant is no repetition.
        pages = [page_of(first, border, border, cursor="2026-04-08T00:02:00Z"), page_of(border, border | last, last)]
        other = border | {"samples": []}
        pages[1]["snapshots"] = [border, other, last]
        with scripted(*pages) as (_, client):
            read = [
                [(one.collected_at.minute, len(one.samples)) for one in page.snapshots]
                for page in client.window(START, START + HOUR)
            ]
        assert read == [[(1, 1), (2, 1)], [(2, 0), (3, 1)]]

    def test_keeps_totals_exact_beyond_what_a_float_holds(self, scripted: Scripted) -> None:
        with scripted(latest=snapshot_at("2026-04-08T12:00:00Z", 2**63 - 1)) as (_, client):
            snapshot = client.latest()
        assert snapshot is not None
        assert snapshot.samples[0].uplink_bytes == 9_223_372_036_854_775_807

    def test_reports_a_snapshot_that_is_refused_beside_those_that_are_not(self, scripted: Scripted) -> None:
        good = snapshot_at("2026-04-08T00:01:00Z")
        with scripted(page_of(good, good | {"collected_at": "yesterday"})) as (_, client):
            (page,) = client.window(START, START + HOUR)
        assert len(page.snapshots) == 1
        assert [(one.position, one.field) for one in page.rejected] == [(2, "collected_at")]

    def test_of_an_empty_window_is_one_empty_page_even_if_it_names_nobody(self, scripted: Scripted) -> None:
        empty = {"node_id": "", "env": "", "snapshots": None, "has_more": False}
        with scripted(empty) as (_, client):
            (page,) = client.window(START, START + HOUR)
        assert (page.snapshots, page.rejected, page.has_more) == ((), (), False)

    def test_of_an_exporter_that_has_nothing_yet_is_nothing(
        self, certificates: ExporterCertificates, scripted: Scripted
    ) -> None:
        zero = LATEST | {"collected_at": "0001-01-01T00:00:00Z", "samples": None}
        with scripted(latest=zero) as (_, client):
            assert client.latest() is None
        young = Simulation(seed=3, nodes=(SimulatedNode(name=NODE, booted_at=START),), users=1)
        app = exporter_app(young, tokens={NODE: TOKEN}, clock=lambda: START - HOUR)
        pair = certificates.server
        with (
            serving(app, certificate=pair.certificate, key=pair.key) as url,
            client_at(certificates, url) as client,
        ):
            assert client.latest() is None
            assert read_window(client) == []

    def test_of_xrays_own_output_is_a_snapshot_of_now(self, scripted: Scripted) -> None:
        account = "11111111-1111-1111-1111-111111111111"
        output = {"stats": {"user": {account: {"uplink": 1024, "downlink": 2048}}}}
        with scripted(latest=output, format="debug_vars") as (_, client):
            before = datetime.now(UTC)
            snapshot = client.latest()
        assert snapshot is not None
        assert (snapshot.env, snapshot.node) == ("prod", NODE)
        assert before <= snapshot.collected_at <= datetime.now(UTC)
        assert [(one.account_uuid, one.uplink_bytes, one.downlink_bytes) for one in snapshot.samples] == [
            (account, 1024, 2048)
        ]

    def test_of_xrays_own_output_that_says_nothing_is_an_error(self, scripted: Scripted) -> None:
        with scripted(latest={"cmdline": []}, format="debug_vars") as (_, client), pytest.raises(ExporterAnswerError):
            client.latest()


class TestASimulatedNode:
    def test_is_read_by_pages_of_its_own_limit(self, client: ExporterClient) -> None:
        pages = [len(page.snapshots) for page in client.window(START, START + 2 * HOUR)]
        assert pages == [50, 50, 20]
        latest = client.latest()
        assert latest is not None
        assert NOW - MINUTE < latest.collected_at <= NOW

    def test_that_repeats_page_borders_is_read_once(self, client: ExporterClient, faults: Faults) -> None:
        right = read_window(client, START, START + 3 * HOUR)
        faults.switch_on(NODE, Fault.SECOND_CURSOR)
        try:
            assert read_window(client, START, START + 3 * HOUR) == right
        finally:
            faults.switch_off(NODE)
        assert len(set(right)) == len(right) == 180

    @given(limit=st.integers(2, 49), first=st.integers(0, 200), length=st.integers(1, 90), repeats=st.booleans())
    @settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_is_read_once_however_the_window_is_cut_into_pages(
        self,
        certificates: ExporterCertificates,
        served: str,
        faults: Faults,
        limit: int,
        first: int,
        length: int,
        repeats: bool,
    ) -> None:
        since = START + first * MINUTE
        if repeats:
            faults.switch_on(NODE, Fault.SECOND_CURSOR)
        try:
            with client_at(certificates, served, limit=limit) as client:
                pages = list(client.window(since, since + length * MINUTE))
        finally:
            faults.switch_off(NODE)
        instants = [one.collected_at for page in pages for one in page.snapshots]
        # One a minute, and with both ends of the window at most one more.
        assert len(instants) in (length, length + 1)
        assert instants == sorted(set(instants))
        assert [page.has_more for page in pages] == [True] * (len(pages) - 1) + [False]

    def test_without_samples_is_read_as_such(self, client: ExporterClient, faults: Faults) -> None:
        faults.switch_on(NODE, Fault.NO_SAMPLES)
        try:
            (page, *_) = client.window(START + HOUR, START + HOUR + 10 * MINUTE)
        finally:
            faults.switch_off(NODE)
        assert [len(one.samples) for one in page.snapshots] == [0] * 10


class TestAFault:
    @pytest.mark.parametrize(
        ("fault", "error", "kind"),
        [
            (Fault.HTML, ExporterAnswerError, ExporterErrorKind.MALFORMED),
            (Fault.TRUNCATED_JSON, ExporterAnswerError, ExporterErrorKind.MALFORMED),
            (Fault.STUCK_CURSOR, ExporterAnswerError, ExporterErrorKind.MALFORMED),
            (Fault.ENDLESS, ExporterAnswerError, ExporterErrorKind.MALFORMED),
            (Fault.OTHER_WINDOW, ExporterAnswerError, ExporterErrorKind.MALFORMED),
            (Fault.REDIRECT, ExporterHttpError, ExporterErrorKind.HTTP),
            (Fault.SERVER_ERROR, ExporterHttpError, ExporterErrorKind.HTTP),
            (Fault.TOO_MANY_REQUESTS, ExporterHttpError, ExporterErrorKind.HTTP),
            (Fault.WRONG_NODE, ExporterIdentityError, ExporterErrorKind.IDENTITY),
            (Fault.WRONG_ENV, ExporterIdentityError, ExporterErrorKind.IDENTITY),
        ],
    )
    def test_is_an_error_of_its_kind_without_the_secret(
        self, client: ExporterClient, faults: Faults, fault: Fault, error: type[ExporterError], kind: ExporterErrorKind
    ) -> None:
        faults.switch_on(NODE, fault)
        try:
            with pytest.raises(error) as caught:
                read_window(client, START + HOUR, START + 2 * HOUR)
        finally:
            faults.switch_off(NODE)
        assert (caught.value.kind, caught.value.source) == (kind, "node-1")
        assert TOKEN not in str(caught.value)
        assert "source node-1" in caught.value.what

    @pytest.mark.parametrize("fault", [Fault.HANG, Fault.DRIP])
    def test_that_takes_for_ever_ends_with_the_sources_timeout(
        self, certificates: ExporterCertificates, served: str, faults: Faults, fault: Fault
    ) -> None:
        pauses: list[float] = []
        faults.switch_on(NODE, fault)
        try:
            with (
                client_at(certificates, served, timeout_seconds=0.3, pause=pauses.append) as client,
                pytest.raises(ExporterTimeoutError, match=r"within 0\.3 seconds") as caught,
            ):
                client.latest()
        finally:
            faults.switch_off(NODE)
        assert caught.value.kind is ExporterErrorKind.TIMEOUT
        assert len(pauses) == 2

    @pytest.mark.parametrize("fault", [Fault.SERVER_ERROR, Fault.TOO_MANY_REQUESTS])
    def test_that_passes_is_tried_again_after_pauses_that_grow(
        self, certificates: ExporterCertificates, served: str, faults: Faults, fault: Fault
    ) -> None:
        pauses: list[float] = []
        faults.switch_on(NODE, fault, times=2)
        with client_at(certificates, served, pause=pauses.append) as client:
            assert client.latest() is not None
        assert len(pauses) == 2
        # 429 says how long to wait: a second.
        least = (1.0, 1.0) if fault is Fault.TOO_MANY_REQUESTS else (0.25, 0.5)
        assert all(low <= pause <= 1.5 for low, pause in zip(least, pauses, strict=True))

    @pytest.mark.parametrize("fault", [Fault.HTML, Fault.WRONG_NODE, Fault.REDIRECT])
    def test_that_does_not_pass_is_not_tried_again(
        self, certificates: ExporterCertificates, served: str, faults: Faults, fault: Fault
    ) -> None:
        pauses: list[float] = []
        faults.switch_on(NODE, fault, times=1)
        with client_at(certificates, served, pause=pauses.append) as client:
            with pytest.raises(ExporterError):
                client.latest()
            # The connection is as good as before.
            assert client.latest() is not None
        assert pauses == []

    def test_of_one_node_leaves_the_others_alone(
        self, certificates: ExporterCertificates, served: str, faults: Faults
    ) -> None:
        """SVC-14 at the client."""
        other = source_at(served, name="node-2", node=OTHER, base_url=f"{served}/{OTHER}", token_env="NODE_2_TOKEN")
        environ = {**environment(certificates), "NODE_2_TOKEN": "token-of-node-2"}
        faults.switch_on(NODE, Fault.WRONG_NODE)
        try:
            with (
                client_at(certificates, served) as first,
                ExporterClient(other, environ, pause=no_pause) as second,
            ):
                with pytest.raises(
                    ExporterIdentityError, match=r"answers as prod:not-node-1\.example, not as prod:node-1"
                ):
                    read_window(first)
                assert len(read_window(second)) == 60
        finally:
            faults.switch_off(NODE)

    @pytest.mark.parametrize(
        "page",
        [
            [],
            "text",
            {"snapshots": []},
            page_of(snapshots=LATEST),
            page_of(LATEST, has_more="yes"),
            page_of(LATEST, has_more=True),
            page_of(LATEST, has_more=True, next_cursor=""),
            page_of(LATEST, has_more=True, next_cursor=7),
            page_of(LATEST, has_more=True, next_cursor="x" * 5000),
            page_of(has_more=True, next_cursor="moves"),
        ],
    )
    def test_in_the_form_of_a_page_is_malformed(self, scripted: Scripted, page: object) -> None:
        with scripted(page) as (_, client), pytest.raises(ExporterAnswerError) as caught:
            list(client.window(datetime(2026, 4, 8, 11, tzinfo=UTC), datetime(2026, 4, 8, 13, tzinfo=UTC)))
        assert caught.value.kind is ExporterErrorKind.MALFORMED

    def test_in_a_page_is_its_envelope_or_any_snapshot_of_another_node(self, scripted: Scripted) -> None:
        stranger = snapshot_at("2026-04-08T00:02:00Z") | {"node_id": "user@example.com"}
        pages = [
            page_of(snapshot_at("2026-04-08T00:01:00Z"), node_id="user@example.com"),
            page_of(snapshot_at("2026-04-08T00:01:00Z"), stranger | {"node_id": OTHER}),
            page_of(env="preview"),
        ]
        for page in pages:
            with scripted(page) as (_, client), pytest.raises(ExporterIdentityError) as caught:
                read_window(client)
            # An answer's text stays out of messages unless it is a plain name.
            assert "user@example.com" not in str(caught.value)

    def test_of_the_latest_snapshot_is_told_by_reason_and_field(self, scripted: Scripted) -> None:
        with (
            scripted(latest=LATEST | {"samples": {}}) as (_, client),
            pytest.raises(ExporterAnswerError, match=f"{Reason.WRONG_TYPE}, field samples"),
        ):
            client.latest()


class TestTls:
    """SVC-04."""

    @pytest.mark.parametrize(
        ("bad", "what"),
        [("expired", "has expired"), ("self_signed", "is self-signed"), ("wrong_name", "another address")],
    )
    def test_refuses_a_certificate_that_is(self, certificates: ExporterCertificates, bad: str, what: str) -> None:
        pair: KeyPair = getattr(certificates, bad)
        asked = ScriptedExporter()
        asked.say(page_of(LATEST), latest=LATEST)
        pauses: list[float] = []
        rows: list[object] = []
        with (
            serving(asked.app, certificate=pair.certificate, key=pair.key) as url,
            client_at(certificates, url, pause=pauses.append) as client,
            pytest.raises(ExporterTlsError, match=what) as caught,
        ):
            rows.extend(client.window(START, NOW))
        assert caught.value.kind is ExporterErrorKind.TLS
        # No rows, nothing asked, no second try: a certificate does not get better by itself.
        assert (rows, asked.asked, pauses) == ([], [], [])

    def test_refuses_an_authority_that_this_source_does_not_name(
        self, certificates: ExporterCertificates, served: str
    ) -> None:
        with (
            client_at(certificates, served, names="token_env") as client,
            pytest.raises(ExporterTlsError, match="authority that is not trusted"),
        ):
            client.latest()

    def test_with_client_certificates_needs_no_token(self, certificates: ExporterCertificates) -> None:
        simulation = Simulation(seed=3, nodes=(SimulatedNode(name=NODE, booted_at=START),), users=1)
        pair, authority = certificates.server, certificates.authority
        with serving(
            exporter_app(simulation, clock=lambda: NOW),
            certificate=pair.certificate,
            key=pair.key,
            client_authority=authority,
        ) as url:
            with client_at(certificates, url, names=MUTUAL) as client:
                assert len(read_window(client)) == 60
            # The same exporter, asked without one.
            with client_at(certificates, url) as client, pytest.raises(ExporterTlsError) as caught:
                client.latest()
        assert caught.value.kind is ExporterErrorKind.TLS

    def test_with_a_client_certificate_of_another_authority_fails(self, certificates: ExporterCertificates) -> None:
        pair = certificates.server
        # Whatever the server is, it trusts only itself.
        with (
            serving(
                ScriptedExporter().app,
                certificate=pair.certificate,
                key=pair.key,
                client_authority=certificates.self_signed.certificate,
            ) as url,
            client_at(certificates, url, names=MUTUAL) as client,
            pytest.raises(ExporterError) as caught,
        ):
            client.latest()
        assert caught.value.kind in (ExporterErrorKind.TLS, ExporterErrorKind.UNREACHABLE)

    def test_does_not_replace_the_token_of_another_source(
        self, certificates: ExporterCertificates, served: str
    ) -> None:
        """Token of A on B: 401."""
        with (
            client_at(certificates, served, base_url=f"{served}/{OTHER}", node=OTHER) as client,
            pytest.raises(ExporterAuthError, match="401") as caught,
        ):
            client.latest()
        assert caught.value.kind is ExporterErrorKind.AUTH
        assert TOKEN not in str(caught.value)


class TestASourceThatCannotBeAsked:
    @pytest.mark.parametrize(
        ("changes", "what"),
        [
            ({"base_url": "http://127.0.0.1:1"}, "not https"),
            ({"base_url": ""}, "not the address"),
            ({"base_url": "", "base_url_env": "NOT_SET"}, "NOT_SET is not set"),
            ({"base_url": "", "base_url_env": "NO_FILE"}, "not the address"),
            ({"base_url": "ftp://127.0.0.1"}, "not https"),
            ({"base_url": "https://user:secret@127.0.0.1"}, "not the address"),
            ({"base_url": "https://127.0.0.1:1/?token=secret"}, "not the address"),
            ({"names": "ca_env"}, "neither a client certificate nor a token"),
            ({"token_env": "NOT_SET"}, "NOT_SET holds no token"),
            ({"token_env": "BROKEN_TOKEN"}, "BROKEN_TOKEN holds no token"),
            ({"ca_env": "NOT_SET"}, "NOT_SET is not set"),
            ({"ca_env": "NO_FILE"}, "file that the variable NO_FILE names"),
            ({"names": MUTUAL, "client_key_env": "NO_FILE"}, "file that the variable EXPORTER_CERT names"),
            ({"names": MUTUAL, "client_key_env": "LOCKED_KEY"}, "file that the variable EXPORTER_CERT names"),
        ],
    )
    def test_is_an_error_of_its_own_that_names_the_variable(
        self, certificates: ExporterCertificates, tmp_path: Path, changes: dict[str, Any], what: str
    ) -> None:
        locked = tmp_path / "locked.key"
        key = serialization.load_pem_private_key(certificates.client.key.read_bytes(), None)
        locked.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"secret"),
            )
        )
        environ = {
            **environment(certificates),
            "BROKEN_TOKEN": "secret\nhost: elsewhere",
            "NO_FILE": str(tmp_path / "absent.pem"),
            "LOCKED_KEY": str(locked),
        }
        with (
            client_at(certificates, "https://127.0.0.1:1", environ=environ, **changes) as client,
            pytest.raises(ExporterConfigError, match=what) as caught,
        ):
            client.latest()
        assert caught.value.kind is ExporterErrorKind.CONFIG
        assert "secret" not in str(caught.value)

    def test_is_asked_without_tls_only_where_that_is_allowed(self, certificates: ExporterCertificates) -> None:
        exporter = ScriptedExporter()
        exporter.say(latest=LATEST)
        with serving(exporter.app) as url:
            with client_at(certificates, url) as client, pytest.raises(ExporterConfigError):
                client.latest()
            with ExporterClient(source_at(url, names=""), {}, allow_http=True) as client:
                assert client.latest() is not None

    def test_is_one_where_nobody_listens(self, certificates: ExporterCertificates) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            address = f"https://127.0.0.1:{unused.getsockname()[1]}"
            with (
                client_at(certificates, address) as client,
                pytest.raises(ExporterUnreachableError, match="refused") as caught,
            ):
                client.latest()
        assert caught.value.kind is ExporterErrorKind.UNREACHABLE

    def test_shows_no_secret_of_its_client(self, certificates: ExporterCertificates) -> None:
        with client_at(certificates, "https://127.0.0.1:1") as client:
            assert repr(client) == "ExporterClient('node-1')"


class TestAConnection:
    @pytest.mark.parametrize(
        ("answer", "error"),
        [
            (b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{", ExporterUnreachableError),
            (b"", ExporterUnreachableError),
            (b"SSH-2.0-OpenSSH_9.9\r\n", ExporterUnreachableError),
            (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\nnope", ExporterAnswerError),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", ExporterAnswerError),
            (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", ExporterHttpError),
            (b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", ExporterAuthError),
        ],
    )
    def test_that_says_no_page_is_an_error(self, answer: bytes, error: type[ExporterError]) -> None:
        with (
            saying(answer) as url,
            ExporterClient(source_at(url, names=""), {}, allow_http=True, pause=no_pause) as client,
            pytest.raises(error),
        ):
            read_window(client)


@contextmanager
def saying(answer: bytes) -> Iterator[str]:
    """Give every connection the same bytes and close it; yield the URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            while True:
                connection, _ = listener.accept()
                with connection:
                    if not connection.recv(65_536):
                        return
                    connection.sendall(answer)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        address = listener.getsockname()
        yield f"http://127.0.0.1:{address[1]}"
        with socket.create_connection(address):
            pass
        thread.join()
