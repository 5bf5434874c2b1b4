"""A file that is written to be published."""

import hashlib
import os
from pathlib import Path

import pytest

from resources import draft_file
from resources.draft_file import DraftFile


class TestDraftFile:
    def test_holds_and_hashes_what_was_written(self, tmp_path: Path) -> None:
        file = DraftFile(tmp_path / "file")
        for part in (b"one", memoryview(b"two"), b""):
            file.write(part)
        file.close()
        assert (tmp_path / "file").read_bytes() == b"onetwo"
        assert (file.closed, file.sha256) == (True, hashlib.sha256(b"onetwo").hexdigest())

    def test_is_sent_to_the_disk_while_it_grows(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        sizes: list[int] = []
        monkeypatch.setattr(draft_file, "BYTES_AT_ONCE", 10)
        monkeypatch.setattr(os, "fsync", lambda descriptor: sizes.append(os.fstat(descriptor).st_size))
        file = DraftFile(tmp_path / "file")
        file.write(b"123456789")
        assert sizes == []
        file.write(b"0")
        file.close()
        assert sizes == [10]

    def test_tells_what_the_disk_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(draft_file, "BYTES_AT_ONCE", 1)
        monkeypatch.setattr(os, "fsync", full)
        file = DraftFile(tmp_path / "file")
        file.write(b"rows")
        with pytest.raises(OSError, match="No space left"):
            file.close()
        assert file.closed
        file.close()
