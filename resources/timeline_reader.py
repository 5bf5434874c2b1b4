"""Read a repository's timeline for people: its states, what was said about it, and where its snapshots disagree. Read-only.

States are of usage.storage_state; snapshots and events are the lake's own rows, so that a picture shows what was delivered. Not
here: making states (storage_usage_store), drawing (console/timeline_plot, assets/timeline_plot).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from psycopg.rows import class_row

from billing_pipeline.errors import BillingError
from resources import duck
from resources.database import Database
from resources.lake import Lake
from resources.storage_inputs import ASSET

GB = 10**9
_GB_HOUR = Decimal(GB * 3600)
_DATASETS = ("core/storage_snapshots", "core/object_events", "core/visibility_events")


class RepositoryUnknownError(BillingError):
    """A repository that no day's storage knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineState:
    """A state that holds in `[start, end)`, in one account. `account_id` None: nobody pays."""

    start: datetime
    end: datetime
    bytes: int
    visibility: str | None
    owner: str | None
    account_id: str | None
    basis: str
    byte_seconds: Decimal

    @property
    def gb_hours(self) -> Decimal:
        """Return GB x hours, GB = 10^9 bytes."""
        return self.byte_seconds / _GB_HOUR


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineMark:
    """What was said about the repository. `kind`: snapshot, or an event's name; `bytes` None: it says no size."""

    at: datetime
    kind: str
    bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineDrift:
    """A snapshot that says something else than the events before it; `derived_bytes` None: it is the first."""

    repository: str
    snapshot_at: datetime
    derived_bytes: int | None
    snapshot_bytes: int
    drift_bytes: int
    derived_visibility: str | None
    snapshot_visibility: str | None
    visibility_mismatch: bool
    unsized_events: int
    is_missing: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryTimeline:
    """What is known of a repository in a range of days; each in order of time."""

    repository: str
    states: tuple[TimelineState, ...]
    marks: tuple[TimelineMark, ...]
    drifts: tuple[TimelineDrift, ...]

    def gb_hours(self, visibility: str) -> Decimal:
        """Return the GB x hours of the states with this visibility."""
        return sum((one.gb_hours for one in self.states if one.visibility == visibility), Decimal(0))


def read_timeline(
    database: Database,
    lake: Lake,
    scratch_dir: Path,
    repository: str,
    *,
    first: date | None = None,
    last: date | None = None,
) -> RepositoryTimeline:
    """Return the repository's timeline from `first` to `last`, both days inside; without them, all of it.

    States that go on over midnight unchanged are one.

    Raises:
        RepositoryUnknownError: no day knows the repository.
        LakeFileMissingError: a delivered file is not in the lake any more.
    """
    days = {"repository": repository, "first": first, "last": last}
    with database.reading() as connection:
        states = (
            connection.cursor(row_factory=class_row(TimelineState))
            .execute(
                """
                select segment_start as start, segment_end as end, bytes, visibility, owner, account_id, basis, byte_seconds
                from usage.storage_state
                where
                    event_day = any(
                        array(
                            select partition_key
                            from usage.build
                            where
                                asset = %(asset)s
                                and partition_key >= coalesce(%(first)s::date, '-infinity')
                                and partition_key <= coalesce(%(last)s::date, 'infinity')
                        )
                    )
                    and repository = %(repository)s
                order by segment_start
                """,
                days | {"asset": ASSET},
            )
            .fetchall()
        )
        drifts = read_drifts(database, repository=repository, first=first, last=last)
        known = (
            states
            or connection.execute(
                """
                select
                from usage.storage_state
                where event_day = any(array(select partition_key from usage.build where asset = %s)) and repository = %s
                limit 1
                """,
                [ASSET, repository],
            ).fetchall()
        )
        files = connection.execute(
            """
            select distinct generation.dataset, generation.uri
            from core.lake_generation_day as generation_day
            join core.lake_partition as current_generation using (dataset, partition_key, generation)
            join core.lake_generation as generation using (dataset, partition_key, generation)
            where generation_day.dataset = any(%s) and generation_day.event_day between %s and %s
            """,
            [list(_DATASETS), states[0].start.date(), states[-1].end.date()] if states else [[], None, None],
        ).fetchall()
    if not known:
        raise RepositoryUnknownError(
            f"No day's storage knows the repository {repository!r}.",
            bill="Nothing is billed for it.",
            fix="Write its name as the snapshots have it; if it is new, ingest its snapshot and build usage/storage.",
        )
    paths = {name: [str(lake.fetch(uri)) for dataset, uri in files if dataset == name] for name in _DATASETS}
    marks = _marks(paths, repository, states[0].start, states[-1].end, scratch_dir) if states else ()
    return RepositoryTimeline(repository=repository, states=_joined(states), marks=marks, drifts=drifts)


def read_drifts(
    database: Database,
    *,
    repository: str | None = None,
    first: date | None = None,
    last: date | None = None,
    limit: int = 1000,
) -> tuple[TimelineDrift, ...]:
    """Return where snapshots disagree with events, of one repository in order of time, or of all, the largest drift first."""
    with database.reading() as connection:
        rows = connection.cursor(row_factory=class_row(TimelineDrift)).execute(
            """
            select repository, snapshot_at, derived_bytes, snapshot_bytes, drift_bytes, derived_visibility, snapshot_visibility,
                visibility_mismatch, unsized_events, is_missing
            from usage.storage_drift
            where
                (%(repository)s::text is null or repository = %(repository)s)
                and event_day >= coalesce(%(first)s::date, '-infinity')
                and event_day <= coalesce(%(last)s::date, 'infinity')
            order by
                case when %(repository)s::text is null then abs(drift_bytes) else 0 end desc,
                snapshot_at, repository
            limit %(limit)s
            """,
            {"repository": repository, "first": first, "last": last, "limit": limit},
        )
        return tuple(rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineReader:
    """Timelines of an installation, as the page of a day shows them."""

    database: Database
    lake: Lake
    scratch_dir: Path

    def week_to(self, day: date, repository: str | None = None) -> RepositoryTimeline | None:
        """Return the seven days to the end of `day` of a repository, of the day's biggest if None; None when there is none.

        Raises:
            RepositoryUnknownError: no day knows the repository.
        """
        name = repository or biggest_repository(self.database, day)
        if name is None:
            return None
        first = day - timedelta(days=6)
        return read_timeline(self.database, self.lake, self.scratch_dir, name, first=first, last=day)

    def drifts_of(self, day: date, *, limit: int) -> tuple[TimelineDrift, ...]:
        """Return where the day's snapshots disagree with events, the largest drift first."""
        return read_drifts(self.database, first=day, last=day, limit=limit)


def biggest_repository(database: Database, day: date) -> str | None:
    """Return the repository with the most private byte-seconds on `day`, else with the most of any; None without any."""
    with database.reading() as connection:
        row = connection.execute(
            """
            select repository
            from usage.storage_state
            where event_day = %s
            group by repository
            order by sum(byte_seconds) filter (where visibility = 'private') desc nulls last, sum(byte_seconds) desc, repository
            limit 1
            """,
            [day],
        ).fetchone()
    return None if row is None else str(row[0])


def _joined(states: Sequence[TimelineState]) -> tuple[TimelineState, ...]:
    joined: list[TimelineState] = []
    for state in states:
        last = joined[-1] if joined else None
        if last is not None and last.end == state.start and _said(last) == _said(state):
            joined[-1] = TimelineState(start=last.start, end=state.end, bytes=last.bytes, visibility=last.visibility,
                                       owner=last.owner, account_id=last.account_id, basis=last.basis,
                                       byte_seconds=last.byte_seconds + state.byte_seconds)  # fmt: skip
        else:
            joined.append(state)
    return tuple(joined)


def _said(state: TimelineState) -> tuple[object, ...]:
    return state.bytes, state.visibility, state.owner, state.account_id, state.basis


def _marks(
    paths: dict[str, list[str]], repository: str, start: datetime, end: datetime, scratch_dir: Path
) -> tuple[TimelineMark, ...]:
    snapshots, object_events, repository_events = (paths[name] for name in _DATASETS)
    queries = {
        "select snapshot_at, 'snapshot', bytes from read_parquet($files) where repository = $repository": snapshots,
        "select event_at, event_name, bytes from read_parquet($files) where repository = $repository": object_events,
        "select event_at, kind || ' ' || value, null from read_parquet($files) where repository = $repository":
            repository_events,
    }  # fmt: skip
    marks = set()
    with duck.connect(scratch_dir) as connection:
        for query, files in queries.items():
            if files:
                marks.update(connection.execute(query, {"files": files, "repository": repository}).fetchall())
    since = datetime.combine(start.date(), datetime.min.time(), UTC)
    found = [TimelineMark(at=at.replace(tzinfo=UTC), kind=kind, bytes=size) for at, kind, size in marks]
    inside = [mark for mark in found if since <= mark.at < end + timedelta(microseconds=1)]
    return tuple(sorted(inside, key=lambda mark: (mark.at, mark.kind, mark.bytes or 0)))
