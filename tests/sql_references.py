"""Which test holds which SQL file to a short reference in Python: `@pytest.mark.sql_reference("usage_inputs", ...)`.

The mark is a claim, and both ends of it are checked: a file that no test names is found by `without_reference`, a test that does
not run the SQL it names fails (`tests.conftest`).
"""

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from resources import duck

MARK = "sql_reference"


def without_reference(sql_folder: Path, test_folder: Path) -> set[str]:
    """Return the SQL files that no test names."""
    return {path.stem for path in sql_folder.glob("*.sql")} - named(test_folder)


def unknown(sql_folder: Path, test_folder: Path) -> set[str]:
    """Return what tests name and is no SQL file."""
    return named(test_folder) - {path.stem for path in sql_folder.glob("*.sql")}


def named(test_folder: Path) -> set[str]:
    """Return the SQL files that tests name in a mark of their own, or of one of their parameters."""
    return {
        name
        for path in test_folder.glob("test_*.py")
        if MARK in (text := path.read_text(encoding="utf-8"))
        for function in ast.walk(ast.parse(text))
        if isinstance(function, ast.FunctionDef) and function.name.startswith("test_")
        for decorator in function.decorator_list
        for call in ast.walk(decorator)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == MARK
        for name in map(ast.literal_eval, call.args)
    }


@contextmanager
def held_to_its_word(test: pytest.Item) -> Iterator[None]:
    """Let a test fail that names SQL and does not read it."""
    claimed = {name for mark in test.iter_markers(MARK) for name in mark.args}
    if not claimed:
        yield
        return
    read: set[str] = set()
    read_text = Path.read_text
    # a process keeps the text of SQL that it has read, and how it was parsed
    duck.sql.cache_clear()
    duck._PARSED.clear()

    def reading(self: Path, *args: Any, **kwargs: Any) -> str:
        if self.suffix == ".sql":
            read.add(self.stem)
        return read_text(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Path, "read_text", reading)
        yield
    assert claimed <= read, (
        f"{test.name} says that it holds this SQL to a reference and does not run it: {claimed - read}"
    )
