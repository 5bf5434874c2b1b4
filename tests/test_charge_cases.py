"""Worked cases of other billing systems (`cases/charge_cases.json`): each is run here.

Cases that their collectors marked `ambiguous` are decided by the project's rules; the decision stands beside the id. More cases
of the same kinds are run by the same checks: what a case does not say has the meaning of the system that it comes from.
"""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import cache
from itertools import pairwise
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
    Adjustments,
    Commitment,
    HourTerms,
    Price,
    PriceModel,
    PriceVersion,
    Standard,
    UnitConversion,
    WindowRating,
)
from billing_pipeline.charges import BookedCharge, difference
from billing_pipeline.invoicing.stripe_amounts import StripeAmountError, charge_step, to_stripe
from billing_pipeline.levels import Change, level_state
from billing_pipeline.meters import Aggregation, Meter, UsageState, merge
from billing_pipeline.period_charges import share_out
from billing_pipeline.periods import (
    BillingAnchor,
    Window,
    elapsed_share,
    local_days,
    thirty_day_share,
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
from tests.worked_prices import ALWAYS as MIDNIGHT
from tests.worked_prices import (
    USAGE,
    adjustments_of,
    charge,
    model_of,
    money_of,
    rated,
    sum_of,
    version_of,
)

Case = Mapping[str, Any]

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
    "lago-percentage-both-free": ("11.15", "what is free ends with the events or the amount, whichever ends first"),
    "lago-percentage-free-amount-only": ("11.15", "free transactions are the first ones in order of time"),
    "lago-percentage-free-amount-exceeds-running": ("7.2", "what is free ends with the events or the amount"),
    "lago-prorated-sum": ("299/31", "a level is exact; it is rounded with the charge, half away from zero"),
    "lago-prorated-graduated-4-events": ("197.33", "each step of a level is priced in the tiers of its full units"),
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


def expected_of(case: Case, name: str = "amount") -> Any:
    """Return what is expected: as the project decides, else as it stands."""
    return DECIDED[case["id"]][0] if case["id"] in DECIDED else case["expected"][name]


def agrees(found: Exact, text: str, currency: str) -> bool:
    """Tell whether an exact amount is the expected one, or is once it is rounded, where the source has rounded it."""
    wanted = Decimal(text)
    return found == wanted or to_money(found, currency).major == wanted


def currency_of(case: Case) -> str:
    return str(case["params"].get("currency", "USD"))


def has_fee_at_zero(case: Case) -> bool:
    """Lago and OpenMeter ask the first tier's flat fee without usage; where that is disputed, the project does not."""
    return case["source"].startswith(("getlago/", "openmeterio/")) and not case["ambiguous"]


def case_version(case: Case) -> PriceVersion:
    kind, params = case["model"].split("+")[0], case["params"]
    if kind.startswith("correction_delta"):
        kind = params.get("mode", "graduated") if "tiers" in params else "standard"
    model = model_of(kind.removesuffix("_incremental"), params, fee_at_zero=has_fee_at_zero(case))
    return version_of(model, adjustments=adjustments_of(params))


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


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


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


def check_discount(case: Case) -> None:
    currency = currency_of(case)
    version = version_of(Standard(unit_price=Decimal(1)), adjustments=adjustments_of(case["params"]))
    found = rated(version, case["input"]["amount"], currency=currency)
    discount = -sum_of(found, (LineKind.DISCOUNT,))
    assert to_money(discount, currency).major == Decimal(case["expected"]["discount"])
    if "net" in case["expected"]:
        assert found.exact == Decimal(case["expected"]["net"])


def taxed(net: Exact, percent: str, currency: str) -> Money:
    """Return the tax on an exact amount: what is charged of it is Stripe's to say; how it rounds is ours."""
    return to_money(exact_product(net, times=Decimal(percent), over=Decimal(100)), currency)


def in_cents(text: object, currency: str = "EUR") -> Money:
    return Money(int(str(text)), currency)


def check_coupon_then_tax(case: Case) -> None:
    fees, expected = case["input"]["fees"], case["expected"]
    amounts = [in_cents(fee["cents"]) for fee in fees]
    shares = share_out(in_cents(case["params"]["coupon_cents"]), amounts)
    assert [share.minor_units for share in shares] == [int(cents) for cents in expected["coupon_by_fee"]]
    nets = [amount - share for amount, share in zip(amounts, shares, strict=True)]
    taxes = [taxed(net.major, fee["tax_percent"], "EUR") for net, fee in zip(nets, fees, strict=True)]
    assert [tax.minor_units for tax in taxes] == [int(cents) for cents in expected["tax_by_fee"]]
    sub_total, tax = (sum(one.minor_units for one in many) for many in (nets, taxes))
    assert (sub_total, tax) == (int(expected["sub_total_cents"]), int(expected["tax_cents"]))
    assert sub_total + tax == int(expected["total_cents"])


def check_tax_rounding(case: Case) -> None:
    params, expected = case["params"], case["expected"]
    nets = [in_cents(cents) for cents in case["input"]["fees_cents"]]
    for place in range(len(nets)):
        nets[place] -= in_cents(params.get(f"coupon_on_fee{place + 1}_cents", 0))
    taxes = [taxed(net.major, params["tax_percent"], "EUR") for net in nets]
    assert [tax.minor_units for tax in taxes] == [int(cents) for cents in expected["tax_by_fee"]]
    assert sum(tax.minor_units for tax in taxes) == int(expected["invoice_tax_cents"])
    assert sum(one.minor_units for one in (*nets, *taxes)) == int(expected["total_cents"])


def check_credit_note(case: Case) -> None:
    params, expected = case["params"], case["expected"]
    unused = Decimal(case["input"]["unused_days"])
    net = exact_product(in_cents(params["plan_cents"]).major, times=unused, over=Decimal(params["period_days"]))
    tax = taxed(net, params["tax_percent"], "EUR")
    assert to_money(net, "EUR").minor_units == int(expected["net_cents"])
    assert tax.minor_units == int(expected["tax_cents"])
    assert (to_money(net, "EUR") + tax).minor_units == int(expected["total_cents"])


def priced(
    model: PriceModel,
    *quantities: str,
    currency: str = "USD",
    conversion: UnitConversion | None = None,
    included: str = "0",
) -> list[Rated]:
    """Return each quantity rated by itself."""
    version = version_of(model, conversion=conversion, included=included)
    return [rated(version, quantity, currency=currency) for quantity in quantities]


def correction(model: PriceModel, before: str, after: str, currency: str) -> Decimal:
    """Return, in major units, what booking `after` adds when `before` is booked; nothing booked twice is 0."""
    was, becomes = (charge(rated, currency) for rated in priced(model, before, after, currency=currency))
    booked = BookedCharge(revision=1, amount=was.amount, rating_digest=was.rating_digest)
    revision = difference(becomes, booked)
    return Decimal(0) if revision is None else revision.delta.major


def check_charge_step(case: Case) -> None:
    """Stripe takes KWD in steps of 10 fils: 5.124 is charged as 5.12, and the rest is carried to the next invoice."""
    currency = case["params"]["currency"]
    exact, step = to_money(Decimal(case["input"]["amount"]), currency), charge_step(currency)
    with pytest.raises(StripeAmountError):
        to_stripe(exact)
    below = exact.minor_units // step * step
    allowed = [str(to_stripe(Money(units, currency))) for units in (below, below + step)]
    assert allowed == case["expected"]["allowed_minor_units"]
    assert str(to_stripe(Money(below, currency))) == case["expected"]["nearest"]


def check_minor_unit(case: Case) -> None:
    if "allowed_minor_units" in case["expected"]:
        check_charge_step(case)
        return
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
    if "periods" in case["input"]:
        for text, days in zip(case["input"]["periods"], case["expected"]["days"], strict=True):
            part = window_of(text)
            whole = BillingAnchor(day=part.start.day).period_containing(part.start)
            found = thirty_day_share(part, whole, "UTC")
            assert found == (days, 30)
            assert abs(Fraction(*found) - Fraction(case["expected"]["ratio"])) < Fraction(1, 10**9)
        return
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


def check_latest_or_max(case: Case) -> None:
    (check_latest if case["model"].startswith("latest") else check_max)(case)


RUN: dict[str, Callable[[Case], None]] = {
    **dict.fromkeys(
        ("standard", "graduated", "volume", "package", "graduated_flat_cap", "volume_flat_cap"), check_priced
    ),
    **dict.fromkeys(("volume_blocks", "graduated_blocks", "volume_packages", "graduated_packages"), check_blocks),
    **dict.fromkeys(("graduated_incremental", "package_incremental", "volume_incremental"), check_priced),
    **dict.fromkeys(("correction_delta", "correction_delta_rounding", "dynamic_multiplier"), check_priced),
    **dict.fromkeys(("percentage", "percentage_per_transaction"), check_percentage),
    "graduated_percentage": check_graduated_percentage,
    "dynamic": check_dynamic,
    "weighted_sum": check_weighted_sum,
    "prorated_recurring_sum": check_prorated_sum,
    **dict.fromkeys(("volume_prorated", "graduated_prorated"), check_prorated_tiers),
    **dict.fromkeys(("recurring_sum late event", "recurring_sum+graduated_prorated"), check_recurring),
    "max_with_carry": check_max_with_carry,
    **{f"bucketed_max+{kind}": check_buckets for kind in ("standard", "graduated", "volume", "package")},
    **dict.fromkeys(
        ("commitment_per_window", "commitment_quantity", "commitment_per_window_time_of_day"), check_commitment
    ),
    "minimum_spend_true_up": check_true_up,
    **dict.fromkeys(("percentage_discount", "fixed_discount"), check_discount),
    "coupon_then_tax": check_coupon_then_tax,
    "tax_rounding": check_tax_rounding,
    "credit_note_rounding": check_credit_note,
    "package_count": check_package_count,
    "minor_unit": check_minor_unit,
    "minor_digits": check_minor_digits,
    "currency_rounding": check_currency_rounding,
    "unit_rounding": check_unit_rounding,
    "unit_conversion": check_unit_conversion,
    "largest_remainder_allocation": check_allocation,
    "late_usage_delta": check_late_packages,
    "late_usage_attribution": check_late_attribution,
    **dict.fromkeys(("latest+standard", "max+standard"), check_latest_or_max),
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
# What a price adds to its model, such as `package+maximum`.
ADDED = {"maximum", "minimum", "percentage_discount", "fixed_discount"}


def check_of(model: str) -> Callable[[Case], None] | None:
    """Return how cases of a model are run; None: in no way."""
    base, *added = model.split("+")
    if added and set(added) <= ADDED and (base == "unit" or base in RUN):
        return check_priced
    return RUN.get(model)


class TestChargeCases:
    def test_every_case_holds(self, cases: tuple[Case, ...], subtests: pytest.Subtests) -> None:
        for case in cases:
            with subtests.test(case["id"]):
                check = check_of(case["model"])
                assert check is not None, f"nothing runs the model {case['model']}"
                check(case)

    def test_every_case_is_run(self, cases: tuple[Case, ...]) -> None:
        assert len(cases) >= 183
        assert {case["id"] for case in cases} >= DECIDED.keys()
        assert [case["id"] for case in cases if check_of(case["model"]) is None] == []

    def test_every_ambiguous_case_is_decided_by_a_rule(self, cases: tuple[Case, ...]) -> None:
        ambiguous = {case["id"] for case in cases if case["ambiguous"]}
        assert ambiguous >= DECIDED.keys()
        assert len(cases) > 183 or ambiguous == DECIDED.keys()
