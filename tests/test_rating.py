"""Rating against figures that a billing analyst can read (`tests/golden/*.toml`)."""

import tomllib
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest

from billing_pipeline.amounts import exact_text, to_money
from billing_pipeline.catalog import FlatFee, Price, PriceVersion, Prorate, Standard, parse_catalog
from billing_pipeline.errors import BillingError
from billing_pipeline.periods import BillingAnchor, BillingPeriod, Window
from billing_pipeline.rating import (
    NegativeQuantityError,
    NoPriceVersionError,
    Rated,
    RatedLine,
    VersionUsage,
    rate,
    rate_flat_fee,
)
from resources.settings import PROJECT_ROOT

GOLDEN = PROJECT_ROOT / "tests" / "golden"
JANUARY = datetime(2026, 1, 1, tzinfo=UTC)


def golden(name: str) -> dict[str, Any]:
    return tomllib.loads((GOLDEN / f"{name}.toml").read_text())


def toml(value: object) -> str:
    """Return a value as inline TOML."""
    match value:
        case bool():
            return str(value).lower()
        case dict():
            return "{ " + ", ".join(f"{key} = {toml(inner)}" for key, inner in value.items()) + " }"
        case list():
            return "[" + ", ".join(toml(inner) for inner in value) + "]"
        case _:
            return str(value) if isinstance(value, int) else f'"{value}"'


def price_of(*versions: dict[str, Any]) -> Price:
    """Return a price as the catalog would read it, versions a month apart."""
    text = '[[price]]\nid = "golden"\nmeter = "m"\ncurrency = "USD"\n'
    for number, version in enumerate(versions, 1):
        fields = "\n".join(f"{key} = {toml(value)}" for key, value in version.items())
        text += f"[[price.versions]]\nversion = {number}\neffective_from = 2026-{number:02}-01T00:00:00Z\n{fields}\n"
    files = {
        "prices.toml": text,
        "meters.toml": '[[meter]]\nid = "m"\naggregation = "count"\nunit = "unit"\n',
        "billable.toml": 'version = 1\nsuccess_statuses = [[200, 299]]\nendpoints = [{ endpoint = "/a" }]\n',
        "plans.toml": "",
        "accounts.toml": "",
        "subscriptions.toml": "",
    }
    return parse_catalog({name: text.encode() for name, text in files.items()}).price("golden")


def rated(price: Price, *quantities: str) -> Rated:
    usage = [
        VersionUsage(version=version, quantity=Decimal(quantity))
        for version, quantity in zip(price.versions, quantities, strict=True)
    ]
    return rate(price=price, unit="unit", usage=usage)


def spelled(line: RatedLine, *, with_version: bool) -> str:
    text = line.as_text()
    place = " ".join(
        part
        for part in (
            f"version {line.version}" if with_version else "",
            f"tier {line.tier}" if line.tier else "",
        )
        if part
    )
    fee = f" + {text['flat_fee']}" if line.flat_fee else ""
    unit = " package" if line.unit == "package" and not with_version else ""
    formula = f"{text['quantity']}{unit} x {text['unit_price']}{fee} = {text['amount']}"
    return f"{place}: {formula}" if place else formula


RATING = golden("rating")


class TestRate:
    @pytest.mark.parametrize("example", RATING["example"], ids=lambda example: f"{example['price']} {example['usage']}")
    def test_gives_the_golden_figure_and_arithmetic(self, example: dict[str, Any]) -> None:
        price = price_of(RATING["prices"][example["price"]])
        if "raises" in example:
            with pytest.raises(BillingError, match=example["raises"]):
                rated(price, example["usage"])
            return
        result = rated(price, example["usage"])
        assert result.exact == Decimal(example["amount"])
        assert [spelled(line, with_version=False) for line in result.lines] == example["arithmetic"]
        if "money" in example:
            assert str(to_money(result.exact, "USD")) == example["money"]

    @pytest.mark.parametrize("example", golden("versions")["example"], ids=lambda example: example["name"])
    def test_goes_on_over_a_change_of_version(self, example: dict[str, Any]) -> None:
        result = rated(price_of(*example["versions"]), *example["usage"])
        assert [spelled(line, with_version=True) for line in result.lines] == example["arithmetic"]
        assert result.exact == Decimal(example["amount"])

    def test_keeps_every_digit_of_long_numbers(self) -> None:
        price = price_of({"model": "standard", "unit_price": "0.123456789012"})
        result = rated(price, "98765432109876543210.123456789")
        assert result.exact == Fraction("0.123456789012") * Fraction("98765432109876543210.123456789")

    def test_names_the_price_of_a_negative_quantity(self) -> None:
        with pytest.raises(NegativeQuantityError, match=r"'golden': the quantity is -0\.5 unit"):
            rated(price_of({"model": "standard", "unit_price": "1"}), "-0.5")

    def test_rates_no_usage_at_all_as_nothing(self) -> None:
        result = rate(price=price_of({"model": "standard", "unit_price": "1"}), unit="unit", usage=())
        assert (result.lines, result.exact, result.quantity, result.unit) == ((), 0, 0, "unit")

    def test_a_flat_fee_has_no_quantity(self) -> None:
        version = PriceVersion(version=1, model=FlatFee(amount=Decimal(5)), effective_from=JANUARY)
        price = Price(price_id="fee", meter_id=None, currency="USD", versions=(version,))
        with pytest.raises(TypeError, match="rate_flat_fee"):
            rate(price=price, unit="unit", usage=(VersionUsage(version=version, quantity=Decimal(1)),))

    def test_third_parts_of_a_unit_add_up_to_the_unit(self) -> None:
        conversion = {"unit": "hour", "divide": "3600"}
        third = {"model": "standard", "unit_price": "0.30", "conversion": conversion}
        result = rated(price_of(third, third, third), "1200", "1200", "1200")
        assert (exact_text(result.quantity), exact_text(result.exact)) == ("1", "0.3")
        assert [line.quantity for line in result.lines] == [Fraction(1, 3)] * 3


def fee_price(amount: str, prorate: str = "second", currency: str = "USD", *starts: datetime) -> Price:
    begins = (datetime(2025, 1, 1, tzinfo=UTC), *starts)
    ends = [*begins[1:], None]
    versions = tuple(
        PriceVersion(
            version=number,
            model=FlatFee(amount=Decimal(amount) * number),
            effective_from=start,
            effective_to=end,
        )
        for number, (start, end) in enumerate(zip(begins, ends, strict=True), 1)
    )
    return Price(price_id="fee", meter_id=None, currency=currency, versions=versions, prorate=Prorate(prorate))


class TestRateFlatFee:
    @pytest.mark.parametrize("example", golden("flat_fees")["example"], ids=lambda example: example["name"])
    def test_gives_the_golden_figure(self, example: dict[str, Any]) -> None:
        zone = example.get("zone", "UTC")
        used = Window(*(datetime.fromisoformat(instant) for instant in example["used"]))
        period = BillingPeriod(used, BillingAnchor(zone=zone).period_containing(used.start))
        currency = example.get("currency", "USD")
        price = fee_price(example["amount"], example.get("prorate", "second"), currency)
        result = rate_flat_fee(price=price, period=period, zone=zone)
        assert str(to_money(result.exact, currency)) == example["money"]

    @pytest.mark.parametrize("prorate", ["second", "day"])
    def test_parts_of_a_period_cost_exactly_the_whole(self, prorate: str) -> None:
        whole = BillingAnchor(zone="America/New_York").period_containing(datetime(2026, 3, 15, tzinfo=UTC))
        marks = [
            whole.start,
            datetime(2026, 3, 8, 7, 30, tzinfo=UTC),
            datetime(2026, 3, 20, 1, 1, 1, tzinfo=UTC),
            whole.end,
        ]
        parts = [
            rate_flat_fee(
                price=fee_price("100", prorate), period=BillingPeriod(Window(*pair), whole), zone="America/New_York"
            )
            for pair in pairwise(marks)
        ]
        assert sum(Fraction(part.exact) for part in parts) == 100

    def test_a_fee_that_changes_inside_the_period_is_charged_by_parts(self) -> None:
        whole = Window(datetime(2026, 4, 1, tzinfo=UTC), datetime(2026, 5, 1, tzinfo=UTC))
        changed = fee_price("30", "second", "USD", datetime(2026, 4, 11, tzinfo=UTC))
        result = rate_flat_fee(price=changed, period=BillingPeriod(whole, whole), zone="UTC")
        # 10 days of 30.00 and 20 days of 60.00
        assert [(line.version, exact_text(line.amount)) for line in result.lines] == [(1, "10"), (2, "40")]
        whole_price = fee_price("30", "none", "USD", datetime(2026, 4, 11, tzinfo=UTC))
        assert rate_flat_fee(price=whole_price, period=BillingPeriod(whole, whole), zone="UTC").exact == 30

    def test_a_period_without_a_version_has_no_price(self) -> None:
        whole = Window(datetime(2024, 12, 1, tzinfo=UTC), datetime(2025, 2, 1, tzinfo=UTC))
        with pytest.raises(NoPriceVersionError, match="2024-12-01"):
            rate_flat_fee(price=fee_price("30"), period=BillingPeriod(whole, whole), zone="UTC")

    def test_a_price_with_a_meter_is_no_flat_fee(self) -> None:
        version = PriceVersion(version=1, model=Standard(unit_price=Decimal(1)), effective_from=JANUARY)
        price = Price(price_id="p", meter_id="m", currency="USD", versions=(version,))
        whole = Window(JANUARY, datetime(2026, 2, 1, tzinfo=UTC))
        with pytest.raises(TypeError, match="not a flat fee"):
            rate_flat_fee(price=price, period=BillingPeriod(whole, whole), zone="UTC")
