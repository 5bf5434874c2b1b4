"""What a storage scan has counted of a day: the facts that guards compare and people look at.

Reads the tables that the scan left in its DuckDB connection. Not here: making them (storage_scan), judging (storage_verdicts).
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime
from decimal import Decimal

import duckdb

from billing_pipeline.storage_checks import Carried
from resources import duck

LISTED = 10
# A HUGEINT of byte-microseconds in byte-seconds: by whole seconds and the rest, as a division would be a float.
SECONDS = "(({0}) // 1000000)::decimal(38, {1}) + (({0}) % 1000000)::decimal(12, 0) * 0.000001::decimal(7, 6)"


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftFailure:
    """A snapshot that a check fails for."""

    repository: str
    snapshot_at: datetime
    derived_bytes: int | None
    snapshot_bytes: int
    drift_bytes: int
    derived_visibility: str | None
    snapshot_visibility: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageFacts:
    """What a day's guards compare. Integrals are bytes x microseconds, exact.

    `conflicts`: event ids with several contents, `events_in_conflict` their copies. `carried_too_far`: repositories
    whose last snapshot is older than the policy allows. `unknown_owners`: (owner or '', byte-
    microseconds of private bytes that nobody pays for). `beyond_int64`: (repository, largest event, its bytes) of some of the
    `repositories_beyond_int64`.
    """

    day: date
    object_events: int
    repository_events: int
    snapshots: int
    applied: int
    events_in_conflict: int
    conflicts: int
    unsized_today: int
    unsized_waiting: int
    repositories_waiting: int
    repositories: int
    segments: int
    of_segments: int
    of_changes: int
    of_accounts: int
    of_hours: int
    private_of_accounts: int
    private_of_hours: int
    private_of_nobody: int
    private: int
    public: int
    of_unknown_visibility: int
    drifts: tuple[DriftFailure, ...]
    drift_failures: int
    mismatches: tuple[DriftFailure, ...]
    mismatch_failures: int
    carried_too_far: tuple[Carried, ...]
    repositories_carried_too_far: int
    beyond_int64: tuple[tuple[str, str, int], ...]
    repositories_beyond_int64: int
    unknown_owners: tuple[tuple[str, int], ...]
    top_accounts: tuple[tuple[str, Decimal], ...]
    usage_rows: int

    @property
    def counts(self) -> Mapping[str, int]:
        """Return all that is added up over repositories, by name."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.type is int}

    @property
    def records_read(self) -> int:
        """Return events and snapshots of the day in the lake."""
        return self.object_events + self.repository_events + self.snapshots

    @property
    def duplicates(self) -> int:
        """Return what repeats, or is corrected or outdone by, something that counts."""
        return self.records_read - self.applied - self.events_in_conflict


def day_facts(connection: duckdb.DuckDBPyConnection, day: date) -> StorageFacts:
    """Return the facts of the day whose tables the connection holds."""
    cursor = duck.run(connection, "storage_facts")
    names = [column[0] for column in cursor.description]
    (values,) = cursor.fetchall()
    row = dict(zip(names, values, strict=True))
    drifts, drift_failures = _failures(connection, "is_failure")
    mismatches, mismatch_failures = _failures(connection, "visibility_mismatch")
    too_far = connection.execute(
        """
        select
            places.repository, arg_min(tail_places.snapshot_source, places.bucket), arg_min(tail_places.snapshot_at, places.bucket)
        from tail_places
        join places using (place_id)
        semi join storage_states as states on tail_places.repository_id = states.repository_id
        where tail_places.raw_bytes > 0 and tail_places.fresh_until < getvariable('day_end')
        group by places.repository
        order by places.repository
        """
    ).fetchall()
    beyond = connection.execute(
        f"""
        select repository, event_id, event_bytes, count(*) over () as repositories
        from storage_beyond
        join places using (place_id)
        order by event_bytes desc, repository
        limit {LISTED}
        """
    ).fetchall()
    unknown = connection.execute(
        f"""
        select coalesce(owner, ''), sum(byte_microseconds) as held
        from storage_segments
        where account_id is null and visibility = 'private' and bytes > 0
        group by 1
        order by held desc, 1
        limit {LISTED}
        """
    ).fetchall()
    top = connection.execute(
        f"""
        select account_id, {SECONDS.format("sum(private_bytes)", 6)} as private
        from storage_hours
        group by account_id
        having sum(private_bytes) > 0
        order by private desc, account_id
        limit {LISTED}
        """
    ).fetchall()
    ((usage_rows,),) = connection.execute(
        "select count(*) from result_usage where event_day = $day", {"day": day}
    ).fetchall()
    applied = row.pop("actions") + row.pop("repository_actions") + row.pop("repository_snapshots")
    return StorageFacts(
        day=day,
        **{name: int(value) for name, value in row.items()},
        applied=applied,
        drifts=drifts,
        drift_failures=drift_failures,
        mismatches=mismatches,
        mismatch_failures=mismatch_failures,
        carried_too_far=tuple(
            Carried(repository=repository, source=source, snapshot_at=None if at is None else at.replace(tzinfo=UTC))
            for repository, source, at in too_far[:LISTED]
        ),
        repositories_carried_too_far=len(too_far),
        beyond_int64=tuple((repository, event_id, int(size)) for repository, event_id, size, _ in beyond),
        repositories_beyond_int64=beyond[0][-1] if beyond else 0,
        unknown_owners=tuple((owner, int(held)) for owner, held in unknown),
        top_accounts=tuple(top),
        usage_rows=usage_rows,
    )


def _failures(connection: duckdb.DuckDBPyConnection, condition: str) -> tuple[tuple[DriftFailure, ...], int]:
    """Return the worst snapshots of which `condition` holds, and how many there are."""
    rows = connection.execute(
        f"""
        select
            repository, snapshot_at, derived_bytes, snapshot_bytes, drift_bytes, derived_visibility, snapshot_visibility,
            count(*) over () as failures,
        from storage_drifts
        join places using (place_id)
        where {condition}
        order by abs(drift_bytes) desc, repository, snapshot_at
        limit {LISTED}
        """
    ).fetchall()
    failures = tuple(
        DriftFailure(
            repository=repository,
            snapshot_at=at.replace(tzinfo=UTC),
            derived_bytes=derived,
            snapshot_bytes=snapshot,
            drift_bytes=drift,
            derived_visibility=derived_visibility,
            snapshot_visibility=snapshot_visibility,
        )
        for repository, at, derived, snapshot, drift, derived_visibility, snapshot_visibility, _ in rows
    )
    return failures, rows[0][-1] if rows else 0
