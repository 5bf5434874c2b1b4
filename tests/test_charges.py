"""Identity of charges and the difference to what is booked."""

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from uuid import UUID, uuid5

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing_pipeline.amounts import Money, simplest
from billing_pipeline.catalog import Dimension
from billing_pipeline.charges import (
    BookedCharge,
    Charge,
    ChargeCurrencyChangedError,
    ChargeKey,
    difference,
    group_key,
    nothing_rated,
)
from billing_pipeline.periods import Window
from billing_pipeline.rating import LineKind, Rated, RatedLine

MARCH = Window(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC))
KEY = ChargeKey(subscription_id="sub_acme", price_id="requests", period=MARCH)


def charge(units: int, *, unit_price: str = "0.001", currency: str = "USD") -> Charge:
    price, quantity = Decimal(unit_price), Decimal(units)
    amount = quantity * price
    line = RatedLine(
        version=1, tier=None, quantity=quantity, unit="unit", unit_price=price, flat_fee=Decimal(0), amount=amount
    )
    rated = Rated(lines=(line,) if units else (), quantity=quantity, unit="unit", exact=amount)
    return Charge(key=KEY, account_id="acme", plan_id="plan", meter_id="m", currency=currency, rated=rated)


def booked(one: Charge, revision: int = 1) -> BookedCharge:
    return BookedCharge(revision=revision, amount=one.amount, rating_digest=one.rating_digest)


class TestChargeKey:
    def test_is_the_same_for_ever(self) -> None:
        assert KEY.charge_id == UUID("225cba12-fbdd-5f16-bf48-32384a8c5f86")

    def test_differs_for_every_part_of_the_key(self) -> None:
        later = Window(MARCH.start, MARCH.end + timedelta(seconds=1))
        keys = [
            KEY,
            ChargeKey(subscription_id="sub_beta", price_id="requests", period=MARCH),
            ChargeKey(subscription_id="sub_acme", price_id="fee", period=MARCH),
            ChargeKey(subscription_id="sub_acme", price_id="requests", period=later),
            ChargeKey(subscription_id="sub_acme", price_id="requests", period=MARCH, group_key='{"method":"GET"}'),
        ]
        assert len({key.charge_id for key in keys}) == len(keys)

    def test_does_not_depend_on_how_an_instant_is_written(self) -> None:
        berlin = timezone(timedelta(hours=1))
        same = Window(datetime(2026, 3, 1, 1, tzinfo=berlin), datetime(2026, 4, 1, 1, tzinfo=berlin))
        assert ChargeKey(subscription_id="sub_acme", price_id="requests", period=same).charge_id == KEY.charge_id

    @given(st.text(), st.text(), st.text())
    def test_is_the_uuid_of_the_key_as_json(self, subscription_id: str, price_id: str, group: str) -> None:
        key = ChargeKey(subscription_id=subscription_id, price_id=price_id, period=MARCH, group_key=group)
        parts = (subscription_id, price_id, MARCH.start.isoformat(), MARCH.end.isoformat(), group)
        namespace = UUID("3f0c6d5e-0a6b-4c35-9d0e-6a3f5c1b7e21")
        assert key.charge_id == uuid5(namespace, json.dumps(parts, ensure_ascii=False))

    def test_groups_have_one_spelling(self) -> None:
        assert group_key({}) == ""
        assert (
            group_key({Dimension.ENDPOINT: '/a"b', Dimension.METHOD: "GET"}) == '{"endpoint":"/a\\"b","method":"GET"}'
        )


class TestDifference:
    def test_books_the_whole_first(self) -> None:
        revision = difference(charge(333), None)
        assert revision is not None
        assert (revision.revision, revision.delta, revision.charge_id) == (1, Money(33, "USD"), KEY.charge_id)

    def test_is_of_rounded_totals_never_a_rounded_difference(self) -> None:
        # 0.333 is booked as 0.33; 0.666 is 0.67; the difference 0.333 alone would round to 0.33
        revision = difference(charge(666), booked(charge(333)))
        assert revision is not None
        assert revision.delta == Money(34, "USD")

    def test_reverses_what_was_booked_and_is_not_used_any_more(self) -> None:
        revision = difference(charge(0), booked(charge(6), revision=3))
        assert revision is not None
        assert (revision.revision, revision.delta) == (4, Money(-1, "USD"))

    def test_is_none_where_the_books_are_right(self) -> None:
        assert difference(charge(333), booked(charge(333))) is None
        assert difference(charge(0), booked(charge(0))) is None

    def test_is_none_where_nothing_is_used_or_booked(self) -> None:
        assert difference(charge(0), None) is None

    def test_is_0_where_only_the_arithmetic_changes(self) -> None:
        revision = difference(charge(1), booked(charge(2)))
        assert revision is not None
        assert revision.delta == Money(0, "USD")

    def test_refuses_another_currency(self) -> None:
        with pytest.raises(ChargeCurrencyChangedError, match=r"booked in USD and is now in EUR"):
            difference(charge(5, currency="EUR"), booked(charge(333)))


class TestCharge:
    def test_rounds_its_total_once(self) -> None:
        assert charge(100, unit_price="0.019").amount == Money(190, "USD")
        assert charge(100_000, unit_price="0.0000001").amount == Money(1, "USD")

    def test_digests_every_part_of_the_arithmetic(self) -> None:
        thirds = Rated(lines=(), quantity=Fraction(1, 3), unit="unit", exact=Decimal(0))
        none = nothing_rated("unit")
        others = [
            Charge(key=KEY, account_id="acme", plan_id="plan", meter_id="m", currency="USD", rated=rated)
            for rated in (thirds, none, nothing_rated("hour"))
        ]
        digests = {one.rating_digest for one in (*others, charge(1), charge(2), charge(1, currency="EUR"))}
        assert len(digests) == 6
        assert charge(1).rating_digest == charge(1, unit_price="0.0010").rating_digest


exact = st.decimals(allow_nan=False, allow_infinity=False, places=9) | st.fractions().map(simplest)
some_text = st.none() | st.text(max_size=5)


class TestLinesJson:
    @given(
        st.lists(
            st.builds(
                RatedLine,
                version=st.integers(1, 9),
                tier=st.none() | st.integers(1, 9),
                quantity=exact,
                unit=st.text(max_size=5),
                unit_price=st.decimals(allow_nan=False, allow_infinity=False, places=6),
                flat_fee=st.sampled_from([Decimal(0), Decimal("2.50")]),
                amount=exact,
                multiplier=st.none() | st.just(Decimal("1.2")),
                kind=st.sampled_from(LineKind),
                label=some_text,
                windows=st.none() | st.integers(1, 9),
                less=st.none() | exact,
            ),
            max_size=3,
        )
    )
    def test_is_what_the_lines_say(self, lines: list[RatedLine]) -> None:
        rated = Rated(lines=tuple(lines), quantity=Decimal(1), unit="unit", exact=Decimal(1))
        one = Charge(key=KEY, account_id="a", plan_id="p", meter_id="m", currency="USD", rated=rated)
        texts = [line.as_text() for line in lines]
        assert one.lines_json == json.dumps(texts, separators=(",", ":"), ensure_ascii=False)
