"""Keep pushed snapshots: a body -> a durable file in the landing folder of its source, before the sender hears that it is kept.

A file holds what `parse_body` has understood, nothing else of the body: no e-mail address. Its name is the digest of its
content, so the same body twice is one file. Needs no database. Not here: HTTP (console/push_endpoint), writing (pushed_files),
reading (traffic_files).
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from billing_pipeline.errors import BillingError
from billing_pipeline.sources.request_lines import pseudonym
from billing_pipeline.sources.traffic_snapshots import (
    Pseudonymise,
    SnapshotRejection,
    TrafficSnapshot,
    encode_body,
    parse_body,
)
from resources.pushed_files import PushedFiles
from resources.traffic_config import SNAPSHOTS, TrafficSource


class PushRefusedError(BillingError):
    """A pushed body of which nothing is kept: a snapshot in it cannot be taken, or is not the sender's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What is kept of a body, `key` below the landing place. `duplicate`: it was there already. `samples`: taken ones."""

    key: str
    snapshots: int
    samples: int
    rejected_samples: int
    duplicate: bool


class TrafficReceiver:
    """Receives for the sources of one installation. Safe to use from several threads."""

    def __init__(
        self,
        landing_url: str,
        sources: Iterable[TrafficSource],
        scratch_dir: Path,
        *,
        pseudonymise: Pseudonymise | None = None,
    ) -> None:
        self._files = PushedFiles(landing_url, scratch_dir)
        self._sources = {source.name: source for source in sources}
        self._pseudonymise = pseudonymise

    def receive(self, source_name: str, body: bytes, *, received_at: datetime) -> Received:
        """Return when what the body says is on durable storage; the same body again changes nothing.

        Raises:
            BodyUnreadableError: it holds no snapshots.
            PushRefusedError: the source is not known or sends another format, or one of the snapshots cannot be taken.
            DiskError, ObjectStoreError: it cannot be kept; the sender sends it again.
        """
        source = self._sources.get(source_name)
        if source is None or source.format != SNAPSHOTS:
            raise _refused(source_name, "traffic.toml names no such source of snapshots")
        snapshots: list[TrafficSnapshot] = []
        for reading in parse_body(body, as_of=received_at, pseudonymise=self._pseudonymise):
            if isinstance(reading, SnapshotRejection):
                problem = f"snapshot {reading.position} is refused: {reading.reason}, field {reading.field}"
                raise _refused(source_name, problem)
            if (reading.env, reading.node) != (source.env, source.node):
                raise _refused(source_name, f"snapshot {len(snapshots) + 1} is of another node or environment")
            snapshots.append(reading)
        content = encode_body(snapshots)
        digest = hashlib.sha256(content).hexdigest()
        key = f"{source.landing_folder}/pushed/{digest[:2]}/{digest}.jsonl"
        return Received(
            key=key,
            snapshots=len(snapshots),
            samples=sum(len(snapshot.samples) for snapshot in snapshots),
            rejected_samples=sum(len(snapshot.rejected) for snapshot in snapshots),
            duplicate=not self._files.keep(key, content, sha256=digest),
        )


def e_mail_pseudonyms(key: bytes) -> Pseudonymise:
    """Return the function that turns an e-mail address into its keyed pseudonym."""
    return lambda address: pseudonym([address], key=key)


def _refused(source: str, problem: str) -> PushRefusedError:
    return PushRefusedError(
        f"a body pushed for source {source} was refused: {problem}",
        bill="nothing of it was kept; counters are cumulative, so the next snapshot that is taken brings its traffic",
        fix="send snapshots of this node, in UTC, from a clock that is right; docs/traffic.md describes them",
    )
