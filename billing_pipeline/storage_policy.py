"""What an installation decides about storage: how old a snapshot may be, which drift fails, what a failure does. Pure, frozen.

Not here: what a source's keys mean (sources/storage_profile), the checks (storage_checks).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from enum import StrEnum


class OnFailure(StrEnum):
    """What a failed check does to the day."""

    WARN = "warn"
    HOLD = "hold"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoragePolicy:
    """What an installation decides about storage.

    `complete`: snapshot sources whose snapshots name every repository in their bucket, so that one that is missing is gone.
    `indexed`: those whose snapshots list objects. `snapshot_ages`: how far snapshots of each source are carried; a state carried
    further holds the day. `max_snapshot_age`: the same of what no snapshot has named yet, and of sources that are not named.
    `is_divided`: several buckets are measured, and a repository holds the sum of them; else all that is measured is one.
    `buckets`: snapshot source -> bucket that it measures, where its deliveries do not say it. `assumed_visibility`: snapshot
    source -> visibility of its repositories of which nobody has said it. `drift_percent`: of the larger of snapshot and derived
    bytes; more is a failed check.
    """

    complete: frozenset[str] = frozenset()
    indexed: frozenset[str] = frozenset()
    snapshot_ages: Mapping[str, timedelta] = field(default_factory=dict)
    max_snapshot_age: timedelta = timedelta(hours=72)
    is_divided: bool = False
    buckets: Mapping[str, str] = field(default_factory=dict)
    assumed_visibility: Mapping[str, str] = field(default_factory=dict)
    drift_percent: Decimal = Decimal(1)
    on_drift: OnFailure = OnFailure.WARN
    on_visibility_mismatch: OnFailure = OnFailure.WARN

    @property
    def digest(self) -> str:
        """Return the digest of all that it decides: a day that was built under another one is stale."""
        said = [
            sorted(self.complete),
            sorted(self.indexed),
            sorted((source, _microseconds(age)) for source, age in self.snapshot_ages.items()),
            _microseconds(self.max_snapshot_age),
            self.is_divided,
            sorted(self.buckets.items()),
            sorted(self.assumed_visibility.items()),
            str(self.drift_percent.normalize()),
            self.on_drift,
            self.on_visibility_mismatch,
        ]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _microseconds(age: timedelta) -> int:
    return age // timedelta(microseconds=1)
