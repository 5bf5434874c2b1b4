"""Made-up traffic counters of many exporter nodes, with a known truth: (seed, nodes, users) -> snapshots and bytes.

Integers only, and a function of its arguments: the same seed gives the same snapshots at any time, in any order of
questions, whatever was asked before (a counter is computed from the time, not from the counter before it). Counters
only grow, begin at the user's first byte, and go back to zero when the node restarts. Instants are the node's own clock
(`clock_skew_seconds` ahead of the true one), for what is asked as for what is answered. Not here: serving it
(exporter_sim_server), the rule that makes deltas of it (billing_pipeline/counters).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias
from uuid import NAMESPACE_URL, uuid5

from billing_pipeline.errors import BillingError
from billing_pipeline.periods import Window, as_utc
from resources.exporter_sim_counters import NodeCounters, SimulatedNode, drawn, drawn_nodes, mixed, node_counters

DEFAULT_START = datetime(2026, 4, 8, tzinfo=UTC)
DEFAULT_INBOUNDS = ("tcp-standard", "xhttp-premium")
RETENTION = timedelta(hours=72)
XRAY_VERSION = "26.3.1"

Stream: TypeAlias = tuple[str, str, str, str]
"""env, node, account uuid, inbound tag."""
Bytes: TypeAlias = tuple[int, int]
"""Uplink, downlink."""

_SECOND = timedelta(seconds=1)
# Beyond this many snapshots in a row that nobody has, a restart's neighbours are not searched for.
_LONGEST_SILENCE = 100_000


class SimulationError(BillingError):
    """The simulation was asked for what it cannot be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vanishing:
    """A user (by number) who is taken off one inbound of a node: the counter is gone from `at` on, others stay."""

    node: str
    user: int
    inbound: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedSnapshot:
    """One reading of a node. `samples`: account uuid, inbound tag, uplink and downlink bytes since the node's start."""

    env: str
    node: str
    collected_at: datetime
    stored_at: datetime
    uptime_seconds: int
    samples: tuple[tuple[str, str, int, int], ...]
    emails: Mapping[str, str] = field(repr=False)

    def document(self) -> dict[str, Any]:
        """Return the snapshot as the exporter writes it in JSON, e-mail addresses included."""
        return {
            "collected_at": rfc3339(self.collected_at),
            "node_id": self.node,
            "env": self.env,
            "uptime_seconds": self.uptime_seconds,
            "xray_version": XRAY_VERSION,
            "samples": [
                {
                    "uuid": account_uuid,
                    "email": self.emails[account_uuid],
                    "inbound_tag": inbound,
                    "uplink_bytes_total": uplink,
                    "downlink_bytes_total": downlink,
                }
                for account_uuid, inbound, uplink, downlink in self.samples
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What restarts between two neighbouring snapshots took: `lost` was never shown by any counter.

    `after_restart` is what the first snapshot after them shows: not billed where the policy is `on_reset: baseline`.
    """

    env: str
    node: str
    last_seen_at: datetime
    restarted_at: datetime
    first_seen_at: datetime
    lost: Mapping[Stream, Bytes]
    after_restart: Mapping[Stream, Bytes]


class Simulation:
    """N nodes, M users, and everything that happened to their counters."""

    def __init__(
        self,
        *,
        seed: int,
        nodes: int | Sequence[SimulatedNode] = 3,
        users: int = 100,
        inbounds: Sequence[str] = DEFAULT_INBOUNDS,
        start: datetime = DEFAULT_START,
        days: int = 1,
        interval_seconds: int = 60,
        vanishing: Sequence[Vanishing] | None = None,
        retention: timedelta = RETENTION,
    ) -> None:
        """Set the stage; nodes keep snapshots for `retention`. `nodes` as a number: their mishaps over `days` from `start` are
        drawn from the seed, and user 0 vanishes from the last inbound of the first node half-way, unless `vanishing` says
        otherwise.

        Raises:
            SimulationError: no node, user or inbound, or two nodes of one name and env.
        """
        self.start = as_utc(start).replace(microsecond=0)
        self.nodes = drawn_nodes(seed, nodes, start=self.start, days=days) if isinstance(nodes, int) else tuple(nodes)
        if not self.nodes or users < 1 or not inbounds or interval_seconds < 1:
            raise _impossible("it needs a node, a user, an inbound and a second between snapshots, at least")
        if len({node.name for node in self.nodes}) < len(self.nodes):
            raise _impossible("two nodes have one name")
        if vanishing is None:
            half = self.start + timedelta(hours=12 * days)
            vanishing = (Vanishing(node=self.nodes[0].name, user=0, inbound=sorted(inbounds)[-1], at=half),)
        self.seed = seed
        self.interval_seconds = interval_seconds
        self.retention = retention
        self.accounts = tuple(str(uuid5(NAMESPACE_URL, f"exporter-sim/{seed}/{user}")) for user in range(users))
        self._emails = {account: f"user{user}@example.com" for user, account in enumerate(self.accounts)}
        self._by_name = {node.name: node for node in self.nodes}
        self._counters = {node.name: self._counters_of(node, sorted(inbounds), vanishing) for node in self.nodes}
        self._phases = {node.name: drawn(seed, "phase", node.name)[0] % interval_seconds for node in self.nodes}

    def node(self, name: str) -> SimulatedNode:
        """Return the node of that name.

        Raises:
            SimulationError: there is none.
        """
        try:
            return self._by_name[name]
        except KeyError:
            raise _impossible(f"no node is called {name!r}") from None

    def snapshots(
        self, node: str, since: datetime, until: datetime, *, as_of: datetime | None = None
    ) -> Iterator[SimulatedSnapshot]:
        """Yield the snapshots collected in `[since, until]`, both ends included, in order.

        With `as_of` (true time) only what the node holds then: stored by then, and not older than its retention.
        """
        one = self.node(node)
        oldest = None if as_of is None else as_of - self.retention
        for tick in self._ticks(one, since, until):
            second = self._second(one, tick)
            collected_at = self._collected_at(one, tick)
            late = one.late_every and tick % one.late_every == one.late_every - 1
            stored_at = collected_at + one.late_by if late else collected_at
            skew = one.clock_skew_seconds * _SECOND
            if as_of is not None and oldest is not None and (stored_at - skew > as_of or collected_at - skew <= oldest):
                continue
            snapshot = SimulatedSnapshot(
                env=one.env,
                node=one.name,
                collected_at=collected_at,
                stored_at=stored_at,
                uptime_seconds=second - self._started(one, second),
                samples=self._samples(one, second),
                emails=self._emails,
            )
            yield snapshot
            if one.repeated_every and tick % one.repeated_every == one.repeated_every - 1:
                yield snapshot

    def truth(self, since: datetime, until: datetime) -> dict[Stream, Bytes]:
        """Return the bytes of every stream in `(since, until]`, lost ones included; streams without any are absent.

        With the instants of two snapshots of a node, it is what was there to bill between them.
        """
        moved: dict[Stream, Bytes] = {}
        for node in self.nodes:
            moved |= self._between(node, self._true_second(node, since), self._true_second(node, until))
        return moved

    def losses(
        self, since: datetime, until: datetime, *, unseen: Mapping[str, Sequence[Window]] | None = None
    ) -> tuple[Loss, ...]:
        """Return what restarts took between snapshots in `[since, until]`, by node and time.

        `unseen`: node -> windows (the node's clock) whose snapshots nobody read in time. The truth less everything lost
        is what the counters show; less `after_restart` too, what they show where a restart is a new baseline.
        """
        found = []
        for node in self.nodes:
            hidden = (unseen or {}).get(node.name, ())
            groups: dict[tuple[int, int], int] = {}
            for restart in sorted(self._seconds(node.restarts)):
                around = self._seen_around(node, restart, hidden)
                if around is not None and self._collected_at(node, around[0]) >= since:
                    groups[around] = restart
            found += [
                self._loss(node, before, after, restart)
                for (before, after), restart in groups.items()
                if self._collected_at(node, after) <= until
            ]
        return tuple(found)

    def _loss(self, node: SimulatedNode, before: int, after: int, restart: int) -> Loss:
        return Loss(
            env=node.env,
            node=node.name,
            last_seen_at=self._collected_at(node, before),
            restarted_at=self.start + (restart + node.clock_skew_seconds) * _SECOND,
            first_seen_at=self._collected_at(node, after),
            lost=self._between(node, self._second(node, before), restart),
            after_restart=self._between(node, restart, self._second(node, after)),
        )

    def _between(self, node: SimulatedNode, first: int, last: int) -> dict[Stream, Bytes]:
        counters = self._counters[node.name]
        earlier, later = counters.offered(first), counters.offered(last)
        uplinks, downlinks = (later[0] - earlier[0]).tolist(), (later[1] - earlier[1]).tolist()
        return {
            (node.env, node.name, *name): (uplink, downlink)
            for name, uplink, downlink in zip(counters.names, uplinks, downlinks, strict=True)
            if uplink or downlink
        }

    def _samples(self, node: SimulatedNode, second: int) -> tuple[tuple[str, str, int, int], ...]:
        counters = self._counters[node.name]
        base, now = counters.offered(self._started(node, second)), counters.offered(second)
        uplinks, downlinks = now[0] - base[0], now[1] - base[1]
        shown = (((uplinks > 0) | (downlinks > 0)) & (counters.removed > second)).tolist()
        rows = zip(counters.names, uplinks.tolist(), downlinks.tolist(), shown, strict=True)
        return tuple((*name, uplink, downlink) for name, uplink, downlink, is_shown in rows if is_shown)

    def _started(self, node: SimulatedNode, second: int) -> int:
        """Return when the process that counts at `second` began."""
        return max(start for start in self._seconds((node.booted_at, *node.restarts)) if start <= second)

    def _ticks(self, node: SimulatedNode, since: datetime, until: datetime) -> Iterator[int]:
        first = (self._true_second(node, since) - self._phases[node.name]) // self.interval_seconds
        booted = -((self._phases[node.name] - self._seconds((node.booted_at,))[0]) // self.interval_seconds)
        tick = max(first, booted)
        while (collected_at := self._collected_at(node, tick)) <= until:
            if collected_at >= since and self._is_collected(node, tick):
                yield tick
            tick += 1

    def _is_collected(self, node: SimulatedNode, tick: int) -> bool:
        instant = self.start + self._second(node, tick) * _SECOND
        return instant >= node.booted_at and not any(instant in window for window in node.silent)

    def _seen_around(self, node: SimulatedNode, restart: int, hidden: Sequence[Window]) -> tuple[int, int] | None:
        """Return the ticks of the last snapshot before a restart and of the first from it on, among those seen."""
        after = -((self._phases[node.name] - restart) // self.interval_seconds)

        def seen(ticks: range) -> int | None:
            for tick in ticks:
                if self._is_collected(node, tick) and not any(self._collected_at(node, tick) in one for one in hidden):
                    return tick
            return None

        earlier = seen(range(after - 1, after - _LONGEST_SILENCE, -1))
        later = seen(range(after, after + _LONGEST_SILENCE))
        return None if earlier is None or later is None else (earlier, later)

    def _second(self, node: SimulatedNode, tick: int) -> int:
        return tick * self.interval_seconds + self._phases[node.name]

    def _collected_at(self, node: SimulatedNode, tick: int) -> datetime:
        # A collector's timer never fires on the full second.
        microseconds = mixed(self.seed * 1_000_003 + self._phases[node.name] * 8_191 + tick) % 1_000_000
        second = self._second(node, tick) + node.clock_skew_seconds
        return self.start + timedelta(seconds=second, microseconds=microseconds)

    def _true_second(self, node: SimulatedNode, instant: datetime) -> int:
        return (as_utc(instant) - self.start) // _SECOND - node.clock_skew_seconds

    def _seconds(self, instants: Sequence[datetime]) -> tuple[int, ...]:
        return tuple((instant - self.start) // _SECOND for instant in instants)

    def _counters_of(
        self, node: SimulatedNode, inbounds: Sequence[str], vanishing: Sequence[Vanishing]
    ) -> NodeCounters:
        removed = {
            (self.accounts[one.user], one.inbound): self._seconds((one.at,))[0]
            for one in vanishing
            if one.node == node.name
        }
        return node_counters(
            self.seed,
            node.name,
            accounts=self.accounts,
            inbounds=inbounds,
            booted=self._seconds((node.booted_at,))[0],
            removed=removed,
            interval_seconds=self.interval_seconds,
        )


def rfc3339(instant: datetime) -> str:
    """Return an instant as the contract writes it: UTC, with microseconds where there are any."""
    return as_utc(instant).replace(tzinfo=None).isoformat() + "Z"


def _impossible(problem: str) -> SimulationError:
    return SimulationError(
        f"this simulation cannot be: {problem}", bill="nothing was read or booked", fix="give other arguments"
    )
