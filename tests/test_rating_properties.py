"""Laws of rating and booking, and rating against a short independent reference on fractions."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from billing_pipeline.amounts import RoundingMode, UnitRounding
from billing_pipeline.catalog import (
    Graduated,
    Package,
    PackageRounding,
    Price,
    PriceModel,
    PriceVersion,
    Standard,
    Tier,
    UnitConversion,
    Volume,
)
from billing_pipeline.charges import BookedCharge, Charge, ChargeKey, difference
from billing_pipeline.ledger import postings
from billing_pipeline.periods import Window
from billing_pipeline.rating import Rated, VersionUsage, rate

START = datetime(2026, 1, 1, tzinfo=UTC)
KEY = ChargeKey(subscription_id="s", price_id="p", period=Window(START, START + timedelta(days=31)))

quantities = st.one_of(
    st.integers(0, 60).map(Decimal),
    st.decimals(min_value=0, max_value=60, places=3, allow_nan=False),
    st.decimals(min_value=0, max_value=10**15, places=9, allow_nan=False),
)
amounts = st.decimals(min_value=0, max_value=100, places=4, allow_nan=False)


@st.composite
def tiers(draw: st.DrawFn) -> tuple[Tier, ...]:
    bounds = sorted(draw(st.sets(st.decimals(min_value="0.5", max_value=50, places=1), max_size=3)))
    ends: list[Decimal | None] = [*bounds, None]
    return tuple(Tier(up_to=end, unit_price=draw(amounts), flat_fee=draw(amounts)) for end in ends)


standards = amounts.map(lambda price: Standard(unit_price=price))
graduateds = tiers().map(lambda found: Graduated(tiers=found))
volumes = tiers().map(lambda found: Volume(tiers=found))
packages = st.builds(
    Package,
    size=st.decimals(min_value="0.5", max_value=20, places=1),
    price=amounts,
    rounding=st.sampled_from(PackageRounding),
    free_units=st.decimals(min_value=0, max_value=20, places=1),
)
models = st.one_of(standards, graduateds, volumes, packages)
conversions = st.none() | st.builds(
    UnitConversion,
    unit=st.just("converted"),
    multiply=st.sampled_from([Decimal(1), Decimal("1.2"), Decimal(7)]),
    divide=st.sampled_from([Decimal(1), Decimal(3), Decimal(1000), Decimal(3600)]),
    rounding=st.none() | st.builds(UnitRounding, mode=st.sampled_from(RoundingMode), precision=st.integers(-1, 2)),
)


@st.composite
def versions(draw: st.DrawFn, *, of: st.SearchStrategy[PriceModel] = models) -> tuple[PriceVersion, ...]:
    count = draw(st.integers(1, 3))
    return tuple(
        PriceVersion(
            version=number,
            model=draw(of),
            effective_from=START + timedelta(days=number),
            conversion=draw(conversions),
            included_units=draw(st.sampled_from([Decimal(0), Decimal("2.5"), Decimal(30)])),
            restart_tiers=draw(st.booleans()),
        )
        for number in range(1, count + 1)
    )


def rated(found: Sequence[PriceVersion], used: Sequence[Decimal]) -> Rated:
    price = Price(price_id="p", meter_id="m", currency="USD", versions=tuple(found))
    usage = [VersionUsage(version=version, quantity=quantity) for version, quantity in zip(found, used, strict=True)]
    return rate(price=price, unit="unit", usage=usage)


def reference(found: Sequence[PriceVersion], used: Sequence[Decimal]) -> Fraction:
    """Return the amount by price of quantity = F(upto) - F(before), on fractions, without looking at rating's steps."""
    total, raw, run_end, run_start = Fraction(0), Fraction(0), 0, 0
    fee_paid = False
    for index, (version, quantity) in enumerate(zip(found, used, strict=True)):
        if index == 0 or version.restart_tiers:
            run_start, raw, fee_paid = index, Fraction(0), False
            run_end = next((later for later in range(index + 1, len(found)) if found[later].restart_tiers), len(found))
        whole = priced_units(version, sum(map(Fraction, used[run_start:run_end]), Fraction(0)))
        before, raw = priced_units(version, raw), raw + Fraction(quantity)
        upto = priced_units(version, raw)
        match version.model:
            case Volume(tiers=all_tiers):
                if upto > before:
                    tier = next(tier for tier in all_tiers if tier.up_to is None or whole <= Fraction(tier.up_to))
                    total += (upto - before) * Fraction(tier.unit_price)
                    total += 0 if fee_paid else Fraction(tier.flat_fee)
            case model:
                total += cumulative(model, upto) - cumulative(model, before)
        fee_paid = fee_paid or upto > before
    return total


def priced_units(version: PriceVersion, raw: Fraction) -> Fraction:
    units = raw
    if version.conversion is not None:
        units = raw * Fraction(version.conversion.multiply) / Fraction(version.conversion.divide)
        if version.conversion.rounding is not None:
            step = Fraction(10) ** -version.conversion.rounding.precision
            steps = units / step
            match version.conversion.rounding.mode:
                case RoundingMode.UP:
                    units = -(-steps // 1) * step
                case RoundingMode.DOWN:
                    units = (steps // 1) * step
                case RoundingMode.HALF_UP:
                    units = ((steps + Fraction(1, 2)) // 1) * step
    return max(units - Fraction(version.included_units), Fraction(0))


def cumulative(model: object, units: Fraction) -> Fraction:
    """Return the price of the first `units` by a model that depends on them alone."""
    match model:
        case Standard(unit_price=price):
            return units * Fraction(price)
        case Graduated(tiers=all_tiers):
            bounds = [Fraction(0), *(Fraction(tier.up_to or 10**40) for tier in all_tiers)]
            return sum(
                (
                    max(min(units, upper) - lower, Fraction(0)) * Fraction(tier.unit_price)
                    + (Fraction(tier.flat_fee) if units > lower else 0)
                    for tier, (lower, upper) in zip(all_tiers, pairwise(bounds), strict=True)
                ),
                Fraction(0),
            )
        case Package() as package:
            paid = max(units - Fraction(package.free_units), Fraction(0)) / Fraction(package.size)
            count = -(-paid // 1) if package.rounding is PackageRounding.UP else paid // 1
            return count * Fraction(package.price)
    raise AssertionError(model)


class TestRateAgainstTheReference:
    @given(data=st.data())
    def test_agrees_for_any_versions_and_quantities(self, data: st.DataObject) -> None:
        found = data.draw(versions())
        used = data.draw(st.lists(quantities, min_size=len(found), max_size=len(found)))
        result = rated(found, used)
        assert Fraction(result.exact) == reference(found, used)
        assert sum((Fraction(line.amount) for line in result.lines), Fraction(0)) == Fraction(result.exact)
        for line in result.lines:
            formula = Fraction(line.quantity) * Fraction(line.unit_price) + Fraction(line.flat_fee)
            assert Fraction(line.amount) == formula

    @given(tiers(), st.integers(0, 120))
    def test_graduated_is_unit_by_unit(self, found: tuple[Tier, ...], halves: int) -> None:
        version = PriceVersion(version=1, model=Graduated(tiers=found), effective_from=START)
        total, entered = Fraction(0), set()
        for tenth in range(1, halves * 5 + 1):
            at = Fraction(tenth, 10)
            place = next(n for n, tier in enumerate(found) if tier.up_to is None or at <= Fraction(tier.up_to))
            total += Fraction(found[place].unit_price) / 10
            if place not in entered:
                entered.add(place)
                total += Fraction(found[place].flat_fee)
        assert Fraction(rated([version], [Decimal(halves) / 2]).exact) == total


class TestLaws:
    @given(st.one_of(standards, graduateds, packages), quantities, quantities)
    def test_more_usage_never_costs_less(self, model: PriceModel, one: Decimal, more: Decimal) -> None:
        version = PriceVersion(version=1, model=model, effective_from=START)
        assert rated([version], [one]).exact <= rated([version], [one + more]).exact

    @given(st.one_of(standards, graduateds, packages), st.lists(quantities, min_size=1, max_size=4))
    def test_a_split_over_equal_versions_costs_what_the_whole_does(
        self, model: PriceModel, parts: list[Decimal]
    ) -> None:
        def split(count: int) -> list[PriceVersion]:
            return [
                PriceVersion(version=number, model=model, effective_from=START + timedelta(days=number))
                for number in range(1, count + 1)
            ]

        assert rated(split(len(parts)), parts).exact == rated(split(1), [sum(parts, Decimal(0))]).exact

    @given(models, st.lists(quantities, min_size=1, max_size=6))
    def test_booked_differences_add_up_to_the_rounded_whole(self, model: PriceModel, totals: list[Decimal]) -> None:
        """Any way up and down to a total books that total; the postings of every step sum to zero."""
        version = PriceVersion(version=1, model=model, effective_from=START)
        booked: BookedCharge | None = None
        booked_minor = posted_minor = 0
        for total in totals:
            charge = Charge(
                key=KEY, account_id="a", plan_id="l", meter_id="m", currency="USD", rated=rated([version], [total])
            )
            revision = difference(charge, booked)
            if revision is not None:
                booked_minor += revision.delta.minor_units
                sides = postings(revision)
                assert sum(posting.amount.minor_units for posting in sides) == 0
                posted_minor += sum(side.amount.minor_units for side in sides if side.posting_number == 1)
                booked = BookedCharge(
                    revision=revision.revision, amount=charge.amount, rating_digest=charge.rating_digest
                )
            assert difference(charge, booked) is None
            assert booked_minor == posted_minor == charge.amount.minor_units
