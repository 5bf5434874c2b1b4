"""Run worked cases of charge models and quantities: each asserts what its case expects. Not here: money, time (worked_money)."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any

from billing_pipeline.amounts import (
    Exact,
    Money,
    exact_product,
    exact_sum,
    minor_digits,
    round_half_away,
    to_money,
)
from billing_pipeline.catalog import (
    Adjustments,
    Commitment,
    HourTerms,
    Price,
    PriceVersion,
    Standard,
    UnitConversion,
    WindowRating,
)
from billing_pipeline.levels import Change, level_state
from billing_pipeline.meters import Aggregation, Meter, UsageState, merge
from billing_pipeline.periods import (
    BillingAnchor,
    Window,
)
from billing_pipeline.rating import (
    Levels,
    LevelStep,
    LineKind,
    Rated,
    Transactions,
    VersionUsage,
    Windows,
    line_shares,
    rate_each_window,
)
from tests.worked_cases import Case, agrees, case_version, currency_of, expected_of, has_fee_at_zero, instant
from tests.worked_money import priced
from tests.worked_prices import ALWAYS as MIDNIGHT
from tests.worked_prices import (
    USAGE,
    model_of,
    money_of,
    rated,
    sum_of,
    version_of,
)


def check_priced(case: Case) -> None:
    """Rate what was billed before and all to date; what a case expects is one of them, or the difference."""
    given, expected, currency = case["input"], case["expected"], currency_of(case)
    version = case_version(case)
    before = Decimal(given.get("already_billed_units", given.get("billed_cumulative_units", "0")))
    if "new_units" in given:
        after = before + Decimal(given["new_units"])
    else:
        after = Decimal(given.get("units", given.get("new_cumulative_units", "0")))
    was, becomes = (rated(version, units, currency=currency) for units in (before, after))
    if before == 0 and not any(name.startswith(("already", "billed")) for name in given):
        was = Rated(lines=(), quantity=Decimal(0), unit="unit", exact=Decimal(0))
    if "already_billed" in given and "already_billed_units" not in given:
        was, becomes = carried(case, version, Decimal(given["already_billed"]), after)
    found = differences(was, becomes, currency)
    for name, value in expected.items():
        match name:
            case "amount" if not was.lines:
                assert agrees(becomes.exact, expected_of(case), currency), case["id"]
            case "amount" | "delta" | "net" | "total":
                assert found["net"].major == Decimal(value), (case["id"], name)
            case "gross" | "usage" | "discount" | "cap_discount" | "minimum_line":
                assert found[name].major == Decimal(value), (case["id"], name)
            case "reversal":
                assert (-to_money(was.exact, currency)).major == Decimal(value)
            case "new_line":
                assert to_money(becomes.exact, currency).major == Decimal(value)
            case "lines":
                added = [one.major for one in added_by_tier(was, becomes, currency) if one.minor_units]
                assert added == [Decimal(line) for line in value]
            case "by_line":
                assert added_by_line(was, becomes, currency) == [[Decimal(one) for one in line] for line in value]
            case "by_tier":
                assert [line.quantity for line in becomes.lines] == [Decimal(count) for count in value]
            case _:
                raise AssertionError(f"{case['id']} expects {name}")


def carried(case: Case, version: PriceVersion, billed: Decimal, units: Decimal) -> tuple[Rated, Rated]:
    """Return what was billed, and that with the price of `units` more: their units are not told, and the price is linear
    or there are no more. The maximum and minimum are of both."""
    plain = version_of(version.model)
    more = rated(plain, units, currency=currency_of(case)).exact if units else Decimal(0)
    one = version_of(Standard(unit_price=Decimal(1)), adjustments=version.adjustments)
    none = version_of(Standard(unit_price=Decimal(1)))
    return rated(none, billed), rated(one, exact_sum([billed, more]))


def differences(was: Rated, becomes: Rated, currency: str) -> dict[str, Money]:
    """Return what `becomes` adds, each a difference of rounded totals."""

    def added(kinds: tuple[LineKind, ...]) -> Money:
        return money_of(becomes, kinds, currency) - money_of(was, kinds, currency)

    gross, discounted = added(USAGE), added((*USAGE, LineKind.DISCOUNT))
    bounded = added((*USAGE, LineKind.DISCOUNT, LineKind.MAXIMUM))
    net = added(tuple(LineKind))
    return {
        "gross": gross,
        "usage": gross,
        "discount": gross - discounted,
        "cap_discount": discounted - bounded,
        "minimum_line": net - bounded,
        "net": net,
    }


def added_by_tier(was: Rated, becomes: Rated, currency: str) -> list[Money]:
    before = {line.tier: to_money(line.amount, currency) for line in was.lines}
    return [
        to_money(line.amount, currency) - before.get(line.tier, Money(0, currency))
        for line in becomes.lines
        if line.kind is LineKind.USAGE
    ]


def added_by_line(was: Rated, becomes: Rated, currency: str) -> list[list[Decimal]]:
    """Return gross, what is above the maximum, and net of each line that was added to."""
    zero = Money(0, currency)
    before = {one.line.tier: one for one in line_shares(was, currency)}
    found = []
    for one in line_shares(becomes, currency):
        old = before.get(one.line.tier)
        gross, capped, net = (
            now - (earlier if old is not None else zero)
            for now, earlier in zip(
                (one.gross, one.capped, one.net),
                (old.gross, old.capped, old.net) if old is not None else (zero, zero, zero),
                strict=True,
            )
        )
        if gross.minor_units:
            found.append([gross.major, capped.major, net.major])
    return found


def check_blocks(case: Case) -> None:
    """Kill Bill's blocks, of one unit or of several."""
    params, by_unit = case["params"], case["params"].get("tiers_by_unit")
    if by_unit is None:
        check_priced(case)
        return
    kind = "volume" if params.get("policy") == "TOP_TIER" else "graduated"
    amounts = {
        unit: rated(version_of(model_of(kind, {**params, "tiers": tiers})), case["input"]["units"][unit]).exact
        for unit, tiers in by_unit.items()
    }
    assert amounts == {unit: Decimal(amount) for unit, amount in case["expected"]["by_unit"].items()}
    assert exact_sum(list(amounts.values())) == Decimal(case["expected"]["amount"])


def transactions_of(given: Mapping[str, Any]) -> Transactions:
    """Return single transactions, or those that the running totals tell and the rest in equal parts."""
    if "transactions" in given:
        return Transactions(counts=tuple((Decimal(amount), 1) for amount in given["transactions"]))
    totals = [Decimal(0), *map(Decimal, given.get("running_total_of_first_free_events") or ())]
    first = [(later - earlier, 1) for earlier, later in pairwise(totals)]
    left = int(given["event_count"]) - len(first)
    rest = Decimal(given["total"]) - totals[-1]
    return Transactions(counts=(*first, *([(Fraction(rest) / left, left)] if left > 0 else [])))


def check_percentage(case: Case) -> None:
    detail = transactions_of(case["input"])
    total = exact_sum([exact_product(amount, times=Decimal(count), over=Decimal(1)) for amount, count in detail.counts])
    found = rated(version_of(model_of("percentage", case["params"])), total, detail=detail)
    assert agrees(found.exact, expected_of(case), currency_of(case)), case["id"]


def check_graduated_percentage(case: Case) -> None:
    version = version_of(model_of("graduated_percentage", case["params"]))
    if "transactions" not in case["input"]:
        check_priced(case)
        return
    total, billed = Decimal(0), Decimal(0)
    for transaction, row in zip(case["input"]["transactions"], case["expected"]["per_transaction"], strict=True):
        total += Decimal(transaction)
        now = Decimal(rated(version, total).exact)
        assert now - billed == Decimal(row["increment"])
        billed = now
    assert billed == Decimal(case["expected"]["total"])


def check_dynamic(case: Case) -> None:
    currency, given = currency_of(case), case["input"]
    cents = UnitConversion(unit=currency, divide=Decimal(10) ** minor_digits(currency))
    found = rated(version_of(model_of("dynamic", {}), conversion=cents), given["precise_total_amount_cents"])
    assert found.exact == Decimal(case["expected"]["amount"])
    if "unit_amount" in case["expected"]:
        each = exact_product(found.exact, times=Decimal(1), over=Decimal(given["units"]))
        assert each == Decimal(case["expected"]["unit_amount"])


def check_weighted_sum(case: Case) -> None:
    params = case["params"]
    window = Window(instant(params["period_start"]), instant(params["period_end_exclusive"]))
    changes = [
        Change(at=window.start + timedelta(seconds=event["offset_seconds"]), value=Decimal(event["delta"]))
        for event in case["input"]["events"]
    ]
    mean = level_state(changes, window).mean(Decimal(params.get("initial_level", "0")))
    assert Fraction(mean) == Fraction(case["expected"]["exact_fraction"])
    assert Fraction(round_half_away(mean, digits=5), 10**5) == Fraction(case["expected"]["value_5dp"])


def check_prorated_sum(case: Case) -> None:
    """A level that grows on a day counts from the start of that day, by days of the period."""
    start = instant(case["params"]["period_start"])
    window = Window(start, start + timedelta(days=case["params"]["period_days"]))
    changes = [
        Change(at=datetime.fromisoformat(event["day"]).replace(tzinfo=UTC), value=Decimal(event["units"]))
        for event in case["input"]["events"]
    ]
    mean = level_state(changes, window).mean(Decimal(case["input"]["carried_units"]))
    assert Fraction(mean) == Fraction(expected_of(case, "value_exact"))
    assert Fraction(round_half_away(mean, digits=5), 10**5) == Fraction(case["expected"]["value_5dp_half_up"])


def check_prorated_tiers(case: Case) -> None:
    given, expected, currency = case["input"], case["expected"], currency_of(case)
    version = version_of(model_of(case["model"], case["params"], fee_at_zero=has_fee_at_zero(case)))
    level: Exact = Decimal(0)
    steps = []
    if "events_full" in given:
        pairs = list(zip(given["events_full"], given["events_prorated"], strict=True))
    else:
        pairs = [(given["full_units"], given["prorated_units"])]
    for full, prorated in pairs:
        after = exact_sum([level, Decimal(full)])
        steps.append(LevelStep(before=level, after=after, share=Fraction(prorated) / Fraction(full)))
        level = after
    found = rated(version, level, currency=currency, detail=Levels(steps=tuple(steps)))
    wanted = expected_of(case, "amount_2dp" if "amount_2dp" in expected else "amount")
    assert agrees(found.exact, wanted, currency), case["id"]


def closing_levels(given: Mapping[str, Any]) -> list[Exact]:
    """Return the level at the end of each period: it goes on from one to the next, below 0 too."""
    level, found = Decimal(0), []
    for number in (1, 2):
        late = [given[f"late_period{number}_event"]] if f"late_period{number}_event" in given else []
        level += sum(map(Decimal, [*given[f"period{number}_events"], *late]), Decimal(0))
        found.append(level)
    return list(found)


def check_recurring(case: Case) -> None:
    expected = case["expected"]
    for number, level in enumerate(closing_levels(case["input"]), 1):
        if f"period{number}_units" in expected:
            assert level == Decimal(expected[f"period{number}_units"])
        if f"period{number}_amount" in expected:
            version = version_of(model_of("graduated_prorated", case["params"]))
            step = LevelStep(before=Decimal(0), after=level, share=Decimal(1))
            assert rated(version, level, detail=Levels(steps=(step,))).exact == Decimal(
                expected[f"period{number}_amount"]
            )


def check_max_with_carry(case: Case) -> None:
    changes = [
        Change(at=datetime.fromisoformat(row["from_"]).replace(tzinfo=UTC), value=Decimal(row["v"]), is_set=True)
        for row in case["input"]["levels"]
    ]
    opening: Exact = Decimal(0)
    highest = []
    for period in case["input"]["periods"]:
        month = BillingAnchor().period_containing(datetime.fromisoformat(f"{period}-15").replace(tzinfo=UTC))
        state = level_state(changes, month)
        highest.append(state.highest(opening))
        opening = state.closing(opening)
    assert highest == [Decimal(one) for one in case["expected"]["period_max"]]


def check_buckets(case: Case) -> None:
    """The highest value of each hour, each hour rated by itself."""
    given, kind = case["input"], case["model"].split("+")[1]
    meter = Meter(meter_id="m", version=1, aggregation=Aggregation.MAX, unit="unit", field="response_time_us")
    if "bucket_events" in given:
        highest = [
            merge(meter, [UsageState(quantity=Decimal(value)) for value in events]) for events in given["bucket_events"]
        ]
        assert highest == [Decimal(one) for one in case["expected"]["bucket_max"]]
    else:
        highest = [Decimal(one) for one in given["bucket_max"]]
    version = version_of(model_of(kind, case["params"]), window=WindowRating(seconds=3600))
    detail = Windows(quantities=tuple((MIDNIGHT + timedelta(hours=place), one) for place, one in enumerate(highest)))
    assert rated(version, exact_sum(highest), detail=detail).exact == Decimal(case["expected"]["amount"])


def hours_of(text: str) -> tuple[Any, Any]:
    start, end = (datetime.strptime(part, "%H:%M").time() for part in text.split("-"))  # noqa: DTZ007
    return start, end


def commitment_of(params: Mapping[str, Any], prefix: str) -> Commitment | None:
    """Return an amount or a quantity that is to be used; `prefix` is of the hours or of all others."""
    factor = Decimal(params.get("overage_factor", "1"))
    true_up = bool(params.get(f"{prefix}true_up", params.get("true_up", False)))
    amount = params.get(f"{prefix}commitment", params.get("commitment_per_window"))
    if prefix == "bucket_" and "commitment_units" in params:
        return Commitment(units=Decimal(params["commitment_units"]), overage_factor=factor, true_up=true_up)
    if amount is None or (prefix == "base_" and "base_commitment" not in params and "bucket" in params):
        return None
    return Commitment(amount=Decimal(amount), overage_factor=factor, true_up=true_up)


def check_commitment(case: Case) -> None:
    """FlexPrice's commitments of windows, some hours of the day at terms of their own."""
    params, given, expected = case["params"], case["input"], case["expected"]
    hours: tuple[HourTerms, ...] = ()
    if "bucket" in params:
        start, end = hours_of(params["bucket"])
        own = Standard(unit_price=Decimal(params["bucket_unit_price"]))
        hours = (HourTerms(start=start, end=end, model=own, commitment=commitment_of(params, "bucket_")),)
    version = version_of(
        Standard(unit_price=Decimal(params.get("unit_price", params.get("base_unit_price", "0")))),
        window=WindowRating(seconds=3600, hours=hours),
        commitment=commitment_of(params, "base_"),
    )
    if "windows" in given:
        quantities = tuple(
            (MIDNIGHT + timedelta(hours=int(at[:2]), minutes=int(at[3:])), Decimal(units))
            for at, units in given["windows"].items()
        )
    else:
        quantities = tuple(
            (MIDNIGHT + timedelta(hours=place), Decimal(units)) for place, units in enumerate(given["window_units"])
        )
    detail = Windows(quantities=quantities)
    total = exact_sum([quantity for _, quantity in quantities])
    found = rated(version, total, detail=detail)
    assert found.exact == Decimal(expected["amount"])
    if "by_window" in expected:
        part = VersionUsage(version=version, quantity=total, detail=detail)
        price = Price(price_id="p", meter_id="m", currency="USD", versions=(version,))
        by_window = [window.exact for window in rate_each_window(price=price, unit="unit", part=part)]
        assert by_window == [Decimal(one) for one in expected["by_window"]]
    over, missing = (sum_of(found, (kind,)) for kind in (LineKind.OVERAGE, LineKind.COMMITMENT))
    if "true_up" in expected:
        assert missing == Decimal(expected["true_up"])
    if "overage" in expected:
        # Theirs is what usage beyond the commitment costs in all, ours what it costs on top.
        factor = Fraction(params["overage_factor"])
        assert Fraction(over) * factor / (factor - 1) == Fraction(expected["overage"])
        used = Fraction(sum_of(found, (LineKind.USAGE,))) - Fraction(over) / (factor - 1)
        assert used == Fraction(expected["utilized"])


def check_true_up(case: Case) -> None:
    params, currency = case["params"], currency_of(case)
    cents = Decimal(10) ** minor_digits(currency)
    least = Adjustments(minimum=Decimal(params["minimum_cents"]) / cents)
    share = Fraction(params.get("active_days", 1), params.get("period_days", 1))
    version = version_of(Standard(unit_price=1 / cents), adjustments=least)
    found = rated(version, case["input"]["used_cents"], currency=currency, share=share)
    rest = to_money(found.exact, currency) - money_of(found, USAGE, currency)
    assert rest.minor_units == int(case["expected"]["true_up_cents"])


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


def check_latest_or_max(case: Case) -> None:
    (check_latest if case["model"].startswith("latest") else check_max)(case)
