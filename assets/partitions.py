"""Which days exist, and how a run may group them. One definition and one policy for the whole daily chain.

Keys are UTC days, `YYYY-MM-DD`. The same keys mean delivery days for `core/request_records` and event days everywhere
else. Not here: which days are due (sensors). See docs/adr/0008-ranges-and-verdicts-in-dagster.md.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, timedelta

import dagster as dg

# Before the oldest public request logs (July 1995), and 11,600 partitions today: far below the 100,000 that Dagster bears.
FIRST_DAY = date(1995, 1, 1)

# `end_offset=1`: today is there while it lasts, so that a file of today has a partition to land in.
DAYS = dg.DailyPartitionsDefinition(start_date=FIRST_DAY.isoformat(), timezone="UTC", end_offset=1)

# A run reads its days in one scan, and writes and judges each by itself, so a long range costs no process per day. The
# bound keeps what one failure takes with it, and the run's own bookkeeping, small.
MAX_DAYS_PER_RUN = 400
BACKFILL_POLICY = dg.BackfillPolicy.multi_run(max_partitions_per_run=MAX_DAYS_PER_RUN)

# How a run says which days it is about.
PARTITION_TAG = "dagster/partition"
RANGE_START_TAG = "dagster/asset_partition_range_start"
RANGE_END_TAG = "dagster/asset_partition_range_end"

# Files come late, so an event day may be in any delivery. Which deliveries hold it is in PostgreSQL (core.lake_generation_day),
# where usage looks it up, and the sensor `stale_usage` asks for what a delivery changed. The mapping only says which days
# are launched together: with "all" a backfill of three days of the chain became one of 11,647.
SAME_DAYS = dg.TimeWindowPartitionMapping()


@contextmanager
def accepted_dagster_apis() -> Iterator[None]:
    """Declare definitions without the warnings of the two unfinished Dagster features that are used on purpose.

    `backfill_policy=` of an asset is marked beta, `partitions_def=` of a check preview, in the Dagster version that is
    pinned. What is relied on of them is measured and tested (ADR 0008), so that an upgrade cannot change it in silence.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Parameter `backfill_policy` ", category=dg.BetaWarning)
        warnings.filterwarnings(
            "ignore", r"Specifying a partitions_def on an AssetCheckSpec ", category=dg.PreviewWarning
        )
        yield


def days_of(partition_keys: Iterable[str]) -> tuple[date, ...]:
    """Return the days that partition keys name, in their order."""
    return tuple(date.fromisoformat(key) for key in partition_keys)


def contiguous(days: Iterable[date], *, at_most: int = MAX_DAYS_PER_RUN) -> tuple[tuple[date, date], ...]:
    """Return `days` as ranges (first, last; both inside) that hold these days and no others, at most so long each."""
    ranges: list[tuple[date, date]] = []
    for day in sorted(set(days)):
        if ranges and day - ranges[-1][1] == timedelta(days=1) and (day - ranges[-1][0]).days < at_most:
            ranges[-1] = (ranges[-1][0], day)
        else:
            ranges.append((day, day))
    return tuple(ranges)


def partition_tags(first: date, last: date) -> dict[str, str]:
    """Return the run tags that make a run one over the days from `first` to `last`, both inside."""
    if first == last:
        return {PARTITION_TAG: first.isoformat()}
    return {RANGE_START_TAG: first.isoformat(), RANGE_END_TAG: last.isoformat()}


def days_in_tags(tags: Mapping[str, str]) -> tuple[date, ...]:
    """Return the days that a run with these tags is about; none if it is not partitioned by day."""
    first = tags.get(RANGE_START_TAG) or tags.get(PARTITION_TAG)
    last = tags.get(RANGE_END_TAG) or first
    if first is None or last is None:
        return ()
    start, end = date.fromisoformat(first), date.fromisoformat(last)
    return tuple(start + timedelta(days=offset) for offset in range((end - start).days + 1))
