"""What Dagster has already launched for which days, so that a sensor asks neither twice nor never again.

A run key is used up for ever, also by a run that failed. So a key here names the days and the last run over them: as long as
that run is on its way nothing is asked, when it has failed the days are asked for again after a wait that grows, and
when its inputs change after it succeeded, that is a new key. PostgreSQL says which days are due; nothing here decides that.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import dagster as dg

from assets.jobs import JOBS_BUILDING
from assets.partitions import contiguous, days_in_tags, partition_tags

DAYS_TAG = "billing/days"
FIRST_WAIT = timedelta(minutes=1)
LONGEST_WAIT = timedelta(hours=1)
# Enough to reach the longest wait.
RUNS_LOOKED_AT = 8

ON_ITS_WAY = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to launch now, and what is left for a later tick with the reason."""

    requests: tuple[dg.RunRequest, ...]
    waiting: tuple[str, ...]


def days_on_their_way(instance: dg.DagsterInstance, asset: str) -> frozenset[date]:
    """Return the days that an unfinished run, whoever launched it, is going to build of `asset`."""
    runs = instance.get_runs(filters=dg.RunsFilter(statuses=list(ON_ITS_WAY)))
    return frozenset(day for run in runs if _builds(run, asset) for day in days_in_tags(run.tags))


def plan_runs(
    instance: dg.DagsterInstance, *, asset: str, job: str, due: Iterable[date], now: datetime, at_most: int
) -> Plan:
    """Return a run of `job` for each range of `due` days that is neither on its way nor waiting after a failure."""
    due_days = set(due)
    on_their_way = days_on_their_way(instance, asset) & due_days
    waiting = [f"{len(on_their_way)} days are in a run that has not ended"] if on_their_way else []
    requests: list[dg.RunRequest] = []
    for first, last in contiguous(due_days - on_their_way):
        if len(requests) == at_most:
            waiting.append("the next tick requests more")
            break
        name = f"{first}..{last}"
        runs = instance.get_run_records(
            filters=dg.RunsFilter(job_name=job, tags={DAYS_TAG: name}), limit=RUNS_LOOKED_AT
        )
        until = _not_before(runs)
        if until is not None and now < until:
            waiting.append(f"{name} failed, again at {until:%H:%M:%S} UTC")
            continue
        last_run = runs[0].dagster_run.run_id if runs else "first"
        requests.append(
            dg.RunRequest(
                run_key=f"{asset}|{name}|{last_run}",
                job_name=job,
                partition_key=first.isoformat() if first == last else None,
                tags={DAYS_TAG: name, **partition_tags(first, last)},
            )
        )
    return Plan(requests=tuple(requests), waiting=tuple(waiting))


def plan_run(instance: dg.DagsterInstance, *, job: str, now: datetime) -> Plan:
    """Return one run of `job`, which has no days, unless one is on its way or the last ones failed not long ago."""
    if instance.get_runs(filters=dg.RunsFilter(job_name=job, statuses=list(ON_ITS_WAY)), limit=1):
        return Plan(requests=(), waiting=("a run has not ended",))
    runs = instance.get_run_records(filters=dg.RunsFilter(job_name=job), limit=RUNS_LOOKED_AT)
    until = _not_before(runs)
    if until is not None and now < until:
        return Plan(requests=(), waiting=(f"the last run failed, again at {until:%H:%M:%S} UTC",))
    last_run = runs[0].dagster_run.run_id if runs else "first"
    return Plan(requests=(dg.RunRequest(run_key=f"{job}|{last_run}", job_name=job),), waiting=())


def _builds(run: dg.DagsterRun, asset: str) -> bool:
    if run.asset_selection is not None:
        return dg.AssetKey(asset.split("/")) in run.asset_selection
    return run.job_name in JOBS_BUILDING[asset]


def _not_before(newest_first: Sequence[dg.RunRecord]) -> datetime | None:
    """Return when days may be asked for again after the failures at the head of their runs; None without one."""
    failures = 0
    for record in newest_first:
        if record.dagster_run.status not in _FAILED:
            break
        failures += 1
    if not failures:
        return None
    newest = newest_first[0]
    ended_at = newest.end_time if newest.end_time is not None else newest.update_timestamp.timestamp()
    return datetime.fromtimestamp(ended_at, UTC) + min(FIRST_WAIT * (1 << (failures - 1)), LONGEST_WAIT)


_FAILED: Collection[dg.DagsterRunStatus] = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
