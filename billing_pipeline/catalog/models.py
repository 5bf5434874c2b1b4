"""Charge models: what a price version may ask for a quantity, as values. Pure.

Amounts are exact Decimal in major units of the price's currency. Not here: prices and their versions (entries), what a model
makes of a quantity (rating).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum


class PackageRounding(StrEnum):
    """Whether a package that is begun is charged (up) or only a full one (down)."""

    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """Quantities above the tier before, up to and with `up_to`; None is open. `flat_fee` is due once, on entering."""

    up_to: Decimal | None
    unit_price: Decimal
    flat_fee: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standard:
    """Every unit at one price."""

    unit_price: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Graduated:
    """Each part of the quantity at the price of the tier it lies in."""

    tiers: tuple[Tier, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """The whole quantity at the price of the tier that its total lies in."""

    tiers: tuple[Tier, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """Whole packages of `size` units at `price` each, after `free_units`."""

    size: Decimal
    price: Decimal
    rounding: PackageRounding = PackageRounding.UP
    free_units: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatFee:
    """One amount for each whole billing period, without a meter; with `per`, for each unit of that quantity of the
    subscription (`seat`)."""

    amount: Decimal
    per: str | None = None


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


PriceModel = Standard | Graduated | Volume | Package | FlatFee | MeteredBalance
