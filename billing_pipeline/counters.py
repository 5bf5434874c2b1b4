"""Deltas of cumulative counters: the ordered samples of a stream on a UTC day -> bytes per minute, and what they rest on. Pure.

A stream is one account on one inbound of one node of one environment; its counters only grow, until the process that counts
begins anew. This is the rule in few words; `sql/traffic_*.sql` is the same rule for millions of samples, and tests hold one
against the other. Not here: whose bytes they are (catalog), which samples count (traffic_store).

Worked example, totals of one direction, policy `baseline`: 100, 150, 40, 90 with 100 before them on the same node are
50, 0 (reset, 40 bytes may be lost), 50; with a witness of the restart, or `from_zero`, they are 50, 40, 50.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import IntEnum, StrEnum

SECOND = timedelta(seconds=1)
# Counters are signed integers of 64 bits, and so is what a minute of a stream is kept in.
LARGEST_TOTAL = 2**63 - 1


class OnFirst(StrEnum):
    """What the totals in a node's first snapshot ever are: `baseline`, traffic of unknown age that is not billed, or `full`."""

    BASELINE = "baseline"
    FULL = "full"


class OnReset(StrEnum):
    """What a total is that went down without a witness: `baseline`, not billed but reported, or all new traffic (`from_zero`)."""

    BASELINE = "baseline"
    FROM_ZERO = "from_zero"


class Basis(IntEnum):
    """What a minute's bytes rest on. Of several in one minute the greatest is told.

    after_hold: the sample before it was held, so the difference says nothing. restart: a witness proves it. reset: a total
    went down and nothing tells why.
    """

    DIFFERENCE = 0
    NEW_STREAM = 1
    FIRST_OF_NODE = 2
    AFTER_HOLD = 3
    RESTART = 4
    RESET = 5


class HoldReason(StrEnum):
    """Why nothing of a stream's day is billed: two writers share its key, or a direction comes to more than 2^63 - 1 bytes."""

    SPLIT_BRAIN = "split_brain"
    BEYOND_INT64 = "beyond_int64"


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterPolicy:
    """How a node's counters are read. More resets than `max_resets_per_hour` (UTC clock hour) mean two writers of one key.

    That hour may be any of the day, or the first of the next day: two writers do not begin at midnight.
    """

    on_first: OnFirst = OnFirst.BASELINE
    on_reset: OnReset = OnReset.BASELINE
    max_resets_per_hour: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterSample:
    """Totals of a stream at one instant. `uptime_seconds` of the process that counts, rounded down; None: not told."""

    collected_at: datetime
    uplink_bytes: int
    downlink_bytes: int
    uptime_seconds: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamTail:
    """The last sample of a stream before a day. `is_held`: on its day the stream was held."""

    collected_at: datetime
    uplink_bytes: int
    downlink_bytes: int
    is_held: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MinuteDelta:
    """Traffic of a stream in the minute from `bucket_start`. `epoch`: restarts and resets of the stream since midnight UTC.

    `suspected_loss_bytes`: what the policy left out and may have been traffic.
    """

    bucket_start: datetime
    uplink_bytes: int
    downlink_bytes: int
    basis: Basis
    epoch: int
    suspected_loss_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamDay:
    """A stream's minutes of a day, ascending. `held_for`: why none of it is billed; None: it is.

    `resets_of_first_hour`: what the day before has to know.
    """

    minutes: tuple[MinuteDelta, ...]
    resets: int
    resets_of_first_hour: int
    held_for: HoldReason | None
    tail: StreamTail

    @property
    def is_held(self) -> bool:
        """Tell whether none of the day is billed."""
        return self.held_for is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    uplink_bytes: int
    downlink_bytes: int
    basis: Basis
    suspected_loss_bytes: int = 0
    is_reset: bool = False


def stream_day(
    samples: Sequence[CounterSample],
    *,
    tail: StreamTail | None,
    is_first_of_node: bool,
    policy: CounterPolicy,
    resets_after_midnight: int = 0,
) -> StreamDay:
    """Return the minutes of a stream from its samples of one UTC day: at least one, by instant, each instant once.

    `tail` is None for a stream that was never seen before; `is_first_of_node` tells whether it was seen first in the node's
    first snapshot ever. `resets_after_midnight`: of the first hour of the next day, as far as it is known. A delta is booked on
    the minute of its later sample.
    """
    minutes: dict[datetime, MinuteDelta] = {}
    resets: Counter[datetime] = Counter()
    epoch, earlier, uplink, downlink = 0, tail, 0, 0
    for sample in samples:
        # what a sample says does not depend on what was held before it
        told = None if earlier is None else replace(earlier, is_held=False)
        counted = _step(sample, told, is_first_of_node=is_first_of_node, policy=policy)
        uplink, downlink = uplink + counted.uplink_bytes, downlink + counted.downlink_bytes
        step = _step(sample, earlier, is_first_of_node=is_first_of_node, policy=policy)
        epoch += step.is_reset or step.basis is Basis.RESTART
        resets[sample.collected_at.replace(minute=0, second=0, microsecond=0)] += step.is_reset
        bucket_start = sample.collected_at.replace(second=0, microsecond=0)
        minutes[bucket_start] = _added(minutes.get(bucket_start), bucket_start, step, epoch)
        earlier = StreamTail(
            collected_at=sample.collected_at, uplink_bytes=sample.uplink_bytes, downlink_bytes=sample.downlink_bytes
        )
    assert earlier is not None
    held_for: HoldReason | None = None
    if max(resets_after_midnight, *resets.values()) > policy.max_resets_per_hour:
        held_for = HoldReason.SPLIT_BRAIN
    elif max(uplink, downlink) > LARGEST_TOTAL:
        held_for = HoldReason.BEYOND_INT64
    return StreamDay(
        minutes=tuple(minutes.values()),
        resets=resets.total(),
        resets_of_first_hour=resets[earlier.collected_at.replace(hour=0, minute=0, second=0, microsecond=0)],
        held_for=held_for,
        tail=replace(earlier, is_held=held_for is not None),
    )


def has_restarted(sample: CounterSample, earlier: StreamTail) -> bool:
    """Tell whether the process that counts began after the sample before: its uptime is shorter than the time since.

    Uptime is rounded down, so totals that grew are only doubted when it is shorter by a second: 20 s after a minute.
    """
    if sample.uptime_seconds is None:
        return False
    uptime, elapsed = timedelta(seconds=sample.uptime_seconds), sample.collected_at - earlier.collected_at
    return uptime < elapsed if _went_down(sample, earlier) else uptime + SECOND <= elapsed


def _step(sample: CounterSample, earlier: StreamTail | None, *, is_first_of_node: bool, policy: CounterPolicy) -> _Step:
    whole = _Step(uplink_bytes=sample.uplink_bytes, downlink_bytes=sample.downlink_bytes, basis=Basis.NEW_STREAM)
    if earlier is None:
        if not is_first_of_node:
            return whole
        if policy.on_first is OnFirst.FULL:
            return replace(whole, basis=Basis.FIRST_OF_NODE)
        return _Step(uplink_bytes=0, downlink_bytes=0, basis=Basis.FIRST_OF_NODE)
    if has_restarted(sample, earlier):
        return replace(whole, basis=Basis.RESTART)
    is_reset = _went_down(sample, earlier)
    uplink, lost_uplink = _difference(sample.uplink_bytes, earlier.uplink_bytes, policy.on_reset)
    downlink, lost_downlink = _difference(sample.downlink_bytes, earlier.downlink_bytes, policy.on_reset)
    loss = lost_uplink + lost_downlink
    if earlier.is_held:
        return _Step(
            uplink_bytes=0,
            downlink_bytes=0,
            basis=Basis.AFTER_HOLD,
            suspected_loss_bytes=uplink + downlink + loss,
            is_reset=is_reset,
        )
    return _Step(
        uplink_bytes=uplink,
        downlink_bytes=downlink,
        basis=Basis.RESET if is_reset else Basis.DIFFERENCE,
        suspected_loss_bytes=loss,
        is_reset=is_reset,
    )


def _went_down(sample: CounterSample, earlier: StreamTail) -> bool:
    return sample.uplink_bytes < earlier.uplink_bytes or sample.downlink_bytes < earlier.downlink_bytes


def _difference(later: int, earlier: int, on_reset: OnReset) -> tuple[int, int]:
    """Return (bytes to bill, bytes that may be lost) of one direction."""
    if later >= earlier:
        return later - earlier, 0
    return (later, 0) if on_reset is OnReset.FROM_ZERO else (0, later)


def _added(minute: MinuteDelta | None, bucket_start: datetime, step: _Step, epoch: int) -> MinuteDelta:
    if minute is None:
        minute = MinuteDelta(
            bucket_start=bucket_start,
            uplink_bytes=0,
            downlink_bytes=0,
            basis=Basis.DIFFERENCE,
            epoch=0,
            suspected_loss_bytes=0,
        )
    return replace(
        minute,
        uplink_bytes=minute.uplink_bytes + step.uplink_bytes,
        downlink_bytes=minute.downlink_bytes + step.downlink_bytes,
        basis=max(minute.basis, step.basis),
        epoch=epoch,
        suspected_loss_bytes=minute.suspected_loss_bytes + step.suspected_loss_bytes,
    )
