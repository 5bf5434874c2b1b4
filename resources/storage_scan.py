"""Storage of event days from the lake in DuckDB, one day after the other: what a day leaves is what the next begins with.

The SQL is `billing_pipeline/sql/storage_*.sql`; here its inputs are bound and its results collected. Memory follows one day's
repositories and events; what does not fit is spilled. A scan may be of some repositories only: rows of others are not looked at.
Not here: PostgreSQL (storage_usage_store), what counts (the SQL).
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from billing_pipeline.errors import BillingError
from billing_pipeline.storage_checks import Carried
from billing_pipeline.storage_policy import StoragePolicy
from billing_pipeline.timelines import MICROSECOND, UPLOAD_DAYS
from resources import duck
from resources.storage_facts import LISTED, SECONDS, StorageFacts, day_facts
from resources.storage_inputs import Base, TakenSnapshot
from resources.usage_rules import UsageRules

BATCH_ROWS = 65_536
UNIT = "byte-second"
_TEXT, _BIG, _INSTANT = pa.string(), pa.int64(), pa.timestamp("us")
SCHEMAS = {
    "snapshots": pa.schema(
        [("source", _TEXT), ("snapshot_id", _TEXT), ("snapshot_at", _INSTANT), ("repository", _TEXT), ("owner", _TEXT),
         ("visibility", _TEXT), ("bytes", _BIG)]
    ),
    "listed_objects": pa.schema(
        [("source", _TEXT), ("snapshot_id", _TEXT), ("repository", _TEXT), ("object_id", _TEXT), ("version_id", _TEXT),
         ("bytes", _BIG)]
    ),
    "object_events": pa.schema(
        [("source", _TEXT), ("event_id", _TEXT), ("shared_event_id", _TEXT), ("event_at", _INSTANT), ("repository", _TEXT),
         ("owner", _TEXT), ("object_id", _TEXT), ("event_name", _TEXT), ("action", _TEXT), ("bytes", _BIG),
         ("upload_id", _TEXT), ("part_number", _BIG), ("version_id", _TEXT), ("original_event_id", _TEXT)]
    ),
    "visibility_events": pa.schema(
        [("event_id", _TEXT), ("event_at", _INSTANT), ("repository", _TEXT), ("kind", _TEXT), ("value", _TEXT)]
    ),
}  # fmt: skip
TAIL_COLUMNS = {
    "kind": "varchar",
    "repository": "varchar",
    "bucket": "varchar",
    "bytes": "bigint",
    "is_anchored": "boolean",
    "has_changed": "boolean",
    "unsized": "bigint",
    "visibility": "varchar",
    "owner": "varchar",
    "began_on": "date",
    "repository_began_on": "date",
    "fresh_until": "timestamp",
    "snapshot_at": "timestamp",
    "snapshot_source": "varchar",
    "listed_by": "varchar",
    "index_at": "timestamp",
    "index_source": "varchar",
    "index_id": "varchar",
    "index_is_listed": "boolean",
    "item_id": "varchar",
    "version_id": "varchar",
    "part_number": "bigint",
}
_TAIL_TABLES = """
    create or replace temp table places (place_id integer, repository_id integer, repository varchar, bucket varchar);
    insert into places
    select place_id::integer, (min(place_id) over (partition by repository))::integer, repository, bucket
    from (
        select repository, bucket, row_number() over (order by repository, bucket) as place_id
        from (select distinct repository, bucket from tail_rows)
    );
    create or replace temp table tail_places as
    select
        place_id, repository_id, bytes as raw_bytes, is_anchored, has_changed, unsized, visibility, owner, began_on,
        repository_began_on, fresh_until, snapshot_at, snapshot_source, listed_by, index_at, index_source, index_id,
        index_is_listed,
    from tail_rows
    join places using (repository, bucket)
    where kind = 'place';
    create or replace temp table tail_objects as
    select place_id, index_at as epoch_at, item_id as object_id, bytes, version_id
    from tail_rows
    join places using (repository, bucket)
    where kind = 'object';
    create or replace temp table tail_parts as
    select place_id, item_id as upload_id, part_number, snapshot_at as event_at, version_id as action_id, bytes
    from tail_rows
    join places using (repository, bucket)
    where kind = 'part'
"""
_RESULTS = {
    "states": "event_day date, repository varchar, segment_start timestamp, segment_end timestamp, bytes bigint, "
    "visibility varchar, owner varchar, account_id varchar, byte_seconds hugeint, basis varchar",
    "usage": "event_day date, account_id varchar, meter_id varchar, period_start timestamp, period_end timestamp, "
    "quantity decimal(38, 9), unit varchar, repository_count bigint",
    "drifts": "event_day date, repository varchar, bucket varchar, snapshot_at timestamp, derived_bytes bigint, "
    "snapshot_bytes bigint, drift_bytes bigint, derived_visibility varchar, snapshot_visibility varchar, "
    "visibility_mismatch boolean, unsized_events bigint, is_missing boolean",
    "bases": "event_day date, repository varchar, bucket varchar, began_on date, base_bytes bigint, base_visibility varchar, "
    "base_owner varchar",
}
_KEYS = {
    "states": "event_day, repository, segment_start",
    "usage": "event_day, account_id, meter_id, period_start",
    "drifts": "event_day, repository, bucket, snapshot_at",
    "bases": "event_day, repository, bucket",
}
_BEFORE_SUMS = ("places", "events", "snapshots", "owners", "actions", "uploads", "deltas", "levels")
_SUMS = ("storage_sums", "storage_snapshot_words")
_AFTER_SUMS = ("words", "segments", "hours", "drifts")
# Where all that is measured is one, a repository is its only place: storage_sums and storage_snapshot_words without sums.
_ONE_PLACE = """
    create or replace temp table storage_levels as
    select place_id as repository_id, step_at, rank, bytes, basis from storage_steps;
    create or replace temp table snapshot_words as
    select
        snapshots.repository_id, snapshots.snapshot_at as step_at, snapshots.visibility, assumed.visibility as visibility_hint,
        snapshots.owner,
    from day_snapshots as snapshots
    semi join active_repositories using (repository_id)
    left join assumed_visibilities as assumed using (source)
"""


class LakeRowsOutdatedError(BillingError):
    """A lake file lacks what its rows must say now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DaySources:
    """The lake files of a day, and what later days know of its beginning. `end` is its midnight, or an instant before it."""

    day: date
    end: datetime
    snapshots: Sequence[Path]
    listings: Sequence[Path]
    object_events: Sequence[Path]
    repository_events: Sequence[Path]
    later_bases: Sequence[Base]
    taken_snapshots: Sequence[TakenSnapshot] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TailContent:
    """What a day leaves: the digest of its content (order does not matter) and the days of the snapshots it refers to."""

    digest: str
    index_days: tuple[date, ...]
    rows: int
    repositories: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountUsage:
    """What some accounts held on a day: rows of usage.storage, and bytes x microseconds of their states and of their hours.

    `private`: account -> private ones of its hours.
    """

    rows: tuple[pa.RecordBatch, ...]
    of_states: int
    private_of_states: int
    of_hours: int
    private: Mapping[str, int]


class StorageScan:
    """A run over days in order. Use it in a `with`, which frees its memory and spill folder.

    `only`: the repositories that are looked at; None: all. Whose events share an id must be in it together.
    """

    def __init__(
        self,
        rules: UsageRules,
        policy: StoragePolicy,
        *,
        opening: Path | None,
        scratch_dir: Path,
        only: Collection[str] | None = None,
        memory_limit: str = "1GB",
        threads: int = 2,
    ) -> None:
        self._rules = rules
        self._policy = policy
        self._only = None if only is None else sorted(only)
        self._connection = duck.connect(scratch_dir, memory_limit, threads)
        try:
            self._table("only_repositories", pa.schema([("repository", _TEXT)]), [(one,) for one in self._only or ()])
            self._bind_rules()
            self._open(opening)
            self.forget_results()
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> "StorageScan":
        return self

    def __exit__(self, *exception: object) -> None:
        self._connection.close()

    def scan(self, sources: DaySources) -> StorageFacts:
        """Work out the day that follows the one before, and keep its rows until `forget_results`."""
        self._bind_day(sources)
        for name in _BEFORE_SUMS:
            duck.run(self._connection, f"storage_{name}")
        if self._policy.is_divided:
            for name in _SUMS:
                duck.run(self._connection, name)
        else:
            self._connection.execute(_ONE_PLACE)
        for name in _AFTER_SUMS:
            duck.run(self._connection, f"storage_{name}")
        self._keep_results(sources.day)
        duck.run(self._connection, "storage_tails")
        return day_facts(self._connection, sources.day)

    def write_tail(self, path: Path, *, others: Path | None = None) -> TailContent:
        """Write what the last day leaves as a Parquet file, and return what is in it.

        `others`: what the day left before; of it are the repositories that are not looked at.
        """
        rows = duck.sql("storage_tail_rows")
        columns = ", ".join(TAIL_COLUMNS)
        if others is not None:
            rows = f"""
                {rows}
                union all by name
                select {columns}
                from read_parquet('{others}', hive_partitioning = false)
                where repository not in (from only_repositories)
            """
        ((digest, other, count, places),) = self._connection.execute(
            f"""
            select
                sum(hash({columns})::hugeint)::varchar,
                sum(hash({columns}, 'again')::hugeint)::varchar,
                count(*),
                count(*) filter (where kind = 'place'),
            from ({rows})
            """
        ).fetchall()
        days = self._connection.execute(
            f"select distinct index_at::date from ({rows}) where kind = 'place' and index_at is not null order by 1"
        ).fetchall()
        self._connection.execute(f"copy ({rows}) to '{path}' (format parquet, compression snappy)")
        return TailContent(
            digest=hashlib.sha256(f"{digest}|{other}|{count}".encode()).hexdigest(),
            index_days=tuple(day for (day,) in days),
            rows=count,
            repositories=places,
        )

    def rows(self, name: str, days: Sequence[date]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of `days` for usage.storage_state (`states`), storage (`usage`), storage_drift or storage_base."""
        query = f"select * from result_{name} where list_contains($days, event_day) order by {_KEYS[name]}"
        batches = self._connection.sql(query, params={"days": list(days)}).to_arrow_reader(BATCH_ROWS)
        yield from map(_in_seconds, batches) if name == "states" else batches

    def usage_of(self, day: date, accounts: Collection[str], others: pa.Table) -> "AccountUsage":
        """Return what `accounts` held on the day.

        `others`: states of these accounts in repositories that are not looked at: account_id, segment_start, segment_end, bytes,
        visibility. Call it last of a day.
        """
        self._table("usage_accounts", pa.schema([("account_id", _TEXT)]), [(one,) for one in sorted(accounts)])
        self._connection.register("other_segments", others)
        self._connection.execute(
            """
            create or replace temp table storage_segments as
            select account_id, segment_start, segment_end, bytes, visibility
            from storage_segments
            semi join usage_accounts using (account_id)
            union all by name
            select * from other_segments
            """
        )
        self._connection.unregister("other_segments")
        self._connection.execute("delete from result_usage where event_day = $day", {"day": day})
        duck.run(self._connection, "storage_hours")
        self._keep_usage(day)
        ((of_states, private_of_states),) = self._connection.execute(
            """
            select coalesce(sum(held), 0), coalesce(sum(held) filter (where visibility = 'private'), 0)
            from (
                select visibility, bytes::hugeint * (epoch_us(segment_end) - epoch_us(segment_start)) as held
                from storage_segments
            ) as segments
            """
        ).fetchall()
        held = self._connection.execute(
            "select account_id, sum(bytes), sum(private_bytes) from storage_hours group by account_id"
        ).fetchall()
        return AccountUsage(
            rows=tuple(self.rows("usage", [day])),
            of_states=int(of_states),
            private_of_states=int(private_of_states),
            of_hours=sum(int(size) for _, size, _ in held),
            private={account_id: int(private) for account_id, _, private in held},
        )

    def carried_too_far(self, tail: Path) -> tuple[Carried, ...]:
        """Return some of the repositories of `tail` whose snapshots are too old at the day's end, those looked at left out."""
        rows = self._connection.execute(
            f"""
            select repository, arg_min(snapshot_source, bucket), arg_min(snapshot_at, bucket)
            from read_parquet('{tail}', hive_partitioning = false)
            where
                kind = 'place' and bytes > 0 and fresh_until < getvariable('day_end')
                and repository not in (from only_repositories)
            group by repository
            order by repository
            limit {LISTED}
            """
        ).fetchall()
        return tuple(
            Carried(repository=repository, source=source, snapshot_at=None if at is None else at.replace(tzinfo=UTC))
            for repository, source, at in rows
        )

    def forget_results(self) -> None:
        """Drop the rows of the days so far: they are written."""
        for name, columns in _RESULTS.items():
            self._connection.execute(f"create or replace temp table result_{name} ({columns})")

    def _bind_rules(self) -> None:
        self._table(
            "client_accounts",
            pa.schema([("client_id", _TEXT), ("account_id", _TEXT), ("valid_from", _INSTANT), ("valid_to", _INSTANT)]),
            [
                (one.client_id, one.account_id, _naive(one.valid_from), _naive(one.valid_to))
                for one in self._rules.client_accounts
            ],
        )
        accounts: dict[str, set[str]] = {}
        for link in self._rules.client_accounts:
            accounts.setdefault(link.client_id, set()).add(link.account_id)
        cuts = {
            (account_id, _naive(window.start))
            for window in self._rules.client_windows
            if window.start != window.hour_start
            for account_id in accounts.get(window.client_id, ())
        }
        self._table("account_cuts", pa.schema([("account_id", _TEXT), ("step_at", _INSTANT)]), sorted(cuts))
        policy, name = self._policy, pa.schema([("source", _TEXT)])
        self._table("complete_sources", name, [(one,) for one in sorted(policy.complete)])
        self._table("indexed_sources", name, [(one,) for one in sorted(policy.indexed)])
        self._table(
            "assumed_visibilities",
            pa.schema([("source", _TEXT), ("visibility", _TEXT)]),
            sorted(policy.assumed_visibility.items()),
        )
        self._table(
            "snapshot_sources",
            pa.schema([("source", _TEXT), ("age_us", _BIG), ("is_indexed", pa.bool_()), ("is_complete", pa.bool_())]),
            [
                (
                    source,
                    policy.snapshot_ages.get(source, policy.max_snapshot_age) // MICROSECOND,
                    source in policy.indexed,
                    source in policy.complete,
                )
                for source in sorted({*policy.snapshot_ages, *policy.indexed, *policy.complete})
            ],
        )
        self._table("source_buckets", pa.schema([("source", _TEXT), ("bucket", _TEXT)]), sorted(policy.buckets.items()))
        self._set("is_divided", policy.is_divided)
        self._set("upload_days", UPLOAD_DAYS)
        self._set("drift_millionths", int(policy.drift_percent * 10_000))
        self._set("default_age_us", policy.max_snapshot_age // MICROSECOND)

    def _open(self, opening: Path | None) -> None:
        if opening is None:
            columns = ", ".join(f"{name} {kind}" for name, kind in TAIL_COLUMNS.items())
            self._connection.execute(f"create or replace temp table tail_rows ({columns})")
        else:
            rows = f"from read_parquet('{opening}', hive_partitioning = false)"
            self._connection.execute(f"create or replace temp view whole_tail as {rows}")
            self._connection.execute(f"create or replace temp view tail_rows as {rows} {self._where_looked_at}")
        for statement in _TAIL_TABLES.split(";"):
            self._connection.execute(statement)
        # who lists what is told by repositories that are not looked at, too
        whole = "select distinct listed_by, bucket from {} where listed_by is not null"
        tables = "whole_tail" if self._only is not None and opening else "tail_places join places using (place_id)"
        self._connection.execute(f"create or replace temp view tail_listers as {whole.format(tables)}")

    @property
    def _where_looked_at(self) -> str:
        return "" if self._only is None else "where repository in (from only_repositories)"

    def _bind_day(self, sources: DaySources) -> None:
        self._set("day_start", datetime(sources.day.year, sources.day.month, sources.day.day))  # noqa: DTZ001 - the lake's UTC
        self._set("day_end", _naive(sources.end))
        files = {
            "snapshots": sources.snapshots,
            "listed_objects": sources.listings,
            "object_events": sources.object_events,
            "visibility_events": sources.repository_events,
        }
        self._table(
            "taken_snapshots",
            pa.schema([("source", _TEXT), ("snapshot_id", _TEXT), ("snapshot_at", _INSTANT), ("bucket", _TEXT)]),
            [(one.source, one.snapshot_id, one.snapshot_at, self._bucket(one)) for one in sources.taken_snapshots],
        )
        for name, paths in files.items():
            self._lake_view(name, paths)
        self._table(
            "later_bases",
            pa.schema(
                [
                    ("repository", _TEXT),
                    ("bucket", _TEXT),
                    ("base_bytes", _BIG),
                    ("base_visibility", _TEXT),
                    ("base_owner", _TEXT),
                ]
            ),
            [
                (one.repository, one.bucket, one.base_bytes, one.base_visibility, one.base_owner)
                for one in sources.later_bases
                if self._only is None or one.repository in self._only
            ],
        )

    def _bucket(self, snapshot: TakenSnapshot) -> str:
        """Return what a snapshot measures; where all that is measured is one, it has no name."""
        if not self._policy.is_divided:
            return ""
        return self._policy.buckets.get(snapshot.source) or snapshot.bucket or ""

    def _lake_view(self, name: str, paths: Sequence[Path]) -> None:
        schema = SCHEMAS[name]
        if paths:
            listed = ", ".join(f"'{path}'" for path in paths)
            rows = f"read_parquet([{listed}], hive_partitioning = false)"
        else:
            self._table(f"{name}_table", schema, [])
            rows = f"{name}_table"
        columns = ", ".join(f"said.{column}" for column in schema.names)
        query = f"select {columns} {self._bucket_of(name, paths)} from {rows} as said {self._bucket_tables(name)}"
        if name == "snapshots":
            # whose snapshots there are is told by repositories that are not looked at, too
            self._connection.execute(f"create or replace temp view whole_snapshots as {query}")
        self._connection.execute(f"create or replace temp view {name} as from ({query}) {self._where_looked_at}")

    def _bucket_of(self, name: str, paths: Sequence[Path]) -> str:
        """Return the column that says which bucket a row is of."""
        if name not in ("snapshots", "object_events"):
            return ""
        if not self._policy.is_divided:
            return ", '' as bucket"
        if name == "snapshots":
            return ", coalesce(taken.bucket, named.bucket, '') as bucket"
        for path in paths:
            if "bucket" not in pyarrow.parquet.read_schema(path).names:
                raise _outdated(path)
        return ", coalesce(said.bucket, '') as bucket" if paths else ", '' as bucket"

    def _bucket_tables(self, name: str) -> str:
        if name != "snapshots" or not self._policy.is_divided:
            return ""
        return """
            left join (select distinct source, snapshot_id, bucket from taken_snapshots) as taken
                on said.source = taken.source and said.snapshot_id = taken.snapshot_id
            left join source_buckets as named on said.source = named.source
        """

    def _keep_results(self, day: date) -> None:
        parameters = {"day": day}
        self._connection.execute(
            """
            insert into result_states by name
            select
                $day as event_day, names.repository, segment_start, segment_end, bytes, visibility, owner, account_id, basis,
                byte_microseconds as byte_seconds,
            from storage_segments
            join (select repository_id, any_value(repository) as repository from places group by repository_id) as names
                using (repository_id)
            """,
            parameters,
        )
        self._keep_usage(day)
        self._connection.execute(
            """
            insert into result_drifts by name
            select $day as event_day, repository, bucket, drifts.* exclude (place_id, is_failure)
            from storage_drifts as drifts
            join places using (place_id)
            """,
            parameters,
        )
        self._connection.execute(
            """
            insert into result_bases by name
            select
                $day as event_day, repository, bucket, min(began_on) as began_on, max(base_bytes) as base_bytes,
                max(base_visibility) as base_visibility, max(base_owner) as base_owner,
            from (
                select places.repository, places.bucket, tail_places.began_on, place_bases.found_bytes as base_bytes
                from place_bases
                join tail_places using (place_id)
                join places using (place_id)
                where place_bases.found_bytes is not null
                union all by name
                select
                    places.repository, '' as bucket, tail_words.began_on, found_visibility as base_visibility,
                    found_owner as base_owner
                from word_bases
                join tail_words using (repository_id)
                join places on word_bases.repository_id = places.place_id
                where coalesce(found_visibility, found_owner) is not null
            )
            where began_on < $day
            group by repository, bucket
            """,
            parameters,
        )

    def _keep_usage(self, day: date) -> None:
        parameters = {"day": day}
        for meter in self._rules.meters:
            count = {"private_bytes": "private_count", "public_bytes": "public_count"}.get(
                meter.field or "", "repository_count"
            )
            self._connection.execute(
                f"""
                insert into result_usage by name
                select
                    $day as event_day, account_id, $meter as meter_id, period_start, period_end,
                    {SECONDS.format(meter.field, 9)} as quantity, $unit as unit, {count} as repository_count,
                from storage_hours
                where {meter.field} > 0
                """,
                parameters | {"meter": meter.meter_id, "unit": UNIT},
            )

    def _set(self, name: str, value: object) -> None:
        self._connection.execute(f"set variable {name} = $value", {"value": value})

    def _table(self, name: str, schema: pa.Schema, rows: Iterable[tuple[object, ...]]) -> None:
        columns = list(zip(*rows, strict=True)) or [()] * len(schema.names)
        arrays = [pa.array(values, kind) for values, kind in zip(columns, schema.types, strict=True)]
        self._connection.register("bound_table", pa.Table.from_arrays(arrays, schema=schema))
        self._connection.execute(f"create or replace temp table {name} as select * from bound_table")
        self._connection.unregister("bound_table")


def _outdated(path: Path) -> "LakeRowsOutdatedError":
    return LakeRowsOutdatedError(
        f"{path.name} of core/object_events says of no event in which bucket it was; it was read before several were measured",
        bill="Nothing of the days that it belongs to was built; their last good usage stays.",
        fix="Materialize core/object_events for the delivery days of storage's logs: they are read anew. Then build usage/storage.",
    )


def _in_seconds(states: pa.RecordBatch) -> pa.RecordBatch:
    """Return states whose bytes x microseconds are byte-seconds: the same digits, with six of them behind the point."""
    place = states.schema.get_field_index("byte_seconds")
    exact = states.column(place).view(pa.decimal128(38, 6))
    return states.set_column(place, "byte_seconds", exact)


def _naive(instant: datetime) -> datetime:
    """Return UTC without its zone, as the lake has it."""
    return instant.astimezone(UTC).replace(tzinfo=None)
