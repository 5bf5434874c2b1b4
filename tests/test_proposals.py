"""Changes of final periods: what books itself, what waits for a person, and what a decision does."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID, uuid5

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assets.proposals import decide_proposal
from billing_pipeline.amounts import Money
from billing_pipeline.checks import VerdictStatus
from billing_pipeline.invoicing.policy import InvoicingPolicy, Threshold
from billing_pipeline.invoicing.proposals import ChargeChange, PeriodChange, waits
from resources.alerting.conditions import ConditionReader
from resources.alerting.notice import IncidentKind
from resources.charge_store import ChargeStore, DayBooking
from resources.database import Database
from resources.invoicing.proposal_desk import ProposalDesk
from resources.invoicing.proposal_store import ProposalStore, ProposalUnknownError
from tests.invoicing_world import InvoicingWorld, month

JANUARY, FEBRUARY = month(1), month(2)
THRESHOLD = Threshold(absolute=Decimal(500), relative=Decimal("0.25"), at_least=Decimal(10))
NOW = datetime(2026, 2, 10, tzinfo=UTC)


def change(*charges: tuple[int, int]) -> PeriodChange:
    """Return a change of a period whose charges go from the first to the second amount, in cents."""
    return PeriodChange(
        account_id="acme",
        subscription_id="s_acme",
        period=JANUARY,
        booked=Money(sum(before for before, _ in charges), "USD"),
        charges=tuple(
            ChargeChange(
                charge_id=uuid5(UUID(int=0), str(number)),
                rating_digest=str(after),
                booked=Money(before, "USD"),
                proposed=Money(after, "USD"),
            )
            for number, (before, after) in enumerate(charges)
        ),
    )


class TestWaits:
    @pytest.mark.parametrize(
        ("charges", "waiting"),
        [
            ([(40000, 50000)], False),
            ([(40000, 50001)], True),
            ([(40000, 29999)], True),
            ([(4000, 4900)], False),
            ([(4000, 5100)], True),
            ([(0, 999)], False),
            ([(0, 1000)], True),
            ([(10_000_000, 10_050_000)], False),
            ([(10_000_000, 10_050_001)], True),
            # what moves between two charges is a change, though the sum is the same
            ([(10_000_000, 10_030_000), (10_000_000, 9_970_000)], True),
            ([(5000, 5000)], False),
        ],
    )
    def test_above_the_absolute_or_the_relative_threshold(self, charges: list[tuple[int, int]], waiting: bool) -> None:
        assert waits(change(*charges), THRESHOLD) is waiting

    def test_never_without_a_threshold(self) -> None:
        assert not waits(change((1, 10**12)), None)

    @given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**7)), min_size=1, max_size=4))
    def test_a_proposal_is_the_same_for_the_same_rating_in_any_order(self, charges: list[tuple[int, int]]) -> None:
        one = change(*charges)
        other = PeriodChange(
            account_id=one.account_id,
            subscription_id=one.subscription_id,
            period=one.period,
            booked=one.booked,
            charges=tuple(reversed(one.charges)),
        )
        assert one.proposal_id == other.proposal_id
        assert one.proposed - one.booked == Money(sum(after - before for before, after in charges), "USD")
        assert change(*charges, (0, 1)).proposal_id != one.proposal_id


@pytest.fixture
def world(database: Database, tmp_path: Path) -> InvoicingWorld:
    """Return an installation with a threshold, and acme's January final at 39.97 + 100.00."""
    made = InvoicingWorld(database, tmp_path / "catalog", InvoicingPolicy(thresholds={"USD": THRESHOLD}))
    made.load()
    made.use("acme", "2026-01-03", 10_000)
    for number in (1, 2):
        made.book_month(number)
    made.finalize("acme", JANUARY)
    return made


def book(world: InvoicingWorld) -> DayBooking:
    store = ChargeStore(world.database, world.policy.thresholds)
    (booking,) = store.book_days([JANUARY.start.date()], run_id="run", code_version="test")
    return booking


def due(world: InvoicingWorld) -> tuple[object, ...]:
    return ChargeStore(world.database, world.policy.thresholds).unbooked_days()


class TestBooking:
    def test_books_a_small_change_of_a_final_period_by_itself(self, world: InvoicingWorld) -> None:
        world.use("acme", "2026-01-04", 900)
        assert book(world).delta_by_currency == {"USD": 900}
        assert ProposalStore(world.database).waiting() == ()

    def test_keeps_a_big_one_as_a_proposal_and_books_the_others(self, world: InvoicingWorld) -> None:
        world.use("acme", "2026-01-04", 60_000)
        world.use("beta", "2026-01-04", 60_000)
        booking = book(world)
        # beta's January is open: it books itself
        assert booking.delta_by_currency == {"USD": 60_000}
        assert booking.held == ()
        (verdict,) = (one for one in booking.verdicts if one.guard == "changes_are_decided")
        assert (verdict.status, verdict.actual) == (VerdictStatus.WARNED, "1 charges")
        (proposal,) = ProposalStore(world.database).waiting()
        assert (str(proposal.booked), str(proposal.proposed), str(proposal.size)) == (
            "100.00 USD",
            "700.00 USD",
            "600.00 USD",
        )
        assert (proposal.account_id, proposal.period, proposal.charges) == ("acme", JANUARY, 1)
        world.compile()
        assert str(world.newest("acme", FEBRUARY).total) == "39.97 USD"

    def test_again_keeps_one_proposal_and_another_rating_replaces_it(self, world: InvoicingWorld) -> None:
        world.use("acme", "2026-01-04", 60_000)
        book(world)
        (first,) = ProposalStore(world.database).waiting()
        book(world)
        assert ProposalStore(world.database).waiting() == (first,)
        world.use("acme", "2026-01-04", 70_000)
        book(world)
        (second,) = ProposalStore(world.database).waiting()
        assert str(second.proposed) == "800.00 USD"
        assert world.rows("select count(*) from invoicing.proposal") == [(2,)]

    def test_withdraws_a_proposal_when_the_rating_is_what_is_booked(self, world: InvoicingWorld) -> None:
        world.use("acme", "2026-01-04", 60_000)
        book(world)
        world.use("acme", "2026-01-04", 0)
        book(world)
        assert ProposalStore(world.database).waiting() == ()

    def test_never_asks_for_an_open_period(self, world: InvoicingWorld) -> None:
        world.use("acme", "2026-02-04", 600_000)
        world.book_month(2)
        assert ProposalStore(world.database).waiting() == ()
        world.compile()
        assert world.newest("acme", FEBRUARY).total == Money(3997 + 600_000, "USD")


class TestDecisions:
    def test_an_approved_change_is_due_books_once_and_comes_onto_the_next_invoice(self, world: InvoicingWorld) -> None:
        store = ProposalStore(world.database)
        world.use("acme", "2026-01-04", 60_000)
        book(world)
        (proposal,) = store.waiting()
        assert due(world) == ()
        for _ in range(2):
            store.approve(str(proposal.proposal_id)[:8], actor="kim", reason="checked the logs", now=NOW)
        assert due(world) == (JANUARY.start.date(),)
        assert book(world).delta_by_currency == {"USD": 60_000}
        assert due(world) == () == store.waiting()
        assert book(world).delta_by_currency == {}
        world.compile()
        assert world.newest("acme", FEBRUARY).total == Money(3997 + 60_000, "USD")

    def test_are_asked_for_by_an_alert_until_they_are_made(self, world: InvoicingWorld) -> None:
        def told() -> list[str]:
            found = ConditionReader(database=world.database).conditions(now=NOW)[IncidentKind.DECISION_WAITS]
            return [one.message for one in found]

        assert told() == []
        world.use("acme", "2026-01-04", 60_000)
        book(world)
        (message,) = told()
        assert "booked at 10000 USD (minor units) and rates to 70000" in message
        store = ProposalStore(world.database)
        store.approve(str(store.waiting()[0].proposal_id), actor="kim", reason="checked", now=NOW)
        assert told() == []

    def test_an_approval_is_for_the_rating_that_was_looked_at(self, world: InvoicingWorld) -> None:
        store = ProposalStore(world.database)
        world.use("acme", "2026-01-04", 60_000)
        book(world)
        store.approve(str(store.waiting()[0].proposal_id), actor="kim", reason="checked", now=NOW)
        world.use("acme", "2026-01-04", 70_000)
        assert book(world).delta_by_currency == {}
        (proposal,) = store.waiting()
        assert (str(proposal.proposed), proposal.decision) == ("800.00 USD", None)

    def test_a_rejected_change_stays_out_and_asks_no_more(self, world: InvoicingWorld) -> None:
        store = ProposalStore(world.database)
        world.use("acme", "2026-01-04", 60_000)
        book(world)
        store.reject(str(store.waiting()[0].proposal_id), actor="kim", reason="a test client", now=NOW)
        booking = book(world)
        assert booking.delta_by_currency == {}
        assert booking.held == () == store.waiting() == due(world)
        assert {one.status for one in booking.verdicts} == {VerdictStatus.PASSED}

    def test_are_final_and_name_actor_and_reason(self, world: InvoicingWorld) -> None:
        store = ProposalStore(world.database)
        world.use("acme", "2026-01-04", 60_000)
        book(world)
        name = str(store.waiting()[0].proposal_id)
        with pytest.raises(ProposalUnknownError, match="names who decided"):
            store.approve(name, actor="kim", reason=" ", now=NOW)
        with pytest.raises(ProposalUnknownError, match="no proposal 'ffff' waits"):
            store.approve("ffff", actor="kim", reason="checked", now=NOW)
        store.approve(name, actor="kim", reason="checked", now=NOW)
        with pytest.raises(ProposalUnknownError, match="was approved already"):
            store.reject(name, actor="lee", reason="no", now=NOW)


class TestTheJob:
    """The same decisions in the UI: a job whose run configuration names proposal, actor and reason."""

    def decide(self, world: InvoicingWorld, **config: str) -> dg.ExecuteInProcessResult:
        desk = ProposalDesk(
            proposals=ProposalStore(world.database),
            charges=ChargeStore(world.database, world.policy.thresholds),
            invoices=world.invoices,
        )
        by = {"actor": "kim", "reason": "the exporter counted twice"}
        with dg.DagsterInstance.ephemeral() as instance:
            return decide_proposal.execute_in_process(
                run_config={"ops": {"decide": {"config": {**by, **config}}}},
                resources={"proposal_desk": desk},
                instance=instance,
                raise_on_error=False,
            )

    def proposed(self, world: InvoicingWorld) -> str:
        world.use("acme", "2026-01-03", 90_000)
        book(world)
        (waiting,) = ProposalStore(world.database).waiting()
        return str(waiting.proposal_id)[:8]

    def test_approves_by_account_and_period_and_books(self, world: InvoicingWorld) -> None:
        self.proposed(world)
        result = self.decide(world, decision="approve", account="acme", period="2026-01-15")
        assert result.success
        assert ProposalStore(world.database).waiting() == ()
        assert world.lines("acme", FEBRUARY).total == Money(3997 + 80_000, "USD")
        assert world.rows("select decision, actor from invoicing.proposal_decision") == [("approved", "kim")]

    def test_rejects_by_id_and_keeps_what_is_booked(self, world: InvoicingWorld) -> None:
        result = self.decide(world, decision="reject", proposal=self.proposed(world))
        assert result.success
        assert ProposalStore(world.database).waiting() == ()
        world.compile()
        assert world.lines("acme", FEBRUARY).total == Money(3997, "USD")

    @pytest.mark.parametrize(
        ("config", "problem"),
        [
            ({"decision": "aprove", "account": "acme", "period": "2026-01-15"}, "write approve or reject"),
            ({"decision": "approve", "account": "acme"}, "neither a proposal"),
            ({"decision": "approve", "account": "acme", "period": "2025-01-15"}, "0 proposals wait"),
            ({"decision": "approve", "proposal": "0000"}, "no proposal"),
            ({"decision": "approve", "account": "acme", "period": "2026-01-15", "reason": " "}, "and why"),
        ],
    )
    def test_refuses_what_does_not_say_what_is_decided(
        self, world: InvoicingWorld, config: dict[str, str], problem: str
    ) -> None:
        self.proposed(world)
        result = self.decide(world, **config)
        assert not result.success
        assert problem in str(result.failure_data_for_node("decide"))
        assert world.rows("select * from invoicing.proposal_decision") == []
