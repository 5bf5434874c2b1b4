"""What the storage sources decide about timelines: (sources, what storage.toml says) -> one policy of the installation. Pure.

Not here: what the policy means (billing_pipeline/storage_policy), the files it comes from (storage_config).
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from billing_pipeline.storage_policy import StoragePolicy
from resources.storage_config import SNAPSHOTS, Kind, StorageSource

# A table may be about some repositories; these name all there are, so that one that is missing is gone.
_COMPLETE = (Kind.INVENTORY, Kind.LISTING)


def storage_policy(sources: Sequence[StorageSource], said: StoragePolicy | None = None) -> StoragePolicy:
    """Return the policy: what failures do as `said`, the rest by the sources.

    Of several snapshot sources the one that may be oldest says when a day without one is held.
    """
    ages = [source.profile.max_snapshot_age_hours for source in sources if source.dataset == SNAPSHOTS]
    policy = replace(
        said or StoragePolicy(),
        complete=frozenset(source.name for source in sources if source.kind in _COMPLETE),
        assumed_visibility={
            source.name: source.profile.visibility
            for source in sources
            if source.dataset == SNAPSHOTS and source.profile.visibility is not None
        },
    )
    return replace(policy, max_snapshot_age=timedelta(hours=max(ages))) if ages else policy
