"""Which days have something to collect now: minutes that an exporter may still have, files that wait. Never writes.

Not here: what is read of these days (traffic_windows.stretches_to_read).
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

import psycopg

from resources import delivery_manifest
from resources.traffic_config import TrafficSource
from resources.traffic_manifest import instants_of
from resources.traffic_windows import DAY, day_window, expected_windows, slots_to_read

# The days after an outage that one run takes on, oldest first; today is always among them.
MOST_DUE_DAYS = 31


def due_days(connection: psycopg.Connection, sources: Sequence[TrafficSource], *, now: datetime) -> tuple[date, ...]:
    """Return the days to collect, ascending.

    A minute that the exporter did not have an hour after its window is not asked for by itself again; a person may.
    """
    today = now.astimezone(UTC).date()
    due: set[date] = set()
    if delivery_manifest.pending(connection, [source.name for source in sources]):
        due.add(today)
    for source in sources:
        if source.has_history:
            due |= _with_history(connection, source, now=now)
        elif source.is_pulled and _is_poll_due(connection, source, now=now):
            due.add(today)
    older = sorted(due - {today})[:MOST_DUE_DAYS]
    return tuple(sorted({*older, *(due & {today})}))


def _with_history(connection: psycopg.Connection, source: TrafficSource, *, now: datetime) -> set[date]:
    earliest = now - timedelta(hours=source.retention_hours)
    first = source.active_from or _first_window(connection, source) or day_window(now.date()).start
    done = _done_windows(connection, source, since=earliest - DAY)
    due = set()
    day = max(earliest, first).astimezone(UTC).date()
    while day <= now.date():
        if slots_to_read(connection, source, day, now=now, without=done):
            due.add(day)
        day += DAY
    return due


def _done_windows(connection: psycopg.Connection, source: TrafficSource, *, since: datetime) -> frozenset[datetime]:
    """Return the windows that are settled, or of which the exporter is known to have nothing more."""
    rows = connection.execute(
        """
        select window_start
        from core.traffic_window
        where source = %s
            and window_start >= %s
            and (
                status in ('complete', 'closed')
                or (reason in ('missing_snapshots', 'empty_page') and checked_at >= window_end + interval '1 hour')
            )
        """,
        [source.name, since],
    ).fetchall()
    return frozenset(row[0].astimezone(UTC) for row in rows)


def _first_window(connection: psycopg.Connection, source: TrafficSource) -> datetime | None:
    row = connection.execute(
        "select min(window_start) from core.traffic_window where source = %s", [source.name]
    ).fetchone()
    return None if row is None or row[0] is None else row[0].astimezone(UTC)


def _is_poll_due(connection: psycopg.Connection, source: TrafficSource, *, now: datetime) -> bool:
    """Tell whether a source without history has no snapshot of the present slot."""
    if not expected_windows(source, now.date(), now=now):
        return False
    return not instants_of(connection, env=source.env, node=source.node, start=now - source.slot, end=now + DAY)
