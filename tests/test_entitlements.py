"""Entitlements in figures: limits, resets, hard and soft, several sources, decisions with their reason."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing_pipeline.catalog import Beyond, Entitlement, Feature, FeatureType, GivenTo, Reset
from billing_pipeline.entitlements import (
    EntitlementInvalidError,
    Reason,
    combine,
    counting_window,
    crossed,
    decide,
    overage,
)
from billing_pipeline.periods import Window

API_CALLS = Feature(feature_id="api_calls", name="API calls", feature_type=FeatureType.METERED, meter_id="requests")
SSO = Feature(feature_id="sso", name="Single sign-on", feature_type=FeatureType.BOOLEAN)
SUPPORT = Feature(feature_id="support", name="Support", feature_type=FeatureType.STATIC)
MARCH = Window(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC))
quantities = st.decimals(min_value=0, max_value=10**9, places=6)


def limited(
    limit: str | None, beyond: Beyond = Beyond.DENY, *, entitlement_id: str = "plan", source: GivenTo = GivenTo.PLAN
) -> Entitlement:
    return Entitlement(
        entitlement_id=entitlement_id,
        feature_id="api_calls",
        given_to=source,
        given_to_id="any",
        limit=None if limit is None else Decimal(limit),
        beyond=beyond,
    )


def static(value: str, source: GivenTo) -> Entitlement:
    return Entitlement(
        entitlement_id=f"{source}_{value}", feature_id="support", given_to=source, given_to_id="any", value=value
    )


class TestOverage:
    @pytest.mark.parametrize(
        ("limit", "usage", "reset", "beyond"),
        [
            ("1000", ["1200"], Reset.PERIOD, ["200"]),
            (None, ["1200"], Reset.PERIOD, ["0"]),
            ("100", ["150", "50", "120"], Reset.DAY, ["50", "0", "20"]),
            ("100", ["80", "80", "50"], Reset.NEVER, ["0", "60", "50"]),
            ("100", ["100"], Reset.PERIOD, ["0"]),
            ("0", ["0.001"], Reset.PERIOD, ["0.001"]),
            ("100", [], Reset.NEVER, []),
        ],
    )
    def test_in_figures(self, limit: str | None, usage: list[str], reset: Reset, beyond: list[str]) -> None:
        found = overage(None if limit is None else Decimal(limit), [Decimal(used) for used in usage], reset)
        assert found == tuple(Decimal(one) for one in beyond)

    @given(quantities, st.lists(quantities, max_size=8))
    def test_that_never_resets_adds_up_to_that_of_one_long_window(self, limit: Decimal, usage: list[Decimal]) -> None:
        (whole,) = overage(limit, [sum(usage, Decimal(0))], Reset.PERIOD)
        assert sum(overage(limit, usage, Reset.NEVER), Decimal(0)) == whole

    @given(quantities, st.lists(quantities, max_size=8), st.sampled_from(Reset))
    def test_is_between_nothing_and_all_of_each_window(
        self, limit: Decimal, usage: list[Decimal], reset: Reset
    ) -> None:
        for used, beyond in zip(usage, overage(limit, usage, reset), strict=True):
            assert 0 <= beyond <= used


class TestCombine:
    def test_adds_the_limits_of_all_sources(self) -> None:
        both = combine(API_CALLS, [limited("1000"), limited("500", entitlement_id="extra", source=GivenTo.ACCOUNT)])
        assert both is not None
        assert (both.limit, both.sources) == (Decimal(1500), ("extra", "plan"))

    def test_lets_any_unlimited_one_win(self) -> None:
        both = combine(API_CALLS, [limited("1000"), limited(None, entitlement_id="extra")])
        assert both is not None
        assert both.limit is None

    def test_lets_any_soft_one_win(self) -> None:
        both = combine(API_CALLS, [limited("1000"), limited("1", Beyond.ALLOW, entitlement_id="extra")])
        assert both is not None
        assert both.beyond is Beyond.ALLOW

    def test_takes_the_static_value_of_the_narrowest_source(self) -> None:
        values = [static("gold", GivenTo.SUBSCRIPTION), static("basic", GivenTo.PLAN)]
        for order in (values, values[::-1]):
            allowance = combine(SUPPORT, order)
            assert allowance is not None
            assert allowance.value == "gold"

    def test_of_nothing_is_none_and_of_another_feature_is_refused(self) -> None:
        assert combine(API_CALLS, []) is None
        with pytest.raises(EntitlementInvalidError, match="are not of feature 'sso'"):
            combine(SSO, [limited("1")])

    def test_of_a_switched_off_one_gives_nothing_and_does_not_count_as_unlimited(self) -> None:
        off = Entitlement(
            entitlement_id="off", feature_id="api_calls", given_to=GivenTo.PLAN, given_to_id="any", enabled=False
        )
        alone, beside = combine(API_CALLS, [off]), combine(API_CALLS, [off, limited("10")])
        assert alone is not None
        assert not alone.enabled
        assert beside is not None
        assert beside.limit == 10


class TestDecide:
    @pytest.mark.parametrize(
        ("limit", "beyond", "used", "requested", "is_allowed", "reason"),
        [
            ("1000", Beyond.DENY, "999", "1", True, Reason.WITHIN_LIMIT),
            ("1000", Beyond.DENY, "1000", "1", False, Reason.LIMIT_REACHED),
            ("1000", Beyond.ALLOW, "1000", "1", True, Reason.BEYOND_SOFT_LIMIT),
            ("1000", Beyond.DENY, "999", "2", False, Reason.LIMIT_REACHED),
            ("1000", Beyond.DENY, "1200", "0", False, Reason.LIMIT_REACHED),
            ("1000", Beyond.DENY, "1000", "0", True, Reason.WITHIN_LIMIT),
            ("0", Beyond.DENY, "0", "1", False, Reason.LIMIT_REACHED),
            (None, Beyond.DENY, "1000000", "1", True, Reason.UNLIMITED),
        ],
    )
    def test_of_a_limit(
        self, limit: str | None, beyond: Beyond, used: str, requested: str, is_allowed: bool, reason: Reason
    ) -> None:
        allowance = combine(API_CALLS, [limited(limit, beyond)])
        decision = decide(allowance, used=Decimal(used), requested=Decimal(requested))
        assert (decision.is_allowed, decision.reason) == (is_allowed, reason)

    def test_tells_what_remains_and_what_lies_beyond(self) -> None:
        decision = decide(combine(API_CALLS, [limited("1000", Beyond.ALLOW)]), used=Decimal(1200))
        assert (decision.remaining, decision.overage) == (0, 200)
        decision = decide(combine(API_CALLS, [limited("1000")]), used=Decimal(1))
        assert (decision.remaining, decision.overage) == (999, 0)

    def test_answers_boolean_and_static_features(self) -> None:
        on = Entitlement(entitlement_id="on", feature_id="sso", given_to=GivenTo.PLAN, given_to_id="any")
        assert decide(combine(SSO, [on])).reason is Reason.ENABLED
        off = Entitlement(
            entitlement_id="off", feature_id="sso", given_to=GivenTo.PLAN, given_to_id="any", enabled=False
        )
        assert decide(combine(SSO, [off])).reason is Reason.DISABLED
        assert decide(combine(SUPPORT, [static("gold", GivenTo.PLAN)])).value == "gold"
        nothing = decide(None)
        assert (nothing.is_allowed, nothing.reason) == (False, Reason.NOT_ENTITLED)

    @given(quantities, quantities, quantities)
    def test_of_a_hard_limit_never_lets_more_through_than_it(
        self, limit: Decimal, used: Decimal, requested: Decimal
    ) -> None:
        decision = decide(combine(API_CALLS, [limited(str(limit))]), used=used, requested=requested)
        assert decision.is_allowed == (used + requested <= limit)


class TestCountingWindow:
    def test_is_the_period_the_utc_day_or_all_of_the_life(self) -> None:
        start, at = datetime(2025, 1, 15, tzinfo=UTC), datetime(2026, 3, 9, 23, 59, tzinfo=UTC)
        found = {reset: counting_window(reset, period=MARCH, life_start=start, at=at) for reset in Reset}
        assert found[Reset.PERIOD] == MARCH
        assert found[Reset.NEVER] == Window(start, MARCH.end)
        assert found[Reset.DAY] == Window(datetime(2026, 3, 9, tzinfo=UTC), datetime(2026, 3, 10, tzinfo=UTC))

    @given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=31) - timedelta(microseconds=1)))
    def test_contains_the_instant(self, offset: timedelta) -> None:
        at = MARCH.start + offset
        for reset in Reset:
            assert at in counting_window(reset, period=MARCH, life_start=MARCH.start, at=at)


class TestCrossed:
    @pytest.mark.parametrize(
        ("used", "limit", "found"),
        [
            ("499", "1000", []),
            ("500", "1000", [50]),
            ("801", "1000", [50, 80]),
            ("5000", "1000", [50, 80, 100]),
            ("5", None, []),
            ("5", "0", []),
        ],
    )
    def test_in_figures(self, used: str, limit: str | None, found: list[int]) -> None:
        thresholds = API_CALLS.thresholds[::-1]
        limits = None if limit is None else Decimal(limit)
        assert list(crossed(used=Decimal(used), limit=limits, thresholds=thresholds)) == found
