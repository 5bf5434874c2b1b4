"""The SQL that merges samples into a day's generation, against a few lines of Python: copies, contradictions, any order."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing_pipeline.sources.traffic_snapshots import TrafficSample, TrafficSnapshot
from resources import duck
from resources.duck_tables import bind_rows
from resources.traffic_samples import ConflictVersion, Draft, Merged, merge

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
FAST = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
# env, node, account uuid, inbound tag, instant
Key = tuple[str, str, str, str, datetime]
Totals = tuple[int, int]
# Where it came from; what was pulled has no file, a file without lines has no position.
Origin = tuple[str, int | None, int | None]


@dataclass(frozen=True, slots=True)
class Delivered:
    """A snapshot as it came. `is_taken`: it is in the draft and new; else the draft has it for nothing."""

    env: str
    node: str
    minute: int
    samples: tuple[tuple[str, str, int, int], ...]
    uptime: int | None
    version: str | None
    source: str
    file: int | None
    is_taken: bool

    @property
    def at(self) -> datetime:
        return NOON + timedelta(minutes=self.minute)

    @property
    def rows(self) -> Iterator[tuple[Key, Totals, Origin]]:
        for line, (uuid, tag, uplink, downlink) in enumerate(self.samples, 1):
            position = None if self.file is None else line
            yield (self.env, self.node, uuid, tag, self.at), (uplink, downlink), (self.source, self.file, position)


DELIVERED = st.builds(
    Delivered,
    st.sampled_from(["prod", "prod", "test"]),
    st.sampled_from(["jp", "jp", "de"]),
    st.integers(0, 1),
    st.lists(
        st.tuples(
            st.sampled_from("uv"), st.sampled_from(["", "x"]), st.sampled_from([1, 1, 1, 2]), st.sampled_from([1, 1, 3])
        ),
        max_size=3,
    ).map(tuple),
    st.sampled_from([None, 5, 6]),
    st.sampled_from([None, "1.9", "1.10"]),
    st.sampled_from(["a", "b"]),
    st.sampled_from([None, 1, 2]),
    st.sampled_from([True, True, True, False]),
)
ROUNDS = st.lists(st.lists(DELIVERED, max_size=3), min_size=1, max_size=4)


@dataclass
class Version:
    """What is known of one pair of totals for one stream and instant."""

    origins: list[Origin] = field(default_factory=list)
    uptimes: list[int] = field(default_factory=list)
    xray_versions: list[str] = field(default_factory=list)

    @property
    def origin(self) -> Origin:
        return min(self.origins, key=lambda one: (one[0], one[1] or 0, one[2] or 0))


class ReferenceDay:
    """A day of samples: of each stream and instant one row, none where two totals were ever said."""

    def __init__(self) -> None:
        self.versions: dict[Key, dict[Totals, Version]] = {}
        self.conflicts: dict[tuple[Key, Totals], Origin] = {}

    def take(self, delivered: list[Delivered]) -> tuple[int, set[tuple[Key, Totals, Origin]]]:
        """Return how many samples brought nothing, and what is in conflict now and was not before."""
        duplicates = 0
        for snapshot in delivered:
            for key, totals, origin in snapshot.rows:
                versions = self.versions.setdefault(key, {})
                duplicates += totals in versions
                known = versions.setdefault(totals, Version())
                known.origins.append(origin)
                known.uptimes += [snapshot.uptime] if snapshot.uptime is not None else []
                known.xray_versions += [snapshot.version] if snapshot.version is not None else []
        found = {
            (key, totals, version.origin)
            for key, versions in self.versions.items()
            for totals, version in versions.items()
            if len(versions) > 1 and (key, totals) not in self.conflicts
        }
        self.conflicts |= {(key, totals): origin for key, totals, origin in found}
        return duplicates, found

    @property
    def rows(self) -> list[tuple[Any, ...]]:
        return [
            (*key[:-1], key[-1].replace(tzinfo=None), *totals, max(one.uptimes, default=None),
             max(one.xray_versions, default=None), *one.origin)
            for key, versions in sorted(self.versions.items())
            if len(versions) == 1
            for totals, one in versions.items()
        ]  # fmt: skip


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    with duck.connect(tmp_path_factory.mktemp("scratch")) as connection:
        yield connection


def merged(
    engine: duckdb.DuckDBPyConnection,
    folder: Path,
    number: int,
    delivered: list[Delivered],
    conflicts: list[ConflictVersion],
) -> Merged:
    """Merge a round of snapshots, as a run does, with the generation of the round before."""
    with Draft(folder / "draft.parquet") as draft:
        for one in delivered:
            samples = tuple(
                TrafficSample(account_uuid=uuid, inbound_tag=tag, uplink_bytes=uplink, downlink_bytes=downlink)
                for uuid, tag, uplink, downlink in one.samples
            )
            snapshot = TrafficSnapshot(
                env=one.env, node=one.node, collected_at=one.at, samples=samples, uptime_seconds=one.uptime,
                xray_version=one.version,
            )  # fmt: skip
            positions = None if one.file is None else range(1, len(samples) + 1)
            draft.add(snapshot, source=one.source, file_id=one.file, positions=positions)
        return merge(
            engine,
            current=folder / f"{number - 1}.parquet" if number else None,
            draft=draft.finish(),
            snapshots=[kept for kept, one in zip(draft.snapshots, delivered, strict=True) if one.is_taken],
            conflicts=conflicts,
            target=folder / f"{number}.parquet",
        )


class TestSamplesOfAnySnapshots:
    @pytest.mark.sql_reference("traffic_samples_incoming", "traffic_samples_versions", "traffic_samples_generation")
    @settings(FAST, max_examples=60)
    @given(rounds=ROUNDS)
    def test_become_one_row_a_stream_and_instant_and_none_where_two_totals_were_said(
        self, engine: duckdb.DuckDBPyConnection, tmp_path: Path, rounds: list[list[Delivered]]
    ) -> None:
        day, conflicts = ReferenceDay(), list[ConflictVersion]()
        for number, delivered in enumerate(rounds):
            result = merged(engine, tmp_path, number, delivered, conflicts)
            duplicates, in_conflict = day.take([one for one in delivered if one.is_taken])
            rows = [tuple(row.values()) for row in pq.read_table(result.path).to_pylist()]
            assert rows == day.rows
            assert (result.rows, result.duplicates) == (len(rows), duplicates)
            found = {
                (
                    (one.env, one.node, one.account_uuid, one.inbound_tag, one.collected_at),
                    (one.uplink_bytes, one.downlink_bytes),
                    (one.source, one.file_id, one.line_number),
                )
                for one in result.new_conflicts
            }
            assert found == in_conflict
            assert len(result.new_conflicts) == len(found)
            conflicts += result.new_conflicts


DAY_NUMBERS, STREAM_KEYS, DIGESTS = st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**64 - 1)


class TestDigestsOfEarlierSamples:
    @pytest.mark.sql_reference("traffic_earlier_digests")
    @settings(FAST, max_examples=60)
    @given(
        last=st.dictionaries(st.tuples(DAY_NUMBERS, STREAM_KEYS), DIGESTS, max_size=8),
        days=st.sets(st.tuples(DAY_NUMBERS, STREAM_KEYS), max_size=8),
    )
    def test_are_of_the_last_sample_before_the_day_of_each_of_its_streams(
        self,
        engine: duckdb.DuckDBPyConnection,
        last: dict[tuple[int, int], int],
        days: set[tuple[int, int]],
    ) -> None:
        # a stream of the day has a last sample on it
        last = last | {key: 7 for key in days if key not in last}
        keys = {"event_day": pa.int64(), "stream_key": pa.uint64()}
        bind_rows(engine, "traffic_stream_days", keys, sorted(days))
        bind_rows(
            engine,
            "traffic_last_samples",
            keys | {"row_digest": pa.uint64()},
            [(*key, one) for key, one in last.items()],
        )
        found = engine.execute(duck.sql("traffic_earlier_digests")).fetchall()
        expected: dict[int, list[int]] = {}
        for day, stream in days:
            before = [other for other, name in last if name == stream and other < day]
            expected.setdefault(day, []).extend([last[max(before), stream]] if before else [])
        digests = []
        for day, samples in sorted(expected.items()):
            digest = 0
            for one in samples:
                digest ^= one
            digests.append((day, str(digest) if samples else None, len(samples)))
        assert sorted(found) == digests
