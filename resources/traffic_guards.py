"""Judge a day of collected traffic and keep the verdicts: gather facts from PostgreSQL, apply the guards, write.

Each guard has a digest of its own facts, so that what a person released stays released while these facts stand. Works inside
the caller's transaction. Not here: the guards' rules (traffic_sample_checks), what is missing (traffic_windows).
"""

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, date, datetime

import psycopg

from billing_pipeline.checks import Subject, Verdict, with_releases
from billing_pipeline.traffic_coverage import Window, silences
from billing_pipeline.traffic_sample_checks import GapFact, no_conflict, node_alive, samples_conserved, windows_complete
from resources import guard_store, traffic_manifest
from resources.delivery_manifest import current_generation
from resources.traffic_config import TrafficSource
from resources.traffic_samples import DATASET
from resources.traffic_windows import (
    WindowState,
    day_window,
    expected_windows,
    horizon,
    snapshots_around,
    windows_in,
)


def judge_day(
    connection: psycopg.Connection, sources: Sequence[TrafficSource], day: date, *, now: datetime, run_id: str
) -> tuple[Verdict, ...]:
    """Write the verdicts on a day, released ones as such, and return them."""
    judged = (
        _windows_complete(connection, sources, day, now=now),
        _samples_conserved(connection, day),
        _node_alive(connection, sources, day, now=now),
        _no_conflict(connection, day),
    )
    verdicts = tuple(_with_release(connection, verdict) for verdict in judged)
    guard_store.record(connection, verdicts, run_id=run_id)
    return verdicts


def _with_release(connection: psycopg.Connection, verdict: Verdict) -> Verdict:
    released = guard_store.released_guards(connection, DATASET, {verdict.partition_key: verdict.inputs_digest})
    return with_releases([verdict], released.get(verdict.partition_key, frozenset()))[0]


def _windows_complete(
    connection: psycopg.Connection, sources: Sequence[TrafficSource], day: date, *, now: datetime
) -> Verdict:
    """Judge the windows that are expected of the sources, and those that a source has left which is configured no more."""
    known = {(state.source, state.window_start): state for state in windows_in(connection, None, [day])}
    closers = _closers(connection, day)
    expected = 0
    judged: list[tuple[WindowState, Window]] = []
    open_gaps: list[GapFact] = []
    closed_gaps: list[GapFact] = []
    names = {source.name for source in sources}
    for source in sources:
        for window in expected_windows(source, day, now=now):
            expected += 1
            state = known.get((source.name, window.start))
            if state is None:
                minutes = int((min(window.end, horizon(now)) - window.start).total_seconds()) // 60
                open_gaps.append(GapFact(source=source.name, window=window, missing_minutes=minutes, reason="not_read"))
            else:
                judged.append((state, window))
    for state in known.values():
        if state.source not in names:
            expected += 1
            judged.append((state, Window(start=state.window_start, end=state.window_end)))
    for state, window in judged:
        if state.is_open_gap:
            open_gaps.append(_fact(state, window, None))
        elif state.status == "closed":
            closed_gaps.append(_fact(state, window, closers.get((state.source, window.start), "a person")))
    facts = [[gap.source, gap.window.start.isoformat(), gap.missing_minutes] for gap in (*open_gaps, *closed_gaps)]
    return windows_complete(_subject(day, facts), expected=expected, open_gaps=open_gaps, closed_gaps=closed_gaps)


def _fact(state: WindowState, window: Window, actor: str | None) -> GapFact:
    return GapFact(
        source=state.source,
        window=window,
        missing_minutes=state.missing_minutes,
        reason=state.reason or "",
        actor=actor,
    )


def _closers(connection: psycopg.Connection, day: date) -> dict[tuple[str, datetime], str]:
    whole = day_window(day)
    rows = connection.execute(
        """
        select distinct on (source, window_start) source, window_start, actor
        from core.traffic_gap
        where event = 'closed' and window_start >= %s and window_start < %s
        order by source, window_start, gap_event_id desc
        """,
        [whole.start, whole.end],
    ).fetchall()
    return {(source, window_start.astimezone(UTC)): actor for source, window_start, actor in rows}


def _samples_conserved(connection: psycopg.Connection, day: date) -> Verdict:
    counts = traffic_manifest.day_counts(connection, day)
    in_snapshots = traffic_manifest.samples_in_snapshots(connection, day)
    generation = current_generation(connection, DATASET, day)
    in_lake = 0 if generation is None else generation.row_count
    facts = [counts.read, counts.accounted, counts.kept, in_snapshots, in_lake]
    return samples_conserved(_subject(day, facts), counts, in_snapshots=in_snapshots, in_lake=in_lake)


def _node_alive(
    connection: psycopg.Connection, sources: Sequence[TrafficSource], day: date, *, now: datetime
) -> Verdict:
    silent: list[tuple[str, Window]] = []
    whole = day_window(day)
    for source in sources:
        if expected_windows(source, day, now=now):
            snapshots = [one for one in snapshots_around(connection, source, day) if whole.start <= one[0] < whole.end]
            silent += [(source.name, stretch) for stretch in silences(snapshots, source.slot)]
    facts = [[source, stretch.start.isoformat(), stretch.end.isoformat()] for source, stretch in silent]
    return node_alive(_subject(day, facts), silent=silent)


def _no_conflict(connection: psycopg.Connection, day: date) -> Verdict:
    conflicts = traffic_manifest.conflicts_of(connection, day)
    streams = {
        f"{one.env}:{one.node}/{one.account_uuid}/{one.inbound_tag} at {one.collected_at.astimezone(UTC):%H:%M:%S}"
        for one in conflicts
    }
    samples = traffic_manifest.day_counts(connection, day).read
    return no_conflict(_subject(day, sorted(streams)), samples=samples, streams=streams)


def _subject(day: date, facts: Sequence[object]) -> Subject:
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    return Subject(asset=DATASET, partition_key=day.isoformat(), inputs_digest=digest)
