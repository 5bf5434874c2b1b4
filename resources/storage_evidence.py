"""Why a repository's state is as it is: the snapshots that its bytes count from, the events since, who said visibility and owner.

Read-only; a search through the lake files that the builds were made of, day by day back from the state, and no further than it
must: to the last snapshot of each bucket as a rule. Rows of the lake come as they were delivered; what they mean together is
billing_pipeline/timelines.py. Not here: the states themselves (storage_lineage).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import duckdb
import psycopg

from billing_pipeline.storage_policy import StoragePolicy
from billing_pipeline.timelines import COMPLETION, PARTS, UPLOAD_DAYS
from resources import duck
from resources.database import Database
from resources.lake import Lake
from resources.lineage_files import Origin, file_keys, origin
from resources.storage_inputs import ASSET, DAY, LISTINGS, OBJECT_EVENTS, REPOSITORY_EVENTS, SNAPSHOTS
from resources.storage_lineage import StorageSegment

_BEGINNING = datetime(1, 1, 1)  # noqa: DTZ001 - the lake's UTC
_WORDS = ("visibility", "owner")


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
    database: Database,
    lake: Lake,
    scratch_dir: Path,
    segment: StorageSegment,
    *,
    limit: int,
    policy: StoragePolicy | None = None,
) -> StorageEvidence:
    """Return the first `limit` facts behind the state that `segment` is a part of. `policy`: what its builds went by.

    Raises:
        LakeFileMissingError: a delivered row is not in the lake any more.
    """
    decided = policy or StoragePolicy()
    with database.reading() as connection, _search(connection, lake, scratch_dir, segment, decided) as search:
        is_undone = segment.basis == "carried_back"
        rows = search.behind(limit)
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
    connection: psycopg.Connection, lake: Lake, scratch_dir: Path, segment: StorageSegment, policy: StoragePolicy
) -> Iterator["_Search"]:
    with duck.connect(scratch_dir) as engine:
        engine.execute(_FACTS_TABLE)
        yield _Search(connection, engine, lake, segment, policy)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Span:
    """The events of a bucket that a state rests on: `after` < at <= `through`. `anchor`: the snapshot that they count from."""

    bucket: str
    after: datetime
    through: datetime
    anchor: int | None


class _Search:
    """The facts of a repository, loaded day by day into `repository_facts`."""

    def __init__(
        self,
        connection: psycopg.Connection,
        engine: duckdb.DuckDBPyConnection,
        lake: Lake,
        segment: StorageSegment,
        policy: StoragePolicy,
    ) -> None:
        self._connection = connection
        self._engine = engine
        self._lake = lake
        self._segment = segment
        self._policy = policy
        known = {"visibility": segment.visibility, "owner": segment.owner}
        self._words = [aspect for aspect in _WORDS if known[aspect] is not None]
        self._until = segment.state_start.astimezone(UTC).replace(tzinfo=None)
        self._first_loaded = segment.event_day
        self._loaded: set[date] = set()
        self._begun = self._began_on()
        self._load(segment.event_day, segment.event_day)

    def behind(self, limit: int) -> list[tuple[Any, ...]]:
        """Return the rows of storage_evidence.sql."""
        later = self._said_later()
        self._look_back(later)
        words = [self._word(aspect, later) for aspect in self._words]
        spans = self._spans(later)
        for span in spans:
            if span.anchor is not None and span.through == self._until:
                self._load_listing(span)
            self._load_parts(span.after, span.through)
        self._engine.executemany(
            "insert into spans values ($1, $2, $3)", [(span.bucket, span.after, span.through) for span in spans]
        )
        chosen = [fact for fact in (*words, *(span.anchor for span in spans)) if fact is not None]
        return self._engine.execute(
            duck.sql("storage_evidence"), {"chosen": chosen, "upload_days": UPLOAD_DAYS, "limit": limit}
        ).fetchall()

    def _word(self, aspect: str, later: Mapping[tuple[str, str], date]) -> int | None:
        """Return the fact that says visibility or owner: the last before the state, else the first after it."""
        said = self._said_before(aspect)
        if said is None and (aspect, "") in later:
            self._load(later[aspect, ""], later[aspect, ""])
        said = said or self._said_after(aspect)
        return None if said is None else said[0]

    def _spans(self, later: Mapping[tuple[str, str], date]) -> list[_Span]:
        """Return which events the bytes rest on, in each bucket: those since its snapshot, or up to its first, which are undone."""
        for (aspect, _), day in later.items():
            if aspect == "bytes":
                self._load(self._segment.event_day, day)
        buckets = [row[0] for row in self._engine.execute("select distinct bucket from repository_facts").fetchall()]
        spans = []
        for bucket in sorted(buckets):
            before, after = self._said_before("bytes", bucket), self._said_after("bytes", bucket)
            if before is not None:
                spans.append(_Span(bucket=bucket, after=before[1], through=self._until, anchor=before[0]))
            elif after is not None and (("bytes", bucket) in later or after[1].date() == self._segment.event_day):
                spans.append(_Span(bucket=bucket, after=self._until, through=after[1], anchor=after[0]))
            else:
                spans.append(_Span(bucket=bucket, after=_BEGINNING, through=self._until, anchor=None))
        return spans

    def _began_on(self) -> date:
        """Return the day of the repository's first state."""
        row = self._connection.execute(
            """
            select min(segment_start)
            from usage.storage_state
            where event_day = any(array(select partition_key from usage.build where asset = %s)) and repository = %s
            """,
            [ASSET, self._segment.repository],
        ).fetchone()
        return self._segment.event_day if row is None or row[0] is None else row[0].astimezone(UTC).date()

    def _said_later(self) -> dict[tuple[str, str], date]:
        """Return (aspect, bucket) -> the day on which it was said first, where that was on the state's day or later."""
        rows = self._connection.execute(
            """
            select event_day, bucket, base_bytes is not null, base_visibility is not null, base_owner is not null
            from usage.storage_base
            where repository = %s and event_day >= %s and began_on <= %s
            order by event_day desc
            """,
            [self._segment.repository, self._segment.event_day, self._segment.event_day],
        ).fetchall()
        return {
            (aspect, row[1] if aspect == "bytes" else ""): row[0]
            for row in rows
            for aspect, is_said in zip(("bytes", *_WORDS), row[2:], strict=True)
            if is_said
        }

    def _look_back(self, later: Mapping[tuple[str, str], date]) -> None:
        """Load earlier days, more at a time, until all that was said before the state is there."""
        wanted = [aspect for aspect in self._words if (aspect, "") not in later]
        if self._policy.is_divided:
            # whatever bucket is older than this holds its days, and has to be looked for no further
            ages = [self._policy.max_snapshot_age, *self._policy.snapshot_ages.values()]
            self._load_back(max(self._segment.event_day - max(ages) - DAY, self._begun))
        elif ("bytes", "") not in later:
            wanted.append("bytes")
        days = 1
        while self._first_loaded > self._begun and any(self._said_before(aspect) is None for aspect in wanted):
            self._load_back(max(self._first_loaded - timedelta(days=days), self._begun))
            days *= 2

    def _load_back(self, day: date) -> None:
        """Load what lies between `day` and the days that are there."""
        if day < self._first_loaded:
            self._load(day, self._first_loaded - DAY)
            self._first_loaded = day

    def _said_before(self, aspect: str, bucket: str = "") -> tuple[int, datetime] | None:
        """Return (fact, instant) of what says the aspect last, up to the state's begin."""
        which = "fact_at <= $until order by fact_at desc, kind in ('snapshot', 'missing') desc"
        return self._said(aspect, bucket, which)

    def _said_after(self, aspect: str, bucket: str = "") -> tuple[int, datetime] | None:
        """Return (fact, instant) of what says the aspect first, after the state's begin."""
        return self._said(aspect, bucket, "fact_at > $until order by fact_at, kind in ('snapshot', 'missing')")

    def _said(self, aspect: str, bucket: str, which: str) -> tuple[int, datetime] | None:
        found = self._engine.execute(
            f"""
            select fact_id, fact_at
            from repository_facts
            where ($aspect <> 'bytes' or bucket = $bucket) and {_SAYS[aspect]} and {which}, kind = 'missing', bucket, source, name
            limit 1
            """,
            {"aspect": aspect, "bucket": bucket, "until": self._until},
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
                bucket = "bucket" if self._policy.is_divided and dataset == OBJECT_EVENTS else "''"
                self._engine.execute(
                    f"insert into repository_facts by name {_FACTS[dataset].format(bucket=bucket)}",
                    {
                        "files": files,
                        "repository": self._segment.repository,
                        "first": datetime.combine(first, time()),
                        "end": datetime.combine(last + DAY, time()),
                    },
                )
        self._name_buckets()
        missing = self._connection.execute(
            """
            select snapshot_at at time zone 'UTC', bucket
            from usage.storage_drift
            where repository = %s and is_missing and event_day between %s and %s
            """,
            [self._segment.repository, first, last],
        ).fetchall()
        for row in missing:
            self._engine.execute(_MISSING, list(row))

    def _name_buckets(self) -> None:
        """Say of snapshots which bucket they measure."""
        if not self._policy.is_divided:
            return
        rows = self._engine.execute(
            "select distinct source, name from repository_facts where kind = 'snapshot' and bucket = ''"
        ).fetchall()
        measured = self._connection.execute(
            "select source, snapshot_id, bucket from core.storage_snapshot where (source, snapshot_id) in"
            " (select * from unnest(%s::text[], %s::text[])) and bucket is not null",
            [[row[0] for row in rows], [row[1] for row in rows]],
        ).fetchall()
        named = {(source, name): bucket for source, name, bucket in measured}
        for source, name in rows:
            bucket = self._policy.buckets.get(source) or named.get((source, name), "")
            self._engine.execute(
                "update repository_facts set bucket = $1 where kind = 'snapshot' and source = $2 and name = $3",
                [bucket, source, name],
            )

    def _load_listing(self, span: _Span) -> None:
        """Load what the last snapshot that lists objects says of those that events have changed since the span began."""
        found = self._engine.execute(
            """
            select source, name, fact_at
            from repository_facts
            where kind = 'snapshot' and bucket = $bucket and fact_at <= $after
            order by list_contains($indexed, source) desc, fact_at desc
            limit 1
            """,
            {"bucket": span.bucket, "after": span.after, "indexed": sorted(self._policy.indexed)},
        ).fetchone()
        if found is None:
            return
        source, snapshot_id, at = found
        files = self._files(at.date(), at.date()).get(LISTINGS)
        if files:
            self._engine.execute(
                _LISTED,
                {
                    "files": files,
                    "source": source,
                    "snapshot_id": snapshot_id,
                    "bucket": span.bucket,
                    "after": span.after,
                    "through": span.through,
                    "repository": self._segment.repository,
                },
            )

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
        bucket varchar default '', bytes bigint, visibility varchar, owner varchar, object_id varchar, action_id varchar,
        upload_id varchar, source varchar, file_id bigint, line_number bigint
    );
    create temp table spans (bucket varchar, after_at timestamp, through_at timestamp)
"""

_FACTS = {
    SNAPSHOTS: """
        select snapshot_at as fact_at, 'snapshot' as kind, snapshot_id as name, bytes, visibility, owner, source, file_id
        from read_parquet($files, hive_partitioning = false)
        where repository = $repository and snapshot_at >= $first and snapshot_at < $end
    """,
    OBJECT_EVENTS: f"""
        select event_at as fact_at, 'object' as kind, event_name as name, event_name in {tuple(sorted(PARTS))} as is_part,
            {{bucket}} as bucket, bytes, owner, object_id, coalesce(shared_event_id, original_event_id, event_id) as action_id,
            upload_id, source, file_id, line_number
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
    select snapshot_at as fact_at, 'listed' as kind, 'listed' as name, bytes, object_id, source, file_id, $bucket as bucket
    from read_parquet($files, hive_partitioning = false)
    where
        repository = $repository
        and source = $source
        and snapshot_id = $snapshot_id
        and object_id in (
            select object_id
            from repository_facts
            where kind = 'object' and bucket = $bucket and fact_at > $after and fact_at <= $through
        )
"""

_MISSING = """
    insert into repository_facts (fact_at, bucket, kind, name, bytes) values ($1, $2, 'missing', 'missing', 0)
"""

# Which facts say an aspect of a state. Object events, which name an owner where nothing else does, are listed anyhow.
_SAYS = {
    "bytes": "kind in ('snapshot', 'missing')",
    "visibility": "kind <> 'object' and visibility is not null",
    "owner": "kind <> 'object' and owner is not null",
}
