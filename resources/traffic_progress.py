"""How far each source has come: core.traffic_sync_state, from its windows and from how reading it went.

`completed_until` never passes an open gap; later windows may be complete all the same. Works inside the caller's transaction,
which holds `source_lock`. Not here: what a window is (traffic_windows), showing it (traffic_reader).
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import psycopg

from resources.traffic_config import TrafficSource
from resources.traffic_windows import Attempt


def write_progress(
    connection: psycopg.Connection, sources: Iterable[TrafficSource], attempts: Mapping[str, Attempt]
) -> None:
    """Move each source's `completed_until` as far as its windows prove, and note how reading it went.

    A failure changes nothing but the attempt and its error.
    """
    for source in sources:
        attempt = attempts.get(source.name)
        is_done = attempt is not None and attempt.unread_from is None and attempt.error is None
        connection.execute(
            """
            insert into core.traffic_sync_state
                (source, completed_until, last_attempted_at, last_succeeded_at, last_error, last_error_kind)
            values (%(source)s, %(completed_until)s, %(attempted_at)s, %(succeeded_at)s, %(error)s, %(error_kind)s)
            on conflict (source) do update set
                completed_until = greatest(traffic_sync_state.completed_until, excluded.completed_until),
                last_attempted_at = coalesce(excluded.last_attempted_at, traffic_sync_state.last_attempted_at),
                last_succeeded_at = coalesce(excluded.last_succeeded_at, traffic_sync_state.last_succeeded_at),
                last_error = case when %(is_attempted)s then excluded.last_error else traffic_sync_state.last_error end,
                last_error_kind = case
                    when %(is_attempted)s then excluded.last_error_kind else traffic_sync_state.last_error_kind
                end
            """,
            {
                "source": source.name,
                "completed_until": _completed_until(connection, source),
                "attempted_at": None if attempt is None else attempt.attempted_at,
                "succeeded_at": attempt.attempted_at if attempt is not None and is_done else None,
                "error": None if attempt is None else attempt.error,
                "error_kind": None if attempt is None else attempt.error_kind,
                "is_attempted": attempt is not None,
            },
        )


def _completed_until(connection: psycopg.Connection, source: TrafficSource) -> datetime | None:
    """Return up to when everything is complete or closed: on from what was proven before, window by window, to the first gap."""
    row = connection.execute(
        """
        select
            (select completed_until from core.traffic_sync_state where source = %(source)s),
            (select min(window_start) from core.traffic_window where source = %(source)s)
        """,
        {"source": source.name},
    ).fetchone()
    reached, first = row or (None, None)
    proven = reached or source.active_from or first
    if proven is None:
        return None
    rows = connection.execute(
        """
        select window_start, window_end, status, covered_until
        from core.traffic_window
        where source = %s and window_end > %s
        order by window_start
        """,
        [source.name, proven],
    )
    for start, end, status, covered_until in rows:
        if start > proven:
            break
        if status not in ("complete", "closed"):
            proven = max(proven, covered_until)
            break
        proven = end
    # A source that has proven nothing yet has no progress, not that of its first day.
    return None if reached is None and proven in (source.active_from, first) else proven.astimezone(UTC)
