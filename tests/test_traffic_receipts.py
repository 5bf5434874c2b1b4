"""Pushed snapshots: kept durably before the sender hears so, once, in a folder or a bucket."""

import errno
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from billing_pipeline.errors import BillingError
from billing_pipeline.sources.traffic_snapshots import encode_body
from resources.landing import Landing
from resources.traffic_config import TrafficSource
from resources.traffic_receipts import PushRefusedError, TrafficReceiver
from tests.test_s3 import endpoint as endpoint
from tests.test_s3 import s3 as s3
from tests.traffic_nodes import sample, snapshot

NOW = datetime(2026, 4, 8, 1, tzinfo=UTC)
SOURCE = TrafficSource(name="jp", env="prod", node="jp")
BODY = encode_body([snapshot(0, sample(1, 2)), snapshot(1, sample(3, 4))])


def receiver(url: str, folder: Path) -> TrafficReceiver:
    return TrafficReceiver(url, [SOURCE], folder / "scratch")


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


class TestReceive:
    def test_keeps_a_body_once_whatever_its_framing(self, tmp_path: Path) -> None:
        landing = tmp_path / "landing"
        kept = receiver(str(landing), tmp_path).receive("jp", BODY, received_at=NOW)
        assert (kept.snapshots, kept.samples, kept.duplicate) == (2, 2, False)
        assert (landing / kept.key).read_bytes() == BODY
        array = b"[" + BODY.strip().replace(b"\n", b",") + b"]"
        again = receiver(str(landing), tmp_path).receive("jp", array, received_at=NOW)
        assert (again.key, again.duplicate) == (kept.key, True)
        assert files(tmp_path) == [f"landing/{kept.key}"]

    def test_syncs_the_bytes_before_the_name_and_the_folders_after_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        landing = tmp_path / "landing"
        landing.mkdir()
        steps: list[str] = []
        sync, rename = os.fsync, os.replace

        def synced(descriptor: int) -> None:
            steps.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "bytes")
            sync(descriptor)

        def renamed(source: Any, target: Any) -> None:
            steps.append("name")
            rename(source, target)

        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(os, "replace", renamed)
        receiver(str(landing), tmp_path).receive("jp", BODY, received_at=NOW)
        # jp/pushed/../ with their parents up to the landing folder
        assert steps == ["bytes", "name", *["folder"] * 5]

    def test_on_a_full_disk_says_so_and_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(_descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(BillingError, match="space"):
            receiver(str(tmp_path / "landing"), tmp_path).receive("jp", BODY, received_at=NOW)
        assert files(tmp_path) == []

    def test_keeps_objects_in_a_bucket_as_well(self, s3: Any, tmp_path: Path) -> None:
        url = "s3://logs/landing"
        kept = receiver(url, tmp_path).receive("jp", BODY, received_at=NOW)
        assert not kept.duplicate
        assert receiver(url, tmp_path).receive("jp", BODY, received_at=NOW).duplicate
        landing = Landing(url, tmp_path / "scratch")
        assert [file.key for file in landing.list("traffic/jp/")] == [kept.key]
        with landing.fetched(kept.key) as path:
            assert path.read_bytes() == BODY
        assert files(tmp_path) == []

    def test_takes_no_output_of_xray(self, tmp_path: Path) -> None:
        polled = TrafficSource(name="jp", env="prod", node="jp", format="statsquery")
        with pytest.raises(PushRefusedError):
            TrafficReceiver(str(tmp_path), [polled], tmp_path).receive("jp", BODY, received_at=NOW)
