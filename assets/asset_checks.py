"""Show the guards' verdicts, which are rows in PostgreSQL, as asset checks per partition; block where one day is run.

A step per asset reads the verdicts of its run's days and reports each as an evaluation of that very partition. What is
held is held by the stores in any case; a check that blocks only stops the rest of a one-day run, so that it fails and
somebody looks. Not here: judging (billing_pipeline.checks). See docs/adr/0008-ranges-and-verdicts-in-dagster.md.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import dagster as dg
from dagster import AssetCheckEvaluation
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData as Judged,
)

from assets.metadata import MAX_DAYS_WITH_DETAIL
from assets.partitions import DAYS, accepted_dagster_apis
from billing_pipeline.checks import Verdict, VerdictStatus
from resources import guard_store
from resources.database import Database

# What each guard compares, by asset. A store that writes a verdict under another name fails a test.
GUARDS: Mapping[str, Mapping[str, str]] = {
    "core/request_records": {
        "lines_conserved": "Lines read = accepted + rejected + duplicate + out of scope.",
        "rows_published": "Every accepted line is a row of the published generation.",
        "files_taken": "No delivered file was refused or held as a whole.",
    },
    "core/traffic_samples": {
        "windows_complete": "Every window of every exporter was read to the end and has a snapshot for each minute, or was closed.",
        "samples_conserved": "Samples read = kept + duplicate + conflict + rejected.",
        "node_alive": "No live node goes ten minutes without a sample.",
        "no_conflict": "No stream came with two totals for one instant.",
    },
    "core/storage_snapshots": {
        "lines_conserved": "Rows read = accepted + rejected + duplicate + out of scope.",
        "files_taken": "No delivered file was refused or held as a whole.",
        "snapshots_sound": "Every snapshot is whole, matches its checksums and stays within its bounds.",
    },
    "core/object_events": {
        "lines_conserved": "Records read = accepted + rejected + duplicate + out of scope.",
        "files_taken": "No delivered file was refused or held as a whole.",
        "digests_verified": "Where digests are delivered, their chain is whole and every file that they list was read.",
        "sizes_known": "No event that changes a size came without one.",
    },
    "core/visibility_events": {
        "lines_conserved": "Lines read = accepted + rejected + duplicate + out of scope.",
        "files_taken": "No delivered file was refused or held as a whole.",
    },
    "usage/api_requests": {
        "records_conserved": "Records of the day in files = in the lake = billable + not billable + duplicate + in conflict.",
        "no_conflict": "No identity came with two different contents.",
        "hours_delivered": "Every source delivered records for each hour in which it is expected to.",
        "usage_equals_records": "Counting meters sum to the billable records, counted independently.",
    },
    "usage/traffic": {
        "samples_complete": "The day's samples are not held.",
        "samples_conserved": "Samples read = billable + not billable + duplicate + in conflict.",
        "bytes_conserved": "Differences of all streams = their minutes, added up another way.",
        "no_split_brain": "No two writers share one counter.",
        "within_int64": "No stream would come to more bytes of a day than a counter holds.",
        "no_suspected_loss": "No counter began anew without saying what it had counted.",
        "identities_known": "Every identity with traffic belongs to an account.",
    },
    "usage/storage": {
        "deliveries_sound": "No delivery that the day is made of is held.",
        "rows_read": "Every row of the day's deliveries was read.",
        "no_conflict": "No event came with two different contents.",
        "bytes_conserved": "Byte-seconds of the timelines = those of the hours, added up another way.",
        "drift_small": "Snapshots and the events before them agree on sizes.",
        "visibility_agrees": "Snapshots and the events before them agree on visibility.",
        "snapshots_fresh": "No state was carried further than its snapshots may be old.",
        "sizes_known": "No event of unknown size waits for a snapshot.",
        "within_int64": "No repository is held at more bytes than 64 bits hold.",
        "owners_known": "Every private repository's owner belongs to an account.",
    },
    "billing/charges": {
        "charges_equal_usage": "What is booked equals the usage, rated again.",
        "usage_is_rated_once": "Every unit of usage in a billing period is in exactly one charge.",
        "usage_ends_with_its_period": "No usage row crosses the end of a billing period or of a price version.",
        "usage_has_a_subscription": "All usage of the day belongs to a subscription.",
        "changes_are_decided": "No change of a final invoice that passes its threshold waits for a person.",
        "balance_equals_ledger": "Of prepaid accounts: what their minutes took, rounded, is what the ledger says.",
    },
    "billing/ledger": {
        "ledger_balances": "Every transaction sums to zero per currency.",
        "ledger_equals_charges": "Receivables equal what the charges say.",
    },
}

# The check that sums up an asset's guards, day by day. In a long range it is what is reported of a day that passes: each
# evaluation is an event of its own in Dagster's database, and 400 days have 5,200 guards.
ALL_GUARDS = "all_guards"
NOT_JUDGED = "No verdict. For the bill: nothing says that this day is right. To fix: materialize the day."

# Charges and ledger are booked together and judged together, under the charges' name.
JUDGED_AS: Mapping[str, str] = {"billing/ledger": "billing/charges"}


class Verdicts(Protocol):
    """Where verdicts are read."""

    def of(self, asset: str, partition_keys: Sequence[str]) -> tuple[Verdict, ...]:
        """Return every verdict on these partitions."""


@dataclass(frozen=True, slots=True)
class StoredVerdicts:
    """Verdicts in PostgreSQL."""

    database: Database

    def of(self, asset: str, partition_keys: Sequence[str]) -> tuple[Verdict, ...]:
        """Return every verdict on these partitions, by partition and guard."""
        with self.database.reading() as connection:
            return guard_store.verdicts(connection, asset, partition_keys)


def guard_checks() -> tuple[dg.AssetChecksDefinition, ...]:
    """Return the checks, one definition per guarded asset."""
    return tuple(_checks_of(asset, guards) for asset, guards in GUARDS.items())


def _checks_of(asset: str, guards: Mapping[str, str]) -> dg.AssetChecksDefinition:
    key = dg.AssetKey(asset.split("/"))
    says = {ALL_GUARDS: f"None of the guards holds the day: {', '.join(guards)}.", **guards}
    with accepted_dagster_apis():
        specs = {
            name: dg.AssetCheckSpec(name, asset=key, description=text, blocking=True, partitions_def=DAYS)
            for name, text in says.items()
        }

    @dg.multi_asset_check(name=f"guards_of_{key.to_python_identifier()}", specs=list(specs.values()), can_subset=True)
    def guards_of_asset(
        context: dg.AssetCheckExecutionContext, verdicts: dg.ResourceParam[Verdicts]
    ) -> Iterator[AssetCheckEvaluation | dg.Output[None]]:
        partition_keys = context.partition_keys
        by_day: dict[str, dict[str, Verdict | None]] = {day: dict.fromkeys(guards) for day in partition_keys}
        for verdict in verdicts.of(JUDGED_AS.get(asset, asset), partition_keys):
            if verdict.guard in guards:
                by_day[verdict.partition_key][verdict.guard] = verdict
        judged = _materializations(context, key, partition_keys)
        selected = {check.name for check in context.selected_asset_check_keys}
        in_short = len(partition_keys) > MAX_DAYS_WITH_DETAIL and ALL_GUARDS in selected
        for name in (name for name in specs if name in selected):
            for day, found in by_day.items():
                finding = _finding(found[name]) if name != ALL_GUARDS else _summary(found)
                if in_short and name != ALL_GUARDS and finding.passed:
                    continue
                yield AssetCheckEvaluation(
                    asset_key=key,
                    check_name=name,
                    partition=day,
                    passed=finding.passed,
                    severity=finding.severity,
                    description=finding.description,
                    metadata=finding.metadata,
                    blocking=len(partition_keys) == 1,
                    target_materialization_data=judged.get(day),
                )
            yield dg.Output(None, output_name=specs[name].get_python_identifier())

    return guards_of_asset


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finding:
    """What a check says of a day."""

    passed: bool
    severity: dg.AssetCheckSeverity
    description: str
    metadata: Mapping[str, str]


def _finding(verdict: Verdict | None) -> _Finding:
    """Return a verdict as a finding: held is an error and so is a day that nobody judged, a warning warns."""
    status = verdict.status if verdict else None
    metadata = {"verdict": str(status or "none")}
    if verdict:
        metadata |= {"expected": verdict.expected, "actual": verdict.actual, "inputs_digest": verdict.inputs_digest}
    return _Finding(
        passed=status in (VerdictStatus.PASSED, VerdictStatus.RELEASED),
        severity=dg.AssetCheckSeverity.WARN if status is VerdictStatus.WARNED else dg.AssetCheckSeverity.ERROR,
        description=verdict.message if verdict else NOT_JUDGED,
        metadata=metadata,
    )


def _summary(verdicts: Mapping[str, Verdict | None]) -> _Finding:
    """Return the worst that the guards of a day say, with what each of them that did not pass says."""
    findings = {guard: _finding(verdict) for guard, verdict in verdicts.items()}
    others = {guard: finding for guard, finding in findings.items() if not finding.passed}
    is_error = any(finding.severity is dg.AssetCheckSeverity.ERROR for finding in others.values())
    return _Finding(
        passed=not others,
        severity=dg.AssetCheckSeverity.ERROR if is_error else dg.AssetCheckSeverity.WARN,
        description="\n\n".join(f"{guard}: {finding.description}" for guard, finding in others.items())
        or f"All {len(findings)} guards let the day through.",
        metadata={guard: finding.metadata["verdict"] for guard, finding in findings.items()},
    )


def _materializations(
    context: dg.AssetCheckExecutionContext, key: dg.AssetKey, partition_keys: Sequence[str]
) -> Mapping[str, Judged]:
    """Return the newest materialization of each partition: Dagster shows a verdict as current only if it names that one."""
    storage_ids = context.instance.get_latest_storage_id_by_partition(
        key, dg.DagsterEventType.ASSET_MATERIALIZATION, set(partition_keys)
    )
    if not storage_ids:
        return {}
    wanted = dg.AssetRecordsFilter(asset_key=key, storage_ids=list(storage_ids.values()))
    records = context.instance.fetch_materializations(wanted, limit=len(storage_ids)).records
    return {
        record.partition_key: Judged(storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp)
        for record in records
        if record.partition_key is not None
    }
