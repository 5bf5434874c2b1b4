"""Run worked cases of discounts, taxes, rounding, proration and time. Not here: charge models (worked_models)."""

from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction

import pytest

from billing_pipeline.amounts import (
    Exact,
    Money,
    RoundingMode,
    UnitRounding,
    allocate,
    exact_product,
    minor_digits,
    round_half_away,
    to_money,
)
from billing_pipeline.catalog import (
    PriceModel,
    Standard,
    UnitConversion,
)
from billing_pipeline.charges import BookedCharge, difference
from billing_pipeline.invoicing.stripe_amounts import StripeAmountError, charge_step, to_stripe
from billing_pipeline.period_charges import share_out
from billing_pipeline.periods import (
    BillingAnchor,
    Window,
    elapsed_share,
    local_days,
    thirty_day_share,
)
from billing_pipeline.rating import (
    LineKind,
    Rated,
)
from tests.worked_cases import DECIDED, Case, currency_of, window_of
from tests.worked_prices import (
    adjustments_of,
    charge,
    model_of,
    rated,
    sum_of,
    version_of,
)


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
