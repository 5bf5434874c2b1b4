"""Windows of UTC hours in PostgreSQL: what is complete, what is missing, what to read.

core.traffic_window follows from core.traffic_snapshot and from how far a source was read in this run; core.traffic_gap is its
history. What writes works inside the caller's transaction, which holds `source_lock`. Not here: the rule of coverage
(traffic_coverage), how far a source has come (traffic_progress), guards (traffic_guards), reading (traffic_pull).
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import astuple, dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta

import psycopg
from psycopg.rows import class_row

from billing_pipeline.traffic_coverage import MINUTE, Window, floored, missing_slots, ranges_of, windows_of
from resources.traffic_config import TrafficSource
from resources.traffic_manifest import instants_of

DAY = timedelta(days=1)
# Without `active_from` a day is expected whole once it is collected.
_ALWAYS = datetime(1995, 1, 1, tzinfo=UTC)
_COLLECTOR = "billing_pipeline"
_NOT_READ = "not_read"
_NOT_READ_TO_END = "not_read_to_end"
# Messages of exporters are bounded before they are kept.
_LONGEST_DETAIL = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowState:
    """A row of core.traffic_window. Nothing is missing before `covered_until`."""

    source: str
    window_start: datetime
    window_end: datetime
    status: str
    missing_minutes: int
    snapshots: int
    samples: int
    covered_until: datetime
    reason: str | None
    detail: str | None

    @property
    def is_settled(self) -> bool:
        """Tell whether the window needs no reading any more."""
        return self.status in ("complete", "closed")

    @property
    def is_open_gap(self) -> bool:
        """Tell whether minutes are missing that nobody has closed."""
        return not self.is_settled and (self.missing_minutes > 0 or self.reason == _NOT_READ_TO_END)


@dataclass(slots=True, kw_only=True)
class Attempt:
    """How a run got on with one source. `read_to_end`: stretches; `unread_from`: where reading broke off."""

    source: str
    attempted_at: datetime
    read_to_end: list[Window] = field(default_factory=list)
    unread_from: datetime | None = None
    error: str | None = None
    error_kind: str | None = None
    snapshots_read: int = 0
    windows_read: int = 0

    def fail(self, error: str, kind: str, *, unread_from: datetime | None) -> None:
        """Note that reading broke off."""
        self.error, self.error_kind, self.unread_from = error[:_LONGEST_DETAIL], kind, unread_from

    def has_read(self, start: datetime, end: datetime) -> bool:
        """Tell whether one stretch that was read to its end holds all of `[start, end)`."""
        return any(read.start <= start and end <= read.end for read in self.read_to_end)


def source_lock(source: str) -> str:
    """Return the name of the lock under which a source's windows and progress change."""
    return f"core/traffic_window|{source}"


def horizon(now: datetime) -> datetime:
    """Return up to when snapshots are due: the last whole minute but one."""
    return floored(now, MINUTE) - MINUTE


def day_window(day: date) -> Window:
    """Return the UTC day."""
    start = datetime.combine(day, time(), UTC)
    return Window(start=start, end=start + DAY)


def expected_windows(source: TrafficSource, day: date, *, now: datetime) -> tuple[Window, ...]:
    """Return the windows of the day in which snapshots of `source` are due by now, the last one perhaps in progress."""
    whole = day_window(day)
    start = max(whole.start, source.active_from or _ALWAYS)
    end = min(whole.end, source.active_to or whole.end)
    return tuple(window for window in windows_of(start, end) if window.start + source.slot <= horizon(now))


def windows_in(
    connection: psycopg.Connection, sources: Iterable[str] | None, days: Sequence[date]
) -> tuple[WindowState, ...]:
    """Return the rows of the windows on these days of the sources of these names, by source and time; None: of every source
    there ever was.
    """
    if not days:
        return ()
    with connection.cursor(row_factory=class_row(WindowState)) as cursor:
        rows = cursor.execute(
            """
            select source, window_start, window_end, status, missing_minutes, snapshots, samples, covered_until, reason,
                detail
            from core.traffic_window
            where (%(sources)s::text[] is null or source = any(%(sources)s))
                and window_start >= %(start)s
                and window_start < %(end)s
                and (window_start at time zone 'UTC')::date = any(%(days)s)
            order by source, window_start
            """,
            {
                "sources": None if sources is None else list(sources),
                "start": day_window(min(days)).start,
                "end": day_window(max(days)).end,
                "days": list(days),
            },
        ).fetchall()
    return tuple(rows)


def stretches_to_read(
    connection: psycopg.Connection, source: TrafficSource, day: date, *, now: datetime
) -> tuple[Window, ...]:
    """Return the fewest stretches of the day to ask the exporter for, overlap included, so that windows become complete."""
    wanted = slots_to_read(connection, source, day, now=now)
    earliest = max(source.active_from or _ALWAYS, now - timedelta(hours=source.retention_hours))
    last = min(now, day_window(day).end - timedelta(microseconds=1))
    # An exporter that drifts gives a minute's snapshot a moment after it.
    stretches = (
        Window(start=max(stretch.start, earliest), end=min(stretch.end + source.slot / 2, last))
        for stretch in ranges_of(wanted, slot=source.slot, overlap=timedelta(seconds=source.overlap_seconds))
    )
    # Of a window that is half forgotten, what is missing may be in the forgotten half.
    return tuple(stretch for stretch in stretches if stretch.start < stretch.end)


def slots_to_read(
    connection: psycopg.Connection,
    source: TrafficSource,
    day: date,
    *,
    now: datetime,
    without: Collection[datetime] = frozenset(),
) -> list[datetime]:
    """Return the starts of the slots of the day that are missing, or were not read to their end, ascending.

    Windows that are complete, closed, older than the exporter remembers, or begin at one of `without` are left out.
    """
    known = {state.window_start: state for state in windows_in(connection, [source.name], [day])}
    instants = [instant for instant, _ in snapshots_around(connection, source, day)]
    wanted: list[datetime] = []
    for window in expected_windows(source, day, now=now):
        state = known.get(window.start)
        is_settled = state is not None and state.is_settled
        if is_settled or window.start in without or is_forgotten(source, window, now):
            continue
        elapsed = Window(start=window.start, end=min(window.end, horizon(now)))
        missing = set(missing_slots(instants, elapsed, source.slot))
        if state is not None and state.reason == _NOT_READ_TO_END:
            missing.add(max(floored(state.covered_until, source.slot), window.start))
        wanted += sorted(missing)
    return wanted


def is_forgotten(source: TrafficSource, window: Window, now: datetime) -> bool:
    """Tell whether the exporter cannot have snapshots of the window any more."""
    return source.has_history and window.end <= now - timedelta(hours=source.retention_hours)


def judge_windows(
    connection: psycopg.Connection, source: TrafficSource, day: date, *, now: datetime, attempt: Attempt | None
) -> None:
    """Write what the snapshots that are known prove about every window of the day that has begun, and new gap events."""
    known = {state.window_start: state for state in windows_in(connection, [source.name], [day])}
    snapshots = snapshots_around(connection, source, day)
    instants = [instant for instant, _ in snapshots]
    states = []
    for window in expected_windows(source, day, now=now):
        counts = [samples for instant, samples in snapshots if window.start <= instant < window.end]
        elapsed = Window(start=window.start, end=min(window.end, horizon(now)))
        missing = missing_slots(instants, elapsed, source.slot)
        state = WindowState(
            source=source.name,
            window_start=window.start,
            window_end=window.end,
            status="",
            missing_minutes=len(missing) * int(source.slot / MINUTE),
            snapshots=len(counts),
            samples=sum(counts),
            covered_until=missing[0] if missing else elapsed.end,
            reason=None,
            detail=None,
        )
        states.append(_judged(state, source, now=now, before=known.get(window.start), attempt=attempt))
    _write_windows(connection, states, checked_at=now)
    _write_gap_events(connection, source, states, now=now)


def _judged(
    state: WindowState, source: TrafficSource, *, now: datetime, before: WindowState | None, attempt: Attempt | None
) -> WindowState:
    window = Window(start=state.window_start, end=state.window_end)
    is_lost = is_forgotten(source, window, now)
    if state.missing_minutes == 0:
        unread_from = None if is_lost else _unread_from(state, source, now=now, before=before, attempt=attempt)
        if unread_from is not None:
            return replace(state, status="partial", reason=_NOT_READ_TO_END, covered_until=unread_from)
        if state.window_end > horizon(now):
            return replace(state, status="partial", reason="in_progress")
        return replace(state, status="complete")
    if before is not None and before.status == "closed":
        return replace(state, status="closed", reason=before.reason, detail=before.detail)
    if is_lost:
        detail = f"the exporter keeps {source.retention_hours} hours, so these minutes cannot be read from it any more"
        return replace(state, status="gap", reason="older_than_retention", detail=detail)
    cause, explained = _cause(state, source, before=before, attempt=attempt)
    return replace(state, status="partial" if state.snapshots else "gap", reason=cause, detail=explained)


def _unread_from(
    state: WindowState, source: TrafficSource, *, now: datetime, before: WindowState | None, attempt: Attempt | None
) -> datetime | None:
    """Return where reading broke off inside a window of which every minute has a snapshot; None: it was read to its end."""
    if before is not None and before.status == "complete":
        return None
    if attempt is not None and attempt.unread_from is not None:
        return attempt.unread_from if state.window_start <= attempt.unread_from < state.window_end else None
    if before is None or before.reason != _NOT_READ_TO_END:
        return None
    is_read = attempt is not None and attempt.has_read(before.covered_until, min(state.window_end, horizon(now)))
    return None if is_read else before.covered_until


def _cause(
    state: WindowState, source: TrafficSource, *, before: WindowState | None, attempt: Attempt | None
) -> tuple[str, str | None]:
    """Return why minutes are missing, as far as this run knows."""
    if attempt is not None and attempt.error is not None:
        return "source_failed", attempt.error
    if source.has_history and (attempt is None or not attempt.has_read(state.covered_until, state.covered_until)):
        is_known = before is not None and before.missing_minutes > 0 and before.reason is not None
        return (before.reason or "", before.detail) if before is not None and is_known else (_NOT_READ, None)
    if state.snapshots:
        return "missing_snapshots", "the source has no snapshot of these minutes"
    return ("empty_page" if source.is_pulled else "nothing_delivered"), "the source has no snapshot of this window"


def snapshots_around(
    connection: psycopg.Connection, source: TrafficSource, day: date
) -> tuple[tuple[datetime, int], ...]:
    """Return the (instant, samples) of the node's snapshots of the day and of two slots at either side."""
    whole = day_window(day)
    return instants_of(
        connection,
        env=source.env,
        node=source.node,
        start=whole.start - 2 * source.slot,
        end=whole.end + 2 * source.slot,
    )


def _write_windows(connection: psycopg.Connection, states: Sequence[WindowState], *, checked_at: datetime) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(
            """
            insert into core.traffic_window
                (source, window_start, window_end, status, missing_minutes, snapshots, samples, covered_until, reason, detail,
                checked_at)
            values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            on conflict (source, window_start) do update set
                window_end = excluded.window_end,
                status = excluded.status,
                missing_minutes = excluded.missing_minutes,
                snapshots = excluded.snapshots,
                samples = excluded.samples,
                covered_until = excluded.covered_until,
                reason = excluded.reason,
                detail = excluded.detail,
                checked_at = excluded.checked_at
            """,
            [(*astuple(state), checked_at) for state in states],
        )


def _write_gap_events(
    connection: psycopg.Connection, source: TrafficSource, states: Sequence[WindowState], *, now: datetime
) -> None:
    """Note gaps of windows that have ended when they open, and when snapshots fill them.

    A window that nobody has tried to read is open as well, and no gap of its source yet: files are taken before exporters are
    asked.
    """
    rows = connection.execute(
        """
        select distinct on (window_start) window_start, event
        from core.traffic_gap
        where source = %s and window_start = any(%s)
        order by window_start, gap_event_id desc
        """,
        [source.name, [state.window_start for state in states]],
    ).fetchall()
    last = {window_start.astimezone(UTC): event for window_start, event in rows}
    events = []
    for state in states:
        before = last.get(state.window_start)
        is_gap = state.is_open_gap and state.missing_minutes and state.reason != _NOT_READ
        if is_gap and state.window_end <= horizon(now) and before != "opened":
            events.append(("opened", state, state.reason))
        elif state.status == "complete" and before in ("opened", "closed"):
            events.append(("filled", state, "every minute has a snapshot now"))
    with connection.cursor() as cursor:
        cursor.executemany(
            """
            insert into core.traffic_gap
                (source, window_start, window_end, event, missing_minutes, reason, actor, happened_at)
            values (%s, %s, %s, %s, %s, %s, %s, %s)
            """,
            [
                (
                    state.source,
                    state.window_start,
                    state.window_end,
                    event,
                    state.missing_minutes,
                    reason,
                    _COLLECTOR,
                    now,
                )
                for event, state, reason in events
            ],
        )
