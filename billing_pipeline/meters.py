"""Meters: the mergeable state of usage rows -> one exact quantity for a period. Pure.

A usage row holds a meter's result for one window (an hour or a part of one) and one set of dimensions. Counts and sums
add up; max and min fold; mean, unique, latest and percentile come from the rows' states, never from adding quantities. A
time-weighted meter's rows hold the integral of a level over the window (byte-seconds); they add up, and rating divides by
the seconds of the billing period. Quantities are exact `Decimal` in the meter's unit. Not here: which record counts (sql/),
single transactions and windows (meter_details), prices and units (rating).
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from itertools import chain

from billing_pipeline.amounts import Exact, exact_product, exact_sum
from billing_pipeline.errors import BillingError

HOUR_SECONDS = 3600
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NUMERIC_FIELDS = frozenset({"response_time_us", "response_bytes", "status_code"})
TEXT_FIELDS = frozenset({"endpoint", "method", "client_id"})
TRAFFIC_FIELDS = frozenset({"uplink_bytes", "downlink_bytes", "total_bytes"})
STORAGE_FIELDS = frozenset({"private_bytes", "public_bytes", "bytes"})
DEFAULT_ENVS = frozenset({"prod"})


class MeterInvalidError(BillingError):
    """A meter that cannot be computed as it is written."""


class UsageStateInvalidError(BillingError):
    """A usage row whose state does not fit its meter."""


class MeterSource(StrEnum):
    """What a meter measures: the usage asset that its rows are in."""

    API_REQUESTS = "api_requests"
    TRAFFIC = "traffic"
    STORAGE = "storage"


class Aggregation(StrEnum):
    """How the records of a window become a quantity."""

    COUNT = "count"
    SUM = "sum"
    MAX = "max"
    MIN = "min"
    MEAN = "mean"
    UNIQUE = "unique"
    LATEST = "latest"
    PERCENTILE = "percentile"
    TIME_WEIGHTED = "time_weighted"
    LEVEL = "level"

    @property
    def is_additive(self) -> bool:
        """Tell whether quantities of disjoint windows may be added."""
        return self in (Aggregation.COUNT, Aggregation.SUM, Aggregation.TIME_WEIGHTED)


class Missing(StrEnum):
    """What a fixed bucket without any record is worth to a percentile."""

    ZERO = "zero"
    SKIP = "skip"


class LevelFold(StrEnum):
    """What a level comes to in a billing period: its mean over time, its highest, or its last value."""

    MEAN = "mean"
    HIGHEST = "highest"
    LAST = "last"


class TransactionDetail(StrEnum):
    """Whether a sum keeps its single amounts: how often each, or each with its instant."""

    COUNTED = "counted"
    ORDERED = "ordered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """What is measured. `field` is a column of the source; a record whose field is null does not reach the meter.

    Meters of traffic sum one of its fields over the `envs`; meters of storage weigh one of its fields by time. The others
    are about API requests.

    `percentile` is in (0, 100]. `endpoints` and `methods` filter the records; None takes all of them.
    `bucket_seconds` (a divisor of 3600) keeps the result of each fixed UTC bucket, for prices that rate windows; a percentile
    sums the field, or counts records without one, per bucket, and is taken over the buckets of the period; `missing` says
    what an empty one counts. `transactions` keeps the single amounts of a sum, for prices that charge for each.

    A level goes on from period to period: a record raises it by the field, or by 1 without one, or lowers it where its method
    is one of `lowered_by`; with `is_set` it becomes the field. `level` says what it comes to in a period.
    """

    meter_id: str
    version: int
    aggregation: Aggregation
    unit: str
    field: str | None = None
    percentile: Decimal | None = None
    endpoints: frozenset[str] | None = None
    methods: frozenset[str] | None = None
    bucket_seconds: int | None = None
    missing: Missing = Missing.ZERO
    source: MeterSource = MeterSource.API_REQUESTS
    envs: frozenset[str] = DEFAULT_ENVS
    transactions: TransactionDetail | None = None
    level: LevelFold | None = None
    lowered_by: frozenset[str] = frozenset()
    is_set: bool = False

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem:
            raise MeterInvalidError(
                f"Meter {self.meter_id!r} version {self.version}: {problem}.",
                bill="Nothing is measured with this meter.",
                fix="Correct the meter in the catalog and load it again.",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageState:
    """What one usage row adds to its meter.

    `quantity` is the row's own result, of a mean rounded to nine places. `state`, as kept in `usage.api_requests.state`:
    mean `{"sum": n, "count": n}`, unique `{"values": [...]}`, percentile `{"counts": [[value, n], ...]}`, with buckets
    `{"buckets": [[start in epoch seconds, value], ...]}`, latest `{"at": ISO 8601, "event_id": text}`, level
    `{"changes": [[epoch microseconds, value], ...]}`, counted transactions `{"counts": ...}`, ordered ones
    `{"transactions": [[epoch microseconds, value, n], ...]}`; None for the others.
    """

    quantity: Decimal
    state: Mapping[str, object] | None = None


def merge(
    meter: Meter,
    rows: Iterable[UsageState],
    *,
    period_start: datetime | None = None,
    period_end: datetime | None = None,
) -> Exact:
    """Return the quantity of a period from the states of its rows, in any order. No rows: 0.

    The period `[period_start, period_end)` is needed by percentiles over buckets, to count the empty ones. A level needs what it
    begins with: meter_details.

    Raises:
        UsageStateInvalidError: a state that the meter cannot read, or a bucketed meter without its period.
    """
    match meter.aggregation:
        case Aggregation.LEVEL:
            raise TypeError(f"meter {meter.meter_id!r} is a level, which goes on from the period before")
        case Aggregation.COUNT | Aggregation.SUM | Aggregation.TIME_WEIGHTED:
            return exact_sum([row.quantity for row in rows])
        case Aggregation.MAX:
            return max((row.quantity for row in rows), default=Decimal(0))
        case Aggregation.MIN:
            return min((row.quantity for row in rows), default=Decimal(0))
        case Aggregation.MEAN:
            return _mean(meter, rows)
        case Aggregation.UNIQUE:
            values = (state_items(meter, row, "values") for row in rows)
            return Decimal(len(frozenset(chain.from_iterable(values))))
        case Aggregation.LATEST:
            found = tuple(rows)
            return latest_of(meter, found).quantity if found else Decimal(0)
        case Aggregation.PERCENTILE if meter.bucket_seconds is None:
            return nearest_rank(_value_counts(meter, rows), _percentile(meter))
        case Aggregation.PERCENTILE:
            buckets = _bucket_counts(meter, rows, period_start, period_end)
            return nearest_rank(buckets, _percentile(meter))


def nearest_rank(counts: Mapping[Decimal, int], percentile: Decimal) -> Decimal:
    """Return the smallest value that at least `percentile` percent of all values do not exceed; 0 without values.

    `counts` is value -> occurrences. The 95th percentile of 20 values is the 19th: ceil(0.95 x 20).
    """
    total = sum(counts.values())
    if total == 0:
        return Decimal(0)
    numerator, denominator = (percentile / 100).as_integer_ratio()
    rank = max(1, -(-numerator * total // denominator))
    seen = 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= rank:
            return value
    raise AssertionError("a rank beyond all values")  # pragma: no cover - percentile <= 100


_BUCKETED = (Aggregation.PERCENTILE, Aggregation.COUNT, Aggregation.SUM, Aggregation.MAX, Aggregation.MIN)


def _problem(meter: Meter) -> str | None:
    if meter.source is not MeterSource.API_REQUESTS:
        return _problem_beside_requests(meter)
    if meter.aggregation is Aggregation.TIME_WEIGHTED:
        return "time_weighted is for meters of the source 'storage': a request has no duration"
    is_percentile = meter.aggregation is Aggregation.PERCENTILE
    is_level = meter.aggregation is Aggregation.LEVEL
    if is_level != (meter.level is not None):
        return 'level = "mean", "highest" or "last" goes with the aggregation \'level\' and with no other'
    if (meter.lowered_by or meter.is_set) and not is_level:
        return "lowered_by and is_set go with the aggregation 'level'"
    if meter.is_set and (meter.lowered_by or meter.field is None):
        return "a level that is set has a field, and is not lowered: leave lowered_by out"
    counts_records = (is_level and not meter.is_set) or (is_percentile and meter.bucket_seconds is not None)
    counts_records = counts_records or meter.aggregation is Aggregation.COUNT
    if not counts_records and meter.field is None:
        return f"{meter.aggregation} needs a field"
    allowed = NUMERIC_FIELDS | TEXT_FIELDS if meter.aggregation is Aggregation.UNIQUE else NUMERIC_FIELDS
    if meter.field is not None and meter.field not in allowed:
        return f"{meter.aggregation} cannot use the field {meter.field!r} (it can use {', '.join(sorted(allowed))})"
    if is_percentile != (meter.percentile is not None):
        return "a percentile goes with the aggregation 'percentile' and with no other"
    if meter.percentile is not None and not 0 < meter.percentile <= 100:
        return f"percentile {meter.percentile} is not in (0, 100]"
    if meter.transactions is not None and (
        meter.aggregation is not Aggregation.SUM or meter.bucket_seconds is not None
    ):
        return "transactions goes with the aggregation 'sum' without buckets, and with no other"
    if meter.bucket_seconds is not None:
        if meter.aggregation not in _BUCKETED:
            return f"bucket_seconds goes with {', '.join(_BUCKETED)}"
        if meter.bucket_seconds < 1 or HOUR_SECONDS % meter.bucket_seconds:
            return f"bucket_seconds {meter.bucket_seconds} does not divide an hour"
    return None


def _problem_beside_requests(meter: Meter) -> str | None:
    """Return what is wrong with a meter of traffic or storage."""
    is_traffic = meter.source is MeterSource.TRAFFIC
    wanted, fields = (Aggregation.SUM, TRAFFIC_FIELDS) if is_traffic else (Aggregation.TIME_WEIGHTED, STORAGE_FIELDS)
    if meter.aggregation is not wanted:
        return f"a meter of the source {meter.source.value!r} has the aggregation {wanted.value!r}, not {meter.aggregation.value!r}"
    if meter.field not in fields:
        return f"a meter of the source {meter.source.value!r} needs one of the fields {', '.join(sorted(fields))}"
    if meter.endpoints is not None or meter.methods is not None:
        return "endpoints and methods are about API requests"
    about_requests = (meter.percentile, meter.bucket_seconds, meter.transactions, meter.level)
    if any(one is not None for one in about_requests) or meter.lowered_by or meter.is_set:
        return "percentile, bucket_seconds, transactions and levels are about API requests"
    if not meter.envs:
        return "envs is empty: leave it out for prod"
    return None


def _mean(meter: Meter, rows: Iterable[UsageState]) -> Exact:
    total = count = 0
    for row in rows:
        match row.state:
            case {"sum": int() as one, "count": int() as number}:
                total, count = total + one, count + number
            case _:
                raise invalid_state(meter, f"state {row.state!r} has no 'sum' and 'count'")
    return exact_product(Decimal(total), times=Decimal(1), over=Decimal(count)) if count else Decimal(0)


def _percentile(meter: Meter) -> Decimal:
    assert meter.percentile is not None
    return meter.percentile


def _value_counts(meter: Meter, rows: Iterable[UsageState]) -> Counter[Decimal]:
    counts: Counter[Decimal] = Counter()
    for row in rows:
        for value, occurrences in state_pairs(meter, row, "counts"):
            counts[Decimal(value)] += occurrences
    return counts


def _bucket_counts(
    meter: Meter, rows: Iterable[UsageState], period_start: datetime | None, period_end: datetime | None
) -> Counter[Decimal]:
    if period_start is None or period_end is None or meter.bucket_seconds is None:
        raise invalid_state(meter, "a percentile over buckets needs the period it is taken over")
    totals: Counter[int] = Counter()
    for row in rows:
        for bucket_start, value in state_pairs(meter, row, "buckets"):
            totals[bucket_start] += value
    counts = Counter(Decimal(value) for value in totals.values())
    if meter.missing is Missing.ZERO:
        first = _epoch_seconds_floor(period_start) // meter.bucket_seconds
        end = -(-_epoch_seconds_ceil(period_end) // meter.bucket_seconds)
        counts[Decimal(0)] += max(0, end - first - len(totals))
    return counts


def _epoch_seconds_floor(instant: datetime) -> int:
    """Return whole seconds since 1970, without the float of `datetime.timestamp`."""
    since = instant - EPOCH
    return since.days * 86_400 + since.seconds


def _epoch_seconds_ceil(instant: datetime) -> int:
    return _epoch_seconds_floor(instant) + (1 if instant.microsecond else 0)


def latest_of(meter: Meter, rows: Iterable[UsageState]) -> UsageState:
    """Return the row that a latest meter takes its quantity from; there is one at least."""
    return max(rows, key=lambda row: _latest_key(meter, row))


def _latest_key(meter: Meter, row: UsageState) -> tuple[datetime, str, Decimal]:
    """Order by instant, then event id, then value, so that any order of rows agrees on the latest."""
    state = row.state or {}
    at, event_id = state.get("at"), state.get("event_id")
    if not isinstance(at, str) or not isinstance(event_id, str):
        raise invalid_state(meter, f"state {state!r} has no 'at' and 'event_id'")
    return datetime.fromisoformat(at), event_id, row.quantity


def state_pairs(meter: Meter, row: UsageState, key: str) -> Iterable[tuple[int, int]]:
    """Yield the pairs of whole numbers under `key` of the row's state."""
    for item in state_items(meter, row, key):
        match item:
            case [int() as left, int() as right]:
                yield left, right
            case _:
                raise invalid_state(meter, f"{item!r} in {key!r} is not a pair of integers")


def state_items(meter: Meter, row: UsageState, key: str) -> list[object]:
    """Return the list under `key` of the row's state."""
    items = (row.state or {}).get(key)
    if not isinstance(items, list):
        raise invalid_state(meter, f"state {row.state!r} has no list {key!r}")
    return items


def invalid_state(meter: Meter, problem: str) -> UsageStateInvalidError:
    """Return the error of a state that the meter cannot read."""
    return UsageStateInvalidError(
        f"Usage of meter {meter.meter_id!r} cannot be merged: {problem}.",
        bill="The period of this meter is not rated; what is booked stays as it is.",
        fix="Build the usage of the period's days again; if the meter's aggregation was changed, give it a new id.",
    )
