"""The embedded server survives what machines do to it: races, kill -9, stale pids, root, full disks. Real processes."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from resources import postgres_programs
from resources.embedded_postgres import EmbeddedPostgres, PostgresStartError
from resources.postgres_programs import PostgresFolderError, PostgresProgramsError, Programs
from resources.settings import PROJECT_ROOT
from tests.conftest import NOT_DURABLE, login_url

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to give the server to another user")


@pytest.fixture
def fresh(open_folder: Path) -> Iterator[Path]:
    """Return the path of a server folder that does not exist yet; whatever runs there afterwards is stopped."""
    place = Path(tempfile.mkdtemp(dir=open_folder))
    place.chmod(0o755)
    yield place / "postgres"
    end(EmbeddedPostgres(place / "postgres"))
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def made(open_folder: Path) -> Path:
    """Return a server folder that was started and stopped once, to copy: quicker than initdb for each test."""
    with EmbeddedPostgres(open_folder / "made", server_settings=NOT_DURABLE):
        pass
    return open_folder / "made"


@pytest.fixture
def folder(fresh: Path, made: Path) -> Path:
    """Return a server folder of an earlier command, with its cluster."""
    subprocess.run(["cp", "-a", str(made), str(fresh)], check=True)
    return fresh


def server(folder: Path) -> EmbeddedPostgres:
    """Return the server of `folder`, quick instead of durable."""
    return EmbeddedPostgres(folder, server_settings=NOT_DURABLE)


def end(embedded: EmbeddedPostgres) -> None:
    """Kill the server of a folder with all its helpers."""
    postmaster = embedded.postmaster()
    if postmaster is not None:
        family = [postmaster, *postmaster.children(recursive=True)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        wait_until(lambda: embedded.postmaster() is None)


def wait_until(true: Callable[[], bool]) -> None:
    """Wait at most 30 s."""
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def query(embedded: EmbeddedPostgres, statement: str) -> list[tuple[object, ...]]:
    """Run one statement and return its rows, if any."""
    with psycopg.connect(embedded.url()) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def start_user(folder: Path, then: str) -> subprocess.Popen[str]:
    """Start another process that starts the server, prints a line when it is up, and runs `then` before stopping."""
    program = f"""
    import sys
    from pathlib import Path
    from resources.embedded_postgres import EmbeddedPostgres
    with EmbeddedPostgres(Path({str(folder)!r}), server_settings={NOT_DURABLE!r}) as server:
        print(server.postmaster().pid, flush=True)
        {then}
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=PROJECT_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


WAIT_FOR_INPUT = "sys.stdin.readline()"


class TestStartAndStop:
    def test_data_survives_between_commands(self, fresh: Path) -> None:
        with server(fresh) as first:
            query(first, "create table kept as select 42 as value")
            url = first.url()
        assert server(fresh).postmaster() is None
        with server(fresh) as second:
            assert query(second, "select value from kept") == [(42,)]
            assert second.url() == url

    def test_is_set_up_as_promised(self, fresh: Path) -> None:
        with server(fresh) as embedded:
            names = ("data_checksums", "server_encoding", "TimeZone", "listen_addresses", "unix_socket_directories")
            facts = [query(embedded, f"select current_setting('{name}')")[0][0] for name in names]
            locale = query(embedded, "select datlocprovider, datlocale from pg_database where datname = 'template1'")
            query(embedded, "create extension btree_gist")
            hba = query(embedded, "select distinct auth_method from pg_hba_file_rules where type = 'host'")
        assert facts == ["on", "UTF8", "UTC", "127.0.0.1", ""]
        assert locale == [("b", "C.UTF-8")]
        assert hba == [("scram-sha-256",)]
        assert (fresh / "password").stat().st_mode & 0o777 == 0o600
        assert embedded.cluster.stat().st_mode & 0o077 == 0

    def test_durable_unless_a_test_says_otherwise(self, folder: Path) -> None:
        with EmbeddedPostgres(folder) as embedded:
            for name in ("fsync", "synchronous_commit", "full_page_writes"):
                assert query(embedded, f"select current_setting('{name}')") == [("on",)]

    def test_refuses_a_wrong_password_and_keeps_values_out_of_its_log(self, folder: Path) -> None:
        with server(folder) as embedded:
            query(embedded, "create table person (name text primary key)")
            with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
                psycopg.connect(login_url(embedded.url(), "postgres", "guess"))
            with psycopg.connect(embedded.url()) as connection:
                connection.execute("insert into person values ('Ada Lovelace')")
                with pytest.raises(psycopg.errors.UniqueViolation):
                    connection.execute("insert into person values ('Ada Lovelace')")
            password = (folder / "password").read_text()
        log = (embedded.cluster / "server.log").read_text()
        assert "duplicate key value" in log
        assert "Ada" not in log
        assert password not in log

    def test_a_database_is_created_once(self, folder: Path) -> None:
        with server(folder) as embedded:
            url = embedded.ensure_database("billing")
            with psycopg.connect(url) as connection:
                connection.execute("create table kept ()")
            assert embedded.ensure_database("billing") == url
            with psycopg.connect(url) as connection:
                assert connection.execute("select count(*) from kept").fetchall() == [(0,)]

    def test_takes_another_port_when_its_own_is_taken(self, folder: Path) -> None:
        with server(folder) as embedded:
            port = embedded.port
        with socket.socket() as squatter:
            squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            squatter.bind(("127.0.0.1", port))
            squatter.listen()
            with server(folder) as embedded:
                assert embedded.port != port
                assert query(embedded, "select 1") == [(1,)]


class TestSharing:
    def test_the_last_user_out_stops_it(self, folder: Path) -> None:
        with server(folder) as first:
            with server(folder) as second:
                assert second.url() == first.url()
            assert query(first, "select 1") == [(1,)]
        assert first.postmaster() is None

    def test_the_starter_may_leave_before_the_others(self, folder: Path) -> None:
        starter, other = server(folder), server(folder)
        starter.start()
        other.start()
        starter.stop()
        assert query(other, "select 1") == [(1,)]
        other.stop()
        assert other.postmaster() is None

    def test_processes_that_race_share_one_server(self, fresh: Path) -> None:
        users = [start_user(fresh, WAIT_FOR_INPUT) for _ in range(4)]
        pids = {user.stdout.readline().strip() for user in users if user.stdout}
        assert len(pids) == 1
        assert pids != {""}
        for user in users:
            _, errors = user.communicate("leave\n", timeout=60)
            assert (user.returncode, errors) == (0, "")
        assert server(fresh).postmaster() is None

    def test_a_user_that_was_killed_does_not_keep_it_alive(self, folder: Path) -> None:
        victim = start_user(folder, WAIT_FOR_INPUT)
        assert victim.stdout is not None
        pid = victim.stdout.readline().strip()
        victim.kill()
        victim.communicate()
        survivor = server(folder).postmaster()
        assert survivor is not None
        assert str(survivor.pid) == pid
        with server(folder) as successor:
            assert query(successor, "select 1") == [(1,)]
        assert successor.postmaster() is None

    def test_joins_a_server_whose_port_file_is_wrong(self, folder: Path) -> None:
        with server(folder) as first:
            port = first.port
            (folder / "port").write_text("1")
            with server(folder) as second:
                assert second.port == port


class TestCrashes:
    @pytest.mark.parametrize("whom", ["everything", "postmaster only"])
    def test_acknowledged_rows_survive_kill_9(self, folder: Path, whom: str) -> None:
        with EmbeddedPostgres(folder) as embedded:
            query(embedded, "create table kept as select generate_series(1, 1000) as value")
            postmaster = embedded.postmaster()
            assert postmaster is not None
            family = [postmaster] + (postmaster.children(recursive=True) if whom == "everything" else [])
            for process in family:
                process.kill()
            wait_until(lambda: embedded.postmaster() is None)
        with EmbeddedPostgres(folder) as embedded:
            assert query(embedded, "select count(*) from kept") == [(1000,)]

    def test_a_stale_pid_file_that_names_a_living_stranger_is_no_server(self, folder: Path) -> None:
        with EmbeddedPostgres(folder) as embedded:
            query(embedded, "create table kept as select 1 as value")
            pid_file = embedded.cluster / "data" / "postmaster.pid"
            lines = pid_file.read_text().split("\n")
            end(embedded)
        stranger = subprocess.Popen(["sleep", "60"])
        try:
            pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]))
            assert embedded.postmaster() is None
            with EmbeddedPostgres(folder) as embedded:
                assert query(embedded, "select value from kept") == [(1,)]
                assert stranger.poll() is None
        finally:
            stranger.kill()
            stranger.wait()

    def test_a_zombie_is_no_server(self, folder: Path) -> None:
        with server(folder) as embedded:
            pid_file = embedded.cluster / "data" / "postmaster.pid"
            lines = pid_file.read_text().split("\n")
        zombie = subprocess.Popen(["true"])
        wait_until(lambda: psutil.Process(zombie.pid).status() == psutil.STATUS_ZOMBIE)
        pid_file.write_text("\n".join([str(zombie.pid), *lines[1:]]))
        assert embedded.postmaster() is None
        with server(folder) as embedded:
            assert query(embedded, "select 1") == [(1,)]
        zombie.wait()

    @pytest.mark.parametrize("content", ["", "not a number\n", "999999999\n"])
    def test_a_damaged_pid_file_does_not_stop_the_next_start(self, folder: Path, content: str) -> None:
        with server(folder) as embedded:
            pid_file = embedded.cluster / "data" / "postmaster.pid"
        pid_file.write_text(content)
        with server(folder) as embedded:
            assert query(embedded, "select 1") == [(1,)]

    def test_a_start_that_was_killed_half_way_is_begun_anew(self, fresh: Path) -> None:
        user = start_user(fresh, WAIT_FOR_INPUT)
        wait_until(lambda: bool(list(fresh.glob("cluster.*.new/data/base"))))
        user.kill()
        user.communicate()
        with server(fresh) as embedded:
            assert query(embedded, "select 1") == [(1,)]
        wait_until(lambda: "initdb" not in {process.info["name"] for process in psutil.process_iter(["name"])})
        with server(fresh):
            assert list(fresh.glob("cluster.*.new")) == []

    def test_ctrl_c_of_the_terminal_stops_it_in_order(self, folder: Path) -> None:
        user = start_user(folder, WAIT_FOR_INPUT)
        assert user.stdout is not None
        user.stdout.readline()
        user.send_signal(signal.SIGINT)
        user.communicate(timeout=60)
        assert server(folder).postmaster() is None
        assert "database system is shut down" in (server(folder).cluster / "server.log").read_text()


class TestFailures:
    def test_a_server_that_cannot_start_shows_its_log(self, folder: Path) -> None:
        broken = EmbeddedPostgres(folder, server_settings={"shared_buffers": "nonsense"})
        with pytest.raises(PostgresStartError, match='invalid value for parameter "shared_buffers"'):
            broken.start()
        with server(folder) as embedded:
            assert query(embedded, "select 1") == [(1,)]

    def test_a_folder_that_cannot_be_made_is_named(self, fresh: Path) -> None:
        fresh.write_text("a file is in the way")
        with pytest.raises(PostgresFolderError, match="cannot be used: File exists"):
            EmbeddedPostgres(fresh).start()
        fresh.unlink()

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_read_only_folder_is_named(self, fresh: Path) -> None:
        fresh.mkdir(mode=0o555)
        with pytest.raises(PostgresFolderError, match="Permission denied"):
            EmbeddedPostgres(fresh).start()

    @ROOT_ONLY
    def test_a_full_disk_is_named_and_nothing_is_left(self, fresh: Path) -> None:
        fresh.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(fresh)], check=False)
        if mounted.returncode != 0:
            pytest.skip("mounting a small file system is not permitted here")
        try:
            with pytest.raises(PostgresStartError, match="No space left on device") as caught:
                server(fresh).start()
            assert caught.value.fix.startswith("free disk space")
            assert list(fresh.glob("cluster*")) == []
        finally:
            subprocess.run(["umount", str(fresh)], check=True)


@ROOT_ONLY
class TestRoot:
    @pytest.fixture
    def shared(self, open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        """Return the folder that stands for /var/lib."""
        place = Path(tempfile.mkdtemp(dir=open_folder))
        place.chmod(0o755)
        monkeypatch.setattr(postgres_programs, "SHARED_PLACES", (place,))
        yield place
        shutil.rmtree(place)

    @pytest.fixture
    def closed(self, fresh: Path, shared: Path) -> Iterator[Path]:
        """Return a server folder inside one that only root may enter."""
        fresh.parent.chmod(0o700)
        yield fresh
        end(EmbeddedPostgres(fresh))

    def test_the_server_is_not_root(self, folder: Path) -> None:
        with server(folder) as embedded:
            postmaster = embedded.postmaster()
            assert postmaster is not None
            assert postmaster.username() == "nobody"
            assert "BILLING" not in " ".join(postmaster.environ())

    def test_a_home_that_only_root_may_enter_keeps_its_mode(self, closed: Path, shared: Path) -> None:
        with server(closed) as embedded:
            query(embedded, "create table kept as select 1 as value")
            assert embedded.cluster.is_relative_to(shared)
        assert closed.parent.stat().st_mode & 0o777 == 0o700
        with server(closed) as embedded:
            assert query(embedded, "select value from kept") == [(1,)]

    def test_data_that_vanished_outside_is_reported_not_replaced(self, closed: Path) -> None:
        with server(closed) as embedded:
            cluster = embedded.cluster
        shutil.rmtree(cluster)
        with pytest.raises(PostgresFolderError, match="is gone"):
            server(closed).start()

    def test_a_deleted_home_starts_empty(self, closed: Path) -> None:
        with server(closed) as embedded:
            query(embedded, "create table old ()")
        shutil.rmtree(closed)
        with server(closed) as embedded:
            assert query(embedded, "select to_regclass('old')") == [(None,)]

    def test_binaries_in_a_closed_place_are_copied_with_their_libraries(
        self, folder: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reaches = Programs.reaches

        def only_copies(self: Programs, path: Path) -> bool:
            return "site-packages" not in path.parts and reaches(self, path)

        monkeypatch.setattr(Programs, "reaches", only_copies)
        with server(folder) as embedded:
            postmaster = embedded.postmaster()
            assert postmaster is not None
            assert Path(postmaster.exe()).is_relative_to(shared)

    def test_a_shared_place_that_somebody_else_made_is_not_trusted(self, closed: Path, shared: Path) -> None:
        planted = shared / "billing-pipeline-0"
        planted.mkdir()
        os.chown(planted, 65534, 65534)
        with pytest.raises(PostgresFolderError, match="can reach neither"):
            server(closed).start()

    def test_a_root_that_may_not_become_another_user_is_told_so(
        self, fresh: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_arguments: object, **_keywords: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(subprocess, "run", refuse)
        with pytest.raises(PostgresProgramsError, match="root may not become user"):
            server(fresh).start()
