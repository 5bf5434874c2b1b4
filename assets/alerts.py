"""Tell people what is wrong, once an incident, and that it is over: failed runs, failed checks of invoices, and whatever
PostgreSQL shows to be wrong.

Dagster's cursor delivers each failure at least once; the tag on the run, and the incident that is open already, make it once.
Incidents and messages are rows (resources/alerting): a tick that is lost, repeated or dies loses none. Not here: what is wrong
with a day (asset checks), skipped days (freshness), ways to people (alert_channels).
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Protocol

import dagster as dg

from assets.invoicing import AGREES, ALL_ACCOUNTS, CHECKED, COMPILED
from assets.invoicing import KEY as INVOICE_ITEMS_KEY
from assets.partitions import days_in_tags
from resources.alerting.conditions import CLOSING
from resources.alerting.desk import Delivered
from resources.alerting.incidents import OpenIncident
from resources.alerting.notice import Condition, IncidentKind

ALERTED_TAG = "billing/alerted_at"
NO_DAYS = "-"
# Checks that only Dagster's own log knows. Guards, drifts and what the sync finds are told of by PostgreSQL's word.
CHECKS_TOLD = tuple(dg.AssetCheckKey(dg.AssetKey(INVOICE_ITEMS_KEY.split("/")), name) for name in (AGREES, COMPILED))
# How far back runs are looked at for one that makes good what failed.
_RUNS_LOOKED_AT = 50


class Alerts(Protocol):
    """Where incidents are reported, and told from."""

    def report(self, kind: IncidentKind, condition: Condition, *, now: datetime) -> bool:
        """Say that something is wrong; again while it lasts: no further message. Returns whether it is new."""

    def over(self, kind: IncidentKind, subject: str, message: str, *, now: datetime) -> bool:
        """Say that something is wrong no more. Returns whether it was."""

    def observe(
        self, kind: IncidentKind, conditions: Iterable[Condition], *, closing_message: str, now: datetime
    ) -> tuple[int, int]:
        """Say all that is wrong of a kind; what is not among it is over. Returns how many began and ended."""

    def open(self, kind: IncidentKind | None = None) -> tuple[OpenIncident, ...]:
        """Return what is wrong now."""

    def deliver(self, *, now: datetime) -> Delivered:
        """Send what is due; what a channel does not take is tried again at a later tick."""


class Conditions(Protocol):
    """What finds out what is wrong."""

    def conditions(self, *, now: datetime) -> Mapping[IncidentKind, tuple[Condition, ...]]:
        """Return everything that is wrong, by kind."""


@dg.run_failure_sensor(
    name="alert_on_failure",
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Opens an incident for a job and its days whose run failed, and marks the run with the time.",
)
def alert_on_failure(context: dg.RunFailureSensorContext, alerts: dg.ResourceParam[Alerts]) -> dg.SkipReason | None:
    """Report the failed run, unless it carries the mark of an earlier report."""
    run = context.dagster_run
    record = context.instance.get_run_by_id(run.run_id)
    if record is not None and ALERTED_TAG in record.tags:
        return dg.SkipReason(f"run {run.run_id} was reported at {record.tags[ALERTED_TAG]}")
    now = datetime.now(UTC)
    steps = sorted(event.step_key or "" for event in context.get_step_failure_events())
    condition = Condition(
        subject=f"{_work(run)} {_days(run.tags)}",
        message=_cause(context),
        evidence={"run_id": run.run_id, "failed_steps": steps},
    )
    alerts.report(IncidentKind.RUN_FAILED, condition, now=now)
    context.instance.add_run_tags(run.run_id, {ALERTED_TAG: now.isoformat(timespec="seconds")})
    alerts.deliver(now=now)
    return None


@dg.sensor(
    name="alert_on_conditions",
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Opens and closes incidents by what PostgreSQL says is wrong, and sends messages that were not taken before.",
)
def alert_on_conditions(
    context: dg.SensorEvaluationContext,
    alerts: dg.ResourceParam[Alerts],
    alert_conditions: dg.ResourceParam[Conditions],
) -> dg.SkipReason:
    """Compare what is wrong with what was told, and deliver."""
    now = datetime.now(UTC)
    opened = closed = 0
    for kind, conditions in alert_conditions.conditions(now=now).items():
        began, ended = alerts.observe(kind, conditions, closing_message=CLOSING[kind], now=now)
        opened, closed = opened + began, closed + ended
    began, ended = _observe_checks(context.instance, alerts, now)
    opened, closed = opened + began, closed + ended
    closed += _close_made_good(context.instance, alerts, now)
    sent = alerts.deliver(now=now)
    told = f"{opened} incidents began, {closed} ended, {sent.sent} messages were sent"
    return dg.SkipReason("; ".join((told, *sent.problems)))


def _observe_checks(instance: dg.DagsterInstance, alerts: Alerts, now: datetime) -> tuple[int, int]:
    """Report the checks whose newest evaluation failed, and return how many began and ended. One that is being evaluated, or
    was for some accounts alone, stays as it was."""
    open_before = {one.subject: one.message for one in alerts.open(IncidentKind.CHECK_FAILED)}
    failed = []
    for key in CHECKS_TOLD:
        record = instance.get_latest_asset_check_evaluation_record(key)
        subject = f"{key.asset_key.to_user_string()} {key.name}"
        if record is None:
            continue
        # Of a run that goes on, or died, the record has only the plan.
        found = record.evaluation if isinstance(record.evaluation, dg.AssetCheckEvaluation) else None
        if found is not None and not found.passed:
            message = found.description or f"{subject} failed"
            failed.append(Condition(subject=subject, message=message, evidence={"run_id": record.run_id}))
        elif subject in open_before and (found is None or not _is_of_all(found)):
            failed.append(Condition(subject=subject, message=open_before[subject]))
    return alerts.observe(
        IncidentKind.CHECK_FAILED, failed, closing_message="A later run found the check passed.", now=now
    )


def _is_of_all(found: dg.AssetCheckEvaluation) -> bool:
    checked = found.metadata.get(CHECKED)
    return checked is None or checked.value == ALL_ACCOUNTS


def _close_made_good(instance: dg.DagsterInstance, alerts: Alerts, now: datetime) -> int:
    """Close the incidents of failed runs whose job has run over the same days since, and return how many."""
    closed = 0
    for incident in alerts.open(IncidentKind.RUN_FAILED):
        work, _, days = incident.subject.partition(" ")
        run_id = _made_good_by(instance, work, days, since=incident.seen_at)
        if run_id is not None:
            closed += alerts.over(IncidentKind.RUN_FAILED, incident.subject, f"Run {run_id} did it.", now=now)
    return closed


def _made_good_by(instance: dg.DagsterInstance, work: str, days: str, *, since: datetime) -> str | None:
    """Return a run of the same job and assets over all of `days` that has ended well after `since`."""
    wanted = _days_in(days)
    job, _, assets = work.partition(":")
    selected = set(assets.split(",")) if assets else set[str]()
    records = instance.get_run_records(
        filters=dg.RunsFilter(job_name=job, statuses=[dg.DagsterRunStatus.SUCCESS]), limit=_RUNS_LOOKED_AT
    )
    for record in records:
        ended = record.end_time
        if ended is None or datetime.fromtimestamp(ended, UTC) <= since:
            continue
        run = record.dagster_run
        done = _assets_of(run)
        covers = not done or (bool(selected) and selected <= done)
        if covers and wanted <= set(days_in_tags(run.tags)):
            return run.run_id
    return None


def _work(run: dg.DagsterRun) -> str:
    """Return what a run does: its job, and the assets where it was launched for some alone (`__ASSET_JOB:invoicing/items`)."""
    assets = sorted(_assets_of(run))
    return f"{run.job_name}:{','.join(assets)}" if assets else run.job_name


def _assets_of(run: dg.DagsterRun) -> set[str]:
    return {key.to_user_string() for key in run.asset_selection or ()}


def _days_in(text: str) -> set[date]:
    if text == NO_DAYS:
        return set()
    first, _, last = text.partition("..")
    begin, end = date.fromisoformat(first), date.fromisoformat(last or first)
    return {begin + timedelta(days=number) for number in range((end - begin).days + 1)}


def _days(tags: Mapping[str, str]) -> str:
    days = days_in_tags(tags)
    if not days:
        return NO_DAYS
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
