"""Rows of the contract (docs/stripe-proof.md) that are about many: customers, calls a second, lines, currencies; over real sockets.

`BILLING_STRIPE_SUBSCRIBERS` sets how many customers the first test has.
"""

import os
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import stripe

from billing_pipeline.amounts import Money
from billing_pipeline.invoicing.items import sum_of, unfolded
from billing_pipeline.invoicing.states import InvoiceState
from billing_pipeline.invoicing.stripe_amounts import from_stripe, to_stripe
from billing_pipeline.stripe_sync.backoff import Backoff
from billing_pipeline.stripe_sync.policy import SyncPolicy
from resources.database import Database
from resources.stripe_api import calls, sdk
from resources.stripe_api.calls import IdempotencyKey, Operation, StripeCall
from resources.stripe_api.errors import StripeRefusedError
from resources.stripe_api.gateway import Attempt, StripeGateway
from resources.stripe_api.keys import StripeMode
from resources.stripe_api.limiter import Pace, RateLimiter
from resources.stripe_sim import parameters
from resources.stripe_sim.operations import sdk_operations
from resources.stripe_sync.sync_store import SyncState
from resources.stripe_sync.true_up import Outcome
from tests.invoicing_world import PLANS, PRICES, accounts_of, at, month, subscriptions_of
from tests.stripe_fixtures import API_KEY, monthly_price
from tests.stripe_world import Patience, StripeWorld, stripe_world

SUBSCRIBERS = int(os.environ.get("BILLING_STRIPE_SUBSCRIBERS") or 100)
APRIL = at("2026-04-01T00:00")
CREATE = "POST /v1/invoiceitems$"
FEE = 1099


@contextmanager
def crowd(database: Database, folder: Path, count: int) -> Iterator[tuple[StripeWorld, list[str]]]:
    """Open an installation of many accounts, each with a fee of 10.99."""
    names = [f"account-{number:05d}" for number in range(count)]
    accounts = dict.fromkeys(names, ("one_fee", "USD", ""))
    with stripe_world(database, folder, accounts=accounts) as world:
        # What the stand-in populates: subscriptions are called as their accounts.
        texts = subscriptions_of(accounts).replace('id = "s_', 'id = "')
        world.books.load(accounts=accounts_of(accounts), subscriptions=texts)
        for made in world.sim.remote.populate(customers=count, price=monthly_price(world.sdk, amount=0)):
            world.customers[made["account"]] = made["customer"]
        world.mirror()
        world.books.book_month(3)
        yield world, names


class TestManyCustomers:
    def test_r11_r15_r16_are_synced_through_429_beside_a_dead_one_and_then_cost_nothing(
        self, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """20 times 429; one of a hundred is deleted; unchanged they are a read for a hundred, and no write."""
        left: dict[str | None, list[float]] = defaultdict(list)
        under_way = [0, 0]
        lock = threading.Lock()
        send = sdk.send

        def watched(*args: Any) -> stripe.StripeObject:
            with lock:
                under_way[0] += 1
                under_way[1] = max(under_way)
            try:
                return send(*args)
            finally:
                with lock:
                    under_way[0] -= 1

        monkeypatch.setattr(sdk, "send", watched)
        with crowd(database, tmp_path, SUBSCRIBERS) as (world, names):
            world.policy = SyncPolicy(concurrency=8)
            dead = names[7]
            world.sdk.v1.customers.delete(world.customers[dead])

            def journal(attempt: Attempt) -> None:
                world.attempts.append(attempt)
                if attempt.outcome == "rate_limit":
                    left[attempt.idempotency_key].append(world.patience.now)

            pace = Pace(per_operation=10_000, overall=10_000, in_flight=5)
            gateway = world.gateway(limiter=RateLimiter(pace), backoff=Backoff(total_seconds=900), journal=journal)
            world.sim.remote.fault("rate_limit", CREATE, times=20)
            report = world.sync(gateway=gateway)
            assert [one.account_id for one in report.failed] == [dead]
            assert (report.left_over, report.problem) == ((), None)
            totals = world.sim.remote.totals()
            assert [totals[world.customers[one]]["pending"] for one in names if one != dead] == [FEE] * (
                SUBSCRIBERS - 1
            )
            assert sum(len(some) for some in left.values()) == 20
            for moments in left.values():
                gaps = [after - before for before, after in pairwise(moments)]
                assert all(gap >= Backoff().first_seconds / 2 * 2**number for number, gap in enumerate(gaps)), gaps
            assert under_way[1] <= 5

            world.mirror()
            world.forget_calls()
            assert world.sync().skipped == SUBSCRIBERS - 1
            assert world.attempts == []
            world.sync(verify=True)
            assert len(world.attempts) <= max(SUBSCRIBERS / 100, 1)
            assert world.writes() == []

    @pytest.mark.parametrize(("mode", "seconds"), [(StripeMode.LIVE, 3 * 2000 / 25), (StripeMode.TEST, 3 * 2000 / 20)])
    def test_r12_are_asked_about_at_the_pace_of_stripes_limits(
        self, mode: StripeMode, seconds: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """2,000 subscribers: a list, a write and a read-back each, on a virtual clock; every second of it is counted."""
        patience, left = Patience(), []

        def answered(_: object, call: StripeCall, key: str | None) -> stripe.StripeObject:
            left.append((patience.now, call.operation))
            values = {"id": "ii_1", "object": "invoiceitem", "data": [], "has_more": False}
            return stripe.InvoiceItem.construct_from(values, key)

        monkeypatch.setattr(sdk, "send", answered)
        limiter = RateLimiter(Pace.of(mode), clock=patience.clock, sleep=patience.sleep)
        gateway = StripeGateway(
            api_key=API_KEY if mode is StripeMode.TEST else "sk_live_4eC39HqLyjWDarjtT1zdp7dc",
            mode=mode,
            limiter=limiter,
        )
        for number in range(2000):
            customer = f"cus_{number}"
            write = StripeCall(operation=Operation.INVOICE_ITEMS_CREATE, params={"customer": customer, "amount": 1})
            list(gateway.list_invoice_items(customer=customer))
            gateway.write(write, IdempotencyKey(text=f"bp:{number}"))
            list(gateway.list_lines(f"in_{number}"))
        overall = {StripeMode.LIVE: 80, StripeMode.TEST: 20}[mode]
        for limit, wanted in ((overall, None), *((25, one) for one in {operation for _, operation in left})):
            times = [moment for moment, operation in left if wanted in (None, operation)]
            assert all(later - first >= 1 for first, later in zip(times, times[limit:], strict=False))
        assert len(left) == 6000
        # No slower than the limits ask for, either.
        assert patience.now <= 1.05 * seconds / (3 if mode is StripeMode.LIVE else 1)


class TestManyLines:
    def test_r18_of_400_charges_are_250_with_the_sum_of_all_and_their_detail(
        self, database: Database, tmp_path: Path
    ) -> None:
        with stripe_world(database, tmp_path, accounts={"many": ("grouped", "USD", "")}) as world:
            world.policy = SyncPolicy(concurrency=1, daily_push=False)
            world.link("many")
            put_clients(world, 400)
            world.renew(APRIL)
            world.complete(3)
            world.forget_calls()
            assert [one.outcome for one in world.true_up().outcomes] == [Outcome.RIGHT]
            (draft,) = world.invoices_at_stripe("many", status="draft")
            on_the_wire = world.ours(draft.id or "")
            wanted = sum(101 + client for client in range(400))
            assert (len(on_the_wire), sum(on_the_wire.values())) == (250, wanted)
            assert world.books.receivable("many") == Money(wanted, "USD")
            detail = tuple(unfolded(world.books.lines("many", month(3)).items))
            assert len({item.charge_id for item in detail}) == 400
            assert sum_of(detail, "USD") == Money(wanted, "USD")
            assert [one.split("/")[-1] for one in world.writes()] == ["add_lines"] * 3
            world.advance_to(APRIL + timedelta(hours=2))
            (paid,) = (one for one in world.invoices_at_stripe("many") if one.billing_reason == "subscription_cycle")
            assert (paid.status, paid.total) == ("paid", wanted)
            world.mirror()
            world.sync()
            assert world.books.newest("many", month(3)).state is InvoiceState.FINAL

    def test_r16_of_a_hundred_are_brought_up_to_date_by_six_calls(self, database: Database, tmp_path: Path) -> None:
        with stripe_world(database, tmp_path, accounts={"many": ("grouped", "USD", "")}) as world:
            world.link("many")
            put_clients(world, 60)
            world.sync()
            world.renew(APRIL)
            # With the subscription's own line they are a hundred.
            put_clients(world, 99, more=5)
            world.complete(3)
            world.forget_calls()
            assert [one.outcome for one in world.true_up().outcomes] == [Outcome.RIGHT]
            assert len(world.attempts) <= 6
            assert sorted(one.split("/")[-1] for one in world.writes()) == ["add_lines", "update_lines"]
            (draft,) = world.invoices_at_stripe("many", status="draft")
            found = world.ours(draft.id or "")
            assert (len(found), sum(found.values())) == (99, sum(106 + client for client in range(99)))


def put_clients(world: StripeWorld, count: int, *, more: int = 0) -> None:
    """Let the n-th client use 101 + n + `more`."""
    for client in range(count):
        world.books.use("many", "2026-03-03", 101 + client + more, client=f"c{client}")
    world.books.book_month(3)


class TestCurrencies:
    def test_r27_are_on_the_wire_as_stripe_counts_them_and_no_fils_is_lost(
        self, database: Database, tmp_path: Path
    ) -> None:
        """5,124 units in March, 6 in April. Of 5.124 KWD Stripe can charge 5.120: 0.004 goes onto the next invoice."""
        units = {"USD": "0.01", "JPY": "1", "KWD": "0.001", "ISK": "1", "UGX": "1"}
        accounts = {code.lower(): (f"in_{code}", code, "") for code in units}
        prices = "".join(
            f'[[price]]\nid = "of_{code}"\ncurrency = "{code}"\nmeter = "requests"\n[[price.versions]]\nversion = 1\n'
            f'effective_from = 2025-01-01T00:00:00Z\nmodel = "standard"\nunit_price = "{unit}"\n'
            for code, unit in units.items()
        )
        plans = "".join(f'[[plan]]\nid = "in_{code}"\nprices = ["of_{code}"]\n' for code in units)
        with stripe_world(database, tmp_path, accounts={"acme": ("one_fee", "USD", "")}) as world:
            world.books.load(
                prices=PRICES + prices,
                plans=PLANS + plans,
                accounts=accounts_of(accounts),
                subscriptions=subscriptions_of(accounts),
            )
            for account, (_, code, _) in accounts.items():
                world.link(account, currency=code.lower())
                world.books.use(account, "2026-03-03", 5124)
            world.books.book_month(3)
            assert world.sync().failed == ()
            sent = {account: [item.amount for item in world.pending(account)] for account in accounts}
            march = {"usd": 5124, "jpy": 5124, "kwd": 5120, "isk": 512_400, "ugx": 512_400}
            assert {account: sum(amounts) for account, amounts in sent.items()} == march
            world.renew(APRIL)
            world.complete(3)
            assert {one.outcome for one in world.true_up().outcomes} == {Outcome.RIGHT}
            world.advance_to(APRIL + timedelta(hours=2))
            for account in accounts:
                world.books.use(account, "2026-04-01", 6)
            world.books.book_month(4)
            assert world.sync(verify=True).failed == ()
            for account, (_, code, _) in accounts.items():
                owed = Money(world.books.balance(f"receivable:{account}"), code)
                assert world.charged(account) == to_stripe(owed)
                assert from_stripe(world.charged(account), code) == owed
            assert sum(item.amount for item in world.pending("kwd")) == 10


class TestAnotherSdk:
    def test_r43_with_a_parameter_less_fails_here_and_not_at_stripe(
        self, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Let the SDK be one that has no `period` of invoice items any more."""
        class_of = parameters._class_of

        def bumped(operation: Any) -> type:
            found = class_of(operation)
            if operation.name != "POST /v1/invoiceitems":
                return found
            left = {name: hint for name, hint in found.__annotations__.items() if name != "period"}
            return type(
                found.__name__,
                (),
                {
                    "__annotations__": left,
                    "__module__": found.__module__,
                    "__required_keys__": found.__required_keys__,  # type: ignore[attr-defined]
                },
            )

        with stripe_world(database, tmp_path, accounts={"acme": ("one_fee", "USD", "")}) as world:
            world.link("acme")
            world.books.book_month(3)
            monkeypatch.setattr(parameters, "_class_of", bumped)
            parameters._form_reader.cache_clear()
            try:
                (failed,) = world.sync().failed
            finally:
                monkeypatch.undo()
                parameters._form_reader.cache_clear()
            assert failed.state is SyncState.FAILED
            assert "parameter_unknown" in (failed.problem or "")
            assert world.pending("acme") == []

    @pytest.mark.parametrize("old", ["price", "unit_amount", "usage_record"])
    def test_r43_refuses_parameters_of_earlier_versions(self, database: Database, tmp_path: Path, old: str) -> None:
        with stripe_world(database, tmp_path, accounts={"acme": ("one_fee", "USD", "")}) as world:
            world.link("acme")
            params = {"customer": world.customers["acme"], "currency": "usd", "amount": 1, old: "1"}
            call = StripeCall(operation=Operation.INVOICE_ITEMS_CREATE, params=params)
            with pytest.raises(StripeRefusedError, match=old):
                world.gateway().write(call, IdempotencyKey(text="bp:1"))

    def test_r43_has_every_operation_that_is_called(self) -> None:
        assert {f"{verb} {path}" for verb, path in calls._PATHS.values()} <= set(sdk_operations())
