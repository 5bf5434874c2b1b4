"""What rating takes: the usage of one period and group, each price version's part for itself. Pure values."""

from dataclasses import dataclass
from decimal import Decimal

from billing_pipeline.amounts import Exact
from billing_pipeline.catalog import PriceVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionUsage:
    """What was used while `version` was in force, in the meter's unit. A share of a period may not end as a decimal."""

    version: PriceVersion
    quantity: Exact


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceUsage:
    """What was used at one multiplier while `version` was in force, in the meter's unit; `included` of it by the quota."""

    version: PriceVersion
    multiplier: Decimal
    quantity: Exact
    included: Exact
