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

    `complete`: snapshot sources whose snapshots name every repository, so that one that is missing is gone. `max_snapshot_age`:
    a state carried further holds the day. `assumed_visibility`: snapshot source -> visibility of its repositories of which nobody
    has said it. `drift_percent`: of the larger of snapshot and derived bytes; more is a failed check.
    """

    complete: frozenset[str] = frozenset()
    assumed_visibility: Mapping[str, str] = field(default_factory=dict)
    max_snapshot_age: timedelta = timedelta(hours=72)
    drift_percent: Decimal = Decimal(1)
    on_drift: OnFailure = OnFailure.WARN
    on_visibility_mismatch: OnFailure = OnFailure.WARN

    @property
    def digest(self) -> str:
        """Return the digest of all that it decides: a day that was built under another one is stale."""
        said = [
            sorted(self.complete),
            sorted(self.assumed_visibility.items()),
            self.max_snapshot_age // timedelta(microseconds=1),
            str(self.drift_percent.normalize()),
            self.on_drift,
            self.on_visibility_mismatch,
        ]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()
