"""Laws of the models beside tiers of a quantity: percentages, matrices, windows, levels, commitments, bounds; of tiers too.

Each is held against a short reference on fractions. Tiers of quantities over versions: test_rating_properties.
"""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing_pipeline.amounts import Exact, Money, exact_sum, to_money
from billing_pipeline.catalog import (
    Adjustments,
    AmountOff,
    Commitment,
    Dimension,
    Discount,
    Dynamic,
    FlatFee,
    Graduated,
    GraduatedPercentage,
    Matrix,
    MatrixCell,
    Percentage,
    PercentOff,
    Price,
    PriceModel,
    PriceVersion,
    Standard,
    Tier,
    Volume,
    WindowRating,
)
from billing_pipeline.charges import BookedCharge, Charge, difference
from billing_pipeline.ledger import postings
from billing_pipeline.period_charges import share_out
from billing_pipeline.periods import BillingAnchor, BillingPeriod, Window
from billing_pipeline.rating import (
    Cells,
    Detail,
    Levels,
    LevelStep,
    LineKind,
    Rated,
    Transactions,
    VersionUsage,
    Windows,
    line_shares,
    rate,
    rate_flat_fee,
)
from billing_pipeline.rating.tiers import tier_of
from tests.test_rating_properties import KEY, START, amounts, cumulative, models, quantities, tiers

cents = st.decimals(min_value=0, max_value=1000, places=2, allow_nan=False)
positive = st.decimals(min_value="0.01", max_value=1000, places=2, allow_nan=False)
rates = st.decimals(min_value=0, max_value="0.2", places=4, allow_nan=False)
shares = st.fractions(min_value=0, max_value=1, max_denominator=31)


def version(model: PriceModel, number: int = 1, **more: object) -> PriceVersion:
    return PriceVersion(version=number, model=model, effective_from=START + timedelta(days=number), **more)  # type: ignore[arg-type]


def rated(*parts: tuple[PriceVersion, Exact, Detail | None], share: Exact = Decimal(1)) -> Rated:
    price = Price(price_id="p", meter_id="m", currency="USD", versions=tuple(one for one, _, _ in parts))
    usage = [
        VersionUsage(version=one, quantity=quantity, detail=detail, share=share, events=_events(detail))
        for one, quantity, detail in parts
    ]
    found = rate(price=price, unit="unit", usage=usage)
    assert sum((Fraction(line.amount) for line in found.lines), Fraction(0)) == Fraction(found.exact)
    for line in found.lines:
        formula = (
            Fraction(line.quantity) * Fraction(line.unit_price) + Fraction(line.flat_fee) - Fraction(line.less or 0)
        )
        assert Fraction(line.amount) == formula
    return found


def _events(detail: Detail | None) -> int | None:
    return sum(count for _, count in detail.counts) if isinstance(detail, Transactions) else None


percentages = st.builds(
    Percentage,
    rate=rates,
    fixed_fee=st.sampled_from([Decimal(0), Decimal("0.30")]),
    free_events=st.none() | st.integers(1, 4),
    free_amount=st.none() | positive,
    minimum=st.none() | st.decimals(min_value="0.01", max_value=2, places=2),
    maximum=st.none() | st.decimals(min_value=2, max_value=20, places=2),
)


def of_transactions(model: Percentage, found: Sequence[Decimal]) -> tuple[PriceVersion, Exact, Detail]:
    return version(model), exact_sum(found), Transactions(counts=tuple((amount, 1) for amount in found))


def percentage_reference(model: Percentage, found: Sequence[Decimal]) -> Fraction:
    """Go through the transactions one by one: as many are free, and as long, as both limits last. All of 0 are nothing."""
    if not any(found):
        return Fraction(0)
    total, free_sum = Fraction(0), Fraction(0)
    has_limits, is_free, events = model.needs_order, model.needs_order, 0
    for amount in found:
        paid = Fraction(amount)
        if has_limits and is_free and (model.free_events is None or events < model.free_events):
            left = None if model.free_amount is None else Fraction(model.free_amount) - free_sum
            if left is None or paid <= left:
                if left is None or left > 0:
                    events, free_sum = events + 1, free_sum + paid
                    continue
            elif left > 0:
                events, free_sum, paid = events + 1, free_sum + left, paid - left
            is_free = False
        cost = paid * Fraction(model.rate) + Fraction(model.fixed_fee)
        if model.minimum is not None and cost < model.minimum:
            cost = Fraction(model.minimum)
        elif model.maximum is not None and cost > model.maximum:
            cost = Fraction(model.maximum)
        total += cost
    return total


transactions = st.just(Decimal(0)) | positive


class TestPercentages:
    @given(percentages, st.lists(transactions, min_size=1, max_size=8))
    def test_cost_what_their_transactions_do_one_by_one(self, model: Percentage, found: list[Decimal]) -> None:
        assert Fraction(rated(of_transactions(model, found)).exact) == percentage_reference(model, found)

    @given(percentages, st.lists(transactions, min_size=1, max_size=8), st.integers(0, 8))
    def test_in_parts_with_carried_state_cost_what_they_do_at_once(
        self, model: Percentage, found: list[Decimal], cut: int
    ) -> None:
        parts = [part for part in (found[:cut], found[cut:]) if part]
        usage = [
            (version(model, number), exact_sum(part), Transactions(counts=tuple((one, 1) for one in part)))
            for number, part in enumerate(parts, 1)
        ]
        assert rated(*usage).exact == rated(of_transactions(model, found)).exact

    @given(percentages, st.lists(transactions, min_size=1, max_size=8), st.randoms(use_true_random=False))
    def test_do_not_depend_on_order_where_nothing_is_free(
        self, model: Percentage, found: list[Decimal], chance: random.Random
    ) -> None:
        paid = Percentage(rate=model.rate, fixed_fee=model.fixed_fee, minimum=model.minimum, maximum=model.maximum)
        other = chance.sample(found, len(found))
        assert rated(of_transactions(paid, found)).exact == rated(of_transactions(paid, other)).exact

    @given(percentages, st.lists(transactions, min_size=1, max_size=6), transactions)
    def test_of_one_transaction_more_never_cost_less(
        self, model: Percentage, found: list[Decimal], more: Decimal
    ) -> None:
        assert rated(of_transactions(model, found)).exact <= rated(of_transactions(model, [*found, more])).exact

    @given(tiers(), st.lists(cents, min_size=1, max_size=4))
    def test_graduated_are_cumulative_and_go_on_over_parts(self, found: tuple[Tier, ...], parts: list[Decimal]) -> None:
        model = GraduatedPercentage(tiers=found)
        usage = [(version(model, number), part, None) for number, part in enumerate(parts, 1)]
        expected = cumulative(Graduated(tiers=found), Fraction(sum(parts, Decimal(0))))
        assert Fraction(rated(*usage).exact) == expected

    @given(st.lists(st.decimals(min_value=-1000, max_value=1000, places=2), min_size=1, max_size=4), amounts)
    def test_dynamic_amounts_add_up_below_0_too(self, parts: list[Decimal], multiplier: Decimal) -> None:
        usage = [(version(Dynamic(multiplier=multiplier), number), part, None) for number, part in enumerate(parts, 1)]
        assert Fraction(rated(*usage).exact) == Fraction(sum(parts, Decimal(0))) * Fraction(multiplier)


VALUES = st.tuples(st.sampled_from(["GET", "PUT", "POST"]), st.sampled_from(["/a", "/b"]))
patterns = st.tuples(st.sampled_from([None, "GET", "PUT"]), st.sampled_from([None, "/a"]))
matrices = st.builds(
    Matrix,
    dimensions=st.just((Dimension.METHOD, Dimension.ENDPOINT)),
    cells=st.lists(st.builds(MatrixCell, values=patterns, unit_price=amounts), min_size=1, max_size=4).map(tuple),
    unit_price=amounts,
)


def in_cells(model: Matrix, found: Sequence[tuple[tuple[str, str], Decimal]]) -> tuple[PriceVersion, Exact, Detail]:
    return version(model), exact_sum([quantity for _, quantity in found]), Cells(quantities=tuple(found))


class TestMatrices:
    @given(matrices, st.lists(st.tuples(VALUES, cents), max_size=6), st.randoms(use_true_random=False))
    def test_cost_what_each_unit_does_in_its_first_cell_in_any_order(
        self, model: Matrix, found: list[tuple[tuple[str, str], Decimal]], chance: random.Random
    ) -> None:
        def unit_price(values: tuple[str, str]) -> Decimal:
            for cell in model.cells:
                if all(wanted in (None, value) for wanted, value in zip(cell.values, values, strict=True)):
                    return cell.unit_price
            return model.unit_price or Decimal(0)

        expected = sum((Fraction(quantity) * Fraction(unit_price(values)) for values, quantity in found), Fraction(0))
        assert Fraction(rated(in_cells(model, found)).exact) == expected
        assert rated(in_cells(model, chance.sample(found, len(found)))).exact == rated(in_cells(model, found)).exact


def in_windows(model: PriceModel, found: Sequence[Decimal], **more: object) -> tuple[PriceVersion, Exact, Detail]:
    starts = (START + timedelta(hours=number) for number in range(len(found)))
    windows = Windows(quantities=tuple(zip(starts, found, strict=True)))
    return version(model, window=WindowRating(seconds=3600), **more), exact_sum(list(found)), windows


class TestWindows:
    @given(models, st.lists(cents, min_size=1, max_size=5), st.randoms(use_true_random=False))
    def test_are_rated_each_by_itself_in_any_order(
        self, model: PriceModel, found: list[Decimal], chance: random.Random
    ) -> None:
        alone = sum((Fraction(rated((version(model), one, None)).exact) for one in found), Fraction(0))
        assert Fraction(rated(in_windows(model, found)).exact) == alone
        assert Fraction(rated(in_windows(model, chance.sample(found, len(found)))).exact) == alone

    @given(st.lists(cents, min_size=1, max_size=5), positive, st.booleans())
    def test_come_to_their_commitments_at_least(self, found: list[Decimal], least: Decimal, true_up: bool) -> None:
        commitment = Commitment(amount=least, overage_factor=Decimal("1.5"), true_up=true_up)
        expected = sum(
            (
                Fraction(least) + (Fraction(one) - Fraction(least)) * Fraction(3, 2)
                if one > least
                else Fraction(least if true_up else one)
                for one in found
            ),
            Fraction(0),
        )
        usage = in_windows(Standard(unit_price=Decimal(1)), found, commitment=commitment)
        assert Fraction(rated(usage).exact) == expected


def steps_of(levels: Sequence[int], bounds: Sequence[Fraction]) -> Levels:
    """Return the steps of a level that changes at each bound (a share of the period); it begins at the first."""
    before = [0, *levels]
    return Levels(
        steps=tuple(
            LevelStep(before=Decimal(one), after=Decimal(other), share=1 - bound)
            for one, other, bound in zip(before, levels, bounds, strict=False)
        )
    )


class TestLevels:
    def test_by_volume_are_in_the_tier_of_the_highest_of_all_versions(self) -> None:
        """To 5 at 10, then all at 5: 8 for half of the first half, then 3 for the rest."""
        model = Volume(
            tiers=(Tier(up_to=Decimal(5), unit_price=Decimal(10)), Tier(up_to=None, unit_price=Decimal(5))),
            prorated=True,
        )
        quarter = Fraction(1, 4)
        rise = LevelStep(before=Decimal(0), after=Decimal(8), share=2 * quarter)
        fall = LevelStep(before=Decimal(8), after=Decimal(3), share=quarter)
        rest = LevelStep(before=Decimal(0), after=Decimal(3), share=2 * quarter)
        found = rated(
            (version(model, 1), Decimal(3), Levels(steps=(rise, fall))),
            (version(model, 2), Decimal(3), Levels(steps=(rest,))),
        )
        assert Fraction(found.exact) == 5 * (8 * quarter + 3 * 3 * quarter)

    @given(tiers(), st.lists(st.tuples(st.integers(0, 60), shares), min_size=1, max_size=5))
    def test_cost_what_each_instant_costs_weighed_by_time(
        self, found: tuple[Tier, ...], changes: list[tuple[int, Fraction]]
    ) -> None:
        ordered = sorted(changes, key=lambda change: change[1])
        levels, bounds = [level for level, _ in ordered], [share for _, share in ordered]
        without_fees = tuple(Tier(up_to=one.up_to, unit_price=one.unit_price) for one in found)
        ends = [*bounds[1:], Fraction(1)]
        expected = sum(
            (
                cumulative(Graduated(tiers=without_fees), Fraction(level)) * (end - start)
                for level, start, end in zip(levels, bounds, ends, strict=True)
            ),
            Fraction(0),
        )
        lowers = [Fraction(0), *(Fraction(one.up_to) for one in found if one.up_to is not None)]
        entered = (Fraction(one.flat_fee) for one, lower in zip(found, lowers, strict=True) if max(levels) > lower)
        expected += sum(entered, Fraction(0))
        model = Graduated(tiers=found, prorated=True)
        assert Fraction(rated((version(model), Decimal(levels[-1]), steps_of(levels, bounds))).exact) == expected

    @given(tiers(), st.lists(st.integers(0, 60), min_size=2, max_size=5))
    def test_a_change_that_is_taken_back_at_once_costs_fees_alone(
        self, found: tuple[Tier, ...], levels: list[int]
    ) -> None:
        without_fees = tuple(Tier(up_to=one.up_to, unit_price=one.unit_price) for one in found)
        model = Graduated(tiers=without_fees, prorated=True)
        half = Fraction(1, 2)
        plain = steps_of([levels[0]], [Fraction(0)])
        moved = steps_of([levels[0], *levels[1:], levels[0]], [Fraction(0), *[half] * len(levels)])
        one, other = (rated((version(model), Decimal(levels[0]), detail)) for detail in (plain, moved))
        assert one.exact == other.exact


discounts = st.none() | st.builds(PercentOff, rate=st.decimals(0, 1, places=2)) | st.builds(AmountOff, amount=positive)


class TestBounds:
    @given(cents, discounts, st.none() | positive, st.none() | positive, shares.filter(bool))
    def test_are_taken_in_their_order_and_by_their_share(
        self,
        quantity: Decimal,
        discount: Discount | None,
        maximum: Decimal | None,
        minimum: Decimal | None,
        share: Fraction,
    ) -> None:
        if maximum is not None and minimum is not None:
            maximum = max(maximum, minimum)
        found = Adjustments(discount=discount, maximum=maximum, minimum=minimum)
        one = version(Standard(unit_price=Decimal(1)), adjustments=found)
        expected = Fraction(quantity)
        match discount:
            case PercentOff(rate=off):
                expected -= expected * Fraction(off)
            case AmountOff(amount=off):
                expected = max(expected - Fraction(off) * share, Fraction(0))
        if maximum is not None:
            expected = min(expected, Fraction(maximum) * share)
        if minimum is not None:
            expected = max(expected, Fraction(minimum) * share)
        result = rated((one, quantity, None), share=share)
        assert Fraction(result.exact) == expected
        assert sum(line.kind is LineKind.MINIMUM for line in result.lines) <= 1

    @given(st.lists(st.tuples(cents, st.none() | positive, st.none() | positive), min_size=2, max_size=3))
    def test_of_several_versions_count_by_their_shares_and_a_maximum_where_all_have_one(
        self, parts: list[tuple[Decimal, Decimal | None, Decimal | None]]
    ) -> None:
        share = Fraction(1, len(parts))
        found = [
            version(Standard(unit_price=Decimal(1)), number, adjustments=Adjustments(maximum=most, minimum=least))
            for number, (_, most, least) in enumerate(parts, 1)
        ]
        used = [(one, quantity, None) for one, (quantity, _, _) in zip(found, parts, strict=True)]
        expected = sum((Fraction(quantity) for quantity, _, _ in parts), Fraction(0))
        mosts = [Fraction(most) for _, most, _ in parts if most is not None]
        if len(mosts) == len(parts):
            expected = min(expected, sum(mosts, Fraction(0)) * share)
        leasts = [Fraction(least) for _, _, least in parts if least is not None]
        if leasts:
            expected = max(expected, sum(leasts, Fraction(0)) * share)
        assert Fraction(rated(*used, share=share).exact) == expected

    @given(cents, positive, st.sampled_from(["1", "1.5", "2"]), st.booleans())
    def test_a_commitment_is_reached_where_it_is_trued_up(
        self, quantity: Decimal, least: Decimal, factor: str, true_up: bool
    ) -> None:
        commitment = Commitment(amount=least, overage_factor=Decimal(factor), true_up=true_up)
        result = Fraction(
            rated((version(Standard(unit_price=Decimal(1)), commitment=commitment), quantity, None)).exact
        )
        if quantity >= least:
            assert result == Fraction(least) + (Fraction(quantity) - Fraction(least)) * Fraction(factor)
        else:
            assert result == (least if true_up else quantity)

    @given(st.integers(0, 10**6), st.lists(st.integers(-500, 10**6), min_size=1, max_size=6))
    def test_a_coupon_is_shared_out_to_the_minor_unit_and_never_takes_more_than_there_is(
        self, off: int, charged: list[int]
    ) -> None:
        found = share_out(Money(off, "USD"), [Money(one, "USD") for one in charged])
        assert sum(one.minor_units for one in found) == min(off, sum(max(one, 0) for one in charged))
        assert all(0 <= one.minor_units <= max(given, 0) for one, given in zip(found, charged, strict=True))


class TestLineShares:
    def test_the_largest_remainder_has_the_rest(self) -> None:
        """0.004, 0.004 and 0.009 are 0.017, rounded 0.02: the third is rounded up, and the first of the two that are alike."""
        prices = [Decimal("0.004"), Decimal("0.004"), Decimal("0.009")]
        bounds = [Decimal(1), Decimal(2), None]
        found = tuple(Tier(up_to=bound, unit_price=price) for bound, price in zip(bounds, prices, strict=True))
        shares = line_shares(rated((version(Graduated(tiers=found)), Decimal(3), None)), "USD")
        assert [share.net.minor_units for share in shares] == [1, 0, 1]


class TestTiers:
    @given(tiers(), quantities)
    def test_every_decimal_from_0_on_lies_in_exactly_one(self, found: tuple[Tier, ...], quantity: Decimal) -> None:
        bounds = [Fraction(-1), *(Fraction(10**40 if one.up_to is None else one.up_to) for one in found)]
        inside = [number for number, (low, high) in enumerate(pairwise(bounds), 1) if low < Fraction(quantity) <= high]
        price = Price(price_id="p", meter_id="m", currency="USD", versions=(version(Graduated(tiers=found)),))
        assert [tier_of(price, found, quantity)[0]] == inside

    @given(tiers(), quantities, st.sampled_from(["0.001", "0.000000001", "1"]))
    def test_graduated_is_continuous_but_for_the_fees_of_tiers_that_are_entered(
        self, found: tuple[Tier, ...], quantity: Decimal, step: str
    ) -> None:
        one, other = (
            rated((version(Graduated(tiers=found)), size, None)).exact for size in (quantity, quantity + Decimal(step))
        )
        lowers = [Fraction(0), *(Fraction(tier.up_to) for tier in found if tier.up_to is not None)]
        entered = [
            Fraction(tier.flat_fee)
            for tier, low in zip(found, lowers, strict=True)
            if Fraction(quantity) <= low < Fraction(quantity) + Fraction(step)
        ]
        rise = Fraction(other) - Fraction(one) - sum(entered, Fraction(0))
        prices = [Fraction(tier.unit_price) for tier in found]
        assert min(prices) * Fraction(step) <= rise <= max(prices) * Fraction(step)

    @given(tiers(), quantities.filter(bool), st.sampled_from(["0.001", "1"]))
    def test_volume_jumps_at_bounds_alone(self, found: tuple[Tier, ...], quantity: Decimal, step: str) -> None:
        more = quantity + Decimal(step)
        price = Price(price_id="p", meter_id="m", currency="USD", versions=(version(Volume(tiers=found)),))
        (one, tier), (other, _) = (tier_of(price, found, size) for size in (quantity, more))
        rise = exact_sum([rated((version(Volume(tiers=found)), more, None)).exact]) - exact_sum(
            [rated((version(Volume(tiers=found)), quantity, None)).exact]
        )
        if one == other:
            assert Fraction(rise) == Fraction(tier.unit_price) * Fraction(step)
        else:
            assert quantity <= (tier.up_to or more) < more


everything = st.one_of(
    models.flatmap(lambda model: quantities.map(lambda used: (version(model), used, None))),
    st.builds(of_transactions, percentages, st.lists(positive, min_size=1, max_size=4)),
    st.builds(in_cells, matrices, st.lists(st.tuples(VALUES, cents), max_size=3)),
    st.builds(in_windows, models, st.lists(cents, min_size=1, max_size=3)),
)


class TestCorrections:
    @given(st.lists(everything, min_size=1, max_size=4))
    def test_telescope_and_their_undoing_is_identity(
        self, states: list[tuple[PriceVersion, Exact, Detail | None]]
    ) -> None:
        """Any chain of ratings of one charge, and back again to the first: the books hold what it comes to, in every step."""
        booked: BookedCharge | None = None
        books = posted = 0
        for state in [*states, states[0]]:
            result = rated(state)
            charge = Charge(key=KEY, account_id="a", plan_id="l", meter_id="m", currency="USD", rated=result)
            revision = difference(charge, booked)
            if revision is not None:
                books += revision.delta.minor_units
                sides = postings(revision)
                assert sum(side.amount.minor_units for side in sides) == 0
                posted += sum(side.amount.minor_units for side in sides if side.posting_number == 1)
                booked = BookedCharge(
                    revision=revision.revision, amount=charge.amount, rating_digest=charge.rating_digest
                )
            assert difference(charge, booked) is None
            assert books == posted == charge.amount.minor_units
        assert books == to_money(rated(states[0]).exact, "USD").minor_units


class TestSplits:
    ZONES = ("UTC", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu")

    @given(
        st.sampled_from(ZONES),
        st.integers(1, 31),
        st.sampled_from([(2024, 2), (2026, 3), (2026, 4), (2026, 10), (2026, 11)]),
        st.lists(st.integers(1, 27 * 86_400), max_size=5, unique=True),
    )
    def test_a_fee_keeps_its_total_whatever_instants_cut_the_period(
        self, zone: str, day: int, month: tuple[int, int], cuts: list[int]
    ) -> None:
        whole = BillingAnchor(day=day, zone=zone).period_containing(datetime(*month, 28, 12, tzinfo=UTC))
        always = datetime(2020, 1, 1, tzinfo=UTC)
        fee = PriceVersion(version=1, model=FlatFee(amount=Decimal("99.99")), effective_from=always)
        price = Price(price_id="p", meter_id=None, currency="USD", versions=(fee,))
        bounds = [whole.start, *(whole.start + timedelta(seconds=at) for at in sorted(cuts)), whole.end]
        parts = [
            rate_flat_fee(price=price, period=BillingPeriod(Window(start, end), whole), zone=zone).exact
            for start, end in pairwise(bounds)
        ]
        assert Fraction(exact_sum(parts)) == Fraction("99.99")

    @given(st.lists(st.integers(0, 400), min_size=1, max_size=12), st.data())
    def test_usage_that_adds_up_costs_the_same_however_it_is_cut(self, hours: list[int], data: st.DataObject) -> None:
        """Standard and dynamic prices over hours, cut into charges at any hours: every cut begins anew, and nothing is lost."""
        model = data.draw(st.sampled_from([Standard(unit_price=Decimal("0.0137")), Dynamic(multiplier=Decimal("1.7"))]))
        cuts = sorted(data.draw(st.sets(st.integers(1, len(hours)), max_size=4)) | {len(hours)})
        totals = list(accumulate(hours, initial=0))
        parts = [totals[end] - totals[start] for start, end in pairwise([0, *cuts])]
        alone = [rated((version(model), Decimal(part), None)).exact for part in parts]
        assert exact_sum(alone) == rated((version(model), Decimal(sum(hours)), None)).exact


def test_the_references_are_not_rating_itself() -> None:
    with pytest.raises(AssertionError):
        cumulative(Dynamic(), Fraction(1))
