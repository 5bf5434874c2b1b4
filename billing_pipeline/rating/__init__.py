"""Rate usage: (price, usage by price version) -> lines with their arithmetic and an exact total. Pure.

`rate` is the one function of every bill: preview, dashboard, invoice, correction and backtest. Order: unit conversion -> included
units -> price -> commitment -> discount -> maximum -> minimum. Quantities come in the meter's unit, amounts go out in major units
of the price's currency, exact: nothing is rounded here (amounts.to_money rounds, once per charge). Not here: choosing the usage of
a period (charge_usage), identity and booking (charges). See docs/adr/0003-money-and-rounding.md, docs/pricing.md.
"""

from billing_pipeline.rating.adjustments import adjusted, bounded, discounted, with_coupons
from billing_pipeline.rating.balances import rate_balance
from billing_pipeline.rating.flat_fees import rate_flat_fee, versions_in
from billing_pipeline.rating.lines import (
    BeyondLastTierError,
    LineKind,
    NegativeQuantityError,
    NoMatrixCellError,
    NoPriceVersionError,
    Rated,
    RatedLine,
    UnratableError,
    UsageDetailMissingError,
)
from billing_pipeline.rating.metered import rate, rate_before_coupons
from billing_pipeline.rating.minimums import rate_minimum
from billing_pipeline.rating.shares import version_shares
from billing_pipeline.rating.sharing import LineShare, line_shares
from billing_pipeline.rating.usage import (
    BalanceUsage,
    Cells,
    Detail,
    Levels,
    LevelStep,
    Transactions,
    VersionUsage,
    Windows,
)
from billing_pipeline.rating.windows import RatedWindow, rate_each_window, window_start, windows_in

__all__ = [
    "BalanceUsage",
    "BeyondLastTierError",
    "Cells",
    "Detail",
    "LevelStep",
    "Levels",
    "LineKind",
    "LineShare",
    "NegativeQuantityError",
    "NoMatrixCellError",
    "NoPriceVersionError",
    "Rated",
    "RatedLine",
    "RatedWindow",
    "Transactions",
    "UnratableError",
    "UsageDetailMissingError",
    "VersionUsage",
    "Windows",
    "adjusted",
    "bounded",
    "discounted",
    "line_shares",
    "rate",
    "rate_balance",
    "rate_before_coupons",
    "rate_each_window",
    "rate_flat_fee",
    "rate_minimum",
    "version_shares",
    "versions_in",
    "window_start",
    "windows_in",
    "with_coupons",
]
