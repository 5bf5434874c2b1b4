"""Why a repository's state is as it is: the snapshot that its bytes count from, the events since, who said visibility and owner.

Read-only; a search through the lake files that the builds were made of, day by day back from the state, and no further than it
must: to the last snapshot as a rule. Rows of the lake come as they were delivered; what they mean together is
billing_pipeline/timelines.py. Not here: the states themselves (storage_lineage).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import duckdb
import psycopg

from billing_pipeline.timelines import COMPLETION, PARTS, UPLOAD_DAYS
from resources import duck
from resources.database import Database
from resources.lake import Lake
from resources.lineage_files import Origin, file_keys, origin
from resources.storage_inputs import ASSET, DAY, LISTINGS, OBJECT_EVENTS, REPOSITORY_EVENTS, SNAPSHOTS
from resources.storage_lineage import StorageSegment

_BEGINNING = datetime(1, 1, 1)  # noqa: DTZ001 - the lake's UTC
_ASPECTS = ("bytes", "visibility", "owner")


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageFact:
    """A delivered row that a state rests on.

    `kind`: snapshot; listed (an object in the snapshot that an event changes); missing (a complete snapshot that does not name
    the repository: 0 bytes); object (`name` is the event's); visibility or owner. `bytes` None: it says no size. Facts with the
    same `action_id` are one action that came several times, and count once. `origin` None: no row says it, as of what is missing.
    """

    at: datetime
    kind: str
    name: str
    bytes: int | None
    visibility: str | None
    owner: str | None
    object_id: str | None
    action_id: str | None
    origin: Origin | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageEvidence:
    """The first facts behind a state, in order of time, and how many there are. `is_undone`: events after it, taken off the
    first snapshot."""

    first: tuple[StorageFact, ...]
    facts: int
    is_undone: bool


def read_evidence(
    database: Database, lake: Lake, scratch_dir: Path, segment: StorageSegment, *, limit: int
) -> StorageEvidence:
    """Return the first `limit` facts behind the state that `segment` is a part of.

    Raises:
        LakeFileMissingError: a delivered row is not in the lake any more.
    """
    with database.reading() as connection, _search(connection, lake, scratch_dir, segment) as search:
        is_undone = segment.basis == "carried_back"
        rows = search.behind(limit, is_undone=is_undone)
        files = file_keys(connection, (row[-3] for row in rows))
    return StorageEvidence(
        first=tuple(
            StorageFact(
                at=at.replace(tzinfo=UTC),
                kind=kind,
                name=name,
                bytes=size,
                visibility=visibility,
                owner=owner,
                object_id=object_id,
                action_id=action_id,
                origin=None
                if file_id is None
                else origin(files, source=source, file_id=file_id, line_number=line_number),
            )
            for at, kind, name, size, visibility, owner, object_id, action_id, source, file_id, line_number, _ in rows
        ),
        facts=rows[0][-1] if rows else 0,
        is_undone=is_undone,
    )


@contextmanager
def _search(
    connection: psycopg.Connection, lake: Lake, scratch_dir: Path, segment: StorageSegment
) -> Iterator["_Search"]:
    with duck.connect(scratch_dir) as engine:
        engine.execute(_FACTS_TABLE)
        yield _Search(connection, engine, lake, segment)


class _Search:
    """The facts of a repository, loaded day by day into `repository_facts`."""

    def __init__(
        self, connection: psycopg.Connection, engine: duckdb.DuckDBPyConnection, lake: Lake, segment: StorageSegment
    ) -> None:
        self._connection = connection
        self._engine = engine
        self._lake = lake
        self._segment = segment
        known = {"bytes": segment.bytes, "visibility": segment.visibility, "owner": segment.owner}
        self._aspects = [aspect for aspect in _ASPECTS if known[aspect] is not None]
        self._until = segment.state_start.astimezone(UTC).replace(tzinfo=None)
        self._first_loaded = segment.event_day
        self._loaded: set[date] = set()
        self._begun = self._began_on()
        self._load(segment.event_day, segment.event_day)

    def behind(self, limit: int, *, is_undone: bool) -> list[tuple[Any, ...]]:
        """Return the rows of storage_evidence.sql."""
        later, segment_day = self._said_later(), self._segment.event_day
        self._look_back(later)
        said = {aspect: self._said_before(aspect) for aspect in self._aspects}
        for aspect in self._aspects:
            if said[aspect] is None and aspect in later:
                # events up to the first snapshot are undone; of the others just the day matters
                since = segment_day if aspect == "bytes" else later[aspect]
                self._load(since, later[aspect])
            said[aspect] = said[aspect] or self._said_after(aspect)
        anchor = said["bytes"]
        after, through = _BEGINNING, self._until
        if is_undone and anchor is not None:
            after, through = self._until, anchor[1]
        elif anchor is not None:
            after = anchor[1]
            self._load_listing(anchor[0], after, through)
        self._load_parts(after, through)
        chosen = [fact_id for fact_id, _ in (fact for fact in said.values() if fact is not None)]
        return self._engine.execute(
            duck.sql("storage_evidence"),
            {"chosen": chosen, "after": after, "through": through, "upload_days": UPLOAD_DAYS, "limit": limit},
        ).fetchall()

    def _began_on(self) -> date:
        """Return the day of the repository's first state."""
        row = self._connection.execute(
            "select min(segment_start) from usage.storage_state where repository = %s", [self._segment.repository]
        ).fetchone()
        return self._segment.event_day if row is None or row[0] is None else row[0].astimezone(UTC).date()

    def _said_later(self) -> dict[str, date]:
        """Return on which day an aspect was said first, where that was on the state's day or later."""
        rows = self._connection.execute(
            """
            select event_day, base_bytes is not null, base_visibility is not null, base_owner is not null
            from usage.storage_base
            where repository = %s and event_day >= %s and began_on <= %s
            order by event_day desc
            """,
            [self._segment.repository, self._segment.event_day, self._segment.event_day],
        ).fetchall()
        return {aspect: row[0] for row in rows for aspect, is_said in zip(_ASPECTS, row[1:], strict=True) if is_said}

    def _look_back(self, later: dict[str, date]) -> None:
        """Load earlier days, more at a time, until all that was said before the state is there."""
        wanted, days = [aspect for aspect in self._aspects if aspect not in later], 1
        while self._first_loaded > self._begun and any(self._said_before(aspect) is None for aspect in wanted):
            self._load_back(max(self._first_loaded - timedelta(days=days), self._begun))
            days *= 2

    def _load_back(self, day: date) -> None:
        """Load what lies between `day` and the days that are there."""
        if day < self._first_loaded:
            self._load(day, self._first_loaded - DAY)
            self._first_loaded = day

    def _said_before(self, aspect: str) -> tuple[int, datetime] | None:
        """Return (fact, instant) of what says the aspect last, up to the state's begin."""
        return self._said(
            f"{_SAYS[aspect]} and fact_at <= $until order by fact_at desc, kind in ('snapshot', 'missing') desc"
        )

    def _said_after(self, aspect: str) -> tuple[int, datetime] | None:
        """Return (fact, instant) of what says the aspect first, after the state's begin."""
        return self._said(f"{_SAYS[aspect]} and fact_at > $until order by fact_at, kind in ('snapshot', 'missing')")

    def _said(self, which: str) -> tuple[int, datetime] | None:
        found = self._engine.execute(
            f"select fact_id, fact_at from repository_facts where {which}, kind = 'missing', source, name limit 1",
            {"until": self._until},
        ).fetchone()
        return None if found is None else (found[0], found[1])

    def _load(self, first: date, last: date) -> None:
        """Load what was said on these days as far as it is not there, from the lake files that their builds were made of."""
        days = {first + number * DAY for number in range((last - first).days + 1)} - self._loaded
        if not days:
            return
        # what is there already is at one end of the range
        first, last = min(days), max(days)
        self._loaded |= days
        for dataset, files in self._files(first, last).items():
            if dataset in _FACTS:
                self._engine.execute(
                    f"insert into repository_facts by name {_FACTS[dataset]}",
                    {
                        "files": files,
                        "repository": self._segment.repository,
                        "first": datetime.combine(first, time()),
                        "end": datetime.combine(last + DAY, time()),
                    },
                )
        missing = self._connection.execute(
            """
            select snapshot_at at time zone 'UTC'
            from usage.storage_drift
            where repository = %s and is_missing and event_day between %s and %s
            """,
            [self._segment.repository, first, last],
        ).fetchall()
        for row in missing:
            self._engine.execute(_MISSING, list(row))

    def _load_listing(self, snapshot: int, after: datetime, through: datetime) -> None:
        """Load what the snapshot lists of the objects that events have changed since."""
        files = self._files(after.date(), after.date()).get(LISTINGS)
        if files:
            parameters = {"files": files, "snapshot": snapshot, "after": after, "through": through}
            self._engine.execute(_LISTED, {**parameters, "repository": self._segment.repository})

    def _load_parts(self, after: datetime, through: datetime) -> None:
        """Load the days on which parts of uploads came that were completed in between, also before the first state."""
        first = self._engine.execute(
            "select min(fact_at) from repository_facts where name = $name and fact_at > $after and fact_at <= $through",
            {"name": COMPLETION, "after": after, "through": through},
        ).fetchone()
        if first is not None and first[0] is not None:
            self._load_back(first[0].date() - timedelta(days=UPLOAD_DAYS))

    def _files(self, first: date, last: date) -> dict[str, list[str]]:
        """Return dataset -> local copies of the lake files that the builds of these days were made of."""
        rows = self._connection.execute(
            """
            select distinct generation ->> 'dataset', generation ->> 'uri'
            from usage.build
            cross join lateral jsonb_array_elements(generations) as generation
            where asset = %s and partition_key between %s and %s
            """,
            [ASSET, first, last],
        ).fetchall()
        found: dict[str, list[str]] = {}
        for dataset, uri in rows:
            found.setdefault(dataset, []).append(str(self._lake.fetch(uri)))
        return found


_FACTS_TABLE = """
    create temp sequence fact_ids;
    create temp table repository_facts (
        fact_id bigint default nextval('fact_ids'), fact_at timestamp, kind varchar, name varchar, is_part boolean default false,
        bytes bigint, visibility varchar, owner varchar, object_id varchar, action_id varchar, upload_id varchar,
        snapshot_id varchar, source varchar, file_id bigint, line_number bigint
    )
"""

_FACTS = {
    SNAPSHOTS: """
        select snapshot_at as fact_at, 'snapshot' as kind, snapshot_id as name, bytes, visibility, owner, snapshot_id, source,
            file_id
        from read_parquet($files, hive_partitioning = false)
        where repository = $repository and snapshot_at >= $first and snapshot_at < $end
    """,
    OBJECT_EVENTS: f"""
        select event_at as fact_at, 'object' as kind, event_name as name, event_name in {tuple(sorted(PARTS))} as is_part, bytes,
            owner, object_id, coalesce(shared_event_id, original_event_id, event_id) as action_id, upload_id, source, file_id,
            line_number
        from read_parquet($files, hive_partitioning = false)
        where repository = $repository and event_at >= $first and event_at < $end
    """,
    REPOSITORY_EVENTS: """
        select event_at as fact_at, kind, kind as name, if(kind = 'visibility', value, null) as visibility,
            if(kind = 'owner', value, null) as owner, event_id as action_id, source, file_id, line_number
        from read_parquet($files, hive_partitioning = false)
        where repository = $repository and event_at >= $first and event_at < $end
    """,
}

_LISTED = """
    insert into repository_facts by name
    select snapshot_at as fact_at, 'listed' as kind, 'listed' as name, bytes, object_id, source, file_id
    from read_parquet($files, hive_partitioning = false)
    semi join (
        select source, snapshot_id from repository_facts where fact_id = $snapshot and kind = 'snapshot'
    ) as snapshot using (source, snapshot_id)
    where
        repository = $repository
        and object_id in (
            select object_id from repository_facts where kind = 'object' and fact_at > $after and fact_at <= $through
        )
"""

_MISSING = """
    insert into repository_facts (fact_at, kind, name, bytes) values ($1, 'missing', 'missing', 0)
"""

# Which facts say an aspect of a state. Object events, which name an owner where nothing else does, are listed anyhow.
_SAYS = {
    "bytes": "kind in ('snapshot', 'missing')",
    "visibility": "kind <> 'object' and visibility is not null",
    "owner": "kind <> 'object' and owner is not null",
}
