"""Rows of PostgreSQL that usage is made of, made up one by one: what a test does not name of a row is some constant.

Generations are drawn for a few partitions and days, several of each partition, of which one is current.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
from hypothesis import strategies as st

from resources.database import Database

FIRST = date(2026, 3, 1)
DAYS = [FIRST + timedelta(days=number) for number in range(4)]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SHA = "0123456789abcdef" * 4
Row = dict[str, Any]

_REST: dict[str, Row] = {
    "core.source_file": {
        "content_sha256": SHA, "size_bytes": 1, "delivery_day": FIRST, "first_seen_at": NOON, "modified_at": NOON, "reason": "r",
    },
    "core.source_file_day": {},
    "core.request_conflict": {"line_number": 1, "content_sha256": SHA, "found_at": NOON},
    "core.request_conflict_decision": {"reason": "r"},
    "core.lake_generation": {"file_sha256": SHA, "size_bytes": 1, "row_count": 1, "code_version": "v", "run_id": "r"},
    "core.lake_partition": {},
    "core.lake_generation_day": {},
    "core.traffic_snapshot": {"source": "s", "sample_count": 1, "received_at": NOON},
    "core.traffic_conflict": {"downlink_bytes": 0, "event_day": FIRST, "source": "s", "found_at": NOON},
    "core.storage_snapshot": {
        "total_bytes": 0, "repository_count": 0, "unassigned_objects": 0, "unassigned_bytes": 0,
    },
    "usage.build": {
        "generations": "[]", "records_read": 0, "billable_records": 0, "not_billable_records": 0, "duplicate_records": 0,
        "conflict_records": 0, "usage_rows": 0, "code_version": "v", "run_id": "r",
    },
    "usage.build_file": {},
    "usage.traffic_day": {},
    "usage.storage_tail": {"repositories": 1},
    "usage.storage_base": {},
    "guards.verdict": {"expected": "", "actual": "", "message": "", "run_id": "r"},
    "guards.release": {"actor": "a", "reason": "r"},
}  # fmt: skip


def insert(connection: psycopg.Connection, table: str, rows: Sequence[Row]) -> None:
    """Insert rows that all name the same columns."""
    if not rows:
        return
    names = [*_REST[table], *(name for name in rows[0] if name not in _REST[table])]
    values = ", ".join(f"%({name})s" for name in names)
    statement = f"insert into {table} ({', '.join(names)}) overriding system value values ({values})"
    connection.cursor().executemany(statement.encode(), [_REST[table] | row for row in rows])


@contextmanager
def passing(database: Database) -> Iterator[psycopg.Connection]:
    """Provide a transaction of which nothing stays, in a time zone whose days are not those of UTC."""
    with psycopg.connect(database.url) as connection:
        connection.execute("set local time zone 'Pacific/Kiritimati'")
        yield connection
        connection.rollback()


@dataclass(frozen=True, slots=True)
class Generation:
    """A lake file of a partition. `days`: how many rows it has of each."""

    dataset: str
    partition: date
    number: int
    is_current: bool
    days: dict[date, int]

    @property
    def name(self) -> str:
        return f"g{self.number}"

    @property
    def uri(self) -> str:
        return f"{self.dataset}/{self.partition}/{self.number}"

    @property
    def conflicts(self) -> int:
        return self.number * 10

    @property
    def inputs_digest(self) -> str:
        return f"digest {self.number}"


@st.composite
def generations(draw: st.DrawFn, datasets: Sequence[str]) -> list[Generation]:
    """Draw the generations of a few partitions, of each of which the newest, an older one or none is current."""
    found = []
    for dataset, partition in draw(
        st.lists(st.tuples(st.sampled_from(datasets), st.sampled_from([DAYS[0], *DAYS])), max_size=4, unique=True)
    ):
        current = draw(st.sampled_from([0, 0, 1, None]))
        found += [
            Generation(dataset, partition, number, number == current, draw(st.dictionaries(
                st.sampled_from([partition, partition, *DAYS]), st.integers(1, 9), max_size=2)))
            for number in range(draw(st.integers(1, 2)))
        ]  # fmt: skip
    return found


def insert_generations(connection: psycopg.Connection, found: Sequence[Generation]) -> None:
    """Enter lake files, which of them are current, and their days."""
    keys = [{"dataset": one.dataset, "partition_key": one.partition, "generation": one.name} for one in found]
    insert(
        connection,
        "core.lake_generation",
        [
            {**key, "uri": one.uri, "conflicting_identities": one.conflicts, "inputs_digest": one.inputs_digest}
            for key, one in zip(keys, found, strict=True)
        ],
    )
    insert(connection, "core.lake_partition", [key for key, one in zip(keys, found, strict=True) if one.is_current])
    insert(
        connection,
        "core.lake_generation_day",
        [
            {**key, "event_day": day, "row_count": rows}
            for key, one in zip(keys, found, strict=True)
            for day, rows in one.days.items()
        ],
    )


@dataclass(frozen=True, slots=True)
class File:
    """A delivered file and how many rows it has of each day."""

    number: int
    source: str
    status: str
    profile_version: int | None
    read_with: str | None
    dataset: str
    days: dict[date, int]

    @property
    def sha256(self) -> str:
        return f"{self.number % 3:064x}"

    def words(self, day: date) -> list[str]:
        """Return what a digest takes of it."""
        return [self.source, self.sha256, str(self.profile_version or 0), self.read_with or "", str(self.days[day])]


def files(datasets: Sequence[str]) -> st.SearchStrategy[list[File]]:
    """Draw files of a few sources, some refused."""
    one = st.builds(
        lambda *fields: File(0, *fields),
        # as bytes, "B" and "É" stand before and after "a"
        st.sampled_from(["a", "B", "É"]),
        st.sampled_from(["accepted", "accepted", "accepted", "rejected"]),
        st.sampled_from([None, 0, 2]),
        st.sampled_from([None, "", "r"]),
        st.sampled_from(datasets),
        st.dictionaries(st.sampled_from(DAYS), st.integers(1, 3), max_size=2),
    )
    return st.lists(one, max_size=5).map(
        lambda found: [File(n, one.source, one.status, one.profile_version, one.read_with, one.dataset, one.days)
                       for n, one in enumerate(found, 1)]
    )  # fmt: skip


def insert_files(connection: psycopg.Connection, found: Sequence[File]) -> None:
    """Enter files and their days."""
    insert(
        connection,
        "core.source_file",
        [
            {"file_id": one.number, "source": one.source, "key": str(one.number), "content_sha256": one.sha256,
             "status": one.status, "profile_version": one.profile_version, "read_with": one.read_with, "dataset": one.dataset}
            for one in found
        ],
    )  # fmt: skip
    insert(
        connection,
        "core.source_file_day",
        [
            {"file_id": one.number, "event_day": day, "accepted_rows": rows}
            for one in found
            for day, rows in one.days.items()
        ],
    )


@dataclass(frozen=True, slots=True)
class Build:
    """What a day of an asset was last built from."""

    asset: str
    day: date
    state: str
    files: frozenset[int] = frozenset()

    @property
    def digests(self) -> tuple[str, str]:
        """Return the digests of its inputs and its rules."""
        return f"inputs of {self.asset} {self.day}", f"rules of {self.asset} {self.day}"


def builds(assets: Sequence[str], *, files_up_to: int = 0) -> st.SearchStrategy[list[Build]]:
    """Draw builds of a few days."""
    return st.lists(
        st.builds(
            Build,
            st.sampled_from(assets),
            st.sampled_from(DAYS),
            st.sampled_from(["built", "held"]),
            st.frozensets(st.integers(1, files_up_to), max_size=3) if files_up_to else st.just(frozenset()),
        ),
        max_size=4,
        unique_by=lambda one: (one.asset, one.day),
    )


def insert_builds(connection: psycopg.Connection, found: Sequence[Build], files: Sequence[File] = ()) -> None:
    """Enter builds, and of the files that they counted those that there are."""
    insert(
        connection,
        "usage.build",
        [
            {"asset": one.asset, "partition_key": one.day, "state": one.state, "inputs_digest": one.digests[0],
             "rules_digest": one.digests[1]}
            for one in found
        ],
    )  # fmt: skip
    known = {one.number for one in files}
    insert(
        connection,
        "usage.build_file",
        [
            {"asset": one.asset, "partition_key": one.day, "file_id": number}
            for one in found
            for number in one.files & known
        ],
    )
