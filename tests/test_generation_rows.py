"""Rows of a file out of a generation are those that a query of its file id finds, in its order."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

from resources.generation_rows import GenerationRows
from resources.request_reader import RECORD_SCHEMA
from tests.test_request_sink import DELIVERIES, Delivery, written


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("generation") / "day.parquet"


class TestRowsOf:
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(deliveries=DELIVERIES)
    def test_a_file_are_all_of_its_rows_and_no_others(self, path: Path, deliveries: Sequence[Delivery]) -> None:
        """Repeats among files make row groups of several files."""
        written(path, deliveries)
        columns = ", ".join(RECORD_SCHEMA.names)
        with closing(GenerationRows(path)) as generation:
            for file_id in range(5):
                tables = list(generation.rows_of(file_id))
                assert all(table.schema == RECORD_SCHEMA and table.num_rows for table in tables)
                found = [row for table in tables for row in pa.Table.to_pylist(table)]
                asked = duckdb.execute(
                    f"select {columns} from read_parquet($1) where file_id = $2", [str(path), file_id]
                )
                assert [tuple(row.values()) for row in found] == asked.fetchall()

    def test_without_statistics_are_found_all_the_same(self, path: Path) -> None:
        written(path, [("api", 1, [("a", 1), ("b", 1)]), ("api", 2, [("c", 1)])])
        bare = path.with_name("bare.parquet")
        pq.write_table(pq.read_table(path), bare, write_statistics=False)
        with closing(GenerationRows(bare)) as generation:
            assert [sum(table.num_rows for table in generation.rows_of(file_id)) for file_id in (1, 2, 3)] == [2, 1, 0]
