"""Which repositories later deliveries touch of an event day that is built, so that these are rebuilt and no other is.

A build leaves what it was made of (usage.storage_tail.made_of). Where events, the day's beginning, or what later days have found
out are others now, the rows that differ name the repositories; whose events share an id with theirs go with them. After anything
else (a snapshot, an object listing, other rules, another version of the SQL), or when they are many, the day is built whole. Not
here: rebuilding them (storage_rebuild), which days (storage_usage_store).
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib import resources as package_files
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pyarrow.parquet

from resources import duck
from resources.lake import Lake, LakeFileMissingError
from resources.storage_facts import LISTED, StorageFacts
from resources.storage_inputs import (
    LISTINGS,
    OBJECT_EVENTS,
    REPOSITORY_EVENTS,
    SNAPSHOTS,
    Base,
    StorageDay,
    Tail,
    day_end,
)
from resources.storage_scan import SCHEMAS, TAIL_COLUMNS, DaySources

# Of more repositories than these, and than a share of the day's, a whole day is as cheap.
FEW_REPOSITORIES, SHARE = 1_000, 5
# What later days have found out is kept with a day up to so many; a day with more is built whole.
KEPT_BASES = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeOf:
    """What a day was made of. `scan`: version of the SQL. `decided`: digest of its snapshots and held deliveries. `files`: dataset
    -> lake files. `bases` None: more than are kept. `facts`: what it counted."""

    scan: str
    ends_at: str
    decided: str
    opening_digest: str | None
    opening_uri: str | None
    files: Mapping[str, Sequence[str]]
    bases: frozenset[Base] | None
    facts: Mapping[str, Any]

    def as_json(self) -> str:
        """Return it as usage.storage_tail keeps it."""
        bases = None
        if self.bases is not None:
            bases = sorted(
                (
                    [one.repository, one.bucket, one.base_bytes, one.base_visibility, one.base_owner]
                    for one in self.bases
                ),
                key=lambda base: (base[0], base[1]),
            )
        return json.dumps(
            {
                "scan": self.scan,
                "ends_at": self.ends_at,
                "decided": self.decided,
                "opening": [self.opening_digest, self.opening_uri],
                "files": {name: list(uris) for name, uris in self.files.items()},
                "bases": bases,
                "facts": dict(self.facts),
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Touched:
    """The repositories of a day that are to be built again. `before`: what the day was made of; `opening_before`: how it began."""

    repositories: frozenset[str]
    made_of: MadeOf
    before: DaySources
    opening_before: Path | None


def made_of(
    own: StorageDay,
    *,
    opening: Tail | None,
    listings: Sequence[str],
    bases: Collection[Base],
    ends_at: str,
    facts: StorageFacts,
) -> MadeOf:
    """Return what a day is made of that is built now."""
    return MadeOf(
        scan=_scan_version(),
        ends_at=ends_at,
        decided=_decided(own),
        opening_digest=None if opening is None else opening.digest,
        opening_uri=None if opening is None else opening.uri,
        files={name: own.uris(name) for name in (SNAPSHOTS, OBJECT_EVENTS, REPOSITORY_EVENTS)}
        | {LISTINGS: tuple(listings)},
        bases=frozenset(bases) if len(bases) <= KEPT_BASES else None,
        facts=kept_facts(facts),
    )


def kept_facts(facts: StorageFacts) -> Mapping[str, Any]:
    """Return what is kept of a day's counts, for later ones to be added to."""
    return {**facts.counts, "beyond_int64": [list(one) for one in facts.beyond_int64]}


def read_made_of(connection: psycopg.Connection, day: date) -> MadeOf | None:
    """Return what a day was made of when it was built last; None where no build has said it."""
    row = connection.execute("select made_of from usage.storage_tail where event_day = %s", [day]).fetchone()
    if row is None or row[0] is None:
        return None
    said = row[0]
    return MadeOf(
        scan=said["scan"],
        ends_at=said["ends_at"],
        decided=said["decided"],
        opening_digest=said["opening"][0],
        opening_uri=said["opening"][1],
        files={name: tuple(uris) for name, uris in said["files"].items()},
        bases=None
        if said["bases"] is None
        else frozenset(
            Base(repository=name, bucket=bucket, base_bytes=size, base_visibility=visibility, base_owner=owner)
            for name, bucket, size, visibility, owner in said["bases"]
        ),
        facts=said["facts"],
    )


def touched(
    own: StorageDay,
    known: MadeOf,
    *,
    opening: Tail | None,
    listings: Sequence[str],
    bases: Collection[Base],
    changed_before: Collection[str] | None,
    lake: Lake,
    scratch_dir: Path,
    memory_limit: str,
    is_divided: bool,
) -> Touched | None:
    """Return the repositories that differ from when the day was built last, None when it is to be built whole.

    `changed_before`: repositories outside of which the day before has left what it had left; None: nobody knows.
    """
    is_the_same = (
        known.scan == _scan_version()
        and known.ends_at == day_end(own.day).isoformat()
        and known.decided == _decided(own)
        and set(known.files[SNAPSHOTS]) == set(own.uris(SNAPSHOTS))
        and (set(known.files[LISTINGS]) <= set(listings) or set(known.files[LISTINGS]) >= set(listings))
        and int(known.facts["repositories_beyond_int64"]) <= LISTED
    )
    if not is_the_same or known.bases is None or len(bases) > KEPT_BASES:
        return None
    try:
        before = DaySources(
            day=own.day,
            end=day_end(own.day),
            snapshots=[lake.fetch(uri) for uri in known.files[SNAPSHOTS]],
            listings=[lake.fetch(uri) for uri in known.files[LISTINGS]],
            object_events=[lake.fetch(uri) for uri in known.files[OBJECT_EVENTS]],
            repository_events=[lake.fetch(uri) for uri in known.files[REPOSITORY_EVENTS]],
            later_bases=sorted(known.bases, key=lambda base: (base.repository, base.bucket)),
            taken_snapshots=own.taken_snapshots,
        )
        opening_before = None if known.opening_uri is None else lake.fetch(known.opening_uri)
    except LakeFileMissingError:
        # retention has removed what the day was made of
        return None
    with duck.connect(scratch_dir, memory_limit) as engine:
        differ = _Difference(engine, own.day)
        differ.add(one.repository for one in known.bases ^ frozenset(bases))
        if known.opening_digest != (None if opening is None else opening.digest):
            now = [] if opening is None else [lake.fetch(opening.uri)]
            then = [] if opening_before is None else [opening_before]
            differ.tails(then, now, changed_before)
            if differ.listers(then) != differ.listers(now):
                # what a snapshot does not name may be gone, or not, of any repository
                return None
        columns = SCHEMAS["visibility_events"].names
        differ.rows(before.repository_events, [lake.fetch(uri) for uri in own.uris(REPOSITORY_EVENTS)], columns)
        columns = [*SCHEMAS["object_events"].names, *(["bucket"] if is_divided else [])]
        events_now = [lake.fetch(uri) for uri in own.uris(OBJECT_EVENTS)]
        if is_divided and any("bucket" not in pyarrow.parquet.read_schema(path).names for path in events_now):
            return None
        differ.rows(before.object_events, events_now, columns)
        differ.with_those_that_share_ids({*before.object_events, *events_now})
        repositories = differ.repositories()
    if len(repositories) > max(FEW_REPOSITORIES, int(known.facts["repositories"]) // SHARE):
        return None
    return Touched(repositories=repositories, made_of=known, before=before, opening_before=opening_before)


class _Difference:
    """Repositories with rows that differ, in an engine of their own."""

    def __init__(self, engine: duckdb.DuckDBPyConnection, day: date) -> None:
        self._engine = engine
        self._when = f"event_at >= timestamp '{day}' and event_at < timestamp '{day}' + interval 1 day"
        engine.execute("create temp table touched_repositories (repository varchar)")

    def add(self, repositories: Collection[str] | Any) -> None:
        for repository in set(repositories):
            self._engine.execute("insert into touched_repositories values ($1)", [repository])

    def rows(self, before: Sequence[Path], now: Sequence[Path], columns: Sequence[str]) -> None:
        """Add the repositories of the day's rows that are only in one of the two."""
        gone, new = sorted({*before} - {*now}), sorted({*now} - {*before})
        if gone or new:
            listed = ", ".join(columns)
            self._add_difference(_query(gone, listed, self._when), _query(new, listed, self._when))

    def tails(self, before: Sequence[Path], now: Sequence[Path], within: Collection[str] | None) -> None:
        """Add the repositories of which the day before has left something else."""
        listed, condition = ", ".join(TAIL_COLUMNS), "true"
        if within is not None:
            self._engine.execute("create temp table changed_before (repository varchar)")
            self._engine.executemany("insert into changed_before values ($1)", [[one] for one in ["", *within]])
            condition = "repository in (from changed_before)"
        self._add_difference(_query(before, listed, condition), _query(now, listed, condition))

    def listers(self, tails: Sequence[Path]) -> frozenset[tuple[str, str]]:
        """Return (source, bucket) of those that list what repositories there are."""
        if not tails:
            return frozenset()
        query = _query(tails, "listed_by, bucket", "listed_by is not null")
        return frozenset(self._engine.execute(f"select distinct listed_by, bucket from ({query})").fetchall())

    def with_those_that_share_ids(self, paths: Collection[Path]) -> None:
        """Add the repositories that have an event's id in common with one that is touched: which of them counts may change."""
        if not paths:
            return
        ids = "event_id, shared_event_id, original_event_id"
        self._engine.execute(
            f"create temp table every_event as {_query(sorted(paths), f'repository, {ids}', self._when)}"
        )
        while self._engine.execute(
            """
            insert into touched_repositories
            with ids as (
                select unnest([event_id, shared_event_id, original_event_id]) as id
                from every_event
                semi join touched_repositories using (repository)
            )
            select distinct repository
            from every_event
            where
                (event_id in (from ids) or shared_event_id in (from ids) or original_event_id in (from ids))
                and repository not in (from touched_repositories)
            """
        ).fetchall() != [(0,)]:
            pass

    def repositories(self) -> frozenset[str]:
        rows = self._engine.execute("select distinct repository from touched_repositories").fetchall()
        return frozenset(name for (name,) in rows)

    def _add_difference(self, before: str, now: str) -> None:
        self._engine.execute(
            f"""
            insert into touched_repositories
            select distinct repository
            from ((({before}) except all ({now})) union all (({now}) except all ({before})))
            """
        )


def _query(paths: Sequence[Path], columns: str, condition: str) -> str:
    if not paths:
        names = ", ".join(f"null as {name.strip()}" for name in columns.split(","))
        return f"select {names} where false"
    listed = ", ".join(f"'{path}'" for path in paths)
    return f"select {columns} from read_parquet([{listed}], hive_partitioning = false, union_by_name = true) where {condition}"


def _decided(own: StorageDay) -> str:
    return hashlib.sha256(json.dumps([own.snapshots, own.held_deliveries]).encode()).hexdigest()


@cache
def _scan_version() -> str:
    """Return the digest of the SQL that a day is made with: counts of another version are not added to."""
    folder = package_files.files("billing_pipeline").joinpath("sql")
    names = sorted(one.name for one in folder.iterdir() if one.name.startswith("storage_"))
    texts = [[name, folder.joinpath(name).read_text(encoding="utf-8")] for name in names]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]
