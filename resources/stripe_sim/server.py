"""The stand-in on a socket: in a thread beside a test, or until Ctrl-C."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from resources.asgi_server import LOCAL_HOST, serve, serving
from resources.stripe_sim import state_file
from resources.stripe_sim.application import StripeSim
from resources.stripe_sim.remote import SimRemote
from resources.stripe_sim.rules import Rules
from resources.stripe_sim.state_file import Kept
from resources.stripe_sim.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningSim:
    """A stand-in that answers. `application` is for looking only, while no request runs; change it through `remote`."""

    url: str
    application: StripeSim
    remote: SimRemote


@contextmanager
def serving_stripe(*, now: datetime, rules: Rules | None = None, api_key: str | None = None) -> Iterator[RunningSim]:
    """Serve a new, empty stand-in in a thread while the block runs, its clock standing at `now`."""
    application = StripeSim(World(now=int(now.timestamp()), rules=rules or Rules()), api_key=api_key)
    with serving(application, own_date=True) as url, SimRemote(url) as remote:
        yield RunningSim(url=url, application=application, remote=remote)


def keeping_application(*, now: datetime, rules: Rules, state: Path | None, speed: float = 0) -> StripeSim:
    """Return a stand-in that goes on where `state` ended, if there is such a file, and keeps itself there.

    The rules are the given ones in any case; `now` is only for a new one.

    Raises:
        StateFileError: the file cannot be used.
    """
    kept = None
    if state is not None and state.exists():
        kept = state_file.load(state)
        kept.world.rules = rules

    def keep(sim: StripeSim) -> None:
        if state is not None:
            state_file.save(state, Kept(world=sim.world, keys=sim.keys, requests=sim.requests))

    world = World(now=int(now.timestamp()), rules=rules) if kept is None else kept.world
    return StripeSim(
        world,
        keys=None if kept is None else kept.keys,
        requests=0 if kept is None else kept.requests,
        keeper=None if state is None else keep,
        speed=speed,
    )


def serve_stripe(application: StripeSim, *, port: int) -> None:
    """Serve until Ctrl-C or SIGTERM, and save the state at the end.

    Raises:
        ServerStartError: the port is taken.
    """
    serve(application, host=LOCAL_HOST, port=port, own_date=True)
    application.save()
