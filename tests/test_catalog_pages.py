"""`billing catalog`: a folder's findings, what changes between two catalogs, the schemas for editors."""

import json
import shutil
from pathlib import Path

import pytest

from console import cli
from resources.settings import PROJECT_ROOT

SHIPPED = PROJECT_ROOT / "catalog"


@pytest.fixture
def draft(tmp_path: Path) -> Path:
    """Return a copy of the shipped catalog that a test may edit."""
    copy = tmp_path / "draft"
    shutil.copytree(SHIPPED, copy)
    return copy


def test_a_good_folder_is_counted(draft: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["catalog", "check", str(draft)]) == 0
    assert "is a catalog" in capsys.readouterr().out


def test_a_wrong_folder_is_one_error_with_every_finding(draft: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prices = draft / "prices.toml"
    prices.write_text(
        prices.read_text().replace('currency = "USD"', 'currency = "USX"', 1).replace('"0.0125"', "0.0125", 1)
    )
    assert cli.run(["catalog", "check", str(draft)]) == 1
    said = capsys.readouterr().err
    assert "prices.toml" in said
    assert "is a TOML float" in said


def test_two_folders_are_compared_without_a_database(
    draft: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BILLING_HOME", str(tmp_path / "never-made"))
    prices = draft / "prices.toml"
    prices.write_text(prices.read_text().replace('unit_price = "0.0055"', 'unit_price = "0.0050"', 1))
    assert cli.run(["catalog", "diff", str(SHIPPED), str(draft)]) == 0
    said = capsys.readouterr().out
    assert "starter_requests version 2" in said
    assert "tiers.3.unit_price: 0.0055 -> 0.005" in said
    assert "2026-03-03 00:00" in said
    assert cli.run(["catalog", "diff", str(SHIPPED), str(SHIPPED)]) == 0
    assert "No difference" in capsys.readouterr().out
    assert not (tmp_path / "never-made").exists()


def test_what_names_no_catalog_is_refused(draft: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["catalog", "diff", str(draft), "yesterday"]) == 1
    assert "'yesterday' names no catalog" in capsys.readouterr().err


def test_schemas_are_written_for_editors(tmp_path: Path) -> None:
    assert cli.run(["catalog", "schema", "--out", str(tmp_path / "made")]) == 0
    names = sorted(path.name for path in (tmp_path / "made").iterdir())
    assert names == sorted(path.name for path in (SHIPPED / "schema").iterdir())
    assert json.loads((tmp_path / "made" / "prices.schema.json").read_text())["title"] == "prices.toml"
