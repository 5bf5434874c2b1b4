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
                _die_at(request["die_at"])
            ChargeStore(Database(url)).book_days(days, run_id="run", code_version="test")
            os._exit(0)
        if "after_microseconds" in request:
            time.sleep(request["after_microseconds"] / 1_000_000)
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(json.dumps(os.waitstatus_to_exitcode(status)) + "\n")
        sys.stdout.flush()


def _die_at(statement: int) -> None:
    """Make this process kill itself before its `statement`-th statement, counted from 1."""
    seen = 0

    def around(kind: Any, name: str) -> None:
        original: Callable[..., Any] = getattr(kind, name)

        def counting(*args: Any, **kwargs: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen == statement:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        setattr(kind, name, counting)

    for name in ("execute", "executemany", "copy"):
        around(psycopg.Cursor, name)
    around(psycopg.ServerCursor, "execute")
    around(psycopg.Connection, "commit")


if __name__ == "__main__":
    main(*sys.argv[1:])
