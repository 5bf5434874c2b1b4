"""Folders of a run: what a killed run left is removed, what another holds stays."""

import os
import tempfile
from pathlib import Path

import pytest

from tests import folders
from tests.folders import PREFIX, place, temporary_folder


class TestFolder:
    def test_is_removed_at_the_end_and_held_until_then(self, tmp_path: Path) -> None:
        with temporary_folder(tmp_path) as held:
            os.utime(held, (0, 0))
            with temporary_folder(tmp_path) as other:
                assert held.is_dir()
                assert other.is_dir()
            assert list(tmp_path.iterdir()) == [held]
        assert list(tmp_path.iterdir()) == []

    def test_of_a_killed_run_is_removed_by_the_next_unless_it_was_made_just_now(self, tmp_path: Path) -> None:
        old, young = tmp_path / f"{PREFIX}old", tmp_path / f"{PREFIX}young"
        for folder in (old, young):
            (folder / "postgres").mkdir(parents=True)
        os.utime(old, (0, 0))
        with temporary_folder(tmp_path):
            assert young.is_dir()
            assert not old.exists()


class TestPlace:
    def test_is_on_disk_where_memory_has_no_room_or_the_user_names_another(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(folders, "MEMORY", Path("/nowhere"))
        assert place() == Path(tempfile.gettempdir())
        monkeypatch.setattr(folders, "MEMORY", Path("/"))
        monkeypatch.setattr(folders, "FREE_BYTES", 1 << 60)
        assert place() == Path(tempfile.gettempdir())
        monkeypatch.setattr(folders, "FREE_BYTES", 0)
        monkeypatch.delenv("TMPDIR", raising=False)
        assert place() == (Path("/") if os.access("/", os.W_OK) else Path(tempfile.gettempdir()))
        monkeypatch.setenv("TMPDIR", "/tmp")
        assert place() == Path(tempfile.gettempdir())
