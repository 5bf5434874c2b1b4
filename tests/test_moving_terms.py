"""Tiers on seats, a billing anchor that moves, units that are included once, and the line of a minimum: with figures."""

from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing_pipeline.amounts import exact_sum
from billing_pipeline.billing_schedule import scheduled_charges, subscription_periods
from billing_pipeline.catalog import (
    AmountOff,
    CatalogError,
    Coupon,
    FlatFee,
    Price,
    PriceVersion,
    Tier,
    Tiering,
    UnitConversion,
)
from billing_pipeline.invoicing.items import ItemKind
from billing_pipeline.periods import Window, billing_periods, cuts
from billing_pipeline.rating import VersionUsage, rate, rate_flat_fee
from resources.catalog_store import CatalogEntryInUseError, CatalogStore
from resources.charge_store import ChargeStore
from resources.database import Database
from resources.invoicing.account_books import read_books
from resources.invoicing.invoice_store import InvoiceStore
from resources.subscriptions.reader import account_subscriptions
from tests.test_billing_schedule import LIFE, MARCH, YEAR, at, catalog, charges, fee, price, rated, shown
from tests.test_charge_store import book, day, use
from tests.test_subscription_charges import Books

TIERED = price("seats", 'model = "flat_fee"\nper = "seat"\ntiers = [{ up_to = "3", unit_price = "10" }, '
               '{ unit_price = "8", flat_fee = "1" }]')  # fmt: skip
SEATS = '[[plan]]\nid = "team"\nprices = ["seats"]\n'
HELD = 'plan = "team"\nstarts_at = 2026-01-01T00:00:00Z\nquantities = { seat = 5 }\n'


class TestTiersOnSeats:
    def test_seats_are_charged_by_the_tiers_that_they_lie_in(self) -> None:
        (seats,) = rated(catalog(HELD, prices=TIERED, plans=SEATS), "seats", MARCH)
        assert [(line.tier, line.quantity, line.unit, line.unit_price) for line in seats.lines] == [
            (1, Decimal(3), "seat", Decimal(10)),
            (2, Decimal(2), "seat", Decimal(8)),
            (2, Decimal(1), "tier fee", Decimal(1)),
        ]
        assert (seats.exact, seats.quantity, seats.unit) == (Decimal(47), Decimal(5), "seat")

    def test_all_of_them_by_one_tier_where_it_is_by_volume(self) -> None:
        by_volume = TIERED.replace('per = "seat"', 'per = "seat"\ntiering = "volume"')
        (seats,) = rated(catalog(HELD, prices=by_volume, plans=SEATS), "seats", MARCH)
        assert seats.exact == Decimal(41)

    @pytest.mark.parametrize(("seats", "cost"), [(0, 0), (3, 30), ("3.5", 35), (4, 39), (100, 807)])
    def test_on_the_bounds(self, seats: object, cost: int) -> None:
        found = catalog(HELD.replace("seat = 5", f'seat = "{seats}"'), prices=TIERED, plans=SEATS)
        (charge,) = rated(found, "seats", MARCH)
        assert charge.exact == cost

    def test_seats_that_come_later_count_for_the_time_that_they_are_held(self) -> None:
        more = HELD + "changes = [{ at = 2026-03-16T00:00:00Z, quantities = { seat = 7 } }]"
        (seats,) = rated(catalog(more, prices=TIERED, plans=SEATS), "seats", MARCH)
        assert seats.exact == Fraction(47 * 15 + 63 * 16, 31)
        assert seats.quantity == Fraction(5 * 15 + 7 * 16, 31)

    def test_a_bounded_last_tier_that_is_exceeded_is_found_by_the_check_of_the_catalog(self) -> None:
        bounded = TIERED.replace('{ unit_price = "8"', '{ up_to = "4", unit_price = "8"')
        with pytest.raises(
            CatalogError, match="quantities: 5 seat are beyond the last tier of price 'seats', which ends at 4"
        ):
            catalog(HELD, prices=bounded, plans=SEATS)

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ('per = "seat"\n', "", "are of a quantity of the subscription"),
            ('unit_price = "10"', 'unit_price = "10", package_size = "2"', "of a fee has up_to, unit_price and flat_fee"),
            ('{ up_to = "3"', '{ above = "1", up_to = "3"', "leaves a gap"),
            ('per = "seat"\n', 'per = "seat"\namount = "3"\n', "needs amount or tiers: write one of them"),
            ("tiers = [", 'tiering = "volume"\namount = "3" # [', "tiering: goes with tiers"),
        ],
    )  # fmt: skip
    def test_are_refused_where_they_say_nothing(self, old: str, new: str, message: str) -> None:
        with pytest.raises(CatalogError, match=message):
            catalog(HELD, prices=TIERED.replace(old, new), plans=SEATS)

    @given(
        st.lists(st.integers(0, 12), min_size=1, max_size=5),
        st.sampled_from(Tiering),
        st.sampled_from(["2026-03-01T00:00", "2026-03-08T07:30", "2026-03-20T11:17"]),
    )
    def test_cost_what_each_instant_costs_weighed_by_time(self, seats: list[int], tiering: Tiering, begin: str) -> None:
        """Splitting a period changes nothing: as a short reference on fractions has it, instant by instant."""
        tiers = (
            Tier(up_to=Decimal(3), unit_price=Decimal(10)),
            Tier(up_to=None, unit_price=Decimal(8), flat_fee=Decimal(1)),
        )
        version = PriceVersion(
            version=1, model=FlatFee(per="seat", tiers=tiers, tiering=tiering), effective_from=LIFE.start
        )
        one = Price(price_id="p", meter_id=None, currency="USD", versions=(version,))
        step = (MARCH.end - at(begin)) / len(seats)
        bounds = [at(begin) + number * step for number in range(len(seats))]
        changes = "".join(
            f"{{ at = {bound:%Y-%m-%dT%H:%M:%SZ}, quantities = {{ seat = {count} }} }},\n"
            for bound, count in zip(bounds[1:], seats[1:], strict=True)
        )
        body = f"plan = 'team'\nstarts_at = {begin}:00Z\nquantities = {{ seat = {seats[0]} }}\nchanges = [{changes}]"
        (scheduled,) = charges(catalog(body, prices=TIERED, plans=SEATS), MARCH)
        found = rate_flat_fee(price=one, period=scheduled.period, zone="UTC", held=scheduled.held)

        def cost(count: Decimal) -> Fraction:
            if tiering is Tiering.VOLUME:
                return Fraction(count * 10 if count <= 3 else count * 8 + 1)
            return Fraction(min(count, 3) * 10 + (((count - 3) * 8 + 1) if count > 3 else 0))

        expected = (
            sum((cost(part.quantities["seat"]) * part.window.seconds for part in scheduled.held), Fraction(0))
            / scheduled.period.whole.seconds
        )
        assert Fraction(found.exact) == expected
        assert Fraction(exact_sum([line.amount for line in found.lines])) == expected


MOVED = """
plan = "basic"
starts_at = 2026-01-01T00:00:00Z
quantities = { seat = 1 }
changes = [{ at = 2026-03-10T00:00:00Z, anchor_day = 15 }]
"""


class TestMovedAnchor:
    def test_the_period_is_cut_and_both_stubs_are_prorated(self) -> None:
        found = catalog(MOVED)
        spring = Window(at("2026-02-01T00:00"), at("2026-05-01T00:00"))
        periods = ["02-01T00:00 03-01T00:00", "03-01T00:00 03-10T00:00", "03-10T00:00 03-15T00:00",
                   "03-15T00:00 04-15T00:00", "04-15T00:00 05-15T00:00"]  # fmt: skip
        assert shown(found, "basic_fee", spring) == shown(found, "requests", spring) == periods
        fees = [one.exact for one in rated(found, "basic_fee", spring)]
        assert fees == [10, Fraction(90, 31), Fraction(50, 28), 10, 10]
        invoices = billing_periods(found.subscriptions["s"], spring)
        assert [f"{one.window.start:%m-%dT%H:%M} {one.window.end:%m-%dT%H:%M}" for one in invoices] == periods

    def test_quarters_are_counted_anew_from_the_move(self) -> None:
        found = catalog(MOVED.replace('"basic"', '"business"').replace("quantities = { seat = 1 }\n", ""))
        assert shown(found, "support") == [
            "01-01T00:00 03-10T00:00", "03-10T00:00 05-15T00:00", "05-15T00:00 08-15T00:00", "08-15T00:00 11-15T00:00",
            "11-15T00:00 02-15T00:00",
        ]  # fmt: skip

    def test_end_of_the_month_is_that_of_the_anchor_in_force(self) -> None:
        more = ', { at = 2026-04-01T00:00:00Z, at_end_of = "month", cancel = true }]'
        assert catalog(MOVED.replace("]", more)).subscriptions["s"].ends_at == at("2026-04-15T00:00")
        earlier = more.replace("2026-04-01", "2026-02-01")
        assert catalog(MOVED.replace("]", earlier)).subscriptions["s"].ends_at == at("2026-03-01T00:00")

    def test_usage_rows_end_where_it_moves_and_at_its_new_time_of_day(self) -> None:
        found = catalog(
            MOVED.replace("2026-03-10T00:00:00Z, anchor_day = 15", "2026-03-10T10:20:30Z, anchor_time = 14:37:12")
        )
        assert cuts(found.subscriptions.values(), Window(at("2026-03-10T00:00"), at("2026-05-02T00:00"))) == (
            at("2026-03-10T10:20:30"), at("2026-04-01T14:37:12"), at("2026-05-01T14:37:12"),
        )  # fmt: skip

    def test_a_coupon_counts_the_periods_that_are_billed(self) -> None:
        subscription = catalog(MOVED).subscriptions["s"]
        coupon = Coupon(coupon_id="c", version=1, discount=AmountOff(amount=Decimal(1)), currency="USD", periods=3)
        starts = [period.start for period in map(subscription.period_containing, map(at, (
            "2026-03-01T00:00", "2026-03-12T00:00", "2026-03-20T00:00", "2026-04-20T00:00")))]  # fmt: skip
        covered = [
            coupon.covers(subscription, at("2026-03-05T00:00"), subscription.period_containing(one)) for one in starts
        ]
        assert covered == [True, True, True, False]

    def test_a_coupon_until_an_instant_does_not_count_for_the_period_that_begins_then(self) -> None:
        subscription = catalog(
            'plan = "basic"\nstarts_at = 2026-01-01T00:00:00Z\nquantities = { seat = 1 }\n'
        ).subscriptions["s"]
        until = at("2026-05-01T00:00")
        coupon = Coupon(coupon_id="c", version=1, discount=AmountOff(amount=Decimal(1)), currency="USD", until=until)
        periods = [subscription.period_containing(at(f"2026-0{month}-15T00:00")) for month in (2, 3, 4, 5)]
        covered = [coupon.covers(subscription, at("2026-03-31T23:59"), period) for period in periods]
        assert covered == [False, True, True, False]

    @given(st.data())
    def test_periods_tile_the_life_whatever_moves(self, data: st.DataObject) -> None:
        zone = data.draw(st.sampled_from(["UTC", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]))
        days = sorted(data.draw(st.sets(st.integers(1, 700), min_size=1, max_size=4)))
        moves = "".join(
            f"{{ at = {at('2026-01-01T00:00') + number * (at('2026-01-02T00:30') - at('2026-01-01T00:00')):%Y-%m-%dT%H:%M:%SZ}, "
            f"anchor_day = {data.draw(st.integers(1, 31))}, anchor_time = 0{data.draw(st.integers(0, 9))}:17:00 }},\n"
            for number in days
        )
        body = f'plan = "basic"\nstarts_at = 2025-12-30T09:41:07Z\nquantities = {{ seat = 1 }}\nchanges = [\n{moves}]'
        found = catalog(body, zone=zone)
        subscription = found.subscriptions["s"]
        window = Window(at("2025-12-01T00:00"), at("2028-06-01T00:00"))
        for cadence_periods in (
            [one.window for one, _ in subscription_periods(subscription, window)],
            [one.window for one in billing_periods(subscription, window)],
            [
                one.period.window
                for one in scheduled_charges(found, subscription, window)
                if one.price.price_id == "requests"
            ],
        ):
            assert cadence_periods[0].start == subscription.starts_at
            assert all(one.end == two.start for one, two in pairwise(cadence_periods))
            assert cadence_periods[-1].end >= window.end
        for one in billing_periods(subscription, window):
            assert one.whole.start <= one.window.start < one.window.end <= one.whole.end

    def test_moves_what_was_booked_by_a_difference(self, database: Database, tmp_path: Path) -> None:
        books = Books(database, tmp_path / "catalog")
        prices = fee("hundred", "100.00", head='timing = "advance"\n')
        plans = '[[plan]]\nid = "hundred"\nprices = ["hundred"]\n'
        start = 'plan = "hundred"\nstarts_at = 2026-03-01T00:00:00Z\n'
        books.subscribe(start, prices=prices, plans=plans)
        assert books.book("2026-03-01") == 100_00
        books.subscribe(
            start + "changes = [{ at = 2026-03-10T00:00:00Z, anchor_day = 15 }]", prices=prices, plans=plans
        )
        # April's fee, from March 15th on, is booked with what March's had reached.
        assert books.book("2026-03-10") == -100_00 + 29_03 + 17_86 + 100_00
        assert books.book("2026-03-15") == 0
        assert {period: cents for (_, period), (cents, _) in books.charges().items()} == {
            "03-01 00:00 to 03-10 00:00": 29_03,
            "03-10 00:00 to 03-15 00:00": 17_86,
            "03-15 00:00 to 04-15 00:00": 100_00,
        }
        with database.reading() as connection:
            known = account_subscriptions(connection, "acme")["s"]
        assert known.anchored == CatalogStore(database).current().subscriptions["s"].anchored
        with pytest.raises(CatalogEntryInUseError):
            books.subscribe(
                start + "changes = [{ at = 2026-03-10T00:00:00Z, anchor_day = 16 }]", prices=prices, plans=plans
            )

    def test_drafts_follow_it_and_ask_for_what_is_booked(self, database: Database, tmp_path: Path) -> None:
        books = Books(database, tmp_path / "catalog")
        prices, plans = fee("hundred", "100.00"), '[[plan]]\nid = "hundred"\nprices = ["hundred"]\n'
        start = 'plan = "hundred"\nstarts_at = 2026-03-01T00:00:00Z\n'
        books.subscribe(start, prices=prices, plans=plans)
        books.book("2026-03-01")
        invoices = InvoiceStore(database)
        invoices.compile_invoices(as_of=at("2026-03-05T00:00"))
        books.subscribe(
            start + "changes = [{ at = 2026-03-10T00:00:00Z, anchor_day = 15 }]", prices=prices, plans=plans
        )
        books.book("2026-03-10", "2026-03-15")
        invoices.compile_invoices(as_of=at("2026-03-16T00:00"))
        with database.reading() as connection:
            rows = connection.execute(
                "select period_start, period_end, total_minor from invoicing.invoice where total_minor <> 0 order by 1"
            ).fetchall()
        assert [(f"{start:%m-%d}", f"{end:%m-%d}", total) for start, end, total in rows] == [
            ("03-01", "03-10", 29_03),
            ("03-10", "03-15", 17_86),
            ("03-15", "04-15", 100_00),
        ]


ONCE = price("requests", 'model = "standard"\nunit_price = "1"\nincluded_units = "100"\nincluded_reset = "never"',
             head='meter = "requests"\n')  # fmt: skip
REQUESTS = '[[plan]]\nid = "metered"\nprices = ["requests"]\n'
METERED = 'plan = "metered"\nstarts_at = 2026-01-01T00:00:00Z\n'


class TestIncludedOnce:
    @pytest.mark.parametrize(
        ("before", "used", "billed"), [(0, 80, 0), (80, 80, 60), (160, 50, 50), (0, 100, 0), (100, 0, 0), (0, 250, 150)]
    )
    def test_what_is_beyond_the_limit_is_charged_once(self, before: int, used: int, billed: int) -> None:
        version = PriceVersion(
            version=1, model=catalog(METERED, prices=ONCE, plans=REQUESTS).prices["requests"].versions[0].model,
            effective_from=LIFE.start, included_units=Decimal(100), is_included_once=True,
        )  # fmt: skip
        one = Price(price_id="p", meter_id="m", currency="USD", versions=(version,))
        usage = VersionUsage(version=version, quantity=Decimal(used), before=Decimal(before))
        assert rate(price=one, unit="request", usage=[usage]).exact == billed

    @given(st.lists(st.integers(0, 90), min_size=1, max_size=6), st.sampled_from([None, "3", "1000"]))
    def test_periods_come_to_what_one_long_period_does(self, used: list[int], divide: str | None) -> None:
        model = catalog(METERED, prices=ONCE, plans=REQUESTS).prices["requests"].versions[0].model
        conversion = None if divide is None else UnitConversion(unit="k", divide=Decimal(divide))
        limit = Decimal(100) if divide is None else Decimal("33.5")
        version = PriceVersion(
            version=1, model=model, effective_from=LIFE.start, included_units=limit, is_included_once=True,
            conversion=conversion,
        )  # fmt: skip
        one = Price(price_id="p", meter_id="m", currency="USD", versions=(version,))

        def cost(quantity: int, before: int) -> Fraction:
            usage = VersionUsage(version=version, quantity=Decimal(quantity), before=Decimal(before))
            return Fraction(rate(price=one, unit="request", usage=[usage]).exact)

        parts = [cost(quantity, sum(used[:place])) for place, quantity in enumerate(used)]
        assert sum(parts, Fraction(0)) == cost(sum(used), 0)

    def test_in_the_books_80_80_and_50_of_100_are_0_60_and_50_late_ones_too(
        self, database: Database, tmp_path: Path
    ) -> None:
        books = Books(database, tmp_path / "catalog")
        books.subscribe(METERED, prices=ONCE, plans=REQUESTS)
        for month, quantity in ((1, 80), (2, 80), (3, 50)):
            use(database, "acme", f"2026-0{month}-10T09:00", quantity)
        assert [books.book(f"2026-0{month}-10") for month in (1, 2, 3)] == [0, 60_00, 50_00]
        # Ten late requests in January: 10 of February's included units are gone, and February's charge follows.
        use(database, "acme", "2026-01-11T09:00", 10)
        assert books.book("2026-01-11") == 10_00
        assert {period: cents for (_, period), (cents, _) in books.charges().items()} == {
            "01-01 00:00 to 02-01 00:00": 0,
            "02-01 00:00 to 03-01 00:00": 70_00,
            "03-01 00:00 to 04-01 00:00": 50_00,
        }

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ('included_units = "100"\n', "", "says when included_units are given anew"),
            ('"never"', '"never"\nrestart_tiers = true', "would give included units anew"),
            ('"never"', '"never"\nconversion = { unit = "k", divide = "1000", rounding = "up" }', "leave rounding out"),
        ],
    )
    def test_is_refused_where_it_says_nothing(self, old: str, new: str, message: str) -> None:
        with pytest.raises(CatalogError, match=message):
            catalog(METERED, prices=ONCE.replace(old, new), plans=REQUESTS)


class TestMinimum:
    def test_is_a_line_of_its_own_kind_on_the_invoice(self, database: Database, tmp_path: Path) -> None:
        books = Books(database, tmp_path / "catalog")
        prices = fee("small", "4.00") + price("least", 'model = "minimum_spend"\namount = "10.00"')
        books.subscribe(
            'plan = "p"\nstarts_at = 2026-01-01T00:00:00Z\n',
            prices=prices,
            plans='[[plan]]\nid = "p"\nprices = ["small", "least"]\n',
        )
        book(ChargeStore(database), [day("2026-01-31")])
        with database.reading() as connection:
            found = read_books(connection, CatalogStore(database).current(), ["acme"], as_of=YEAR.end)["acme"]
        assert {one.description: (one.kind, one.amount.minor_units) for one in found.billables} == {
            "small": (ItemKind.FEE, 400),
            "least": (ItemKind.MINIMUM, 600),
        }
