"""What rating gives: lines with their arithmetic, and what cannot be rated, as named errors. Pure.

Quantities and amounts are exact, amounts in major units of the price's currency. Not here: how a line comes about.
"""

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Self

from billing_pipeline.amounts import Exact, exact_text
from billing_pipeline.catalog import FILES, Place
from billing_pipeline.errors import BillingError
from billing_pipeline.periods import Window


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargeInQuestion:
    """The charge that cannot be rated."""

    account_id: str
    subscription_id: str
    period: Window
    group_key: str = ""

    def __str__(self) -> str:
        group = f", group {self.group_key}" if self.group_key else ""
        span = f"{self.period.start.isoformat()} to {self.period.end.isoformat()}"
        return f"account {self.account_id!r}, subscription {self.subscription_id!r}{group}, {span}"


class UnratableError(BillingError):
    """Usage that a price cannot rate. `place` is where the catalog says what does not fit; whose charge it is, the usage behind it,
    and the line in the file, are added by whoever knows them."""

    def __init__(self, what: str, *, bill: str, fix: str, place: Place, charge: ChargeInQuestion | None = None) -> None:
        super().__init__(what, bill=bill, fix=fix)
        self.place = place
        self.charge = charge

    def of_charge(self, *, account_id: str, subscription_id: str, period: Window, group_key: str = "") -> Self:
        """Return the same error with whose charge it is."""
        charge = ChargeInQuestion(
            account_id=account_id, subscription_id=subscription_id, period=period, group_key=group_key
        )
        return self._with(f"{self.what}; {charge}", self.fix, charge)

    def because(self, cause: str, *, fix: str) -> Self:
        """Return the same error with what is behind it, and what to do about that."""
        return self._with(f"{self.what}; {cause}", fix, self.charge)

    def at_line(self, line: int | None) -> Self:
        """Return the same error with its file, and its line there."""
        place = self.place
        version = "" if place.version is None else f"version {place.version}"
        shown = ": ".join(part for part in (FILES[place.kind], place.entry_id, version, place.field) if part)
        shown += "" if line is None else f" (line {line})"
        return self._with(f"{self.what} [{shown}]", self.fix, self.charge)

    def _with(self, what: str, fix: str, charge: ChargeInQuestion | None) -> Self:
        return type(self)(what, bill=self.bill, fix=fix, place=self.place, charge=charge)


class NegativeQuantityError(UnratableError):
    """A quantity below 0 has no price."""


class BeyondLastTierError(UnratableError):
    """A quantity above a bounded last tier has no price."""


class NoPriceVersionError(UnratableError):
    """No version of the price is in force where it is needed."""


class NoMatrixCellError(UnratableError):
    """Usage with these values of its dimensions has no price in the matrix."""


class UsageDetailMissingError(UnratableError):
    """A price rates single transactions, windows, levels or cells, and the usage says only what they come to."""


class LineKind(StrEnum):
    """What a line is. An `overage` is what usage beyond a commitment costs on top of its price, a `commitment` what is missing
    to one; a `minimum` is missing after discounts."""

    USAGE = "usage"
    OVERAGE = "overage"
    COMMITMENT = "commitment"
    DISCOUNT = "discount"
    MAXIMUM = "maximum"
    MINIMUM = "minimum"


@dataclass(frozen=True, slots=True, kw_only=True)
class RatedLine:
    """One step of the arithmetic: quantity x unit_price + flat_fee - less = amount.

    `tier` counts from 1; None for prices without tiers. A package line counts packages, a flat fee the share of a period.
    `multiplier` is the one that `unit_price` was multiplied by already; None for prices without multipliers. `label` tells
    which coupon, cell, hours or kind of transactions the line is about, `windows` how many windows it adds up. `less` is what
    lines before come to, of which a maximum or minimum is the rest; of a discount (then below 0) what of it finds nothing to
    be taken from.
    """

    version: int
    tier: int | None
    quantity: Exact
    unit: str
    unit_price: Decimal
    flat_fee: Decimal
    amount: Exact
    multiplier: Decimal | None = None
    kind: LineKind = LineKind.USAGE
    label: str | None = None
    windows: int | None = None
    less: Exact | None = None

    @property
    def is_plain(self) -> bool:
        """Tell whether it has nothing but the fields that every line has."""
        if self.kind is not LineKind.USAGE or self.multiplier is not None or self.label is not None:
            return False
        return self.windows is None and self.less is None

    def as_text(self) -> dict[str, str | int | None]:
        """Return the line as it is kept and shown: exact numbers as text; what most lines do not have, only where it is."""
        text: dict[str, str | int | None] = {
            "version": self.version,
            "tier": self.tier,
            "quantity": exact_text(self.quantity),
            "unit": self.unit,
            "unit_price": exact_text(self.unit_price),
            "flat_fee": exact_text(self.flat_fee),
            "amount": exact_text(self.amount),
        }
        if self.multiplier is not None:
            text["multiplier"] = exact_text(self.multiplier)
        if self.kind is not LineKind.USAGE:
            text["kind"] = str(self.kind)
        if self.label is not None:
            text["label"] = self.label
        if self.windows is not None:
            text["windows"] = self.windows
        if self.less is not None:
            text["less"] = exact_text(self.less)
        return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Rated:
    """The lines of one charge; `quantity` before included units, in `unit`; `exact` is the sum of the lines."""

    lines: tuple[RatedLine, ...]
    quantity: Exact
    unit: str
    exact: Exact
