"""Tell a person that a run failed, once a run.

Dagster's cursor delivers each failure at least once; the tag on the run makes it once. Not here: what is wrong with a day
(asset checks), what to do about it (the error's own text).
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import dagster as dg

from assets.partitions import days_in_tags

ALERTED_TAG = "billing/alerted_at"
LOGGER = logging.getLogger("billing.alerts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One failed run: what failed, over which days, and the error's text."""

    run_id: str
    job: str
    days: str
    failed_steps: tuple[str, ...]
    message: str


class Alerts(Protocol):
    """Where alerts go."""

    def send(self, alert: Alert) -> None:
        """Deliver the alert or raise; a failed delivery is tried again at the sensor's next tick."""


@dataclass(frozen=True, slots=True)
class LogAlerts:
    """Alerts as one line each in the daemon's log."""

    def send(self, alert: Alert) -> None:
        """Log the alert as an error."""
        LOGGER.error(
            "run failed: job=%s days=%s steps=%s run=%s: %s",
            alert.job,
            alert.days,
            ",".join(alert.failed_steps) or "-",
            alert.run_id,
            " ".join(alert.message.split()),
        )


@dg.run_failure_sensor(
    name="alert_on_failure",
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Alerts once for each run that failed and marks the run with the time.",
)
def alert_on_failure(context: dg.RunFailureSensorContext, alerts: dg.ResourceParam[Alerts]) -> dg.SkipReason | None:
    """Send one alert for the failed run, unless it carries the mark of an earlier one."""
    run = context.dagster_run
    record = context.instance.get_run_by_id(run.run_id)
    if record is not None and ALERTED_TAG in record.tags:
        return dg.SkipReason(f"run {run.run_id} was alerted at {record.tags[ALERTED_TAG]}")
    alerts.send(
        Alert(
            run_id=run.run_id,
            job=run.job_name,
            days=_days(run.tags),
            failed_steps=tuple(sorted(event.step_key or "" for event in context.get_step_failure_events())),
            message=_cause(context),
        )
    )
    context.instance.add_run_tags(run.run_id, {ALERTED_TAG: datetime.now(UTC).isoformat(timespec="seconds")})
    return None


def _days(tags: Mapping[str, str]) -> str:
    days = days_in_tags(tags)
    if not days:
        return "-"
    return days[0].isoformat() if len(days) == 1 else f"{days[0]}..{days[-1]}"


def _cause(context: dg.RunFailureSensorContext) -> str:
    """Return the first failed step's own error (what, for the bill, to fix), or else the run's."""
    for event in context.get_step_failure_events():
        error = event.step_failure_data.error
        while error is not None and error.cause is not None:
            error = error.cause
        if error is not None:
            return error.message
    return context.failure_event.message or "the run failed without a message"
