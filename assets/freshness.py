"""Tell a person that a day was skipped: nothing failed, and nothing was built. Once for each asset and day.

Dagster's freshness policies know assets, not partitions: a backfill of last year would look fresh. Not here: runs that
failed (alerts), days whose inputs changed (sensors).
"""

from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta

import dagster as dg

from assets.alerts import Alerts
from resources.alerting.notice import Condition, IncidentKind
from resources.build_reader import BuildReader

# A day is built half an hour after its end; a day and an hour later it was skipped.
LATEST = timedelta(hours=25)
DAY = timedelta(days=1)


def skipped_days(newest: Mapping[str, date], *, now: datetime) -> Mapping[str, date]:
    """Return asset -> the first day after its newest one, where that day ended more than 25 hours before `now` (aware)."""
    return {
        asset: day + DAY
        for asset, day in sorted(newest.items())
        if now.astimezone(UTC) > datetime.combine(day + 2 * DAY, time(), UTC) + LATEST
    }


@dg.sensor(
    name="alert_on_skipped_day",
    minimum_interval_seconds=900,
    description="Alerts once for each kind of usage whose next day was not built within 25 hours of its end.",
)
def alert_on_skipped_day(
    context: dg.SensorEvaluationContext, builds: dg.ResourceParam[BuildReader], alerts: dg.ResourceParam[Alerts]
) -> dg.SkipReason:
    """Report what is behind; what was built since is over."""
    now = datetime.now(UTC)
    skipped = skipped_days(builds.newest_days(), now=now)
    conditions = [
        Condition(
            subject=f"{asset} {day}",
            message=f"{asset} has nothing of {day}, more than 25 hours after its end. For the bill: what was used since is in "
            "no charge. To fix: switch the daily schedule and the sensors on, or run billing materialize.",
        )
        for asset, day in skipped.items()
    ]
    alerts.observe(IncidentKind.DAY_SKIPPED, conditions, closing_message="The day is built.", now=now)
    alerts.deliver(now=now)
    return dg.SkipReason(
        f"{len(skipped)} kinds of usage are behind" if skipped else "every kind of usage is up to date"
    )
