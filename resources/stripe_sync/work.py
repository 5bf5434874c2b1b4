"""Work on many customers, several at once, each worker with a session of its own; stop when Stripe is away or denies the key.

What one customer's work raises of its own is its own matter (account_sync, true_up); what concerns all ends the run, and the
rest is left for the next one. Not here: the pace of calls (resources/stripe_api/limiter).
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event, Lock, local
from typing import Generic, TypeVar

import psycopg

from resources.database import Database
from resources.stripe_api.errors import StripeDeniedError, StripeUnavailableError, Trouble
from resources.stripe_sync.writer import CustomerBusyError

_One = TypeVar("_One")
_Result = TypeVar("_Result")

# When Stripe does not answer one, it is not asked for the others.
_CONCERNS_ALL = frozenset({Trouble.SERVER, Trouble.CONNECTION})


@dataclass(frozen=True, slots=True, kw_only=True)
class Worked(Generic[_One, _Result]):
    """Results in the order of the work; `left_over` was not done; `problem` is why the run ended early, or the first that one
    customer had with Stripe's pace."""

    results: tuple[_Result, ...]
    left_over: tuple[_One, ...]
    problem: str | None


def work_on(
    database: Database,
    ones: Sequence[_One],
    work: Callable[[psycopg.Connection, _One], _Result],
    *,
    concurrency: int,
) -> Worked[_One, _Result]:
    """Do `work` for each of `ones`, in their order, `concurrency` at once."""
    stop = Event()
    problems: list[str] = []
    sessions = _Sessions(database)

    def do(one: _One) -> tuple[_One, _Result | None, bool]:
        if stop.is_set():
            return one, None, False
        try:
            return one, work(sessions.mine(), one), True
        except CustomerBusyError as error:
            problems.append(error.what)
        except StripeUnavailableError as error:
            problems.append(error.what)
            if error.trouble in _CONCERNS_ALL:
                stop.set()
        except StripeDeniedError as error:
            problems.append(error.what)
            stop.set()
        return one, None, False

    try:
        with ThreadPoolExecutor(max_workers=concurrency) as pool:
            found = list(pool.map(do, ones))
    finally:
        sessions.close()
    return Worked(
        results=tuple(result for _, result, is_done in found if is_done and result is not None),
        left_over=tuple(one for one, _, is_done in found if not is_done),
        problem=problems[0] if problems else None,
    )


class _Sessions:
    """A session for each thread, which commits by itself."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._local = local()
        self._lock = Lock()
        self._opened: list[psycopg.Connection] = []

    def mine(self) -> psycopg.Connection:
        """Return this thread's session."""
        if not hasattr(self._local, "connection"):
            connection = self._database.connect()
            connection.autocommit = True
            self._local.connection = connection
            with self._lock:
                self._opened.append(connection)
        found: psycopg.Connection = self._local.connection
        return found

    def close(self) -> None:
        """Close all of them."""
        for connection in self._opened:
            connection.close()
