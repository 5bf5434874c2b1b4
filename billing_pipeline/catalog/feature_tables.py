"""The shapes of features, entitlements and recurring credits in catalog files. Pure.

Not here: what they mean together with plans and accounts (feature_findings).
"""

from collections.abc import Mapping
from datetime import time
from decimal import Decimal
from typing import Annotated, Self

from pydantic import Field, model_validator

from billing_pipeline.amounts import to_money
from billing_pipeline.catalog.features import (
    DEFAULT_THRESHOLDS,
    Beyond,
    Entitlement,
    Feature,
    FeatureType,
    GivenTo,
    RecurringCredit,
    Reset,
)
from billing_pipeline.catalog.fields import Amount, Id, Instant, Positive, Table, Text, TimeOfDay
from billing_pipeline.periods import BillingAnchor


class FeatureTable(Table):
    """A feature as a file spells it: what an account may use."""

    id: Id
    """The name of the feature, by which applications ask for it."""
    name: Text
    """What it is, for readers."""
    type: FeatureType
    """boolean (on or off), static (a text) or metered (a limit on a meter)."""
    meter: Id | None = None
    """Of a metered feature: the meter that is counted."""
    reset: Reset = Reset.PERIOD
    """Of a metered feature: when the count begins anew: with each period, each UTC day, or never."""
    thresholds: tuple[Positive, ...] = DEFAULT_THRESHOLDS
    """Of a metered feature: percents of the limit at which an alert is told, each once for its window."""

    @model_validator(mode="after")
    def _has_the_fields_of_its_type(self) -> Self:
        if (self.type is FeatureType.METERED) != (self.meter is not None):
            raise ValueError("a metered feature needs a meter, and no other has one")
        if self.type is not FeatureType.METERED and self.model_fields_set & {"reset", "thresholds"}:
            raise ValueError("reset and thresholds go with metered features alone")
        return self

    def entry(self) -> Feature:
        """Return the entry."""
        return Feature(
            feature_id=self.id,
            name=self.name,
            feature_type=self.type,
            meter_id=self.meter,
            reset=self.reset,
            thresholds=self.thresholds,
        )


class EntitlementTable(Table):
    """An entitlement as a file spells it: what a plan, a subscription or an account is given of a feature."""

    id: Id
    """The name of the entitlement; an id is used once."""
    feature: Id
    """The feature that it gives."""
    plan: Id | None = None
    """Give it to every subscription on this plan. Write one of plan, subscription, account."""
    subscription: Id | None = None
    """Give it to this subscription. Write one of plan, subscription, account."""
    account: Id | None = None
    """Give it to this account. Write one of plan, subscription, account."""
    limit: Amount | None = None
    """How much of a metered feature, in the meter's unit; left out: unlimited. Limits of several sources add up."""
    beyond: Beyond = Beyond.DENY
    """What happens beyond the limit: deny (hard), or allow (soft)."""
    value: Text | None = None
    """Of a static feature: its text."""
    enabled: bool = True
    """false gives nothing."""
    valid_from: Instant | None = None
    """The instant from which it is given; left out: always."""
    valid_to: Instant | None = None
    """The instant from which it is given no more; left out: open."""

    @model_validator(mode="after")
    def _is_given_to_one(self) -> Self:
        if sum(one is not None for one in self._receivers().values()) != 1:
            raise ValueError("an entitlement is given to one of plan, subscription, account")
        if self.valid_from and self.valid_to and self.valid_to <= self.valid_from:
            raise ValueError("valid_to is not after valid_from; no instant is left for it")
        return self

    def _receivers(self) -> Mapping[GivenTo, str | None]:
        return {GivenTo.PLAN: self.plan, GivenTo.SUBSCRIPTION: self.subscription, GivenTo.ACCOUNT: self.account}

    def entry(self) -> Entitlement:
        """Return the entry."""
        ((given_to, given_to_id),) = [(kind, one) for kind, one in self._receivers().items() if one is not None]
        return Entitlement(
            entitlement_id=self.id,
            feature_id=self.feature,
            given_to=given_to,
            given_to_id=given_to_id,
            limit=self.limit,
            beyond=self.beyond,
            value=self.value,
            enabled=self.enabled,
            valid_from=self.valid_from,
            valid_to=self.valid_to,
        )


class RecurringCreditTable(Table):
    """A recurring credit as a file spells it; its currency and its anchor's zone are the account's."""

    id: Id
    """The name of the recurring credit."""
    account: Id
    """The account that is granted it, in its currency."""
    amount: Positive
    """How much is granted in each period, in major units."""
    priority: Annotated[int, Field(strict=True, ge=1, le=1000)] = 1
    """1 is spent first; of one priority what expires first."""
    starts_at: Instant
    """The first instant from which it is granted."""
    ends_at: Instant | None = None
    """The instant from which it is granted no more; left out: open."""
    anchor_day: Annotated[int, Field(strict=True, ge=1, le=31)] = 1
    """The day of the month on which it is granted anew."""
    anchor_time: TimeOfDay = time(0)
    """The local time of day at which it is granted anew."""
    rolls_over: bool = False
    """Whether what is left stays when the next grant comes; else it expires then."""

    def entry(self, *, zone: str, currency: str) -> RecurringCredit:
        """Return the entry, in the currency and zone of its account."""
        return RecurringCredit(
            credit_id=self.id,
            account_id=self.account,
            amount=to_money(Decimal(self.amount), currency),
            priority=self.priority,
            anchor=BillingAnchor(day=self.anchor_day, time_of_day=self.anchor_time, zone=zone),
            starts_at=self.starts_at,
            ends_at=self.ends_at,
            rolls_over=self.rolls_over,
        )
