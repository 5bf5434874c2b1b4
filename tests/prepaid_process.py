"""Bookings that are killed: a process that forks one for each line of standard input and kills it, without mercy.

Run as a program: `python -m tests.prepaid_process DATABASE_URL FIRST_DAY DAYS`. A line is JSON: `{"die_at": n}` lets the booking
kill itself before its n-th statement, `{"after_microseconds": n}` kills it from outside. The answer is its exit code.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import psycopg

from resources.charge_store import ChargeStore
from resources.database import Database


def main(url: str, first: str, count: str) -> None:
    days = [date.fromisoformat(first) + timedelta(days=number) for number in range(int(count))]
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            if "die_at" in request:
                Statements(request["die_at"])
            ChargeStore(Database(url)).book_days(days, run_id="run", code_version="test")
            os._exit(0)
        if "after_microseconds" in request:
            time.sleep(request["after_microseconds"] / 1_000_000)
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(json.dumps(os.waitstatus_to_exitcode(status)) + "\n")
        sys.stdout.flush()


class Statements:
    """Counts the statements of this process, and makes it kill itself before its `die_at`-th, counted from 1."""

    def __init__(self, die_at: int | None) -> None:
        self.seen = 0
        self._die_at = die_at
        for name in ("execute", "executemany", "copy"):
            self._around(psycopg.Cursor, name)
        self._around(psycopg.ServerCursor, "execute")
        self._around(psycopg.Connection, "commit")

    def _around(self, kind: Any, name: str) -> None:
        original: Callable[..., Any] = getattr(kind, name)

        def counting(*args: Any, **kwargs: Any) -> Any:
            self.seen += 1
            if self.seen == self._die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        setattr(kind, name, counting)


if __name__ == "__main__":
    main(*sys.argv[1:])
