"""Running totals on Stripe's meters against the stand-in, over real sockets: rows 30 to 33 of the contract, and the DH rows."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from billing_pipeline.invoicing.states import InvoiceState
from billing_pipeline.stripe_sync.policy import MeterRoute
from resources.database import Database
from resources.stripe_mirror.apply import EventApplier
from resources.stripe_mirror.feed import V2, EventFeed
from resources.stripe_mirror.gateway_reads import GatewayReads
from resources.stripe_mirror.settle import Settler
from resources.stripe_sim.meter_usage import billed_quantity
from resources.stripe_sync import intent_store, sync_store
from resources.stripe_sync.policy_file import StripePolicyError, load_sync_policy
from resources.stripe_sync.sync_store import FindingKind, SyncState
from resources.stripe_sync.true_up import Outcome
from tests.invoicing_world import at, month
from tests.stripe_fixtures import subscribe
from tests.stripe_world import StripeWorld, stripe_world

APRIL = at("2026-04-01T00:00")
END = int(APRIL.timestamp())
EVENTS = "POST /v1/billing/meter_events$"


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def world(database: Database, tmp_path: Path) -> Iterator[StripeWorld]:
    """Return an installation whose customer pays 10.99 by item, and requests by a meter at 1 cent each."""
    with stripe_world(database, tmp_path, accounts={"beta": ("metered", "USD", "")}) as made:
        link(made)
        yield made


def link(world: StripeWorld, formula: str = "last") -> None:
    meter = world.sdk.v1.billing.meters.create(
        {"display_name": "Requests", "event_name": "requests", "default_aggregation": {"formula": formula}}  # type: ignore[typeddict-item]
    )
    price = world.sdk.v1.prices.create(
        {
            "currency": "usd",
            "unit_amount": 1,
            "recurring": {"interval": "month", "usage_type": "metered", "meter": meter.id},
            "product_data": {"name": "Requests"},
        }
    )
    customer = world.sdk.v1.customers.create({"metadata": {"bp_account": "beta"}}).id
    world.customers["beta"] = customer
    world.subscriptions["beta"] = subscribe(world.sdk, customer, price.id, metadata={"bp_subscription": "s_beta"}).id
    route = MeterRoute(price_id="by_meter", event_name="requests")
    world.policy = replace(world.policy, meters={"by_meter": route})
    world.mirror()


def events(world: StripeWorld) -> list[tuple[int, int]]:
    """Return (timestamp, value) of the events that Stripe has, in the order they came."""
    found = world.sim.application.world.meter_events.values()
    return [(one.timestamp, int(one.value)) for some in found for one in some]


def counted(world: StripeWorld) -> int:
    """Return what Stripe counts of March."""
    sim = world.sim.application.world
    (meter,) = sim.table("billing.meter").find(event_name="requests")
    start, end = int(month(3).start.timestamp()), END
    return int(billed_quantity(sim, meter["id"], world.customers["beta"], start, end))


def kinds(world: StripeWorld) -> list[FindingKind]:
    with world.database.reading() as connection:
        return [one.kind for one in sync_store.open_findings(connection)]


class TestTotals:
    def test_dh11_of_three_runs_in_a_day_are_one_total(self, world: StripeWorld) -> None:
        world.advance_to(at("2026-03-03T08:00"))
        for hours, quantity in enumerate((30, 60, 94)):
            world.use("beta", "2026-03-03", quantity)
            world.advance_to(at("2026-03-03T08:00") + timedelta(hours=hours))
            world.sync()
            world.sync()
        assert [value for _, value in events(world)] == [30, 60, 94]
        world.advance_to(at("2026-03-03T20:00"))
        assert counted(world) == 94
        assert [one.amount for one in world.pending("beta")] == [1099]

    def test_of_usage_that_is_withdrawn_are_0_again(self, world: StripeWorld) -> None:
        for quantity in (94, 0, 0):
            world.use("beta", "2026-03-01", quantity)
            world.advance_to(world.now + timedelta(minutes=1))
            assert world.sync().failed == ()
        assert [value for _, value in events(world)] == [94, 0]
        world.renew(APRIL)
        world.complete(3)
        world.true_up()
        world.advance_to(APRIL + timedelta(hours=2))
        assert world.invoices_at_stripe("beta")[-1].total == 1099

    def test_of_a_period_of_which_nothing_is_left_keep_the_draft_for_somebody_to_look(
        self, database: Database, tmp_path: Path
    ) -> None:
        with stripe_world(database, tmp_path, accounts={"beta": ("metered_alone", "USD", "")}) as world:
            link(world)
            world.use("beta", "2026-03-01", 94)
            world.sync()
            world.use("beta", "2026-03-01", 0)
            world.sync()
            world.renew(APRIL)
            world.complete(3)
            (outcome,) = world.true_up().outcomes
            assert outcome.outcome is Outcome.WAITING
            assert "was told 94" in (outcome.problem or "")
            assert kinds(world) == [FindingKind.PERIOD_INCOMPLETE]

    def test_are_confirmed_by_a_summary_and_then_cost_no_call(self, world: StripeWorld) -> None:
        world.use("beta", "2026-03-01", 94)
        world.sync()
        assert world.rows("select state from stripe.sync_meter") == [("sent",)]
        world.advance_to(world.now + timedelta(minutes=2))
        world.sync()
        assert world.rows("select state from stripe.sync_meter") == [("confirmed",)]
        world.forget_calls()
        world.sync()
        assert world.attempts == []

    def test_that_no_summary_shows_in_time_are_told_of_and_not_sent_again(self, world: StripeWorld) -> None:
        world.sim.remote.rules(meter_lag_seconds=7 * 3600)
        world.use("beta", "2026-03-01", 94)
        world.sync()
        world.advance_to(world.now + timedelta(hours=2))
        (failed,) = world.sync().failed
        assert failed.problem is not None
        assert "was told 94" in failed.problem
        assert kinds(world).count(FindingKind.METER_UNCONFIRMED) == 1
        world.advance_to(world.now + timedelta(hours=6))
        assert world.sync().failed == ()
        assert kinds(world) == []
        assert [value for _, value in events(world)] == [94]

    def test_r30_of_16_digits_are_refused_here(self, world: StripeWorld) -> None:
        world.use("beta", "2026-03-01", 10**15)
        world.forget_calls()
        (failed,) = world.sync().failed
        assert failed.problem is not None
        assert "15 digits" in failed.problem
        assert not [one for one in world.writes() if "meter_events" in one]

    def test_r41_are_printed_by_a_dry_run_and_not_sent(self, world: StripeWorld) -> None:
        world.use("beta", "2026-03-01", 94)
        world.books.compile()
        ((_, writes),) = world.syncing(world.gateway(read_only=True)).preview(["beta"])
        assert not isinstance(writes, str)
        assert [one.call.path for one in writes] == ["/v1/invoiceitems", "/v1/billing/meter_events"]
        assert events(world) == []
        assert world.rows("select * from stripe.sync_meter") == []

    def test_are_in_the_units_of_the_meter(self, world: StripeWorld) -> None:
        route = MeterRoute(price_id="by_meter", event_name="requests", multiply=Decimal(1000))
        world.policy = replace(world.policy, meters={"by_meter": route})
        world.use("beta", "2026-03-01", 94)
        world.sync()
        assert [value for _, value in events(world)] == [94_000]


class TestTrueUp:
    @pytest.mark.parametrize("order", ["timestamp", "receipt"])
    def test_dh13_r32_beats_every_daily_event_and_is_billed(self, world: StripeWorld, order: str) -> None:
        world.sim.remote.rules(meter_last_order=order)
        for day in (1, 15, 31):
            world.advance_to(at(f"2026-03-{day:02}T23:59"))
            world.use("beta", f"2026-03-{day:02}", 10)
            world.sync()
        world.renew(APRIL)
        world.use("beta", "2026-03-31", 74)
        world.complete(3)
        assert [one.outcome for one in world.true_up().outcomes] == [Outcome.WAITING]
        assert events(world)[-1] == (END - 60, 94)
        world.advance_to(APRIL + timedelta(minutes=11))
        assert [one.outcome for one in world.true_up().outcomes] == [Outcome.RIGHT]
        world.advance_to(APRIL + timedelta(hours=2))
        paid = world.invoices_at_stripe("beta")[-1]
        assert (paid.status, paid.total) == ("paid", 1099 + 94)

    @pytest.mark.parametrize("order", ["timestamp", "receipt"])
    def test_r32_again_beats_the_first(self, world: StripeWorld, order: str) -> None:
        world.sim.remote.rules(meter_last_order=order)
        world.renew(APRIL)
        for minutes, quantity in enumerate((50, 60, 55)):
            world.advance_to(APRIL + timedelta(minutes=11 * minutes))
            world.use("beta", "2026-03-31", quantity)
            world.complete(3)
            world.true_up()
        assert events(world) == [(END - 60, 50), (END - 59, 60), (END - 58, 55)]
        world.advance_to(world.now + timedelta(minutes=5))
        assert counted(world) == 55

    def test_r31_too_late_for_the_meter_is_a_finding_and_no_event(self, world: StripeWorld) -> None:
        world.renew(APRIL)
        draft = world.invoices_at_stripe("beta", status="draft")[0].id or ""
        world.sdk.v1.invoices.update(draft, {"automatically_finalizes_at": int(at("2026-06-01T00:00").timestamp())})
        world.advance_to(APRIL + timedelta(days=36))
        world.use("beta", "2026-03-31", 94)
        world.complete(3)
        world.true_up()
        assert events(world) == []
        assert FindingKind.METER_REFUSED in kinds(world)


class TestAnInvoiceThatWasFinalTooEarly:
    def test_charged_what_it_counted_and_the_rest_comes_on_the_next_one(self, world: StripeWorld) -> None:
        world.advance_to(at("2026-03-31T20:00"))
        world.use("beta", "2026-03-31", 60)
        world.sync()
        world.renew(APRIL)
        world.advance_to(APRIL + timedelta(hours=2))
        paid = world.invoices_at_stripe("beta")[-1]
        assert (paid.status, paid.total) == ("paid", 1099 + 60)
        world.use("beta", "2026-03-31", 94)
        world.complete(3)
        world.mirror()
        assert [one.outcome for one in world.true_up().outcomes] == [Outcome.FINAL]
        for _ in range(2):
            world.sync(verify=True)
        assert [(one.amount, one.metadata["bp_kind"]) for one in world.pending("beta")] == [(34, "correction")]
        assert counted(world) == 60

    def test_charged_what_was_withdrawn_since_and_the_next_one_gives_it_back(self, world: StripeWorld) -> None:
        world.advance_to(at("2026-03-31T20:00"))
        world.use("beta", "2026-03-31", 60)
        world.sync()
        world.renew(APRIL)
        world.advance_to(APRIL + timedelta(hours=2))
        world.use("beta", "2026-03-31", 0)
        world.complete(3)
        world.mirror()
        world.true_up()
        world.books.book_month(4)
        for _ in range(2):
            world.sync(verify=True)
        assert [one.amount for one in world.pending("beta")] == [-60, 1099]
        assert world.books.disagreements() == ()

    def test_is_recorded_though_it_has_no_line_of_ours(self, database: Database, tmp_path: Path) -> None:
        with stripe_world(database, tmp_path, accounts={"beta": ("metered_alone", "USD", "")}) as world:
            link(world)
            world.advance_to(at("2026-03-31T20:00"))
            world.use("beta", "2026-03-31", 60)
            world.sync()
            world.renew(APRIL)
            world.complete(3)
            assert [one.outcome for one in world.true_up().outcomes] == [Outcome.RIGHT]
            world.advance_to(APRIL + timedelta(hours=2))
            world.mirror()
            world.sync()
            assert world.books.newest("beta", month(3)).state is InvoiceState.FINAL
            world.use("beta", "2026-03-31", 94)
            for _ in range(2):
                world.sync(verify=True)
            assert [one.amount for one in world.pending("beta")] == [34]
            assert [value for _, value in events(world)] == [60]

    def test_that_has_no_line_of_the_meter_is_told_of_and_charged_by_nobody(
        self, database: Database, tmp_path: Path
    ) -> None:
        with stripe_world(database, tmp_path, accounts={"beta": ("metered", "USD", "")}) as world:
            world.sdk.v1.billing.meters.create(
                {"display_name": "Requests", "event_name": "requests", "default_aggregation": {"formula": "last"}}
            )
            world.link("beta")
            route = MeterRoute(price_id="by_meter", event_name="requests")
            world.policy = replace(world.policy, meters={"by_meter": route})
            world.use("beta", "2026-03-01", 60)
            world.sync()
            world.renew(APRIL)
            world.complete(3)
            world.true_up()
            world.advance_to(APRIL + timedelta(hours=2))
            world.mirror()
            world.sync(verify=True)
            with world.database.reading() as connection:
                (finding,) = sync_store.open_findings(connection)
            assert finding.kind is FindingKind.METER_UNCONFIRMED
            assert "has no line of meter requests" in finding.message
            assert world.pending("beta") == []


class TestLostAnswers:
    @pytest.mark.parametrize("order", ["timestamp", "receipt"])
    @pytest.mark.parametrize("repeated", ["refused", "ignored"])
    @pytest.mark.parametrize("fault", ["drop_after", "drop_before", "error_before"])
    def test_leave_the_last_total(self, world: StripeWorld, order: str, repeated: str, fault: str) -> None:
        world.sim.remote.rules(meter_last_order=order, meter_repeated_identifier=repeated)
        for hours, quantity in ((1, 30), (30, 60), (31, 94)):
            world.advance_to(at("2026-03-03T00:00") + timedelta(hours=hours))
            world.use("beta", "2026-03-03", quantity)
            world.sim.remote.fault(fault, EVENTS, times=1)
            world.sync()
            world.sync()
        world.advance_to(world.now + timedelta(hours=1))
        world.sync()
        assert counted(world) == 94
        stamps = [at for at, _ in events(world)]
        assert stamps == sorted(set(stamps))

    @pytest.mark.parametrize("step", ["meter_planned", "planned", "sent", "called", "answered", "recorded"])
    @pytest.mark.parametrize("hours", [0, 25])
    def test_of_a_process_that_is_killed_leave_the_last_total(self, world: StripeWorld, step: str, hours: int) -> None:
        world.use("beta", "2026-03-01", 0)
        world.sync()
        world.advance_to(at("2026-03-03T00:00"))
        world.use("beta", "2026-03-03", 30)

        def reached(name: str) -> None:
            if name == step:
                raise Killed

        world.reached = reached
        with suppress(Killed):
            world.sync()
        world.reached = lambda _: None
        world.advance_to(world.now + timedelta(hours=hours, seconds=1))
        world.use("beta", "2026-03-04", 64)
        world.sync()
        world.advance_to(world.now + timedelta(hours=1))
        world.sync()
        assert counted(world) == 94
        assert world.rows("select state, value from stripe.sync_meter") == [("confirmed", 94)]
        assert not [state for _, _, state in world.intents() if state in ("planned", "sent", "answered")]


class TestMetersThatDoNotFit:
    def test_of_another_formula_are_refused(self, database: Database, tmp_path: Path) -> None:
        with stripe_world(database, tmp_path, accounts={"beta": ("metered", "USD", "")}) as world:
            link(world, "sum")
            world.use("beta", "2026-03-01", 94)
            (failed,) = world.sync().failed
            assert failed.problem is not None
            assert "formula 'last'" in failed.problem
            assert events(world) == []
            assert FindingKind.METER_REFUSED in kinds(world)

    def test_that_nobody_configured_are_a_finding(self, world: StripeWorld) -> None:
        world.policy = replace(world.policy, meters={})
        world.use("beta", "2026-03-01", 94)
        (failed,) = world.sync().failed
        assert failed.problem is not None
        assert "[[meter]]" not in failed.problem
        assert "stripe.toml names none" in failed.problem

    def test_dh18_usage_records_are_refused_in_the_configuration(self, tmp_path: Path) -> None:
        text = '[[meter]]\nprice = "by_meter"\nevent_name = "requests"\n'
        (tmp_path / "stripe.toml").write_text(text + 'api = "usage_records"\n')
        with pytest.raises(StripePolicyError, match="removed usage records"):
            load_sync_policy(tmp_path)
        (tmp_path / "stripe.toml").write_text(text + 'multiply = "1000"\n')
        assert load_sync_policy(tmp_path).meters["by_meter"].multiply == 1000
        (tmp_path / "stripe.toml").write_text(text + text)
        with pytest.raises(StripePolicyError, match="one block"):
            load_sync_policy(tmp_path)

    def test_of_which_stripe_refuses_an_event_wait_for_a_person(self, world: StripeWorld) -> None:
        (meter,) = world.sim.application.world.table("billing.meter").find(event_name="requests")
        meter["value_settings"] = {"event_payload_key": "value"}
        meter["customer_mapping"] = {"event_payload_key": "stripe_customer_id", "type": "by_id"}
        world.sim.remote.rules(meter_most_digits=1)
        world.use("beta", "2026-03-01", 94)
        for _ in range(3):
            assert [one.state for one in world.sync().outcomes] == [SyncState.FAILED]
        assert len([one for one in world.writes() if "meter_events" in one]) == 1
        with world.database.reading() as connection:
            (letter,) = intent_store.dead_letters(connection)
        assert letter.code == "meter_event_value_too_many_digits"
        world.sim.remote.rules(meter_most_digits=15)
        intent_store.retry(world.database, letter.intent_id, actor="kim", reason="corrected", now=world.now)
        world.sync()
        assert [value for _, value in events(world)] == [94]


class TestReports:
    def test_r33_of_events_that_were_not_counted_name_customer_and_code(self, world: StripeWorld) -> None:
        world.use("beta", "2026-03-01", 94)
        world.sdk.v1.customers.delete(world.customers["beta"])
        world.sync()
        world.advance_to(world.now + timedelta(hours=2))
        reads = GatewayReads(world.gateway(read_only=True))
        EventFeed(database=world.database, reads=reads, clock=world.clock).poll(V2, may_go_on=lambda: True)
        settler = Settler(database=world.database, clock=world.clock)
        EventApplier(database=world.database, reads=reads, clock=world.clock, settler=settler).apply_open(run_id="run")
        world.sync()
        world.sync()
        with world.database.reading() as connection:
            (finding,) = (one for one in sync_store.open_findings(connection) if one.kind is FindingKind.METER_ERROR)
        assert "meter_event_customer_not_found" in finding.message
        assert world.customers["beta"] in finding.message
        assert finding.account_id == "beta"

    def test_are_closed_once_stripe_counts_all_totals_of_the_account(self, world: StripeWorld) -> None:
        with world.database.transaction() as connection:
            for account in ("beta", "acme"):
                sync_store.open_finding(
                    connection,
                    FindingKind.METER_ERROR,
                    f"evt_{account}",
                    "not counted",
                    account_id=account,
                    now=world.now,
                )
        world.use("beta", "2026-03-01", 94)
        world.sync()
        world.advance_to(world.now + timedelta(hours=2))
        world.sync()
        with world.database.reading() as connection:
            left = [
                one.account_id for one in sync_store.open_findings(connection) if one.kind is FindingKind.METER_ERROR
            ]
        assert left == ["acme"]
