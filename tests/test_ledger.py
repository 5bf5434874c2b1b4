"""Balanced postings of charge revisions."""

from datetime import UTC, datetime
from decimal import Decimal

from billing_pipeline.amounts import Money
from billing_pipeline.charges import Charge, ChargeKey, ChargeRevision, nothing_rated
from billing_pipeline.ledger import postings
from billing_pipeline.periods import Window
from billing_pipeline.rating import Rated

KEY = ChargeKey(
    subscription_id="s",
    price_id="requests",
    period=Window(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)),
)


def revision(delta_minor: int, *, number: int = 1, rated: Rated | None = None) -> ChargeRevision:
    charge = Charge(
        key=KEY, account_id="acme", plan_id="p", meter_id="m", currency="KWD", rated=rated or nothing_rated("unit")
    )
    return ChargeRevision(charge_id=KEY.charge_id, revision=number, charge=charge, delta=Money(delta_minor, "KWD"))


class TestPostings:
    def test_debit_the_account_and_credit_the_price(self) -> None:
        sides = [(posting.ledger_account, posting.amount) for posting in postings(revision(450))]
        assert sides == [("receivable:acme", Money(450, "KWD")), ("revenue:requests", Money(-450, "KWD"))]

    def test_turn_round_for_a_reversal(self) -> None:
        assert [posting.amount.minor_units for posting in postings(revision(-450))] == [-450, 450]

    def test_are_none_for_a_revision_that_adds_nothing(self) -> None:
        assert postings(revision(0)) == ()

    def test_share_a_transaction_that_is_a_function_of_the_content(self) -> None:
        one, other = postings(revision(450))
        assert one.transaction_id == other.transaction_id
        assert (one.posting_number, other.posting_number) == (1, 2)
        same = postings(revision(450, rated=Rated(lines=(), quantity=Decimal(3), unit="u", exact=Decimal(0))))
        assert same[0].transaction_id == one.transaction_id
        ids = {postings(revision(delta, number=number))[0].transaction_id for delta in (1, 2) for number in (1, 2)}
        assert len(ids) == 4
