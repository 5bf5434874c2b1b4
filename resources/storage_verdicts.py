"""What a storage scan has counted -> verdicts: which fact goes to which guard. Not here: the guards (storage_checks)."""

from collections.abc import Collection

from billing_pipeline import storage_checks as guards
from billing_pipeline.checks import Subject, Verdict
from billing_pipeline.storage_checks import Disagreement, HeldDelivery, Integrals
from billing_pipeline.storage_policy import StoragePolicy
from resources.storage_facts import StorageFacts
from resources.storage_inputs import ASSET


def judge(
    facts: StorageFacts, *, inputs_digest: str, in_lake: int, held: Collection[HeldDelivery], policy: StoragePolicy
) -> tuple[Verdict, ...]:
    """Return the verdict of every guard over the day.

    `in_lake`: rows of the day that the lake's generations name. `held`: what holds the deliveries that it is made of.
    """
    subject = Subject(asset=ASSET, partition_key=facts.day.isoformat(), inputs_digest=inputs_digest)
    integrals = Integrals(
        of_segments=facts.of_segments,
        of_changes=facts.of_changes,
        of_accounts=facts.of_accounts,
        of_hours=facts.of_hours,
        private_of_accounts=facts.private_of_accounts,
        private_of_hours=facts.private_of_hours,
    )
    drifts = [
        Disagreement(
            repository=one.repository,
            at=one.snapshot_at,
            expected=f"{one.derived_bytes:,}",
            actual=f"{one.snapshot_bytes:,}",
        )
        for one in facts.drifts
    ]
    mismatches = [
        Disagreement(
            repository=one.repository,
            at=one.snapshot_at,
            expected=str(one.derived_visibility),
            actual=str(one.snapshot_visibility),
        )
        for one in facts.mismatches
    ]
    return (
        guards.deliveries_sound(subject, held),
        guards.rows_read(subject, in_lake=in_lake, read=facts.records_read),
        guards.no_conflict(subject, facts.conflicts),
        guards.bytes_conserved(subject, integrals),
        guards.drift_small(subject, policy, failures=facts.drift_failures, worst=drifts),
        guards.visibility_agrees(subject, policy, failures=facts.mismatch_failures, worst=mismatches),
        guards.snapshots_fresh(
            subject,
            policy.snapshot_ages,
            repositories=facts.repositories_carried_too_far,
            some=facts.carried_too_far,
        ),
        guards.within_int64(subject, repositories=facts.repositories_beyond_int64, some=facts.beyond_int64),
        guards.sizes_known(
            subject,
            today=facts.unsized_today,
            waiting=facts.unsized_waiting,
            repositories=facts.repositories_waiting,
        ),
        guards.owners_known(
            subject,
            byte_microseconds=facts.private_of_nobody,
            owners=facts.unknown_owners,
            unknown_visibility=facts.of_unknown_visibility,
        ),
    )
