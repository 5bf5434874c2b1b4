"""A query that is planned once reads the rows of each run, whatever their types, and survives a run that failed."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from billing_pipeline.sources.profile import load_profile
from billing_pipeline.sources.request_sql import lines_query
from resources import duck, prepared_queries
from resources.prepared_queries import PreparedQueries
from tests.request_files import api_line

LATEST = datetime(2027, 1, 1)  # noqa: DTZ001
NUMBERS = "select n from numbers"


@pytest.fixture
def queries(tmp_path: Path) -> Iterator[PreparedQueries]:
    with duck.connect(tmp_path) as engine, PreparedQueries(engine) as opened:
        yield opened


def numbers(*values: int, kind: pa.DataType | None = None) -> pa.Table:
    return pa.table({"n": pa.array(values, kind or pa.int64())})


class TestRuns:
    def test_each_reads_its_own_rows(self, queries: PreparedQueries) -> None:
        # With a table registered anew for each run, this very query went on reading the first one.
        query = lines_query(load_profile("billable_request_json"), present=frozenset())
        assert query is not None
        for first, count in ((1, 3), (4, 2), (6, 5), (11, 0), (11, 40_000), (11, 1)):
            lines = pa.table(
                {
                    "line": pa.array([api_line().decode()] * count, pa.large_string()),
                    "line_number": pa.array(range(first, first + count), pa.int64()),
                }
            )
            taken = queries.table(query.optimistic, {"lines": lines}, {"latest": LATEST})
            assert sorted(taken.column("line_number").to_pylist()) == list(range(first, first + count))

    def test_read_several_tables(self, queries: PreparedQueries) -> None:
        query = "select n, m from numbers join others on n = m order by n"
        for common in ([1, 2], [5], []):
            others = pa.table({"m": pa.array([*common, 99], pa.int64())})
            found = queries.table(query, {"numbers": numbers(*common, 98), "others": others})
            assert found.to_pydict() == {"n": common, "m": common}

    def test_of_one_query_take_columns_of_any_type(self, queries: PreparedQueries) -> None:
        for kind in (pa.int64(), pa.int8(), pa.string(), pa.large_string(), pa.int64()):
            table = pa.table({"n": pa.array([1, 2], pa.int64()).cast(kind)})
            assert sorted(str(n) for n in queries.table(NUMBERS, {"numbers": table}).column("n").to_pylist()) == [
                "1",
                "2",
            ]

    def test_go_on_after_one_that_failed(self, queries: PreparedQueries) -> None:
        query = "select cast(n as integer) as n from numbers"
        text = pa.string()
        for value in ("1", "2"):
            with pytest.raises(duckdb.ConversionException):
                queries.table(query, {"numbers": pa.table({"n": pa.array(["none"], text)})})
            good = queries.table(query, {"numbers": pa.table({"n": pa.array([value], text)})})
            assert good.column("n").to_pylist() == [int(value)]

    def test_have_parameters_as_they_are(self, queries: PreparedQueries) -> None:
        query = "select $text::varchar as text, $at::timestamp as at from numbers"
        for text in ("", "it's", "'); drop table numbers; --", "\\", "é\n"):
            at = datetime(2026, 3, 1, 12, 0, 0, 123_456)  # noqa: DTZ001
            (row,) = queries.table(query, {"numbers": numbers(1)}, {"text": text, "at": at}).to_pylist()
            assert row == {"text": text, "at": at}

    def test_are_in_utc(self, queries: PreparedQueries) -> None:
        query = "select current_setting('TimeZone') as zone from numbers"
        assert queries.table(query, {"numbers": numbers(1)}).to_pylist() == [{"zone": "UTC"}]

    def test_that_read_nothing_of_what_they_were_given_count_for_nothing(self, queries: PreparedQueries) -> None:
        with pytest.raises(AssertionError, match="numbers"):
            queries.table("select 1 as n", {"numbers": numbers(1)})


class TestPlans:
    def test_are_few_at_a_time(self, queries: PreparedQueries, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(prepared_queries, "MOST_PLANS", 2)
        for turn in (1, 2):
            for name in ("a", "b", "c"):
                found = queries.table(f"select n as {name} from numbers", {"numbers": numbers(turn)})
                assert found.to_pylist() == [{name: turn}]
                assert len(queries._prepared) <= 2

    def test_let_go_of_the_rows(self, queries: PreparedQueries) -> None:
        queries.table(NUMBERS, {"numbers": numbers(1, 2)})
        (prepared,) = queries._prepared.values()
        assert [source._table.num_rows for source in prepared._sources.values()] == [0]

    def test_leave_no_spill_folder_behind(self, tmp_path: Path) -> None:
        with duck.connect(tmp_path, "20MB", 1) as engine, PreparedQueries(engine) as queries:
            many = numbers(*range(3_000_000))
            queries.table("select n from numbers order by hash(n)", {"numbers": many})
        assert list(tmp_path.iterdir()) == []
