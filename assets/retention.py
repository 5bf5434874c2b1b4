"""Once a week: remove from the lake what nothing names any more, and what killed processes left."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from assets.execution import retried_when_transient
from resources.retention import DEFAULT_KEEP, Retention


class RetentionConfig(dg.Config):
    """`keep_days`: how long a generation stays after it was replaced. Longer than a database backup is kept."""

    keep_days: int = DEFAULT_KEEP.days


@dg.op
def remove_unused_files(
    context: dg.OpExecutionContext, config: RetentionConfig, retention: dg.ResourceParam[Retention]
) -> None:
    """Remove replaced generations, files that PostgreSQL does not know, and leftovers; say how many."""
    with retried_when_transient():
        done = retention.remove_unused(as_of=datetime.now(UTC), keep=timedelta(days=config.keep_days))
    context.add_output_metadata(
        {
            "removed_generations": done.removed_generations,
            "removed_unknown": done.removed_unknown,
            "removed_bytes": done.removed_bytes,
            "leftovers": done.leftovers,
            "kept_files": done.kept_files,
            "kept_bytes": done.kept_bytes,
        }
    )


@dg.job(
    description="Remove replaced generations from the lake and what killed processes left. Never touches PostgreSQL, and "
    "nothing that is billed or can be explained."
)
def remove_unused() -> None:
    """Run the one step."""
    remove_unused_files()


remove_unused_weekly = dg.ScheduleDefinition(
    name="remove_unused_weekly",
    job=remove_unused,
    cron_schedule="15 3 * * 0",
    execution_timezone="UTC",
    description="On Sundays at 03:15 UTC.",
)
