"""The table of docs/stripe-proof.md names, for each row of the contract, tests that are there."""

import ast
import re

from resources.settings import PROJECT_ROOT

ROWS = 43
_ROW = re.compile(r"^\| (\d+) \| .* \| (`[^|]*`) \|$", re.M)


def names_in(path: str) -> set[str]:
    """Return `Class::test` of every test of a file."""
    tree = ast.parse((PROJECT_ROOT / "tests" / path).read_text(encoding="utf-8"))
    return {
        f"{one.name}::{inner.name}"
        for one in tree.body
        if isinstance(one, ast.ClassDef)
        for inner in one.body
        if isinstance(inner, ast.FunctionDef) and inner.name.startswith("test_")
    }


def test_every_row_of_the_contract_has_tests_that_are_there() -> None:
    text = (PROJECT_ROOT / "docs" / "stripe-proof.md").read_text(encoding="utf-8")
    rows = {int(number): re.findall(r"`([^`]+)`", names) for number, names in _ROW.findall(text)}
    assert sorted(rows) == list(range(1, ROWS + 1))
    there = {path: names_in(path) for names in rows.values() for path in {one.partition("::")[0] for one in names}}
    missing = [
        one for names in rows.values() for one in names if one.partition("::")[2] not in there[one.partition("::")[0]]
    ]
    assert missing == []
