"""What event days of storage are made of: the SQL against a few lines of Python over random rows of PostgreSQL."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resources.database import Database
from resources.storage_inputs import StorageDay, read_inputs
from tests import input_rows
from tests.input_rows import DAYS, Build, File, Generation, insert, passing

ASSET, TAILS, LISTINGS = "usage/storage", "usage/storage_tails", "core/storage_objects"
DELIVERED = ("core/object_events", "core/storage_snapshots", "core/visibility_events")
DATASETS = (*DELIVERED, LISTINGS, TAILS, "core/request_records")
SOURCES = ("a", "É")
EARLIER, LATER = DAYS[0] - timedelta(days=2), DAYS[-1] + timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Taken:
    """A snapshot, accepted or not."""

    source: str
    at: datetime
    file: int
    status: str
    bucket: str | None

    @property
    def name(self) -> str:
        return f"{self.source}{self.file}"


@dataclass(frozen=True, slots=True)
class Found:
    """How a repository began, as a later day has found it."""

    day: date
    repository: str
    bucket: str
    days_before: int
    size: int | None
    visibility: str | None
    owner: str | None

    @property
    def began_on(self) -> date:
        return self.day - timedelta(days=self.days_before)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a guard says of a delivery day, and for which inputs."""

    asset: str
    day: date
    guard: str
    inputs: str
    status: str = "held"

    @property
    def row(self) -> dict[str, object]:
        return {
            "asset": self.asset,
            "partition_key": self.day.isoformat(),
            "guard": self.guard,
            "inputs_digest": self.inputs,
        }


@dataclass(frozen=True, slots=True)
class World:
    """All that days are made of."""

    files: Sequence[File]
    snapshots: Sequence[Taken]
    generations: Sequence[Generation]
    verdicts: Sequence[Verdict]
    releases: Sequence[Verdict]
    bases: Sequence[Found]
    tails: Mapping[date, Sequence[date]]
    builds: Sequence[Build]


def verdicts(statuses: Sequence[str]) -> st.SearchStrategy[list[Verdict]]:
    return st.lists(
        st.builds(
            Verdict,
            st.sampled_from([*DELIVERED, *DELIVERED, "core/request_records"]),
            st.sampled_from([DAYS[0], DAYS[0], DAYS[1]]),
            st.sampled_from(["g", "h"]),
            st.sampled_from(["1", "2"]),
            st.sampled_from(statuses),
        ),
        max_size=5,
        unique_by=lambda one: (one.asset, one.day, one.guard),
    )


SNAPSHOTS = st.lists(
    st.builds(
        lambda source, day, wait, *rest: Taken(source, datetime.combine(day, time(), UTC) + wait, *rest),
        st.sampled_from(["a", "B", "É"]),
        st.sampled_from(DAYS),
        # midnight and the last instant before it
        st.sampled_from([timedelta(), timedelta(hours=11), timedelta(days=1) - MICROSECOND]),
        st.integers(1, 3),
        st.sampled_from(["accepted", "accepted", "held"]),
        st.sampled_from([None, "bucket"]),
    ),
    max_size=4,
    unique_by=lambda one: (one.source, one.at),
)
BASES = st.lists(
    st.builds(
        Found,
        st.sampled_from(DAYS),
        st.sampled_from(["r", "R", "é"]),
        st.sampled_from(["", "b"]),
        st.integers(1, 3),
        st.sampled_from([None, 0, 5]),
        st.sampled_from([None, "public"]),
        st.sampled_from([None, "ann"]),
    ),
    max_size=5,
    unique_by=lambda one: (one.day, one.repository, one.bucket),
)
WORLDS = st.builds(
    World,
    files=input_rows.files(DATASETS).filter(lambda found: len(found) >= 3),
    snapshots=SNAPSHOTS,
    generations=input_rows.generations(DATASETS),
    verdicts=verdicts(["held", "held", "held", "passed", "released"]),
    releases=verdicts([""]),
    bases=BASES,
    tails=st.dictionaries(st.sampled_from(DAYS), st.lists(st.sampled_from(DAYS), max_size=2), max_size=3),
    builds=input_rows.builds([ASSET, ASSET, "usage/traffic"]),
)
BOUNDS = st.sampled_from([None, EARLIER, DAYS[1], LATER])


def expected_days(world: World, first: date | None, last: date | None) -> list[StorageDay]:
    """Return each day from the first evidence to the last and as far as was asked for."""
    evident = {
        *(day for one in accepted(world) for day in one.days),
        *(one.at.date() for one in taken(world)),
        *(one.day for one in world.builds if one.asset == ASSET),
    }
    earliest = min([*evident, *([first] if first else [])], default=None)
    latest = max([*evident, *([last] if last else [])], default=None)
    if earliest is None or latest is None:
        return []
    return [day_of(world, earliest + timedelta(days=number)) for number in range(max(0, (latest - earliest).days + 1))]


def day_of(world: World, day: date) -> StorageDay:
    """Return what a day is made of, read from the words at the top of the SQL."""
    current = sorted(
        (one for one in world.generations if one.is_current and day in one.days),
        key=lambda one: (one.dataset, one.partition),
    )
    build = next((one for one in world.builds if (one.asset, one.day) == (ASSET, day)), None)
    tail = world.tails.get(day)
    tail_file = next(
        (one for one in world.generations if (one.dataset, one.partition, one.is_current) == (TAILS, day, True)), None
    )
    return StorageDay(
        day=day,
        own_digest=digest(["\t".join(one.words(day)) for one in accepted(world) if day in one.days], of_nothing=""),
        bases_digest=digest(
            [
                "\t".join(
                    [one.repository, one.bucket, str(one.day), "-" if one.size is None else str(one.size),
                     one.visibility or "-", one.owner or "-"]
                )
                for one in sorted(world.bases, key=lambda one: (one.repository.encode(), one.bucket, one.day))
                if one.began_on <= day < one.day
            ],
            of_nothing="",
            is_sorted=True,
        ),
        listing_digest=digest(
            [f"{one.partition}\t{one.inputs_digest}\t{one.days[day]}" for one in current if one.dataset == LISTINGS]
        ),
        generations=[
            {"dataset": one.dataset, "partition": str(one.partition), "generation": one.name, "uri": one.uri,
             "rows": one.days[day]}
            for one in current
            if one.dataset in (*DELIVERED, LISTINGS)
        ],
        snapshots=[
            [one.source, one.name, one.at.strftime("%Y-%m-%dT%H:%M:%S.%f"), one.bucket]
            for one in sorted(taken(world), key=lambda one: (one.at, one.source.encode()))
            if one.at.date() == day
        ],
        held_deliveries=[
            [one.asset, str(one.day), one.guard, one.inputs]
            for one in sorted(held(world), key=lambda one: (one.asset, one.day, one.guard))
            if one.day == day or any((one.asset, one.day) == (each.dataset, each.partition) for each in current)
        ],
        tail_digest=None if tail is None else f"tail {day}",
        tail_uri=tail_file.uri if tail_file else None,
        index_days=list(tail or ()),
        built_inputs_digest=build.digests[0] if build else None,
        built_rules_digest=build.digests[1] if build else None,
        is_held=build is not None and build.state == "held",
    )  # fmt: skip


def accepted(world: World) -> list[File]:
    return [one for one in world.files if one.status == "accepted" and one.source in SOURCES]


def taken(world: World) -> list[Taken]:
    return [one for one in world.snapshots if one.status == "accepted" and one.source in SOURCES]


def held(world: World) -> list[Verdict]:
    released = {(one.asset, one.day, one.guard, one.inputs) for one in world.releases}
    return [
        one
        for one in world.verdicts
        if one.asset in DELIVERED
        and one.status == "held"
        and (one.asset, one.day, one.guard, one.inputs) not in released
    ]


def digest(lines: Iterable[str], *, of_nothing: str | None = None, is_sorted: bool = False) -> str:
    in_order = list(lines) if is_sorted else sorted(lines, key=str.encode)
    if not in_order and of_nothing is not None:
        return of_nothing
    return hashlib.sha256("\n".join(in_order).encode()).hexdigest()


class TestInputsOfDaysOfStorage:
    @pytest.mark.sql_reference("storage_inputs")
    @settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(world=WORLDS, first=BOUNDS, last=BOUNDS)
    def test_are_files_snapshots_listings_and_what_later_days_have_found(
        self, database: Database, world: World, first: date | None, last: date | None
    ) -> None:
        with passing(database) as connection:
            input_rows.insert_files(connection, world.files)
            input_rows.insert_generations(connection, world.generations)
            input_rows.insert_builds(connection, world.builds)
            insert(
                connection,
                "core.storage_snapshot",
                [
                    {
                        "source": one.source,
                        "file_id": one.file,
                        "snapshot_at": one.at,
                        "snapshot_id": one.name,
                        "status": one.status,
                        "bucket": one.bucket,
                    }
                    for one in world.snapshots
                ],
            )
            insert(connection, "guards.verdict", [one.row | {"status": one.status} for one in world.verdicts])
            insert(connection, "guards.release", [one.row for one in world.releases])
            insert(
                connection,
                "usage.storage_base",
                [
                    {
                        "event_day": one.day,
                        "repository": one.repository,
                        "bucket": one.bucket,
                        "began_on": one.began_on,
                        "base_bytes": one.size,
                        "base_visibility": one.visibility,
                        "base_owner": one.owner,
                    }
                    for one in world.bases
                ],
            )
            insert(
                connection,
                "usage.storage_tail",
                [
                    {"event_day": day, "tail_digest": f"tail {day}", "index_days": list(days)}
                    for day, days in world.tails.items()
                ],
            )
            found = read_inputs(connection, SOURCES, first_day=first, last_day=last)
        assert list(found.days.values()) == expected_days(world, first, last)  # fmt: skip
