"""Price quantities by hand: the arithmetic of a price of the catalog, or of figures given on the command line.

Every charge model, by the function that rates bills. Reads the catalog's files only; no database is started. Not here: how
prices work (rating), what figures a model has (catalog).
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.markup import escape

from billing_pipeline.amounts import Exact, exact_sum, exact_text, minor_digits, to_money
from billing_pipeline.billing_schedule import Held
from billing_pipeline.catalog import BillingMode, FlatFee, Matrix, MinimumSpend, Price, PriceVersion, UsageShape
from billing_pipeline.catalog.price_tables import MODEL_FIELDS, PriceTable
from billing_pipeline.catalog.price_validation import version_problems
from billing_pipeline.errors import BillingError
from billing_pipeline.periods import BillingPeriod, Window
from billing_pipeline.rating import (
    Cells,
    Detail,
    Levels,
    LevelStep,
    Rated,
    Transactions,
    VersionUsage,
    Windows,
    rate,
    rate_flat_fee,
    rate_minimum,
)
from console.arithmetic import grouped, line_formula, line_place
from console.days import read_day
from console.near import did_you_mean
from console.screen import page
from resources.catalog_places import errors_placed
from resources.catalog_store import read_catalog

_ALWAYS = datetime(1970, 1, 1, tzinfo=UTC)
_MONTH = Window(_ALWAYS, _ALWAYS + timedelta(days=31))
_OPEN_ENDS = ("inf", "")
_ONE = Decimal(1)
# What has options of its own on the command line, by its name in the catalog; a package's price is its unit price there.
_UNIT_PRICE = {"package": "package_price"}


class RateQuestionError(BillingError):
    """What should be priced cannot be understood, or has no price."""


def rate_by_price(
    catalog_dir: Path, price_id: str, quantities: Sequence[str], *, at: str | None, dimensions: Sequence[str] = ()
) -> None:
    """Print what `quantities` of the meter's unit cost at the price's version of day `at`, or its newest.

    Raises:
        RateQuestionError: no such price or version, or no number.
    """
    amounts = _numbers(quantities)
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
    unit = _unit_of_fee(version) if price.meter_id is None else catalog.meters[price.meter_id].unit
    with errors_placed(catalog_dir):
        _print_rating(price, version, unit, amounts, _named(dimensions))


def rate_by_model(
    model: str,
    quantities: Sequence[str],
    *,
    currency: str,
    unit_price: str | None,
    package_size: str | None,
    tiers: Sequence[str],
    figures: Sequence[str] = (),
    dimensions: Sequence[str] = (),
) -> None:
    """Print what `quantities` cost by a charge model whose figures are given here: those with an option of their own, and
    `figures` as NAME=VALUE with the names of the catalog's fields.

    Raises:
        RateQuestionError: an unknown model, a figure that is missing or wrong, tiers out of order.
        UnknownCurrencyError: not an ISO 4217 code.
    """
    amounts = _numbers(quantities)
    minor_digits(currency)
    if model not in MODEL_FIELDS:
        raise _question(
            f"There is no charge model {model!r}. {did_you_mean(model, MODEL_FIELDS)}",
            f"Take one of {', '.join(MODEL_FIELDS)}.",
        )
    given = {**_options(model, unit_price, package_size, tiers), **_figures(figures)}
    table = _table(model, currency, given)
    (written,) = table.versions
    version = written.entry()
    mode = BillingMode.PREPAID_BALANCE if model == "metered_balance" else BillingMode.INVOICE_ITEMS
    price = Price(price_id="by hand", meter_id=table.meter, currency=currency, versions=(version,), billing_mode=mode)
    problems = [f"{field}: {message}" for field, message in version_problems(table, 0, version)]
    if problems:
        raise _question(f"The figures do not make a price: {'; '.join(problems)}.", "Correct these.")
    unit = _unit_of_fee(version) if price.meter_id is None else "unit"
    _print_rating(price, version, unit, amounts, _named(dimensions))


def _options(model: str, unit_price: str | None, package_size: str | None, tiers: Sequence[str]) -> dict[str, Any]:
    """Return the figures that options give; those that a model cannot do without are asked for by their options' names."""
    needed, allowed = MODEL_FIELDS[model]
    found: dict[str, Any] = {}
    name = _UNIT_PRICE.get(model, "unit_price")
    if name in needed or unit_price is not None:
        found[name] = exact_text(_number(unit_price, "--unit-price"))
    if "package_size" in needed or package_size is not None:
        size = _number(package_size, "--package-size")
        if size == 0:
            raise _question("A package of 0 units has no price.", "Give --package-size above 0.")
        found["package_size"] = exact_text(size)
    if "tiers" in needed or tiers:
        found["tiers"] = _tiers(tiers, is_percentage=model == "graduated_percentage")
    strange = sorted(found.keys() - needed - allowed)
    if strange:
        raise _question(f"A {model} price has no {', '.join(strange)}.", "Leave these options out.")
    return found


def _figures(texts: Sequence[str]) -> Mapping[str, Any]:
    """Return figures given as NAME=VALUE. Numbers are exact; lists and tables are written as in the catalog's files."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise _question(f"{text!r} is no figure.", "Write NAME=VALUE, such as --figure percent=1.5.")
        found[name.strip()] = _figure(name.strip(), value.strip())
    return found


def _figure(name: str, value: str) -> Any:
    if value.isascii() and value.isdigit():
        return int(value)
    if value[:1] not in ("[", "{", '"') and value not in ("true", "false"):
        return value
    try:
        return tomllib.loads(f"figure = {value}")["figure"]
    except tomllib.TOMLDecodeError as error:
        raise _question(
            f"The value of {name} cannot be read: {error}.", "Write it as a catalog file has it, in one argument."
        ) from None


def _table(model: str, currency: str, figures: Mapping[str, Any]) -> PriceTable:
    version = {"version": 1, "model": model, "effective_from": _ALWAYS, **figures}
    meter = {} if model in ("flat_fee", "minimum_spend") else {"meter": "by-hand"}
    try:
        return PriceTable.model_validate({"id": "by-hand", "currency": currency, "versions": [version], **meter})
    except ValidationError as error:
        shown = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc'][2:])}: {problem['msg'].removeprefix('Value error, ')}".lstrip(
                ": "
            )
            for problem in error.errors(include_url=False)
            # Without its only version a price has none: that is said twice.
            if len(problem["loc"]) > 1
        )
        needed, allowed = MODEL_FIELDS[model]
        fields = ", ".join(sorted(needed)) or "no figures"
        more = f"; it may have {', '.join(sorted(allowed))}" if allowed else ""
        raise _question(
            f"The figures do not make a price: {shown}.",
            f"A {model} price needs {fields}{more}: give --figure NAME=VALUE.",
        ) from None


def _print_rating(
    price: Price, version: PriceVersion, unit: str, quantities: Sequence[Decimal], named: Mapping[str, str]
) -> None:
    rated = _rated(price, version, unit, quantities, named)
    console = page()
    model = version.model_name.replace("_", " ")
    shown = " + ".join(_shown(quantity) for quantity in quantities)
    console.print(
        f"[bold]{shown} {unit}[/] at {escape(price.price_id)}, version {version.version} ({model}, {price.currency})"
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


def _rated(
    price: Price, version: PriceVersion, unit: str, quantities: Sequence[Decimal], named: Mapping[str, str]
) -> Rated:
    """Return the rating of a whole period at one version, whenever that is in force."""
    version = replace(version, effective_from=_ALWAYS, effective_to=None)
    alone = replace(price, versions=(version,))
    total = exact_sum(list(quantities))
    match version.model:
        case FlatFee(per=per):
            name = per or "period"
            month = BillingPeriod(_MONTH, _MONTH)
            fee = rate_flat_fee(price=alone, period=month, zone="UTC", held=(Held(_MONTH, {name: _only(quantities)}),))
            if per is None and total != _ONE:
                raise _question(
                    f"{price.price_id} is a flat fee for each period; it does not depend on a quantity.",
                    "Ask for 1; the share of a shorter period is in `billing bill ACCOUNT PERIOD`.",
                )
            return fee
        case MinimumSpend():
            spent = to_money(total, price.currency).major
            return rate_minimum(price=alone, usage=(VersionUsage(version=version, quantity=Decimal(0)),), spent=spent)
    detail = _detail(version, quantities, named)
    usage = VersionUsage(version=version, quantity=total, events=len(quantities), detail=detail)
    return rate(price=alone, unit=unit, usage=(usage,))


def _detail(version: PriceVersion, quantities: Sequence[Decimal], named: Mapping[str, str]) -> Detail | None:
    """Return quantities as the price wants to be told them: each a transaction, or what a window used, the windows following each
    other from midnight; one in a cell of a matrix; one held for the whole period."""
    match version.shape:
        case UsageShape.TRANSACTIONS:
            return Transactions(counts=tuple((quantity, 1) for quantity in quantities))
        case UsageShape.WINDOWS:
            size = timedelta(seconds=version.window.seconds if version.window else 0)
            return Windows(quantities=tuple((_ALWAYS + place * size, one) for place, one in enumerate(quantities)))
        case UsageShape.LEVELS:
            return Levels(steps=(LevelStep(before=Decimal(0), after=_only(quantities), share=_ONE),))
        case UsageShape.CELLS if isinstance(version.model, Matrix):
            values = tuple(named.get(name, "") for name in version.model.dimensions)
            return Cells(quantities=((values, _only(quantities)),))
    _only(quantities)
    return None


def _only(quantities: Sequence[Decimal]) -> Decimal:
    if len(quantities) != 1:
        raise _question(
            f"{len(quantities)} quantities are given, and the price rates one.",
            "Give one; several are transactions of a percentage, or the windows of a price that rates windows.",
        )
    return quantities[0]


def _unit_of_fee(version: PriceVersion) -> str:
    """Return what a price without a meter is asked about: of a minimum what the other charges come to."""
    if isinstance(version.model, MinimumSpend):
        return "charged otherwise"
    return (version.model.per if isinstance(version.model, FlatFee) else None) or "period"


def _named(dimensions: Sequence[str]) -> Mapping[str, str]:
    found = {}
    for text in dimensions:
        name, equals, value = text.partition("=")
        if not equals:
            raise _question(
                f"{text!r} names no dimension's value.", "Write NAME=VALUE, such as --of endpoint=/v1/things."
            )
        found[name] = value
    return found


def _shown(value: Exact) -> str:
    return grouped(exact_text(value))


def _tiers(texts: Sequence[str], *, is_percentage: bool) -> list[dict[str, str]]:
    """Return the tiers of `UP_TO:UNIT_PRICE[:FLAT]` texts, which ascend; only the last may be open. Of a graduated percentage
    the second figure is a percent."""
    if not texts:
        raise _question(
            "A tiered model needs tiers.", "Give --tier 1000:0.10:2.70 --tier inf:0.05, as many as there are."
        )
    tiers = []
    bounds: list[Decimal | None] = []
    for text in texts:
        parts = text.split(":")
        if len(parts) not in (2, 3):
            raise _question(
                f"{text!r} is no tier.", "Write UP_TO:UNIT_PRICE or UP_TO:UNIT_PRICE:FLAT, such as 1000:0.10:2.70."
            )
        bound = None if parts[0] in _OPEN_ENDS else _number(parts[0], "a tier's bound")
        bounds.append(bound)
        tier = {"percent" if is_percentage else "unit_price": exact_text(_number(parts[1], "a tier's unit price"))}
        if bound is not None:
            tier["up_to"] = exact_text(bound)
        if len(parts) == 3:
            tier["flat_fee"] = exact_text(_number(parts[2], "a tier's flat fee"))
        tiers.append(tier)
    closed = [bound for bound in bounds if bound is not None]
    if None in bounds[:-1] or any(later <= earlier for earlier, later in pairwise(closed)):
        raise _question("The tiers do not ascend.", "Order them by their bounds; only the last may be inf.")
    return tiers


def _numbers(texts: Sequence[str]) -> tuple[Decimal, ...]:
    return tuple(_number(text, "QUANTITY") for text in texts)


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
