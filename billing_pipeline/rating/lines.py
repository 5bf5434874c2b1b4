"""What rating gives: lines with their arithmetic, and what cannot be rated, as named errors. Pure.

Quantities and amounts are exact, amounts in major units of the price's currency. Not here: how a line comes about.
"""

from dataclasses import dataclass
from decimal import Decimal

from billing_pipeline.amounts import Exact, exact_text
from billing_pipeline.errors import BillingError


class NegativeQuantityError(BillingError):
    """A quantity below 0 has no price."""


class BeyondLastTierError(BillingError):
    """A quantity above a bounded last tier has no price."""


class NoPriceVersionError(BillingError):
    """No version of the price is in force where it is needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RatedLine:
    """One step of the arithmetic: quantity x unit_price + flat_fee = amount.

    `tier` counts from 1; None for prices without tiers. A package line counts packages, a flat fee the share of a period.
    `multiplier` is the one that `unit_price` was multiplied by already; None for prices without multipliers.
    """

    version: int
    tier: int | None
    quantity: Exact
    unit: str
    unit_price: Decimal
    flat_fee: Decimal
    amount: Exact
    multiplier: Decimal | None = None

    def as_text(self) -> dict[str, str | int | None]:
        """Return the line as it is kept and shown: exact numbers as text; a multiplier where there is one."""
        text: dict[str, str | int | None] = {
            "version": self.version,
            "tier": self.tier,
            "quantity": exact_text(self.quantity),
            "unit": self.unit,
            "unit_price": exact_text(self.unit_price),
            "flat_fee": exact_text(self.flat_fee),
            "amount": exact_text(self.amount),
        }
        return text if self.multiplier is None else {**text, "multiplier": exact_text(self.multiplier)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rated:
    """The lines of one charge; `quantity` before included units, in `unit`; `exact` is the sum of the lines."""

    lines: tuple[RatedLine, ...]
    quantity: Exact
    unit: str
    exact: Exact
