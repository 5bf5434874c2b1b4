"""Keep a session for the next who asks: opening one costs the server a process, cold caches and a login, 4 to 10 ms together.

A session is kept only after its transaction was committed, and everything that could be left in it is discarded. It is used again
within half a minute, by the process that opened it, unless the server has said anything meanwhile (it ended, or ended the
session). The server ends what lies idle for a minute. Who held it before has a closed connection. See
docs/adr/0038-sessions-are-kept.md.
"""

import os
import select
import threading
import time
from dataclasses import dataclass, field
from functools import cache

import psycopg
from psycopg import pq

# Less than the server's limit: a session that it is about to end is not begun with.
IDLE_SECONDS = 30.0
SERVER_OPTION = "-c idle_session_timeout=60s"
# Of the whole process: what writes side by side, and readers.
IDLE_AT_MOST = 8

Key = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Idle:
    """A session that nobody uses. `key`: its URL and role; `since`: seconds of the monotonic clock."""

    key: Key
    session: pq.abc.PGconn
    since: float


@dataclass(slots=True)
class IdleSessions:
    """The sessions of this process that nobody uses just now. Several threads may ask."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _idle: list[_Idle] = field(default_factory=list)

    def take(self, key: Key) -> psycopg.Connection | None:
        """Return a connection to a kept session that the server has not ended, as new; None when there is none."""
        while (session := self._taken(key)) is not None:
            if _is_quiet(session):
                return psycopg.Connection(session)
            session.finish()
        return None

    def keep(self, key: Key, connection: psycopg.Connection) -> None:
        """Keep the session of a committed `connection`, which is closed afterwards.

        Its caller's work is done: what fails here ends the session and nothing else.
        """
        try:
            connection.autocommit = True
            connection.execute("discard all", prepare=False)
        except psycopg.Error:
            connection.close()
            return
        session, connection.pgconn = connection.pgconn, _closed()
        with self._lock:
            self._idle.append(_Idle(key=key, session=session, since=time.monotonic()))
            superfluous = self._idle[:-IDLE_AT_MOST]
            del self._idle[:-IDLE_AT_MOST]
        for one in superfluous:
            one.session.finish()

    def pids(self, url: str) -> list[int]:
        """Return the server's processes behind the kept sessions of `url`."""
        with self._lock:
            return [one.session.backend_pid for one in self._idle if one.key[0] == url]

    def forget(self) -> None:
        """Leave the sessions to the process that this one was forked from. The object's threads are gone with it."""
        self._lock = threading.Lock()
        self._idle = []

    def _taken(self, key: Key) -> pq.abc.PGconn | None:
        """Return the youngest session of `key`; what has been idle for too long is closed."""
        oldest = time.monotonic() - IDLE_SECONDS
        with self._lock:
            stale = [one for one in self._idle if one.since < oldest]
            self._idle = [one for one in self._idle if one.since >= oldest]
            place = next((place for place, one in reversed([*enumerate(self._idle)]) if one.key == key), None)
            taken = None if place is None else self._idle.pop(place).session
        for one in stale:
            one.session.finish()
        return taken


def _is_quiet(session: pq.abc.PGconn) -> bool:
    """Return whether the server has sent nothing to an idle session: it says when it ends, and is heard when it is gone."""
    poll = select.poll()
    poll.register(session.socket, select.POLLIN | select.POLLHUP | select.POLLERR)
    return session.status == pq.ConnStatus.OK and not poll.poll(0)


@cache
def _closed() -> pq.abc.PGconn:
    session = pq.PGconn.connect_start(b"port=none")
    session.finish()
    return session


KEPT = IdleSessions()
os.register_at_fork(after_in_child=KEPT.forget)
