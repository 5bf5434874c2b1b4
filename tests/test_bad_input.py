"""Bad input of any kind gets one clear error that names the cause and the fix; when it is removed, the same command goes on.

Through the command line, because that is where a person meets it. Nothing is lost: each trial ends in the state of a run
that was never disturbed.
"""

import contextlib
import errno
import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from assets import execution
from console import cli
from resources import usage_store
from resources.database import copy_arrow
from tests.chain import PRICES, SOURCES, Facts, Installation, Site, assert_same, three_days, write_catalog
from tests.conftest import administer, database_url, login_url

PASSWORD = "s3cret-and-wrong"
DELIVERED = [*three_days()[0], *three_days()[1]]


@pytest.fixture(scope="module")
def site(postgres_url: str, template_database: str, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(postgres_url, template_database, tmp_path_factory.mktemp("bad-input"))


@pytest.fixture(scope="module")
def dagster_url(postgres_url: str) -> Iterator[str]:
    name = f"dagster_{uuid.uuid4().hex[:12]}"
    administer(postgres_url, f'create database "{name}"')
    yield database_url(postgres_url, name)
    administer(postgres_url, f'drop database "{name}" with (force)')


@pytest.fixture
def installation(site: Site) -> Iterator[Installation]:
    with site.installation() as installation:
        installation.deliver(DELIVERED)
        yield installation


@pytest.fixture(scope="module")
def expected(site: Site) -> Facts:
    """Return what an undisturbed run makes of the deliveries."""
    with site.installation() as installation:
        installation.deliver(DELIVERED)
        installation.bring_up_to_date()
        return installation.facts()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command said."""

    code: int
    out: str
    err: str


Billing = Callable[..., Answer]


@pytest.fixture
def billing(
    installation: Installation,
    dagster_url: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Billing]:
    """Return the command `billing` on the installation; keywords are environment variables of this one call."""
    before = dict(os.environ)
    environment = {
        "BILLING_HOME": str(installation.home),
        "BILLING_DATABASE_URL": installation.database.url,
        "DAGSTER_DATABASE_URL": dagster_url,
        "BILLING_CATALOG_DIR": str(installation.catalog_dir),
        "BILLING_LANDING_URL": installation.settings.landing_url,
        "BILLING_LAKE_URL": installation.settings.lake_url,
    }

    def run(*arguments: str, **changed: str) -> Answer:
        os.environ.update({**environment, **changed})
        capfd.readouterr()
        code = cli.run(arguments)
        said = capfd.readouterr()
        return Answer(code, said.out, said.err)

    yield run
    os.environ.clear()
    os.environ.update(before)


def refused(answer: Answer, *words: str) -> None:
    """Fail unless the answer is one clear error that has `words`, and no secret."""
    assert answer.code == 1, answer
    assert answer.err.count("Error:") == 1, answer.err
    assert answer.err.count("For the bill:") == answer.err.count("To fix:") == 1, answer.err
    for word in words:
        assert word in answer.err, answer.err
    for forbidden in ("Traceback", "defect of the program", PASSWORD, *passwords()):
        assert forbidden not in answer.err + answer.out, answer.err


def passwords() -> list[str]:
    urls = [os.environ["BILLING_DATABASE_URL"], os.environ["DAGSTER_DATABASE_URL"]]
    return [password for url in urls if (password := urlsplit(url).password)]


def goes_on(billing: Billing, installation: Installation, expected: Facts) -> None:
    """Fail unless the same command ends, with its cause removed, as if nothing had happened."""
    answer = billing("materialize")
    # The first of the two days is whole, the second lacks its other half.
    assert "hours_delivered" in answer.err + answer.out, answer
    assert_same(installation.facts(), expected, "after the cause was removed")


class TestFolders:
    def test_landing_folder_that_is_missing(
        self, billing: Billing, installation: Installation, expected: Facts
    ) -> None:
        refused(billing("materialize", BILLING_LANDING_URL="/nowhere"), "/nowhere", "BILLING_LANDING_URL")
        goes_on(billing, installation, expected)

    def test_folder_of_one_source_that_is_missing(
        self, billing: Billing, installation: Installation, expected: Facts
    ) -> None:
        auth, elsewhere = installation.home / "landing/requests/auth", installation.home / "elsewhere"
        auth.rename(elsewhere)
        refused(billing("materialize"), str(auth), "sources.toml")
        elsewhere.rename(auth)
        goes_on(billing, installation, expected)

    def test_folder_of_one_source_inside_that_of_another(
        self, billing: Billing, installation: Installation, expected: Facts
    ) -> None:
        twice = write_catalog(
            installation.home / "twice", sources=SOURCES.replace('"requests/auth"', '"requests/api/a"')
        )
        refused(billing("materialize", BILLING_CATALOG_DIR=str(twice)), "auth", "api", "billed")
        goes_on(billing, installation, expected)

    def test_folder_whose_name_begins_like_that_of_a_source_is_not_read(
        self, billing: Billing, installation: Installation, expected: Facts
    ) -> None:
        key, content = DELIVERED[0]
        installation.deliver([(key.replace("requests/api", "requests/api-of-others"), content)])
        goes_on(billing, installation, expected)

    def test_catalog_folder_that_is_missing(
        self, billing: Billing, installation: Installation, expected: Facts
    ) -> None:
        refused(billing("materialize", BILLING_CATALOG_DIR="/nowhere"), "/nowhere", "sources.toml")
        goes_on(billing, installation, expected)

    def test_home_that_is_a_file(self, billing: Billing, installation: Installation) -> None:
        home = installation.home / "file"
        home.touch()
        refused(billing("materialize", BILLING_HOME=str(home)), str(home), "BILLING_HOME")

    def test_lake_that_is_a_file(self, billing: Billing, installation: Installation, expected: Facts) -> None:
        lake = installation.home / "file"
        lake.touch()
        refused(billing("materialize", BILLING_LAKE_URL=str(lake)), str(lake))
        goes_on(billing, installation, expected)


class TestDatabase:
    @pytest.mark.parametrize("variable", ["BILLING_DATABASE_URL", "DAGSTER_DATABASE_URL"])
    def test_with_a_wrong_password(self, billing: Billing, site: Site, variable: str) -> None:
        user = f"user_{uuid.uuid4().hex[:8]}"
        administer(site.postgres_url, f"create role \"{user}\" login superuser password 'right'")
        url = login_url(os.environ.get(variable) or site.postgres_url, user, PASSWORD)
        refused(billing("materialize", **{variable: url}), "password", user)
        administer(site.postgres_url, f'drop role "{user}"')

    @pytest.mark.parametrize("variable", ["BILLING_DATABASE_URL", "DAGSTER_DATABASE_URL"])
    def test_that_does_not_answer(self, billing: Billing, variable: str) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            url = f"postgresql://jo:{PASSWORD}@127.0.0.1:{unused.getsockname()[1]}/billing"
            refused(billing("materialize", **{variable: url}), "no server answers there", "start the server")

    @pytest.mark.parametrize("variable", ["BILLING_DATABASE_URL", "DAGSTER_DATABASE_URL"])
    def test_that_does_not_exist(self, billing: Billing, site: Site, variable: str) -> None:
        url = database_url(site.postgres_url, "never_created")
        refused(billing("materialize", **{variable: url}), "never_created", "create database")

    @pytest.mark.parametrize("variable", ["BILLING_DATABASE_URL", "DAGSTER_DATABASE_URL"])
    def test_whose_url_cannot_be_understood(self, billing: Billing, variable: str) -> None:
        refused(billing("materialize", **{variable: f"host=localhost password {PASSWORD}"}), "connection string")

    def test_that_ends_the_session_once_is_asked_again(
        self, billing: Billing, installation: Installation, expected: Facts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(execution, "SECONDS_BEFORE_RETRY", 0.0)
        ended = end_sessions(installation, monkeypatch, times=1)
        goes_on(billing, installation, expected)
        assert len(ended) == 1

    def test_that_ends_the_session_again_and_again_leaves_what_was_there(
        self, billing: Billing, installation: Installation, expected: Facts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(execution, "SECONDS_BEFORE_RETRY", 0.0)
        with monkeypatch.context() as patched:
            end_sessions(installation, patched, times=100)
            refused(billing("materialize"), "ended the session", "server's log")
            assert installation.facts()["usage"] == []
        goes_on(billing, installation, expected)


def end_sessions(installation: Installation, monkeypatch: pytest.MonkeyPatch, *, times: int) -> list[int]:
    """Let the server end the session that is about to write usage, so many times; return the pids that it ended."""
    ended: list[int] = []

    def copy_or_end(connection: psycopg.Connection, *rest: Any) -> int:
        if len(ended) < times:
            ended.append(connection.info.backend_pid)
            administer(installation.database.url, f"select pg_terminate_backend({connection.info.backend_pid}, 5000)")
        return copy_arrow(connection, *rest)

    monkeypatch.setattr(usage_store, "copy_arrow", copy_or_end)
    return ended


class TestCatalog:
    def changed(self, installation: Installation, **texts: str) -> str:
        return str(write_catalog(installation.home / f"catalog-{uuid.uuid4().hex[:6]}", **texts))

    @pytest.mark.parametrize(
        ("texts", "words"),
        [
            ({"prices": PRICES.replace("2026-03-03T00", "2025-01-01T00")}, ("acme_requests", "effective_from")),
            ({"prices": PRICES.replace('model = "graduated"', 'model = "gradual"', 1)}, ("acme_requests", "graduated")),
            ({"prices": PRICES + "[[price"}, ("prices.toml",)),
            ({"meters": ""}, ("requests",)),
        ],
        ids=["overlapping versions", "unknown model", "no TOML", "meters that are missing"],
    )
    def test_that_is_wrong(
        self, billing: Billing, installation: Installation, texts: dict[str, str], words: tuple[str, ...]
    ) -> None:
        refused(billing("materialize", BILLING_CATALOG_DIR=self.changed(installation, **texts)), *words)
        assert installation.rows("select * from catalog.release") == []

    def test_that_edits_a_version_in_use(self, billing: Billing, installation: Installation, expected: Facts) -> None:
        goes_on(billing, installation, expected)
        dearer = self.changed(installation, prices=PRICES.replace("0.0125", "0.0126"))
        refused(billing("materialize", BILLING_CATALOG_DIR=dearer), "acme_requests", "version")
        assert_same(installation.facts(), expected, "after an edit that was refused")

    def test_that_names_an_unknown_profile(self, billing: Billing, installation: Installation, expected: Facts) -> None:
        sources = '[[source]]\nname = "api"\nlanding = "requests/api"\nprofile = "nginx_jason"\n'
        answer = billing("materialize", BILLING_CATALOG_DIR=self.changed(installation, sources=sources))
        refused(answer, "nginx_jason", "nginx_json")
        goes_on(billing, installation, expected)


class TestNames:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("materialize", "--day", "1994-12-31"), ("1994-12-31", "1995-01-01")),
            (("materialize", "--day", str((datetime.now(UTC) + timedelta(days=400)).date())), ("no partition",)),
            (("materialize", "--day", "2026-02-30"), ("2026-02-30", "YYYY-MM-DD")),
            (("materialize", "usage/requests", "--day", "2026-03-01"), ("usage/requests", "usage/api_requests")),
            (("bill", "acmee", "2026-03"), ("acmee", "acme")),
            (("bill", "acme", "2026-13"), ("2026-13",)),
            (("explain", "ffffffff"), ("ffffffff",)),
            (("explain", "no-charge"), ("no-charge",)),
            (("rate", "5", "--price", "acme_request"), ("acme_request", "acme_requests")),
            (("rate", "five", "--price", "acme_requests"), ("five",)),
            (("quarantine", "--reason", "bad_jason"), ("bad_jason", "bad_json")),
            (("release", "usage/api_requests", "2026-03-01", "no_such_guard", "--reason", "x"), ("no_such_guard",)),
            (("decide-conflict", "api", "r-0", "none", "--reason", "x"), ("r-0",)),
            (("demo", "--landing", "/nowhere", "--profile", "nginx_json"), ("/nowhere",)),
            (("demo", "--landing", "/tmp", "--profile", "nginx_jason"), ("nginx_jason", "nginx_json")),
        ],
    )
    def test_that_do_not_exist(
        self, billing: Billing, installation: Installation, arguments: tuple[str, ...], words: tuple[str, ...]
    ) -> None:
        installation.catalog.load(installation.catalog_dir)
        refused(billing(*arguments), *words)
        assert installation.facts()["manifest"] == []

    @pytest.mark.parametrize("arguments", [("materialise",), ("materialize", "--days", "x"), ("bill",), ("rate", "5")])
    def test_of_commands_and_options_that_do_not_exist_end_with_2(
        self, billing: Billing, arguments: tuple[str, ...]
    ) -> None:
        answer = billing(*arguments)
        assert answer.code == 2
        assert "Traceback" not in answer.err


@pytest.fixture
def small_disk(installation: Installation) -> Iterator[Path]:
    """Return a folder on a disk of its own with half a megabyte, or skip where nobody may mount one."""
    folder = installation.home / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may not mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


class TestDisk:
    @pytest.mark.parametrize("variable", ["BILLING_LAKE_URL", "BILLING_HOME"])
    def test_that_is_full(
        self, billing: Billing, installation: Installation, expected: Facts, small_disk: Path, variable: str
    ) -> None:
        filler = small_disk / "filler"
        for folder in ("scratch", "dagster", "lake"):
            (small_disk / folder).mkdir()
        shutil.copy(Path("dagster.yaml"), small_disk / "dagster")
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        refused(billing("materialize", **{variable: str(small_disk)}), "space", str(small_disk))
        assert installation.facts()["lake"] == []
        assert installation.facts()["usage"] == []
        filler.unlink()
        goes_on(billing, installation, expected)

    @pytest.mark.parametrize("variable", ["BILLING_LAKE_URL", "BILLING_HOME"])
    def test_that_is_read_only(
        self, billing: Billing, installation: Installation, expected: Facts, small_disk: Path, variable: str
    ) -> None:
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        refused(billing("materialize", **{variable: str(small_disk)}), "ead-only", str(small_disk))
        goes_on(billing, installation, expected)

    def test_that_is_full_wherever_a_user_may_not_mount_one(
        self, billing: Billing, installation: Installation, expected: Facts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            refused(billing("materialize"), "no space left", installation.settings.lake_url)
        assert installation.facts()["lake"] == []
        goes_on(billing, installation, expected)
