"""Quantities, prices and money: exact, and rounded in one place."""

from decimal import Decimal, Inexact
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing_pipeline.amounts import (
    AllocationError,
    CurrencyMismatchError,
    Money,
    Quantity,
    RoundingMode,
    UnitMismatchError,
    UnitPrice,
    UnitRounding,
    UnknownCurrencyError,
    allocate,
    ceil_div,
    exact_arithmetic,
    exact_product,
    exact_sum,
    exact_text,
    floor_div,
    minor_digits,
    round_half_away,
    simplest,
    to_money,
    to_scale,
)

decimals = st.decimals(min_value=-(10**12), max_value=10**12, places=9, allow_nan=False)


class TestMinorDigits:
    @pytest.mark.parametrize(
        ("currency", "digits"),
        [("USD", 2), ("EUR", 2), ("JPY", 0), ("KRW", 0), ("VND", 0), ("CLP", 0), ("KWD", 3), ("TND", 3), ("CLF", 4)],
    )
    def test_follow_iso_4217(self, currency: str, digits: int) -> None:
        assert minor_digits(currency) == digits

    @pytest.mark.parametrize("currency", ["usd", "XXX", "", "US", "DEM", "BTC"])
    def test_are_unknown_for_anything_else(self, currency: str) -> None:
        with pytest.raises(UnknownCurrencyError, match="not in ISO 4217"):
            minor_digits(currency)


class TestRoundHalfAway:
    @pytest.mark.parametrize(
        ("value", "digits", "units"),
        [
            ("1.225", 2, 123),
            ("-1.225", 2, -123),
            ("-1.224", 2, -122),
            ("0.004", 2, 0),
            ("0.005", 2, 1),
            ("-0.005", 2, -1),
            ("1000.5", 0, 1001),
            ("0.01999999999999999872", 2, 2),
            ("999999999.999", 2, 100000000000),
            ("150", -2, 2),
            ("-149.999", -2, -1),
            ("0", 2, 0),
        ],
    )
    def test_rounds_halves_away_from_zero(self, value: str, digits: int, units: int) -> None:
        assert round_half_away(Decimal(value), digits=digits) == units

    def test_sees_the_last_digit_of_a_fraction(self) -> None:
        assert round_half_away(Fraction(5, 1000), digits=2) == 1
        assert round_half_away(Fraction(5, 1000) - Fraction(1, 10**40), digits=2) == 0

    @given(decimals)
    def test_is_symmetric_and_never_more_than_half_a_unit_off(self, value: Decimal) -> None:
        units = round_half_away(value, digits=2)
        assert units == -round_half_away(-value, digits=2)
        assert abs(Fraction(units, 100) - Fraction(value)) <= Fraction(1, 200)


class TestExactNumbers:
    @given(decimals, decimals.filter(lambda value: value > 0))
    def test_division_by_packages_covers_the_quantity(self, quantity: Decimal, size: Decimal) -> None:
        down, up = floor_div(quantity, size), ceil_div(quantity, size)
        assert Fraction(down) * Fraction(size) <= Fraction(quantity) <= Fraction(up) * Fraction(size)
        assert 0 <= up - down <= 1

    def test_whole_packages_are_not_rounded_up(self) -> None:
        assert (ceil_div(Decimal(100), Decimal(100)), ceil_div(Decimal("100.000001"), Decimal(100))) == (1, 2)
        assert ceil_div(Decimal("0.3"), Decimal("0.1")) == 3

    def test_a_product_stays_a_decimal_where_it_ends(self) -> None:
        found = exact_product(Decimal("100.00"), times=Decimal(15), over=Decimal(30))
        assert isinstance(found, Decimal)
        assert found == 50
        assert exact_product(Decimal(100), times=Decimal(15), over=Decimal(31)) == Fraction(1500, 31)

    @given(st.lists(decimals))
    def test_a_sum_does_not_depend_on_order(self, values: list[Decimal]) -> None:
        thirds = [Fraction(value) / 3 for value in values]
        assert exact_sum(values) == exact_sum(values[::-1]) == exact_sum([*thirds, *thirds, *thirds])

    def test_an_operation_that_would_lose_a_digit_raises(self) -> None:
        with exact_arithmetic(), pytest.raises(Inexact):
            Decimal(1) / Decimal(3)

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (Decimal("0.0500"), "0.05"),
            (Decimal("1E+3"), "1000"),
            (Decimal("1E-7"), "0.0000001"),
            (Decimal("-0.00"), "0"),
            (Decimal(100), "100"),
            (Fraction(10, 3), "10/3"),
        ],
    )
    def test_are_spelled_without_exponent_or_padding(self, value: Decimal | Fraction, text: str) -> None:
        assert exact_text(value) == text

    @given(st.fractions(max_denominator=5000))
    def test_simplest_keeps_the_value(self, value: Fraction) -> None:
        found = simplest(value)
        assert Fraction(found) == value
        rest = value.denominator
        for prime in (2, 5):
            while rest % prime == 0:
                rest //= prime
        assert isinstance(found, Decimal) is (rest == 1)

    def test_to_scale_rounds_for_a_column(self) -> None:
        assert str(to_scale(Fraction(2, 3), digits=12)) == "0.666666666667"
        assert str(to_scale(Decimal(5), digits=3)) == "5.000"


class TestUnitRounding:
    @pytest.mark.parametrize(
        ("mode", "precision", "rounded"),
        [("half_up", 2, "123.46"), ("half_up", -2, "100"), ("up", -2, "200"), ("down", 2, "123.45"), ("up", 0, "124")],
    )
    def test_makes_a_quantity_whole(self, mode: str, precision: int, rounded: str) -> None:
        rounding = UnitRounding(mode=RoundingMode(mode), precision=precision)
        assert rounding.apply(Decimal("123.456")) == Decimal(rounded)

    def test_leaves_a_whole_quantity(self) -> None:
        assert UnitRounding(mode=RoundingMode.UP).apply(Decimal("7.000")) == 7


class TestQuantity:
    def test_adds_and_subtracts_its_own_unit(self) -> None:
        one, other = Quantity(Decimal("0.1"), "GB"), Quantity(Decimal("0.2"), "GB")
        assert one + other == Quantity(Decimal("0.3"), "GB")
        assert (one - other).value == Decimal("-0.1")

    def test_refuses_another_unit(self) -> None:
        with pytest.raises(UnitMismatchError, match="1 GB and 1 GiB"):
            Quantity(Decimal(1), "GB") + Quantity(Decimal(1), "GiB")
        with pytest.raises(UnitMismatchError):
            Quantity(Decimal(1), "GB") - Quantity(Decimal(1), "h")


class TestUnitPrice:
    def test_is_not_rounded_before_it_is_multiplied(self) -> None:
        # 8.165 rounded first would give 16.32 or 16.34
        assert to_money(UnitPrice(Decimal("8.165"), "USD").times(Quantity(Decimal(2), "seat")), "USD") == Money(
            1633, "USD"
        )


class TestMoney:
    def test_is_whole_minor_units_of_its_currency(self) -> None:
        assert str(Money(4839, "USD")) == "48.39 USD"
        assert str(Money(-5, "USD")) == "-0.05 USD"
        assert str(Money(323, "JPY")) == "323 JPY"
        assert str(Money(1, "CLF")) == "0.0001 CLF"
        assert Money(5124, "KWD").major == Decimal("5.124")

    def test_adds_subtracts_and_negates(self) -> None:
        assert Money(3, "USD") + Money(4, "USD") - Money(9, "USD") == -Money(2, "USD")

    def test_refuses_another_currency(self) -> None:
        with pytest.raises(CurrencyMismatchError, match=r"0\.01 USD and 1 JPY"):
            Money(1, "USD") + Money(1, "JPY")
        with pytest.raises(CurrencyMismatchError):
            Money(1, "USD") - Money(1, "EUR")

    def test_is_neither_a_float_nor_in_an_unknown_currency(self) -> None:
        with pytest.raises(UnknownCurrencyError):
            Money(1, "XYZ")
        for wrong in (1.0, Decimal(1), True):
            with pytest.raises(TypeError, match="whole number"):
                Money(wrong, "USD")  # type: ignore[arg-type]


class TestAllocate:
    @pytest.mark.parametrize(
        ("minor_units", "currency", "weights", "shares"),
        [
            (5, "USD", ["1", "1", "1"], [2, 2, 1]),
            (5, "JPY", ["1", "1", "1"], [2, 2, 1]),
            (100, "USD", ["0.001", "0.002"], [33, 67]),
            (-5, "USD", ["1", "1", "1"], [-2, -2, -1]),
            (0, "USD", ["1", "3"], [0, 0]),
            (7, "USD", ["0", "1"], [0, 7]),
        ],
    )
    def test_gives_the_rest_to_the_largest_remainders(
        self, minor_units: int, currency: str, weights: list[str], shares: list[int]
    ) -> None:
        found = allocate(Money(minor_units, currency), [Decimal(weight) for weight in weights])
        assert [share.minor_units for share in found] == shares

    @given(
        st.integers(-(10**9), 10**9),
        st.lists(st.decimals(min_value=0, max_value=1000, places=3), min_size=1).filter(lambda found: sum(found) > 0),
    )
    def test_loses_nothing_and_stays_within_a_unit(self, minor_units: int, weights: list[Decimal]) -> None:
        shares = [share.minor_units for share in allocate(Money(minor_units, "USD"), weights)]
        assert sum(shares) == minor_units
        for share, weight in zip(shares, weights, strict=True):
            assert abs(share - minor_units * Fraction(weight) / Fraction(sum(weights))) < 1

    @pytest.mark.parametrize("weights", [[], ["0", "0"], ["1", "-1", "5"]])
    def test_refuses_weights_that_say_nothing(self, weights: list[str]) -> None:
        with pytest.raises(AllocationError):
            allocate(Money(5, "USD"), [Decimal(weight) for weight in weights])
