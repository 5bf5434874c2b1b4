"""Read exporters for the days of one run: what is missing of each source -> a draft, published day by day.

A source that fails is left alone for the rest of the run; what was read of it before stays, and the others go on. Memory is
bounded by publishing in between. Not here: HTTP (exporter_client), which stretches are missing (traffic_windows).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Protocol, Self

from billing_pipeline.sources.traffic_snapshots import TrafficSnapshot
from billing_pipeline.traffic_coverage import HOUR, Window
from resources.exporter_client import WindowPage
from resources.exporter_transport import ExporterError, ExporterErrorKind
from resources.traffic_config import TrafficSource
from resources.traffic_manifest import Refusal, refused_snapshot
from resources.traffic_publisher import DayPublished, Publisher
from resources.traffic_samples import Draft
from resources.traffic_windows import DAY, Attempt, day_window, stretches_to_read

# Published in between once a draft holds so many samples: a day of 1,000 users is 1.4 million.
LARGEST_DRAFT = 1_000_000
# Windows that one run reads of one source: 400 days. What is left over stays open, and the next run goes on there.
MOST_WINDOWS = 9_600


class SnapshotClient(Protocol):
    """What a source answers. Raises ExporterError and nothing else."""

    def latest(self) -> TrafficSnapshot | None: ...
    def window(self, since: datetime, until: datetime) -> Iterator[WindowPage]: ...
    def close(self) -> None: ...


Clients = Callable[[TrafficSource], SnapshotClient]
Told = Callable[[Mapping[date, DayPublished]], None]


@dataclass(slots=True, kw_only=True)
class Pull:
    """Reading of the exporters in one run. `told` of everything that is published."""

    publisher: Publisher
    clients: Clients
    told: Told
    most_windows: int = MOST_WINDOWS
    largest_draft: int = LARGEST_DRAFT
    attempts: dict[str, Attempt] = field(default_factory=dict)
    _opened: dict[str, SnapshotClient] = field(default_factory=dict)
    _refusals: list[Refusal] = field(default_factory=list)
    _draft: Draft | None = None

    @contextmanager
    def closing(self) -> Iterator[Self]:
        """Close every client, and what was not published, when the block ends."""
        with ExitStack() as stack:
            stack.callback(self._close)
            yield self

    def _close(self) -> None:
        with ExitStack() as stack:
            for client in self._opened.values():
                stack.callback(client.close)
            if self._draft is not None:
                stack.enter_context(self._draft)

    def read_day(self, day: date, sources: Iterable[TrafficSource]) -> None:
        """Read what is missing of the day, publish it, and judge the day."""
        for source in sources:
            if source.is_pulled:
                self._read_source(source, day)
        # An exporter that drifts gives the last minute of a day on the next one.
        self._publish([day - DAY, day] if self._ends_open(day - DAY) else [day])

    def _ends_open(self, day: date) -> bool:
        """Tell whether the last window of a day that was judged is neither complete nor closed."""
        end = day_window(day).end
        with self.publisher.database.reading() as connection:
            row = connection.execute(
                """
                select 1 from core.traffic_window
                where window_end = %s and status in ('partial', 'gap') and source = any(%s)
                limit 1
                """,
                [end, [source.name for source in self.publisher.sources]],
            ).fetchone()
        return row is not None

    def _read_source(self, source: TrafficSource, day: date) -> None:
        attempt = self.attempts.get(source.name)
        if attempt is not None and attempt.error is not None:
            return
        if not source.has_history:
            self._read_latest(source, day)
            return
        with self.publisher.database.reading() as connection:
            stretches = stretches_to_read(connection, source, day, now=self.publisher.now)
        for stretch in stretches:
            attempt = self._attempt(source)
            if attempt.error is not None or attempt.windows_read >= self.most_windows:
                break
            attempt.windows_read += -((stretch.start - stretch.end) // HOUR)
            self._read_stretch(source, _unread_part(stretch, attempt), attempt)

    def _read_stretch(self, source: TrafficSource, stretch: Window, attempt: Attempt) -> None:
        mark, reached = self._open_draft().last_number, stretch.start
        try:
            for page in self._client(source).window(stretch.start, stretch.end):
                draft = self._open_draft()
                for snapshot in page.snapshots:
                    draft.add(snapshot, source=source.name)
                    reached = max(reached, snapshot.collected_at)
                attempt.snapshots_read += len(page.snapshots)
                self._refusals += [
                    refused_snapshot(source.name, one, found_at=self.publisher.now) for one in page.rejected
                ]
                if draft.sample_count >= self.largest_draft:
                    # So far nothing after the last snapshot is proven.
                    attempt.unread_from = reached
                    self._publish([])
                    attempt.unread_from = None
                    mark = 0
        except ExporterError as error:
            if error.kind is ExporterErrorKind.IDENTITY:
                self._open_draft().discard_since(mark)
                reached = stretch.start
            attempt.fail(error.what, error.kind, unread_from=reached)
        else:
            attempt.read_to_end.append(stretch)

    def _read_latest(self, source: TrafficSource, day: date) -> None:
        """Ask a source without history how it stands now; for a day that is over nobody can ask."""
        now = self.publisher.now
        if day != now.date():
            return
        attempt = self._attempt(source)
        try:
            snapshot = self._client(source).latest()
        except ExporterError as error:
            attempt.fail(error.what, error.kind, unread_from=None)
            return
        if snapshot is not None:
            self._open_draft().add(snapshot, source=source.name)
            attempt.snapshots_read += 1

    def _attempt(self, source: TrafficSource) -> Attempt:
        return self.attempts.setdefault(source.name, Attempt(source=source.name, attempted_at=self.publisher.now))

    def _client(self, source: TrafficSource) -> SnapshotClient:
        if source.name not in self._opened:
            client = self.clients(source)
            self._opened[source.name] = client
        return self._opened[source.name]

    def _open_draft(self) -> Draft:
        if self._draft is None:
            self._draft = Draft.below(self.publisher.scratch_dir)
        return self._draft

    def _publish(self, days: Sequence[date]) -> None:
        draft, refusals = self._open_draft(), self._refusals
        self._draft, self._refusals = None, []
        with draft:
            self.told(self.publisher.publish(draft, days=days, attempts=self.attempts, refusals=refusals))


def _unread_part(stretch: Window, attempt: Attempt) -> Window:
    """Return the stretch without what this run has read of it, such as the overlap into the day before."""
    read_until = [read.end for read in attempt.read_to_end if read.start <= stretch.start <= read.end < stretch.end]
    return Window(start=max([stretch.start, *read_until]), end=stretch.end)
