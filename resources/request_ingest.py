"""Bring a range of delivery days up to date: batches of days are read side by side and published in one transaction each.

While a batch is published, the next ones are read. Days whose files changed meanwhile go again. Not here: reading
(request_day_reader), what is written (request_day_writer), which days (request_store).
"""

import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from pathlib import Path

import psycopg

from billing_pipeline.checks import Verdict
from billing_pipeline.errors import BillingError
from billing_pipeline.records import LineCounts
from resources import guard_store, request_manifest
from resources.database import Database
from resources.request_day_reader import AcceptedFileGoneError, DayRead, RequestDayReader, elapsed
from resources.request_day_writer import RequestDayWriter, sum_of
from resources.request_days import RequestDay, RequestDays
from resources.request_manifest import DATASET, FileIngest

ROUNDS_BEFORE_GIVING_WAY = 5
# Delivery days of one transaction: enough that sessions, commits and waiting for the disk cost little, few enough that a crash
# loses little work and drafts need little room.
DAYS_PER_TRANSACTION = 32
PACKED_BYTES_PER_TRANSACTION = 64 << 20
# A day up to this size is a chunk or two of lines: too short to keep two cores busy by itself, and small enough that days side
# by side need no more memory than a large one. A larger one is read alone.
SMALL_DAY_BYTES = 8 << 20


class DeliveryChangingError(BillingError):
    """Files of a delivery day kept arriving while it was read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DayIngest:
    """One delivery day. `seconds`: wall time by step, empty when the day was up to date.

    Days are read side by side, and what publishing them together took is shared out evenly.
    """

    day: date
    generation: str
    uri: str
    files: tuple[FileIngest, ...]
    counts: LineCounts
    rejected_by_reason: Mapping[str, int]
    event_days: Mapping[date, int]
    verdicts: tuple[Verdict, ...]
    seconds: Mapping[str, Decimal]


_Begin = Callable[[tuple[RequestDay, Path]], Future[DayRead | AcceptedFileGoneError]]


@dataclass(frozen=True, slots=True)
class _Batch:
    """Days of one transaction, and what is being read of them."""

    days: Sequence[RequestDay]
    reading: Sequence[tuple[RequestDay, Future[DayRead | AcceptedFileGoneError]]]


class RequestIngest:
    """One call of the store. `run_id` and `code_version` go into what is written."""

    def __init__(
        self,
        database: Database,
        request_days: RequestDays,
        reader: RequestDayReader,
        scratch_dir: Path,
        *,
        run_id: str,
        code_version: str,
    ) -> None:
        self._database = database
        self._request_days = request_days
        self._reader = reader
        self._writer = RequestDayWriter(request_days)
        self._scratch_dir = scratch_dir
        self._name = f"ingest-{secrets.token_hex(6)}"
        self._run_id = run_id
        self._code_version = code_version
        self._done: dict[date, DayIngest] = {}
        self._failed: dict[date, AcceptedFileGoneError] = {}

    def ingest(self, days: Sequence[date], told: Callable[[date], None]) -> Mapping[date, DayIngest]:
        """Return what each day holds; `told` of each that is read. What is wrong with a day is raised after the others are done.

        Raises:
            AcceptedFileGoneError, DeliveryChangingError: the first day's that was not published.
        """
        try:
            for _ in range(ROUNDS_BEFORE_GIVING_WAY):
                if remaining := self._remaining(days):
                    self._do_round(remaining, told)
        finally:
            for draft in self._scratch_dir.glob(f"{self._name}-*"):
                draft.unlink(missing_ok=True)
        if self._failed:
            raise next(iter(self._failed.values()))
        if remaining := self._remaining(days):
            raise _giving_way(remaining)
        return self._done

    def _remaining(self, days: Sequence[date]) -> list[date]:
        return [day for day in days if day not in self._done and day not in self._failed]

    def _do_round(self, days: Sequence[date], told: Callable[[date], None]) -> None:
        with self._database.reading() as connection:
            deliveries = self._request_days.read(connection, days)
        self._reader.expect(sum(_bytes_to_read(one) for one in deliveries if not _is_large(one)))
        with self._reader.side_by_side() as begin, ThreadPoolExecutor(1, thread_name_prefix="publish") as publisher:
            reading: deque[_Batch] = deque()
            pending: Future[None] | None = None
            for days_of_batch in _batches(deliveries):
                # While the last days of a batch are read, the first ones of the next are. A large day is read alone.
                is_alone = _is_large(days_of_batch[0])
                while len(reading) > (0 if is_alone else 1):
                    pending = self._publish_next(publisher, pending, reading.popleft(), told)
                reading.append(self._read(days_of_batch, self._read_alone if is_alone else begin))
            while reading:
                pending = self._publish_next(publisher, pending, reading.popleft(), told)
            if pending is not None:
                pending.result()

    def _read(self, days: Sequence[RequestDay], begin: "_Begin") -> "_Batch":
        """Begin to read those of `days` that are not up to date."""
        wanted = [delivery for delivery in days if not delivery.is_up_to_date]
        drafts = [self._scratch_dir / f"{self._name}-{delivery.day}.parquet" for delivery in wanted]
        return _Batch(days, [(one, begin((one, draft))) for one, draft in zip(wanted, drafts, strict=True)])

    def _read_alone(self, day: tuple[RequestDay, Path]) -> Future[DayRead | AcceptedFileGoneError]:
        read: Future[DayRead | AcceptedFileGoneError] = Future()
        read.set_result(self._reader.read_day(day, in_threads=True))
        return read

    def _publish_next(
        self, publisher: ThreadPoolExecutor, pending: Future[None] | None, batch: "_Batch", told: Callable[[date], None]
    ) -> Future[None]:
        """Begin to publish a batch when it is read and the one before is published."""
        reads = []
        for delivery, reading in batch.reading:
            outcome = reading.result()
            told(delivery.day)
            if isinstance(outcome, DayRead):
                reads.append(outcome)
            else:
                self._failed[delivery.day] = outcome
        if pending is not None:
            pending.result()
        days = [one.day for one in batch.days if one.day not in self._failed]
        return publisher.submit(self._publish, days, reads)

    def _publish(self, days: Sequence[date], reads: Sequence[DayRead]) -> None:
        """Publish in one transaction what was read of days that are still as they were; leave the others for the next round."""
        started = time.perf_counter()
        by_day = {read.delivery.day: read for read in reads}
        with self._database.transaction(*(f"{DATASET}|{day}" for day in days)) as connection:
            now = self._request_days.read(connection, days)
            fresh = [
                by_day[one.day]
                for one in now
                # The manifest is the input: with another file in it, this generation would lose that file.
                if not one.is_up_to_date
                and one.day in by_day
                and by_day[one.day].delivery.inputs_digest == one.inputs_digest
            ]
            reopened = self._writer.publish(connection, fresh, run_id=self._run_id, code_version=self._code_version)
            current = [one for one in now if one.is_up_to_date] + [read.delivery for read in fresh]
            self._writer.judge_files(connection, current, run_id=self._run_id)
            done = _summaries(connection, [one.day for one in current])
        share = elapsed(started) / max(1, len(fresh))
        for read in fresh:
            seconds = {"read files": read.seconds, "publish": round(share, 3)}
            done[read.delivery.day] = replace(done[read.delivery.day], seconds=seconds)
        for read in reads:
            # What was published is the lake's now, unless that is on another disk.
            read.written.path.unlink(missing_ok=True)
        self._done.update(done)
        for day in reopened:
            self._done.pop(day, None)


def _summaries(connection: psycopg.Connection, days: Sequence[date]) -> dict[date, DayIngest]:
    files = request_manifest.outcomes(connection, days)
    generations = request_manifest.current_generations(connection, days)
    event_days = request_manifest.event_days(connection, days)
    verdicts: dict[str, list[Verdict]] = {day.isoformat(): [] for day in days}
    for verdict in guard_store.verdicts(connection, DATASET, list(verdicts)):
        verdicts[verdict.partition_key].append(verdict)
    done = {}
    for day in days:
        reasons: Counter[str] = Counter()
        for file in files[day]:
            reasons.update(file.rejected_by_reason)
        done[day] = DayIngest(
            day=day,
            generation=generations[day].generation,
            uri=generations[day].uri,
            files=files[day],
            counts=sum_of([file.counts for file in files[day]]),
            rejected_by_reason=dict(reasons),
            event_days=event_days[day],
            verdicts=tuple(verdicts[day.isoformat()]),
            seconds={},
        )
    return done


def _batches(days: Sequence[RequestDay]) -> Iterator[tuple[RequestDay, ...]]:
    """Cut days, in their order, into those that share a transaction."""
    batch: list[RequestDay] = []
    size = 0
    for one in days:
        to_read, is_large = _bytes_to_read(one), _is_large(one)
        if batch and (is_large or len(batch) == DAYS_PER_TRANSACTION or size + to_read > PACKED_BYTES_PER_TRANSACTION):
            yield tuple(batch)
            batch, size = [], 0
        batch.append(one)
        size += to_read
        if is_large:
            yield tuple(batch)
            batch, size = [], 0
    if batch:
        yield tuple(batch)


def _is_large(day: RequestDay) -> bool:
    return _bytes_to_read(day) > SMALL_DAY_BYTES


def _bytes_to_read(day: RequestDay) -> int:
    return 0 if day.is_up_to_date else day.packed_bytes


def _giving_way(days: Sequence[date]) -> DeliveryChangingError:
    names = ", ".join(day.isoformat() for day in days)
    return DeliveryChangingError(
        f"new files for delivery days were registered each of the {ROUNDS_BEFORE_GIVING_WAY} times they were read: {names}",
        bill="nothing of them was published; what was published before is still in place",
        fix="let the delivery finish, then materialize core/request_records for these days again",
    )
