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
    Volume,
    WindowRating,
)


class _Tier(Table):
    above: Amount | None = None
    up_to: Positive | None = None
    unit_price: Amount = Decimal(0)
    percent: Amount | None = None
    flat_fee: Amount = Decimal(0)
    package_size: Positive | None = None
    maximum: Amount | None = None

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
    multiply: Positive = Decimal(1)
    divide: Positive = Decimal(1)
    rounding: RoundingMode | None = None
    precision: Annotated[int, Field(strict=True, ge=-12, le=12)] = 0

    def entry(self) -> UnitConversion:
        rounding = None if self.rounding is None else UnitRounding(mode=self.rounding, precision=self.precision)
        return UnitConversion(unit=self.unit, multiply=self.multiply, divide=self.divide, rounding=rounding)


class _PeakHours(Table):
    hours: Annotated[tuple[tuple[Hour, Hour], ...], Field(min_length=1)]
    zone: str

    def entry(self) -> PeakHours:
        return PeakHours(hours=self.hours, zone=self.zone)


class _Cell(Table):
    endpoint: Text | None = None
    method: Text | None = None
    client_id: Text | None = None
    node: Text | None = None
    inbound_tag: Text | None = None
    unit_price: Amount

    def entry(self, dimensions: Iterable[Dimension]) -> MatrixCell:
        return MatrixCell(values=tuple(getattr(self, name) for name in dimensions), unit_price=self.unit_price)


class _Commitment(Table):
    amount: Positive | None = None
    units: Positive | None = None
    overage_factor: Amount = Decimal(1)
    true_up: bool = True

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
    amount: Positive | None = None

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
    tiers: Annotated[tuple[_Tier, ...], Field(min_length=1)] | None = None
    package_size: Positive | None = None
    package_price: Amount | None = None
    rounding: PackageRounding = PackageRounding.UP
    free_units: Amount = Decimal(0)
    fee_at_zero: bool = False
    prorated: bool = False

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
    end: TimeOfDay
    commitment: _Commitment | None = None

    def entry(self, model: str) -> HourTerms:
        return HourTerms(
            start=self.start,
            end=self.end,
            model=self.tiered(model),
            commitment=None if self.commitment is None else self.commitment.entry(),
        )


class _Window(Table):
    seconds: Annotated[int, Field(strict=True, ge=1, le=86_400)]
    zone: str = "UTC"
    hours: tuple[_Hours, ...] = ()

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
    "flat_fee": (frozenset({"amount"}), frozenset({"per"})),
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
_EVERY_MODEL_FIELD = frozenset().union(*(needed | allowed for needed, allowed in MODEL_FIELDS.values()))
_HOURS_FIELDS = frozenset(_Figures.model_fields)


class _PriceVersion(_Figures):
    version: Version
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
    effective_from: Instant
    effective_to: Instant | None = None
    percent: Amount | None = None
    fixed_fee: Amount = Decimal(0)
    free_events: Annotated[int, Field(strict=True, ge=1, lt=1 << 31)] | None = None
    free_amount: Positive | None = None
    minimum_per_transaction: Positive | None = None
    maximum_per_transaction: Positive | None = None
    multiplier: Amount = Decimal(1)
    dimensions: Annotated[tuple[Dimension, ...], Field(min_length=1)] | None = None
    cells: Annotated[tuple[_Cell, ...], Field(min_length=1)] | None = None
    amount: Amount | None = None
    per: Id | None = None
    included_quota_bytes: Annotated[int, Field(strict=True, ge=0, lt=1 << 63)] = 0
    region_multipliers: dict[Text, Amount] = Field(default={})
    line_multipliers: dict[Text, Amount] = Field(default={})
    peak: _PeakHours | None = None
    peak_multiplier: Amount = Decimal(1)
    off_peak_multiplier: Amount = Decimal(1)
    initial_balance: Amount = Decimal(0)
    minimum_balance: Amount = Decimal(0)
    conversion: _Conversion | None = None
    included_units: Amount = Decimal(0)
    restart_tiers: bool = False
    window: _Window | None = None
    commitment: _Commitment | None = None
    discount: _Discount | None = None
    maximum: Amount | None = None
    minimum: Positive | None = None

    @model_validator(mode="after")
    def _has_the_fields_of_its_model(self) -> Self:
        needed, allowed = MODEL_FIELDS[self.model]
        missing = sorted(name for name in needed if getattr(self, name) is None)
        if missing:
            raise ValueError(f"a {self.model} price needs {', '.join(missing)}")
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
                return FlatFee(amount=self.amount or Decimal(0), per=self.per)
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
    meter: Id | None = None
    currency: str
    group_by: tuple[Dimension, ...] = ()
    prorate: Prorate = Prorate.SECOND
    billing_mode: BillingMode = BillingMode.INVOICE_ITEMS
    cadence: Every = MONTHLY
    timing: Timing = Timing.ARREARS
    versions: Annotated[tuple[_PriceVersion, ...], Field(min_length=1)]
