"""The cases: who meets whom on which data, which table that gives, and which goal it is held against."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.catalog import write_catalog
from bench.measure import Bench, Median, Told
from bench.request_files import Dataset, dataset
from bench.task import Task

GIB = 2**30
_BACKFILL_NAMES = {"ours": "stores", "dagster": "Dagster"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A goal of the project beside what was seen."""

    name: str
    goal: str
    seen: str
    is_met: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A case's table (texts, first column is the name), its goals, and every figure behind it."""

    case: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    goals: tuple[Goal, ...] = ()
    notes: tuple[str, ...] = ()
    medians: tuple[Median, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """What every case works with. `rows` of request data, `minutes` of pushing; tests make `days` and `subscriptions` small."""

    bench: Bench
    folder: Path
    rows: int
    runs: int
    told: Told
    days: int = 400
    backfilled_by: tuple[str, ...] = ("ours", "dagster")
    subscriptions: int = 10_000
    rating_seconds: float = 2.0
    copied_rows: int = 1_000_000
    minutes: float = 1.0

    def data(self, kind: str) -> Dataset:
        """Return a data set, written by a process of its own if it is not there."""
        self.told(f"data set {kind}, {self.rows:,} rows")
        options = {"kind": kind, "rows": self.rows, "days": self.days}
        self.bench.run(Task(contender="data", landing=str(self.folder), options=options))
        return dataset(self.folder, kind, rows=self.rows, days=self.days)

    def catalog(self, framing: str) -> Path:
        """Return the folder of the catalog whose source delivers in `framing`."""
        return write_catalog(self.folder / f"catalog-{framing}", framing=framing)

    def compare(self, contenders: Sequence[str], data: Dataset, *, framing: str) -> tuple[Median, ...]:
        """Run contenders on one data set, in turns."""
        tasks = [_task(contender, data, framing=framing) for contender in contenders]
        return self.bench.interleaved(tasks, runs=self.runs, catalog=self.catalog(framing), told=self.told)


def requests_json(suite: Suite) -> Result:
    """One gzip file of JSON lines, from file to rows in PostgreSQL."""
    data = suite.data("json")
    medians = suite.compare(("duckdb-parse", "ours", "polars", "pandas", "postgres"), data, framing="json")
    bare, ours, polars, *named = medians
    ratio, fastest = ours.seconds / bare.seconds, min(named, key=lambda other: other.seconds)
    goals = (
        Goal(
            name="against the bare parse",
            goal="at most 2.0 times",
            seen=f"{ratio:.2f} times ({ours.seconds:.1f} s, {bare.seconds:.1f} s)",
            is_met=ratio <= 2.0,
        ),
        Goal(
            name="against pandas and PostgreSQL",
            goal="faster",
            seen=f"{fastest.contender}, the faster of them, takes {fastest.seconds / ours.seconds:.2f} times as long",
            is_met=ours.seconds < fastest.seconds,
        ),
        Goal(
            name="memory",
            goal="at most 2 GB",
            seen=f"{ours.peak_bytes / GIB:.2f} GiB",
            is_met=ours.peak_bytes <= 2 * 10**9,
        ),
    )
    note = (
        f"polars takes {polars.seconds / ours.seconds:.2f} times as long and {polars.peak_bytes / ours.peak_bytes:.1f} times "
        "the memory. What all of them leave out: see above."
    )
    return _compared("requests-json", "Gzip JSON lines, one file", data, medians, goals=goals, notes=(note,))


def requests_hourly(suite: Suite) -> Result:
    """The same rows as 24 gzip files: what can be read side by side."""
    data = suite.data("json-hourly")
    medians = suite.compare(("duckdb-parse", "ours", "polars"), data, framing="json")
    return _compared("requests-hourly", "Gzip JSON lines, 24 files", data, medians)


def requests_avro(suite: Suite) -> Result:
    """The same rows as one Avro file with codec deflate."""
    data = suite.data("avro")
    medians = suite.compare(("polars-scan", "ours", "polars", "pandas", "postgres"), data, framing="avro")
    notes = (
        "The bare scan is polars.read_avro: DuckDB reads no Avro without a download. pandas and PostgreSQL read by it too.",
    )
    return _compared("requests-avro", "Avro (deflate), one file", data, medians, notes=notes)


def memory(suite: Suite) -> Result:
    """Our job with one file, and with five times the rows in five files."""
    one, five = suite.data("json"), suite.data("json-five")
    measured: list[Median] = []
    for data in (one, five):
        name = f"{data.rows / 1e6:g} million rows"
        suite.told(name)
        run = suite.bench.interleaved(
            [_task("ours", data, label=name)], runs=1, catalog=suite.catalog("json"), told=suite.told
        )
        measured += run
    small, large = measured
    growth = large.peak_bytes / small.peak_bytes
    rows = tuple(
        (median.contender, _seconds(median), _cpu(median), _gib(median.peak_bytes), _gib(median.server_peak_bytes))
        for median in measured
    )
    goals = (
        Goal(name="memory", goal="at most 2 GB", seen=_gib(large.peak_bytes), is_met=large.peak_bytes <= 2 * 10**9),
        Goal(
            name="memory with five times the rows",
            goal="flat",
            seen=f"{growth:.2f} times",
            is_met=growth <= 1.1,
        ),
    )
    return Result(
        case="memory",
        title="Peak memory of our job",
        columns=("rows", "wall s", "CPU s", "peak GiB", "server's own GiB"),
        rows=rows,
        goals=goals,
        medians=tuple(measured),
    )


def backfill(suite: Suite) -> Result:
    """The rows on many event days, delivered in a file a day, against the same rows on one day in one file."""
    one, many = suite.data("json"), suite.data("json-days")
    tasks = [
        _task(contender, data, label=f"{_BACKFILL_NAMES[contender]}, {data.days} day{'s' if data.days > 1 else ''}")
        for contender in suite.backfilled_by
        for data in (one, many)
    ]
    medians = suite.bench.interleaved(tasks, runs=suite.runs, catalog=suite.catalog("json"), told=suite.told)
    rows: list[tuple[str, ...]] = []
    goals: list[Goal] = []
    for single, range_of in zip(medians[::2], medians[1::2], strict=True):
        for median in (single, range_of):
            ratio = median.seconds / single.seconds
            rows.append(
                (
                    median.contender,
                    _seconds(median),
                    f"{ratio:.2f}",
                    _cpu(median),
                    f"{median.server_cpu_seconds:.1f}",
                    _gib(median.peak_bytes),
                    _parts(median),
                )
            )
        goals += [
            _backfill_goal(f"backfill, {range_of.contender}", range_of.seconds, single.seconds),
            _backfill_goal(f"usage alone, {range_of.contender}", _usage_seconds(range_of), _usage_seconds(single)),
        ]
    return Result(
        case="backfill",
        title=f"{many.rows:,} rows on {many.days} event days in one run, against one day",
        columns=("", "wall s", "ratio", "CPU s", "server CPU s", "peak GiB", "parts (wall s)"),
        rows=tuple(rows),
        goals=tuple(goals),
        notes=("Each account is on one of the days, so both sides end in as many usage rows.",),
        medians=medians,
    )


def rating(suite: Suite) -> Result:
    """Lines a second on one core, and booking end to end."""
    suite.told("rating")
    rated = suite.bench.run(Task(contender="rating", options={"seconds": suite.rating_seconds}))
    speeds: Mapping[str, Mapping[str, int]] = rated.facts["speeds"]
    catalog = write_catalog(
        suite.folder / f"catalog-{suite.subscriptions}", accounts=suite.subscriptions, subscribed=suite.subscriptions
    )
    task = Task(contender="booking")
    booking = suite.bench.interleaved([task], runs=suite.runs, catalog=catalog, told=suite.told)[0]
    rows = [(name, f"{speed['charges']:,}", f"{speed['lines']:,}") for name, speed in speeds.items()]
    charges = int(booking.facts["charges"])
    rows += [
        (f"{part.name}, {charges:,} charges to PostgreSQL", f"{charges / part.seconds:,.0f}", "")
        for part in booking.parts
    ]
    seen = speeds["mix"]["lines"]
    goal = Goal(
        name="rating",
        goal="at least 100,000 lines a second a core",
        seen=f"{seen:,} lines a second (mix)",
        is_met=seen >= 100_000,
    )
    return Result(
        case="rating",
        title="Rating on one core (CPU time), and booking (wall time)",
        columns=("price", "charges/s", "lines/s"),
        rows=tuple(rows),
        goals=(goal,),
        medians=(booking,),
    )


def backtest(suite: Suite) -> Result:
    """A year of usage of all subscriptions with a draft that changes everybody's price."""
    from bench.backtest import ratio

    catalog = write_catalog(
        suite.folder / f"catalog-{suite.subscriptions}", accounts=suite.subscriptions, subscribed=suite.subscriptions
    )
    days = min(365, suite.days)
    draft = str(suite.folder / "catalog-backtest-draft")
    task = Task(contender="backtest", options={"days": days, "draft": draft})
    median = suite.bench.interleaved([task], runs=suite.runs, catalog=catalog, told=suite.told)[0]
    seen = ratio(median)
    return Result(
        case="backtest",
        title=f"Backtest: {days} days of {suite.subscriptions:,} accounts, {median.facts['usage_rows']:,} usage rows, "
        f"{median.facts['charges']:,} charges, of which {median.facts['changed']:,} change",
        columns=("part", "wall s"),
        rows=tuple((part.name, f"{part.seconds:.1f}") for part in median.parts),
        goals=(
            Goal(
                name="backtest",
                goal="under the time of one scan of its usage plus rating",
                seen=f"{seen:.2f} times that",
                is_met=seen <= 1,
            ),
        ),
        medians=(median,),
    )


def booking(suite: Suite) -> Result:
    """A month of ten times as many subscriptions with five prices each, rated and booked."""
    from bench.month import month_case

    return month_case(suite)


def merged(suite: Suite) -> Result:
    """A month of usage that cannot be added, rated by the hour and by merged days."""
    from bench.merged import BY_HOUR, CHANGED, write_merged_catalog

    accounts = max(1, suite.subscriptions // 50)
    catalog = write_merged_catalog(suite.folder / f"catalog-merged-{accounts}", accounts=accounts)
    task = Task(contender="merged", options={"days": min(31, suite.days)})
    median = suite.bench.interleaved([task], runs=suite.runs, catalog=catalog, told=suite.told)[0]
    seconds = {part.name: part.seconds for part in median.parts}
    faster = seconds[BY_HOUR] / seconds[CHANGED]
    size = f"{median.facts['merged_bytes'] / 1e6:,.0f} MB beside {median.facts['usage_bytes'] / 1e6:,.0f} MB of usage"
    return Result(
        case="merged",
        title=f"{median.facts['charges']:,} charges of a unique count and a percentile, {median.facts['usage_rows']:,} usage rows",
        columns=("rated", "wall s"),
        rows=tuple((part.name, f"{part.seconds:.2f}") for part in median.parts),
        goals=(
            Goal(
                name="merged days",
                goal="one changed day of a month at least 3 times as fast as every hour",
                seen=f"{faster:.1f} times",
                is_met=faster >= 3,
            ),
        ),
        notes=(f"Kept for it: {size}.",),
        medians=(median,),
    )


def bulk_load(suite: Suite) -> Result:
    """Rows a second through copy_arrow."""
    task = Task(contender="copy", options={"rows": suite.copied_rows})
    median = suite.bench.interleaved([task], runs=suite.runs, catalog=suite.catalog("json"), told=suite.told)[0]
    rows = tuple(
        (part.name, f"{part.seconds:.1f}", f"{suite.copied_rows / part.seconds:,.0f}") for part in median.parts
    )
    return Result(
        case="copy",
        title=f"copy_arrow, {suite.copied_rows:,} usage rows",
        columns=("table", "wall s", "rows/s"),
        rows=rows,
        medians=(median,),
    )


def invoice_months(suite: Suite) -> Result:
    """Totals by month of the invoices of five years, of `rows` / 10."""
    task = Task(contender="invoice-months", options={"invoices": max(60, suite.rows // 10)})
    median = suite.bench.interleaved([task], runs=suite.runs, catalog=suite.catalog("json"), told=suite.told)[0]
    return Result(
        case="invoice-months",
        title=f"Totals by month: {median.facts['invoices']:,} invoices of {median.facts['months']} months",
        columns=("part", "wall s"),
        rows=tuple((part.name, f"{part.seconds:.2f}") for part in median.parts),
        goals=(
            Goal(
                name="totals of years",
                goal="in a second, and right",
                seen=f"{median.seconds:.2f} s",
                is_met=median.seconds <= 1,
            ),
        ),
        medians=(median,),
    )


def stripe_calls(suite: Suite) -> Result:
    """A month of usage to Stripe in calls, and renewals at Stripe's rates."""
    from bench.stripe_case import stripe_case

    return stripe_case(suite)


def steady(suite: Suite) -> Result:
    """Events pushed in bulks, from 202 to usage: at the promised rate, and as many as go."""
    from bench.steady_case import steady_case

    return steady_case(suite)


def storage(suite: Suite) -> Result:
    """A month of storage, from lake files to hourly rows in PostgreSQL."""
    from bench.storage import storage_case

    return storage_case(suite)


def traffic(suite: Suite) -> Result:
    """A day of counter samples, from lake files to minute buckets in PostgreSQL."""
    from bench.traffic import traffic_case

    return traffic_case(suite)


def traffic_year(suite: Suite) -> Result:
    """A year of counter samples of one node, built in one run."""
    from bench.traffic import traffic_year_case

    return traffic_year_case(suite)


CASES: Mapping[str, Callable[[Suite], Result]] = {
    "requests-json": requests_json,
    "requests-hourly": requests_hourly,
    "requests-avro": requests_avro,
    "memory": memory,
    "backfill": backfill,
    "rating": rating,
    "booking": booking,
    "backtest": backtest,
    "merged": merged,
    "copy": bulk_load,
    "steady": steady,
    "storage": storage,
    "invoice-months": invoice_months,
    "stripe-calls": stripe_calls,
    "traffic": traffic,
    "traffic-year": traffic_year,
}


def _backfill_goal(name: str, days_seconds: float, day_seconds: float) -> Goal:
    ratio = days_seconds / day_seconds
    return Goal(
        name=name,
        goal="at most 1.2 times one day",
        seen=f"{ratio:.2f} times ({days_seconds:.1f} s, {day_seconds:.1f} s)",
        is_met=ratio <= 1.2,
    )


def _usage_seconds(median: Median) -> float:
    return next(part.seconds for part in median.parts if part.name == "usage")


def _task(contender: str, data: Dataset, *, framing: str = "json", label: str = "") -> Task:
    return Task(
        contender=contender,
        label=label,
        framing=framing,
        landing=str(data.landing),
        files=tuple(str(path) for path in data.files),
    )


def _compared(
    case: str,
    title: str,
    data: Dataset,
    medians: tuple[Median, ...],
    *,
    goals: tuple[Goal, ...] = (),
    notes: tuple[str, ...] = (),
) -> Result:
    bare = medians[0]
    rows = tuple(
        (
            median.contender,
            _seconds(median),
            f"{median.seconds / bare.seconds:.2f}",
            f"{data.rows / median.seconds:,.0f}",
            _cpu(median),
            f"{median.server_cpu_seconds:.1f}",
            _gib(median.peak_bytes),
            _gib(median.server_peak_bytes),
            _parts(median),
        )
        for median in medians
    )
    usage_rows = next((median.usage_rows for median in medians if median.usage_rows), 0)
    return Result(
        case=case,
        title=f"{title}: {data.rows:,} rows, {data.size_bytes / 1e6:,.0f} MB packed, {usage_rows:,} usage rows",
        columns=(
            "",
            "wall s",
            "ratio",
            "rows/s",
            "CPU s",
            "server CPU s",
            "peak GiB",
            "server's own GiB",
            "parts (wall s)",
        ),
        rows=rows,
        goals=goals,
        notes=notes,
        medians=medians,
    )


def _seconds(median: Median) -> str:
    return f"{median.seconds:.1f}"


def _cpu(median: Median) -> str:
    return f"{median.cpu_seconds:.1f}"


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / GIB:.2f}"


def _parts(median: Median) -> str:
    return ", ".join(f"{part.name} {part.seconds:.1f}" for part in median.parts)
