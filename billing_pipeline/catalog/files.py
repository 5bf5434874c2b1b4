"""Catalog files and stored contents -> entries, with every finding at once. Pure: bytes in, values out.

One shape serves both: a TOML table of `catalog/*.toml`, and the canonical JSON of it that PostgreSQL keeps. Amounts are
text or whole numbers, never TOML floats. Not here: what entries may not say together (validation).
"""

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, time
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError, model_validator

from billing_pipeline.amounts import RoundingMode, UnitRounding, exact_text
from billing_pipeline.catalog.entries import (
    Account,
    AccountClient,
    BillableRule,
    BillingMode,
    Dimension,
    EntryContent,
    FlatFee,
    Graduated,
    Kind,
    Package,
    PackageRounding,
    Plan,
    PriceModel,
    PriceVersion,
    Prorate,
    Standard,
    Subscription,
    Tier,
    UnitConversion,
    Volume,
    content_of,
)
from billing_pipeline.errors import BillingError
from billing_pipeline.meters import DEFAULT_ENVS, Aggregation, Meter, MeterInvalidError, MeterSource, Missing
from billing_pipeline.periods import BillingAnchor, NaiveInstantError, as_utc

FILES: Mapping[Kind, str] = {
    Kind.BILLABLE_RULE: "billable.toml",
    Kind.METER: "meters.toml",
    Kind.PRICE: "prices.toml",
    Kind.PLAN: "plans.toml",
    Kind.ACCOUNT: "accounts.toml",
    Kind.SUBSCRIPTION: "subscriptions.toml",
}
_MAX_INTEGER_DIGITS, _MAX_PLACES = 20, 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong: the file, the entry's id, the field, and what would be right."""

    file: str
    entry: str
    field: str
    message: str

    def __str__(self) -> str:
        place = ": ".join(part for part in (self.file, self.entry, self.field) if part)
        return f"{place}: {self.message}"


class CatalogError(BillingError):
    """The catalog cannot be used. `findings` lists everything that is wrong with it."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(findings)
        count = len(self.findings)
        shown = [f"\n    - {finding}" for finding in self.findings[:50]]
        if count > len(shown):
            shown.append(f"\n    - and {count - len(shown)} more")
        super().__init__(
            f"the catalog has {count} finding{'s' if count != 1 else ''}:{''.join(shown)}",
            bill="nothing of this catalog is loaded; charges go on with the one loaded before",
            fix="correct every line above in the catalog folder and load it again",
        )


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


Amount = Annotated[Decimal, BeforeValidator(_exact), PlainSerializer(exact_text)]
Positive = Annotated[Amount, Field(gt=0)]
Instant = Annotated[datetime, BeforeValidator(_instant), PlainSerializer(lambda at: at.isoformat())]
TimeOfDay = Annotated[time, BeforeValidator(_time_of_day), PlainSerializer(lambda at: at.isoformat())]
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@-]{0,99}$")]
Text = Annotated[str, Field(min_length=1, max_length=200)]
Version = Annotated[int, Field(strict=True, ge=1)]
Status = Annotated[int, Field(strict=True, ge=100, le=599)]


class _Table(BaseModel):
    """A TOML table whose fields are all known."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _Endpoint(_Table):
    method: Annotated[str, Field(pattern=r"^(\*|[A-Z]+)$")] = "*"
    endpoint: Text


class _BillableRule(_Table):
    version: Version
    success_statuses: tuple[tuple[Status, Status], ...]
    endpoints: tuple[_Endpoint, ...]

    def entry(self) -> BillableRule:
        return BillableRule(
            version=self.version,
            success_statuses=self.success_statuses,
            endpoints=frozenset((endpoint.method, endpoint.endpoint) for endpoint in self.endpoints),
        )


class _Meter(_Table):
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


class _Tier(_Table):
    up_to: Positive | None = None
    unit_price: Amount = Decimal(0)
    flat_fee: Amount = Decimal(0)

    def entry(self) -> Tier:
        return Tier(up_to=self.up_to, unit_price=self.unit_price, flat_fee=self.flat_fee)


class _Conversion(_Table):
    unit: Text
    multiply: Positive = Decimal(1)
    divide: Positive = Decimal(1)
    rounding: RoundingMode | None = None
    precision: Annotated[int, Field(strict=True, ge=-12, le=12)] = 0

    def entry(self) -> UnitConversion:
        rounding = None if self.rounding is None else UnitRounding(mode=self.rounding, precision=self.precision)
        return UnitConversion(unit=self.unit, multiply=self.multiply, divide=self.divide, rounding=rounding)


# The fields that a model needs, and those that it may have.
_MODEL_FIELDS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "standard": (frozenset({"unit_price"}), frozenset()),
    "graduated": (frozenset({"tiers"}), frozenset()),
    "volume": (frozenset({"tiers"}), frozenset()),
    "package": (frozenset({"package_size", "package_price"}), frozenset({"rounding", "free_units"})),
    "flat_fee": (frozenset({"amount"}), frozenset()),
}
_EVERY_MODEL_FIELD = frozenset().union(*(needed | allowed for needed, allowed in _MODEL_FIELDS.values()))


class _PriceVersion(_Table):
    version: Version
    model: Literal["standard", "graduated", "volume", "package", "flat_fee"]
    effective_from: Instant
    effective_to: Instant | None = None
    unit_price: Amount | None = None
    tiers: Annotated[tuple[_Tier, ...], Field(min_length=1)] | None = None
    package_size: Positive | None = None
    package_price: Amount | None = None
    rounding: PackageRounding = PackageRounding.UP
    free_units: Amount = Decimal(0)
    amount: Amount | None = None
    conversion: _Conversion | None = None
    included_units: Amount = Decimal(0)
    restart_tiers: bool = False

    @model_validator(mode="after")
    def _has_the_fields_of_its_model(self) -> Self:
        needed, allowed = _MODEL_FIELDS[self.model]
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


class PriceTable(_Table):
    """A price as a file spells it; its versions are checked against each other in validation."""

    id: Id
    meter: Id | None = None
    currency: str
    group_by: tuple[Dimension, ...] = ()
    prorate: Prorate = Prorate.SECOND
    billing_mode: BillingMode = BillingMode.INVOICE_ITEMS
    versions: Annotated[tuple[_PriceVersion, ...], Field(min_length=1)]


class _Plan(_Table):
    id: Id
    version: Version = 1
    prices: tuple[Id, ...]

    def entry(self) -> Plan:
        return Plan(plan_id=self.id, version=self.version, prices=self.prices)


class _Client(_Table):
    id: Text
    valid_from: Instant | None = None
    valid_to: Instant | None = None

    def entry(self) -> AccountClient:
        return AccountClient(client_id=self.id, valid_from=self.valid_from, valid_to=self.valid_to)


class _Account(_Table):
    id: Id
    name: Text
    time_zone: str = "UTC"
    currency: str
    clients: tuple[_Client, ...] = ()

    def entry(self) -> Account:
        return Account(
            account_id=self.id,
            name=self.name,
            time_zone=self.time_zone,
            currency=self.currency,
            clients=tuple(client.entry() for client in self.clients),
        )


class SubscriptionTable(_Table):
    """A subscription as a file spells it; its anchor's zone is the account's."""

    id: Id
    account: Id
    plan: Id
    starts_at: Instant
    ends_at: Instant | None = None
    anchor_day: Annotated[int, Field(strict=True, ge=1, le=31)] = 1
    anchor_time: TimeOfDay = time(0)

    def entry(self, zone: str) -> Subscription:
        """Return the entry, anchored in `zone`."""
        return Subscription(
            subscription_id=self.id,
            account_id=self.account,
            plan_id=self.plan,
            starts_at=self.starts_at,
            ends_at=self.ends_at,
            anchor=BillingAnchor(day=self.anchor_day, time_of_day=self.anchor_time, zone=zone),
        )


_LIST_OF: Mapping[Kind, str] = {kind: str(kind) for kind in Kind if kind is not Kind.BILLABLE_RULE}


class Reader:
    """Collect the entries of a catalog and what is wrong with them."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.rule: BillableRule | None = None
        self.meters: list[Meter] = []
        self.prices: list[PriceTable] = []
        self.plans: list[Plan] = []
        self.accounts: list[Account] = []
        self.subscriptions: list[SubscriptionTable] = []
        self.contents: list[EntryContent] = []

    def read_files(self, files: Mapping[str, bytes]) -> None:
        """Read the TOML files of a catalog folder by name; `findings` tells what is missing, strange or wrong."""
        for name in sorted(set(files) - set(FILES.values())):
            self._find(name, "", "", f"is not a catalog file; they are {', '.join(sorted(FILES.values()))}")
        for kind, name in FILES.items():
            if name not in files:
                self._find(name, "", "", "is missing")
                continue
            try:
                tables = tomllib.loads(files[name].decode("utf-8-sig"))
            except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
                self._find(name, "", "", f"is not TOML: {error}")
                continue
            if kind is Kind.BILLABLE_RULE:
                self.read(kind, tables)
                continue
            for strange in sorted(set(tables) - {_LIST_OF[kind]}):
                self._find(name, "", strange, f"is not known here; entries are [[{_LIST_OF[kind]}]]")
            entries = tables.get(_LIST_OF[kind], [])
            if not isinstance(entries, list):
                self._find(name, "", _LIST_OF[kind], f"write entries as [[{_LIST_OF[kind]}]]")
                continue
            for entry in entries:
                self.read(kind, entry)

    def read_contents(self, contents: Iterable[tuple[Kind, str]]) -> None:
        """Read entries from their canonical JSON; the versions of one price come one after the other."""
        versions: dict[str, dict[str, Any]] = {}
        for kind, text in contents:
            table = json.loads(text)
            if kind is Kind.PRICE:
                price = versions.setdefault(table["id"], {**table, "versions": []})
                price["versions"].extend(table["versions"])
            else:
                self.read(kind, table)
        for table in versions.values():
            self.read(Kind.PRICE, table)

    def read(self, kind: Kind, table: Mapping[str, object]) -> None:
        """Read one entry; a wrong one becomes findings."""
        entry_id = str(table.get("id", "")) if isinstance(table, dict) else ""
        try:
            self._take(kind, table)
        except ValidationError as error:
            for problem in error.errors(include_url=False):
                if problem["type"] == "too_short" and problem["input"]:
                    continue  # its items are wrong, not missing, and are reported by themselves
                field = ".".join(str(part + 1 if isinstance(part, int) else part) for part in problem["loc"])
                self._find(FILES[kind], entry_id or "(no id)", field, problem["msg"].removeprefix("Value error, "))
        except MeterInvalidError as error:
            self._find(FILES[kind], entry_id, "", error.what)

    def _take(self, kind: Kind, table: Mapping[str, object]) -> None:
        match kind:
            case Kind.BILLABLE_RULE:
                rule = _BillableRule.model_validate(table)
                self.rule = rule.entry()
                self._keep(kind, "billable", rule.version, rule)
            case Kind.METER:
                meter = _Meter.model_validate(table)
                self.meters.append(meter.entry())
                self._keep(kind, meter.id, meter.version, meter)
            case Kind.PRICE:
                price = PriceTable.model_validate(table)
                self.prices.append(price)
                for version in price.versions:
                    self._keep(kind, price.id, version.version, price.model_copy(update={"versions": (version,)}))
            case Kind.PLAN:
                plan = _Plan.model_validate(table)
                self.plans.append(plan.entry())
                self._keep(kind, plan.id, plan.version, plan)
            case Kind.ACCOUNT:
                account = _Account.model_validate(table)
                self.accounts.append(account.entry())
                self._keep(kind, account.id, 1, account)
            case Kind.SUBSCRIPTION:
                subscription = SubscriptionTable.model_validate(table)
                self.subscriptions.append(subscription)
                self._keep(kind, subscription.id, 1, subscription)

    def _keep(self, kind: Kind, entry_id: str, version: int, table: _Table) -> None:
        # Defaults stay out, so that a field added to the project later changes no digest of an entry that lacks it.
        content = table.model_dump(mode="json", exclude_defaults=True)
        self.contents.append(content_of(kind=kind, entry_id=entry_id, version=version, content=content))

    def _find(self, file: str, entry: str, field: str, message: str) -> None:
        self.findings.append(Finding(file=file, entry=entry, field=field, message=message))
