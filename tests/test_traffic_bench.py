"""The traffic benchmark on a tiny scale: every contender runs, and all come to the same minute buckets."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from bench import cases
from bench.cases import Suite
from bench.measure import ResultsDifferError, bench
from bench.task import run_task
from bench.traffic import CONTENDERS, _assert_same
from bench.traffic_data import MINUTES_SEEN, day_of_streams, days_of_node
from tests.conftest import NOT_DURABLE


@pytest.fixture(scope="module")
def suite(open_folder: Path) -> Iterator[Suite]:
    folder = open_folder / "bench-traffic"
    with bench(folder / "work", launch=run_task, server_settings=NOT_DURABLE) as running:
        yield Suite(bench=running, folder=folder, rows=10_000, runs=1, told=lambda text: None, days=3)


class TestTraffic:
    def test_all_ways_end_in_the_same_buckets(self, suite: Suite) -> None:
        result = cases.CASES["traffic"](suite)
        assert tuple(median.contender for median in result.medians) == CONTENDERS
        ours, *others = [median.facts["usage"] for median in result.medians if "usage" in median.facts]
        assert ours[0] > 1_000
        assert others == [ours, ours]
        assert [goal.name for goal in result.goals] == [
            "traffic, minute deltas against a bare scan",
            "traffic, memory",
        ]
        wrong = replace(result.medians[2], facts={"usage": [1, "1"]})
        with pytest.raises(ResultsDifferError, match="differ"):
            _assert_same([wrong, result.medians[3]])

    def test_days_of_one_node_are_built_in_one_run(self, suite: Suite) -> None:
        result = cases.CASES["traffic-year"](suite)
        ours = result.medians[1]
        assert (ours.facts["days"], ours.facts["usage"][0] > 1_000) == (3, True)


class TestData:
    def test_is_sorted_as_ingest_leaves_it(self, tmp_path: Path) -> None:
        data = day_of_streams(tmp_path, samples=20_000)
        rows = duckdb.execute(
            "select env, node, account_uuid, inbound_tag, collected_at from read_parquet($files)", {"files": data.files}
        ).fetchall()
        assert rows == sorted(rows)
        assert len(rows) == data.rows == data.users * 3 * MINUTES_SEEN

    def test_of_many_days_goes_on_where_the_day_before_ended(self, tmp_path: Path) -> None:
        data = days_of_node(tmp_path, samples=10_000, days=3)
        totals = duckdb.execute(
            "select uplink_bytes from read_parquet($files) where account_uuid = $first order by collected_at",
            {
                "files": data.files,
                "first": duckdb.execute(
                    "select min(account_uuid) from read_parquet($files)", {"files": data.files}
                ).fetchall()[0][0],
            },
        ).fetchall()
        assert totals == sorted(totals)
        assert len(totals) == 3 * 1440
