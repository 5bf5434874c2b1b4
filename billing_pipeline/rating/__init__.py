"""Rate usage: (price, quantities by price version) -> lines with their arithmetic and an exact total. Pure.

Order: unit conversion -> included units -> price. Quantities come in the meter's unit, amounts go out in major units of
the price's currency, exact: nothing is rounded here (amounts.to_money rounds, once per charge). Not here: choosing the
usage of a period (charge_store), identity and booking (charges). See docs/adr/0003-money-and-rounding.md.
"""

from billing_pipeline.rating.balances import rate_balance
from billing_pipeline.rating.flat_fees import rate_flat_fee, versions_in
from billing_pipeline.rating.lines import (
    BeyondLastTierError,
    NegativeQuantityError,
    NoPriceVersionError,
    Rated,
    RatedLine,
)
from billing_pipeline.rating.metered import rate
from billing_pipeline.rating.usage import BalanceUsage, VersionUsage

__all__ = [
    "BalanceUsage",
    "BeyondLastTierError",
    "NegativeQuantityError",
    "NoPriceVersionError",
    "Rated",
    "RatedLine",
    "VersionUsage",
    "rate",
    "rate_balance",
    "rate_flat_fee",
    "versions_in",
]
