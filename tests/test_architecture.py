"""The house's own rules, as tests: imports go down, the head is pure, every module opens with its contract."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

from resources.settings import PROJECT_ROOT

PACKAGES = ("billing_pipeline", "resources", "assets", "console")
MODULES = sorted(
    path for package in PACKAGES for path in (PROJECT_ROOT / package).rglob("*.py") if path.name != "__init__.py"
)
FRAMEWORKS = frozenset(
    {"dagster", "psycopg", "duckdb", "boto3", "stripe", "httpx", "pandas", "pyarrow", "sqlalchemy", "isal", "polars"}
)
# `compression` is there from Python 3.14 on.
STANDARD = sys.stdlib_module_names | {"compression"}
# boto3's own lower half, and its types for the checker.
COMES_WITH = {"botocore": "boto3", "mypy_boto3_s3": "boto3-stubs", "slack_sdk": "dagster-slack"}
# Reaching outside or asking the clock: the head gets bytes, values and instants from its callers.
IMPURE = frozenset({"os", "subprocess", "socket", "time", "random", "secrets", "tempfile", "shutil", "logging"})


def module_id(path: Path) -> str:
    """Return the path below the project, for test names."""
    return str(path.relative_to(PROJECT_ROOT))


def imported_roots(tree: ast.Module) -> set[str]:
    """Return the top-level names of everything that a module imports."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


class TestDependencies:
    def test_are_declared_where_a_module_imports_them(self) -> None:
        distributions = packages_distributions()
        roots = set().union(*(imported_roots(ast.parse(path.read_text(encoding="utf-8"))) for path in MODULES))
        missing = {
            root
            for root in roots - STANDARD - set(PACKAGES) - set(COMES_WITH)
            if not {name.lower() for name in distributions.get(root, [])} & set(declared())
        }
        assert missing == set()

    def test_have_a_reason_each(self) -> None:
        reasons = (PROJECT_ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8").lower()
        assert [name for name in declared() if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", reasons)] == []


def declared() -> list[str]:
    """Return the names of the project's direct dependencies, those for development among them."""
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    return [re.split(r"[\[<>=; ]", requirement)[0].lower() for requirement in requirements]


def test_the_import_contracts_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT_ROOT)
    assert lint_imports(config_filename="pyproject.toml", no_cache=True) == 0


@pytest.mark.parametrize("path", MODULES, ids=module_id)
class TestEveryModule:
    def test_opens_with_its_contract(self, path: Path) -> None:
        contract = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert contract is not None
        assert len(contract) > 40

    def test_the_head_imports_no_framework_and_nothing_that_reaches_outside(self, path: Path) -> None:
        roots = imported_roots(ast.parse(path.read_text(encoding="utf-8")))
        if path.is_relative_to(PROJECT_ROOT / "billing_pipeline"):
            assert not roots & (FRAMEWORKS | IMPURE)
            assert not roots & {"resources", "assets", "console"}

    def test_swallows_no_blind_exception_below_the_doors(self, path: Path) -> None:
        handlers = [
            node.lineno
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.ExceptHandler)
            and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id == "Exception"))
            and not isinstance(node.body[-1], ast.Raise)
        ]
        if not path.is_relative_to(PROJECT_ROOT / "console"):
            assert handlers == []


def test_importing_everything_reads_no_environment_and_opens_nothing() -> None:
    names = [".".join(path.relative_to(PROJECT_ROOT).with_suffix("").parts) for path in MODULES]
    program = f"""
import importlib, os, socket, sqlite3, sys
import dagster, duckdb, psycopg, boto3, pyarrow, polars, pandas, typer, rich, stripe, matplotlib.pyplot
def refuse(*arguments, **keywords):
    raise AssertionError("an import reached outside")
socket.socket.connect = psycopg.connect = duckdb.connect = boto3.client = refuse
class Untouchable(dict):
    def get(self, name, default=None):
        assert not name.startswith(("BILLING_", "STRIPE_")), name
        return super().get(name, default)
    def __getitem__(self, name):
        assert not name.startswith(("BILLING_", "STRIPE_")), name
        return super().__getitem__(name)
os.environ = Untouchable(os.environ)
for name in {names!r}:
    importlib.import_module(name)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT_ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_decisions_have_a_number_each() -> None:
    """A text that names ADR 38 means one."""
    numbers = [path.name.split("-")[0] for path in (PROJECT_ROOT / "docs" / "adr").glob("*.md")]
    assert len(numbers) > 20
    assert sorted(set(numbers)) == sorted(numbers)
    named = {number for path in MODULES for number in re.findall(r"ADR (\d{4})", path.read_text(encoding="utf-8"))}
    assert named <= set(numbers)
