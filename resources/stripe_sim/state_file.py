"""The stand-in's state in a file, so that a demo's stand-in survives a restart: whole, replaced at once, tied to versions.

A pickle: the file is the stand-in's own, and nobody else's file may be read. Tables are kept as rows, indexes are made anew.
"""

import os
import pickle
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from billing_pipeline.errors import BillingError
from resources.stripe_sim.idempotency import IdempotencyKeys
from resources.stripe_sim.kinds import KINDS, api_version
from resources.stripe_sim.tables import Table
from resources.stripe_sim.world import World

_FORMAT = 1


class StateFileError(BillingError):
    """A state file is of another version, or cannot be read or written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What survives a restart. `requests`: how many there were."""

    world: World
    keys: IdempotencyKeys
    requests: int


def save(path: Path, kept: Kept) -> None:
    """Replace the file by this state.

    Raises:
        StateFileError: the folder cannot be written.
    """
    state = dict(vars(kept.world))
    state["tables"] = {name: list(table.oldest()) for name, table in kept.world.tables.items()}
    content = pickle.dumps(
        {"format": _FORMAT, "api": api_version(), "world": state, "keys": kept.keys, "requests": kept.requests}
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        with os.fdopen(handle, "wb") as target:
            target.write(content)
        Path(name).replace(path)
    except OSError as error:
        raise _unusable(path, f"it cannot be written: {error.strerror}") from error


def load(path: Path) -> Kept:
    """Return the state of a file.

    Raises:
        StateFileError: it cannot be read, or another version wrote it.
    """
    try:
        document: dict[str, Any] = pickle.loads(path.read_bytes())
    except (OSError, pickle.UnpicklingError, AttributeError, EOFError) as error:
        raise _unusable(path, f"it cannot be read: {error}") from error
    if (document.get("format"), document.get("api")) != (_FORMAT, api_version()):
        raise _unusable(path, "another version wrote it")
    state = document["world"]
    world = World(now=state["now"], rules=state["rules"])
    vars(world).update({name: value for name, value in state.items() if name != "tables"})
    world.tables = {name: Table(kind) for name, kind in KINDS.items()}
    for name, rows in state["tables"].items():
        for row in rows:
            world.tables[name].put(row)
    return Kept(world=world, keys=document["keys"], requests=document["requests"])


def _unusable(path: Path, problem: str) -> StateFileError:
    return StateFileError(
        f"the stand-in's state {path} cannot be used: {problem}",
        bill="nothing: the stand-in for Stripe holds no real bill",
        fix="remove the file, or name another one with --state",
    )
