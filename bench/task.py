"""What a contender is told, and how it tells its time: one process each, so that memory and CPU are its own.

A contender is a function (Task, Stopwatch) -> facts. It runs in a fresh process (`python -m bench.task`), does its work inside
`stopwatch.part(...)` and nothing that counts outside. Not here: starting it and asking the server (measure).
"""

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# Name -> where it is. Imported in its own process only: nobody pays for the libraries of another.
CONTENDERS = {
    "data": "bench.request_files:make",
    "ours": "bench.ours:build_usage",
    "dagster": "bench.ours:build_usage_with_dagster",
    "duckdb-parse": "bench.bare:parse_json",
    "polars-scan": "bench.bare:scan_avro",
    "pandas": "bench.rivals:by_pandas",
    "polars": "bench.rivals:by_polars",
    "postgres": "bench.rivals:by_postgres",
    "rating": "bench.money:rate_lines",
    "booking": "bench.money:book_charges",
    "backtest": "bench.backtest:run_backtest",
    "merged": "bench.merged:rate_merged",
    "month": "bench.month:book_month",
    "copy": "bench.bulk_load:load_rows",
    "invoice-months": "bench.invoice_months:months_of_years",
    "steady": "bench.steady:push_steadily",
    "steady-turns": "bench.steady:push_in_turns",
    "storage-data": "bench.storage_contenders:make",
    "storage-scan": "bench.storage_contenders:scan",
    "storage-ours": "bench.storage_contenders:by_store",
    "storage-polars": "bench.storage_contenders:by_polars",
    "storage-postgres": "bench.storage_contenders:by_postgres",
    "stripe-month": "bench.stripe_calls:month_of_syncs",
    "stripe-renewals": "bench.stripe_calls:renewals",
    "traffic-data": "bench.traffic_contenders:make",
    "traffic-scan": "bench.traffic_contenders:scan",
    "traffic-deltas": "bench.traffic_contenders:deltas",
    "traffic-ours": "bench.traffic_contenders:by_store",
    "traffic-polars": "bench.traffic_contenders:by_polars",
    "traffic-postgres": "bench.traffic_contenders:by_postgres",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """`landing`, `files`: the data set; `work`: an empty folder of the contender's own; `catalog`: a catalog folder.

    `label` names the task among others of the same contender.
    """

    contender: str
    label: str = ""
    framing: str = "json"
    landing: str = ""
    files: tuple[str, ...] = ()
    work: str = ""
    catalog: str = ""
    database_url: str = field(default="", repr=False)
    dagster_database_url: str = field(default="", repr=False)
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return the label, or else the contender."""
        return self.label or self.contender

    def path(self, name: str) -> Path:
        """Return a path in the contender's folder."""
        return Path(self.work) / name


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Wall and CPU time (user and system, all threads of the process) of a named part of the work."""

    name: str
    seconds: float
    cpu_seconds: float


class Stopwatch:
    """Adds up the parts of one contender's work, in order of their first appearance."""

    def __init__(self) -> None:
        self._parts: dict[str, tuple[float, float]] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what the block takes to the part `name`."""
        wall, cpu = time.perf_counter(), _cpu_seconds()
        try:
            yield
        finally:
            before = self._parts.get(name, (0.0, 0.0))
            self._parts[name] = (before[0] + time.perf_counter() - wall, before[1] + _cpu_seconds() - cpu)

    @property
    def parts(self) -> tuple[Part, ...]:
        """Return what was counted."""
        return tuple(Part(name=name, seconds=wall, cpu_seconds=cpu) for name, (wall, cpu) in self._parts.items())


def _cpu_seconds() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def peak_bytes() -> int:
    """Return the largest resident size of this process.

    Linux keeps in ru_maxrss what the parent had before exec, so the kernel's figure of this image is preferred.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def run_task(table: Mapping[str, Any]) -> dict[str, Any]:
    """Run the contender that a task, as plain values, names; return parts, peak memory of this process, and facts."""
    task = Task(**{**table, "files": tuple(table["files"])})
    module, name = CONTENDERS[task.contender].split(":")
    contender = getattr(importlib.import_module(module), name)
    stopwatch = Stopwatch()
    facts = contender(task, stopwatch)
    return {"parts": [asdict(part) for part in stopwatch.parts], "peak_bytes": peak_bytes(), "facts": facts}


def main() -> None:
    """Run the task on standard input; write what it took to the file given as argument."""
    result = run_task(json.load(sys.stdin))
    draft = Path(sys.argv[1]).with_suffix(".tmp")
    draft.write_text(json.dumps(result))
    os.replace(draft, sys.argv[1])


if __name__ == "__main__":
    main()
