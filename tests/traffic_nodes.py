"""An exporter without a socket: a node with known counters that answers windows by pages, can be away, forget and fail.

`Node.snapshot(minute)` is what it says of a minute since `START`; counters grow by fixed steps, so that every total is known.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from billing_pipeline.sources.traffic_snapshots import SnapshotRejection, TrafficSample, TrafficSnapshot
from resources.exporter_client import WindowPage
from resources.exporter_transport import ExporterError, ExporterErrorKind

START = datetime(2026, 4, 8, tzinfo=UTC)
ALICE = "11111111-1111-1111-1111-111111111111"


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


def sample(
    uplink_bytes: int, downlink_bytes: int = 0, *, account: str = ALICE, inbound: str = "xhttp"
) -> TrafficSample:
    return TrafficSample(
        account_uuid=account, inbound_tag=inbound, uplink_bytes=uplink_bytes, downlink_bytes=downlink_bytes
    )


def snapshot(minute: float, *samples: TrafficSample, node: str = "jp", env: str = "prod") -> TrafficSnapshot:
    return TrafficSnapshot(env=env, node=node, collected_at=START + minutes(minute), samples=samples)


@dataclass(slots=True, kw_only=True)
class Node:
    """What one exporter has. `history` is ascending; `read` counts the snapshots that were handed out."""

    node: str = "jp"
    env: str = "prod"
    history: list[TrafficSnapshot] = field(default_factory=list)
    rejected: tuple[SnapshotRejection, ...] = ()
    page_size: int = 120
    retention: timedelta = timedelta(hours=72)
    failure: ExporterErrorKind | None = None
    fails_after_pages: int = 0
    read: int = 0
    asked: list[tuple[datetime, datetime]] = field(default_factory=list)
    closed: int = 0
    clock: datetime = START

    def lives(self, first: int, last: int, *, step: int = 1) -> "Node":
        """Add a snapshot for each minute in `[first, last)`; two inbounds, of 10 and 1 bytes more each minute."""
        for minute in range(first, last, step):
            self.history.append(
                snapshot(
                    minute,
                    sample(10 * minute, 100 * minute),
                    sample(minute, 0, inbound="tcp"),
                    node=self.node,
                    env=self.env,
                )
            )
        return self

    def latest(self) -> TrafficSnapshot | None:
        self._refuse(0)
        self.read += bool(self.history)
        return self.history[-1] if self.history else None

    def window(self, since: datetime, until: datetime) -> Iterator[WindowPage]:
        self.asked.append((since, until))
        kept_since = max(since, self.clock - self.retention)
        found = [one for one in self.history if kept_since <= one.collected_at <= until]
        pages = [found[start : start + self.page_size] for start in range(0, len(found), self.page_size)] or [[]]
        for number, page in enumerate(pages):
            self._refuse(number)
            self.read += len(page)
            yield WindowPage(
                snapshots=tuple(page),
                rejected=self.rejected if number == 0 else (),
                has_more=number + 1 < len(pages),
            )

    def close(self) -> None:
        self.closed += 1

    def _refuse(self, pages_read: int) -> None:
        if self.failure is not None and pages_read >= self.fails_after_pages:
            raise ExporterError(self.node, self.failure, "it does not answer", fix="look at the node")
