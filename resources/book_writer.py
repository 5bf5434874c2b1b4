"""Write the rows of a booking beside the rating of the next ones: one session writes, another one reads.

A booking is one transaction of one session, and a session does one thing at a time: while the server takes in rows of one batch,
a thread waits for it; another one reads the usage of the next batch but one, with a session of its own; the caller rates. Few rows
are written at once by the caller. Not here: what rows say (charge_rows), batches (charge_usage). ADR 0040.
"""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

import psycopg

from resources.charge_rows import SpelledRows
from resources.charge_usage import Ahead, later
from resources.database import Database

# From so many subscriptions on a second session and a thread are worth their while: some 10 ms.
FEW_SUBSCRIPTIONS = 2_000
# The thread that writes waits for the interpreter at most so long after the server has taken what it was sent.
_SWITCH_SECONDS = 0.0005


class BookWriter(Protocol):
    """Writes to the session of a booking."""

    def write(self, rows: SpelledRows) -> None:
        """Write rows after all that came before; an error may come with a later call."""

    def settle(self) -> None:
        """Return when everything is written: only then may the caller use the session itself."""


@contextmanager
def book_writer(
    database: Database, writing: psycopg.Connection, *, subscriptions: int
) -> Iterator[tuple[psycopg.Connection, BookWriter, Ahead]]:
    """Provide a session to read with, what writes to `writing`, and what reads ahead; all is written when the block ends.

    What the reading session sees is committed: of the accounts that it reads nothing may be written yet. Where the block raises,
    what is being written and read is waited for, and the rest left out.
    """
    if subscriptions <= FEW_SUBSCRIPTIONS:
        yield writing, _AtOnce(writing), later
        return
    with (
        database.connect() as reading,
        _switching_fast(),
        ThreadPoolExecutor(1, "book-writer") as writes,
        ThreadPoolExecutor(1, "usage-reader") as reads,
    ):
        writer = _Beside(writes, writing)
        yield reading, writer, lambda work: reads.submit(work).result
        writer.settle()
        reading.rollback()


class _AtOnce:
    def __init__(self, session: psycopg.Connection) -> None:
        self._session = session

    def write(self, rows: SpelledRows) -> None:
        rows.write(self._session)

    def settle(self) -> None:
        """Nothing is being written."""


class _Beside:
    """One batch is being written while the next one is made; the one after that waits."""

    def __init__(self, thread: ThreadPoolExecutor, session: psycopg.Connection) -> None:
        self._submit: Callable[[SpelledRows], Future[None]] = lambda rows: thread.submit(rows.write, session)
        self._going_on: Future[None] | None = None

    def write(self, rows: SpelledRows) -> None:
        self.settle()
        self._going_on = self._submit(rows)

    def settle(self) -> None:
        going_on, self._going_on = self._going_on, None
        if going_on is not None:
            going_on.result()


@contextmanager
def _switching_fast() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, _SWITCH_SECONDS))
    try:
        yield
    finally:
        sys.setswitchinterval(before)
