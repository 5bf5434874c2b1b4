"""A month of one installation with everything going wrong that a seed thinks of, then some calm: made and played from the seed.

What can happen: usage that grows, shrinks and comes late; every fault of the stand-in, once, in storms or for hours; runs that die
at any step, two runs at once, demands, true-ups at any time; days of which Stripe forgets its keys; events twice, late and in
reverse; invoices in mid-period that others make, finalize or make void; lines of others. Not here: what must be true afterwards.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import stripe

from billing_pipeline.errors import BillingError
from billing_pipeline.stripe_sync.backoff import Backoff
from resources.stripe_mirror.following import StripeFollowing
from resources.stripe_mirror.gateway_reads import GatewayReads
from resources.stripe_mirror.invoice_life import StoredInvoiceLife
from tests.invoicing_world import at, days_of, month
from tests.stripe_world import StripeWorld

APRIL = at("2026-04-01T00:00")
BY_ITEMS, GROUPED, BY_METER = "items", "groups", "meter"
ACCOUNTS = {
    BY_ITEMS: ("fees_and_requests", "USD", ""),
    GROUPED: ("grouped", "USD", ""),
    BY_METER: ("metered", "USD", ""),
}
_WRITES = (
    "POST /v1/invoiceitems$",
    "POST /v1/invoiceitems/{}",
    "DELETE /v1/invoiceitems/{}",
    "POST /v1/invoices/{}",
    "lines$",
    "meter_events$",
    "POST",
    "GET",
    ".*",
)
_ONCE = (
    "drop_before",
    "drop_after",
    "error_before",
    "error_after",
    "html",
    "rate_limit",
    "lock_timeout",
    "unavailable",
)
_FOR_HOURS = ("unavailable", "rate_limit", "drop_before", "drop_after", "html")

_OPEN_RULES: Mapping[str, Sequence[Any]] = {
    "list_lag_seconds": (0, 0, 45, 1800),
    "event_lag_seconds": (0, 0, 300),
    "lines_call_is_atomic": (True, False),
    "most_lines_a_call": (0, 0, 100),
    "meter_lag_seconds": (0, 60, 1200),
    "meter_last_order": ("timestamp", "receipt"),
    "meter_repeated_identifier": ("refused", "ignored"),
    "replays_server_errors": (True, True, False),
    "deleted_draft_frees_items": (True, False),
}


class Killed(BaseException):
    """The process ends here."""


@dataclass
class Chaos:
    """A story in the making. `told`: what happened, for whoever must understand a failure. `dies`: how a run is killed."""

    world: StripeWorld
    seed: int
    kill_hard: Callable[[str, int], None] | None = None
    chance: random.Random = field(init=False)
    told: list[str] = field(default_factory=list)
    foreign: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)

    def month_of_trouble(self) -> None:
        """Play March, its renewal and some days of April, with any answer to what Stripe's documentation leaves open."""
        rules = {name: self.chance.choice(answers) for name, answers in _OPEN_RULES.items()}
        self._tell(f"rules: {rules}")
        self.world.sim.remote.rules(**rules)
        for moment in (
            at("2026-03-02T09:00"),
            at("2026-03-11T18:00"),
            at("2026-03-31T21:00"),
            APRIL + timedelta(minutes=self.chance.choice((0, 5, 50))),
            APRIL + timedelta(hours=self.chance.choice((1, 3, 20))),
            APRIL + timedelta(hours=self.chance.choice((26, 40))),
        ):
            self._until(moment)
            self._some_use()
            for _ in range(self.chance.randrange(2, 5)):
                self.chance.choice(self._deeds)()

    def calm(self) -> None:
        """Let faults end and everybody do their work, as often as it is due, until there is nothing to do."""
        self._tell("calm")
        self.world.sim.remote.clear_faults()
        for number in (3, 4):
            self.world.books.build(days_of(month(number)))
        for _ in range(4):
            self._until(self.world.now + timedelta(hours=13))
            self.follow()
            self.world.true_up()
            self.world.sync(verify=True)
        self.world.credit_notes()

    # Deeds ------------------------------------------------------------------------------------------------------------

    @property
    def _deeds(self) -> list[Callable[[], None]]:
        return [
            self._some_use,
            self._some_fault,
            self._some_fault,
            self._hours_of_fault,
            self._event_fault,
            self._sync,
            self._sync,
            self._two_syncs,
            self._killed_sync,
            self._killed_sync,
            self._demand,
            self._true_up,
            self._killed_true_up,
            self._two_true_ups,
            self._follow,
            self._follow,
            self._wait,
            self._wait_a_day,
            self._invoice_of_others,
            self._line_of_others,
        ]

    def _some_use(self) -> None:
        """Let usage of some past day of March or April be another one."""
        for account in ACCOUNTS:
            today = min(self.world.now, at("2026-04-05T00:00"))
            day = self.chance.randrange((today - at("2026-03-01T00:00")).days + 1)
            date = (at("2026-03-01T00:00") + timedelta(days=day)).date().isoformat()
            client = f"c{self.chance.randrange(14)}" if account == GROUPED else "c1"
            quantity = self.chance.choice((0, 1, 7, 150, 999))
            self._tell(f"{account} uses {quantity} on {date} ({client})")
            self.world.books.use(account, date, quantity, client=client)
        for number in {3, self.world.now.month}:
            self.world.books.book_month(number)

    def _some_fault(self) -> None:
        fault, operation = self.chance.choice(_ONCE), self.chance.choice(_WRITES)
        times, after = self.chance.choice((1, 1, 2, 8)), self.chance.choice((0, 0, 1, 3))
        self._tell(f"{fault} for {operation}, {times} times after {after}")
        self.world.sim.remote.fault(fault, operation, times=times, after=after)

    def _hours_of_fault(self) -> None:
        fault, hours = self.chance.choice(_FOR_HOURS), self.chance.choice((1, 3, 12))
        self._tell(f"{hours} hours of {fault}")
        self.world.sim.remote.fault(fault, until=self.world.now + timedelta(hours=hours))

    def _event_fault(self) -> None:
        faults = self.chance.choice(
            ({"doubled": 4}, {"redelivered": 4}, {"late": 4, "late_seconds": 7200}, {"reversed_batches": 3})
        )
        self._tell(f"events: {faults}")
        self.world.sim.remote.event_faults(**faults)

    def _sync(self) -> None:
        self._tell("sync")
        self._run(lambda: self.world.sync(gateway=self._gateway()))

    def _demand(self) -> None:
        account = self.chance.choice(tuple(ACCOUNTS))
        self._tell(f"demand of {account}")
        self._run(lambda: self.world.syncing(self._gateway()).demand(account, run_id=f"demand {len(self.told)}"))

    def _two_syncs(self) -> None:
        self._tell("two syncs at once")
        self._twice(lambda: self.world.sync(gateway=self._gateway()))

    def _killed_sync(self) -> None:
        self._killed("sync", lambda: self.world.sync(gateway=self._gateway()))

    def _true_up(self) -> None:
        self._tell("true-up")
        self._run(lambda: self.world.true_up(self._gateway()))

    def _killed_true_up(self) -> None:
        self._killed("true_up", lambda: self.world.true_up(self._gateway()))

    def _two_true_ups(self) -> None:
        self._tell("two true-ups at once")
        self._twice(lambda: self.world.true_up(self._gateway()))

    def _follow(self) -> None:
        self._tell("follow")
        self._run(self.follow)

    def follow(self) -> None:
        """Read the feeds and apply what is open."""
        following = StripeFollowing(
            database=self.world.database,
            open_reads=lambda: GatewayReads(self._gateway()),
            clock=self.world.clock,
            life=StoredInvoiceLife(self.world.books.invoices),
        )
        following.poll(may_go_on=lambda: True)
        following.follow(run_id=f"follow {len(self.told)}")

    def _wait(self) -> None:
        self._until(self.world.now + timedelta(minutes=self.chance.choice((2, 20, 65, 400))))

    def _wait_a_day(self) -> None:
        self._until(self.world.now + timedelta(hours=25))

    def _invoice_of_others(self) -> None:
        """Let somebody invoice a subscription in mid-period, which takes the pending items."""
        account = self.chance.choice((BY_ITEMS, GROUPED))
        then = self.chance.choice(("nothing", "finalize", "void"))
        invoices = self.world.sdk.v1.invoices
        # Where nothing is pending there is nothing to invoice.
        with self._without_faults(), suppress(stripe.InvalidRequestError):
            draft = invoices.create(
                {
                    "customer": self.world.customers[account],
                    "subscription": self.world.subscriptions[account],
                    "pending_invoice_items_behavior": "include",
                    "auto_advance": then == "nothing",
                }
            )
            self._tell(f"{draft.id} of {account} in mid-period, then {then}")
            if then != "nothing":
                invoices.finalize_invoice(draft.id or "")
            if then == "void" and invoices.retrieve(draft.id or "").status == "open":
                invoices.void_invoice(draft.id or "")

    def _line_of_others(self) -> None:
        account = self.chance.choice(tuple(ACCOUNTS))
        amount = self.chance.choice((100, 2500))
        with self._without_faults():
            made = self.world.sdk.v1.invoice_items.create(
                {
                    "customer": self.world.customers[account],
                    "subscription": self.world.subscriptions[account],
                    "amount": amount,
                    "currency": "usd",
                    "description": "by hand",
                }
            )
            self._tell(f"{made.id} of {amount} on {account} by hand")
            self.foreign[made.id] = _as_written(made.to_dict())

    # How deeds are done -----------------------------------------------------------------------------------------------

    def _gateway(self) -> Any:
        return self.world.gateway(backoff=Backoff(total_seconds=self.chance.choice((0, 3, 60))), journal=lambda _: None)

    def _run(self, work: Callable[[], object]) -> None:
        """Do it; what goes wrong is the next run's matter."""
        with suppress(BillingError):
            work()

    def _twice(self, work: Callable[[], object]) -> None:
        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(self._run, work) for _ in range(2)]:
                done.result()

    def _killed(self, name: str, work: Callable[[], object]) -> None:
        passing = self.chance.randrange(1, 18)
        self._tell(f"{name}, killed at step {passing}")
        if self.kill_hard is not None:
            self.kill_hard(name, passing)
            return
        passed = 0

        def reached(_: str) -> None:
            nonlocal passed
            passed += 1
            if passed >= passing:
                raise Killed

        self.world.reached = reached
        with suppress(Killed):
            self._run(work)
        self.world.reached = lambda _: None

    def _until(self, instant: datetime) -> None:
        if instant > self.world.now:
            self.world.advance_to(instant)
            self.world.patience.sleep(3600)
            self._tell(f"it is {instant:%m-%d %H:%M}")

    def _without_faults(self) -> Any:
        """Let other people's own calls through, whatever the script says."""
        return _faults_aside(self.world)

    def _tell(self, what: str) -> None:
        self.told.append(what)


class _faults_aside:
    def __init__(self, world: StripeWorld) -> None:
        self._faults = world.sim.application.faults
        self._scripts: list[Any] = []

    def __enter__(self) -> None:
        self._scripts, self._faults._scripts = self._faults._scripts, []

    def __exit__(self, *_: object) -> None:
        self._faults._scripts = self._scripts


def _as_written(item: dict[str, Any]) -> dict[str, Any]:
    """Return what nobody but its owner may change; which invoice has it is Stripe's matter."""
    return {name: item[name] for name in ("amount", "description", "metadata", "period", "currency", "customer")}


def unharmed(chaos: Chaos) -> list[str]:
    """Return which items of others are not as they were made."""
    return [
        item_id
        for item_id, before in chaos.foreign.items()
        if _as_written(chaos.world.sdk.v1.invoice_items.retrieve(item_id).to_dict()) != before
    ]
