"""The lake folder: a generation appears whole, once, and never changes. S3: test_s3.py."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from resources.disk import DiskError
from resources.lake import Lake, LakeConflictError, LakeDraft, LakeFileMissingError, LakeNameError

DAY = date(2026, 3, 1)
DATASET = "core/request_records"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"), tmp_path / "scratch")


def produced(folder: Path, content: bytes, name: str = "out.parquet") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


class TestPublish:
    def test_gives_the_bytes_a_name_and_a_digest(self, lake: Lake, tmp_path: Path) -> None:
        published = lake.publish(produced(tmp_path, b"rows"), dataset=DATASET, partition=DAY, generation="r1-ab")
        assert published.uri == "core/request_records/day=2026-03-01/gen=r1-ab.parquet"
        assert published.sha256 == hashlib.sha256(b"rows").hexdigest()
        assert published.size_bytes == 4
        assert lake.fetch(published.uri).read_bytes() == b"rows"
        assert files(tmp_path / "lake") == [published.uri]

    def test_is_done_once_when_done_twice(self, lake: Lake, tmp_path: Path) -> None:
        local = produced(tmp_path, b"rows")
        first = lake.publish(local, dataset=DATASET, partition=DAY, generation="g")
        inode = lake.fetch(first.uri).stat().st_ino
        assert lake.publish(local, dataset=DATASET, partition=DAY, generation="g") == first
        assert lake.fetch(first.uri).stat().st_ino == inode

    def test_never_changes_a_generation(self, lake: Lake, tmp_path: Path) -> None:
        first = lake.publish(produced(tmp_path, b"rows"), dataset=DATASET, partition=DAY, generation="g")
        with pytest.raises(LakeConflictError, match="new generation"):
            lake.publish(produced(tmp_path, b"ROWS"), dataset=DATASET, partition=DAY, generation="g")
        assert lake.fetch(first.uri).read_bytes() == b"rows"

    def test_is_a_copy(self, lake: Lake, tmp_path: Path) -> None:
        local = produced(tmp_path, b"rows")
        published = lake.publish(local, dataset=DATASET, partition=DAY, generation="g")
        local.write_bytes(b"changed in place")
        assert lake.fetch(published.uri).read_bytes() == b"rows"

    def test_may_be_moved_with_its_names(self, lake: Lake, tmp_path: Path) -> None:
        published = lake.publish(produced(tmp_path, b"rows"), dataset=DATASET, partition=DAY, generation="g")
        (tmp_path / "lake").rename(tmp_path / "elsewhere")
        assert Lake(str(tmp_path / "elsewhere"), tmp_path).fetch(published.uri).read_bytes() == b"rows"

    @pytest.mark.parametrize("is_other_disk", [False, True])
    def test_made_for_the_lake_are_moved_there_or_copied_from_another_disk(
        self, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_other_disk: bool
    ) -> None:
        def refused(source: Path, target: Path) -> None:
            raise OSError(errno.EXDEV, "Invalid cross-device link")

        if is_other_disk:
            monkeypatch.setattr(os, "rename", refused)
        local = produced(tmp_path, b"rows")
        digest = hashlib.sha256(b"rows").hexdigest()
        draft = LakeDraft(local_file=local, dataset=DATASET, partition=DAY, generation="g", sha256=digest)
        (published,) = lake.publish_all([draft])
        assert (published.sha256, lake.fetch(published.uri).read_bytes()) == (digest, b"rows")
        assert lake.fetch(published.uri).stat().st_mode & 0o777 == 0o644
        assert local.exists() is is_other_disk

    @pytest.mark.parametrize(
        ("dataset", "generation"),
        [("../core", "g"), ("core", "../g"), ("core", ".g"), ("", "g"), ("core", "a/b"), ("core", "")],
    )
    def test_refuses_names_that_leave_the_lake(self, lake: Lake, tmp_path: Path, dataset: str, generation: str) -> None:
        with pytest.raises(LakeNameError):
            lake.publish(produced(tmp_path, b"rows"), dataset=dataset, partition=DAY, generation=generation)
        assert not (tmp_path / "lake").exists()

    def test_leaves_nothing_when_the_disk_fails(
        self, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(DiskError, match="no space left"):
            lake.publish(produced(tmp_path, b"rows"), dataset=DATASET, partition=DAY, generation="g")
        assert files(tmp_path / "lake") == []

    def test_of_many_waits_for_each_file_before_its_name_and_for_each_folder_after(
        self, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waited: list[int] = []
        folders: set[int] = set()
        sync, replace = os.fsync, os.replace

        def noted_sync(descriptor: int) -> None:
            sync(descriptor)
            waited.append(os.fstat(descriptor).st_ino)

        def noted_replace(draft: Path, target: Path) -> None:
            assert draft.stat().st_ino in waited
            assert not folders & set(waited)
            replace(draft, target)
            folders.add(target.parent.stat().st_ino)

        monkeypatch.setattr(os, "fsync", noted_sync)
        monkeypatch.setattr(os, "replace", noted_replace)
        drafts = [
            LakeDraft(
                local_file=produced(tmp_path, b"rows %d" % number, f"{number}.parquet"),
                dataset=DATASET,
                partition=DAY + timedelta(days=number),
                generation="g",
            )
            for number in range(20)
        ]
        published = lake.publish_all(drafts)
        assert [lake.fetch(one.uri).read_bytes() for one in published] == [b"rows %d" % number for number in range(20)]
        root = tmp_path / "lake"
        folders |= {folder.stat().st_ino for folder in (root.parent, root, root / "core", root / DATASET)}
        assert folders < set(waited)
        assert len(waited) == 20 + 20 + 4

    def test_survives_kill_9_with_a_whole_file_or_none(self, tmp_path: Path) -> None:
        local = produced(tmp_path, os.urandom(8 << 20))
        program = (
            "import sys, datetime, pathlib, resources.lake as lake\n"
            "place = lake.Lake(sys.argv[1], pathlib.Path(sys.argv[1]))\n"
            "print('ready', flush=True)\n"
            "for number in range(10000):\n"
            "    place.publish(pathlib.Path(sys.argv[2]), dataset='core', partition=datetime.date(2026, 3, 1),"
            " generation=f'g{number}')\n"
        )
        root = tmp_path / "lake"
        for delay in (0.011, 0.023, 0.037):
            command = [sys.executable, "-c", program, str(root), str(local)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent) as process:
                assert process.stdout is not None
                process.stdout.readline()
                time.sleep(delay)
                process.send_signal(signal.SIGKILL)
        for name in files(root):
            assert name.endswith(".tmp") or (root / name).read_bytes() == local.read_bytes()
        lake = Lake(str(root), tmp_path)
        lake.sweep(unused_since=datetime.now(UTC) + timedelta(minutes=1))
        assert not [name for name in files(root) if name.endswith(".tmp")]


class TestFetch:
    def test_refuses_what_is_not_there(self, lake: Lake) -> None:
        with pytest.raises(LakeFileMissingError, match="ingest its delivery day again"):
            lake.fetch("core/request_records/day=2026-03-01/gen=g.parquet")

    @pytest.mark.parametrize("uri", ["../x", "/etc/passwd", "core/day=2026-03-01/gen=../../x.parquet", ""])
    def test_refuses_what_is_no_name_of_the_lake(self, lake: Lake, uri: str) -> None:
        with pytest.raises(LakeNameError):
            lake.fetch(uri)


class TestRemove:
    def test_deletes_once_and_does_not_mind_twice(self, lake: Lake, tmp_path: Path) -> None:
        published = lake.publish(produced(tmp_path, b"rows"), dataset=DATASET, partition=DAY, generation="g")
        lake.remove(published.uri)
        lake.remove(published.uri)
        with pytest.raises(LakeFileMissingError):
            lake.fetch(published.uri)


class TestSweep:
    def test_deletes_old_leftovers_and_no_generation(self, lake: Lake, tmp_path: Path) -> None:
        published = lake.publish(produced(tmp_path, b"rows"), dataset=DATASET, partition=DAY, generation="g")
        folder = lake.fetch(published.uri).parent
        for name, age_hours in ((".old.tmp", 30), (".young.tmp", 1)):
            leftover = produced(folder, b"half", name)
            moment = (datetime(2026, 3, 2, tzinfo=UTC) - timedelta(hours=age_hours)).timestamp()
            os.utime(leftover, (moment, moment))
        os.utime(lake.fetch(published.uri), (0, 0))
        assert lake.sweep(unused_since=datetime(2026, 3, 1, tzinfo=UTC)) == 1
        assert files(folder) == [".young.tmp", "gen=g.parquet"]
