"""The stand-in on a socket: in a thread beside a test, or until Ctrl-C."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from resources.asgi_server import LOCAL_HOST, serve, serving
from resources.stripe_sim.application import StripeSim
from resources.stripe_sim.remote import SimRemote
from resources.stripe_sim.rules import Rules
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


def serve_stripe(application: StripeSim, *, port: int) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Raises:
        ServerStartError: the port is taken.
    """
    serve(application, host=LOCAL_HOST, port=port, own_date=True)
