"""The case of calls to Stripe: a month of daily syncs against one call for each event, renewals against Stripe's rates."""

from bench.cases import Goal, Result, Suite
from bench.measure import Measurement
from bench.stripe_calls import OPERATION_RATE, write_stripe_catalog
from bench.task import Task

# Of the default 10 million rows: 1,000,000 events of 1,000 customers, and 10,000 renewals.
_ROWS_PER_EVENT, _EVENTS_PER_CUSTOMER, _ROWS_PER_RENEWAL = 10, 1_000, 1_000
_SYNCED = "a month of daily syncs"
# Of one draft on its busiest operation: its lines; of many that are held first, one that sets it free besides.
_CALLS_OF_ONE_OPERATION = 2
# Lists of all, before and after.
_SECONDS_BESIDE = 10


def stripe_case(suite: Suite) -> Result:
    """Run the month, one renewal, and many."""
    events = suite.rows // _ROWS_PER_EVENT
    customers = max(2, events // _EVENTS_PER_CUSTOMER)
    drafts = max(4, suite.rows // _ROWS_PER_RENEWAL)
    month = _run(suite, "stripe-month", customers, events, label=_SYNCED)
    one = _run(suite, "stripe-renewals", 1, _EVENTS_PER_CUSTOMER, label="one renewal")
    many = _run(suite, "stripe-renewals", drafts, drafts * 31, label=f"{drafts:,} renewals")
    calls = month.facts["sync_reads"] + month.facts["sync_writes"]
    together = calls + month.facts["true_up_reads"] + month.facts["true_up_writes"]
    per_customer = together / customers
    # What the limits let through: so many reads and writes of one operation each, 25 a second.
    least = many.facts["drafts"] / OPERATION_RATE
    most = _CALLS_OF_ONE_OPERATION * least + _SECONDS_BESIDE
    note = (
        f"{many.facts['drafts']:,} drafts wait {many.facts['true_up_waited']:.0f} s for Stripe's limits in all; one call for "
        f"each at {OPERATION_RATE} a second is {least:.0f} s. CPU is of sync and stand-in together, in one process, without "
        "PostgreSQL; wall time has no waiting in it."
    )
    return Result(
        case="stripe-calls",
        title=f"Calls to Stripe: {month.facts['events']:,} events of {customers:,} customers in a month",
        columns=("", "customers", "reads", "writes", "calls a customer", "s of waiting", "CPU s", "wall s"),
        rows=(
            (
                f"{month.facts['days']} daily syncs",
                f"{customers:,}",
                f"{month.facts['sync_reads']:,}",
                f"{month.facts['sync_writes']:,}",
                f"{calls / customers:.1f}",
                "",
                *_times(month, "daily syncs"),
            ),
            ("true-up after them", *_true_up(month)),
            ("true-up, nothing sent before", *_true_up(one)),
            ("true-up, nothing sent before", *_true_up(many)),
        ),
        goals=(
            Goal(
                name="calls to Stripe",
                goal="fewer than one for each event",
                seen=f"{per_customer:.1f} a customer and month instead of {month.facts['events'] / customers:,.0f}",
                is_met=together < month.facts["events"],
            ),
            Goal(
                name="calls that Stripe refuses",
                goal="none, at its rates",
                seen=str(sum(run.facts["refused_tries"] for run in (month, one, many))),
                is_met=not any(run.facts["refused_tries"] for run in (month, one, many)),
            ),
            Goal(
                name="renewals at once",
                goal="at the pace of Stripe's limits: at most two calls of one operation for each, and lists",
                seen=f"{many.facts['drafts']:,} drafts in {many.facts['true_up_waited']:.0f} s; at most {most:.0f} s",
                is_met=many.facts["true_up_waited"] <= most,
            ),
            Goal(
                name="a sync of nothing new",
                goal="writes nothing",
                seen=f"{month.facts['again_writes']} writes",
                is_met=month.facts["again_writes"] == 0,
            ),
        ),
        notes=(note,),
    )


def _run(suite: Suite, contender: str, customers: int, events: int, *, label: str) -> Measurement:
    suite.told(f"{label}: {customers:,} customers, {events:,} events")
    catalog = write_stripe_catalog(suite.folder / f"catalog-stripe-{customers}", customers=customers)
    task = Task(
        contender=contender, label=label, options={"customers": customers, "events": events, "days": suite.days}
    )
    return suite.bench.run(task, catalog=catalog)


def _true_up(run: Measurement) -> tuple[str, ...]:
    reads, writes = run.facts["true_up_reads"], run.facts["true_up_writes"]
    drafts = run.facts["drafts"]
    waited = f"{run.facts['true_up_waited']:.0f}"
    return (
        f"{drafts:,}",
        f"{reads:,}",
        f"{writes:,}",
        f"{(reads + writes) / drafts:.1f}",
        waited,
        *_times(run, "true-up"),
    )


def _times(run: Measurement, name: str) -> tuple[str, str]:
    part = next(part for part in run.parts if part.name == name)
    return f"{part.cpu_seconds:.1f}", f"{part.seconds:.1f}"
