"""A month of usage to Stripe, counted in calls, and renewals in the seconds that Stripe's rates leave.

Stripe is the stand-in with 25 requests a second of each operation, in this process: CPU seconds are of both sides. Waiting is on a
clock of its own, which the stand-in's follows, and costs no time: calls take none on it, whoever waits takes it on, and it goes on
only while no call is under way, so that the seconds are those of the limits alone. Several customers are worked on at once, as in
an installation. Usage is put in as a row for each account and day. Not here: what is shown (stripe_case).
"""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from bench.task import Stopwatch, Task
from billing_pipeline.stripe_sync.policy import SyncPolicy
from resources.charge_store import ChargeStore
from resources.database import Database
from resources.invoicing.invoice_store import InvoiceStore
from resources.stripe_api.gateway import Attempt, StripeGateway
from resources.stripe_api.keys import StripeMode
from resources.stripe_api.limiter import Pace, RateLimiter
from resources.stripe_mirror.feed import Relisting
from resources.stripe_mirror.gateway_reads import GatewayReads
from resources.stripe_mirror.relist import Relister
from resources.stripe_mirror.settle import Settler
from resources.stripe_sim.rules import Rules
from resources.stripe_sim.server import RunningSim, serving_stripe
from resources.stripe_sync.sync_run import StripeSync
from resources.stripe_sync.true_up import Outcome
from resources.stripe_sync.true_up_run import StripeTrueUp

ACCOUNT_PREFIX = "customer-"
OPERATION_RATE = 25
# Customers at once: PostgreSQL works, and commits, while Python does.
_AT_ONCE = 4
_KEY = "sk_test_bench"
_START, _RENEWAL = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)
_DAYS = 31
_MARCH = tuple(date(2026, 3, number + 1) for number in range(_DAYS))
_UNPACED = Pace(per_operation=100_000, overall=100_000)


class NotInStepError(Exception):
    """The sync did not end as it should: its calls and times are not worth telling."""


class _Waiting:
    """A clock of seconds that goes on by waiting alone, and takes the stand-in's along by whole seconds."""

    def __init__(self, sim: RunningSim) -> None:
        self.sim = sim
        self.now = 0.0
        self.calls = 0
        self.condition = threading.Condition()
        self._told = 0
        self._seen = threading.local()

    def clock(self) -> float:
        self._seen.at = self.now
        return self.now

    def sleep(self, seconds: float) -> None:
        """Wait from when this thread last looked at the clock: several that wait at once wait together."""
        with self.condition:
            # A call that left in this second is to arrive in it.
            self.condition.wait_for(lambda: self.calls == 0)
            self.now = max(self.now, getattr(self._seen, "at", self.now) + seconds)
            whole = math.floor(self.now)
            if whole > self._told:
                self.sim.remote.advance(timedelta(seconds=whole - self._told))
                self._told = whole


class _Limiter(RateLimiter):
    """The pipeline's limiter, on a clock that has to know which calls are under way."""

    def __init__(self, pace: Pace, waiting: _Waiting) -> None:
        super().__init__(pace, clock=waiting.clock, sleep=waiting.sleep)
        self._waiting = waiting

    @contextmanager
    def turn(self, operation: str) -> Iterator[None]:
        with super().turn(operation):
            try:
                yield
            finally:
                with self._waiting.condition:
                    self._waiting.calls -= 1
                    self._waiting.condition.notify_all()

    def _wait_seconds(self, operation: str) -> float:
        with self._waiting.condition:
            wait = super()._wait_seconds(operation)
            self._waiting.calls += wait == 0
            return wait


@dataclass
class _Month:
    """An installation with `customers` accounts and the stand-in."""

    task: Task
    sim: RunningSim
    database: Database
    waiting: _Waiting
    gateway: StripeGateway
    failures: list[Attempt] = field(default_factory=list)

    def clock(self) -> datetime:
        return datetime.fromtimestamp(self.sim.application.world.now, UTC)

    @property
    def customers(self) -> int:
        return int(self.task.options["customers"])

    def use(self, *days: date) -> None:
        """Put the days' shares of the events in, and book them."""
        for day in days:
            self._put(day)
        ChargeStore(self.database).book_days(days, run_id="bench", code_version="bench")

    def _put(self, day: date) -> None:
        of_customer = int(self.task.options["events"]) // self.customers
        each = of_customer * day.day // _DAYS - of_customer * (day.day - 1) // _DAYS
        start = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
        with self.database.transaction() as connection:
            connection.execute(
                """
                insert into usage.api_requests
                    (event_day, account_id, meter_id, period_start, period_end, endpoint, method, client_id, quantity, unit,
                     request_count)
                select %s, %s || to_char(number, 'FM00000'), 'requests', %s, %s, '/a', 'GET', 'c', %s, 'request', %s
                from generate_series(0, %s) as one (number)
                """,
                [day, ACCOUNT_PREFIX, start, start + timedelta(hours=1), each, each, self.customers - 1],
            )
            connection.execute(
                "insert into usage.build values"
                " ('usage/api_requests', %s, 'built', 'inputs', 'rules', '[]', 0, 0, 0, 0, 0, 0, 'bench', 'run')",
                [day],
            )

    def mirror(self) -> None:
        """Bring everything at Stripe into the mirror, outside of what is counted."""
        unpaced = StripeGateway(api_key=_KEY, base_url=self.sim.url, limiter=RateLimiter(_UNPACED))
        self.sim.remote.rules(operation_rate=0)
        settler = Settler(database=self.database, clock=self.clock)
        relister = Relister(database=self.database, reads=GatewayReads(unpaced), clock=self.clock, settler=settler)
        relister.relist(Relisting(reason="the benchmark begins", since=None))
        self.sim.remote.rules(operation_rate=OPERATION_RATE)

    def one(self, query: str) -> int:
        """Return the whole number that a query gives."""
        with self.database.reading() as connection:
            row = connection.execute(query.encode()).fetchone()
        return int(row[0]) if row else 0


def month_of_syncs(task: Task, stopwatch: Stopwatch) -> dict[str, Any]:
    """Sync every day of a month in which all customers use something, true up what is late, and count the calls."""
    with _month(task) as month:
        sync = StripeSync(
            database=month.database,
            store=InvoiceStore(month.database),
            gateway=lambda: month.gateway,
            policy=SyncPolicy(concurrency=_AT_ONCE),
            clock=month.clock,
            sleep=month.waiting.sleep,
        )
        synced_days = min(_DAYS - 1, int(task.options["days"]))
        for number in range(synced_days):
            with stopwatch.part("usage and charges"):
                month.use(_MARCH[number])
            month.sim.remote.advance_to(max(month.clock(), _START + timedelta(days=number + 1, minutes=10)))
            with stopwatch.part("daily syncs"):
                report = sync.run(run_id=f"day {number}")
            if report.problem is not None or report.failed:
                raise NotInStepError(f"day {number}: {report.problem}, {report.failed}")
        synced = month.gateway.calls_made
        with stopwatch.part("sync of nothing new"):
            again = sync.run(run_id="again")
        # The last usage is booked when the drafts are there already.
        month.use(*_MARCH[synced_days:])
        facts = _true_up(month, stopwatch)
        return {
            **facts,
            "events": month.one("select coalesce(sum(request_count), 0)::bigint from usage.api_requests"),
            "customers": month.customers,
            "days": synced_days,
            "sync_reads": synced.reads,
            "sync_writes": synced.writes,
            "again_writes": again.writes,
            "refused_tries": len(month.failures),
        }


def renewals(task: Task, stopwatch: Stopwatch) -> dict[str, Any]:
    """Let all subscriptions renew at once with nothing sent before, and true the drafts up."""
    with _month(task) as month:
        with stopwatch.part("usage and charges"):
            month.use(*_MARCH)
        return {**_true_up(month, stopwatch), "refused_tries": len(month.failures)}


def _true_up(month: _Month, stopwatch: Stopwatch) -> dict[str, Any]:
    month.sim.remote.advance_to(_RENEWAL + timedelta(minutes=5))
    month.mirror()
    true_up = StripeTrueUp(
        database=month.database,
        store=InvoiceStore(month.database),
        gateway=lambda: month.gateway,
        policy=SyncPolicy(concurrency=_AT_ONCE),
        clock=month.clock,
        sleep=month.waiting.sleep,
    )
    began = month.waiting.now
    with stopwatch.part("true-up"):
        report = true_up.run(run_id="true-up")
    right = report.of(Outcome.RIGHT)
    if len(right) != month.customers:
        raise NotInStepError(
            f"{len(right)} drafts of {month.customers} are right: {report.problem}, {report.outcomes[:3]}"
        )
    at_stripe = sum(sum(one["invoices"].values()) + one["pending"] for one in month.sim.remote.totals().values())
    owed = month.one(
        "select coalesce(sum(amount_minor), 0)::bigint from billing.ledger_posting"
        " where starts_with(ledger_account, 'receivable:')"
    )
    if owed != at_stripe:
        raise NotInStepError(f"the ledger says {owed} minor units, Stripe {at_stripe}")
    return {
        "drafts": len(right),
        "true_up_reads": report.calls.reads,
        "true_up_writes": report.calls.writes,
        "true_up_waited": month.waiting.now - began,
        "minor_units": at_stripe,
    }


@contextmanager
def _month(task: Task) -> Iterator[_Month]:
    database = Database(task.database_url)
    with serving_stripe(now=_START, rules=Rules(rate_clock="virtual")) as sim:
        waiting = _Waiting(sim)
        failures: list[Attempt] = []

        def note(attempt: Attempt) -> None:
            if attempt.outcome != "ok":
                failures.append(attempt)

        pace = Pace.of(StripeMode.LIVE)
        gateway = StripeGateway(
            api_key=_KEY,
            base_url=sim.url,
            limiter=_Limiter(pace, waiting),
            clock=waiting.clock,
            sleep=waiting.sleep,
            journal=note,
        )
        month = _Month(task=task, sim=sim, database=database, waiting=waiting, gateway=gateway, failures=failures)
        sim.remote.populate(customers=month.customers, price=_free_price(sim.url), account_prefix=ACCOUNT_PREFIX)
        month.mirror()
        yield month


def _free_price(url: str) -> str:
    answer = httpx.post(
        f"{url}/v1/prices",
        data={"currency": "usd", "unit_amount": 0, "recurring[interval]": "month", "product_data[name]": "Usage"},
        headers={"Authorization": f"Bearer {_KEY}"},
        trust_env=False,
    )
    answer.raise_for_status()
    return str(answer.json()["id"])


def write_stripe_catalog(folder: Path, *, customers: int) -> Path:
    """Write a catalog of `customers` accounts with one price for requests, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{ACCOUNT_PREFIX}{number:05d}" for number in range(customers)]
    texts = {
        "billable": 'version = 1\nsuccess_statuses = [[200, 299]]\nendpoints = [{ endpoint = "/a" }]\n',
        "meters": '[[meter]]\nid = "requests"\naggregation = "count"\nunit = "request"\n',
        "prices": (
            '[[price]]\nid = "each"\ncurrency = "USD"\nmeter = "requests"\n[[price.versions]]\nversion = 1\n'
            'effective_from = 2025-01-01T00:00:00Z\nmodel = "standard"\nunit_price = "0.01"\n'
        ),
        "plans": '[[plan]]\nid = "requests"\nprices = ["each"]\n',
        "accounts": "".join(
            f'[[account]]\nid = "{name}"\nname = "{name}"\ncurrency = "USD"\ntime_zone = "UTC"\n' for name in names
        ),
        "subscriptions": "".join(
            f'[[subscription]]\nid = "{name}"\naccount = "{name}"\nplan = "requests"\n'
            "starts_at = 2026-03-01T00:00:00Z\n"
            for name in names
        ),
    }
    for name, text in texts.items():
        (folder / f"{name}.toml").write_text(text)
    return folder
