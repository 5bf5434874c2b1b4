"""The demo's traffic exporters: three made-up nodes, served over HTTPS with client certificates, by the contract of real ones.

One restarts, one stores some snapshots late and gives some twice, one begins on the third day and is out of reach when it is
asked for the first time. The same bytes every time. Not here: what the nodes count (exporter_simulation), what it costs
(catalog/), which variables name them (catalog/traffic.toml, and the same names here).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from billing_pipeline.periods import Window
from resources.asgi_server import serving
from resources.exporter_certificates import LOCAL_NAMES, make_certificates
from resources.exporter_sim_counters import SimulatedNode
from resources.exporter_sim_server import exporter_app
from resources.exporter_simulation import Simulation

START = datetime(2026, 3, 1, tzinfo=UTC)
NEW_NODE_START = datetime(2026, 3, 3, tzinfo=UTC)
RESTARTED_AT = datetime(2026, 3, 2, 10, 17, 30, tzinfo=UTC)
# When the exporters are asked, by their own clock: the third node is away the first time.
FIRST_LOOK, SECOND_LOOK = datetime(2026, 3, 4, 0, 20, tzinfo=UTC), datetime(2026, 3, 4, 6, tzinfo=UTC)
AWAY = Window(datetime(2026, 3, 3, 22, tzinfo=UTC), datetime(2026, 3, 4, 2, tzinfo=UTC))
TOKYO, FRANKFURT, OREGON = "tokyo-1.demo.example", "frankfurt-1.demo.example", "oregon-1.demo.example"
ADDRESS_VARIABLES: Mapping[str, str] = {
    TOKYO: "DEMO_TOKYO_URL",
    FRANKFURT: "DEMO_FRANKFURT_URL",
    OREGON: "DEMO_OREGON_URL",
}

_SEED = 2026
# The last of them is in no catalog.
_USERS = 6


@dataclass(slots=True)
class DemoClock:
    """The exporters' clock, which the demo sets."""

    now: datetime = FIRST_LOOK

    def __call__(self) -> datetime:
        """Return the time."""
        return self.now


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoExporters:
    """Running exporters. `variables`: names and values of the environment variables by which the sources find them."""

    simulation: Simulation
    clock: DemoClock
    variables: Mapping[str, str] = field(repr=False)


def demo_simulation() -> Simulation:
    """Return the nodes, their users and everything that happens to their counters."""
    return Simulation(
        seed=_SEED,
        nodes=(
            SimulatedNode(name=TOKYO, booted_at=START - timedelta(hours=1), restarts=(RESTARTED_AT,)),
            SimulatedNode(name=FRANKFURT, booted_at=START - timedelta(hours=1), late_every=97, repeated_every=53),
            SimulatedNode(name=OREGON, booted_at=NEW_NODE_START, away=(AWAY,)),
        ),
        users=_USERS,
        start=START,
        days=3,
        # Long enough for all of the demo's days, so that nothing is lost.
        retention=timedelta(hours=96),
    )


@contextmanager
def serving_exporters(folder: Path) -> Iterator[DemoExporters]:
    """Serve the nodes on a free port of this machine while the block runs; certificates are made in `folder`.

    Raises:
        CertificateFolderError: the folder cannot be written.
        ServerStartError: nothing can listen.
    """
    certificates = make_certificates(folder, now=datetime.now(UTC), names=LOCAL_NAMES)
    simulation, clock = demo_simulation(), DemoClock()
    with serving(
        exporter_app(simulation, clock=clock),
        certificate=certificates.server.certificate,
        key=certificates.server.key,
        client_authority=certificates.authority,
    ) as address:
        variables = {
            **{variable: f"{address}/{node}" for node, variable in ADDRESS_VARIABLES.items()},
            "DEMO_EXPORTER_CA": str(certificates.authority.resolve()),
            "DEMO_EXPORTER_CERT": str(certificates.client.certificate.resolve()),
            "DEMO_EXPORTER_KEY": str(certificates.client.key.resolve()),
        }
        yield DemoExporters(simulation=simulation, clock=clock, variables=variables)
