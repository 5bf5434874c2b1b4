"""Read how collecting traffic stands, for people: a row per source, a row per source and day. Never writes.

Not here: what a window is (traffic_windows), verdicts (guard_store), pages (console), plots (assets).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

import psycopg

from resources.traffic_config import TrafficSource
from resources.traffic_windows import WindowState, windows_in


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceStatus:
    """Progress of a source. Everything before `completed_until` is there or closed; None: nothing yet."""

    source: str
    env: str
    node: str
    completed_until: datetime | None
    last_attempted_at: datetime | None
    last_succeeded_at: datetime | None
    last_error: str | None
    last_error_kind: str | None
    open_gaps: int
    missing_minutes: int
    delay_seconds: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDay:
    """A source on a day: its windows by status, the minutes that are missing and not closed. `hours`: status by UTC hour."""

    source: str
    env: str
    node: str
    day: date
    complete: int
    partial: int
    gap: int
    closed: int
    missing_minutes: int
    snapshots: int
    samples: int
    hours: tuple[tuple[int, str], ...]


def source_statuses(
    connection: psycopg.Connection, sources: Sequence[TrafficSource], *, now: datetime
) -> tuple[SourceStatus, ...]:
    """Return a row for each source, in their order, also for one that was never attempted."""
    rows = connection.execute(
        """
        select
            source,
            completed_until,
            last_attempted_at,
            last_succeeded_at,
            last_error,
            last_error_kind
        from core.traffic_sync_state
        where source = any(%s)
        """,
        [[source.name for source in sources]],
    ).fetchall()
    known = {row[0]: row[1:] for row in rows}
    gaps = connection.execute(
        """
        select source, count(*), sum(missing_minutes)
        from core.traffic_window
        where status in ('partial', 'gap') and missing_minutes > 0
        group by source
        """
    ).fetchall()
    open_gaps = {source: (int(count), int(minutes)) for source, count, minutes in gaps}
    statuses = []
    for source in sources:
        completed, attempted, succeeded, error, kind = known.get(source.name, (None,) * 5)
        count, minutes = open_gaps.get(source.name, (0, 0))
        statuses.append(
            SourceStatus(
                source=source.name,
                env=source.env,
                node=source.node,
                completed_until=_utc(completed),
                last_attempted_at=_utc(attempted),
                last_succeeded_at=_utc(succeeded),
                last_error=error,
                last_error_kind=kind,
                open_gaps=count,
                missing_minutes=minutes,
                delay_seconds=None if completed is None else max(0, int((now - completed).total_seconds())),
            )
        )
    return tuple(statuses)


def coverage(
    connection: psycopg.Connection, sources: Sequence[TrafficSource], days: Sequence[date]
) -> tuple[NodeDay, ...]:
    """Return a row for each source and day of which a window was judged, by source in their order, then by day."""
    by_place: dict[tuple[str, date], list[WindowState]] = {}
    for state in windows_in(connection, [source.name for source in sources], days):
        by_place.setdefault((state.source, state.window_start.astimezone(UTC).date()), []).append(state)
    return tuple(
        _node_day(source, day, by_place[source.name, day])
        for source in sources
        for day in sorted(set(days))
        if (source.name, day) in by_place
    )


def _node_day(source: TrafficSource, day: date, states: Sequence[WindowState]) -> NodeDay:
    statuses = [state.status for state in states]
    return NodeDay(
        source=source.name,
        env=source.env,
        node=source.node,
        day=day,
        complete=statuses.count("complete"),
        partial=statuses.count("partial"),
        gap=statuses.count("gap"),
        closed=statuses.count("closed"),
        missing_minutes=sum(state.missing_minutes for state in states if state.is_open_gap),
        snapshots=sum(state.snapshots for state in states),
        samples=sum(state.samples for state in states),
        hours=tuple((state.window_start.astimezone(UTC).hour, state.status) for state in states),
    )


def _utc(instant: datetime | None) -> datetime | None:
    return None if instant is None else instant.astimezone(UTC)
