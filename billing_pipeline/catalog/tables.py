"""The shapes of catalog entries: a TOML table, or the canonical JSON of it, becomes an entry. Pure.

Strangers write these tables: every field is known, amounts are text or whole numbers, never TOML floats. Not here: the files
and their findings (files), what entries may not say together (validation).
"""

from collections.abc import Mapping
from datetime import datetime, time
from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema, model_validator

from billing_pipeline.amounts import RoundingMode, UnitRounding, exact_text
from billing_pipeline.catalog.entries import (
    Account,
    AccountClient,
    BillableRule,
    BillingMode,
    Dimension,
    FlatFee,
    Graduated,
    MeteredBalance,
    Package,
    PackageRounding,
    PeakHours,
    Plan,
    PriceModel,
    PriceVersion,
    Prorate,
    Standard,
    Subscription,
    Tier,
    UnitConversion,
    Volume,
)
from billing_pipeline.meters import DEFAULT_ENVS, Aggregation, Meter, MeterSource, Missing
from billing_pipeline.periods import BillingAnchor, NaiveInstantError, as_utc

_MAX_INTEGER_DIGITS, _MAX_PLACES = 20, 12


def _exact(value: object) -> Decimal:
    if isinstance(value, float):
        raise ValueError(f'{value!r} is a TOML float, which is not exact; write it as text: "{value!r}"')
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f'{value!r} is not an amount; write it as text such as "0.05"')
    text = str(value)
    whole, _, places = text.partition(".")
    if not (whole.isascii() and whole.isdigit()) or ("." in text and not (places.isascii() and places.isdigit())):
        raise ValueError(f"{text!r} is not an amount of 0 or more in plain digits")
    if len(whole.lstrip("0")) > _MAX_INTEGER_DIGITS or len(places.rstrip("0")) > _MAX_PLACES:
        raise ValueError(f"{text!r} has more than {_MAX_INTEGER_DIGITS} digits before or {_MAX_PLACES} after the point")
    return Decimal(text)


def _instant(value: object) -> datetime:
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if not isinstance(value, datetime):
        raise ValueError(f"{value!r} is not an instant; write it as 2026-03-01T00:00:00Z")
    try:
        instant = as_utc(value)
    except NaiveInstantError as error:
        raise ValueError(error.what + "; write it with Z or an offset") from None
    if instant.microsecond:
        raise ValueError(f"{value.isoformat()} has a fraction of a second; periods begin on whole seconds")
    return instant


def _time_of_day(value: object) -> time:
    found = time.fromisoformat(value) if isinstance(value, str) else value
    if not isinstance(found, time) or found.tzinfo is not None or found.microsecond:
        raise ValueError(f"{value!r} is not a local time of day in whole seconds, such as 14:37:12")
    return found


# What editors are told (JSON Schema): an amount is text in plain digits, or a whole number; TOML's dates are strings to them.
_AMOUNT_SCHEMA = {"anyOf": [{"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"}, {"type": "integer", "minimum": 0}]}

Amount = Annotated[Decimal, BeforeValidator(_exact), PlainSerializer(exact_text), WithJsonSchema(_AMOUNT_SCHEMA)]
Positive = Annotated[Amount, Field(gt=0)]
Instant = Annotated[
    datetime,
    BeforeValidator(_instant),
    PlainSerializer(lambda at: at.isoformat()),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
TimeOfDay = Annotated[
    time,
    BeforeValidator(_time_of_day),
    PlainSerializer(lambda at: at.isoformat()),
    WithJsonSchema({"type": "string", "format": "time"}),
]
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@-]{0,99}$")]
Text = Annotated[str, Field(min_length=1, max_length=200)]
Version = Annotated[int, Field(strict=True, ge=1)]
Status = Annotated[int, Field(strict=True, ge=100, le=599)]
Hour = Annotated[int, Field(strict=True, ge=0, le=24)]


class Table(BaseModel):
    """A TOML table whose fields are all known."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _Endpoint(Table):
    method: Annotated[str, Field(pattern=r"^(\*|[A-Z]+)$")] = "*"
    endpoint: Text


class BillableRuleTable(Table):
    """Which requests are billable, as a file spells it."""

    version: Version
    success_statuses: tuple[tuple[Status, Status], ...]
    endpoints: tuple[_Endpoint, ...]

    def entry(self) -> BillableRule:
        """Return the entry."""
        return BillableRule(
            version=self.version,
            success_statuses=self.success_statuses,
            endpoints=frozenset((endpoint.method, endpoint.endpoint) for endpoint in self.endpoints),
        )


class MeterTable(Table):
    """A meter as a file spells it."""

    id: Id
    version: Version = 1
    aggregation: Aggregation
    unit: Text
    field: str | None = None
    percentile: Amount | None = None
    endpoints: tuple[Text, ...] | None = None
    methods: tuple[Text, ...] | None = None
    bucket_seconds: int | None = None
    missing: Missing = Missing.ZERO
    source: MeterSource = MeterSource.API_REQUESTS
    envs: tuple[Text, ...] | None = None

    def entry(self) -> Meter:
        """Return the entry."""
        return Meter(
            meter_id=self.id,
            version=self.version,
            aggregation=self.aggregation,
            unit=self.unit,
            field=self.field,
            percentile=self.percentile,
            endpoints=None if self.endpoints is None else frozenset(self.endpoints),
            methods=None if self.methods is None else frozenset(self.methods),
            bucket_seconds=self.bucket_seconds,
            missing=self.missing,
            source=self.source,
            envs=DEFAULT_ENVS if self.envs is None else frozenset(self.envs),
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
    "flat_fee": (frozenset({"amount"}), frozenset()),
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
    included_quota_bytes: Annotated[int, Field(strict=True, ge=0, lt=1 << 63)] = 0
    region_multipliers: dict[Text, Amount] = {}
    line_multipliers: dict[Text, Amount] = {}
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
                return FlatFee(amount=self.amount or Decimal(0))
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
    versions: Annotated[tuple[_PriceVersion, ...], Field(min_length=1)]


class PlanTable(Table):
    """A plan as a file spells it."""

    id: Id
    version: Version = 1
    prices: tuple[Id, ...]

    def entry(self) -> Plan:
        """Return the entry."""
        return Plan(plan_id=self.id, version=self.version, prices=self.prices)


class _Client(Table):
    id: Text
    valid_from: Instant | None = None
    valid_to: Instant | None = None

    def entry(self) -> AccountClient:
        return AccountClient(client_id=self.id, valid_from=self.valid_from, valid_to=self.valid_to)


class AccountTable(Table):
    """An account as a file spells it."""

    id: Id
    name: Text
    time_zone: str = "UTC"
    currency: str
    clients: tuple[_Client, ...] = ()

    def entry(self) -> Account:
        """Return the entry."""
        return Account(
            account_id=self.id,
            name=self.name,
            time_zone=self.time_zone,
            currency=self.currency,
            clients=tuple(client.entry() for client in self.clients),
        )


class SubscriptionTable(Table):
    """A subscription as a file spells it; its anchor's zone is the account's."""

    id: Id
    account: Id
    plan: Id
    starts_at: Instant
    ends_at: Instant | None = None
    anchor_day: Annotated[int, Field(strict=True, ge=1, le=31)] = 1
    anchor_time: TimeOfDay = time(0)
    initial_balance: Amount | None = None

    def entry(self, zone: str) -> Subscription:
        """Return the entry, anchored in `zone`."""
        return Subscription(
            subscription_id=self.id,
            account_id=self.account,
            plan_id=self.plan,
            starts_at=self.starts_at,
            ends_at=self.ends_at,
            anchor=BillingAnchor(day=self.anchor_day, time_of_day=self.anchor_time, zone=zone),
            initial_balance=self.initial_balance,
        )
