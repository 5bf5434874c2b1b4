"""Deduplication in one pass equals a set of (identity, content): laws 2 and 3 for a delivery day."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resources import seen_identities
from resources.request_reader import RECORD_SCHEMA
from resources.request_sink import LAKE_SCHEMA, RequestSink, Written

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
# event id, content
Row = tuple[str, int]
# source, file id, rows
Delivery = tuple[str, int, Sequence[Row]]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sink") / "day.parquet"


def table_of(rows: Sequence[Row], *, first_line: int = 1) -> pa.Table:
    """Return rows as the reader gives them; the content is told by the response time, null included."""
    count = len(rows)
    return pa.table(
        {
            "line_number": pa.array(range(first_line, first_line + count), pa.int64()),
            "event_id": pa.array([event_id for event_id, _ in rows], pa.string()),
            "event_at": pa.array([(NOON + timedelta(hours=8 * content)).replace(tzinfo=None) for _, content in rows]),
            "client_id": pa.array(["acme"] * count, pa.string()),
            "method": pa.array(["GET"] * count, pa.string()),
            "endpoint": pa.array(["/a"] * count, pa.string()),
            "status_code": pa.array([200] * count, pa.int16()),
            "response_time_us": pa.array([content or None for _, content in rows], pa.int64()),
            "response_bytes": pa.array([None] * count, pa.int64()),
            "is_simulated": pa.array([False] * count, pa.bool_()),
        },
        schema=RECORD_SCHEMA,
    )


def written(
    path: Path,
    deliveries: Sequence[Delivery],
    *,
    expected_rows: int = 0,
    identities_repeat: bool = True,
) -> Written:
    lines: Counter[int] = Counter()
    with RequestSink(path, expected_rows=expected_rows) as sink:
        for source, file_id, rows in deliveries:
            table = table_of(rows, first_line=lines[file_id] + 1)
            lines[file_id] += len(rows)
            sink.add(table, source=source, file_id=file_id, identities_repeat=identities_repeat)
        return sink.finish()


def kept(path: Path) -> list[tuple[str, str, int]]:
    """Return (source, event id, content) of the file's rows, sorted."""
    return sorted(
        (row["source"], row["event_id"], row["response_time_us"] or 0) for row in pq.read_table(path).to_pylist()
    )


ROWS = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 2)), max_size=25)
DELIVERIES = st.lists(st.tuples(st.sampled_from(["api", "auth"]), st.integers(1, 3), ROWS), max_size=5)


class TestDeduplication:
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(deliveries=DELIVERIES, table_bits=st.sampled_from([8, 64, 1 << 20]))
    def test_equals_a_set_of_identity_and_content_whatever_the_split(
        self,
        deliveries: list[Delivery],
        table_bits: int,
        path: Path,
    ) -> None:
        """Also with a bit table so small that it is full: it only sets more rows aside."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(seen_identities, "SMALLEST_TABLE_BITS", table_bits)
            done = written(path, deliveries)
        distinct = {(source, event_id, content) for source, _, rows in deliveries for event_id, content in rows}
        contents = defaultdict(set)
        for source, event_id, content in distinct:
            contents[source, event_id].add(content)
        assert kept(path) == sorted(distinct)
        assert done.rows == len(distinct)
        assert done.conflicting_identities == sum(len(several) > 1 for several in contents.values())
        assert sum(done.event_days.values()) == done.rows

    @settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(rows=ROWS, cut=st.integers(0, 25))
    def test_does_not_depend_on_where_a_file_is_cut_or_on_order(self, rows: list[Row], cut: int, path: Path) -> None:
        whole = written(path, [("api", 1, rows)])
        rows_of_whole = kept(path)
        parts = written(path, [("api", 2, rows[::-1][:cut]), ("api", 1, rows[::-1][cut:])])
        assert kept(path) == rows_of_whole
        assert (parts.rows, parts.conflicting_identities, parts.event_days) == (
            whole.rows,
            whole.conflicting_identities,
            whole.event_days,
        )

    def test_keeps_one_copy_of_each_content_and_its_first_position(self, path: Path) -> None:
        deliveries: list[Delivery] = [
            ("api", 1, [("a", 1), ("b", 1), ("a", 1)]),
            ("api", 2, [("b", 1), ("b", 2), ("c", 0), ("c", 0)]),
        ]
        done = written(path, deliveries)
        rows = pq.read_table(path).to_pylist()
        assert sorted((row["event_id"], row["file_id"], row["line_number"]) for row in rows) == [
            ("a", 1, 1),
            ("b", 1, 2),
            ("b", 2, 2),
            ("c", 2, 3),
        ]
        assert (done.rows, done.conflicting_identities) == (4, 1)

    def test_takes_an_identity_of_another_source_for_another_one(self, path: Path) -> None:
        assert written(path, [("api", 1, [("a", 1)]), ("auth", 2, [("a", 1), ("a", 2)])]).rows == 3

    def test_leaves_rows_alone_whose_identity_is_their_position(self, path: Path) -> None:
        done = written(path, [("web", 1, [("x", 1), ("x", 1)])], identities_repeat=False)
        assert (done.rows, done.conflicting_identities) == (2, 0)

    def test_finds_a_repeat_far_behind_its_first_among_many(self, path: Path) -> None:
        many = [(f"r{number}", 1) for number in range(30_000)]
        parts = [("api", 1, many[start : start + 1_000]) for start in range(0, len(many), 1_000)]
        done = written(path, [*parts, ("api", 2, many[::7]), ("api", 3, [("r3", 2)])])
        assert (done.rows, done.conflicting_identities) == (30_001, 1)

    @pytest.mark.parametrize("expected_rows", [0, 100_000])
    def test_drops_the_right_rows_of_a_table_in_pieces(self, tmp_path: Path, expected_rows: int) -> None:
        # Found in a demo: the mask of repeats met other rows than its own, and every count still balanced.
        rows = [(f"r-{number}", number % 7) for number in range(40_000)]
        repeated = rows[5_000:45_000:3] + rows[:2_000]
        table = table_of([*rows, *repeated])
        pieces = pa.Table.from_batches(table.to_batches(max_chunksize=2_048))
        with RequestSink(tmp_path / "day.parquet", expected_rows=expected_rows) as sink:
            sink.add(pieces, source="api", file_id=1, identities_repeat=True)
            sink.finish()
        lines = pq.read_table(tmp_path / "day.parquet").column("line_number").to_pylist()
        assert sorted(lines) == list(range(1, len(rows) + 1))

    def test_finds_repeats_of_rows_whose_hashes_are_on_disk(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(seen_identities, "HASHES_IN_MEMORY", 100)
        many = [(f"r{number}", 1) for number in range(1_000)]
        parts = [("api", 1, many[start : start + 70]) for start in range(0, len(many), 70)]
        done = written(path, [*parts, ("api", 2, many[::7]), ("api", 3, [("r3", 2)])])
        assert (done.rows, done.conflicting_identities) == (1_001, 1)
        assert [found.name for found in path.parent.iterdir()] == [path.name]

    @pytest.mark.parametrize("in_memory", [0, 25, 1 << 17])
    def test_keeps_the_right_ones_of_rows_set_aside_on_disk(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: int
    ) -> None:
        monkeypatch.setattr(seen_identities, "ASIDE_IN_MEMORY", in_memory)
        many = [(f"r{number}", number % 5) for number in range(1_000)]
        # Every tenth comes again with the same content, every 77th with another.
        again, other = many[::10], [(event_id, 99) for event_id, _ in many[::77]]
        parts = [("api", 1, many), ("api", 2, again[:40]), ("api", 2, again[40:] + other[:5]), ("api", 3, other[5:])]
        done = written(path, parts)
        assert (done.rows, done.conflicting_identities) == (1_000 + len(other), len(other))
        rows = pq.read_table(path, columns=["event_id", "source", "file_id"]).to_pylist()
        added = sorted((row["event_id"], row["file_id"]) for row in rows if row["file_id"] > 1)
        assert added == sorted((name, 2 if place < 5 else 3) for place, (name, _) in enumerate(other))
        assert {row["source"] for row in rows} == {"api"}
        assert [found.name for found in path.parent.iterdir()] == [path.name]


class TestFile:
    def test_has_the_columns_of_the_lake(self, path: Path) -> None:
        written(path, [("api", 1, [("a", 1)])])
        (row,) = pq.read_table(path).to_pylist()
        assert list(row) == LAKE_SCHEMA.names
        assert (row["source"], row["file_id"], row["event_at"]) == ("api", 1, datetime(2026, 3, 1, 20))  # noqa: DTZ001

    def test_of_nothing_is_a_file_without_rows(self, path: Path) -> None:
        done = written(path, [])
        assert (done.rows, done.file_days, dict(done.event_days)) == (0, (), {})
        assert pq.read_table(path).num_rows == 0

    def test_tells_the_event_days_of_each_file(self, path: Path) -> None:
        done = written(path, [("api", 1, [("a", 0), ("b", 2)]), ("api", 2, [("b", 2), ("c", 1)])])
        assert [(entry.file_id, entry.event_day, entry.rows) for entry in done.file_days] == [
            (1, date(2026, 3, 1), 1),
            (1, date(2026, 3, 2), 1),
            (2, date(2026, 3, 1), 1),
        ]
        assert dict(done.event_days) == {date(2026, 3, 1): 2, date(2026, 3, 2): 1}

    def test_leaves_no_hashes_behind_even_when_the_work_fails(self, path: Path) -> None:
        broken = table_of([("a", 1)]).drop_columns("method")
        with RequestSink(path, expected_rows=1) as sink:
            sink.add(table_of([("a", 1)]), source="api", file_id=1, identities_repeat=True)
            with pytest.raises(KeyError):
                sink.add(broken, source="api", file_id=1, identities_repeat=True)
        assert [found.name for found in path.parent.iterdir()] == [path.name]


class TestBitTable:
    @given(hashes=st.lists(st.integers(0, 2**64 - 1), max_size=200), bits=st.sampled_from([8, 64, 4_096]))
    def test_never_denies_what_was_put_in(self, hashes: list[int], bits: int) -> None:
        table = seen_identities.BitTable(bits)
        words = np.array(hashes, dtype=np.uint64)
        table.put(words)
        assert table.has(words).all()

    def test_denies_nearly_all_else_while_it_is_not_full(self) -> None:
        words = np.random.default_rng(7).integers(0, 2**64, size=20_000, dtype=np.uint64)
        table = seen_identities.BitTable(1 << 19)
        table.put(words[:10_000])
        assert table.has(words[10_000:]).mean() < 0.01

    def test_calls_only_the_first_of_equal_hashes_in_one_batch_new(self) -> None:
        seen = seen_identities.SeenHashes(10)
        assert seen.are_new(np.array([5, 7, 5, 5, 9], dtype=np.uint64)).tolist() == [True, True, False, False, True]
        assert seen.are_new(np.array([9, 11], dtype=np.uint64)).tolist() == [False, True]
