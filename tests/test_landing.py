"""The landing folder: what is listed, and that half a file is never taken for a whole one. S3: test_s3.py."""

import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing_pipeline.records import Reason
from resources.inflate import FileRejected
from resources.landing import Landing, LandingFileChangedError, LandingKeyError, LandingNotFoundError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "landing"
    folder.mkdir()
    return folder


@pytest.fixture
def landing(root: Path, tmp_path: Path) -> Landing:
    return Landing(str(root), tmp_path / "scratch")


def deliver(root: Path, key: str, content: bytes = b"line\n") -> Path:
    path = root / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def keys(landing: Landing, prefix: str = "") -> list[str]:
    return [file.key for file in landing.list(prefix)]


class TestList:
    def test_is_sorted_by_whole_key(self, landing: Landing, root: Path) -> None:
        for key in ("a/z.log", "a.log", "a-b/c.log", "b", "a/b/c.log", "a0"):
            deliver(root, key)
        assert keys(landing) == ["a-b/c.log", "a.log", "a/b/c.log", "a/z.log", "a0", "b"]

    def test_starts_with_the_prefix_whole_folder_or_not(self, landing: Landing, root: Path) -> None:
        for key in ("requests/1.log", "requests/2.log", "requests-old/1.log", "other/1.log"):
            deliver(root, key)
        assert keys(landing, "requests/") == ["requests/1.log", "requests/2.log"]
        assert keys(landing, "requests") == ["requests-old/1.log", "requests/1.log", "requests/2.log"]
        assert keys(landing, "requests/2") == ["requests/2.log"]

    def test_says_size_and_time(self, landing: Landing, root: Path) -> None:
        path = deliver(root, "a.log", b"12345")
        os.utime(path, (1_772_323_200, 1_772_323_200))
        (file,) = landing.list()
        assert (file.size_bytes, file.modified_at) == (5, datetime(2026, 3, 1, tzinfo=UTC))

    def test_ignores_what_is_not_delivered_yet(self, landing: Landing, root: Path) -> None:
        for key in (".hidden", "_SUCCESS", "a.tmp", "a.part", ".git/x", "_temporary/x.log", "x.tmp/y.log", "good.log"):
            deliver(root, key)
        assert keys(landing) == ["good.log"]

    def test_finds_next_time_what_appears_meanwhile(self, landing: Landing, root: Path) -> None:
        deliver(root, "b/1.log")
        deliver(root, "c/1.log")
        listing = landing.list()
        seen = [next(listing).key]
        deliver(root, "a/1.log")
        deliver(root, "c/2.log")
        seen += [file.key for file in listing]
        assert seen == ["b/1.log", "c/1.log", "c/2.log"]
        assert keys(landing) == ["a/1.log", "b/1.log", "c/1.log", "c/2.log"]

    def test_passes_over_what_vanishes_meanwhile(self, landing: Landing, root: Path) -> None:
        for key in ("a", "b", "c"):
            deliver(root, key)
        listing = landing.list()
        assert next(listing).key == "a"
        (root / "b").unlink()
        assert [file.key for file in listing] == ["c"]

    def test_refuses_a_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(LandingNotFoundError, match="no such folder"):
            list(Landing(str(tmp_path / "nowhere"), tmp_path).list())

    def test_refuses_a_missing_folder_of_a_source(self, landing: Landing) -> None:
        with pytest.raises(LandingNotFoundError, match=r"sources\.toml"):
            list(landing.list("requests/"))

    def test_refuses_a_folder_that_may_not_be_read(self, landing: Landing, monkeypatch: pytest.MonkeyPatch) -> None:
        def deny(path: Path) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "scandir", deny)
        with pytest.raises(LandingNotFoundError, match="may not read it"):
            keys(landing)

    def test_refuses_a_file_in_place_of_the_folder(self, root: Path, tmp_path: Path) -> None:
        with pytest.raises(LandingNotFoundError):
            list(Landing(str(deliver(root, "file")), tmp_path).list())

    def test_lists_a_link_that_stays_inside(self, landing: Landing, root: Path) -> None:
        deliver(root, "a.log")
        (root / "latest.log").symlink_to("a.log")
        assert keys(landing) == ["a.log", "latest.log"]

    def test_does_not_run_in_circles(self, landing: Landing, root: Path) -> None:
        deliver(root, "day/a.log")
        (root / "day" / "up").symlink_to(root)
        assert keys(landing) == ["day/a.log"]

    @pytest.mark.parametrize("target", ["secret.log", "folder"])
    def test_refuses_a_link_that_leaves(self, landing: Landing, root: Path, tmp_path: Path, target: str) -> None:
        deliver(tmp_path, "secret.log")
        (tmp_path / "folder").mkdir()
        (root / "link").symlink_to(tmp_path / target)
        with pytest.raises(LandingKeyError, match="leads out"):
            keys(landing)

    @pytest.mark.parametrize("links", [{"a.log": "a.log"}, {"a.log": "b.log", "b.log": "a.log"}, {"day": "day/day"}])
    def test_refuses_links_in_a_circle(self, landing: Landing, root: Path, links: dict[str, str]) -> None:
        deliver(root, "good.log")
        for name, target in links.items():
            (root / name).symlink_to(target)
        with pytest.raises(LandingKeyError, match=r"'(a\.log|day)' in the landing folder .* leads in a circle"):
            keys(landing)
        with pytest.raises(LandingKeyError, match="leads in a circle"), landing.fetched(next(iter(links))):
            pass

    def test_passes_over_a_link_to_nothing(self, landing: Landing, root: Path) -> None:
        deliver(root, "good.log")
        (root / "gone.log").symlink_to("never.log")
        assert keys(landing) == ["good.log"]

    def test_takes_a_folder_with_the_name_of_a_file_for_a_folder(self, landing: Landing, root: Path) -> None:
        deliver(root, "requests.jsonl.gz/requests.jsonl")
        assert keys(landing) == ["requests.jsonl.gz/requests.jsonl"]

    @pytest.mark.parametrize("linked", [False, True])
    def test_refuses_a_pipe_and_waits_for_nobody(self, landing: Landing, root: Path, linked: bool) -> None:
        deliver(root, "good.log")
        os.mkfifo(root / ".pipe" if linked else root / "pipe.log")
        if linked:
            (root / "pipe.log").symlink_to(".pipe")
        with pytest.raises(LandingKeyError, match=r"'pipe\.log' .* is a pipe, a socket or a device") as caught:
            keys(landing)
        assert "no log file of this folder was read" in str(caught.value)

    def test_refuses_a_socket(self, landing: Landing, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # the path of a socket must be short
        monkeypatch.chdir(root)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("socket.log")
            with pytest.raises(LandingKeyError, match="is a pipe, a socket or a device"):
                keys(landing)

    @pytest.mark.parametrize("prefix", ["../", "/etc/", "a/../../"])
    def test_refuses_a_prefix_that_leaves(self, landing: Landing, prefix: str) -> None:
        with pytest.raises(LandingKeyError):
            keys(landing, prefix)

    def test_refuses_a_name_that_is_no_text(self, landing: Landing, root: Path) -> None:
        (root / os.fsdecode(b"caf\xe9.log")).write_bytes(b"line\n")
        with pytest.raises(LandingKeyError, match="UTF-8"):
            keys(landing)

    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(names=st.sets(st.text("ab-.0/", min_size=1, max_size=6).filter(lambda key: all(key.split("/"))), max_size=8))
    def test_orders_folders_as_s3_does(self, tmp_path_factory: pytest.TempPathFactory, names: set[str]) -> None:
        root = tmp_path_factory.mktemp("landing")
        expected = []
        for key in sorted(names):
            if any(part.startswith(".") for part in key.split("/")):
                continue
            if (root / key).exists() or any((root / parent).is_file() for parent in _parents(key)):
                continue
            deliver(root, key)
            expected.append(key)
        assert keys(Landing(str(root), root)) == sorted(expected)


def _parents(key: str) -> list[str]:
    parts = key.split("/")
    return ["/".join(parts[:length]) for length in range(1, len(parts))]


def read_while(landing: Landing, key: str, happening: Callable[[], object]) -> None:
    """Fetch `key` and let something happen before it is given back."""
    with landing.fetched(key) as local:
        local.read_bytes()
        happening()


class TestFetched:
    def test_gives_the_file_itself(self, landing: Landing, root: Path) -> None:
        path = deliver(root, "a/b.log", b"content")
        with landing.fetched("a/b.log") as local:
            assert local.read_bytes() == b"content"
        assert path.exists()

    def test_refuses_a_file_that_grew_while_it_was_read(self, landing: Landing, root: Path) -> None:
        path = deliver(root, "a.log")
        with pytest.raises(LandingFileChangedError, match="rename when the file is complete"):
            read_while(landing, "a.log", lambda: path.write_bytes(b"line\nline\n"))

    def test_refuses_a_file_that_was_replaced(self, landing: Landing, root: Path) -> None:
        path = deliver(root, "a.log")
        other = deliver(root, "other.tmp", b"LINE\n")
        os.utime(other, ns=(path.stat().st_mtime_ns, path.stat().st_mtime_ns))
        with pytest.raises(LandingFileChangedError):
            read_while(landing, "a.log", lambda: other.replace(path))

    def test_says_changed_rather_than_what_half_a_file_looked_like(self, landing: Landing, root: Path) -> None:
        path = deliver(root, "a.gz")

        def grow_and_refuse() -> None:
            path.write_bytes(b"longer now")
            raise FileRejected(Reason.BAD_COMPRESSION, "cut off")

        with pytest.raises(LandingFileChangedError):
            read_while(landing, "a.gz", grow_and_refuse)

    def test_lets_the_error_of_an_unchanged_file_pass(self, landing: Landing, root: Path) -> None:
        deliver(root, "a.gz")
        with pytest.raises(FileRejected), landing.fetched("a.gz"):
            raise FileRejected(Reason.BAD_COMPRESSION, "cut off")

    def test_says_changed_when_the_file_is_gone(self, landing: Landing) -> None:
        with pytest.raises(LandingFileChangedError), landing.fetched("gone.log"):
            pass

    @pytest.mark.parametrize("key", ["../secret", "/etc/passwd", "a/../../secret"])
    def test_refuses_a_key_that_leaves(self, landing: Landing, tmp_path: Path, key: str) -> None:
        deliver(tmp_path, "secret")
        with pytest.raises(LandingKeyError), landing.fetched(key):
            pass
