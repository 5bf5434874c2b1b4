"""The daily sync against the stand-in, over real sockets with the real SDK. `R7` is row 7 of the contract in docs/stripe.md."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from billing_pipeline.stripe_sync.backoff import Backoff
from billing_pipeline.stripe_sync.policy import SyncPolicy
from resources.database import Database
from resources.stripe_api.errors import StripeUnavailableError
from resources.stripe_api.limiter import Pace, RateLimiter
from resources.stripe_sync import intent_store, sync_store
from resources.stripe_sync.intent_store import NotADeadLetterError
from resources.stripe_sync.sync_run import AccountNotLinkedError
from resources.stripe_sync.sync_store import FindingKind, SyncState
from tests.invoicing_world import at, month
from tests.stripe_world import StripeWorld, stripe_world

CREATE, UPDATE, DELETE = "POST /v1/invoiceitems$", "POST /v1/invoiceitems/{}", "DELETE /v1/invoiceitems/{}"
FEES = [1099, 1299, 1599]


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def world(database: Database, tmp_path: Path) -> Iterator[StripeWorld]:
    with stripe_world(database, tmp_path) as made:
        made.link("acme")
        yield made


def amounts(world: StripeWorld, account: str = "acme") -> list[int]:
    return [item.amount for item in world.pending(account)]


def killed_at(world: StripeWorld, step: str, *, time: int = 1) -> None:
    """Run a sync that ends at the `time`th passing of a step."""
    passed = 0

    def reached(name: str) -> None:
        nonlocal passed
        passed += name == step
        if name == step and passed == time:
            raise Killed

    world.reached = reached
    with pytest.raises(Killed):
        world.sync()
    world.reached = lambda _: None


class TestPendingItems:
    def test_hold_what_the_account_owes_so_far(self, world: StripeWorld) -> None:
        world.use("acme", "2026-03-03", 700)
        report = world.sync()
        assert [one.state for one in report.outcomes] == [SyncState.IN_STEP]
        assert amounts(world) == [700, *FEES]
        (usage,) = (item for item in world.pending("acme") if item.metadata["bp_kind"] == "usage")
        assert usage.metadata["bp_account"] == "acme"
        assert (usage.period.start, usage.period.end) == (
            int(month(3).start.timestamp()),
            int(month(3).end.timestamp()) - 1,
        )
        assert {state for _, _, state in world.intents()} == {"confirmed"}

    def test_r6_that_are_right_cost_no_call_at_all(self, world: StripeWorld) -> None:
        world.use("acme", "2026-03-03", 700)
        world.sync()
        world.forget_calls()
        assert world.sync().skipped == 1
        assert world.attempts == []

    def test_r7_change_in_place_and_are_deleted_when_they_come_to_nothing(self, world: StripeWorld) -> None:
        world.use("acme", "2026-03-03", 700)
        world.sync()
        before = {item.id for item in world.pending("acme")}
        world.use("acme", "2026-03-04", 100)
        world.forget_calls()
        world.sync()
        assert amounts(world) == [800, *FEES]
        assert {item.id for item in world.pending("acme")} == before
        assert len(world.writes()) == 1
        world.use("acme", "2026-03-03", 0)
        world.use("acme", "2026-03-04", 0)
        world.forget_calls()
        world.sync()
        assert amounts(world) == FEES
        assert [one.split("/")[0] for one in world.writes()] == ["DELETE "]

    def test_go_back_to_an_amount_that_they_had_before(self, world: StripeWorld) -> None:
        for quantity in (10, 20, 10, 20, 10):
            world.use("acme", "2026-03-03", quantity)
            world.sync()
            assert amounts(world)[0] == quantity

    def test_r19_of_others_are_never_touched(self, world: StripeWorld) -> None:
        foreign = world.sdk.v1.invoice_items.create(
            {"customer": world.customers["acme"], "amount": 4200, "currency": "usd", "description": "by hand"}
        )
        before = world.sdk.v1.invoice_items.retrieve(foreign.id).to_dict()
        for quantity in (10, 0):
            world.use("acme", "2026-03-03", quantity)
            world.sync()
        assert world.sdk.v1.invoice_items.retrieve(foreign.id).to_dict() == before

    def test_that_somebody_deleted_are_made_again(self, world: StripeWorld) -> None:
        world.use("acme", "2026-03-03", 700)
        world.sync()
        world.sdk.v1.invoice_items.delete(world.pending("acme")[0].id)
        assert world.sync().skipped == 1
        world.sync(verify=True)
        assert amounts(world) == [700, *FEES]

    def test_that_somebody_changed_are_set_right(self, world: StripeWorld) -> None:
        world.use("acme", "2026-03-03", 700)
        world.sync()
        world.sdk.v1.invoice_items.update(world.pending("acme")[0].id, {"amount": 1})
        world.sync(verify=True)
        assert amounts(world) == [700, *FEES]

    def test_r17_are_found_behind_many_others(self, world: StripeWorld) -> None:
        world.use("acme", "2026-03-03", 700)
        world.sync()
        others = world.sdk.v1.invoices.create({"customer": world.customers["acme"], "auto_advance": False}).id or ""
        for _ in range(2):
            world.sdk.v1.invoices.add_lines(others, {"lines": [{"amount": 100, "description": "by hand"}] * 115})
        world.use("acme", "2026-03-04", 1)
        world.forget_calls()
        world.sync()
        assert amounts(world) == [701, *FEES]
        assert len(world.writes()) == 1


class TestLostAnswers:
    def test_r1_r2_are_read_back_and_charged_once_however_late(self, world: StripeWorld) -> None:
        for day, wait in enumerate((timedelta(0), timedelta(hours=25), timedelta(days=8)), start=1):
            world.use("acme", f"2026-03-{day:02}", 5)
            world.sim.remote.fault("drop_after", CREATE if day == 1 else UPDATE, times=1)
            killed_at(world, "sent", time=2 if day == 1 else 1)
            world.advance_to(world.now + wait)
            world.sync()
            assert amounts(world) == [5 * day, *FEES]

    @pytest.mark.parametrize("hours", [0, 19, 21, 25])
    def test_of_a_call_that_took_effect_charge_once(self, world: StripeWorld, hours: int) -> None:
        world.use("acme", "2026-03-03", 700)
        world.sim.remote.fault("drop_after", CREATE, times=2)
        with pytest.raises(StripeUnavailableError):
            world.demand_impatiently("acme")
        world.sim.remote.clear_faults()
        world.advance_to(world.now + timedelta(hours=hours))
        world.sync()
        assert amounts(world) == [700, *FEES]

    @pytest.mark.parametrize("hours", [0, 19, 21, 25])
    def test_of_a_call_that_took_no_effect_charge_once(self, world: StripeWorld, hours: int) -> None:
        world.use("acme", "2026-03-03", 700)
        world.sim.remote.fault("drop_before", CREATE, times=2)
        with pytest.raises(StripeUnavailableError):
            world.demand_impatiently("acme")
        world.sim.remote.clear_faults()
        world.advance_to(world.now + timedelta(hours=hours))
        world.sync()
        assert amounts(world) == [700, *FEES]

    def test_of_a_list_that_is_late_as_well_charge_once(self, world: StripeWorld) -> None:
        world.sim.remote.rules(list_lag_seconds=3600)
        world.use("acme", "2026-03-03", 700)
        world.sim.remote.fault("drop_after", CREATE, times=2)
        with pytest.raises(StripeUnavailableError):
            world.demand_impatiently("acme")
        world.sim.remote.clear_faults()
        world.sync()
        world.sync()
        world.advance_to(world.now + timedelta(hours=2))
        world.sync(verify=True)
        assert amounts(world) == [700, *FEES]

    @pytest.mark.parametrize("step", ["called", "confirmed"])
    def test_of_a_run_that_dies_while_lists_are_late_make_no_second_item(self, world: StripeWorld, step: str) -> None:
        world.sim.remote.rules(list_lag_seconds=3600)
        world.use("acme", "2026-03-03", 700)
        killed_at(world, step)
        world.use("acme", "2026-03-03", 711)
        world.sync()
        world.sync(verify=True)
        made = [one for one in world.sim.application.log if one.operation == "POST /v1/invoiceitems" and one.executed]
        assert len({one.params["metadata"]["bp_key"] for one in made}) == len(made) == 4
        world.advance_to(world.now + timedelta(hours=2))
        assert amounts(world) == [711, *FEES]

    @pytest.mark.parametrize("fault", ["error_before", "error_after", "html", "drop_after", "drop_before"])
    def test_of_every_kind_end_in_the_same(self, world: StripeWorld, fault: str) -> None:
        for operation in (CREATE, UPDATE, DELETE):
            world.sim.remote.fault(fault, operation, times=1)
        for quantity in (10, 20, 0, 5):
            world.use("acme", "2026-03-03", quantity)
            world.sync()
        assert amounts(world) == [5, *FEES]


class TestKilled:
    @pytest.mark.parametrize("step", ["planned", "sent", "called", "answered", "confirmed", "recorded"])
    @pytest.mark.parametrize("wait_hours", [0, 25])
    def test_at_every_step_and_run_again_charges_once(self, world: StripeWorld, step: str, wait_hours: int) -> None:
        world.use("acme", "2026-03-03", 700)
        killed_at(world, step)
        world.advance_to(world.now + timedelta(hours=wait_hours))
        world.use("acme", "2026-03-04", 11)
        world.sync()
        assert amounts(world) == [711, *FEES]
        assert not [state for _, _, state in world.intents() if state in ("planned", "sent", "answered")]

    def test_r3_between_intent_and_call_sends_one_call_when_run_again(self, world: StripeWorld) -> None:
        world.use("acme", "2026-03-03", 700)
        killed_at(world, "sent")
        assert world.writes() == []
        world.forget_calls()
        world.sync()
        assert len(world.writes()) == 4
        keys = [one.idempotency_key for one in world.attempts if one.call.is_write]
        assert len(keys) == len(set(keys))
        first = next(one for one in world.attempts)
        assert first.call.verb == "GET"


class TestKeys:
    def test_r9_r10_are_the_same_after_429_and_others_after_a_corrected_request(self, world: StripeWorld) -> None:
        world.use("acme", "2026-03-03", 700)
        world.sim.remote.fault("rate_limit", CREATE, times=3)
        world.sync()
        tried = [one for one in world.attempts if one.call.is_write]
        assert [one.outcome for one in tried[:4]] == ["rate_limit"] * 3 + ["ok"]
        assert len({one.idempotency_key for one in tried[:4]}) == 1
        waits = world.patience.slept
        assert waits == sorted(waits)
        by_key: dict[str | None, set[str]] = {}
        for one in tried:
            by_key.setdefault(one.idempotency_key, set()).add(str(one.call))
        assert {len(calls) for calls in by_key.values()} == {1}

    def test_fly06_of_refused_requests_wait_for_a_person_and_change_then(self, world: StripeWorld) -> None:
        world.use("acme", "2026-03-03", 700)
        customer = world.customers["acme"]
        world.sim.application.world.table("subscription").remove(world.subscriptions["acme"])
        world.sync()
        refused = [one for one in world.attempts if one.call.is_write]
        assert len(refused) == 4
        with world.database.reading() as connection:
            letters = intent_store.dead_letters(connection, account_id="acme")
        assert len(letters) == 4
        assert {(one.status, one.code, one.param) for one in letters} == {(400, "resource_missing", "subscription")}
        assert {one.customer_id for one in letters} == {customer}
        world.forget_calls()
        report = world.sync()
        assert [one.state for one in report.outcomes] == [SyncState.FAILED]
        assert world.writes() == []
        for letter in letters:
            intent_store.retry(world.database, letter.intent_id, actor="kim", reason="repaired", now=world.now)
        with pytest.raises(NotADeadLetterError):
            intent_store.retry(world.database, letters[0].intent_id, actor="kim", reason="again", now=world.now)
        with pytest.raises(NotADeadLetterError):
            intent_store.retry(world.database, letters[0].intent_id, actor="kim", reason=" ", now=world.now)
        world.sync()
        tried = [one.idempotency_key for one in world.attempts if one.call.is_write]
        assert not set(tried) & {one.key for one in letters}

    def test_of_a_corrected_request_need_nobody(self, world: StripeWorld) -> None:
        world.use("acme", "2026-03-03", 700)
        broken = world.sim.application.world.table("subscription").get(world.subscriptions["acme"])
        assert broken is not None
        world.sim.application.world.table("subscription").remove(world.subscriptions["acme"])
        world.sync()
        world.sim.application.world.table("subscription").put(broken)
        world.use("acme", "2026-03-03", 800)
        world.sync()
        assert amounts(world) == [800]


class TestAnOutage:
    def test_r14_of_hours_loses_nothing_and_is_asked_about_seldom(self, database: Database, tmp_path: Path) -> None:
        accounts = {f"a{number:02}": ("fees_and_requests", "USD", "") for number in range(12)}
        with stripe_world(database, tmp_path, accounts=accounts) as world:
            world.link(*accounts)
            for account in accounts:
                world.books.use(account, "2026-03-03", 700)
            world.books.book_month(3)
            world.sim.remote.fault("unavailable", until=world.now + timedelta(hours=3))
            for _ in range(3):
                world.forget_calls()
                report = world.sync()
                assert report.problem is not None
                assert len(report.left_over) == 12
                assert len(world.attempts) < 30
                world.advance_to(world.now + timedelta(hours=1))
            world.advance_to(world.now + timedelta(seconds=1))
            world.patience.sleep(100)
            assert world.sync().problem is None
            for account in accounts:
                assert amounts(world, account) == [700, *FEES]

    def test_r11_of_429_is_waited_out_while_others_go_on(self, database: Database, tmp_path: Path) -> None:
        accounts = {f"a{number:02}": ("one_fee", "USD", "") for number in range(12)}
        with stripe_world(database, tmp_path, accounts=accounts) as world:
            world.link(*accounts)
            world.books.book_month(3)
            world.sim.remote.fault("rate_limit", CREATE, times=20)
            assert not world.sync(gateway=world.gateway(backoff=Backoff(total_seconds=900))).left_over
            assert [amounts(world, account) for account in accounts] == [[1099]] * 12
            limited = [one for one in world.attempts if one.outcome == "rate_limit"]
            assert len(limited) == 20


class TestOneOfMany:
    def test_r15_that_is_broken_stops_nobody(self, database: Database, tmp_path: Path) -> None:
        accounts = {f"a{number:02}": ("one_fee", "USD", "") for number in range(12)}
        with stripe_world(database, tmp_path, accounts=accounts) as world:
            world.link(*accounts)
            world.books.book_month(3)
            world.sdk.v1.customers.delete(world.customers["a07"])
            report = world.sync()
            assert [one.account_id for one in report.failed] == ["a07"]
            assert all(amounts(world, account) == [1099] for account in accounts if account != "a07")
            with database.reading() as connection:
                (finding,) = sync_store.open_findings(connection)
            assert finding.account_id == "a07"
            world.mirror()
            world.forget_calls()
            assert world.sync().unlinked == ("a07",)
            assert world.attempts == []
            with database.reading() as connection:
                (finding,) = sync_store.open_findings(connection)
            assert finding.kind is FindingKind.ACCOUNT_UNLINKED

    def test_without_a_customer_is_told_of_and_not_sent(self, world: StripeWorld) -> None:
        world.books.use("gulf", "2026-03-03", 7000)
        world.use("acme", "2026-03-03", 700)
        report = world.sync()
        assert "gulf" in report.unlinked
        with pytest.raises(AccountNotLinkedError, match="bp_account"):
            world.demand("gulf")
        with world.database.reading() as connection:
            assert sync_store.account_states(connection)["gulf"].state is SyncState.UNLINKED

    def test_r28_in_another_currency_is_refused_before_any_write(self, world: StripeWorld) -> None:
        world.sdk.v1.customers.update(world.customers["acme"], {"metadata": {"bp_account": ""}})
        euro = world.sdk.v1.customers.create({"metadata": {"bp_account": "acme"}}).id
        world.sdk.v1.invoice_items.create({"customer": euro, "amount": 1, "currency": "eur"})
        world.customers["acme"] = euro
        world.use("acme", "2026-03-03", 700)
        for mirrored in (True, False):
            if mirrored:
                world.mirror()
            else:
                with world.database.transaction() as connection:
                    connection.execute("update stripe.customer set currency = null")
            world.forget_calls()
            (failed,) = world.sync("acme").failed
            assert failed.problem is not None
            assert "locked to EUR" in failed.problem
            assert world.writes() == []

    def test_whose_invoices_vanish_keeps_its_items_until_somebody_looks(self, world: StripeWorld) -> None:
        world.use("acme", "2026-03-03", 700)
        world.sync()
        with world.database.transaction() as connection:
            connection.execute("delete from invoicing.draft_invoice where account_id = 'acme'")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("resources.invoicing.invoice_store.InvoiceStore.compile_invoices", lambda *_, **__: None)
            (failed,) = world.sync("acme", verify=True).failed
        assert failed.problem is not None
        assert "no open invoice here" in failed.problem
        assert amounts(world) == [700, *FEES]


class TestBudget:
    def test_r16_of_unchanged_accounts_is_a_read_for_a_hundred(self, database: Database, tmp_path: Path) -> None:
        accounts = {f"a{number:02}": ("one_fee", "USD", "") for number in range(11)}
        with stripe_world(database, tmp_path, accounts=accounts) as world:
            world.link(*accounts)
            world.books.book_month(3)
            world.sync()
            world.forget_calls()
            world.sync()
            assert world.attempts == []
            world.sync(verify=True)
            assert len(world.attempts) == 1
            assert world.writes() == []

    def test_r12_keeps_the_pace_of_every_second(self, database: Database, tmp_path: Path) -> None:
        accounts = {f"a{number:02}": ("fees_and_requests", "USD", "") for number in range(9)}
        with stripe_world(database, tmp_path, accounts=accounts) as world:
            world.policy = SyncPolicy(concurrency=1)
            world.link(*accounts)
            world.books.book_month(3)
            left: list[tuple[float, str]] = []
            lock = threading.Lock()
            pace = Pace(per_operation=5, overall=6)
            limiter = RateLimiter(pace, clock=world.patience.clock, sleep=world.patience.sleep)

            def journal(attempt: object) -> None:
                with lock:
                    left.append((world.patience.clock(), attempt.call.operation))  # type: ignore[attr-defined]

            world.sync(gateway=world.gateway(limiter=limiter, journal=journal))
            for limit, wanted in ((6, None), (5, "invoice_items.create"), (5, "invoice_items.list")):
                times = sorted(moment for moment, operation in left if wanted in (None, operation))
                assert all(times[n + limit] - times[n] >= 1 for n in range(len(times) - limit))


class TestDemand:
    def test_fly03_of_fifty_at_once_is_one_sync(self, world: StripeWorld) -> None:
        world.use("acme", "2026-03-03", 700)
        with ThreadPoolExecutor(50) as pool:
            outcomes = list(pool.map(lambda _: world.demand("acme"), range(50)))
        assert {one.state for one in outcomes} == {SyncState.IN_STEP}
        assert len(world.writes()) == 4
        assert len(world.attempts) - len(world.writes()) <= 3
        assert amounts(world) == [700, *FEES]

    def test_shows_at_stripe_what_the_invoice_here_says(self, world: StripeWorld) -> None:
        world.use("acme", "2026-03-03", 712)
        world.demand("acme")
        invoice = world.books.newest("acme", month(3))
        assert Decimal(sum(amounts(world))) / 100 == invoice.total.major


class TestTwoAtOnce:
    def test_charge_once(self, world: StripeWorld) -> None:
        world.use("acme", "2026-03-03", 700)
        with ThreadPoolExecutor(2) as pool:
            reports = list(pool.map(lambda _: world.sync("acme"), range(2)))
        assert all(not report.failed for report in reports)
        assert amounts(world) == [700, *FEES]
        assert len(world.writes()) == 4


class TestDryRun:
    def test_r41_prints_the_exact_calls_and_writes_nothing(self, world: StripeWorld) -> None:
        world.use("acme", "2026-03-03", 700)
        world.books.compile()
        tables = ("stripe.intent", "stripe.sync_account", "stripe.sync_item", "stripe.sync_run")
        before = [world.rows(f"select count(*) from {table}") for table in tables]
        ((account, writes),) = world.syncing(world.gateway(read_only=True)).preview(["acme"])
        assert account == "acme"
        assert not isinstance(writes, str)
        assert {one.call.verb for one in world.attempts} == {"GET"}
        assert [world.rows(f"select count(*) from {table}") for table in tables] == before
        assert amounts(world) == []
        printed = [str(write.call) for write in writes]
        world.forget_calls()
        world.sync()
        sent = [str(one.call) for one in world.attempts if one.call.is_write]
        assert [without_intent(line) for line in sent] == [without_intent(line) for line in printed]


def without_intent(line: str) -> str:
    verb, path, params = line.split(" ", 2)
    said = json.loads(params)
    said.get("metadata", {}).pop("bp_intent", None)
    return f"{verb} {path} {json.dumps(said)}"


class TestAnInvoiceInMidPeriod:
    def test_r25_takes_pending_items_and_the_rest_is_charged_later(self, world: StripeWorld) -> None:
        world.use("acme", "2026-03-03", 700)
        world.sync()
        world.advance_to(at("2026-03-10T00:00"))
        draft = world.sdk.v1.invoices.create(
            {
                "customer": world.customers["acme"],
                "subscription": world.subscriptions["acme"],
                "pending_invoice_items_behavior": "include",
                "auto_advance": False,
            }
        )
        assert sum(world.ours(draft.id or "").values()) == 700 + sum(FEES)
        world.use("acme", "2026-03-10", 50)
        world.sync()
        assert amounts(world) == [50]
        world.sdk.v1.invoices.finalize_invoice(draft.id or "")
        for day in (11, 12):
            world.use("acme", f"2026-03-{day}", 25)
            world.sync(verify=True)
        assert amounts(world) == [100]
        assert world.charged("acme") == 800 + sum(FEES)
        assert world.books.newest("acme", month(3)).key.issue == 2

    def test_gives_back_what_is_withdrawn_afterwards(self, world: StripeWorld) -> None:
        world.use("acme", "2026-03-03", 700)
        world.sync()
        draft = world.sdk.v1.invoices.create(
            {
                "customer": world.customers["acme"],
                "subscription": world.subscriptions["acme"],
                "pending_invoice_items_behavior": "include",
                "auto_advance": False,
            }
        )
        world.use("acme", "2026-03-03", 400)
        world.sync()
        assert amounts(world) == [-300]
        world.sdk.v1.invoices.finalize_invoice(draft.id or "")
        world.sync(verify=True)
        assert world.charged("acme") == 400 + sum(FEES)

    def test_counts_no_more_when_it_is_void(self, world: StripeWorld) -> None:
        world.use("acme", "2026-03-03", 700)
        world.sync()
        draft = world.sdk.v1.invoices.create(
            {
                "customer": world.customers["acme"],
                "subscription": world.subscriptions["acme"],
                "pending_invoice_items_behavior": "include",
                "auto_advance": False,
            }
        )
        world.sdk.v1.invoices.finalize_invoice(draft.id or "")
        world.sdk.v1.invoices.void_invoice(draft.id or "")
        world.sync(verify=True)
        assert amounts(world) == [700, *FEES]
