"""Tell a person that a day was skipped: nothing failed, and nothing was built. Once for each asset and day.

Dagster's freshness policies know assets, not partitions: a backfill of last year would look fresh. Not here: runs that
failed (alerts), days whose inputs changed (sensors).
"""

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta

import dagster as dg

from assets.alerts import Alert, Alerts
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
    """Send what is new; the cursor holds the day that each asset was alerted for."""
    told: dict[str, str] = json.loads(context.cursor or "{}")
    skipped = {
        asset: day.isoformat() for asset, day in skipped_days(builds.newest_days(), now=datetime.now(UTC)).items()
    }
    for asset, day in skipped.items():
        if told.get(asset) == day:
            continue
        alerts.send(
            Alert(
                run_id="-",
                job=asset,
                days=day,
                failed_steps=(),
                message=f"{asset} has nothing of {day}, more than 25 hours after its end. For the bill: what was used since is in "
                "no charge. To fix: switch the daily schedule and the sensors on, or run billing materialize.",
            )
        )
        told[asset] = day
        context.update_cursor(json.dumps(told))
    return dg.SkipReason(
        f"{len(skipped)} kinds of usage are behind" if skipped else "every kind of usage is up to date"
    )
