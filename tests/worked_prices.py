"""Prices as other billing systems' worked cases spell them, in this project's terms: the params of a case -> a price."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from billing_pipeline.amounts import Exact, Money, exact_sum, to_money
from billing_pipeline.catalog import (
    Adjustments,
    AmountOff,
    Discount,
    Dynamic,
    Graduated,
    GraduatedPercentage,
    Package,
    Percentage,
    PercentOff,
    Price,
    PriceModel,
    PriceVersion,
    Standard,
    Tier,
    UnitConversion,
    Volume,
    WindowRating,
)
from billing_pipeline.charges import Charge, ChargeKey
from billing_pipeline.periods import Window
from billing_pipeline.rating import Detail, LineKind, Rated, VersionUsage, rate

Params = Mapping[str, Any]
ALWAYS = datetime(1970, 1, 1, tzinfo=UTC)
YEAR = Window(datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
USAGE = (LineKind.USAGE, LineKind.OVERAGE, LineKind.COMMITMENT)
# How the sources name what a price adds to its model.
_STANDARD = ("standard", "unit", "per_unit")


def tiers_of(params: Params) -> tuple[Tier, ...]:
    """Return tiers by bounds and unit prices, or Kill Bill's blocks: their size, how many of them, the price of each.

    Kill Bill never looks at the last tier's number of blocks where the top tier prices all of them: it is open there.
    """
    rows = params["tiers"]
    if "block_size" not in rows[0]:
        return tuple(
            Tier(
                up_to=None if row.get("up_to") is None else Decimal(row["up_to"]),
                unit_price=Decimal(row.get("unit_price", "0")),
                flat_fee=Decimal(row.get("flat_fee", "0")),
                maximum=None if row.get("flat_cap") is None else Decimal(row["flat_cap"]),
            )
            for row in rows
        )
    found, bound = [], Decimal(0)
    for place, row in enumerate(rows, 1):
        size = Decimal(row["block_size"])
        is_open = row["max_blocks"] is None or (place == len(rows) and params.get("policy") == "TOP_TIER")
        if not is_open:
            bound += size * Decimal(row["max_blocks"])
        found.append(Tier(up_to=None if is_open else bound, unit_price=Decimal(row["block_price"]), package_size=size))
    return tuple(found)


def model_of(kind: str, params: Params, *, fee_at_zero: bool = False) -> PriceModel:
    """Return the charge model; `kind` as the cases name it."""
    if kind == "dynamic_multiplier":
        return Dynamic(multiplier=Decimal(params["multiplier"]))
    if kind == "dynamic":
        return Dynamic()
    if kind.startswith("percentage"):
        return _percentage(params)
    if kind == "graduated_percentage":
        return GraduatedPercentage(tiers=tiers_of(params))
    if kind.startswith("volume"):
        return Volume(tiers=tiers_of(params), fee_at_zero=fee_at_zero, prorated=kind.endswith("prorated"))
    if kind.startswith("graduated") or "tiers" in params:
        return Graduated(tiers=tiers_of(params), fee_at_zero=fee_at_zero, prorated=kind.endswith("prorated"))
    if kind.startswith("package") or "package_size" in params:
        return Package(
            size=Decimal(params["package_size"]),
            price=Decimal(params.get("package_price", "1")),
            free_units=Decimal(params.get("free_units", "0")),
        )
    assert kind in _STANDARD or "unit_price" in params, kind
    return Standard(unit_price=Decimal(params["unit_price"]))


def _percentage(params: Params) -> Percentage:
    def amount(name: str) -> Decimal | None:
        # 0 is how Lago spells none.
        return Decimal(params[name]) if Decimal(params.get(name) or "0") else None

    return Percentage(
        rate=Decimal(params["rate_percent"]) / 100,
        fixed_fee=Decimal(params.get("fixed_fee_per_event") or "0"),
        free_events=int(params["free_events"]) if params.get("free_events") else None,
        free_amount=amount("free_amount"),
        minimum=amount("min_per_transaction"),
        maximum=amount("max_per_transaction"),
    )


def adjustments_of(params: Params) -> Adjustments | None:
    """Return discount, maximum and minimum of a case."""
    discount: Discount | None = None
    if (percent := params.get("discount_percent", params.get("percent_off"))) is not None:
        discount = PercentOff(rate=Decimal(percent) / 100)
    elif "amount_off" in params:
        discount = AmountOff(amount=Decimal(params["amount_off"]))
    most, least = params.get("maximum"), params.get("minimum")
    if discount is None and most is None and least is None:
        return None
    return Adjustments(
        discount=discount,
        maximum=None if most is None else Decimal(most),
        minimum=None if least is None else Decimal(least),
    )


def version_of(
    model: PriceModel,
    *,
    adjustments: Adjustments | None = None,
    conversion: UnitConversion | None = None,
    included: str = "0",
    window: WindowRating | None = None,
    **more: Any,
) -> PriceVersion:
    """Return the only version of a price, in force always."""
    return PriceVersion(
        version=1,
        model=model,
        effective_from=ALWAYS,
        conversion=conversion,
        included_units=Decimal(included),
        adjustments=adjustments,
        window=window,
        **more,
    )


def rated(
    version: PriceVersion,
    quantity: Exact | str = "0",
    *,
    currency: str = "USD",
    share: Exact = Decimal(1),
    events: int | None = None,
    detail: Detail | None = None,
) -> Rated:
    """Return one quantity rated by itself."""
    exact = Decimal(quantity) if isinstance(quantity, str) else quantity
    price = Price(price_id="p", meter_id="m", currency=currency, versions=(version,))
    usage = VersionUsage(version=version, quantity=exact, share=share, events=events, detail=detail)
    return rate(price=price, unit="unit", usage=(usage,))


def charge(rated_to_date: Rated, currency: str) -> Charge:
    """Return a charge that comes to what was rated."""
    key = ChargeKey(subscription_id="s", price_id="p", period=YEAR)
    return Charge(key=key, account_id="a", plan_id="l", meter_id="m", currency=currency, rated=rated_to_date)


def sum_of(rated_to_date: Rated, kinds: Sequence[LineKind]) -> Exact:
    """Return what the lines of these kinds come to; a tier's maximum is of its usage."""
    return exact_sum(
        [
            line.amount
            for line in rated_to_date.lines
            if line.kind in kinds or (line.kind is LineKind.MAXIMUM and line.tier is not None)
        ]
    )


def money_of(rated_to_date: Rated, kinds: Sequence[LineKind], currency: str) -> Money:
    """Return the rounded sum of the lines of these kinds."""
    return to_money(sum_of(rated_to_date, kinds), currency)
