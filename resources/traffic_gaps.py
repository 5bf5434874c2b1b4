"""Close a gap: a person accepts that minutes of a source will never be there. Append-only: who, why, when, how many minutes.

The windows are closed from then on, progress and verdicts follow in the same transaction. Not here: opening and filling of
gaps (traffic_windows).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

from billing_pipeline.checks import Verdict
from billing_pipeline.errors import BillingError
from billing_pipeline.periods import as_utc
from resources.database import Database
from resources.traffic_config import TrafficSource
from resources.traffic_guards import judge_day
from resources.traffic_progress import write_progress
from resources.traffic_samples import DATASET
from resources.traffic_windows import horizon, source_lock, windows_in


class NoOpenGapError(BillingError):
    """There is no gap to close, or nobody says who closes it and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GapClosed:
    """What was closed: windows by their start, and the verdicts of their days afterwards."""

    windows: tuple[datetime, ...]
    missing_minutes: int
    verdicts: tuple[Verdict, ...]


def close_gap(
    database: Database,
    sources: Sequence[TrafficSource],
    *,
    source: str,
    window_start: datetime,
    window_end: datetime,
    actor: str,
    reason: str,
    now: datetime,
    run_id: str,
) -> GapClosed:
    """Close every open gap of `source` whose window begins in `[window_start, window_end)` and has ended.

    `sources` are those that are configured; `source` may be one that was once, and left gaps.

    Raises:
        NoOpenGapError: there is none, or actor or reason is empty.
    """
    start, end = as_utc(window_start), as_utc(window_end)
    if not actor.strip() or not reason.strip():
        raise _no_open_gap(source, start, end, "a decision names who took it and why")
    if end <= start:
        raise _no_open_gap(source, start, end, "there is no such stretch of time")
    days = _days(start, end)
    with database.transaction(source_lock(source), *(f"{DATASET}|{day}" for day in days)) as connection:
        states = [
            state
            for state in windows_in(connection, [source], days)
            if start <= state.window_start < end
            and state.is_open_gap
            and state.missing_minutes
            and state.window_end <= horizon(now)
        ]
        if not states:
            raise _no_open_gap(source, start, end, "no window of such a source that has ended misses a minute")
        with connection.cursor() as cursor:
            cursor.executemany(
                """
                insert into core.traffic_gap
                    (source, window_start, window_end, event, missing_minutes, reason, actor, happened_at)
                values (%s, %s, %s, 'closed', %s, %s, %s, %s)
                """,
                [(source, one.window_start, one.window_end, one.missing_minutes, reason, actor, now) for one in states],
            )
            cursor.executemany(
                """
                update core.traffic_window
                set status = 'closed', detail = %s, checked_at = %s
                where source = %s and window_start = %s
                """,
                [(f"closed by {actor}: {reason}", now, source, one.window_start) for one in states],
            )
        write_progress(connection, [one for one in sources if one.name == source], {})
        verdicts = [judge_day(connection, sources, day, now=now, run_id=run_id) for day in days]
    return GapClosed(
        windows=tuple(state.window_start.astimezone(UTC) for state in states),
        missing_minutes=sum(state.missing_minutes for state in states),
        verdicts=tuple(verdict for of_day in verdicts for verdict in of_day),
    )


def _days(start: datetime, end: datetime) -> list[date]:
    first, last = start.date().toordinal(), end.date().toordinal()
    return [date.fromordinal(day) for day in range(first, last + 1)]


def _no_open_gap(source: str, start: datetime, end: datetime, problem: str) -> NoOpenGapError:
    return NoOpenGapError(
        f"no gap of {source} between {start:%Y-%m-%d %H:%M} and {end:%Y-%m-%d %H:%M} UTC was closed: {problem}",
        bill="nothing changed; a day with an open gap keeps its last good usage",
        fix="list the windows with `billing status`, collect the day if it was never read, and give --actor and --reason",
    )
