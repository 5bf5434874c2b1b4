"""The shape of a price: a TOML table, or the canonical JSON of it, becomes a price version. Pure.

Not here: other entries (tables), what versions may not say together (validation).
"""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from billing_pipeline.amounts import RoundingMode, UnitRounding
from billing_pipeline.cadences import MONTHLY
from billing_pipeline.catalog.entries import BillingMode, PriceVersion, Prorate, Timing, UnitConversion
from billing_pipeline.catalog.fields import (
    Amount,
    Every,
    Hour,
    Id,
    Instant,
    Positive,
    Table,
    Text,
    TimeOfDay,
    Version,
    share_of,
)
from billing_pipeline.catalog.models import (
    Adjustments,
    AmountOff,
    Commitment,
    Dimension,
    Discount,
    Dynamic,
    FlatFee,
    Graduated,
    GraduatedPercentage,
    HourTerms,
    Matrix,
    MatrixCell,
    MeteredBalance,
    MinimumSpend,
    Package,
    PackageRounding,
    PeakHours,
    Percentage,
    PercentOff,
    PriceModel,
    Standard,
    Tier,
    TieredModel,
    Tiering,
    Volume,
    WindowRating,
)


class _Tier(Table):
    above: Amount | None = None
    """Where the tier before ends: may be said so that a gap or an overlap is found; it changes nothing."""
    up_to: Positive | None = None
    """The last quantity of the tier, included, in priced units. Leave it out in the last tier, which is then open."""
    unit_price: Amount = Decimal(0)
    """What a unit costs in this tier (a package of it, with package_size), in major units of the currency, as text."""
    percent: Amount | None = None
    """Of a graduated_percentage: the share of the amounts in this tier, in percent: "1.5" is 1.5 %."""
    flat_fee: Amount = Decimal(0)
    """Charged once when the quantity enters the tier; of a fee by quantity for each whole period in which it is in the tier."""
    package_size: Positive | None = None
    """Charge the units of the tier by packages of so many that are begun, each at unit_price."""
    maximum: Amount | None = None
    """The most that the tier comes to, its flat fee included."""

    def entry(self) -> Tier:
        return Tier(
            up_to=self.up_to,
            unit_price=self.unit_price if self.percent is None else share_of(self.percent),
            flat_fee=self.flat_fee,
            package_size=self.package_size,
            maximum=self.maximum,
        )


class _Conversion(Table):
    unit: Text
    """The name of the unit that is priced, as bills show it: "GB"."""
    multiply: Positive = Decimal(1)
    """How many priced units one unit of the meter is, before divide."""
    divide: Positive = Decimal(1)
    """How many units of the meter are one priced unit: "1000000000" for bytes priced by the GB."""
    rounding: RoundingMode | None = None
    """Make the converted quantity whole: up, down or half_up. Left out: it stays exact."""
    precision: Annotated[int, Field(strict=True, ge=-12, le=12)] = 0
    """The decimal places that rounding keeps; -2 rounds to whole hundreds."""

    def entry(self) -> UnitConversion:
        rounding = None if self.rounding is None else UnitRounding(mode=self.rounding, precision=self.precision)
        return UnitConversion(unit=self.unit, multiply=self.multiply, divide=self.divide, rounding=rounding)


class _PeakHours(Table):
    hours: Annotated[tuple[tuple[Hour, Hour], ...], Field(min_length=1)]
    """Pairs of local hours [first, end), 0 to 24; a first above its end goes over midnight."""
    zone: str
    """The IANA time zone of the hours, such as "Asia/Shanghai"."""

    def entry(self) -> PeakHours:
        return PeakHours(hours=self.hours, zone=self.zone)


class _Cell(Table):
    endpoint: Text | None = None
    """The endpoint template that the cell is for; left out, any."""
    method: Text | None = None
    """The HTTP method that the cell is for; left out, any."""
    client_id: Text | None = None
    """The client that the cell is for; left out, any."""
    node: Text | None = None
    """The node that the cell is for; left out, any."""
    inbound_tag: Text | None = None
    """The inbound that the cell is for; left out, any."""
    unit_price: Amount
    """What a unit costs that the cell matches, in major units of the currency. The first cell that matches counts."""

    def entry(self, dimensions: Iterable[Dimension]) -> MatrixCell:
        return MatrixCell(values=tuple(getattr(self, name) for name in dimensions), unit_price=self.unit_price)


class _Commitment(Table):
    amount: Positive | None = None
    """What usage comes to at least, in major units of the currency. Write this or units."""
    units: Positive | None = None
    """How many priced units are paid at least. Write this or amount."""
    overage_factor: Amount = Decimal(1)
    """How many times as much usage beyond the commitment costs: "1.5"."""
    true_up: bool = True
    """Whether what is missing to the commitment is charged."""

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.amount is None) == (self.units is None):
            raise ValueError("a commitment is either an amount or units: write one of them")
        return self

    def entry(self) -> Commitment:
        return Commitment(
            amount=self.amount, units=self.units, overage_factor=self.overage_factor, true_up=self.true_up
        )


class _Discount(Table):
    percent: Annotated[Positive, Field(le=100)] | None = None
    """Percent that are taken off what the price comes to. Write this or amount."""
    amount: Positive | None = None
    """What is taken off for each whole billing period, at most what is charged, in major units. Write this or percent."""

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.percent is None) == (self.amount is None):
            raise ValueError("a discount is either a percent or an amount: write one of them")
        return self

    def entry(self) -> Discount:
        if self.percent is not None:
            return PercentOff(rate=share_of(self.percent))
        return AmountOff(amount=self.amount or Decimal(0))


class _Figures(Table):
    """The figures of a model that rates a quantity, or a window of it, by itself."""

    unit_price: Amount | None = None
    """What a unit costs, in major units of the currency, as text such as "0.0125". Of a matrix: what no cell matches."""
    tiers: Annotated[tuple[_Tier, ...], Field(min_length=1)] | None = None
    """The tiers of a graduated, volume or graduated_percentage price, ascending; or those of a fee by quantity."""
    package_size: Positive | None = None
    """How many units a package has."""
    package_price: Amount | None = None
    """What a package costs, in major units of the currency."""
    rounding: PackageRounding = PackageRounding.UP
    """Of a package: whether one that is begun is charged (up), or only a full one (down)."""
    free_units: Amount = Decimal(0)
    """Units of each period that are free before packages are counted."""
    fee_at_zero: bool = False
    """Whether the first tier's flat fee is due without any usage."""
    prorated: bool = False
    """For a meter of a level: every unit costs for the share of the period that it is held, in the tier of its full size."""

    def tiered(self, model: str) -> TieredModel:
        tiers = tuple(tier.entry() for tier in self.tiers or ())
        match model:
            case "graduated":
                return Graduated(tiers=tiers, fee_at_zero=self.fee_at_zero, prorated=self.prorated)
            case "volume":
                return Volume(tiers=tiers, fee_at_zero=self.fee_at_zero, prorated=self.prorated)
            case "package":
                return Package(
                    size=self.package_size or Decimal(1),
                    price=self.package_price or Decimal(0),
                    rounding=self.rounding,
                    free_units=self.free_units,
                )
            case _:
                return Standard(unit_price=self.unit_price or Decimal(0))


class _Hours(_Figures):
    start: TimeOfDay
    """The local time of day from which windows have these figures."""
    end: TimeOfDay
    """The local time of day until which they do; before start: over midnight."""
    commitment: _Commitment | None = None
    """What is to be used at least in each window that begins in these hours."""

    def entry(self, model: str) -> HourTerms:
        return HourTerms(
            start=self.start,
            end=self.end,
            model=self.tiered(model),
            commitment=None if self.commitment is None else self.commitment.entry(),
        )


class _Window(Table):
    seconds: Annotated[int, Field(strict=True, ge=1, le=86_400)]
    """How long a window is, in seconds; it divides a day, and windows are aligned to midnight UTC."""
    zone: str = "UTC"
    """The IANA time zone of hours."""
    hours: tuple[_Hours, ...] = ()
    """Hours of the day with figures of their own; the first in which a window begins counts."""

    def entry(self, model: str) -> WindowRating:
        return WindowRating(
            seconds=self.seconds, zone=self.zone, hours=tuple(hours.entry(model) for hours in self.hours)
        )


_TIERED_FIELDS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "standard": (frozenset({"unit_price"}), frozenset()),
    "graduated": (frozenset({"tiers"}), frozenset({"fee_at_zero", "prorated"})),
    "volume": (frozenset({"tiers"}), frozenset({"fee_at_zero", "prorated"})),
    "package": (frozenset({"package_size", "package_price"}), frozenset({"rounding", "free_units"})),
}
# The fields that a model needs, and those that it may have.
MODEL_FIELDS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    **_TIERED_FIELDS,
    "percentage": (
        frozenset({"percent"}),
        frozenset({"fixed_fee", "free_events", "free_amount", "minimum_per_transaction", "maximum_per_transaction"}),
    ),
    "graduated_percentage": (frozenset({"tiers"}), frozenset()),
    "dynamic": (frozenset(), frozenset({"multiplier"})),
    "matrix": (frozenset({"dimensions", "cells"}), frozenset({"unit_price"})),
    "flat_fee": (frozenset(), frozenset({"amount", "per", "tiers", "tiering"})),
    "minimum_spend": (frozenset({"amount"}), frozenset()),
    "metered_balance": (
        frozenset({"unit_price"}),
        frozenset(
            {
                "included_quota_bytes",
                "region_multipliers",
                "line_multipliers",
                "peak",
                "peak_multiplier",
                "off_peak_multiplier",
                "initial_balance",
                "minimum_balance",
            }
        ),
    ),
}
# Of these fields a model needs exactly one.
MODEL_CHOICES: Mapping[str, tuple[str, ...]] = {"flat_fee": ("amount", "tiers")}
_EVERY_MODEL_FIELD = frozenset().union(*(needed | allowed for needed, allowed in MODEL_FIELDS.values()))
_HOURS_FIELDS = frozenset(_Figures.model_fields)


class _PriceVersion(_Figures):
    version: Version
    """The number of the version, from 1. What booked charges rest on is never edited: add a version."""
    model: Literal[
        "standard",
        "graduated",
        "volume",
        "package",
        "percentage",
        "graduated_percentage",
        "dynamic",
        "matrix",
        "flat_fee",
        "minimum_spend",
        "metered_balance",
    ]
    """How a quantity becomes an amount; see docs/pricing.md for each model."""
    effective_from: Instant
    """The first instant at which the version counts, on a whole UTC hour: 2026-03-01T00:00:00Z."""
    effective_to: Instant | None = None
    """The instant at which it counts no more. Left out: where the next version begins, or never."""
    percent: Amount | None = None
    """Of a percentage: the share of each transaction's amount, in percent: "2.9"."""
    fixed_fee: Amount = Decimal(0)
    """Of a percentage: what each paid transaction costs beside its share."""
    free_events: Annotated[int, Field(strict=True, ge=1, lt=1 << 31)] | None = None
    """Of a percentage: how many transactions of a period are free, the first ones in order of time."""
    free_amount: Positive | None = None
    """Of a percentage: up to which sum the first transactions of a period are free."""
    minimum_per_transaction: Positive | None = None
    """Of a percentage: what a paid transaction costs at least, its fixed fee included."""
    maximum_per_transaction: Positive | None = None
    """Of a percentage: what a paid transaction costs at most, its fixed fee included."""
    multiplier: Amount = Decimal(1)
    """Of a dynamic price: what the amounts in the events are multiplied by."""
    dimensions: Annotated[tuple[Dimension, ...], Field(min_length=1)] | None = None
    """Of a matrix: the columns of usage that its cells are about, such as ["endpoint", "method"]."""
    cells: Annotated[tuple[_Cell, ...], Field(min_length=1)] | None = None
    """Of a matrix: a unit price for each combination of values; the first that matches counts."""
    amount: Amount | None = None
    """Of a flat_fee: what a whole period costs; of a minimum_spend: what the other charges come to at least."""
    per: Id | None = None
    """Of a flat_fee: the quantity of the subscription that each unit is charged for, such as "seat"."""
    tiering: Tiering = Tiering.GRADUATED
    """Of a flat_fee with tiers: graduated (each part of the quantity at its tier) or volume (all of it at one tier)."""
    included_quota_bytes: Annotated[int, Field(strict=True, ge=0, lt=1 << 63)] = 0
    """Of a metered_balance: bytes of each billing period that cost nothing, in order of time."""
    region_multipliers: dict[Text, Amount] = Field(default={})
    """Of a metered_balance: what the unit price is multiplied by in each region."""
    line_multipliers: dict[Text, Amount] = Field(default={})
    """Of a metered_balance: what the unit price is multiplied by on each line."""
    peak: _PeakHours | None = None
    """Of a metered_balance: the hours in which peak_multiplier counts."""
    peak_multiplier: Amount = Decimal(1)
    """Of a metered_balance: what the unit price is multiplied by in peak hours."""
    off_peak_multiplier: Amount = Decimal(1)
    """Of a metered_balance: what the unit price is multiplied by in all other hours."""
    initial_balance: Amount = Decimal(0)
    """Of a metered_balance: what an account begins with, in major units of the currency."""
    minimum_balance: Amount = Decimal(0)
    """Of a metered_balance: the balance below which an account is throttled."""
    conversion: _Conversion | None = None
    """How units of the meter become priced units, such as bytes GB."""
    included_units: Amount = Decimal(0)
    """Priced units that cost nothing, before tiers are counted; again in each period, unless included_reset says never."""
    included_reset: Literal["period", "never"] = "period"
    """When included units are given anew: with each period, or never; then they are used up once, from the start of the
    subscription on.
    """
    restart_tiers: bool = False
    """Whether tiers, packages and included units begin anew where this version takes over inside a period."""
    window: _Window | None = None
    """Rate fixed windows each by itself instead of the whole period."""
    commitment: _Commitment | None = None
    """What is to be used at least in each billing period, or, with window, in each window."""
    discount: _Discount | None = None
    """What is taken off what the price comes to, before maximum and minimum."""
    maximum: Amount | None = None
    """The most that a whole billing period is charged, in major units of the currency."""
    minimum: Positive | None = None
    """What a whole billing period is charged at least; what is missing is a line of its own."""

    @model_validator(mode="after")
    def _has_the_fields_of_its_model(self) -> Self:
        needed, allowed = MODEL_FIELDS[self.model]
        missing = sorted(name for name in needed if getattr(self, name) is None)
        if missing:
            raise ValueError(f"a {self.model} price needs {', '.join(missing)}")
        choices = MODEL_CHOICES.get(self.model, ())
        if choices and sum(getattr(self, name) is not None for name in choices) != 1:
            raise ValueError(f"a {self.model} price needs {' or '.join(choices)}: write one of them")
        strange = sorted((self.model_fields_set & _EVERY_MODEL_FIELD) - needed - allowed)
        if strange:
            raise ValueError(f"a {self.model} price has no {', '.join(strange)}")
        return self

    @model_validator(mode="after")
    def _hours_have_the_figures_of_the_model(self) -> Self:
        for hours in self.window.hours if self.window else ():
            needed, allowed = _TIERED_FIELDS.get(self.model, (frozenset(), frozenset()))
            given = hours.model_fields_set & _HOURS_FIELDS
            if not needed <= given <= needed | allowed:
                raise ValueError(f"hours of a {self.model} price have {', '.join(sorted(needed))} of their own")
        return self

    def price_model(self) -> PriceModel:
        match self.model:
            case "standard" | "graduated" | "volume" | "package":
                return self.tiered(self.model)
            case "percentage":
                return Percentage(
                    rate=share_of(self.percent or Decimal(0)),
                    fixed_fee=self.fixed_fee,
                    free_events=self.free_events,
                    free_amount=self.free_amount,
                    minimum=self.minimum_per_transaction,
                    maximum=self.maximum_per_transaction,
                )
            case "graduated_percentage":
                return GraduatedPercentage(tiers=tuple(tier.entry() for tier in self.tiers or ()))
            case "dynamic":
                return Dynamic(multiplier=self.multiplier)
            case "matrix":
                dimensions = self.dimensions or ()
                cells = tuple(cell.entry(dimensions) for cell in self.cells or ())
                return Matrix(dimensions=dimensions, cells=cells, unit_price=self.unit_price)
            case "flat_fee":
                return FlatFee(
                    amount=self.amount or Decimal(0),
                    per=self.per,
                    tiers=tuple(tier.entry() for tier in self.tiers or ()),
                    tiering=self.tiering,
                )
            case "minimum_spend":
                return MinimumSpend(amount=self.amount or Decimal(0))
            case "metered_balance":
                return MeteredBalance(
                    unit_price=self.unit_price or Decimal(0),
                    included_quota_bytes=self.included_quota_bytes,
                    region_multipliers=self.region_multipliers,
                    line_multipliers=self.line_multipliers,
                    peak=None if self.peak is None else self.peak.entry(),
                    peak_multiplier=self.peak_multiplier,
                    off_peak_multiplier=self.off_peak_multiplier,
                    initial_balance=self.initial_balance,
                    minimum_balance=self.minimum_balance,
                )

    def entry(self) -> PriceVersion:
        return PriceVersion(
            version=self.version,
            model=self.price_model(),
            effective_from=self.effective_from,
            effective_to=self.effective_to,
            conversion=None if self.conversion is None else self.conversion.entry(),
            included_units=self.included_units,
            is_included_once=self.included_reset == "never",
            restart_tiers=self.restart_tiers,
            commitment=None if self.commitment is None else self.commitment.entry(),
            window=None if self.window is None else self.window.entry(self.model),
            adjustments=self._adjustments(),
        )

    def _adjustments(self) -> Adjustments | None:
        if self.discount is None and self.maximum is None and self.minimum is None:
            return None
        discount = None if self.discount is None else self.discount.entry()
        return Adjustments(discount=discount, maximum=self.maximum, minimum=self.minimum)


class PriceTable(Table):
    """A price as a file spells it; its versions are checked against each other in validation."""

    id: Id
    """The name of the price, by which plans, bills and invoices name it."""
    meter: Id | None = None
    """The meter whose usage it charges; left out for a flat fee and a minimum."""
    currency: str
    """Three capital letters of ISO 4217, such as "USD"; accounts on it pay in the same."""
    group_by: tuple[Dimension, ...] = ()
    """Dimensions of usage that are rated apart, each with a charge and tiers of its own."""
    prorate: Prorate = Prorate.SECOND
    """How amounts for a whole period are shared where it is shortened: by second, by local day, by days of months of 30
    days, or not (none).
    """
    billing_mode: BillingMode = BillingMode.INVOICE_ITEMS
    """How it reaches the customer: items of an invoice, a meter at Stripe, or an account's prepaid balance."""
    cadence: Every = MONTHLY
    """How often it is charged: week, month, quarter, half_year, year, or such as "5 months"."""
    timing: Timing = Timing.ARREARS
    """Whether it falls due where its period begins (advance, fees alone) or where it ends (arrears)."""
    versions: Annotated[tuple[_PriceVersion, ...], Field(min_length=1)]
    """What it asks from when on. Versions are added, never edited."""
