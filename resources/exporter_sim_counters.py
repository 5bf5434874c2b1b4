"""The nodes of the exporter simulator and their counters: (seed, node, account, inbound, second) -> bytes. Pure integers.

A counter is a function of the time, not of the counter before it: rate x busy seconds, and less than a second's bytes on
top. So it only grows, is uneven, and any instant of any day costs the same. Seconds count from the simulation's start.
Not here: snapshots, what restarts and outages make of the counters (exporter_simulation).
"""

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from billing_pipeline.periods import Window

Ints: TypeAlias = NDArray[np.int64]

_SECOND = timedelta(seconds=1)
_DAY_SECONDS = 86_400
_NEVER = 1 << 40
_UPLINK_SALT, _DOWNLINK_SALT = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1B54A32D192ED03)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedNode:
    """One exporter node and its mishaps. Instants are true time, in whole seconds.

    `away`: nobody reaches it, it goes on collecting. `silent`: its exporter collects nothing, its users go on. Every
    `late_every`th snapshot is stored `late_by` after it was collected; every `repeated_every`th is there twice; 0: none.
    """

    name: str
    booted_at: datetime
    env: str = "prod"
    restarts: tuple[datetime, ...] = ()
    away: tuple[Window, ...] = ()
    silent: tuple[Window, ...] = ()
    clock_skew_seconds: int = 0
    late_every: int = 0
    late_by: timedelta = timedelta(minutes=5)
    repeated_every: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCounters:
    """The streams (account uuid, inbound tag) of one node, sorted, and as columns what each counter depends on."""

    names: tuple[tuple[str, str], ...]
    keys: NDArray[np.uint64]
    rates: tuple[Ints, Ints]
    phases: Ints
    cycles: Ints
    active: Ints
    joined: Ints
    left: Ints
    removed: Ints

    def offered(self, second: int) -> tuple[Ints, Ints]:
        """Return the uplink and downlink bytes of every stream from the beginning of time to `second`."""
        present = np.clip(np.minimum(self.left, second) - self.joined, 0, None)
        busy = self._active_seconds(present + self.phases) - self._active_seconds(self.phases)
        ticks = busy.astype(np.uint64)
        return (
            _grown(self.rates[0], busy, _mixed(self.keys ^ (ticks * _UPLINK_SALT))),
            _grown(self.rates[1], busy, _mixed(self.keys ^ (ticks * _DOWNLINK_SALT))),
        )

    def _active_seconds(self, seconds: Ints) -> Ints:
        begun: Ints = np.minimum(seconds % self.cycles, self.active)
        return (seconds // self.cycles) * self.active + begun


def node_counters(
    seed: int,
    node: str,
    *,
    accounts: Sequence[str],
    inbounds: Sequence[str],
    booted: int,
    removed: Mapping[tuple[str, str], int],
    interval_seconds: int,
) -> NodeCounters:
    """Return the counters of a node that started at second `booted`; `removed`: stream -> second from which it is gone.

    The first account is there from the start, on every inbound; one in five of the others comes during the first day.
    """
    streams = [
        (account, inbound, booted + joined)
        for account, used, joined in (_use(seed, node, account, accounts[0], inbounds) for account in sorted(accounts))
        for inbound in used
    ]
    habits = [_habits(seed, node, account, inbound) for account, inbound, _ in streams]
    gone = [removed.get((account, inbound), _NEVER) for account, inbound, _ in streams]
    uplink, downlink, phases, cycles, active = (
        np.array([habit[place] for habit in habits], dtype=np.int64) for place in range(1, 6)
    )
    return NodeCounters(
        names=tuple((account, inbound) for account, inbound, _ in streams),
        keys=np.array([habit[0] for habit in habits], dtype=np.uint64),
        rates=(uplink, downlink),
        phases=phases,
        cycles=cycles,
        active=active,
        joined=np.array([joined for _, _, joined in streams], dtype=np.int64),
        # The last bytes flow early enough to be in a snapshot before the counter is gone.
        left=np.array([second - 2 * interval_seconds for second in gone], dtype=np.int64),
        removed=np.array(gone, dtype=np.int64),
    )


def drawn_nodes(seed: int, count: int, *, start: datetime, days: int) -> tuple[SimulatedNode, ...]:
    """Return `count` nodes whose mishaps over `days` are drawn from the seed: restarts, hours away, skewed clocks.

    All of them started an hour before `start`; the first one restarts every day.
    """
    nodes = []
    for number in range(count):
        choice = random.Random(f"{seed}/{number}")
        mornings = [start + day * timedelta(days=1) for day in range(days)]
        restarts = [
            morning + choice.randrange(3_600, _DAY_SECONDS) * _SECOND
            for morning in mornings
            if number == 0 or choice.randrange(3) == 0
        ]
        away = [morning + choice.randrange(20) * timedelta(hours=1) for morning in mornings if choice.randrange(4) == 0]
        nodes.append(
            SimulatedNode(
                name=f"node-{number + 1}.example",
                # Counters are not at zero when the first snapshot is read.
                booted_at=start - timedelta(hours=1),
                restarts=tuple(restarts),
                away=tuple(Window(begin, begin + timedelta(hours=choice.randrange(1, 4))) for begin in away),
                clock_skew_seconds=choice.choice((0, 0, -20, 45)),
                late_every=choice.choice((0, 97, 211)),
                repeated_every=choice.choice((0, 53, 131)),
            )
        )
    return tuple(nodes)


def drawn(seed: int, *names: str) -> tuple[int, ...]:
    """Return eight numbers below 2^64 that belong to the seed and the names."""
    digest = hashlib.blake2b("|".join((str(seed), *names)).encode(), digest_size=64).digest()
    return tuple(int.from_bytes(digest[place : place + 8]) for place in range(0, 64, 8))


def mixed(number: int) -> int:
    """Return a number below 2^64 that looks like chance."""
    return int(_mixed(np.array([number % (1 << 64)], dtype=np.uint64))[0])


def _use(
    seed: int, node: str, account: str, first_account: str, inbounds: Sequence[str]
) -> tuple[str, tuple[str, ...], int]:
    """Return an account, the inbounds that it uses on the node, and how many seconds after the boot it comes."""
    if account == first_account:
        return account, tuple(inbounds), 0
    chance = drawn(seed, "account", node, account)
    used = (
        inbound
        for place, inbound in enumerate(inbounds)
        if place == chance[1] % len(inbounds) or not chance[2] >> place & 1
    )
    return account, tuple(used), chance[0] // 5 % _DAY_SECONDS if chance[0] % 5 == 0 else 0


def _habits(seed: int, node: str, account: str, inbound: str) -> tuple[int, int, int, int, int, int]:
    """Return a stream's key, bytes a second up and down, and its rhythm: phase, cycle and active part in seconds."""
    chance = drawn(seed, "stream", node, account, inbound)
    cycle = 3_600 * (1 + chance[3] % 24)
    active = 600 + chance[5] % (cycle - 600)
    return chance[0], 20 + chance[1] % 20_000, 100 + chance[2] % 200_000, chance[4] % cycle, cycle, active


def _grown(rates: Ints, busy: Ints, chance: NDArray[np.uint64]) -> Ints:
    """Return rate x busy seconds, and less than one second's bytes on top: uneven, yet never less than before."""
    return np.where(busy > 0, rates * busy + (chance % rates.astype(np.uint64)).astype(np.int64), 0)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the numbers with their bits mixed (the finish of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
