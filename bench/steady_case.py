"""The case of events that keep coming: at the rate that is promised, and as many as one pusher and one pipeline take."""

from typing import Any

from bench.cases import Goal, Result, Suite
from bench.measure import Median
from bench.task import Task

# 25 million events a month at their peak; and the rate that others name for a cluster.
PROMISED_RATE, NAMED_RATE = "16.7", 16_667
LAG_SECONDS = 60
_STEADY = {"bulk": 50, "events_per_second": PROMISED_RATE}
_TURNS = {"bulk": 1_000, "bulks_a_turn": 50}


def steady_case(suite: Suite) -> Result:
    """Push for the minutes of the suite at the promised rate, then for as long in turns; one run of each."""
    minutes = str(suite.minutes)
    a_turn = {**_TURNS, "bulks_a_turn": max(1, min(50, suite.rows // 1_000))}
    tasks = (
        Task(contender="steady", label=f"{PROMISED_RATE} events/s", options={**_STEADY, "minutes": minutes}),
        Task(
            contender="steady-turns",
            label="as fast as it goes",
            options={**a_turn, "minutes": minutes, "most_events": suite.rows},
        ),
    )
    catalog = suite.catalog("json")
    promised, fastest = (suite.bench.interleaved([task], runs=1, catalog=catalog, told=suite.told)[0] for task in tasks)
    accepted, counted = _rates(fastest.facts)
    note = (
        "One pusher, one connection, 202 after the file and its folders are synced; endpoint, pusher and pipeline are one "
        "process. Lag is from the 202 to the commit of usage, without the waiting of sensors (at most 15 s before ingest and "
        f"15 s before usage). As fast as it goes: {a_turn['bulks_a_turn']} bulks are pushed, then all are counted, in turns; "
        "the generation of the delivery day and the usage of the event day are made anew each time, so a turn takes longer the "
        "fuller its day is."
    )
    return Result(
        case="steady",
        title=f"Events pushed in bulks for {suite.minutes:g} minutes, each line by itself",
        columns=(
            "",
            "events",
            "bulks",
            "accepted/s",
            "counted/s",
            "lag s, median",
            "most",
            "cycles",
            "CPU s",
            "parts (wall s)",
        ),
        rows=tuple(_row(median) for median in (promised, fastest)),
        goals=(
            Goal(
                name=f"{PROMISED_RATE} events a second",
                goal=f"all counted, each within {LAG_SECONDS} s",
                seen=f"{promised.facts['events']:,} events, at most {promised.facts['lag_most']:.1f} s after the 202",
                is_met=promised.facts["lag_most"] < LAG_SECONDS,
            ),
            Goal(
                name="the ceiling",
                goal=f"{NAMED_RATE:,} events a second, counted as fast as they are accepted",
                seen=f"{counted:,.0f} events a second ({accepted:,.0f} while nothing is counted)",
                is_met=counted >= NAMED_RATE,
            ),
        ),
        notes=(note,),
        medians=(promised, fastest),
    )


def _rates(facts: dict[str, Any]) -> tuple[float, float]:
    return facts["events"] / facts["pushed_in"], facts["events"] / facts["counted_in"]


def _row(median: Median) -> tuple[str, ...]:
    facts = median.facts
    return (
        median.contender,
        f"{facts['events']:,}",
        f"{facts['bulks']:,}",
        *(f"{rate:,.1f}" for rate in _rates(facts)),
        f"{facts['lag_median']:.2f}",
        f"{facts['lag_most']:.2f}",
        f"{facts['cycles']:,}",
        f"{median.cpu_seconds:.1f}",
        ", ".join(f"{part.name} {part.seconds:.1f}" for part in median.parts),
    )
