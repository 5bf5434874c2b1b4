"""Show the guards' verdicts, which are rows in PostgreSQL, as asset checks per partition; block where one day is run.

A step per asset reads the verdicts of its run's partitions and reports each as an evaluation of that very partition. What is
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
    "usage/api_requests": {
        "records_conserved": "Records of the day in files = in the lake = billable + not billable + duplicate + in conflict.",
        "no_conflict": "No identity came with two different contents.",
        "hours_delivered": "Every source delivered records for each hour in which it is expected to.",
        "usage_equals_records": "Counting meters sum to the billable records, counted independently.",
    },
    "billing/charges": {
        "charges_equal_usage": "What is booked equals the usage, rated again.",
        "usage_is_rated_once": "Every unit of usage in a billing period is in exactly one charge.",
        "usage_ends_with_its_period": "No usage row crosses the end of a billing period or of a price version.",
        "usage_has_a_subscription": "All usage of the day belongs to a subscription.",
    },
    "billing/ledger": {
        "ledger_balances": "Every transaction sums to zero per currency.",
        "ledger_equals_charges": "Receivables equal what the charges say.",
    },
}

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
    with accepted_dagster_apis():
        specs = {
            guard: dg.AssetCheckSpec(guard, asset=key, description=says, blocking=True, partitions_def=DAYS)
            for guard, says in guards.items()
        }

    @dg.multi_asset_check(name=f"guards_of_{key.to_python_identifier()}", specs=list(specs.values()), can_subset=True)
    def guards_of_asset(
        context: dg.AssetCheckExecutionContext, verdicts: dg.ResourceParam[Verdicts]
    ) -> Iterator[AssetCheckEvaluation | dg.Output[None]]:
        keys = context.partition_keys
        if len(keys) > 1:
            # Dagster opens a connection per event: 17 ms of an evaluation's 20. A range writes thousands.
            context.instance.optimize_for_webserver(statement_timeout=0, pool_recycle=-1, max_overflow=4)
        found = {
            (verdict.guard, verdict.partition_key): verdict
            for verdict in verdicts.of(JUDGED_AS.get(asset, asset), keys)
        }
        judged = _materializations(context, key, keys)
        for guard, spec in specs.items():
            if spec.key not in context.selected_asset_check_keys:
                continue
            for partition_key in keys:
                yield _evaluation(
                    key,
                    guard,
                    partition_key,
                    found.get((guard, partition_key)),
                    judged=judged.get(partition_key),
                    blocking=len(keys) == 1,
                )
            yield dg.Output(None, output_name=spec.get_python_identifier())

    return guards_of_asset


def _evaluation(
    key: dg.AssetKey, guard: str, partition_key: str, verdict: Verdict | None, *, judged: Judged | None, blocking: bool
) -> AssetCheckEvaluation:
    """Return a verdict as Dagster's evaluation of that partition: held is an error, a warning warns, the rest passes."""
    status = verdict.status if verdict else None
    passed = status in (VerdictStatus.PASSED, VerdictStatus.RELEASED)
    metadata: dict[str, str] = {"verdict": str(status or "none")}
    if verdict:
        metadata |= {"expected": verdict.expected, "actual": verdict.actual, "inputs_digest": verdict.inputs_digest}
    return AssetCheckEvaluation(
        asset_key=key,
        check_name=guard,
        partition=partition_key,
        passed=passed,
        severity=dg.AssetCheckSeverity.WARN if status is VerdictStatus.WARNED else dg.AssetCheckSeverity.ERROR,
        blocking=blocking,
        description=verdict.message if verdict else _not_judged(key, partition_key),
        metadata=metadata,
        target_materialization_data=judged,
    )


def _not_judged(key: dg.AssetKey, partition_key: str) -> str:
    return (
        f"No verdict on {key.to_user_string()} {partition_key}. For the bill: nothing says that this day is right. "
        "To fix: materialize the day."
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
