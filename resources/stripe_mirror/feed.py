"""Read Stripe's feeds of events into the inbox: from the newest down to where reading ended, with an overlap.

Events are made in whole seconds, may show late and come twice: every poll reads the last minutes again, and the inbox knows
events by their id. A walk that is cut short goes on where it was; only at its end does `complete_until` move. Where the feed
cannot tell what happened (first use, a gap of more than 30 days, an event that it does not know), all objects are to be
listed anew (relist): it is written down, and stays so until it is done. Not here: what events do (apply).
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice

import psycopg

from billing_pipeline.periods import as_utc
from billing_pipeline.stripe_events.envelope import (
    METER_TYPES,
    SNAPSHOT_TYPES,
    EventUnreadableError,
    StripeEvent,
    read_event,
)
from resources.database import Database
from resources.stripe_mirror import inbox
from resources.stripe_mirror.reads import CursorUnknownError, Document, StripeReads

LOGGER = logging.getLogger("billing.stripe")
KEPT_FOR = timedelta(days=30)
# Reading must have ended this much before Stripe forgets.
MARGIN = timedelta(hours=12)
OVERLAP = timedelta(minutes=10)
PAGE = 100
V1, V2 = "v1", "v2"
FIRST_USE = "events were never read"


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedState:
    """How far a feed is read; see stripe.event_feed."""

    feed: str
    complete_until: datetime | None = None
    walk_floor: datetime | None = None
    walk_newest: datetime | None = None
    walk_after: str | None = None
    polled_at: datetime | None = None
    problem: str | None = None
    relist_reason: str | None = None
    relist_from: datetime | None = None
    relisted_at: datetime | None = None

    @property
    def whole_until(self) -> datetime | None:
        """Return up to when the mirror is known to miss nothing; None: it never was whole."""
        return max((at for at in (self.complete_until, self.relisted_at) if at is not None), default=None)

    def to_be_relisted(self, reason: str) -> "FeedState":
        """Return the state with everything to be listed anew, for the reason that was found first."""
        if self.relist_reason is not None:
            return self
        return replace(self, relist_reason=reason, relist_from=self.whole_until)


@dataclass(frozen=True, slots=True, kw_only=True)
class Relisting:
    """Why everything is to be listed anew, and since when something may be missing; None: since ever."""

    reason: str
    since: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """What a poll of a feed brought. Not `is_complete`: the time was up, the next one goes on."""

    feed: str
    events_read: int
    new_event_ids: tuple[str, ...]
    is_complete: bool
    relist_reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFeed:
    """The feeds of one Stripe account, read into one database. `clock` is ours, for when something was received."""

    database: Database
    reads: StripeReads
    clock: Callable[[], datetime]
    overlap: timedelta = OVERLAP

    def poll(self, feed: str, *, may_go_on: Callable[[], bool]) -> Poll:
        """Read what is new of `feed` while `may_go_on`; one page is read in any case.

        Raises:
            StripeAwayError: Stripe does not answer; what was read before is kept, and reading goes on from there.
        """
        server_now = as_utc(self.reads.server_time())
        state = self._begun(_load(self.database, feed), server_now)
        read, new = 0, list[str]()
        documents = self._documents(state)
        while True:
            try:
                page = list(islice(documents, PAGE))
            except CursorUnknownError as error:
                # Read again from the newest on; whether something is missing nobody can say.
                state = replace(state, walk_after=None).to_be_relisted(error.what)
                self._save(state, ())
                return self._polled(state, read, new, is_complete=False)
            events, problem = _readable(page)
            read += len(page)
            is_last = len(page) < PAGE
            state = replace(state, problem=problem or state.problem, polled_at=self.clock())
            state = _arrived(state) if is_last else replace(state, walk_after=_resumable(feed, page))
            new.extend(self._save(state, events))
            if is_last or not may_go_on():
                return self._polled(state, read, new, is_complete=is_last)

    def _begun(self, state: FeedState, server_now: datetime) -> FeedState:
        """Return `state` with a walk to go on with or to begin, and whether the feed alone is enough."""
        forgotten = server_now - KEPT_FOR
        known_until = state.whole_until
        state = replace(state, problem=None)
        if known_until is None or known_until < forgotten + MARGIN:
            gap = (
                FIRST_USE
                if known_until is None
                else f"events were read up to {known_until:%Y-%m-%d %H:%M} UTC, and Stripe keeps them for 30 days"
            )
            if state.feed == V1:
                state = state.to_be_relisted(gap)
            elif known_until is not None:
                state = replace(state, problem=f"reports on meter events may be missing: {gap}")
        if state.walk_floor is not None and state.walk_newest is not None and state.walk_after is not None:
            return state
        floor = forgotten if state.complete_until is None else max(state.complete_until - self.overlap, forgotten)
        return replace(state, walk_floor=floor, walk_newest=server_now, walk_after=None)

    def _documents(self, state: FeedState) -> Iterator[Document]:
        assert state.walk_floor is not None
        if state.feed == V2:
            return self.reads.list_core_events(types=METER_TYPES, created_from=state.walk_floor)
        return self.reads.list_events(
            types=SNAPSHOT_TYPES, created_from=state.walk_floor, starting_after=state.walk_after
        )

    def _save(self, state: FeedState, events: Iterable[StripeEvent]) -> tuple[str, ...]:
        """Keep events, and how far reading is, in one transaction."""
        with self.database.transaction() as connection:
            new = inbox.receive(connection, events, received_from=inbox.FROM_FEED, received_at=self.clock())
            _write(connection, state)
        return new

    def _polled(self, state: FeedState, read: int, new: Sequence[str], *, is_complete: bool) -> Poll:
        return Poll(
            feed=state.feed,
            events_read=read,
            new_event_ids=tuple(new),
            is_complete=is_complete,
            relist_reason=state.relist_reason,
        )


def feed_states(connection: psycopg.Connection) -> tuple[FeedState, ...]:
    """Return how far every feed is read that was ever polled."""
    rows = connection.execute(
        """
        select
            feed, complete_until, walk_floor, walk_newest, walk_after, polled_at, problem, relist_reason, relist_from,
            relisted_at
        from stripe.event_feed
        order by feed
        """
    )
    return tuple(
        FeedState(
            feed=row[0],
            complete_until=row[1],
            walk_floor=row[2],
            walk_newest=row[3],
            walk_after=row[4],
            polled_at=row[5],
            problem=row[6],
            relist_reason=row[7],
            relist_from=row[8],
            relisted_at=row[9],
        )
        for row in rows
    )


def due_relisting(connection: psycopg.Connection) -> Relisting | None:
    """Return why Stripe's objects are to be listed anew; None: they are not."""
    for state in feed_states(connection):
        if state.relist_reason is not None:
            return Relisting(reason=state.relist_reason, since=state.relist_from)
    return None


def relisted(connection: psycopg.Connection, relisting: Relisting, *, begun_at: datetime) -> None:
    """Say that all objects were listed, from `begun_at` (Stripe's time) on; another reason than this one stays."""
    connection.execute(
        """
        update stripe.event_feed
        set
            relist_from = case when relist_reason = %(reason)s then null else relist_from end,
            relist_reason = nullif(relist_reason, %(reason)s),
            relisted_at = %(at)s
        """,
        {"reason": relisting.reason, "at": begun_at},
    )


def _load(database: Database, feed: str) -> FeedState:
    with database.reading() as connection:
        known = {state.feed: state for state in feed_states(connection)}
    return known.get(feed, FeedState(feed=feed))


def _write(connection: psycopg.Connection, state: FeedState) -> None:
    """Write the walk as a whole: a position means nothing without the walk that it belongs to.

    Of two polls at once the further one's end counts; a reason to list anew is only taken back by `relisted`.
    """
    connection.execute(
        """
        insert into stripe.event_feed (
            feed, complete_until, walk_floor, walk_newest, walk_after, polled_at, problem, relist_reason, relist_from
        )
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s)
        on conflict (feed) do update set
            complete_until = greatest(event_feed.complete_until, excluded.complete_until),
            walk_floor = excluded.walk_floor,
            walk_newest = excluded.walk_newest,
            walk_after = excluded.walk_after,
            polled_at = excluded.polled_at,
            problem = excluded.problem,
            relist_reason = coalesce(event_feed.relist_reason, excluded.relist_reason),
            relist_from = case
                when event_feed.relist_reason is null then excluded.relist_from else event_feed.relist_from
            end
        """,
        [
            state.feed,
            state.complete_until,
            state.walk_floor,
            state.walk_newest,
            state.walk_after,
            state.polled_at,
            state.problem,
            state.relist_reason,
            state.relist_from,
        ],
    )


def _arrived(state: FeedState) -> FeedState:
    return replace(state, complete_until=state.walk_newest, walk_floor=None, walk_newest=None, walk_after=None)


def _resumable(feed: str, page: Sequence[Document]) -> str | None:
    """Return where a walk can go on; the v2 feed cannot be entered in the middle."""
    last = page[-1].get("id")
    return last if feed == V1 and isinstance(last, str) else None


def _readable(page: Iterable[Document]) -> tuple[list[StripeEvent], str | None]:
    """Return the events of a page that change something here, and what is wrong with one that cannot be read."""
    events, problem = [], None
    for document in page:
        try:
            event = read_event(document)
        except EventUnreadableError as error:
            LOGGER.error("%s", error)
            problem = error.what
            continue
        if isinstance(event, StripeEvent):
            events.append(event)
    return events, problem
