"""Charge models: what a price version may ask for a quantity, as values. Pure.

Amounts are exact Decimal in major units of the price's currency. Not here: prices and their versions (entries), what a model
makes of a quantity (rating).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import time
from decimal import Decimal
from enum import StrEnum


class Dimension(StrEnum):
    """A column of a usage row by which a price may rate groups apart."""

    ENDPOINT = "endpoint"
    METHOD = "method"
    CLIENT_ID = "client_id"
    NODE = "node"
    INBOUND_TAG = "inbound_tag"


class UsageShape(StrEnum):
    """What of usage a price version rates."""

    QUANTITY = "quantity"
    TRANSACTIONS = "transactions"
    WINDOWS = "windows"
    LEVELS = "levels"
    CELLS = "cells"


class Tiering(StrEnum):
    """How tiers rate a quantity: each part of it in its own tier, or all of it in the one that its total lies in."""

    GRADUATED = "graduated"
    VOLUME = "volume"


class PackageRounding(StrEnum):
    """Whether a package that is begun is charged (up) or only a full one (down)."""

    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """Quantities above the tier before, up to and with `up_to`; None is open. `flat_fee` is due once, on entering.

    With `package_size` the units of the tier are charged by packages that are begun, each at `unit_price`. `maximum` is the
    most that the tier comes to, its flat fee included. In a graduated percentage `unit_price` is the share: 1.5 % is 0.015.
    """

    up_to: Decimal | None
    unit_price: Decimal
    flat_fee: Decimal = Decimal(0)
    package_size: Decimal | None = None
    maximum: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standard:
    """Every unit at one price."""

    unit_price: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Graduated:
    """Each part of the quantity at the price of the tier it lies in.

    With `fee_at_zero` the first tier's flat fee is due without any usage. `prorated` is for levels: every unit is charged for
    the share of the period that it is held, in the tier that its full size lies in; flat fees are not shared.
    """

    tiers: tuple[Tier, ...]
    fee_at_zero: bool = False
    prorated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """The whole quantity at the price of the tier that its total lies in; `fee_at_zero` and `prorated` as of `Graduated`."""

    tiers: tuple[Tier, ...]
    fee_at_zero: bool = False
    prorated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """Whole packages of `size` units at `price` each, after `free_units`."""

    size: Decimal
    price: Decimal
    rounding: PackageRounding = PackageRounding.UP
    free_units: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentage:
    """A share (`rate`: 1.5 % is 0.015) of the amounts that transactions have, and `fixed_fee` for each of them.

    In order of time the first transactions are free: as many as `free_events`, and as long as they come to `free_amount` at
    most (None: without such a limit); of the one that passes `free_amount` the rest is paid. A paid transaction, its fixed fee
    included, comes to `minimum` at least and `maximum` at most.
    """

    rate: Decimal
    fixed_fee: Decimal = Decimal(0)
    free_events: int | None = None
    free_amount: Decimal | None = None
    minimum: Decimal | None = None
    maximum: Decimal | None = None

    @property
    def needs_transactions(self) -> bool:
        """Tell whether the amount of each transaction is needed, not just what they come to."""
        return self.needs_order or self.minimum is not None or self.maximum is not None

    @property
    def needs_order(self) -> bool:
        """Tell whether it matters which transaction came first."""
        return self.free_events is not None or self.free_amount is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class GraduatedPercentage:
    """Each part of an amount at the share of the tier it lies in."""

    tiers: tuple[Tier, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dynamic:
    """The amount is in the events: what they come to, times `multiplier`."""

    multiplier: Decimal = Decimal(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixCell:
    """What a unit costs whose dimensions have these values, in the order of the matrix; None matches any."""

    values: tuple[str | None, ...]
    unit_price: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """A price by the values of dimensions: the first cell that matches; else `unit_price`, where it is not None."""

    dimensions: tuple[Dimension, ...]
    cells: tuple[MatrixCell, ...]
    unit_price: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatFee:
    """One amount for each whole billing period, without a meter; with `per`, for each unit of that quantity of the
    subscription (`seat`), or by `tiers` of it in place of the amount: what it costs at each instant, weighed by time."""

    amount: Decimal = Decimal(0)
    per: str | None = None
    tiers: tuple[Tier, ...] = ()
    tiering: Tiering = Tiering.GRADUATED


@dataclass(frozen=True, slots=True, kw_only=True)
class MinimumSpend:
    """What the other charges of the subscription in the same period come to at least; what is missing is charged."""

    amount: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakHours:
    """The local hours `[first, end)` of an IANA zone in which traffic is at its peak; `first` > `end` is over midnight."""

    hours: tuple[tuple[int, int], ...]
    zone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteredBalance:
    """Traffic paid from a prepaid balance: bytes above the period's included quota, in order of time, each at `unit_price` x
    the multipliers of its region, its line and its hour.

    A multiplier that is missing, or 0, is 1. Money is in major units of the price's currency. An account begins with
    `initial_balance`, unless its subscription says otherwise; below `minimum_balance` it is throttled.
    """

    unit_price: Decimal
    included_quota_bytes: int = 0
    region_multipliers: Mapping[str, Decimal] = field(default_factory=dict, hash=False)
    line_multipliers: Mapping[str, Decimal] = field(default_factory=dict, hash=False)
    peak: PeakHours | None = None
    peak_multiplier: Decimal = Decimal(1)
    off_peak_multiplier: Decimal = Decimal(1)
    initial_balance: Decimal = Decimal(0)
    minimum_balance: Decimal = Decimal(0)


TieredModel = Standard | Graduated | Volume | Package
PriceModel = TieredModel | Percentage | GraduatedPercentage | Dynamic | Matrix | FlatFee | MinimumSpend | MeteredBalance


@dataclass(frozen=True, slots=True, kw_only=True)
class Commitment:
    """What is to be used at least, as an `amount` or as what `units` cost.

    Usage beyond it costs `overage_factor` times as much. With `true_up` what is missing is charged.
    """

    amount: Decimal | None = None
    units: Decimal | None = None
    overage_factor: Decimal = Decimal(1)
    true_up: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class HourTerms:
    """What windows cost that begin in the local hours `[start, end)` of a day; `start` > `end` is over midnight."""

    start: time
    end: time
    model: TieredModel
    commitment: Commitment | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowRating:
    """Rate fixed windows of `seconds` (aligned to UTC) each by itself; tiers and commitments begin anew with each.

    A window belongs to the first of `hours`, in `zone`, in which it begins, else to the version's own model and commitment.
    """

    seconds: int
    zone: str = "UTC"
    hours: tuple[HourTerms, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PercentOff:
    """A share of what is charged is not asked: 15 % is 0.15."""

    rate: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class AmountOff:
    """An amount for each whole billing period is not asked, at most what is charged."""

    amount: Decimal


Discount = PercentOff | AmountOff


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjustments:
    """What comes after the price, in this order: discount, maximum, minimum; amounts are for a whole billing period."""

    discount: Discount | None = None
    maximum: Decimal | None = None
    minimum: Decimal | None = None
