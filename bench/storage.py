"""The case of a month of storage: our store against a bare scan, polars and PostgreSQL on the same files, in the same run."""

from collections.abc import Sequence

from bench.cases import GIB, Goal, Result, Suite
from bench.measure import Median, ResultsDifferError
from bench.storage_catalog import write_storage_catalog
from bench.task import Task

CONTENDERS = ("storage-scan", "storage-ours", "storage-polars", "storage-postgres")
# Of the default 10 million rows: 200,000 repositories and 5 million events.
ROWS_PER_REPOSITORY, ROWS_PER_EVENT = 50, 2
DAYS, ACCOUNTS = 30, 2_000


def storage_case(suite: Suite) -> Result:
    """Run all contenders in turns and compare what they leave in usage.storage."""
    repositories, events = suite.rows // ROWS_PER_REPOSITORY, suite.rows // ROWS_PER_EVENT
    accounts = min(ACCOUNTS, repositories)
    days = min(DAYS, suite.days)
    options = {"repositories": repositories, "events": events, "days": days, "accounts": accounts}
    suite.told(f"data set storage, {repositories:,} repositories, {events:,} events")
    made = suite.bench.run(Task(contender="storage-data", landing=str(suite.folder), options=options))
    catalog = write_storage_catalog(suite.folder / f"catalog-storage-{accounts}", accounts=accounts)
    tasks = [Task(contender=name, landing=str(suite.folder), options=options) for name in CONTENDERS]
    medians = suite.bench.interleaved(tasks, runs=suite.runs, catalog=catalog, told=suite.told)
    _assert_same(medians)
    bare, ours, polars, postgres = medians
    usage_rows = ours.facts["usage"][0]
    ratios = [f"{other.contender} {other.seconds / bare.seconds:.1f}" for other in (ours, polars, postgres)]
    note = (
        f"Times the bare scan: {', '.join(ratios)}. Ours also writes {ours.facts['states']:,} states of repositories, every "
        "day's tail, and verdicts; what the others leave out: see above."
    )
    return Result(
        case="storage",
        title=f"A month of storage: {repositories:,} repositories, {ours.facts['events']:,} events, {days} days, "
        f"{made.facts['size_bytes'] / 1e6:,.0f} MB of Parquet, {usage_rows:,} usage rows",
        columns=("", "wall s", "ratio", "CPU s", "server CPU s", "peak GiB", "server's own GiB", "parts (wall s)"),
        rows=tuple(_row(median, bare) for median in medians),
        goals=(
            Goal(
                name="storage, memory",
                goal="at most 2 GB",
                seen=f"{ours.peak_bytes / GIB:.2f} GiB",
                is_met=ours.peak_bytes <= 2 * 10**9,
            ),
        ),
        notes=(note,),
        medians=medians,
    )


def _assert_same(medians: Sequence[Median]) -> None:
    """Raise ResultsDifferError unless all that left usage rows left the same ones."""
    found = {median.contender: median.facts["usage"] for median in medians if "usage" in median.facts}
    if len({tuple(usage) for usage in found.values()}) > 1:
        raise ResultsDifferError(f"the usage rows differ ({found}); they were not compared further")


def _row(median: Median, bare: Median) -> tuple[str, ...]:
    return (
        median.contender,
        f"{median.seconds:.1f}",
        f"{median.seconds / bare.seconds:.2f}",
        f"{median.cpu_seconds:.1f}",
        f"{median.server_cpu_seconds:.1f}",
        f"{median.peak_bytes / GIB:.2f}",
        f"{median.server_peak_bytes / GIB:.2f}",
        ", ".join(f"{part.name} {part.seconds:.1f}" for part in median.parts),
    )
