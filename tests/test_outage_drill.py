"""The outage drill: three exporters over real sockets, one away for hours, one restarted twice, one gone beyond its memory.

After the backfill the books are those of a run in which nobody was away. What no exporter remembers is a gap with a name, which
holds its day until a person closes it.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from billing_pipeline.periods import Window
from billing_pipeline.sources.traffic_snapshots import TrafficSnapshot
from resources.asgi_server import serving
from resources.exporter_certificates import ExporterCertificates
from resources.exporter_client import ExporterClient, WindowPage
from resources.exporter_sim_counters import SimulatedNode
from resources.exporter_sim_server import exporter_app
from resources.exporter_simulation import Simulation
from resources.traffic_config import TrafficSource
from resources.traffic_store import DayCollected
from tests.chain import Site, write_catalog
from tests.exporter_fixtures import certificates as certificates
from tests.exporter_fixtures import environment, no_pause
from tests.metered_chain import JUNE_1, JUNE_2, START, MeteredChain, at, catalog_texts
from tests.metered_chain import simulation as of_the_story

DAYS = (JUNE_1, JUNE_2)
TOKENS = {"jp": "token-of-jp", "us": "token-of-us", "sg": "token-of-sg"}
MEMORY_HOURS = 6
FIRST_HOUR, LAST_HOUR = 12, 34
MINUTE = 1 / 60
AWAY = {
    # for three hours, over a midnight
    "jp": Window(start=at(22), end=at(25)),
    # for eight hours, two more than it remembers
    "sg": Window(start=at(18 + 3 * MINUTE), end=at(26)),
}
RESTARTS = (at(16.51), at(27.3))
LOST = Window(start=at(18), end=at(20))


def simulated(away: Mapping[str, Window]) -> Simulation:
    """Return the three nodes; the same counters, whoever is away. The second one restarts twice."""
    simulation = Simulation(
        seed=11,
        users=3,
        start=START,
        vanishing=(),
        retention=timedelta(hours=MEMORY_HOURS),
        nodes=[
            SimulatedNode(
                name=name,
                booted_at=at(-30),
                restarts=RESTARTS if name == "us" else (),
                away=(away[name],) if name in away else (),
            )
            for name in TOKENS
        ],
    )
    # The catalog gives these identities to accounts.
    assert simulation.accounts == of_the_story().accounts
    return simulation


@dataclass(frozen=True, slots=True)
class Recorded:
    """A client that notes what it is asked."""

    client: ExporterClient
    source: str
    asked: list[tuple[str, datetime, datetime]]

    def latest(self) -> TrafficSnapshot | None:
        return self.client.latest()

    def window(self, since: datetime, until: datetime) -> Iterator[WindowPage]:
        self.asked.append((self.source, since, until))
        return self.client.window(since, until)

    def close(self) -> None:
        self.client.close()


@dataclass
class Fleet:
    """An installation whose collector talks to served exporters; `clock` is the time of everybody."""

    chain: MeteredChain
    environ: Mapping[str, str] = field(repr=False)
    clock: datetime = START
    asked: list[tuple[str, datetime, datetime]] = field(default_factory=list)

    @classmethod
    @contextmanager
    def served(cls, site: Site, certificates: ExporterCertificates, simulation: Simulation) -> Iterator["Fleet"]:
        """Serve the simulation, and provide an installation that knows where."""
        fleet: Fleet | None = None
        application = exporter_app(simulation, tokens=TOKENS, clock=lambda: fleet.clock if fleet else START)
        with (
            site.installation() as installation,
            serving(
                application,
                certificate=certificates.server.certificate,
                key=certificates.server.key,
                client_authority=certificates.authority,
            ) as url,
        ):
            fleet = cls(MeteredChain.of(installation), {**environment(certificates), **TOKENS})
            fleet.chain = replace(fleet.chain, sources=tuple(sources_at(url)), clients=fleet.client)
            fleet.chain.load_catalog()
            yield fleet

    def client(self, source: TrafficSource) -> Recorded:
        client = ExporterClient(source, self.environ, clock=lambda: self.clock, pause=no_pause)
        return Recorded(client, source.name, self.asked)

    def collect(self, hour: float, days: Sequence[date]) -> tuple[DayCollected, ...]:
        """Let it be `hour`, and collect days as a run does that somebody has started for them."""
        self.clock = at(hour)
        self.asked.clear()
        return self.chain.traffic_at(self.clock).collect_days(days, now=self.clock, run_id="run", code_version="test")

    def bring_up_to_date(self) -> int:
        """Build what is stale, book what is not booked, and return the number of revisions."""
        self.chain.build_traffic()
        return self.chain.book()

    def windows(self, source: str, *, but: str) -> list[tuple[Any, ...]]:
        """Return (start, status, missing minutes, reason) of a source's windows of another status."""
        return self.chain.rows(
            "select window_start, status, missing_minutes, reason from core.traffic_window"
            " where source = %s and status <> %s order by 1",
            source,
            but,
        )

    def gap_events(self, source: str) -> dict[datetime, list[str]]:
        found: dict[datetime, list[str]] = {}
        for start, event in self.chain.rows(
            "select window_start, event from core.traffic_gap where source = %s order by gap_event_id", source
        ):
            found.setdefault(start, []).append(event)
        return found

    def verdict(
        self, day: date, asset: str = "core/traffic_samples", guard: str = "windows_complete"
    ) -> tuple[str, str]:
        ((status, message),) = self.chain.rows(
            "select status, message from guards.verdict where asset = %s and partition_key = %s and guard = %s",
            asset,
            day.isoformat(),
            guard,
        )
        return status, message

    def completed_until(self, source: str) -> datetime:
        ((instant,),) = self.chain.rows("select completed_until from core.traffic_sync_state where source = %s", source)
        assert isinstance(instant, datetime)
        return instant

    def totals(self) -> Mapping[str, list[tuple[Any, ...]]]:
        """Return what each account has used, was charged and owes."""
        return {name: self.chain.rows(query) for name, query in TOTALS.items()}


TOTALS = {
    "usage": "select account_id, node, sum(quantity) from usage.traffic group by 1, 2 order by 1, 2",
    "charges": """
        select distinct on (charge_id)
            account_id, price_id, group_key, period_start, quantity, exact_amount, amount_minor, currency, lines
        from billing.charge_revision order by charge_id, revision desc
    """,
    "booked": """
        select account_id, price_id, group_key, sum(delta_minor) from billing.charge_revision group by 1, 2, 3 order by 1, 2, 3
    """,
    "ledger": "select ledger_account, currency, sum(amount_minor) from billing.ledger_posting group by 1, 2 order by 1, 2",
    "balances": "select account_id, exact_balance, remaining_included_quota from billing.account_balance_state order by 1",
}


def sources_at(url: str) -> list[TrafficSource]:
    return [
        TrafficSource(
            name=name,
            env="prod",
            node=name,
            base_url=f"{url}/{name}",
            token_env=name,
            ca_env="EXPORTER_CA",
            client_cert_env="EXPORTER_CERT",
            client_key_env="EXPORTER_KEY",
            retention_hours=MEMORY_HOURS,
            active_from=at(FIRST_HOUR),
            active_to=at(LAST_HOUR),
        )
        for name in TOKENS
    ]


def billable(simulation: Simulation) -> list[tuple[str, str, int]]:
    """Return (account, node, bytes) of the known truth, less what the policies do not bill.

    That is what came before a node's first snapshot, after its last one, and what a restart took before it was shown.
    """
    acme, beta, _ = simulation.accounts
    accounts = {acme: "acme", beta: "beta"}
    total: Counter[tuple[str, str]] = Counter()
    for node in TOKENS:
        # A collector also takes what comes half a minute late.
        last = at(LAST_HOUR) + timedelta(seconds=30)
        instants = [one.collected_at for one in simulation.snapshots(node, at(FIRST_HOUR), last)]
        for (_, name, account, _), moved in simulation.truth(instants[0], instants[-1]).items():
            if name == node and account in accounts:
                total[accounts[account], node] += sum(moved)
    for loss in simulation.losses(at(FIRST_HOUR), at(LAST_HOUR)):
        for (_, node, account, _), moved in loss.lost.items():
            if account in accounts:
                total[accounts[account], node] -= sum(moved)
    return [(*key, count) for key, count in sorted(total.items())]


@pytest.fixture
def site(postgres_url: str, template_database: str, tmp_path: Path) -> Site:
    write_catalog(tmp_path / "catalog", **catalog_texts())
    return Site(postgres_url, template_database, tmp_path)


@pytest.fixture
def expected(site: Site, certificates: ExporterCertificates) -> Mapping[str, list[tuple[Any, ...]]]:
    """Return what comes of two days on which everybody answers; it is the known truth."""
    simulation = simulated({})
    with Fleet.served(site, certificates, simulation) as fleet:
        for hour in (17, 22, 27, 32, 35):
            assert all(not day.failures for day in fleet.collect(hour, DAYS))
        fleet.bring_up_to_date()
        assert fleet.verdict(JUNE_1)[0] == fleet.verdict(JUNE_2)[0] == "passed"
        assert fleet.chain.is_up_to_date()
        totals = fleet.totals()
    assert [(account, node, int(count)) for account, node, count in totals["usage"]] == billable(simulation)
    assert len({node for _, node, _ in totals["usage"]}) == len(TOKENS)
    assert [loss.node for loss in simulation.losses(at(FIRST_HOUR), at(LAST_HOUR))] == ["us", "us"]
    return totals


class TestAnOutage:
    def test_ends_in_the_books_of_a_run_without_it(
        self, site: Site, certificates: ExporterCertificates, expected: Mapping[str, list[tuple[Any, ...]]]
    ) -> None:
        with Fleet.served(site, certificates, simulated(AWAY)) as fleet:
            before = begins(fleet)
            lasts(fleet, before)
            missing = is_over(fleet)
            stays_open(fleet, missing, expected)
            is_closed_by_a_person(fleet, missing)
            assert fleet.totals() == expected
            again_changes_nothing(fleet)


def begins(fleet: Fleet) -> list[tuple[Any, ...]]:
    """Collect and build what there is until the first node goes, and while only that one is away; return the good usage."""
    for hour in (15, 18 + 2 * MINUTE):
        fleet.collect(hour, [JUNE_1])
    fleet.bring_up_to_date()
    good = fleet.totals()["usage"]
    assert fleet.verdict(JUNE_1)[0] == "passed"
    (day,) = fleet.collect(21.9, [JUNE_1])
    assert list(day.failures) == ["sg"]
    return good


def lasts(fleet: Fleet, good: Sequence[tuple[Any, ...]]) -> None:
    """Two nodes are away: the day is held with their names, and keeps its last good usage."""
    (day,) = fleet.collect(23, [JUNE_1])
    assert set(day.failures) == {"jp", "sg"}
    status, message = fleet.verdict(JUNE_1)
    assert status == "held"
    assert "sg 2026-06-01 19:00-20:00 60 min (source_failed)" in message
    assert "jp 2026-06-01 22:00-" in message
    fleet.bring_up_to_date()
    assert fleet.totals()["usage"] == good
    assert fleet.chain.rows("select state from usage.build where asset = 'usage/traffic'") == [("held",)]


def is_over(fleet: Fleet) -> int:
    """Select both days: one run asks just for what is not there, and for nothing that nobody remembers.

    Return how many minutes are lost.
    """
    assert all(not day.failures for day in fleet.collect(26, DAYS))
    earliest = {name: min(since for source, since, _ in fleet.asked if source == name) for name in TOKENS}
    assert earliest["us"] >= at(22.9)
    assert at(21.8) <= earliest["jp"] <= at(22)
    assert earliest["sg"] == at(26 - MEMORY_HOURS)
    assert all(start >= AWAY["jp"].end for start, *_ in fleet.windows("jp", but="complete"))
    lost = [row for row in fleet.windows("sg", but="complete") if row[0] < at(25)]
    assert [(start, reason) for start, _, _, reason in lost] == [
        (at(18), "older_than_retention"),
        (at(19), "older_than_retention"),
    ]
    assert lost[1][2] == 60
    missing = sum(minutes for _, _, minutes, _ in lost)
    assert missing == 120 - minutes_read(fleet, "sg", LOST)
    return missing


def minutes_read(fleet: Fleet, node: str, window: Window) -> int:
    ((count,),) = fleet.chain.rows(
        "select count(distinct date_trunc('minute', collected_at)) from core.traffic_snapshot"
        " where node = %s and collected_at >= %s and collected_at < %s",
        node,
        window.start,
        window.end,
    )
    assert isinstance(count, int)
    return count


def stays_open(fleet: Fleet, missing: int, expected: Mapping[str, list[tuple[Any, ...]]]) -> None:
    """Go on to the end of both days: the second is billed, the first is held by the gap, and nothing asks for it again."""
    fleet.collect(31, DAYS)
    fleet.collect(35, DAYS)
    fleet.collect(35, DAYS)
    assert fleet.asked == []
    assert fleet.chain.traffic_at(fleet.clock).due_days(fleet.clock) == ()
    status, message = fleet.verdict(JUNE_1)
    assert status == "held"
    assert f"Snapshots are missing for {missing} minutes in 2 windows: sg 2026-06-01 18:00-19:00" in message
    assert "sg 2026-06-01 19:00-20:00 60 min (older_than_retention)" in message
    assert "close the gap with your name and a reason" in message
    events = fleet.gap_events("sg")
    assert {start for start, found in events.items() if found[-1] == "opened"} == {at(18), at(19)}
    assert {found[-1] for start, found in events.items() if start >= LOST.end} == {"filled"}
    assert {tuple(found) for found in fleet.gap_events("jp").values()} == {("opened", "filled")}
    assert fleet.gap_events("us") == {}
    assert at(18) <= fleet.completed_until("sg") < at(18 + 4 * MINUTE)
    assert fleet.completed_until("jp") == fleet.completed_until("us") == at(LAST_HOUR)
    fleet.bring_up_to_date()
    assert fleet.verdict(JUNE_1, "usage/traffic", "samples_complete")[0] == "held"
    assert fleet.verdict(JUNE_2)[0] == "passed"
    states = dict(fleet.chain.rows("select partition_key, state from usage.build where asset = 'usage/traffic'"))
    assert states == {JUNE_1: "held", JUNE_2: "built"}
    assert fleet.totals()["ledger"] != expected["ledger"]


def is_closed_by_a_person(fleet: Fleet, missing: int) -> None:
    """The person's name and reason stand in the history; the day is built and booked."""
    closed = fleet.chain.traffic_at(fleet.clock).close_gap(
        source="sg",
        window_start=LOST.start,
        window_end=LOST.end,
        actor="ann",
        reason="sg was cut off for eight hours",
        now=fleet.clock,
        run_id="run",
    )
    assert (closed.windows, closed.missing_minutes) == ((at(18), at(19)), missing)
    status, message = fleet.verdict(JUNE_1)
    assert status == "released"
    assert "closed by ann" in message
    assert fleet.completed_until("sg") == at(LAST_HOUR)
    assert fleet.chain.rows("select distinct actor, reason from core.traffic_gap where event = 'closed'") == [
        ("ann", "sg was cut off for eight hours")
    ]
    assert fleet.chain.traffic_usage.stale_days() == (JUNE_1,)
    assert fleet.bring_up_to_date() > 0


def again_changes_nothing(fleet: Fleet) -> None:
    """Every step once more, of all days: nothing is asked, written otherwise or booked."""
    assert fleet.chain.is_up_to_date()
    facts = fleet.chain.facts()
    fleet.collect(35, DAYS)
    assert fleet.asked == []
    fleet.chain.build_traffic(DAYS)
    assert fleet.chain.book(DAYS) == 0
    assert fleet.chain.facts() == facts
