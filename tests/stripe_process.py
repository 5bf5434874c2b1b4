"""Following that is killed: a process that forks one for each line of standard input and lets it kill itself, without mercy.

Run as a program: `python -m tests.stripe_process DATABASE_URL STRIPE_URL`. A line is JSON: `{"die_at": n}` is killed before its
n-th statement, `{}` lives. The answer is its exit code and how many statements it made.
"""

import json
import os
import signal
import sys
from datetime import UTC, datetime

from resources.database import Database
from resources.stripe_api.gateway import StripeGateway
from resources.stripe_api.limiter import Pace, RateLimiter
from resources.stripe_mirror.feed import V1
from resources.stripe_mirror.following import StripeFollowing
from resources.stripe_mirror.gateway_reads import GatewayReads
from tests.prepaid_process import Statements


def main(database_url: str, stripe_url: str) -> None:
    for line in sys.stdin:
        request = json.loads(line)
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            statements = Statements(die_at=request.get("die_at"))
            follow(database_url, stripe_url)
            os.write(writing, str(statements.seen).encode())
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        os.close(writing)
        made = os.read(reading, 20)
        os.close(reading)
        code = os.waitstatus_to_exitcode(status)
        sys.stdout.write(json.dumps({"code": code, "statements": int(made or 0)}) + "\n")
        sys.stdout.flush()


def follow(database_url: str, stripe_url: str) -> None:
    brisk = RateLimiter(Pace(per_operation=10_000, overall=10_000))
    gateway = StripeGateway(api_key="sk_test_standin", base_url=stripe_url, limiter=brisk, read_only=True)
    following = StripeFollowing(
        database=Database(database_url),
        open_reads=lambda: GatewayReads(gateway),
        clock=lambda: datetime(2026, 4, 1, 12, tzinfo=UTC),
        feeds=(V1,),
    )
    following.poll(may_go_on=lambda: True)
    following.follow(run_id="run")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main(*sys.argv[1:])
