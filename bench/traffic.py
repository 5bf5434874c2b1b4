"""The cases of traffic: a day of counter samples against a bare scan, polars and PostgreSQL; and a year of one node in one run."""

from collections.abc import Sequence

from bench.cases import GIB, Goal, Result, Suite
from bench.measure import Median, ResultsDifferError
from bench.task import Task
from bench.traffic_catalog import write_traffic_catalog

CONTENDERS = ("traffic-scan", "traffic-deltas", "traffic-ours", "traffic-polars", "traffic-postgres")
# Of the default 10 million rows: 20 million samples.
SAMPLES_PER_ROW = 2
DAYS_OF_A_YEAR = 365
COLUMNS = (
    "",
    "wall s",
    "ratio",
    "samples/s",
    "CPU s",
    "server CPU s",
    "peak GiB",
    "server's own GiB",
    "parts (wall s)",
)


def traffic_case(suite: Suite) -> Result:
    """Run all contenders in turns and compare what they leave in usage.traffic_minute."""
    options = {"samples": suite.rows * SAMPLES_PER_ROW}
    made = _made(suite, options)
    catalog = write_traffic_catalog(suite.folder / f"catalog-traffic-{made['users']}", users=made["users"])
    tasks = [Task(contender=name, landing=str(suite.folder), options=options) for name in CONTENDERS]
    medians = suite.bench.interleaved(tasks, runs=suite.runs, catalog=catalog, told=suite.told)
    _assert_same(medians)
    bare, deltas, ours, polars, postgres = medians
    samples, buckets = made["rows"], ours.facts["usage"][0]
    ratio = deltas.seconds / bare.seconds
    peak = max(deltas.peak_bytes, ours.peak_bytes)
    return Result(
        case="traffic",
        title=f"A day of counters: {samples:,} samples, {made['users']:,} users on 3 nodes, "
        f"{made['size_bytes'] / 1e6:,.0f} MB of Parquet, {buckets:,} minute buckets",
        columns=COLUMNS,
        rows=tuple(_row(median, bare, samples) for median in medians),
        goals=(
            Goal(
                name="traffic, minute deltas against a bare scan",
                goal="at most 4 times",
                seen=f"{ratio:.2f} times ({deltas.seconds:.1f} s, {bare.seconds:.1f} s)",
                is_met=ratio <= 4,
            ),
            Goal(name="traffic, memory", goal="at most 2 GB", seen=f"{peak / GIB:.2f} GiB", is_met=peak <= 2 * 10**9),
        ),
        notes=(
            (
                f"polars takes {polars.seconds / ours.seconds:.2f} times as long as ours to PostgreSQL, and "
                f"{polars.peak_bytes / ours.peak_bytes:.1f} times the memory; PostgreSQL {postgres.seconds / ours.seconds:.2f} "
                f"times as long. Ours also writes {ours.facts['hours']:,} hours for rating, the day's tail and verdicts."
            ),
        ),
        medians=medians,
    )


def traffic_year_case(suite: Suite) -> Result:
    """Build many days of one node in one run."""
    days = min(DAYS_OF_A_YEAR, suite.days)
    options = {"samples": suite.rows * SAMPLES_PER_ROW, "days": days}
    made = _made(suite, options)
    catalog = write_traffic_catalog(suite.folder / f"catalog-traffic-{made['users']}", users=made["users"])
    tasks = [
        Task(contender=name, landing=str(suite.folder), options=options) for name in ("traffic-scan", "traffic-ours")
    ]
    medians = suite.bench.interleaved(tasks, runs=suite.runs, catalog=catalog, told=suite.told)
    bare, ours = medians
    return Result(
        case="traffic-year",
        title=f"{days} days of one node in one run: {made['rows']:,} samples, {made['size_bytes'] / 1e6:,.0f} MB of Parquet, "
        f"{ours.facts['usage'][0]:,} minute buckets",
        columns=COLUMNS,
        rows=tuple(_row(median, bare, made["rows"]) for median in medians),
        goals=(
            Goal(
                name="traffic of a year, memory",
                goal="at most 2 GB",
                seen=f"{ours.peak_bytes / GIB:.2f} GiB",
                is_met=ours.peak_bytes <= 2 * 10**9,
            ),
        ),
        medians=medians,
    )


def _made(suite: Suite, options: dict[str, int]) -> dict[str, int]:
    suite.told(f"data set traffic, {options['samples']:,} samples")
    return suite.bench.run(Task(contender="traffic-data", landing=str(suite.folder), options=options)).facts


def _assert_same(medians: Sequence[Median]) -> None:
    """Raise ResultsDifferError unless all that left buckets left the same ones."""
    found = {median.contender: median.facts["usage"] for median in medians if "usage" in median.facts}
    if len({tuple(usage) for usage in found.values()}) > 1:
        raise ResultsDifferError(f"the minute buckets differ ({found}); they were not compared further")


def _row(median: Median, bare: Median, samples: int) -> tuple[str, ...]:
    return (
        median.contender,
        f"{median.seconds:.1f}",
        f"{median.seconds / bare.seconds:.2f}",
        f"{samples / median.seconds:,.0f}",
        f"{median.cpu_seconds:.1f}",
        f"{median.server_cpu_seconds:.1f}",
        f"{median.peak_bytes / GIB:.2f}",
        f"{median.server_peak_bytes / GIB:.2f}",
        ", ".join(f"{part.name} {part.seconds:.1f}" for part in median.parts),
    )
