"""Processes that run the chain and can be killed: forked from one that has imported everything and opened nothing.

A crash needs a process of its own, and an interpreter's start for each would cost seconds. `ForkServer` is the test's side. Run
as a program this module is the server: a line of JSON on standard input asks for a process or for its end, a line on
standard output answers.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from resources.database import Database
from resources.settings import PROJECT_ROOT
from tests.chain import WORK, Installation, Site

PSEUDONYM_KEY = "a key for tests"
DEATHS = "deaths"
ERRORS = "errors"
SIGKILLED = -9


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a process does: `work`, a name that the server knows, on the installation with this home, database and catalog.

    `dies_at_steps`: it kills itself at the first step at which no process of this installation has died before.
    """

    home: str
    database_url: str
    catalog_dir: str
    work: str
    dies_at_steps: bool = False


@dataclass(frozen=True, slots=True)
class Process:
    """A running job."""

    server: "ForkServer"
    pid: int

    def kill(self) -> None:
        """Send SIGKILL; nothing happens when it has ended."""
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Return the exit code, -9 after SIGKILL. The pid is this process's until then."""
        while (code := self.server.ask({"wait": self.pid})["exit_code"]) is None:
            time.sleep(0.005)
        return int(code)


class ForkServer:
    """Starts jobs. Use it in a `with`; safe to use from several threads. `module`: the program that is the server."""

    def __init__(self, module: str = "tests.chain_process") -> None:
        self._module = module

    def __enter__(self) -> "ForkServer":
        self._lock = threading.Lock()
        environment = {
            **os.environ,
            "PYTHONPATH": str(PROJECT_ROOT),
            "BILLING_PSEUDONYM_KEY": PSEUDONYM_KEY,
            # Libraries that start threads when they are imported: a fork would not take them along.
            "OPENBLAS_NUM_THREADS": "1",
            "JE_ARROW_MALLOC_CONF": "background_thread:false",
            "_RJEM_MALLOC_CONF": "background_thread:false",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", self._module],
            cwd=PROJECT_ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        # The one that is left sweeps polars' spill folder, and is idle.
        assert set(self._answer()["threads"]) <= {"polars-ooc-clea"}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    def start(self, job: Job) -> Process:
        """Fork a process that does `job`."""
        return Process(self, int(self.ask({"job": asdict(job)})["pid"]))

    def ask(self, question: Mapping[str, object]) -> Mapping[str, Any]:
        """Return the server's answer."""
        with self._lock:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
            return self._answer()

    def _answer(self) -> Mapping[str, Any]:
        assert self._process.stdout is not None
        answer: Mapping[str, Any] = json.loads(self._process.stdout.readline())
        return answer


@dataclass(frozen=True, slots=True)
class Trials:
    """Installations, and processes that work on them."""

    site: Site
    server: ForkServer

    @classmethod
    @contextmanager
    def opened(
        cls, postgres_url: str, template: str, folder: Path, *, module: str = "tests.chain_process"
    ) -> Iterator["Trials"]:
        """Provide a server for installations whose databases are cloned from `template`."""
        with ForkServer(module) as server:
            yield cls(Site(postgres_url, template, folder), server)

    def installation(self) -> AbstractContextManager[Installation]:
        """Provide a new, empty installation."""
        return self.site.installation()

    def start(self, installation: Installation, work: str, *, dies_at_steps: bool = False) -> Process:
        """Start `work`, a name that the server knows."""
        return self.server.start(
            Job(
                home=str(installation.home),
                database_url=installation.database.url,
                catalog_dir=str(installation.catalog_dir),
                work=work,
                dies_at_steps=dies_at_steps,
            )
        )

    def ended(self, process: Process, installation: Installation) -> int:
        """Return the exit code, 0 or SIGKILLED; any other fails the test with what the process reported."""
        code = process.wait()
        assert code in (0, SIGKILLED), (installation.home / ERRORS).read_text()
        return code

    def run(self, installation: Installation, work: str, *, dies_at_steps: bool = False) -> int:
        """Do `work` and return its exit code, as `ended`."""
        return self.ended(self.start(installation, work, dies_at_steps=dies_at_steps), installation)


def serve(work: Mapping[str, Callable[[Installation], object]]) -> None:
    """Answer until standard input ends. `work`: what a job may name."""
    _import_the_rest()
    sys.stdout.write(json.dumps({"threads": _other_threads()}) + "\n")
    sys.stdout.flush()
    for line in sys.stdin:
        question = json.loads(line)
        if "job" in question:
            pid = os.fork()
            if pid == 0:
                _do(Job(**question["job"]), work)
            answer: dict[str, int | None] = {"pid": pid}
        else:
            ended, status = os.waitpid(question["wait"], os.WNOHANG)
            answer = {"exit_code": os.waitstatus_to_exitcode(status) if ended else None}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _import_the_rest() -> None:
    """Import what libraries import only when they are first used."""
    for name in ("alembic.command", "pandas", "polars", "sqlalchemy.dialects.sqlite"):
        importlib.import_module(name)


def _other_threads() -> list[str]:
    tasks = Path("/proc/self/task")
    if not tasks.is_dir():
        return []
    return [(task / "comm").read_text().strip() for task in tasks.iterdir() if task.name != str(os.getpid())]


def _do(job: Job, work: Mapping[str, Callable[[Installation], object]]) -> None:
    """Do the job and end the process; what goes wrong is written to ERRORS in the installation's home."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):
        os.dup2(nothing, stream)
    try:
        if job.dies_at_steps:
            _die_at_steps(Path(job.home))
        work[job.work](Installation(Path(job.home), Database(job.database_url), Path(job.catalog_dir)))
    except BaseException:  # noqa: BLE001 - the entry point: it must not return into the server
        (Path(job.home) / ERRORS).write_text(traceback.format_exc())
        os._exit(1)
    os._exit(0)


def _die_at_steps(home: Path) -> None:
    """Make this process kill itself at the first step that no earlier one has died at.

    Steps of usage and charges are told apart by how many files were delivered before.
    """
    from resources import request_day_writer, usage_store
    from resources.request_sink import RequestSink

    deaths = home / DEATHS
    known = set(deaths.read_text().splitlines()) if deaths.exists() else set()

    def reach(step: str) -> None:
        if "usage/" in step or "billing/charges'," in step:
            step = f"{step} with {sum(path.is_file() for path in (home / 'landing').rglob('*'))} files"
        if step not in known:
            with deaths.open("a") as file:
                file.write(step + "\n")
            os.kill(os.getpid(), signal.SIGKILL)

    transaction = Database.transaction

    @contextmanager
    def transaction_with_steps(self: Database, *locks: str) -> Iterator[Any]:
        with transaction(self, *locks) as connection:
            reach(f"begun {locks}")
            yield connection
            reach(f"written {locks}")
        reach(f"committed {locks}")

    def around(place: Any, name: str, says: Callable[..., str]) -> None:
        original = getattr(place, name)

        def with_steps(*args: Any, **kwargs: Any) -> Any:
            reach(f"before {says(*args, **kwargs)}")
            result = original(*args, **kwargs)
            reach(f"after {says(*args, **kwargs)}")
            return result

        setattr(place, name, with_steps)

    Database.transaction = transaction_with_steps  # type: ignore[method-assign]
    around(os, "replace", lambda _draft, target: f"rename in {Path(target).parent.name}")
    around(RequestSink, "finish", lambda _sink: "finish")
    around(usage_store, "copy_arrow", lambda _connection, table, _batches: f"copy {table}")
    around(request_day_writer, "copy_arrow", lambda _connection, table, _batches: f"copy {table}")


if __name__ == "__main__":
    serve(WORK)
