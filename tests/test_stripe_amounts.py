"""Money in Stripe's own minor units: the table, what cannot be charged, and shares that add up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing_pipeline.amounts import Money, UnknownCurrencyError, minor_digits
from billing_pipeline.invoicing.policy import PaymentUnits
from billing_pipeline.invoicing.stripe_amounts import (
    StripeAmountError,
    StripeCurrencyError,
    charge_step,
    from_stripe,
    left_over,
    stripe_amounts,
    stripe_digits,
    to_stripe,
)
from tests.test_invoice_items import line

CURRENCIES = ("USD", "EUR", "HUF", "TWD", "JPY", "KRW", "XPF", "KWD", "BHD", "JOD", "OMR", "TND", "ISK", "UGX", "MGA")


class TestTable:
    @pytest.mark.parametrize(
        ("amount", "currency", "wire"),
        [
            (1099, "USD", 1099),
            (500, "JPY", 500),
            (5120, "KWD", 5120),
            # two decimals at Stripe, none in ISO 4217: always multiples of 100 there
            (5, "ISK", 500),
            (1500, "UGX", 150_000),
            # no decimals at Stripe, two in ISO 4217
            (1000, "MGA", 10),
            # decimals are missing in payouts alone
            (10_050, "HUF", 10_050),
            (-1099, "USD", -1099),
        ],
    )
    def test_of_amounts_on_the_wire(self, amount: int, currency: str, wire: int) -> None:
        assert to_stripe(Money(amount, currency)) == wire
        assert from_stripe(wire, currency) == Money(amount, currency)

    @pytest.mark.parametrize(("amount", "currency"), [(5124, "KWD"), (1050, "MGA"), (-1, "TND")])
    def test_refuses_what_cannot_be_charged(self, amount: int, currency: str) -> None:
        with pytest.raises(StripeAmountError, match="cannot charge"):
            to_stripe(Money(amount, currency))

    def test_refuses_amounts_of_stripe_that_it_would_refuse_itself(self) -> None:
        with pytest.raises(StripeAmountError, match="no whole amount of ISK"):
            from_stripe(550, "ISK")

    @pytest.mark.parametrize("currency", ["CLF", "UYW", "IQD", "LYD", "UYI"])
    def test_does_not_guess_currencies_that_stripe_does_not_take(self, currency: str) -> None:
        with pytest.raises(StripeCurrencyError, match=currency):
            stripe_digits(currency)
        assert charge_step(currency) == 1

    def test_refuses_what_is_no_currency(self) -> None:
        with pytest.raises(UnknownCurrencyError):
            stripe_digits("ABC")


class TestLeftOver:
    @pytest.mark.parametrize(
        ("amount", "currency", "rest"),
        [
            (5124, "KWD", 4),
            (5126, "KWD", -4),
            (5125, "KWD", -5),
            (-5124, "KWD", -4),
            (-5125, "KWD", 5),
            (1050, "MGA", -50),
            (1049, "MGA", 49),
            (1099, "USD", 0),
        ],
    )
    def test_is_what_the_nearest_step_leaves(self, amount: int, currency: str, rest: int) -> None:
        assert left_over(Money(amount, currency)) == Money(rest, currency)
        assert left_over(Money(amount, currency), PaymentUnits.ISO) == Money(0, currency)

    @given(st.integers(-(10**9), 10**9), st.sampled_from(CURRENCIES))
    def test_and_what_is_charged_are_the_whole(self, amount: int, currency: str) -> None:
        total = Money(amount, currency)
        charged = total - left_over(total)
        assert from_stripe(to_stripe(charged), currency) == charged
        assert 2 * abs(left_over(total).minor_units) <= charge_step(currency)


class TestShares:
    @given(st.lists(st.integers(-9999, 9999), min_size=1, max_size=30), st.sampled_from(CURRENCIES))
    def test_of_lines_add_up_to_the_invoice_and_are_less_than_a_step_away(
        self, amounts: list[int], currency: str
    ) -> None:
        step = charge_step(currency)
        # what a compiled invoice does: it carries what is left over
        amounts.append(-left_over(Money(sum(amounts), currency)).minor_units)
        lines = [line(f"{number}", amount, currency=currency) for number, amount in enumerate(amounts)]
        found = stripe_amounts(lines)
        assert sum(found.values()) == to_stripe(Money(sum(amounts), currency))
        for one in lines:
            share = from_stripe(found[one.item_key], currency).minor_units
            assert abs(share - one.amount.minor_units) < step
            assert share == one.amount.minor_units or step > 1

    def test_of_whole_steps_are_the_lines(self) -> None:
        lines = [line("a", 5120, currency="KWD"), line("b", -20, currency="KWD")]
        assert list(stripe_amounts(lines).values()) == [5120, -20]

    def test_of_nothing_is_nothing(self) -> None:
        assert stripe_amounts([]) == {}

    def test_of_a_sum_that_cannot_be_charged_are_refused(self) -> None:
        with pytest.raises(StripeAmountError):
            stripe_amounts([line("a", 5121, currency="KWD")])


def test_every_currency_of_stripe_has_a_way_onto_the_wire_and_back() -> None:
    for currency in CURRENCIES:
        amount = Money(charge_step(currency) * 7, currency)
        assert from_stripe(to_stripe(amount), currency) == amount
        assert stripe_digits(currency) in (0, 2, 3)
        assert minor_digits(currency) <= 3
