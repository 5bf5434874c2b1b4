"""The push endpoint over real TLS sockets: who may push, what is refused, and that 200 means stored."""

import json
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from billing_pipeline.errors import BillingError
from console.push_endpoint import LARGEST_BODY_BYTES, PushServices, PushTokensError, push_app, push_tokens
from console.serve_push import NobodyPushesError, PushNotSafeError, push_services, serve_push
from resources.asgi_server import ServerStartError, serve, serving
from resources.database import Database
from resources.exporter_certificates import ExporterCertificates
from resources.exporter_simulation import Simulation
from resources.settings import Settings
from resources.traffic_config import TrafficSource
from resources.traffic_reader import SourceStatus
from resources.traffic_receipts import Received, TrafficReceiver
from tests.exporter_fixtures import certificates

__all__ = ["certificates"]

NOW = datetime(2026, 4, 8, 12, 0, 30, tzinfo=UTC)
TOKENS = {"jp": "token-of-jp", "us": "token-of-us"}
SOURCES = tuple(
    TrafficSource(name=name, env="prod", node=f"{name}-node", token_env=f"{name.upper()}_TOKEN") for name in TOKENS
)
E_MAIL = "jane.doe@example.com"
INGEST = "/v1/ingest/snapshots"


def snapshot(minute: int = 0, **changes: object) -> dict[str, Any]:
    """Return a snapshot of the first source's node."""
    sample = {
        "uuid": "11111111-1111-1111-1111-111111111111",
        "email": E_MAIL,
        "inbound_tag": "xhttp-premium",
        "uplink_bytes_total": 1024 + minute,
        "downlink_bytes_total": 2048,
    }
    return {
        "collected_at": f"2026-04-08T11:{minute:02}:00Z",
        "node_id": "jp-node",
        "env": "prod",
        "samples": [sample],
    } | changes


class Endpoint:
    """The served endpoint, with what it keeps and what a test may change."""

    def __init__(self, folder: Path) -> None:
        self.renew(folder)
        services = PushServices(
            receiver=self,  # type: ignore[arg-type]
            ping=self.ping,
            statuses=self.statuses,
            clock=lambda: NOW,
        )
        self.app = push_app(services, TOKENS)

    def renew(self, folder: Path) -> None:
        """Begin with an empty landing folder, and everything in order."""
        self.landing = folder / "landing"
        self.landing.mkdir()
        self.database_is_up = True
        self.disk_is_full = False
        self._receiver = TrafficReceiver(str(self.landing), SOURCES, folder / "scratch")

    def receive(self, source_name: str, body: bytes, *, received_at: datetime) -> Received:
        if self.disk_is_full:
            raise BillingError("the disk of /srv is full", bill="nothing", fix="free space")
        return self._receiver.receive(source_name, body, received_at=received_at)

    def ping(self) -> None:
        if not self.database_is_up:
            raise BillingError("no server answers at db.internal:5432", bill="nothing", fix="start it")

    def statuses(self, now: datetime) -> Sequence[SourceStatus]:
        self.ping()
        common = {
            "env": "prod",
            "last_attempted_at": now,
            "last_error_kind": None,
            "open_gaps": 0,
            "missing_minutes": 0,
        }
        done = now - timedelta(seconds=90)
        return [
            SourceStatus(
                source="jp",
                node="jp-node",
                completed_until=done,
                last_succeeded_at=now,
                last_error=None,
                delay_seconds=90,
                **common,
            ),  # type: ignore[arg-type]
            SourceStatus(
                source="us",
                node="us-node",
                completed_until=None,
                last_succeeded_at=None,
                last_error="timeout",
                delay_seconds=None,
                **common,
            ),  # type: ignore[arg-type]
        ]

    def files(self) -> list[Path]:
        return sorted(path for path in self.landing.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, certificates: ExporterCertificates
) -> Iterator[tuple[str, Endpoint]]:
    """Serve one endpoint for all tests, and return its URL with it."""
    endpoint = Endpoint(tmp_path_factory.mktemp("push"))
    with serving(endpoint.app, certificate=certificates.server.certificate, key=certificates.server.key) as base_url:
        yield base_url, endpoint


@pytest.fixture
def endpoint(served: tuple[str, Endpoint], tmp_path: Path) -> Endpoint:
    """Return the endpoint with a landing folder of this test."""
    served[1].renew(tmp_path)
    return served[1]


@pytest.fixture
def url(served: tuple[str, Endpoint]) -> str:
    return served[0]


@pytest.fixture
def client(url: str, endpoint: Endpoint, certificates: ExporterCertificates) -> Iterator[httpx.Client]:
    """Return a client with the bearer of the first source."""
    context = ssl.create_default_context(cafile=str(certificates.authority))
    with httpx.Client(base_url=url, verify=context, headers=bearer("jp"), trust_env=False) as made:
        yield made


@pytest.fixture(scope="module")
def nobody(served: tuple[str, Endpoint], certificates: ExporterCertificates) -> Iterator[httpx.Client]:
    """Return a client without a bearer."""
    context = ssl.create_default_context(cafile=str(certificates.authority))
    with httpx.Client(base_url=served[0], verify=context, trust_env=False) as made:
        yield made


def bearer(source: str) -> Mapping[str, str]:
    """Return the header of a source."""
    return {"authorization": f"Bearer {TOKENS[source]}"}


class TestFramings:
    """SVC-02."""

    @pytest.mark.parametrize(
        ("body", "snapshots"),
        [
            (json.dumps(snapshot()), 1),
            (json.dumps([snapshot(0), snapshot(1)]), 2),
            (json.dumps(snapshot(0)) + "\n" + json.dumps(snapshot(1)) + "\n", 2),
            (json.dumps(snapshot(0)) + json.dumps(snapshot(1)) + json.dumps(snapshot(2)), 3),
            (json.dumps(snapshot(samples=[]), indent=1), 1),
        ],
        ids=["object", "array", "newline-delimited", "concatenated", "no samples"],
    )
    def test_of_every_kind_are_taken(self, client: httpx.Client, endpoint: Endpoint, body: str, snapshots: int) -> None:
        answer = client.post(INGEST, content=body)
        assert (answer.status_code, answer.json()["snapshots"]) == (200, snapshots)
        (file,) = endpoint.files()
        assert len(file.read_bytes().splitlines()) == snapshots
        assert E_MAIL not in file.read_text()

    @pytest.mark.parametrize(
        "body", [b"", b"[]", b"{", b'{"a":', b'"text"', b"7", b"[1]", b"\xff\xfe", b"<html>", b"null"]
    )
    def test_that_are_none_are_refused_with_their_beginning(
        self, client: httpx.Client, endpoint: Endpoint, body: bytes
    ) -> None:
        answer = client.post(INGEST, content=body)
        assert answer.status_code == 400
        assert len(answer.json()["excerpt"]) <= 120
        assert endpoint.files() == []

    def test_that_are_broken_come_back_shortened_and_without_the_e_mail(
        self, client: httpx.Client, endpoint: Endpoint
    ) -> None:
        body = '[{"email":"' + E_MAIL + '","uuid":"' + "9" * 5000
        answer = client.post(INGEST, content=body)
        assert answer.status_code == 400
        assert answer.json()["excerpt"].startswith('[{"email":"[e-mail]","uuid":"999')
        assert len(answer.json()["excerpt"]) == 120
        assert E_MAIL not in answer.text
        assert endpoint.files() == []

    @pytest.mark.parametrize(
        ("bad", "what"),
        [
            (snapshot(1, collected_at="yesterday"), "snapshot 2 is refused: bad_timestamp, field collected_at"),
            (snapshot(1, collected_at="2026-04-08T13:00:00Z"), "snapshot 2 is refused: future, field collected_at"),
            (snapshot(1, collected_at="0001-01-01T00:00:00Z"), "snapshot 2 is refused: sentinel_time"),
            (snapshot(1, samples={}), "snapshot 2 is refused: wrong_type, field samples"),
            (snapshot(1, node_id="us-node"), "snapshot 2 is of another node"),
            (snapshot(1, env="preview"), "snapshot 2 is of another node or environment"),
            ({}, "snapshot 2 is refused: missing_field"),
        ],
    )
    def test_with_one_bad_snapshot_are_refused_whole(
        self, client: httpx.Client, endpoint: Endpoint, bad: dict[str, Any], what: str
    ) -> None:
        answer = client.post(INGEST, json=[snapshot(0), bad, {"worse": True}])
        assert answer.status_code == 422
        assert what in answer.json()["error"]
        assert E_MAIL not in answer.text
        assert endpoint.files() == []

    def test_that_come_again_are_duplicates(self, client: httpx.Client, endpoint: Endpoint) -> None:
        answers = [client.post(INGEST, json=[snapshot(0), snapshot(1)]) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        assert [answer.json()["duplicate"] for answer in answers] == [False, True, True]
        assert [answer.json()["samples"] for answer in answers] == [2, 2, 2]
        assert len(endpoint.files()) == 1

    def test_count_samples_that_are_refused(self, client: httpx.Client) -> None:
        broken = snapshot()["samples"][0] | {"uplink_bytes_total": -1}
        answer = client.post(INGEST, json=snapshot(samples=[*snapshot()["samples"], broken]))
        assert answer.json() == {"snapshots": 1, "samples": 1, "rejected_samples": 1, "duplicate": False}

    def test_of_a_simulated_node_are_taken(self, certificates: ExporterCertificates, tmp_path: Path) -> None:
        simulation = Simulation(seed=5, nodes=1, users=20)
        node = simulation.nodes[0]
        source = TrafficSource(name="sim", env=node.env, node=node.name)
        held = simulation.snapshots(node.name, simulation.start, simulation.start + timedelta(hours=1))
        documents = [one.document() for one in held]
        services = PushServices(
            receiver=TrafficReceiver(str(tmp_path), [source], tmp_path),
            ping=lambda: None,
            statuses=lambda now: [],
            clock=lambda: simulation.start + timedelta(hours=2),
        )
        pair = certificates.server
        context = ssl.create_default_context(cafile=str(certificates.authority))
        with (
            serving(push_app(services, {"sim": "token"}), certificate=pair.certificate, key=pair.key) as url,
            httpx.Client(verify=context, trust_env=False) as client,
        ):
            answer = client.post(url + INGEST, json=documents, headers={"authorization": "Bearer token"})
        assert answer.json()["snapshots"] == len(documents) >= 60
        assert answer.json()["rejected_samples"] == 0
        assert not any("@" in path.read_text() for path in tmp_path.rglob("*.jsonl"))


class TestSize:
    def test_of_exactly_32_mib_is_taken(self, client: httpx.Client) -> None:
        body = json.dumps(snapshot()).encode()
        answer = client.post(INGEST, content=body.ljust(LARGEST_BODY_BYTES), timeout=60)
        assert (LARGEST_BODY_BYTES, answer.status_code) == (33_554_432, 200)

    def test_above_that_is_refused_before_it_is_sent(
        self, url: str, endpoint: Endpoint, certificates: ExporterCertificates
    ) -> None:
        """No byte of the body has come when 413 is answered."""
        status = raw_answer(url, certificates, [f"content-length: {LARGEST_BODY_BYTES + 1}"], b"")
        assert status == b"HTTP/1.1 413 "
        assert endpoint.files() == []

    def test_above_that_is_refused_while_it_comes_when_nothing_was_promised(
        self, url: str, endpoint: Endpoint, certificates: ExporterCertificates
    ) -> None:
        """The last chunk never comes: it is not waited for."""
        chunk = b"%x\r\n" % (LARGEST_BODY_BYTES + 1) + b" " * (LARGEST_BODY_BYTES + 1)
        status = raw_answer(url, certificates, ["transfer-encoding: chunked"], chunk)
        assert status == b"HTTP/1.1 413 "
        assert endpoint.files() == []

    def test_of_a_body_that_does_not_come_to_its_end_stores_nothing(
        self, url: str, client: httpx.Client, endpoint: Endpoint, certificates: ExporterCertificates
    ) -> None:
        body = json.dumps(snapshot()).encode()
        with raw_connection(url, certificates, [f"content-length: {len(body) + 1}"]) as connection:
            connection.sendall(body)
        assert client.get("/healthz").status_code == 200
        assert endpoint.files() == []

    def test_does_not_help_whoever_packs_it(self, client: httpx.Client, endpoint: Endpoint) -> None:
        answer = client.post(INGEST, content=b"packed", headers={"content-encoding": "gzip"})
        assert answer.status_code == 415
        assert endpoint.files() == []


class TestBearer:
    """SVC-03."""

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("POST", INGEST),
            ("POST", "/v1/jobs/collect-and-rate"),
            ("POST", "/v1/jobs/reconcile"),
            ("GET", "/v1/status"),
            ("GET", INGEST),
            ("DELETE", "/v1/anything"),
        ],
    )
    @pytest.mark.parametrize(
        "header",
        [None, "", "Bearer", "Bearer wrong", "Basic token-of-jp", "token-of-jp", "Bearer token-of-j"],
    )
    def test_is_needed_by_everything_below_v1(
        self, nobody: httpx.Client, endpoint: Endpoint, method: str, path: str, header: str | None
    ) -> None:
        headers = {} if header is None else {"authorization": header}
        answer = nobody.request(method, path, headers=headers, content=json.dumps(snapshot()))
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert endpoint.files() == []

    def test_of_another_source_takes_no_snapshot_of_this_one(self, client: httpx.Client, endpoint: Endpoint) -> None:
        assert client.post(INGEST, json=snapshot(), headers=bearer("us")).status_code == 422
        assert client.post(INGEST, json=snapshot(), headers=bearer("jp")).status_code == 200
        assert [path.relative_to(endpoint.landing).parts[1] for path in endpoint.files()] == ["jp"]

    def test_starts_no_job_because_there_is_none(self, client: httpx.Client) -> None:
        answers = [client.post(f"/v1/jobs/{job}") for job in ("collect-and-rate", "reconcile")]
        assert [answer.status_code for answer in answers] == [404, 404]
        assert "Dagster" in answers[0].json()["error"]

    def test_does_not_make_a_wrong_method_right(self, client: httpx.Client) -> None:
        answers = [client.get(INGEST), client.post("/v1/status")]
        assert [(answer.status_code, answer.headers["allow"]) for answer in answers] == [(405, "POST"), (405, "GET")]

    def test_is_taken_whatever_the_case_of_its_scheme(self, client: httpx.Client) -> None:
        answer = client.post(INGEST, json=snapshot(), headers={"authorization": "bearer token-of-jp"})
        assert answer.status_code == 200

    @pytest.mark.parametrize("tokens", [{"jp": "same", "us": "same"}, {"jp": ""}])
    def test_that_cannot_tell_sources_apart_is_refused_at_the_start(self, tokens: dict[str, str]) -> None:
        services = PushServices(receiver=None, ping=lambda: None, statuses=lambda now: [])  # type: ignore[arg-type]
        with pytest.raises(PushTokensError):
            push_app(services, tokens)

    def test_comes_from_the_variable_that_the_source_names(self) -> None:
        output = TrafficSource(name="x", env="prod", node="x", format="debug_vars", token_env="JP_TOKEN")
        environ = {"JP_TOKEN": "a token\n", "US_TOKEN": ""}
        assert push_tokens([*SOURCES, output], environ) == {"jp": "a token"}


class TestWhatItKeeps:
    def test_is_nothing_when_it_cannot_be_stored_and_the_sender_hears_so(
        self, client: httpx.Client, endpoint: Endpoint
    ) -> None:
        endpoint.disk_is_full = True
        answer = client.post(INGEST, json=snapshot())
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
        # What is wrong here is none of the sender's business.
        assert "/srv" not in answer.text
        endpoint.disk_is_full = False
        assert client.post(INGEST, json=snapshot()).json()["duplicate"] is False

    def test_does_not_need_the_database(self, client: httpx.Client, endpoint: Endpoint) -> None:
        endpoint.database_is_up = False
        assert client.post(INGEST, json=snapshot()).status_code == 200
        assert client.get("/healthz").status_code == 200
        answers = [client.get("/readyz"), client.get("/v1/status")]
        assert [answer.status_code for answer in answers] == [503, 503]
        assert "db.internal" not in answers[0].text + answers[1].text


class TestStatus:
    def test_says_how_far_each_source_is(self, client: httpx.Client) -> None:
        answer = client.get("/v1/status").json()
        jp, us = answer["source_statuses"]
        assert (jp["source_id"], jp["last_completed_until"], jp["syncDelaySeconds"], jp["last_error"]) == (
            "jp",
            "2026-04-08T11:59:00+00:00",
            90,
            None,
        )
        assert (us["last_completed_until"], us["syncDelaySeconds"], us["last_error"]) == (None, None, "timeout")

    def test_needs_no_bearer_to_say_that_it_lives(self, nobody: httpx.Client, endpoint: Endpoint) -> None:
        assert [nobody.get(path).json() for path in ("/healthz", "/readyz")] == [{"status": "ok"}] * 2


class TestServing:
    def test_reads_status_and_keeps_snapshots_of_an_installation(
        self, database: Database, tmp_path: Path, certificates: ExporterCertificates
    ) -> None:
        settings = Settings.from_environment({"BILLING_HOME": str(tmp_path)})
        services = push_services(settings, database, SOURCES)
        context = ssl.create_default_context(cafile=str(certificates.authority))
        pair = certificates.server
        with (
            serving(push_app(services, TOKENS), certificate=pair.certificate, key=pair.key) as url,
            httpx.Client(base_url=url, verify=context, headers=bearer("jp"), trust_env=False) as client,
        ):
            assert client.get("/readyz").status_code == 200
            status = client.get("/v1/status").json()
            kept = client.post(INGEST, json=snapshot(collected_at="2025-01-01T00:00:00Z"))
        assert kept.json()["snapshots"] == 1
        assert len(list(Path(settings.landing_url).glob("traffic/jp/pushed/*/*.jsonl"))) == 1
        assert [one["source_id"] for one in status["source_statuses"]] == ["jp", "us"]
        assert {one["syncDelaySeconds"] for one in status["source_statuses"]} == {None}

    def test_without_a_certificate_is_for_this_machine_only(self, tmp_path: Path) -> None:
        settings = Settings.from_environment({"BILLING_HOME": str(tmp_path), "BILLING_CATALOG_DIR": str(tmp_path)})
        for host in ("0.0.0.0", "::", "billing.example"):
            with pytest.raises(PushNotSafeError):
                serve_push(settings, {}, host=host, port=1, certificate=None, key=None)
        with pytest.raises(NobodyPushesError):
            serve_push(settings, {}, host="127.0.0.1", port=1, certificate=None, key=None)

    def test_says_so_when_the_port_is_taken_or_a_file_is_missing(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ServerStartError, match="--port"):
            serve(None, host="127.0.0.1", port=taken.getsockname()[1])
        absent = tmp_path / "absent.pem"
        with pytest.raises(ServerStartError, match="certificate files"):
            serve(None, host="127.0.0.1", port=0, certificate=absent, key=absent)


def raw_connection(url: str, certificates: ExporterCertificates, headers: Sequence[str]) -> ssl.SSLSocket:
    """Return a connection on which the head of a push was sent, and nothing of its body."""
    address = urlsplit(url)
    assert address.hostname is not None
    context = ssl.create_default_context(cafile=str(certificates.authority))
    plain = socket.create_connection((address.hostname, address.port), timeout=60)
    connection = context.wrap_socket(plain, server_hostname=address.hostname)
    head = [f"POST {INGEST} HTTP/1.1", f"host: {address.netloc}", f"authorization: Bearer {TOKENS['jp']}", *headers]
    connection.sendall(("\r\n".join(head) + "\r\n\r\n").encode())
    return connection


def raw_answer(url: str, certificates: ExporterCertificates, headers: Sequence[str], body: bytes) -> bytes:
    """Return the beginning of the answer to a push that goes no further than `body`."""
    with raw_connection(url, certificates, headers) as connection:
        connection.sendall(body)
        return connection.recv(13)
