"""Price a quantity by hand: the arithmetic of a price of the catalog, or of figures given on the command line.

Reads the catalog's files only; no database is started. Not here: how prices work (rating).
"""

from collections.abc import Sequence
from datetime import UTC, datetime, time
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from pathlib import Path

from rich.markup import escape

from billing_pipeline.amounts import Exact, exact_text, minor_digits, to_money
from billing_pipeline.catalog import (
    FlatFee,
    Graduated,
    Matrix,
    MinimumSpend,
    Package,
    Price,
    PriceModel,
    PriceVersion,
    Standard,
    Tier,
    UsageShape,
    Volume,
)
from billing_pipeline.errors import BillingError
from billing_pipeline.rating import (
    Cells,
    Detail,
    Levels,
    LevelStep,
    Transactions,
    VersionUsage,
    Windows,
    rate,
)
from console.arithmetic import grouped, line_formula, line_place
from console.days import read_day
from console.near import did_you_mean
from console.screen import page
from resources.catalog_store import read_catalog

_MODELS = ("standard", "graduated", "volume", "package")
_ALWAYS = datetime(1970, 1, 1, tzinfo=UTC)
_OPEN_ENDS = ("inf", "")


class RateQuestionError(BillingError):
    """What should be priced cannot be understood, or has no price."""


def rate_by_price(catalog_dir: Path, price_id: str, quantity: str, *, at: str | None) -> None:
    """Print what `quantity` of the meter's unit costs at the price's version of day `at`, or its newest.

    Raises:
        RateQuestionError: no such price or version, a flat fee, or no number.
    """
    amount = _number(quantity, "QUANTITY")
    catalog = read_catalog(catalog_dir)
    price = catalog.prices.get(price_id)
    if price is None:
        raise _question(
            f"The catalog has no price {price_id!r}. {did_you_mean(price_id, catalog.prices)}",
            f"Take a price of {catalog_dir}/prices.toml.",
        )
    version = price.versions[-1]
    if at is not None:
        found = price.version_at(datetime.combine(read_day(at), time(0), UTC))
        if found is None:
            raise _question(
                f"Price {price_id} has no version on {at}; its first begins {price.versions[0].effective_from:%Y-%m-%d}.",
                "Ask for another day with --at.",
            )
        version = found
    if price.meter_id is None or isinstance(version.model, FlatFee | MinimumSpend):
        raise _question(
            f"Price {price_id} is a flat fee; it depends on the period and not on a quantity.",
            "Its amount stands in prices.toml, and with its share of a period in `billing bill ACCOUNT PERIOD`.",
        )
    _print_rating(price, version, catalog.meters[price.meter_id].unit, amount)


def rate_by_model(
    model: str,
    quantity: str,
    *,
    currency: str,
    unit_price: str | None,
    package_size: str | None,
    tiers: Sequence[str],
) -> None:
    """Print what `quantity` costs by a charge model whose figures are given here.

    Raises:
        RateQuestionError: an unknown model, a figure that is missing or no number, tiers out of order.
        UnknownCurrencyError: not an ISO 4217 code.
    """
    amount = _number(quantity, "QUANTITY")
    minor_digits(currency)
    version = PriceVersion(version=1, model=_model(model, unit_price, package_size, tiers), effective_from=_ALWAYS)
    price = Price(price_id="by hand", meter_id="by hand", currency=currency, versions=(version,))
    _print_rating(price, version, "unit", amount)


def _print_rating(price: Price, version: PriceVersion, unit: str, quantity: Decimal) -> None:
    rated = rate(price=price, unit=unit, usage=(_as_asked(version, quantity),))
    console = page()
    model = version.model_name.replace("_", " ")
    console.print(
        f"[bold]{grouped(exact_text(quantity))} {unit}[/] at {escape(price.price_id)}, "
        f"version {version.version} ({model}, {price.currency})"
    )
    if version.conversion is not None:
        console.print(f"  converted: {_shown(rated.quantity)} {rated.unit}")
    if version.included_units:
        console.print(f"  included: the first {_shown(version.included_units)} {rated.unit}")
    for line in rated.lines:
        console.print(f"  {escape(line_place(line.as_text()))}: {escape(line_formula(line.as_text()))}")
    if not rated.lines:
        console.print("  nothing to charge")
    console.print(
        f"  exact {_shown(rated.exact)} {price.currency}, charged [bold]{to_money(rated.exact, price.currency)}[/]"
    )


def _as_asked(version: PriceVersion, quantity: Decimal) -> VersionUsage:
    """Return a quantity as the price wants to be told it: as one transaction, in one window that begins at midnight, in no
    cell of its own, held for the whole period."""
    detail: Detail | None = None
    match version.shape:
        case UsageShape.TRANSACTIONS:
            detail = Transactions(counts=((quantity, 1),))
        case UsageShape.WINDOWS:
            detail = Windows(quantities=((_ALWAYS, quantity),))
        case UsageShape.LEVELS:
            detail = Levels(steps=(LevelStep(before=Decimal(0), after=quantity, share=Decimal(1)),))
        case UsageShape.CELLS if isinstance(version.model, Matrix):
            detail = Cells(quantities=((("",) * len(version.model.dimensions), quantity),))
    return VersionUsage(version=version, quantity=quantity, events=1, detail=detail)


def _shown(value: Exact) -> str:
    return grouped(exact_text(value))


def _model(model: str, unit_price: str | None, package_size: str | None, tiers: Sequence[str]) -> PriceModel:
    match model:
        case "standard":
            return Standard(unit_price=_number(unit_price, "--unit-price"))
        case "package":
            size = _number(package_size, "--package-size")
            if size == 0:
                raise _question("A package of 0 units has no price.", "Give --package-size above 0.")
            return Package(size=size, price=_number(unit_price, "--unit-price"))
        case "graduated":
            return Graduated(tiers=_tiers(tiers))
        case "volume":
            return Volume(tiers=_tiers(tiers))
        case _:
            raise _question(
                f"There is no charge model {model!r}. {did_you_mean(model, _MODELS)}",
                f"Take one of {', '.join(_MODELS)}.",
            )


def _tiers(texts: Sequence[str]) -> tuple[Tier, ...]:
    """Return the tiers of `UP_TO:UNIT_PRICE[:FLAT]` texts, which ascend; only the last may be open."""
    if not texts:
        raise _question(
            "A tiered model needs tiers.", "Give --tier 1000:0.10:2.70 --tier inf:0.05, as many as there are."
        )
    tiers = []
    for text in texts:
        parts = text.split(":")
        if len(parts) not in (2, 3):
            raise _question(
                f"{text!r} is no tier.", "Write UP_TO:UNIT_PRICE or UP_TO:UNIT_PRICE:FLAT, such as 1000:0.10:2.70."
            )
        tiers.append(
            Tier(
                up_to=None if parts[0] in _OPEN_ENDS else _number(parts[0], "a tier's bound"),
                unit_price=_number(parts[1], "a tier's unit price"),
                flat_fee=_number(parts[2], "a tier's flat fee") if len(parts) == 3 else Decimal(0),
            )
        )
    bounds = [tier.up_to for tier in tiers]
    closed = [bound for bound in bounds if bound is not None]
    if None in bounds[:-1] or any(later <= earlier for earlier, later in pairwise(closed)):
        raise _question("The tiers do not ascend.", "Order them by their bounds; only the last may be inf.")
    return tuple(tiers)


def _number(text: str | None, name: str) -> Decimal:
    """Return the exact number in `text`, which is not below 0."""
    try:
        value = None if text is None else Decimal(text)
    except InvalidOperation:
        value = None
    if (
        value is None
        or not value.is_finite()
        or value < 0
        or len(value.as_tuple().digits) > 38
        or abs(value.adjusted()) > 26
    ):
        shown = "is missing" if text is None else f"is {text!r}, which is no number from 0 on"
        raise _question(
            f"{name} {shown}.", "Write it in digits, with a point before the fraction, such as 12345 or 0.0125."
        )
    return value


def _question(what: str, fix: str) -> RateQuestionError:
    return RateQuestionError(what, bill="Nothing was read or changed; this command only calculates.", fix=fix)
