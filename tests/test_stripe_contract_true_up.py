"""True-up of drafts against the stand-in, over real sockets with the real SDK. `R4` is row 4 of the contract in docs/stripe.md."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from billing_pipeline.amounts import Money
from billing_pipeline.invoicing.states import InvoiceState
from resources.database import Database
from resources.stripe_sync import sync_store
from resources.stripe_sync.sync_store import FindingKind
from resources.stripe_sync.true_up import Outcome
from tests.invoicing_world import at, month
from tests.stripe_world import StripeWorld, stripe_world

APRIL = at("2026-04-01T00:00")
FEES = 1099 + 1299 + 1599
ACME = {"acme": ("fees_and_requests", "USD", "")}


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def world(database: Database, tmp_path: Path) -> Iterator[StripeWorld]:
    """Return an installation with one customer, whose March is over at Stripe and synced up to the 30th."""
    with stripe_world(database, tmp_path, accounts=ACME) as made:
        made.link("acme")
        made.use("acme", "2026-03-03", 700)
        made.sync()
        made.renew(APRIL)
        made.use("acme", "2026-03-31", 55)
        yield made


def draft_of(world: StripeWorld, account: str = "acme") -> str:
    (draft,) = world.invoices_at_stripe(account, status="draft")
    assert draft.billing_reason == "subscription_cycle"
    return draft.id or ""


def outcomes(world: StripeWorld) -> list[Outcome]:
    return [one.outcome for one in world.true_up().outcomes]


def findings(world: StripeWorld) -> list[FindingKind]:
    with world.database.reading() as connection:
        return [one.kind for one in sync_store.open_findings(connection)]


def status_of(world: StripeWorld, invoice_id: str) -> tuple[str | None, int]:
    found = world.sdk.v1.invoices.retrieve(invoice_id)
    return found.status, found.total


class TestADraft:
    def test_gets_the_final_figures_of_its_period_and_is_paid_with_them(self, world: StripeWorld) -> None:
        draft = draft_of(world)
        world.complete(3)
        assert outcomes(world) == [Outcome.RIGHT]
        assert sum(world.ours(draft).values()) == 755 + FEES
        world.advance_to(APRIL + timedelta(seconds=3599))
        assert status_of(world, draft)[0] == "draft"
        world.advance_to(APRIL + timedelta(seconds=3600))
        assert status_of(world, draft) == ("paid", 755 + FEES)

    def test_r4_that_is_right_is_not_touched_again(self, world: StripeWorld) -> None:
        world.complete(3)
        assert outcomes(world) == [Outcome.RIGHT]
        world.mirror()
        world.forget_calls()
        assert outcomes(world) == []
        assert world.attempts == []
        assert not world.truing_up().is_due()

    def test_r5_is_brought_up_by_two_runs_at_once_as_by_one(self, world: StripeWorld) -> None:
        world.complete(3)
        world.books.use("acme", "2026-03-30", 0)
        with ThreadPoolExecutor(2) as pool:
            reports = list(pool.map(lambda _: world.true_up(), range(2)))
        assert not any(report.of(Outcome.FAILED) for report in reports)
        assert sum(world.ours(draft_of(world)).values()) == 755 + FEES

    def test_r16_takes_six_calls_at_most(self, world: StripeWorld) -> None:
        world.complete(3)
        world.books.added.adjust("acme", reach=month(3), amount=Decimal("-5.00"), decision=world.books.decision())
        world.forget_calls()
        assert outcomes(world) == [Outcome.RIGHT]
        assert len(world.attempts) <= 6
        assert [one.split("/")[-1] for one in world.writes()] == ["update_lines", "add_lines"]
        assert sum(world.ours(draft_of(world)).values()) == 755 + FEES - 500

    def test_r19_keeps_lines_of_others(self, world: StripeWorld) -> None:
        draft = draft_of(world)
        world.sdk.v1.invoices.add_lines(draft, {"lines": [{"amount": -1234, "description": "by hand"}]})
        before = [line.to_dict() for line in world.lines(draft) if "bp_key" not in line.metadata]
        assert len(before) == 2
        world.complete(3)
        assert outcomes(world) == [Outcome.RIGHT]
        assert [line.to_dict() for line in world.lines(draft) if "bp_key" not in line.metadata] == before

    def test_r24_is_of_the_period_that_its_lines_end_with_whenever_it_is_looked_at(self, world: StripeWorld) -> None:
        world.complete(3)
        world.sdk.v1.invoices.update(
            draft_of(world), {"automatically_finalizes_at": int(at("2026-07-01T00:00").timestamp())}
        )
        draft = draft_of(world)
        world.advance_to(at("2026-06-15T00:00"))
        assert outcomes(world) == [Outcome.RIGHT]
        assert sum(world.ours(draft).values()) == 755 + FEES
        ((start, end),) = world.rows("select period_start, period_end from stripe.sync_true_up where state = 'right'")
        assert (start, end) == (month(3).start, month(3).end)

    def test_whose_boundary_is_no_end_of_a_period_here_is_shown_and_left_alone(self, world: StripeWorld) -> None:
        draft = draft_of(world)
        with world.database.transaction() as connection:
            connection.execute("update stripe.trueup_queue set boundary_at = boundary_at - interval '3 hours'")
        before = world.ours(draft)
        world.forget_calls()
        assert outcomes(world) == [Outcome.FAILED]
        assert findings(world) == [FindingKind.NO_PERIOD]
        assert (world.writes(), world.ours(draft)) == ([], before)

    def test_takes_a_pending_item_that_came_too_late_for_it(self, world: StripeWorld) -> None:
        draft = draft_of(world)
        stray = world.lines(draft)[0]
        assert stray.parent is not None
        details = stray.parent.invoice_item_details
        assert details is not None
        world.sdk.v1.invoices.remove_lines(draft, {"lines": [{"id": stray.id, "behavior": "unassign"}]})
        assert len(world.pending("acme")) == 1
        world.complete(3)
        assert outcomes(world) == [Outcome.RIGHT]
        assert world.pending("acme") == []
        assert world.charged("acme") == 755 + FEES


class TestInvoicesThatNeedNone:
    def test_r23_are_left_alone(self, database: Database, tmp_path: Path) -> None:
        with stripe_world(database, tmp_path, accounts=ACME) as world:
            world.link("acme")
            world.use("acme", "2026-03-03", 700)
            world.sync()
            draft = world.sdk.v1.invoices.create(
                {
                    "customer": world.customers["acme"],
                    "subscription": world.subscriptions["acme"],
                    "pending_invoice_items_behavior": "include",
                }
            )
            assert draft.billing_reason == "manual"
            world.mirror()
            world.forget_calls()
            assert outcomes(world) == []
            with database.transaction() as connection:
                connection.execute(
                    "insert into stripe.trueup_queue (invoice_id, account_id, customer_id, stripe_subscription_id, state,"
                    " first_seen_at, changed_at) values (%s, 'acme', %s, %s, 'waiting', now(), now())",
                    [draft.id, world.customers["acme"], world.subscriptions["acme"]],
                )
            assert outcomes(world) == [Outcome.NONE_NEEDED]
            assert world.writes() == []


class TestAPeriodThatIsNotWhole:
    def test_holds_its_draft_and_says_so_until_it_is(self, world: StripeWorld) -> None:
        draft = draft_of(world)
        assert outcomes(world) == [Outcome.WAITING]
        assert findings(world) == [FindingKind.PERIOD_INCOMPLETE]
        assert sum(world.ours(draft).values()) == 755 + FEES
        world.advance_to(APRIL + timedelta(hours=5))
        assert status_of(world, draft)[0] == "draft"
        world.use("acme", "2026-03-31", 66)
        world.complete(3)
        assert outcomes(world) == [Outcome.RIGHT]
        assert findings(world) == []
        world.advance_to(APRIL + timedelta(hours=5, minutes=10))
        assert status_of(world, draft) == ("paid", 766 + FEES)

    def test_r21_holds_it_no_longer_than_it_may_when_nobody_comes_back(self, world: StripeWorld) -> None:
        draft = draft_of(world)
        assert outcomes(world) == [Outcome.WAITING]
        world.advance_to(APRIL + timedelta(hours=24) - timedelta(seconds=1))
        assert status_of(world, draft)[0] == "draft"
        world.advance_to(APRIL + timedelta(hours=24))
        assert status_of(world, draft) == ("paid", 755 + FEES)

    def test_is_told_of_when_it_can_be_held_no_longer(self, world: StripeWorld) -> None:
        draft = draft_of(world)
        world.sdk.v1.invoices.update(
            draft, {"automatically_finalizes_at": int((APRIL + timedelta(days=3)).timestamp())}
        )
        world.advance_to(APRIL + timedelta(hours=25))
        assert outcomes(world) == [Outcome.WAITING]
        assert findings(world) == [FindingKind.HOLD_EXHAUSTED]

    def test_is_let_through_by_a_person_as_it_is(self, world: StripeWorld) -> None:
        draft = draft_of(world)
        assert outcomes(world) == [Outcome.WAITING]
        name = str(world.books.newest("acme", month(3)).invoice_id)
        world.books.invoices.release(name, actor="kim", reason="no more will come", now=world.now)
        world.advance_to(APRIL + timedelta(hours=2))
        assert outcomes(world) == [Outcome.RIGHT]
        world.advance_to(APRIL + timedelta(hours=2, minutes=10))
        assert status_of(world, draft) == ("paid", 755 + FEES)


class TestAPersonsHold:
    def test_keeps_a_draft_until_it_is_lifted(self, world: StripeWorld) -> None:
        draft = draft_of(world)
        world.complete(3)
        world.books.compile()
        name = str(world.books.newest("acme", month(3)).invoice_id)
        world.books.invoices.hold(name, actor="kim", reason="a dispute", now=world.now)
        assert outcomes(world) == [Outcome.WAITING]
        world.advance_to(APRIL + timedelta(hours=23))
        assert outcomes(world) == [Outcome.WAITING]
        world.advance_to(APRIL + timedelta(hours=46))
        assert status_of(world, draft)[0] == "draft"
        world.books.invoices.release(name, actor="kim", reason="settled", now=world.now)
        assert outcomes(world) == [Outcome.RIGHT]
        world.advance_to(APRIL + timedelta(hours=47))
        assert status_of(world, draft)[0] == "paid"


class TestReadBack:
    def test_r22_that_differs_keeps_the_draft(self, world: StripeWorld) -> None:
        draft = draft_of(world)
        world.complete(3)
        gateway = world.gateway()
        write = gateway.write

        def corrupting(call: object, key: object) -> object:
            answer = write(call, key)  # type: ignore[arg-type]
            if call.operation == "invoices.update_lines":  # type: ignore[attr-defined]
                line = next(one for one in world.lines(draft) if "bp_kind" in one.metadata)
                world.sdk.v1.invoices.update_lines(draft, {"lines": [{"id": line.id, "amount": 1}]})
            return answer

        gateway.write = corrupting  # type: ignore[method-assign,assignment]
        world.sdk.v1.invoices.update(
            draft, {"automatically_finalizes_at": int((APRIL + timedelta(hours=5)).timestamp())}
        )
        world.forget_calls()
        assert [one.outcome for one in world.true_up(gateway).outcomes] == [Outcome.FAILED]
        assert findings(world) == [FindingKind.READ_BACK_DIFFERS]
        assert not [one for one in world.writes() if one == f"POST /v1/invoices/{draft}"]
        world.advance_to(APRIL + timedelta(minutes=20))
        assert outcomes(world) == [Outcome.RIGHT]
        assert sum(world.ours(draft).values()) == 755 + FEES
        assert findings(world) == []

    def test_r17_reads_every_line(self, database: Database, tmp_path: Path) -> None:
        accounts = {"many": ("grouped", "USD", "")}
        with stripe_world(database, tmp_path, accounts=accounts) as world:
            world.link("many")
            for client in range(30):
                world.books.use("many", "2026-03-03", 100 + client, client=f"c{client}")
            world.books.book_month(3)
            world.renew(APRIL)
            world.complete(3)
            draft = draft_of(world, "many")
            others = [{"amount": 7, "description": "by hand"}] * 70
            for _ in range(3):
                world.sdk.v1.invoices.add_lines(draft, {"lines": others})  # type: ignore[typeddict-item]
            assert outcomes(world) == [Outcome.RIGHT]
            assert len(world.ours(draft)) == 30
            world.books.use("many", "2026-03-04", 1, client="c29")
            world.books.book_month(3)
            with database.transaction() as connection:
                connection.execute("update stripe.trueup_queue set state = 'waiting', done_at = null")
            world.forget_calls()
            assert outcomes(world) == [Outcome.RIGHT]
            assert len(world.ours(draft)) == 30
            assert [one.split("/")[-1] for one in world.writes()] == ["update_lines"]


class TestAnInvoiceThatIsFinal:
    def test_r8_r20_is_recorded_and_the_rest_comes_on_the_next_one(self, world: StripeWorld) -> None:
        draft = draft_of(world)
        world.complete(3)
        world.advance_to(APRIL + timedelta(hours=2))
        world.forget_calls()
        assert outcomes(world) == [Outcome.FINAL]
        assert world.writes() == []
        assert findings(world) == [FindingKind.FINAL_BEFORE_TRUE_UP]
        assert world.books.newest("acme", month(3)).state is InvoiceState.FINAL
        assert world.books.newest("acme", month(3)).total == Money(700 + FEES, "USD")
        for _ in range(2):
            world.sync(verify=True)
            (correction,) = (one for one in world.pending("acme") if one.metadata["bp_kind"] == "correction")
            assert correction.amount == 55
            assert correction.metadata["bp_adjusts"] == draft
            assert (correction.period.start, correction.period.end) == (
                int(month(3).start.timestamp()),
                int(month(3).end.timestamp()) - 1,
            )
        assert status_of(world, draft) == ("paid", 700 + FEES)
        assert outcomes(world) == []

    def test_r8_late_usage_is_charged_by_the_next_invoice_once(self, world: StripeWorld) -> None:
        draft = draft_of(world)
        world.complete(3)
        assert outcomes(world) == [Outcome.RIGHT]
        world.advance_to(APRIL + timedelta(hours=2))
        world.mirror()
        outcomes(world)
        world.use("acme", "2026-03-31", 155)
        for _ in range(3):
            world.sync(verify=True)
        assert status_of(world, draft) == ("paid", 755 + FEES)
        assert [one.amount for one in world.pending("acme") if one.metadata["bp_kind"] == "correction"] == [100]


class TestAnInvoiceOfNothing:
    def test_is_recorded_and_late_usage_comes_on_the_next_one(self, database: Database, tmp_path: Path) -> None:
        with stripe_world(database, tmp_path, accounts={"acme": ("requests", "USD", "")}) as world:
            world.link("acme")
            world.sync()
            world.renew(APRIL)
            world.complete(3)
            assert outcomes(world) == [Outcome.RIGHT]
            world.advance_to(APRIL + timedelta(hours=2))
            world.mirror()
            world.sync()
            world.use("acme", "2026-03-31", 55)
            for _ in range(2):
                world.sync(verify=True)
            assert [(one.amount, one.metadata["bp_kind"]) for one in world.pending("acme")] == [(55, "correction")]


class TestAnInvoiceThatNobodySawBefore:
    """In mid-period somebody invoices the pending items; then the renewal is final before anybody has looked."""

    @pytest.fixture
    def world(self, database: Database, tmp_path: Path) -> Iterator[StripeWorld]:
        with stripe_world(database, tmp_path, accounts=ACME) as made:
            made.link("acme")
            made.use("acme", "2026-03-03", 700)
            made.sync()
            yield made

    def taken(self, world: StripeWorld) -> str:
        made = world.sdk.v1.invoices.create(
            {
                "customer": world.customers["acme"],
                "subscription": world.subscriptions["acme"],
                "pending_invoice_items_behavior": "include",
                "auto_advance": False,
            }
        )
        return made.id or ""

    def missed(self, world: StripeWorld) -> None:
        world.renew(APRIL)
        world.advance_to(APRIL + timedelta(hours=2))
        world.mirror()
        world.use("acme", "2026-03-31", 55)
        world.complete(3)

    def test_is_charged_by_it_and_not_once_more(self, world: StripeWorld) -> None:
        world.sdk.v1.invoices.finalize_invoice(self.taken(world))
        self.missed(world)
        assert outcomes(world) == [Outcome.FINAL]
        for _ in range(2):
            world.sync(verify=True)
        assert [one.amount for one in world.pending("acme")] == [55]
        assert world.charged("acme") == 755 + FEES

    def test_is_not_charged_once_more_by_items_of_two_issues(self, world: StripeWorld) -> None:
        draft = self.taken(world)
        world.use("acme", "2026-03-04", 30)
        world.sync()
        world.sdk.v1.invoices.finalize_invoice(draft)
        self.missed(world)
        assert outcomes(world) == [Outcome.FINAL]
        for _ in range(2):
            world.sync(verify=True)
        assert world.charged("acme") == 785 + FEES
        assert world.books.disagreements() == ()

    @pytest.mark.timeout(60)
    @pytest.mark.parametrize("first", ["sync", "true-up"])
    def test_is_not_charged_once_more_by_a_renewal_that_took_items_of_the_next_period(
        self, world: StripeWorld, first: str
    ) -> None:
        world.advance_to(APRIL - timedelta(seconds=30))
        world.books.use("acme", "2026-04-01", 8)
        world.books.book_month(4)
        world.sync()
        self.missed(world)
        if first == "sync":
            world.sync(verify=True)
        world.true_up()
        for _ in range(2):
            world.sync(verify=True)
        assert world.charged("acme") == world.books.receivable("acme").minor_units
        assert world.books.disagreements() == ()

    def test_leaves_no_item_of_its_period_for_another_invoice_to_charge(
        self, database: Database, tmp_path: Path
    ) -> None:
        with stripe_world(database, tmp_path, accounts=ACME) as late:
            late.link("acme")
            late.advance_to(APRIL + timedelta(minutes=50))
            late.use("acme", "2026-03-31", 55)
            late.demand("acme")
            assert len(late.pending("acme")) == 4
            late.mirror()
            late.advance_to(APRIL + timedelta(hours=2))
            late.mirror()
            late.complete(3)
            assert outcomes(late) == [Outcome.FINAL]
            assert late.pending("acme") == []
            for _ in range(2):
                late.sync(verify=True)
            assert late.charged("acme") == 55 + FEES
            assert late.books.disagreements() == ()

    def test_is_waited_for_while_it_is_a_draft(self, world: StripeWorld) -> None:
        draft = self.taken(world)
        self.missed(world)
        assert outcomes(world) == [Outcome.FAILED]
        assert findings(world) == [FindingKind.FINAL_BEFORE_TRUE_UP]
        world.sync(verify=True)
        assert world.charged("acme") == 700 + FEES
        world.sdk.v1.invoices.finalize_invoice(draft)
        assert outcomes(world) == [Outcome.FINAL]
        world.sync(verify=True)
        assert world.charged("acme") == 755 + FEES


class TestKilled:
    @pytest.mark.parametrize(
        "step", ["setting_planned", "planned", "sent", "called", "answered", "confirmed", "right", "recorded"]
    )
    def test_at_every_step_and_run_again_is_right(self, world: StripeWorld, step: str) -> None:
        draft = draft_of(world)
        world.complete(3)
        self.killed_at(world, step)
        world.sim.remote.clear_faults()
        assert outcomes(world) in ([Outcome.RIGHT], [])
        assert sum(world.ours(draft).values()) == 755 + FEES
        assert not [state for _, _, state in world.intents() if state in ("planned", "sent", "answered")]

    def killed_at(self, world: StripeWorld, step: str) -> None:
        def reached(name: str) -> None:
            if name == step:
                raise Killed

        world.reached = reached
        with suppress(Killed):
            world.true_up()
        world.reached = lambda _: None

    def test_is_finalized_by_stripe_with_the_last_daily_figures(self, world: StripeWorld) -> None:
        draft = draft_of(world)
        world.complete(3)
        self.killed_at(world, "planned")
        world.advance_to(APRIL + timedelta(hours=1))
        assert status_of(world, draft) == ("paid", 700 + FEES)
        world.mirror()
        assert outcomes(world) == [Outcome.FINAL]
        world.sync()
        assert [one.amount for one in world.pending("acme") if one.metadata["bp_kind"] == "correction"] == [55]


class TestManyDrafts:
    def test_are_one_run_with_few_calls_each(self, database: Database, tmp_path: Path) -> None:
        accounts = {f"a{number:02}": ("fees_and_requests", "USD", "") for number in range(12)}
        with stripe_world(database, tmp_path, accounts=accounts) as world:
            world.link(*accounts)
            for account in accounts:
                world.books.use(account, "2026-03-03", 700)
            world.books.book_month(3)
            world.sync()
            world.renew(APRIL)
            for account in accounts:
                world.books.use(account, "2026-03-31", 5)
            world.complete(3)
            world.forget_calls()
            report = world.true_up()
            assert len(report.of(Outcome.RIGHT)) == 12
            assert len(world.writes()) == 12
            # The list of drafts, the list of items, and for each draft one write and one read of its lines.
            assert len(world.attempts) <= 2 + 2 * 12
            assert all(world.charged(account) == 705 + FEES for account in accounts)

    def test_are_held_first_when_there_are_more_than_an_hour_is_enough_for(
        self, database: Database, tmp_path: Path
    ) -> None:
        accounts = {f"a{number}": ("fees_and_requests", "USD", "") for number in range(4)}
        with stripe_world(database, tmp_path, accounts=accounts) as world:
            world.link(*accounts)
            world.books.book_month(3)
            world.renew(APRIL)
            world.complete(3)
            world.forget_calls()
            report = world.true_up(safe_time=timedelta(seconds=0))
            assert len(report.of(Outcome.RIGHT)) == 4
            held = [one for one in world.attempts if one.call.operation == "invoices.update"]
            assert held == []
            world.advance_to(APRIL + timedelta(minutes=59, seconds=59))
            with database.transaction() as connection:
                connection.execute("update stripe.trueup_queue set state = 'waiting', done_at = null")
            world.true_up(safe_time=timedelta(seconds=0.0001))
            drafts = [world.invoices_at_stripe(account)[-1] for account in accounts]
            assert all((one.automatically_finalizes_at or 0) >= int(APRIL.timestamp()) + 3600 for one in drafts)


class TestAnOutage:
    def test_leaves_drafts_for_the_next_run(self, world: StripeWorld) -> None:
        draft = draft_of(world)
        world.complete(3)
        world.sim.remote.fault("unavailable", until=APRIL + timedelta(minutes=30))
        report = world.true_up()
        assert report.problem is not None
        assert report.left_over == (draft,)
        world.advance_to(APRIL + timedelta(minutes=31))
        world.patience.sleep(100)
        assert outcomes(world) == [Outcome.RIGHT]
        assert sum(world.ours(draft).values()) == 755 + FEES
