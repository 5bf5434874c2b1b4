"""Worked cases of other billing systems (`cases/charge_cases.json`): each is run here, or listed as left to later work.

Cases that their collectors marked `ambiguous` are decided by the project's rules; the decision stands beside the id.
"""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from billing_pipeline.amounts import (
    Exact,
    Money,
    RoundingMode,
    UnitRounding,
    allocate,
    exact_product,
    exact_sum,
    minor_digits,
    round_half_away,
    to_money,
)
from billing_pipeline.catalog import (
    Graduated,
    Package,
    Price,
    PriceModel,
    PriceVersion,
    Standard,
    Tier,
    UnitConversion,
    Volume,
)
from billing_pipeline.charges import BookedCharge, Charge, ChargeKey, difference
from billing_pipeline.meters import Aggregation, Meter, UsageState, merge
from billing_pipeline.periods import BillingAnchor, Window, elapsed_share, local_days
from billing_pipeline.rating import Rated, VersionUsage, rate

Case = Mapping[str, Any]
ALWAYS = datetime(1970, 1, 1, tzinfo=UTC)
YEAR = Window(datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))

_LAST_DAY = "windows are half-open: a period of 31 days that is stored by its last day ends at April 1st 00:00"

# id -> (expected, the rule that decides)
DECIDED = {
    "lago-graduated-0": ("0", "a quantity of 0 enters no tier, so its flat fee is not due"),
    "openmeter-graduated-total-0": ("0", "a quantity of 0 enters no tier, so its flat fee is not due"),
    "openmeter-volume-0": ("0", "a quantity of 0 enters no tier, so its flat fee is not due"),
    "flexprice-proration-upgrade": ("5.49", _LAST_DAY),
    "flexprice-proration-seats-5-to-10": ("27.42", _LAST_DAY),
    "flexprice-proration-add-item": ("13.71", _LAST_DAY),
    "flexprice-proration-remove-item": ("-21.94", _LAST_DAY),
    "lago-proration-first-period-tax": ("3871", "a period contains its start: January 8th to 31st are 24 days"),
    "openmeter-period-preserving-late": ("20, 30", "late usage corrects the period that it was used in"),
    "flexprice-round-then-add": ("20.66", "each line is rounded, the total is the sum of rounded lines"),
    "killbill-dst-same-usage-two-accounts": ("next period", "periods end at local midnight in the IANA zone"),
}

# Models that the project does not rate yet, and what they wait for.
LEFT_TO_LATER_WORK = {
    "percentages of amounts": {
        "percentage",
        "percentage_per_transaction",
        "graduated_percentage",
        "dynamic",
        "dynamic_multiplier",
    },
    "levels over time": {
        "weighted_sum",
        "prorated_recurring_sum",
        "recurring_sum late event",
        "max_with_carry",
        "volume_prorated",
        "graduated_prorated",
        "recurring_sum+graduated_prorated",
    },
    "minimum, maximum, commitment": {
        "minimum_spend_true_up",
        "graduated+maximum",
        "volume+minimum",
        "package+maximum",
        "package+minimum",
        "correction_delta+maximum",
        "commitment_per_window",
        "commitment_quantity",
        "graduated+minimum",
        "volume+maximum",
        "unit+maximum",
        "unit+percentage_discount+maximum",
        "dynamic_multiplier+maximum",
        "commitment_per_window_time_of_day",
        "graduated_flat_cap",
    },
    "discounts and tax": {
        "coupon_then_tax",
        "tax_rounding",
        "percentage_discount",
        "fixed_discount",
        "credit_note_rounding",
    },
    "rating per window": {
        "bucketed_max+standard",
        "bucketed_max+graduated",
        "bucketed_max+volume",
        "bucketed_max+package",
    },
    "packages inside tiers": {"volume_blocks", "graduated_packages", "volume_packages", "graduated_blocks"},
}
# Single cases of models that run here.
LEFT_CASES = {
    "killbill-proration-fixed-30": "a month of 30 days for every month: there is no such proration here",
    "stripe-kwd-last-digit-zero": "an exception of Stripe's API, which belongs to the sync with it",
}


@cache
def load(folder: Path) -> tuple[Case, ...]:
    return tuple(json.loads((folder / "cases" / "charge_cases.json").read_text(), parse_float=Decimal))


@pytest.fixture(scope="module")
def cases(real_data: Path) -> tuple[Case, ...]:
    """Return every case, or skip where the folder has none."""
    if not (real_data / "cases" / "charge_cases.json").is_file():
        pytest.skip(f"no cases/charge_cases.json in {real_data}; set BILLING_REAL_DATA to its folder")
    return load(real_data)


def tiers_of(params: Mapping[str, Any]) -> tuple[Tier, ...]:
    return tuple(
        Tier(
            up_to=None if tier["up_to"] is None else Decimal(tier["up_to"]),
            unit_price=Decimal(tier["unit_price"]),
            flat_fee=Decimal(tier["flat_fee"]),
        )
        for tier in params["tiers"]
    )


def model_of(kind: str, params: Mapping[str, Any]) -> PriceModel:
    match kind:
        case "graduated":
            return Graduated(tiers=tiers_of(params))
        case "volume":
            return Volume(tiers=tiers_of(params))
        case "package":
            return Package(
                size=Decimal(params["package_size"]),
                price=Decimal(params.get("package_price", "1")),
                free_units=Decimal(params.get("free_units", "0")),
            )
        case _:
            return Standard(unit_price=Decimal(params["unit_price"]))


def priced(
    model: PriceModel,
    *quantities: str,
    currency: str = "USD",
    conversion: UnitConversion | None = None,
    included: str = "0",
) -> list[Rated]:
    """Return each quantity rated by itself."""
    version = PriceVersion(
        version=1, model=model, effective_from=ALWAYS, conversion=conversion, included_units=Decimal(included)
    )
    price = Price(price_id="p", meter_id="m", currency=currency, versions=(version,))
    return [
        rate(price=price, unit="unit", usage=(VersionUsage(version=version, quantity=Decimal(quantity)),))
        for quantity in quantities
    ]


def charge(rated: Rated, currency: str) -> Charge:
    key = ChargeKey(subscription_id="s", price_id="p", period=YEAR)
    return Charge(key=key, account_id="a", plan_id="l", meter_id="m", currency=currency, rated=rated)


def correction(model: PriceModel, before: str, after: str, currency: str) -> Decimal:
    """Return, in major units, what booking `after` adds when `before` is booked; nothing booked twice is 0."""
    was, becomes = (charge(rated, currency) for rated in priced(model, before, after, currency=currency))
    booked = BookedCharge(revision=1, amount=was.amount, rating_digest=was.rating_digest)
    revision = difference(becomes, booked)
    return Decimal(0) if revision is None else revision.delta.major


def check_tiers(case: Case) -> None:
    (rated,) = priced(model_of(case["model"], case["params"]), case["input"]["units"])
    expected = DECIDED.get(case["id"], (case["expected"]["amount"],))[0]
    assert rated.exact == Decimal(expected)


def check_minor_unit(case: Case) -> None:
    currency, given = case["params"]["currency"], case["input"]
    if "paid_credits" in given:
        amount = Decimal(given["paid_credits"]) * Decimal(case["params"]["credit_rate"])
        assert to_money(amount, currency).major == Decimal(case["expected"]["amount"])
    else:
        assert to_money(Decimal(given["amount"]), currency).minor_units == int(case["expected"]["minor_units"])


def check_currency_rounding(case: Case) -> None:
    digits, given = case["params"]["minor_digits"], case["input"]
    if "amounts" in given:
        found = [round_half_away(Decimal(amount), digits=digits) for amount in given["amounts"]]
        assert found == [int(units) for units in case["expected"]["minor_units"]]
        return
    found_one = round_half_away(Decimal(given["amount"]), digits=digits)
    assert Fraction(found_one, 10**digits) == Fraction(case["expected"]["amount"])


def check_unit_rounding(case: Case) -> None:
    modes = {"round": RoundingMode.HALF_UP, "ceil": RoundingMode.UP, "floor": RoundingMode.DOWN}
    rounding = UnitRounding(mode=modes[case["params"]["function"]], precision=case["params"]["precision"])
    assert rounding.apply(Decimal(case["input"]["units"])) == Decimal(case["expected"]["units"])


def check_unit_conversion(case: Case) -> None:
    params = case["params"]
    modes = {"none": None, "ceiling": RoundingMode.UP, "floor": RoundingMode.DOWN}
    mode = modes[params["rounding"]]
    factor = Decimal(params["factor"])
    conversion = UnitConversion(
        unit="converted",
        multiply=factor if params["operation"] == "multiply" else Decimal(1),
        divide=factor if params["operation"] == "divide" else Decimal(1),
        rounding=None if mode is None else UnitRounding(mode=mode),
    )
    (rated,) = priced(Standard(unit_price=Decimal(1)), case["input"]["units"], conversion=conversion)
    assert rated.exact == rated.quantity == Decimal(case["expected"]["units"])


def check_allocation(case: Case) -> None:
    currency, weights = case["params"]["currency"], case["input"]["weights"]
    shares = allocate(to_money(Decimal(case["input"]["amount"]), currency), [Decimal(one) for one in weights.values()])
    expected = case["expected"]["allocation"]
    assert dict(zip(weights, (share.major for share in shares), strict=True)) == {
        key: Decimal(amount) for key, amount in expected.items()
    }


def check_correction(case: Case) -> None:
    params, given = case["params"], case["input"]
    kind = params.get("mode", "graduated") if "tiers" in params else "standard"
    before, after = given["billed_cumulative_units"], given["new_cumulative_units"]
    found = correction(model_of(kind, params), before, after, params["currency"])
    assert found == Decimal(case["expected"]["delta"])


def check_graduated_incremental(case: Case) -> None:
    given = case["input"]
    before = Decimal(given["already_billed_units"])
    model, after = model_of("graduated", case["params"]), str(before + Decimal(given["new_units"]))
    assert correction(model, str(before), after, "USD") == Decimal(case["expected"]["amount"])
    was, becomes = priced(model, str(before), after)
    added = [
        line.amount - sum((old.amount for old in was.lines if old.tier == line.tier), Decimal(0))
        for line in becomes.lines
    ]
    assert [amount for amount in added if amount] == [Decimal(amount) for amount in case["expected"]["lines"]]


def check_package_incremental(case: Case) -> None:
    before = Decimal(case["input"]["already_billed_units"])
    after = str(before + Decimal(case["input"]["new_units"]))
    found = correction(model_of("package", case["params"]), str(before), after, "USD")
    assert found == Decimal(case["expected"]["amount"])


def check_package_count(case: Case) -> None:
    ratings = priced(model_of("package", case["params"]), *case["input"]["units"])
    assert [rated.exact for rated in ratings] == [Decimal(count) for count in case["expected"]["packages"]]


def check_late_packages(case: Case) -> None:
    model = model_of("package", case["params"])
    for period in ("period1", "period2"):
        given = case["input"][period]
        exact = exact_sum([rated.exact for rated in priced(model, *given["units"])])
        assert exact - Decimal(given["already_billed"]) == Decimal(case["expected"][f"{period}_delta"])


def check_latest(case: Case) -> None:
    meter = Meter(meter_id="m", version=1, aggregation=Aggregation.LATEST, unit="unit", field="response_time_us")
    states = [
        UsageState(quantity=Decimal(event["v"]), state={"at": event["t"].replace("Z", "+00:00"), "event_id": "e"})
        for event in case["input"]["events"]
    ]
    check_merged(case, merge(meter, states))


def check_max(case: Case) -> None:
    meter = Meter(meter_id="m", version=1, aggregation=Aggregation.MAX, unit="unit", field="response_time_us")
    check_merged(case, merge(meter, [UsageState(quantity=Decimal(value)) for value in case["input"]["events"]]))


def check_merged(case: Case, quantity: Decimal) -> None:
    (rated,) = priced(model_of("standard", case["params"]), str(quantity))
    assert (rated.quantity, rated.exact) == (Decimal(case["expected"]["units"]), Decimal(case["expected"]["amount"]))


def check_unique_groups(case: Case) -> None:
    meter = Meter(meter_id="m", version=1, aggregation=Aggregation.UNIQUE, unit="client", field="client_id")
    groups: dict[tuple[str, ...], list[UsageState]] = {}
    for item, *group in case["input"]["events"]:
        groups.setdefault(tuple(group), []).append(UsageState(quantity=Decimal(1), state={"values": [item]}))
    model = model_of("standard", case["params"])
    rated = [one.exact for states in groups.values() for one in priced(model, str(merge(meter, states)))]
    assert exact_sum(rated) == Decimal(case["expected"]["amount"])


def check_groups(case: Case) -> None:
    ratings = priced(model_of("graduated", case["params"]), *case["input"]["units_by_group"].values())
    assert exact_sum([rated.exact for rated in ratings]) == Decimal(case["expected"]["amount"])


def check_included_units(case: Case) -> None:
    given, expected = case["input"], case["expected"]
    whole = str(Decimal(given["pre_line_units"]) + Decimal(given["line_units"]))
    model, included = Standard(unit_price=Decimal(1)), case["params"]["included_units"]
    before, after = (rated.exact for rated in priced(model, given["pre_line_units"], whole, included=included))
    assert before == Decimal(expected["billable_pre_units"])
    assert after - before == Decimal(expected["billable_line_units"])


def window_of(text: str) -> Window:
    start, end = (datetime.fromisoformat(part.replace("Z", "+00:00")) for part in text.split(".."))
    return Window(start.replace(tzinfo=UTC), end.replace(tzinfo=UTC))


def prorated(amount: str, part: Window, whole: Window, currency: str = "USD") -> Money:
    elapsed, seconds = elapsed_share(part, whole)
    return to_money(exact_product(Decimal(amount), times=Decimal(elapsed), over=Decimal(seconds)), currency)


def check_proration_time(case: Case) -> None:
    params = case["params"]
    part, whole = window_of(case["input"]["service_period"]), window_of(params["full_period"])
    found = prorated(params["amount"], part, whole, params["currency"])
    assert found.major == Decimal(case["expected"]["amount"])


def check_first_period(case: Case) -> None:
    whole = window_of("2023-01-01..2023-02-01")
    part = Window(datetime.fromisoformat(case["input"]["start"]).replace(tzinfo=UTC), whole.end)
    assert local_days(part.start, part.end, "UTC") == case["input"]["billed_days"]
    assert prorated("50.00", part, whole, "EUR").minor_units == int(case["expected"]["fee_cents"])


def check_ratio(case: Case) -> None:
    whole = window_of("2024-01-01..2024-02-01")
    part = Window(datetime.fromisoformat(case["input"]["start"]).replace(tzinfo=UTC), whole.end)
    assert Fraction(*elapsed_share(part, whole)) == Fraction(case["expected"]["ratio_exact"])


def check_ratio_to_nine_places(case: Case) -> None:
    part = window_of(case["input"]["period"])
    whole = BillingAnchor(day=part.start.day).period_containing(part.start)
    share = Fraction(*elapsed_share(part, whole))
    assert share == Fraction(int(case["input"]["days"]), int(case["input"]["period_days"]))
    # The source cuts the ratio off at nine places; ours stays exact.
    assert abs(share - Fraction(case["expected"]["ratio"])) < Fraction(1, 10**9)


def check_change_of_day(case: Case) -> None:
    given, params, expected = case["input"], case["params"], case["expected"]
    changed = datetime.fromisoformat(given["change_date"]).replace(tzinfo=UTC)
    if "flexprice" in case["id"]:
        whole = window_of("2024-03-01..2024-04-01")
        net = change(params["old_amount"], params["new_amount"], changed, whole)
        assert net.major == Decimal(DECIDED[case["id"]][0]) == Decimal(expected["net"])
        return
    whole = window_of("2025-01-01..2025-01-31")
    if "added_one_time" in given:
        # A price by quantity is no share of a period.
        one = given["added_one_time"]
        (rated,) = priced(Standard(unit_price=Decimal(one["rate"])), one["quantity"])
        assert to_money(rated.exact, "USD").minor_units == int(expected["net_cents"])
    elif "matched" in given:
        old, new = given["matched"]
        net = change(old, new, changed, whole) + change(given["removed"], given["added"], changed, whole)
        assert net.minor_units == int(expected["net_cents"])
    else:
        assert change(params["old_amount"], params["new_amount"], changed, whole).minor_units == int(
            expected["net_cents"]
        )


def change(old: str, new: str, at: datetime, whole: Window) -> Money:
    """Return what the rest of the period costs more at `new` than at `old`: a difference of rounded amounts."""
    rest = Window(at, whole.end)
    return prorated(new, rest, whole) - prorated(old, rest, whole)


def check_local_days(case: Case) -> None:
    start, end = (datetime.fromisoformat(case["input"][name]) for name in ("start", "end"))
    assert local_days(start, end, case["params"]["time_zone"]) == case["expected"]["days"]


def check_minor_digits(case: Case) -> None:
    assert [minor_digits(currency) for currency in case["input"]["currencies"]] == case["expected"]["digits"]


def check_psp_rounding(case: Case) -> None:
    (rated,) = priced(model_of("standard", case["params"]), case["input"]["quantity"])
    assert to_money(rated.exact, "USD").minor_units == int(case["expected"]["invoice_total_minor"])


def check_rounding_order(case: Case) -> None:
    lines = [to_money(Decimal(line), "USD") for line in case["input"]["lines"]]
    total = lines[0] + lines[1]
    assert total.major == Decimal(DECIDED[case["id"]][0]) == Decimal(case["expected"]["round_each_then_add"])


def check_rounding_drift(case: Case) -> None:
    # 81 equal parts: shared out from the rounded total, they come to it, to the cent.
    total = to_money(Decimal(case["input"]["exact_usage"]), "USD")
    assert total.major == Decimal(case["expected"]["rounded_usage"])
    weights: list[Exact] = [Decimal(1)] * 81
    assert sum(share.minor_units for share in allocate(total, weights)) == total.minor_units
    credited = total - to_money(Decimal(case["input"]["included_credit"]), "USD")
    assert credited.major == Decimal(case["expected"]["overage"])


def check_late_attribution(case: Case) -> None:
    model, given = model_of("standard", case["params"]), case["input"]
    found = correction(model, given["period1_billed_units"], given["now_period1_units"], "USD")
    later = str(Decimal(given["now_cumulative_at_period2"]) - Decimal(given["now_period1_units"]))
    (second,) = priced(model, later)
    assert (found, second.exact) == (
        Decimal(case["expected"]["period1_correction"]),
        Decimal(case["expected"]["period2_charge"]),
    )


def check_time_zone(case: Case) -> None:
    used_at = datetime.fromisoformat(case["input"]["usage_at"])
    anchor = BillingAnchor(zone=case["params"]["time_zone"])
    march = anchor.period_containing(datetime(2023, 3, 15, tzinfo=UTC))
    assert (used_at in march) is case["expected"]["in_period_ending_2023_04_01"]
    assert march.end == used_at


RUN: dict[str, Callable[[Case], None]] = {
    "standard": check_tiers,
    "graduated": check_tiers,
    "volume": check_tiers,
    "package": check_tiers,
    "package_count": check_package_count,
    "package_incremental": check_package_incremental,
    "minor_unit": check_minor_unit,
    "minor_digits": check_minor_digits,
    "currency_rounding": check_currency_rounding,
    "unit_rounding": check_unit_rounding,
    "unit_conversion": check_unit_conversion,
    "largest_remainder_allocation": check_allocation,
    "correction_delta": check_correction,
    "correction_delta_rounding": check_correction,
    "graduated_incremental": check_graduated_incremental,
    "late_usage_delta": check_late_packages,
    "late_usage_attribution": check_late_attribution,
    "latest+standard": check_latest,
    "max+standard": check_max,
    "unique_count+standard grouped": check_unique_groups,
    "graduated_per_group": check_groups,
    "included_units": check_included_units,
    "proration_time": check_proration_time,
    "proration_day": check_first_period,
    "proration_day_change": check_change_of_day,
    "proration_ratio": check_ratio,
    "proration_ratio_9dp": check_ratio_to_nine_places,
    "local_calendar_days": check_local_days,
    "time_zone": check_time_zone,
    "psp_rounding": check_psp_rounding,
    "rounding_order": check_rounding_order,
    "rounding_drift": check_rounding_drift,
}


def is_left(case: Case) -> bool:
    return any(case["model"] in models for models in LEFT_TO_LATER_WORK.values())


class TestChargeCases:
    @pytest.mark.parametrize("model", sorted(RUN))
    def test_holds_for_every_case_of_the_model(self, cases: tuple[Case, ...], model: str) -> None:
        found = [case for case in cases if case["model"] == model and case["id"] not in LEFT_CASES]
        assert found
        for case in found:
            RUN[model](case)

    def test_every_case_is_run_or_listed_as_left(self, cases: tuple[Case, ...]) -> None:
        assert len(cases) == 183
        neither = [case["id"] for case in cases if (case["model"] in RUN) == is_left(case)]
        assert neither == []
        models = {case["model"] for case in cases}
        assert models == RUN.keys() | set().union(*LEFT_TO_LATER_WORK.values())
        assert {case["id"] for case in cases} >= LEFT_CASES.keys() | DECIDED.keys()

    def test_every_ambiguous_case_that_runs_is_decided_by_a_rule(self, cases: tuple[Case, ...]) -> None:
        open_cases = {case["id"] for case in cases if case["ambiguous"] and not is_left(case)}
        assert open_cases == DECIDED.keys()
