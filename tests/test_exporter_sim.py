"""The exporter simulator: the same seed says the same, and its known truth is what its snapshots show plus what was lost."""

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from billing_pipeline.periods import Window
from billing_pipeline.sources.traffic_snapshots import TrafficSnapshot, parse_snapshot
from console.exporter_sim import FaultUnknownError, read_faults, source_blocks, variables
from resources.exporter_certificates import make_certificates
from resources.exporter_client import ExporterClient
from resources.exporter_sim_counters import SimulatedNode
from resources.exporter_sim_server import Fault
from resources.exporter_simulation import (
    DEFAULT_INBOUNDS,
    DEFAULT_START,
    Loss,
    SimulatedSnapshot,
    Simulation,
    SimulationError,
    Vanishing,
)
from resources.exporter_transport import ExporterUnreachableError
from resources.settings import PROJECT_ROOT
from resources.traffic_config import TrafficSource, load_traffic_sources

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
BOOT = DEFAULT_START - HOUR
NODE = "node-1.example"
Totals = dict[tuple[str, str], tuple[int, int]]


def one_node(**changes: object) -> SimulatedNode:
    """Return a node without mishaps but those given."""
    return replace(SimulatedNode(name=NODE, booted_at=BOOT), **changes)  # type: ignore[arg-type]


def simulated(*nodes: SimulatedNode, users: int = 12, seed: int = 5) -> Simulation:
    """Return a simulation in which nobody vanishes."""
    return Simulation(seed=seed, nodes=nodes or (one_node(),), users=users, vanishing=())


def shown(snapshots: Iterable[SimulatedSnapshot], *, from_zero: bool) -> Totals:
    """Return the bytes that ordered snapshots show: the rule of deltas, with the uptime as witness of a restart."""
    totals: Totals = {}
    before: SimulatedSnapshot | None = None
    last: Totals = {}
    for snapshot in snapshots:
        now = {(account, inbound): (up, down) for account, inbound, up, down in snapshot.samples}
        if before is None:
            last = now
        elif snapshot.collected_at > before.collected_at:
            restarted = snapshot.uptime_seconds < before.uptime_seconds
            for stream, (up, down) in now.items():
                base = (0, 0) if restarted else last.get(stream, (0, 0))
                if not restarted or from_zero:
                    earlier = totals.get(stream, (0, 0))
                    totals[stream] = (earlier[0] + up - base[0], earlier[1] + down - base[1])
            last = now if restarted else last | now
        before = snapshot
    return {stream: moved for stream, moved in totals.items() if moved != (0, 0)}


def of_node(bytes_by_stream: Mapping[tuple[str, str, str, str], tuple[int, int]], node: str = NODE) -> Totals:
    """Return account and inbound -> bytes of one node."""
    return {(stream[2], stream[3]): moved for stream, moved in bytes_by_stream.items() if stream[1] == node}


def less(totals: Totals, *taken: Totals) -> Totals:
    """Return the totals without what was taken."""
    left = dict(totals)
    for one in taken:
        for stream, (up, down) in one.items():
            left[stream] = (left[stream][0] - up, left[stream][1] - down)
    return {stream: moved for stream, moved in left.items() if moved != (0, 0)}


class TestTheSameSeed:
    def test_gives_the_same_snapshots_whatever_was_asked_before(self) -> None:
        first, second = Simulation(seed=7, users=10), Simulation(seed=7, users=10)
        later = list(second.snapshots(NODE, DEFAULT_START + 5 * HOUR, DEFAULT_START + 6 * HOUR))
        whole = list(first.snapshots(NODE, DEFAULT_START, DEFAULT_START + DAY))
        assert [one for one in whole if one.collected_at >= DEFAULT_START + 5 * HOUR][: len(later)] == later
        assert len(later) in (60, 61)

    def test_is_not_another_seed(self) -> None:
        one, other = (
            next(Simulation(seed=seed).snapshots(NODE, DEFAULT_START, DEFAULT_START + HOUR)) for seed in (1, 2)
        )
        assert one.samples != other.samples

    def test_says_at_all_times_what_it_said_first(self) -> None:
        snapshot = next(simulated().snapshots(NODE, DEFAULT_START, DEFAULT_START + HOUR))
        assert snapshot.collected_at.isoformat() == "2026-04-08T00:00:28.418790+00:00"
        assert (len(snapshot.samples), sum(up for _, _, up, _ in snapshot.samples)) == (10, 124_251_979)


class TestCounters:
    def test_only_grow_between_restarts(self) -> None:
        simulation = Simulation(seed=11, users=20)
        for node in simulation.nodes:
            snapshots = list(simulation.snapshots(node.name, DEFAULT_START, DEFAULT_START + DAY))
            for before, after in pairwise(snapshots):
                if after.uptime_seconds >= before.uptime_seconds:
                    earlier = {row[:2]: row[2:] for row in before.samples}
                    assert all(
                        row[2] >= earlier[row[:2]][0] and row[3] >= earlier[row[:2]][1]
                        for row in after.samples
                        if row[:2] in earlier
                    )

    def test_begin_at_zero_again_with_each_restart_and_the_uptime_says_so(self) -> None:
        restart = DEFAULT_START + 2 * HOUR
        simulation = simulated(one_node(restarts=(restart,)))
        before, after = (
            next(simulation.snapshots(NODE, instant, instant + HOUR)) for instant in (restart - MINUTE, restart)
        )
        assert before.uptime_seconds > 3 * 3600 - 60
        assert after.uptime_seconds < 60
        assert sum(row[3] for row in after.samples) < sum(row[3] for row in before.samples)

    def test_of_a_user_who_comes_later_are_absent_until_the_first_byte(self) -> None:
        simulation = simulated(users=60)
        snapshots = list(simulation.snapshots(NODE, DEFAULT_START, DEFAULT_START + DAY))
        first, last = ({row[:2] for row in snapshot.samples} for snapshot in (snapshots[0], snapshots[-1]))
        assert len(last) > len(first)
        assert all(row[2] + row[3] > 0 for snapshot in snapshots for row in snapshot.samples)

    def test_of_a_user_who_vanishes_from_one_inbound_stay_on_the_other(self) -> None:
        gone = Vanishing(node=NODE, user=0, inbound=DEFAULT_INBOUNDS[1], at=DEFAULT_START + 12 * HOUR)
        simulation = Simulation(seed=5, nodes=(one_node(),), users=3, vanishing=(gone,))
        snapshots = list(simulation.snapshots(NODE, DEFAULT_START, DEFAULT_START + DAY))
        inbounds = [{row[1] for row in one.samples if row[0] == simulation.accounts[0]} for one in snapshots]
        assert Counter(map(frozenset, inbounds))[frozenset(DEFAULT_INBOUNDS)] > 400
        assert inbounds[-1] == {DEFAULT_INBOUNDS[0]}
        truth = of_node(simulation.truth(snapshots[0].collected_at, snapshots[-1].collected_at))
        assert shown(snapshots, from_zero=True) == truth


class TestTheTruth:
    @given(seed=st.integers(0, 10_000), begin=st.integers(0, 900), length=st.integers(5, 400))
    @settings(max_examples=25)
    def test_is_what_snapshots_show_plus_what_restarts_took(self, seed: int, begin: int, length: int) -> None:
        simulation = Simulation(seed=seed, nodes=2, users=4, vanishing=())
        since = DEFAULT_START + begin * MINUTE
        for node in simulation.nodes:
            snapshots = list(simulation.snapshots(node.name, since, since + length * MINUTE))
            first, last = snapshots[0].collected_at, snapshots[-1].collected_at
            truth = of_node(simulation.truth(first, last), node.name)
            losses = [one for one in simulation.losses(first, last) if one.node == node.name]
            lost = [of_node(one.lost, node.name) for one in losses]
            after = [of_node(one.after_restart, node.name) for one in losses]
            assert shown(snapshots, from_zero=True) == less(truth, *lost)
            assert shown(snapshots, from_zero=False) == less(truth, *lost, *after)

    def test_adds_up_over_adjacent_windows(self) -> None:
        simulation = Simulation(seed=3, users=10)
        cuts = [DEFAULT_START, DEFAULT_START + 7 * HOUR, DEFAULT_START + DAY]
        parts = [simulation.truth(*pair) for pair in pairwise(cuts)]
        whole = simulation.truth(cuts[0], cuts[-1])
        added = {
            stream: tuple(sum(part.get(stream, (0, 0))[place] for part in parts) for place in (0, 1))
            for stream in whole
        }
        assert added == whole

    def test_names_what_a_restart_takes_in_an_outage_that_nobody_read(self) -> None:
        away = Window(DEFAULT_START + 2 * HOUR, DEFAULT_START + 5 * HOUR)
        restarts = (DEFAULT_START + 3 * HOUR, DEFAULT_START + 4 * HOUR)
        simulation = simulated(one_node(restarts=restarts))
        snapshots = list(simulation.snapshots(NODE, DEFAULT_START, DEFAULT_START + 8 * HOUR))
        first, last = snapshots[0].collected_at, snapshots[-1].collected_at
        (loss,) = simulation.losses(first, last, unseen={NODE: (away,)})
        assert isinstance(loss, Loss)
        assert loss.restarted_at == restarts[1]
        assert away.start - MINUTE <= loss.last_seen_at < away.start
        assert away.end <= loss.first_seen_at <= away.end + MINUTE
        seen = [one for one in snapshots if one.collected_at not in away]
        assert shown(seen, from_zero=True) == less(of_node(simulation.truth(first, last)), of_node(loss.lost))

    def test_goes_on_while_the_exporter_collects_nothing(self) -> None:
        silent = Window(DEFAULT_START + HOUR, DEFAULT_START + 2 * HOUR)
        simulation = simulated(one_node(silent=(silent,)))
        snapshots = list(simulation.snapshots(NODE, DEFAULT_START, DEFAULT_START + 3 * HOUR))
        assert len(snapshots) == 120
        truth = of_node(simulation.truth(snapshots[0].collected_at, snapshots[-1].collected_at))
        assert shown(snapshots, from_zero=True) == truth


class TestWhatANodeHolds:
    def test_is_three_days_at_most(self) -> None:
        simulation = simulated()
        now = DEFAULT_START + 4 * DAY
        held = list(simulation.snapshots(NODE, DEFAULT_START, now, as_of=now))
        assert len(held) == 72 * 60
        assert held[0].collected_at > now - timedelta(hours=72)

    def test_is_as_long_as_the_simulation_says(self) -> None:
        now = DEFAULT_START + 4 * DAY
        simulation = Simulation(seed=1, nodes=1, users=1, retention=4 * DAY)
        node = simulation.nodes[0].name
        assert next(simulation.snapshots(node, DEFAULT_START, now, as_of=now)).collected_at < DEFAULT_START + HOUR

    def test_has_late_snapshots_only_when_they_are_stored(self) -> None:
        simulation = simulated(one_node(late_every=4, late_by=timedelta(minutes=30)))
        now = DEFAULT_START + HOUR
        early = list(simulation.snapshots(NODE, DEFAULT_START, now, as_of=now))
        assert len(early) == 60 - 8
        assert len(list(simulation.snapshots(NODE, DEFAULT_START, now, as_of=now + HOUR))) == 60

    def test_has_repeated_snapshots_twice(self) -> None:
        simulation = simulated(one_node(repeated_every=6))
        held = list(simulation.snapshots(NODE, DEFAULT_START, DEFAULT_START + HOUR))
        assert len(held) == 70
        assert len({one.collected_at for one in held}) == 60

    def test_is_dated_by_its_own_clock(self) -> None:
        right, ahead = simulated(), simulated(one_node(clock_skew_seconds=90))
        snapshots = [next(one.snapshots(NODE, DEFAULT_START, DEFAULT_START + HOUR)) for one in (right, ahead)]
        truths = [one.truth(DEFAULT_START, DEFAULT_START + HOUR) for one in (right, ahead)]
        assert truths[0] != truths[1]
        assert truths[1] == right.truth(
            DEFAULT_START - timedelta(seconds=90), DEFAULT_START + HOUR - timedelta(seconds=90)
        )
        assert (snapshots[1].collected_at - snapshots[0].collected_at) % MINUTE < timedelta(seconds=31)

    def test_reads_as_the_contract_says(self) -> None:
        snapshot = next(simulated().snapshots(NODE, DEFAULT_START, DEFAULT_START + HOUR))
        document = snapshot.document()
        assert all(sample["email"].endswith("@example.com") for sample in document["samples"])
        parsed = parse_snapshot(document, as_of=DEFAULT_START + DAY)
        assert isinstance(parsed, TrafficSnapshot)
        assert parsed.rejected == ()
        assert (parsed.collected_at, parsed.uptime_seconds) == (snapshot.collected_at, snapshot.uptime_seconds)
        assert [
            (one.account_uuid, one.inbound_tag, one.uplink_bytes, one.downlink_bytes) for one in parsed.samples
        ] == list(snapshot.samples)

    def test_is_a_day_of_three_nodes_with_a_hundred_users(self) -> None:
        simulation = Simulation(seed=7, nodes=3, users=100)
        held = [
            one
            for node in simulation.nodes
            for one in simulation.snapshots(node.name, DEFAULT_START, DEFAULT_START + DAY)
        ]
        assert len({(one.node, one.collected_at) for one in held}) == 3 * 1440
        assert sum(len(one.samples) for one in held) > 3 * 1440 * 100


class TestWhatCannotBe:
    @pytest.mark.parametrize(
        "arguments",
        [{"nodes": ()}, {"users": 0}, {"inbounds": ()}, {"interval_seconds": 0}, {"nodes": (one_node(), one_node())}],
    )
    def test_is_refused(self, arguments: dict[str, object]) -> None:
        with pytest.raises(SimulationError):
            Simulation(seed=1, **arguments)  # type: ignore[arg-type]

    def test_is_a_node_without_a_name_that_is_known(self) -> None:
        with pytest.raises(SimulationError):
            simulated().node("elsewhere")


class TestCertificates:
    def test_have_keys_that_only_their_owner_reads(self, tmp_path: Path) -> None:
        now = datetime.now(UTC)
        made = make_certificates(tmp_path / "made", now=now)
        # Over those of an earlier start.
        made = make_certificates(tmp_path / "made", now=now)
        keys = sorted((tmp_path / "made").glob("*.key"))
        assert len(keys) == 6
        assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}
        authority, server, expired = (
            x509.load_pem_x509_certificate(path.read_bytes())
            for path in (made.authority, made.server.certificate, made.expired.certificate)
        )
        server.verify_directly_issued_by(authority)
        assert expired.not_valid_after_utc < now < server.not_valid_after_utc


class TestTheCommand:
    def test_prints_sources_that_an_installation_reads(self, tmp_path: Path) -> None:
        simulation = Simulation(seed=1, nodes=3, users=2)
        (tmp_path / "traffic.toml").write_text(source_blocks(simulation, "https://127.0.0.1:9443", bearer_only=False))
        sources = load_traffic_sources(tmp_path)
        assert [source.node for source in sources] == [node.name for node in simulation.nodes]
        assert [source.token_env for source in sources] == [f"EXPORTER_SIM_TOKEN_{place}" for place in (1, 2, 3)]
        assert {source.client_cert_env for source in sources} == {"EXPORTER_SIM_CERT"}
        made = make_certificates(tmp_path / "made", now=datetime.now(UTC))
        lines = variables(simulation, tmp_path / "made", made, bearer_only=False)
        named = {line.split("=")[0].removeprefix("export ") for line in lines.splitlines() if line.startswith("export")}
        assert named == {name for source in sources for name in (source.token_env, source.ca_env)} | {
            "EXPORTER_SIM_CERT",
            "EXPORTER_SIM_KEY",
        }

    def test_serves_what_it_prints_until_ctrl_c(self, tmp_path: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        call = f"run_exporter_sim(seed=4, nodes=2, users=3, port={port}, folder=Path('made'), bearer_only=False)"
        code = f"from pathlib import Path; from console.exporter_sim import run_exporter_sim; {call}"
        with subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as child:
            try:
                text = _printed_by(child)
                (tmp_path / "traffic.toml").write_text(text.partition("# For the shell")[0])
                environ = _set_by(text.partition("# For the shell that runs billing")[2])
                latest = [_latest(source, environ) for source in load_traffic_sources(tmp_path)]
                child.send_signal(signal.SIGINT)
                assert child.wait(60) == 0
            finally:
                child.kill()
        assert [one.node for one in latest if one is not None] == ["node-1.example", "node-2.example"]
        assert not any(token in text for name, token in environ.items() if "TOKEN" in name)

    def test_switches_faults_on_by_node_and_name(self) -> None:
        simulation = Simulation(seed=1, nodes=3, users=2)
        faults = read_faults(simulation, ["2=html"])
        assert [faults.take(node.name) for node in simulation.nodes] == [None, Fault.HTML, None]

    @pytest.mark.parametrize("text", ["2", "4=html", "0=html", "1=nonsense", "html"])
    def test_refuses_what_is_no_fault(self, text: str) -> None:
        with pytest.raises(FaultUnknownError):
            read_faults(Simulation(seed=1, nodes=3, users=2), [text])


def _printed_by(child: subprocess.Popen[str]) -> str:
    """Return what the simulator prints before it listens."""
    assert child.stdout is not None
    assert child.stderr is not None
    lines = [child.stdout.readline()]
    while lines[-1] and not lines[-1].startswith("export EXPORTER_SIM_TOKEN_2"):
        lines.append(child.stdout.readline())
    assert "2 exporters with 3 users" in child.stderr.readline()
    return "".join(lines)


def _set_by(shell: str) -> Mapping[str, str]:
    """Return the variables that lines of a shell set."""
    printed = subprocess.check_output(["sh", "-c", f"{shell}\nenv -0"], text=True)
    return dict(line.split("=", 1) for line in printed.split("\0") if line.startswith("EXPORTER_SIM"))


def _latest(source: TrafficSource, environ: Mapping[str, str]) -> TrafficSnapshot | None:
    """Return the newest snapshot of a server that may need a moment to listen."""
    for _ in range(600):
        with ExporterClient(source, environ) as client:
            try:
                return client.latest()
            except ExporterUnreachableError:
                time.sleep(0.05)
    raise AssertionError("the simulator does not answer")
