"""Rows of `usage.build`: what a partition of a usage asset was built from and where its records went. Statements only.

Works inside the caller's transaction, with the rows and verdicts of the partition. Not here: judging (checks).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import psycopg

from billing_pipeline.checks import Outcomes


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageBuild:
    """A build of one partition. `state`: `built` or `held`. `generations` are lake files, each with its `uri`."""

    asset: str
    day: date
    state: str
    inputs_digest: str
    rules_digest: str
    generations: Sequence[Mapping[str, object]]
    outcomes: Outcomes
    usage_rows: int


def write_builds(
    connection: psycopg.Connection, builds: Sequence[UsageBuild], *, code_version: str, run_id: str
) -> None:
    """Write builds over earlier ones of the same partitions."""
    with connection.cursor() as cursor:
        cursor.executemany(
            """
            insert into usage.build (
                asset, partition_key, state, inputs_digest, rules_digest, generations, records_read, billable_records,
                not_billable_records, duplicate_records, conflict_records, usage_rows, code_version, run_id
            )
            values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            on conflict (asset, partition_key) do update set
                state = excluded.state,
                inputs_digest = excluded.inputs_digest,
                rules_digest = excluded.rules_digest,
                generations = excluded.generations,
                records_read = excluded.records_read,
                billable_records = excluded.billable_records,
                not_billable_records = excluded.not_billable_records,
                duplicate_records = excluded.duplicate_records,
                conflict_records = excluded.conflict_records,
                usage_rows = excluded.usage_rows,
                code_version = excluded.code_version,
                run_id = excluded.run_id,
                built_at = now()
            """,
            [
                (
                    one.asset,
                    one.day,
                    one.state,
                    one.inputs_digest,
                    one.rules_digest,
                    json.dumps(list(one.generations)),
                    one.outcomes.read,
                    one.outcomes.billable,
                    one.outcomes.not_billable,
                    one.outcomes.duplicate,
                    one.outcomes.conflict,
                    one.usage_rows,
                    code_version,
                    run_id,
                )
                for one in builds
            ],
        )
