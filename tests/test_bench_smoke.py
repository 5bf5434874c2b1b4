"""The benchmarks on a tiny scale: every contender runs, and all come to the same usage rows."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import duckdb
import fastavro
import pytest

from bench import cases, report
from bench.cases import Suite
from bench.machine import this_machine
from bench.measure import (
    ContenderFailedError,
    Measurement,
    ResultsDifferError,
    assert_same_usage,
    bench,
    in_own_process,
)
from bench.request_data import RequestRows
from bench.request_files import dataset
from bench.task import Task, run_task
from tests.conftest import NOT_DURABLE

ROWS = 4_000
DAYS = 3


@pytest.fixture(scope="module")
def suite(open_folder: Path) -> Iterator[Suite]:
    """Return a suite whose data takes a moment."""
    folder = open_folder / "bench"
    with bench(folder / "work", launch=run_task, server_settings=NOT_DURABLE) as running:
        yield Suite(
            bench=running,
            folder=folder,
            rows=ROWS,
            runs=1,
            told=lambda text: None,
            days=DAYS,
            backfilled_by=("ours",),
            subscriptions=20,
            rating_seconds=0.01,
            copied_rows=1_000,
        )


def _usage_rows(result: cases.Result) -> set[int | None]:
    return {median.usage_rows for median in result.medians if median.usage_rows is not None}


class TestRequests:
    def test_all_ways_from_json_lines_end_in_the_same_usage_rows(self, suite: Suite) -> None:
        result = cases.requests_json(suite)
        assert [median.contender for median in result.medians] == [
            "duckdb-parse",
            "ours",
            "polars",
            "pandas",
            "postgres",
        ]
        assert len(_usage_rows(result)) == 1
        assert sum(median.usage_rows is not None for median in result.medians) == 4
        ours = result.medians[1]
        assert [part.name for part in ours.parts] == ["discover", "ingest", "usage"]
        assert ours.facts["lines"] == ROWS
        assert ours.facts["duplicates"] == ROWS // 100
        assert 0.88 < float(ours.facts["billable_share"]) < 0.92

    def test_all_ways_from_avro_end_in_the_same_usage_rows(self, suite: Suite) -> None:
        result = cases.requests_avro(suite)
        assert len(_usage_rows(result)) == 1
        assert sum(median.usage_rows is not None for median in result.medians) == 4

    def test_hourly_files_hold_the_rows_of_the_one_file(self, suite: Suite) -> None:
        one, hourly = (dataset(suite.folder, kind, rows=ROWS) for kind in ("json", "json-hourly"))
        assert len(hourly.files) == 24
        query = "select * from read_json($first) except all select * from read_json($second)"
        left, right = [str(path) for path in one.files], [str(path) for path in hourly.files]
        assert duckdb.execute(query, {"first": left, "second": right}).fetchall() == []
        assert duckdb.execute(query, {"first": right, "second": left}).fetchall() == []


class TestOtherCases:
    def test_days_and_one_day_are_compared_through_stores(self, suite: Suite) -> None:
        result = cases.backfill(suite)
        assert [row[0] for row in result.rows] == ["stores, 1 day", f"stores, {DAYS} days"]
        assert len(_usage_rows(result)) == 1

    def test_dagster_builds_the_same_rows_as_the_stores(self, suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "environ", os.environ.copy())
        days = dataset(suite.folder, "json-days", rows=ROWS, days=DAYS)
        runs = [
            suite.bench.run(Task(contender=contender, landing=str(days.landing)), catalog=suite.catalog("json"))
            for contender in ("dagster", "ours")
        ]
        assert runs[0].facts["event_days"] == DAYS
        assert_same_usage(runs)

    def test_a_month_is_booked_once_with_all_of_its_prices(self, suite: Suite) -> None:
        result = cases.booking(suite)
        facts = result.medians[0].facts
        assert facts["charges"] == 10 * suite.subscriptions * 5
        assert facts["lines"] >= 10 * suite.subscriptions
        assert [row[0] for row in result.rows] == ["rate and book", "nothing changed"]

    def test_merged_days_come_to_the_same_charges_as_hours(self, suite: Suite) -> None:
        result = cases.merged(suite)
        assert [row[0] for row in result.rows] == [
            "by the hour",
            "merged at first",
            "nothing changed",
            "one day built anew",
        ]

    def test_backtest_rates_and_changes_every_metered_charge(self, suite: Suite) -> None:
        result = cases.backtest(suite)
        facts = result.medians[0].facts
        assert facts["usage_rows"] == min(365, suite.days) * suite.subscriptions
        assert 0 < facts["changed"] < facts["charges"]
        assert [row[0] for row in result.rows] == ["book", "scan", "scan and rate", "backtest"]
        assert [goal.name for goal in result.goals] == ["backtest"]

    def test_every_price_model_is_rated_and_charges_are_booked(self, suite: Suite) -> None:
        result = cases.rating(suite)
        speeds = {row[0]: row[2] for row in result.rows}
        assert {"standard", "graduated", "volume", "package", "flat fee", "mix"} <= set(speeds)
        assert result.medians[0].facts["revisions"] == 40

    def test_rows_are_loaded_with_and_without_keys(self, suite: Suite) -> None:
        assert [row[0] for row in cases.bulk_load(suite).rows] == ["usage.plain", "usage.api_requests"]

    def test_memory_is_taken_of_one_file_and_of_five(self, suite: Suite) -> None:
        small, large = cases.memory(suite).medians
        assert large.facts["lines"] == 5 * small.facts["lines"]
        assert small.peak_bytes > 50 * 2**20

    def test_invoices_of_years_are_added_up_right(self, suite: Suite) -> None:
        """FLY-12; wrong totals stop the benchmark."""
        result = cases.invoice_months(replace(suite, rows=30_000))
        assert result.medians[0].facts == {"invoices": 3_000, "months": 60}

    def test_stripe_is_called_for_days_of_customers_not_for_events(self, suite: Suite) -> None:
        result = cases.stripe_calls(replace(suite, rows=60_000))
        syncs, after, one, many = result.rows
        # 3 days of 6 customers: an item of each is made on the first and set again on the others.
        assert (syncs[1], syncs[3]) == ("6", "18")
        assert (after[3], one[3], many[3]) == ("6", "1", "60")
        assert [goal.is_met for goal in result.goals] == [True, True, True, True]

    def test_events_that_are_pushed_are_counted_once_at_a_rate_and_in_turns(self, suite: Suite) -> None:
        """FP-20; a count that is not that of the files stops the benchmark."""
        promised, fastest = cases.steady(replace(suite, minutes=0.04)).medians
        assert (promised.facts["events"], promised.facts["bulks"]) == (50, 1)
        assert (fastest.facts["events"], fastest.facts["bulks"], fastest.facts["cycles"]) == (ROWS, 4, 1)
        assert 0.85 < fastest.facts["billable"] / fastest.facts["identities"] < 0.95
        assert promised.facts["lag_most"] < 60


class TestData:
    def test_is_the_same_from_the_same_seed(self, tmp_path: Path) -> None:
        first, second = (dataset(tmp_path / name, "json", rows=1_000) for name in ("a", "b"))
        assert first.files[0].read_bytes() == second.files[0].read_bytes()

    def test_avro_holds_the_values_of_the_json_lines(self, tmp_path: Path) -> None:
        lines = dataset(tmp_path, "json", rows=1_000)
        with dataset(tmp_path, "avro", rows=1_000).files[0].open("rb") as file:
            records = list(fastavro.reader(file))
        rows = duckdb.execute(
            "select request_id::varchar, endpoint, status_code, response_time_ms, is_real_vehicle, epoch_ms(timestamp::timestamp)"
            " from read_json($files)",
            {"files": [str(path) for path in lines.files]},
        ).fetchall()
        names = ("request_id", "endpoint", "status_code", "response_time_ms", "is_real_vehicle")
        seen = [
            (*(record[name] for name in names), round(record["timestamp"].timestamp() * 1000)) for record in records
        ]
        assert seen == rows

    def test_refuses_a_number_of_rows_that_does_not_hold_its_repeats(self) -> None:
        with pytest.raises(ValueError, match="multiple of 100"):
            RequestRows(rows=150, first_day=date(2026, 3, 1))


class TestReport:
    def test_keeps_every_figure_and_replaces_the_block_of_the_document(self, tmp_path: Path) -> None:
        goal = cases.Goal(name="memory", goal="at most 2 GB", seen="0.50 GiB", is_met=True)
        result = cases.Result(
            case="memory", title="Peak", columns=("rows", "GiB"), rows=(("10", "0.5"),), goals=(goal,)
        )
        machine = this_machine()
        report.write_json(tmp_path / "results.json", machine, "python -m bench", [result])
        assert json.loads((tmp_path / "results.json").read_text())["results"][0]["goals"][0]["is_met"] is True
        document = tmp_path / "benchmarks.md"
        document.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
        report.write_into(document, report.markdown(machine, "python -m bench", [result]))
        text = document.read_text()
        assert "old" not in text
        assert "| memory | at most 2 GB | 0.50 GiB | met |" in text
        assert text.startswith("before\n")
        assert text.endswith("\nafter\n")

    def test_results_that_differ_are_not_compared(self) -> None:
        def run(name: str, digest: str) -> Measurement:
            return Measurement(
                contender=name, parts=(), peak_bytes=0, server_cpu_seconds=0, server_peak_bytes=0,
                usage=(1, digest), facts={},
            )  # fmt: skip

        assert_same_usage([run("ours", "1"), run("polars", "1")])
        with pytest.raises(ResultsDifferError, match="polars"):
            assert_same_usage([run("ours", "1"), run("polars", "2")])

    def test_a_process_that_fails_says_why(self, tmp_path: Path) -> None:
        with pytest.raises(ContenderFailedError, match="KeyError: 'seconds'"):
            in_own_process({"contender": "rating", "files": [], "work": str(tmp_path)})
