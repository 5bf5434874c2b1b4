"""Every SQL file is held to a short reference in Python by a test over random rows, and the tests say by which."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from resources import duck
from resources.settings import PROJECT_ROOT
from tests.sql_references import held_to_its_word, named, unknown, without_reference

SQL = PROJECT_ROOT / "billing_pipeline" / "sql"
TESTS = PROJECT_ROOT / "tests"


class TestEverySqlFile:
    def test_has_a_test_that_compares_it_with_a_reference(self) -> None:
        assert without_reference(SQL, TESTS) == set(), (
            "write a short reference in Python, compare over random rows, and mark the test with pytest.mark.sql_reference"
        )
        assert unknown(SQL, TESTS) == set(), "a test names SQL that is not there"

    def test_without_one_is_found(self, tmp_path: Path) -> None:
        for name in ("held", "lonely", "of_a_parameter"):
            (tmp_path / f"{name}.sql").write_text("select 1")
        (tmp_path / "test_held.py").write_text(
            '@pytest.mark.sql_reference("held", "gone")\ndef test_one(): ...\n'
            '@pytest.mark.parametrize("a", [pytest.param(1, marks=pytest.mark.sql_reference("of_a_parameter"))])\n'
            "def test_two(a): ...\n"
            # no test: nobody runs it
            '@pytest.mark.sql_reference("lonely")\ndef helper(): ...\n'
        )
        assert named(tmp_path) == {"held", "gone", "of_a_parameter"}
        assert without_reference(tmp_path, tmp_path) == {"lonely"}
        assert unknown(tmp_path, tmp_path) == {"gone"}


class TestATestThatNamesSql:
    def claiming(self, *names: str) -> pytest.Item:
        mark = SimpleNamespace(args=names)
        return SimpleNamespace(name="test", iter_markers=lambda _: [mark])  # type: ignore[return-value]

    def test_must_run_it(self) -> None:
        with held_to_its_word(self.claiming("usage_inputs", "storage_inputs")):
            duck.sql("usage_inputs")
            duck.sql("storage_inputs")
        with (
            pytest.raises(AssertionError, match=r"does not run it: \{'storage_inputs'\}"),
            held_to_its_word(self.claiming("usage_inputs", "storage_inputs")),
        ):
            duck.sql("usage_inputs")
