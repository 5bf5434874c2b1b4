"""The shape of a price: a TOML table, or the canonical JSON of it, becomes a price version. Pure.

Not here: other entries (tables), what versions may not say together (validation).
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from billing_pipeline.amounts import RoundingMode, UnitRounding
from billing_pipeline.cadences import MONTHLY
from billing_pipeline.catalog.entries import BillingMode, Dimension, PriceVersion, Prorate, Timing, UnitConversion
from billing_pipeline.catalog.fields import Amount, Every, Hour, Id, Instant, Positive, Table, Text, Version
from billing_pipeline.catalog.models import (
    FlatFee,
    Graduated,
    MeteredBalance,
    Package,
    PackageRounding,
    PeakHours,
    PriceModel,
    Standard,
    Tier,
    Volume,
)


class _Tier(Table):
    up_to: Positive | None = None
    unit_price: Amount = Decimal(0)
    flat_fee: Amount = Decimal(0)

    def entry(self) -> Tier:
        return Tier(up_to=self.up_to, unit_price=self.unit_price, flat_fee=self.flat_fee)


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


# The fields that a model needs, and those that it may have.
MODEL_FIELDS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "standard": (frozenset({"unit_price"}), frozenset()),
    "graduated": (frozenset({"tiers"}), frozenset()),
    "volume": (frozenset({"tiers"}), frozenset()),
    "package": (frozenset({"package_size", "package_price"}), frozenset({"rounding", "free_units"})),
    "flat_fee": (frozenset({"amount"}), frozenset({"per"})),
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


class _PriceVersion(Table):
    version: Version
    model: Literal["standard", "graduated", "volume", "package", "flat_fee", "metered_balance"]
    effective_from: Instant
    effective_to: Instant | None = None
    unit_price: Amount | None = None
    tiers: Annotated[tuple[_Tier, ...], Field(min_length=1)] | None = None
    package_size: Positive | None = None
    package_price: Amount | None = None
    rounding: PackageRounding = PackageRounding.UP
    free_units: Amount = Decimal(0)
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

    def price_model(self) -> PriceModel:
        tiers = tuple(tier.entry() for tier in self.tiers or ())
        match self.model:
            case "standard":
                return Standard(unit_price=self.unit_price or Decimal(0))
            case "graduated":
                return Graduated(tiers=tiers)
            case "volume":
                return Volume(tiers=tiers)
            case "package":
                return Package(
                    size=self.package_size or Decimal(1),
                    price=self.package_price or Decimal(0),
                    rounding=self.rounding,
                    free_units=self.free_units,
                )
            case "flat_fee":
                return FlatFee(amount=self.amount or Decimal(0), per=self.per)
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
        )


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
