"""Features, entitlements and recurring credits as the catalog says them. Pure values.

A feature is boolean (on or off), static (a text such as a support level) or metered (a limit on a meter's quantity, in the
meter's unit). Not here: decisions and overage (entitlements), what pays for what (credits), shapes of files (feature_tables).
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from billing_pipeline.amounts import Money
from billing_pipeline.periods import BillingAnchor

DEFAULT_THRESHOLDS = (Decimal(50), Decimal(80), Decimal(100))


class FeatureType(StrEnum):
    """What a feature answers: yes or no, a text, or how much."""

    BOOLEAN = "boolean"
    STATIC = "static"
    METERED = "metered"


class Reset(StrEnum):
    """When the count of a metered feature begins anew: with the billing period, the UTC day, or never."""

    PERIOD = "period"
    DAY = "day"
    NEVER = "never"


class Beyond(StrEnum):
    """What happens at the limit: a hard one denies, a soft one allows and bills what lies beyond."""

    DENY = "deny"
    ALLOW = "allow"


class GivenTo(StrEnum):
    """Who an entitlement is given to. Of static ones the narrowest counts: account before subscription before plan."""

    PLAN = "plan"
    SUBSCRIPTION = "subscription"
    ACCOUNT = "account"


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """Something that an account may use. `meter_id` and `reset` go with metered ones; `thresholds` are percents of a limit."""

    feature_id: str
    name: str
    feature_type: FeatureType
    meter_id: str | None = None
    reset: Reset = Reset.PERIOD
    thresholds: tuple[Decimal, ...] = DEFAULT_THRESHOLDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Entitlement:
    """What one plan, subscription or account is given of one feature, valid `[valid_from, valid_to)`; None is open on that side.

    Metered: `limit` in the meter's unit, None is unlimited. Static: `value`. Boolean: `enabled`.
    """

    entitlement_id: str
    feature_id: str
    given_to: GivenTo
    given_to_id: str
    limit: Decimal | None = None
    beyond: Beyond = Beyond.DENY
    value: str | None = None
    enabled: bool = True
    valid_from: datetime | None = None
    valid_to: datetime | None = None

    def holds_at(self, instant: datetime) -> bool:
        """Tell whether it is valid at `instant`."""
        return (self.valid_from is None or self.valid_from <= instant) and (
            self.valid_to is None or instant < self.valid_to
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurringCredit:
    """Credit that an account is granted with each period of `anchor`, from `starts_at` until `ends_at` (exclusive; None is open).

    `priority` 1 is spent first. What is left expires with its period, unless it `rolls_over`.
    """

    credit_id: str
    account_id: str
    amount: Money
    priority: int
    anchor: BillingAnchor
    starts_at: datetime
    ends_at: datetime | None = None
    rolls_over: bool = False
