"""What the storage sources decide about timelines: (sources, what storage.toml says) -> one policy of the installation. Pure.

Not here: what the policy means (billing_pipeline/storage_policy), the files it comes from (storage_config).
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from billing_pipeline.storage_policy import StoragePolicy
from resources.storage_config import SNAPSHOTS, Kind, StorageConfigError, StorageSource, measured_buckets

# A table may be about some repositories; these name all there are in their bucket, so that one that is missing is gone.
_COMPLETE = (Kind.INVENTORY, Kind.LISTING)


def storage_policy(sources: Sequence[StorageSource], said: StoragePolicy | None = None) -> StoragePolicy:
    """Return the policy: what failures do as `said`, the rest by the sources.

    What no snapshot has named yet may wait as long as the source allows that may be oldest.

    Raises:
        StorageConfigError: a table does not say which of several buckets it measures.
    """
    measuring = [source for source in sources if source.dataset == SNAPSHOTS]
    ages = {source.name: timedelta(hours=source.profile.max_snapshot_age_hours) for source in measuring}
    is_divided = len(measured_buckets(sources)) > 1
    for source in measuring:
        if is_divided and source.kind is Kind.TABLE and not source.bucket:
            raise StorageConfigError(
                f"several buckets are measured, and the table source {source.name} does not say which of them its sizes are of",
                bill="no storage is read, so none is billed; a repository holds the sum of its buckets, and would be counted twice",
                fix="name the bucket in `bucket` of this source in storage.toml; a name of its own if it is none of the others",
            )
    policy = replace(
        said or StoragePolicy(),
        complete=frozenset(source.name for source in measuring if source.kind in _COMPLETE),
        indexed=frozenset(source.name for source in measuring if source.kind in _COMPLETE and source.objects),
        snapshot_ages=ages,
        is_divided=is_divided,
        buckets={source.name: source.bucket for source in measuring if is_divided and source.bucket},
        assumed_visibility={
            source.name: source.profile.visibility for source in measuring if source.profile.visibility is not None
        },
    )
    return replace(policy, max_snapshot_age=max(ages.values())) if ages else policy
