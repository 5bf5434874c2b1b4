"""Run contenders one after the other, each in a process of its own, and measure them and the server from outside.

Every contender gets a fresh database, cloned from one that is migrated and holds the catalog; what is in
`usage.api_requests` afterwards is boiled down to a digest, by which results are compared. Not here: which contenders meet
(cases), what a contender does.
"""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg

from bench.task import Part, Task
from resources.catalog_store import CatalogStore
from resources.database import Database
from resources.embedded_postgres import EmbeddedPostgres
from resources.migrate import migrate
from resources.settings import PROJECT_ROOT

Told = Callable[[str], None]
Launch = Callable[[Mapping[str, Any]], Any]
POLL_SECONDS = 0.1
# Independent of the order of rows: one number over every row's text. `count`: rows.
_DIGEST = """
    select count(*), coalesce(sum(hashtextextended(concat_ws('|', event_day, account_id, meter_id, period_start, period_end,
        endpoint, method, client_id, quantity, unit, request_count), 0)::numeric), 0)::text
    from usage.api_requests
"""


class ContenderFailedError(Exception):
    """A contender's process ended without a result."""


class ResultsDifferError(Exception):
    """Two contenders came to different usage rows: their times may not be compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One run of one contender. `server_*`: PostgreSQL's processes meanwhile; memory is what they do not share.

    `usage`: digest of the usage rows it left, None where it writes none.
    """

    contender: str
    parts: tuple[Part, ...]
    peak_bytes: int
    server_cpu_seconds: float
    server_peak_bytes: int
    usage: tuple[int, str] | None
    facts: dict[str, Any]

    @property
    def seconds(self) -> float:
        """Return the wall time of all parts."""
        return sum(part.seconds for part in self.parts)

    @property
    def cpu_seconds(self) -> float:
        """Return the CPU time of all parts in the contender's process."""
        return sum(part.cpu_seconds for part in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Median:
    """The medians of a contender's runs, each figure by itself."""

    contender: str
    runs: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    server_cpu_seconds: float
    server_peak_bytes: int
    parts: tuple[Part, ...]
    usage_rows: int | None
    facts: dict[str, Any]


def median_of(runs: Sequence[Measurement]) -> Median:
    """Return the medians of runs of one contender; facts are the last run's."""
    names = [part.name for part in runs[0].parts]
    by_name = [{part.name: part for part in run.parts} for run in runs]
    return Median(
        contender=runs[0].contender,
        runs=len(runs),
        seconds=statistics.median(run.seconds for run in runs),
        cpu_seconds=statistics.median(run.cpu_seconds for run in runs),
        peak_bytes=int(statistics.median(run.peak_bytes for run in runs)),
        server_cpu_seconds=statistics.median(run.server_cpu_seconds for run in runs),
        server_peak_bytes=int(statistics.median(run.server_peak_bytes for run in runs)),
        parts=tuple(
            Part(
                name=name,
                seconds=statistics.median(parts[name].seconds for parts in by_name),
                cpu_seconds=statistics.median(parts[name].cpu_seconds for parts in by_name),
            )
            for name in names
        ),
        usage_rows=None if runs[0].usage is None else runs[0].usage[0],
        facts=runs[-1].facts,
    )


def assert_same_usage(runs: Sequence[Measurement]) -> None:
    """Raise ResultsDifferError unless all runs that left usage rows left the same ones."""
    found = {run.contender: run.usage for run in runs if run.usage is not None}
    if len({run.usage for run in runs if run.usage is not None}) > 1:
        told = ", ".join(f"{name}: {usage[0]} rows" for name, usage in found.items() if usage)
        raise ResultsDifferError(f"the usage rows differ ({told}); they were not compared further")


class Bench:
    """A running server with a template database for each catalog, and a folder for what contenders leave behind."""

    def __init__(self, folder: Path, server: EmbeddedPostgres, launch: Launch) -> None:
        self.folder = folder
        self._launch = launch
        self._server = server
        self._templates: dict[Path, str] = {}
        self._number = 0

    def run(self, task: Task, *, catalog: Path | None = None) -> Measurement:
        """Run `task` on a fresh database with `catalog` in it, and return what it took.

        Raises:
            ContenderFailedError: it ended without a result; its last words are in the message.
        """
        work = Path(tempfile.mkdtemp(dir=self.folder, prefix=f"{task.contender}-"))
        try:
            with self._database(catalog) as url, self._empty_database(task.contender == "dagster") as dagster_url:
                table = {
                    **asdict(task),
                    "work": str(work),
                    "database_url": url,
                    "dagster_database_url": dagster_url,
                    "catalog": str(catalog or ""),
                }
                before = self._server_cpu()
                with self._memory_watch() as memory:
                    result = self._launch(table)
                server_cpu = self._server_cpu() - before
                usage = self._usage_digest(url) if catalog is not None else None
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return Measurement(
            contender=task.name,
            parts=tuple(Part(**part) for part in result["parts"]),
            peak_bytes=result["peak_bytes"],
            server_cpu_seconds=server_cpu,
            server_peak_bytes=max(memory, default=0),
            usage=usage if usage is not None and usage[0] else None,
            facts=result["facts"],
        )

    def interleaved(self, tasks: Sequence[Task], *, runs: int, catalog: Path, told: Told) -> tuple[Median, ...]:
        """Run all `tasks` in turns, `runs` times, and return their medians in the same order.

        Raises:
            ResultsDifferError: tasks over the same files left different usage rows.
        """
        found: dict[str, list[Measurement]] = {task.name: [] for task in tasks}
        for run in range(runs):
            for task in tasks:
                told(f"{task.name}, run {run + 1} of {runs}")
                found[task.name].append(self.run(task, catalog=catalog))
        for files in {task.files for task in tasks}:
            assert_same_usage([one for task in tasks if task.files == files for one in found[task.name]])
        return tuple(median_of(measured) for measured in found.values())

    @contextmanager
    def _database(self, catalog: Path | None) -> Iterator[str]:
        if catalog is None:
            yield ""
            return
        template = self._template(catalog)
        self._number += 1
        name = f"bench_{self._number}"
        # Sessions that are kept for the next who asks.
        self._administer(f"select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = '{template}'")
        self._administer(f'create database "{name}" template "{template}" strategy file_copy')
        # What the server still has to write of earlier work shall not slow this one.
        self._administer("checkpoint")
        try:
            yield self._server.url(name)
        finally:
            self._administer(f'drop database "{name}" with (force)')

    @contextmanager
    def _empty_database(self, is_wanted: bool) -> Iterator[str]:
        if not is_wanted:
            yield ""
            return
        name = "bench_dagster"
        self._administer(f'drop database if exists "{name}" with (force)')
        yield self._server.ensure_database(name)

    def _template(self, catalog: Path) -> str:
        if catalog not in self._templates:
            name = f"bench_template_{len(self._templates)}"
            self._administer(f'drop database if exists "{name}" with (force)')
            database = Database(self._server.ensure_database(name))
            migrate(database)
            CatalogStore(database).load(catalog)
            self._templates[catalog] = name
        return self._templates[catalog]

    def _administer(self, statement: str) -> None:
        with psycopg.connect(self._server.url(), autocommit=True) as connection:
            connection.execute(statement.encode())

    def _usage_digest(self, url: str) -> tuple[int, str]:
        with psycopg.connect(url, options="-c TimeZone=UTC") as connection:
            rows, digest = connection.execute(_DIGEST).fetchall()[0]
        return int(rows), str(digest)

    def _server_cpu(self) -> float:
        """Return the CPU seconds of the server so far, ended sessions included."""
        postmaster = self._server.postmaster()
        if postmaster is None:
            return 0.0
        times = postmaster.cpu_times()
        total = times.user + times.system + times.children_user + times.children_system
        for child in postmaster.children():
            try:
                times = child.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
        return float(total)

    @contextmanager
    def _memory_watch(self) -> Iterator[list[int]]:
        """Note every tenth of a second what the server's processes hold beside the shared memory."""
        found: list[int] = []
        ended = threading.Event()
        postmaster = self._server.postmaster()

        def watch() -> None:
            while postmaster is not None and not ended.wait(POLL_SECONDS):
                found.append(sum(map(_unshared_bytes, [postmaster, *postmaster.children()])))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield found
        finally:
            ended.set()
            watcher.join()


def _unshared_bytes(process: psutil.Process) -> int:
    try:
        memory = process.memory_info()
    except psutil.NoSuchProcess:
        return 0
    return max(0, memory.rss - getattr(memory, "shared", 0))


def in_own_process(table: Mapping[str, Any]) -> Any:
    """Run a task in a fresh interpreter and return its result.

    Raises:
        ContenderFailedError: it ended without one; its last words are in the message.
    """
    result = Path(table["work"]) / "result.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench.task", str(result)],
        input=json.dumps(table),
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or not result.exists():
        raise ContenderFailedError(f"{table['contender']} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    return json.loads(result.read_text())


@contextmanager
def bench(
    folder: Path, *, launch: Launch = in_own_process, server_settings: Mapping[str, str] | None = None
) -> Iterator[Bench]:
    """Start a server of its own in `folder`, with the settings that every command uses; it goes with the block.

    `server_settings` replace some of them: for tests, of which nothing is measured.
    `launch` runs a task given as plain values, and returns what `bench.task.run_task` does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with EmbeddedPostgres(folder / "postgres", server_settings=server_settings) as server:
        cluster = server.cluster
        yield Bench(folder, server, launch)
    shutil.rmtree(cluster, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
