"""The storage benchmark on a tiny scale: every contender runs, and all come to the same usage rows."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from bench import cases
from bench.cases import Suite
from bench.measure import ResultsDifferError, bench
from bench.storage import CONTENDERS, _assert_same
from bench.storage_data import storage_data
from bench.task import run_task
from tests.conftest import NOT_DURABLE


@pytest.fixture(scope="module")
def suite(open_folder: Path) -> Iterator[Suite]:
    folder = open_folder / "bench-storage"
    with bench(folder / "work", launch=run_task, server_settings=NOT_DURABLE) as running:
        yield Suite(bench=running, folder=folder, rows=20_000, runs=1, told=lambda text: None, days=3)


class TestStorage:
    def test_all_ways_end_in_the_same_usage_rows(self, suite: Suite) -> None:
        result = cases.CASES["storage"](suite)
        assert tuple(median.contender for median in result.medians) == CONTENDERS
        ours, *others = [median.facts["usage"] for median in result.medians if "usage" in median.facts]
        assert ours[0] > 1_000
        assert others == [ours, ours]
        facts = result.medians[1].facts
        assert (facts["days"], 9_800 < facts["events"] < 10_200, facts["states"] > 3 * 400) == (3, True, True)
        assert [goal.name for goal in result.goals] == ["storage, memory"]
        wrong = replace(result.medians[1], facts={"usage": [1, "1"]})
        with pytest.raises(ResultsDifferError, match="differ"):
            _assert_same([wrong, result.medians[2]])


class TestData:
    def test_is_the_same_from_the_same_seed_and_holds_repeats(self, tmp_path: Path) -> None:
        options = {"repositories": 50, "events": 2_000, "days": 3, "accounts": 7}
        first, second = (storage_data(tmp_path / name, **options) for name in ("a", "b"))
        query = "select * exclude (line_number) from read_parquet($files) order by all"
        left, right = (
            duckdb.execute(query, {"files": data.files("core/object_events")}).fetchall() for data in (first, second)
        )
        assert left == right
        repeats = duckdb.execute(
            "select count(*) - count(distinct event_id) from read_parquet($files)",
            {"files": first.files("core/object_events")},
        ).fetchall()
        assert repeats[0][0] > 5
