"""Writing to Stripe that is killed: a process that forks one for each line of standard input and lets it die, without mercy.

Run as a program: `python -m tests.stripe_sync_process DATABASE_URL STRIPE_URL`. A line is JSON: `do` (sync, true_up, credit_notes),
`accounts` (of a sync), `now` in seconds since 1970, and how it ends: `die_at` n kills it when it passes its n-th step,
`after_microseconds` n kills it from outside, neither lets it live. The answer is its exit code, the steps it passed when it lived,
and how many microseconds it took.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from billing_pipeline.errors import BillingError
from billing_pipeline.stripe_sync.backoff import Backoff
from billing_pipeline.stripe_sync.policy import MeterRoute, SyncPolicy
from resources.database import Database
from resources.invoicing.invoice_store import InvoiceStore
from resources.stripe_api import sdk
from resources.stripe_api.calls import Operation
from resources.stripe_api.gateway import StripeGateway
from resources.stripe_api.limiter import Pace, RateLimiter
from resources.stripe_sync.credit_notes import DueCreditNote, StripeCreditNotes
from resources.stripe_sync.sync_run import StripeSync
from resources.stripe_sync.true_up_run import StripeTrueUp

POLICY = SyncPolicy(concurrency=1, meters={"by_meter": MeterRoute(price_id="by_meter", event_name="requests")})


def main(database_url: str, stripe_url: str) -> None:
    _warm_up(stripe_url)
    for line in sys.stdin:
        request = json.loads(line)
        reading, writing = os.pipe()
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            steps: list[str] = []
            # What goes wrong with Stripe ends a run, and is the next one's matter.
            with suppress(BillingError):
                work(database_url, stripe_url, request, _dying(steps, request.get("die_at")))
            os.write(writing, json.dumps(steps).encode())
            os._exit(0)
        if "after_microseconds" in request:
            time.sleep(request["after_microseconds"] / 1_000_000)
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        os.close(writing)
        passed = os.read(reading, 65_536)
        os.close(reading)
        answer = {
            "code": os.waitstatus_to_exitcode(status),
            "steps": json.loads(passed or b"[]"),
            "microseconds": int((time.monotonic() - started) * 1_000_000),
        }
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _warm_up(stripe_url: str) -> None:
    """Let the SDK import what it imports at first use, so that not every child does."""
    gateway = StripeGateway(api_key="sk_test_standin", base_url=stripe_url)
    for operation in Operation:
        sdk._method(gateway._client, operation)
    for listed in (gateway.list_invoice_items(), gateway.list_invoices(), gateway.list_subscriptions()):
        next(listed, None)


def _dying(steps: list[str], die_at: int | None) -> Callable[[str], None]:
    def reached(step: str) -> None:
        steps.append(step)
        if len(steps) == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    return reached


def work(database_url: str, stripe_url: str, request: dict[str, Any], reached: Callable[[str], None]) -> None:
    """Do what a run of production does, with a clock that the request sets."""
    database = Database(database_url)
    brisk = RateLimiter(Pace(per_operation=10_000, overall=10_000))
    gateway = StripeGateway(
        api_key="sk_test_standin",
        base_url=stripe_url,
        limiter=brisk,
        backoff=Backoff(total_seconds=3),
        timeout_seconds=5.0,
        sleep=lambda _: None,
    )
    now = datetime.fromtimestamp(request["now"], UTC)
    parts: dict[str, Any] = {
        "database": database,
        "gateway": lambda: gateway,
        "policy": POLICY,
        "clock": lambda: now,
        "sleep": lambda _: None,
        "reached": reached,
    }
    accounts: Sequence[str] | None = request.get("accounts")
    run_id = f"run {os.getpid()} {time.monotonic_ns()}"
    match request["do"]:
        case "sync":
            StripeSync(store=InvoiceStore(database), **parts).run(run_id=run_id, accounts=accounts)
        case "true_up":
            StripeTrueUp(store=InvoiceStore(database), **parts).run(run_id=run_id)
        case _:
            _OfAccounts(**parts, accounts=tuple(accounts or ())).run(run_id=run_id)


@dataclass(frozen=True, kw_only=True)
class _OfAccounts(StripeCreditNotes):
    """Credit notes of some accounts: a run brings all that are due, and deaths are to be kept apart."""

    accounts: tuple[str, ...]

    def due(self) -> tuple[DueCreditNote, ...]:
        return tuple(one for one in StripeCreditNotes.due(self) if one.account_id in self.accounts)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main(*sys.argv[1:])
