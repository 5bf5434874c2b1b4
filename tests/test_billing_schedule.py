"""What is charged when: periods that tile a subscription's life, cadences, what a change splits and what it leaves whole."""

import re
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing_pipeline.billing_schedule import (
    ScheduledCharge,
    charge_at,
    scheduled_charges,
    subscription_periods,
    usage_cuts,
)
from billing_pipeline.cadences import Cadence, period_containing
from billing_pipeline.catalog import Catalog, CatalogError, parse_catalog
from billing_pipeline.periods import BillingAnchor, Window
from billing_pipeline.rating import Rated, rate_flat_fee
from billing_pipeline.rating.flat_fees import QuantityMissingError
from resources.settings import PROJECT_ROOT


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


LIFE = Window(at("2020-01-01T00:00"), at("2032-01-01T00:00"))
YEAR = Window(at("2026-01-01T00:00"), at("2027-01-01T00:00"))


def price(name: str, body: str, *, head: str = "") -> str:
    return (
        f'[[price]]\nid = "{name}"\ncurrency = "USD"\n{head}[[price.versions]]\nversion = 1\n'
        f"effective_from = 2020-01-01T00:00:00Z\n{body}\n"
    )


def fee(name: str, amount: str, *, head: str = "", per: str = "") -> str:
    return price(name, f'model = "flat_fee"\namount = "{amount}"\n' + (f'per = "{per}"\n' if per else ""), head=head)


PRICES = (
    fee("basic_fee", "10.00", head='timing = "advance"\n')
    + fee("pro_fee", "100.00", head='timing = "advance"\n')
    + fee("seats", "10.00", per="seat")
    + fee("support", "100.00", head='cadence = "quarter"\n')
    + fee("weekly", "7.00", head='cadence = "week"\n')
    + price("requests", 'model = "standard"\nunit_price = "0.10"', head='meter = "requests"\n')
)
PLANS = """
[[plan]]
id = "basic"
prices = ["basic_fee", "requests", "seats"]
[[plan]]
id = "pro"
prices = ["pro_fee", "requests", "seats"]
[[plan]]
id = "business"
prices = ["basic_fee", "support", "weekly"]
[[plan]]
id = "metered_trial"
prices = ["basic_fee", "requests"]
trial_covers = "fees"
"""
BILLABLE = 'version = 1\nsuccess_statuses = [[200, 299]]\nendpoints = [{ endpoint = "/a" }]\n'
METERS = '[[meter]]\nid = "requests"\naggregation = "count"\nunit = "request"\n'


def catalog(body: str, *, zone: str = "UTC", prices: str = PRICES, plans: str = PLANS) -> Catalog:
    """Return a catalog with one subscription `s` of account `acme`; `body` is what its table says beyond id and account."""
    accounts = f'[[account]]\nid = "acme"\nname = "Acme"\ncurrency = "USD"\ntime_zone = "{zone}"\n'
    texts = {
        "billable.toml": BILLABLE,
        "meters.toml": METERS,
        "prices.toml": prices,
        "plans.toml": plans,
        "accounts.toml": accounts,
        "subscriptions.toml": f'[[subscription]]\nid = "s"\naccount = "acme"\n{body}\n',
    }
    return parse_catalog({name: text.encode() for name, text in texts.items()})


def charges(found: Catalog, window: Window = YEAR) -> list[ScheduledCharge]:
    return list(scheduled_charges(found, found.subscriptions["s"], window))


def shown(found: Catalog, price_id: str, window: Window = YEAR) -> list[str]:
    """Return the periods of a price in UTC: `01-01 02-01`."""
    return [
        f"{one.period.window.start:%m-%dT%H:%M} {one.period.window.end:%m-%dT%H:%M}"
        for one in charges(found, window)
        if one.price.price_id == price_id
    ]


def rated(found: Catalog, price_id: str, window: Window = YEAR) -> list[Rated]:
    zone = found.accounts["acme"].time_zone
    return [
        rate_flat_fee(price=one.price, period=one.period, zone=zone, held=one.held)
        for one in charges(found, window)
        if one.price.price_id == price_id
    ]


MARCH = Window(at("2026-03-01T00:00"), at("2026-04-01T00:00"))
UPGRADED = """
plan = "basic"
starts_at = 2026-01-01T00:00:00Z
quantities = { seat = 5 }
changes = [
    { at = 2026-03-10T12:00:00Z, plan = "pro", note = "upgrade" },
    { at = 2026-03-16T00:00:00Z, quantities = { seat = 7 } },
]
"""


class TestScheduledCharges:
    def test_a_change_of_plan_splits_what_it_changes_at_that_instant(self) -> None:
        found = catalog(UPGRADED)
        assert shown(found, "basic_fee", MARCH) == ["03-01T00:00 03-10T12:00"]
        assert shown(found, "pro_fee", MARCH) == ["03-10T12:00 04-01T00:00"]

    def test_and_leaves_whole_what_both_plans_have(self) -> None:
        found = catalog(UPGRADED)
        assert shown(found, "requests", MARCH) == ["03-01T00:00 04-01T00:00"]
        assert shown(found, "seats", MARCH) == ["03-01T00:00 04-01T00:00"]

    def test_seats_are_charged_by_the_time_that_they_were_held(self) -> None:
        (seats,) = rated(catalog(UPGRADED), "seats", MARCH)
        assert [(line.quantity, line.unit) for line in seats.lines] == [
            (Fraction(75, 31), "seat"),
            (Fraction(112, 31), "seat"),
        ]
        assert seats.exact == Fraction(1870, 31)

    def test_nothing_is_charged_in_a_pause(self) -> None:
        found = catalog(
            'plan = "basic"\nstarts_at = 2026-01-01T00:00:00Z\nquantities = { seat = 5 }\nchanges = [\n'
            '{ at = 2026-03-10T00:00:00Z, status = "paused" }, { at = 2026-03-20T00:00:00Z, status = "active" }]'
        )
        expected = ["03-01T00:00 03-10T00:00", "03-20T00:00 04-01T00:00"]
        assert shown(found, "basic_fee", MARCH) == shown(found, "requests", MARCH) == expected

    def test_nothing_is_charged_in_a_trial_or_only_usage_where_the_plan_says_so(self) -> None:
        trial = "starts_at = 2026-03-01T00:00:00Z\ntrial_until = 2026-03-15T00:00:00Z\n"
        found = catalog('plan = "basic"\nquantities = { seat = 1 }\n' + trial)
        assert shown(found, "requests", MARCH) == shown(found, "basic_fee", MARCH) == ["03-15T00:00 04-01T00:00"]
        found = catalog('plan = "metered_trial"\n' + trial)
        assert shown(found, "basic_fee", MARCH) == ["03-15T00:00 04-01T00:00"]
        assert shown(found, "requests", MARCH) == ["03-01T00:00 04-01T00:00"]

    def test_a_cancellation_closes_the_last_period_at_its_second(self) -> None:
        found = catalog(
            'plan = "basic"\nstarts_at = 2026-01-01T00:00:00Z\nquantities = { seat = 5 }\n'
            "changes = [{ at = 2026-03-10T12:34:56Z, cancel = true }]"
        )
        assert shown(found, "requests", MARCH) == ["03-01T00:00 03-10T12:34"]
        assert charges(found)[-1].period.window.end == at("2026-03-10T12:34:56")
        assert charge_at(found, found.subscriptions["s"], found.prices["requests"], at("2026-03-10T12:34:56")) is None
        assert usage_cuts(found, found.subscriptions.values(), MARCH) == (at("2026-03-10T12:34:56"),)

    def test_what_falls_due_on_july_1st_is_junes_usage_and_julys_fee(self) -> None:
        found = catalog('plan = "basic"\nstarts_at = 2026-01-01T00:00:00Z\nquantities = { seat = 1 }')
        due = [
            (one.price.price_id, f"{one.period.window.start:%m-%d}")
            for one in charges(found)
            if at("2026-06-01T00:00") < one.due_at <= at("2026-07-01T00:00")
        ]
        assert sorted(due) == [("basic_fee", "07-01"), ("requests", "06-01"), ("seats", "06-01")]

    def test_a_monthly_and_a_quarterly_fee_in_arrears_are_due_10_10_and_110(self) -> None:
        prices = fee("monthly", "10.00") + fee("quarterly", "100.00", head='cadence = "quarter"\n')
        plans = '[[plan]]\nid = "p"\nprices = ["monthly", "quarterly"]\n'
        found = catalog('plan = "p"\nstarts_at = 2026-01-01T00:00:00Z', prices=prices + PRICES, plans=plans)
        due: dict[str, Decimal] = defaultdict(Decimal)
        for one in charges(found, Window(at("2026-01-01T00:00"), at("2026-03-31T00:00"))):
            amount = rate_flat_fee(price=one.price, period=one.period, zone="UTC", held=one.held).exact
            assert isinstance(amount, Decimal)
            due[f"{one.due_at - timedelta(seconds=1):%b}"] += amount
        assert due == {"Jan": 10, "Feb": 10, "Mar": 110}

    def test_several_subscriptions_of_an_account_have_periods_of_their_own(self) -> None:
        body = 'plan = "basic"\nstarts_at = 2026-01-01T00:00:00Z\nquantities = { seat = 1 }\n'
        other = (
            '[[subscription]]\nid = "t"\naccount = "acme"\nplan = "business"\nstarts_at = 2026-01-15T06:00:00Z\n'
            "anchor_day = 15\nanchor_time = 06:00:00\n"
        )
        found = catalog(body + other)
        days = {
            name: {one.period.window.start.day for one in scheduled_charges(found, found.subscriptions[name], MARCH)}
            for name in ("s", "t")
        }
        assert days["s"] == {1}
        assert 15 in days["t"]


class TestCadences:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("quarter", ["02-10T00:00 05-01T00:00", "05-01T00:00 08-01T00:00"]),
            ("half_year", ["02-10T00:00 08-01T00:00"]),
            ("5 months", ["02-10T00:00 07-01T00:00"]),
            ("2 weeks", ["02-10T00:00 02-24T00:00", "02-24T00:00 03-10T00:00"]),
        ],
    )
    def test_are_counted_from_the_period_of_the_start(self, text: str, expected: list[str]) -> None:
        prices = fee("it", "1.00", head=f'cadence = "{text}"\n')
        plans = '[[plan]]\nid = "p"\nprices = ["it"]\n'
        found = catalog('plan = "p"\nstarts_at = 2026-02-10T00:00:00Z', prices=prices, plans=plans)
        assert shown(found, "it")[: len(expected)] == expected

    def test_quarters_of_the_calendar_begin_in_the_anchors_month(self) -> None:
        found = catalog('plan = "business"\nstarts_at = 2026-02-10T00:00:00Z\nanchor_month = 1')
        assert shown(found, "support")[:2] == ["02-10T00:00 04-01T00:00", "04-01T00:00 07-01T00:00"]
        (first, *_) = rated(found, "support")
        assert first.exact == Fraction(100 * 50, 90) or first.lines[0].quantity == Fraction(50, 90)

    def test_spell_themselves(self) -> None:
        for text in ("week", "month", "quarter", "half_year", "year", "5 months", "2 weeks"):
            assert str(Cadence.parse(text)) == text
        assert Cadence.parse("3 months") == Cadence.parse("quarter")
        with pytest.raises(ValueError, match="is not a cadence"):
            Cadence.parse("fortnight")

    @pytest.mark.parametrize(
        ("zone", "day", "boundaries"),
        [
            # Both changes of clocks; 02:30 of March 8th is left out.
            ("America/New_York", 8, ["2026-02-08T07:30", "2026-03-08T07:30", "2026-04-08T06:30"]),
            ("America/New_York", 1, ["2026-10-01T06:30", "2026-11-01T07:30", "2026-12-01T07:30"]),
            ("Australia/Lord_Howe", 4, ["2026-09-03T16:00", "2026-10-03T15:30", "2026-11-03T15:30"]),
            ("Asia/Kathmandu", 31, ["2026-01-30T20:45", "2026-02-27T20:45", "2026-03-30T20:45"]),
            ("Asia/Kathmandu", 29, ["2027-01-28T20:45", "2027-02-27T20:45", "2027-03-28T20:45"]),
            ("Asia/Kathmandu", 30, ["2028-01-29T20:45", "2028-02-28T20:45", "2028-03-29T20:45"]),
        ],
    )
    def test_months_keep_their_local_time(self, zone: str, day: int, boundaries: list[str]) -> None:
        found = catalog(
            f'plan = "basic"\nstarts_at = {boundaries[0]}:00Z\nquantities = {{ seat = 1 }}\n'
            f"anchor_day = {day}\nanchor_time = 02:30:00",
            zone=zone,
        )
        window = Window(at(boundaries[0]), at(boundaries[0]) + timedelta(days=50))
        starts = [period.window.start for period, _ in subscription_periods(found.subscriptions["s"], window)]
        assert starts[: len(boundaries) - 1] == [at(one) for one in boundaries[:-1]]


zones = st.sampled_from(
    ["UTC", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Europe/Berlin", "Pacific/Apia"]
)
times = st.builds(lambda hour, minute: f"{hour:02}:{minute:02}:00", st.integers(0, 23), st.integers(0, 59))
seconds = st.integers(0, 500 * 86_400)
BEGIN = at("2023-11-20T00:00")
cadences = st.sampled_from(["week", "2 weeks", "month", "quarter", "5 months", "year"])


def _toml(instant: datetime) -> str:
    return f"{instant:%Y-%m-%dT%H:%M:%S}Z"


effects = st.one_of(
    st.sampled_from(['plan = "basic"', 'plan = "pro"', 'status = "paused"', 'status = "active"']),
    st.integers(0, 9).map(lambda seats: f"quantities = {{ seat = {seats} }}"),
)
bodies = st.builds(
    lambda start, day, time_of_day, changes, end: (
        'plan = "basic"\nquantities = { seat = 3 }\n'
        f"starts_at = {_toml(BEGIN + timedelta(seconds=start))}\nanchor_day = {day}\nanchor_time = {time_of_day}\nchanges = [\n"
        + "".join(
            f"{{ at = {_toml(BEGIN + timedelta(seconds=start + offset))}, {effect} }},\n"
            for offset, effect in [*changes, (end, "cancel = true")]
            if offset < end or effect == "cancel = true"
        )
        + "]"
    ),
    seconds,
    st.integers(1, 31),
    times,
    st.lists(st.tuples(seconds, effects), max_size=6),
    st.integers(1, 700 * 86_400),
)


class TestLaws:
    @settings(max_examples=60)
    @given(bodies, zones, cadences)
    def test_periods_tile_the_life_of_a_subscription(self, body: str, zone: str, cadence: str) -> None:
        subscription = catalog(body, zone=zone).subscriptions["s"]
        periods = [period for period, _ in subscription_periods(subscription, LIFE, Cadence.parse(cadence))]
        assert periods[0].window.start == subscription.starts_at
        assert periods[-1].window.end == subscription.ends_at
        assert all(one.window.end == other.window.start for one, other in pairwise(periods))
        assert all(period.whole.overlap(period.window.start, period.window.end) == period.window for period in periods)

    @settings(max_examples=60)
    @given(bodies, zones)
    def test_a_price_is_charged_for_each_instant_of_its_phases_once(self, body: str, zone: str) -> None:
        found = catalog(body, zone=zone)
        subscription = found.subscriptions["s"]
        billed: dict[str, int] = defaultdict(int)
        for charge in scheduled_charges(found, subscription, LIFE):
            billed[charge.price.price_id] += charge.period.window.seconds
            assert charge.held[0].window.start == charge.period.window.start
            assert charge.held[-1].window.end == charge.period.window.end
            assert all(one.window.end == other.window.start for one, other in pairwise(charge.held))
        expected: dict[str, int] = defaultdict(int)
        for phase in subscription.phases:
            assert phase.ends_at is not None
            for price_id in found.plan_of(phase).prices:
                if phase.status == "active":
                    expected[price_id] += Window(phase.starts_at, phase.ends_at).seconds
        assert billed == expected

    @settings(max_examples=60)
    @given(bodies, zones)
    def test_the_fee_of_seats_is_their_exact_sum_however_it_is_split(self, body: str, zone: str) -> None:
        found = catalog(body, zone=zone)
        subscription = found.subscriptions["s"]
        for prorate_days in (False, True):
            prices = PRICES.replace('id = "seats"', 'id = "seats"\nprorate = "day"') if prorate_days else PRICES
            total = sum(
                (Fraction(one.exact) for one in rated(catalog(body, zone=zone, prices=prices), "seats", LIFE)),
                Fraction(0),
            )
            expected = Fraction(0)
            for period, phase in subscription_periods(subscription, LIFE):
                if phase.status == "active":
                    share = (
                        (_local_days(period.window, zone), _local_days(period.whole, zone))
                        if prorate_days
                        else (period.window.seconds, period.whole.seconds)
                    )
                    expected += 10 * Fraction(phase.quantities["seat"]) * Fraction(*share)
            assert total == expected

    @given(st.integers(1, 31), zones, seconds, seconds, cadences)
    def test_every_instant_is_in_one_period_of_a_cadence(
        self, day: int, zone: str, since: int, later: int, cadence: str
    ) -> None:
        anchor, every = BillingAnchor(day=day, zone=zone), Cadence.parse(cadence)
        start = BEGIN + timedelta(seconds=since)
        instant = start + timedelta(seconds=later)
        period = period_containing(every, anchor, since=start, instant=instant)
        assert instant in period
        after = period_containing(every, anchor, since=start, instant=period.end)
        assert after.start == period.end
        before = period_containing(every, anchor, since=start, instant=period.start - timedelta(microseconds=1))
        assert before.end == period.start


def _local_days(window: Window, zone: str) -> int:
    from zoneinfo import ZoneInfo

    start, end = (instant.astimezone(ZoneInfo(zone)).date() for instant in (window.start, window.end))
    return (end - start).days


class TestQuantities:
    def test_a_fee_by_seats_needs_to_know_how_many(self) -> None:
        with pytest.raises(CatalogError, match=r"price 'seats' asks for each seat: say how many"):
            catalog('plan = "basic"\nstarts_at = 2026-01-01T00:00:00Z')

    def test_a_quantity_that_nothing_asks_for_is_a_mistake(self) -> None:
        with pytest.raises(CatalogError, match=r"quantities\.seats: is asked for by no price"):
            catalog('plan = "basic"\nstarts_at = 2026-01-01T00:00:00Z\nquantities = { seat = 1, seats = 2 }')

    def test_rating_refuses_a_gap(self) -> None:
        found = catalog('plan = "basic"\nstarts_at = 2026-01-01T00:00:00Z\nquantities = { seat = 1 }')
        (charge,) = [one for one in charges(found, MARCH) if one.price.price_id == "seats"]
        with pytest.raises(QuantityMissingError, match="for each seat"):
            rate_flat_fee(price=charge.price, period=charge.period, zone="UTC")

    def test_without_proration_the_quantity_at_the_start_counts_whole(self) -> None:
        prices = PRICES.replace('id = "seats"', 'id = "seats"\nprorate = "none"')
        (seats,) = rated(catalog(UPGRADED, prices=prices), "seats", MARCH)
        assert seats.exact == 50


class TestDocumentation:
    def test_the_page_s_example_means_what_it_says(self) -> None:
        page = (PROJECT_ROOT / "docs" / "subscriptions.md").read_text()
        example, plan_versions = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
        prices = "".join(fee(name, "1.00", per="seat") for name in ("team_fee", "team_fee_2026")) + PRICES
        plans = plan_versions + '[[plan]]\nid = "business"\nprices = ["team_fee"]\n'
        body = example.split('account = "acme"\n')[1]
        found = catalog(body, prices=prices, plans=plans).subscriptions["s"]
        assert [
            (f"{one.starts_at:%m-%d}", one.plan_id, one.plan_version, one.status.value) for one in found.phases
        ] == [
            ("01-01", "team", 1, "trial"),
            ("01-15", "team", 1, "active"),
            ("03-10", "business", 1, "active"),
            ("03-16", "business", 1, "active"),
            ("04-02", "business", 1, "paused"),
            ("04-20", "business", 1, "active"),
            # The downgrade of May 3rd takes effect where the month of an anchor on the 31st ends.
            ("05-31", "team", 1, "active"),
            # Billed on the 15th from here.
            ("07-10", "team", 1, "active"),
        ]
        assert [one.anchor and one.anchor.day for one in found.phases[-2:]] == [None, 15]
        assert found.ends_at is None
