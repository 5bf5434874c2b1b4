"""Collecting over real sockets: simulated exporters behind TLS, with restarts, late and repeated snapshots, and an outage."""

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from billing_pipeline.periods import Window
from resources.asgi_server import serving
from resources.database import Database
from resources.exporter_certificates import ExporterCertificates
from resources.exporter_client import ExporterClient
from resources.exporter_sim_counters import SimulatedNode
from resources.exporter_sim_server import exporter_app
from resources.exporter_simulation import DEFAULT_START, Simulation
from resources.exporter_transport import ExporterAnswerError
from resources.lake import Lake
from resources.landing import Landing
from resources.traffic_config import TrafficSource
from resources.traffic_samples import DATASET
from resources.traffic_store import DayCollected, TrafficStore
from resources.xray_client import XrayOutputClient
from tests.exporter_fixtures import certificates as certificates
from tests.exporter_fixtures import environment, no_pause

DAY = date(2026, 4, 8)
TOKENS = {"jp": "token-of-jp", "us": "token-of-us", "sg": "token-of-sg"}


def at(hours: float) -> datetime:
    return DEFAULT_START + timedelta(hours=hours)


def simulated() -> Simulation:
    """Return six hours of three nodes: one restarts, repeats and is late, one is away for three hours, one is sound."""
    booted = at(-24)
    return Simulation(
        seed=7,
        users=4,
        nodes=[
            SimulatedNode(name="jp", booted_at=booted, restarts=(at(1.51), at(2.01)), late_every=7, repeated_every=11),
            SimulatedNode(name="us", booted_at=booted, away=(Window(start=at(2), end=at(5)),)),
            SimulatedNode(name="sg", booted_at=booted),
        ],
    )


class Fleet:
    """A store whose clients talk to served exporters; `clock` is the time of everybody."""

    def __init__(
        self, database: Database, folder: Path, certificates: ExporterCertificates, url: str, **tokens: str
    ) -> None:
        self.clock = DEFAULT_START
        self.database = database
        self.lake = Lake(str(folder / "lake"), folder / "scratch")
        (folder / "landing").mkdir()
        self.environ: Mapping[str, str] = {**environment(certificates), **(TOKENS | tokens)}
        self.sources = [
            TrafficSource(
                name=name,
                env="prod",
                node=name,
                base_url=f"{url}/{name}",
                token_env=name,
                ca_env="EXPORTER_CA",
                client_cert_env="EXPORTER_CERT",
                client_key_env="EXPORTER_KEY",
                active_from=DEFAULT_START,
            )
            for name in TOKENS
        ]
        self.store = TrafficStore(
            database,
            self.lake,
            Landing(str(folder / "landing"), folder / "scratch"),
            self.sources,
            self.client,
            folder / "scratch",
            memory_limit="256MB",
            threads=1,
        )

    def client(self, source: TrafficSource) -> ExporterClient:
        return ExporterClient(source, self.environ, clock=lambda: self.clock, pause=no_pause)

    def collect(self, hours: float) -> DayCollected:
        self.clock = at(hours)
        (day,) = self.store.collect_days([DAY], now=self.clock, run_id="run", code_version="1")
        return day

    def samples(self) -> set[tuple[Any, ...]]:
        with self.database.reading() as connection:
            ((uri,),) = connection.execute(
                "select uri from core.lake_partition join core.lake_generation using (dataset, partition_key, generation)"
                " where dataset = %s",
                [DATASET],
            ).fetchall()
        with duckdb.connect() as connection:
            rows = connection.execute(
                "select node, collected_at, account_uuid, inbound_tag, uplink_bytes, downlink_bytes, uptime_seconds"
                " from read_parquet(?, hive_partitioning = false)",
                [str(self.lake.fetch(uri))],
            ).fetchall()
        assert len(set(rows)) == len(rows)
        return set(rows)


def truth(simulation: Simulation, until: datetime) -> set[tuple[Any, ...]]:
    """Return what every node has shown before `until`."""
    return {
        (node.name, one.collected_at.replace(tzinfo=None), *sample, one.uptime_seconds)
        for node in simulation.nodes
        for one in simulation.snapshots(node.name, DEFAULT_START, until, as_of=until + timedelta(days=1))
        if one.collected_at < until
        for sample in one.samples
    }


class TestServedExporters:
    def test_are_collected_to_the_last_sample_after_an_outage_of_one(
        self, database: Database, tmp_path: Path, certificates: ExporterCertificates
    ) -> None:
        simulation = simulated()
        fleet: Fleet | None = None
        application = exporter_app(simulation, tokens=TOKENS, clock=lambda: fleet.clock if fleet else DEFAULT_START)
        with serving(
            application,
            certificate=certificates.server.certificate,
            key=certificates.server.key,
            client_authority=certificates.authority,
        ) as url:
            fleet = Fleet(database, tmp_path, certificates, url)
            assert fleet.collect(1.5).failures == {}
            away = fleet.collect(4)
            assert list(away.failures) == ["us"]
            held = {verdict.guard: verdict.status for verdict in away.verdicts}
            assert held["windows_complete"] == "held"
            by_source = {one.source: one for one in fleet.store.statuses(at(4))}
            assert by_source["us"].delay_seconds is not None
            assert by_source["us"].delay_seconds >= 2.4 * 3600
            assert by_source["sg"].delay_seconds is not None
            assert by_source["sg"].delay_seconds <= 300
            back = fleet.collect(6.25)
            back = fleet.collect(6.5)
            assert back.failures == {}
        found = {row for row in fleet.samples() if row[1] < at(6).replace(tzinfo=None)}
        assert found == truth(simulation, at(6))
        complete = {one.source: (one.complete, one.missing_minutes) for one in back.windows}
        assert complete == {"jp": (6, 0), "us": (6, 0), "sg": (6, 0)}

    def test_take_only_their_own_token(
        self, database: Database, tmp_path: Path, certificates: ExporterCertificates
    ) -> None:
        clock = at(1)
        application = exporter_app(simulated(), tokens=TOKENS, clock=lambda: clock)
        with serving(
            application,
            certificate=certificates.server.certificate,
            key=certificates.server.key,
            client_authority=certificates.authority,
        ) as url:
            fleet = Fleet(database, tmp_path, certificates, url, jp=TOKENS["us"])
            day = fleet.collect(1)
        assert list(day.failures) == ["jp"]
        assert {row[0] for row in fleet.samples()} == {"us", "sg"}
        status = fleet.store.statuses(clock)[0]
        assert (status.last_error_kind, status.completed_until) == ("auth", None)
        assert not any(token in str(status) for token in TOKENS.values())


STATS = b'{"stat":[{"name":"user>>>11111111-1111-1111-1111-111111111111>>>traffic>>>uplink","value":12}]}'


class _Answers:
    """An ASGI application with one answer."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": self.body})


class TestXraysOwnOutputs:
    def source(self, url: str, **fields: Any) -> TrafficSource:
        defaults: dict[str, Any] = {
            "name": "jp",
            "env": "prod",
            "node": "jp",
            "format": "statsquery",
            "token_env": "jp",
        }
        return TrafficSource(base_url=f"{url}/debug", ca_env="EXPORTER_CA", **(defaults | fields))

    @pytest.mark.parametrize(
        ("body", "answer"), [(STATS, 12), (b"{}", 0), (b"xray_up 0\n", None), (b"<html>", "no JSON")]
    )
    def test_are_asked_for_over_the_same_sockets(
        self, certificates: ExporterCertificates, body: bytes, answer: int | str | None
    ) -> None:
        served = serving(_Answers(body), certificate=certificates.server.certificate, key=certificates.server.key)
        output = "prometheus_compassvpn" if body.startswith(b"xray_up") else "statsquery"
        with served as url:
            environ = {**environment(certificates), **TOKENS}
            client = XrayOutputClient(
                self.source(url, format=output), environ, clock=lambda: DEFAULT_START, pause=no_pause
            )
            try:
                if isinstance(answer, str):
                    with pytest.raises(ExporterAnswerError, match=answer):
                        client.latest()
                    return
                found = client.latest()
            finally:
                client.close()
        if answer is None:
            assert found is None
        else:
            assert found is not None
            assert sum(sample.uplink_bytes for sample in found.samples) == answer
