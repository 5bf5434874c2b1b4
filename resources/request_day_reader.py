"""Gather the accepted rows of a delivery day's files in one Parquet file, which nobody sees yet.

Days are read side by side, each in a DuckDB session of its own; of many small ones, all but one at a time in processes of their
own (helper_process). Not here: which days together (request_ingest), reading one file (request_reader), deduplication
(request_sink), publishing (request_day_writer).
"""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from queue import SimpleQueue

import pyarrow as pa

from billing_pipeline.errors import BillingError
from billing_pipeline.records import LineCounts, Reason
from billing_pipeline.sources.request_lines import FileContext
from resources import duck
from resources.generation_rows import GenerationRows
from resources.helper_process import HelperProcess, NoAnswerError
from resources.inflate import FileRejected
from resources.landing import Landing, LandingFileChangedError, LandingKeyError
from resources.prepared_queries import PreparedQueries
from resources.request_days import RequestDay, RequestDays
from resources.request_manifest import ManifestFile
from resources.request_reader import FileOutcome, read_requests
from resources.request_sink import RequestSink, Written
from resources.shaped_lines import KnownSpellings

# A line of a log, packed, takes about this much; it only sizes a table.
PACKED_BYTES_PER_LINE = 40
# A file below this size is hashed in less time than a thread for it takes.
HASHED_BEFORE_BYTES = 1 << 20
# What a process reads in the time that it takes to start one; of less it would not have begun.
BYTES_FOR_A_PROCESS = 64 << 20


class AcceptedFileGoneError(BillingError):
    """A file whose requests are counted has to be read once more, and is gone, or is refused by a profile edited since."""


@dataclass(slots=True, kw_only=True)
class FileResult:
    """What reading found out about a file: its outcome, or why it was refused."""

    outcome: FileOutcome
    refusal: FileRejected | None = None
    # Counts of a file whose rows were taken over from the generation before; its quarantine rows stand.
    taken_over: LineCounts | None = None

    @property
    def counts(self) -> LineCounts:
        """Return the counts before deduplication."""
        return self.outcome.counts if self.taken_over is None else self.taken_over


@dataclass(frozen=True, slots=True, kw_only=True)
class DayRead:
    """A delivery day that was read: its rows in `written.path`, what became of each file, and the wall time it took."""

    delivery: RequestDay
    written: Written
    results: Mapping[int, FileResult]
    seconds: Decimal


# A day, and where its rows go.
_DayToRead = tuple[RequestDay, Path]
_Outcome = DayRead | AcceptedFileGoneError
# Who reads next; None: this process.
_Turns = SimpleQueue[HelperProcess[_DayToRead, _Outcome] | None]


@dataclass(frozen=True, slots=True)
class _Tools:
    """What a day is read with, made once for all days that are read one after the other."""

    queries: PreparedQueries
    spellings: KnownSpellings
    in_threads: bool = True


class RequestDayReader:
    """Reads delivery days, `side_by_side` of them at a time. Close it when it has read.

    `memory_limit` (DuckDB's spelling) is for each process that reads.
    """

    def __init__(
        self,
        request_days: RequestDays,
        landing: Landing,
        pseudonym_key: bytes,
        scratch_dir: Path,
        *,
        memory_limit: str,
        side_by_side: int,
    ) -> None:
        self._request_days = request_days
        self._sources = request_days.sources
        self._lake = request_days.lake
        self._landing = landing
        self._pseudonym_key = pseudonym_key
        self._side_by_side = side_by_side
        self._helper = partial(
            HelperProcess[_DayToRead, _Outcome],
            partial(reading_alone, request_days, landing, pseudonym_key, scratch_dir, memory_limit),
        )
        self._helpers: list[HelperProcess[_DayToRead, _Outcome]] = []
        self._engine = duck.connect(scratch_dir, memory_limit, side_by_side)
        self._tools: SimpleQueue[_Tools] = SimpleQueue()
        for _ in range(side_by_side):
            self._tools.put(_Tools(PreparedQueries(self._engine), KnownSpellings()))

    def close(self) -> None:
        """End the processes, close the engine with its sessions, and give the memory back that Arrow keeps for another table."""
        while self._helpers:
            self._helpers.pop().close()
        for _ in range(self._side_by_side):
            self._tools.get().queries.close()
        self._engine.close()
        # Usage is mostly built next, in this process, and by DuckDB, which has no use for it.
        pa.default_memory_pool().release_unused()

    def expect(self, packed_bytes: int) -> None:
        """Get ready for so much to be read in days side by side."""
        if packed_bytes >= BYTES_FOR_A_PROCESS and not self._helpers:
            # Where the system allows no more processes, this one reads alone.
            with suppress(OSError):
                while len(self._helpers) < self._side_by_side - 1:
                    self._helpers.append(self._helper())

    @contextmanager
    def side_by_side(self) -> Iterator[Callable[[_DayToRead], Future[_Outcome]]]:
        """Yield what begins to read a day into its draft; what has begun when the block ends is waited for.

        A day that cannot be read gives its error, so that it does not stop the others. Drafts are the caller's to remove.
        """
        turns: _Turns = SimpleQueue()
        for turn in (*self._helpers, *[None] * (self._side_by_side - len(self._helpers))):
            turns.put(turn)
        with ThreadPoolExecutor(self._side_by_side, thread_name_prefix="delivery") as pool:
            try:
                yield lambda day: pool.submit(self._read_in_turn, turns, day)
            finally:
                pool.shutdown(cancel_futures=True)

    def _read_in_turn(self, turns: "_Turns", day: _DayToRead) -> _Outcome:
        helper = turns.get()
        try:
            if helper is not None:
                # What goes wrong in another process is found out here, where it is told in full.
                with suppress(NoAnswerError):
                    return helper.ask(day)
            return self.read_day(day, in_threads=not self._helpers)
        finally:
            turns.put(helper)

    def read_day(self, day_and_draft: _DayToRead, *, in_threads: bool) -> _Outcome:
        """Read a day into its draft, in this process; `in_threads` where no other day keeps the cores busy."""
        delivery, draft = day_and_draft
        started = time.perf_counter()
        tools = self._tools.get()
        try:
            written, results = self._read_files(delivery, replace(tools, in_threads=in_threads), draft)
        except AcceptedFileGoneError as error:
            return error
        finally:
            self._tools.put(tools)
        return DayRead(delivery=delivery, written=written, results=results, seconds=elapsed(started))

    def _read_files(self, delivery: RequestDay, tools: _Tools, draft: Path) -> tuple[Written, Mapping[int, FileResult]]:
        """Gather all files in one Parquet file. A refused file leaves nothing behind: the others are then gathered again.

        A file that the current generation has read in the same way is taken over from there: the landing zone may have been
        emptied or overwritten since.
        """
        files, current = delivery.files, delivery.current
        refused = {
            file.file_id: FileResult(
                outcome=FileOutcome(), refusal=FileRejected(Reason(file.reason or ""), file.detail or "")
            )
            for file in files
            if file.status == "rejected" and file.read_with == self._request_days.read_with(file.source)
        }
        copies = Counter((file.source, file.content_sha256) for file in files)

        def may_repeat(file: ManifestFile) -> bool:
            # A position in a content names one line, unless that content was delivered twice: both files were refused once
            # and their profile has been corrected since.
            has_event_ids = self._sources[file.source].profile.fields.event_id is not None
            return has_event_ids or copies[file.source, file.content_sha256] > 1

        while True:
            results = dict(refused)
            spoiled = False
            expected = delivery.packed_bytes // PACKED_BYTES_PER_LINE
            generation: GenerationRows | None = None
            with (
                ExitStack() as opened,
                RequestSink(draft, expected_rows=expected, in_thread=tools.in_threads) as sink,
            ):
                for file in files:
                    if file.file_id in refused:
                        continue
                    result = FileResult(outcome=FileOutcome())
                    results[file.file_id] = result
                    if (
                        current is not None
                        and file.status == "accepted"
                        and file.read_with == self._request_days.read_with(file.source)
                    ):
                        result.taken_over = replace(
                            file.counts, accepted=file.counts.accepted + file.counts.duplicate, duplicate=0
                        )
                        if generation is None:
                            generation = opened.enter_context(closing(GenerationRows(self._lake.fetch(current.uri))))
                        for rows in generation.rows_of(file.file_id):
                            sink.add(
                                rows,
                                source=file.source,
                                file_id=file.file_id,
                                identities_repeat=may_repeat(file),
                            )
                        continue
                    try:
                        self._read_file(file, result.outcome, tools, sink, identities_repeat=may_repeat(file))
                    except FileRejected as rejection:
                        if file.status == "accepted":
                            # Refused now, by a profile that was edited since or a file that is gone: its requests are in
                            # the bill, and silence must not take them out again.
                            raise _accepted_file_gone(file, f"{rejection.reason}: {rejection.detail}") from rejection
                        refused[file.file_id] = FileResult(outcome=FileOutcome(), refusal=rejection)
                        results[file.file_id] = refused[file.file_id]
                        spoiled = spoiled or result.outcome.accepted > 0
                if not spoiled:
                    return sink.finish(), results

    def _read_file(
        self,
        file: ManifestFile,
        outcome: FileOutcome,
        tools: _Tools,
        sink: RequestSink,
        *,
        identities_repeat: bool,
    ) -> None:
        profile = self._sources[file.source].profile
        context = FileContext(
            content_sha256=file.content_sha256, as_of=file.first_seen_at, pseudonym_key=self._pseudonym_key
        )
        try:
            with self._landing.fetched(file.key) as path, _proven(path, file):
                for table in read_requests(
                    path,
                    profile=profile,
                    context=context,
                    queries=tools.queries,
                    outcome=outcome,
                    spellings=tools.spellings,
                    in_threads=tools.in_threads,
                ):
                    sink.add(
                        table,
                        source=file.source,
                        file_id=file.file_id,
                        identities_repeat=identities_repeat,
                    )
        except (LandingKeyError, LandingFileChangedError) as missing:
            # What is delivered under this key from now on is other content: it is registered as such and then read.
            raise FileRejected(
                Reason.UNREADABLE, "the file was changed or removed after it had been registered"
            ) from missing


@contextmanager
def reading_alone(
    request_days: RequestDays, landing: Landing, pseudonym_key: bytes, scratch_dir: Path, memory_limit: str
) -> Iterator[Callable[[_DayToRead], _Outcome]]:
    """Yield what reads one day after the other: the work of a process beside others."""
    with closing(
        RequestDayReader(request_days, landing, pseudonym_key, scratch_dir, memory_limit=memory_limit, side_by_side=1)
    ) as reader:
        yield partial(reader.read_day, in_threads=False)


@contextmanager
def _proven(path: Path, file: ManifestFile) -> Iterator[None]:
    """See to it that the file has the content that was registered; a large one is hashed while it is read.

    Raises:
        FileRejected: it has not, also in place of what the block refused it for.
    """
    if file.size_bytes < HASHED_BEFORE_BYTES:
        _refuse_overwritten(_sha256(path), file)
        yield
        return
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="sha256") as hasher:
        digest = hasher.submit(_sha256, path)
        try:
            yield
        except FileRejected:
            _refuse_overwritten(digest.result(), file)
            raise
        _refuse_overwritten(digest.result(), file)


def _refuse_overwritten(digest: str, file: ManifestFile) -> None:
    if digest != file.content_sha256:
        raise FileRejected(Reason.UNREADABLE, "the file was overwritten after it had been registered")


def _sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def elapsed(started: float) -> Decimal:
    """Return the seconds since `started` of the performance counter, to the millisecond."""
    return Decimal(str(round(time.perf_counter() - started, 3)))


def _accepted_file_gone(file: ManifestFile, why: str) -> AcceptedFileGoneError:
    return AcceptedFileGoneError(
        f"{file.key} of source {file.source} was read before and must be read again, but {why}",
        bill="its requests stay counted as they are; nothing of this delivery day was published",
        fix=f"restore the file with SHA-256 {file.content_sha256} under this name, or the lake file that it was read into, or "
        "go back to the profile it was read with",
    )
