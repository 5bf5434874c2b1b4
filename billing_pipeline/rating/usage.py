"""What rating takes: the usage of one period and group, each price version's part for itself. Pure values.

Quantities are exact and in the meter's unit. Not here: where they come from (meters, charge_usage).
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from billing_pipeline.amounts import Exact
from billing_pipeline.catalog import PriceVersion

_ZERO, _ONE = Decimal(0), Decimal(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transactions:
    """The amounts of single transactions as (amount, how many), in order of time where the price asks for it."""

    counts: tuple[tuple[Exact, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """What was used in each window, as (start in UTC, quantity), ascending; a window without usage may be among them."""

    quantities: tuple[tuple[datetime, Exact], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelStep:
    """A level goes from `before` to `after`, and counts from there on for `share` of the billing period.

    A level that is there when the period begins is a step from 0 with the share of all of it.
    """

    before: Exact
    after: Exact
    share: Exact


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """The steps of a level in order of time. Levels may be below 0, and are charged as 0 then."""

    steps: tuple[LevelStep, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """What was used by the values of a matrix's dimensions, in their order."""

    quantities: tuple[tuple[tuple[str, ...], Exact], ...]


Detail = Transactions | Windows | Levels | Cells


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionUsage:
    """What was used while `version` was in force, in the meter's unit. A share of a period may not end as a decimal.

    `share` is the part of the whole billing period in which the version was in force, as the price prorates: of amounts that
    are for a whole period it counts. `events` is the number of records behind the quantity, where the price charges for
    each. `detail` is what the quantity is made of, where the price does not rate the quantity alone. `before` is what was used
    since the subscription began and before the period, where included units are used up once.
    """

    version: PriceVersion
    quantity: Exact
    share: Exact = _ONE
    events: int | None = None
    detail: Detail | None = None
    before: Exact = _ZERO


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceUsage:
    """What was used at one multiplier while `version` was in force, in the meter's unit; `included` of it by the quota."""

    version: PriceVersion
    multiplier: Decimal
    quantity: Exact
    included: Exact
