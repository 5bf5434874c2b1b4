"""Prepaid credits in figures and laws: who pays first, what expires, and that nothing is spent twice."""

from datetime import UTC, datetime, timedelta
from random import Random
from uuid import UUID, uuid5

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing_pipeline.amounts import Money
from billing_pipeline.catalog import RecurringCredit
from billing_pipeline.credits import (
    CREDIT_NAMESPACE,
    CreditGrantInvalidError,
    CreditOverspentError,
    Due,
    Grant,
    Spend,
    balances_at,
    recurring_grants,
    spend,
)
from billing_pipeline.periods import BillingAnchor, Window

NOW = datetime(2026, 3, 31, tzinfo=UTC)
TOMORROW = NOW + timedelta(days=1)


def identity(name: str) -> UUID:
    return uuid5(CREDIT_NAMESPACE, name)


def usd(cents: int) -> Money:
    return Money(cents, "USD")


def grant(
    name: str, cents: int, priority: int, expires_at: datetime | None = None, *, begin: datetime | None = None
) -> Grant:
    return Grant(
        grant_id=identity(name),
        account_id="acme",
        amount=usd(cents),
        priority=priority,
        effective_at=begin or NOW - timedelta(days=300),
        expires_at=expires_at,
    )


def due(name: str, cents: int, at: datetime = NOW, account: str = "acme") -> Due:
    return Due(invoice_id=identity(name), account_id=account, amount=usd(cents), due_at=at)


def spent(found: tuple[Spend, ...]) -> list[tuple[UUID, int]]:
    return [(one.grant_id, one.amount.minor_units) for one in found]


class TestSpend:
    def test_takes_by_priority_then_by_earliest_expiry(self) -> None:
        grants = [grant("p2", 2000, 2), grant("p1 never", 1000, 1), grant("p1 tomorrow", 500, 1, TOMORROW)]
        assert spent(spend(grants, [due("one", 1200)])) == [(identity("p1 tomorrow"), 500), (identity("p1 never"), 700)]

    def test_takes_the_largest_of_two_that_are_alike(self) -> None:
        grants = [grant("small", 100, 1), grant("large", 900, 1)]
        assert spent(spend(grants, [due("one", 100)])) == [(identity("large"), 100)]

    def test_never_takes_an_expired_grant_nor_one_that_begins_later(self) -> None:
        grants = [grant("expired", 500, 1, NOW), grant("later", 500, 1, begin=NOW + timedelta(seconds=1))]
        assert spend(grants, [due("one", 100)]) == ()

    def test_pays_invoices_in_the_order_in_which_they_are_due(self) -> None:
        invoices = [due("second", 300, NOW), due("first", 300, NOW - timedelta(days=31))]
        found = spend([grant("one", 400, 1)], invoices)
        assert [(one.invoice_id, one.amount.minor_units) for one in found] == [
            (identity("first"), 300),
            (identity("second"), 100),
        ]

    def test_leaves_final_invoices_as_they_are(self) -> None:
        frozen = [Spend(grant_id=identity("one"), invoice_id=identity("final"), amount=usd(250))]
        assert spent(spend([grant("one", 400, 1)], [due("open", 300)], frozen=frozen)) == [(identity("one"), 150)]

    def test_refuses_a_grant_that_is_overspent(self) -> None:
        frozen = [Spend(grant_id=identity("one"), invoice_id=identity("final"), amount=usd(401))]
        with pytest.raises(CreditOverspentError, match=r"overspent by 0\.01 USD"):
            spend([grant("one", 400, 1)], [], frozen=frozen)

    def test_gives_nothing_to_a_credit_nor_to_another_account_or_currency(self) -> None:
        grants = [grant("one", 400, 1)]
        assert spend(grants, [due("refund", -100), due("other", 100, account="other")]) == ()
        yen = Due(invoice_id=identity("yen"), account_id="acme", amount=Money(100, "JPY"), due_at=NOW)
        assert spend(grants, [yen]) == ()

    @given(st.data())
    def test_spends_each_grant_and_pays_each_invoice_at_most_once_in_any_order(self, data: st.DataObject) -> None:
        instants = st.integers(0, 60).map(lambda days: NOW - timedelta(days=days))
        grants = [
            grant(
                f"g{n}",
                data.draw(st.integers(1, 500)),
                data.draw(st.integers(1, 3)),
                data.draw(st.none() | instants.map(lambda at: at + timedelta(days=70))),
                begin=data.draw(instants),
            )
            for n in range(data.draw(st.integers(0, 5)))
        ]
        dues = [
            due(f"i{n}", data.draw(st.integers(-100, 600)), data.draw(instants))
            for n in range(data.draw(st.integers(0, 5)))
        ]
        found = spend(grants, dues)
        shuffled = Random(data.draw(st.integers())).sample
        assert spend(shuffled([*grants, *grants], 2 * len(grants)), shuffled(dues, len(dues))) == found
        by_grant = {one.grant_id: one for one in grants}
        for one in grants:
            assert (
                sum(paid.amount.minor_units for paid in found if paid.grant_id == one.grant_id)
                <= one.amount.minor_units
            )
        for invoice in dues:
            paid = [one for one in found if one.invoice_id == invoice.invoice_id]
            total = sum(one.amount.minor_units for one in paid)
            assert total <= max(invoice.amount.minor_units, 0)
            assert all(by_grant[one.grant_id].is_valid_at(invoice.due_at) for one in paid)
            if total < invoice.amount.minor_units:
                later = {
                    one.invoice_id
                    for one in dues
                    if (one.due_at, one.invoice_id) > (invoice.due_at, invoice.invoice_id)
                }
                for one in grants:
                    if one.is_valid_at(invoice.due_at):
                        before = sum(
                            p.amount.minor_units
                            for p in found
                            if p.grant_id == one.grant_id and p.invoice_id not in later
                        )
                        assert before == one.amount.minor_units


class TestBalancesAt:
    def test_counts_what_was_spent_by_then_and_what_expired(self) -> None:
        grants = [grant("gone", 500, 1, NOW), grant("kept", 1000, 1)]
        paid = [
            (NOW - timedelta(days=31), Spend(grant_id=identity("gone"), invoice_id=identity("a"), amount=usd(200))),
            (NOW, Spend(grant_id=identity("kept"), invoice_id=identity("b"), amount=usd(300))),
        ]
        before = {one.grant_id: one.left for one in balances_at(grants, paid, at=NOW - timedelta(seconds=1))}
        assert before == {identity("gone"): usd(300), identity("kept"): usd(1000)}
        after = {one.grant_id: (one.left, one.expired) for one in balances_at(grants, paid, at=NOW)}
        assert after == {identity("gone"): (usd(0), usd(300)), identity("kept"): (usd(700), usd(0))}

    def test_does_not_know_grants_that_begin_later(self) -> None:
        assert balances_at([grant("later", 1, 1, begin=TOMORROW)], [], at=NOW) == ()


class TestGrant:
    def test_of_nothing_or_of_no_time_is_refused(self) -> None:
        with pytest.raises(CreditGrantInvalidError, match=r"is of 0\.00 USD"):
            grant("none", 0, 1)
        with pytest.raises(CreditGrantInvalidError, match="before it begins"):
            grant("never", 1, 1, NOW - timedelta(days=300))


class TestRecurringGrants:
    CREDIT = RecurringCredit(
        credit_id="monthly",
        account_id="acme",
        amount=usd(1000),
        priority=1,
        anchor=BillingAnchor(day=31),
        starts_at=datetime(2026, 1, 31, tzinfo=UTC),
        ends_at=datetime(2026, 4, 1, tzinfo=UTC),
    )

    def test_come_once_a_period_and_expire_with_it(self) -> None:
        window = Window(datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
        found = [(one.effective_at.date().isoformat(), one.expires_at) for one in recurring_grants(self.CREDIT, window)]
        assert [begin for begin, _ in found] == ["2026-01-31", "2026-02-28", "2026-03-31"]
        assert [end and end.date().isoformat() for _, end in found] == ["2026-02-28", "2026-03-31", "2026-04-30"]

    def test_are_the_same_grants_however_they_are_asked_for(self) -> None:
        days = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=offset) for offset in range(120)]
        whole = {one.grant_id for one in recurring_grants(self.CREDIT, Window(days[0], days[-1]))}
        parts = [recurring_grants(self.CREDIT, Window(day, day + timedelta(days=1))) for day in days]
        assert {one.grant_id for part in parts for one in part} == whole
